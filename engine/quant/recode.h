/*
 * Purpose: rows of a checkpoint's matrix in the codes that a target format holds.
 * Owns:    phi_recode owns its buffers.
 * Threads: one caller; coding anew runs on the team.
 * Errors:  the tensor, row and what is wrong with a value that cannot be coded.
 * Limits:  memory for the rows of one call.
 */
#ifndef PHI_ENGINE_QUANT_RECODE_H
#define PHI_ENGINE_QUANT_RECODE_H

#include "engine/formats/checkpoint.h"
#include "engine/kernels/matmul.h"
#include "engine/quant/group_codes.h"

#include <stdbool.h>
#include <stdint.h>

/* Joined groups have no more columns: no format has larger ones but the row. */
#define PHI_RECODE_GROUP_MAX 256U

/* What a matrix of codes is like, beyond its form. */
typedef struct phi_recode_scan {
    uint32_t group;    /* columns that share a scale and an offset: the form's group, or as many of
                          them as repeat one in every row, up to PHI_RECODE_GROUP_MAX columns */
    bool whole_zeros;  /* every zero point is a code: 0..15, or 0..255 */
    bool centred;      /* and is the middle one */
    bool halves;       /* every scale is one that fp16 has */
    bool half_offsets; /* so is every offset of the unsigned codes, as PHI_ZERO_REAL has it; of a
                          matrix without offsets only where phi_recode_look was given real_bits */
    bool near_halves;  /* fp16 comes close to every scale, */
    bool near_offsets; /* and to every such offset */
} phi_recode_scan;

/* How much of a matrix of codes a target keeps. */
typedef enum phi_recode_fit {
    PHI_FIT_NONE,    /* nothing: it is coded anew from its values */
    PHI_FIT_ROUNDED, /* its codes; scales, and real zeros, are rounded to the target's type */
    PHI_FIT_EXACT,
} phi_recode_fit;

/* Reads the matrix's scales and offsets, of its first row only where that tells all; its form must
 * be INT4 or INT8. real_bits: those of a target with PHI_ZERO_REAL, whose codes may be more than
 * the form's and their offsets larger; 0 for any other target. */
phi_status phi_recode_look(const phi_checkpoint *checkpoint, const phi_tensor *tensor,
                           uint32_t real_bits, phi_recode_scan *out_scan,
                           phi_err *err) PHI_MUST_CHECK;
/* How a matrix of this form, with these zero points and scales, goes into the target. */
phi_recode_fit phi_recode_fits(const phi_form *form, const phi_recode_scan *scan,
                               const phi_code_target *target);
/* For one that does not fit: what the target cannot hold of it, as the end of "tensor X is coded
 * anew: ". */
const char *phi_recode_obstacle(const phi_form *form, const phi_recode_scan *scan,
                                const phi_code_target *target);

typedef struct phi_recode {
    const phi_compute *compute;
    const phi_checkpoint *checkpoint;
    const phi_tensor *tensor;
    phi_code_target target;
    phi_recode_fit fit;
    double error; /* of rows that are not exact: sums of squared differences and of squares */
    double weight;
} phi_recode;

/* As phi_export's read_codes. */
phi_status phi_recode_rows(phi_recode *self, uint32_t row, uint32_t count, uint8_t *codes,
                           float *scales, float *zeros, phi_err *err) PHI_MUST_CHECK;
/* As its read_f32. */
phi_status phi_recode_floats(const phi_checkpoint *checkpoint, const phi_tensor *tensor,
                             uint32_t row, uint32_t count, float *out, phi_err *err) PHI_MUST_CHECK;

#endif
