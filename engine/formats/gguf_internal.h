/*
 * Purpose: what the two halves of the GGUF reader share: gguf_read.c fills it, gguf_value.c
 *          answers from it. Not for other modules.
 * Owns:    see gguf.h.
 * Threads: as gguf.h.
 * Errors:  none.
 * Limits:  as gguf.h.
 */
#ifndef PHI_ENGINE_FORMATS_GGUF_INTERNAL_H
#define PHI_ENGINE_FORMATS_GGUF_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#include "base/file.h"
#include "base/strmap.h"
#include "engine/formats/arena.h"
#include "engine/formats/gguf.h"

struct phi_gguf {
    phi_file file;
    uint32_t version;
    phi_arena arena;
    phi_gguf_value *values;
    size_t value_count;
    phi_strmap *value_index; /* key -> index in values */
    phi_tensor_entry *tensors;
    size_t tensor_count;
};

/* Bytes of one number or bool as stored; 0 for strings and arrays. */
size_t phi_gguf_number_bytes(phi_gguf_type type);
float phi_gguf_float_of_bits(uint32_t bits);
double phi_gguf_double_of_bits(uint64_t bits);
/* Sign-extends a stored integer of 1, 2, 4 or 8 bytes. */
int64_t phi_gguf_extend(uint64_t bits, size_t bytes);

#endif
