/* Q4_K and Q5_K: 8 groups of 32 with x ~ d scale q - dmin min, scales and mins of 6 bits. */
#include "engine/quant/encode_blocks.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "engine/quant/rounding.h"
#include "engine/quant/scale_search.h"
#include "engine/tensor/half.h"

#define GROUPS 8
#define GROUP 32
#define SCALE_MAX 63.0F
/* Rounds over a block, and over one of its groups; most settle in two or three. */
#define BLOCK_ROUNDS 4
#define GROUP_ROUNDS 4

typedef struct kblock {
    float top; /* the largest code */
    uint16_t d;
    uint16_t dmin;
    uint8_t scales[GROUPS];
    uint8_t mins[GROUPS];
    uint8_t codes[GROUPS * GROUP];
    double errors[GROUPS]; /* squared, of each group as it will be read */
} kblock;

static uint8_t round_code(float v, float top)
{
    return (uint8_t)phi_nearest(phi_clampf(v, 0.0F, top));
}

/* ---- as the reference does it ---- */

/* The trial scales of make_qkx2_quants: (first + step / 10 + top) codes to the group's extent. */
typedef struct trials {
    float top;
    float first;
    int steps;
} trials;

/* Weighted sums over a group, for the least squares of x on its codes. */
typedef struct weighted {
    float w;
    float x;
    float l;
    float ll;
    float xl;
} weighted;

static float weighted_error(const float *x, const float *weights, const uint8_t *codes, float scale,
                            float low)
{
    float error = 0;
    for (int i = 0; i < GROUP; i++) {
        float difference = scale * (float)codes[i] + low - x[i];
        error += weights[i] * (difference * difference);
    }
    return error;
}

static void sum_weighted(const float *x, const float *weights, const uint8_t *codes, weighted *sums)
{
    sums->l = 0;
    sums->ll = 0;
    sums->xl = 0;
    for (int i = 0; i < GROUP; i++) {
        float l = (float)codes[i];
        sums->l += weights[i] * l;
        sums->ll += weights[i] * l * l;
        sums->xl += weights[i] * l * x[i];
    }
}

/* One trial: false where its codes do not say a scale. */
static bool solve_weighted(const weighted *sums, float *out_scale, float *out_low)
{
    float determinant = sums->w * sums->ll - sums->l * sums->l;
    if (!(determinant > 0)) {
        return false;
    }
    *out_scale = (sums->w * sums->xl - sums->x * sums->l) / determinant;
    *out_low = (sums->ll * sums->x - sums->l * sums->xl) / determinant;
    if (*out_low > 0) {
        *out_low = 0;
        *out_scale = sums->xl / sums->ll;
    }
    return true;
}

static void code_group(const float *x, float inverse, float low, float top, uint8_t *codes)
{
    for (int i = 0; i < GROUP; i++) {
        codes[i] = round_code(inverse * (x[i] - low), top);
    }
}

/* make_qkx2_quants: x ~ scale * code - min; returns the scale. */
static float fit_group(const float *x, const float *weights, const trials *t, uint8_t *codes,
                       float *out_min)
{
    float low = x[0];
    float high = x[0];
    weighted sums = {.w = weights[0], .x = weights[0] * x[0]};
    for (int i = 1; i < GROUP; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
        sums.w += weights[i];
        sums.x += weights[i] * x[i];
    }
    low = low > 0 ? 0 : low;
    if (high == low) {
        memset(codes, 0, GROUP);
        *out_min = -low;
        return 0;
    }
    float inverse = t->top / (high - low);
    float scale = 1 / inverse;
    code_group(x, inverse, low, t->top, codes);
    float best = weighted_error(x, weights, codes, scale, low);
    for (int step = 0; step <= t->steps; step++) {
        uint8_t trial[GROUP];
        float trial_scale;
        float trial_low;
        inverse = (t->first + 0.1F * (float)step + t->top) / (high - low);
        code_group(x, inverse, low, t->top, trial);
        sum_weighted(x, weights, trial, &sums);
        if (!solve_weighted(&sums, &trial_scale, &trial_low)) {
            continue;
        }
        float error = weighted_error(x, weights, trial, trial_scale, trial_low);
        if (error < best) {
            memcpy(codes, trial, sizeof trial);
            best = error;
            scale = trial_scale;
            low = trial_low;
        }
    }
    *out_min = -low;
    return scale;
}

/* Codes of a group for the scale and min that are stored; where the scale is 0 they stay. */
static void code_stored(const float *x, kblock *b, size_t g)
{
    float scale = phi_half_to_float(b->d) * (float)b->scales[g];
    float min = phi_half_to_float(b->dmin) * (float)b->mins[g];
    for (size_t i = 0; scale != 0 && i < GROUP; i++) {
        b->codes[g * GROUP + i] = round_code((x[g * GROUP + i] + min) / scale, b->top);
    }
}

static void set_error(const float *x, kblock *b, size_t g)
{
    float scale = phi_half_to_float(b->d) * (float)b->scales[g];
    float offset = -(phi_half_to_float(b->dmin) * (float)b->mins[g]);
    double error = 0;
    for (size_t i = g * GROUP; i < (g + 1) * GROUP; i++) {
        double difference = (double)(scale * (float)b->codes[i] + offset) - (double)x[i];
        error += difference * difference;
    }
    b->errors[g] = error;
}

static double block_error(const kblock *b)
{
    double error = 0;
    for (size_t g = 0; g < GROUPS; g++) {
        error += b->errors[g];
    }
    return error;
}

/* A block of groups with these scales and mins, of which the largest get 63; codes are there
 * already, for groups whose stored scale is 0. */
static void encode_with(const float *x, const float scales[GROUPS], const float mins[GROUPS],
                        kblock *b)
{
    float scale_max = 0;
    float min_max = 0;
    for (size_t g = 0; g < GROUPS; g++) {
        scale_max = scales[g] > scale_max ? scales[g] : scale_max;
        min_max = mins[g] > min_max ? mins[g] : min_max;
    }
    float scale_inverse = scale_max > 0 ? SCALE_MAX / scale_max : 0;
    float min_inverse = min_max > 0 ? SCALE_MAX / min_max : 0;
    b->d = phi_half_of_float(scale_max / SCALE_MAX);
    b->dmin = phi_half_of_float(min_max / SCALE_MAX);
    for (size_t g = 0; g < GROUPS; g++) {
        b->scales[g] = round_code(scale_inverse * scales[g], SCALE_MAX);
        b->mins[g] = round_code(min_inverse * mins[g], SCALE_MAX);
        code_stored(x, b, g);
        set_error(x, b, g);
    }
}

static void encode_plain(const float *x, const trials *t, kblock *b)
{
    float scales[GROUPS];
    float mins[GROUPS];
    for (size_t g = 0; g < GROUPS; g++) {
        const float *group = x + g * GROUP;
        float weights[GROUP];
        float squares = 0;
        for (int i = 0; i < GROUP; i++) {
            squares += group[i] * group[i];
        }
        float typical = sqrtf(squares / GROUP);
        for (int i = 0; i < GROUP; i++) {
            weights[i] = typical + fabsf(group[i]);
        }
        scales[g] = fit_group(group, weights, t, b->codes + g * GROUP, &mins[g]);
    }
    b->top = t->top;
    encode_with(x, scales, mins, b);
}

/* ---- the search ---- */

typedef struct group_sums {
    float x;
    float l;
    float ll;
    float xl;
} group_sums;

static group_sums sum_group(const float *x, const uint8_t *codes)
{
    int l = 0;
    int ll = 0;
    group_sums sums = {0};
    for (int i = 0; i < GROUP; i++) {
        l += codes[i];
        ll += codes[i] * codes[i];
        sums.x += x[i];
        sums.xl += x[i] * (float)codes[i];
    }
    sums.l = (float)l;
    sums.ll = (float)ll;
    return sums;
}

/* The squared error, less the sum of x^2, with scale s and min m. */
static float error_with(const group_sums *sums, float s, float m)
{
    return s * (s * sums->ll - 2 * (sums->xl + m * sums->l)) + m * (m * GROUP + 2 * sums->x);
}

/* The scale and min of 6 bits that suit a group's codes best. */
static void suit_group(const float *x, kblock *b, size_t g)
{
    const float d = phi_half_to_float(b->d);
    const float dmin = phi_half_to_float(b->dmin);
    group_sums sums = sum_group(x + g * GROUP, b->codes + g * GROUP);
    float spread = GROUP * sums.ll - sums.l * sums.l;
    float at = spread > 0 ? (GROUP * sums.xl - sums.x * sums.l) / spread / d : b->scales[g];
    float best = error_with(&sums, d * (float)b->scales[g], dmin * (float)b->mins[g]);
    float first = phi_clampf(floorf(at) - 1, 0, SCALE_MAX);
    for (int step = 0; step < 4; step++) {
        float scale = phi_clampf(first + (float)step, 0, SCALE_MAX);
        float min = dmin > 0 ? (d * scale * sums.l - sums.x) / GROUP / dmin : 0;
        min = phi_nearest(phi_clampf(min, 0, SCALE_MAX));
        float error = error_with(&sums, d * scale, dmin * min);
        if (error < best) {
            best = error;
            b->scales[g] = (uint8_t)scale;
            b->mins[g] = (uint8_t)min;
        }
    }
}

static void refine_group(const float *x, kblock *b, size_t g)
{
    kblock trial = *b;
    for (int round = 0; round < GROUP_ROUNDS; round++) {
        suit_group(x, &trial, g);
        code_stored(x, &trial, g);
        set_error(x, &trial, g);
        if (!(trial.errors[g] < b->errors[g])) {
            return;
        }
        b->scales[g] = trial.scales[g];
        b->mins[g] = trial.mins[g];
        memcpy(b->codes + g * GROUP, trial.codes + g * GROUP, GROUP);
        b->errors[g] = trial.errors[g];
    }
}

/* Least squares of d and dmin on all groups' codes, scales and mins. */
static bool suit_block(const float *x, const kblock *b, float *out_d, float *out_dmin)
{
    double ss = 0;
    double sm = 0;
    double mm = 0;
    double xs = 0;
    double xm = 0;
    for (size_t g = 0; g < GROUPS; g++) {
        group_sums sums = sum_group(x + g * GROUP, b->codes + g * GROUP);
        double scale = b->scales[g];
        double min = b->mins[g];
        ss += scale * scale * (double)sums.ll;
        sm += scale * min * (double)sums.l;
        mm += min * min * GROUP;
        xs += scale * (double)sums.xl;
        xm += min * (double)sums.x;
    }
    double determinant = ss * mm - sm * sm;
    if (determinant > 1e-9 * ss * mm) {
        *out_d = (float)((xs * mm - xm * sm) / determinant);
        *out_dmin = (float)((xs * sm - xm * ss) / determinant);
    } else if (ss > 0 && mm == 0) {
        *out_d = (float)(xs / ss);
        *out_dmin = 0;
    } else {
        return false;
    }
    return *out_d > 0 && *out_dmin >= 0;
}

static bool scale_is_usable(uint16_t d)
{
    float value = phi_half_to_float(d);
    return value > 0 && isfinite(value) && isfinite(1 / value);
}

static void refine(const float *x, kblock *b)
{
    if (!scale_is_usable(b->d)) {
        return;
    }
    for (int round = 0; round < BLOCK_ROUNDS; round++) {
        for (size_t g = 0; g < GROUPS; g++) {
            refine_group(x, b, g);
        }
        kblock trial = *b;
        float d;
        float dmin;
        if (!suit_block(x, b, &d, &dmin)) {
            return;
        }
        trial.d = phi_half_of_float(d);
        trial.dmin = phi_half_of_float(dmin);
        bool settled = trial.d == b->d && trial.dmin == b->dmin;
        if (settled || !scale_is_usable(trial.d) || !isfinite(phi_half_to_float(trial.dmin))) {
            return;
        }
        for (size_t g = 0; g < GROUPS; g++) {
            code_stored(x, &trial, g);
            set_error(x, &trial, g);
            refine_group(x, &trial, g);
        }
        if (!(block_error(&trial) < block_error(b))) {
            return;
        }
        *b = trial;
    }
}

/* Groups by themselves, of least squared error; what has no min is left as it is in the block. */
static void encode_searched(const float *x, unsigned bits, kblock *b)
{
    float scales[GROUPS];
    float mins[GROUPS];
    for (size_t g = 0; g < GROUPS; g++) {
        phi_group_fit fit;
        phi_fit_search_offset(bits, x + g * GROUP, GROUP, &fit);
        scales[g] = phi_half_to_float(fit.d);
        mins[g] = -phi_half_to_float(fit.m);
        if (!(scales[g] > 0 && mins[g] >= 0)) {
            scales[g] = phi_half_to_float(b->d) * (float)b->scales[g];
            mins[g] = phi_half_to_float(b->dmin) * (float)b->mins[g];
        }
    }
    encode_with(x, scales, mins, b);
}

/* ---- blocks ---- */

static bool encode(const float *x, const trials *t, bool search, kblock *b)
{
    encode_plain(x, t, b);
    if (search) {
        kblock other = *b;
        encode_searched(x, t->top > 15.0F ? 5 : 4, &other);
        refine(x, &other);
        refine(x, b);
        if (block_error(&other) < block_error(b)) {
            *b = other;
        }
    }
    return isfinite(phi_half_to_float(b->d)) && isfinite(phi_half_to_float(b->dmin));
}

static void pack_scales(const kblock *b, uint8_t scales[12])
{
    memset(scales, 0, 12);
    for (unsigned g = 0; g < GROUPS; g++) {
        phi_kscale_set(scales, g, b->scales[g], b->mins[g]);
    }
}

/* Groups in pairs: the first in the low nibbles. */
static void pack_nibbles(const kblock *b, uint8_t nibbles[128])
{
    for (size_t i = 0; i < 128; i++) {
        const uint8_t *pair = b->codes + i / GROUP * 2 * GROUP + i % GROUP;
        nibbles[i] = (uint8_t)((pair[0] & 15) | (pair[GROUP] & 15) << 4);
    }
}

bool phi_encode_q4_k(const float x[256], bool search, phi_block_q4_k *out_block)
{
    static const trials q4 = {15.0F, -1.0F, 20};
    kblock b;
    bool fits = encode(x, &q4, search, &b);
    *out_block = (phi_block_q4_k){.d = b.d, .dmin = b.dmin};
    pack_scales(&b, out_block->scales);
    pack_nibbles(&b, out_block->nibbles);
    return fits;
}

bool phi_encode_q5_k(const float x[256], bool search, phi_block_q5_k *out_block)
{
    static const trials q5 = {31.0F, -0.5F, 15};
    kblock b;
    bool fits = encode(x, &q5, search, &b);
    *out_block = (phi_block_q5_k){.d = b.d, .dmin = b.dmin};
    pack_scales(&b, out_block->scales);
    pack_nibbles(&b, out_block->nibbles);
    for (int i = 0; i < GROUPS * GROUP; i++) {
        uint8_t *fifths = &out_block->fifths[i % GROUP];
        *fifths = (uint8_t)(*fifths | (b.codes[i] >> 4) << i / GROUP);
    }
    return fits;
}
