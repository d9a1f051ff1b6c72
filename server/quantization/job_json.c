#include "server/quantization/job_json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "server/http/http.h"

/* Below this share of the work an estimate would be noise. */
#define ETA_PROGRESS_MIN 0.02

static json_t *time_or_null(int64_t seconds)
{
    return seconds > 0 ? json_integer(seconds) : json_null();
}

static json_t *eta(const phi_store_job *job)
{
    if (job->status != PHI_JOB_RUNNING || job->progress < ETA_PROGRESS_MIN) {
        return json_null();
    }
    double elapsed_s = (double)(phi_clock_unix_s() - job->started_s);
    return json_integer((json_int_t)ceil(elapsed_s * (1.0 - job->progress) / job->progress));
}

static json_t *parse_or_empty(const char *text)
{
    json_t *object = text ? json_loads(text, 0, NULL) : NULL;
    return object ? object : json_object();
}

/* Copies fields that are there; absent ones become null. */
static void copy_fields(json_t *to, const json_t *from, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        json_t *value = json_object_get(from, names[i]);
        (void)json_object_set_new(to, names[i], value ? json_incref(value) : json_null());
    }
}

json_t *phi_job_json(const phi_store_job *job)
{
    static const char *const asked[] = {"source",    "method",  "group_size",
                                        "symmetric", "formats", "metadata"};
    static const char *const got[] = {"artifacts", "quality", "error"};
    json_t *request = parse_or_empty(job->request);
    json_t *result = parse_or_empty(job->result);
    json_t *object = json_pack(
        "{s:s, s:s, s:I, s:o, s:o, s:s, s:s, s:s, s:f, s:I, s:I, s:o}", "id", job->id, "object",
        "quantization.job", "created_at", (json_int_t)job->created_s, "started_at",
        time_or_null(job->started_s), "finished_at", time_or_null(job->finished_s), "status",
        phi_job_status_name(job->status), "model", job->model, "precision", job->precision,
        "progress", job->progress, "bytes_done", (json_int_t)job->bytes_done, "bytes_total",
        (json_int_t)job->bytes_total, "eta_seconds", eta(job));
    PHI_ASSERT(object);
    (void)json_object_set_new(object, "stage",
                              job->stage[0] ? json_string(job->stage) : json_null());
    (void)json_object_set_new(object, "result_model",
                              job->status == PHI_JOB_SUCCEEDED
                                  ? json_sprintf("%s:%s", job->model, job->precision)
                                  : json_null());
    copy_fields(object, request, asked, sizeof asked / sizeof *asked);
    copy_fields(object, result, got, sizeof got / sizeof *got);
    if (!json_is_array(json_object_get(object, "artifacts"))) {
        (void)json_object_set_new(object, "artifacts", json_array());
    }
    json_decref(request);
    json_decref(result);
    return object;
}

/* ---- events ---- */

#define JOB_PREFIX "qjob-"
#define EVENT_PREFIX "qjobevent-"

json_t *phi_job_event_json(const char *job_id, const phi_store_event *event)
{
    json_t *data = event->data ? json_loads(event->data, 0, NULL) : NULL;
    return json_pack("{s:o, s:s, s:I, s:s, s:o, s:s, s:o}", "id",
                     json_sprintf(EVENT_PREFIX "%s-%u", job_id + strlen(JOB_PREFIX), event->number),
                     "object", "quantization.job.event", "created_at", (json_int_t)event->created_s,
                     "level", event->level, "message", phi_text_json(event->message), "type",
                     event->type, "data", data ? data : json_null());
}

uint32_t phi_job_event_number(const char *job_id, const char *event_id)
{
    char *prefix = phi_strfmt(EVENT_PREFIX "%s-", job_id + strlen(JOB_PREFIX));
    uint64_t number = 0;
    if (phi_str_starts(event_id, prefix)) {
        (void)phi_str_parse_u64(event_id + strlen(prefix), UINT32_MAX, &number);
    }
    phi_free(prefix);
    return (uint32_t)number;
}

/* ---- results ---- */

/* JSON has no infinities: a measurement that overflowed is null. */
static json_t *number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

json_t *phi_job_quality_json(const phi_quality *quality)
{
    if (!quality->measured) {
        return NULL;
    }
    return json_pack(
        "{s:{s:o, s:o}, s:{s:o, s:o}, s:o, s:I, s:I, s:I, s:o, s:{s:o, s:o}, s:{s:s, s:s, s:s},"
        " s:I, s:I, s:o}",
        "perplexity", "source", number(quality->perplexity_source), "result",
        number(quality->perplexity_result), "kl_divergence", "mean", number(quality->kl_mean),
        "p99", number(quality->kl_p99), "top1_agreement", number(quality->top1_agreement),
        "tensors", (json_int_t)quality->tensors, "tensors_quantized",
        (json_int_t)quality->tensors_quantized, "eval_tokens", (json_int_t)quality->eval_tokens,
        "weight_rmse", number(quality->weight_rmse), "worst_tensor", "name",
        phi_text_json(quality->worst_tensor), "rmse", number(quality->worst_rmse), "types",
        "matrices", quality->matrix_type ? quality->matrix_type : "", "embedding",
        quality->embedding_type ? quality->embedding_type : "", "head",
        quality->head_type ? quality->head_type : "", "source_bytes",
        (json_int_t)quality->source_bytes, "result_bytes", (json_int_t)quality->result_bytes,
        "seconds", number(quality->seconds));
}

static const char *error_code(phi_status status)
{
    switch (status) {
    case PHI_E_FORMAT:
    case PHI_E_INVALID:
    case PHI_E_EXISTS:
        return "invalid_model";
    case PHI_E_UNSUPPORTED:
        return "unsupported_model";
    case PHI_E_NOT_FOUND:
        return "not_found";
    case PHI_E_NO_SPACE:
        return "insufficient_storage";
    case PHI_E_NO_MEMORY:
        return "insufficient_memory";
    case PHI_E_LIMIT:
        return "limit_exceeded";
    case PHI_E_CANCELLED:
        return "cancelled";
    case PHI_OK:
    case PHI_E_IO:
    case PHI_E_BUSY:
    case PHI_E_STATE:
    case PHI_E_INTERNAL:
        break;
    }
    return "internal_error";
}

json_t *phi_job_error_json(const phi_err *err, const char *code)
{
    return json_pack("{s:o, s:s, s:o}", "message", phi_text_json(err->message), "code",
                     code ? code : error_code(err->code), "param",
                     err->param[0] ? phi_text_json(err->param) : json_null());
}

char *phi_job_result_text(json_t *artifacts, json_t *quality, json_t *error)
{
    json_t *object = json_object();
    if (artifacts) {
        (void)json_object_set_new(object, "artifacts", artifacts);
    }
    if (quality) {
        (void)json_object_set_new(object, "quality", quality);
    }
    if (error) {
        (void)json_object_set_new(object, "error", error);
    }
    char *dumped = json_dumps(object, JSON_COMPACT);
    PHI_ASSERT(dumped);
    char *text = phi_strdup(dumped);
    phi_free(dumped);
    json_decref(object);
    return text;
}
