#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_BYTES 2048

/* Written once by phi_log_setup before other threads exist, read-only afterwards. */
static phi_log_level log_level = PHI_LOG_INFO;
static bool log_json = false;

static const char *const level_names[] = {"debug", "info", "warn", "error", "off"};

void phi_log_setup(phi_log_level level, bool json)
{
    log_level = level;
    log_json = json;
}

bool phi_log_level_parse(const char *name, phi_log_level *out_level)
{
    for (int i = PHI_LOG_DEBUG; i <= PHI_LOG_OFF; i++) {
        if (strcmp(name, level_names[i]) == 0) {
            *out_level = (phi_log_level)i;
            return true;
        }
    }
    return false;
}

bool phi_log_enabled(phi_log_level level)
{
    return level >= log_level && level != PHI_LOG_OFF;
}

/* Escapes for a JSON string or a quoted value: the two agree on what needs a backslash. */
static size_t escape(const char *value, char *out, size_t out_bytes)
{
    size_t used = 0;
    for (const unsigned char *p = (const unsigned char *)value; *p && used + 7 < out_bytes; p++) {
        if (*p == '"' || *p == '\\') {
            out[used++] = '\\';
            out[used++] = (char)*p;
        } else if (*p < 0x20 || *p == 0x7F) {
            used += (size_t)snprintf(out + used, out_bytes - used, "\\u%04x", *p);
        } else {
            out[used++] = (char)*p;
        }
    }
    out[used] = '\0';
    return used;
}

const char *phi_log_value(const char *value, char *out, size_t out_bytes)
{
    if (out_bytes < 12) {
        return "\"\"";
    }
    out[0] = '"';
    size_t used = 1 + escape(value, out + 1, out_bytes - 2);
    out[used] = '"';
    out[used + 1] = '\0';
    return out;
}

/* A line stays one line, and a terminal is told nothing, whatever was not quoted. */
static void mask_controls(char *text)
{
    for (unsigned char *p = (unsigned char *)text; *p; p++) {
        *p = *p < 0x20 || *p == 0x7F ? '?' : *p;
    }
}

static size_t format_time(char *out, size_t out_bytes)
{
    struct timespec now;
    struct tm parts;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    (void)gmtime_r(&now.tv_sec, &parts);
    size_t used = strftime(out, out_bytes, "%Y-%m-%dT%H:%M:%S", &parts);
    used += (size_t)snprintf(out + used, out_bytes - used, ".%03dZ", (int)(now.tv_nsec / 1000000));
    return used;
}

void phi_log(phi_log_level level, const char *module, const char *event, const char *fmt, ...)
{
    if (!phi_log_enabled(level)) {
        return;
    }
    char stamp[40];
    char detail[LINE_BYTES / 2];
    char line[LINE_BYTES];
    (void)format_time(stamp, sizeof stamp);
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(detail, sizeof detail, fmt, ap);
    va_end(ap);
    int length;
    if (log_json) {
        char escaped[LINE_BYTES - 200];
        (void)escape(detail, escaped, sizeof escaped);
        length = snprintf(line, sizeof line,
                          "{\"time\":\"%s\",\"level\":\"%s\",\"module\":\"%s\",\"event\":\"%s\","
                          "\"detail\":\"%s\"}\n",
                          stamp, level_names[level], module, event, escaped);
    } else {
        mask_controls(detail);
        length = snprintf(line, sizeof line, "%s %s %s %s%s%s\n", stamp, level_names[level], module,
                          event, *detail ? " " : "", detail);
    }
    if (length > 0) {
        size_t bytes = (size_t)length < sizeof line ? (size_t)length : sizeof line - 1;
        ssize_t ignored = write(STDERR_FILENO, line, bytes);
        (void)ignored;
    }
}
