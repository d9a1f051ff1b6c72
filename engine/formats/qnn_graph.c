#include "engine/formats/qnn_graph.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "engine/formats/protobuf_write.h"

#define NAMES_BYTES_MAX ((size_t)64 << 20)
#define NAME_BYTES 256
#define CODES_16 65535.0F
/* Codes of 8 bits that a magnitude has on either side of 128. */
#define SIDE_8 127.0F
/* Where nothing but 0 was seen. */
#define RANGE_MIN 1e-3F

void phi_qnn_graph_init(phi_qnn_graph *g, phi_qnn_writer *w, const char *name, uint32_t n_tok)
{
    *g = (phi_qnn_graph){.w = w, .n_tok = n_tok};
    phi_buf_init(&g->proto, PHI_ONNX_NODE_BYTES_MAX);
    phi_arena_init(&g->names, NAMES_BYTES_MAX);
    phi_proto_put_text(&g->proto, PHI_ONNX_GRAPH_NAME, name);
}

void phi_qnn_graph_done(phi_qnn_graph *g)
{
    phi_buf_done(&g->proto);
    phi_arena_done(&g->names);
}

void phi_qnn_remember(phi_qnn_graph *g, phi_status status)
{
    g->status = g->status ? g->status : status;
}

const char *phi_qnn_name(phi_qnn_graph *g, const char *fmt, ...)
{
    char text[NAME_BYTES];
    va_list args;
    va_start(args, fmt);
    int bytes = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    char *name = bytes >= 0 && (size_t)bytes < sizeof text
                     ? phi_arena_take(&g->names, (size_t)bytes + 1)
                     : NULL;
    if (!name) {
        phi_qnn_remember(
            g, phi_fail(g->w->err, PHI_E_NO_MEMORY, "not enough memory for a graph's names"));
        return "";
    }
    memcpy(name, text, (size_t)bytes + 1);
    return name;
}

/* ---- codings ---- */

phi_qnn_range phi_qnn_around(float magnitude)
{
    return (phi_qnn_range){-magnitude, magnitude};
}

static void put_tensor(phi_qnn_graph *g, const char *name, phi_onnx_type type, uint32_t n_dims,
                       const uint64_t *dims, const void *data, size_t bytes)
{
    phi_buf tensor = phi_onnx_make_tensor(name, type, n_dims, dims, data, bytes);
    phi_proto_put_message(&g->proto, PHI_ONNX_GRAPH_INITIALIZER, &tensor);
}

/* With 0 between its ends, which then has a code of its own. */
static phi_qnn_range widen(phi_qnn_range range)
{
    range.low = fminf(range.low, 0.0F);
    range.high = fmaxf(range.high, 0.0F);
    if (range.high - range.low < RANGE_MIN) {
        range.high = range.low + RANGE_MIN;
    }
    return range;
}

static float step_of(phi_qnn_range range)
{
    return (range.high - range.low) / CODES_16;
}

static uint16_t zero_of(phi_qnn_range range)
{
    return (uint16_t)fminf(rintf(-range.low / step_of(range)), CODES_16);
}

uint16_t phi_qnn_code(phi_qnn_range range, float value)
{
    range = widen(range);
    float code = rintf(value / step_of(range)) + (float)zero_of(range);
    return (uint16_t)fminf(fmaxf(code, 0.0F), CODES_16);
}

void phi_qnn_coding(phi_qnn_graph *g, const char *name, phi_qnn_range range, uint32_t bits)
{
    range = widen(range);
    float step = step_of(range);
    uint16_t zero = zero_of(range);
    const uint8_t middle = 128;
    if (bits == 8) {
        step = fmaxf(range.high, -range.low) / SIDE_8;
    }
    if (!isfinite(step)) {
        phi_qnn_remember(
            g, phi_fail(g->w->err, PHI_E_UNSUPPORTED,
                        "\"%s\" is no finite number: the model's weights are damaged or out "
                        "of range",
                        name));
        return;
    }
    put_tensor(g, phi_qnn_name(g, "%s/scale", name), PHI_ONNX_FLOAT, 0, NULL, &step, sizeof step);
    put_tensor(g, phi_qnn_name(g, "%s/zero", name), bits == 8 ? PHI_ONNX_UINT8 : PHI_ONNX_UINT16, 0,
               NULL, bits == 8 ? (const void *)&middle : &zero, bits / 8);
}

/* ---- operators ---- */

static void put_node(phi_qnn_graph *g, const char *op, const char *inputs, const char *output)
{
    phi_buf node = phi_onnx_start_node(op, "", output, inputs, output);
    phi_proto_put_message(&g->proto, PHI_ONNX_GRAPH_NODE, &node);
}

void phi_qnn_dequantize(phi_qnn_graph *g, const char *input, const char *output, const char *coding)
{
    put_node(g, "DequantizeLinear", phi_qnn_name(g, "%s %s/scale %s/zero", input, coding, coding),
             output);
}

void phi_qnn_quantize(phi_qnn_graph *g, const char *input, const char *output, const char *coding)
{
    const char *codes = phi_qnn_name(g, "%s/q", output);
    put_node(g, "QuantizeLinear", phi_qnn_name(g, "%s %s/scale %s/zero", input, coding, coding),
             codes);
    phi_qnn_dequantize(g, codes, output, coding);
}

phi_buf phi_qnn_begin(const char *op, const char *inputs, phi_qnn_graph *g, const char *output)
{
    const char *raw = phi_qnn_name(g, "%s/raw", output);
    return phi_onnx_start_node(op, "", raw, inputs, raw);
}

void phi_qnn_end(phi_qnn_graph *g, phi_buf *node, const char *output, const char *coding)
{
    phi_proto_put_message(&g->proto, PHI_ONNX_GRAPH_NODE, node);
    phi_qnn_quantize(g, phi_qnn_name(g, "%s/raw", output), output, coding);
}

void phi_qnn_op(phi_qnn_graph *g, const char *op, const char *inputs, const char *output,
                const char *coding)
{
    phi_buf node = phi_qnn_begin(op, inputs, g, output);
    phi_qnn_end(g, &node, output, coding);
}

void phi_qnn_reshape(phi_qnn_graph *g, const char *input, const char *output, const char *coding,
                     uint32_t n_dims, const int64_t *dims)
{
    const uint64_t count = n_dims;
    const char *shape = phi_qnn_name(g, "%s/shape", output);
    put_tensor(g, shape, PHI_ONNX_INT64, 1, &count, dims, n_dims * sizeof *dims);
    phi_qnn_op(g, "Reshape", phi_qnn_name(g, "%s %s", input, shape), output, coding);
}

void phi_qnn_transpose(phi_qnn_graph *g, const char *input, const char *output, const char *coding,
                       uint32_t n_dims, const int64_t *order)
{
    phi_buf node = phi_qnn_begin("Transpose", input, g, output);
    phi_onnx_put_ints(&node, "perm", n_dims, order);
    phi_qnn_end(g, &node, output, coding);
}

/* ---- constants ---- */

void phi_qnn_constant(phi_qnn_graph *g, const char *name, const char *coding, uint32_t n_dims,
                      const uint64_t *dims, const uint16_t *codes)
{
    const char *stored = phi_qnn_name(g, "%s/codes", name);
    size_t count = 1;
    for (uint32_t i = 0; i < n_dims; i++) {
        count *= dims[i];
    }
    put_tensor(g, stored, PHI_ONNX_UINT16, n_dims, dims, codes, count * sizeof *codes);
    phi_qnn_dequantize(g, stored, name, coding);
}

const phi_export_tensor *phi_qnn_find(const phi_qnn_writer *w, phi_part part, uint32_t layer)
{
    char name[PHI_LIMIT_TENSOR_NAME_BYTES];
    phi_part_name(part, PHI_NAMING_GGUF, layer, name, sizeof name);
    for (uint32_t i = 0; i < w->export->count; i++) {
        if (strcmp(w->export->tensors[i].name, name) == 0) {
            return &w->export->tensors[i];
        }
    }
    return NULL;
}

static void put_vector(phi_qnn_graph *g, const char *name, const phi_export_tensor *tensor,
                       float *values, uint16_t *codes)
{
    const uint64_t count = tensor->cols;
    phi_qnn_range range = {0.0F, 0.0F};
    phi_status status = g->w->export->read_f32(g->w->export->user, tensor, 0, 1, values, g->w->err);
    if (status) {
        phi_qnn_remember(g, status);
        return;
    }
    for (uint32_t i = 0; i < tensor->cols; i++) {
        range.low = fminf(range.low, values[i]);
        range.high = fmaxf(range.high, values[i]);
    }
    for (uint32_t i = 0; i < tensor->cols; i++) {
        codes[i] = phi_qnn_code(range, values[i]);
    }
    phi_qnn_coding(g, name, range, 16);
    phi_qnn_constant(g, name, name, 1, &count, codes);
}

void phi_qnn_vector(phi_qnn_graph *g, const char *name, phi_part part, uint32_t layer)
{
    const phi_export_tensor *tensor = phi_qnn_find(g->w, part, layer);
    if (!tensor) {
        phi_qnn_remember(
            g, phi_fail(g->w->err, PHI_E_INTERNAL, "\"%s\" is not among the tensors", name));
        return;
    }
    float *values = phi_try_alloc(tensor->cols * sizeof *values);
    uint16_t *codes = phi_try_alloc(tensor->cols * sizeof *codes);
    if (values && codes) {
        put_vector(g, name, tensor, values, codes);
    } else {
        phi_qnn_remember(
            g, phi_fail(g->w->err, PHI_E_NO_MEMORY, "not enough memory for \"%s\"", name));
    }
    phi_free(values);
    phi_free(codes);
}

/* ---- products and norms ---- */

/* The zero points of rows, which are all 0: tools look for them. */
static void put_zeros(phi_qnn_graph *g, const char *matrix, uint32_t rows)
{
    const uint64_t dims[1] = {rows};
    int8_t *zeros = phi_try_alloc_zero(rows, sizeof *zeros);
    if (!zeros) {
        phi_qnn_remember(
            g, phi_fail(g->w->err, PHI_E_NO_MEMORY, "not enough memory for \"%s\"", matrix));
        return;
    }
    put_tensor(g, phi_qnn_name(g, "%s/zero", matrix), PHI_ONNX_INT8, 1, dims, zeros, rows);
    phi_free(zeros);
}

void phi_qnn_product(phi_qnn_graph *g, const char *matrix, const char *input, const char *output,
                     const char *coding)
{
    const phi_qnn_placed *placed = phi_qnn_placed_of(g->w, matrix);
    if (!placed) {
        phi_qnn_remember(g,
                         phi_fail(g->w->err, PHI_E_INTERNAL, "matrix \"%s\" has no place", matrix));
        return;
    }
    const uint64_t dims[2] = {placed->rows, placed->tensor->cols};
    const char *codes = phi_qnn_name(g, "%s/codes", matrix);
    const char *scale = phi_qnn_name(g, "%s/scale", matrix);
    phi_onnx_put_external(&g->proto, codes, PHI_ONNX_INT8, 2, dims, PHI_QNN_DATA, placed->at,
                          dims[0] * dims[1]);
    phi_onnx_put_external(&g->proto, scale, PHI_ONNX_FLOAT, 1, dims, PHI_QNN_DATA,
                          placed->scales_at, dims[0] * sizeof(float));
    put_zeros(g, matrix, placed->rows);
    phi_buf weight =
        phi_onnx_start_node("DequantizeLinear", "", matrix,
                            phi_qnn_name(g, "%s %s %s/zero", codes, scale, matrix), matrix);
    phi_onnx_put_int(&weight, "axis", 0);
    phi_proto_put_message(&g->proto, PHI_ONNX_GRAPH_NODE, &weight);
    phi_buf node = phi_qnn_begin("Gemm", phi_qnn_name(g, "%s %s", input, matrix), g, output);
    phi_onnx_put_int(&node, "transB", 1);
    phi_qnn_end(g, &node, output, coding);
}

void phi_qnn_norm(phi_qnn_graph *g, const char *input, phi_part part, uint32_t layer,
                  const char *output, phi_qnn_range range)
{
    const char *weight = phi_qnn_name(g, "%s/weight", output);
    phi_qnn_vector(g, weight, part, layer);
    phi_qnn_coding(g, output, range, 16);
    phi_buf node =
        phi_qnn_begin("RMSNormalization", phi_qnn_name(g, "%s %s", input, weight), g, output);
    phi_onnx_put_int(&node, "axis", -1);
    phi_onnx_put_float(&node, "epsilon", g->w->export->description->norm_eps);
    phi_qnn_end(g, &node, output, output);
}
