/*
 * tokenizer.json of a vocabulary that came as a GGUF's arrays: what Hugging Face's library needs to
 * give the ids that this tokenizer gives. A tokenizer that was read from a tokenizer.json is never
 * rebuilt: its text is kept.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "engine/tokenizer/tokenizer_internal.h"

/* What each id is in the file. */
typedef struct listing {
    const phi_tokenizer *tokenizer;
    phi_added_entry *added; /* [size]; content NULL: no added token */
    bool *in_vocab;         /* [size] */
} listing;

static void listing_done(listing *list)
{
    phi_free(list->added);
    phi_free(list->in_vocab);
}

static void take_set(listing *list, const phi_added_set *set, bool normalized)
{
    for (size_t i = 0; i < set->count; i++) {
        const phi_added_token *token = &set->tokens[i];
        const phi_token *known = phi_vocab_at(&list->tokenizer->vocab, token->id);
        PHI_ASSERT(known);
        list->added[token->id] = (phi_added_entry){.id = token->id,
                                                   .content = (char *)(uintptr_t)known->piece,
                                                   .single_word = token->single_word,
                                                   .lstrip = token->lstrip,
                                                   .rstrip = token->rstrip,
                                                   .normalized = normalized,
                                                   .special = known->kind == PHI_TOKEN_CONTROL};
    }
}

/*
 * The library numbers added tokens that are not in the vocabulary on from its end, whatever the
 * file says. So they are left out of it where that gives their ids, as in published files, and
 * listed in it where there are gaps.
 */
static void place_added(listing *list)
{
    const phi_vocab *vocab = &list->tokenizer->vocab;
    uint32_t last = 0;
    uint32_t count = 0;
    for (uint32_t id = 0; id < vocab->size; id++) {
        const phi_token *token = phi_vocab_at(vocab, id);
        bool plain = token && token->kind != PHI_TOKEN_UNUSED && !list->added[id].content;
        list->in_vocab[id] = plain;
        last = plain ? id : last;
        count += plain;
    }
    for (uint32_t id = 0; id < last; id++) {
        bool inside = list->added[id].content && !list->in_vocab[id];
        list->in_vocab[id] = list->in_vocab[id] || inside;
        count += inside;
    }
    bool gaps = false;
    for (uint32_t id = last; id < vocab->size; id++) {
        bool behind = list->added[id].content && !list->in_vocab[id];
        gaps = gaps || (behind && id != count);
        count += behind;
    }
    for (uint32_t id = last; id < vocab->size && gaps; id++) {
        list->in_vocab[id] = list->in_vocab[id] || list->added[id].content;
    }
}

static phi_status listing_make(listing *list, phi_err *err)
{
    uint32_t size = list->tokenizer->vocab.size;
    list->added = phi_try_alloc_zero((size_t)size + 1, sizeof *list->added);
    list->in_vocab = phi_try_alloc_zero((size_t)size + 1, sizeof *list->in_vocab);
    if (!list->added || !list->in_vocab) {
        return phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for tokenizer.json");
    }
    take_set(list, &list->tokenizer->added, false);
    take_set(list, &list->tokenizer->added_normalized, true);
    place_added(list);
    return PHI_OK;
}

/* ---- added tokens and model ---- */

static json_t *flags_of(const phi_added_entry *entry)
{
    return json_pack("{s:s, s:b, s:b, s:b, s:b, s:b}", "content", entry->content, "single_word",
                     entry->single_word, "lstrip", entry->lstrip, "rstrip", entry->rstrip,
                     "normalized", entry->normalized, "special", entry->special);
}

static json_t *added_tokens(const listing *list)
{
    json_t *tokens = json_array();
    for (uint32_t id = 0; id < list->tokenizer->vocab.size; id++) {
        if (list->added[id].content) {
            json_t *token = json_pack("{s:I}", "id", (json_int_t)id);
            json_t *flags = flags_of(&list->added[id]);
            (void)json_object_update(token, flags);
            json_decref(flags);
            (void)json_array_append_new(tokens, token);
        }
    }
    return tokens;
}

static json_t *vocab_of(const listing *list)
{
    const phi_vocab *vocab = &list->tokenizer->vocab;
    json_t *pieces = json_object();
    for (uint32_t id = 0; id < vocab->size; id++) {
        if (list->in_vocab[id]) {
            (void)json_object_set_new(pieces, vocab->tokens[id].piece, json_integer(id));
        }
    }
    return pieces;
}

/*
 * By rank. Splits of one piece of a scored vocabulary share a rank, and so do pieces of one score;
 * both then go by id, as transformers' converter orders them.
 */
static int by_rank(const void *a, const void *b)
{
    const phi_bpe_merge *x = a;
    const phi_bpe_merge *y = b;
    if (x->rank != y->rank) {
        return x->rank < y->rank ? -1 : 1;
    }
    if (x->result != y->result) {
        return x->result < y->result ? -1 : 1;
    }
    if (x->left != y->left) {
        return x->left < y->left ? -1 : 1;
    }
    return x->right < y->right ? -1 : x->right > y->right;
}

/* NULL when there is no memory. */
static phi_bpe_merge *sort_merges(const phi_bpe *bpe)
{
    phi_bpe_merge *merges = phi_try_alloc((bpe->count + 1) * sizeof *merges);
    size_t count = 0;
    for (size_t i = 0; merges && i <= bpe->mask; i++) {
        if (bpe->merges[i].left >= 0) {
            merges[count++] = bpe->merges[i];
        }
    }
    if (merges) {
        PHI_ASSERT(count == bpe->count);
        qsort(merges, count, sizeof *merges, by_rank);
    }
    return merges;
}

/* The older form, "a b", which every reader knows, unless a piece has a space of its own. */
static phi_status merges_of(const phi_tokenizer *tokenizer, json_t **out_list, phi_err *err)
{
    const phi_token *tokens = tokenizer->vocab.tokens;
    size_t count = tokenizer->bpe.count;
    phi_bpe_merge *merges = sort_merges(&tokenizer->bpe);
    if (!merges) {
        return phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for %zu merges", count);
    }
    bool spaces = false;
    for (size_t i = 0; i < count && !spaces; i++) {
        spaces =
            strchr(tokens[merges[i].left].piece, ' ') || strchr(tokens[merges[i].right].piece, ' ');
    }
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++) {
        const char *left = tokens[merges[i].left].piece;
        const char *right = tokens[merges[i].right].piece;
        (void)json_array_append_new(list, spaces ? json_pack("[s, s]", left, right)
                                                 : json_sprintf("%s %s", left, right));
    }
    phi_free(merges);
    *out_list = list;
    return PHI_OK;
}

static phi_status model_of(const listing *list, json_t **out_model, phi_err *err)
{
    const phi_tokenizer *tokenizer = list->tokenizer;
    const phi_bpe *bpe = &tokenizer->bpe;
    const phi_token *unknown = phi_vocab_at(&tokenizer->vocab, bpe->unk_id);
    json_t *merges = NULL;
    phi_status status = merges_of(tokenizer, &merges, err);
    if (status) {
        return status;
    }
    *out_model = json_pack("{s:s, s:n, s:s?, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE",
                           "dropout", "unk_token", unknown ? unknown->piece : NULL,
                           "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
                           bpe->fuse_unk, "byte_fallback", bpe->byte_fallback, "ignore_merges",
                           bpe->ignore_merges, "vocab", vocab_of(list), "merges", merges);
    return PHI_OK;
}

/* ---- what happens to text before and after ---- */

/* One alone, several in a "Sequence", none as null. */
static json_t *one_or_sequence(json_t *parts, const char *members)
{
    json_t *made = json_null();
    if (json_array_size(parts) == 1) {
        made = json_incref(json_array_get(parts, 0));
    } else if (json_array_size(parts) > 1) {
        made = json_pack("{s:s, s:O}", "type", "Sequence", members, parts);
    }
    json_decref(parts);
    return made;
}

static json_t *normalizer_of(const phi_normalizer *normalizer)
{
    json_t *parts = json_array();
    for (size_t i = 0; i < normalizer->count; i++) {
        const phi_normalize_step *step = &normalizer->steps[i];
        (void)json_array_append_new(
            parts, step->find ? json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern",
                                          "String", step->find, "content", step->put)
                              : json_pack("{s:s, s:s}", "type", "Prepend", "prepend", step->put));
    }
    return one_or_sequence(parts, "normalizers");
}

static json_t *byte_level(bool prefix, bool trims, bool splits)
{
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", prefix,
                     "trim_offsets", trims, "use_regex", splits);
}

/* GPT-2's pattern as the last is ByteLevel's own. */
static json_t *pre_tokenizer_of(const phi_tokenizer *tokenizer)
{
    const phi_pretokenizer *pre = &tokenizer->pretokenizer;
    json_t *parts = json_array();
    bool own = false;
    for (size_t i = 0; i < pre->count; i++) {
        const phi_pretokenize_step *step = &pre->steps[i];
        PHI_ASSERT(step->kind == PHI_PRETOKENIZE_ISOLATE && step->pattern);
        const char *pattern = phi_pattern_source(step->pattern);
        own = i + 1 == pre->count && strcmp(pattern, PHI_PATTERN_GPT2) == 0;
        if (!own) {
            (void)json_array_append_new(parts, json_pack("{s:s, s:{s:s}, s:s, s:b}", "type",
                                                         "Split", "pattern", "Regex", pattern,
                                                         "behavior", "Isolated", "invert", 0));
        }
    }
    if (tokenizer->bpe.byte_level) {
        (void)json_array_append_new(parts, byte_level(false, true, own));
    }
    return one_or_sequence(parts, "pretokenizers");
}

static json_t *template_of(const char *bos, int32_t id)
{
    const char *token = "SpecialToken";
    const char *text = "Sequence";
    return json_pack("{s:s, s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}],"
                     " s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}, {s:{s:s, s:i}}, {s:{s:s, s:i}}],"
                     " s:{s:{s:s, s:[i], s:[s]}}}",
                     "type", "TemplateProcessing", "single", token, "id", bos, "type_id", 0, text,
                     "id", "A", "type_id", 0, "pair", token, "id", bos, "type_id", 0, text, "id",
                     "A", "type_id", 0, token, "id", bos, "type_id", 1, text, "id", "B", "type_id",
                     1, "special_tokens", bos, "id", bos, "ids", (int)id, "tokens", bos);
}

static json_t *post_processor_of(const phi_tokenizer *tokenizer)
{
    json_t *parts = json_array();
    if (tokenizer->bpe.byte_level) {
        (void)json_array_append_new(parts, byte_level(true, false, true));
    }
    const phi_token *bos = phi_vocab_at(&tokenizer->vocab, tokenizer->bos_id);
    if (tokenizer->adds_bos && bos) {
        (void)json_array_append_new(parts, template_of(bos->piece, tokenizer->bos_id));
    }
    return one_or_sequence(parts, "processors");
}

static json_t *decoder_of(const phi_tokenizer *tokenizer)
{
    const phi_decoder *decoder = &tokenizer->decoder;
    if (decoder->byte_level) {
        return byte_level(true, true, true);
    }
    json_t *parts =
        json_pack("[{s:s, s:{s:s}, s:s}, {s:s}, {s:s}]", "type", "Replace", "pattern", "String",
                  PHI_METASPACE, "content", " ", "type", "ByteFallback", "type", "Fuse");
    if (decoder->strip_start) {
        (void)json_array_append_new(parts, json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip",
                                                     "content", " ", "start", 1, "stop", 0));
    }
    return json_pack("{s:s, s:o}", "type", "Sequence", "decoders", parts);
}

phi_status phi_tokenizer_make_json(const phi_tokenizer *tokenizer, json_t **out_json, phi_err *err)
{
    listing list = {.tokenizer = tokenizer};
    json_t *model = NULL;
    phi_status status = listing_make(&list, err);
    status = status ? status : model_of(&list, &model, err);
    if (!status) {
        *out_json =
            json_pack("{s:s, s:n, s:n, s:o, s:o, s:o, s:o, s:o, s:o}", "version", "1.0",
                      "truncation", "padding", "added_tokens", added_tokens(&list), "normalizer",
                      normalizer_of(&tokenizer->normalizer), "pre_tokenizer",
                      pre_tokenizer_of(tokenizer), "post_processor", post_processor_of(tokenizer),
                      "decoder", decoder_of(tokenizer), "model", model);
        if (!*out_json) {
            status = phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for tokenizer.json");
        }
    }
    listing_done(&list);
    return status;
}

phi_status phi_tokenizer_make_added(const phi_tokenizer *tokenizer, json_t **out_json, phi_err *err)
{
    listing list = {.tokenizer = tokenizer};
    phi_status status = listing_make(&list, err);
    if (!status) {
        json_t *tokens = json_object();
        for (uint32_t id = 0; id < tokenizer->vocab.size; id++) {
            char key[16];
            (void)snprintf(key, sizeof key, "%" PRIu32, id);
            if (list.added[id].content) {
                (void)json_object_set_new(tokens, key, flags_of(&list.added[id]));
            }
        }
        *out_json = tokens;
    }
    listing_done(&list);
    return status;
}
