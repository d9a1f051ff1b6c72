/*
 * Purpose: rounding and clamping as all encoders do them.
 * Owns:    nothing. Threads: any. Errors: none.
 * Limits:  magnitudes below 2^22.
 */
#ifndef PHI_ENGINE_QUANT_ROUNDING_H
#define PHI_ENGINE_QUANT_ROUNDING_H

#include <math.h>

/* Adding and subtracting 1.5 * 2^23 pushes the fraction out: the nearest integer, halves to even.
 */
#define PHI_ROUNDER 12582912.0F

static inline float phi_nearest(float v)
{
    return (v + PHI_ROUNDER) - PHI_ROUNDER;
}

/* `low` for what is not a number, so that the result is always one that an integer takes. */
static inline float phi_clampf(float v, float low, float high)
{
    v = v > low ? v : low;
    return v < high ? v : high;
}

#endif
