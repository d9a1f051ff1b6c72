/* Blocks of 32 elements. */
#include "engine/tensor/blocks.h"

#include "engine/tensor/half.h"

#include <string.h>

const int8_t PHI_IQ4_VALUES[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                   1,    13,   25,  38,  53,  69,  89,  113};

/* E2M1 times 2: 0, 0.5, 1, 1.5, 2, 3, 4, 6, and the same below zero. */
static const int8_t E2M1_DOUBLED[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static void split(const uint8_t nibbles[16], uint8_t *codes)
{
    for (int j = 0; j < 16; j++) {
        codes[j] = nibbles[j] & 15;
        codes[j + 16] = nibbles[j] >> 4;
    }
}

static void look_up(const uint8_t nibbles[16], const int8_t values[16], uint8_t *codes)
{
    for (int j = 0; j < 16; j++) {
        codes[j] = (uint8_t)values[nibbles[j] & 15];
        codes[j + 16] = (uint8_t)values[nibbles[j] >> 4];
    }
}

static void add_fifths(const uint8_t fifths[4], uint8_t *codes)
{
    for (int j = 0; j < 32; j++) {
        codes[j] = (uint8_t)(codes[j] | (fifths[j / 8] >> j % 8 & 1) << 4);
    }
}

void phi_unpack_q8_0(const uint8_t *src, uint8_t *codes, float *scales, float *offsets)
{
    phi_block_q8_0 block;
    (void)offsets;
    memcpy(&block, src, sizeof block);
    memcpy(codes, block.codes, sizeof block.codes);
    scales[0] = phi_half_to_float(block.d);
}

void phi_unpack_q4_0(const uint8_t *src, uint8_t *codes, float *scales, float *offsets)
{
    phi_block_q4_0 block;
    (void)offsets;
    memcpy(&block, src, sizeof block);
    split(block.nibbles, codes);
    scales[0] = phi_half_to_float(block.d);
}

void phi_unpack_q4_1(const uint8_t *src, uint8_t *codes, float *scales, float *offsets)
{
    phi_block_q4_1 block;
    memcpy(&block, src, sizeof block);
    split(block.nibbles, codes);
    scales[0] = phi_half_to_float(block.d);
    offsets[0] = phi_half_to_float(block.m);
}

void phi_unpack_q5_0(const uint8_t *src, uint8_t *codes, float *scales, float *offsets)
{
    phi_block_q5_0 block;
    (void)offsets;
    memcpy(&block, src, sizeof block);
    split(block.nibbles, codes);
    add_fifths(block.fifths, codes);
    for (int j = 0; j < 32; j++) {
        codes[j] = (uint8_t)(codes[j] - 16);
    }
    scales[0] = phi_half_to_float(block.d);
}

void phi_unpack_q5_1(const uint8_t *src, uint8_t *codes, float *scales, float *offsets)
{
    phi_block_q5_1 block;
    memcpy(&block, src, sizeof block);
    split(block.nibbles, codes);
    add_fifths(block.fifths, codes);
    scales[0] = phi_half_to_float(block.d);
    offsets[0] = phi_half_to_float(block.m);
}

void phi_unpack_iq4_nl(const uint8_t *src, uint8_t *codes, float *scales, float *offsets)
{
    phi_block_iq4_nl block;
    (void)offsets;
    memcpy(&block, src, sizeof block);
    look_up(block.nibbles, PHI_IQ4_VALUES, codes);
    scales[0] = phi_half_to_float(block.d);
}

/* 2^(exponent - 128), half of what the block says, for codes that are twice as large; the two
 * smallest are subnormal. */
static float half_power(uint8_t exponent)
{
    uint32_t bits = exponent < 2 ? 0x00200000U << exponent : (uint32_t)(exponent - 1) << 23;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

void phi_unpack_mxfp4(const uint8_t *src, uint8_t *codes, float *scales, float *offsets)
{
    phi_block_mxfp4 block;
    (void)offsets;
    memcpy(&block, src, sizeof block);
    look_up(block.nibbles, E2M1_DOUBLED, codes);
    scales[0] = half_power(block.exponent);
}
