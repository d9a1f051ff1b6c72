/*
 * INT4 and INT8 products of one tile of tokens. Each run's codes are used once, so they are not
 * unpacked into a panel first: unpacking, the tiles' products and the scaling of their sums follow
 * one another a few runs apart, and memory is read all the time.
 */
#include "engine/kernels/amx/amx_few.h"
#include "engine/kernels/amx/amx_int.h"

#include <string.h>

#define BLOCK PHI_WEIGHT_BLOCK
#define RUN PHI_AMX_RUN
/* Runs that are unpacked before they are multiplied, that wait for their sums, and that wait to be
 * scaled: so far apart none waits for another. */
#define UNPACKED 3U
#define STORED 1U
#define BEHIND 3U
/* Bytes that scales and offsets are asked for ahead. */
#define SIDES_AHEAD 512
#define RING 4U /* more than either distance */

typedef struct few_call {
    const phi_weight *weight;
    const phi_act *act;
    float *y;
    size_t ldy;
    phi_int_kind kind;
    int8_t (*codes)[RUN / 4][BLOCK * 4]; /* [RING] */
    int32_t (*sums)[PHI_AMX_ACT_TILE * BLOCK];
} few_call;

PHI_STAMP void multiply_run(const few_call *call, size_t i, int n_tok)
{
    const int8_t *tokens = call->act->codes + i * (size_t)n_tok * RUN;
    if (i % 2 == 0) {
        _tile_loadd(TOKENS_LAST, tokens, RUN);
        _tile_loadd(ROWS_0, call->codes[i % RING], BLOCK * 4);
        _tile_zero(SUMS_LAST_0);
        _tile_dpbssd(SUMS_LAST_0, TOKENS_LAST, ROWS_0);
    } else {
        _tile_loadd(TOKENS_LAST, tokens, RUN);
        _tile_loadd(ROWS_1, call->codes[i % RING], BLOCK * 4);
        _tile_zero(SUMS_LAST_1);
        _tile_dpbssd(SUMS_LAST_1, TOKENS_LAST, ROWS_1);
    }
}

PHI_STAMP void store_run(const few_call *call, size_t i)
{
    if (i % 2 == 0) {
        _tile_stored(SUMS_LAST_0, call->sums[i % RING], BLOCK * 4);
    } else {
        _tile_stored(SUMS_LAST_1, call->sums[i % RING], BLOCK * 4);
    }
}

PHI_STAMP void scale_run(const few_call *call, phi_sides sides, size_t i, int n_tok, __m512 *acc)
{
    const phi_int_kind kind = call->kind;
    const __m512 scale = phi_amx_load_side(sides.scales, kind.is_wide);
    const float *scales = call->act->scales + i * (size_t)n_tok;
    const int32_t *sums = call->sums[i % RING];
    PHI_UNROLL
    for (int t = 0; t < n_tok; t++) {
        __m512 sum =
            _mm512_cvtepi32_ps(_mm512_load_si512((const void *)(sums + (size_t)t * BLOCK)));
        acc[t] = _mm512_fmadd_ps(sum, _mm512_mul_ps(scale, _mm512_set1_ps(scales[t])), acc[t]);
    }
    if (kind.has_offsets) {
        const __m512 offset = phi_amx_load_side(sides.offsets, kind.is_wide);
        const float *shifts = call->act->shifts + i * (size_t)n_tok;
        PHI_UNROLL
        for (int t = 0; t < n_tok; t++) {
            acc[t] = _mm512_fmadd_ps(offset, _mm512_set1_ps(shifts[t]), acc[t]);
        }
    }
}

PHI_STAMP void few_block(const few_call *call, uint32_t block, int n_tok)
{
    const phi_weight *weight = call->weight;
    const phi_int_kind kind = call->kind;
    const size_t n_runs = weight->cols / RUN;
    const size_t run_bytes = kind.is_int4 ? 256 : 512;
    const uint32_t runs_per_group = weight->group / RUN;
    const uint8_t *codes = (const uint8_t *)weight->codes + block * weight->block_bytes;
    const __m512i centre = _mm512_set1_epi8((char)phi_weight_centre(weight));
    phi_sides sides = phi_sides_of(weight, block, kind);
    uint32_t left = runs_per_group;
    float *y = call->y + (size_t)block * BLOCK;
    __m512 acc[PHI_AMX_ACT_TILE];
    PHI_UNROLL
    for (int t = 0; t < n_tok; t++) {
        __builtin_prefetch(y + (size_t)t * call->ldy, 1);
        acc[t] = _mm512_setzero_ps();
    }
    for (size_t i = 0; i < n_runs + UNPACKED + BEHIND; i++) {
        /* Loads of tiles stand before stores: behind one, they might wait for it, and it for the
         * products before. */
        if (i >= UNPACKED && i < n_runs + UNPACKED) {
            multiply_run(call, i - UNPACKED, n_tok);
        }
        if (i < n_runs) {
            phi_amx_unpack_run(codes + i * run_bytes, kind.is_int4, centre, call->codes[i % RING]);
        }
        if (i >= UNPACKED + STORED && i < n_runs + UNPACKED + STORED) {
            store_run(call, i - UNPACKED - STORED);
        }
        if (i >= UNPACKED + BEHIND) {
            scale_run(call, sides, i - UNPACKED - BEHIND, n_tok, acc);
            if (--left == 0) {
                left = runs_per_group;
                sides = phi_sides_at(sides, phi_side_bytes(BLOCK, kind), kind);
                _mm_prefetch((const char *)sides.scales + SIDES_AHEAD, _MM_HINT_T1);
                if (kind.has_offsets) {
                    _mm_prefetch((const char *)sides.offsets + SIDES_AHEAD, _MM_HINT_T1);
                }
            }
        }
    }
    const uint32_t rows = weight->rows - block * BLOCK;
    const __mmask16 mask = (__mmask16)(rows >= BLOCK ? 0xFFFFU : (1U << rows) - 1);
    PHI_UNROLL
    for (int t = 0; t < n_tok; t++) {
        _mm512_mask_storeu_ps(y + (size_t)t * call->ldy, mask, acc[t]);
    }
}

#define FEW_FN(n)                                                                                  \
    static void few_##n(const few_call *call, uint32_t begin, uint32_t end)                        \
    {                                                                                              \
        for (uint32_t block = begin; block < end; block++) {                                       \
            few_block(call, block, n);                                                             \
        }                                                                                          \
    }
FEW_FN(5)
FEW_FN(6)
FEW_FN(7)
FEW_FN(8)
FEW_FN(9)
FEW_FN(10)
FEW_FN(11)
FEW_FN(12)
FEW_FN(13)
FEW_FN(14)
FEW_FN(15)
FEW_FN(16)

typedef void (*few_fn)(const few_call *call, uint32_t begin, uint32_t end);

/* [tokens - PHI_AMX_TOKENS] */
static const few_fn fns[PHI_AMX_ACT_TILE - PHI_AMX_TOKENS + 1] = {
    few_5, few_6, few_7, few_8, few_9, few_10, few_11, few_12, few_13, few_14, few_15, few_16,
};

void phi_amx_few(const phi_weight *weight, uint32_t begin, uint32_t end, const phi_act *act,
                 uint32_t n_tok, float *y, size_t ldy)
{
    _Alignas(64) int8_t codes[RING][RUN / 4][BLOCK * 4];
    _Alignas(64) int32_t sums[RING][PHI_AMX_ACT_TILE * BLOCK];
    const few_call call = {
        .weight = weight,
        .act = act,
        .y = y,
        .ldy = ldy,
        .kind = {weight->kind == PHI_WEIGHT_INT4, weight->has_offsets, weight->wide, 0},
        .codes = codes,
        .sums = sums};
    fns[n_tok - PHI_AMX_TOKENS](&call, begin, end);
}
