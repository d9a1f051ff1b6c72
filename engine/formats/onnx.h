/*
 * Purpose: a folder of ONNX Runtime GenAI (model.onnx, model.onnx.data, genai_config.json) as
 *          phi3, phi2 or phimoe matrices and a description.
 * Owns:    the open files, from phi_onnx_open to phi_onnx_close; what phi_onnx_at returns lives as
 *          long.
 * Threads: after open, any number of readers.
 * Errors:  file and node, tensor or field are named. A graph that is no such decoder is
 *          PHI_E_UNSUPPORTED and names the first node that is in the way.
 * Limits:  those of onnx_graph.h and of description.h.
 *
 * Matrices are MatMulNBits' of 2, 4 and 8 bits, MatMul's in fp32, fp16 and bf16, and such that
 * DequantizeLinear gives to MatMul by blocks of inputs; the embedding is Gather's or
 * GatherBlockQuantized's. Attention is GroupQueryAttention with the rotary embedding inside, as
 * graphs for CPU (INT4, INT8, FP32) and CUDA have it.
 *
 * Rotary settings are in no field of these files, only the tables of cosines and sines. Where the
 * folder has a config.json, its settings are taken and have to give these tables; else they are
 * worked out from the tables.
 */
#ifndef PHI_ENGINE_FORMATS_ONNX_H
#define PHI_ENGINE_FORMATS_ONNX_H

#include "base/status.h"
#include "engine/formats/description.h"
#include "engine/formats/stored.h"

#include <stddef.h>

#define PHI_ONNX_CONFIG "genai_config.json"

typedef struct phi_onnx phi_onnx;

phi_status phi_onnx_open(const char *dir, phi_onnx **out_onnx, phi_err *err) PHI_MUST_CHECK;
/* Accepts NULL. */
void phi_onnx_close(phi_onnx *onnx);
const phi_description *phi_onnx_description(const phi_onnx *onnx);
/* In forward-pass order; no head when it is tied. */
size_t phi_onnx_count(const phi_onnx *onnx);
const phi_stored *phi_onnx_at(const phi_onnx *onnx, size_t index);
/* The files that matrices are read from, the model's own first. */
size_t phi_onnx_file_count(const phi_onnx *onnx);
const phi_file *phi_onnx_file_at(const phi_onnx *onnx, size_t index);

#endif
