/*
 * Purpose: all routes of the daemon in one table.
 * Owns:    the table, from phi_routes_create to phi_routes_destroy.
 * Threads: [loop]. Errors: none. Limits: none.
 */
#ifndef PHI_SERVER_ROUTES_H
#define PHI_SERVER_ROUTES_H

#include "server/http/http.h"

#include <stddef.h>

phi_route *phi_routes_create(size_t *out_count);
void phi_routes_destroy(phi_route *routes);

#endif
