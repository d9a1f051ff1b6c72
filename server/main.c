#include "config/suggest.h"
#include "server/cli.h"

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const phi_command *const commands[] = {
    &phi_cmd_serve,   &phi_cmd_quantize, &phi_cmd_convert, &phi_cmd_generate,
    &phi_cmd_inspect, &phi_cmd_bench,    &phi_cmd_config,
};
#define N_COMMANDS (sizeof commands / sizeof *commands)

static void print_help(void)
{
    (void)printf("phid %s: quantizes and serves Microsoft's Phi language models.\n\n",
                 PHID_VERSION);
    for (size_t i = 0; i < N_COMMANDS; i++) {
        (void)printf("  phid %-10s %s\n", commands[i]->name, commands[i]->summary);
    }
    (void)printf("\n"
                 "  phid help COMMAND   flags and examples of a command\n"
                 "  phid --version      the version\n"
                 "\n"
                 "To begin: phid serve, then open http://127.0.0.1:8080/\n");
}

static const phi_command *find_command(const char *name)
{
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (strcmp(commands[i]->name, name) == 0) {
            return commands[i];
        }
    }
    return NULL;
}

static int fail_unknown(const char *name)
{
    (void)fprintf(stderr, "phid: there is no command '%.60s'", name);
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (phi_suggest_close(name, commands[i]->name)) {
            (void)fprintf(stderr, "; did you mean '%s'?", commands[i]->name);
            break;
        }
    }
    (void)fprintf(stderr, "\n'phid --help' lists all.\n");
    return PHI_CLI_USAGE;
}

static int help(const char *name)
{
    if (!name) {
        print_help();
        return PHI_CLI_OK;
    }
    const phi_command *command = find_command(name);
    if (!command) {
        return fail_unknown(name);
    }
    command->help();
    return PHI_CLI_OK;
}

static bool wants_help(int argc, char *const *argv)
{
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            return true;
        }
    }
    return false;
}

int main(int argc, char **argv)
{
    /* A file that grows beyond the limit of its size is an error like a full disk. */
    (void)signal(SIGXFSZ, SIG_IGN);
    const char *name = argc > 1 ? argv[1] : NULL;
    if (!name) {
        print_help();
        return PHI_CLI_USAGE;
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        return help(NULL);
    }
    if (strcmp(name, "help") == 0) {
        return help(argc > 2 ? argv[2] : NULL);
    }
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
        (void)printf("phid %s\n", PHID_VERSION);
        return PHI_CLI_OK;
    }
    const phi_command *command = find_command(name);
    if (!command) {
        return fail_unknown(name);
    }
    if (wants_help(argc - 2, argv + 2)) {
        return help(name);
    }
    return command->run(argc - 2, argv + 2);
}
