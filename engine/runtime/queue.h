/*
 * Purpose: who is admitted next: preempted sequences by age, then waiting ones, one of each client
 *          in turn, each client's in the order of their arrival.
 * Owns:    nothing: links lie in the sequences.
 * Threads: [engine].
 * Errors:  none; nothing is allocated.
 * Limits:  none.
 */
#ifndef PHI_ENGINE_RUNTIME_QUEUE_H
#define PHI_ENGINE_RUNTIME_QUEUE_H

#include "engine/runtime/sequence.h"

typedef struct phi_seq_queue {
    phi_generation *lines;      /* first of each client's line; the one in front is next */
    phi_generation *lines_last; /* the client that comes last */
    phi_generation *preempted;  /* oldest first */
} phi_seq_queue;

void phi_seq_queue_push(phi_seq_queue *queue, phi_generation *seq);
void phi_seq_queue_push_preempted(phi_seq_queue *queue, phi_generation *seq);
/* The next to admit, or NULL. Preempted ones that are paused are passed over. */
phi_generation *phi_seq_queue_peek(const phi_seq_queue *queue);
/* Takes out any sequence that is in the queue. Taking the front one passes the turn on. */
void phi_seq_queue_remove(phi_seq_queue *queue, phi_generation *seq);

#endif
