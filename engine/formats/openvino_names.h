/*
 * Purpose: what the constants of an OpenVINO graph are called: which part of the model one holds.
 * Owns:    nothing.
 * Threads: any.
 * Errors:  none.
 * Limits:  names fit in PHI_LIMIT_TENSOR_NAME_BYTES.
 *
 * optimum-intel calls a constant "self." and the parameter's name in transformers' class. That
 * class has its experts in modules of other names than the checkpoints (hf_names.h) have.
 */
#ifndef PHI_ENGINE_FORMATS_OPENVINO_NAMES_H
#define PHI_ENGINE_FORMATS_OPENVINO_NAMES_H

#include "engine/formats/hf_names.h"

/* Which matrix or vector of the model a constant is. */
typedef struct phi_ov_role {
    phi_part part;
    uint32_t layer;
    uint32_t piece; /* of a part that is stored apart */
    bool in_pieces;
} phi_ov_role;

/* The checkpoints' name. */
void phi_ov_role_name(phi_arch arch, const phi_ov_role *role, char *out, size_t out_bytes);
/* The constant's, without "self.". */
void phi_ov_constant_name(phi_arch arch, const phi_ov_role *role, char *out, size_t out_bytes);
/* Whether a graph has the part's pieces in constants of their own: where the class has no fused
 * one. Experts are one constant always. */
bool phi_ov_is_apart(phi_arch arch, phi_part part);

#endif
