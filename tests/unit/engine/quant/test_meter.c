/* The fraction never falls, and a task that blocks does not silence the reports. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <time.h>

#include "engine/quant/meter.h"

typedef struct watch {
    int calls;
    int stop_at;
    double fraction;
} watch;

static bool note(void *user, const phi_quantize_progress *progress)
{
    watch *w = user;
    assert_true(progress->fraction >= w->fraction && progress->fraction <= 1.0);
    w->fraction = progress->fraction;
    w->calls++;
    return w->calls != w->stop_at;
}

static void meter_of(watch *w, phi_meter *meter)
{
    phi_quantize_options options = {
        .precision = PHI_PRECISION_INT4, .progress = note, .progress_user = w};
    phi_meter_init(meter, &options, 1000, 100.0);
}

static phi_status blocks(void *arg, phi_err *err)
{
    const struct timespec second = {.tv_sec = 1, .tv_nsec = 100000000};
    (void)nanosleep(&second, NULL);
    *(bool *)arg = true;
    return phi_fail(err, PHI_E_IO, "the task's own failure");
}

static void test_fraction_never_falls(void **state)
{
    (void)state;
    watch w = {0};
    phi_meter meter;
    meter_of(&w, &meter);
    assert_int_equal(phi_meter_report(&meter, PHI_STAGE_QUANTIZING, 0.5, "a", NULL), PHI_OK);
    assert_int_equal(phi_meter_report(&meter, PHI_STAGE_QUANTIZING, 0.4, "b", NULL), PHI_OK);
    assert_int_equal(phi_meter_report(&meter, PHI_STAGE_WRITING, 1.0, "", NULL), PHI_OK);
    assert_true(w.fraction > 0.0 && w.fraction < 1.0);
    assert_int_equal(phi_meter_report(&meter, PHI_STAGE_EVALUATING, 1.0 + 1e-9, "", NULL), PHI_OK);
    assert_true(w.fraction == 1.0);
    assert_int_equal(w.calls, 4);
}

static void test_reports_go_on_while_a_task_blocks(void **state)
{
    (void)state;
    watch w = {0};
    phi_meter meter;
    meter_of(&w, &meter);
    phi_err err = {0};
    bool ended = false;
    assert_int_equal(phi_meter_wait(&meter, PHI_STAGE_WRITING, 1.0, blocks, &ended, &err),
                     PHI_E_IO);
    assert_string_equal(err.message, "the task's own failure");
    assert_true(ended);
    assert_true(w.calls >= 2);
}

static void test_a_stop_is_obeyed_after_the_task(void **state)
{
    (void)state;
    watch w = {.stop_at = 1};
    phi_meter meter;
    meter_of(&w, &meter);
    phi_err err = {0};
    bool ended = false;
    assert_int_equal(phi_meter_wait(&meter, PHI_STAGE_WRITING, 1.0, blocks, &ended, &err),
                     PHI_E_CANCELLED);
    assert_true(ended);
    assert_int_equal(w.calls, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fraction_never_falls),
        cmocka_unit_test(test_reports_go_on_while_a_task_blocks),
        cmocka_unit_test(test_a_stop_is_obeyed_after_the_task),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
