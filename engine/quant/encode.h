/*
 * Purpose: rows of floats to file rows of the types that phid writes: elements, and GGUF's blocks.
 * Owns:    nothing.
 * Threads: any; functions are pure.
 * Errors:  false for a value that the type cannot hold: not finite, or beyond its range.
 * Limits:  groups of 32, 64 and 128 columns. Not written: Q2_K, Q3_K, Q8_K, IQ4_XS, MXFP4.
 *
 * A group of 64 or 128 is 2 or 4 neighbouring blocks with the same scale (and offset): any reader
 * of GGUF reads it.
 */
#ifndef PHI_ENGINE_QUANT_ENCODE_H
#define PHI_ENGINE_QUANT_ENCODE_H

#include "engine/tensor/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct phi_encoding {
    phi_dtype dtype;
    uint32_t group; /* columns that share a scale: 32, 64 or 128 for Q4_0, Q4_1, Q5_0 and Q5_1;
                       else unused */
    bool search;    /* types of fewer than 8 bits: least squared error, not as ggml does it */
} phi_encoding;

/* True for the group sizes that can be asked for. */
bool phi_encode_group_is_valid(uint32_t group);
/* True when rows of `cols` columns are whole groups of this encoding. */
bool phi_encode_divides(const phi_encoding *encoding, uint32_t cols);
/* `out` takes phi_dtype_row_bytes(dtype, cols); `cols` is whole groups. */
bool phi_encode_row(const phi_encoding *encoding, const float *x, size_t cols, void *out);
/* A row of Q4_0, Q4_1 or Q8_0 whose codes are there: unsigned, 0..15 or 0..255, with a scale and,
 * for Q4_1, an offset for each block of 32, which fp16 holds. */
void phi_encode_codes(phi_dtype dtype, const uint8_t *codes, const float *scales,
                      const float *offsets, size_t cols, void *out);

#endif
