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

#include "base/mem.h"
#include "engine/kernels/kernels.h"
#include "random_weight.h"

#define SETS_MAX 8
#define COLS_MAX 640
#define ROWS_MAX 33
#define TOKENS_MAX 61
/* Between the rows of y: must never change. */
#define GAP 3
#define GUARD 12345.0F

static const phi_kernels *sets[SETS_MAX];
static size_t n_sets;

static float x[TOKENS_MAX * COLS_MAX];
static float y[TOKENS_MAX * (ROWS_MAX + GAP)];
/* What is right, and the size of what was summed for it. */
static double right[TOKENS_MAX * ROWS_MAX];
static double sizes[TOKENS_MAX * ROWS_MAX];

static int find_sets(void **state)
{
    (void)state;
    n_sets = phi_kernels_available(sets, SETS_MAX);
    return n_sets > 0 ? 0 : -1;
}

/* ---- activations ---- */

static void *aligned(size_t bytes)
{
    void *memory = phi_try_alloc_aligned(bytes);
    assert_non_null(memory);
    return memory;
}

/* x in four tokens column by column, as matmul.c puts it. */
static float *pack(uint32_t n_tok, size_t cols)
{
    float *packed = aligned(n_tok * cols * sizeof *packed);
    for (uint32_t t = 0; t < n_tok; t++) {
        uint32_t first = t - t % PHI_ACT_QUAD;
        uint32_t width = n_tok - first < PHI_ACT_QUAD ? n_tok - first : PHI_ACT_QUAD;
        for (size_t k = 0; k < cols; k++) {
            packed[first * cols + k * width + (t - first)] = x[t * cols + k];
        }
    }
    return packed;
}

/* The first n_tok tokens of `from` for an INT kind, in memory of exactly their size. */
static phi_act quantize(const phi_kernels *k, const float *from, uint32_t n_tok, uint32_t cols,
                        uint32_t run, int centre)
{
    uint32_t tile = (uint32_t)k->act_tile;
    size_t runs = (size_t)n_tok * (cols / run);
    phi_act act = {.n_tok = n_tok, .cols = cols, .run = run, .tile = tile, .centre = centre};
    act.codes = aligned((size_t)n_tok * cols);
    act.scales = aligned(runs * sizeof *act.scales);
    act.starts = aligned(runs * sizeof *act.starts);
    act.shifts = aligned(runs * sizeof *act.shifts);
    for (uint32_t i = 0; i * tile < n_tok; i++) {
        k->quantize_tile(from + (size_t)i * tile * cols, i, &act);
    }
    return act;
}

static void free_act(phi_act *act)
{
    phi_free(act->codes);
    phi_free(act->scales);
    phi_free(act->starts);
    phi_free(act->shifts);
}

static uint32_t run_of(const phi_weight *w)
{
    return w->group < 32 ? 16 : 32;
}

/* ---- products ---- */

/* Blocks [begin, end) of every token of x into y, whose rows are GAP wider than the weight's. */
static void multiply_blocks(const phi_kernels *k, const phi_weight *w, uint32_t begin, uint32_t end,
                            uint32_t n_tok)
{
    size_t ldy = w->rows + GAP;
    if (w->group) {
        phi_act act = quantize(k, x, n_tok, w->cols, run_of(w), phi_weight_centre(w));
        k->rows_int(w, begin, end, &act, y, ldy);
        free_act(&act);
        return;
    }
    float *packed = pack(n_tok, w->cols);
    const phi_act act = {.n_tok = n_tok, .cols = w->cols, .tile = PHI_ACT_QUAD, .x = packed};
    k->rows_float(w, begin, end, &act, y, ldy);
    phi_free(packed);
}

static void multiply(const phi_kernels *k, const phi_weight *w, uint32_t n_tok)
{
    size_t n = (size_t)n_tok * (w->rows + GAP);
    for (size_t i = 0; i < n; i++) {
        y[i] = GUARD;
    }
    multiply_blocks(k, w, 0, w->n_blocks, n_tok);
    for (size_t i = 0; i < n; i++) {
        if (i % (w->rows + GAP) >= w->rows) {
            assert_true(y[i] == GUARD);
        }
    }
}

/* What the columns of a token count as: themselves, or what their codes stand for. */
static void input(const phi_weight *w, uint32_t token, double *out)
{
    const float *from = x + token * (size_t)w->cols;
    if (!w->group) {
        for (size_t c = 0; c < w->cols; c++) {
            out[c] = (double)from[c];
        }
        return;
    }
    /* A tile of one token has its columns in order. */
    phi_act act = quantize(sets[n_sets - 1], from, 1, w->cols, run_of(w), 0);
    for (size_t c = 0; c < w->cols; c++) {
        out[c] = (double)act.scales[c / act.run] * act.codes[c];
    }
    free_act(&act);
}

/* right and sizes of the first n_tok tokens. With offsets the codes' share and the offsets' may be
 * much larger than what they make together. */
static void find_right(const phi_weight *w, uint32_t n_tok)
{
    static float rows[ROWS_MAX * COLS_MAX];
    double in[COLS_MAX];
    double largest[ROWS_MAX] = {0};
    for (uint32_t r = 0; r < w->rows; r++) {
        phi_weight_row(w, r, rows + r * (size_t)w->cols);
        for (size_t c = 0; c < w->cols; c++) {
            largest[r] = fmax(largest[r], fabs((double)rows[r * (size_t)w->cols + c]));
        }
    }
    for (uint32_t t = 0; t < n_tok; t++) {
        input(w, t, in);
        for (uint32_t r = 0; r < w->rows; r++) {
            const float *row = rows + r * (size_t)w->cols;
            double sum = 0.0;
            double size = 0.0;
            for (size_t c = 0; c < w->cols; c++) {
                sum += (double)row[c] * in[c];
                size += (w->group ? 3.0 * largest[r] : fabs((double)row[c])) * fabs(in[c]);
            }
            right[t * w->rows + r] = sum;
            sizes[t * w->rows + r] = size;
        }
    }
}

/* Every output within FLT_EPSILON * (a few) of the sum of its terms' sizes. */
static void check(const phi_weight *w, uint32_t n_tok, const char *what)
{
    for (uint32_t t = 0; t < n_tok; t++) {
        for (uint32_t r = 0; r < w->rows; r++) {
            double got = (double)y[t * (w->rows + GAP) + r];
            double wanted = right[t * w->rows + r];
            double allowed = 8.0 * (double)FLT_EPSILON * sizes[t * w->rows + r] + 1e-30;
            if (!(fabs(got - wanted) <= allowed)) {
                fail_msg("%s, %u x %u, row %u, token %u of %u: %g, %g is right (%g allowed)", what,
                         w->rows, w->cols, r, t, n_tok, got, wanted, allowed);
            }
        }
    }
}

/* Whether a set's products are its own: all but the portable ones have a fused multiply-add. */
static bool is_fused(const phi_kernels *k, const phi_weight *w)
{
    const phi_kernels *portable = sets[n_sets - 1];
    return w->group ? k->rows_int != portable->rows_int : k->rows_float != portable->rows_float;
}

/* One matrix times every number of tokens, by every set. Sets that have a fused multiply-add give
 * the same bits. */
static void check_sets(const phi_weight *w, const char *kind)
{
    static const uint32_t tokens[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 24, 25, 37, 61};
    static float first[TOKENS_MAX * (ROWS_MAX + GAP)];
    find_right(w, TOKENS_MAX);
    for (size_t i = 0; i < sizeof tokens / sizeof tokens[0]; i++) {
        size_t bytes = (size_t)tokens[i] * (w->rows + GAP) * sizeof *y;
        for (size_t s = 0; s < n_sets; s++) {
            char what[128];
            (void)snprintf(what, sizeof what, "%s: %s", sets[s]->name, kind);
            multiply(sets[s], w, tokens[i]);
            check(w, tokens[i], what);
            if (s == 0) {
                memcpy(first, y, bytes);
            } else if (is_fused(sets[s], w) && memcmp(first, y, bytes) != 0) {
                fail_msg("%s, %u x %u, %u tokens: not the bits of %s", what, w->rows, w->cols,
                         tokens[i], sets[0]->name);
            }
        }
    }
}

static void test_products(void **state)
{
    (void)state;
    static const uint32_t rows[] = {1, 5, 16, 17, 33};
    static const uint32_t cols_float[] = {1, 7, 33, 100, 256, 257, 640};
    static const uint32_t cols_int[] = {32, 64, 96, 128, 160, 256, 384, 640};
    random_seed(1);
    random_floats(x, sizeof x / sizeof *x, 3.0F);
    for (size_t i = 0; i < n_random_kinds; i++) {
        const random_kind *kind = &random_kinds[i];
        const uint32_t *cols = kind->group ? cols_int : cols_float;
        size_t n_cols = kind->group ? 8 : 7;
        for (size_t c = 0; c < n_cols; c++) {
            for (size_t r = 0; r < 5 && random_kind_fits(kind, cols[c]); r++) {
                phi_weight w;
                random_weight(&w, kind, rows[r], cols[c], 0.1F);
                check_sets(&w, kind->name);
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
    for (size_t i = 0; i < n_random_kinds; i++) {
        phi_weight w;
        random_weight(&w, &random_kinds[i], 7, 256, 0.5F);
        for (int sign = -1; sign <= 1; sign += 2) {
            for (size_t c = 0; c < TOKENS_MAX * 256; c++) {
                x[c] = (float)sign * 1000.0F;
            }
            check_sets(&w, random_kinds[i].name);
        }
        for (size_t c = 0; c < TOKENS_MAX * 256; c++) {
            x[c] = random_u32() % 2 ? 1000.0F : -1000.0F;
        }
        check_sets(&w, random_kinds[i].name);
        phi_weight_done(&w);
    }
}

/* A row is the same bits whether computed alone or among others, for one token or many. */
static void test_order(void **state)
{
    (void)state;
    static float whole[TOKENS_MAX * (ROWS_MAX + GAP)];
    random_seed(4);
    random_floats(x, sizeof x / sizeof *x, 1.0F);
    for (size_t s = 0; s < n_sets; s++) {
        for (size_t i = 0; i < n_random_kinds; i++) {
            phi_weight w;
            random_weight(&w, &random_kinds[i], ROWS_MAX, 384, 0.1F);
            multiply(sets[s], &w, TOKENS_MAX);
            memcpy(whole, y, sizeof whole);
            for (uint32_t n_tok = 1; n_tok < TOKENS_MAX; n_tok += n_tok < 13 ? 1 : 5) {
                multiply_blocks(sets[s], &w, 2, 3, n_tok);
                multiply_blocks(sets[s], &w, 0, 1, n_tok);
                multiply_blocks(sets[s], &w, 1, 2, n_tok);
                assert_memory_equal(whole, y, (size_t)n_tok * (ROWS_MAX + GAP) * sizeof *y);
            }
            phi_weight_done(&w);
        }
    }
}

/* Codes, scales and sums of one run against their definition. */
static void check_run(const phi_act *act, size_t i, int centre)
{
    int sum = 0;
    for (size_t c = i * act->run; c < (i + 1) * act->run; c++) {
        assert_in_range(act->codes[c] + 127, 0, 254);
        float error = fabsf((float)act->codes[c] * act->scales[i] - x[c]);
        assert_true(error <= 0.51F * act->scales[i] + 1e-35F);
        sum += act->codes[c];
    }
    assert_int_equal(act->starts[i], -centre * sum);
    assert_true(act->shifts[i] == act->scales[i] * (float)sum);
}

/* The portable codes stand for x; the other sets' are the same, tile by tile. */
static void test_quantize(void **state)
{
    (void)state;
    const phi_kernels *portable = sets[n_sets - 1];
    random_seed(5);
    for (int round = 0; round < 200; round++) {
        uint32_t n_tok = 1 + (uint32_t)round % 9;
        uint32_t run = round % 2 ? 16 : 32;
        size_t runs = (size_t)n_tok * (256 / run);
        random_floats(x, (size_t)n_tok * 256, ldexpf(1.0F, round - 100));
        x[round % 256] = 0.0F;
        x[255] = round % 50 == 49 ? NAN : x[255];
        phi_act alone = quantize(portable, x, 1, 256, run, round % 3 * 8);
        phi_act whole = quantize(portable, x, n_tok, 256, run, 8);
        for (size_t i = 0; i + 1 < 256 / run; i++) {
            check_run(&alone, i, round % 3 * 8);
        }
        for (size_t s = 0; s < n_sets; s++) {
            phi_act other = quantize(sets[s], x, n_tok, 256, run, 8);
            if (other.tile == whole.tile) {
                assert_memory_equal(whole.codes, other.codes, (size_t)n_tok * 256);
                assert_memory_equal(whole.scales, other.scales, runs * sizeof *other.scales);
                assert_memory_equal(whole.starts, other.starts, runs * sizeof *other.starts);
                assert_memory_equal(whole.shifts, other.shifts, runs * sizeof *other.shifts);
            }
            free_act(&other);
        }
        free_act(&whole);
        free_act(&alone);
    }
}

/* What is not a number reaches the outputs of its token, and of no other, as not a number; zeros
 * give zeros. */
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
                random_floats(x, 26 * 256, 1.0F);
                x[21 * 256 + 77] = bad[b];
                x[25 * 256 + 78] = bad[b];
                multiply(sets[s], &w, 26);
                for (size_t j = 0; j < 26 * 5; j++) {
                    bool is_bad = j / 5 == 21 || j / 5 == 25;
                    assert_int_equal(!isfinite(y[j / 5 * (5 + GAP) + j % 5]), is_bad);
                }
            }
            memset(x, 0, 256 * sizeof *x);
            multiply(sets[s], &w, 1);
            for (size_t r = 0; r < 5; r++) {
                assert_true(y[r] == 0.0F);
            }
            phi_weight_done(&w);
        }
    }
}

/* Every slot of every table is filled, but the one for bulk products, which a set may lack: the
 * table is a name, a number and pointers. */
static void test_slots(void **state)
{
    (void)state;
    for (size_t s = 0; s < n_sets; s++) {
        const unsigned char *at = (const unsigned char *)sets[s];
        for (size_t i = 0; i < sizeof(phi_kernels); i += sizeof(void *)) {
            void *slot;
            memcpy(&slot, at + i, sizeof slot);
            if (i != offsetof(phi_kernels, bulk)) {
                assert_non_null(slot);
            }
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
        cmocka_unit_test(test_slots),       cmocka_unit_test(test_select),
        cmocka_unit_test(test_products),    cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_order),       cmocka_unit_test(test_quantize),
        cmocka_unit_test(test_not_numbers),
    };
    return cmocka_run_group_tests(tests, find_sets, NULL);
}
