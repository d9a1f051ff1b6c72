/* Activations to int8 codes, bit for bit as the portable set makes them: the same operations, and
 * none that depend on order. */
#include "engine/kernels/avx512/avx512.h"

#include "engine/kernels/unroll.h"

#include <float.h>
#include <immintrin.h>
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
    memset(out, 0, sizeof *out);
    if (finite != 0xFFFF || largest < ACT_TINY) {
        out->scale = finite != 0xFFFF ? NAN : 0.0F;
        return;
    }
    __m512 inverse = _mm512_set1_ps(127.0F / largest);
    __m512i total = _mm512_setzero_si512();
    PHI_UNROLL
    for (int i = 0; i < n; i++) {
        __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(values[i], inverse));
        total = _mm512_add_epi32(total, whole);
        _mm_storeu_si128((__m128i *)(void *)(out->codes + i * 16), _mm512_cvtepi32_epi8(whole));
    }
    out->scale = largest / 127.0F;
    out->sum = _mm512_reduce_add_epi32(total);
}

PHI_STAMP void quantize_one(const float *x, const phi_act *act, quantized *out)
{
    if (act->run == 32) {
        quantize_run(x, 32, out);
    } else {
        quantize_run(x, 16, out);
    }
}

static void put_sides(const phi_act *act, size_t at, const quantized *q)
{
    act->scales[at] = q->scale;
    act->starts[at] = -act->centre * q->sum;
    act->shifts[at] = q->scale * (float)q->sum;
}

void phi_avx512_quantize_tile(const float *x, uint32_t tile, const phi_act *act)
{
    size_t first = (size_t)tile * PHI_ACT_QUAD;
    size_t width = act->n_tok - first < PHI_ACT_QUAD ? act->n_tok - first : PHI_ACT_QUAD;
    size_t n_runs = act->cols / act->run;
    int8_t *codes = act->codes + first * act->cols;
    for (size_t t = 0; t < width; t++) {
        for (size_t i = 0; i < n_runs; i++) {
            quantized q;
            quantize_one(x + t * act->cols + i * act->run, act, &q);
            put_sides(act, first * n_runs + i * width + t, &q);
            for (size_t k = 0; k < act->run; k += 4) {
                memcpy(codes + ((i * act->run + k) / 4 * width + t) * 4, q.codes + k, 4);
            }
        }
    }
}

void phi_avx512_quantize_rows(const float *x, const phi_act *act)
{
    size_t n_runs = act->cols / act->run;
    for (size_t t = 0; t < act->n_tok; t++) {
        for (size_t i = 0; i < n_runs; i++) {
            quantized q;
            size_t at = i * act->n_tok + t;
            quantize_one(x + t * act->cols + i * act->run, act, &q);
            put_sides(act, at, &q);
            memcpy(act->codes + at * act->run, q.codes, act->run);
        }
    }
}
