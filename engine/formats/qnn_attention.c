/*
 * Attention of one layer over a context of static length, in whose places the new tokens' keys and
 * values are put. Queries of a group share their keys by being rows of one product. Queries and
 * keys come out of their matrices evened out (qnn_data.c), which the rotation does not notice,
 * because both of a pair are multiplied by the same.
 */
#include "engine/formats/qnn_graph.h"

#include <math.h>

#include "engine/formats/protobuf_write.h"

/* ---- what all layers share ---- */

/* A value that the first stage computes in floats, in the coding that the graph gives it. */
static void add_given(phi_qnn_graph *g, const char *input, const char *name, phi_qnn_range range,
                      uint32_t n_dims, const uint64_t *dims)
{
    phi_onnx_put_value(&g->proto, PHI_ONNX_GRAPH_INPUT, input, PHI_ONNX_FLOAT, n_dims, NULL, dims);
    phi_qnn_coding(g, name, range, 16);
    phi_qnn_quantize(g, input, name, name);
}

void phi_qnn_add_shared(phi_qnn_graph *g)
{
    const phi_description *d = g->w->export->description;
    const uint64_t rotary[3] = {g->n_tok, 1, d->n_rot / 2};
    const uint64_t mask[4] = {1, 1, g->n_tok, g->w->context};
    const uint64_t index[4] = {1, d->n_head_kv, g->n_tok, d->head_dim};
    const phi_qnn_range unit =
        phi_qnn_around(d->rope == PHI_ROPE_LONG ? fabsf(d->rope_attn_factor) : 1.0F);
    add_given(g, PHI_QNN_COS, "cos", unit, 3, rotary);
    add_given(g, PHI_QNN_SIN, "sin", unit, 3, rotary);
    add_given(g, PHI_QNN_MASK, "mask", (phi_qnn_range){g->w->mask, 0.0F}, 4, mask);
    phi_onnx_put_value(&g->proto, PHI_ONNX_GRAPH_INPUT, PHI_QNN_INDEX, PHI_ONNX_INT32, 4, NULL,
                       index);
    phi_qnn_coding(g, "unit", (phi_qnn_range){0.0F, 1.0F}, 16);
}

/* ---- rotation ---- */

/* The halves that are rotated, and the rest where there is one. */
static void split_head(phi_qnn_graph *g, const char *name, const char *coding)
{
    const phi_description *d = g->w->export->description;
    const int64_t sizes[3] = {d->n_rot / 2, d->n_rot / 2, d->head_dim - d->n_rot};
    const uint64_t count = sizes[2] ? 3 : 2;
    const char *split = phi_qnn_name(g, "%s/split", name);
    phi_buf tensor =
        phi_onnx_make_tensor(split, PHI_ONNX_INT64, 1, &count, sizes, count * sizeof *sizes);
    phi_proto_put_message(&g->proto, PHI_ONNX_GRAPH_INITIALIZER, &tensor);
    phi_buf node = phi_onnx_start_node(
        "Split", "", phi_qnn_name(g, "%s/parts", name), phi_qnn_name(g, "%s/still %s", name, split),
        count == 3 ? phi_qnn_name(g, "%s/a/raw %s/b/raw %s/c/raw", name, name, name)
                   : phi_qnn_name(g, "%s/a/raw %s/b/raw", name, name));
    phi_onnx_put_int(&node, "axis", 2);
    phi_proto_put_message(&g->proto, PHI_ONNX_GRAPH_NODE, &node);
    for (uint64_t i = 0; i < count; i++) {
        const char *part = phi_qnn_name(g, "%s/%c", name, "abc"[i]);
        phi_qnn_quantize(g, phi_qnn_name(g, "%s/raw", part), part, coding);
    }
}

/* NAME [n_tok, heads * d] becomes NAME/heads [n_tok, heads, d], rotated. */
static void rotate(phi_qnn_graph *g, const char *name, uint32_t heads, const char *coding)
{
    const phi_description *d = g->w->export->description;
    const int64_t dims[3] = {g->n_tok, heads, d->head_dim};
    phi_qnn_reshape(g, name, phi_qnn_name(g, "%s/still", name), coding, 3, dims);
    split_head(g, name, coding);
    phi_qnn_op(g, "Mul", phi_qnn_name(g, "%s/a cos", name), phi_qnn_name(g, "%s/a/cos", name),
               coding);
    phi_qnn_op(g, "Mul", phi_qnn_name(g, "%s/b sin", name), phi_qnn_name(g, "%s/b/sin", name),
               coding);
    phi_qnn_op(g, "Mul", phi_qnn_name(g, "%s/b cos", name), phi_qnn_name(g, "%s/b/cos", name),
               coding);
    phi_qnn_op(g, "Mul", phi_qnn_name(g, "%s/a sin", name), phi_qnn_name(g, "%s/a/sin", name),
               coding);
    phi_qnn_op(g, "Sub", phi_qnn_name(g, "%s/a/cos %s/b/sin", name, name),
               phi_qnn_name(g, "%s/first", name), coding);
    phi_qnn_op(g, "Add", phi_qnn_name(g, "%s/b/cos %s/a/sin", name, name),
               phi_qnn_name(g, "%s/second", name), coding);
    const char *rotated = phi_qnn_name(g, "%s/heads", name);
    phi_buf node = phi_qnn_begin("Concat",
                                 d->n_rot < d->head_dim
                                     ? phi_qnn_name(g, "%s/first %s/second %s/c", name, name, name)
                                     : phi_qnn_name(g, "%s/first %s/second", name, name),
                                 g, rotated);
    phi_onnx_put_int(&node, "axis", 2);
    phi_qnn_end(g, &node, rotated, coding);
}

/* ---- keys and values ---- */

/* New ones, [n_tok, Hkv, d], into the places of the cache that the first stage says; in 8 bits. The
 * caches of past and present may be one memory. */
static void add_cache(phi_qnn_graph *g, const char *name, uint32_t layer, const char *what,
                      const char *coding)
{
    static const int64_t order[3] = {1, 0, 2};
    const phi_description *d = g->w->export->description;
    const char *past = phi_qnn_name(g, "past_%s_%u", what, layer);
    const char *present = phi_qnn_name(g, "present_%s_%u", what, layer);
    const char *cache = phi_qnn_name(g, "%s/cache", name);
    const char *raw = phi_qnn_name(g, "%s/all/raw", name);
    const uint64_t shape[4] = {1, d->n_head_kv, g->w->context, d->head_dim};
    const int64_t dims[4] = {1, d->n_head_kv, g->n_tok, d->head_dim};
    phi_onnx_put_value(&g->proto, PHI_ONNX_GRAPH_INPUT, past, PHI_ONNX_UINT8, 4, NULL, shape);
    phi_onnx_put_value(&g->proto, PHI_ONNX_GRAPH_OUTPUT, present, PHI_ONNX_UINT8, 4, NULL, shape);
    phi_qnn_transpose(g, phi_qnn_name(g, "%s/heads", name), phi_qnn_name(g, "%s/turned", name),
                      coding, 3, order);
    phi_qnn_reshape(g, phi_qnn_name(g, "%s/turned", name), phi_qnn_name(g, "%s/placed", name),
                    coding, 4, dims);
    phi_qnn_quantize(g, phi_qnn_name(g, "%s/placed", name), phi_qnn_name(g, "%s/new", name), cache);
    phi_qnn_dequantize(g, past, phi_qnn_name(g, "%s/past", name), cache);
    phi_buf node =
        phi_onnx_start_node("ScatterElements", "", raw,
                            phi_qnn_name(g, "%s/past " PHI_QNN_INDEX " %s/new", name, name), raw);
    phi_onnx_put_int(&node, "axis", 2);
    phi_proto_put_message(&g->proto, PHI_ONNX_GRAPH_NODE, &node);
    phi_buf codes =
        phi_onnx_start_node("QuantizeLinear", "", present,
                            phi_qnn_name(g, "%s %s/scale %s/zero", raw, cache, cache), present);
    phi_proto_put_message(&g->proto, PHI_ONNX_GRAPH_NODE, &codes);
    phi_qnn_dequantize(g, present, phi_qnn_name(g, "%s/all", name), cache);
}

static void add_keys(phi_qnn_graph *g, uint32_t layer, const char *normed)
{
    static const int64_t order[4] = {0, 1, 3, 2};
    const phi_description *d = g->w->export->description;
    const char *name = phi_qnn_name(g, "layers.%u.key", layer);
    const char *coding = phi_qnn_name(g, "%s/value", name);
    const char *cache = phi_qnn_name(g, "%s/cache", name);
    phi_qnn_coding(g, coding, phi_qnn_around(g->w->heads[layer].key), 16);
    phi_qnn_coding(g, cache, phi_qnn_around(g->w->heads[layer].key), 8);
    phi_qnn_product(g, phi_qnn_name(g, "%s/matrix", name), normed, name, coding);
    rotate(g, name, d->n_head_kv, coding);
    add_cache(g, name, layer, "keys", coding);
    phi_qnn_transpose(g, phi_qnn_name(g, "%s/all", name), phi_qnn_name(g, "%s/across", name), cache,
                      4, order);
}

static void add_values(phi_qnn_graph *g, uint32_t layer, const char *normed)
{
    const phi_description *d = g->w->export->description;
    const phi_qnn_range range = g->w->ranges->layers[layer].value;
    const int64_t heads[3] = {g->n_tok, d->n_head_kv, d->head_dim};
    const char *name = phi_qnn_name(g, "layers.%u.value", layer);
    const char *coding = phi_qnn_name(g, "%s/value", name);
    phi_qnn_coding(g, coding, range, 16);
    phi_qnn_coding(g, phi_qnn_name(g, "%s/cache", name), range, 8);
    phi_qnn_product(g, phi_qnn_name(g, "%s/matrix", name), normed, name, coding);
    phi_qnn_reshape(g, name, phi_qnn_name(g, "%s/heads", name), coding, 3, heads);
    add_cache(g, name, layer, "values", coding);
}

/* ---- attention ---- */

/* [1, Hkv, queries of a group, d]: the tokens of its first head, then those of the next. */
static const char *add_queries(phi_qnn_graph *g, uint32_t layer, const char *normed)
{
    static const int64_t order[3] = {1, 0, 2};
    const phi_description *d = g->w->export->description;
    const int64_t rows = (int64_t)d->n_head / d->n_head_kv * g->n_tok;
    const int64_t dims[4] = {1, d->n_head_kv, rows, d->head_dim};
    const char *name = phi_qnn_name(g, "layers.%u.query", layer);
    const char *coding = phi_qnn_name(g, "%s/value", name);
    const char *grouped = phi_qnn_name(g, "%s/grouped", name);
    phi_qnn_coding(g, coding, phi_qnn_around(g->w->heads[layer].query), 16);
    phi_qnn_product(g, phi_qnn_name(g, "%s/matrix", name), normed, name, coding);
    rotate(g, name, d->n_head, coding);
    phi_qnn_transpose(g, phi_qnn_name(g, "%s/heads", name), phi_qnn_name(g, "%s/turned", name),
                      coding, 3, order);
    phi_qnn_reshape(g, phi_qnn_name(g, "%s/turned", name), grouped, coding, 4, dims);
    return grouped;
}

/* Scores [1, Hkv, queries, context] to shares of attention. The mask has a row for each token, so
 * heads and tokens must be apart where there are several of both. */
static const char *add_shares(phi_qnn_graph *g, uint32_t layer, const char *scores)
{
    const phi_description *d = g->w->export->description;
    const int64_t group = (int64_t)d->n_head / d->n_head_kv;
    const int64_t apart[4] = {d->n_head_kv, group, g->n_tok, g->w->context};
    const int64_t joined[4] = {1, d->n_head_kv, group * g->n_tok, g->w->context};
    const phi_qnn_range range = g->w->ranges->layers[layer].score;
    const char *coding = phi_qnn_name(g, "layers.%u.score", layer);
    const char *masked = phi_qnn_name(g, "layers.%u.masked", layer);
    const char *shares = phi_qnn_name(g, "layers.%u.share", layer);
    const bool is_apart = group > 1 && g->n_tok > 1;
    if (is_apart) {
        const char *by_head = phi_qnn_name(g, "%s/apart", scores);
        phi_qnn_reshape(g, scores, by_head, coding, 4, apart);
        scores = by_head;
    }
    phi_qnn_coding(g, masked, (phi_qnn_range){fminf(range.low, 0.0F) - PHI_QNN_UNSEEN, range.high},
                   16);
    phi_qnn_op(g, "Add", phi_qnn_name(g, "%s mask", scores), masked, masked);
    phi_buf node = phi_qnn_begin("Softmax", masked, g, shares);
    phi_onnx_put_int(&node, "axis", -1);
    phi_qnn_end(g, &node, shares, "unit");
    if (is_apart) {
        const char *together = phi_qnn_name(g, "%s/joined", shares);
        phi_qnn_reshape(g, shares, together, "unit", 4, joined);
        shares = together;
    }
    return shares;
}

void phi_qnn_add_attention(phi_qnn_graph *g, uint32_t layer, const char *normed, const char *output)
{
    static const int64_t order[3] = {1, 0, 2};
    const phi_description *d = g->w->export->description;
    const phi_qnn_layer_ranges *ranges = &g->w->ranges->layers[layer];
    const int64_t heads[3] = {d->n_head, g->n_tok, d->head_dim};
    const int64_t rows[2] = {g->n_tok, (int64_t)d->n_head * d->head_dim};
    const char *score = phi_qnn_name(g, "layers.%u.score", layer);
    const char *attn = phi_qnn_name(g, "layers.%u.attn", layer);
    const char *out = phi_qnn_name(g, "layers.%u.attn_out", layer);
    const char *queries = add_queries(g, layer, normed);
    add_keys(g, layer, normed);
    add_values(g, layer, normed);
    phi_qnn_coding(g, score, ranges->score, 16);
    phi_qnn_op(g, "MatMul", phi_qnn_name(g, "%s layers.%u.key/across", queries, layer), score,
               score);
    const char *shares = add_shares(g, layer, score);
    phi_qnn_coding(g, attn, ranges->attn, 16);
    phi_qnn_op(g, "MatMul", phi_qnn_name(g, "%s layers.%u.value/all", shares, layer), attn, attn);
    phi_qnn_reshape(g, attn, phi_qnn_name(g, "%s/heads", attn), attn, 3, heads);
    phi_qnn_transpose(g, phi_qnn_name(g, "%s/heads", attn), phi_qnn_name(g, "%s/turned", attn),
                      attn, 3, order);
    phi_qnn_reshape(g, phi_qnn_name(g, "%s/turned", attn), phi_qnn_name(g, "%s/rows", attn), attn,
                    2, rows);
    phi_qnn_coding(g, out, ranges->attn_out, 16);
    phi_qnn_product(g, phi_qnn_name(g, "%s/matrix", out), phi_qnn_name(g, "%s/rows", attn), output,
                    out);
}
