/*
 * Purpose: what a tokenizer file does to text before it is split: prepend and replace.
 * Owns:    copies of its strings.
 * Threads: read-only once filled: [any].
 * Errors:  PHI_E_LIMIT when the text would grow past the cap, PHI_E_NO_MEMORY.
 * Limits:  PHI_NORMALIZE_STEPS_MAX steps; the result is at most 4 * PHI_LIMIT_TEXT_BYTES long.
 */
#ifndef PHI_ENGINE_TOKENIZER_NORMALIZE_H
#define PHI_ENGINE_TOKENIZER_NORMALIZE_H

#include "base/buf.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>

#define PHI_NORMALIZE_STEPS_MAX 16

/* Text with a trust mark for each byte: 1 where a control token may be recognised. */
typedef struct phi_marked {
    phi_buf text;
    phi_buf trust; /* as long as text */
} phi_marked;

void phi_marked_init(phi_marked *marked);
void phi_marked_done(phi_marked *marked);
void phi_marked_append(phi_marked *marked, const char *text, size_t bytes, bool trusted);
bool phi_marked_failed(const phi_marked *marked);

typedef struct phi_normalize_step {
    char *find; /* NULL: prepend `put` to every text that is not empty */
    size_t find_bytes;
    char *put;
    size_t put_bytes;
} phi_normalize_step;

typedef struct phi_normalizer {
    phi_normalize_step steps[PHI_NORMALIZE_STEPS_MAX];
    size_t count;
} phi_normalizer;

void phi_normalizer_done(phi_normalizer *normalizer);
/* `find` NULL: prepend. PHI_E_LIMIT when there are too many steps. */
phi_status phi_normalizer_add(phi_normalizer *normalizer, const char *find,
                              const char *put) PHI_MUST_CHECK;
/* Appends the normalized text. `trust` has a mark for each byte of `text`. */
phi_status phi_normalizer_run(const phi_normalizer *normalizer, const char *text, const char *trust,
                              size_t bytes, phi_marked *out) PHI_MUST_CHECK;

#endif
