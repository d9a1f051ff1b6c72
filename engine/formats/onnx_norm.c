/*
 * Norms: phi3 has RMS norms, phi2 and phimoe LayerNorms with a bias. One that skips adds its two
 * inputs itself and gives the sum as its fourth output.
 */
#include "engine/formats/onnx_walk.h"

typedef struct norm_op {
    const char *name;
    phi_norm_kind kind;
    bool skips;
    uint32_t weight; /* inputs */
    uint32_t bias;
    uint32_t refused; /* an input that no Phi model has */
} norm_op;

static const norm_op norm_ops[] = {
    {"SimplifiedLayerNormalization", PHI_NORM_RMS, false, 1, 2, 2},
    {"RMSNormalization", PHI_NORM_RMS, false, 1, 2, 2},
    {"SkipSimplifiedLayerNormalization", PHI_NORM_RMS, true, 2, 3, 3},
    {"LayerNormalization", PHI_NORM_LAYER, false, 1, 2, 3},
    {"SkipLayerNormalization", PHI_NORM_LAYER, true, 2, 3, 4},
};

static const norm_op *find_op(const onnx_source *source)
{
    for (size_t i = 0; source->node && i < sizeof norm_ops / sizeof *norm_ops; i++) {
        if (phi_onnx_is(source->node, norm_ops[i].name)) {
            return source->output == 0 ? &norm_ops[i] : NULL;
        }
    }
    return NULL;
}

phi_status phi_onnx_find_norm(const onnx_walk *w, const char *value, phi_norm_kind *out_kind)
{
    onnx_source source = phi_onnx_source(w, value);
    const norm_op *op = find_op(&source);
    if (!op) {
        return phi_onnx_refuse_source(w, value,
                                      "an RMS norm or a LayerNorm (SimplifiedLayerNormalization, "
                                      "LayerNormalization, and those that skip)");
    }
    *out_kind = op->kind;
    return PHI_OK;
}

static phi_status check_attributes(const onnx_walk *w, const phi_onnx_node *node)
{
    float epsilon = phi_onnx_attribute_float(node, "epsilon", 1e-5F);
    int64_t axis = phi_onnx_attribute_int(node, "axis", -1);
    if (w->decoder->norm_eps == 0.0F) {
        w->decoder->norm_eps = epsilon;
    }
    if (w->decoder->norm_eps != epsilon) {
        return phi_onnx_refuse(w, node, "has epsilon %g, others have %g", (double)epsilon,
                               (double)w->decoder->norm_eps);
    }
    if (axis != -1 && axis != 2) {
        return phi_onnx_refuse(w, node, "is a norm along axis %lld; the last one is supported",
                               (long long)axis);
    }
    return PHI_OK;
}

/* Whether a layer makes the value: a product, both halves of a parallel layer, or experts, which
 * see tokens one below the other. */
static bool is_branch(const onnx_walk *w, const char *value)
{
    onnx_source source = phi_onnx_source(w, value);
    bool adds = source.node && !source.tensor && phi_onnx_is(source.node, "Add");
    bool reshapes = source.node && !source.tensor && phi_onnx_is(source.node, "Reshape");
    return reshapes || *phi_onnx_product_input(w, value) ||
           (adds && *phi_onnx_product_input(w, phi_onnx_input(source.node, 0)) &&
            *phi_onnx_product_input(w, phi_onnx_input(source.node, 1)));
}

static void order_summands(const onnx_walk *w, const phi_onnx_node *node, onnx_norm *norm)
{
    bool second = is_branch(w, phi_onnx_input(node, 1));
    norm->residual = phi_onnx_input(node, second ? 0 : 1);
    norm->branch = phi_onnx_input(node, second ? 1 : 0);
}

phi_status phi_onnx_read_norm(const onnx_walk *w, const char *value, phi_onnx_affine *out_norm,
                              onnx_norm *out)
{
    onnx_source source = phi_onnx_source(w, value);
    const norm_op *op = find_op(&source);
    phi_onnx_node *node = source.node;
    bool has_bias = w->decoder->norm == PHI_NORM_LAYER;
    *out = (onnx_norm){.residual = "", .branch = ""};
    if (!op || op->kind != w->decoder->norm) {
        return phi_onnx_refuse_source(w, value,
                                      has_bias ? "a LayerNorm (LayerNormalization, "
                                                 "SkipLayerNormalization)"
                                               : "an RMS norm (SimplifiedLayerNormalization, "
                                                 "SkipSimplifiedLayerNormalization)");
    }
    node->used = true;
    if (*phi_onnx_input(node, op->refused)) {
        return phi_onnx_refuse(w, node,
                               "has an input %u (\"%s\"), a bias that no Phi model has there",
                               op->refused, phi_onnx_input(node, op->refused));
    }
    if (has_bias && !*phi_onnx_input(node, op->bias)) {
        return phi_onnx_refuse(w, node, "has no bias; a LayerNorm of Phi has one");
    }
    if (op->skips) {
        out->sum = (onnx_source){.node = node, .output = 3};
        order_summands(w, node, out);
    } else {
        out->sum = phi_onnx_source(w, phi_onnx_input(node, 0));
        if (out->sum.node && phi_onnx_is(out->sum.node, "Add")) {
            out->sum.node->used = true;
            order_summands(w, out->sum.node, out);
        }
    }
    phi_status status = check_attributes(w, node);
    status = status ? status : phi_onnx_read_vector(w, node, op->weight, &out_norm->weight);
    if (!status && has_bias) {
        status = phi_onnx_read_vector(w, node, op->bias, &out_norm->bias);
    }
    return status;
}

phi_status phi_onnx_check_residual(const onnx_walk *w, const onnx_norm *later,
                                   const onnx_norm *earlier)
{
    onnx_source residual = phi_onnx_source(w, later->residual);
    if (!phi_onnx_same(&residual, &earlier->sum)) {
        return phi_onnx_refuse_source(w, later->residual, "the residual stream");
    }
    return PHI_OK;
}
