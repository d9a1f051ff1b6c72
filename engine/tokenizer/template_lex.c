#include "engine/tokenizer/template_lex.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"

void phi_lexer_fail(phi_lexer *lexer, phi_status status, const char *fmt, ...)
{
    if (lexer->status == PHI_OK) {
        char text[PHI_ERR_BYTES_MAX];
        va_list args;
        va_start(args, fmt);
        vsnprintf(text, sizeof text, fmt, args);
        va_end(args);
        lexer->status =
            phi_fail(lexer->err, status, "chat template, line %u: %s", lexer->line, text);
    }
    lexer->now = (phi_symbol){.kind = PHI_SYMBOL_END, .line = lexer->line, .text = ""};
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static void skip(phi_lexer *lexer, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        lexer->line += lexer->source[lexer->at++] == '\n';
    }
}

static bool opens_tag(const phi_lexer *lexer, size_t at)
{
    return at + 1 < lexer->bytes && lexer->source[at] == '{' &&
           (lexer->source[at + 1] == '%' || lexer->source[at + 1] == '{' ||
            lexer->source[at + 1] == '#');
}

/* lstrip_blocks: white space between the line's beginning and a block goes. */
static size_t strip_line_start(const char *text, size_t bytes, bool line_start)
{
    size_t end = bytes;
    while (end > 0 && is_space(text[end - 1]) && text[end - 1] != '\n') {
        end--;
    }
    bool whole_line = end == 0 ? line_start : text[end - 1] == '\n';
    return whole_line ? end : bytes;
}

/* After a tag's end: "-" takes all white space, otherwise blocks take one newline. */
static void after_tag(phi_lexer *lexer, char sign, bool trims)
{
    size_t from = lexer->at;
    if (sign == '-') {
        while (lexer->at < lexer->bytes && is_space(lexer->source[lexer->at])) {
            skip(lexer, 1);
        }
    } else if (trims && sign != '+' && lexer->at < lexer->bytes &&
               lexer->source[lexer->at] == '\n') {
        skip(lexer, 1);
    }
    lexer->line_start = lexer->at > from && lexer->source[lexer->at - 1] == '\n';
}

static void skip_comment(phi_lexer *lexer)
{
    const char *end = memmem(lexer->source + lexer->at, lexer->bytes - lexer->at, "#}", 2);
    if (!end) {
        phi_lexer_fail(lexer, PHI_E_FORMAT, "a comment is not closed");
        return;
    }
    size_t close = (size_t)(end - lexer->source);
    char sign = close > lexer->at ? lexer->source[close - 1] : 0;
    skip(lexer, close + 2 - lexer->at);
    after_tag(lexer, sign, true);
}

char phi_lexer_text(phi_lexer *lexer, const char **out_text, size_t *out_bytes)
{
    size_t begin = lexer->at;
    size_t end = begin;
    while (end < lexer->bytes && !opens_tag(lexer, end)) {
        end++;
    }
    *out_text = lexer->source + begin;
    *out_bytes = end - begin;
    skip(lexer, end - begin);
    if (end == lexer->bytes) {
        return 0;
    }
    char tag = lexer->source[end + 1];
    char sign = end + 2 < lexer->bytes ? lexer->source[end + 2] : 0;
    skip(lexer, sign == '-' || sign == '+' ? 3 : 2);
    if (sign == '-') {
        while (*out_bytes && is_space((*out_text)[*out_bytes - 1])) {
            --*out_bytes;
        }
    } else if (sign != '+' && tag != '{') {
        *out_bytes = strip_line_start(*out_text, *out_bytes, lexer->line_start);
    }
    lexer->line_start = false;
    if (tag == '#') {
        skip_comment(lexer);
    } else {
        lexer->tag = tag;
        phi_lexer_advance(lexer);
    }
    return tag;
}

/* ------------------------------------------------------------------------- inside of a tag ---- */

/* Copies [from, at) of the source as the symbol's text. */
static void take(phi_lexer *lexer, phi_symbol_kind kind, size_t from)
{
    size_t bytes = lexer->at - from;
    char *copy = phi_arena_take(lexer->arena, bytes + 1);
    if (!copy) {
        phi_lexer_fail(lexer, PHI_E_NO_MEMORY, "not enough memory");
        return;
    }
    memcpy(copy, lexer->source + from, bytes);
    copy[bytes] = '\0';
    lexer->now.kind = kind;
    lexer->now.text = copy;
    lexer->now.bytes = bytes;
}

static int hex_value(const char *text, size_t digits, uint32_t *out)
{
    uint32_t value = 0;
    for (size_t i = 0; i < digits; i++) {
        char c = text[i];
        uint32_t digit = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
                         : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a') + 10
                         : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A') + 10
                                                : 16;
        if (digit == 16) {
            return 0;
        }
        value = value * 16 + digit;
    }
    *out = value;
    return 1;
}

/* Writes what the escape at source[at] (behind the backslash) stands for; 0 for none known. */
static size_t unescape(const phi_lexer *lexer, size_t at, char *out, size_t *out_bytes)
{
    static const char names[] = "nrt\\'\"0";
    static const char values[] = "\n\r\t\\'\"";
    char c = lexer->source[at];
    const char *known = c ? strchr(names, c) : NULL;
    *out_bytes = 1;
    if (known && c != '0') {
        *out = values[known - names];
        return 1;
    }
    size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    uint32_t code = 0;
    if (digits && lexer->bytes - at > digits && hex_value(lexer->source + at + 1, digits, &code) &&
        code < 0x110000 && (code < 0xd800 || code > 0xdfff)) {
        *out_bytes = (size_t)phi_utf8_encode(code, out);
        return 1 + digits;
    }
    return 0;
}

static void take_string(phi_lexer *lexer)
{
    char quote = lexer->source[lexer->at];
    skip(lexer, 1);
    size_t end = lexer->at;
    while (end < lexer->bytes && lexer->source[end] != quote) {
        end += lexer->source[end] == '\\' && end + 1 < lexer->bytes ? 2 : 1;
    }
    if (end >= lexer->bytes) {
        phi_lexer_fail(lexer, PHI_E_FORMAT, "a string is not closed");
        return;
    }
    /* An escape is never shorter than what it stands for. */
    char *text = phi_arena_take(lexer->arena, end - lexer->at + 5);
    if (!text) {
        phi_lexer_fail(lexer, PHI_E_NO_MEMORY, "not enough memory");
        return;
    }
    size_t bytes = 0;
    while (lexer->at < end) {
        size_t written = 0;
        size_t used = lexer->source[lexer->at] == '\\'
                          ? unescape(lexer, lexer->at + 1, text + bytes, &written)
                          : 0;
        if (used) {
            bytes += written;
            skip(lexer, 1 + used);
        } else {
            text[bytes++] = lexer->source[lexer->at];
            skip(lexer, 1);
        }
    }
    text[bytes] = '\0';
    skip(lexer, 1);
    lexer->now.kind = PHI_SYMBOL_STRING;
    lexer->now.text = text;
    lexer->now.bytes = bytes;
}

static bool is_name_char(char c)
{
    return c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

static void take_word(phi_lexer *lexer)
{
    size_t from = lexer->at;
    bool number = lexer->source[from] >= '0' && lexer->source[from] <= '9';
    while (lexer->at < lexer->bytes && is_name_char(lexer->source[lexer->at])) {
        lexer->at++;
    }
    take(lexer, number ? PHI_SYMBOL_INT : PHI_SYMBOL_NAME, from);
    uint64_t value = 0;
    bool fraction = number && lexer->at + 1 < lexer->bytes && lexer->source[lexer->at] == '.' &&
                    lexer->source[lexer->at + 1] >= '0' && lexer->source[lexer->at + 1] <= '9';
    if (number && lexer->status == PHI_OK) {
        if (fraction || !phi_str_parse_u64(lexer->now.text, INT64_MAX, &value)) {
            phi_lexer_fail(lexer, PHI_E_UNSUPPORTED,
                           "numbers other than whole ones are not supported");
            return;
        }
        lexer->now.integer = (int64_t)value;
    }
}

/* Closes the tag when its end is here. */
static bool take_end(phi_lexer *lexer)
{
    const char *at = lexer->source + lexer->at;
    size_t left = lexer->bytes - lexer->at;
    char close = lexer->tag == '{' ? '}' : '%';
    char sign =
        left > 2 && (at[0] == '-' || at[0] == '+') && at[1] == close && at[2] == '}' ? at[0] : 0;
    if (!sign && (left < 2 || at[0] != close || at[1] != '}')) {
        return false;
    }
    skip(lexer, sign ? 3 : 2);
    after_tag(lexer, sign, lexer->tag == '%');
    lexer->tag = 0;
    return true;
}

void phi_lexer_advance(phi_lexer *lexer)
{
    lexer->now = (phi_symbol){.kind = PHI_SYMBOL_END, .line = lexer->line, .text = ""};
    if (lexer->status != PHI_OK || lexer->tag == 0) {
        return;
    }
    while (lexer->at < lexer->bytes && is_space(lexer->source[lexer->at])) {
        skip(lexer, 1);
    }
    lexer->now.line = lexer->line;
    if (lexer->at == lexer->bytes) {
        phi_lexer_fail(lexer, PHI_E_FORMAT, "a tag is not closed");
        return;
    }
    if (take_end(lexer)) {
        return;
    }
    char c = lexer->source[lexer->at];
    if (c == '\'' || c == '"') {
        take_string(lexer);
    } else if (is_name_char(c)) {
        take_word(lexer);
    } else {
        static const char doubles[][3] = {"==", "!=", "<=", ">=", "//", "**"};
        size_t length = 1;
        for (size_t i = 0; i < sizeof doubles / sizeof *doubles; i++) {
            if (lexer->bytes - lexer->at > 1 &&
                memcmp(lexer->source + lexer->at, doubles[i], 2) == 0) {
                length = 2;
            }
        }
        lexer->at += length;
        take(lexer, PHI_SYMBOL_OPERATOR, lexer->at - length);
    }
}

bool phi_lexer_is(const phi_lexer *lexer, const char *text)
{
    return (lexer->now.kind == PHI_SYMBOL_NAME || lexer->now.kind == PHI_SYMBOL_OPERATOR) &&
           strcmp(lexer->now.text, text) == 0;
}

bool phi_lexer_accept(phi_lexer *lexer, const char *text)
{
    if (!phi_lexer_is(lexer, text)) {
        return false;
    }
    phi_lexer_advance(lexer);
    return true;
}

bool phi_lexer_expect(phi_lexer *lexer, const char *text)
{
    if (!phi_lexer_accept(lexer, text)) {
        phi_lexer_fail(lexer, PHI_E_UNSUPPORTED, "\"%s\" is expected before \"%.40s\"", text,
                       lexer->now.text);
        return false;
    }
    return true;
}
