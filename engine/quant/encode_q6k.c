/* Q6_K: 16 groups of 16 with x ~ d scale (q - 32), scales of 8 bits. */
#include "engine/quant/encode_blocks.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "engine/quant/rounding.h"
#include "engine/tensor/half.h"

#define GROUPS 16
#define GROUP 16
#define ROUNDS 3
/* What the reference takes for zero. */
#define EPSILON 1e-15F

typedef struct kblock {
    uint16_t d;
    int8_t scales[GROUPS];
    int8_t codes[GROUPS * GROUP]; /* -32..31 */
    double errors[GROUPS];
} kblock;

static float code_of(float v)
{
    return phi_nearest(phi_clampf(v, -32.0F, 31.0F));
}

/* make_qx_quants with weights x^2: the scale, and the codes it is fitted to. */
static float fit_group(const float *x, int8_t *codes)
{
    float peak = 0;
    float magnitude = 0;
    for (int i = 0; i < GROUP; i++) {
        if (fabsf(x[i]) > magnitude) {
            magnitude = fabsf(x[i]);
            peak = x[i];
        }
    }
    memset(codes, 0, GROUP);
    if (magnitude < EPSILON) {
        return 0;
    }
    float scale = 0;
    float best = 0;
    /* The plain scale first, then those around it. */
    for (int trial = 0; trial < 19; trial++) {
        int step = trial <= 9 ? trial - 10 : trial - 9;
        float inverse = trial == 0 ? -32.0F / peak : -(32.0F + 0.1F * (float)step) / peak;
        float xl = 0;
        float ll = 0;
        float l[GROUP];
        for (int i = 0; i < GROUP; i++) {
            l[i] = code_of(inverse * x[i]);
            float w = x[i] * x[i];
            xl += w * x[i] * l[i];
            ll += w * l[i] * l[i];
        }
        if (trial == 0 || (ll > 0 && xl * xl > best * ll)) {
            for (int i = 0; i < GROUP; i++) {
                codes[i] = (int8_t)l[i];
            }
            scale = ll != 0 ? xl / ll : 0;
            best = scale * xl;
        }
    }
    return scale;
}

/* Codes of a group for the scale that is stored; where it is 0 they stay. */
static void code_stored(const float *x, kblock *b, size_t g)
{
    float scale = phi_half_to_float(b->d) * (float)b->scales[g];
    for (size_t i = g * GROUP; scale != 0 && i < (g + 1) * GROUP; i++) {
        b->codes[i] = (int8_t)code_of(x[i] / scale);
    }
}

static void set_error(const float *x, kblock *b, size_t g)
{
    float scale = phi_half_to_float(b->d) * (float)b->scales[g];
    double error = 0;
    for (size_t i = g * GROUP; i < (g + 1) * GROUP; i++) {
        double difference = (double)(scale * (float)b->codes[i]) - (double)x[i];
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

/* False for a block that is all zeros to the reference. */
static bool encode_plain(const float *x, kblock *b)
{
    float scales[GROUPS];
    float peak = 0;
    for (size_t g = 0; g < GROUPS; g++) {
        scales[g] = fit_group(x + g * GROUP, b->codes + g * GROUP);
        peak = fabsf(scales[g]) > fabsf(peak) ? scales[g] : peak;
    }
    if (fabsf(peak) < EPSILON) {
        return false;
    }
    float inverse = -128.0F / peak;
    b->d = phi_half_of_float(1 / inverse);
    for (size_t g = 0; g < GROUPS; g++) {
        b->scales[g] = (int8_t)phi_nearest(phi_clampf(inverse * scales[g], -128.0F, 127.0F));
        code_stored(x, b, g);
        set_error(x, b, g);
    }
    return true;
}

/* ---- the search ---- */

/* A group's scale for its codes, and its codes for that, while the error falls. */
static void refine_group(const float *x, kblock *b, size_t g)
{
    kblock trial = *b;
    for (int round = 0; round < ROUNDS; round++) {
        double ll = 0;
        double xl = 0;
        for (size_t i = g * GROUP; i < (g + 1) * GROUP; i++) {
            ll += (double)trial.codes[i] * trial.codes[i];
            xl += (double)x[i] * trial.codes[i];
        }
        double d = (double)phi_half_to_float(b->d);
        if (ll == 0) {
            return;
        }
        float scale = (float)(xl / ll / d);
        trial.scales[g] = (int8_t)phi_nearest(phi_clampf(scale, -128.0F, 127.0F));
        code_stored(x, &trial, g);
        set_error(x, &trial, g);
        if (!(trial.errors[g] < b->errors[g])) {
            return;
        }
        b->scales[g] = trial.scales[g];
        memcpy(b->codes + g * GROUP, trial.codes + g * GROUP, GROUP);
        b->errors[g] = trial.errors[g];
    }
}

/* The d that suits all codes and scales. */
static float suit_block(const float *x, const kblock *b)
{
    double ss = 0;
    double xs = 0;
    for (size_t g = 0; g < GROUPS; g++) {
        for (size_t i = g * GROUP; i < (g + 1) * GROUP; i++) {
            double product = (double)b->scales[g] * b->codes[i];
            ss += product * product;
            xs += product * (double)x[i];
        }
    }
    return ss > 0 ? (float)(xs / ss) : 0;
}

static bool scale_is_usable(uint16_t d)
{
    float value = phi_half_to_float(d);
    return value != 0 && isfinite(value);
}

static void refine(const float *x, kblock *b)
{
    for (int round = 0; round < ROUNDS && scale_is_usable(b->d); round++) {
        for (size_t g = 0; g < GROUPS; g++) {
            refine_group(x, b, g);
        }
        kblock trial = *b;
        trial.d = phi_half_of_float(suit_block(x, b));
        if (trial.d == b->d || !scale_is_usable(trial.d)) {
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

bool phi_encode_q6_k(const float x[256], bool search, phi_block_q6_k *out_block)
{
    kblock b = {0};
    memset(out_block, 0, sizeof *out_block);
    if (!encode_plain(x, &b)) {
        return true;
    }
    if (search) {
        refine(x, &b);
    }
    out_block->d = b.d;
    memcpy(out_block->scales, b.scales, sizeof out_block->scales);
    for (int i = 0; i < GROUPS * GROUP; i++) {
        /* Halves of 128: four planes of 32, whose nibbles are split by 64, pairs of bits by 32. */
        int code = b.codes[i] + 32;
        uint8_t *nibble = &out_block->nibbles[i / 128 * 64 + i % 64];
        uint8_t *pair = &out_block->pairs[i / 128 * 32 + i % 32];
        *nibble = (uint8_t)(*nibble | (code & 15) << (i % 128 < 64 ? 0 : 4));
        *pair = (uint8_t)(*pair | code >> 4 << i % 128 / 32 * 2);
    }
    return isfinite(phi_half_to_float(b.d));
}
