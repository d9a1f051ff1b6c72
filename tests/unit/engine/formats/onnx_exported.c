#include "onnx_exported.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/formats/onnx.h"
#include "engine/tensor/half.h"

onnx_exported made;

static uint32_t mix(const phi_export_tensor *tensor, uint64_t index)
{
    uint64_t seed = (uint64_t)(tensor - made.tensors) * 0x9E3779B97F4A7C15U + index;
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
    if (made.too_large && strcmp(made.too_large, tensor->name) == 0) {
        out[5] = 70000.0F;
    }
    return PHI_OK;
}

static bool progress(void *user, uint64_t bytes_done, uint64_t bytes_total)
{
    (void)user;
    assert_true(bytes_done <= bytes_total);
    return made.calls_left == 0 || --made.calls_left > 0;
}

/* ---- exports ---- */

/* What a folder for CUDA makes of a number. */
static float rounded(float value, phi_dtype dtype)
{
    return dtype == PHI_DTYPE_F16 ? phi_half_to_float(phi_half_of_float(value)) : value;
}

static void add(const exported_spec *s, const char *name, uint32_t rows, uint32_t cols)
{
    phi_export_tensor *tensor = &made.tensors[made.count];
    (void)snprintf(made.names[made.count], sizeof made.names[0], "%s", name);
    *tensor = (phi_export_tensor){.name = made.names[made.count++],
                                  .n_dims = rows == 1 ? 1 : 2,
                                  .rows = rows,
                                  .cols = cols,
                                  .bits = rows == 1 ? 32 : s->bits,
                                  .group = s->group,
                                  .zero_rule = s->rule,
                                  .scale_dtype = PHI_DTYPE_F32};
}

/* NAME.weight, and NAME.bias where the architecture has them: a norm (rows 1), or a matrix. */
static void add_affine(const exported_spec *s, const char *name, uint32_t rows, uint32_t cols)
{
    char full[64];
    (void)snprintf(full, sizeof full, "%s.weight", name);
    add(s, full, rows, cols);
    if (s->arch != PHI_ARCH_PHI3 && (rows == 1 || !s->without_bias)) {
        (void)snprintf(full, sizeof full, "%s.bias", name);
        add(s, full, 1, rows == 1 ? cols : rows);
    }
}

enum { E = 64, F = 96, V = 80 };

static void describe(const exported_spec *s)
{
    made.description = (phi_description){.n_layer = 1,
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
    made.description.arch = s->arch;
    if (s->arch != PHI_ARCH_PHI3) {
        made.description.norm = PHI_NORM_LAYER;
        made.description.attn_bias = !s->without_bias;
        made.description.head_bias = !s->without_bias;
    }
    if (s->arch == PHI_ARCH_PHI2) {
        made.description.ffn = PHI_FFN_GELU;
        made.description.is_parallel = true;
    } else if (s->arch == PHI_ARCH_PHIMOE) {
        made.description.ffn = PHI_FFN_EXPERTS;
        made.description.n_expert = EXPERTS;
        made.description.router_jitter = 0.02F;
        made.description.rope_attn_factor_long = s->long_rope ? 1.3F : 0.0F;
    }
    if (s->long_rope) {
        made.description.rope = PHI_ROPE_LONG;
        made.description.n_ctx_original = 64;
        made.description.rope_attn_factor = 1.1902381F;
        for (uint32_t i = 0; i < 8; i++) {
            made.description.rope_short[i] = 1.0F + 0.1F * (float)i;
            made.description.rope_long[i] = 1.3F + 2.7F * (float)i;
        }
    }
}

phi_export make_export(const exported_spec *s)
{
    describe(s);
    made.count = 0;
    add(s, "token_embd.weight", V, E);
    add_affine(s, "blk.0.attn_norm", 1, E);
    add_affine(s, "blk.0.attn_qkv", 8 * 32, E);
    add_affine(s, "blk.0.attn_output", E, 4 * 32);
    if (s->arch != PHI_ARCH_PHI2) {
        add_affine(s, "blk.0.ffn_norm", 1, E);
    }
    if (s->arch == PHI_ARCH_PHIMOE) {
        add(s, "blk.0.ffn_gate_inp.weight", EXPERTS, E);
        made.tensors[made.count - 1].bits = 32;
        add(s, "blk.0.ffn_gate_exps.weight", EXPERTS * F, E);
        add(s, "blk.0.ffn_up_exps.weight", EXPERTS * F, E);
        add(s, "blk.0.ffn_down_exps.weight", EXPERTS * E, F);
    } else {
        add_affine(s, "blk.0.ffn_up", s->arch == PHI_ARCH_PHI2 ? F : 2 * F, E);
        add_affine(s, "blk.0.ffn_down", E, F);
    }
    add_affine(s, "output_norm", 1, E);
    if (!s->tied) {
        add_affine(s, "output", V, E);
    }
    return (phi_export){.description = &made.description,
                        .tensors = made.tensors,
                        .count = made.count,
                        .read_codes = read_codes,
                        .read_f32 = read_f32,
                        .progress = progress};
}

/* ---- comparing ---- */

static const phi_export_tensor *tensor_named(const char *name)
{
    for (uint32_t i = 0; i < made.count; i++) {
        if (strcmp(made.names[i], name) == 0) {
            return &made.tensors[i];
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

/* A tensor, in the pieces that the graph has it in; how many. */
static size_t check_tensor(const phi_onnx *onnx, const char *canonical)
{
    const phi_description *d = &made.description;
    static const char stack[] = "_exps.weight";
    const char *end = strstr(canonical, stack);
    if (end) {
        uint32_t rows = tensor_named(canonical)->rows / d->n_expert;
        for (uint32_t i = 0; i < d->n_expert; i++) {
            char name[64];
            (void)snprintf(name, sizeof name, "%.*s.%u.weight", (int)(end - canonical), canonical,
                           i);
            check_part(onnx, name, canonical, i * rows);
        }
        return d->n_expert;
    }
    if (d->arch == PHI_ARCH_PHI3 && strcmp(canonical, "blk.0.ffn_up.weight") == 0) {
        check_part(onnx, "blk.0.ffn_gate.weight", canonical, 0);
        check_part(onnx, "blk.0.ffn_up.weight", canonical, d->n_ffn);
        return 2;
    }
    check_part(onnx, canonical, canonical, 0);
    return 1;
}

void write_and_check(const exported_spec *s, bool with_config)
{
    phi_export export = make_export(s);
    phi_onnx *onnx = NULL;
    phi_err err = {.message = ""};
    if (phi_onnx_write(&export, s->provider, made.files.dir, &err)) {
        fail_msg("%s", err.message);
    }
    if (!with_config) {
        fixture_remove(&made.files, "config.json");
    }
    if (phi_onnx_open(made.files.dir, &onnx, &err)) {
        fail_msg("%s", err.message);
    }
    for_cuda = s->provider == PHI_ONNX_CUDA;
    size_t count = 0;
    for (uint32_t i = 0; i < made.count; i++) {
        count += check_tensor(onnx, made.names[i]);
    }
    assert_int_equal(phi_onnx_count(onnx), count);
    phi_description read = *phi_onnx_description(onnx);
    if (with_config) {
        read.pad_id = -1; /* genai_config.json cannot do without */
        assert_memory_equal(&read, &made.description, sizeof read);
    } else {
        assert_float_equal(read.rope_theta, (s->long_rope ? 10000.0F : 250000.0F), 0.0F);
        const float off = for_cuda ? 1e-3F : 1e-6F;
        assert_float_equal(read.rope_attn_factor, made.description.rope_attn_factor, off);
        assert_float_equal(read.rope_attn_factor_long, made.description.rope_attn_factor_long, off);
        assert_float_equal(read.router_jitter, made.description.router_jitter, 0.0F);
        assert_int_equal(read.n_rot, 16);
        assert_int_equal(read.n_ctx_original, made.description.n_ctx_original);
    }
    phi_onnx_close(onnx);
}

int exported_setup(void **state)
{
    (void)state;
    fixture_init(&made.files);
    return 0;
}

int exported_teardown(void **state)
{
    (void)state;
    fixture_done(&made.files);
    return 0;
}
