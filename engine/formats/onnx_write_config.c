#include <jansson.h>
#include <string.h>

#include "base/mem.h"
#include "config/limits.h"
#include "engine/formats/hf_folder.h"
#include "engine/formats/onnx.h"
#include "engine/formats/onnx_writer.h"

phi_status phi_onnx_write_file(const phi_onnx_writer *w, const char *name, const void *data,
                               size_t bytes)
{
    phi_file_writer *file = NULL;
    char *path = phi_strfmt("%s/%s", w->dir, name);
    phi_status status = phi_file_writer_create(path, &file, w->err);
    phi_free(path);
    if (status) {
        return status;
    }
    status = phi_file_writer_append(file, data, bytes, w->err);
    if (status) {
        phi_file_writer_abort(file);
        return status;
    }
    return phi_file_writer_commit(file, w->err);
}

phi_status phi_onnx_write_json(const phi_onnx_writer *w, const char *name, json_t *root)
{
    char *text = root ? json_dumps(root, JSON_INDENT(4) | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(root);
    phi_status status = text ? phi_onnx_write_file(w, name, text, strlen(text))
                             : phi_fail(w->err, PHI_E_NO_MEMORY, "not enough memory for %s", name);
    phi_free(text);
    return status;
}

json_t *phi_onnx_eos_of(const phi_description *d)
{
    if (d->n_eos == 0) {
        return json_null();
    }
    if (d->n_eos == 1) {
        return json_integer(d->eos_ids[0]);
    }
    json_t *list = json_array();
    for (uint32_t i = 0; i < d->n_eos; i++) {
        (void)json_array_append_new(list, json_integer(d->eos_ids[i]));
    }
    return list;
}

static json_t *decoder_of(const phi_onnx_writer *w)
{
    const phi_description *d = w->export->description;
    /* LongRoPE's If rules CUDA's graphs out; the builder leaves them off by itself too. */
    json_t *providers = w->provider == PHI_ONNX_CUDA
                            ? json_pack("[{s:{s:s}}]", "cuda", "enable_cuda_graph", "0")
                            : json_array();
    return json_pack(
        "{s:{s:s, s:o}, s:s, s:I, s:I, s:{s:s, s:s, s:s, s:s}, s:{s:s, s:s, s:s}, "
        "s:I, s:I, s:I}",
        "session_options", "log_id", "onnxruntime-genai", "provider_options", providers, "filename",
        PHI_ONNX_MODEL, "head_size", (json_int_t)d->head_dim, "hidden_size", (json_int_t)d->n_embd,
        "inputs", "input_ids", "input_ids", "attention_mask", "attention_mask", "past_key_names",
        "past_key_values.%d.key", "past_value_names", "past_key_values.%d.value", "outputs",
        "logits", "logits", "present_key_names", "present.%d.key", "present_value_names",
        "present.%d.value", "num_attention_heads", (json_int_t)d->n_head, "num_hidden_layers",
        (json_int_t)d->n_layer, "num_key_value_heads", (json_int_t)d->n_head_kv);
}

json_t *phi_onnx_id_or_eos(const phi_description *d, int32_t id)
{
    int32_t other = d->n_eos > 0 ? d->eos_ids[0] : 0;
    return json_integer(id >= 0 ? id : other);
}

static phi_status write_genai_config(const phi_onnx_writer *w)
{
    const phi_description *d = w->export->description;
    json_t *eos = d->n_eos ? phi_onnx_eos_of(d) : json_array();
    json_t *root = json_pack(
        "{s:{s:s, s:I, s:I, s:o, s:o, s:o, s:o}, "
        "s:{s:b, s:b, s:I, s:I, s:I, s:I, s:I, s:b, s:f, s:f, s:f, s:f, s:I, s:f}}",
        "model", "type", phi_arch_model_type(d->arch), "context_length", (json_int_t)d->n_ctx,
        "vocab_size", (json_int_t)d->n_vocab, "bos_token_id", phi_onnx_id_or_eos(d, d->bos_id),
        "eos_token_id", eos, "pad_token_id", phi_onnx_id_or_eos(d, d->pad_id), "decoder",
        decoder_of(w), "search", "do_sample", 0, "early_stopping", 1, "max_length",
        (json_int_t)d->n_ctx, "min_length", (json_int_t)0, "no_repeat_ngram_size", (json_int_t)0,
        "num_beams", (json_int_t)1, "num_return_sequences", (json_int_t)1,
        "past_present_share_buffer", 1, "diversity_penalty", 0.0, "length_penalty", 1.0,
        "repetition_penalty", 1.0, "temperature", 1.0, "top_k", (json_int_t)50, "top_p", 1.0);
    return phi_onnx_write_json(w, PHI_ONNX_CONFIG, root);
}

/* The tokenizer's files, those that there are, byte by byte. */
static phi_status copy_tokenizer(const phi_onnx_writer *w)
{
    static const char *const names[] = {"tokenizer.json",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "added_tokens.json",
                                        "tokenizer.model",
                                        "chat_template.jinja",
                                        "vocab.json",
                                        "merges.txt"};
    phi_status status = PHI_OK;
    for (size_t i = 0; w->export->source_dir && i < sizeof names / sizeof *names && !status; i++) {
        char *text = NULL;
        size_t bytes = 0;
        char *path = phi_strfmt("%s/%s", w->export->source_dir, names[i]);
        if (phi_file_exists(path)) {
            status =
                phi_file_read_text(path, PHI_LIMIT_TOKENIZER_JSON_BYTES, &text, &bytes, w->err);
            status = status ? status : phi_onnx_write_file(w, names[i], text, bytes);
        }
        phi_free(text);
        phi_free(path);
    }
    return status;
}

phi_status phi_onnx_write_beside(const phi_onnx_writer *w)
{
    phi_status status = copy_tokenizer(w);
    /* What the rotary tables were made from, for whoever reads the folder as weights. */
    return status ? status
                  : phi_onnx_write_json(w, "config.json",
                                        phi_hf_folder_describe(w->export->description));
}

phi_status phi_onnx_write_configs(phi_onnx_writer *w)
{
    phi_status status = phi_onnx_write_beside(w);
    return status ? status : write_genai_config(w);
}
