#include "ov_model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/tensor/half.h"

enum { E = 32, H = 4, HKV = 2, D = 8, F = 64, V = 96, CONTEXT = 128, ORIGINAL = 16 };

#define MAX_BYTES (8U << 20)
#define NOTHING (-1)

static const char *const type_names[] = {"f16", "f32", "bf16", "u4", "i4", "u8", "i8"};

static uint32_t random_u32(ov_model *m)
{
    m->seed = m->seed * 1664525U + 1013904223U;
    return m->seed >> 8;
}

/* ---- layers ---- */

/* Adds a layer. An output's number is 8 times its layer's and its own; the first's comes back. */
static int add(ov_model *m, const char *type, const char *name, const char *data, int outputs,
               int n_inputs)
{
    uint32_t id = m->count++;
    phi_buf_printf(&m->layers, "<layer id=\"%u\" name=\"%s\" type=\"%s\" version=\"opset1\">", id,
                   name, type);
    if (data) {
        phi_buf_printf(&m->layers, "<data %s/>", data);
    }
    if (n_inputs) {
        phi_buf_append_str(&m->layers, "<input>");
    }
    for (int i = 0; i < n_inputs; i++) {
        phi_buf_printf(&m->layers, "<port id=\"%d\"><dim>-1</dim></port>", i);
    }
    phi_buf_append_str(&m->layers, n_inputs ? "</input>" : "");
    phi_buf_append_str(&m->layers, outputs ? "<output>" : "");
    for (int i = 0; i < outputs; i++) {
        phi_buf_printf(&m->layers, "<port id=\"%d\" precision=\"FP32\"><dim>-1</dim></port>",
                       n_inputs + i);
    }
    phi_buf_append_str(&m->layers, outputs ? "</output></layer>\n" : "</layer>\n");
    return (int)id * 8;
}

/* add, with edges from inputs whose own number of inputs is known from here on. */
static int n_inputs_of[2048];

static int layer(ov_model *m, const char *type, const char *name, const char *data, int outputs,
                 int n_inputs, ...)
{
    int inputs[8];
    va_list args;
    va_start(args, n_inputs);
    for (int i = 0; i < n_inputs; i++) {
        inputs[i] = va_arg(args, int);
    }
    va_end(args);
    int made = add(m, type, name, data, outputs, n_inputs);
    n_inputs_of[made / 8] = n_inputs;
    for (int i = 0; i < n_inputs; i++) {
        phi_buf_printf(&m->edges,
                       "<edge from-layer=\"%d\" from-port=\"%d\" to-layer=\"%d\" "
                       "to-port=\"%d\"/>\n",
                       inputs[i] / 8, n_inputs_of[inputs[i] / 8] + inputs[i] % 8, made / 8, i);
    }
    return made;
}

static int constant(ov_model *m, const char *name, const char *type, const char *shape,
                    const void *data, size_t bytes)
{
    char text[160];
    (void)snprintf(text, sizeof text,
                   "element_type=\"%s\" shape=\"%s\" offset=\"%zu\" size=\"%zu\"", type, shape,
                   m->bin.length_bytes, bytes);
    assert_int_equal(phi_buf_append(&m->bin, data, bytes), PHI_OK);
    return layer(m, "Const", name, text, 1, 0);
}

static int ints(ov_model *m, int count, ...)
{
    int64_t values[8];
    char shape[8] = "";
    va_list args;
    va_start(args, count);
    for (int i = 0; i < count; i++) {
        values[i] = va_arg(args, int);
    }
    va_end(args);
    (void)snprintf(shape, sizeof shape, "%d", count);
    return constant(m, "ints", "i64", shape, values, (size_t)count * sizeof *values);
}

static int number(ov_model *m, const char *name, float value)
{
    return constant(m, name, "f32", "1, 1, 1", &value, sizeof value);
}

static int convert(ov_model *m, int of)
{
    return layer(m, "Convert", "convert", "destination_type=\"f32\"", 1, 1, of);
}

/* ---- weights ---- */

static ov_tensor *new_tensor(ov_model *m, const char *name, uint32_t rows, uint32_t cols)
{
    assert_true(m->tensor_count < sizeof m->tensors / sizeof *m->tensors);
    ov_tensor *t = &m->tensors[m->tensor_count++];
    (void)snprintf(t->name, sizeof t->name, "%s", name);
    t->rows = rows;
    t->cols = cols;
    t->values = phi_alloc_zero((size_t)rows * cols, sizeof *t->values);
    return t;
}

static int plain(ov_model *m, ov_tensor *t, const char *name)
{
    char shape[40];
    size_t count = (size_t)t->rows * t->cols;
    size_t size = m->options.weights == OV_F32 ? 4 : 2;
    uint8_t *raw = phi_alloc(count * size);
    for (size_t i = 0; i < count; i++) {
        t->values[i] = (float)(int32_t)(random_u32(m) % 256) / 128.0F - 1.0F;
        uint16_t half = m->options.weights == OV_F16 ? phi_half_of_float(t->values[i])
                                                     : phi_bf16_of_float(t->values[i]);
        memcpy(raw + i * size, size == 4 ? (void *)&t->values[i] : (void *)&half, size);
    }
    (void)snprintf(shape, sizeof shape, "%u, %u", t->rows, t->cols);
    int made = constant(m, name, type_names[m->options.weights], shape, raw, count * size);
    phi_free(raw);
    return m->options.weights == OV_F32 ? made : convert(m, made);
}

static int32_t draw(ov_model *m, bool nibbles, bool is_signed, uint8_t *packed, size_t i)
{
    uint32_t bits = nibbles ? 4 : 8;
    uint32_t code = random_u32(m) & ((1U << bits) - 1);
    packed[nibbles ? i / 2 : i] |= (uint8_t)(code << (nibbles ? i % 2 * 4 : 0));
    return is_signed && code >> (bits - 1) ? (int32_t)code - (1 << bits) : (int32_t)code;
}

static int coded(ov_model *m, ov_tensor *t, const char *name)
{
    char shape[40];
    char params[40];
    const ov_options *o = &m->options;
    bool nibbles = o->weights == OV_U4 || o->weights == OV_I4;
    bool is_signed = o->weights == OV_I4 || o->weights == OV_I8;
    uint32_t group = o->group ? o->group : t->cols;
    size_t count = (size_t)t->rows * t->cols;
    size_t groups = count / group;
    uint8_t *codes = phi_alloc_zero(count, 1);
    uint8_t *zeros = phi_alloc_zero(groups, 1);
    uint16_t *scales = phi_alloc_zero(groups, sizeof *scales);
    float *zero_values = phi_alloc_zero(groups, sizeof *zero_values);
    uint16_t *zero_halves = phi_alloc_zero(groups, sizeof *zero_halves);
    for (size_t i = 0; i < groups; i++) {
        scales[i] = phi_half_of_float((float)(random_u32(m) % 100 + 1) / 1024.0F);
        zero_values[i] = o->zeros ? (float)draw(m, nibbles, is_signed, zeros, i) : 0.0F;
        zero_values[i] += o->float_zeros ? (float)(random_u32(m) % 8) / 8.0F : 0.0F;
        zero_halves[i] = phi_half_of_float(zero_values[i]);
    }
    for (size_t i = 0; i < count; i++) {
        t->values[i] = ((float)draw(m, nibbles, is_signed, codes, i) - zero_values[i / group]) *
                       phi_half_to_float(scales[i / group]);
    }
    (void)snprintf(shape, sizeof shape, o->group ? "%u, %u, %u" : "%u, %u", t->rows,
                   t->cols / group, group);
    (void)snprintf(params, sizeof params, o->group ? "%u, %u, 1" : "%u, 1", t->rows,
                   t->cols / group);
    if (!o->group) {
        (void)snprintf(shape, sizeof shape, "%u, %u", t->rows, t->cols);
    }
    size_t per = nibbles ? 2 : 1;
    char text[160];
    int at = convert(
        m, constant(m, name, type_names[o->weights], shape, codes, (count + per - 1) / per));
    if (o->zeros) {
        (void)snprintf(text, sizeof text, "%s/zero_point", name);
        int zero = o->float_zeros
                       ? constant(m, text, "f16", params, zero_halves, groups * sizeof *zero_halves)
                       : convert(m, constant(m, text, type_names[o->weights], params, zeros,
                                             (groups + per - 1) / per));
        at = layer(m, "Subtract", "subtract", NULL, 1, 2, at, zero);
    }
    (void)snprintf(text, sizeof text, "%s/scale", name);
    int scale = constant(m, text, "f16", params, scales, groups * sizeof *scales);
    at = layer(m, "Multiply", "fq_weights", NULL, 1, 2, at, scale);
    if (o->group) {
        at = layer(m, "Reshape", "reshape", "special_zero=\"false\"", 1, 2, at,
                   ints(m, 2, (int)t->rows, (int)t->cols));
    }
    phi_free(codes);
    phi_free(zeros);
    phi_free(scales);
    phi_free(zero_values);
    phi_free(zero_halves);
    return convert(m, at);
}

static int matrix(ov_model *m, const char *name, uint32_t rows, uint32_t cols)
{
    char own[120];
    ov_tensor *t = new_tensor(m, name, rows, cols);
    (void)snprintf(own, sizeof own, "self.%.*s._openvino_orig_weight%s",
                   (int)(strlen(name) - strlen(".weight")), name,
                   m->options.weights == OV_F16 ? "_compressed" : "");
    return m->options.weights <= OV_BF16 ? plain(m, t, own) : coded(m, t, own);
}

static int linear(ov_model *m, int x, const char *name, int weight)
{
    return layer(m, "MatMul", name, "transpose_a=\"false\" transpose_b=\"true\"", 1, 2, x, weight);
}

static int norm(ov_model *m, int x, const char *name)
{
    int power = layer(m, "Power", "pow", NULL, 1, 2, x, number(m, "two", 2.0F));
    int mean = layer(m, "ReduceMean", "mean", "keep_dims=\"true\"", 1, 2, power, ints(m, 1, -1));
    int sum = layer(m, "Add", "add_eps", NULL, 1, 2, mean,
                    number(m, "eps", m->options.eps > 0.0F ? m->options.eps : 1e-5F));
    int root = layer(m, "Sqrt", "sqrt", NULL, 1, 1, sum);
    int inverse = layer(m, "Divide", "divide", NULL, 1, 2, number(m, "one", 1.0F), root);
    int normed = layer(m, "Multiply", "normed", NULL, 1, 2, x, inverse);
    ov_tensor *t = new_tensor(m, name, 1, E);
    for (uint32_t i = 0; i < E; i++) {
        t->values[i] = m->options.ones ? 1.0F : (float)(random_u32(m) % 64 + 32) / 64.0F;
    }
    if (m->options.ones) {
        return normed;
    }
    int weight = constant(m, "norm_weight", "f32", "1, 1, 32", t->values, E * sizeof(float));
    return layer(m, "Multiply", "norm_out", NULL, 1, 2, weight, normed);
}

/* ---- attention ---- */

typedef struct shared {
    int ids, positions, mask_input, beam, cos, sin, mask, batch;
} shared;

static int slice(ov_model *m, int x, const char *name, int start, int stop, int axis)
{
    return layer(m, "Slice", name, NULL, 1, 5, x, ints(m, 1, start), ints(m, 1, stop),
                 ints(m, 1, 1), ints(m, 1, axis));
}

/* LongRoPE's for the context that was trained. */
static float long_factor(void)
{
    return sqrtf(1.0F + logf((float)CONTEXT / ORIGINAL) / logf(ORIGINAL));
}

static void make_tables(ov_model *m, shared *s)
{
    uint32_t r = m->options.n_rot ? m->options.n_rot : D;
    float powers[D / 2];
    float inverse[D / 2];
    float factors[2][D / 2];
    char shape[24];
    for (uint32_t i = 0; i < r / 2; i++) {
        powers[i] =
            powf(m->options.theta > 0.0F ? m->options.theta : 10000.0F, 2.0F * (float)i / (float)r);
        inverse[i] = 1.0F / powers[i];
        factors[0][i] = 1.0F + 0.25F * (float)i; /* short */
        factors[1][i] = 2.0F + 0.5F * (float)i;  /* long */
    }
    (void)snprintf(shape, sizeof shape, "%u", r / 2);
    int frequencies = constant(m, "inv_freq", "f32", shape, inverse, r / 2 * sizeof(float));
    if (m->options.long_rope) {
        int longest = layer(m, "ReduceMax", "max", NULL, 1, 2, s->positions, ints(m, 2, 0, 1));
        int length = layer(m, "Add", "length", NULL, 1, 2, longest, ints(m, 1, 1));
        int is_long = layer(m, "Greater", "is_long", NULL, 1, 2, length,
                            ints(m, 1, m->options.original ? m->options.original : ORIGINAL));
        int far = constant(m, "long", "f32", shape, factors[1], r / 2 * sizeof(float));
        int near = constant(m, "short", "f32", shape, factors[0], r / 2 * sizeof(float));
        int chosen = layer(m, "Select", "select_factors", NULL, 1, 3, is_long, far, near);
        int scaled = layer(m, "Multiply", "scaled", NULL, 1, 2, chosen,
                           constant(m, "powers", "f32", shape, powers, r / 2 * sizeof(float)));
        frequencies = layer(m, "Power", "reciprocal", NULL, 1, 2, scaled, number(m, "m1", -1.0F));
    }
    frequencies = layer(m, "Unsqueeze", "unsqueeze", NULL, 1, 2, frequencies, ints(m, 1, 0));
    int at = layer(m, "Unsqueeze", "positions_row", NULL, 1, 2, s->positions, ints(m, 1, 1));
    int angles = layer(m, "MatMul", "angles", "transpose_a=\"false\" transpose_b=\"false\"", 1, 2,
                       frequencies, convert(m, at));
    angles = layer(m, "Transpose", "angles_t", NULL, 1, 2, angles, ints(m, 3, 0, 2, 1));
    angles = layer(m, "Concat", "angles_twice", "axis=\"-1\"", 1, 2, angles, angles);
    s->cos = layer(m, "Cos", "cos", NULL, 1, 1, angles);
    s->sin = layer(m, "Sin", "sin", NULL, 1, 1, angles);
    if (m->options.long_rope) {
        s->cos =
            layer(m, "Multiply", "cos_f", NULL, 1, 2, s->cos, number(m, "factor", long_factor()));
        s->sin =
            layer(m, "Multiply", "sin_f", NULL, 1, 2, s->sin, number(m, "factor", long_factor()));
    }
    s->cos = layer(m, "Unsqueeze", "cos_heads", NULL, 1, 2, s->cos, ints(m, 1, 1));
    s->sin = layer(m, "Unsqueeze", "sin_heads", NULL, 1, 2, s->sin, ints(m, 1, 1));
}

static void make_mask(ov_model *m, shared *s)
{
    int keys = layer(m, "Convert", "keys", "destination_type=\"i64\"", 1, 1, s->mask_input);
    int queries = layer(m, "Unsqueeze", "queries", NULL, 1, 2, s->positions, ints(m, 1, 2));
    int visible = layer(m, "LessEqual", "causal", NULL, 1, 2, keys, queries);
    if (m->options.window) {
        int first =
            layer(m, "Add", "first", NULL, 1, 2, queries, ints(m, 1, -(int)m->options.window));
        int inside = layer(m, "Greater", "inside", NULL, 1, 2, keys, first);
        visible = layer(m, "BitwiseAnd", "and", NULL, 1, 2, visible, inside);
    }
    float low = -INFINITY;
    int hidden = constant(m, "low", "f32", "", &low, sizeof low);
    s->mask = layer(m, "Select", "mask", NULL, 1, 3, visible, number(m, "zero", 0.0F), hidden);
    int shape = layer(m, "ShapeOf", "shape", NULL, 1, 1, s->ids);
    s->batch =
        layer(m, "Gather", "batch", "batch_dims=\"0\"", 1, 3, shape, ints(m, 1, 0), ints(m, 1, 0));
}

static int heads(ov_model *m, int x, int count)
{
    int apart =
        layer(m, "Reshape", "heads", "special_zero=\"true\"", 1, 2, x, ints(m, 4, 0, 0, count, D));
    return layer(m, "Transpose", "heads_t", NULL, 1, 2, apart, ints(m, 4, 0, 2, 1, 3));
}

static int rotate(ov_model *m, const shared *s, int x)
{
    int r = m->options.n_rot ? (int)m->options.n_rot : D;
    int part = slice(m, x, "rot", 0, r, 3);
    int minus = layer(m, "Multiply", "minus", NULL, 1, 2,
                      slice(m, part, "x2", r / 2, 2147483647, 3), number(m, "m1", -1.0F));
    int turned = layer(
        m, "Concat", "turned", "axis=\"-1\"", 1, 2, minus,
        slice(m, part, "x1", m->options.other_turn ? 1 : 0, r / 2 + m->options.other_turn, 3));
    int sum = layer(m, "Add", "rotated", NULL, 1, 2,
                    layer(m, "Multiply", "by_cos", NULL, 1, 2, part, s->cos),
                    layer(m, "Multiply", "by_sin", NULL, 1, 2, turned, s->sin));
    return r == D ? sum
                  : layer(m, "Concat", "with_rest", "axis=\"-1\"", 1, 2, sum,
                          slice(m, x, "rest", r, D, 3));
}

static int cached(ov_model *m, const shared *s, int x, int number_of, const char *what)
{
    char data[80];
    char name[40];
    (void)snprintf(data, sizeof data, "variable_id=\"past.%d.%s\"", number_of, what);
    float zero = 0.0F;
    int shape = layer(m, "Concat", "empty_shape", "axis=\"0\"", 1, 4, s->batch, ints(m, 1, HKV),
                      ints(m, 1, 0), ints(m, 1, D));
    int empty = layer(m, "Broadcast", "empty", NULL, 1, 2,
                      constant(m, "nothing", "f32", "", &zero, sizeof zero), shape);
    (void)snprintf(name, sizeof name, "read.%d.%s", number_of, what);
    int state = layer(m, "ReadValue", name, data, 1, 1, empty);
    int past = layer(m, "Gather", "past", "batch_dims=\"0\"", 1, 3, state, s->beam, ints(m, 1, 0));
    int all = layer(m, "Concat", "all", "axis=\"-2\"", 1, 2, past, x);
    (void)snprintf(name, sizeof name, "assign.%d.%s", number_of, what);
    (void)layer(m, "Assign", name, data, 1, 1, all);
    int apart = layer(m, "Unsqueeze", "apart", NULL, 1, 2, all, ints(m, 1, 2));
    int wide = layer(m, "Concat", "wide_shape", "axis=\"0\"", 1, 4, s->batch, ints(m, 2, HKV, 2),
                     s->batch, ints(m, 1, D));
    int repeated = layer(m, "Broadcast", "repeated", "mode=\"bidirectional\"", 1, 2, apart, wide);
    return layer(m, "Reshape", "joined", "special_zero=\"true\"", 1, 2, repeated,
                 ints(m, 4, 0, H, -1, D));
}

static int attention(ov_model *m, const shared *s, int x, int number_of)
{
    char name[96];
    int parts[3];
    static const char *const names[] = {"q_proj", "k_proj", "v_proj"};
    static const uint32_t rows[] = {H * D, HKV * D, HKV * D};
    (void)snprintf(name, sizeof name, "model.layers.%d.self_attn.qkv_proj.weight", number_of);
    int fused =
        m->options.split ? NOTHING : linear(m, x, "qkv", matrix(m, name, H * D + 2 * HKV * D, E));
    for (int i = 0, start = 0; i < 3; start += (int)rows[i++]) {
        (void)snprintf(name, sizeof name, "model.layers.%d.self_attn.%s.weight", number_of,
                       names[i]);
        parts[i] = m->options.split ? linear(m, x, names[i], matrix(m, name, rows[i], E))
                                    : slice(m, fused, names[i], start, start + (int)rows[i], 2);
    }
    int q = rotate(m, s, heads(m, parts[0], H));
    int k = cached(m, s, rotate(m, s, heads(m, parts[1], HKV)), number_of, "key");
    int v = cached(m, s, heads(m, parts[2], HKV), number_of, "value");
    float scale = m->options.scale_of_attention;
    int by = number(m, "scale", scale > 0.0F ? scale : 1.0F / sqrtf((float)D));
    int out = layer(m, "ScaledDotProductAttention", "sdpa", "causal=\"false\"", 1, 5, q, k, v,
                    s->mask, by);
    out = layer(m, "Transpose", "sdpa_t", NULL, 1, 2, out, ints(m, 4, 0, 2, 1, 3));
    return layer(m, "Reshape", "side_by_side", "special_zero=\"true\"", 1, 2, out,
                 ints(m, 3, 0, 0, H * D));
}

/* gate_up as torch.chunk traces it: the first half's length is worked out of the shape. */
static void chunk(ov_model *m, int x, int *gate, int *up)
{
    int shape = layer(m, "ShapeOf", "chunk_shape", NULL, 1, 1, x);
    int width =
        layer(m, "Gather", "width", "batch_dims=\"0\"", 1, 3, shape, ints(m, 1, -1), ints(m, 1, 0));
    int half = layer(m, "Divide", "half", NULL, 1, 2, width, ints(m, 1, 2));
    int odd = layer(m, "Mod", "odd", NULL, 1, 2, width, ints(m, 1, 2));
    int more = layer(m, "Greater", "more", NULL, 1, 2, odd, ints(m, 1, 0));
    int first = layer(m, "Add", "first_half", NULL, 1, 2, half, convert(m, more));
    int lengths = layer(m, "Concat", "lengths", "axis=\"0\"", 1, 2, first, ints(m, 1, -1));
    *gate = layer(m, "VariadicSplit", "chunks", NULL, 2, 3, x, ints(m, 1, -1), lengths);
    *up = *gate + 1;
    if (m->options.up_first) {
        *up = *gate;
        *gate = *up + 1;
    }
}

static int ffn(ov_model *m, int x, int number_of)
{
    char name[96];
    int gate;
    int up;
    if (m->options.split) {
        (void)snprintf(name, sizeof name, "model.layers.%d.mlp.gate_proj.weight", number_of);
        gate = linear(m, x, "gate", matrix(m, name, F, E));
        (void)snprintf(name, sizeof name, "model.layers.%d.mlp.up_proj.weight", number_of);
        up = linear(m, x, "up", matrix(m, name, F, E));
    } else {
        (void)snprintf(name, sizeof name, "model.layers.%d.mlp.gate_up_proj.weight", number_of);
        chunk(m, linear(m, x, "gate_up", matrix(m, name, 2 * F, E)), &gate, &up);
    }
    int silu = layer(m, "Swish", "silu", NULL, 1, 1, gate);
    int product = layer(m, "Multiply", "gated", NULL, 1, 2, up, silu);
    (void)snprintf(name, sizeof name, "model.layers.%d.mlp.down_proj.weight", number_of);
    return linear(m, product, "down", matrix(m, name, E, F));
}

/* ---- the whole ---- */

void ov_model_make(ov_model *m, const ov_options *options)
{
    *m = (ov_model){.options = *options, .seed = 1};
    phi_buf_init(&m->layers, MAX_BYTES);
    phi_buf_init(&m->edges, MAX_BYTES);
    phi_buf_init(&m->bin, MAX_BYTES);
    shared s = {0};
    char name[96];
    s.ids = layer(m, "Parameter", "input_ids", "shape=\"?,?\" element_type=\"i64\"", 1, 0);
    s.mask_input = layer(m, "Parameter", "attention_mask", NULL, 1, 0);
    s.positions = layer(m, "Parameter", "position_ids", NULL, 1, 0);
    s.beam = layer(m, "Parameter", "beam_idx", NULL, 1, 0);
    make_tables(m, &s);
    make_mask(m, &s);
    int table = matrix(m, "model.embed_tokens.weight", V, E);
    int h = layer(m, "Gather", "embedding", "batch_dims=\"0\"", 1, 3, table, convert(m, s.ids),
                  ints(m, 1, 0));
    for (int i = 0; i < (options->layers ? options->layers : 2); i++) {
        (void)snprintf(name, sizeof name, "model.layers.%d.input_layernorm.weight", i);
        int x = attention(m, &s, norm(m, h, name), i);
        (void)snprintf(name, sizeof name, "model.layers.%d.self_attn.o_proj.weight", i);
        h = layer(m, "Add", "residual", NULL, 1, 2, h,
                  linear(m, x, "o", matrix(m, name, E, H * D)));
        (void)snprintf(name, sizeof name, "model.layers.%d.post_attention_layernorm.weight", i);
        h = layer(m, "Add", "residual_2", NULL, 1, 2, h, ffn(m, norm(m, h, name), i));
    }
    h = norm(m, h, "model.norm.weight");
    int logits = linear(m, h, "logits", options->tied ? table : matrix(m, "lm_head.weight", V, E));
    (void)layer(m, "Result", "result", NULL, 0, 1, logits);
    assert_false(phi_buf_failed(&m->layers) || phi_buf_failed(&m->edges));
}

void ov_model_done(ov_model *m)
{
    for (uint32_t i = 0; i < m->tensor_count; i++) {
        phi_free(m->tensors[i].values);
    }
    phi_buf_done(&m->layers);
    phi_buf_done(&m->edges);
    phi_buf_done(&m->bin);
}

char *ov_model_xml(const ov_model *m, const char *from, const char *to)
{
    phi_buf out;
    phi_buf_init(&out, MAX_BYTES);
    phi_buf whole;
    phi_buf_init(&whole, MAX_BYTES);
    phi_buf_printf(&whole,
                   "<?xml version=\"1.0\"?>\n<net name=\"Model0\" version=\"11\">\n<layers>\n"
                   "%s</layers>\n<edges>\n%s</edges>\n<rt_info><conversion_parameters>"
                   "<framework value=\"pytorch\"/></conversion_parameters></rt_info>\n</net>\n",
                   phi_buf_text(&m->layers), phi_buf_text(&m->edges));
    const char *at = phi_buf_text(&whole);
    uint32_t times = 0;
    for (const char *found; from && (found = strstr(at, from)); at = found + strlen(from)) {
        phi_buf_append(&out, at, (size_t)(found - at));
        phi_buf_append_str(&out, to);
        times++;
    }
    assert_true(!from || times > 0);
    phi_buf_append_str(&out, at);
    phi_buf_done(&whole);
    assert_false(phi_buf_failed(&out));
    return phi_buf_take(&out);
}

static void write_config(const ov_model *m, fixture *f)
{
    char text[1200];
    char rope[300] = "null";
    uint32_t r = m->options.n_rot ? m->options.n_rot : D;
    bool lost = m->options.lost_context;
    if (m->options.long_rope) {
        char factors[2][60] = {"", ""};
        for (uint32_t i = 0; i < r / 2; i++) {
            size_t at = strlen(factors[0]);
            (void)snprintf(factors[0] + at, sizeof factors[0] - at, "%s%.2f", i ? "," : "",
                           1.0 + 0.25 * i);
            at = strlen(factors[1]);
            (void)snprintf(factors[1] + at, sizeof factors[1] - at, "%s%.1f", i ? "," : "",
                           2.0 + 0.5 * i);
        }
        char stated[60] = "";
        if (m->options.stated_factor) {
            (void)snprintf(stated, sizeof stated, "\"attention_factor\":%.7g,",
                           (double)long_factor());
        }
        (void)snprintf(rope, sizeof rope,
                       "{\"type\":\"longrope\",%s\"short_factor\":[%s],\"long_factor\":[%s]}",
                       stated, factors[0], factors[1]);
    }
    (void)snprintf(text, sizeof text,
                   "{\"architectures\":[\"Phi3ForCausalLM\"],\"model_type\":\"phi3\","
                   "\"hidden_size\":32,\"num_hidden_layers\":%d,\"num_attention_heads\":4,"
                   "\"num_key_value_heads\":2,\"intermediate_size\":64,\"vocab_size\":96,"
                   "\"eos_token_id\":2,\"max_position_embeddings\":%d,"
                   "\"original_max_position_embeddings\":%d,\"rope_scaling\":%s,"
                   "\"partial_rotary_factor\":%g,\"sliding_window\":%s%.0u,"
                   "\"tie_word_embeddings\":%s}",
                   m->options.layers ? m->options.layers : 2, lost ? ORIGINAL : CONTEXT,
                   m->options.long_rope ? ORIGINAL : CONTEXT, rope, (double)r / D,
                   m->options.window ? "" : "null", m->options.window,
                   m->options.tied ? "true" : "false");
    (void)fixture_write_text(f, "config.json", text);
}

void ov_model_write(ov_model *m, fixture *f)
{
    char *xml = ov_model_xml(m, NULL, NULL);
    (void)fixture_write_text(f, "openvino_model.xml", xml);
    (void)fixture_write(f, "openvino_model.bin", m->bin.data, m->bin.length_bytes);
    phi_free(xml);
    write_config(m, f);
}

const ov_tensor *ov_model_find(const ov_model *m, const char *name)
{
    for (uint32_t i = 0; i < m->tensor_count; i++) {
        if (strcmp(m->tensors[i].name, name) == 0) {
            return &m->tensors[i];
        }
    }
    return NULL;
}
