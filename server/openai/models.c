#include "server/openai/models.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "server/app.h"
#include "server/openai/errors.h"
#include "server/store/store.h"

static json_t *model_json(const phi_registry_entry *entry)
{
    json_t *quality = entry->quality ? json_incref(entry->quality) : json_null();
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:I, s:I, s:s, s:o}", "id", entry->id, "object",
                     "model", "created", (json_int_t)entry->created_s, "owned_by", "phid",
                     "precision", entry->precision, "bytes", (json_int_t)entry->bytes,
                     "context_length", (json_int_t)entry->context_length, "architecture",
                     entry->architecture, "quality", quality);
}

static void list_models(void *app_, phi_request *request, void *sink_state)
{
    phi_app *app = app_;
    (void)sink_state;
    json_t *data = json_array();
    for (size_t i = 0; i < phi_registry_count(app->registry); i++) {
        (void)json_array_append_new(data, model_json(phi_registry_at(app->registry, i)));
    }
    phi_respond_json(request, 200, json_pack("{s:s, s:o}", "object", "list", "data", data));
}

/* NULL: the request has been answered. */
static const phi_registry_entry *find_model(phi_app *app, phi_request *request)
{
    phi_err err = {0};
    const phi_registry_entry *entry =
        phi_registry_find(app->registry, phi_request_part(request, 0), NULL, &err);
    if (!entry) {
        phi_respond_err(request, &err, "model_not_found");
    }
    return entry;
}

static void get_model(void *app_, phi_request *request, void *sink_state)
{
    phi_app *app = app_;
    (void)sink_state;
    const phi_registry_entry *entry = find_model(app, request);
    if (!entry) {
        return;
    }
    phi_respond_json(request, 200, model_json(entry));
}

/* ---- delete: first from the store, on the worker pool, then from the list ---- */

typedef struct delete_task {
    phi_app *app;
    phi_request *request; /* NULL when the client has gone */
    char id[PHI_LIMIT_NAME_BYTES * 2];
    char name[PHI_LIMIT_NAME_BYTES];
    char precision[8];
    phi_status status;
    phi_err err;
} delete_task;

static void task_gone(void *user)
{
    ((delete_task *)user)->request = NULL;
}

static void delete_run(void *arg)
{
    delete_task *task = arg;
    task->status =
        phi_store_model_delete(task->app->store, task->name, task->precision, &task->err);
}

static void delete_done(void *arg)
{
    delete_task *task = arg;
    if (!task->status) {
        (void)phi_registry_remove(task->app->registry, task->id);
    }
    if (task->request && task->status) {
        phi_respond_err(task->request, &task->err, "model_not_found");
    } else if (task->request) {
        phi_respond_json(
            task->request, 200,
            json_pack("{s:s, s:s, s:b}", "id", task->id, "object", "model", "deleted", 1));
    }
    phi_free(task);
}

static void delete_model(void *app_, phi_request *request, void *sink_state)
{
    phi_app *app = app_;
    (void)sink_state;
    const phi_registry_entry *entry = find_model(app, request);
    if (!entry) {
        return;
    }
    delete_task *task = phi_alloc_zero(1, sizeof *task);
    *task = (delete_task){.app = app, .request = request};
    (void)snprintf(task->id, sizeof task->id, "%s", entry->id);
    (void)snprintf(task->name, sizeof task->name, "%s", entry->name);
    (void)snprintf(task->precision, sizeof task->precision, "%s", entry->precision);
    phi_request_defer(request, task_gone, task);
    /* Not into the task: the worker may be writing to it already. */
    phi_status refused = phi_work_submit(app->work, PHI_WORK_SHORT, delete_run, delete_done, task);
    if (refused) {
        task->status =
            phi_fail(&task->err, refused, "too many operations are waiting; try again in a moment");
        delete_done(task);
    }
}

const phi_route phi_models_routes[] = {
    {"GET", "/v1/models", PHI_BODY_NONE, NULL, false, list_models},
    {"GET", "/v1/models/{id}", PHI_BODY_NONE, NULL, false, get_model},
    {"DELETE", "/v1/models/{id}", PHI_BODY_NONE, NULL, false, delete_model},
};
const size_t phi_models_routes_count = sizeof phi_models_routes / sizeof *phi_models_routes;
