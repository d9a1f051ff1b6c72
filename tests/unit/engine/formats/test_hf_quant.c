/* What config.json says of quantized weights: each field that is wrong is named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "engine/formats/hf_quant.h"
#include "fixture.h"

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

#define CONFIG(body) "{\"quantization_config\":{" body "}}"
#define AUTO_ROUND(packing)                                                                        \
    "\"quant_method\":\"auto-round\",\"bits\":4,\"packing_format\":\"" packing "\""
#define COMPRESSED "\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\","

static void test_methods(void **state)
{
    (void)state;
    static const struct {
        const char *config;
        phi_hf_method method;
        uint32_t bits;
        int32_t zero_point_add;
    } cases[] = {
        {"{}", PHI_HF_PLAIN, 0, 0},
        {"{\"quantization_config\":null}", PHI_HF_PLAIN, 0, 0},
        {"{\"quantization\":{\"group_size\":64,\"bits\":4}}", PHI_HF_MLX, 0, 0},
        {CONFIG("\"quant_method\":\"gptq\",\"bits\":8"), PHI_HF_GPTQ, 8, 1},
        {CONFIG("\"quant_method\":\"gptq\",\"bits\":2,\"checkpoint_format\":\"gptq_v2\""),
         PHI_HF_GPTQ, 2, 0},
        {CONFIG("\"quant_method\":\"awq\",\"version\":\"gemm\""), PHI_HF_AWQ, 4, 0},
        {CONFIG(COMPRESSED "\"config_groups\":{\"group_0\":{\"weights\":{\"num_bits\":8}}}"),
         PHI_HF_COMPRESSED, 8, 0},
        {CONFIG(AUTO_ROUND("auto_round:auto_gptq")), PHI_HF_GPTQ, 4, 1},
        {CONFIG(AUTO_ROUND("auto_round")), PHI_HF_GPTQ, 4, 0},
        {CONFIG(AUTO_ROUND("auto_round:auto_awq")), PHI_HF_AWQ, 4, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        phi_hf_quant quant;
        phi_err err = {0};
        (void)fixture_write_text(&f, "config.json", cases[i].config);
        if (phi_hf_quant_read(f.dir, &quant, &err)) {
            fail_msg("%s: %s", cases[i].config, err.message);
        }
        assert_int_equal(quant.method, cases[i].method);
        assert_int_equal(quant.bits, cases[i].bits);
        assert_int_equal(quant.zero_point_add, cases[i].zero_point_add);
    }
}

static void test_wrong_fields(void **state)
{
    (void)state;
    static const struct {
        const char *config;
        phi_status status;
        const char *says;
    } wrongs[] = {
        {"{\"quantization_config\":[]}", PHI_E_FORMAT, "must be an object"},
        {CONFIG("\"quant_method\":\"hqq\""), PHI_E_UNSUPPORTED, "\"hqq\""},
        {CONFIG("\"quant_method\":4"), PHI_E_FORMAT, "quant_method\" must be a string"},
        {CONFIG("\"bits\":4"), PHI_E_FORMAT, "group_size\" is missing"},
        {CONFIG("\"quant_method\":\"gptq\""), PHI_E_FORMAT, "bits\" is missing"},
        {CONFIG("\"quant_method\":\"gptq\",\"bits\":-4"), PHI_E_FORMAT, "from 1 to 8"},
        {CONFIG("\"quant_method\":\"gptq\",\"bits\":4294967300"), PHI_E_FORMAT, "from 1 to 8"},
        {CONFIG("\"quant_method\":\"gptq\",\"bits\":4,\"checkpoint_format\":\"marlin\""),
         PHI_E_UNSUPPORTED, "\"marlin\""},
        {CONFIG("\"quant_method\":\"awq\",\"version\":\"gemv\""), PHI_E_UNSUPPORTED, "\"gemv\""},
        {CONFIG("\"quant_method\":\"auto-round\",\"bits\":4"), PHI_E_FORMAT,
         "packing_format\" is missing"},
        {CONFIG("\"quant_method\":\"auto-round\",\"packing_format\":\"auto_round\""), PHI_E_FORMAT,
         "bits\" is missing"},
        {CONFIG(AUTO_ROUND("auto_round:fp8_static")), PHI_E_UNSUPPORTED,
         "\"auto_round:fp8_static\""},
        {CONFIG(AUTO_ROUND("auto_round") ",\"rotation_config\":{\"block_size\":32}"),
         PHI_E_UNSUPPORTED, "rotation_config\" is not supported"},
        {CONFIG("\"quant_method\":\"compressed-tensors\",\"config_groups\":{}"), PHI_E_UNSUPPORTED,
         "\"pack-quantized\""},
        {CONFIG("\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\""),
         PHI_E_FORMAT, "config_groups\" is missing"},
        {CONFIG(COMPRESSED "\"config_groups\":{}"), PHI_E_FORMAT,
         "config_groups\" must be an object"},
        {CONFIG(COMPRESSED "\"config_groups\":[]"), PHI_E_FORMAT,
         "config_groups\" must be an object"},
        {CONFIG(COMPRESSED "\"config_groups\":{\"a\":{}}"), PHI_E_FORMAT, "a\" has no \"weights\""},
        {CONFIG(COMPRESSED "\"config_groups\":{\"a\":{\"weights\":{\"num_bits\":0}}}"),
         PHI_E_FORMAT, "config_groups.a.weights.num_bits"},
        {CONFIG(COMPRESSED "\"config_groups\":{\"a\":{\"weights\":{\"num_bits\":6}}}"),
         PHI_E_UNSUPPORTED, "6 bits"},
        {CONFIG(COMPRESSED "\"config_groups\":{\"a\":{\"weights\":{\"num_bits\":4}},"
                           "\"b\":{\"weights\":{\"num_bits\":8}}}"),
         PHI_E_UNSUPPORTED, "one width"},
    };
    for (size_t i = 0; i < sizeof wrongs / sizeof *wrongs; i++) {
        phi_hf_quant quant;
        phi_err err = {0};
        (void)fixture_write_text(&f, "config.json", wrongs[i].config);
        phi_status status = phi_hf_quant_read(f.dir, &quant, &err);
        if (status != wrongs[i].status || !strstr(err.message, wrongs[i].says) ||
            !strstr(err.message, "config.json")) {
            fail_msg("%s: %s \"%s\"", wrongs[i].config, phi_status_name(status), err.message);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_methods),
        cmocka_unit_test(test_wrong_fields),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
