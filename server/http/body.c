/*
 * Memory: the text of a JSON body counts in http->held_bytes while it arrives, what was parsed from
 * it until the request ends. Many clients with large bodies are refused, not served by swapping.
 */
#include "server/http/http_internal.h"

#include "base/mem.h"
#include "base/str.h"
#include "config/limits.h"
#include "server/work.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

/* Bodies above this are parsed on the worker pool: they take milliseconds. */
#define PARSE_INLINE_BYTES_MAX (1U << 20)
/* What a form may add to its file: boundaries, part headers, text fields. */
#define FORM_EXTRA_BYTES (1U << 20)
/* What jansson allocates for a value in a list or an object, and for an empty list and object. */
#define VALUE_BYTES 96U
#define ARRAY_BYTES 160U
#define OBJECT_BYTES 256U

static const char invalid_request[] = "invalid_request_error";

bool phi_body_length(const phi_request *request, uint64_t *out_bytes)
{
    const char *text = phi_request_header(request, "Content-Length");
    return text && phi_str_parse_u64(text, UINT64_MAX, out_bytes);
}

bool phi_body_has(const phi_request *request)
{
    uint64_t bytes = 0;
    return phi_request_header(request, "Transfer-Encoding") ||
           (phi_body_length(request, &bytes) && bytes > 0);
}

static void respond_too_large(phi_request *request, uint64_t max)
{
    char message[160];
    (void)snprintf(message, sizeof message,
                   "the request's body is larger than %" PRIu64 " bytes (setting %s)", max,
                   request->route->body == PHI_BODY_SINK ? "max_upload" : "max_body");
    phi_respond_error(request, 413, invalid_request, "request_too_large", NULL, message);
}

static uint64_t bytes_max(const phi_request *request)
{
    const phi_http_options *options = &request->http->options;
    if (request->route->body != PHI_BODY_SINK) {
        return options->json_body_bytes_max;
    }
    /* Saturates: a limit that large is none. */
    uint64_t max = options->upload_bytes_max;
    return max > UINT64_MAX - FORM_EXTRA_BYTES ? UINT64_MAX : max + FORM_EXTRA_BYTES;
}

static bool is_json_type(const char *type)
{
    static const char json[] = "application/json";
    size_t bytes = sizeof json - 1;
    return !type || (strncasecmp(type, json, bytes) == 0 &&
                     (type[bytes] == '\0' || type[bytes] == ';' || type[bytes] == ' '));
}

bool phi_body_begin(phi_request *request)
{
    const char *type = phi_request_header(request, "Content-Type");
    uint64_t bytes = 0;
    if (phi_body_length(request, &bytes) && bytes > bytes_max(request)) {
        respond_too_large(request, request->route->body == PHI_BODY_SINK
                                       ? request->http->options.upload_bytes_max
                                       : bytes_max(request));
        return false;
    }
    if (request->route->body == PHI_BODY_JSON && !is_json_type(type)) {
        char message[200];
        (void)snprintf(message, sizeof message,
                       "the Content-Type is '%.60s'; this route takes application/json", type);
        phi_respond_error(request, 415, invalid_request, "unsupported_media_type", NULL, message);
        return false;
    }
    if (request->route->body == PHI_BODY_SINK) {
        return phi_sink_begin(request);
    }
    return true;
}

/* ---- memory and time ---- */

/* Changes what the request holds; false, and answered, when all hold too much. */
static bool hold(phi_request *request, uint64_t bytes)
{
    phi_http *http = request->http;
    http->held_bytes += bytes - request->held_bytes;
    request->held_bytes = bytes;
    if (http->held_bytes <= PHI_LIMIT_JSON_BODIES_BYTES) {
        return true;
    }
    phi_respond_header(request, "Retry-After", "2");
    phi_respond_error(
        request, 503, "server_error", "overloaded", NULL,
        "the bodies of the requests under way fill the memory that is meant for them; "
        "try again later");
    return false;
}

void phi_body_release(phi_request *request)
{
    request->http->held_bytes -= request->held_bytes;
    request->held_bytes = 0;
}

static bool is_receiving(const phi_request *request)
{
    return !request->working && !request->suspended &&
           (request->phase == PHI_PHASE_BODY || request->phase == PHI_PHASE_DISCARD);
}

/* A byte now and then keeps libmicrohttpd's own timeout from biting. */
void phi_bodies_tick(phi_http *http, uint64_t now_ns)
{
    uint64_t seconds = http->options.idle_timeout_s;
    for (phi_request *request = http->requests; request; request = request->next) {
        if (is_receiving(request) && now_ns - request->window_ns < seconds * 1000000000U) {
            continue;
        }
        if (is_receiving(request) && request->window_bytes < seconds * PHI_LIMIT_BODY_RATE_MIN) {
            if (!request->response) {
                phi_respond_error(request, 408, invalid_request, "request_timeout", NULL,
                                  "the request's body arrives too slowly");
            }
            phi_respond_past(request);
            (void)shutdown(request->tcp->fd, SHUT_RDWR);
        }
        request->window_ns = now_ns;
        request->window_bytes = 0;
    }
}

/* ---- pieces ---- */

void phi_body_data(phi_request *request, const char *data, size_t bytes)
{
    if (request->response) {
        return; /* Refused already; settle() sees to the rest. */
    }
    request->body_bytes += bytes;
    if (request->body_bytes > bytes_max(request)) {
        respond_too_large(request, bytes_max(request));
        return;
    }
    if (request->route->body == PHI_BODY_SINK) {
        phi_sink_data(request, data, bytes);
        return;
    }
    if (request->route->body != PHI_BODY_JSON || !hold(request, request->body_bytes)) {
        return;
    }
    if (phi_buf_append(&request->body, data, bytes)) {
        phi_respond_error(request, 503, "server_error", "insufficient_memory", NULL,
                          "there is not enough memory for the request's body");
    }
}

/* ---- JSON ---- */

/* Depth and number of values, before anything is built from them, and what building takes. */
static const char *scan(const char *text, size_t bytes, uint64_t *out_json_bytes)
{
    uint64_t json_bytes = bytes;
    size_t depth = 0;
    size_t values = 1;
    bool in_string = false;
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        if (in_string) {
            i += c == '\\';
            in_string = c != '"';
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            values++;
            json_bytes += c == '[' ? ARRAY_BYTES : OBJECT_BYTES;
            if (++depth > PHI_LIMIT_JSON_DEPTH) {
                return "the body is nested deeper than 64 levels";
            }
        } else if (c == ']' || c == '}') {
            depth -= depth > 0;
        } else if (c == ',') {
            values++;
            json_bytes += VALUE_BYTES;
        }
        if (values > PHI_LIMIT_JSON_VALUES) {
            return "the body holds more than 1048576 values";
        }
    }
    *out_json_bytes = json_bytes;
    return NULL;
}

/* [any] Fills request->json, or the body's buffer with what is wrong with it. */
static void parse(void *arg)
{
    phi_request *request = arg;
    phi_buf *body = &request->body;
    json_error_t error;
    char message[256];
    const char *wrong = body->length_bytes == 0
                            ? "the body is empty; this route takes a JSON object"
                            : scan(body->data, body->length_bytes, &request->json_bytes);
    if (wrong) {
        (void)snprintf(message, sizeof message, "%s", wrong);
    } else {
        request->json = json_loadb(body->data, body->length_bytes, JSON_REJECT_DUPLICATES, &error);
        if (request->json && json_is_object(request->json)) {
            phi_buf_done(body);
            return;
        }
        if (request->json) {
            (void)snprintf(message, sizeof message, "the body must be a JSON object");
        } else if (json_error_code(&error) == json_error_null_character) {
            (void)snprintf(message, sizeof message,
                           "a string in the body holds \\u0000, which is not accepted (line %d, "
                           "column %d)",
                           error.line, error.column);
        } else {
            (void)snprintf(message, sizeof message,
                           "the body is not valid JSON: %.120s (line %d, column %d)", error.text,
                           error.line, error.column);
        }
        json_decref(request->json);
        request->json = NULL;
    }
    phi_buf_clear(body);
    (void)phi_buf_append_str(body, message);
}

static void parsed(phi_request *request)
{
    if (!hold(request, request->json ? request->json_bytes : 0)) {
        return;
    }
    if (request->json) {
        phi_http_dispatch(request, NULL);
    } else {
        phi_respond_error(request, 400, invalid_request, "invalid_json", NULL,
                          phi_buf_text(&request->body));
    }
}

static void on_parsed(void *arg)
{
    phi_request *request = arg;
    request->working = false;
    if (!request->http) {
        phi_request_destroy(request);
        return;
    }
    parsed(request);
}

void phi_body_end(phi_request *request)
{
    request->phase = PHI_PHASE_COMPLETE;
    if (request->response) {
        return;
    }
    if (request->route->body == PHI_BODY_SINK) {
        phi_sink_end(request);
        return;
    }
    if (request->route->body == PHI_BODY_NONE) {
        phi_http_dispatch(request, NULL);
        return;
    }
    if (request->body.length_bytes > PARSE_INLINE_BYTES_MAX) {
        request->working = true;
        if (!phi_work_submit(request->http->options.work, PHI_WORK_SHORT, parse, on_parsed,
                             request)) {
            return;
        }
        request->working = false;
    }
    parse(request);
    parsed(request);
}
