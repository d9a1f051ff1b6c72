#include <stdio.h>
#include <string.h>

#include "engine/tokenizer/tokenizer_internal.h"

static const char *type_of(const json_t *json)
{
    const char *type = json_string_value(json_object_get(json, "type"));
    return type ? type : "(no type)";
}

static bool is_type(const json_t *json, const char *name)
{
    return strcmp(type_of(json), name) == 0;
}

static phi_status unsupported(const phi_tokenizer *tokenizer, const char *part, const json_t *json,
                              phi_err *err)
{
    return phi_fail(err, PHI_E_UNSUPPORTED, "%s: %s of type \"%.60s\" is not supported",
                    tokenizer->label, part, type_of(json));
}

static bool flag(const json_t *json, const char *name, bool fallback)
{
    const json_t *value = json_object_get(json, name);
    return json_is_boolean(value) ? json_boolean_value(value) : fallback;
}

typedef phi_status (*part_fn)(phi_tokenizer *tokenizer, const json_t *json, phi_err *err);

/* Runs `load` on each member of a "Sequence". */
static phi_status each_of(phi_tokenizer *tokenizer, const json_t *json, const char *members,
                          part_fn load, phi_err *err)
{
    const json_t *list = json_object_get(json, members);
    if (!json_is_array(list)) {
        return phi_fail(err, PHI_E_FORMAT, "%s: a Sequence has no list \"%s\"", tokenizer->label,
                        members);
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        phi_status status = load(tokenizer, json_array_get(list, i), err);
        if (status != PHI_OK) {
            return status;
        }
    }
    return PHI_OK;
}

/* ----------------------------------------------------------------------------- normalizer ---- */

static phi_status add_normalization(phi_tokenizer *tokenizer, const char *find, const char *put,
                                    phi_err *err)
{
    if (phi_normalizer_add(&tokenizer->normalizer, find, put) != PHI_OK) {
        return phi_fail(err, PHI_E_LIMIT, "%s: normalizer has more than %d steps", tokenizer->label,
                        PHI_NORMALIZE_STEPS_MAX);
    }
    return PHI_OK;
}

phi_status phi_tokenizer_load_normalizer(phi_tokenizer *tokenizer, const json_t *json, phi_err *err)
{
    if (!json || json_is_null(json)) {
        return PHI_OK;
    }
    if (is_type(json, "Sequence")) {
        return each_of(tokenizer, json, "normalizers", phi_tokenizer_load_normalizer, err);
    }
    if (is_type(json, "Prepend")) {
        const char *put = json_string_value(json_object_get(json, "prepend"));
        if (!put) {
            return phi_fail(err, PHI_E_FORMAT, "%s: normalizer Prepend has no string \"prepend\"",
                            tokenizer->label);
        }
        return add_normalization(tokenizer, NULL, put, err);
    }
    if (is_type(json, "Replace")) {
        const char *find =
            json_string_value(json_object_get(json_object_get(json, "pattern"), "String"));
        const char *put = json_string_value(json_object_get(json, "content"));
        if (!find || !*find || !put) {
            return phi_fail(err, PHI_E_UNSUPPORTED,
                            "%s: normalizer Replace needs pattern.String "
                            "and content (patterns of type Regex are not supported)",
                            tokenizer->label);
        }
        return add_normalization(tokenizer, find, put, err);
    }
    return unsupported(tokenizer, "normalizer", json, err);
}

/* -------------------------------------------------------------------------- pre-tokenizer ---- */

static phi_status add_step(phi_tokenizer *tokenizer, const phi_pretokenize_step *step, phi_err *err)
{
    if (phi_pretokenizer_add(&tokenizer->pretokenizer, step) != PHI_OK) {
        return phi_fail(err, PHI_E_LIMIT, "%s: pre_tokenizer has more than %d steps",
                        tokenizer->label, PHI_PRETOKENIZE_STEPS_MAX);
    }
    return PHI_OK;
}

phi_status phi_tokenizer_add_split(phi_tokenizer *tokenizer, const char *pattern, const char *where,
                                   phi_err *err)
{
    phi_pretokenize_step step = {.kind = PHI_PRETOKENIZE_ISOLATE};
    phi_status status =
        phi_pattern_compile(pattern, strlen(pattern), false, where, &step.pattern, err);
    return status == PHI_OK ? add_step(tokenizer, &step, err) : status;
}

static phi_status load_split(phi_tokenizer *tokenizer, const json_t *json, phi_err *err)
{
    const json_t *pattern = json_object_get(json, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex");
    const json_t *literal = json_object_get(pattern, "String");
    const json_t *source = regex ? regex : literal;
    const char *behavior = json_string_value(json_object_get(json, "behavior"));
    if (!json_is_string(source) || !behavior) {
        return phi_fail(
            err, PHI_E_FORMAT,
            "%s: pre_tokenizer Split needs pattern.Regex or pattern.String, and behavior",
            tokenizer->label);
    }
    phi_pretokenize_step step = {.kind = PHI_PRETOKENIZE_ISOLATE};
    if (strcmp(behavior, "Removed") == 0) {
        step.kind =
            flag(json, "invert", false) ? PHI_PRETOKENIZE_KEEP_MATCHES : PHI_PRETOKENIZE_KEEP_GAPS;
    } else if (strcmp(behavior, "Isolated") != 0) {
        return phi_fail(err, PHI_E_UNSUPPORTED,
                        "%s: pre_tokenizer Split with behavior \"%.40s\" is not supported "
                        "(Isolated and Removed are)",
                        tokenizer->label, behavior);
    }
    char where[160];
    snprintf(where, sizeof where, "%.100s: pre_tokenizer Split", tokenizer->label);
    phi_status status = phi_pattern_compile(json_string_value(source), json_string_length(source),
                                            source == literal, where, &step.pattern, err);
    return status == PHI_OK ? add_step(tokenizer, &step, err) : status;
}

static phi_status load_byte_level(phi_tokenizer *tokenizer, const json_t *json, phi_err *err)
{
    phi_status status = PHI_OK;
    if (flag(json, "add_prefix_space", true)) {
        status =
            add_step(tokenizer, &(phi_pretokenize_step){.kind = PHI_PRETOKENIZE_PREFIX_SPACE}, err);
    }
    if (status == PHI_OK && flag(json, "use_regex", true)) {
        status =
            phi_tokenizer_add_split(tokenizer, PHI_PATTERN_GPT2, "pre_tokenizer ByteLevel", err);
    }
    tokenizer->bpe.byte_level = true;
    return status;
}

static phi_status load_metaspace(phi_tokenizer *tokenizer, const json_t *json, phi_err *err)
{
    const char *mark = json_string_value(json_object_get(json, "replacement"));
    const char *scheme = json_string_value(json_object_get(json, "prepend_scheme"));
    phi_pretokenize_step step = {
        .kind = PHI_PRETOKENIZE_METASPACE,
        .scheme = flag(json, "add_prefix_space", true) ? PHI_METASPACE_ALWAYS : PHI_METASPACE_NEVER,
        .split = flag(json, "split", true)};
    if (mark && strcmp(mark, PHI_METASPACE) != 0) {
        return phi_fail(err, PHI_E_UNSUPPORTED,
                        "%s: pre_tokenizer Metaspace with a replacement other than U+2581 is not "
                        "supported",
                        tokenizer->label);
    }
    if (scheme && strcmp(scheme, "first") == 0) {
        step.scheme = PHI_METASPACE_FIRST;
    } else if (scheme && strcmp(scheme, "never") == 0) {
        step.scheme = PHI_METASPACE_NEVER;
    } else if (scheme && strcmp(scheme, "always") != 0) {
        return phi_fail(
            err, PHI_E_FORMAT,
            "%s: pre_tokenizer Metaspace has prepend_scheme \"%.40s\" (always, first or "
            "never)",
            tokenizer->label, scheme);
    }
    return add_step(tokenizer, &step, err);
}

phi_status phi_tokenizer_load_pretokenizer(phi_tokenizer *tokenizer, const json_t *json,
                                           phi_err *err)
{
    if (!json || json_is_null(json)) {
        return PHI_OK;
    }
    if (tokenizer->bpe.byte_level) {
        return phi_fail(err, PHI_E_UNSUPPORTED,
                        "%s: pre_tokenizer has \"%.60s\" after ByteLevel, which must be the last",
                        tokenizer->label, type_of(json));
    }
    if (is_type(json, "Sequence")) {
        return each_of(tokenizer, json, "pretokenizers", phi_tokenizer_load_pretokenizer, err);
    }
    if (is_type(json, "ByteLevel")) {
        return load_byte_level(tokenizer, json, err);
    }
    if (is_type(json, "Split")) {
        return load_split(tokenizer, json, err);
    }
    if (is_type(json, "Digits")) {
        return phi_tokenizer_add_split(
            tokenizer, flag(json, "individual_digits", false) ? "\\p{N}" : "\\p{N}+",
            "pre_tokenizer Digits", err);
    }
    if (is_type(json, "Metaspace")) {
        return load_metaspace(tokenizer, json, err);
    }
    return unsupported(tokenizer, "pre_tokenizer", json, err);
}

/* -------------------------------------------------------------------------------- decoder ---- */

static phi_status load_strip(phi_tokenizer *tokenizer, const json_t *json, phi_err *err)
{
    const char *content = json_string_value(json_object_get(json, "content"));
    json_int_t start = json_integer_value(json_object_get(json, "start"));
    json_int_t stop = json_integer_value(json_object_get(json, "stop"));
    if (!content || strcmp(content, " ") != 0 || start < 0 || start > 1 || stop != 0) {
        return phi_fail(err, PHI_E_UNSUPPORTED,
                        "%s: decoder Strip is supported for one space at the start only",
                        tokenizer->label);
    }
    tokenizer->decoder.strip_start = start == 1;
    return PHI_OK;
}

static phi_status load_decoder_part(phi_tokenizer *tokenizer, const json_t *json, phi_err *err)
{
    phi_decoder *decoder = &tokenizer->decoder;
    if (is_type(json, "Sequence")) {
        return each_of(tokenizer, json, "decoders", load_decoder_part, err);
    }
    if (is_type(json, "ByteLevel")) {
        decoder->byte_level = true;
    } else if (is_type(json, "ByteFallback")) {
        decoder->byte_fallback = true;
    } else if (is_type(json, "Strip")) {
        return load_strip(tokenizer, json, err);
    } else if (is_type(json, "Metaspace")) {
        const char *scheme = json_string_value(json_object_get(json, "prepend_scheme"));
        decoder->spaces = true;
        decoder->drop_first =
            (!scheme || strcmp(scheme, "never") != 0) && flag(json, "add_prefix_space", true);
    } else if (is_type(json, "Replace")) {
        const char *find =
            json_string_value(json_object_get(json_object_get(json, "pattern"), "String"));
        const char *put = json_string_value(json_object_get(json, "content"));
        if (!find || strcmp(find, PHI_METASPACE) != 0 || !put || strcmp(put, " ") != 0) {
            return phi_fail(err, PHI_E_UNSUPPORTED,
                            "%s: decoder Replace is supported for U+2581 to space only",
                            tokenizer->label);
        }
        decoder->spaces = true;
    } else if (!is_type(json, "Fuse")) {
        return unsupported(tokenizer, "decoder", json, err);
    }
    return PHI_OK;
}

phi_status phi_tokenizer_load_decoder(phi_tokenizer *tokenizer, const json_t *json, phi_err *err)
{
    if (!json || json_is_null(json)) {
        return phi_fail(err, PHI_E_UNSUPPORTED,
                        "%s: there is no decoder (ByteLevel, Metaspace, or a Sequence of Replace, "
                        "ByteFallback, Fuse and Strip is needed)",
                        tokenizer->label);
    }
    phi_status status = load_decoder_part(tokenizer, json, err);
    const phi_decoder *decoder = &tokenizer->decoder;
    if (status == PHI_OK && decoder->byte_level &&
        (decoder->spaces || decoder->byte_fallback || decoder->strip_start)) {
        return phi_fail(err, PHI_E_UNSUPPORTED, "%s: decoder mixes ByteLevel with other kinds",
                        tokenizer->label);
    }
    return status;
}

/* ------------------------------------------------------------------------- post-processor ---- */

static phi_status add_prefix(phi_tokenizer *tokenizer, const json_t *json, const char *name,
                             phi_err *err)
{
    const json_t *special = json_object_get(json_object_get(json, "special_tokens"), name);
    const json_t *ids = json_object_get(special, "ids");
    if (!json_is_array(ids)) {
        return phi_fail(err, PHI_E_FORMAT,
                        "%s: post_processor names \"%.40s\", which its special_tokens do not list",
                        tokenizer->label, name);
    }
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || !phi_vocab_at(&tokenizer->vocab, json_integer_value(id))) {
            return phi_fail(err, PHI_E_FORMAT,
                            "%s: post_processor's token \"%.40s\" has an id that is not in the "
                            "vocabulary",
                            tokenizer->label, name);
        }
        if (tokenizer->prefix_count == PHI_TOKENIZER_PREFIX_MAX) {
            return phi_fail(err, PHI_E_LIMIT, "%s: post_processor puts more than %d tokens first",
                            tokenizer->label, PHI_TOKENIZER_PREFIX_MAX);
        }
        tokenizer->prefix[tokenizer->prefix_count++] = (int32_t)json_integer_value(id);
    }
    return PHI_OK;
}

static phi_status load_template(phi_tokenizer *tokenizer, const json_t *json, phi_err *err)
{
    const json_t *single = json_object_get(json, "single");
    if (!json_is_array(single)) {
        return phi_fail(err, PHI_E_FORMAT,
                        "%s: post_processor TemplateProcessing has no list \"single\"",
                        tokenizer->label);
    }
    bool after_text = false;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *entry = json_array_get(single, i);
        const char *name =
            json_string_value(json_object_get(json_object_get(entry, "SpecialToken"), "id"));
        after_text = after_text || json_object_get(entry, "Sequence");
        if (!name) {
            continue;
        }
        if (after_text) {
            return phi_fail(err, PHI_E_UNSUPPORTED,
                            "%s: post_processor puts \"%.40s\" after the text, which is not "
                            "supported",
                            tokenizer->label, name);
        }
        phi_status status = add_prefix(tokenizer, json, name, err);
        if (status != PHI_OK) {
            return status;
        }
    }
    return PHI_OK;
}

phi_status phi_tokenizer_load_postprocessor(phi_tokenizer *tokenizer, const json_t *json,
                                            phi_err *err)
{
    if (!json || json_is_null(json) || is_type(json, "ByteLevel")) {
        return PHI_OK;
    }
    if (is_type(json, "Sequence")) {
        return each_of(tokenizer, json, "processors", phi_tokenizer_load_postprocessor, err);
    }
    if (is_type(json, "TemplateProcessing")) {
        return load_template(tokenizer, json, err);
    }
    return unsupported(tokenizer, "post_processor", json, err);
}
