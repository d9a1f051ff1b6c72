#include "engine/kernels/ceiling_loops.h"

#include <arm_neon.h>

#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)

/* SMMLA: [2, 8] codes times [2, 8] codes, into [2, 2] sums. */
static int32_t matrix_rounds(uint32_t rounds)
{
    int8x16_t a = vdupq_n_s8(3);
    int8x16_t b = vdupq_n_s8(-2);
#define BEGIN(i) int32x4_t s##i = vdupq_n_s32(i);
#define STEP(i) s##i = vmmlaq_s32(s##i, a, b);
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

const phi_ceiling_loops phi_ceiling_neon_i8mm = {
    .set = "neon-i8mm",
    .int8_name = "smmla",
    .fp32_name = "fmla",
    .int8_ops = 12U * 32U * 2U,
    .fp32_ops = PHI_CEILING_NEON_FP32_OPS,
    .int8_rounds = matrix_rounds,
    .fp32_rounds = phi_ceiling_neon_fp32,
};
