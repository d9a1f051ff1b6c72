/*
 * Purpose: the only place that turns a phi_status into an HTTP status and OpenAI's error type.
 * Owns: nothing. Threads: [loop]. Errors: none. Limits: none.
 */
#ifndef PHI_SERVER_OPENAI_ERRORS_H
#define PHI_SERVER_OPENAI_ERRORS_H

#include "base/status.h"
#include "server/http/http.h"

/* Answers with the error: E_INVALID, E_FORMAT, E_UNSUPPORTED 400; E_NOT_FOUND 404 (code from
 * `what`: "model_not_found" or "not_found"); E_EXISTS and E_STATE 409; E_LIMIT 413 or 400;
 * E_BUSY 503 with Retry-After; E_NO_SPACE 507; the rest 500. */
void phi_respond_err(phi_request *request, const phi_err *err, const char *not_found_code);

#endif
