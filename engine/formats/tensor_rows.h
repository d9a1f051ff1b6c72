/*
 * Purpose: a logical tensor's rows as they are stored: of one type, or, where its pieces differ
 *          (GGUF's mixes keep attn_v finer than attn_q), of one type after the other.
 * Owns:    nothing. Threads: any. Errors: none.
 * Limits:  those of phi_tensor.
 */
#ifndef PHI_ENGINE_FORMATS_TENSOR_ROWS_H
#define PHI_ENGINE_FORMATS_TENSOR_ROWS_H

#include "engine/formats/checkpoint.h"
#include "engine/tensor/weight.h"

#include <stdbool.h>
#include <stdint.h>

/* "Q4_K", or "Q4_K+Q6_K" in the pieces' order. */
#define PHI_TENSOR_TYPE_BYTES 32

/* Neighbouring rows of one type. */
typedef struct phi_row_run {
    phi_dtype dtype;
    uint32_t rows;
    uint64_t row_bytes;
} phi_row_run;

/* The rows from `row` on that are of its type. */
phi_row_run phi_tensor_run(const phi_tensor *tensor, uint32_t row);
bool phi_tensor_is_mixed(const phi_tensor *tensor);
/* The form that holds all of its rows without loss. */
phi_form phi_tensor_form(const phi_tensor *tensor);
/* Bytes of rows [row, row + count) as stored, and of the longest row. */
uint64_t phi_tensor_rows_bytes(const phi_tensor *tensor, uint32_t row, uint32_t count);
uint64_t phi_tensor_row_bytes_max(const phi_tensor *tensor);
void phi_tensor_type(const phi_tensor *tensor, char out_type[PHI_TENSOR_TYPE_BYTES]);
/* Fills `count` rows of a matrix, from `to` on, with rows [row, row + count) that
 * phi_checkpoint_read_rows has read to `src`. */
void phi_tensor_set_rows(const phi_tensor *tensor, uint32_t row, uint32_t count, const void *src,
                         phi_weight *weight, uint32_t to);

#endif
