/*
 * Purpose: one sequence through phi_forward, with pages, for the tests of engine/model.
 * Owns:    runner owns its context and pages from runner_init to runner_done; weights, kernels and
 *          team are borrowed.
 * Threads: one.
 * Errors:  a failed step fails the running test.
 * Limits:  RUNNER_PAGES pages of keys and values.
 */
#ifndef PHI_TESTS_MODEL_RUNNER_H
#define PHI_TESTS_MODEL_RUNNER_H

#include "engine/model/forward.h"

#define RUNNER_PAGES 32
#define RUNNER_TOKENS 128

typedef struct runner {
    const phi_weights *weights;
    phi_compute compute;
    phi_forward_ctx *ctx;
    void *pages[RUNNER_PAGES];
    uint32_t n_done;
    uint32_t n_prompt; /* tokens from here on count as generated; UINT32_MAX at first */
    bool rope_long;
} runner;

void runner_init(runner *r, const phi_weights *weights, const phi_kernels *kernels, phi_team *team,
                 phi_kv_type kv_type);
void runner_done(runner *r);
/* Forgets everything, and decides which LongRoPE factors a text of `n_tokens` uses. */
void runner_restart(runner *r, uint32_t n_tokens);
/* Computes `n` more tokens in steps of at most `step`; the logits after the last one are valid
 * until the next call. */
const float *runner_feed(runner *r, const int32_t *tokens, uint32_t n, uint32_t step);
/* The logits after the last of tokens[0..n), computing what is not done yet: all of it again where
 * LongRoPE's switch lies between. */
const float *runner_extend(runner *r, const int32_t *tokens, uint32_t n, uint32_t step);
int32_t runner_best(const runner *r, const float *logits);

#endif
