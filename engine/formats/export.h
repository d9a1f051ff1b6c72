/*
 * Purpose: what a writer of a format is given: a model's description, its files, and its matrices
 *          in the coding that the writer asked for, row by row.
 * Owns:    nothing.
 * Threads: one writer's own; the callbacks may use the team.
 * Errors:  a callback's status is passed on as it is.
 * Limits:  rows come in pieces, so that no matrix is ever whole in memory.
 *
 * Tensors have canonical names (checkpoint.h) and come fused: "blk.0.attn_qkv.weight" is Q rows, K
 * rows, V rows; "blk.0.ffn_up.weight" gate rows, then up rows. A writer whose format keeps them
 * apart reads ranges of rows.
 */
#ifndef PHI_ENGINE_FORMATS_EXPORT_H
#define PHI_ENGINE_FORMATS_EXPORT_H

#include "base/status.h"
#include "engine/formats/description.h"
#include "engine/tensor/dtype.h"

#include <stdbool.h>
#include <stdint.h>

/* How the zero points of a coding may be. */
typedef enum phi_zero_rule {
    PHI_ZERO_CENTRE,  /* 8 or 128: symmetric */
    PHI_ZERO_INTEGER, /* a code: 0..15 or 0..255 */
    PHI_ZERO_REAL,    /* any number: the format stores an offset, -zero * scale */
    PHI_ZERO_FLOAT,   /* any number of fp32, for codes of 0..15 or -128..127 */
} phi_zero_rule;

/* Whether zero points are codes, all alike or not: other formats' have no place in GPTQ,
 * compressed-tensors and ONNX. */
static inline bool phi_zero_rule_is_coded(phi_zero_rule rule)
{
    return rule == PHI_ZERO_CENTRE || rule == PHI_ZERO_INTEGER;
}

/* A matrix of the export, in the precision that it gets. */
typedef struct phi_export_tensor {
    const char *name; /* canonical */
    uint32_t n_dims;  /* 1: a vector, F32 */
    uint32_t rows;
    uint32_t cols;
    uint32_t bits;  /* 4 or 8: codes; 16 or 32: floats */
    uint32_t group; /* codes: columns that share a scale; cols for one a row */
    phi_zero_rule zero_rule;
    bool is_mx;            /* 4 bits: codes are MXFP4's, see read_codes */
    phi_dtype scale_dtype; /* what scales are exact in: F16, BF16 or F32 */
    phi_dtype float_dtype; /* 16 bits: F16 or BF16, which the source has; vectors: what is exact */
} phi_export_tensor;

typedef struct phi_export {
    const phi_description *description;
    const phi_export_tensor *tensors; /* in forward-pass order; no head when it is tied */
    uint32_t count;
    const char *source_dir; /* of Hugging Face's files (tokenizer and so on), or NULL */
    void *user;
    /* Rows [row, row + count) as unsigned codes [count][cols] (8 bits: 0..255) with scales [count]
     * [cols / group] and zeros [count][cols / group]: w = scale * (q - zero); PHI_ZERO_FLOAT with
     * 8 bits: scale * (q - 128 - zero); PHI_ZERO_REAL: scale * q + zero. With PHI_ZERO_CENTRE zeros
     * are not filled and may be NULL. MXFP4's codes are E2M1 floats and its scales powers of two
     * (coded.h); scales are half of them, so that none is beyond fp32: w = 2 * scale * e2m1(q). */
    phi_status (*read_codes)(void *user, const phi_export_tensor *tensor, uint32_t row,
                             uint32_t count, uint8_t *codes, float *scales, float *zeros,
                             phi_err *err);
    /* The same rows as floats, [count][cols]: the values that the export's precision gives them,
     * for tensors of 16 or 32 bits. */
    phi_status (*read_f32)(void *user, const phi_export_tensor *tensor, uint32_t row,
                           uint32_t count, float *out, phi_err *err);
    /* Called at least once a second; false stops the writer with PHI_E_CANCELLED. May be NULL. */
    bool (*progress)(void *user, uint64_t bytes_done, uint64_t bytes_total);
} phi_export;

#endif
