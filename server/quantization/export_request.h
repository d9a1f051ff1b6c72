/*
 * Purpose: the body of POST /v1/exports, checked and typed; stored exports are read back through
 *          the same door.
 * Owns:    phi_export_request owns its JSON from parse to done.
 * Threads: [any]; plain data.
 * Errors:  PHI_E_INVALID or PHI_E_UNSUPPORTED with `param` set: what is wrong and what is right.
 * Limits:  PHI_LIMIT_METADATA_*.
 */
#ifndef PHI_SERVER_QUANTIZATION_EXPORT_REQUEST_H
#define PHI_SERVER_QUANTIZATION_EXPORT_REQUEST_H

#include "base/status.h"
#include "engine/engine.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct phi_export_request {
    const char *model; /* view into `normal` */
    bool gguf;         /* the model's own file; else: */
    phi_convert_format format;
    phi_onnx_provider provider; /* of "onnx" */
    uint32_t context_length;    /* of "qnn"; 0: what it takes by itself */
    bool keep;                  /* the model's own precision; else: */
    phi_precision precision;
    uint32_t group_size;
    bool symmetric;
    bool lossless;  /* fail where the format cannot hold the model as it is */
    json_t *normal; /* the request with its defaults, as it is stored and shown */
} phi_export_request;

phi_status phi_export_request_parse(const json_t *body, phi_export_request *out_request,
                                    phi_err *err) PHI_MUST_CHECK;
void phi_export_request_done(phi_export_request *request);
const char *phi_export_format_name(const phi_export_request *request);
/* Whether the format has a place for a model of the architecture ("phi3"), of the precision `label`
 * ("int4", "q4_k_m") and with a context of n_ctx. */
phi_status phi_export_check_model(const phi_export_request *request, const char *architecture,
                                  const char *label, uint32_t n_ctx, phi_err *err) PHI_MUST_CHECK;

#endif
