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

#define ROWS_MAX 40U
#define COLS_MAX 512U

/* Where a block's fp16 numbers are; an F32 is cut in the same place. */
static const int halves[PHI_DTYPE_COUNT][2] = {
    [PHI_DTYPE_F32] = {2, -1},    [PHI_DTYPE_F16] = {0, -1},   [PHI_DTYPE_BF16] = {0, -1},
    [PHI_DTYPE_Q8_0] = {0, -1},   [PHI_DTYPE_Q4_0] = {0, -1},  [PHI_DTYPE_Q4_1] = {0, 2},
    [PHI_DTYPE_Q5_0] = {0, -1},   [PHI_DTYPE_Q5_1] = {0, 2},   [PHI_DTYPE_Q2_K] = {80, 82},
    [PHI_DTYPE_Q3_K] = {108, -1}, [PHI_DTYPE_Q4_K] = {0, 2},   [PHI_DTYPE_Q5_K] = {0, 2},
    [PHI_DTYPE_Q6_K] = {208, -1}, [PHI_DTYPE_Q8_K] = {2, -1},  [PHI_DTYPE_IQ4_NL] = {0, -1},
    [PHI_DTYPE_IQ4_XS] = {0, -1}, [PHI_DTYPE_MXFP4] = {-1, -1}};

/* Any bytes are valid blocks as long as the numbers among them are finite. */
static void fill(phi_dtype dtype, uint8_t *data, size_t bytes)
{
    uint32_t random = 7;
    for (size_t i = 0; i < bytes; i++) {
        random = random * 1664525U + 1013904223U;
        data[i] = (uint8_t)(random >> 24);
    }
    size_t step = phi_dtype_get(dtype)->block_bytes;
    for (size_t i = 0; i + step <= bytes; i += step) {
        for (int h = 0; h < 2; h++) {
            if (halves[dtype][h] >= 0) {
                /* Clears the top exponent bit. */
                data[i + (size_t)halves[dtype][h] + 1] &= 0xBF;
            }
        }
        if (dtype == PHI_DTYPE_MXFP4) {
            data[i] &= 0x7F;
        }
    }
}

/* Columns that are whole blocks, and not a round number where they may be. */
static uint32_t cols_of(phi_dtype dtype)
{
    return phi_dtype_get(dtype)->block_elements == 256 ? 512 : 288;
}

/* Rows that fill the last block up count as zero: their codes, scales and offsets are zero bits. */
static void check_padding(const phi_weight *weight)
{
    uint32_t lanes = weight->rows % PHI_WEIGHT_BLOCK;
    size_t last = weight->n_blocks - 1;
    const uint8_t *codes = (const uint8_t *)weight->codes + last * weight->block_bytes;
    size_t unit = weight->kind == PHI_WEIGHT_FP16 || weight->kind == PHI_WEIGHT_BF16 ? 2 : 4;
    for (size_t i = 0; lanes && i < weight->block_bytes; i++) {
        assert_true(codes[i] == 0 || i / unit % PHI_WEIGHT_BLOCK < lanes);
    }
    size_t per_block = weight->group ? weight->cols / weight->group * PHI_WEIGHT_BLOCK : 0;
    for (size_t i = 0; lanes && i < per_block; i++) {
        bool is_row = i % PHI_WEIGHT_BLOCK < lanes;
        size_t at = last * per_block + i;
        assert_true(is_row || phi_weight_scale(weight, at) == 0);
        assert_true(is_row || !weight->has_offsets || phi_weight_offset(weight, at) == 0);
    }
}

static void check_row(const phi_weight *weight, phi_dtype dtype, const uint8_t *stored,
                      uint32_t row)
{
    float right[COLS_MAX];
    float got[COLS_MAX];
    phi_dtype_widen(dtype, stored, weight->cols, right);
    phi_weight_row(weight, row, got);
    for (uint32_t j = 0; j < weight->cols; j++) {
        if (got[j] != right[j]) {
            fail_msg("%s, row %u of %u, column %u: %g, %g is right", phi_dtype_get(dtype)->name,
                     row, weight->rows, j, (double)got[j], (double)right[j]);
        }
    }
}

static void check_rows(const phi_weight *weight, phi_dtype dtype, const uint8_t *file,
                       uint64_t row_bytes)
{
    for (uint32_t row = 0; row < weight->rows; row++) {
        check_row(weight, dtype, file + row * row_bytes, row);
    }
}

/* Sets `pieces` rows at a time, beginning with the last piece. */
static void set_in_pieces(phi_weight *weight, phi_dtype dtype, const uint8_t *file,
                          uint64_t row_bytes, uint32_t pieces)
{
    for (uint32_t row = (weight->rows - 1) / pieces * pieces;; row -= pieces) {
        uint32_t count = weight->rows - row < pieces ? weight->rows - row : pieces;
        phi_weight_set_rows(weight, dtype, row, count, file + row * row_bytes);
        if (row == 0) {
            return;
        }
    }
}

/* One byte off, so that no alignment is assumed. */
static uint8_t file[1 + ROWS_MAX * COLS_MAX * 4];

static void test_round_trips(void **state)
{
    (void)state;
    static const uint32_t rows[] = {1, 5, 16, 17, 33, ROWS_MAX};
    static const uint32_t pieces[] = {1, 3, 7, 16, 19, ROWS_MAX};
    for (size_t i = 0; i < PHI_DTYPE_COUNT * 6 * 6; i++) {
        phi_dtype dtype = (phi_dtype)(i / 36);
        uint32_t n_rows = rows[i / 6 % 6];
        /* Of what has no blocks, a number that no vector divides. */
        uint32_t cols = phi_dtype_get(dtype)->block_elements == 1 ? 291 : cols_of(dtype);
        uint64_t row_bytes = 0;
        assert_true(phi_dtype_row_bytes(dtype, cols, &row_bytes));
        fill(dtype, file + 1, n_rows * row_bytes);
        phi_weight weight;
        phi_err err;
        assert_int_equal(phi_weight_init(&weight, dtype, n_rows, cols, &err), PHI_OK);
        assert_int_equal(weight.kind, phi_form_of(dtype).kind);
        assert_int_equal((uintptr_t)weight.codes % 64, 0);
        assert_int_equal((uintptr_t)weight.scales % 64, 0);
        assert_int_equal((uintptr_t)weight.offsets % 64, 0);
        assert_int_equal((uintptr_t)weight.wide_scales % 64, 0);
        assert_int_equal((uintptr_t)weight.wide_offsets % 64, 0);
        set_in_pieces(&weight, dtype, file + 1, row_bytes, pieces[i % 6]);
        check_rows(&weight, dtype, file + 1, row_bytes);
        check_padding(&weight);
        phi_weight_done(&weight);
        assert_null(weight.codes);
    }
}

/* What a kernel reads where: the layout that weight.h states, for the code of column `c` of row
 * `r`, without what the kind adds to it. */
static int stored_code(const phi_weight *weight, uint32_t r, uint32_t c)
{
    const uint8_t *block = (const uint8_t *)weight->codes + r / 16 * weight->block_bytes;
    uint32_t lane = r % 16;
    if (weight->kind == PHI_WEIGHT_INT8) {
        return block[(c / 4 * 16 + lane) * 4 + c % 4] - 128;
    }
    uint32_t j = c % 16 / 4;
    int both = block[((c / 32 * 4 + j) * 16 + lane) * 4 + c % 4];
    return c % 32 < 16 ? both & 15 : both >> 4;
}

typedef struct coded {
    uint8_t codes[128];
    float scales[128 / 16];
    float offsets[128 / 16];
} coded;

static void check_coded(const phi_weight *weight, const coded *in, uint32_t row)
{
    float got[128];
    bool is_int4 = weight->kind == PHI_WEIGHT_INT4;
    uint32_t groups = 128 / weight->group;
    phi_weight_row(weight, row, got);
    for (uint32_t c = 0; c < 128; c++) {
        uint32_t g = c / weight->group;
        int code = is_int4 ? in->codes[c] : (int8_t)in->codes[c];
        size_t at = (row / 16 * groups + g) * 16 + row % 16;
        assert_int_equal(stored_code(weight, row, c), code);
        float scale = in->scales[g];
        float offset = in->offsets[g];
        assert_true(phi_weight_scale(weight, at) == scale);
        if (weight->has_offsets) {
            assert_true(phi_weight_offset(weight, at) == offset);
            assert_true(got[c] == scale * (float)code + offset);
        } else {
            assert_null(weight->offsets);
            assert_null(weight->wide_offsets);
            assert_true(got[c] == scale * (float)(is_int4 ? code - 8 : code));
        }
    }
    assert_int_equal(phi_weight_centre(weight), is_int4 ? weight->has_offsets ? 0 : 8 : 128);
}

static void test_codes(void **state)
{
    (void)state;
    static const uint32_t group[] = {16, 32, 64, 128};
    for (size_t i = 0; i < 32; i++) {
        phi_weight weight;
        phi_form form = {.kind = i / 8 % 2 ? PHI_WEIGHT_INT8 : PHI_WEIGHT_INT4,
                         .group = group[i % 4],
                         .has_offsets = i / 4 % 2,
                         .wide = i / 16};
        /* What fp16 has no value for, in the wide form. */
        float finer = form.wide ? 0x1p-20F : 0;
        coded rows[21];
        assert_int_equal(phi_weight_shape(&weight, &form, 21, 128, NULL), PHI_OK);
        assert_int_equal(phi_weight_alloc(&weight, NULL), PHI_OK);
        for (uint32_t r = 0; r < 21; r++) {
            for (uint32_t c = 0; c < 128; c++) {
                uint32_t mixed = (r * 128 + c) * 2654435761U >> 16;
                rows[r].codes[c] = (uint8_t)(form.kind == PHI_WEIGHT_INT4 ? mixed & 15 : mixed);
                rows[r].scales[c / 16] = 0.25F + (float)(r * 8 + c / 16) / 64 + finer;
                rows[r].offsets[c / 16] = (float)(r + c / 16) - 11.0F + finer;
            }
        }
        for (uint32_t r = 21; r-- > 0;) {
            phi_weight_set_codes(&weight, r, rows[r].codes, rows[r].scales,
                                 form.has_offsets ? rows[r].offsets : NULL);
        }
        for (uint32_t r = 0; r < 21; r++) {
            check_coded(&weight, &rows[r], r);
        }
        check_padding(&weight);
        phi_weight_done(&weight);
    }
}

/* A matrix in the caller's memory stays within its bytes, and is as good after they were copied. */
static void test_bind(void **state)
{
    (void)state;
    for (int i = 0; i < PHI_DTYPE_COUNT; i++) {
        phi_dtype dtype = (phi_dtype)i;
        uint64_t row_bytes = 0;
        phi_weight weight;
        assert_int_equal(phi_weight_shape_of(&weight, dtype, 21, cols_of(dtype), NULL), PHI_OK);
        assert_null(weight.codes);
        size_t bytes = (size_t)phi_weight_bytes(&weight);
        assert_int_equal(bytes % 64, 0);
        uint8_t *memory = phi_try_alloc_aligned(2 * bytes + 64);
        assert_non_null(memory);
        memset(memory, 0, bytes);
        memset(memory + bytes, 0xA5, bytes + 64);
        assert_true(phi_dtype_row_bytes(dtype, cols_of(dtype), &row_bytes));
        fill(dtype, file + 1, 21 * row_bytes);
        phi_weight_bind(&weight, memory);
        phi_weight_set_rows(&weight, dtype, 0, 21, file + 1);
        check_padding(&weight);
        for (size_t j = bytes; j < 2 * bytes + 64; j++) {
            assert_int_equal(memory[j], 0xA5);
        }
        memcpy(memory + bytes, memory, bytes);
        memset(memory, 0xA5, bytes);
        phi_weight_bind(&weight, memory + bytes);
        check_rows(&weight, dtype, file + 1, row_bytes);
        /* Borrowed: nothing is freed. */
        phi_weight_done(&weight);
        phi_free(memory);
    }
}

/* Rows of two types in one matrix, in the form that holds both: nothing is lost of either. */
static void test_join(void **state)
{
    (void)state;
    for (int i = 0; i < PHI_DTYPE_COUNT * PHI_DTYPE_COUNT; i++) {
        phi_dtype types[2] = {(phi_dtype)(i / PHI_DTYPE_COUNT), (phi_dtype)(i % PHI_DTYPE_COUNT)};
        uint32_t cols =
            cols_of(types[0]) > cols_of(types[1]) ? cols_of(types[0]) : cols_of(types[1]);
        phi_form forms[2] = {phi_form_of(types[0]), phi_form_of(types[1])};
        phi_form form = phi_form_join(&forms[0], &forms[1]);
        phi_weight weight;
        uint64_t row_bytes[2] = {0};
        assert_int_equal(phi_weight_shape(&weight, &form, 21, cols, NULL), PHI_OK);
        assert_int_equal(phi_weight_alloc(&weight, NULL), PHI_OK);
        for (int t = 0; t < 2; t++) {
            assert_true(phi_dtype_row_bytes(types[t], cols, &row_bytes[t]));
            fill(types[t], file + 1, 21 * row_bytes[t]);
            /* The first 5 rows of one type, the others of the other. */
            phi_weight_set_rows(&weight, types[t], t ? 5 : 0, t ? 16 : 5, file + 1);
        }
        for (uint32_t row = 0; row < 21; row++) {
            int t = row >= 5;
            fill(types[t], file + 1, 21 * row_bytes[t]);
            check_row(&weight, types[t], file + 1 + (row - (t ? 5 : 0)) * row_bytes[t], row);
        }
        check_padding(&weight);
        phi_weight_done(&weight);
    }
}

static void test_join_forms(void **state)
{
    (void)state;
    static const struct {
        phi_dtype a;
        phi_dtype b;
        phi_form both;
    } cases[] = {
        {PHI_DTYPE_Q4_K, PHI_DTYPE_Q6_K, {PHI_WEIGHT_INT8, 16, true, true}},
        {PHI_DTYPE_Q4_K, PHI_DTYPE_Q5_K, {PHI_WEIGHT_INT8, 32, true, true}},
        {PHI_DTYPE_Q4_K, PHI_DTYPE_Q4_1, {PHI_WEIGHT_INT4, 32, true, true}},
        {PHI_DTYPE_Q4_0, PHI_DTYPE_Q4_1, {PHI_WEIGHT_INT8, 32, true, false}},
        {PHI_DTYPE_Q4_0, PHI_DTYPE_Q8_0, {PHI_WEIGHT_INT8, 32, false, false}},
        {PHI_DTYPE_Q3_K, PHI_DTYPE_Q4_0, {PHI_WEIGHT_INT4, 16, false, true}},
        {PHI_DTYPE_Q8_K, PHI_DTYPE_Q6_K, {PHI_WEIGHT_INT8, 16, false, true}},
        {PHI_DTYPE_F16, PHI_DTYPE_BF16, {PHI_WEIGHT_FP32, 0, false, false}},
        {PHI_DTYPE_Q8_0, PHI_DTYPE_F16, {PHI_WEIGHT_FP32, 0, false, false}},
        {PHI_DTYPE_BF16, PHI_DTYPE_BF16, {PHI_WEIGHT_BF16, 0, false, false}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        phi_form a = phi_form_of(cases[i].a);
        phi_form b = phi_form_of(cases[i].b);
        phi_form ab = phi_form_join(&a, &b);
        phi_form ba = phi_form_join(&b, &a);
        assert_true(phi_form_equal(&ab, &cases[i].both));
        assert_true(phi_form_equal(&ba, &cases[i].both));
    }
}

static void test_refusals(void **state)
{
    (void)state;
    phi_weight weight = {.rows = 77};
    phi_err err;
    static const uint32_t groups[] = {0, 8, 24, 48, 128, 256};
    assert_int_equal(phi_weight_init(&weight, PHI_DTYPE_Q4_0, 2, 48, &err), PHI_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "48 columns are not a multiple of 32"));
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        phi_form form = {.kind = PHI_WEIGHT_INT8, .group = groups[i]};
        assert_int_equal(phi_weight_shape(&weight, &form, 2, 192, &err), PHI_E_UNSUPPORTED);
        assert_non_null(strstr(err.message, "192 columns"));
    }
    phi_form floats = {.kind = PHI_WEIGHT_FP32};
    assert_int_equal(phi_weight_shape(&weight, &floats, UINT32_MAX, UINT32_MAX, &err), PHI_E_LIMIT);
    phi_mem_fail_after(0);
    assert_int_equal(phi_weight_init(&weight, PHI_DTYPE_Q4_1, 2, 64, &err), PHI_E_NO_MEMORY);
    phi_mem_fail_after(-1);
    assert_non_null(strstr(err.message, "2 x 64"));
    /* Untouched by what failed. */
    assert_int_equal(weight.rows, 77);
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
        cmocka_unit_test(test_round_trips), cmocka_unit_test(test_codes),
        cmocka_unit_test(test_bind),        cmocka_unit_test(test_join),
        cmocka_unit_test(test_join_forms),  cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
