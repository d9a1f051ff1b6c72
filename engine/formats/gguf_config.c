#include "engine/formats/gguf_config.h"

#include <stdio.h>
#include <string.h>

#include "engine/formats/checkpoint.h"
#include "engine/formats/text_check.h"

#define EOS_IDS_KEY "phid.eos_token_ids"
#define LONG_ATTN_FACTOR_KEY "phid.rope.attn_factor_long"
#define JITTER_KEY "phid.router_jitter_noise"
#define LONG_FACTORS "rope_factors_long.weight"
#define SHORT_FACTORS "rope_factors_short.weight"

/* Keys of whole numbers, without the architecture's name before them, in the order in which they
 * are written. */
typedef struct number_key {
    const char *key;
    size_t offset; /* in phi_description */
    bool required;
} number_key;

#define FIELD(member) offsetof(phi_description, member)

static const number_key numbers[] = {
    {".context_length", FIELD(n_ctx), true},
    {".embedding_length", FIELD(n_embd), true},
    {".block_count", FIELD(n_layer), true},
    {".feed_forward_length", FIELD(n_ffn), true},
    {".attention.head_count", FIELD(n_head), true},
    {".attention.head_count_kv", FIELD(n_head_kv), false},
    {".attention.key_length", FIELD(head_dim), false},
    {".rope.dimension_count", FIELD(n_rot), false},
    {".rope.scaling.original_context_length", FIELD(n_ctx_original), false},
    {".attention.sliding_window", FIELD(window), false},
    {".vocab_size", FIELD(n_vocab), false},
};

typedef struct source {
    const phi_gguf *gguf;
    const char *label;
    const char *arch; /* what keys begin with */
    phi_err *err;
} source;

/* Room for the longest key of an architecture. */
typedef struct arch_key {
    char text[80];
} arch_key;

static arch_key key_of(const char *arch, const char *rest)
{
    arch_key key;
    (void)snprintf(key.text, sizeof key.text, "%s%s", arch, rest);
    return key;
}

static uint32_t *field_at(phi_description *d, size_t offset)
{
    return (uint32_t *)(void *)((char *)d + offset);
}

/* Leaves *out as it is when the key is absent. */
static phi_status get_u32(const source *s, const char *key, uint32_t *out)
{
    if (phi_gguf_get_u32(s->gguf, key, out) || !phi_gguf_find(s->gguf, key)) {
        return PHI_OK;
    }
    return phi_fail(s->err, PHI_E_FORMAT, "%s: key \"%s\" must be one whole number below 2^32",
                    s->label, key);
}

static phi_status get_f32(const source *s, const char *key, float *out)
{
    if (phi_gguf_get_f32(s->gguf, key, out) || !phi_gguf_find(s->gguf, key)) {
        return PHI_OK;
    }
    return phi_fail(s->err, PHI_E_FORMAT, "%s: key \"%s\" must be one floating-point number",
                    s->label, key);
}

static const phi_tensor_entry *find_tensor(const phi_gguf *gguf, const char *name)
{
    for (size_t i = 0; i < phi_gguf_tensor_count(gguf); i++) {
        const phi_tensor_entry *entry = phi_gguf_tensor_at(gguf, i);
        if (strcmp(entry->name, name) == 0) {
            return entry;
        }
    }
    return NULL;
}

static phi_status check_kind(const source *s, phi_arch *out_arch)
{
    phi_gguf_string text;
    if (!phi_gguf_get_string(s->gguf, "general.architecture", &text)) {
        return phi_fail(s->err, PHI_E_FORMAT, "%s: key \"general.architecture\" is missing",
                        s->label);
    }
    if (strlen(text.text) != text.bytes || !phi_arch_parse(text.text, out_arch)) {
        return phi_fail(s->err, PHI_E_UNSUPPORTED,
                        "%s: general.architecture \"%.40s\" is not supported; supported: \"phi3\", "
                        "\"phi2\" and \"phimoe\"",
                        s->label, text.text);
    }
    uint32_t parts = 1;
    phi_status status = get_u32(s, "split.count", &parts);
    if (!status && parts > 1) {
        return phi_fail(s->err, PHI_E_UNSUPPORTED,
                        "%s is one of %u parts of a split GGUF; merge them into one file first",
                        s->label, parts);
    }
    return status;
}

/* The family has LongRoPE or nothing; a file that asks for another scaling would give other
 * answers. */
static phi_status check_scaling(const source *s)
{
    phi_gguf_string type;
    arch_key key = key_of(s->arch, ".rope.scaling.type");
    if (phi_gguf_get_string(s->gguf, key.text, &type) && strcmp(type.text, "none") != 0 &&
        strcmp(type.text, "longrope") != 0) {
        return phi_fail(s->err, PHI_E_UNSUPPORTED,
                        "%s: %s \"%.40s\" is not supported; supported: \"none\" and \"longrope\"",
                        s->label, key.text, type.text);
    }
    float factor = 0.0F;
    key = key_of(s->arch, ".rope.scaling.factor");
    phi_status status = get_f32(s, key.text, &factor);
    if (!status && factor != 0.0F && factor != 1.0F) {
        return phi_fail(s->err, PHI_E_UNSUPPORTED, "%s: %s is %g; linear scaling is not supported",
                        s->label, key.text, (double)factor);
    }
    return status;
}

static arch_key norm_eps_key(phi_arch arch)
{
    return key_of(phi_arch_name(arch), arch == PHI_ARCH_PHI2 ? ".attention.layer_norm_epsilon"
                                                             : ".attention.layer_norm_rms_epsilon");
}

static phi_status need(const source *s, const char *key)
{
    if (phi_gguf_find(s->gguf, key)) {
        return PHI_OK;
    }
    return phi_fail(s->err, PHI_E_FORMAT, "%s: key \"%s\" is missing", s->label, key);
}

static phi_status read_experts(const source *s, phi_description *d)
{
    uint32_t used = 2;
    arch_key key = key_of(s->arch, ".expert_count");
    phi_status status = need(s, key.text);
    if (!status) {
        status = get_u32(s, key.text, &d->n_expert);
    }
    key = key_of(s->arch, ".expert_used_count");
    if (!status) {
        status = get_u32(s, key.text, &used);
    }
    if (!status && used != 2) {
        return phi_fail(s->err, PHI_E_UNSUPPORTED, "%s: %s is %u; SparseMixer takes 2", s->label,
                        key.text, used);
    }
    if (!status) {
        status = get_f32(s, JITTER_KEY, &d->router_jitter);
    }
    d->attn_bias = find_tensor(s->gguf, "blk.0.attn_output.bias") != NULL;
    d->head_bias = find_tensor(s->gguf, "output.bias") != NULL;
    return status;
}

static phi_status read_numbers(const source *s, phi_description *d)
{
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        const number_key *number = &numbers[i];
        arch_key key = key_of(s->arch, number->key);
        phi_status status = number->required ? need(s, key.text) : PHI_OK;
        status = status ? status : get_u32(s, key.text, field_at(d, number->offset));
        if (status) {
            return status;
        }
    }
    arch_key key = norm_eps_key(d->arch);
    phi_status status = need(s, key.text);
    if (!status) {
        status = get_f32(s, key.text, &d->norm_eps);
    }
    if (!status) {
        status = get_f32(s, key_of(s->arch, ".rope.freq_base").text, &d->rope_theta);
    }
    if (!status) {
        status =
            get_f32(s, key_of(s->arch, ".rope.scaling.attn_factor").text, &d->rope_attn_factor);
    }
    if (!status) {
        status = get_f32(s, LONG_ATTN_FACTOR_KEY, &d->rope_attn_factor_long);
    }
    return status || d->ffn != PHI_FFN_EXPERTS ? status : read_experts(s, d);
}

/* Fills what the file may leave to be worked out. */
static phi_status derive(const source *s, phi_description *d)
{
    if (d->n_head_kv == 0) {
        d->n_head_kv = d->n_head;
    }
    if (d->head_dim == 0) {
        if (d->n_head == 0 || d->n_embd % d->n_head != 0) {
            return phi_fail(s->err, PHI_E_FORMAT,
                            "%s: %s.embedding_length (%u) is not a multiple of "
                            "%s.attention.head_count (%u)",
                            s->label, s->arch, d->n_embd, s->arch, d->n_head);
        }
        d->head_dim = d->n_embd / d->n_head;
    }
    uint32_t value_length = d->head_dim;
    phi_status status = get_u32(s, key_of(s->arch, ".attention.value_length").text, &value_length);
    if (!status && value_length != d->head_dim) {
        return phi_fail(s->err, PHI_E_UNSUPPORTED,
                        "%s: %s.attention.value_length is %u; it must equal the key length, %u",
                        s->label, s->arch, value_length, d->head_dim);
    }
    d->n_rot = d->n_rot ? d->n_rot : d->head_dim;
    d->n_ctx_original = d->n_ctx_original ? d->n_ctx_original : d->n_ctx;
    const phi_tensor_entry *embedding = find_tensor(s->gguf, "token_embd.weight");
    if (d->n_vocab == 0 && embedding && phi_tensor_entry_rows(embedding) <= PHI_LIMIT_VOCAB) {
        d->n_vocab = (uint32_t)phi_tensor_entry_rows(embedding);
    }
    d->tied_head = !find_tensor(s->gguf, "output.weight");
    return status;
}

static phi_status read_factors(const source *s, const phi_tensor_entry *entry, uint32_t count,
                               float *out)
{
    if (!entry->readable || entry->dtype != PHI_DTYPE_F32 || entry->n_dims != 1 ||
        entry->dims[0] != count) {
        return phi_fail(s->err, PHI_E_FORMAT,
                        "%s: tensor \"%s\" must hold %u F32 numbers, half the rotary dimensions",
                        s->label, entry->name, count);
    }
    return phi_file_read_at(phi_gguf_file(s->gguf), entry->offset, out, count * sizeof *out,
                            s->err);
}

static phi_status read_long_rope(const source *s, phi_description *d)
{
    const phi_tensor_entry *far = find_tensor(s->gguf, LONG_FACTORS);
    const phi_tensor_entry *near = find_tensor(s->gguf, SHORT_FACTORS);
    if (!far && !near) {
        return PHI_OK;
    }
    if (!far || !near) {
        return phi_fail(s->err, PHI_E_FORMAT, "%s: tensor \"%s\" is missing beside \"%s\"",
                        s->label, far ? SHORT_FACTORS : LONG_FACTORS,
                        far ? LONG_FACTORS : SHORT_FACTORS);
    }
    if (d->n_rot > PHI_LIMIT_HEAD_DIM) {
        return phi_fail(s->err, PHI_E_LIMIT, "%s: %s.rope.dimension_count is %u; at most %u",
                        s->label, s->arch, d->n_rot, PHI_LIMIT_HEAD_DIM);
    }
    d->rope = PHI_ROPE_LONG;
    phi_status status = read_factors(s, far, d->n_rot / 2, d->rope_long);
    return status ? status : read_factors(s, near, d->n_rot / 2, d->rope_short);
}

static phi_status get_id(const source *s, const char *key, const phi_description *d, int32_t *out)
{
    uint32_t id = 0;
    if (!phi_gguf_find(s->gguf, key)) {
        return PHI_OK;
    }
    phi_status status = get_u32(s, key, &id);
    if (!status && id >= d->n_vocab) {
        return phi_fail(s->err, PHI_E_FORMAT, "%s: key \"%s\" is %u; the vocabulary has %u entries",
                        s->label, key, id, d->n_vocab);
    }
    if (!status) {
        *out = (int32_t)id;
    }
    return status;
}

static phi_status add_listed_eos(const source *s, phi_description *d)
{
    const phi_gguf_value *list = phi_gguf_find(s->gguf, EOS_IDS_KEY);
    if (!list) {
        return PHI_OK;
    }
    if (list->type != PHI_GGUF_ARRAY || list->element_type != PHI_GGUF_I32 ||
        list->count > PHI_LIMIT_STOP_TOKENS) {
        return phi_fail(s->err, PHI_E_FORMAT,
                        "%s: key \"" EOS_IDS_KEY "\" must be an array of at most %u int32",
                        s->label, PHI_LIMIT_STOP_TOKENS);
    }
    for (uint64_t i = 0; i < list->count; i++) {
        int64_t id = phi_gguf_array_i64(list, i);
        if (id < 0 || id >= (int64_t)d->n_vocab) {
            return phi_fail(s->err, PHI_E_FORMAT,
                            "%s: key \"" EOS_IDS_KEY "\" holds %lld; the vocabulary has %u entries",
                            s->label, (long long)id, d->n_vocab);
        }
        phi_description_add_eos(d, (int32_t)id);
    }
    return PHI_OK;
}

static phi_status read_ids(const source *s, phi_description *d)
{
    static const char *const eos_keys[] = {"tokenizer.ggml.eos_token_id",
                                           "tokenizer.ggml.eot_token_id",
                                           "tokenizer.ggml.eom_token_id"};
    phi_status status = get_id(s, "tokenizer.ggml.bos_token_id", d, &d->bos_id);
    if (!status) {
        status = get_id(s, "tokenizer.ggml.padding_token_id", d, &d->pad_id);
    }
    if (!status) {
        status = get_id(s, "tokenizer.ggml.unknown_token_id", d, &d->unk_id);
    }
    if (!status) {
        status = add_listed_eos(s, d);
    }
    for (size_t i = 0; i < sizeof eos_keys / sizeof *eos_keys && !status; i++) {
        int32_t id = -1;
        status = get_id(s, eos_keys[i], d, &id);
        if (!status && id >= 0) {
            phi_description_add_eos(d, id);
        }
    }
    return status;
}

static void read_name(const source *s, phi_description *d)
{
    phi_gguf_string name;
    if (phi_gguf_get_string(s->gguf, "general.name", &name) &&
        phi_name_is_clean(name.text, name.bytes)) {
        phi_name_copy(name.text, name.bytes, d->name, sizeof d->name);
    }
}

phi_status phi_gguf_config_read(const phi_gguf *gguf, phi_description *out_description,
                                phi_err *err)
{
    source s = {.gguf = gguf, .label = phi_path_label(phi_gguf_file(gguf)->path), .err = err};
    phi_description d;
    phi_arch arch = PHI_ARCH_PHI3;
    phi_status status = check_kind(&s, &arch);
    if (status) {
        return status;
    }
    phi_description_init(&d, arch);
    s.arch = phi_arch_name(arch);
    status = check_scaling(&s);
    if (!status) {
        status = read_numbers(&s, &d);
    }
    if (!status) {
        status = derive(&s, &d);
    }
    if (!status) {
        status = read_long_rope(&s, &d);
    }
    if (!status) {
        status = read_ids(&s, &d);
    }
    if (!status) {
        read_name(&s, &d);
        status = phi_description_check(&d, s.label, err);
    }
    if (!status) {
        *out_description = d;
    }
    return status;
}

void phi_checkpoint_put_description(phi_gguf_writer *writer, const phi_description *description)
{
    const char *arch = phi_arch_name(description->arch);
    phi_description d = *description;
    phi_gguf_put_string(writer, "general.architecture", arch, strlen(arch));
    if (d.name[0]) {
        phi_gguf_put_string(writer, "general.name", d.name, strlen(d.name));
    }
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        bool key_length = numbers[i].offset == FIELD(head_dim);
        if (!key_length || (uint64_t)d.head_dim * d.n_head != d.n_embd) {
            phi_gguf_put_u32(writer, key_of(arch, numbers[i].key).text,
                             *field_at(&d, numbers[i].offset));
        }
    }
    if ((uint64_t)d.head_dim * d.n_head != d.n_embd) {
        phi_gguf_put_u32(writer, key_of(arch, ".attention.value_length").text, d.head_dim);
    }
    phi_gguf_put_f32(writer, norm_eps_key(d.arch).text, d.norm_eps);
    phi_gguf_put_f32(writer, key_of(arch, ".rope.freq_base").text, d.rope_theta);
    phi_gguf_put_f32(writer, key_of(arch, ".rope.scaling.attn_factor").text, d.rope_attn_factor);
    if (d.rope_attn_factor_long != 0.0F) {
        phi_gguf_put_f32(writer, LONG_ATTN_FACTOR_KEY, d.rope_attn_factor_long);
    }
    if (d.ffn == PHI_FFN_EXPERTS) {
        phi_gguf_put_u32(writer, key_of(arch, ".expert_count").text, d.n_expert);
        phi_gguf_put_u32(writer, key_of(arch, ".expert_used_count").text, 2);
        phi_gguf_put_f32(writer, JITTER_KEY, d.router_jitter);
    }
    if (d.n_eos > 0) {
        phi_gguf_put_i32s(writer, EOS_IDS_KEY, d.eos_ids, d.n_eos);
    }
}

void phi_gguf_declare_rope_factors(phi_gguf_writer *writer, const phi_description *description)
{
    if (description->rope == PHI_ROPE_LONG) {
        const uint64_t dims[1] = {description->n_rot / 2};
        phi_gguf_declare_tensor(writer, LONG_FACTORS, PHI_DTYPE_F32, 1, dims);
        phi_gguf_declare_tensor(writer, SHORT_FACTORS, PHI_DTYPE_F32, 1, dims);
    }
}

phi_status phi_gguf_write_rope_factors(phi_gguf_writer *writer, const phi_description *description,
                                       phi_err *err)
{
    if (description->rope != PHI_ROPE_LONG) {
        return PHI_OK;
    }
    size_t bytes = description->n_rot / 2 * sizeof(float);
    phi_status status = phi_gguf_write_data(writer, description->rope_long, bytes, err);
    return status ? status : phi_gguf_write_data(writer, description->rope_short, bytes, err);
}
