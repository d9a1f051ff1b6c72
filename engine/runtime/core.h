/*
 * Purpose: what the scheduler's own files share: its state, the state of a served model, and the
 *          steps between submission and the terminal event. Private to engine/runtime.
 * Owns:    see the structs.
 * Threads: fields say who may touch them: [lock] under phi_scheduler.lock, [engine] that thread
 *          alone, otherwise constant after creation.
 * Errors:  none of the functions fails.
 * Limits:  all arrays are sized when a model is added; a step allocates nothing.
 *
 * A sequence's way: submit -> mailbox -> queue (WAITING) -> running -> [preempted -> running]* ->
 * ended. Only [engine] moves it, and phi_served_end is the one way out.
 */
#ifndef PHI_ENGINE_RUNTIME_CORE_H
#define PHI_ENGINE_RUNTIME_CORE_H

#include "engine/runtime/queue.h"
#include "engine/runtime/scheduler.h"
#include "engine/runtime/sequence.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* Why the engine's thread should look up. */
enum {
    PHI_MAIL_NEW = 1,     /* sequences or models were added */
    PHI_MAIL_CANCEL = 2,  /* a sequence's `cancelled` is set */
    PHI_MAIL_DRAINED = 4, /* a paused sequence's ring has room again */
    PHI_MAIL_REMOVE = 8,  /* a model is to go */
    PHI_MAIL_STOP = 16,
};

struct phi_scheduler {
    phi_scheduler_options options;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t mail_came; /* to [engine] */
    pthread_cond_t seq_ended; /* to who waits in phi_served_drain and phi_served_remove */

    /* [lock] */
    unsigned mail;
    phi_generation *incoming; /* oldest first */
    phi_generation *incoming_last;
    phi_served *incoming_served;
    uint32_t n_live;           /* sequences between submit and terminal event */
    uint32_t n_over;           /* of these, beyond running_max of their model: the waiting line */
    phi_scheduler_stats stats; /* running, waiting and kv_pages_total are made when asked for */
    uint32_t n_running;

    /* [engine] */
    phi_scheduler_stats fresh; /* what has come since `stats` was brought up to date */
    phi_served *served;        /* whose turn it is first */
    uint64_t last_age;
    bool wake_due;   /* events were told */
    bool look_again; /* a step that computed nothing has changed who may be admitted */
};

/* A sequence's part in one step. */
typedef struct phi_batch_part {
    phi_generation *seq;
    uint32_t n_rows;
    uint32_t first_job;
    uint32_t n_jobs;
} phi_batch_part;

/* A row of logits to do something with. */
typedef struct phi_batch_job {
    phi_generation *seq;
    bool sample;   /* else the log probability of `token` is asked for */
    int32_t token; /* sampled, or the prompt's next */
    phi_status status;
    phi_err error;
    float logprob;
    uint32_t n_top;
    phi_token_logprob top[PHI_LIMIT_TOP_LOGPROBS];
} phi_batch_job;

struct phi_served {
    phi_scheduler *scheduler;
    phi_served *next; /* [engine], or [lock] while in incoming_served */
    const phi_weights *weights;
    phi_seq_model model;
    uint32_t window;
    uint8_t *known; /* [n_vocab] */
    int32_t stop_tokens[PHI_LIMIT_STOP_TOKENS];
    uint32_t n_stop_tokens;
    uint32_t n_pages;

    /* [lock] */
    uint32_t n_live;
    bool closing;  /* refuses new sequences */
    bool removing; /* cancel what is left */
    bool gone;     /* [engine] has let go */

    /* [engine] */
    phi_seq_queue queue;
    phi_generation **running; /* [running_max], oldest first */
    uint32_t n_running;
    phi_kv_pool pool;
    phi_forward_ctx *forward;
    uint32_t n_jobs_max;
    uint32_t n_scratches;
    phi_row *rows;                  /* [batch_tokens] */
    phi_kv_view *views;             /* [running_max] */
    phi_batch_part *parts;          /* [running_max] */
    phi_batch_job *jobs;            /* [n_jobs_max] */
    phi_generation **order;         /* [running_max], work space of a step */
    phi_sampler_scratch *scratches; /* [n_scratches], one for each worker of the team */
    const float *logits;            /* of the present step */
    uint32_t n_rows;                /* of the step being made */
    uint32_t n_parts;
    uint32_t n_jobs;
};

/* [any] */
void phi_scheduler_nudge(phi_scheduler *scheduler, unsigned mail);
/* [engine] Adds what is fresh to what callers can see. */
void phi_scheduler_publish(phi_scheduler *scheduler);

/* Frees a model that the engine has let go of. */
void phi_served_destroy(phi_served *served);
/* [engine] Lets waiting sequences in while there is room. */
void phi_served_admit(phi_served *served);
/* [engine] Takes a running sequence's pages and puts it in front of the queue. */
void phi_served_preempt(phi_served *served, phi_generation *seq);
/* [engine] Makes at least one page free for `seq`, at the cost of younger sequences or of paused
 * ones; false when there are none. */
bool phi_served_make_room(phi_served *served, const phi_generation *seq);
/* [engine] The one way out: gives the pages back and publishes the terminal event. The sequence
 * may be gone afterwards. */
void phi_served_end(phi_served *served, phi_generation *seq, phi_finish_reason reason,
                    const phi_err *error);
/* [engine] Ends every sequence, or those whose `cancelled` is set. */
void phi_served_cancel(phi_served *served, bool all);

/* [engine] One step; false when there was nothing to compute. */
bool phi_batch_step(phi_served *served);

#endif
