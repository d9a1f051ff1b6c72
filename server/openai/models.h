/*
 * Purpose: the /v1/models routes: what can be served, and forgetting a model.
 * Owns:    nothing. Threads: [loop].
 * Errors:  404 model_not_found names the models that exist.
 * Limits:  none; the list is as long as the registry.
 */
#ifndef PHI_SERVER_OPENAI_MODELS_H
#define PHI_SERVER_OPENAI_MODELS_H

#include "server/http/http.h"

#include <stddef.h>

extern const phi_route phi_models_routes[];
extern const size_t phi_models_routes_count;

#endif
