/*
 * Purpose: floating-point products of many tokens through OpenBLAS, where that is the faster way.
 * Owns:    nothing; OpenBLAS's own threads are switched off, the team is the only pool.
 * Threads: [team] for products, any number of calls at a time; [any] for the choice.
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

/* Blocks of rows that it gets at once, so that the widened panel stays in the cache. */
#define PHI_BLAS_BLOCKS 8U

/* y[t * ldy + r] = sum_k W[r, k] x[t, k] for the rows r of blocks [block_begin, block_end), which
 * may end beyond the last; x [n_tok, cols]. FP kinds only; they are widened into a panel of columns
 * first. False, with nothing done, when there is no memory for that. */
bool phi_blas_rows(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                   const float *x, uint32_t n_tok, float *y, size_t ldy);

/* Whether OpenBLAS multiplies FP32 faster than the set's own kernel, as measured on this machine
 * (about a millisecond, once per set). */
bool phi_blas_is_faster(const phi_kernels *kernels);

#endif
