/*
 * TDPBSSD on six accumulator tiles of 16 x 16 sums, one tile of 16 x 64 codes for each side: a tile
 * product takes the unit 16 cycles, and its result comes 52 cycles after (Intel's optimization
 * manual, chapter on AMX), so four accumulators would do.
 */
#include "engine/kernels/amx/amx.h"
#include "engine/kernels/ceiling_loops.h"

#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

enum { TILES = 8, ACCUMULATORS = 6, TILE_ROWS = 16, TILE_ROW_BYTES = 64 };

static int32_t int8_rounds(uint32_t rounds)
{
    static const int8_t codes[TILE_ROWS * TILE_ROW_BYTES] __attribute__((aligned(64))) = {3, -2, 1};
    int32_t sums[TILE_ROWS * TILE_ROW_BYTES / 4] __attribute__((aligned(64)));
    phi_amx_tile_config before __attribute__((aligned(64)));
    phi_amx_tile_config config __attribute__((aligned(64))) = {.palette = 1};
    for (int i = 0; i < TILES; i++) {
        config.row_bytes[i] = TILE_ROW_BYTES;
        config.rows[i] = TILE_ROWS;
    }
    /* Whoever configured this thread's tiles before finds them so again, but empty. */
    _tile_storeconfig(&before);
    /* GCC 12 tells its optimiser of the first eight bytes only. */
    __asm__ volatile("" : : "r"(&config), "r"(&before) : "memory");
    _tile_loadconfig(&config);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_loadd(6, codes, TILE_ROW_BYTES);
    _tile_loadd(7, codes, TILE_ROW_BYTES);
    for (uint32_t r = 0; r < rounds; r++) {
        _tile_dpbssd(0, 6, 7);
        _tile_dpbssd(1, 6, 7);
        _tile_dpbssd(2, 6, 7);
        _tile_dpbssd(3, 6, 7);
        _tile_dpbssd(4, 6, 7);
        _tile_dpbssd(5, 6, 7);
    }
    _tile_stored(0, sums, TILE_ROW_BYTES);
    if (before.palette == 0) {
        _tile_release();
    } else {
        _tile_loadconfig(&before);
    }
    return sums[0];
}

const phi_ceiling_loops phi_ceiling_amx = {
    .set = "amx",
    .int8_name = "tdpbssd",
    .fp32_name = "vfmadd zmm",
    .int8_ops = ACCUMULATORS * 16ULL * 16ULL * 64ULL * 2ULL,
    .fp32_ops = PHI_CEILING_AVX512_FP32_OPS,
    .int8_rounds = int8_rounds,
    .fp32_rounds = phi_ceiling_avx512_fp32,
};
