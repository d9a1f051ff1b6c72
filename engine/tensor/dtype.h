/*
 * Purpose: how numbers are stored in files: element and block types, their sizes, their values.
 * Owns:    nothing. Threads: any. Errors: none.
 * Limits:  types that this program does not read are absent, so that looking one up fails.
 *
 * Block layouts: blocks.h.
 */
#ifndef PHI_ENGINE_TENSOR_DTYPE_H
#define PHI_ENGINE_TENSOR_DTYPE_H

#include "engine/tensor/blocks.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum phi_dtype {
    PHI_DTYPE_F32,
    PHI_DTYPE_F16,
    PHI_DTYPE_BF16,
    PHI_DTYPE_Q8_0,
    PHI_DTYPE_Q4_0,
    PHI_DTYPE_Q4_1,
    PHI_DTYPE_Q5_0,
    PHI_DTYPE_Q5_1,
    PHI_DTYPE_Q2_K,
    PHI_DTYPE_Q3_K,
    PHI_DTYPE_Q4_K,
    PHI_DTYPE_Q5_K,
    PHI_DTYPE_Q6_K,
    PHI_DTYPE_Q8_K,
    PHI_DTYPE_IQ4_NL,
    PHI_DTYPE_IQ4_XS,
    PHI_DTYPE_MXFP4,
    PHI_DTYPE_COUNT,
} phi_dtype;

/* Block types are integers times a scale for each group, plus an offset if there are any:
 *   code_bits 4, no offsets  w = scale * (code - 8)
 *   code_bits 4, offsets     w = scale * code + offset
 *   code_bits 8              w = scale * code (+ offset), code in two's complement */
typedef struct phi_dtype_info {
    const char *name;        /* "Q4_0" */
    uint32_t block_elements; /* 1 for plain types */
    uint32_t block_bytes;
    uint32_t ggml_type; /* GGUF's number */
    uint32_t group;     /* elements that share a scale; 0 for plain types, as are the others */
    uint8_t code_bits;  /* 4 or 8: what holds the codes */
    bool has_offsets;
    bool wide; /* scales and offsets are products, or powers, that fp16 does not have */
} phi_dtype_info;

const phi_dtype_info *phi_dtype_get(phi_dtype dtype);
bool phi_dtype_of_ggml(uint32_t ggml_type, phi_dtype *out_dtype);
/* Bytes of a row of `elements`; false if it is not a whole number of blocks or overflows. */
bool phi_dtype_row_bytes(phi_dtype dtype, uint64_t elements, uint64_t *out_bytes);
/* Widens `elements` (whole blocks) from `src` (any alignment) to float: the products and sums of
 * ggml in its order, so that every float is the same. */
void phi_dtype_widen(phi_dtype dtype, const void *src, size_t elements, float *out);
/* The same elements of a block type as the integers that they are: codes [elements], scales and
 * offsets [elements / group]; offsets may be NULL for a type that has none. */
void phi_dtype_codes(phi_dtype dtype, const void *src, size_t elements, uint8_t *codes,
                     float *scales, float *offsets);

#endif
