/*
 * Purpose: a checksum at the speed of memory, against damage, not against attackers.
 * Owns:    nothing.
 * Threads: any.
 * Errors:  none.
 * Limits:  64 bits. A change within one aligned word of 8 bytes is always seen; others escape
 *          with a probability of about 2^-64.
 */
#ifndef PHI_BASE_CHECKSUM_H
#define PHI_BASE_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* The sum of `data`; the same on every machine. Long data may be summed in pieces by several
 * threads and the pieces' sums in order once more. */
uint64_t phi_checksum(const void *data, size_t bytes);

#endif
