/* Attention with four lanes: attend_tile.h on NEON. */
#include "engine/kernels/neon/neon.h"
#include "engine/kernels/unroll.h"

#include <arm_neon.h>
#include <stdbool.h>
#include <string.h>

typedef float32x4_t lanes;
#define LANES 4
/* Thirty-two registers: two rows of eight for scores, four rows of four for dims. */
#define QK_ROWS 2
#define PV_ROWS 4
#define PV_LANES 4
#define FEW_SUMS 16

static inline lanes lanes_zero(void)
{
    return vdupq_n_f32(0.0F);
}

static inline lanes lanes_set(float value)
{
    return vdupq_n_f32(value);
}

static inline lanes lanes_load(const float *from)
{
    return vld1q_f32(from);
}

static inline void lanes_store(float *to, lanes v)
{
    vst1q_f32(to, v);
}

static inline lanes lanes_of_f16(const uint16_t *from)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)));
}

static inline lanes lanes_of_i8(const int8_t *from)
{
    uint32_t four;
    memcpy(&four, from, sizeof four);
    int16x8_t wide = vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(four)));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
}

static inline void lanes_to_f16(uint16_t *to, lanes v)
{
    vst1_u16(to, vreinterpret_u16_f16(vcvt_f16_f32(v)));
}

static inline lanes lanes_add(lanes a, lanes b)
{
    return vaddq_f32(a, b);
}

static inline lanes lanes_mul(lanes a, lanes b)
{
    return vmulq_f32(a, b);
}

static inline lanes lanes_fma(lanes a, lanes b, lanes c)
{
    return vfmaq_f32(c, a, b);
}

/* The second where one is NaN, as x86 has it: NEON's own maximum would be NaN. */
static inline lanes lanes_max(lanes a, lanes b)
{
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}

/* 2^x for x <= 0 to 1e-7: the power of the nearest integer times a polynomial that interpolates 2^z
 * at Chebyshev's points of [-1/2, 1/2]. Below the smallest normal number 0; NaN stays NaN. */
static inline lanes lanes_exp2(lanes x)
{
    const lanes lowest = vdupq_n_f32(-126.0F);
    uint32x4_t too_low = vcltq_f32(x, lowest);
    x = vmaxq_f32(lowest, x);
    lanes n = vrndnq_f32(x);
    lanes z = vsubq_f32(x, n);
    lanes p = vdupq_n_f32(0x1.444p-13F);
    p = vfmaq_f32(vdupq_n_f32(0x1.5f48cp-10F), p, z);
    p = vfmaq_f32(vdupq_n_f32(0x1.3b2a1cp-7F), p, z);
    p = vfmaq_f32(vdupq_n_f32(0x1.c6aeccp-5F), p, z);
    p = vfmaq_f32(vdupq_n_f32(0x1.ebfbep-3F), p, z);
    p = vfmaq_f32(vdupq_n_f32(0x1.62e43p-1F), p, z);
    p = vfmaq_f32(vdupq_n_f32(1.0F), p, z);
    int32x4_t power = vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127));
    p = vmulq_f32(p, vreinterpretq_f32_s32(vshlq_n_s32(power, 23)));
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(p), too_low));
}

static inline bool lanes_any_above(lanes a, lanes b)
{
    return vmaxvq_u32(vcgtq_f32(a, b)) != 0;
}

static inline float lanes_top(lanes v)
{
    return vmaxnmvq_f32(v);
}

static inline float lanes_total(lanes v)
{
    float32x2_t two = vadd_f32(vget_low_f32(v), vget_high_f32(v));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

static inline __attribute__((always_inline)) void lanes_prefetch(const char *at)
{
    __builtin_prefetch(at);
}

#include "engine/kernels/attend_tile.h"

void phi_neon_kv_store(const phi_kv_rows *rows, void *head)
{
    store_rows(rows, head);
}

void phi_neon_attend(const phi_attend *attend, uint32_t page_begin, uint32_t page_end)
{
    attend_pages(attend, page_begin, page_end);
}
