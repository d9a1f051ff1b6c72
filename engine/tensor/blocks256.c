/* Blocks of 256 elements: scales and mins of a few bits for each group, times an fp16. Products are
 * formed first, as ggml does ("ggml/src/ggml-quants.c", dequantize_row_*). */
#include "engine/tensor/blocks.h"

#include "engine/tensor/half.h"

#include <string.h>

void phi_kscale_get(const uint8_t scales[12], unsigned index, uint8_t *out_scale, uint8_t *out_min)
{
    if (index < 4) {
        *out_scale = scales[index] & 63;
        *out_min = scales[index + 4] & 63;
        return;
    }
    /* Low bits of both in a byte of their own, high ones on top of the first eight bytes. */
    *out_scale = (uint8_t)((scales[index + 4] & 15) | scales[index - 4] >> 6 << 4);
    *out_min = (uint8_t)(scales[index + 4] >> 4 | scales[index] >> 6 << 4);
}

void phi_kscale_set(uint8_t scales[12], unsigned index, uint8_t scale, uint8_t min)
{
    if (index < 4) {
        scales[index] = (uint8_t)(scales[index] | scale);
        scales[index + 4] = (uint8_t)(scales[index + 4] | min);
        return;
    }
    scales[index + 4] = (uint8_t)((scale & 15) | (min & 15) << 4);
    scales[index - 4] = (uint8_t)(scales[index - 4] | scale >> 4 << 6);
    scales[index] = (uint8_t)(scales[index] | min >> 4 << 6);
}

/* Two bits of each element: four planes of 32 elements in 32 bytes, twice. */
static void spread_pairs(const uint8_t pairs[64], uint8_t *codes)
{
    for (int e = 0; e < 256; e++) {
        codes[e] = pairs[e / 128 * 32 + e % 32] >> e % 128 / 32 * 2 & 3;
    }
}

/* Groups of 32: low nibbles of 32 bytes, then their high ones. */
static void spread_nibbles(const uint8_t nibbles[128], uint8_t *codes)
{
    for (int c = 0; c < 4; c++) {
        for (int l = 0; l < 32; l++) {
            codes[c * 64 + l] = nibbles[c * 32 + l] & 15;
            codes[c * 64 + 32 + l] = nibbles[c * 32 + l] >> 4;
        }
    }
}

void phi_unpack_q2_k(const uint8_t *src, uint8_t *codes, float *scales, float *offsets)
{
    phi_block_q2_k block;
    memcpy(&block, src, sizeof block);
    float d = phi_half_to_float(block.d);
    float dmin = phi_half_to_float(block.dmin);
    spread_pairs(block.codes, codes);
    for (int g = 0; g < 16; g++) {
        scales[g] = d * (float)(block.scales[g] & 15);
        offsets[g] = -(dmin * (float)(block.scales[g] >> 4));
    }
}

/* Six bits: four in the first 8 bytes, two in the last 4. */
static int q3_k_scale(const uint8_t scales[12], int g)
{
    int low = g < 8 ? scales[g] & 15 : scales[g - 8] >> 4;
    int high = scales[8 + g % 4] >> g / 4 * 2 & 3;
    return low | high << 4;
}

void phi_unpack_q3_k(const uint8_t *src, uint8_t *codes, float *scales, float *offsets)
{
    phi_block_q3_k block;
    (void)offsets;
    memcpy(&block, src, sizeof block);
    float d = phi_half_to_float(block.d);
    spread_pairs(block.codes, codes);
    for (int e = 0; e < 256; e++) {
        /* 3 bits around 4, as INT4 codes around 8. */
        int third = block.thirds[e % 32] >> e / 32 & 1;
        codes[e] = (uint8_t)((codes[e] | third << 2) + 4);
    }
    for (int g = 0; g < 16; g++) {
        scales[g] = d * (float)(q3_k_scale(block.scales, g) - 32);
    }
}

static void unpack_kscales(uint16_t d_bits, uint16_t dmin_bits, const uint8_t packed[12],
                           float *scales, float *offsets)
{
    float d = phi_half_to_float(d_bits);
    float dmin = phi_half_to_float(dmin_bits);
    for (unsigned g = 0; g < 8; g++) {
        uint8_t scale;
        uint8_t min;
        phi_kscale_get(packed, g, &scale, &min);
        scales[g] = d * (float)scale;
        offsets[g] = -(dmin * (float)min);
    }
}

void phi_unpack_q4_k(const uint8_t *src, uint8_t *codes, float *scales, float *offsets)
{
    phi_block_q4_k block;
    memcpy(&block, src, sizeof block);
    spread_nibbles(block.nibbles, codes);
    unpack_kscales(block.d, block.dmin, block.scales, scales, offsets);
}

void phi_unpack_q5_k(const uint8_t *src, uint8_t *codes, float *scales, float *offsets)
{
    phi_block_q5_k block;
    memcpy(&block, src, sizeof block);
    spread_nibbles(block.nibbles, codes);
    for (int e = 0; e < 256; e++) {
        codes[e] = (uint8_t)(codes[e] | (block.fifths[e % 32] >> e / 32 & 1) << 4);
    }
    unpack_kscales(block.d, block.dmin, block.scales, scales, offsets);
}

void phi_unpack_q6_k(const uint8_t *src, uint8_t *codes, float *scales, float *offsets)
{
    phi_block_q6_k block;
    (void)offsets;
    memcpy(&block, src, sizeof block);
    float d = phi_half_to_float(block.d);
    spread_pairs(block.pairs, codes);
    for (int e = 0; e < 256; e++) {
        /* Each half's first 64 elements are its low nibbles, the others its high ones. */
        uint8_t both = block.nibbles[e / 128 * 64 + e % 64];
        int low = e % 128 < 64 ? both & 15 : both >> 4;
        codes[e] = (uint8_t)((low | codes[e] << 4) - 32);
    }
    for (int g = 0; g < 16; g++) {
        scales[g] = d * (float)block.scales[g];
    }
}

void phi_unpack_q8_k(const uint8_t *src, uint8_t *codes, float *scales, float *offsets)
{
    (void)offsets;
    memcpy(scales, src, sizeof *scales);
    memcpy(codes, src + sizeof *scales, 256);
}

void phi_unpack_iq4_xs(const uint8_t *src, uint8_t *codes, float *scales, float *offsets)
{
    phi_block_iq4_xs block;
    (void)offsets;
    memcpy(&block, src, sizeof block);
    float d = phi_half_to_float(block.d);
    for (int g = 0; g < 8; g++) {
        int low = block.scales_low[g / 2] >> g % 2 * 4 & 15;
        int high = block.scales_high >> 2 * g & 3;
        scales[g] = d * (float)((low | high << 4) - 32);
        for (int j = 0; j < 16; j++) {
            uint8_t both = block.nibbles[g * 16 + j];
            codes[g * 32 + j] = (uint8_t)PHI_IQ4_VALUES[both & 15];
            codes[g * 32 + 16 + j] = (uint8_t)PHI_IQ4_VALUES[both >> 4];
        }
    }
}
