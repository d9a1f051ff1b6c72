#include "server/http/http_internal.h"

#include "base/clock.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/str.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* ---- pairs ---- */

const char *phi_pairs_get(const phi_pairs *pairs, const char *name)
{
    for (size_t i = 0; i < pairs->count; i++) {
        if (strcmp(pairs->items[i].name, name) == 0) {
            return pairs->items[i].value;
        }
    }
    return NULL;
}

bool phi_pairs_add(phi_pairs *pairs, char *name, char *value)
{
    if (pairs->count == PHI_HTTP_PAIRS_MAX) {
        phi_free(name);
        phi_free(value);
        return false;
    }
    pairs->items[pairs->count++] = (phi_pair){name, value};
    return true;
}

void phi_pairs_done(phi_pairs *pairs)
{
    for (size_t i = 0; i < pairs->count; i++) {
        phi_free(pairs->items[i].name);
        phi_free(pairs->items[i].value);
    }
    pairs->count = 0;
}

/* ---- create, destroy ---- */

static bool id_is_sane(const char *id)
{
    size_t bytes = id ? strlen(id) : 0;
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)id[i];
        if (!isalnum(c) && c != '.' && c != '_' && c != '-') {
            return false;
        }
    }
    return bytes > 0 && bytes <= 64;
}

phi_request *phi_request_create(phi_http *http, struct MHD_Connection *connection,
                                const char *method, const char *path)
{
    phi_request *request = phi_alloc_zero(1, sizeof *request);
    request->http = http;
    request->connection = connection;
    request->tcp =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
    request->tcp->idle_since_ns = 0;
    request->method = phi_strdup(method);
    request->head = strcmp(method, "HEAD") == 0;
    request->path = phi_strdup(path);
    request->started_ns = phi_clock_ns();
    request->window_ns = request->started_ns;
    phi_buf_init(&request->body, http->options.json_body_bytes_max);
    phi_buf_init(&request->plain, 1U << 16);
    const char *id = phi_request_header(request, "X-Request-Id");
    if (id_is_sane(id)) {
        (void)snprintf(request->id, sizeof request->id, "%s", id);
    } else {
        phi_random_id("req-", request->id, sizeof request->id);
    }
    request->next = http->requests;
    if (request->next) {
        request->next->prev = request;
    }
    http->requests = request;
    http->n_requests++;
    return request;
}

void phi_request_destroy(phi_request *request)
{
    phi_sink_destroy(request->sink);
    phi_stream_destroy(request->stream);
    if (request->response) {
        MHD_destroy_response(request->response);
    }
    json_decref(request->json);
    phi_buf_done(&request->body);
    phi_buf_done(&request->plain);
    for (size_t i = 0; i < request->n_headers; i++) {
        phi_free(request->headers[i].name);
        phi_free(request->headers[i].value);
    }
    for (size_t i = 0; i < request->n_parts; i++) {
        phi_free(request->parts[i]);
    }
    phi_pairs_done(&request->query);
    phi_pairs_done(&request->form);
    phi_free(request->method);
    phi_free(request->path);
    phi_free(request);
}

/* ---- what the client sent ---- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

char *phi_http_decode(const char *text, size_t bytes)
{
    char *out = phi_alloc(bytes + 1);
    size_t used = 0;
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        if (c == '%') {
            int high = -1;
            int low = -1;
            if (bytes - i > 2) {
                high = hex_digit(text[i + 1]);
                low = hex_digit(text[i + 2]);
            }
            if (high < 0 || low < 0) {
                phi_free(out);
                return NULL;
            }
            c = (char)(high * 16 + low);
            i += 2;
        }
        if (c == '\0') {
            phi_free(out);
            return NULL;
        }
        out[used++] = c;
    }
    out[used] = '\0';
    if (!phi_utf8_valid(out, used)) {
        phi_free(out);
        return NULL;
    }
    return out;
}

typedef struct query_walk {
    phi_request *request;
    bool malformed;
    bool too_many;
} query_walk;

static enum MHD_Result on_argument(void *cls, enum MHD_ValueKind kind, const char *name,
                                   const char *value)
{
    (void)kind;
    query_walk *walk = cls;
    char *decoded_name = phi_http_decode(name, strlen(name));
    char *decoded_value = phi_http_decode(value ? value : "", value ? strlen(value) : 0);
    if (!decoded_name || !decoded_value) {
        phi_free(decoded_name);
        phi_free(decoded_value);
        walk->malformed = true;
        return MHD_NO;
    }
    walk->too_many = !phi_pairs_add(&walk->request->query, decoded_name, decoded_value);
    return walk->too_many ? MHD_NO : MHD_YES;
}

bool phi_request_read_query(phi_request *request)
{
    query_walk walk = {.request = request};
    (void)MHD_get_connection_values(request->connection, MHD_GET_ARGUMENT_KIND, on_argument, &walk);
    if (!walk.malformed && !walk.too_many) {
        return true;
    }
    phi_respond_error(request, 400, "invalid_request_error", NULL, NULL,
                      walk.malformed
                          ? "the query has a malformed escape or is not UTF-8; each '%' must be "
                            "followed by two hexadecimal digits"
                          : "the query has more than 32 parameters");
    return false;
}

const char *phi_request_method(const phi_request *request)
{
    return request->method;
}

const char *phi_request_path(const phi_request *request)
{
    return request->path;
}

const char *phi_request_part(const phi_request *request, size_t index)
{
    return index < request->n_parts ? request->parts[index] : "";
}

const char *phi_request_query(const phi_request *request, const char *name)
{
    return phi_pairs_get(&request->query, name);
}

const char *phi_request_header(const phi_request *request, const char *name)
{
    return MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND, name);
}

const char *phi_request_form(const phi_request *request, const char *name)
{
    return phi_pairs_get(&request->form, name);
}

const char *phi_request_id(const phi_request *request)
{
    return request->id;
}

const json_t *phi_request_json(const phi_request *request)
{
    return request->json;
}

uint64_t phi_request_client(const phi_request *request)
{
    return request->client;
}

void phi_request_set_client(phi_request *request, uint64_t client)
{
    request->client = client;
}

uint64_t phi_request_started_ns(const phi_request *request)
{
    return request->started_ns;
}

uint64_t phi_request_answer_bytes(const phi_request *request)
{
    return request->answer_bytes;
}
