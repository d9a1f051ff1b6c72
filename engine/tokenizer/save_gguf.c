#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "engine/tokenizer/tokenizer_internal.h"

/* "[PAD1048575]" and its NUL. */
#define PADDING_BYTES 16

/* The arrays as they go into the file, one entry for each row of the model's vocabulary. */
typedef struct export
{
    const phi_tokenizer *tokenizer;
    uint32_t count;
    phi_gguf_string *pieces;
    int32_t *types;
    float *scores;
    char *padding; /* [count][PADDING_BYTES] */
}
export;

static void export_done(export *out)
{
    phi_free(out->pieces);
    phi_free(out->types);
    phi_free(out->scores);
    phi_free(out->padding);
}

static bool looks_special(const phi_token *token)
{
    return phi_str_starts(token->piece, "<|") && phi_str_ends(token->piece, "|>");
}

static int32_t type_of(const phi_tokenizer *tokenizer, const phi_token *token)
{
    if (!token || token->kind == PHI_TOKEN_UNUSED) {
        return PHI_TOKEN_UNUSED;
    }
    /* llama.cpp shows user-defined tokens in answers; what looks like a tag is control to it. */
    if (token->kind == PHI_TOKEN_USER_DEFINED && looks_special(token)) {
        return PHI_TOKEN_CONTROL;
    }
    if (token->kind == PHI_TOKEN_BYTE && tokenizer->bpe.byte_level) {
        return PHI_TOKEN_NORMAL;
    }
    return token->kind;
}

static phi_status fill(export *out, phi_err *err)
{
    const phi_tokenizer *tokenizer = out->tokenizer;
    out->pieces = phi_try_alloc_zero(out->count, sizeof *out->pieces);
    out->types = phi_try_alloc_zero(out->count, sizeof *out->types);
    out->scores = phi_try_alloc_zero(out->count, sizeof *out->scores);
    out->padding = phi_try_alloc_zero(out->count, PADDING_BYTES);
    if (!out->pieces || !out->types || !out->scores || !out->padding) {
        return phi_fail(err, PHI_E_NO_MEMORY, "not enough memory to write %u tokens", out->count);
    }
    for (uint32_t id = 0; id < out->count; id++) {
        const phi_token *token = phi_vocab_at(&tokenizer->vocab, id);
        out->types[id] = type_of(tokenizer, token);
        if (token) {
            out->pieces[id] = (phi_gguf_string){.text = token->piece, .bytes = token->bytes};
        } else {
            char *name = out->padding + (size_t)id * PADDING_BYTES;
            int length = snprintf(name, PADDING_BYTES, "[PAD%" PRIu32 "]", id);
            out->pieces[id] = (phi_gguf_string){.text = name, .bytes = (size_t)length};
        }
    }
    return PHI_OK;
}

/* ---------------------------------------------------------------------------------- merges ---- */

static phi_status put_merges(const phi_tokenizer *tokenizer, phi_gguf_writer *writer, phi_err *err)
{
    const phi_bpe *bpe = &tokenizer->bpe;
    const phi_token *tokens = tokenizer->vocab.tokens;
    size_t bytes = 1;
    for (size_t i = 0; i < 2 * bpe->order_count; i++) {
        bytes += tokens[bpe->order[i]].bytes + 1;
    }
    char *text = phi_try_alloc(bytes);
    phi_gguf_string *merges = phi_try_alloc((bpe->order_count + 1) * sizeof *merges);
    if (!text || !merges) {
        phi_free(text);
        phi_free(merges);
        return phi_fail(err, PHI_E_NO_MEMORY, "not enough memory to write %zu merges",
                        bpe->order_count);
    }
    char *at = text;
    for (size_t i = 0; i < bpe->order_count; i++) {
        const phi_token *left = &tokens[bpe->order[2 * i]];
        const phi_token *right = &tokens[bpe->order[2 * i + 1]];
        merges[i] = (phi_gguf_string){.text = at, .bytes = (size_t)left->bytes + 1 + right->bytes};
        memcpy(at, left->piece, left->bytes);
        at[left->bytes] = ' ';
        memcpy(at + left->bytes + 1, right->piece, right->bytes);
        at += merges[i].bytes;
        *at++ = '\0';
    }
    phi_gguf_put_strings(writer, "tokenizer.ggml.merges", merges, bpe->order_count);
    phi_free(text);
    phi_free(merges);
    return PHI_OK;
}

static bool splits_by(const phi_pretokenizer *pretokenizer, size_t step, const char *pattern)
{
    return step < pretokenizer->count && pretokenizer->steps[step].pattern &&
           strcmp(phi_pattern_source(pretokenizer->steps[step].pattern), pattern) == 0;
}

/*
 * llama.cpp's name for this way of splitting. One that it has no name for is called "custom", so
 * that it refuses the file instead of splitting in another way.
 */
static const char *pre_name(const phi_tokenizer *tokenizer)
{
    const phi_pretokenizer *pre = &tokenizer->pretokenizer;
    if (pre->count == 1) {
        if (splits_by(pre, 0, PHI_PATTERN_GPT2)) {
            return "gpt-2";
        }
        if (splits_by(pre, 0, PHI_PATTERN_CL100K)) {
            return "dbrx";
        }
        if (splits_by(pre, 0, PHI_PATTERN_O200K)) {
            return "gpt-4o";
        }
    }
    if (pre->count == 2 && splits_by(pre, 0, "\\p{N}") && splits_by(pre, 1, PHI_PATTERN_GPT2)) {
        return "starcoder";
    }
    return "custom";
}

/* ----------------------------------------------------------------------------------- whole ---- */

static bool prefixes_space(const phi_tokenizer *tokenizer)
{
    for (size_t i = 0; i < tokenizer->normalizer.count; i++) {
        if (!tokenizer->normalizer.steps[i].find) {
            return true;
        }
    }
    for (size_t i = 0; i < tokenizer->pretokenizer.count; i++) {
        const phi_pretokenize_step *step = &tokenizer->pretokenizer.steps[i];
        if (step->kind == PHI_PRETOKENIZE_PREFIX_SPACE ||
            (step->kind == PHI_PRETOKENIZE_METASPACE && step->scheme != PHI_METASPACE_NEVER)) {
            return true;
        }
    }
    return false;
}

static void put_id(phi_gguf_writer *writer, const char *key, int32_t id)
{
    if (id >= 0) {
        phi_gguf_put_u32(writer, key, (uint32_t)id);
    }
}

static void put_settings(const phi_tokenizer *tokenizer, phi_gguf_writer *writer)
{
    put_id(writer, "tokenizer.ggml.bos_token_id", tokenizer->bos_id);
    put_id(writer, "tokenizer.ggml.eos_token_id", tokenizer->eos_id);
    put_id(writer, "tokenizer.ggml.unknown_token_id", tokenizer->unk_id);
    put_id(writer, "tokenizer.ggml.padding_token_id", tokenizer->pad_id);
    int32_t end = phi_tokenizer_find(tokenizer, "<|end|>");
    end = end >= 0 ? end : phi_tokenizer_find(tokenizer, "<|im_end|>");
    put_id(writer, "tokenizer.ggml.eot_token_id", end);
    phi_gguf_put_bool(writer, "tokenizer.ggml.add_bos_token", tokenizer->adds_bos);
    phi_gguf_put_bool(writer, "tokenizer.ggml.add_eos_token", false);
    phi_gguf_put_bool(writer, "tokenizer.ggml.add_space_prefix", prefixes_space(tokenizer));
    if (tokenizer->chat_template) {
        phi_gguf_put_string(writer, "tokenizer.chat_template", tokenizer->chat_template,
                            strlen(tokenizer->chat_template));
    }
    if (tokenizer->json) {
        phi_gguf_put_string(writer, "tokenizer.huggingface.json", tokenizer->json,
                            tokenizer->json_bytes);
    }
}

phi_status phi_tokenizer_put_gguf(const phi_tokenizer *tokenizer, uint32_t n_vocab,
                                  phi_gguf_writer *writer, phi_err *err)
{
    if (n_vocab < tokenizer->vocab.size) {
        return phi_fail(err, PHI_E_INVALID,
                        "%s: the tokenizer has ids up to %u, the model's vocabulary only %u rows",
                        tokenizer->label, tokenizer->vocab.size - 1, n_vocab);
    }
    export out = {.tokenizer = tokenizer, .count = n_vocab};
    bool spm = !tokenizer->bpe.byte_level;
    phi_status status = fill(&out, err);
    if (status == PHI_OK && spm) {
        status = phi_tokenizer_scores(tokenizer, out.types, out.count, out.scores, err);
    }
    if (status == PHI_OK) {
        const char *model = spm ? "llama" : "gpt2";
        const char *pre = spm ? "default" : pre_name(tokenizer);
        phi_gguf_put_string(writer, "tokenizer.ggml.model", model, strlen(model));
        phi_gguf_put_string(writer, "tokenizer.ggml.pre", pre, strlen(pre));
        phi_gguf_put_strings(writer, "tokenizer.ggml.tokens", out.pieces, n_vocab);
        phi_gguf_put_i32s(writer, "tokenizer.ggml.token_type", out.types, n_vocab);
        if (spm) {
            phi_gguf_put_f32s(writer, "tokenizer.ggml.scores", out.scores, n_vocab);
        } else {
            status = put_merges(tokenizer, writer, err);
        }
    }
    if (status == PHI_OK) {
        put_settings(tokenizer, writer);
    }
    export_done(&out);
    return status;
}
