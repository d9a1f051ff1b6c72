/*
 * Purpose: the 16 rows of a weight block, as files hold them, woven into the block's layout.
 * Owns:    nothing.
 * Threads: any.
 * Errors:  none.
 * Limits:  none.
 *
 * Row r begins r * stride bytes after `from`, at any address. What is read lies in 16 streams, what
 * is written in one.
 */
#ifndef PHI_ENGINE_TENSOR_INTERLEAVE_H
#define PHI_ENGINE_TENSOR_INTERLEAVE_H

#include <stddef.h>
#include <stdint.h>

/* `count` words of 4 bytes of each row, each word XORed with `flip`; out: [count][16 rows]. */
void phi_interleave_words(const uint8_t *from, size_t stride, size_t count, uint32_t flip,
                          uint8_t *out);
/* `count` words of 2 bytes of each row; out: [count][16 rows]. */
void phi_interleave_halves(const uint8_t *from, size_t stride, size_t count, uint8_t *out);

#endif
