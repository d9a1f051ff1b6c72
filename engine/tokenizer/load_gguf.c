#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "config/limits.h"
#include "engine/formats/text_check.h"
#include "engine/tokenizer/tokenizer_internal.h"

/* Longest piece whose every split is tried; sentencepiece's own default cap is 16 characters. */
#define SCORED_PIECE_BYTES_MAX 256U

/* llama.cpp's names of pre-tokenizers (src/llama-vocab.cpp) and what they split by, one after
 * another. */
typedef struct pre_type {
    const char *name;
    const char *patterns[4];
} pre_type;

static const pre_type pre_types[] = {
    {"gpt-2", {PHI_PATTERN_GPT2}},
    {"phi-2", {PHI_PATTERN_GPT2}},
    {"dbrx", {PHI_PATTERN_CL100K}},
    {"gpt-4o", {PHI_PATTERN_O200K}},
    {"starcoder", {"\\p{N}", PHI_PATTERN_GPT2}},
    {"default", {"[\\p{P}\\$\\+<=>\\^~\\|]+", PHI_PATTERN_GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
};

static const phi_gguf_value *find_array(const phi_gguf *gguf, const char *key, bool strings)
{
    const phi_gguf_value *value = phi_gguf_find(gguf, key);
    bool fits = value && value->type == PHI_GGUF_ARRAY &&
                (value->element_type == PHI_GGUF_STRING) == strings;
    return fits ? value : NULL;
}

/* ----------------------------------------------------------------------------- vocabulary ---- */

static phi_status token_kind(const phi_tokenizer *tokenizer, const phi_gguf_value *types,
                             uint64_t id, int32_t unk_id, phi_token_kind *out_kind, phi_err *err)
{
    int64_t type = types ? phi_gguf_array_i64(types, id) : PHI_TOKEN_NORMAL;
    if (type < PHI_TOKEN_NORMAL || type > PHI_TOKEN_BYTE) {
        return phi_fail(err, PHI_E_FORMAT,
                        "%s: tokenizer.ggml.token_type[%llu] is %lld, which is none of 1 to 6",
                        tokenizer->label, (unsigned long long)id, (long long)type);
    }
    *out_kind = (phi_token_kind)type;
    /* Older converters marked the vocabulary's padding as unknown tokens. */
    if (type == PHI_TOKEN_UNKNOWN && (int64_t)id != unk_id) {
        *out_kind = PHI_TOKEN_UNUSED;
    }
    return PHI_OK;
}

static phi_status load_tokens(phi_tokenizer *tokenizer, const phi_gguf *gguf, phi_err *err)
{
    const phi_gguf_value *tokens = find_array(gguf, "tokenizer.ggml.tokens", true);
    const phi_gguf_value *types = find_array(gguf, "tokenizer.ggml.token_type", false);
    if (!tokens || tokens->count == 0 || tokens->count > PHI_LIMIT_VOCAB) {
        return phi_fail(err, PHI_E_FORMAT,
                        "%s: tokenizer.ggml.tokens is not a list of 1 to %u strings",
                        tokenizer->label, PHI_LIMIT_VOCAB);
    }
    if (types && types->count != tokens->count) {
        return phi_fail(
            err, PHI_E_FORMAT, "%s: tokenizer.ggml.token_type has %llu entries for %llu tokens",
            tokenizer->label, (unsigned long long)types->count, (unsigned long long)tokens->count);
    }
    phi_status status = phi_vocab_init(&tokenizer->vocab, &tokenizer->arena, tokenizer->label,
                                       (size_t)tokens->count, err);
    for (uint64_t id = 0; status == PHI_OK && id < tokens->count; id++) {
        phi_token_kind kind = PHI_TOKEN_NORMAL;
        status = token_kind(tokenizer, types, id, tokenizer->unk_id, &kind, err);
        if (status == PHI_OK) {
            const phi_gguf_string *piece = &tokens->as.strings[id];
            bool in_model = kind == PHI_TOKEN_NORMAL || kind == PHI_TOKEN_BYTE ||
                            kind == PHI_TOKEN_USER_DEFINED;
            status = phi_vocab_add(&tokenizer->vocab, (int64_t)id, piece->text, piece->bytes, kind,
                                   in_model, err);
        }
    }
    return status;
}

/* GGUF has no field for "swallows the white space after it": llama.cpp goes by the model's name. */
static bool is_named_phi3(const phi_gguf *gguf)
{
    phi_gguf_string name;
    if (!phi_gguf_get_string(gguf, "general.name", &name)) {
        return false;
    }
    char lower[PHI_LIMIT_NAME_BYTES];
    size_t bytes = name.bytes < sizeof lower - 1 ? name.bytes : sizeof lower - 1;
    for (size_t i = 0; i < bytes; i++) {
        lower[i] = (char)tolower((unsigned char)name.text[i]);
    }
    lower[bytes] = '\0';
    return strstr(lower, "phi-3") || strstr(lower, "phi3");
}

static bool strips_right(const phi_token *token)
{
    if (token->kind == PHI_TOKEN_USER_DEFINED) {
        return strcmp(token->piece, "</s>") == 0;
    }
    return strcmp(token->piece, "<unk>") != 0 && strcmp(token->piece, "<s>") != 0 &&
           strcmp(token->piece, "<|endoftext|>") != 0;
}

static phi_status load_added(phi_tokenizer *tokenizer, const phi_gguf *gguf, phi_err *err)
{
    bool phi3 = is_named_phi3(gguf);
    phi_added_list list = {.entries = NULL};
    phi_status status = PHI_OK;
    for (uint32_t id = 0; status == PHI_OK && id < tokenizer->vocab.size; id++) {
        const phi_token *token = phi_vocab_at(&tokenizer->vocab, id);
        if (token && (token->kind == PHI_TOKEN_CONTROL || token->kind == PHI_TOKEN_USER_DEFINED ||
                      token->kind == PHI_TOKEN_UNKNOWN)) {
            phi_added_entry entry = {.id = id,
                                     .content = (char *)(uintptr_t)token->piece,
                                     .rstrip = phi3 && strips_right(token),
                                     .special = token->kind != PHI_TOKEN_USER_DEFINED};
            status = phi_added_list_append(&list, &entry, err);
        }
    }
    if (status == PHI_OK) {
        status = phi_tokenizer_put_added(tokenizer, &list, err);
    }
    phi_added_list_done(&list);
    return status;
}

/* --------------------------------------------------------------------- SentencePiece style ---- */

typedef struct scored {
    float score;
    uint32_t id;
} scored;

static int by_score(const void *a, const void *b)
{
    const scored *left = a;
    const scored *right = b;
    if (left->score != right->score) {
        return left->score > right->score ? -1 : 1;
    }
    return left->id < right->id ? -1 : left->id > right->id;
}

static int32_t find_normal(const phi_vocab *vocab, const char *text, size_t bytes)
{
    int32_t id = phi_vocab_find_in_model(vocab, text, bytes);
    return id >= 0 && vocab->tokens[id].kind == PHI_TOKEN_NORMAL ? id : -1;
}

/* Every pair of pieces that gives `token`; added with `rank` unless `bpe` is NULL. */
static phi_status add_splits(const phi_vocab *vocab, const phi_token *token, uint32_t rank,
                             phi_bpe *bpe, size_t *count, phi_err *err)
{
    phi_status status = PHI_OK;
    for (uint32_t at = 1; status == PHI_OK && at < token->bytes; at++) {
        if (((unsigned char)token->piece[at] & 0xc0) == 0x80) {
            continue;
        }
        int32_t left = find_normal(vocab, token->piece, at);
        int32_t right = left < 0 ? -1 : find_normal(vocab, token->piece + at, token->bytes - at);
        if (right >= 0) {
            ++*count;
            status = bpe ? phi_bpe_add(bpe, left, right, rank, err) : PHI_OK;
        }
    }
    return status;
}

/* Pieces of equal score share a rank: the leftmost pair then goes first, as in sentencepiece. */
static phi_status scores_to_merges(phi_tokenizer *tokenizer, const scored *sorted, size_t count,
                                   phi_err *err)
{
    const phi_vocab *vocab = &tokenizer->vocab;
    size_t merges = 0;
    for (size_t i = 0; i < count; i++) {
        const phi_token *token = &vocab->tokens[sorted[i].id];
        if (token->bytes > SCORED_PIECE_BYTES_MAX) {
            return phi_fail(err, PHI_E_LIMIT,
                            "%s: token %u is longer than %u bytes, the most that "
                            "a scored vocabulary may have",
                            tokenizer->label, sorted[i].id, SCORED_PIECE_BYTES_MAX);
        }
        (void)add_splits(vocab, token, 0, NULL, &merges, NULL);
        if (merges > PHI_LIMIT_SCORED_MERGES) {
            return phi_fail(err, PHI_E_LIMIT,
                            "%s: its tokens are made of others in more than %u ways",
                            tokenizer->label, PHI_LIMIT_SCORED_MERGES);
        }
    }
    phi_status status = phi_bpe_init(&tokenizer->bpe, vocab, merges, err);
    uint32_t rank = 0;
    merges = 0;
    for (size_t i = 0; status == PHI_OK && i < count; i++) {
        rank += i > 0 && sorted[i].score < sorted[i - 1].score;
        status =
            add_splits(vocab, &vocab->tokens[sorted[i].id], rank, &tokenizer->bpe, &merges, err);
    }
    return status;
}

static phi_status load_scores(phi_tokenizer *tokenizer, const phi_gguf *gguf, phi_err *err)
{
    const phi_vocab *vocab = &tokenizer->vocab;
    const phi_gguf_value *scores = find_array(gguf, "tokenizer.ggml.scores", false);
    if (!scores || scores->count != vocab->size) {
        return phi_fail(err, PHI_E_FORMAT,
                        "%s: tokenizer.ggml.scores is not a list of %u numbers, one for each token",
                        tokenizer->label, vocab->size);
    }
    tokenizer->scores = phi_try_alloc(vocab->size * sizeof(float));
    scored *sorted = phi_try_alloc(vocab->size * sizeof *sorted);
    if (!tokenizer->scores || !sorted) {
        phi_free(sorted);
        return phi_fail(err, PHI_E_NO_MEMORY, "%s: not enough memory for %u scores",
                        tokenizer->label, vocab->size);
    }
    phi_status status = PHI_OK;
    size_t count = 0;
    for (uint32_t id = 0; id < vocab->size; id++) {
        float score = (float)phi_gguf_array_f64(scores, id);
        tokenizer->scores[id] = score;
        if (isnan(score)) {
            status = phi_fail(err, PHI_E_FORMAT, "%s: tokenizer.ggml.scores[%u] is not a number",
                              tokenizer->label, id);
            break;
        }
        if (vocab->tokens[id].kind == PHI_TOKEN_NORMAL) {
            sorted[count++] = (scored){.score = score, .id = id};
        }
    }
    if (status == PHI_OK) {
        qsort(sorted, count, sizeof *sorted, by_score);
        status = scores_to_merges(tokenizer, sorted, count, err);
    }
    phi_free(sorted);
    return status;
}

static phi_status load_spm(phi_tokenizer *tokenizer, const phi_gguf *gguf, phi_err *err)
{
    phi_status status = load_scores(tokenizer, gguf, err);
    bool prefix = true;
    (void)phi_gguf_get_bool(gguf, "tokenizer.ggml.add_space_prefix", &prefix);
    if (status == PHI_OK && prefix) {
        status = phi_normalizer_add(&tokenizer->normalizer, NULL, PHI_METASPACE);
    }
    if (status == PHI_OK) {
        status = phi_normalizer_add(&tokenizer->normalizer, " ", PHI_METASPACE);
    }
    tokenizer->bpe.byte_fallback = true;
    tokenizer->bpe.fuse_unk = true;
    tokenizer->bpe.unk_id = tokenizer->unk_id;
    tokenizer->decoder =
        (phi_decoder){.spaces = true, .byte_fallback = true, .strip_start = prefix};
    return status;
}

/* ------------------------------------------------------------------------------ byte-level ---- */

static phi_status load_pre(phi_tokenizer *tokenizer, const phi_gguf *gguf, phi_err *err)
{
    phi_gguf_string pre = {.text = "default", .bytes = strlen("default")};
    (void)phi_gguf_get_string(gguf, "tokenizer.ggml.pre", &pre);
    for (size_t i = 0; i < sizeof pre_types / sizeof *pre_types; i++) {
        const pre_type *type = &pre_types[i];
        if (strlen(type->name) != pre.bytes || memcmp(type->name, pre.text, pre.bytes) != 0) {
            continue;
        }
        phi_status status = PHI_OK;
        for (size_t p = 0; status == PHI_OK && p < 4 && type->patterns[p]; p++) {
            status =
                phi_tokenizer_add_split(tokenizer, type->patterns[p], "tokenizer.ggml.pre", err);
        }
        return status;
    }
    return phi_fail(
        err, PHI_E_UNSUPPORTED,
        "%s: tokenizer.ggml.pre \"%.40s\" is not supported (gpt-2, phi-2, dbrx, gpt-4o, starcoder "
        "and default are)",
        tokenizer->label, pre.text);
}

static phi_status load_merge(phi_tokenizer *tokenizer, const phi_gguf_string *merge, uint64_t rank,
                             phi_err *err)
{
    const char *space = memchr(merge->text, ' ', merge->bytes);
    size_t left_bytes = space ? (size_t)(space - merge->text) : 0;
    int32_t left = -1;
    int32_t right = -1;
    if (space) {
        left = phi_vocab_find_in_model(&tokenizer->vocab, merge->text, left_bytes);
        right =
            phi_vocab_find_in_model(&tokenizer->vocab, space + 1, merge->bytes - left_bytes - 1);
    }
    if (left < 0 || right < 0) {
        return phi_fail(err, PHI_E_FORMAT,
                        "%s: tokenizer.ggml.merges[%llu] \"%.40s\" is not two pieces of the "
                        "vocabulary",
                        tokenizer->label, (unsigned long long)rank, merge->text);
    }
    return phi_bpe_add(&tokenizer->bpe, left, right, (uint32_t)rank, err);
}

static phi_status load_bpe(phi_tokenizer *tokenizer, const phi_gguf *gguf, phi_err *err)
{
    const phi_gguf_value *merges = find_array(gguf, "tokenizer.ggml.merges", true);
    if (!merges) {
        return phi_fail(err, PHI_E_FORMAT, "%s: tokenizer.ggml.merges is not a list of strings",
                        tokenizer->label);
    }
    phi_status status =
        phi_bpe_init(&tokenizer->bpe, &tokenizer->vocab, (size_t)merges->count, err);
    for (uint64_t i = 0; status == PHI_OK && i < merges->count; i++) {
        status = load_merge(tokenizer, &merges->as.strings[i], i, err);
    }
    tokenizer->bpe.byte_level = true;
    tokenizer->decoder = (phi_decoder){.byte_level = true};
    return status == PHI_OK ? load_pre(tokenizer, gguf, err) : status;
}

/* ---------------------------------------------------------------------------------- opening ----
 */

static phi_status token_id(const phi_tokenizer *tokenizer, const phi_gguf *gguf, const char *key,
                           int32_t *out_id, phi_err *err)
{
    uint32_t id = 0;
    if (!phi_gguf_get_u32(gguf, key, &id)) {
        return PHI_OK;
    }
    /* Before the vocabulary is there (the unknown token's id), any id of the right size will do. */
    if (id >= PHI_LIMIT_VOCAB || (tokenizer->vocab.size && !phi_vocab_at(&tokenizer->vocab, id))) {
        return phi_fail(err, PHI_E_FORMAT, "%s: %s is %u, which is no token", tokenizer->label, key,
                        id);
    }
    *out_id = (int32_t)id;
    return PHI_OK;
}

/* Keys that hold whatever kind of vocabulary the file has. */
static phi_status apply_keys(phi_tokenizer *tokenizer, const phi_gguf *gguf, bool adds_bos,
                             phi_err *err)
{
    phi_status status =
        token_id(tokenizer, gguf, "tokenizer.ggml.bos_token_id", &tokenizer->bos_id, err);
    if (status == PHI_OK) {
        status = token_id(tokenizer, gguf, "tokenizer.ggml.eos_token_id", &tokenizer->eos_id, err);
    }
    if (status == PHI_OK) {
        status =
            token_id(tokenizer, gguf, "tokenizer.ggml.padding_token_id", &tokenizer->pad_id, err);
    }
    if (status != PHI_OK) {
        return status;
    }
    (void)phi_gguf_get_bool(gguf, "tokenizer.ggml.add_bos_token", &adds_bos);
    if (adds_bos != tokenizer->adds_bos || (adds_bos && tokenizer->prefix_count == 0)) {
        tokenizer->adds_bos = adds_bos && tokenizer->bos_id >= 0;
        tokenizer->prefix[0] = tokenizer->bos_id;
        tokenizer->prefix_count = tokenizer->adds_bos;
    }
    phi_gguf_string chat;
    if (phi_gguf_get_string(gguf, "tokenizer.chat_template", &chat)) {
        if (chat.bytes > PHI_LIMIT_TEMPLATE_BYTES) {
            return phi_fail(err, PHI_E_LIMIT, "%s: tokenizer.chat_template is longer than %u bytes",
                            tokenizer->label, PHI_LIMIT_TEMPLATE_BYTES);
        }
        phi_free(tokenizer->chat_template);
        tokenizer->chat_template = phi_strndup(chat.text, chat.bytes);
    }
    return PHI_OK;
}

static phi_status load_arrays(phi_tokenizer *tokenizer, const phi_gguf *gguf, phi_err *err)
{
    phi_gguf_string model = {.text = "", .bytes = 0};
    (void)phi_gguf_get_string(gguf, "tokenizer.ggml.model", &model);
    bool spm = model.bytes == 5 && memcmp(model.text, "llama", 5) == 0;
    bool bpe = model.bytes == 4 && memcmp(model.text, "gpt2", 4) == 0;
    if (!spm && !bpe) {
        return phi_fail(err, PHI_E_UNSUPPORTED,
                        "%s: tokenizer.ggml.model \"%.40s\" is not supported (llama and gpt2 are)",
                        tokenizer->label, model.text);
    }
    tokenizer->unk_id = spm ? 0 : -1;
    phi_status status =
        token_id(tokenizer, gguf, "tokenizer.ggml.unknown_token_id", &tokenizer->unk_id, err);
    if (status == PHI_OK) {
        status = load_tokens(tokenizer, gguf, err);
    }
    if (status == PHI_OK && !phi_vocab_at(&tokenizer->vocab, tokenizer->unk_id)) {
        tokenizer->unk_id = -1;
    }
    if (status == PHI_OK) {
        status = spm ? load_spm(tokenizer, gguf, err) : load_bpe(tokenizer, gguf, err);
    }
    if (status == PHI_OK) {
        status = phi_bpe_finish(&tokenizer->bpe, err);
    }
    if (status == PHI_OK) {
        status = load_added(tokenizer, gguf, err);
    }
    return status == PHI_OK ? apply_keys(tokenizer, gguf, spm, err) : status;
}

phi_status phi_tokenizer_open_gguf(const phi_gguf *gguf, phi_tokenizer **out_tokenizer,
                                   phi_err *err)
{
    const char *label = phi_path_label(phi_gguf_file(gguf)->path);
    phi_gguf_string json;
    phi_tokenizer *tokenizer = NULL;
    phi_status status = PHI_OK;
    if (phi_gguf_get_string(gguf, "tokenizer.huggingface.json", &json)) {
        if (json.bytes > PHI_LIMIT_TOKENIZER_JSON_BYTES) {
            return phi_fail(err, PHI_E_LIMIT,
                            "%s: tokenizer.huggingface.json is longer than %u bytes", label,
                            PHI_LIMIT_TOKENIZER_JSON_BYTES);
        }
        char *where = phi_strfmt("%s: tokenizer.huggingface.json", label);
        status = phi_tokenizer_load_json(json.text, json.bytes, NULL, where, &tokenizer, err);
        phi_free(where);
        if (status == PHI_OK) {
            status = apply_keys(tokenizer, gguf, tokenizer->adds_bos, err);
        }
    } else {
        tokenizer = phi_tokenizer_create_empty(label);
        status = load_arrays(tokenizer, gguf, err);
    }
    if (status != PHI_OK) {
        phi_tokenizer_destroy(tokenizer);
        return status;
    }
    *out_tokenizer = tokenizer;
    return PHI_OK;
}
