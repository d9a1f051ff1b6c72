/*
 * Purpose: the GGUF type that holds each tensor of a checkpoint as it is, or comes nearest.
 * Owns:    nothing; the caller frees the plan.
 * Threads: [job].
 * Errors:  those of reading scales.
 * Limits:  memory for a plan of each tensor, and for some rows of one.
 *
 * GGUF's own types stay. Codes of up to 4 bits become Q4_0 where all zero points are 8, else Q4_1;
 * wider ones Q8_0 where all are 128. Both take groups of 32 and multiples of it, whose scale is
 * repeated, and scales in fp16: others are rounded, or, where fp16 comes nowhere near, coded anew.
 * So are groups of 16, and 8 bits with zero points.
 */
#ifndef PHI_ENGINE_QUANT_KEPT_H
#define PHI_ENGINE_QUANT_KEPT_H

#include "engine/formats/checkpoint.h"
#include "engine/quant/encode.h"
#include "engine/quant/recode.h"

#include <stdbool.h>

typedef struct phi_kept {
    phi_encoding encoding;
    bool moves;             /* codes are handed over, as `target` has them */
    phi_code_target target; /* of those that move */
    phi_recode_fit fit;     /* of those that move */
} phi_kept;

/* One for each tensor (phi_free). */
phi_status phi_kept_plan(const phi_checkpoint *checkpoint, phi_kept **out_kept,
                         phi_err *err) PHI_MUST_CHECK;

#endif
