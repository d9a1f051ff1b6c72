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
/* Tokens, a multiple of TOKENS_MAX, and blocks that share the second-level cache: a piece of the
 * tokens and the sums that wait for the next take a quarter of a MiB each. A step of 256 tokens is
 * one group. */
#define GROUP_MAX 264U
#define SLICE_BLOCKS 16U

typedef struct float_call {
    const phi_weight *weight;
    const phi_act *act;
    float *y;
    size_t ldy;
    /* Two blocks' next piece: fetched, some lines a tile, while this one is computed with. */
    const uint8_t *ahead[2];
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

/* Adds a piece's sums to what waits, a vector for each token and block, and writes y when it is the
 * last piece: y's rows lie far apart, and often so that they fall into the same few lines of a
 * cache. */
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
            if (n_tok == (int)TOKENS_MAX && b < 2 && i % 16 == 0) {
                size_t line = (token / TOKENS_MAX * PHI_FLOAT_PIECE + i - call->k) / 16;
                _mm_prefetch((const char *)call->ahead[b] + line * 64, _MM_HINT_T1);
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

/* The piece of `n_blocks` blocks times tokens [token, end). */
PHI_STAMP void piece_tokens(const float_call *call, uint32_t block, uint32_t token, uint32_t end,
                            float *waiting, phi_weight_kind kind, int n_blocks)
{
    const size_t step = (size_t)n_blocks * BLOCK;
    for (; n_blocks <= 2 && token + 12 <= end; token += 12, waiting += 12 * step) {
        float_tile(call, block, token, waiting, kind, n_blocks, 4, 3);
    }
    for (; n_blocks <= 2 && token + 8 <= end; token += 8, waiting += 8 * step) {
        float_tile(call, block, token, waiting, kind, n_blocks, 4, 2);
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

static void set_piece(float_call *call, size_t k)
{
    size_t left = call->weight->cols - k;
    call->k = k;
    call->count = left < PHI_FLOAT_PIECE ? left : PHI_FLOAT_PIECE;
}

/* Few tokens: `n_blocks` blocks go side by side from end to end, as so many streams from memory. */
PHI_STAMP void few_tokens(float_call *call, uint32_t begin, uint32_t end, phi_weight_kind kind,
                          int n_blocks)
{
    _Alignas(64) float waiting[TOKENS_MAX * BLOCKS_MAX * BLOCK];
    uint32_t block = begin;
    for (; block + (uint32_t)n_blocks <= end; block += (uint32_t)n_blocks) {
        for (size_t k = 0; k < call->weight->cols; k += PHI_FLOAT_PIECE) {
            set_piece(call, k);
            piece_tokens(call, block, 0, call->act->n_tok, waiting, kind, n_blocks);
        }
    }
    for (; block < end; block++) {
        for (size_t k = 0; k < call->weight->cols; k += PHI_FLOAT_PIECE) {
            set_piece(call, k);
            piece_tokens(call, block, 0, call->act->n_tok, waiting, kind, 1);
        }
    }
}

/* After the pair at `block` comes the next one, or the first one's next piece. */
static void set_ahead(float_call *call, uint32_t block, uint32_t first, uint32_t last)
{
    const phi_weight *weight = call->weight;
    size_t column_bytes = (size_t)weight->block_bytes / weight->cols;
    bool is_last = block + 4 > last;
    const uint8_t *codes = (const uint8_t *)weight->codes +
                           (is_last ? first : block + 2) * weight->block_bytes +
                           (call->k + (is_last ? call->count : 0)) * column_bytes;
    call->ahead[0] = codes;
    call->ahead[1] = codes + weight->block_bytes;
}

/* Many tokens: a piece of columns goes through several blocks and all tokens before the next, so
 * that the tokens' share of it and the sums that wait stay in the second-level cache. */
PHI_STAMP void many_tokens(float_call *call, uint32_t begin, uint32_t end, phi_weight_kind kind)
{
    _Alignas(64) float waiting[SLICE_BLOCKS / 2][GROUP_MAX * 2 * BLOCK];
    for (uint32_t first = begin; first < end; first += SLICE_BLOCKS) {
        uint32_t last = end - first < SLICE_BLOCKS ? end : first + SLICE_BLOCKS;
        for (uint32_t token = 0; token < call->act->n_tok; token += GROUP_MAX) {
            uint32_t left = call->act->n_tok - token;
            uint32_t token_end = token + (left < GROUP_MAX ? left : GROUP_MAX);
            for (size_t k = 0; k < call->weight->cols; k += PHI_FLOAT_PIECE) {
                set_piece(call, k);
                uint32_t block = first;
                for (; block + 2 <= last; block += 2) {
                    set_ahead(call, block, first, last);
                    piece_tokens(call, block, token, token_end, waiting[(block - first) / 2], kind,
                                 2);
                }
                if (block < last) {
                    piece_tokens(call, block, token, token_end, waiting[(block - first) / 2], kind,
                                 1);
                }
            }
        }
    }
}

/* From two quads of tokens on, two blocks by eight tokens take as many registers as four by four,
 * and each weight is loaded and widened once. */
PHI_STAMP void rows_kind(float_call *call, uint32_t begin, uint32_t end, phi_weight_kind kind)
{
    if (call->act->n_tok < 2 * QUAD) {
        few_tokens(call, begin, end, kind, BLOCKS_MAX);
    } else if (call->act->n_tok < TOKENS_MAX) {
        few_tokens(call, begin, end, kind, 2);
    } else {
        many_tokens(call, begin, end, kind);
    }
}

void phi_avx512_rows_float(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                           const phi_act *act, float *y, size_t ldy)
{
    float_call call = {.weight = weight, .act = act, .y = y, .ldy = ldy};
    PHI_ASSERT(!weight->group && weight->cols == act->cols);
    if (weight->kind == PHI_WEIGHT_FP16) {
        rows_kind(&call, block_begin, block_end, PHI_WEIGHT_FP16);
    } else if (weight->kind == PHI_WEIGHT_BF16) {
        rows_kind(&call, block_begin, block_end, PHI_WEIGHT_BF16);
    } else {
        rows_kind(&call, block_begin, block_end, PHI_WEIGHT_FP32);
    }
}
