
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdatomic.h>
#include <unistd.h>
#include <uv.h>

#include "server/work.h"

static atomic_int running;
static atomic_int most;
static atomic_int ran;
static int done;

static void run(void *arg)
{
    (void)arg;
    int now = atomic_fetch_add(&running, 1) + 1;
    int seen = atomic_load(&most);
    while (now > seen && !atomic_compare_exchange_weak(&most, &seen, now)) {
    }
    usleep(2000);
    atomic_fetch_add(&ran, 1);
    atomic_fetch_sub(&running, 1);
}

static void on_done(void *arg)
{
    done += *(int *)arg;
}

static void test_bounds(void **state)
{
    (void)state;
    uv_loop_t loop;
    phi_work *work = NULL;
    int one = 1;
    phi_err err;
    uv_loop_init(&loop);
    assert_int_equal(phi_work_create(&loop, 0, &work, &err), PHI_E_INVALID);
    assert_int_equal(phi_work_create(&loop, 3, &work, &err), PHI_OK);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(phi_work_submit(work, PHI_WORK_JOB, run, on_done, &one), PHI_OK);
    }
    assert_int_equal(phi_work_active(work, PHI_WORK_JOB), 20);
    assert_int_equal(phi_work_active(work, PHI_WORK_SHORT), 0);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(done, 20);
    assert_int_equal(atomic_load(&ran), 20);
    assert_in_range(atomic_load(&most), 1, 3);
    assert_int_equal(phi_work_active(work, PHI_WORK_JOB), 0);
    phi_work_destroy(work);
    assert_int_equal(uv_loop_close(&loop), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_bounds)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
