/* phi_matmul over teams of several sizes: a row of y depends on its own x alone. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/kernels/blas.h"
#include "engine/kernels/matmul.h"
#include "random_weight.h"

#define ROWS 203
#define COLS 384
#define TOKENS 37

/* For teams of up to three. */
static const phi_matmul_sizes sizes = {TOKENS, COLS, 3};

static float x[TOKENS * COLS];
static float whole[TOKENS * ROWS];
static float y[TOKENS * ROWS];

static void test_independent(void **state)
{
    (void)state;
    const phi_kernels *sets[8];
    size_t n_sets = phi_kernels_available(sets, 8);
    random_seed(9);
    for (unsigned threads = 1; threads <= 3; threads += 2) {
        phi_team *team = NULL;
        phi_matmul_scratch scratch;
        assert_int_equal(PHI_OK, phi_team_create(threads, &team, NULL));
        assert_int_equal(PHI_OK, phi_matmul_scratch_init(&scratch, &sizes, NULL));
        for (size_t s = 0; s < n_sets; s++) {
            const phi_compute compute = {sets[s], team, PHI_TEAM_INFERENCE};
            for (size_t i = 0; i < n_random_kinds; i++) {
                phi_weight w;
                /* Each team size meets the same numbers. */
                random_seed(100 + (uint64_t)i);
                random_weight(&w, &random_kinds[i], ROWS, COLS, 0.1F);
                random_floats(x, TOKENS * COLS, 2.0F);
                uint64_t before = phi_mem_allocations();
                phi_matmul(&compute, &w, x, NULL, TOKENS, whole, &scratch);
                assert_true(phi_mem_allocations() == before);
                for (uint32_t t = 0; t < TOKENS; t++) {
                    phi_matmul(&compute, &w, x + t * COLS, NULL, 1, y, &scratch);
                    assert_memory_equal(whole + t * ROWS, y, ROWS * sizeof *y);
                }
                /* Each width of a last tile, of sets with tiles of up to 16. */
                for (uint32_t n = 2; n < 32; n += n < 20 ? 1 : 5) {
                    phi_matmul(&compute, &w, x + 3 * COLS, NULL, n, y, &scratch);
                    assert_memory_equal(whole + 3 * ROWS, y, n * ROWS * sizeof *y);
                }
                phi_weight_done(&w);
            }
        }
        phi_matmul_scratch_done(&scratch);
        phi_team_destroy(team);
    }
}

/* Within the rounding of sums in any order. */
static void check_close(const phi_weight *w, uint32_t row_begin, uint32_t row_end, uint32_t n_tok)
{
    float row[COLS];
    for (uint32_t r = row_begin; r < row_end; r++) {
        phi_weight_row(w, r, row);
        for (uint32_t t = 0; t < n_tok; t++) {
            double sum = 0.0;
            double size = 0.0;
            for (size_t c = 0; c < COLS; c++) {
                double term = (double)row[c] * (double)x[t * COLS + c];
                sum += term;
                size += fabs(term);
            }
            double error = fabs((double)y[t * ROWS + r] - sum);
            assert_true(error <= 8.0 * (double)FLT_EPSILON * size);
        }
    }
}

/* Products of prompts: a token's are the same bits in any company, and as near to the exact ones as
 * their kind allows. The FP kinds keep fp32's accuracy; the INT kinds round what they multiply to 8
 * bits at least, each operand by half a unit of 2^-8 at most (int8 activations, by half of a 127th
 * of a run's largest). */
static void check_prompt(const phi_compute *compute, const phi_weight *w,
                         phi_matmul_scratch *scratch)
{
    float row[COLS];
    for (uint32_t first = 0; first < TOKENS; first += 5) {
        uint32_t n = TOKENS - first < 5 ? TOKENS - first : 5;
        phi_matmul_prompt(compute, w, x + first * COLS, NULL, n, y, scratch);
        assert_memory_equal(whole + first * ROWS, y, n * ROWS * sizeof *y);
    }
    for (uint32_t r = 0; r < ROWS; r++) {
        phi_weight_row(w, r, row);
        for (uint32_t t = 0; t < TOKENS; t++) {
            double sum = 0.0;
            double size = 0.0;
            double rounding = 0.0;
            for (size_t run = 0; run < COLS; run += 32) {
                double largest = 0.0;
                double weights = 0.0;
                for (size_t c = run; c < run + 32; c++) {
                    double term = (double)row[c] * (double)x[t * COLS + c];
                    sum += term;
                    size += fabs(term);
                    largest = fmax(largest, fabs((double)x[t * COLS + c]));
                    weights += fabs((double)row[c]);
                }
                rounding += largest * weights / 254.0;
            }
            double error = fabs((double)whole[t * ROWS + r] - sum);
            double bound = 8.0 * (double)FLT_EPSILON * size;
            if (w->group) {
                bound += fmax(rounding, size / 255.0);
            }
            assert_true(error <= bound);
        }
    }
}

static void test_prompt(void **state)
{
    (void)state;
    const phi_kernels *sets[8];
    size_t n_sets = phi_kernels_available(sets, 8);
    phi_team *team = NULL;
    phi_matmul_scratch scratch;
    assert_int_equal(PHI_OK, phi_team_create(3, &team, NULL));
    assert_int_equal(PHI_OK, phi_matmul_scratch_init(&scratch, &sizes, NULL));
    for (size_t s = 0; s < n_sets; s++) {
        const phi_compute compute = {sets[s], team, PHI_TEAM_INFERENCE};
        for (size_t i = 0; i < n_random_kinds; i++) {
            phi_weight w;
            random_seed(200 + (uint64_t)i);
            random_weight(&w, &random_kinds[i], ROWS, COLS, 0.1F);
            random_floats(x, TOKENS * COLS, 2.0F);
            uint64_t before = phi_mem_allocations();
            phi_matmul_prompt(&compute, &w, x, NULL, TOKENS, whole, &scratch);
            assert_true(phi_mem_allocations() == before);
            check_prompt(&compute, &w, &scratch);
            phi_weight_done(&w);
        }
    }
    phi_matmul_scratch_done(&scratch);
    phi_team_destroy(team);
}

/* Rows of `x` that copy_rows makes, and how often it has made each. */
static float made[TOKENS * COLS];
static atomic_uint times_made[TOKENS];

static void copy_rows(void *arg, size_t begin, size_t end, unsigned worker)
{
    const float *from = arg;
    assert_true(worker < 3 && begin < end && end <= TOKENS);
    memcpy(made + begin * COLS, from + begin * COLS, (end - begin) * COLS * sizeof *made);
    for (size_t t = begin; t < end; t++) {
        atomic_fetch_add(&times_made[t], 1);
    }
}

/* Rows that are made on the way: each once, and the product is that of rows that are there. */
static void check_fill(const phi_compute *compute, const phi_weight *w, bool is_prompt,
                       uint32_t first, uint32_t n, phi_matmul_scratch *scratch)
{
    const phi_fill fill = {.rows = copy_rows, .arg = x, .first = first};
    memset(made, 0xff, sizeof made);
    memset(times_made, 0, sizeof times_made);
    if (is_prompt) {
        phi_matmul_prompt(compute, w, x + first * COLS, NULL, n, whole, scratch);
        phi_matmul_prompt(compute, w, made + first * COLS, &fill, n, y, scratch);
    } else {
        phi_matmul(compute, w, x + first * COLS, NULL, n, whole, scratch);
        phi_matmul(compute, w, made + first * COLS, &fill, n, y, scratch);
    }
    for (uint32_t t = 0; t < TOKENS; t++) {
        assert_int_equal(t >= first && t < first + n, atomic_load(&times_made[t]));
    }
    assert_memory_equal(made + first * COLS, x + first * COLS, n * COLS * sizeof *x);
    assert_memory_equal(whole, y, n * ROWS * sizeof *y);
}

static void test_fill(void **state)
{
    (void)state;
    const phi_kernels *sets[8];
    static const phi_team_priority priorities[] = {PHI_TEAM_INFERENCE, PHI_TEAM_BACKGROUND};
    size_t n_sets = phi_kernels_available(sets, 8);
    phi_team *team = NULL;
    phi_matmul_scratch scratch;
    assert_int_equal(PHI_OK, phi_team_create(3, &team, NULL));
    assert_int_equal(PHI_OK, phi_matmul_scratch_init(&scratch, &sizes, NULL));
    for (size_t i = 0; i < n_sets * n_random_kinds * 2; i++) {
        const phi_compute compute = {sets[i / 2 % n_sets], team, priorities[i % 2]};
        phi_weight w;
        random_seed(500 + (uint64_t)i);
        random_weight(&w, &random_kinds[i / 2 / n_sets], ROWS, COLS, 0.1F);
        random_floats(x, TOKENS * COLS, 2.0F);
        /* One row; fewer tiles than threads, of some sets; more. */
        static const uint32_t counts[] = {1, 9, TOKENS};
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            uint32_t first = TOKENS - counts[c] < 3 ? TOKENS - counts[c] : 3;
            check_fill(&compute, &w, false, first, counts[c], &scratch);
            check_fill(&compute, &w, true, first, counts[c], &scratch);
        }
        phi_weight_done(&w);
    }
    phi_matmul_scratch_done(&scratch);
    phi_team_destroy(team);
}

static uint32_t one_part(phi_weight_kind kind)
{
    (void)kind;
    return 1;
}

/* A tile's rows are there when they are packed. */
static void check_pack(const float *from, uint32_t tile, const phi_bulk_act *act)
{
    size_t begin = (size_t)tile * PHI_BULK_TILE;
    size_t left = begin < act->n_tok ? act->n_tok - begin : 0;
    size_t n = left < PHI_BULK_TILE ? left : PHI_BULK_TILE;
    assert_memory_equal(from + begin * COLS, x + begin * COLS, n * COLS * sizeof *x);
}

static void no_rows(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                    const phi_bulk_act *act, float *work, float *out, size_t ldy)
{
    (void)weight, (void)block_begin, (void)block_end, (void)act, (void)work, (void)out, (void)ldy;
}

/* Of a set's bulk products, on a machine that may have none. */
static void test_fill_bulk(void **state)
{
    (void)state;
    static const phi_bulk bulk = {.act_parts = one_part, .pack = check_pack, .rows = no_rows};
    const phi_kernels set = {.bulk = &bulk};
    const phi_fill fill = {.rows = copy_rows, .arg = x};
    phi_weight w;
    random_seed(600);
    random_weight(&w, &random_kinds[0], ROWS, COLS, 0.1F);
    random_floats(x, TOKENS * COLS, 2.0F);
    for (unsigned threads = 1; threads <= 3; threads++) {
        phi_compute compute = {&set, NULL, PHI_TEAM_INFERENCE};
        phi_matmul_scratch scratch;
        assert_int_equal(PHI_OK, phi_team_create(threads, &compute.team, NULL));
        assert_int_equal(PHI_OK, phi_matmul_scratch_init(&scratch, &sizes, NULL));
        memset(made, 0xff, sizeof made);
        memset(times_made, 0, sizeof times_made);
        phi_matmul_prompt(&compute, &w, made, &fill, TOKENS, y, &scratch);
        for (uint32_t t = 0; t < TOKENS; t++) {
            assert_int_equal(1, atomic_load(&times_made[t]));
        }
        phi_matmul_scratch_done(&scratch);
        phi_team_destroy(compute.team);
    }
    phi_weight_done(&w);
}

/* In the background OpenBLAS may take the FP kinds: the same products within the rounding of sums.
 * The INT kinds are the same bits. */
static void test_background(void **state)
{
    (void)state;
    const phi_kernels *sets[8];
    size_t n_sets = phi_kernels_available(sets, 8);
    phi_team *team = NULL;
    phi_matmul_scratch scratch;
    assert_int_equal(PHI_OK, phi_team_create(2, &team, NULL));
    assert_int_equal(PHI_OK, phi_matmul_scratch_init(&scratch, &sizes, NULL));
    for (size_t s = 0; s < n_sets; s++) {
        const phi_compute front = {sets[s], team, PHI_TEAM_INFERENCE};
        const phi_compute back = {sets[s], team, PHI_TEAM_BACKGROUND};
        for (size_t i = 0; i < n_random_kinds; i++) {
            phi_weight w;
            random_seed(300 + (uint64_t)i);
            random_weight(&w, &random_kinds[i], ROWS, COLS, 0.1F);
            random_floats(x, TOKENS * COLS, 2.0F);
            memset(y, 0xff, sizeof y);
            phi_matmul(&back, &w, x, NULL, TOKENS, y, &scratch);
            if (w.group) {
                phi_matmul(&front, &w, x, NULL, TOKENS, whole, &scratch);
                assert_memory_equal(whole, y, sizeof y);
            } else {
                check_close(&w, 0, ROWS, TOKENS);
            }
            phi_weight_done(&w);
        }
    }
    phi_matmul_scratch_done(&scratch);
    phi_team_destroy(team);
}

/* OpenBLAS itself, whether this machine would choose it or not: slices of blocks, the last of which
 * is not full and ends early, and what happens without memory. */
static void test_blas(void **state)
{
    (void)state;
    for (size_t i = 0; i < n_random_kinds; i++) {
        phi_weight w;
        random_seed(400 + (uint64_t)i);
        random_weight(&w, &random_kinds[i], ROWS, COLS, 0.1F);
        random_floats(x, TOKENS * COLS, 2.0F);
        memset(y, 0xff, sizeof y);
        for (uint32_t block = 0; block < w.n_blocks && !w.group; block += PHI_BLAS_BLOCKS) {
            uint32_t row = block * PHI_WEIGHT_BLOCK;
            uint32_t end = row + PHI_BLAS_BLOCKS * PHI_WEIGHT_BLOCK;
            phi_mem_fail_after(0);
            assert_false(phi_blas_rows(&w, block, block + PHI_BLAS_BLOCKS, x, TOKENS, y, ROWS));
            phi_mem_fail_after(-1);
            assert_true(isnan(y[row]));
            assert_true(phi_blas_rows(&w, block, block + PHI_BLAS_BLOCKS, x, TOKENS, y, ROWS));
            assert_true(end >= ROWS || isnan(y[end]));
            check_close(&w, row, end < ROWS ? end : ROWS, TOKENS);
        }
        phi_weight_done(&w);
    }
}

static void test_no_memory(void **state)
{
    (void)state;
    phi_matmul_scratch scratch = {.sizes = {.cols_max = 7}};
    const phi_matmul_sizes small = {4, 64, 1};
    const phi_matmul_sizes too_large = {UINT32_MAX, UINT32_MAX, 1};
    phi_err err = {0};
    phi_mem_fail_after(0);
    assert_int_equal(PHI_E_NO_MEMORY, phi_matmul_scratch_init(&scratch, &small, &err));
    phi_mem_fail_after(-1);
    assert_int_equal(7, scratch.sizes.cols_max);
    assert_non_null(strstr(err.message, "4 x 64"));
    assert_int_equal(PHI_E_LIMIT, phi_matmul_scratch_init(&scratch, &too_large, &err));
    assert_int_equal(0, phi_matmul_scratch_bytes(&too_large));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_independent), cmocka_unit_test(test_prompt),
        cmocka_unit_test(test_fill),        cmocka_unit_test(test_fill_bulk),
        cmocka_unit_test(test_background),  cmocka_unit_test(test_blas),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
