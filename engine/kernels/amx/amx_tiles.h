/*
 * Purpose: what the files that use TDPBF16PS share: the names of the tile registers, their
 *          products, and numbers becoming pairs of bf16.
 * Owns:    nothing. Threads: any.
 * Errors:  none.
 * Limits:  needs AMX-TILE, AMX-BF16 and AVX512-BF16. Only amx/ includes this.
 */
#ifndef PHI_ENGINE_KERNELS_AMX_TILES_H
#define PHI_ENGINE_KERNELS_AMX_TILES_H

#include "engine/kernels/amx/amx.h"
#include "engine/kernels/unroll.h"

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

/* Elements of a tile of bf16, and bytes of a row of any tile. */
#define PHI_AMX_TILE_CELLS 512U
#define PHI_AMX_ROW_BYTES 64

/* Tile registers, by number: the intrinsics paste it into a name. Two left tiles, two right ones,
 * and their four products' sums: SUMS_01 is the first left one's with the second right one. */
#define SUMS_00 0
#define SUMS_01 1
#define SUMS_10 2
#define SUMS_11 3
#define LEFT_0 4
#define LEFT_1 5
#define RIGHT_0 6
#define RIGHT_1 7

PHI_STAMP void phi_amx_multiply(void)
{
    _tile_dpbf16ps(SUMS_00, LEFT_0, RIGHT_0);
    _tile_dpbf16ps(SUMS_01, LEFT_0, RIGHT_1);
    _tile_dpbf16ps(SUMS_10, LEFT_1, RIGHT_0);
    _tile_dpbf16ps(SUMS_11, LEFT_1, RIGHT_1);
}

PHI_STAMP void phi_amx_zero_sums(void)
{
    _tile_zero(SUMS_00);
    _tile_zero(SUMS_01);
    _tile_zero(SUMS_10);
    _tile_zero(SUMS_11);
}

/* All registers whole. */
static inline void phi_amx_configure(void)
{
    phi_amx_tile_config config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.rows[i] = 16;
        config.row_bytes[i] = PHI_AMX_ROW_BYTES;
    }
    /* GCC 12 tells its optimiser of the first eight bytes only. */
    __asm__ volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
}

/* Two columns of 16 rows, side by side. */
PHI_STAMP __m512i phi_amx_join(__m512 even, __m512 odd)
{
    static const _Alignas(64) uint16_t order[32] = {
        0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31,
    };
    return _mm512_permutexvar_epi16(_mm512_load_si512((const void *)order),
                                    (__m512i)_mm512_cvtne2ps_pbh(odd, even));
}

/* The same as `parts` tiles' rows, `stride` elements from one to the next: a constant. */
PHI_STAMP void phi_amx_store_pair(__m512 even, __m512 odd, int parts, uint16_t *out, size_t stride)
{
    const __m512i high = _mm512_set1_epi32((int)0xffff0000U);
    PHI_UNROLL
    for (int p = 0; p < parts; p++) {
        __m512i pair = phi_amx_join(even, odd);
        _mm512_storeu_si512((void *)(out + (size_t)p * stride), pair);
        even = _mm512_sub_ps(even, _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16)));
        odd = _mm512_sub_ps(odd, _mm512_castsi512_ps(_mm512_and_si512(pair, high)));
    }
}

/* 32 columns of one row as `parts` tiles' rows, `stride` elements from one to the next. */
PHI_STAMP void phi_amx_store_row(__m512 low, __m512 high, int parts, uint16_t *out, size_t stride)
{
    PHI_UNROLL
    for (int p = 0; p < parts; p++) {
        __m512i part = (__m512i)_mm512_cvtne2ps_pbh(high, low);
        _mm512_store_si512((void *)(out + (size_t)p * stride), part);
        __m512i wide_low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(part));
        __m512i wide_high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(part, 1));
        low = _mm512_sub_ps(low, _mm512_castsi512_ps(_mm512_slli_epi32(wide_low, 16)));
        high = _mm512_sub_ps(high, _mm512_castsi512_ps(_mm512_slli_epi32(wide_high, 16)));
    }
}

/* x[0 .. n), zeros behind it. */
PHI_STAMP __m512 phi_amx_load_some(const float *x, size_t n)
{
    __mmask16 mask = (__mmask16)(n >= 16 ? 0xffffU : (1U << n) - 1);
    return _mm512_maskz_loadu_ps(mask, x);
}

#endif
