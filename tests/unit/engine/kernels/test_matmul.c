/* phi_matmul over teams of several sizes: a row of y depends on its own x alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/kernels/matmul.h"
#include "random_weight.h"

#define ROWS 203
#define COLS 384
#define TOKENS 37

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
        assert_int_equal(PHI_OK, phi_matmul_scratch_init(&scratch, TOKENS, COLS, NULL));
        for (size_t s = 0; s < n_sets; s++) {
            const phi_compute compute = {sets[s], team, PHI_TEAM_INFERENCE};
            for (size_t i = 0; i < n_random_kinds; i++) {
                phi_weight w;
                /* Each team size meets the same numbers. */
                random_seed(100 + (uint64_t)i);
                random_weight(&w, &random_kinds[i], ROWS, COLS, 0.1F);
                random_floats(x, TOKENS * COLS, 2.0F);
                uint64_t before = phi_mem_allocations();
                phi_matmul(&compute, &w, x, TOKENS, whole, &scratch);
                assert_true(phi_mem_allocations() == before);
                for (uint32_t t = 0; t < TOKENS; t++) {
                    phi_matmul(&compute, &w, x + t * COLS, 1, y, &scratch);
                    assert_memory_equal(whole + t * ROWS, y, ROWS * sizeof *y);
                }
                phi_matmul(&compute, &w, x + 3 * COLS, 6, y, &scratch);
                assert_memory_equal(whole + 3 * ROWS, y, 6 * ROWS * sizeof *y);
                phi_weight_done(&w);
            }
        }
        phi_matmul_scratch_done(&scratch);
        phi_team_destroy(team);
    }
}

/* OpenBLAS takes the FP kinds in the background: the same products within the rounding of sums. */
static void test_background(void **state)
{
    (void)state;
    const phi_kernels *sets[8];
    phi_team *team = NULL;
    phi_matmul_scratch scratch;
    assert_true(phi_kernels_available(sets, 8) > 0);
    assert_int_equal(PHI_OK, phi_team_create(2, &team, NULL));
    assert_int_equal(PHI_OK, phi_matmul_scratch_init(&scratch, TOKENS, COLS, NULL));
    const phi_compute front = {sets[0], team, PHI_TEAM_INFERENCE};
    const phi_compute back = {sets[0], team, PHI_TEAM_BACKGROUND};
    for (size_t i = 0; i < n_random_kinds; i++) {
        phi_weight w;
        random_seed(300 + (uint64_t)i);
        random_weight(&w, &random_kinds[i], ROWS, COLS, 0.1F);
        random_floats(x, TOKENS * COLS, 2.0F);
        phi_matmul(&front, &w, x, TOKENS, whole, &scratch);
        memset(y, 0xff, sizeof y);
        phi_matmul(&back, &w, x, TOKENS, y, &scratch);
        for (size_t j = 0; j < (size_t)TOKENS * ROWS; j++) {
            float difference = y[j] - whole[j];
            assert_true(difference < 1e-4F && difference > -1e-4F);
        }
        phi_weight_done(&w);
    }
    phi_matmul_scratch_done(&scratch);
    phi_team_destroy(team);
}

static void test_no_memory(void **state)
{
    (void)state;
    for (int n = 0; n < 3; n++) {
        phi_matmul_scratch scratch = {.cols_max = 7};
        phi_err err = {0};
        phi_mem_fail_after(n);
        assert_int_equal(PHI_E_NO_MEMORY, phi_matmul_scratch_init(&scratch, 4, 64, &err));
        assert_int_equal(7, scratch.cols_max);
        assert_non_null(strstr(err.message, "4 x 64"));
    }
    phi_mem_fail_after(-1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_independent),
        cmocka_unit_test(test_background),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
