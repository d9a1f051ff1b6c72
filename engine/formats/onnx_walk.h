/*
 * Purpose: steps along an ONNX graph that onnx_decoder.c, onnx_matrix.c and onnx_attention.c share.
 *          Not for other modules.
 * Owns:    nothing.
 * Threads: as onnx_decoder.h.
 * Errors:  as onnx_decoder.h.
 * Limits:  as onnx_decoder.h.
 */
#ifndef PHI_ENGINE_FORMATS_ONNX_WALK_H
#define PHI_ENGINE_FORMATS_ONNX_WALK_H

#include "engine/formats/onnx_decoder.h"

typedef struct onnx_walk {
    phi_onnx_model *model;
    phi_onnx_decoder *decoder;
    phi_onnx_node **stack; /* [n_nodes] */
    phi_err *err;
} onnx_walk;

/* Where a value comes from; all NULL: from outside the graph. */
typedef struct onnx_source {
    phi_onnx_node *node; /* NULL for a tensor */
    uint32_t output;
    const phi_onnx_tensor *tensor;
} onnx_source;

/* Goes back over conversions between types of floats, which change no weight. */
onnx_source phi_onnx_source(const onnx_walk *w, const char *value);
bool phi_onnx_same(const onnx_source *a, const onnx_source *b);
/* "FILE: node "NAME" (OP) ..." with PHI_E_UNSUPPORTED. */
phi_status phi_onnx_refuse(const onnx_walk *w, const phi_onnx_node *node, const char *fmt, ...)
    __attribute__((format(printf, 3, 4))) PHI_MUST_CHECK;
/* What to say of a value that does not come from where it should; `what` is what would be right. */
phi_status phi_onnx_refuse_source(const onnx_walk *w, const char *value,
                                  const char *what) PHI_MUST_CHECK;

/* onnx_matrix.c */
bool phi_onnx_is_product(const onnx_walk *w, const onnx_source *source);
/* A vector of weights, input `index` of a node. */
phi_status phi_onnx_read_vector(const onnx_walk *w, const phi_onnx_node *node, uint32_t index,
                                phi_stored *out) PHI_MUST_CHECK;
/* The matrix whose product `value` is, and the name of what it is multiplied with. */
phi_status phi_onnx_read_product(const onnx_walk *w, const char *value, phi_stored *out,
                                 const char **out_input) PHI_MUST_CHECK;
/* The table that `source` picks rows of. */
phi_status phi_onnx_read_embedding(const onnx_walk *w, const onnx_source *source, const char *value,
                                   phi_stored *out) PHI_MUST_CHECK;

/* onnx_attention.c: all that GroupQueryAttention is given besides queries, keys and values. */
phi_status phi_onnx_read_attention(const onnx_walk *w, phi_onnx_node *node) PHI_MUST_CHECK;

#endif
