#include "server/quantization/job_routes.h"

#include "base/mem.h"
#include "server/openai/errors.h"
#include "server/quantization/job_handlers.h"
#include "server/quantization/job_request.h"
#include "server/quantization/job_source.h"

static phi_status resolve(phi_app *app, void *wanted, phi_store_source **out_sources,
                          size_t *out_count, phi_err *err)
{
    return phi_job_source_resolve(app, wanted, out_sources, out_count, err);
}

static void wanted_free(void *wanted)
{
    phi_job_request_done(wanted);
    phi_free(wanted);
}

static void submit_job(void *app, phi_request *request, void *sink_state)
{
    (void)sink_state;
    phi_err err = {0};
    phi_job_request *wanted = phi_alloc_zero(1, sizeof *wanted);
    if (phi_job_request_parse(phi_request_json(request), wanted, &err)) {
        phi_respond_err(request, &err, "not_found");
        wanted_free(wanted);
        return;
    }
    phi_job_submission submission = {
        .resolve = resolve, .wanted = wanted, .wanted_free = wanted_free};
    phi_job_fill(&submission.job, PHI_JOB_QUANTIZATION, wanted->normal, wanted->model,
                 phi_job_request_label(wanted));
    phi_job_submit(app, request, &submission);
}

static void list_jobs(void *app, phi_request *request, void *sink_state)
{
    (void)sink_state;
    phi_job_answer_list(app, request, PHI_JOB_QUANTIZATION);
}

static void get_job(void *app, phi_request *request, void *sink_state)
{
    (void)sink_state;
    phi_job_answer_get(app, request, PHI_JOB_QUANTIZATION);
}

static void cancel_job(void *app, phi_request *request, void *sink_state)
{
    (void)sink_state;
    phi_job_answer_cancel(app, request, PHI_JOB_QUANTIZATION);
}

static void get_events(void *app, phi_request *request, void *sink_state)
{
    (void)sink_state;
    phi_job_answer_events(app, request, PHI_JOB_QUANTIZATION);
}

const phi_route phi_job_routes[] = {
    {"POST", "/v1/quantization/jobs", PHI_BODY_JSON, NULL, false, submit_job},
    {"GET", "/v1/quantization/jobs", PHI_BODY_NONE, NULL, false, list_jobs},
    {"GET", "/v1/quantization/jobs/{id}", PHI_BODY_NONE, NULL, false, get_job},
    {"POST", "/v1/quantization/jobs/{id}/cancel", PHI_BODY_NONE, NULL, false, cancel_job},
    {"GET", "/v1/quantization/jobs/{id}/events", PHI_BODY_NONE, NULL, false, get_events},
};
const size_t phi_job_routes_count = sizeof phi_job_routes / sizeof *phi_job_routes;
