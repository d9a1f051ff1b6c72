#include "engine/formats/description.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "base/assert.h"

/* Whole-number fields with their bounds. Names: Hugging Face's, then GGUF's. */
typedef struct bound {
    const char *name;
    size_t offset;
    uint32_t min;
    uint32_t max;
} bound;

#define FIELD(member) offsetof(phi_description, member)

static const bound bounds[] = {
    {"num_hidden_layers (block_count)", FIELD(n_layer), 1, PHI_LIMIT_LAYERS},
    {"hidden_size (embedding_length)", FIELD(n_embd), 1, PHI_LIMIT_HIDDEN},
    {"num_attention_heads (attention.head_count)", FIELD(n_head), 1, PHI_LIMIT_HEADS},
    {"num_key_value_heads (attention.head_count_kv)", FIELD(n_head_kv), 1, PHI_LIMIT_HEADS},
    {"head_dim (attention.key_length)", FIELD(head_dim), 2, PHI_LIMIT_HEAD_DIM},
    {"intermediate_size (feed_forward_length)", FIELD(n_ffn), 1, PHI_LIMIT_FFN},
    {"vocab_size", FIELD(n_vocab), 1, PHI_LIMIT_VOCAB},
    {"max_position_embeddings (context_length)", FIELD(n_ctx), 1, PHI_LIMIT_CONTEXT},
    {"rotary dimensions (rope.dimension_count)", FIELD(n_rot), 2, PHI_LIMIT_HEAD_DIM},
    {"original_max_position_embeddings (rope.scaling.original_context_length)",
     FIELD(n_ctx_original), 1, PHI_LIMIT_CONTEXT},
};

static phi_status check_bounds(const phi_description *description, const char *where, phi_err *err)
{
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++) {
        const bound *b = &bounds[i];
        uint32_t value = *(const uint32_t *)(const void *)((const char *)description + b->offset);
        if (value < b->min || value > b->max) {
            return phi_fail(err, PHI_E_FORMAT, "%s: %s is %u; it must be between %u and %u", where,
                            b->name, value, b->min, b->max);
        }
    }
    return PHI_OK;
}

static phi_status check_heads(const phi_description *d, const char *where, phi_err *err)
{
    if (d->n_head % d->n_head_kv != 0) {
        return phi_fail(err, PHI_E_FORMAT,
                        "%s: num_key_value_heads is %u, which does not divide the %u heads", where,
                        d->n_head_kv, d->n_head);
    }
    if ((uint64_t)d->n_head * d->head_dim > PHI_LIMIT_HIDDEN) {
        return phi_fail(err, PHI_E_LIMIT,
                        "%s: %u heads (num_attention_heads) of %u (head_dim) are more than %u",
                        where, d->n_head, d->head_dim, PHI_LIMIT_HIDDEN);
    }
    if (d->n_rot % 2 != 0 || d->n_rot > d->head_dim) {
        return phi_fail(err, PHI_E_FORMAT,
                        "%s: %u rotary dimensions (partial_rotary_factor, rope.dimension_count); "
                        "an even number of at most head_dim (%u) is right",
                        where, d->n_rot, d->head_dim);
    }
    return PHI_OK;
}

static phi_status check_positive(float value, const char *name, const char *where, phi_err *err)
{
    if (!isfinite(value) || value <= 0.0F) {
        return phi_fail(err, PHI_E_FORMAT, "%s: %s is %g; it must be a positive number", where,
                        name, (double)value);
    }
    return PHI_OK;
}

static phi_status check_rope(const phi_description *d, const char *where, phi_err *err)
{
    phi_status status = check_positive(d->rope_theta, "rope_theta (rope.freq_base)", where, err);
    if (!status) {
        status = check_positive(d->rope_attn_factor, "attention_factor (rope.scaling.attn_factor)",
                                where, err);
    }
    if (!status && d->rope_attn_factor_long != 0.0F) {
        status = check_positive(d->rope_attn_factor_long,
                                "long_mscale (phid.rope.attn_factor_long)", where, err);
    }
    uint32_t factors = d->rope == PHI_ROPE_LONG ? d->n_rot / 2 : 0;
    for (uint32_t i = 0; i < factors && !status; i++) {
        status = check_positive(d->rope_short[i], "an element of short_factor", where, err);
        if (!status) {
            status = check_positive(d->rope_long[i], "an element of long_factor", where, err);
        }
    }
    return status;
}

/* Experts stand one after the other in blocks of rows, which none may share. */
static phi_status check_experts(const phi_description *d, const char *where, phi_err *err)
{
    if (d->ffn != PHI_FFN_EXPERTS) {
        return PHI_OK;
    }
    if (d->n_expert < 2 || d->n_expert > PHI_LIMIT_EXPERTS) {
        return phi_fail(err, PHI_E_FORMAT,
                        "%s: num_local_experts (expert_count) is %u; it must be between 2 and %u",
                        where, d->n_expert, PHI_LIMIT_EXPERTS);
    }
    if (d->n_ffn % 16 != 0 || d->n_embd % 16 != 0) {
        return phi_fail(err, PHI_E_UNSUPPORTED,
                        "%s: intermediate_size is %u and hidden_size %u; with experts both must be "
                        "multiples of 16",
                        where, d->n_ffn, d->n_embd);
    }
    return check_positive(d->router_jitter, "router_jitter_noise (phid.router_jitter_noise)", where,
                          err);
}

static phi_status check_id(const phi_description *d, int32_t id, const char *name,
                           const char *where, phi_err *err)
{
    if (id < -1 || id >= (int32_t)d->n_vocab) {
        return phi_fail(err, PHI_E_FORMAT, "%s: %s is %d; the vocabulary has ids 0 to %u", where,
                        name, id, d->n_vocab - 1);
    }
    return PHI_OK;
}

phi_status phi_description_check(const phi_description *description, const char *where,
                                 phi_err *err)
{
    phi_status status = check_bounds(description, where, err);
    if (!status) {
        status = check_heads(description, where, err);
    }
    if (!status) {
        status = check_positive(description->norm_eps, "rms_norm_eps (layer_norm_rms_epsilon)",
                                where, err);
    }
    if (!status) {
        status = check_rope(description, where, err);
    }
    if (!status) {
        status = check_experts(description, where, err);
    }
    if (!status) {
        status = check_id(description, description->bos_id, "bos_token_id", where, err);
    }
    if (!status) {
        status = check_id(description, description->pad_id, "pad_token_id", where, err);
    }
    if (!status) {
        status = check_id(description, description->unk_id, "unk_token_id", where, err);
    }
    for (uint32_t i = 0; i < description->n_eos && !status; i++) {
        status = check_id(description, description->eos_ids[i], "eos_token_id", where, err);
    }
    return status;
}

void phi_description_add_eos(phi_description *description, int32_t id)
{
    for (uint32_t i = 0; i < description->n_eos; i++) {
        if (description->eos_ids[i] == id) {
            return;
        }
    }
    if (description->n_eos < PHI_LIMIT_STOP_TOKENS) {
        description->eos_ids[description->n_eos++] = id;
    }
}

float phi_description_attn_factor(uint32_t n_ctx, uint32_t n_ctx_original)
{
    if (n_ctx <= n_ctx_original || n_ctx_original < 2) {
        return 1.0F;
    }
    double ratio = (double)n_ctx / (double)n_ctx_original;
    return (float)sqrt(1.0 + log(ratio) / log((double)n_ctx_original));
}

/* ---- architectures ---- */

typedef struct arch_info {
    const char *name;
    const char *class_name;
    const char *other_class_name; /* of the checkpoints; NULL: the same */
    const char *model_type;
    phi_norm_kind norm;
    phi_ffn_kind ffn;
    bool is_parallel;
    bool attn_bias;
    bool head_bias;
    uint32_t n_ctx; /* the configuration class's defaults, as is the next */
    uint32_t n_expert;
} arch_info;

static const arch_info archs[PHI_ARCH_COUNT] = {
    [PHI_ARCH_PHI3] = {.name = "phi3",
                       .class_name = "Phi3ForCausalLM",
                       .model_type = "phi3",
                       .n_ctx = 4096},
    [PHI_ARCH_PHI2] = {.name = "phi2",
                       .class_name = "PhiForCausalLM",
                       .model_type = "phi",
                       .norm = PHI_NORM_LAYER,
                       .ffn = PHI_FFN_GELU,
                       .is_parallel = true,
                       .attn_bias = true,
                       .head_bias = true,
                       .n_ctx = 2048},
    [PHI_ARCH_PHIMOE] = {.name = "phimoe",
                         .class_name = "PhimoeForCausalLM",
                         .other_class_name = "PhiMoEForCausalLM",
                         .model_type = "phimoe",
                         .norm = PHI_NORM_LAYER,
                         .ffn = PHI_FFN_EXPERTS,
                         .n_ctx = 131072,
                         .n_expert = 16},
};

static const arch_info *get(phi_arch arch)
{
    PHI_ASSERT((unsigned)arch < PHI_ARCH_COUNT);
    return &archs[arch];
}

void phi_description_init(phi_description *description, phi_arch arch)
{
    const arch_info *info = get(arch);
    *description = (phi_description){
        .arch = arch,
        .n_ctx = info->n_ctx,
        .norm_eps = 1e-5F,
        .norm = info->norm,
        .ffn = info->ffn,
        .is_parallel = info->is_parallel,
        .attn_bias = info->attn_bias,
        .head_bias = info->head_bias,
        .rope_theta = 10000.0F,
        .n_expert = info->n_expert,
        .router_jitter = info->n_expert ? 0.01F : 0.0F,
        .rope_attn_factor = 1.0F,
        .bos_id = -1,
        .pad_id = -1,
        .unk_id = -1,
    };
}

const char *phi_arch_name(phi_arch arch)
{
    return get(arch)->name;
}

const char *phi_arch_class(phi_arch arch)
{
    return get(arch)->class_name;
}

bool phi_arch_is_class(phi_arch arch, const char *name)
{
    const char *other = get(arch)->other_class_name;
    return strcmp(name, get(arch)->class_name) == 0 || (other && strcmp(name, other) == 0);
}

const char *phi_arch_model_type(phi_arch arch)
{
    return get(arch)->model_type;
}

bool phi_arch_parse(const char *name, phi_arch *out_arch)
{
    for (int i = 0; i < PHI_ARCH_COUNT; i++) {
        if (strcmp(archs[i].name, name) == 0) {
            *out_arch = (phi_arch)i;
            return true;
        }
    }
    return false;
}
