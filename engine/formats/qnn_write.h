/*
 * Purpose: writes a folder that ONNX Runtime GenAI's QNN provider is meant to compile for a
 *          Qualcomm NPU: a pipeline of graphs with static shapes, all values of which are
 *          quantized, genai_config.json, config.json and the tokenizer's files.
 * Owns:    nothing.
 * Threads: one at a time for a folder.
 * Errors:  what cannot be written is named. Files appear whole or not at all, genai_config.json
 *          last; a folder without it is not a model.
 * Limits:  matrices are codes of 8 bits around 128, one scale a row; a context is a multiple of
 *          PHI_QNN_WINDOW, two of them at least, and no longer than the model's.
 *
 * The graphs are QDQ, as the provider reads them: QuantizeLinear and DequantizeLinear around plain
 * operators of opset 23, no contributed ones (docs: onnxruntime, "QNN Execution Provider"). Weights
 * are INT8 by row, activations UINT16 in ranges that were measured, keys and values UINT8.
 *
 * embeddings.onnx      for the CPU, of any number of tokens: hidden states, rotary angles, mask
 * context*.onnx        layers, PHI_QNN_WINDOW tokens of a prompt at a time
 * iterator*.onnx       the same layers, one token at a time
 * lm_head_*.onnx       the logits of those tokens
 *
 * Keys and values are [1, Hkv, context, d], past and present one memory if need be; GenAI says by
 * past_seq_len where the new tokens are, the last one of a window at that position.
 */
#ifndef PHI_ENGINE_FORMATS_QNN_WRITE_H
#define PHI_ENGINE_FORMATS_QNN_WRITE_H

#include "base/status.h"
#include "engine/formats/export.h"

#include <stdbool.h>
#include <stdint.h>

/* Tokens of a prompt that go through the graphs at once. */
#define PHI_QNN_WINDOW 64U
/* The context where none is asked for, unless the model's is shorter. */
#define PHI_QNN_CONTEXT_DEFAULT 4096U

/* Values that were seen somewhere: from low to high, with 0 between. */
typedef struct phi_qnn_range {
    float low;
    float high;
} phi_qnn_range;

typedef struct phi_qnn_layer_ranges {
    phi_qnn_range attn_norm;
    phi_qnn_range value;
    phi_qnn_range score; /* q k / sqrt(d), of pairs that are visible */
    phi_qnn_range attn;
    phi_qnn_range attn_out;
    phi_qnn_range attn_sum; /* with what came into the layer */
    phi_qnn_range ffn_norm;
    phi_qnn_range gate;
    phi_qnn_range up;
    phi_qnn_range ffn; /* silu(gate) * up */
    phi_qnn_range ffn_out;
    phi_qnn_range sum; /* what leaves the layer */
    /* [(H + Hkv) d] for each element of queries and keys how long the pair that is rotated with it
     * became; of one that is not rotated its own magnitude. */
    float *radius;
} phi_qnn_layer_ranges;

typedef struct phi_qnn_ranges {
    phi_qnn_range embedding;
    phi_qnn_range final_norm;
    phi_qnn_range logit;
    phi_qnn_layer_ranges *layers; /* [n_layer] */
} phi_qnn_ranges;

/* The context where none is asked for (0): a multiple of PHI_QNN_WINDOW, or 0 where the model's is
 * too short. */
uint32_t phi_qnn_context(uint32_t n_ctx, uint32_t asked);
/* Whether graphs can be made for it; of a model whose context is not known yet n_ctx is 0. The
 * error names "context_length". */
phi_status phi_qnn_check_context(uint32_t n_ctx, uint32_t asked, phi_err *err) PHI_MUST_CHECK;
/* Whether the model and the context have a place in such graphs. `context` is 0 for the default. */
phi_status phi_qnn_check(const phi_description *description, uint32_t context,
                         phi_err *err) PHI_MUST_CHECK;
/* Whether LongRoPE's long factors are in a graph of that context. */
bool phi_qnn_rope_is_long(const phi_description *description, uint32_t context);

typedef struct phi_qnn_options {
    uint32_t context;    /* 0: the default */
    uint64_t part_bytes; /* weights of one graph at most, but for one layer; 0: 1 GiB */
} phi_qnn_options;

/* `dir` is made where there is none. */
phi_status phi_qnn_write(const phi_export *export, const phi_qnn_ranges *ranges,
                         const phi_qnn_options *options, const char *dir,
                         phi_err *err) PHI_MUST_CHECK;

#endif
