#include "engine/formats/openvino_graph.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "engine/tensor/dtype.h"

/* Layers that one evaluation may look at: shape arithmetic of real files takes under 30. */
#define EVALUATION_STEPS 256U

typedef struct op_info {
    const char *name;
    bool in_mask;
} op_info;

static const op_info ops[PHI_OV_OP_COUNT] = {
#define OP_ROW(id, name, in_mask) [PHI_OV_##id] = {name, in_mask},
    PHI_OV_OPS(OP_ROW)
#undef OP_ROW
};

typedef struct type_info {
    const char *name;
    uint32_t bits;
} type_info;

static const type_info types[PHI_OV_TYPE_COUNT] = {
#define TYPE_ROW(id, name, bits) [PHI_OV_##id] = {name, bits},
    PHI_OV_TYPES(TYPE_ROW)
#undef TYPE_ROW
};

const char *phi_ov_op_name(phi_ov_op op)
{
    PHI_ASSERT(op < PHI_OV_OP_COUNT);
    return ops[op].name;
}

bool phi_ov_op_in_mask(phi_ov_op op)
{
    PHI_ASSERT(op < PHI_OV_OP_COUNT);
    return ops[op].in_mask;
}

bool phi_ov_op_find(const char *name, phi_ov_op *out_op)
{
    for (size_t i = 0; i < PHI_OV_OP_COUNT; i++) {
        if (strcmp(ops[i].name, name) == 0) {
            *out_op = (phi_ov_op)i;
            return true;
        }
    }
    return false;
}

const char *phi_ov_type_name(phi_ov_type type)
{
    PHI_ASSERT(type < PHI_OV_TYPE_COUNT);
    return types[type].name;
}

uint32_t phi_ov_type_bits(phi_ov_type type)
{
    PHI_ASSERT(type < PHI_OV_TYPE_COUNT);
    return types[type].bits;
}

void phi_ov_graph_close(phi_ov_graph *graph)
{
    if (graph) {
        phi_file_close(&graph->bin);
        phi_free(graph->label);
        phi_free(graph->nodes);
        phi_free(graph->inputs);
        phi_arena_done(&graph->names);
        *graph = (phi_ov_graph){.bin = {.fd = -1}};
    }
}

const phi_ov_node *phi_ov_node_of(const phi_ov_graph *graph, phi_ov_value value)
{
    PHI_ASSERT(value.node < graph->node_count);
    return &graph->nodes[value.node];
}

phi_ov_value phi_ov_input(const phi_ov_graph *graph, phi_ov_value value, uint32_t index)
{
    if (value.node == PHI_OV_NONE || index >= phi_ov_node_of(graph, value)->n_inputs) {
        return (phi_ov_value){.node = PHI_OV_NONE};
    }
    return graph->inputs[phi_ov_node_of(graph, value)->first_input + index];
}

bool phi_ov_same(phi_ov_value a, phi_ov_value b)
{
    return a.node == b.node && a.output == b.output;
}

bool phi_ov_is(const phi_ov_graph *graph, phi_ov_value value, phi_ov_op op)
{
    return value.node != PHI_OV_NONE && phi_ov_node_of(graph, value)->op == op;
}

phi_ov_value phi_ov_unconverted(const phi_ov_graph *graph, phi_ov_value value)
{
    for (uint32_t i = 0; i < EVALUATION_STEPS && phi_ov_is(graph, value, PHI_OV_CONVERT); i++) {
        value = phi_ov_input(graph, value, 0);
    }
    return value;
}

uint64_t phi_ov_elements(const phi_ov_node *node)
{
    uint64_t count = 1;
    for (uint32_t i = 0; i < node->n_dims; i++) {
        count *= node->dims[i];
    }
    return count;
}

bool phi_ov_is_parameter(const phi_ov_graph *graph, phi_ov_value value, const char *name)
{
    if (!phi_ov_is(graph, value, PHI_OV_PARAMETER)) {
        return false;
    }
    const phi_ov_node *node = phi_ov_node_of(graph, value);
    size_t bytes = strlen(name);
    if (strcmp(node->name, name) == 0) {
        return true;
    }
    /* Tensor names stand in one attribute, with commas between them. */
    for (const char *at = node->text; at; at = strchr(at, ','), at = at ? at + 1 : NULL) {
        if (strncmp(at, name, bytes) == 0 && (at[bytes] == '\0' || at[bytes] == ',')) {
            return true;
        }
    }
    return false;
}

phi_status phi_ov_fail(const phi_ov_graph *graph, phi_ov_value value, phi_status code, phi_err *err,
                       const char *fmt, ...)
{
    char what[PHI_ERR_BYTES_MAX];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    if (value.node == PHI_OV_NONE) {
        return phi_fail(err, code, "%s: an input that is not connected %s", graph->label, what);
    }
    const phi_ov_node *node = phi_ov_node_of(graph, value);
    return phi_fail(err, code, "%s: layer \"%.80s\" (%s) %s", graph->label, node->name,
                    phi_ov_op_name(node->op), what);
}

/* ---- small constants ---- */

static bool is_view(const phi_ov_graph *graph, phi_ov_value value)
{
    return phi_ov_is(graph, value, PHI_OV_CONVERT) || phi_ov_is(graph, value, PHI_OV_UNSQUEEZE) ||
           phi_ov_is(graph, value, PHI_OV_SQUEEZE) || phi_ov_is(graph, value, PHI_OV_RESHAPE) ||
           phi_ov_is(graph, value, PHI_OV_BROADCAST);
}

static bool float_dtype(phi_ov_type type, phi_dtype *out)
{
    switch (type) {
    case PHI_OV_F16:
        *out = PHI_DTYPE_F16;
        return true;
    case PHI_OV_BF16:
        *out = PHI_DTYPE_BF16;
        return true;
    case PHI_OV_F32:
        *out = PHI_DTYPE_F32;
        return true;
    case PHI_OV_U4:
    case PHI_OV_I4:
    case PHI_OV_U8:
    case PHI_OV_I8:
    case PHI_OV_I32:
    case PHI_OV_I64:
    case PHI_OV_BOOLEAN:
    case PHI_OV_F4E2M1:
    case PHI_OV_F8E8M0:
    case PHI_OV_TYPE_COUNT:
        return false;
    }
    PHI_UNREACHABLE();
}

static bool read_integers(const phi_ov_graph *graph, const phi_ov_node *node, int64_t *out)
{
    uint8_t raw[PHI_OV_INTS_MAX * sizeof(int64_t)];
    uint64_t count = phi_ov_elements(node);
    if ((node->type != PHI_OV_I32 && node->type != PHI_OV_I64) || count > PHI_OV_INTS_MAX ||
        node->bytes > sizeof raw ||
        phi_file_read_at(&graph->bin, node->offset, raw, (size_t)node->bytes, NULL)) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        int32_t narrow;
        if (node->type == PHI_OV_I64) {
            memcpy(&out[i], raw + i * sizeof *out, sizeof *out);
        } else {
            memcpy(&narrow, raw + i * sizeof narrow, sizeof narrow);
            out[i] = narrow;
        }
    }
    return true;
}

bool phi_ov_floats(const phi_ov_graph *graph, phi_ov_value value, size_t max, float *out,
                   size_t *out_count)
{
    for (uint32_t i = 0; i < EVALUATION_STEPS && is_view(graph, value); i++) {
        value = phi_ov_input(graph, value, 0);
    }
    if (!phi_ov_is(graph, value, PHI_OV_CONST)) {
        return false;
    }
    const phi_ov_node *node = phi_ov_node_of(graph, value);
    uint64_t count = phi_ov_elements(node);
    phi_dtype dtype;
    if (count == 0 || count > max) {
        return false;
    }
    *out_count = (size_t)count;
    if (!float_dtype(node->type, &dtype)) {
        int64_t integers[PHI_OV_INTS_MAX];
        bool read = read_integers(graph, node, integers);
        for (size_t i = 0; i < count && read; i++) {
            out[i] = (float)integers[i];
        }
        return read;
    }
    uint8_t *raw = phi_try_alloc((size_t)node->bytes);
    bool read = raw && !phi_file_read_at(&graph->bin, node->offset, raw, (size_t)node->bytes, NULL);
    if (read) {
        phi_dtype_widen(dtype, raw, (size_t)count, out);
    }
    phi_free(raw);
    return read;
}

bool phi_ov_float(const phi_ov_graph *graph, phi_ov_value value, float *out)
{
    size_t count;
    return phi_ov_floats(graph, value, 1, out, &count);
}

/* ---- shape arithmetic ---- */

typedef struct evaluation {
    const phi_ov_graph *graph;
    uint32_t steps;
} evaluation;

/* Recursion is bounded by steps, so that neither cycles nor sharing can prolong it. */
static bool evaluate(evaluation *e, phi_ov_value value, phi_ov_ints *out);

static int64_t calculate(phi_ov_op op, int64_t a, int64_t b)
{
    int64_t result = PHI_OV_UNKNOWN;
    if (a == PHI_OV_UNKNOWN || b == PHI_OV_UNKNOWN) {
        return PHI_OV_UNKNOWN;
    }
    if (op == PHI_OV_ADD && !__builtin_add_overflow(a, b, &result)) {
        return result;
    }
    if (op == PHI_OV_SUBTRACT && !__builtin_sub_overflow(a, b, &result)) {
        return result;
    }
    if (op == PHI_OV_MULTIPLY && !__builtin_mul_overflow(a, b, &result)) {
        return result;
    }
    if (op == PHI_OV_GREATER) {
        return a > b;
    }
    if (a >= 0 && b > 0 && (op == PHI_OV_DIVIDE || op == PHI_OV_MOD)) {
        return op == PHI_OV_DIVIDE ? a / b : a % b;
    }
    return PHI_OV_UNKNOWN;
}

static bool evaluate_pair(evaluation *e, phi_ov_value value, phi_ov_ints *out)
{
    phi_ov_ints a = {.count = 0};
    phi_ov_ints b = {.count = 0};
    if (!evaluate(e, phi_ov_input(e->graph, value, 0), &a) ||
        !evaluate(e, phi_ov_input(e->graph, value, 1), &b) ||
        (a.count != b.count && a.count != 1 && b.count != 1)) {
        return false;
    }
    out->count = a.count > b.count ? a.count : b.count;
    for (size_t i = 0; i < out->count; i++) {
        out->values[i] = calculate(phi_ov_node_of(e->graph, value)->op,
                                   a.values[a.count == 1 ? 0 : i], b.values[b.count == 1 ? 0 : i]);
    }
    return true;
}

static bool evaluate_concat(evaluation *e, phi_ov_value value, phi_ov_ints *out)
{
    const phi_ov_node *node = phi_ov_node_of(e->graph, value);
    out->count = 0;
    for (uint32_t i = 0; i < node->n_inputs; i++) {
        phi_ov_ints part = {.count = 0};
        if (!evaluate(e, phi_ov_input(e->graph, value, i), &part) ||
            part.count > PHI_OV_INTS_MAX - out->count) {
            return false;
        }
        memcpy(out->values + out->count, part.values, part.count * sizeof *part.values);
        out->count += part.count;
    }
    return true;
}

/* Elements of a shape. The rank of one that is not known does not matter: all are unknown. */
static bool evaluate_gather(evaluation *e, phi_ov_value value, phi_ov_ints *out)
{
    phi_ov_ints from = {.count = 0};
    phi_ov_ints index = {.count = 0};
    if (!evaluate(e, phi_ov_input(e->graph, value, 0), &from) ||
        !evaluate(e, phi_ov_input(e->graph, value, 1), &index)) {
        return false;
    }
    out->count = index.count;
    for (size_t i = 0; i < index.count; i++) {
        int64_t at = index.values[i];
        at = at < 0 && at != PHI_OV_UNKNOWN ? at + (int64_t)from.count : at;
        if (at < 0 || at >= (int64_t)from.count) {
            return false;
        }
        out->values[i] = from.values[at];
    }
    return true;
}

/* Outputs of a product with a weight: the first dimension of its constant. */
static int64_t outputs_of(const phi_ov_graph *graph, phi_ov_value product)
{
    phi_ov_value weight = phi_ov_input(graph, product, 1);
    for (uint32_t i = 0; i < EVALUATION_STEPS; i++) {
        if (phi_ov_is(graph, weight, PHI_OV_CONST)) {
            const phi_ov_node *node = phi_ov_node_of(graph, weight);
            return node->n_dims && node->dims[0] <= INT32_MAX ? (int64_t)node->dims[0]
                                                              : PHI_OV_UNKNOWN;
        }
        weight = phi_ov_input(graph, weight, 0);
    }
    return PHI_OV_UNKNOWN;
}

static void evaluate_shape(const evaluation *e, phi_ov_value of, phi_ov_ints *out)
{
    bool is_product = phi_ov_is(e->graph, of, PHI_OV_MATMUL);
    out->count = is_product ? 3 : 4;
    for (size_t i = 0; i < out->count; i++) {
        out->values[i] = PHI_OV_UNKNOWN;
    }
    if (is_product) {
        out->values[2] = outputs_of(e->graph, of);
    }
}

static bool evaluate(evaluation *e, phi_ov_value value, phi_ov_ints *out)
{
    if (value.node == PHI_OV_NONE || e->steps == 0) {
        return false;
    }
    e->steps--;
    const phi_ov_node *node = phi_ov_node_of(e->graph, value);
    switch ((int)node->op) {
    case PHI_OV_CONST:
        out->count = (size_t)phi_ov_elements(node);
        return read_integers(e->graph, node, out->values);
    case PHI_OV_CONVERT:
    case PHI_OV_UNSQUEEZE:
    case PHI_OV_SQUEEZE:
    case PHI_OV_RESHAPE:
        return evaluate(e, phi_ov_input(e->graph, value, 0), out);
    case PHI_OV_SHAPE_OF:
        evaluate_shape(e, phi_ov_input(e->graph, value, 0), out);
        return true;
    case PHI_OV_GATHER:
        return evaluate_gather(e, value, out);
    case PHI_OV_CONCAT:
        return evaluate_concat(e, value, out);
    case PHI_OV_ADD:
    case PHI_OV_SUBTRACT:
    case PHI_OV_MULTIPLY:
    case PHI_OV_DIVIDE:
    case PHI_OV_MOD:
    case PHI_OV_GREATER:
        return evaluate_pair(e, value, out);
    default:
        return false;
    }
}

bool phi_ov_integers(const phi_ov_graph *graph, phi_ov_value value, phi_ov_ints *out)
{
    evaluation e = {.graph = graph, .steps = EVALUATION_STEPS};
    return evaluate(&e, value, out);
}

bool phi_ov_integer(const phi_ov_graph *graph, phi_ov_value value, int64_t *out)
{
    phi_ov_ints ints = {.count = 0};
    if (!phi_ov_integers(graph, value, &ints) || ints.count != 1 ||
        ints.values[0] == PHI_OV_UNKNOWN) {
        return false;
    }
    *out = ints.values[0];
    return true;
}
