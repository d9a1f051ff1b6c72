#include "engine/tokenizer/tokenizer.h"

#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "config/limits.h"
#include "engine/formats/json.h"
#include "engine/tokenizer/tokenizer_internal.h"

void phi_tokens_init(phi_tokens *tokens)
{
    *tokens = (phi_tokens){.ids = NULL};
}

void phi_tokens_done(phi_tokens *tokens)
{
    phi_free(tokens->ids);
    *tokens = (phi_tokens){.ids = NULL};
}

phi_status phi_tokens_append(phi_tokens *tokens, const int32_t *ids, size_t count)
{
    if (count > tokens->capacity - tokens->count) {
        size_t capacity = tokens->capacity * 2;
        if (capacity < tokens->count + count) {
            capacity = tokens->count + count;
        }
        if (capacity < 64) {
            capacity = 64;
        }
        int32_t *moved = phi_try_realloc(tokens->ids, capacity * sizeof *moved);
        if (!moved) {
            return PHI_E_NO_MEMORY;
        }
        tokens->ids = moved;
        tokens->capacity = capacity;
    }
    if (count) {
        memcpy(tokens->ids + tokens->count, ids, count * sizeof *ids);
        tokens->count += count;
    }
    return PHI_OK;
}

/* Memory of all pieces together: a vocabulary file's own text bounds it. */
#define PIECES_BYTES_MAX ((size_t)PHI_LIMIT_GGUF_METADATA_BYTES)

phi_tokenizer *phi_tokenizer_create_empty(const char *label)
{
    phi_tokenizer *tokenizer = phi_alloc_zero(1, sizeof *tokenizer);
    tokenizer->label = phi_strdup(label);
    tokenizer->bos_id = -1;
    tokenizer->eos_id = -1;
    tokenizer->unk_id = -1;
    tokenizer->pad_id = -1;
    phi_arena_init(&tokenizer->arena, PIECES_BYTES_MAX);
    return tokenizer;
}

void phi_tokenizer_destroy(phi_tokenizer *tokenizer)
{
    if (!tokenizer) {
        return;
    }
    phi_vocab_done(&tokenizer->vocab);
    phi_bpe_done(&tokenizer->bpe);
    phi_normalizer_done(&tokenizer->normalizer);
    phi_pretokenizer_done(&tokenizer->pretokenizer);
    phi_added_done(&tokenizer->added);
    phi_added_done(&tokenizer->added_normalized);
    phi_arena_done(&tokenizer->arena);
    phi_free(tokenizer->scores);
    phi_free(tokenizer->chat_template);
    phi_free(tokenizer->json);
    phi_free(tokenizer->label);
    phi_free(tokenizer);
}

/* chat_template.jinja beside the other files takes precedence over tokenizer_config.json. */
static phi_status load_template_file(phi_tokenizer *tokenizer, const char *dir, phi_err *err)
{
    char *path = phi_strfmt("%s/chat_template.jinja", dir);
    phi_status status = PHI_OK;
    if (phi_file_exists(path)) {
        char *text = NULL;
        size_t bytes = 0;
        status = phi_file_read_text(path, PHI_LIMIT_TEMPLATE_BYTES, &text, &bytes, err);
        if (status == PHI_OK) {
            phi_free(tokenizer->chat_template);
            tokenizer->chat_template = text;
        }
    }
    phi_free(path);
    return status;
}

phi_status phi_tokenizer_open_dir(const char *dir, phi_tokenizer **out_tokenizer, phi_err *err)
{
    char *path = phi_strfmt("%s/tokenizer.json", dir);
    char *config_path = phi_strfmt("%s/tokenizer_config.json", dir);
    char *text = NULL;
    size_t bytes = 0;
    json_t *config = NULL;
    phi_tokenizer *tokenizer = NULL;
    phi_status status =
        phi_file_exists(path)
            ? phi_file_read_text(path, PHI_LIMIT_TOKENIZER_JSON_BYTES, &text, &bytes, err)
            : phi_fail(err, PHI_E_NOT_FOUND,
                       "tokenizer.json is missing; a model's folder holds config.json, "
                       "tokenizer.json and its weights");
    if (status == PHI_OK && phi_file_exists(config_path)) {
        status = phi_json_load_object(config_path, PHI_LIMIT_CONFIG_JSON_BYTES, &config, err);
    }
    if (status == PHI_OK) {
        status = phi_tokenizer_load_json(text, bytes, config, "tokenizer.json", &tokenizer, err);
    }
    if (status == PHI_OK) {
        status = load_template_file(tokenizer, dir, err);
    }
    if (status == PHI_OK) {
        *out_tokenizer = tokenizer;
    } else {
        phi_tokenizer_destroy(tokenizer);
    }
    json_decref(config);
    phi_free(text);
    phi_free(config_path);
    phi_free(path);
    return status;
}

phi_status phi_tokenizer_open(const phi_checkpoint *checkpoint, phi_tokenizer **out_tokenizer,
                              phi_err *err)
{
    const phi_gguf *gguf = phi_checkpoint_gguf(checkpoint);
    return gguf ? phi_tokenizer_open_gguf(gguf, out_tokenizer, err)
                : phi_tokenizer_open_dir(phi_checkpoint_dir(checkpoint), out_tokenizer, err);
}

uint32_t phi_tokenizer_vocab_size(const phi_tokenizer *tokenizer)
{
    return tokenizer->vocab.size;
}

int32_t phi_tokenizer_bos(const phi_tokenizer *tokenizer)
{
    return tokenizer->bos_id;
}

int32_t phi_tokenizer_eos(const phi_tokenizer *tokenizer)
{
    return tokenizer->eos_id;
}

bool phi_tokenizer_adds_bos(const phi_tokenizer *tokenizer)
{
    return tokenizer->adds_bos;
}

int32_t phi_tokenizer_find(const phi_tokenizer *tokenizer, const char *piece)
{
    return phi_vocab_find(&tokenizer->vocab, piece, strlen(piece));
}

bool phi_tokenizer_is_special(const phi_tokenizer *tokenizer, int32_t id)
{
    const phi_token *token = phi_vocab_at(&tokenizer->vocab, id);
    return token && token->kind == PHI_TOKEN_CONTROL;
}

bool phi_tokenizer_is_known(const phi_tokenizer *tokenizer, int32_t id)
{
    const phi_token *token = phi_vocab_at(&tokenizer->vocab, id);
    return token && token->kind != PHI_TOKEN_UNUSED;
}

const char *phi_tokenizer_piece(const phi_tokenizer *tokenizer, int32_t id)
{
    const phi_token *token = phi_vocab_at(&tokenizer->vocab, id);
    return token ? token->piece : NULL;
}

const char *phi_tokenizer_chat_template(const phi_tokenizer *tokenizer)
{
    return tokenizer->chat_template;
}
