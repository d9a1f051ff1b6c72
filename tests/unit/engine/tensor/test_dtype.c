/* File types: sizes, numbers, and widening against the formulas of the format. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/tensor/dtype.h"
#include "engine/tensor/half.h"

static void test_table(void **state)
{
    (void)state;
    static const struct {
        phi_dtype dtype;
        const char *name;
        uint32_t ggml_type;
        uint64_t bytes_of_256;
    } rows[] = {
        {PHI_DTYPE_F32, "F32", 0, 1024},       {PHI_DTYPE_F16, "F16", 1, 512},
        {PHI_DTYPE_BF16, "BF16", 30, 512},     {PHI_DTYPE_Q8_0, "Q8_0", 8, 272},
        {PHI_DTYPE_Q4_0, "Q4_0", 2, 144},      {PHI_DTYPE_Q4_1, "Q4_1", 3, 160},
        {PHI_DTYPE_Q5_0, "Q5_0", 6, 176},      {PHI_DTYPE_Q5_1, "Q5_1", 7, 192},
        {PHI_DTYPE_Q2_K, "Q2_K", 10, 84},      {PHI_DTYPE_Q3_K, "Q3_K", 11, 110},
        {PHI_DTYPE_Q4_K, "Q4_K", 12, 144},     {PHI_DTYPE_Q5_K, "Q5_K", 13, 176},
        {PHI_DTYPE_Q6_K, "Q6_K", 14, 210},     {PHI_DTYPE_Q8_K, "Q8_K", 15, 292},
        {PHI_DTYPE_IQ4_NL, "IQ4_NL", 20, 144}, {PHI_DTYPE_IQ4_XS, "IQ4_XS", 23, 136},
        {PHI_DTYPE_MXFP4, "MXFP4", 39, 136},
    };
    assert_int_equal(sizeof rows / sizeof *rows, PHI_DTYPE_COUNT);
    for (size_t i = 0; i < PHI_DTYPE_COUNT; i++) {
        phi_dtype dtype;
        uint64_t bytes = 0;
        assert_string_equal(phi_dtype_get(rows[i].dtype)->name, rows[i].name);
        assert_true(phi_dtype_of_ggml(rows[i].ggml_type, &dtype));
        assert_int_equal(dtype, rows[i].dtype);
        assert_true(phi_dtype_row_bytes(rows[i].dtype, 256, &bytes));
        assert_int_equal(bytes, rows[i].bytes_of_256);
        bool blocks = rows[i].dtype >= PHI_DTYPE_Q8_0;
        assert_int_equal(phi_dtype_row_bytes(rows[i].dtype, 257, &bytes), !blocks);
        assert_int_equal(phi_dtype_get(rows[i].dtype)->block_elements > 1, blocks);
    }
    phi_dtype dtype;
    uint64_t bytes = 5;
    /* IQ1_S is not read; 4 was removed from the format. */
    assert_false(phi_dtype_of_ggml(19, &dtype));
    assert_false(phi_dtype_of_ggml(4, &dtype));
    assert_false(phi_dtype_row_bytes(PHI_DTYPE_F32, UINT64_MAX, &bytes));
    assert_int_equal(bytes, 5);
}

static void test_plain(void **state)
{
    (void)state;
    const float values[4] = {1.5F, -2.0F, 0.0F, 65504.0F};
    uint8_t raw[1 + sizeof values]; /* one byte off, so that no alignment is assumed */
    float out[4];
    memcpy(raw + 1, values, sizeof values);
    phi_dtype_widen(PHI_DTYPE_F32, raw + 1, 4, out);
    assert_memory_equal(out, values, sizeof values);
    for (int brain = 0; brain < 2; brain++) {
        for (int i = 0; i < 4; i++) {
            uint16_t bits = brain ? phi_bf16_of_float(values[i]) : phi_half_of_float(values[i]);
            memcpy(raw + 1 + 2 * i, &bits, 2);
        }
        phi_dtype_widen(brain ? PHI_DTYPE_BF16 : PHI_DTYPE_F16, raw + 1, 4, out);
        assert_memory_equal(out, values, sizeof(float) * 3);
        assert_true(out[3] == (brain ? 65536.0F : 65504.0F));
    }
}

static void test_q8_0(void **state)
{
    (void)state;
    phi_block_q8_0 blocks[2];
    uint8_t raw[1 + sizeof blocks];
    float out[64];
    for (int b = 0; b < 2; b++) {
        blocks[b].d = phi_half_of_float(b ? -0.25F : 0.5F);
        for (int j = 0; j < 32; j++) {
            blocks[b].codes[j] = (int8_t)(j * 8 - 128);
        }
    }
    memcpy(raw + 1, blocks, sizeof blocks);
    phi_dtype_widen(PHI_DTYPE_Q8_0, raw + 1, 64, out);
    for (int j = 0; j < 32; j++) {
        assert_true(out[j] == 0.5F * (float)(j * 8 - 128));
        assert_true(out[32 + j] == -0.25F * (float)(j * 8 - 128));
    }
}

static void test_q4(void **state)
{
    (void)state;
    phi_block_q4_0 zero = {.d = phi_half_of_float(0.75F)};
    phi_block_q4_1 one = {.d = phi_half_of_float(0.75F), .m = phi_half_of_float(-1.5F)};
    float out[32];
    for (int j = 0; j < 16; j++) {
        /* Low nibble: element j; high nibble: element j + 16. */
        zero.nibbles[j] = (uint8_t)(j | (15 - j) << 4);
        one.nibbles[j] = zero.nibbles[j];
    }
    phi_dtype_widen(PHI_DTYPE_Q4_0, &zero, 32, out);
    for (int j = 0; j < 16; j++) {
        assert_true(out[j] == 0.75F * (float)(j - 8));
        assert_true(out[j + 16] == 0.75F * (float)(15 - j - 8));
    }
    phi_dtype_widen(PHI_DTYPE_Q4_1, &one, 32, out);
    for (int j = 0; j < 16; j++) {
        assert_true(out[j] == 0.75F * (float)j - 1.5F);
        assert_true(out[j + 16] == 0.75F * (float)(15 - j) - 1.5F);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_q8_0),
        cmocka_unit_test(test_q4),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
