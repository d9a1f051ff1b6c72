/*
 * The first stage: what depends on ids and positions, in plain operators for the CPU, so that the
 * NPU's graphs are left with arithmetic. Its shapes follow the number of ids.
 */
#include "engine/formats/qnn_graph.h"

#include "base/mem.h"
#include "engine/formats/protobuf_write.h"

#define LENGTH "sequence_length"

static void put_node(phi_qnn_graph *g, const char *op, const char *inputs, const char *output)
{
    phi_buf node = phi_onnx_start_node(op, "", output, inputs, output);
    phi_proto_put_message(&g->proto, PHI_ONNX_GRAPH_NODE, &node);
}

static void put_cast(phi_qnn_graph *g, const char *input, const char *output, phi_onnx_type type)
{
    phi_buf node = phi_onnx_start_node("Cast", "", output, input, output);
    phi_onnx_put_int(&node, "to", (int64_t)type);
    phi_proto_put_message(&g->proto, PHI_ONNX_GRAPH_NODE, &node);
}

static void put_numbers(phi_qnn_graph *g, const char *name, uint64_t count, const int64_t *numbers)
{
    phi_buf tensor = phi_onnx_make_tensor(name, PHI_ONNX_INT64, 1, &count, numbers,
                                          (size_t)count * sizeof *numbers);
    phi_proto_put_message(&g->proto, PHI_ONNX_GRAPH_INITIALIZER, &tensor);
}

static void put_scalar(phi_qnn_graph *g, const char *name, phi_onnx_type type, const void *value,
                       size_t bytes)
{
    phi_buf tensor = phi_onnx_make_tensor(name, type, 0, NULL, value, bytes);
    phi_proto_put_message(&g->proto, PHI_ONNX_GRAPH_INITIALIZER, &tensor);
}

/* Rows of codes, times the rows' scales. */
static void add_hidden(phi_qnn_graph *g)
{
    static const char *const names[] = {NULL, LENGTH, NULL};
    const phi_description *d = g->w->export->description;
    const phi_qnn_placed *placed = phi_qnn_placed_of(g->w, "embedding");
    const uint64_t shape[3] = {1, 0, d->n_embd};
    const uint64_t codes[2] = {d->n_vocab, d->n_embd};
    const uint64_t scales[2] = {d->n_vocab, 1};
    char hidden[64];
    if (!placed) {
        phi_qnn_remember(g, phi_fail(g->w->err, PHI_E_INTERNAL, "the embedding has no place"));
        return;
    }
    phi_qnn_hidden_name(g->w, 0, hidden, sizeof hidden);
    phi_onnx_put_value(&g->proto, PHI_ONNX_GRAPH_OUTPUT, hidden, PHI_ONNX_FLOAT, 3, names, shape);
    phi_onnx_put_external(&g->proto, "embedding/codes", PHI_ONNX_INT8, 2, codes, PHI_QNN_DATA,
                          placed->at, codes[0] * codes[1]);
    phi_onnx_put_external(&g->proto, "embedding/scale", PHI_ONNX_FLOAT, 2, scales, PHI_QNN_DATA,
                          placed->scales_at, scales[0] * sizeof(float));
    put_node(g, "Gather", "embedding/codes input_ids", "hidden/codes");
    put_node(g, "Gather", "embedding/scale input_ids", "hidden/scales");
    put_cast(g, "hidden/codes", "hidden/numbers", PHI_ONNX_FLOAT);
    put_node(g, "Mul", "hidden/numbers hidden/scales", hidden);
}

/* positions [S], the last of which is past_seq_len. */
static void add_positions(phi_qnn_graph *g)
{
    static const int64_t zero = 0;
    static const int64_t one = 1;
    static const int64_t flat[1] = {-1};
    static const int64_t column[2] = {-1, 1};
    put_scalar(g, "zero", PHI_ONNX_INT64, &zero, sizeof zero);
    put_scalar(g, "one", PHI_ONNX_INT64, &one, sizeof one);
    put_numbers(g, "flat", 1, flat);
    put_numbers(g, "column", 2, column);
    put_node(g, "Size", "input_ids", "ids/count");
    put_cast(g, "past_seq_len", "last/given", PHI_ONNX_INT64);
    put_node(g, "Reshape", "last/given flat", "last");
    put_node(g, "Range", "zero ids/count one", "ids/numbers");
    put_node(g, "Sub", "last ids/count", "last/before");
    put_node(g, "Add", "last/before one", "first");
    put_node(g, "Add", "ids/numbers first", "positions");
    put_node(g, "Reshape", "positions column", "positions/column");
}

static void add_table(phi_qnn_graph *g, const char *name, bool is_sin)
{
    static const char *const names[] = {LENGTH, NULL, NULL};
    const phi_description *d = g->w->export->description;
    const uint32_t half = d->n_rot / 2;
    const uint32_t rows = g->w->context;
    const uint64_t dims[3] = {rows, 1, half};
    const uint64_t shape[3] = {0, 1, half};
    const char *stored = phi_qnn_name(g, "%s/table", name);
    float *column = phi_try_alloc(rows * sizeof *column);
    float *table = phi_try_alloc((size_t)rows * half * sizeof *table);
    if (column && table) {
        for (uint32_t i = 0; i < half; i++) {
            phi_onnx_rope_column(d, phi_qnn_rope_is_long(d, rows), is_sin, i, rows, column);
            for (uint32_t p = 0; p < rows; p++) {
                table[(size_t)p * half + i] = column[p];
            }
        }
        phi_buf tensor = phi_onnx_make_tensor(stored, PHI_ONNX_FLOAT, 3, dims, table,
                                              (size_t)rows * half * sizeof *table);
        phi_proto_put_message(&g->proto, PHI_ONNX_GRAPH_INITIALIZER, &tensor);
    } else {
        phi_qnn_remember(
            g, phi_fail(g->w->err, PHI_E_NO_MEMORY, "not enough memory for rotary tables"));
    }
    phi_free(column);
    phi_free(table);
    phi_onnx_put_value(&g->proto, PHI_ONNX_GRAPH_OUTPUT, name, PHI_ONNX_FLOAT, 3, names, shape);
    put_node(g, "Gather", phi_qnn_name(g, "%s positions", stored), name);
}

/* 0 for keys that a token sees, [1, 1, S, context]: none after it, and none before its window. */
static void add_mask(phi_qnn_graph *g)
{
    static const char *const names[] = {NULL, NULL, LENGTH, NULL};
    static const float seen = 0.0F;
    const phi_qnn_writer *w = g->w;
    const int64_t context = w->context;
    const int64_t window = w->export->description->window;
    const int64_t dims[4] = {1, 1, -1, context};
    const uint64_t shape[4] = {1, 1, 0, w->context};
    const char *visible = "mask/causal";
    put_scalar(g, "context", PHI_ONNX_INT64, &context, sizeof context);
    put_scalar(g, "mask/seen", PHI_ONNX_FLOAT, &seen, sizeof seen);
    put_scalar(g, "mask/unseen", PHI_ONNX_FLOAT, &w->mask, sizeof w->mask);
    put_numbers(g, "mask/shape", 4, dims);
    put_node(g, "Range", "zero context one", "keys");
    put_node(g, "LessOrEqual", "keys positions/column", visible);
    if (window > 0 && window < context) {
        put_scalar(g, "window", PHI_ONNX_INT64, &window, sizeof window);
        put_node(g, "Sub", "positions/column keys", "distances");
        put_node(g, "Less", "distances window", "mask/near");
        put_node(g, "And", "mask/causal mask/near", "mask/visible");
        visible = "mask/visible";
    }
    phi_onnx_put_value(&g->proto, PHI_ONNX_GRAPH_OUTPUT, PHI_QNN_MASK, PHI_ONNX_FLOAT, 4, names,
                       shape);
    put_node(g, "Where", phi_qnn_name(g, "%s mask/seen mask/unseen", visible), "mask/rows");
    put_node(g, "Reshape", "mask/rows mask/shape", PHI_QNN_MASK);
}

/* Where each element of a new key or value goes along the cache, [1, Hkv, S, d]. */
static void add_index(phi_qnn_graph *g)
{
    static const char *const names[] = {NULL, NULL, LENGTH, NULL};
    const phi_description *d = g->w->export->description;
    const int64_t dims[4] = {1, d->n_head_kv, 1, d->head_dim};
    const uint64_t shape[4] = {1, d->n_head_kv, 0, d->head_dim};
    put_numbers(g, "index/shape", 4, dims);
    phi_onnx_put_value(&g->proto, PHI_ONNX_GRAPH_OUTPUT, PHI_QNN_INDEX, PHI_ONNX_INT32, 4, names,
                       shape);
    put_node(g, "Expand", "positions/column index/shape", "index/numbers");
    put_cast(g, "index/numbers", PHI_QNN_INDEX, PHI_ONNX_INT32);
}

void phi_qnn_add_embeddings(phi_qnn_graph *g, phi_qnn_writer *w)
{
    static const char *const ids[] = {NULL, LENGTH};
    static const uint64_t ones[2] = {1, 1};
    phi_qnn_graph_init(g, w, "embeddings", 0);
    phi_onnx_put_value(&g->proto, PHI_ONNX_GRAPH_INPUT, "input_ids", PHI_ONNX_INT32, 2, ids, ones);
    phi_onnx_put_value(&g->proto, PHI_ONNX_GRAPH_INPUT, "past_seq_len", PHI_ONNX_INT32, 2, NULL,
                       ones);
    /* GenAI gives the one only together with the other, which is the context and not needed. */
    phi_onnx_put_value(&g->proto, PHI_ONNX_GRAPH_INPUT, "total_seq_len", PHI_ONNX_INT32, 1, NULL,
                       ones);
    add_hidden(g);
    add_positions(g);
    add_table(g, PHI_QNN_COS, false);
    add_table(g, PHI_QNN_SIN, true);
    add_mask(g);
    add_index(g);
}
