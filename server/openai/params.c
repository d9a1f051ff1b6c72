#include "server/openai/params.h"

#include "base/mem.h"
#include "base/str.h"
#include "server/openai/fields.h"

#include <string.h>

/* OpenAI's default for the legacy completions route. */
#define COMPLETION_MAX_TOKENS_DEFAULT 16

void phi_params_done(phi_params *params)
{
    if (!params) {
        return;
    }
    phi_free(params->model);
    phi_free(params->precision);
    phi_free(params->logit_bias);
    for (size_t i = 0; i < params->n_stop; i++) {
        phi_free(params->stop[i]);
    }
    *params = (phi_params){0};
}

static phi_status parse_model(const json_t *body, phi_params *params, phi_err *err)
{
    const char *model = NULL;
    const char *precision = NULL;
    phi_status status = phi_field_string(body, "model", &model, err);
    if (status) {
        return status;
    }
    if (!model || !*model) {
        return phi_fail_param(err, PHI_E_INVALID, "model",
                              "'model' is missing: give the id of a model, as GET /v1/models "
                              "lists them");
    }
    status = phi_field_string(body, "precision", &precision, err);
    if (status) {
        return status;
    }
    phi_precision parsed;
    if (precision && !phi_precision_parse(precision, &parsed)) {
        precision = phi_quantize_type_find(precision);
        if (!precision) {
            return phi_fail_param(err, PHI_E_INVALID, "precision",
                                  "'precision' must be int4, int8, fp16, fp32 or the type that "
                                  "the model was quantized to");
        }
    }
    params->model = phi_strdup(model);
    params->precision = precision ? phi_strdup(precision) : NULL;
    return PHI_OK;
}

typedef struct float_field {
    const char *name;
    double low;
    double high;
    size_t offset; /* in phi_sampling */
} float_field;

static phi_status parse_sampling(const json_t *body, phi_sampling *sampling, phi_err *err)
{
    static const float_field fields[] = {
        {"temperature", 0.0, 2.0, offsetof(phi_sampling, temperature)},
        {"top_p", 0.0, 1.0, offsetof(phi_sampling, top_p)},
        {"min_p", 0.0, 1.0, offsetof(phi_sampling, min_p)},
        {"presence_penalty", -2.0, 2.0, offsetof(phi_sampling, presence_penalty)},
        {"frequency_penalty", -2.0, 2.0, offsetof(phi_sampling, frequency_penalty)},
        {"repetition_penalty", 0.01, 100.0, offsetof(phi_sampling, repetition_penalty)},
    };
    phi_sampling_defaults(sampling);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        const float_field *field = &fields[i];
        bool present = false;
        double value = 0.0;
        phi_status status =
            phi_field_number(body, field->name, field->low, field->high, &present, &value, err);
        if (status) {
            return status;
        }
        if (present) {
            float narrow = (float)value;
            memcpy((char *)sampling + field->offset, &narrow, sizeof narrow);
        }
    }
    if (sampling->top_p <= 0.0F) {
        return phi_fail_param(err, PHI_E_INVALID, "top_p",
                              "'top_p' must be greater than 0 and at most 1");
    }
    bool present = false;
    int64_t value = 0;
    /* -1 is what some clients send for "off". */
    phi_status status = phi_field_integer(body, "top_k", -1, INT32_MAX, &present, &value, err);
    if (status) {
        return status;
    }
    sampling->top_k = present && value > 0 ? (uint32_t)value : 0;
    status = phi_field_integer(body, "seed", INT64_MIN, INT64_MAX, &present, &value, err);
    sampling->has_seed = present;
    sampling->seed = (uint64_t)value;
    return status;
}

static phi_status parse_logit_bias(const json_t *body, phi_params *params, phi_err *err)
{
    json_t *object = phi_field(body, "logit_bias");
    if (!object) {
        return PHI_OK;
    }
    if (!json_is_object(object)) {
        return phi_fail_param(err, PHI_E_INVALID, "logit_bias",
                              "'logit_bias' must be an object of token id to bias");
    }
    size_t count = json_object_size(object);
    if (count > PHI_LIMIT_LOGIT_BIAS) {
        return phi_fail_param(err, PHI_E_INVALID, "logit_bias",
                              "'logit_bias' has %zu entries; at most %u are accepted", count,
                              PHI_LIMIT_LOGIT_BIAS);
    }
    params->logit_bias = phi_alloc_zero(count, sizeof *params->logit_bias);
    size_t used = 0;
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        uint64_t token;
        if (!phi_str_parse_u64(key, PHI_LIMIT_VOCAB, &token)) {
            return phi_fail_param(err, PHI_E_INVALID, "logit_bias",
                                  "'logit_bias' has the key '%.40s'; keys must be token ids", key);
        }
        double bias = json_number_value(value);
        if (!json_is_number(value) || bias < -100.0 || bias > 100.0) {
            return phi_fail_param(err, PHI_E_INVALID, "logit_bias",
                                  "'logit_bias' of token %s must be a number from -100 to 100",
                                  key);
        }
        params->logit_bias[used++] = (phi_logit_bias){.token = (int32_t)token, .bias = (float)bias};
    }
    params->sampling.logit_bias = params->logit_bias;
    params->sampling.n_logit_bias = used;
    return PHI_OK;
}

static phi_status add_stop(const json_t *value, phi_params *params, phi_err *err)
{
    if (!json_is_string(value) || json_string_length(value) == 0) {
        return phi_fail_param(err, PHI_E_INVALID, "stop",
                              "'stop' must be a non-empty string or a list of up to %u of them",
                              PHI_LIMIT_STOP_STRINGS);
    }
    if (params->n_stop == PHI_LIMIT_STOP_STRINGS) {
        return phi_fail_param(err, PHI_E_INVALID, "stop", "'stop' may hold at most %u strings",
                              PHI_LIMIT_STOP_STRINGS);
    }
    if (json_string_length(value) > PHI_LIMIT_STOP_BYTES) {
        return phi_fail_param(err, PHI_E_INVALID, "stop",
                              "a 'stop' string may have at most %u bytes", PHI_LIMIT_STOP_BYTES);
    }
    if (memchr(json_string_value(value), '\0', json_string_length(value))) {
        return phi_fail_param(err, PHI_E_INVALID, "stop",
                              "a 'stop' string must not contain a NUL character");
    }
    params->stop[params->n_stop++] = phi_strdup(json_string_value(value));
    return PHI_OK;
}

static phi_status parse_stop(const json_t *body, phi_params *params, phi_err *err)
{
    const json_t *stop = phi_field(body, "stop");
    if (!stop) {
        return PHI_OK;
    }
    if (!json_is_array(stop)) {
        return add_stop(stop, params, err);
    }
    for (size_t i = 0; i < json_array_size(stop); i++) {
        phi_status status = add_stop(json_array_get(stop, i), params, err);
        if (status) {
            return status;
        }
    }
    return PHI_OK;
}

static phi_status parse_stream(const json_t *body, phi_params *params, phi_err *err)
{
    phi_status status = phi_field_bool(body, "stream", &params->stream, err);
    if (status) {
        return status;
    }
    const json_t *options = phi_field(body, "stream_options");
    if (!options) {
        return PHI_OK;
    }
    if (!json_is_object(options)) {
        return phi_fail_param(err, PHI_E_INVALID, "stream_options",
                              "'stream_options' must be an object");
    }
    if (!params->stream) {
        return phi_fail_param(err, PHI_E_INVALID, "stream_options",
                              "'stream_options' is only allowed when 'stream' is true");
    }
    return phi_field_bool(options, "include_usage", &params->include_usage, err);
}

static phi_status parse_max_tokens(const json_t *body, phi_params_kind kind, phi_params *params,
                                   phi_err *err)
{
    int64_t low = kind == PHI_PARAMS_CHAT ? 1 : 0;
    params->max_tokens = kind == PHI_PARAMS_CHAT ? UINT32_MAX : COMPLETION_MAX_TOKENS_DEFAULT;
    static const char *const names[] = {"max_tokens", "max_completion_tokens"};
    for (size_t i = 0; i < (kind == PHI_PARAMS_CHAT ? 2U : 1U); i++) {
        bool present = false;
        int64_t value = 0;
        phi_status status =
            phi_field_integer(body, names[i], low, INT32_MAX, &present, &value, err);
        if (status) {
            return status;
        }
        if (present) {
            params->max_tokens = (uint32_t)value;
        }
    }
    return PHI_OK;
}

static phi_status parse_logprobs(const json_t *body, phi_params_kind kind, phi_params *params,
                                 phi_err *err)
{
    bool present = false;
    int64_t count = 0;
    params->top_logprobs = -1;
    if (kind == PHI_PARAMS_COMPLETION) {
        phi_status status = phi_field_integer(body, "logprobs", 0, 5, &present, &count, err);
        params->top_logprobs = present ? (int)count : -1;
        return status;
    }
    bool wanted = false;
    phi_status status = phi_field_bool(body, "logprobs", &wanted, err);
    if (status) {
        return status;
    }
    status =
        phi_field_integer(body, "top_logprobs", 0, PHI_LIMIT_TOP_LOGPROBS, &present, &count, err);
    if (status) {
        return status;
    }
    if (present && !wanted) {
        return phi_fail_param(err, PHI_E_INVALID, "top_logprobs",
                              "'top_logprobs' needs 'logprobs' to be true");
    }
    params->top_logprobs = wanted ? (int)count : -1;
    return PHI_OK;
}

/* Fields that OpenAI knows, that this server does not do, and that would change the answer. */
static phi_status refuse_unsupported(const json_t *body, phi_params_kind kind, phi_err *err)
{
    static const char *const chat[] = {
        "tools", "tool_choice", "functions",          "function_call",
        "audio", "prediction",  "web_search_options", "reasoning_effort"};
    static const char *const completion[] = {"suffix"};
    const char *const *names = kind == PHI_PARAMS_CHAT ? chat : completion;
    size_t count = kind == PHI_PARAMS_CHAT ? sizeof chat / sizeof *chat : 1;
    for (size_t i = 0; i < count; i++) {
        const json_t *value = phi_field(body, names[i]);
        bool empty = json_is_array(value) && json_array_size(value) == 0;
        bool none = json_is_string(value) && strcmp(json_string_value(value), "none") == 0;
        if (value && !empty && !none) {
            return phi_fail_param(err, PHI_E_UNSUPPORTED, names[i],
                                  "'%s' is not supported; leave it out", names[i]);
        }
    }
    const json_t *format = phi_field(body, "response_format");
    if (format) {
        const json_t *type = phi_field(format, "type");
        if (!json_is_string(type) || strcmp(json_string_value(type), "text") != 0) {
            return phi_fail_param(err, PHI_E_UNSUPPORTED, "response_format",
                                  "only {\"type\": \"text\"} is supported as 'response_format'");
        }
    }
    const json_t *modalities = phi_field(body, "modalities");
    for (size_t i = 0; i < json_array_size(modalities); i++) {
        const char *name = json_string_value(json_array_get(modalities, i));
        if (!name || strcmp(name, "text") != 0) {
            return phi_fail_param(err, PHI_E_UNSUPPORTED, "modalities",
                                  "only [\"text\"] is supported as 'modalities'");
        }
    }
    return PHI_OK;
}

static phi_status parse_counts(const json_t *body, phi_params_kind kind, phi_params *params,
                               phi_err *err)
{
    bool present = false;
    int64_t n = 1;
    phi_status status = phi_field_integer(body, "n", 1, PHI_LIMIT_CHOICES, &present, &n, err);
    if (status) {
        return status;
    }
    params->n = present ? (uint32_t)n : 1;
    if (kind == PHI_PARAMS_CHAT) {
        return PHI_OK;
    }
    int64_t best_of = 0;
    status = phi_field_integer(body, "best_of", 1, PHI_LIMIT_CHOICES, &present, &best_of, err);
    if (status) {
        return status;
    }
    if (present && best_of != params->n) {
        return phi_fail_param(err, PHI_E_UNSUPPORTED, "best_of",
                              "'best_of' other than 'n' is not supported; ask for more choices "
                              "with 'n'");
    }
    return phi_field_bool(body, "echo", &params->echo, err);
}

phi_status phi_params_parse(const json_t *body, phi_params_kind kind, phi_params *out_params,
                            phi_err *err)
{
    phi_params params = {0};
    phi_status status = refuse_unsupported(body, kind, err);
    status = status ? status : parse_model(body, &params, err);
    status = status ? status : parse_sampling(body, &params.sampling, err);
    status = status ? status : parse_logit_bias(body, &params, err);
    status = status ? status : parse_stop(body, &params, err);
    status = status ? status : parse_stream(body, &params, err);
    status = status ? status : parse_max_tokens(body, kind, &params, err);
    status = status ? status : parse_logprobs(body, kind, &params, err);
    status = status ? status : parse_counts(body, kind, &params, err);
    status = status ? status : phi_field_bool(body, "ignore_eos", &params.ignore_eos, err);
    if (status) {
        phi_params_done(&params);
        return status;
    }
    *out_params = params;
    return PHI_OK;
}
