/* Planning of runs, and the arithmetic of shares. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/bench/bench.h"
#include "engine/bench/bench_internal.h"

#define SAMPLE PHID_SOURCE_DIR "/models/phi-sample"

static phi_compute compute;

static int begin(void **state)
{
    (void)state;
    compute.priority = PHI_TEAM_INFERENCE;
    return phi_kernels_select(NULL, &compute.kernels, NULL) ||
                   phi_team_create(2, &compute.team, NULL)
               ? -1
               : 0;
}

static int end(void **state)
{
    (void)state;
    phi_team_destroy(compute.team);
    return 0;
}

static void near(double a, double b)
{
    assert_true(fabs(a - b) <= 1e-9 * fabs(b));
}

/* ---- shares ---- */

static const phi_ceilings ceilings = {
    .read_bytes_s = 100e9, .int8_ops_s = 1000e9, .fp32_ops_s = 200e9};

/* 10 tokens in a second. */
static phi_bench_run one_second(bool prefill)
{
    phi_bench_run run = {.prefill = prefill, .batch = 2, .tokens = 5};
    run.tokens_s.median = 10.0;
    run.parts[PHI_FORWARD_MATRICES] = 0.5;
    run.parts[PHI_FORWARD_ATTENTION] = 0.5;
    return run;
}

static void test_decode_is_bound_by_reading(void **state)
{
    (void)state;
    phi_bench_run run = one_second(false);
    run.weight_bytes = 40e9;
    run.kv_bytes = 20e9;
    run.ops_int = 300e9;
    phi_bench_share(&run, &ceilings);
    near(run.read_bytes_s, 60e9);
    near(run.ops_s, 300e9);
    assert_int_equal(PHI_BENCH_LIMIT_READ, run.limit);
    near(run.share, 0.6);
    near(run.ops_share, 0.3);
    /* 40 of 100 GB/s, in half of the time. */
    near(run.matrices_share, 0.8);
}

static void test_prefill_is_bound_by_arithmetic(void **state)
{
    (void)state;
    phi_bench_run run = one_second(true);
    run.weight_bytes = 10e9;
    run.ops_int = 400e9;
    phi_bench_share(&run, &ceilings);
    assert_int_equal(PHI_BENCH_LIMIT_INT8, run.limit);
    near(run.share, 0.4);
    near(run.read_share, 0.1);
    near(run.matrices_share, 0.8);
    run.ops_int = 0.0;
    run.ops_float = 100e9;
    phi_bench_share(&run, &ceilings);
    assert_int_equal(PHI_BENCH_LIMIT_FP32, run.limit);
    near(run.share, 0.5);
    /* Both kinds: their times add up. */
    run.ops_int = 200e9;
    phi_bench_share(&run, &ceilings);
    near(run.share, 0.7);
}

static void test_unknown_arithmetic(void **state)
{
    (void)state;
    const phi_ceilings portable = {.read_bytes_s = 100e9};
    phi_bench_run run = one_second(true);
    run.weight_bytes = 10e9;
    run.ops_int = 400e9;
    phi_bench_share(&run, &portable);
    assert_int_equal(PHI_BENCH_LIMIT_UNKNOWN, run.limit);
    assert_true(run.ops_share == 0.0 && run.matrices_share == 0.0);
    run.prefill = false;
    phi_bench_share(&run, &portable);
    assert_int_equal(PHI_BENCH_LIMIT_READ, run.limit);
    near(run.share, 0.1);
}

/* ---- plans ---- */

static void refused(const phi_bench_options *options, phi_status status, const char *text)
{
    phi_bench *bench = NULL;
    phi_err err = {0};
    assert_int_equal(status, phi_bench_open(&compute, options, &bench, &err));
    assert_null(bench);
    if (!strstr(err.message, text)) {
        fail_msg("'%s' does not say '%s'", err.message, text);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    refused(&(phi_bench_options){.synthetic = "phi-9"}, PHI_E_INVALID, "phi-9");
    refused(&(phi_bench_options){.path = SAMPLE, .precision = "int4"}, PHI_E_INVALID, "precision");
    refused(&(phi_bench_options){.path = SAMPLE, .layers = 1}, PHI_E_INVALID, "layers");
    refused(&(phi_bench_options){.path = SAMPLE, .kv_type = "int2"}, PHI_E_INVALID, "int2");
    refused(&(phi_bench_options){.path = SAMPLE, .prompt = 1025}, PHI_E_INVALID, "1024");
    refused(&(phi_bench_options){.path = SAMPLE, .generate = 2, .contexts = {{1023}, 1}},
            PHI_E_INVALID, "1025");
    refused(&(phi_bench_options){.path = SAMPLE, .batches = {{0}, 1}}, PHI_E_INVALID, "batch");
    refused(&(phi_bench_options){.path = SAMPLE, .batch_tokens = 100000}, PHI_E_INVALID, "100000");
    refused(
        &(phi_bench_options){.path = SAMPLE, .prompt = PHI_BENCH_NONE, .generate = PHI_BENCH_NONE},
        PHI_E_INVALID, "nothing");
    refused(&(phi_bench_options){.path = "/nonexistent/model"}, PHI_E_NOT_FOUND, "/nonexistent");
    /* 512 sequences of 131072 tokens: 25 TB. */
    refused(&(phi_bench_options){.synthetic = "phi-3.5-mini",
                                 .generate = 1,
                                 .batches = {{512}, 1},
                                 .contexts = {{131071}, 1}},
            PHI_E_NO_MEMORY, "MB are available");
}

static void test_defaults_fit_the_model(void **state)
{
    (void)state;
    phi_bench *bench = NULL;
    phi_bench_about about;
    const phi_bench_options options = {.path = SAMPLE};
    assert_int_equal(PHI_OK, phi_bench_open(&compute, &options, &bench, NULL));
    phi_bench_about_get(bench, &about);
    assert_string_equal("FP16", about.kind);
    assert_string_equal("safetensors", about.format);
    assert_string_equal("f16", about.kv_type);
    assert_int_equal(4, about.n_layer);
    assert_int_equal(256, about.batch_tokens);
    assert_int_equal(3, about.repeat);
    assert_true(strlen(about.cpu) > 0);
    /* Prefill, and batches of 1 and 8 at 0 and at what the context of 1024 has room for. */
    assert_int_equal(5, bench->n_runs);
    assert_true(bench->runs[0].prefill && bench->runs[0].tokens == 512);
    assert_int_equal(0, bench->runs[2].context);
    assert_int_equal(8, bench->runs[2].batch);
    assert_int_equal(960, bench->runs[4].context);
    phi_bench_close(bench);
}

/* ---- measuring ---- */

static bool count_calls(void *user, const char *what)
{
    unsigned *calls = user;
    assert_true(strlen(what) > 0);
    return ++*calls < 1000;
}

static bool stop_in_runs(void *user, const char *what)
{
    (void)user;
    return strncmp(what, "run", 3) != 0;
}

static const phi_bench_options small = {.path = SAMPLE,
                                        .prompt = 40,
                                        .generate = 3,
                                        .batch_tokens = 16,
                                        .repeat = 2,
                                        .batches = {{1, 3}, 2},
                                        .contexts = {{0, 100}, 2},
                                        .ceiling_bytes = 1U << 20,
                                        .ceiling_ms = 10};

static void test_measures_the_sample(void **state)
{
    (void)state;
    phi_bench *bench = NULL;
    unsigned calls = 0;
    phi_bench_report *report = phi_alloc_zero(1, sizeof *report);
    assert_int_equal(PHI_OK, phi_bench_open(&compute, &small, &bench, NULL));
    assert_int_equal(PHI_OK, phi_bench_measure(bench, count_calls, &calls, report, NULL));
    assert_int_equal(5, report->n_runs);
    assert_true(calls > 10);
    for (size_t i = 0; i < report->n_runs; i++) {
        const phi_bench_run *run = &report->runs[i];
        assert_true(run->tokens_s.median > 0.0 && run->tokens_s.min <= run->tokens_s.max);
        near(run->parts[0] + run->parts[1] + run->parts[2], 1.0);
        assert_true(run->parts[0] > 0.0 && run->parts[1] > 0.0 && run->parts[2] > 0.0);
        assert_true(run->read_bytes_s > 0.0 && run->ops_s > 0.0);
        assert_true(run->ops_int == 0.0 && run->ops_float > 0.0);
    }
    /* Layers [4]: qkv 512 x 256, out 256 x 256, gate and up 1024 x 256, down 256 x 512; head 1024 x
     * 256. A prompt needs the head once, and what follows the attention of the last layer. */
    double after = 256.0 * (256 + 1024 + 512);
    double layers = 4 * (256.0 * 512 + after);
    double head = 1024.0 * 256;
    near(report->runs[0].ops_float, 2 * ((layers - after) * 40 + after + head));
    near(report->runs[2].ops_float, 2 * (layers + head) * 3 * 3);
    /* Three steps of decode and of a prompt read all layers three times, in fp16. */
    near(report->runs[1].weight_bytes, 2 * (layers + head) * 3);
    near(report->runs[2].weight_bytes, 2 * (layers + head) * 3);
    near(report->runs[0].weight_bytes, 2 * ((layers - after) * 3 + after + head));
    /* Keys and values of 2 heads of 64 in 4 layers; steps at 100, 101 and 102 see one more each. */
    near(report->runs[4].kv_bytes, 3 * (101 + 102 + 103) * 4 * 2 * 2 * 64 * 2.0);
    near(report->runs[0].kv_bytes, (16 + 32 + 40) * 4 * 2 * 2 * 64 * 2.0);
    phi_bench_close(bench);
    phi_free(report);
}

static void test_stops(void **state)
{
    (void)state;
    phi_bench *bench = NULL;
    phi_bench_report *report = phi_alloc_zero(1, sizeof *report);
    assert_int_equal(PHI_OK, phi_bench_open(&compute, &small, &bench, NULL));
    assert_int_equal(PHI_E_CANCELLED, phi_bench_measure(bench, stop_in_runs, NULL, report, NULL));
    assert_int_equal(0, report->n_runs);
    phi_bench_close(bench);
    phi_free(report);
}

/* Whichever allocation fails, the answer is the error, and nothing leaks. */
static void test_lacks_memory(void **state)
{
    (void)state;
    phi_bench *bench = NULL;
    phi_bench_report *report = phi_alloc_zero(1, sizeof *report);
    phi_status status = PHI_E_NO_MEMORY;
    assert_int_equal(PHI_OK, phi_bench_open(&compute, &small, &bench, NULL));
    for (int64_t n = 0; status && n < 200; n++) {
        phi_mem_fail_after(n);
        status = phi_bench_measure(bench, NULL, NULL, report, NULL);
        assert_true(status == PHI_OK || status == PHI_E_NO_MEMORY);
    }
    phi_mem_fail_after(-1);
    assert_int_equal(PHI_OK, status);
    phi_bench_close(bench);
    phi_free(report);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode_is_bound_by_reading),
        cmocka_unit_test(test_prefill_is_bound_by_arithmetic),
        cmocka_unit_test(test_unknown_arithmetic),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_defaults_fit_the_model),
        cmocka_unit_test(test_measures_the_sample),
        cmocka_unit_test(test_stops),
        cmocka_unit_test(test_lacks_memory),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
