#include "server/http/http_internal.h"

#include "base/assert.h"
#include "base/str.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef enum range_result {
    RANGE_WHOLE, /* no range, or one that is not understood: RFC 9110 says to ignore it */
    RANGE_PART,
    RANGE_OUTSIDE,
} range_result;

/* One range of "bytes=A-B", "bytes=A-" or "bytes=-N"; several are answered with the whole file. */
static range_result parse_range(const char *text, uint64_t total, uint64_t *out_start,
                                uint64_t *out_bytes)
{
    char copy[64];
    uint64_t first = 0;
    uint64_t last = 0;
    if (!text || !phi_str_starts(text, "bytes=") || strlen(text) >= sizeof copy) {
        return RANGE_WHOLE;
    }
    (void)snprintf(copy, sizeof copy, "%s", text + strlen("bytes="));
    char *dash = strchr(copy, '-');
    if (!dash) {
        return RANGE_WHOLE;
    }
    *dash = '\0';
    bool has_first = copy[0] != '\0';
    bool has_last = dash[1] != '\0';
    if ((has_first && !phi_str_parse_u64(copy, UINT64_MAX, &first)) ||
        (has_last && !phi_str_parse_u64(dash + 1, UINT64_MAX, &last)) ||
        (!has_first && !has_last) || (has_first && has_last && last < first)) {
        return RANGE_WHOLE;
    }
    if (!has_first) {
        if (last == 0 || total == 0) {
            return RANGE_OUTSIDE;
        }
        *out_bytes = last < total ? last : total;
        *out_start = total - *out_bytes;
        return RANGE_PART;
    }
    if (first >= total) {
        return RANGE_OUTSIDE;
    }
    last = has_last && last < total ? last : total - 1;
    *out_start = first;
    *out_bytes = last - first + 1;
    return RANGE_PART;
}

/* Whether a list of entity tags holds this one; a weak tag matches as well. */
static bool has_tag(const char *list, const char *etag)
{
    if (strcmp(list, "*") == 0) {
        return true;
    }
    const char *at = strstr(list, etag);
    size_t bytes = strlen(etag);
    return at && (at[bytes] == '\0' || at[bytes] == ',' || at[bytes] == ' ');
}

/* The name in quotes, and again percent-encoded for what is not ASCII (RFC 6266). */
static void add_disposition(phi_request *request, const char *name)
{
    char text[640];
    size_t used = (size_t)snprintf(text, sizeof text, "attachment; filename=\"");
    for (const char *at = name; *at && used < 200; at++) {
        unsigned char c = (unsigned char)*at;
        text[used] = '_';
        if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\') {
            text[used] = *at;
        }
        used++;
    }
    used += (size_t)snprintf(text + used, sizeof text - used, "\"; filename*=UTF-8''");
    for (const char *at = name; *at && used < sizeof text - 4; at++) {
        unsigned char c = (unsigned char)*at;
        bool plain = (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || c == '.' ||
                     c == '-' || c == '_';
        used += (size_t)snprintf(text + used, sizeof text - used, plain ? "%c" : "%%%02X", c);
    }
    phi_respond_header(request, "Content-Disposition", text);
}

static void respond_bytes(phi_request *request, unsigned status, int fd, uint64_t start,
                          uint64_t bytes)
{
    struct MHD_Response *response = MHD_create_response_from_fd_at_offset64(bytes, fd, start);
    PHI_ASSERT(response != NULL);
    request->answer_bytes = request->head ? 0 : bytes;
    phi_respond(request, status, response);
}

void phi_respond_file(phi_request *request, int fd, uint64_t bytes, const char *etag,
                      const char *content_type, const char *download_name)
{
    const char *none_match = phi_request_header(request, "If-None-Match");
    const char *if_range = phi_request_header(request, "If-Range");
    const char *wanted = phi_request_header(request, "Range");
    uint64_t start = 0;
    uint64_t part = bytes;
    char text[80];
    phi_respond_header(request, "ETag", etag);
    phi_respond_header(request, "Accept-Ranges", "bytes");
    if (none_match && has_tag(none_match, etag)) {
        (void)close(fd);
        phi_respond_empty(request, 304);
        return;
    }
    if (if_range && strcmp(if_range, etag) != 0) {
        wanted = NULL;
    }
    range_result range = parse_range(wanted, bytes, &start, &part);
    if (range == RANGE_OUTSIDE) {
        (void)close(fd);
        (void)snprintf(text, sizeof text, "bytes */%" PRIu64, bytes);
        phi_respond_header(request, "Content-Range", text);
        (void)snprintf(text, sizeof text, "the range lies outside the file's %" PRIu64 " bytes",
                       bytes);
        phi_respond_error(request, 416, "invalid_request_error", "range_not_satisfiable", "Range",
                          text);
        return;
    }
    phi_respond_header(request, "Content-Type", content_type);
    if (download_name) {
        add_disposition(request, download_name);
    }
    if (range == RANGE_PART) {
        (void)snprintf(text, sizeof text, "bytes %" PRIu64 "-%" PRIu64 "/%" PRIu64, start,
                       start + part - 1, bytes);
        phi_respond_header(request, "Content-Range", text);
    }
    respond_bytes(request, range == RANGE_PART ? 206 : 200, fd, start, part);
}
