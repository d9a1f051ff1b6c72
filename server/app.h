/*
 * Purpose: everything that one daemon consists of, built in order and undone in reverse.
 * Owns:    all of it. Threads: [loop].
 * Errors:  phi_app_run returns what kept it from starting.
 * Limits:  settings.
 */
#ifndef PHI_SERVER_APP_H
#define PHI_SERVER_APP_H

#include "base/status.h"
#include "config/settings.h"
#include "engine/engine.h"
#include "server/registry.h"
#include "server/work.h"

#include <stdbool.h>

typedef struct phi_http phi_http;
typedef struct phi_store phi_store;
typedef struct phi_jobs phi_jobs;
typedef struct phi_metrics phi_metrics;
typedef struct phi_access phi_access;
typedef struct phi_generations phi_generations;

typedef struct phi_app {
    struct uv_loop_s *loop;
    const phi_settings *settings;
    phi_work *work;
    phi_engine *engine;
    phi_store *store;
    phi_registry *registry;
    phi_jobs *jobs;
    phi_metrics *metrics;
    phi_access *access;
    phi_generations *generations; /* openai/generate.h: answers being made */
    phi_http *http;
    bool draining; /* shutting down: new work gets 503 */
} phi_app;

/* Serves until SIGTERM or SIGINT, then drains and returns. Prints nothing; logs. */
phi_status phi_app_run(const phi_settings *settings, phi_err *err) PHI_MUST_CHECK;

#endif
