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
#include "engine/formats/hf_names.h"
#include "engine/formats/openvino_emit.h"

typedef struct phi_ov_writer {
    const phi_export *export;
    phi_ov_out out;
    uint64_t bytes_done; /* of matrices, as they will lie in the file */
    uint64_t bytes_total;
} phi_ov_writer;

/* Refuses what an OpenVINO model cannot hold, before anything is written, and adds up the sizes. */
phi_status phi_ov_check_export(phi_ov_writer *w, phi_err *err) PHI_MUST_CHECK;
/* A part's matrix as floats [rows, cols], multiplied out of its codes where it has codes. */
phi_ov_ref phi_ov_write_matrix(phi_ov_writer *w, phi_part part, uint32_t layer);
/* A norm's weights as floats [1, 1, cols]. */
phi_ov_ref phi_ov_write_vector(phi_ov_writer *w, phi_part part, uint32_t layer);
/* The whole decoder, from its inputs to the logits. */
void phi_ov_write_decoder(phi_ov_writer *w);

/* The models of the tokenizer and of its inverse, from tokenizer.json of export->source_dir; none
 * when there is no such file. */
phi_status phi_ov_write_tokenizers(const phi_export *export, const char *dir,
                                   phi_err *err) PHI_MUST_CHECK;

#endif
