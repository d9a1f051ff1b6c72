/*
 * Purpose: cuts a fragment into the words that merges stay within.
 * Owns:    its compiled patterns.
 * Threads: read-only once filled: [any]; phi_pattern_work belongs to one thread.
 * Errors:  those of the patterns and of the caller's word function.
 * Limits:  PHI_PRETOKENIZE_STEPS_MAX steps.
 */
#ifndef PHI_ENGINE_TOKENIZER_PRETOKENIZE_H
#define PHI_ENGINE_TOKENIZER_PRETOKENIZE_H

#include "base/status.h"
#include "engine/tokenizer/pattern.h"

#include <stdbool.h>
#include <stddef.h>

#define PHI_PRETOKENIZE_STEPS_MAX 16

/* GPT-2's expression, which ByteLevel with use_regex stands for. */
#define PHI_PATTERN_GPT2                                                                           \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define PHI_PATTERN_CL100K                                                                         \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"                      \
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define PHI_PATTERN_O200K                                                                          \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"    \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"                                                               \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*"    \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"                                                               \
    "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

typedef enum phi_pretokenize_kind {
    PHI_PRETOKENIZE_ISOLATE,      /* matches and what lies between are words */
    PHI_PRETOKENIZE_KEEP_MATCHES, /* only matches */
    PHI_PRETOKENIZE_KEEP_GAPS,    /* only what lies between */
    PHI_PRETOKENIZE_PREFIX_SPACE, /* a space before every word that does not begin with one */
    PHI_PRETOKENIZE_METASPACE,    /* spaces become U+2581; one in front as `scheme` says */
} phi_pretokenize_kind;

typedef enum phi_metaspace_scheme {
    PHI_METASPACE_ALWAYS,
    PHI_METASPACE_FIRST, /* only at the beginning of the whole text */
    PHI_METASPACE_NEVER,
} phi_metaspace_scheme;

typedef struct phi_pretokenize_step {
    phi_pretokenize_kind kind;
    phi_pattern *pattern; /* NULL for the last two kinds */
    phi_metaspace_scheme scheme;
    bool split; /* METASPACE: a word begins at each U+2581 */
} phi_pretokenize_step;

typedef struct phi_pretokenizer {
    phi_pretokenize_step steps[PHI_PRETOKENIZE_STEPS_MAX];
    size_t count;
} phi_pretokenizer;

typedef phi_status (*phi_word_fn)(void *context, const char *text, size_t bytes);

typedef struct phi_pretokenize_run {
    phi_pattern_work *work;
    bool at_text_start; /* the fragment is the beginning of the whole text */
    phi_word_fn word;
    void *context;
} phi_pretokenize_run;

void phi_pretokenizer_done(phi_pretokenizer *pretokenizer);
/* Takes step->pattern over, also on failure; PHI_E_LIMIT when there are too many steps. */
phi_status phi_pretokenizer_add(phi_pretokenizer *pretokenizer,
                                const phi_pretokenize_step *step) PHI_MUST_CHECK;
phi_status phi_pretokenizer_run(const phi_pretokenizer *pretokenizer,
                                const phi_pretokenize_run *run, const char *text, size_t bytes,
                                phi_err *err) PHI_MUST_CHECK;

#endif
