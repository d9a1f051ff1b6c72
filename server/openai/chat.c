#include "server/openai/chat.h"

#include "base/assert.h"
#include "base/mem.h"
#include "server/openai/answer.h"
#include "server/openai/errors.h"
#include "server/openai/fields.h"
#include "server/openai/render.h"

#include <stdio.h>
#include <string.h>

/* ---- messages ---- */

static phi_status check_role(const json_t *message, size_t index, phi_err *err)
{
    static const char *const roles[] = {"system", "developer", "user", "assistant"};
    char param[PHI_ERR_PARAM_BYTES_MAX];
    (void)snprintf(param, sizeof param, "messages[%zu].role", index);
    const char *role = json_string_value(phi_field(message, "role"));
    for (size_t i = 0; role && i < sizeof roles / sizeof *roles; i++) {
        if (strcmp(role, roles[i]) == 0) {
            return PHI_OK;
        }
    }
    if (role && (strcmp(role, "tool") == 0 || strcmp(role, "function") == 0)) {
        return phi_fail_param(err, PHI_E_UNSUPPORTED, param,
                              "messages of the role '%s' are not "
                              "supported",
                              role);
    }
    return phi_fail_param(err, PHI_E_INVALID, param,
                          "'%s' must be system, developer, user or assistant", param);
}

static phi_status check_content(const json_t *message, size_t index, phi_err *err)
{
    char param[PHI_ERR_PARAM_BYTES_MAX];
    (void)snprintf(param, sizeof param, "messages[%zu].content", index);
    const json_t *content = phi_field(message, "content");
    if (json_is_string(content)) {
        return PHI_OK;
    }
    if (!json_is_array(content)) {
        return phi_fail_param(err, PHI_E_INVALID, param,
                              "'%s' must be a string or a list of text parts, but is %s", param,
                              phi_json_kind(content));
    }
    for (size_t i = 0; i < json_array_size(content); i++) {
        const json_t *part = json_array_get(content, i);
        const char *type = json_string_value(phi_field(part, "type"));
        if (!type || strcmp(type, "text") != 0) {
            return phi_fail_param(err, PHI_E_UNSUPPORTED, param,
                                  "part %zu of '%s' has the type '%.40s'; only 'text' is supported",
                                  i, param, type ? type : "(none)");
        }
        if (!json_is_string(phi_field(part, "text"))) {
            return phi_fail_param(err, PHI_E_INVALID, param,
                                  "part %zu of '%s' must have a string 'text'", i, param);
        }
    }
    return PHI_OK;
}

static phi_status check_messages(const json_t *messages, phi_err *err)
{
    if (!json_is_array(messages) || json_array_size(messages) == 0) {
        return phi_fail_param(err, PHI_E_INVALID, "messages",
                              "'messages' must be a non-empty list of messages, but is %s",
                              json_is_array(messages) ? "empty" : phi_json_kind(messages));
    }
    if (json_array_size(messages) > PHI_LIMIT_CHAT_MESSAGES) {
        return phi_fail_param(err, PHI_E_INVALID, "messages",
                              "'messages' has %zu entries; at most %u are accepted",
                              json_array_size(messages), PHI_LIMIT_CHAT_MESSAGES);
    }
    for (size_t i = 0; i < json_array_size(messages); i++) {
        const json_t *message = json_array_get(messages, i);
        char param[PHI_ERR_PARAM_BYTES_MAX];
        (void)snprintf(param, sizeof param, "messages[%zu]", i);
        if (!json_is_object(message)) {
            return phi_fail_param(err, PHI_E_INVALID, param, "'%s' must be an object, but is %s",
                                  param, phi_json_kind(message));
        }
        const json_t *calls = phi_field(message, "tool_calls");
        if (json_array_size(calls) > 0) {
            return phi_fail_param(err, PHI_E_UNSUPPORTED, param,
                                  "'%s' has tool_calls, which are not supported", param);
        }
        phi_status status = check_role(message, i, err);
        status = status ? status : check_content(message, i, err);
        if (status) {
            return status;
        }
    }
    return PHI_OK;
}

/* Joins text parts; OpenAI gives parts no separator. */
static void join_content(const json_t *content, phi_buf *out)
{
    if (json_is_string(content)) {
        (void)phi_buf_append(out, json_string_value(content), json_string_length(content));
        return;
    }
    for (size_t i = 0; i < json_array_size(content); i++) {
        const json_t *text = json_object_get(json_array_get(content, i), "text");
        (void)phi_buf_append(out, json_string_value(text), json_string_length(text));
    }
}

/* [job] */
static phi_status encode(phi_answer *answer, phi_err *err)
{
    size_t count = json_array_size(answer->source);
    phi_chat_message *messages = phi_alloc_zero(count, sizeof *messages);
    phi_buf *contents = phi_alloc_zero(count, sizeof *contents);
    phi_status status = PHI_OK;
    for (size_t i = 0; i < count; i++) {
        const json_t *message = json_array_get(answer->source, i);
        const char *role = json_string_value(json_object_get(message, "role"));
        phi_buf_init(&contents[i], PHI_LIMIT_TEXT_BYTES);
        join_content(phi_field(message, "content"), &contents[i]);
        if (phi_buf_failed(&contents[i])) {
            status = phi_fail_param(err, PHI_E_LIMIT, "messages",
                                    "message %zu is longer than %u bytes", i, PHI_LIMIT_TEXT_BYTES);
        }
        /* "developer" is OpenAI's newer name of the system role; templates know the older one. */
        messages[i] = (phi_chat_message){
            .role = strcmp(role, "developer") == 0 ? "system" : role,
            .content = phi_buf_text(&contents[i]),
            .content_bytes = contents[i].length_bytes,
        };
    }
    answer->n_prompts = 1;
    answer->prompts = phi_alloc_zero(1, sizeof *answer->prompts);
    phi_tokens_init(&answer->prompts[0]);
    if (!status) {
        status = phi_model_encode_chat(answer->model, messages, count, &answer->prompts[0], err);
    }
    for (size_t i = 0; i < count; i++) {
        phi_buf_done(&contents[i]);
    }
    phi_free(contents);
    phi_free(messages);
    return status;
}

/* ---- answers ---- */

static json_t *logprobs_or_null(json_t *logprobs)
{
    return logprobs ? logprobs : json_null();
}

static json_t *add_logprob(phi_choice *choice, const phi_generation_event *event, json_t *logprobs)
{
    if (!logprobs) {
        logprobs = json_pack("{s:[], s:n}", "content", "refusal");
    }
    (void)json_array_append_new(json_object_get(logprobs, "content"),
                                phi_render_chat_logprob(choice->answer->model, event));
    return logprobs;
}

static json_t *whole(phi_choice *choice, const char *finish)
{
    json_t *logprobs = choice->logprobs;
    choice->logprobs = NULL;
    json_t *text = phi_render_text(phi_buf_text(&choice->text), choice->text.length_bytes);
    json_t *element =
        json_pack("{s:I, s:{s:s, s:o, s:n}, s:o, s:s}", "index", (json_int_t)choice->index,
                  "message", "role", "assistant", "content", text, "refusal", "logprobs",
                  logprobs_or_null(logprobs), "finish_reason", finish);
    PHI_ASSERT(element != NULL);
    return element;
}

static json_t *chunk(phi_choice *choice, const char *text, size_t bytes, json_t *logprobs,
                     const char *finish)
{
    json_t *delta = json_object();
    if (!choice->begun) {
        (void)json_object_set_new(delta, "role", json_string("assistant"));
    }
    if (!finish) {
        (void)json_object_set_new(delta, "content", phi_render_text(text, bytes));
    }
    json_t *element =
        json_pack("{s:I, s:o, s:o, s:s?}", "index", (json_int_t)choice->index, "delta", delta,
                  "logprobs", logprobs_or_null(logprobs), "finish_reason", finish);
    PHI_ASSERT(element != NULL);
    return element;
}

static const phi_answer_style style = {
    .id_prefix = "chatcmpl-",
    .object = "chat.completion",
    .chunk_object = "chat.completion.chunk",
    .opens_with_role = true,
    .prompt_field = "messages",
    .encode = encode,
    .whole = whole,
    .chunk = chunk,
    .add_logprob = add_logprob,
};

static void handle(void *app, phi_request *request, void *sink_state)
{
    (void)sink_state;
    const json_t *body = phi_request_json(request);
    json_t *messages = phi_field(body, "messages");
    phi_params params;
    phi_err err;
    phi_status status = check_messages(messages, &err);
    status = status ? status : phi_params_parse(body, PHI_PARAMS_CHAT, &params, &err);
    if (status) {
        phi_respond_err(request, &err, "not_found");
        return;
    }
    phi_answer_start(app, request, &style, &params, messages);
}

const phi_route phi_chat_routes[] = {
    {.method = "POST", .pattern = "/v1/chat/completions", .body = PHI_BODY_JSON, .handler = handle},
};
const size_t phi_chat_routes_count = sizeof phi_chat_routes / sizeof *phi_chat_routes;
