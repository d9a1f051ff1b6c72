#include "engine/formats/qnn_graph.h"

#include <math.h>

/* silu(x) = x sigmoid(x) is nowhere less than this. */
#define SILU_LEAST (-0.2785F)

static const char *add_sum(phi_qnn_graph *g, const char *stream, const char *branch,
                           const char *name, phi_qnn_range range)
{
    phi_qnn_coding(g, name, range, 16);
    phi_qnn_op(g, "Add", phi_qnn_name(g, "%s %s", stream, branch), name, name);
    return name;
}

/* down (silu(gate x) * up x) */
static const char *add_feed_forward(phi_qnn_graph *g, uint32_t layer, const char *normed)
{
    const phi_qnn_layer_ranges *ranges = &g->w->ranges->layers[layer];
    const char *gate = phi_qnn_name(g, "layers.%u.gate", layer);
    const char *up = phi_qnn_name(g, "layers.%u.up", layer);
    const char *open = phi_qnn_name(g, "layers.%u.open", layer);
    const char *silu = phi_qnn_name(g, "layers.%u.silu", layer);
    const char *both = phi_qnn_name(g, "layers.%u.ffn", layer);
    const char *out = phi_qnn_name(g, "layers.%u.ffn_out", layer);
    phi_qnn_coding(g, gate, ranges->gate, 16);
    phi_qnn_coding(g, up, ranges->up, 16);
    phi_qnn_coding(g, silu, (phi_qnn_range){SILU_LEAST, fmaxf(ranges->gate.high, 0.0F)}, 16);
    phi_qnn_coding(g, both, ranges->ffn, 16);
    phi_qnn_coding(g, out, ranges->ffn_out, 16);
    phi_qnn_product(g, phi_qnn_name(g, "%s/matrix", gate), normed, gate, gate);
    phi_qnn_product(g, phi_qnn_name(g, "%s/matrix", up), normed, up, up);
    phi_qnn_op(g, "Sigmoid", gate, open, "unit");
    phi_qnn_op(g, "Mul", phi_qnn_name(g, "%s %s", gate, open), silu, silu);
    phi_qnn_op(g, "Mul", phi_qnn_name(g, "%s %s", silu, up), both, both);
    phi_qnn_product(g, phi_qnn_name(g, "%s/matrix", out), both, out, out);
    return out;
}

void phi_qnn_add_layer(phi_qnn_graph *g, uint32_t layer, const char **stream, const char **coding)
{
    const phi_qnn_layer_ranges *ranges = &g->w->ranges->layers[layer];
    const char *attn_norm = phi_qnn_name(g, "layers.%u.attn_norm", layer);
    const char *attn_out = phi_qnn_name(g, "layers.%u.attn_out", layer);
    const char *ffn_norm = phi_qnn_name(g, "layers.%u.ffn_norm", layer);
    phi_qnn_norm(g, *stream, PHI_PART_ATTN_NORM, layer, attn_norm, ranges->attn_norm);
    phi_qnn_add_attention(g, layer, attn_norm, attn_out);
    const char *middle = add_sum(g, *stream, attn_out, phi_qnn_name(g, "layers.%u.attn_sum", layer),
                                 ranges->attn_sum);
    phi_qnn_norm(g, middle, PHI_PART_FFN_NORM, layer, ffn_norm, ranges->ffn_norm);
    const char *branch = add_feed_forward(g, layer, ffn_norm);
    *stream = add_sum(g, middle, branch, phi_qnn_name(g, "layers.%u.sum", layer), ranges->sum);
    *coding = *stream;
}
