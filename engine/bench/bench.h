/*
 * Purpose: how fast a model computes here, and what share of the machine's ceilings that is.
 * Owns:    phi_bench owns the description, the plan and, while it runs, weights and KV memory.
 * Threads: [job]; arithmetic runs on the team at inference priority.
 * Errors:  options are named; what cannot fit in memory is refused with numbers at open, before
 *          anything is loaded. PHI_E_CANCELLED when the progress callback says stop.
 * Limits:  PHI_BENCH_LIST_MAX batch sizes and contexts.
 *
 * Ceilings are measured before and after the runs, with no model in memory. A run's share is the
 * time that the machine would need at its ceilings, divided by the time that it took. What is
 * needed at least: every weight of the step and every visible key and value read once, and the
 * matrices' multiply-adds; whichever of the two takes longer.
 */
#ifndef PHI_ENGINE_BENCH_BENCH_H
#define PHI_ENGINE_BENCH_BENCH_H

#include "base/status.h"
#include "config/limits.h"
#include "engine/bench/summary.h"
#include "engine/kernels/ceiling.h"
#include "engine/kernels/matmul.h"
#include "engine/model/forward.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PHI_BENCH_LIST_MAX 8U
#define PHI_BENCH_RUNS_MAX (1U + PHI_BENCH_LIST_MAX * PHI_BENCH_LIST_MAX)
#define PHI_BENCH_REPEAT_MAX 1000U
/* For prompt and generate: no such run. */
#define PHI_BENCH_NONE UINT32_MAX

typedef struct phi_bench_list {
    uint32_t items[PHI_BENCH_LIST_MAX];
    size_t count;
} phi_bench_list;

typedef struct phi_bench_options {
    const char *path;        /* a file or folder, or NULL, and then ... */
    const char *synthetic;   /* ... "phi-3-mini", "phi-4", ... with weights of ... */
    const char *precision;   /* ... "int4", "int8", "fp16", "bf16" or "fp32" */
    uint32_t layers;         /* of a synthetic model; 0: all */
    const char *kv_type;     /* "fp16", "fp32"; NULL: as the model would be served */
    uint32_t prompt;         /* tokens; 0: 512, or as many as the model's context holds */
    uint32_t generate;       /* steps; 0: 64, or as many as the model's context holds */
    uint32_t batch_tokens;   /* tokens of a prompt in one step; 0: 256 */
    uint32_t repeat;         /* 0: 3 */
    phi_bench_list batches;  /* sequences of a decode step; none: 1, 8 */
    phi_bench_list contexts; /* tokens before the first decode step; none: 0, and 4096 or what the
                                model's context and memory hold */
    uint64_t ceiling_bytes;  /* of phi_ceilings_options; 0: its own defaults */
    uint32_t ceiling_ms;
} phi_bench_options;

typedef struct phi_bench_about {
    char cpu[128]; /* as the system calls it; "unknown" */
    const char *isa;
    unsigned threads;
    char model[PHI_LIMIT_NAME_BYTES]; /* may be "" */
    const char *format;               /* "gguf", "safetensors", "pytorch", "synthetic" */
    const char *kind;                 /* of the layers' matrices: "INT4" */
    const char *kv_type;              /* "fp16" */
    uint32_t n_layer;
    uint32_t batch_tokens;
    uint32_t repeat;
    uint64_t parameters;
    uint64_t weights_bytes; /* as planned, as are the next three */
    uint64_t kv_bytes;
    uint64_t scratch_bytes;
    uint64_t available_bytes;
    uint32_t left_out_batch; /* of a default run that memory does not hold, or 0 */
    uint32_t left_out_context;
} phi_bench_about;

typedef enum phi_bench_limit {
    PHI_BENCH_LIMIT_UNKNOWN, /* the kernel set's ceiling is not known */
    PHI_BENCH_LIMIT_READ,
    PHI_BENCH_LIMIT_INT8,
    PHI_BENCH_LIMIT_FP32,
} phi_bench_limit;

const char *phi_bench_limit_name(phi_bench_limit limit); /* "read", "int8", "fp32", "unknown" */

typedef struct phi_bench_run {
    bool prefill;        /* else decode */
    uint32_t batch;      /* sequences */
    uint32_t context;    /* tokens before */
    uint32_t tokens;     /* of a prompt, or steps */
    double weight_bytes; /* read at least in one repetition, ... */
    double kv_bytes;     /* ... with these of keys and values */
    double ops_int;      /* of INT4 and INT8 matrices in one repetition */
    double ops_float;    /* of the others */
    phi_bench_summary tokens_s;
    double read_bytes_s; /* at the median, as is the next */
    double ops_s;
    double parts[PHI_FORWARD_PARTS]; /* of the time; together 1 */
    phi_bench_limit limit;           /* which ceiling `share` is of */
    double share;                    /* 0 when the limit is unknown */
    double read_share;               /* of reading alone */
    double ops_share;                /* of arithmetic alone; 0 when unknown */
    double matrices_share;           /* `share` of the matrices in their own part of the time */
} phi_bench_run;

typedef struct phi_bench_report {
    phi_ceilings before;
    phi_ceilings after;
    phi_ceilings mean;      /* what shares are of */
    double ceilings_spread; /* the largest relative difference of before and after */
    double load_s;
    uint64_t weights_bytes; /* held */
    size_t n_runs;
    phi_bench_run runs[PHI_BENCH_RUNS_MAX];
} phi_bench_report;

typedef struct phi_bench phi_bench;

/* Called often; `what` says what goes on, and false ends it. May be NULL. */
typedef bool (*phi_bench_progress)(void *user, const char *what);

/* Opens headers only. What the options hold must live until the bench is closed. */
phi_status phi_bench_open(const phi_compute *compute, const phi_bench_options *options,
                          phi_bench **out_bench, phi_err *err) PHI_MUST_CHECK;
void phi_bench_close(phi_bench *bench);
void phi_bench_about_get(const phi_bench *bench, phi_bench_about *out_about);
phi_status phi_bench_measure(phi_bench *bench, phi_bench_progress progress, void *user,
                             phi_bench_report *out_report, phi_err *err) PHI_MUST_CHECK;

#endif
