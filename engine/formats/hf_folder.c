/*
 * The JSON files beside a model: what the source had, without what it said of its own quantization,
 * or, where there was none, what the description says.
 */
#include "engine/formats/hf_folder.h"

#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "engine/formats/json.h"

#define COPY_BYTES (1U << 20)

static json_t *floats(const float *values, size_t count)
{
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++) {
        (void)json_array_append_new(list, json_real((double)values[i]));
    }
    return list;
}

static json_t *eos_of(const phi_description *d)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < d->n_eos; i++) {
        (void)json_array_append_new(list, json_integer(d->eos_ids[i]));
    }
    return list;
}

static void set_ids(json_t *config, const phi_description *d)
{
    if (d->bos_id >= 0) {
        (void)json_object_set_new(config, "bos_token_id", json_integer(d->bos_id));
    }
    if (d->pad_id >= 0) {
        (void)json_object_set_new(config, "pad_token_id", json_integer(d->pad_id));
    }
    if (d->n_eos) {
        (void)json_object_set_new(config, "eos_token_id", eos_of(d));
    }
}

/* A factor that gives n_rot again when head_dim times it is cut to a whole number. */
static double rotary_share(const phi_description *d)
{
    double share = (double)d->n_rot / d->head_dim;
    return (uint32_t)(share * d->head_dim) < d->n_rot ? nextafter(share, 1.0) : share;
}

/* The epsilon and the activation, as the class calls them, and what else only it has. */
static void set_class(json_t *config, const phi_description *d)
{
    bool is_phi2 = d->arch == PHI_ARCH_PHI2;
    if (d->arch == PHI_ARCH_PHIMOE) {
        (void)json_object_set_new(config, "num_local_experts", json_integer(d->n_expert));
        (void)json_object_set_new(config, "num_experts_per_tok", json_integer(2));
        (void)json_object_set_new(config, "router_jitter_noise",
                                  json_real((double)d->router_jitter));
        (void)json_object_set_new(config, "attention_bias", json_boolean(d->attn_bias));
        (void)json_object_set_new(config, "lm_head_bias", json_boolean(d->head_bias));
    }
    (void)json_object_set_new(config, "hidden_act", json_string(is_phi2 ? "gelu_new" : "silu"));
    (void)json_object_set_new(config, is_phi2 ? "layer_norm_eps" : "rms_norm_eps",
                              json_real((double)d->norm_eps));
}

/* LongRoPE's settings. */
static json_t *rope_scaling(const phi_description *d)
{
    json_t *rope = json_object();
    (void)json_object_set_new(rope, "type", json_string("longrope"));
    /* Older versions of transformers refuse a fourth field, so only where it says something. */
    if (d->rope_attn_factor != phi_description_attn_factor(d->n_ctx, d->n_ctx_original)) {
        (void)json_object_set_new(rope, "attention_factor", json_real((double)d->rope_attn_factor));
    }
    (void)json_object_set_new(rope, "short_factor", floats(d->rope_short, d->n_rot / 2));
    (void)json_object_set_new(rope, "long_factor", floats(d->rope_long, d->n_rot / 2));
    if (d->arch == PHI_ARCH_PHIMOE) {
        (void)json_object_set_new(rope, "short_mscale", json_real((double)d->rope_attn_factor));
        float far = d->rope_attn_factor_long;
        far = far != 0.0F ? far : d->rope_attn_factor;
        (void)json_object_set_new(rope, "long_mscale", json_real((double)far));
        (void)json_object_set_new(rope, "original_max_position_embeddings",
                                  json_integer(d->n_ctx_original));
    }
    return rope;
}

json_t *phi_hf_folder_describe(const phi_description *d)
{
    json_t *config = json_pack(
        "{s:[s],s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:f,s:f,s:b,s:n,s:n}", "architectures",
        phi_arch_class(d->arch), "model_type", phi_arch_model_type(d->arch), "hidden_size",
        (json_int_t)d->n_embd, "num_hidden_layers", (json_int_t)d->n_layer, "num_attention_heads",
        (json_int_t)d->n_head, "num_key_value_heads", (json_int_t)d->n_head_kv, "head_dim",
        (json_int_t)d->head_dim, "intermediate_size", (json_int_t)d->n_ffn, "vocab_size",
        (json_int_t)d->n_vocab, "max_position_embeddings", (json_int_t)d->n_ctx,
        "original_max_position_embeddings", (json_int_t)d->n_ctx_original, "rope_theta",
        (double)d->rope_theta, "partial_rotary_factor", rotary_share(d), "tie_word_embeddings",
        d->tied_head, "sliding_window", "rope_scaling");
    set_class(config, d);
    if (d->window) {
        (void)json_object_set_new(config, "sliding_window", json_integer(d->window));
    }
    if (d->rope == PHI_ROPE_LONG) {
        (void)json_object_set_new(config, "rope_scaling", rope_scaling(d));
    }
    /* Phi3Config has ids of its own for those that are not stated. */
    static const char *const ids[] = {"bos_token_id", "eos_token_id", "pad_token_id"};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        (void)json_object_set_new(config, ids[i], json_null());
    }
    set_ids(config, d);
    if (*d->name) {
        (void)json_object_set_new(config, "_name_or_path", json_string(d->name));
    }
    return config;
}

phi_status phi_hf_folder_write_json(const json_t *object, const char *dir, const char *name,
                                    phi_err *err)
{
    char *text = json_dumps(object, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
    if (!text) {
        return phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for %s", name);
    }
    char *path = phi_strfmt("%s/%s", dir, name);
    phi_file_writer *file = NULL;
    phi_status status = phi_file_writer_create(path, &file, err);
    phi_free(path);
    if (!status) {
        status = phi_file_writer_append(file, text, strlen(text), err);
        status = status ? status : phi_file_writer_append(file, "\n", 1, err);
    }
    if (status) {
        phi_file_writer_abort(file);
    } else {
        status = phi_file_writer_commit(file, err);
    }
    json_free_t release;
    json_get_alloc_funcs(NULL, &release);
    release(text);
    return status;
}

static phi_status copy_data(const phi_file *from, phi_file_writer *to, phi_err *err)
{
    phi_status status = PHI_OK;
    void *data = phi_alloc(COPY_BYTES);
    for (uint64_t at = 0; at < from->bytes && !status; at += COPY_BYTES) {
        uint64_t left = from->bytes - at;
        size_t bytes = left < COPY_BYTES ? (size_t)left : COPY_BYTES;
        status = phi_file_read_at(from, at, data, bytes, err);
        status = status ? status : phi_file_writer_append(to, data, bytes, err);
    }
    phi_free(data);
    return status;
}

/* Copies a file that may be absent. */
static phi_status copy_file(const char *from_dir, const char *dir, const char *name, phi_err *err)
{
    char *source = phi_strfmt("%s/%s", from_dir, name);
    char *path = phi_strfmt("%s/%s", dir, name);
    phi_file from = {.fd = -1};
    phi_file_writer *to = NULL;
    phi_status status = PHI_OK;
    if (phi_file_exists(source)) {
        status = phi_file_open(source, &from, err);
        status = status ? status : phi_file_writer_create(path, &to, err);
        status = status ? status : copy_data(&from, to, err);
        if (status) {
            phi_file_writer_abort(to);
        } else {
            status = phi_file_writer_commit(to, err);
        }
        phi_file_close(&from);
    }
    phi_free(source);
    phi_free(path);
    return status;
}

/* The source's file, or NULL when there is none. */
static phi_status load(const char *source_dir, const char *name, json_t **out, phi_err *err)
{
    *out = NULL;
    if (!source_dir) {
        return PHI_OK;
    }
    char *path = phi_strfmt("%s/%s", source_dir, name);
    phi_status status = phi_file_exists(path)
                            ? phi_json_load_object(path, PHI_LIMIT_CONFIG_JSON_BYTES, out, err)
                            : PHI_OK;
    phi_free(path);
    return status;
}

/* Null counts as missing. */
static void set_missing(json_t *config, const char *name, json_t *value)
{
    const json_t *stated = json_object_get(config, name);
    if (!stated || json_is_null(stated)) {
        (void)json_object_set(config, name, value);
    }
    json_decref(value);
}

/* LongRoPE's attention factor follows from the context that was trained. An OpenVINO folder may say
 * another than its graph, from which the description has it (openvino_rope.c). */
static void state_context(json_t *config, const phi_description *d)
{
    if (d->rope == PHI_ROPE_LONG) {
        (void)json_object_set_new(config, "max_position_embeddings", json_integer(d->n_ctx));
    }
}

/* transformers 5 has the rotary settings in "rope_parameters" alone, and understands the fields
 * that earlier versions, mlx-lm 0.31 and others look for, and without which they take a default:
 * those are stated too. */
static void state_rope(json_t *config, const phi_description *d)
{
    if (!json_is_object(json_object_get(config, "rope_parameters"))) {
        return;
    }
    set_missing(config, "rope_theta", json_real((double)d->rope_theta));
    set_missing(config, "partial_rotary_factor", json_real(rotary_share(d)));
    if (d->rope == PHI_ROPE_LONG) {
        set_missing(config, "original_max_position_embeddings", json_integer(d->n_ctx_original));
        set_missing(config, "rope_scaling", rope_scaling(d));
    }
}

phi_status phi_hf_folder_write(const phi_export *export, const char *dir, json_t *changes,
                               phi_err *err)
{
    static const char *const copied[] = {
        "tokenizer.json",  "tokenizer_config.json", "special_tokens_map.json",
        "tokenizer.model", "added_tokens.json",     "vocab.json",
        "merges.txt",      "chat_template.jinja",
    };
    json_t *config;
    json_t *generation = NULL;
    phi_status status = load(export->source_dir, "config.json", &config, err);
    if (!status && !config) {
        config = phi_hf_folder_describe(export->description);
    }
    if (!status) {
        (void)json_object_del(config, "quantization_config");
        (void)json_object_del(config, "quantization");
        (void)json_object_update(config, changes);
        state_context(config, export->description);
        state_rope(config, export->description);
        status = phi_hf_folder_write_json(config, dir, "config.json", err);
    }
    status = status ? status : load(export->source_dir, "generation_config.json", &generation, err);
    if (!status && !generation) {
        generation = json_object();
        set_ids(generation, export->description);
    }
    status =
        status ? status : phi_hf_folder_write_json(generation, dir, "generation_config.json", err);
    for (size_t i = 0; i < sizeof copied / sizeof *copied && !status && export->source_dir; i++) {
        status = copy_file(export->source_dir, dir, copied[i], err);
    }
    json_decref(config);
    json_decref(generation);
    return status;
}
