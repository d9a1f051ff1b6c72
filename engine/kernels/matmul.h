/*
 * Purpose: y = x W^T over the team, whatever the kind of W: the one entry to matrix products.
 * Owns:    phi_compute borrows team and kernels; phi_matmul_scratch owns activation buffers.
 * Threads: [engine] and [job]; one scratch per calling thread.
 * Errors:  only phi_matmul_scratch_init allocates.
 * Limits:  n_tok <= the scratch's; cols <= the scratch's.
 */
#ifndef PHI_ENGINE_KERNELS_MATMUL_H
#define PHI_ENGINE_KERNELS_MATMUL_H

#include "base/status.h"
#include "engine/kernels/kernels.h"
#include "engine/kernels/team.h"
#include "engine/tensor/weight.h"

/* What computes: passed down wherever arithmetic is done. */
typedef struct phi_compute {
    const phi_kernels *kernels;
    phi_team *team;
    phi_team_priority priority;
} phi_compute;

typedef struct phi_matmul_sizes {
    uint32_t n_tok_max;
    uint32_t cols_max;
    uint32_t n_threads; /* of the team, for products of prompts; 0: there will be none */
} phi_matmul_sizes;

typedef struct phi_matmul_scratch {
    phi_matmul_sizes sizes;
    void *memory; /* all of the following, one allocation */
    /* of phi_matmul */
    int8_t *codes;
    float *scales;
    int32_t *starts;
    float *shifts;
    float *x;
    /* of phi_matmul_prompt, in the same place */
    uint16_t *bulk;
    float *work; /* [threads][PHI_BULK_WORK(n_tok_max)] */
} phi_matmul_scratch;

phi_status phi_matmul_scratch_init(phi_matmul_scratch *scratch, const phi_matmul_sizes *sizes,
                                   phi_err *err) PHI_MUST_CHECK;
void phi_matmul_scratch_done(phi_matmul_scratch *scratch);
/* What phi_matmul_scratch_init allocates; 0 if it is too large to be counted. */
uint64_t phi_matmul_scratch_bytes(const phi_matmul_sizes *sizes);

/* Rows of x that are not there yet. A thread makes a few and turns them into what the kernels read
 * while they are in its cache: a norm needs no pass of its own. */
typedef struct phi_fill {
    phi_team_fn rows; /* [team] writes the rows [begin, end) that `arg` tells; each once */
    void *arg;
    size_t first; /* what row 0 of x is among them */
} phi_fill;

/* y [n_tok, W.rows] = x [n_tok, W.cols] W^T. With `fill` (NULL: x is there) it writes x first. INT
 * kinds quantize x on the fly. At inference priority a row of y does not depend on n_tok or on the
 * number of threads, and nothing is allocated; at background priority OpenBLAS may sum the FP kinds
 * in another order. */
void phi_matmul(const phi_compute *compute, const phi_weight *weight, const float *x,
                const phi_fill *fill, uint32_t n_tok, float *y, phi_matmul_scratch *scratch);
/* The same for tokens of prompts: with the set's bulk products, where it has them. Whether a token
 * is multiplied by this or by phi_matmul has to be a property of the token, as the two round
 * differently; then what it is computed with still changes no bit. */
void phi_matmul_prompt(const phi_compute *compute, const phi_weight *weight, const float *x,
                       const phi_fill *fill, uint32_t n_tok, float *y, phi_matmul_scratch *scratch);
/* Both, for rows of which the last n_prompt are tokens of prompts. */
void phi_matmul_rows(const phi_compute *compute, const phi_weight *weight, const float *x,
                     const phi_fill *fill, uint32_t n_tok, uint32_t n_prompt, float *y,
                     phi_matmul_scratch *scratch);

#endif
