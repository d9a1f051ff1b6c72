/*
 * Purpose: fp16 (IEEE 754 binary16) and bf16 to float and back, round to nearest even.
 * Owns:    nothing. Threads: any. Errors: none.
 * Limits:  floats beyond fp16's range become infinities; NaNs stay NaNs.
 */
#ifndef PHI_ENGINE_TENSOR_HALF_H
#define PHI_ENGINE_TENSOR_HALF_H

#include <stdint.h>
#include <string.h>

float phi_half_to_float(uint16_t half);
uint16_t phi_half_of_float(float value);

static inline float phi_bf16_to_float(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

uint16_t phi_bf16_of_float(float value);

#endif
