/*
 * FP16, BF16 and FP32 products, in tiles as in avx2_matmul.c. Each output has one accumulator of
 * eight lanes and takes the columns in order, whatever tile it falls into.
 */
#include "engine/kernels/avx2/avx2.h"

#include "base/assert.h"
#include "engine/kernels/avx2/lanes.h"
#include "engine/tensor/half.h"

#include <immintrin.h>

#define STAMP static inline __attribute__((always_inline))

#define ROWS_MAX 4
#define TOKENS_MAX 4

typedef struct float_tile {
    const phi_weight *weight;
    const float *x;
    uint32_t n_tok;
    uint32_t row;
    uint32_t token;
    float *y;
    size_t ldy;
} float_tile;

/* Columns [k, k + 8) of a row as floats. `kind` is a constant where this is stamped out. */
STAMP __m256 load_eight(const uint8_t *row, size_t k, phi_weight_kind kind)
{
    if (kind == PHI_WEIGHT_FP16) {
        return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(row + k * 2)));
    }
    if (kind == PHI_WEIGHT_BF16) {
        __m128i halves = _mm_loadu_si128((const __m128i *)(const void *)(row + k * 2));
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
    }
    return _mm256_loadu_ps((const float *)(const void *)(row + k * 4));
}

static float load_one(const uint8_t *row, size_t k, phi_weight_kind kind)
{
    if (kind == PHI_WEIGHT_FP32) {
        return ((const float *)(const void *)row)[k];
    }
    uint16_t half = ((const uint16_t *)(const void *)row)[k];
    return kind == PHI_WEIGHT_FP16 ? phi_half_to_float(half) : phi_bf16_to_float(half);
}

STAMP void float_tile_run(const float_tile *tile, phi_weight_kind kind, int n_rows, int n_tokens)
{
    const phi_weight *weight = tile->weight;
    size_t cols = weight->cols;
    size_t whole = cols - cols % 8;
    const uint8_t *codes = (const uint8_t *)weight->codes + tile->row * weight->row_bytes;
    const float *x = tile->x + tile->token * cols;
    __m256 acc[ROWS_MAX][TOKENS_MAX];
    for (int r = 0; r < n_rows; r++) {
        for (int t = 0; t < n_tokens; t++) {
            acc[r][t] = _mm256_setzero_ps();
        }
    }
    for (size_t k = 0; k < whole; k += 8) {
        __m256 w[ROWS_MAX];
        for (int r = 0; r < n_rows; r++) {
            w[r] = load_eight(codes + (size_t)r * weight->row_bytes, k, kind);
        }
        for (int t = 0; t < n_tokens; t++) {
            __m256 values = _mm256_loadu_ps(x + (size_t)t * cols + k);
            for (int r = 0; r < n_rows; r++) {
                acc[r][t] = _mm256_fmadd_ps(w[r], values, acc[r][t]);
            }
        }
    }
    for (int r = 0; r < n_rows; r++) {
        for (int t = 0; t < n_tokens; t++) {
            float sum = phi_lanes_sum(acc[r][t]);
            for (size_t k = whole; k < cols; k++) {
                sum += load_one(codes + (size_t)r * weight->row_bytes, k, kind) *
                       x[(size_t)t * cols + k];
            }
            tile->y[(tile->token + (size_t)t) * tile->ldy + tile->row + (uint32_t)r] = sum;
        }
    }
}

STAMP void four_rows(float_tile *tile, phi_weight_kind kind)
{
    uint32_t row = tile->row;
    uint32_t token = 0;
    for (; token + 4 <= tile->n_tok; token += 4) {
        tile->token = token;
        tile->row = row;
        float_tile_run(tile, kind, 2, 4);
        tile->row = row + 2;
        float_tile_run(tile, kind, 2, 4);
    }
    tile->row = row;
    for (; token < tile->n_tok; token++) {
        tile->token = token;
        float_tile_run(tile, kind, 4, 1);
    }
}

STAMP void rows_float(float_tile *tile, uint32_t row_begin, uint32_t row_end, phi_weight_kind kind)
{
    PHI_ASSERT(tile->weight->kind == kind);
    uint32_t row = row_begin;
    for (; row + 4 <= row_end; row += 4) {
        tile->row = row;
        four_rows(tile, kind);
    }
    for (; row < row_end; row++) {
        tile->row = row;
        for (tile->token = 0; tile->token < tile->n_tok; tile->token++) {
            float_tile_run(tile, kind, 1, 1);
        }
    }
}

void phi_avx2_rows_fp16(const phi_weight *weight, uint32_t row_begin, uint32_t row_end,
                        const float *x, uint32_t n_tok, float *y, size_t ldy)
{
    float_tile tile = {.weight = weight, .x = x, .n_tok = n_tok, .y = y, .ldy = ldy};
    rows_float(&tile, row_begin, row_end, PHI_WEIGHT_FP16);
}

void phi_avx2_rows_bf16(const phi_weight *weight, uint32_t row_begin, uint32_t row_end,
                        const float *x, uint32_t n_tok, float *y, size_t ldy)
{
    float_tile tile = {.weight = weight, .x = x, .n_tok = n_tok, .y = y, .ldy = ldy};
    rows_float(&tile, row_begin, row_end, PHI_WEIGHT_BF16);
}

void phi_avx2_rows_fp32(const phi_weight *weight, uint32_t row_begin, uint32_t row_end,
                        const float *x, uint32_t n_tok, float *y, size_t ldy)
{
    float_tile tile = {.weight = weight, .x = x, .n_tok = n_tok, .y = y, .ldy = ldy};
    rows_float(&tile, row_begin, row_end, PHI_WEIGHT_FP32);
}
