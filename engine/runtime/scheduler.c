/*
 * 1. `mail` and the incoming lists are the only way from other threads to [engine]; events and
 *    statistics the only way back.
 * 2. Models take turns, a step each.
 * 3. The thread sleeps only when no model has a row to compute; then only mail can change that.
 * 4. A sequence counts in n_live from submit to its terminal event.
 */
#include "engine/runtime/scheduler.h"

#include "base/assert.h"
#include "base/mem.h"
#include "base/thread.h"
#include "engine/runtime/core.h"

#include <inttypes.h>
#include <string.h>

/* ---- mail ---- */

void phi_scheduler_nudge(phi_scheduler *scheduler, unsigned mail)
{
    pthread_mutex_lock(&scheduler->lock);
    scheduler->mail |= mail;
    pthread_cond_signal(&scheduler->mail_came);
    pthread_mutex_unlock(&scheduler->lock);
}

typedef struct mailbag {
    unsigned mail;
    phi_generation *incoming;
    phi_served *incoming_served;
} mailbag;

static mailbag take_mail(phi_scheduler *scheduler, bool busy)
{
    pthread_mutex_lock(&scheduler->lock);
    while (!busy && scheduler->mail == 0) {
        pthread_cond_wait(&scheduler->mail_came, &scheduler->lock);
    }
    mailbag bag = {
        .mail = scheduler->mail,
        .incoming = scheduler->incoming,
        .incoming_served = scheduler->incoming_served,
    };
    scheduler->mail = 0;
    scheduler->incoming = NULL;
    scheduler->incoming_last = NULL;
    scheduler->incoming_served = NULL;
    pthread_mutex_unlock(&scheduler->lock);
    return bag;
}

static void append_served(phi_scheduler *scheduler, phi_served *served)
{
    phi_served **link = &scheduler->served;
    while (*link) {
        link = &(*link)->next;
    }
    served->next = NULL;
    *link = served;
}

static void receive(phi_scheduler *scheduler, const mailbag *bag)
{
    for (phi_served *served = bag->incoming_served, *next; served; served = next) {
        next = served->next;
        append_served(scheduler, served);
    }
    for (phi_generation *seq = bag->incoming, *next; seq; seq = next) {
        next = seq->next;
        phi_seq_queue_push(&seq->served->queue, seq);
    }
}

static bool is_removing(phi_served *served)
{
    pthread_mutex_lock(&served->scheduler->lock);
    bool removing = served->removing;
    pthread_mutex_unlock(&served->scheduler->lock);
    return removing;
}

/* A submit that has its place but not yet its sequence delays this until its mail comes. */
static bool let_go(phi_served *served)
{
    phi_scheduler *scheduler = served->scheduler;
    phi_served_cancel(served, true);
    pthread_mutex_lock(&scheduler->lock);
    bool gone = served->n_live == 0;
    served->gone = gone;
    pthread_cond_broadcast(&scheduler->seq_ended);
    pthread_mutex_unlock(&scheduler->lock);
    return gone;
}

static void remove_served(phi_scheduler *scheduler)
{
    for (phi_served **link = &scheduler->served; *link;) {
        phi_served *served = *link;
        phi_served *next = served->next;
        if (is_removing(served) && let_go(served)) {
            *link = next;
        } else {
            link = &served->next;
        }
    }
}

/* ---- the thread ---- */

void phi_scheduler_publish(phi_scheduler *scheduler)
{
    phi_scheduler_stats *fresh = &scheduler->fresh;
    uint64_t used = 0;
    for (const phi_served *served = scheduler->served; served; served = served->next) {
        used += served->pool.n_pages - served->pool.n_free;
    }
    pthread_mutex_lock(&scheduler->lock);
    phi_scheduler_stats *stats = &scheduler->stats;
    stats->kv_pages_used = used;
    stats->prompt_tokens += fresh->prompt_tokens;
    stats->generated_tokens += fresh->generated_tokens;
    stats->steps += fresh->steps;
    stats->step_rows += fresh->step_rows;
    stats->preemptions += fresh->preemptions;
    stats->busy_ns += fresh->busy_ns;
    pthread_mutex_unlock(&scheduler->lock);
    memset(fresh, 0, sizeof *fresh);
}

/* A step of the first model that has something to do; it goes to the end of the line. */
static bool step(phi_scheduler *scheduler)
{
    for (phi_served **link = &scheduler->served; *link; link = &(*link)->next) {
        phi_served *served = *link;
        if (phi_batch_step(served)) {
            *link = served->next;
            append_served(scheduler, served);
            return true;
        }
    }
    return false;
}

static void *run(void *arg)
{
    phi_scheduler *scheduler = arg;
    phi_thread_set_role(PHI_ROLE_ENGINE, "phid-engine");
    phi_team_pin_caller(scheduler->options.compute.team);
    bool busy = false;
    bool stopping = false;
    while (!stopping) {
        mailbag bag = take_mail(scheduler, busy);
        receive(scheduler, &bag);
        stopping = (bag.mail & PHI_MAIL_STOP) != 0;
        if (stopping || (bag.mail & PHI_MAIL_CANCEL)) {
            for (phi_served *served = scheduler->served; served; served = served->next) {
                phi_served_cancel(served, stopping);
            }
        }
        if (bag.mail & (PHI_MAIL_REMOVE | PHI_MAIL_NEW)) {
            remove_served(scheduler);
        }
        scheduler->look_again = false;
        busy = !stopping && (step(scheduler) || scheduler->look_again);
        phi_scheduler_publish(scheduler);
        if (scheduler->wake_due && scheduler->options.wake) {
            scheduler->options.wake(scheduler->options.wake_user);
        }
        scheduler->wake_due = false;
    }
    return NULL;
}

/* ---- life ---- */

static phi_status check_options(const phi_scheduler_options *options, phi_err *err)
{
    if (options->batch_tokens == 0 || options->batch_tokens > PHI_LIMIT_BATCH_TOKENS) {
        return phi_fail_param(err, PHI_E_INVALID, "batch_tokens",
                              "batch_tokens must be 1 to %u, not %" PRIu32, PHI_LIMIT_BATCH_TOKENS,
                              options->batch_tokens);
    }
    if (options->running_max == 0 || options->running_max > options->batch_tokens) {
        return phi_fail_param(err, PHI_E_INVALID, "running_max",
                              "running_max must be 1 to batch_tokens (%" PRIu32 "), not %" PRIu32,
                              options->batch_tokens, options->running_max);
    }
    if (options->waiting_max > PHI_LIMIT_SEQUENCES) {
        return phi_fail_param(err, PHI_E_INVALID, "waiting_max",
                              "waiting_max must be at most %u, not %" PRIu32, PHI_LIMIT_SEQUENCES,
                              options->waiting_max);
    }
    return PHI_OK;
}

phi_status phi_scheduler_create(const phi_scheduler_options *options, phi_scheduler **out_scheduler,
                                phi_err *err)
{
    phi_status status = check_options(options, err);
    if (status) {
        return status;
    }
    phi_scheduler *scheduler = phi_alloc_zero(1, sizeof *scheduler);
    scheduler->options = *options;
    pthread_mutex_init(&scheduler->lock, NULL);
    pthread_cond_init(&scheduler->mail_came, NULL);
    pthread_cond_init(&scheduler->seq_ended, NULL);
    int errnum = pthread_create(&scheduler->thread, NULL, run, scheduler);
    if (errnum) {
        status = phi_fail(err, PHI_E_NO_MEMORY, "cannot start the engine's thread: %s",
                          strerror(errnum));
        goto fail;
    }
    *out_scheduler = scheduler;
    return PHI_OK;
fail:
    pthread_cond_destroy(&scheduler->seq_ended);
    pthread_cond_destroy(&scheduler->mail_came);
    pthread_mutex_destroy(&scheduler->lock);
    phi_free(scheduler);
    return status;
}

void phi_scheduler_destroy(phi_scheduler *scheduler)
{
    if (!scheduler) {
        return;
    }
    phi_scheduler_nudge(scheduler, PHI_MAIL_STOP);
    (void)pthread_join(scheduler->thread, NULL);
    /* From here on this thread is the only one; a model that was left goes with the scheduler. */
    PHI_ASSERT(scheduler->n_live == 0);
    while (scheduler->served) {
        phi_served *served = scheduler->served;
        scheduler->served = served->next;
        phi_served_destroy(served);
    }
    pthread_cond_destroy(&scheduler->seq_ended);
    pthread_cond_destroy(&scheduler->mail_came);
    pthread_mutex_destroy(&scheduler->lock);
    phi_free(scheduler);
}

/* ---- submit ---- */

/* Under the lock. */
static phi_status reserve_place(phi_scheduler *scheduler, phi_served *served, phi_err *err)
{
    const phi_scheduler_options *options = &scheduler->options;
    if (served->closing) {
        return phi_fail(err, PHI_E_STATE, "the model is being unloaded");
    }
    bool over = served->n_live >= options->running_max;
    if (over && scheduler->n_over >= options->waiting_max) {
        return phi_fail(err, PHI_E_BUSY,
                        "the queue is full: %" PRIu32 " sequences wait already; try again later",
                        scheduler->n_over);
    }
    if (scheduler->n_live >= PHI_LIMIT_SEQUENCES) {
        return phi_fail(err, PHI_E_BUSY,
                        "the engine holds %" PRIu32 " sequences already; try again later",
                        scheduler->n_live);
    }
    scheduler->n_over += over;
    scheduler->n_live++;
    served->n_live++;
    return PHI_OK;
}

static void give_place_back(phi_scheduler *scheduler, phi_served *served)
{
    pthread_mutex_lock(&scheduler->lock);
    scheduler->n_over -= served->n_live > scheduler->options.running_max;
    scheduler->n_live--;
    served->n_live--;
    pthread_cond_broadcast(&scheduler->seq_ended);
    pthread_mutex_unlock(&scheduler->lock);
    phi_scheduler_nudge(scheduler, PHI_MAIL_REMOVE);
}

phi_status phi_scheduler_submit(phi_scheduler *scheduler, phi_served *served,
                                const phi_generation_options *options,
                                phi_generation **out_generation, phi_err *err)
{
    phi_generation *seq;
    /* The place first: a full queue costs no memory. */
    pthread_mutex_lock(&scheduler->lock);
    phi_status status = reserve_place(scheduler, served, err);
    pthread_mutex_unlock(&scheduler->lock);
    if (status) {
        return status;
    }
    status = phi_seq_create(&served->model, options, &seq, err);
    if (status) {
        give_place_back(scheduler, served);
        return status;
    }
    seq->scheduler = scheduler;
    seq->served = served;
    pthread_mutex_lock(&scheduler->lock);
    if (scheduler->incoming_last) {
        scheduler->incoming_last->next = seq;
    } else {
        scheduler->incoming = seq;
    }
    scheduler->incoming_last = seq;
    scheduler->mail |= PHI_MAIL_NEW;
    pthread_cond_signal(&scheduler->mail_came);
    pthread_mutex_unlock(&scheduler->lock);
    *out_generation = seq;
    return PHI_OK;
}

void phi_scheduler_stats_get(phi_scheduler *scheduler, phi_scheduler_stats *out_stats)
{
    pthread_mutex_lock(&scheduler->lock);
    *out_stats = scheduler->stats;
    out_stats->running = scheduler->n_running;
    out_stats->waiting = scheduler->n_live - scheduler->n_running;
    pthread_mutex_unlock(&scheduler->lock);
}
