#include "server/quantization/job_runner.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/quantization/job_json.h"
#include "server/quantization/job_run.h"

/* Progress goes to the store at most this often, and as an event when it has moved this far. */
#define PERSIST_INTERVAL_NS 1000000000U
#define EVENT_STEP 0.01
/* Share of the whole: unpacking an archive before anything else. */
#define UNPACK_SHARE 0.05

phi_job *phi_job_create(phi_app *app, phi_store_job *record, void (*notify)(phi_job *job),
                        void *notify_user)
{
    phi_job *job = phi_alloc_zero(1, sizeof *job);
    job->app = app;
    job->record = *record;
    record->request = NULL;
    record->result = NULL;
    job->notify = notify;
    job->notify_user = notify_user;
    atomic_init(&job->cancel, job->record.cancel);
    atomic_init(&job->stop, false);
    (void)pthread_mutex_init(&job->lock, NULL);
    return job;
}

void phi_job_destroy(phi_job *job)
{
    if (job) {
        (void)pthread_mutex_destroy(&job->lock);
        phi_store_job_done(&job->record);
        phi_free(job->model.quality);
        phi_free(job);
    }
}

/* ---- events and progress ---- */

void phi_job_add_event(phi_store *store, const char *job_id, const char *level, const char *type,
                       char *data, const char *fmt, ...)
{
    phi_store_event event = {.created_s = phi_clock_unix_s(), .data = data};
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(event.message, sizeof event.message, fmt, args);
    va_end(args);
    (void)snprintf(event.level, sizeof event.level, "%s", level);
    (void)snprintf(event.type, sizeof event.type, "%s", type);
    phi_err err;
    if (phi_store_event_add(store, job_id, &event, &err)) {
        phi_log(PHI_LOG_WARN, "jobs", "event_lost", "id=%s reason=%s", job_id, err.message);
    }
    phi_free(data);
}

bool phi_job_told_to_end(const phi_job *job)
{
    return atomic_load_explicit(&job->cancel, memory_order_relaxed) ||
           atomic_load_explicit(&job->stop, memory_order_relaxed);
}

static char *progress_data(const phi_job_progress *now, const char *tensor)
{
    json_t *object = json_pack("{s:f, s:s, s:I, s:I}", "progress", now->fraction, "stage",
                               now->stage, "bytes_done", (json_int_t)now->bytes_done, "bytes_total",
                               (json_int_t)now->bytes_total);
    json_t *name = tensor && tensor[0] ? json_string(tensor) : NULL;
    if (name) {
        (void)json_object_set_new(object, "tensor", name);
    }
    char *dumped = json_dumps(object, JSON_COMPACT);
    char *text = dumped ? phi_strdup(dumped) : NULL;
    phi_free(dumped);
    json_decref(object);
    return text;
}

static void persist(phi_job_run_state *self, const phi_job_progress *now)
{
    phi_store_job *record = &self->job->record;
    (void)snprintf(record->stage, sizeof record->stage, "%s", now->stage);
    record->progress = now->fraction;
    record->bytes_done = now->bytes_done;
    record->bytes_total = now->bytes_total;
    phi_err err;
    if (phi_store_job_update(self->job->app->store, record, &err)) {
        phi_log(PHI_LOG_WARN, "jobs", "progress_not_stored", "id=%s reason=%s", record->id,
                err.message);
    }
    self->persisted_ns = phi_clock_ns();
}

static void show(phi_job *job, const phi_job_progress *now)
{
    int code = pthread_mutex_lock(&job->lock);
    PHI_ASSERT(code == 0);
    job->progress = *now;
    code = pthread_mutex_unlock(&job->lock);
    PHI_ASSERT(code == 0);
}

bool phi_job_report(phi_job_run_state *self, const phi_job_progress *step, const char *tensor)
{
    phi_job *job = self->job;
    phi_job_progress now = *step;
    now.fraction = self->low + step->fraction * (self->high - self->low);
    show(job, &now);
    bool new_stage = strcmp(self->stage, now.stage) != 0;
    if (!new_stage && phi_clock_ns() - self->persisted_ns < PERSIST_INTERVAL_NS) {
        return !phi_job_told_to_end(job);
    }
    (void)snprintf(self->stage, sizeof self->stage, "%s", now.stage);
    persist(self, &now);
    if (new_stage) {
        phi_job_add_event(job->app->store, job->record.id, "info", "message",
                          progress_data(&now, tensor), "stage: %s", now.stage);
    } else if (now.fraction >= self->event_fraction + EVENT_STEP) {
        self->event_fraction = now.fraction;
        phi_job_add_event(job->app->store, job->record.id, "info", "progress",
                          progress_data(&now, tensor), "%s: %.0f%%", now.stage,
                          100.0 * now.fraction);
    }
    job->notify(job);
    return !phi_job_told_to_end(job);
}

void phi_job_step(phi_job_run_state *self, double low, double high)
{
    self->low = low;
    self->high = high;
}

/* ---- the source ---- */

static bool on_unpack_progress(void *user, uint64_t bytes_done, uint64_t bytes_total)
{
    phi_job_run_state *self = user;
    phi_job_step(self, 0.0, UNPACK_SHARE);
    phi_job_progress now = {.stage = "reading",
                            .fraction =
                                bytes_total ? (double)bytes_done / (double)bytes_total : 0.0,
                            .bytes_done = bytes_done,
                            .bytes_total = bytes_total};
    return phi_job_report(self, &now, NULL);
}

phi_status phi_job_prepare(phi_job_run_state *self, phi_err *err)
{
    phi_app *app = self->job->app;
    const char *id = self->job->record.id;
    phi_store_source *sources = NULL;
    size_t count = 0;
    phi_status status = phi_store_job_sources(app->store, id, &sources, &count, err);
    if (!status && count == 0) {
        status = phi_fail(err, PHI_E_NOT_FOUND, "the job's source files are missing");
    }
    status = status ? status : phi_file_make_dirs(self->work_dir, err);
    status = status ? status
                    : phi_job_source_prepare(app, self->work_dir, sources, count,
                                             on_unpack_progress, self, &self->prepared, err);
    phi_store_sources_free(sources, count);
    if (!status && self->prepared.left_out > 0) {
        phi_job_add_event(app->store, id, "warn", "message", NULL,
                          "%zu files in folders below the model's were left out",
                          self->prepared.left_out);
    }
    return status;
}

/* ---- the end ---- */

char *phi_job_dump(const json_t *value)
{
    char *dumped = value ? json_dumps(value, JSON_COMPACT) : NULL;
    char *text = dumped ? phi_strdup(dumped) : NULL;
    phi_free(dumped);
    return text;
}

/* Everything becomes visible in one transaction, or nothing. */
phi_status phi_job_publish(phi_job_run_state *self, const phi_store_model *model, phi_err *err)
{
    phi_store_job *record = &self->job->record;
    phi_store_job ended = *record;
    ended.status = PHI_JOB_SUCCEEDED;
    ended.finished_s = phi_clock_unix_s();
    ended.progress = 1.0;
    ended.bytes_done = ended.bytes_total;
    ended.result = phi_job_dump(self->result);
    phi_status status = phi_store_job_complete(self->job->app->store, &ended, self->artifacts,
                                               self->n_artifacts, model, err);
    if (status) {
        phi_free(ended.result);
        return status;
    }
    phi_free(record->result);
    *record = ended;
    return PHI_OK;
}

/* Messages of the engine name files by path; a client knows only their names. */
static void hide_path(phi_err *err, const char *dir)
{
    size_t bytes = strlen(dir);
    for (char *at = strstr(err->message, dir); at; at = strstr(at, dir)) {
        size_t cut = bytes + (at[bytes] == '/');
        memmove(at, at + cut, strlen(at + cut) + 1);
    }
}

static void end_job(phi_job_run_state *self, phi_status status, phi_err *err)
{
    phi_job *job = self->job;
    phi_store_job *record = &job->record;
    phi_store *store = job->app->store;
    const char *code = NULL;
    if (strncmp(err->param, "quality.max", strlen("quality.max")) == 0) {
        code = "quality_limit";
    }
    bool cancelled =
        atomic_load_explicit(&job->cancel, memory_order_relaxed) && status == PHI_E_CANCELLED;
    record->status = cancelled ? PHI_JOB_CANCELLED : PHI_JOB_FAILED;
    record->finished_s = phi_clock_unix_s();
    phi_free(record->result);
    static const char *const made[] = {"artifacts", "lossless", "changes"};
    for (size_t i = 0; i < sizeof made / sizeof *made; i++) {
        (void)json_object_del(self->result, made[i]);
    }
    if (!cancelled) {
        (void)json_object_set_new(self->result, "error", phi_job_error_json(err, code));
    }
    record->result = phi_job_dump(self->result);
    phi_err store_err;
    if (phi_store_job_update(store, record, &store_err)) {
        /* The next start finds it unfinished and runs it again. */
        phi_log(PHI_LOG_ERROR, "jobs", "job_end_not_stored", "id=%s reason=%s", record->id,
                store_err.message);
    }
    if (cancelled) {
        phi_job_add_event(store, record->id, "info", "message", NULL, "cancelled");
    } else {
        phi_job_add_event(store, record->id, "error", "message", NULL, "failed: %.200s",
                          err->message);
    }
}

static phi_status run_steps(phi_job_run_state *self, phi_err *err)
{
    const phi_job_progress begun = {.stage = "reading"};
    if (!phi_job_report(self, &begun, NULL)) {
        return phi_fail(err, PHI_E_CANCELLED, "stopped before it began");
    }
    switch (self->job->record.kind) {
    case PHI_JOB_QUANTIZATION:
        return phi_job_quantize_steps(self, err);
    case PHI_JOB_EXPORT:
        return phi_job_export_steps(self, err);
    }
    return phi_fail(err, PHI_E_INTERNAL, "the stored job is of an unknown kind");
}

static void tell_success(phi_job_run_state *self)
{
    const phi_store_job *record = &self->job->record;
    uint64_t bytes = 0;
    for (size_t i = 0; i < self->n_artifacts; i++) {
        bytes += self->artifacts[i].file.bytes;
    }
    phi_job_add_event(self->job->app->store, record->id, "info", "message",
                      phi_job_dump(json_object_get(self->result, "quality")),
                      "succeeded: %s:%s, %" PRIu64 " bytes", record->model, record->precision,
                      bytes);
    phi_log(PHI_LOG_INFO, "jobs", "job_succeeded", "id=%s model=%s:%s bytes=%" PRIu64, record->id,
            record->model, record->precision, bytes);
}

static void free_run(phi_job_run_state *self)
{
    for (size_t i = 0; i < self->n_artifacts; i++) {
        phi_free(self->artifacts[i].path);
    }
    json_decref(self->result);
    phi_job_prepared_done(&self->prepared);
    phi_free(self->work_dir);
}

static void note_start(phi_job *job)
{
    job->record.status = PHI_JOB_RUNNING;
    job->record.started_s = phi_clock_unix_s();
    int code = pthread_mutex_lock(&job->lock);
    PHI_ASSERT(code == 0);
    job->started_s = job->record.started_s;
    code = pthread_mutex_unlock(&job->lock);
    PHI_ASSERT(code == 0);
    phi_log(PHI_LOG_INFO, "jobs", "job_started", "id=%s model=%s:%s", job->record.id,
            job->record.model, job->record.precision);
}

void phi_job_run(void *arg)
{
    phi_job *job = arg;
    phi_job_run_state self = {.job = job,
                              .work_dir = phi_store_work_path(job->app->store, job->record.id),
                              .high = 1.0,
                              .result = json_object()};
    phi_err err = {0};
    note_start(job);
    phi_status status = run_steps(&self, &err);
    /* Before the end is stored: on a full disk this makes the room for it. */
    phi_store_work_remove(job->app->store, job->record.id);
    if (!status) {
        tell_success(&self);
    } else if (status == PHI_E_CANCELLED &&
               !atomic_load_explicit(&job->cancel, memory_order_relaxed)) {
        job->interrupted = true;
        phi_log(PHI_LOG_INFO, "jobs", "job_interrupted", "id=%s", job->record.id);
    } else {
        char *source_dir = phi_strfmt("%s/source", self.work_dir);
        hide_path(&err, source_dir);
        hide_path(&err, self.work_dir);
        phi_free(source_dir);
        phi_log(PHI_LOG_WARN, "jobs", "job_ended", "id=%s status=%s reason=%s", job->record.id,
                phi_status_name(status), err.message);
        end_job(&self, status, &err);
    }
    free_run(&self);
}
