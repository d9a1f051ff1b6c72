/* The HTTP layer through raw sockets: the loop runs in the test's thread, the client in another. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "base/mem.h"
#include "server/http/http.h"
#include "server/work.h"

#define ANSWER_BYTES (1U << 20)
#define WAIT_MS 5000

typedef struct world {
    uv_loop_t loop;
    uv_timer_t timer;
    uv_async_t client_done;
    phi_work *work;
    phi_http *http;
    phi_request *pending;
    phi_stream *stream;
    int events_left;
    int gone;
    int aborted;
    int finished;
    unsigned last_status;
    uint64_t sunk;
    char sunk_name[64];
    int fail_write;
} world;

static world w;

/* ---- routes ---- */

static void get_hello(void *app, phi_request *request, void *state)
{
    (void)app;
    (void)state;
    const char *q = phi_request_query(request, "q");
    phi_respond_json(request, 200, json_pack("{s:s?}", "q", q));
}

static void get_part(void *app, phi_request *request, void *state)
{
    (void)app;
    (void)state;
    phi_respond_json(request, 200, json_pack("{s:s}", "part", phi_request_part(request, 0)));
}

static void post_json(void *app, phi_request *request, void *state)
{
    (void)app;
    (void)state;
    phi_respond_json(request, 200,
                     json_pack("{s:i}", "keys", (int)json_object_size(phi_request_json(request))));
}

static void on_gone(void *user)
{
    (void)user;
    w.gone++;
    w.pending = NULL;
    w.stream = NULL;
}

static void on_timer(uv_timer_t *timer)
{
    if (w.stream) {
        if (w.events_left-- > 0) {
            phi_stream_event(w.stream, w.events_left == 0 ? "last" : NULL, "one\ntwo", 7);
        } else {
            phi_stream_end(w.stream);
            w.stream = NULL;
            uv_timer_stop(timer);
        }
    } else if (w.pending) {
        phi_request *request = w.pending;
        w.pending = NULL;
        uv_timer_stop(timer);
        phi_respond_json(request, 200, json_pack("{s:b}", "late", 1));
    } else {
        uv_timer_stop(timer);
    }
}

static void get_later(void *app, phi_request *request, void *state)
{
    (void)app;
    (void)state;
    w.pending = request;
    phi_request_defer(request, on_gone, NULL);
    uv_timer_start(&w.timer, on_timer, 20, 20);
}

static void get_never(void *app, phi_request *request, void *state)
{
    (void)app;
    (void)state;
    phi_request_defer(request, on_gone, NULL);
}

static void get_stream(void *app, phi_request *request, void *state)
{
    (void)app;
    (void)state;
    w.events_left = 3;
    w.stream = phi_respond_stream(request, on_gone, NULL);
    uv_timer_start(&w.timer, on_timer, 5, 5);
}

static void get_endless(void *app, phi_request *request, void *state)
{
    (void)app;
    (void)state;
    phi_stream *stream = phi_respond_stream(request, on_gone, NULL);
    phi_stream_event(stream, NULL, "begun", 5);
}

static void get_file(void *app, phi_request *request, void *state)
{
    (void)app;
    (void)state;
    char path[] = "/tmp/phid-test-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    unlink(path);
    assert_int_equal(write(fd, "0123456789", 10), 10);
    phi_respond_file(request, fd, 10, "\"tag\"", "text/plain", "na\"me");
}

static phi_status sink_begin(void *app, phi_request *request, const char *filename,
                             void **out_state, phi_err *err)
{
    (void)app;
    const char *refuse = phi_request_query(request, "refuse");
    if (refuse) {
        return phi_fail_param(err, PHI_E_INVALID, "file", "refused");
    }
    snprintf(w.sunk_name, sizeof w.sunk_name, "%s", filename ? filename : "(none)");
    w.sunk = 0;
    *out_state = &w;
    return PHI_OK;
}

static phi_status sink_write(void *state, const void *data, size_t bytes, phi_err *err)
{
    world *self = state;
    const char *text = data;
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] != 'x') {
            return phi_fail(err, PHI_E_INVALID, "a byte is wrong");
        }
    }
    self->sunk += bytes;
    return self->fail_write ? phi_fail(err, PHI_E_NO_SPACE, "the disk is full") : PHI_OK;
}

static phi_status sink_finish(void *state, phi_err *err)
{
    (void)state;
    (void)err;
    return PHI_OK;
}

static void sink_abort(void *state)
{
    ((world *)state)->aborted++;
}

static const phi_body_sink sink = {sink_begin, sink_write, sink_finish, sink_abort};

static void put_sink(void *app, phi_request *request, void *state)
{
    (void)app;
    const char *purpose = phi_request_form(request, "purpose");
    phi_respond_json(request, 200,
                     json_pack("{s:b, s:I, s:s, s:s?}", "state", state != NULL, "bytes",
                               (json_int_t)w.sunk, "name", w.sunk_name, "purpose", purpose));
}

static const phi_route routes[] = {
    {"GET", "/hello", PHI_BODY_NONE, NULL, true, get_hello},
    {"GET", "/part/{id}", PHI_BODY_NONE, NULL, true, get_part},
    {"POST", "/json", PHI_BODY_JSON, NULL, true, post_json},
    {"GET", "/later", PHI_BODY_NONE, NULL, true, get_later},
    {"GET", "/never", PHI_BODY_NONE, NULL, true, get_never},
    {"GET", "/stream", PHI_BODY_NONE, NULL, true, get_stream},
    {"GET", "/endless", PHI_BODY_NONE, NULL, true, get_endless},
    {"GET", "/file", PHI_BODY_NONE, NULL, true, get_file},
    {"PUT", "/sink", PHI_BODY_SINK, &sink, true, put_sink},
    {"POST", "/sink", PHI_BODY_SINK, &sink, true, put_sink},
    {"POST", "/closed", PHI_BODY_JSON, NULL, false, post_json},
};

static bool admit(void *app, phi_request *request)
{
    (void)app;
    phi_respond_error(request, 401, "invalid_request_error", "invalid_api_key", NULL, "no key");
    return false;
}

static void fail_request(void *app, phi_request *request, const phi_err *err)
{
    (void)app;
    phi_respond_error(request, err->code == PHI_E_NO_SPACE ? 507 : 400, "invalid_request_error",
                      NULL, err->param, err->message);
}

static void finished(void *app, const phi_request *request, const char *route, unsigned status,
                     uint64_t duration_ns)
{
    (void)app;
    (void)request;
    (void)route;
    (void)duration_ns;
    w.finished++;
    w.last_status = status;
}

/* ---- client ---- */

typedef struct client {
    const char *text;
    size_t bytes;
    size_t body_x;     /* this many 'x' follow */
    const char *after; /* and then this */
    bool leave;        /* close instead of reading to the end */
    char *answer;
    size_t answer_bytes;
    volatile bool done;
} client;

static void send_all(int fd, const char *data, size_t bytes)
{
    while (bytes > 0) {
        ssize_t put = send(fd, data, bytes, MSG_NOSIGNAL);
        if (put <= 0) {
            return;
        }
        data += put;
        bytes -= (size_t)put;
    }
}

static void *run_client(void *arg)
{
    client *self = arg;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(phi_http_port(w.http))};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0) {
        static char xs[65536];
        memset(xs, 'x', sizeof xs);
        send_all(fd, self->text, self->bytes);
        for (size_t left = self->body_x; left > 0;) {
            size_t part = left < sizeof xs ? left : sizeof xs;
            send_all(fd, xs, part);
            left -= part;
        }
        if (self->after) {
            send_all(fd, self->after, strlen(self->after));
        }
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        while (!self->leave && poll(&ready, 1, WAIT_MS) == 1) {
            ssize_t got = recv(fd, self->answer + self->answer_bytes,
                               ANSWER_BYTES - 1 - self->answer_bytes, 0);
            if (got <= 0) {
                break;
            }
            self->answer_bytes += (size_t)got;
        }
        if (self->leave) {
            usleep(30000);
        }
    }
    close(fd);
    self->answer[self->answer_bytes] = '\0';
    uv_async_send(&w.client_done);
    return NULL;
}

static void on_client_done(uv_async_t *async)
{
    (void)async;
    uv_stop(&w.loop);
}

static char answer[ANSWER_BYTES];

static const char *exchange_with(client *self)
{
    pthread_t thread;
    self->answer = answer;
    self->answer_bytes = 0;
    assert_int_equal(pthread_create(&thread, NULL, run_client, self), 0);
    uv_run(&w.loop, UV_RUN_DEFAULT);
    pthread_join(thread, NULL);
    return answer;
}

/* One request of which the client waits for the close. */
static const char *exchange(const char *text)
{
    client self = {.text = text, .bytes = strlen(text)};
    return exchange_with(&self);
}

static const char *get(const char *target, const char *headers)
{
    char text[1024];
    snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: h\r\nConnection: close\r\n%s\r\n", target,
             headers);
    return exchange(text);
}

static const char *post_json_body(const char *headers, const char *body)
{
    char text[4096];
    snprintf(text, sizeof text,
             "POST /json HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: "
             "%zu\r\n%s\r\n%s",
             strlen(body), headers, body);
    return exchange(text);
}

#define HAS(text, part)                                                                            \
    do {                                                                                           \
        const char *text_ = (text);                                                                \
        if (!strstr(text_, part)) {                                                                \
            fail_msg("'%s' is not in: %.600s", part, text_);                                       \
        }                                                                                          \
    } while (0)

/* Lets the loop run until a counter has the value. */
static void settle(const int *counter, int value)
{
    uint64_t until = phi_clock_ns() + WAIT_MS * 1000000ULL;
    while (*counter != value && phi_clock_ns() < until) {
        uv_run(&w.loop, UV_RUN_NOWAIT);
        usleep(1000);
    }
    assert_int_equal(*counter, value);
}

static int set_up(void **state)
{
    (void)state;
    memset(&w, 0, sizeof w);
    uv_loop_init(&w.loop);
    uv_timer_init(&w.loop, &w.timer);
    uv_async_init(&w.loop, &w.client_done, on_client_done);
    assert_int_equal(phi_work_create(&w.loop, 1, &w.work, NULL), PHI_OK);
    phi_http_options options = {
        .loop = &w.loop,
        .work = w.work,
        .listen = "127.0.0.1:0",
        .json_body_bytes_max = 4U << 20,
        .upload_bytes_max = 64U << 20,
        .connections_max = 32,
        .idle_timeout_s = 2,
        .routes = routes,
        .n_routes = sizeof routes / sizeof *routes,
        .app = &w,
        .admit = admit,
        .fail = fail_request,
        .finished = finished,
    };
    phi_err err = {0};
    assert_int_equal(phi_http_start(&options, &w.http, &err), PHI_OK);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    phi_http_stop(w.http);
    for (int kind = 0; kind < PHI_WORK_KIND_COUNT; kind++) {
        while (phi_work_active(w.work, (phi_work_kind)kind) > 0) {
            uv_run(&w.loop, UV_RUN_ONCE);
        }
    }
    phi_work_destroy(w.work);
    uv_close((uv_handle_t *)&w.timer, NULL);
    uv_close((uv_handle_t *)&w.client_done, NULL);
    while (uv_loop_close(&w.loop) == UV_EBUSY) {
        uv_run(&w.loop, UV_RUN_NOWAIT);
    }
    return 0;
}

/* ---- tests ---- */

static void test_answers(void **state)
{
    (void)state;
    const char *text = get("/hello?q=a%20b+c", "X-Request-Id: mine-1\r\n");
    HAS(text, "HTTP/1.1 200 OK\r\n");
    HAS(text, "x-request-id: mine-1\r\n");
    HAS(text, "{\"q\":\"a b c\"}");
    HAS(get("/hello", "X-Request-Id: <script>\r\n"), "x-request-id: req-");
    HAS(get("/part/a%2Fb", ""), "{\"part\":\"a/b\"}");
    HAS(get("/part/a%00b", ""), "HTTP/1.1 400");
    HAS(get("/hello?q=%zz", ""), "HTTP/1.1 400");
    HAS(get("/hello?q=%ff", ""), "HTTP/1.1 400");
}

static void test_refusals(void **state)
{
    (void)state;
    const char *text = get("/nowhere", "");
    HAS(text, "HTTP/1.1 404 ");
    HAS(text, "GET /nowhere");
    HAS(text, "\"code\":\"not_found\"");
    HAS(get("/part/", ""), "HTTP/1.1 404 ");
    HAS(get("/hello/", ""), "HTTP/1.1 404 ");
    text = exchange("DELETE /sink HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    HAS(text, "HTTP/1.1 405 ");
    HAS(text, "Allow: PUT, POST\r\n");
    text = exchange("HEAD /hello HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    HAS(text, "HTTP/1.1 200 OK\r\n");
    assert_null(strstr(text, "{\"q\""));
    text = exchange("POST /closed HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"
                    "Content-Length: 2\r\n\r\n{}");
    HAS(text, "HTTP/1.1 401 ");
    HAS(text, "invalid_api_key");
}

static void test_malformed(void **state)
{
    (void)state;
    /* Not HTTP at all: the connection closes, and the next one is served. */
    assert_string_equal(exchange("nonsense\r\n\r\n"), "");
    HAS(exchange("GET /hello HTTP/1.1\r\nConnection: close\r\n\r\n"), "HTTP/1.1 400 ");
    HAS(exchange("POST /json HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n"), "HTTP/1.1 4");
    client self = {.text = "GET /hello HTTP/1.1\r\nHost: h\r\nX-Long: ", .body_x = 200000};
    self.bytes = strlen(self.text);
    HAS(exchange_with(&self), "HTTP/1.1 4");
}

static void test_json(void **state)
{
    (void)state;
    HAS(post_json_body("Content-Type: application/json; charset=utf-8\r\n", "{\"a\":1}"),
        "{\"keys\":1}");
    HAS(post_json_body("", "{}"), "{\"keys\":0}");
    HAS(post_json_body("Content-Type: text/plain\r\n", "{}"), "HTTP/1.1 415 ");
    HAS(post_json_body("", "{\"a\":1,\"a\":2}"), "duplicate");
    HAS(post_json_body("", "{\"a\":\n  x}"), "line 2, column 3");
    HAS(post_json_body("", "[]"), "must be a JSON object");
    HAS(post_json_body("", ""), "the body is empty");
    char deep[300] = "{\"a\":";
    memset(deep + 5, '[', 100);
    memset(deep + 105, ']', 100);
    deep[205] = '}';
    HAS(post_json_body("", deep), "nested deeper than 64");
    HAS(post_json_body("", "{\"a\":\"[[[[\\\"[[[[{{{{\"}"), "{\"keys\":1}");
}

static void test_large_json(void **state)
{
    (void)state;
    /* Above 1 MiB the worker pool parses. */
    client self = {
        .text = "POST /json HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: "
                "2000008\r\n\r\n{\"a\":\"",
        .body_x = 2000000,
        .after = "\"}",
    };
    self.bytes = strlen(self.text);
    HAS(exchange_with(&self), "{\"keys\":1}");
    HAS(exchange("POST /json HTTP/1.1\r\nHost: h\r\nContent-Length: 5000000\r\n\r\n"),
        "HTTP/1.1 413 ");
    client chunked = {
        .text = "POST /json HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n500000\r\n",
        .body_x = 0x500000,
        .after = "\r\n0\r\n\r\n",
    };
    chunked.bytes = strlen(chunked.text);
    HAS(exchange_with(&chunked), "HTTP/1.1 413 ");
}

static void test_expect(void **state)
{
    (void)state;
    const char *text = exchange("POST /json HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n"
                                "Content-Length: 5000000\r\n\r\n");
    HAS(text, "HTTP/1.1 413 ");
    assert_null(strstr(text, "100 Continue"));
    client self = {
        .text = "PUT /sink HTTP/1.1\r\nHost: h\r\nConnection: close\r\nExpect: 100-continue\r\n"
                "Content-Length: 5\r\n\r\n",
        .body_x = 5,
    };
    self.bytes = strlen(self.text);
    text = exchange_with(&self);
    HAS(text, "\"bytes\":5");
}

static void test_deferred(void **state)
{
    (void)state;
    HAS(get("/later", ""), "{\"late\":true}");
    assert_int_equal(w.gone, 0);
    /* Two on one connection. */
    const char *text = exchange("GET /later HTTP/1.1\r\nHost: h\r\n\r\n"
                                "GET /hello HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    HAS(text, "{\"late\":true}");
    HAS(text, "{\"q\":null}");
}

static void test_gone(void **state)
{
    (void)state;
    static const char *const targets[] = {"/never", "/endless"};
    for (int i = 0; i < 2; i++) {
        char text[100];
        snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: h\r\n\r\n", targets[i]);
        client self = {.text = text, .bytes = strlen(text), .leave = true};
        exchange_with(&self);
        uint64_t left_ns = phi_clock_ns();
        settle(&w.gone, i + 1);
        assert_true(phi_clock_ns() - left_ns < 1000000000U);
        settle(&w.finished, i + 1);
        assert_int_equal(phi_http_active(w.http), 0);
    }
}

static void test_stream(void **state)
{
    (void)state;
    const char *text = get("/stream", "");
    HAS(text, "Content-Type: text/event-stream\r\n");
    HAS(text, "X-Accel-Buffering: no\r\n");
    HAS(text, "data: one\ndata: two\n\n");
    HAS(text, "event: last\ndata: one\ndata: two\n\n");
    assert_int_equal(w.gone, 0);
    assert_int_equal(w.last_status, 200);
}

static void test_upload(void **state)
{
    (void)state;
    client self = {
        .text = "PUT /sink HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: "
                "20000000\r\n\r\n",
        .body_x = 20000000,
    };
    self.bytes = strlen(self.text);
    HAS(exchange_with(&self), "\"state\":true,\"bytes\":20000000");
    assert_int_equal(w.aborted, 0);
    HAS(exchange("PUT /sink HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"), "\"state\":false");
    HAS(exchange("PUT /sink HTTP/1.1\r\nHost: h\r\nContent-Length: 900000000\r\n\r\n"),
        "HTTP/1.1 413 ");
}

static void test_upload_fails(void **state)
{
    (void)state;
    client cut = {
        .text = "PUT /sink HTTP/1.1\r\nHost: h\r\nContent-Length: 9000000\r\n\r\n",
        .body_x = 3000000,
        .leave = true,
    };
    cut.bytes = strlen(cut.text);
    exchange_with(&cut);
    settle(&w.aborted, 1);
    w.fail_write = 1;
    client full = {
        .text = "PUT /sink HTTP/1.1\r\nHost: h\r\nContent-Length: 30000000\r\n\r\n",
        .body_x = 30000000,
    };
    full.bytes = strlen(full.text);
    const char *text = exchange_with(&full);
    HAS(text, "HTTP/1.1 507 ");
    HAS(text, "the disk is full");
    assert_int_equal(w.aborted, 2);
    w.fail_write = 0;
    HAS(exchange("PUT /sink?refuse=1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: "
                 "1\r\n\r\nx"),
        "HTTP/1.1 400 ");
    assert_int_equal(w.aborted, 2);
}

static const char *post_form(const char *type, const char *before, size_t body_x, const char *after)
{
    char text[2048];
    snprintf(text, sizeof text,
             "POST /sink HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Type: %s\r\n"
             "Content-Length: %zu\r\n\r\n%s",
             type, strlen(before) + body_x + strlen(after), before);
    client self = {.text = text, .bytes = strlen(text), .body_x = body_x, .after = after};
    return exchange_with(&self);
}

static void test_form(void **state)
{
    (void)state;
    static const char type[] = "multipart/form-data; boundary=BB";
    static const char purpose[] =
        "--BB\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nmodel\r\n";
    static const char file[] =
        "--BB\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.bin\"\r\n\r\n";
    char before[1024];
    snprintf(before, sizeof before, "%s%s", purpose, file);
    const char *text = post_form(type, before, 3000000, "\r\n--BB--\r\n");
    HAS(text, "\"bytes\":3000000,\"name\":\"a.bin\",\"purpose\":\"model\"");
    HAS(post_form(type, purpose, 0, "--BB--\r\n"), "no field 'file'");
    HAS(post_form(type, before, 100, ""), "HTTP/1.1 400 ");
    HAS(post_form("multipart/form-data", before, 10, "\r\n--BB--\r\n"), "boundary");
    HAS(post_form("multipart/form-data; boundary=\"", before, 10, "\r\n--BB--\r\n"), "boundary");
    /* The field may follow the file. */
    snprintf(before, sizeof before, "\r\n%s--BB--\r\n", purpose);
    HAS(post_form(type, file, 10, before), "\"bytes\":10,\"name\":\"a.bin\",\"purpose\":\"model\"");
}

static void test_file(void **state)
{
    (void)state;
    const char *text = get("/file", "");
    HAS(text, "0123456789");
    HAS(text, "ETag: \"tag\"\r\n");
    HAS(text, "filename=\"na_me\"; filename*=UTF-8''na%22me");
    text = get("/file", "Range: bytes=2-4\r\n");
    HAS(text, "HTTP/1.1 206 ");
    HAS(text, "Content-Range: bytes 2-4/10\r\n");
    HAS(text, "\r\n\r\n234");
    HAS(get("/file", "Range: bytes=-3\r\n"), "\r\n\r\n789");
    HAS(get("/file", "Range: bytes=8-99\r\n"), "bytes 8-9/10");
    text = get("/file", "Range: bytes=10-\r\n");
    HAS(text, "HTTP/1.1 416 ");
    HAS(text, "Content-Range: bytes */10\r\n");
    HAS(get("/file", "Range: bytes=5-2\r\n"), "HTTP/1.1 200 ");
    HAS(get("/file", "Range: bytes=2-4\r\nIf-Range: \"other\"\r\n"), "HTTP/1.1 200 ");
    HAS(get("/file", "If-None-Match: \"x\", \"tag\"\r\n"), "HTTP/1.1 304 ");
}

static void test_idle(void **state)
{
    (void)state;
    uint64_t begun_ns = phi_clock_ns();
    client self = {.text = "GET /hello HT", .bytes = 13};
    exchange_with(&self);
    assert_true(phi_clock_ns() - begun_ns < 4500000000U);
}

static void test_stop_with_waiting(void **state)
{
    (void)state;
    /* tear_down stops the server while these two wait. */
    client never = {.text = "GET /never HTTP/1.1\r\nHost: h\r\n\r\n", .leave = true};
    never.bytes = strlen(never.text);
    never.answer = answer;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, run_client, &never), 0);
    uint64_t until = phi_clock_ns() + 1000000000U;
    while (phi_http_active(w.http) == 0 && phi_clock_ns() < until) {
        uv_run(&w.loop, UV_RUN_NOWAIT);
    }
    assert_int_equal(phi_http_active(w.http), 1);
    phi_http_stop(w.http);
    w.http = NULL;
    assert_int_equal(w.gone, 1);
    assert_int_equal(w.finished, 1);
    pthread_join(thread, NULL);
    uv_run(&w.loop, UV_RUN_NOWAIT);
}

static void test_listen_fails(void **state)
{
    (void)state;
    char address[64];
    snprintf(address, sizeof address, "127.0.0.1:%u", phi_http_port(w.http));
    phi_http_options options = {
        .loop = &w.loop, .work = w.work, .listen = address, .fail = fail_request};
    phi_http *other = NULL;
    phi_err err = {0};
    assert_int_equal(phi_http_start(&options, &other, &err), PHI_E_IO);
    HAS(err.message, address);
    HAS(err.message, "in use");
    options.listen = "nonsense";
    assert_int_equal(phi_http_start(&options, &other, &err), PHI_E_INVALID);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_answers),      TEST(test_refusals),     TEST(test_malformed),
        TEST(test_json),         TEST(test_large_json),   TEST(test_expect),
        TEST(test_deferred),     TEST(test_gone),         TEST(test_stream),
        TEST(test_upload),       TEST(test_upload_fails), TEST(test_form),
        TEST(test_file),         TEST(test_idle),         TEST(test_stop_with_waiting),
        TEST(test_listen_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
