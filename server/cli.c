#include "server/cli.h"

#include "base/str.h"
#include "config/suggest.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static volatile sig_atomic_t interrupted;
/* Written before the handler is installed, read in it. */
static int wake_fd = -1;

static const phi_cli_flag *find_flag(const phi_cli_flag *flags, size_t n_flags, const char *arg)
{
    size_t bytes = strcspn(arg, "=");
    for (size_t i = 0; i < n_flags; i++) {
        if (strlen(flags[i].name) == bytes && strncmp(flags[i].name, arg, bytes) == 0) {
            return &flags[i];
        }
    }
    return NULL;
}

static phi_status fail_unknown(const phi_cli_flag *flags, size_t n_flags, const char *arg,
                               phi_err *err)
{
    char name[64];
    (void)snprintf(name, sizeof name, "%.*s", (int)strcspn(arg, "="), arg);
    for (size_t i = 0; i < n_flags; i++) {
        if (phi_suggest_close(name, flags[i].name)) {
            return phi_fail(err, PHI_E_INVALID, "there is no flag %s; did you mean %s?", name,
                            flags[i].name);
        }
    }
    return phi_fail(err, PHI_E_INVALID, "there is no flag %s", name);
}

phi_status phi_cli_parse(int argc, char *const *argv, const phi_cli_flag *flags, size_t n_flags,
                         phi_cli_args *out_args, phi_err *err)
{
    bool flags_ended = false;
    phi_cli_args args = {.count = 0};
    for (int i = 0; i < argc; i++) {
        const char *arg = argv[i];
        if (!flags_ended && strcmp(arg, "--") == 0) {
            flags_ended = true;
            continue;
        }
        if (flags_ended || arg[0] != '-' || arg[1] == '\0') {
            if (args.count == sizeof args.items / sizeof *args.items) {
                return phi_fail(err, PHI_E_INVALID, "'%.80s' is one argument too many", arg);
            }
            args.items[args.count++] = arg;
            continue;
        }
        const phi_cli_flag *flag = find_flag(flags, n_flags, arg);
        if (!flag) {
            return fail_unknown(flags, n_flags, arg, err);
        }
        const char *equals = strchr(arg, '=');
        if (!flag->value && equals) {
            return phi_fail(err, PHI_E_INVALID, "%s takes no value", flag->name);
        }
        if (flag->value) {
            *flag->value = equals ? equals + 1 : argv[++i];
            if (!equals && i >= argc) {
                return phi_fail(err, PHI_E_INVALID, "%s needs a value", flag->name);
            }
        } else {
            *flag->on = true;
        }
    }
    *out_args = args;
    return PHI_OK;
}

phi_status phi_cli_number(const char *flag, const char *text, uint64_t min, uint64_t max,
                          uint64_t *number, phi_err *err)
{
    uint64_t value = 0;
    if (!text) {
        return PHI_OK;
    }
    if (!phi_str_parse_u64(text, max, &value) || value < min) {
        return phi_fail(err, PHI_E_INVALID,
                        "%s is '%.40s'; it must be a whole number from %llu to %llu", flag, text,
                        (unsigned long long)min, (unsigned long long)max);
    }
    *number = value;
    return PHI_OK;
}

phi_status phi_cli_double(const char *flag, const char *text, double min, double max,
                          double *number, phi_err *err)
{
    double value = 0;
    if (!text) {
        return PHI_OK;
    }
    if (!phi_str_parse_double(text, &value) || value < min || value > max) {
        return phi_fail(err, PHI_E_INVALID, "%s is '%.40s'; it must be a number from %g to %g",
                        flag, text, min, max);
    }
    *number = value;
    return PHI_OK;
}

const char *phi_cli_isa(void)
{
    return getenv("PHID_ISA");
}

int phi_cli_fail(const char *command, const phi_err *err, int exit_code)
{
    (void)fprintf(stderr, "phid %s: %s\n", command, err->message);
    if (exit_code == PHI_CLI_USAGE) {
        (void)fprintf(stderr, "'phid help %s' says more.\n", command);
    }
    return exit_code;
}

/* ---- signals ---- */

static void on_signal(int number)
{
    (void)number;
    int errnum = errno;
    interrupted = 1;
    phi_cli_wake(NULL);
    errno = errnum;
}

phi_status phi_cli_catch_signals(phi_err *err)
{
    wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (wake_fd < 0) {
        return phi_fail(err, PHI_E_IO, "cannot create an event descriptor: %s", strerror(errno));
    }
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    action.sa_flags = (int)(SA_RESTART | SA_RESETHAND);
    (void)sigemptyset(&action.sa_mask);
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
    return PHI_OK;
}

bool phi_cli_interrupted(void)
{
    return interrupted != 0;
}

void phi_cli_wake(void *unused)
{
    (void)unused;
    uint64_t one = 1;
    /* A full counter wakes as well. */
    ssize_t wrote = write(wake_fd, &one, sizeof one);
    (void)wrote;
}

void phi_cli_wait(void)
{
    struct pollfd fd = {.fd = wake_fd, .events = POLLIN};
    uint64_t count = 0;
    (void)poll(&fd, 1, -1);
    ssize_t got = read(wake_fd, &count, sizeof count);
    (void)got;
}
