/*
 * Purpose: how much a result differs from its source, measured on a text: perplexities,
 *          Kullback-Leibler divergence, agreement on the most likely token.
 * Owns:    nothing beyond a call.
 * Threads: one [job]; arithmetic runs on the team.
 * Errors:  those of reading; PHI_E_INVALID with `param` eval_text for a text of too few tokens;
 *          PHI_E_UNSUPPORTED for a model whose answers are no finite numbers.
 * Limits:  one layer of one model, a block of head rows of both, and the hidden states of the
 *          text's tokens are in memory at a time, never a whole model.
 *
 * Both models run as they will be served: weights at their stored precision, keys and values in
 * fp16 unless all weights are F32.
 */
#ifndef PHI_ENGINE_QUANT_QUALITY_H
#define PHI_ENGINE_QUANT_QUALITY_H

#include "engine/formats/checkpoint.h"
#include "engine/kernels/matmul.h"
#include "engine/quant/meter.h"
#include "engine/tokenizer/tokenizer.h"

/* Tokens in one window, each of which starts at position 0. */
#define PHI_QUALITY_WINDOW 256U
#define PHI_QUALITY_TOKENS 2048U

typedef struct phi_quality_input {
    const phi_compute *compute;
    const phi_checkpoint *source;
    const phi_checkpoint *result;
    const phi_tokenizer *tokenizer;
    const char *text;
    size_t text_bytes;
    uint32_t tokens_max;
    phi_meter *meter;
} phi_quality_input;

phi_status phi_quality_measure(const phi_quality_input *input, phi_quality *out_quality,
                               phi_err *err) PHI_MUST_CHECK;

#endif
