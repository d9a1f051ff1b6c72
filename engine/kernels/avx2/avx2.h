/*
 * Purpose: the AVX2 kernels, shared between the files that fill the tables that use them.
 * Owns:    nothing. Threads: any. Errors: none.
 * Limits:  needs AVX2, FMA and F16C; kernels.h says what each function does. Only avx2/ and
 *          the wider x86 sets include this.
 */
#ifndef PHI_ENGINE_KERNELS_AVX2_AVX2_H
#define PHI_ENGINE_KERNELS_AVX2_AVX2_H

#include "engine/kernels/kernels.h"

void phi_avx2_quantize_tile(const float *x, uint32_t tile, const phi_act *act);
void phi_avx2_rows_int(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                       const phi_act *act, float *y, size_t ldy);
void phi_avx2_rows_float(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                         const phi_act *act, float *y, size_t ldy);
void phi_avx2_rms_norm(const float *x, const float *weight, size_t n, float eps, float *out);
void phi_avx2_swiglu(const float *gate, const float *up, size_t n, float *out);
void phi_avx2_rope(float *x, const float *cos_row, const float *sin_row, size_t n_rot);
void phi_avx2_add(float *x, const float *y, size_t n);
float phi_avx2_dot_f32(const float *q, const float *k, size_t n);
float phi_avx2_dot_f16(const float *q, const uint16_t *k, size_t n);
void phi_avx2_axpy_f32(float a, const float *v, float *acc, size_t n);
void phi_avx2_axpy_f16(float a, const uint16_t *v, float *acc, size_t n);
void phi_avx2_scale(float a, float *acc, size_t n);
void phi_avx2_narrow_f16(const float *x, uint16_t *out, size_t n);
float phi_avx2_max(const float *x, size_t n);
float phi_avx2_exp_sum(float *x, size_t n, float shift);

/* The slots of a table that these fill. */
#define PHI_AVX2_VECTOR_SLOTS                                                                      \
    .rms_norm = phi_avx2_rms_norm, .swiglu = phi_avx2_swiglu, .rope = phi_avx2_rope,               \
    .add = phi_avx2_add, .dot_f32 = phi_avx2_dot_f32, .dot_f16 = phi_avx2_dot_f16,                 \
    .axpy_f32 = phi_avx2_axpy_f32, .axpy_f16 = phi_avx2_axpy_f16, .scale = phi_avx2_scale,         \
    .narrow_f16 = phi_avx2_narrow_f16, .max = phi_avx2_max, .exp_sum = phi_avx2_exp_sum

#endif
