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
 * token inside a run: [cols / run][n_tok][run]. */
void phi_avx512_quantize_rows(const float *x, const phi_act *act);
void phi_avx512_rows_int(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                         const phi_act *act, float *y, size_t ldy);
void phi_avx512_rows_float(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                           const phi_act *act, float *y, size_t ldy);

#endif
