/*
 * Purpose: the scale, and where asked the offset, of a group of weights that leaves the least
 *          squared error in codes of 4 or 5 bits.
 * Owns:    nothing.
 * Threads: any; functions are pure.
 * Errors:  none: a result whose scale or offset is beyond fp16 carries an infinity in `d` or `m`.
 * Limits:  PHI_GROUP_MAX columns a group, a multiple of PHI_BLOCK_ELEMENTS.
 *
 * Method: a grid of trial scales, each scored by the error that its codes leave once scale and
 * offset are fitted to them by least squares; the winner is then refined with scale and offset as
 * fp16 stores them, encoding and fitting in turn (Lloyd's alternation) until nothing improves. The
 * plain encoding takes part in the contest, so that no group ends worse than by plain rounding.
 */
#ifndef PHI_ENGINE_QUANT_SCALE_SEARCH_H
#define PHI_ENGINE_QUANT_SCALE_SEARCH_H

#include <stddef.h>
#include <stdint.h>

#define PHI_GROUP_MAX 128

/* w = d * (code - 2^(bits - 1)), or w = d * code + m, with d and m as fp16 holds them. */
typedef struct phi_group_fit {
    uint16_t d;
    uint16_t m; /* 0 for the symmetric kind */
    uint8_t codes[PHI_GROUP_MAX];
    double error; /* sum of squared differences */
} phi_group_fit;

/* Rounding as the reference does it (ggml/src/ggml-quants.c, quantize_row_q4_0_ref, _q4_1_ref,
 * _q5_0_ref, _q5_1_ref), over a group of `n` columns. */
void phi_fit_plain_symmetric(unsigned bits, const float *x, size_t n, phi_group_fit *out_fit);
void phi_fit_plain_offset(unsigned bits, const float *x, size_t n, phi_group_fit *out_fit);
/* The least error found. */
void phi_fit_search_symmetric(unsigned bits, const float *x, size_t n, phi_group_fit *out_fit);
void phi_fit_search_offset(unsigned bits, const float *x, size_t n, phi_group_fit *out_fit);

#endif
