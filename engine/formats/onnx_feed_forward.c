#include <string.h>

#include "base/assert.h"
#include "engine/formats/onnx_walk.h"

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
                             phi_onnx_ffn *ffn, const char **out_input)
{
    phi_onnx_node *node = gate->node;
    int64_t sizes[2] = {0, 0};
    if (up->node != node || gate->output != 0 || up->output != 1 || node->n_outputs != 2) {
        return phi_onnx_refuse(w, node, "does not give the gate and then the other half");
    }
    node->used = true;
    ffn->n_up = 1;
    phi_status status =
        phi_onnx_read_product(w, phi_onnx_input(node, 0), &ffn->up[0].weight, out_input);
    onnx_source given = phi_onnx_source(w, phi_onnx_input(node, 1));
    if (!status && given.tensor && given.tensor->data.file &&
        given.tensor->type == PHI_ONNX_INT64 && given.tensor->data.bytes == sizeof sizes) {
        status = phi_file_read_at(given.tensor->data.file, given.tensor->data.offset, sizes,
                                  sizeof sizes, w->err);
    } else if (!status && !*phi_onnx_input(node, 1)) {
        sizes[0] = ffn->up[0].weight.rows / 2; /* two equal parts are what is cut without sizes */
        sizes[1] = sizes[0];
    }
    int64_t axis = phi_onnx_attribute_int(node, "axis", 0);
    if (!status && ((axis != -1 && axis != 2) || sizes[0] != sizes[1] ||
                    (uint64_t)sizes[0] * 2 != ffn->up[0].weight.rows)) {
        status = phi_onnx_refuse(w, node, "does not cut the gate and the other half apart");
    }
    return status;
}

static phi_status read_gated(const onnx_walk *w, const char *gate, const char *up,
                             phi_onnx_ffn *ffn, const char **out_input)
{
    const char *other = "";
    onnx_source gate_source = phi_onnx_source(w, gate);
    onnx_source up_source = phi_onnx_source(w, up);
    if (gate_source.node && phi_onnx_is(gate_source.node, "Split")) {
        return read_split(w, &gate_source, &up_source, ffn, out_input);
    }
    ffn->n_up = 2;
    phi_status status = phi_onnx_read_product(w, gate, &ffn->up[0].weight, out_input);
    status = status ? status : phi_onnx_read_product(w, up, &ffn->up[1].weight, &other);
    if (!status) {
        gate_source = phi_onnx_source(w, *out_input);
        up_source = phi_onnx_source(w, other);
        if (!gate_source.node || !phi_onnx_same(&gate_source, &up_source)) {
            status = phi_onnx_refuse_source(w, other, "the norm that the gate is made of");
        }
    }
    return status;
}

phi_status phi_onnx_read_swiglu(const onnx_walk *w, const char *branch, phi_onnx_ffn *ffn,
                                const char **out_input)
{
    const char *inner = "";
    const char *gate = "";
    phi_status status = phi_onnx_read_product(w, branch, &ffn->down.weight, &inner);
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
        return read_gated(w, gate, second, ffn, out_input);
    }
    if (find_silu(w, second, &gate)) {
        return read_gated(w, gate, first, ffn, out_input);
    }
    return phi_onnx_refuse(w, product.node, "multiplies nothing that is silu (x * Sigmoid(x))");
}

/* gelu in tanh's form */
static phi_status read_gelu(const onnx_walk *w, const char *branch, phi_onnx_ffn *ffn,
                            const char **out_input)
{
    const char *inner = "";
    phi_status status = phi_onnx_read_affine(w, branch, true, &ffn->down, &inner);
    if (status) {
        return status;
    }
    onnx_source curve = phi_onnx_source(w, inner);
    bool is_gelu = curve.node && phi_onnx_is(curve.node, "Gelu");
    if (!is_gelu && (!curve.node || !phi_onnx_is(curve.node, "FastGelu"))) {
        return phi_onnx_refuse_source(w, inner, "gelu in tanh's form (Gelu, FastGelu)");
    }
    const phi_onnx_attribute *form = phi_onnx_attribute_find(curve.node, "approximate");
    if (is_gelu && (!form || strcmp(form->s, "tanh") != 0)) {
        return phi_onnx_refuse(w, curve.node,
                               "is gelu as the error function gives it; approximate \"tanh\" is "
                               "supported");
    }
    if (*phi_onnx_input(curve.node, 1)) {
        return phi_onnx_refuse(w, curve.node,
                               "adds a bias itself; one that an Add adds is "
                               "supported");
    }
    curve.node->used = true;
    ffn->n_up = 1;
    return phi_onnx_read_affine(w, phi_onnx_input(curve.node, 0), true, &ffn->up[0], out_input);
}

phi_status phi_onnx_read_feed_forward(const onnx_walk *w, const char *branch, phi_onnx_layer *layer,
                                      const char **out_input)
{
    switch (w->decoder->arch) {
    case PHI_ARCH_PHI3:
        return phi_onnx_read_swiglu(w, branch, &layer->ffn, out_input);
    case PHI_ARCH_PHI2:
        return read_gelu(w, branch, &layer->ffn, out_input);
    case PHI_ARCH_PHIMOE:
        return phi_onnx_read_experts(w, branch, layer, out_input);
    }
    PHI_UNREACHABLE();
}
