#include "engine/quant/group_codes.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/assert.h"
#include "engine/quant/scale_search.h"
#include "engine/tensor/half.h"

/* Rounds of coding and fitting the scale; see scale_search.c. */
#define REFINE_MAX 4
/* Trial spans of the codes, as shares of the group's range. */
#define SPAN_FIRST 0.7F
#define SPAN_STEP 0.025F
#define SPANS 17

float phi_round_to(phi_dtype dtype, float value)
{
    switch (dtype) {
    case PHI_DTYPE_F16:
        return phi_half_to_float(phi_half_of_float(value));
    case PHI_DTYPE_BF16:
        return phi_bf16_to_float(phi_bf16_of_float(value));
    default:
        return value;
    }
}

/* A group being coded with a zero point; the best so far is in the caller's outputs. */
typedef struct trial {
    const float *x;
    size_t n;
    int q_max;
    phi_dtype scale_dtype;
    double error; /* of the best */
    float scale;
    int zero;
} trial;

static int code_of(const trial *t, float scale_inverse, int zero, float x)
{
    float code = rintf(x * scale_inverse) + (float)zero;
    return code < 0 ? 0 : code > (float)t->q_max ? t->q_max : (int)code;
}

static double error_of(const trial *t, float scale, int zero)
{
    float inverse = 1.0F / scale;
    double error = 0.0;
    for (size_t i = 0; i < t->n; i++) {
        float value = scale * (float)(code_of(t, inverse, zero, t->x[i]) - zero);
        double difference = (double)t->x[i] - (double)value;
        error += difference * difference;
    }
    return error;
}

/* Least squares of x on its codes. */
static float fit_scale(const trial *t, float scale, int zero)
{
    float inverse = 1.0F / scale;
    double xl = 0.0;
    double ll = 0.0;
    for (size_t i = 0; i < t->n; i++) {
        double l = code_of(t, inverse, zero, t->x[i]) - zero;
        xl += (double)t->x[i] * l;
        ll += l * l;
    }
    return ll > 0.0 ? (float)(xl / ll) : scale;
}

static bool is_usable(float scale)
{
    return scale != 0.0F && isfinite(scale) && isfinite(1.0F / scale);
}

static void try_scale(trial *t, float scale, int zero, int rounds)
{
    for (int round = 0; round < rounds; round++) {
        float stored = phi_round_to(t->scale_dtype, scale);
        if (!is_usable(stored)) {
            return;
        }
        double error = error_of(t, stored, zero);
        if (error < t->error) {
            t->error = error;
            t->scale = stored;
            t->zero = zero;
        } else if (round > 0) {
            return;
        }
        scale = fit_scale(t, stored, zero);
    }
}

/* Zero has to be a code: the range is widened to hold it. */
static void search_zero(trial *t, bool thorough)
{
    float low = 0.0F;
    float high = 0.0F;
    for (size_t i = 0; i < t->n; i++) {
        low = t->x[i] < low ? t->x[i] : low;
        high = t->x[i] > high ? t->x[i] : high;
    }
    float range = high - low;
    for (int i = 0; i < (thorough ? SPANS : 1); i++) {
        float share = thorough ? SPAN_FIRST + SPAN_STEP * (float)i : 1.0F;
        float scale = phi_round_to(t->scale_dtype, range * share / (float)t->q_max);
        if (!is_usable(scale)) {
            continue;
        }
        /* The clipped share is cut off both ends alike. */
        float begin = low + 0.5F * range * (1.0F - share);
        int zero = (int)rintf(-begin / scale);
        for (int z = zero - thorough; z <= zero + thorough; z++) {
            try_scale(t, scale, z < 0 ? 0 : z > t->q_max ? t->q_max : z, thorough ? REFINE_MAX : 1);
        }
    }
}

static void search_centre(trial *t, bool thorough)
{
    float peak = 0.0F;
    for (size_t i = 0; i < t->n; i++) {
        peak = fabsf(t->x[i]) > fabsf(peak) ? t->x[i] : peak;
    }
    int centre = (t->q_max + 1) / 2;
    /* The lowest code takes the peak, whatever its sign; or both sides go equally far. */
    try_scale(t, peak / (float)-centre, centre, 1);
    try_scale(t, peak / (float)(centre - 1), centre, 1);
    for (int i = 0; i < SPANS && thorough; i++) {
        float share = SPAN_FIRST + SPAN_STEP * (float)i;
        try_scale(t, peak * share / (float)-centre, centre, REFINE_MAX);
        try_scale(t, peak * share / (float)(centre - 1), centre, REFINE_MAX);
    }
}

static bool from_fit(const phi_group_fit *fit, bool real, size_t n, uint8_t *codes, float *scale,
                     float *zero)
{
    memcpy(codes, fit->codes, n);
    *scale = phi_half_to_float(fit->d);
    if (real) {
        *zero = phi_half_to_float(fit->m);
    }
    return isfinite(*scale) && (!real || isfinite(*zero));
}

static double encode_real(const float *x, size_t n, int q_max, float scale, float offset,
                          uint8_t *codes)
{
    double error = 0.0;
    for (size_t i = 0; i < n; i++) {
        float code = is_usable(scale) ? rintf((x[i] - offset) / scale) : 0.0F;
        code = code < 0 ? 0 : code > (float)q_max ? (float)q_max : code;
        double difference = (double)x[i] - (double)(scale * code + offset);
        error += difference * difference;
        codes[i] = (uint8_t)code;
    }
    return error;
}

/* Between the extremes, or, of 4 bits, a little less; offset and scale as they are stored. */
static bool code_real(const phi_code_target *target, const float *x, size_t n, uint8_t *codes,
                      float *scale, float *zero)
{
    float low = x[0];
    float high = x[0];
    int q_max = (1 << target->bits) - 1;
    double best = DBL_MAX;
    for (size_t i = 1; i < n; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    for (int i = 0; i < (target->bits == 4 ? SPANS : 1); i++) {
        float cut = 0.5F * SPAN_STEP * (float)i * (high - low);
        float s = phi_round_to(target->scale_dtype, (high - low - 2 * cut) / (float)q_max);
        float m = phi_round_to(target->scale_dtype, low + cut);
        double error = encode_real(x, n, q_max, s, m, codes);
        if (error < best) {
            best = error;
            *scale = s;
            *zero = m;
        }
    }
    (void)encode_real(x, n, q_max, *scale, *zero, codes);
    return best < DBL_MAX && isfinite(*scale) && isfinite(*zero);
}

/* So small that no scale of its type has a finite inverse. */
static bool is_tiny(const trial *t)
{
    for (size_t i = 0; i < t->n; i++) {
        if (fabsf(t->x[i]) > 1e-4F) {
            return false;
        }
    }
    return true;
}

bool phi_group_encode(const phi_code_target *target, const float *x, size_t n, uint8_t *codes,
                      float *scale, float *zero)
{
    bool thorough = target->bits == 4;
    bool searched = thorough && n <= PHI_GROUP_MAX && n % PHI_BLOCK_ELEMENTS == 0;
    phi_group_fit fit;
    /* Which is for offsets that are there. */
    PHI_ASSERT(target->zero_rule != PHI_ZERO_FLOAT);
    for (size_t i = 0; i < n; i++) {
        if (!(fabsf(x[i]) < FLT_MAX / 4)) {
            return false;
        }
    }
    /* The searches round to fp16, whose values fp32 has too. */
    if (searched && target->scale_dtype != PHI_DTYPE_BF16 &&
        target->zero_rule != PHI_ZERO_INTEGER) {
        bool real = target->zero_rule == PHI_ZERO_REAL;
        if (real) {
            phi_fit_search_offset(4, x, n, &fit);
        } else {
            phi_fit_search_symmetric(4, x, n, &fit);
        }
        return from_fit(&fit, real, n, codes, scale, zero);
    }
    if (target->zero_rule == PHI_ZERO_REAL) {
        return code_real(target, x, n, codes, scale, zero);
    }
    trial t = {.x = x,
               .n = n,
               .q_max = (1 << target->bits) - 1,
               .scale_dtype = target->scale_dtype,
               .error = DBL_MAX};
    t.zero = (t.q_max + 1) / 2;
    if (target->zero_rule == PHI_ZERO_CENTRE) {
        search_centre(&t, thorough);
    } else {
        search_zero(&t, thorough);
    }
    if (t.error == DBL_MAX && !is_tiny(&t)) {
        return false;
    }
    /* All zeros, or nearly: scale 0 and the zero point everywhere. */
    float inverse = is_usable(t.scale) ? 1.0F / t.scale : 0.0F;
    for (size_t i = 0; i < n; i++) {
        codes[i] = (uint8_t)code_of(&t, inverse, t.zero, x[i]);
    }
    *scale = t.scale;
    if (target->zero_rule == PHI_ZERO_INTEGER) {
        *zero = (float)t.zero;
    }
    return true;
}
