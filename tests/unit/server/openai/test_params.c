/* Request fields: ranges, defaults, and that each wrong one is named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "server/openai/params.h"

static phi_status parse(const char *text, phi_params_kind kind, phi_params *params, phi_err *err)
{
    json_t *body = json_loads(text, 0, NULL);
    assert_non_null(body);
    phi_status status = phi_params_parse(body, kind, params, err);
    json_decref(body);
    return status;
}

static void test_defaults_are_openais(void **state)
{
    (void)state;
    phi_params params;
    phi_err err;
    assert_int_equal(parse("{\"model\":\"m\"}", PHI_PARAMS_CHAT, &params, &err), PHI_OK);
    assert_string_equal(params.model, "m");
    assert_null(params.precision);
    assert_int_equal(params.n, 1);
    assert_true(params.max_tokens == UINT32_MAX);
    assert_true(params.sampling.temperature == 1.0F);
    assert_true(params.sampling.top_p == 1.0F);
    assert_int_equal(params.top_logprobs, -1);
    assert_false(params.stream);
    phi_params_done(&params);

    assert_int_equal(parse("{\"model\":\"m\"}", PHI_PARAMS_COMPLETION, &params, &err), PHI_OK);
    assert_int_equal(params.max_tokens, 16);
    phi_params_done(&params);
}

static void test_null_is_absent(void **state)
{
    (void)state;
    phi_params params;
    phi_err err;
    assert_int_equal(parse("{\"model\":\"m\",\"temperature\":null,\"stop\":null,\"tools\":null,"
                           "\"logit_bias\":null,\"n\":null,\"seed\":null}",
                           PHI_PARAMS_CHAT, &params, &err),
                     PHI_OK);
    assert_true(params.sampling.temperature == 1.0F);
    assert_false(params.sampling.has_seed);
    phi_params_done(&params);
}

static void test_everything_is_taken(void **state)
{
    (void)state;
    phi_params params;
    phi_err err;
    assert_int_equal(
        parse("{\"model\":\"m\",\"precision\":\"int4\",\"temperature\":0.5,\"top_p\":0.25,"
              "\"top_k\":40,\"min_p\":0.125,\"seed\":-3,\"n\":2,\"max_completion_tokens\":7,"
              "\"stop\":[\"a\",\"b\"],\"stream\":true,\"stream_options\":{\"include_usage\":true},"
              "\"logprobs\":true,\"top_logprobs\":5,\"presence_penalty\":1,"
              "\"frequency_penalty\":-1.5,\"repetition_penalty\":1.25,\"ignore_eos\":true,"
              "\"logit_bias\":{\"12\":-100},\"tools\":[],\"unheard_of\":1}",
              PHI_PARAMS_CHAT, &params, &err),
        PHI_OK);
    assert_string_equal(params.precision, "int4");
    assert_true(params.sampling.temperature == 0.5F);
    assert_true(params.sampling.top_p == 0.25F);
    assert_int_equal(params.sampling.top_k, 40);
    assert_true(params.sampling.min_p == 0.125F);
    assert_true(params.sampling.has_seed);
    assert_true(params.sampling.seed == (uint64_t)-3);
    assert_true(params.sampling.presence_penalty == 1.0F);
    assert_true(params.sampling.frequency_penalty == -1.5F);
    assert_true(params.sampling.repetition_penalty == 1.25F);
    assert_int_equal(params.n, 2);
    assert_int_equal(params.max_tokens, 7);
    assert_int_equal(params.n_stop, 2);
    assert_string_equal(params.stop[1], "b");
    assert_true(params.stream && params.include_usage && params.ignore_eos);
    assert_int_equal(params.top_logprobs, 5);
    assert_int_equal(params.sampling.n_logit_bias, 1);
    assert_int_equal(params.sampling.logit_bias[0].token, 12);
    phi_params_done(&params);
}

typedef struct refusal {
    phi_params_kind kind;
    const char *fields; /* after "model" */
    phi_status status;
    const char *param;
} refusal;

static void test_each_wrong_field_is_named(void **state)
{
    (void)state;
    static const refusal cases[] = {
        {PHI_PARAMS_CHAT, "\"temperature\":2.5", PHI_E_INVALID, "temperature"},
        {PHI_PARAMS_CHAT, "\"temperature\":-0.1", PHI_E_INVALID, "temperature"},
        {PHI_PARAMS_CHAT, "\"temperature\":\"hot\"", PHI_E_INVALID, "temperature"},
        {PHI_PARAMS_CHAT, "\"top_p\":0", PHI_E_INVALID, "top_p"},
        {PHI_PARAMS_CHAT, "\"top_p\":1.01", PHI_E_INVALID, "top_p"},
        {PHI_PARAMS_CHAT, "\"top_k\":1.5", PHI_E_INVALID, "top_k"},
        {PHI_PARAMS_CHAT, "\"min_p\":2", PHI_E_INVALID, "min_p"},
        {PHI_PARAMS_CHAT, "\"n\":0", PHI_E_INVALID, "n"},
        {PHI_PARAMS_CHAT, "\"n\":129", PHI_E_INVALID, "n"},
        {PHI_PARAMS_CHAT, "\"max_tokens\":0", PHI_E_INVALID, "max_tokens"},
        {PHI_PARAMS_COMPLETION, "\"max_tokens\":-1", PHI_E_INVALID, "max_tokens"},
        {PHI_PARAMS_CHAT, "\"stop\":[\"a\",\"b\",\"c\",\"d\",\"e\"]", PHI_E_INVALID, "stop"},
        {PHI_PARAMS_CHAT, "\"stop\":\"\"", PHI_E_INVALID, "stop"},
        {PHI_PARAMS_CHAT, "\"stop\":7", PHI_E_INVALID, "stop"},
        {PHI_PARAMS_CHAT, "\"stream\":1", PHI_E_INVALID, "stream"},
        {PHI_PARAMS_CHAT, "\"stream_options\":{}", PHI_E_INVALID, "stream_options"},
        {PHI_PARAMS_CHAT, "\"top_logprobs\":3", PHI_E_INVALID, "top_logprobs"},
        {PHI_PARAMS_CHAT, "\"logprobs\":true,\"top_logprobs\":21", PHI_E_INVALID, "top_logprobs"},
        {PHI_PARAMS_COMPLETION, "\"logprobs\":6", PHI_E_INVALID, "logprobs"},
        {PHI_PARAMS_CHAT, "\"seed\":\"x\"", PHI_E_INVALID, "seed"},
        {PHI_PARAMS_CHAT, "\"presence_penalty\":3", PHI_E_INVALID, "presence_penalty"},
        {PHI_PARAMS_CHAT, "\"repetition_penalty\":0", PHI_E_INVALID, "repetition_penalty"},
        {PHI_PARAMS_CHAT, "\"logit_bias\":{\"x\":1}", PHI_E_INVALID, "logit_bias"},
        {PHI_PARAMS_CHAT, "\"logit_bias\":{\"1\":101}", PHI_E_INVALID, "logit_bias"},
        {PHI_PARAMS_CHAT, "\"precision\":\"int3\"", PHI_E_INVALID, "precision"},
        {PHI_PARAMS_CHAT, "\"tools\":[{}]", PHI_E_UNSUPPORTED, "tools"},
        {PHI_PARAMS_CHAT, "\"response_format\":{\"type\":\"json_object\"}", PHI_E_UNSUPPORTED,
         "response_format"},
        {PHI_PARAMS_CHAT, "\"modalities\":[\"audio\"]", PHI_E_UNSUPPORTED, "modalities"},
        {PHI_PARAMS_COMPLETION, "\"suffix\":\"x\"", PHI_E_UNSUPPORTED, "suffix"},
        {PHI_PARAMS_COMPLETION, "\"best_of\":3", PHI_E_UNSUPPORTED, "best_of"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[256];
        (void)snprintf(text, sizeof text, "{\"model\":\"m\",%s}", cases[i].fields);
        phi_params params;
        phi_err err = {0};
        phi_status status = parse(text, cases[i].kind, &params, &err);
        if (status != cases[i].status) {
            print_error("%s: %s (%s)\n", cases[i].fields, phi_status_name(status), err.message);
        }
        assert_int_equal(status, cases[i].status);
        assert_string_equal(err.param, cases[i].param);
        assert_non_null(strstr(err.message, cases[i].param));
    }
}

static void test_model_is_required(void **state)
{
    (void)state;
    phi_params params;
    phi_err err;
    assert_int_equal(parse("{}", PHI_PARAMS_CHAT, &params, &err), PHI_E_INVALID);
    assert_string_equal(err.param, "model");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults_are_openais),
        cmocka_unit_test(test_null_is_absent),
        cmocka_unit_test(test_everything_is_taken),
        cmocka_unit_test(test_each_wrong_field_is_named),
        cmocka_unit_test(test_model_is_required),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
