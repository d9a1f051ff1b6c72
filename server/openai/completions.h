/*
 * Purpose: POST /v1/completions. Owns: nothing. Threads: [loop].
 * Errors: OpenAI's error object. Limits: PHI_LIMIT_CHOICES prompts times n.
 */
#ifndef PHI_SERVER_OPENAI_COMPLETIONS_H
#define PHI_SERVER_OPENAI_COMPLETIONS_H

#include "server/http/http.h"

extern const phi_route phi_completions_routes[];
extern const size_t phi_completions_routes_count;

#endif
