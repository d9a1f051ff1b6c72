/*
 * Purpose: cosines and sines of the rotary embedding, plain and LongRoPE.
 * Owns:    phi_rope owns its frequency tables.
 * Threads: read-only after init: [any].
 * Errors:  only init can fail, for memory.
 * Limits:  none.
 *
 * Sources: Su et al., arXiv:2104.09864; LongRoPE: Ding et al., arXiv:2402.13753, as computed by
 * transformers/modeling_rope_utils.py (_compute_longrope_parameters): frequencies and their product
 * with the position in float32, cos and sin times the attention factor in both regimes.
 */
#ifndef PHI_ENGINE_MODEL_ROPE_H
#define PHI_ENGINE_MODEL_ROPE_H

#include "base/status.h"
#include "engine/formats/description.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct phi_rope {
    uint32_t half;      /* n_rot / 2 */
    float short_factor; /* what cos and sin are multiplied by */
    float long_factor;
    float *short_freq; /* [half]; the only table of a plain model */
    float *long_freq;  /* [half] */
} phi_rope;

phi_status phi_rope_init(phi_rope *rope, const phi_description *description,
                         phi_err *err) PHI_MUST_CHECK;
void phi_rope_done(phi_rope *rope);
/* cos_row, sin_row: [half] */
void phi_rope_angles(const phi_rope *rope, bool use_long, uint32_t position, float *cos_row,
                     float *sin_row);

#endif
