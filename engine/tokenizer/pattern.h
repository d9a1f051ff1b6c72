/*
 * Purpose: the regular expressions of tokenizer files, over PCRE2.
 * Owns:    phi_pattern owns its compiled code; phi_pattern_work the scratch of one matching thread.
 * Threads: a pattern is read-only after compile: [any]; work belongs to one thread.
 * Errors:  a pattern that does not compile is PHI_E_UNSUPPORTED with PCRE2's reason; one that needs
 *          too many steps or too much time on a text is PHI_E_LIMIT.
 * Limits:  PHI_LIMIT_PATTERN_*. The time is that of all searches with one phi_pattern_work, which
 *          is made for one text.
 *
 * "\s" and "\S" are rewritten to Unicode's White_Space: PCRE2's own set also has U+180E, which
 * Unicode 6.3 took out of White_Space and which the references do not count.
 */
#ifndef PHI_ENGINE_TOKENIZER_PATTERN_H
#define PHI_ENGINE_TOKENIZER_PATTERN_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct phi_pattern phi_pattern;
typedef struct phi_pattern_work phi_pattern_work;

/* `literal`: the text itself is searched, not an expression. `where` names the place in messages.
 */
phi_status phi_pattern_compile(const char *source, size_t bytes, bool literal, const char *where,
                               phi_pattern **out_pattern, phi_err *err) PHI_MUST_CHECK;
void phi_pattern_destroy(phi_pattern *pattern);
/* As given to compile. */
const char *phi_pattern_source(const phi_pattern *pattern);

/* For the searches of one text; NULL when out of memory. */
phi_pattern_work *phi_pattern_work_create(size_t text_bytes);
void phi_pattern_work_destroy(phi_pattern_work *work);

/* First match at or after `start`; *out_found tells whether there is one. `text` is valid UTF-8. */
phi_status phi_pattern_find(const phi_pattern *pattern, phi_pattern_work *work, const char *text,
                            size_t bytes, size_t start, bool *out_found, size_t *out_begin,
                            size_t *out_end, phi_err *err) PHI_MUST_CHECK;

#endif
