/*
 * 1. running is ordered by age, and age is the order of first admission: a preempted sequence keeps
 *    its place.
 * 2. Pages that running sequences will need for what they have yet to recompute are promised to
 *    them: nobody new is admitted on those.
 * 3. The oldest running sequence that is not paused can always go on: every other one may be
 *    preempted for it, and alone it fits (submit refuses what does not).
 */
#include "engine/runtime/core.h"

#include "base/assert.h"
#include "base/clock.h"

#include <string.h>

static uint32_t pages_needed(const phi_served *served, const phi_generation *seq)
{
    uint32_t n_tokens = seq->n_tokens < served->model.n_ctx ? seq->n_tokens + 1 : seq->n_tokens;
    return phi_kv_pages_needed(n_tokens, served->window);
}

/* Pages that are neither taken nor promised. */
static uint32_t pages_open(const phi_served *served)
{
    uint64_t promised = 0;
    for (uint32_t i = 0; i < served->n_running; i++) {
        const phi_generation *seq = served->running[i];
        uint32_t needed = pages_needed(served, seq);
        uint32_t held = phi_kv_table_held(&seq->kv);
        promised += needed > held ? needed - held : 0;
    }
    return promised < served->pool.n_free ? served->pool.n_free - (uint32_t)promised : 0;
}

static phi_generation *youngest_paused(const phi_served *served)
{
    for (uint32_t i = served->n_running; i-- > 0;) {
        if (phi_seq_is_paused(served->running[i])) {
            return served->running[i];
        }
    }
    return NULL;
}

static void take_from_running(phi_served *served, phi_generation *seq)
{
    uint32_t at = 0;
    while (served->running[at] != seq) {
        at++;
        PHI_ASSERT(at < served->n_running);
    }
    served->n_running--;
    memmove(served->running + at, served->running + at + 1,
            (served->n_running - at) * sizeof(phi_generation *));
    phi_kv_table_drop(&seq->kv, &served->pool);
}

static void count_running(phi_scheduler *scheduler, bool more)
{
    pthread_mutex_lock(&scheduler->lock);
    if (more) {
        scheduler->n_running++;
    } else {
        scheduler->n_running--;
    }
    pthread_mutex_unlock(&scheduler->lock);
}

void phi_served_preempt(phi_served *served, phi_generation *seq)
{
    PHI_ASSERT(seq->state == PHI_SEQ_RUNNING);
    take_from_running(served, seq);
    seq->n_done = 0;
    phi_seq_queue_push_preempted(&served->queue, seq);
    served->scheduler->fresh.preemptions++;
    count_running(served->scheduler, false);
}

bool phi_served_make_room(phi_served *served, const phi_generation *seq)
{
    while (served->pool.n_free == 0) {
        phi_generation *victim = served->running[served->n_running - 1];
        if (victim == seq) {
            victim = youngest_paused(served);
        }
        if (!victim || victim == seq) {
            return false;
        }
        phi_served_preempt(served, victim);
    }
    return true;
}

static void start(phi_served *served, phi_generation *seq)
{
    phi_scheduler *scheduler = served->scheduler;
    phi_seq_queue_remove(&served->queue, seq);
    if (seq->age == 0) {
        seq->age = ++scheduler->last_age;
        seq->admit_ns = phi_clock_ns();
    }
    uint32_t at = served->n_running;
    while (at > 0 && served->running[at - 1]->age > seq->age) {
        served->running[at] = served->running[at - 1];
        at--;
    }
    served->running[at] = seq;
    served->n_running++;
    seq->state = PHI_SEQ_RUNNING;
    seq->paused = false;
    count_running(scheduler, true);
}

void phi_served_admit(phi_served *served)
{
    const phi_scheduler_options *options = &served->scheduler->options;
    phi_generation *seq;
    while ((seq = phi_seq_queue_peek(&served->queue)) != NULL) {
        if (seq->n_new_max == 0 && !seq->prompt_logprobs) {
            phi_seq_queue_remove(&served->queue, seq);
            phi_served_end(served, seq, PHI_FINISH_LENGTH, NULL);
            continue;
        }
        while (served->n_running == options->running_max ||
               pages_open(served) < pages_needed(served, seq)) {
            /* A reader that does not read must not keep others out. */
            phi_generation *victim = youngest_paused(served);
            if (!victim) {
                return;
            }
            phi_served_preempt(served, victim);
        }
        start(served, seq);
    }
}

void phi_served_end(phi_served *served, phi_generation *seq, phi_finish_reason reason,
                    const phi_err *error)
{
    phi_scheduler *scheduler = served->scheduler;
    bool was_running = seq->state == PHI_SEQ_RUNNING;
    if (was_running) {
        take_from_running(served, seq);
    }
    if (!error && reason != PHI_FINISH_CANCELLED) {
        /* A prompt that was only looked at, or whose last token was, counts as a whole. */
        scheduler->fresh.prompt_tokens += seq->n_prompt - seq->n_counted;
        seq->n_counted = seq->n_prompt;
    }
    /* Numbers first: who sees the terminal event sees statistics that include it. */
    phi_scheduler_publish(scheduler);
    pthread_mutex_lock(&scheduler->lock);
    scheduler->n_running -= was_running;
    scheduler->n_over -= served->n_live > scheduler->options.running_max;
    scheduler->n_live--;
    served->n_live--;
    phi_seq_finish(seq, reason, error);
    pthread_cond_broadcast(&scheduler->seq_ended);
    pthread_mutex_unlock(&scheduler->lock);
    scheduler->wake_due = true;
    scheduler->look_again = true;
    phi_seq_unref(seq);
}

static bool to_cancel(phi_generation *seq, bool all)
{
    return all || atomic_load(&seq->cancelled);
}

/* Ends the first sequence of a line that is to be cancelled; false when there is none. */
static bool cancel_one_waiting(phi_served *served, bool all)
{
    for (phi_generation *seq = served->queue.preempted; seq; seq = seq->next) {
        if (to_cancel(seq, all)) {
            phi_seq_queue_remove(&served->queue, seq);
            phi_served_end(served, seq, PHI_FINISH_CANCELLED, NULL);
            return true;
        }
    }
    for (phi_generation *line = served->queue.lines; line; line = line->next_client) {
        for (phi_generation *seq = line; seq; seq = seq->next) {
            if (to_cancel(seq, all)) {
                phi_seq_queue_remove(&served->queue, seq);
                phi_served_end(served, seq, PHI_FINISH_CANCELLED, NULL);
                return true;
            }
        }
    }
    return false;
}

void phi_served_cancel(phi_served *served, bool all)
{
    for (uint32_t i = served->n_running; i-- > 0;) {
        if (to_cancel(served->running[i], all)) {
            phi_served_end(served, served->running[i], PHI_FINISH_CANCELLED, NULL);
        }
    }
    while (cancel_one_waiting(served, all)) {
    }
}
