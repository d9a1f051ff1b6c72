/*
 * The int8 loop is VPMADDUBSW and an addition of 16-bit sums: codes of 4 bits let several such sums
 * fit before they are widened, so that widening is no part of the ceiling.
 *
 * In assembly, because gcc 12 leaves some of the accumulators in memory when it is given
 * intrinsics.
 */
#include "engine/kernels/ceiling_loops.h"

#include <immintrin.h>

/* 12 accumulators, two operands and a product fit into 16 registers. */
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)

static int32_t int8_rounds(uint32_t rounds)
{
    __m256i a = _mm256_set1_epi8(3);
    __m256i b = _mm256_set1_epi8(-2);
    __m256i product;
#define BEGIN(i) __m256i s##i = _mm256_set1_epi16(i);
#define STEP(i)                                                                                    \
    __asm__ volatile("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0"                                  \
                     : "+x"(s##i), "=&x"(product)                                                  \
                     : "x"(a), "x"(b));
#define GATHER(i) sum = _mm256_add_epi16(sum, s##i);
    EACH(BEGIN)
    for (uint32_t r = 0; r < rounds; r++) {
        EACH(STEP)
    }
    __m256i sum = _mm256_setzero_si256();
    EACH(GATHER)
#undef BEGIN
#undef STEP
#undef GATHER
    return _mm256_extract_epi32(sum, 0);
}

float phi_ceiling_avx2_fp32(uint32_t rounds)
{
    __m256 a = _mm256_set1_ps(0.5F);
    __m256 b = _mm256_set1_ps(0.25F);
#define BEGIN(i) __m256 s##i = _mm256_set1_ps((float)i);
#define STEP(i) __asm__ volatile("vfmadd213ps %2, %1, %0" : "+x"(s##i) : "x"(a), "x"(b));
#define GATHER(i) sum = _mm256_add_ps(sum, s##i);
    EACH(BEGIN)
    for (uint32_t r = 0; r < rounds; r++) {
        EACH(STEP)
    }
    __m256 sum = _mm256_setzero_ps();
    EACH(GATHER)
#undef BEGIN
#undef STEP
#undef GATHER
    return _mm256_cvtss_f32(sum);
}

const phi_ceiling_loops phi_ceiling_avx2 = {
    .set = "avx2",
    .int8_name = "vpmaddubsw ymm",
    .fp32_name = "vfmadd ymm",
    .int8_ops = 12U * 32U * 2U,
    .fp32_ops = PHI_CEILING_AVX2_FP32_OPS,
    .int8_rounds = int8_rounds,
    .fp32_rounds = phi_ceiling_avx2_fp32,
};
