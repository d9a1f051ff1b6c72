#include "engine/quant/scale_search.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/assert.h"
#include "engine/quant/rounding.h"
#include "engine/tensor/dtype.h"
#include "engine/tensor/half.h"

/* Four sums side by side, in the compiler's own vectors (GCC's and clang's extension): it does not
 * reorder float sums by itself. The order of additions is part of the code, and the result
 * therefore the same on every machine. */
#define LANES 4
typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t lane_mask __attribute__((vector_size(LANES * sizeof(int32_t))));

/* Rounds of encoding and fitting after the grid; most groups settle in two or three. */
#define REFINE_MAX 8

/* 0 for a scale so small that it has no finite inverse: its group is all zeros in fp16 anyway. */
static float safe_inverse(float d)
{
    float inverse = 1.0F / d;
    return isfinite(inverse) ? inverse : 0.0F;
}

static inline lanes spread(float v)
{
    return (lanes){v, v, v, v};
}

static inline lanes pick(lane_mask mask, lanes where_set, lanes where_clear)
{
    return (lanes)((mask & (lane_mask)where_set) | (~mask & (lane_mask)where_clear));
}

static inline float sum_lanes(lanes v)
{
    return (v[0] + v[2]) + (v[1] + v[3]);
}

/* The value of largest magnitude, with its sign; the first of equals. */
static float signed_peak(const float *x, size_t n)
{
    float peak = 0.0F;
    float magnitude = 0.0F;
    for (size_t i = 0; i < n; i++) {
        if (fabsf(x[i]) > magnitude) {
            magnitude = fabsf(x[i]);
            peak = x[i];
        }
    }
    return peak;
}

static void extent(const float *x, size_t n, float *out_min, float *out_max)
{
    float low = x[0];
    float high = x[0];
    for (size_t i = 1; i < n; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    *out_min = low;
    *out_max = high;
}

/* The error that the fit's codes leave, exactly as a reader will decode them. */
static double fit_error(const float *x, size_t n, const phi_group_fit *fit, int zero)
{
    float d = phi_half_to_float(fit->d);
    float m = phi_half_to_float(fit->m);
    double error = 0.0;
    for (size_t i = 0; i < n; i++) {
        double difference = (double)x[i] - (double)(d * (float)(fit->codes[i] - zero) + m);
        error += difference * difference;
    }
    return error;
}

void phi_fit_plain_symmetric(unsigned bits, const float *x, size_t n, phi_group_fit *out_fit)
{
    int zero = 1 << (bits - 1);
    int top = 2 * zero - 1;
    float d = signed_peak(x, n) / (float)-zero;
    float inverse = safe_inverse(d);
    out_fit->d = phi_half_of_float(d);
    out_fit->m = 0;
    for (size_t i = 0; i < n; i++) {
        int code = (int)(x[i] * inverse + ((float)zero + 0.5F));
        out_fit->codes[i] = (uint8_t)(code > top ? top : code);
    }
    out_fit->error = fit_error(x, n, out_fit, zero);
}

void phi_fit_plain_offset(unsigned bits, const float *x, size_t n, phi_group_fit *out_fit)
{
    int top = (1 << bits) - 1;
    float low = 0.0F;
    float high = 0.0F;
    extent(x, n, &low, &high);
    float d = (high - low) / (float)top;
    float inverse = safe_inverse(d);
    out_fit->d = phi_half_of_float(d);
    out_fit->m = phi_half_of_float(low);
    for (size_t i = 0; i < n; i++) {
        int code = (int)((x[i] - low) * inverse + 0.5F);
        out_fit->codes[i] = (uint8_t)(code > top ? top : code);
    }
    out_fit->error = fit_error(x, n, out_fit, 0);
}

/* The least and the largest code of a kind. */
typedef struct code_range {
    float low;
    float high;
} code_range;

static code_range symmetric_range(unsigned bits)
{
    float zero = (float)(1 << (bits - 1));
    return (code_range){-zero, zero - 1.0F};
}

static code_range offset_range(unsigned bits)
{
    return (code_range){0.0F, (float)((1 << bits) - 1)};
}

/* Sums over a group under trial codes l = clamp(nearest((x - origin) * inverse), low, high). */
typedef struct code_sums {
    float l;  /* sum of codes */
    float ll; /* of their squares */
    float xl; /* of codes times values */
} code_sums;

static code_sums sum_codes(const float *x, size_t n, float origin, float inverse, code_range range)
{
    lanes low_lanes = spread(range.low);
    lanes high_lanes = spread(range.high);
    lanes l = spread(0.0F);
    lanes ll = spread(0.0F);
    lanes xl = spread(0.0F);
    for (size_t i = 0; i < n; i += LANES) {
        lanes value;
        memcpy(&value, x + i, sizeof value);
        lanes code = (value - origin) * inverse;
        code = pick(code < low_lanes, low_lanes, code);
        code = pick(code > high_lanes, high_lanes, code);
        code = (code + PHI_ROUNDER) - PHI_ROUNDER;
        l += code;
        ll += code * code;
        xl += code * value;
    }
    return (code_sums){sum_lanes(l), sum_lanes(ll), sum_lanes(xl)};
}

/* Fills the codes for the fit's own d and m. */
static void encode_codes(const float *x, size_t n, code_range range, phi_group_fit *fit)
{
    float m = phi_half_to_float(fit->m);
    float inverse = 1.0F / phi_half_to_float(fit->d);
    int zero = (int)-range.low;
    for (size_t i = 0; i < n; i++) {
        fit->codes[i] =
            (uint8_t)((int)phi_nearest(phi_clampf((x[i] - m) * inverse, range.low, range.high)) +
                      zero);
    }
    fit->error = fit_error(x, n, fit, zero);
}

/* fp16 holds it, and its inverse is a float: what encode_codes needs. */
static bool scale_is_usable(uint16_t d)
{
    float value = phi_half_to_float(d);
    return value != 0.0F && isfinite(value);
}

static void refine_symmetric(const float *x, size_t n, code_range range, float d,
                             phi_group_fit *best)
{
    phi_group_fit trial = {0};
    for (int round = 0; round < REFINE_MAX; round++) {
        uint16_t stored = phi_half_of_float(d);
        if (!scale_is_usable(stored) || (round > 0 && stored == trial.d)) {
            return;
        }
        trial.d = stored;
        encode_codes(x, n, range, &trial);
        if (trial.error < best->error) {
            *best = trial;
        }
        code_sums sums = sum_codes(x, n, 0.0F, 1.0F / phi_half_to_float(stored), range);
        if (sums.ll <= 0.0F) {
            return;
        }
        d = sums.xl / sums.ll;
    }
}

void phi_fit_search_symmetric(unsigned bits, const float *x, size_t n, phi_group_fit *out_fit)
{
    PHI_ASSERT(n <= PHI_GROUP_MAX && n % PHI_BLOCK_ELEMENTS == 0);
    const code_range range = symmetric_range(bits);
    phi_fit_plain_symmetric(bits, x, n, out_fit);
    float peak = signed_peak(x, n);
    float unit = 1.0F / peak;
    if (peak == 0.0F || !isfinite(unit)) {
        return;
    }
    /* The peak lands on code -t: with 4 bits from 6.25, wider than the codes need, to 10.75, where
     * what lies beyond 3/4 of the peak is clipped; on either side, as the codes reach to -8 but
     * only to 7. */
    float best_gain = 0.0F;
    float best_d = 0.0F;
    for (int sign = -1; sign <= 1; sign += 2) {
        for (int step = 0; step <= 18; step++) {
            float inverse = (float)sign * (-range.low - 1.75F + 0.25F * (float)step) * unit;
            code_sums sums = sum_codes(x, n, 0.0F, inverse, range);
            /* The error left by d = xl / ll is sum(x^2) - xl^2 / ll. */
            float gain = sums.ll > 0.0F ? sums.xl * (sums.xl / sums.ll) : 0.0F;
            if (gain > best_gain) {
                best_gain = gain;
                best_d = sums.xl / sums.ll;
            }
        }
    }
    refine_symmetric(x, n, range, best_d, out_fit);
}

/* Least squares of x on the codes: x ~ d * l + m. */
static bool solve_offset(const code_sums *sums, float sum_x, float n, float *out_d, float *out_m)
{
    float spread = sums->ll - sums->l * (sums->l / n);
    if (spread <= 0.0F) {
        return false;
    }
    *out_d = (sums->xl - sum_x * (sums->l / n)) / spread;
    *out_m = (sum_x - *out_d * sums->l) / n;
    return true;
}

/* `x` are the group's values, d and m a first fit to them. */
static void refine_offset(const float *x, size_t n, code_range range, float d, float m,
                          phi_group_fit *best)
{
    float sum_x = 0.0F;
    for (size_t i = 0; i < n; i++) {
        sum_x += x[i];
    }
    phi_group_fit trial = {0};
    for (int round = 0; round < REFINE_MAX; round++) {
        uint16_t stored_d = phi_half_of_float(d);
        uint16_t stored_m = phi_half_of_float(m);
        bool settled = round > 0 && stored_d == trial.d && stored_m == trial.m;
        if (!scale_is_usable(stored_d) || !isfinite(phi_half_to_float(stored_m)) || settled) {
            return;
        }
        trial.d = stored_d;
        trial.m = stored_m;
        encode_codes(x, n, range, &trial);
        if (trial.error < best->error) {
            *best = trial;
        }
        code_sums sums =
            sum_codes(x, n, phi_half_to_float(stored_m), 1.0F / phi_half_to_float(stored_d), range);
        if (!solve_offset(&sums, sum_x, (float)n, &d, &m)) {
            return;
        }
        /* The offset that suits the scale as it will be stored. */
        m = (sum_x - phi_half_to_float(phi_half_of_float(d)) * sums.l) / (float)n;
    }
}

void phi_fit_search_offset(unsigned bits, const float *x, size_t n, phi_group_fit *out_fit)
{
    PHI_ASSERT(n <= PHI_GROUP_MAX && n % PHI_BLOCK_ELEMENTS == 0);
    const code_range codes = offset_range(bits);
    phi_fit_plain_offset(bits, x, n, out_fit);
    float low = 0.0F;
    float high = 0.0F;
    extent(x, n, &low, &high);
    float range = high - low;
    if (!(range > 0.0F) || !isfinite(1.0F / range)) {
        return;
    }
    /* Around the middle, sums do not cancel. */
    float middle = low + 0.5F * range;
    float centred[PHI_GROUP_MAX];
    float sum_x = 0.0F;
    for (size_t i = 0; i < n; i++) {
        centred[i] = x[i] - middle;
        sum_x += centred[i];
    }
    /* The codes span from 0.7 to 1.1 of the range, and lie up to a fifth of the rest off centre. */
    float best_gain = 0.0F;
    float best_d = 0.0F;
    float best_m = 0.0F;
    for (int step = 0; step <= 16; step++) {
        float span = range * (0.7F + 0.025F * (float)step);
        for (int shift = -1; shift <= 1; shift++) {
            float origin = -0.5F * span + (float)shift * (0.33F / codes.high) * span;
            code_sums sums = sum_codes(centred, n, origin, codes.high / span, codes);
            float d = 0.0F;
            float m = 0.0F;
            if (!solve_offset(&sums, sum_x, (float)n, &d, &m)) {
                continue;
            }
            float gain = d * (sums.xl - sum_x * (sums.l / (float)n));
            if (gain > best_gain) {
                best_gain = gain;
                best_d = d;
                best_m = m;
            }
        }
    }
    if (best_gain > 0.0F) {
        refine_offset(x, n, codes, best_d, best_m + middle, out_fit);
    }
}
