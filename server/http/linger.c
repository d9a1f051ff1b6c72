/*
 * A connection that is closed with unread bytes is reset, and a reset can overtake the answer. So
 * when an answer comes before the end of its body, a second descriptor of the connection stays
 * open for a moment and what arrives is thrown away, until the client has closed too.
 */
#include "server/http/http_internal.h"

#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#define LINGER_NS_MAX 5000000000U
#define LINGER_BYTES_MAX (256U << 20)

struct phi_linger {
    uv_poll_t poll; /* first: the close callback gets it */
    phi_http *http; /* NULL: closing */
    int fd;
    uint64_t until_ns;
    uint64_t bytes;
    phi_linger *next;
};

static void on_closed(uv_handle_t *handle)
{
    phi_linger *linger = (phi_linger *)handle;
    (void)close(linger->fd);
    phi_free(linger);
}

static void stop(phi_linger *linger)
{
    phi_linger **link = &linger->http->lingers;
    while (*link != linger) {
        link = &(*link)->next;
    }
    *link = linger->next;
    linger->http->n_lingers--;
    linger->http = NULL;
    (void)uv_poll_stop(&linger->poll);
    uv_close((uv_handle_t *)&linger->poll, on_closed);
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    (void)events;
    phi_linger *linger = (phi_linger *)poll;
    char data[65536];
    ssize_t got = status ? 0 : recv(linger->fd, data, sizeof data, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    linger->bytes += got > 0 ? (uint64_t)got : 0;
    if (got <= 0 || linger->bytes > LINGER_BYTES_MAX) {
        stop(linger);
    }
}

void phi_linger_start(phi_http *http, int fd)
{
    if (http->stopping || http->n_lingers >= PHI_HTTP_LINGER_MAX) {
        return;
    }
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) {
        return;
    }
    phi_linger *linger = phi_alloc_zero(1, sizeof *linger);
    if (uv_poll_init(http->options.loop, &linger->poll, copy) != 0) {
        (void)close(copy);
        phi_free(linger);
        return;
    }
    linger->http = http;
    linger->fd = copy;
    linger->until_ns = phi_clock_ns() + LINGER_NS_MAX;
    linger->next = http->lingers;
    http->lingers = linger;
    http->n_lingers++;
    (void)uv_poll_start(&linger->poll, UV_READABLE | UV_DISCONNECT, on_readable);
}

void phi_lingers_tick(phi_http *http, uint64_t now_ns)
{
    phi_linger *next = NULL;
    for (phi_linger *at = http->lingers; at; at = next) {
        next = at->next;
        if (now_ns > at->until_ns) {
            stop(at);
        }
    }
}

void phi_linger_stop_all(phi_http *http)
{
    while (http->lingers) {
        stop(http->lingers);
    }
}
