/*
 * Purpose: jobs, events, quality reports and errors as the API shows them.
 * Owns:    nothing; each function returns a fresh reference.
 * Threads: [any]. Errors: none. Limits: none.
 */
#ifndef PHI_SERVER_QUANTIZATION_JOB_JSON_H
#define PHI_SERVER_QUANTIZATION_JOB_JSON_H

#include "base/status.h"
#include "engine/engine.h"
#include "server/store/store.h"

#include <jansson.h>

json_t *phi_job_json(const phi_store_job *job);
json_t *phi_job_event_json(const char *job_id, const phi_store_event *event);
/* The number of the event that has this id in the job; 0 when the id is not one of its. */
uint32_t phi_job_event_number(const char *job_id, const char *event_id);
json_t *phi_job_quality_json(const phi_quality *quality);
/* {"message", "code", "param"}; `code` NULL: after the status. */
json_t *phi_job_error_json(const phi_err *err, const char *code);
/* A job's `result` column; each may be NULL and is taken. */
char *phi_job_result_text(json_t *artifacts, json_t *quality, json_t *error);

#endif
