#include "engine/tokenizer/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>
#include <time.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "config/limits.h"

/*
 * A hostile pattern is slow in three ways: it goes back again and again (steps, which PCRE2 counts,
 * but from nothing at each place where a match may begin), it begins at many places, and each step
 * scans what is left of the text. So a search first looks at a few places with so few steps that
 * even scans of all that is left are soon done, which is enough for nearly every word. What that
 * does not find is searched for with `watched`, the same pattern with a call out of PCRE2 before
 * every item of it, where the time is looked at.
 */
struct phi_pattern {
    pcre2_code *code;
    pcre2_code *watched;
    char *source;
    char *where;
};

struct phi_pattern_work {
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
    uint64_t spent_ns;   /* in earlier searches */
    uint64_t budget_ns;  /* of all searches */
    uint64_t cpu_ns;     /* of the thread, when the work was made */
    uint64_t started_ns; /* this search */
    uint64_t unwatched;  /* bytes that may have been scanned since the time was looked at */
};

/* Of a search without calls: places to begin at, and steps and bytes (as steps that scan all that
 * is left) that one of them may take. */
#define QUICK_PLACES 4U
#define QUICK_STEPS_MIN 64U
#define QUICK_STEPS_MAX 4096U
#define QUICK_SCAN_BYTES (64U << 20)
/* Between two looks at the time. */
#define WATCH_SCAN_BYTES (1U << 20)

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

static phi_status compile(const phi_buf *text, uint32_t options, const char *where,
                          pcre2_code **out_code, phi_err *err)
{
    int code = 0;
    PCRE2_SIZE at = 0;
    pcre2_code *compiled =
        pcre2_compile((PCRE2_SPTR)text->data, text->length_bytes, options, &code, &at, NULL);
    if (!compiled) {
        PCRE2_UCHAR reason[160] = "";
        pcre2_get_error_message(code, reason, sizeof reason);
        return phi_fail(err, PHI_E_UNSUPPORTED, "%s: the pattern is not understood: %s", where,
                        (const char *)reason);
    }
    /* Without JIT the same matches are found more slowly. */
    (void)pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);
    *out_code = compiled;
    return PHI_OK;
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
    pcre2_code *quick = NULL;
    pcre2_code *watched = NULL;
    phi_status status = compile(&text, options | PCRE2_USE_OFFSET_LIMIT, where, &quick, err);
    status = status ? status : compile(&text, options | PCRE2_AUTO_CALLOUT, where, &watched, err);
    phi_buf_done(&text);
    if (status) {
        pcre2_code_free(quick);
        return status;
    }
    phi_pattern *pattern = phi_alloc(sizeof *pattern);
    pattern->code = quick;
    pattern->watched = watched;
    pattern->source = phi_strndup(source, bytes);
    pattern->where = phi_strdup(where);
    *out_pattern = pattern;
    return PHI_OK;
}

void phi_pattern_destroy(phi_pattern *pattern)
{
    if (pattern) {
        pcre2_code_free(pattern->code);
        pcre2_code_free(pattern->watched);
        phi_free(pattern->source);
        phi_free(pattern->where);
        phi_free(pattern);
    }
}

const char *phi_pattern_source(const phi_pattern *pattern)
{
    return pattern->source;
}

static uint64_t thread_cpu_ns(void)
{
    struct timespec now = {0};
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

/* By the thread's own clock too: on a machine that is busy a thread waits, and has done nothing. */
static bool is_over(const phi_pattern_work *work, uint64_t now_ns)
{
    return work->spent_ns + (now_ns - work->started_ns) > work->budget_ns &&
           thread_cpu_ns() - work->cpu_ns > work->budget_ns;
}

static int watch(pcre2_callout_block *at, void *user)
{
    phi_pattern_work *work = user;
    work->unwatched += at->subject_length - at->start_match + 64;
    if (work->unwatched < WATCH_SCAN_BYTES) {
        return 0;
    }
    work->unwatched = 0;
    return is_over(work, phi_clock_ns()) ? PCRE2_ERROR_CALLOUT : 0;
}

phi_pattern_work *phi_pattern_work_create(size_t text_bytes)
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
    work->budget_ns = PHI_LIMIT_PATTERN_NS + (uint64_t)text_bytes * PHI_LIMIT_PATTERN_NS_PER_BYTE;
    work->cpu_ns = thread_cpu_ns();
    (void)pcre2_set_callout(work->context, watch, work);
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

static int match(const pcre2_code *code, phi_pattern_work *work, const char *text, size_t bytes,
                 size_t start)
{
    int rc = pcre2_match(code, (PCRE2_SPTR)text, bytes, start, PCRE2_NO_UTF_CHECK, work->match,
                         work->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT && grow_stack(work)) {
        rc = pcre2_match(code, (PCRE2_SPTR)text, bytes, start, PCRE2_NO_UTF_CHECK, work->match,
                         work->context);
    }
    return rc;
}

static int search(const phi_pattern *pattern, phi_pattern_work *work, const char *text,
                  size_t bytes, size_t start)
{
    size_t left = bytes - start;
    size_t steps = QUICK_SCAN_BYTES / QUICK_PLACES / (left + 1);
    steps = steps < QUICK_STEPS_MIN ? QUICK_STEPS_MIN : steps;
    steps = steps > QUICK_STEPS_MAX ? QUICK_STEPS_MAX : steps;
    pcre2_set_match_limit(work->context, (uint32_t)steps);
    pcre2_set_offset_limit(work->context, start + QUICK_PLACES);
    int rc = match(pattern->code, work, text, bytes, start);
    if (rc >= 0 || (rc == PCRE2_ERROR_NOMATCH && left <= QUICK_PLACES)) {
        return rc;
    }
    pcre2_set_match_limit(work->context, PHI_LIMIT_PATTERN_STEPS);
    pcre2_set_offset_limit(work->context, PCRE2_UNSET);
    return match(pattern->watched, work, text, bytes, start);
}

/* Ends a search; whether the text has had its time. */
static bool note_time(phi_pattern_work *work)
{
    uint64_t now_ns = phi_clock_ns();
    bool over = is_over(work, now_ns);
    work->spent_ns += now_ns - work->started_ns;
    return over;
}

static phi_status fail_slow(const phi_pattern *pattern, const phi_pattern_work *work, size_t bytes,
                            phi_err *err)
{
    return phi_fail(err, PHI_E_LIMIT,
                    "%s: the pattern is too slow on this text of %zu bytes: it was given up after "
                    "%.1f s; the pattern must not search the same text again and again",
                    pattern->where, bytes, (double)work->budget_ns / 1e9);
}

phi_status phi_pattern_find(const phi_pattern *pattern, phi_pattern_work *work, const char *text,
                            size_t bytes, size_t start, bool *out_found, size_t *out_begin,
                            size_t *out_end, phi_err *err)
{
    work->started_ns = phi_clock_ns();
    int rc = search(pattern, work, text, bytes, start);
    if (note_time(work) || rc == PCRE2_ERROR_CALLOUT) {
        return fail_slow(pattern, work, bytes, err);
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
