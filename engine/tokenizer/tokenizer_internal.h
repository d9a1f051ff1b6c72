/*
 * Purpose: what the files of this directory share: the tokenizer's insides and its loaders. Not for
 *          other modules.
 * Owns:    see tokenizer.h.
 * Threads: as tokenizer.h.
 * Errors:  as tokenizer.h.
 * Limits:  as tokenizer.h.
 */
#ifndef PHI_ENGINE_TOKENIZER_TOKENIZER_INTERNAL_H
#define PHI_ENGINE_TOKENIZER_TOKENIZER_INTERNAL_H

#include "engine/formats/arena.h"
#include "engine/tokenizer/added.h"
#include "engine/tokenizer/bpe.h"
#include "engine/tokenizer/normalize.h"
#include "engine/tokenizer/pretokenize.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/vocab.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PHI_METASPACE "\xe2\x96\x81" /* U+2581, SentencePiece's mark for a space */
#define PHI_METASPACE_BYTES 3

/* Tokens that a post-processor puts before the text. */
#define PHI_TOKENIZER_PREFIX_MAX 4
/* Entries of added_tokens_decoder; real files have about a hundred. */
#define PHI_TOKENIZER_ADDED_DECODER_MAX 4096

/* How pieces become text again. */
typedef struct phi_decoder {
    bool byte_level;    /* pieces spell bytes, GPT-2's way */
    bool spaces;        /* U+2581 stands for a space */
    bool byte_fallback; /* "<0xHH>" is a byte */
    bool strip_start;   /* one space at the very beginning is dropped */
    bool drop_first;    /* Metaspace: the first token's marks are dropped */
} phi_decoder;

/* An added token as the files state it, before it is put into the vocabulary and the sets. */
typedef struct phi_added_entry {
    int64_t id;
    char *content;
    bool single_word;
    bool lstrip;
    bool rstrip;
    bool normalized;
    bool special;
} phi_added_entry;

typedef struct phi_added_list {
    phi_added_entry *entries;
    size_t count;
    size_t capacity;
} phi_added_list;

struct phi_tokenizer {
    char *label; /* file name for messages */
    phi_arena arena;
    phi_vocab vocab;
    phi_bpe bpe;
    phi_normalizer normalizer;
    phi_pretokenizer pretokenizer;
    phi_added_set added;            /* looked for in the raw text */
    phi_added_set added_normalized; /* looked for in normalized text */
    phi_decoder decoder;

    int32_t bos_id;
    int32_t eos_id;
    int32_t unk_id;
    int32_t pad_id;
    bool adds_bos;
    int32_t prefix[PHI_TOKENIZER_PREFIX_MAX]; /* what add_bos puts first */
    size_t prefix_count;

    float *scores; /* [vocab.size] of a GGUF that has them, else NULL */
    char *chat_template;
    char *json; /* source text of tokenizer.json, else NULL */
    size_t json_bytes;
};

/* An empty tokenizer with the ids at -1. */
phi_tokenizer *phi_tokenizer_create_empty(const char *label);

/* tokenizer.json's text and, when there is one, the parsed tokenizer_config.json. */
phi_status phi_tokenizer_load_json(const char *text, size_t bytes, const json_t *config,
                                   const char *label, phi_tokenizer **out_tokenizer,
                                   phi_err *err) PHI_MUST_CHECK;

/* The parts of tokenizer.json (load_json_parts.c); NULL and null mean none. */
phi_status phi_tokenizer_load_normalizer(phi_tokenizer *tokenizer, const json_t *json,
                                         phi_err *err) PHI_MUST_CHECK;
phi_status phi_tokenizer_load_pretokenizer(phi_tokenizer *tokenizer, const json_t *json,
                                           phi_err *err) PHI_MUST_CHECK;
phi_status phi_tokenizer_load_decoder(phi_tokenizer *tokenizer, const json_t *json,
                                      phi_err *err) PHI_MUST_CHECK;
phi_status phi_tokenizer_load_postprocessor(phi_tokenizer *tokenizer, const json_t *json,
                                            phi_err *err) PHI_MUST_CHECK;
/* Adds a split by `pattern` whose matches and gaps are all words. */
phi_status phi_tokenizer_add_split(phi_tokenizer *tokenizer, const char *pattern, const char *where,
                                   phi_err *err) PHI_MUST_CHECK;

/* Added tokens (load_added.c). */
void phi_added_list_done(phi_added_list *list);
phi_status phi_added_list_load(phi_added_list *list, const json_t *root, const json_t *config,
                               const char *label, phi_err *err) PHI_MUST_CHECK;
phi_status phi_added_list_append(phi_added_list *list, const phi_added_entry *entry,
                                 phi_err *err) PHI_MUST_CHECK;
/* Puts them into the vocabulary and the search sets. */
phi_status phi_tokenizer_put_added(phi_tokenizer *tokenizer, const phi_added_list *list,
                                   phi_err *err) PHI_MUST_CHECK;

/* What tokenizer_config.json adds: bos, eos, add_bos_token, chat_template. */
phi_status phi_tokenizer_apply_config(phi_tokenizer *tokenizer, const json_t *config,
                                      phi_err *err) PHI_MUST_CHECK;

/* Scores of ids below `count`, at least the vocabulary's, of these phi_token_kind; `out_scores`
 * comes zeroed. */
phi_status phi_tokenizer_scores(const phi_tokenizer *tokenizer, const int32_t *types,
                                uint32_t count, float *out_scores, phi_err *err) PHI_MUST_CHECK;

/* tokenizer.json of a tokenizer that did not come from one (json_decref). */
phi_status phi_tokenizer_make_json(const phi_tokenizer *tokenizer, json_t **out_json,
                                   phi_err *err) PHI_MUST_CHECK;
/* tokenizer_config.json's added_tokens_decoder (json_decref). */
phi_status phi_tokenizer_make_added(const phi_tokenizer *tokenizer, json_t **out_json,
                                    phi_err *err) PHI_MUST_CHECK;

/* Encodes `text`, in which control tokens count where `trust` has 1 for all of their bytes. */
phi_status phi_tokenizer_encode_marked(const phi_tokenizer *tokenizer, const char *text,
                                       const char *trust, size_t bytes, phi_tokens *out_tokens,
                                       phi_err *err) PHI_MUST_CHECK;

#endif
