/*
 * A ceiling is the best of many short passes: what disturbs a pass only ever makes it slower.
 *
 * Reading: how many streams side by side, and how far ahead of them prefetching pays, differs from
 * CPU to CPU (a stream ends at each page for the CPU's own prefetcher; several hide that from one
 * another), so a few patterns take turns.
 */
#include "engine/kernels/ceiling.h"

#include "base/clock.h"
#include "base/mem.h"
#include "engine/kernels/ceiling_loops.h"
#include "engine/kernels/machine.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#define DURATION_MS_DEFAULT 1000U
/* Of the time, for reading; the rest is for the two loops of arithmetic. */
#define READ_PERCENT 70U
#define READ_BYTES_DEFAULT (1ULL << 30)
#define READ_BYTES_MAX (4ULL << 30)
#define READ_BYTES_MIN (1ULL << 20)
/* Share of the available memory that reading may take. */
#define READ_MEMORY_PART 4U
/* What slices of the memory are made of, and the least that is one. */
#define BLOCK_BYTES 65536U
#define SLICE_BLOCKS 16U
#define LINE_BYTES 64U
/* Of one call of a loop: long beside what handing it out costs. */
#define CALL_NS 200000U
#define CALLS_PER_THREAD 16U

/* ---- reading ---- */

typedef struct pattern {
    uint32_t streams; /* that a slice is read in, side by side */
    uint32_t ahead_bytes;
} pattern;

static const pattern patterns[] = {{1, 2048}, {2, 2048}, {4, 1024}, {4, 2048}, {8, 512}};
#define N_PATTERNS (sizeof patterns / sizeof patterns[0])

typedef struct reading {
    const uint8_t *memory;
    const pattern *pattern;
    /* Keeps the compiler from leaving the work out; relaxed, for nobody looks. */
    atomic_ullong sink;
} reading;

static uint64_t read_line(const uint8_t *at)
{
    const uint64_t *words = (const uint64_t *)(const void *)at;
    return words[0] + words[1] + words[2] + words[3] + words[4] + words[5] + words[6] + words[7];
}

static inline __attribute__((always_inline)) uint64_t read_streams(const uint8_t *at, size_t bytes,
                                                                   size_t streams, size_t ahead)
{
    size_t stream_bytes = bytes / streams;
    uint64_t sum = 0;
    for (size_t i = 0; i < stream_bytes; i += LINE_BYTES) {
        for (size_t s = 0; s < streams; s++) {
            const uint8_t *line = at + s * stream_bytes + i;
            __builtin_prefetch(line + ahead, 0, 3);
            sum += read_line(line);
        }
    }
    return sum;
}

/* [team] */
static void read_slice(void *arg, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    reading *self = arg;
    const uint8_t *at = self->memory + begin * BLOCK_BYTES;
    size_t bytes = (end - begin) * BLOCK_BYTES;
    size_t ahead = self->pattern->ahead_bytes;
    /* Constants, so that the inner loop is unrolled. */
    uint64_t sum;
    switch (self->pattern->streams) {
    case 1:
        sum = read_streams(at, bytes, 1, ahead);
        break;
    case 2:
        sum = read_streams(at, bytes, 2, ahead);
        break;
    case 4:
        sum = read_streams(at, bytes, 4, ahead);
        break;
    default:
        sum = read_streams(at, bytes, 8, ahead);
        break;
    }
    atomic_store_explicit(&self->sink, sum, memory_order_relaxed);
}

/* [team] By those who read it, for on machines with several nodes memory lies where it is first
 * written. Not with zeros: all of those could be one and the same page. */
static void fill_slice(void *arg, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    uint8_t *memory = arg;
    memset(memory + begin * BLOCK_BYTES, 1, (end - begin) * BLOCK_BYTES);
}

static uint64_t choose_read_bytes(uint64_t wanted)
{
    if (wanted == 0) {
        long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
        wanted = cache > 0 ? 2 * (uint64_t)cache : 0;
        wanted = wanted > READ_BYTES_DEFAULT ? wanted : READ_BYTES_DEFAULT;
        wanted = wanted < READ_BYTES_MAX ? wanted : READ_BYTES_MAX;
        uint64_t most = phi_machine_memory_available() / READ_MEMORY_PART;
        wanted = wanted < most ? wanted : most;
    }
    wanted = wanted > READ_BYTES_MIN ? wanted : READ_BYTES_MIN;
    return wanted / BLOCK_BYTES * BLOCK_BYTES;
}

static phi_status measure_reading(phi_team *team, uint64_t bytes, uint64_t duration_ns,
                                  phi_ceilings *ceilings, phi_err *err)
{
    /* Prefetching beyond the end stays inside. */
    uint8_t *memory = phi_try_alloc_aligned((size_t)bytes + BLOCK_BYTES);
    if (!memory) {
        return phi_fail(err, PHI_E_NO_MEMORY,
                        "not enough memory to measure how fast it is read (%llu MB)",
                        (unsigned long long)(bytes >> 20));
    }
    size_t n_blocks = (size_t)(bytes / BLOCK_BYTES);
    phi_team_run(team, PHI_TEAM_INFERENCE, n_blocks, SLICE_BLOCKS, fill_slice, memory);
    reading self = {.memory = memory};
    double best = 0.0;
    uint64_t until_ns = phi_clock_ns() + duration_ns;
    for (size_t i = 0; i < 2 * N_PATTERNS || phi_clock_ns() < until_ns; i++) {
        self.pattern = &patterns[i % N_PATTERNS];
        uint64_t began_ns = phi_clock_ns();
        phi_team_run(team, PHI_TEAM_INFERENCE, n_blocks, SLICE_BLOCKS, read_slice, &self);
        double speed = (double)bytes * 1e9 / (double)(phi_clock_ns() - began_ns);
        best = speed > best ? speed : best;
    }
    phi_free(memory);
    ceilings->read_bytes = bytes;
    ceilings->read_bytes_s = best;
    return PHI_OK;
}

/* ---- arithmetic ---- */

typedef struct arithmetic {
    const phi_ceiling_loops *loops;
    bool floats;
    uint32_t rounds; /* of one call */
    atomic_int sink; /* as reading's */
} arithmetic;

/* [team] */
static void run_calls(void *arg, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    arithmetic *self = arg;
    for (size_t i = begin; i < end; i++) {
        int32_t result = self->floats ? (int32_t)self->loops->fp32_rounds(self->rounds)
                                      : self->loops->int8_rounds(self->rounds);
        atomic_store_explicit(&self->sink, result, memory_order_relaxed);
    }
}

/* Doubles the rounds until a call is long enough. */
static void calibrate(arithmetic *self)
{
    uint64_t ns = 0;
    for (self->rounds = 64; ns < CALL_NS && self->rounds < 1U << 30; self->rounds *= 2) {
        uint64_t began_ns = phi_clock_ns();
        run_calls(self, 0, 1, 0);
        ns = phi_clock_ns() - began_ns;
    }
}

static double measure_loop(phi_team *team, const phi_ceiling_loops *loops, bool floats,
                           uint64_t duration_ns)
{
    arithmetic self = {.loops = loops, .floats = floats};
    size_t calls = (size_t)phi_team_size(team) * CALLS_PER_THREAD;
    double best = 0.0;
    calibrate(&self);
    double ops = (double)(floats ? loops->fp32_ops : loops->int8_ops) * self.rounds;
    uint64_t until_ns = phi_clock_ns() + duration_ns;
    do {
        uint64_t began_ns = phi_clock_ns();
        phi_team_run(team, PHI_TEAM_INFERENCE, calls, 1, run_calls, &self);
        double speed = ops * (double)calls * 1e9 / (double)(phi_clock_ns() - began_ns);
        best = speed > best ? speed : best;
    } while (phi_clock_ns() < until_ns);
    return best;
}

phi_status phi_ceilings_measure(phi_team *team, const phi_ceilings_options *options,
                                phi_ceilings *out_ceilings, phi_err *err)
{
    phi_ceilings ceilings = {.int8_name = "", .fp32_name = ""};
    uint64_t duration_ms = options->duration_ms ? options->duration_ms : DURATION_MS_DEFAULT;
    uint64_t read_ns = duration_ms * 10000 * READ_PERCENT;
    uint64_t loop_ns = (duration_ms * 1000000 - read_ns) / 2;
    phi_status status =
        measure_reading(team, choose_read_bytes(options->read_bytes), read_ns, &ceilings, err);
    if (status) {
        return status;
    }
    const phi_ceiling_loops *loops = phi_ceiling_loops_find(options->set);
    if (loops) {
        ceilings.int8_name = loops->int8_name;
        ceilings.fp32_name = loops->fp32_name;
        ceilings.int8_ops_s = measure_loop(team, loops, false, loop_ns);
        ceilings.fp32_ops_s = measure_loop(team, loops, true, loop_ns);
    }
    *out_ceilings = ceilings;
    return PHI_OK;
}
