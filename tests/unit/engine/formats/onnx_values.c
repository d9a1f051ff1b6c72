#include "onnx_model.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "engine/tensor/half.h"

onnx_test now;

bool lies(const char *what)
{
    return now.spec.lie && strcmp(now.spec.lie, what) == 0;
}

/* ---- Protocol Buffers ---- */

static void put_varint(phi_buf *out, uint64_t value)
{
    for (; value >= 0x80; value >>= 7) {
        (void)phi_buf_append_char(out, (char)(value | 0x80));
    }
    (void)phi_buf_append_char(out, (char)value);
}

void put_number(phi_buf *out, uint32_t field, uint64_t value)
{
    put_varint(out, field << 3);
    put_varint(out, value);
}

void put_bytes(phi_buf *out, uint32_t field, const void *data, size_t bytes)
{
    put_varint(out, field << 3 | 2);
    put_varint(out, bytes);
    (void)phi_buf_append(out, data, bytes);
}

void put_text(phi_buf *out, uint32_t field, const char *text)
{
    put_bytes(out, field, text, strlen(text));
}

void put_message(phi_buf *out, uint32_t field, phi_buf *message)
{
    put_bytes(out, field, message->data, message->length_bytes);
    phi_buf_done(message);
    phi_buf_init(message, 1U << 24);
}

phi_buf fresh(void)
{
    phi_buf buf;
    phi_buf_init(&buf, 1U << 24);
    return buf;
}

/* ---- tensors ---- */

static void put_entry(phi_buf *tensor, const char *key, const char *value)
{
    phi_buf entry = fresh();
    put_text(&entry, 1, key);
    put_text(&entry, 2, value);
    put_message(tensor, 13, &entry);
    phi_buf_done(&entry);
}

/* Values of a tensor, in this file or the other. */
static void put_values(phi_buf *tensor, const void *data, size_t bytes)
{
    char number[32];
    if (now.spec.inside) {
        put_bytes(tensor, 9, data, lies("raw data that is short") ? bytes - 1 : bytes);
        return;
    }
    size_t offset = now.values.length_bytes;
    (void)phi_buf_append(&now.values, data, bytes);
    put_entry(tensor, "location",
              lies("a location above")       ? "../model.onnx.data"
              : lies("an absolute location") ? "/etc/hostname"
              : lies("a location inside")    ? "x/../../secret"
              : lies("a link")               ? "link"
              : lies("a missing file")       ? "other.data"
                                             : "model.onnx.data");
    (void)snprintf(number, sizeof number, "%zu",
                   lies("an offset past the end") ? (size_t)1 << 40 : offset);
    put_entry(tensor, "offset", lies("an offset in words") ? "-1" : number);
    (void)snprintf(number, sizeof number, "%zu", lies("a wrong length") ? bytes + 1 : bytes);
    put_entry(tensor, "length", number);
    put_number(tensor, 14, 1);
}

phi_buf make_tensor(const char *name, uint32_t type, uint64_t rows, uint64_t cols, const void *data,
                    size_t bytes)
{
    phi_buf tensor = fresh();
    phi_buf dims = fresh();
    if (rows) {
        put_number(&tensor, 1, lies("a negative dimension") ? (uint64_t)-1 : rows);
    }
    if (lies("dimensions that overflow") && rows) {
        put_number(&tensor, 1, 1ULL << 62);
    }
    if (lies("too many dimensions")) {
        for (int i = 0; i < 5; i++) {
            put_number(&tensor, 1, 1);
        }
    }
    put_varint(&dims, cols); /* packed, as protobuf's own writers have it */
    put_message(&tensor, 1, &dims);
    phi_buf_done(&dims);
    put_number(&tensor, 2, type);
    put_text(&tensor, 8, name);
    put_values(&tensor, data, bytes);
    return tensor;
}

void add_tensor(const char *name, uint32_t type, uint64_t rows, uint64_t cols, const void *data,
                size_t bytes)
{
    phi_buf tensor = make_tensor(name, type, rows, cols, data, bytes);
    put_message(&now.graph, 5, &tensor);
    phi_buf_done(&tensor);
}

/* Seeds of matrices are sums of their names' bytes. */
static uint32_t seed_of(const char *name)
{
    uint32_t seed = 0;
    for (; *name; name++) {
        seed = seed * 31 + (uint8_t)*name;
    }
    return seed % 1000;
}

float float_of(const char *name, uint64_t index)
{
    return fixture_value(seed_of(name), index);
}

void add_floats(const char *name, uint64_t rows, uint64_t cols, bool transposed)
{
    char full[128];
    uint64_t n_rows = rows ? rows : 1;
    uint64_t count = n_rows * cols;
    bool half = now.spec.bits == 16;
    float *wide = phi_alloc(count * sizeof *wide);
    uint16_t *narrow = phi_alloc(count * sizeof *narrow);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t at = transposed ? i % cols * n_rows + i / cols : i;
        wide[at] = float_of(name, i);
        narrow[at] = phi_half_of_float(wide[at]);
    }
    (void)snprintf(full, sizeof full, "%s.w", name);
    add_tensor(full, half ? FLOAT16 : FLOAT, transposed ? cols : rows, transposed ? rows : cols,
               half ? (const void *)narrow : wide, (size_t)count * (half ? 2 : 4));
    phi_free(wide);
    phi_free(narrow);
}

static uint8_t code_of(const char *name, uint64_t index, uint32_t bits)
{
    return (uint8_t)((index * 2654435761U + seed_of(name) * 97U) >> 9 & ((1U << bits) - 1));
}

static float scale_of(const char *name, uint64_t index)
{
    return fixture_value(seed_of(name) + 1, index) + 0.015625F;
}

static uint8_t zero_of(const char *name, uint64_t index, uint32_t bits)
{
    return code_of(name, index + 77777, bits);
}

static float real_zero_of(const char *name, uint64_t index)
{
    return (float)zero_of(name, index, now.spec.bits) + 0.375F;
}

/* Where the scale of element `index` is among those of a matrix of rows of `cols`. */
static uint64_t group_of(uint64_t index, uint64_t cols)
{
    return now.spec.one ? 0 : index / (now.spec.by_row ? cols : GROUP);
}

float coded_of(const char *name, uint64_t index, uint64_t cols)
{
    uint64_t g = group_of(index, cols);
    float zero = now.spec.real    ? real_zero_of(name, g)
                 : now.spec.zeros ? (float)zero_of(name, g, now.spec.bits)
                                  : (float)(1U << (now.spec.bits - 1));
    return ((float)code_of(name, index, now.spec.bits) - zero) * scale_of(name, g);
}

static void pack(uint8_t *out, uint64_t index, uint32_t bits, uint8_t code)
{
    out[index * bits / 8] |= (uint8_t)(code << index * bits % 8);
}

/* NAME_Q4, NAME_scales and NAME_zero_points. */
static void add_codes(const char *name, uint64_t rows, uint64_t cols)
{
    char full[128];
    uint64_t groups = cols / GROUP;
    size_t bytes = (size_t)(rows * cols * now.spec.bits / 8);
    size_t zero_row = (size_t)(groups * now.spec.bits + 7) / 8;
    uint8_t *codes = phi_alloc_zero(bytes, 1);
    float *scales = phi_alloc(rows * groups * sizeof *scales);
    uint8_t *zeros = phi_alloc_zero(rows * zero_row, 1);
    for (uint64_t i = 0; i < rows * cols; i++) {
        pack(codes, i, now.spec.bits, code_of(name, i, now.spec.bits));
    }
    for (uint64_t i = 0; i < rows * groups; i++) {
        scales[i] = scale_of(name, i);
        pack(zeros + i / groups * zero_row, i % groups, now.spec.bits,
             zero_of(name, i, now.spec.bits));
    }
    (void)snprintf(full, sizeof full, "%s_Q4", name);
    add_tensor(full, UINT8, rows, bytes / rows, codes, bytes);
    (void)snprintf(full, sizeof full, "%s_scales", name);
    add_tensor(full, FLOAT, 0, rows * groups, scales, (size_t)(rows * groups) * 4); /* flat */
    (void)snprintf(full, sizeof full, "%s_zero_points", name);
    for (uint64_t i = 0; i < rows * groups && now.spec.real; i++) {
        scales[i] = real_zero_of(name, i);
    }
    if (now.spec.real) {
        add_tensor(full, FLOAT, rows, groups, scales, (size_t)(rows * groups) * 4);
    } else if (now.spec.zeros) {
        add_tensor(full, UINT8, rows, zero_row, zeros, (size_t)rows * zero_row);
    }
    phi_free(codes);
    phi_free(scales);
    phi_free(zeros);
}

/* ---- nodes ---- */

void put_int(phi_buf *node, const char *name, int64_t value)
{
    phi_buf attribute = fresh();
    put_text(&attribute, 1, name);
    put_number(&attribute, 3, (uint64_t)value);
    put_number(&attribute, 20, 2);
    put_message(node, 5, &attribute);
    phi_buf_done(&attribute);
}

void put_word(phi_buf *node, const char *name, const char *value)
{
    phi_buf attribute = fresh();
    put_text(&attribute, 1, name);
    put_text(&attribute, 4, value);
    put_number(&attribute, 20, 3);
    put_message(node, 5, &attribute);
    phi_buf_done(&attribute);
}

void put_float(phi_buf *node, const char *name, float value)
{
    phi_buf attribute = fresh();
    put_text(&attribute, 1, name);
    put_varint(&attribute, 2 << 3 | 5);
    (void)phi_buf_append(&attribute, &value, sizeof value);
    put_message(node, 5, &attribute);
    phi_buf_done(&attribute);
}

static void put_names(phi_buf *node, uint32_t field, const char *names)
{
    while (*names) {
        size_t bytes = strcspn(names, " ");
        put_bytes(node, field, names, bytes == 1 && *names == '-' ? 0 : bytes);
        names += bytes + (names[bytes] == ' ');
    }
}

phi_buf start_node(const char *op, const char *name, const char *inputs, const char *outputs)
{
    phi_buf node = fresh();
    put_names(&node, 1, inputs);
    put_names(&node, 2, outputs);
    put_text(&node, 3, name);
    put_text(&node, 4, op);
    return node;
}

void end_node(phi_buf *node)
{
    put_message(&now.graph, 1, node);
    phi_buf_done(node);
}

void add_node(const char *op, const char *name, const char *inputs, const char *outputs)
{
    phi_buf node = start_node(op, name, inputs, outputs);
    end_node(&node);
}

/* 8-bit numbers that protobuf lists one by one, most of them in two bytes. */
static void add_listed(const char *name, uint32_t type, const uint8_t *numbers, uint64_t count)
{
    phi_buf tensor = fresh();
    phi_buf list = fresh();
    if (!now.spec.one) {
        put_number(&tensor, 1, count);
    }
    put_number(&tensor, 2, type);
    put_text(&tensor, 8, name);
    for (uint64_t i = lies("a zero point too few") ? 1 : 0; i < count; i++) {
        put_varint(&list, lies("a large zero point") ? 300 : numbers[i]);
    }
    put_message(&tensor, 5, &list);
    put_message(&now.graph, 5, &tensor);
    phi_buf_done(&tensor);
    phi_buf_done(&list);
}

void add_typed_codes(const char *name, uint64_t rows, uint64_t cols, bool lines)
{
    char full[3][128];
    uint64_t groups = now.spec.by_row || now.spec.one ? 1 : cols / GROUP;
    uint64_t params = now.spec.one ? 1 : rows * groups;
    uint64_t count = rows * cols;
    uint8_t flip = (uint8_t)(now.spec.zeros ? 0U : 1U << (now.spec.bits - 1));
    uint32_t type =
        now.spec.bits == 4 ? (now.spec.zeros ? UINT4 : INT4) : (now.spec.zeros ? UINT8 : INT8);
    uint8_t *codes = phi_alloc_zero(count, 1);
    float *scales = phi_alloc_zero(params + 1, sizeof *scales);
    uint8_t *zeros = phi_alloc_zero(params, 1);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t at = lines ? i % cols * rows + i / cols : i;
        pack(codes, at, now.spec.bits, (uint8_t)(code_of(name, i, now.spec.bits) ^ flip));
    }
    for (uint64_t i = 0; i < params; i++) {
        uint64_t at = lines ? i % groups * rows + i / groups : i;
        scales[at] = scale_of(name, i);
        pack(zeros, at, now.spec.bits, zero_of(name, i, now.spec.bits));
    }
    (void)snprintf(full[0], sizeof full[0], "%s_Q4", name);
    (void)snprintf(full[1], sizeof full[1], "%s_scales", name);
    (void)snprintf(full[2], sizeof full[2], "%s_zeros", name);
    uint64_t first = groups == 1 ? 0 : lines ? groups : rows;
    uint64_t second = groups == 1 ? params : lines ? rows : groups;
    add_tensor(full[0], type, lines ? cols : rows, lines ? rows : cols, codes,
               (size_t)(count * now.spec.bits / 8));
    add_tensor(full[1], FLOAT, first, lies("a scale too many") ? second + 1 : second, scales,
               (size_t)(params + (lies("a scale too many") ? 1 : 0)) * sizeof *scales);
    if (now.spec.listed) {
        add_listed(full[2], type, zeros, params);
    } else if (now.spec.zeros) {
        add_tensor(full[2], type, first, second, zeros, (size_t)(params * now.spec.bits + 7) / 8);
    }
    phi_free(codes);
    phi_free(scales);
    phi_free(zeros);
}

static void add_dequantized(const char *name, uint64_t rows, uint64_t cols)
{
    char inputs[400];
    char made[128];
    char turned[128];
    bool lines = now.spec.qdq == 1;
    add_typed_codes(name, rows, cols, lines);
    (void)snprintf(inputs, sizeof inputs,
                   now.spec.zeros ? "%s_Q4 %s_scales %s_zeros" : "%s_Q4 %s_scales", name, name,
                   name);
    (void)snprintf(made, sizeof made, lines ? "%s.w" : "%s.t", name);
    phi_buf node = start_node("DequantizeLinear", made, inputs, made);
    if (now.spec.by_row) {
        put_int(&node, "axis", lines != lies("a scale for each input") ? 1 : 0);
    } else if (!now.spec.one) {
        put_int(&node, "axis", lines != lies("blocks of outputs") ? 0 : 1);
        put_int(&node, "block_size", GROUP);
    }
    end_node(&node);
    if (!lines) {
        (void)snprintf(turned, sizeof turned, "%s.w", name);
        add_node("Transpose", turned, made, turned);
    }
}

/* As onnxruntime's quantize_dynamic has it. */
static void add_integers(const char *name, const char *input, const char *output, uint64_t rows,
                         uint64_t cols)
{
    char names[400];
    char made[400];
    add_typed_codes(name, rows, cols, true);
    (void)snprintf(made, sizeof made, "%s.r %s.rs %s.rz", name, name, name);
    add_node("DynamicQuantizeLinear", made, input, made);
    (void)snprintf(names, sizeof names,
                   now.spec.zeros ? "%s.r %s_Q4 %s.rz %s_zeros" : "%s.r %s_Q4 %s.rz", name, name,
                   name, name);
    (void)snprintf(made, sizeof made, "%s.i", name);
    add_node("MatMulInteger", made, names, made);
    (void)snprintf(names, sizeof names, "%s.c", name);
    phi_buf cast = start_node("Cast", names, made, names);
    put_int(&cast, "to", FLOAT);
    end_node(&cast);
    (void)snprintf(names, sizeof names,
                   lies("activations without scale") ? "x %s_scales" : "%s.rs %s_scales", name,
                   name);
    (void)snprintf(made, sizeof made, "%s.s", name);
    add_node("Mul", made, names, made);
    (void)snprintf(names, sizeof names, "%s.c %s.s", name, name);
    add_node("Mul", name, names, output);
}

void add_product(const char *name, const char *input, const char *output, uint64_t rows,
                 uint64_t cols)
{
    char inputs[320];
    if (now.spec.integers) {
        add_integers(name, input, output, rows, cols);
        return;
    }
    if (now.spec.bits >= 16 || now.spec.qdq) {
        (void)snprintf(inputs, sizeof inputs, "%s %s.w", input, name);
        if (now.spec.qdq) {
            add_dequantized(name, rows, cols);
        } else {
            add_floats(name, rows, cols, true);
        }
        add_node("MatMul", name, inputs, output);
        return;
    }
    (void)snprintf(inputs, sizeof inputs,
                   now.spec.own_bias                 ? "%s %s_Q4 %s_scales - - %s.bias.w"
                   : now.spec.zeros || now.spec.real ? "%s %s_Q4 %s_scales %s_zero_points"
                                                     : "%s %s_Q4 %s_scales",
                   input, name, name, name);
    add_codes(name, rows, cols);
    phi_buf node = start_node("MatMulNBits", name, inputs, output);
    put_text(&node, 7, "com.microsoft");
    put_int(&node, "K", (int64_t)cols);
    put_int(&node, "N", (int64_t)rows);
    put_int(&node, "bits", lies("codes of 3 bits") ? 3 : now.spec.bits);
    put_int(&node, "block_size", lies("a block of 0") ? 0 : GROUP);
    put_int(&node, "accuracy_level", 4);
    if (lies("weights packed for a GPU")) {
        put_int(&node, "weight_prepacked", 1);
    }
    end_node(&node);
}
