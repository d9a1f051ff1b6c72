/*
 * INT4 and INT8 products. A tile of rows and tokens is computed together, so that a row's codes are
 * unpacked once for several tokens and a token's codes are loaded once for several rows. However
 * the tiles fall, each output is summed in the same order: lane by lane over runs of 32 columns.
 */
#include "engine/kernels/avx2/avx2.h"

#include "base/assert.h"
#include "engine/kernels/avx2/lanes.h"

#include <float.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

/* The tile functions are stamped out for constant shapes: their loops unroll and their arrays
 * become registers only if they are inlined. */
#define STAMP static inline __attribute__((always_inline))

#define ROWS_MAX 4
#define TOKENS_MAX 4
#define RUNS 8

/* As in the portable set: a group below this is zero. */
#define ACT_TINY 1e-35F

typedef struct int_tile {
    const phi_weight *weight;
    const phi_act *act;
    uint32_t row;
    uint32_t token;
    float *y;
    size_t ldy;
} int_tile;

static __m256i load_bytes(const void *from)
{
    return _mm256_loadu_si256((const __m256i *)from);
}

static __m256 load_some(const float *from, size_t n)
{
    float padded[RUNS] = {0};
    if (n >= RUNS) {
        return _mm256_loadu_ps(from);
    }
    memcpy(padded, from, n * sizeof *from);
    return _mm256_loadu_ps(padded);
}

/* The scales (or offsets) of runs [run, run + n) of a row, one for each run. */
static __m256 run_halves(const phi_weight *weight, const uint16_t *halves, uint32_t row, size_t run,
                         size_t n)
{
    const uint16_t *first = halves + (size_t)row * (weight->cols / weight->group);
    if (n == RUNS && weight->group == 32) {
        return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(first + run)));
    }
    uint16_t spread[RUNS] = {0};
    for (size_t i = 0; i < n; i++) {
        spread[i] = first[(run + i) * 32 / weight->group];
    }
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)spread));
}

/* 32 nibbles as bytes 0..15, column by column. */
STAMP __m256i unpack_int4(const uint8_t *codes)
{
    __m128i packed = _mm_loadu_si128((const __m128i *)(const void *)codes);
    __m256i both =
        _mm256_inserti128_si256(_mm256_castsi128_si256(packed), _mm_srli_epi16(packed, 4), 1);
    return _mm256_and_si256(both, _mm256_set1_epi8(15));
}

/* Eight partial sums of 32 products. INT8 multiplies |w| with sign(w) a: the instruction wants one
 * factor unsigned. Two products are at most 2 * 128 * 127 = 32512, so the 16-bit sums are exact. */
STAMP __m256 dot_run(__m256i w, __m256i size, __m256i a, int is_int4)
{
    __m256i pairs =
        is_int4 ? _mm256_maddubs_epi16(w, a) : _mm256_maddubs_epi16(size, _mm256_sign_epi8(a, w));
    return _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* What a batch of eight runs shares: products of scales, [rows][tokens][run], and what the offsets
 * add, which needs no codes. */
STAMP void scale_runs(const int_tile *tile, size_t run, size_t n, int is_int4, int n_rows,
                      int n_tokens, float products[ROWS_MAX][TOKENS_MAX][RUNS],
                      __m256 shift[ROWS_MAX][TOKENS_MAX])
{
    const phi_weight *weight = tile->weight;
    size_t runs = weight->cols / 32;
    for (int r = 0; r < n_rows; r++) {
        uint32_t row = tile->row + (uint32_t)r;
        __m256 scale = run_halves(weight, weight->scales, row, run, n);
        __m256 offset = weight->offsets ? run_halves(weight, weight->offsets, row, run, n)
                        : is_int4       ? _mm256_mul_ps(scale, _mm256_set1_ps(-8.0F))
                                        : _mm256_setzero_ps();
        for (int t = 0; t < n_tokens; t++) {
            size_t at = (tile->token + (size_t)t) * runs + run;
            __m256 act_scale = load_some(tile->act->scales + at, n);
            __m256 act_sum = load_some(tile->act->sums + at, n);
            _mm256_storeu_ps(products[r][t], _mm256_mul_ps(scale, act_scale));
            shift[r][t] = _mm256_fmadd_ps(offset, act_sum, shift[r][t]);
        }
    }
}

STAMP void int_tile_run(const int_tile *tile, int is_int4, int n_rows, int n_tokens)
{
    const phi_weight *weight = tile->weight;
    size_t runs = weight->cols / 32;
    size_t run_bytes = is_int4 ? 16 : 32;
    const uint8_t *codes = (const uint8_t *)weight->codes + tile->row * weight->row_bytes;
    const int8_t *act = tile->act->codes + (size_t)tile->token * weight->cols;
    __m256 acc[ROWS_MAX][TOKENS_MAX];
    __m256 shift[ROWS_MAX][TOKENS_MAX];
    float products[ROWS_MAX][TOKENS_MAX][RUNS];
    for (int r = 0; r < n_rows; r++) {
        for (int t = 0; t < n_tokens; t++) {
            acc[r][t] = _mm256_setzero_ps();
            shift[r][t] = _mm256_setzero_ps();
        }
    }
    for (size_t run = 0; run < runs; run += RUNS) {
        size_t n = runs - run < RUNS ? runs - run : RUNS;
        scale_runs(tile, run, n, is_int4, n_rows, n_tokens, products, shift);
        for (size_t i = 0; i < n; i++) {
            __m256i w[ROWS_MAX];
            __m256i size[ROWS_MAX];
            for (int r = 0; r < n_rows; r++) {
                const uint8_t *at = codes + (size_t)r * weight->row_bytes + (run + i) * run_bytes;
                w[r] = is_int4 ? unpack_int4(at) : load_bytes(at);
                size[r] = is_int4 ? w[r] : _mm256_abs_epi8(w[r]);
            }
            for (int t = 0; t < n_tokens; t++) {
                __m256i a = load_bytes(act + (size_t)t * weight->cols + (run + i) * 32);
                for (int r = 0; r < n_rows; r++) {
                    __m256 scale = _mm256_broadcast_ss(&products[r][t][i]);
                    acc[r][t] =
                        _mm256_fmadd_ps(dot_run(w[r], size[r], a, is_int4), scale, acc[r][t]);
                }
            }
        }
    }
    for (int r = 0; r < n_rows; r++) {
        for (int t = 0; t < n_tokens; t++) {
            tile->y[(tile->token + (size_t)t) * tile->ldy + tile->row + (uint32_t)r] =
                phi_lanes_sum(acc[r][t]) + phi_lanes_sum(shift[r][t]);
        }
    }
}

/* Four rows over all tokens: by two rows and four tokens while there are four. */
STAMP void four_rows(int_tile *tile, int is_int4)
{
    uint32_t row = tile->row;
    uint32_t token = 0;
    for (; token + 4 <= tile->act->n_tok; token += 4) {
        tile->token = token;
        tile->row = row;
        int_tile_run(tile, is_int4, 2, 4);
        tile->row = row + 2;
        int_tile_run(tile, is_int4, 2, 4);
    }
    tile->row = row;
    for (; token < tile->act->n_tok; token++) {
        tile->token = token;
        int_tile_run(tile, is_int4, 4, 1);
    }
}

STAMP void rows_int(int_tile *tile, uint32_t row_begin, uint32_t row_end, int is_int4)
{
    PHI_ASSERT(tile->weight->cols == tile->act->cols && tile->weight->group % 32 == 0);
    uint32_t row = row_begin;
    for (; row + 4 <= row_end; row += 4) {
        tile->row = row;
        four_rows(tile, is_int4);
    }
    for (; row < row_end; row++) {
        tile->row = row;
        for (tile->token = 0; tile->token < tile->act->n_tok; tile->token++) {
            int_tile_run(tile, is_int4, 1, 1);
        }
    }
}

void phi_avx2_rows_int4(const phi_weight *weight, uint32_t row_begin, uint32_t row_end,
                        const phi_act *act, float *y, size_t ldy)
{
    int_tile tile = {.weight = weight, .act = act, .y = y, .ldy = ldy};
    PHI_ASSERT(weight->kind == PHI_WEIGHT_INT4);
    rows_int(&tile, row_begin, row_end, 1);
}

void phi_avx2_rows_int8(const phi_weight *weight, uint32_t row_begin, uint32_t row_end,
                        const phi_act *act, float *y, size_t ldy)
{
    int_tile tile = {.weight = weight, .act = act, .y = y, .ldy = ldy};
    PHI_ASSERT(weight->kind == PHI_WEIGHT_INT8);
    rows_int(&tile, row_begin, row_end, 0);
}

/* ---- activations ---- */

/* Bit for bit what the portable set does: the same operations, and none that depend on order. */
static void quantize_group(const float *x, int8_t *codes, float *scale, float *sum)
{
    const __m256 no_sign = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF));
    __m256 largest_lanes = _mm256_setzero_ps();
    __m256 finite = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
    __m256 values[4];
    for (int i = 0; i < 4; i++) {
        values[i] = _mm256_loadu_ps(x + i * 8);
        __m256 size = _mm256_and_ps(values[i], no_sign);
        finite = _mm256_and_ps(finite, _mm256_cmp_ps(size, _mm256_set1_ps(FLT_MAX), _CMP_LE_OQ));
        largest_lanes = _mm256_max_ps(size, largest_lanes);
    }
    bool all_finite = _mm256_movemask_ps(finite) == 0xFF;
    float largest = phi_lanes_max(largest_lanes);
    if (!all_finite || largest < ACT_TINY) {
        memset(codes, 0, 32);
        *scale = all_finite ? 0.0F : NAN;
        *sum = *scale;
        return;
    }
    __m256 inverse = _mm256_set1_ps(127.0F / largest);
    __m256i whole[4];
    for (int i = 0; i < 4; i++) {
        whole[i] = _mm256_cvtps_epi32(_mm256_mul_ps(values[i], inverse));
    }
    int total = phi_lanes_sum_i32(_mm256_add_epi32(_mm256_add_epi32(whole[0], whole[1]),
                                                   _mm256_add_epi32(whole[2], whole[3])));
    /* Packing works within 128-bit halves; the permutation puts the columns back in order. */
    __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(whole[0], whole[1]),
                                       _mm256_packs_epi32(whole[2], whole[3]));
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)(void *)codes, bytes);
    *scale = largest / 127.0F;
    *sum = *scale * (float)total;
}

void phi_avx2_quantize_row(const float *x, size_t cols, int8_t *codes, float *scales, float *sums)
{
    PHI_ASSERT(cols % 32 == 0);
    for (size_t g = 0; g < cols / 32; g++) {
        quantize_group(x + g * 32, codes + g * 32, &scales[g], &sums[g]);
    }
}
