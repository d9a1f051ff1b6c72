#include "server/quantization/job_handlers.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/jobs.h"
#include "server/openai/errors.h"
#include "server/openai/pages.h"
#include "server/quantization/job_json.h"
#include "server/quantization/job_runner.h"

#define JOBS_PAGE_DEFAULT 20
#define STREAM_PAGE 32

/* ---- submit and cancel: store first, on the worker pool, then the queue ---- */

typedef struct job_task {
    phi_app *app;
    phi_request *request; /* NULL when the client has gone */
    phi_job_submission wanted;
    phi_store_job job;
    phi_status status;
    phi_err err;
} job_task;

static void task_gone(void *user)
{
    ((job_task *)user)->request = NULL;
}

static void task_free(job_task *task)
{
    if (task->wanted.wanted_free) {
        task->wanted.wanted_free(task->wanted.wanted);
    }
    phi_store_job_done(&task->job);
    phi_free(task);
}

static void task_start(job_task *task, void (*run)(void *arg), void (*done)(void *arg))
{
    phi_request_defer(task->request, task_gone, task);
    /* Not into the task: the worker may be writing to it already. */
    phi_status refused = phi_work_submit(task->app->work, PHI_WORK_SHORT, run, done, task);
    if (refused) {
        task->status =
            phi_fail(&task->err, refused, "too many operations are waiting; try again in a moment");
        done(task);
    }
}

static void submit_run(void *arg)
{
    job_task *task = arg;
    phi_store_source *sources = NULL;
    size_t count = 0;
    task->status =
        task->wanted.resolve(task->app, task->wanted.wanted, &sources, &count, &task->err);
    if (task->status) {
        return;
    }
    task->status = phi_store_job_add(task->app->store, &task->job, sources, count, &task->err);
    phi_store_sources_free(sources, count);
    if (!task->status) {
        phi_job_add_event(task->app->store, task->job.id, "info", "message", NULL, "queued: %s%s%s",
                          task->job.model, task->job.kind == PHI_JOB_EXPORT ? ":" : " to ",
                          task->job.precision);
    }
}

static void submit_done(void *arg)
{
    job_task *task = arg;
    if (task->status) {
        if (task->request) {
            phi_respond_err(task->request, &task->err, "not_found");
        }
        task_free(task);
        return;
    }
    json_t *answer = task->request ? phi_job_json(&task->job) : NULL;
    /* Once stored, the job runs whether or not its client is still there. */
    phi_jobs_enqueue(task->app->jobs, &task->job);
    if (task->request) {
        phi_respond_json(task->request, 200, answer);
    }
    task_free(task);
}

void phi_job_fill(phi_store_job *job, phi_job_kind kind, const json_t *normal, const char *model,
                  const char *precision)
{
    char *dumped = json_dumps(normal, JSON_COMPACT);
    *job = (phi_store_job){.kind = kind,
                           .status = PHI_JOB_QUEUED,
                           .created_s = phi_clock_unix_s(),
                           .request = phi_strdup(dumped ? dumped : "{}")};
    phi_free(dumped);
    phi_random_id(kind == PHI_JOB_EXPORT ? "export-" : "qjob-", job->id, sizeof job->id);
    (void)snprintf(job->model, sizeof job->model, "%s", model);
    (void)snprintf(job->precision, sizeof job->precision, "%s", precision);
}

void phi_job_submit(phi_app *app, phi_request *request, const phi_job_submission *submission)
{
    job_task *task = phi_alloc_zero(1, sizeof *task);
    *task =
        (job_task){.app = app, .request = request, .wanted = *submission, .job = submission->job};
    if (app->draining) {
        phi_err err = {0};
        (void)phi_fail(&err, PHI_E_BUSY, "the server is shutting down");
        phi_respond_err(request, &err, "not_found");
        task_free(task);
        return;
    }
    task_start(task, submit_run, submit_done);
}

static void cancel_run(void *arg)
{
    job_task *task = arg;
    char id[PHI_STORE_ID_BYTES];
    (void)snprintf(id, sizeof id, "%s", task->job.id);
    task->status = phi_store_job_cancel(task->app->store, task->job.kind, id, &task->err);
    task->status = task->status ? task->status
                                : phi_store_job_get(task->app->store, task->job.kind, id,
                                                    &task->job, &task->err);
}

static void cancel_done(void *arg)
{
    job_task *task = arg;
    if (!task->status) {
        phi_jobs_cancel(task->app->jobs, task->job.id);
        phi_jobs_overlay(task->app->jobs, &task->job);
    }
    if (task->request && task->status) {
        phi_respond_err(task->request, &task->err, "not_found");
    } else if (task->request) {
        phi_respond_json(task->request, 200, phi_job_json(&task->job));
    }
    task_free(task);
}

void phi_job_answer_cancel(phi_app *app, phi_request *request, phi_job_kind kind)
{
    job_task *task = phi_alloc_zero(1, sizeof *task);
    *task = (job_task){.app = app, .request = request, .job.kind = kind};
    (void)snprintf(task->job.id, sizeof task->job.id, "%s", phi_request_part(request, 0));
    task_start(task, cancel_run, cancel_done);
}

/* ---- read ---- */

void phi_job_answer_list(phi_app *app, phi_request *request, phi_job_kind kind)
{
    phi_store_page page;
    phi_err err = {0};
    size_t count = 0;
    bool more = false;
    if (phi_page_parse(request, JOBS_PAGE_DEFAULT, &page, &err)) {
        phi_respond_err(request, &err, "not_found");
        return;
    }
    phi_store_job *jobs = phi_alloc_zero(page.limit, sizeof *jobs);
    if (phi_store_job_list(app->store, kind, &page, jobs, &count, &more, &err)) {
        phi_respond_err(request, &err, "not_found");
        phi_free(jobs);
        return;
    }
    json_t *data = json_array();
    for (size_t i = 0; i < count; i++) {
        phi_jobs_overlay(app->jobs, &jobs[i]);
        (void)json_array_append_new(data, phi_job_json(&jobs[i]));
        phi_store_job_done(&jobs[i]);
    }
    phi_free(jobs);
    phi_respond_json(request, 200, phi_page_json(data, more));
}

void phi_job_answer_get(phi_app *app, phi_request *request, phi_job_kind kind)
{
    phi_store_job job;
    phi_err err = {0};
    if (phi_store_job_get(app->store, kind, phi_request_part(request, 0), &job, &err)) {
        phi_respond_err(request, &err, "not_found");
        return;
    }
    phi_jobs_overlay(app->jobs, &job);
    phi_respond_json(request, 200, phi_job_json(&job));
    phi_store_job_done(&job);
}

/* ---- events ---- */

typedef struct follower {
    phi_app *app;
    phi_stream *stream;
    phi_job_watch *watch;
    phi_store_job job; /* id and kind */
    uint32_t sent;     /* number of the last event sent */
} follower;

/* Sends what is in the store and has not been sent. A job has at most PHI_LIMIT_JOB_EVENTS, so that
 * a client that reads slowly holds no more than these. */
static void send_new(follower *self)
{
    phi_store_event events[STREAM_PAGE];
    phi_err err;
    for (bool more = true; more;) {
        size_t count = 0;
        if (phi_store_event_list(self->app->store, self->job.id, self->sent, STREAM_PAGE, events,
                                 &count, &more, &err)) {
            phi_log(PHI_LOG_WARN, "jobs", "events_not_read", "id=%s reason=%s", self->job.id,
                    err.message);
            return;
        }
        for (size_t i = 0; i < count; i++) {
            json_t *object = phi_job_event_json(&self->job, &events[i]);
            char *text = object ? json_dumps(object, PHI_JSON_TEXT) : NULL;
            if (text) {
                phi_stream_event(self->stream, NULL, text, strlen(text));
            }
            phi_free(text);
            json_decref(object);
            self->sent = events[i].number;
        }
        phi_store_events_done(events, count);
    }
}

static void follower_end(follower *self)
{
    static const char done[] = "[DONE]";
    send_new(self);
    phi_stream_event(self->stream, NULL, done, strlen(done));
    phi_stream_end(self->stream);
    phi_free(self);
}

static void on_job_news(void *user, bool ended)
{
    follower *self = user;
    if (ended) {
        follower_end(self);
    } else {
        send_new(self);
    }
}

static void on_follower_gone(void *user)
{
    follower *self = user;
    phi_jobs_unwatch(self->app->jobs, self->watch);
    phi_free(self);
}

static void stream_events(phi_app *app, phi_request *request, const phi_store_job *job,
                          uint32_t after)
{
    follower *self = phi_alloc_zero(1, sizeof *self);
    *self = (follower){.app = app, .sent = after, .job.kind = job->kind};
    (void)snprintf(self->job.id, sizeof self->job.id, "%s", job->id);
    /* The watch before the stream: it must exist by the time that `gone` may be told. */
    self->watch = phi_jobs_watch(app->jobs, job->id, on_job_news, self);
    self->stream = phi_respond_stream(request, self->watch ? on_follower_gone : NULL, self);
    if (self->watch) {
        send_new(self);
    } else {
        follower_end(self);
    }
}

static void page_events(phi_app *app, phi_request *request, const phi_store_job *job,
                        uint32_t after, size_t limit)
{
    phi_err err = {0};
    size_t count = 0;
    bool more = false;
    phi_store_event *events = phi_alloc_zero(limit, sizeof *events);
    if (phi_store_event_list(app->store, job->id, after, limit, events, &count, &more, &err)) {
        phi_respond_err(request, &err, "not_found");
        phi_free(events);
        return;
    }
    json_t *data = json_array();
    for (size_t i = 0; i < count; i++) {
        (void)json_array_append_new(data, phi_job_event_json(job, &events[i]));
    }
    phi_store_events_done(events, count);
    phi_free(events);
    phi_respond_json(request, 200, phi_page_json(data, more));
}

static phi_status parse_event_query(const phi_request *request, const char *job_id,
                                    phi_store_page *page, uint32_t *out_after, bool *out_stream,
                                    phi_err *err)
{
    const char *stream = phi_request_query(request, "stream");
    *out_stream = stream && strcmp(stream, "true") == 0;
    *out_after = 0;
    if (stream && !*out_stream && strcmp(stream, "false") != 0) {
        return phi_fail_param(err, PHI_E_INVALID, "stream",
                              "'stream' is '%.40s'; it must be 'true' or 'false'", stream);
    }
    phi_status status = phi_page_parse(request, JOBS_PAGE_DEFAULT, page, err);
    if (!status && page->after) {
        *out_after = phi_job_event_number(job_id, page->after);
        if (*out_after == 0) {
            return phi_fail_param(err, PHI_E_INVALID, "after",
                                  "'after' names '%.60s', which is not an event of this %s",
                                  page->after, job_id[0] == 'e' ? "export" : "job");
        }
    }
    return status;
}

void phi_job_answer_events(phi_app *app, phi_request *request, phi_job_kind kind)
{
    phi_store_job job;
    phi_store_page page = {0};
    uint32_t after = 0;
    bool stream = false;
    phi_err err = {0};
    phi_status status =
        phi_store_job_get(app->store, kind, phi_request_part(request, 0), &job, &err);
    if (!status) {
        phi_store_job_done(&job);
        status = parse_event_query(request, job.id, &page, &after, &stream, &err);
    }
    if (status) {
        phi_respond_err(request, &err, "not_found");
    } else if (stream) {
        stream_events(app, request, &job, after);
    } else {
        page_events(app, request, &job, after, page.limit);
    }
}
