#include "engine/runtime/sequence.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/mem.h"
#include "engine/runtime/core.h"

#include <inttypes.h>
#include <string.h>

/* ---- creation ---- */

static phi_status check_options(const phi_seq_model *model, const phi_generation_options *options,
                                phi_err *err)
{
    if (options->n_prompt == 0) {
        return phi_fail_param(err, PHI_E_INVALID, "prompt", "the prompt has no tokens");
    }
    if (options->n_prompt > model->n_ctx) {
        return phi_fail_param(err, PHI_E_INVALID, "prompt",
                              "the prompt has %zu tokens; the model's context holds %" PRIu32,
                              options->n_prompt, model->n_ctx);
    }
    for (size_t i = 0; i < options->n_prompt; i++) {
        if (options->prompt[i] < 0 || (uint32_t)options->prompt[i] >= model->n_vocab) {
            return phi_fail_param(err, PHI_E_INVALID, "prompt",
                                  "token %zu of the prompt is %" PRId32
                                  "; the model's tokens are 0 to %" PRIu32,
                                  i + 1, options->prompt[i], model->n_vocab - 1);
        }
    }
    if (options->top_logprobs < -1 || options->top_logprobs > (int)PHI_LIMIT_TOP_LOGPROBS) {
        return phi_fail_param(err, PHI_E_INVALID, "top_logprobs",
                              "top_logprobs must be 0 to %u, not %d", PHI_LIMIT_TOP_LOGPROBS,
                              options->top_logprobs);
    }
    return phi_sampling_check(&options->sampling, model->n_vocab, err);
}

static phi_status init_parts(phi_generation *seq, const phi_seq_model *model,
                             const phi_generation_options *options, phi_err *err)
{
    uint32_t n_tokens_max = seq->n_prompt + seq->n_new_max;
    uint64_t n_events = (uint64_t)(options->prompt_logprobs ? seq->n_prompt : 0) + seq->n_new_max;
    uint32_t n_top = seq->n_top > 0 ? (uint32_t)seq->n_top : 0;
    phi_status status = phi_kv_table_init(&seq->kv, n_tokens_max, err);
    if (!status) {
        status = phi_sampler_init(&seq->sampler, &options->sampling, n_tokens_max, err);
    }
    if (!status) {
        status =
            phi_emitter_init(&seq->emitter, model->tokenizer, options, model->piece_bytes_max, err);
    }
    if (!status) {
        status = phi_event_ring_init(&seq->ring, n_events, n_top,
                                     phi_emitter_text_max(model->piece_bytes_max), err);
    }
    if (!status && options->prompt_logprobs &&
        phi_emitter_buf_init(&seq->prompt_text, phi_emitter_text_max(model->piece_bytes_max))) {
        status = phi_fail(err, PHI_E_NO_MEMORY, "no memory for the text of a prompt");
    }
    return status;
}

static void destroy(phi_generation *seq)
{
    phi_free(seq->tokens);
    phi_kv_table_done(&seq->kv);
    phi_sampler_done(&seq->sampler);
    phi_emitter_done(&seq->emitter);
    phi_buf_done(&seq->prompt_text);
    phi_event_ring_done(&seq->ring);
    phi_free(seq);
}

phi_status phi_seq_create(const phi_seq_model *model, const phi_generation_options *options,
                          phi_generation **out_seq, phi_err *err)
{
    phi_status status = check_options(model, options, err);
    if (status) {
        return status;
    }
    phi_generation *seq = phi_try_alloc_zero(1, sizeof *seq);
    if (!seq) {
        return phi_fail(err, PHI_E_NO_MEMORY, "no memory for a sequence");
    }
    atomic_init(&seq->refs, 2);
    seq->user = options->user;
    seq->client = options->client;
    seq->n_prompt = (uint32_t)options->n_prompt;
    seq->n_tokens = seq->n_prompt;
    uint32_t n_left = model->n_ctx - seq->n_prompt;
    seq->n_new_max = options->max_tokens < n_left ? options->max_tokens : n_left;
    seq->rope_long = model->n_ctx_original && seq->n_tokens > model->n_ctx_original;
    seq->n_top = options->top_logprobs;
    seq->prompt_logprobs = options->prompt_logprobs;
    seq->ignore_eos = options->ignore_eos;
    seq->submit_ns = phi_clock_ns();
    seq->tokens = phi_try_alloc(((size_t)seq->n_prompt + seq->n_new_max) * sizeof *seq->tokens);
    if (!seq->tokens) {
        status = phi_fail(err, PHI_E_NO_MEMORY, "no memory for the tokens of a sequence");
        goto fail;
    }
    memcpy(seq->tokens, options->prompt, seq->n_prompt * sizeof *seq->tokens);
    status = init_parts(seq, model, options, err);
    if (status) {
        goto fail;
    }
    for (uint32_t i = 0; i < seq->n_prompt; i++) {
        phi_sampler_see(&seq->sampler, seq->tokens[i], false);
    }
    /* A prompt's tokens are told as they stand in it, control tokens too. */
    phi_detokenizer_init(&seq->prompt_detokenizer, model->tokenizer, false, false);
    *out_seq = seq;
    return PHI_OK;
fail:
    destroy(seq);
    return status;
}

void phi_seq_unref(phi_generation *seq)
{
    /* acq_rel: the last one sees all that the other did before it let go. */
    if (atomic_fetch_sub_explicit(&seq->refs, 1, memory_order_acq_rel) == 1) {
        destroy(seq);
    }
}

/* ---- the end ---- */

static double ms_between(uint64_t from_ns, uint64_t to_ns)
{
    return from_ns && to_ns > from_ns ? (double)(to_ns - from_ns) / 1e6 : 0.0;
}

void phi_seq_finish(phi_generation *seq, phi_finish_reason reason, const phi_err *error)
{
    phi_generation_event *event = &seq->terminal;
    uint64_t now = phi_clock_ns();
    uint64_t admitted = seq->admit_ns ? seq->admit_ns : now;
    uint64_t first = seq->first_token_ns ? seq->first_token_ns : now;
    seq->state = PHI_SEQ_ENDED;
    event->kind = error ? PHI_GENERATION_FAILED : PHI_GENERATION_DONE;
    event->text = "";
    event->finish = reason;
    if (error) {
        event->error = *error;
    } else if (reason != PHI_FINISH_CANCELLED) {
        if (phi_emitter_finish(&seq->emitter, &event->text, &event->text_bytes)) {
            /* Only a full buffer could fail, and its size covers the worst case. */
            PHI_UNREACHABLE();
        }
        if (seq->emitter.stopped) {
            event->finish = PHI_FINISH_STOP;
        }
    }
    event->prompt_tokens = seq->n_prompt;
    event->completion_tokens = seq->n_tokens - seq->n_prompt;
    event->queue_ms = ms_between(seq->submit_ns, admitted);
    event->prompt_ms = ms_between(admitted, first);
    event->decode_ms = ms_between(first, now);
    atomic_store_explicit(&seq->terminal_ready, true, memory_order_release);
}

/* ---- the consumer's side ---- */

bool phi_generation_next(phi_generation *seq, phi_generation_event *out_event)
{
    /* Looked at before the ring: what was pushed before the terminal event is seen first. */
    bool ended = atomic_load_explicit(&seq->terminal_ready, memory_order_acquire);
    bool nudge;
    if (phi_event_ring_pop(&seq->ring, out_event, &nudge)) {
        if (nudge) {
            phi_scheduler_nudge(seq->scheduler, PHI_MAIL_DRAINED);
        }
        return true;
    }
    if (!ended || seq->terminal_taken) {
        return false;
    }
    seq->terminal_taken = true;
    *out_event = seq->terminal;
    return true;
}

void phi_generation_cancel(phi_generation *seq)
{
    if (!atomic_load_explicit(&seq->terminal_ready, memory_order_acquire)) {
        atomic_store(&seq->cancelled, true);
        phi_scheduler_nudge(seq->scheduler, PHI_MAIL_CANCEL);
    }
}

void phi_generation_release(phi_generation *seq)
{
    if (seq) {
        phi_generation_cancel(seq);
        phi_seq_unref(seq);
    }
}

void *phi_generation_user(const phi_generation *seq)
{
    return seq->user;
}
