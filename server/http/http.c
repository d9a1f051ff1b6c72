/*
 * Invariants:
 * 1. A suspended connection is in no list of libmicrohttpd's that has timeouts or sees its client
 *    leave; everything that suspends for longer than one write therefore calls phi_http_watch.
 * 2. A request with `working` set is being used by the worker pool; when its connection ends first,
 *    request->http becomes NULL and the callback of the work destroys it.
 * 3. Nothing but on_request queues a response with libmicrohttpd.
 */
#include "server/http/http_internal.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "config/limits.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* A body this short is read away when its request is refused, so that the connection lives on. */
#define DISCARD_BYTES_MAX (1U << 20)

/* ---- turns of libmicrohttpd ---- */

static void on_timer(uv_timer_t *timer);

static bool awaits_body(const phi_request *request)
{
    return request->phase == PHI_PHASE_BODY || request->phase == PHI_PHASE_DISCARD;
}

/* libmicrohttpd (0.9.75) takes a read that did not fill its buffer for the last one until epoll
 * reports more, but the end of a connection that arrived with those bytes was reported already: it
 * would never be seen. A resumed connection is read again in any case. Returns whether there are
 * connections to be read on. */
static bool read_on(phi_http *http)
{
    bool any = false;
    for (phi_request *at = http->n_half_closed ? http->requests : NULL; at; at = at->next) {
        if (at->half_closed && !at->suspended && awaits_body(at)) {
            MHD_suspend_connection(at->connection);
            MHD_resume_connection(at->connection);
            any = true;
        }
    }
    return any;
}

static void turn(phi_http *http)
{
    http->kicked = read_on(http);
    (void)MHD_run(http->daemon);
    MHD_UNSIGNED_LONG_LONG wait_ms = 0;
    if (http->kicked) {
        (void)uv_timer_start(&http->timer, on_timer, 0, 0);
    } else if (MHD_get_timeout(http->daemon, &wait_ms) == MHD_YES) {
        (void)uv_timer_start(&http->timer, on_timer, wait_ms, 0);
    } else {
        (void)uv_timer_stop(&http->timer);
    }
}

static void on_timer(uv_timer_t *timer)
{
    turn(timer->data);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    turn(poll->data);
}

void phi_http_kick(phi_http *http)
{
    http->kicked = true;
    if (!http->stopping) {
        (void)uv_timer_start(&http->timer, on_timer, 0, 0);
    }
}

void phi_http_suspend(phi_request *request)
{
    if (!request->suspended) {
        request->suspended = true;
        MHD_suspend_connection(request->connection);
    }
}

void phi_http_resume(phi_request *request)
{
    if (request->suspended) {
        request->suspended = false;
        MHD_resume_connection(request->connection);
        phi_http_kick(request->http);
    }
}

/* ---- clients that leave ---- */

void phi_request_tell_gone(phi_request *request)
{
    void (*gone)(void *user) = request->gone;
    request->gone = NULL;
    if (gone) {
        gone(request->gone_user);
    }
}

static void on_disconnect(uv_poll_t *watch, int status, int events)
{
    phi_request *request = watch->data;
    if (status == 0 && !(events & UV_DISCONNECT)) {
        return;
    }
    phi_http_unwatch(request);
    if (awaits_body(request)) {
        /* What it sent before may be the rest of the body: read on to the end. */
        request->half_closed = true;
        request->http->n_half_closed++;
        phi_http_kick(request->http);
        return;
    }
    if (request->stream && request->stream->ended) {
        return; /* Complete as far as its owner is concerned: libmicrohttpd sees to the rest. */
    }
    request->phase = PHI_PHASE_DEAD;
    phi_request_tell_gone(request);
    phi_http_resume(request);
}

void phi_http_watch(phi_request *request)
{
    if (request->watch || request->http->stopping) {
        return;
    }
    uv_poll_t *watch = phi_alloc_zero(1, sizeof *watch);
    if (uv_poll_init(request->http->options.loop, watch, request->tcp->fd) != 0) {
        phi_free(watch);
        phi_log(PHI_LOG_WARN, "http", "watch_failed", "id=%s", request->id);
        return;
    }
    watch->data = request;
    (void)uv_poll_start(watch, UV_DISCONNECT, on_disconnect);
    request->watch = watch;
}

static void on_watch_closed(uv_handle_t *handle)
{
    phi_free(handle);
}

void phi_http_unwatch(phi_request *request)
{
    if (request->watch) {
        (void)uv_poll_stop(request->watch);
        uv_close((uv_handle_t *)request->watch, on_watch_closed);
        request->watch = NULL;
    }
}

/* ---- the life of a request ---- */

void phi_http_dispatch(phi_request *request, void *sink_state)
{
    request->phase = PHI_PHASE_HANDLED;
    request->in_handler = true;
    request->route->handler(request->http->options.app, request, sink_state);
    request->in_handler = false;
    PHI_ASSERT(request->response || request->deferred);
}

/* The first call: everything that the headers decide. */
static void on_headers(phi_request *request)
{
    phi_http *http = request->http;
    bool goes_on = phi_request_read_query(request) && phi_http_route(request);
    if (goes_on && !request->route->open && http->options.admit) {
        goes_on = http->options.admit(http->options.app, request);
    }
    goes_on = goes_on && phi_body_begin(request);
    PHI_ASSERT(goes_on || request->response);
    request->phase = PHI_PHASE_BODY;
    if (!goes_on) {
        uint64_t bytes = 0;
        bool known = phi_body_length(request, &bytes);
        bool waits = phi_request_header(request, "Expect") != NULL;
        request->phase = PHI_PHASE_DISCARD;
        request->close_early =
            phi_body_has(request) && (!known || bytes > DISCARD_BYTES_MAX || waits);
    }
}

static enum MHD_Result queue_answer(phi_request *request)
{
    enum MHD_Result queued =
        MHD_queue_response(request->connection, request->status, request->response);
    if (queued == MHD_YES) {
        request->phase = PHI_PHASE_QUEUED;
    }
    return queued;
}

/* What libmicrohttpd is to do next. `body_pending`: the body has not ended. */
static enum MHD_Result settle(phi_request *request, bool body_pending)
{
    if (request->phase == PHI_PHASE_DEAD) {
        return MHD_NO;
    }
    if (request->working || (request->deferred && !request->response)) {
        phi_http_suspend(request);
        return MHD_YES;
    }
    if (!request->response || (body_pending && request->phase == PHI_PHASE_DISCARD)) {
        return MHD_YES;
    }
    if (body_pending) {
        phi_respond_past(request);
        return MHD_NO;
    }
    return queue_answer(request);
}

/* A body that did not come whole with its headers may stop coming. */
static void watch_body(phi_request *request)
{
    uint64_t bytes = 0;
    bool whole = phi_body_length(request, &bytes) && request->body_bytes >= bytes;
    if (awaits_body(request) && !whole && !request->half_closed) {
        phi_http_watch(request);
    }
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *bytes, void **state)
{
    (void)version;
    phi_http *http = cls;
    phi_request *request = *state;
    if (!request) {
        if (http->stopping) {
            return MHD_NO;
        }
        request = phi_request_create(http, connection, method, url);
        *state = request;
        on_headers(request);
        return request->close_early ? queue_answer(request) : MHD_YES;
    }
    if (request->working) {
        /* libmicrohttpd goes on with the next chunk that it has, although the connection has just
         * been suspended. What is not taken comes again after the resume. */
        return settle(request, *bytes > 0);
    }
    if (*bytes > 0) {
        request->window_bytes += *bytes;
        if (request->phase == PHI_PHASE_BODY) {
            phi_body_data(request, data, *bytes);
        }
        *bytes = 0;
        watch_body(request);
        return settle(request, true);
    }
    if (request->phase == PHI_PHASE_BODY) {
        /* A client that leaves now has said all; whether that counts is for the route. */
        phi_http_unwatch(request);
        phi_body_end(request);
    }
    return settle(request, false);
}

static void on_completed(void *cls, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode code)
{
    (void)connection;
    (void)code;
    phi_http *http = cls;
    phi_request *request = *state;
    if (!request) {
        return;
    }
    *state = NULL;
    phi_http_unwatch(request);
    phi_request_tell_gone(request);
    uint64_t now_ns = phi_clock_ns();
    if (http->options.finished) {
        http->options.finished(
            http->options.app, request, request->route ? request->route->pattern : NULL,
            request->status ? request->status : 499, now_ns - request->started_ns);
    }
    if (request->close_early) {
        phi_linger_start(http, request->tcp->fd);
    }
    request->tcp->idle_since_ns = now_ns;
    *(request->prev ? &request->prev->next : &http->requests) = request->next;
    if (request->next) {
        request->next->prev = request->prev;
    }
    http->n_requests--;
    http->n_half_closed -= request->half_closed;
    phi_body_release(request);
    phi_stream_unlink(request);
    request->http = NULL;
    if (!request->working) {
        phi_request_destroy(request);
    }
}

static void on_connection(void *cls, struct MHD_Connection *connection, void **state,
                          enum MHD_ConnectionNotificationCode code)
{
    phi_http *http = cls;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        phi_connection *tcp = phi_alloc_zero(1, sizeof *tcp);
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        PHI_ASSERT(info != NULL);
        tcp->http = http;
        tcp->fd = info->connect_fd;
        tcp->idle_since_ns = phi_clock_ns();
        tcp->next = http->connections;
        if (tcp->next) {
            tcp->next->prev = tcp;
        }
        http->connections = tcp;
        *state = tcp;
        return;
    }
    phi_connection *tcp = *state;
    *state = NULL;
    if (tcp) {
        *(tcp->prev ? &tcp->prev->next : &http->connections) = tcp->next;
        if (tcp->next) {
            tcp->next->prev = tcp->prev;
        }
        phi_free(tcp);
    }
}

/* Escapes stay as they are: parts and parameters are decoded one by one, so that an escaped slash
 * is no separator and an escaped NUL no end. */
static size_t keep_escapes(void *cls, struct MHD_Connection *connection, char *text)
{
    (void)cls;
    (void)connection;
    return strlen(text);
}

static void __attribute__((format(printf, 2, 0)))
on_library_log(void *cls, const char *fmt, va_list ap)
{
    (void)cls;
    char text[256];
    char quoted[512];
    if (phi_log_enabled(PHI_LOG_DEBUG)) {
        (void)vsnprintf(text, sizeof text, fmt, ap);
        phi_log(PHI_LOG_DEBUG, "http", "library", "text=%s",
                phi_log_value(text, quoted, sizeof quoted));
    }
}

/* Once a second: keep-alive comments, and connections on which no request arrives. A client that
 * sends its headers byte by byte is idle as well. */
static void on_tick(uv_timer_t *tick)
{
    phi_http *http = tick->data;
    uint64_t now_ns = phi_clock_ns();
    uint64_t limit_ns = (uint64_t)http->options.idle_timeout_s * 1000000000U;
    phi_streams_tick(http, now_ns);
    phi_bodies_tick(http, now_ns);
    for (phi_connection *tcp = http->connections; tcp; tcp = tcp->next) {
        if (tcp->idle_since_ns && now_ns - tcp->idle_since_ns > limit_ns) {
            (void)shutdown(tcp->fd, SHUT_RDWR);
        }
    }
    phi_lingers_tick(http, now_ns);
}

/* ---- start and stop ---- */

static struct MHD_Daemon *start_daemon(phi_http *http)
{
    const phi_http_options *options = &http->options;
    struct MHD_OptionItem items[] = {
        {MHD_OPTION_LISTEN_SOCKET, (intptr_t)http->listen_fd, NULL},
        {MHD_OPTION_CONNECTION_LIMIT, (intptr_t)options->connections_max, NULL},
        {MHD_OPTION_CONNECTION_TIMEOUT, (intptr_t)options->idle_timeout_s, NULL},
        {MHD_OPTION_CONNECTION_MEMORY_LIMIT, (intptr_t)PHI_HTTP_CONNECTION_BYTES, NULL},
        {MHD_OPTION_STRICT_FOR_CLIENT, 1, NULL},
        {MHD_OPTION_END, 0, NULL},
    };
    return MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL, on_request,
        http, MHD_OPTION_EXTERNAL_LOGGER, on_library_log, NULL, MHD_OPTION_UNESCAPE_CALLBACK,
        keep_escapes, NULL, MHD_OPTION_NOTIFY_COMPLETED, on_completed, http,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, http, MHD_OPTION_ARRAY, items, MHD_OPTION_END);
}

static void on_closed(uv_handle_t *handle)
{
    phi_http *http = handle->data;
    if (--http->handles_open == 0) {
        phi_free(http);
    }
}

void phi_http_handle_closed(uv_handle_t *handle)
{
    on_closed(handle);
}

phi_status phi_http_start(const phi_http_options *options, phi_http **out_http, phi_err *err)
{
    PHI_ASSERT_ROLE(PHI_ROLE_LOOP);
    phi_http *http = phi_alloc_zero(1, sizeof *http);
    http->options = *options;
    PHI_ASSERT(options->work && options->fail);
    phi_status status = phi_http_listen(options->listen, &http->listen_fd, &http->port, err);
    if (status) {
        phi_free(http);
        return status;
    }
    http->daemon = start_daemon(http);
    const union MHD_DaemonInfo *info =
        http->daemon ? MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
    if (!info) {
        if (http->daemon) {
            MHD_stop_daemon(http->daemon);
        } else {
            (void)close(http->listen_fd);
        }
        phi_free(http);
        return phi_fail(err, PHI_E_INTERNAL, "libmicrohttpd does not start");
    }
    int failed = uv_poll_init(options->loop, &http->poll, info->epoll_fd);
    PHI_ASSERT(failed == 0);
    (void)uv_timer_init(options->loop, &http->timer);
    (void)uv_timer_init(options->loop, &http->tick);
    http->handles_open = 3;
    http->poll.data = http;
    http->timer.data = http;
    http->tick.data = http;
    (void)uv_poll_start(&http->poll, UV_READABLE, on_poll);
    (void)uv_timer_start(&http->tick, on_tick, 1000, 1000);
    phi_http_kick(http);
    *out_http = http;
    return PHI_OK;
}

uint16_t phi_http_port(const phi_http *http)
{
    return http->port;
}

size_t phi_http_active(const phi_http *http)
{
    return http->n_requests;
}

void phi_http_quiesce(phi_http *http)
{
    if (http->listen_fd >= 0) {
        int fd = MHD_quiesce_daemon(http->daemon);
        if (fd >= 0) {
            (void)close(fd);
        }
        http->listen_fd = -1;
        phi_http_kick(http);
    }
}

void phi_http_stop(phi_http *http)
{
    if (!http) {
        return;
    }
    phi_http_quiesce(http);
    http->stopping = true;
    /* Stopping with suspended connections is an error in libmicrohttpd's eyes. */
    for (phi_request *request = http->requests; request; request = request->next) {
        phi_http_unwatch(request);
        if (request->phase != PHI_PHASE_QUEUED || (request->stream && !request->stream->ended)) {
            request->phase = PHI_PHASE_DEAD;
        }
        phi_request_tell_gone(request);
        phi_http_resume(request);
    }
    (void)MHD_run(http->daemon);
    (void)uv_poll_stop(&http->poll);
    MHD_stop_daemon(http->daemon);
    http->daemon = NULL;
    PHI_ASSERT(http->n_requests == 0);
    phi_linger_stop_all(http);
    uv_close((uv_handle_t *)&http->poll, on_closed);
    uv_close((uv_handle_t *)&http->timer, on_closed);
    uv_close((uv_handle_t *)&http->tick, on_closed);
}
