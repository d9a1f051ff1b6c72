/*
 * Purpose: what the routes of quantization jobs and of exports have in common: submit, list, read,
 *          cancel, events.
 * Owns:    nothing that outlives a request. Threads: [loop]; store writes are [job].
 * Errors:  OpenAI's error object; the field is named.
 * Limits:  PHI_LIMIT_PAGE, PHI_LIMIT_JOBS_UNFINISHED.
 */
#ifndef PHI_SERVER_QUANTIZATION_JOB_HANDLERS_H
#define PHI_SERVER_QUANTIZATION_JOB_HANDLERS_H

#include "server/app.h"
#include "server/http/http.h"
#include "server/store/store.h"

#include <jansson.h>
#include <stddef.h>

/* A job that is wanted. */
typedef struct phi_job_submission {
    phi_store_job job; /* its strings are taken */
    /* [job] Finds what it reads; phi_store_sources_free. */
    phi_status (*resolve)(phi_app *app, void *wanted, phi_store_source **out_sources,
                          size_t *out_count, phi_err *err);
    void *wanted; /* taken */
    void (*wanted_free)(void *wanted);
} phi_job_submission;

/* Fills what a new job of the kind has, with the text of `normal`. */
void phi_job_fill(phi_store_job *job, phi_job_kind kind, const json_t *normal, const char *model,
                  const char *precision);
/* Stores the job, queues it and answers with its object. */
void phi_job_submit(phi_app *app, phi_request *request, const phi_job_submission *submission);

void phi_job_answer_list(phi_app *app, phi_request *request, phi_job_kind kind);
void phi_job_answer_get(phi_app *app, phi_request *request, phi_job_kind kind);
void phi_job_answer_cancel(phi_app *app, phi_request *request, phi_job_kind kind);
void phi_job_answer_events(phi_app *app, phi_request *request, phi_job_kind kind);

#endif
