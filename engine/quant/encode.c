#include "engine/quant/encode.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/assert.h"
#include "engine/quant/encode_blocks.h"
#include "engine/quant/scale_search.h"
#include "engine/tensor/half.h"

/* The largest finite fp16. */
#define HALF_MAX 65504.0F

bool phi_encode_group_is_valid(uint32_t group)
{
    return group == 32 || group == 64 || group == 128;
}

bool phi_encode_divides(const phi_encoding *encoding, uint32_t cols)
{
    switch (encoding->dtype) {
    case PHI_DTYPE_Q4_0:
    case PHI_DTYPE_Q4_1:
    case PHI_DTYPE_Q5_0:
    case PHI_DTYPE_Q5_1:
        return cols % encoding->group == 0;
    default:
        return cols % phi_dtype_get(encoding->dtype)->block_elements == 0;
    }
}

/* Also false for NaNs. */
static bool all_within(const float *x, size_t count, float bound)
{
    bool within = true;
    for (size_t i = 0; i < count; i++) {
        within &= fabsf(x[i]) <= bound;
    }
    return within;
}

static bool half_is_finite(uint16_t half)
{
    return (half & 0x7C00U) != 0x7C00U;
}

static bool encode_f16(const float *x, size_t cols, uint8_t *out)
{
    bool fits = true;
    for (size_t i = 0; i < cols; i++) {
        uint16_t half = phi_half_of_float(x[i]);
        fits = fits && half_is_finite(half);
        memcpy(out + i * sizeof half, &half, sizeof half);
    }
    return fits;
}

static bool encode_bf16(const float *x, size_t cols, uint8_t *out)
{
    bool fits = true;
    for (size_t i = 0; i < cols; i++) {
        uint16_t bits = phi_bf16_of_float(x[i]);
        fits = fits && (bits & 0x7F80U) != 0x7F80U;
        memcpy(out + i * sizeof bits, &bits, sizeof bits);
    }
    return fits;
}

/* Byte for byte what ggml's quantize_row_q8_0_ref makes. */
static bool encode_q8_0(const float *x, size_t cols, uint8_t *out)
{
    bool fits = true;
    for (size_t i = 0; i < cols; i += PHI_BLOCK_ELEMENTS) {
        float peak = 0.0F;
        for (size_t k = 0; k < PHI_BLOCK_ELEMENTS; k++) {
            float magnitude = fabsf(x[i + k]);
            peak = magnitude > peak ? magnitude : peak;
        }
        float d = peak / 127.0F;
        float inverse = 1.0F / d;
        /* A scale near 0 has no finite inverse, and the block is all zeros in fp16 anyway. */
        inverse = isfinite(inverse) ? inverse : 0.0F;
        phi_block_q8_0 block = {.d = phi_half_of_float(d)};
        for (size_t k = 0; k < PHI_BLOCK_ELEMENTS; k++) {
            block.codes[k] = (int8_t)roundf(x[i + k] * inverse);
        }
        fits = fits && half_is_finite(block.d);
        memcpy(out, &block, sizeof block);
        out += sizeof block;
    }
    return fits;
}

static void pack_nibbles(const uint8_t codes[PHI_BLOCK_ELEMENTS], uint8_t nibbles[16])
{
    for (size_t k = 0; k < 16; k++) {
        nibbles[k] = (uint8_t)((codes[k] & 15) | (codes[k + 16] & 15) << 4);
    }
}

static void pack_fifths(const uint8_t codes[PHI_BLOCK_ELEMENTS], uint8_t fifths[4])
{
    memset(fifths, 0, 4);
    for (size_t k = 0; k < PHI_BLOCK_ELEMENTS; k++) {
        fifths[k / 8] = (uint8_t)(fifths[k / 8] | (codes[k] >> 4) << k % 8);
    }
}

/* One block of a group's fit: head, the fifth bits if there are any, nibbles. */
static uint8_t *put_block(const phi_group_fit *fit, const uint8_t *codes, bool offset, bool fifths,
                          uint8_t *out)
{
    memcpy(out, &fit->d, sizeof fit->d);
    out += sizeof fit->d;
    if (offset) {
        memcpy(out, &fit->m, sizeof fit->m);
        out += sizeof fit->m;
    }
    if (fifths) {
        pack_fifths(codes, out);
        out += 4;
    }
    pack_nibbles(codes, out);
    return out + 16;
}

/* Q4_0, Q4_1, Q5_0 and Q5_1: blocks of a group share scale and offset. */
static bool encode_groups(const phi_encoding *encoding, const float *x, size_t cols, uint8_t *out)
{
    bool fits = true;
    bool offset = encoding->dtype == PHI_DTYPE_Q4_1 || encoding->dtype == PHI_DTYPE_Q5_1;
    bool fifths = encoding->dtype == PHI_DTYPE_Q5_0 || encoding->dtype == PHI_DTYPE_Q5_1;
    unsigned bits = fifths ? 5 : 4;
    phi_group_fit fit;
    for (size_t i = 0; i < cols; i += encoding->group) {
        if (encoding->search) {
            (offset ? phi_fit_search_offset : phi_fit_search_symmetric)(bits, x + i,
                                                                        encoding->group, &fit);
        } else {
            (offset ? phi_fit_plain_offset : phi_fit_plain_symmetric)(bits, x + i, encoding->group,
                                                                      &fit);
        }
        fits = fits && half_is_finite(fit.d) && half_is_finite(fit.m);
        for (size_t k = 0; k < encoding->group; k += PHI_BLOCK_ELEMENTS) {
            out = put_block(&fit, fit.codes + k, offset, fifths, out);
        }
    }
    return fits;
}

static bool encode_iq4_nl(const phi_encoding *encoding, const float *x, size_t cols, uint8_t *out)
{
    bool fits = true;
    for (size_t i = 0; i < cols; i += PHI_BLOCK_ELEMENTS) {
        phi_block_iq4_nl block;
        fits = phi_encode_iq4_nl(x + i, encoding->search, &block) && fits;
        memcpy(out, &block, sizeof block);
        out += sizeof block;
    }
    return fits;
}

/* Q4_K, Q5_K and Q6_K. */
static bool encode_super_blocks(const phi_encoding *encoding, const float *x, size_t cols,
                                uint8_t *out)
{
    bool fits = true;
    union {
        phi_block_q4_k q4;
        phi_block_q5_k q5;
        phi_block_q6_k q6;
    } block;
    for (size_t i = 0; i < cols; i += PHI_SUPER_BLOCK_ELEMENTS) {
        bool fit = false;
        if (encoding->dtype == PHI_DTYPE_Q4_K) {
            fit = phi_encode_q4_k(x + i, encoding->search, &block.q4);
        } else if (encoding->dtype == PHI_DTYPE_Q5_K) {
            fit = phi_encode_q5_k(x + i, encoding->search, &block.q5);
        } else {
            fit = phi_encode_q6_k(x + i, encoding->search, &block.q6);
        }
        fits = fits && fit;
        memcpy(out, &block, phi_dtype_get(encoding->dtype)->block_bytes);
        out += phi_dtype_get(encoding->dtype)->block_bytes;
    }
    return fits;
}

bool phi_encode_row(const phi_encoding *encoding, const float *x, size_t cols, void *out)
{
    PHI_ASSERT(cols <= UINT32_MAX && phi_encode_divides(encoding, (uint32_t)cols));
    /* Searches and conversions to integers need finite numbers with finite differences; what
     * lies beyond the largest scale times the largest code fits no block. */
    bool blocks = phi_dtype_get(encoding->dtype)->block_elements > 1;
    if (!all_within(x, cols, blocks ? HALF_MAX * 127.0F : FLT_MAX)) {
        return false;
    }
    switch (encoding->dtype) {
    case PHI_DTYPE_F32:
        memcpy(out, x, cols * sizeof *x);
        return true;
    case PHI_DTYPE_F16:
        return encode_f16(x, cols, out);
    case PHI_DTYPE_BF16:
        return encode_bf16(x, cols, out);
    case PHI_DTYPE_Q8_0:
        return encode_q8_0(x, cols, out);
    case PHI_DTYPE_Q4_0:
    case PHI_DTYPE_Q4_1:
    case PHI_DTYPE_Q5_0:
    case PHI_DTYPE_Q5_1:
        return encode_groups(encoding, x, cols, out);
    case PHI_DTYPE_IQ4_NL:
        return encode_iq4_nl(encoding, x, cols, out);
    case PHI_DTYPE_Q4_K:
    case PHI_DTYPE_Q5_K:
    case PHI_DTYPE_Q6_K:
        return encode_super_blocks(encoding, x, cols, out);
    default:
        PHI_UNREACHABLE();
    }
}

void phi_encode_codes(phi_dtype dtype, const uint8_t *codes, const float *scales,
                      const float *offsets, size_t cols, void *out)
{
    uint8_t *to = out;
    PHI_ASSERT(cols % PHI_BLOCK_ELEMENTS == 0);
    for (size_t b = 0; b < cols / PHI_BLOCK_ELEMENTS; b++, codes += PHI_BLOCK_ELEMENTS) {
        uint16_t d = phi_half_of_float(scales[b]);
        if (dtype == PHI_DTYPE_Q8_0) {
            phi_block_q8_0 block = {.d = d};
            for (size_t k = 0; k < PHI_BLOCK_ELEMENTS; k++) {
                block.codes[k] = (int8_t)((int)codes[k] - 128);
            }
            memcpy(to, &block, sizeof block);
            to += sizeof block;
        } else if (dtype == PHI_DTYPE_Q4_1) {
            phi_block_q4_1 block = {.d = d, .m = phi_half_of_float(offsets[b])};
            pack_nibbles(codes, block.nibbles);
            memcpy(to, &block, sizeof block);
            to += sizeof block;
        } else {
            phi_block_q4_0 block = {.d = d};
            PHI_ASSERT(dtype == PHI_DTYPE_Q4_0);
            pack_nibbles(codes, block.nibbles);
            memcpy(to, &block, sizeof block);
            to += sizeof block;
        }
    }
}
