/*
 * What comes out of the scheduler is what the model says of each sequence alone: whatever runs
 * beside it, however its prompt is cut, whether it was preempted, passed by the window, or crossed
 * LongRoPE's boundary.
 */
#include "harness.h"

#include "base/mem.h"

#include <math.h>
#include <string.h>

static int reset(void **state)
{
    (void)state;
    fake_reset();
    return 0;
}

static answer one;
static answer many[64];
static int32_t expected[ANSWER_MAX];

static void expect_answer(const answer *a, const int32_t *prompt, uint32_t n_prompt, uint32_t n_max)
{
    uint32_t n = expect_greedy(prompt, n_prompt, n_max, expected);
    assert_int_equal(a->end.kind, PHI_GENERATION_DONE);
    assert_int_equal(a->n_tokens, n);
    assert_memory_equal(a->tokens, expected, n * sizeof *expected);
    assert_int_equal(a->end.finish, n < n_max ? PHI_FINISH_STOP : PHI_FINISH_LENGTH);
    assert_int_equal(a->end.prompt_tokens, n_prompt);
    assert_int_equal(a->end.completion_tokens, n);
}

/* Prompts of many lengths, greedy; all at once. */
static void run_many(const bench_options *options, uint32_t n, uint32_t n_new)
{
    static int32_t prompts[64][512];
    phi_generation *running[64];
    bench b;
    bench_start(&b, options);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t n_prompt = 1 + (i * 37) % 500;
        make_prompt(i, prompts[i], n_prompt);
        phi_generation_options o = ask(prompts[i], n_prompt);
        o.max_tokens = n_new;
        o.ignore_eos = false;
        running[i] = submit(&b, &o);
    }
    for (uint32_t i = 0; i < n; i++) {
        read_all(running[i], &many[i]);
        expect_answer(&many[i], prompts[i], 1 + (i * 37) % 500, n_new);
    }
    phi_scheduler_stats stats;
    phi_scheduler_stats_get(b.scheduler, &stats);
    uint64_t n_generated = 0;
    uint64_t n_prompts = 0;
    for (uint32_t i = 0; i < n; i++) {
        n_generated += many[i].n_tokens;
        n_prompts += many[i].end.prompt_tokens;
    }
    assert_int_equal(stats.generated_tokens, n_generated);
    assert_int_equal(stats.prompt_tokens, n_prompts);
    assert_int_equal(stats.running, 0);
    assert_int_equal(stats.waiting, 0);
    assert_int_equal(stats.kv_pages_used, 0);
    assert_int_equal(stats.steps, atomic_load(&fake_steps));
    assert_true(stats.step_rows >= n_generated + n_prompts - n);
    bench_stop(&b);
}

static void test_together_as_alone(void **state)
{
    (void)state;
    run_many(&(bench_options){0}, 40, 60);
}

static void test_one_at_a_time_and_one_row(void **state)
{
    (void)state;
    run_many(&(bench_options){.running_max = 1}, 5, 20);
    fake_reset();
    run_many(&(bench_options){.running_max = 1, .batch_tokens = 1}, 5, 20);
}

static void test_with_window(void **state)
{
    (void)state;
    for (uint32_t window = 31; window <= 70; window += 13) {
        fake_reset();
        fake.window = window;
        run_many(&(bench_options){0}, 20, 150);
    }
}

static void test_window_needs_few_pages(void **state)
{
    (void)state;
    static int32_t prompt[3000];
    fake.window = 64;
    bench b;
    /* 3,500 tokens through 5 pages of 32. */
    bench_start(&b, &(bench_options){.kv_tokens = 160});
    make_prompt(3, prompt, 3000);
    phi_generation_options o = ask(prompt, 3000);
    o.max_tokens = 500;
    o.ignore_eos = true;
    fake.script = NULL;
    read_all(submit(&b, &o), &one);
    assert_int_equal(one.n_tokens, 500);
    static int32_t tokens[3500];
    memcpy(tokens, prompt, sizeof prompt);
    for (uint32_t i = 0; i < 500; i++) {
        assert_int_equal(one.tokens[i], fake_next(tokens, 3000 + i));
        tokens[3000 + i] = one.tokens[i];
    }
    bench_stop(&b);
}

static void test_longrope_crossing(void **state)
{
    (void)state;
    fake.n_ctx_original = 200;
    run_many(&(bench_options){0}, 24, 100);
    fake_reset();
    fake.n_ctx_original = 128;
    fake.window = 50;
    run_many(&(bench_options){.kv_tokens = 640}, 24, 100);
}

static void test_preemption_changes_nothing(void **state)
{
    (void)state;
    static int32_t prompts[16][64];
    phi_generation *running[16];
    bench b;
    fake.script = (const int32_t[]){0};
    fake.n_script = 0;
    bench_start(&b, &(bench_options){.kv_tokens = 512});
    for (uint32_t i = 0; i < 16; i++) {
        make_prompt(i, prompts[i], 40);
        phi_generation_options o = ask(prompts[i], 40);
        o.max_tokens = 200;
        running[i] = submit(&b, &o);
    }
    for (uint32_t i = 0; i < 16; i++) {
        read_all(running[i], &many[i]);
        expect_answer(&many[i], prompts[i], 40, 200);
    }
    phi_scheduler_stats stats;
    phi_scheduler_stats_get(b.scheduler, &stats);
    assert_true(stats.preemptions > 0);
    assert_int_equal(stats.kv_pages_used, 0);
    assert_int_equal(stats.kv_pages_total, 16);
    assert_int_equal(stats.prompt_tokens, 16 * 40);
    assert_int_equal(stats.generated_tokens, 16 * 200);
    bench_stop(&b);
}

static void test_seeded_together_as_alone(void **state)
{
    (void)state;
    static int32_t prompts[20][50];
    static answer alone[20];
    phi_generation *running[20];
    bench b;
    for (int round = 0; round < 2; round++) {
        bench_start(&b, &(bench_options){.kv_tokens = round ? 512 : 0});
        for (uint32_t i = 0; i < 20; i++) {
            make_prompt(i, prompts[i], 50);
            phi_generation_options o = ask(prompts[i], 50);
            o.max_tokens = 100;
            o.ignore_eos = true;
            o.sampling.temperature = 1.2F;
            o.sampling.top_p = 0.9F;
            o.sampling.frequency_penalty = 0.2F;
            o.sampling.repetition_penalty = 1.1F;
            o.sampling.has_seed = true;
            o.sampling.seed = i / 2;
            running[i] = submit(&b, &o);
            if (round == 0) {
                read_all(running[i], &alone[i]);
            }
        }
        for (uint32_t i = 0; round == 1 && i < 20; i++) {
            read_all(running[i], &many[i]);
            assert_int_equal(many[i].n_tokens, 100);
            assert_memory_equal(many[i].tokens, alone[i].tokens, 100 * sizeof(int32_t));
        }
        bench_stop(&b);
    }
}

static void test_long_prompt_does_not_stall_streams(void **state)
{
    (void)state;
    static int32_t prompt[2000];
    static int32_t small[1] = {5};
    bench b;
    fake.script = small;
    fake.n_script = 0;
    bench_start(&b, &(bench_options){.batch_tokens = 50});
    phi_generation_options o = ask(small, 1);
    o.max_tokens = 60;
    fake_hold();
    phi_generation *stream = submit(&b, &o);
    make_prompt(1, prompt, 2000);
    o = ask(prompt, 2000);
    o.max_tokens = 1;
    phi_generation *heavy = submit(&b, &o);
    fake_let_go();
    read_all(stream, &one);
    read_all(heavy, &many[0]);
    assert_int_equal(one.n_tokens, 60);
    /* 2,000 rows of prompt through steps of 50 rows, one of which is the stream's: 41 steps, all
     * of which the stream took part in. */
    assert_true(atomic_load(&fake_rows_max) <= 50);
    assert_true(atomic_load(&fake_steps) <= 63);
    bench_stop(&b);
}

static void test_token_loop_allocates_nothing(void **state)
{
    (void)state;
    static int32_t prompts[4][100];
    phi_generation *running[4];
    bench b;
    fake.script = prompts[0];
    fake.n_script = 0;
    fake.n_ctx_original = 1000;
    bench_start(&b, &(bench_options){.kv_tokens = 5000});
    memset(many, 0, sizeof many);
    for (uint32_t i = 0; i < 4; i++) {
        make_prompt(i, prompts[i], 100);
        phi_generation_options o = ask(prompts[i], 100);
        o.max_tokens = 2000;
        o.top_logprobs = 5;
        o.sampling.temperature = i % 2 ? 0.8F : 0.0F;
        o.sampling.top_p = 0.9F;
        o.sampling.presence_penalty = 0.1F;
        o.n_stop = 1;
        o.stop[0] = "not to be found";
        running[i] = submit(&b, &o);
    }
    while (many[0].n_tokens < 50) {
        (void)read_some(running[0], &many[0]);
        wait_for_news();
    }
    uint64_t before = phi_mem_allocations();
    unsigned left = 4;
    while (left) {
        left = 0;
        for (uint32_t i = 0; i < 4; i++) {
            left += !read_some(running[i], &many[i]);
        }
        wait_for_news();
    }
    assert_int_equal(phi_mem_allocations(), before);
    phi_scheduler_stats stats;
    phi_scheduler_stats_get(b.scheduler, &stats);
    assert_true(stats.preemptions > 0);
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(many[i].n_tokens, 2000);
        phi_generation_release(running[i]);
    }
    bench_stop(&b);
}

static void test_two_models_take_turns(void **state)
{
    (void)state;
    static int32_t prompt[10];
    static const int32_t no_stops[1] = {FAKE_EOS};
    bench b;
    fake.script = prompt;
    fake.n_script = 0;
    make_prompt(1, prompt, 10);
    bench_start(&b, &(bench_options){0});
    phi_served_options serving = {
        .weights = &fake_weights,
        .tokenizer = fake_tokenizer(),
        .stop_tokens = no_stops,
        .n_stop_tokens = 1,
        .kv_tokens = 1024,
        .n_ctx = 512,
    };
    bench c = {.scheduler = b.scheduler};
    assert_int_equal(phi_served_add(b.scheduler, &serving, &c.served, NULL), PHI_OK);
    assert_int_equal(phi_served_n_ctx(c.served), 512);
    phi_generation_options o = ask(prompt, 10);
    o.max_tokens = 100;
    fake_hold();
    phi_generation *first = submit(&b, &o);
    phi_generation *second = submit(&c, &o);
    fake_let_go();
    read_all(first, &one);
    expect_answer(&one, prompt, 10, 100);
    /* The other is at most a few steps behind. */
    assert_true(atomic_load(&fake_steps) >= 195);
    read_all(second, &one);
    expect_answer(&one, prompt, 10, 100);
    phi_served_remove(c.served);
    bench_stop(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_together_as_alone, reset),
        cmocka_unit_test_setup(test_one_at_a_time_and_one_row, reset),
        cmocka_unit_test_setup(test_with_window, reset),
        cmocka_unit_test_setup(test_window_needs_few_pages, reset),
        cmocka_unit_test_setup(test_longrope_crossing, reset),
        cmocka_unit_test_setup(test_preemption_changes_nothing, reset),
        cmocka_unit_test_setup(test_seeded_together_as_alone, reset),
        cmocka_unit_test_setup(test_long_prompt_does_not_stall_streams, reset),
        cmocka_unit_test_setup(test_token_loop_allocates_nothing, reset),
        cmocka_unit_test_setup(test_two_models_take_turns, reset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
