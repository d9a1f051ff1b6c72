/* Weight matrices: filling from rows of each file type and widening again loses nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/tensor/half.h"
#include "engine/tensor/weight.h"

#define ROWS 5U
#define COLS 96U

/* Any bytes are valid blocks as long as the fp16 numbers among them are finite. */
static void fill(phi_dtype dtype, uint8_t *data, size_t bytes)
{
    uint32_t random = 7;
    for (size_t i = 0; i < bytes; i++) {
        random = random * 1664525U + 1013904223U;
        data[i] = (uint8_t)(random >> 24);
    }
    const phi_dtype_info *info = phi_dtype_get(dtype);
    size_t step = info->block_bytes;
    for (size_t i = 0; i + step <= bytes; i += step) {
        /* Clears the top exponent bit of each stored float, scale or offset. */
        data[i + (dtype == PHI_DTYPE_F32 ? 3 : 1)] &= 0xBF;
        if (dtype == PHI_DTYPE_Q4_1) {
            data[i + 3] &= 0xBF;
        }
    }
}

static void test_round_trips(void **state)
{
    (void)state;
    static const phi_weight_kind kinds[] = {PHI_WEIGHT_FP32, PHI_WEIGHT_FP16, PHI_WEIGHT_BF16,
                                            PHI_WEIGHT_INT8, PHI_WEIGHT_INT4, PHI_WEIGHT_INT4};
    for (int i = 0; i < PHI_DTYPE_COUNT; i++) {
        phi_dtype dtype = (phi_dtype)i;
        uint64_t row_bytes = 0;
        uint8_t file[1 + ROWS * COLS * 4];
        assert_true(phi_dtype_row_bytes(dtype, COLS, &row_bytes));
        fill(dtype, file + 1, ROWS * row_bytes);
        phi_weight weight;
        phi_err err;
        assert_int_equal(phi_weight_init(&weight, dtype, ROWS, COLS, &err), PHI_OK);
        assert_int_equal(weight.kind, kinds[i]);
        assert_int_equal(weight.kind, phi_weight_kind_of(dtype));
        assert_int_equal((uintptr_t)weight.codes % 64, 0);
        /* In two pieces, the later first. */
        phi_weight_set_rows(&weight, dtype, 2, 3, file + 1 + 2 * row_bytes);
        phi_weight_set_rows(&weight, dtype, 0, 2, file + 1);
        for (uint32_t row = 0; row < ROWS; row++) {
            float right[COLS];
            float got[COLS];
            phi_dtype_widen(dtype, file + 1 + row * row_bytes, COLS, right);
            phi_weight_row(&weight, row, got);
            for (uint32_t j = 0; j < COLS; j++) {
                assert_true(got[j] == right[j]);
            }
        }
        assert_int_equal(phi_weight_bytes(&weight), ROWS * row_bytes);
        phi_weight_done(&weight);
        assert_null(weight.codes);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    phi_weight weight;
    phi_err err;
    assert_int_equal(phi_weight_init(&weight, PHI_DTYPE_Q4_0, 2, 48, &err), PHI_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "48 columns are not a multiple of 32"));
    for (int n = 0; n < 3; n++) {
        phi_mem_fail_after(n);
        assert_int_equal(phi_weight_init(&weight, PHI_DTYPE_Q4_1, 2, 64, &err), PHI_E_NO_MEMORY);
        phi_mem_fail_after(-1);
    }
    phi_weight_done(NULL);
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(phi_weight_kind_name(PHI_WEIGHT_INT4), "INT4");
    assert_string_equal(phi_weight_kind_name(PHI_WEIGHT_FP32), "FP32");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
