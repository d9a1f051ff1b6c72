#include "engine/formats/arena.h"

#include <stdint.h>

#include "base/mem.h"

#define CHUNK_BYTES ((size_t)64 << 10)
#define ALIGN_BYTES ((size_t)8)

struct phi_arena_chunk {
    phi_arena_chunk *next;
    size_t used_bytes;
    size_t capacity_bytes;
    uint64_t data[];
};

void phi_arena_init(phi_arena *arena, size_t max_bytes)
{
    *arena = (phi_arena){.max_bytes = max_bytes};
}

void phi_arena_done(phi_arena *arena)
{
    while (arena->chunks) {
        phi_arena_chunk *next = arena->chunks->next;
        phi_free(arena->chunks);
        arena->chunks = next;
    }
    arena->used_bytes = 0;
}

static bool add_chunk(phi_arena *arena, size_t bytes)
{
    size_t capacity = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
    phi_arena_chunk *chunk = phi_try_alloc(sizeof *chunk + capacity);
    if (!chunk) {
        return false;
    }
    *chunk = (phi_arena_chunk){.next = arena->chunks, .capacity_bytes = capacity};
    arena->chunks = chunk;
    return true;
}

void *phi_arena_take(phi_arena *arena, size_t bytes)
{
    if (bytes > arena->max_bytes - arena->used_bytes) {
        arena->full = true;
        return NULL;
    }
    size_t rounded = (bytes + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
    if (rounded > arena->max_bytes - arena->used_bytes) {
        arena->full = true;
        return NULL;
    }
    phi_arena_chunk *chunk = arena->chunks;
    if (!chunk || rounded > chunk->capacity_bytes - chunk->used_bytes) {
        if (!add_chunk(arena, rounded)) {
            return NULL;
        }
        chunk = arena->chunks;
    }
    void *taken = (char *)chunk->data + chunk->used_bytes;
    chunk->used_bytes += rounded;
    arena->used_bytes += rounded;
    return taken;
}
