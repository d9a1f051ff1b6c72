/* What is written as a folder of ONNX Runtime GenAI is what the reader finds in it: the same codes,
 * scales and zero points, the same floats, the same description. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "onnx_exported.h"

static void test_round_trip(void **state)
{
    (void)state;
    static const exported_spec specs[] = {
        {.bits = 32},
        {.bits = 16, .window = 40},
        {.bits = 4, .group = 32},
        {.bits = 4, .group = 16, .rule = PHI_ZERO_INTEGER, .long_rope = true},
        {.bits = 8, .group = 32, .rule = PHI_ZERO_INTEGER, .tied = true},
        {.bits = 4, .group = 32, .tied = true, .rule = PHI_ZERO_INTEGER},
        {.bits = 16, .tied = true, .long_rope = true},
        {.bits = 32, .tied = true},
        {.bits = 8, .group = 16},
        {.bits = 16, .window = 40, .provider = PHI_ONNX_CUDA},
        {.bits = 32, .tied = true, .provider = PHI_ONNX_CUDA},
        {.bits = 4, .group = 32, .long_rope = true, .provider = PHI_ONNX_CUDA},
        {.bits = 4, .group = 16, .rule = PHI_ZERO_INTEGER, .provider = PHI_ONNX_CUDA},
        {.bits = 8, .group = 32, .tied = true, .provider = PHI_ONNX_CUDA},
        {.bits = 32, .arch = PHI_ARCH_PHI2},
        {.bits = 16, .arch = PHI_ARCH_PHI2, .provider = PHI_ONNX_CUDA},
        {.bits = 8, .group = 32, .arch = PHI_ARCH_PHI2},
        {.bits = 4, .group = 16, .arch = PHI_ARCH_PHI2, .rule = PHI_ZERO_INTEGER},
        {.bits = 4, .group = 32, .arch = PHI_ARCH_PHI2, .provider = PHI_ONNX_CUDA},
    };
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        write_and_check(&specs[i], true);
        write_and_check(&specs[i], false);
    }
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        exported_spec spec;
        const char *named;
    } cases[] = {
        {{.bits = 4, .group = 96}, "groups of 96"},
        {{.bits = 4, .group = 8}, "groups of 8"},
        {{.bits = 4, .group = 64, .rule = PHI_ZERO_INTEGER, .provider = PHI_ONNX_CUDA},
         "1 groups a row"},
        {{.bits = 4, .group = 64}, "\"blk.0.ffn_down.weight\""}, /* 96 columns */
        {{.bits = 4, .group = 32, .rule = PHI_ZERO_REAL}, "zero points"},
        {{.bits = 4, .group = 32, .rule = PHI_ZERO_FLOAT}, "zero points"},
        {{.bits = 3, .group = 32}, "4 or 8 bits"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        phi_err err = {.message = "accepted"};
        phi_export export = make_export(&cases[i].spec);
        assert_int_equal(phi_onnx_write(&export, cases[i].spec.provider, made.files.dir, &err),
                         PHI_E_UNSUPPORTED);
        assert_non_null(strstr(err.message, cases[i].named));
    }
}

/* What fp16 cannot hold is no infinity in the file. */
static void test_too_large(void **state)
{
    (void)state;
    phi_err err;
    static const phi_onnx_provider providers[] = {PHI_ONNX_CPU, PHI_ONNX_CUDA};
    for (size_t i = 0; i < 2; i++) {
        phi_export export = make_export(&(exported_spec){.bits = 16});
        made.too_large = "blk.0.ffn_down.weight";
        assert_int_equal(phi_onnx_write(&export, providers[i], made.files.dir, &err),
                         PHI_E_UNSUPPORTED);
        made.too_large = NULL;
        assert_non_null(strstr(err.message, "\"blk.0.ffn_down.weight\""));
        assert_non_null(strstr(err.message, "it holds 70000, which fp16 cannot"));
    }
}

/* A number of rotary dimensions that onnxruntime's attention does not take. */
static void test_rotary_dims(void **state)
{
    (void)state;
    phi_err err;
    phi_export export = make_export(&(exported_spec){.bits = 32});
    made.description.n_rot = 24;
    assert_int_equal(phi_onnx_write(&export, PHI_ONNX_CPU, made.files.dir, &err),
                     PHI_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "24 rotary dimensions"));
}

/* Called directly, past what a conversion checks. */
static void test_no_experts_for_cuda(void **state)
{
    (void)state;
    phi_err err;
    phi_export export = make_export(&(exported_spec){.bits = 32, .arch = PHI_ARCH_PHIMOE});
    fixture_remove(&made.files, "model.onnx");
    assert_int_equal(phi_onnx_write(&export, PHI_ONNX_CUDA, made.files.dir, &err),
                     PHI_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "for phi3 and phi2 models only, and this is phimoe"));
    assert_false(phi_file_exists(fixture_path(&made.files, "model.onnx")));
}

/* A writer that is stopped leaves no file that looks whole. */
static void test_cancelled(void **state)
{
    (void)state;
    phi_err err;
    phi_export export = make_export(&(exported_spec){.bits = 32});
    static const char *const files[] = {"genai_config.json", "model.onnx", "model.onnx.data"};
    for (size_t i = 0; i < 3; i++) {
        fixture_remove(&made.files, files[i]);
    }
    made.calls_left = 3;
    assert_int_equal(phi_onnx_write(&export, PHI_ONNX_CPU, made.files.dir, &err), PHI_E_CANCELLED);
    made.calls_left = 0;
    for (size_t i = 0; i < 3; i++) {
        assert_false(phi_file_exists(fixture_path(&made.files, files[i])));
    }
}

static void test_tokenizer(void **state)
{
    (void)state;
    fixture source;
    phi_err err;
    char *text = NULL;
    phi_export export = make_export(&(exported_spec){.bits = 32});
    fixture_init(&source);
    (void)fixture_write_text(&source, "tokenizer.json", "{\"a\":1}");
    (void)fixture_write_text(&source, "config.json", "{\"model_type\":\"other\"}");
    export.source_dir = source.dir;
    assert_int_equal(phi_onnx_write(&export, PHI_ONNX_CPU, made.files.dir, &err), PHI_OK);
    assert_int_equal(
        phi_file_read_text(fixture_path(&made.files, "tokenizer.json"), 100, &text, NULL, &err),
        PHI_OK);
    assert_string_equal(text, "{\"a\":1}");
    phi_free(text);
    fixture_done(&source);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),          cmocka_unit_test(test_refused),
        cmocka_unit_test(test_rotary_dims),         cmocka_unit_test(test_cancelled),
        cmocka_unit_test(test_tokenizer),           cmocka_unit_test(test_too_large),
        cmocka_unit_test(test_no_experts_for_cuda),
    };
    return cmocka_run_group_tests(tests, exported_setup, exported_teardown);
}
