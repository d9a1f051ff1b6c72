#include "server/openai/answer.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/openai/errors.h"
#include "server/openai/generate.h"
#include "server/openai/render.h"

#include <stdio.h>
#include <string.h>

/* A reader this far behind pauses its sequences; they go on when it has caught up. */
#define BACKLOG_BYTES_MAX (256U << 10)
/* One answer's text: the longest context at the longest piece is far below. */
#define TEXT_BYTES_MAX (64U << 20)

static void drop_generations(phi_answer *answer)
{
    for (uint32_t i = 0; i < answer->n_choices; i++) {
        phi_choice *choice = &answer->choices[i];
        if (choice->generation) {
            phi_generations_drop(answer->app->generations, choice->generation);
            choice->generation = NULL;
        }
    }
}

static void destroy(phi_answer *answer)
{
    drop_generations(answer);
    for (uint32_t i = 0; i < answer->n_choices; i++) {
        phi_buf_done(&answer->choices[i].text);
        json_decref(answer->choices[i].logprobs);
    }
    for (uint32_t i = 0; i < answer->n_prompts; i++) {
        phi_tokens_done(&answer->prompts[i]);
    }
    if (answer->model) {
        phi_registry_release(answer->app->registry, answer->model);
    }
    phi_params_done(&answer->params);
    json_decref(answer->source);
    phi_free(answer->model_id);
    phi_free(answer->prompts);
    phi_free(answer->choices);
    phi_free(answer);
}

static void on_gone(void *user)
{
    phi_answer *answer = user;
    answer->request = NULL;
    answer->stream = NULL;
    if (answer->waiting) {
        drop_generations(answer);
    } else {
        destroy(answer);
    }
}

/* Ends the answer with an error, in whichever form is still possible. */
static void fail(phi_answer *answer, const phi_err *err)
{
    if (answer->stream) {
        json_t *body = phi_render_error(
            err->code == PHI_E_INVALID ? "invalid_request_error" : "server_error", err);
        char *text = json_dumps(body, PHI_JSON_TEXT);
        PHI_ASSERT(text != NULL);
        phi_stream_event(answer->stream, "error", text, strlen(text));
        phi_stream_end(answer->stream);
        phi_free(text);
        json_decref(body);
    } else {
        phi_respond_err(answer->request, err, "model_not_found");
    }
    destroy(answer);
}

/* ---- rendering ---- */

static json_t *envelope(const phi_answer *answer, const char *object, json_t *choices)
{
    json_t *body = json_pack("{s:s, s:s, s:I, s:s, s:n, s:o}", "id", answer->id, "object", object,
                             "created", (json_int_t)answer->created_s, "model", answer->model_id,
                             "system_fingerprint", "choices", choices);
    PHI_ASSERT(body != NULL);
    return body;
}

static json_t *usage(const phi_answer *answer)
{
    uint64_t prompt = 0;
    uint64_t cached = 0;
    uint64_t completion = 0;
    for (uint32_t i = 0; i < answer->n_choices; i++) {
        const phi_choice *choice = &answer->choices[i];
        completion += choice->completion_tokens;
        /* The choices of one prompt share it: it counts once. */
        if (i % answer->params.n == 0) {
            prompt += choice->prompt_tokens;
            cached += choice->cached_tokens;
        }
    }
    return phi_render_usage(prompt, cached, completion);
}

static void send_body(phi_answer *answer, json_t *body)
{
    char *text = json_dumps(body, PHI_JSON_TEXT);
    PHI_ASSERT(text != NULL);
    phi_stream_event(answer->stream, NULL, text, strlen(text));
    phi_free(text);
    json_decref(body);
}

static void send_chunk(phi_choice *choice, const char *text, size_t bytes, json_t *logprobs,
                       const char *finish)
{
    phi_answer *answer = choice->answer;
    json_t *element = answer->style->chunk(choice, text, bytes, logprobs, finish);
    json_t *body = envelope(answer, answer->style->chunk_object, json_pack("[o]", element));
    if (answer->params.include_usage) {
        (void)json_object_set_new(body, "usage", json_null());
    }
    send_body(answer, body);
    choice->begun = true;
}

static void finish_stream(phi_answer *answer)
{
    if (answer->params.include_usage) {
        json_t *body = envelope(answer, answer->style->chunk_object, json_array());
        (void)json_object_set_new(body, "usage", usage(answer));
        send_body(answer, body);
    }
    phi_stream_event(answer->stream, NULL, "[DONE]", 6);
    phi_stream_end(answer->stream);
}

static void finish_whole(phi_answer *answer)
{
    json_t *choices = json_array();
    for (uint32_t i = 0; i < answer->n_choices; i++) {
        phi_choice *choice = &answer->choices[i];
        json_t *element = answer->style->whole(choice, phi_render_finish(choice->finish));
        (void)json_array_append_new(choices, element);
    }
    json_t *body = envelope(answer, answer->style->object, choices);
    (void)json_object_set_new(body, "usage", usage(answer));
    phi_respond_json(answer->request, 200, body);
}

/* ---- events ---- */

static void on_drained(void *user)
{
    phi_answer *answer = user;
    for (uint32_t i = 0; i < answer->n_choices; i++) {
        if (answer->choices[i].generation) {
            phi_generations_resume(answer->app->generations, answer->choices[i].generation);
        }
    }
}

static uint64_t characters(const char *text, size_t bytes)
{
    uint64_t count = 0;
    for (size_t i = 0; i < bytes; i++) {
        count += ((unsigned char)text[i] & 0xC0U) != 0x80U;
    }
    return count;
}

/* Whether what a whole answer collects for its logprobs stays within its bound. */
static bool count_logprobs(phi_answer *answer, const phi_generation_event *event, phi_err *err)
{
    if (answer->stream || answer->params.top_logprobs < 0) {
        return true;
    }
    answer->n_logprobs += 1 + event->n_top;
    if (answer->n_logprobs <= PHI_LIMIT_LOGPROBS) {
        return true;
    }
    (void)phi_fail_param(err, PHI_E_LIMIT, "logprobs",
                         "the answer's logprobs have more than %u tokens and alternatives; ask for "
                         "fewer tokens, choices or alternatives, or for a stream",
                         PHI_LIMIT_LOGPROBS);
    return false;
}

static void on_token(phi_choice *choice, const phi_generation_event *event)
{
    phi_answer *answer = choice->answer;
    bool wanted = answer->params.top_logprobs >= 0;
    if (!answer->stream) {
        if (wanted) {
            choice->logprobs = answer->style->add_logprob(choice, event, choice->logprobs);
        }
        (void)phi_buf_append(&choice->text, event->text, event->text_bytes);
    } else if (wanted || event->text_bytes > 0) {
        json_t *logprobs = wanted ? answer->style->add_logprob(choice, event, NULL) : NULL;
        send_chunk(choice, event->text, event->text_bytes, logprobs, NULL);
    }
    choice->text_offset += characters(event->text, event->text_bytes);
}

/* Returns false when the answer is over (and freed). */
static bool on_done(phi_choice *choice, const phi_generation_event *event)
{
    phi_answer *answer = choice->answer;
    choice->done = true;
    choice->finish = event->finish;
    choice->prompt_tokens = event->prompt_tokens;
    choice->cached_tokens = event->cached_tokens;
    choice->completion_tokens = event->completion_tokens;
    if (answer->stream) {
        if (event->text_bytes > 0) {
            send_chunk(choice, event->text, event->text_bytes, NULL, NULL);
        }
        send_chunk(choice, "", 0, NULL, phi_render_finish(event->finish));
    } else {
        (void)phi_buf_append(&choice->text, event->text, event->text_bytes);
    }
    phi_generations_drop(answer->app->generations, choice->generation);
    choice->generation = NULL;
    if (++answer->n_done < answer->n_choices) {
        return true;
    }
    if (answer->stream) {
        finish_stream(answer);
    } else {
        finish_whole(answer);
    }
    destroy(answer);
    return false;
}

static bool on_event(void *user, const phi_generation_event *event)
{
    phi_choice *choice = user;
    phi_answer *answer = choice->answer;
    phi_err limit;
    switch (event->kind) {
    case PHI_GENERATION_PROMPT_TOKEN:
    case PHI_GENERATION_TOKEN:
        if (!count_logprobs(answer, event, &limit)) {
            fail(answer, &limit);
            return false;
        }
        on_token(choice, event);
        break;
    case PHI_GENERATION_DONE:
        if (event->finish == PHI_FINISH_CANCELLED) {
            phi_err err;
            (void)phi_fail(&err, PHI_E_CANCELLED,
                           "the answer was cut off: the model or the server is being stopped");
            fail(answer, &err);
            return false;
        }
        if (!on_done(choice, event)) {
            return false;
        }
        break;
    case PHI_GENERATION_FAILED:
        fail(answer, &event->error);
        return false;
    }
    return !answer->stream || phi_stream_backlog_bytes(answer->stream) < BACKLOG_BYTES_MAX;
}

/* ---- submitting ---- */

static phi_status submit_choice(phi_answer *answer, phi_choice *choice, phi_err *err)
{
    const phi_params *params = &answer->params;
    const phi_tokens *prompt = &answer->prompts[choice->prompt];
    phi_generation_options options = {
        .prompt = prompt->ids,
        .n_prompt = prompt->count,
        .max_tokens = params->max_tokens,
        .sampling = params->sampling,
        .n_stop = params->n_stop,
        .top_logprobs = params->top_logprobs,
        .prompt_logprobs = params->echo,
        .ignore_eos = params->ignore_eos,
        .continues_text = params->echo,
        .client = answer->client,
    };
    for (size_t i = 0; i < params->n_stop; i++) {
        options.stop[i] = params->stop[i];
    }
    /* Choices of one prompt must differ: a given seed is the first one's. */
    options.sampling.seed += choice->index % params->n;
    phi_status status =
        phi_engine_generate(answer->app->engine, answer->model, &options, &choice->generation, err);
    if (!status) {
        phi_generations_add(answer->app->generations, choice->generation, on_event, choice);
    }
    return status;
}

static void submit_all(phi_answer *answer)
{
    uint32_t n = answer->params.n;
    phi_err err;
    if ((uint64_t)answer->n_prompts * n > PHI_LIMIT_CHOICES) {
        (void)phi_fail_param(&err, PHI_E_INVALID, "n",
                             "%u prompts with 'n' %u are more than %u choices", answer->n_prompts,
                             n, PHI_LIMIT_CHOICES);
        fail(answer, &err);
        return;
    }
    answer->n_choices = answer->n_prompts * n;
    answer->choices = phi_alloc_zero(answer->n_choices, sizeof *answer->choices);
    for (uint32_t i = 0; i < answer->n_choices; i++) {
        phi_choice *choice = &answer->choices[i];
        *choice = (phi_choice){.answer = answer, .index = i, .prompt = i / n};
        phi_buf_init(&choice->text, TEXT_BYTES_MAX);
    }
    for (uint32_t i = 0; i < answer->n_choices; i++) {
        phi_status status = submit_choice(answer, &answer->choices[i], &err);
        if (status) {
            if (strcmp(err.param, "prompt") == 0) {
                (void)snprintf(err.param, sizeof err.param, "%s", answer->style->prompt_field);
            }
            fail(answer, &err);
            return;
        }
    }
    if (answer->params.stream) {
        answer->stream = phi_respond_stream(answer->request, on_gone, answer);
        phi_stream_on_drained(answer->stream, on_drained, answer);
        for (uint32_t i = 0; answer->style->opens_with_role && i < answer->n_choices; i++) {
            send_chunk(&answer->choices[i], "", 0, NULL, NULL);
        }
    }
}

static void run_encode(void *arg)
{
    phi_answer *answer = arg;
    answer->encode_status = answer->style->encode(answer, &answer->encode_err);
}

static void done_encode(void *arg)
{
    phi_answer *answer = arg;
    answer->waiting = false;
    if (!answer->request) {
        destroy(answer);
    } else if (answer->encode_status) {
        fail(answer, &answer->encode_err);
    } else {
        submit_all(answer);
    }
}

static void on_model(void *user, phi_model *model, const char *id, const phi_err *err)
{
    phi_answer *answer = user;
    answer->waiting = false;
    answer->model = model;
    if (!answer->request) {
        destroy(answer);
        return;
    }
    if (!model) {
        phi_err named = *err;
        if (named.code == PHI_E_NOT_FOUND && !named.param[0]) {
            (void)phi_fail_param(&named, PHI_E_NOT_FOUND, "model", "%s", err->message);
        }
        fail(answer, &named);
        return;
    }
    answer->model_id = phi_strdup(id);
    phi_err busy;
    (void)phi_fail(&busy, PHI_E_BUSY, "too many requests are being prepared; try again later");
    answer->waiting = true;
    if (phi_work_submit(answer->app->work, PHI_WORK_SHORT, run_encode, done_encode, answer)) {
        answer->waiting = false;
        fail(answer, &busy);
    }
}

void phi_answer_start(phi_app *app, phi_request *request, const phi_answer_style *style,
                      phi_params *params, json_t *source)
{
    if (app->draining) {
        phi_err err;
        (void)phi_fail(&err, PHI_E_BUSY, "the server is shutting down");
        phi_respond_err(request, &err, "model_not_found");
        phi_params_done(params);
        return;
    }
    phi_answer *answer = phi_alloc_zero(1, sizeof *answer);
    *answer = (phi_answer){
        .app = app,
        .request = request,
        .style = style,
        .params = *params,
        .source = json_incref(source),
        .created_s = phi_clock_unix_s(),
        .client = phi_request_client(request),
    };
    *params = (phi_params){0};
    phi_random_id(style->id_prefix, answer->id, sizeof answer->id);
    phi_request_defer(request, on_gone, answer);
    answer->waiting = true;
    phi_registry_acquire(app->registry, answer->params.model, answer->params.precision, on_model,
                         answer);
}
