/*
 * What a caller of a generation may rely on: how it ends, what it is told, that a slow reader, a
 * cancel or a full queue hurts nobody else.
 */
#include "harness.h"

#include "base/mem.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

static int reset(void **state)
{
    (void)state;
    fake_reset();
    return 0;
}

static const int32_t no_script[1];
static answer one;
static answer two;
static int32_t prompt[2048];

/* Nothing ends by chance. */
static void endless(void)
{
    fake.script = no_script;
    fake.n_script = 0;
}

/* ---- how it ends ---- */

/* "h", "e", ... as token ids of the fake tokenizer. */
static int32_t letter(char c)
{
    return 2 + (c - 'a');
}

static void spell(const char *text, int32_t *script)
{
    /* The answer to a prompt of one token starts at position 0. */
    for (uint32_t i = 0; text[i]; i++) {
        script[i] = text[i] == '.' ? FAKE_EOS : letter(text[i]);
    }
    fake.script = script;
    fake.n_script = (uint32_t)strlen(text);
}

static void test_stop_token(void **state)
{
    (void)state;
    int32_t script[16];
    bench b;
    spell("abc.def", script);
    bench_start(&b, &(bench_options){0});
    make_prompt(1, prompt, 1);
    phi_generation_options o = ask(prompt, 1);
    o.max_tokens = 6;
    read_all(submit(&b, &o), &one);
    assert_string_equal(one.text, "abc");
    assert_int_equal(one.end.finish, PHI_FINISH_STOP);
    assert_int_equal(one.end.completion_tokens, 3);
    o.ignore_eos = true;
    read_all(submit(&b, &o), &one);
    assert_string_equal(one.text, "abcde");
    assert_int_equal(one.end.finish, PHI_FINISH_LENGTH);
    assert_int_equal(one.end.completion_tokens, 6);
    o.show_special = true;
    read_all(submit(&b, &o), &one);
    assert_string_equal(one.text, "abc<|end|>de");
    bench_stop(&b);
}

static void test_stop_strings_across_tokens(void **state)
{
    (void)state;
    static const struct {
        const char *answer;
        const char *stop[2];
        const char *text;
        uint32_t n_tokens;
        phi_finish_reason finish;
    } cases[] = {
        {"abcdefgh", {"de", NULL}, "abc", 5, PHI_FINISH_STOP},
        {"abcdefgh", {"a", NULL}, "", 1, PHI_FINISH_STOP},
        {"abcdefgh", {"xyz", NULL}, "abcdefgh", 8, PHI_FINISH_LENGTH},
        /* Held back at the end, and shown because nothing more comes. */
        {"abcdefgh", {"ghi", NULL}, "abcdefgh", 8, PHI_FINISH_LENGTH},
        {"abcgh...", {"ghi", NULL}, "abcgh", 5, PHI_FINISH_STOP},
        /* A beginning that goes wrong inside another beginning. */
        {"aabaabaac", {"aabaac", NULL}, "aab", 9, PHI_FINISH_STOP},
        /* The first complete one counts, though another began earlier. */
        {"abcdefgh", {"bcde", "cd"}, "ab", 4, PHI_FINISH_STOP},
        {"abcdefgh", {"cd", "bcd"}, "a", 4, PHI_FINISH_STOP},
    };
    make_prompt(1, prompt, 1);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int32_t script[16];
        bench b;
        fake_reset();
        spell(cases[i].answer, script);
        bench_start(&b, &(bench_options){0});
        phi_generation_options o = ask(prompt, 1);
        o.max_tokens = (uint32_t)strlen(cases[i].answer);
        o.stop[0] = cases[i].stop[0];
        o.stop[1] = cases[i].stop[1];
        o.n_stop = cases[i].stop[1] ? 2 : 1;
        read_all(submit(&b, &o), &one);
        assert_string_equal(one.text, cases[i].text);
        assert_int_equal(one.n_tokens, cases[i].n_tokens);
        assert_int_equal(one.end.finish, cases[i].finish);
        assert_int_equal(one.end.completion_tokens, cases[i].n_tokens);
        bench_stop(&b);
    }
}

static void test_length_and_context(void **state)
{
    (void)state;
    bench b;
    phi_err err;
    phi_generation *generation = NULL;
    endless();
    fake.n_ctx = 100;
    bench_start(&b, &(bench_options){0});
    make_prompt(1, prompt, 101);
    phi_generation_options o = ask(prompt, 90);
    o.max_tokens = 1000;
    read_all(submit(&b, &o), &one);
    assert_int_equal(one.end.finish, PHI_FINISH_LENGTH);
    assert_int_equal(one.n_tokens, 10);
    o.n_prompt = 100;
    read_all(submit(&b, &o), &one);
    assert_int_equal(one.end.finish, PHI_FINISH_LENGTH);
    assert_int_equal(one.n_tokens, 0);
    o.n_prompt = 101;
    assert_int_equal(phi_scheduler_submit(b.scheduler, b.served, &o, &generation, &err),
                     PHI_E_INVALID);
    assert_string_equal(err.param, "prompt");
    assert_non_null(strstr(err.message, "101"));
    assert_non_null(strstr(err.message, "100"));
    o.n_prompt = 5;
    o.max_tokens = 0;
    read_all(submit(&b, &o), &one);
    assert_int_equal(one.end.finish, PHI_FINISH_LENGTH);
    assert_int_equal(one.end.completion_tokens, 0);
    bench_stop(&b);
}

static void test_context_is_what_the_cache_holds(void **state)
{
    (void)state;
    bench b;
    phi_err err;
    phi_generation *generation = NULL;
    endless();
    bench_start(&b, &(bench_options){.kv_tokens = 64});
    assert_int_equal(phi_served_n_ctx(b.served), 64);
    make_prompt(1, prompt, 65);
    phi_generation_options o = ask(prompt, 65);
    assert_int_equal(phi_scheduler_submit(b.scheduler, b.served, &o, &generation, &err),
                     PHI_E_INVALID);
    o.n_prompt = 60;
    read_all(submit(&b, &o), &one);
    assert_int_equal(one.n_tokens, 4);
    bench_stop(&b);
}

static void refuse(bench *b, const phi_generation_options *o, const char *param)
{
    phi_err err;
    phi_generation *generation = NULL;
    assert_int_equal(phi_scheduler_submit(b->scheduler, b->served, o, &generation, &err),
                     PHI_E_INVALID);
    assert_string_equal(err.param, param);
    assert_null(generation);
}

static void test_bad_options_are_named(void **state)
{
    (void)state;
    static char long_stop[PHI_LIMIT_STOP_BYTES + 2];
    bench b;
    bench_start(&b, &(bench_options){0});
    make_prompt(1, prompt, 5);
    phi_generation_options o = ask(prompt, 0);
    refuse(&b, &o, "prompt");
    int32_t bad[] = {3, FAKE_VOCAB};
    o = ask(bad, 2);
    refuse(&b, &o, "prompt");
    bad[1] = -1;
    refuse(&b, &o, "prompt");
    o = ask(prompt, 5);
    o.sampling.temperature = 3.0F;
    refuse(&b, &o, "temperature");
    o = ask(prompt, 5);
    o.top_logprobs = 21;
    refuse(&b, &o, "top_logprobs");
    o = ask(prompt, 5);
    o.n_stop = 1;
    o.stop[0] = "";
    refuse(&b, &o, "stop");
    memset(long_stop, 'x', PHI_LIMIT_STOP_BYTES + 1);
    o.stop[0] = long_stop;
    refuse(&b, &o, "stop");
    o.stop[0] = "\xff";
    refuse(&b, &o, "stop");
    phi_scheduler_stats stats;
    phi_scheduler_stats_get(b.scheduler, &stats);
    assert_int_equal(stats.waiting, 0);
    bench_stop(&b);
}

static void test_nan_fails_one_sequence(void **state)
{
    (void)state;
    bench b;
    endless();
    fake.nan_at = 20;
    bench_start(&b, &(bench_options){0});
    make_prompt(1, prompt, 10);
    phi_generation_options o = ask(prompt, 10);
    phi_generation *bad = submit(&b, &o);
    o.max_tokens = 5;
    read_all(submit(&b, &o), &two);
    assert_int_equal(two.end.kind, PHI_GENERATION_DONE);
    read_all(bad, &one);
    assert_int_equal(one.end.kind, PHI_GENERATION_FAILED);
    assert_int_equal(one.end.error.code, PHI_E_INTERNAL);
    assert_non_null(strstr(one.end.error.message, "NaN"));
    assert_int_equal(one.n_tokens, 11);
    o = ask(prompt, 25);
    make_prompt(1, prompt, 25);
    o.prompt_logprobs = true;
    o.max_tokens = 0;
    read_all(submit(&b, &o), &one);
    assert_int_equal(one.end.kind, PHI_GENERATION_FAILED);
    assert_int_equal(one.n_prompt_events, 21);
    bench_stop(&b);
}

/* ---- log probabilities ---- */

static float logprob_by_definition(const int32_t *tokens, uint32_t n_tokens, int32_t token)
{
    float logits[FAKE_VOCAB];
    double sum = 0.0;
    fake_logits(tokens, n_tokens, logits);
    for (uint32_t v = 0; v < FAKE_VOCAB; v++) {
        sum += exp((double)logits[v]);
    }
    return (float)((double)logits[token] - log(sum));
}

static void test_prompt_logprobs(void **state)
{
    (void)state;
    bench b;
    endless();
    for (int round = 0; round < 2; round++) {
        /* The second time few pages make it start anew now and then. */
        bench_start(&b, &(bench_options){.kv_tokens = round ? 1100 : 0});
        make_prompt(7, prompt, 1000);
        phi_generation_options o = ask(prompt, 1000);
        o.prompt_logprobs = true;
        o.top_logprobs = 3;
        o.max_tokens = 5;
        phi_generation *first = submit(&b, &o);
        phi_generation *second = submit(&b, &o);
        read_all(first, &one);
        read_all(second, &two);
        assert_int_equal(one.n_prompt_events, 1000);
        assert_memory_equal(one.tokens, prompt, 1000 * sizeof *prompt);
        for (uint32_t i = 1; i < 1005; i++) {
            float want = logprob_by_definition(one.tokens, i, one.tokens[i]);
            assert_true(fabsf(want - one.logprobs[i]) < 1e-4F);
        }
        assert_memory_equal(one.tokens, two.tokens, 1005 * sizeof *one.tokens);
        bench_stop(&b);
    }
}

static void test_prompt_logprobs_alone(void **state)
{
    (void)state;
    bench b;
    endless();
    bench_start(&b, &(bench_options){0});
    make_prompt(7, prompt, 100);
    for (uint32_t n = 1; n <= 100; n += 33) {
        phi_generation_options o = ask(prompt, n);
        o.prompt_logprobs = true;
        o.max_tokens = 0;
        read_all(submit(&b, &o), &one);
        assert_int_equal(one.n_prompt_events, n);
        assert_int_equal(one.end.finish, PHI_FINISH_LENGTH);
        assert_int_equal(one.end.prompt_tokens, n);
    }
    phi_scheduler_stats stats;
    phi_scheduler_stats_get(b.scheduler, &stats);
    assert_int_equal(stats.prompt_tokens, 1 + 34 + 67 + 100);
    bench_stop(&b);
}

/* ---- slow readers ---- */

static void test_full_ring_pauses_one_sequence(void **state)
{
    (void)state;
    bench b;
    phi_scheduler_stats stats;
    endless();
    bench_start(&b, &(bench_options){0});
    make_prompt(1, prompt, 10);
    phi_generation_options o = ask(prompt, 10);
    o.max_tokens = 1000;
    phi_generation *slow = submit(&b, &o);
    make_prompt(2, prompt + 20, 10);
    o.prompt = prompt + 20;
    phi_generation *quick = submit(&b, &o);
    read_all(quick, &one);
    assert_int_equal(one.n_tokens, 1000);
    phi_scheduler_stats_get(b.scheduler, &stats);
    assert_int_equal(stats.running, 1);
    /* The slow one had room for as many events as a ring holds, and no more. */
    assert_in_range(stats.generated_tokens, 1001, 1000 + PHI_LIMIT_EVENTS_PENDING);
    read_all(slow, &two);
    assert_int_equal(two.n_tokens, 1000);
    int32_t expected[1000];
    make_prompt(1, prompt, 10);
    assert_int_equal(expect_greedy(prompt, 10, 1000, expected), 1000);
    assert_memory_equal(two.tokens, expected, sizeof expected);
    bench_stop(&b);
}

static void test_slow_readers_do_not_keep_others_out(void **state)
{
    (void)state;
    bench b;
    endless();
    bench_start(&b, &(bench_options){.running_max = 2, .kv_tokens = 640});
    make_prompt(1, prompt, 10);
    phi_generation_options o = ask(prompt, 10);
    o.max_tokens = 600;
    phi_generation *slow[2] = {submit(&b, &o), submit(&b, &o)};
    o.max_tokens = 300;
    for (int i = 0; i < 3; i++) {
        read_all(submit(&b, &o), &one);
        assert_int_equal(one.n_tokens, 300);
    }
    for (int i = 0; i < 2; i++) {
        read_all(slow[i], &two);
        assert_int_equal(two.n_tokens, 600);
        assert_memory_equal(two.tokens, one.tokens, 300 * sizeof(int32_t));
    }
    bench_stop(&b);
}

/* ---- cancel, release, remove ---- */

static void test_cancel_within_a_step(void **state)
{
    (void)state;
    bench b;
    endless();
    bench_start(&b, &(bench_options){.running_max = 1});
    make_prompt(1, prompt, 10);
    phi_generation_options o = ask(prompt, 10);
    o.max_tokens = 4000;
    fake_hold();
    phi_generation *running = submit(&b, &o);
    phi_generation *waiting = submit(&b, &o);
    fake_wait_at_gate();
    unsigned steps = atomic_load(&fake_steps);
    phi_generation_cancel(running);
    phi_generation_cancel(waiting);
    fake_let_go();
    read_all(running, &one);
    read_all(waiting, &two);
    assert_int_equal(one.end.finish, PHI_FINISH_CANCELLED);
    assert_int_equal(two.end.finish, PHI_FINISH_CANCELLED);
    assert_int_equal(one.n_ends, 1);
    /* The step at the gate, and none after it. */
    assert_int_equal(atomic_load(&fake_steps), steps + 1);
    bench_stop(&b);
}

static void test_cancel_a_paused_one_and_after_the_end(void **state)
{
    (void)state;
    bench b;
    endless();
    bench_start(&b, &(bench_options){0});
    make_prompt(1, prompt, 10);
    phi_generation_options o = ask(prompt, 10);
    o.max_tokens = 1000;
    phi_generation *paused = submit(&b, &o);
    o.max_tokens = 600;
    read_all(submit(&b, &o), &one);
    phi_generation_cancel(paused);
    phi_generation_cancel(paused);
    memset(&two, 0, sizeof two);
    while (!read_some(paused, &two)) {
        wait_for_news();
    }
    assert_int_equal(two.end.finish, PHI_FINISH_CANCELLED);
    assert_int_equal(two.n_tokens, PHI_LIMIT_EVENTS_PENDING);
    phi_generation_cancel(paused);
    phi_generation_event event;
    assert_false(phi_generation_next(paused, &event));
    phi_generation_release(paused);
    bench_stop(&b);
}

static void test_release_at_any_time(void **state)
{
    (void)state;
    phi_generation_event event;
    bench b;
    endless();
    bench_start(&b, &(bench_options){.running_max = 3});
    make_prompt(1, prompt, 200);
    for (uint32_t i = 0; i < 60; i++) {
        phi_generation_options o = ask(prompt, 1 + i * 3);
        o.max_tokens = i % 5;
        phi_generation *generation = submit(&b, &o);
        if (i % 3 == 0) {
            wait_for_news();
            (void)phi_generation_next(generation, &event);
        }
        phi_generation_release(generation);
    }
    bench_stop(&b);
}

static void test_destroy_cancels_what_lives(void **state)
{
    (void)state;
    bench b;
    endless();
    bench_start(&b, &(bench_options){.running_max = 2});
    make_prompt(1, prompt, 10);
    for (uint32_t i = 0; i < 5; i++) {
        phi_generation_options o = ask(prompt, 10);
        o.max_tokens = 4000;
        phi_generation_release(submit(&b, &o));
    }
    phi_scheduler_destroy(b.scheduler);
}

static void *remove_it(void *arg)
{
    phi_served_remove(arg);
    return NULL;
}

static void *drain_it(void *arg)
{
    phi_served_drain(arg);
    phi_served_remove(arg);
    return NULL;
}

static void test_remove_cancels_drain_waits(void **state)
{
    (void)state;
    for (int drain = 0; drain < 2; drain++) {
        bench b;
        pthread_t thread;
        phi_err err;
        phi_generation *more = NULL;
        endless();
        bench_start(&b, &(bench_options){0});
        make_prompt(1, prompt, 10);
        phi_generation_options o = ask(prompt, 10);
        o.max_tokens = 200;
        fake_hold();
        phi_generation *generation = submit(&b, &o);
        fake_wait_at_gate();
        pthread_create(&thread, NULL, drain ? drain_it : remove_it, b.served);
        phi_status status;
        while ((status = phi_scheduler_submit(b.scheduler, b.served, &o, &more, &err)) == PHI_OK) {
            phi_generation_release(more);
            wait_for_news();
        }
        assert_int_equal(status, PHI_E_STATE);
        fake_let_go();
        read_all(generation, &one);
        assert_int_equal(one.end.finish, drain ? PHI_FINISH_LENGTH : PHI_FINISH_CANCELLED);
        pthread_join(thread, NULL);
        phi_scheduler_destroy(b.scheduler);
    }
}

/* ---- the queue ---- */

static void test_queue_full_is_busy(void **state)
{
    (void)state;
    bench b;
    phi_err err;
    phi_generation *generations[5];
    phi_generation *refused = NULL;
    phi_scheduler_stats stats;
    endless();
    bench_start(&b, &(bench_options){.running_max = 2, .waiting_max = 3});
    make_prompt(1, prompt, 10);
    phi_generation_options o = ask(prompt, 10);
    fake_hold();
    for (int i = 0; i < 5; i++) {
        generations[i] = submit(&b, &o);
    }
    assert_int_equal(phi_scheduler_submit(b.scheduler, b.served, &o, &refused, &err), PHI_E_BUSY);
    assert_null(refused);
    fake_wait_at_gate();
    phi_scheduler_stats_get(b.scheduler, &stats);
    assert_int_equal(stats.running + stats.waiting, 5);
    fake_let_go();
    for (int i = 0; i < 5; i++) {
        read_all(generations[i], &one);
        assert_int_equal(one.n_tokens, 32);
    }
    generations[0] = submit(&b, &o);
    read_all(generations[0], &one);
    bench_stop(&b);
}

static void test_clients_take_turns(void **state)
{
    (void)state;
    static const uint64_t clients[] = {7, 7, 7, 7, 8, 8, 9, 7};
    static const int32_t order[] = {0, 1, 4, 6, 2, 5, 3, 7};
    enum { N = sizeof clients / sizeof clients[0] };
    phi_generation *generations[N];
    bench b;
    endless();
    bench_start(&b, &(bench_options){.running_max = 1});
    fake_hold();
    for (int i = 0; i < N; i++) {
        prompt[0] = 10 + i;
        phi_generation_options o = ask(prompt, 1);
        o.max_tokens = 1;
        o.client = clients[i];
        generations[i] = submit(&b, &o);
        if (i == 0) {
            fake_wait_at_gate();
        }
    }
    fake_let_go();
    for (int i = 0; i < N; i++) {
        read_all(generations[i], &one);
    }
    assert_int_equal(atomic_load(&fake_steps), N);
    for (int i = 0; i < N; i++) {
        assert_int_equal(fake_first_token[i], 10 + order[i]);
    }
    bench_stop(&b);
}

/* ---- all at once ---- */

enum { N_THREADS = 4, N_ROUNDS = 60 };

typedef struct crowd_member {
    bench *b;
    uint32_t number;
    uint32_t n_wrong;
} crowd_member;

/* Submits, reads in bursts, cancels and lets go; answers that end by themselves are checked. */
static void *take_part(void *arg)
{
    crowd_member *self = arg;
    for (uint32_t round = 0; round < N_ROUNDS; round++) {
        int32_t own_prompt[40];
        int32_t tokens[40 + 64];
        phi_generation *generation = NULL;
        phi_generation_event event = {.kind = PHI_GENERATION_TOKEN};
        uint32_t salt = self->number * 1000 + round;
        uint32_t n = 1 + salt % 40;
        make_prompt(salt, own_prompt, n);
        phi_generation_options o = ask(own_prompt, n);
        o.max_tokens = 1 + salt % 64;
        o.client = self->number;
        if (phi_scheduler_submit(self->b->scheduler, self->b->served, &o, &generation, NULL)) {
            continue;
        }
        memcpy(tokens, own_prompt, n * sizeof *tokens);
        while (event.kind == PHI_GENERATION_TOKEN) {
            if (!phi_generation_next(generation, &event)) {
                wait_for_news();
            } else if (event.kind == PHI_GENERATION_TOKEN) {
                self->n_wrong += event.token != fake_next(tokens, n);
                tokens[n++] = event.token;
            }
            if (salt % 7 == 0) {
                phi_generation_cancel(generation);
            }
            if (salt % 11 == 0) {
                break;
            }
        }
        phi_generation_release(generation);
    }
    return NULL;
}

static void test_a_crowd(void **state)
{
    (void)state;
    bench b;
    pthread_t threads[N_THREADS];
    crowd_member members[N_THREADS];
    phi_scheduler_stats stats;
    endless();
    fake.n_ctx_original = 50;
    bench_start(&b, &(bench_options){.running_max = 3, .waiting_max = 3, .kv_tokens = 256});
    for (uint32_t i = 0; i < N_THREADS; i++) {
        members[i] = (crowd_member){.b = &b, .number = i};
        assert_int_equal(pthread_create(&threads[i], NULL, take_part, &members[i]), 0);
    }
    for (uint32_t i = 0; i < N_THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(members[i].n_wrong, 0);
    }
    phi_served_drain(b.served);
    phi_scheduler_stats_get(b.scheduler, &stats);
    assert_int_equal(stats.running + stats.waiting, 0);
    assert_int_equal(stats.kv_pages_used, 0);
    bench_stop(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_stop_token, reset),
        cmocka_unit_test_setup(test_stop_strings_across_tokens, reset),
        cmocka_unit_test_setup(test_length_and_context, reset),
        cmocka_unit_test_setup(test_context_is_what_the_cache_holds, reset),
        cmocka_unit_test_setup(test_bad_options_are_named, reset),
        cmocka_unit_test_setup(test_nan_fails_one_sequence, reset),
        cmocka_unit_test_setup(test_prompt_logprobs, reset),
        cmocka_unit_test_setup(test_prompt_logprobs_alone, reset),
        cmocka_unit_test_setup(test_full_ring_pauses_one_sequence, reset),
        cmocka_unit_test_setup(test_slow_readers_do_not_keep_others_out, reset),
        cmocka_unit_test_setup(test_cancel_within_a_step, reset),
        cmocka_unit_test_setup(test_cancel_a_paused_one_and_after_the_end, reset),
        cmocka_unit_test_setup(test_release_at_any_time, reset),
        cmocka_unit_test_setup(test_destroy_cancels_what_lives, reset),
        cmocka_unit_test_setup(test_remove_cancels_drain_waits, reset),
        cmocka_unit_test_setup(test_queue_full_is_busy, reset),
        cmocka_unit_test_setup(test_clients_take_turns, reset),
        cmocka_unit_test_setup(test_a_crowd, reset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
