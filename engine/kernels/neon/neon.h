/*
 * Purpose: the NEON kernels, shared between the files that fill the NEON tables.
 * Owns:    nothing. Threads: any. Errors: none.
 * Limits:  kernels.h says what each function does. phi_neon_dotprod_* need the dot product
 *          instructions of ARMv8.2, phi_neon_i8mm_* also the int8 matrix multiplication of ARMv8.6.
 *          Only neon/ includes this.
 */
#ifndef PHI_ENGINE_KERNELS_NEON_NEON_H
#define PHI_ENGINE_KERNELS_NEON_NEON_H

#include "engine/kernels/kernels.h"

/*
 * Tokens of a tile of the i8mm set. A full one has its codes in the order of the instruction's
 * operand, two tokens' eight columns: [cols / 8][4 pairs of tokens][2][8].
 */
#define PHI_NEON_MATRIX_TOKENS 8U

void phi_neon_quantize_tile(const float *x, uint32_t tile, const phi_act *act);
void phi_neon_dotprod_rows_int(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                               const phi_act *act, float *y, size_t ldy);
void phi_neon_i8mm_rows_int(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                            const phi_act *act, float *y, size_t ldy);
void phi_neon_rows_float(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                         const phi_act *act, float *y, size_t ldy);

void phi_neon_rms_norm(const float *x, const float *weight, size_t n, float eps, float *out);
void phi_neon_layer_norm(const float *x, const float *weight, const float *bias, size_t n,
                         float eps, float *out);
void phi_neon_gelu(const float *x, size_t n, float *out);
void phi_neon_swiglu(const float *gate, const float *up, size_t n, float *out);
void phi_neon_rope(float *x, const float *cos_row, const float *sin_row, size_t n_rot);
void phi_neon_add(float *x, const float *y, size_t n);
void phi_neon_mix(float a, float *acc, float b, const float *v, size_t n);
void phi_neon_scale(float a, const float *x, float *out, size_t n);
void phi_neon_kv_store(const phi_kv_rows *rows, void *head);
void phi_neon_attend(const phi_attend *attend, uint32_t page_begin, uint32_t page_end);
float phi_neon_max(const float *x, size_t n);
float phi_neon_exp_sum(float *x, size_t n, float shift);

#endif
