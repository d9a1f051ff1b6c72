#include "base/strmap.h"

#include "base/hash.h"
#include "base/mem.h"

#include <string.h>

/* Open addressing with linear probing; at most half full, so that probes stay short. */
typedef struct slot {
    const char *key; /* NULL: free */
    size_t key_bytes;
    uint32_t hash;
    uint32_t value;
} slot;

struct phi_strmap {
    slot *slots;
    size_t mask; /* slots - 1, a power of two minus one */
    size_t count;
    uint64_t secret[2]; /* of the hash */
};

phi_strmap *phi_strmap_create(size_t expected)
{
    size_t slots = 16;
    while (slots / 2 < expected && slots < SIZE_MAX / 4) {
        slots *= 2;
    }
    phi_strmap *map = phi_try_alloc_zero(1, sizeof *map);
    slot *table = phi_try_alloc_zero(slots, sizeof *table);
    if (!map || !table) {
        phi_free(map);
        phi_free(table);
        return NULL;
    }
    map->slots = table;
    map->mask = slots - 1;
    phi_random_bytes(map->secret, sizeof map->secret);
    return map;
}

void phi_strmap_destroy(phi_strmap *map)
{
    if (map) {
        phi_free(map->slots);
        phi_free(map);
    }
}

static slot *probe(const phi_strmap *map, const char *key, size_t key_bytes, uint32_t hash)
{
    size_t i = hash & map->mask;
    while (map->slots[i].key) {
        slot *at = &map->slots[i];
        if (at->hash == hash && at->key_bytes == key_bytes &&
            memcmp(at->key, key, key_bytes) == 0) {
            return at;
        }
        i = (i + 1) & map->mask;
    }
    return &map->slots[i];
}

static uint32_t hash_of(const phi_strmap *map, const char *key, size_t key_bytes)
{
    return (uint32_t)phi_hash_keyed(map->secret, key, key_bytes);
}

static phi_status grow(phi_strmap *map)
{
    size_t slots = (map->mask + 1) * 2;
    slot *table = phi_try_alloc_zero(slots, sizeof *table);
    if (!table) {
        return PHI_E_NO_MEMORY;
    }
    slot *old = map->slots;
    size_t old_slots = map->mask + 1;
    map->slots = table;
    map->mask = slots - 1;
    for (size_t i = 0; i < old_slots; i++) {
        if (old[i].key) {
            *probe(map, old[i].key, old[i].key_bytes, old[i].hash) = old[i];
        }
    }
    phi_free(old);
    return PHI_OK;
}

phi_status phi_strmap_insert(phi_strmap *map, const char *key, size_t key_bytes, uint32_t value)
{
    if ((map->count + 1) * 2 > map->mask + 1) {
        phi_status status = grow(map);
        if (status) {
            return status;
        }
    }
    uint32_t hash = hash_of(map, key, key_bytes);
    slot *at = probe(map, key, key_bytes, hash);
    if (at->key) {
        return PHI_E_EXISTS;
    }
    *at = (slot){.key = key, .key_bytes = key_bytes, .hash = hash, .value = value};
    map->count++;
    return PHI_OK;
}

bool phi_strmap_find(const phi_strmap *map, const char *key, size_t key_bytes, uint32_t *out_value)
{
    const slot *at = probe(map, key, key_bytes, hash_of(map, key, key_bytes));
    if (!at->key) {
        return false;
    }
    *out_value = at->value;
    return true;
}

size_t phi_strmap_count(const phi_strmap *map)
{
    return map->count;
}
