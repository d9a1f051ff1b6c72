/*
 * Purpose: where a tensor lies in a file and what it holds.
 * Owns:    nothing; names are views into the file object that filled the entry.
 * Threads: any. Errors: none.
 * Limits:  PHI_LIMIT_TENSOR_DIMS.
 */
#ifndef PHI_ENGINE_FORMATS_TENSOR_ENTRY_H
#define PHI_ENGINE_FORMATS_TENSOR_ENTRY_H

#include "config/limits.h"
#include "engine/tensor/dtype.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct phi_tensor_entry {
    const char *name;
    bool readable; /* false: a dtype that this program cannot read; dtype_name says which */
    phi_dtype dtype;
    const char *dtype_name; /* as the file spells it */
    uint32_t n_dims;
    /* In PyTorch order: the last is contiguous. A vector has n_dims 1; a scalar 0. */
    uint64_t dims[PHI_LIMIT_TENSOR_DIMS];
    uint64_t offset; /* absolute, in the file */
    uint64_t bytes;
} phi_tensor_entry;

/* Product of all dims but the last (1 for vectors), and the last (1 for scalars). */
static inline uint64_t phi_tensor_entry_rows(const phi_tensor_entry *entry)
{
    uint64_t rows = 1;
    for (uint32_t i = 0; i + 1 < entry->n_dims; i++) {
        rows *= entry->dims[i];
    }
    return rows;
}

static inline uint64_t phi_tensor_entry_cols(const phi_tensor_entry *entry)
{
    return entry->n_dims ? entry->dims[entry->n_dims - 1] : 1;
}

#endif
