/*
 * Purpose: what hf_write.c and hf_write_matrix.c share: the arrays that tensors become.
 * Owns:    phi_hf_writing owns its items.
 * Threads: one.
 * Errors:  those of hf_write.h.
 * Limits:  HF_ARRAYS_MAX arrays a tensor.
 */
#ifndef PHI_ENGINE_FORMATS_HF_WRITE_INTERNAL_H
#define PHI_ENGINE_FORMATS_HF_WRITE_INTERNAL_H

#include "base/file.h"
#include "engine/formats/hf_write.h"

#include <stdint.h>

#define HF_ARRAYS_MAX 4

typedef struct phi_hf_array {
    char name[PHI_LIMIT_TENSOR_NAME_BYTES];
    const char *dtype; /* as safetensors spells it */
    uint32_t n_dims;
    uint64_t dims[3];
    uint64_t bytes;
    uint64_t offset; /* in the file */
} phi_hf_array;

/* One tensor's arrays. Of a matrix of codes: codes, scales, zero points or offsets, what else. */
typedef struct phi_hf_arrays {
    uint32_t count;
    phi_hf_array at[HF_ARRAYS_MAX];
} phi_hf_arrays;

/* What the class in question keeps as one tensor: one of the export, or some of its rows. */
typedef struct phi_hf_item {
    const phi_export_tensor *tensor;
    uint32_t row; /* of a vector: its first column, and how many */
    uint32_t rows;
    uint32_t stacked; /* MLX keeps experts' matrices in one of three dimensions; else 1 */
    char name[PHI_LIMIT_TENSOR_NAME_BYTES]; /* "model.layers.0.mlp.fc1.bias" */
    phi_hf_arrays arrays;
} phi_hf_item;

typedef struct phi_hf_writing {
    const phi_export *export;
    phi_hf_method method;
    phi_hf_item *items; /* [n_items] */
    uint32_t n_items;
    phi_file_writer *file;
    uint64_t bytes_done;
    uint64_t bytes_total;
    phi_err *err;
} phi_hf_writing;

/* Makes the list of items, without their arrays. */
phi_status phi_hf_list(phi_hf_writing *w) PHI_MUST_CHECK;
/* The arrays that the item becomes, without offsets. */
phi_status phi_hf_plan(const phi_hf_writing *w, phi_hf_item *item) PHI_MUST_CHECK;
/* Their data, at their offsets. */
phi_status phi_hf_fill(phi_hf_writing *w, const phi_hf_item *item) PHI_MUST_CHECK;

#endif
