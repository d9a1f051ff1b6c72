/*
 * Purpose: continuous batching: one thread that lets all running sequences take each step together.
 * Owns:    the scheduler thread, queues, KV pages; phi_served owns one model's runtime state.
 * Threads: the functions here are [any] unless they say otherwise; the loop is [engine].
 * Errors:  see generation.h.
 * Limits:  options below, capped by config/limits.h.
 *
 * A step takes the next token of every running sequence of a model, then fills the rest of the
 * token budget with chunks of prompts, so that a long prompt never stalls streams. When pages run
 * out the youngest sequence gives its pages back and is recomputed later; it never fails for that.
 */
#ifndef PHI_ENGINE_RUNTIME_SCHEDULER_H
#define PHI_ENGINE_RUNTIME_SCHEDULER_H

#include "engine/kernels/matmul.h"
#include "engine/model/forward.h"
#include "engine/model/weights.h"
#include "engine/runtime/generation.h"
#include "engine/tokenizer/tokenizer.h"

typedef struct phi_scheduler_options {
    phi_compute compute;      /* borrowed */
    uint32_t running_max;     /* sequences in one batch */
    uint32_t waiting_max;     /* beyond it submit answers PHI_E_BUSY */
    uint32_t batch_tokens;    /* rows of a step */
    void (*wake)(void *user); /* called from [engine] when events are waiting; coalesced */
    void *wake_user;
} phi_scheduler_options;

typedef struct phi_scheduler phi_scheduler;
typedef struct phi_served phi_served; /* a model being served */

phi_status phi_scheduler_create(const phi_scheduler_options *options, phi_scheduler **out_scheduler,
                                phi_err *err) PHI_MUST_CHECK;
/* Cancels what runs, waits for the thread, frees. All generations must have been released. */
void phi_scheduler_destroy(phi_scheduler *scheduler);

typedef struct phi_served_options {
    const phi_weights *weights;     /* borrowed until phi_served_remove returns */
    const phi_tokenizer *tokenizer; /* same */
    const int32_t *stop_tokens;     /* ids that end an answer; copied */
    size_t n_stop_tokens;
    phi_kv_type kv_type;
    uint32_t kv_tokens; /* tokens of KV cache in all, rounded up to pages */
    uint32_t n_ctx;     /* longest sequence; at most the model's */
} phi_served_options;

phi_status phi_served_add(phi_scheduler *scheduler, const phi_served_options *options,
                          phi_served **out_served, phi_err *err) PHI_MUST_CHECK;
/* Rows of one step that get logits, at most. */
uint32_t phi_served_logits_rows(uint32_t running_max, uint32_t batch_tokens);
/* Longest sequence: n_ctx, or less where the KV cache holds less. */
uint32_t phi_served_n_ctx(const phi_served *served);
/* Refuses new sequences and waits for the model's own to end: [job], not [loop]. */
void phi_served_drain(phi_served *served);
/* Refuses new sequences, cancels the model's running ones, waits for them: [job], not [loop]. */
void phi_served_remove(phi_served *served);

phi_status phi_scheduler_submit(phi_scheduler *scheduler, phi_served *served,
                                const phi_generation_options *options,
                                phi_generation **out_generation, phi_err *err) PHI_MUST_CHECK;

typedef struct phi_scheduler_stats {
    uint32_t running;
    uint32_t waiting;
    uint64_t kv_pages_used;
    uint64_t kv_pages_total;
    uint64_t prompt_tokens;    /* since start */
    uint64_t generated_tokens; /* since start */
    uint64_t steps;
    uint64_t step_rows;   /* rows computed: step_rows / steps is the mean batch */
    uint64_t preemptions; /* sequences that gave their pages back */
    uint64_t busy_ns;     /* time spent in steps */
} phi_scheduler_stats;

void phi_scheduler_stats_get(phi_scheduler *scheduler, phi_scheduler_stats *out_stats);

#endif
