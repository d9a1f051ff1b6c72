/*
 * Purpose: the portable kernels, shared between the files that fill the portable table.
 * Owns:    nothing. Threads: any. Errors: none.
 * Limits:  those of kernels.h, which says what each function does.
 */
#ifndef PHI_ENGINE_KERNELS_REF_REF_H
#define PHI_ENGINE_KERNELS_REF_REF_H

#include "engine/kernels/kernels.h"

void phi_ref_quantize_tile(const float *x, uint32_t tile, const phi_act *act);
void phi_ref_rows_int(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                      const phi_act *act, float *y, size_t ldy);
void phi_ref_rows_float(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                        const phi_act *act, float *y, size_t ldy);
void phi_ref_kv_store(const phi_kv_rows *rows, void *head);
void phi_ref_attend(const phi_attend *attend, uint32_t page_begin, uint32_t page_end);

#endif
