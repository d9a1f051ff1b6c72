/*
 * Purpose: finds added tokens ("<|end|>", phi-2's runs of spaces) in a text.
 * Owns:    its sorted list and the texts that it looks for.
 * Threads: read-only after finish: [any].
 * Errors:  PHI_E_NO_MEMORY.
 * Limits:  PHI_LIMIT_VOCAB tokens.
 */
#ifndef PHI_ENGINE_TOKENIZER_ADDED_H
#define PHI_ENGINE_TOKENIZER_ADDED_H

#include "base/status.h"
#include "engine/tokenizer/pattern.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct phi_added_token {
    int32_t id;
    char *text; /* what is looked for (normalized where the token says so) */
    size_t bytes;
    bool control; /* only in trusted text */
    bool single_word;
    bool lstrip;
    bool rstrip;
} phi_added_token;

typedef struct phi_added_set {
    phi_added_token *tokens; /* by text, after finish */
    size_t count;
    size_t capacity;
    size_t first[257]; /* tokens that begin with byte b are [first[b], first[b + 1]) */
    bool ready;
    phi_pattern *word_char; /* for single_word; NULL when no token needs it */
} phi_added_set;

void phi_added_done(phi_added_set *set);
/* Copies token->text. Texts of no bytes are never found and are left out. */
phi_status phi_added_add(phi_added_set *set, const phi_added_token *token) PHI_MUST_CHECK;
phi_status phi_added_finish(phi_added_set *set, phi_err *err) PHI_MUST_CHECK;

/* A hit and the stretch that it covers, white space that it swallows included. */
typedef struct phi_added_hit {
    int32_t id;
    size_t begin;
    size_t end;
} phi_added_hit;

/* The leftmost, then longest, token at or after `start`. `trust` marks the bytes of `text` in which
 * control tokens count. Sets *out_found. */
phi_status phi_added_find(const phi_added_set *set, phi_pattern_work *work, const char *text,
                          const char *trust, size_t bytes, size_t start, bool *out_found,
                          phi_added_hit *out_hit, phi_err *err) PHI_MUST_CHECK;

#endif
