/*
 * Purpose: routes for whoever runs the daemon: healthz, readyz, metrics, openapi.json and "/".
 * Owns:    nothing. Threads: [loop]. Errors: 503 from readyz while shutting down. Limits: none.
 */
#ifndef PHI_SERVER_OPERATIONS_H
#define PHI_SERVER_OPERATIONS_H

#include "server/http/http.h"

#include <stddef.h>

extern const phi_route phi_operations_routes[];
extern const size_t phi_operations_routes_count;

#endif
