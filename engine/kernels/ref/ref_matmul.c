/*
 * The portable matrix products. Plain loops: what they compute is the definition that the other
 * sets are tested against. The inner loops run over a block's 16 rows, which compilers turn into
 * whatever vectors the target has without reordering anything.
 */
#include "engine/kernels/ref/ref.h"

#include "base/assert.h"
#include "engine/tensor/half.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define BLOCK PHI_WEIGHT_BLOCK
/* Tokens that share a widened piece. */
#define TOKENS 16U
/* A run whose largest value is below this is zero: its scale's inverse would overflow. */
#define ACT_TINY 1e-35F

/* ---- activations ---- */

typedef struct quantized {
    int8_t codes[32];
    float scale;
    int sum;
    float shift;
} quantized;

static void quantize_run(const float *x, size_t run, quantized *out)
{
    float largest = 0.0F;
    bool finite = true;
    for (size_t i = 0; i < run; i++) {
        float size = fabsf(x[i]);
        finite = finite && size <= FLT_MAX;
        largest = size > largest ? size : largest;
    }
    memset(out, 0, sizeof *out);
    if (!finite || largest < ACT_TINY) {
        /* What is not a number must not silently become one. */
        out->scale = finite ? 0.0F : NAN;
        out->shift = out->scale;
        return;
    }
    float inverse = 127.0F / largest;
    for (size_t i = 0; i < run; i++) {
        int code = (int)lrintf(x[i] * inverse);
        out->codes[i] = (int8_t)code;
        out->sum += code;
    }
    out->scale = largest / 127.0F;
    out->shift = out->scale * (float)out->sum;
}

void phi_ref_quantize_tile(const float *x, uint32_t tile, const phi_act *act)
{
    size_t first = (size_t)tile * PHI_ACT_QUAD;
    size_t width = act->n_tok - first < PHI_ACT_QUAD ? act->n_tok - first : PHI_ACT_QUAD;
    size_t n_runs = act->cols / act->run;
    int8_t *codes = act->codes + first * act->cols;
    size_t side = first * n_runs;
    for (size_t t = 0; t < width; t++) {
        for (size_t i = 0; i < n_runs; i++) {
            quantized q;
            quantize_run(x + t * act->cols + i * act->run, act->run, &q);
            act->scales[side + i * width + t] = q.scale;
            act->starts[side + i * width + t] = -act->centre * q.sum;
            act->shifts[side + i * width + t] = q.shift;
            for (size_t k = 0; k < act->run; k += 4) {
                memcpy(codes + ((i * act->run + k) / 4 * width + t) * 4, q.codes + k, 4);
            }
        }
    }
}

/* ---- INT4 and INT8 ---- */

/* One token of a tile: where its codes begin, and how far its columns and runs are apart. */
typedef struct token {
    const phi_act *act;
    const int8_t *codes; /* [cols / 4], `width` words apart */
    size_t width;
    size_t side; /* index of run 0 in scales, starts and shifts */
} token;

static token token_of(const phi_act *act, uint32_t t)
{
    size_t first = t - t % PHI_ACT_QUAD;
    size_t width = act->n_tok - first < PHI_ACT_QUAD ? act->n_tok - first : PHI_ACT_QUAD;
    return (token){
        .act = act,
        .codes = act->codes + first * act->cols + (t - first) * 4,
        .width = width,
        .side = first * (act->cols / act->run) + (t - first),
    };
}

/* dot[r] += codes of four columns [16 rows][4] times one token's. */
static void add_word(const uint8_t *codes, int shift, int mask, const int8_t *x, int dot[BLOCK])
{
    for (size_t r = 0; r < BLOCK; r++) {
        for (size_t c = 0; c < 4; c++) {
            dot[r] += ((codes[r * 4 + c] >> shift) & mask) * x[c];
        }
    }
}

/* The integer sums of columns [k, k + run) of a block. */
static void dot_run(const phi_weight *weight, const uint8_t *block, const token *tok, size_t k,
                    int dot[BLOCK])
{
    for (size_t end = k + tok->act->run; k < end; k += 4) {
        const int8_t *x = tok->codes + k / 4 * tok->width * 4;
        if (weight->kind == PHI_WEIGHT_INT4) {
            const uint8_t *word = block + k / 32 * 256 + k % 16 / 4 * 64;
            add_word(word, k % 32 < 16 ? 0 : 4, 15, x, dot);
        } else {
            add_word(block + k / 4 * 64, 0, 255, x, dot);
        }
    }
}

static void block_int(const phi_weight *weight, uint32_t block, const token *tok, float acc[BLOCK])
{
    size_t run = tok->act->run;
    size_t groups = weight->cols / weight->group;
    const uint8_t *codes = (const uint8_t *)weight->codes + block * weight->block_bytes;
    memset(acc, 0, BLOCK * sizeof *acc);
    for (size_t i = 0; i < weight->cols / run; i++) {
        size_t g = (block * groups + i * run / weight->group) * BLOCK;
        size_t side = tok->side + i * tok->width;
        int dot[BLOCK] = {0};
        dot_run(weight, codes, tok, i * run, dot);
        for (size_t r = 0; r < BLOCK; r++) {
            float s = phi_weight_scale(weight, g + r) * tok->act->scales[side];
            acc[r] = (float)(dot[r] + tok->act->starts[side]) * s + acc[r];
            if (weight->has_offsets) {
                float offset = phi_weight_offset(weight, g + r);
                acc[r] = offset * tok->act->shifts[side] + acc[r];
            }
        }
    }
}

static void store_block(const phi_weight *weight, uint32_t block, const float acc[BLOCK], float *y)
{
    uint32_t left = weight->rows - block * BLOCK;
    memcpy(y + (size_t)block * BLOCK, acc, (left < BLOCK ? left : BLOCK) * sizeof *acc);
}

void phi_ref_rows_int(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                      const phi_act *act, float *y, size_t ldy)
{
    PHI_ASSERT(weight->group && weight->cols == act->cols && weight->group % act->run == 0 &&
               act->centre == phi_weight_centre(weight));
    for (uint32_t block = block_begin; block < block_end; block++) {
        for (uint32_t t = 0; t < act->n_tok; t++) {
            token tok = token_of(act, t);
            float acc[BLOCK];
            block_int(weight, block, &tok, acc);
            store_block(weight, block, acc, y + t * ldy);
        }
    }
}

/* ---- FP16, BF16 and FP32 ---- */

/* [count][16] of a block as floats. */
static void widen(const phi_weight *weight, const uint8_t *src, size_t count, float *out)
{
    if (weight->kind == PHI_WEIGHT_FP32) {
        memcpy(out, src, count * BLOCK * sizeof *out);
        return;
    }
    const uint16_t *half = (const uint16_t *)(const void *)src;
    for (size_t i = 0; i < count * BLOCK; i++) {
        out[i] = weight->kind == PHI_WEIGHT_FP16 ? phi_half_to_float(half[i])
                                                 : phi_bf16_to_float(half[i]);
    }
}

/* y (+)= a piece of a block times a piece of one token's x, whose columns are `width` apart. */
static void add_piece(const float *w, const float *x, size_t width, size_t count, float y[BLOCK])
{
    float acc[BLOCK] = {0};
    for (size_t k = 0; k < count; k++) {
        float value = x[k * width];
        for (size_t r = 0; r < BLOCK; r++) {
            acc[r] += w[k * BLOCK + r] * value;
        }
    }
    for (size_t r = 0; r < BLOCK; r++) {
        y[r] += acc[r];
    }
}

/* Tokens [t, t + n) of a block: a widened piece serves them all before it is left. */
static void block_float(const phi_weight *weight, uint32_t block, const phi_act *act, uint32_t t,
                        uint32_t n, float acc[TOKENS][BLOCK])
{
    size_t cols = weight->cols;
    size_t row_bytes = (size_t)weight->block_bytes / cols;
    const uint8_t *codes = (const uint8_t *)weight->codes + block * weight->block_bytes;
    float piece[PHI_FLOAT_PIECE * BLOCK] = {0};
    memset(acc, 0, n * sizeof *acc);
    for (size_t k = 0; k < cols; k += PHI_FLOAT_PIECE) {
        size_t count = cols - k < PHI_FLOAT_PIECE ? cols - k : PHI_FLOAT_PIECE;
        widen(weight, codes + k * row_bytes, count, piece);
        for (uint32_t i = 0; i < n; i++) {
            size_t first = t + i - (t + i) % PHI_ACT_QUAD;
            size_t width = act->n_tok - first < PHI_ACT_QUAD ? act->n_tok - first : PHI_ACT_QUAD;
            add_piece(piece, act->x + first * cols + (t + i - first) + k * width, width, count,
                      acc[i]);
        }
    }
}

void phi_ref_rows_float(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                        const phi_act *act, float *y, size_t ldy)
{
    PHI_ASSERT(!weight->group && weight->cols == act->cols);
    for (uint32_t block = block_begin; block < block_end; block++) {
        for (uint32_t t = 0; t < act->n_tok; t += TOKENS) {
            uint32_t n = act->n_tok - t < TOKENS ? act->n_tok - t : TOKENS;
            float acc[TOKENS][BLOCK];
            block_float(weight, block, act, t, n, acc);
            for (uint32_t i = 0; i < n; i++) {
                store_block(weight, block, acc[i], y + (t + i) * ldy);
            }
        }
    }
}
