/*
 * Purpose: GGUF's blocks as they lie in files, and each of them as the integers that it is.
 * Owns:    nothing. Threads: any. Errors: none: any bytes are a block.
 * Limits:  little endian, without padding; blocks of 32 and of 256 elements.
 *
 * Layouts: "ggml/src/ggml-common.h". Nibbles of 32 elements are split: the low one of byte j is
 * element j, the high one element j + 16. In blocks of 256 they are split by 32 (Q4_K, Q5_K, Q6_K)
 * or as in blocks of 32 (IQ4_XS).
 */
#ifndef PHI_ENGINE_TENSOR_BLOCKS_H
#define PHI_ENGINE_TENSOR_BLOCKS_H

#include <stdint.h>

#define PHI_BLOCK_ELEMENTS 32
#define PHI_SUPER_BLOCK_ELEMENTS 256
#define PHI_SUPER_BLOCK_GROUPS_MAX 16

/* ---- 32 elements ---- */

typedef struct phi_block_q8_0 { /* w = d q */
    uint16_t d;
    int8_t codes[32];
} phi_block_q8_0;
typedef struct phi_block_q4_0 { /* w = d (q - 8) */
    uint16_t d;
    uint8_t nibbles[16];
} phi_block_q4_0;
typedef struct phi_block_q4_1 { /* w = d q + m */
    uint16_t d;
    uint16_t m;
    uint8_t nibbles[16];
} phi_block_q4_1;
typedef struct phi_block_q5_0 { /* w = d (q - 16) */
    uint16_t d;
    uint8_t fifths[4]; /* bit j: the fifth bit of element j */
    uint8_t nibbles[16];
} phi_block_q5_0;
typedef struct phi_block_q5_1 { /* w = d q + m */
    uint16_t d;
    uint16_t m;
    uint8_t fifths[4];
    uint8_t nibbles[16];
} phi_block_q5_1;
typedef struct phi_block_iq4_nl { /* w = d PHI_IQ4_VALUES[q] */
    uint16_t d;
    uint8_t nibbles[16];
} phi_block_iq4_nl;
typedef struct phi_block_mxfp4 { /* w = 2^(exponent - 127) e2m1(q) */
    uint8_t exponent;
    uint8_t nibbles[16];
} phi_block_mxfp4;
_Static_assert(sizeof(phi_block_q8_0) == 34, "Q8_0 block");
_Static_assert(sizeof(phi_block_q4_0) == 18, "Q4_0 block");
_Static_assert(sizeof(phi_block_q4_1) == 20, "Q4_1 block");
_Static_assert(sizeof(phi_block_q5_0) == 22, "Q5_0 block");
_Static_assert(sizeof(phi_block_q5_1) == 24, "Q5_1 block");
_Static_assert(sizeof(phi_block_iq4_nl) == 18, "IQ4_NL block");
_Static_assert(sizeof(phi_block_mxfp4) == 17, "MXFP4 block");

/* ---- 256 elements: scales of groups, themselves times an fp16 ---- */

typedef struct phi_block_q2_k { /* 16 groups: w = d scale q - dmin min */
    uint8_t scales[16];         /* scale in the low, min in the high nibble */
    uint8_t codes[64];
    uint16_t d;
    uint16_t dmin;
} phi_block_q2_k;
typedef struct phi_block_q3_k { /* 16 groups: w = d (scale - 32) (q - 4) */
    uint8_t thirds[32];         /* the third bit of element e: bit e / 32 of byte e % 32 */
    uint8_t codes[64];
    uint8_t scales[12]; /* 16 of 6 bits */
    uint16_t d;
} phi_block_q3_k;
typedef struct phi_block_q4_k { /* 8 groups: w = d scale q - dmin min */
    uint16_t d;
    uint16_t dmin;
    uint8_t scales[12]; /* 8 scales and 8 mins of 6 bits */
    uint8_t nibbles[128];
} phi_block_q4_k;
typedef struct phi_block_q5_k { /* 8 groups: w = d scale q - dmin min */
    uint16_t d;
    uint16_t dmin;
    uint8_t scales[12];
    uint8_t fifths[32]; /* the fifth bit of element e: bit e / 32 of byte e % 32 */
    uint8_t nibbles[128];
} phi_block_q5_k;
typedef struct phi_block_q6_k { /* 16 groups: w = d scale (q - 32) */
    uint8_t nibbles[128];
    uint8_t pairs[64]; /* bits 5 and 6 */
    int8_t scales[16];
    uint16_t d;
} phi_block_q6_k;
typedef struct phi_block_q8_k { /* w = d q */
    float d;
    int8_t codes[256];
    int16_t sums[16]; /* of 16 codes each; of use to dot products only */
} phi_block_q8_k;
typedef struct phi_block_iq4_xs { /* 8 groups: w = d (scale - 32) PHI_IQ4_VALUES[q] */
    uint16_t d;
    uint16_t scales_high; /* 2 bits of each scale */
    uint8_t scales_low[4];
    uint8_t nibbles[128];
} phi_block_iq4_xs;
_Static_assert(sizeof(phi_block_q2_k) == 84, "Q2_K block");
_Static_assert(sizeof(phi_block_q3_k) == 110, "Q3_K block");
_Static_assert(sizeof(phi_block_q4_k) == 144, "Q4_K block");
_Static_assert(sizeof(phi_block_q5_k) == 176, "Q5_K block");
_Static_assert(sizeof(phi_block_q6_k) == 210, "Q6_K block");
_Static_assert(sizeof(phi_block_q8_k) == 292, "Q8_K block");
_Static_assert(sizeof(phi_block_iq4_xs) == 136, "IQ4_XS block");

/* What the codes of IQ4_NL and IQ4_XS stand for. */
extern const int8_t PHI_IQ4_VALUES[16];

/* ---- blocks as integers ---- */

/* One block (any alignment): a code for each element, a scale and, for types that have offsets, an
 * offset for each group, so that w = scale * code + offset, as dtype.h states for each type. */
typedef void (*phi_unpack_fn)(const uint8_t *src, uint8_t *codes, float *scales, float *offsets);

void phi_unpack_q8_0(const uint8_t *src, uint8_t *codes, float *scales, float *offsets);
void phi_unpack_q4_0(const uint8_t *src, uint8_t *codes, float *scales, float *offsets);
void phi_unpack_q4_1(const uint8_t *src, uint8_t *codes, float *scales, float *offsets);
void phi_unpack_q5_0(const uint8_t *src, uint8_t *codes, float *scales, float *offsets);
void phi_unpack_q5_1(const uint8_t *src, uint8_t *codes, float *scales, float *offsets);
void phi_unpack_iq4_nl(const uint8_t *src, uint8_t *codes, float *scales, float *offsets);
void phi_unpack_mxfp4(const uint8_t *src, uint8_t *codes, float *scales, float *offsets);
void phi_unpack_q2_k(const uint8_t *src, uint8_t *codes, float *scales, float *offsets);
void phi_unpack_q3_k(const uint8_t *src, uint8_t *codes, float *scales, float *offsets);
void phi_unpack_q4_k(const uint8_t *src, uint8_t *codes, float *scales, float *offsets);
void phi_unpack_q5_k(const uint8_t *src, uint8_t *codes, float *scales, float *offsets);
void phi_unpack_q6_k(const uint8_t *src, uint8_t *codes, float *scales, float *offsets);
void phi_unpack_q8_k(const uint8_t *src, uint8_t *codes, float *scales, float *offsets);
void phi_unpack_iq4_xs(const uint8_t *src, uint8_t *codes, float *scales, float *offsets);

/* The 6-bit scale and min of group `index` of a Q4_K or Q5_K block. */
void phi_kscale_get(const uint8_t scales[12], unsigned index, uint8_t *out_scale, uint8_t *out_min);
/* Sets them; the 12 bytes are zeros before the first. */
void phi_kscale_set(uint8_t scales[12], unsigned index, uint8_t scale, uint8_t min);

#endif
