/*
 * Purpose: the one piece of memory that holds a model's weights: anonymous, or a file's pages.
 * Owns:    the mapping. A mapped file may be closed, renamed or deleted meanwhile; it must not be
 *          cut short or changed, which nobody does to files that only appear by rename.
 * Threads: made and released by one; any number of readers.
 * Errors:  PHI_E_NO_MEMORY, PHI_E_IO.
 * Limits:  none.
 */
#ifndef PHI_ENGINE_MODEL_REGION_H
#define PHI_ENGINE_MODEL_REGION_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct phi_region {
    void *memory;   /* aligned to pages; NULL: there is none */
    uint64_t bytes; /* as asked for */
    bool is_file;
} phi_region;

/* Zeros, for the caller to fill. */
phi_status phi_region_alloc(uint64_t bytes, phi_region *out_region, phi_err *err) PHI_MUST_CHECK;
/* The first `bytes` of an open file, read-only and shared with all who map it. */
phi_status phi_region_map(int fd, uint64_t bytes, phi_region *out_region,
                          phi_err *err) PHI_MUST_CHECK;
/* Accepts what was never made. */
void phi_region_release(phi_region *region);

/* Brings [offset, offset + bytes) of a mapped file into memory and maps it, so that a disk that
 * cannot read is an error here and not a signal later. `fd` is the file's. */
phi_status phi_region_populate(const phi_region *region, int fd, uint64_t offset, uint64_t bytes,
                               phi_err *err) PHI_MUST_CHECK;

#endif
