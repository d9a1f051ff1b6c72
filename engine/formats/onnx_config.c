#include "engine/formats/onnx_config.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "engine/formats/json.h"
#include "engine/formats/json_fields.h"
#include "engine/formats/onnx.h"
#include "engine/formats/text_check.h"

/* ---- genai_config.json ---- */

static phi_status read_type(const phi_fields *model, phi_onnx_config *config, phi_err *err)
{
    const char *type = NULL;
    phi_status status = phi_fields_require(model, "type", err);
    status = status ? status : phi_fields_string(model, "type", &type, err);
    if (status) {
        return status;
    }
    for (int i = 0; i < PHI_ARCH_COUNT; i++) {
        if (strcmp(type, phi_arch_model_type((phi_arch)i)) == 0) {
            config->states_arch = true;
            config->arch = (phi_arch)i;
        }
    }
    if (!config->states_arch && strcmp(type, "decoder") != 0) {
        return phi_fail(err, PHI_E_UNSUPPORTED,
                        PHI_ONNX_CONFIG ": field \"model.type\" is \"%.40s\"; supported: \"phi3\", "
                                        "\"phi\" and \"phimoe\"",
                        type);
    }
    return PHI_OK;
}

static phi_status get_object(const phi_fields *parent, const char *name, const char *path,
                             phi_fields *out, phi_err *err)
{
    *out = (phi_fields){.label = PHI_ONNX_CONFIG, .path = path};
    out->object = phi_fields_get(parent, name);
    if (!json_is_object(out->object)) {
        return phi_fail(err, PHI_E_FORMAT, PHI_ONNX_CONFIG ": field \"%s%s\" must be an object",
                        parent->path, name);
    }
    return PHI_OK;
}

/* A name inside the folder or the graph; absent leaves `out` as it is. */
static phi_status read_text(const phi_fields *fields, const char *name, char *out, size_t out_bytes,
                            phi_err *err)
{
    const char *text = NULL;
    phi_status status = phi_fields_string(fields, name, &text, err);
    if (status || !text) {
        return status;
    }
    if (strlen(text) >= out_bytes || !phi_name_is_clean(text, strlen(text))) {
        return phi_fail(err, PHI_E_FORMAT,
                        PHI_ONNX_CONFIG ": field \"%s%s\" must be a name of at most %zu bytes",
                        fields->path, name, out_bytes - 1);
    }
    memcpy(out, text, strlen(text) + 1);
    return PHI_OK;
}

static bool is_id(const json_t *value)
{
    return json_is_integer(value) && json_integer_value(value) >= -1 &&
           json_integer_value(value) < (json_int_t)PHI_LIMIT_VOCAB;
}

static phi_status fail_id(const char *name, phi_err *err)
{
    return phi_fail(err, PHI_E_FORMAT, PHI_ONNX_CONFIG ": field \"model.%s\" must be a token id%s",
                    name, strcmp(name, "eos_token_id") == 0 ? " or a list of at most 32" : "");
}

static phi_status read_id(const phi_fields *model, const char *name, int32_t *out, phi_err *err)
{
    const json_t *value = phi_fields_get(model, name);
    if (value && !is_id(value)) {
        return fail_id(name, err);
    }
    *out = value ? (int32_t)json_integer_value(value) : *out;
    return PHI_OK;
}

static phi_status read_eos(const phi_fields *model, phi_description *d, phi_err *err)
{
    const json_t *eos = phi_fields_get(model, "eos_token_id");
    bool is_list = json_is_array(eos);
    size_t count = is_list ? json_array_size(eos) : eos != NULL;
    if (count > PHI_LIMIT_STOP_TOKENS) {
        return fail_id("eos_token_id", err);
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *id = is_list ? json_array_get(eos, i) : eos;
        if (!is_id(id) || json_integer_value(id) < 0) {
            return fail_id("eos_token_id", err);
        }
        phi_description_add_eos(d, (int32_t)json_integer_value(id));
    }
    return PHI_OK;
}

static phi_status read_row(const json_t *settings, uint32_t *out, phi_err *err)
{
    static const char *const names[] = {"multi_rotary_cache_concat_offset",
                                        "multiRotaryCacheConcatOffset"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const json_t *row = json_object_get(settings, names[i]);
        uint64_t number = 0;
        if (!row) {
            continue;
        }
        if (!json_is_string(row) ||
            !phi_str_parse_u64(json_string_value(row), PHI_LIMIT_CONTEXT, &number)) {
            return phi_fail(err, PHI_E_FORMAT,
                            PHI_ONNX_CONFIG ": option \"%s\" must be a row of the rotary tables, "
                                            "as text",
                            names[i]);
        }
        *out = (uint32_t)number;
    }
    return PHI_OK;
}

/* Providers that cannot branch get both tables of LongRoPE in one, and are told the row that the
 * second begins at: NvTensorRtRtx, and WebGPU where it records a graph. */
static phi_status read_long_from(const phi_fields *decoder, uint32_t *out, phi_err *err)
{
    const json_t *options =
        json_object_get(phi_fields_get(decoder, "session_options"), "provider_options");
    phi_status status = PHI_OK;
    for (size_t i = 0; i < json_array_size(options) && !status; i++) {
        const char *provider;
        json_t *settings;
        json_object_foreach(json_array_get(options, i), provider, settings)
        {
            status = status ? status : read_row(settings, out, err);
        }
    }
    return status;
}

static phi_status read_decoder(const phi_fields *model, phi_onnx_config *config, phi_err *err)
{
    phi_fields decoder;
    phi_fields outputs;
    phi_description *d = &config->stated;
    phi_status status = get_object(model, "decoder", "model.decoder.", &decoder, err);
    if (!status && phi_fields_get(&decoder, "pipeline")) {
        return phi_fail(err, PHI_E_UNSUPPORTED,
                        PHI_ONNX_CONFIG ": a model in several graphs (\"model.decoder.pipeline\") "
                                        "is not supported");
    }
    status = status ? status : read_long_from(&decoder, &config->long_from, err);
    status = status
                 ? status
                 : read_text(&decoder, "filename", config->filename, sizeof config->filename, err);
    if (!status && !phi_name_is_plain_file(config->filename)) {
        return phi_fail(err, PHI_E_FORMAT,
                        PHI_ONNX_CONFIG ": field \"model.decoder.filename\" is \"%.60s\"; the name "
                                        "of a file in the same folder is right",
                        config->filename);
    }
    const struct {
        const char *name;
        uint32_t max;
        uint32_t *out;
    } sizes[] = {{"head_size", PHI_LIMIT_HEAD_DIM, &d->head_dim},
                 {"hidden_size", PHI_LIMIT_HIDDEN, &d->n_embd},
                 {"num_attention_heads", PHI_LIMIT_HEADS, &d->n_head},
                 {"num_hidden_layers", PHI_LIMIT_LAYERS, &d->n_layer},
                 {"num_key_value_heads", PHI_LIMIT_HEADS, &d->n_head_kv}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes && !status; i++) {
        status = phi_fields_u32(&decoder, sizes[i].name, sizes[i].max, sizes[i].out, err);
    }
    if (status || !phi_fields_get(&decoder, "outputs")) {
        return status;
    }
    status = get_object(&decoder, "outputs", "model.decoder.outputs.", &outputs, err);
    return status ? status
                  : read_text(&outputs, "logits", config->logits, sizeof config->logits, err);
}

static phi_status read_model(const json_t *root, phi_onnx_config *config, phi_err *err)
{
    phi_fields model;
    phi_description *d = &config->stated;
    const phi_fields top = {.object = root, .label = PHI_ONNX_CONFIG, .path = ""};
    phi_status status = get_object(&top, "model", "model.", &model, err);
    status = status ? status : read_type(&model, config, err);
    status = status ? status : phi_fields_require(&model, "context_length", err);
    status = status ? status
                    : phi_fields_u32(&model, "context_length", PHI_LIMIT_CONTEXT, &d->n_ctx, err);
    status =
        status ? status : phi_fields_u32(&model, "vocab_size", PHI_LIMIT_VOCAB, &d->n_vocab, err);
    status = status ? status : read_id(&model, "bos_token_id", &d->bos_id, err);
    status = status ? status : read_id(&model, "pad_token_id", &d->pad_id, err);
    status = status ? status : read_eos(&model, d, err);
    return status ? status : read_decoder(&model, config, err);
}

phi_status phi_onnx_config_read(const char *dir, phi_onnx_config *out_config, phi_err *err)
{
    json_t *root = NULL;
    phi_onnx_config config = {.filename = "model.onnx", .logits = "logits"};
    config.stated = (phi_description){.bos_id = -1, .pad_id = -1, .unk_id = -1};
    char *path = phi_strfmt("%s/" PHI_ONNX_CONFIG, dir);
    phi_status status = phi_json_load_object(path, PHI_LIMIT_CONFIG_JSON_BYTES, &root, err);
    phi_free(path);
    status = status ? status : read_model(root, &config, err);
    json_decref(root);
    if (!status) {
        *out_config = config;
    }
    return status;
}

/* ---- the description ---- */

/* What the attention of all layers has in common. */
static phi_status read_attention(const char *label, const phi_onnx_decoder *decoder,
                                 phi_description *d, phi_err *err)
{
    static const char *const names[] = {"num_heads", "kv_num_heads", "local_window_size"};
    const phi_onnx_node *first = decoder->layers[0].attention;
    int64_t values[3];
    for (size_t i = 0; i < 3; i++) {
        values[i] = phi_onnx_attribute_int(first, names[i], -1);
        for (uint32_t layer = 1; layer < decoder->n_layers; layer++) {
            const phi_onnx_node *node = decoder->layers[layer].attention;
            if (phi_onnx_attribute_int(node, names[i], -1) != values[i]) {
                return phi_fail(err, PHI_E_UNSUPPORTED,
                                "%s: node \"%s\" has another %s than other layers", label,
                                node->name, names[i]);
            }
        }
    }
    if (values[0] < 1 || values[0] > (int64_t)PHI_LIMIT_HEADS || values[1] < 1 ||
        values[1] > values[0] || values[2] > INT32_MAX) {
        return phi_fail(
            err, PHI_E_FORMAT, "%s: node \"%s\" has %lld heads, %lld of keys, window %lld", label,
            first->name, (long long)values[0], (long long)values[1], (long long)values[2]);
    }
    d->n_head = (uint32_t)values[0];
    d->n_head_kv = (uint32_t)values[1];
    d->window = values[2] > 0 ? (uint32_t)values[2] : 0;
    return PHI_OK;
}

static phi_status check_scales(const char *label, const phi_onnx_decoder *decoder,
                               const phi_description *d, phi_err *err)
{
    float right = 1.0F / sqrtf((float)d->head_dim);
    for (uint32_t i = 0; i < decoder->n_layers; i++) {
        const phi_onnx_node *node = decoder->layers[i].attention;
        float scale = phi_onnx_attribute_float(node, "scale", 0.0F);
        if (scale != 0.0F && !(fabsf(scale / right - 1.0F) < 1e-4F)) {
            return phi_fail(err, PHI_E_UNSUPPORTED, "%s: node \"%s\" has scale %g; %g is supported",
                            label, node->name, (double)scale, (double)right);
        }
    }
    return PHI_OK;
}

static phi_status check_stated(const char *label, const phi_description *stated,
                               const phi_description *d, phi_err *err)
{
    const struct {
        const char *name;
        uint32_t said;
        uint32_t is;
    } sizes[] = {{"vocab_size", stated->n_vocab, d->n_vocab},
                 {"decoder.head_size", stated->head_dim, d->head_dim},
                 {"decoder.hidden_size", stated->n_embd, d->n_embd},
                 {"decoder.num_attention_heads", stated->n_head, d->n_head},
                 {"decoder.num_hidden_layers", stated->n_layer, d->n_layer},
                 {"decoder.num_key_value_heads", stated->n_head_kv, d->n_head_kv}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (sizes[i].said && sizes[i].said != sizes[i].is) {
            return phi_fail(err, PHI_E_FORMAT,
                            PHI_ONNX_CONFIG ": field \"model.%s\" is %u, but %s has %u",
                            sizes[i].name, sizes[i].said, label, sizes[i].is);
        }
    }
    return PHI_OK;
}

static bool same_array(const phi_array *a, const phi_array *b)
{
    return a->file == b->file && a->offset == b->offset && a->bytes == b->bytes;
}

/* A head that is the embedding itself, not one like it. */
static bool is_tied(const phi_stored *embedding, const phi_stored *head)
{
    if (embedding->kind != head->kind || embedding->rows != head->rows) {
        return false;
    }
    if (head->kind != PHI_STORED_CODED) {
        return same_array(&embedding->data, &head->data);
    }
    return same_array(&embedding->coded.codes, &head->coded.codes) &&
           same_array(&embedding->coded.scales, &head->coded.scales) &&
           same_array(&embedding->coded.zeros, &head->coded.zeros) &&
           embedding->coded.zero == head->coded.zero;
}

phi_status phi_onnx_describe(const char *dir, const char *label, const phi_onnx_config *config,
                             const phi_onnx_decoder *decoder, phi_description *out_description,
                             phi_err *err)
{
    phi_description d;
    const phi_description *stated = &config->stated;
    const phi_onnx_layer *layer = &decoder->layers[0];
    if (config->states_arch && config->arch != decoder->arch) {
        return phi_fail(err, PHI_E_FORMAT,
                        PHI_ONNX_CONFIG ": field \"model.type\" is \"%s\", but %s has the graph of "
                                        "\"%s\"",
                        phi_arch_model_type(config->arch), label,
                        phi_arch_model_type(decoder->arch));
    }
    phi_description_init(&d, decoder->arch);
    d.n_ctx = stated->n_ctx;
    d.bos_id = stated->bos_id;
    d.pad_id = stated->pad_id;
    d.n_eos = stated->n_eos;
    memcpy(d.eos_ids, stated->eos_ids, sizeof d.eos_ids);
    d.n_layer = decoder->n_layers;
    d.n_embd = decoder->output_norm.weight.cols;
    d.n_vocab = decoder->embedding.rows;
    const phi_onnx_ffn *ffn = layer->experts ? &layer->experts[0] : &layer->ffn;
    d.n_ffn = ffn->down.weight.cols;
    d.attn_bias = decoder->attn_bias;
    d.head_bias = decoder->head_bias;
    d.n_expert = decoder->n_expert;
    d.router_jitter = decoder->router_far / 2.0F;
    d.norm_eps = decoder->norm_eps;
    d.tied_head = is_tied(&decoder->embedding, &decoder->head.weight);
    phi_status status = read_attention(label, decoder, &d, err);
    if (status) {
        return status;
    }
    d.head_dim = layer->output.weight.cols / d.n_head;
    status = check_stated(label, stated, &d, err);
    status = status ? status : check_scales(label, decoder, &d, err);
    status = status ? status : phi_onnx_rope_read(dir, label, decoder, &d, err);
    status = status ? status : phi_description_check(&d, label, err);
    if (!status) {
        *out_description = d;
    }
    return status;
}
