/*
 * The facade end to end over the sample model: the same tokens alone and together, whatever the
 * batch, the pages or the threads; chat, quantization, inspection, unloading.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/engine.h"

#define SAMPLE PHID_SOURCE_DIR "/models/phi-sample"

enum { N_ASKED = 8, N_NEW = 48, ANSWER_MAX = 256 };

typedef struct answer {
    int32_t tokens[ANSWER_MAX];
    float logprobs[ANSWER_MAX];
    uint32_t n_tokens;
    uint32_t n_prompt_events;
    char text[8192];
    size_t text_bytes;
    phi_generation_event end;
} answer;

static const char *const questions[N_ASKED] = {
    "What is 17 plus 25?",
    "Tell me a story about a fox.",
    "What is the opposite of hot?",
    "Which day comes after Monday?",
    "What is 90 minus 33?",
    "Tell me a story about a boat and a little girl who lost her hat on the way to the sea.",
    "Which is larger, 41 or 14?",
    "Hello!",
};

static phi_engine *start(uint32_t batch_tokens, unsigned threads, uint32_t running_max)
{
    phi_engine *engine = NULL;
    phi_err err = {0};
    phi_engine_options options = {
        .threads = threads, .batch_tokens = batch_tokens, .running_max = running_max};
    assert_int_equal(phi_engine_create(&options, &engine, &err), PHI_OK);
    return engine;
}

static phi_model *load(phi_engine *engine, const char *path, uint32_t kv_tokens)
{
    phi_model *model = NULL;
    phi_err err = {0};
    phi_model_options options = {.kv_tokens = kv_tokens};
    phi_status status = phi_model_load(engine, path, &options, &model, &err);
    assert_string_equal(err.message, "");
    assert_int_equal(status, PHI_OK);
    return model;
}

static phi_generation *ask(phi_engine *engine, phi_model *model, int index, bool seeded)
{
    phi_chat_message message = {
        .role = "user", .content = questions[index], .content_bytes = strlen(questions[index])};
    phi_tokens tokens;
    phi_err err = {0};
    phi_tokens_init(&tokens);
    assert_int_equal(phi_model_encode_chat(model, &message, 1, &tokens, &err), PHI_OK);
    phi_generation_options o = {
        .prompt = tokens.ids,
        .n_prompt = tokens.count,
        .max_tokens = N_NEW,
        .top_logprobs = 2,
        .ignore_eos = true,
    };
    phi_sampling_defaults(&o.sampling);
    o.sampling.temperature = seeded ? 1.0F : 0.0F;
    o.sampling.top_p = seeded ? 0.95F : 1.0F;
    o.sampling.has_seed = true;
    o.sampling.seed = 42;
    phi_generation *generation = NULL;
    assert_int_equal(phi_engine_generate(engine, model, &o, &generation, &err), PHI_OK);
    phi_tokens_done(&tokens);
    return generation;
}

static void read_all(phi_generation *generation, answer *a)
{
    phi_generation_event event;
    memset(a, 0, sizeof *a);
    for (;;) {
        if (!phi_generation_next(generation, &event)) {
            usleep(200);
            continue;
        }
        assert_true(a->text_bytes + event.text_bytes < sizeof a->text);
        memcpy(a->text + a->text_bytes, event.text, event.text_bytes);
        a->text_bytes += event.text_bytes;
        if (event.kind == PHI_GENERATION_PROMPT_TOKEN) {
            a->logprobs[a->n_prompt_events++] = event.logprob;
        } else if (event.kind == PHI_GENERATION_TOKEN) {
            a->logprobs[a->n_tokens] = event.logprob;
            a->tokens[a->n_tokens++] = event.token;
        } else {
            a->end = event;
            break;
        }
    }
    phi_generation_release(generation);
}

static answer alone[2][N_ASKED];
static answer together[N_ASKED];

static void ask_alone(void)
{
    phi_engine *engine = start(256, 1, 0);
    phi_model *model = load(engine, SAMPLE, 0);
    for (int seeded = 0; seeded < 2; seeded++) {
        for (int i = 0; i < N_ASKED; i++) {
            read_all(ask(engine, model, i, seeded), &alone[seeded][i]);
            assert_int_equal(alone[seeded][i].end.kind, PHI_GENERATION_DONE);
            assert_int_equal(alone[seeded][i].n_tokens, N_NEW);
        }
    }
    phi_model_unref(model);
    phi_engine_destroy(engine);
}

static void expect_together(uint32_t batch_tokens, unsigned threads, uint32_t kv_tokens,
                            bool preempts)
{
    phi_engine *engine = start(batch_tokens, threads, batch_tokens < 32 ? batch_tokens : 0);
    phi_model *model = load(engine, SAMPLE, kv_tokens);
    for (int seeded = 0; seeded < 2; seeded++) {
        phi_generation *running[N_ASKED];
        for (int i = 0; i < N_ASKED; i++) {
            running[i] = ask(engine, model, i, seeded);
        }
        for (int i = 0; i < N_ASKED; i++) {
            read_all(running[i], &together[i]);
            assert_int_equal(together[i].n_tokens, N_NEW);
            assert_memory_equal(together[i].tokens, alone[seeded][i].tokens,
                                N_NEW * sizeof(int32_t));
            assert_memory_equal(together[i].logprobs, alone[seeded][i].logprobs,
                                N_NEW * sizeof(float));
            assert_string_equal(together[i].text, alone[seeded][i].text);
        }
    }
    phi_scheduler_stats stats;
    phi_engine_stats(engine, &stats);
    assert_int_equal(stats.generated_tokens, 2 * N_ASKED * N_NEW);
    assert_int_equal(stats.preemptions > 0, preempts);
    assert_true(stats.busy_ns > 0);
    phi_model_unref(model);
    phi_engine_destroy(engine);
}

/* To the bit: the numbers do not depend on what else is in the batch. */
static void test_together_as_alone(void **state)
{
    (void)state;
    ask_alone();
    expect_together(256, 2, 0, false);
    expect_together(7, 3, 0, false);
    expect_together(64, 2, 160, true);
}

static void test_info_and_text(void **state)
{
    (void)state;
    phi_engine *engine = start(0, 1, 0);
    phi_model *model = load(engine, SAMPLE, 0);
    phi_model_info info;
    phi_model_info_get(model, &info);
    assert_string_equal(info.architecture, "phi3");
    assert_string_equal(info.format, "safetensors");
    assert_true(info.has_chat_template);
    assert_int_equal(info.n_ctx, 1024);
    assert_true(info.weights_bytes > 0 && info.kv_bytes > 0);
    assert_true(phi_engine_threads(engine) == 1 && phi_engine_isa(engine)[0]);

    phi_tokens tokens;
    phi_buf text;
    phi_err err = {0};
    static const char sentence[] = "The fox went home.<|end|>";
    phi_tokens_init(&tokens);
    phi_buf_init(&text, 1000);
    assert_int_equal(
        phi_model_tokenize(model, sentence, strlen(sentence), false, false, &tokens, &err), PHI_OK);
    assert_int_equal(phi_model_detokenize(model, tokens.ids, tokens.count, &text, &err), PHI_OK);
    assert_string_equal(phi_buf_text(&text), sentence);
    size_t n_plain = tokens.count;
    tokens.count = 0;
    assert_int_equal(
        phi_model_tokenize(model, sentence, strlen(sentence), true, false, &tokens, &err), PHI_OK);
    assert_true(tokens.count < n_plain);
    int32_t outside = (int32_t)info.n_vocab;
    assert_int_equal(phi_model_detokenize(model, &outside, 1, &text, &err), PHI_E_INVALID);
    assert_int_equal(phi_model_token_bytes(model, outside, &text), PHI_E_INVALID);
    phi_buf_clear(&text);
    assert_int_equal(phi_model_token_bytes(model, tokens.ids[0], &text), PHI_OK);
    assert_true(strncmp(sentence, phi_buf_text(&text), text.length_bytes) == 0);
    phi_tokens_done(&tokens);
    phi_buf_done(&text);
    phi_model_unref(model);
    phi_engine_destroy(engine);
}

/* The cache is as large as its type says, and answers with each. */
static void test_kv_types(void **state)
{
    (void)state;
    static const char *const types[] = {"f32", "f16", "int8"};
    uint64_t bytes[3];
    phi_engine *engine = start(0, 2, 0);
    for (size_t i = 0; i < 3; i++) {
        phi_model *model = NULL;
        phi_err err = {0};
        phi_model_info info;
        phi_model_options options = {.kv_type = types[i]};
        assert_int_equal(phi_model_load(engine, SAMPLE, &options, &model, &err), PHI_OK);
        phi_model_info_get(model, &info);
        assert_string_equal(info.kv_type, types[i]);
        bytes[i] = info.kv_bytes;
        read_all(ask(engine, model, 0, false), &together[i]);
        assert_int_equal(together[i].n_tokens, N_NEW);
        phi_model_unref(model);
    }
    /* As far as the answer is sure of itself it is the same. */
    assert_memory_equal(together[0].tokens, together[1].tokens, N_NEW * sizeof(int32_t));
    assert_memory_equal(together[0].tokens, together[2].tokens, 8 * sizeof(int32_t));
    assert_true(bytes[0] == 2 * bytes[1] && bytes[2] > bytes[1] / 2 && bytes[2] < bytes[1]);
    phi_engine_destroy(engine);
}

static void test_load_refuses(void **state)
{
    (void)state;
    phi_engine *engine = start(0, 1, 0);
    phi_model *model = NULL;
    phi_err err = {0};
    phi_model_options options = {0};
    assert_int_not_equal(phi_model_load(engine, "/nowhere/at/all", &options, &model, &err), PHI_OK);
    assert_non_null(strstr(err.message, "/nowhere/at/all"));
    assert_null(model);
    options.kv_tokens = 4000000000U;
    assert_int_equal(phi_model_load(engine, SAMPLE, &options, &model, &err), PHI_E_NO_MEMORY);
    assert_null(model);
    options = (phi_model_options){.kv_type = "q4"};
    assert_int_equal(phi_model_load(engine, SAMPLE, &options, &model, &err), PHI_E_INVALID);
    assert_string_equal(err.param, "kv_type");
    phi_engine_destroy(engine);

    phi_engine_options bad = {.isa = "no-such-set"};
    assert_int_not_equal(phi_engine_create(&bad, &engine, &err), PHI_OK);
    assert_non_null(strstr(err.message, "no-such-set"));
    bad = (phi_engine_options){.batch_tokens = 1000000};
    assert_int_equal(phi_engine_create(&bad, &engine, &err), PHI_E_INVALID);
    assert_string_equal(err.param, "batch_tokens");
}

static bool stop_loading(void *user, uint64_t bytes_done, uint64_t bytes_total)
{
    (void)user;
    (void)bytes_done;
    (void)bytes_total;
    return false;
}

static void test_load_can_be_stopped(void **state)
{
    (void)state;
    phi_engine *engine = start(0, 1, 0);
    phi_model *model = NULL;
    phi_err err = {0};
    phi_model_options options = {.progress = stop_loading};
    assert_int_equal(phi_model_load(engine, SAMPLE, &options, &model, &err), PHI_E_CANCELLED);
    phi_engine_destroy(engine);
}

static void test_quantize_and_serve_the_result(void **state)
{
    (void)state;
    char dir[] = "/tmp/phid-engine-XXXXXX";
    assert_non_null(mkdtemp(dir));
    char *path = phi_strfmt("%s/int8.gguf", dir);
    phi_engine *engine = start(0, 2, 0);
    phi_quantize_options options = {
        .source = SAMPLE, .out_path = path, .precision = PHI_PRECISION_INT8};
    phi_quality quality;
    phi_err err = {0};
    phi_model *source = load(engine, SAMPLE, 0);
    /* At the same time as inference. */
    phi_generation *running = ask(engine, source, 1, false);
    phi_status status = phi_engine_quantize(engine, &options, &quality, &err);
    assert_string_equal(err.message, "");
    assert_int_equal(status, PHI_OK);
    read_all(running, &together[1]);
    assert_memory_equal(together[1].tokens, alone[0][1].tokens, N_NEW * sizeof(int32_t));

    phi_inspection *inspection = NULL;
    assert_int_equal(phi_inspect_open(path, &inspection, &err), PHI_OK);
    assert_string_equal(phi_inspect_format(inspection), "gguf");
    assert_int_equal(phi_inspect_description(inspection)->n_layer, 4);
    assert_int_equal(phi_inspect_tensor_count(inspection), quality.tensors);
    bool q8 = false;
    for (size_t i = 0; i < phi_inspect_tensor_count(inspection); i++) {
        phi_tensor_info tensor;
        phi_inspect_tensor(inspection, i, &tensor);
        q8 |= strcmp(tensor.type, "Q8_0") == 0;
    }
    assert_true(q8);
    phi_inspect_close(inspection);

    phi_model *result = load(engine, path, 0);
    running = ask(engine, source, 0, false);
    phi_generation *second = ask(engine, result, 0, false);
    read_all(running, &together[0]);
    assert_memory_equal(together[0].tokens, alone[0][0].tokens, N_NEW * sizeof(int32_t));
    read_all(second, &together[0]);
    /* Rounding to 8 bits does not change how an answer begins. */
    assert_memory_equal(together[0].tokens, alone[0][0].tokens, 3 * sizeof(int32_t));
    phi_model_unref(source);
    phi_model_unref(result);
    phi_engine_destroy(engine);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir), 0);
    phi_free(path);
}

static void test_unref_waits_for_sequences(void **state)
{
    (void)state;
    phi_engine *engine = start(0, 1, 0);
    phi_model *model = load(engine, SAMPLE, 0);
    phi_generation *first = ask(engine, model, 0, false);
    phi_generation *second = ask(engine, model, 1, false);
    phi_model_unref(phi_model_ref(model));
    phi_generation_release(second);
    phi_model_unref(model);
    /* The events of a model that is gone can still be read. */
    answer a;
    read_all(first, &a);
    assert_int_equal(a.end.finish, PHI_FINISH_LENGTH);
    assert_memory_equal(a.tokens, alone[0][0].tokens, N_NEW * sizeof(int32_t));
    phi_engine_destroy(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        /* First: the others compare with what it found. */
        cmocka_unit_test(test_together_as_alone),
        cmocka_unit_test(test_info_and_text),
        cmocka_unit_test(test_kv_types),
        cmocka_unit_test(test_load_refuses),
        cmocka_unit_test(test_load_can_be_stopped),
        cmocka_unit_test(test_quantize_and_serve_the_result),
        cmocka_unit_test(test_unref_waits_for_sequences),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
