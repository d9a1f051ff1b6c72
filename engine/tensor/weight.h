/*
 * Purpose: the weight matrices that the engine computes with: INT4, INT8, FP16 (or bf16), FP32.
 * Owns:    phi_weight owns its memory from phi_weight_init to phi_weight_done.
 * Threads: one while filling; any number of readers afterwards.
 * Errors:  PHI_E_NO_MEMORY, and PHI_E_UNSUPPORTED for a file type that does not fit the kind.
 * Limits:  rows * cols is bounded by memory; cols of INT4 and INT8 are a multiple of the group.
 *
 * A matrix is [rows, cols] row-major and multiplies as y = W x: rows are outputs, cols inputs.
 * Values:  INT4  w = scale * q + offset, q in 0..15; without offsets, offset = -8 * scale
 *          INT8  w = scale * q (+ offset if there are offsets), q in -128..127
 * Layout:  INT4 codes: cols/2 bytes a row; in each run of 32 columns byte j (0..15) holds column j
 *          in its low and column j + 16 in its high nibble (as GGUF's Q4_0 does).
 *          INT8 codes: one byte a column. FP16/BF16: two bytes. FP32: four bytes.
 *          scales and offsets: fp16, [rows, cols / group].
 */
#ifndef PHI_ENGINE_TENSOR_WEIGHT_H
#define PHI_ENGINE_TENSOR_WEIGHT_H

#include "base/status.h"
#include "engine/tensor/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum phi_weight_kind {
    PHI_WEIGHT_INT4,
    PHI_WEIGHT_INT8,
    PHI_WEIGHT_FP16,
    PHI_WEIGHT_BF16,
    PHI_WEIGHT_FP32,
    PHI_WEIGHT_KIND_COUNT,
} phi_weight_kind;

typedef struct phi_weight {
    phi_weight_kind kind;
    uint32_t rows;
    uint32_t cols;
    uint32_t group;     /* columns that share a scale; 0 for the FP kinds */
    uint64_t row_bytes; /* of codes */
    void *codes;        /* 64-byte aligned */
    uint16_t *scales;   /* [rows, cols / group], INT kinds only */
    uint16_t *offsets;  /* same shape, or NULL */
} phi_weight;

/* The kind that holds a file type without loss, and its group and need of offsets. */
phi_weight_kind phi_weight_kind_of(phi_dtype dtype);

/* Allocates an unfilled matrix for rows of `dtype`. */
phi_status phi_weight_init(phi_weight *weight, phi_dtype dtype, uint32_t rows, uint32_t cols,
                           phi_err *err) PHI_MUST_CHECK;
void phi_weight_done(phi_weight *weight);
/* Fills rows [row, row + count) from file rows of the dtype given at init (any alignment). */
void phi_weight_set_rows(phi_weight *weight, phi_dtype dtype, uint32_t row, uint32_t count,
                         const void *src);
/* Widens one row to float, exactly. out: [cols]. */
void phi_weight_row(const phi_weight *weight, uint32_t row, float *out);
/* Bytes held: codes, scales and offsets. */
uint64_t phi_weight_bytes(const phi_weight *weight);
const char *phi_weight_kind_name(phi_weight_kind kind);

#endif
