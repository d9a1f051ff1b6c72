/* What a machine's ceilings are is not for a test to know: that they are found for each instruction
 * set that can run here, and grow with the work that is done, is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/kernels/ceiling.h"
#include "engine/kernels/ceiling_loops.h"

static const phi_ceiling_loops *all[8];
static size_t n_all;

static double shortest_s(const phi_ceiling_loops *loops, int floats, uint32_t rounds)
{
    double best = 1e9;
    for (int i = 0; i < 9; i++) {
        uint64_t began_ns = phi_clock_ns();
        if (floats) {
            (void)loops->fp32_rounds(rounds);
        } else {
            (void)loops->int8_rounds(rounds);
        }
        double s = (double)(phi_clock_ns() - began_ns) * 1e-9;
        best = s < best ? s : best;
    }
    return best;
}

/* Four times the rounds take clearly longer: the loop is there, whatever the compiler made of it.
 */
static void test_loops_do_their_rounds(void **state)
{
    (void)state;
    for (size_t i = 0; i < n_all; i++) {
        for (int floats = 0; floats < 2; floats++) {
            double once = 0.0;
            double four = 0.0;
            /* Others may have the processor while one of the two is timed. */
            for (int tries = 0; tries < 20 && four <= 2.0 * once; tries++) {
                once = shortest_s(all[i], floats, 20000);
                four = shortest_s(all[i], floats, 80000);
            }
            assert_true(four > 2.0 * once);
            assert_true(once > 0.0);
        }
    }
}

static void test_found_by_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < n_all; i++) {
        assert_ptr_equal(all[i], phi_ceiling_loops_find(all[i]->set));
        assert_true(all[i]->int8_ops > 0 && all[i]->fp32_ops > 0);
        assert_true(strlen(all[i]->int8_name) > 0 && strlen(all[i]->fp32_name) > 0);
    }
    assert_null(phi_ceiling_loops_find("portable"));
    assert_null(phi_ceiling_loops_find("avx"));
}

static void test_measured_by_a_team(void **state)
{
    (void)state;
    phi_team *team = NULL;
    assert_int_equal(PHI_OK, phi_team_create(2, &team, NULL));
    for (size_t i = 0; i < n_all; i++) {
        phi_ceilings_options options = {all[i]->set, 4U << 20, 20};
        phi_ceilings ceilings;
        assert_int_equal(PHI_OK, phi_ceilings_measure(team, &options, &ceilings, NULL));
        assert_true(ceilings.read_bytes == 4U << 20);
        assert_true(ceilings.read_bytes_s > 1e6);
        /* No CPU that has these instructions does fewer than a hundred million a second. */
        assert_true(ceilings.int8_ops_s > 1e8);
        assert_true(ceilings.fp32_ops_s > 1e8);
        assert_string_equal(all[i]->int8_name, ceilings.int8_name);
        (void)printf("%-12s read %6.1f GB/s  int8 %7.1f GOP/s  fp32 %6.1f GOP/s\n", all[i]->set,
                     ceilings.read_bytes_s * 1e-9, ceilings.int8_ops_s * 1e-9,
                     ceilings.fp32_ops_s * 1e-9);
    }
    phi_team_destroy(team);
}

static void test_set_without_loops(void **state)
{
    (void)state;
    phi_team *team = NULL;
    phi_ceilings_options options = {"portable", 1, 1};
    phi_ceilings ceilings;
    assert_int_equal(PHI_OK, phi_team_create(1, &team, NULL));
    assert_int_equal(PHI_OK, phi_ceilings_measure(team, &options, &ceilings, NULL));
    assert_true(ceilings.read_bytes_s > 0);
    assert_true(ceilings.int8_ops_s == 0.0 && ceilings.fp32_ops_s == 0.0);
    assert_string_equal("", ceilings.int8_name);
    phi_team_destroy(team);
}

static void test_no_memory(void **state)
{
    (void)state;
    phi_team *team = NULL;
    phi_err err = {0};
    phi_ceilings_options options = {"portable", 1, 1};
    phi_ceilings ceilings;
    assert_int_equal(PHI_OK, phi_team_create(1, &team, NULL));
    phi_mem_fail_after(0);
    assert_int_equal(PHI_E_NO_MEMORY, phi_ceilings_measure(team, &options, &ceilings, &err));
    assert_non_null(strstr(err.message, "memory"));
    phi_team_destroy(team);
}

int main(void)
{
    n_all = phi_ceiling_loops_available(all, 8);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loops_do_their_rounds),
        cmocka_unit_test(test_found_by_name),
        cmocka_unit_test(test_measured_by_a_team),
        cmocka_unit_test(test_set_without_loops),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
