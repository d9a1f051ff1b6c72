#include "harness.h"

#include "base/assert.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

static pthread_mutex_t news_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t news_came = PTHREAD_COND_INITIALIZER;
static unsigned long news;

static void wake(void *user)
{
    (void)user;
    pthread_mutex_lock(&news_lock);
    news++;
    pthread_cond_broadcast(&news_came);
    pthread_mutex_unlock(&news_lock);
}

void wait_for_news(void)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 100000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&news_lock);
    unsigned long seen = news;
    while (news == seen) {
        if (pthread_cond_timedwait(&news_came, &news_lock, &until) == ETIMEDOUT) {
            break;
        }
    }
    pthread_mutex_unlock(&news_lock);
}

void bench_start(bench *b, const bench_options *options)
{
    static const int32_t stops[] = {FAKE_EOS};
    phi_scheduler_options scheduling = {
        .running_max = options->running_max ? options->running_max : 8,
        .waiting_max = options->waiting_max ? options->waiting_max : 64,
        .batch_tokens = options->batch_tokens ? options->batch_tokens : 64,
        .wake = wake,
    };
    assert_true(phi_kernels_available(&scheduling.compute.kernels, 1) == 1);
    phi_served_options serving = {
        .weights = &fake_weights,
        .tokenizer = fake_tokenizer(),
        .stop_tokens = stops,
        .n_stop_tokens = 1,
        .kv_tokens = options->kv_tokens ? options->kv_tokens : 65536,
        .n_ctx = fake.n_ctx,
    };
    fake_describe();
    assert_int_equal(phi_scheduler_create(&scheduling, &b->scheduler, NULL), PHI_OK);
    assert_int_equal(phi_served_add(b->scheduler, &serving, &b->served, NULL), PHI_OK);
}

void bench_stop(bench *b)
{
    phi_served_remove(b->served);
    phi_scheduler_destroy(b->scheduler);
}

phi_generation_options ask(const int32_t *prompt, size_t n_prompt)
{
    phi_generation_options options = {
        .prompt = prompt,
        .n_prompt = n_prompt,
        .max_tokens = 32,
        .top_logprobs = -1,
    };
    phi_sampling_defaults(&options.sampling);
    options.sampling.temperature = 0.0F;
    return options;
}

phi_generation *submit(bench *b, const phi_generation_options *options)
{
    phi_generation *generation = NULL;
    phi_err err = {0};
    phi_status status = phi_scheduler_submit(b->scheduler, b->served, options, &generation, &err);
    assert_string_equal(err.message, "");
    assert_int_equal(status, PHI_OK);
    return generation;
}

bool read_some(phi_generation *generation, answer *a)
{
    phi_generation_event event;
    while (phi_generation_next(generation, &event)) {
        assert_int_equal(a->n_ends, 0);
        assert_true(a->text_bytes + event.text_bytes < TEXT_MAX);
        if (event.kind == PHI_GENERATION_PROMPT_TOKEN) {
            a->logprobs[a->n_prompt_events] = event.logprob;
            assert_int_equal(event.has_logprob, a->n_prompt_events > 0);
            a->tokens[a->n_prompt_events++] = event.token;
            continue;
        }
        memcpy(a->text + a->text_bytes, event.text, event.text_bytes);
        a->text_bytes += event.text_bytes;
        a->text[a->text_bytes] = '\0';
        if (event.kind == PHI_GENERATION_TOKEN) {
            a->logprobs[a->n_prompt_events + a->n_tokens] = event.logprob;
            a->tokens[a->n_prompt_events + a->n_tokens++] = event.token;
        } else {
            a->end = event;
            a->n_ends++;
        }
    }
    return a->n_ends > 0;
}

void read_all(phi_generation *generation, answer *a)
{
    memset(a, 0, sizeof *a);
    while (!read_some(generation, a)) {
        wait_for_news();
    }
    phi_generation_release(generation);
}

void make_prompt(uint32_t salt, int32_t *out, uint32_t n)
{
    uint32_t x = salt * 2654435761U + 12345;
    for (uint32_t i = 0; i < n; i++) {
        x = x * 1664525U + 1013904223U;
        out[i] = (int32_t)(2 + (x >> 16) % (FAKE_KNOWN - 2));
    }
}

uint32_t expect_greedy(const int32_t *prompt, uint32_t n_prompt, uint32_t n_new_max, int32_t *out)
{
    static int32_t tokens[2 * ANSWER_MAX];
    PHI_ASSERT(n_prompt + n_new_max <= 2 * ANSWER_MAX);
    memcpy(tokens, prompt, n_prompt * sizeof *tokens);
    for (uint32_t i = 0; i < n_new_max; i++) {
        int32_t next = fake_next(tokens, n_prompt + i);
        if (next == FAKE_EOS) {
            return i;
        }
        tokens[n_prompt + i] = out[i] = next;
    }
    return n_new_max;
}
