/*
 * FP16, BF16 and FP32 products: a vector holds one column of a block's 16 rows, widened in
 * registers once for all tokens of a tile, and memory broadcasts the tokens' values. Several blocks
 * go side by side where there are few tokens, so that enough sums are under way at a time.
 */
#include "engine/kernels/avx512/avx512.h"

#include "base/assert.h"
#include "engine/kernels/unroll.h"

#include <immintrin.h>

#define BLOCK PHI_WEIGHT_BLOCK
#define QUAD PHI_ACT_QUAD
#define TOKENS_MAX 12U
#define BLOCKS_MAX 4
#define AHEAD 2048
/* Values of tokens that share the second-level cache with a piece of a block. */
#define TOKENS_BYTES (1U << 20)
/* Tokens that go through blocks together at most. */
#define GROUP_MAX 96U

typedef struct float_call {
    const phi_weight *weight;
    const phi_act *act;
    float *y;
    size_t ldy;
    /* Sums over the pieces so far, a vector for each token and block: y's rows lie far apart, and
     * often so that they fall into the same few lines of a cache. */
    float *waiting;
    /* The piece that is being added. */
    size_t k;
    size_t count;
} float_call;

/* Column k of a block's 16 rows. `kind` is a constant where this is stamped out. */
PHI_STAMP __m512 load_column(const uint8_t *block, size_t k, phi_weight_kind kind)
{
    if (kind == PHI_WEIGHT_FP32) {
        return _mm512_loadu_ps((const void *)(block + k * BLOCK * 4));
    }
    __m256i halves = _mm256_loadu_si256((const __m256i *)(const void *)(block + k * BLOCK * 2));
    if (kind == PHI_WEIGHT_FP16) {
        return _mm512_cvtph_ps(halves);
    }
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

/* Adds a piece's sums to what waits, and writes y when it is the last piece. */
PHI_STAMP void finish_tile(const float_call *call, uint32_t block, uint32_t token, float *waiting,
                           int n_blocks, int n_tok, __m512 *acc)
{
    const phi_weight *weight = call->weight;
    PHI_UNROLL
    for (int i = 0; i < n_blocks * n_tok; i++) {
        /* The first piece is added to zero, as in every other set. */
        __m512 so_far =
            call->k == 0 ? _mm512_setzero_ps() : _mm512_load_ps(waiting + i * (int)BLOCK);
        acc[i] = _mm512_add_ps(so_far, acc[i]);
    }
    if (call->k + call->count < weight->cols) {
        PHI_UNROLL
        for (int i = 0; i < n_blocks * n_tok; i++) {
            _mm512_store_ps(waiting + i * (int)BLOCK, acc[i]);
        }
        return;
    }
    PHI_UNROLL
    for (int b = 0; b < n_blocks; b++) {
        uint32_t left = weight->rows - (block + (uint32_t)b) * BLOCK;
        __mmask16 mask = (__mmask16)(left >= BLOCK ? 0xFFFFU : (1U << left) - 1);
        float *y = call->y + token * call->ldy + (size_t)(block + (uint32_t)b) * BLOCK;
        PHI_UNROLL
        for (int t = 0; t < n_tok; t++) {
            _mm512_mask_storeu_ps(y + (size_t)t * call->ldy, mask, acc[t * n_blocks + b]);
        }
    }
}

/* The piece of `n_blocks` blocks times `n_quads` quads of `width` tokens. */
PHI_STAMP void float_tile(const float_call *call, uint32_t block, uint32_t token, float *waiting,
                          phi_weight_kind kind, int n_blocks, int width, int n_quads)
{
    const phi_weight *weight = call->weight;
    const size_t block_bytes = (size_t)weight->block_bytes;
    const uint8_t *codes = (const uint8_t *)weight->codes + block * block_bytes;
    const float *x = call->act->x + (size_t)token * weight->cols;
    const size_t quad = (size_t)QUAD * weight->cols;
    const size_t column_bytes = (kind == PHI_WEIGHT_FP32 ? 4 : 2) * BLOCK;
    const int n_tok = width * n_quads;
    __m512 acc[BLOCKS_MAX * TOKENS_MAX];
    PHI_UNROLL
    for (int i = 0; i < n_blocks * n_tok; i++) {
        acc[i] = _mm512_setzero_ps();
    }
    for (size_t i = call->k; i < call->k + call->count; i++) {
        __m512 w[BLOCKS_MAX];
        PHI_UNROLL
        for (int b = 0; b < n_blocks; b++) {
            const uint8_t *at = codes + (size_t)b * block_bytes;
            if (n_tok < (int)TOKENS_MAX && (kind == PHI_WEIGHT_FP32 || i % 2 == 0)) {
                _mm_prefetch((const char *)at + i * column_bytes + AHEAD, _MM_HINT_T0);
            }
            w[b] = load_column(at, i, kind);
        }
        PHI_UNROLL
        for (int t = 0; t < n_tok; t++) {
            __m512 value = _mm512_set1_ps(
                x[(size_t)(t / width) * quad + i * (size_t)width + (size_t)(t % width)]);
            PHI_UNROLL
            for (int b = 0; b < n_blocks; b++) {
                acc[t * n_blocks + b] = _mm512_fmadd_ps(w[b], value, acc[t * n_blocks + b]);
            }
        }
    }
    finish_tile(call, block, token, waiting, n_blocks, n_tok, acc);
}

/* One piece of `n_blocks` blocks times tokens [token, end). */
PHI_STAMP void piece_tokens(const float_call *call, uint32_t block, uint32_t token, uint32_t end,
                            phi_weight_kind kind, int n_blocks)
{
    float *waiting = call->waiting;
    const size_t step = (size_t)n_blocks * BLOCK;
    for (; n_blocks <= 2 && token + 12 <= end; token += 12, waiting += 12 * step) {
        float_tile(call, block, token, waiting, kind, n_blocks, 4, 3);
    }
    for (; token + 4 <= end; token += 4, waiting += 4 * step) {
        float_tile(call, block, token, waiting, kind, n_blocks, 4, 1);
    }
    if (end - token == 3) {
        float_tile(call, block, token, waiting, kind, n_blocks, 3, 1);
    } else if (end - token == 2) {
        float_tile(call, block, token, waiting, kind, n_blocks, 2, 1);
    } else if (end - token == 1) {
        float_tile(call, block, token, waiting, kind, n_blocks, 1, 1);
    }
}

/* `n_blocks` blocks times tokens [token, end), piece by piece. */
PHI_STAMP void blocks_tokens(float_call *call, uint32_t block, uint32_t token, uint32_t end,
                             phi_weight_kind kind, int n_blocks)
{
    size_t cols = call->weight->cols;
    for (call->k = 0; call->k < cols; call->k += PHI_FLOAT_PIECE) {
        call->count = cols - call->k < PHI_FLOAT_PIECE ? cols - call->k : PHI_FLOAT_PIECE;
        piece_tokens(call, block, token, end, kind, n_blocks);
    }
}

PHI_STAMP void rows_kind(float_call *call, uint32_t block_begin, uint32_t block_end,
                         phi_weight_kind kind)
{
    size_t row_bytes = call->weight->cols * sizeof(float);
    uint32_t n_tok = call->act->n_tok;
    uint32_t group = ((uint32_t)(TOKENS_BYTES / row_bytes) / TOKENS_MAX + 1) * TOKENS_MAX;
    group = group < GROUP_MAX ? group : GROUP_MAX;
    for (uint32_t token = 0; token < n_tok; token += group) {
        uint32_t end = n_tok - token < group ? n_tok : token + group;
        uint32_t block = block_begin;
        for (; n_tok < TOKENS_MAX && block + BLOCKS_MAX <= block_end; block += BLOCKS_MAX) {
            blocks_tokens(call, block, token, end, kind, BLOCKS_MAX);
        }
        for (; block + 2 <= block_end; block += 2) {
            blocks_tokens(call, block, token, end, kind, 2);
        }
        for (; block < block_end; block++) {
            blocks_tokens(call, block, token, end, kind, 1);
        }
    }
}

void phi_avx512_rows_float(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                           const phi_act *act, float *y, size_t ldy)
{
    _Alignas(64) float waiting[GROUP_MAX * 2 * BLOCK];
    float_call call = {.weight = weight, .act = act, .y = y, .ldy = ldy, .waiting = waiting};
    PHI_ASSERT(!weight->group && weight->cols == act->cols);
    if (weight->kind == PHI_WEIGHT_FP16) {
        rows_kind(&call, block_begin, block_end, PHI_WEIGHT_FP16);
    } else if (weight->kind == PHI_WEIGHT_BF16) {
        rows_kind(&call, block_begin, block_end, PHI_WEIGHT_BF16);
    } else {
        rows_kind(&call, block_begin, block_end, PHI_WEIGHT_FP32);
    }
}
