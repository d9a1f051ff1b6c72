/* Activations to int8 codes, bit for bit as the portable set makes them: the same operations, and
 * none that depend on order. */
#include "engine/kernels/neon/neon.h"

#include "engine/kernels/unroll.h"

#include <arm_neon.h>
#include <float.h>
#include <math.h>
#include <string.h>

/* As in the portable set: a run below this is zero. */
#define ACT_TINY 1e-35F

/* What one run of one token becomes. */
typedef struct quantized {
    int8_t codes[32];
    float scale;
    int sum;
} quantized;

PHI_STAMP void quantize_run(const float *x, int run, quantized *out)
{
    float32x4_t values[8];
    float32x4_t sizes = vdupq_n_f32(0.0F);
    uint32x4_t finite = vdupq_n_u32(UINT32_MAX);
    PHI_UNROLL
    for (int i = 0; i < run / 4; i++) {
        values[i] = vld1q_f32(x + (size_t)i * 4);
        float32x4_t size = vabsq_f32(values[i]);
        finite = vandq_u32(finite, vcleq_f32(size, vdupq_n_f32(FLT_MAX)));
        sizes = vmaxq_f32(sizes, size);
    }
    bool all_finite = vminvq_u32(finite) != 0;
    float largest = vmaxvq_f32(sizes);
    memset(out, 0, sizeof *out);
    if (!all_finite || largest < ACT_TINY) {
        out->scale = all_finite ? 0.0F : NAN;
        return;
    }
    float inverse = 127.0F / largest;
    int32x4_t total = vdupq_n_s32(0);
    PHI_UNROLL
    for (int i = 0; i < run / 8; i++) {
        int32x4_t low = vcvtnq_s32_f32(vmulq_n_f32(values[2 * i], inverse));
        int32x4_t high = vcvtnq_s32_f32(vmulq_n_f32(values[2 * i + 1], inverse));
        total = vaddq_s32(total, vaddq_s32(low, high));
        vst1_s8(out->codes + (size_t)i * 8,
                vmovn_s16(vcombine_s16(vmovn_s32(low), vmovn_s32(high))));
    }
    out->scale = largest / 127.0F;
    out->sum = vaddvq_s32(total);
}

/* Lays the run that begins at column k of token t of a tile into the tile's codes. */
static void store_codes(const int8_t *from, size_t run, size_t k, size_t t, size_t width,
                        int8_t *codes)
{
    if (width == PHI_NEON_MATRIX_TOKENS) {
        for (size_t i = 0; i < run; i += 8) {
            memcpy(codes + ((k + i) / 8 * width + t) * 8, from + i, 8);
        }
        return;
    }
    for (size_t i = 0; i < run; i += 4) {
        memcpy(codes + ((k + i) / 4 * width + t) * 4, from + i, 4);
    }
}

void phi_neon_quantize_tile(const float *x, uint32_t tile, const phi_act *act)
{
    size_t first = (size_t)tile * act->tile;
    size_t width = act->n_tok - first < act->tile ? act->n_tok - first : act->tile;
    size_t n_runs = act->cols / act->run;
    for (size_t t = 0; t < width; t++) {
        for (size_t i = 0; i < n_runs; i++) {
            const float *from = x + t * act->cols + i * act->run;
            size_t side = first * n_runs + i * width + t;
            quantized q;
            if (act->run == 32) {
                quantize_run(from, 32, &q);
            } else {
                quantize_run(from, 16, &q);
            }
            act->scales[side] = q.scale;
            act->starts[side] = -act->centre * q.sum;
            act->shifts[side] = q.scale * (float)q.sum;
            store_codes(q.codes, act->run, i * act->run, t, width, act->codes + first * act->cols);
        }
    }
}
