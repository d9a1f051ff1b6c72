#include <stdio.h>
#include <string.h>

#include "engine/formats/onnx_node.h"
#include "engine/formats/onnx_writer.h"

/* Activations rounded to 8 bits for products with 4-bit and 8-bit weights: what onnxruntime-genai's
 * builder asks for on CPUs, and what phid does itself. For CUDA it asks for nothing. */
#define ACCURACY_LEVEL 4

const phi_export_tensor *phi_onnx_find(const phi_onnx_writer *w, phi_part part, uint32_t layer)
{
    char name[PHI_LIMIT_TENSOR_NAME_BYTES];
    phi_part_name(part, PHI_NAMING_GGUF, layer, name, sizeof name);
    for (uint32_t i = 0; i < w->export->count; i++) {
        if (strcmp(w->export->tensors[i].name, name) == 0) {
            return &w->export->tensors[i];
        }
    }
    return NULL;
}

phi_status phi_onnx_fail_missing(const phi_onnx_writer *w, phi_part part, uint32_t layer)
{
    char name[PHI_LIMIT_TENSOR_NAME_BYTES];
    phi_part_name(part, PHI_NAMING_GGUF, layer, name, sizeof name);
    return phi_fail(w->err, PHI_E_INTERNAL, "tensor \"%s\" is not among those to be written", name);
}

/* The inputs of a node that reads codes: codes, scales, zero points. */
static void code_inputs(const phi_export_tensor *tensor, const char *weight, char *out,
                        size_t out_bytes)
{
    (void)snprintf(out, out_bytes, "%s_Q%u %s_scales%s%s%s", weight, tensor->bits, weight,
                   phi_onnx_has_zeros(tensor) ? " " : "", phi_onnx_has_zeros(tensor) ? weight : "",
                   phi_onnx_has_zeros(tensor) ? "_zero_points" : "");
}

bool phi_onnx_is_widened(const phi_onnx_writer *w, const phi_export_tensor *tensor)
{
    return tensor->bits == 16 && w->real == PHI_ONNX_FLOAT;
}

void phi_onnx_add_product_of(phi_onnx_writer *w, const phi_export_tensor *tensor, const char *name,
                             const char *weight, uint32_t rows, const char *input,
                             const char *output)
{
    char inputs[5 * PHI_ONNX_NAME_BYTES];
    char wide[PHI_ONNX_NAME_BYTES];
    if (tensor->bits <= 8) {
        char codes[4 * PHI_ONNX_NAME_BYTES];
        code_inputs(tensor, weight, codes, sizeof codes);
        (void)snprintf(inputs, sizeof inputs, "%s %s", input, codes);
        phi_buf node = phi_onnx_start_node("MatMulNBits", PHI_ONNX_MICROSOFT, name, inputs, output);
        phi_onnx_put_int(&node, "K", tensor->cols);
        phi_onnx_put_int(&node, "N", rows);
        phi_onnx_put_int(&node, "bits", tensor->bits);
        phi_onnx_put_int(&node, "block_size", tensor->group);
        if (w->provider == PHI_ONNX_CPU) {
            phi_onnx_put_int(&node, "accuracy_level", ACCURACY_LEVEL);
        }
        phi_onnx_end_node(w, &node);
        return;
    }
    (void)snprintf(wide, sizeof wide, "%s", weight);
    if (phi_onnx_is_widened(w, tensor)) {
        char cast[PHI_ONNX_NAME_BYTES];
        (void)snprintf(cast, sizeof cast, "%.150s/Cast", name);
        (void)snprintf(wide, sizeof wide, "%.150s/Cast/output_0", name);
        phi_onnx_add_cast(w, cast, weight, wide, PHI_ONNX_FLOAT);
    }
    (void)snprintf(inputs, sizeof inputs, "%s %s", input, wide);
    phi_onnx_add_node(w, "MatMul", name, inputs, output);
}

phi_status phi_onnx_add_product(phi_onnx_writer *w, const phi_export_tensor *tensor, uint32_t layer,
                                const char *what, uint32_t first_row, uint32_t rows,
                                const char *input, char *output)
{
    char name[PHI_ONNX_NAME_BYTES];
    char weight[PHI_ONNX_NAME_BYTES];
    (void)snprintf(name, sizeof name, "/model/layers.%u/%s/MatMul", layer, what);
    (void)snprintf(weight, sizeof weight, "model.layers.%u.%s.MatMul.weight", layer, what);
    for (char *p = weight; *p; p++) {
        *p = *p == '/' ? '.' : *p;
    }
    (void)snprintf(output, PHI_ONNX_NAME_BYTES, "/model/layers.%u/%s/MatMul/output_0", layer, what);
    phi_status status = phi_onnx_place(w, tensor, weight, ONNX_COLUMNS, first_row, rows);
    if (!status) {
        phi_onnx_add_product_of(w, tensor, name, weight, rows, input, output);
    }
    return status;
}

phi_status phi_onnx_add_bias(phi_onnx_writer *w, phi_part part, uint32_t layer, const char *name,
                             const char *value, const char *output)
{
    const phi_export_tensor *tensor = phi_onnx_find(w, part, layer);
    char bias[PHI_ONNX_NAME_BYTES];
    char inputs[2 * PHI_ONNX_NAME_BYTES];
    if (!tensor) {
        return phi_onnx_fail_missing(w, part, layer);
    }
    (void)snprintf(bias, sizeof bias, "%.150s.bias", name + 1);
    for (char *p = bias; *p; p++) {
        *p = *p == '/' ? '.' : *p;
    }
    (void)snprintf(inputs, sizeof inputs, "%s %s", value, bias);
    phi_onnx_add_node(w, "Add", name, inputs, output);
    return phi_onnx_place(w, tensor, bias, ONNX_ROWS, 0, 1);
}

phi_status phi_onnx_add_affine(phi_onnx_writer *w, phi_part part, uint32_t layer, const char *what,
                               const char *input, char *output)
{
    const phi_export_tensor *tensor = phi_onnx_find(w, part, layer);
    phi_part bias = phi_part_bias(part);
    if (!tensor) {
        return phi_onnx_fail_missing(w, part, layer);
    }
    phi_status status =
        phi_onnx_add_product(w, tensor, layer, what, 0, tensor->rows, input, output);
    if (!status && bias != PHI_PART_COUNT && phi_part_is_of(bias, w->export->description)) {
        char name[PHI_ONNX_NAME_BYTES];
        char product[PHI_ONNX_NAME_BYTES];
        (void)snprintf(product, sizeof product, "%s", output);
        (void)snprintf(name, sizeof name, "/model/layers.%u/%s/Add", layer, what);
        (void)snprintf(output, PHI_ONNX_NAME_BYTES, "/model/layers.%u/%s/Add/output_0", layer,
                       what);
        status = phi_onnx_add_bias(w, bias, layer, name, product, output);
    }
    return status;
}
