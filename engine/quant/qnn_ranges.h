/*
 * Purpose: the ranges that a model's values take on a text, which graphs for Qualcomm's NPUs are
 *          quantized by.
 * Owns:    phi_qnn_ranges from phi_qnn_measure on, until phi_qnn_ranges_done.
 * Threads: one [job]; arithmetic runs on the team.
 * Errors:  those of reading, a tokenizer's too; PHI_E_UNSUPPORTED for a model whose values are no
 * finite numbers; PHI_E_CANCELLED when `go_on` says so. Limits:  PHI_QNN_TOKENS tokens; one layer,
 * a block of head rows and the tokens' hidden states are in memory at a time, never a whole model.
 *
 * The model runs as it is served. What it was seen to do is widened a little, because another text
 * is another text: where 16 bits hold it by a quarter, keys and values, which have 8, by a tenth.
 */
#ifndef PHI_ENGINE_QUANT_QNN_RANGES_H
#define PHI_ENGINE_QUANT_QNN_RANGES_H

#include "engine/formats/checkpoint.h"
#include "engine/formats/qnn_write.h"
#include "engine/kernels/matmul.h"

#include <stdbool.h>
#include <stdint.h>

/* Tokens that are looked at of the text that quality is measured on, fewer in a shorter context. */
#define PHI_QNN_TOKENS 512U

typedef struct phi_qnn_measuring {
    const phi_compute *compute;
    const phi_checkpoint *checkpoint;
    uint32_t context; /* of the graphs */
    bool (*go_on)(void *user);
    void *user;
} phi_qnn_measuring;

phi_status phi_qnn_measure(const phi_qnn_measuring *input, phi_qnn_ranges *out_ranges,
                           phi_err *err) PHI_MUST_CHECK;
void phi_qnn_ranges_done(phi_qnn_ranges *ranges, uint32_t n_layer);

#endif
