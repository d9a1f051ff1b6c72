#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "config/limits.h"
#include "engine/tokenizer/tokenizer_internal.h"

/* A token named by its text or by an object with "content"; -1 when it is null or absent. */
static phi_status token_id(const phi_tokenizer *tokenizer, const json_t *config, const char *key,
                           int32_t *out_id, phi_err *err)
{
    const json_t *value = json_object_get(config, key);
    const json_t *content = json_is_object(value) ? json_object_get(value, "content") : value;
    if (!value || json_is_null(value)) {
        return PHI_OK;
    }
    if (!json_is_string(content)) {
        return phi_fail(err, PHI_E_FORMAT, "tokenizer_config.json: %s is not the text of a token",
                        key);
    }
    int32_t id =
        phi_vocab_find(&tokenizer->vocab, json_string_value(content), json_string_length(content));
    if (id < 0) {
        return phi_fail(err, PHI_E_FORMAT,
                        "tokenizer_config.json: %s is \"%.40s\", which is not in the vocabulary",
                        key, json_string_value(content));
    }
    *out_id = id;
    return PHI_OK;
}

/* One template, or the one called "default" of a list of named ones. */
static const json_t *default_template(const json_t *value)
{
    if (!json_is_array(value)) {
        return value;
    }
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *entry = json_array_get(value, i);
        const char *name = json_string_value(json_object_get(entry, "name"));
        if (name && strcmp(name, "default") == 0) {
            return json_object_get(entry, "template");
        }
    }
    return json_object_get(json_array_get(value, 0), "template");
}

static phi_status load_template(phi_tokenizer *tokenizer, const json_t *config, phi_err *err)
{
    const json_t *value = default_template(json_object_get(config, "chat_template"));
    if (!value || json_is_null(value)) {
        return PHI_OK;
    }
    if (!json_is_string(value)) {
        return phi_fail(err, PHI_E_FORMAT, "tokenizer_config.json: chat_template is not text");
    }
    if (json_string_length(value) > PHI_LIMIT_TEMPLATE_BYTES) {
        return phi_fail(err, PHI_E_LIMIT,
                        "tokenizer_config.json: chat_template is longer than %u bytes",
                        PHI_LIMIT_TEMPLATE_BYTES);
    }
    tokenizer->chat_template = phi_strdup(json_string_value(value));
    return PHI_OK;
}

/*
 * The Llama classes rebuild the post-processor from add_bos_token, which counts as true when it is
 * absent; the others leave tokenizer.json's as it is.
 */
static phi_status apply_add_bos(phi_tokenizer *tokenizer, const json_t *config, phi_err *err)
{
    const char *name = json_string_value(json_object_get(config, "tokenizer_class"));
    if (!name || !phi_str_starts(name, "LlamaTokenizer")) {
        return PHI_OK;
    }
    const json_t *wanted = json_object_get(config, "add_bos_token");
    tokenizer->adds_bos = !json_is_false(wanted);
    tokenizer->prefix_count = 0;
    if (!tokenizer->adds_bos) {
        return PHI_OK;
    }
    if (tokenizer->bos_id < 0) {
        return phi_fail(err, PHI_E_FORMAT,
                        "tokenizer_config.json: add_bos_token needs a bos_token, which is missing");
    }
    tokenizer->prefix[0] = tokenizer->bos_id;
    tokenizer->prefix_count = 1;
    return PHI_OK;
}

phi_status phi_tokenizer_apply_config(phi_tokenizer *tokenizer, const json_t *config, phi_err *err)
{
    if (!config) {
        return PHI_OK;
    }
    phi_status status = token_id(tokenizer, config, "bos_token", &tokenizer->bos_id, err);
    if (status == PHI_OK) {
        status = token_id(tokenizer, config, "eos_token", &tokenizer->eos_id, err);
    }
    if (status == PHI_OK) {
        status = token_id(tokenizer, config, "unk_token", &tokenizer->unk_id, err);
    }
    if (status == PHI_OK) {
        status = token_id(tokenizer, config, "pad_token", &tokenizer->pad_id, err);
    }
    if (status == PHI_OK) {
        status = apply_add_bos(tokenizer, config, err);
    }
    return status == PHI_OK ? load_template(tokenizer, config, err) : status;
}
