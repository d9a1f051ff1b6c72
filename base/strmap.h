/*
 * Purpose: an insert-only map from byte strings to u32, for vocabularies and names.
 * Owns:    the table, not the keys: key bytes are views that must outlive the map.
 * Threads: one while inserting; any number of readers afterwards.
 * Errors:  PHI_E_NO_MEMORY; a key that is there already is PHI_E_EXISTS and changes nothing.
 * Limits:  2^31 entries.
 */
#ifndef PHI_BASE_STRMAP_H
#define PHI_BASE_STRMAP_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct phi_strmap phi_strmap;

/* Room for `expected` entries at first; grows. NULL when out of memory. */
phi_strmap *phi_strmap_create(size_t expected);
void phi_strmap_destroy(phi_strmap *map);
phi_status phi_strmap_insert(phi_strmap *map, const char *key, size_t key_bytes,
                             uint32_t value) PHI_MUST_CHECK;
bool phi_strmap_find(const phi_strmap *map, const char *key, size_t key_bytes, uint32_t *out_value);
size_t phi_strmap_count(const phi_strmap *map);

#endif
