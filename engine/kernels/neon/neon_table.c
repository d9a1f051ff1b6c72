/* The two NEON tables: they differ in the integer products alone. */
#include "engine/kernels/neon/neon.h"
#include "engine/kernels/sets.h"

#define SHARED_SLOTS                                                                               \
    .quantize_tile = phi_neon_quantize_tile, .rows_float = phi_neon_rows_float,                    \
    .rms_norm = phi_neon_rms_norm, .layer_norm = phi_neon_layer_norm, .gelu = phi_neon_gelu,       \
    .swiglu = phi_neon_swiglu, .rope = phi_neon_rope, .add = phi_neon_add, .mix = phi_neon_mix,    \
    .scale = phi_neon_scale, .kv_store = phi_neon_kv_store, .attend = phi_neon_attend,             \
    .max = phi_neon_max, .exp_sum = phi_neon_exp_sum

const phi_kernels phi_kernels_neon_dotprod = {
    .name = "neon-dotprod",
    .act_tile = PHI_ACT_QUAD,
    .rows_int = phi_neon_dotprod_rows_int,
    SHARED_SLOTS,
};

const phi_kernels phi_kernels_neon_i8mm = {
    .name = "neon-i8mm",
    .act_tile = PHI_NEON_MATRIX_TOKENS,
    .rows_int = phi_neon_i8mm_rows_int,
    SHARED_SLOTS,
};
