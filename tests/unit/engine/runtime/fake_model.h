/*
 * A model and tokenizer made of arithmetic, standing in for engine/model, engine/tokenizer and the
 * team, so that the runtime can be tested alone and its results known exactly.
 *
 * Each position's "key" is a hash of its token, its place and the rope regime, written into the
 * page that the runtime gave. The logits of a row are pseudo-random numbers seeded by a hash of all
 * keys that it may see. So a page lost, mixed up, stale, freed too early, or computed in the wrong
 * regime changes the tokens that come out.
 */
#ifndef TESTS_FAKE_MODEL_H
#define TESTS_FAKE_MODEL_H

#include "engine/model/weights.h"
#include "engine/runtime/scheduler.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    FAKE_VOCAB = 64,
    FAKE_KNOWN = 60, /* ids from here on are padding */
    FAKE_EOS = 1,    /* special: "<|end|>" */
};

typedef struct fake_settings {
    uint32_t n_ctx;
    uint32_t window;
    uint32_t n_ctx_original; /* 0: no LongRoPE */
    /* Not NULL: at position p the most likely next token is script[p]. */
    const int32_t *script;
    uint32_t n_script;
    int32_t nan_at;            /* position whose logits are NaN; -1: none */
    const char *const *pieces; /* [n_pieces] text of the tokens from 2 on; NULL: letters */
    uint32_t n_pieces;
} fake_settings;

/* Call before a scheduler starts. */
void fake_reset(void);
extern fake_settings fake;
extern phi_weights fake_weights; /* description filled in by fake_reset and fake_describe */
void fake_describe(void);
const phi_tokenizer *fake_tokenizer(void);

/* Steps taken, and the rows of each. */
extern atomic_uint fake_steps;
extern atomic_uint fake_rows_max;
extern int32_t fake_first_token[64]; /* of the first row of each of the first steps */
/* While held, the engine's thread waits at the beginning of its next step. */
void fake_hold(void);
void fake_let_go(void);
/* Waits until the engine's thread stands at the gate. */
void fake_wait_at_gate(void);

/* The next token by definition: greedy, computed from the tokens alone, without pages. */
int32_t fake_next(const int32_t *tokens, uint32_t n_tokens);
/* The logits after the last of the tokens. */
void fake_logits(const int32_t *tokens, uint32_t n_tokens, float *out);

#endif
