/*
 * Purpose: the AMX kernels, shared between the files that fill the AMX table.
 * Owns:    nothing. Threads: any; the tile registers are idle again when a function returns.
 * Errors:  none.
 * Limits:  needs AMX-TILE and AMX-INT8, the system's permission to use them (dispatch.c), and what
 *          the AVX-512 VNNI set needs. Only amx/ includes this.
 */
#ifndef PHI_ENGINE_KERNELS_AMX_AMX_H
#define PHI_ENGINE_KERNELS_AMX_AMX_H

#include "engine/kernels/kernels.h"

/* Tokens of a tile of activations: the rows of a tile register. */
#define PHI_AMX_ACT_TILE 16U

void phi_amx_quantize_tile(const float *x, uint32_t tile, const phi_act *act);
void phi_amx_rows_int(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                      const phi_act *act, float *y, size_t ldy);

#endif
