/* INT4 and INT8 products with the dot product instructions alone. */
#include "engine/kernels/neon/int_tile.h"

INT_TILE_FNS(dot_tokens)

void phi_neon_dotprod_rows_int(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                               const phi_act *act, float *y, size_t ldy)
{
    const int_call call = {weight, act, y, ldy};
    walk_blocks(&call, block_begin, block_end, int_tile_fns);
}
