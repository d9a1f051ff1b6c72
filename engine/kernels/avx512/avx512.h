/*
 * Purpose: the AVX-512 kernels, shared between the files that fill the AVX-512 tables.
 * Owns:    nothing. Threads: any. Errors: none.
 * Limits:  needs AVX-512 F, BW, DQ, VL and, for the INT kinds, VNNI; kernels.h says what each
 *          function does. Only avx512/ and amx/ include this.
 */
#ifndef PHI_ENGINE_KERNELS_AVX512_AVX512_H
#define PHI_ENGINE_KERNELS_AVX512_AVX512_H

#include "engine/kernels/kernels.h"

void phi_avx512_quantize_tile(const float *x, uint32_t tile, const phi_act *act);
/* All tokens of `act` in one tile that is as wide as they are many, and whose codes lie token by
 * token inside a run: [cols / 32][n_tok][32]. Runs of 32 only. */
void phi_avx512_quantize_rows(const float *x, const phi_act *act);
void phi_avx512_rows_int(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                         const phi_act *act, float *y, size_t ldy);
void phi_avx512_rows_float(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                           const phi_act *act, float *y, size_t ldy);
void phi_avx512_rms_norm(const float *x, const float *weight, size_t n, float eps, float *out);
void phi_avx512_layer_norm(const float *x, const float *weight, const float *bias, size_t n,
                           float eps, float *out);
void phi_avx512_gelu(const float *x, size_t n, float *out);
void phi_avx512_swiglu(const float *gate, const float *up, size_t n, float *out);
void phi_avx512_rope(float *x, const float *cos_row, const float *sin_row, size_t n_rot);
void phi_avx512_add(float *x, const float *y, size_t n);
void phi_avx512_mix(float a, float *acc, float b, const float *v, size_t n);
void phi_avx512_scale(float a, const float *x, float *out, size_t n);
float phi_avx512_max(const float *x, size_t n);
float phi_avx512_exp_sum(float *x, size_t n, float shift);
void phi_avx512_kv_store(const phi_kv_rows *rows, void *head);
void phi_avx512_attend(const phi_attend *attend, uint32_t page_begin, uint32_t page_end);

/* The slots of a table that these fill. */
#define PHI_AVX512_VECTOR_SLOTS                                                                    \
    .rms_norm = phi_avx512_rms_norm, .layer_norm = phi_avx512_layer_norm, .gelu = phi_avx512_gelu, \
    .swiglu = phi_avx512_swiglu, .rope = phi_avx512_rope, .add = phi_avx512_add,                   \
    .mix = phi_avx512_mix, .scale = phi_avx512_scale, .kv_store = phi_avx512_kv_store,             \
    .attend = phi_avx512_attend, .max = phi_avx512_max, .exp_sum = phi_avx512_exp_sum

#endif
