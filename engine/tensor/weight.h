/*
 * Purpose: the weight matrices that the engine computes with: INT4, INT8, FP16 (or bf16), FP32, in
 *          the one layout that every kernel set reads.
 * Owns:    phi_weight_init allocates; phi_weight_bind borrows (a mapped file, say). phi_weight_done
 *          frees what is owned.
 * Threads: rows may be filled by several threads, each row by one; any number of readers after.
 * Errors:  PHI_E_NO_MEMORY, and PHI_E_UNSUPPORTED for a shape that does not fit the kind.
 * Limits:  rows * cols is bounded by memory; cols of INT4 and INT8 are a multiple of 32 and of the
 *          group.
 *
 * A matrix is [rows, cols] and multiplies as y = W x: rows are outputs, cols inputs.
 * Values:  INT4  w = scale * q + offset, q in 0..15; without offsets, offset = -8 * scale
 *          INT8  w = scale * q (+ offset if there are offsets), q in -128..127
 * Layout:  rows stand together in blocks of 16, the last one filled up with zeros, so that a vector
 *          holds the same columns of 16 outputs and no sum ever runs across its lanes. A block is
 *          contiguous and blocks follow one another: reading a matrix is one stream.
 *          INT4 codes of a block: [cols / 32][4][16 rows][4 bytes]; byte c of word j holds column
 *               4 j + c of the 32 in its low and column 16 + 4 j + c in its high nibble.
 *          INT8 codes of a block: [cols / 4][16 rows][4 bytes], each byte q + 128.
 *          FP16, BF16, FP32:      [cols][16 rows].
 *          scales and offsets:    [block][cols / group][16 rows], fp16, or fp32 in the wide form:
 *               what a file holds as a product (a K-quant's d * sc, a scale times a zero point) or
 *               in fp32 has no fp16 that is equal.
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

/* How values are written: what every stored type is an instance of. */
typedef struct phi_form {
    phi_weight_kind kind;
    uint32_t group;   /* columns that share a scale: 16, 32, 64, ... cols; 0: the FP kinds */
    bool has_offsets; /* INT kinds only, as is the next */
    bool wide;        /* scales and offsets are fp32 */
} phi_form;

/* Rows of a block. */
#define PHI_WEIGHT_BLOCK 16U

typedef struct phi_weight {
    phi_weight_kind kind;
    uint32_t rows;
    uint32_t cols;
    uint32_t group;    /* columns that share a scale: 16, 32, 64, ... cols; 0: the FP kinds */
    uint32_t n_blocks; /* rows / 16, rounded up */
    bool has_offsets;
    bool wide;            /* wide_scales and wide_offsets are there, not scales and offsets */
    uint64_t block_bytes; /* codes of one block */
    void *codes;          /* 64-byte aligned, as are the next four */
    uint16_t *scales;     /* INT kinds only */
    uint16_t *offsets;    /* NULL if there are none */
    float *wide_scales;
    float *wide_offsets;
    void *memory; /* what phi_weight_done frees; NULL when borrowed */
} phi_weight;

/* The form that holds a file type without loss. */
phi_form phi_form_of(phi_dtype dtype);
bool phi_form_equal(const phi_form *a, const phi_form *b);
/* The form that holds what either holds without loss: FP32 where a float type meets another type,
 * else integers in the smaller group, with offsets and wide if one of them is. */
phi_form phi_form_join(const phi_form *a, const phi_form *b);
/* The form of a matrix. */
phi_form phi_weight_form(const phi_weight *weight);

/* Rows [row, row + rows) of a bound matrix as a matrix that borrows its planes; `row` begins a
 * block, and `rows` fill whole ones. */
phi_weight phi_weight_rows_of(const phi_weight *weight, uint32_t row, uint32_t rows);

/* The shape alone: sizes are known, planes are NULL. */
phi_status phi_weight_shape(phi_weight *weight, const phi_form *form, uint32_t rows, uint32_t cols,
                            phi_err *err) PHI_MUST_CHECK;
/* The shape that holds rows of a file type. */
phi_status phi_weight_shape_of(phi_weight *weight, phi_dtype dtype, uint32_t rows, uint32_t cols,
                               phi_err *err) PHI_MUST_CHECK;
/* Bytes of all planes with their padding: a multiple of 64. */
uint64_t phi_weight_bytes(const phi_weight *weight);
/* Lays the planes of a shaped matrix into phi_weight_bytes() of the caller's memory, 64-byte
 * aligned, which must outlive the matrix. */
void phi_weight_bind(phi_weight *weight, void *memory);
/* Binds a shaped matrix to memory of its own. */
phi_status phi_weight_alloc(phi_weight *weight, phi_err *err) PHI_MUST_CHECK;
/* phi_weight_shape_of and phi_weight_alloc. */
phi_status phi_weight_init(phi_weight *weight, phi_dtype dtype, uint32_t rows, uint32_t cols,
                           phi_err *err) PHI_MUST_CHECK;
void phi_weight_done(phi_weight *weight);

/* Fills rows [row, row + count) from file rows (any alignment) of a type that the matrix's form
 * holds: the one given at init, or one of those that it was joined for. Rows that fill the last
 * block up are zeros from phi_weight_alloc or from whoever made the memory. */
void phi_weight_set_rows(phi_weight *weight, phi_dtype dtype, uint32_t row, uint32_t count,
                         const void *src);
/* Fills one row of an INT kind from codes [cols] (INT4: 0..15; INT8: two's complement), scales and
 * offsets [cols / group]; offsets are NULL if there are none. Unless the form is wide, both have to
 * be values that fp16 has. */
void phi_weight_set_codes(phi_weight *weight, uint32_t row, const uint8_t *codes,
                          const float *scales, const float *offsets);
/* The same from codes of another form, which the matrix's holds (phi_form_join). */
void phi_weight_set_form_codes(phi_weight *weight, uint32_t row, const phi_form *form,
                               const uint8_t *codes, const float *scales, const float *offsets);
/* Widens one row to float, exactly. out: [cols]. */
void phi_weight_row(const phi_weight *weight, uint32_t row, float *out);
/* What the codes in memory are above what they stand for: 8 for INT4 (0 with offsets), 128 for
 * INT8. */
static inline int phi_weight_centre(const phi_weight *weight)
{
    return weight->kind == PHI_WEIGHT_INT8 ? 128 : weight->has_offsets ? 0 : 8;
}
/* Element `index` of the planes of scales and of offsets, whatever their width. */
float phi_weight_scale(const phi_weight *weight, size_t index);
float phi_weight_offset(const phi_weight *weight, size_t index);
const char *phi_weight_kind_name(phi_weight_kind kind);

#endif
