/*
 * Byte-level pieces become the bytes that they stand for, so that no layer has to map characters.
 */
#include "engine/formats/openvino_tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "config/limits.h"
#include "engine/formats/json.h"

#define FILE_NAME "tokenizer.json"
#define STRINGS_BYTES_MAX (64U << 20)

/* GPT-2's own pattern, which a ByteLevel pre-tokenizer stands for. */
static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

#define REFUSE(...) phi_fail(err, PHI_E_UNSUPPORTED, FILE_NAME ": " __VA_ARGS__)

/* ---- lists of strings ---- */

static void strings_init(phi_ov_strings *list)
{
    phi_buf_init(&list->begins, STRINGS_BYTES_MAX);
    phi_buf_init(&list->ends, STRINGS_BYTES_MAX);
    phi_buf_init(&list->chars, STRINGS_BYTES_MAX);
}

static void strings_done(phi_ov_strings *list)
{
    phi_buf_done(&list->begins);
    phi_buf_done(&list->ends);
    phi_buf_done(&list->chars);
}

static bool strings_failed(const phi_ov_strings *list)
{
    return phi_buf_failed(&list->begins) || phi_buf_failed(&list->ends) ||
           phi_buf_failed(&list->chars);
}

static void strings_end(phi_ov_strings *list, size_t begin)
{
    int32_t first = (int32_t)begin;
    int32_t last = (int32_t)list->chars.length_bytes;
    (void)phi_buf_append(&list->begins, &first, sizeof first);
    (void)phi_buf_append(&list->ends, &last, sizeof last);
    list->count++;
}

/* The byte that a character of GPT-2's byte alphabet stands for, or -1. Printable characters stand
 * for themselves; the others, in order, are U+0100 and up. */
static int byte_of(uint32_t c)
{
    if ((c >= '!' && c <= '~') || (c >= 0xA1 && c <= 0xFF && c != 0xAD)) {
        return (int)c;
    }
    uint32_t n = c - 0x100;
    return c < 0x100 ? -1 : n <= 32 ? (int)n : n <= 66 ? (int)(n - 33 + 0x7F) : n == 67 ? 0xAD : -1;
}

/* A piece of the vocabulary or of a merge; byte-level ones as bytes. */
static void strings_add(phi_ov_strings *list, const char *text, size_t bytes, bool byte_level)
{
    size_t begin = list->chars.length_bytes;
    for (size_t i = 0; byte_level && i < bytes;) {
        uint32_t c = 0;
        int length = phi_utf8_decode(text + i, bytes - i, &c);
        int byte = length > 0 ? byte_of(c) : -1;
        if (byte < 0) {
            /* Not of the alphabet: kept as it is, like an added token. */
            list->chars.length_bytes = begin;
            byte_level = false;
            break;
        }
        (void)phi_buf_append_char(&list->chars, (char)byte);
        i += (size_t)length;
    }
    if (!byte_level) {
        (void)phi_buf_append(&list->chars, text, bytes);
    }
    strings_end(list, begin);
}

/* ---- reading tokenizer.json ---- */

static const char *string_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text ? text : "";
}

static bool is_type(const json_t *object, const char *type)
{
    return strcmp(string_of(object, "type"), type) == 0;
}

/* Literal text as a regular expression. */
static void quote(phi_buf *to, const char *text)
{
    for (const char *at = text; *at; at++) {
        bool plain = (*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z') ||
                     (*at >= '0' && *at <= '9') || *at == '_' || (*at & 0x80);
        (void)phi_buf_append_str(to, plain ? "" : "\\");
        (void)phi_buf_append_char(to, *at);
    }
}

static const char *quoted(phi_ov_tokenizer *t, const char *text)
{
    phi_buf buf;
    phi_buf_init(&buf, PHI_LIMIT_PATTERN_BYTES);
    quote(&buf, text);
    return t->owned[t->owned_count++] = phi_buf_take(&buf);
}

/* A pattern with its \\s spelt out as Unicode's White_Space: PCRE2, which runs it, counts U+180E
 * among them, and the tokenizers that it is from do not. */
#define SPACES                                                                                     \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"    \
    "\\x{205f}\\x{3000}"

static const char *with_spaces(phi_ov_tokenizer *t, const char *pattern)
{
    phi_buf buf;
    bool in_class = false;
    phi_buf_init(&buf, (size_t)PHI_LIMIT_PATTERN_BYTES * sizeof SPACES);
    for (const char *at = pattern; *at; at++) {
        bool escapes = *at == '\\' && at[1];
        if (escapes && (at[1] == 's' || (at[1] == 'S' && !in_class))) {
            (void)phi_buf_append_str(&buf, in_class       ? SPACES
                                           : at[1] == 's' ? "[" SPACES "]"
                                                          : "[^" SPACES "]");
            at++;
            continue;
        }
        in_class = escapes ? in_class : *at == '[' || (in_class && *at != ']');
        (void)phi_buf_append(&buf, at, escapes ? 2 : 1);
        at += escapes;
    }
    return t->owned[t->owned_count++] = phi_buf_take(&buf);
}

typedef phi_status (*step_reader)(phi_ov_tokenizer *t, const json_t *step, phi_err *err);

/* A step, or each of a sequence of them. */
static phi_status read_steps(phi_ov_tokenizer *t, const json_t *step, const char *list,
                             step_reader read, phi_err *err)
{
    if (!step || json_is_null(step)) {
        return PHI_OK;
    }
    if (!is_type(step, "Sequence")) {
        return read(t, step, err);
    }
    const json_t *steps = json_object_get(step, list);
    phi_status status = PHI_OK;
    if (json_array_size(steps) > PHI_OV_STEPS_MAX) {
        return REFUSE("\"%s\" has more than %u steps", list, PHI_OV_STEPS_MAX);
    }
    for (size_t i = 0; i < json_array_size(steps) && !status; i++) {
        status = read(t, json_array_get(steps, i), err);
    }
    return status;
}

static phi_status read_normalizer(phi_ov_tokenizer *t, const json_t *step, phi_err *err)
{
    const json_t *pattern = json_object_get(step, "pattern");
    phi_ov_replacement *to = &t->normalizers[t->n_normalizers];
    if (is_type(step, "Prepend")) {
        *to = (phi_ov_replacement){.pattern = "^(?=[\\s\\S])", .by = string_of(step, "prepend")};
    } else if (is_type(step, "Replace") && json_object_get(pattern, "String")) {
        *to = (phi_ov_replacement){.pattern = quoted(t, string_of(pattern, "String")),
                                   .by = string_of(step, "content")};
    } else {
        return REFUSE("the normalizer \"%.40s\" cannot be written", string_of(step, "type"));
    }
    t->n_normalizers++;
    return PHI_OK;
}

static phi_status read_pre_tokenizer(phi_ov_tokenizer *t, const json_t *step, phi_err *err)
{
    const json_t *pattern = json_object_get(step, "pattern");
    const char *behavior = string_of(step, "behavior");
    if (is_type(step, "ByteLevel") && !json_is_true(json_object_get(step, "add_prefix_space"))) {
        t->byte_level = true;
        if (!json_is_false(json_object_get(step, "use_regex"))) {
            t->words[t->n_words++] = with_spaces(t, gpt2_pattern);
        }
        return PHI_OK;
    }
    bool inverted = json_is_true(json_object_get(step, "invert"));
    bool isolates =
        strcmp(behavior, "Isolated") == 0 || (strcmp(behavior, "Removed") == 0 && inverted);
    if (is_type(step, "Split") && isolates && json_object_get(pattern, "Regex")) {
        t->words[t->n_words++] = with_spaces(t, string_of(pattern, "Regex"));
        return PHI_OK;
    }
    return REFUSE("the pre-tokenizer \"%.40s\" cannot be written", string_of(step, "type"));
}

static phi_status read_decoder(phi_ov_tokenizer *t, const json_t *step, phi_err *err)
{
    const json_t *pattern = json_object_get(step, "pattern");
    if (is_type(step, "ByteLevel") || is_type(step, "ByteFallback") || is_type(step, "Fuse")) {
        return PHI_OK;
    }
    if (is_type(step, "Replace") && json_object_get(pattern, "String")) {
        t->decoders[t->n_decoders++] = (phi_ov_replacement){
            .pattern = quoted(t, string_of(pattern, "String")), .by = string_of(step, "content")};
        return PHI_OK;
    }
    if (is_type(step, "Strip") && strcmp(string_of(step, "content"), " ") == 0 &&
        json_integer_value(json_object_get(step, "start")) == 1 &&
        json_integer_value(json_object_get(step, "stop")) == 0) {
        t->strips = true;
        return PHI_OK;
    }
    return REFUSE("the decoder \"%.40s\" cannot be written", string_of(step, "type"));
}

static phi_status read_post_processor(phi_ov_tokenizer *t, const json_t *step, phi_err *err)
{
    if (is_type(step, "ByteLevel")) {
        return PHI_OK;
    }
    if (!is_type(step, "TemplateProcessing")) {
        return REFUSE("the post-processor \"%.40s\" cannot be written", string_of(step, "type"));
    }
    const json_t *single = json_object_get(step, "single");
    phi_buf *to = &t->prefix;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *part = json_array_get(single, i);
        const json_t *token = json_object_get(part, "SpecialToken");
        if (!token) {
            to = &t->suffix;
            continue;
        }
        const json_t *known =
            json_object_get(json_object_get(step, "special_tokens"), string_of(token, "id"));
        const json_t *ids = json_object_get(known, "ids");
        int32_t id = (int32_t)json_integer_value(json_array_get(ids, 0));
        if (json_array_size(ids) != 1 || id < 0) {
            return REFUSE("the post-processor's token \"%.40s\" has not one id",
                          string_of(token, "id"));
        }
        (void)phi_buf_append(to, &id, sizeof id);
    }
    return PHI_OK;
}

/* ---- vocabulary ---- */

static phi_status read_id(const json_t *value, const char *piece, uint32_t *out, phi_err *err)
{
    json_int_t id = json_integer_value(value);
    if (!json_is_integer(value) || id < 0 || id >= (json_int_t)PHI_LIMIT_VOCAB) {
        return phi_fail(err, PHI_E_FORMAT, FILE_NAME ": \"%.40s\" has no usable id", piece);
    }
    *out = (uint32_t)id;
    return PHI_OK;
}

/* Pieces by id; NULL where an id has none. */
static phi_status order_pieces(const phi_ov_tokenizer *t, const char **pieces, bool *is_added,
                               uint32_t *out_count, phi_err *err)
{
    const char *piece;
    json_t *value;
    uint32_t id = 0;
    uint32_t count = 0;
    phi_status status = PHI_OK;
    json_t *vocab = json_object_get(json_object_get(t->root, "model"), "vocab");
    json_object_foreach(vocab, piece, value)
    {
        status = read_id(value, piece, &id, err);
        if (status) {
            return status;
        }
        pieces[id] = piece;
        count = id >= count ? id + 1 : count;
    }
    for (size_t i = 0; i < json_array_size(t->added); i++) {
        const json_t *token = json_array_get(t->added, i);
        piece = string_of(token, "content");
        status = read_id(json_object_get(token, "id"), piece, &id, err);
        if (status) {
            return status;
        }
        pieces[id] = piece;
        is_added[id] = true;
        count = id >= count ? id + 1 : count;
    }
    *out_count = count;
    return count ? PHI_OK : phi_fail(err, PHI_E_FORMAT, FILE_NAME ": it has no vocabulary");
}

static phi_status read_vocab(phi_ov_tokenizer *t, phi_err *err)
{
    uint32_t count = 0;
    const char **pieces = phi_try_alloc_zero(PHI_LIMIT_VOCAB, sizeof *pieces);
    bool *is_added = phi_try_alloc_zero(PHI_LIMIT_VOCAB, sizeof *is_added);
    phi_status status = pieces && is_added
                            ? order_pieces(t, pieces, is_added, &count, err)
                            : phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for " FILE_NAME);
    for (uint32_t id = 0; id < count && !status; id++) {
        const char *piece = pieces[id] ? pieces[id] : "";
        strings_add(&t->vocab, piece, strlen(piece), t->byte_level && !is_added[id]);
    }
    phi_free(pieces);
    phi_free(is_added);
    return status;
}

/* "left right", or [left, right] in newer files. */
static phi_status read_merges(phi_ov_tokenizer *t, phi_err *err)
{
    const json_t *merges = json_object_get(json_object_get(t->root, "model"), "merges");
    for (size_t i = 0; i < json_array_size(merges); i++) {
        const json_t *merge = json_array_get(merges, i);
        const char *left = json_string_value(merge);
        const char *space = left ? strchr(left, ' ') : NULL;
        const char *right = space ? space + 1 : NULL;
        size_t left_bytes = space ? (size_t)(space - left) : 0;
        if (json_is_array(merge)) {
            left = json_string_value(json_array_get(merge, 0));
            right = json_string_value(json_array_get(merge, 1));
            left_bytes = left ? strlen(left) : 0;
        }
        if (!left || !right) {
            return phi_fail(err, PHI_E_FORMAT, FILE_NAME ": merge %zu is not of two pieces", i);
        }
        strings_add(&t->left, left, left_bytes, t->byte_level);
        strings_add(&t->right, right, strlen(right), t->byte_level);
    }
    return PHI_OK;
}

/* ---- added tokens ---- */

static int compare_lengths(const void *a, const void *b)
{
    size_t left = strlen(*(const char *const *)a);
    size_t right = strlen(*(const char *const *)b);
    return left < right   ? 1
           : left > right ? -1
                          : strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The tokens that swallow spaces on these sides, longest first, as one group of the pattern. */
static phi_status add_group(phi_ov_tokenizer *t, bool left, bool right, phi_err *err)
{
    size_t count = 0;
    const char **tokens = phi_try_alloc_zero(json_array_size(t->added) + 1, sizeof *tokens);
    if (!tokens) {
        return phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for " FILE_NAME);
    }
    for (size_t i = 0; i < json_array_size(t->added); i++) {
        const json_t *token = json_array_get(t->added, i);
        if (json_is_true(json_object_get(token, "lstrip")) == left &&
            json_is_true(json_object_get(token, "rstrip")) == right &&
            *string_of(token, "content")) {
            tokens[count++] = string_of(token, "content");
        }
    }
    qsort(tokens, count, sizeof *tokens, compare_lengths);
    for (size_t i = 0; i < count; i++) {
        if (i == 0) {
            (void)phi_buf_append_str(&t->split, t->split.length_bytes ? "|" : "");
            (void)phi_buf_append_str(&t->split, left ? "(?:[" SPACES "]*)(" : "(");
        }
        (void)phi_buf_append_str(&t->split, i ? "|" : "");
        quote(&t->split, tokens[i]);
    }
    if (count) {
        (void)phi_buf_append_str(&t->split, right ? ")(?:[" SPACES "]*)" : ")");
    }
    phi_free(tokens);
    return PHI_OK;
}

static phi_status read_added(phi_ov_tokenizer *t, phi_err *err)
{
    for (size_t i = 0; i < json_array_size(t->added); i++) {
        const json_t *token = json_array_get(t->added, i);
        const char *text = string_of(token, "content");
        uint32_t id = 0;
        phi_status status = read_id(json_object_get(token, "id"), text, &id, err);
        if (status) {
            return status;
        }
        if (json_is_true(json_object_get(token, "single_word"))) {
            return REFUSE("the added token \"%.40s\" has to be a single word, which cannot be "
                          "written",
                          text);
        }
        int32_t number = (int32_t)id;
        strings_add(&t->special, text, strlen(text), false);
        (void)phi_buf_append(&t->special_ids, &number, sizeof number);
        if (json_is_true(json_object_get(token, "special"))) {
            (void)phi_buf_append(&t->skipped_ids, &number, sizeof number);
        }
    }
    phi_status status = PHI_OK;
    for (int sides = 0; sides < 4 && !status; sides++) {
        status = add_group(t, sides & 1, sides & 2, err);
    }
    if (!t->split.length_bytes) {
        (void)phi_buf_append_str(&t->split, "((?!))"); /* nothing */
    }
    return status;
}

static phi_status read_all(phi_ov_tokenizer *t, phi_err *err)
{
    const json_t *model = json_object_get(t->root, "model");
    t->added = json_object_get(t->root, "added_tokens");
    t->byte_fallback = json_is_true(json_object_get(model, "byte_fallback"));
    t->fuse_unk = json_is_true(json_object_get(model, "fuse_unk"));
    if (!is_type(model, "BPE") && *string_of(model, "type")) {
        return REFUSE("a tokenizer of type \"%.40s\" cannot be written", string_of(model, "type"));
    }
    phi_status status =
        read_steps(t, json_object_get(t->root, "normalizer"), "normalizers", read_normalizer, err);
    status = status ? status
                    : read_steps(t, json_object_get(t->root, "pre_tokenizer"), "pretokenizers",
                                 read_pre_tokenizer, err);
    status = status ? status
                    : read_steps(t, json_object_get(t->root, "post_processor"), "processors",
                                 read_post_processor, err);
    status =
        status ? status
               : read_steps(t, json_object_get(t->root, "decoder"), "decoders", read_decoder, err);
    status = status ? status : read_vocab(t, err);
    status = status ? status : read_merges(t, err);
    status = status ? status : read_added(t, err);
    if (!status &&
        (strings_failed(&t->vocab) || strings_failed(&t->left) || strings_failed(&t->right) ||
         strings_failed(&t->special) || phi_buf_failed(&t->split))) {
        return phi_fail(err, PHI_E_LIMIT, FILE_NAME ": its pieces take more than %u bytes",
                        STRINGS_BYTES_MAX);
    }
    return status;
}

void phi_ov_tokenizer_init(phi_ov_tokenizer *t)
{
    phi_buf *ids[] = {&t->special_ids, &t->skipped_ids, &t->split, &t->prefix, &t->suffix};
    strings_init(&t->vocab);
    strings_init(&t->left);
    strings_init(&t->right);
    strings_init(&t->special);
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        phi_buf_init(ids[i], STRINGS_BYTES_MAX);
    }
}

void phi_ov_tokenizer_done(phi_ov_tokenizer *t)
{
    phi_buf *ids[] = {&t->special_ids, &t->skipped_ids, &t->split, &t->prefix, &t->suffix};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        phi_buf_done(ids[i]);
    }
    for (uint32_t i = 0; i < t->owned_count; i++) {
        phi_free(t->owned[i]);
    }
    strings_done(&t->vocab);
    strings_done(&t->left);
    strings_done(&t->right);
    strings_done(&t->special);
    json_decref(t->root);
}

phi_status phi_ov_tokenizer_read(phi_ov_tokenizer *t, const char *path, phi_err *err)
{
    phi_status status = phi_json_load_object(path, PHI_LIMIT_TOKENIZER_JSON_BYTES, &t->root, err);
    return status ? status : read_all(t, err);
}
