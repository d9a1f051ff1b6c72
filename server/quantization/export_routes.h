/*
 * Purpose: the /v1/exports routes: submit, list, read, cancel, events.
 * Owns:    nothing that outlives a request. Threads: [loop]; store writes are [job].
 * Errors:  OpenAI's error object; the field is named.
 * Limits:  PHI_LIMIT_PAGE, PHI_LIMIT_METADATA_*.
 */
#ifndef PHI_SERVER_QUANTIZATION_EXPORT_ROUTES_H
#define PHI_SERVER_QUANTIZATION_EXPORT_ROUTES_H

#include "server/http/http.h"

#include <stddef.h>

extern const phi_route phi_export_routes[];
extern const size_t phi_export_routes_count;

#endif
