#include "server/http/http_internal.h"

#include "base/assert.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

static void add_header(struct MHD_Response *response, const char *name, const char *value)
{
    if (MHD_add_response_header(response, name, value) != MHD_YES) {
        phi_log(PHI_LOG_WARN, "http", "bad_header", "name=%s", name);
    }
}

void phi_respond(phi_request *request, unsigned status, struct MHD_Response *response)
{
    PHI_ASSERT(response != NULL);
    PHI_ASSERT(!request->response);
    add_header(response, "x-request-id", request->id);
    for (size_t i = 0; i < request->n_headers; i++) {
        add_header(response, request->headers[i].name, request->headers[i].value);
    }
    request->response = response;
    request->status = status;
    if (!request->stream) {
        request->gone = NULL;
        phi_http_unwatch(request);
    }
    phi_http_resume(request);
}

void phi_respond_header(phi_request *request, const char *name, const char *value)
{
    PHI_ASSERT(request->n_headers < PHI_HTTP_HEADERS_MAX);
    request->headers[request->n_headers++] = (phi_pair){phi_strdup(name), phi_strdup(value)};
}

void phi_respond_text(phi_request *request, unsigned status, const char *content_type,
                      phi_buf *body)
{
    size_t bytes = body->length_bytes;
    struct MHD_Response *response =
        MHD_create_response_from_buffer_with_free_callback(bytes, phi_buf_take(body), phi_free);
    PHI_ASSERT(response != NULL);
    add_header(response, "Content-Type", content_type);
    request->answer_bytes = bytes;
    phi_respond(request, status, response);
}

void phi_respond_json(phi_request *request, unsigned status, json_t *body)
{
    PHI_ASSERT(body != NULL);
    char *text = json_dumps(body, PHI_JSON_TEXT);
    json_decref(body);
    PHI_ASSERT(text != NULL);
    size_t bytes = strlen(text);
    struct MHD_Response *response =
        MHD_create_response_from_buffer_with_free_callback(bytes, text, phi_free);
    PHI_ASSERT(response != NULL);
    add_header(response, "Content-Type", "application/json");
    request->answer_bytes = bytes;
    phi_respond(request, status, response);
}

json_t *phi_text_json(const char *text)
{
    size_t bytes = phi_utf8_complete_bytes(text, strlen(text));
    json_t *value = json_stringn(text, bytes);
    if (value) {
        return value;
    }
    char *copy = phi_strdup(text);
    for (char *at = copy; *at; at++) {
        unsigned char c = (unsigned char)*at;
        *at = c < 0x20 || c >= 0x7f ? '?' : *at;
    }
    value = json_string(copy);
    phi_free(copy);
    return value;
}

void phi_respond_error(phi_request *request, unsigned status, const char *type, const char *code,
                       const char *param, const char *message)
{
    json_t *body =
        json_pack("{s:{s:o, s:s, s:o, s:s?}}", "error", "message", phi_text_json(message), "type",
                  type, "param", param ? phi_text_json(param) : json_null(), "code", code);
    PHI_ASSERT(body != NULL);
    char *text = json_dumps(body, PHI_JSON_TEXT);
    PHI_ASSERT(text != NULL);
    phi_buf_clear(&request->plain);
    (void)phi_buf_append_str(&request->plain, text);
    phi_free(text);
    phi_respond_json(request, status, body);
}

void phi_respond_empty(phi_request *request, unsigned status)
{
    static char nothing[1];
    phi_respond(request, status,
                MHD_create_response_from_buffer(0, nothing, MHD_RESPMEM_PERSISTENT));
}

void phi_request_defer(phi_request *request, void (*gone)(void *user), void *user)
{
    PHI_ASSERT(!request->response);
    request->deferred = true;
    request->gone = gone;
    request->gone_user = user;
    phi_http_watch(request);
}

/* libmicrohttpd takes no response while a body is being received. */
void phi_respond_past(phi_request *request)
{
    phi_buf text;
    phi_buf_init(&text, 1U << 17);
    (void)phi_buf_printf(&text,
                         "HTTP/1.1 %u %s\r\nContent-Type: application/json\r\nContent-Length: "
                         "%zu\r\nConnection: close\r\nx-request-id: %s\r\n",
                         request->status, MHD_get_reason_phrase_for(request->status),
                         request->plain.length_bytes, request->id);
    for (size_t i = 0; i < request->n_headers; i++) {
        (void)phi_buf_printf(&text, "%s: %s\r\n", request->headers[i].name,
                             request->headers[i].value);
    }
    (void)phi_buf_printf(&text, "\r\n%s", phi_buf_text(&request->plain));
    if (!phi_buf_failed(&text)) {
        (void)send(request->tcp->fd, text.data, text.length_bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
    phi_buf_done(&text);
    request->close_early = true;
    request->phase = PHI_PHASE_DEAD;
}
