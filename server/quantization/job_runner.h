/*
 * Purpose: one job, from its source to a model that can be served, or from a model to a file of
 *          another ecosystem.
 * Owns:    phi_job owns its record; its work directory exists during phi_job_run only.
 * Threads: phi_job_run is [job] and has `record` to itself until it returns; the loop sees what is
 *          under `lock`, and sets the two flags.
 * Errors:  end up in the record (status failed) and in an event; none are returned.
 * Limits:  PHI_LIMIT_JOB_EVENTS.
 */
#ifndef PHI_SERVER_QUANTIZATION_JOB_RUNNER_H
#define PHI_SERVER_QUANTIZATION_JOB_RUNNER_H

#include "server/app.h"
#include "server/store/store.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct phi_job_progress {
    char stage[16];
    double fraction;
    uint64_t bytes_done;
    uint64_t bytes_total;
} phi_job_progress;

typedef struct phi_job {
    phi_app *app;
    phi_store_job record;
    /* [loop] -> [job]; alone, no other memory depends on them, hence relaxed. */
    atomic_bool cancel; /* somebody asked for it */
    atomic_bool stop;   /* the daemon ends: leave the job for the next one */
    pthread_mutex_t lock;
    phi_job_progress progress; /* under `lock` */
    int64_t started_s;         /* under `lock`; 0 until it runs */
    /* [job]: new events are in the store. */
    void (*notify)(struct phi_job *job);
    void *notify_user;
    /* Set by phi_job_run. */
    bool interrupted;      /* stopped for `stop`: the store still says that it runs */
    phi_store_model model; /* a quantization's success: what to show */
} phi_job;

/* Takes the record's strings. */
phi_job *phi_job_create(phi_app *app, phi_store_job *record, void (*notify)(phi_job *job),
                        void *notify_user);
void phi_job_destroy(phi_job *job);
/* [job] */
void phi_job_run(void *job);
/* [job] Adds an event, takes `data` (JSON text or NULL); logs when that fails. */
void phi_job_add_event(phi_store *store, const char *job_id, const char *level, const char *type,
                       char *data, const char *fmt, ...) __attribute__((format(printf, 6, 7)));

#endif
