/*
 * Purpose: OpenAI's cursor pages: the query parameters and the list object.
 * Owns:    nothing. Threads: [loop].
 * Errors:  PHI_E_INVALID naming `limit`, `after` or `order`.
 * Limits:  PHI_LIMIT_PAGE entries a page.
 */
#ifndef PHI_SERVER_OPENAI_PAGES_H
#define PHI_SERVER_OPENAI_PAGES_H

#include "base/status.h"
#include "server/http/http.h"
#include "server/store/store.h"

#include <jansson.h>
#include <stddef.h>

/* Reads ?limit, ?after and ?order (asc, desc). `after` is a view into the request. */
phi_status phi_page_parse(const phi_request *request, size_t limit_default,
                          phi_store_page *out_page, phi_err *err) PHI_MUST_CHECK;
/* {"object":"list","data":[...],"has_more":...,"first_id":...,"last_id":...}; takes `data`, whose
 * entries have an "id". */
json_t *phi_page_json(json_t *data, bool more);

#endif
