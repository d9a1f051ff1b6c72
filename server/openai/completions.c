#include "server/openai/completions.h"

#include "base/assert.h"
#include "base/mem.h"
#include "server/openai/answer.h"
#include "server/openai/errors.h"
#include "server/openai/fields.h"
#include "server/openai/prompt.h"
#include "server/openai/render.h"

/* [job] The prompt is the developer's own text: control tokens in it are meant. */
static phi_status encode(phi_answer *answer, phi_err *err)
{
    return phi_prompt_encode(answer->model, answer->source, &answer->prompts, &answer->n_prompts,
                             err);
}

static json_t *add_logprob(phi_choice *choice, const phi_generation_event *event, json_t *logprobs)
{
    if (!logprobs) {
        logprobs = phi_render_completion_logprobs();
    }
    phi_render_completion_logprob(logprobs, choice->answer->model, event, choice->text_offset);
    return logprobs;
}

static json_t *element(const phi_choice *choice, const char *text, size_t bytes, json_t *logprobs,
                       const char *finish)
{
    json_t *value = json_pack("{s:I, s:o, s:o, s:s?}", "index", (json_int_t)choice->index, "text",
                              phi_render_text(text, bytes), "logprobs",
                              logprobs ? logprobs : json_null(), "finish_reason", finish);
    PHI_ASSERT(value != NULL);
    return value;
}

static json_t *whole(phi_choice *choice, const char *finish)
{
    json_t *logprobs = choice->logprobs;
    choice->logprobs = NULL;
    return element(choice, phi_buf_text(&choice->text), choice->text.length_bytes, logprobs,
                   finish);
}

static json_t *chunk(phi_choice *choice, const char *text, size_t bytes, json_t *logprobs,
                     const char *finish)
{
    return element(choice, text, bytes, logprobs, finish);
}

static const phi_answer_style style = {
    .id_prefix = "cmpl-",
    .object = "text_completion",
    .chunk_object = "text_completion",
    .prompt_field = "prompt",
    .encode = encode,
    .whole = whole,
    .chunk = chunk,
    .add_logprob = add_logprob,
};

static void handle(void *app, phi_request *request, void *sink_state)
{
    (void)sink_state;
    const json_t *body = phi_request_json(request);
    json_t *prompt = phi_field(body, "prompt");
    phi_params params;
    phi_err err;
    phi_status status = phi_prompt_check(prompt, "prompt", &err);
    status = status ? status : phi_params_parse(body, PHI_PARAMS_COMPLETION, &params, &err);
    if (status) {
        phi_respond_err(request, &err, "not_found");
        return;
    }
    phi_answer_start(app, request, &style, &params, prompt);
}

const phi_route phi_completions_routes[] = {
    {.method = "POST", .pattern = "/v1/completions", .body = PHI_BODY_JSON, .handler = handle},
};
const size_t phi_completions_routes_count =
    sizeof phi_completions_routes / sizeof *phi_completions_routes;
