/*
 * Purpose: an ONNX graph recognized as a Phi decoder: which initializer is which matrix.
 * Owns:    phi_onnx_decoder owns its list of layers; tensors belong to the model.
 * Threads: one.
 * Errors:  the first node that has no place in such a decoder is named with its operator:
 *          PHI_E_UNSUPPORTED.
 * Limits:  PHI_LIMIT_LAYERS.
 *
 * Names say nothing here: the graph is followed from the logits back to the embedding, operator by
 * operator, and what is left over at the end is an error. Operators: ONNX's and those of
 * onnxruntime's "ContribOperators" page; graphs as onnxruntime-genai's model builder writes them.
 */
#ifndef PHI_ENGINE_FORMATS_ONNX_DECODER_H
#define PHI_ENGINE_FORMATS_ONNX_DECODER_H

#include "base/status.h"
#include "engine/formats/description.h"
#include "engine/formats/onnx_graph.h"
#include "engine/formats/stored.h"

#include <stdbool.h>
#include <stdint.h>

/* Matrices and vectors are as the file holds them, without a name and not settled. */

/* A matrix or a norm's weight, and the bias that is added to what it makes. */
typedef struct phi_onnx_affine {
    phi_stored weight;
    phi_stored bias; /* n_dims 0: none */
} phi_onnx_affine;

/* down (silu(gate x) * up x), or down gelu(up x) */
typedef struct phi_onnx_ffn {
    phi_onnx_affine up[2]; /* gate, up; or both in the first; phi2: fc1 */
    uint32_t n_up;
    phi_onnx_affine down;
} phi_onnx_ffn;

typedef struct phi_onnx_layer {
    phi_onnx_affine attn_norm;
    phi_onnx_affine qkv[3];
    uint32_t n_qkv; /* 3: apart; 1: fused */
    const phi_onnx_node *attention;
    phi_onnx_affine output;
    phi_onnx_affine ffn_norm; /* not of phi2 */
    phi_onnx_ffn ffn;         /* not of phimoe */
    phi_stored router;        /* phimoe, as the next */
    phi_onnx_ffn *experts;    /* [n_expert] */
} phi_onnx_layer;

typedef struct phi_onnx_decoder {
    phi_arch arch;
    phi_stored embedding;
    phi_onnx_layer *layers; /* the last one first, as they were found */
    uint32_t n_layers;
    phi_onnx_affine output_norm;
    phi_onnx_affine head;
    float norm_eps;
    phi_norm_kind norm;
    bool attn_bias;
    bool head_bias;
    uint32_t n_expert; /* phimoe, as the next */
    float router_far;  /* how far below the best a score is left out: twice the jitter */
    /* cos and sin of the rotary angles, [positions][n_rot / 2]: of all lengths, or up to
     * n_ctx_original and beyond it. */
    const phi_onnx_tensor *cos[2];
    const phi_onnx_tensor *sin[2];
    bool has_two;
    int64_t n_ctx_original;
} phi_onnx_decoder;

/* `out_decoder` may be passed to phi_onnx_decoder_done whatever comes. */
phi_status phi_onnx_decoder_read(phi_onnx_model *model, const char *logits,
                                 phi_onnx_decoder *out_decoder, phi_err *err) PHI_MUST_CHECK;
void phi_onnx_decoder_done(phi_onnx_decoder *decoder);

#endif
