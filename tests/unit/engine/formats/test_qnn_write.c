/* What is written for Qualcomm's NPUs: codes are the export's, queries and keys are evened out so
 * that their products stay what they were, values have the codings of their ranges, and parts hand
 * on to each other. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/mem.h"
#include "engine/formats/onnx_graph.h"
#include "engine/formats/qnn_write.h"
#include "fixture.h"

enum { E = 64, F = 96, V = 80, H = 4, HKV = 2, D = 32, L = 2, TENSORS_MAX = 24 };
/* Of one layer: q, k, v, output, gate, up, down. */
enum { LAYER_BYTES = (H + 2 * HKV) * D * E + E * H * D + 3 * F * E };

static fixture f;
static phi_description description;
static phi_export_tensor tensors[TENSORS_MAX];
static char names[TENSORS_MAX][64];
static uint32_t n_tensors;
static uint32_t calls_left; /* of progress, until it says stop; 0: never */
static phi_qnn_layer_ranges layers[L];
static float radius[L][(H + HKV) * D];

static uint8_t code(const phi_export_tensor *tensor, size_t at)
{
    return (uint8_t)((size_t)(tensor - tensors) * 31 + at * 7 % 251);
}

/* A row's scale; some row of each matrix is nothing but zeros, and has none. */
static float scale(size_t row)
{
    return row % 16 == 15 ? 0.0F : 0.001F * (float)(1 + row % 7);
}

static phi_status read_codes(void *user, const phi_export_tensor *tensor, uint32_t row,
                             uint32_t count, uint8_t *codes, float *scales, float *zeros,
                             phi_err *err)
{
    (void)user;
    (void)err;
    assert_null(zeros);
    for (size_t i = 0; i < (size_t)count * tensor->cols; i++) {
        codes[i] = code(tensor, (size_t)row * tensor->cols + i);
    }
    for (uint32_t i = 0; i < count; i++) {
        scales[i] = scale(row + i);
    }
    return PHI_OK;
}

static phi_status read_f32(void *user, const phi_export_tensor *tensor, uint32_t row,
                           uint32_t count, float *out, phi_err *err)
{
    (void)user;
    (void)err;
    (void)row;
    assert_int_equal(count, 1);
    for (uint32_t i = 0; i < tensor->cols; i++) {
        out[i] = (float)i / (float)tensor->cols - 0.25F;
    }
    return PHI_OK;
}

static bool progress(void *user, uint64_t bytes_done, uint64_t bytes_total)
{
    (void)user;
    assert_true(bytes_done <= bytes_total);
    return calls_left == 0 || --calls_left > 0;
}

static void add(const char *name, uint32_t rows, uint32_t cols)
{
    phi_export_tensor *tensor = &tensors[n_tensors];
    (void)snprintf(names[n_tensors], sizeof names[0], "%s", name);
    *tensor = (phi_export_tensor){.name = names[n_tensors++],
                                  .n_dims = rows == 1 ? 1 : 2,
                                  .rows = rows,
                                  .cols = cols,
                                  .bits = rows == 1 ? 32 : 8,
                                  .group = cols,
                                  .zero_rule = PHI_ZERO_CENTRE,
                                  .scale_dtype = PHI_DTYPE_F32};
}

static void add_part(const char *part, uint32_t layer, uint32_t rows, uint32_t cols)
{
    char name[64];
    (void)snprintf(name, sizeof name, "blk.%u.%s.weight", layer, part);
    add(name, rows, cols);
}

static phi_export make_export(bool tied)
{
    phi_description_init(&description, PHI_ARCH_PHI3);
    description.n_layer = L;
    description.n_embd = E;
    description.n_head = H;
    description.n_head_kv = HKV;
    description.head_dim = D;
    description.n_ffn = F;
    description.n_vocab = V;
    description.n_ctx = 512;
    description.n_ctx_original = 512;
    description.norm_eps = 1e-5F;
    description.tied_head = tied;
    description.n_rot = 24;
    description.rope_theta = 10000.0F;
    n_tensors = 0;
    add("token_embd.weight", V, E);
    for (uint32_t i = 0; i < L; i++) {
        add_part("attn_norm", i, 1, E);
        add_part("attn_qkv", i, (H + 2 * HKV) * D, E);
        add_part("attn_output", i, E, H * D);
        add_part("ffn_norm", i, 1, E);
        add_part("ffn_up", i, 2 * F, E);
        add_part("ffn_down", i, E, F);
    }
    add("output_norm.weight", 1, E);
    if (!tied) {
        add("output.weight", V, E);
    }
    return (phi_export){.description = &description,
                        .tensors = tensors,
                        .count = n_tensors,
                        .read_codes = read_codes,
                        .read_f32 = read_f32,
                        .progress = progress};
}

static phi_qnn_ranges make_ranges(void)
{
    const phi_qnn_range any = {-3.0F, 5.0F};
    for (uint32_t i = 0; i < L; i++) {
        layers[i] = (phi_qnn_layer_ranges){any, any, {-7.0F, 9.0F}, any, any, any,      any,
                                           any, any, any,           any, any, radius[i]};
        for (uint32_t r = 0; r < (H + HKV) * D; r++) {
            /* The same for both of a pair: of element i and i + 12. */
            uint32_t in_head = r % D < 24 ? r % D % 12 : r % D;
            uint32_t head = r / D;
            radius[i][r] = 0.5F + (float)(in_head + head);
        }
    }
    radius[0][H * D] = 0.0F; /* a key that is always 0 */
    radius[0][H * D + 12] = 0.0F;
    return (phi_qnn_ranges){any, any, any, layers};
}

static void forget(void)
{
    static const char *const files[] = {
        "genai_config.json", "config.json",          "embeddings.onnx",       "context.onnx",
        "iterator.onnx",     "lm_head_context.onnx", "lm_head_iterator.onnx", "context_0.onnx",
        "context_1.onnx",    "iterator_0.onnx",      "iterator_1.onnx",       "model.onnx.data"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        if (phi_file_exists(fixture_path(&f, files[i]))) {
            fixture_remove(&f, files[i]);
        }
    }
}

static void write_folder(bool tied, const phi_qnn_options *options)
{
    phi_export export = make_export(tied);
    phi_qnn_ranges ranges = make_ranges();
    phi_err err = {.message = ""};
    forget();
    if (phi_qnn_write(&export, &ranges, options, f.dir, &err)) {
        fail_msg("%s", err.message);
    }
}

/* ---- reading ---- */

static void open_model(const char *file, phi_onnx_model *model)
{
    phi_err err = {.message = ""};
    if (phi_onnx_model_open(f.dir, file, model, &err)) {
        fail_msg("%s", err.message);
    }
}

static const phi_onnx_tensor *tensor_of(const phi_onnx_model *model, const char *name)
{
    const phi_onnx_value *value = phi_onnx_value_find(model, name);
    if (!value || !value->tensor) {
        fail_msg("%s is no tensor of the graph", name);
        return NULL;
    }
    return value->tensor;
}

static void read_tensor(const phi_onnx_model *model, const char *name, void *out, size_t bytes)
{
    phi_err err;
    const phi_onnx_tensor *tensor = tensor_of(model, name);
    assert_non_null(tensor->data.file);
    assert_int_equal(tensor->data.bytes, bytes);
    assert_int_equal(phi_file_read_at(tensor->data.file, tensor->data.offset, out, bytes, &err),
                     PHI_OK);
}

/* Codes of rows [first, first + rows) of a tensor; gives their scales. */
static void check_matrix(const phi_onnx_model *model, const char *name,
                         const phi_export_tensor *tensor, uint32_t first, uint32_t rows,
                         float *out_scales)
{
    char full[96];
    size_t count = (size_t)rows * tensor->cols;
    int8_t *codes = phi_alloc(count);
    (void)snprintf(full, sizeof full, "%s/codes", name);
    assert_int_equal(tensor_of(model, full)->type, PHI_ONNX_INT8);
    read_tensor(model, full, codes, count);
    for (size_t i = 0; i < count; i++) {
        int right = (int)code(tensor, (size_t)first * tensor->cols + i) - 128;
        if (codes[i] != right) {
            fail_msg("%s: code %zu is %d, not %d", full, i, codes[i], right);
        }
    }
    phi_free(codes);
    (void)snprintf(full, sizeof full, "%s/scale", name);
    read_tensor(model, full, out_scales, rows * sizeof(float));
}

static const phi_export_tensor *export_of(const char *name)
{
    for (uint32_t i = 0; i < n_tensors; i++) {
        if (strcmp(names[i], name) == 0) {
            return &tensors[i];
        }
    }
    fail_msg("%s", name);
    return NULL;
}

/* A scale as it is written where nothing is evened out. */
static void check_scales(const float *scales, uint32_t first, uint32_t rows)
{
    for (uint32_t i = 0; i < rows; i++) {
        float right = scale(first + i) != 0.0F ? scale(first + i) : 1.0F;
        assert_float_equal(scales[i], right, 0.0F);
    }
}

/* ---- tests ---- */

static void test_matrices(void **state)
{
    (void)state;
    static const char *const files[] = {"context.onnx", "iterator.onnx"};
    write_folder(false, &(phi_qnn_options){.context = 192});
    for (size_t i = 0; i < 2; i++) {
        phi_onnx_model model = {0};
        float scales[2 * F];
        open_model(files[i], &model);
        const phi_export_tensor *qkv = export_of("blk.1.attn_qkv.weight");
        check_matrix(&model, "layers.1.value/matrix", qkv, (H + HKV) * D, HKV * D, scales);
        check_scales(scales, (H + HKV) * D, HKV * D);
        check_matrix(&model, "layers.1.attn_out/matrix", export_of("blk.1.attn_output.weight"), 0,
                     E, scales);
        check_scales(scales, 0, E);
        check_matrix(&model, "layers.0.gate/matrix", export_of("blk.0.ffn_up.weight"), 0, F,
                     scales);
        check_matrix(&model, "layers.0.up/matrix", export_of("blk.0.ffn_up.weight"), F, F, scales);
        check_scales(scales, F, F);
        check_matrix(&model, "layers.0.ffn_out/matrix", export_of("blk.0.ffn_down.weight"), 0, E,
                     scales);
        phi_onnx_model_done(&model);
    }
}

/* What a query's row is multiplied with, its key's is divided by, and 1/sqrt(d) is in the query. */
static void test_queries_and_keys(void **state)
{
    (void)state;
    phi_onnx_model model = {0};
    float query[H * D];
    float key[HKV * D];
    write_folder(false, &(phi_qnn_options){.context = 128});
    open_model("context.onnx", &model);
    const phi_export_tensor *qkv = export_of("blk.0.attn_qkv.weight");
    check_matrix(&model, "layers.0.query/matrix", qkv, 0, H * D, query);
    check_matrix(&model, "layers.0.key/matrix", qkv, H * D, HKV * D, key);
    for (uint32_t i = 0; i < H * D; i++) {
        uint32_t k = i / D / (H / HKV) * D + i % D;
        if (scale(i) == 0.0F || scale(H * D + k) == 0.0F) {
            continue;
        }
        float factor = query[i] / scale(i) * (key[k] / scale(H * D + k));
        assert_float_equal(factor, 1.0F / sqrtf(D), 1e-5F);
        /* Both of a pair that is rotated. */
        if (i % D < 12 && scale(H * D + k + 12) != 0.0F) {
            assert_float_equal(key[k] / scale(H * D + k), key[k + 12] / scale(H * D + k + 12),
                               1e-4F);
        }
    }
    /* The largest stays; a smaller one is made as large, but no more than 16 times larger. */
    const float most = 0.5F + 31.0F + 5.0F;
    assert_float_equal(key[HKV * D - 2] / scale((H + HKV) * D - 2), most / (most - 1.0F), 1e-5F);
    assert_float_equal(key[0] / scale(H * D), 1.0F, 1e-6F);
    phi_onnx_model_done(&model);
}

static void test_codings(void **state)
{
    (void)state;
    phi_onnx_model model = {0};
    float step = 0.0F;
    write_folder(false, &(phi_qnn_options){.context = 128});
    open_model("iterator.onnx", &model);
    read_tensor(&model, "layers.0.gate/scale", &step, sizeof step);
    assert_float_equal(step, 8.0F / 65535.0F, 1e-9F);
    assert_int_equal(tensor_of(&model, "layers.0.gate/zero")->type, PHI_ONNX_UINT16);
    read_tensor(&model, "layers.1.value/cache/scale", &step, sizeof step);
    assert_float_equal(step, 5.0F / 127.0F, 1e-7F);
    assert_int_equal(tensor_of(&model, "layers.1.value/cache/zero")->type, PHI_ONNX_UINT8);
    /* A key that is not seen is lowered below any that is, by what a softmax takes for nothing. */
    read_tensor(&model, "mask/scale", &step, sizeof step);
    assert_float_equal(step * 65535.0F, 9.0F + 7.0F + 30.0F, 1e-3F);
    read_tensor(&model, "layers.0.masked/scale", &step, sizeof step);
    assert_float_equal(step * 65535.0F, 9.0F + 7.0F + 30.0F, 1e-3F);
    phi_onnx_model_done(&model);
}

static bool config_has(const char *text)
{
    char *config = NULL;
    phi_err err;
    assert_int_equal(
        phi_file_read_text(fixture_path(&f, "genai_config.json"), 1 << 20, &config, NULL, &err),
        PHI_OK);
    bool found = strstr(config, text) != NULL;
    phi_free(config);
    return found;
}

/* A layer that does not fit beside another gets graphs of its own. */
static void test_parts(void **state)
{
    (void)state;
    phi_onnx_model model = {0};
    write_folder(false, &(phi_qnn_options){.context = 128, .part_bytes = 2 * LAYER_BYTES});
    assert_true(phi_file_exists(fixture_path(&f, "context.onnx")));
    assert_false(config_has("hidden_states_1"));
    write_folder(false, &(phi_qnn_options){.context = 128, .part_bytes = 2 * LAYER_BYTES - 1});
    assert_false(phi_file_exists(fixture_path(&f, "context.onnx")));
    assert_true(config_has("hidden_states_1"));
    assert_true(config_has("\"iterator_1.onnx\""));
    open_model("context_1.onnx", &model);
    assert_non_null(phi_onnx_value_find(&model, "layers.1.gate"));
    assert_null(phi_onnx_value_find(&model, "layers.0.gate"));
    assert_non_null(phi_onnx_value_find(&model, "output_hidden_states"));
    phi_onnx_model_done(&model);
    model = (phi_onnx_model){0};
    open_model("context_0.onnx", &model);
    assert_non_null(phi_onnx_value_find(&model, "hidden_states_1"));
    phi_onnx_model_done(&model);
}

static bool is_op(const phi_onnx_node *node, const char *const *ops, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(node->op, ops[i]) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_quantizing(const phi_onnx_node *node)
{
    return node &&
           (strcmp(node->op, "QuantizeLinear") == 0 || strcmp(node->op, "DequantizeLinear") == 0);
}

/* What the provider has builders for, each between a DequantizeLinear and a QuantizeLinear. */
static void check_graph(const char *file)
{
    static const char *const ops[] = {"Add",
                                      "Concat",
                                      "DequantizeLinear",
                                      "Gemm",
                                      "MatMul",
                                      "Mul",
                                      "QuantizeLinear",
                                      "RMSNormalization",
                                      "Reshape",
                                      "ScatterElements",
                                      "Sigmoid",
                                      "Softmax",
                                      "Split",
                                      "Sub",
                                      "Transpose"};
    phi_onnx_model model = {0};
    open_model(file, &model);
    for (const phi_onnx_node *node = model.graph->nodes; node; node = node->next) {
        if (!is_op(node, ops, sizeof ops / sizeof *ops) || *node->domain) {
            fail_msg("%s: node %s is a %s of \"%s\"", file, node->name, node->op, node->domain);
        }
        for (uint32_t i = 0; i < node->n_inputs; i++) {
            const phi_onnx_value *value = phi_onnx_value_find(&model, node->inputs[i]);
            const phi_onnx_node *from = value ? value->node : NULL;
            bool is_given = !value && strcmp(node->inputs[i], "cache_index") == 0;
            bool is_number = strcmp(from ? from->op : "", "DequantizeLinear") == 0;
            bool is_constant = value && value->tensor;
            if (is_quantizing(node) || is_given || is_number || is_constant) {
                continue;
            }
            fail_msg("%s: node %s reads %s, which is not quantized", file, node->name,
                     node->inputs[i]);
        }
    }
    phi_onnx_model_done(&model);
}

static void test_graphs(void **state)
{
    (void)state;
    write_folder(false, &(phi_qnn_options){.context = 128});
    check_graph("context.onnx");
    check_graph("iterator.onnx");
    check_graph("lm_head_context.onnx");
    check_graph("lm_head_iterator.onnx");
}

static void test_tied(void **state)
{
    (void)state;
    phi_onnx_model model = {0};
    float scales[V];
    write_folder(true, &(phi_qnn_options){.context = 128});
    open_model("lm_head_iterator.onnx", &model);
    check_matrix(&model, "embedding", export_of("token_embd.weight"), 0, V, scales);
    check_scales(scales, 0, V);
    phi_onnx_model_done(&model);
}

static void refuse(const phi_export *export, uint32_t context, phi_status right, const char *says)
{
    phi_qnn_ranges ranges = make_ranges();
    phi_err err = {.message = ""};
    forget();
    assert_int_equal(
        phi_qnn_write(export, &ranges, &(phi_qnn_options){.context = context}, f.dir, &err), right);
    if (!strstr(err.message, says)) {
        fail_msg("%s", err.message);
    }
    assert_false(phi_file_exists(fixture_path(&f, "genai_config.json")));
}

static void test_refused(void **state)
{
    (void)state;
    phi_export export = make_export(false);
    refuse(&export, 64, PHI_E_INVALID, "at least 128 and at most the model's own of 512");
    refuse(&export, 200, PHI_E_INVALID, "a multiple of 64");
    refuse(&export, 576, PHI_E_INVALID, "a context of 576 tokens");
    tensors[2].group = 32;
    refuse(&export, 128, PHI_E_UNSUPPORTED, "blk.0.attn_qkv.weight");
    export = make_export(false);
    description.arch = PHI_ARCH_PHI2;
    refuse(&export, 128, PHI_E_UNSUPPORTED, "this is phi2");
    export = make_export(false);
    assert_int_equal(phi_qnn_context(description.n_ctx, 0), 512);
    description.n_ctx = 5000;
    assert_int_equal(phi_qnn_context(description.n_ctx, 0), 4096);
    description.n_ctx = 100;
    refuse(&export, 0, PHI_E_INVALID, "a context of 64 tokens");
}

static void test_infinite(void **state)
{
    (void)state;
    phi_export export = make_export(false);
    phi_qnn_ranges ranges = make_ranges();
    phi_err err = {.message = ""};
    forget();
    layers[1].ffn.high = HUGE_VALF;
    assert_int_equal(
        phi_qnn_write(&export, &ranges, &(phi_qnn_options){.context = 128}, f.dir, &err),
        PHI_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "layers.1.ffn"));
}

/* A writer that is stopped leaves no folder that looks whole. */
static void test_cancelled(void **state)
{
    (void)state;
    phi_export export = make_export(false);
    phi_qnn_ranges ranges = make_ranges();
    phi_err err;
    forget();
    calls_left = 3;
    assert_int_equal(
        phi_qnn_write(&export, &ranges, &(phi_qnn_options){.context = 128}, f.dir, &err),
        PHI_E_CANCELLED);
    calls_left = 0;
    assert_false(phi_file_exists(fixture_path(&f, "model.onnx.data")));
    assert_false(phi_file_exists(fixture_path(&f, "genai_config.json")));
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
        cmocka_unit_test(test_matrices),  cmocka_unit_test(test_queries_and_keys),
        cmocka_unit_test(test_codings),   cmocka_unit_test(test_parts),
        cmocka_unit_test(test_tied),      cmocka_unit_test(test_graphs),
        cmocka_unit_test(test_refused),   cmocka_unit_test(test_infinite),
        cmocka_unit_test(test_cancelled),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
