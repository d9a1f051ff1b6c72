#include "engine/kernels/ceiling_loops.h"

#include <arm_neon.h>

/* 12 accumulators, as two pipes or four with a latency of three or four cycles need. */
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)

static int32_t dot_rounds(uint32_t rounds)
{
    int8x16_t a = vdupq_n_s8(3);
    int8x16_t b = vdupq_n_s8(-2);
#define BEGIN(i) int32x4_t s##i = vdupq_n_s32(i);
#define STEP(i) s##i = vdotq_s32(s##i, a, b);
#define GATHER(i) sum = vaddq_s32(sum, s##i);
    EACH(BEGIN)
    for (uint32_t r = 0; r < rounds; r++) {
        EACH(STEP)
    }
    int32x4_t sum = vdupq_n_s32(0);
    EACH(GATHER)
#undef BEGIN
#undef STEP
#undef GATHER
    return vgetq_lane_s32(sum, 0);
}

float phi_ceiling_neon_fp32(uint32_t rounds)
{
    float32x4_t a = vdupq_n_f32(0.5F);
    float32x4_t b = vdupq_n_f32(0.25F);
    /* s + a * b only grows: FMLA has the accumulator as its addend alone. */
#define BEGIN(i) float32x4_t s##i = vdupq_n_f32((float)i);
#define STEP(i) s##i = vfmaq_f32(s##i, a, b);
#define GATHER(i) sum = vaddq_f32(sum, s##i);
    EACH(BEGIN)
    for (uint32_t r = 0; r < rounds; r++) {
        EACH(STEP)
    }
    float32x4_t sum = vdupq_n_f32(0.0F);
    EACH(GATHER)
#undef BEGIN
#undef STEP
#undef GATHER
    return vgetq_lane_f32(sum, 0);
}

const phi_ceiling_loops phi_ceiling_neon_dotprod = {
    .set = "neon-dotprod",
    .int8_name = "sdot",
    .fp32_name = "fmla",
    .int8_ops = 12U * 16U * 2U,
    .fp32_ops = PHI_CEILING_NEON_FP32_OPS,
    .int8_rounds = dot_rounds,
    .fp32_rounds = phi_ceiling_neon_fp32,
};
