/*
 * Purpose: stop at once on a bug of our own. Kept in release builds.
 * Owns:    nothing.
 * Threads: any.
 * Errors:  a failed assert prints file, line and condition to stderr and aborts.
 * Limits:  never for what a file, a client or the system can cause: that is a phi_status.
 */
#ifndef PHI_BASE_ASSERT_H
#define PHI_BASE_ASSERT_H

#define PHI_ASSERT(cond)                                                                           \
    do {                                                                                           \
        if (__builtin_expect(!(cond), 0)) {                                                        \
            phi_assert_failed(__FILE__, __LINE__, #cond);                                          \
        }                                                                                          \
    } while (0)

#define PHI_UNREACHABLE() phi_assert_failed(__FILE__, __LINE__, "unreachable")

_Noreturn void phi_assert_failed(const char *file, int line, const char *condition);

#endif
