#include "engine/kernels/ceiling_loops.h"

#include <immintrin.h>

#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)

static int32_t int8_rounds(uint32_t rounds)
{
    __m256i a = _mm256_set1_epi8(3);
    __m256i b = _mm256_set1_epi8(-2);
#define BEGIN(i) __m256i s##i = _mm256_set1_epi32(i);
#define STEP(i) __asm__ volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(s##i) : "x"(a), "x"(b));
#define GATHER(i) sum = _mm256_add_epi32(sum, s##i);
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

const phi_ceiling_loops phi_ceiling_avx_vnni = {
    .set = "avx-vnni",
    .int8_name = "vpdpbusd ymm",
    .fp32_name = "vfmadd ymm",
    .int8_ops = 12U * 32U * 2U,
    .fp32_ops = PHI_CEILING_AVX2_FP32_OPS,
    .int8_rounds = int8_rounds,
    .fp32_rounds = phi_ceiling_avx2_fp32,
};
