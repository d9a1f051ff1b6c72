#include <stdio.h>

#include "base/assert.h"
#include "engine/formats/onnx_node.h"
#include "engine/formats/onnx_writer.h"

phi_status phi_onnx_add_swiglu(phi_onnx_writer *w, uint32_t layer, const char *what,
                               const onnx_rows parts[3], const char *input, char *output)
{
    static const char *const names[] = {"gate_proj", "up_proj", "down_proj"};
    static const char *const steps[] = {"act_fn/Sigmoid", "act_fn/Mul", "Mul"};
    char full[PHI_ONNX_NAME_BYTES];
    char halves[2][PHI_ONNX_NAME_BYTES];
    char outputs[3][PHI_ONNX_NAME_BYTES];
    phi_status status = PHI_OK;
    for (size_t i = 0; i < 2 && !status; i++) {
        (void)snprintf(full, sizeof full, "%s/%s", what, names[i]);
        status = phi_onnx_add_product(w, parts[i].tensor, layer, full, parts[i].first,
                                      parts[i].count, input, halves[i]);
    }
    for (size_t i = 0; i < 3 && !status; i++) {
        char inputs[2 * PHI_ONNX_NAME_BYTES + 8];
        (void)snprintf(full, sizeof full, "/model/layers.%u/%s/%s", layer, what, steps[i]);
        (void)snprintf(outputs[i], sizeof outputs[i], "/model/layers.%u/%s/%s/output_0", layer,
                       what, steps[i]);
        (void)snprintf(inputs, sizeof inputs, "%s%s%s", i == 2 ? outputs[1] : halves[0],
                       i == 0 ? "" : " ",
                       i == 0   ? ""
                       : i == 1 ? outputs[0]
                                : halves[1]);
        phi_onnx_add_node(w, i == 0 ? "Sigmoid" : "Mul", full, inputs, outputs[i]);
    }
    (void)snprintf(full, sizeof full, "%s/%s", what, names[2]);
    return status ? status
                  : phi_onnx_add_product(w, parts[2].tensor, layer, full, parts[2].first,
                                         parts[2].count, outputs[2], output);
}

/* The gate's rows stand before up's in one tensor. */
static phi_status add_gated(phi_onnx_writer *w, uint32_t layer, const char *input, char *output)
{
    const phi_export_tensor *both = phi_onnx_find(w, PHI_PART_FFN_UP, layer);
    const phi_export_tensor *down = phi_onnx_find(w, PHI_PART_FFN_DOWN, layer);
    uint32_t n_ffn = w->export->description->n_ffn;
    if (!both || !down) {
        return phi_onnx_fail_missing(w, both ? PHI_PART_FFN_DOWN : PHI_PART_FFN_UP, layer);
    }
    const onnx_rows parts[] = {{both, 0, n_ffn}, {both, n_ffn, n_ffn}, {down, 0, down->rows}};
    return phi_onnx_add_swiglu(w, layer, "mlp", parts, input, output);
}

/* fc2 gelu(fc1 x), in tanh's form; the builder calls the node by the older operator of that form.
 */
static phi_status add_gelu(phi_onnx_writer *w, uint32_t layer, const char *input, char *output)
{
    char inner[PHI_ONNX_NAME_BYTES];
    char name[PHI_ONNX_NAME_BYTES];
    char curved[PHI_ONNX_NAME_BYTES];
    phi_status status = phi_onnx_add_affine(w, PHI_PART_FFN_FC1, layer, "mlp/fc1", input, inner);
    if (status) {
        return status;
    }
    (void)snprintf(name, sizeof name, "/model/layers.%u/mlp/act_fn/FastGelu", layer);
    (void)snprintf(curved, sizeof curved, "/model/layers.%u/mlp/act_fn/FastGelu/output_0", layer);
    phi_buf node = phi_onnx_start_node("Gelu", "", name, inner, curved);
    phi_onnx_put_string(&node, "approximate", "tanh");
    phi_onnx_end_node(w, &node);
    return phi_onnx_add_affine(w, PHI_PART_FFN_DOWN, layer, "mlp/fc2", curved, output);
}

phi_status phi_onnx_add_feed_forward(phi_onnx_writer *w, uint32_t layer, const char *input,
                                     char *output)
{
    switch (w->export->description->ffn) {
    case PHI_FFN_SWIGLU:
        return add_gated(w, layer, input, output);
    case PHI_FFN_GELU:
        return add_gelu(w, layer, input, output);
    case PHI_FFN_EXPERTS:
        return phi_onnx_add_experts(w, layer, input, output);
    }
    PHI_UNREACHABLE();
}
