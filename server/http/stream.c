#include "server/http/http_internal.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#include <string.h>

/* A producer that ignores the backlog loses its client here. */
#define PENDING_BYTES_MAX (16U << 20)
#define KEEPALIVE_NS 15000000000U
/* What libmicrohttpd asks for at a time. */
#define BLOCK_BYTES 16384U

/* libmicrohttpd wants bytes. */
static ssize_t on_read(void *cls, uint64_t position, char *out, size_t max)
{
    (void)position;
    phi_stream *stream = cls;
    phi_request *request = stream->request;
    if (request->phase == PHI_PHASE_DEAD || phi_buf_failed(&stream->pending)) {
        phi_request_tell_gone(request);
        return MHD_CONTENT_READER_END_WITH_ERROR;
    }
    if (stream->pending.length_bytes == 0 && stream->sent && stream->drained && !stream->ended) {
        stream->sent = false;
        stream->drained(stream->drained_user);
    }
    size_t left = stream->pending.length_bytes - stream->taken_bytes;
    if (left == 0) {
        if (stream->ended) {
            return MHD_CONTENT_READER_END_OF_STREAM;
        }
        phi_http_suspend(request);
        return 0;
    }
    size_t bytes = left < max ? left : max;
    memcpy(out, stream->pending.data + stream->taken_bytes, bytes);
    stream->taken_bytes += bytes;
    if (stream->taken_bytes == stream->pending.length_bytes) {
        phi_buf_clear(&stream->pending);
        stream->taken_bytes = 0;
    }
    stream->sent = true;
    request->answer_bytes += bytes;
    return (ssize_t)bytes;
}

phi_stream *phi_respond_stream(phi_request *request, void (*gone)(void *user), void *user)
{
    PHI_ASSERT(!request->stream && !request->response);
    phi_http *http = request->http;
    phi_stream *stream = phi_alloc_zero(1, sizeof *stream);
    stream->request = request;
    stream->last_ns = phi_clock_ns();
    phi_buf_init(&stream->pending, PENDING_BYTES_MAX);
    stream->next = http->streams;
    if (stream->next) {
        stream->next->prev = stream;
    }
    http->streams = stream;
    request->stream = stream;
    request->gone = gone;
    request->gone_user = user;
    phi_respond_header(request, "Content-Type", "text/event-stream");
    phi_respond_header(request, "Cache-Control", "no-cache");
    /* nginx buffers answers unless it is told not to. */
    phi_respond_header(request, "X-Accel-Buffering", "no");
    phi_http_watch(request);
    phi_respond(
        request, 200,
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_BYTES, on_read, stream, NULL));
    return stream;
}

/* One "data:" line for each line of the text, as the format has it. */
static void append_data(phi_buf *pending, const char *data, size_t bytes)
{
    size_t start = 0;
    for (;;) {
        const char *end = memchr(data + start, '\n', bytes - start);
        size_t line = end ? (size_t)(end - data) - start : bytes - start;
        (void)phi_buf_append_str(pending, "data: ");
        (void)phi_buf_append(pending, data + start, line);
        (void)phi_buf_append_char(pending, '\n');
        if (!end) {
            return;
        }
        start += line + 1;
    }
}

void phi_stream_event(phi_stream *stream, const char *name, const char *data, size_t bytes)
{
    PHI_ASSERT(!stream->ended);
    if (name) {
        (void)phi_buf_printf(&stream->pending, "event: %s\n", name);
    }
    append_data(&stream->pending, data, bytes);
    (void)phi_buf_append_char(&stream->pending, '\n');
    if (phi_buf_failed(&stream->pending)) {
        phi_log(PHI_LOG_WARN, "http", "stream_overflow", "id=%s", stream->request->id);
    }
    stream->last_ns = phi_clock_ns();
    phi_http_resume(stream->request);
}

size_t phi_stream_backlog_bytes(const phi_stream *stream)
{
    return stream->pending.length_bytes - stream->taken_bytes;
}

void phi_stream_on_drained(phi_stream *stream, void (*drained)(void *user), void *user)
{
    stream->drained = drained;
    stream->drained_user = user;
}

void phi_stream_end(phi_stream *stream)
{
    PHI_ASSERT(!stream->ended);
    stream->ended = true;
    stream->request->gone = NULL;
    phi_http_resume(stream->request);
}

void phi_streams_tick(phi_http *http, uint64_t now_ns)
{
    static const char comment[] = ": keep-alive\n\n";
    for (phi_stream *stream = http->streams; stream; stream = stream->next) {
        if (!stream->ended && phi_stream_backlog_bytes(stream) == 0 &&
            now_ns - stream->last_ns >= KEEPALIVE_NS) {
            (void)phi_buf_append(&stream->pending, comment, sizeof comment - 1);
            stream->last_ns = now_ns;
            phi_http_resume(stream->request);
        }
    }
}

void phi_stream_unlink(phi_request *request)
{
    phi_stream *stream = request->stream;
    if (stream) {
        *(stream->prev ? &stream->prev->next : &request->http->streams) = stream->next;
        if (stream->next) {
            stream->next->prev = stream->prev;
        }
    }
}

void phi_stream_destroy(phi_stream *stream)
{
    if (!stream) {
        return;
    }
    phi_buf_done(&stream->pending);
    phi_free(stream);
}
