/*
 * Purpose: the bounded ring through which one sequence tells its caller what happened.
 * Owns:    its slots and text, all allocated at init.
 * Threads: one producer, [engine]; one consumer, the generation's owner. No locks.
 * Errors:  only init can fail. The producer asks for room before it produces.
 * Limits:  PHI_LIMIT_EVENTS_PENDING events; text of one event: `text_max_bytes` given at init.
 */
#ifndef PHI_ENGINE_RUNTIME_EVENTS_H
#define PHI_ENGINE_RUNTIME_EVENTS_H

#include "base/status.h"
#include "engine/runtime/generation.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What the producer pushes; the views are copied. */
typedef struct phi_event {
    phi_generation_kind kind;
    int32_t token;
    const char *text;
    size_t text_bytes;
    bool has_logprob;
    float logprob;
    const phi_token_logprob *top;
    uint32_t n_top;
} phi_event;

typedef struct phi_event_slot phi_event_slot;

typedef struct phi_event_ring {
    phi_event_slot *slots;   /* [n_slots] */
    phi_token_logprob *tops; /* [n_slots, n_top_max] */
    char *text;              /* [text_bytes], circular */
    char *view;              /* [text_max_bytes]: the consumer's copy of the last event's text */
    uint32_t n_slots;        /* a power of two */
    uint32_t n_top_max;
    uint32_t text_bytes; /* a power of two */
    uint32_t text_max_bytes;
    /* Counters run freely and are taken modulo the sizes. Each is written by one side and read by
     * the other; the release store of one pairs with the acquire load of the other. */
    atomic_uint_least32_t pushed;
    atomic_uint_least32_t popped;
    atomic_uint_least32_t text_popped;
    uint32_t text_pushed; /* the producer's alone: a slot's push publishes its text */
    atomic_bool starved;  /* the producer waits for room */
} phi_event_ring;

/* At most `n_events` events will ever be pushed. */
phi_status phi_event_ring_init(phi_event_ring *ring, uint64_t n_events, uint32_t n_top_max,
                               uint32_t text_max_bytes, phi_err *err) PHI_MUST_CHECK;
void phi_event_ring_done(phi_event_ring *ring);

/* [engine] How many events surely fit, whatever their text. At least 8 when empty. */
uint32_t phi_event_ring_room(phi_event_ring *ring);
/* [engine] There must be room. */
void phi_event_ring_push(phi_event_ring *ring, const phi_event *event);
/* [engine] The producer is about to wait; false when there is room again already. The consumer's
 * pop answers true once half of the ring is free. */
bool phi_event_ring_starve(phi_event_ring *ring);
bool phi_event_ring_starved(phi_event_ring *ring);

/* [consumer] False when empty. Sets `out_nudge` when the producer waits and may go on. */
bool phi_event_ring_pop(phi_event_ring *ring, phi_generation_event *out_event, bool *out_nudge);

#endif
