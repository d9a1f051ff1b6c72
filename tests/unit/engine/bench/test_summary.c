#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/bench/summary.h"

#define NEAR(a, b) assert_true((a) - (b) < 1e-9 && (b) - (a) < 1e-9)

static void test_odd(void **state)
{
    (void)state;
    double values[] = {5, 1, 9, 3, 4};
    phi_bench_summary s = phi_bench_summarize(values, 5);
    NEAR(s.median, 4.0);
    NEAR(s.min, 1.0);
    NEAR(s.max, 9.0);
    NEAR(s.spread, 2.0);
}

static void test_even(void **state)
{
    (void)state;
    double values[] = {10, 30, 20, 40};
    phi_bench_summary s = phi_bench_summarize(values, 4);
    NEAR(s.median, 25.0);
    NEAR(s.spread, 1.2);
}

static void test_one_outlier_moves_no_median(void **state)
{
    (void)state;
    double values[] = {100, 101, 99, 2, 100};
    NEAR(phi_bench_summarize(values, 5).median, 100.0);
}

static void test_one_and_zero(void **state)
{
    (void)state;
    double one[] = {7};
    phi_bench_summary s = phi_bench_summarize(one, 1);
    NEAR(s.median, 7.0);
    NEAR(s.spread, 0.0);
    double zeros[] = {0, 0};
    NEAR(phi_bench_summarize(zeros, 2).spread, 0.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_odd),
        cmocka_unit_test(test_even),
        cmocka_unit_test(test_one_outlier_moves_no_median),
        cmocka_unit_test(test_one_and_zero),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
