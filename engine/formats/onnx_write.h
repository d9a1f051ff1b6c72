/*
 * Purpose: writes a folder that ONNX Runtime GenAI loads on its CPU provider: model.onnx,
 *          model.onnx.data, genai_config.json, config.json, and the tokenizer's files.
 * Owns:    nothing.
 * Threads: one at a time for a folder.
 * Errors:  the tensor is named that the format cannot hold as it is asked for. Files appear whole
 *          or not at all, genai_config.json last; a folder without it is not a model.
 * Limits:  groups are powers of two from 16 to 256 (MatMulNBits' own rule); zero points are codes;
 *          rotary dimensions are a multiple of 16 (GroupQueryAttention's).
 *
 * Matrices of 4 and 8 bits become MatMulNBits, those of 16 and 32 bits MatMul; what is computed is
 * fp32 in all, because onnxruntime's CPU kernels are: weights in fp16 are widened when the model is
 * loaded. Values lie in model.onnx.data, each at a multiple of 4096, so that they can be mapped.
 */
#ifndef PHI_ENGINE_FORMATS_ONNX_WRITE_H
#define PHI_ENGINE_FORMATS_ONNX_WRITE_H

#include "base/status.h"
#include "engine/formats/export.h"

/* `dir` is made where there is none. */
phi_status phi_onnx_write(const phi_export *export, const char *dir, phi_err *err) PHI_MUST_CHECK;

#endif
