/* A model's runtime state: made and freed here; served in batch.c and admission.c. */
#include "base/assert.h"
#include "base/mem.h"
#include "base/thread.h"
#include "engine/runtime/core.h"

#include <inttypes.h>
#include <string.h>

/* Rows of logits in one step beyond those that sequences sample from: they bound how fast the log
 * probabilities of prompts are told. */
enum { PROMPT_LOGITS_MIN = 32 };

static uint32_t longest_piece(const phi_tokenizer *tokenizer)
{
    size_t longest = 1;
    uint32_t size = phi_tokenizer_vocab_size(tokenizer);
    for (uint32_t id = 0; id < size; id++) {
        const char *piece = phi_tokenizer_piece(tokenizer, (int32_t)id);
        size_t bytes = piece ? strlen(piece) : 0;
        longest = bytes > longest ? bytes : longest;
    }
    return longest < PHI_LIMIT_PIECE_BYTES ? (uint32_t)longest : PHI_LIMIT_PIECE_BYTES;
}

static void describe(phi_served *served, const phi_served_options *options)
{
    const phi_description *d = &options->weights->description;
    uint32_t n_ctx = options->n_ctx && options->n_ctx < d->n_ctx ? options->n_ctx : d->n_ctx;
    served->weights = options->weights;
    served->window = d->window < d->n_ctx ? d->window : 0;
    served->n_pages = phi_kv_pages_of(options->kv_tokens ? options->kv_tokens : 1);
    /* A sequence must fit into the cache alone. */
    if (phi_kv_pages_needed(n_ctx, served->window) > served->n_pages) {
        n_ctx = served->n_pages * PHI_KV_PAGE_TOKENS;
    }
    served->model = (phi_seq_model){
        .tokenizer = options->tokenizer,
        .n_ctx = n_ctx,
        .n_ctx_original = d->rope == PHI_ROPE_LONG ? d->n_ctx_original : 0,
        .n_vocab = d->n_vocab,
        .piece_bytes_max = longest_piece(options->tokenizer),
    };
    served->n_stop_tokens = (uint32_t)options->n_stop_tokens;
    for (uint32_t i = 0; i < served->n_stop_tokens; i++) {
        served->stop_tokens[i] = options->stop_tokens[i];
    }
}

void phi_served_destroy(phi_served *served)
{
    for (uint32_t i = 0; i < served->n_scratches; i++) {
        phi_sampler_scratch_done(&served->scratches[i]);
    }
    phi_free(served->scratches);
    phi_free(served->order);
    phi_free(served->jobs);
    phi_free(served->parts);
    phi_free(served->views);
    phi_free(served->rows);
    phi_free(served->running);
    phi_free(served->known);
    phi_forward_ctx_destroy(served->forward);
    phi_kv_pool_done(&served->pool);
    phi_free(served);
}

static phi_status allocate_step(phi_served *served, phi_err *err)
{
    const phi_scheduler_options *options = &served->scheduler->options;
    uint32_t running_max = options->running_max;
    uint32_t n_workers = phi_team_size(options->compute.team);
    served->running = phi_alloc_zero(running_max, sizeof *served->running);
    served->order = phi_alloc_zero(running_max, sizeof *served->order);
    served->views = phi_alloc_zero(running_max, sizeof *served->views);
    served->parts = phi_alloc_zero(running_max, sizeof *served->parts);
    served->rows = phi_alloc_zero(options->batch_tokens, sizeof *served->rows);
    served->jobs = phi_alloc_zero(served->n_jobs_max, sizeof *served->jobs);
    served->scratches = phi_alloc_zero(n_workers, sizeof *served->scratches);
    while (served->n_scratches < n_workers) {
        phi_status status = phi_sampler_scratch_init(&served->scratches[served->n_scratches],
                                                     served->model.n_vocab, err);
        if (status) {
            return status;
        }
        served->n_scratches++;
    }
    served->known = phi_try_alloc_zero(served->model.n_vocab, 1);
    if (!served->known) {
        return phi_fail(err, PHI_E_NO_MEMORY, "no memory for a vocabulary of %" PRIu32 " tokens",
                        served->model.n_vocab);
    }
    for (uint32_t id = 0; id < served->model.n_vocab; id++) {
        served->known[id] = phi_tokenizer_is_known(served->model.tokenizer, (int32_t)id);
    }
    return PHI_OK;
}

uint32_t phi_served_logits_rows(uint32_t running_max, uint32_t batch_tokens)
{
    uint32_t rows = running_max + PROMPT_LOGITS_MIN;
    return rows < batch_tokens ? rows : batch_tokens;
}

phi_status phi_served_add(phi_scheduler *scheduler, const phi_served_options *options,
                          phi_served **out_served, phi_err *err)
{
    const phi_description *d = &options->weights->description;
    if (options->n_stop_tokens > PHI_LIMIT_STOP_TOKENS) {
        return phi_fail(err, PHI_E_LIMIT, "the model has %zu stop tokens; at most %u are allowed",
                        options->n_stop_tokens, PHI_LIMIT_STOP_TOKENS);
    }
    phi_served *served = phi_alloc_zero(1, sizeof *served);
    served->scheduler = scheduler;
    describe(served, options);
    served->n_jobs_max =
        phi_served_logits_rows(scheduler->options.running_max, scheduler->options.batch_tokens);
    phi_status status = allocate_step(served, err);
    if (!status) {
        status = phi_kv_pool_init(&served->pool, served->n_pages,
                                  phi_kv_page_bytes(d, options->kv_type), err);
    }
    if (!status) {
        const phi_forward_sizes sizes = {
            .kv_type = options->kv_type,
            .n_tok_max = scheduler->options.batch_tokens,
            .n_logits_max = served->n_jobs_max,
            .n_threads = phi_team_size(scheduler->options.compute.team),
        };
        status = phi_forward_ctx_create(d, &sizes, &served->forward, err);
    }
    if (status) {
        phi_served_destroy(served);
        return status;
    }
    pthread_mutex_lock(&scheduler->lock);
    served->next = scheduler->incoming_served;
    scheduler->incoming_served = served;
    scheduler->stats.kv_pages_total += served->n_pages;
    pthread_mutex_unlock(&scheduler->lock);
    phi_scheduler_nudge(scheduler, PHI_MAIL_NEW);
    *out_served = served;
    return PHI_OK;
}

uint32_t phi_served_n_ctx(const phi_served *served)
{
    return served->model.n_ctx;
}

void phi_served_drain(phi_served *served)
{
    phi_scheduler *scheduler = served->scheduler;
    PHI_ASSERT_ROLE(PHI_ROLE_JOB | PHI_ROLE_LOOP);
    pthread_mutex_lock(&scheduler->lock);
    served->closing = true;
    while (served->n_live > 0) {
        pthread_cond_wait(&scheduler->seq_ended, &scheduler->lock);
    }
    pthread_mutex_unlock(&scheduler->lock);
}

void phi_served_remove(phi_served *served)
{
    if (!served) {
        return;
    }
    phi_scheduler *scheduler = served->scheduler;
    PHI_ASSERT_ROLE(PHI_ROLE_JOB | PHI_ROLE_LOOP);
    pthread_mutex_lock(&scheduler->lock);
    served->closing = true;
    served->removing = true;
    scheduler->mail |= PHI_MAIL_REMOVE;
    pthread_cond_signal(&scheduler->mail_came);
    while (!served->gone) {
        pthread_cond_wait(&scheduler->seq_ended, &scheduler->lock);
    }
    scheduler->stats.kv_pages_total -= served->n_pages;
    pthread_mutex_unlock(&scheduler->lock);
    phi_served_destroy(served);
}
