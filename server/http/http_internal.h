/*
 * Purpose: what the files of server/http share: the request's state and how it moves.
 * Owns:    see http.h. Threads: [loop]. Errors: none. Limits: below.
 *
 *   headers -> (body -> (parse | write)*) -> handler -> (deferred) -> answer -> completed
 *
 * libmicrohttpd calls the access handler once with the headers, then for each piece of body, then
 * until a response is queued. A request that has to wait is suspended; phi_http_resume makes
 * libmicrohttpd call again.
 */
#ifndef PHI_SERVER_HTTP_HTTP_INTERNAL_H
#define PHI_SERVER_HTTP_HTTP_INTERNAL_H

#include "server/http/http.h"

#include "base/buf.h"

#include <microhttpd.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

/* {parts} of a pattern. */
#define PHI_HTTP_PARTS_MAX 4U
/* Query parameters, and text fields of a form. */
#define PHI_HTTP_PAIRS_MAX 32U
/* One text field of a form, in bytes. */
#define PHI_HTTP_FIELD_BYTES_MAX 65536U
/* Headers of an answer beside ours. */
#define PHI_HTTP_HEADERS_MAX 8U
/* libmicrohttpd's memory for one connection: bounds the request's headers. */
#define PHI_HTTP_CONNECTION_BYTES (64U << 10)
/* Connections that are being closed gently (linger.c). */
#define PHI_HTTP_LINGER_MAX 64U

typedef struct phi_pair {
    char *name;
    char *value;
} phi_pair;

typedef struct phi_pairs {
    phi_pair items[PHI_HTTP_PAIRS_MAX];
    size_t count;
} phi_pairs;

/* One per TCP connection: bounds the time without a request, whatever trickles in. */
typedef struct phi_connection {
    phi_http *http;
    int fd;
    uint64_t idle_since_ns; /* 0: a request is in progress */
    struct phi_connection *next;
    struct phi_connection *prev;
} phi_connection;

typedef enum phi_request_phase {
    PHI_PHASE_HEADERS,
    PHI_PHASE_BODY,     /* collecting or sinking */
    PHI_PHASE_DISCARD,  /* the answer is known; a short body is read away first */
    PHI_PHASE_COMPLETE, /* the body has ended; it is being parsed or written */
    PHI_PHASE_HANDLED,  /* the handler was called */
    PHI_PHASE_QUEUED,   /* libmicrohttpd has the answer */
    PHI_PHASE_DEAD,     /* the connection is to be closed */
} phi_request_phase;

struct phi_stream {
    phi_request *request;
    phi_buf pending;
    size_t taken_bytes; /* of pending */
    bool ended;
    bool sent; /* something went out since `drained` was last called */
    uint64_t last_ns;
    void (*drained)(void *user);
    void *drained_user;
    phi_stream *next;
    phi_stream *prev;
};

typedef struct phi_sink_run phi_sink_run; /* sink.c */

struct phi_request {
    phi_http *http; /* NULL once the connection is gone and only the worker pool has the request */
    struct MHD_Connection *connection;
    phi_connection *tcp;
    phi_request *next;
    phi_request *prev;

    phi_request_phase phase;
    unsigned status;
    bool head;
    bool in_handler;
    bool working; /* the worker pool has the request */
    bool suspended;
    bool deferred;
    bool close_early; /* the answer comes before the end of the body */
    bool half_closed; /* the client sends no more, though its body has not ended here yet */
    const phi_route *route;
    char *method;
    char *path;
    char *parts[PHI_HTTP_PARTS_MAX];
    size_t n_parts;
    phi_pairs query;
    phi_pairs form;
    char id[65];
    uint64_t started_ns;
    uint64_t client;

    phi_buf body;
    uint64_t body_bytes; /* received */
    uint64_t held_bytes; /* of http->held_bytes */
    uint64_t json_bytes; /* memory of `json`, an estimate from above */
    uint64_t window_ns;  /* when the window began in which the body's rate is measured */
    uint64_t window_bytes;
    json_t *json;
    phi_sink_run *sink;

    void (*gone)(void *user);
    void *gone_user;
    uv_poll_t *watch;

    phi_stream *stream;
    struct MHD_Response *response;
    uint64_t answer_bytes;
    phi_pair headers[PHI_HTTP_HEADERS_MAX];
    size_t n_headers;
    phi_buf plain; /* the body of an error, for when it must be written past libmicrohttpd */
};

typedef struct phi_linger phi_linger;

struct phi_http {
    phi_http_options options;
    struct MHD_Daemon *daemon;
    int listen_fd;
    uint16_t port;
    uv_poll_t poll;
    uv_timer_t timer; /* libmicrohttpd's next timeout, or a turn that is due */
    uv_timer_t tick;  /* once a second: keep-alive comments, idle connections */
    unsigned handles_open;
    bool kicked;
    bool stopping;
    phi_request *requests;
    size_t n_requests;
    size_t n_half_closed; /* of these */
    uint64_t held_bytes;  /* JSON bodies of all requests, as text or parsed */
    phi_stream *streams;
    phi_connection *connections;
    phi_linger *lingers;
    size_t n_lingers;
};

/* listen.c: a bound, listening socket. */
phi_status phi_http_listen(const char *address, int *out_fd, uint16_t *out_port, phi_err *err);

/* linger.c: keeps a copy of the connection until the client has read the answer. */
void phi_linger_start(phi_http *http, int fd);
void phi_linger_stop_all(phi_http *http);
void phi_lingers_tick(phi_http *http, uint64_t now_ns);

/* http.c */
void phi_http_kick(phi_http *http);
void phi_http_suspend(phi_request *request);
void phi_http_resume(phi_request *request);
void phi_http_watch(phi_request *request);
void phi_http_unwatch(phi_request *request);
void phi_http_handle_closed(uv_handle_t *handle);
/* Calls the handler of a request whose body is complete. */
void phi_http_dispatch(phi_request *request, void *sink_state);
/* Tells the request's owner, once, that the client left. */
void phi_request_tell_gone(phi_request *request);

/* request.c */
phi_request *phi_request_create(phi_http *http, struct MHD_Connection *connection,
                                const char *method, const char *path);
void phi_request_destroy(phi_request *request);
/* Decodes %XX; NULL when malformed, or when the result has a NUL or is not UTF-8. */
char *phi_http_decode(const char *text, size_t bytes);
/* Fills request->query and checks the path; answers 400 and returns false when it is malformed. */
bool phi_request_read_query(phi_request *request);
const char *phi_pairs_get(const phi_pairs *pairs, const char *name);
/* False when there is no room. Takes name and value. */
bool phi_pairs_add(phi_pairs *pairs, char *name, char *value);
void phi_pairs_done(phi_pairs *pairs);

/* route.c: fills request->route and parts, or answers 404, 405. */
bool phi_http_route(phi_request *request);

/* respond.c: a response that becomes the request's answer. Takes it. */
void phi_respond(phi_request *request, unsigned status, struct MHD_Response *response);
/* Writes an error that is known before the body was read to its end; the connection closes. */
void phi_respond_past(phi_request *request);

/* body.c: checks headers before the body; false: answered. */
bool phi_body_begin(phi_request *request);
/* A piece of body. */
void phi_body_data(phi_request *request, const char *data, size_t bytes);
/* Closes connections whose body arrives too slowly. */
void phi_bodies_tick(phi_http *http, uint64_t now_ns);
/* Gives back what the request's body holds. */
void phi_body_release(phi_request *request);
/* The body is complete. */
void phi_body_end(phi_request *request);
/* Content-Length; false when absent. */
bool phi_body_length(const phi_request *request, uint64_t *out_bytes);
bool phi_body_has(const phi_request *request);

/* sink.c */
bool phi_sink_begin(phi_request *request);
void phi_sink_data(phi_request *request, const char *data, size_t bytes);
void phi_sink_end(phi_request *request);
/* Aborts what is not finished. */
void phi_sink_destroy(phi_sink_run *sink);

/* stream.c */
void phi_stream_unlink(phi_request *request);
void phi_stream_destroy(phi_stream *stream);
void phi_streams_tick(phi_http *http, uint64_t now_ns);

#endif
