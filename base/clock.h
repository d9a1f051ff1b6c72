/*
 * Purpose: time. Owns: nothing. Threads: any. Errors: none. Limits: none.
 */
#ifndef PHI_BASE_CLOCK_H
#define PHI_BASE_CLOCK_H

#include <stdint.h>

/* Monotonic; for durations. */
uint64_t phi_clock_ns(void);
/* Seconds since 1970 UTC; for what users see. */
int64_t phi_clock_unix_s(void);

#endif
