/*
 * Purpose: steps along an ONNX graph that onnx_decoder.c, onnx_norm.c, onnx_feed_forward.c,
 *          onnx_experts.c, onnx_matrix.c and onnx_attention.c share. Not for other modules.
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
/* What a product is of that `value` is, with or without a bias; "" if it is none. */
const char *phi_onnx_product_input(const onnx_walk *w, const char *value);
bool phi_onnx_has_bias(const onnx_walk *w, const char *value);
/* A vector of weights, input `index` of a node. */
phi_status phi_onnx_read_vector(const onnx_walk *w, const phi_onnx_node *node, uint32_t index,
                                phi_stored *out) PHI_MUST_CHECK;
/* The matrix whose product `value` is, and the name of what it is multiplied with. */
phi_status phi_onnx_read_product(const onnx_walk *w, const char *value, phi_stored *out,
                                 const char **out_input) PHI_MUST_CHECK;
/* The same and the bias of it, where the architecture has one there. */
phi_status phi_onnx_read_affine(const onnx_walk *w, const char *value, bool has_bias,
                                phi_onnx_affine *out, const char **out_input) PHI_MUST_CHECK;
/* The table that `source` picks rows of. */
phi_status phi_onnx_read_embedding(const onnx_walk *w, const onnx_source *source, const char *value,
                                   phi_stored *out) PHI_MUST_CHECK;

/* onnx_attention.c: all that GroupQueryAttention is given besides queries, keys and values. */
phi_status phi_onnx_read_attention(const onnx_walk *w, phi_onnx_node *node) PHI_MUST_CHECK;

/* onnx_norm.c: a norm, and the sum that it is of: of the residual stream and of what a layer adds
 * to it. */
typedef struct onnx_norm {
    onnx_source sum;
    const char *residual; /* "" in the first norm, as the next */
    const char *branch;
} onnx_norm;

/* The kind of norm that `value` is. */
phi_status phi_onnx_find_norm(const onnx_walk *w, const char *value,
                              phi_norm_kind *out_kind) PHI_MUST_CHECK;
phi_status phi_onnx_read_norm(const onnx_walk *w, const char *value, phi_onnx_affine *out_norm,
                              onnx_norm *out) PHI_MUST_CHECK;
/* The later norm's residual has to be the sum that the earlier one was of. */
phi_status phi_onnx_check_residual(const onnx_walk *w, const onnx_norm *later,
                                   const onnx_norm *earlier) PHI_MUST_CHECK;

/* onnx_feed_forward.c: what `branch` is, back to the norm that it is made of. */
phi_status phi_onnx_read_feed_forward(const onnx_walk *w, const char *branch, phi_onnx_layer *layer,
                                      const char **out_input) PHI_MUST_CHECK;

/* down (silu(gate x) * up x) */
phi_status phi_onnx_read_swiglu(const onnx_walk *w, const char *branch, phi_onnx_ffn *ffn,
                                const char **out_input) PHI_MUST_CHECK;

/* onnx_experts.c: the same of a layer with a router and experts. */
phi_status phi_onnx_read_experts(const onnx_walk *w, const char *branch, phi_onnx_layer *layer,
                                 const char **out_input) PHI_MUST_CHECK;

#endif
