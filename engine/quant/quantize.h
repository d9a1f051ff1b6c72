/*
 * Purpose: a checkpoint to a GGUF of another precision, streaming, with a measured quality report.
 * Owns:    nothing that outlives the call.
 * Threads: [job]; arithmetic runs on the team at background priority.
 * Errors:  the tensor, file or option is named; PHI_E_CANCELLED when the progress callback says
 *          stop. Nothing is visible at `out_path` unless the call succeeds; it may not be the
 * source. Limits:  resident memory is bounded by the largest tensor's chunk and two layers, not by
 * the model.
 */
#ifndef PHI_ENGINE_QUANT_QUANTIZE_H
#define PHI_ENGINE_QUANT_QUANTIZE_H

#include "base/status.h"
#include "engine/kernels/matmul.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum phi_precision {
    PHI_PRECISION_INT4,
    PHI_PRECISION_INT8,
    PHI_PRECISION_FP16,
    PHI_PRECISION_FP32,
    PHI_PRECISION_COUNT,
} phi_precision;

const char *phi_precision_name(phi_precision precision); /* "int4" */
bool phi_precision_parse(const char *name, phi_precision *out_precision);

/* GGUF's types and llama.cpp's mixes by name, "q4_k_m" or "Q4_K_M": the name in small letters, or
 * NULL for one that is not known; and all of them as a list for messages. */
const char *phi_quantize_type_find(const char *name);
const char *phi_quantize_type_names(void);

typedef enum phi_quantize_stage {
    PHI_STAGE_READING,
    PHI_STAGE_QUANTIZING,
    PHI_STAGE_WRITING,
    PHI_STAGE_EVALUATING,
} phi_quantize_stage;

const char *phi_quantize_stage_name(phi_quantize_stage stage); /* "quantizing" */

typedef struct phi_quantize_progress {
    phi_quantize_stage stage;
    double fraction; /* of the whole call, 0..1, never falling */
    uint64_t bytes_done;
    uint64_t bytes_total;
    const char *tensor; /* canonical name, or "" */
} phi_quantize_progress;

/* Called at least once a second while there is work; false stops the call. */
typedef bool (*phi_quantize_progress_fn)(void *user, const phi_quantize_progress *progress);

typedef struct phi_quantize_options {
    const char *source;   /* what phi_checkpoint_open takes */
    const char *out_path; /* the GGUF to write */
    const char *name;     /* general.name; NULL: the source's */
    bool keep;            /* each matrix as it is, where a GGUF type holds it (kept.h); else: */
    phi_precision precision;
    const char *type;      /* a GGUF type or mix ("q4_k_m"), in the place of a precision; or NULL */
    uint32_t group_size;   /* INT4: 32, 64 or 128; others ignore it (INT8 is 32) */
    bool symmetric;        /* INT4: codes around 8 (Q4_0), else with offset (Q4_1) */
    bool measure;          /* make the quality report */
    const char *eval_text; /* what quality is measured on; NULL: a built-in text */
    size_t eval_text_bytes;
    uint32_t eval_tokens_max;          /* 0: 2048 */
    phi_quantize_progress_fn progress; /* may be NULL */
    void *progress_user;
} phi_quantize_options;

typedef struct phi_quality {
    bool measured;
    uint32_t eval_tokens; /* predictions compared */
    double perplexity_source;
    double perplexity_result;
    double kl_mean; /* KL(source || result) per predicted token, nats */
    double kl_p99;
    double top1_agreement;      /* share of tokens whose most likely next token is the same */
    uint32_t tensors;           /* tensors written */
    uint32_t tensors_quantized; /* of these, those of fewer bits than the source */
    uint32_t matrices;
    uint32_t exact;        /* of the matrices, those whose values are the source's own */
    uint32_t rescaled;     /* those that keep their codes, with scales rounded to fp16 */
    uint32_t coded;        /* those that were coded anew; the rest are rounded to 16 bits */
    double weight_rmse;    /* root mean square error over all quantized weights (kept: over
                              those that are not exact), relative to their root mean square */
    char worst_tensor[64]; /* largest relative error of one tensor, and the error */
    double worst_rmse;
    const char *matrix_type;    /* GGUF type of most of the layers' matrices: "Q4_0" */
    const char *embedding_type; /* of the embedding and of the head, */
    const char *head_type;      /* which may be kept at a higher precision */
    uint64_t source_bytes;
    uint64_t result_bytes;
    double seconds;
} phi_quality;

phi_status phi_quantize(const phi_compute *compute, const phi_quantize_options *options,
                        phi_quality *out_quality, phi_err *err) PHI_MUST_CHECK;

#endif
