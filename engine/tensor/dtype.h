/*
 * Purpose: how numbers are stored in files: element and block types, their sizes.
 * Owns:    nothing. Threads: any. Errors: none.
 * Limits:  types that this program does not read are absent, so that looking one up fails.
 *
 * Block layouts: GGUF's, "ggml/src/ggml-common.h" (block_q4_0, block_q4_1, block_q8_0).
 */
#ifndef PHI_ENGINE_TENSOR_DTYPE_H
#define PHI_ENGINE_TENSOR_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum phi_dtype {
    PHI_DTYPE_F32,
    PHI_DTYPE_F16,
    PHI_DTYPE_BF16,
    PHI_DTYPE_Q8_0, /* 32 elements: fp16 d, 32 int8 codes;            w = d * q */
    PHI_DTYPE_Q4_0, /* 32 elements: fp16 d, 16 bytes of nibbles;      w = d * (q - 8) */
    PHI_DTYPE_Q4_1, /* 32 elements: fp16 d, fp16 m, 16 bytes nibbles; w = d * q + m */
    PHI_DTYPE_COUNT,
} phi_dtype;

#define PHI_BLOCK_ELEMENTS 32

/* On-disk blocks, little endian, without padding. Nibble j (low) is element j, high is j + 16. */
typedef struct phi_block_q8_0 {
    uint16_t d;
    int8_t codes[32];
} phi_block_q8_0;
typedef struct phi_block_q4_0 {
    uint16_t d;
    uint8_t nibbles[16];
} phi_block_q4_0;
typedef struct phi_block_q4_1 {
    uint16_t d;
    uint16_t m;
    uint8_t nibbles[16];
} phi_block_q4_1;
_Static_assert(sizeof(phi_block_q8_0) == 34, "Q8_0 block");
_Static_assert(sizeof(phi_block_q4_0) == 18, "Q4_0 block");
_Static_assert(sizeof(phi_block_q4_1) == 20, "Q4_1 block");

typedef struct phi_dtype_info {
    const char *name;        /* "Q4_0" */
    uint32_t block_elements; /* 1 for plain types */
    uint32_t block_bytes;
    uint32_t ggml_type; /* GGUF's number */
} phi_dtype_info;

const phi_dtype_info *phi_dtype_get(phi_dtype dtype);
bool phi_dtype_of_ggml(uint32_t ggml_type, phi_dtype *out_dtype);
/* Bytes of a row of `elements`; false if it is not a whole number of blocks or overflows. */
bool phi_dtype_row_bytes(phi_dtype dtype, uint64_t elements, uint64_t *out_bytes);
/* Widens `elements` (whole blocks) from `src` (any alignment) to float; exact. */
void phi_dtype_widen(phi_dtype dtype, const void *src, size_t elements, float *out);

#endif
