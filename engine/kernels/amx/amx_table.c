/* The AMX table: integer products and those of prompts on tiles, the rest as with AVX-512. */
#include "engine/kernels/amx/amx.h"
#include "engine/kernels/avx512/avx512.h"
#include "engine/kernels/sets.h"

const phi_kernels phi_kernels_amx = {
    .name = "amx",
    .act_tile = PHI_AMX_ACT_TILE,
    .quantize_tile = phi_amx_quantize_tile,
    .rows_int = phi_amx_rows_int,
    .rows_float = phi_avx512_rows_float,
    .bulk = &phi_amx_bulk,
    PHI_AVX512_VECTOR_SLOTS,
};
