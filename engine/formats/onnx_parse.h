/*
 * Purpose: what the two halves of the ONNX reader share: onnx_graph.c reads nodes, onnx_tensor.c
 *          tensors. Not for other modules.
 * Owns:    nothing.
 * Threads: as onnx_graph.h.
 * Errors:  as onnx_graph.h.
 * Limits:  as onnx_graph.h.
 */
#ifndef PHI_ENGINE_FORMATS_ONNX_PARSE_H
#define PHI_ENGINE_FORMATS_ONNX_PARSE_H

#include "engine/formats/onnx_graph.h"
#include "engine/formats/protobuf.h"

#include <stddef.h>

typedef struct onnx_parse {
    phi_onnx_model *model;
    phi_err *err;
} onnx_parse;

/* Zeroed memory that lives as long as the model, or NULL ... */
void *phi_onnx_take(const onnx_parse *p, size_t bytes);
/* ... and what to say then. */
phi_status phi_onnx_no_memory(const onnx_parse *p) PHI_MUST_CHECK;
/* A field that holds a name; "" is one. */
phi_status phi_onnx_name(const onnx_parse *p, const phi_proto *message,
                         const phi_proto_field *field, const char **out) PHI_MUST_CHECK;
phi_status phi_onnx_read_tensor(const onnx_parse *p, const phi_proto *parent,
                                const phi_proto_field *field,
                                phi_onnx_tensor **out_tensor) PHI_MUST_CHECK;

#endif
