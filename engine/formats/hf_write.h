/*
 * Purpose: writes a Hugging Face folder: config.json, model.safetensors and the tokenizer's files,
 *          plain or quantized as MLX, GPTQ or compressed-tensors lay it out (see hf_quant.h).
 * Owns:    nothing.
 * Threads: one at a time for a folder.
 * Errors:  the tensor is named that the layout cannot hold as it is asked for. Files appear whole
 *          or not at all.
 * Limits:  memory for some rows of a matrix.
 *
 * What each can hold:
 *   plain               16 and 32 bits
 *   MLX                 those, and 4 and 8 bits by 32, 64 or 128 with offsets (PHI_ZERO_REAL), or
 *                       MXFP4 (mode "mxfp4": bytes of exponents in the place of scales, no offsets)
 *   GPTQ                those, and 4 and 8 bits of the layers' matrices, with zero points that are
 *                       codes ("gptq_v2") or the middle ("gptq"), scales in fp16
 *   compressed-tensors  those, and 4 and 8 bits of the layers' matrices, with zero points or
 * without
 */
#ifndef PHI_ENGINE_FORMATS_HF_WRITE_H
#define PHI_ENGINE_FORMATS_HF_WRITE_H

#include "base/status.h"
#include "engine/formats/export.h"
#include "engine/formats/hf_quant.h"

/* `dir` is made where there is none. PHI_HF_AWQ is not written. */
phi_status phi_hf_write(const phi_export *export, phi_hf_method method, const char *dir,
                        phi_err *err) PHI_MUST_CHECK;

#endif
