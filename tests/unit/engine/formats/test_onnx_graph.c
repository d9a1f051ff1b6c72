/* A folder of ONNX Runtime GenAI, written here byte by byte: every setting is what the graph and
 * the files beside it say. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "onnx_model.h"

static void test_description(void **state)
{
    (void)state;
    open_and_check(&(onnx_spec){.bits = 4, .window = 40});
    const phi_description *d = phi_onnx_description(now.onnx);
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

/* The graph says which architecture it is; a part of each head may be rotated. */
static void test_description_of_phi2(void **state)
{
    (void)state;
    (void)fixture_write_text(&now.files, "genai_config.json", GENAI_OF("decoder"));
    open_and_check(&(onnx_spec){.bits = 4, .phi2 = true, .window = -1});
    const phi_description *d = phi_onnx_description(now.onnx);
    assert_int_equal(d->arch, PHI_ARCH_PHI2);
    assert_int_equal(d->norm, PHI_NORM_LAYER);
    assert_int_equal(d->ffn, PHI_FFN_GELU);
    assert_true(d->is_parallel && d->attn_bias && d->head_bias && !d->tied_head);
    assert_int_equal(d->n_ffn, F);
    assert_int_equal(d->head_dim, D);
    assert_int_equal(d->n_rot, D / 2);
    assert_float_equal(d->rope_theta, 10000.0F, 0.0F);
    open_and_check(&(onnx_spec){.bits = 4, .window = -1});
    assert_int_equal(phi_onnx_description(now.onnx)->arch, PHI_ARCH_PHI3);
    (void)fixture_write_text(&now.files, "genai_config.json", GENAI);
}

static void check_long_rope(void)
{
    const phi_description *d = phi_onnx_description(now.onnx);
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
    (void)fixture_write_text(&now.files, "genai_config.json", text);
}

static void test_long_rope(void **state)
{
    (void)state;
    open_and_check(&(onnx_spec){.bits = 32, .long_rope = true, .window = -1});
    check_long_rope();
}

/* The same where the tables stand one behind the other. */
static void test_joint_tables(void **state)
{
    (void)state;
    static const char *const names[] = {"multi_rotary_cache_concat_offset",
                                        "multiRotaryCacheConcatOffset"};
    static const char *const wrong[] = {"\"-1\"", "32", "\"160\""};
    const onnx_spec joint = {.bits = 32, .long_rope = true, .joint = true, .window = -1};
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
    (void)fixture_write_text(&now.files, "genai_config.json", GENAI);
}

/* With a config.json, its settings are taken where they give the tables, and refused where not. */
static void test_config(void **state)
{
    (void)state;
    phi_err err;
    (void)fixture_write_text(&now.files, "config.json",
                             "{" TINY_CONFIG ",\"_name_or_path\":\"a/Tiny\"}");
    open_and_check(&(onnx_spec){.bits = 4});
    assert_string_equal(phi_onnx_description(now.onnx)->name, "Tiny");
    assert_int_equal(open_spec(&(onnx_spec){.bits = 4, .long_rope = true}, &err), PHI_E_FORMAT);
    (void)fixture_write_text(&now.files, "config.json", "{" TINY_CONFIG ",\"rope_theta\":20000}");
    assert_int_equal(open_spec(&(onnx_spec){.bits = 4}, &err), PHI_E_FORMAT);
    assert_non_null(strstr(err.message, "config.json's rotary settings"));
    (void)fixture_write_text(&now.files, "config.json", "{" TINY_CONFIG "}");
    (void)fixture_write_text(&now.files, "genai_config.json", GENAI_OF("phi"));
    assert_int_equal(open_spec(&(onnx_spec){.bits = 4, .phi2 = true}, &err), PHI_E_FORMAT);
    assert_non_null(strstr(err.message, "config.json is of a phi3 model"));
    (void)fixture_write_text(&now.files, "genai_config.json", GENAI);
    fixture_remove(&now.files, "config.json");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_description), cmocka_unit_test(test_description_of_phi2),
        cmocka_unit_test(test_long_rope),   cmocka_unit_test(test_joint_tables),
        cmocka_unit_test(test_config),
    };
    return cmocka_run_group_tests(tests, onnx_setup, onnx_teardown);
}
