/*
 * Purpose: models without a file, to measure with: the dimensions of Microsoft's checkpoints and
 *          weights of pseudo-random numbers. Speed depends on shapes and kinds, not on values.
 * Owns:    nothing: the weights made are the caller's.
 * Threads: [job]; filling runs on the team.
 * Errors:  an unknown name is answered with those that there are; PHI_E_NO_MEMORY.
 * Limits:  the table in synthetic.c. LongRoPE's factors are all 1: they cost what any others would.
 */
#ifndef PHI_ENGINE_BENCH_SYNTHETIC_H
#define PHI_ENGINE_BENCH_SYNTHETIC_H

#include "base/status.h"
#include "engine/kernels/matmul.h"
#include "engine/model/weights.h"

#include <stdbool.h>
#include <stdint.h>

/* Types of the matrices, as the quantizer writes them for a precision. */
typedef struct phi_synthetic_types {
    phi_dtype layers;
    phi_dtype ends; /* embedding and head */
} phi_synthetic_types;

/* "phi-3-mini"; `n_layer` 0: all that the model has. */
phi_status phi_synthetic_describe(const char *name, uint32_t n_layer,
                                  phi_description *out_description, phi_err *err) PHI_MUST_CHECK;
/* "int4", "int8", "fp16", "bf16", "fp32". */
phi_status phi_synthetic_types_of(const char *precision, phi_synthetic_types *out_types,
                                  phi_err *err) PHI_MUST_CHECK;
/* Bytes of the tensors, as a file would hold them. */
uint64_t phi_synthetic_bytes(const phi_description *description, const phi_synthetic_types *types);
/* The same weights each time. `progress` as phi_weights_load's. */
phi_status phi_synthetic_weights(const phi_compute *compute, const phi_description *description,
                                 const phi_synthetic_types *types, phi_load_progress progress,
                                 void *user, phi_weights **out_weights,
                                 phi_err *err) PHI_MUST_CHECK;

#endif
