/*
 * Purpose: what bench.c, which plans, and bench_runs.c, which measures, share.
 * Owns:    see bench.h. Threads: [job]. Errors: see bench.h.
 * Limits:  only engine/bench includes this.
 */
#ifndef PHI_ENGINE_BENCH_BENCH_INTERNAL_H
#define PHI_ENGINE_BENCH_BENCH_INTERNAL_H

#include "engine/bench/bench.h"
#include "engine/bench/synthetic.h"
#include "engine/formats/checkpoint.h"
#include "engine/model/memplan.h"

struct phi_bench {
    phi_compute compute;
    phi_description description;
    phi_checkpoint *checkpoint; /* NULL: synthetic */
    phi_synthetic_types types;
    phi_weight_kind layer_kind;
    phi_kv_type kv_type;
    uint64_t file_bytes;
    phi_ceilings_options ceilings;
    uint32_t batch_tokens;
    uint32_t repeat;
    uint32_t n_tok_max;
    uint32_t n_logits_max;
    uint32_t kv_pages; /* of the largest run */
    uint32_t left_out_batch;
    uint32_t left_out_context;
    phi_memplan memory;
    size_t n_runs;
    phi_bench_run runs[PHI_BENCH_RUNS_MAX]; /* what is to be measured */
};

/* Pages of one sequence of a run. */
uint32_t phi_bench_run_pages(const phi_bench_run *run);
/* Speeds and shares of a run whose work is counted and whose time is taken. */
void phi_bench_share(phi_bench_run *run, const phi_ceilings *ceilings);

#endif
