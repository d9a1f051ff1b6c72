/*
 * Purpose: the body of POST /v1/quantization/jobs, checked and typed; stored jobs are read back
 *          through the same door.
 * Owns:    phi_job_request owns its strings and JSON from parse to done.
 * Threads: [any]; plain data.
 * Errors:  PHI_E_INVALID or PHI_E_UNSUPPORTED with `param` set: what is wrong and what is right.
 * Limits:  PHI_LIMIT_JOB_FILES, PHI_LIMIT_METADATA_*.
 */
#ifndef PHI_SERVER_QUANTIZATION_JOB_REQUEST_H
#define PHI_SERVER_QUANTIZATION_JOB_REQUEST_H

#include "base/status.h"
#include "engine/engine.h"
#include "server/store/store.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum phi_job_source_kind {
    PHI_JOB_SOURCE_FILES, /* uploaded files by id */
    PHI_JOB_SOURCE_MODEL, /* what an earlier job of that name read */
    PHI_JOB_SOURCE_PATH,  /* a directory or GGUF on this machine */
} phi_job_source_kind;

typedef struct phi_job_request {
    char model[PHI_LIMIT_NAME_BYTES];
    phi_precision precision;
    const char *type; /* a GGUF type or mix in its place ("q4_k_m"), static; or NULL */
    phi_job_source_kind source;
    char (*file_ids)[PHI_STORE_ID_BYTES]; /* FILES */
    size_t n_file_ids;
    char *source_name; /* MODEL, PATH */
    uint32_t group_size;
    bool symmetric;
    phi_convert_format formats[PHI_CONVERT_FORMAT_COUNT]; /* beside GGUF, each once */
    size_t format_at[PHI_CONVERT_FORMAT_COUNT];           /* of each, in the body's list */
    size_t n_formats;
    phi_onnx_provider provider;            /* of "onnx" */
    uint32_t context_length;               /* of "qnn"; 0: what it takes by itself */
    double kl_divergence_max;              /* negative: no limit */
    double perplexity_ratio_max;           /* result / source; negative: no limit */
    char eval_file_id[PHI_STORE_ID_BYTES]; /* "": the engine's own text */
    json_t *normal; /* the request with its defaults, as it is stored and shown */
} phi_job_request;

phi_status phi_job_request_parse(const json_t *body, phi_job_request *out_request,
                                 phi_err *err) PHI_MUST_CHECK;
void phi_job_request_done(phi_job_request *request);
/* What the model is called beside its name: "int4", "q4_k_m". */
const char *phi_job_request_label(const phi_job_request *request);

/* Whether all formats are written for such a model: its architecture, and its context, 0 where that
 * is not known. */
phi_status phi_job_request_check_model(const phi_job_request *request, phi_arch arch,
                                       uint32_t n_ctx, phi_err *err) PHI_MUST_CHECK;
/* Names the body's field of the request's format `index` in an error. */
void phi_job_request_blame(const phi_job_request *request, size_t index, phi_err *err);

/* The field `provider` of a body: who runs its ONNX folder; refused where it has none. */
phi_status phi_provider_parse(const json_t *body, bool has_onnx, phi_onnx_provider *out_provider,
                              phi_err *err) PHI_MUST_CHECK;
/* The field `context_length` of a body: what its QNN folder is made for, 0 where it does not say;
 * refused where it has none. */
phi_status phi_context_length_parse(const json_t *body, bool has_qnn, uint32_t *out_length,
                                    phi_err *err) PHI_MUST_CHECK;
/* The field `metadata` of a body. */
phi_status phi_metadata_check(const json_t *body, phi_err *err) PHI_MUST_CHECK;

#endif
