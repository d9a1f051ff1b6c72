/*
 * Purpose: the portable kernels, shared between the files that fill the portable table.
 * Owns:    nothing. Threads: any. Errors: none.
 * Limits:  those of kernels.h, which says what each function does.
 */
#ifndef PHI_ENGINE_KERNELS_REF_REF_H
#define PHI_ENGINE_KERNELS_REF_REF_H

#include "engine/kernels/kernels.h"

void phi_ref_quantize_row(const float *x, size_t cols, int8_t *codes, float *scales, float *sums);
void phi_ref_rows_int4(const phi_weight *weight, uint32_t row_begin, uint32_t row_end,
                       const phi_act *act, float *y, size_t ldy);
void phi_ref_rows_int8(const phi_weight *weight, uint32_t row_begin, uint32_t row_end,
                       const phi_act *act, float *y, size_t ldy);
void phi_ref_rows_fp16(const phi_weight *weight, uint32_t row_begin, uint32_t row_end,
                       const float *x, uint32_t n_tok, float *y, size_t ldy);
void phi_ref_rows_bf16(const phi_weight *weight, uint32_t row_begin, uint32_t row_end,
                       const float *x, uint32_t n_tok, float *y, size_t ldy);
void phi_ref_rows_fp32(const phi_weight *weight, uint32_t row_begin, uint32_t row_end,
                       const float *x, uint32_t n_tok, float *y, size_t ldy);

#endif
