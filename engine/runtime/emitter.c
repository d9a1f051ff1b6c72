#include "engine/runtime/emitter.h"

#include "base/mem.h"
#include "base/str.h"

#include <string.h>

/* Incomplete characters held by the detokenizer: 3 bytes, each of which may become U+FFFD. */
enum { CHARACTER_TAIL_BYTES = 16 };

uint32_t phi_emitter_token_text_max(uint32_t piece_bytes)
{
    /* Each byte of a piece may be invalid UTF-8 and become U+FFFD, three bytes. */
    return 3 * piece_bytes + CHARACTER_TAIL_BYTES;
}

uint32_t phi_emitter_text_max(uint32_t piece_bytes)
{
    return phi_emitter_token_text_max(piece_bytes) + PHI_LIMIT_STOP_BYTES + CHARACTER_TAIL_BYTES;
}

phi_status phi_emitter_buf_init(phi_buf *buf, size_t bytes)
{
    phi_buf_init(buf, bytes);
    /* Filled once and cleared, a buffer keeps its memory. */
    static const char spaces[64] = {0};
    for (size_t done = 0; done < bytes; done += sizeof spaces) {
        size_t count = bytes - done < sizeof spaces ? bytes - done : sizeof spaces;
        phi_status status = phi_buf_append(buf, spaces, count);
        if (status) {
            phi_buf_done(buf);
            return status;
        }
    }
    phi_buf_clear(buf);
    return PHI_OK;
}

static phi_status copy_stops(phi_emitter *emitter, const phi_generation_options *options,
                             phi_err *err)
{
    if (options->n_stop > PHI_LIMIT_STOP_STRINGS) {
        return phi_fail_param(err, PHI_E_INVALID, "stop",
                              "stop has %zu strings; at most %u are allowed", options->n_stop,
                              PHI_LIMIT_STOP_STRINGS);
    }
    for (size_t i = 0; i < options->n_stop; i++) {
        size_t bytes = strlen(options->stop[i]);
        if (bytes == 0 || bytes > PHI_LIMIT_STOP_BYTES) {
            return phi_fail_param(err, PHI_E_INVALID, "stop",
                                  "stop string %zu has %zu bytes; 1 to %u are allowed", i + 1,
                                  bytes, PHI_LIMIT_STOP_BYTES);
        }
        if (!phi_utf8_valid(options->stop[i], bytes)) {
            return phi_fail_param(err, PHI_E_INVALID, "stop", "stop string %zu is not valid UTF-8",
                                  i + 1);
        }
        memcpy(emitter->stop[i], options->stop[i], bytes + 1);
        emitter->stop_bytes[i] = bytes;
    }
    emitter->n_stop = options->n_stop;
    return PHI_OK;
}

phi_status phi_emitter_init(phi_emitter *emitter, const phi_tokenizer *tokenizer,
                            const phi_generation_options *options, uint32_t piece_bytes,
                            phi_err *err)
{
    *emitter = (phi_emitter){0};
    phi_status status = copy_stops(emitter, options, err);
    if (status) {
        return status;
    }
    /* What was emitted last stays in front until the next call. */
    size_t bytes = 2 * (size_t)phi_emitter_text_max(piece_bytes);
    if (phi_emitter_buf_init(&emitter->pending, bytes)) {
        return phi_fail(err, PHI_E_NO_MEMORY, "no memory for the text of a sequence");
    }
    phi_detokenizer_init(&emitter->detokenizer, tokenizer, !options->show_special,
                         options->continues_text);
    return PHI_OK;
}

void phi_emitter_done(phi_emitter *emitter)
{
    phi_buf_done(&emitter->pending);
}

/* The first end of a stop string in the text; true with where that string begins. */
static bool find_stop(const phi_emitter *emitter, const char *text, size_t bytes, size_t *out_begin)
{
    size_t end_best = SIZE_MAX;
    *out_begin = SIZE_MAX;
    for (size_t i = 0; i < emitter->n_stop; i++) {
        const char *at = memmem(text, bytes, emitter->stop[i], emitter->stop_bytes[i]);
        if (!at) {
            continue;
        }
        size_t begin = (size_t)(at - text);
        size_t end = begin + emitter->stop_bytes[i];
        if (end < end_best || (end == end_best && begin < *out_begin)) {
            end_best = end;
            *out_begin = begin;
        }
    }
    return end_best != SIZE_MAX;
}

/* Length of the longest end of the text that begins a stop string. */
static size_t held_bytes(const phi_emitter *emitter, const char *text, size_t bytes)
{
    size_t held = 0;
    for (size_t i = 0; i < emitter->n_stop; i++) {
        size_t longest = emitter->stop_bytes[i] - 1;
        longest = longest < bytes ? longest : bytes;
        for (size_t length = longest; length > held; length--) {
            if (memcmp(text + bytes - length, emitter->stop[i], length) == 0) {
                held = length;
            }
        }
    }
    return held;
}

static void emit(phi_emitter *emitter, bool all, const char **out_text, size_t *out_bytes)
{
    const char *text = phi_buf_text(&emitter->pending);
    size_t bytes = emitter->pending.length_bytes;
    size_t shown;
    if (find_stop(emitter, text, bytes, &shown)) {
        emitter->stopped = true;
    } else {
        shown = all ? bytes : bytes - held_bytes(emitter, text, bytes);
    }
    emitter->emitted_bytes = shown;
    *out_text = text;
    *out_bytes = shown;
}

phi_status phi_emitter_push(phi_emitter *emitter, int32_t token, const char **out_text,
                            size_t *out_bytes)
{
    phi_buf_consume(&emitter->pending, emitter->emitted_bytes);
    emitter->emitted_bytes = 0;
    phi_status status = phi_detokenizer_push(&emitter->detokenizer, token, &emitter->pending);
    if (status) {
        return status;
    }
    emit(emitter, false, out_text, out_bytes);
    return PHI_OK;
}

phi_status phi_emitter_finish(phi_emitter *emitter, const char **out_text, size_t *out_bytes)
{
    phi_buf_consume(&emitter->pending, emitter->emitted_bytes);
    emitter->emitted_bytes = 0;
    if (emitter->stopped) {
        *out_text = "";
        *out_bytes = 0;
        return PHI_OK;
    }
    phi_status status = phi_detokenizer_finish(&emitter->detokenizer, &emitter->pending);
    if (status) {
        return status;
    }
    emit(emitter, true, out_text, out_bytes);
    return PHI_OK;
}
