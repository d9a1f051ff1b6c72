/*
 * Purpose: libuv's worker pool with a bound per kind of work, so that long jobs never take the last
 *          thread from short ones.
 * Owns:    its queues; an item belongs to it from submit until `done` has been called.
 * Threads: submit and done on [loop], run on [job].
 * Errors:  PHI_E_BUSY when a kind's queue is full.
 * Limits:  threads per kind below; UV_THREADPOOL_SIZE is set before the pool's first use.
 */
#ifndef PHI_SERVER_WORK_H
#define PHI_SERVER_WORK_H

#include "base/status.h"

#include <stdint.h>

struct uv_loop_s;

typedef enum phi_work_kind {
    PHI_WORK_SHORT,    /* templates, tokenizing, small file operations */
    PHI_WORK_TRANSFER, /* body writes, hashing, unpacking */
    PHI_WORK_LOAD,     /* loading and unloading models */
    PHI_WORK_JOB,      /* quantization */
    PHI_WORK_KIND_COUNT,
} phi_work_kind;

typedef struct phi_work phi_work;

phi_status phi_work_create(struct uv_loop_s *loop, uint32_t jobs_max, phi_work **out_work,
                           phi_err *err) PHI_MUST_CHECK;
/* All work has to be over. */
void phi_work_destroy(phi_work *work);
/* Runs `run` on the pool and then `done` on the loop; both get `arg`. */
phi_status phi_work_submit(phi_work *work, phi_work_kind kind, void (*run)(void *arg),
                           void (*done)(void *arg), void *arg) PHI_MUST_CHECK;
uint32_t phi_work_active(const phi_work *work, phi_work_kind kind);

#endif
