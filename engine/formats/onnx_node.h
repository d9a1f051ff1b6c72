/*
 * Purpose: the pieces of onnx.proto that writers of ONNX files put together: nodes, attributes,
 *          tensors, inputs and outputs, the model around a graph.
 * Owns:    nothing; a message that is started is the caller's until it is put into another.
 * Threads: as phi_buf.
 * Errors:  those of phi_buf: a failure is remembered by whatever the message is put into.
 * Limits:  PHI_ONNX_NODE_BYTES_MAX for a message.
 */
#ifndef PHI_ENGINE_FORMATS_ONNX_NODE_H
#define PHI_ENGINE_FORMATS_ONNX_NODE_H

#include "base/buf.h"
#include "engine/formats/onnx_graph.h"

#include <stdbool.h>
#include <stdint.h>

#define PHI_ONNX_NODE_BYTES_MAX ((size_t)1 << 30)

/* Field numbers of onnx.proto, those that callers put fields of. */
enum {
    PHI_ONNX_GRAPH_NODE = 1,
    PHI_ONNX_GRAPH_NAME = 2,
    PHI_ONNX_GRAPH_INITIALIZER = 5,
    PHI_ONNX_GRAPH_INPUT = 11,
    PHI_ONNX_GRAPH_OUTPUT = 12,
    PHI_ONNX_NODE_ATTRIBUTE = 5,
    PHI_ONNX_ATTR_TENSOR = 5,
    PHI_ONNX_ATTR_GRAPH = 6,
    PHI_ONNX_ATTR_INTS = 8,
    PHI_ONNX_TYPE_TENSOR = 4,
    PHI_ONNX_TYPE_GRAPH = 5,
    PHI_ONNX_TYPE_INTS = 7,
    PHI_ONNX_VALUE_NAME = 1,
};

/* Names of inputs and outputs are separated by spaces; "-" is one that is not given. */
phi_buf phi_onnx_start_node(const char *op, const char *domain, const char *name,
                            const char *inputs, const char *outputs);
phi_buf phi_onnx_start_attribute(const char *name, int64_t type);
void phi_onnx_put_int(phi_buf *node, const char *name, int64_t value);
void phi_onnx_put_float(phi_buf *node, const char *name, float value);
void phi_onnx_put_string(phi_buf *node, const char *name, const char *value);
void phi_onnx_put_ints(phi_buf *node, const char *name, uint32_t count, const int64_t *values);

phi_buf phi_onnx_make_tensor(const char *name, phi_onnx_type type, uint32_t n_dims,
                             const uint64_t *dims, const void *data, size_t bytes);
/* An initializer whose `bytes` bytes lie in the file `location` at `at`. */
void phi_onnx_put_external(phi_buf *graph, const char *name, phi_onnx_type type, uint32_t n_dims,
                           const uint64_t *dims, const char *location, uint64_t at, uint64_t bytes);
/* An input or output of a graph. A dimension is a number where `names[i]` is NULL, as all are where
 * `names` is. */
void phi_onnx_put_value(phi_buf *graph, uint32_t field, const char *name, phi_onnx_type type,
                        uint32_t n_dims, const char *const *names, const uint64_t *numbers);

/* The model around a graph, which it frees. `microsoft`: com.microsoft's operators are used. */
phi_buf phi_onnx_make_model(phi_buf *graph, int64_t ir_version, int64_t opset, bool microsoft);

#endif
