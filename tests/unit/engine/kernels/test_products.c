/* Matrix products of every set that can run here: against double precision, at odd sizes. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "engine/kernels/kernels.h"
#include "random_weight.h"

#define SETS_MAX 8
#define COLS_MAX 640
#define ROWS_MAX 13
#define TOKENS_MAX 21

static const phi_kernels *sets[SETS_MAX];
static size_t n_sets;

static int8_t codes[TOKENS_MAX * COLS_MAX];
static float scales[TOKENS_MAX * COLS_MAX / 32];
static float sums[TOKENS_MAX * COLS_MAX / 32];
static float x[TOKENS_MAX * COLS_MAX];
static float y[TOKENS_MAX * ROWS_MAX];

static int find_sets(void **state)
{
    (void)state;
    n_sets = phi_kernels_available(sets, SETS_MAX);
    return n_sets > 0 ? 0 : -1;
}

/* Rows [begin, end) for every token of x, by whichever function the kind wants. */
static void multiply(const phi_kernels *k, const phi_weight *w, uint32_t begin, uint32_t end,
                     uint32_t n_tok)
{
    size_t cols = w->cols;
    const phi_act act = {n_tok, w->cols, codes, scales, sums};
    if (w->group) {
        for (uint32_t t = 0; t < n_tok; t++) {
            k->quantize_row(x + t * cols, cols, codes + t * cols, scales + t * (cols / 32),
                            sums + t * (cols / 32));
        }
    }
    switch (w->kind) {
    case PHI_WEIGHT_INT4:
        k->rows_int4(w, begin, end, &act, y, w->rows);
        return;
    case PHI_WEIGHT_INT8:
        k->rows_int8(w, begin, end, &act, y, w->rows);
        return;
    case PHI_WEIGHT_FP16:
        k->rows_fp16(w, begin, end, x, n_tok, y, w->rows);
        return;
    case PHI_WEIGHT_BF16:
        k->rows_bf16(w, begin, end, x, n_tok, y, w->rows);
        return;
    case PHI_WEIGHT_FP32:
        k->rows_fp32(w, begin, end, x, n_tok, y, w->rows);
        return;
    case PHI_WEIGHT_KIND_COUNT:
        break;
    }
    fail();
}

/* What the input of column c counts as: itself, or what its code stands for. */
static double input(const phi_weight *w, uint32_t token, size_t c)
{
    size_t at = token * (size_t)w->cols + c;
    return w->group ? (double)scales[at / 32] * codes[at] : (double)x[at];
}

/* Every output within FLT_EPSILON * (a few) of the sum of its terms' sizes. The offsets of INT4 are
 * summed apart and may be as large as the codes' share. */
static void check(const phi_weight *w, uint32_t n_tok, const char *what)
{
    float row[COLS_MAX];
    for (uint32_t r = 0; r < w->rows; r++) {
        phi_weight_row(w, r, row);
        double largest = 0.0;
        for (size_t c = 0; c < w->cols; c++) {
            largest = fmax(largest, fabs((double)row[c]));
        }
        for (uint32_t t = 0; t < n_tok; t++) {
            double sum = 0.0;
            double size = 0.0;
            for (size_t c = 0; c < w->cols; c++) {
                double in = input(w, t, c);
                sum += (double)row[c] * in;
                size += (w->group ? 3.0 * largest : fabs((double)row[c])) * fabs(in);
            }
            double error = fabs((double)y[t * w->rows + r] - sum);
            if (!(error <= 8.0 * (double)FLT_EPSILON * size + 1e-30)) {
                fail_msg("%s, row %u, token %u: %g, %g is right (off by %g, %g allowed)", what, r,
                         t, (double)y[t * w->rows + r], sum, error,
                         8.0 * (double)FLT_EPSILON * size);
            }
        }
    }
}

static void test_products(void **state)
{
    (void)state;
    static const uint32_t tokens[] = {1, 2, 3, 4, 5, 8, 21};
    static const uint32_t cols_float[] = {1, 7, 8, 33, 100, 640};
    static const uint32_t cols_int[] = {128, 256, 384, 640};
    random_seed(1);
    for (size_t s = 0; s < n_sets; s++) {
        for (size_t i = 0; i < n_random_kinds; i++) {
            const random_kind *kind = &random_kinds[i];
            const uint32_t *cols = kind->group ? cols_int : cols_float;
            size_t n_cols = kind->group ? 4 : 6;
            for (size_t c = 0; c < n_cols; c++) {
                phi_weight w;
                random_weight(&w, kind, ROWS_MAX, cols[c], 0.1F);
                for (size_t t = 0; t < sizeof tokens / sizeof tokens[0]; t++) {
                    random_floats(x, tokens[t] * (size_t)cols[c], 3.0F);
                    multiply(sets[s], &w, 0, w.rows, tokens[t]);
                    char what[128];
                    (void)snprintf(what, sizeof what, "%s: %s, %u columns", sets[s]->name,
                                   kind->name, cols[c]);
                    check(&w, tokens[t], what);
                }
                phi_weight_done(&w);
            }
        }
    }
}

/* INT matrices of 32 and 96 columns have no whole batch of runs. */
static void test_short_rows(void **state)
{
    (void)state;
    static const random_kind kinds[] = {{"INT4", PHI_WEIGHT_INT4, 32, true},
                                        {"INT4", PHI_WEIGHT_INT4, 32, false},
                                        {"INT8", PHI_WEIGHT_INT8, 32, false}};
    random_seed(2);
    for (size_t s = 0; s < n_sets; s++) {
        for (size_t i = 0; i < 3; i++) {
            for (uint32_t cols = 32; cols <= 288; cols += 32) {
                phi_weight w;
                random_weight(&w, &kinds[i], 5, cols, 0.1F);
                random_floats(x, 6 * (size_t)cols, 3.0F);
                multiply(sets[s], &w, 0, 5, 6);
                check(&w, 6, sets[s]->name);
                phi_weight_done(&w);
            }
        }
    }
}

/* Inputs at the ends of their codes, against weights at the ends of theirs: sums of products that
 * 16 bits only just hold. */
static void test_extremes(void **state)
{
    (void)state;
    random_seed(3);
    for (size_t s = 0; s < n_sets; s++) {
        for (size_t i = 0; i < n_random_kinds; i++) {
            phi_weight w;
            random_weight(&w, &random_kinds[i], 7, 256, 0.5F);
            for (int sign = -1; sign <= 1; sign += 2) {
                for (size_t c = 0; c < 4 * 256; c++) {
                    x[c] = (float)sign * 1000.0F;
                }
                multiply(sets[s], &w, 0, 7, 4);
                check(&w, 4, random_kinds[i].name);
            }
            phi_weight_done(&w);
        }
    }
}

/* A row is the same bits whether computed alone or among others, for one token or many. */
static void test_order(void **state)
{
    (void)state;
    random_seed(4);
    for (size_t s = 0; s < n_sets; s++) {
        for (size_t i = 0; i < n_random_kinds; i++) {
            phi_weight w;
            float whole[TOKENS_MAX * ROWS_MAX];
            random_weight(&w, &random_kinds[i], ROWS_MAX, 384, 0.1F);
            random_floats(x, TOKENS_MAX * 384, 1.0F);
            multiply(sets[s], &w, 0, w.rows, TOKENS_MAX);
            memcpy(whole, y, sizeof whole);
            for (uint32_t n_tok = 1; n_tok < TOKENS_MAX; n_tok += 3) {
                memset(y, 0, sizeof y);
                multiply(sets[s], &w, 0, 3, n_tok);
                multiply(sets[s], &w, 3, 9, n_tok);
                multiply(sets[s], &w, 9, ROWS_MAX, n_tok);
                assert_memory_equal(whole, y, (size_t)n_tok * ROWS_MAX * sizeof *y);
            }
            phi_weight_done(&w);
        }
    }
}

static void test_quantize(void **state)
{
    (void)state;
    const phi_kernels *portable = sets[n_sets - 1];
    int8_t other_codes[256];
    float other_scales[8];
    float other_sums[8];
    random_seed(5);
    for (int round = 0; round < 200; round++) {
        random_floats(x, 256, ldexpf(1.0F, round - 100));
        x[round % 256] = 0.0F;
        portable->quantize_row(x, 256, codes, scales, sums);
        for (size_t c = 0; c < 256; c++) {
            assert_in_range(codes[c] + 127, 0, 254);
            float error = fabsf((float)codes[c] * scales[c / 32] - x[c]);
            assert_true(error <= 0.51F * scales[c / 32] + 1e-35F);
        }
        for (size_t s = 0; s < n_sets; s++) {
            sets[s]->quantize_row(x, 256, other_codes, other_scales, other_sums);
            assert_memory_equal(codes, other_codes, 256);
            assert_memory_equal(scales, other_scales, sizeof other_scales);
            assert_memory_equal(sums, other_sums, sizeof other_sums);
        }
    }
}

/* What is not a number reaches the output as not a number; zeros give zeros. */
static void test_not_numbers(void **state)
{
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    random_seed(6);
    for (size_t s = 0; s < n_sets; s++) {
        for (size_t i = 0; i < n_random_kinds; i++) {
            phi_weight w;
            random_weight(&w, &random_kinds[i], 5, 256, 0.1F);
            for (size_t b = 0; b < 3; b++) {
                random_floats(x, 256, 1.0F);
                x[77] = bad[b];
                multiply(sets[s], &w, 0, 5, 1);
                for (size_t r = 0; r < 5; r++) {
                    assert_true(!isfinite(y[r]));
                }
            }
            memset(x, 0, 256 * sizeof *x);
            multiply(sets[s], &w, 0, 5, 1);
            for (size_t r = 0; r < 5; r++) {
                assert_true(y[r] == 0.0F);
            }
            phi_weight_done(&w);
        }
    }
}

/* Every slot of every table is filled: the table is a name and function pointers only. */
static void test_slots(void **state)
{
    (void)state;
    for (size_t s = 0; s < n_sets; s++) {
        const unsigned char *at = (const unsigned char *)sets[s];
        for (size_t i = 0; i < sizeof(phi_kernels); i += sizeof(void *)) {
            void *slot;
            memcpy(&slot, at + i, sizeof slot);
            assert_non_null(slot);
        }
    }
}

static void test_select(void **state)
{
    (void)state;
    const phi_kernels *found = NULL;
    phi_err err = {0};
    assert_int_equal(PHI_OK, phi_kernels_select(NULL, &found, &err));
    assert_ptr_equal(sets[0], found);
    assert_int_equal(PHI_OK, phi_kernels_select("", &found, &err));
    assert_ptr_equal(sets[0], found);
    for (size_t s = 0; s < n_sets; s++) {
        assert_int_equal(PHI_OK, phi_kernels_select(sets[s]->name, &found, &err));
        assert_ptr_equal(sets[s], found);
    }
    found = NULL;
    assert_int_equal(PHI_E_INVALID, phi_kernels_select("abacus", &found, &err));
    assert_null(found);
    assert_non_null(strstr(err.message, "'abacus'"));
    assert_non_null(strstr(err.message, "portable"));
    assert_string_equal("portable", sets[n_sets - 1]->name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slots),    cmocka_unit_test(test_select),
        cmocka_unit_test(test_products), cmocka_unit_test(test_short_rows),
        cmocka_unit_test(test_extremes), cmocka_unit_test(test_order),
        cmocka_unit_test(test_quantize), cmocka_unit_test(test_not_numbers),
    };
    return cmocka_run_group_tests(tests, find_sets, NULL);
}
