/*
 * Purpose: size arithmetic on numbers that come from files or clients.
 * Owns:    nothing.
 * Threads: any.
 * Errors:  each returns false on overflow and leaves *out untouched.
 * Limits:  none.
 */
#ifndef PHI_BASE_CHECKED_H
#define PHI_BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool phi_checked_add(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t sum;
    if (__builtin_add_overflow(a, b, &sum)) {
        return false;
    }
    *out = sum;
    return true;
}

static inline bool phi_checked_mul(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t product;
    if (__builtin_mul_overflow(a, b, &product)) {
        return false;
    }
    *out = product;
    return true;
}

/* True when [offset, offset + length) lies inside [0, total). */
static inline bool phi_checked_range(uint64_t offset, uint64_t length, uint64_t total)
{
    return length <= total && offset <= total - length;
}

#endif
