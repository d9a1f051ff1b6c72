#include "engine/tokenizer/added.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"

void phi_added_done(phi_added_set *set)
{
    for (size_t i = 0; i < set->count; i++) {
        phi_free(set->tokens[i].text);
    }
    phi_free(set->tokens);
    phi_pattern_destroy(set->word_char);
    *set = (phi_added_set){.tokens = NULL};
}

phi_status phi_added_add(phi_added_set *set, const phi_added_token *token)
{
    if (token->bytes == 0) {
        return PHI_OK;
    }
    if (set->count == set->capacity) {
        size_t capacity = set->capacity ? set->capacity * 2 : 64;
        phi_added_token *tokens = phi_try_realloc(set->tokens, capacity * sizeof *tokens);
        if (!tokens) {
            return PHI_E_NO_MEMORY;
        }
        set->tokens = tokens;
        set->capacity = capacity;
    }
    phi_added_token *slot = &set->tokens[set->count++];
    *slot = *token;
    slot->text = phi_strndup(token->text, token->bytes);
    return PHI_OK;
}

static int compare(const void *a, const void *b)
{
    const phi_added_token *left = a;
    const phi_added_token *right = b;
    size_t shared = left->bytes < right->bytes ? left->bytes : right->bytes;
    int order = memcmp(left->text, right->text, shared);
    if (order != 0) {
        return order;
    }
    return left->bytes < right->bytes ? -1 : left->bytes > right->bytes;
}

phi_status phi_added_finish(phi_added_set *set, phi_err *err)
{
    bool words = false;
    if (set->count) {
        qsort(set->tokens, set->count, sizeof *set->tokens, compare);
    }
    size_t at = 0;
    for (unsigned byte = 0; byte < 256; byte++) {
        set->first[byte] = at;
        while (at < set->count && (uint8_t)set->tokens[at].text[0] == byte) {
            words = words || set->tokens[at].single_word;
            at++;
        }
    }
    set->first[256] = at;
    set->ready = true;
    /* Rust's \w, which the reference asks with. */
    static const char word_char[] = "[\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{200c}\\x{200d}]";
    return words ? phi_pattern_compile(word_char, sizeof word_char - 1, false, "single_word",
                                       &set->word_char, err)
                 : PHI_OK;
}

/* Index of the first token in [low, high) whose byte at `depth` is at least `byte`. */
static size_t lower_bound(const phi_added_set *set, size_t low, size_t high, size_t depth,
                          unsigned byte)
{
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((uint8_t)set->tokens[middle].text[depth] < byte) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* The longest token that begins exactly here, or NULL. */
static const phi_added_token *match_at(const phi_added_set *set, const char *text,
                                       const char *trust, size_t bytes)
{
    const phi_added_token *best = NULL;
    size_t low = set->first[(uint8_t)text[0]];
    size_t high = set->first[(uint8_t)text[0] + 1U];
    bool trusted = true;
    for (size_t depth = 1; low < high; depth++) {
        trusted = trusted && trust[depth - 1];
        /* Equal texts were refused when the vocabulary was filled: at most one ends here. */
        while (low < high && set->tokens[low].bytes == depth) {
            if (trusted || !set->tokens[low].control) {
                best = &set->tokens[low];
            }
            low++;
        }
        if (depth == bytes) {
            break;
        }
        unsigned byte = (uint8_t)text[depth];
        low = lower_bound(set, low, high, depth, byte);
        high = lower_bound(set, low, high, depth, byte + 1);
    }
    return best;
}

static bool is_white_space(uint32_t c)
{
    return (c >= 0x9 && c <= 0xd) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

static size_t skip_space_right(const char *text, size_t bytes, size_t at)
{
    while (at < bytes) {
        uint32_t codepoint = 0;
        int length = phi_utf8_decode(text + at, bytes - at, &codepoint);
        if (length <= 0 || !is_white_space(codepoint)) {
            break;
        }
        at += (size_t)length;
    }
    return at;
}

static size_t char_before(const char *text, size_t at)
{
    do {
        at--;
    } while (at > 0 && ((unsigned char)text[at] & 0xc0) == 0x80);
    return at;
}

static size_t skip_space_left(const char *text, size_t at, size_t stop)
{
    while (at > stop) {
        size_t before = char_before(text, at);
        uint32_t codepoint = 0;
        int length = phi_utf8_decode(text + before, at - before, &codepoint);
        if (length <= 0 || !is_white_space(codepoint)) {
            break;
        }
        at = before;
    }
    return at;
}

/* Whether the character [begin, end) is one of a word. */
static phi_status is_word_char(const phi_added_set *set, phi_pattern_work *work, const char *text,
                               size_t end, bool *out_is, phi_err *err)
{
    size_t begin = 0;
    size_t stop = 0;
    return phi_pattern_find(set->word_char, work, text, end, 0, out_is, &begin, &stop, err);
}

static phi_status is_alone(const phi_added_set *set, phi_pattern_work *work, const char *text,
                           size_t bytes, const phi_added_hit *hit, bool *out_alone, phi_err *err)
{
    bool before = false;
    bool after = false;
    phi_status status = PHI_OK;
    if (hit->begin > 0) {
        size_t at = char_before(text, hit->begin);
        status = is_word_char(set, work, text + at, hit->begin - at, &before, err);
    }
    if (status == PHI_OK && hit->end < bytes) {
        size_t length = 1;
        while (hit->end + length < bytes &&
               ((unsigned char)text[hit->end + length] & 0xc0) == 0x80) {
            length++;
        }
        status = is_word_char(set, work, text + hit->end, length, &after, err);
    }
    *out_alone = !before && !after;
    return status;
}

phi_status phi_added_find(const phi_added_set *set, phi_pattern_work *work, const char *text,
                          const char *trust, size_t bytes, size_t start, bool *out_found,
                          phi_added_hit *out_hit, phi_err *err)
{
    *out_found = false;
    for (size_t at = start; set->count && at < bytes; at++) {
        const phi_added_token *token = match_at(set, text + at, trust + at, bytes - at);
        if (!token) {
            continue;
        }
        phi_added_hit hit = {.id = token->id, .begin = at, .end = at + token->bytes};
        if (token->single_word) {
            bool alone = false;
            phi_status status = is_alone(set, work, text, bytes, &hit, &alone, err);
            if (status != PHI_OK) {
                return status;
            }
            if (!alone) {
                at = hit.end - 1; /* the reference goes on behind a rejected match */
                continue;
            }
        }
        hit.begin = token->lstrip ? skip_space_left(text, hit.begin, start) : hit.begin;
        hit.end = token->rstrip ? skip_space_right(text, bytes, hit.end) : hit.end;
        *out_found = true;
        *out_hit = hit;
        return PHI_OK;
    }
    return PHI_OK;
}
