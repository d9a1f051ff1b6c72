/*
 * Purpose: the parts of a model and their tensors' names in each convention.
 * Owns:    nothing.
 * Threads: any.
 * Errors:  none.
 * Limits:  names fit in PHI_LIMIT_TENSOR_NAME_BYTES.
 *
 * Hugging Face's names are those of transformers' classes (and of Llama-style exports for separate
 * projections of phi3), GGUF's those of llama.cpp. A bias is a part of its own, right after its
 * weight.
 */
#ifndef PHI_ENGINE_FORMATS_HF_NAMES_H
#define PHI_ENGINE_FORMATS_HF_NAMES_H

#include "engine/formats/description.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum phi_naming {
    PHI_NAMING_GGUF,      /* the canonical one */
    PHI_NAMING_HF,        /* Phi3ForCausalLM */
    PHI_NAMING_HF_PHI,    /* PhiForCausalLM */
    PHI_NAMING_HF_PHIMOE, /* PhimoeForCausalLM */
    PHI_NAMING_COUNT,
} phi_naming;

typedef enum phi_part {
    PHI_PART_TOKEN_EMBD,
    PHI_PART_ATTN_NORM, /* the first part of a layer */
    PHI_PART_ATTN_NORM_BIAS,
    PHI_PART_ATTN_QKV,
    PHI_PART_ATTN_QKV_BIAS,
    PHI_PART_ATTN_OUTPUT,
    PHI_PART_ATTN_OUTPUT_BIAS,
    PHI_PART_FFN_NORM,
    PHI_PART_FFN_NORM_BIAS,
    PHI_PART_FFN_ROUTER,
    PHI_PART_FFN_GATE_EXPS, /* [n_expert] matrices, one below the other, as are the next two */
    PHI_PART_FFN_UP_EXPS,
    PHI_PART_FFN_DOWN_EXPS,
    PHI_PART_FFN_UP,  /* gate rows, then up rows */
    PHI_PART_FFN_FC1, /* without a gate; GGUF calls it "ffn_up" too */
    PHI_PART_FFN_FC1_BIAS,
    PHI_PART_FFN_DOWN,
    PHI_PART_FFN_DOWN_BIAS, /* the last part of a layer */
    PHI_PART_OUTPUT_NORM,
    PHI_PART_OUTPUT_NORM_BIAS,
    PHI_PART_OUTPUT,
    PHI_PART_OUTPUT_BIAS,
    PHI_PART_COUNT,
} phi_part;

/* What transformers' class of that architecture calls them. */
phi_naming phi_naming_of(phi_arch arch);
/* Whether a model of that description has the part. */
bool phi_part_is_of(phi_part part, const phi_description *description);
bool phi_part_in_layer(phi_part part);
bool phi_part_is_vector(phi_part part);
/* The bias that stands beside a matrix or norm, or PHI_PART_COUNT if no model has one there. */
phi_part phi_part_bias(phi_part part);
/* Whether it may be stored whole, and not in pieces alone; experts are so by MLX. */
bool phi_part_has_whole(phi_part part, phi_naming naming);
/* Whether the tensor's name is one that Phi-1.5 and Phi-2 had before they were in transformers, in
 * "transformer.h.0.mixer." or "layers.1.mixer.". */
bool phi_name_is_former(const char *name);
#define PHI_FORMER_ADVICE                                                                          \
    "Phi's former layout; take the repository's present files, or transformers' "                  \
    "convert_phi_weights_to_hf.py"
/* The part with a canonical name, and its layer; asserts that there is one. */
phi_part phi_part_of_name(const char *name, const phi_description *description,
                          uint32_t *out_layer);
/* Writes the whole part's name; `layer` counts only for parts of layers. */
void phi_part_name(phi_part part, phi_naming naming, uint32_t layer, char *out, size_t out_bytes);
/* Whether it may be stored in the pieces of phi_part_shape: q, k, v; gate, up; the experts, which
 * GGUF files of old had one by one ("blk.0.ffn_gate.3.weight"). */
bool phi_part_has_pieces(phi_part part, phi_naming naming);
/* Whether it is experts' matrices, which GGUF stacks in a third dimension. */
bool phi_part_is_stacked(phi_part part);
void phi_part_piece_name(phi_part part, uint32_t piece, phi_naming naming, uint32_t layer,
                         char *out, size_t out_bytes);
/* Whether it may be one half (0 or 1) of each of a stack of matrices, and the stack's name. */
bool phi_part_half_name(phi_part part, phi_naming naming, uint32_t layer, uint32_t *out_half,
                        char *out, size_t out_bytes);
/* Another name that a tool gives a tensor of PHI_NAMING_HF_PHIMOE: the next one from *at on, which
 * begins as 0; false when there is none. */
bool phi_name_respell(const char *name, uint32_t *at, char *out, size_t out_bytes);
/* Rows of each piece of a matrix, elements of each of a vector (one for a part that is never
 * stored separately), and the columns of a matrix. */
#define PHI_PART_PIECES_MAX PHI_LIMIT_EXPERTS
uint32_t phi_part_shape(phi_part part, const phi_description *description,
                        uint32_t rows[PHI_PART_PIECES_MAX], uint32_t *out_cols);

/* How many matrices that are stacked in a first dimension so many of the part's rows are; 1 if they
 * are one. */
uint32_t phi_part_count_stacked(phi_part part, const phi_description *description, uint32_t rows);

/* Tensors of a model that keeps every part in pieces: at least as many as it has. */
size_t phi_part_count_pieces(const phi_description *description);

#endif
