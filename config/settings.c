#include "config/settings.h"

#include "base/assert.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "config/limits.h"
#include "config/settings_table.h"
#include "config/suggest.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A settings file of every setting with long values stays far below. */
#define FILE_BYTES_MAX (1U << 20)
/* A value as far as an error message repeats it. */
#define SHOWN_BYTES 60
#define ENV_PREFIX "PHID_"

/* Where a value comes from, for messages: "phid.conf:3", "PHID_LISTEN", "--listen". */
typedef struct origin {
    const char *text;
} origin;

static char **text_at(phi_settings *settings, const phi_setting_row *row)
{
    return (char **)(void *)((char *)settings + row->offset);
}

static uint64_t *number_at(phi_settings *settings, const phi_setting_row *row)
{
    return (uint64_t *)(void *)((char *)settings + row->offset);
}

static bool is_text(const phi_setting_row *row)
{
    return row->type == PHI_SETTING_TEXT || row->type == PHI_SETTING_CHOICE;
}

/* ---- names ---- */

static const phi_setting_row *find_row(const char *name)
{
    for (size_t i = 0; i < phi_setting_row_count; i++) {
        if (strcmp(phi_setting_rows[i].name, name) == 0) {
            return &phi_setting_rows[i];
        }
    }
    return NULL;
}

static const phi_setting_row *nearest_row(const char *name)
{
    const phi_setting_row *best = NULL;
    size_t least = SIZE_MAX;
    for (size_t i = 0; i < phi_setting_row_count; i++) {
        size_t distance = phi_suggest_distance(name, phi_setting_rows[i].name);
        if (distance < least && phi_suggest_close(name, phi_setting_rows[i].name)) {
            least = distance;
            best = &phi_setting_rows[i];
        }
    }
    return best;
}

/* "max-upload" and "MAX_UPLOAD" to "max_upload"; false when too long to be a name. */
static bool plain_name(const char *text, size_t bytes, char out[64])
{
    if (bytes >= 64) {
        return false;
    }
    for (size_t i = 0; i < bytes; i++) {
        char lower = (char)tolower((unsigned char)text[i]);
        out[i] = text[i] == '-' ? '_' : lower;
    }
    out[bytes] = '\0';
    return true;
}

/* ---- one value ---- */

static bool is_choice(const phi_setting_row *row, const char *value)
{
    size_t bytes = strlen(value);
    for (const char *at = row->choices; *at;) {
        size_t word = strcspn(at, " ");
        if (word == bytes && strncmp(at, value, bytes) == 0) {
            return true;
        }
        at += word + (at[word] == ' ');
    }
    return false;
}

/* A size as a file would say it: 64G rather than 68719476736. */
static void format_bytes(uint64_t bytes, char *out, size_t out_bytes)
{
    static const char units[] = "KMGT";
    size_t unit = 0;
    while (unit < 4 && bytes > 0 && bytes % 1024 == 0) {
        bytes /= 1024;
        unit++;
    }
    char suffix[2] = {unit ? units[unit - 1] : '\0', '\0'};
    (void)snprintf(out, out_bytes, "%" PRIu64 "%s", bytes, suffix);
}

static void format_number(const phi_setting_row *row, uint64_t value, char *out, size_t out_bytes)
{
    if (row->type == PHI_SETTING_BYTES) {
        format_bytes(value, out, out_bytes);
    } else {
        (void)snprintf(out, out_bytes, "%" PRIu64, value);
    }
}

static phi_status set_number(phi_settings *settings, const phi_setting_row *row, const char *value,
                             const origin *from, phi_err *err)
{
    uint64_t number = 0;
    bool good = row->type == PHI_SETTING_BYTES ? phi_str_parse_bytes(value, &number)
                                               : phi_str_parse_u64(value, UINT64_MAX, &number);
    if (!good || number < row->min || number > row->max) {
        char min[32];
        char max[32];
        format_number(row, row->min, min, sizeof min);
        format_number(row, row->max, max, sizeof max);
        return phi_fail_param(err, PHI_E_INVALID, row->name,
                              "%s: %s is '%.*s'; it must be a %s from %s to %s", from->text,
                              row->name, SHOWN_BYTES, value,
                              row->type == PHI_SETTING_BYTES     ? "size (like 64G)"
                              : row->type == PHI_SETTING_SECONDS ? "number of seconds"
                                                                 : "whole number",
                              min, max);
    }
    *number_at(settings, row) = number;
    return PHI_OK;
}

static phi_status set_value(phi_settings *settings, const phi_setting_row *row, const char *value,
                            const origin *from, phi_err *err)
{
    if (!is_text(row)) {
        return set_number(settings, row, value, from, err);
    }
    if (row->type == PHI_SETTING_CHOICE && !is_choice(row, value)) {
        return phi_fail_param(err, PHI_E_INVALID, row->name,
                              "%s: %s is '%.*s'; it must be one of: %s", from->text, row->name,
                              SHOWN_BYTES, value, row->choices);
    }
    const char *wrong = row->check ? row->check(value) : NULL;
    if (wrong) {
        /* Keys appear in no message. */
        bool secret = strcmp(row->name, "api_keys") == 0;
        return phi_fail_param(err, PHI_E_INVALID, row->name, "%s: %s is '%.*s'; it %s", from->text,
                              row->name, SHOWN_BYTES, secret ? "..." : value, wrong);
    }
    char **slot = text_at(settings, row);
    phi_free(*slot);
    *slot = phi_strdup(value);
    return PHI_OK;
}

static phi_status fail_unknown(const char *shown, const char *name, const origin *from,
                               phi_err *err)
{
    const phi_setting_row *near = nearest_row(name);
    if (near) {
        bool variable = phi_str_starts(shown, ENV_PREFIX);
        char right[64];
        (void)snprintf(right, sizeof right, "%s%s", variable ? ENV_PREFIX : "", near->name);
        for (char *at = right; *at && variable; at++) {
            *at = (char)toupper((unsigned char)*at);
        }
        return phi_fail_param(err, PHI_E_INVALID, shown,
                              "%s: there is no setting '%.*s'; did you mean '%s'?", from->text,
                              SHOWN_BYTES, shown, right);
    }
    return phi_fail_param(err, PHI_E_INVALID, shown,
                          "%s: there is no setting '%.*s'; 'phid config' prints all", from->text,
                          SHOWN_BYTES, shown);
}

/* ---- defaults ---- */

static char *default_data_dir(char *const *environ_)
{
    const char *home = NULL;
    for (char *const *at = environ_; at && *at; at++) {
        if (phi_str_starts(*at, "XDG_DATA_HOME=/")) {
            return phi_strfmt("%s/phid", *at + strlen("XDG_DATA_HOME="));
        }
        if (phi_str_starts(*at, "HOME=/")) {
            home = *at + strlen("HOME=");
        }
    }
    return home ? phi_strfmt("%s/.local/share/phid", home) : phi_strdup("/var/lib/phid");
}

static void set_defaults(phi_settings *settings, char *const *environ_)
{
    static const origin builtin = {"built in"};
    for (size_t i = 0; i < phi_setting_row_count; i++) {
        const phi_setting_row *row = &phi_setting_rows[i];
        if (row->fallback) {
            phi_status status = set_value(settings, row, row->fallback, &builtin, NULL);
            PHI_ASSERT(status == PHI_OK);
        }
    }
    settings->data_dir = default_data_dir(environ_);
}

/* ---- the file ---- */

typedef struct file_run {
    const char *path;
    phi_settings *settings;
    unsigned lines[64]; /* line at which each row was set; 0: not */
    phi_buf *report;    /* NULL: stop at the first error */
    size_t errors;
} file_run;

static char *trim(char *text)
{
    while (isspace((unsigned char)*text)) {
        text++;
    }
    char *end = text + strlen(text);
    while (end > text && isspace((unsigned char)end[-1])) {
        end--;
    }
    *end = '\0';
    return text;
}

/* A '#' begins a comment at the start of a line and after a blank. */
static void cut_comment(char *line)
{
    for (char *at = line; *at; at++) {
        if (*at == '#' && (at == line || isspace((unsigned char)at[-1]))) {
            *at = '\0';
            return;
        }
    }
}

static phi_status read_line(file_run *run, char *line, unsigned number, phi_err *err)
{
    char where[192];
    (void)snprintf(where, sizeof where, "%.160s:%u", run->path, number);
    origin from = {where};
    cut_comment(line);
    char *key = trim(line);
    if (!key[0]) {
        return PHI_OK;
    }
    char *equals = strchr(key, '=');
    if (!equals) {
        return phi_fail(err, PHI_E_INVALID, "%s: '%.*s' is no setting; a line is KEY = VALUE",
                        where, SHOWN_BYTES, key);
    }
    *equals = '\0';
    char *value = trim(equals + 1);
    key = trim(key);
    const phi_setting_row *row = find_row(key);
    if (!row) {
        return fail_unknown(key, key, &from, err);
    }
    unsigned *set_at = &run->lines[row - phi_setting_rows];
    if (*set_at) {
        return phi_fail_param(err, PHI_E_INVALID, row->name, "%s: %s was set on line %u already",
                              where, row->name, *set_at);
    }
    *set_at = number;
    return set_value(run->settings, row, value, &from, err);
}

static phi_status read_file(file_run *run, phi_err *err)
{
    char *text = NULL;
    size_t bytes = 0;
    PHI_ASSERT(phi_setting_row_count <= sizeof run->lines / sizeof *run->lines);
    phi_status status = phi_file_read_text(run->path, FILE_BYTES_MAX, &text, &bytes, err);
    if (status) {
        return status;
    }
    if (strlen(text) != bytes || !phi_utf8_valid(text, bytes)) {
        phi_free(text);
        return phi_fail(err, PHI_E_INVALID, "%.160s: a settings file is text in UTF-8", run->path);
    }
    unsigned number = 1;
    for (char *line = text; line && (!status || run->report); number++) {
        char *end = strchr(line, '\n');
        if (end) {
            *end = '\0';
        }
        phi_status one = read_line(run, line, number, err);
        if (one && run->report && err) {
            run->errors++;
            (void)phi_buf_printf(run->report, "%s\n", err->message);
        }
        status = status ? status : one;
        line = end ? end + 1 : NULL;
    }
    phi_free(text);
    return status;
}

phi_status phi_settings_check_file(const char *path, phi_buf *out_report, size_t *out_errors)
{
    phi_settings settings = {0};
    phi_err err = {0};
    set_defaults(&settings, NULL);
    file_run run = {.path = path, .settings = &settings, .report = out_report};
    phi_status status = read_file(&run, &err);
    if (status && run.errors == 0) {
        run.errors = 1;
        (void)phi_buf_printf(out_report, "%s\n", err.message);
    }
    phi_settings_done(&settings);
    *out_errors = run.errors;
    return status;
}

/* ---- environment and flags ---- */

static phi_status read_environment(phi_settings *settings, char *const *environ_,
                                   const char **out_config, phi_err *err)
{
    for (char *const *at = environ_; at && *at; at++) {
        const char *equals = strchr(*at, '=');
        char name[64];
        char shown[64];
        if (!phi_str_starts(*at, ENV_PREFIX) || !equals || equals - *at >= 64) {
            continue;
        }
        (void)snprintf(shown, sizeof shown, "%.*s", (int)(equals - *at), *at);
        const char *plain = *at + strlen(ENV_PREFIX);
        (void)plain_name(plain, (size_t)(equals - plain), name);
        origin from = {shown};
        const phi_setting_row *row = find_row(name);
        phi_status status = PHI_OK;
        if (strcmp(name, "config") == 0) {
            *out_config = equals + 1;
        } else if (row && settings) {
            status = set_value(settings, row, equals + 1, &from, err);
        } else if (!row && nearest_row(name)) {
            /* Other programs may have variables of that prefix too: only what looks like a typing
             * error is one. */
            status = fail_unknown(shown, name, &from, err);
        }
        if (status) {
            return status;
        }
    }
    return PHI_OK;
}

static phi_status read_flag(phi_settings *settings, char *const *argv, int *at,
                            const char **out_config, phi_err *err)
{
    const char *arg = argv[*at];
    char name[64] = "";
    char shown[80];
    size_t bytes = strcspn(arg, "=");
    (void)snprintf(shown, sizeof shown, "%.*s", bytes < 64 ? (int)bytes : 63, arg);
    origin from = {shown};
    if (!phi_str_starts(arg, "--") || !plain_name(arg + 2, bytes - 2, name)) {
        return phi_fail_param(err, PHI_E_INVALID, shown,
                              "'%.*s' is no flag; flags are --name VALUE or --name=VALUE",
                              SHOWN_BYTES, arg);
    }
    bool config = strcmp(name, "config") == 0;
    const phi_setting_row *row = find_row(name);
    if (!row && !config) {
        const phi_setting_row *near = nearest_row(name);
        char flag[64] = "config";
        bool close = near || phi_suggest_close(name, "config");
        if (near) {
            (void)snprintf(flag, sizeof flag, "%s", near->name);
        }
        for (char *c = flag; *c; c++) {
            *c = *c == '_' ? '-' : *c;
        }
        return close ? phi_fail_param(err, PHI_E_INVALID, shown,
                                      "there is no flag %s; did you mean --%s?", shown, flag)
                     : phi_fail_param(err, PHI_E_INVALID, shown,
                                      "there is no flag %s; --help lists all", shown);
    }
    const char *value = arg[bytes] == '=' ? arg + bytes + 1 : argv[*at + 1];
    if (!value) {
        return phi_fail_param(err, PHI_E_INVALID, shown, "%s needs a value", shown);
    }
    *at += arg[bytes] == '=' ? 1 : 2;
    if (config) {
        *out_config = value;
        return PHI_OK;
    }
    return settings ? set_value(settings, row, value, &from, err) : PHI_OK;
}

static phi_status read_flags(phi_settings *settings, int argc, char *const *argv,
                             const char **out_config, phi_err *err)
{
    for (int at = 0; at < argc;) {
        phi_status status = read_flag(settings, argv, &at, out_config, err);
        if (status) {
            return status;
        }
    }
    return PHI_OK;
}

phi_status phi_settings_load(phi_settings *out_settings, int argc, char *const *argv,
                             char *const *environ_, phi_err *err)
{
    phi_settings settings = {0};
    const char *config = NULL;
    const char *ignored = NULL;
    set_defaults(&settings, environ_);
    /* The file's name first: flags and environment come later in effect, but say where it is. */
    phi_status status = read_environment(NULL, environ_, &config, err);
    status = status ? status : read_flags(NULL, argc, argv, &config, err);
    if (!status && config && config[0]) {
        file_run run = {.path = config, .settings = &settings};
        status = read_file(&run, err);
    }
    status = status ? status : read_environment(&settings, environ_, &ignored, err);
    status = status ? status : read_flags(&settings, argc, argv, &ignored, err);
    if (status) {
        phi_settings_done(&settings);
        return status;
    }
    *out_settings = settings;
    return PHI_OK;
}

void phi_settings_done(phi_settings *settings)
{
    for (size_t i = 0; i < phi_setting_row_count; i++) {
        if (is_text(&phi_setting_rows[i])) {
            char **slot = text_at(settings, &phi_setting_rows[i]);
            phi_free(*slot);
            *slot = NULL;
        }
    }
}

/* ---- texts ---- */

static void append_help(phi_buf *out, const char *indent, const char *help)
{
    while (*help) {
        size_t line = strcspn(help, "\n");
        (void)phi_buf_printf(out, "%s%.*s\n", indent, (int)line, help);
        help += line + (help[line] == '\n');
    }
}

static void append_range(phi_buf *out, const char *indent, const phi_setting_row *row)
{
    char min[32];
    char max[32];
    if (row->type == PHI_SETTING_CHOICE) {
        (void)phi_buf_printf(out, "%sOne of: %s.\n", indent, row->choices);
    } else if (!is_text(row)) {
        format_number(row, row->min, min, sizeof min);
        format_number(row, row->max, max, sizeof max);
        (void)phi_buf_printf(out, "%sFrom %s to %s%s.\n", indent, min, max,
                             row->type == PHI_SETTING_SECONDS ? " seconds" : "");
    }
}

phi_status phi_settings_example(phi_buf *out)
{
    (void)phi_buf_append_str(
        out, "# Settings of phid, each with its default: take away the # and change the value.\n"
             "# The environment (PHID_LISTEN=...) and flags (--listen ...) go before this file.\n"
             "# 'phid config --check FILE' tells what is wrong with a file.\n");
    for (size_t i = 0; i < phi_setting_row_count; i++) {
        const phi_setting_row *row = &phi_setting_rows[i];
        (void)phi_buf_append_char(out, '\n');
        append_help(out, "# ", row->help);
        append_range(out, "# ", row);
        if (row->fallback) {
            (void)phi_buf_printf(out, "#%s =%s%s\n", row->name, row->fallback[0] ? " " : "",
                                 row->fallback);
        } else {
            (void)phi_buf_append_str(out, "# Default: $XDG_DATA_HOME/phid or "
                                          "~/.local/share/phid.\n#data_dir = /var/lib/phid\n");
        }
    }
    return out->failed;
}

phi_status phi_settings_help(phi_buf *out)
{
    (void)phi_buf_append_str(out, "  --config FILE\n      A settings file; 'phid config' prints an "
                                  "example.\n");
    for (size_t i = 0; i < phi_setting_row_count; i++) {
        const phi_setting_row *row = &phi_setting_rows[i];
        (void)phi_buf_append_str(out, "  --");
        for (const char *at = row->name; *at; at++) {
            (void)phi_buf_append_char(out, *at == '_' ? '-' : *at);
        }
        (void)phi_buf_printf(out, " %s\n", row->value);
        append_help(out, "      ", row->help);
        append_range(out, "      ", row);
        const char *fallback = row->fallback ? row->fallback : "~/.local/share/phid";
        if (fallback[0]) {
            (void)phi_buf_printf(out, "      Default: %s\n", fallback);
        }
    }
    return out->failed;
}

static size_t count_keys(const char *keys)
{
    size_t count = keys[0] != '\0';
    for (const char *at = keys; *at; at++) {
        count += *at == ',';
    }
    return count;
}

phi_status phi_settings_dump(const phi_settings *settings, phi_buf *out)
{
    for (size_t i = 0; i < phi_setting_row_count; i++) {
        const phi_setting_row *row = &phi_setting_rows[i];
        const char *at = (const char *)settings + row->offset;
        char number[32];
        if (strcmp(row->name, "api_keys") == 0) {
            (void)phi_buf_printf(out, "api_keys = (%zu keys)\n", count_keys(settings->api_keys));
        } else if (is_text(row)) {
            char *text = NULL;
            memcpy(&text, at, sizeof text);
            (void)phi_buf_printf(out, "%s =%s%s\n", row->name, text[0] ? " " : "", text);
        } else {
            uint64_t value = 0;
            memcpy(&value, at, sizeof value);
            format_number(row, value, number, sizeof number);
            (void)phi_buf_printf(out, "%s = %s\n", row->name, number);
        }
    }
    return out->failed;
}
