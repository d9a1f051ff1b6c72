/*
 * Purpose: a growing run of bytes with a cap; always NUL-terminated for convenience.
 * Owns:    its memory, from phi_buf_init to phi_buf_done or phi_buf_take.
 * Threads: one at a time.
 * Errors:  appending past the cap or out of memory returns PHI_E_LIMIT or PHI_E_NO_MEMORY, leaves
 *          the content as it was, and marks the buffer failed; phi_buf_failed tells at the end, so
 *          that a run of appends need not check each.
 * Limits:  the cap given at init, in bytes.
 */
#ifndef PHI_BASE_BUF_H
#define PHI_BASE_BUF_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct phi_buf {
    char *data; /* NULL while empty */
    size_t length_bytes;
    size_t capacity_bytes;
    size_t max_bytes;
    phi_status failed; /* the first failure, or PHI_OK */
} phi_buf;

void phi_buf_init(phi_buf *buf, size_t max_bytes);
void phi_buf_done(phi_buf *buf);
/* Empties, keeps the memory, clears the failure. */
void phi_buf_clear(phi_buf *buf);
phi_status phi_buf_append(phi_buf *buf, const void *data, size_t bytes);
phi_status phi_buf_append_str(phi_buf *buf, const char *text);
phi_status phi_buf_append_char(phi_buf *buf, char c);
phi_status phi_buf_printf(phi_buf *buf, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Drops the first `bytes` bytes. */
void phi_buf_consume(phi_buf *buf, size_t bytes);
/* View of the content as a C string, "" when empty; valid until the next change. */
const char *phi_buf_text(const phi_buf *buf);
/* Gives the memory to the caller (phi_free) and empties the buffer; never NULL. */
char *phi_buf_take(phi_buf *buf);
static inline bool phi_buf_failed(const phi_buf *buf)
{
    return buf->failed != PHI_OK;
}

#endif
