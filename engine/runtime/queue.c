/*
 * 1. A client with waiting sequences has exactly one line; lines are linked through their first
 *    sequence's next_client, and the first knows its line's last.
 * 2. A client whose front sequence is admitted goes to the end of the lines.
 */
#include "engine/runtime/queue.h"

#include "base/assert.h"

#include <stddef.h>

static void append_line(phi_seq_queue *queue, phi_generation *first)
{
    first->next_client = NULL;
    if (queue->lines) {
        PHI_ASSERT(queue->lines_last != NULL);
        queue->lines_last->next_client = first;
    } else {
        queue->lines = first;
    }
    queue->lines_last = first;
}

void phi_seq_queue_push(phi_seq_queue *queue, phi_generation *seq)
{
    seq->next = NULL;
    seq->state = PHI_SEQ_WAITING;
    phi_generation *line = queue->lines;
    while (line && line->client != seq->client) {
        line = line->next_client;
    }
    if (line) {
        line->line_last->next = seq;
        line->line_last = seq;
    } else {
        seq->line_last = seq;
        append_line(queue, seq);
    }
}

void phi_seq_queue_push_preempted(phi_seq_queue *queue, phi_generation *seq)
{
    phi_generation **link = &queue->preempted;
    while (*link && (*link)->age < seq->age) {
        link = &(*link)->next;
    }
    seq->next = *link;
    seq->state = PHI_SEQ_PREEMPTED;
    *link = seq;
}

phi_generation *phi_seq_queue_peek(const phi_seq_queue *queue)
{
    for (phi_generation *seq = queue->preempted; seq; seq = seq->next) {
        if (!phi_seq_is_paused(seq)) {
            return seq;
        }
    }
    return queue->lines;
}

static void remove_preempted(phi_seq_queue *queue, phi_generation *seq)
{
    phi_generation **link = &queue->preempted;
    while (*link != seq) {
        PHI_ASSERT(*link);
        link = &(*link)->next;
    }
    *link = seq->next;
}

static void remove_line(phi_seq_queue *queue, phi_generation *first, phi_generation *before)
{
    if (before) {
        before->next_client = first->next_client;
    } else {
        queue->lines = first->next_client;
    }
    if (queue->lines_last == first) {
        queue->lines_last = before;
    }
}

/* The first of a line leaves: the second takes its place, at the end if it was its turn. */
static void remove_first(phi_seq_queue *queue, phi_generation *first, phi_generation *before)
{
    phi_generation *second = first->next;
    if (second) {
        second->line_last = first->line_last;
    }
    if (!second || !before) {
        remove_line(queue, first, before);
        if (second) {
            append_line(queue, second);
        }
        return;
    }
    second->next_client = first->next_client;
    before->next_client = second;
    if (queue->lines_last == first) {
        queue->lines_last = second;
    }
}

void phi_seq_queue_remove(phi_seq_queue *queue, phi_generation *seq)
{
    if (seq->state == PHI_SEQ_PREEMPTED) {
        remove_preempted(queue, seq);
        seq->next = NULL;
        return;
    }
    phi_generation *before = NULL;
    phi_generation *line = queue->lines;
    while (line && line->client != seq->client) {
        before = line;
        line = line->next_client;
    }
    PHI_ASSERT(line);
    if (line == seq) {
        remove_first(queue, seq, before);
    } else {
        phi_generation *at = line;
        while (at->next != seq) {
            PHI_ASSERT(at->next);
            at = at->next;
        }
        at->next = seq->next;
        if (line->line_last == seq) {
            line->line_last = at;
        }
    }
    seq->next = NULL;
    seq->next_client = NULL;
    seq->line_last = NULL;
}
