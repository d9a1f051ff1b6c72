#include <string.h>

#include "base/str.h"
#include "config/limits.h"
#include "engine/tokenizer/tokenizer_internal.h"

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

void phi_detokenizer_init(phi_detokenizer *detokenizer, const phi_tokenizer *tokenizer,
                          bool skip_special, bool continues)
{
    *detokenizer = (phi_detokenizer){
        .tokenizer = tokenizer, .skip_special = skip_special, .at_start = !continues};
}

/* Appends complete text; the very first space may be one that encoding put there. */
static phi_status emit(phi_detokenizer *self, const char *text, size_t bytes, phi_buf *out_text)
{
    if (bytes == 0) {
        return PHI_OK;
    }
    if (self->at_start) {
        self->at_start = false;
        if (self->tokenizer->decoder.strip_start && text[0] == ' ') {
            text++;
            bytes--;
        }
    }
    return phi_buf_append(out_text, text, bytes);
}

/* Bytes at the start of invalid UTF-8 that one U+FFFD stands for: the longest beginning of a
 * character, as Rust's and Python's lossy decoding count. */
static size_t invalid_bytes(const char *text, size_t bytes)
{
    uint32_t codepoint;
    size_t length = 1;
    while (length < bytes && phi_utf8_decode(text, length, &codepoint) < 0 &&
           phi_utf8_decode(text, length + 1, &codepoint) < 0) {
        length++;
    }
    return length;
}

/* Emits what is complete of `data`; returns how many bytes at the end are an incomplete one. */
static phi_status emit_bytes(phi_detokenizer *self, const char *data, size_t bytes,
                             size_t *out_rest, phi_buf *out_text)
{
    bool one_each = self->tokenizer->decoder.byte_fallback;
    phi_status status = PHI_OK;
    size_t at = 0;
    while (status == PHI_OK && at < bytes) {
        uint32_t codepoint;
        size_t run = at;
        int length = 0;
        while (run < bytes && (length = phi_utf8_decode(data + run, bytes - run, &codepoint)) > 0) {
            run += (size_t)length;
        }
        status = emit(self, data + at, run - at, out_text);
        at = run;
        if (at == bytes || length < 0) {
            break;
        }
        if (status == PHI_OK) {
            status = emit(self, REPLACEMENT, 3, out_text);
        }
        at += one_each ? 1 : invalid_bytes(data + at, bytes - at);
    }
    *out_rest = bytes - at;
    return status;
}

/* Adds bytes of the stream to what is held and emits what has become complete. */
static phi_status push_bytes(phi_detokenizer *self, const char *data, size_t bytes,
                             phi_buf *out_text)
{
    char joined[sizeof self->held + PHI_LIMIT_PIECE_BYTES];
    memcpy(joined, self->held, self->held_bytes);
    memcpy(joined + self->held_bytes, data, bytes);
    bytes += self->held_bytes;
    size_t rest = 0;
    phi_status status = emit_bytes(self, joined, bytes, &rest, out_text);
    /* An incomplete character has at most three bytes. */
    self->held_bytes = (uint8_t)rest;
    memcpy(self->held, joined + bytes - rest, rest);
    return status;
}

phi_status phi_detokenizer_finish(phi_detokenizer *detokenizer, phi_buf *out_text)
{
    size_t marks = detokenizer->held_bytes;
    if (marks && !detokenizer->tokenizer->decoder.byte_fallback) {
        marks = 1;
    }
    detokenizer->held_bytes = 0;
    phi_status status = PHI_OK;
    for (size_t i = 0; status == PHI_OK && i < marks; i++) {
        status = emit(detokenizer, REPLACEMENT, 3, out_text);
    }
    return status;
}

/* The bytes of a byte-level piece; one with a character that spells no byte stands for itself. */
static size_t piece_bytes(const phi_token *token, char out[PHI_LIMIT_PIECE_BYTES])
{
    size_t count = 0;
    for (size_t at = 0; at < token->bytes;) {
        uint32_t codepoint = 0;
        int length = phi_utf8_decode(token->piece + at, token->bytes - at, &codepoint);
        int byte = length > 0 ? phi_bpe_char_to_byte(codepoint) : -1;
        if (byte < 0) {
            memcpy(out, token->piece, token->bytes);
            return token->bytes;
        }
        out[count++] = (char)byte;
        at += (size_t)length;
    }
    return count;
}

/* Copies a piece with U+2581 as a space, or as nothing when `drop` is set. */
static size_t piece_text(const phi_token *token, bool spaces, bool drop,
                         char out[PHI_LIMIT_PIECE_BYTES])
{
    size_t count = 0;
    for (size_t at = 0; at < token->bytes;) {
        if (spaces && token->bytes - at >= PHI_METASPACE_BYTES &&
            memcmp(token->piece + at, PHI_METASPACE, PHI_METASPACE_BYTES) == 0) {
            at += PHI_METASPACE_BYTES;
            if (!drop) {
                out[count++] = ' ';
            }
        } else {
            out[count++] = token->piece[at++];
        }
    }
    return count;
}

static phi_status push_piece(phi_detokenizer *self, const phi_token *token, phi_buf *out_text)
{
    const phi_decoder *decoder = &self->tokenizer->decoder;
    char text[PHI_LIMIT_PIECE_BYTES];
    if (decoder->byte_fallback && token->byte >= 0) {
        char byte = (char)token->byte;
        return push_bytes(self, &byte, 1, out_text);
    }
    phi_status status = phi_detokenizer_finish(self, out_text);
    if (status != PHI_OK) {
        return status;
    }
    bool drop = decoder->drop_first && self->at_start;
    size_t bytes = piece_text(token, decoder->spaces, drop, text);
    status = emit(self, text, bytes, out_text);
    self->at_start = self->at_start && !decoder->drop_first;
    return status;
}

phi_status phi_detokenizer_push(phi_detokenizer *detokenizer, int32_t id, phi_buf *out_text)
{
    const phi_token *token = phi_vocab_at(&detokenizer->tokenizer->vocab, id);
    if (!token || token->kind == PHI_TOKEN_UNUSED ||
        (detokenizer->skip_special && token->kind == PHI_TOKEN_CONTROL)) {
        return PHI_OK;
    }
    if (!detokenizer->tokenizer->decoder.byte_level) {
        return push_piece(detokenizer, token, out_text);
    }
    char bytes[PHI_LIMIT_PIECE_BYTES];
    size_t count = piece_bytes(token, bytes);
    return push_bytes(detokenizer, bytes, count, out_text);
}

phi_status phi_tokenizer_decode(const phi_tokenizer *tokenizer, const int32_t *ids, size_t count,
                                bool skip_special, phi_buf *out_text)
{
    phi_detokenizer detokenizer;
    phi_detokenizer_init(&detokenizer, tokenizer, skip_special, false);
    phi_status status = PHI_OK;
    for (size_t i = 0; status == PHI_OK && i < count; i++) {
        status = phi_detokenizer_push(&detokenizer, ids[i], out_text);
    }
    return status == PHI_OK ? phi_detokenizer_finish(&detokenizer, out_text) : status;
}

phi_status phi_tokenizer_token_bytes(const phi_tokenizer *tokenizer, int32_t id, phi_buf *out_bytes)
{
    const phi_token *token = phi_vocab_at(&tokenizer->vocab, id);
    char bytes[PHI_LIMIT_PIECE_BYTES];
    if (!token || token->kind == PHI_TOKEN_UNUSED) {
        return PHI_OK;
    }
    if (tokenizer->decoder.byte_level) {
        return phi_buf_append(out_bytes, bytes, piece_bytes(token, bytes));
    }
    if (tokenizer->decoder.byte_fallback && token->byte >= 0) {
        return phi_buf_append_char(out_bytes, (char)token->byte);
    }
    return phi_buf_append(out_bytes, bytes,
                          piece_text(token, tokenizer->decoder.spaces, false, bytes));
}
