/*
 * The reference's greedy tokens (tests/golden, made by transformers) through the scheduler: prompts
 * in chunks, several sequences together, preempted ones, across LongRoPE's boundary and beyond the
 * window.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/file.h"
#include "base/mem.h"
#include "engine/runtime/scheduler.h"

#define GOLDEN PHID_SOURCE_DIR "/tests/golden/"

enum { RUNS_MAX = 4, TOKENS_MAX = 1024 };

typedef struct run {
    int32_t prompt[TOKENS_MAX];
    uint32_t n_prompt;
    int32_t greedy[TOKENS_MAX];
    uint32_t n_greedy;
} run;

static run runs[RUNS_MAX];
static size_t n_runs;

static uint32_t read_ids(const json_t *array, int32_t *out)
{
    size_t n = json_array_size(array);
    assert_in_range(n, 1, TOKENS_MAX);
    for (size_t i = 0; i < n; i++) {
        out[i] = (int32_t)json_integer_value(json_array_get(array, i));
    }
    return (uint32_t)n;
}

static void read_expected(const char *path)
{
    json_error_t error;
    json_t *root = json_load_file(path, 0, &error);
    assert_non_null(root);
    const json_t *list = json_object_get(root, "runs");
    n_runs = json_array_size(list);
    assert_in_range(n_runs, 1, RUNS_MAX);
    for (size_t i = 0; i < n_runs; i++) {
        const json_t *item = json_array_get(list, i);
        runs[i].n_prompt = read_ids(json_object_get(item, "prompt"), runs[i].prompt);
        runs[i].n_greedy = read_ids(json_object_get(item, "greedy"), runs[i].greedy);
    }
    json_decref(root);
}

static void expect_run(phi_generation *generation, const run *wanted)
{
    phi_generation_event event;
    uint32_t n = 0;
    for (;;) {
        if (!phi_generation_next(generation, &event)) {
            usleep(200);
            continue;
        }
        if (event.kind != PHI_GENERATION_TOKEN) {
            break;
        }
        assert_true(n < wanted->n_greedy);
        assert_int_equal(event.token, wanted->greedy[n]);
        n++;
    }
    assert_int_equal(event.kind, PHI_GENERATION_DONE);
    assert_int_equal(n, wanted->n_greedy);
    phi_generation_release(generation);
}

static void generate(phi_scheduler *scheduler, const phi_weights *weights,
                     const phi_tokenizer *tokenizer, uint32_t kv_tokens)
{
    phi_served *served = NULL;
    phi_generation *running[2 * RUNS_MAX];
    const phi_served_options serving = {
        .weights = weights,
        .tokenizer = tokenizer,
        .kv_type = PHI_KV_F32,
        .kv_tokens = kv_tokens,
    };
    assert_int_equal(phi_served_add(scheduler, &serving, &served, NULL), PHI_OK);
    /* Each twice, so that there is always company. */
    for (size_t i = 0; i < 2 * n_runs; i++) {
        phi_generation_options o = {
            .prompt = runs[i / 2].prompt,
            .n_prompt = runs[i / 2].n_prompt,
            .max_tokens = runs[i / 2].n_greedy,
            .top_logprobs = -1,
        };
        phi_sampling_defaults(&o.sampling);
        o.sampling.temperature = 0.0F;
        assert_int_equal(phi_scheduler_submit(scheduler, served, &o, &running[i], NULL), PHI_OK);
    }
    for (size_t i = 0; i < 2 * n_runs; i++) {
        expect_run(running[i], &runs[i / 2]);
    }
    phi_served_remove(served);
}

static void expect_model(const char *dir, phi_scheduler *scheduler, const phi_tokenizer *tokenizer)
{
    phi_checkpoint *checkpoint = NULL;
    phi_weights *weights = NULL;
    phi_err err = {0};
    assert_int_equal(phi_checkpoint_open(dir, &checkpoint, &err), PHI_OK);
    assert_int_equal(phi_weights_load(checkpoint, NULL, NULL, &weights, &err), PHI_OK);
    phi_checkpoint_close(checkpoint);
    generate(scheduler, weights, tokenizer, 4096);
    /* Room for one and a half: somebody has to give way. */
    phi_scheduler_stats before;
    phi_scheduler_stats after;
    phi_scheduler_stats_get(scheduler, &before);
    generate(scheduler, weights, tokenizer, 512);
    phi_scheduler_stats_get(scheduler, &after);
    if (weights->description.window == 0) {
        assert_true(after.preemptions > before.preemptions);
    }
    phi_weights_destroy(weights);
}

static void test_greedy_tokens(void **state)
{
    (void)state;
    static const char *const cases[] = {"grouped", "heads", "partial", "longrope",
                                        "window",  "tied",  "mini",    "split"};
    phi_scheduler *scheduler = NULL;
    phi_tokenizer *tokenizer = NULL;
    phi_scheduler_options options = {
        .running_max = 8,
        .waiting_max = 8,
        .batch_tokens = 24,
        .compute = {.priority = PHI_TEAM_INFERENCE},
    };
    unsigned n_done = 0;
    assert_int_equal(phi_kernels_select(NULL, &options.compute.kernels, NULL), PHI_OK);
    assert_int_equal(phi_team_create(2, &options.compute.team, NULL), PHI_OK);
    assert_int_equal(phi_scheduler_create(&options, &scheduler, NULL), PHI_OK);
    /* The random models have no tokenizer; any whose vocabulary is as large will do. */
    assert_int_equal(phi_tokenizer_open_dir(PHID_SOURCE_DIR "/models/phi-sample", &tokenizer, NULL),
                     PHI_OK);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *dir = phi_strfmt(GOLDEN "%s", cases[i]);
        char *path = phi_strfmt("%s/expected.json", dir);
        if (phi_file_exists(path)) {
            print_message("%s\n", cases[i]);
            read_expected(path);
            expect_model(dir, scheduler, tokenizer);
            n_done++;
        }
        phi_free(path);
        phi_free(dir);
    }
    assert_true(n_done > 0);
    phi_tokenizer_destroy(tokenizer);
    phi_scheduler_destroy(scheduler);
    phi_team_destroy(options.compute.team);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
