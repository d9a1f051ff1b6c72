#include "server/openai/tokenize.h"

#include "base/assert.h"
#include "base/mem.h"
#include "server/app.h"
#include "server/openai/errors.h"
#include "server/openai/fields.h"
#include "server/openai/prompt.h"

#include <stdio.h>

/* One request on its way: model, then the worker pool, then the answer. */
typedef struct conversion {
    phi_app *app;
    phi_request *request; /* NULL: the client has gone */
    json_t *input;
    bool to_text;
    bool waiting;
    phi_model *model;
    phi_tokens *prompts;
    uint32_t n_prompts;
    phi_buf text;
    phi_status status;
    phi_err err;
} conversion;

static void destroy(conversion *self)
{
    for (uint32_t i = 0; i < self->n_prompts; i++) {
        phi_tokens_done(&self->prompts[i]);
    }
    phi_free(self->prompts);
    phi_buf_done(&self->text);
    json_decref(self->input);
    if (self->model) {
        phi_registry_release(self->app->registry, self->model);
    }
    phi_free(self);
}

static void on_gone(void *user)
{
    conversion *self = user;
    self->request = NULL;
    if (!self->waiting) {
        destroy(self);
    }
}

static void fail(conversion *self, const phi_err *err)
{
    phi_respond_err(self->request, err, "model_not_found");
    destroy(self);
}

/* [job] */
static void run(void *arg)
{
    conversion *self = arg;
    self->status =
        phi_prompt_encode(self->model, self->input, &self->prompts, &self->n_prompts, &self->err);
    if (!self->status && self->to_text) {
        self->status = phi_model_detokenize(self->model, self->prompts[0].ids,
                                            self->prompts[0].count, &self->text, &self->err);
    }
}

static json_t *ids_to_json(const phi_tokens *tokens)
{
    json_t *list = json_array();
    for (size_t i = 0; i < tokens->count; i++) {
        (void)json_array_append_new(list, json_integer(tokens->ids[i]));
    }
    return list;
}

static void done(void *arg)
{
    conversion *self = arg;
    self->waiting = false;
    if (!self->request) {
        destroy(self);
        return;
    }
    if (self->status) {
        if (self->to_text && self->status == PHI_E_INVALID) {
            (void)snprintf(self->err.param, sizeof self->err.param, "tokens");
        }
        fail(self, &self->err);
        return;
    }
    json_t *body = json_object();
    if (self->to_text) {
        (void)json_object_set_new(body, "text",
                                  json_stringn(phi_buf_text(&self->text), self->text.length_bytes));
    } else {
        (void)json_object_set_new(body, "tokens", ids_to_json(&self->prompts[0]));
        (void)json_object_set_new(body, "count", json_integer((json_int_t)self->prompts[0].count));
    }
    phi_respond_json(self->request, 200, body);
    destroy(self);
}

static void on_model(void *user, phi_model *model, const char *id, const phi_err *err)
{
    (void)id;
    conversion *self = user;
    self->waiting = false;
    self->model = model;
    if (!self->request) {
        destroy(self);
        return;
    }
    if (!model) {
        fail(self, err);
        return;
    }
    self->waiting = true;
    if (phi_work_submit(self->app->work, PHI_WORK_SHORT, run, done, self)) {
        self->waiting = false;
        phi_err busy;
        (void)phi_fail(&busy, PHI_E_BUSY, "too many requests are being prepared; try again later");
        fail(self, &busy);
    }
}

static phi_status check(const json_t *body, bool to_text, const char **out_model, phi_err *err)
{
    const json_t *input = phi_field(body, to_text ? "tokens" : "input");
    const char *field = to_text ? "tokens" : "input";
    phi_status status = phi_field_string(body, "model", out_model, err);
    if (status) {
        return status;
    }
    if (!*out_model) {
        return phi_fail_param(err, PHI_E_INVALID, "model", "'model' is missing");
    }
    if (to_text && json_is_array(input) && json_array_size(input) == 0) {
        return PHI_OK;
    }
    if (to_text ? !json_is_integer(json_array_get(input, 0)) : !json_is_string(input)) {
        return phi_fail_param(err, PHI_E_INVALID, field, "'%s' must be %s, but is %s", field,
                              to_text ? "a list of token ids" : "a string",
                              json_is_array(input) ? "a list of something else"
                                                   : phi_json_kind(input));
    }
    return phi_prompt_check(input, field, err);
}

static void start(phi_app *app, phi_request *request, bool to_text)
{
    const json_t *body = phi_request_json(request);
    const char *model = NULL;
    phi_err err;
    phi_status status = check(body, to_text, &model, &err);
    if (status) {
        phi_respond_err(request, &err, "not_found");
        return;
    }
    json_t *input = phi_field(body, to_text ? "tokens" : "input");
    if (json_is_array(input) && json_array_size(input) == 0) {
        phi_respond_json(request, 200, json_pack("{s:s}", "text", ""));
        return;
    }
    conversion *self = phi_alloc_zero(1, sizeof *self);
    *self = (conversion){.app = app, .request = request, .to_text = to_text, .waiting = true};
    self->input = json_incref(input);
    phi_buf_init(&self->text, (size_t)PHI_LIMIT_TEXT_BYTES * 4);
    phi_request_defer(request, on_gone, self);
    phi_registry_acquire(app->registry, model, NULL, on_model, self);
}

static void handle_tokenize(void *app, phi_request *request, void *sink_state)
{
    (void)sink_state;
    start(app, request, false);
}

static void handle_detokenize(void *app, phi_request *request, void *sink_state)
{
    (void)sink_state;
    start(app, request, true);
}

const phi_route phi_tokenize_routes[] = {
    {.method = "POST",
     .pattern = "/v1/tokenize",
     .body = PHI_BODY_JSON,
     .handler = handle_tokenize},
    {.method = "POST",
     .pattern = "/v1/detokenize",
     .body = PHI_BODY_JSON,
     .handler = handle_detokenize},
};
const size_t phi_tokenize_routes_count = sizeof phi_tokenize_routes / sizeof *phi_tokenize_routes;
