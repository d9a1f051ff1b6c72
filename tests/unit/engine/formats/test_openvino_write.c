/* OpenVINO folders that we write: reading one back finds exactly the codes, zero points and scales
 * that went in, in a graph that the reader's checks accept; what the format cannot hold is refused
 * before a file appears. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/formats/hf_config.h"
#include "engine/formats/hf_names.h"
#include "engine/formats/openvino.h"
#include "fixture.h"

enum { TENSORS_MAX = 64, CODES_MAX = 256 * 32, GROUPS_MAX = CODES_MAX / 16 };

/* An export of random numbers. */
typedef struct made_tensor {
    char name[64];
    uint8_t codes[CODES_MAX];
    float values[CODES_MAX];
    float scales[GROUPS_MAX];
    float zeros[GROUPS_MAX];
} made_tensor;

typedef struct made {
    phi_description description;
    phi_export_tensor tensors[TENSORS_MAX];
    made_tensor data[TENSORS_MAX];
    uint32_t count;
    uint32_t seed;
    uint64_t bytes_done;
    uint64_t bytes_total;
    uint32_t pieces_left; /* until writing is stopped; 0: never */
    phi_export export;
} made;

static fixture f;
static made m;

static int setup(void **state)
{
    (void)state;
    fixture_init(&f);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fixture_done(&f);
    return 0;
}

static uint32_t random_u32(void)
{
    m.seed = m.seed * 1664525U + 1013904223U;
    return m.seed >> 8;
}

static phi_status read_codes(void *user, const phi_export_tensor *t, uint32_t row, uint32_t count,
                             uint8_t *codes, float *scales, float *zeros, phi_err *err)
{
    (void)err;
    const made *from = user;
    const made_tensor *data = &from->data[t - from->tensors];
    size_t groups = t->cols / t->group;
    memcpy(codes, data->codes + (size_t)row * t->cols, (size_t)count * t->cols);
    memcpy(scales, data->scales + row * groups, count * groups * sizeof *scales);
    assert_true((t->zero_rule == PHI_ZERO_CENTRE) == (zeros == NULL));
    if (zeros) {
        memcpy(zeros, data->zeros + row * groups, count * groups * sizeof *zeros);
    }
    return PHI_OK;
}

static phi_status read_f32(void *user, const phi_export_tensor *t, uint32_t row, uint32_t count,
                           float *out, phi_err *err)
{
    (void)err;
    const made *from = user;
    memcpy(out, from->data[t - from->tensors].values + (size_t)row * t->cols,
           (size_t)count * t->cols * sizeof *out);
    return PHI_OK;
}

static bool progress(void *user, uint64_t bytes_done, uint64_t bytes_total)
{
    made *to = user;
    assert_true(bytes_done >= to->bytes_done && bytes_done <= bytes_total);
    to->bytes_done = bytes_done;
    to->bytes_total = bytes_total;
    return to->pieces_left == 0 || --to->pieces_left > 0;
}

static void add(const phi_export_tensor *like, phi_part part, uint32_t layer)
{
    uint32_t pieces[PHI_PART_PIECES_MAX];
    uint32_t cols;
    uint32_t count = phi_part_shape(part, &m.description, pieces, &cols);
    uint32_t rows = 0;
    for (uint32_t i = 0; i < count; i++) {
        rows += pieces[i];
    }
    if (phi_part_is_vector(part)) {
        cols = rows;
        rows = 1;
    }
    made_tensor *data = &m.data[m.count];
    phi_export_tensor *t = &m.tensors[m.count++];
    assert_true(m.count <= TENSORS_MAX && rows * cols <= CODES_MAX);
    *t = *like;
    phi_part_name(part, PHI_NAMING_GGUF, layer, data->name, sizeof data->name);
    t->name = data->name;
    t->n_dims = phi_part_is_vector(part) ? 1 : 2;
    t->rows = rows;
    t->cols = cols;
    t->group = t->group ? t->group : cols;
    if (t->n_dims == 1) {
        t->bits = 32;
    }
    uint32_t codes = t->bits <= 8 ? 1U << t->bits : 2;
    for (uint32_t i = 0; i < rows * cols; i++) {
        data->codes[i] = (uint8_t)(random_u32() % codes);
        data->values[i] = (float)(random_u32() % 2001) / 1024.0F - 1.0F; /* exact in fp16 */
    }
    for (uint32_t i = 0; t->bits <= 8 && i < rows * (cols / t->group); i++) {
        data->scales[i] = (float)(random_u32() % 1000 + 1) / 1024.0F;
        data->zeros[i] = (float)(random_u32() % codes);
        data->zeros[i] *= t->zero_rule == PHI_ZERO_FLOAT ? 0.7F : 1.0F;
    }
}

static void make(const phi_export_tensor *like)
{
    phi_description d = m.description;
    m = (made){.description = d, .seed = 5};
    for (int part = 0; part < PHI_PART_COUNT; part++) {
        for (uint32_t layer = 0; part == PHI_PART_ATTN_NORM && layer < d.n_layer; layer++) {
            for (int inner = part; phi_part_in_layer((phi_part)inner); inner++) {
                if (phi_part_is_of((phi_part)inner, &d)) {
                    add(like, (phi_part)inner, layer);
                }
            }
        }
        if (!phi_part_in_layer((phi_part)part) && phi_part_is_of((phi_part)part, &d)) {
            add(like, (phi_part)part, 0);
        }
    }
    m.export = (phi_export){.description = &m.description,
                            .tensors = m.tensors,
                            .count = m.count,
                            .user = &m,
                            .read_codes = read_codes,
                            .read_f32 = read_f32,
                            .progress = progress};
}

/* ---- what is in the file ---- */

static uint8_t *bytes_of(const phi_array *array)
{
    phi_err err;
    uint8_t *data = phi_alloc(array->bytes);
    assert_int_equal(phi_file_read_at(array->file, array->offset, data, array->bytes, &err),
                     PHI_OK);
    return data;
}

/* Unsigned code i of packed ones. */
static uint8_t code_at(const uint8_t *data, uint32_t bits, bool is_signed, size_t i)
{
    uint32_t code = bits == 4 ? (uint32_t)data[i / 2] >> i % 2 * 4 & 15U : data[i];
    return (uint8_t)(is_signed ? code ^ 1U << (bits - 1) : code);
}

/* Rows of the tensor from `row` on. */
static void check_codes(const phi_stored *stored, const phi_export_tensor *t, uint32_t row,
                        const made_tensor *data)
{
    const phi_coded *coded = &stored->coded;
    size_t per_row = t->cols / t->group;
    size_t groups = stored->rows * per_row;
    const uint8_t *right_codes = data->codes + (size_t)row * t->cols;
    const float *right_scales = data->scales + row * per_row;
    const float *right_zeros = data->zeros + row * per_row;
    bool centre = t->zero_rule == PHI_ZERO_CENTRE;
    bool is_float = t->zero_rule == PHI_ZERO_FLOAT;
    bool is_signed = centre || (is_float && t->bits == 8);
    assert_int_equal(stored->kind, PHI_STORED_CODED);
    assert_int_equal(coded->bits, t->bits);
    assert_int_equal(coded->group, t->group);
    assert_int_equal(coded->is_signed, is_signed);
    assert_int_equal(coded->scale_dtype, t->scale_dtype);
    uint8_t *codes = bytes_of(&coded->codes);
    uint8_t *scales = bytes_of(&coded->scales);
    uint8_t *zeros = centre ? NULL : bytes_of(&coded->zeros);
    for (size_t i = 0; i < (size_t)stored->rows * t->cols; i++) {
        assert_int_equal(code_at(codes, t->bits, is_signed, i), right_codes[i]);
    }
    for (size_t i = 0; i < groups; i++) {
        float scale;
        phi_dtype_widen(t->scale_dtype, scales + i * (t->scale_dtype == PHI_DTYPE_F32 ? 4 : 2), 1,
                        &scale);
        assert_true(scale == right_scales[i]);
        if (is_float) {
            assert_memory_equal(zeros + i * sizeof scale, &right_zeros[i], sizeof scale);
        } else {
            assert_true(centre || code_at(zeros, t->bits, false, i) == (uint8_t)right_zeros[i]);
        }
    }
    phi_free(codes);
    phi_free(scales);
    phi_free(zeros);
}

/* Numbers of the tensor from `first` on. */
static void check_floats(const phi_stored *stored, const phi_export_tensor *t, size_t first,
                         const made_tensor *data)
{
    assert_int_equal(stored->kind, PHI_STORED_ROWS);
    assert_int_equal(stored->dtype, t->bits == 16 ? PHI_DTYPE_F16 : PHI_DTYPE_F32);
    uint8_t *raw = bytes_of(&stored->data);
    for (size_t i = 0; i < (size_t)stored->rows * stored->cols; i++) {
        float value;
        phi_dtype_widen(stored->dtype, raw + i * t->bits / 8, 1, &value);
        assert_true(value == data->values[first + i]);
    }
    phi_free(raw);
}

static void check_same_description(const phi_description *found)
{
    const phi_description *right = &m.description;
    assert_int_equal(found->n_layer, right->n_layer);
    assert_int_equal(found->n_head_kv, right->n_head_kv);
    assert_int_equal(found->head_dim, right->head_dim);
    assert_int_equal(found->n_rot, right->n_rot);
    assert_int_equal(found->n_ctx, right->n_ctx);
    assert_int_equal(found->window, right->window);
    assert_int_equal(found->tied_head, right->tied_head);
    assert_int_equal(found->rope, right->rope);
    assert_int_equal(found->n_eos, right->n_eos);
    assert_memory_equal(found->rope_long, right->rope_long, sizeof right->rope_long);
    assert_true(found->rope_attn_factor_long == right->rope_attn_factor_long);
    assert_int_equal(found->arch, right->arch);
    assert_int_equal(found->attn_bias, right->attn_bias);
    assert_int_equal(found->head_bias, right->head_bias);
    assert_int_equal(found->n_expert, right->n_expert);
    assert_true(found->router_jitter == right->router_jitter);
}

/* What was one tensor may come back in pieces, one after the other. */
static void check_pieces(const phi_openvino *o, const phi_export_tensor *t, const made_tensor *data,
                         size_t *next)
{
    size_t total = (size_t)t->rows * t->cols;
    for (size_t done = 0; done < total;) {
        const phi_stored *stored = phi_openvino_at(o, (*next)++);
        size_t count = (size_t)stored->rows * stored->cols;
        assert_true(count <= total - done && *next <= phi_openvino_count(o));
        if (t->bits <= 8) {
            check_codes(stored, t, (uint32_t)(done / t->cols), data);
        } else {
            check_floats(stored, t, done, data);
        }
        done += count;
    }
}

static void write_and_read(const phi_export_tensor *like)
{
    phi_openvino *o = NULL;
    phi_err err;
    make(like);
    phi_status status = phi_openvino_write(&m.export, f.dir, &err);
    status = status ? status : phi_openvino_open(f.dir, &o, &err);
    if (status) {
        print_message("%s\n", err.message);
    }
    assert_int_equal(status, PHI_OK);
    assert_int_equal(m.bytes_done, m.bytes_total);
    check_same_description(phi_openvino_description(o));
    size_t next = 0;
    for (uint32_t i = 0; i < m.count; i++) {
        check_pieces(o, &m.tensors[i], &m.data[i], &next);
    }
    assert_int_equal(phi_openvino_count(o), next);
    phi_openvino_close(o);
}

/* ---- tests ---- */

static const phi_zero_rule rules[] = {PHI_ZERO_CENTRE, PHI_ZERO_INTEGER, PHI_ZERO_FLOAT};

static void test_codings(void **state)
{
    (void)state;
    static const uint32_t groups[] = {16, 32, 0};
    fixture_tiny_description(&m.description);
    for (uint32_t bits = 4; bits <= 8; bits += 4) {
        for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) {
            for (size_t r = 0; r < sizeof rules / sizeof *rules; r++) {
                write_and_read(&(phi_export_tensor){
                    .bits = bits,
                    .group = groups[g],
                    .zero_rule = rules[r],
                    .scale_dtype = rules[r] == PHI_ZERO_FLOAT ? PHI_DTYPE_F32 : PHI_DTYPE_F16});
            }
        }
    }
    write_and_read(&(phi_export_tensor){
        .bits = 4, .group = 32, .zero_rule = PHI_ZERO_INTEGER, .scale_dtype = PHI_DTYPE_F32});
    write_and_read(&(phi_export_tensor){.bits = 16});
    write_and_read(&(phi_export_tensor){.bits = 32});
}

static void test_architectures(void **state)
{
    (void)state;
    phi_export_tensor like = {.bits = 8, .scale_dtype = PHI_DTYPE_F16};
    fixture_tiny_description(&m.description);
    m.description.tied_head = true;
    write_and_read(&like);
    m.description.n_head_kv = m.description.n_head;
    m.description.window = 20;
    write_and_read(&like);
    m.description.n_head_kv = 1;
    m.description.n_rot = 6;
    write_and_read(&like);
    m.description.rope = PHI_ROPE_LONG;
    m.description.n_ctx_original = 16;
    m.description.rope_attn_factor = 1.25F;
    for (uint32_t i = 0; i < 3; i++) {
        m.description.rope_short[i] = 1.0F + 0.5F * (float)i;
        m.description.rope_long[i] = 2.0F + (float)i;
    }
    write_and_read(&like);
}

static void check_refused(const phi_export_tensor *like, phi_status code, const char *names)
{
    phi_err err;
    make(like);
    assert_int_equal(phi_openvino_write(&m.export, f.dir, &err), code);
    assert_non_null(strstr(err.message, names));
    assert_false(phi_file_exists(fixture_path(&f, "openvino_model.xml")));
    assert_false(phi_file_exists(fixture_path(&f, "openvino_model.bin")));
}

static void test_refusals(void **state)
{
    (void)state;
    fixture_tiny_description(&m.description);
    check_refused(&(phi_export_tensor){.bits = 4, .zero_rule = PHI_ZERO_REAL}, PHI_E_UNSUPPORTED,
                  "\"token_embd.weight\": OpenVINO has zero points, not offsets");
    check_refused(
        &(phi_export_tensor){.bits = 4, .zero_rule = PHI_ZERO_FLOAT, .scale_dtype = PHI_DTYPE_F16},
        PHI_E_UNSUPPORTED, "beside scales of fp32, not F16");
    check_refused(&(phi_export_tensor){.bits = 6}, PHI_E_UNSUPPORTED, "4 and 8 bits, not 6");
    check_refused(&(phi_export_tensor){.bits = 4, .group = 24}, PHI_E_UNSUPPORTED,
                  "groups of 24 do not divide its 32 columns");
}

/* ---- other architectures ---- */

static void describe(phi_arch arch)
{
    phi_description like;
    phi_description_init(&like, arch);
    fixture_tiny_description(&m.description);
    m.description.arch = arch;
    m.description.norm = like.norm;
    m.description.ffn = like.ffn;
    m.description.is_parallel = like.is_parallel;
    m.description.attn_bias = like.attn_bias;
    m.description.head_bias = like.head_bias;
    m.description.n_expert = like.n_expert ? 4 : 0;
    m.description.router_jitter = like.router_jitter;
}

static void write_codings(void)
{
    write_and_read(&(phi_export_tensor){.bits = 32});
    write_and_read(&(phi_export_tensor){.bits = 16});
    for (uint32_t bits = 4; bits <= 8; bits += 4) {
        for (uint32_t group = 0; group <= 16; group += 16) {
            for (size_t r = 0; r < sizeof rules / sizeof *rules; r++) {
                write_and_read(&(phi_export_tensor){
                    .bits = bits,
                    .group = group,
                    .zero_rule = rules[r],
                    .scale_dtype = rules[r] == PHI_ZERO_FLOAT ? PHI_DTYPE_F32 : PHI_DTYPE_F16});
            }
        }
    }
}

static void test_phi2(void **state)
{
    (void)state;
    describe(PHI_ARCH_PHI2);
    m.description.n_rot = 4;
    write_codings();
    m.description.n_head_kv = m.description.n_head;
    m.description.tied_head = true;
    write_and_read(&(phi_export_tensor){.bits = 8, .scale_dtype = PHI_DTYPE_F32});
}

static void test_phimoe(void **state)
{
    (void)state;
    describe(PHI_ARCH_PHIMOE);
    write_codings();
    m.description.attn_bias = true;
    m.description.head_bias = true;
    m.description.window = 20;
    write_and_read(&(phi_export_tensor){.bits = 32});
    /* Factors for both sides of the original context. */
    m.description.rope = PHI_ROPE_LONG;
    m.description.n_ctx_original = 16;
    m.description.rope_attn_factor = 1.25F;
    m.description.rope_attn_factor_long = 1.5F;
    for (uint32_t i = 0; i < 4; i++) {
        m.description.rope_short[i] = 1.0F + 0.5F * (float)i;
        m.description.rope_long[i] = 2.0F + (float)i;
    }
    write_and_read(&(phi_export_tensor){.bits = 32});
}

/* A tensor that is not there is named before a file appears. */
static void test_missing_tensor(void **state)
{
    (void)state;
    phi_err err;
    describe(PHI_ARCH_PHIMOE);
    make(&(phi_export_tensor){.bits = 32});
    for (uint32_t i = 0; i < m.count; i++) {
        if (strcmp(m.tensors[i].name, "blk.1.ffn_gate_inp.weight") == 0) {
            m.tensors[i].name = "other";
        }
    }
    assert_int_equal(phi_openvino_write(&m.export, f.dir, &err), PHI_E_INVALID);
    assert_non_null(strstr(err.message, "\"blk.1.ffn_gate_inp.weight\" is missing"));
    assert_false(phi_file_exists(fixture_path(&f, "openvino_model.bin")));
}

/* ---- graphs of other models ---- */

static char *replaced(const char *text, const char *from, const char *to)
{
    const char *at = strstr(text, from);
    assert_non_null(at);
    return phi_strfmt("%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
}

static unsigned layer_id(const char *xml, const char *name)
{
    char text[160];
    unsigned id = 0;
    (void)snprintf(text, sizeof text, "\" name=\"%s\" type=", name);
    const char *at = strstr(xml, text);
    assert_non_null(at);
    while (at[-1] >= '0' && at[-1] <= '9') {
        at--;
    }
    assert_int_equal(sscanf(at, "%u", &id), 1);
    return id;
}

/* The graph with another layer's first output at an input. */
static char *rewired(const char *xml, const char *layer, unsigned port, const char *from)
{
    char end[96];
    unsigned from_id = layer_id(xml, from);
    (void)snprintf(end, sizeof end, "to-layer=\"%u\" to-port=\"%u\"", layer_id(xml, layer), port);
    const char *at = strstr(xml, end);
    assert_non_null(at);
    const char *edge = at;
    while (strncmp(edge, "<edge", 5) != 0) {
        edge--;
    }
    /* Ports are numbered over inputs, then outputs. */
    char begin[96];
    (void)snprintf(begin, sizeof begin, "<edge from-layer=\"%u\" from-port=", from_id);
    const char *port_of = strstr(xml, begin);
    assert_non_null(port_of);
    unsigned from_port;
    assert_int_equal(sscanf(port_of + strlen(begin), "\"%u\"", &from_port), 1);
    return phi_strfmt("%.*s<edge from-layer=\"%u\" from-port=\"%u\" %s", (int)(edge - xml), xml,
                      from_id, from_port, at);
}

typedef struct damage {
    const char *from;
    const char *to;
    const char *names;
} damage;

static void check_graph(char *xml, phi_status code, const char *names)
{
    phi_openvino *o = NULL;
    phi_err err = {.message = "accepted"};
    (void)fixture_write_text(&f, "openvino_model.xml", xml);
    phi_status status = phi_openvino_open(f.dir, &o, &err);
    if (status != code || !strstr(err.message, names)) {
        print_message("%d, not %d: \"%s\", not \"%s\"\n", status, code, err.message, names);
    }
    assert_int_equal(status, code);
    assert_non_null(strstr(err.message, names));
    phi_free(xml);
}

/* The graph of an architecture, as it is written. */
static char *write_graph(phi_arch arch)
{
    char *xml;
    phi_err err;
    describe(arch);
    m.description.attn_bias = true;
    m.description.head_bias = true;
    make(&(phi_export_tensor){.bits = 32});
    assert_int_equal(phi_openvino_write(&m.export, f.dir, &err), PHI_OK);
    assert_int_equal(
        phi_file_read_text(fixture_path(&f, "openvino_model.xml"), 1U << 22, &xml, NULL, &err),
        PHI_OK);
    return xml;
}

static void test_other_phi2_graphs(void **state)
{
    (void)state;
    static const damage damages[] = {
        {"approximation_mode=\"TANH\"", "approximation_mode=\"ERF\"",
         "\"model.layers.0.mlp/gelu\" (Gelu) is not gelu in tanh's form"},
        {"type=\"Gelu\"", "type=\"Swish\"", "(Swish) is not gelu in tanh's form"},
        {"type=\"MVN\"", "type=\"Sqrt\"", "is not the layer norm with epsilon 1e-05"},
        {"eps=\"9", "eps=\"8", "is not the layer norm with epsilon 1e-05"},
        {"normalize_variance=\"true\"", "normalize_variance=\"false\"", "is not the layer norm"},
        {"INSIDE_SQRT", "OUTSIDE_SQRT", "is not the layer norm"},
        {"self.model.layers.1.mlp.fc1.bias", "self.model.layers.0.mlp.fc1.bias",
         "where model.layers.1.mlp.fc1.bias belongs"},
        {"self.model.layers.1.self_attn.k_proj.weight",
         "self.model.layers.1.self_attn.v_proj.weight",
         "where model.layers.1.self_attn.k_proj.weight belongs"},
        {"model.layers.1.both\" type=\"Add\"", "model.layers.1.both\" type=\"Multiply\"",
         "is not the sum of a layer's input, its attention and its feed-forward"},
        {"name=\"lm_head\" type=\"MatMul\"", "name=\"lm_head\" type=\"Divide\"",
         "where the product with lm_head.weight belongs"},
    };
    char *xml = write_graph(PHI_ARCH_PHI2);
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        check_graph(replaced(xml, damages[i].from, damages[i].to), PHI_E_UNSUPPORTED,
                    damages[i].names);
    }
    check_graph(replaced(xml, "eps=\"9", "eps=\"x"), PHI_E_FORMAT, "an attribute is no number");
    check_graph(rewired(xml, "model.layers.1.mlp.fc1", 0, "model.layers.0.input_layernorm"),
                PHI_E_UNSUPPORTED, "is not the norm that the attention beside it reads");
    check_graph(rewired(xml, "model.layers.1.self_attn.q_proj/with_bias", 1,
                        "self.model.layers.1.mlp.fc1.bias"),
                PHI_E_FORMAT,
                "where the 32 numbers of model.layers.1.self_attn.q_proj.bias belong");
    phi_free(xml);
}

static void test_other_experts(void **state)
{
    (void)state;
    static const damage damages[] = {
        {"type=\"ReduceSum\"", "type=\"ReduceMax\"", "is not the sum of weighed experts"},
        {"experts/shares\" type=\"Unsqueeze\"", "experts/shares\" type=\"Squeeze\"",
         "does not weigh experts by the router's shares"},
        {"type=\"Tile\"", "type=\"Broadcast\"", "does not give every expert every token"},
        {"experts/silu\" type=\"Swish\"", "experts/silu\" type=\"Sigmoid\"",
         "is not the product of one half and silu of the other"},
        {"mode=\"max\"", "mode=\"min\"", "is not the share of the best expert"},
        {"type=\"SoftMax\"", "type=\"Sigmoid\"", "is not the share of the best expert"},
        {"reduction=\"none\"", "reduction=\"sum\"", "is not the scores less the best"},
        {"router/shares\" type=\"ScatterElementsUpdate\"", "router/shares\" type=\"Maximum\"",
         "does not give each token's two experts their weights"},
        {"first/magnitude\" type=\"Abs\"", "first/magnitude\" type=\"Sqrt\"",
         "further below the best than 0.02 times"},
        {"second/is_far\" type=\"Greater\"", "second/is_far\" type=\"Less\"",
         "\"model.layers.0.mlp.router/second/near\" (Select) does not leave out experts"},
        {"self.model.layers.1.mlp.experts.up_proj", "self.model.layers.1.mlp.experts.gate_proj",
         "where model.layers.1.mlp.experts.up_proj belongs"},
        {"shape=\"4, 64, 32\"", "shape=\"8, 32, 32\"",
         "has another shape than the [4, 64, 32] that config.json asks for"},
    };
    char *xml = write_graph(PHI_ARCH_PHIMOE);
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        bool lies = damages[i].from[0] == 's' && damages[i].from[1] == 'h';
        check_graph(replaced(xml, damages[i].from, damages[i].to),
                    lies ? PHI_E_FORMAT : PHI_E_UNSUPPORTED, damages[i].names);
    }
    check_graph(rewired(xml, "model.layers.1.mlp.router", 0, "model.layers.0.mlp.tokens"),
                PHI_E_UNSUPPORTED, "scores something else than the experts read");
    check_graph(
        rewired(xml, "model.layers.1.mlp.experts/up", 0, "model.layers.0.mlp.experts/tokens"),
        PHI_E_UNSUPPORTED, "multiplies something else than its neighbour does");
    check_graph(
        rewired(xml, "model.layers.1.mlp.router/first/is_far", 1, "model.layers.1.mlp.router/zero"),
        PHI_E_UNSUPPORTED, "further below the best than 0.02 times");
    phi_free(xml);
}

/* A writer that is stopped leaves nothing behind. */
static void test_stopped(void **state)
{
    (void)state;
    phi_err err;
    fixture_tiny_description(&m.description);
    for (uint32_t pieces = 1; pieces < 6; pieces++) {
        make(&(phi_export_tensor){.bits = 4, .scale_dtype = PHI_DTYPE_F16});
        m.pieces_left = pieces;
        assert_int_equal(phi_openvino_write(&m.export, f.dir, &err), PHI_E_CANCELLED);
        assert_false(phi_file_exists(fixture_path(&f, "openvino_model.bin")));
        assert_false(phi_file_exists(fixture_path(&f, "openvino_model.xml")));
    }
}

/* What fp16 cannot hold is no infinity in the file. */
static void test_too_large(void **state)
{
    (void)state;
    fixture_tiny_description(&m.description);
    make(&(phi_export_tensor){.bits = 16});
    phi_err err = {.message = "accepted"};
    m.data[0].values[3] = 70000.0F;
    assert_int_equal(phi_openvino_write(&m.export, f.dir, &err), PHI_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "\"token_embd.weight\": it holds 70000, which fp16"));
    assert_false(phi_file_exists(fixture_path(&f, "openvino_model.xml")));
}

static void test_no_memory(void **state)
{
    (void)state;
    phi_err err;
    fixture_tiny_description(&m.description);
    for (int64_t n = 0;; n++) {
        make(&(phi_export_tensor){
            .bits = 4, .zero_rule = PHI_ZERO_INTEGER, .scale_dtype = PHI_DTYPE_F16});
        phi_mem_fail_after(n);
        phi_status status = phi_openvino_write(&m.export, f.dir, &err);
        phi_mem_fail_after(-1);
        if (!status) {
            assert_true(n > 10);
            break;
        }
        assert_true(status == PHI_E_NO_MEMORY || status == PHI_E_LIMIT);
    }
}

/* The source's own files go along; what they say of another quantization does not. */
static void test_source(void **state)
{
    (void)state;
    fixture source;
    phi_description found;
    phi_err err;
    fixture_init(&source);
    (void)fixture_write_text(&source, "config.json",
                             "{" TINY_CONFIG ",\"custom\":7,\"quantization_config\":{\"quant_"
                             "method\":\"awq\"},\"quantization\":{\"bits\":4}}");
    (void)fixture_write_text(&source, "tokenizer_config.json", "{\"chat_template\":\"x\"}");
    (void)fixture_write_text(&source, "chat_template.jinja", "{{ messages }}");
    fixture_tiny_description(&m.description);
    make(&(phi_export_tensor){.bits = 8, .scale_dtype = PHI_DTYPE_F16});
    m.export.source_dir = source.dir;
    assert_int_equal(phi_openvino_write(&m.export, f.dir, &err), PHI_OK);
    char *text;
    assert_int_equal(phi_file_read_text(fixture_path(&f, "config.json"), 4096, &text, NULL, &err),
                     PHI_OK);
    assert_non_null(strstr(text, "\"custom\": 7"));
    assert_null(strstr(text, "quantization"));
    phi_free(text);
    assert_int_equal(
        phi_file_read_text(fixture_path(&f, "chat_template.jinja"), 99, &text, NULL, &err), PHI_OK);
    assert_string_equal(text, "{{ messages }}");
    phi_free(text);
    assert_int_equal(phi_hf_config_read(f.dir, &found, &err), PHI_OK);
    assert_int_equal(found.n_eos, m.description.n_eos);
    fixture_done(&source);
}

static bool holds(const char *name, const char *what)
{
    char *data;
    size_t bytes;
    phi_err err;
    assert_int_equal(phi_file_read_text(fixture_path(&f, name), 1 << 22, &data, &bytes, &err),
                     PHI_OK);
    bool found = memmem(data, bytes, what, strlen(what)) != NULL;
    phi_free(data);
    return found;
}

/* The chains of operations for both kinds of tokenizer, and what is in their constants. What the
 * operations make of texts is tests/peers/test_openvino.py's. */
static void test_tokenizer(void **state)
{
    (void)state;
    static const char sentence_piece[] =
        "{\"added_tokens\":[{\"id\":3,\"content\":\"<|end|>\",\"rstrip\":true,\"special\":true}],"
        "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\","
        "\"prepend\":\"_\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":"
        "\"_\"}]},\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":0,\"b\":1,"
        "\"ab\":2},\"merges\":[[\"a\",\"b\"]]}}";
    fixture source;
    phi_err err;
    fixture_tiny_description(&m.description);
    make(&(phi_export_tensor){.bits = 8, .scale_dtype = PHI_DTYPE_F16});
    m.export.source_dir = PHID_SOURCE_DIR "/models/phi-sample";
    assert_int_equal(phi_openvino_write(&m.export, f.dir, &err), PHI_OK);
    assert_true(holds("openvino_tokenizer.xml", "type=\"RegexSplit\" version=\"extension\""));
    assert_true(holds("openvino_tokenizer.xml", "byte_fallback=\"false\""));
    assert_true(holds("openvino_tokenizer.bin", "\\p{L}+| ?\\p{N}+"));
    assert_true(holds("openvino_tokenizer.bin", "\\<\\|assistant\\|\\>"));
    assert_false(holds("openvino_tokenizer.bin", "\\s"));
    assert_true(holds("openvino_detokenizer.xml", "type=\"VocabDecoder\""));
    fixture_init(&source);
    m.export.source_dir = source.dir;
    (void)fixture_write_text(&source, "tokenizer.json", sentence_piece);
    m.bytes_done = 0;
    assert_int_equal(phi_openvino_write(&m.export, f.dir, &err), PHI_OK);
    assert_true(holds("openvino_tokenizer.xml", "name=\"normalizer.1\""));
    assert_true(holds("openvino_tokenizer.xml", "byte_fallback=\"true\""));
    assert_true(holds("openvino_detokenizer.xml", "type=\"ByteFallback\""));
    assert_true(holds("openvino_tokenizer.bin", "(\\<\\|end\\|\\>)(?:["));
    /* A vocabulary by id, then merges. */
    assert_true(holds("openvino_tokenizer.bin", "abab<|end|>"));
    fixture_done(&source);
}

static void test_other_tokenizers(void **state)
{
    (void)state;
    static const char *const refused[][2] = {
        {"\"normalizer\":{\"type\":\"NFC\"}", "the normalizer \"NFC\""},
        {"\"pre_tokenizer\":{\"type\":\"Whitespace\"}", "the pre-tokenizer \"Whitespace\""},
        {"\"decoder\":{\"type\":\"WordPiece\"}", "the decoder \"WordPiece\""},
        {"\"post_processor\":{\"type\":\"BertProcessing\"}", "\"BertProcessing\""},
        {"\"added_tokens\":[{\"id\":2,\"content\":\"x\",\"single_word\":true}]", "\"x\""},
        {"\"added_tokens\":[{\"id\":-2,\"content\":\"x\"}]", "\"x\" has no usable id"},
    };
    fixture source;
    phi_err err;
    fixture_init(&source);
    fixture_tiny_description(&m.description);
    make(&(phi_export_tensor){.bits = 8, .scale_dtype = PHI_DTYPE_F16});
    m.export.source_dir = source.dir;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        char text[400];
        (void)snprintf(text, sizeof text,
                       "{%s,\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}}",
                       refused[i][0]);
        (void)fixture_write_text(&source, "tokenizer.json", text);
        phi_status status = phi_openvino_write(&m.export, f.dir, &err);
        assert_true(status == PHI_E_UNSUPPORTED || status == PHI_E_FORMAT);
        assert_non_null(strstr(err.message, refused[i][1]));
        assert_false(phi_file_exists(fixture_path(&f, "openvino_model.bin")));
    }
    fixture_done(&source);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_codings, setup, teardown),
        cmocka_unit_test_setup_teardown(test_architectures, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_phi2, setup, teardown),
        cmocka_unit_test_setup_teardown(test_phimoe, setup, teardown),
        cmocka_unit_test_setup_teardown(test_missing_tensor, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_phi2_graphs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_experts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stopped, setup, teardown),
        cmocka_unit_test_setup_teardown(test_too_large, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_source, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tokenizer, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_tokenizers, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
