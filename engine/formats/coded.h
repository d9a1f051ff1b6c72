/*
 * Purpose: quantized matrices whose codes, scales and zero points are arrays of their own: MLX,
 *          GPTQ, AWQ, compressed-tensors, ONNX's MatMulNBits, OpenVINO. One reader for all: they
 *          differ in order, width and sign, which are data here.
 * Owns:    nothing; files are borrowed.
 * Threads: any number of readers, each with a buffer of its own.
 * Errors:  arrays that are shorter than the shape says, outside their file, or of a width that is
 *          not supported: PHI_E_FORMAT or PHI_E_UNSUPPORTED, without the tensor's name, which the
 *          caller adds.
 * Limits:  1 to 8 bits a code; groups as phi_weight_shape takes them.
 *
 * The value of column k of a row is (q - zero) * scale, or q * scale + offset, by its group, which
 * is k / group or what `group_index` says. Layouts:
 *   by row     codes [rows][ceil(cols * bits / 8)], element 0 in the lowest bits; codes of 3, 5
 *              and 6 bits go on across bytes. MLX, compressed-tensors, MatMulNBits, OpenVINO.
 *   by column  32-bit words [cols * bits / 32][rows], the first column in a word's lowest bits.
 *              GPTQ ("qweight"); bits divide 32.
 *   AWQ        32-bit words [cols][rows / 8] of 4-bit codes; nibble i of a word is row
 *              8 c + (0, 2, 4, 6, 1, 3, 5, 7)[i]. AutoAWQ's "gemm" version.
 *   by line    32-bit words [cols][rows * bits / 32], the first row in a word's lowest bits.
 *              ONNX's DequantizeLinear before a MatMul.
 *
 * An offset that became a zero point of fp32 (PHI_ZEROS_FLOAT), -offset / scale, was rounded: it is
 * read as the number of fewest bits that has this zero point. So those of fp16, and a K-quant's
 * products, which have 17 bits, are read back to the bit.
 *
 * MXFP4 (OCP Microscaling Formats 1.0): an E2M1 code is 0, .5, 1, 1.5, 2, 3, 4 or 6 with its sign
 * in the top bit, a scale 2^(byte - 127); held as INT8 codes of twice the value.
 */
#ifndef PHI_ENGINE_FORMATS_CODED_H
#define PHI_ENGINE_FORMATS_CODED_H

#include "base/file.h"
#include "base/status.h"
#include "engine/tensor/dtype.h"
#include "engine/tensor/weight.h"

#include <stdbool.h>
#include <stdint.h>

/* Bytes of a file; `file` is NULL where there is no such array. */
typedef struct phi_array {
    const phi_file *file;
    uint64_t offset;
    uint64_t bytes;
} phi_array;

typedef enum phi_code_order {
    PHI_CODES_BY_ROW,
    PHI_CODES_BY_COLUMN,
    PHI_CODES_AWQ,
    PHI_CODES_BY_LINE,
} phi_code_order;

typedef enum phi_zero_order {
    PHI_ZEROS_ONE,      /* `zero` for all */
    PHI_ZEROS_BY_ROW,   /* codes [rows][ceil(groups * bits / 8)], low bits first */
    PHI_ZEROS_DENSE,    /* codes [rows * groups], low bits first, rows without a gap. OpenVINO */
    PHI_ZEROS_BY_GROUP, /* 32-bit words [groups][rows * bits / 32], low bits first. GPTQ */
    PHI_ZEROS_BY_WORD,  /* 32-bit words [ceil(rows * bits / 32)][groups]. compressed-tensors */
    PHI_ZEROS_AWQ,      /* 32-bit words [groups][rows / 8], in AWQ's order */
    PHI_ZEROS_FLOAT,    /* [rows][groups] of the scales' type, any numbers */
    PHI_ZEROS_OFFSET,   /* [rows][groups] of the scales' type, to be added: MLX's biases */
} phi_zero_order;

typedef struct phi_coded {
    uint32_t rows;
    uint32_t cols;
    uint32_t bits;
    uint32_t group; /* columns that share a scale; divides cols */
    phi_code_order order;
    bool is_signed;        /* codes and zero points are two's complement */
    bool is_mx;            /* MXFP4: codes are E2M1 floats of 4 bits, scales E8M0 bytes */
    bool scales_by_group;  /* [groups][rows], else [rows][groups] */
    bool one_scale;        /* for all rows and groups */
    phi_dtype scale_dtype; /* F16, BF16 or F32; unused with is_mx */
    phi_zero_order zeros_order;
    int32_t zero; /* PHI_ZEROS_ONE: of all; else added to each (GPTQ's first version: 1) */
    phi_array codes;
    phi_array scales;
    phi_array zeros;
    phi_array group_index; /* int32 [cols] */
    /* Filled by phi_coded_settle, which also turns PHI_ZEROS_* into PHI_ZEROS_ONE. */
    phi_form form;
    uint32_t *groups_of_cols; /* [cols], where the index says more than k / group; else NULL */
} phi_coded;

/* Checks every array against the shape and its file, reads zero points and group index, and says
 * the form. Zero points that are all one become that one. A group index that is no plain order of
 * groups, and groups that the INT kinds do not take, make the form FP32. */
phi_status phi_coded_settle(phi_coded *coded, phi_err *err) PHI_MUST_CHECK;
/* Frees what settling read. */
void phi_coded_done(phi_coded *coded);
/* Bytes of all arrays. */
uint64_t phi_coded_bytes(const phi_coded *coded);

/* The zero point of fp32 that an offset becomes where a format has no offsets. */
float phi_zero_of_offset(float offset, float scale);

/* A reader's memory between calls; starts as zeros. */
typedef struct phi_coded_buffer {
    void *data;
    size_t bytes;
} phi_coded_buffer;

void phi_coded_buffer_done(phi_coded_buffer *buffer);

/* Rows [row, row + count) of an INT form in the terms of phi_weight_set_codes: codes [count][cols],
 * scales and offsets [count][cols / group]; offsets stay untouched where the form has none. */
phi_status phi_coded_read_codes(const phi_coded *coded, uint32_t row, uint32_t count,
                                phi_coded_buffer *buffer, uint8_t *codes, float *scales,
                                float *offsets, phi_err *err) PHI_MUST_CHECK;
/* Rows of any form as floats, [count][cols]. */
phi_status phi_coded_read_f32(const phi_coded *coded, uint32_t row, uint32_t count,
                              phi_coded_buffer *buffer, float *out, phi_err *err) PHI_MUST_CHECK;

#endif
