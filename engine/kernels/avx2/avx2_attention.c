/* Attention with eight lanes: attend_tile.h on AVX2. */
#include "engine/kernels/avx2/avx2.h"

#include "engine/kernels/avx2/lanes.h"
#include "engine/kernels/unroll.h"

#include <immintrin.h>
#include <stdbool.h>

typedef __m256 lanes;
#define LANES 8
/* Sixteen registers: two rows of four for scores with the keys in memory operands, two rows of
 * four for dims. */
#define QK_ROWS 2
#define PV_ROWS 2
#define PV_LANES 4
#define FEW_SUMS 8

static inline lanes lanes_zero(void)
{
    return _mm256_setzero_ps();
}

static inline lanes lanes_set(float value)
{
    return _mm256_set1_ps(value);
}

static inline lanes lanes_load(const float *from)
{
    return _mm256_loadu_ps(from);
}

static inline void lanes_store(float *to, lanes v)
{
    _mm256_storeu_ps(to, v);
}

static inline lanes lanes_of_f16(const uint16_t *from)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)from));
}

static inline lanes lanes_of_i8(const int8_t *from)
{
    __m128i codes = _mm_loadl_epi64((const __m128i *)(const void *)from);
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes));
}

static inline void lanes_to_f16(uint16_t *to, lanes v)
{
    _mm_storeu_si128((__m128i *)(void *)to, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

static inline lanes lanes_add(lanes a, lanes b)
{
    return _mm256_add_ps(a, b);
}

static inline lanes lanes_mul(lanes a, lanes b)
{
    return _mm256_mul_ps(a, b);
}

static inline lanes lanes_fma(lanes a, lanes b, lanes c)
{
    return _mm256_fmadd_ps(a, b, c);
}

static inline lanes lanes_max(lanes a, lanes b)
{
    return _mm256_max_ps(a, b);
}

/* 2^x for x <= 0 to 1e-7: the power of the nearest integer times a polynomial that interpolates 2^z
 * at Chebyshev's points of [-1/2, 1/2]. Below 2^-100 it is 0: such a weight changes no sum, and
 * products too small for a normal number would take the CPU a hundred times as long. NaN stays
 * NaN. */
static inline lanes lanes_exp2(lanes x)
{
    __m256 lowest = _mm256_set1_ps(-100.0F);
    __m256 in_range = _mm256_cmp_ps(x, lowest, _CMP_NLT_UQ);
    /* max gives its second argument back when one is NaN. */
    x = _mm256_max_ps(lowest, x);
    __m256 n = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 z = _mm256_sub_ps(x, n);
    __m256 p = _mm256_set1_ps(0x1.444p-13F);
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(0x1.5f48cp-10F));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(0x1.3b2a1cp-7F));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(0x1.c6aeccp-5F));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(0x1.ebfbep-3F));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(0x1.62e43p-1F));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(1.0F));
    __m256i power = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(power, 23)));
    return _mm256_and_ps(p, in_range);
}

static inline bool lanes_any_above(lanes a, lanes b)
{
    return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)) != 0;
}

static inline float lanes_top(lanes v)
{
    return phi_lanes_max(v);
}

static inline float lanes_total(lanes v)
{
    return phi_lanes_sum(v);
}

static inline __attribute__((always_inline)) void lanes_prefetch(const char *at)
{
    _mm_prefetch(at, _MM_HINT_T0);
}

#include "engine/kernels/attend_tile.h"

void phi_avx2_kv_store(const phi_kv_rows *rows, void *head)
{
    store_rows(rows, head);
}

void phi_avx2_attend(const phi_attend *attend, uint32_t page_begin, uint32_t page_end)
{
    attend_pages(attend, page_begin, page_end);
}
