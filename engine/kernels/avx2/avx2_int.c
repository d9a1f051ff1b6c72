/* INT4 and INT8 products with AVX2's 16-bit multiply-adds. */
#include "engine/kernels/avx2/avx2.h"
#include "engine/kernels/avx2/int_products.h"

void phi_avx2_rows_int(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                       const phi_act *act, float *y, size_t ldy)
{
    const int_call call = {weight, act, y, ldy};
    phi_int_products(&call, block_begin, block_end);
}
