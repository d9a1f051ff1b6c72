/*
 * Purpose: attention of a prompt's rows on AMX tiles.
 * Owns:    nothing. Threads: any; the tile registers are idle again when a function returns.
 * Errors:  none.
 * Limits:  needs what amx.h says; phi_bulk says what the functions do. Only amx/ includes this.
 */
#ifndef PHI_ENGINE_KERNELS_AMX_ATTENTION_H
#define PHI_ENGINE_KERNELS_AMX_ATTENTION_H

#include "engine/kernels/kernels.h"

void phi_amx_pack_query(const float *x, uint32_t row, const phi_attend *attend);
void phi_amx_attend(const phi_attend *attend, uint32_t page_begin, uint32_t page_end);

#endif
