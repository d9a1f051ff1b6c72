/*
 * 1. Slots [popped, pushed) are the consumer's, all others the producer's.
 * 2. Waiting: the producer sets `starved`, then looks at the counters again; the consumer moves the
 *    counters, then looks at `starved`. Both orders are sequentially consistent, so at least one of
 *    the two sees the other and no wake-up is lost.
 */
#include "engine/runtime/events.h"

#include "base/assert.h"
#include "base/mem.h"

#include <string.h>

enum {
    SLOTS_MIN = 8,
    TEXT_BYTES_SOFT = 64 << 10, /* more only if a single event may need it */
};

struct phi_event_slot {
    phi_generation_kind kind;
    int32_t token;
    uint32_t text_bytes;
    float logprob;
    bool has_logprob;
    uint32_t n_top;
};

static uint32_t power_of_two_from(uint64_t value)
{
    uint32_t power = 1;
    while (power < value) {
        power *= 2;
    }
    return power;
}

phi_status phi_event_ring_init(phi_event_ring *ring, uint64_t n_events, uint32_t n_top_max,
                               uint32_t text_max_bytes, phi_err *err)
{
    PHI_ASSERT(text_max_bytes > 0 && text_max_bytes <= (1U << 20));
    uint64_t slots = n_events < SLOTS_MIN ? SLOTS_MIN : n_events;
    slots = slots > PHI_LIMIT_EVENTS_PENDING ? PHI_LIMIT_EVENTS_PENDING : slots;
    memset(ring, 0, sizeof *ring);
    ring->n_slots = power_of_two_from(slots);
    ring->n_top_max = n_top_max;
    ring->text_max_bytes = text_max_bytes;
    uint64_t text = (uint64_t)text_max_bytes * ring->n_slots;
    text = text > TEXT_BYTES_SOFT ? TEXT_BYTES_SOFT : text;
    uint64_t text_min = (uint64_t)text_max_bytes * SLOTS_MIN;
    ring->text_bytes = power_of_two_from(text < text_min ? text_min : text);

    ring->slots = phi_try_alloc_zero(ring->n_slots, sizeof *ring->slots);
    ring->tops = phi_try_alloc((size_t)ring->n_slots * n_top_max * sizeof *ring->tops);
    ring->text = phi_try_alloc(ring->text_bytes);
    ring->view = phi_try_alloc((size_t)text_max_bytes + 1);
    if (!ring->slots || !ring->tops || !ring->text || !ring->view) {
        phi_event_ring_done(ring);
        return phi_fail(err, PHI_E_NO_MEMORY, "no memory for the events of a sequence");
    }
    return PHI_OK;
}

void phi_event_ring_done(phi_event_ring *ring)
{
    phi_free(ring->slots);
    phi_free(ring->tops);
    phi_free(ring->text);
    phi_free(ring->view);
    memset(ring, 0, sizeof *ring);
}

/* Producer's side. */
static uint32_t slots_used(phi_event_ring *ring)
{
    return atomic_load(&ring->pushed) - atomic_load(&ring->popped);
}

uint32_t phi_event_ring_room(phi_event_ring *ring)
{
    uint32_t slots = ring->n_slots - slots_used(ring);
    uint32_t text = ring->text_bytes - (ring->text_pushed - atomic_load(&ring->text_popped));
    uint32_t by_text = text / ring->text_max_bytes;
    return slots < by_text ? slots : by_text;
}

void phi_event_ring_push(phi_event_ring *ring, const phi_event *event)
{
    PHI_ASSERT(event->text_bytes <= ring->text_max_bytes && event->n_top <= ring->n_top_max);
    PHI_ASSERT(phi_event_ring_room(ring) > 0);
    uint32_t pushed = atomic_load_explicit(&ring->pushed, memory_order_relaxed);
    uint32_t index = pushed & (ring->n_slots - 1);
    uint32_t bytes = (uint32_t)event->text_bytes;
    uint32_t at = ring->text_pushed & (ring->text_bytes - 1);
    uint32_t first = ring->text_bytes - at < bytes ? ring->text_bytes - at : bytes;
    if (bytes) {
        memcpy(ring->text + at, event->text, first);
        memcpy(ring->text, event->text + first, bytes - first);
    }
    if (event->n_top) {
        memcpy(ring->tops + (size_t)index * ring->n_top_max, event->top,
               event->n_top * sizeof *event->top);
    }
    ring->slots[index] = (phi_event_slot){
        .kind = event->kind,
        .token = event->token,
        .text_bytes = bytes,
        .logprob = event->logprob,
        .has_logprob = event->has_logprob,
        .n_top = event->n_top,
    };
    ring->text_pushed += bytes;
    atomic_store(&ring->pushed, pushed + 1);
}

static bool half_free(uint32_t used_slots, uint32_t used_text, const phi_event_ring *ring)
{
    return used_slots <= ring->n_slots / 2 && used_text <= ring->text_bytes / 2;
}

bool phi_event_ring_starve(phi_event_ring *ring)
{
    atomic_store(&ring->starved, true);
    uint32_t text = ring->text_pushed - atomic_load(&ring->text_popped);
    if (half_free(slots_used(ring), text, ring)) {
        atomic_store(&ring->starved, false);
        return false;
    }
    return true;
}

bool phi_event_ring_starved(phi_event_ring *ring)
{
    return atomic_load(&ring->starved);
}

bool phi_event_ring_pop(phi_event_ring *ring, phi_generation_event *out_event, bool *out_nudge)
{
    uint32_t popped = atomic_load_explicit(&ring->popped, memory_order_relaxed);
    uint32_t pushed = atomic_load(&ring->pushed);
    *out_nudge = false;
    if (popped == pushed) {
        return false;
    }
    uint32_t index = popped & (ring->n_slots - 1);
    phi_event_slot slot = ring->slots[index];
    uint32_t text_popped = atomic_load_explicit(&ring->text_popped, memory_order_relaxed);
    uint32_t at = text_popped & (ring->text_bytes - 1);
    uint32_t first =
        ring->text_bytes - at < slot.text_bytes ? ring->text_bytes - at : slot.text_bytes;
    memcpy(ring->view, ring->text + at, first);
    memcpy(ring->view + first, ring->text, slot.text_bytes - first);
    ring->view[slot.text_bytes] = '\0';

    memset(out_event, 0, sizeof *out_event);
    out_event->kind = slot.kind;
    out_event->token = slot.token;
    out_event->text = ring->view;
    out_event->text_bytes = slot.text_bytes;
    out_event->has_logprob = slot.has_logprob;
    out_event->logprob = slot.logprob;
    out_event->n_top = slot.n_top;
    if (slot.n_top) {
        memcpy(out_event->top, ring->tops + (size_t)index * ring->n_top_max,
               slot.n_top * sizeof *out_event->top);
    }
    atomic_store(&ring->text_popped, text_popped + slot.text_bytes);
    atomic_store(&ring->popped, popped + 1);
    /* What the producer had pushed when it began to wait is a lower bound of `pushed` now, and the
     * producer pushes nothing while it waits; so used slots are exact when `starved` is seen. The
     * text in use is not known here, but is at most all text of those slots: wait for half of the
     * slots and, where long texts filled the ring first, for it to be empty. */
    uint32_t used = pushed - (popped + 1);
    bool enough = used == 0 || (used <= ring->n_slots / 2 &&
                                (uint64_t)used * ring->text_max_bytes <= ring->text_bytes / 2);
    if (enough && atomic_load(&ring->starved)) {
        atomic_store(&ring->starved, false);
        *out_nudge = true;
    }
    return true;
}
