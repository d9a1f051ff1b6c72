/*
 * Purpose: what the subcommands share: flags, messages, signals, and who they are.
 * Owns:    nothing; values are views into argv.
 * Threads: main thread. Errors: a flag is named, with the one that was probably meant.
 * Limits:  none.
 */
#ifndef PHI_SERVER_CLI_H
#define PHI_SERVER_CLI_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PHI_CLI_OK 0
#define PHI_CLI_FAILED 1
#define PHI_CLI_USAGE 2
/* As shells have it for SIGINT. */
#define PHI_CLI_INTERRUPTED 130

typedef struct phi_cli_flag {
    const char *name;   /* "--out" */
    const char **value; /* gets the value; NULL for a switch */
    bool *on;           /* a switch is set; may be NULL for a value */
} phi_cli_flag;

typedef struct phi_cli_args {
    const char *items[4]; /* what is no flag, in order */
    size_t count;
} phi_cli_args;

/* `argv` begins after the subcommand. "--" ends flags; "-" alone is no flag. */
phi_status phi_cli_parse(int argc, char *const *argv, const phi_cli_flag *flags, size_t n_flags,
                         phi_cli_args *out_args, phi_err *err) PHI_MUST_CHECK;
/* A value between min and max; `text` NULL keeps *number. */
phi_status phi_cli_number(const char *flag, const char *text, uint64_t min, uint64_t max,
                          uint64_t *number, phi_err *err) PHI_MUST_CHECK;
phi_status phi_cli_double(const char *flag, const char *text, double min, double max,
                          double *number, phi_err *err) PHI_MUST_CHECK;
/* The kernel set that the environment variable PHID_ISA names, or NULL: the best one. */
const char *phi_cli_isa(void);
/* "phid COMMAND: message" on standard error; for usage errors with a hint at --help. */
int phi_cli_fail(const char *command, const phi_err *err, int exit_code);

/* From now on SIGINT and SIGTERM only set a flag, and wake phi_cli_wait; a second one ends the
 * process as usual. */
phi_status phi_cli_catch_signals(phi_err *err) PHI_MUST_CHECK;
bool phi_cli_interrupted(void);
/* [any] Ends a wait, the present one or the next. */
void phi_cli_wake(void *unused);
void phi_cli_wait(void);

typedef struct phi_command {
    const char *name;
    const char *summary;
    int (*run)(int argc, char *const *argv);
    void (*help)(void);
} phi_command;

extern const phi_command phi_cmd_serve;
extern const phi_command phi_cmd_quantize;
extern const phi_command phi_cmd_convert;
extern const phi_command phi_cmd_generate;
extern const phi_command phi_cmd_inspect;
extern const phi_command phi_cmd_bench;
extern const phi_command phi_cmd_config;

#endif
