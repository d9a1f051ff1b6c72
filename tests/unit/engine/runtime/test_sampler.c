/* Each cut of the sampler against a plain, sorting definition of it; ties, penalties, seeds. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/runtime/sampler.h"

/* Several blocks, and part of one. */
enum { N = 2900 };

static float logits[N];
static uint8_t known[N];
static phi_logits row = {NULL, logits, known, N};
static uint64_t state_of_noise;

static double noise(void)
{
    return phi_sampler_random(17, state_of_noise++);
}

static int fill(void **state)
{
    (void)state;
    state_of_noise = 1;
    assert_true(phi_kernels_available(&row.kernels, 1) == 1);
    for (int i = 0; i < N; i++) {
        /* A coarse grid, so that there are many ties. */
        logits[i] = (float)(floor(noise() * 40.0) / 4.0 - 5.0);
        known[i] = 1;
    }
    return 0;
}

static int32_t pick(const phi_sampling *params, uint64_t place)
{
    phi_sampler sampler;
    phi_sampler_scratch scratch;
    int32_t token = -1;
    assert_int_equal(phi_sampler_init(&sampler, params, 10, NULL), PHI_OK);
    assert_int_equal(phi_sampler_scratch_init(&scratch, N, NULL), PHI_OK);
    assert_int_equal(phi_sampler_pick(&sampler, &scratch, &row, place, &token, NULL), PHI_OK);
    phi_sampler_scratch_done(&scratch);
    phi_sampler_done(&sampler);
    return token;
}

/* ---- the definition: sort, cut, draw ---- */

static int by_logit(const void *a, const void *b)
{
    int i = *(const int *)a;
    int j = *(const int *)b;
    if (logits[i] != logits[j]) {
        return logits[i] > logits[j] ? -1 : 1;
    }
    return i - j;
}

static int by_id(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

static int32_t pick_by_sorting(const phi_sampling *s, uint64_t place)
{
    int ids[N];
    double weights[N];
    int n = 0;
    for (int i = 0; i < N; i++) {
        if (known[i]) {
            ids[n++] = i;
        }
    }
    qsort(ids, (size_t)n, sizeof ids[0], by_logit);
    double best = (double)logits[ids[0]];
    if (s->top_k && (int)s->top_k < n) {
        n = (int)s->top_k;
    }
    double total = 0.0;
    for (int i = 0; i < n; i++) {
        weights[ids[i]] = exp(((double)logits[ids[i]] - best) / (double)s->temperature);
        total += weights[ids[i]];
    }
    if (s->top_p < 1.0F) {
        double reached = 0.0;
        int kept = 0;
        while (kept < n && reached < (double)s->top_p * total) {
            reached += weights[ids[kept++]];
        }
        n = kept;
    }
    while (n > 1 && weights[ids[n - 1]] < (double)s->min_p) {
        n--;
    }
    total = 0.0;
    for (int i = 0; i < n; i++) {
        total += weights[ids[i]];
    }
    qsort(ids, (size_t)n, sizeof ids[0], by_id);
    double left = phi_sampler_random(s->seed, place) * total;
    for (int i = 0; i < n; i++) {
        left -= weights[ids[i]];
        if (left < 0.0) {
            return ids[i];
        }
    }
    return ids[n - 1];
}

static void test_cuts_equal_sorting(void **state)
{
    (void)state;
    static const struct {
        float temperature, top_p, min_p;
        uint32_t top_k;
    } cases[] = {
        {1.0F, 1.0F, 0.0F, 0},     {0.7F, 1.0F, 0.0F, 1},     {0.7F, 1.0F, 0.0F, 17},
        {1.3F, 0.9F, 0.0F, 0},     {1.0F, 0.5F, 0.0F, 40},    {1.0F, 0.01F, 0.0F, 0},
        {2.0F, 0.999F, 0.0F, 0},   {1.0F, 1.0F, 0.1F, 0},     {1.0F, 0.95F, 0.05F, 100},
        {0.01F, 0.95F, 0.0F, 0},   {1.0F, 1.0F, 1.0F, 0},     {1.0F, 1.0F, 0.0F, N - 1},
        {1.0F, 1.0F, 0.0F, N + 5}, {1.0F, 0.3F, 0.0F, N + 5},
    };
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        phi_sampling s;
        phi_sampling_defaults(&s);
        s.temperature = cases[c].temperature;
        s.top_p = cases[c].top_p;
        s.min_p = cases[c].min_p;
        s.top_k = cases[c].top_k;
        s.has_seed = true;
        for (uint64_t place = 0; place < 100; place++) {
            s.seed = 1000 + c;
            assert_int_equal(pick(&s, place), pick_by_sorting(&s, place));
        }
    }
}

static void test_frequencies_follow_probabilities(void **state)
{
    (void)state;
    memset(known, 0, sizeof known);
    known[3] = known[7] = known[11] = 1;
    logits[3] = 0.0F;
    logits[7] = logf(2.0F);
    logits[11] = logf(5.0F);
    phi_sampling s;
    phi_sampling_defaults(&s);
    s.has_seed = true;
    s.seed = 5;
    int counts[N] = {0};
    for (uint64_t place = 0; place < 8000; place++) {
        counts[pick(&s, place)]++;
    }
    /* Expected 1000, 2000, 5000; four standard deviations. */
    assert_in_range(counts[3], 880, 1120);
    assert_in_range(counts[7], 1845, 2155);
    assert_in_range(counts[11], 4826, 5174);
    assert_int_equal(counts[3] + counts[7] + counts[11], 8000);
}

static void test_greedy_takes_lowest_of_equals_and_no_padding(void **state)
{
    (void)state;
    phi_sampling s;
    phi_sampling_defaults(&s);
    s.temperature = 0.0F;
    logits[123] = 20.0F;
    logits[77] = 20.0F;
    logits[5] = 30.0F;
    known[5] = 0;
    assert_int_equal(pick(&s, 0), 77);
    phi_logit_bias ban = {77, -100.0F};
    s.logit_bias = &ban;
    s.n_logit_bias = 1;
    assert_int_equal(pick(&s, 0), 123);
    phi_logit_bias lift = {9, 90.0F};
    s.logit_bias = &lift;
    assert_int_equal(pick(&s, 0), 9);
}

static void test_penalties(void **state)
{
    (void)state;
    phi_sampling s;
    phi_sampling_defaults(&s);
    s.temperature = 0.0F;
    phi_sampler_scratch scratch;
    phi_sampler sampler;
    int32_t token;
    assert_int_equal(phi_sampler_scratch_init(&scratch, N, NULL), PHI_OK);
    memset(known, 0, sizeof known);
    known[1] = known[2] = known[3] = 1;
    logits[1] = 2.0F;
    logits[2] = 1.5F;
    logits[3] = -1.0F;

    /* Prompt tokens fall under repetition_penalty, not under the other two. */
    s.presence_penalty = 1.0F;
    assert_int_equal(phi_sampler_init(&sampler, &s, 10, NULL), PHI_OK);
    phi_sampler_see(&sampler, 1, false);
    assert_int_equal(phi_sampler_pick(&sampler, &scratch, &row, 0, &token, NULL), PHI_OK);
    assert_int_equal(token, 1);
    phi_sampler_see(&sampler, 1, true);
    assert_int_equal(phi_sampler_pick(&sampler, &scratch, &row, 0, &token, NULL), PHI_OK);
    assert_int_equal(token, 2);
    phi_sampler_done(&sampler);

    s.presence_penalty = 0.0F;
    s.frequency_penalty = 0.3F;
    assert_int_equal(phi_sampler_init(&sampler, &s, 10, NULL), PHI_OK);
    phi_sampler_see(&sampler, 1, true);
    assert_int_equal(phi_sampler_pick(&sampler, &scratch, &row, 0, &token, NULL), PHI_OK);
    assert_int_equal(token, 1);
    phi_sampler_see(&sampler, 1, true);
    assert_int_equal(phi_sampler_pick(&sampler, &scratch, &row, 0, &token, NULL), PHI_OK);
    assert_int_equal(token, 2);
    phi_sampler_done(&sampler);

    /* 2 / 2 < 1.5; and a negative logit moves down, not up. */
    s.frequency_penalty = 0.0F;
    s.repetition_penalty = 2.0F;
    assert_int_equal(phi_sampler_init(&sampler, &s, 10, NULL), PHI_OK);
    phi_sampler_see(&sampler, 1, false);
    assert_int_equal(phi_sampler_pick(&sampler, &scratch, &row, 0, &token, NULL), PHI_OK);
    assert_int_equal(token, 2);
    known[1] = 0;
    logits[2] = -1.5F;
    phi_sampler_see(&sampler, 3, true);
    assert_int_equal(phi_sampler_pick(&sampler, &scratch, &row, 0, &token, NULL), PHI_OK);
    assert_int_equal(token, 2); /* -1.5 > -1 * 2 */
    phi_sampler_done(&sampler);
    phi_sampler_scratch_done(&scratch);
}

static void test_bad_logits_are_an_error(void **state)
{
    (void)state;
    phi_sampling s;
    phi_sampling_defaults(&s);
    phi_sampler sampler;
    phi_sampler_scratch scratch;
    phi_err err;
    int32_t token = -7;
    assert_int_equal(phi_sampler_init(&sampler, &s, 10, NULL), PHI_OK);
    assert_int_equal(phi_sampler_scratch_init(&scratch, N, NULL), PHI_OK);
    logits[400] = NAN;
    assert_int_equal(phi_sampler_pick(&sampler, &scratch, &row, 0, &token, &err), PHI_E_INTERNAL);
    assert_non_null(strstr(err.message, "NaN"));
    logits[400] = INFINITY;
    assert_int_equal(phi_sampler_pick(&sampler, &scratch, &row, 0, &token, &err), PHI_E_INTERNAL);
    known[400] = 0;
    assert_int_equal(phi_sampler_pick(&sampler, &scratch, &row, 0, &token, &err), PHI_OK);
    memset(known, 0, sizeof known);
    assert_int_equal(phi_sampler_pick(&sampler, &scratch, &row, 0, &token, &err), PHI_E_INVALID);
    phi_sampler_scratch_done(&scratch);
    phi_sampler_done(&sampler);
}

static void test_parameters_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        size_t offset;
        float bad;
    } cases[] = {
        {"temperature", offsetof(phi_sampling, temperature), -0.1F},
        {"temperature", offsetof(phi_sampling, temperature), NAN},
        {"temperature", offsetof(phi_sampling, temperature), 2.1F},
        {"top_p", offsetof(phi_sampling, top_p), 0.0F},
        {"top_p", offsetof(phi_sampling, top_p), 1.01F},
        {"min_p", offsetof(phi_sampling, min_p), -0.01F},
        {"presence_penalty", offsetof(phi_sampling, presence_penalty), 2.5F},
        {"frequency_penalty", offsetof(phi_sampling, frequency_penalty), -INFINITY},
        {"repetition_penalty", offsetof(phi_sampling, repetition_penalty), 0.0F},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        phi_sampling s;
        phi_err err;
        phi_sampling_defaults(&s);
        assert_int_equal(phi_sampling_check(&s, N, &err), PHI_OK);
        memcpy((char *)&s + cases[i].offset, &cases[i].bad, sizeof(float));
        assert_int_equal(phi_sampling_check(&s, N, &err), PHI_E_INVALID);
        assert_string_equal(err.param, cases[i].name);
    }
    phi_sampling s;
    phi_err err;
    phi_logit_bias bias = {N, 1.0F};
    phi_sampling_defaults(&s);
    s.logit_bias = &bias;
    s.n_logit_bias = 1;
    assert_int_equal(phi_sampling_check(&s, N, &err), PHI_E_INVALID);
    assert_string_equal(err.param, "logit_bias");
}

static void test_logprobs(void **state)
{
    (void)state;
    phi_token_logprob top[20];
    float logprob;
    double sum = 0.0;
    for (int i = 0; i < N; i++) {
        sum += exp((double)logits[i]);
    }
    known[9] = 0;
    logits[9] = 4.9F;
    sum = 0.0;
    for (int i = 0; i < N; i++) {
        sum += exp((double)logits[i]);
    }
    assert_int_equal(phi_logprobs(&row, 42, 20, &logprob, top), 20);
    assert_true(fabs((double)logprob - ((double)logits[42] - log(sum))) < 1e-5);
    int ids[N];
    int n = 0;
    for (int i = 0; i < N; i++) {
        if (known[i]) {
            ids[n++] = i;
        }
    }
    qsort(ids, (size_t)n, sizeof ids[0], by_logit);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(top[i].token, ids[i]);
        assert_true(fabs((double)top[i].logprob - ((double)logits[ids[i]] - log(sum))) < 1e-5);
    }
    assert_int_equal(phi_logprobs(&row, 42, 0, &logprob, NULL), 0);
}

static void test_seeds(void **state)
{
    (void)state;
    phi_sampling s;
    phi_sampling_defaults(&s);
    s.has_seed = true;
    int same = 0;
    int other = 0;
    for (uint64_t place = 0; place < 200; place++) {
        s.seed = 1;
        int32_t first = pick(&s, place);
        same += first == pick(&s, place);
        s.seed = 2;
        other += first == pick(&s, place);
    }
    assert_int_equal(same, 200);
    assert_true(other < 60);
    s.has_seed = false;
    int32_t unseeded[2] = {0};
    for (uint64_t place = 0; place < 100; place++) {
        unseeded[0] += pick(&s, place) == pick(&s, place);
    }
    assert_true(unseeded[0] < 60);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_cuts_equal_sorting, fill),
        cmocka_unit_test_setup(test_frequencies_follow_probabilities, fill),
        cmocka_unit_test_setup(test_greedy_takes_lowest_of_equals_and_no_padding, fill),
        cmocka_unit_test_setup(test_penalties, fill),
        cmocka_unit_test_setup(test_bad_logits_are_an_error, fill),
        cmocka_unit_test_setup(test_parameters_are_named, fill),
        cmocka_unit_test_setup(test_logprobs, fill),
        cmocka_unit_test_setup(test_seeds, fill),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
