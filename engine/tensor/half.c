#include "engine/tensor/half.h"

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

float phi_half_to_float(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000U) << 16;
    uint32_t exponent = (half >> 10) & 0x1FU;
    uint32_t mantissa = half & 0x3FFU;
    if (exponent == 0x1F) {
        return float_of(sign | 0x7F800000U | mantissa << 13);
    }
    if (exponent == 0) {
        /* Subnormal: mantissa * 2^-24, exact in float. */
        float value = (float)mantissa * 0x1p-24F;
        return sign ? -value : value;
    }
    return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
}

uint16_t phi_half_of_float(float value)
{
    uint32_t bits = bits_of(value);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000U);
    uint32_t magnitude = bits & 0x7FFFFFFFU;
    if (magnitude > 0x7F800000U) {
        return (uint16_t)(sign | 0x7E00U);
    }
    if (magnitude >= 0x477FF000U) {
        /* 65520 and above round to infinity. */
        return (uint16_t)(sign | 0x7C00U);
    }
    if (magnitude < 0x38800000U) {
        /* Below 2^-14: adding 0.5 puts the subnormal's bits, rounded to even by the hardware, at
         * the bottom of the sum's mantissa (0.5 has an ulp of 2^-24). */
        return (uint16_t)(sign | (bits_of(float_of(magnitude) + 0.5F) - 0x3F000000U));
    }
    uint32_t odd = magnitude >> 13 & 1U;
    return (uint16_t)(sign | (magnitude - 0x38000000U + 0xFFFU + odd) >> 13);
}

uint16_t phi_bf16_of_float(float value)
{
    uint32_t bits = bits_of(value);
    if ((bits & 0x7FFFFFFFU) > 0x7F800000U) {
        return (uint16_t)(bits >> 16 | 0x40U);
    }
    return (uint16_t)((bits + 0x7FFFU + (bits >> 16 & 1U)) >> 16);
}
