/* Tables of cosines and sines; LongRoPE's two are chosen from by an If. */
#include <math.h>
#include <stdio.h>

#include "base/mem.h"
#include "engine/formats/onnx_node.h"
#include "engine/formats/onnx_writer.h"
#include "engine/formats/protobuf_write.h"
#include "engine/tensor/half.h"

static phi_buf make_constant(const char *name, const char *output, phi_buf *tensor)
{
    phi_buf node = phi_onnx_start_node("Constant", "", name, "", output);
    phi_buf attribute = phi_onnx_start_attribute("value", PHI_ONNX_TYPE_TENSOR);
    phi_proto_put_message(&attribute, PHI_ONNX_ATTR_TENSOR, tensor);
    phi_proto_put_message(&node, PHI_ONNX_NODE_ATTRIBUTE, &attribute);
    return node;
}

/* One column of a table of cosines or sines, times the attention factor: of position * frequency.
 */
void phi_onnx_rope_column(const phi_description *d, bool is_long, bool is_sin, uint32_t column,
                          uint32_t rows, float *out)
{
    const float *factors = is_long ? d->rope_long : d->rope_short;
    bool stretched = d->rope == PHI_ROPE_LONG;
    float factor = stretched ? d->rope_attn_factor : 1.0F;
    factor = is_long && d->rope_attn_factor_long != 0.0F ? d->rope_attn_factor_long : factor;
    float stretch = stretched ? factors[column] : 1.0F;
    float frequency = 1.0F / (stretch * powf(d->rope_theta, (float)(2 * column) / (float)d->n_rot));
    for (uint32_t p = 0; p < rows; p++) {
        double angle = (double)((float)p * frequency);
        out[p] = (float)(is_sin ? sin(angle) : cos(angle)) * factor;
    }
}

/* A table of cosines or sines, [rows][n_rot / 2]. */
static phi_status make_table(const phi_onnx_writer *w, const char *name, bool is_long, bool is_sin,
                             uint32_t rows, phi_buf *out)
{
    const phi_description *d = w->export->description;
    uint32_t half = d->n_rot / 2;
    const uint64_t dims[2] = {rows, half};
    size_t count = (size_t)rows * half;
    bool narrow = w->real == PHI_ONNX_FLOAT16;
    size_t bytes = count * (narrow ? sizeof(uint16_t) : sizeof(float));
    void *table = phi_try_alloc(bytes);
    float *column = phi_try_alloc(rows * sizeof *column);
    if (!table || !column) {
        phi_free(table);
        phi_free(column);
        return phi_fail(w->err, PHI_E_NO_MEMORY, "not enough memory for rotary tables");
    }
    for (uint32_t i = 0; i < half; i++) {
        phi_onnx_rope_column(d, is_long, is_sin, i, rows, column);
        for (uint32_t p = 0; p < rows; p++) {
            if (narrow) {
                ((uint16_t *)table)[(size_t)p * half + i] = phi_half_of_float(column[p]);
            } else {
                ((float *)table)[(size_t)p * half + i] = column[p];
            }
        }
    }
    *out = phi_onnx_make_tensor(name, w->real, 2, dims, table, bytes);
    phi_free(table);
    phi_free(column);
    return PHI_OK;
}

/* The graph of a branch: two constants, which are its outputs. */
static phi_status put_branch(phi_onnx_writer *w, phi_buf *chooser, const char *branch,
                             const char *size, bool is_long, uint32_t rows)
{
    static const char *const kinds[] = {"cos", "sin"};
    phi_buf graph;
    phi_buf attribute = phi_onnx_start_attribute(branch, PHI_ONNX_TYPE_GRAPH);
    phi_status status = PHI_OK;
    phi_buf_init(&graph, PHI_ONNX_NODE_BYTES_MAX);
    for (size_t i = 0; i < 2 && !status; i++) {
        char output[PHI_ONNX_NAME_BYTES];
        char name[PHI_ONNX_NAME_BYTES];
        phi_buf tensor;
        phi_buf value;
        (void)snprintf(output, sizeof output, "%s_cache_%s", kinds[i], size);
        (void)snprintf(name, sizeof name, "/%s/%s_cache/Constant", size, kinds[i]);
        status = make_table(w, output, is_long, i == 1, rows, &tensor);
        if (status) {
            break;
        }
        phi_buf constant = make_constant(name, output, &tensor);
        phi_proto_put_message(&graph, PHI_ONNX_GRAPH_NODE, &constant);
        phi_buf_init(&value, 4096);
        phi_proto_put_text(&value, PHI_ONNX_VALUE_NAME, output);
        phi_proto_put_message(&graph, PHI_ONNX_GRAPH_OUTPUT, &value);
    }
    phi_proto_put_text(&graph, PHI_ONNX_GRAPH_NAME, size);
    phi_proto_put_message(&attribute, PHI_ONNX_ATTR_GRAPH, &graph);
    phi_proto_put_message(chooser, PHI_ONNX_NODE_ATTRIBUTE, &attribute);
    return status;
}

/* LongRoPE's long factors serve whole sequences longer than n_ctx_original. */
static phi_status add_chooser(phi_onnx_writer *w)
{
    const phi_description *d = w->export->description;
    const int64_t original = d->n_ctx_original;
    phi_onnx_add_numbers(w, "/model/constants/INT64/original_context", 0, &original);
    phi_onnx_add_node(w, "Greater", "/model/rope_caches_subgraph/Greater",
                      PHI_ONNX_TOTAL_LENGTH " /model/constants/INT64/original_context",
                      "/model/rope_caches_subgraph/Greater/output_0");
    phi_buf chooser =
        phi_onnx_start_node("If", "", "/model/rope_caches_subgraph/If",
                            "/model/rope_caches_subgraph/Greater/output_0", "cos_cache sin_cache");
    phi_status status = put_branch(w, &chooser, "then_branch", "large", true, d->n_ctx);
    if (!status) {
        status = put_branch(w, &chooser, "else_branch", "small", false, d->n_ctx_original);
    }
    phi_onnx_end_node(w, &chooser);
    return status;
}

phi_status phi_onnx_add_rope(phi_onnx_writer *w)
{
    static const char *const names[] = {"cos_cache", "sin_cache"};
    const phi_description *d = w->export->description;
    phi_status status = PHI_OK;
    if (d->rope == PHI_ROPE_LONG) {
        return add_chooser(w);
    }
    for (size_t i = 0; i < 2 && !status; i++) {
        phi_buf tensor;
        status = make_table(w, names[i], false, i == 1, d->n_ctx, &tensor);
        if (!status) {
            phi_proto_put_message(&w->graph, PHI_ONNX_GRAPH_INITIALIZER, &tensor);
        }
    }
    return status;
}
