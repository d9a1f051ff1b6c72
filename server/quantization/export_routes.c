#include "server/quantization/export_routes.h"

#include <stdio.h>

#include "base/mem.h"
#include "server/openai/errors.h"
#include "server/quantization/export_request.h"
#include "server/quantization/job_handlers.h"
#include "server/registry.h"

/* The blob that the model is made of now: one that is deleted or made anew meanwhile does not
 * matter once the job refers to it. */
static phi_status resolve(phi_app *app, void *wanted, phi_store_source **out_sources,
                          size_t *out_count, phi_err *err)
{
    (void)app;
    (void)err;
    *out_sources = phi_alloc_zero(1, sizeof **out_sources);
    **out_sources = *(const phi_store_source *)wanted;
    *out_count = 1;
    return PHI_OK;
}

static phi_store_source *source_of(const phi_registry_entry *entry)
{
    phi_store_source *source = phi_alloc_zero(1, sizeof *source);
    source->bytes = entry->bytes;
    (void)snprintf(source->role, sizeof source->role, "model");
    (void)snprintf(source->filename, sizeof source->filename, "%.64s-%s.gguf", entry->name,
                   entry->precision);
    (void)snprintf(source->sha256, sizeof source->sha256, "%s", entry->sha256);
    return source;
}

static phi_status check_export(phi_app *app, phi_request *request, phi_export_request *out_wanted,
                               const phi_registry_entry **out_entry, phi_err *err)
{
    phi_status status = phi_export_request_parse(phi_request_json(request), out_wanted, err);
    if (status) {
        return status;
    }
    *out_entry = phi_registry_find(app->registry, out_wanted->model, NULL, err);
    if (!*out_entry) {
        return PHI_E_NOT_FOUND;
    }
    return phi_export_check_model(out_wanted, (*out_entry)->architecture, (*out_entry)->precision,
                                  (*out_entry)->context_length, err);
}

static void submit_export(void *app, phi_request *request, void *sink_state)
{
    (void)sink_state;
    phi_err err = {0};
    phi_export_request wanted = {0};
    const phi_registry_entry *entry = NULL;
    phi_status status = check_export(app, request, &wanted, &entry, &err);
    if (status || !entry) {
        phi_respond_err(request, &err, "model_not_found");
        phi_export_request_done(&wanted);
        return;
    }
    /* The alias of a name stands for another model tomorrow. */
    (void)json_object_set_new(wanted.normal, "model", json_string(entry->id));
    phi_job_submission submission = {
        .resolve = resolve, .wanted = source_of(entry), .wanted_free = phi_free};
    phi_job_fill(&submission.job, PHI_JOB_EXPORT, wanted.normal, entry->name, entry->precision);
    phi_export_request_done(&wanted);
    phi_job_submit(app, request, &submission);
}

static void list_exports(void *app, phi_request *request, void *sink_state)
{
    (void)sink_state;
    phi_job_answer_list(app, request, PHI_JOB_EXPORT);
}

static void get_export(void *app, phi_request *request, void *sink_state)
{
    (void)sink_state;
    phi_job_answer_get(app, request, PHI_JOB_EXPORT);
}

static void cancel_export(void *app, phi_request *request, void *sink_state)
{
    (void)sink_state;
    phi_job_answer_cancel(app, request, PHI_JOB_EXPORT);
}

static void get_events(void *app, phi_request *request, void *sink_state)
{
    (void)sink_state;
    phi_job_answer_events(app, request, PHI_JOB_EXPORT);
}

const phi_route phi_export_routes[] = {
    {"POST", "/v1/exports", PHI_BODY_JSON, NULL, false, submit_export},
    {"GET", "/v1/exports", PHI_BODY_NONE, NULL, false, list_exports},
    {"GET", "/v1/exports/{id}", PHI_BODY_NONE, NULL, false, get_export},
    {"POST", "/v1/exports/{id}/cancel", PHI_BODY_NONE, NULL, false, cancel_export},
    {"GET", "/v1/exports/{id}/events", PHI_BODY_NONE, NULL, false, get_events},
};
const size_t phi_export_routes_count = sizeof phi_export_routes / sizeof *phi_export_routes;
