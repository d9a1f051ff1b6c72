/*
 * Purpose: genai_config.json, and the description that it and the graph together give.
 * Owns:    nothing.
 * Threads: any.
 * Errors:  file and field are named; a model type that no decoder here has is PHI_E_UNSUPPORTED.
 * Limits:  PHI_LIMIT_CONFIG_JSON_BYTES and those of description.h.
 *
 * Layout: onnxruntime-genai's model builder. Sizes are the graph's; what the file says of them has
 * to agree.
 */
#ifndef PHI_ENGINE_FORMATS_ONNX_CONFIG_H
#define PHI_ENGINE_FORMATS_ONNX_CONFIG_H

#include "base/status.h"
#include "engine/formats/description.h"
#include "engine/formats/onnx_decoder.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct phi_onnx_config {
    bool states_arch; /* "decoder" is any */
    phi_arch arch;
    char filename[PHI_LIMIT_NAME_BYTES];      /* of the model, a plain file name */
    char logits[PHI_LIMIT_TENSOR_NAME_BYTES]; /* of that output */
    phi_description stated;                   /* n_ctx, ids, and sizes; 0 where not stated */
    uint32_t long_from; /* row of the rotary tables that those for long texts begin at, or 0 */
} phi_onnx_config;

phi_status phi_onnx_config_read(const char *dir, phi_onnx_config *out_config,
                                phi_err *err) PHI_MUST_CHECK;
/* `label` names the model's file. */
phi_status phi_onnx_describe(const char *dir, const char *label, const phi_onnx_config *config,
                             const phi_onnx_decoder *decoder, phi_description *out_description,
                             phi_err *err) PHI_MUST_CHECK;

/* onnx_rope.c: makes two tables of one that holds both, from row `long_from` on those for long
 * texts; 0: there are none, or an If chooses. */
phi_status phi_onnx_rope_split(phi_onnx_model *model, uint32_t long_from, phi_onnx_decoder *decoder,
                               phi_err *err) PHI_MUST_CHECK;
/* Fills the rotary fields of a description whose other fields are filled. */
phi_status phi_onnx_rope_read(const char *dir, const char *label, const phi_onnx_decoder *decoder,
                              phi_description *description, phi_err *err) PHI_MUST_CHECK;

#endif
