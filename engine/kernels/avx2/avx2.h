/*
 * Purpose: the AVX2 kernels, shared between the files that fill the AVX2 table.
 * Owns:    nothing. Threads: any. Errors: none.
 * Limits:  needs AVX2, FMA and F16C; kernels.h says what each function does. Only avx2/ includes
 *          this.
 */
#ifndef PHI_ENGINE_KERNELS_AVX2_AVX2_H
#define PHI_ENGINE_KERNELS_AVX2_AVX2_H

#include "engine/kernels/kernels.h"

void phi_avx2_quantize_row(const float *x, size_t cols, int8_t *codes, float *scales, float *sums);
void phi_avx2_rows_int4(const phi_weight *weight, uint32_t row_begin, uint32_t row_end,
                        const phi_act *act, float *y, size_t ldy);
void phi_avx2_rows_int8(const phi_weight *weight, uint32_t row_begin, uint32_t row_end,
                        const phi_act *act, float *y, size_t ldy);
void phi_avx2_rows_fp16(const phi_weight *weight, uint32_t row_begin, uint32_t row_end,
                        const float *x, uint32_t n_tok, float *y, size_t ldy);
void phi_avx2_rows_bf16(const phi_weight *weight, uint32_t row_begin, uint32_t row_end,
                        const float *x, uint32_t n_tok, float *y, size_t ldy);
void phi_avx2_rows_fp32(const phi_weight *weight, uint32_t row_begin, uint32_t row_end,
                        const float *x, uint32_t n_tok, float *y, size_t ldy);

#endif
