/*
 * Purpose: element-wise work over the rows of a step, on the team where that pays.
 * Owns:    nothing. Threads: [engine] or a [job]; fn runs on the team. Errors: none.
 * Limits:  none.
 */
#ifndef PHI_ENGINE_MODEL_ROWS_H
#define PHI_ENGINE_MODEL_ROWS_H

#include "engine/kernels/matmul.h"

static inline void phi_over_rows(const phi_compute *compute, uint32_t n_rows, phi_team_fn fn,
                                 void *arg)
{
    /* A few rows are done sooner than the team is woken. */
    if (n_rows < 4) {
        fn(arg, 0, n_rows, 0);
    } else {
        phi_team_run(compute->team, compute->priority, n_rows, 4, fn, arg);
    }
}

#endif
