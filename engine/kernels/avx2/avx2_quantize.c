/* Activations to int8 codes, bit for bit as the portable set makes them: the same operations, and
 * none that depend on order. */
#include "engine/kernels/avx2/avx2.h"

#include "engine/kernels/avx2/lanes.h"
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
    const __m256 no_sign = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF));
    const int n = run / 8;
    __m256 values[4];
    __m256 sizes = _mm256_setzero_ps();
    __m256 finite = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
    PHI_UNROLL
    for (int i = 0; i < n; i++) {
        values[i] = _mm256_loadu_ps(x + i * 8);
        __m256 size = _mm256_and_ps(values[i], no_sign);
        finite = _mm256_and_ps(finite, _mm256_cmp_ps(size, _mm256_set1_ps(FLT_MAX), _CMP_LE_OQ));
        sizes = _mm256_max_ps(size, sizes);
    }
    bool all_finite = _mm256_movemask_ps(finite) == 0xFF;
    float largest = phi_lanes_max(sizes);
    memset(out, 0, sizeof *out);
    if (!all_finite || largest < ACT_TINY) {
        out->scale = all_finite ? 0.0F : NAN;
        return;
    }
    __m256 inverse = _mm256_set1_ps(127.0F / largest);
    __m256i total = _mm256_setzero_si256();
    __m256i whole[4];
    PHI_UNROLL
    for (int i = 0; i < 4; i++) {
        whole[i] =
            i < n ? _mm256_cvtps_epi32(_mm256_mul_ps(values[i], inverse)) : _mm256_setzero_si256();
        total = _mm256_add_epi32(total, whole[i]);
    }
    /* Packing works within 128-bit halves; the permutation puts the columns back in order. */
    __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(whole[0], whole[1]),
                                       _mm256_packs_epi32(whole[2], whole[3]));
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)(void *)out->codes, bytes);
    out->scale = largest / 127.0F;
    out->sum = phi_lanes_sum_i32(total);
}

void phi_avx2_quantize_tile(const float *x, uint32_t tile, const phi_act *act)
{
    size_t first = (size_t)tile * PHI_ACT_QUAD;
    size_t width = act->n_tok - first < PHI_ACT_QUAD ? act->n_tok - first : PHI_ACT_QUAD;
    size_t n_runs = act->cols / act->run;
    int8_t *codes = act->codes + first * act->cols;
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
            for (size_t k = 0; k < act->run; k += 4) {
                memcpy(codes + ((i * act->run + k) / 4 * width + t) * 4, q.codes + k, 4);
            }
        }
    }
}
