/* What is to be measured, and whether it fits; bench_runs.c measures it. */
#include "engine/bench/bench.h"

#include "base/assert.h"
#include "base/mem.h"
#include "config/limits.h"
#include "engine/bench/bench_internal.h"
#include "engine/formats/hf_names.h"
#include "engine/formats/tensor_rows.h"
#include "engine/kernels/machine.h"

#include <stdio.h>
#include <string.h>

enum {
    PROMPT_DEFAULT = 512,
    GENERATE_DEFAULT = 64,
    BATCH_TOKENS_DEFAULT = 256,
    REPEAT_DEFAULT = 3,
    CONTEXT_DEFAULT = 4096,
};

uint32_t phi_bench_run_pages(const phi_bench_run *run)
{
    return (run->context + run->tokens + PHI_KV_PAGE_TOKENS - 1) / PHI_KV_PAGE_TOKENS;
}

const char *phi_bench_limit_name(phi_bench_limit limit)
{
    switch (limit) {
    case PHI_BENCH_LIMIT_READ:
        return "read";
    case PHI_BENCH_LIMIT_INT8:
        return "int8";
    case PHI_BENCH_LIMIT_FP32:
        return "fp32";
    case PHI_BENCH_LIMIT_UNKNOWN:
        return "unknown";
    }
    PHI_UNREACHABLE();
}

/* ---- the model ---- */

static phi_status open_file(phi_bench *bench, const phi_bench_options *options, phi_err *err)
{
    if (options->precision || options->layers > 0) {
        const char *option = options->precision ? "precision" : "layers";
        return phi_fail_param(err, PHI_E_INVALID, option,
                              "%s is for synthetic models; a file has its own", option);
    }
    phi_status status = phi_checkpoint_open(options->path, &bench->checkpoint, err);
    if (status) {
        return status;
    }
    bench->description = *phi_checkpoint_description(bench->checkpoint);
    bench->file_bytes = phi_checkpoint_bytes(bench->checkpoint);
    const phi_tensor *matrix = phi_checkpoint_find(bench->checkpoint, "blk.0.attn_qkv.weight");
    bench->layer_kind = matrix ? phi_tensor_form(matrix).kind : PHI_WEIGHT_FP32;
    return PHI_OK;
}

static phi_status open_synthetic(phi_bench *bench, const phi_bench_options *options, phi_err *err)
{
    phi_status status =
        phi_synthetic_describe(options->synthetic, options->layers, &bench->description, err);
    if (!status) {
        status = phi_synthetic_types_of(options->precision ? options->precision : "int4",
                                        &bench->types, err);
    }
    if (!status) {
        bench->layer_kind = phi_form_of(bench->types.layers).kind;
        bench->file_bytes = phi_synthetic_bytes(&bench->description, &bench->types);
    }
    return status;
}

static const char *const kv_type_names[] = PHI_KV_TYPE_NAMES;

static phi_status choose_kv(phi_bench *bench, const char *name, phi_err *err)
{
    if (!name) {
        bench->kv_type = bench->layer_kind == PHI_WEIGHT_FP32 ? PHI_KV_F32 : PHI_KV_F16;
        return PHI_OK;
    }
    for (size_t i = 0; i < sizeof kv_type_names / sizeof kv_type_names[0]; i++) {
        if (strcmp(name, kv_type_names[i]) == 0) {
            bench->kv_type = (phi_kv_type)i;
            return PHI_OK;
        }
    }
    return phi_fail_param(
        err, PHI_E_INVALID, "kv_type",
        "there is no type '%.60s' of keys and values; there are f16, f32 and int8", name);
}

/* ---- the runs ---- */

static phi_status plan_memory(const phi_bench *bench, uint32_t kv_pages, phi_memplan *out_plan,
                              phi_err *err)
{
    const phi_memplan_sizes sizes = {.kv_type = bench->kv_type,
                                     .kv_tokens = kv_pages * PHI_KV_PAGE_TOKENS,
                                     .n_tok_max = bench->n_tok_max,
                                     .n_logits_max = bench->n_logits_max,
                                     .n_threads = phi_team_size(bench->compute.team)};
    return phi_memplan_make_for(&bench->description, bench->file_bytes, &sizes, out_plan, err);
}

static phi_status check_length(const phi_bench *bench, const char *what, uint64_t tokens,
                               phi_err *err)
{
    if (tokens > bench->description.n_ctx) {
        return phi_fail_param(err, PHI_E_INVALID, what,
                              "%llu tokens (%s) are more than the model's context of %u",
                              (unsigned long long)tokens, what, bench->description.n_ctx);
    }
    return PHI_OK;
}

static void add_run(phi_bench *bench, const phi_bench_run *run)
{
    PHI_ASSERT(bench->n_runs < PHI_BENCH_RUNS_MAX);
    bench->runs[bench->n_runs++] = *run;
    /* At most the longest context in the largest batch: far from 2^32. */
    uint32_t pages = phi_bench_run_pages(run) * run->batch;
    bench->kv_pages = pages > bench->kv_pages ? pages : bench->kv_pages;
}

static phi_status add_prefill(phi_bench *bench, uint32_t prompt, phi_err *err)
{
    uint32_t n_ctx = bench->description.n_ctx;
    if (prompt == PHI_BENCH_NONE) {
        return PHI_OK;
    }
    if (prompt == 0) {
        prompt = n_ctx < PROMPT_DEFAULT ? n_ctx : PROMPT_DEFAULT;
    }
    phi_status status = check_length(bench, "prompt", prompt, err);
    if (!status) {
        add_run(bench, &(phi_bench_run){.prefill = true, .batch = 1, .tokens = prompt});
    }
    return status;
}

/* A run that was not asked for is left out where memory does not hold it. */
static bool is_too_large(const phi_bench *bench, const phi_bench_run *run)
{
    phi_memplan plan;
    uint64_t pages = (uint64_t)phi_bench_run_pages(run) * run->batch;
    return pages > UINT32_MAX / PHI_KV_PAGE_TOKENS ||
           plan_memory(bench, (uint32_t)pages, &plan, NULL) != PHI_OK;
}

static phi_status add_decode(phi_bench *bench, const phi_bench_options *options, phi_err *err)
{
    uint32_t n_ctx = bench->description.n_ctx;
    uint32_t steps = options->generate;
    if (steps == PHI_BENCH_NONE) {
        return PHI_OK;
    }
    if (steps == 0) {
        steps = n_ctx < GENERATE_DEFAULT ? n_ctx : GENERATE_DEFAULT;
    }
    phi_status status = check_length(bench, "generate", steps, err);
    phi_bench_list batches = options->batches;
    phi_bench_list contexts = options->contexts;
    if (batches.count == 0) {
        batches = (phi_bench_list){{1, 8}, 2};
    }
    if (contexts.count == 0 && !status) {
        uint32_t room = n_ctx - steps;
        contexts = (phi_bench_list){{0, room < CONTEXT_DEFAULT ? room : CONTEXT_DEFAULT}, 2};
        contexts.count = room > 0 ? 2 : 1;
    }
    for (size_t c = 0; !status && c < contexts.count; c++) {
        status =
            check_length(bench, "context and generate", (uint64_t)contexts.items[c] + steps, err);
        for (size_t b = 0; !status && b < batches.count; b++) {
            const phi_bench_run run = {
                .batch = batches.items[b], .context = contexts.items[c], .tokens = steps};
            if (c > 0 && options->contexts.count == 0 && is_too_large(bench, &run)) {
                bench->left_out_batch = run.batch;
                bench->left_out_context = run.context;
            } else {
                add_run(bench, &run);
            }
        }
    }
    return status;
}

static phi_status check_sizes(const phi_bench_options *options, phi_err *err)
{
    for (size_t i = 0; i < options->batches.count; i++) {
        uint32_t batch = options->batches.items[i];
        if (batch == 0 || batch > PHI_LIMIT_BATCH_TOKENS) {
            return phi_fail_param(err, PHI_E_INVALID, "batch",
                                  "a batch of %u sequences; 1 to %u are possible", batch,
                                  PHI_LIMIT_BATCH_TOKENS);
        }
    }
    if (options->batch_tokens > PHI_LIMIT_BATCH_TOKENS) {
        return phi_fail_param(err, PHI_E_INVALID, "batch_tokens",
                              "%u tokens in a step; at most %u are possible", options->batch_tokens,
                              PHI_LIMIT_BATCH_TOKENS);
    }
    if (options->repeat > PHI_BENCH_REPEAT_MAX) {
        return phi_fail_param(err, PHI_E_INVALID, "repeat",
                              "%u repetitions; at most %u are possible", options->repeat,
                              PHI_BENCH_REPEAT_MAX);
    }
    PHI_ASSERT(options->batches.count <= PHI_BENCH_LIST_MAX);
    PHI_ASSERT(options->contexts.count <= PHI_BENCH_LIST_MAX);
    return PHI_OK;
}

/* Rows of a step and of logits, from the options and their defaults. */
static void size_steps(phi_bench *bench, const phi_bench_options *options)
{
    bench->repeat = options->repeat ? options->repeat : REPEAT_DEFAULT;
    bench->batch_tokens = options->batch_tokens ? options->batch_tokens : BATCH_TOKENS_DEFAULT;
    bench->n_logits_max = options->batches.count == 0 ? 8 : 1;
    for (size_t i = 0; i < options->batches.count; i++) {
        uint32_t batch = options->batches.items[i];
        bench->n_logits_max = batch > bench->n_logits_max ? batch : bench->n_logits_max;
    }
    bench->n_tok_max =
        bench->batch_tokens > bench->n_logits_max ? bench->batch_tokens : bench->n_logits_max;
}

phi_status phi_bench_open(const phi_compute *compute, const phi_bench_options *options,
                          phi_bench **out_bench, phi_err *err)
{
    phi_bench *bench = phi_alloc_zero(1, sizeof *bench);
    bench->compute = *compute;
    bench->ceilings = (phi_ceilings_options){.set = compute->kernels->name,
                                             .read_bytes = options->ceiling_bytes,
                                             .duration_ms = options->ceiling_ms};
    phi_status status = check_sizes(options, err);
    size_steps(bench, options);
    if (!status) {
        status =
            options->path ? open_file(bench, options, err) : open_synthetic(bench, options, err);
    }
    status = status ? status : choose_kv(bench, options->kv_type, err);
    status = status ? status : add_prefill(bench, options->prompt, err);
    status = status ? status : add_decode(bench, options, err);
    status = status ? status : plan_memory(bench, bench->kv_pages, &bench->memory, err);
    if (!status && bench->n_runs == 0) {
        status = phi_fail(err, PHI_E_INVALID, "neither a prompt nor steps: nothing to measure");
    }
    if (status) {
        phi_bench_close(bench);
        return status;
    }
    *out_bench = bench;
    return PHI_OK;
}

void phi_bench_close(phi_bench *bench)
{
    if (bench) {
        phi_checkpoint_close(bench->checkpoint);
        phi_free(bench);
    }
}

static uint64_t count_parameters(const phi_description *d)
{
    uint64_t count = 0;
    for (int i = 0; i < PHI_PART_COUNT; i++) {
        phi_part part = (phi_part)i;
        uint32_t rows[PHI_PART_PIECES_MAX];
        uint32_t cols = 0;
        uint32_t pieces = phi_part_is_of(part, d) ? phi_part_shape(part, d, rows, &cols) : 0;
        uint64_t times = phi_part_in_layer(part) ? d->n_layer : 1;
        for (uint32_t k = 0; k < pieces; k++) {
            count += times * rows[k] * (phi_part_is_vector(part) ? 1 : cols);
        }
    }
    return count;
}

void phi_bench_about_get(const phi_bench *bench, phi_bench_about *out_about)
{
    const phi_description *d = &bench->description;
    *out_about = (phi_bench_about){
        .isa = bench->compute.kernels->name,
        .threads = phi_team_size(bench->compute.team),
        .format = bench->checkpoint ? phi_checkpoint_format(bench->checkpoint) : "synthetic",
        .kind = phi_weight_kind_name(bench->layer_kind),
        .kv_type = kv_type_names[bench->kv_type],
        .n_layer = d->n_layer,
        .batch_tokens = bench->batch_tokens,
        .repeat = bench->repeat,
        .parameters = count_parameters(d),
        .weights_bytes = bench->memory.weights_bytes,
        .kv_bytes = bench->memory.kv_bytes,
        .scratch_bytes = bench->memory.scratch_bytes,
        .available_bytes = bench->memory.available_bytes,
        .left_out_batch = bench->left_out_batch,
        .left_out_context = bench->left_out_context,
    };
    phi_machine_cpu_name(out_about->cpu, sizeof out_about->cpu);
    (void)snprintf(out_about->model, sizeof out_about->model, "%s", d->name);
}
