/*
 * Purpose: what the parts of the OpenVINO reader tell each other.
 * Owns:    nothing; see openvino.h.
 * Threads: one, while opening.
 * Errors:  as openvino.h.
 * Limits:  as openvino.h.
 */
#ifndef PHI_ENGINE_FORMATS_OPENVINO_INTERNAL_H
#define PHI_ENGINE_FORMATS_OPENVINO_INTERNAL_H

#include "engine/formats/hf_names.h"
#include "engine/formats/openvino.h"
#include "engine/formats/openvino_graph.h"

#include <stdbool.h>

/* Which matrix or vector of the model a constant is. */
typedef struct phi_ov_role {
    phi_part part;
    uint32_t layer;
    uint32_t piece; /* of a part that is stored apart */
    bool in_pieces;
} phi_ov_role;

typedef struct phi_ov_found {
    bool present;
    char name[PHI_LIMIT_TENSOR_NAME_BYTES];
    phi_stored stored;
} phi_ov_found;

/* Places of a layer: its two norms, q k v, output, gate and up, down. */
#define PHI_OV_PLACES_PER_LAYER 9U

struct phi_openvino {
    phi_ov_graph graph;
    phi_description description;
    phi_file ones;       /* n_embd ones as floats: norms whose weights the exporter folded away */
    phi_ov_found *found; /* [3 + n_layer * PHI_OV_PLACES_PER_LAYER] */
    size_t found_count;
    phi_stored *list; /* [list_count] */
    size_t list_count;
    phi_ov_value embedding; /* the constant with the embedding's numbers or codes */
    /* Checked once, shared by the layers. */
    phi_ov_value mask;
    phi_ov_value cos;
    phi_ov_value sin;
};

/* The matrix [rows, cols] that `value` is: a constant, or codes that are multiplied out. Tells the
 * constant with its numbers or codes in `out_constant`, if not NULL. */
phi_status phi_ov_take_matrix(phi_openvino *o, phi_ov_value value, const phi_ov_role *role,
                              uint32_t rows, phi_ov_value *out_constant,
                              phi_err *err) PHI_MUST_CHECK;
/* A norm's weights; NONE is for all ones. */
phi_status phi_ov_take_norm(phi_openvino *o, phi_ov_value value, phi_part part, uint32_t layer,
                            phi_err *err) PHI_MUST_CHECK;

/* Goes through the whole graph and takes what it finds. */
phi_status phi_ov_read_decoder(phi_openvino *o, phi_err *err) PHI_MUST_CHECK;

/* `value` is x[..., start : stop] of `*out_source`, or all of it. `last` is the size of x's last
 * dimension, `axis` that dimension's number. */
bool phi_ov_match_part(const phi_ov_graph *graph, phi_ov_value value, int64_t last, int64_t axis,
                       phi_ov_value *out_source, int64_t *out_start, int64_t *out_stop);
/* True when the value lists exactly these integers; PHI_OV_UNKNOWN among them fits all. */
bool phi_ov_lists(const phi_ov_graph *graph, phi_ov_value value, const int64_t *right,
                  size_t count);

/* `value` is `*out_source` [batch, heads, tokens, head_dim] with its positions rotated in. */
phi_status phi_ov_match_rope(phi_openvino *o, phi_ov_value value, phi_ov_value *out_source,
                             phi_err *err) PHI_MUST_CHECK;
/* `value` is the causal mask, within config.json's window. */
phi_status phi_ov_match_mask(phi_openvino *o, phi_ov_value value, phi_err *err) PHI_MUST_CHECK;

#endif
