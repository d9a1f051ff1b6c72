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
void phi_avx2_layer_norm(const float *x, const float *weight, const float *bias, size_t n,
                         float eps, float *out);
void phi_avx2_gelu(const float *x, size_t n, float *out);
void phi_avx2_swiglu(const float *gate, const float *up, size_t n, float *out);
void phi_avx2_rope(float *x, const float *cos_row, const float *sin_row, size_t n_rot);
void phi_avx2_add(float *x, const float *y, size_t n);
void phi_avx2_mix(float a, float *acc, float b, const float *v, size_t n);
void phi_avx2_scale(float a, const float *x, float *out, size_t n);
void phi_avx2_kv_store(const phi_kv_rows *rows, void *head);
void phi_avx2_attend(const phi_attend *attend, uint32_t page_begin, uint32_t page_end);
float phi_avx2_max(const float *x, size_t n);
float phi_avx2_exp_sum(float *x, size_t n, float shift);

/* The slots of a table that these fill. */
#define PHI_AVX2_VECTOR_SLOTS                                                                      \
    .rms_norm = phi_avx2_rms_norm, .layer_norm = phi_avx2_layer_norm, .gelu = phi_avx2_gelu,       \
    .swiglu = phi_avx2_swiglu, .rope = phi_avx2_rope, .add = phi_avx2_add, .mix = phi_avx2_mix,    \
    .scale = phi_avx2_scale, .kv_store = phi_avx2_kv_store, .attend = phi_avx2_attend,             \
    .max = phi_avx2_max, .exp_sum = phi_avx2_exp_sum

#endif
