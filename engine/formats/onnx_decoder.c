#include "engine/formats/onnx_decoder.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "engine/formats/onnx_walk.h"

/* ---- steps ---- */

static bool is_float(int64_t type)
{
    return type == PHI_ONNX_FLOAT || type == PHI_ONNX_FLOAT16 || type == PHI_ONNX_BFLOAT16;
}

onnx_source phi_onnx_source(const onnx_walk *w, const char *value)
{
    /* A graph may be a circle if its maker wants it so. */
    for (uint32_t step = 0; step <= w->model->n_nodes; step++) {
        const phi_onnx_value *found = phi_onnx_value_find(w->model, value);
        if (!found) {
            return (onnx_source){.node = NULL};
        }
        phi_onnx_node *node = found->node;
        bool passes =
            node &&
            (phi_onnx_is(node, "Identity") ||
             (phi_onnx_is(node, "Cast") && is_float(phi_onnx_attribute_int(node, "to", 0))));
        if (!passes) {
            return (onnx_source){.node = node, .output = found->output, .tensor = found->tensor};
        }
        node->used = true;
        value = phi_onnx_input(node, 0);
    }
    return (onnx_source){.node = NULL};
}

bool phi_onnx_same(const onnx_source *a, const onnx_source *b)
{
    return a->node == b->node && a->output == b->output && a->tensor == b->tensor;
}

phi_status phi_onnx_refuse(const onnx_walk *w, const phi_onnx_node *node, const char *fmt, ...)
{
    char text[PHI_ERR_BYTES_MAX];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    const char *name = *node->name || node->n_outputs == 0 ? node->name : node->outputs[0];
    return phi_fail(w->err, PHI_E_UNSUPPORTED, "%s: node \"%.100s\" (%.40s) %s", w->model->label,
                    name, node->op, text);
}

phi_status phi_onnx_refuse_source(const onnx_walk *w, const char *value, const char *what)
{
    onnx_source source = phi_onnx_source(w, value);
    if (source.node && !source.tensor) {
        return phi_onnx_refuse(w, source.node, "stands where a phi3 decoder has %s", what);
    }
    return phi_fail(w->err, PHI_E_UNSUPPORTED, "%s: \"%.100s\" stands where a phi3 decoder has %s",
                    w->model->label, value, what);
}

/* ---- norms ---- */

/* A norm, and the sum that it is of: of the residual stream and of what a layer's half adds. */
typedef struct onnx_norm {
    onnx_source sum;
    const char *residual; /* "" in the first norm, as the next */
    const char *branch;
} onnx_norm;

static phi_status check_epsilon(const onnx_walk *w, const phi_onnx_node *node)
{
    float epsilon = phi_onnx_attribute_float(node, "epsilon", 1e-5F);
    if (w->decoder->norm_eps == 0.0F) {
        w->decoder->norm_eps = epsilon;
    }
    if (w->decoder->norm_eps != epsilon) {
        return phi_onnx_refuse(w, node, "has epsilon %g, others have %g", (double)epsilon,
                               (double)w->decoder->norm_eps);
    }
    return PHI_OK;
}

/* The second of two summands is the one that comes from a product. */
static void order_summands(const onnx_walk *w, const phi_onnx_node *node, onnx_norm *norm)
{
    norm->residual = phi_onnx_input(node, 0);
    norm->branch = phi_onnx_input(node, 1);
    onnx_source second = phi_onnx_source(w, norm->branch);
    if (!phi_onnx_is_product(w, &second)) {
        const char *swap = norm->residual;
        norm->residual = norm->branch;
        norm->branch = swap;
    }
}

static phi_status read_norm(const onnx_walk *w, const char *value, phi_stored *weight,
                            onnx_norm *out)
{
    onnx_source source = phi_onnx_source(w, value);
    phi_onnx_node *node = source.node;
    bool skips = node && phi_onnx_is(node, "SkipSimplifiedLayerNormalization");
    bool plain = node && (phi_onnx_is(node, "SimplifiedLayerNormalization") ||
                          phi_onnx_is(node, "RMSNormalization"));
    *out = (onnx_norm){.residual = "", .branch = ""};
    if ((!skips && !plain) || source.output != 0) {
        return phi_onnx_refuse_source(w, value,
                                      "an RMS norm (SimplifiedLayerNormalization, "
                                      "SkipSimplifiedLayerNormalization)");
    }
    node->used = true;
    if (*phi_onnx_input(node, skips ? 3 : 2)) {
        return phi_onnx_refuse(w, node, "has a bias; phi3 models have none");
    }
    if (skips) {
        out->sum = (onnx_source){.node = node, .output = 3};
        order_summands(w, node, out);
    } else {
        out->sum = phi_onnx_source(w, phi_onnx_input(node, 0));
        if (out->sum.node && phi_onnx_is(out->sum.node, "Add")) {
            out->sum.node->used = true;
            order_summands(w, out->sum.node, out);
        }
    }
    phi_status status = check_epsilon(w, node);
    return status ? status : phi_onnx_read_vector(w, node, skips ? 2 : 1, weight);
}

/* The later norm's residual has to be the sum that the earlier one was of. */
static phi_status check_residual(const onnx_walk *w, const onnx_norm *later,
                                 const onnx_norm *earlier)
{
    onnx_source residual = phi_onnx_source(w, later->residual);
    if (!phi_onnx_same(&residual, &earlier->sum)) {
        return phi_onnx_refuse_source(w, later->residual, "the residual stream");
    }
    return PHI_OK;
}

/* ---- feed-forward ---- */

/* gate * sigmoid(gate) */
static bool find_silu(const onnx_walk *w, const char *value, const char **out_gate)
{
    onnx_source product = phi_onnx_source(w, value);
    if (!product.node || !phi_onnx_is(product.node, "Mul")) {
        return false;
    }
    for (uint32_t i = 0; i < 2; i++) {
        const char *gate = phi_onnx_input(product.node, 1 - i);
        onnx_source curve = phi_onnx_source(w, phi_onnx_input(product.node, i));
        if (!curve.node || !phi_onnx_is(curve.node, "Sigmoid")) {
            continue;
        }
        onnx_source inner = phi_onnx_source(w, phi_onnx_input(curve.node, 0));
        onnx_source outer = phi_onnx_source(w, gate);
        if (inner.node && phi_onnx_same(&inner, &outer)) {
            product.node->used = true;
            curve.node->used = true;
            *out_gate = gate;
            return true;
        }
    }
    return false;
}

/* One product for gate and up, cut into halves: the first is the gate. */
static phi_status read_split(const onnx_walk *w, const onnx_source *gate, const onnx_source *up,
                             phi_onnx_layer *layer, const char **out_input)
{
    phi_onnx_node *node = gate->node;
    int64_t sizes[2] = {0, 0};
    if (up->node != node || gate->output != 0 || up->output != 1 || node->n_outputs != 2) {
        return phi_onnx_refuse(w, node, "does not give the gate and then the other half");
    }
    node->used = true;
    layer->n_up = 1;
    phi_status status = phi_onnx_read_product(w, phi_onnx_input(node, 0), &layer->up[0], out_input);
    onnx_source given = phi_onnx_source(w, phi_onnx_input(node, 1));
    if (!status && given.tensor && given.tensor->data.file &&
        given.tensor->type == PHI_ONNX_INT64 && given.tensor->data.bytes == sizeof sizes) {
        status = phi_file_read_at(given.tensor->data.file, given.tensor->data.offset, sizes,
                                  sizeof sizes, w->err);
    } else if (!status && !*phi_onnx_input(node, 1)) {
        sizes[0] = layer->up[0].rows / 2; /* two equal parts are what is cut without sizes */
        sizes[1] = sizes[0];
    }
    int64_t axis = phi_onnx_attribute_int(node, "axis", 0);
    if (!status && ((axis != -1 && axis != 2) || sizes[0] != sizes[1] ||
                    (uint64_t)sizes[0] * 2 != layer->up[0].rows)) {
        status = phi_onnx_refuse(w, node, "does not cut the gate and the other half apart");
    }
    return status;
}

static phi_status read_gated(const onnx_walk *w, const char *gate, const char *up,
                             phi_onnx_layer *layer, const char **out_input)
{
    const char *other = "";
    onnx_source gate_source = phi_onnx_source(w, gate);
    onnx_source up_source = phi_onnx_source(w, up);
    if (gate_source.node && phi_onnx_is(gate_source.node, "Split")) {
        return read_split(w, &gate_source, &up_source, layer, out_input);
    }
    layer->n_up = 2;
    phi_status status = phi_onnx_read_product(w, gate, &layer->up[0], out_input);
    status = status ? status : phi_onnx_read_product(w, up, &layer->up[1], &other);
    if (!status) {
        gate_source = phi_onnx_source(w, *out_input);
        up_source = phi_onnx_source(w, other);
        if (!gate_source.node || !phi_onnx_same(&gate_source, &up_source)) {
            status = phi_onnx_refuse_source(w, other, "the norm that the gate is made of");
        }
    }
    return status;
}

static phi_status read_feed_forward(const onnx_walk *w, const char *branch, phi_onnx_layer *layer,
                                    const char **out_input)
{
    const char *inner = "";
    const char *gate = "";
    phi_status status = phi_onnx_read_product(w, branch, &layer->down, &inner);
    if (status) {
        return status;
    }
    onnx_source product = phi_onnx_source(w, inner);
    if (!product.node || !phi_onnx_is(product.node, "Mul")) {
        return phi_onnx_refuse_source(w, inner, "the product (Mul) of gate and up");
    }
    product.node->used = true;
    const char *first = phi_onnx_input(product.node, 0);
    const char *second = phi_onnx_input(product.node, 1);
    if (find_silu(w, first, &gate)) {
        return read_gated(w, gate, second, layer, out_input);
    }
    if (find_silu(w, second, &gate)) {
        return read_gated(w, gate, first, layer, out_input);
    }
    return phi_onnx_refuse(w, product.node, "multiplies nothing that is silu (x * Sigmoid(x))");
}

/* ---- attention ---- */

static phi_status read_queries(const onnx_walk *w, const phi_onnx_node *node, phi_onnx_layer *layer,
                               const char **out_input)
{
    bool fused = !*phi_onnx_input(node, 1) && !*phi_onnx_input(node, 2);
    layer->n_qkv = fused ? 1 : 3;
    phi_status status =
        phi_onnx_read_product(w, phi_onnx_input(node, 0), &layer->qkv[0], out_input);
    for (uint32_t i = 1; i < layer->n_qkv && !status; i++) {
        const char *other = "";
        status = phi_onnx_read_product(w, phi_onnx_input(node, i), &layer->qkv[i], &other);
        onnx_source first = phi_onnx_source(w, *out_input);
        onnx_source next = phi_onnx_source(w, other);
        if (!status && (!first.node || !phi_onnx_same(&first, &next))) {
            status = phi_onnx_refuse_source(w, other, "the norm that the queries are made of");
        }
    }
    return status;
}

static phi_status read_self_attention(const onnx_walk *w, const char *branch, phi_onnx_layer *layer,
                                      const char **out_input)
{
    const char *inner = "";
    phi_status status = phi_onnx_read_product(w, branch, &layer->output, &inner);
    if (status) {
        return status;
    }
    onnx_source attention = phi_onnx_source(w, inner);
    if (!attention.node || attention.output != 0 ||
        !phi_onnx_is(attention.node, "GroupQueryAttention")) {
        return phi_onnx_refuse_source(w, inner, "GroupQueryAttention");
    }
    attention.node->used = true;
    layer->attention = attention.node;
    status = phi_onnx_read_attention(w, attention.node);
    return status ? status : read_queries(w, attention.node, layer, out_input);
}

/* ---- the decoder ---- */

/* One layer, from the norm after it to the norm that it begins with. */
static phi_status read_layer(const onnx_walk *w, onnx_norm *norm, phi_onnx_layer *layer)
{
    onnx_norm middle;
    onnx_norm first;
    const char *input = "";
    phi_status status = read_feed_forward(w, norm->branch, layer, &input);
    status = status ? status : read_norm(w, input, &layer->ffn_norm, &middle);
    status = status ? status : check_residual(w, norm, &middle);
    if (!status && !*middle.branch) {
        status = phi_onnx_refuse_source(w, input, "a norm of a sum");
    }
    status = status ? status : read_self_attention(w, middle.branch, layer, &input);
    status = status ? status : read_norm(w, input, &layer->attn_norm, &first);
    status = status ? status : check_residual(w, &middle, &first);
    if (!status) {
        *norm = first;
    }
    return status;
}

static phi_status read_all(const onnx_walk *w, const char *logits)
{
    phi_onnx_decoder *d = w->decoder;
    onnx_norm norm = {.branch = ""};
    const char *input = "";
    const char *first_input = "";
    phi_status status = phi_onnx_read_product(w, logits, &d->head, &input);
    status = status ? status : read_norm(w, input, &d->output_norm, &norm);
    while (!status && *norm.branch) {
        if (d->n_layers == PHI_LIMIT_LAYERS) {
            return phi_fail(w->err, PHI_E_LIMIT, "%s has more than %u layers", w->model->label,
                            PHI_LIMIT_LAYERS);
        }
        status = read_layer(w, &norm, &d->layers[d->n_layers++]);
    }
    if (!status && d->n_layers == 0) {
        status = phi_onnx_refuse_source(w, input, "the sum of a layer");
    }
    if (!status && norm.sum.node && norm.sum.node->n_outputs > norm.sum.output) {
        first_input = norm.sum.node->outputs[norm.sum.output];
    }
    return status ? status : phi_onnx_read_embedding(w, &norm.sum, first_input, &d->embedding);
}

static phi_status check_leftovers(const onnx_walk *w)
{
    for (const phi_onnx_node *node = w->model->graph->nodes; node; node = node->next) {
        if (!node->used && !phi_onnx_is(node, "Constant")) {
            return phi_onnx_refuse(w, node, "has no place in a phi3 decoder");
        }
    }
    return PHI_OK;
}

phi_status phi_onnx_decoder_read(phi_onnx_model *model, const char *logits,
                                 phi_onnx_decoder *out_decoder, phi_err *err)
{
    *out_decoder = (phi_onnx_decoder){.n_layers = 0};
    out_decoder->layers = phi_try_alloc_zero(PHI_LIMIT_LAYERS, sizeof *out_decoder->layers);
    onnx_walk w = {.model = model, .decoder = out_decoder, .err = err};
    w.stack = phi_try_alloc_zero((size_t)model->n_nodes + 1, sizeof(phi_onnx_node *));
    phi_status status = PHI_OK;
    if (!out_decoder->layers || !w.stack) {
        status = phi_fail(err, PHI_E_NO_MEMORY, "%s: not enough memory", model->label);
    }
    status = status ? status : read_all(&w, logits);
    status = status ? status : check_leftovers(&w);
    phi_free(w.stack);
    return status;
}

void phi_onnx_decoder_done(phi_onnx_decoder *decoder)
{
    if (decoder) {
        phi_free(decoder->layers);
        decoder->layers = NULL;
    }
}
