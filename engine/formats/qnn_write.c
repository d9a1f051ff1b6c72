#include "engine/formats/qnn_write.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "engine/formats/protobuf_write.h"
#include "engine/formats/qnn_graph.h"

/* RMSNormalization is of opset 23. */
enum { IR_VERSION = 11, OPSET_VERSION = 23 };
/* Weights of one graph at most: an NPU sees 32 bits of addresses, and the tables beside them. */
#define PART_BYTES ((uint64_t)1 << 30)
#define NAME_BYTES 64

/* ---- what can be written ---- */

uint32_t phi_qnn_context(uint32_t n_ctx, uint32_t asked)
{
    if (asked > 0) {
        return asked;
    }
    uint32_t most = n_ctx < PHI_QNN_CONTEXT_DEFAULT ? n_ctx : PHI_QNN_CONTEXT_DEFAULT;
    return most / PHI_QNN_WINDOW * PHI_QNN_WINDOW;
}

phi_status phi_qnn_check_context(uint32_t n_ctx, uint32_t asked, phi_err *err)
{
    const uint32_t context = phi_qnn_context(n_ctx, asked);
    const bool is_known = n_ctx > 0;
    char most[24] = "";
    if ((!is_known && asked == 0) ||
        (context % PHI_QNN_WINDOW == 0 && context >= 2 * PHI_QNN_WINDOW &&
         (!is_known || context <= n_ctx))) {
        return PHI_OK;
    }
    if (is_known) {
        (void)snprintf(most, sizeof most, " of %u", n_ctx);
    }
    return phi_fail_param(err, PHI_E_INVALID, "context_length",
                          "a context of %u tokens; it must be a multiple of %u, at least %u and at "
                          "most the model's own%s",
                          context, PHI_QNN_WINDOW, 2 * PHI_QNN_WINDOW, most);
}

phi_status phi_qnn_check(const phi_description *description, uint32_t context, phi_err *err)
{
    if (description->arch != PHI_ARCH_PHI3) {
        return phi_fail_param(err, PHI_E_UNSUPPORTED, "format",
                              "qnn is written for phi3 models only, and this is %s",
                              phi_arch_name(description->arch));
    }
    return phi_qnn_check_context(description->n_ctx, context, err);
}

bool phi_qnn_rope_is_long(const phi_description *description, uint32_t context)
{
    return description->rope == PHI_ROPE_LONG && context > description->n_ctx_original;
}

/* ---- graphs ---- */

static phi_status write_graph(phi_qnn_graph *g, const char *file)
{
    const phi_onnx_writer files = {.dir = g->w->dir, .err = g->w->err};
    phi_buf model = phi_onnx_make_model(&g->proto, IR_VERSION, OPSET_VERSION, false);
    phi_status status = g->status;
    if (!status && phi_buf_failed(&model)) {
        status = phi_fail(g->w->err, model.failed, "%s: its graph takes too much memory", file);
    }
    if (!status) {
        status = phi_onnx_write_file(&files, file, model.data, model.length_bytes);
    }
    phi_buf_done(&model);
    phi_qnn_graph_done(g);
    return status;
}

/* Takes the hidden states in: the same coding that the graph before gave them, so that they are
 * what they were. */
static const char *take_in(phi_qnn_graph *g, const char *input, phi_qnn_range range)
{
    const phi_description *d = g->w->export->description;
    const uint64_t given[3] = {1, g->n_tok, d->n_embd};
    const int64_t dims[2] = {g->n_tok, d->n_embd};
    phi_onnx_put_value(&g->proto, PHI_ONNX_GRAPH_INPUT, input, PHI_ONNX_FLOAT, 3, NULL, given);
    phi_qnn_coding(g, "in", range, 16);
    phi_qnn_quantize(g, input, "in/given", "in");
    phi_qnn_reshape(g, "in/given", "in", "in", 2, dims);
    return "in";
}

/* Gives a value [rows, cols] out, as floats [1, rows, cols]. */
static void give_out(phi_qnn_graph *g, const char *value, const char *coding, const char *output,
                     uint32_t rows, uint32_t cols)
{
    const uint64_t given[3] = {1, rows, cols};
    const int64_t dims[3] = {1, rows, cols};
    phi_onnx_put_value(&g->proto, PHI_ONNX_GRAPH_OUTPUT, output, PHI_ONNX_FLOAT, 3, NULL, given);
    phi_qnn_reshape(g, value, output, coding, 3, dims);
}

/* A part of the layers, for n_tok tokens at a time. */
static phi_status write_part(phi_qnn_writer *w, const char *stage, uint32_t part, uint32_t n_tok)
{
    const phi_description *d = w->export->description;
    char file[NAME_BYTES];
    char input[NAME_BYTES];
    char output[NAME_BYTES];
    uint32_t first = 0;
    uint32_t end = 0;
    phi_qnn_graph g;
    phi_qnn_model_name(w, stage, part, file, sizeof file);
    phi_qnn_hidden_name(w, part, input, sizeof input);
    phi_qnn_hidden_name(w, part + 1, output, sizeof output);
    phi_qnn_part_layers(w, part, &first, &end);
    phi_qnn_graph_init(&g, w, stage, n_tok);
    const phi_qnn_range into = first == 0 ? w->ranges->embedding : w->ranges->layers[first - 1].sum;
    const char *coding = "in";
    const char *stream = take_in(&g, input, into);
    phi_qnn_add_shared(&g);
    for (uint32_t i = first; i < end; i++) {
        phi_qnn_add_layer(&g, i, &stream, &coding);
    }
    give_out(&g, stream, coding, output, n_tok, d->n_embd);
    return write_graph(&g, file);
}

static phi_status write_head(phi_qnn_writer *w, const char *file, uint32_t n_tok)
{
    const phi_description *d = w->export->description;
    char input[NAME_BYTES];
    phi_qnn_graph g;
    phi_qnn_hidden_name(w, w->n_parts, input, sizeof input);
    phi_qnn_graph_init(&g, w, "lm_head", n_tok);
    const char *stream = take_in(&g, input, w->ranges->layers[d->n_layer - 1].sum);
    phi_qnn_norm(&g, stream, PHI_PART_OUTPUT_NORM, 0, "final_norm", w->ranges->final_norm);
    phi_qnn_coding(&g, "logit", w->ranges->logit, 16);
    phi_qnn_product(&g, d->tied_head ? "embedding" : "head", "final_norm", "logit", "logit");
    give_out(&g, "logit", "logit", "logits", n_tok, d->n_vocab);
    return write_graph(&g, file);
}

static phi_status write_graphs(phi_qnn_writer *w)
{
    phi_qnn_graph embeddings;
    phi_qnn_add_embeddings(&embeddings, w);
    phi_status status = write_graph(&embeddings, PHI_QNN_EMBEDDINGS);
    for (uint32_t part = 0; part < w->n_parts && !status; part++) {
        status = write_part(w, "context", part, PHI_QNN_WINDOW);
        status = status ? status : write_part(w, "iterator", part, 1);
    }
    status = status ? status : write_head(w, PHI_QNN_CONTEXT_HEAD, PHI_QNN_WINDOW);
    return status ? status : write_head(w, PHI_QNN_ITERATOR_HEAD, 1);
}

/* ---- the folder ---- */

static uint32_t parts_of(const phi_qnn_writer *w, uint64_t part_bytes)
{
    const phi_description *d = w->export->description;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < w->n_placed; i++) {
        bool in_layer = strncmp(w->placed[i].name, "layers.", 7) == 0;
        bytes += in_layer ? (uint64_t)w->placed[i].rows * w->placed[i].tensor->cols : 0;
    }
    uint64_t parts = bytes / part_bytes + (bytes % part_bytes != 0);
    parts = parts < 1 ? 1 : parts;
    return parts < d->n_layer ? (uint32_t)parts : d->n_layer;
}

/* What lowers any score below all that can be seen, in every layer. */
static float mask_of(const phi_qnn_writer *w)
{
    float spread = 0.0F;
    for (uint32_t i = 0; i < w->export->description->n_layer; i++) {
        const phi_qnn_range *score = &w->ranges->layers[i].score;
        spread = fmaxf(spread, fmaxf(score->high, 0.0F) - fminf(score->low, 0.0F));
    }
    return -(spread + PHI_QNN_UNSEEN);
}

phi_status phi_qnn_write(const phi_export *export, const phi_qnn_ranges *ranges,
                         const phi_qnn_options *options, const char *dir, phi_err *err)
{
    phi_qnn_writer w = {.export = export, .ranges = ranges, .dir = dir, .err = err};
    phi_status status = phi_qnn_check(export->description, options->context, err);
    if (status) {
        return status;
    }
    w.context = phi_qnn_context(export->description->n_ctx, options->context);
    w.mask = mask_of(&w);
    status = phi_qnn_place(&w);
    if (!status) {
        w.n_parts = parts_of(&w, options->part_bytes ? options->part_bytes : PART_BYTES);
        status = phi_file_make_dirs(dir, err);
    }
    status = status ? status : write_graphs(&w);
    status = status ? status : phi_qnn_write_data(&w);
    status = status ? status : phi_qnn_write_config(&w);
    phi_qnn_unplace(&w);
    return status;
}
