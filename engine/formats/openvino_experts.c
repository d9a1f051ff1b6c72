/*
 * Feed-forward by experts, as transformers computes it and optimum-intel traces it: every expert on
 * every token, times what the router gives it, which is 0 for all but two. OpenVINO's CPU plugin
 * knows this graph and multiplies what is chosen only.
 *   out      Reshape(ReduceSum(down(silu(gate x) * up x) * shares, of experts)), x tiled [E, T, n]
 *   shares   [E, T, 1] of ScatterElementsUpdate(zeros, chosen, weights)
 *   choice   of a pool of scores: the best, and its weight in the softmax of the pool without those
 *            that are far below it: (best - score) / max(|score|, best) > 2 * jitter
 *   second   the same, of the scores with the first one at minus infinity
 */
#include "engine/formats/openvino_internal.h"

#include <math.h>
#include <string.h>

static const phi_ov_value none = {.node = PHI_OV_NONE};

#define REFUSE(value, ...) phi_ov_fail(&o->graph, (value), PHI_E_UNSUPPORTED, err, __VA_ARGS__)

/* The input of an operation, less conversions; NONE where it is another operation. */
static phi_ov_value input_of(const phi_ov_graph *graph, phi_ov_value value, phi_ov_op op,
                             uint32_t index)
{
    value = phi_ov_unconverted(graph, value);
    return phi_ov_is(graph, value, op)
               ? phi_ov_unconverted(graph, phi_ov_input(graph, value, index))
               : none;
}

/* Behind slices that leave all that there is. */
static phi_ov_value unsliced(const phi_ov_graph *graph, phi_ov_value value)
{
    static const int64_t zeros[] = {0, 0};
    static const int64_t ones[] = {1, 1};
    value = phi_ov_unconverted(graph, value);
    bool is_all = phi_ov_is(graph, value, PHI_OV_SLICE) &&
                  phi_ov_lists(graph, phi_ov_input(graph, value, 1), zeros, 2) &&
                  phi_ov_is(graph, phi_ov_input(graph, value, 2), PHI_OV_SHAPE_OF) &&
                  phi_ov_lists(graph, phi_ov_input(graph, value, 3), ones, 2);
    return is_all ? phi_ov_unconverted(graph, phi_ov_input(graph, value, 0)) : value;
}

/* ---- the router ---- */

typedef struct choice {
    phi_ov_value index;  /* [T, 1] */
    phi_ov_value weight; /* [T, 1] */
} choice;

static bool is_axis(const phi_ov_node *node)
{
    return node->axis == -1 || node->axis == 1;
}

/* The greatest of each row of `pool`, alone or with its place. */
static bool is_best(const phi_ov_graph *graph, phi_ov_value value, phi_ov_value pool, bool place)
{
    value = phi_ov_unconverted(graph, value);
    if (value.node == PHI_OV_NONE ||
        !phi_ov_same(phi_ov_unconverted(graph, phi_ov_input(graph, value, 0)), pool)) {
        return false;
    }
    const phi_ov_node *node = phi_ov_node_of(graph, value);
    if (node->op == PHI_OV_REDUCE_MAX) {
        return !place && node->keep_dims && phi_ov_is_axis(graph, phi_ov_input(graph, value, 1), 1);
    }
    int64_t k;
    return node->op == PHI_OV_TOP_K && value.output == (place ? 1U : 0U) && is_axis(node) &&
           node->mode && strcmp(node->mode, "max") == 0 &&
           phi_ov_integer(graph, phi_ov_input(graph, value, 1), &k) && k == 1;
}

static bool is_low(const phi_ov_graph *graph, phi_ov_value value)
{
    float number;
    return phi_ov_float(graph, unsliced(graph, value), &number) && isinf(number) && number < 0.0F;
}

/* (best - scores) / max(|scores|, best) > 2 * jitter */
static bool is_far(const phi_openvino *o, phi_ov_value value, phi_ov_value pool,
                   phi_ov_value scores)
{
    const phi_ov_graph *graph = &o->graph;
    phi_ov_value ratio = input_of(graph, value, PHI_OV_GREATER, 0);
    phi_ov_value below = input_of(graph, ratio, PHI_OV_DIVIDE, 0);
    phi_ov_value size = input_of(graph, ratio, PHI_OV_DIVIDE, 1);
    phi_ov_value best = input_of(graph, below, PHI_OV_SUBTRACT, 0);
    if (!phi_ov_is_number(graph, input_of(graph, value, PHI_OV_GREATER, 1),
                          2.0 * (double)o->description.router_jitter) ||
        !is_best(graph, best, pool, false) ||
        !phi_ov_same(input_of(graph, below, PHI_OV_SUBTRACT, 1), scores)) {
        return false;
    }
    for (uint32_t side = 0; side < 2; side++) {
        phi_ov_value magnitude = input_of(graph, size, PHI_OV_MAXIMUM, side);
        if (phi_ov_same(input_of(graph, magnitude, PHI_OV_ABS, 0), scores) &&
            is_best(graph, input_of(graph, size, PHI_OV_MAXIMUM, 1 - side), pool, false)) {
            return true;
        }
    }
    return false;
}

static phi_status match_choice(phi_openvino *o, const choice *c, phi_ov_value pool,
                               phi_ov_value scores, phi_err *err)
{
    const phi_ov_graph *graph = &o->graph;
    phi_ov_value weight = phi_ov_unconverted(graph, c->weight);
    phi_ov_value softmax = input_of(graph, weight, PHI_OV_GATHER_ELEMENTS, 0);
    phi_ov_value near = input_of(graph, softmax, PHI_OV_SOFTMAX, 0);
    if (near.node == PHI_OV_NONE || !is_axis(phi_ov_node_of(graph, weight)) ||
        !is_axis(phi_ov_node_of(graph, softmax)) ||
        !phi_ov_same(input_of(graph, weight, PHI_OV_GATHER_ELEMENTS, 1), c->index) ||
        !is_best(graph, c->index, pool, true)) {
        return REFUSE(weight, "is not the share of the best expert that belongs there");
    }
    if (!phi_ov_is(graph, near, PHI_OV_SELECT) || !is_low(graph, phi_ov_input(graph, near, 1)) ||
        !phi_ov_same(input_of(graph, near, PHI_OV_SELECT, 2), pool) ||
        !is_far(o, phi_ov_input(graph, near, 0), pool, scores)) {
        return REFUSE(near,
                      "does not leave out experts that are further below the best than %g "
                      "times their size",
                      2.0 * (double)o->description.router_jitter);
    }
    return PHI_OK;
}

/* Two, side by side. */
static bool match_pair(const phi_ov_graph *graph, phi_ov_value value, phi_ov_value *first,
                       phi_ov_value *second)
{
    value = unsliced(graph, value);
    *first = input_of(graph, value, PHI_OV_CONCAT, 0);
    *second = input_of(graph, value, PHI_OV_CONCAT, 1);
    return first->node != PHI_OV_NONE && second->node != PHI_OV_NONE &&
           phi_ov_node_of(graph, value)->n_inputs == 2 && is_axis(phi_ov_node_of(graph, value));
}

/* ScatterElementsUpdate that sets elements of rows. */
static bool is_scatter(const phi_ov_graph *graph, phi_ov_value value)
{
    const phi_ov_node *node =
        phi_ov_is(graph, value, PHI_OV_SCATTER) ? phi_ov_node_of(graph, value) : NULL;
    return node && (!node->mode || strcmp(node->mode, "none") == 0) &&
           phi_ov_is_axis(graph, phi_ov_input(graph, value, 3), 1);
}

/* `value` is [T, E]: each token's two weights, zeros elsewhere; the scores are products of the
 * router with `tokens`. */
static phi_status match_router(phi_openvino *o, phi_ov_value value, uint32_t layer,
                               phi_ov_value tokens, phi_err *err)
{
    const phi_ov_graph *graph = &o->graph;
    phi_ov_role role = {.part = PHI_PART_FFN_ROUTER, .layer = layer};
    choice first = {none, none};
    choice second = {none, none};
    phi_ov_value x = none;
    float zero;
    if (!is_scatter(graph, value) || !phi_ov_float(graph, phi_ov_input(graph, value, 0), &zero) ||
        zero != 0.0F ||
        !match_pair(graph, phi_ov_input(graph, value, 1), &first.index, &second.index) ||
        !match_pair(graph, phi_ov_input(graph, value, 2), &first.weight, &second.weight)) {
        return REFUSE(value, "does not give each token's two experts their weights");
    }
    phi_ov_value scores = input_of(graph, first.index, PHI_OV_TOP_K, 0);
    phi_ov_value rest = input_of(graph, second.index, PHI_OV_TOP_K, 0);
    if (!is_scatter(graph, rest) ||
        !phi_ov_same(input_of(graph, rest, PHI_OV_SCATTER, 0), scores) ||
        !phi_ov_same(input_of(graph, rest, PHI_OV_SCATTER, 1), first.index) ||
        !is_low(graph, phi_ov_input(graph, rest, 2))) {
        return REFUSE(rest, "is not the scores less the best, which belongs there");
    }
    phi_status status = match_choice(o, &first, scores, scores, err);
    status = status ? status : match_choice(o, &second, rest, scores, err);
    status =
        status ? status : phi_ov_match_linear(o, scores, &role, o->description.n_expert, &x, err);
    return status || phi_ov_same(x, tokens)
               ? status
               : REFUSE(scores, "scores something else than the experts read");
}

/* ---- experts ---- */

/* [T, n] of [E, T, n], where it is repeated for each expert. */
static bool match_tiled(const phi_openvino *o, phi_ov_value value, phi_ov_value *out_tokens)
{
    const phi_ov_graph *graph = &o->graph;
    const int64_t stacked[] = {o->description.n_expert, -1, o->description.n_embd};
    const int64_t times[] = {o->description.n_expert, 1};
    phi_ov_value tile = input_of(graph, value, PHI_OV_RESHAPE, 0);
    *out_tokens = input_of(graph, tile, PHI_OV_TILE, 0);
    return out_tokens->node != PHI_OV_NONE &&
           phi_ov_lists(graph, input_of(graph, value, PHI_OV_RESHAPE, 1), stacked, 3) &&
           phi_ov_lists(graph, input_of(graph, tile, PHI_OV_TILE, 1), times, 2);
}

/* A product with every expert's own matrix. */
static phi_status match_stacked(phi_openvino *o, phi_ov_value value, phi_part part, uint32_t layer,
                                phi_ov_value *out_x, phi_err *err)
{
    const phi_description *d = &o->description;
    phi_ov_role role = {.part = part, .layer = layer};
    uint32_t rows = part == PHI_PART_FFN_DOWN_EXPS ? d->n_embd : d->n_ffn;
    return phi_ov_match_linear(o, value, &role, d->n_expert * rows, out_x, err);
}

/* down(silu(gate x) * up x): tells x, of each expert. */
static phi_status match_outputs(phi_openvino *o, phi_ov_value value, uint32_t layer,
                                phi_ov_value *out_x, phi_err *err)
{
    const phi_ov_graph *graph = &o->graph;
    phi_ov_value gated = none;
    phi_ov_value gate = none;
    phi_ov_value other = none;
    phi_status status = match_stacked(o, value, PHI_PART_FFN_DOWN_EXPS, layer, &gated, err);
    if (status) {
        return status;
    }
    for (uint32_t side = 0; side < 2 && phi_ov_is(graph, gated, PHI_OV_MULTIPLY); side++) {
        if (phi_ov_match_silu(graph, phi_ov_input(graph, gated, side), &gate)) {
            phi_ov_value up = phi_ov_input(graph, gated, 1 - side);
            status = match_stacked(o, gate, PHI_PART_FFN_GATE_EXPS, layer, out_x, err);
            status =
                status ? status : match_stacked(o, up, PHI_PART_FFN_UP_EXPS, layer, &other, err);
            return status || phi_ov_same(*out_x, other)
                       ? status
                       : REFUSE(up, "multiplies something else than its neighbour does");
        }
    }
    return REFUSE(gated, "is not the product of one half and silu of the other that belongs there");
}

/* [T, E] of [E, T, 1] */
static phi_ov_value match_shares(const phi_openvino *o, phi_ov_value value)
{
    static const int64_t order[] = {1, 0};
    const phi_ov_graph *graph = &o->graph;
    phi_ov_value column = input_of(graph, value, PHI_OV_UNSQUEEZE, 0);
    if (!phi_ov_is_axis(graph, input_of(graph, value, PHI_OV_UNSQUEEZE, 1), 2)) {
        return none;
    }
    const int64_t shape[] = {o->description.n_expert, PHI_OV_UNKNOWN};
    if (phi_ov_is(graph, column, PHI_OV_RESHAPE) &&
        phi_ov_lists(graph, phi_ov_input(graph, column, 1), shape, 2)) {
        column = input_of(graph, column, PHI_OV_RESHAPE, 0);
    }
    return phi_ov_lists(graph, input_of(graph, column, PHI_OV_TRANSPOSE, 1), order, 2)
               ? input_of(graph, column, PHI_OV_TRANSPOSE, 0)
               : none;
}

phi_status phi_ov_match_experts(phi_openvino *o, phi_ov_value branch, uint32_t layer,
                                phi_ov_value *out_x, phi_err *err)
{
    const phi_ov_graph *graph = &o->graph;
    const phi_description *d = &o->description;
    const int64_t flat[] = {-1, d->n_embd};
    const int64_t stacked[] = {d->n_expert, PHI_OV_UNKNOWN, d->n_embd};
    int64_t axis = -1;
    phi_ov_value sum = input_of(graph, branch, PHI_OV_RESHAPE, 0);
    phi_ov_value weighed = input_of(graph, sum, PHI_OV_REDUCE_SUM, 0);
    if (!phi_ov_is(graph, weighed, PHI_OV_MULTIPLY) ||
        !phi_ov_integer(graph, phi_ov_input(graph, sum, 1), &axis) || axis != 0 ||
        phi_ov_node_of(graph, sum)->keep_dims) {
        return REFUSE(branch, "is not the sum of weighed experts that belongs there");
    }
    bool second = phi_ov_is(graph, phi_ov_unconverted(graph, phi_ov_input(graph, weighed, 1)),
                            PHI_OV_UNSQUEEZE);
    phi_ov_value outputs = input_of(graph, weighed, PHI_OV_MULTIPLY, second ? 0 : 1);
    phi_ov_value shares =
        match_shares(o, input_of(graph, weighed, PHI_OV_MULTIPLY, second ? 1 : 0));
    if (phi_ov_is(graph, outputs, PHI_OV_RESHAPE) &&
        phi_ov_lists(graph, phi_ov_input(graph, outputs, 1), stacked, 3)) {
        outputs = input_of(graph, outputs, PHI_OV_RESHAPE, 0);
    }
    if (shares.node == PHI_OV_NONE) {
        return REFUSE(weighed, "does not weigh experts by the router's shares");
    }
    phi_ov_value tiled = none;
    phi_ov_value tokens = none;
    phi_status status = match_outputs(o, outputs, layer, &tiled, err);
    if (!status && !match_tiled(o, tiled, &tokens)) {
        return REFUSE(tiled, "does not give every expert every token");
    }
    status = status ? status : match_router(o, shares, layer, tokens, err);
    if (status) {
        return status;
    }
    *out_x = input_of(graph, tokens, PHI_OV_RESHAPE, 0);
    return phi_ov_lists(graph, input_of(graph, tokens, PHI_OV_RESHAPE, 1), flat, 2)
               ? PHI_OK
               : REFUSE(tokens, "does not put tokens one below the other");
}
