#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/clock.h"
#include "config/limits.h"
#include "engine/kernels/machine.h"
#include "engine/kernels/team.h"

#define COUNT 10007

typedef struct tally {
    unsigned size;
    atomic_uint seen[COUNT];
    size_t least; /* length that all slices but the last have at least */
    atomic_uint short_slices;
} tally;

static tally counts;

static void count_items(void *arg, size_t begin, size_t end, unsigned worker)
{
    tally *self = arg;
    if (worker >= self->size || begin >= end || end > COUNT) {
        abort();
    }
    if (end - begin < self->least) {
        atomic_fetch_add(&self->short_slices, 1);
    }
    for (size_t i = begin; i < end; i++) {
        atomic_fetch_add(&self->seen[i], 1);
    }
}

static void run_and_check(phi_team *team, phi_team_priority priority, size_t count, size_t grain)
{
    memset(&counts, 0, sizeof counts);
    counts.size = phi_team_size(team);
    counts.least = grain;
    phi_team_run(team, priority, count, grain, count_items, &counts);
    for (size_t i = 0; i < COUNT; i++) {
        assert_int_equal(i < count ? 1 : 0, atomic_load(&counts.seen[i]));
    }
    assert_true(atomic_load(&counts.short_slices) <= 1);
}

static void test_every_item_once(void **state)
{
    (void)state;
    for (unsigned threads = 1; threads <= 5; threads++) {
        phi_team *team = NULL;
        assert_int_equal(PHI_OK, phi_team_create(threads, &team, NULL));
        assert_int_equal(threads, phi_team_size(team));
        for (int round = 0; round < 20; round++) {
            run_and_check(team, PHI_TEAM_INFERENCE, COUNT, 1);
            run_and_check(team, PHI_TEAM_BACKGROUND, COUNT - 1, 64);
            run_and_check(team, PHI_TEAM_INFERENCE, 5, 2);
            run_and_check(team, PHI_TEAM_BACKGROUND, 1, 1);
            run_and_check(team, PHI_TEAM_INFERENCE, 0, 1);
        }
        phi_team_destroy(team);
    }
    phi_team_destroy(NULL);
}

static void test_sizes(void **state)
{
    (void)state;
    phi_team *team = NULL;
    phi_err err = {0};
    assert_int_equal(PHI_E_INVALID, phi_team_create(PHI_LIMIT_TEAM_THREADS + 1, &team, &err));
    assert_string_equal("threads", err.param);
    assert_null(team);
    assert_int_equal(PHI_OK, phi_team_create(0, &team, &err));
    assert_int_equal(phi_machine_cpus(), phi_team_size(team));
    assert_true(phi_machine_cpus() >= 1);
    phi_team_destroy(team);
    /* Some memory is available, or this test would not run. */
    assert_true(phi_machine_memory_available() > 1U << 20);
}

/* Plain memory written by the slices is there when the loop is over, without atomics: the thread
 * sanitizer would tell. */
static uint64_t squares[COUNT];

static void square_items(void *arg, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const uint64_t *factor = arg;
    for (size_t i = begin; i < end; i++) {
        squares[i] = *factor * i * i;
    }
}

static void test_results_are_there(void **state)
{
    (void)state;
    phi_team *team = NULL;
    assert_int_equal(PHI_OK, phi_team_create(4, &team, NULL));
    for (uint64_t factor = 1; factor < 300; factor++) {
        phi_team_run(team, PHI_TEAM_INFERENCE, COUNT, 7, square_items, &factor);
        assert_true(squares[COUNT - 1] == factor * (COUNT - 1) * (COUNT - 1));
        assert_true(squares[(size_t)factor] == factor * factor * factor);
    }
    phi_team_destroy(team);
}

/* Two threads at a time. */
typedef struct caller {
    phi_team *team;
    phi_team_priority priority;
    unsigned rounds;
    atomic_uint slices;
} caller;

static void count_slices(void *arg, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    caller *self = arg;
    atomic_fetch_add(&self->slices, (unsigned)(end - begin));
}

static void *call_often(void *arg)
{
    caller *self = arg;
    for (unsigned i = 0; i < self->rounds; i++) {
        phi_team_run(self->team, self->priority, 97, 1, count_slices, self);
    }
    return NULL;
}

static void test_several_callers(void **state)
{
    (void)state;
    phi_team *team = NULL;
    pthread_t threads[4];
    caller callers[4];
    assert_int_equal(PHI_OK, phi_team_create(3, &team, NULL));
    memset(callers, 0, sizeof callers);
    for (unsigned i = 0; i < 4; i++) {
        callers[i].team = team;
        callers[i].priority = i % 2 ? PHI_TEAM_INFERENCE : PHI_TEAM_BACKGROUND;
        callers[i].rounds = 200;
        assert_int_equal(0, pthread_create(&threads[i], NULL, call_often, &callers[i]));
    }
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(0, pthread_join(threads[i], NULL));
        assert_int_equal(200 * 97, atomic_load(&callers[i].slices));
    }
    phi_team_destroy(team);
}

/* A background loop of many slow slices steps aside for inference, and then goes on. */
static atomic_bool background_runs;
static atomic_uint background_done;

static void slow_slice(void *arg, size_t begin, size_t end, unsigned worker)
{
    (void)arg;
    (void)worker;
    atomic_store(&background_runs, true);
    uint64_t until_ns = phi_clock_ns() + 2000000U;
    while (phi_clock_ns() < until_ns) {
    }
    atomic_fetch_add(&background_done, (unsigned)(end - begin));
}

static void nothing(void *arg, size_t begin, size_t end, unsigned worker)
{
    (void)arg;
    (void)begin;
    (void)end;
    (void)worker;
}

static void *run_background(void *arg)
{
    phi_team_run(arg, PHI_TEAM_BACKGROUND, 400, 1, slow_slice, NULL);
    return NULL;
}

static void test_inference_first(void **state)
{
    (void)state;
    phi_team *team = NULL;
    pthread_t thread;
    assert_int_equal(PHI_OK, phi_team_create(2, &team, NULL));
    assert_int_equal(0, pthread_create(&thread, NULL, run_background, team));
    while (!atomic_load(&background_runs)) {
        (void)nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    phi_team_run(team, PHI_TEAM_INFERENCE, 2, 1, nothing, NULL);
    assert_true(atomic_load(&background_done) < 400);
    assert_int_equal(0, pthread_join(thread, NULL));
    assert_int_equal(400, atomic_load(&background_done));
    phi_team_destroy(team);
}

/* An idle team sleeps. */
static void test_idle_uses_no_cpu(void **state)
{
    (void)state;
    phi_team *team = NULL;
    struct timespec before;
    struct timespec after;
    assert_int_equal(PHI_OK, phi_team_create(4, &team, NULL));
    phi_team_run(team, PHI_TEAM_INFERENCE, 100, 1, nothing, NULL);
    (void)nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    (void)nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    int64_t used_ns =
        (after.tv_sec - before.tv_sec) * 1000000000LL + after.tv_nsec - before.tv_nsec;
    assert_true(used_ns < 30000000);
    phi_team_destroy(team);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_item_once),   cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_results_are_there), cmocka_unit_test(test_several_callers),
        cmocka_unit_test(test_inference_first),   cmocka_unit_test(test_idle_uses_no_cpu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
