/*
 * Purpose: one file of named tensors, and where each lies in it: what the readers of safetensors
 *          and of PyTorch's files give.
 * Owns:    the open file, its entries and their names.
 * Threads: after open, any number of readers.
 * Errors:  none.
 * Limits:  those of the reader.
 */
#ifndef PHI_ENGINE_FORMATS_TENSOR_FILE_H
#define PHI_ENGINE_FORMATS_TENSOR_FILE_H

#include "base/file.h"
#include "engine/formats/tensor_entry.h"

#include <stddef.h>

typedef struct phi_tensor_file {
    phi_file file;
    size_t count;
    phi_tensor_entry *entries; /* [count]; every tensor lies inside the file */
    char *names;               /* storage of the names */
} phi_tensor_file;

/* Accepts NULL and half-opened files. */
void phi_tensor_file_close(phi_tensor_file *file);

#endif
