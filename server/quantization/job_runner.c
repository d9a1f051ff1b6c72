#include "server/quantization/job_runner.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "engine/engine.h"
#include "server/quantization/job_json.h"
#include "server/quantization/job_request.h"
#include "server/quantization/job_source.h"

/* Progress goes to the store at most this often, and as an event when it has moved this far. */
#define PERSIST_INTERVAL_NS 1000000000U
#define EVENT_STEP 0.01
/* Shares of the whole: unpacking an archive before, hashing the result after. */
#define UNPACK_SHARE 0.05
#define HASH_SHARE 0.02
#define HASH_BLOCK_BYTES (1U << 20)

typedef struct run {
    phi_job *job;
    phi_job_request request;
    phi_job_prepared prepared;
    char *work_dir;
    char *out_path;
    double base; /* the engine's progress begins here */
    uint64_t persisted_ns;
    double event_fraction;
    char stage[16]; /* the last one told */
    json_t *quality;
} run;

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

static bool told_to_end(const phi_job *job)
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

static void persist(run *self, const phi_job_progress *now)
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

/* Shows progress at once, stores it now and then; false when the job is to end. */
static bool report(run *self, const phi_job_progress *now, const char *tensor)
{
    phi_job *job = self->job;
    int code = pthread_mutex_lock(&job->lock);
    PHI_ASSERT(code == 0);
    job->progress = *now;
    code = pthread_mutex_unlock(&job->lock);
    PHI_ASSERT(code == 0);
    bool new_stage = strcmp(self->stage, now->stage) != 0;
    if (!new_stage && phi_clock_ns() - self->persisted_ns < PERSIST_INTERVAL_NS) {
        return !told_to_end(job);
    }
    (void)snprintf(self->stage, sizeof self->stage, "%s", now->stage);
    persist(self, now);
    if (new_stage) {
        phi_job_add_event(job->app->store, job->record.id, "info", "message",
                          progress_data(now, tensor), "stage: %s", now->stage);
    } else if (now->fraction >= self->event_fraction + EVENT_STEP) {
        self->event_fraction = now->fraction;
        phi_job_add_event(job->app->store, job->record.id, "info", "progress",
                          progress_data(now, tensor), "%s: %.0f%%", now->stage,
                          100.0 * now->fraction);
    }
    job->notify(job);
    return !told_to_end(job);
}

static bool on_engine_progress(void *user, const phi_quantize_progress *engine)
{
    run *self = user;
    phi_job_progress now = {.fraction =
                                self->base + engine->fraction * (1.0 - HASH_SHARE - self->base),
                            .bytes_done = engine->bytes_done,
                            .bytes_total = engine->bytes_total};
    (void)snprintf(now.stage, sizeof now.stage, "%s", phi_quantize_stage_name(engine->stage));
    return report(self, &now, engine->tensor);
}

static bool on_unpack_progress(void *user, uint64_t bytes_done, uint64_t bytes_total)
{
    run *self = user;
    self->base = UNPACK_SHARE;
    phi_job_progress now = {
        .stage = "reading",
        .fraction = bytes_total ? UNPACK_SHARE * (double)bytes_done / (double)bytes_total : 0.0,
        .bytes_done = bytes_done,
        .bytes_total = bytes_total};
    return report(self, &now, NULL);
}

/* ---- the steps ---- */

static phi_status prepare(run *self, phi_err *err)
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

static phi_status quantize(run *self, phi_quality *quality, phi_err *err)
{
    const phi_job_request *request = &self->request;
    const phi_quantize_options options = {.source = self->prepared.path,
                                          .out_path = self->out_path,
                                          .name = request->model,
                                          .precision = request->precision,
                                          .group_size = request->group_size,
                                          .symmetric = request->symmetric,
                                          .measure = true,
                                          .eval_text = self->prepared.eval_text,
                                          .eval_text_bytes = self->prepared.eval_bytes,
                                          .progress = on_engine_progress,
                                          .progress_user = self};
    return phi_engine_quantize(self->job->app->engine, &options, quality, err);
}

static phi_status check_quality(const run *self, const phi_quality *quality, phi_err *err)
{
    const phi_job_request *request = &self->request;
    double ratio = quality->perplexity_result / quality->perplexity_source;
    /* Written so that a NaN fails. */
    if (request->kl_divergence_max >= 0.0 && !(quality->kl_mean <= request->kl_divergence_max)) {
        return phi_fail_param(err, PHI_E_INVALID, "quality.max_kl_divergence",
                              "the mean KL divergence is %.6g, above the limit of %.6g that the "
                              "request set; the result was discarded",
                              quality->kl_mean, request->kl_divergence_max);
    }
    if (request->perplexity_ratio_max >= 0.0 && !(ratio <= request->perplexity_ratio_max)) {
        return phi_fail_param(err, PHI_E_INVALID, "quality.max_perplexity_ratio",
                              "the perplexity rose from %.6g to %.6g, a ratio of %.6g and above "
                              "the limit of %.6g that the request set; the result was discarded",
                              quality->perplexity_source, quality->perplexity_result, ratio,
                              request->perplexity_ratio_max);
    }
    return PHI_OK;
}

static phi_status hash_result(run *self, phi_store_file *file, phi_err *err)
{
    phi_file result;
    phi_status status = phi_file_open(self->out_path, &result, err);
    if (status) {
        return status;
    }
    phi_sha256 hash;
    phi_sha256_init(&hash);
    char *block = phi_alloc(HASH_BLOCK_BYTES);
    file->bytes = result.bytes;
    for (uint64_t at = 0; at < result.bytes && !status;) {
        uint64_t left = result.bytes - at;
        size_t want = left < HASH_BLOCK_BYTES ? (size_t)left : HASH_BLOCK_BYTES;
        status = phi_file_read_at(&result, at, block, want, err);
        if (!status && told_to_end(self->job)) {
            status = phi_fail(err, PHI_E_CANCELLED, "stopped while hashing the result");
        }
        if (!status) {
            phi_sha256_update(&hash, block, want);
            at += want;
        }
    }
    phi_free(block);
    phi_file_close(&result);
    uint8_t digest[PHI_SHA256_BYTES];
    phi_sha256_finish(&hash, digest);
    phi_str_hex(digest, sizeof digest, file->sha256);
    return status;
}

/* Reads back what was written: it has to open, and it says what the list of models shows. */
static phi_status describe_result(run *self, phi_store_model *model, phi_err *err)
{
    phi_inspection *inspection = NULL;
    phi_status status = phi_inspect_open(self->out_path, &inspection, err);
    if (status) {
        return phi_fail_context(err, status, "the result cannot be read back");
    }
    const phi_description *description = phi_inspect_description(inspection);
    model->context_length = description->n_ctx;
    (void)snprintf(model->architecture, sizeof model->architecture, "%s",
                   phi_arch_name(description->arch));
    phi_inspect_close(inspection);
    return PHI_OK;
}

static char *dump(const json_t *value)
{
    char *dumped = value ? json_dumps(value, JSON_COMPACT) : NULL;
    char *text = dumped ? phi_strdup(dumped) : NULL;
    phi_free(dumped);
    return text;
}

/* Everything becomes visible in one transaction, or nothing. */
static phi_status publish(run *self, phi_err *err)
{
    phi_job *job = self->job;
    phi_store_job *record = &job->record;
    phi_store_file file = {.created_s = phi_clock_unix_s(), .purpose = "model"};
    phi_store_model model = {.created_s = file.created_s};
    phi_status status = hash_result(self, &file, err);
    status = status ? status : describe_result(self, &model, err);
    if (status) {
        return status;
    }
    phi_random_id("file-", file.id, sizeof file.id);
    (void)snprintf(file.filename, sizeof file.filename, "%.64s-%s.gguf", record->model,
                   record->precision);
    (void)snprintf(model.name, sizeof model.name, "%s", record->model);
    (void)snprintf(model.precision, sizeof model.precision, "%s", record->precision);
    (void)snprintf(model.sha256, sizeof model.sha256, "%s", file.sha256);
    model.bytes = file.bytes;
    model.quality = dump(self->quality);
    json_t *artifacts = json_pack("[{s:s, s:s, s:I, s:s}]", "format", "gguf", "file_id", file.id,
                                  "bytes", (json_int_t)file.bytes, "sha256", file.sha256);
    phi_store_job ended = *record;
    ended.status = PHI_JOB_SUCCEEDED;
    ended.finished_s = phi_clock_unix_s();
    ended.progress = 1.0;
    ended.bytes_done = ended.bytes_total;
    ended.result =
        phi_job_result_text(artifacts, self->quality ? json_incref(self->quality) : NULL, NULL);
    status = phi_store_job_complete(job->app->store, &ended, self->out_path, &file, &model, err);
    if (status) {
        phi_free(ended.result);
        phi_free(model.quality);
        return status;
    }
    phi_free(record->result);
    *record = ended;
    job->model = model;
    return PHI_OK;
}

/* ---- the end ---- */

/* Messages of the engine name files by path; a client knows only their names. */
static void hide_path(phi_err *err, const char *dir)
{
    size_t bytes = strlen(dir);
    for (char *at = strstr(err->message, dir); at; at = strstr(at, dir)) {
        size_t cut = bytes + (at[bytes] == '/');
        memmove(at, at + cut, strlen(at + cut) + 1);
    }
}

static void end_job(run *self, phi_status status, phi_err *err)
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
    record->result = phi_job_result_text(NULL, self->quality ? json_incref(self->quality) : NULL,
                                         cancelled ? NULL : phi_job_error_json(err, code));
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

static phi_status run_steps(run *self, phi_err *err)
{
    phi_err body_err = {0};
    phi_quality quality = {0};
    json_t *body = json_loads(self->job->record.request, 0, NULL);
    phi_status status = body ? phi_job_request_parse(body, &self->request, &body_err)
                             : phi_fail(&body_err, PHI_E_INTERNAL, "the stored request is damaged");
    json_decref(body);
    if (status) {
        *err = body_err;
        return status;
    }
    const phi_job_progress begun = {.stage = "reading"};
    if (!report(self, &begun, NULL)) {
        return phi_fail(err, PHI_E_CANCELLED, "stopped before it began");
    }
    status = prepare(self, err);
    status = status ? status : quantize(self, &quality, err);
    if (!status) {
        self->quality = phi_job_quality_json(&quality);
        status = check_quality(self, &quality, err);
    }
    return status ? status : publish(self, err);
}

static void tell_success(run *self)
{
    const phi_store_job *record = &self->job->record;
    phi_job_add_event(self->job->app->store, record->id, "info", "message", dump(self->quality),
                      "succeeded: %s:%s, %" PRIu64 " bytes", record->model, record->precision,
                      self->job->model.bytes);
    phi_log(PHI_LOG_INFO, "jobs", "job_succeeded", "id=%s model=%s:%s bytes=%" PRIu64, record->id,
            record->model, record->precision, self->job->model.bytes);
}

void phi_job_run(void *arg)
{
    phi_job *job = arg;
    run self = {.job = job, .work_dir = phi_store_work_path(job->app->store, job->record.id)};
    self.out_path = phi_strfmt("%s/result.gguf", self.work_dir);
    phi_err err = {0};
    phi_status status = PHI_OK;
    job->record.status = PHI_JOB_RUNNING;
    job->record.started_s = phi_clock_unix_s();
    int code = pthread_mutex_lock(&job->lock);
    PHI_ASSERT(code == 0);
    job->started_s = job->record.started_s;
    code = pthread_mutex_unlock(&job->lock);
    PHI_ASSERT(code == 0);
    phi_log(PHI_LOG_INFO, "jobs", "job_started", "id=%s model=%s:%s", job->record.id,
            job->record.model, job->record.precision);
    status = run_steps(&self, &err);
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
    json_decref(self.quality);
    phi_job_prepared_done(&self.prepared);
    phi_job_request_done(&self.request);
    phi_free(self.work_dir);
    phi_free(self.out_path);
}
