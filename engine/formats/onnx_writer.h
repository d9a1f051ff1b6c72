/*
 * Purpose: what the parts of the ONNX writer share: onnx_write.c leads, onnx_write_graph.c builds
 *          the graph of what onnx_write_node.c, onnx_write_product.c, onnx_write_rope.c,
 *          onnx_write_feed_forward.c and onnx_write_experts.c make, onnx_write_data.c the values,
 * onnx_write_config.c the files beside them. Not for other modules. Owns:    phi_onnx_writer owns
 * its buffers and its list, from phi_onnx_write's begin to its end. Threads: as onnx_write.h.
 * Errors:  as onnx_write.h.
 * Limits:  as onnx_write.h.
 *
 * The graph is built first and says where each value will lie; then the file of values is made that
 * long and filled.
 */
#ifndef PHI_ENGINE_FORMATS_ONNX_WRITER_H
#define PHI_ENGINE_FORMATS_ONNX_WRITER_H

#include "base/buf.h"
#include "base/file.h"
#include "engine/formats/export.h"
#include "engine/formats/hf_names.h"
#include "engine/formats/onnx_graph.h"
#include "engine/formats/onnx_write.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define PHI_ONNX_MODEL "model.onnx"
#define PHI_ONNX_DATA "model.onnx.data"
/* Of the names of nodes and values. */
#define PHI_ONNX_NAME_BYTES 192
#define PHI_ONNX_MICROSOFT "com.microsoft"

typedef enum onnx_layout {
    ONNX_ROWS,    /* floats as the export gives them */
    ONNX_COLUMNS, /* floats, transposed */
    ONNX_CODES,   /* codes, scales, and zero points where there are any */
} onnx_layout;

/* Rows of an export's tensor, and where they go in the file of values. */
typedef struct onnx_placed {
    const phi_export_tensor *tensor;
    onnx_layout layout;
    uint32_t first_row;
    uint32_t rows;
    uint32_t bits; /* of a number: of a float, or of a scale */
    uint64_t at;
    uint64_t scales_at;
    uint64_t zeros_at;
} onnx_placed;

typedef struct phi_onnx_writer {
    const phi_export *export;
    const char *dir;
    phi_err *err;
    phi_onnx_provider provider;
    phi_onnx_type real; /* of all that is computed */
    phi_buf graph;
    onnx_placed *placed;
    uint32_t n_placed;
    uint64_t data_bytes; /* of the file of values, so far */
    phi_file_writer *data;
    uint64_t done_bytes;
} phi_onnx_writer;

/* onnx_write_node.c: nodes and whole numbers of the graph. */
void phi_onnx_end_node(phi_onnx_writer *w, phi_buf *node);
void phi_onnx_add_node(phi_onnx_writer *w, const char *op, const char *name, const char *inputs,
                       const char *outputs);
void phi_onnx_add_cast(phi_onnx_writer *w, const char *name, const char *input, const char *output,
                       phi_onnx_type type);
/* Count 0: one that stands alone. */
void phi_onnx_add_numbers(phi_onnx_writer *w, const char *name, uint64_t count,
                          const int64_t *numbers);

/* onnx_write_product.c: matrices and their products. */
const phi_export_tensor *phi_onnx_find(const phi_onnx_writer *w, phi_part part, uint32_t layer);
phi_status phi_onnx_fail_missing(const phi_onnx_writer *w, phi_part part,
                                 uint32_t layer) PHI_MUST_CHECK;
/* True for fp16 where fp32 is computed. */
bool phi_onnx_is_widened(const phi_onnx_writer *w, const phi_export_tensor *tensor);
/* y = W x with initializers that are there: MatMulNBits, or MatMul, which widens fp16. */
void phi_onnx_add_product_of(phi_onnx_writer *w, const phi_export_tensor *tensor, const char *name,
                             const char *weight, uint32_t rows, const char *input,
                             const char *output);
/* The same with rows of an export's tensor, whose initializers are added. `what` is the node's name
 * between "/model/layers.N/" and "/MatMul"; `output` [PHI_ONNX_NAME_BYTES]. */
phi_status phi_onnx_add_product(phi_onnx_writer *w, const phi_export_tensor *tensor, uint32_t layer,
                                const char *what, uint32_t first_row, uint32_t rows,
                                const char *input, char *output) PHI_MUST_CHECK;
/* value + the bias of a part, whose initializer is added. */
phi_status phi_onnx_add_bias(phi_onnx_writer *w, phi_part part, uint32_t layer, const char *name,
                             const char *value, const char *output) PHI_MUST_CHECK;
/* y = W x + b with a layer's part, where the architecture has a bias there. */
phi_status phi_onnx_add_affine(phi_onnx_writer *w, phi_part part, uint32_t layer, const char *what,
                               const char *input, char *output) PHI_MUST_CHECK;

/* onnx_write_feed_forward.c: a layer's feed-forward; `output` [PHI_ONNX_NAME_BYTES]. */
phi_status phi_onnx_add_feed_forward(phi_onnx_writer *w, uint32_t layer, const char *input,
                                     char *output) PHI_MUST_CHECK;

/* Rows of an export's tensor. */
typedef struct onnx_rows {
    const phi_export_tensor *tensor;
    uint32_t first;
    uint32_t count;
} onnx_rows;

/* down (silu(gate x) * up x), of these three. `what` is "mlp", or an expert's place. */
phi_status phi_onnx_add_swiglu(phi_onnx_writer *w, uint32_t layer, const char *what,
                               const onnx_rows parts[3], const char *input,
                               char *output) PHI_MUST_CHECK;

/* onnx_write_experts.c */
phi_status phi_onnx_add_experts(phi_onnx_writer *w, uint32_t layer, const char *input,
                                char *output) PHI_MUST_CHECK;

/* The value that says how many tokens the longest sequence has, with its past. */
#define PHI_ONNX_TOTAL_LENGTH "/model/attn_mask_reformat/attn_mask_subgraph/Gather/output_0"

/* onnx_write_rope.c: adds "cos_cache" and "sin_cache". */
phi_status phi_onnx_add_rope(phi_onnx_writer *w) PHI_MUST_CHECK;
/* One column of a rotary table: cosines or sines of positions 0..rows - 1, attention factor and
 * all; out [rows]. */
void phi_onnx_rope_column(const phi_description *d, bool is_long, bool is_sin, uint32_t column,
                          uint32_t rows, float *out);

/* onnx_write_graph.c: fills `graph` and `placed`. */
phi_status phi_onnx_write_graph(phi_onnx_writer *w) PHI_MUST_CHECK;
/* onnx_write_data.c: adds the initializers of a matrix or vector to the graph, NAME or NAME_Q4,
 * NAME_scales and NAME_zero_points, ... */
phi_status phi_onnx_place(phi_onnx_writer *w, const phi_export_tensor *tensor, const char *name,
                          onnx_layout layout, uint32_t first_row, uint32_t rows) PHI_MUST_CHECK;
/* ... and writes all of their values. */
phi_status phi_onnx_write_data(phi_onnx_writer *w) PHI_MUST_CHECK;
bool phi_onnx_has_zeros(const phi_export_tensor *tensor);

/* onnx_write_config.c */
phi_status phi_onnx_write_configs(phi_onnx_writer *w) PHI_MUST_CHECK;
/* Those beside genai_config.json, which any folder of ONNX Runtime GenAI has: the tokenizer's and
 * config.json. */
phi_status phi_onnx_write_beside(const phi_onnx_writer *w) PHI_MUST_CHECK;
/* Writes and frees `root`; NULL is memory that was lacking. */
phi_status phi_onnx_write_json(const phi_onnx_writer *w, const char *name,
                               json_t *root) PHI_MUST_CHECK;
/* The ids that end a text: one alone, several as a list, none as null. */
json_t *phi_onnx_eos_of(const phi_description *d);
/* GenAI wants ids where a model states none: the first that ends a text stands in. */
json_t *phi_onnx_id_or_eos(const phi_description *d, int32_t id);
/* A whole small file. */
phi_status phi_onnx_write_file(const phi_onnx_writer *w, const char *name, const void *data,
                               size_t bytes) PHI_MUST_CHECK;

#endif
