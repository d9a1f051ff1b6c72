/*
 * Purpose: a group of weights as codes of 4 or 8 bits with the scale and zero point that a target
 *          format can hold.
 * Owns:    nothing.
 * Threads: any; functions are pure.
 * Errors:  false where a value is not finite or the scale is beyond its type.
 * Limits:  groups of any size that are a multiple of PHI_BLOCK_ELEMENTS, or of 16.
 *
 * 4 bits: least squared error (scale_search.h; in groups of more than PHI_GROUP_MAX columns, and
 * with integer zero points, a grid over scales and zero points, each scored with the scale fitted
 * to its codes). 8 bits: plain rounding, symmetric by the peak, else between the extremes.
 */
#ifndef PHI_ENGINE_QUANT_GROUP_CODES_H
#define PHI_ENGINE_QUANT_GROUP_CODES_H

#include "engine/formats/export.h"
#include "engine/tensor/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct phi_code_target {
    uint32_t bits; /* 4 or 8 */
    uint32_t group;
    phi_zero_rule zero_rule;
    bool is_mx; /* codes that a matrix has as MXFP4, by 32; nothing is coded anew as such */
    phi_dtype scale_dtype; /* F16, BF16 or F32: what scales, and real zeros, are rounded to */
} phi_code_target;

/* codes [n], unsigned; *scale and *zero as phi_export's read_codes gives them. */
bool phi_group_encode(const phi_code_target *target, const float *x, size_t n, uint8_t *codes,
                      float *scale, float *zero);
/* The nearest value of F16, BF16 or F32. */
float phi_round_to(phi_dtype dtype, float value);

#endif
