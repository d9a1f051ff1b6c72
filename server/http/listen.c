#include "server/http/http_internal.h"

#include "base/mem.h"
#include "base/str.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* "HOST:PORT" or "[V6]:PORT" into two strings. */
static phi_status split(const char *address, char host[256], char port[8], phi_err *err)
{
    const char *colon = strrchr(address, ':');
    size_t host_bytes = colon ? (size_t)(colon - address) : 0;
    uint64_t number = 0;
    if (!colon || host_bytes >= 256 || !phi_str_parse_u64(colon + 1, 65535, &number)) {
        return phi_fail_param(err, PHI_E_INVALID, "listen",
                              "listen is '%.80s'; it must be HOST:PORT, for example "
                              "127.0.0.1:8080 or [::1]:8080",
                              address);
    }
    if (host_bytes >= 2 && address[0] == '[' && colon[-1] == ']') {
        address++;
        host_bytes -= 2;
    }
    (void)snprintf(host, 256, "%.*s", (int)host_bytes, address);
    (void)snprintf(port, 8, "%u", (unsigned)number);
    return PHI_OK;
}

static int open_socket(const struct addrinfo *at)
{
    int fd = socket(at->ai_family, at->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, at->ai_protocol);
    int on = 1;
    if (fd < 0) {
        return -1;
    }
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, at->ai_addr, at->ai_addrlen) != 0 || listen(fd, SOMAXCONN) != 0) {
        int errnum = errno;
        (void)close(fd);
        errno = errnum;
        return -1;
    }
    return fd;
}

static uint16_t port_of(int fd)
{
    struct sockaddr_storage name;
    socklen_t bytes = sizeof name;
    memset(&name, 0, sizeof name);
    if (getsockname(fd, (struct sockaddr *)&name, &bytes) != 0) {
        return 0;
    }
    if (name.ss_family == AF_INET6) {
        struct sockaddr_in6 v6;
        memcpy(&v6, &name, sizeof v6);
        return ntohs(v6.sin6_port);
    }
    struct sockaddr_in v4;
    memcpy(&v4, &name, sizeof v4);
    return ntohs(v4.sin_port);
}

phi_status phi_http_listen(const char *address, int *out_fd, uint16_t *out_port, phi_err *err)
{
    char host[256] = "";
    char port[8] = "";
    phi_status status = split(address, host, port, err);
    if (status) {
        return status;
    }
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found = NULL;
    int failed = getaddrinfo(host[0] ? host : NULL, port, &hints, &found);
    if (failed) {
        return phi_fail_param(err, PHI_E_INVALID, "listen", "cannot listen on %.80s: %s", address,
                              failed == EAI_SYSTEM ? strerror(errno) : gai_strerror(failed));
    }
    int fd = -1;
    for (struct addrinfo *at = found; at && fd < 0; at = at->ai_next) {
        fd = open_socket(at);
    }
    int errnum = errno;
    freeaddrinfo(found);
    if (fd < 0) {
        return phi_fail_param(
            err, PHI_E_IO, "listen", "cannot listen on %.80s: %s%s", address, strerror(errnum),
            errnum == EADDRINUSE ? "; choose another port or stop what uses it" : "");
    }
    *out_fd = fd;
    *out_port = port_of(fd);
    return PHI_OK;
}
