/*
 * Purpose: INT products of one tile of tokens.
 * Owns:    nothing. Threads: any.
 * Errors:  none.
 * Limits:  PHI_AMX_TOKENS to 16 tokens in runs of 32 columns; the tile registers are configured
 *          for as many. Only amx/ includes this.
 */
#ifndef PHI_ENGINE_KERNELS_AMX_FEW_H
#define PHI_ENGINE_KERNELS_AMX_FEW_H

#include "engine/kernels/kernels.h"

/* As phi_kernels.rows_int, of the first n_tok tokens. */
void phi_amx_few(const phi_weight *weight, uint32_t begin, uint32_t end, const phi_act *act,
                 uint32_t n_tok, float *y, size_t ldy);

#endif
