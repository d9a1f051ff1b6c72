#include "engine/tokenizer/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "config/limits.h"

struct phi_pattern {
    pcre2_code *code;
    char *source;
    char *where;
};

struct phi_pattern_work {
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

/* Unicode's White_Space, and its complement, as ranges for the inside of a class. */
#define SPACE_RANGES                                                                               \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"    \
    "\\x{205f}\\x{3000}"
#define NON_SPACE_RANGES                                                                           \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}"                   \
    "\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}"                 \
    "\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"

/* Oniguruma, whose syntax these files use, and PCRE2 agree on these escapes of a letter. */
#define SHARED_ESCAPES "sSdDwWpPrntfbBAzZx"

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* What the two read differently inside a class: intersections and classes within classes. */
static bool is_foreign_class_syntax(const char *at, size_t bytes)
{
    return at[0] == '[' || (at[0] == '&' && bytes > 1 && at[1] == '&');
}

/* Copies the escape at source[*at], with \s and \S spelt out. */
static bool rewrite_escape(const char *source, size_t bytes, size_t *at, bool in_class,
                           phi_buf *out)
{
    if (*at + 1 >= bytes) {
        return false;
    }
    char next = source[++*at];
    if (is_letter(next) && !strchr(SHARED_ESCAPES, next)) {
        return false;
    }
    if (next == 's') {
        phi_buf_append_str(out, in_class ? SPACE_RANGES : "[" SPACE_RANGES "]");
    } else if (next == 'S') {
        phi_buf_append_str(out, in_class ? NON_SPACE_RANGES : "[^" SPACE_RANGES "]");
    } else {
        phi_buf_append(out, source + *at - 1, 2);
    }
    return true;
}

/* Returns false at something that PCRE2 would read differently. */
static bool rewrite(const char *source, size_t bytes, phi_buf *out)
{
    bool in_class = false;
    for (size_t i = 0; i < bytes; i++) {
        char c = source[i];
        if (c == '\\') {
            if (!rewrite_escape(source, bytes, &i, in_class, out)) {
                return false;
            }
            continue;
        }
        if (in_class && is_foreign_class_syntax(source + i, bytes - i)) {
            return false;
        }
        phi_buf_append_char(out, c);
        if (!in_class && c == '[') {
            in_class = true;
            if (i + 1 < bytes && source[i + 1] == '^') {
                phi_buf_append_char(out, source[++i]);
            }
            /* A bracket right after the opening one stands for itself. */
            if (i + 1 < bytes && source[i + 1] == ']') {
                phi_buf_append_char(out, source[++i]);
            }
        } else if (in_class && c == ']') {
            in_class = false;
        }
    }
    return true;
}

phi_status phi_pattern_compile(const char *source, size_t bytes, bool literal, const char *where,
                               phi_pattern **out_pattern, phi_err *err)
{
    if (bytes == 0 || bytes > PHI_LIMIT_PATTERN_BYTES) {
        return phi_fail(err, PHI_E_LIMIT, "%s: a pattern has 1 to %u bytes, this one %zu", where,
                        PHI_LIMIT_PATTERN_BYTES, bytes);
    }
    phi_buf text;
    phi_buf_init(&text, (size_t)PHI_LIMIT_PATTERN_BYTES * sizeof NON_SPACE_RANGES);
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C;
    if (literal) {
        options = PCRE2_UTF | PCRE2_LITERAL;
        phi_buf_append(&text, source, bytes);
    } else if (!rewrite(source, bytes, &text)) {
        phi_buf_done(&text);
        return phi_fail(err, PHI_E_UNSUPPORTED,
                        "%s: the pattern uses an escape or class syntax that is not supported",
                        where);
    }
    if (phi_buf_failed(&text)) {
        phi_buf_done(&text);
        return phi_fail(err, PHI_E_NO_MEMORY, "%s: not enough memory for the pattern", where);
    }
    int code = 0;
    PCRE2_SIZE at = 0;
    pcre2_code *compiled =
        pcre2_compile((PCRE2_SPTR)text.data, text.length_bytes, options, &code, &at, NULL);
    phi_buf_done(&text);
    if (!compiled) {
        PCRE2_UCHAR reason[160] = "";
        pcre2_get_error_message(code, reason, sizeof reason);
        return phi_fail(err, PHI_E_UNSUPPORTED, "%s: the pattern is not understood: %s", where,
                        (const char *)reason);
    }
    /* Without JIT the same matches are found more slowly. */
    (void)pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);
    phi_pattern *pattern = phi_alloc(sizeof *pattern);
    pattern->code = compiled;
    pattern->source = phi_strndup(source, bytes);
    pattern->where = phi_strdup(where);
    *out_pattern = pattern;
    return PHI_OK;
}

void phi_pattern_destroy(phi_pattern *pattern)
{
    if (pattern) {
        pcre2_code_free(pattern->code);
        phi_free(pattern->source);
        phi_free(pattern->where);
        phi_free(pattern);
    }
}

const char *phi_pattern_source(const phi_pattern *pattern)
{
    return pattern->source;
}

phi_pattern_work *phi_pattern_work_create(void)
{
    phi_pattern_work *work = phi_try_alloc_zero(1, sizeof *work);
    if (!work) {
        return NULL;
    }
    /* One pair: only the whole match is looked at. */
    work->match = pcre2_match_data_create(1, NULL);
    work->context = pcre2_match_context_create(NULL);
    if (!work->match || !work->context) {
        phi_pattern_work_destroy(work);
        return NULL;
    }
    pcre2_set_match_limit(work->context, PHI_LIMIT_PATTERN_STEPS);
    pcre2_set_depth_limit(work->context, PHI_LIMIT_PATTERN_STEPS);
    pcre2_set_heap_limit(work->context, 64U << 10); /* KiB */
    return work;
}

void phi_pattern_work_destroy(phi_pattern_work *work)
{
    if (work) {
        pcre2_match_data_free(work->match);
        pcre2_match_context_free(work->context);
        pcre2_jit_stack_free(work->stack);
        phi_free(work);
    }
}

static int match(const phi_pattern *pattern, phi_pattern_work *work, const char *text, size_t bytes,
                 size_t start)
{
    return pcre2_match(pattern->code, (PCRE2_SPTR)text, bytes, start, PCRE2_NO_UTF_CHECK,
                       work->match, work->context);
}

/* Most matches do with the 32 KiB of the machine's stack that PCRE2 takes by itself. */
static bool grow_stack(phi_pattern_work *work)
{
    if (work->stack) {
        return false;
    }
    work->stack = pcre2_jit_stack_create(64U << 10, 1U << 20, NULL);
    if (work->stack) {
        pcre2_jit_stack_assign(work->context, NULL, work->stack);
    }
    return work->stack != NULL;
}

phi_status phi_pattern_find(const phi_pattern *pattern, phi_pattern_work *work, const char *text,
                            size_t bytes, size_t start, bool *out_found, size_t *out_begin,
                            size_t *out_end, phi_err *err)
{
    int rc = match(pattern, work, text, bytes, start);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT && grow_stack(work)) {
        rc = match(pattern, work, text, bytes, start);
    }
    if (rc == PCRE2_ERROR_NOMATCH) {
        *out_found = false;
        return PHI_OK;
    }
    if (rc < 0) {
        PCRE2_UCHAR reason[160] = "";
        pcre2_get_error_message(rc, reason, sizeof reason);
        return phi_fail(err, PHI_E_LIMIT, "%s: the pattern gives up on this text: %s",
                        pattern->where, (const char *)reason);
    }
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(work->match);
    /* \K can put the start behind the end or before `start`; such a match is none. */
    *out_found = at[0] >= start && at[1] >= at[0];
    *out_begin = at[0];
    *out_end = at[1];
    return PHI_OK;
}
