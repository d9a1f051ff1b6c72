/*
 * Purpose: HTTP inside the libuv loop: libmicrohttpd without a thread of its own, requests,
 *          answers, event streams and streamed bodies.
 * Owns:    phi_http owns the listening socket and all connections; a phi_request lives from its
 *          first header to the moment its answer has been sent or its client has gone.
 * Threads: [loop] throughout, except a body sink's write and finish, which are [job].
 * Errors:  answered to the client in OpenAI's error form; listening failures are returned.
 * Limits:  phi_http_options.
 *
 * A handler must do exactly one of: answer (phi_respond_*), begin a stream, or defer. After
 * phi_request_defer it answers later, once, on the loop thread; or its `gone` callback tells that
 * the client left, after which the request must not be touched.
 *
 * A client that closes its sending half while an answer is being made or streamed looks the same as
 * one that left, and is treated so.
 */
#ifndef PHI_SERVER_HTTP_HTTP_H
#define PHI_SERVER_HTTP_HTTP_H

#include "base/buf.h"
#include "base/status.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct uv_loop_s;

typedef struct phi_work phi_work;
typedef struct phi_http phi_http;
typedef struct phi_request phi_request;
typedef struct phi_stream phi_stream;

/* How JSON is written for clients: fractions with ten digits, which is more than a float holds and
 * without the noise that a double's seventeen show. */
#define PHI_JSON_TEXT (JSON_COMPACT | JSON_REAL_PRECISION(10))

/* ---- answers ---- */

/* Takes the reference. */
void phi_respond_json(phi_request *request, unsigned status, json_t *body);
/* Takes the buffer's memory. */
void phi_respond_text(phi_request *request, unsigned status, const char *content_type,
                      phi_buf *body);
/* OpenAI's error object; param and code may be NULL. */
void phi_respond_error(phi_request *request, unsigned status, const char *type, const char *code,
                       const char *param, const char *message);
/* A JSON string of a text that may repeat what a client or a file said: half a character at its end
 * is left out, and if it is no UTF-8 all that is not ASCII is shown as '?'. */
json_t *phi_text_json(const char *text);
/* 204 or another status without a body. */
void phi_respond_empty(phi_request *request, unsigned status);
/* A file with Range, ETag and zero-copy (sendfile); takes the descriptor. */
void phi_respond_file(phi_request *request, int fd, uint64_t bytes, const char *etag,
                      const char *content_type, const char *download_name);
/* Adds a header to the coming answer. */
void phi_respond_header(phi_request *request, const char *name, const char *value);

/* ---- deferring ---- */

void phi_request_defer(phi_request *request, void (*gone)(void *user), void *user);

/* ---- event streams (text/event-stream) ---- */

/* Begins the answer with status 200. `gone` is called once if the client leaves before
 * phi_stream_end. Works on deferred requests too (their own `gone` is then replaced). */
phi_stream *phi_respond_stream(phi_request *request, void (*gone)(void *user), void *user);
/* One event: "data: TEXT\n\n", with "event: NAME\n" before it when name is not NULL. */
void phi_stream_event(phi_stream *stream, const char *name, const char *data, size_t bytes);
/* Bytes accepted but not yet taken by the client: for callers that produce faster. */
size_t phi_stream_backlog_bytes(const phi_stream *stream);
/* `drained` is called when the backlog has fallen to zero after a send. */
void phi_stream_on_drained(phi_stream *stream, void (*drained)(void *user), void *user);
void phi_stream_end(phi_stream *stream);

/* ---- requests ---- */

const char *phi_request_method(const phi_request *request);
const char *phi_request_path(const phi_request *request);
/* The n-th {part} of the route's pattern, percent-decoded. */
const char *phi_request_part(const phi_request *request, size_t index);
/* NULL when absent. */
const char *phi_request_query(const phi_request *request, const char *name);
const char *phi_request_header(const phi_request *request, const char *name);
/* A text field of a multipart form, NULL when absent. */
const char *phi_request_form(const phi_request *request, const char *name);
/* x-request-id: the client's if it is sane, else ours. */
const char *phi_request_id(const phi_request *request);
/* The whole body of a PHI_BODY_JSON route as a parsed object. Never NULL. */
const json_t *phi_request_json(const phi_request *request);
/* What access control found out: identity for fairness (0: anonymous). */
uint64_t phi_request_client(const phi_request *request);
void phi_request_set_client(phi_request *request, uint64_t client);
/* Bytes of the answer's body that were handed to the client so far; for logs. */
uint64_t phi_request_answer_bytes(const phi_request *request);
/* Monotonic time at which the request began. */
uint64_t phi_request_started_ns(const phi_request *request);

/* ---- routes ---- */

typedef enum phi_body_kind {
    PHI_BODY_NONE, /* a body is ignored */
    PHI_BODY_JSON, /* application/json object, buffered, depth- and size-limited */
    PHI_BODY_SINK, /* streamed to a sink: raw body, or the `file` field of a multipart form */
} phi_body_kind;

/* Where a streamed body goes. Writes run on the worker pool, one at a time per request, while the
 * connection is paused, so that the loop never waits for a disk. */
typedef struct phi_body_sink {
    /* [loop] Headers are known (and form fields before the file). `filename` is the form's, or
     * NULL. Failure answers the error without reading the rest. */
    phi_status (*begin)(void *app, phi_request *request, const char *filename, void **out_state,
                        phi_err *err);
    /* [job] */
    phi_status (*write)(void *state, const void *data, size_t bytes, phi_err *err);
    /* [job] All bytes were written: make durable. */
    phi_status (*finish)(void *state, phi_err *err);
    /* [loop] Undo; the client left, a write failed, or the body was malformed. Frees the state. */
    void (*abort)(void *state);
} phi_body_sink;

typedef struct phi_route {
    const char *method;
    const char *pattern; /* "/v1/files/{id}/content" */
    phi_body_kind body;
    const phi_body_sink *sink; /* PHI_BODY_SINK only */
    bool open;                 /* no API key needed */
    /* [loop] For SINK routes: called after finish succeeded, with the sink's state (now owned by
     * the handler); NULL otherwise. */
    void (*handler)(void *app, phi_request *request, void *sink_state);
} phi_route;

typedef struct phi_http_options {
    struct uv_loop_s *loop;
    phi_work *work; /* body sinks and the parsing of long bodies run here */
    const char *listen;
    uint64_t json_body_bytes_max;
    uint64_t upload_bytes_max;
    uint32_t connections_max;
    uint32_t idle_timeout_s;
    const phi_route *routes; /* static */
    size_t n_routes;
    void *app; /* passed to handlers and sinks */
    /* [loop] Before a route that is not open: false when it has answered the request itself. */
    bool (*admit)(void *app, phi_request *request);
    /* [loop] Answers a request whose sink failed. */
    void (*fail)(void *app, phi_request *request, const phi_err *err);
    /* [loop] After each answer, for logs and metrics. `route_pattern` is NULL when no route
     * matched; `status` is 499 when the client left before there was one. */
    void (*finished)(void *app, const phi_request *request, const char *route_pattern,
                     unsigned status, uint64_t duration_ns);
} phi_http_options;

phi_status phi_http_start(const phi_http_options *options, phi_http **out_http,
                          phi_err *err) PHI_MUST_CHECK;
/* The port that was bound (for port 0). */
uint16_t phi_http_port(const phi_http *http);
/* Stops accepting; existing connections go on. */
void phi_http_quiesce(phi_http *http);
/* Requests not yet answered whole. */
size_t phi_http_active(const phi_http *http);
/* Closes everything; requests in flight get their `gone`. */
void phi_http_stop(phi_http *http);

#endif
