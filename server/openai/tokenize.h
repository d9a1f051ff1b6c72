/*
 * Purpose: POST /v1/tokenize and /v1/detokenize. Owns: nothing. Threads: [loop].
 * Errors: OpenAI's error object. Limits: PHI_LIMIT_TEXT_BYTES.
 */
#ifndef PHI_SERVER_OPENAI_TOKENIZE_H
#define PHI_SERVER_OPENAI_TOKENIZE_H

#include "server/http/http.h"

extern const phi_route phi_tokenize_routes[];
extern const size_t phi_tokenize_routes_count;

#endif
