/*
 * Purpose: a team of persistent compute threads that run slices of one loop together.
 * Owns:    its threads.
 * Threads: phi_team_run may be called by [engine] and [job] threads; calls take turns, those of
 *          PHI_TEAM_INFERENCE before those of PHI_TEAM_BACKGROUND. The caller works too.
 * Errors:  only creation can fail.
 * Limits:  PHI_LIMIT_TEAM_THREADS. An idle team uses no CPU.
 */
#ifndef PHI_ENGINE_KERNELS_TEAM_H
#define PHI_ENGINE_KERNELS_TEAM_H

#include "base/status.h"

#include <stddef.h>

typedef enum phi_team_priority {
    PHI_TEAM_BACKGROUND, /* quantization, quality reports */
    PHI_TEAM_INFERENCE,
} phi_team_priority;

typedef struct phi_team phi_team;

/* Processes items [begin, end); runs concurrently with other slices of the same loop. `worker` is
 * in 0..size-1, for per-worker scratch. */
typedef void (*phi_team_fn)(void *arg, size_t begin, size_t end, unsigned worker);

/* `threads` counts the caller of phi_team_run; 0: one per CPU that this process may use (affinity
 * mask and cgroup quota). */
phi_status phi_team_create(unsigned threads, phi_team **out_team, phi_err *err) PHI_MUST_CHECK;
void phi_team_destroy(phi_team *team);
unsigned phi_team_size(const phi_team *team);
/* Runs fn over [0, count) in slices of at least `grain` items; returns when all are done. Which
 * worker gets which slice varies, so fn's results must not depend on it. */
void phi_team_run(phi_team *team, phi_team_priority priority, size_t count, size_t grain,
                  phi_team_fn fn, void *arg);

#endif
