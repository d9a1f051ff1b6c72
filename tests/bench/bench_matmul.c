/*
 * How fast one weight matrix of [8192, 3072] multiplies one token (decode), 8 and 512 (prefill),
 * for each kind and kernel set, and what share of the machine's own reading speed decode reaches.
 *   bench_matmul [THREADS [SET]]
 */
#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "config/limits.h"
#include "engine/kernels/matmul.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define ROWS 8192U
#define COLS 3072U
#define PREFILL 512U
#define BATCH 8U
#define SECONDS_NS 300000000U
/* Large enough that no cache holds it. */
#define READ_BYTES (1U << 30)

typedef struct bench {
    phi_compute compute;
    phi_matmul_scratch scratch;
    float *x;
    float *y;
    uint8_t *memory;
    uint64_t sums[PHI_LIMIT_TEAM_THREADS];
} bench;

static void read_slice(void *arg, size_t begin, size_t end, unsigned worker)
{
    bench *b = arg;
    const uint64_t *words = (const uint64_t *)(const void *)b->memory;
    uint64_t sum[8] = {0};
    for (size_t i = begin * 512; i < end * 512; i += 8) {
        for (size_t j = 0; j < 8; j++) {
            sum[j] += words[i + j];
        }
    }
    for (size_t j = 0; j < 8; j++) {
        b->sums[worker] += sum[j];
    }
}

/* Best of the passes that fit into the time, in bytes a second. */
static double reading_speed(bench *b)
{
    double best = 0.0;
    uint64_t until_ns = phi_clock_ns() + 2 * SECONDS_NS;
    do {
        uint64_t start_ns = phi_clock_ns();
        phi_team_run(b->compute.team, PHI_TEAM_INFERENCE, READ_BYTES / 4096, 256, read_slice, b);
        double speed = READ_BYTES / ((double)(phi_clock_ns() - start_ns) * 1e-9);
        best = speed > best ? speed : best;
    } while (phi_clock_ns() < until_ns);
    return best;
}

/* Best time of one product, in seconds. The matrices take turns, so that many do not stay cached.
 */
static double product_time(bench *b, const phi_weight *weights, size_t n_weights, uint32_t n_tok)
{
    double best = 1e9;
    uint64_t until_ns = phi_clock_ns() + SECONDS_NS;
    for (size_t i = 0; phi_clock_ns() < until_ns || i < 2 * n_weights; i++) {
        uint64_t start_ns = phi_clock_ns();
        phi_matmul(&b->compute, &weights[i % n_weights], b->x, n_tok, b->y, &b->scratch);
        double seconds = (double)(phi_clock_ns() - start_ns) * 1e-9;
        best = seconds < best ? seconds : best;
    }
    return best;
}

static bool make_weights(phi_weight *weights, size_t n, phi_dtype dtype)
{
    for (size_t i = 0; i < n; i++) {
        if (phi_weight_init(&weights[i], dtype, ROWS, COLS, NULL)) {
            return false;
        }
        /* Small numbers in every kind: 0x1111 is 6.5e-4 as fp16, 1.1e-28 as bf16 and fp32. */
        memset(weights[i].codes, 0x11, (size_t)phi_weight_bytes(&weights[i]));
    }
    return true;
}

static void run_kind(bench *b, double reading, phi_dtype dtype)
{
    enum { WEIGHTS_MAX = 64 };
    static phi_weight weights[WEIGHTS_MAX];
    uint64_t row_bytes = 0;
    (void)phi_dtype_row_bytes(dtype, COLS, &row_bytes);
    size_t n = READ_BYTES / (row_bytes * ROWS) + 1;
    n = n < WEIGHTS_MAX ? n : WEIGHTS_MAX;
    if (!make_weights(weights, n, dtype)) {
        (void)printf("not enough memory\n");
    } else {
        double decode = product_time(b, weights, n, 1);
        double batch = product_time(b, weights, n, BATCH);
        double prefill = product_time(b, weights, 1, PREFILL);
        b->compute.priority = PHI_TEAM_BACKGROUND;
        double background = product_time(b, weights, 1, PREFILL);
        b->compute.priority = PHI_TEAM_INFERENCE;
        double bytes = (double)phi_weight_bytes(&weights[0]);
        (void)printf(
            "%-12s %-5s decode %7.3f ms %6.2f GB/s %4.0f%% of reading   of %u %5.2f times "
            "the tokens/s   prefill of %u %8.2f ms %6.1f GMAC/s, in the background %6.1f\n",
            b->compute.kernels->name, phi_weight_kind_name(weights[0].kind), decode * 1e3,
            bytes / decode * 1e-9, 100.0 * bytes / decode / reading, BATCH, BATCH * decode / batch,
            PREFILL, prefill * 1e3, 1e-9 * ROWS * COLS * PREFILL / prefill,
            1e-9 * ROWS * COLS * PREFILL / background);
    }
    for (size_t i = 0; i < n; i++) {
        phi_weight_done(&weights[i]);
    }
}

static void run_set(bench *b, double reading)
{
    static const phi_dtype dtypes[] = {PHI_DTYPE_Q4_0, PHI_DTYPE_Q4_1, PHI_DTYPE_Q8_0,
                                       PHI_DTYPE_F16,  PHI_DTYPE_BF16, PHI_DTYPE_F32};
    for (size_t k = 0; k < sizeof dtypes / sizeof dtypes[0]; k++) {
        run_kind(b, reading, dtypes[k]);
    }
}

int main(int argc, char **argv)
{
    static bench b;
    phi_err err = {0};
    uint64_t threads = 0;
    if (argc > 1 && !phi_str_parse_u64(argv[1], PHI_LIMIT_TEAM_THREADS, &threads)) {
        (void)fprintf(stderr, "usage: bench_matmul [THREADS [SET]]\n");
        return 2;
    }
    if (phi_team_create((unsigned)threads, &b.compute.team, &err) ||
        phi_matmul_scratch_init(&b.scratch, PREFILL, COLS, &err)) {
        (void)fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    b.compute.priority = PHI_TEAM_INFERENCE;
    b.memory = phi_alloc_zero(READ_BYTES, 1);
    memset(b.memory, 1, READ_BYTES);
    b.x = phi_alloc_zero((size_t)PREFILL * COLS, sizeof *b.x);
    b.y = phi_alloc_zero((size_t)PREFILL * ROWS, sizeof *b.y);
    for (size_t i = 0; i < (size_t)PREFILL * COLS; i++) {
        b.x[i] = (float)(i % 17) - 8.0F;
    }
    double reading = reading_speed(&b);
    (void)printf("%u threads, [%u, %u], reading at %.2f GB/s\n", phi_team_size(b.compute.team),
                 ROWS, COLS, reading * 1e-9);
    const phi_kernels *sets[8] = {NULL};
    if (argc > 2) {
        if (phi_kernels_select(argv[2], &sets[0], &err)) {
            (void)fprintf(stderr, "%s\n", err.message);
            return 1;
        }
        b.compute.kernels = sets[0];
        run_set(&b, reading);
        return 0;
    }
    size_t n_sets = phi_kernels_available(sets, 8);
    for (size_t s = 0; s < n_sets; s++) {
        b.compute.kernels = sets[s];
        run_set(&b, reading);
    }
    phi_free(b.y);
    phi_free(b.x);
    phi_free(b.memory);
    phi_matmul_scratch_done(&b.scratch);
    phi_team_destroy(b.compute.team);
    return 0;
}
