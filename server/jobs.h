/*
 * Purpose: the queue of jobs (quantization and export): which run, how far they are, who watches.
 * Owns:    a phi_job for each unfinished job. What has ended is in the store alone.
 * Threads: [loop]; a job's work is [job] and meets the loop only through phi_job_* of
 *          quantization/job_runner.h.
 * Errors:  PHI_E_NOT_FOUND; a job's own failure is in the job object.
 * Limits:  settings.jobs_max at a time, PHI_LIMIT_JOBS_UNFINISHED in all.
 *
 *   queued -> running -> succeeded | failed | cancelled, and queued -> cancelled.
 * A daemon that stops leaves running jobs as they are in the store, and the next one begins them
 * again: nothing that they wrote is visible before their last transaction.
 */
#ifndef PHI_SERVER_JOBS_H
#define PHI_SERVER_JOBS_H

#include "base/status.h"
#include "server/app.h"
#include "server/store/store.h"

#include <stdbool.h>
#include <stddef.h>

/* Needs app->loop, settings, store, work, engine and registry. */
phi_status phi_jobs_create(phi_app *app, phi_jobs **out_jobs, phi_err *err) PHI_MUST_CHECK;
/* Queues what the last daemon left unfinished and starts what may run. */
phi_status phi_jobs_start(phi_jobs *jobs, phi_err *err) PHI_MUST_CHECK;
/* Starts nothing more, asks what runs to stop (it goes on after a restart), ends all watchers. The
 * loop has to run on until phi_jobs_running is 0. */
void phi_jobs_stop(phi_jobs *jobs);
size_t phi_jobs_running(const phi_jobs *jobs);
size_t phi_jobs_queued(const phi_jobs *jobs);
/* After stop, with none running. Its uv handle closes in the loop's next turn. */
void phi_jobs_destroy(phi_jobs *jobs);

/* A job that the store has just got. Takes the job's strings. */
void phi_jobs_enqueue(phi_jobs *jobs, phi_store_job *job);
/* Makes a running or queued job stop; the store knows already. */
void phi_jobs_cancel(phi_jobs *jobs, const char *id);
/* Puts the newest progress of an unfinished job over what the store said. */
void phi_jobs_overlay(phi_jobs *jobs, phi_store_job *job);

/* Tells when a job has new events in the store, and (ended) that no more will come. */
typedef struct phi_job_watch phi_job_watch;
typedef void (*phi_job_watch_fn)(void *user, bool ended);
/* NULL when the job is not unfinished here: then all of its events are in the store. */
phi_job_watch *phi_jobs_watch(phi_jobs *jobs, const char *id, phi_job_watch_fn fn, void *user);
/* Not after `ended` has been told. */
void phi_jobs_unwatch(phi_jobs *jobs, phi_job_watch *watch);

#endif
