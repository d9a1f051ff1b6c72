/*
 * Purpose: what the parts of the QNN writer share: qnn_write.c leads, qnn_embed.c,
 *          qnn_layer.c and qnn_attention.c build the graphs of qnn_graph.c's pieces, qnn_data.c
 * writes the weights, qnn_config.c the files beside them. Not for other modules. Owns:
 * phi_qnn_writer owns its list of weights, phi_qnn_graph its message and its names, from
 *          phi_qnn_write's begin to its end.
 * Threads: as qnn_write.h.
 * Errors:  as qnn_write.h; a graph remembers its first failure.
 * Limits:  as qnn_write.h.
 *
 * A value NAME of a graph is quantized: the operator makes NAME/raw, QuantizeLinear NAME/q of it,
 * DequantizeLinear NAME. A coding is a scale and a zero point that values share; what only moves
 * values (Reshape, Transpose, Split, Concat, ...) keeps its input's coding.
 */
#ifndef PHI_ENGINE_FORMATS_QNN_GRAPH_H
#define PHI_ENGINE_FORMATS_QNN_GRAPH_H

#include "base/buf.h"
#include "base/file.h"
#include "engine/formats/arena.h"
#include "engine/formats/export.h"
#include "engine/formats/hf_names.h"
#include "engine/formats/onnx_node.h"
#include "engine/formats/onnx_writer.h"
#include "engine/formats/qnn_write.h"

#include <stdbool.h>
#include <stdint.h>

#define PHI_QNN_DATA "model.onnx.data"
#define PHI_QNN_EMBEDDINGS "embeddings.onnx"
#define PHI_QNN_CONTEXT_HEAD "lm_head_context.onnx"
#define PHI_QNN_ITERATOR_HEAD "lm_head_iterator.onnx"
/* What the first stage hands to those of the layers, beside the hidden states. */
#define PHI_QNN_COS "rotary_cos"
#define PHI_QNN_SIN "rotary_sin"
#define PHI_QNN_MASK "attention_bias"
#define PHI_QNN_INDEX "cache_index"
/* exp(-30) is nothing to a softmax of 16 bits: what a key that is not seen is lowered by, below the
 * least of those that are. */
#define PHI_QNN_UNSEEN 30.0F

/* Rows of a matrix, and where their codes and scales go in the file of weights. */
typedef struct phi_qnn_placed {
    char name[64]; /* "layers.3.query" */
    const phi_export_tensor *tensor;
    uint32_t first_row;
    uint32_t rows;
    float *factors; /* [rows] that scales are multiplied with; NULL: 1 */
    uint64_t at;
    uint64_t scales_at;
} phi_qnn_placed;

/* What queries and keys of a layer are like once their rows' scales are evened out. */
typedef struct phi_qnn_heads {
    float query; /* the largest magnitude, over 1/sqrt(d) and evening out */
    float key;
} phi_qnn_heads;

typedef struct phi_qnn_writer {
    const phi_export *export;
    const phi_qnn_ranges *ranges;
    const char *dir;
    phi_err *err;
    uint32_t context;
    uint32_t n_parts; /* that layers are divided into, each a graph of its own */
    float mask;       /* what is added to the score of a key that is not seen */
    phi_qnn_placed *placed;
    uint32_t n_placed;
    phi_qnn_heads *heads; /* [n_layer] */
    uint64_t data_bytes;  /* of the file of weights */
    phi_file_writer *data;
    uint64_t done_bytes;
} phi_qnn_writer;

typedef struct phi_qnn_graph {
    phi_qnn_writer *w;
    phi_buf proto;   /* GraphProto */
    phi_arena names; /* of values */
    uint32_t n_tok;
    phi_status status;
} phi_qnn_graph;

/* ---- qnn_graph.c ---- */

void phi_qnn_graph_init(phi_qnn_graph *g, phi_qnn_writer *w, const char *name, uint32_t n_tok);
void phi_qnn_graph_done(phi_qnn_graph *g);
/* A name that lives as long as the graph; "" when memory is lacking, which the graph remembers. */
const char *phi_qnn_name(phi_qnn_graph *g, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* A coding of `bits` bits, 16 or 8, for a range; around 0 in the middle for 8. */
void phi_qnn_coding(phi_qnn_graph *g, const char *name, phi_qnn_range range, uint32_t bits);
/* A node that makes OUTPUT/raw; attributes go in between. */
phi_buf phi_qnn_begin(const char *op, const char *inputs, phi_qnn_graph *g, const char *output);
/* Ends it, and quantizes its output. */
void phi_qnn_end(phi_qnn_graph *g, phi_buf *node, const char *output, const char *coding);
/* Both, for a node without attributes. */
void phi_qnn_op(phi_qnn_graph *g, const char *op, const char *inputs, const char *output,
                const char *coding);
/* OUTPUT/q and OUTPUT of a value that is there. */
void phi_qnn_quantize(phi_qnn_graph *g, const char *input, const char *output, const char *coding);
void phi_qnn_dequantize(phi_qnn_graph *g, const char *input, const char *output,
                        const char *coding);
void phi_qnn_reshape(phi_qnn_graph *g, const char *input, const char *output, const char *coding,
                     uint32_t n_dims, const int64_t *dims);
void phi_qnn_transpose(phi_qnn_graph *g, const char *input, const char *output, const char *coding,
                       uint32_t n_dims, const int64_t *order);
/* Values that a graph holds itself, in a coding that is there. */
void phi_qnn_constant(phi_qnn_graph *g, const char *name, const char *coding, uint32_t n_dims,
                      const uint64_t *dims, const uint16_t *codes);
/* The code of 16 bits that a value has in a range. */
uint16_t phi_qnn_code(phi_qnn_range range, float value);
/* A vector of the export as a constant with a coding of its own. */
/* Remembers a status, the first that is not PHI_OK. */
void phi_qnn_remember(phi_qnn_graph *g, phi_status status);
void phi_qnn_vector(phi_qnn_graph *g, const char *name, phi_part part, uint32_t layer);
/* y = W x of a matrix that is placed: [n_tok, cols] to [n_tok, rows]. */
void phi_qnn_product(phi_qnn_graph *g, const char *matrix, const char *input, const char *output,
                     const char *coding);
void phi_qnn_norm(phi_qnn_graph *g, const char *input, phi_part part, uint32_t layer,
                  const char *output, phi_qnn_range range);
phi_qnn_range phi_qnn_around(float magnitude); /* from -magnitude to magnitude */
const phi_export_tensor *phi_qnn_find(const phi_qnn_writer *w, phi_part part, uint32_t layer);

/* ---- qnn_embed.c ---- */

/* The first stage, for the CPU, of any number of tokens: inits and fills the graph. */
void phi_qnn_add_embeddings(phi_qnn_graph *g, phi_qnn_writer *w);

/* ---- qnn_layer.c, qnn_attention.c ---- */

/* What all layers of a graph share: the mask, cosines and sines, places in the cache. */
void phi_qnn_add_shared(phi_qnn_graph *g);
/* One layer: takes and gives the name and coding of the residual stream, [n_tok, E]. */
void phi_qnn_add_layer(phi_qnn_graph *g, uint32_t layer, const char **stream, const char **coding);
void phi_qnn_add_attention(phi_qnn_graph *g, uint32_t layer, const char *normed,
                           const char *output);

/* ---- qnn_data.c ---- */

/* Decides where each matrix lies, and by what queries' and keys' scales are multiplied. */
phi_status phi_qnn_place(phi_qnn_writer *w) PHI_MUST_CHECK;
const phi_qnn_placed *phi_qnn_placed_of(const phi_qnn_writer *w, const char *name);
phi_status phi_qnn_write_data(phi_qnn_writer *w) PHI_MUST_CHECK;
void phi_qnn_unplace(phi_qnn_writer *w);

/* ---- qnn_config.c ---- */

/* The layers of a part: [first, end). */
void phi_qnn_part_layers(const phi_qnn_writer *w, uint32_t part, uint32_t *out_first,
                         uint32_t *out_end);
/* "context.onnx", or "context_2.onnx" where there are several parts; and the hidden states that go
 * into a part, or, of part n_parts, out of the last. */
void phi_qnn_model_name(const phi_qnn_writer *w, const char *stage, uint32_t part, char *out,
                        size_t out_bytes);
void phi_qnn_hidden_name(const phi_qnn_writer *w, uint32_t part, char *out, size_t out_bytes);
phi_status phi_qnn_write_config(phi_qnn_writer *w) PHI_MUST_CHECK;

#endif
