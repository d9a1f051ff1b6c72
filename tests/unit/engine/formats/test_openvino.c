/* OpenVINO folders as optimum-intel writes them: every matrix has the values of its constants, and
 * a file that lies or computes something else than Phi is refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/formats/openvino.h"
#include "ov_model.h"

static fixture f;

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

/* ---- values ---- */

static void read_values(const phi_stored *stored, float *out)
{
    phi_err err;
    size_t count = (size_t)stored->rows * stored->cols;
    if (stored->kind == PHI_STORED_ROWS) {
        uint8_t *raw = phi_alloc(stored->data.bytes);
        assert_int_equal(
            phi_file_read_at(stored->data.file, stored->data.offset, raw, stored->data.bytes, &err),
            PHI_OK);
        phi_dtype_widen(stored->dtype, raw, count, out);
        phi_free(raw);
        return;
    }
    assert_int_equal(stored->kind, PHI_STORED_CODED);
    phi_coded_buffer buffer = {0};
    /* Three rows at a time begin in the middle of bytes that hold zero points of two rows. */
    for (uint32_t row = 0; row < stored->rows; row += 3) {
        uint32_t n = stored->rows - row < 3 ? stored->rows - row : 3;
        assert_int_equal(phi_coded_read_f32(&stored->coded, row, n, &buffer,
                                            out + (size_t)row * stored->cols, &err),
                         PHI_OK);
    }
    phi_coded_buffer_done(&buffer);
}

static void check_values(const ov_options *options)
{
    ov_model model;
    phi_openvino *o = NULL;
    phi_err err;
    ov_model_make(&model, options);
    ov_model_write(&model, &f);
    phi_status status = phi_openvino_open(f.dir, &o, &err);
    if (status) {
        print_message("%s\n", err.message);
    }
    assert_int_equal(status, PHI_OK);
    assert_int_equal(phi_openvino_description(o)->tied_head, options->tied);
    assert_int_equal(phi_openvino_count(o), model.tensor_count);
    for (size_t i = 0; i < phi_openvino_count(o); i++) {
        const phi_stored *stored = phi_openvino_at(o, i);
        const ov_tensor *right = ov_model_find(&model, stored->name);
        assert_non_null(right);
        assert_int_equal(stored->rows, right->rows);
        assert_int_equal(stored->cols, right->cols);
        assert_int_equal(stored->n_dims, right->rows == 1 ? 1 : 2);
        float *values = phi_alloc((size_t)right->rows * right->cols * sizeof *values);
        read_values(stored, values);
        for (size_t k = 0; k < (size_t)right->rows * right->cols; k++) {
            /* Offsets are rounded to floats once. */
            float error = values[k] - right->values[k];
            assert_true(error <= 1e-5F && error >= -1e-5F);
        }
        phi_free(values);
    }
    phi_openvino_close(o);
    ov_model_done(&model);
}

static void test_plain(void **state)
{
    (void)state;
    check_values(&(ov_options){.weights = OV_F16});
    check_values(&(ov_options){.weights = OV_F32, .split = true});
    check_values(&(ov_options){.weights = OV_BF16, .tied = true});
}

static void test_codes(void **state)
{
    (void)state;
    static const uint32_t groups[] = {0, 8, 16, 32};
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        for (int weights = OV_U4; weights <= OV_I8; weights++) {
            for (int zeros = 0; zeros < 3; zeros++) {
                check_values(&(ov_options){.weights = (ov_weights)weights,
                                           .group = groups[i],
                                           .zeros = zeros > 0,
                                           .float_zeros = zeros > 1,
                                           .split = zeros == 1,
                                           .tied = i == 1});
            }
        }
    }
}

static void test_positions(void **state)
{
    (void)state;
    check_values(&(ov_options){.n_rot = 6});
    check_values(&(ov_options){.long_rope = true});
    check_values(&(ov_options){.long_rope = true, .n_rot = 4});
    check_values(&(ov_options){.window = 20});
    check_values(&(ov_options){.ones = true});
}

/* The order in which a forward pass needs them, with Hugging Face's names. */
static void test_order(void **state)
{
    (void)state;
    static const char *const names[] = {
        "model.embed_tokens.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.self_attn.qkv_proj.weight",
        "model.layers.0.self_attn.o_proj.weight",
        "model.layers.0.post_attention_layernorm.weight",
        "model.layers.0.mlp.gate_up_proj.weight",
        "model.layers.0.mlp.down_proj.weight",
        "model.layers.1.input_layernorm.weight",
    };
    ov_model model;
    phi_openvino *o = NULL;
    ov_model_make(&model, &(ov_options){.weights = OV_U4, .group = 16, .zeros = true});
    ov_model_write(&model, &f);
    assert_int_equal(phi_openvino_open(f.dir, &o, NULL), PHI_OK);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        assert_string_equal(phi_openvino_at(o, i)->name, names[i]);
    }
    assert_string_equal(phi_openvino_at(o, phi_openvino_count(o) - 1)->name, "lm_head.weight");
    phi_openvino_close(o);
    ov_model_done(&model);
}

static void check_context(const ov_options *options, uint32_t context)
{
    ov_model model;
    phi_openvino *o = NULL;
    ov_model_make(&model, options);
    ov_model_write(&model, &f);
    assert_int_equal(phi_openvino_open(f.dir, &o, NULL), PHI_OK);
    assert_int_equal(phi_openvino_description(o)->n_ctx, context);
    assert_int_equal(phi_openvino_description(o)->n_ctx_original, 16);
    assert_true(phi_openvino_description(o)->rope_attn_factor > 1.32F &&
                phi_openvino_description(o)->rope_attn_factor < 1.33F);
    phi_openvino_close(o);
    ov_model_done(&model);
}

/* from_pretrained(export=True) leaves the original context in config.json: 16 for 128. Where that
 * states the factor, nothing is missing. */
static void test_lost_context(void **state)
{
    (void)state;
    check_context(&(ov_options){.long_rope = true, .lost_context = true}, 128);
    check_context(&(ov_options){.long_rope = true, .lost_context = true, .stated_factor = true},
                  16);
}

/* ---- refusals ---- */

static void check_refused(const char *xml, phi_status code, const char *names)
{
    phi_openvino *o = NULL;
    phi_err err = {.code = PHI_OK};
    (void)fixture_write_text(&f, "openvino_model.xml", xml);
    phi_status status = phi_openvino_open(f.dir, &o, &err);
    if (status != code || !strstr(err.message, names)) {
        print_message("%d, not %d: \"%s\", not \"%s\"\n", status, code, err.message, names);
    }
    assert_int_equal(status, code);
    assert_non_null(strstr(err.message, names));
    assert_null(o);
}

typedef struct damage {
    const char *from;
    const char *to;
    phi_status code;
    const char *names;
} damage;

/* Other models than Phi, and what would give other answers without a word. */
static const damage other_models[] = {
    {"type=\"Swish\"", "type=\"Erf\"", PHI_E_UNSUPPORTED, "\"silu\" is of type Erf"},
    {"type=\"Swish\"", "type=\"Gelu\"", PHI_E_UNSUPPORTED, "layer \"gated\" (Multiply)"},
    {"type=\"Swish\"", "type=\"Sigmoid\"", PHI_E_UNSUPPORTED, "layer \"gated\" (Multiply)"},
    {"name=\"gated\" type=\"Multiply\"", "name=\"gated\" type=\"Add\"", PHI_E_UNSUPPORTED,
     "layer \"gated\" (Add)"},
    {"name=\"logits\" type=\"MatMul\"", "name=\"softcap\" type=\"Divide\"", PHI_E_UNSUPPORTED,
     "layer \"softcap\" (Divide)"},
    {"name=\"o\" type=\"MatMul\"", "name=\"o\" type=\"Add\"", PHI_E_UNSUPPORTED,
     "layer \"residual\""},
    {"name=\"qkv\" type=\"MatMul\"", "name=\"bias\" type=\"Add\"", PHI_E_UNSUPPORTED,
     "layer \"bias\" (Add)"},
    {"type=\"ReduceMean\"", "type=\"ReduceMax\"", PHI_E_UNSUPPORTED,
     "root-mean-square norm with epsilon 1e-05"},
    {"keep_dims=\"true\"", "keep_dims=\"false\"", PHI_E_UNSUPPORTED, "layer \"norm_out\""},
    {"name=\"minus\" type=\"Multiply\"", "name=\"minus\" type=\"Add\"", PHI_E_UNSUPPORTED,
     "the rotation of 8 dimensions"},
    {"type=\"Cos\"", "type=\"Sqrt\"", PHI_E_UNSUPPORTED, "where Cos of the positions belongs"},
    {"name=\"position_ids\"", "name=\"positions\"", PHI_E_UNSUPPORTED, "multiply position_ids"},
    {"name=\"input_ids\"", "name=\"embeds\"", PHI_E_UNSUPPORTED, "model.embed_tokens.weight"},
    {"name=\"causal\" type=\"LessEqual\"", "name=\"causal\" type=\"Equal\"", PHI_E_UNSUPPORTED,
     "does not compare positions"},
    {"name=\"causal\" type=\"LessEqual\"", "name=\"causal\" type=\"Sin\"", PHI_E_UNSUPPORTED,
     "layer \"causal\" (Sin)"},
    {"causal=\"false\"", "causal=\"true\"", PHI_E_UNSUPPORTED, "layer \"sdpa\""},
    {"variable_id=\"past.1.key\"", "variable_id=\"past.0.key\"", PHI_E_UNSUPPORTED, "assign"},
    {"axis=\"-2\"", "axis=\"1\"", PHI_E_UNSUPPORTED, "layer \"all\" (Concat)"},
    {"name=\"beam_idx\"", "name=\"other\"", PHI_E_UNSUPPORTED, "beam_idx"},
    {"transpose_b=\"true\"", "transpose_b=\"false\"", PHI_E_UNSUPPORTED, "\"logits\" (MatMul)"},
    {"self.model.layers.1.mlp.down_proj.", "self.model.layers.0.mlp.down_proj.", PHI_E_UNSUPPORTED,
     "where model.layers.1.mlp.down_proj.weight belongs"},
    {"type=\"Result\"", "type=\"Negative\"", PHI_E_FORMAT, "no result"},
    {"type=\"ReadValue\"", "type=\"Parameter\"", PHI_E_UNSUPPORTED, "8 are right"},
};

/* Files that lie. */
static const damage lies[] = {
    {"<layers>", "<!DOCTYPE net [<!ENTITY a \"b\">]><layers>", PHI_E_FORMAT, "line 3"},
    {"<?xml version=\"1.0\"?>", "<!DOCTYPE net SYSTEM \"file:///etc/passwd\">", PHI_E_FORMAT,
     "document type (\"net\")"},
    {"<rt_info>", "<rt_info>&lol;", PHI_E_FORMAT, "undefined entity"},
    {"</layers>", "", PHI_E_FORMAT, "mismatched tag"},
    {"version=\"11\"", "version=\"7\"", PHI_E_UNSUPPORTED, "version \"7\""},
    {"<net ", "<model ", PHI_E_FORMAT, "outermost element is \"model\""},
    {"shape=\"96, 32\"", "shape=\"96, 31\"", PHI_E_FORMAT, "its shape asks for"},
    {"shape=\"96, 32\"", "shape=\"4294967296, 4294967296\"", PHI_E_FORMAT, "its shape asks for"},
    {"shape=\"96, 32\"", "shape=\"32, 96\"", PHI_E_FORMAT, "the [96, 32] that config.json"},
    {"shape=\"96, 32\"", "shape=\"1,1,1,1,1,1,1,1\"", PHI_E_FORMAT, "at most 6 dimensions"},
    {"shape=\"96, 32\"", "shape=\"-96, 32\"", PHI_E_FORMAT, "at most 6 dimensions"},
    {"element_type=\"f16\"", "element_type=\"nf4\"", PHI_E_UNSUPPORTED, "of type nf4"},
    {"id=\"7\" name", "id=\"8\" name", PHI_E_FORMAT, "two layers have the id 8"},
    {"<port id=\"0\"><dim>", "<port id=\"1\"><dim>", PHI_E_FORMAT, "not numbered in order"},
    {"to-port=\"1\"", "to-port=\"0\"", PHI_E_FORMAT, "two edges lead to port 0"},
    {"to-port=\"1\"", "to-port=\"77\"", PHI_E_FORMAT, "joins what is not there"},
    {"from-layer=\"2\"", "from-layer=\"99999\"", PHI_E_FORMAT, "joins what is not there"},
    {"name=\"silu\"", "name=\"\"", PHI_E_FORMAT, "needs an id, a name and a type"},
    {"<data element_type=\"i64\"", "<rt_info element_type=\"i64\"", PHI_E_FORMAT, "has no data"},
    /* A constant that becomes a conversion of nothing. */
    {"name=\"norm_weight\" type=\"Const\"", "name=\"nothing\" type=\"Convert\"", PHI_E_FORMAT,
     "numbers of model.norm.weight belong"},
};

static void check_damages(const ov_options *options, const damage *damages, size_t count)
{
    ov_model model;
    ov_model_make(&model, options);
    ov_model_write(&model, &f);
    for (size_t i = 0; i < count; i++) {
        char *xml = ov_model_xml(&model, damages[i].from, damages[i].to);
        check_refused(xml, damages[i].code, damages[i].names);
        phi_free(xml);
    }
    ov_model_done(&model);
}

static void test_other_models(void **state)
{
    (void)state;
    check_damages(&(ov_options){.weights = OV_F16}, other_models,
                  sizeof other_models / sizeof *other_models);
}

static void test_lies(void **state)
{
    (void)state;
    check_damages(&(ov_options){.weights = OV_F16}, lies, sizeof lies / sizeof *lies);
}

#define FLOAT_ZEROS "zero_point\" type=\"Const\" version=\"opset1\"><data element_type=\"f16\" "

/* Zero points are of the codes' type or of the scales', one for each group. */
static void test_other_zero_points(void **state)
{
    (void)state;
    static const damage others[] = {
        {FLOAT_ZEROS, "zero_point\" type=\"Const\" version=\"opset1\"><data element_type=\"bf16\" ",
         PHI_E_UNSUPPORTED, "of type bf16; u4, the codes' own, or f16, the scales', is right"},
        {FLOAT_ZEROS "shape=\"96, 2, 1\"", FLOAT_ZEROS "shape=\"96, 1, 2\"", PHI_E_FORMAT,
         "zero points in a shape that is not that of the groups"},
    };
    check_damages(&(ov_options){.weights = OV_U4, .group = 16, .zeros = true, .float_zeros = true},
                  others, sizeof others / sizeof *others);
}

static void test_other_arithmetic(void **state)
{
    (void)state;
    static const struct {
        ov_options options;
        const char *names;
    } others[] = {
        {{.scale_of_attention = 1.0F}, "scales by something else than 0.353553"},
        {{.up_first = true}, "layer \"chunks\" (VariadicSplit) is not elements 0 to 64"},
        {{.other_turn = true}, "is not the rotation of 8 dimensions"},
        {{.theta = 9000.0F}, "the rotary frequencies that config.json asks for"},
        {{.long_rope = true, .original = 17}, "the rotary frequencies that config.json asks for"},
        {{.eps = 1e-6F}, "norm with epsilon 1e-05"},
    };
    char *xml;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        ov_model model;
        ov_model_make(&model, &others[i].options);
        ov_model_write(&model, &f);
        xml = ov_model_xml(&model, NULL, NULL);
        check_refused(xml, PHI_E_UNSUPPORTED, others[i].names);
        phi_free(xml);
        ov_model_done(&model);
    }
    /* A window in the graph that config.json does not have, and the other way about. */
    ov_model with;
    ov_model without;
    ov_model_make(&with, &(ov_options){.window = 20});
    ov_model_make(&without, &(ov_options){.window = 0});
    ov_model_write(&without, &f);
    (void)fixture_write(&f, "openvino_model.bin", with.bin.data, with.bin.length_bytes);
    xml = ov_model_xml(&with, NULL, NULL);
    check_refused(xml, PHI_E_UNSUPPORTED, "limits the mask by -20");
    phi_free(xml);
    ov_model_write(&with, &f);
    (void)fixture_write(&f, "openvino_model.bin", without.bin.data, without.bin.length_bytes);
    xml = ov_model_xml(&without, NULL, NULL);
    check_refused(xml, PHI_E_UNSUPPORTED, "without config.json's sliding_window of 20");
    phi_free(xml);
    ov_model_done(&with);
    ov_model_done(&without);
}

static void test_nesting(void **state)
{
    (void)state;
    phi_buf deep;
    phi_buf_init(&deep, 1 << 20);
    phi_buf_append_str(&deep, "<net name=\"a\" version=\"11\"><rt_info>");
    for (int i = 0; i < 1000; i++) {
        phi_buf_append_str(&deep, "<a>");
    }
    (void)fixture_write(&f, "openvino_model.bin", "", 0);
    check_refused(phi_buf_text(&deep), PHI_E_LIMIT, "nested more than 32 deep");
    phi_buf_done(&deep);
    check_refused("", PHI_E_FORMAT, "no element found");
}

static void test_outside(void **state)
{
    (void)state;
    ov_model model;
    phi_openvino *o = NULL;
    phi_err err;
    ov_model_make(&model, &(ov_options){.weights = OV_I8});
    ov_model_write(&model, &f);
    (void)fixture_write(&f, "openvino_model.bin", model.bin.data, model.bin.length_bytes - 1);
    assert_int_equal(phi_openvino_open(f.dir, &o, &err), PHI_E_FORMAT);
    assert_non_null(strstr(err.message, "outside openvino_model.bin"));
    ov_model_done(&model);
}

static void test_missing_files(void **state)
{
    (void)state;
    static const char *const names[] = {"config.json", "openvino_model.bin", "openvino_model.xml"};
    ov_model model;
    phi_openvino *o = NULL;
    phi_err err;
    ov_model_make(&model, &(ov_options){.weights = OV_F32});
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        ov_model_write(&model, &f);
        fixture_remove(&f, names[i]);
        assert_int_equal(phi_openvino_open(f.dir, &o, &err), PHI_E_NOT_FOUND);
        assert_non_null(strstr(err.message, names[i]));
    }
    ov_model_done(&model);
}

/* The graph is held to what config.json says: what says it is another model has no such graph. */
static void test_other_architecture(void **state)
{
    (void)state;
    ov_model model;
    phi_openvino *o = NULL;
    phi_err err = {0};
    ov_model_make(&model, &(ov_options){.weights = OV_F16});
    ov_model_write(&model, &f);
    (void)fixture_write_text(&f, "config.json",
                             "{\"architectures\":[\"PhiForCausalLM\"],\"model_type\":\"phi\","
                             "\"hidden_size\":32,\"num_hidden_layers\":2,"
                             "\"num_attention_heads\":4,\"num_key_value_heads\":2,"
                             "\"intermediate_size\":64,\"vocab_size\":96}");
    assert_int_equal(phi_openvino_open(f.dir, &o, &err), PHI_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "is not the layer norm with epsilon 1e-05"));
    ov_model_done(&model);
}

/* Memory that runs out anywhere is an error like others, and leaks nothing. */
static void test_no_memory(void **state)
{
    (void)state;
    ov_model model;
    ov_model_make(&model, &(ov_options){.weights = OV_U4, .group = 16, .zeros = true});
    ov_model_write(&model, &f);
    for (int64_t n = 0;; n++) {
        phi_openvino *o = NULL;
        phi_mem_fail_after(n);
        phi_status status = phi_openvino_open(f.dir, &o, NULL);
        phi_mem_fail_after(-1);
        phi_openvino_close(o);
        if (!status) {
            assert_true(n > 10);
            break;
        }
        assert_true(status == PHI_E_NO_MEMORY || status == PHI_E_UNSUPPORTED ||
                    status == PHI_E_FORMAT);
    }
    ov_model_done(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_plain, setup, teardown),
        cmocka_unit_test_setup_teardown(test_codes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_positions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lost_context, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_models, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lies, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_zero_points, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_arithmetic, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nesting, setup, teardown),
        cmocka_unit_test_setup_teardown(test_outside, setup, teardown),
        cmocka_unit_test_setup_teardown(test_missing_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_architecture, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_memory, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
