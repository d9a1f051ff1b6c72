#include "server/work.h"

#include "base/assert.h"
#include "base/mem.h"
#include "base/thread.h"

#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

/* Items of one kind that may wait for a thread; each stands for a request or a job, so that the
 * caps on those usually bite first. An item whose client has left still holds its input. */
#define QUEUE_MAX 1024U
/* libuv's own cap on its pool. */
#define POOL_THREADS_MAX 1024U

typedef struct item {
    uv_work_t request; /* first: libuv gives it back */
    phi_work *work;
    phi_work_kind kind;
    void (*run)(void *arg);
    void (*done)(void *arg);
    void *arg;
    struct item *next;
} item;

typedef struct lane {
    uint32_t threads; /* items on the pool at a time */
    uint32_t running;
    uint32_t waiting;
    item *first;
    item *last;
} lane;

struct phi_work {
    uv_loop_t *loop;
    lane lanes[PHI_WORK_KIND_COUNT];
};

phi_status phi_work_create(uv_loop_t *loop, uint32_t jobs_max, phi_work **out_work, phi_err *err)
{
    if (jobs_max == 0 || jobs_max > POOL_THREADS_MAX / 2) {
        return phi_fail_param(err, PHI_E_INVALID, "jobs_max", "jobs_max is %u; it must be 1 to %u",
                              jobs_max, POOL_THREADS_MAX / 2);
    }
    phi_work *work = phi_alloc_zero(1, sizeof *work);
    work->loop = loop;
    work->lanes[PHI_WORK_SHORT].threads = 2;
    work->lanes[PHI_WORK_TRANSFER].threads = 4;
    /* Unloading may wait for running answers, and loading must not wait behind it. */
    work->lanes[PHI_WORK_LOAD].threads = 2;
    work->lanes[PHI_WORK_JOB].threads = jobs_max;
    uint32_t total = 0;
    for (int kind = 0; kind < PHI_WORK_KIND_COUNT; kind++) {
        total += work->lanes[kind].threads;
    }
    /* One thread for each place, so that no kind ever waits for another one's. */
    char text[16];
    (void)snprintf(text, sizeof text, "%u", total);
    (void)setenv("UV_THREADPOOL_SIZE", text, 1);
    *out_work = work;
    return PHI_OK;
}

void phi_work_destroy(phi_work *work)
{
    if (!work) {
        return;
    }
    for (int kind = 0; kind < PHI_WORK_KIND_COUNT; kind++) {
        PHI_ASSERT(work->lanes[kind].running == 0 && work->lanes[kind].waiting == 0);
    }
    phi_free(work);
}

static void on_run(uv_work_t *request)
{
    static _Thread_local bool named;
    if (!named) {
        phi_thread_set_role(PHI_ROLE_JOB, "phid-job");
        named = true;
    }
    item *at = (item *)request;
    at->run(at->arg);
}

static void start(item *at);

static void on_done(uv_work_t *request, int status)
{
    (void)status; /* Nothing here is ever cancelled. */
    item *at = (item *)request;
    lane *own = &at->work->lanes[at->kind];
    own->running--;
    item *next = own->first;
    if (next) {
        own->first = next->next;
        own->last = own->first ? own->last : NULL;
        own->waiting--;
        start(next);
    }
    at->done(at->arg);
    phi_free(at);
}

static void start(item *at)
{
    at->work->lanes[at->kind].running++;
    int failed = uv_queue_work(at->work->loop, &at->request, on_run, on_done);
    PHI_ASSERT(failed == 0);
}

phi_status phi_work_submit(phi_work *work, phi_work_kind kind, void (*run)(void *arg),
                           void (*done)(void *arg), void *arg)
{
    PHI_ASSERT_ROLE(PHI_ROLE_LOOP);
    lane *own = &work->lanes[kind];
    if (own->waiting >= QUEUE_MAX) {
        return PHI_E_BUSY;
    }
    item *fresh = phi_alloc_zero(1, sizeof *fresh);
    fresh->work = work;
    fresh->kind = kind;
    fresh->run = run;
    fresh->done = done;
    fresh->arg = arg;
    if (own->running < own->threads) {
        start(fresh);
        return PHI_OK;
    }
    if (own->last) {
        own->last->next = fresh;
    } else {
        own->first = fresh;
    }
    own->last = fresh;
    own->waiting++;
    return PHI_OK;
}

uint32_t phi_work_active(const phi_work *work, phi_work_kind kind)
{
    return work->lanes[kind].running + work->lanes[kind].waiting;
}
