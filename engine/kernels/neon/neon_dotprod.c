/* INT4 and INT8 products with the dot product instructions alone. */
#include "engine/kernels/neon/int_tile.h"

#define TILE_FNS(name, is_int4, has_offsets, is_wide)                                              \
    INT_TILE_FNS(dot_tokens, name, is_int4, has_offsets, is_wide)

PHI_INT_KINDS(TILE_FNS)
static const int_tile_fn tile_fns[2][2][2][2] = {PHI_INT_KINDS(INT_TILE_PLACE)};

void phi_neon_dotprod_rows_int(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                               const phi_act *act, float *y, size_t ldy)
{
    const int_call call = {weight, act, y, ldy};
    walk_blocks(&call, block_begin, block_end, tile_fns);
}
