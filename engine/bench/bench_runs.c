/*
 * A repetition of prefill is one prompt in steps of batch_tokens; one of decode is `tokens` steps
 * from `context` on. What the context holds is made up: pseudo-random keys and values cost what
 * computed ones do.
 */
#include "base/assert.h"
#include "base/clock.h"
#include "base/mem.h"
#include "engine/bench/bench_internal.h"
#include "engine/kernels/machine.h"
#include "engine/model/experts.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define FILL_BYTES 65536U
#define WARM_TOKENS 16U

typedef struct session {
    phi_bench *bench;
    phi_weights *weights;
    phi_forward_ctx *forward;
    uint8_t *kv;        /* [pages of the largest run], each page_bytes */
    void **pages;       /* [the same] */
    phi_kv_view *views; /* [n_logits_max] */
    phi_row *rows;      /* [n_tok_max] */
    phi_forward_profile profile;
    phi_bench_progress progress;
    void *user;
    char what[96]; /* that is going on */
    uint32_t token;
} session;

static phi_status go_on(session *self, phi_err *err)
{
    if (self->progress && !self->progress(self->user, self->what)) {
        return phi_fail(err, PHI_E_CANCELLED, "measuring was cancelled");
    }
    return PHI_OK;
}

static bool on_load(void *user, uint64_t bytes_done, uint64_t bytes_total)
{
    session *self = user;
    uint64_t percent = bytes_total > 0 ? bytes_done * 100 / bytes_total : 100;
    (void)snprintf(self->what, sizeof self->what, "weights: %llu%%", (unsigned long long)percent);
    return go_on(self, NULL) == PHI_OK;
}

/* ---- keys and values ---- */

typedef struct kv_fill {
    uint8_t *memory;
    bool half;
} kv_fill;

/* [team] Numbers of either sign from 1/8 to 1/4: sign and fraction are random, the exponent is not.
 * Of int8 only the scales matter, which are floats. */
static void fill_kv(void *arg, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const kv_fill *self = arg;
    const uint64_t random_bits = self->half ? 0x83ff83ff83ff83ffU : 0x807fffff807fffffU;
    const uint64_t exponents = self->half ? 0x3000300030003000U : 0x3e0000003e000000U;
    for (size_t i = begin; i < end; i++) {
        uint64_t *words = (uint64_t *)(void *)(self->memory + i * FILL_BYTES);
        uint64_t state = (i + 1) * 0x9e3779b97f4a7c15U;
        for (size_t j = 0; j < FILL_BYTES / sizeof *words; j++) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            words[j] = (state & random_bits) | exponents;
        }
    }
}

static phi_status make_kv(session *self, phi_err *err)
{
    const phi_bench *bench = self->bench;
    uint64_t page_bytes = phi_kv_page_bytes(&bench->description, bench->kv_type);
    /* memplan has multiplied the same numbers, and found that they fit. */
    size_t blocks = (size_t)((page_bytes * bench->kv_pages + FILL_BYTES - 1) / FILL_BYTES);
    self->kv = phi_try_alloc_aligned(blocks * FILL_BYTES);
    self->pages = phi_try_alloc_zero(bench->kv_pages, sizeof *self->pages);
    if (!self->kv || !self->pages) {
        return phi_fail(err, PHI_E_NO_MEMORY, "the KV cache needs %llu bytes of memory",
                        (unsigned long long)(page_bytes * bench->kv_pages));
    }
    /* As the server's pool has them. */
    (void)phi_machine_interleave(self->kv, blocks * FILL_BYTES);
    (void)phi_machine_advise_huge(self->kv, blocks * FILL_BYTES);
    for (uint32_t i = 0; i < bench->kv_pages; i++) {
        self->pages[i] = self->kv + i * page_bytes;
    }
    kv_fill fill = {self->kv, bench->kv_type == PHI_KV_F16};
    phi_team_run(bench->compute.team, bench->compute.priority, blocks, 16, fill_kv, &fill);
    return PHI_OK;
}

static void lay_out_views(session *self, const phi_bench_run *run)
{
    const phi_description *d = &self->bench->description;
    uint32_t pages = phi_bench_run_pages(run);
    for (uint32_t s = 0; s < run->batch; s++) {
        self->views[s] = (phi_kv_view){
            .pages = self->pages + (size_t)s * pages,
            .rope_long = d->rope == PHI_ROPE_LONG && run->context + run->tokens > d->n_ctx_original,
        };
    }
}

/* ---- one repetition ---- */

static int32_t next_token(session *self)
{
    self->token = self->token * 1664525U + 1013904223U;
    return (int32_t)((self->token >> 8) % self->bench->description.n_vocab);
}

static void forward(session *self, uint32_t n_rows)
{
    (void)phi_forward(self->forward, &self->bench->compute, self->weights, self->rows, n_rows,
                      self->views);
}

static phi_status prefill(session *self, uint32_t tokens, phi_err *err)
{
    phi_status status = PHI_OK;
    for (uint32_t at = 0; !status && at < tokens; at += self->bench->batch_tokens) {
        uint32_t left = tokens - at;
        uint32_t n = left < self->bench->batch_tokens ? left : self->bench->batch_tokens;
        for (uint32_t i = 0; i < n; i++) {
            self->rows[i] = (phi_row){.token = next_token(self),
                                      .position = at + i,
                                      .is_prompt = true,
                                      .want_logits = at + i + 1 == tokens};
        }
        forward(self, n);
        status = go_on(self, err);
    }
    return status;
}

static phi_status decode(session *self, const phi_bench_run *run, uint32_t steps, phi_err *err)
{
    phi_status status = PHI_OK;
    for (uint32_t at = 0; !status && at < steps; at++) {
        for (uint32_t s = 0; s < run->batch; s++) {
            self->rows[s] = (phi_row){.token = next_token(self),
                                      .position = run->context + at,
                                      .seq = s,
                                      .want_logits = true};
        }
        forward(self, run->batch);
        status = go_on(self, err);
    }
    return status;
}

static phi_status repeat_once(session *self, const phi_bench_run *run, phi_err *err)
{
    return run->prefill ? prefill(self, run->tokens, err) : decode(self, run, run->tokens, err);
}

/* What a first step pays alone, pages and caches that are cold, is not measured. A few rows touch
 * as much of the weights as many. */
static phi_status warm_up(session *self, const phi_bench_run *run, phi_err *err)
{
    return run->prefill ? prefill(self, run->tokens < WARM_TOKENS ? run->tokens : WARM_TOKENS, err)
                        : decode(self, run, 1, err);
}

static phi_status measure_run(session *self, size_t index, phi_bench_run *run, phi_err *err)
{
    double speeds[PHI_BENCH_REPEAT_MAX];
    uint32_t repeat = self->bench->repeat;
    double tokens = (double)run->tokens * run->batch;
    lay_out_views(self, run);
    phi_forward_ctx_profile(self->forward, NULL);
    phi_status status = warm_up(self, run, err);
    self->profile = (phi_forward_profile){.experts = 0};
    phi_forward_ctx_profile(self->forward, &self->profile);
    for (uint32_t r = 0; !status && r < repeat; r++) {
        (void)snprintf(self->what, sizeof self->what,
                       "run %zu of %zu: %s, batch %u, context %u, repetition %u of %u", index + 1,
                       self->bench->n_runs, run->prefill ? "prefill" : "decode", run->batch,
                       run->context, r + 1, repeat);
        uint64_t began_ns = phi_clock_ns();
        status = repeat_once(self, run, err);
        speeds[r] = tokens * 1e9 / (double)(phi_clock_ns() - began_ns);
    }
    if (status) {
        return status;
    }
    run->tokens_s = phi_bench_summarize(speeds, repeat);
    double sum_ns = 0.0;
    for (int i = 0; i < PHI_FORWARD_PARTS; i++) {
        sum_ns += (double)self->profile.ns[i];
    }
    for (int i = 0; i < PHI_FORWARD_PARTS; i++) {
        run->parts[i] = sum_ns > 0.0 ? (double)self->profile.ns[i] / sum_ns : 0.0;
    }
    return PHI_OK;
}

/* ---- what a run needs at least ---- */

static void add_matrix(const phi_weight *weight, double reads, double rows, phi_bench_run *run)
{
    double ops = 2.0 * (double)weight->rows * (double)weight->cols * rows;
    bool is_int = weight->kind == PHI_WEIGHT_INT4 || weight->kind == PHI_WEIGHT_INT8;
    run->weight_bytes += (double)phi_weight_bytes(weight) * reads;
    *(is_int ? &run->ops_int : &run->ops_float) += ops;
}

/* Which experts are read is known when they have been chosen: read_experts. */
static void add_ffn(const phi_description *d, const phi_layer_weights *layer, double steps,
                    double rows, phi_bench_run *run)
{
    if (d->ffn != PHI_FFN_EXPERTS) {
        add_matrix(&layer->up, steps, rows, run);
        add_matrix(&layer->down, steps, rows, run);
        return;
    }
    double each = rows * PHI_EXPERTS_USED / d->n_expert;
    add_matrix(&layer->router, steps, rows, run);
    add_matrix(&layer->gate, 0.0, each, run);
    add_matrix(&layer->up, 0.0, each, run);
    add_matrix(&layer->down, 0.0, each, run);
}

/* Adds those that a repetition read, each as large as they are on the average. */
static void read_experts(const session *self, phi_bench_run *run)
{
    const phi_description *d = &self->bench->description;
    double bytes = 0.0;
    if (d->ffn != PHI_FFN_EXPERTS) {
        return;
    }
    for (uint32_t l = 0; l < d->n_layer; l++) {
        const phi_layer_weights *layer = &self->weights->layers[l];
        bytes += (double)(phi_weight_bytes(&layer->gate) + phi_weight_bytes(&layer->up) +
                          phi_weight_bytes(&layer->down));
    }
    double each = bytes / d->n_layer / d->n_expert;
    run->weight_bytes += each * (double)self->profile.experts / self->bench->repeat;
}

/* Positions that a query at `position` sees. */
static uint32_t visible(const phi_description *d, uint32_t position)
{
    return d->window && position >= d->window ? d->window : position + 1;
}

/* Each step reads every layer once, whatever its rows; but what follows the last layer's attention
 * is needed only of rows that get logits, which of a prompt is the last one. Each of a step's
 * sequences reads what its last row sees (and, in a chunk longer than the window, what the rows
 * before saw alone, which is left out here: a bound from below). */
static void count_work(const session *self, phi_bench_run *run)
{
    const phi_bench *bench = self->bench;
    const phi_description *d = &bench->description;
    uint32_t chunk = run->prefill ? bench->batch_tokens : 1;
    uint32_t n_steps = (run->tokens + chunk - 1) / chunk;
    double steps = n_steps;
    double rows = (double)run->tokens * run->batch;
    double logits_steps = run->prefill ? 1.0 : steps;
    double logits_rows = run->prefill ? 1.0 : rows;
    for (uint32_t l = 0; l < d->n_layer; l++) {
        const phi_layer_weights *layer = &self->weights->layers[l];
        bool is_last = l + 1 == d->n_layer;
        add_matrix(&layer->qkv, steps, rows, run);
        add_matrix(&layer->out, is_last ? logits_steps : steps, is_last ? logits_rows : rows, run);
        add_ffn(d, layer, is_last ? logits_steps : steps, is_last ? logits_rows : rows, run);
    }
    add_matrix(phi_weights_head(self->weights), logits_steps, logits_rows, run);
    double token_bytes =
        (double)phi_kv_page_bytes(d, bench->kv_type) / (double)PHI_KV_PAGE_TOKENS * run->batch;
    for (uint32_t at = 0; at < run->tokens; at += chunk) {
        uint32_t last = at + chunk < run->tokens ? at + chunk : run->tokens;
        run->kv_bytes += token_bytes * visible(d, run->context + last - 1);
    }
}

/* ---- shares of the ceilings ---- */

/* Seconds that the matrices' arithmetic needs at least; 0 if that is not known. */
static double ops_seconds(const phi_bench_run *run, const phi_ceilings *c)
{
    if ((run->ops_int > 0.0 && c->int8_ops_s <= 0.0) ||
        (run->ops_float > 0.0 && c->fp32_ops_s <= 0.0)) {
        return 0.0;
    }
    double seconds = run->ops_int > 0.0 ? run->ops_int / c->int8_ops_s : 0.0;
    return seconds + (run->ops_float > 0.0 ? run->ops_float / c->fp32_ops_s : 0.0);
}

void phi_bench_share(phi_bench_run *run, const phi_ceilings *c)
{
    double tokens = (double)run->tokens * run->batch;
    double seconds = tokens / run->tokens_s.median;
    double arithmetic_s = ops_seconds(run, c);
    run->read_bytes_s = (run->weight_bytes + run->kv_bytes) / seconds;
    run->ops_s = (run->ops_int + run->ops_float) / seconds;
    run->read_share = run->read_bytes_s / c->read_bytes_s;
    run->ops_share = arithmetic_s / seconds;
    if (run->ops_share > run->read_share) {
        bool is_int =
            run->ops_int > 0.0 && run->ops_int * c->fp32_ops_s > run->ops_float * c->int8_ops_s;
        run->limit = is_int ? PHI_BENCH_LIMIT_INT8 : PHI_BENCH_LIMIT_FP32;
        run->share = run->ops_share;
    } else if (run->ops_share > 0.0 || !run->prefill) {
        run->limit = PHI_BENCH_LIMIT_READ;
        run->share = run->read_share;
    } else {
        /* A prompt is not bound by reading, and what it is bound by is not known. */
        run->limit = PHI_BENCH_LIMIT_UNKNOWN;
        run->share = 0.0;
    }
    double weights_s = run->weight_bytes / c->read_bytes_s;
    double least_s = weights_s > arithmetic_s ? weights_s : arithmetic_s;
    double taken_s = seconds * run->parts[PHI_FORWARD_MATRICES];
    run->matrices_share =
        run->limit != PHI_BENCH_LIMIT_UNKNOWN && taken_s > 0.0 ? least_s / taken_s : 0.0;
}

static double mean_of(double a, double b, double *spread)
{
    double mean = (a + b) / 2.0;
    if (mean > 0.0 && fabs(a - b) / mean > *spread) {
        *spread = fabs(a - b) / mean;
    }
    return mean;
}

static void average_ceilings(phi_bench_report *report)
{
    const phi_ceilings *a = &report->before;
    const phi_ceilings *b = &report->after;
    double *spread = &report->ceilings_spread;
    report->mean = *a;
    report->mean.read_bytes_s = mean_of(a->read_bytes_s, b->read_bytes_s, spread);
    report->mean.int8_ops_s = mean_of(a->int8_ops_s, b->int8_ops_s, spread);
    report->mean.fp32_ops_s = mean_of(a->fp32_ops_s, b->fp32_ops_s, spread);
}

/* ---- all of it ---- */

static void finish(session *self)
{
    phi_forward_ctx_destroy(self->forward);
    phi_weights_destroy(self->weights);
    phi_free(self->kv);
    phi_free(self->pages);
    phi_free(self->views);
    phi_free(self->rows);
}

static phi_status prepare(session *self, phi_err *err)
{
    phi_bench *bench = self->bench;
    phi_status status;
    if (bench->checkpoint) {
        const phi_weights_options options = {
            .run = {.team = bench->compute.team, .progress = on_load, .user = self}};
        status = phi_weights_open(bench->checkpoint, &options, &self->weights, err);
    } else {
        status = phi_synthetic_weights(&bench->compute, &bench->description, &bench->types, on_load,
                                       self, &self->weights, err);
    }
    if (!status) {
        const phi_forward_sizes sizes = {.kv_type = bench->kv_type,
                                         .n_tok_max = bench->n_tok_max,
                                         .n_logits_max = bench->n_logits_max,
                                         .n_threads = phi_team_size(bench->compute.team)};
        status = phi_forward_ctx_create(&bench->description, &sizes, &self->forward, err);
    }
    self->views = phi_alloc_zero(bench->n_logits_max, sizeof *self->views);
    self->rows = phi_alloc_zero(bench->n_tok_max, sizeof *self->rows);
    return status ? status : make_kv(self, err);
}

static phi_status measure_ceilings(session *self, const char *when, phi_ceilings *out_ceilings,
                                   phi_err *err)
{
    (void)snprintf(self->what, sizeof self->what, "ceilings, %s", when);
    phi_status status = go_on(self, err);
    return status ? status
                  : phi_ceilings_measure(self->bench->compute.team, &self->bench->ceilings,
                                         out_ceilings, err);
}

phi_status phi_bench_measure(phi_bench *bench, phi_bench_progress progress, void *user,
                             phi_bench_report *out_report, phi_err *err)
{
    session self = {.bench = bench, .progress = progress, .user = user, .token = 1};
    phi_bench_report *report = phi_alloc_zero(1, sizeof *report);
    phi_status status = measure_ceilings(&self, "before", &report->before, err);
    uint64_t began_ns = phi_clock_ns();
    status = status ? status : prepare(&self, err);
    report->load_s = (double)(phi_clock_ns() - began_ns) * 1e-9;
    if (!status) {
        report->weights_bytes = phi_weights_bytes(self.weights);
        report->n_runs = bench->n_runs;
        memcpy(report->runs, bench->runs, bench->n_runs * sizeof *bench->runs);
    }
    for (size_t i = 0; !status && i < report->n_runs; i++) {
        count_work(&self, &report->runs[i]);
        status = measure_run(&self, i, &report->runs[i], err);
        read_experts(&self, &report->runs[i]);
    }
    finish(&self);
    status = status ? status : measure_ceilings(&self, "after", &report->after, err);
    if (!status) {
        average_ceilings(report);
        for (size_t i = 0; i < report->n_runs; i++) {
            phi_bench_share(&report->runs[i], &report->mean);
        }
        *out_report = *report;
    }
    phi_free(report);
    return status;
}
