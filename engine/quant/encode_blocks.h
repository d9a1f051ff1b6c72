/*
 * Purpose: single blocks of the types that encode.c has no room for: Q4_K, Q5_K, Q6_K, IQ4_NL.
 * Owns:    nothing.
 * Threads: any; functions are pure.
 * Errors:  false where a scale is beyond fp16.
 * Limits:  finite values, as phi_encode_row checks.
 *
 * Plain: what llama-quantize writes without an importance matrix, byte for byte
 * (ggml/src/ggml-quants.c). Searching: from there on, codes and scales take turns being the best
 * for the other until the squared error no longer falls, so that no block ends worse.
 */
#ifndef PHI_ENGINE_QUANT_ENCODE_BLOCKS_H
#define PHI_ENGINE_QUANT_ENCODE_BLOCKS_H

#include "engine/tensor/blocks.h"

#include <stdbool.h>

bool phi_encode_q4_k(const float x[256], bool search, phi_block_q4_k *out_block);
bool phi_encode_q5_k(const float x[256], bool search, phi_block_q5_k *out_block);
bool phi_encode_q6_k(const float x[256], bool search, phi_block_q6_k *out_block);
bool phi_encode_iq4_nl(const float x[32], bool search, phi_block_iq4_nl *out_block);

#endif
