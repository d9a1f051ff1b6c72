/* What is written as a folder of ONNX Runtime GenAI is what the reader finds in it: the same codes,
 * scales and zero points, the same floats, the same description. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/formats/onnx.h"
#include "engine/formats/onnx_write.h"
#include "engine/tensor/half.h"
#include "fixture.h"

enum { TENSORS_MAX = 20 };

static fixture f;
static phi_description description;
static phi_export_tensor tensors[TENSORS_MAX];
static char names[TENSORS_MAX][64];
static uint32_t n_tensors;
static const char *too_large; /* the tensor that holds 70000 */
static uint32_t calls_left;   /* of progress, until it says stop; 0: never */

static uint32_t mix(const phi_export_tensor *tensor, uint64_t index)
{
    uint64_t seed = (uint64_t)(tensor - tensors) * 0x9E3779B97F4A7C15U + index;
    seed = (seed ^ seed >> 30) * 0xBF58476D1CE4E5B9U;
    return (uint32_t)((seed ^ seed >> 27) * 0x94D049BB133111EBU >> 32);
}

static uint8_t code(const phi_export_tensor *tensor, uint64_t index)
{
    return (uint8_t)(mix(tensor, index) & ((1U << tensor->bits) - 1));
}

static float scale(const phi_export_tensor *tensor, uint64_t index)
{
    return ((float)(mix(tensor, index + 1000003) % 4000) - 2000.5F) / 65536.0F;
}

static uint8_t zero(const phi_export_tensor *tensor, uint64_t index)
{
    return code(tensor, index + 2000003);
}

static float value(const phi_export_tensor *tensor, uint64_t index)
{
    float wide = ((float)(mix(tensor, index) % 60000) - 30000.0F) / 16384.0F;
    return tensor->bits == 16 ? phi_half_to_float(phi_half_of_float(wide)) : wide;
}

static phi_status read_codes(void *user, const phi_export_tensor *tensor, uint32_t row,
                             uint32_t count, uint8_t *codes, float *scales, float *zeros,
                             phi_err *err)
{
    uint64_t groups = tensor->cols / tensor->group;
    (void)user;
    (void)err;
    assert_true(tensor->bits <= 8);
    assert_true(zeros == NULL || tensor->zero_rule == PHI_ZERO_INTEGER);
    for (uint64_t i = 0; i < (uint64_t)count * tensor->cols; i++) {
        codes[i] = code(tensor, (uint64_t)row * tensor->cols + i);
    }
    for (uint64_t i = 0; i < count * groups; i++) {
        scales[i] = scale(tensor, row * groups + i);
        if (zeros) {
            zeros[i] = zero(tensor, row * groups + i);
        }
    }
    return PHI_OK;
}

static phi_status read_f32(void *user, const phi_export_tensor *tensor, uint32_t row,
                           uint32_t count, float *out, phi_err *err)
{
    (void)user;
    (void)err;
    assert_true(tensor->bits >= 16);
    for (uint64_t i = 0; i < (uint64_t)count * tensor->cols; i++) {
        out[i] = value(tensor, (uint64_t)row * tensor->cols + i);
    }
    if (too_large && strcmp(too_large, tensor->name) == 0) {
        out[5] = 70000.0F;
    }
    return PHI_OK;
}

static bool progress(void *user, uint64_t bytes_done, uint64_t bytes_total)
{
    (void)user;
    assert_true(bytes_done <= bytes_total);
    return calls_left == 0 || --calls_left > 0;
}

/* ---- exports ---- */

typedef struct spec {
    uint32_t bits;
    uint32_t group;
    phi_zero_rule rule;
    bool tied;
    bool long_rope;
    bool phi2;
    uint32_t window;
    phi_onnx_provider provider;
} spec;

/* What a folder for CUDA makes of a number. */
static float rounded(float value, phi_dtype dtype)
{
    return dtype == PHI_DTYPE_F16 ? phi_half_to_float(phi_half_of_float(value)) : value;
}

static void add(const spec *s, const char *name, uint32_t rows, uint32_t cols)
{
    phi_export_tensor *tensor = &tensors[n_tensors];
    (void)snprintf(names[n_tensors], sizeof names[0], "%s", name);
    *tensor = (phi_export_tensor){.name = names[n_tensors++],
                                  .n_dims = rows == 1 ? 1 : 2,
                                  .rows = rows,
                                  .cols = cols,
                                  .bits = rows == 1 ? 32 : s->bits,
                                  .group = s->group,
                                  .zero_rule = s->rule,
                                  .scale_dtype = PHI_DTYPE_F32};
}

/* NAME.weight, and NAME.bias where the architecture has them: a norm (rows 1), or a matrix. */
static void add_affine(const spec *s, const char *name, uint32_t rows, uint32_t cols)
{
    char full[64];
    (void)snprintf(full, sizeof full, "%s.weight", name);
    add(s, full, rows, cols);
    if (s->phi2) {
        (void)snprintf(full, sizeof full, "%s.bias", name);
        add(s, full, 1, rows == 1 ? cols : rows);
    }
}

static phi_export make_export(const spec *s)
{
    enum { E = 64, F = 96, V = 80 };
    description = (phi_description){.n_layer = 1,
                                    .n_embd = E,
                                    .n_head = 4,
                                    .n_head_kv = 2,
                                    .head_dim = 32,
                                    .n_ffn = F,
                                    .n_vocab = V,
                                    .n_ctx = 256,
                                    .norm_eps = 1e-6F,
                                    .tied_head = s->tied,
                                    .n_rot = 16,
                                    .rope_theta = 250000.0F,
                                    .rope_attn_factor = 1.0F,
                                    .n_ctx_original = 256,
                                    .window = s->window,
                                    .bos_id = 1,
                                    .pad_id = -1,
                                    .unk_id = -1,
                                    .n_eos = 2,
                                    .eos_ids = {2, 7},
                                    .name = "Tiny"};
    if (s->phi2) {
        description.arch = PHI_ARCH_PHI2;
        description.norm = PHI_NORM_LAYER;
        description.ffn = PHI_FFN_GELU;
        description.is_parallel = true;
        description.attn_bias = true;
        description.head_bias = true;
    }
    if (s->long_rope) {
        description.rope = PHI_ROPE_LONG;
        description.n_ctx_original = 64;
        description.rope_attn_factor = 1.1902381F;
        for (uint32_t i = 0; i < 8; i++) {
            description.rope_short[i] = 1.0F + 0.1F * (float)i;
            description.rope_long[i] = 1.3F + 2.7F * (float)i;
        }
    }
    n_tensors = 0;
    add(s, "token_embd.weight", V, E);
    add_affine(s, "blk.0.attn_norm", 1, E);
    add_affine(s, "blk.0.attn_qkv", 8 * 32, E);
    add_affine(s, "blk.0.attn_output", E, 4 * 32);
    if (!s->phi2) {
        add(s, "blk.0.ffn_norm.weight", 1, E);
    }
    add_affine(s, "blk.0.ffn_up", s->phi2 ? F : 2 * F, E);
    add_affine(s, "blk.0.ffn_down", E, F);
    add_affine(s, "output_norm", 1, E);
    if (!s->tied) {
        add_affine(s, "output", V, E);
    }
    return (phi_export){.description = &description,
                        .tensors = tensors,
                        .count = n_tensors,
                        .read_codes = read_codes,
                        .read_f32 = read_f32,
                        .progress = progress};
}

/* ---- comparing ---- */

static const phi_export_tensor *tensor_named(const char *name)
{
    for (uint32_t i = 0; i < n_tensors; i++) {
        if (strcmp(names[i], name) == 0) {
            return &tensors[i];
        }
    }
    fail_msg("%s", name);
    return NULL;
}

static void check_codes(const phi_export_tensor *tensor, uint32_t first, bool cuda,
                        const phi_stored *stored)
{
    const phi_coded *coded = &stored->coded;
    uint64_t groups = tensor->cols / tensor->group;
    size_t count = (size_t)stored->rows * stored->cols;
    float *read = phi_alloc(count * sizeof *read);
    phi_coded_buffer buffer = {0};
    phi_err err;
    assert_int_equal(coded->bits, tensor->bits);
    assert_int_equal(coded->group, tensor->group);
    assert_int_equal(coded->scale_dtype, cuda ? PHI_DTYPE_F16 : PHI_DTYPE_F32);
    assert_int_equal(phi_coded_read_f32(coded, 0, stored->rows, &buffer, read, &err), PHI_OK);
    for (size_t i = 0; i < count; i++) {
        size_t at = (size_t)first * tensor->cols + i;
        size_t g = first * groups + i / tensor->group;
        int centre = 1 << (tensor->bits - 1);
        int less = tensor->zero_rule == PHI_ZERO_INTEGER ? zero(tensor, g) : centre;
        float s = rounded(scale(tensor, g), coded->scale_dtype);
        /* As the reader adds its terms up. */
        float right = s * (float)code(tensor, at) + (float)-less * s;
        if (read[i] != right) {
            fail_msg("%s: element %zu is %.9g, not %.9g", stored->name, i, (double)read[i],
                     (double)right);
        }
    }
    phi_coded_buffer_done(&buffer);
    phi_free(read);
}

static void check_floats(const phi_export_tensor *tensor, uint32_t first, bool cuda,
                         const phi_stored *stored)
{
    size_t count = (size_t)stored->rows * stored->cols;
    void *bytes = phi_alloc((size_t)stored->data.bytes);
    float *read = phi_alloc(count * sizeof *read);
    phi_err err;
    assert_int_equal(stored->dtype, cuda || tensor->bits == 16 ? PHI_DTYPE_F16 : PHI_DTYPE_F32);
    assert_int_equal(phi_file_read_at(stored->data.file, stored->data.offset, bytes,
                                      (size_t)stored->data.bytes, &err),
                     PHI_OK);
    assert_int_equal(stored->data.offset % 4096, 0);
    phi_dtype_widen(stored->dtype, bytes, count, read);
    for (size_t i = 0; i < count; i++) {
        size_t at = stored->kind == PHI_STORED_COLUMNS
                        ? i % stored->cols * stored->rows + i / stored->cols
                        : i;
        float right = rounded(value(tensor, (size_t)first * tensor->cols + i), stored->dtype);
        if (read[at] != right) {
            fail_msg("%s: element %zu is %.9g, not %.9g", stored->name, i, (double)read[at],
                     (double)right);
        }
    }
    phi_free(read);
    phi_free(bytes);
}

static bool for_cuda; /* the folder that is checked */

static void check_part(const phi_onnx *onnx, const char *name, const char *canonical,
                       uint32_t first)
{
    for (size_t i = 0; i < phi_onnx_count(onnx); i++) {
        const phi_stored *stored = phi_onnx_at(onnx, i);
        if (strcmp(stored->name, name) == 0) {
            const phi_export_tensor *tensor = tensor_named(canonical);
            (tensor->bits <= 8 ? check_codes : check_floats)(tensor, first, for_cuda, stored);
            return;
        }
    }
    fail_msg("%s is not in the folder", name);
}

static void write_and_check(const spec *s, bool with_config)
{
    phi_export export = make_export(s);
    phi_onnx *onnx = NULL;
    phi_err err = {.message = ""};
    if (phi_onnx_write(&export, s->provider, f.dir, &err)) {
        fail_msg("%s", err.message);
    }
    if (!with_config) {
        fixture_remove(&f, "config.json");
    }
    if (phi_onnx_open(f.dir, &onnx, &err)) {
        fail_msg("%s", err.message);
    }
    for_cuda = s->provider == PHI_ONNX_CUDA;
    for (uint32_t i = 0; i < n_tensors; i++) {
        if (strcmp(names[i], "blk.0.ffn_up.weight") != 0 || s->phi2) {
            check_part(onnx, names[i], names[i], 0);
            continue;
        }
        check_part(onnx, "blk.0.ffn_gate.weight", names[i], 0);
        check_part(onnx, "blk.0.ffn_up.weight", names[i], description.n_ffn);
    }
    assert_int_equal(phi_onnx_count(onnx), s->phi2 ? n_tensors : n_tensors + 1);
    phi_description read = *phi_onnx_description(onnx);
    if (with_config) {
        read.pad_id = -1; /* genai_config.json cannot do without */
        assert_memory_equal(&read, &description, sizeof read);
    } else {
        assert_float_equal(read.rope_theta, (s->long_rope ? 10000.0F : 250000.0F), 0.0F);
        const float off = for_cuda ? 1e-3F : 1e-6F;
        assert_float_equal(read.rope_attn_factor, description.rope_attn_factor, off);
        assert_int_equal(read.n_rot, 16);
        assert_int_equal(read.n_ctx_original, description.n_ctx_original);
    }
    phi_onnx_close(onnx);
}

static void test_round_trip(void **state)
{
    (void)state;
    static const spec specs[] = {
        {.bits = 32},
        {.bits = 16, .window = 40},
        {.bits = 4, .group = 32},
        {.bits = 4, .group = 16, .rule = PHI_ZERO_INTEGER, .long_rope = true},
        {.bits = 8, .group = 32, .rule = PHI_ZERO_INTEGER, .tied = true},
        {.bits = 4, .group = 32, .tied = true, .rule = PHI_ZERO_INTEGER},
        {.bits = 16, .tied = true, .long_rope = true},
        {.bits = 32, .tied = true},
        {.bits = 8, .group = 16},
        {.bits = 16, .window = 40, .provider = PHI_ONNX_CUDA},
        {.bits = 32, .tied = true, .provider = PHI_ONNX_CUDA},
        {.bits = 4, .group = 32, .long_rope = true, .provider = PHI_ONNX_CUDA},
        {.bits = 4, .group = 16, .rule = PHI_ZERO_INTEGER, .provider = PHI_ONNX_CUDA},
        {.bits = 8, .group = 32, .tied = true, .provider = PHI_ONNX_CUDA},
        {.bits = 32, .phi2 = true},
        {.bits = 16, .phi2 = true, .provider = PHI_ONNX_CUDA},
        {.bits = 8, .group = 32, .phi2 = true},
        {.bits = 4, .group = 16, .phi2 = true, .rule = PHI_ZERO_INTEGER},
        {.bits = 4, .group = 32, .phi2 = true, .provider = PHI_ONNX_CUDA},
    };
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        write_and_check(&specs[i], true);
        write_and_check(&specs[i], false);
    }
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        spec spec;
        const char *named;
    } cases[] = {
        {{.bits = 4, .group = 96}, "groups of 96"},
        {{.bits = 4, .group = 8}, "groups of 8"},
        {{.bits = 4, .group = 64, .rule = PHI_ZERO_INTEGER, .provider = PHI_ONNX_CUDA},
         "1 groups a row"},
        {{.bits = 4, .group = 64}, "\"blk.0.ffn_down.weight\""}, /* 96 columns */
        {{.bits = 4, .group = 32, .rule = PHI_ZERO_REAL}, "zero points"},
        {{.bits = 3, .group = 32}, "4 or 8 bits"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        phi_err err = {.message = "accepted"};
        phi_export export = make_export(&cases[i].spec);
        assert_int_equal(phi_onnx_write(&export, cases[i].spec.provider, f.dir, &err),
                         PHI_E_UNSUPPORTED);
        assert_non_null(strstr(err.message, cases[i].named));
    }
}

/* What fp16 cannot hold is no infinity in the file. */
static void test_too_large(void **state)
{
    (void)state;
    phi_err err;
    static const phi_onnx_provider providers[] = {PHI_ONNX_CPU, PHI_ONNX_CUDA};
    for (size_t i = 0; i < 2; i++) {
        phi_export export = make_export(&(spec){.bits = 16});
        too_large = "blk.0.ffn_down.weight";
        assert_int_equal(phi_onnx_write(&export, providers[i], f.dir, &err), PHI_E_UNSUPPORTED);
        too_large = NULL;
        assert_non_null(strstr(err.message, "\"blk.0.ffn_down.weight\""));
        assert_non_null(strstr(err.message, "it holds 70000, which fp16 cannot"));
    }
}

/* A number of rotary dimensions that onnxruntime's attention does not take. */
static void test_rotary_dims(void **state)
{
    (void)state;
    phi_err err;
    phi_export export = make_export(&(spec){.bits = 32});
    description.n_rot = 24;
    assert_int_equal(phi_onnx_write(&export, PHI_ONNX_CPU, f.dir, &err), PHI_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "24 rotary dimensions"));
}

/* Called directly, past what a conversion checks. */
static void test_other_architectures(void **state)
{
    (void)state;
    phi_err err;
    phi_export export = make_export(&(spec){.bits = 32});
    description.arch = PHI_ARCH_PHIMOE;
    fixture_remove(&f, "model.onnx");
    assert_int_equal(phi_onnx_write(&export, PHI_ONNX_CPU, f.dir, &err), PHI_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "for phi3 and phi2 models only, and this is phimoe"));
    assert_false(phi_file_exists(fixture_path(&f, "model.onnx")));
}

/* A writer that is stopped leaves no file that looks whole. */
static void test_cancelled(void **state)
{
    (void)state;
    phi_err err;
    phi_export export = make_export(&(spec){.bits = 32});
    static const char *const files[] = {"genai_config.json", "model.onnx", "model.onnx.data"};
    for (size_t i = 0; i < 3; i++) {
        fixture_remove(&f, files[i]);
    }
    calls_left = 3;
    assert_int_equal(phi_onnx_write(&export, PHI_ONNX_CPU, f.dir, &err), PHI_E_CANCELLED);
    calls_left = 0;
    for (size_t i = 0; i < 3; i++) {
        assert_false(phi_file_exists(fixture_path(&f, files[i])));
    }
}

static void test_tokenizer(void **state)
{
    (void)state;
    fixture source;
    phi_err err;
    char *text = NULL;
    phi_export export = make_export(&(spec){.bits = 32});
    fixture_init(&source);
    (void)fixture_write_text(&source, "tokenizer.json", "{\"a\":1}");
    (void)fixture_write_text(&source, "config.json", "{\"model_type\":\"other\"}");
    export.source_dir = source.dir;
    assert_int_equal(phi_onnx_write(&export, PHI_ONNX_CPU, f.dir, &err), PHI_OK);
    assert_int_equal(phi_file_read_text(fixture_path(&f, "tokenizer.json"), 100, &text, NULL, &err),
                     PHI_OK);
    assert_string_equal(text, "{\"a\":1}");
    phi_free(text);
    fixture_done(&source);
}

static int setup(void **state)
{
    (void)state;
    fixture_init(&f);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fixture_done(&f);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),          cmocka_unit_test(test_refused),
        cmocka_unit_test(test_rotary_dims),         cmocka_unit_test(test_cancelled),
        cmocka_unit_test(test_tokenizer),           cmocka_unit_test(test_too_large),
        cmocka_unit_test(test_other_architectures),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
