/* A folder of ONNX Runtime GenAI, written here byte by byte: every matrix and every setting is what
 * the graph says, a graph that is no phi3 decoder is refused by the node that is in the way, and so
 * is every lie about where values lie. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/formats/onnx.h"
#include "engine/tensor/half.h"
#include "fixture.h"

enum { E = 32, L = 2, H = 4, HKV = 2, D = 8, F = 64, V = 96, CTX = 128, HALF = D / 2, GROUP = 16 };
enum { FLOAT = 1, UINT8 = 2, INT8 = 3, INT64 = 7, FLOAT16 = 10, UINT4 = 21, INT4 = 22 };

/* What kind of folder, and what is wrong with it ("": nothing). */
typedef struct spec {
    uint32_t bits; /* 32, 16: MatMul; 8, 4, 2: MatMulNBits */
    int qdq;       /* DequantizeLinear: 1 of [cols][rows], 2 of [rows][cols] and Transpose */
    bool integers; /* DynamicQuantizeLinear and MatMulInteger */
    bool by_row;   /* qdq, integers: a scale for each row of W */
    bool one;      /* qdq, integers: one scale for all */
    bool apart;    /* q, k, v */
    bool fused_up; /* gate and up in one, and Split */
    bool tied;
    bool long_rope;
    bool joint;  /* long_rope: both tables in one, without an If */
    bool zeros;  /* zero points */
    bool real;   /* that are no codes, of MatMulNBits */
    bool listed; /* all 3, and not kept as bytes */
    bool inside; /* values in the model's own file */
    int64_t window;
    const char *lie;
} spec;

static fixture f;
static spec now;
static phi_buf graph;
static phi_buf values; /* the external file */
static phi_onnx *onnx;

static bool lies(const char *what)
{
    return now.lie && strcmp(now.lie, what) == 0;
}

/* ---- Protocol Buffers ---- */

static void put_varint(phi_buf *out, uint64_t value)
{
    for (; value >= 0x80; value >>= 7) {
        (void)phi_buf_append_char(out, (char)(value | 0x80));
    }
    (void)phi_buf_append_char(out, (char)value);
}

static void put_number(phi_buf *out, uint32_t field, uint64_t value)
{
    put_varint(out, field << 3);
    put_varint(out, value);
}

static void put_bytes(phi_buf *out, uint32_t field, const void *data, size_t bytes)
{
    put_varint(out, field << 3 | 2);
    put_varint(out, bytes);
    (void)phi_buf_append(out, data, bytes);
}

static void put_text(phi_buf *out, uint32_t field, const char *text)
{
    put_bytes(out, field, text, strlen(text));
}

static void put_message(phi_buf *out, uint32_t field, phi_buf *message)
{
    put_bytes(out, field, message->data, message->length_bytes);
    phi_buf_done(message);
    phi_buf_init(message, 1U << 24);
}

static phi_buf fresh(void)
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
    if (now.inside) {
        put_bytes(tensor, 9, data, lies("raw data that is short") ? bytes - 1 : bytes);
        return;
    }
    size_t offset = values.length_bytes;
    (void)phi_buf_append(&values, data, bytes);
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

static phi_buf make_tensor(const char *name, uint32_t type, uint64_t rows, uint64_t cols,
                           const void *data, size_t bytes)
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

static void add_tensor(const char *name, uint32_t type, uint64_t rows, uint64_t cols,
                       const void *data, size_t bytes)
{
    phi_buf tensor = make_tensor(name, type, rows, cols, data, bytes);
    put_message(&graph, 5, &tensor);
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

/* NAME.w: floats [rows][cols] (rows 0: a vector), stored as they come or transposed. */
static void add_floats(const char *name, uint64_t rows, uint64_t cols, bool transposed)
{
    char full[128];
    uint64_t n_rows = rows ? rows : 1;
    uint64_t count = n_rows * cols;
    bool half = now.bits == 16;
    float *wide = phi_alloc(count * sizeof *wide);
    uint16_t *narrow = phi_alloc(count * sizeof *narrow);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t at = transposed ? i % cols * n_rows + i / cols : i;
        wide[at] = fixture_value(seed_of(name), i);
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
    return now.listed ? 3 : code_of(name, index + 77777, bits);
}

static float real_zero_of(const char *name, uint64_t index)
{
    return (float)zero_of(name, index, now.bits) + 0.375F;
}

/* Where the scale of element `index` is among those of a matrix of rows of `cols`. */
static uint64_t group_of(uint64_t index, uint64_t cols)
{
    return now.one ? 0 : index / (now.by_row ? cols : GROUP);
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
    size_t bytes = (size_t)(rows * cols * now.bits / 8);
    size_t zero_row = (size_t)(groups * now.bits + 7) / 8;
    uint8_t *codes = phi_alloc_zero(bytes, 1);
    float *scales = phi_alloc(rows * groups * sizeof *scales);
    uint8_t *zeros = phi_alloc_zero(rows * zero_row, 1);
    for (uint64_t i = 0; i < rows * cols; i++) {
        pack(codes, i, now.bits, code_of(name, i, now.bits));
    }
    for (uint64_t i = 0; i < rows * groups; i++) {
        scales[i] = scale_of(name, i);
        pack(zeros + i / groups * zero_row, i % groups, now.bits, zero_of(name, i, now.bits));
    }
    (void)snprintf(full, sizeof full, "%s_Q4", name);
    add_tensor(full, UINT8, rows, bytes / rows, codes, bytes);
    (void)snprintf(full, sizeof full, "%s_scales", name);
    add_tensor(full, FLOAT, 0, rows * groups, scales, (size_t)(rows * groups) * 4); /* flat */
    (void)snprintf(full, sizeof full, "%s_zero_points", name);
    for (uint64_t i = 0; i < rows * groups && now.real; i++) {
        scales[i] = real_zero_of(name, i);
    }
    if (now.real) {
        add_tensor(full, FLOAT, rows, groups, scales, (size_t)(rows * groups) * 4);
    } else if (now.zeros) {
        add_tensor(full, UINT8, rows, zero_row, zeros, (size_t)rows * zero_row);
    }
    phi_free(codes);
    phi_free(scales);
    phi_free(zeros);
}

/* ---- nodes ---- */

static void put_int(phi_buf *node, const char *name, int64_t value)
{
    phi_buf attribute = fresh();
    put_text(&attribute, 1, name);
    put_number(&attribute, 3, (uint64_t)value);
    put_number(&attribute, 20, 2);
    put_message(node, 5, &attribute);
    phi_buf_done(&attribute);
}

static void put_float(phi_buf *node, const char *name, float value)
{
    phi_buf attribute = fresh();
    put_text(&attribute, 1, name);
    put_varint(&attribute, 2 << 3 | 5);
    (void)phi_buf_append(&attribute, &value, sizeof value);
    put_message(node, 5, &attribute);
    phi_buf_done(&attribute);
}

/* Inputs and outputs are separated by spaces; "-" is one that is not given. */
static void put_names(phi_buf *node, uint32_t field, const char *names)
{
    while (*names) {
        size_t bytes = strcspn(names, " ");
        put_bytes(node, field, names, bytes == 1 && *names == '-' ? 0 : bytes);
        names += bytes + (names[bytes] == ' ');
    }
}

static phi_buf start_node(const char *op, const char *name, const char *inputs, const char *outputs)
{
    phi_buf node = fresh();
    put_names(&node, 1, inputs);
    put_names(&node, 2, outputs);
    put_text(&node, 3, name);
    put_text(&node, 4, op);
    return node;
}

static void end_node(phi_buf *node)
{
    put_message(&graph, 1, node);
    phi_buf_done(node);
}

static void add_node(const char *op, const char *name, const char *inputs, const char *outputs)
{
    phi_buf node = start_node(op, name, inputs, outputs);
    end_node(&node);
}

/* 8-bit numbers, all of them 3, that protobuf lists one by one. */
static void add_listed(const char *name, uint32_t type, uint64_t count)
{
    phi_buf tensor = fresh();
    phi_buf list = fresh();
    if (!now.one) {
        put_number(&tensor, 1, count);
    }
    put_number(&tensor, 2, type);
    put_text(&tensor, 8, name);
    for (uint64_t i = 0; i < count; i++) {
        put_varint(&list, lies("another zero point") && i == 1 ? 4
                          : lies("a large zero point")         ? 300
                                                               : 3);
    }
    put_message(&tensor, 5, &list);
    put_message(&graph, 5, &tensor);
    phi_buf_done(&tensor);
    phi_buf_done(&list);
}

/* The same as a matrix of its own type, NAME_Q4, NAME_scales and NAME_zeros: signed where there are
 * no zero points. `lines`: as MatMul takes it, [cols][rows]. */
static void add_typed_codes(const char *name, uint64_t rows, uint64_t cols, bool lines)
{
    char full[3][128];
    uint64_t groups = now.by_row || now.one ? 1 : cols / GROUP;
    uint64_t params = now.one ? 1 : rows * groups;
    uint64_t count = rows * cols;
    uint8_t flip = (uint8_t)(now.zeros ? 0U : 1U << (now.bits - 1));
    uint32_t type = now.bits == 4 ? (now.zeros ? UINT4 : INT4) : (now.zeros ? UINT8 : INT8);
    uint8_t *codes = phi_alloc_zero(count, 1);
    float *scales = phi_alloc_zero(params + 1, sizeof *scales);
    uint8_t *zeros = phi_alloc_zero(params, 1);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t at = lines ? i % cols * rows + i / cols : i;
        pack(codes, at, now.bits, (uint8_t)(code_of(name, i, now.bits) ^ flip));
    }
    for (uint64_t i = 0; i < params; i++) {
        uint64_t at = lines ? i % groups * rows + i / groups : i;
        scales[at] = scale_of(name, i);
        pack(zeros, at, now.bits, zero_of(name, i, now.bits));
    }
    (void)snprintf(full[0], sizeof full[0], "%s_Q4", name);
    (void)snprintf(full[1], sizeof full[1], "%s_scales", name);
    (void)snprintf(full[2], sizeof full[2], "%s_zeros", name);
    uint64_t first = groups == 1 ? 0 : lines ? groups : rows;
    uint64_t second = groups == 1 ? params : lines ? rows : groups;
    add_tensor(full[0], type, lines ? cols : rows, lines ? rows : cols, codes,
               (size_t)(count * now.bits / 8));
    add_tensor(full[1], FLOAT, first, lies("a scale too many") ? second + 1 : second, scales,
               (size_t)(params + (lies("a scale too many") ? 1 : 0)) * sizeof *scales);
    if (now.listed) {
        add_listed(full[2], type, params);
    } else if (now.zeros) {
        add_tensor(full[2], type, first, second, zeros, (size_t)(params * now.bits + 7) / 8);
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
    bool lines = now.qdq == 1;
    add_typed_codes(name, rows, cols, lines);
    (void)snprintf(inputs, sizeof inputs,
                   now.zeros ? "%s_Q4 %s_scales %s_zeros" : "%s_Q4 %s_scales", name, name, name);
    (void)snprintf(made, sizeof made, lines ? "%s.w" : "%s.t", name);
    phi_buf node = start_node("DequantizeLinear", made, inputs, made);
    if (now.by_row) {
        put_int(&node, "axis", lines != lies("a scale for each input") ? 1 : 0);
    } else if (!now.one) {
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
                   now.zeros ? "%s.r %s_Q4 %s.rz %s_zeros" : "%s.r %s_Q4 %s.rz", name, name, name,
                   name);
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

/* y = W x with the matrix `name`, as a node of the same name. */
static void add_product(const char *name, const char *input, const char *output, uint64_t rows,
                        uint64_t cols)
{
    char inputs[320];
    if (now.integers) {
        add_integers(name, input, output, rows, cols);
        return;
    }
    if (now.bits >= 16 || now.qdq) {
        (void)snprintf(inputs, sizeof inputs, "%s %s.w", input, name);
        if (now.qdq) {
            add_dequantized(name, rows, cols);
        } else {
            add_floats(name, rows, cols, true);
        }
        add_node("MatMul", name, inputs, output);
        return;
    }
    (void)snprintf(inputs, sizeof inputs,
                   now.zeros || now.real ? "%s %s_Q4 %s_scales %s_zero_points"
                                         : "%s %s_Q4 %s_scales",
                   input, name, name, name);
    add_codes(name, rows, cols);
    phi_buf node = start_node("MatMulNBits", name, inputs, output);
    put_text(&node, 7, "com.microsoft");
    put_int(&node, "K", (int64_t)cols);
    put_int(&node, "N", (int64_t)rows);
    put_int(&node, "bits", lies("codes of 3 bits") ? 3 : now.bits);
    put_int(&node, "block_size", lies("a block of 0") ? 0 : GROUP);
    put_int(&node, "accuracy_level", 4);
    if (lies("weights packed for a GPU")) {
        put_int(&node, "weight_prepacked", 1);
    }
    end_node(&node);
}

static void add_norm(const char *name, const char *inputs, const char *outputs)
{
    char all[320];
    bool skips = strchr(inputs, ' ') != NULL;
    (void)snprintf(all, sizeof all, "%s %s.w", inputs, name);
    add_floats(name, 0, E, false);
    phi_buf node =
        start_node(skips ? "SkipSimplifiedLayerNormalization" : "SimplifiedLayerNormalization",
                   name, all, outputs);
    put_text(&node, 7, skips ? "com.microsoft" : "");
    put_float(&node, "epsilon", lies("another epsilon") && !skips ? 1e-6F : 1e-5F);
    end_node(&node);
}

static void fill_table(float *cos_table, float *sin_table, uint32_t rows, bool is_long)
{
    double factor = now.long_rope ? sqrt(1.0 + log(4.0) / log(32.0)) : 1.0;
    for (uint32_t p = 0; p < rows; p++) {
        for (uint32_t i = 0; i < HALF; i++) {
            double angle = p / ((is_long ? 1.0 + i : 1.0) * pow(10000.0, i / (double)HALF));
            cos_table[p * HALF + i] = (float)(cos(angle) * factor);
            sin_table[p * HALF + i] = (float)(sin(angle) * factor);
        }
    }
    if (lies("two tables in one")) {
        size_t at = (size_t)3 * CTX / 4 * HALF;
        memcpy(cos_table + at, cos_table, (size_t)CTX / 4 * HALF * sizeof *cos_table);
        memcpy(sin_table + at, sin_table, (size_t)CTX / 4 * HALF * sizeof *sin_table);
    }
    if (lies("a table of zeros")) {
        memset(sin_table, 0, rows * HALF * sizeof *sin_table);
    }
}

static void add_branch(phi_buf *node, const char *name, const float *cos_table,
                       const float *sin_table, uint32_t rows)
{
    phi_buf attribute = fresh();
    phi_buf branch = fresh();
    const float *tables[2] = {cos_table, sin_table};
    static const char *const outputs[2] = {"c", "s"};
    for (int i = 0; i < 2; i++) {
        phi_buf constant = start_node("Constant", outputs[i], "", outputs[i]);
        phi_buf value = fresh();
        phi_buf tensor = make_tensor(outputs[i], FLOAT, rows, HALF, tables[i],
                                     (size_t)rows * HALF * sizeof(float));
        put_text(&value, 1, "value");
        put_message(&value, 5, &tensor);
        put_message(&constant, 5, &value);
        put_message(&branch, 1, &constant);
        phi_buf output = fresh();
        put_text(&output, 1, outputs[i]);
        put_message(&branch, 12, &output);
        phi_buf_done(&constant);
        phi_buf_done(&value);
        phi_buf_done(&tensor);
        phi_buf_done(&output);
    }
    put_text(&attribute, 1, name);
    put_message(&attribute, 6, &branch);
    put_message(node, 5, &attribute);
    phi_buf_done(&attribute);
    phi_buf_done(&branch);
}

static void add_rope(void)
{
    enum { ORIGINAL = 32 };
    static float tables[4][CTX * HALF];
    static const int64_t original = ORIGINAL;
    fill_table(tables[0], tables[1], now.long_rope ? ORIGINAL : CTX, false);
    fill_table(tables[2], tables[3], CTX, true);
    if (now.joint) {
        static float joint[2][(ORIGINAL + CTX) * HALF];
        for (int i = 0; i < 2; i++) {
            memcpy(joint[i], tables[i], ORIGINAL * HALF * sizeof(float));
            memcpy(joint[i] + ORIGINAL * HALF, tables[i + 2], sizeof tables[0]);
            add_tensor(i ? "sin" : "cos", FLOAT, ORIGINAL + CTX, HALF, joint[i], sizeof joint[0]);
        }
        return;
    }
    if (!now.long_rope) {
        add_tensor("cos", FLOAT, CTX, HALF, tables[0], sizeof tables[0]);
        add_tensor("sin", FLOAT, CTX, HALF, tables[1], sizeof tables[1]);
        return;
    }
    bool inside = now.inside;
    now.inside = true; /* a threshold is a constant of the graph */
    add_tensor("original", INT64, 0, 1, &original, sizeof original);
    now.inside = inside;
    if (lies("sines without a choice")) {
        add_tensor("one_sin", FLOAT, ORIGINAL, HALF, tables[1], sizeof tables[1] / CTX * ORIGINAL);
    }
    if (lies("sines by another length")) {
        static const int64_t other = ORIGINAL + 1;
        now.inside = true;
        add_tensor("other", INT64, 0, 1, &other, sizeof other);
        now.inside = inside;
        add_node("Greater", "greater2", "total64 other", "is_other");
        phi_buf second = start_node("If", "if2", "is_other", "other_cos one_sin");
        add_branch(&second, "then_branch", tables[2], tables[3], CTX);
        add_branch(&second, "else_branch", tables[0], tables[1], ORIGINAL);
        end_node(&second);
    }
    add_node("Greater", "greater", "total64 original", "is_long");
    phi_buf node = start_node("If", "if", "is_long", "cos sin");
    add_branch(&node, "then_branch", tables[2], tables[3], CTX);
    add_branch(&node, "else_branch", tables[0], tables[1], ORIGINAL);
    end_node(&node);
}

static void add_attention(const char *name, const char *inputs, const char *output)
{
    char all[400];
    bool one_sin = lies("sines without a choice") || lies("sines by another length");
    (void)snprintf(all, sizeof all, "%s past_k past_v seqlens total cos %s%s", inputs,
                   one_sin ? "one_sin" : "sin", lies("an attention sink") ? " - - sink" : "");
    phi_buf node = start_node("GroupQueryAttention", name, all, output);
    put_text(&node, 7, "com.microsoft");
    put_int(&node, "num_heads", H);
    put_int(&node, "kv_num_heads", HKV);
    put_int(&node, "local_window_size", now.window);
    put_int(&node, "do_rotary", lies("no rotary embedding") ? 0 : 1);
    put_int(&node, "rotary_interleaved", lies("interleaved angles") ? 1 : 0);
    put_float(&node, "scale", lies("another scale") ? 1.0F : 1.0F / sqrtf(D));
    put_float(&node, "softcap", lies("a soft cap") ? 30.0F : 0.0F);
    end_node(&node);
}

static void add_layer(int layer, const char *before, const char *branch)
{
    char name[6][64];
    char inputs[320];
    char norm[64];
    static const char *const parts[] = {"in_norm", "q", "k", "v", "o", "ff_norm"};
    for (int i = 0; i < 6; i++) {
        (void)snprintf(name[i], sizeof name[i], "%d.%s", layer, parts[i]);
    }
    (void)snprintf(inputs, sizeof inputs, *branch ? "%s %s" : "%s", before, branch);
    (void)snprintf(norm, sizeof norm, *branch ? "n1_%d - - s1_%d" : "n1_%d", layer, layer);
    add_norm(name[0], inputs, norm);
    (void)snprintf(norm, sizeof norm, "n1_%d", layer);
    if (now.apart) {
        add_product(name[1], norm, name[1], H * D, E);
        add_product(name[2], lies("keys of something else") ? before : norm, name[2], HKV * D, E);
        add_product(name[3], norm, name[3], HKV * D, E);
        (void)snprintf(inputs, sizeof inputs, "%s %s %s", name[1], name[2], name[3]);
    } else {
        add_product(name[1], norm, lies("a bias") && layer == 0 ? "unbiased" : name[1],
                    (H + 2 * HKV) * D, E);
        if (lies("a bias") && layer == 0) {
            add_floats("bias", 0, (H + 2 * HKV) * D, false);
            add_node("Add", "biased", "unbiased bias.w", name[1]);
        }
        (void)snprintf(inputs, sizeof inputs, "%s - -", name[1]);
    }
    (void)snprintf(norm, sizeof norm, "a%d", layer);
    add_attention(norm, inputs, norm);
    add_product(name[4], norm, name[4], E, H * D);
    const char *residual = *branch ? NULL : before;
    (void)snprintf(norm, sizeof norm, "s1_%d", layer);
    (void)snprintf(inputs, sizeof inputs, "%s %s",
                   lies("another residual") && layer == 1 ? "x"
                   : residual                             ? residual
                                                          : norm,
                   name[4]);
    (void)snprintf(norm, sizeof norm, "n2_%d - - s2_%d", layer, layer);
    add_norm(name[5], inputs, norm);
}

static void add_feed_forward(int layer)
{
    char names[8][64];
    char inputs[512];
    static const char *const parts[] = {"n2_",  "gate",    "up",   "sigmoid",
                                        "silu", "product", "down", "both"};
    for (int i = 0; i < 8; i++) {
        if (i == 0) {
            (void)snprintf(names[i], sizeof names[i], "n2_%d", layer);
        } else {
            (void)snprintf(names[i], sizeof names[i], "%d.%s", layer, parts[i]);
        }
    }
    if (now.fused_up) {
        add_product(names[7], names[0], names[7], 2 * F, E);
        bool swap = lies("halves the other way round");
        (void)snprintf(inputs, sizeof inputs, "%s %s", names[swap ? 2 : 1], names[swap ? 1 : 2]);
        phi_buf node = start_node("Split", names[7], names[7], inputs);
        put_int(&node, "axis", -1);
        put_int(&node, "num_outputs", 2);
        end_node(&node);
    } else {
        add_product(names[1], names[0], names[1], F, E);
        add_product(names[2], names[0], names[2], F, E);
    }
    add_node(lies("another activation") ? "Gelu" : "Sigmoid", names[3], names[1], names[3]);
    (void)snprintf(inputs, sizeof inputs, "%s %s", names[1], names[3]);
    add_node("Mul", names[4], inputs, names[4]);
    (void)snprintf(inputs, sizeof inputs, "%s %s", names[2], names[4]);
    add_node("Mul", names[5], inputs, names[5]);
    add_product(names[6], names[5], names[6], E, F);
}

static void add_positions(void)
{
    add_node("ReduceSum", "sum", "attention_mask", "sum");
    add_node("Cast", "seqlens", "sum", "seqlens");
    add_node("Shape", "shape", "attention_mask", "total64");
    add_node("Cast", "total", "total64", "total");
    if (lies("an operator among positions")) {
        add_node("MatMul", "odd", "attention_mask", "past_mask");
        add_node("Add", "odd_add", "past_mask past_mask", "odd_total");
    }
}

static void add_embedding(void)
{
    if (now.integers && now.one) {
        add_typed_codes("embed", V, E, false);
        add_node("Gather", "embed", "embed_Q4 input_ids", "picked");
        add_node("DequantizeLinear", "widened",
                 now.zeros ? "picked embed_scales embed_zeros" : "picked embed_scales", "x");
        return;
    }
    if (!now.tied) {
        add_floats("embed", V, E, false);
        add_node("Gather", "embed", "embed.w input_ids", "x");
        return;
    }
    if (now.bits >= 16) {
        add_node("Transpose", "turn", "head.w", "table");
        add_node("Gather", "embed", "table input_ids", "x");
        return;
    }
    phi_buf node = start_node("GatherBlockQuantized", "embed", "table input_ids scales2d", "x");
    add_node("Reshape", "reshape", "head_Q4 shape_a", "table");
    add_node("Reshape", "reshape2", "head_scales shape_b", "scales2d");
    put_int(&node, "bits", now.bits);
    put_int(&node, "block_size", GROUP);
    end_node(&node);
}

static void make_graph(void)
{
    graph = fresh();
    add_positions();
    add_rope();
    add_embedding();
    for (int layer = 0; layer < L; layer++) {
        char before[32] = "x";
        char branch[32] = "";
        if (layer > 0) {
            (void)snprintf(before, sizeof before, "s2_%d", layer - 1);
            (void)snprintf(branch, sizeof branch, "%d.down", layer - 1);
        }
        add_layer(layer, before, branch);
        add_feed_forward(layer);
    }
    add_norm("final", "s2_1 1.down", "final");
    if (lies("an operator at the end")) {
        add_product("head", "final", "raw", V, E);
        add_node("Tanh", "tanh", "raw", "logits");
    } else {
        add_product("head", "final", "logits", lies("a small head") ? V / 2 : V, E);
    }
    if (lies("a stray node")) {
        add_node("Softmax", "stray", "logits", "probabilities");
    }
    if (lies("a name twice")) {
        add_node("Relu", "again", "x", "final");
    }
    if (lies("a sparse tensor")) {
        put_bytes(&graph, 15, "", 0);
    }
}

#define GENAI                                                                                      \
    "{\"model\":{\"type\":\"phi3\",\"context_length\":128,\"vocab_size\":96,\"bos_token_id\":1,"   \
    "\"eos_token_id\":[2,3],\"pad_token_id\":0,\"decoder\":{\"filename\":\"model.onnx\","          \
    "\"head_size\":8,\"hidden_size\":32,\"num_attention_heads\":4,\"num_hidden_layers\":2,"        \
    "\"num_key_value_heads\":2,\"outputs\":{\"logits\":\"logits\"}}}}"

static phi_status open_spec(const spec *wanted, phi_err *err)
{
    phi_buf model = fresh();
    phi_buf_done(&graph);
    phi_buf_done(&values);
    values = fresh();
    now = *wanted;
    make_graph();
    put_number(&model, 1, 10);
    put_message(&model, 7, &graph);
    if (lies("operators of its own")) {
        put_bytes(&model, 25, "", 0);
    }
    (void)fixture_write(&f, "model.onnx", model.data,
                        lies("half a file") ? model.length_bytes / 2 : model.length_bytes);
    (void)fixture_write(&f, "model.onnx.data", phi_buf_text(&values), values.length_bytes);
    phi_buf_done(&model);
    phi_onnx_close(onnx);
    onnx = NULL;
    return phi_onnx_open(f.dir, &onnx, err);
}

static const phi_stored *find(const char *name)
{
    for (size_t i = 0; i < phi_onnx_count(onnx); i++) {
        if (strcmp(phi_onnx_at(onnx, i)->name, name) == 0) {
            return phi_onnx_at(onnx, i);
        }
    }
    fail_msg("%s is not listed", name);
    return NULL;
}

/* Every value of the matrix called `name` is what was written under `source`. */
static void check_matrix(const char *name, const char *source, uint32_t rows, uint32_t cols)
{
    const phi_stored *stored = find(name);
    size_t count = (size_t)rows * cols;
    float *read = phi_alloc(count * sizeof *read);
    phi_err err;
    assert_int_equal(stored->rows, rows);
    assert_int_equal(stored->cols, cols);
    if (stored->kind == PHI_STORED_CODED) {
        phi_coded_buffer buffer = {0};
        assert_int_equal(phi_coded_read_f32(&stored->coded, 0, rows, &buffer, read, &err), PHI_OK);
        phi_coded_buffer_done(&buffer);
    } else {
        void *bytes = phi_alloc((size_t)stored->data.bytes);
        assert_int_equal(phi_file_read_at(stored->data.file, stored->data.offset, bytes,
                                          (size_t)stored->data.bytes, &err),
                         PHI_OK);
        phi_dtype_widen(stored->dtype, bytes, count, read);
        phi_free(bytes);
    }
    for (size_t i = 0; i < count; i++) {
        float right = fixture_value(seed_of(source), i);
        size_t at = stored->kind == PHI_STORED_COLUMNS ? i % cols * rows + i / cols : i;
        if (stored->kind == PHI_STORED_CODED) {
            uint64_t g = group_of(i, cols);
            float zero = now.real    ? real_zero_of(source, g)
                         : now.zeros ? (float)zero_of(source, g, now.bits)
                                     : (float)(1U << (now.bits - 1));
            right = ((float)code_of(source, i, now.bits) - zero) * scale_of(source, g);
        }
        if (fabsf(read[at] - right) > 1e-4F) {
            fail_msg("%s: element %zu is %g, not %g", name, i, (double)read[at], (double)right);
        }
    }
    phi_free(read);
}

static void open_and_check(const spec *wanted)
{
    phi_err err = {.message = ""};
    phi_status status = open_spec(wanted, &err);
    if (status) {
        fail_msg("%s", err.message);
    }
    for (int i = 0; i < L; i++) {
        static const char *const pieces[] = {"q", "k", "v"};
        char name[96];
        char source[32];
        (void)snprintf(source, sizeof source, "%d.q", i);
        (void)snprintf(name, sizeof name, "model.layers.%d.self_attn.qkv_proj.weight", i);
        if (!now.apart) {
            check_matrix(name, source, (H + 2 * HKV) * D, E);
        }
        for (int j = 0; j < 3 && now.apart; j++) {
            (void)snprintf(source, sizeof source, "%d.%s", i, pieces[j]);
            (void)snprintf(name, sizeof name, "model.layers.%d.self_attn.%s_proj.weight", i,
                           pieces[j]);
            check_matrix(name, source, j ? HKV * D : H * D, E);
        }
        (void)snprintf(source, sizeof source, now.fused_up ? "%d.both" : "%d.gate", i);
        (void)snprintf(name, sizeof name, "model.layers.%d.mlp.%s_proj.weight", i,
                       now.fused_up ? "gate_up" : "gate");
        check_matrix(name, source, now.fused_up ? 2 * F : F, E);
        (void)snprintf(source, sizeof source, "%d.down", i);
        (void)snprintf(name, sizeof name, "model.layers.%d.mlp.down_proj.weight", i);
        check_matrix(name, source, E, F);
        (void)snprintf(source, sizeof source, "%d.ff_norm", i);
        (void)snprintf(name, sizeof name, "model.layers.%d.post_attention_layernorm.weight", i);
        assert_int_equal(find(name)->n_dims, 1);
        check_matrix(name, source, 1, E);
    }
    check_matrix("model.embed_tokens.weight", now.tied ? "head" : "embed", V, E);
    check_matrix("model.norm.weight", "final", 1, E);
}

static void test_kinds(void **state)
{
    (void)state;
    static const spec specs[] = {
        {.bits = 32},
        {.bits = 32, .inside = true, .apart = true},
        {.bits = 16, .fused_up = true},
        {.bits = 4},
        {.bits = 4, .zeros = true, .apart = true},
        {.bits = 8, .zeros = true},
        {.bits = 2, .inside = true},
        {.bits = 4, .tied = true, .long_rope = true, .fused_up = true},
        {.bits = 8, .tied = true, .inside = true},
        {.bits = 32, .tied = true},
        {.bits = 4, .qdq = 1},
        {.bits = 4, .qdq = 2, .inside = true},
        {.bits = 4, .qdq = 1, .zeros = true, .apart = true},
        {.bits = 8, .qdq = 1, .zeros = true},
        {.bits = 8, .qdq = 2, .zeros = true},
        {.bits = 4, .real = true},
        {.bits = 8, .real = true, .apart = true},
        {.bits = 4, .qdq = 1, .by_row = true},
        {.bits = 4, .qdq = 2, .by_row = true, .zeros = true},
        {.bits = 8, .qdq = 1, .by_row = true, .zeros = true},
        {.bits = 8, .qdq = 2, .one = true, .zeros = true},
        {.bits = 8, .qdq = 1, .one = true},
        {.bits = 8, .integers = true, .one = true},
        {.bits = 8, .integers = true, .one = true, .zeros = true, .apart = true},
        {.bits = 8, .integers = true, .one = true, .zeros = true, .listed = true},
        {.bits = 8, .integers = true, .by_row = true},
        {.bits = 8, .integers = true, .by_row = true, .zeros = true, .inside = true},
        {.bits = 8, .integers = true, .by_row = true, .zeros = true, .listed = true},
    };
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        open_and_check(&specs[i]);
        assert_int_equal(phi_onnx_description(onnx)->tied_head, specs[i].tied);
        if (!specs[i].tied) {
            check_matrix("lm_head.weight", "head", V, E);
        }
    }
}

static void test_description(void **state)
{
    (void)state;
    open_and_check(&(spec){.bits = 4, .window = 40});
    const phi_description *d = phi_onnx_description(onnx);
    assert_int_equal(d->n_layer, L);
    assert_int_equal(d->n_embd, E);
    assert_int_equal(d->n_head, H);
    assert_int_equal(d->n_head_kv, HKV);
    assert_int_equal(d->head_dim, D);
    assert_int_equal(d->n_ffn, F);
    assert_int_equal(d->n_vocab, V);
    assert_int_equal(d->n_ctx, CTX);
    assert_int_equal(d->window, 40);
    assert_int_equal(d->n_rot, D);
    assert_int_equal(d->rope, PHI_ROPE_PLAIN);
    assert_float_equal(d->rope_theta, 10000.0F, 0.0F);
    assert_float_equal(d->norm_eps, 1e-5F, 0.0F);
    assert_int_equal(d->bos_id, 1);
    assert_int_equal(d->pad_id, 0);
    assert_int_equal(d->n_eos, 2);
    assert_int_equal(d->eos_ids[1], 3);
}

static void check_long_rope(void)
{
    const phi_description *d = phi_onnx_description(onnx);
    assert_int_equal(d->rope, PHI_ROPE_LONG);
    assert_int_equal(d->n_ctx_original, 32);
    assert_int_equal(d->window, 0);
    assert_float_equal(d->rope_theta, 10000.0F, 0.0F);
    assert_float_equal(d->rope_attn_factor, sqrtf(1.0F + logf(4.0F) / logf(32.0F)), 1e-6F);
    for (int i = 0; i < HALF; i++) {
        assert_float_equal(d->rope_short[i], 1.0F, 0.0F);
        assert_float_equal(d->rope_long[i], 1.0F + (float)i, 0.0F);
    }
}

/* GENAI with an option of a provider. */
static void write_genai(const char *name, const char *value)
{
    char text[sizeof GENAI + 160];
    static const char from[] = "\"decoder\":{";
    const char *at = strstr(GENAI, from) + sizeof from - 1;
    (void)snprintf(text, sizeof text,
                   "%.*s\"session_options\":{\"provider_options\":[{\"A\":{\"%s\":%s}}]},%s",
                   (int)(at - GENAI), GENAI, name, value, at);
    (void)fixture_write_text(&f, "genai_config.json", text);
}

static void test_long_rope(void **state)
{
    (void)state;
    open_and_check(&(spec){.bits = 32, .long_rope = true, .window = -1});
    check_long_rope();
}

/* The same where the tables stand one behind the other. */
static void test_joint_tables(void **state)
{
    (void)state;
    static const char *const names[] = {"multi_rotary_cache_concat_offset",
                                        "multiRotaryCacheConcatOffset"};
    static const char *const wrong[] = {"\"-1\"", "32", "\"160\""};
    const spec joint = {.bits = 32, .long_rope = true, .joint = true, .window = -1};
    phi_err err;
    assert_int_equal(open_spec(&joint, &err), PHI_E_UNSUPPORTED);
    for (size_t i = 0; i < 2; i++) {
        write_genai(names[i], "\"32\"");
        open_and_check(&joint);
        check_long_rope();
    }
    for (size_t i = 0; i < 3; i++) {
        write_genai(names[0], wrong[i]);
        assert_int_equal(open_spec(&joint, &err), PHI_E_FORMAT);
    }
    (void)fixture_write_text(&f, "genai_config.json", GENAI);
}

/* With a config.json, its settings are taken where they give the tables, and refused where not. */
static void test_config(void **state)
{
    (void)state;
    phi_err err;
    (void)fixture_write_text(&f, "config.json", "{" TINY_CONFIG ",\"_name_or_path\":\"a/Tiny\"}");
    open_and_check(&(spec){.bits = 4});
    assert_string_equal(phi_onnx_description(onnx)->name, "Tiny");
    assert_int_equal(open_spec(&(spec){.bits = 4, .long_rope = true}, &err), PHI_E_FORMAT);
    (void)fixture_write_text(&f, "config.json", "{" TINY_CONFIG ",\"rope_theta\":20000}");
    assert_int_equal(open_spec(&(spec){.bits = 4}, &err), PHI_E_FORMAT);
    assert_non_null(strstr(err.message, "config.json's rotary settings"));
    fixture_remove(&f, "config.json");
}

static void test_other_graphs(void **state)
{
    (void)state;
    static const struct {
        spec spec;
        const char *named;
    } cases[] = {
        {{.bits = 32, .lie = "a bias"}, "\"biased\" (Add)"},
        {{.bits = 32, .lie = "an operator at the end"}, "\"tanh\" (Tanh)"},
        {{.bits = 32, .lie = "a stray node"}, "\"stray\" (Softmax)"},
        {{.bits = 32, .lie = "another activation"}, "(Mul) multiplies nothing that is silu"},
        {{.bits = 32, .lie = "another residual"}, "residual stream"},
        {{.bits = 32, .lie = "another epsilon"}, "\"0.in_norm\""},
        {{.bits = 32, .lie = "another scale"}, "scale 1"},
        {{.bits = 32, .lie = "a soft cap"}, "softcap 30"},
        {{.bits = 32, .lie = "no rotary embedding"}, "do_rotary 0"},
        {{.bits = 32, .lie = "interleaved angles"}, "rotary_interleaved 1"},
        {{.bits = 32, .lie = "an attention sink"}, "\"sink\""},
        {{.bits = 32, .lie = "an operator among positions"}, "\"odd\" (MatMul)"},
        {{.bits = 32, .apart = true, .lie = "keys of something else"}, "norm that the queries"},
        {{.bits = 32, .fused_up = true, .lie = "halves the other way round"}, "(Split)"},
        {{.bits = 4, .lie = "codes of 3 bits"}, "3 bits"},
        {{.bits = 4, .lie = "a block of 0"}, "block_size"},
        {{.bits = 4, .qdq = 1, .lie = "blocks of outputs"}, "(DequantizeLinear)"},
        {{.bits = 4, .qdq = 1, .by_row = true, .lie = "a scale for each input"}, "each output"},
        {{.bits = 8, .qdq = 1, .by_row = true, .lie = "a scale too many"}, "97 scales"},
        {{.bits = 8, .integers = true, .one = true, .lie = "activations without scale"}, "(Mul)"},
        {{.bits = 8,
          .integers = true,
          .by_row = true,
          .zeros = true,
          .listed = true,
          .lie = "another zero point"},
         "not stored as bytes"},
        {{.bits = 8,
          .integers = true,
          .one = true,
          .zeros = true,
          .listed = true,
          .lie = "a large zero point"},
         "zero point 300"},
        {{.bits = 4, .lie = "weights packed for a GPU"}, "weight_prepacked"},
        {{.bits = 32, .lie = "a table of zeros"}, "rising angles"},
        {{.bits = 32, .lie = "two tables in one"}, "do not rise evenly"},
        {{.bits = 32, .long_rope = true, .lie = "sines without a choice"},
         "another way than its sines"},
        {{.bits = 32, .long_rope = true, .lie = "sines by another length"},
         "another way than its sines"},
        {{.bits = 32, .lie = "operators of its own"}, "operators of its own"},
        {{.bits = 32, .lie = "a sparse tensor"}, "sparse"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        phi_err err = {.message = "accepted"};
        phi_status status = open_spec(&cases[i].spec, &err);
        if (status != PHI_E_UNSUPPORTED || !strstr(err.message, cases[i].named)) {
            fail_msg("%s: %d, %s", cases[i].spec.lie, status, err.message);
        }
    }
}

static void test_lies(void **state)
{
    (void)state;
    static const struct {
        spec spec;
        phi_status status;
    } cases[] = {
        {{.bits = 32, .lie = "a location above"}, PHI_E_FORMAT},
        {{.bits = 32, .lie = "an absolute location"}, PHI_E_FORMAT},
        {{.bits = 32, .lie = "a location inside"}, PHI_E_FORMAT},
        {{.bits = 32, .lie = "a link"}, PHI_E_FORMAT},
        {{.bits = 32, .lie = "a missing file"}, PHI_E_NOT_FOUND},
        {{.bits = 32, .lie = "an offset past the end"}, PHI_E_FORMAT},
        {{.bits = 32, .lie = "an offset in words"}, PHI_E_FORMAT},
        {{.bits = 32, .lie = "a wrong length"}, PHI_E_FORMAT},
        {{.bits = 32, .inside = true, .lie = "raw data that is short"}, PHI_E_FORMAT},
        {{.bits = 32, .lie = "a negative dimension"}, PHI_E_FORMAT},
        {{.bits = 32, .lie = "dimensions that overflow"}, PHI_E_FORMAT},
        {{.bits = 32, .lie = "too many dimensions"}, PHI_E_LIMIT},
        {{.bits = 32, .lie = "a name twice"}, PHI_E_FORMAT},
        {{.bits = 32, .lie = "half a file"}, PHI_E_FORMAT},
        {{.bits = 4, .lie = "a small head"}, PHI_E_FORMAT},
    };
    char link[160];
    (void)snprintf(link, sizeof link, "%s/link", f.dir);
    assert_int_equal(symlink("/etc/hostname", link), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        phi_err err = {.message = "accepted"};
        phi_status status = open_spec(&cases[i].spec, &err);
        if (status != cases[i].status || !strstr(err.message, "model.onnx")) {
            fail_msg("%s: %d, %s", cases[i].spec.lie, status, err.message);
        }
    }
    assert_int_equal(unlink(link), 0);
}

static void test_genai_config(void **state)
{
    (void)state;
    static const struct {
        const char *from;
        const char *to;
        const char *named;
    } cases[] = {
        {"\"model.onnx\"", "\"../model.onnx\"", "filename"},
        {"\"model.onnx\"", "\"/model.onnx\"", "filename"},
        {"\"phi3\"", "\"phimoe\"", "model.type"},
        {"\"context_length\":128", "\"context_length\":-1", "context_length"},
        {"\"vocab_size\":96", "\"vocab_size\":97", "model.vocab_size"},
        {"\"num_hidden_layers\":2", "\"num_hidden_layers\":3", "num_hidden_layers"},
        {"\"head_size\":8", "\"head_size\":16", "head_size"},
        {"\"eos_token_id\":[2,3]", "\"eos_token_id\":[2,\"3\"]", "eos_token_id"},
        {"\"eos_token_id\":[2,3]", "\"eos_token_id\":96", "eos_token_id"},
        {"\"pad_token_id\":0", "\"pad_token_id\":1.5", "pad_token_id"},
        {"\"filename\":\"model.onnx\"", "\"pipeline\":[]", "pipeline"},
    };
    phi_err err;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[sizeof GENAI + 64];
        const char *at = strstr(GENAI, cases[i].from);
        assert_non_null(at);
        (void)snprintf(text, sizeof text, "%.*s%s%s", (int)(at - GENAI), GENAI, cases[i].to,
                       at + strlen(cases[i].from));
        (void)fixture_write_text(&f, "genai_config.json", text);
        phi_status status = open_spec(&(spec){.bits = 4}, &err);
        assert_true(status == PHI_E_FORMAT || status == PHI_E_UNSUPPORTED);
        assert_non_null(strstr(err.message, cases[i].named));
    }
    (void)fixture_write_text(&f, "genai_config.json", GENAI);
}

/* The last byte of the model, and every byte in turn, may be missing. */
static void test_truncated(void **state)
{
    (void)state;
    phi_err err;
    assert_int_equal(open_spec(&(spec){.bits = 4}, &err), PHI_OK);
    char *text = NULL;
    size_t bytes = 0;
    assert_int_equal(
        phi_file_read_text(fixture_path(&f, "model.onnx"), 1U << 24, &text, &bytes, &err), PHI_OK);
    for (size_t left = 0; left < bytes; left += 7) {
        phi_onnx *none = NULL;
        (void)fixture_write(&f, "model.onnx", text, left);
        assert_int_not_equal(phi_onnx_open(f.dir, &none, &err), PHI_OK);
        assert_null(none);
    }
    phi_free(text);
}

static int setup(void **state)
{
    (void)state;
    fixture_init(&f);
    (void)fixture_write_text(&f, "genai_config.json", GENAI);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    phi_onnx_close(onnx);
    phi_buf_done(&graph);
    phi_buf_done(&values);
    fixture_done(&f);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kinds),     cmocka_unit_test(test_description),
        cmocka_unit_test(test_long_rope), cmocka_unit_test(test_joint_tables),
        cmocka_unit_test(test_config),    cmocka_unit_test(test_other_graphs),
        cmocka_unit_test(test_lies),      cmocka_unit_test(test_genai_config),
        cmocka_unit_test(test_truncated),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
