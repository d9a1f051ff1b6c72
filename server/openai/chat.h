/*
 * Purpose: POST /v1/chat/completions. Owns: nothing. Threads: [loop].
 * Errors: OpenAI's error object. Limits: PHI_LIMIT_CHAT_MESSAGES.
 */
#ifndef PHI_SERVER_OPENAI_CHAT_H
#define PHI_SERVER_OPENAI_CHAT_H

#include "server/http/http.h"

extern const phi_route phi_chat_routes[];
extern const size_t phi_chat_routes_count;

#endif
