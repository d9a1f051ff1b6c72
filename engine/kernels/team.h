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

#include <stdbool.h>
#include <stddef.h>

typedef enum phi_team_priority {
    PHI_TEAM_BACKGROUND, /* quantization, quality reports */
    PHI_TEAM_INFERENCE,
} phi_team_priority;

typedef enum phi_team_pinning {
    PHI_TEAM_PIN_AUTO, /* when the team has a thread for each core that this process may use */
    PHI_TEAM_PIN_ON,   /* when there is a CPU for each thread */
    PHI_TEAM_PIN_OFF,
} phi_team_pinning;

typedef struct phi_team phi_team;

/* Processes items [begin, end); runs concurrently with other slices of the same loop. `worker` is
 * in 0..size-1, for per-worker scratch. */
typedef void (*phi_team_fn)(void *arg, size_t begin, size_t end, unsigned worker);

/* `threads` counts the caller of phi_team_run; 0: phi_machine_cpus. */
phi_status phi_team_create(unsigned threads, phi_team **out_team, phi_err *err) PHI_MUST_CHECK;
void phi_team_destroy(phi_team *team);
unsigned phi_team_size(const phi_team *team);

/* Keeps each worker on a CPU of its own and leaves the first one for the caller. Before the first
 * loop, by the team's creator. True if it was done: the system may refuse, and then nothing is
 * lost but speed. */
bool phi_team_pin(phi_team *team, phi_team_pinning pinning);
/* Keeps the calling thread, which is to be the one that calls phi_team_run most, on the CPU that
 * phi_team_pin left; nothing if that was not done. Threads that it starts later stay there too. */
void phi_team_pin_caller(const phi_team *team);

/* Runs fn over [0, count) and returns when all is done. Slices begin at multiples of `grain` and
 * have at least that many items (the last one: what is left). Each worker goes through a part of
 * its own from front to back, in slices that get shorter, and then helps others from their end. Who
 * gets what varies, so fn's results must not depend on it. */
void phi_team_run(phi_team *team, phi_team_priority priority, size_t count, size_t grain,
                  phi_team_fn fn, void *arg);

#endif
