/* What the runtime's tests share: a scheduler over the fake model, and reading answers. */
#ifndef TESTS_RUNTIME_HARNESS_H
#define TESTS_RUNTIME_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/runtime/scheduler.h"
#include "fake_model.h"

enum { ANSWER_MAX = 4096, TEXT_MAX = 1 << 16 };

typedef struct bench {
    phi_scheduler *scheduler;
    phi_served *served;
} bench;

typedef struct bench_options {
    uint32_t running_max;
    uint32_t waiting_max;
    uint32_t batch_tokens;
    uint32_t kv_tokens;
} bench_options;

/* Zero fields: 8 running, 64 waiting, 64 rows, 64k tokens of cache. */
void bench_start(bench *b, const bench_options *options);
void bench_stop(bench *b);

typedef struct answer {
    int32_t tokens[ANSWER_MAX];
    float logprobs[ANSWER_MAX];
    uint32_t n_tokens;
    uint32_t n_prompt_events;
    char text[TEXT_MAX];
    size_t text_bytes;
    phi_generation_event end;
    uint32_t n_ends;
} answer;

/* Greedy, 32 tokens, no logprobs. */
phi_generation_options ask(const int32_t *prompt, size_t n_prompt);
phi_generation *submit(bench *b, const phi_generation_options *options);
/* Takes what there is; true once the terminal event has come. */
bool read_some(phi_generation *generation, answer *out_answer);
/* Waits for the end, and releases. */
void read_all(phi_generation *generation, answer *out_answer);
/* Waits until the engine has told something new, or a tenth of a second has passed. */
void wait_for_news(void);

/* A prompt of n tokens that depends on `salt`; without FAKE_EOS. */
void make_prompt(uint32_t salt, int32_t *out, uint32_t n);
/* Greedy by definition; stops after FAKE_EOS, which is not included. Returns how many. */
uint32_t expect_greedy(const int32_t *prompt, uint32_t n_prompt, uint32_t n_new_max, int32_t *out);

#endif
