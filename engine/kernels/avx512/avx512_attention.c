/* Attention with sixteen lanes: attend_tile.h on AVX-512. */
#include "engine/kernels/avx512/avx512.h"
#include "engine/kernels/avx512/avx512_exp2.h"
#include "engine/kernels/unroll.h"

#include <immintrin.h>
#include <stdbool.h>

typedef __m512 lanes;
#define LANES 16
/* Thirty-two registers: eight rows of two for scores, four rows of six for dims. */
#define QK_ROWS 8
#define PV_ROWS 4
#define PV_LANES 6
#define FEW_SUMS 16

static inline lanes lanes_zero(void)
{
    return _mm512_setzero_ps();
}

static inline lanes lanes_set(float value)
{
    return _mm512_set1_ps(value);
}

static inline lanes lanes_load(const float *from)
{
    return _mm512_loadu_ps(from);
}

static inline void lanes_store(float *to, lanes v)
{
    _mm512_storeu_ps(to, v);
}

static inline lanes lanes_of_f16(const uint16_t *from)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)from));
}

static inline lanes lanes_of_i8(const int8_t *from)
{
    __m128i codes = _mm_loadu_si128((const __m128i *)(const void *)from);
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
}

static inline void lanes_to_f16(uint16_t *to, lanes v)
{
    _mm256_storeu_si256((__m256i *)(void *)to,
                        _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

static inline lanes lanes_add(lanes a, lanes b)
{
    return _mm512_add_ps(a, b);
}

static inline lanes lanes_mul(lanes a, lanes b)
{
    return _mm512_mul_ps(a, b);
}

static inline lanes lanes_fma(lanes a, lanes b, lanes c)
{
    return _mm512_fmadd_ps(a, b, c);
}

static inline lanes lanes_max(lanes a, lanes b)
{
    return _mm512_max_ps(a, b);
}

static inline lanes lanes_exp2(lanes x)
{
    return phi_avx512_exp2(x);
}

static inline bool lanes_any_above(lanes a, lanes b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0;
}

static inline float lanes_top(lanes v)
{
    return _mm512_reduce_max_ps(v);
}

static inline float lanes_total(lanes v)
{
    return _mm512_reduce_add_ps(v);
}

PHI_STAMP void lanes_prefetch(const char *at)
{
    _mm_prefetch(at, _MM_HINT_T0);
}

#include "engine/kernels/attend_tile.h"

void phi_avx512_kv_store(const phi_kv_rows *rows, void *head)
{
    store_rows(rows, head);
}

void phi_avx512_attend(const phi_attend *attend, uint32_t page_begin, uint32_t page_end)
{
    attend_pages(attend, page_begin, page_end);
}
