/*
 * How fast attention is for one step of one layer: decode (one row over a context) as a share of
 * the machine's own reading speed, prefill (a chunk of rows at the end of a prompt) as a share of
 * its speed of multiplying and adding floats.
 *   bench_attention [THREADS]
 */
#include "base/assert.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "config/limits.h"
#include "engine/model/attention.h"
#include "engine/model/forward.h"

#include <stdio.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define SECONDS_NS 500000000U
#define READ_BYTES (512U << 20)
#define CHUNK 256U

typedef struct head_shape {
    const char *name;
    uint32_t n_head;
    uint32_t n_head_kv;
    uint32_t head_dim;
    uint32_t window;
} head_shape;

static const head_shape shapes[] = {
    {"Phi-3-mini", 32, 32, 96, 2047},
    {"Phi-4-mini", 24, 8, 128, 0},
    {"Phi-4", 40, 10, 128, 0},
};

typedef struct bench {
    phi_compute compute;
    uint8_t *memory;
    uint64_t sums[PHI_LIMIT_TEAM_THREADS];
    double reading; /* bytes a second */
    double adding;  /* products added a second */
} bench;

/* ---- the machine ---- */

static void read_slice(void *arg, size_t begin, size_t end, unsigned worker)
{
    bench *b = arg;
    const uint64_t *words = (const uint64_t *)(const void *)b->memory;
    uint64_t sum[8] = {0};
    for (size_t i = begin * 512; i < end * 512; i += 8) {
        __builtin_prefetch(words + i + 256);
        for (size_t j = 0; j < 8; j++) {
            sum[j] += words[i + j];
        }
    }
    for (size_t j = 0; j < 8; j++) {
        b->sums[worker] += sum[j];
    }
}

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

#define ROUNDS 20000U
#if defined(__x86_64__)
__attribute__((target("avx512f"))) static void add_512(void *arg, size_t begin, size_t end,
                                                       unsigned worker)
{
    bench *b = arg;
    for (size_t i = begin; i < end; i++) {
        __m512 acc[16];
        __m512 x = _mm512_set1_ps(0.999F + (float)i * 1e-9F);
        for (int j = 0; j < 16; j++) {
            acc[j] = _mm512_set1_ps((float)j);
        }
        for (unsigned r = 0; r < ROUNDS; r++) {
            for (int j = 0; j < 16; j++) {
                acc[j] = _mm512_fmadd_ps(acc[j], x, x);
            }
        }
        for (int j = 0; j < 16; j++) {
            b->sums[worker] += (uint64_t)_mm512_reduce_add_ps(acc[j]);
        }
    }
}
#endif

/* 0 where this program cannot tell. */
static double adding_speed(bench *b)
{
    double best = 0.0;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) {
        uint64_t until_ns = phi_clock_ns() + SECONDS_NS;
        do {
            uint64_t start_ns = phi_clock_ns();
            phi_team_run(b->compute.team, PHI_TEAM_INFERENCE, 64, 1, add_512, b);
            double seconds = (double)(phi_clock_ns() - start_ns) * 1e-9;
            double speed = 64.0 * ROUNDS * 16 * 16 / seconds;
            best = speed > best ? speed : best;
        } while (phi_clock_ns() < until_ns);
    }
#else
    (void)b;
#endif
    return best;
}

/* ---- attention ---- */

typedef struct setting {
    phi_description description;
    phi_attention_scratch scratch;
    phi_kv_type kv_type;
    phi_kv_view view;
    void **pages;
    uint32_t n_pages;
    phi_row *rows;
    float *qkv;
    float *out;
} setting;

static void set_up(setting *s, const head_shape *shape, phi_kv_type type, uint32_t n_layer,
                   uint32_t n_ctx, unsigned n_threads)
{
    *s = (setting){.kv_type = type,
                   .description = {.n_layer = n_layer,
                                   .n_head = shape->n_head,
                                   .n_head_kv = shape->n_head_kv,
                                   .head_dim = shape->head_dim,
                                   .window = shape->window,
                                   .n_ctx = n_ctx}};
    if (phi_attention_scratch_init(&s->scratch, &s->description, CHUNK, n_threads, NULL)) {
        PHI_UNREACHABLE();
    }
    size_t bytes = (size_t)phi_kv_page_bytes(&s->description, type);
    size_t cols = ((size_t)shape->n_head + 2 * (size_t)shape->n_head_kv) * shape->head_dim;
    s->n_pages = (n_ctx + PHI_KV_PAGE_TOKENS - 1) / PHI_KV_PAGE_TOKENS;
    s->pages = phi_alloc_zero(s->n_pages, sizeof *s->pages);
    for (uint32_t i = 0; i < s->n_pages; i++) {
        s->pages[i] = phi_try_alloc_aligned(bytes);
        /* Small numbers: 0x1111 is 6.5e-4 as fp16, 1.1e-28 as fp32. */
        memset(s->pages[i], 0x11, bytes);
    }
    s->view.pages = s->pages;
    s->rows = phi_alloc_zero(CHUNK, sizeof *s->rows);
    s->qkv = phi_alloc_zero(CHUNK * cols, sizeof *s->qkv);
    s->out = phi_alloc_zero(CHUNK * cols, sizeof *s->out);
    for (size_t i = 0; i < CHUNK * cols; i++) {
        s->qkv[i] = (float)(i % 17) * 0.1F - 0.8F;
    }
}

static void tear_down(setting *s)
{
    for (uint32_t i = 0; i < s->n_pages; i++) {
        phi_free(s->pages[i]);
    }
    phi_free(s->pages);
    phi_free(s->rows);
    phi_free(s->qkv);
    phi_free(s->out);
    phi_attention_scratch_done(&s->scratch);
}

/* Best time of one layer's step with `n` rows that end at `n_ctx`, in seconds; layers take turns.
 */
static double step_time(const bench *b, setting *s, uint32_t n, uint32_t n_ctx)
{
    double best = 1e9;
    for (uint32_t i = 0; i < n; i++) {
        s->rows[i] = (phi_row){.position = n_ctx - n + i, .is_prompt = n > 1};
    }
    uint64_t until_ns = phi_clock_ns() + SECONDS_NS;
    do {
        uint64_t start_ns = phi_clock_ns();
        for (uint32_t l = 0; l < s->description.n_layer; l++) {
            const phi_attention at = {.description = &s->description,
                                      .kv_type = s->kv_type,
                                      .layer = l,
                                      .rows = s->rows,
                                      .n_rows = n,
                                      .views = &s->view,
                                      .qkv = s->qkv,
                                      .out = s->out};
            phi_attention_run(&b->compute, &at, &s->scratch);
        }
        double seconds = (double)(phi_clock_ns() - start_ns) * 1e-9 / s->description.n_layer;
        best = seconds < best ? seconds : best;
    } while (phi_clock_ns() < until_ns);
    return best;
}

/* Keys that `n` rows see that end at `n_ctx`, all together. */
static double seen(const setting *s, uint32_t n, uint32_t n_ctx)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t keys = n_ctx - n + i + 1;
        uint32_t window = s->description.window;
        sum += window && keys > window ? window : keys;
    }
    return sum;
}

static void run_shape(const bench *b, const head_shape *shape, phi_kv_type type)
{
    static const char *const names[] = {"f16", "f32", "int8"};
    setting s;
    const uint32_t decode_ctx = 8192;
    uint32_t n_threads = phi_team_size(b->compute.team);
    /* More than the last cache holds. */
    set_up(&s, shape, type, shape->window ? 16 : 24, decode_ctx, n_threads);
    double decode = step_time(b, &s, 1, decode_ctx);
    double bytes = seen(&s, 1, decode_ctx) * (double)phi_kv_head_bytes(type, shape->head_dim) /
                   PHI_KV_PAGE_TOKENS * shape->n_head_kv;
    (void)printf("%-11s %-10s %-4s decode %7.1f us %6.2f GB/s %3.0f%%", b->compute.kernels->name,
                 shape->name, names[type], decode * 1e6, bytes / decode * 1e-9,
                 100.0 * bytes / decode / b->reading);
    s.description.n_layer = 1;
    static const uint32_t ends[] = {512, 4096};
    for (size_t i = 0; i < 2; i++) {
        double prefill = step_time(b, &s, CHUNK, ends[i]);
        double macs = seen(&s, CHUNK, ends[i]) * 2.0 * shape->head_dim * shape->n_head;
        (void)printf("  rows to %4u %8.1f us %6.1f GFLOP/s %3.0f%%", ends[i], prefill * 1e6,
                     2e-9 * macs / prefill,
                     b->adding > 0.0 ? 100.0 * macs / prefill / b->adding : 0.0);
    }
    (void)printf("\n");
    tear_down(&s);
}

int main(int argc, char **argv)
{
    static bench b;
    phi_err err = {0};
    uint64_t threads = 0;
    if (argc > 1 && !phi_str_parse_u64(argv[1], PHI_LIMIT_TEAM_THREADS, &threads)) {
        (void)fprintf(stderr, "usage: bench_attention [THREADS]\n");
        return 2;
    }
    if (phi_team_create((unsigned)threads, &b.compute.team, &err)) {
        (void)fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    b.compute.priority = PHI_TEAM_INFERENCE;
    b.memory = phi_alloc_zero(READ_BYTES, 1);
    memset(b.memory, 1, READ_BYTES);
    b.reading = reading_speed(&b);
    b.adding = adding_speed(&b);
    phi_free(b.memory);
    (void)printf("%u threads, reading at %.2f GB/s, multiplying and adding at %.1f GFLOP/s\n",
                 phi_team_size(b.compute.team), b.reading * 1e-9, 2e-9 * b.adding);
    const phi_kernels *sets[8];
    size_t n_sets = phi_kernels_available(sets, 8);
    for (size_t s = 0; s + 1 < n_sets || s == 0; s++) {
        b.compute.kernels = sets[s];
        for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
            run_shape(&b, &shapes[i], PHI_KV_F16);
            run_shape(&b, &shapes[i], PHI_KV_INT8);
        }
        run_shape(&b, &shapes[0], PHI_KV_F32);
    }
    phi_team_destroy(b.compute.team);
    return 0;
}
