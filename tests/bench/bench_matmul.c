/*
 * How fast one weight matrix of [8192, 3072] multiplies one token (decode), 8 and 512 (prefill),
 * for each form and kernel set, and what share of the machine's own reading speed decode reaches.
 *   bench_matmul [THREADS [SET [FORM]]]
 * FORM: the beginning of a form's name, "INT4/32" or "FP16"; only those are measured.
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

typedef void (*product_fn)(const phi_compute *compute, const phi_weight *weight, const float *x,
                           const phi_fill *fill, uint32_t n_tok, float *y,
                           phi_matmul_scratch *scratch);

/* Best time of one product, in seconds. The matrices take turns, so that many do not stay cached.
 */
static double product_time(bench *b, const phi_weight *weights, size_t n_weights, uint32_t n_tok,
                           product_fn product)
{
    double best = 1e9;
    uint64_t until_ns = phi_clock_ns() + SECONDS_NS;
    for (size_t i = 0; phi_clock_ns() < until_ns || i < 2 * n_weights; i++) {
        uint64_t start_ns = phi_clock_ns();
        product(&b->compute, &weights[i % n_weights], b->x, NULL, n_tok, b->y, &b->scratch);
        double seconds = (double)(phi_clock_ns() - start_ns) * 1e-9;
        best = seconds < best ? seconds : best;
    }
    return best;
}

static bool make_weights(phi_weight *weights, size_t n, const phi_form *form)
{
    for (size_t i = 0; i < n; i++) {
        if (phi_weight_shape(&weights[i], form, ROWS, COLS, NULL) ||
            phi_weight_alloc(&weights[i], NULL)) {
            return false;
        }
        /* Small numbers in every kind: 0x1111 is 6.5e-4 as fp16, 1.1e-28 as bf16 and fp32. */
        memset(weights[i].codes, 0x11, (size_t)phi_weight_bytes(&weights[i]));
    }
    return true;
}

/* "INT4/32 + wide": the columns of a group; "+" if there are offsets. */
static const char *form_name(const phi_form *form, char *out, size_t bytes)
{
    char group[16] = "";
    if (form->group) {
        (void)snprintf(group, sizeof group, "/%u", form->group);
    }
    (void)snprintf(out, bytes, "%s%s%s%s", phi_weight_kind_name(form->kind), group,
                   form->has_offsets ? " +" : "", form->wide ? " wide" : "");
    return out;
}

static void run_form(bench *b, double reading, const phi_form *form)
{
    enum { WEIGHTS_MAX = 64 };
    static phi_weight weights[WEIGHTS_MAX];
    char name[32];
    size_t n = 0;
    if (!phi_weight_shape(&weights[0], form, ROWS, COLS, NULL)) {
        n = READ_BYTES / (size_t)phi_weight_bytes(&weights[0]);
    }
    n = n < WEIGHTS_MAX ? n + 1 : WEIGHTS_MAX;
    if (!make_weights(weights, n, form)) {
        (void)printf("not enough memory\n");
    } else {
        double decode = product_time(b, weights, n, 1, phi_matmul);
        double batch = product_time(b, weights, n, BATCH, phi_matmul);
        double many = product_time(b, weights, 1, PREFILL, phi_matmul);
        double prompt = product_time(b, weights, 1, PREFILL, phi_matmul_prompt);
        b->compute.priority = PHI_TEAM_BACKGROUND;
        double background = product_time(b, weights, 1, PREFILL, phi_matmul);
        b->compute.priority = PHI_TEAM_INFERENCE;
        double bytes = (double)phi_weight_bytes(&weights[0]);
        (void)printf(
            "%-12s %-14s decode %7.3f ms %6.2f GB/s %4.0f%% of reading   of %u %5.2f times "
            "the tokens/s   of %u %6.1f GMAC/s, as a prompt %6.1f, in the background %6.1f\n",
            b->compute.kernels->name, form_name(form, name, sizeof name), decode * 1e3,
            bytes / decode * 1e-9, 100.0 * bytes / decode / reading, BATCH, BATCH * decode / batch,
            PREFILL, 1e-9 * ROWS * COLS * PREFILL / many, 1e-9 * ROWS * COLS * PREFILL / prompt,
            1e-9 * ROWS * COLS * PREFILL / background);
    }
    for (size_t i = 0; i < n; i++) {
        phi_weight_done(&weights[i]);
    }
}

static void run_set(bench *b, double reading, const char *prefix)
{
    static const phi_form forms[] = {
        {PHI_WEIGHT_INT4, 32, false, false}, {PHI_WEIGHT_INT4, 32, false, true},
        {PHI_WEIGHT_INT4, 32, true, false},  {PHI_WEIGHT_INT4, 32, true, true},
        {PHI_WEIGHT_INT4, 128, true, false}, {PHI_WEIGHT_INT4, 128, true, true},
        {PHI_WEIGHT_INT8, 32, false, false}, {PHI_WEIGHT_INT8, 32, false, true},
        {PHI_WEIGHT_INT8, 16, false, false}, {PHI_WEIGHT_INT8, 16, false, true},
        {.kind = PHI_WEIGHT_FP16},           {.kind = PHI_WEIGHT_BF16},
        {.kind = PHI_WEIGHT_FP32},
    };
    for (size_t k = 0; k < sizeof forms / sizeof forms[0]; k++) {
        char name[32];
        if (phi_str_starts(form_name(&forms[k], name, sizeof name), prefix)) {
            run_form(b, reading, &forms[k]);
        }
    }
}

int main(int argc, char **argv)
{
    static bench b;
    phi_err err = {0};
    uint64_t threads = 0;
    if (argc > 1 && !phi_str_parse_u64(argv[1], PHI_LIMIT_TEAM_THREADS, &threads)) {
        (void)fprintf(stderr, "usage: bench_matmul [THREADS [SET [FORM]]]\n");
        return 2;
    }
    if (phi_team_create((unsigned)threads, &b.compute.team, &err) ||
        phi_matmul_scratch_init(
            &b.scratch, &(phi_matmul_sizes){PREFILL, COLS, phi_team_size(b.compute.team)}, &err)) {
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
        run_set(&b, reading, argc > 3 ? argv[3] : "");
        return 0;
    }
    size_t n_sets = phi_kernels_available(sets, 8);
    for (size_t s = 0; s < n_sets; s++) {
        b.compute.kernels = sets[s];
        run_set(&b, reading, "");
    }
    phi_free(b.y);
    phi_free(b.x);
    phi_free(b.memory);
    phi_matmul_scratch_done(&b.scratch);
    phi_team_destroy(b.compute.team);
    return 0;
}
