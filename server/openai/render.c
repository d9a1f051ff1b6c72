#include "server/openai/render.h"

#include "base/assert.h"
#include "base/buf.h"
#include "base/str.h"
#include "server/http/http.h"

#include <math.h>
#include <string.h>

static json_t *checked(json_t *value)
{
    PHI_ASSERT(value != NULL);
    return value;
}

static void set(json_t *object, const char *name, json_t *value)
{
    int failed = json_object_set_new(object, name, checked(value));
    PHI_ASSERT(failed == 0);
}

static void append(json_t *array, json_t *value)
{
    int failed = json_array_append_new(array, checked(value));
    PHI_ASSERT(failed == 0);
}

json_t *phi_render_usage(uint64_t prompt_tokens, uint64_t cached_tokens, uint64_t completion_tokens)
{
    return checked(json_pack("{s:I, s:I, s:I, s:{s:I}}", "prompt_tokens", (json_int_t)prompt_tokens,
                             "completion_tokens", (json_int_t)completion_tokens, "total_tokens",
                             (json_int_t)(prompt_tokens + completion_tokens),
                             "prompt_tokens_details", "cached_tokens", (json_int_t)cached_tokens));
}

const char *phi_render_finish(phi_finish_reason reason)
{
    return reason == PHI_FINISH_LENGTH ? "length" : "stop";
}

json_t *phi_render_text(const char *text, size_t bytes)
{
    return checked(json_stringn(text ? text : "", bytes));
}

/* Bytes of one token; a token may be a part of a character. */
static void token_bytes(const phi_model *model, int32_t id, phi_buf *bytes)
{
    phi_buf_clear(bytes);
    phi_status status = phi_model_token_bytes(model, id, bytes);
    if (status) {
        phi_buf_clear(bytes);
    }
}

/* The token as a string: itself when it is whole characters, else OpenAI's "bytes:\xNN" form. */
static json_t *token_string(const phi_buf *bytes)
{
    const char *text = phi_buf_text(bytes);
    if (phi_utf8_valid(text, bytes->length_bytes)) {
        return phi_render_text(text, bytes->length_bytes);
    }
    phi_buf spelled;
    phi_buf_init(&spelled, 16 + 4 * bytes->length_bytes);
    (void)phi_buf_append_str(&spelled, "bytes:");
    for (size_t i = 0; i < bytes->length_bytes; i++) {
        (void)phi_buf_printf(&spelled, "\\x%02x", (unsigned char)text[i]);
    }
    json_t *value = phi_render_text(phi_buf_text(&spelled), spelled.length_bytes);
    phi_buf_done(&spelled);
    return value;
}

/* What a token has whose probability is too small for a float: JSON has no infinities, and this is
 * OpenAI's value for "very unlikely". */
#define LOGPROB_MIN (-9999.0)

static json_t *logprob_number(float logprob)
{
    return checked(json_real(fmax((double)logprob, LOGPROB_MIN)));
}

static json_t *logprob_entry(const phi_model *model, int32_t token, float logprob)
{
    phi_buf bytes;
    phi_buf_init(&bytes, PHI_LIMIT_PIECE_BYTES * 4);
    token_bytes(model, token, &bytes);
    json_t *numbers = checked(json_array());
    for (size_t i = 0; i < bytes.length_bytes; i++) {
        append(numbers, json_integer((unsigned char)bytes.data[i]));
    }
    json_t *entry = checked(json_object());
    set(entry, "token", token_string(&bytes));
    set(entry, "logprob", logprob_number(logprob));
    set(entry, "bytes", numbers);
    phi_buf_done(&bytes);
    return entry;
}

json_t *phi_render_chat_logprob(const phi_model *model, const phi_generation_event *event)
{
    json_t *entry = logprob_entry(model, event->token, event->logprob);
    json_t *top = checked(json_array());
    for (uint32_t i = 0; i < event->n_top; i++) {
        append(top, logprob_entry(model, event->top[i].token, event->top[i].logprob));
    }
    set(entry, "top_logprobs", top);
    return entry;
}

json_t *phi_render_completion_logprobs(void)
{
    return checked(json_pack("{s:[], s:[], s:[], s:[]}", "tokens", "token_logprobs", "top_logprobs",
                             "text_offset"));
}

void phi_render_completion_logprob(json_t *logprobs, const phi_model *model,
                                   const phi_generation_event *event, uint64_t text_offset)
{
    phi_buf bytes;
    phi_buf_init(&bytes, PHI_LIMIT_PIECE_BYTES * 4);
    token_bytes(model, event->token, &bytes);
    append(json_object_get(logprobs, "tokens"), token_string(&bytes));
    append(json_object_get(logprobs, "token_logprobs"),
           event->has_logprob ? logprob_number(event->logprob) : json_null());
    json_t *top = event->has_logprob ? checked(json_object()) : json_null();
    for (uint32_t i = 0; event->has_logprob && i < event->n_top; i++) {
        token_bytes(model, event->top[i].token, &bytes);
        json_t *name = token_string(&bytes);
        set(top, json_string_value(name), logprob_number(event->top[i].logprob));
        json_decref(name);
    }
    append(json_object_get(logprobs, "top_logprobs"), top);
    append(json_object_get(logprobs, "text_offset"), json_integer((json_int_t)text_offset));
    phi_buf_done(&bytes);
}

json_t *phi_render_error(const char *type, const phi_err *err)
{
    return checked(json_pack("{s:{s:o, s:s, s:o, s:n}}", "error", "message",
                             phi_text_json(err->message), "type", type, "param",
                             err->param[0] ? phi_text_json(err->param) : json_null(), "code"));
}
