/*
 * Purpose: reads what a checkpoint that was accepted promises to be readable.
 * Owns:    nothing.
 * Threads: one.
 * Errors:  what cannot be read, or is read in two ways, ends the target.
 * Limits:  none.
 */
#ifndef PHI_TESTS_FUZZ_CHECKPOINT_H
#define PHI_TESTS_FUZZ_CHECKPOINT_H

#include <stdint.h>
#include <stdlib.h>

#include "base/mem.h"
#include "engine/formats/checkpoint.h"
#include "engine/formats/tensor_rows.h"

/* The last row, which `raw` holds, as a matrix of its own is what it is as floats. */
static inline void fuzz_matrix(const phi_tensor *tensor, const void *raw, const float *wide)
{
    phi_form form = phi_tensor_form(tensor);
    phi_weight weight;
    float *row = phi_alloc(tensor->cols * sizeof *row);
    if (tensor->n_dims == 2 && phi_weight_shape(&weight, &form, 1, tensor->cols, NULL) == PHI_OK &&
        phi_weight_alloc(&weight, NULL) == PHI_OK) {
        phi_tensor_set_rows(tensor, tensor->rows - 1, 1, raw, &weight, 0);
        phi_weight_row(&weight, 0, row);
        for (uint32_t k = 0; k < tensor->cols; k++) {
            /* Also true for what is not a number in either. */
            if (row[k] != wide[k] && row[k] == row[k]) {
                abort();
            }
        }
        phi_weight_done(&weight);
    }
    phi_free(row);
}

static inline void fuzz_checkpoint(const char *path)
{
    phi_checkpoint *checkpoint;
    phi_err err;
    if (phi_checkpoint_open(path, &checkpoint, &err) != PHI_OK) {
        return;
    }
    if (phi_description_check(phi_checkpoint_description(checkpoint), "fuzz", &err) != PHI_OK) {
        abort();
    }
    for (size_t i = 0; i < phi_checkpoint_count(checkpoint); i++) {
        const phi_tensor *tensor = phi_checkpoint_at(checkpoint, i);
        void *raw = phi_alloc((size_t)phi_tensor_row_bytes_max(tensor));
        float *wide = phi_alloc(tensor->cols * sizeof *wide);
        if (phi_checkpoint_read_rows_f32(checkpoint, tensor, 0, 1, raw, wide, &err) ||
            phi_checkpoint_read_rows_f32(checkpoint, tensor, tensor->rows - 1, 1, raw, wide,
                                         &err)) {
            abort();
        }
        fuzz_matrix(tensor, raw, wide);
        phi_free(raw);
        phi_free(wide);
    }
    phi_checkpoint_close(checkpoint);
}

#endif
