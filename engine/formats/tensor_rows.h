/*
 * Purpose: a logical tensor's rows as they are stored: of one type, or, where its pieces differ
 *          (GGUF's mixes keep attn_v finer than attn_q), of one type after the other.
 * Owns:    nothing. Threads: any. Errors: none.
 * Limits:  those of phi_tensor.
 *
 * A row of a piece that is arrays of codes (coded.h) is put together when it is read: its codes in
 * the terms of phi_weight_set_codes [cols], then floats: its scales [cols / group] and, if its form
 * has them, its offsets [cols / group]. Where its form is FP32 it is a row of F32.
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
    phi_dtype dtype;        /* unless `coded` */
    const phi_coded *coded; /* rows of codes, scales and offsets; NULL: of the dtype */
    uint32_t rows;
    uint64_t row_bytes;
} phi_row_run;

/* The rows from `row` on that are of its type. */
phi_row_run phi_tensor_run(const phi_tensor *tensor, uint32_t row);
bool phi_tensor_is_mixed(const phi_tensor *tensor);
/* The form that holds all of its rows without loss. */
phi_form phi_tensor_form(const phi_tensor *tensor);
/* Whether all of its rows are MXFP4's by 32, as coded.h or GGUF's blocks have them. */
bool phi_tensor_is_mx(const phi_tensor *tensor);
/* Bytes of rows [row, row + count) as stored, and of the longest row. */
uint64_t phi_tensor_rows_bytes(const phi_tensor *tensor, uint32_t row, uint32_t count);
uint64_t phi_tensor_row_bytes_max(const phi_tensor *tensor);
/* The rows' share of the tensor's bytes in the source: over all rows the shares add up to them. */
static inline uint64_t phi_tensor_share(const phi_tensor *tensor, uint32_t row, uint32_t count)
{
    uint64_t each = tensor->bytes / tensor->rows;
    uint64_t more = tensor->bytes % tensor->rows;
    return each * count + more * (row + count) / tensor->rows - more * row / tensor->rows;
}
/* `count` rows of a run as floats, [count][cols]. */
void phi_row_run_widen(const phi_row_run *run, uint32_t cols, uint32_t count, const void *src,
                       float *out);
void phi_tensor_type(const phi_tensor *tensor, char out_type[PHI_TENSOR_TYPE_BYTES]);
/* Fills `count` rows of a matrix, from `to` on, with rows [row, row + count) that
 * phi_checkpoint_read_rows has read to `src`. */
void phi_tensor_set_rows(const phi_tensor *tensor, uint32_t row, uint32_t count, const void *src,
                         phi_weight *weight, uint32_t to);

#endif
