/*
 * Purpose: GGUF's types and mixes of types by name: which block type each tensor gets.
 * Owns:    nothing.
 * Threads: any; functions are pure.
 * Errors:  none.
 * Limits:  the types that encode.h writes.
 *
 * The mixes are llama-quantize's (llama.cpp, llama_tensor_get_type, February 2025): the head in
 * Q6_K, and more bits for attn_qkv and for ffn_down of some layers. A matrix whose columns are not
 * whole blocks gets the next larger type whose blocks divide them, at last F16.
 */
#ifndef PHI_ENGINE_QUANT_MIX_H
#define PHI_ENGINE_QUANT_MIX_H

#include "engine/formats/checkpoint.h"
#include "engine/tensor/dtype.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct phi_mix phi_mix;

/* NULL for a name that is not known; "q4_k_m" or "Q4_K_M". */
const phi_mix *phi_mix_find(const char *name);
const char *phi_mix_name(const phi_mix *mix); /* "q4_k_m" */
/* "q4_0, q4_1, ..." */
const char *phi_mix_names(void);
/* As GGUF's general.file_type says it: llama.cpp's enum llama_ftype. */
uint32_t phi_mix_file_type(const phi_mix *mix);
/* The type of a matrix. */
phi_dtype phi_mix_choose(const phi_mix *mix, const phi_description *description,
                         const phi_tensor *tensor);

#endif
