/*
 * Feed-forward by experts, the graph at the top of onnx_write_experts.c. It is followed operator by
 * operator, because routers that differ in one of them choose other experts: MoE and QMoE of
 * onnxruntime, which route in their own way, are refused by name.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "engine/formats/onnx_walk.h"

/* ---- steps ---- */

/* The node that gives a value, which has to be of that operator. */
static phi_status need(const onnx_walk *w, const char *value, const char *op, phi_onnx_node **out)
{
    onnx_source source = phi_onnx_source(w, value);
    if (!source.node || source.tensor || source.output != 0 || !phi_onnx_is(source.node, op)) {
        char what[80];
        (void)snprintf(what, sizeof what, "%s, in choosing experts or adding them up", op);
        return phi_onnx_refuse_source(w, value, what);
    }
    source.node->used = true;
    *out = source.node;
    return PHI_OK;
}

/* The same of a node's input. */
static phi_status need_input(const onnx_walk *w, const phi_onnx_node *node, uint32_t index,
                             const char *op, phi_onnx_node **out)
{
    return need(w, phi_onnx_input(node, index), op, out);
}

static bool same(const onnx_walk *w, const char *a, const char *b)
{
    onnx_source first = phi_onnx_source(w, a);
    onnx_source second = phi_onnx_source(w, b);
    return (first.node || first.tensor) && phi_onnx_same(&first, &second);
}

static bool is_last_axis(const phi_onnx_node *node, int64_t otherwise)
{
    int64_t axis = phi_onnx_attribute_int(node, "axis", otherwise);
    return axis == -1 || axis == 1;
}

/* A stored list of whole numbers. */
static bool is_list(const onnx_walk *w, const char *value, uint32_t count, const int64_t *right)
{
    const phi_onnx_tensor *tensor = phi_onnx_source(w, value).tensor;
    int64_t numbers[PHI_LIMIT_EXPERTS];
    phi_err ignored;
    return tensor && tensor->type == PHI_ONNX_INT64 && tensor->data.file &&
           tensor->data.bytes == count * sizeof *numbers &&
           phi_file_read_at(tensor->data.file, tensor->data.offset, numbers,
                            (size_t)tensor->data.bytes, &ignored) == PHI_OK &&
           memcmp(numbers, right, (size_t)tensor->data.bytes) == 0;
}

static bool is_number(const onnx_walk *w, const char *value, int64_t right)
{
    const phi_onnx_tensor *tensor = phi_onnx_source(w, value).tensor;
    return tensor && tensor->has_number && tensor->number == right;
}

/* One stored number; NaN where there is none. */
static float number_of(const phi_onnx_tensor *tensor)
{
    float number = NAN;
    phi_err ignored;
    if (tensor && tensor->type == PHI_ONNX_FLOAT && tensor->data.file &&
        tensor->data.bytes == sizeof number) {
        float read;
        bool failed = phi_file_read_at(tensor->data.file, tensor->data.offset, &read, sizeof read,
                                       &ignored) != PHI_OK;
        number = failed ? number : read;
    }
    return number;
}

static float float_of(const onnx_walk *w, const char *value)
{
    return number_of(phi_onnx_source(w, value).tensor);
}

/* ---- the router ---- */

typedef struct choice {
    const char *pool;   /* of these scores */
    const char *scores; /* all */
    float far;
} choice;

/* The greatest of each row. */
static bool is_best(const onnx_walk *w, const phi_onnx_node *node)
{
    const phi_onnx_attribute *axes = phi_onnx_attribute_find(node, "axes");
    bool listed = axes && axes->n_ints == 1 && (axes->ints[0] == -1 || axes->ints[0] == 1);
    const char *axis = phi_onnx_input(node, 1);
    return phi_onnx_attribute_int(node, "keepdims", 1) == 1 &&
           (listed || is_number(w, axis, -1) || is_number(w, axis, 1));
}

/* (best - score) / max(|score|, best) > far */
static phi_status read_far(const onnx_walk *w, const char *value, choice *out)
{
    phi_onnx_node *greater = NULL;
    phi_onnx_node *ratio = NULL;
    phi_onnx_node *below = NULL;
    phi_onnx_node *size = NULL;
    phi_onnx_node *best = NULL;
    phi_onnx_node *magnitude = NULL;
    phi_status status = need(w, value, "Greater", &greater);
    status = status ? status : need_input(w, greater, 0, "Div", &ratio);
    status = status ? status : need_input(w, ratio, 0, "Sub", &below);
    status = status ? status : need_input(w, ratio, 1, "Max", &size);
    status = status ? status : need_input(w, below, 0, "ReduceMax", &best);
    if (status || !size) {
        return status;
    }
    bool first = same(w, phi_onnx_input(size, 0), phi_onnx_input(below, 0));
    status = need_input(w, size, first ? 1 : 0, "Abs", &magnitude);
    if (status) {
        return status;
    }
    out->scores = phi_onnx_input(below, 1);
    out->far = float_of(w, phi_onnx_input(greater, 1));
    if (!is_best(w, best) || !same(w, phi_onnx_input(best, 0), out->pool)) {
        return phi_onnx_refuse(w, best, "is not the best score of those that are chosen from");
    }
    if (size->n_inputs != 2 || !same(w, phi_onnx_input(magnitude, 0), out->scores) ||
        !same(w, phi_onnx_input(size, first ? 0 : 1), phi_onnx_input(below, 0))) {
        return phi_onnx_refuse(w, size, "is not the larger of a score's magnitude and the best");
    }
    if (!(out->far > 0.0F)) {
        return phi_onnx_refuse(w, greater, "compares with no number above 0");
    }
    return PHI_OK;
}

/* `chosen` marks an expert of each token, `shares` are those of a softmax. */
static phi_status read_choice(const onnx_walk *w, const char *chosen, const char *shares,
                              choice *out)
{
    phi_onnx_node *equal = NULL;
    phi_onnx_node *index = NULL;
    phi_onnx_node *softmax = NULL;
    phi_onnx_node *near = NULL;
    int64_t numbers[PHI_LIMIT_EXPERTS];
    for (uint32_t i = 0; i < PHI_LIMIT_EXPERTS; i++) {
        numbers[i] = i;
    }
    phi_status status = need(w, chosen, "Equal", &equal);
    bool first = !status && phi_onnx_source(w, phi_onnx_input(equal, 0)).tensor;
    status = status ? status : need_input(w, equal, first ? 1 : 0, "ArgMax", &index);
    status = status ? status : need(w, shares, "Softmax", &softmax);
    status = status ? status : need_input(w, softmax, 0, "Where", &near);
    if (status) {
        return status;
    }
    if (!is_list(w, phi_onnx_input(equal, first ? 0 : 1), w->decoder->n_expert, numbers)) {
        return phi_onnx_refuse(w, equal, "does not compare with the experts' numbers");
    }
    out->pool = phi_onnx_input(near, 2);
    if (!is_last_axis(index, 0) || phi_onnx_attribute_int(index, "keepdims", 1) != 1 ||
        phi_onnx_attribute_int(index, "select_last_index", 0) != 0 ||
        !same(w, phi_onnx_input(index, 0), out->pool)) {
        return phi_onnx_refuse(w, index, "is not the place of the best of those that have a share");
    }
    float low = float_of(w, phi_onnx_input(near, 1));
    if (!is_last_axis(softmax, -1) || !(isinf(low) && low < 0.0F)) {
        return phi_onnx_refuse(w, softmax, "is not the softmax of those that are near the best");
    }
    return read_far(w, phi_onnx_input(near, 0), out);
}

/* [T, E]: each token's two shares, zeros elsewhere; the scores are of `tokens`. */
static phi_status read_router(const onnx_walk *w, const char *shares, const char *tokens,
                              phi_onnx_layer *layer)
{
    phi_onnx_decoder *d = w->decoder;
    phi_onnx_node *outer = NULL;
    phi_onnx_node *inner = NULL;
    phi_onnx_node *rest = NULL;
    choice first;
    choice second;
    const char *input = "";
    phi_status status = need(w, shares, "Where", &outer);
    status = status ? status : need_input(w, outer, 2, "Where", &inner);
    status = status ? status
                    : read_choice(w, phi_onnx_input(outer, 0), phi_onnx_input(outer, 1), &first);
    status = status ? status
                    : read_choice(w, phi_onnx_input(inner, 0), phi_onnx_input(inner, 1), &second);
    status = status ? status : need(w, second.pool, "Where", &rest);
    if (status) {
        return status;
    }
    float low = float_of(w, phi_onnx_input(rest, 1));
    if (!same(w, phi_onnx_input(rest, 0), phi_onnx_input(outer, 0)) || !isinf(low) || low > 0.0F ||
        !same(w, phi_onnx_input(rest, 2), first.scores)) {
        return phi_onnx_refuse(w, rest, "is not the scores less the best of them");
    }
    if (!same(w, first.pool, first.scores) || !same(w, second.scores, first.scores) ||
        first.far != second.far || float_of(w, phi_onnx_input(inner, 2)) != 0.0F) {
        return phi_onnx_refuse(w, outer, "does not give two experts their shares, as phimoe does");
    }
    if (d->router_far != 0.0F && d->router_far != first.far) {
        return phi_onnx_refuse(w, outer, "leaves out scores at %g; other layers do at %g",
                               (double)first.far, (double)d->router_far);
    }
    d->router_far = first.far;
    status = phi_onnx_read_product(w, first.scores, &layer->router, &input);
    if (!status && !same(w, input, tokens)) {
        return phi_onnx_refuse_source(w, input, "the tokens that the experts are given");
    }
    return status;
}

/* ---- experts ---- */

/* What all experts of a layer have in common. */
typedef struct common {
    const char *tokens; /* "" before the first */
    const char *shares;
} common;

/* The rows of tokens that have a share of expert `number`. */
static phi_status read_rows(const onnx_walk *w, const char *value, uint32_t number,
                            const char **out_share, const char **out_shares)
{
    phi_onnx_node *rows = NULL;
    phi_onnx_node *found = NULL;
    phi_onnx_node *share = NULL;
    phi_status status = need(w, value, "Transpose", &rows);
    status = status ? status : need_input(w, rows, 0, "NonZero", &found);
    status = status ? status : need_input(w, found, 0, "Gather", &share);
    if (status) {
        return status;
    }
    if (!is_last_axis(share, 0) || !is_number(w, phi_onnx_input(share, 1), number)) {
        return phi_onnx_refuse(w, share, "does not take the shares of expert %u", number);
    }
    *out_share = phi_onnx_input(found, 0);
    *out_shares = phi_onnx_input(share, 0);
    return PHI_OK;
}

/* One ScatterND of the sum, whose rows are those of expert `number`. */
static phi_status read_expert(const onnx_walk *w, const phi_onnx_node *sum, uint32_t number,
                              phi_onnx_ffn *ffn, common *c)
{
    const phi_onnx_attribute *reduction = phi_onnx_attribute_find(sum, "reduction");
    const char *rows = phi_onnx_input(sum, 1);
    const char *share = "";
    const char *shares = "";
    const char *input = "";
    phi_onnx_node *weighed = NULL;
    phi_onnx_node *column = NULL;
    phi_onnx_node *taken = NULL;
    phi_onnx_node *tokens = NULL;
    if (!reduction || strcmp(reduction->s, "add") != 0) {
        return phi_onnx_refuse(w, sum, "does not add; reduction \"add\" is right");
    }
    phi_status status = read_rows(w, rows, number, &share, &shares);
    status = status ? status : need_input(w, sum, 2, "Mul", &weighed);
    if (status) {
        return status;
    }
    onnx_source second = phi_onnx_source(w, phi_onnx_input(weighed, 1));
    uint32_t side = second.node && phi_onnx_is(second.node, "Unsqueeze") ? 1 : 0;
    status = need_input(w, weighed, side, "Unsqueeze", &column);
    status = status ? status : need_input(w, column, 0, "GatherND", &taken);
    status =
        status ? status : phi_onnx_read_swiglu(w, phi_onnx_input(weighed, 1 - side), ffn, &input);
    status = status ? status : need(w, input, "GatherND", &tokens);
    if (status) {
        return status;
    }
    if (!same(w, phi_onnx_input(taken, 0), share) || !same(w, phi_onnx_input(taken, 1), rows) ||
        !is_number(w, phi_onnx_input(column, 1), 1)) {
        return phi_onnx_refuse(w, weighed, "does not weigh an expert by its tokens' shares");
    }
    if (!same(w, phi_onnx_input(tokens, 1), rows) || ffn->n_up != 2 ||
        (*c->tokens && !same(w, phi_onnx_input(tokens, 0), c->tokens)) ||
        (*c->shares && !same(w, shares, c->shares))) {
        return phi_onnx_refuse(w, tokens, "does not give expert %u its tokens, by two products",
                               number);
    }
    *c = (common){.tokens = phi_onnx_input(tokens, 0), .shares = shares};
    return PHI_OK;
}

/* Zeros of the tokens' shape, which the sum begins with. */
static phi_status read_nothing(const onnx_walk *w, const char *value, const char *tokens)
{
    phi_onnx_node *zeros = NULL;
    phi_onnx_node *shape = NULL;
    phi_status status = need(w, value, "ConstantOfShape", &zeros);
    status = status ? status : need_input(w, zeros, 0, "Shape", &shape);
    if (status) {
        return status;
    }
    const phi_onnx_attribute *filled = phi_onnx_attribute_find(zeros, "value");
    if ((filled && number_of(filled->tensor) != 0.0F) ||
        !same(w, phi_onnx_input(shape, 0), tokens)) {
        return phi_onnx_refuse(w, zeros, "is not a zero for each number of the tokens");
    }
    return PHI_OK;
}

/* The experts whose answers `value` adds up, from the last one to the first. */
static phi_status count_experts(const onnx_walk *w, const char *value, phi_onnx_layer *layer)
{
    phi_onnx_decoder *d = w->decoder;
    onnx_source source = phi_onnx_source(w, value);
    uint32_t count = 0;
    while (source.node && phi_onnx_is(source.node, "ScatterND") && count <= PHI_LIMIT_EXPERTS) {
        source = phi_onnx_source(w, phi_onnx_input(source.node, 0));
        count++;
    }
    if (count < 2 || count > PHI_LIMIT_EXPERTS || (d->n_expert > 0 && d->n_expert != count)) {
        return phi_onnx_refuse_source(w, value,
                                      "a sum of as many experts in each layer, which ScatterND "
                                      "adds up, from 2 to 32");
    }
    d->n_expert = count;
    layer->experts = phi_try_alloc_zero(count, sizeof *layer->experts);
    return layer->experts
               ? PHI_OK
               : phi_fail(w->err, PHI_E_NO_MEMORY, "%s: not enough memory", w->model->label);
}

phi_status phi_onnx_read_experts(const onnx_walk *w, const char *branch, phi_onnx_layer *layer,
                                 const char **out_input)
{
    const int64_t flat[] = {-1, w->decoder->output_norm.weight.cols};
    common c = {.tokens = "", .shares = ""};
    phi_onnx_node *back = NULL;
    phi_onnx_node *shape = NULL;
    phi_onnx_node *sum = NULL;
    phi_onnx_node *tokens = NULL;
    phi_status status = need(w, branch, "Reshape", &back);
    status = status ? status : need_input(w, back, 1, "Shape", &shape);
    status = status ? status : count_experts(w, phi_onnx_input(back, 0), layer);
    if (status) {
        return status;
    }
    const char *value = phi_onnx_input(back, 0);
    for (uint32_t i = w->decoder->n_expert; i > 0 && !status; i--) {
        status = need(w, value, "ScatterND", &sum);
        status = status ? status : read_expert(w, sum, i - 1, &layer->experts[i - 1], &c);
        value = status ? value : phi_onnx_input(sum, 0);
    }
    status = status ? status : read_nothing(w, value, c.tokens);
    status = status ? status : read_router(w, c.shares, c.tokens, layer);
    status = status ? status : need(w, c.tokens, "Reshape", &tokens);
    if (status) {
        return status;
    }
    *out_input = phi_onnx_input(tokens, 0);
    if (!is_list(w, phi_onnx_input(tokens, 1), 2, flat) ||
        !same(w, phi_onnx_input(shape, 0), *out_input)) {
        return phi_onnx_refuse(w, tokens, "does not put tokens one below the other and back");
    }
    return PHI_OK;
}
