#include "server/cmd_bench_report.h"

#include <inttypes.h>
#include <stdio.h>

/* From here on before and after differ so much that shares say little. */
#define SPREAD_NOTED 0.1

#define MB(bytes) ((double)(bytes)*1e-6)
#define GIGA(number) ((number)*1e-9)

/* ---- text ---- */

void phi_bench_print_machine(const phi_bench_about *about)
{
    (void)printf("machine   %s, %u thread%s, kernels %s\n", about->cpu, about->threads,
                 about->threads == 1 ? "" : "s", about->isa);
}

void phi_bench_print_model(const char *path, const phi_bench_about *about)
{
    (void)printf("model     %s%s%s, %s, %s, %" PRIu32
                 " layer%s, %.1f M parameters, keys and values "
                 "%s\n",
                 path ? path : about->model, path && about->model[0] ? ": " : "",
                 path ? about->model : "", about->format, about->kind, about->n_layer,
                 about->n_layer == 1 ? "" : "s", (double)about->parameters * 1e-6, about->kv_type);
    (void)printf("memory    weights %.1f MB, KV cache %.1f MB, scratch %.1f MB; %.1f MB are "
                 "available\n",
                 MB(about->weights_bytes), MB(about->kv_bytes), MB(about->scratch_bytes),
                 MB(about->available_bytes));
    if (about->left_out_batch > 0) {
        (void)printf("          left out, for their keys and values do not fit: runs up to batch "
                     "%" PRIu32 ", context %" PRIu32 "\n",
                     about->left_out_batch, about->left_out_context);
    }
    (void)fflush(stdout);
}

/* "1739.9" or "unknown". */
static void print_ceiling(const char *name, const char *instruction, double before, double after,
                          double mean)
{
    if (mean > 0.0) {
        (void)printf("          %-5s %9.1f GOP/s, %s (before %.1f, after %.1f)\n", name, GIGA(mean),
                     instruction, GIGA(before), GIGA(after));
    } else {
        (void)printf("          %-5s   unknown for this kernel set\n", name);
    }
}

static void print_ceilings(const phi_bench_report *report)
{
    const phi_ceilings *a = &report->before;
    const phi_ceilings *b = &report->after;
    const phi_ceilings *mean = &report->mean;
    (void)printf("ceilings  read  %9.1f GB/s, over %.0f MB (before %.1f, after %.1f)\n",
                 GIGA(mean->read_bytes_s), MB(mean->read_bytes), GIGA(a->read_bytes_s),
                 GIGA(b->read_bytes_s));
    print_ceiling("int8", mean->int8_name, a->int8_ops_s, b->int8_ops_s, mean->int8_ops_s);
    print_ceiling("fp32", mean->fp32_name, a->fp32_ops_s, b->fp32_ops_s, mean->fp32_ops_s);
    if (report->ceilings_spread > SPREAD_NOTED) {
        (void)printf(
            "          before and after differ by %.0f%%: something else ran meanwhile, or "
            "the clock changed; shares are uncertain by as much\n",
            100.0 * report->ceilings_spread);
    }
}

static void print_share(double share, phi_bench_limit limit)
{
    if (limit == PHI_BENCH_LIMIT_UNKNOWN) {
        (void)printf("  %6s", "-");
    } else {
        (void)printf("  %5.1f%%", 100.0 * share);
    }
}

static void print_run(const phi_bench_run *run)
{
    (void)printf("%-8s %5" PRIu32 " %8" PRIu32 " %7" PRIu32 " %10.2f %6.1f%% %8.2f %9.1f",
                 run->prefill ? "prefill" : "decode", run->batch, run->context, run->tokens,
                 run->tokens_s.median, 100.0 * run->tokens_s.spread, GIGA(run->read_bytes_s),
                 GIGA(run->ops_s));
    print_share(run->share, run->limit);
    (void)printf(" %-7s", phi_bench_limit_name(run->limit));
    (void)printf(" %7.1f%% %8.1f%% %5.1f%%", 100.0 * run->parts[PHI_FORWARD_MATRICES],
                 100.0 * run->parts[PHI_FORWARD_ATTENTION], 100.0 * run->parts[PHI_FORWARD_REST]);
    print_share(run->matrices_share, run->limit);
    (void)printf("\n");
}

void phi_bench_print_report(const phi_bench_report *report)
{
    print_ceilings(report);
    (void)printf("\n%-8s %5s %8s %7s %10s %7s %8s %9s  %6s %-7s %8s %9s %6s  %s\n", "run", "batch",
                 "context", "tokens", "tokens/s", "spread", "GB/s", "GOP/s", "share", "of",
                 "matrices", "attention", "rest", "matrices' share");
    for (size_t i = 0; i < report->n_runs; i++) {
        print_run(&report->runs[i]);
    }
    (void)fflush(stdout);
}

/* ---- JSON ---- */

/* null for what is not known. */
static json_t *number_or_null(double value)
{
    return value > 0.0 ? json_real(value) : json_null();
}

static json_t *ceilings_json(const phi_ceilings *c)
{
    return json_pack("{s:f, s:o, s:o}", "read_bytes_per_s", c->read_bytes_s, "int8_ops_per_s",
                     number_or_null(c->int8_ops_s), "fp32_ops_per_s",
                     number_or_null(c->fp32_ops_s));
}

static json_t *run_json(const phi_bench_run *run)
{
    bool known = run->limit != PHI_BENCH_LIMIT_UNKNOWN;
    json_t *speed =
        json_pack("{s:f, s:f, s:f, s:f}", "median", run->tokens_s.median, "min", run->tokens_s.min,
                  "max", run->tokens_s.max, "spread", run->tokens_s.spread);
    json_t *time =
        json_pack("{s:f, s:f, s:f}", "matrices", run->parts[PHI_FORWARD_MATRICES], "attention",
                  run->parts[PHI_FORWARD_ATTENTION], "rest", run->parts[PHI_FORWARD_REST]);
    json_t *share = json_pack("{s:o, s:s, s:f, s:o, s:o}", "of_limit",
                              known ? json_real(run->share) : json_null(), "limit",
                              phi_bench_limit_name(run->limit), "read", run->read_share,
                              "arithmetic", number_or_null(run->ops_share), "matrices",
                              known ? json_real(run->matrices_share) : json_null());
    return json_pack("{s:s, s:I, s:I, s:I, s:o, s:f, s:f, s:f, s:f, s:o, s:o}", "kind",
                     run->prefill ? "prefill" : "decode", "batch", (json_int_t)run->batch,
                     "context", (json_int_t)run->context, "tokens", (json_int_t)run->tokens,
                     "tokens_per_s", speed, "weight_bytes", run->weight_bytes, "kv_bytes",
                     run->kv_bytes, "bytes_per_s", run->read_bytes_s, "ops_per_s", run->ops_s,
                     "share", share, "time", time);
}

static json_t *memory_json(const phi_bench_about *about)
{
    return json_pack("{s:I, s:I, s:I, s:I}", "weights_bytes", (json_int_t)about->weights_bytes,
                     "kv_bytes", (json_int_t)about->kv_bytes, "scratch_bytes",
                     (json_int_t)about->scratch_bytes, "available_bytes",
                     (json_int_t)about->available_bytes);
}

json_t *phi_bench_json(const char *path, const phi_bench_about *about,
                       const phi_bench_report *report)
{
    json_t *runs = json_array();
    for (size_t i = 0; i < report->n_runs; i++) {
        (void)json_array_append_new(runs, run_json(&report->runs[i]));
    }
    json_t *ceilings = json_pack(
        "{s:o, s:o, s:o, s:f, s:I, s:s, s:s}", "before", ceilings_json(&report->before), "after",
        ceilings_json(&report->after), "mean", ceilings_json(&report->mean), "spread",
        report->ceilings_spread, "read_over_bytes", (json_int_t)report->mean.read_bytes,
        "int8_instruction", report->mean.int8_name, "fp32_instruction", report->mean.fp32_name);
    json_t *model =
        json_pack("{s:s?, s:s, s:s, s:s, s:s, s:I, s:I, s:I}", "path", path, "name", about->model,
                  "format", about->format, "kind", about->kind, "kv_type", about->kv_type, "layers",
                  (json_int_t)about->n_layer, "parameters", (json_int_t)about->parameters,
                  "weights_bytes", (json_int_t)report->weights_bytes);
    return json_pack("{s:o, s:o, s:f, s:I, s:I, s:o, s:o}", "model", model, "memory",
                     memory_json(about), "load_s", report->load_s, "batch_tokens",
                     (json_int_t)about->batch_tokens, "repeat", (json_int_t)about->repeat,
                     "ceilings", ceilings, "runs", runs);
}
