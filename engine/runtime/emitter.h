/*
 * Purpose: tokens to text that may be shown: whole characters, and nothing of a stop string.
 * Owns:    copies of the stop strings and the text held back.
 * Threads: one at a time.
 * Errors:  init only; a bad stop string names "stop".
 * Limits:  PHI_LIMIT_STOP_STRINGS, PHI_LIMIT_STOP_BYTES. Pushing allocates nothing.
 *
 * Text that could be the beginning of a stop string is held back until it is clear that it is not.
 * Which stop string ends the answer does not depend on how the text was cut into tokens: it is the
 * one that is complete first; of several complete at the same byte, the longest.
 */
#ifndef PHI_ENGINE_RUNTIME_EMITTER_H
#define PHI_ENGINE_RUNTIME_EMITTER_H

#include "base/buf.h"
#include "base/status.h"
#include "engine/runtime/generation.h"
#include "engine/tokenizer/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct phi_emitter {
    phi_detokenizer detokenizer;
    phi_buf pending; /* starts with what was emitted last, then what is held back */
    size_t emitted_bytes;
    char stop[PHI_LIMIT_STOP_STRINGS][PHI_LIMIT_STOP_BYTES + 1];
    size_t stop_bytes[PHI_LIMIT_STOP_STRINGS];
    size_t n_stop;
    bool stopped; /* a stop string is complete */
} phi_emitter;

/* Longest text of one token, and longest text that one call can give, for a tokenizer whose
 * longest piece is `piece_bytes`. */
uint32_t phi_emitter_token_text_max(uint32_t piece_bytes);
uint32_t phi_emitter_text_max(uint32_t piece_bytes);

phi_status phi_emitter_init(phi_emitter *emitter, const phi_tokenizer *tokenizer,
                            const phi_generation_options *options, uint32_t piece_bytes,
                            phi_err *err) PHI_MUST_CHECK;
void phi_emitter_done(phi_emitter *emitter);

/* Adds a token; the view is valid until the next call. After a push that sets `stopped`, no more
 * is to be pushed. */
phi_status phi_emitter_push(phi_emitter *emitter, int32_t token, const char **out_text,
                            size_t *out_bytes) PHI_MUST_CHECK;
/* The end: what was held back, an incomplete character as U+FFFD. */
phi_status phi_emitter_finish(phi_emitter *emitter, const char **out_text,
                              size_t *out_bytes) PHI_MUST_CHECK;

/* A buffer that can take `bytes` bytes without allocating. */
phi_status phi_emitter_buf_init(phi_buf *buf, size_t bytes) PHI_MUST_CHECK;

#endif
