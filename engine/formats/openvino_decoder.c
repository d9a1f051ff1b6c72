/*
 * From the logits back to the embedding. Every step knows what a Phi model has in that place and
 * refuses what is something else:
 *   logits   MatMul(norm(h), head)
 *   layer    h' = h + o_proj(attention(norm(h)));  h = h' + down(up * silu(gate)), both of norm(h')
 *            or, of two experts, openvino_experts.c's
 *            or h = (dense(attention(norm(h))) + fc2(gelu(fc1(norm(h))))) + h
 *   norm     openvino_norm.c
 *   Every product may have a bias, added to it, where config.json's model has one.
 *   attention ScaledDotProductAttention of rotated queries and keys; keys and values with those
 *            of the past before them, repeated for groups of heads
 */
#include "engine/formats/openvino_internal.h"

#include <math.h>
#include <string.h>

#include "base/assert.h"

static const phi_ov_value none = {.node = PHI_OV_NONE};

#define REFUSE(value, ...) phi_ov_fail(&o->graph, (value), PHI_E_UNSUPPORTED, err, __VA_ARGS__)

/* ---- sums ---- */

/* What a layer adds to its input: a product, or what experts make, reshaped. */
static bool is_branch(const phi_ov_graph *graph, phi_ov_value value)
{
    return phi_ov_is_product(graph, value) || phi_ov_is(graph, value, PHI_OV_RESHAPE);
}

/* h = residual + branch */
static phi_status match_residual(phi_openvino *o, phi_ov_value value, phi_ov_value *out_residual,
                                 phi_ov_value *out_branch, phi_err *err)
{
    const phi_ov_graph *graph = &o->graph;
    value = phi_ov_unconverted(graph, value);
    if (phi_ov_is(graph, value, PHI_OV_ADD)) {
        phi_ov_value a = phi_ov_unconverted(graph, phi_ov_input(graph, value, 0));
        phi_ov_value b = phi_ov_unconverted(graph, phi_ov_input(graph, value, 1));
        bool second = is_branch(graph, b);
        if (second != is_branch(graph, a)) {
            *out_residual = second ? a : b;
            *out_branch = second ? b : a;
            return PHI_OK;
        }
    }
    return REFUSE(value, "is not the sum of a layer's input and its product that belongs there");
}

/* h = (attention + feed-forward) + residual, in any order: attention is the product of heads side
 * by side, which are reshaped. */
static phi_status match_both(phi_openvino *o, phi_ov_value value, phi_ov_value *out_residual,
                             phi_ov_value *out_attention, phi_ov_value *out_ffn, phi_err *err)
{
    const phi_ov_graph *graph = &o->graph;
    value = phi_ov_unconverted(graph, value);
    for (uint32_t side = 0; side < 2 && phi_ov_is(graph, value, PHI_OV_ADD); side++) {
        phi_ov_value sum = phi_ov_unconverted(graph, phi_ov_input(graph, value, side));
        phi_ov_value a = phi_ov_input(graph, sum, 0);
        phi_ov_value b = phi_ov_input(graph, sum, 1);
        if (phi_ov_is(graph, sum, PHI_OV_ADD) && phi_ov_is_product(graph, a) &&
            phi_ov_is_product(graph, b)) {
            phi_ov_value added = none;
            phi_ov_value mixed = phi_ov_input(graph, phi_ov_product_of(graph, a, &added), 0);
            bool first = phi_ov_is(graph, phi_ov_unconverted(graph, mixed), PHI_OV_RESHAPE);
            *out_attention = first ? a : b;
            *out_ffn = first ? b : a;
            *out_residual = phi_ov_unconverted(graph, phi_ov_input(graph, value, 1 - side));
            return PHI_OK;
        }
    }
    return REFUSE(value, "is not the sum of a layer's input, its attention and its feed-forward "
                         "that belongs there");
}

/* ---- feed-forward ---- */

bool phi_ov_match_silu(const phi_ov_graph *graph, phi_ov_value value, phi_ov_value *out)
{
    if (phi_ov_is(graph, value, PHI_OV_SWISH)) {
        *out = phi_ov_input(graph, value, 0);
        return phi_ov_node_of(graph, value)->n_inputs == 1 ||
               phi_ov_is_number(graph, phi_ov_input(graph, value, 1), 1.0);
    }
    for (uint32_t side = 0; side < 2 && phi_ov_is(graph, value, PHI_OV_MULTIPLY); side++) {
        phi_ov_value sigmoid = phi_ov_input(graph, value, side);
        *out = phi_ov_input(graph, value, 1 - side);
        if (phi_ov_is(graph, sigmoid, PHI_OV_SIGMOID) &&
            phi_ov_same(phi_ov_input(graph, sigmoid, 0), *out)) {
            return true;
        }
    }
    return false;
}

/* down(up * silu(gate)) */
static phi_status match_swiglu(phi_openvino *o, phi_ov_value branch, uint32_t layer,
                               phi_ov_value *out_x, phi_err *err)
{
    const phi_ov_graph *graph = &o->graph;
    uint32_t n_ffn = o->description.n_ffn;
    phi_ov_role down = {.part = PHI_PART_FFN_DOWN, .layer = layer};
    phi_ov_outputs up = {
        .part = PHI_PART_FFN_UP, .layer = layer, .count = 2, .rows = {n_ffn, n_ffn}};
    phi_ov_value product = none;
    phi_status status = phi_ov_match_linear(o, branch, &down, o->description.n_embd, &product, err);
    if (status) {
        return status;
    }
    for (uint32_t side = 0; side < 2 && phi_ov_is(graph, product, PHI_OV_MULTIPLY); side++) {
        if (phi_ov_match_silu(graph, phi_ov_input(graph, product, side), &up.values[0])) {
            up.values[1] = phi_ov_input(graph, product, 1 - side);
            return phi_ov_match_outputs(o, &up, out_x, err);
        }
    }
    return REFUSE(product, "is not the product of one half and silu of the other that belongs "
                           "there");
}

/* fc2(gelu(fc1)) */
static phi_status match_gelu(phi_openvino *o, phi_ov_value branch, uint32_t layer,
                             phi_ov_value *out_x, phi_err *err)
{
    const phi_ov_graph *graph = &o->graph;
    phi_ov_role down = {.part = PHI_PART_FFN_DOWN, .layer = layer};
    phi_ov_role up = {.part = PHI_PART_FFN_FC1, .layer = layer};
    phi_ov_value gelu = none;
    phi_status status = phi_ov_match_linear(o, branch, &down, o->description.n_embd, &gelu, err);
    if (status) {
        return status;
    }
    const char *mode = phi_ov_is(graph, gelu, PHI_OV_GELU) ? phi_ov_node_of(graph, gelu)->mode : "";
    if (!mode || strcmp(mode, "TANH") != 0) {
        return REFUSE(gelu, "is not gelu in tanh's form, which belongs there");
    }
    return phi_ov_match_linear(o, phi_ov_input(graph, gelu, 0), &up, o->description.n_ffn, out_x,
                               err);
}

static phi_status match_ffn(phi_openvino *o, phi_ov_value branch, uint32_t layer,
                            phi_ov_value *out_x, phi_err *err)
{
    switch (o->description.ffn) {
    case PHI_FFN_SWIGLU:
        return match_swiglu(o, branch, layer, out_x, err);
    case PHI_FFN_GELU:
        return match_gelu(o, branch, layer, out_x, err);
    case PHI_FFN_EXPERTS:
        return phi_ov_match_experts(o, branch, layer, out_x, err);
    }
    PHI_UNREACHABLE();
}

/* ---- attention ---- */

/* [batch, heads, tokens, d] of [batch, tokens, heads * d]: tells the latter. The transposition of a
 * single head is another Reshape in optimum-intel's files. */
static bool match_heads(const phi_openvino *o, phi_ov_value value, uint32_t heads,
                        phi_ov_value *out)
{
    static const int64_t order[] = {0, 2, 1, 3};
    const phi_ov_graph *graph = &o->graph;
    const int64_t shape[] = {PHI_OV_UNKNOWN, PHI_OV_UNKNOWN, heads, o->description.head_dim};
    const int64_t open_shape[] = {PHI_OV_UNKNOWN, PHI_OV_UNKNOWN, -1, o->description.head_dim};
    /* 0 keeps what there is. */
    const int64_t single[] = {PHI_OV_UNKNOWN, 1, PHI_OV_UNKNOWN, 0};
    const int64_t stated[] = {PHI_OV_UNKNOWN, 1, PHI_OV_UNKNOWN, o->description.head_dim};
    phi_ov_value how = phi_ov_input(graph, value, 1);
    phi_ov_value reshape = phi_ov_input(graph, value, 0);
    bool transposes =
        phi_ov_is(graph, value, PHI_OV_TRANSPOSE) && phi_ov_lists(graph, how, order, 4);
    bool moves_single =
        heads == 1 && phi_ov_is(graph, value, PHI_OV_RESHAPE) &&
        (phi_ov_lists(graph, how, single, 4) || phi_ov_lists(graph, how, stated, 4));
    phi_ov_value target = phi_ov_input(graph, reshape, 1);
    if ((!transposes && !moves_single) || !phi_ov_is(graph, reshape, PHI_OV_RESHAPE) ||
        (!phi_ov_lists(graph, target, shape, 4) && !phi_ov_lists(graph, target, open_shape, 4))) {
        return false;
    }
    *out = phi_ov_input(graph, reshape, 0);
    return true;
}

/* Keys or values for every head: Unsqueeze, Broadcast and Reshape repeat each group's. */
static phi_status match_repeated(phi_openvino *o, phi_ov_value value, phi_ov_value *out,
                                 phi_err *err)
{
    const phi_ov_graph *graph = &o->graph;
    const phi_description *d = &o->description;
    const int64_t shape[] = {PHI_OV_UNKNOWN, d->n_head, PHI_OV_UNKNOWN, d->head_dim};
    const int64_t wide[] = {PHI_OV_UNKNOWN, PHI_OV_UNKNOWN, d->n_head / d->n_head_kv,
                            PHI_OV_UNKNOWN, PHI_OV_UNKNOWN};
    *out = value;
    if (d->n_head == d->n_head_kv && !phi_ov_is(graph, value, PHI_OV_RESHAPE)) {
        return PHI_OK;
    }
    phi_ov_value broadcast = phi_ov_input(graph, value, 0);
    phi_ov_value unsqueeze = phi_ov_input(graph, broadcast, 0);
    int64_t axis;
    if (!phi_ov_is(graph, value, PHI_OV_RESHAPE) ||
        !phi_ov_lists(graph, phi_ov_input(graph, value, 1), shape, 4) ||
        !phi_ov_is(graph, broadcast, PHI_OV_BROADCAST) ||
        !phi_ov_lists(graph, phi_ov_input(graph, broadcast, 1), wide, 5) ||
        !phi_ov_is(graph, unsqueeze, PHI_OV_UNSQUEEZE) ||
        !phi_ov_integer(graph, phi_ov_input(graph, unsqueeze, 1), &axis) || axis != 2) {
        return REFUSE(value, "does not repeat %u heads for %u, group by group", d->n_head_kv,
                      d->n_head);
    }
    *out = phi_ov_input(graph, unsqueeze, 0);
    return PHI_OK;
}

/* The state that the past is read from; its beginning has to be empty. */
static phi_status match_past(phi_openvino *o, phi_ov_value past, phi_ov_value concat, phi_err *err)
{
    const phi_ov_graph *graph = &o->graph;
    int64_t zero;
    phi_ov_value state = past;
    if (phi_ov_is(graph, past, PHI_OV_GATHER)) {
        state = phi_ov_input(graph, past, 0);
        if (!phi_ov_is_parameter(graph, phi_ov_input(graph, past, 1), "beam_idx") ||
            !phi_ov_integer(graph, phi_ov_input(graph, past, 2), &zero) || zero != 0) {
            return REFUSE(past, "is not the past by beam_idx that belongs there");
        }
    }
    if (!phi_ov_is(graph, state, PHI_OV_READ_VALUE) || !phi_ov_node_of(graph, state)->text) {
        return REFUSE(state, "stands where keys or values of the past belong");
    }
    if (phi_ov_node_of(graph, state)->n_inputs) {
        static const int64_t empty[] = {PHI_OV_UNKNOWN, PHI_OV_UNKNOWN, 0, PHI_OV_UNKNOWN};
        phi_ov_value first = phi_ov_input(graph, state, 0);
        if (!phi_ov_is(graph, first, PHI_OV_BROADCAST) ||
            !phi_ov_lists(graph, phi_ov_input(graph, first, 1), empty, 4)) {
            return REFUSE(state, "begins with keys or values, where Phi models begin with none");
        }
    }
    /* What is read must be what was written. */
    for (uint32_t i = 0; i < graph->node_count; i++) {
        phi_ov_value assign = {.node = i};
        if (graph->nodes[i].op == PHI_OV_ASSIGN && graph->nodes[i].text &&
            strcmp(graph->nodes[i].text, phi_ov_node_of(graph, state)->text) == 0) {
            return phi_ov_same(phi_ov_input(graph, assign, 0), concat)
                       ? PHI_OK
                       : REFUSE(assign, "keeps something else than is read from it");
        }
    }
    return REFUSE(state, "reads a state that nothing is kept in");
}

/* Past and new keys or values, one after the other: tells the new. */
static phi_status match_cached(phi_openvino *o, phi_ov_value value, phi_ov_value *out, phi_err *err)
{
    const phi_ov_graph *graph = &o->graph;
    phi_ov_value concat = none;
    phi_status status = match_repeated(o, value, &concat, err);
    if (status) {
        return status;
    }
    const phi_ov_node *node =
        phi_ov_is(graph, concat, PHI_OV_CONCAT) ? phi_ov_node_of(graph, concat) : NULL;
    if (!node || node->n_inputs != 2 || (node->axis != 2 && node->axis != -2)) {
        return REFUSE(concat, "does not join keys or values of the past with the new ones");
    }
    *out = phi_ov_input(graph, concat, 1);
    return match_past(o, phi_ov_input(graph, concat, 0), concat, err);
}

static phi_status match_sdpa(phi_openvino *o, phi_ov_value sdpa, phi_err *err)
{
    const phi_ov_graph *graph = &o->graph;
    const phi_ov_node *node = phi_ov_node_of(graph, sdpa);
    double scale = 1.0 / sqrt((double)o->description.head_dim);
    if (node->n_inputs > 5) {
        return REFUSE(sdpa, "has a sink, which no Phi model has");
    }
    if (node->n_inputs == 5 && !phi_ov_is_number(graph, phi_ov_input(graph, sdpa, 4), scale)) {
        return REFUSE(sdpa, "scales by something else than %g", scale);
    }
    if (node->n_inputs < 4 || node->causal) {
        return REFUSE(sdpa, "has no mask among its inputs");
    }
    return phi_ov_match_mask(o, phi_ov_input(graph, sdpa, 3), err);
}

static phi_status match_attention(phi_openvino *o, phi_ov_value value, uint32_t layer,
                                  phi_ov_value *out_x, phi_err *err)
{
    static const int64_t order[] = {0, 2, 1, 3};
    const phi_ov_graph *graph = &o->graph;
    const phi_description *d = &o->description;
    const int64_t shape[] = {PHI_OV_UNKNOWN, PHI_OV_UNKNOWN, (int64_t)d->n_head * d->head_dim};
    const int64_t open_shape[] = {PHI_OV_UNKNOWN, PHI_OV_UNKNOWN, -1};
    phi_ov_value transpose = phi_ov_input(graph, value, 0);
    phi_ov_value sdpa = phi_ov_input(graph, transpose, 0);
    if (!phi_ov_is(graph, value, PHI_OV_RESHAPE) ||
        (!phi_ov_lists(graph, phi_ov_input(graph, value, 1), shape, 3) &&
         !phi_ov_lists(graph, phi_ov_input(graph, value, 1), open_shape, 3)) ||
        !phi_ov_is(graph, transpose, PHI_OV_TRANSPOSE) ||
        !phi_ov_lists(graph, phi_ov_input(graph, transpose, 1), order, 4) ||
        !phi_ov_is(graph, sdpa, PHI_OV_SDPA)) {
        return REFUSE(value, "is not the attention that belongs there, heads side by side");
    }
    phi_ov_outputs qkv = {
        .part = PHI_PART_ATTN_QKV,
        .layer = layer,
        .count = 3,
        .rows = {d->n_head * d->head_dim, d->n_head_kv * d->head_dim, d->n_head_kv * d->head_dim}};
    phi_ov_value q = none;
    phi_ov_value k = none;
    phi_ov_value v = none;
    phi_status status = match_sdpa(o, sdpa, err);
    status = status ? status : phi_ov_match_rope(o, phi_ov_input(graph, sdpa, 0), &q, err);
    status = status ? status : match_cached(o, phi_ov_input(graph, sdpa, 1), &k, err);
    status = status ? status : phi_ov_match_rope(o, k, &k, err);
    status = status ? status : match_cached(o, phi_ov_input(graph, sdpa, 2), &v, err);
    if (status) {
        return status;
    }
    if (!match_heads(o, q, d->n_head, &qkv.values[0]) ||
        !match_heads(o, k, d->n_head_kv, &qkv.values[1]) ||
        !match_heads(o, v, d->n_head_kv, &qkv.values[2])) {
        return REFUSE(sdpa, "has queries, keys or values that are not %u and %u heads of %u",
                      d->n_head, d->n_head_kv, d->head_dim);
    }
    return phi_ov_match_outputs(o, &qkv, out_x, err);
}

/* ---- the whole ---- */

/* A norm of what `residual` is. */
static phi_status match_norm_of(phi_openvino *o, phi_ov_value normed, phi_part part, uint32_t layer,
                                phi_ov_value residual, phi_err *err)
{
    phi_ov_value x = none;
    phi_status status = phi_ov_match_norm(o, normed, part, layer, &x, err);
    return status || phi_ov_same(x, residual)
               ? status
               : REFUSE(normed, "is not a norm of what the layer's output is added to");
}

static phi_status match_mixed(phi_openvino *o, phi_ov_value branch, uint32_t layer,
                              phi_ov_value *out_x, phi_err *err)
{
    phi_ov_role out = {.part = PHI_PART_ATTN_OUTPUT, .layer = layer};
    phi_ov_value mixed = none;
    phi_status status = phi_ov_match_linear(o, branch, &out, o->description.n_embd, &mixed, err);
    return status ? status : match_attention(o, mixed, layer, out_x, err);
}

static phi_status match_layer(phi_openvino *o, uint32_t layer, phi_ov_value *h, phi_err *err)
{
    phi_ov_value middle = none;
    phi_ov_value input = none;
    phi_ov_value branch = none;
    phi_ov_value normed = none;
    phi_status status = match_residual(o, *h, &middle, &branch, err);
    status = status ? status : match_ffn(o, branch, layer, &normed, err);
    status = status ? status : match_norm_of(o, normed, PHI_PART_FFN_NORM, layer, middle, err);
    status = status ? status : match_residual(o, middle, &input, &branch, err);
    status = status ? status : match_mixed(o, branch, layer, &normed, err);
    status = status ? status : match_norm_of(o, normed, PHI_PART_ATTN_NORM, layer, input, err);
    *h = input;
    return status;
}

/* One norm for both. */
static phi_status match_parallel_layer(phi_openvino *o, uint32_t layer, phi_ov_value *h,
                                       phi_err *err)
{
    phi_ov_value input = none;
    phi_ov_value attention = none;
    phi_ov_value ffn = none;
    phi_ov_value normed = none;
    phi_ov_value other = none;
    phi_status status = match_both(o, *h, &input, &attention, &ffn, err);
    status = status ? status : match_ffn(o, ffn, layer, &other, err);
    status = status ? status : match_mixed(o, attention, layer, &normed, err);
    if (!status && !phi_ov_same(normed, other)) {
        return REFUSE(other, "is not the norm that the attention beside it reads");
    }
    status = status ? status : match_norm_of(o, normed, PHI_PART_ATTN_NORM, layer, input, err);
    *h = input;
    return status;
}

static phi_status match_embedding(phi_openvino *o, phi_ov_value value, phi_err *err)
{
    const phi_ov_graph *graph = &o->graph;
    phi_ov_role role = {.part = PHI_PART_TOKEN_EMBD};
    int64_t axis;
    if (!phi_ov_is(graph, value, PHI_OV_GATHER) ||
        !phi_ov_is_parameter(graph, phi_ov_unconverted(graph, phi_ov_input(graph, value, 1)),
                             "input_ids") ||
        !phi_ov_integer(graph, phi_ov_input(graph, value, 2), &axis) || axis != 0 ||
        phi_ov_node_of(graph, value)->batch_dims) {
        return REFUSE(value,
                      "stands where rows of model.embed_tokens.weight by input_ids belong "
                      "(config.json says %u layers)",
                      o->description.n_layer);
    }
    return phi_ov_take_matrix(o, phi_ov_input(graph, value, 0), &role, o->description.n_vocab,
                              &o->embedding, err);
}

static phi_status match_head(phi_openvino *o, phi_ov_value result, phi_ov_value *out_x,
                             phi_ov_value *out_constant, phi_err *err)
{
    const phi_ov_graph *graph = &o->graph;
    phi_ov_role role = {.part = PHI_PART_OUTPUT};
    phi_ov_value value = phi_ov_unconverted(graph, phi_ov_input(graph, result, 0));
    if (o->description.head_bias) {
        phi_ov_role bias = {.part = PHI_PART_OUTPUT_BIAS};
        phi_ov_value added = none;
        value = phi_ov_product_of(graph, value, &added);
        phi_status status = phi_ov_take_vector(o, added, &bias, o->description.n_vocab, err);
        if (status) {
            return status;
        }
    }
    if (!phi_ov_is(graph, value, PHI_OV_MATMUL) || phi_ov_node_of(graph, value)->transpose_a ||
        !phi_ov_node_of(graph, value)->transpose_b) {
        return REFUSE(value, "stands where the product with lm_head.weight belongs");
    }
    *out_x = phi_ov_input(graph, value, 0);
    /* A tied head's constant is the embedding's, whose name it has. */
    return phi_ov_take_matrix(o, phi_ov_input(graph, value, 1), &role, o->description.n_vocab,
                              out_constant, err);
}

/* One result, and no states but those of the layers' keys and values. */
static phi_status find_result(phi_openvino *o, phi_ov_value *out_result, phi_err *err)
{
    uint32_t states = 0;
    *out_result = none;
    for (uint32_t i = 0; i < o->graph.node_count; i++) {
        phi_ov_value value = {.node = i};
        phi_ov_op op = o->graph.nodes[i].op;
        states += op == PHI_OV_READ_VALUE || op == PHI_OV_ASSIGN;
        if (op == PHI_OV_RESULT && out_result->node != PHI_OV_NONE) {
            return REFUSE(value, "is a second result; a Phi model's only one is its logits");
        }
        if (op == PHI_OV_RESULT) {
            *out_result = value;
        }
    }
    if (out_result->node == PHI_OV_NONE) {
        return phi_fail(err, PHI_E_FORMAT, "%s: there is no result", o->graph.label);
    }
    if (states != 4 * o->description.n_layer) {
        return phi_fail(err, PHI_E_UNSUPPORTED,
                        "%s: %u layers read or keep states; %u are right for the %u layers of "
                        "config.json (export it with a stateful cache)",
                        o->graph.label, states, 4 * o->description.n_layer, o->description.n_layer);
    }
    return PHI_OK;
}

phi_status phi_ov_read_decoder(phi_openvino *o, phi_err *err)
{
    phi_ov_value result = none;
    phi_ov_value head = none;
    phi_ov_value h = none;
    phi_status status = find_result(o, &result, err);
    status = status ? status : match_head(o, result, &h, &head, err);
    status = status ? status : phi_ov_match_norm(o, h, PHI_PART_OUTPUT_NORM, 0, &h, err);
    for (uint32_t layer = o->description.n_layer; layer-- > 0 && !status;) {
        status = o->description.is_parallel ? match_parallel_layer(o, layer, &h, err)
                                            : match_layer(o, layer, &h, err);
    }
    status = status ? status : match_embedding(o, h, err);
    if (status) {
        return status;
    }
    o->description.tied_head = phi_ov_same(head, o->embedding);
    phi_ov_found_at(o, &(phi_ov_role){.part = PHI_PART_OUTPUT})->present =
        !o->description.tied_head;
    return PHI_OK;
}
