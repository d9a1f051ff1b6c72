/*
 * FP16, BF16 and FP32 products: four vectors hold one column of a block's 16 rows, widened in
 * registers once for all tokens of a tile, and the tokens' values come from the lanes of one load.
 * Several blocks go side by side where there are few tokens, so that enough sums are under way at a
 * time.
 */
#include "engine/kernels/neon/neon.h"

#include "base/assert.h"
#include "engine/kernels/unroll.h"

#include <arm_neon.h>

#define BLOCK PHI_WEIGHT_BLOCK
#define ROW_VECTORS 4
/* Sums of a tile, in vectors. */
#define SUMS_MAX 24
#define AHEAD 2048
/* Values of tokens that share the second-level cache with a piece of a block. */
#define TOKENS_BYTES (512U << 10)

typedef struct float_call {
    const phi_weight *weight;
    const phi_act *act;
    float *y;
    size_t ldy;
} float_call;

/* Rows [4 * v, 4 * v + 4) of column k of a block. `kind` is a constant where this is stamped out.
 */
PHI_STAMP float32x4_t load_rows(const uint8_t *block, size_t k, size_t v, phi_weight_kind kind)
{
    size_t at = k * BLOCK + v * 4;
    if (kind == PHI_WEIGHT_FP32) {
        return vld1q_f32((const float *)(const void *)block + at);
    }
    uint16x4_t halves = vld1_u16((const uint16_t *)(const void *)block + at);
    if (kind == PHI_WEIGHT_FP16) {
        return vcvt_f32_f16(vreinterpret_f16_u16(halves));
    }
    return vreinterpretq_f32_u32(vshll_n_u16(halves, 16));
}

/* The lane has to be a constant in the source. */
PHI_STAMP float32x4_t fma_lane(float32x4_t acc, float32x4_t w, float32x4_t x, int lane)
{
    switch (lane) {
    case 0:
        return vfmaq_laneq_f32(acc, w, x, 0);
    case 1:
        return vfmaq_laneq_f32(acc, w, x, 1);
    case 2:
        return vfmaq_laneq_f32(acc, w, x, 2);
    default:
        return vfmaq_laneq_f32(acc, w, x, 3);
    }
}

/* Adds column k of one block; acc is [token][four vectors]. */
PHI_STAMP void add_column(const uint8_t *block, size_t k, const float *x, phi_weight_kind kind,
                          int width, float32x4_t *acc)
{
    const size_t column_bytes = (kind == PHI_WEIGHT_FP32 ? 4 : 2) * BLOCK;
    float32x4_t w[ROW_VECTORS];
    float32x4_t values = vdupq_n_f32(0.0F);
    if (kind == PHI_WEIGHT_FP32 || k % 2 == 0) {
        __builtin_prefetch(block + k * column_bytes + AHEAD);
    }
    PHI_UNROLL
    for (size_t v = 0; v < ROW_VECTORS; v++) {
        w[v] = load_rows(block, k, v, kind);
    }
    if (width == 4) {
        values = vld1q_f32(x);
    }
    PHI_UNROLL
    for (int t = 0; t < width; t++) {
        if (width < 4) {
            values = vdupq_n_f32(x[t]);
        }
        PHI_UNROLL
        for (int v = 0; v < ROW_VECTORS; v++) {
            float32x4_t *sum = &acc[t * ROW_VECTORS + v];
            *sum = fma_lane(*sum, w[v], values, width == 4 ? t : 0);
        }
    }
}

/* Adds the sums of one piece to 16 rows of y, or to as many as there are; the first piece is added
 * to zero, as in every other set. */
PHI_STAMP void add_piece(const float32x4_t *acc, float *y, uint32_t rows, bool is_first)
{
    float piece[BLOCK];
    if (rows >= BLOCK) {
        PHI_UNROLL
        for (size_t v = 0; v < ROW_VECTORS; v++) {
            float32x4_t so_far = is_first ? vdupq_n_f32(0.0F) : vld1q_f32(y + v * 4);
            vst1q_f32(y + v * 4, vaddq_f32(so_far, acc[v]));
        }
        return;
    }
    PHI_UNROLL
    for (size_t v = 0; v < ROW_VECTORS; v++) {
        vst1q_f32(piece + v * 4, acc[v]);
    }
    for (uint32_t r = 0; r < rows; r++) {
        y[r] = (is_first ? 0.0F : y[r]) + piece[r];
    }
}

/* Columns [k, k + count) of `n_blocks` blocks times `width` tokens of the tile at `token`. */
PHI_STAMP void float_tile(const float_call *call, uint32_t block, uint32_t token, size_t k,
                          size_t count, phi_weight_kind kind, int n_blocks, int width)
{
    const phi_weight *weight = call->weight;
    const size_t block_bytes = (size_t)weight->block_bytes;
    const uint8_t *codes = (const uint8_t *)weight->codes + block * block_bytes;
    const float *x = call->act->x + (size_t)token * weight->cols;
    float32x4_t acc[SUMS_MAX];
    const int n_sums = width * ROW_VECTORS;
    PHI_UNROLL
    for (int i = 0; i < n_blocks * n_sums; i++) {
        acc[i] = vdupq_n_f32(0.0F);
    }
    for (size_t i = k; i < k + count; i++) {
        PHI_UNROLL
        for (int b = 0; b < n_blocks; b++) {
            add_column(codes + (size_t)b * block_bytes, i, x + i * (size_t)width, kind, width,
                       acc + b * n_sums);
        }
    }
    PHI_UNROLL
    for (int b = 0; b < n_blocks; b++) {
        uint32_t row = (block + (uint32_t)b) * BLOCK;
        PHI_UNROLL
        for (int t = 0; t < width; t++) {
            add_piece(acc + b * n_sums + t * ROW_VECTORS,
                      call->y + (token + (size_t)t) * call->ldy + row, weight->rows - row, k == 0);
        }
    }
}

/* All pieces of `n_blocks` blocks times tokens [token, end), a piece at a time. */
PHI_STAMP void blocks_tokens(const float_call *call, uint32_t block, uint32_t token, uint32_t end,
                             phi_weight_kind kind, int n_blocks, int width)
{
    const size_t cols = call->weight->cols;
    for (size_t k = 0; k < cols; k += PHI_FLOAT_PIECE) {
        size_t count = cols - k < PHI_FLOAT_PIECE ? cols - k : PHI_FLOAT_PIECE;
        for (uint32_t t = token; t < end; t += (uint32_t)width) {
            float_tile(call, block, t, k, count, kind, n_blocks, width);
        }
    }
}

/* All blocks times tokens [token, end), whole tiles of `width`. */
PHI_STAMP void walk_blocks(const float_call *call, uint32_t block, uint32_t block_end,
                           uint32_t token, uint32_t end, phi_weight_kind kind, int n_blocks,
                           int width)
{
    for (; block + (uint32_t)n_blocks <= block_end; block += (uint32_t)n_blocks) {
        blocks_tokens(call, block, token, end, kind, n_blocks, width);
    }
    for (; n_blocks > 1 && block < block_end; block++) {
        blocks_tokens(call, block, token, end, kind, 1, width);
    }
}

PHI_STAMP void rows_kind(const float_call *call, uint32_t block_begin, uint32_t block_end,
                         phi_weight_kind kind)
{
    uint32_t n_tok = call->act->n_tok;
    uint32_t whole = n_tok - n_tok % PHI_ACT_QUAD;
    uint32_t group =
        (uint32_t)(TOKENS_BYTES / (call->weight->cols * sizeof(float)) / PHI_ACT_QUAD + 1) *
        PHI_ACT_QUAD;
    for (uint32_t token = 0; token < whole; token += group) {
        uint32_t end = whole - token < group ? whole : token + group;
        walk_blocks(call, block_begin, block_end, token, end, kind, 1, 4);
    }
    if (n_tok - whole == 3) {
        walk_blocks(call, block_begin, block_end, whole, n_tok, kind, 1, 3);
    } else if (n_tok - whole == 2) {
        walk_blocks(call, block_begin, block_end, whole, n_tok, kind, 2, 2);
    } else if (n_tok - whole == 1) {
        walk_blocks(call, block_begin, block_end, whole, n_tok, kind, 4, 1);
    }
}

void phi_neon_rows_float(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                         const phi_act *act, float *y, size_t ldy)
{
    const float_call call = {weight, act, y, ldy};
    PHI_ASSERT(!weight->group && weight->cols == act->cols);
    if (weight->kind == PHI_WEIGHT_FP16) {
        rows_kind(&call, block_begin, block_end, PHI_WEIGHT_FP16);
    } else if (weight->kind == PHI_WEIGHT_BF16) {
        rows_kind(&call, block_begin, block_end, PHI_WEIGHT_BF16);
    } else {
        rows_kind(&call, block_begin, block_end, PHI_WEIGHT_FP32);
    }
}
