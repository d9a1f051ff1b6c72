/*
 * Purpose: the arithmetic, in one table of functions per instruction set, chosen once at start.
 * Owns:    nothing: all buffers are the caller's.
 * Threads: [any]; functions are pure.
 * Errors:  none; arguments are asserted.
 * Limits:  shapes are stated per argument. Vectors need no alignment.
 *
 * ref/ is plain C and the truth. Every other set is held to a stated bound of it by
 * tests/unit/engine/kernels. Each output element is summed in an order that depends on nothing but
 * the number of columns, so that batch size and thread count change no result.
 */
#ifndef PHI_ENGINE_KERNELS_KERNELS_H
#define PHI_ENGINE_KERNELS_KERNELS_H

#include "base/status.h"
#include "engine/tensor/weight.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Activations quantized to int8 in groups of 32 columns: x ~ scale * q, |q| <= 127. */
typedef struct phi_act {
    uint32_t n_tok;
    uint32_t cols;       /* multiple of 32 */
    const int8_t *codes; /* [n_tok, cols] */
    const float *scales; /* [n_tok, cols / 32] */
    const float *sums;   /* [n_tok, cols / 32]: scale * (sum of the group's codes) */
} phi_act;

typedef struct phi_kernels {
    const char *name; /* "portable", "avx2" */

    /* x [cols] -> codes [cols], scales [cols / 32], sums [cols / 32]. */
    void (*quantize_row)(const float *x, size_t cols, int8_t *codes, float *scales, float *sums);

    /* y[t * ldy + r] = sum_k W[r, k] x[t, k] for r in [row_begin, row_end) and every token t. */
    void (*rows_int4)(const phi_weight *weight, uint32_t row_begin, uint32_t row_end,
                      const phi_act *act, float *y, size_t ldy);
    void (*rows_int8)(const phi_weight *weight, uint32_t row_begin, uint32_t row_end,
                      const phi_act *act, float *y, size_t ldy);
    /* x [n_tok, cols] float; kinds FP16, BF16 and FP32. */
    void (*rows_fp16)(const phi_weight *weight, uint32_t row_begin, uint32_t row_end,
                      const float *x, uint32_t n_tok, float *y, size_t ldy);
    void (*rows_bf16)(const phi_weight *weight, uint32_t row_begin, uint32_t row_end,
                      const float *x, uint32_t n_tok, float *y, size_t ldy);
    void (*rows_fp32)(const phi_weight *weight, uint32_t row_begin, uint32_t row_end,
                      const float *x, uint32_t n_tok, float *y, size_t ldy);

    /* out[i] = weight[i] * x[i] / sqrt(mean(x^2) + eps); Zhang and Sennrich, arXiv:1910.07467 */
    void (*rms_norm)(const float *x, const float *weight, size_t n, float eps, float *out);
    /* out[i] = up[i] * gate[i] * sigmoid(gate[i]); Shazeer, arXiv:2002.05202 */
    void (*swiglu)(const float *gate, const float *up, size_t n, float *out);
    /* Rotates pairs (x[i], x[i + n_rot / 2]) by (cos[i], sin[i]), i < n_rot / 2 ("NeoX" halves). */
    void (*rope)(float *x, const float *cos_row, const float *sin_row, size_t n_rot);
    /* x[i] += y[i] */
    void (*add)(float *x, const float *y, size_t n);
    /* sum of q[i] * k[i], k in float or fp16 */
    float (*dot_f32)(const float *q, const float *k, size_t n);
    float (*dot_f16)(const float *q, const uint16_t *k, size_t n);
    /* acc[i] += a * v[i], v in float or fp16 */
    void (*axpy_f32)(float a, const float *v, float *acc, size_t n);
    void (*axpy_f16)(float a, const uint16_t *v, float *acc, size_t n);
    /* acc[i] *= a */
    void (*scale)(float a, float *acc, size_t n);
    /* out[i] = fp16(x[i]) */
    void (*narrow_f16)(const float *x, uint16_t *out, size_t n);
    /* max over x */
    float (*max)(const float *x, size_t n);
    /* x[i] = exp(x[i] - shift); returns the sum */
    float (*exp_sum)(float *x, size_t n, float shift);
} phi_kernels;

/* The best set for this CPU and operating system, or the one that PHID_ISA names
 * ("portable", "avx2"): phi_kernels_select fails if that one cannot run here. */
phi_status phi_kernels_select(const char *isa, const phi_kernels **out_kernels,
                              phi_err *err) PHI_MUST_CHECK;
/* All sets that can run on this machine, best first; for tests. */
size_t phi_kernels_available(const phi_kernels **out_list, size_t max);

#endif
