/* INT4 and INT8 products with AVX-VNNI, and its table: all else is AVX2's. */
#include "engine/kernels/avx2/avx2.h"
#include "engine/kernels/avx2/int_products.h"
#include "engine/kernels/sets.h"

static void rows_int(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                     const phi_act *act, float *y, size_t ldy)
{
    const int_call call = {weight, act, y, ldy};
    phi_int_products(&call, block_begin, block_end);
}

const phi_kernels phi_kernels_avx_vnni = {
    .name = "avx-vnni",
    .act_tile = PHI_ACT_QUAD,
    .quantize_tile = phi_avx2_quantize_tile,
    .rows_int = rows_int,
    .rows_float = phi_avx2_rows_float,
    PHI_AVX2_VECTOR_SLOTS,
};
