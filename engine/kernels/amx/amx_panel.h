/*
 * Purpose: weights and activations as the bf16 tiles that TDPBF16PS multiplies.
 * Owns:    nothing: all buffers are the caller's. Threads: any.
 * Errors:  none.
 * Limits:  needs AVX512-BF16. Only amx/ includes this.
 *
 * A number is written as a sum of `parts` bf16 numbers, largest first, each the nearest to what the
 * ones before leave: one part has 8 bits of the 24 that fp32 has, three parts have them all.
 * Numbers of which a part is below 2^-126 lose that part. Infinity becomes NaN where there are
 * several parts.
 * A tile of tokens is [16 tokens][32 columns], one of weights [16 pairs of columns][16 rows][2],
 * each 1 KiB. Columns beyond the last are zeros.
 */
#ifndef PHI_ENGINE_KERNELS_AMX_PANEL_H
#define PHI_ENGINE_KERNELS_AMX_PANEL_H

#include "engine/kernels/kernels.h"

/* Parts of a number: of activations beside such weights, and of the weights. The INT kinds have
 * the values of 4 or 8 bits and a scale: one part is nearer to them than they are to what they
 * were made from. */
uint32_t phi_amx_act_parts(phi_weight_kind kind);
uint32_t phi_amx_weight_parts(phi_weight_kind kind);

/* Steps [step, step + n_steps) of a block's columns as tiles [n_steps][parts], `stride` elements
 * from one to the next. */
void phi_amx_unpack(const phi_weight *weight, uint32_t block, uint32_t step, uint32_t n_steps,
                    uint16_t *out, size_t stride);

/* Tile `tile` of act->values, [steps][parts][16 tokens][32 columns]; x is the matrix's first row.
 * Tokens beyond the last are zeros. */
void phi_amx_bulk_pack(const float *x, uint32_t tile, const phi_bulk_act *act);

#endif
