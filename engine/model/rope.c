#include "engine/model/rope.h"

#include "base/mem.h"

#include <math.h>

static void fill(float *freq, const phi_description *description, const float *factors)
{
    uint32_t n_rot = description->n_rot;
    for (uint32_t i = 0; i < n_rot / 2; i++) {
        float exponent = (float)(2 * i) / (float)n_rot;
        float factor = factors ? factors[i] : 1.0F;
        freq[i] = 1.0F / (factor * powf(description->rope_theta, exponent));
    }
}

phi_status phi_rope_init(phi_rope *rope, const phi_description *description, phi_err *err)
{
    uint32_t half = description->n_rot / 2;
    bool is_long = description->rope == PHI_ROPE_LONG;
    phi_rope fresh = {.half = half, .short_factor = 1.0F, .long_factor = 1.0F};
    fresh.short_freq = phi_try_alloc_zero(half, sizeof(float));
    fresh.long_freq = phi_try_alloc_zero(half, sizeof(float));
    if (!fresh.short_freq || !fresh.long_freq) {
        phi_rope_done(&fresh);
        return phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for rotary tables");
    }
    if (is_long) {
        fresh.short_factor = description->rope_attn_factor;
        fresh.long_factor = description->rope_attn_factor_long != 0.0F
                                ? description->rope_attn_factor_long
                                : description->rope_attn_factor;
    }
    fill(fresh.short_freq, description, is_long ? description->rope_short : NULL);
    fill(fresh.long_freq, description, is_long ? description->rope_long : NULL);
    *rope = fresh;
    return PHI_OK;
}

void phi_rope_done(phi_rope *rope)
{
    if (rope) {
        phi_free(rope->short_freq);
        phi_free(rope->long_freq);
        *rope = (phi_rope){0};
    }
}

void phi_rope_angles(const phi_rope *rope, bool use_long, uint32_t position, float *cos_row,
                     float *sin_row)
{
    const float *freq = use_long ? rope->long_freq : rope->short_freq;
    float factor = use_long ? rope->long_factor : rope->short_factor;
    for (uint32_t i = 0; i < rope->half; i++) {
        /* The product rounds to float as the reference's does; its cosine is taken in double, so
         * that large angles are reduced exactly. */
        float angle = (float)position * freq[i];
        cos_row[i] = (float)cos((double)angle) * factor;
        sin_row[i] = (float)sin((double)angle) * factor;
    }
}
