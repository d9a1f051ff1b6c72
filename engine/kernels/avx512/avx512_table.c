/* The AVX-512 VNNI table. */
#include "engine/kernels/avx512/avx512.h"
#include "engine/kernels/sets.h"

const phi_kernels phi_kernels_avx512_vnni = {
    .name = "avx512-vnni",
    .act_tile = PHI_ACT_QUAD,
    .quantize_tile = phi_avx512_quantize_tile,
    .rows_int = phi_avx512_rows_int,
    .rows_float = phi_avx512_rows_float,
    PHI_AVX512_VECTOR_SLOTS,
};
