/*
 * Purpose: structured log lines on stderr: time, level, module, event, key=value pairs.
 * Owns:    nothing but the process-wide level and format.
 * Threads: any; a line is written by one write(2).
 * Errors:  none; a line that cannot be written is lost.
 * Limits:  a line is cut at 2 KiB. Prompts, answers and keys are never logged.
 *
 *   phi_log(PHI_LOG_INFO, "jobs", "job_done", "id=%s ms=%llu", id, ms);
 * prints (text format)
 *   2026-11-24T10:00:00.123Z info jobs job_done id=qjob-1 ms=1234
 * or (json format)
 *   {"time":"...","level":"info","module":"jobs","event":"job_done","detail":"id=qjob-1 ms=1234"}
 * Values that come from outside go through phi_log_value, which quotes and escapes them.
 */
#ifndef PHI_BASE_LOG_H
#define PHI_BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>

typedef enum phi_log_level {
    PHI_LOG_DEBUG,
    PHI_LOG_INFO,
    PHI_LOG_WARN,
    PHI_LOG_ERROR,
    PHI_LOG_OFF,
} phi_log_level;

/* [any] once, before threads start. */
void phi_log_setup(phi_log_level level, bool json);
bool phi_log_level_parse(const char *name, phi_log_level *out_level);
bool phi_log_enabled(phi_log_level level);
void phi_log(phi_log_level level, const char *module, const char *event, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* Writes `value` quoted and escaped, cut to fit, into `out`; returns `out`. */
const char *phi_log_value(const char *value, char *out, size_t out_bytes);

#endif
