/*
 * Purpose: an OpenVINO model's graph (openvino_model.xml) in memory, and small constants of it.
 * Owns:    the graph's memory and the open openvino_model.bin.
 * Threads: after open, any number of readers.
 * Errors:  the file and the layer are named. XML that is not well formed, document types and
 *          entities, and numbers that do not fit are PHI_E_FORMAT; operations that no Phi model
 *          has are PHI_E_UNSUPPORTED; constants outside the .bin file are found here.
 * Limits:  PHI_LIMIT_OPENVINO_*.
 *
 * Layout: OpenVINO's documentation, "Operation specification" and "IR format"; constants lie in the
 * .bin file as raw little endian, u4 and i4 with the first element in the low nibble.
 */
#ifndef PHI_ENGINE_FORMATS_OPENVINO_GRAPH_H
#define PHI_ENGINE_FORMATS_OPENVINO_GRAPH_H

#include "base/file.h"
#include "base/status.h"
#include "config/limits.h"
#include "engine/formats/arena.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Operations: name in the file, and whether one may be part of how mask and positions are made. */
#define PHI_OV_OPS(X)                                                                              \
    X(ABS, "Abs", false)                                                                           \
    X(ADD, "Add", true)                                                                            \
    X(ASSIGN, "Assign", false)                                                                     \
    X(BITWISE_AND, "BitwiseAnd", true)                                                             \
    X(BITWISE_OR, "BitwiseOr", true)                                                               \
    X(BROADCAST, "Broadcast", true)                                                                \
    X(CONCAT, "Concat", true)                                                                      \
    X(CONST, "Const", true)                                                                        \
    X(CONVERT, "Convert", true)                                                                    \
    X(COS, "Cos", false)                                                                           \
    X(DIVIDE, "Divide", true)                                                                      \
    X(EQUAL, "Equal", true)                                                                        \
    X(GATHER, "Gather", true)                                                                      \
    X(GATHER_ELEMENTS, "GatherElements", false)                                                    \
    X(GELU, "Gelu", false)                                                                         \
    X(GREATER, "Greater", true)                                                                    \
    X(GREATER_EQUAL, "GreaterEqual", true)                                                         \
    X(LESS, "Less", true)                                                                          \
    X(LESS_EQUAL, "LessEqual", true)                                                               \
    X(LOGICAL_AND, "LogicalAnd", true)                                                             \
    X(LOGICAL_NOT, "LogicalNot", true)                                                             \
    X(LOGICAL_OR, "LogicalOr", true)                                                               \
    X(MATMUL, "MatMul", false)                                                                     \
    X(MAXIMUM, "Maximum", true)                                                                    \
    X(MINIMUM, "Minimum", true)                                                                    \
    X(MOD, "Mod", true)                                                                            \
    X(MULTIPLY, "Multiply", true)                                                                  \
    X(MVN, "MVN", false)                                                                           \
    X(NEGATIVE, "Negative", true)                                                                  \
    X(NOT_EQUAL, "NotEqual", true)                                                                 \
    X(PARAMETER, "Parameter", true)                                                                \
    X(POWER, "Power", false)                                                                       \
    X(RANGE, "Range", true)                                                                        \
    X(READ_VALUE, "ReadValue", false)                                                              \
    X(REDUCE_MAX, "ReduceMax", true)                                                               \
    X(REDUCE_MEAN, "ReduceMean", false)                                                            \
    X(REDUCE_PROD, "ReduceProd", true)                                                             \
    X(REDUCE_SUM, "ReduceSum", false)                                                              \
    X(RESHAPE, "Reshape", true)                                                                    \
    X(RESULT, "Result", false)                                                                     \
    X(SCATTER, "ScatterElementsUpdate", false)                                                     \
    X(SDPA, "ScaledDotProductAttention", false)                                                    \
    X(SELECT, "Select", true)                                                                      \
    X(SHAPE_OF, "ShapeOf", true)                                                                   \
    X(SIGMOID, "Sigmoid", false)                                                                   \
    X(SIN, "Sin", false)                                                                           \
    X(SLICE, "Slice", true)                                                                        \
    X(SOFTMAX, "SoftMax", false)                                                                   \
    X(SPLIT, "Split", true)                                                                        \
    X(SQRT, "Sqrt", false)                                                                         \
    X(SQUEEZE, "Squeeze", true)                                                                    \
    X(SUBTRACT, "Subtract", true)                                                                  \
    X(SWISH, "Swish", false)                                                                       \
    X(TILE, "Tile", true)                                                                          \
    X(TOP_K, "TopK", false)                                                                        \
    X(TRANSPOSE, "Transpose", true)                                                                \
    X(UNSQUEEZE, "Unsqueeze", true)                                                                \
    X(VARIADIC_SPLIT, "VariadicSplit", true)

typedef enum phi_ov_op {
#define PHI_OV_OP_ENUM(id, name, in_mask) PHI_OV_##id,
    PHI_OV_OPS(PHI_OV_OP_ENUM)
#undef PHI_OV_OP_ENUM
        PHI_OV_OP_COUNT,
} phi_ov_op;

const char *phi_ov_op_name(phi_ov_op op);
bool phi_ov_op_in_mask(phi_ov_op op);
/* Finds the operation of a name; false for one that no Phi model has. */
bool phi_ov_op_find(const char *name, phi_ov_op *out_op);

/* Element types of constants: name in the file, bits. */
#define PHI_OV_TYPES(X)                                                                            \
    X(U4, "u4", 4)                                                                                 \
    X(I4, "i4", 4)                                                                                 \
    X(U8, "u8", 8)                                                                                 \
    X(I8, "i8", 8)                                                                                 \
    X(F16, "f16", 16)                                                                              \
    X(BF16, "bf16", 16)                                                                            \
    X(F32, "f32", 32)                                                                              \
    X(I32, "i32", 32)                                                                              \
    X(I64, "i64", 64)                                                                              \
    X(BOOLEAN, "boolean", 8)                                                                       \
    X(F4E2M1, "f4e2m1", 4)                                                                         \
    X(F8E8M0, "f8e8m0", 8)

typedef enum phi_ov_type {
#define PHI_OV_TYPE_ENUM(id, name, bits) PHI_OV_##id,
    PHI_OV_TYPES(PHI_OV_TYPE_ENUM)
#undef PHI_OV_TYPE_ENUM
        PHI_OV_TYPE_COUNT,
} phi_ov_type;

const char *phi_ov_type_name(phi_ov_type type);
uint32_t phi_ov_type_bits(phi_ov_type type);

/* One output of a layer. */
typedef struct phi_ov_value {
    uint32_t node;
    uint32_t output;
} phi_ov_value;

#define PHI_OV_NONE UINT32_MAX

typedef struct phi_ov_node {
    phi_ov_op op;
    const char *name;
    uint64_t id; /* the file's */
    uint32_t first_input;
    uint32_t n_inputs;
    uint32_t n_outputs;
    /* Attributes; what a layer does not have is 0, false or NULL. */
    const char *text; /* variable_id of ReadValue and Assign; an input's tensor names */
    const char *mode; /* how Gelu approximates, where MVN adds eps, what TopK takes, how
                         ScatterElementsUpdate combines */
    int64_t axis;     /* Concat, TopK, GatherElements, SoftMax */
    double eps;       /* MVN */
    uint32_t n_splits;
    bool transpose_a;
    bool transpose_b;
    bool causal;
    bool keep_dims;
    bool normalizes; /* MVN: by the deviation */
    bool special_zero;
    bool batch_dims; /* Gather: other than 0 */
    /* Const: */
    phi_ov_type type;
    uint32_t n_dims;
    uint64_t dims[PHI_LIMIT_OPENVINO_DIMS];
    uint64_t offset;
    uint64_t bytes;
} phi_ov_node;

typedef struct phi_ov_graph {
    phi_file bin;
    char *label;        /* name of the XML file, for messages */
    phi_ov_node *nodes; /* [node_count], in the file's order */
    uint32_t node_count;
    phi_ov_value *inputs; /* of all layers; node is PHI_OV_NONE where no edge leads */
    uint32_t input_count;
    phi_arena names;
} phi_ov_graph;

/* Reads openvino_model.xml of `dir` and opens openvino_model.bin. */
phi_status phi_ov_graph_open(const char *dir, phi_ov_graph *out_graph, phi_err *err) PHI_MUST_CHECK;
/* Accepts a graph of zeros. */
void phi_ov_graph_close(phi_ov_graph *graph);

const phi_ov_node *phi_ov_node_of(const phi_ov_graph *graph, phi_ov_value value);
/* Input `index` of the layer; node is PHI_OV_NONE when it has none there. */
phi_ov_value phi_ov_input(const phi_ov_graph *graph, phi_ov_value value, uint32_t index);
bool phi_ov_same(phi_ov_value a, phi_ov_value b);
/* True when the value is there and comes from a layer of this operation. */
bool phi_ov_is(const phi_ov_graph *graph, phi_ov_value value, phi_ov_op op);
/* What a run of Convert layers converts. */
phi_ov_value phi_ov_unconverted(const phi_ov_graph *graph, phi_ov_value value);
/* Number of elements of a constant (its size was checked when it was read). */
uint64_t phi_ov_elements(const phi_ov_node *node);
/* True when the value is an input of the model with this name. */
bool phi_ov_is_parameter(const phi_ov_graph *graph, phi_ov_value value, const char *name);

/* "FILE: layer \"NAME\" (Op) ..." */
phi_status phi_ov_fail(const phi_ov_graph *graph, phi_ov_value value, phi_status code, phi_err *err,
                       const char *fmt, ...) __attribute__((format(printf, 5, 6)));

/* Floats of a constant of at most `max` elements, seen through Convert, Unsqueeze, Squeeze, Reshape
 * and Broadcast. */
bool phi_ov_floats(const phi_ov_graph *graph, phi_ov_value value, size_t max, float *out,
                   size_t *out_count);
/* True for a constant of one element, which `out` gets. */
bool phi_ov_float(const phi_ov_graph *graph, phi_ov_value value, float *out);

#define PHI_OV_INTS_MAX 8
#define PHI_OV_UNKNOWN INT64_MIN /* a size that only a run knows */

typedef struct phi_ov_ints {
    size_t count;
    int64_t values[PHI_OV_INTS_MAX];
} phi_ov_ints;

/* What shape arithmetic comes to, as far as it does not depend on a run; a product's last dimension
 * is known by its weight. False when it is no short list of integers. */
bool phi_ov_integers(const phi_ov_graph *graph, phi_ov_value value, phi_ov_ints *out);
/* True when the value is one integer, known without a run. */
bool phi_ov_integer(const phi_ov_graph *graph, phi_ov_value value, int64_t *out);

#endif
