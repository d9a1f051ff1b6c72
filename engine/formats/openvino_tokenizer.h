/*
 * Purpose: tokenizer.json in the terms of openvino_tokenizers' operations.
 * Owns:    a phi_ov_tokenizer owns what it read, from init to done; what points into the JSON lives
 *          as long.
 * Threads: one.
 * Errors:  a step or token that these operations cannot do is PHI_E_UNSUPPORTED and named.
 * Limits:  PHI_LIMIT_TOKENIZER_JSON_BYTES, PHI_LIMIT_VOCAB, PHI_OV_STEPS_MAX.
 */
#ifndef PHI_ENGINE_FORMATS_OPENVINO_TOKENIZER_H
#define PHI_ENGINE_FORMATS_OPENVINO_TOKENIZER_H

#include "base/buf.h"
#include "base/status.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define PHI_OV_STEPS_MAX 8U

/* A list of strings as these operations take it: begins, ends, characters. */
typedef struct phi_ov_strings {
    phi_buf begins;
    phi_buf ends;
    phi_buf chars;
    uint32_t count;
} phi_ov_strings;

typedef struct phi_ov_replacement {
    const char *pattern; /* a regular expression */
    const char *by;
} phi_ov_replacement;

typedef struct phi_ov_tokenizer {
    json_t *root;
    const json_t *added;
    bool byte_level;
    bool byte_fallback;
    bool fuse_unk;
    phi_ov_strings vocab;
    phi_ov_strings left; /* of merges */
    phi_ov_strings right;
    phi_ov_strings special; /* all added tokens ... */
    phi_buf special_ids;
    phi_buf skipped_ids; /* ... and those that text leaves out */
    phi_buf split;       /* the pattern that finds added tokens */
    char *owned[PHI_OV_STEPS_MAX * 3];
    uint32_t owned_count;
    phi_ov_replacement normalizers[PHI_OV_STEPS_MAX];
    uint32_t n_normalizers;
    const char *words[PHI_OV_STEPS_MAX];
    uint32_t n_words;
    phi_ov_replacement decoders[PHI_OV_STEPS_MAX]; /* before ByteFallback */
    uint32_t n_decoders;
    bool strips;    /* a space at the beginning */
    phi_buf prefix; /* ids that are put before and after a text */
    phi_buf suffix;
} phi_ov_tokenizer;

void phi_ov_tokenizer_init(phi_ov_tokenizer *t);
/* Reads the file. */
phi_status phi_ov_tokenizer_read(phi_ov_tokenizer *t, const char *path,
                                 phi_err *err) PHI_MUST_CHECK;
void phi_ov_tokenizer_done(phi_ov_tokenizer *t);

#endif
