/* The AVX-512 vector functions. */
#include "engine/kernels/avx512/avx512.h"

#include <immintrin.h>
#include <math.h>
#include <stdbool.h>

/* The lanes that are left of n: all when 16 or more are. */
static __mmask16 lanes_of(size_t n)
{
    unsigned mask = n >= 16 ? 0xFFFFU : (1U << n) - 1U;
    return (__mmask16)mask;
}

/*
 * exp to about 2 ulp: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2], whose coefficients are those
 * of Taylor's series up to x^7, which is enough on so short a range. Results below the smallest
 * normal number are 0; arguments above 88.37 count as 88.37; NaN stays NaN.
 */
static __m512 exp_sixteen(__m512 x)
{
    const __m512 lowest = _mm512_set1_ps(-87.33654F);
    __mmask16 in_range = _mm512_cmp_ps_mask(x, lowest, _CMP_NLT_UQ);
    /* min and max give their second argument back when one is NaN. */
    __m512 z = _mm512_max_ps(lowest, _mm512_min_ps(_mm512_set1_ps(88.37F), x));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(z, _mm512_set1_ps(0x1.715476p+0F)),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    /* ln 2 in two parts, the first short enough that n times it is exact. */
    z = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.62e4p-1F), z);
    z = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.7f7d1cp-20F), z);
    __m512 p = _mm512_set1_ps(1.0F / 5040.0F);
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(1.0F / 720.0F));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(1.0F / 120.0F));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(1.0F / 24.0F));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(1.0F / 6.0F));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(0.5F));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(1.0F));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(1.0F));
    return _mm512_maskz_scalef_ps(in_range, p, n);
}

/* Sixteen squares, in double. */
static __m512d add_squares(__m512 x, __m512d sum)
{
    __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(x));
    __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1));
    return _mm512_fmadd_pd(high, high, _mm512_fmadd_pd(low, low, sum));
}

void phi_avx512_rms_norm(const float *x, const float *weight, size_t n, float eps, float *out)
{
    /* In double: as exact as the portable set. Four chains, so that none waits for itself. */
    __m512d sums[4] = {_mm512_setzero_pd(), _mm512_setzero_pd(), _mm512_setzero_pd(),
                       _mm512_setzero_pd()};
    size_t i = 0;
    for (; i + 64 <= n; i += 64) {
        for (size_t j = 0; j < 4; j++) {
            sums[j] = add_squares(_mm512_loadu_ps(x + i + j * 16), sums[j]);
        }
    }
    for (; i < n; i += 16) {
        sums[0] = add_squares(_mm512_maskz_loadu_ps(lanes_of(n - i), x + i), sums[0]);
    }
    double squares = _mm512_reduce_add_pd(
        _mm512_add_pd(_mm512_add_pd(sums[0], sums[1]), _mm512_add_pd(sums[2], sums[3])));
    __m512 factor = _mm512_set1_ps((float)(1.0 / sqrt(squares / (double)n + (double)eps)));
    for (i = 0; i < n; i += 16) {
        __mmask16 mask = lanes_of(n - i);
        __m512 scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), factor);
        _mm512_mask_storeu_ps(out + i, mask,
                              _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, weight + i), scaled));
    }
}

/* The sum of x - shift, or of its square, over n, in double. */
static double sum_off(const float *x, size_t n, double shift, bool squared)
{
    __m512d minus = _mm512_set1_pd(shift);
    __m512d sums[2] = {_mm512_setzero_pd(), _mm512_setzero_pd()};
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = lanes_of(n - i);
        __m512 v = _mm512_maskz_loadu_ps(mask, x + i);
        __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(v));
        __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1));
        low = _mm512_maskz_sub_pd((__mmask8)mask, low, minus);
        high = _mm512_maskz_sub_pd((__mmask8)(mask >> 8), high, minus);
        sums[0] = squared ? _mm512_fmadd_pd(low, low, sums[0]) : _mm512_add_pd(low, sums[0]);
        sums[1] = squared ? _mm512_fmadd_pd(high, high, sums[1]) : _mm512_add_pd(high, sums[1]);
    }
    return _mm512_reduce_add_pd(_mm512_add_pd(sums[0], sums[1]));
}

void phi_avx512_layer_norm(const float *x, const float *weight, const float *bias, size_t n,
                           float eps, float *out)
{
    double mean = sum_off(x, n, 0.0, false) / (double)n;
    double variance = sum_off(x, n, mean, true) / (double)n;
    __m512 middle = _mm512_set1_ps((float)mean);
    __m512 factor = _mm512_set1_ps((float)(1.0 / sqrt(variance + (double)eps)));
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = lanes_of(n - i);
        __m512 off = _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), middle);
        __m512 scaled = _mm512_mul_ps(off, factor);
        _mm512_mask_storeu_ps(out + i, mask,
                              _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, weight + i), scaled,
                                              _mm512_maskz_loadu_ps(mask, bias + i)));
    }
}

void phi_avx512_gelu(const float *x, size_t n, float *out)
{
    __m512 one = _mm512_set1_ps(1.0F);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = lanes_of(n - i);
        __m512 v = _mm512_maskz_loadu_ps(mask, x + i);
        __m512 slope = _mm512_fmadd_ps(_mm512_set1_ps(-PHI_GELU_CUBIC), _mm512_mul_ps(v, v),
                                       _mm512_set1_ps(-PHI_GELU_LINEAR));
        __m512 e = exp_sixteen(_mm512_mul_ps(v, slope));
        _mm512_mask_storeu_ps(out + i, mask, _mm512_div_ps(v, _mm512_add_ps(one, e)));
    }
}

void phi_avx512_swiglu(const float *gate, const float *up, size_t n, float *out)
{
    __m512 one = _mm512_set1_ps(1.0F);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = lanes_of(n - i);
        __m512 g = _mm512_maskz_loadu_ps(mask, gate + i);
        __m512 minus = _mm512_xor_ps(g, _mm512_set1_ps(-0.0F));
        __m512 silu = _mm512_div_ps(g, _mm512_add_ps(one, exp_sixteen(minus)));
        _mm512_mask_storeu_ps(out + i, mask,
                              _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, up + i), silu));
    }
}

void phi_avx512_rope(float *x, const float *cos_row, const float *sin_row, size_t n_rot)
{
    size_t half = n_rot / 2;
    for (size_t i = 0; i < half; i += 16) {
        __mmask16 mask = lanes_of(half - i);
        __m512 a = _mm512_maskz_loadu_ps(mask, x + i);
        __m512 b = _mm512_maskz_loadu_ps(mask, x + i + half);
        __m512 c = _mm512_maskz_loadu_ps(mask, cos_row + i);
        __m512 s = _mm512_maskz_loadu_ps(mask, sin_row + i);
        _mm512_mask_storeu_ps(x + i, mask, _mm512_sub_ps(_mm512_mul_ps(a, c), _mm512_mul_ps(b, s)));
        _mm512_mask_storeu_ps(x + i + half, mask,
                              _mm512_add_ps(_mm512_mul_ps(b, c), _mm512_mul_ps(a, s)));
    }
}

void phi_avx512_add(float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = lanes_of(n - i);
        _mm512_mask_storeu_ps(
            x + i, mask,
            _mm512_add_ps(_mm512_maskz_loadu_ps(mask, x + i), _mm512_maskz_loadu_ps(mask, y + i)));
    }
}

void phi_avx512_mix(float a, float *acc, float b, const float *v, size_t n)
{
    __m512 old = _mm512_set1_ps(a);
    __m512 fresh = _mm512_set1_ps(b);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = lanes_of(n - i);
        __m512 kept = _mm512_mul_ps(old, _mm512_maskz_loadu_ps(mask, acc + i));
        _mm512_mask_storeu_ps(acc + i, mask,
                              _mm512_fmadd_ps(fresh, _mm512_maskz_loadu_ps(mask, v + i), kept));
    }
}

void phi_avx512_scale(float a, const float *x, float *out, size_t n)
{
    __m512 factor = _mm512_set1_ps(a);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = lanes_of(n - i);
        _mm512_mask_storeu_ps(out + i, mask,
                              _mm512_mul_ps(factor, _mm512_maskz_loadu_ps(mask, x + i)));
    }
}

float phi_avx512_max(const float *x, size_t n)
{
    __m512 lowest = _mm512_set1_ps(-INFINITY);
    __m512 best[4] = {lowest, lowest, lowest, lowest};
    size_t i = 0;
    for (; i + 64 <= n; i += 64) {
        for (size_t j = 0; j < 4; j++) {
            /* The second argument, so far's best, is kept where x is NaN. */
            best[j] = _mm512_max_ps(_mm512_loadu_ps(x + i + j * 16), best[j]);
        }
    }
    for (; i < n; i += 16) {
        __m512 v = _mm512_mask_loadu_ps(lowest, lanes_of(n - i), x + i);
        best[0] = _mm512_max_ps(v, best[0]);
    }
    return _mm512_reduce_max_ps(
        _mm512_max_ps(_mm512_max_ps(best[0], best[1]), _mm512_max_ps(best[2], best[3])));
}

float phi_avx512_exp_sum(float *x, size_t n, float shift)
{
    __m512 minus = _mm512_set1_ps(shift);
    __m512 sums = _mm512_setzero_ps();
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = lanes_of(n - i);
        __m512 e = exp_sixteen(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), minus));
        _mm512_mask_storeu_ps(x + i, mask, e);
        sums = _mm512_mask_add_ps(sums, mask, sums, e);
    }
    return _mm512_reduce_add_ps(sums);
}
