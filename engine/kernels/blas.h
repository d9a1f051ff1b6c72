/*
 * Purpose: floating-point products of many tokens through OpenBLAS.
 * Owns:    nothing; OpenBLAS's own threads are switched off, the team is the only pool.
 * Threads: [team]; any number of calls at a time.
 * Errors:  none.
 * Limits:  OpenBLAS chooses the order of its sums by the shape it is given: see matmul.h for where
 *          that is allowed.
 */
#ifndef PHI_ENGINE_KERNELS_BLAS_H
#define PHI_ENGINE_KERNELS_BLAS_H

#include "engine/kernels/kernels.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* y[t * ldy + r] = sum_k W[r, k] x[t, k] for r in [row_begin, row_end). FP16 and BF16 rows are
 * widened into a panel first. False, with nothing done, when there is no memory for it. */
bool phi_blas_rows(const phi_kernels *kernels, const phi_weight *weight, uint32_t row_begin,
                   uint32_t row_end, const float *x, uint32_t n_tok, float *y, size_t ldy);

#endif
