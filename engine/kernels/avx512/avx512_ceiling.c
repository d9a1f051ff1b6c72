#include "engine/kernels/ceiling_loops.h"

#include <immintrin.h>

#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)

static int32_t int8_rounds(uint32_t rounds)
{
    __m512i a = _mm512_set1_epi32(0x03030303);
    __m512i b = _mm512_set1_epi32(0x7e7e7e7e);
#define BEGIN(i) __m512i s##i = _mm512_set1_epi32(i);
#define STEP(i) __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(s##i) : "v"(a), "v"(b));
#define GATHER(i) sum = _mm512_add_epi32(sum, s##i);
    EACH(BEGIN)
    for (uint32_t r = 0; r < rounds; r++) {
        EACH(STEP)
    }
    __m512i sum = _mm512_setzero_si512();
    EACH(GATHER)
#undef BEGIN
#undef STEP
#undef GATHER
    return _mm_cvtsi128_si32(_mm512_castsi512_si128(sum));
}

float phi_ceiling_avx512_fp32(uint32_t rounds)
{
    __m512 a = _mm512_set1_ps(0.5F);
    __m512 b = _mm512_set1_ps(0.25F);
#define BEGIN(i) __m512 s##i = _mm512_set1_ps((float)i);
#define STEP(i) __asm__ volatile("vfmadd213ps %2, %1, %0" : "+v"(s##i) : "v"(a), "v"(b));
#define GATHER(i) sum = _mm512_add_ps(sum, s##i);
    EACH(BEGIN)
    for (uint32_t r = 0; r < rounds; r++) {
        EACH(STEP)
    }
    __m512 sum = _mm512_setzero_ps();
    EACH(GATHER)
#undef BEGIN
#undef STEP
#undef GATHER
    return _mm512_cvtss_f32(sum);
}

const phi_ceiling_loops phi_ceiling_avx512_vnni = {
    .set = "avx512-vnni",
    .int8_name = "vpdpbusd zmm",
    .fp32_name = "vfmadd zmm",
    .int8_ops = 12U * 64U * 2U,
    .fp32_ops = PHI_CEILING_AVX512_FP32_OPS,
    .int8_rounds = int8_rounds,
    .fp32_rounds = phi_ceiling_avx512_fp32,
};
