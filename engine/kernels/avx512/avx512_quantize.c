/* Activations to int8 codes, bit for bit as the portable set makes them: the same operations, and
 * none that depend on order. */
#include "engine/kernels/avx512/avx512.h"

#include "base/assert.h"
#include "engine/kernels/unroll.h"

#include <float.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

/* As in the portable set: a run below this is zero. */
#define ACT_TINY 1e-35F

/* What one run of one token becomes; in registers. */
typedef struct quantized {
    __m128i codes[2]; /* 16 each */
    float scale;
    int sum;
} quantized;

/* `run`, a constant, is 16 or 32. */
PHI_STAMP quantized quantize_run(const float *x, int run)
{
    const int n = run / 16;
    __m512 values[2];
    __m512 sizes = _mm512_setzero_ps();
    __mmask16 finite = 0xFFFF;
    PHI_UNROLL
    for (int i = 0; i < n; i++) {
        values[i] = _mm512_loadu_ps(x + i * 16);
        __m512 size = _mm512_abs_ps(values[i]);
        finite &= _mm512_cmp_ps_mask(size, _mm512_set1_ps(FLT_MAX), _CMP_LE_OQ);
        sizes = _mm512_max_ps(size, sizes);
    }
    float largest = _mm512_reduce_max_ps(sizes);
    quantized out = {.codes = {_mm_setzero_si128(), _mm_setzero_si128()}};
    if (finite != 0xFFFF || largest < ACT_TINY) {
        out.scale = finite != 0xFFFF ? NAN : 0.0F;
        return out;
    }
    __m512 inverse = _mm512_set1_ps(127.0F / largest);
    __m512i total = _mm512_setzero_si512();
    PHI_UNROLL
    for (int i = 0; i < n; i++) {
        __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(values[i], inverse));
        total = _mm512_add_epi32(total, whole);
        out.codes[i] = _mm512_cvtepi32_epi8(whole);
    }
    out.scale = largest / 127.0F;
    out.sum = _mm512_reduce_add_epi32(total);
    return out;
}

PHI_STAMP void put_sides(const phi_act *act, size_t at, const quantized *q)
{
    act->scales[at] = q->scale;
    act->starts[at] = -act->centre * q->sum;
    act->shifts[at] = q->scale * (float)q->sum;
}

/* The words of a run go `width` words apart. Stored whole and taken apart again: the small loads
 * are served from the large stores. */
PHI_STAMP void put_words(const quantized *q, int run, size_t width, int8_t *to)
{
    int8_t codes[32];
    PHI_UNROLL
    for (int i = 0; i < run / 16; i++) {
        _mm_storeu_si128((__m128i *)(void *)(codes + i * 16), q->codes[i]);
    }
    PHI_UNROLL
    for (int i = 0; i < run / 4; i++) {
        memcpy(to + (size_t)i * width * 4, codes + i * 4, 4);
    }
}

/* A quad, or the last, narrower one. */
PHI_STAMP void quantize_quad(const float *x, const phi_act *act, size_t first, int run)
{
    size_t width = act->n_tok - first < PHI_ACT_QUAD ? act->n_tok - first : PHI_ACT_QUAD;
    size_t n_runs = act->cols / (uint32_t)run;
    for (size_t t = 0; t < width; t++) {
        int8_t *codes = act->codes + first * act->cols + t * 4;
        for (size_t i = 0; i < n_runs; i++) {
            quantized q = quantize_run(x + t * act->cols + i * (size_t)run, run);
            put_sides(act, first * n_runs + i * width + t, &q);
            put_words(&q, run, width, codes + i * (size_t)run * width);
        }
    }
}

void phi_avx512_quantize_tile(const float *x, uint32_t tile, const phi_act *act)
{
    size_t first = (size_t)tile * PHI_ACT_QUAD;
    if (act->run == 32) {
        quantize_quad(x, act, first, 32);
    } else {
        quantize_quad(x, act, first, 16);
    }
}

void phi_avx512_quantize_rows(const float *x, const phi_act *act)
{
    enum { RUN = 32 };
    size_t n_runs = act->cols / RUN;
    PHI_ASSERT(act->run == RUN);
    for (size_t t = 0; t < act->n_tok; t++) {
        for (size_t i = 0; i < n_runs; i++) {
            quantized q = quantize_run(x + t * act->cols + i * RUN, RUN);
            size_t at = i * act->n_tok + t;
            __m128i *codes = (__m128i *)(void *)(act->codes + at * RUN);
            put_sides(act, at, &q);
            _mm_storeu_si128(codes, q.codes[0]);
            _mm_storeu_si128(codes + 1, q.codes[1]);
        }
    }
}
