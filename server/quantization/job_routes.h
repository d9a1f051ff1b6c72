/*
 * Purpose: the /v1/quantization/jobs routes: submit, list, read, cancel, events.
 * Owns:    nothing that outlives a request. Threads: [loop]; store writes are [job].
 * Errors:  OpenAI's error object; the field is named.
 * Limits:  PHI_LIMIT_PAGE, PHI_LIMIT_JOB_FILES, PHI_LIMIT_METADATA_*.
 */
#ifndef PHI_SERVER_QUANTIZATION_JOB_ROUTES_H
#define PHI_SERVER_QUANTIZATION_JOB_ROUTES_H

#include "server/http/http.h"

#include <stddef.h>

extern const phi_route phi_job_routes[];
extern const size_t phi_job_routes_count;

#endif
