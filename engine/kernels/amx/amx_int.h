/*
 * Purpose: what the INT products on tiles share: the tile registers, and unpacking.
 * Owns:    nothing. Threads: any.
 * Errors:  none.
 * Limits:  needs AMX-TILE, AMX-INT8 and AVX-512. Only amx/ includes this.
 */
#ifndef PHI_ENGINE_KERNELS_AMX_INT_H
#define PHI_ENGINE_KERNELS_AMX_INT_H

#include "engine/kernels/amx/amx.h"
#include "engine/kernels/int_kind.h"

#include <immintrin.h>

/* Below that many tokens the AVX-512 products, which unpack nothing, are as fast or faster. */
#define PHI_AMX_TOKENS 5U
/* Columns of a run. */
#define PHI_AMX_RUN 32U
/* How far ahead of unpacking memory is asked for codes: into the second-level cache, which can wait
 * for three times as many lines as the first. */
#define PHI_AMX_INT_AHEAD 4096

/* Tile registers, by number: the intrinsics paste it into a name. Products take turns with two
 * sets, so that one run's is under way while the sums of the one before are scaled. */
#define SUMS_0 0
#define SUMS_1 1
#define SUMS_LAST_0 2
#define SUMS_LAST_1 3
#define TOKENS_0 4
#define TOKENS_LAST 5
#define ROWS_0 6
#define ROWS_1 7

/* A run of a block's codes as the tile that TDPBSSD takes, less what stands for zero. */
PHI_STAMP void phi_amx_unpack_run(const uint8_t *codes, int is_int4, __m512i centre,
                                  int8_t out[PHI_AMX_RUN / 4][PHI_WEIGHT_BLOCK * 4])
{
    const __m512i low = _mm512_set1_epi8(15);
    PHI_UNROLL
    for (size_t j = 0; j < 4; j++) {
        _mm_prefetch((const char *)codes + PHI_AMX_INT_AHEAD + j * 64, _MM_HINT_T1);
        __m512i w = _mm512_loadu_si512((const void *)(codes + j * 64));
        __m512i high;
        if (is_int4) {
            high = _mm512_and_si512(_mm512_srli_epi16(w, 4), low);
            w = _mm512_and_si512(w, low);
        } else {
            _mm_prefetch((const char *)codes + PHI_AMX_INT_AHEAD + (j + 4) * 64, _MM_HINT_T1);
            high = _mm512_loadu_si512((const void *)(codes + (j + 4) * 64));
        }
        _mm512_store_si512((void *)out[j], _mm512_sub_epi8(w, centre));
        _mm512_store_si512((void *)out[j + 4], _mm512_sub_epi8(high, centre));
    }
}

/* A group's scales, or offsets. */
PHI_STAMP __m512 phi_amx_load_side(const uint8_t *from, int is_wide)
{
    return is_wide ? _mm512_loadu_ps((const void *)from)
                   : _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)from));
}

#endif
