/*
 * Purpose: which kind of thread is running, so that entry points can assert it.
 * Owns:    one thread-local role.
 * Threads: any.
 * Errors:  PHI_ASSERT_ROLE aborts on a wrong role; a thread that never set one passes every check
 *          (unit tests, command line tools).
 * Limits:  none.
 */
#ifndef PHI_BASE_THREAD_H
#define PHI_BASE_THREAD_H

#include "base/assert.h"

#include <stdbool.h>

typedef enum phi_role {
    PHI_ROLE_NONE = 0,
    PHI_ROLE_LOOP = 1,   /* [loop]   libuv + libmicrohttpd; never blocks */
    PHI_ROLE_ENGINE = 2, /* [engine] the scheduler thread: sequences, KV, sampling */
    PHI_ROLE_TEAM = 4,   /* [team]   slices of kernels, nothing else */
    PHI_ROLE_JOB = 8,    /* [job]    libuv's worker pool: what blocks or computes */
} phi_role;

/* Sets the calling thread's role and, where the system lets it, its name. */
void phi_thread_set_role(phi_role role, const char *name);
bool phi_thread_has_role(unsigned roles);

#define PHI_ASSERT_ROLE(roles) PHI_ASSERT(phi_thread_has_role(roles))

#endif
