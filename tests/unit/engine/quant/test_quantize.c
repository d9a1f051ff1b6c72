/* What the result holds, what is refused and by which words, and that nothing half-made stays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "engine/formats/checkpoint.h"
#include "engine/quant/quantize.h"
#include "random_model.h"

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

/* A source directory and an output path beside it. */
typedef struct bench {
    fixture source;
    fixture target;
    char out[200];
    phi_quantize_options options;
    phi_quality quality;
    phi_err err;
} bench;

static void bench_init(bench *b, const random_model *model, phi_precision precision)
{
    memset(b, 0, sizeof *b);
    fixture_init(&b->source);
    fixture_init(&b->target);
    random_model_write(&b->source, model);
    (void)snprintf(b->out, sizeof b->out, "%s/out.gguf", b->target.dir);
    b->options = (phi_quantize_options){
        .source = b->source.dir,
        .out_path = b->out,
        .precision = precision,
        .group_size = 32,
        .symmetric = true,
    };
}

static void bench_done(bench *b)
{
    fixture_done(&b->source);
    fixture_done(&b->target);
}

static phi_status bench_run(bench *b)
{
    memset(&b->err, 0, sizeof b->err);
    return phi_quantize(&compute, &b->options, &b->quality, &b->err);
}

static void bench_must_run(bench *b)
{
    if (bench_run(b) != PHI_OK) {
        fail_msg("%s", b->err.message);
    }
}

static size_t files_in(const char *path)
{
    size_t count = 0;
    DIR *dir = opendir(path);
    assert_non_null(dir);
    for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
        count += entry->d_name[0] != '.';
    }
    (void)closedir(dir);
    return count;
}

static phi_checkpoint *must_open(const char *path)
{
    phi_checkpoint *checkpoint = NULL;
    phi_err err = {0};
    if (phi_checkpoint_open(path, &checkpoint, &err) != PHI_OK) {
        fail_msg("%s", err.message);
    }
    return checkpoint;
}

static float *must_widen(const phi_checkpoint *checkpoint, const char *name, size_t *out_count)
{
    const phi_tensor *tensor = phi_checkpoint_find(checkpoint, name);
    assert_non_null(tensor);
    size_t count = (size_t)tensor->rows * tensor->cols;
    float *values = phi_alloc(count * sizeof *values);
    uint8_t *scratch = phi_alloc(tensor->bytes);
    phi_err err = {0};
    assert_int_equal(
        phi_checkpoint_read_rows_f32(checkpoint, tensor, 0, tensor->rows, scratch, values, &err),
        PHI_OK);
    phi_free(scratch);
    *out_count = count;
    return values;
}

/* Root mean square of the difference, relative to that of the source. */
static double relative_error(const phi_checkpoint *source, const phi_checkpoint *result,
                             const char *name)
{
    size_t count = 0;
    float *a = must_widen(source, name, &count);
    float *b = must_widen(result, name, &count);
    double error = 0.0;
    double weight = 0.0;
    for (size_t i = 0; i < count; i++) {
        double difference = (double)a[i] - (double)b[i];
        error += difference * difference;
        weight += (double)a[i] * (double)a[i];
    }
    phi_free(a);
    phi_free(b);
    return sqrt(error / weight);
}

typedef struct expectation {
    phi_precision precision;
    bool symmetric;
    uint32_t group;
    phi_dtype source;
    phi_dtype matrix;
    phi_dtype ends;
    double error_min;
    double error_max;
    uint32_t quantized;
} expectation;

static const expectation EXPECTATIONS[] = {
    {PHI_PRECISION_INT4, true, 32, PHI_DTYPE_F32, PHI_DTYPE_Q4_0, PHI_DTYPE_Q8_0, 0.05, 0.1, 10},
    {PHI_PRECISION_INT4, true, 64, PHI_DTYPE_BF16, PHI_DTYPE_Q4_0, PHI_DTYPE_Q8_0, 0.05, 0.11, 10},
    {PHI_PRECISION_INT4, false, 32, PHI_DTYPE_F16, PHI_DTYPE_Q4_1, PHI_DTYPE_Q8_0, 0.05, 0.09, 10},
    {PHI_PRECISION_INT8, true, 0, PHI_DTYPE_F16, PHI_DTYPE_Q8_0, PHI_DTYPE_Q8_0, 1e-3, 7e-3, 10},
    {PHI_PRECISION_FP16, true, 0, PHI_DTYPE_F32, PHI_DTYPE_F16, PHI_DTYPE_F16, 1e-5, 3e-4, 10},
    {PHI_PRECISION_FP16, true, 0, PHI_DTYPE_BF16, PHI_DTYPE_BF16, PHI_DTYPE_BF16, 0.0, 0.0, 0},
    {PHI_PRECISION_FP16, true, 0, PHI_DTYPE_F16, PHI_DTYPE_F16, PHI_DTYPE_F16, 0.0, 0.0, 0},
    {PHI_PRECISION_FP32, true, 0, PHI_DTYPE_BF16, PHI_DTYPE_F32, PHI_DTYPE_F32, 0.0, 0.0, 0},
};

static void check_expectation(const expectation *e)
{
    random_model model = RANDOM_MODEL_SMALL;
    model.dtype = e->source;
    bench b;
    bench_init(&b, &model, e->precision);
    b.options.symmetric = e->symmetric;
    b.options.group_size = e->group;
    bench_must_run(&b);
    phi_checkpoint *source = must_open(b.source.dir);
    phi_checkpoint *result = must_open(b.out);
    assert_string_equal(phi_checkpoint_format(result), "gguf");
    assert_int_equal(phi_checkpoint_count(source), phi_checkpoint_count(result));
    double worst = 0.0;
    for (size_t i = 0; i < phi_checkpoint_count(source); i++) {
        const phi_tensor *before = phi_checkpoint_at(source, i);
        const phi_tensor *after = phi_checkpoint_at(result, i);
        assert_string_equal(before->name, after->name);
        assert_int_equal(before->rows, after->rows);
        assert_int_equal(before->cols, after->cols);
        bool layer = strncmp(after->name, "blk.", 4) == 0;
        phi_dtype expected = before->n_dims == 1 ? PHI_DTYPE_F32 : layer ? e->matrix : e->ends;
        assert_int_equal(after->dtype, expected);
        double error = relative_error(source, result, before->name);
        if (before->n_dims == 1) {
            assert_true(error == 0.0);
        } else if (layer) {
            assert_true(error >= e->error_min && error <= e->error_max);
        }
        worst = error > worst ? error : worst;
    }
    assert_int_equal(b.quality.tensors, phi_checkpoint_count(source));
    assert_int_equal(b.quality.tensors_quantized, e->quantized);
    assert_true(fabs(b.quality.worst_rmse - worst) <= 1e-9);
    assert_true(b.quality.weight_rmse <= b.quality.worst_rmse);
    assert_string_equal(b.quality.matrix_type, phi_dtype_get(e->matrix)->name);
    assert_string_equal(b.quality.embedding_type, phi_dtype_get(e->ends)->name);
    assert_string_equal(b.quality.head_type, phi_dtype_get(e->ends)->name);
    assert_int_equal(b.quality.source_bytes, phi_checkpoint_bytes(source));
    assert_true(b.quality.result_bytes > phi_checkpoint_bytes(result));
    assert_false(b.quality.measured);
    phi_checkpoint_close(source);
    phi_checkpoint_close(result);
    assert_int_equal(files_in(b.target.dir), 1);
    bench_done(&b);
}

static void test_every_precision(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof EXPECTATIONS / sizeof EXPECTATIONS[0]; i++) {
        print_message("%s from %s, group %u\n", phi_precision_name(EXPECTATIONS[i].precision),
                      phi_dtype_get(EXPECTATIONS[i].source)->name, EXPECTATIONS[i].group);
        check_expectation(&EXPECTATIONS[i]);
    }
}

static void test_metadata(void **state)
{
    (void)state;
    random_model model = RANDOM_MODEL_SMALL;
    model.long_rope = true;
    model.tied = true;
    bench b;
    bench_init(&b, &model, PHI_PRECISION_INT4);
    b.options.group_size = 64;
    b.options.name = "small-test";
    bench_must_run(&b);
    phi_checkpoint *source = must_open(b.source.dir);
    phi_checkpoint *result = must_open(b.out);
    const phi_gguf *gguf = phi_checkpoint_gguf(result);
    uint32_t number = 0;
    assert_true(phi_gguf_get_u32(gguf, "general.file_type", &number));
    assert_int_equal(number, 2);
    assert_true(phi_gguf_get_u32(gguf, "general.quantization_version", &number));
    assert_int_equal(number, 2);
    assert_true(phi_gguf_get_u32(gguf, "phid.quantization.group_size", &number));
    assert_int_equal(number, 64);
    phi_gguf_string text;
    assert_true(phi_gguf_get_string(gguf, "general.quantized_by", &text));
    assert_string_equal(text.text, "phid " PHID_VERSION);
    assert_true(phi_gguf_get_string(gguf, "general.name", &text));
    assert_string_equal(text.text, "small-test");
    assert_non_null(phi_gguf_find(gguf, "tokenizer.ggml.tokens"));
    const phi_description *before = phi_checkpoint_description(source);
    const phi_description *after = phi_checkpoint_description(result);
    assert_int_equal(after->rope, PHI_ROPE_LONG);
    assert_memory_equal(before->rope_long, after->rope_long, sizeof before->rope_long);
    assert_memory_equal(before->rope_short, after->rope_short, sizeof before->rope_short);
    assert_true(after->tied_head);
    assert_null(phi_checkpoint_find(result, "output.weight"));
    assert_string_equal(b.quality.head_type, "Q8_0");
    phi_checkpoint_close(source);
    phi_checkpoint_close(result);
    bench_done(&b);
}

static void test_groups_of_64_share_a_scale(void **state)
{
    (void)state;
    bench b;
    bench_init(&b, &RANDOM_MODEL_SMALL, PHI_PRECISION_INT4);
    b.options.group_size = 64;
    bench_must_run(&b);
    phi_checkpoint *result = must_open(b.out);
    const phi_tensor *tensor = phi_checkpoint_find(result, "blk.1.ffn_down.weight");
    assert_int_equal(tensor->cols, 192);
    phi_block_q4_0 blocks[6];
    assert_int_equal(phi_checkpoint_read_rows(result, tensor, 3, 1, blocks, &b.err), PHI_OK);
    for (int i = 0; i < 6; i += 2) {
        assert_int_equal(blocks[i].d, blocks[i + 1].d);
    }
    assert_true(blocks[0].d != blocks[2].d);
    phi_checkpoint_close(result);
    bench_done(&b);
}

static void test_columns_that_are_not_whole_blocks_stay_at_16_bits(void **state)
{
    (void)state;
    random_model model = RANDOM_MODEL_SMALL;
    model.n_ffn = 176;
    bench b;
    bench_init(&b, &model, PHI_PRECISION_INT4);
    bench_must_run(&b);
    phi_checkpoint *result = must_open(b.out);
    assert_int_equal(phi_checkpoint_find(result, "blk.0.ffn_down.weight")->dtype, PHI_DTYPE_F16);
    assert_int_equal(phi_checkpoint_find(result, "blk.0.ffn_up.weight")->dtype, PHI_DTYPE_Q4_0);
    phi_checkpoint_close(result);
    bench_done(&b);
}

static void test_wrong_options_are_named(void **state)
{
    (void)state;
    random_model model = RANDOM_MODEL_SMALL;
    model.n_ffn = 160; /* down_proj: 160 columns */
    bench b;
    bench_init(&b, &model, PHI_PRECISION_INT4);
    b.options.group_size = 48;
    assert_int_equal(bench_run(&b), PHI_E_INVALID);
    assert_string_equal(b.err.param, "group_size");
    b.options.group_size = 64;
    assert_int_equal(bench_run(&b), PHI_E_INVALID);
    assert_string_equal(b.err.param, "group_size");
    assert_non_null(strstr(b.err.message, "blk.0.ffn_down.weight"));
    assert_non_null(strstr(b.err.message, "160"));
    assert_non_null(strstr(b.err.message, "takes a group_size of 32"));
    b.options.type = "q4_k_x";
    assert_int_equal(bench_run(&b), PHI_E_INVALID);
    assert_string_equal(b.err.param, "type");
    assert_non_null(strstr(b.err.message, "q4_k_m"));
    b.options.type = NULL;
    b.options.precision = PHI_PRECISION_COUNT;
    assert_int_equal(bench_run(&b), PHI_E_INVALID);
    assert_string_equal(b.err.param, "precision");
    b.options.precision = PHI_PRECISION_FP32;
    char name[200];
    memset(name, 'n', sizeof name);
    name[sizeof name - 1] = '\0';
    b.options.name = name;
    assert_int_equal(bench_run(&b), PHI_E_INVALID);
    assert_string_equal(b.err.param, "name");
    b.options.name = NULL;
    char missing[250];
    (void)snprintf(missing, sizeof missing, "%s/none/out.gguf", b.target.dir);
    b.options.out_path = missing;
    assert_int_equal(bench_run(&b), PHI_E_NOT_FOUND);
    assert_non_null(strstr(b.err.message, "none/out.gguf"));
    b.options.out_path = b.target.dir;
    assert_int_equal(bench_run(&b), PHI_E_INVALID);
    assert_non_null(strstr(b.err.message, "a directory"));
    assert_int_equal(files_in(b.target.dir), 0);
    bench_done(&b);
}

static void check_odd_value(phi_precision precision, float value, phi_status expected)
{
    random_model model = RANDOM_MODEL_SMALL;
    model.odd_tensor = "model.layers.1.self_attn.o_proj.weight";
    model.odd_value = value;
    bench b;
    bench_init(&b, &model, precision);
    assert_int_equal(bench_run(&b), expected);
    if (expected != PHI_OK) {
        assert_non_null(strstr(b.err.message, "blk.1.attn_output.weight"));
        assert_non_null(strstr(b.err.message, "row 0, column 5"));
        assert_int_equal(files_in(b.target.dir), 0);
    }
    bench_done(&b);
}

static void test_weights_that_do_not_fit_are_named(void **state)
{
    (void)state;
    check_odd_value(PHI_PRECISION_FP16, 70000.0F, PHI_E_UNSUPPORTED);
    check_odd_value(PHI_PRECISION_INT8, 70000.0F, PHI_OK);
    check_odd_value(PHI_PRECISION_INT4, 1e9F, PHI_E_UNSUPPORTED);
    check_odd_value(PHI_PRECISION_FP32, NAN, PHI_E_FORMAT);
    check_odd_value(PHI_PRECISION_INT4, INFINITY, PHI_E_FORMAT);
}

static void test_a_source_without_tokenizer_is_refused(void **state)
{
    (void)state;
    random_model model = RANDOM_MODEL_SMALL;
    model.without_tokenizer = true;
    bench b;
    bench_init(&b, &model, PHI_PRECISION_INT8);
    assert_int_not_equal(bench_run(&b), PHI_OK);
    assert_non_null(strstr(b.err.message, "tokenizer.json"));
    assert_int_equal(files_in(b.target.dir), 0);
    bench_done(&b);
}

static void test_a_quantized_source(void **state)
{
    (void)state;
    bench b;
    bench_init(&b, &RANDOM_MODEL_SMALL, PHI_PRECISION_INT4);
    bench_must_run(&b);
    char again[200];
    (void)snprintf(again, sizeof again, "%s/again.gguf", b.target.dir);
    b.options.source = b.out;
    b.options.out_path = again;
    bench_must_run(&b);
    assert_int_equal(b.quality.tensors_quantized, 0);
    phi_checkpoint *first = must_open(b.out);
    phi_checkpoint *second = must_open(again);
    const phi_tensor *tensor = phi_checkpoint_find(first, "blk.0.ffn_up.weight");
    assert_true(relative_error(first, second, tensor->name) == 0.0);
    phi_checkpoint_close(second);
    b.options.precision = PHI_PRECISION_FP32;
    bench_must_run(&b);
    second = must_open(again);
    assert_int_equal(phi_checkpoint_find(second, tensor->name)->dtype, PHI_DTYPE_F32);
    assert_true(relative_error(first, second, tensor->name) == 0.0);
    phi_checkpoint_close(second);
    phi_checkpoint_close(first);
    bench_done(&b);
}

/* The file's general.file_type. */
static uint32_t file_type_of(const phi_checkpoint *checkpoint)
{
    uint32_t number = 0;
    assert_true(phi_gguf_get_u32(phi_checkpoint_gguf(checkpoint), "general.file_type", &number));
    return number;
}

/* A mix is written as named, is copied where it is asked for again, and can be a source. */
static void test_a_mix(void **state)
{
    (void)state;
    random_model model = RANDOM_MODEL_SMALL;
    model.n_embd = 256;
    model.n_ffn = 512;
    bench b;
    bench_init(&b, &model, PHI_PRECISION_INT4);
    b.options.type = "q4_k_m";
    b.options.measure = true;
    bench_must_run(&b);
    assert_string_equal(b.quality.matrix_type, "Q4_K");
    assert_string_equal(b.quality.embedding_type, "Q4_K");
    assert_string_equal(b.quality.head_type, "Q6_K");
    assert_true(b.quality.measured && b.quality.kl_mean < 0.05);
    phi_checkpoint *source = must_open(b.source.dir);
    phi_checkpoint *mix = must_open(b.out);
    assert_int_equal(file_type_of(mix), 15);
    assert_int_equal(phi_checkpoint_find(mix, "blk.0.attn_qkv.weight")->dtype, PHI_DTYPE_Q5_K);
    /* Of two layers, the last is in the outer eighth. */
    assert_int_equal(phi_checkpoint_find(mix, "blk.0.ffn_down.weight")->dtype, PHI_DTYPE_Q4_K);
    assert_int_equal(phi_checkpoint_find(mix, "blk.1.ffn_down.weight")->dtype, PHI_DTYPE_Q6_K);
    assert_true(relative_error(source, mix, "blk.0.ffn_up.weight") < 0.08);
    assert_true(relative_error(source, mix, "blk.0.attn_qkv.weight") < 0.04);
    assert_true(relative_error(source, mix, "output.weight") < 0.02);
    char again[200];
    (void)snprintf(again, sizeof again, "%s/again.gguf", b.target.dir);
    b.options.measure = false;
    b.options.source = b.out;
    b.options.out_path = again;
    static const char *const types[] = {"Q4_K_M", "q6_k", NULL};
    static const double errors[] = {0.0, 0.03, 0.12};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        b.options.type = types[i];
        bench_must_run(&b);
        phi_checkpoint *second = must_open(again);
        double error = relative_error(mix, second, "blk.0.ffn_up.weight");
        assert_true(error <= errors[i] && (error > 0) == (i > 0));
        phi_checkpoint_close(second);
    }
    phi_checkpoint_close(mix);
    phi_checkpoint_close(source);
    bench_done(&b);
}

typedef struct watch {
    int calls;
    int stop_at; /* the call that says stop; 0: none */
    double fraction;
    unsigned stages; /* bits */
    bool fell;
    const char *target; /* must stay empty of finished files */
} watch;

static bool watch_progress(void *user, const phi_quantize_progress *progress)
{
    watch *w = user;
    w->calls++;
    w->fell = w->fell || progress->fraction < w->fraction || progress->fraction > 1.0;
    w->fraction = progress->fraction;
    w->stages |= 1U << progress->stage;
    assert_non_null(progress->tensor);
    assert_true(progress->bytes_done <= progress->bytes_total);
    assert_int_not_equal(access(w->target, F_OK), 0);
    return w->calls != w->stop_at;
}

static void test_progress_rises_and_a_stop_leaves_nothing(void **state)
{
    (void)state;
    bench b;
    bench_init(&b, &RANDOM_MODEL_SMALL, PHI_PRECISION_INT4);
    watch w = {.target = b.out};
    b.options.progress = watch_progress;
    b.options.progress_user = &w;
    b.options.measure = true;
    b.options.eval_tokens_max = 64;
    bench_must_run(&b);
    assert_false(w.fell);
    assert_true(w.fraction == 1.0);
    assert_int_equal(w.stages, 1U << PHI_STAGE_READING | 1U << PHI_STAGE_QUANTIZING |
                                   1U << PHI_STAGE_WRITING | 1U << PHI_STAGE_EVALUATING);
    int calls = w.calls;
    assert_true(calls > 20);
    assert_int_equal(unlink(b.out), 0);
    for (int stop_at = 1; stop_at <= calls; stop_at += stop_at < calls - 2 ? 3 : 1) {
        w = (watch){.target = b.out, .stop_at = stop_at};
        phi_status status = bench_run(&b);
        if (status == PHI_OK) {
            /* A slow machine was asked more often the first time. */
            assert_true(w.calls < stop_at);
            assert_int_equal(unlink(b.out), 0);
            break;
        }
        assert_int_equal(status, PHI_E_CANCELLED);
        assert_int_equal(w.calls, stop_at);
        assert_int_equal(files_in(b.target.dir), 0);
    }
    bench_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_precision),
        cmocka_unit_test(test_metadata),
        cmocka_unit_test(test_groups_of_64_share_a_scale),
        cmocka_unit_test(test_columns_that_are_not_whole_blocks_stay_at_16_bits),
        cmocka_unit_test(test_wrong_options_are_named),
        cmocka_unit_test(test_weights_that_do_not_fit_are_named),
        cmocka_unit_test(test_a_source_without_tokenizer_is_refused),
        cmocka_unit_test(test_a_quantized_source),
        cmocka_unit_test(test_a_mix),
        cmocka_unit_test(test_progress_rises_and_a_stop_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, start_team, stop_team);
}
