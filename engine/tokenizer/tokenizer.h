/*
 * Purpose: text to token ids and back, for both kinds of tokenizer in the Phi family: byte-level
 *          BPE (phi-2, Phi-4, Phi-4-mini) and SentencePiece-style BPE with byte fallback (Phi-3).
 * Owns:    the vocabulary, merges, compiled patterns and the chat template's source.
 * Threads: read-only after open: [any], any number at a time.
 * Errors:  the file and field are named.
 * Limits:  PHI_LIMIT_TOKENIZER_JSON_BYTES, PHI_LIMIT_TEXT_BYTES, PHI_LIMIT_PIECE_BYTES.
 *
 * Rules and test vectors: Hugging Face tokenizers (tokenizer.json) and llama.cpp (GGUF) are the
 * references; tests/golden and the unit tests say which.
 */
#ifndef PHI_ENGINE_TOKENIZER_TOKENIZER_H
#define PHI_ENGINE_TOKENIZER_TOKENIZER_H

#include "base/buf.h"
#include "base/status.h"
#include "engine/formats/checkpoint.h"
#include "engine/formats/gguf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct phi_tokenizer phi_tokenizer;

typedef struct phi_tokens {
    int32_t *ids;
    size_t count;
    size_t capacity;
} phi_tokens;

void phi_tokens_init(phi_tokens *tokens);
void phi_tokens_done(phi_tokens *tokens);
phi_status phi_tokens_append(phi_tokens *tokens, const int32_t *ids, size_t count) PHI_MUST_CHECK;

/* From a directory with tokenizer.json (and tokenizer_config.json, chat_template.jinja if there).
 */
phi_status phi_tokenizer_open_dir(const char *dir, phi_tokenizer **out_tokenizer,
                                  phi_err *err) PHI_MUST_CHECK;
/* From GGUF metadata: "tokenizer.huggingface.json" if present, else tokenizer.ggml.*. */
phi_status phi_tokenizer_open_gguf(const phi_gguf *gguf, phi_tokenizer **out_tokenizer,
                                   phi_err *err) PHI_MUST_CHECK;
/* Whichever of the two the checkpoint has. */
phi_status phi_tokenizer_open(const phi_checkpoint *checkpoint, phi_tokenizer **out_tokenizer,
                              phi_err *err) PHI_MUST_CHECK;
void phi_tokenizer_destroy(phi_tokenizer *tokenizer);

/* Largest id + 1 over vocabulary and added tokens (the model's n_vocab may be larger). */
uint32_t phi_tokenizer_vocab_size(const phi_tokenizer *tokenizer);
int32_t phi_tokenizer_bos(const phi_tokenizer *tokenizer); /* -1: none */
int32_t phi_tokenizer_eos(const phi_tokenizer *tokenizer); /* of tokenizer_config; -1: none */
bool phi_tokenizer_adds_bos(const phi_tokenizer *tokenizer);
/* Exact content ("<|end|>", "▁the", "Ġthe") to id; -1 when there is none. */
int32_t phi_tokenizer_find(const phi_tokenizer *tokenizer, const char *piece);
/* True for control tokens (special), which are not shown in answers. */
bool phi_tokenizer_is_special(const phi_tokenizer *tokenizer, int32_t id);
/* True when the id stands for something: padding rows of the model's vocabulary do not. */
bool phi_tokenizer_is_known(const phi_tokenizer *tokenizer, int32_t id);
/* The token as it stands in the vocabulary, NUL-terminated; NULL when unknown. */
const char *phi_tokenizer_piece(const phi_tokenizer *tokenizer, int32_t id);

/* What may be recognised as an added token in the text. */
typedef enum phi_parse_mode {
    PHI_PARSE_PLAIN,  /* user text: control tokens are ordinary characters; non-special added
                         tokens (phi-2's runs of spaces) are still matched, unless they look like
                         a tag ("</s>", "<|tool|>") */
    PHI_PARSE_SPECIAL /* trusted text: every added token is matched */
} phi_parse_mode;

typedef struct phi_encode_options {
    phi_parse_mode mode;
    bool add_bos; /* puts bos first where the tokenizer's own files say so */
} phi_encode_options;

/* Appends the ids of `text` (UTF-8; invalid UTF-8 is PHI_E_INVALID). */
phi_status phi_tokenizer_encode(const phi_tokenizer *tokenizer, const char *text, size_t bytes,
                                const phi_encode_options *options, phi_tokens *out_tokens,
                                phi_err *err) PHI_MUST_CHECK;

/* A run of text that is trusted (the template's own) or not (what users wrote). */
typedef struct phi_text_span {
    const char *text;
    size_t bytes;
    bool trusted;
} phi_text_span;

/* Encodes the concatenation of the spans, as the reference encodes the joined text, except that
 * a control token is only recognised where all of its characters are trusted. */
phi_status phi_tokenizer_encode_spans(const phi_tokenizer *tokenizer, const phi_text_span *spans,
                                      size_t count, phi_tokens *out_tokens,
                                      phi_err *err) PHI_MUST_CHECK;

/* Whole-sequence decoding, as the reference does: invalid UTF-8 becomes U+FFFD (for byte tokens of
 * a SentencePiece vocabulary one for each invalid byte; the valid characters of a partly invalid
 * run are kept, so that decoding in pieces gives the same). Nothing is "cleaned up" afterwards. */
phi_status phi_tokenizer_decode(const phi_tokenizer *tokenizer, const int32_t *ids, size_t count,
                                bool skip_special, phi_buf *out_text) PHI_MUST_CHECK;

/* Incremental decoding: pushes never yield half a character; what is held back comes with a later
 * push or with finish. The concatenation of all outputs is what decode gives. */
typedef struct phi_detokenizer {
    const phi_tokenizer *tokenizer;
    bool skip_special;
    bool at_start;   /* SentencePiece: the first space of the whole text is dropped */
    uint8_t held[4]; /* an incomplete character */
    uint8_t held_bytes;
} phi_detokenizer;

/* `continues` is true when the output continues a text (a prompt): no leading space is dropped. */
void phi_detokenizer_init(phi_detokenizer *detokenizer, const phi_tokenizer *tokenizer,
                          bool skip_special, bool continues);
/* Appends the text that has become complete to `out_text`. */
phi_status phi_detokenizer_push(phi_detokenizer *detokenizer, int32_t id,
                                phi_buf *out_text) PHI_MUST_CHECK;
phi_status phi_detokenizer_finish(phi_detokenizer *detokenizer, phi_buf *out_text) PHI_MUST_CHECK;

/* The raw bytes of one token (not necessarily whole characters), for logprobs' "bytes". */
phi_status phi_tokenizer_token_bytes(const phi_tokenizer *tokenizer, int32_t id,
                                     phi_buf *out_bytes) PHI_MUST_CHECK;

/* Source of the chat template (Jinja), or NULL; see chat.h. */
const char *phi_tokenizer_chat_template(const phi_tokenizer *tokenizer);

/* Writes tokenizer.ggml.* (as llama.cpp reads it), tokenizer.chat_template, and
 * tokenizer.huggingface.json when the source was a tokenizer.json. Pads the vocabulary with unused
 * entries up to `n_vocab`. */
phi_status phi_tokenizer_put_gguf(const phi_tokenizer *tokenizer, uint32_t n_vocab,
                                  phi_gguf_writer *writer, phi_err *err) PHI_MUST_CHECK;

/* Writes the tokenizer's files of a Hugging Face folder into `dir`: tokenizer.json (the one that a
 * GGUF holds, or rebuilt from its arrays, with the same ids), tokenizer_config.json with the chat
 * template, special_tokens_map.json and, for a SentencePiece vocabulary, tokenizer.model. `n_ctx`
 * is the model's longest text. */
phi_status phi_tokenizer_write_folder(const phi_tokenizer *tokenizer, uint32_t n_ctx,
                                      const char *dir, phi_err *err) PHI_MUST_CHECK;

#endif
