#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "base/str.h"
#include "config/limits.h"
#include "engine/tokenizer/tokenizer_internal.h"

void phi_added_list_done(phi_added_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        phi_free(list->entries[i].content);
    }
    phi_free(list->entries);
    *list = (phi_added_list){.entries = NULL};
}

phi_status phi_added_list_append(phi_added_list *list, const phi_added_entry *entry, phi_err *err)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 128;
        phi_added_entry *entries = phi_try_realloc(list->entries, capacity * sizeof *entries);
        if (!entries) {
            return phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for %zu added tokens",
                            capacity);
        }
        list->entries = entries;
        list->capacity = capacity;
    }
    list->entries[list->count] = *entry;
    list->entries[list->count].content = phi_strdup(entry->content);
    list->count++;
    return PHI_OK;
}

static bool flag(const json_t *json, const char *name)
{
    return json_is_true(json_object_get(json, name));
}

static phi_status read_entry(const json_t *json, int64_t id, const char *label,
                             phi_added_entry *out_entry, phi_err *err)
{
    const json_t *content = json_object_get(json, "content");
    if (!json_is_string(content)) {
        return phi_fail(err, PHI_E_FORMAT, "%s: added token %" PRId64 " has no string \"content\"",
                        label, id);
    }
    if (json_string_length(content) > PHI_LIMIT_PIECE_BYTES) {
        return phi_fail(err, PHI_E_LIMIT, "%s: added token %" PRId64 " is longer than %u bytes",
                        label, id, PHI_LIMIT_PIECE_BYTES);
    }
    *out_entry = (phi_added_entry){.id = id,
                                   .single_word = flag(json, "single_word"),
                                   .lstrip = flag(json, "lstrip"),
                                   .rstrip = flag(json, "rstrip"),
                                   .normalized = flag(json, "normalized"),
                                   .special = flag(json, "special")};
    out_entry->content = phi_strdup(json_string_value(content));
    return PHI_OK;
}

static phi_status append_entry(phi_added_list *list, const json_t *json, int64_t id,
                               const char *label, phi_err *err)
{
    phi_added_entry entry = {0};
    phi_status status = read_entry(json, id, label, &entry, err);
    if (status == PHI_OK) {
        PHI_ASSERT(entry.content != NULL);
        status = phi_added_list_append(list, &entry, err);
        phi_free(entry.content);
    }
    return status;
}

static phi_added_entry *find_id(const phi_added_list *list, int64_t id)
{
    for (size_t i = 0; i < list->count; i++) {
        if (list->entries[i].id == id) {
            return &list->entries[i];
        }
    }
    return NULL;
}

/* tokenizer_config.json's flags win over tokenizer.json's where both name a token. */
static phi_status apply_decoder_entry(phi_added_list *list, const char *key, const json_t *json,
                                      phi_err *err)
{
    static const char label[] = "tokenizer_config.json";
    uint64_t id = 0;
    if (!phi_str_parse_u64(key, PHI_LIMIT_VOCAB - 1, &id)) {
        return phi_fail(err, PHI_E_FORMAT,
                        "%s: added_tokens_decoder has the key \"%.40s\", which "
                        "is not a token id",
                        label, key);
    }
    phi_added_entry *known = find_id(list, (int64_t)id);
    if (!known) {
        return append_entry(list, json, (int64_t)id, label, err);
    }
    phi_added_entry entry = {0};
    phi_status status = read_entry(json, (int64_t)id, label, &entry, err);
    if (status != PHI_OK) {
        return status;
    }
    PHI_ASSERT(entry.content != NULL);
    bool same = strcmp(entry.content, known->content) == 0;
    phi_free(entry.content);
    if (!same) {
        return phi_fail(err, PHI_E_FORMAT,
                        "%s: added_tokens_decoder calls token %" PRIu64
                        " otherwise than tokenizer.json (\"%.40s\")",
                        label, id, known->content);
    }
    entry.content = known->content;
    *known = entry;
    return PHI_OK;
}

phi_status phi_added_list_load(phi_added_list *list, const json_t *root, const json_t *config,
                               const char *label, phi_err *err)
{
    const json_t *added = json_object_get(root, "added_tokens");
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *json = json_array_get(added, i);
        const json_t *id = json_object_get(json, "id");
        if (!json_is_integer(id)) {
            return phi_fail(err, PHI_E_FORMAT, "%s: added_tokens[%zu] has no integer \"id\"", label,
                            i);
        }
        phi_status status = append_entry(list, json, json_integer_value(id), label, err);
        if (status != PHI_OK) {
            return status;
        }
    }
    const json_t *decoder = json_object_get(config, "added_tokens_decoder");
    if (json_object_size(decoder) > PHI_TOKENIZER_ADDED_DECODER_MAX) {
        return phi_fail(err, PHI_E_LIMIT,
                        "tokenizer_config.json: added_tokens_decoder has more than %d entries",
                        PHI_TOKENIZER_ADDED_DECODER_MAX);
    }
    void *iterator = json_object_iter((json_t *)(uintptr_t)decoder);
    for (; iterator; iterator = json_object_iter_next((json_t *)(uintptr_t)decoder, iterator)) {
        phi_status status = apply_decoder_entry(list, json_object_iter_key(iterator),
                                                json_object_iter_value(iterator), err);
        if (status != PHI_OK) {
            return status;
        }
    }
    return PHI_OK;
}

/* Special tokens, and those that look like tags: text from users never becomes one of these. */
static bool is_control(const phi_added_entry *entry)
{
    size_t bytes = strlen(entry->content);
    return entry->special ||
           (bytes > 2 && entry->content[0] == '<' && entry->content[bytes - 1] == '>');
}

static phi_status put_in_set(phi_tokenizer *tokenizer, const phi_added_entry *entry)
{
    phi_added_token token = {.id = (int32_t)entry->id,
                             .text = entry->content,
                             .bytes = strlen(entry->content),
                             .control = is_control(entry),
                             .single_word = entry->single_word,
                             .lstrip = entry->lstrip,
                             .rstrip = entry->rstrip};
    if (!entry->normalized) {
        return phi_added_add(&tokenizer->added, &token);
    }
    phi_marked normal;
    phi_marked_init(&normal);
    phi_status status =
        phi_normalizer_run(&tokenizer->normalizer, token.text, token.text, token.bytes, &normal);
    if (status == PHI_OK && normal.text.length_bytes) {
        token.text = normal.text.data;
        token.bytes = normal.text.length_bytes;
        status = phi_added_add(&tokenizer->added_normalized, &token);
    }
    phi_marked_done(&normal);
    return status;
}

phi_status phi_tokenizer_put_added(phi_tokenizer *tokenizer, const phi_added_list *list,
                                   phi_err *err)
{
    for (size_t i = 0; i < list->count; i++) {
        const phi_added_entry *entry = &list->entries[i];
        phi_status status =
            phi_vocab_add(&tokenizer->vocab, entry->id, entry->content, strlen(entry->content),
                          entry->special ? PHI_TOKEN_CONTROL : PHI_TOKEN_USER_DEFINED, false, err);
        if (status != PHI_OK) {
            return status;
        }
        status = put_in_set(tokenizer, entry);
        if (status != PHI_OK) {
            return phi_fail(err, status, "%s: not enough memory for the added tokens",
                            tokenizer->label);
        }
    }
    phi_status status = phi_added_finish(&tokenizer->added, err);
    return status == PHI_OK ? phi_added_finish(&tokenizer->added_normalized, err) : status;
}
