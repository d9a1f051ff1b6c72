#include <pthread.h>
#include <sched.h>
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
    size_t grain;
    atomic_uint seen[COUNT];
    size_t least; /* length that all slices but the last have at least */
    atomic_uint short_slices;
} tally;

static tally counts;

static void count_items(void *arg, size_t begin, size_t end, unsigned worker)
{
    tally *self = arg;
    if (worker >= self->size || begin >= end || end > COUNT || begin % self->grain != 0) {
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
    counts.grain = grain;
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
    phi_team_destroy(team);
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

/* ---- who gets what ---- */

typedef struct trail {
    size_t n;
    size_t begins[64];
    size_t ends[64];
} trail;

static void note_slice(void *arg, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    trail *self = arg;
    assert_true(self->n < 64);
    self->begins[self->n] = begin;
    self->ends[self->n++] = end;
}

/* Alone, a worker goes through its part from front to back, in slices that never get longer. */
static void test_slices_get_shorter(void **state)
{
    (void)state;
    phi_team *team = NULL;
    static trail steps;
    assert_int_equal(PHI_OK, phi_team_create(1, &team, NULL));
    phi_team_run(team, PHI_TEAM_INFERENCE, 1003, 8, note_slice, &steps);
    assert_true(steps.n > 5);
    for (size_t i = 0; i < steps.n; i++) {
        assert_int_equal(i ? steps.ends[i - 1] : 0, steps.begins[i]);
        assert_true(i == 0 ||
                    steps.ends[i] - steps.begins[i] <= steps.ends[i - 1] - steps.begins[i - 1]);
    }
    assert_int_equal(1003, steps.ends[steps.n - 1]);
    assert_int_equal(3, steps.ends[steps.n - 1] - steps.begins[steps.n - 1]);
    assert_true(steps.ends[0] >= 200);
    phi_team_destroy(team);
}

/* Waits until `word` is at least `least`; gives up, for the test to fail, after ten seconds. */
static bool reaches(atomic_uint *word, unsigned least)
{
    uint64_t until_ns = phi_clock_ns() + 10000000000U;
    while (atomic_load(word) < least) {
        if (phi_clock_ns() > until_ns) {
            return false;
        }
        (void)sched_yield();
    }
    return true;
}

/* Whoever gets item `at` is stuck with its slice until all others have been done. */
typedef struct stuck {
    size_t at;
    atomic_uint done;
    atomic_bool in_time;
} stuck;

static void get_stuck(void *arg, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    stuck *self = arg;
    if (self->at >= begin && self->at < end) {
        atomic_store(&self->in_time, reaches(&self->done, COUNT - (unsigned)(end - begin)));
    }
    atomic_fetch_add(&self->done, (unsigned)(end - begin));
}

static void test_others_do_what_the_late_one_had(void **state)
{
    (void)state;
    phi_team *team = NULL;
    assert_int_equal(PHI_OK, phi_team_create(3, &team, NULL));
    for (size_t at = 0; at < COUNT; at += COUNT / 7) {
        stuck self = {.at = at};
        phi_team_run(team, at % 2 ? PHI_TEAM_INFERENCE : PHI_TEAM_BACKGROUND, COUNT, 1, get_stuck,
                     &self);
        assert_true(atomic_load(&self.in_time));
        assert_int_equal(COUNT, atomic_load(&self.done));
    }
    phi_team_destroy(team);
}

/* Each item waits for all others: as many threads are needed as there are items. */
typedef struct meeting {
    unsigned size;
    atomic_uint came;
    atomic_bool failed;
} meeting;

static void meet(void *arg, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    meeting *self = arg;
    atomic_fetch_add(&self->came, (unsigned)(end - begin));
    if (!reaches(&self->came, self->size)) {
        atomic_store(&self->failed, true);
    }
}

/* All threads come, whether they were awake, just about to sleep or asleep. */
static void test_all_come(void **state)
{
    (void)state;
    static const long pauses_ns[] = {0, 20000, 50000, 60000, 2000000};
    phi_team *team = NULL;
    assert_int_equal(PHI_OK, phi_team_create(4, &team, NULL));
    for (int round = 0; round < 300; round++) {
        meeting m = {.size = 4};
        uint64_t until_ns = phi_clock_ns() + (uint64_t)pauses_ns[round % 5];
        if (round % 5 == 4) {
            (void)nanosleep(&(struct timespec){.tv_nsec = pauses_ns[round % 5]}, NULL);
        }
        while (phi_clock_ns() < until_ns) {
        }
        phi_team_run(team, PHI_TEAM_INFERENCE, 4, 1, meet, &m);
        assert_false(atomic_load(&m.failed));
    }
    phi_team_destroy(team);
}

/* ---- a background loop that is broken off many times ---- */

static atomic_bool broken_off_done;

static void spin_a_little(void *arg, size_t begin, size_t end, unsigned worker)
{
    uint64_t until_ns = phi_clock_ns() + 20000U * (end - begin);
    while (phi_clock_ns() < until_ns) {
    }
    count_items(arg, begin, end, worker);
}

static void *run_broken_off(void *arg)
{
    phi_team_run(arg, PHI_TEAM_BACKGROUND, 2000, 1, spin_a_little, &counts);
    atomic_store(&broken_off_done, true);
    return NULL;
}

static void test_background_goes_on_where_it_was(void **state)
{
    (void)state;
    phi_team *team = NULL;
    pthread_t thread;
    caller other = {.priority = PHI_TEAM_INFERENCE, .rounds = 3};
    unsigned between = 0;
    assert_int_equal(PHI_OK, phi_team_create(3, &team, NULL));
    other.team = team;
    memset(&counts, 0, sizeof counts);
    counts.size = 3;
    counts.grain = 1;
    assert_int_equal(0, pthread_create(&thread, NULL, run_broken_off, team));
    while (!atomic_load(&broken_off_done)) {
        (void)call_often(&other);
        between++;
        (void)nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    assert_int_equal(0, pthread_join(thread, NULL));
    assert_true(between > 1);
    for (size_t i = 0; i < COUNT; i++) {
        assert_int_equal(i < 2000 ? 1 : 0, atomic_load(&counts.seen[i]));
    }
    phi_team_destroy(team);
}

/* ---- CPUs ---- */

typedef struct places {
    meeting meeting;
    cpu_set_t sets[4];
} places;

static void note_place(void *arg, size_t begin, size_t end, unsigned worker)
{
    places *self = arg;
    (void)sched_getaffinity(0, sizeof self->sets[worker], &self->sets[worker]);
    meet(&self->meeting, begin, end, worker);
}

/* In a thread of its own, because it gets pinned. */
static void *check_places(void *arg)
{
    phi_team *team = arg;
    unsigned size = phi_team_size(team);
    places found = {.meeting = {.size = size}};
    cpu_set_t all;
    phi_team_pin_caller(team);
    phi_team_run(team, PHI_TEAM_INFERENCE, size, 1, note_place, &found);
    assert_false(atomic_load(&found.meeting.failed));
    CPU_ZERO(&all);
    for (unsigned i = 0; i < size; i++) {
        assert_int_equal(1, CPU_COUNT(&found.sets[i]));
        CPU_OR(&all, &all, &found.sets[i]);
    }
    assert_int_equal(size, CPU_COUNT(&all));
    return NULL;
}

static void test_pinning(void **state)
{
    (void)state;
    phi_team *team = NULL;
    pthread_t thread;
    phi_machine_cpu_list cpus;
    phi_machine_cpus_list(&cpus);
    unsigned size = cpus.n_cpus < 4 ? cpus.n_cpus : 4;
    if (size < 2) {
        skip();
    }
    assert_int_equal(PHI_OK, phi_team_create(size, &team, NULL));
    assert_false(phi_team_pin(team, PHI_TEAM_PIN_OFF));
    assert_int_equal(size >= cpus.n_cores, phi_team_pin(team, PHI_TEAM_PIN_AUTO));
    assert_true(phi_team_pin(team, PHI_TEAM_PIN_ON));
    assert_int_equal(0, pthread_create(&thread, NULL, check_places, team));
    assert_int_equal(0, pthread_join(thread, NULL));
    phi_team_destroy(team);
    /* More threads than CPUs have no CPU of their own. */
    if (cpus.n_cpus < PHI_LIMIT_TEAM_THREADS) {
        assert_int_equal(PHI_OK, phi_team_create(cpus.n_cpus + 1, &team, NULL));
        assert_false(phi_team_pin(team, PHI_TEAM_PIN_ON));
        phi_team_pin_caller(team);
        phi_machine_cpu_list after;
        phi_machine_cpus_list(&after);
        assert_int_equal(cpus.n_cpus, after.n_cpus);
        phi_team_destroy(team);
    }
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
        cmocka_unit_test(test_every_item_once),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_results_are_there),
        cmocka_unit_test(test_several_callers),
        cmocka_unit_test(test_inference_first),
        cmocka_unit_test(test_slices_get_shorter),
        cmocka_unit_test(test_others_do_what_the_late_one_had),
        cmocka_unit_test(test_all_come),
        cmocka_unit_test(test_background_goes_on_where_it_was),
        cmocka_unit_test(test_pinning),
        cmocka_unit_test(test_idle_uses_no_cpu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
