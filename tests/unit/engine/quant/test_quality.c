/* The report's figures are those of the two whole models, run in one piece. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "engine/model/forward.h"
#include "engine/model/weights.h"
#include "engine/quant/eval_text.h"
#include "engine/quant/quantize.h"
#include "engine/tokenizer/tokenizer.h"
#include "random_model.h"

/* The tests' tokenizer has one token for each byte and puts nothing before the text, and the
 * model's context is 256: windows are runs of 256 bytes. */
#define WINDOW 256

static phi_compute compute = {.priority = PHI_TEAM_INFERENCE};

static int start_team(void **state)
{
    (void)state;
    phi_err err = {0};
    assert_int_equal(phi_kernels_select(NULL, &compute.kernels, &err), PHI_OK);
    assert_int_equal(phi_team_create(2, &compute.team, &err), PHI_OK);
    return 0;
}

static int stop_team(void **state)
{
    (void)state;
    phi_team_destroy(compute.team);
    return 0;
}

typedef struct bench {
    fixture source;
    fixture target;
    char out[200];
    phi_quantize_options options;
    phi_quality quality;
    phi_err err;
} bench;

static void bench_init(bench *b, const random_model *model, const char *text)
{
    memset(b, 0, sizeof *b);
    fixture_init(&b->source);
    fixture_init(&b->target);
    random_model_write(&b->source, model);
    (void)snprintf(b->out, sizeof b->out, "%s/out.gguf", b->target.dir);
    b->options = (phi_quantize_options){
        .source = b->source.dir,
        .out_path = b->out,
        .group_size = 32,
        .symmetric = true,
        .measure = true,
        .eval_text = text,
        .eval_text_bytes = text ? strlen(text) : 0,
    };
}

static void bench_done(bench *b)
{
    fixture_done(&b->source);
    fixture_done(&b->target);
}

static void bench_must_run(bench *b, phi_precision precision)
{
    b->options.precision = precision;
    if (phi_quantize(&compute, &b->options, &b->quality, &b->err) != PHI_OK) {
        fail_msg("%s", b->err.message);
    }
}

/* Logits [count, V] of one window by the ordinary forward pass, all layers in memory. */
static void window_logits(const char *path, phi_kv_type kv_type, const uint8_t *text,
                          uint32_t count, float *out)
{
    phi_err err = {0};
    phi_checkpoint *checkpoint = NULL;
    phi_weights *weights = NULL;
    phi_forward_ctx *ctx = NULL;
    assert_int_equal(phi_checkpoint_open(path, &checkpoint, &err), PHI_OK);
    assert_int_equal(phi_weights_load(checkpoint, NULL, NULL, &weights, &err), PHI_OK);
    const phi_description *d = phi_checkpoint_description(checkpoint);
    const phi_forward_sizes sizes = {kv_type, WINDOW, WINDOW, phi_team_size(compute.team)};
    assert_int_equal(phi_forward_ctx_create(d, &sizes, &ctx, &err), PHI_OK);
    void *pages[WINDOW / PHI_KV_PAGE_TOKENS];
    for (size_t i = 0; i < WINDOW / PHI_KV_PAGE_TOKENS; i++) {
        pages[i] = phi_try_alloc_aligned(phi_kv_page_bytes(d, kv_type));
        assert_non_null(pages[i]);
    }
    phi_kv_view view = {.pages = pages};
    phi_row rows[WINDOW];
    for (uint32_t i = 0; i < count; i++) {
        rows[i] =
            (phi_row){.token = text[i], .position = i, .is_prompt = true, .want_logits = true};
    }
    const float *logits = phi_forward(ctx, &compute, weights, rows, count, &view);
    memcpy(out, logits, (size_t)count * d->n_vocab * sizeof *out);
    for (size_t i = 0; i < WINDOW / PHI_KV_PAGE_TOKENS; i++) {
        phi_free(pages[i]);
    }
    phi_forward_ctx_destroy(ctx);
    phi_weights_destroy(weights);
    phi_checkpoint_close(checkpoint);
}

static double log_sum(const float *x, uint32_t n)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < n; i++) {
        sum += exp((double)x[i]);
    }
    return log(sum);
}

static uint32_t best_of(const float *x, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++) {
        best = x[i] > x[best] ? i : best;
    }
    return best;
}

typedef struct figures {
    double nll_source;
    double nll_result;
    double kl;
    double kl_max;
    uint32_t agreed;
    uint32_t count;
} figures;

static void add_window(const bench *b, uint32_t n_vocab, phi_kv_type source_kv, const uint8_t *text,
                       uint32_t count, figures *sums)
{
    float *source = phi_alloc((size_t)count * n_vocab * sizeof *source);
    float *result = phi_alloc((size_t)count * n_vocab * sizeof *result);
    window_logits(b->source.dir, source_kv, text, count, source);
    window_logits(b->out, PHI_KV_F16, text, count, result);
    for (uint32_t t = 0; t + 1 < count; t++) {
        const float *a = source + (size_t)t * n_vocab;
        const float *r = result + (size_t)t * n_vocab;
        double log_a = log_sum(a, n_vocab);
        double log_r = log_sum(r, n_vocab);
        double kl = 0.0;
        for (uint32_t i = 0; i < n_vocab; i++) {
            double log_p = (double)a[i] - log_a;
            kl += exp(log_p) * (log_p - ((double)r[i] - log_r));
        }
        sums->nll_source += log_a - (double)a[text[t + 1]];
        sums->nll_result += log_r - (double)r[text[t + 1]];
        sums->kl += kl;
        sums->kl_max = kl > sums->kl_max ? kl : sums->kl_max;
        sums->agreed += best_of(a, n_vocab) == best_of(r, n_vocab);
        sums->count++;
    }
    phi_free(source);
    phi_free(result);
}

static void check_against_whole_models(phi_dtype dtype, bool tied, phi_precision precision)
{
    random_model model = RANDOM_MODEL_SMALL;
    model.dtype = dtype;
    model.tied = tied;
    char *text = phi_eval_text_make();
    text[300] = '\0'; /* a window and the beginning of another */
    bench b;
    bench_init(&b, &model, text);
    bench_must_run(&b, precision);
    phi_kv_type source_kv = dtype == PHI_DTYPE_F32 ? PHI_KV_F32 : PHI_KV_F16;
    figures sums = {0};
    add_window(&b, model.n_vocab, source_kv, (const uint8_t *)text, WINDOW, &sums);
    add_window(&b, model.n_vocab, source_kv, (const uint8_t *)text + WINDOW, 300 - WINDOW, &sums);
    double n = (double)sums.count;
    print_message("%s of %s: perplexity %.4f to %.4f, KL %.3g (p99 %.3g), top-1 %.3f\n",
                  phi_precision_name(precision), phi_dtype_get(dtype)->name,
                  b.quality.perplexity_source, b.quality.perplexity_result, b.quality.kl_mean,
                  b.quality.kl_p99, b.quality.top1_agreement);
    assert_true(b.quality.measured);
    assert_int_equal(b.quality.eval_tokens, sums.count);
    assert_true(fabs(b.quality.perplexity_source / exp(sums.nll_source / n) - 1.0) < 1e-6);
    assert_true(fabs(b.quality.perplexity_result / exp(sums.nll_result / n) - 1.0) < 1e-6);
    assert_true(fabs(b.quality.kl_mean - sums.kl / n) < 1e-8 + 1e-6 * sums.kl / n);
    assert_true(b.quality.kl_p99 <= sums.kl_max * (1.0 + 1e-6) + 1e-8);
    assert_true(b.quality.kl_p99 >= b.quality.kl_mean);
    assert_true(fabs(b.quality.top1_agreement - (double)sums.agreed / n) < 1e-9);
    phi_free(text);
    bench_done(&b);
}

static void test_figures_are_those_of_the_whole_models(void **state)
{
    (void)state;
    check_against_whole_models(PHI_DTYPE_F32, false, PHI_PRECISION_INT4);
    check_against_whole_models(PHI_DTYPE_F16, true, PHI_PRECISION_INT8);
    check_against_whole_models(PHI_DTYPE_BF16, false, PHI_PRECISION_INT4);
}

static void test_a_lossless_result_differs_by_nothing(void **state)
{
    (void)state;
    random_model model = RANDOM_MODEL_SMALL;
    model.dtype = PHI_DTYPE_BF16;
    bench b;
    bench_init(&b, &model, NULL);
    b.options.eval_tokens_max = 100;
    bench_must_run(&b, PHI_PRECISION_FP16);
    assert_int_equal(b.quality.eval_tokens, 99);
    assert_true(b.quality.kl_mean == 0.0 && b.quality.kl_p99 == 0.0);
    assert_true(b.quality.top1_agreement == 1.0);
    assert_true(b.quality.perplexity_source == b.quality.perplexity_result);
    assert_true(b.quality.weight_rmse == 0.0);
    assert_string_equal(b.quality.worst_tensor, "");
    bench_done(&b);
}

static void test_fewer_bits_differ_more(void **state)
{
    (void)state;
    bench b;
    bench_init(&b, &RANDOM_MODEL_SMALL, NULL);
    b.options.eval_tokens_max = 400;
    bench_must_run(&b, PHI_PRECISION_INT4);
    double int4 = b.quality.kl_mean;
    double int4_rmse = b.quality.worst_rmse;
    assert_true(b.quality.weight_rmse > 0.0 && b.quality.weight_rmse < int4_rmse);
    bench_must_run(&b, PHI_PRECISION_INT8);
    double int8 = b.quality.kl_mean;
    assert_true(b.quality.worst_rmse < int4_rmse / 8.0);
    assert_true(b.quality.top1_agreement > 0.9);
    assert_true(int8 > 0.0 && int8 < 1e-3 && int4 > 8.0 * int8 && int4 < 0.1);
    bench_done(&b);
}

static void test_a_text_of_one_token_is_refused(void **state)
{
    (void)state;
    bench b;
    bench_init(&b, &RANDOM_MODEL_SMALL, "x");
    b.options.precision = PHI_PRECISION_INT8;
    assert_int_equal(phi_quantize(&compute, &b.options, &b.quality, &b.err), PHI_E_INVALID);
    assert_string_equal(b.err.param, "eval_text");
    assert_int_not_equal(access(b.out, F_OK), 0);
    bench_done(&b);
}

/* Finite weights whose products are not. */
static void test_answers_that_are_no_numbers(void **state)
{
    (void)state;
    random_model model = RANDOM_MODEL_SMALL;
    model.dtype = PHI_DTYPE_F32;
    model.odd_tensor = "model.norm.weight";
    model.odd_value = 3e38F;
    bench b;
    bench_init(&b, &model, NULL);
    b.options.precision = PHI_PRECISION_INT8;
    b.options.eval_tokens_max = 40;
    assert_int_equal(phi_quantize(&compute, &b.options, &b.quality, &b.err), PHI_E_UNSUPPORTED);
    assert_non_null(strstr(b.err.message, "the source's answers are no finite numbers"));
    assert_int_not_equal(access(b.out, F_OK), 0);
    b.options.measure = false;
    bench_must_run(&b, PHI_PRECISION_INT8);
    bench_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_figures_are_those_of_the_whole_models),
        cmocka_unit_test(test_a_lossless_result_differs_by_nothing),
        cmocka_unit_test(test_fewer_bits_differ_more),
        cmocka_unit_test(test_a_text_of_one_token_is_refused),
        cmocka_unit_test(test_answers_that_are_no_numbers),
    };
    return cmocka_run_group_tests(tests, start_team, stop_team);
}
