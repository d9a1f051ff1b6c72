/*
 * Purpose: writes a folder that ONNX Runtime GenAI loads on its CPU or its CUDA provider:
 *          model.onnx, model.onnx.data, genai_config.json, config.json, and the tokenizer's files.
 * Owns:    nothing.
 * Threads: one at a time for a folder.
 * Errors:  the tensor is named that the format cannot hold as it is asked for. Files appear whole
 *          or not at all, genai_config.json last; a folder without it is not a model.
 * Limits:  groups are powers of two from 16 to 256 (MatMulNBits' own rule); zero points are codes;
 *          rotary dimensions are a multiple of 16 (GroupQueryAttention's).
 *
 * Matrices of 4 and 8 bits become MatMulNBits, those of 16 and 32 bits MatMul. For the CPU all that
 * is computed is fp32, because onnxruntime's CPU kernels are: weights in fp16 are widened when the
 * model is loaded. For CUDA all is fp16, as its attention is: logits, caches, scales, norms and
 * rotary tables too, and matrices of 32 bits are rounded. Values lie in model.onnx.data, each at a
 * multiple of 4096, so that they can be mapped. phimoe's experts are
 * chosen and added up by ONNX's own operators.
 */
#ifndef PHI_ENGINE_FORMATS_ONNX_WRITE_H
#define PHI_ENGINE_FORMATS_ONNX_WRITE_H

#include "base/status.h"
#include "engine/formats/export.h"

#include <stdbool.h>

typedef enum phi_onnx_provider {
    PHI_ONNX_CPU,
    PHI_ONNX_CUDA,
    PHI_ONNX_PROVIDER_COUNT,
} phi_onnx_provider;

const char *phi_onnx_provider_name(phi_onnx_provider provider); /* "cuda" */
bool phi_onnx_provider_parse(const char *name, phi_onnx_provider *out_provider);

/* Whether there is a graph for models of the architecture; of another phi_onnx_write makes no file.
 * phimoe has none for CUDA: its router would compute in fp16. */
bool phi_onnx_has_graph(phi_arch arch, phi_onnx_provider provider);
/* `dir` is made where there is none. */
phi_status phi_onnx_write(const phi_export *export, phi_onnx_provider provider, const char *dir,
                          phi_err *err) PHI_MUST_CHECK;

#endif
