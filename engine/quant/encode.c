#include "engine/quant/encode.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/assert.h"
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
        return cols % encoding->group == 0;
    case PHI_DTYPE_Q8_0:
        return cols % PHI_BLOCK_ELEMENTS == 0;
    default:
        return true;
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
        nibbles[k] = (uint8_t)(codes[k] | codes[k + 16] << 4);
    }
}

static bool encode_q4_0(const phi_encoding *encoding, const float *x, size_t cols, uint8_t *out)
{
    bool fits = true;
    phi_group_fit fit;
    for (size_t i = 0; i < cols; i += encoding->group) {
        if (encoding->search) {
            phi_fit_search_symmetric(x + i, encoding->group, &fit);
        } else {
            phi_fit_plain_symmetric(x + i, encoding->group, &fit);
        }
        fits = fits && half_is_finite(fit.d);
        for (size_t k = 0; k < encoding->group; k += PHI_BLOCK_ELEMENTS) {
            phi_block_q4_0 block = {.d = fit.d};
            pack_nibbles(fit.codes + k, block.nibbles);
            memcpy(out, &block, sizeof block);
            out += sizeof block;
        }
    }
    return fits;
}

static bool encode_q4_1(const phi_encoding *encoding, const float *x, size_t cols, uint8_t *out)
{
    bool fits = true;
    phi_group_fit fit;
    for (size_t i = 0; i < cols; i += encoding->group) {
        if (encoding->search) {
            phi_fit_search_offset(x + i, encoding->group, &fit);
        } else {
            phi_fit_plain_offset(x + i, encoding->group, &fit);
        }
        fits = fits && half_is_finite(fit.d) && half_is_finite(fit.m);
        for (size_t k = 0; k < encoding->group; k += PHI_BLOCK_ELEMENTS) {
            phi_block_q4_1 block = {.d = fit.d, .m = fit.m};
            pack_nibbles(fit.codes + k, block.nibbles);
            memcpy(out, &block, sizeof block);
            out += sizeof block;
        }
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
        return encode_q4_0(encoding, x, cols, out);
    case PHI_DTYPE_Q4_1:
        return encode_q4_1(encoding, x, cols, out);
    default:
        PHI_UNREACHABLE();
    }
}
