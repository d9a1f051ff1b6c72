/*
 * Purpose: the tensor types that GGUF numbers, with their sizes, so that a file can be checked
 *          whole even where a type is one that this program does not compute with.
 * Owns:    nothing. Threads: any. Errors: none.
 * Limits:  numbers are ggml's (ggml/include/ggml.h, enum ggml_type; block sizes of ggml-common.h).
 */
#ifndef PHI_ENGINE_FORMATS_GGML_TYPES_H
#define PHI_ENGINE_FORMATS_GGML_TYPES_H

#include <stdint.h>

typedef struct phi_ggml_type {
    uint32_t number;
    const char *name;
    uint32_t block_elements;
    uint32_t block_bytes;
} phi_ggml_type;

/* NULL for a number that is not known. */
const phi_ggml_type *phi_ggml_type_find(uint32_t number);

#endif
