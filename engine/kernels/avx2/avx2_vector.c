/* The AVX2 vector functions, and the AVX2 table. */
#include "engine/kernels/avx2/avx2.h"

#include "engine/kernels/avx2/lanes.h"
#include "engine/kernels/sets.h"

#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

/*
 * exp to about 2 ulp: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2], whose coefficients are those
 * of Taylor's series up to x^7, which is enough on so short a range. Results below the smallest
 * normal number are 0; arguments above 88.37 count as 88.37; NaN stays NaN.
 */
static __m256 exp_eight(__m256 x)
{
    const __m256 lowest = _mm256_set1_ps(-87.33654F);
    __m256 in_range = _mm256_cmp_ps(x, lowest, _CMP_NLT_UQ);
    /* min and max give their second argument back when one is NaN. */
    __m256 z = _mm256_max_ps(lowest, _mm256_min_ps(_mm256_set1_ps(88.37F), x));
    __m256 n = _mm256_round_ps(_mm256_mul_ps(z, _mm256_set1_ps(0x1.715476p+0F)),
                               _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    /* ln 2 in two parts, the first short enough that n times it is exact. */
    z = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.62e4p-1F), z);
    z = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.7f7d1cp-20F), z);
    __m256 p = _mm256_set1_ps(1.0F / 5040.0F);
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(1.0F / 720.0F));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(1.0F / 120.0F));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(1.0F / 24.0F));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(1.0F / 6.0F));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(0.5F));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(1.0F));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(1.0F));
    __m256i power = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(power, 23)));
    return _mm256_and_ps(p, in_range);
}

static __m256 load_some(const float *x, size_t n)
{
    float padded[8] = {0};
    memcpy(padded, x, n * sizeof *x);
    return _mm256_loadu_ps(padded);
}

static void store_some(__m256 v, float *x, size_t n)
{
    float padded[8];
    _mm256_storeu_ps(padded, v);
    memcpy(x, padded, n * sizeof *x);
}

void phi_avx2_rms_norm(const float *x, const float *weight, size_t n, float eps, float *out)
{
    size_t whole = n - n % 8;
    /* In double: as exact as the portable set, and a small part of a layer's time. */
    __m256d low = _mm256_setzero_pd();
    __m256d high = _mm256_setzero_pd();
    for (size_t i = 0; i < whole; i += 8) {
        __m256d a = _mm256_cvtps_pd(_mm_loadu_ps(x + i));
        __m256d b = _mm256_cvtps_pd(_mm_loadu_ps(x + i + 4));
        low = _mm256_fmadd_pd(a, a, low);
        high = _mm256_fmadd_pd(b, b, high);
    }
    double lanes[4];
    _mm256_storeu_pd(lanes, _mm256_add_pd(low, high));
    double squares = (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
    for (size_t i = whole; i < n; i++) {
        squares += (double)x[i] * (double)x[i];
    }
    float inverse = (float)(1.0 / sqrt(squares / (double)n + (double)eps));
    __m256 factor = _mm256_set1_ps(inverse);
    for (size_t i = 0; i < whole; i += 8) {
        __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x + i), factor);
        _mm256_storeu_ps(out + i, _mm256_mul_ps(_mm256_loadu_ps(weight + i), scaled));
    }
    for (size_t i = whole; i < n; i++) {
        out[i] = weight[i] * (x[i] * inverse);
    }
}

/* Sum of x - shift, or of its square, over n, in double. */
static double sum_off(const float *x, size_t n, double shift, bool squared)
{
    __m256d minus = _mm256_set1_pd(shift);
    __m256d low = _mm256_setzero_pd();
    __m256d high = _mm256_setzero_pd();
    size_t whole = n - n % 8;
    for (size_t i = 0; i < whole; i += 8) {
        __m256d a = _mm256_sub_pd(_mm256_cvtps_pd(_mm_loadu_ps(x + i)), minus);
        __m256d b = _mm256_sub_pd(_mm256_cvtps_pd(_mm_loadu_ps(x + i + 4)), minus);
        low = squared ? _mm256_fmadd_pd(a, a, low) : _mm256_add_pd(a, low);
        high = squared ? _mm256_fmadd_pd(b, b, high) : _mm256_add_pd(b, high);
    }
    double lanes[4];
    _mm256_storeu_pd(lanes, _mm256_add_pd(low, high));
    double sum = (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
    for (size_t i = whole; i < n; i++) {
        double off = (double)x[i] - shift;
        sum += squared ? off * off : off;
    }
    return sum;
}

void phi_avx2_layer_norm(const float *x, const float *weight, const float *bias, size_t n,
                         float eps, float *out)
{
    double mean = sum_off(x, n, 0.0, false) / (double)n;
    double variance = sum_off(x, n, mean, true) / (double)n;
    __m256 middle = _mm256_set1_ps((float)mean);
    __m256 factor = _mm256_set1_ps((float)(1.0 / sqrt(variance + (double)eps)));
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 scaled = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(x + i), middle), factor);
        _mm256_storeu_ps(out + i, _mm256_fmadd_ps(_mm256_loadu_ps(weight + i), scaled,
                                                  _mm256_loadu_ps(bias + i)));
    }
    size_t left = n - i;
    __m256 scaled = _mm256_mul_ps(_mm256_sub_ps(load_some(x + i, left), middle), factor);
    store_some(_mm256_fmadd_ps(load_some(weight + i, left), scaled, load_some(bias + i, left)),
               out + i, left);
}

static __m256 gelu_eight(__m256 x)
{
    __m256 slope = _mm256_fmadd_ps(_mm256_set1_ps(-PHI_GELU_CUBIC), _mm256_mul_ps(x, x),
                                   _mm256_set1_ps(-PHI_GELU_LINEAR));
    __m256 e = exp_eight(_mm256_mul_ps(x, slope));
    return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0F), e));
}

void phi_avx2_gelu(const float *x, size_t n, float *out)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        _mm256_storeu_ps(out + i, gelu_eight(_mm256_loadu_ps(x + i)));
    }
    store_some(gelu_eight(load_some(x + i, n - i)), out + i, n - i);
}

static __m256 swiglu_eight(__m256 gate, __m256 up)
{
    __m256 one = _mm256_set1_ps(1.0F);
    __m256 minus = _mm256_xor_ps(gate, _mm256_set1_ps(-0.0F));
    __m256 silu = _mm256_div_ps(gate, _mm256_add_ps(one, exp_eight(minus)));
    return _mm256_mul_ps(up, silu);
}

void phi_avx2_swiglu(const float *gate, const float *up, size_t n, float *out)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        _mm256_storeu_ps(out + i, swiglu_eight(_mm256_loadu_ps(gate + i), _mm256_loadu_ps(up + i)));
    }
    store_some(swiglu_eight(load_some(gate + i, n - i), load_some(up + i, n - i)), out + i, n - i);
}

void phi_avx2_rope(float *x, const float *cos_row, const float *sin_row, size_t n_rot)
{
    size_t half = n_rot / 2;
    size_t i = 0;
    for (; i + 8 <= half; i += 8) {
        __m256 a = _mm256_loadu_ps(x + i);
        __m256 b = _mm256_loadu_ps(x + i + half);
        __m256 c = _mm256_loadu_ps(cos_row + i);
        __m256 s = _mm256_loadu_ps(sin_row + i);
        _mm256_storeu_ps(x + i, _mm256_sub_ps(_mm256_mul_ps(a, c), _mm256_mul_ps(b, s)));
        _mm256_storeu_ps(x + i + half, _mm256_add_ps(_mm256_mul_ps(b, c), _mm256_mul_ps(a, s)));
    }
    for (; i < half; i++) {
        float a = x[i];
        float b = x[i + half];
        x[i] = a * cos_row[i] - b * sin_row[i];
        x[i + half] = b * cos_row[i] + a * sin_row[i];
    }
}

void phi_avx2_add(float *x, const float *y, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        _mm256_storeu_ps(x + i, _mm256_add_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i)));
    }
    for (; i < n; i++) {
        x[i] += y[i];
    }
}

void phi_avx2_mix(float a, float *acc, float b, const float *v, size_t n)
{
    __m256 old = _mm256_set1_ps(a);
    __m256 fresh = _mm256_set1_ps(b);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 kept = _mm256_mul_ps(old, _mm256_loadu_ps(acc + i));
        _mm256_storeu_ps(acc + i, _mm256_fmadd_ps(fresh, _mm256_loadu_ps(v + i), kept));
    }
    for (; i < n; i++) {
        acc[i] = a * acc[i] + b * v[i];
    }
}

void phi_avx2_scale(float a, const float *x, float *out, size_t n)
{
    __m256 factor = _mm256_set1_ps(a);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        _mm256_storeu_ps(out + i, _mm256_mul_ps(factor, _mm256_loadu_ps(x + i)));
    }
    for (; i < n; i++) {
        out[i] = a * x[i];
    }
}

float phi_avx2_max(const float *x, size_t n)
{
    __m256 lanes = _mm256_set1_ps(-INFINITY);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        /* The second argument, so far's best, is kept where x is NaN. */
        lanes = _mm256_max_ps(_mm256_loadu_ps(x + i), lanes);
    }
    float best = phi_lanes_max(lanes);
    for (; i < n; i++) {
        best = x[i] > best ? x[i] : best;
    }
    return best;
}

float phi_avx2_exp_sum(float *x, size_t n, float shift)
{
    __m256 minus = _mm256_set1_ps(shift);
    __m256 sums = _mm256_setzero_ps();
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 e = exp_eight(_mm256_sub_ps(_mm256_loadu_ps(x + i), minus));
        _mm256_storeu_ps(x + i, e);
        sums = _mm256_add_ps(sums, e);
    }
    float sum = phi_lanes_sum(sums);
    if (i < n) {
        store_some(exp_eight(_mm256_sub_ps(load_some(x + i, n - i), minus)), x + i, n - i);
        for (; i < n; i++) {
            sum += x[i];
        }
    }
    return sum;
}

const phi_kernels phi_kernels_avx2 = {
    .name = "avx2",
    .act_tile = PHI_ACT_QUAD,
    .quantize_tile = phi_avx2_quantize_tile,
    .rows_int = phi_avx2_rows_int,
    .rows_float = phi_avx2_rows_float,
    PHI_AVX2_VECTOR_SLOTS,
};
