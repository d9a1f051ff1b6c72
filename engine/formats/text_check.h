/*
 * Purpose: how the readers name files in messages, and which names inside files they accept.
 * Owns:    nothing.
 * Threads: any.
 * Errors:  none.
 * Limits:  none.
 */
#ifndef PHI_ENGINE_FORMATS_TEXT_CHECK_H
#define PHI_ENGINE_FORMATS_TEXT_CHECK_H

#include <stdbool.h>
#include <stddef.h>

/* View of the last component of `path`: messages name the file, not where a server keeps it. */
const char *phi_path_label(const char *path);
/* True for a non-empty name in valid UTF-8 without control characters: keys and tensor names go
 * into messages, logs and JSON. */
bool phi_name_is_clean(const char *name, size_t bytes);
/* True for a plain file name: clean, no path separator, not hidden, no "..". */
bool phi_name_is_plain_file(const char *name);
/* Copies at most out_bytes - 1 bytes of `text`, cut at a character boundary, and a NUL. */
void phi_name_copy(const char *text, size_t bytes, char *out, size_t out_bytes);

#endif
