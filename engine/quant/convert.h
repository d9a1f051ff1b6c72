/*
 * Purpose: a checkpoint of any format as a folder of another ecosystem: code for code where that
 *          can hold it, requantized where not, and told which.
 * Owns:    nothing that outlives the call.
 * Threads: [job]; arithmetic runs on the team at background priority.
 * Errors:  the tensor, file or option is named; PHI_E_CANCELLED when the progress callback says
 *          stop. Nothing is visible at `out_dir` unless the call succeeds; one that holds anything
 *          is refused.
 * Limits:  memory for some rows of one tensor.
 *
 * Without a precision each matrix keeps its own. A matrix of codes goes over exactly when the
 * format has its width, its groups (or smaller ones, which repeat the scale) and its zero points.
 * ONNX, GPTQ and compressed-tensors store them as codes, so an offset that is no whole number of
 * scales (Q4_1, the K-quants, MLX) has none, and such a matrix is coded anew from its values. In
 * OpenVINO it gets zero points of fp32; MLX stores offsets. GPTQ and compressed-tensors have the
 * layers' matrices in codes, all alike; the embedding and the head are floats there. QNN's graphs
 * have one scale for each row.
 *
 * A GGUF's tokenizer, template and configuration become the files that a folder has them in.
 */
#ifndef PHI_ENGINE_QUANT_CONVERT_H
#define PHI_ENGINE_QUANT_CONVERT_H

#include "base/status.h"
#include "engine/formats/onnx_write.h"
#include "engine/kernels/matmul.h"
#include "engine/quant/quantize.h"

#include <stdbool.h>
#include <stdint.h>

/* A group is a row, as -1 says in the files of these ecosystems. */
#define PHI_GROUP_ROW UINT32_MAX

typedef enum phi_convert_format {
    PHI_CONVERT_ONNX,
    PHI_CONVERT_OPENVINO,
    PHI_CONVERT_QNN,         /* int8, values in ranges that are measured on a text */
    PHI_CONVERT_SAFETENSORS, /* floats */
    PHI_CONVERT_MLX,
    PHI_CONVERT_GPTQ,
    PHI_CONVERT_COMPRESSED,
    PHI_CONVERT_FORMAT_COUNT,
} phi_convert_format;

const char *phi_convert_format_name(phi_convert_format format); /* "onnx" */
bool phi_convert_format_parse(const char *name, phi_convert_format *out_format);

typedef struct phi_convert_options {
    const char *source;  /* what phi_checkpoint_open takes */
    const char *out_dir; /* made, or empty */
    phi_convert_format format;
    phi_onnx_provider provider; /* ONNX: who runs it; CUDA computes in fp16 */
    bool keep;                  /* each matrix's own precision; else: */
    phi_precision precision;    /* INT4: embedding and head get 8 bits by 32, or by row */
    uint32_t group_size;        /* INT4, INT8: 16 to 256, a power of two; or PHI_GROUP_ROW */
    bool symmetric;             /* INT4, INT8: without zero points */
    uint32_t context_length;    /* QNN: tokens that the graphs are made for; 0: up to 4096 */
    bool lossless;              /* fail rather than code a matrix anew or round it */
    bool (*progress)(void *user, uint64_t bytes_done, uint64_t bytes_total); /* may be NULL */
    void *progress_user;
} phi_convert_options;

typedef struct phi_convert_report {
    uint32_t matrices;
    uint32_t exact;       /* of these, those whose values are the source's own */
    uint32_t rescaled;    /* those that keep their codes, with scales rounded to fp16 */
    uint32_t requantized; /* those that were coded anew; the rest are rounded to 16 bits */
    char first_requantized[64];
    const char *requantized_why; /* of that one: "it has zero points, ..."; static; or NULL */
    double weight_rmse; /* of those rescaled or coded anew, relative to their root mean square */
    char worst_tensor[64];
    double worst_rmse;
    double seconds;
} phi_convert_report;

/* Whether a model of one precision has a place in the format at all, and what has. */
phi_status phi_convert_holds(phi_convert_format format, phi_precision precision,
                             phi_err *err) PHI_MUST_CHECK;
/* Whether the format is written for models of the architecture, and what is; `provider` is ONNX's.
 */
phi_status phi_convert_takes(phi_convert_format format, phi_onnx_provider provider, phi_arch arch,
                             phi_err *err) PHI_MUST_CHECK;
/* Whether it can be made for context_length tokens, 0 for as many as it takes by itself, of a model
 * with a context of n_ctx (0: not known yet); the error names "context_length". */
phi_status phi_convert_takes_context(phi_convert_format format, uint32_t context_length,
                                     uint32_t n_ctx, phi_err *err) PHI_MUST_CHECK;
/* The options alone, before any file is opened. */
phi_status phi_convert_check_options(const phi_convert_options *options,
                                     phi_err *err) PHI_MUST_CHECK;
phi_status phi_convert(const phi_compute *compute, const phi_convert_options *options,
                       phi_convert_report *out_report, phi_err *err) PHI_MUST_CHECK;

#endif
