/*
 * The portable matrix products. Plain loops: what they compute is the definition that the other
 * sets are tested against. The floating-point kinds sum in eight lanes, which compilers turn into
 * whatever vectors the target has without reordering anything.
 */
#include "engine/kernels/ref/ref.h"

#include "base/assert.h"
#include "engine/tensor/half.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define LANES 8
/* A group whose largest value is below this is zero: its scale's inverse would overflow. */
#define ACT_TINY 1e-35F

static void quantize_group(const float *x, int8_t *codes, float *scale, float *sum)
{
    float largest = 0.0F;
    bool finite = true;
    for (size_t i = 0; i < 32; i++) {
        float size = fabsf(x[i]);
        finite = finite && size <= FLT_MAX;
        largest = size > largest ? size : largest;
    }
    if (!finite || largest < ACT_TINY) {
        /* What is not a number must not silently become one. */
        memset(codes, 0, 32);
        *scale = finite ? 0.0F : NAN;
        *sum = *scale;
        return;
    }
    float inverse = 127.0F / largest;
    int total = 0;
    for (size_t i = 0; i < 32; i++) {
        int code = (int)lrintf(x[i] * inverse);
        codes[i] = (int8_t)code;
        total += code;
    }
    *scale = largest / 127.0F;
    *sum = *scale * (float)total;
}

void phi_ref_quantize_row(const float *x, size_t cols, int8_t *codes, float *scales, float *sums)
{
    PHI_ASSERT(cols % 32 == 0);
    for (size_t g = 0; g < cols / 32; g++) {
        quantize_group(x + g * 32, codes + g * 32, &scales[g], &sums[g]);
    }
}

static int dot_int4(const uint8_t *nibbles, const int8_t *codes)
{
    int sum = 0;
    for (size_t j = 0; j < 16; j++) {
        sum += (nibbles[j] & 15) * codes[j] + (nibbles[j] >> 4) * codes[j + 16];
    }
    return sum;
}

static int dot_int8(const int8_t *weights, const int8_t *codes)
{
    int sum = 0;
    for (size_t j = 0; j < 32; j++) {
        sum += weights[j] * codes[j];
    }
    return sum;
}

/* One output: group by group, integer sums inside, the offsets' share beside. */
static float row_int(const phi_weight *weight, uint32_t row, const phi_act *act, uint32_t token)
{
    size_t runs = weight->cols / 32;
    size_t runs_per_group = weight->group / 32;
    size_t first_group = (size_t)row * (weight->cols / weight->group);
    const uint8_t *codes = (const uint8_t *)weight->codes + row * weight->row_bytes;
    const int8_t *act_codes = act->codes + (size_t)token * act->cols;
    const float *act_scales = act->scales + token * runs;
    const float *act_sums = act->sums + token * runs;
    bool is_int4 = weight->kind == PHI_WEIGHT_INT4;
    float sum = 0.0F;
    float shift = 0.0F;
    for (size_t run = 0; run < runs; run++) {
        size_t g = first_group + run / runs_per_group;
        float scale = phi_half_to_float(weight->scales[g]);
        int dot = is_int4 ? dot_int4(codes + run * 16, act_codes + run * 32)
                          : dot_int8((const int8_t *)codes + run * 32, act_codes + run * 32);
        sum += (float)dot * (scale * act_scales[run]);
        if (weight->offsets) {
            shift += phi_half_to_float(weight->offsets[g]) * act_sums[run];
        } else if (is_int4) {
            shift += -8.0F * scale * act_sums[run];
        }
    }
    return sum + shift;
}

static void rows_int(const phi_weight *weight, uint32_t row_begin, uint32_t row_end,
                     const phi_act *act, float *y, size_t ldy)
{
    PHI_ASSERT(weight->cols == act->cols && weight->group % 32 == 0);
    for (uint32_t row = row_begin; row < row_end; row++) {
        for (uint32_t token = 0; token < act->n_tok; token++) {
            y[token * ldy + row] = row_int(weight, row, act, token);
        }
    }
}

void phi_ref_rows_int4(const phi_weight *weight, uint32_t row_begin, uint32_t row_end,
                       const phi_act *act, float *y, size_t ldy)
{
    PHI_ASSERT(weight->kind == PHI_WEIGHT_INT4);
    rows_int(weight, row_begin, row_end, act, y, ldy);
}

void phi_ref_rows_int8(const phi_weight *weight, uint32_t row_begin, uint32_t row_end,
                       const phi_act *act, float *y, size_t ldy)
{
    PHI_ASSERT(weight->kind == PHI_WEIGHT_INT8);
    rows_int(weight, row_begin, row_end, act, y, ldy);
}

static float lanes_sum(const float lanes[LANES])
{
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
           ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

/* Columns widened at a time: one piece of a row serves every token before it is left. */
#define PIECE 256

/* y[token] (+)= piece of a row times piece of x, for all tokens; the lanes of each token live in
 * `lanes`, [TOKENS][LANES]. */
#define TOKENS 16

typedef void (*widen_fn)(const void *src, size_t count, float *out);

static void widen_fp16(const void *src, size_t count, float *out)
{
    const uint16_t *half = src;
    for (size_t i = 0; i < count; i++) {
        out[i] = phi_half_to_float(half[i]);
    }
}

static void widen_bf16(const void *src, size_t count, float *out)
{
    const uint16_t *brain = src;
    for (size_t i = 0; i < count; i++) {
        out[i] = phi_bf16_to_float(brain[i]);
    }
}

static void widen_fp32(const void *src, size_t count, float *out)
{
    memcpy(out, src, count * sizeof *out);
}

static void add_piece(const float *w, const float *x, size_t count, float lanes[LANES])
{
    size_t whole = count - count % LANES;
    for (size_t i = 0; i < whole; i += LANES) {
        for (size_t lane = 0; lane < LANES; lane++) {
            lanes[lane] += w[i + lane] * x[i + lane];
        }
    }
    for (size_t i = whole; i < count; i++) {
        lanes[i - whole] += w[i] * x[i];
    }
}

static void row_float(const uint8_t *row, size_t element_bytes, widen_fn widen, size_t cols,
                      const float *x, uint32_t n_tok, float *y, size_t ldy)
{
    float piece[PIECE];
    float lanes[TOKENS][LANES] = {{0}};
    for (size_t k = 0; k < cols; k += PIECE) {
        size_t count = cols - k < PIECE ? cols - k : PIECE;
        widen(row + k * element_bytes, count, piece);
        for (uint32_t t = 0; t < n_tok; t++) {
            add_piece(piece, x + t * cols + k, count, lanes[t]);
        }
    }
    for (uint32_t t = 0; t < n_tok; t++) {
        y[t * ldy] = lanes_sum(lanes[t]);
    }
}

typedef struct float_rows {
    const phi_weight *weight;
    size_t element_bytes;
    widen_fn widen;
    uint32_t begin;
    uint32_t end;
} float_rows;

static void rows_float(const float_rows *rows, const float *x, uint32_t n_tok, float *y, size_t ldy)
{
    const phi_weight *weight = rows->weight;
    size_t cols = weight->cols;
    for (uint32_t row = rows->begin; row < rows->end; row++) {
        const uint8_t *codes = (const uint8_t *)weight->codes + row * weight->row_bytes;
        for (uint32_t t = 0; t < n_tok; t += TOKENS) {
            uint32_t n = n_tok - t < TOKENS ? n_tok - t : TOKENS;
            row_float(codes, rows->element_bytes, rows->widen, cols, x + t * cols, n,
                      y + t * ldy + row, ldy);
        }
    }
}

void phi_ref_rows_fp16(const phi_weight *weight, uint32_t row_begin, uint32_t row_end,
                       const float *x, uint32_t n_tok, float *y, size_t ldy)
{
    PHI_ASSERT(weight->kind == PHI_WEIGHT_FP16);
    const float_rows rows = {weight, 2, widen_fp16, row_begin, row_end};
    rows_float(&rows, x, n_tok, y, ldy);
}

void phi_ref_rows_bf16(const phi_weight *weight, uint32_t row_begin, uint32_t row_end,
                       const float *x, uint32_t n_tok, float *y, size_t ldy)
{
    PHI_ASSERT(weight->kind == PHI_WEIGHT_BF16);
    const float_rows rows = {weight, 2, widen_bf16, row_begin, row_end};
    rows_float(&rows, x, n_tok, y, ldy);
}

void phi_ref_rows_fp32(const phi_weight *weight, uint32_t row_begin, uint32_t row_end,
                       const float *x, uint32_t n_tok, float *y, size_t ldy)
{
    PHI_ASSERT(weight->kind == PHI_WEIGHT_FP32);
    const float_rows rows = {weight, 4, widen_fp32, row_begin, row_end};
    rows_float(&rows, x, n_tok, y, ldy);
}
