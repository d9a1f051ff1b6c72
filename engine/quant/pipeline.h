/*
 * Purpose: all tensors of a checkpoint through their encodings into a GGUF, chunk by chunk.
 * Owns:    its buffers, for the length of a call.
 * Threads: one [job]; encoding runs on the team.
 * Errors:  the tensor, row and column of a value that its type cannot hold; PHI_E_CANCELLED.
 * Limits:  CHUNK_ELEMENTS at a time, or one row where that is longer.
 */
#ifndef PHI_ENGINE_QUANT_PIPELINE_H
#define PHI_ENGINE_QUANT_PIPELINE_H

#include "engine/formats/checkpoint.h"
#include "engine/formats/gguf.h"
#include "engine/kernels/matmul.h"
#include "engine/quant/meter.h"
#include "engine/quant/recipe.h"

/* Declares every tensor with the type that the recipe gives it. */
void phi_pipeline_declare(const phi_checkpoint *checkpoint, const phi_recipe *recipe,
                          phi_gguf_writer *writer);
typedef struct phi_pipeline_input {
    const phi_compute *compute;
    const phi_checkpoint *checkpoint;
    const phi_recipe *recipe;
    phi_gguf_writer *writer; /* its header written */
    phi_meter *meter;
} phi_pipeline_input;

/* Writes their data in the same order, and fills the report's figures about weights. */
phi_status phi_pipeline_run(const phi_pipeline_input *input, phi_quality *quality,
                            phi_err *err) PHI_MUST_CHECK;

#endif
