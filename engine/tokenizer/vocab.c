#include "engine/tokenizer/vocab.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "config/limits.h"

phi_status phi_vocab_init(phi_vocab *vocab, phi_arena *arena, const char *label, size_t expected,
                          phi_err *err)
{
    *vocab = (phi_vocab){.label = label, .arena = arena};
    vocab->index = phi_strmap_create(expected);
    if (!vocab->index) {
        return phi_fail(err, PHI_E_NO_MEMORY, "%s: not enough memory for the vocabulary", label);
    }
    return PHI_OK;
}

void phi_vocab_done(phi_vocab *vocab)
{
    phi_free(vocab->tokens);
    phi_strmap_destroy(vocab->index);
    vocab->tokens = NULL;
    vocab->index = NULL;
}

static phi_status grow(phi_vocab *vocab, uint32_t id, phi_err *err)
{
    if (id < vocab->capacity) {
        return PHI_OK;
    }
    uint32_t capacity = vocab->capacity ? vocab->capacity : 1024;
    while (capacity <= id) {
        capacity *= 2;
    }
    phi_token *tokens = phi_try_realloc(vocab->tokens, (size_t)capacity * sizeof *tokens);
    if (!tokens) {
        return phi_fail(err, PHI_E_NO_MEMORY, "%s: not enough memory for %u tokens", vocab->label,
                        capacity);
    }
    memset(tokens + vocab->capacity, 0, (capacity - vocab->capacity) * sizeof *tokens);
    vocab->tokens = tokens;
    vocab->capacity = capacity;
    return PHI_OK;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'A' && c <= 'F') {
        return c - 'A' + 10;
    }
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Value of "<0xHH>", or -1. */
static int16_t byte_value(const char *piece, size_t bytes)
{
    if (bytes != 6 || memcmp(piece, "<0x", 3) != 0 || piece[5] != '>') {
        return -1;
    }
    int high = hex_digit(piece[3]);
    int low = hex_digit(piece[4]);
    return high < 0 || low < 0 ? -1 : (int16_t)(high * 16 + low);
}

static phi_status check_piece(const phi_vocab *vocab, int64_t id, const char *piece, size_t bytes,
                              phi_err *err)
{
    if (id < 0 || id >= PHI_LIMIT_VOCAB) {
        return phi_fail(err, PHI_E_LIMIT, "%s: token id %" PRId64 " is outside 0..%u", vocab->label,
                        id, PHI_LIMIT_VOCAB - 1);
    }
    if (bytes > PHI_LIMIT_PIECE_BYTES) {
        return phi_fail(err, PHI_E_LIMIT, "%s: token %" PRId64 " is longer than %u bytes",
                        vocab->label, id, PHI_LIMIT_PIECE_BYTES);
    }
    if (!phi_utf8_valid(piece, bytes)) {
        return phi_fail(err, PHI_E_FORMAT, "%s: token %" PRId64 " is not valid UTF-8", vocab->label,
                        id);
    }
    /* Pieces are handed out as C strings; their byte NUL is spelt "<0x00>" or in another letter. */
    if (memchr(piece, '\0', bytes)) {
        return phi_fail(err, PHI_E_FORMAT, "%s: token %" PRId64 " holds a NUL character",
                        vocab->label, id);
    }
    return PHI_OK;
}

phi_status phi_vocab_add(phi_vocab *vocab, int64_t id, const char *piece, size_t bytes,
                         phi_token_kind kind, bool in_model, phi_err *err)
{
    phi_status status = check_piece(vocab, id, piece, bytes, err);
    if (status == PHI_OK) {
        status = grow(vocab, (uint32_t)id, err);
    }
    if (status != PHI_OK) {
        return status;
    }
    phi_token *token = &vocab->tokens[id];
    if (token->piece) {
        if (token->bytes == bytes && memcmp(token->piece, piece, bytes) == 0) {
            token->kind = (uint8_t)kind;
            return PHI_OK;
        }
        return phi_fail(err, PHI_E_FORMAT,
                        "%s: token id %" PRId64 " is given to \"%.40s\" and to \"%.40s\"",
                        vocab->label, id, token->piece, piece);
    }
    char *copy = phi_arena_take(vocab->arena, bytes + 1);
    if (!copy) {
        return phi_fail(err, PHI_E_NO_MEMORY, "%s: not enough memory for the vocabulary",
                        vocab->label);
    }
    memcpy(copy, piece, bytes);
    copy[bytes] = '\0';
    status = phi_strmap_insert(vocab->index, copy, bytes, (uint32_t)id);
    if (status == PHI_E_EXISTS) {
        return phi_fail(err, PHI_E_FORMAT, "%s: token \"%.40s\" has the ids %d and %" PRId64,
                        vocab->label, copy, phi_vocab_find(vocab, copy, bytes), id);
    }
    if (status != PHI_OK) {
        return phi_fail(err, status, "%s: not enough memory for the vocabulary", vocab->label);
    }
    *token = (phi_token){.piece = copy,
                         .bytes = (uint32_t)bytes,
                         .kind = (uint8_t)kind,
                         .in_model = in_model,
                         .byte = byte_value(copy, bytes)};
    if ((uint32_t)id >= vocab->size) {
        vocab->size = (uint32_t)id + 1;
    }
    if (bytes > vocab->piece_bytes_max) {
        vocab->piece_bytes_max = (uint32_t)bytes;
    }
    return PHI_OK;
}

int32_t phi_vocab_find(const phi_vocab *vocab, const char *piece, size_t bytes)
{
    uint32_t id;
    return phi_strmap_find(vocab->index, piece, bytes, &id) ? (int32_t)id : -1;
}

int32_t phi_vocab_find_in_model(const phi_vocab *vocab, const char *piece, size_t bytes)
{
    int32_t id = phi_vocab_find(vocab, piece, bytes);
    return id >= 0 && vocab->tokens[id].in_model ? id : -1;
}

const phi_token *phi_vocab_at(const phi_vocab *vocab, int64_t id)
{
    return id >= 0 && id < vocab->size && vocab->tokens[id].piece ? &vocab->tokens[id] : NULL;
}

int32_t phi_vocab_find_byte(const phi_vocab *vocab, uint8_t byte)
{
    char piece[8];
    snprintf(piece, sizeof piece, "<0x%02X>", byte);
    return phi_vocab_find_in_model(vocab, piece, 6);
}
