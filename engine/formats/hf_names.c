#include "engine/formats/hf_names.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/str.h"

typedef struct part_names {
    bool in_layer;
    bool vector;
    bool stacked;
    const char *expert;                     /* of HF_PHIMOE's: what follows an expert's number */
    const char *gguf_expert;                /* of GGUF's: what stands before it */
    const char *whole[PHI_NAMING_COUNT];    /* by phi_naming; NULL: none, or in pieces only */
    const char *piece[PHI_NAMING_COUNT][3]; /* by phi_naming, in row order */
} part_names;

static const part_names table[PHI_PART_COUNT] = {
    [PHI_PART_TOKEN_EMBD] = {.whole = {"token_embd.weight", "model.embed_tokens.weight",
                                       "model.embed_tokens.weight", "model.embed_tokens.weight"}},
    [PHI_PART_ATTN_NORM] = {.in_layer = true,
                            .vector = true,
                            .whole = {"attn_norm.weight", "input_layernorm.weight",
                                      "input_layernorm.weight", "input_layernorm.weight"}},
    [PHI_PART_ATTN_NORM_BIAS] = {.in_layer = true,
                                 .vector = true,
                                 .whole = {"attn_norm.bias", NULL, "input_layernorm.bias",
                                           "input_layernorm.bias"}},
    [PHI_PART_ATTN_QKV] = {.in_layer = true,
                           .whole = {"attn_qkv.weight", "self_attn.qkv_proj.weight", NULL, NULL},
                           .piece = {{"attn_q.weight", "attn_k.weight", "attn_v.weight"},
                                     {"self_attn.q_proj.weight", "self_attn.k_proj.weight",
                                      "self_attn.v_proj.weight"},
                                     {"self_attn.q_proj.weight", "self_attn.k_proj.weight",
                                      "self_attn.v_proj.weight"},
                                     {"self_attn.q_proj.weight", "self_attn.k_proj.weight",
                                      "self_attn.v_proj.weight"}}},
    [PHI_PART_ATTN_QKV_BIAS] =
        {.in_layer = true,
         .vector = true,
         .whole = {"attn_qkv.bias", NULL, NULL, NULL},
         .piece = {{"attn_q.bias", "attn_k.bias", "attn_v.bias"},
                   {NULL, NULL, NULL},
                   {"self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"},
                   {"self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"}}},
    [PHI_PART_ATTN_OUTPUT] = {.in_layer = true,
                              .whole = {"attn_output.weight", "self_attn.o_proj.weight",
                                        "self_attn.dense.weight", "self_attn.o_proj.weight"}},
    [PHI_PART_ATTN_OUTPUT_BIAS] = {.in_layer = true,
                                   .vector = true,
                                   .whole = {"attn_output.bias", NULL, "self_attn.dense.bias",
                                             "self_attn.o_proj.bias"}},
    [PHI_PART_FFN_NORM] = {.in_layer = true,
                           .vector = true,
                           .whole = {"ffn_norm.weight", "post_attention_layernorm.weight", NULL,
                                     "post_attention_layernorm.weight"}},
    [PHI_PART_FFN_NORM_BIAS] = {.in_layer = true,
                                .vector = true,
                                .whole = {"ffn_norm.bias", NULL, NULL,
                                          "post_attention_layernorm.bias"}},
    [PHI_PART_FFN_ROUTER] = {.in_layer = true,
                             .whole = {"ffn_gate_inp.weight", NULL, NULL,
                                       "block_sparse_moe.gate.weight"}},
    [PHI_PART_FFN_GATE_EXPS] = {.in_layer = true,
                                .stacked = true,
                                .expert = "w1.weight",
                                .gguf_expert = "ffn_gate",
                                .whole = {"ffn_gate_exps.weight", NULL, NULL,
                                          "block_sparse_moe.switch_mlp.gate_proj.weight"}},
    [PHI_PART_FFN_UP_EXPS] = {.in_layer = true,
                              .stacked = true,
                              .expert = "w3.weight",
                              .gguf_expert = "ffn_up",
                              .whole = {"ffn_up_exps.weight", NULL, NULL,
                                        "block_sparse_moe.switch_mlp.up_proj.weight"}},
    [PHI_PART_FFN_DOWN_EXPS] = {.in_layer = true,
                                .stacked = true,
                                .expert = "w2.weight",
                                .gguf_expert = "ffn_down",
                                .whole = {"ffn_down_exps.weight", NULL, NULL,
                                          "block_sparse_moe.switch_mlp.down_proj.weight"}},
    [PHI_PART_FFN_UP] = {.in_layer = true,
                         .whole = {"ffn_up.weight", "mlp.gate_up_proj.weight", NULL},
                         .piece = {{"ffn_gate.weight", "ffn_up.weight"},
                                   {"mlp.gate_proj.weight", "mlp.up_proj.weight"},
                                   {NULL, NULL}}},
    [PHI_PART_FFN_FC1] = {.in_layer = true, .whole = {"ffn_up.weight", NULL, "mlp.fc1.weight"}},
    [PHI_PART_FFN_FC1_BIAS] = {.in_layer = true,
                               .vector = true,
                               .whole = {"ffn_up.bias", NULL, "mlp.fc1.bias"}},
    [PHI_PART_FFN_DOWN] = {.in_layer = true,
                           .whole = {"ffn_down.weight", "mlp.down_proj.weight", "mlp.fc2.weight"}},
    [PHI_PART_FFN_DOWN_BIAS] = {.in_layer = true,
                                .vector = true,
                                .whole = {"ffn_down.bias", NULL, "mlp.fc2.bias"}},
    [PHI_PART_OUTPUT_NORM] = {.vector = true,
                              .whole = {"output_norm.weight", "model.norm.weight",
                                        "model.final_layernorm.weight", "model.norm.weight"}},
    [PHI_PART_OUTPUT_NORM_BIAS] = {.vector = true,
                                   .whole = {"output_norm.bias", NULL, "model.final_layernorm.bias",
                                             "model.norm.bias"}},
    [PHI_PART_OUTPUT] = {.whole = {"output.weight", "lm_head.weight", "lm_head.weight",
                                   "lm_head.weight"}},
    [PHI_PART_OUTPUT_BIAS] = {.vector = true,
                              .whole = {"output.bias", NULL, "lm_head.bias", "lm_head.bias"}},
};

/* What tools call phimoe's tensors that the published models, and this table, call otherwise:
 * auto-round 0.16 and llm-compressor 0.14, and transformers 5 where save_original_format is false,
 * which has the others in gate_up_proj (phi_part_half_name). */
static const struct {
    const char *usual;
    const char *other;
} spellings[] = {
    {".block_sparse_moe.gate.", ".block_sparse_moe.router."},
    {".w1.", ".gate_proj."},
    {".w3.", ".up_proj."},
    {".w2.", ".down_proj."},
    {".block_sparse_moe.gate.", ".mlp.router."},
    {".block_sparse_moe.switch_mlp.down_proj.weight", ".mlp.experts.down_proj"},
};

static const part_names *get(phi_part part)
{
    PHI_ASSERT(part < PHI_PART_COUNT);
    return &table[part];
}

phi_naming phi_naming_of(phi_arch arch)
{
    switch (arch) {
    case PHI_ARCH_PHI3:
        return PHI_NAMING_HF;
    case PHI_ARCH_PHI2:
        return PHI_NAMING_HF_PHI;
    case PHI_ARCH_PHIMOE:
        return PHI_NAMING_HF_PHIMOE;
    }
    PHI_UNREACHABLE();
}

bool phi_part_is_of(phi_part part, const phi_description *d)
{
    switch (part) {
    case PHI_PART_TOKEN_EMBD:
    case PHI_PART_ATTN_NORM:
    case PHI_PART_ATTN_QKV:
    case PHI_PART_ATTN_OUTPUT:
    case PHI_PART_OUTPUT_NORM:
        return true;
    case PHI_PART_FFN_DOWN:
        return d->ffn != PHI_FFN_EXPERTS;
    case PHI_PART_FFN_ROUTER:
    case PHI_PART_FFN_GATE_EXPS:
    case PHI_PART_FFN_UP_EXPS:
    case PHI_PART_FFN_DOWN_EXPS:
        return d->ffn == PHI_FFN_EXPERTS;
    case PHI_PART_FFN_NORM_BIAS:
        return d->norm == PHI_NORM_LAYER && !d->is_parallel;
    case PHI_PART_ATTN_NORM_BIAS:
    case PHI_PART_OUTPUT_NORM_BIAS:
        return d->norm == PHI_NORM_LAYER;
    case PHI_PART_ATTN_QKV_BIAS:
    case PHI_PART_ATTN_OUTPUT_BIAS:
        return d->attn_bias;
    case PHI_PART_FFN_NORM:
        return !d->is_parallel;
    case PHI_PART_FFN_UP:
        return d->ffn == PHI_FFN_SWIGLU;
    case PHI_PART_FFN_FC1:
    case PHI_PART_FFN_FC1_BIAS:
    case PHI_PART_FFN_DOWN_BIAS:
        return d->ffn == PHI_FFN_GELU;
    case PHI_PART_OUTPUT:
        return !d->tied_head;
    case PHI_PART_OUTPUT_BIAS:
        return d->head_bias;
    case PHI_PART_COUNT:
        break;
    }
    PHI_UNREACHABLE();
}

bool phi_part_in_layer(phi_part part)
{
    return get(part)->in_layer;
}

bool phi_part_is_vector(phi_part part)
{
    return get(part)->vector;
}

phi_part phi_part_bias(phi_part part)
{
    phi_part next = (phi_part)(part + 1);
    bool is_bias =
        next < PHI_PART_COUNT && phi_str_ends(get(next)->whole[PHI_NAMING_GGUF], ".bias");
    return is_bias ? next : PHI_PART_COUNT;
}

bool phi_part_has_pieces(phi_part part, phi_naming naming)
{
    const part_names *names = get(part);
    bool has_experts = naming == PHI_NAMING_HF_PHIMOE || naming == PHI_NAMING_GGUF;
    return names->piece[naming][0] || (names->stacked && has_experts);
}

bool phi_part_is_stacked(phi_part part)
{
    return get(part)->stacked;
}

static void write_name(const part_names *names, const char *name, phi_naming naming, uint32_t layer,
                       char *out, size_t out_bytes)
{
    int length;
    PHI_ASSERT(name);
    if (names->in_layer) {
        const char *prefix = naming == PHI_NAMING_GGUF ? "blk" : "model.layers";
        length = snprintf(out, out_bytes, "%s.%u.%s", prefix, layer, name);
    } else {
        length = snprintf(out, out_bytes, "%s", name);
    }
    PHI_ASSERT(length > 0 && (size_t)length < out_bytes);
}

bool phi_part_has_whole(phi_part part, phi_naming naming)
{
    return get(part)->whole[naming] != NULL;
}

void phi_part_name(phi_part part, phi_naming naming, uint32_t layer, char *out, size_t out_bytes)
{
    const part_names *names = get(part);
    write_name(names, names->whole[naming], naming, layer, out, out_bytes);
}

void phi_part_piece_name(phi_part part, uint32_t piece, phi_naming naming, uint32_t layer,
                         char *out, size_t out_bytes)
{
    const part_names *names = get(part);
    PHI_ASSERT(phi_part_has_pieces(part, naming));
    if (!names->stacked) {
        write_name(names, names->piece[naming][piece], naming, layer, out, out_bytes);
        return;
    }
    int length =
        naming == PHI_NAMING_GGUF
            ? snprintf(out, out_bytes, "blk.%u.%s.%u.weight", layer, names->gguf_expert, piece)
            : snprintf(out, out_bytes, "model.layers.%u.block_sparse_moe.experts.%u.%s", layer,
                       piece, names->expert);
    PHI_ASSERT(length > 0 && (size_t)length < out_bytes);
}

bool phi_part_half_name(phi_part part, phi_naming naming, uint32_t layer, uint32_t *out_half,
                        char *out, size_t out_bytes)
{
    if (naming != PHI_NAMING_HF_PHIMOE ||
        (part != PHI_PART_FFN_GATE_EXPS && part != PHI_PART_FFN_UP_EXPS)) {
        return false;
    }
    *out_half = part == PHI_PART_FFN_UP_EXPS;
    write_name(get(part), "mlp.experts.gate_up_proj", naming, layer, out, out_bytes);
    return true;
}

bool phi_name_respell(const char *name, uint32_t *at, char *out, size_t out_bytes)
{
    while (*at < sizeof spellings / sizeof *spellings) {
        const char *usual = spellings[*at].usual;
        const char *other = spellings[*at].other;
        const char *found = strstr(name, usual);
        *at += 1;
        if (found) {
            int length = snprintf(out, out_bytes, "%.*s%s%s", (int)(found - name), name, other,
                                  found + strlen(usual));
            PHI_ASSERT(length > 0 && (size_t)length < out_bytes);
            return true;
        }
    }
    return false;
}

phi_part phi_part_of_name(const char *name, const phi_description *description, uint32_t *out_layer)
{
    unsigned layer = 0;
    (void)sscanf(name, "blk.%u.", &layer);
    for (int i = 0; i < PHI_PART_COUNT; i++) {
        char own[PHI_LIMIT_TENSOR_NAME_BYTES];
        phi_part part = (phi_part)i;
        if (!phi_part_is_of(part, description)) {
            continue;
        }
        phi_part_name(part, PHI_NAMING_GGUF, layer, own, sizeof own);
        if (strcmp(own, name) == 0) {
            *out_layer = layer;
            return part;
        }
    }
    PHI_UNREACHABLE();
}

/* The same matrix for every expert. */
static uint32_t stack_shape(const phi_description *d, uint32_t each,
                            uint32_t rows[PHI_PART_PIECES_MAX])
{
    for (uint32_t i = 0; i < d->n_expert; i++) {
        rows[i] = each;
    }
    return d->n_expert;
}

uint32_t phi_part_shape(phi_part part, const phi_description *d, uint32_t rows[PHI_PART_PIECES_MAX],
                        uint32_t *out_cols)
{
    *out_cols = d->n_embd;
    rows[0] = d->n_embd;
    switch (part) {
    case PHI_PART_TOKEN_EMBD:
    case PHI_PART_OUTPUT:
    case PHI_PART_OUTPUT_BIAS:
        rows[0] = d->n_vocab;
        return 1;
    case PHI_PART_ATTN_QKV:
    case PHI_PART_ATTN_QKV_BIAS:
        rows[0] = d->n_head * d->head_dim;
        rows[1] = d->n_head_kv * d->head_dim;
        rows[2] = rows[1];
        return 3;
    case PHI_PART_ATTN_OUTPUT:
        *out_cols = d->n_head * d->head_dim;
        return 1;
    case PHI_PART_FFN_UP:
        rows[0] = d->n_ffn;
        rows[1] = d->n_ffn;
        return 2;
    case PHI_PART_FFN_ROUTER:
        rows[0] = d->n_expert;
        return 1;
    case PHI_PART_FFN_GATE_EXPS:
    case PHI_PART_FFN_UP_EXPS:
        return stack_shape(d, d->n_ffn, rows);
    case PHI_PART_FFN_DOWN_EXPS:
        *out_cols = d->n_ffn;
        return stack_shape(d, d->n_embd, rows);
    case PHI_PART_FFN_FC1:
    case PHI_PART_FFN_FC1_BIAS:
        rows[0] = d->n_ffn;
        return 1;
    case PHI_PART_FFN_DOWN:
        *out_cols = d->n_ffn;
        return 1;
    case PHI_PART_ATTN_NORM:
    case PHI_PART_ATTN_NORM_BIAS:
    case PHI_PART_ATTN_OUTPUT_BIAS:
    case PHI_PART_FFN_NORM:
    case PHI_PART_FFN_NORM_BIAS:
    case PHI_PART_FFN_DOWN_BIAS:
    case PHI_PART_OUTPUT_NORM:
    case PHI_PART_OUTPUT_NORM_BIAS:
        return 1;
    case PHI_PART_COUNT:
        break;
    }
    PHI_UNREACHABLE();
}

bool phi_name_is_former(const char *name)
{
    return strstr(name, ".mixer.Wqkv.") != NULL;
}

uint32_t phi_part_count_stacked(phi_part part, const phi_description *d, uint32_t rows)
{
    uint32_t each[PHI_PART_PIECES_MAX];
    uint32_t cols;
    (void)phi_part_shape(part, d, each, &cols);
    return phi_part_is_stacked(part) ? rows / each[0] : 1;
}

size_t phi_part_count_pieces(const phi_description *d)
{
    size_t count = 0;
    for (int part = 0; part < PHI_PART_COUNT; part++) {
        uint32_t rows[PHI_PART_PIECES_MAX];
        uint32_t cols;
        if (phi_part_is_of((phi_part)part, d)) {
            count += phi_part_shape((phi_part)part, d, rows, &cols) * (size_t)d->n_layer;
        }
    }
    return count;
}
