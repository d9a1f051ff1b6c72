/*
 * Purpose: what the parts of the OpenVINO reader tell each other.
 * Owns:    nothing; see openvino.h.
 * Threads: one, while opening.
 * Errors:  as openvino.h.
 * Limits:  as openvino.h.
 */
#ifndef PHI_ENGINE_FORMATS_OPENVINO_INTERNAL_H
#define PHI_ENGINE_FORMATS_OPENVINO_INTERNAL_H

#include "engine/formats/openvino.h"
#include "engine/formats/openvino_graph.h"
#include "engine/formats/openvino_names.h"

#include <stdbool.h>

typedef struct phi_ov_found {
    bool present;
    char name[PHI_LIMIT_TENSOR_NAME_BYTES];
    phi_stored stored;
} phi_ov_found;

/* Places of a layer, of all architectures, in the order of phi_part: q, k and v have three, as have
 * their biases; gate and up two. */
#define PHI_OV_PLACES_PER_LAYER 22U
/* Before the layers the embedding, behind them norm, head and their biases. */
#define PHI_OV_PLACES_BEFORE 1U
#define PHI_OV_PLACES_BEHIND 4U

struct phi_openvino {
    phi_ov_graph graph;
    phi_description description;
    phi_file ones;       /* n_embd ones as floats: norms whose weights the exporter folded away */
    phi_file zeros;      /* as many zeros as any vector has numbers: such biases */
    phi_ov_found *found; /* [BEFORE + n_layer * PER_LAYER + BEHIND] */
    size_t found_count;
    phi_stored *list; /* [list_count] */
    size_t list_count;
    phi_ov_value embedding; /* the constant with the embedding's numbers or codes */
    /* Checked once, shared by the layers. */
    phi_ov_value mask;
    phi_ov_value cos;
    phi_ov_value sin;
};

/* Where a part is kept. */
phi_ov_found *phi_ov_found_at(phi_openvino *o, const phi_ov_role *role);
/* The matrix [rows, cols] that `value` is: a constant, or codes that are multiplied out; experts'
 * are stacked in a first dimension. Tells the constant with its numbers or codes in `out_constant`,
 * if not NULL. */
phi_status phi_ov_take_matrix(phi_openvino *o, phi_ov_value value, const phi_ov_role *role,
                              uint32_t rows, phi_ov_value *out_constant,
                              phi_err *err) PHI_MUST_CHECK;
/* A norm's weights, where NONE is for all ones, or a bias, where it is for zeros. */
phi_status phi_ov_take_vector(phi_openvino *o, phi_ov_value value, const phi_ov_role *role,
                              uint32_t count, phi_err *err) PHI_MUST_CHECK;
/* The product that `value` is, less a constant that is added to it. */
phi_ov_value phi_ov_product_of(const phi_ov_graph *graph, phi_ov_value value,
                               phi_ov_value *out_added);
bool phi_ov_is_product(const phi_ov_graph *graph, phi_ov_value value);
/* A product with a weight, and its bias where the model has one: tells what is multiplied. */
phi_status phi_ov_match_linear(phi_openvino *o, phi_ov_value value, const phi_ov_role *role,
                               uint32_t rows, phi_ov_value *out_x, phi_err *err) PHI_MUST_CHECK;

/* Several outputs of one input, fused in one weight or apart. */
typedef struct phi_ov_outputs {
    phi_part part;
    uint32_t layer;
    uint32_t count;
    phi_ov_value values[3];
    uint32_t rows[3];
} phi_ov_outputs;

/* Takes their weights: tells the input. */
phi_status phi_ov_match_outputs(phi_openvino *o, const phi_ov_outputs *all, phi_ov_value *out_x,
                                phi_err *err) PHI_MUST_CHECK;
/* A norm, whose weights it takes: tells what is normed. */
phi_status phi_ov_match_norm(phi_openvino *o, phi_ov_value value, phi_part part, uint32_t layer,
                             phi_ov_value *out_x, phi_err *err) PHI_MUST_CHECK;
/* What two of `n_expert` feed-forwards, chosen by a router, make of `*out_x`. */
phi_status phi_ov_match_experts(phi_openvino *o, phi_ov_value branch, uint32_t layer,
                                phi_ov_value *out_x, phi_err *err) PHI_MUST_CHECK;
/* silu, as one operation or as a product: tells its argument. */
bool phi_ov_match_silu(const phi_ov_graph *graph, phi_ov_value value, phi_ov_value *out);

/* Goes through the whole graph and takes what it finds. */
phi_status phi_ov_read_decoder(phi_openvino *o, phi_err *err) PHI_MUST_CHECK;

/* `value` is x[..., start : stop] of `*out_source`, or all of it. `last` is the size of x's last
 * dimension, `axis` that dimension's number. */
bool phi_ov_match_part(const phi_ov_graph *graph, phi_ov_value value, int64_t last, int64_t axis,
                       phi_ov_value *out_source, int64_t *out_start, int64_t *out_stop);
/* True when the value is a constant of about this number, or of this axis, or the last. */
bool phi_ov_is_number(const phi_ov_graph *graph, phi_ov_value value, double right);
bool phi_ov_is_axis(const phi_ov_graph *graph, phi_ov_value value, int64_t axis);
/* `value` is an operation of something and a constant, which it tells, in either order. */
bool phi_ov_match_constant(const phi_ov_graph *graph, phi_ov_value value, phi_ov_op op,
                           phi_ov_value *out_other, phi_ov_value *out_constant);
/* True when the value lists exactly these integers; PHI_OV_UNKNOWN among them fits all. */
bool phi_ov_lists(const phi_ov_graph *graph, phi_ov_value value, const int64_t *right,
                  size_t count);

/* `value` is `*out_source` [batch, heads, tokens, head_dim] with its positions rotated in. */
phi_status phi_ov_match_rope(phi_openvino *o, phi_ov_value value, phi_ov_value *out_source,
                             phi_err *err) PHI_MUST_CHECK;
/* `value` is the causal mask, within config.json's window. */
phi_status phi_ov_match_mask(phi_openvino *o, phi_ov_value value, phi_err *err) PHI_MUST_CHECK;

#endif
