#include "server/app.h"

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "server/access/keys.h"
#include "server/http/http.h"
#include "server/jobs.h"
#include "server/loop.h"
#include "server/metrics.h"
#include "server/openai/errors.h"
#include "server/openai/generate.h"
#include "server/routes.h"
#include "server/store/store.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <uv.h>

/* ---- what http asks of the daemon ---- */

static bool is_new_work(const phi_request *request)
{
    const char *method = phi_request_method(request);
    const char *path = phi_request_path(request);
    size_t bytes = strlen(path);
    static const char cancel[] = "/cancel";
    size_t tail = sizeof cancel - 1;
    bool cancels = bytes >= tail && strcmp(path + bytes - tail, cancel) == 0;
    return (strcmp(method, "POST") == 0 || strcmp(method, "PUT") == 0) && !cancels;
}

static bool admit(void *app_, phi_request *request)
{
    phi_app *app = app_;
    uint64_t client = 0;
    if (!phi_access_check(app->access, phi_request_header(request, "Authorization"), &client)) {
        phi_respond_header(request, "WWW-Authenticate", "Bearer");
        phi_respond_error(request, 401, "invalid_request_error", "invalid_api_key", NULL,
                          "the API key is missing or wrong; send one as 'Authorization: Bearer "
                          "KEY'");
        return false;
    }
    phi_request_set_client(request, client);
    if (app->draining && is_new_work(request)) {
        phi_respond_header(request, "Retry-After", "5");
        phi_respond_error(request, 503, "server_error", "overloaded", NULL,
                          "the daemon is shutting down and takes no new work");
        return false;
    }
    return true;
}

static void fail(void *app, phi_request *request, const phi_err *err)
{
    (void)app;
    phi_respond_err(request, err, "not_found");
}

static void finished(void *app_, const phi_request *request, const char *route, unsigned status,
                     uint64_t duration_ns)
{
    phi_app *app = app_;
    phi_metrics_request(app->metrics, route, phi_request_method(request), status, duration_ns);
    char method[32];
    char path[256];
    phi_log(status >= 500 ? PHI_LOG_WARN : PHI_LOG_INFO, "http", "request",
            "method=%s route=%s status=%u ms=%.1f bytes=%" PRIu64 " id=%s",
            phi_log_value(phi_request_method(request), method, sizeof method),
            route ? route : phi_log_value(phi_request_path(request), path, sizeof path), status,
            (double)duration_ns / 1e6, phi_request_answer_bytes(request), phi_request_id(request));
}

/* ---- models to load at start ---- */

static void on_preloaded(void *user, phi_model *model, const char *id, const phi_err *err)
{
    phi_app *app = user;
    if (model) {
        phi_log(PHI_LOG_INFO, "app", "model_loaded", "id=%s", id);
        phi_registry_release(app->registry, model);
    } else {
        char text[PHI_ERR_BYTES_MAX * 2];
        phi_log(PHI_LOG_ERROR, "app", "model_not_loaded", "reason=%s",
                phi_log_value(err->message, text, sizeof text));
    }
}

static void preload(phi_app *app)
{
    for (const char *at = app->settings->models; *at;) {
        size_t bytes = strcspn(at, ",");
        char *name = phi_strndup(at, bytes);
        if (bytes > 0) {
            phi_registry_acquire(app->registry, name, NULL, on_preloaded, app);
        }
        phi_free(name);
        at += bytes + (at[bytes] == ',');
    }
}

/* ---- building and undoing ---- */

static phi_team_pinning pinning_of(const char *word)
{
    return strcmp(word, "on") == 0    ? PHI_TEAM_PIN_ON
           : strcmp(word, "off") == 0 ? PHI_TEAM_PIN_OFF
                                      : PHI_TEAM_PIN_AUTO;
}

static phi_status start_engine(phi_app *app, phi_err *err)
{
    const phi_settings *settings = app->settings;
    phi_engine_options options = {
        .threads = (unsigned)settings->threads,
        .pinning = pinning_of(settings->pin_threads),
        .isa = settings->isa,
        .running_max = (uint32_t)settings->running_max,
        .waiting_max = (uint32_t)settings->waiting_max,
        .batch_tokens = (uint32_t)settings->batch_tokens,
        .wake = phi_generations_wake,
        .wake_user = app->generations,
    };
    return phi_engine_create(&options, &app->engine, err);
}

static phi_status start_http(phi_app *app, const phi_route *routes, size_t n_routes, phi_err *err)
{
    const phi_settings *settings = app->settings;
    phi_http_options options = {
        .loop = app->loop,
        .work = app->work,
        .listen = settings->listen,
        .json_body_bytes_max = settings->max_body_bytes,
        .upload_bytes_max = settings->max_upload_bytes,
        .connections_max = (uint32_t)settings->connections_max,
        .idle_timeout_s = (uint32_t)settings->idle_timeout_s,
        .routes = routes,
        .n_routes = n_routes,
        .app = app,
        .admit = admit,
        .fail = fail,
        .finished = finished,
    };
    return phi_http_start(&options, &app->http, err);
}

static phi_status build(phi_app *app, const phi_route *routes, size_t n_routes, phi_err *err)
{
    const phi_settings *settings = app->settings;
    app->metrics = phi_metrics_create();
    phi_status status =
        phi_access_create(settings->api_keys, settings->api_keys_file, &app->access, err);
    status =
        status ? status : phi_work_create(app->loop, (uint32_t)settings->jobs_max, &app->work, err);
    status = status ? status : phi_file_make_dirs(settings->data_dir, err);
    status = status ? status : phi_store_open(settings->data_dir, &app->store, err);
    status = status ? status : phi_generations_create(app->loop, &app->generations, err);
    status = status ? status : start_engine(app, err);
    status = status ? status : phi_registry_create(app, &app->registry, err);
    status = status ? status : phi_jobs_create(app, &app->jobs, err);
    status = status ? status : start_http(app, routes, n_routes, err);
    return status ? status : phi_jobs_start(app->jobs, err);
}

static void undo(phi_app *app)
{
    phi_http_stop(app->http);
    if (app->jobs) {
        phi_jobs_stop(app->jobs);
        while (phi_jobs_running(app->jobs) > 0) {
            (void)uv_run(app->loop, UV_RUN_ONCE);
        }
        phi_jobs_destroy(app->jobs);
    }
    phi_registry_destroy(app->registry);
    while (app->work && phi_work_active(app->work, PHI_WORK_LOAD) > 0) {
        (void)uv_run(app->loop, UV_RUN_ONCE);
    }
    phi_engine_destroy(app->engine);
    phi_generations_destroy(app->generations);
    phi_store_close(app->store);
    phi_loop_finish(app->loop);
    phi_work_destroy(app->work);
    phi_access_destroy(app->access);
    phi_metrics_destroy(app->metrics);
}

static void log_ready(const phi_app *app)
{
    const char *listen = app->settings->listen;
    const char *colon = strrchr(listen, ':');
    char host[160];
    (void)snprintf(host, sizeof host, "%.*s", colon ? (int)(colon - listen) : 0, listen);
    phi_log(PHI_LOG_INFO, "app", "ready",
            "version=%s url=http://%s:%u isa=%s background_floats=%s threads=%u keys=%zu "
            "models=%zu data_dir=%s",
            PHID_VERSION, host[0] ? host : "0.0.0.0", phi_http_port(app->http),
            phi_engine_isa(app->engine), phi_engine_background_floats(app->engine),
            phi_engine_threads(app->engine), phi_access_key_count(app->access),
            phi_registry_count(app->registry), app->settings->data_dir);
}

phi_status phi_app_run(const phi_settings *settings, phi_err *err)
{
    uv_loop_t loop;
    phi_app app = {.settings = settings, .loop = &loop};
    size_t n_routes = 0;
    int failed = uv_loop_init(&loop);
    if (failed) {
        return phi_fail(err, PHI_E_INTERNAL, "cannot create an event loop: %s",
                        uv_strerror(failed));
    }
    phi_thread_set_role(PHI_ROLE_LOOP, "phid");
    /* A client that leaves is an error of write, not a signal. */
    (void)signal(SIGPIPE, SIG_IGN);
    phi_route *routes = phi_routes_create(&n_routes);
    phi_status status = build(&app, routes, n_routes, err);
    if (!status) {
        log_ready(&app);
        preload(&app);
        phi_loop_serve(&app);
    }
    undo(&app);
    phi_routes_destroy(routes);
    if (!status) {
        phi_log(PHI_LOG_INFO, "app", "stopped", "version=%s", PHID_VERSION);
    }
    return status;
}
