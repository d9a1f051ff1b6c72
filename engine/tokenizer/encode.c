#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "config/limits.h"
#include "engine/tokenizer/tokenizer_internal.h"

/* One call's scratch: a tokenizer is shared by threads, this is not. */
typedef struct encoder {
    const phi_tokenizer *tokenizer;
    phi_pattern_work *patterns;
    phi_bpe_work *bpe;
    phi_tokens *out;
    phi_err *err;
} encoder;

static phi_status encode_word(void *context, const char *text, size_t bytes)
{
    encoder *self = context;
    return phi_bpe_encode(&self->tokenizer->bpe, self->bpe, text, bytes, self->out);
}

static phi_status encode_words(encoder *self, const char *text, size_t bytes, bool at_text_start)
{
    phi_pretokenize_run run = {.work = self->patterns,
                               .at_text_start = at_text_start,
                               .word = encode_word,
                               .context = self};
    return phi_pretokenizer_run(&self->tokenizer->pretokenizer, &run, text, bytes, self->err);
}

/* Text between hits. */
typedef phi_status (*fragment_fn)(encoder *self, const char *text, const char *trust, size_t bytes,
                                  bool at_text_start);

/* Emits the added tokens of `set` and hands what lies between them to `fragment`. */
static phi_status split_added(encoder *self, const phi_added_set *set, const char *text,
                              const char *trust, size_t bytes, bool at_text_start,
                              fragment_fn fragment)
{
    size_t at = 0;
    for (;;) {
        bool found = false;
        phi_added_hit hit = {.begin = bytes, .end = bytes};
        phi_status status =
            phi_added_find(set, self->patterns, text, trust, bytes, at, &found, &hit, self->err);
        if (status == PHI_OK && hit.begin > at) {
            status =
                fragment(self, text + at, trust + at, hit.begin - at, at_text_start && at == 0);
        }
        if (status == PHI_OK && found) {
            status = phi_tokens_append(self->out, &hit.id, 1);
        }
        if (status != PHI_OK || !found) {
            return status;
        }
        at = hit.end;
    }
}

static phi_status encode_normalized(encoder *self, const char *text, const char *trust,
                                    size_t bytes, bool at_text_start)
{
    (void)trust;
    return encode_words(self, text, bytes, at_text_start);
}

static phi_status encode_raw(encoder *self, const char *text, const char *trust, size_t bytes,
                             bool at_text_start)
{
    const phi_tokenizer *tokenizer = self->tokenizer;
    if (tokenizer->normalizer.count == 0) {
        return split_added(self, &tokenizer->added_normalized, text, trust, bytes, at_text_start,
                           encode_normalized);
    }
    phi_marked normal;
    phi_marked_init(&normal);
    phi_status status = phi_normalizer_run(&tokenizer->normalizer, text, trust, bytes, &normal);
    if (status == PHI_OK) {
        status = split_added(self, &tokenizer->added_normalized, phi_buf_text(&normal.text),
                             phi_buf_text(&normal.trust), normal.text.length_bytes, at_text_start,
                             encode_normalized);
    }
    phi_marked_done(&normal);
    return status;
}

static phi_status encode_marked(encoder *self, const char *text, const char *trust, size_t bytes)
{
    if (!phi_utf8_valid(text, bytes)) {
        return phi_fail(self->err, PHI_E_INVALID, "the text is not valid UTF-8");
    }
    self->patterns = phi_pattern_work_create(bytes);
    self->bpe = phi_bpe_work_create();
    phi_status status = PHI_E_NO_MEMORY;
    if (self->patterns && self->bpe) {
        status = split_added(self, &self->tokenizer->added, text, trust, bytes, true, encode_raw);
    }
    phi_pattern_work_destroy(self->patterns);
    phi_bpe_work_destroy(self->bpe);
    if (status == PHI_E_NO_MEMORY) {
        phi_fail(self->err, status, "not enough memory to encode %zu bytes of text", bytes);
    }
    return status;
}

static phi_status check_length(size_t bytes, phi_err *err)
{
    if (bytes > PHI_LIMIT_TEXT_BYTES) {
        return phi_fail(err, PHI_E_LIMIT, "the text has %zu bytes; at most %u can be encoded",
                        bytes, PHI_LIMIT_TEXT_BYTES);
    }
    return PHI_OK;
}

phi_status phi_tokenizer_encode_marked(const phi_tokenizer *tokenizer, const char *text,
                                       const char *trust, size_t bytes, phi_tokens *out_tokens,
                                       phi_err *err)
{
    phi_status status = check_length(bytes, err);
    if (status != PHI_OK) {
        return status;
    }
    size_t before = out_tokens->count;
    encoder self = {.tokenizer = tokenizer, .out = out_tokens, .err = err};
    status = encode_marked(&self, text, trust, bytes);
    if (status != PHI_OK) {
        out_tokens->count = before;
    }
    return status;
}

phi_status phi_tokenizer_encode(const phi_tokenizer *tokenizer, const char *text, size_t bytes,
                                const phi_encode_options *options, phi_tokens *out_tokens,
                                phi_err *err)
{
    phi_status status = check_length(bytes, err);
    if (status != PHI_OK) {
        return status;
    }
    size_t before = out_tokens->count;
    if (options->add_bos && tokenizer->adds_bos) {
        status = phi_tokens_append(out_tokens, tokenizer->prefix, tokenizer->prefix_count);
    }
    encoder self = {.tokenizer = tokenizer, .out = out_tokens, .err = err};
    char *trust = phi_try_alloc(bytes + 1);
    if (status != PHI_OK || !trust) {
        status = phi_fail(err, PHI_E_NO_MEMORY, "not enough memory to encode %zu bytes", bytes);
        goto done;
    }
    memset(trust, options->mode == PHI_PARSE_SPECIAL, bytes + 1);
    status = encode_marked(&self, bytes ? text : "", trust, bytes);
done:
    phi_free(trust);
    if (status != PHI_OK) {
        out_tokens->count = before;
    }
    return status;
}

phi_status phi_tokenizer_encode_spans(const phi_tokenizer *tokenizer, const phi_text_span *spans,
                                      size_t count, phi_tokens *out_tokens, phi_err *err)
{
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        /* Each term and the sum so far are below the cap: no overflow. */
        phi_status status = check_length(spans[i].bytes, err);
        bytes += status == PHI_OK ? spans[i].bytes : 0;
        status = status == PHI_OK ? check_length(bytes, err) : status;
        if (status != PHI_OK) {
            return status;
        }
    }
    phi_marked joined;
    phi_marked_init(&joined);
    for (size_t i = 0; i < count; i++) {
        phi_marked_append(&joined, spans[i].text, spans[i].bytes, spans[i].trusted);
    }
    phi_status status = PHI_OK;
    if (phi_marked_failed(&joined)) {
        status = phi_fail(err, PHI_E_NO_MEMORY, "not enough memory to encode %zu bytes", bytes);
    } else {
        status = phi_tokenizer_encode_marked(tokenizer, phi_buf_text(&joined.text),
                                             phi_buf_text(&joined.trust), joined.text.length_bytes,
                                             out_tokens, err);
    }
    phi_marked_done(&joined);
    return status;
}
