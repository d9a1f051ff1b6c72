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
        return phi_onnx_refuse(w, source.node, "stands where a Phi decoder has %s", what);
    }
    return phi_fail(w->err, PHI_E_UNSUPPORTED, "%s: \"%.100s\" stands where a Phi decoder has %s",
                    w->model->label, value, what);
}

/* ---- attention ---- */

static phi_status read_queries(const onnx_walk *w, const phi_onnx_node *node, phi_onnx_layer *layer,
                               const char **out_input)
{
    bool fused = !*phi_onnx_input(node, 1) && !*phi_onnx_input(node, 2);
    bool has_bias = w->decoder->attn_bias;
    layer->n_qkv = fused ? 1 : 3;
    phi_status status =
        phi_onnx_read_affine(w, phi_onnx_input(node, 0), has_bias, &layer->qkv[0], out_input);
    for (uint32_t i = 1; i < layer->n_qkv && !status; i++) {
        const char *other = "";
        status = phi_onnx_read_affine(w, phi_onnx_input(node, i), has_bias, &layer->qkv[i], &other);
        onnx_source first = phi_onnx_source(w, *out_input);
        onnx_source next = phi_onnx_source(w, other);
        if (!status && (!first.node || !phi_onnx_same(&first, &next))) {
            status = phi_onnx_refuse_source(w, other, "the norm that the queries are made of");
        }
    }
    return status;
}

static bool is_attention(const onnx_source *source)
{
    return source->node && source->output == 0 && phi_onnx_is(source->node, "GroupQueryAttention");
}

static phi_status read_self_attention(const onnx_walk *w, const char *branch, phi_onnx_layer *layer,
                                      const char **out_input)
{
    const char *inner = "";
    phi_onnx_decoder *d = w->decoder;
    if (d->arch == PHI_ARCH_PHIMOE && d->n_layers == 1) {
        d->attn_bias = phi_onnx_has_bias(w, branch); /* the others have to agree */
    }
    phi_status status = phi_onnx_read_affine(w, branch, d->attn_bias, &layer->output, &inner);
    if (status) {
        return status;
    }
    onnx_source attention = phi_onnx_source(w, inner);
    if (!is_attention(&attention)) {
        return phi_onnx_refuse_source(w, inner, "GroupQueryAttention");
    }
    attention.node->used = true;
    layer->attention = attention.node;
    status = phi_onnx_read_attention(w, attention.node);
    return status ? status : read_queries(w, attention.node, layer, out_input);
}

/* ---- the decoder ---- */

/* phi3, phimoe: attention, a norm, feed-forward. From the norm after the layer to the norm that it
 * begins with. */
static phi_status read_serial(const onnx_walk *w, onnx_norm *norm, phi_onnx_layer *layer)
{
    onnx_norm middle;
    onnx_norm first;
    const char *input = "";
    phi_status status = phi_onnx_read_feed_forward(w, norm->branch, layer, &input);
    status = status ? status : phi_onnx_read_norm(w, input, &layer->ffn_norm, &middle);
    status = status ? status : phi_onnx_check_residual(w, norm, &middle);
    if (!status && !*middle.branch) {
        status = phi_onnx_refuse_source(w, input, "a norm of a sum");
    }
    status = status ? status : read_self_attention(w, middle.branch, layer, &input);
    status = status ? status : phi_onnx_read_norm(w, input, &layer->attn_norm, &first);
    status = status ? status : phi_onnx_check_residual(w, &middle, &first);
    if (!status) {
        *norm = first;
    }
    return status;
}

/* phi2: attention and feed-forward of the same norm, added up. */
static phi_status read_parallel(const onnx_walk *w, onnx_norm *norm, phi_onnx_layer *layer)
{
    onnx_source sum = phi_onnx_source(w, norm->branch);
    const char *attention_input = "";
    const char *other_input = "";
    uint32_t n_attentions = 0;
    uint32_t attention = 0;
    bool is_product = *phi_onnx_product_input(w, norm->branch) != '\0';
    if (!sum.node || is_product || !phi_onnx_is(sum.node, "Add")) {
        return phi_onnx_refuse_source(w, norm->branch, "the sum of attention and feed-forward");
    }
    for (uint32_t i = 0; i < 2; i++) {
        onnx_source of = phi_onnx_source(w, phi_onnx_product_input(w, phi_onnx_input(sum.node, i)));
        n_attentions += is_attention(&of);
        attention = is_attention(&of) ? i : attention;
    }
    if (n_attentions != 1) {
        return phi_onnx_refuse(w, sum.node, "is no sum of attention and feed-forward, as phi2 has");
    }
    sum.node->used = true;
    phi_status status =
        read_self_attention(w, phi_onnx_input(sum.node, attention), layer, &attention_input);
    status = status ? status
                    : phi_onnx_read_feed_forward(w, phi_onnx_input(sum.node, 1 - attention), layer,
                                                 &other_input);
    if (!status) {
        onnx_source left = phi_onnx_source(w, attention_input);
        onnx_source right = phi_onnx_source(w, other_input);
        if (!left.node || !phi_onnx_same(&left, &right)) {
            return phi_onnx_refuse_source(w, other_input, "the norm that the attention is made of");
        }
    }
    onnx_norm first;
    status = status ? status : phi_onnx_read_norm(w, attention_input, &layer->attn_norm, &first);
    status = status ? status : phi_onnx_check_residual(w, norm, &first);
    if (!status) {
        *norm = first;
    }
    return status;
}

/* Norms tell phi3 from the others; phimoe's experts give tokens back from one below the other. */
static phi_status find_arch(const onnx_walk *w, const onnx_norm *last, const char *logits)
{
    phi_onnx_decoder *d = w->decoder;
    onnx_source branch = phi_onnx_source(w, last->branch);
    bool has_experts = branch.node && phi_onnx_is(branch.node, "Reshape");
    d->arch = d->norm == PHI_NORM_RMS ? PHI_ARCH_PHI3
              : has_experts           ? PHI_ARCH_PHIMOE
                                      : PHI_ARCH_PHI2;
    d->attn_bias = d->arch == PHI_ARCH_PHI2;
    if (d->arch == PHI_ARCH_PHI2 && !d->head_bias) {
        return phi_onnx_refuse_source(w, logits, "a head with a bias, as phi2 has");
    }
    return PHI_OK;
}

static phi_status read_all(const onnx_walk *w, const char *logits)
{
    phi_onnx_decoder *d = w->decoder;
    onnx_norm norm = {.branch = ""};
    const char *input = phi_onnx_product_input(w, logits);
    const char *first_input = "";
    phi_status status = *input ? phi_onnx_find_norm(w, input, &d->norm) : PHI_OK;
    d->head_bias = d->norm == PHI_NORM_LAYER && phi_onnx_has_bias(w, logits);
    status = status ? status : phi_onnx_read_affine(w, logits, d->head_bias, &d->head, &input);
    status = status ? status : phi_onnx_read_norm(w, input, &d->output_norm, &norm);
    status = status ? status : find_arch(w, &norm, logits);
    while (!status && *norm.branch) {
        if (d->n_layers == PHI_LIMIT_LAYERS) {
            return phi_fail(w->err, PHI_E_LIMIT, "%s has more than %u layers", w->model->label,
                            PHI_LIMIT_LAYERS);
        }
        phi_onnx_layer *layer = &d->layers[d->n_layers++];
        status = d->arch == PHI_ARCH_PHI2 ? read_parallel(w, &norm, layer)
                                          : read_serial(w, &norm, layer);
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
            return phi_onnx_refuse(w, node, "has no place in a Phi decoder");
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
        for (uint32_t i = 0; decoder->layers && i < decoder->n_layers; i++) {
            phi_free(decoder->layers[i].experts);
        }
        phi_free(decoder->layers);
        decoder->layers = NULL;
    }
}
