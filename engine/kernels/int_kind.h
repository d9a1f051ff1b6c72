/*
 * Purpose: what a product of an INT kind is stamped out for, and the walk along the scales and
 *          offsets of a block. Kernels walk them as bytes, so that fp16 and fp32 differ in nothing
 *          but a set's load of some rows' numbers.
 * Owns:    nothing. Threads: any. Errors: none.
 * Limits:  a phi_int_kind has to be true of the weight; it is a constant where a product is stamped
 *          out for it.
 */
#ifndef PHI_ENGINE_KERNELS_INT_KIND_H
#define PHI_ENGINE_KERNELS_INT_KIND_H

#include "engine/kernels/unroll.h"
#include "engine/tensor/weight.h"

#include <stddef.h>
#include <stdint.h>

typedef struct phi_int_kind {
    int is_int4;
    int has_offsets;
    int is_wide; /* scales and offsets are fp32 */
    int by_16;   /* runs of 16 columns, else of 32 */
} phi_int_kind;

/* X(name, is_int4, has_offsets, is_wide), for both lengths of run. */
#define PHI_INT_KINDS(X)                                                                           \
    X(int8, 0, 0, 0)                                                                               \
    X(int8_wide, 0, 0, 1)                                                                          \
    X(int8_offsets, 0, 1, 0)                                                                       \
    X(int8_wide_offsets, 0, 1, 1)                                                                  \
    X(int4, 1, 0, 0)                                                                               \
    X(int4_wide, 1, 0, 1)                                                                          \
    X(int4_offsets, 1, 1, 0)                                                                       \
    X(int4_wide_offsets, 1, 1, 1)

/* The place of a weight's kind in a table [INT4?][offsets?][wide?]. */
#define PHI_INT_KIND_OF(table, weight)                                                             \
    (table)[(weight)->kind == PHI_WEIGHT_INT4][(weight)->has_offsets][(weight)->wide]

/* A group's scales and offsets, of a block's 16 rows. */
typedef struct phi_sides {
    const uint8_t *scales;
    const uint8_t *offsets; /* NULL if there are none */
} phi_sides;

/* Bytes of `count` scales, or offsets. */
PHI_STAMP size_t phi_side_bytes(size_t count, phi_int_kind kind)
{
    return count * (kind.is_wide ? sizeof(float) : sizeof(uint16_t));
}

/* Those `bytes` further on. */
PHI_STAMP phi_sides phi_sides_at(phi_sides sides, size_t bytes, phi_int_kind kind)
{
    return (phi_sides){sides.scales + bytes, kind.has_offsets ? sides.offsets + bytes : NULL};
}

/* Those of a block's first group. */
PHI_STAMP phi_sides phi_sides_of(const phi_weight *weight, uint32_t block, phi_int_kind kind)
{
    const size_t first = (size_t)block * (weight->cols / weight->group) * PHI_WEIGHT_BLOCK;
    const void *scales = kind.is_wide ? (const void *)weight->wide_scales : weight->scales;
    const void *offsets = kind.is_wide ? (const void *)weight->wide_offsets : weight->offsets;
    return phi_sides_at((phi_sides){scales, offsets}, phi_side_bytes(first, kind), kind);
}

#endif
