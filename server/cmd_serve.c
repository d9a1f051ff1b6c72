#include "base/buf.h"
#include "base/log.h"
#include "config/settings.h"
#include "server/app.h"
#include "server/cli.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define HELP_BYTES_MAX (1U << 20)

static void help(void)
{
    phi_buf flags;
    phi_buf_init(&flags, HELP_BYTES_MAX);
    if (phi_settings_help(&flags) == PHI_OK) {
        (void)printf(
            "phid serve: serves models over an OpenAI-compatible HTTP API, and quantizes them.\n"
            "\n"
            "  phid serve --listen 127.0.0.1:8080 --data-dir /var/lib/phid\n"
            "\n"
            "Settings come from defaults, then the file, then the environment (PHID_LISTEN=...),\n"
            "then flags; the later wins. All have defaults.\n"
            "\n%s",
            phi_buf_text(&flags));
    }
    phi_buf_done(&flags);
}

static int run(int argc, char *const *argv)
{
    phi_settings settings;
    phi_err err = {0};
    if (phi_settings_load(&settings, argc, argv, environ, &err)) {
        return phi_cli_fail("serve", &err, PHI_CLI_USAGE);
    }
    phi_log_level level = PHI_LOG_INFO;
    (void)phi_log_level_parse(settings.log_level, &level);
    phi_log_setup(level, strcmp(settings.log_format, "json") == 0);
    phi_status status = phi_app_run(&settings, &err);
    phi_settings_done(&settings);
    return status ? phi_cli_fail("serve", &err, PHI_CLI_FAILED) : PHI_CLI_OK;
}

const phi_command phi_cmd_serve = {"serve", "serve models and quantization jobs over HTTP", run,
                                   help};
