/*
 * The engine against Hugging Face's transformers: the scripts in tests/golden made the checkpoints
 * and the answers. Every kernel set must give logits within 1e-4 of the largest one and the same
 * 256 greedy tokens.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <jansson.h>

#include "base/file.h"
#include "base/mem.h"
#include "engine/tokenizer/tokenizer.h"
#include "runner.h"

#define ERROR_MAX 1e-4
#define TOKENS_MAX 512
#define GOLDEN PHID_SOURCE_DIR "/tests/golden"
#define SAMPLE PHID_SOURCE_DIR "/models/phi-sample"

typedef struct golden {
    const char *name;
    phi_checkpoint *checkpoint;
    phi_weights *weights;
    json_t *expected;
    runner run;
    const phi_kernels *kernels;
} golden;

static phi_team *team;

static int make_team(void **state)
{
    (void)state;
    return phi_team_create(2, &team, NULL) == PHI_OK ? 0 : -1;
}

static int drop_team(void **state)
{
    (void)state;
    phi_team_destroy(team);
    return 0;
}

static void open_golden(golden *g, const char *name, const char *model, const char *expected)
{
    phi_err err = {0};
    json_error_t json_err;
    *g = (golden){.name = name};
    if (phi_checkpoint_open(model, &g->checkpoint, &err) ||
        phi_weights_load(g->checkpoint, NULL, NULL, &g->weights, &err)) {
        fail_msg("%s: %s", name, err.message);
    }
    g->expected = json_load_file(expected, 0, &json_err);
    if (!g->expected) {
        fail_msg("%s: %s", expected, json_err.text);
    }
}

static void close_golden(golden *g)
{
    json_decref(g->expected);
    phi_weights_destroy(g->weights);
    phi_checkpoint_close(g->checkpoint);
}

static uint32_t read_tokens(const json_t *list, int32_t *out)
{
    size_t n = json_array_size(list);
    assert_in_range(n, 1, TOKENS_MAX);
    for (size_t i = 0; i < n; i++) {
        out[i] = (int32_t)json_integer_value(json_array_get(list, i));
    }
    return (uint32_t)n;
}

/* Logits of the prompt's token at `position`. LongRoPE goes by the length of the whole prompt, as
 * the reference's one pass over it does. */
static void check_position(golden *g, const int32_t *prompt, uint32_t n_prompt, const json_t *entry,
                           uint32_t step)
{
    uint32_t position = (uint32_t)json_integer_value(json_object_get(entry, "position"));
    const json_t *values = json_object_get(entry, "values");
    assert_int_equal(g->weights->description.n_vocab, json_array_size(values));
    runner_restart(&g->run, n_prompt);
    const float *logits = runner_feed(&g->run, prompt, position + 1, step);
    double largest = 0.0;
    double error = 0.0;
    for (size_t i = 0; i < json_array_size(values); i++) {
        double right = json_number_value(json_array_get(values, i));
        double off = fabs((double)logits[i] - right);
        largest = fmax(largest, fabs(right));
        error = off <= error ? error : off;
    }
    if (!(error <= ERROR_MAX * largest)) {
        fail_msg("%s, %s, position %u in steps of %u: off by %g of %g", g->name, g->kernels->name,
                 position, step, error, largest);
    }
}

static void check_greedy(golden *g, int32_t *tokens, uint32_t n_prompt, const json_t *greedy)
{
    int32_t right[TOKENS_MAX];
    uint32_t n = read_tokens(greedy, right);
    assert_true(n_prompt + n <= TOKENS_MAX);
    runner_restart(&g->run, n_prompt);
    g->run.n_prompt = n_prompt;
    for (uint32_t i = 0; i < n; i++) {
        const float *logits = runner_extend(&g->run, tokens, n_prompt + i, 32);
        int32_t best = runner_best(&g->run, logits);
        if (best != right[i]) {
            fail_msg("%s, %s: token %u is %d, %d is right", g->name, g->kernels->name, i, best,
                     right[i]);
        }
        tokens[n_prompt + i] = best;
    }
    g->run.n_prompt = UINT32_MAX;
}

static void check_run(golden *g, const json_t *run)
{
    int32_t tokens[TOKENS_MAX];
    uint32_t n_prompt = read_tokens(json_object_get(run, "prompt"), tokens);
    size_t index;
    const json_t *entry;
    json_array_foreach(json_object_get(run, "logits"), index, entry)
    {
        check_position(g, tokens, n_prompt, entry, RUNNER_TOKENS);
        check_position(g, tokens, n_prompt, entry, 1);
        check_position(g, tokens, n_prompt, entry, 17);
    }
    assert_int_equal(256, json_array_size(json_object_get(run, "greedy")));
    check_greedy(g, tokens, n_prompt, json_object_get(run, "greedy"));
}

static void test_case(void **state)
{
    const char *name = *state;
    char model[512];
    char expected[512];
    golden g;
    const phi_kernels *sets[8];
    size_t n_sets = phi_kernels_available(sets, 8);
    (void)snprintf(model, sizeof model, "%s/%s", GOLDEN, name);
    (void)snprintf(expected, sizeof expected, "%s/%s/expected.json", GOLDEN, name);
    open_golden(&g, name, model, expected);
    for (size_t s = 0; s < n_sets; s++) {
        size_t index;
        const json_t *run;
        g.kernels = sets[s];
        runner_init(&g.run, g.weights, sets[s], team, PHI_KV_F32);
        json_array_foreach(json_object_get(g.expected, "runs"), index, run)
        {
            check_run(&g, run);
        }
        runner_done(&g.run);
    }
    close_golden(&g);
}

/* ---- keys and values in fewer bits ---- */

/* Root of the mean square of what is off, as a share of the logits'. */
static double error_of(golden *g, phi_kv_type type)
{
    double off = 0.0;
    double all = 0.0;
    size_t index;
    const json_t *run;
    runner_init(&g->run, g->weights, g->kernels, team, type);
    json_array_foreach(json_object_get(g->expected, "runs"), index, run)
    {
        int32_t tokens[TOKENS_MAX];
        uint32_t n_prompt = read_tokens(json_object_get(run, "prompt"), tokens);
        size_t at;
        const json_t *entry;
        json_array_foreach(json_object_get(run, "logits"), at, entry)
        {
            uint32_t position = (uint32_t)json_integer_value(json_object_get(entry, "position"));
            const json_t *values = json_object_get(entry, "values");
            runner_restart(&g->run, n_prompt);
            const float *logits = runner_feed(&g->run, tokens, position + 1, RUNNER_TOKENS);
            for (size_t i = 0; i < json_array_size(values); i++) {
                double right = json_number_value(json_array_get(values, i));
                off += ((double)logits[i] - right) * ((double)logits[i] - right);
                all += right * right;
            }
        }
    }
    runner_done(&g->run);
    return sqrt(off / all);
}

static void test_kv_types(void **state)
{
    (void)state;
    static const char *const names[] = {"grouped", "heads", "longrope", "window", "mini"};
    const phi_kernels *sets[8];
    size_t n_sets = phi_kernels_available(sets, 8);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char model[512];
        char expected[512];
        golden g;
        (void)snprintf(model, sizeof model, "%s/%s", GOLDEN, names[i]);
        (void)snprintf(expected, sizeof expected, "%s/%s/expected.json", GOLDEN, names[i]);
        open_golden(&g, names[i], model, expected);
        for (size_t s = 0; s < n_sets; s++) {
            g.kernels = sets[s];
            double f16 = error_of(&g, PHI_KV_F16);
            double int8 = error_of(&g, PHI_KV_INT8);
            /* Random weights of this size make attention sharper than a trained model's. */
            if (!(f16 <= 0.004 && int8 <= 0.08 && f16 < int8)) {
                fail_msg("%s, %s: logits are off by %g with f16, %g with int8", names[i],
                         sets[s]->name, f16, int8);
            }
        }
        close_golden(&g);
    }
}

/* Log likelihood of the sample model's held-out text, per token. */
static double likelihood(golden *g, phi_kv_type type, const int32_t *tokens, uint32_t n)
{
    double sum = 0.0;
    uint32_t n_vocab = g->weights->description.n_vocab;
    runner_init(&g->run, g->weights, g->kernels, team, type);
    runner_restart(&g->run, n);
    for (uint32_t i = 0; i + 1 < n; i++) {
        const float *logits = runner_feed(&g->run, tokens + i, 1, 1);
        double total = 0.0;
        double best = (double)logits[runner_best(&g->run, logits)];
        for (uint32_t v = 0; v < n_vocab; v++) {
            total += exp((double)logits[v] - best);
        }
        sum += (double)logits[tokens[i + 1]] - best - log(total);
    }
    runner_done(&g->run);
    return sum / (double)(n - 1);
}

/* Perplexity with int8 is that with f32 to within a thousandth, with f16 to a hundred-thousandth.
 */
static void test_kv_perplexity(void **state)
{
    (void)state;
    const phi_kernels *sets[8];
    phi_tokenizer *tokenizer = NULL;
    phi_tokens tokens;
    char *text = NULL;
    size_t bytes = 0;
    golden g;
    if (!phi_file_exists(SAMPLE "/model.safetensors")) {
        skip();
    }
    assert_true(phi_kernels_available(sets, 8) > 0);
    open_golden(&g, "phi-sample", SAMPLE, GOLDEN "/phi-sample.json");
    g.kernels = sets[0];
    assert_int_equal(PHI_OK, phi_tokenizer_open(g.checkpoint, &tokenizer, NULL));
    assert_int_equal(PHI_OK,
                     phi_file_read_text(SAMPLE "/heldout.txt", 1U << 20, &text, &bytes, NULL));
    phi_tokens_init(&tokens);
    assert_int_equal(PHI_OK, phi_tokenizer_encode(tokenizer, text, bytes,
                                                  &(phi_encode_options){.mode = PHI_PARSE_PLAIN},
                                                  &tokens, NULL));
    assert_true(tokens.count > 1000);
    double f32 = likelihood(&g, PHI_KV_F32, tokens.ids, 1000);
    double f16 = likelihood(&g, PHI_KV_F16, tokens.ids, 1000);
    double int8 = likelihood(&g, PHI_KV_INT8, tokens.ids, 1000);
    if (!(fabs(exp(f32 - int8) - 1.0) <= 1e-3 && fabs(exp(f32 - f16) - 1.0) <= 1e-5)) {
        fail_msg("perplexity %.6f with f32, %.6f with f16, %.6f with int8", exp(-f32), exp(-f16),
                 exp(-int8));
    }
    phi_tokens_done(&tokens);
    phi_free(text);
    phi_tokenizer_destroy(tokenizer);
    close_golden(&g);
}

/* ---- the sample model ---- */

static void check_top(golden *g, const json_t *entry, const int32_t *prompt, uint32_t n_prompt)
{
    const json_t *ids = json_object_get(entry, "top_ids");
    const json_t *values = json_object_get(entry, "top_logits");
    runner_restart(&g->run, n_prompt);
    const float *logits = runner_feed(&g->run, prompt, n_prompt, 32);
    double largest = 0.0;
    for (size_t i = 0; i < json_array_size(values); i++) {
        largest = fmax(largest, fabs(json_number_value(json_array_get(values, i))));
    }
    assert_true(json_array_size(ids) > 0);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        size_t id = (size_t)json_integer_value(json_array_get(ids, i));
        double right = json_number_value(json_array_get(values, i));
        if (!(fabs((double)logits[id] - right) <= ERROR_MAX * largest)) {
            fail_msg("%s, %s: logit %zu is %g, %g is right", g->name, g->kernels->name, id,
                     (double)logits[id], right);
        }
    }
}

static void test_sample(void **state)
{
    (void)state;
    static const char expected[] = GOLDEN "/phi-sample.json";
    const phi_kernels *sets[8];
    size_t n_sets = phi_kernels_available(sets, 8);
    golden g;
    if (!phi_file_exists(SAMPLE "/model.safetensors") || !phi_file_exists(expected)) {
        skip();
    }
    open_golden(&g, "phi-sample", SAMPLE, expected);
    for (size_t s = 0; s < n_sets; s++) {
        size_t index;
        const json_t *entry;
        g.kernels = sets[s];
        runner_init(&g.run, g.weights, sets[s], team, PHI_KV_F32);
        json_array_foreach(json_object_get(g.expected, "cases"), index, entry)
        {
            int32_t tokens[TOKENS_MAX];
            uint32_t n_prompt = read_tokens(json_object_get(entry, "ids"), tokens);
            g.name = json_string_value(json_object_get(entry, "name"));
            check_top(&g, entry, tokens, n_prompt);
            check_greedy(&g, tokens, n_prompt, json_object_get(entry, "greedy_ids"));
        }
        runner_done(&g.run);
    }
    close_golden(&g);
}

#define CASE(name)                                                                                 \
    {                                                                                              \
        name, test_case, NULL, NULL, (void *)(uintptr_t)name                                       \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("grouped"),
        CASE("heads"),
        CASE("partial"),
        CASE("longrope"),
        CASE("window"),
        CASE("tied"),
        CASE("mini"),
        CASE("split"),
        CASE("phi2"),
        CASE("phi2-grouped"),
        CASE("phimoe"),
        CASE("phimoe-close"),
        cmocka_unit_test(test_sample),
        cmocka_unit_test(test_kv_types),
        cmocka_unit_test(test_kv_perplexity),
    };
    return cmocka_run_group_tests(tests, make_team, drop_team);
}
