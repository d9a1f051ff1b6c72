#include "server/http/http_internal.h"

#include "base/mem.h"
#include "base/str.h"

#include <stdio.h>
#include <string.h>

/* The path as far as an error message repeats it. */
#define PATH_SHOWN_BYTES 100

/* Matches segment by segment; `parts` gets views of what stands at each {part}. */
typedef struct match {
    const char *parts[PHI_HTTP_PARTS_MAX];
    size_t bytes[PHI_HTTP_PARTS_MAX];
    size_t count;
} match;

static size_t segment_bytes(const char *text)
{
    return strcspn(text, "/");
}

static bool matches(const char *pattern, const char *path, match *out)
{
    out->count = 0;
    for (;;) {
        if (*pattern != '/' || *path != '/') {
            return *pattern == '\0' && *path == '\0';
        }
        pattern++;
        path++;
        size_t wanted = segment_bytes(pattern);
        size_t got = segment_bytes(path);
        if (*pattern == '{') {
            if (got == 0 || out->count == PHI_HTTP_PARTS_MAX) {
                return false;
            }
            out->parts[out->count] = path;
            out->bytes[out->count++] = got;
        } else if (wanted != got || strncmp(pattern, path, got) != 0) {
            return false;
        }
        pattern += wanted;
        path += got;
    }
}

static bool take_parts(phi_request *request, const match *found)
{
    for (size_t i = 0; i < found->count; i++) {
        char *part = phi_http_decode(found->parts[i], found->bytes[i]);
        if (!part) {
            phi_respond_error(request, 400, "invalid_request_error", NULL, NULL,
                              "the path has a malformed escape or is not UTF-8");
            return false;
        }
        request->parts[request->n_parts++] = part;
    }
    return true;
}

/* The path, with what is not printable replaced. */
static void show_path(const phi_request *request, char out[PATH_SHOWN_BYTES + 1])
{
    size_t i = 0;
    for (; i < PATH_SHOWN_BYTES && request->path[i]; i++) {
        char c = request->path[i];
        out[i] = '?';
        if (c > 0x20 && c < 0x7f) {
            out[i] = c;
        }
    }
    out[i] = '\0';
}

static void respond_no_route(phi_request *request, const char *allow)
{
    char path[PATH_SHOWN_BYTES + 1];
    char method[24];
    char message[256];
    show_path(request, path);
    (void)snprintf(method, sizeof method, "%s", request->method);
    if (!allow[0]) {
        (void)snprintf(message, sizeof message,
                       "there is no route %s %s; GET /openapi.json lists what there is", method,
                       path);
        phi_respond_error(request, 404, "invalid_request_error", "not_found", NULL, message);
        return;
    }
    (void)snprintf(message, sizeof message, "%s is not possible on %s; it allows %s", method, path,
                   allow);
    phi_respond_header(request, "Allow", allow);
    phi_respond_error(request, 405, "invalid_request_error", "method_not_allowed", NULL, message);
}

bool phi_http_route(phi_request *request)
{
    const phi_http_options *options = &request->http->options;
    const phi_route *get = NULL;
    match found = {.count = 0};
    match get_found = {.count = 0};
    char allow[80] = "";
    size_t used = 0;
    for (size_t i = 0; i < options->n_routes; i++) {
        const phi_route *route = &options->routes[i];
        if (!matches(route->pattern, request->path, &found)) {
            continue;
        }
        if (strcmp(route->method, request->method) == 0) {
            request->route = route;
            return take_parts(request, &found);
        }
        if (strcmp(route->method, "GET") == 0) {
            get = route;
            get_found = found;
        }
        int wrote = snprintf(allow + used, sizeof allow - used, "%s%s%s", used ? ", " : "",
                             route->method, strcmp(route->method, "GET") == 0 ? ", HEAD" : "");
        used = wrote > 0 && (size_t)wrote < sizeof allow - used ? used + (size_t)wrote : used;
    }
    if (request->head && get) {
        request->route = get;
        return take_parts(request, &get_found);
    }
    respond_no_route(request, allow);
    return false;
}
