/*
 * Purpose: an ONNX file's graph: nodes, attributes, initializers and where their values lie. What
 *          the nodes mean is onnx_decoder.c's affair.
 * Owns:    the model's memory and open files, from phi_onnx_model_open to phi_onnx_model_done.
 * Threads: one while opening and marking nodes as used; then any number of readers.
 * Errors:  the file is named, and the tensor or node where there is one. Values outside their file,
 *          external files outside the folder, sizes that overflow or contradict the shape, names
 *          that two nodes give: PHI_E_FORMAT.
 * Limits:  PHI_LIMIT_ONNX_NODES, PHI_LIMIT_TENSORS, PHI_LIMIT_TENSOR_DIMS, PHI_LIMIT_SHARDS,
 *          PHI_LIMIT_ONNX_METADATA_BYTES, PHI_LIMIT_PROTOBUF_DEPTH.
 *
 * Layout: onnx/onnx.proto of the ONNX project. Values of initializers are never read here but for
 * whole numbers that stand alone, and numbers of 8 bits that are not kept as bytes; they are ranges
 * of files.
 */
#ifndef PHI_ENGINE_FORMATS_ONNX_GRAPH_H
#define PHI_ENGINE_FORMATS_ONNX_GRAPH_H

#include "base/buf.h"
#include "base/file.h"
#include "base/status.h"
#include "base/strmap.h"
#include "config/limits.h"
#include "engine/formats/arena.h"
#include "engine/formats/coded.h"

#include <stdbool.h>
#include <stdint.h>

#define PHI_ONNX_NODE_INPUTS_MAX 24U
#define PHI_ONNX_NODE_OUTPUTS_MAX 8U

/* TensorProto.DataType */
typedef enum phi_onnx_type {
    PHI_ONNX_FLOAT = 1,
    PHI_ONNX_UINT8 = 2,
    PHI_ONNX_INT8 = 3,
    PHI_ONNX_UINT16 = 4,
    PHI_ONNX_INT32 = 6,
    PHI_ONNX_INT64 = 7,
    PHI_ONNX_FLOAT16 = 10,
    PHI_ONNX_BFLOAT16 = 16,
    PHI_ONNX_UINT4 = 21,
    PHI_ONNX_INT4 = 22,
    PHI_ONNX_UINT2 = 25,
    PHI_ONNX_INT2 = 26,
} phi_onnx_type;

typedef struct phi_onnx_graph phi_onnx_graph;

typedef struct phi_onnx_tensor {
    struct phi_onnx_tensor *next;
    const char *name;
    uint32_t type;
    uint32_t n_dims;
    uint64_t dims[PHI_LIMIT_TENSOR_DIMS];
    phi_array data;  /* file NULL: values that are not kept as plain bytes */
    bool has_number; /* one whole number */
    int64_t number;
} phi_onnx_tensor;

typedef struct phi_onnx_attribute {
    struct phi_onnx_attribute *next;
    const char *name;
    float f;
    int64_t i;
    const char *s; /* "" unless it is a short string */
    phi_onnx_tensor *tensor;
    phi_onnx_graph *graph;
    int64_t ints[8]; /* the first of them */
    uint32_t n_ints;
} phi_onnx_attribute;

typedef struct phi_onnx_node {
    struct phi_onnx_node *next;
    const char *name;
    const char *op;
    const char *domain;
    const char *inputs[PHI_ONNX_NODE_INPUTS_MAX]; /* "": not given */
    const char *outputs[PHI_ONNX_NODE_OUTPUTS_MAX];
    uint32_t n_inputs;
    uint32_t n_outputs;
    phi_onnx_attribute *attributes;
    bool used; /* has been given a meaning */
} phi_onnx_node;

/* What has a name in a graph: a node's output or a tensor. */
typedef struct phi_onnx_value {
    phi_onnx_node *node; /* NULL: a tensor */
    uint32_t output;
    const phi_onnx_tensor *tensor; /* an initializer or a Constant node's */
} phi_onnx_value;

struct phi_onnx_graph {
    phi_onnx_node *nodes;
    phi_onnx_node *last_node;
    phi_onnx_tensor *tensors;
    phi_onnx_tensor *last_tensor;
    uint32_t n_values;                              /* of nodes and tensors */
    const char *outputs[PHI_ONNX_NODE_OUTPUTS_MAX]; /* the first of them */
    uint32_t n_outputs;
};

typedef struct phi_onnx_model {
    phi_arena arena;
    char *dir;
    const char *label;                 /* of the model's file, in messages */
    phi_file *files[PHI_LIMIT_SHARDS]; /* the model, then its external files */
    uint32_t n_files;
    phi_buf numbers; /* of 8 bits, that the graph lists one by one: bytes while it is read, ... */
    phi_file *numbers_file; /* ... then this file in memory */
    uint32_t n_nodes;       /* of all graphs, as the next */
    uint32_t n_tensors;
    phi_onnx_graph *graph;
    phi_onnx_value *values;
    phi_strmap *by_name; /* index in values */
} phi_onnx_model;

/* `filename` is a plain file name. `model` may be passed to phi_onnx_model_done whatever comes. */
phi_status phi_onnx_model_open(const char *dir, const char *filename, phi_onnx_model *model,
                               phi_err *err) PHI_MUST_CHECK;
void phi_onnx_model_done(phi_onnx_model *model);

/* NULL when nothing in the graph gives it: an input of the whole graph. */
const phi_onnx_value *phi_onnx_value_find(const phi_onnx_model *model, const char *name);
/* NULL when the node has none of this name. */
const phi_onnx_attribute *phi_onnx_attribute_find(const phi_onnx_node *node, const char *name);
int64_t phi_onnx_attribute_int(const phi_onnx_node *node, const char *name, int64_t otherwise);
float phi_onnx_attribute_float(const phi_onnx_node *node, const char *name, float otherwise);
/* "" for an input that is not given. */
const char *phi_onnx_input(const phi_onnx_node *node, uint32_t index);
/* True for ONNX's own operators (domain "" or "ai.onnx") and Microsoft's ("com.microsoft"), which
 * runtimes take for one another where only one has the operator. */
bool phi_onnx_is(const phi_onnx_node *node, const char *op);
/* Bits of an element, 0 when the type is none that is read. */
uint32_t phi_onnx_type_bits(uint32_t type);

/* onnx_external.c: the file that `location` names, opened once, and its range. */
phi_status phi_onnx_external(phi_onnx_model *model, const char *tensor, const char *location,
                             uint64_t offset, uint64_t bytes, phi_array *out_array,
                             phi_err *err) PHI_MUST_CHECK;

#endif
