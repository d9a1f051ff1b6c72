/*
 * FP16, BF16 and FP32 products: two vectors hold one column of a block's 16 rows, and memory
 * broadcasts the tokens' values. For few tokens the rows are widened as they are read; for many, a
 * piece of a block is widened once and stays in the first-level cache while all tokens pass.
 */
#include "engine/kernels/avx2/avx2.h"

#include "base/assert.h"
#include "engine/kernels/unroll.h"

#include <immintrin.h>
#include <string.h>

#define BLOCK PHI_WEIGHT_BLOCK
#define QUAD PHI_ACT_QUAD
#define LANES 8U
/* Vectors of sums of the largest tile; two hold the weights and one a token's value. */
#define SUMS_MAX 12
#define BLOCKS_MAX 4
/* From here on a piece is widened first. */
#define MANY_TOKENS 12U
#define AHEAD 2048
/* Values of tokens that share the second-level cache with a piece of a block. */
#define TOKENS_BYTES (1U << 20)

typedef struct float_call {
    const phi_weight *weight;
    const phi_act *act;
    float *y;
    size_t ldy;
} float_call;

/* A piece of the columns of blocks [block, ...) times tokens from `token` on. */
typedef struct float_part {
    uint32_t block;
    uint32_t token;
    size_t k; /* columns [k, k + count) */
    size_t count;
    const uint8_t *w; /* column k of the block */
} float_part;

/* What a tile is stamped out for. */
typedef struct float_shape {
    phi_weight_kind kind; /* of what float_part.w points to */
    int n_blocks;         /* `weight->block_bytes` apart */
    int phase;            /* tokens of the first quad before the tile's */
    int width;            /* tokens of a quad: 4, unless it is the last, narrower one */
    int n_tok;
} float_shape;

/* Eight rows of a column. */
PHI_STAMP __m256 load_rows(const uint8_t *from, phi_weight_kind kind)
{
    if (kind == PHI_WEIGHT_FP32) {
        return _mm256_loadu_ps((const float *)(const void *)from);
    }
    __m128i halves = _mm_loadu_si128((const __m128i *)(const void *)from);
    if (kind == PHI_WEIGHT_FP16) {
        return _mm256_cvtph_ps(halves);
    }
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

PHI_STAMP size_t bytes_of(phi_weight_kind kind)
{
    return kind == PHI_WEIGHT_FP32 ? 4 : 2;
}

/* Adds sums to the first `left` rows of a block, of one token; the first piece is added to zero, as
 * in every other set. */
PHI_STAMP void add_to_rows(float *y, __m256 low, __m256 high, uint32_t left, bool is_first)
{
    float rows[BLOCK] = {0};
    float *at = left >= BLOCK ? y : rows;
    __m256 low_so_far = _mm256_setzero_ps();
    __m256 high_so_far = _mm256_setzero_ps();
    if (left < BLOCK) {
        memcpy(rows, y, left * sizeof *y);
    }
    if (!is_first) {
        low_so_far = _mm256_loadu_ps(at);
        high_so_far = _mm256_loadu_ps(at + LANES);
    }
    _mm256_storeu_ps(at, _mm256_add_ps(low_so_far, low));
    _mm256_storeu_ps(at + LANES, _mm256_add_ps(high_so_far, high));
    if (left < BLOCK) {
        memcpy(y, rows, left * sizeof *y);
    }
}

PHI_STAMP void float_tile(const float_call *call, const float_part *part, float_shape shape)
{
    const phi_weight *weight = call->weight;
    const size_t column_bytes = BLOCK * bytes_of(shape.kind);
    const size_t quad = (size_t)QUAD * weight->cols;
    const size_t width = (size_t)shape.width;
    const float *x = call->act->x + (size_t)(part->token - (uint32_t)shape.phase) * weight->cols +
                     part->k * width;
    if (shape.n_blocks == 1) {
        /* Rows of y are often a power of two apart and push one another out of the caches. */
        PHI_UNROLL
        for (int t = 0; t < shape.n_tok; t++) {
            _mm_prefetch((const char *)(call->y + (part->token + (size_t)t) * call->ldy +
                                        (size_t)part->block * BLOCK),
                         _MM_HINT_T0);
        }
    }
    __m256 acc[SUMS_MAX];
    PHI_UNROLL
    for (int i = 0; i < 2 * shape.n_blocks * shape.n_tok; i++) {
        acc[i] = _mm256_setzero_ps();
    }
    for (size_t k = 0; k < part->count; k++) {
        PHI_UNROLL
        for (int b = 0; b < shape.n_blocks; b++) {
            const uint8_t *at = part->w + (size_t)b * weight->block_bytes + k * column_bytes;
            if (shape.n_tok <= 4 && (column_bytes == 64 || k % 2 == 0)) {
                _mm_prefetch((const char *)at + AHEAD, _MM_HINT_T0);
            }
            __m256 low = load_rows(at, shape.kind);
            __m256 high = load_rows(at + column_bytes / 2, shape.kind);
            PHI_UNROLL
            for (int t = 0; t < shape.n_tok; t++) {
                size_t in_quads = (size_t)(shape.phase + t);
                __m256 value =
                    _mm256_broadcast_ss(x + in_quads / width * quad + k * width + in_quads % width);
                __m256 *to = &acc[2 * (t * shape.n_blocks + b)];
                to[0] = _mm256_fmadd_ps(low, value, to[0]);
                to[1] = _mm256_fmadd_ps(high, value, to[1]);
            }
        }
    }
    PHI_UNROLL
    for (int i = 0; i < shape.n_blocks * shape.n_tok; i++) {
        uint32_t row = (part->block + (uint32_t)(i % shape.n_blocks)) * BLOCK;
        size_t token = part->token + (size_t)(i / shape.n_blocks);
        add_to_rows(call->y + token * call->ldy + row, acc[2 * i], acc[2 * i + 1],
                    weight->rows - row, part->k == 0);
    }
}

/* Tokens [part.token, end), fewer than four of which are left. */
PHI_STAMP void last_tokens(const float_call *call, const float_part *part, uint32_t end,
                           phi_weight_kind kind)
{
    if (end - part->token == 3) {
        float_tile(call, part, (float_shape){kind, 1, 0, 3, 3});
    } else if (end - part->token == 2) {
        float_tile(call, part, (float_shape){kind, 1, 0, 2, 2});
    } else if (end - part->token == 1) {
        float_tile(call, part, (float_shape){kind, 1, 0, 1, 1});
    }
}

/* Tokens [part.token, end) of one block, `token` being the first of a quad. */
PHI_STAMP void few_tokens(const float_call *call, float_part part, uint32_t end,
                          phi_weight_kind kind)
{
    for (; part.token + 4 <= end; part.token += 4) {
        float_tile(call, &part, (float_shape){kind, 1, 0, 4, 4});
    }
    last_tokens(call, &part, end, kind);
}

/* The same of a widened piece. Three quads are two tiles of six tokens. */
static void many_tokens(const float_call *call, float_part part, uint32_t end)
{
    while (part.token + 12 <= end) {
        float_tile(call, &part, (float_shape){PHI_WEIGHT_FP32, 1, 0, 4, 6});
        part.token += 6;
        float_tile(call, &part, (float_shape){PHI_WEIGHT_FP32, 1, 2, 4, 6});
        part.token += 6;
    }
    few_tokens(call, part, end, PHI_WEIGHT_FP32);
}

PHI_STAMP void widen(const uint8_t *from, size_t count, phi_weight_kind kind, float *out)
{
    for (size_t i = 0; i < count * BLOCK; i += LANES) {
        _mm256_storeu_ps(out + i, load_rows(from + i * bytes_of(kind), kind));
    }
}

/* Every piece of a block, or of several for one token, times tokens [token, end). */
PHI_STAMP void block_tokens(const float_call *call, uint32_t block, uint32_t token, uint32_t end,
                            phi_weight_kind kind, int n_blocks)
{
    const phi_weight *weight = call->weight;
    const uint8_t *codes = (const uint8_t *)weight->codes + block * weight->block_bytes;
    float wide[PHI_FLOAT_PIECE * BLOCK];
    for (size_t k = 0; k < weight->cols; k += PHI_FLOAT_PIECE) {
        size_t count = weight->cols - k < PHI_FLOAT_PIECE ? weight->cols - k : PHI_FLOAT_PIECE;
        const uint8_t *w = codes + k * BLOCK * bytes_of(kind);
        float_part part = {block, token, k, count, w};
        if (n_blocks > 1) {
            float_tile(call, &part, (float_shape){kind, n_blocks, 0, 1, 1});
        } else if (end - token < MANY_TOKENS) {
            few_tokens(call, part, end, kind);
        } else {
            if (kind != PHI_WEIGHT_FP32) {
                widen(w, count, kind, wide);
                part.w = (const uint8_t *)wide;
            }
            many_tokens(call, part, end);
        }
    }
}

PHI_STAMP void rows_kind(const float_call *call, uint32_t block_begin, uint32_t block_end,
                         phi_weight_kind kind)
{
    uint32_t n_tok = call->act->n_tok;
    size_t token_bytes = call->weight->cols * sizeof(float);
    uint32_t group = (uint32_t)(TOKENS_BYTES / token_bytes / MANY_TOKENS + 1) * MANY_TOKENS;
    for (uint32_t token = 0; token < n_tok; token += group) {
        uint32_t end = n_tok - token < group ? n_tok : token + group;
        uint32_t block = block_begin;
        for (; n_tok == 1 && block + BLOCKS_MAX <= block_end; block += BLOCKS_MAX) {
            block_tokens(call, block, token, end, kind, BLOCKS_MAX);
        }
        for (; block < block_end; block++) {
            block_tokens(call, block, token, end, kind, 1);
        }
    }
}

void phi_avx2_rows_float(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
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
