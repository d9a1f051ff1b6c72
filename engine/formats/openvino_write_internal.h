/*
 * Purpose: what the parts of the OpenVINO writer tell each other.
 * Owns:    a phi_ov_writer owns the graph being written.
 * Threads: one.
 * Errors:  failures are kept in the graph (openvino_emit.h).
 * Limits:  as openvino_emit.h.
 */
#ifndef PHI_ENGINE_FORMATS_OPENVINO_WRITE_INTERNAL_H
#define PHI_ENGINE_FORMATS_OPENVINO_WRITE_INTERNAL_H

#include "engine/formats/export.h"
#include "engine/formats/openvino_emit.h"
#include "engine/formats/openvino_names.h"

typedef struct phi_ov_writer {
    const phi_export *export;
    phi_ov_out out;
    uint64_t bytes_done; /* of matrices, as they will lie in the file */
    uint64_t bytes_total;
} phi_ov_writer;

/* Refuses what an OpenVINO model cannot hold, before anything is written, and adds up the sizes. */
phi_status phi_ov_check_export(phi_ov_writer *w, phi_err *err) PHI_MUST_CHECK;
/* A part's matrix, or a piece of it, as floats [rows, cols], multiplied out of its codes where it
 * has codes; experts' as [n_expert, rows of each, cols]. */
phi_ov_ref phi_ov_write_matrix(phi_ov_writer *w, const phi_ov_role *role);
/* A norm's weights, or a bias or a piece of it, as floats [1, 1, numbers]. */
phi_ov_ref phi_ov_write_vector(phi_ov_writer *w, const phi_ov_role *role);
/* The whole decoder, from its inputs to the logits. */
void phi_ov_write_decoder(phi_ov_writer *w);
/* What two of the experts, chosen by the router, make of x [B, S, n]. */
phi_ov_ref phi_ov_write_experts(phi_ov_writer *w, phi_ov_ref x, int layer);

/* The models of the tokenizer and of its inverse, from tokenizer.json of export->source_dir; none
 * when there is no such file. */
phi_status phi_ov_write_tokenizers(const phi_export *export, const char *dir,
                                   phi_err *err) PHI_MUST_CHECK;

#endif
