/* The tokenizer's files of a Hugging Face folder. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"
#include "config/limits.h"
#include "engine/formats/hf_folder.h"
#include "engine/formats/protobuf_write.h"
#include "engine/tokenizer/tokenizer_internal.h"

static phi_status write_bytes(const char *dir, const char *name, const void *data, size_t bytes,
                              phi_err *err)
{
    char *path = phi_strfmt("%s/%s", dir, name);
    phi_file_writer *file = NULL;
    phi_status status = phi_file_writer_create(path, &file, err);
    phi_free(path);
    if (status) {
        return status;
    }
    status = phi_file_writer_append(file, data, bytes, err);
    if (status) {
        phi_file_writer_abort(file);
        return status;
    }
    return phi_file_writer_commit(file, err);
}

/* ---- JSON ---- */

static phi_status write_tokenizer_json(const phi_tokenizer *tokenizer, const char *dir,
                                       phi_err *err)
{
    if (tokenizer->json) {
        return write_bytes(dir, "tokenizer.json", tokenizer->json, tokenizer->json_bytes, err);
    }
    json_t *json = NULL;
    phi_status status = phi_tokenizer_make_json(tokenizer, &json, err);
    status = status ? status : phi_hf_folder_write_json(json, dir, "tokenizer.json", err);
    json_decref(json);
    return status;
}

static void set_token(const phi_tokenizer *tokenizer, json_t *object, const char *key, int32_t id)
{
    const phi_token *token = phi_vocab_at(&tokenizer->vocab, id);
    if (token) {
        (void)json_object_set_new(object, key, json_string(token->piece));
    }
}

static void set_tokens(const phi_tokenizer *tokenizer, json_t *object)
{
    set_token(tokenizer, object, "bos_token", tokenizer->bos_id);
    set_token(tokenizer, object, "eos_token", tokenizer->eos_id);
    set_token(tokenizer, object, "pad_token", tokenizer->pad_id);
    set_token(tokenizer, object, "unk_token", tokenizer->unk_id);
}

/* The classes are those of the published files: converters and runtimes go by them. */
static phi_status write_config(const phi_tokenizer *tokenizer, uint32_t n_ctx, const char *dir,
                               phi_err *err)
{
    json_t *added = NULL;
    phi_status status = phi_tokenizer_make_added(tokenizer, &added, err);
    if (status) {
        return status;
    }
    json_t *config =
        json_pack("{s:b, s:b, s:o, s:b, s:I, s:s}", "add_bos_token", tokenizer->adds_bos,
                  "add_eos_token", 0, "added_tokens_decoder", added, "clean_up_tokenization_spaces",
                  0, "model_max_length", (json_int_t)n_ctx, "tokenizer_class",
                  tokenizer->bpe.byte_level ? "GPT2Tokenizer" : "LlamaTokenizer");
    set_tokens(tokenizer, config);
    if (tokenizer->bpe.byte_level) {
        (void)json_object_set_new(config, "add_prefix_space", json_false());
    } else {
        (void)json_object_set_new(config, "legacy", json_false());
    }
    if (tokenizer->chat_template) {
        (void)json_object_set_new(config, "chat_template", json_string(tokenizer->chat_template));
    }
    status = phi_hf_folder_write_json(config, dir, "tokenizer_config.json", err);
    json_decref(config);
    return status;
}

static phi_status write_special(const phi_tokenizer *tokenizer, const char *dir, phi_err *err)
{
    json_t *map = json_object();
    set_tokens(tokenizer, map);
    phi_status status = phi_hf_folder_write_json(map, dir, "special_tokens_map.json", err);
    json_decref(map);
    return status;
}

/* ---- tokenizer.model: fields of sentencepiece_model.proto ---- */

enum { PIECES = 1, TRAINER = 2, NORMALIZER = 3 };
enum { PIECE = 1, SCORE = 2, TYPE = 3 };
enum {
    MODEL_TYPE = 3,
    VOCAB_SIZE = 4,
    BYTE_FALLBACK = 35,
    UNK_ID = 40,
    BOS_ID = 41,
    EOS_ID = 42,
    PAD_ID = 43,
    UNK_PIECE = 45,
    BOS_PIECE = 46,
    EOS_PIECE = 47,
};
enum { NAME = 1, ADD_DUMMY_PREFIX = 3, REMOVE_EXTRA_WHITESPACES = 4, ESCAPE_WHITESPACES = 5 };
#define MODEL_TYPE_BPE 2

/* The pieces that training made: what was added later has ids behind them. */
static uint32_t trained_pieces(const phi_vocab *vocab)
{
    uint32_t count = 0;
    for (uint32_t id = 0; id < vocab->size; id++) {
        const phi_token *token = phi_vocab_at(vocab, id);
        bool trained = token && (token->kind == PHI_TOKEN_NORMAL || token->kind == PHI_TOKEN_BYTE);
        count = trained ? id + 1 : count;
    }
    return count;
}

/* The marks of a text's ends are control pieces, however a GGUF shows them. */
static int32_t piece_type(const phi_tokenizer *tokenizer, const phi_token *token, uint32_t id)
{
    if ((int64_t)id == tokenizer->unk_id) {
        return PHI_TOKEN_UNKNOWN;
    }
    if (strcmp(token->piece, "<s>") == 0 || strcmp(token->piece, "</s>") == 0) {
        return PHI_TOKEN_CONTROL;
    }
    return token->kind;
}

static void put_piece(phi_buf *model, const char *text, float score, int32_t type)
{
    phi_buf piece;
    phi_buf_init(&piece, PHI_LIMIT_PIECE_BYTES + 64);
    phi_proto_put_text(&piece, PIECE, text);
    phi_proto_put_float(&piece, SCORE, score);
    if (type != PHI_TOKEN_NORMAL) {
        phi_proto_put_number(&piece, TYPE, type);
    }
    phi_proto_put_message(model, PIECES, &piece);
}

static void put_trainer(const phi_tokenizer *tokenizer, uint32_t count, phi_buf *model)
{
    const phi_vocab *vocab = &tokenizer->vocab;
    int32_t bos = phi_vocab_find(vocab, "<s>", 3);
    int32_t eos = phi_vocab_find(vocab, "</s>", 4);
    phi_buf trainer;
    phi_buf_init(&trainer, PHI_LIMIT_PIECE_BYTES + 256);
    phi_proto_put_number(&trainer, MODEL_TYPE, MODEL_TYPE_BPE);
    phi_proto_put_number(&trainer, VOCAB_SIZE, count);
    phi_proto_put_number(&trainer, BYTE_FALLBACK, 1);
    phi_proto_put_number(&trainer, UNK_ID, tokenizer->unk_id);
    phi_proto_put_number(&trainer, BOS_ID, bos < (int32_t)count ? bos : -1);
    phi_proto_put_number(&trainer, EOS_ID, eos < (int32_t)count ? eos : -1);
    phi_proto_put_number(&trainer, PAD_ID, -1);
    phi_proto_put_text(&trainer, UNK_PIECE, vocab->tokens[tokenizer->unk_id].piece);
    phi_proto_put_text(&trainer, BOS_PIECE, "<s>");
    phi_proto_put_text(&trainer, EOS_PIECE, "</s>");
    phi_proto_put_message(model, TRAINER, &trainer);
}

static void put_normalizer(const phi_tokenizer *tokenizer, phi_buf *model)
{
    phi_buf normalizer;
    phi_buf_init(&normalizer, 256);
    phi_proto_put_text(&normalizer, NAME, "identity");
    phi_proto_put_number(&normalizer, ADD_DUMMY_PREFIX,
                         tokenizer->decoder.strip_start || tokenizer->decoder.drop_first);
    phi_proto_put_number(&normalizer, REMOVE_EXTRA_WHITESPACES, 0);
    phi_proto_put_number(&normalizer, ESCAPE_WHITESPACES, 1);
    phi_proto_put_message(model, NORMALIZER, &normalizer);
}

static void put_pieces(const phi_tokenizer *tokenizer, uint32_t count, const float *scores,
                       const int32_t *types, phi_buf *model)
{
    for (uint32_t id = 0; id < count; id++) {
        const phi_token *token = phi_vocab_at(&tokenizer->vocab, id);
        char name[24];
        (void)snprintf(name, sizeof name, "[PAD%" PRIu32 "]", id);
        put_piece(model, token ? token->piece : name, scores[id], types[id]);
    }
}

static phi_status write_model(const phi_tokenizer *tokenizer, const char *dir, phi_err *err)
{
    uint32_t size = tokenizer->vocab.size;
    uint32_t count = trained_pieces(&tokenizer->vocab);
    int32_t *types = phi_try_alloc(((size_t)size + 1) * sizeof *types);
    float *scores = phi_try_alloc_zero((size_t)size + 1, sizeof *scores);
    phi_buf model;
    phi_buf_init(&model, PHI_LIMIT_TOKENIZER_JSON_BYTES);
    phi_status status =
        types && scores ? PHI_OK
                        : phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for %u pieces", size);
    for (uint32_t id = 0; id < size && !status; id++) {
        const phi_token *token = phi_vocab_at(&tokenizer->vocab, id);
        types[id] = token ? piece_type(tokenizer, token, id) : PHI_TOKEN_UNUSED;
    }
    status = status ? status : phi_tokenizer_scores(tokenizer, types, size, scores, err);
    if (!status) {
        put_pieces(tokenizer, count, scores, types, &model);
        put_trainer(tokenizer, count, &model);
        put_normalizer(tokenizer, &model);
        status = phi_buf_failed(&model)
                     ? phi_fail(err, model.failed, "tokenizer.model: its pieces are too long")
                     : write_bytes(dir, "tokenizer.model", model.data, model.length_bytes, err);
    }
    phi_buf_done(&model);
    phi_free(types);
    phi_free(scores);
    return status;
}

/* SentencePiece wants an unknown piece among its own, and all bytes where it falls back on them. */
static bool is_sentencepiece(const phi_tokenizer *tokenizer)
{
    const phi_bpe *bpe = &tokenizer->bpe;
    return !bpe->byte_level && bpe->byte_fallback && bpe->all_bytes && tokenizer->unk_id >= 0 &&
           (uint32_t)tokenizer->unk_id < trained_pieces(&tokenizer->vocab);
}

phi_status phi_tokenizer_write_folder(const phi_tokenizer *tokenizer, uint32_t n_ctx,
                                      const char *dir, phi_err *err)
{
    phi_status status = write_tokenizer_json(tokenizer, dir, err);
    status = status ? status : write_config(tokenizer, n_ctx, dir, err);
    status = status ? status : write_special(tokenizer, dir, err);
    if (!status && is_sentencepiece(tokenizer)) {
        status = write_model(tokenizer, dir, err);
    }
    return status;
}
