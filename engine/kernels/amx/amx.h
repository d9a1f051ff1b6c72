/*
 * Purpose: the AMX kernels, shared between the files that fill the AMX table.
 * Owns:    nothing. Threads: any; the tile registers are idle again when a function returns.
 * Errors:  none.
 * Limits:  needs AMX-TILE, AMX-INT8 and AMX-BF16, the system's permission to use them (dispatch.c),
 * and what the AVX-512 VNNI set needs and AVX512-BF16. Only amx/ includes this.
 */
#ifndef PHI_ENGINE_KERNELS_AMX_AMX_H
#define PHI_ENGINE_KERNELS_AMX_AMX_H

#include "engine/kernels/kernels.h"

/* Tokens of a tile of activations: the rows of a tile register. */
#define PHI_AMX_ACT_TILE 16U

/* What LDTILECFG reads. */
typedef struct phi_amx_tile_config {
    uint8_t palette;
    uint8_t start_row;
    uint8_t reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} phi_amx_tile_config;
_Static_assert(sizeof(phi_amx_tile_config) == 64, "LDTILECFG reads 64 bytes");

extern const phi_bulk phi_amx_bulk;

void phi_amx_quantize_tile(const float *x, uint32_t tile, const phi_act *act);
void phi_amx_rows_int(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                      const phi_act *act, float *y, size_t ldy);

#endif
