#include "engine/formats/hf_names.h"

#include <stdio.h>

#include "base/assert.h"

typedef struct part_names {
    bool in_layer;
    bool vector;
    uint32_t pieces;
    const char *whole[2];    /* by phi_naming */
    const char *piece[2][3]; /* by phi_naming, in row order */
} part_names;

static const part_names table[PHI_PART_COUNT] = {
    [PHI_PART_TOKEN_EMBD] = {.whole = {"token_embd.weight", "model.embed_tokens.weight"}},
    [PHI_PART_ATTN_NORM] = {.in_layer = true,
                            .vector = true,
                            .whole = {"attn_norm.weight", "input_layernorm.weight"}},
    [PHI_PART_ATTN_QKV] = {.in_layer = true,
                           .pieces = 3,
                           .whole = {"attn_qkv.weight", "self_attn.qkv_proj.weight"},
                           .piece = {{"attn_q.weight", "attn_k.weight", "attn_v.weight"},
                                     {"self_attn.q_proj.weight", "self_attn.k_proj.weight",
                                      "self_attn.v_proj.weight"}}},
    [PHI_PART_ATTN_OUTPUT] = {.in_layer = true,
                              .whole = {"attn_output.weight", "self_attn.o_proj.weight"}},
    [PHI_PART_FFN_NORM] = {.in_layer = true,
                           .vector = true,
                           .whole = {"ffn_norm.weight", "post_attention_layernorm.weight"}},
    [PHI_PART_FFN_UP] = {.in_layer = true,
                         .pieces = 2,
                         .whole = {"ffn_up.weight", "mlp.gate_up_proj.weight"},
                         .piece = {{"ffn_gate.weight", "ffn_up.weight"},
                                   {"mlp.gate_proj.weight", "mlp.up_proj.weight"}}},
    [PHI_PART_FFN_DOWN] = {.in_layer = true, .whole = {"ffn_down.weight", "mlp.down_proj.weight"}},
    [PHI_PART_OUTPUT_NORM] = {.vector = true, .whole = {"output_norm.weight", "model.norm.weight"}},
    [PHI_PART_OUTPUT] = {.whole = {"output.weight", "lm_head.weight"}},
};

static const part_names *get(phi_part part)
{
    PHI_ASSERT(part < PHI_PART_COUNT);
    return &table[part];
}

bool phi_part_in_layer(phi_part part)
{
    return get(part)->in_layer;
}

bool phi_part_is_vector(phi_part part)
{
    return get(part)->vector;
}

uint32_t phi_part_pieces(phi_part part)
{
    return get(part)->pieces;
}

static void write_name(const part_names *names, const char *name, phi_naming naming, uint32_t layer,
                       char *out, size_t out_bytes)
{
    int length;
    if (names->in_layer) {
        const char *prefix = naming == PHI_NAMING_HF ? "model.layers" : "blk";
        length = snprintf(out, out_bytes, "%s.%u.%s", prefix, layer, name);
    } else {
        length = snprintf(out, out_bytes, "%s", name);
    }
    PHI_ASSERT(length > 0 && (size_t)length < out_bytes);
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
    PHI_ASSERT(piece < names->pieces);
    write_name(names, names->piece[naming][piece], naming, layer, out, out_bytes);
}
