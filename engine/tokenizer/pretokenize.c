#include "engine/tokenizer/pretokenize.h"

#include <string.h>

#include "base/buf.h"
#include "config/limits.h"

#define METASPACE "\xe2\x96\x81"
#define METASPACE_BYTES 3

void phi_pretokenizer_done(phi_pretokenizer *pretokenizer)
{
    for (size_t i = 0; i < pretokenizer->count; i++) {
        phi_pattern_destroy(pretokenizer->steps[i].pattern);
    }
    pretokenizer->count = 0;
}

phi_status phi_pretokenizer_add(phi_pretokenizer *pretokenizer, const phi_pretokenize_step *step)
{
    if (pretokenizer->count == PHI_PRETOKENIZE_STEPS_MAX) {
        phi_pattern_destroy(step->pattern);
        return PHI_E_LIMIT;
    }
    pretokenizer->steps[pretokenizer->count++] = *step;
    return PHI_OK;
}

/* A stretch of text and the step that looks at it next. */
typedef struct stretch {
    const char *text;
    size_t bytes;
    size_t step;
    bool at_text_start;
} stretch;

typedef struct splitter {
    const phi_pretokenizer *pretokenizer;
    const phi_pretokenize_run *run;
    phi_err *err;
} splitter;

static phi_status split(const splitter *self, stretch in);

static phi_status pass_on(const splitter *self, stretch in, size_t begin, size_t end)
{
    if (begin == end) {
        return PHI_OK;
    }
    return split(self, (stretch){.text = in.text + begin,
                                 .bytes = end - begin,
                                 .step = in.step + 1,
                                 .at_text_start = in.at_text_start && begin == 0});
}

static size_t char_bytes(const char *text, size_t bytes)
{
    size_t length = 1;
    while (length < bytes && ((unsigned char)text[length] & 0xc0) == 0x80) {
        length++;
    }
    return length;
}

static phi_status split_pattern(const splitter *self, const phi_pretokenize_step *step, stretch in)
{
    bool gaps = step->kind != PHI_PRETOKENIZE_KEEP_MATCHES;
    bool matches = step->kind != PHI_PRETOKENIZE_KEEP_GAPS;
    size_t kept = 0;
    phi_status status = PHI_OK;
    for (size_t at = 0; at < in.bytes;) {
        bool found = false;
        size_t begin = 0;
        size_t end = 0;
        status = phi_pattern_find(step->pattern, self->run->work, in.text, in.bytes, at, &found,
                                  &begin, &end, self->err);
        if (status != PHI_OK) {
            return status;
        }
        if (!found) {
            break;
        }
        if (gaps) {
            status = pass_on(self, in, kept, begin);
        }
        if (status == PHI_OK && matches) {
            status = pass_on(self, in, begin, end);
        }
        if (status != PHI_OK) {
            return status;
        }
        kept = end;
        at = end;
        if (end == begin && end < in.bytes) {
            at += char_bytes(in.text + end, in.bytes - end);
        }
    }
    return gaps ? pass_on(self, in, kept, in.bytes) : PHI_OK;
}

static phi_status prefix_space(const splitter *self, stretch in)
{
    if (in.text[0] == ' ') {
        return pass_on(self, in, 0, in.bytes);
    }
    phi_buf text;
    phi_buf_init(&text, 4 * (size_t)PHI_LIMIT_TEXT_BYTES + 1);
    phi_buf_append_char(&text, ' ');
    phi_buf_append(&text, in.text, in.bytes);
    phi_status status = text.failed;
    if (status == PHI_OK) {
        in.text = text.data;
        in.bytes = text.length_bytes;
        status = pass_on(self, in, 0, in.bytes);
    }
    phi_buf_done(&text);
    return status;
}

static phi_status split_at_metaspaces(const splitter *self, stretch in)
{
    phi_status status = PHI_OK;
    size_t begin = 0;
    while (status == PHI_OK && begin < in.bytes) {
        /* The mark that opens this word does not close it. */
        size_t from =
            begin +
            (strncmp(in.text + begin, METASPACE, METASPACE_BYTES) == 0 ? METASPACE_BYTES : 0);
        const char *next = memmem(in.text + from, in.bytes - from, METASPACE, METASPACE_BYTES);
        size_t end = next ? (size_t)(next - in.text) : in.bytes;
        status = pass_on(self, in, begin, end);
        begin = end;
    }
    return status;
}

static phi_status metaspace(const splitter *self, const phi_pretokenize_step *step, stretch in)
{
    phi_buf text;
    phi_buf_init(&text, 12 * (size_t)PHI_LIMIT_TEXT_BYTES + METASPACE_BYTES);
    bool wanted = step->scheme == PHI_METASPACE_ALWAYS ||
                  (step->scheme == PHI_METASPACE_FIRST && in.at_text_start);
    bool there = in.text[0] == ' ' ||
                 (in.bytes >= METASPACE_BYTES && memcmp(in.text, METASPACE, METASPACE_BYTES) == 0);
    if (wanted && !there) {
        phi_buf_append_str(&text, METASPACE);
    }
    for (size_t i = 0; i < in.bytes; i++) {
        if (in.text[i] == ' ') {
            phi_buf_append_str(&text, METASPACE);
        } else {
            phi_buf_append_char(&text, in.text[i]);
        }
    }
    phi_status status = text.failed;
    if (status == PHI_OK) {
        in.text = text.data;
        in.bytes = text.length_bytes;
        status = step->split ? split_at_metaspaces(self, in) : pass_on(self, in, 0, in.bytes);
    }
    phi_buf_done(&text);
    return status;
}

static phi_status split(const splitter *self, stretch in)
{
    if (in.step == self->pretokenizer->count) {
        return self->run->word(self->run->context, in.text, in.bytes);
    }
    const phi_pretokenize_step *step = &self->pretokenizer->steps[in.step];
    switch (step->kind) {
    case PHI_PRETOKENIZE_PREFIX_SPACE:
        return prefix_space(self, in);
    case PHI_PRETOKENIZE_METASPACE:
        return metaspace(self, step, in);
    case PHI_PRETOKENIZE_ISOLATE:
    case PHI_PRETOKENIZE_KEEP_MATCHES:
    case PHI_PRETOKENIZE_KEEP_GAPS:
        break;
    }
    return split_pattern(self, step, in);
}

phi_status phi_pretokenizer_run(const phi_pretokenizer *pretokenizer,
                                const phi_pretokenize_run *run, const char *text, size_t bytes,
                                phi_err *err)
{
    if (bytes == 0) {
        return PHI_OK;
    }
    splitter self = {.pretokenizer = pretokenizer, .run = run, .err = err};
    return split(
        &self,
        (stretch){.text = text, .bytes = bytes, .step = 0, .at_text_start = run->at_text_start});
}
