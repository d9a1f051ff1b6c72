/*
 * Purpose: random numbers and weight matrices for the tests of kernels and the model.
 * Owns:    a made weight is the caller's (phi_weight_done).
 * Threads: one; the generator is a plain state.
 * Errors:  a failed allocation fails the running test.
 * Limits:  none.
 */
#ifndef PHI_TESTS_KERNELS_RANDOM_WEIGHT_H
#define PHI_TESTS_KERNELS_RANDOM_WEIGHT_H

#include "engine/tensor/weight.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The same numbers every run: starts the generator over. */
void random_seed(uint64_t seed);
uint32_t random_u32(void);
/* Uniform in [-size, size]. */
float random_float(float size);
void random_floats(float *out, size_t n, float size);

/* What random_weight makes. */
typedef struct random_kind {
    const char *name;
    phi_weight_kind kind;
    uint32_t group; /* INT kinds: 16, 32, 64, 128 or RANDOM_WHOLE_ROW; 0: the FP kinds */
    bool offsets;
    bool wide;
} random_kind;

/* One group a row, however many columns there are. */
#define RANDOM_WHOLE_ROW UINT32_MAX

/* Every kind, every group size, with and without offsets. */
extern const random_kind random_kinds[];
extern const size_t n_random_kinds;

/* Whether that many columns can be of this kind. */
bool random_kind_fits(const random_kind *kind, uint32_t cols);

/* Values of about +-size; all codes occur, the extreme ones too. */
void random_weight(phi_weight *weight, const random_kind *kind, uint32_t rows, uint32_t cols,
                   float size);

#endif
