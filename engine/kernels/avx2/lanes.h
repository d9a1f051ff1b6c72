/*
 * Purpose: sums and maxima over the lanes of an AVX2 register, in one fixed order.
 * Owns:    nothing. Threads: any. Errors: none.
 * Limits:  only for files that are compiled with AVX2.
 */
#ifndef PHI_ENGINE_KERNELS_AVX2_LANES_H
#define PHI_ENGINE_KERNELS_AVX2_LANES_H

#ifdef __AVX2__

#include <immintrin.h>

static inline float phi_lanes_sum(__m256 v)
{
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline float phi_lanes_max(__m256 v)
{
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

static inline int phi_lanes_sum_i32(__m256i v)
{
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1)));
}

#endif
#endif
