/*
 * Purpose: the only way to memory.
 * Owns:    nothing; the caller frees with phi_free.
 * Threads: any.
 * Errors:  phi_alloc and friends never return NULL: out of memory for a size that we bound
 *          ourselves ends the process with a message. phi_try_* return NULL and are for sizes that
 *          a file or a client determines; the caller then answers PHI_E_NO_MEMORY.
 * Limits:  phi_mem_fail_after lets tests make the n-th phi_try_* allocation fail.
 */
#ifndef PHI_BASE_MEM_H
#define PHI_BASE_MEM_H

#include <stddef.h>
#include <stdint.h>

void *phi_alloc(size_t bytes) __attribute__((malloc, returns_nonnull));
/* Zeroed array of `count` elements. */
void *phi_alloc_zero(size_t count, size_t size) __attribute__((malloc, returns_nonnull));
void *phi_realloc(void *ptr, size_t bytes) __attribute__((returns_nonnull));
char *phi_strdup(const char *text) __attribute__((malloc, returns_nonnull));
char *phi_strndup(const char *text, size_t bytes) __attribute__((malloc, returns_nonnull));
/* printf into fresh memory. */
char *phi_strfmt(const char *fmt, ...) __attribute__((format(printf, 1, 2), returns_nonnull));

void *phi_try_alloc(size_t bytes) __attribute__((malloc));
void *phi_try_alloc_zero(size_t count, size_t size) __attribute__((malloc));
void *phi_try_realloc(void *ptr, size_t bytes);
/* Aligned to 64 bytes, for vectors; free with phi_free. `bytes` is rounded up to 64. */
void *phi_try_alloc_aligned(size_t bytes) __attribute__((malloc));

/* Accepts NULL. */
void phi_free(void *ptr);

/* Test hook: the n-th phi_try_* from now (0 = the next) returns NULL, once. Negative: off. */
void phi_mem_fail_after(int64_t n);
/* Allocations made so far by this process through this header, for tests that count. */
uint64_t phi_mem_allocations(void);

#endif
