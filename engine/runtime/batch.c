/*
 * One step of one model: choose rows, compute, tell.
 * 1. Parts are in order of age; a part's rows are contiguous and in order of position.
 * 2. A sequence in the batch is never preempted in the same step: room is made at the cost of
 *    younger ones, which come later, or of paused ones, which have no rows.
 * 3. A part's rows are all of the prompt or none.
 * 4. A part has room in its ring for every event that its rows can cause.
 */
#include "engine/runtime/core.h"

#include "base/assert.h"
#include "base/clock.h"

#include <inttypes.h>
#include <math.h>

/* ---- choosing rows ---- */

static bool tells_prompt(const phi_generation *seq)
{
    return seq->prompt_logprobs && seq->n_prompt_events < seq->n_prompt;
}

/* Rows that the ring has room for; 0 pauses the sequence. */
static uint32_t rows_by_ring(phi_generation *seq)
{
    if (phi_seq_is_paused(seq)) {
        return 0;
    }
    /* The first prompt token's event comes with the row that tells the second. */
    uint32_t extra = tells_prompt(seq) && seq->n_prompt_events == 0;
    uint32_t room;
    seq->paused = false;
    while ((room = phi_event_ring_room(&seq->ring)) <= extra) {
        if (phi_event_ring_starve(&seq->ring)) {
            seq->paused = true;
            /* Its place may now go to one that waits. */
            seq->served->scheduler->look_again = true;
            return 0;
        }
        /* Half of the ring has become free meanwhile. */
    }
    return tells_prompt(seq) ? room - extra : UINT32_MAX;
}

static void tell_prompt_token(phi_generation *seq, const phi_batch_job *job)
{
    uint32_t index = seq->n_prompt_events++;
    phi_event event = {.kind = PHI_GENERATION_PROMPT_TOKEN, .token = seq->tokens[index]};
    phi_buf_clear(&seq->prompt_text);
    phi_status status =
        phi_detokenizer_push(&seq->prompt_detokenizer, event.token, &seq->prompt_text);
    if (!status && seq->n_prompt_events == seq->n_prompt) {
        status = phi_detokenizer_finish(&seq->prompt_detokenizer, &seq->prompt_text);
    }
    PHI_ASSERT(!status);
    event.text = phi_buf_text(&seq->prompt_text);
    event.text_bytes = seq->prompt_text.length_bytes;
    if (job) {
        event.has_logprob = true;
        event.logprob = job->logprob;
        event.top = job->top;
        event.n_top = job->n_top;
    }
    phi_event_ring_push(&seq->ring, &event);
    seq->served->scheduler->wake_due = true;
}

/* Of `wanted` rows, those whose positions have pages; makes room for one at least if it can. */
static uint32_t rows_by_pages(phi_served *served, phi_generation *seq, uint32_t wanted)
{
    phi_kv_table_pass(&seq->kv, &served->pool, seq->n_done, served->window);
    uint32_t covered = phi_kv_table_cover(&seq->kv, &served->pool, seq->n_done + wanted);
    if (covered <= seq->n_done && phi_served_make_room(served, seq)) {
        covered = phi_kv_table_cover(&seq->kv, &served->pool, seq->n_done + wanted);
    }
    if (covered <= seq->n_done) {
        return 0;
    }
    return covered - seq->n_done < wanted ? covered - seq->n_done : wanted;
}

/* What the logits after `position` are needed for: -1 nothing, 0 a prompt token, 1 sampling. */
static int use_of_row(const phi_generation *seq, uint32_t position)
{
    if (position + 1 == seq->n_tokens) {
        return seq->n_new_max ? 1 : -1;
    }
    bool tell =
        tells_prompt(seq) && position + 1 < seq->n_prompt && position + 1 >= seq->n_prompt_events;
    return tell ? 0 : -1;
}

static void add_part(phi_served *served, phi_generation *seq, uint32_t n_rows)
{
    phi_batch_part *part = &served->parts[served->n_parts];
    *part = (phi_batch_part){.seq = seq, .n_rows = n_rows, .first_job = served->n_jobs};
    for (uint32_t i = 0; i < n_rows; i++) {
        uint32_t position = seq->n_done + i;
        int use = use_of_row(seq, position);
        served->rows[served->n_rows++] = (phi_row){
            .token = seq->tokens[position],
            .position = position,
            .seq = served->n_parts,
            .is_prompt = position < seq->n_prompt,
            .want_logits = use >= 0,
        };
        if (use >= 0) {
            phi_batch_job *job = &served->jobs[served->n_jobs++];
            job->seq = seq;
            job->sample = use == 1;
            job->token = use == 1 ? -1 : seq->tokens[position + 1];
        }
    }
    part->n_jobs = served->n_jobs - part->first_job;
    served->views[served->n_parts] =
        (phi_kv_view){.pages = seq->kv.pages, .rope_long = seq->rope_long};
    served->n_parts++;
}

/* Rows of one sequence, at most `n_left`; returns how many were added. */
static uint32_t plan_one(phi_served *served, phi_generation *seq, uint32_t n_left)
{
    uint32_t wanted = phi_seq_target(seq) - seq->n_done;
    uint32_t by_ring = rows_by_ring(seq);
    if (by_ring == 0) {
        return 0;
    }
    if (wanted == 0) {
        /* A prompt of one token that is only to be told needs no computing. */
        tell_prompt_token(seq, NULL);
        phi_served_end(served, seq, PHI_FINISH_LENGTH, NULL);
        return 0;
    }
    if (seq->n_done < seq->n_prompt && wanted > seq->n_prompt - seq->n_done) {
        /* What was generated is computed again in a step of its own. */
        wanted = seq->n_prompt - seq->n_done;
    }
    wanted = wanted < n_left ? wanted : n_left;
    if (by_ring != UINT32_MAX) {
        /* Each sequence still to come may sample; what is left of the logits is for this one. */
        uint32_t to_come = served->n_running - served->n_parts - 1;
        uint32_t spare = served->n_jobs_max - served->n_jobs - to_come;
        uint32_t most = by_ring < spare ? by_ring : spare;
        wanted = wanted < most ? wanted : most;
    }
    uint32_t n_rows = wanted ? rows_by_pages(served, seq, wanted) : 0;
    if (n_rows) {
        add_part(served, seq, n_rows);
    }
    return n_rows;
}

static bool is_decoding(const phi_generation *seq)
{
    return phi_seq_target(seq) - seq->n_done == 1;
}

static void plan(phi_served *served)
{
    uint32_t n_order = served->n_running;
    uint32_t n_decoding = 0;
    served->n_rows = 0;
    served->n_parts = 0;
    served->n_jobs = 0;
    for (uint32_t i = 0; i < n_order; i++) {
        served->order[i] = served->running[i];
        n_decoding += is_decoding(served->order[i]);
    }
    uint32_t n_left = served->scheduler->options.batch_tokens - n_decoding;
    /* Planning one may end that one, and preempt, but never end, others further on. */
    for (uint32_t i = 0; i < n_order; i++) {
        phi_generation *seq = served->order[i];
        if (seq->state != PHI_SEQ_RUNNING) {
            continue;
        }
        if (is_decoding(seq)) {
            (void)plan_one(served, seq, 1);
        } else if (n_left > 0) {
            n_left -= plan_one(served, seq, n_left);
        }
    }
}

/* ---- computing ---- */

static void run_jobs(void *arg, size_t begin, size_t end, unsigned worker)
{
    phi_served *served = arg;
    PHI_ASSERT(worker < served->n_scratches);
    for (size_t i = begin; i < end; i++) {
        phi_batch_job *job = &served->jobs[i];
        const phi_generation *seq = job->seq;
        const phi_logits logits = {
            .kernels = served->scheduler->options.compute.kernels,
            .values = served->logits + i * served->model.n_vocab,
            .known = served->known,
            .n_vocab = served->model.n_vocab,
        };
        job->status = PHI_OK;
        if (job->sample) {
            job->status = phi_sampler_pick(&seq->sampler, &served->scratches[worker], &logits,
                                           seq->n_tokens - seq->n_prompt, &job->token, &job->error);
        }
        job->n_top = 0;
        if (!job->status && (seq->n_top >= 0 || !job->sample)) {
            uint32_t n_top = seq->n_top > 0 ? (uint32_t)seq->n_top : 0;
            job->n_top = phi_logprobs(&logits, job->token, n_top, &job->logprob, job->top);
            if (isnan(job->logprob)) {
                job->status = phi_fail(&job->error, PHI_E_INTERNAL,
                                       "the model's output is not a number (NaN): its weights are "
                                       "damaged or out of range");
            }
        }
    }
}

/* ---- telling ---- */

static bool is_stop_token(const phi_served *served, int32_t token)
{
    for (uint32_t i = 0; i < served->n_stop_tokens; i++) {
        if (served->stop_tokens[i] == token) {
            return true;
        }
    }
    return false;
}

static void fail(phi_served *served, phi_generation *seq, const phi_batch_job *job)
{
    phi_err error = job->error;
    (void)phi_fail_context(&error, error.code, "token %" PRIu32 " of the %s",
                           job->sample ? seq->n_tokens - seq->n_prompt + 1
                                       : seq->n_prompt_events + 1,
                           job->sample ? "answer" : "prompt");
    phi_served_end(served, seq, PHI_FINISH_STOP, &error);
}

/* LongRoPE: beyond the original context every key is rotated by the long factors, so the keys and
 * values so far are computed anew before the next token. */
static void cross_to_long(phi_served *served, phi_generation *seq)
{
    uint32_t original = served->model.n_ctx_original;
    if (original && !seq->rope_long && seq->n_tokens > original) {
        seq->rope_long = true;
        seq->n_done = 0;
        phi_kv_table_drop(&seq->kv, &served->pool);
    }
}

static void tell_sampled(phi_served *served, phi_generation *seq, const phi_batch_job *job)
{
    if (!seq->first_token_ns) {
        seq->first_token_ns = phi_clock_ns();
    }
    if (!seq->ignore_eos && is_stop_token(served, job->token)) {
        phi_served_end(served, seq, PHI_FINISH_STOP, NULL);
        return;
    }
    seq->tokens[seq->n_tokens++] = job->token;
    phi_sampler_see(&seq->sampler, job->token, true);
    served->scheduler->fresh.generated_tokens++;
    phi_event event = {
        .kind = PHI_GENERATION_TOKEN,
        .token = job->token,
        .has_logprob = seq->n_top >= 0,
        .logprob = seq->n_top >= 0 ? job->logprob : 0.0F,
        .top = job->top,
        .n_top = seq->n_top >= 0 ? job->n_top : 0,
    };
    phi_status status = phi_emitter_push(&seq->emitter, job->token, &event.text, &event.text_bytes);
    PHI_ASSERT(!status);
    phi_event_ring_push(&seq->ring, &event);
    served->scheduler->wake_due = true;
    if (seq->emitter.stopped) {
        phi_served_end(served, seq, PHI_FINISH_STOP, NULL);
    } else if (seq->n_tokens == seq->n_prompt + seq->n_new_max) {
        phi_served_end(served, seq, PHI_FINISH_LENGTH, NULL);
    } else {
        cross_to_long(served, seq);
    }
}

static void tell_part(phi_served *served, const phi_batch_part *part)
{
    phi_generation *seq = part->seq;
    seq->n_done += part->n_rows;
    uint32_t n_prompt_done = seq->n_done < seq->n_prompt ? seq->n_done : seq->n_prompt;
    if (n_prompt_done > seq->n_counted) {
        served->scheduler->fresh.prompt_tokens += n_prompt_done - seq->n_counted;
        seq->n_counted = n_prompt_done;
    }
    if (tells_prompt(seq) && seq->n_prompt_events == 0) {
        tell_prompt_token(seq, NULL);
    }
    for (uint32_t i = 0; i < part->n_jobs; i++) {
        const phi_batch_job *job = &served->jobs[part->first_job + i];
        if (job->status) {
            fail(served, seq, job);
            return;
        }
        if (job->sample) {
            /* The last of the part: the sequence may be gone afterwards. */
            tell_sampled(served, seq, job);
            return;
        }
        tell_prompt_token(seq, job);
    }
    if (seq->n_new_max == 0 && seq->n_done == phi_seq_target(seq)) {
        phi_served_end(served, seq, PHI_FINISH_LENGTH, NULL);
    }
}

bool phi_batch_step(phi_served *served)
{
    phi_scheduler *scheduler = served->scheduler;
    const phi_compute *compute = &scheduler->options.compute;
    phi_served_admit(served);
    plan(served);
    if (served->n_rows == 0) {
        return false;
    }
    uint64_t begin_ns = phi_clock_ns();
    served->logits = phi_forward(served->forward, compute, served->weights, served->rows,
                                 served->n_rows, served->views);
    if (served->n_jobs) {
        phi_team_run(compute->team, compute->priority, served->n_jobs, 1, run_jobs, served);
    }
    scheduler->fresh.steps++;
    scheduler->fresh.step_rows += served->n_rows;
    scheduler->fresh.busy_ns += phi_clock_ns() - begin_ns;
    for (uint32_t i = 0; i < served->n_parts; i++) {
        tell_part(served, &served->parts[i]);
    }
    return true;
}
