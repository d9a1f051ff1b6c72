/*
 * The decoder as onnxruntime-genai's model builder lays it out for its CPU and CUDA providers,
 * which differ in the type of all floats, node names included, so that tools that know those graphs
 * know this one.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/formats/hf_names.h"
#include "engine/formats/onnx_graph.h"
#include "engine/formats/onnx_node.h"
#include "engine/formats/onnx_writer.h"
#include "engine/formats/protobuf_write.h"

#define MASK "/model/attn_mask_reformat/attn_mask_subgraph/"
#define ROTARY_UNIT 16U

static void add_transpose(phi_onnx_writer *w, const char *name, const char *input,
                          const char *output)
{
    phi_buf node = phi_onnx_start_node("Transpose", "", name, input, output);
    phi_buf attribute = phi_onnx_start_attribute("perm", PHI_ONNX_TYPE_INTS);
    phi_proto_put_number(&attribute, PHI_ONNX_ATTR_INTS, 1);
    phi_proto_put_number(&attribute, PHI_ONNX_ATTR_INTS, 0);
    phi_proto_put_message(&node, PHI_ONNX_NODE_ATTRIBUTE, &attribute);
    phi_onnx_end_node(w, &node);
}

/* ---- inputs and outputs ---- */

static void add_interface(phi_onnx_writer *w)
{
    const phi_description *d = w->export->description;
    const char *const ids[] = {"batch_size", "sequence_length"};
    const char *const mask[] = {"batch_size", "total_sequence_length"};
    const char *const logits[] = {"batch_size", "sequence_length", NULL};
    const char *const past[] = {"batch_size", NULL, "past_sequence_length", NULL};
    const char *const present[] = {"batch_size", NULL, "total_sequence_length", NULL};
    const uint64_t logits_dims[] = {0, 0, d->n_vocab};
    const uint64_t cache_dims[] = {0, d->n_head_kv, 0, d->head_dim};
    phi_onnx_put_value(&w->graph, PHI_ONNX_GRAPH_INPUT, "input_ids", PHI_ONNX_INT64, 2, ids, NULL);
    phi_onnx_put_value(&w->graph, PHI_ONNX_GRAPH_INPUT, "attention_mask", PHI_ONNX_INT64, 2, mask,
                       NULL);
    phi_onnx_put_value(&w->graph, PHI_ONNX_GRAPH_OUTPUT, "logits", w->real, 3, logits, logits_dims);
    for (uint32_t i = 0; i < d->n_layer; i++) {
        static const char *const sides[] = {"key", "value"};
        for (size_t side = 0; side < 2; side++) {
            char name[PHI_ONNX_NAME_BYTES];
            (void)snprintf(name, sizeof name, "past_key_values.%u.%s", i, sides[side]);
            phi_onnx_put_value(&w->graph, PHI_ONNX_GRAPH_INPUT, name, w->real, 4, past, cache_dims);
            (void)snprintf(name, sizeof name, "present.%u.%s", i, sides[side]);
            phi_onnx_put_value(&w->graph, PHI_ONNX_GRAPH_OUTPUT, name, w->real, 4, present,
                               cache_dims);
        }
    }
}

/* Lengths from the mask: of the past of each sequence, and of all of the longest. */
static void add_lengths(phi_onnx_writer *w)
{
    static const int64_t one = 1;
    phi_onnx_add_numbers(w, "/model/constants/INT64/[1]", 1, &one);
    phi_onnx_add_numbers(w, "/model/constants/INT64/1", 0, &one);
    phi_buf sum =
        phi_onnx_start_node("ReduceSum", "", MASK "ReduceSum",
                            "attention_mask /model/constants/INT64/[1]", MASK "ReduceSum/output_0");
    phi_onnx_put_int(&sum, "keepdims", 0);
    phi_onnx_end_node(w, &sum);
    phi_onnx_add_node(w, "Sub", MASK "Sub", MASK "ReduceSum/output_0 /model/constants/INT64/[1]",
                      MASK "Sub/output_0");
    phi_onnx_add_cast(w, MASK "Sub/Cast", MASK "Sub/output_0", MASK "Sub/Cast/output_0",
                      PHI_ONNX_INT32);
    phi_onnx_add_node(w, "Shape", MASK "Shape", "attention_mask", MASK "Shape/output_0");
    phi_buf gather =
        phi_onnx_start_node("Gather", "", MASK "Gather",
                            MASK "Shape/output_0 /model/constants/INT64/1", MASK "Gather/output_0");
    phi_onnx_put_int(&gather, "axis", 0);
    phi_onnx_end_node(w, &gather);
    phi_onnx_add_cast(w, MASK "Gather/Cast", MASK "Gather/output_0", MASK "Gather/Cast/output_0",
                      PHI_ONNX_INT32);
}

/* ---- parts ---- */

/* What flows between the parts of a layer: names of values. */
typedef struct stream {
    char residual[PHI_ONNX_NAME_BYTES];
    char branch[PHI_ONNX_NAME_BYTES]; /* "" before the first layer */
    char normed[PHI_ONNX_NAME_BYTES];
} stream;

/* The operator: RMS norms are called simplified. */
static const char *norm_op(const phi_onnx_writer *w, bool skips)
{
    if (w->export->description->norm == PHI_NORM_LAYER) {
        return skips ? "SkipLayerNormalization" : "LayerNormalization";
    }
    return skips ? "SkipSimplifiedLayerNormalization" : "SimplifiedLayerNormalization";
}

/* The inputs of a norm behind those that it is of, whose initializers are added. */
static phi_status add_norm_weights(phi_onnx_writer *w, phi_part part, uint32_t layer,
                                   const char *what, char *out, size_t out_bytes)
{
    uint32_t index = part == PHI_PART_OUTPUT_NORM ? 0 : layer;
    const phi_export_tensor *tensor = phi_onnx_find(w, part, index);
    char name[PHI_ONNX_NAME_BYTES];
    if (!tensor) {
        return phi_onnx_fail_missing(w, part, index);
    }
    (void)snprintf(name, sizeof name, "model.layers.%u.%s.weight", layer, what);
    (void)snprintf(out, out_bytes, "%s", name);
    phi_status status = phi_onnx_place(w, tensor, name, ONNX_ROWS, 0, 1);
    if (status || w->export->description->norm != PHI_NORM_LAYER) {
        return status;
    }
    tensor = phi_onnx_find(w, phi_part_bias(part), index);
    if (!tensor) {
        return phi_onnx_fail_missing(w, phi_part_bias(part), index);
    }
    (void)snprintf(name, sizeof name, "model.layers.%u.%s.bias", layer, what);
    (void)snprintf(out, out_bytes, "model.layers.%u.%s.weight %s", layer, what, name);
    return phi_onnx_place(w, tensor, name, ONNX_ROWS, 0, 1);
}

static phi_status add_norm(phi_onnx_writer *w, phi_part part, uint32_t layer, const char *what,
                           stream *s)
{
    char name[PHI_ONNX_NAME_BYTES];
    char weights[2 * PHI_ONNX_NAME_BYTES];
    char inputs[4 * PHI_ONNX_NAME_BYTES];
    char outputs[2 * PHI_ONNX_NAME_BYTES + 8];
    bool skips = *s->branch != '\0';
    phi_status status = add_norm_weights(w, part, layer, what, weights, sizeof weights);
    if (status) {
        return status;
    }
    (void)snprintf(name, sizeof name, "/model/layers.%u/%s/%s", layer, what,
                   skips ? "SkipLayerNorm" : "LayerNorm");
    (void)snprintf(inputs, sizeof inputs, skips ? "%s %s %s" : "%s%s %s", s->residual, s->branch,
                   weights);
    (void)snprintf(s->normed, sizeof s->normed, "/model/layers.%u/%s/output_0", layer, what);
    if (skips && part != PHI_PART_OUTPUT_NORM) {
        (void)snprintf(s->residual, sizeof s->residual, "/model/layers.%u/%s/output_3", layer,
                       what);
        (void)snprintf(outputs, sizeof outputs, "%s - - %s", s->normed, s->residual);
    } else {
        (void)snprintf(outputs, sizeof outputs, "%s", s->normed);
    }
    phi_buf node = phi_onnx_start_node(norm_op(w, skips), skips ? PHI_ONNX_MICROSOFT : "", name,
                                       inputs, outputs);
    phi_onnx_put_float(&node, "epsilon", w->export->description->norm_eps);
    if (!skips) {
        phi_onnx_put_int(&node, "axis", -1);
        phi_onnx_put_int(&node, "stash_type", 1);
    }
    phi_onnx_end_node(w, &node);
    return PHI_OK;
}

static void add_group_query_attention(phi_onnx_writer *w, uint32_t layer, const char *qkv,
                                      const char *output)
{
    const phi_description *d = w->export->description;
    char name[PHI_ONNX_NAME_BYTES];
    char inputs[6 * PHI_ONNX_NAME_BYTES];
    char outputs[3 * PHI_ONNX_NAME_BYTES];
    (void)snprintf(name, sizeof name, "/model/layers.%u/attn/GroupQueryAttention", layer);
    (void)snprintf(inputs, sizeof inputs,
                   "%s - - past_key_values.%u.key past_key_values.%u.value " MASK
                   "Sub/Cast/output_0 " MASK "Gather/Cast/output_0 cos_cache sin_cache",
                   qkv, layer, layer);
    (void)snprintf(outputs, sizeof outputs, "%s present.%u.key present.%u.value", output, layer,
                   layer);
    phi_buf node =
        phi_onnx_start_node("GroupQueryAttention", PHI_ONNX_MICROSOFT, name, inputs, outputs);
    phi_onnx_put_int(&node, "num_heads", d->n_head);
    phi_onnx_put_int(&node, "kv_num_heads", d->n_head_kv);
    phi_onnx_put_float(&node, "scale", (float)(1.0 / sqrt((double)d->head_dim)));
    phi_onnx_put_int(&node, "local_window_size", d->window ? (int64_t)d->window : -1);
    phi_onnx_put_float(&node, "softcap", 0.0F);
    phi_onnx_put_int(&node, "do_rotary", 1);
    phi_onnx_put_int(&node, "rotary_interleaved", 0);
    phi_onnx_end_node(w, &node);
}

static phi_status add_attention(phi_onnx_writer *w, uint32_t layer, const char *input, char *output)
{
    char value[PHI_ONNX_NAME_BYTES];
    char attended[PHI_ONNX_NAME_BYTES];
    phi_status status =
        phi_onnx_add_affine(w, PHI_PART_ATTN_QKV, layer, "attn/qkv_proj", input, value);
    (void)snprintf(attended, sizeof attended, "/model/layers.%u/attn/GroupQueryAttention/output_0",
                   layer);
    if (!status) {
        add_group_query_attention(w, layer, value, attended);
        status =
            phi_onnx_add_affine(w, PHI_PART_ATTN_OUTPUT, layer, "attn/o_proj", attended, output);
    }
    return status;
}

/* Attention, a norm, feed-forward. */
static phi_status add_serial(phi_onnx_writer *w, uint32_t layer, stream *s)
{
    phi_status status = add_attention(w, layer, s->normed, s->branch);
    status = status ? status : add_norm(w, PHI_PART_FFN_NORM, layer, "post_attention_layernorm", s);
    return status ? status : phi_onnx_add_feed_forward(w, layer, s->normed, s->branch);
}

/* Attention and feed-forward of the same norm, added up. */
static phi_status add_parallel(phi_onnx_writer *w, uint32_t layer, stream *s)
{
    char name[PHI_ONNX_NAME_BYTES];
    char attended[PHI_ONNX_NAME_BYTES];
    char fed[PHI_ONNX_NAME_BYTES];
    char inputs[2 * PHI_ONNX_NAME_BYTES];
    phi_status status = add_attention(w, layer, s->normed, attended);
    status = status ? status : phi_onnx_add_feed_forward(w, layer, s->normed, fed);
    if (status) {
        return status;
    }
    (void)snprintf(name, sizeof name, "/model/layers.%u/residual_add/Add", layer);
    (void)snprintf(inputs, sizeof inputs, "%s %s", attended, fed);
    (void)snprintf(s->branch, sizeof s->branch, "/model/layers.%u/residual_add/Add/output_0",
                   layer);
    phi_onnx_add_node(w, "Add", name, inputs, s->branch);
    return PHI_OK;
}

#define EMBEDDING "/model/embed_tokens/"

/* Codes are gathered by GatherBlockQuantized; a tied head has them in three dimensions. */
static void gather_codes(phi_onnx_writer *w, const phi_export_tensor *tensor, const char *weight)
{
    const int64_t shape[2] = {tensor->rows, (int64_t)tensor->cols * tensor->bits / 8};
    char codes[PHI_ONNX_NAME_BYTES];
    char inputs[4 * PHI_ONNX_NAME_BYTES];
    bool has_zeros = phi_onnx_has_zeros(tensor);
    phi_onnx_add_numbers(w, EMBEDDING "shape", 2, shape);
    (void)snprintf(codes, sizeof codes, "%s_Q%u " EMBEDDING "shape", weight, tensor->bits);
    phi_onnx_add_node(w, "Reshape", EMBEDDING "Reshape", codes, EMBEDDING "Reshape/output_0");
    (void)snprintf(inputs, sizeof inputs, EMBEDDING "Reshape/output_0 input_ids %s_scales%s%s%s",
                   weight, has_zeros ? " " : "", has_zeros ? weight : "",
                   has_zeros ? "_zero_points" : "");
    phi_buf node =
        phi_onnx_start_node("GatherBlockQuantized", PHI_ONNX_MICROSOFT,
                            EMBEDDING "GatherBlockQuantized", inputs, EMBEDDING "output_0");
    phi_onnx_put_int(&node, "bits", tensor->bits);
    phi_onnx_put_int(&node, "block_size", tensor->group);
    phi_onnx_put_int(&node, "gather_axis", 0);
    phi_onnx_put_int(&node, "quantize_axis", 1);
    phi_onnx_end_node(w, &node);
}

/* GatherBlockQuantized's kernel for CUDA looks for zero points without a gap between rows, that for
 * CPUs and MatMulNBits where each row begins at a byte. */
static phi_status check_gathered(const phi_onnx_writer *w, const phi_export_tensor *tensor)
{
    bool packed = tensor->bits == 4 && phi_onnx_has_zeros(tensor);
    if (w->provider == PHI_ONNX_CUDA && packed && tensor->cols / tensor->group % 2 != 0) {
        return phi_fail(w->err, PHI_E_UNSUPPORTED,
                        "tensor \"%s\": %u groups a row with zero points of 4 bits; ONNX Runtime "
                        "on CUDA gathers rows of an even number of groups, or without zero points",
                        tensor->name, tensor->cols / tensor->group);
    }
    return PHI_OK;
}

static phi_status add_embedding(phi_onnx_writer *w, stream *s)
{
    const phi_export_tensor *tensor = phi_onnx_find(w, PHI_PART_TOKEN_EMBD, 0);
    bool tied = w->export->description->tied_head;
    const char *weight = tied ? "lm_head.MatMul.weight" : "model.embed_tokens.weight";
    char inputs[2 * PHI_ONNX_NAME_BYTES];
    if (!tensor) {
        return phi_onnx_fail_missing(w, PHI_PART_TOKEN_EMBD, 0);
    }
    *s->branch = '\0';
    (void)snprintf(s->residual, sizeof s->residual, EMBEDDING "output_0");
    phi_status status = check_gathered(w, tensor);
    status = status ? status : phi_onnx_place(w, tensor, weight, ONNX_ROWS, 0, tensor->rows);
    if (status || tensor->bits <= 8) {
        if (!status) {
            gather_codes(w, tensor, weight);
        }
        return status;
    }
    bool half = phi_onnx_is_widened(w, tensor);
    (void)snprintf(inputs, sizeof inputs, "%s input_ids", weight);
    phi_onnx_add_node(w, "Gather", EMBEDDING "Gather", inputs,
                      half ? EMBEDDING "Gather/output_0" : EMBEDDING "output_0");
    if (half) {
        phi_onnx_add_cast(w, EMBEDDING "Cast", EMBEDDING "Gather/output_0", EMBEDDING "output_0",
                          PHI_ONNX_FLOAT);
    }
    return PHI_OK;
}

static phi_status add_head(phi_onnx_writer *w, const stream *s)
{
    static const char weight[] = "lm_head.MatMul.weight";
    const phi_description *d = w->export->description;
    phi_part part = d->tied_head ? PHI_PART_TOKEN_EMBD : PHI_PART_OUTPUT;
    const phi_export_tensor *tensor = phi_onnx_find(w, part, 0);
    const char *matrix = weight;
    const char *product = d->head_bias ? "/lm_head/MatMul/output_0" : "logits";
    phi_status status = PHI_OK;
    if (!tensor) {
        return phi_onnx_fail_missing(w, part, 0);
    }
    if (!d->tied_head) {
        status = phi_onnx_place(w, tensor, weight, ONNX_COLUMNS, 0, tensor->rows);
    } else if (tensor->bits > 8) {
        /* The embedding's rows are there; MatMul wants columns. */
        matrix = "/lm_head/Transpose/output_0";
        add_transpose(w, "/lm_head/Transpose", weight, matrix);
    }
    if (!status) {
        phi_onnx_add_product_of(w, tensor, "/lm_head/MatMul", matrix, tensor->rows, s->normed,
                                product);
    }
    if (!status && d->head_bias) {
        status = phi_onnx_add_bias(w, PHI_PART_OUTPUT_BIAS, 0, "/lm_head/Add", product, "logits");
    }
    return status;
}

phi_status phi_onnx_write_graph(phi_onnx_writer *w)
{
    const phi_description *d = w->export->description;
    stream s = {.branch = ""};
    if (d->n_rot % ROTARY_UNIT != 0) {
        return phi_fail(w->err, PHI_E_UNSUPPORTED,
                        "%u rotary dimensions: onnxruntime's GroupQueryAttention takes a multiple "
                        "of %u",
                        d->n_rot, ROTARY_UNIT);
    }
    phi_proto_put_text(&w->graph, PHI_ONNX_GRAPH_NAME, "main_graph");
    add_interface(w);
    add_lengths(w);
    phi_status status = phi_onnx_add_rope(w);
    status = status ? status : add_embedding(w, &s);
    for (uint32_t i = 0; i < d->n_layer && !status; i++) {
        status = add_norm(w, PHI_PART_ATTN_NORM, i, "input_layernorm", &s);
        if (!status) {
            status = d->is_parallel ? add_parallel(w, i, &s) : add_serial(w, i, &s);
        }
    }
    status =
        status ? status : add_norm(w, PHI_PART_OUTPUT_NORM, d->n_layer, "final_norm_layernorm", &s);
    status = status ? status : add_head(w, &s);
    if (!status && phi_buf_failed(&w->graph)) {
        status =
            phi_fail(w->err, w->graph.failed, PHI_ONNX_MODEL ": its graph takes too much memory");
    }
    return status;
}
