/* The NEON vector functions. They add in the order of the AVX2 ones, so that a model says the same
 * on either. */
#include "engine/kernels/neon/neon.h"

#include <arm_neon.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

/*
 * exp to about 2 ulp: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2], whose coefficients are those
 * of Taylor's series up to x^7, which is enough on so short a range. Results below the smallest
 * normal number are 0; arguments above 88.37 count as 88.37; NaN stays NaN.
 */
static float32x4_t exp_four(float32x4_t x)
{
    const float32x4_t lowest = vdupq_n_f32(-87.33654F);
    uint32x4_t too_low = vcltq_f32(x, lowest);
    /* min and max give NaN if there is one. */
    float32x4_t z = vmaxq_f32(lowest, vminq_f32(vdupq_n_f32(88.37F), x));
    float32x4_t n = vrndnq_f32(vmulq_n_f32(z, 0x1.715476p+0F));
    /* ln 2 in two parts, the first short enough that n times it is exact. */
    z = vfmsq_n_f32(z, n, 0x1.62e4p-1F);
    z = vfmsq_n_f32(z, n, 0x1.7f7d1cp-20F);
    float32x4_t p = vdupq_n_f32(1.0F / 5040.0F);
    p = vfmaq_f32(vdupq_n_f32(1.0F / 720.0F), p, z);
    p = vfmaq_f32(vdupq_n_f32(1.0F / 120.0F), p, z);
    p = vfmaq_f32(vdupq_n_f32(1.0F / 24.0F), p, z);
    p = vfmaq_f32(vdupq_n_f32(1.0F / 6.0F), p, z);
    p = vfmaq_f32(vdupq_n_f32(0.5F), p, z);
    p = vfmaq_f32(vdupq_n_f32(1.0F), p, z);
    p = vfmaq_f32(vdupq_n_f32(1.0F), p, z);
    int32x4_t power = vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127));
    p = vmulq_f32(p, vreinterpretq_f32_s32(vshlq_n_s32(power, 23)));
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(p), too_low));
}

static float32x4_t load_some(const float *x, size_t n)
{
    float padded[4] = {0};
    memcpy(padded, x, n * sizeof *x);
    return vld1q_f32(padded);
}

static void store_some(float32x4_t v, float *x, size_t n)
{
    float padded[4];
    vst1q_f32(padded, v);
    memcpy(x, padded, n * sizeof *x);
}

/* The sum of eight lanes in AVX2's order: halves, then quarters, then the last two. */
static float sum_eight(float32x4_t low, float32x4_t high)
{
    float32x4_t four = vaddq_f32(low, high);
    float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

static float64x2_t add_squares(float64x2_t sum, float32x2_t x)
{
    float64x2_t wide = vcvt_f64_f32(x);
    return vfmaq_f64(sum, wide, wide);
}

void phi_neon_rms_norm(const float *x, const float *weight, size_t n, float eps, float *out)
{
    size_t whole = n - n % 8;
    /* In double: as exact as the portable set, and a small part of a layer's time. */
    float64x2_t sums[4] = {vdupq_n_f64(0.0), vdupq_n_f64(0.0), vdupq_n_f64(0.0), vdupq_n_f64(0.0)};
    for (size_t i = 0; i < whole; i += 8) {
        float32x4_t a = vld1q_f32(x + i);
        float32x4_t b = vld1q_f32(x + i + 4);
        sums[0] = add_squares(sums[0], vget_low_f32(a));
        sums[1] = add_squares(sums[1], vget_high_f32(a));
        sums[2] = add_squares(sums[2], vget_low_f32(b));
        sums[3] = add_squares(sums[3], vget_high_f32(b));
    }
    float64x2_t two = vaddq_f64(vaddq_f64(sums[0], sums[2]), vaddq_f64(sums[1], sums[3]));
    double squares = vgetq_lane_f64(two, 0) + vgetq_lane_f64(two, 1);
    for (size_t i = whole; i < n; i++) {
        squares += (double)x[i] * (double)x[i];
    }
    float inverse = (float)(1.0 / sqrt(squares / (double)n + (double)eps));
    for (size_t i = 0; i < whole; i += 4) {
        float32x4_t scaled = vmulq_n_f32(vld1q_f32(x + i), inverse);
        vst1q_f32(out + i, vmulq_f32(vld1q_f32(weight + i), scaled));
    }
    for (size_t i = whole; i < n; i++) {
        out[i] = weight[i] * (x[i] * inverse);
    }
}

static float64x2_t add_off(float64x2_t sum, float32x2_t x, double shift, bool squared)
{
    float64x2_t off = vsubq_f64(vcvt_f64_f32(x), vdupq_n_f64(shift));
    return squared ? vfmaq_f64(sum, off, off) : vaddq_f64(sum, off);
}

/* Sum of x - shift, or of its square, over n, in double. */
static double sum_off(const float *x, size_t n, double shift, bool squared)
{
    size_t whole = n - n % 8;
    float64x2_t sums[4] = {vdupq_n_f64(0.0), vdupq_n_f64(0.0), vdupq_n_f64(0.0), vdupq_n_f64(0.0)};
    for (size_t i = 0; i < whole; i += 8) {
        float32x4_t a = vld1q_f32(x + i);
        float32x4_t b = vld1q_f32(x + i + 4);
        sums[0] = add_off(sums[0], vget_low_f32(a), shift, squared);
        sums[1] = add_off(sums[1], vget_high_f32(a), shift, squared);
        sums[2] = add_off(sums[2], vget_low_f32(b), shift, squared);
        sums[3] = add_off(sums[3], vget_high_f32(b), shift, squared);
    }
    float64x2_t two = vaddq_f64(vaddq_f64(sums[0], sums[2]), vaddq_f64(sums[1], sums[3]));
    double sum = vgetq_lane_f64(two, 0) + vgetq_lane_f64(two, 1);
    for (size_t i = whole; i < n; i++) {
        double off = (double)x[i] - shift;
        sum += squared ? off * off : off;
    }
    return sum;
}

void phi_neon_layer_norm(const float *x, const float *weight, const float *bias, size_t n,
                         float eps, float *out)
{
    double mean = sum_off(x, n, 0.0, false) / (double)n;
    double variance = sum_off(x, n, mean, true) / (double)n;
    float32x4_t middle = vdupq_n_f32((float)mean);
    float inverse = (float)(1.0 / sqrt(variance + (double)eps));
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        float32x4_t scaled = vmulq_n_f32(vsubq_f32(vld1q_f32(x + i), middle), inverse);
        vst1q_f32(out + i, vfmaq_f32(vld1q_f32(bias + i), vld1q_f32(weight + i), scaled));
    }
    size_t left = n - i;
    float32x4_t scaled = vmulq_n_f32(vsubq_f32(load_some(x + i, left), middle), inverse);
    store_some(vfmaq_f32(load_some(bias + i, left), load_some(weight + i, left), scaled), out + i,
               left);
}

static float32x4_t gelu_four(float32x4_t x)
{
    float32x4_t slope =
        vfmaq_f32(vdupq_n_f32(-PHI_GELU_LINEAR), vdupq_n_f32(-PHI_GELU_CUBIC), vmulq_f32(x, x));
    return vdivq_f32(x, vaddq_f32(vdupq_n_f32(1.0F), exp_four(vmulq_f32(x, slope))));
}

void phi_neon_gelu(const float *x, size_t n, float *out)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        vst1q_f32(out + i, gelu_four(vld1q_f32(x + i)));
    }
    store_some(gelu_four(load_some(x + i, n - i)), out + i, n - i);
}

static float32x4_t swiglu_four(float32x4_t gate, float32x4_t up)
{
    float32x4_t silu = vdivq_f32(gate, vaddq_f32(vdupq_n_f32(1.0F), exp_four(vnegq_f32(gate))));
    return vmulq_f32(up, silu);
}

void phi_neon_swiglu(const float *gate, const float *up, size_t n, float *out)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        vst1q_f32(out + i, swiglu_four(vld1q_f32(gate + i), vld1q_f32(up + i)));
    }
    store_some(swiglu_four(load_some(gate + i, n - i), load_some(up + i, n - i)), out + i, n - i);
}

void phi_neon_rope(float *x, const float *cos_row, const float *sin_row, size_t n_rot)
{
    size_t half = n_rot / 2;
    size_t i = 0;
    for (; i + 4 <= half; i += 4) {
        float32x4_t a = vld1q_f32(x + i);
        float32x4_t b = vld1q_f32(x + i + half);
        float32x4_t c = vld1q_f32(cos_row + i);
        float32x4_t s = vld1q_f32(sin_row + i);
        vst1q_f32(x + i, vsubq_f32(vmulq_f32(a, c), vmulq_f32(b, s)));
        vst1q_f32(x + i + half, vaddq_f32(vmulq_f32(b, c), vmulq_f32(a, s)));
    }
    for (; i < half; i++) {
        float a = x[i];
        float b = x[i + half];
        x[i] = a * cos_row[i] - b * sin_row[i];
        x[i + half] = b * cos_row[i] + a * sin_row[i];
    }
}

void phi_neon_add(float *x, const float *y, size_t n)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        vst1q_f32(x + i, vaddq_f32(vld1q_f32(x + i), vld1q_f32(y + i)));
    }
    for (; i < n; i++) {
        x[i] += y[i];
    }
}

void phi_neon_mix(float a, float *acc, float b, const float *v, size_t n)
{
    size_t whole = n - n % 8;
    for (size_t i = 0; i < whole; i += 4) {
        float32x4_t kept = vmulq_n_f32(vld1q_f32(acc + i), a);
        vst1q_f32(acc + i, vfmaq_n_f32(kept, vld1q_f32(v + i), b));
    }
    for (size_t i = whole; i < n; i++) {
        acc[i] = a * acc[i] + b * v[i];
    }
}

void phi_neon_scale(float a, const float *x, float *out, size_t n)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        vst1q_f32(out + i, vmulq_n_f32(vld1q_f32(x + i), a));
    }
    for (; i < n; i++) {
        out[i] = a * x[i];
    }
}

float phi_neon_max(const float *x, size_t n)
{
    float32x4_t lanes = vdupq_n_f32(-INFINITY);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        /* So far's best is kept where x is NaN. */
        lanes = vmaxnmq_f32(vld1q_f32(x + i), lanes);
    }
    float best = vmaxnmvq_f32(lanes);
    for (; i < n; i++) {
        best = x[i] > best ? x[i] : best;
    }
    return best;
}

float phi_neon_exp_sum(float *x, size_t n, float shift)
{
    const float32x4_t minus = vdupq_n_f32(shift);
    float32x4_t low = vdupq_n_f32(0.0F);
    float32x4_t high = vdupq_n_f32(0.0F);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        float32x4_t a = exp_four(vsubq_f32(vld1q_f32(x + i), minus));
        float32x4_t b = exp_four(vsubq_f32(vld1q_f32(x + i + 4), minus));
        vst1q_f32(x + i, a);
        vst1q_f32(x + i + 4, b);
        low = vaddq_f32(low, a);
        high = vaddq_f32(high, b);
    }
    float sum = sum_eight(low, high);
    while (i < n) {
        size_t some = n - i < 4 ? n - i : 4;
        store_some(exp_four(vsubq_f32(load_some(x + i, some), minus)), x + i, some);
        for (size_t end = i + some; i < end; i++) {
            sum += x[i];
        }
    }
    return sum;
}
