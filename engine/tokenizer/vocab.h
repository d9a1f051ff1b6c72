/*
 * Purpose: the pieces of a vocabulary by id and by text.
 * Owns:    the arrays and the index; the pieces themselves live in the arena given at init.
 * Threads: one while it is filled; any number of readers afterwards.
 * Errors:  the file and the piece or id are named.
 * Limits:  PHI_LIMIT_VOCAB ids, PHI_LIMIT_PIECE_BYTES each.
 */
#ifndef PHI_ENGINE_TOKENIZER_VOCAB_H
#define PHI_ENGINE_TOKENIZER_VOCAB_H

#include "base/status.h"
#include "base/strmap.h"
#include "engine/formats/arena.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The numbers are GGUF's token types. */
typedef enum phi_token_kind {
    PHI_TOKEN_ABSENT = 0,
    PHI_TOKEN_NORMAL = 1,
    PHI_TOKEN_UNKNOWN = 2,
    PHI_TOKEN_CONTROL = 3,
    PHI_TOKEN_USER_DEFINED = 4,
    PHI_TOKEN_UNUSED = 5,
    PHI_TOKEN_BYTE = 6,
} phi_token_kind;

typedef struct phi_token {
    const char *piece; /* NULL: no such id */
    uint32_t bytes;
    uint8_t kind;  /* phi_token_kind */
    bool in_model; /* the merge model may produce it; false: only added tokens do */
    int16_t byte;  /* value of a byte token, else -1 */
} phi_token;

typedef struct phi_vocab {
    const char *label; /* file name for messages; a view */
    phi_arena *arena;
    phi_token *tokens; /* [size] */
    uint32_t size;     /* largest id + 1 */
    uint32_t capacity;
    uint32_t piece_bytes_max;
    phi_strmap *index; /* piece -> id */
} phi_vocab;

phi_status phi_vocab_init(phi_vocab *vocab, phi_arena *arena, const char *label, size_t expected,
                          phi_err *err) PHI_MUST_CHECK;
void phi_vocab_done(phi_vocab *vocab);
/* Gives `id` its piece. An id or a piece that is taken already is PHI_E_FORMAT, except that the
 * same pair again only changes the kind (a file lists some added tokens twice). */
phi_status phi_vocab_add(phi_vocab *vocab, int64_t id, const char *piece, size_t bytes,
                         phi_token_kind kind, bool in_model, phi_err *err) PHI_MUST_CHECK;
/* -1 when there is none. */
int32_t phi_vocab_find(const phi_vocab *vocab, const char *piece, size_t bytes);
/* Only pieces of the merge model. */
int32_t phi_vocab_find_in_model(const phi_vocab *vocab, const char *piece, size_t bytes);
/* NULL for ids that stand for nothing. */
const phi_token *phi_vocab_at(const phi_vocab *vocab, int64_t id);
/* Id of "<0xHH>"; -1 when there is none. */
int32_t phi_vocab_find_byte(const phi_vocab *vocab, uint8_t byte);

#endif
