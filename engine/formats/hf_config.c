#include "engine/formats/hf_config.h"

#include <stdbool.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "engine/formats/hf_names.h"
#include "engine/formats/json.h"
#include "engine/formats/json_fields.h"
#include "engine/formats/text_check.h"

#define CONFIG "config.json"
#define GENERATION_CONFIG "generation_config.json"
/* Of original_max_position_embeddings, where LongRoPE's settings leave it out. */
#define DEFAULT_ORIGINAL 4096U

/* The architecture whose class is one of `list`, or, without a list, whose model type it is. */
static bool find_arch(const json_t *list, const char *model_type, phi_arch *out_arch)
{
    for (int i = 0; i < PHI_ARCH_COUNT; i++) {
        bool listed = false;
        for (size_t k = 0; k < json_array_size(list); k++) {
            const char *name = json_string_value(json_array_get(list, k));
            listed = listed || phi_arch_is_class((phi_arch)i, name);
        }
        bool type_fits = model_type && strcmp(model_type, phi_arch_model_type((phi_arch)i)) == 0;
        if ((listed || json_array_size(list) == 0) && (type_fits || (listed && !model_type))) {
            *out_arch = (phi_arch)i;
            return true;
        }
    }
    return false;
}

/* What transformers' "phi" was called in its repositories before. */
static bool is_former_type(const char *model_type)
{
    return model_type &&
           (strcmp(model_type, "phi-msft") == 0 || strcmp(model_type, "mixformer-sequential") == 0);
}

static phi_status read_architecture(const phi_fields *config, phi_arch *out_arch, phi_err *err)
{
    const char *model_type = NULL;
    phi_status status = phi_fields_string(config, "model_type", &model_type, err);
    if (status) {
        return status;
    }
    const json_t *list = phi_fields_get(config, "architectures");
    if (list && !json_is_array(list)) {
        return phi_fail(err, PHI_E_FORMAT, CONFIG ": field \"architectures\" must be a list");
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (!json_is_string(json_array_get(list, i))) {
            return phi_fail(err, PHI_E_FORMAT,
                            CONFIG ": field \"architectures\" must be a list of strings");
        }
    }
    if (find_arch(list, model_type, out_arch)) {
        return PHI_OK;
    }
    const char *first = json_string_value(json_array_get(list, 0));
    if (!first && !model_type) {
        return phi_fail(err, PHI_E_FORMAT,
                        CONFIG ": neither \"architectures\" nor \"model_type\" says what this is");
    }
    if (is_former_type(model_type)) {
        return phi_fail(err, PHI_E_UNSUPPORTED, CONFIG ": model_type \"%s\" is " PHI_FORMER_ADVICE,
                        model_type);
    }
    return phi_fail(err, PHI_E_UNSUPPORTED,
                    CONFIG ": architecture \"%.60s\" (model_type \"%.30s\") is not supported; "
                           "supported: Phi3ForCausalLM (model_type \"phi3\"), PhiForCausalLM "
                           "(\"phi\") and PhimoeForCausalLM (\"phimoe\")",
                    first ? first : "", model_type ? model_type : "");
}

static phi_status refuse_true(const phi_fields *config, const char *name, phi_arch arch,
                              phi_err *err)
{
    bool asked = false;
    phi_status status = phi_fields_bool(config, name, &asked, err);
    if (status || !asked) {
        return status;
    }
    return phi_fail(err, PHI_E_UNSUPPORTED, CONFIG ": field \"%s\" is true; not supported for %s",
                    name, phi_arch_name(arch));
}

static phi_status check_activation(const phi_fields *config, phi_ffn_kind ffn, phi_err *err)
{
    /* All names of one function. */
    static const char *const gated[] = {"silu", "swish", NULL};
    static const char *const gelu[] = {"gelu_new", "gelu_fast", "gelu_pytorch_tanh", NULL};
    const char *const *known = ffn == PHI_FFN_GELU ? gelu : gated;
    const char *activation = known[0];
    phi_status status = phi_fields_string(config, "hidden_act", &activation, err);
    if (status) {
        return status;
    }
    for (size_t i = 0; known[i]; i++) {
        if (strcmp(activation, known[i]) == 0) {
            return PHI_OK;
        }
    }
    return phi_fail(err, PHI_E_UNSUPPORTED,
                    CONFIG ": field \"hidden_act\" is \"%.40s\"; supported: \"%s\"", activation,
                    known[0]);
}

/* What the forward pass does not have must not be asked for. */
static phi_status check_features(const phi_fields *config, const phi_description *d, phi_err *err)
{
    static const char *const phi3[] = {"attention_bias", "mlp_bias", "lm_head_bias", NULL};
    static const char *const phi2[] = {"qk_layernorm", NULL};
    static const char *const phimoe[] = {NULL};
    const char *const *refused = d->arch == PHI_ARCH_PHI2     ? phi2
                                 : d->arch == PHI_ARCH_PHIMOE ? phimoe
                                                              : phi3;
    phi_status status = PHI_OK;
    for (size_t i = 0; refused[i] && !status; i++) {
        status = refuse_true(config, refused[i], d->arch, err);
    }
    return status ? status : check_activation(config, d->ffn, err);
}

/* A size that has no sensible default. */
static phi_status need_u32(const phi_fields *config, const char *name, uint32_t max, uint32_t *out,
                           phi_err *err)
{
    phi_status status = phi_fields_require(config, name, err);
    return status ? status : phi_fields_u32(config, name, max, out, err);
}

static phi_status read_heads(const phi_fields *config, phi_description *d, phi_err *err)
{
    phi_status status = need_u32(config, "num_attention_heads", PHI_LIMIT_HEADS, &d->n_head, err);
    if (status) {
        return status;
    }
    d->n_head_kv = d->n_head;
    status = phi_fields_u32(config, "num_key_value_heads", PHI_LIMIT_HEADS, &d->n_head_kv, err);
    if (status) {
        return status;
    }
    if (phi_fields_get(config, "head_dim")) {
        return phi_fields_u32(config, "head_dim", PHI_LIMIT_HEAD_DIM, &d->head_dim, err);
    }
    if (d->n_embd % d->n_head != 0) {
        return phi_fail(err, PHI_E_FORMAT,
                        CONFIG ": \"hidden_size\" (%u) is not a multiple of "
                               "\"num_attention_heads\" (%u) and there is no \"head_dim\"",
                        d->n_embd, d->n_head);
    }
    d->head_dim = d->n_embd / d->n_head;
    if (d->head_dim > PHI_LIMIT_HEAD_DIM) {
        return phi_fail(err, PHI_E_LIMIT,
                        CONFIG ": \"hidden_size\" (%u) over \"num_attention_heads\" (%u) makes "
                               "heads of %u; at most %u is accepted",
                        d->n_embd, d->n_head, d->head_dim, PHI_LIMIT_HEAD_DIM);
    }
    return PHI_OK;
}

static phi_status read_experts(const phi_fields *config, phi_description *d, phi_err *err)
{
    uint32_t used = 2;
    phi_status status =
        phi_fields_u32(config, "num_local_experts", PHI_LIMIT_EXPERTS, &d->n_expert, err);
    if (!status) {
        status = phi_fields_u32(config, "num_experts_per_tok", PHI_LIMIT_EXPERTS, &used, err);
    }
    if (!status && used != 2) {
        return phi_fail(err, PHI_E_UNSUPPORTED,
                        CONFIG ": field \"num_experts_per_tok\" is %u; SparseMixer takes 2", used);
    }
    if (!status) {
        status = phi_fields_positive(config, "router_jitter_noise", &d->router_jitter, err);
    }
    if (!status) {
        status = phi_fields_bool(config, "attention_bias", &d->attn_bias, err);
    }
    if (!status) {
        status = phi_fields_bool(config, "lm_head_bias", &d->head_bias, err);
    }
    return status;
}

static const char *norm_eps_field(const phi_description *d)
{
    return d->arch == PHI_ARCH_PHI2 ? "layer_norm_eps" : "rms_norm_eps";
}

static phi_status read_sizes(const phi_fields *config, phi_description *d, phi_err *err)
{
    phi_status status = need_u32(config, "hidden_size", PHI_LIMIT_HIDDEN, &d->n_embd, err);
    if (!status) {
        status = need_u32(config, "num_hidden_layers", PHI_LIMIT_LAYERS, &d->n_layer, err);
    }
    if (!status) {
        status = need_u32(config, "intermediate_size", PHI_LIMIT_FFN, &d->n_ffn, err);
    }
    if (!status) {
        status = need_u32(config, "vocab_size", PHI_LIMIT_VOCAB, &d->n_vocab, err);
    }
    if (!status) {
        status = read_heads(config, d, err);
    }
    if (!status) {
        status =
            phi_fields_u32(config, "max_position_embeddings", PHI_LIMIT_CONTEXT, &d->n_ctx, err);
    }
    if (!status) {
        status = phi_fields_u32(config, "sliding_window", INT32_MAX, &d->window, err);
    }
    if (!status) {
        status = phi_fields_positive(config, norm_eps_field(d), &d->norm_eps, err);
    }
    if (!status) {
        status = phi_fields_bool(config, "tie_word_embeddings", &d->tied_head, err);
    }
    if (!status && d->ffn == PHI_FFN_EXPERTS) {
        status = read_experts(config, d, err);
    }
    return status;
}

/* The rotary settings' own object: rope_parameters of newer files, rope_scaling of older ones, or
 * none (object NULL). */
static phi_status find_rope(const phi_fields *config, phi_fields *out, phi_err *err)
{
    *out = (phi_fields){.label = config->label, .path = "rope_parameters."};
    out->object = phi_fields_get(config, "rope_parameters");
    const char *name = "rope_parameters";
    if (!out->object) {
        name = "rope_scaling";
        out->path = "rope_scaling.";
        out->object = phi_fields_get(config, name);
    }
    if (out->object && !json_is_object(out->object)) {
        return phi_fail(err, PHI_E_FORMAT, CONFIG ": field \"%s\" must be an object or null", name);
    }
    return PHI_OK;
}

/* "su" is LongRoPE's first name; Phi3Config reads "yarn" as LongRoPE too, because early Phi-3
 * files spelt it so. */
static phi_status read_rope_kind(const phi_fields *rope, phi_description *d, phi_err *err)
{
    const char *field = phi_fields_get(rope, "rope_type") ? "rope_type" : "type";
    const char *kind = NULL;
    phi_status status = phi_fields_string(rope, field, &kind, err);
    if (status) {
        return status;
    }
    if (!kind) {
        return phi_fail(err, PHI_E_FORMAT, CONFIG ": field \"%srope_type\" is missing", rope->path);
    }
    if (strcmp(kind, "default") == 0) {
        return PHI_OK;
    }
    if (strcmp(kind, "longrope") == 0 || strcmp(kind, "su") == 0 || strcmp(kind, "yarn") == 0) {
        d->rope = PHI_ROPE_LONG;
        return PHI_OK;
    }
    return phi_fail(err, PHI_E_UNSUPPORTED,
                    CONFIG ": field \"%s%s\" is \"%.40s\"; supported: \"longrope\" (also called "
                           "\"su\") and \"default\"",
                    rope->path, field, kind);
}

static phi_status read_long_rope(const phi_fields *rope, phi_description *d, phi_err *err)
{
    static const char *const refused[] = {"short_mscale", "long_mscale"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        if (d->arch != PHI_ARCH_PHIMOE && phi_fields_get(rope, refused[i])) {
            return phi_fail(err, PHI_E_UNSUPPORTED,
                            CONFIG ": field \"%s%s\" is not supported for phi3; it belongs to "
                                   "other members of the family",
                            rope->path, refused[i]);
        }
    }
    phi_status status = phi_fields_floats(rope, "short_factor", d->n_rot / 2, d->rope_short, err);
    if (!status) {
        status = phi_fields_floats(rope, "long_factor", d->n_rot / 2, d->rope_long, err);
    }
    if (d->n_ctx_original == 0) {
        d->n_ctx_original = DEFAULT_ORIGINAL;
    }
    d->rope_attn_factor = phi_description_attn_factor(d->n_ctx, d->n_ctx_original);
    if (!status) {
        status = phi_fields_positive(rope, "attention_factor", &d->rope_attn_factor, err);
    }
    if (!status && d->arch == PHI_ARCH_PHIMOE) {
        status = phi_fields_positive(rope, "short_mscale", &d->rope_attn_factor, err);
    }
    if (!status && d->arch == PHI_ARCH_PHIMOE) {
        status = phi_fields_positive(rope, "long_mscale", &d->rope_attn_factor_long, err);
    }
    return status;
}

static phi_status read_rotary_dims(const phi_fields *config, const phi_fields *rope,
                                   phi_description *d, phi_err *err)
{
    /* PhiConfig's default, and Phi3Config's. */
    double usual = d->arch == PHI_ARCH_PHI2 ? 0.5 : 1.0;
    float part = (float)usual;
    phi_status status = phi_fields_positive(config, "partial_rotary_factor", &part, err);
    if (!status && rope->object) {
        status = phi_fields_positive(rope, "partial_rotary_factor", &part, err);
    }
    if (status) {
        return status;
    }
    if (part > 1.0F) {
        return phi_fail(err, PHI_E_FORMAT,
                        CONFIG ": field \"partial_rotary_factor\" is %g; at most 1 is right",
                        (double)part);
    }
    /* int(head_dim * factor) in double, as transformers computes it: through the nearest float, a
     * factor such as 0.4 would land on the wrong side of a whole number. */
    const json_t *stated = rope->object ? phi_fields_get(rope, "partial_rotary_factor") : NULL;
    stated = stated ? stated : phi_fields_get(config, "partial_rotary_factor");
    double exact = stated ? json_number_value(stated) : usual;
    d->n_rot = (uint32_t)((double)d->head_dim * exact);
    if (d->n_rot < 2 || d->n_rot % 2 != 0) {
        return phi_fail(err, PHI_E_FORMAT,
                        CONFIG ": field \"partial_rotary_factor\" leaves %u of %u head dimensions "
                               "to rotate; an even number of at least 2 is right",
                        d->n_rot, d->head_dim);
    }
    return PHI_OK;
}

static phi_status read_rope(const phi_fields *config, phi_description *d, phi_err *err)
{
    phi_fields rope;
    phi_status status = find_rope(config, &rope, err);
    if (!status) {
        status = phi_fields_positive(config, "rope_theta", &d->rope_theta, err);
    }
    if (!status) {
        status = read_rotary_dims(config, &rope, d, err);
    }
    if (!status) {
        status = phi_fields_u32(config, "original_max_position_embeddings", PHI_LIMIT_CONTEXT,
                                &d->n_ctx_original, err);
    }
    if (status || !rope.object) {
        return status;
    }
    status = phi_fields_positive(&rope, "rope_theta", &d->rope_theta, err);
    if (!status) {
        status = phi_fields_u32(&rope, "original_max_position_embeddings", PHI_LIMIT_CONTEXT,
                                &d->n_ctx_original, err);
    }
    if (!status) {
        status = read_rope_kind(&rope, d, err);
    }
    if (!status && d->rope == PHI_ROPE_LONG) {
        status = read_long_rope(&rope, d, err);
    }
    return status;
}

/* An id, or for pad also -1, which some files write for "none". */
static phi_status read_id(const phi_fields *fields, const char *name, int32_t *out, phi_err *err)
{
    const json_t *value = phi_fields_get(fields, name);
    if (!value) {
        return PHI_OK;
    }
    if (!json_is_integer(value) || json_integer_value(value) < -1 ||
        json_integer_value(value) >= (json_int_t)PHI_LIMIT_VOCAB) {
        return phi_fail(err, PHI_E_FORMAT, "%s: field \"%s\" must be a token id or null",
                        fields->label, name);
    }
    *out = (int32_t)json_integer_value(value);
    return PHI_OK;
}

static phi_status add_eos_id(const phi_fields *fields, const json_t *value, phi_description *d,
                             phi_err *err)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        json_integer_value(value) >= (json_int_t)d->n_vocab) {
        return phi_fail(err, PHI_E_FORMAT,
                        "%s: field \"eos_token_id\" must be a token id from 0 to %u, or a list of "
                        "such ids",
                        fields->label, d->n_vocab - 1);
    }
    phi_description_add_eos(d, (int32_t)json_integer_value(value));
    return PHI_OK;
}

static phi_status read_ids(const phi_fields *fields, phi_description *d, phi_err *err)
{
    phi_status status = read_id(fields, "bos_token_id", &d->bos_id, err);
    if (!status) {
        status = read_id(fields, "pad_token_id", &d->pad_id, err);
    }
    if (!status) {
        status = read_id(fields, "unk_token_id", &d->unk_id, err);
    }
    const json_t *eos = phi_fields_get(fields, "eos_token_id");
    if (status || !eos) {
        return status;
    }
    if (!json_is_array(eos)) {
        return add_eos_id(fields, eos, d, err);
    }
    if (json_array_size(eos) > PHI_LIMIT_STOP_TOKENS) {
        return phi_fail(err, PHI_E_LIMIT, "%s: field \"eos_token_id\" lists more than %u ids",
                        fields->label, PHI_LIMIT_STOP_TOKENS);
    }
    for (size_t i = 0; i < json_array_size(eos) && !status; i++) {
        status = add_eos_id(fields, json_array_get(eos, i), d, err);
    }
    return status;
}

static phi_status read_name(const phi_fields *config, phi_description *d, phi_err *err)
{
    const char *name = "";
    phi_status status = phi_fields_string(config, "_name_or_path", &name, err);
    if (!status && phi_name_is_clean(name, strlen(name))) {
        /* A path says where somebody kept the model, its last part what it is. */
        const char *last = phi_path_label(name);
        phi_name_copy(last, strlen(last), d->name, sizeof d->name);
    }
    return status;
}

static phi_status read_config(const phi_fields *config, phi_description *d, phi_err *err)
{
    phi_arch arch = PHI_ARCH_PHI3;
    phi_status status = read_architecture(config, &arch, err);
    if (status) {
        return status;
    }
    phi_description_init(d, arch);
    if (arch == PHI_ARCH_PHIMOE) {
        d->rope_theta = 1000000.0F; /* PhimoeConfig's default */
    }
    status = check_features(config, d, err);
    if (!status) {
        status = read_sizes(config, d, err);
    }
    if (!status) {
        status = read_rope(config, d, err);
    }
    if (d->n_ctx_original == 0) {
        d->n_ctx_original = d->n_ctx; /* of plain rotary settings nothing depends on it */
    }
    if (!status) {
        status = read_ids(config, d, err);
    }
    if (!status) {
        status = read_name(config, d, err);
    }
    return status ? status : phi_description_check(d, CONFIG, err);
}

static phi_status read_generation_config(const char *dir, phi_description *d, phi_err *err)
{
    char *path = phi_strfmt("%s/" GENERATION_CONFIG, dir);
    json_t *object = NULL;
    phi_status status = PHI_OK;
    if (phi_file_exists(path)) {
        status = phi_json_load_object(path, PHI_LIMIT_CONFIG_JSON_BYTES, &object, err);
    }
    if (object) {
        const phi_fields fields = {.object = object, .label = GENERATION_CONFIG, .path = ""};
        /* Only the union of stop tokens is new here; what config.json states of bos and pad
         * stays. */
        phi_description found = *d;
        status = read_ids(&fields, &found, err);
        if (!status) {
            found.bos_id = d->bos_id >= 0 ? d->bos_id : found.bos_id;
            found.pad_id = d->pad_id >= 0 ? d->pad_id : found.pad_id;
            found.unk_id = d->unk_id >= 0 ? d->unk_id : found.unk_id;
            *d = found;
            status = phi_description_check(d, GENERATION_CONFIG, err);
        }
    }
    json_decref(object);
    phi_free(path);
    return status;
}

phi_status phi_hf_config_read(const char *dir, phi_description *out_description, phi_err *err)
{
    phi_description d = {0};
    char *path = phi_strfmt("%s/" CONFIG, dir);
    json_t *object = NULL;
    phi_status status = phi_json_load_object(path, PHI_LIMIT_CONFIG_JSON_BYTES, &object, err);
    phi_free(path);
    if (!status) {
        const phi_fields config = {.object = object, .label = CONFIG, .path = ""};
        status = read_config(&config, &d, err);
    }
    json_decref(object);
    if (!status) {
        status = read_generation_config(dir, &d, err);
    }
    if (!status) {
        *out_description = d;
    }
    return status;
}
