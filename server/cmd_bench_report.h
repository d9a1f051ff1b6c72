/*
 * Purpose: what `phid bench` prints: a heading, a table, or all of it as JSON.
 * Owns:    nothing: JSON made is the caller's.
 * Threads: main thread. Errors: none.
 * Limits:  none.
 */
#ifndef PHI_SERVER_CMD_BENCH_REPORT_H
#define PHI_SERVER_CMD_BENCH_REPORT_H

#include "engine/engine.h"

#include <jansson.h>

/* `path` is NULL for a synthetic model. */
void phi_bench_print_machine(const phi_bench_about *about);
void phi_bench_print_model(const char *path, const phi_bench_about *about);
void phi_bench_print_report(const phi_bench_report *report);
/* One model's part; NULL when there is no memory. */
json_t *phi_bench_json(const char *path, const phi_bench_about *about,
                       const phi_bench_report *report);

#endif
