/*
 * Purpose: numbers for Prometheus: requests are counted here, the rest is asked for when scraped.
 * Owns:    its counters. Threads: [loop]. Errors: none.
 * Limits:  512 combinations of route, method and status.
 */
#ifndef PHI_SERVER_METRICS_H
#define PHI_SERVER_METRICS_H

#include "base/buf.h"
#include "server/app.h"

#include <stdint.h>

phi_metrics *phi_metrics_create(void);
void phi_metrics_destroy(phi_metrics *metrics);
/* `route` is the pattern, or NULL when none matched; it must outlive the metrics. */
void phi_metrics_request(phi_metrics *metrics, const char *route, const char *method,
                         unsigned status, uint64_t duration_ns);
/* Prometheus' text format. */
void phi_metrics_write(const phi_app *app, phi_buf *out);

#endif
