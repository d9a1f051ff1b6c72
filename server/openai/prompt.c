#include "server/openai/prompt.h"

#include "base/mem.h"
#include "server/openai/fields.h"

static phi_status check_ids(const json_t *list, const char *field, phi_err *err)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *id = json_array_get(list, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= (json_int_t)PHI_LIMIT_VOCAB) {
            return phi_fail_param(err, PHI_E_INVALID, field,
                                  "element %zu of '%s' is not a token id", i, field);
        }
    }
    if (json_array_size(list) > PHI_LIMIT_CONTEXT) {
        return phi_fail_param(err, PHI_E_INVALID, field, "'%s' has more than %u tokens", field,
                              PHI_LIMIT_CONTEXT);
    }
    return PHI_OK;
}

phi_status phi_prompt_check(const json_t *prompt, const char *field, phi_err *err)
{
    if (json_is_string(prompt)) {
        return PHI_OK;
    }
    size_t count = json_array_size(prompt);
    const json_t *first = json_array_get(prompt, 0);
    if (!first) {
        return phi_fail_param(err, PHI_E_INVALID, field,
                              "'%s' must be a string, a list of strings, a list of token ids or a "
                              "list of such lists, but is %s",
                              field, json_is_array(prompt) ? "empty" : phi_json_kind(prompt));
    }
    if (json_is_integer(first)) {
        return check_ids(prompt, field, err);
    }
    if (count > PHI_LIMIT_CHOICES) {
        return phi_fail_param(err, PHI_E_INVALID, field,
                              "'%s' has %zu elements; at most %u are accepted", field, count,
                              PHI_LIMIT_CHOICES);
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *element = json_array_get(prompt, i);
        if (json_is_string(first) ? !json_is_string(element) : !json_is_array(element)) {
            return phi_fail_param(err, PHI_E_INVALID, field,
                                  "element %zu of '%s' is %s; all elements must be strings, or all "
                                  "lists of token ids",
                                  i, field, phi_json_kind(element));
        }
        phi_status status = json_is_array(element) ? check_ids(element, field, err) : PHI_OK;
        if (status) {
            return status;
        }
    }
    return PHI_OK;
}

static phi_status encode_one(const phi_model *model, const json_t *value, phi_tokens *tokens,
                             phi_err *err)
{
    if (json_is_string(value)) {
        return phi_model_tokenize(model, json_string_value(value), json_string_length(value), true,
                                  true, tokens, err);
    }
    for (size_t i = 0; i < json_array_size(value); i++) {
        int32_t id = (int32_t)json_integer_value(json_array_get(value, i));
        phi_status status = phi_tokens_append(tokens, &id, 1);
        if (status) {
            return phi_fail(err, status, "not enough memory for the prompt");
        }
    }
    return PHI_OK;
}

phi_status phi_prompt_encode(const phi_model *model, const json_t *prompt, phi_tokens **out_prompts,
                             uint32_t *out_count, phi_err *err)
{
    bool one = json_is_string(prompt) || json_is_integer(json_array_get(prompt, 0));
    uint32_t count = one ? 1 : (uint32_t)json_array_size(prompt);
    phi_tokens *prompts = phi_alloc_zero(count, sizeof *prompts);
    for (uint32_t i = 0; i < count; i++) {
        phi_tokens_init(&prompts[i]);
    }
    *out_prompts = prompts;
    *out_count = count;
    for (uint32_t i = 0; i < count; i++) {
        const json_t *value = one ? prompt : json_array_get(prompt, i);
        phi_status status = encode_one(model, value, &prompts[i], err);
        if (status) {
            return status;
        }
    }
    return PHI_OK;
}
