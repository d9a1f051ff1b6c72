/*
 * Purpose: jobs of both kinds, events, reports and errors as the API shows them.
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
/* Of the job, its id and kind count. */
json_t *phi_job_event_json(const phi_store_job *job, const phi_store_event *event);
/* The number of the event that has this id in the job; 0 when the id is not one of its. */
uint32_t phi_job_event_number(const char *job_id, const char *event_id);
json_t *phi_job_quality_json(const phi_quality *quality);
/* {"message", "code", "param"}; `code` NULL: after the status. */
json_t *phi_job_error_json(const phi_err *err, const char *code);
/* {"format", "file_id", "bytes", "sha256"} */
json_t *phi_job_artifact_json(const char *format, const phi_store_file *file);
/* Sets `lossless` and `changes`: how the model's values went over. `report` NULL: as they are. */
void phi_job_set_report(json_t *object, const phi_convert_report *report);
/* The matrices of floats that were rounded to 16 bits. */
uint32_t phi_job_rounded(const phi_convert_report *report);

#endif
