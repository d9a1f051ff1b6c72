/*
 * Purpose: one inference request from validated parameters to its answer, whole or streamed; what
 *          chat and text completions share. They differ by their phi_answer_style.
 * Owns:    a phi_answer owns its parameters, prompts, generations and a reference to the model; it
 *          ends with the answer, or when its client has gone and no callback is outstanding.
 * Threads: [loop]; encode runs as [job].
 * Errors:  before the first byte as an error answer; afterwards as an `error` event.
 * Limits:  PHI_LIMIT_CHOICES choices in all.
 *
 * Stages: acquire the model -> encode prompts (worker pool) -> submit every choice -> events ->
 * answer. At each a client that leaves cancels what runs.
 */
#ifndef PHI_SERVER_OPENAI_ANSWER_H
#define PHI_SERVER_OPENAI_ANSWER_H

#include "base/buf.h"
#include "server/app.h"
#include "server/http/http.h"
#include "server/openai/params.h"

#include <jansson.h>

typedef struct phi_answer phi_answer;

typedef struct phi_choice {
    phi_answer *answer;
    uint32_t index;
    uint32_t prompt; /* which of the answer's prompts it continues */
    phi_generation *generation;
    phi_buf text;         /* what was emitted so far, in whole answers */
    json_t *logprobs;     /* in the style's form, or NULL */
    uint64_t text_offset; /* characters before the next token, for completions' text_offset */
    bool begun;           /* streaming: the first chunk was sent */
    bool done;
    phi_finish_reason finish;
    uint32_t prompt_tokens;
    uint32_t cached_tokens;
    uint32_t completion_tokens;
} phi_choice;

typedef struct phi_answer_style {
    const char *id_prefix;
    const char *object;
    const char *chunk_object;
    bool opens_with_role;     /* a stream begins with a chunk that has the role and no text */
    const char *prompt_field; /* what the request calls the prompt, for errors */
    /* [job] Fills `prompts` from `source`. */
    phi_status (*encode)(phi_answer *answer, phi_err *err);
    /* One element of `choices`: whole, or a chunk with this text. Takes logprobs (may be NULL);
     * finish is NULL while the choice goes on. */
    json_t *(*whole)(phi_choice *choice, const char *finish);
    json_t *(*chunk)(phi_choice *choice, const char *text, size_t bytes, json_t *logprobs,
                     const char *finish);
    /* Adds the event's token to a logprobs object, made when NULL; returns it. */
    json_t *(*add_logprob)(phi_choice *choice, const phi_generation_event *event, json_t *logprobs);
} phi_answer_style;

struct phi_answer {
    phi_app *app;
    phi_request *request; /* NULL: the client has gone */
    phi_stream *stream;
    const phi_answer_style *style;
    phi_params params;
    json_t *source; /* "messages" or "prompt" */
    char id[64];
    int64_t created_s;
    char *model_id;
    phi_model *model;
    uint64_t client;
    phi_tokens *prompts; /* [n_prompts] */
    uint32_t n_prompts;
    phi_choice *choices; /* [n_choices] = prompts x n */
    uint32_t n_choices;
    uint32_t n_done;
    uint32_t n_logprobs; /* collected, with alternatives */
    bool waiting;        /* a callback (model, encode) is outstanding */
    phi_status encode_status;
    phi_err encode_err;
};

/* Takes `params`; `source` is referenced. Answers the request now or later. */
void phi_answer_start(phi_app *app, phi_request *request, const phi_answer_style *style,
                      phi_params *params, json_t *source);

#endif
