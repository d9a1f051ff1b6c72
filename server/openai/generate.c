/*
 * Invariants:
 * 1. Entries are only freed by sweep, never while drain walks the list, so that a sink may drop any
 *    generation, its own included.
 * 2. An entry whose generation is NULL has been dropped and gets no further events.
 */
#include "server/openai/generate.h"

#include "base/assert.h"
#include "base/mem.h"
#include "base/thread.h"

#include <uv.h>

typedef struct entry {
    phi_generation *generation; /* NULL: dropped */
    phi_generation_sink sink;
    void *user;
    bool paused;
    struct entry *next;
} entry;

struct phi_generations {
    uv_async_t async; /* first: the close callback gets it */
    entry *first;
    size_t count;
    bool draining;
};

static void sweep(phi_generations *generations)
{
    entry **link = &generations->first;
    while (*link) {
        entry *at = *link;
        if (at->generation) {
            link = &at->next;
        } else {
            *link = at->next;
            phi_free(at);
        }
    }
}

static void drain_one(entry *at)
{
    phi_generation_event event;
    while (at->generation && !at->paused && phi_generation_next(at->generation, &event)) {
        bool more = at->sink(at->user, &event);
        at->paused = !more;
    }
}

static void drain(phi_generations *generations)
{
    if (generations->draining) {
        return;
    }
    generations->draining = true;
    for (entry *at = generations->first; at; at = at->next) {
        drain_one(at);
    }
    generations->draining = false;
    sweep(generations);
}

static void on_async(uv_async_t *async)
{
    drain(async->data);
}

phi_status phi_generations_create(uv_loop_t *loop, phi_generations **out_generations, phi_err *err)
{
    phi_generations *generations = phi_alloc_zero(1, sizeof *generations);
    int failed = uv_async_init(loop, &generations->async, on_async);
    if (failed) {
        phi_free(generations);
        return phi_fail(err, PHI_E_INTERNAL, "cannot create a wake-up handle: %s",
                        uv_strerror(failed));
    }
    generations->async.data = generations;
    *out_generations = generations;
    return PHI_OK;
}

static void on_closed(uv_handle_t *handle)
{
    phi_free(handle->data);
}

void phi_generations_destroy(phi_generations *generations)
{
    if (!generations) {
        return;
    }
    PHI_ASSERT(!generations->first);
    uv_close((uv_handle_t *)&generations->async, on_closed);
}

void phi_generations_wake(void *generations)
{
    phi_generations *self = generations;
    (void)uv_async_send(&self->async);
}

static entry *find(phi_generations *generations, const phi_generation *generation)
{
    for (entry *at = generations->first; at; at = at->next) {
        if (at->generation == generation) {
            return at;
        }
    }
    return NULL;
}

void phi_generations_add(phi_generations *generations, phi_generation *generation,
                         phi_generation_sink sink, void *user)
{
    PHI_ASSERT_ROLE(PHI_ROLE_LOOP);
    entry *fresh = phi_alloc_zero(1, sizeof *fresh);
    *fresh = (entry){.generation = generation, .sink = sink, .user = user};
    fresh->next = generations->first;
    generations->first = fresh;
    generations->count++;
    /* The engine may have begun already: its wake-up may have found no entry. */
    (void)uv_async_send(&generations->async);
}

void phi_generations_resume(phi_generations *generations, phi_generation *generation)
{
    entry *at = find(generations, generation);
    if (at && at->paused) {
        at->paused = false;
        (void)uv_async_send(&generations->async);
    }
}

void phi_generations_drop(phi_generations *generations, phi_generation *generation)
{
    PHI_ASSERT_ROLE(PHI_ROLE_LOOP);
    entry *at = find(generations, generation);
    PHI_ASSERT(at != NULL);
    at->generation = NULL;
    generations->count--;
    phi_generation_release(generation);
    if (!generations->draining) {
        sweep(generations);
    }
}

size_t phi_generations_count(const phi_generations *generations)
{
    return generations->count;
}
