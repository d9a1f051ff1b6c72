/*
 * Purpose: the parts of a phi3 model and their tensors' names in both conventions.
 * Owns:    nothing.
 * Threads: any.
 * Errors:  none.
 * Limits:  names fit in PHI_LIMIT_TENSOR_NAME_BYTES.
 *
 * Hugging Face's names are those of transformers' Phi3ForCausalLM (and of Llama-style exports for
 * separate projections), GGUF's those of llama.cpp.
 */
#ifndef PHI_ENGINE_FORMATS_HF_NAMES_H
#define PHI_ENGINE_FORMATS_HF_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum phi_naming {
    PHI_NAMING_GGUF, /* the canonical one */
    PHI_NAMING_HF,
} phi_naming;

typedef enum phi_part {
    PHI_PART_TOKEN_EMBD,
    PHI_PART_ATTN_NORM, /* the first part of a layer */
    PHI_PART_ATTN_QKV,
    PHI_PART_ATTN_OUTPUT,
    PHI_PART_FFN_NORM,
    PHI_PART_FFN_UP,
    PHI_PART_FFN_DOWN, /* the last part of a layer */
    PHI_PART_OUTPUT_NORM,
    PHI_PART_OUTPUT,
    PHI_PART_COUNT,
} phi_part;

bool phi_part_in_layer(phi_part part);
bool phi_part_is_vector(phi_part part);
/* Writes the whole part's name; `layer` counts only for parts of layers. */
void phi_part_name(phi_part part, phi_naming naming, uint32_t layer, char *out, size_t out_bytes);
/* How many tensors the part has when it is stored separately: 3 (q, k, v), 2 (gate, up) or 0. */
uint32_t phi_part_pieces(phi_part part);
void phi_part_piece_name(phi_part part, uint32_t piece, phi_naming naming, uint32_t layer,
                         char *out, size_t out_bytes);

#endif
