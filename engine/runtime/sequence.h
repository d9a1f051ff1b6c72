/*
 * Purpose: one sequence being generated: everything that belongs to it alone. Its public face is
 *          phi_generation of generation.h.
 * Owns:    its tokens, page table, sampler, emitter and event ring, all allocated at creation.
 * Threads: created by the thread that submits; then [engine]'s, except for the consumer's side of
 *          the ring, `cancelled` and `terminal_ready`, which are atomic.
 * Errors:  creation checks every option and names it.
 * Limits:  config/limits.h, "generation".
 */
#ifndef PHI_ENGINE_RUNTIME_SEQUENCE_H
#define PHI_ENGINE_RUNTIME_SEQUENCE_H

#include "base/status.h"
#include "engine/runtime/emitter.h"
#include "engine/runtime/events.h"
#include "engine/runtime/generation.h"
#include "engine/runtime/kv.h"
#include "engine/runtime/sampler.h"
#include "engine/runtime/scheduler.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum phi_seq_state {
    PHI_SEQ_WAITING,   /* never admitted, in a client's line */
    PHI_SEQ_PREEMPTED, /* gave its pages back, goes on before any that waits */
    PHI_SEQ_RUNNING,
    PHI_SEQ_ENDED,
} phi_seq_state;

struct phi_generation {
    atomic_uint refs; /* the consumer's and the scheduler's */
    atomic_bool cancelled;
    atomic_bool terminal_ready; /* released after `terminal` is written, acquired before reading */
    phi_scheduler *scheduler;
    phi_served *served; /* [engine] only: gone after the terminal event */
    void *user;
    uint64_t client;

    /* The sequence: prompt, then answer. */
    int32_t *tokens; /* [n_prompt + n_new_max] */
    uint32_t n_prompt;
    uint32_t n_new_max;
    uint32_t n_tokens;
    uint32_t n_done;          /* positions whose keys and values are computed */
    uint32_t n_counted;       /* of the prompt, computed at least once: for statistics */
    uint32_t n_prompt_events; /* prompt tokens told */
    bool rope_long;
    phi_kv_table kv;

    int n_top; /* -1: no log probabilities */
    bool prompt_logprobs;
    bool ignore_eos;
    phi_sampler sampler;
    phi_emitter emitter;
    phi_detokenizer prompt_detokenizer;
    phi_buf prompt_text;
    phi_event_ring ring;

    phi_generation_event terminal;
    bool terminal_taken; /* consumer's */

    /* [engine] */
    phi_seq_state state;
    bool paused;  /* its ring was full when last looked at */
    uint64_t age; /* order of first admission, 0 before */
    uint64_t submit_ns;
    uint64_t admit_ns;
    uint64_t first_token_ns;

    /* queue.h's and the mailbox's links */
    phi_generation *next;        /* the same client's next, or the next in a list */
    phi_generation *line_last;   /* of a line's first: its last */
    phi_generation *next_client; /* of a line's first: the next client's line */
};

/* What creation needs to know of the model. */
typedef struct phi_seq_model {
    const phi_tokenizer *tokenizer;
    uint32_t n_ctx;
    uint32_t n_ctx_original; /* LongRoPE's; 0: no LongRoPE */
    uint32_t n_vocab;
    uint32_t piece_bytes_max;
} phi_seq_model;

/* Two references: the caller gives one to the scheduler. */
phi_status phi_seq_create(const phi_seq_model *model, const phi_generation_options *options,
                          phi_generation **out_seq, phi_err *err) PHI_MUST_CHECK;
void phi_seq_unref(phi_generation *seq);

/* [engine] Writes and publishes the terminal event. `error` for FAILED, else NULL. The ring needs
 * no room. */
void phi_seq_finish(phi_generation *seq, phi_finish_reason reason, const phi_err *error);

/* Still waiting for its reader: `paused` alone may be out of date. */
static inline bool phi_seq_is_paused(phi_generation *seq)
{
    return seq->paused && phi_event_ring_starved(&seq->ring);
}

/* Positions to compute before the sequence can go on: the last is the one to sample from, unless
 * nothing is to be sampled. */
static inline uint32_t phi_seq_target(const phi_generation *seq)
{
    return seq->n_new_max ? seq->n_tokens : seq->n_prompt - 1;
}

#endif
