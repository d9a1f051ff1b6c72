/*
 * What the team costs and how well it shares:
 *   bench_team [THREADS] [auto|on|off]     the last word pins threads, as the setting does
 * - microseconds of a loop over nothing, and of one for which all threads have to come, with
 * threads that are awake and with such that sleep;
 * - processor time of a team with nothing to do;
 * - the time of a loop of arithmetic, alone and while another process keeps the last CPU busy.
 */
#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "config/limits.h"
#include "engine/kernels/machine.h"
#include "engine/kernels/team.h"

#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RUNS 200000U
#define RUNS_ASLEEP 300U
#define ITEMS 4096U

typedef struct meeting {
    unsigned size;
    atomic_uint came;
} meeting;

static void nothing(void *arg, size_t begin, size_t end, unsigned worker)
{
    (void)arg;
    (void)begin;
    (void)end;
    (void)worker;
}

/* Every thread waits for all the others: nobody can do the loop alone. */
static void meet(void *arg, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    meeting *self = arg;
    /* Relaxed: only numbers. */
    atomic_fetch_add_explicit(&self->came, (unsigned)(end - begin), memory_order_relaxed);
    while (atomic_load_explicit(&self->came, memory_order_relaxed) < self->size) {
    }
}

static void pause_ms(long ms)
{
    (void)nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static int by_size(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a;
    uint64_t right = *(const uint64_t *)b;
    return (left > right) - (left < right);
}

typedef struct spread {
    double median_us;
    double p99_us;
    double mean_us;
} spread;

static spread spread_of(uint64_t *times_ns, size_t n)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += times_ns[i];
    }
    qsort(times_ns, n, sizeof *times_ns, by_size);
    return (spread){(double)times_ns[n / 2] * 1e-3, (double)times_ns[n * 99 / 100] * 1e-3,
                    (double)sum / (double)n * 1e-3};
}

static uint64_t cpu_us(void)
{
    struct rusage used;
    (void)getrusage(RUSAGE_SELF, &used);
    return (uint64_t)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000U +
           (uint64_t)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}

static void measure_loop(phi_team *team, uint64_t *times_ns, const char *what, bool together,
                         long sleep_ms)
{
    meeting m = {.size = phi_team_size(team)};
    size_t runs = sleep_ms > 0 ? RUNS_ASLEEP : RUNS;
    for (size_t i = 0; i < runs; i++) {
        if (sleep_ms > 0) {
            pause_ms(sleep_ms);
        }
        atomic_store(&m.came, 0);
        uint64_t began_ns = phi_clock_ns();
        phi_team_run(team, PHI_TEAM_INFERENCE, m.size, 1, together ? meet : nothing, &m);
        times_ns[i] = phi_clock_ns() - began_ns;
    }
    spread s = spread_of(times_ns, runs);
    (void)printf("%-32s median %7.2f us, mean %7.2f, 99%% below %7.2f\n", what, s.median_us,
                 s.mean_us, s.p99_us);
}

/* ---- sharing ---- */

typedef struct burden {
    uint64_t turns_per_item;
    uint64_t sums[PHI_LIMIT_TEAM_THREADS][16]; /* a cache line or two each */
} burden;

static void compute(void *arg, size_t begin, size_t end, unsigned worker)
{
    burden *self = arg;
    uint64_t sum = self->sums[worker][0];
    for (uint64_t i = 0; i < (end - begin) * self->turns_per_item; i++) {
        sum = sum * 6364136223846793005U + 1442695040888963407U;
    }
    self->sums[worker][0] = sum;
}

static spread time_loops(phi_team *team, burden *b, uint64_t *times_ns, size_t loops)
{
    for (size_t i = 0; i < loops; i++) {
        uint64_t began_ns = phi_clock_ns();
        phi_team_run(team, PHI_TEAM_INFERENCE, ITEMS, 8, compute, b);
        times_ns[i] = phi_clock_ns() - began_ns;
    }
    return spread_of(times_ns, loops);
}

/* A process that never rests, on the machine's last CPU; it ends with us. */
static pid_t start_thief(const cpu_set_t *all)
{
    pid_t child = fork();
    if (child == 0) {
        cpu_set_t set;
        size_t last = 0;
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
            last = CPU_ISSET(cpu, all) ? cpu : last;
        }
        CPU_ZERO(&set);
        CPU_SET(last, &set);
        (void)sched_setaffinity(0, sizeof set, &set);
        for (volatile uint64_t i = 0;; i++) {
        }
    }
    return child;
}

static void measure_sharing(phi_team *team, const cpu_set_t *all, uint64_t *times_ns)
{
    static burden b;
    static const uint64_t turns[] = {100, 4000};
    for (size_t k = 0; k < sizeof turns / sizeof turns[0]; k++) {
        b.turns_per_item = turns[k];
        size_t loops = k == 0 ? 4000 : 150;
        spread alone = time_loops(team, &b, times_ns, loops);
        pid_t thief = start_thief(all);
        pause_ms(100);
        spread robbed = time_loops(team, &b, times_ns, loops);
        if (thief > 0) {
            (void)kill(thief, SIGKILL);
            (void)waitpid(thief, NULL, 0);
        }
        double size = phi_team_size(team);
        /* Half a CPU is gone: nothing can be faster than that share of the work. */
        (void)printf("loop of %7.3f ms: with half a CPU stolen median %7.3f, mean %7.3f, 99%% "
                     "below %7.3f; fair %7.3f\n",
                     alone.mean_us * 1e-3, robbed.median_us * 1e-3, robbed.mean_us * 1e-3,
                     robbed.p99_us * 1e-3, alone.mean_us * 1e-3 * size / (size - 0.5));
    }
}

static void measure_idle(void)
{
    pause_ms(50);
    uint64_t before_us = cpu_us();
    uint64_t began_ns = phi_clock_ns();
    pause_ms(2000);
    uint64_t used_us = cpu_us() - before_us;
    (void)printf("idle for %.2f s: %" PRIu64 " us of processor time\n",
                 (double)(phi_clock_ns() - began_ns) * 1e-9, used_us);
}

int main(int argc, char **argv)
{
    phi_team *team = NULL;
    phi_err err = {0};
    uint64_t threads = 0;
    if (argc > 1 && !phi_str_parse_u64(argv[1], PHI_LIMIT_TEAM_THREADS, &threads)) {
        (void)fprintf(stderr, "usage: bench_team [THREADS] [auto|on|off]\n");
        return 2;
    }
    phi_team_pinning pinning = PHI_TEAM_PIN_AUTO;
    if (argc > 2) {
        pinning = strcmp(argv[2], "on") == 0    ? PHI_TEAM_PIN_ON
                  : strcmp(argv[2], "off") == 0 ? PHI_TEAM_PIN_OFF
                                                : PHI_TEAM_PIN_AUTO;
    }
    cpu_set_t all;
    (void)sched_getaffinity(0, sizeof all, &all);
    if (phi_team_create((unsigned)threads, &team, &err)) {
        (void)fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    bool pinned = phi_team_pin(team, pinning);
    phi_team_pin_caller(team);
    uint64_t *times_ns = phi_alloc_zero(RUNS, sizeof *times_ns);
    (void)printf("%u threads, %s\n", phi_team_size(team), pinned ? "pinned" : "not pinned");
    measure_loop(team, times_ns, "empty, threads awake:", false, 0);
    measure_loop(team, times_ns, "all meet, threads awake:", true, 0);
    measure_loop(team, times_ns, "all meet, threads asleep:", true, 2);
    measure_idle();
    measure_sharing(team, &all, times_ns);
    phi_free(times_ns);
    phi_team_destroy(team);
    return 0;
}
