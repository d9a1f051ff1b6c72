#include "server/jobs.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <uv.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "server/quantization/job_runner.h"

/*
 * Invariants
 * 1. Every unfinished job of the store has an entry here, from enqueue to the end of its work.
 * 2. What a job's success makes visible (the registry's entry) is shown before the job object says
 *    "succeeded": until the entry has gone, overlay keeps saying "running".
 */

struct phi_job_watch {
    phi_job_watch *next;
    phi_job_watch_fn fn;
    void *user;
};

typedef struct entry {
    struct entry *next;
    phi_jobs *jobs;
    phi_job *job;
    char id[PHI_STORE_ID_BYTES];
    bool running;      /* submitted to the pool */
    bool short_work;   /* ... as short work: it was cancelled before its turn */
    atomic_bool fresh; /* set by [job] when events were added, cleared by [loop] */
    phi_job_watch *watches;
} entry;

struct phi_jobs {
    phi_app *app;
    uv_async_t wake; /* some entry is fresh */
    entry *entries;  /* oldest first */
    bool stopping;
};

/* ---- waking the loop ---- */

static entry *entry_of(const phi_jobs *jobs, const char *id)
{
    entry *it = jobs->entries;
    while (it && strcmp(it->id, id) != 0) {
        it = it->next;
    }
    return it;
}

/* [job] */
static void on_job_event(phi_job *job)
{
    entry *self = job->notify_user;
    /* Pairs with the exchange in on_wake: what the flag says is in the store, nothing else. */
    atomic_store_explicit(&self->fresh, true, memory_order_relaxed);
    (void)uv_async_send(&self->jobs->wake);
}

static void tell_watches(entry *self, bool ended)
{
    for (phi_job_watch *it = self->watches; it;) {
        phi_job_watch *next = it->next;
        it->fn(it->user, ended);
        it = next;
    }
}

/* After this the watches are gone; their owners must not touch them again. */
static void end_watches(entry *self)
{
    phi_job_watch *it = self->watches;
    self->watches = NULL;
    while (it) {
        phi_job_watch *next = it->next;
        it->fn(it->user, true);
        phi_free(it);
        it = next;
    }
}

static void on_wake(uv_async_t *handle)
{
    phi_jobs *jobs = handle->data;
    for (entry *it = jobs->entries; it; it = it->next) {
        if (atomic_exchange_explicit(&it->fresh, false, memory_order_relaxed)) {
            tell_watches(it, false);
        }
    }
}

/* ---- running ---- */

static void start_next(phi_jobs *jobs);

static void show_model(phi_app *app, const phi_store_model *model)
{
    char *path = phi_store_blob_path(app->store, model->sha256);
    phi_registry_entry shown = {.path = path,
                                .bytes = model->bytes,
                                .created_s = model->created_s,
                                .context_length = model->context_length};
    (void)snprintf(shown.id, sizeof shown.id, "%s:%s", model->name, model->precision);
    (void)snprintf(shown.name, sizeof shown.name, "%s", model->name);
    (void)snprintf(shown.precision, sizeof shown.precision, "%s", model->precision);
    (void)snprintf(shown.sha256, sizeof shown.sha256, "%s", model->sha256);
    (void)snprintf(shown.architecture, sizeof shown.architecture, "%s", model->architecture);
    shown.quality = model->quality ? json_loads(model->quality, 0, NULL) : NULL;
    phi_registry_add(app->registry, &shown);
    phi_free(path);
}

static void entry_free(entry *self)
{
    entry **link = &self->jobs->entries;
    while (*link != self) {
        link = &(*link)->next;
    }
    *link = self->next;
    phi_job_destroy(self->job);
    phi_free(self);
}

static void run_job(void *arg)
{
    phi_job_run(((entry *)arg)->job);
}

static void job_done(void *arg)
{
    entry *self = arg;
    phi_jobs *jobs = self->jobs;
    const phi_store_job *record = &self->job->record;
    if (record->status == PHI_JOB_SUCCEEDED && record->kind == PHI_JOB_QUANTIZATION) {
        show_model(jobs->app, &self->job->model);
    }
    end_watches(self);
    entry_free(self);
    start_next(jobs);
}

static size_t count_running(const phi_jobs *jobs)
{
    size_t count = 0;
    for (const entry *it = jobs->entries; it; it = it->next) {
        count += it->running && !it->short_work;
    }
    return count;
}

static void start_next(phi_jobs *jobs)
{
    size_t running = count_running(jobs);
    for (entry *it = jobs->entries; it && !jobs->stopping; it = it->next) {
        if (running >= jobs->app->settings->jobs_max) {
            return;
        }
        if (it->running) {
            continue;
        }
        if (phi_work_submit(jobs->app->work, PHI_WORK_JOB, run_job, job_done, it)) {
            return; /* tried again when a job ends */
        }
        it->running = true;
        running++;
    }
}

void phi_jobs_enqueue(phi_jobs *jobs, phi_store_job *record)
{
    PHI_ASSERT_ROLE(PHI_ROLE_LOOP);
    entry *self = phi_alloc_zero(1, sizeof *self);
    self->jobs = jobs;
    atomic_init(&self->fresh, false);
    (void)snprintf(self->id, sizeof self->id, "%s", record->id);
    self->job = phi_job_create(jobs->app, record, on_job_event, self);
    entry **link = &jobs->entries;
    while (*link) {
        link = &(*link)->next;
    }
    *link = self;
    start_next(jobs);
}

void phi_jobs_cancel(phi_jobs *jobs, const char *id)
{
    PHI_ASSERT_ROLE(PHI_ROLE_LOOP);
    entry *self = entry_of(jobs, id);
    if (!self) {
        return;
    }
    atomic_store_explicit(&self->job->cancel, true, memory_order_relaxed);
    /* One that waits ends at once instead of waiting for its turn; its run sees the flag first. */
    if (!self->running &&
        !phi_work_submit(jobs->app->work, PHI_WORK_SHORT, run_job, job_done, self)) {
        self->running = true;
        self->short_work = true;
    }
}

void phi_jobs_overlay(phi_jobs *jobs, phi_store_job *record)
{
    entry *self = entry_of(jobs, record->id);
    if (!self || !self->running) {
        return;
    }
    int code = pthread_mutex_lock(&self->job->lock);
    PHI_ASSERT(code == 0);
    phi_job_progress now = self->job->progress;
    int64_t started_s = self->job->started_s;
    code = pthread_mutex_unlock(&self->job->lock);
    PHI_ASSERT(code == 0);
    if (started_s == 0) {
        return;
    }
    if (phi_job_status_ended(record->status)) {
        phi_free(record->result);
        record->result = NULL;
        record->finished_s = 0;
    }
    record->status = PHI_JOB_RUNNING;
    record->started_s = started_s;
    record->progress = now.fraction;
    record->bytes_done = now.bytes_done;
    record->bytes_total = now.bytes_total;
    (void)snprintf(record->stage, sizeof record->stage, "%s", now.stage);
}

/* ---- watching ---- */

phi_job_watch *phi_jobs_watch(phi_jobs *jobs, const char *id, phi_job_watch_fn fn, void *user)
{
    PHI_ASSERT_ROLE(PHI_ROLE_LOOP);
    entry *self = entry_of(jobs, id);
    if (!self || jobs->stopping) {
        return NULL;
    }
    phi_job_watch *watch = phi_alloc_zero(1, sizeof *watch);
    *watch = (phi_job_watch){.next = self->watches, .fn = fn, .user = user};
    self->watches = watch;
    return watch;
}

void phi_jobs_unwatch(phi_jobs *jobs, phi_job_watch *watch)
{
    PHI_ASSERT_ROLE(PHI_ROLE_LOOP);
    for (entry *it = jobs->entries; it; it = it->next) {
        phi_job_watch **link = &it->watches;
        while (*link && *link != watch) {
            link = &(*link)->next;
        }
        if (*link) {
            *link = watch->next;
            phi_free(watch);
            return;
        }
    }
    PHI_UNREACHABLE();
}

/* ---- start and stop ---- */

phi_status phi_jobs_create(phi_app *app, phi_jobs **out_jobs, phi_err *err)
{
    phi_jobs *jobs = phi_alloc_zero(1, sizeof *jobs);
    jobs->app = app;
    int code = uv_async_init(app->loop, &jobs->wake, on_wake);
    if (code != 0) {
        phi_free(jobs);
        return phi_fail(err, PHI_E_IO, "cannot set up the job queue: %s", uv_strerror(code));
    }
    jobs->wake.data = jobs;
    *out_jobs = jobs;
    return PHI_OK;
}

phi_status phi_jobs_start(phi_jobs *jobs, phi_err *err)
{
    phi_store_job *list = phi_alloc_zero(PHI_LIMIT_PAGE, sizeof *list);
    phi_store_page page = {.limit = PHI_LIMIT_PAGE, .ascending = true};
    char after[PHI_STORE_ID_BYTES];
    phi_status status = PHI_OK;
    for (bool more = true; more && !status;) {
        size_t count = 0;
        status = phi_store_job_unfinished(jobs->app->store, &page, list, &count, &more, err);
        for (size_t i = 0; i < count && !status; i++) {
            phi_log(PHI_LOG_INFO, "jobs", "job_resumed", "id=%s model=%s:%s", list[i].id,
                    list[i].model, list[i].precision);
            (void)snprintf(after, sizeof after, "%s", list[i].id);
            page.after = after;
            phi_jobs_enqueue(jobs, &list[i]);
        }
    }
    phi_free(list);
    return status;
}

void phi_jobs_stop(phi_jobs *jobs)
{
    jobs->stopping = true;
    for (entry *it = jobs->entries; it;) {
        entry *next = it->next;
        atomic_store_explicit(&it->job->stop, true, memory_order_relaxed);
        end_watches(it);
        if (!it->running) {
            entry_free(it);
        }
        it = next;
    }
}

size_t phi_jobs_running(const phi_jobs *jobs)
{
    size_t count = 0;
    for (const entry *it = jobs->entries; it; it = it->next) {
        count += it->running;
    }
    return count;
}

size_t phi_jobs_queued(const phi_jobs *jobs)
{
    size_t count = 0;
    for (const entry *it = jobs->entries; it; it = it->next) {
        count += !it->running;
    }
    return count;
}

static void on_closed(uv_handle_t *handle)
{
    phi_free(handle->data);
}

void phi_jobs_destroy(phi_jobs *jobs)
{
    if (!jobs) {
        return;
    }
    PHI_ASSERT(phi_jobs_running(jobs) == 0);
    while (jobs->entries) {
        entry_free(jobs->entries);
    }
    uv_close((uv_handle_t *)&jobs->wake, on_closed);
}
