/*
 * Purpose: many small pieces of memory with one lifetime, for what a file's metadata hold.
 * Owns:    all of its memory, from phi_arena_init to phi_arena_done.
 * Threads: one at a time.
 * Errors:  phi_arena_take returns NULL when out of memory or past the cap.
 * Limits:  the cap given at init, in bytes.
 */
#ifndef PHI_ENGINE_FORMATS_ARENA_H
#define PHI_ENGINE_FORMATS_ARENA_H

#include <stdbool.h>
#include <stddef.h>

typedef struct phi_arena_chunk phi_arena_chunk;

typedef struct phi_arena {
    phi_arena_chunk *chunks; /* newest first */
    size_t used_bytes;       /* handed out, rounding included */
    size_t max_bytes;
    bool full; /* the cap was the reason of a NULL */
} phi_arena;

void phi_arena_init(phi_arena *arena, size_t max_bytes);
void phi_arena_done(phi_arena *arena);
/* `bytes` bytes aligned to 8, not cleared; NULL when there are none to be had. */
void *phi_arena_take(phi_arena *arena, size_t bytes);

#endif
