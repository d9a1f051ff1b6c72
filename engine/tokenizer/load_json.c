#include <inttypes.h>
#include <string.h>

#include "base/mem.h"
#include "config/limits.h"
#include "engine/formats/json.h"
#include "engine/tokenizer/tokenizer_internal.h"

static phi_status load_vocab(phi_tokenizer *tokenizer, const json_t *model, phi_err *err)
{
    const json_t *vocab = json_object_get(model, "vocab");
    if (!json_is_object(vocab) || json_object_size(vocab) == 0) {
        return phi_fail(err, PHI_E_FORMAT, "%s: model.vocab is not an object with pieces",
                        tokenizer->label);
    }
    phi_status status = phi_vocab_init(&tokenizer->vocab, &tokenizer->arena, tokenizer->label,
                                       json_object_size(vocab) + 256, err);
    json_t *object = (json_t *)(uintptr_t)vocab;
    void *iterator = json_object_iter(object);
    for (; status == PHI_OK && iterator; iterator = json_object_iter_next(object, iterator)) {
        const char *piece = json_object_iter_key(iterator);
        const json_t *id = json_object_iter_value(iterator);
        if (!json_is_integer(id)) {
            return phi_fail(err, PHI_E_FORMAT, "%s: model.vocab[\"%.40s\"] is not an integer",
                            tokenizer->label, piece);
        }
        status = phi_vocab_add(&tokenizer->vocab, json_integer_value(id), piece, strlen(piece),
                               PHI_TOKEN_NORMAL, true, err);
    }
    return status;
}

/* The two parts of a merge, in either of the forms "a b" and ["a", "b"]. */
static bool split_merge(const json_t *merge, const char *parts[2], size_t bytes[2])
{
    if (json_is_array(merge) && json_array_size(merge) == 2) {
        for (size_t i = 0; i < 2; i++) {
            const json_t *part = json_array_get(merge, i);
            if (!json_is_string(part)) {
                return false;
            }
            parts[i] = json_string_value(part);
            bytes[i] = json_string_length(part);
        }
        return true;
    }
    const char *text = json_string_value(merge);
    const char *space = text ? strchr(text, ' ') : NULL;
    if (!space || strchr(space + 1, ' ')) {
        return false;
    }
    parts[0] = text;
    bytes[0] = (size_t)(space - text);
    parts[1] = space + 1;
    bytes[1] = strlen(space + 1);
    return true;
}

static phi_status load_merge(phi_tokenizer *tokenizer, const json_t *merge, size_t rank,
                             phi_err *err)
{
    const char *parts[2];
    size_t bytes[2];
    if (!split_merge(merge, parts, bytes)) {
        return phi_fail(err, PHI_E_FORMAT,
                        "%s: model.merges[%zu] is neither \"a b\" nor [\"a\", \"b\"]",
                        tokenizer->label, rank);
    }
    int32_t ids[2];
    for (size_t i = 0; i < 2; i++) {
        ids[i] = phi_vocab_find_in_model(&tokenizer->vocab, parts[i], bytes[i]);
        if (ids[i] < 0) {
            return phi_fail(err, PHI_E_FORMAT,
                            "%s: model.merges[%zu] names \"%.*s\", which is not in the vocabulary",
                            tokenizer->label, rank, (int)(bytes[i] < 40 ? bytes[i] : 40), parts[i]);
        }
    }
    return phi_bpe_add(&tokenizer->bpe, ids[0], ids[1], (uint32_t)rank, err);
}

static phi_status load_merges(phi_tokenizer *tokenizer, const json_t *model, phi_err *err)
{
    const json_t *merges = json_object_get(model, "merges");
    if (!json_is_array(merges)) {
        return phi_fail(err, PHI_E_FORMAT, "%s: model.merges is not a list", tokenizer->label);
    }
    phi_status status =
        phi_bpe_init(&tokenizer->bpe, &tokenizer->vocab, json_array_size(merges), err);
    for (size_t i = 0; status == PHI_OK && i < json_array_size(merges); i++) {
        status = load_merge(tokenizer, json_array_get(merges, i), i, err);
    }
    return status;
}

/* Settings that would change the ids and that no Phi tokenizer uses. */
static phi_status refuse_model_options(const phi_tokenizer *tokenizer, const json_t *model,
                                       phi_err *err)
{
    const char *type = json_string_value(json_object_get(model, "type"));
    if (type && strcmp(type, "BPE") != 0) {
        return phi_fail(err, PHI_E_UNSUPPORTED,
                        "%s: model of type \"%.60s\" is not supported (BPE is)", tokenizer->label,
                        type);
    }
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < sizeof affixes / sizeof *affixes; i++) {
        const char *affix = json_string_value(json_object_get(model, affixes[i]));
        if (affix && *affix) {
            return phi_fail(err, PHI_E_UNSUPPORTED, "%s: model.%s \"%.40s\" is not supported",
                            tokenizer->label, affixes[i], affix);
        }
    }
    if (json_number_value(json_object_get(model, "dropout")) > 0) {
        return phi_fail(err, PHI_E_UNSUPPORTED, "%s: model.dropout is not supported",
                        tokenizer->label);
    }
    return PHI_OK;
}

static phi_status load_model(phi_tokenizer *tokenizer, const json_t *model, phi_err *err)
{
    if (!json_is_object(model)) {
        return phi_fail(err, PHI_E_FORMAT, "%s: \"model\" is not an object", tokenizer->label);
    }
    phi_status status = refuse_model_options(tokenizer, model, err);
    if (status == PHI_OK) {
        status = load_vocab(tokenizer, model, err);
    }
    if (status == PHI_OK) {
        status = load_merges(tokenizer, model, err);
    }
    if (status != PHI_OK) {
        return status;
    }
    phi_bpe *bpe = &tokenizer->bpe;
    bpe->byte_fallback = json_is_true(json_object_get(model, "byte_fallback"));
    bpe->fuse_unk = json_is_true(json_object_get(model, "fuse_unk"));
    bpe->ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    const char *unk = json_string_value(json_object_get(model, "unk_token"));
    if (unk) {
        bpe->unk_id = phi_vocab_find(&tokenizer->vocab, unk, strlen(unk));
        if (bpe->unk_id < 0) {
            return phi_fail(err, PHI_E_FORMAT,
                            "%s: model.unk_token \"%.40s\" is not in the vocabulary",
                            tokenizer->label, unk);
        }
        tokenizer->unk_id = bpe->unk_id;
    }
    return PHI_OK;
}

static void mark_byte_tokens(phi_tokenizer *tokenizer)
{
    if (!tokenizer->decoder.byte_fallback) {
        return;
    }
    for (uint32_t id = 0; id < tokenizer->vocab.size; id++) {
        phi_token *token = &tokenizer->vocab.tokens[id];
        if (token->byte >= 0 && token->kind == PHI_TOKEN_NORMAL) {
            token->kind = PHI_TOKEN_BYTE;
        }
    }
}

static phi_status load_parts(phi_tokenizer *tokenizer, const json_t *root, const json_t *config,
                             phi_err *err)
{
    phi_added_list added = {.entries = NULL};
    phi_status status = load_model(tokenizer, json_object_get(root, "model"), err);
    if (status == PHI_OK) {
        status = phi_tokenizer_load_normalizer(tokenizer, json_object_get(root, "normalizer"), err);
    }
    if (status == PHI_OK) {
        status =
            phi_tokenizer_load_pretokenizer(tokenizer, json_object_get(root, "pre_tokenizer"), err);
    }
    if (status == PHI_OK) {
        status = phi_bpe_finish(&tokenizer->bpe, err);
    }
    if (status == PHI_OK) {
        status = phi_tokenizer_load_decoder(tokenizer, json_object_get(root, "decoder"), err);
    }
    if (status == PHI_OK) {
        mark_byte_tokens(tokenizer);
        status = phi_added_list_load(&added, root, config, tokenizer->label, err);
    }
    if (status == PHI_OK) {
        status = phi_tokenizer_put_added(tokenizer, &added, err);
    }
    if (status == PHI_OK) {
        status = phi_tokenizer_load_postprocessor(tokenizer,
                                                  json_object_get(root, "post_processor"), err);
    }
    phi_added_list_done(&added);
    return status;
}

phi_status phi_tokenizer_load_json(const char *text, size_t bytes, const json_t *config,
                                   const char *label, phi_tokenizer **out_tokenizer, phi_err *err)
{
    json_t *root = NULL;
    phi_status status = phi_json_parse_object(text, bytes, label, &root, err);
    if (status != PHI_OK) {
        return status;
    }
    phi_tokenizer *tokenizer = phi_tokenizer_create_empty(label);
    status = load_parts(tokenizer, root, config, err);
    json_decref(root);
    if (status == PHI_OK) {
        tokenizer->adds_bos = tokenizer->prefix_count > 0;
        tokenizer->bos_id = tokenizer->prefix_count ? tokenizer->prefix[0] : -1;
        status = phi_tokenizer_apply_config(tokenizer, config, err);
    }
    if (status == PHI_OK) {
        tokenizer->json = phi_try_alloc(bytes + 1);
        if (!tokenizer->json) {
            status = phi_fail(err, PHI_E_NO_MEMORY, "%s: not enough memory for its text", label);
        }
    }
    if (status != PHI_OK) {
        phi_tokenizer_destroy(tokenizer);
        return status;
    }
    memcpy(tokenizer->json, text, bytes);
    tokenizer->json[bytes] = '\0';
    tokenizer->json_bytes = bytes;
    *out_tokenizer = tokenizer;
    return PHI_OK;
}
