#include "base/buf.h"
#include "config/settings.h"
#include "server/cli.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define TEXT_BYTES_MAX (4U << 20)

static void help(void)
{
    (void)printf("phid config: the settings file.\n"
                 "\n"
                 "  phid config > phid.conf      print an example: every setting and its default\n"
                 "  phid config --check FILE     say everything that is wrong with a file\n"
                 "  phid config --check          the same for PHID_CONFIG's file and environment\n"
                 "  phid config --dump [FLAGS]   print what would be in force with these flags of\n"
                 "                               'phid serve', the file and the environment\n"
                 "\n"
                 "--check exits with 0 when all is well, else with 1.\n");
}

static int check_file(const char *path)
{
    phi_buf report;
    size_t errors = 0;
    phi_buf_init(&report, TEXT_BYTES_MAX);
    phi_status status = phi_settings_check_file(path, &report, &errors);
    (void)fputs(phi_buf_text(&report), stderr);
    phi_buf_done(&report);
    if (status) {
        (void)fprintf(stderr, "%zu error%s\n", errors, errors == 1 ? "" : "s");
        return PHI_CLI_FAILED;
    }
    (void)printf("%s is good\n", path);
    return PHI_CLI_OK;
}

static int dump(int argc, char *const *argv, bool quiet)
{
    phi_settings settings;
    phi_err err = {0};
    if (phi_settings_load(&settings, argc, argv, environ, &err)) {
        return phi_cli_fail("config", &err, PHI_CLI_FAILED);
    }
    phi_buf text;
    phi_buf_init(&text, TEXT_BYTES_MAX);
    phi_status status = phi_settings_dump(&settings, &text);
    (void)fputs(quiet ? "the settings are good\n" : phi_buf_text(&text), stdout);
    phi_buf_done(&text);
    phi_settings_done(&settings);
    return status ? PHI_CLI_FAILED : PHI_CLI_OK;
}

static int run(int argc, char *const *argv)
{
    phi_err err = {0};
    if (argc > 0 && strcmp(argv[0], "--dump") == 0) {
        return dump(argc - 1, argv + 1, false);
    }
    bool check = false;
    const phi_cli_flag flags[] = {{"--check", NULL, &check}, {"--dump", NULL, &check}};
    phi_cli_args args;
    if (phi_cli_parse(argc, argv, flags, sizeof flags / sizeof *flags, &args, &err)) {
        return phi_cli_fail("config", &err, PHI_CLI_USAGE);
    }
    if (args.count > 1 || (args.count == 1 && !check)) {
        (void)phi_fail(&err, PHI_E_INVALID, "'%.80s' is one argument too many%s",
                       args.items[args.count - 1],
                       check ? "" : "; to check a file: phid config --check FILE");
        return phi_cli_fail("config", &err, PHI_CLI_USAGE);
    }
    if (check) {
        return args.count == 1 ? check_file(args.items[0]) : dump(0, argv + argc, true);
    }
    phi_buf text;
    phi_buf_init(&text, TEXT_BYTES_MAX);
    phi_status status = phi_settings_example(&text);
    (void)fputs(phi_buf_text(&text), stdout);
    phi_buf_done(&text);
    return status ? PHI_CLI_FAILED : PHI_CLI_OK;
}

const phi_command phi_cmd_config = {"config", "print or check settings", run, help};
