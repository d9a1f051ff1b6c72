/* Rows of tensors whose pieces are of different types. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/formats/tensor_rows.h"

/* attn_q and attn_k in Q4_K, attn_v in Q6_K, as GGUF's mixes have them. */
static const phi_tensor MIXED = {
    .name = "blk.0.attn_qkv.weight",
    .dtype = PHI_DTYPE_Q4_K,
    .n_dims = 2,
    .rows = 40,
    .cols = 512,
    .bytes = 32 * 288 + 8 * 420,
    .n_pieces = 3,
    .piece_dtype = {PHI_DTYPE_Q4_K, PHI_DTYPE_Q4_K, PHI_DTYPE_Q6_K},
    .piece_rows = {24, 8, 8},
};

static void test_runs(void **state)
{
    (void)state;
    phi_row_run run = phi_tensor_run(&MIXED, 0);
    assert_int_equal(run.dtype, PHI_DTYPE_Q4_K);
    assert_int_equal(run.rows, 32);
    assert_int_equal(run.row_bytes, 288);
    run = phi_tensor_run(&MIXED, 23);
    assert_int_equal(run.rows, 9);
    run = phi_tensor_run(&MIXED, 31);
    assert_int_equal(run.rows, 1);
    run = phi_tensor_run(&MIXED, 33);
    assert_int_equal(run.dtype, PHI_DTYPE_Q6_K);
    assert_int_equal(run.rows, 7);
    assert_int_equal(run.row_bytes, 420);
    assert_int_equal(phi_tensor_rows_bytes(&MIXED, 0, 40), MIXED.bytes);
    assert_int_equal(phi_tensor_rows_bytes(&MIXED, 30, 4), 2 * 288 + 2 * 420);
    assert_int_equal(phi_tensor_rows_bytes(&MIXED, 40, 0), 0);
    assert_int_equal(phi_tensor_row_bytes_max(&MIXED), 420);
}

static void test_form(void **state)
{
    (void)state;
    phi_form form = phi_tensor_form(&MIXED);
    const phi_form right = {PHI_WEIGHT_INT8, 16, true, true};
    assert_true(phi_form_equal(&form, &right));
    assert_true(phi_tensor_is_mixed(&MIXED));
    phi_tensor same = MIXED;
    same.piece_dtype[2] = PHI_DTYPE_Q4_K;
    assert_false(phi_tensor_is_mixed(&same));
    form = phi_tensor_form(&same);
    phi_form alone = phi_form_of(PHI_DTYPE_Q4_K);
    assert_true(phi_form_equal(&form, &alone));
}

static void test_type(void **state)
{
    (void)state;
    char type[PHI_TENSOR_TYPE_BYTES];
    phi_tensor_type(&MIXED, type);
    assert_string_equal(type, "Q4_K+Q6_K");
    phi_tensor three = MIXED;
    three.piece_dtype[0] = PHI_DTYPE_IQ4_NL;
    three.piece_dtype[1] = PHI_DTYPE_IQ4_XS;
    three.piece_dtype[2] = PHI_DTYPE_IQ4_NL;
    phi_tensor_type(&three, type);
    assert_string_equal(type, "IQ4_NL+IQ4_XS+IQ4_NL");
    three.piece_dtype[1] = PHI_DTYPE_IQ4_NL;
    phi_tensor_type(&three, type);
    assert_string_equal(type, "IQ4_NL");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_runs),
        cmocka_unit_test(test_form),
        cmocka_unit_test(test_type),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
