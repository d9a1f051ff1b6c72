#include "engine/formats/onnx_node.h"

#include <stdio.h>
#include <string.h>

#include "engine/formats/protobuf_write.h"

enum { NODE_INPUT = 1, NODE_OUTPUT, NODE_NAME, NODE_OP, NODE_DOMAIN = 7 };
enum { ATTR_NAME = 1, ATTR_F, ATTR_I, ATTR_S, ATTR_TYPE = 20 };
enum { TYPE_FLOAT = 1, TYPE_INT, TYPE_STRING };
enum { TENSOR_DIMS = 1, TENSOR_TYPE, TENSOR_NAME = 8, TENSOR_RAW };
enum { TENSOR_EXTERNAL = 13, TENSOR_WHERE, ENTRY_KEY = 1, ENTRY_VALUE };
enum { VALUE_TYPE = 2, TYPE_OF_TENSOR = 1, ELEMENT = 1, SHAPE, SHAPE_DIM = 1 };
enum { DIM_VALUE = 1, DIM_NAME };
enum { IR_VERSION = 1, PRODUCER, PRODUCER_VERSION, MODEL_GRAPH = 7, OPSET };
enum { OPSET_DOMAIN = 1, OPSET_VERSION };

/* ---- nodes ---- */

static void put_names(phi_buf *node, uint32_t field, const char *names)
{
    while (*names) {
        size_t bytes = strcspn(names, " ");
        bool none = bytes == 1 && *names == '-';
        phi_proto_put_bytes(node, field, names, none ? 0 : bytes);
        names += bytes + (names[bytes] == ' ');
    }
}

phi_buf phi_onnx_start_node(const char *op, const char *domain, const char *name,
                            const char *inputs, const char *outputs)
{
    phi_buf node;
    phi_buf_init(&node, PHI_ONNX_NODE_BYTES_MAX);
    put_names(&node, NODE_INPUT, inputs);
    put_names(&node, NODE_OUTPUT, outputs);
    phi_proto_put_text(&node, NODE_NAME, name);
    phi_proto_put_text(&node, NODE_OP, op);
    phi_proto_put_text(&node, NODE_DOMAIN, domain);
    return node;
}

phi_buf phi_onnx_start_attribute(const char *name, int64_t type)
{
    phi_buf attribute;
    phi_buf_init(&attribute, PHI_ONNX_NODE_BYTES_MAX);
    phi_proto_put_text(&attribute, ATTR_NAME, name);
    phi_proto_put_number(&attribute, ATTR_TYPE, type);
    return attribute;
}

void phi_onnx_put_int(phi_buf *node, const char *name, int64_t value)
{
    phi_buf attribute = phi_onnx_start_attribute(name, TYPE_INT);
    phi_proto_put_number(&attribute, ATTR_I, value);
    phi_proto_put_message(node, PHI_ONNX_NODE_ATTRIBUTE, &attribute);
}

void phi_onnx_put_float(phi_buf *node, const char *name, float value)
{
    phi_buf attribute = phi_onnx_start_attribute(name, TYPE_FLOAT);
    phi_proto_put_float(&attribute, ATTR_F, value);
    phi_proto_put_message(node, PHI_ONNX_NODE_ATTRIBUTE, &attribute);
}

void phi_onnx_put_string(phi_buf *node, const char *name, const char *value)
{
    phi_buf attribute = phi_onnx_start_attribute(name, TYPE_STRING);
    phi_proto_put_text(&attribute, ATTR_S, value);
    phi_proto_put_message(node, PHI_ONNX_NODE_ATTRIBUTE, &attribute);
}

void phi_onnx_put_ints(phi_buf *node, const char *name, uint32_t count, const int64_t *values)
{
    phi_buf attribute = phi_onnx_start_attribute(name, PHI_ONNX_TYPE_INTS);
    for (uint32_t i = 0; i < count; i++) {
        phi_proto_put_number(&attribute, PHI_ONNX_ATTR_INTS, values[i]);
    }
    phi_proto_put_message(node, PHI_ONNX_NODE_ATTRIBUTE, &attribute);
}

/* ---- tensors ---- */

static phi_buf start_tensor(const char *name, phi_onnx_type type, uint32_t n_dims,
                            const uint64_t *dims)
{
    phi_buf tensor;
    phi_buf_init(&tensor, PHI_ONNX_NODE_BYTES_MAX);
    for (uint32_t i = 0; i < n_dims; i++) {
        phi_proto_put_number(&tensor, TENSOR_DIMS, (int64_t)dims[i]);
    }
    phi_proto_put_number(&tensor, TENSOR_TYPE, (int64_t)type);
    phi_proto_put_text(&tensor, TENSOR_NAME, name);
    return tensor;
}

phi_buf phi_onnx_make_tensor(const char *name, phi_onnx_type type, uint32_t n_dims,
                             const uint64_t *dims, const void *data, size_t bytes)
{
    phi_buf tensor = start_tensor(name, type, n_dims, dims);
    phi_proto_put_bytes(&tensor, TENSOR_RAW, data, bytes);
    return tensor;
}

static void put_entry(phi_buf *tensor, const char *key, const char *value)
{
    phi_buf entry;
    phi_buf_init(&entry, 256);
    phi_proto_put_text(&entry, ENTRY_KEY, key);
    phi_proto_put_text(&entry, ENTRY_VALUE, value);
    phi_proto_put_message(tensor, TENSOR_EXTERNAL, &entry);
}

void phi_onnx_put_external(phi_buf *graph, const char *name, phi_onnx_type type, uint32_t n_dims,
                           const uint64_t *dims, const char *location, uint64_t at, uint64_t bytes)
{
    char number[24];
    phi_buf tensor = start_tensor(name, type, n_dims, dims);
    put_entry(&tensor, "location", location);
    (void)snprintf(number, sizeof number, "%llu", (unsigned long long)at);
    put_entry(&tensor, "offset", number);
    (void)snprintf(number, sizeof number, "%llu", (unsigned long long)bytes);
    put_entry(&tensor, "length", number);
    phi_proto_put_number(&tensor, TENSOR_WHERE, 1);
    phi_proto_put_message(graph, PHI_ONNX_GRAPH_INITIALIZER, &tensor);
}

/* ---- inputs, outputs, the model ---- */

void phi_onnx_put_value(phi_buf *graph, uint32_t field, const char *name, phi_onnx_type type,
                        uint32_t n_dims, const char *const *names, const uint64_t *numbers)
{
    phi_buf value;
    phi_buf of_type;
    phi_buf tensor;
    phi_buf shape;
    phi_buf_init(&value, 4096);
    phi_buf_init(&of_type, 4096);
    phi_buf_init(&tensor, 4096);
    phi_buf_init(&shape, 4096);
    for (uint32_t i = 0; i < n_dims; i++) {
        phi_buf dim;
        phi_buf_init(&dim, 4096);
        if (names && names[i]) {
            phi_proto_put_text(&dim, DIM_NAME, names[i]);
        } else {
            phi_proto_put_number(&dim, DIM_VALUE, (int64_t)numbers[i]);
        }
        phi_proto_put_message(&shape, SHAPE_DIM, &dim);
    }
    phi_proto_put_number(&tensor, ELEMENT, (int64_t)type);
    phi_proto_put_message(&tensor, SHAPE, &shape);
    phi_proto_put_message(&of_type, TYPE_OF_TENSOR, &tensor);
    phi_proto_put_text(&value, PHI_ONNX_VALUE_NAME, name);
    phi_proto_put_message(&value, VALUE_TYPE, &of_type);
    phi_proto_put_message(graph, field, &value);
}

static void put_opset(phi_buf *model, const char *domain, int64_t version)
{
    phi_buf opset;
    phi_buf_init(&opset, 256);
    phi_proto_put_text(&opset, OPSET_DOMAIN, domain);
    phi_proto_put_number(&opset, OPSET_VERSION, version);
    phi_proto_put_message(model, OPSET, &opset);
}

phi_buf phi_onnx_make_model(phi_buf *graph, int64_t ir_version, int64_t opset, bool microsoft)
{
    phi_buf model;
    phi_buf_init(&model, PHI_ONNX_NODE_BYTES_MAX + 1024);
    phi_proto_put_number(&model, IR_VERSION, ir_version);
    phi_proto_put_text(&model, PRODUCER, "phid");
    phi_proto_put_text(&model, PRODUCER_VERSION, PHID_VERSION);
    put_opset(&model, "", opset);
    if (microsoft) {
        put_opset(&model, "com.microsoft", 1);
    }
    phi_proto_put_message(&model, MODEL_GRAPH, graph);
    return model;
}
