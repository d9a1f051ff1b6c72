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

/* What both kinds have. */
static json_t *common_json(const phi_store_job *job, const char *object_name)
{
    json_t *object = json_pack(
        "{s:s, s:s, s:I, s:o, s:o, s:s, s:f, s:I, s:I, s:o}", "id", job->id, "object", object_name,
        "created_at", (json_int_t)job->created_s, "started_at", time_or_null(job->started_s),
        "finished_at", time_or_null(job->finished_s), "status", phi_job_status_name(job->status),
        "progress", job->progress, "bytes_done", (json_int_t)job->bytes_done, "bytes_total",
        (json_int_t)job->bytes_total, "eta_seconds", eta(job));
    PHI_ASSERT(object);
    (void)json_object_set_new(object, "stage",
                              job->stage[0] ? json_string(job->stage) : json_null());
    return object;
}

static json_t *quantization_json(const phi_store_job *job, const json_t *request,
                                 const json_t *result)
{
    static const char *const asked[] = {"source",     "type",           "method",
                                        "group_size", "symmetric",      "formats",
                                        "provider",   "context_length", "metadata"};
    static const char *const got[] = {"artifacts", "quality", "error"};
    json_t *object = common_json(job, "quantization.job");
    (void)json_object_set_new(object, "model", json_string(job->model));
    (void)json_object_set_new(object, "precision", json_string(job->precision));
    (void)json_object_set_new(object, "result_model",
                              job->status == PHI_JOB_SUCCEEDED
                                  ? json_sprintf("%s:%s", job->model, job->precision)
                                  : json_null());
    copy_fields(object, request, asked, sizeof asked / sizeof *asked);
    copy_fields(object, result, got, sizeof got / sizeof *got);
    return object;
}

static json_t *export_json(const phi_store_job *job, const json_t *request, const json_t *result)
{
    static const char *const asked[] = {"model",     "format",   "precision",      "group_size",
                                        "symmetric", "provider", "context_length", "metadata"};
    static const char *const got[] = {"lossless", "changes", "artifacts", "error"};
    json_t *object = common_json(job, "export");
    copy_fields(object, request, asked, sizeof asked / sizeof *asked);
    copy_fields(object, result, got, sizeof got / sizeof *got);
    if (!json_is_array(json_object_get(object, "changes"))) {
        (void)json_object_set_new(object, "changes", json_array());
    }
    return object;
}

json_t *phi_job_json(const phi_store_job *job)
{
    json_t *request = parse_or_empty(job->request);
    json_t *result = parse_or_empty(job->result);
    json_t *object = job->kind == PHI_JOB_EXPORT ? export_json(job, request, result)
                                                 : quantization_json(job, request, result);
    if (!json_is_array(json_object_get(object, "artifacts"))) {
        (void)json_object_set_new(object, "artifacts", json_array());
    }
    json_decref(request);
    json_decref(result);
    return object;
}

/* ---- events ---- */

/* "qjob-X" has events "qjobevent-X-N", "export-X" has "exportevent-X-N" (phi_free). */
static char *event_prefix(const char *job_id)
{
    size_t kind_bytes = strcspn(job_id, "-");
    return phi_strfmt("%.*sevent%s-", (int)kind_bytes, job_id, job_id + kind_bytes);
}

json_t *phi_job_event_json(const phi_store_job *job, const phi_store_event *event)
{
    json_t *data = event->data ? json_loads(event->data, 0, NULL) : NULL;
    char *prefix = event_prefix(job->id);
    json_t *object = json_pack(
        "{s:o, s:s, s:I, s:s, s:o, s:s, s:o}", "id", json_sprintf("%s%u", prefix, event->number),
        "object", job->kind == PHI_JOB_EXPORT ? "export.event" : "quantization.job.event",
        "created_at", (json_int_t)event->created_s, "level", event->level, "message",
        phi_text_json(event->message), "type", event->type, "data", data ? data : json_null());
    phi_free(prefix);
    return object;
}

uint32_t phi_job_event_number(const char *job_id, const char *event_id)
{
    char *prefix = event_prefix(job_id);
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

json_t *phi_job_artifact_json(const char *format, const phi_store_file *file)
{
    return json_pack("{s:s, s:s, s:I, s:s}", "format", format, "file_id", file->id, "bytes",
                     (json_int_t)file->bytes, "sha256", file->sha256);
}

/* The error is that of all matrices whose codes or scales are not the model's. */
static json_t *codes_change(const char *change, uint32_t matrices, json_t *reason,
                            const phi_convert_report *report)
{
    return json_pack("{s:s, s:I, s:o, s:o, s:{s:o, s:o}}", "change", change, "matrices",
                     (json_int_t)matrices, "reason", reason, "weight_rmse",
                     number(report->weight_rmse), "worst_tensor", "name",
                     phi_text_json(report->worst_tensor), "rmse", number(report->worst_rmse));
}

uint32_t phi_job_rounded(const phi_convert_report *report)
{
    return report->matrices - report->exact - report->rescaled - report->requantized;
}

void phi_job_set_report(json_t *object, const phi_convert_report *report)
{
    const phi_convert_report none = {0};
    const phi_convert_report *r = report ? report : &none;
    json_t *changes = json_array();
    if (r->requantized > 0) {
        json_t *reason = json_sprintf("tensor '%s': %s", r->first_requantized,
                                      r->requantized_why ? r->requantized_why : "unknown");
        (void)json_array_append_new(changes, codes_change("coded_anew", r->requantized, reason, r));
    }
    if (r->rescaled > 0) {
        json_t *reason = json_string("the codes are the model's; the format has fp16 for scales "
                                     "that have more bits");
        (void)json_array_append_new(changes, codes_change("rescaled", r->rescaled, reason, r));
    }
    if (phi_job_rounded(r) > 0) {
        (void)json_array_append_new(changes,
                                    json_pack("{s:s, s:I, s:s, s:n, s:n}", "change", "rounded",
                                              "matrices", (json_int_t)phi_job_rounded(r), "reason",
                                              "the format has fp16 where the model has more bits",
                                              "weight_rmse", "worst_tensor"));
    }
    (void)json_object_set_new(object, "lossless", json_boolean(json_array_size(changes) == 0));
    (void)json_object_set_new(object, "changes", changes);
}
