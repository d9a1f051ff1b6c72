/* IQ4_NL: 32 codes into a codebook of 16 uneven values, times d. */
#include "engine/quant/encode_blocks.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "engine/tensor/half.h"

#define N 32
/* Trial scales to either side of the plain one. */
#define TRIALS 7
#define ROUNDS 8
#define EPSILON 1e-15F

typedef struct fit {
    uint16_t d;
    uint8_t codes[N];
    double error;
} fit;

/* The codebook's value nearest to each of x * inverse; of two as near, the upper one. Value by
 * value over all elements, so that the compiler makes vectors of them. */
static void look_up(const float *x, float inverse, float values[N])
{
    float scaled[N];
    for (int i = 0; i < N; i++) {
        scaled[i] = inverse * x[i];
        values[i] = PHI_IQ4_VALUES[0];
    }
    for (int k = 0; k < 15; k++) {
        float middle = 0.5F * (float)(PHI_IQ4_VALUES[k] + PHI_IQ4_VALUES[k + 1]);
        float step = (float)(PHI_IQ4_VALUES[k + 1] - PHI_IQ4_VALUES[k]);
        for (int i = 0; i < N; i++) {
            values[i] += scaled[i] >= middle ? step : 0.0F;
        }
    }
}

static uint8_t code_of(float value)
{
    uint8_t code = 0;
    while (code < 15 && (float)PHI_IQ4_VALUES[code] < value) {
        code++;
    }
    return code;
}

/* For the least squares of x on codebook values. */
typedef struct sums {
    float xq;
    float qq;
} sums;

static sums sum_values(const float *x, const float *weights, const float values[N])
{
    sums s = {0};
    for (int i = 0; i < N; i++) {
        float w = weights ? weights[i] : 1.0F;
        s.xq += w * values[i] * x[i];
        s.qq += w * values[i] * values[i];
    }
    return s;
}

static float peak_of(const float *x)
{
    float peak = 0;
    for (int i = 0; i < N; i++) {
        peak = fabsf(x[i]) > fabsf(peak) ? x[i] : peak;
    }
    return peak;
}

/* A scale, and how much of the squares of x it explains. */
typedef struct contest {
    float d;
    float gain;
} contest;

static void enter(contest *best, sums s)
{
    if (s.qq > 0 && s.xq * s.xq > best->gain * s.qq) {
        best->d = s.xq / s.qq;
        best->gain = best->d * s.xq;
    }
}

/* The plain scale and the trials around it; `end`: the codebook's value that the peak is about to
 * get. Judged by squares of x, and, where `even` is there, evenly. */
static float search_scale(const float *x, const float *weights, float peak, float end,
                          contest *even)
{
    contest best = {0};
    for (int trial = -TRIALS - 1; trial <= TRIALS; trial++) {
        float values[N];
        bool plain = trial < -TRIALS;
        look_up(x, plain ? 1 / (peak / end) : ((float)trial + end) / peak, values);
        enter(&best, sum_values(x, weights, values));
        if (even) {
            enter(even, sum_values(x, NULL, values));
        }
    }
    return best.d;
}

static void encode_with(const float *x, const float values[N], fit *out)
{
    float d = phi_half_to_float(out->d);
    out->error = 0;
    for (int i = 0; i < N; i++) {
        out->codes[i] = code_of(values[i]);
        double value = (double)(d * values[i]);
        out->error += (value - (double)x[i]) * (value - (double)x[i]);
    }
}

/* Codes for d as fp16 stores it, and d for the codes, in turn. */
static void refine(const float *x, float d, fit *best)
{
    fit trial = {0};
    for (int round = 0; round < ROUNDS; round++) {
        uint16_t stored = phi_half_of_float(d);
        float value = phi_half_to_float(stored);
        float values[N];
        if (value == 0 || !isfinite(value) || (round > 0 && stored == trial.d)) {
            return;
        }
        trial.d = stored;
        look_up(x, 1 / value, values);
        encode_with(x, values, &trial);
        if (trial.error < best->error) {
            *best = trial;
        }
        sums s = sum_values(x, NULL, values);
        d = s.xq / s.qq;
    }
}

bool phi_encode_iq4_nl(const float x[32], bool search, phi_block_iq4_nl *out_block)
{
    fit best = {0};
    float weights[N];
    float values[N];
    float peak = peak_of(x);
    memset(out_block, 0, sizeof *out_block);
    if (fabsf(peak) < EPSILON) {
        return true;
    }
    for (int i = 0; i < N; i++) {
        weights[i] = x[i] * x[i];
    }
    contest even[2] = {{0}};
    float d = search_scale(x, weights, peak, PHI_IQ4_VALUES[0], search ? &even[0] : NULL);
    best.d = phi_half_of_float(d);
    look_up(x, d != 0 ? 1 / d : 0, values);
    encode_with(x, values, &best);
    if (search) {
        (void)search_scale(x, weights, peak, PHI_IQ4_VALUES[15], &even[1]);
        refine(x, d, &best);
        refine(x, even[0].d, &best);
        refine(x, even[1].d, &best);
    }
    out_block->d = best.d;
    for (int i = 0; i < N / 2; i++) {
        out_block->nibbles[i] = (uint8_t)(best.codes[i] | best.codes[i + N / 2] << 4);
    }
    return isfinite(phi_half_to_float(best.d));
}
