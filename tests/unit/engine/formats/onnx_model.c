#include "onnx_model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"

static void add_norm(const char *name, const char *inputs, const char *outputs)
{
    char all[320];
    bool skips = strchr(inputs, ' ') != NULL;
    (void)snprintf(all, sizeof all, "%s %s.w", inputs, name);
    add_floats(name, 0, E, false);
    phi_buf node =
        start_node(skips ? "SkipSimplifiedLayerNormalization" : "SimplifiedLayerNormalization",
                   name, all, outputs);
    put_text(&node, 7, skips ? "com.microsoft" : "");
    put_float(&node, "epsilon", lies("another epsilon") && !skips ? 1e-6F : 1e-5F);
    end_node(&node);
}

static void fill_table(float *cos_table, float *sin_table, uint32_t rows, bool is_long)
{
    double factor = now.spec.long_rope ? sqrt(1.0 + log(4.0) / log(32.0)) : 1.0;
    for (uint32_t p = 0; p < rows; p++) {
        for (uint32_t i = 0; i < HALF; i++) {
            double angle = p / ((is_long ? 1.0 + i : 1.0) * pow(10000.0, i / (double)HALF));
            cos_table[p * HALF + i] = (float)(cos(angle) * factor);
            sin_table[p * HALF + i] = (float)(sin(angle) * factor);
        }
    }
    if (lies("two tables in one")) {
        size_t at = (size_t)3 * CTX / 4 * HALF;
        memcpy(cos_table + at, cos_table, (size_t)CTX / 4 * HALF * sizeof *cos_table);
        memcpy(sin_table + at, sin_table, (size_t)CTX / 4 * HALF * sizeof *sin_table);
    }
    if (lies("a table of zeros")) {
        memset(sin_table, 0, rows * HALF * sizeof *sin_table);
    }
}

static void add_branch(phi_buf *node, const char *name, const float *cos_table,
                       const float *sin_table, uint32_t rows)
{
    phi_buf attribute = fresh();
    phi_buf branch = fresh();
    const float *tables[2] = {cos_table, sin_table};
    static const char *const outputs[2] = {"c", "s"};
    for (int i = 0; i < 2; i++) {
        phi_buf constant = start_node("Constant", outputs[i], "", outputs[i]);
        phi_buf value = fresh();
        phi_buf tensor = make_tensor(outputs[i], FLOAT, rows, HALF, tables[i],
                                     (size_t)rows * HALF * sizeof(float));
        put_text(&value, 1, "value");
        put_message(&value, 5, &tensor);
        put_message(&constant, 5, &value);
        put_message(&branch, 1, &constant);
        phi_buf output = fresh();
        put_text(&output, 1, outputs[i]);
        put_message(&branch, 12, &output);
        phi_buf_done(&constant);
        phi_buf_done(&value);
        phi_buf_done(&tensor);
        phi_buf_done(&output);
    }
    put_text(&attribute, 1, name);
    put_message(&attribute, 6, &branch);
    put_message(node, 5, &attribute);
    phi_buf_done(&attribute);
    phi_buf_done(&branch);
}

static void add_rope(void)
{
    enum { ORIGINAL = 32 };
    static float tables[4][CTX * HALF];
    static const int64_t original = ORIGINAL;
    fill_table(tables[0], tables[1], now.spec.long_rope ? ORIGINAL : CTX, false);
    fill_table(tables[2], tables[3], CTX, true);
    if (now.spec.joint) {
        static float joint[2][(ORIGINAL + CTX) * HALF];
        for (int i = 0; i < 2; i++) {
            memcpy(joint[i], tables[i], ORIGINAL * HALF * sizeof(float));
            memcpy(joint[i] + ORIGINAL * HALF, tables[i + 2], sizeof tables[0]);
            add_tensor(i ? "sin" : "cos", FLOAT, ORIGINAL + CTX, HALF, joint[i], sizeof joint[0]);
        }
        return;
    }
    if (!now.spec.long_rope) {
        add_tensor("cos", FLOAT, CTX, HALF, tables[0], sizeof tables[0]);
        add_tensor("sin", FLOAT, CTX, HALF, tables[1], sizeof tables[1]);
        return;
    }
    bool inside = now.spec.inside;
    now.spec.inside = true; /* a threshold is a constant of the graph */
    add_tensor("original", INT64, 0, 1, &original, sizeof original);
    now.spec.inside = inside;
    if (lies("sines without a choice")) {
        add_tensor("one_sin", FLOAT, ORIGINAL, HALF, tables[1], sizeof tables[1] / CTX * ORIGINAL);
    }
    if (lies("sines by another length")) {
        static const int64_t other = ORIGINAL + 1;
        now.spec.inside = true;
        add_tensor("other", INT64, 0, 1, &other, sizeof other);
        now.spec.inside = inside;
        add_node("Greater", "greater2", "total64 other", "is_other");
        phi_buf second = start_node("If", "if2", "is_other", "other_cos one_sin");
        add_branch(&second, "then_branch", tables[2], tables[3], CTX);
        add_branch(&second, "else_branch", tables[0], tables[1], ORIGINAL);
        end_node(&second);
    }
    add_node("Greater", "greater", "total64 original", "is_long");
    phi_buf node = start_node("If", "if", "is_long", "cos sin");
    add_branch(&node, "then_branch", tables[2], tables[3], CTX);
    add_branch(&node, "else_branch", tables[0], tables[1], ORIGINAL);
    end_node(&node);
}

static void add_attention(const char *name, const char *inputs, const char *output)
{
    char all[400];
    bool one_sin = lies("sines without a choice") || lies("sines by another length");
    (void)snprintf(all, sizeof all, "%s past_k past_v seqlens total cos %s%s", inputs,
                   one_sin ? "one_sin" : "sin", lies("an attention sink") ? " - - sink" : "");
    phi_buf node = start_node("GroupQueryAttention", name, all, output);
    put_text(&node, 7, "com.microsoft");
    put_int(&node, "num_heads", H);
    put_int(&node, "kv_num_heads", HKV);
    put_int(&node, "local_window_size", now.spec.window);
    put_int(&node, "do_rotary", lies("no rotary embedding") ? 0 : 1);
    put_int(&node, "rotary_interleaved", lies("interleaved angles") ? 1 : 0);
    put_float(&node, "scale", lies("another scale") ? 1.0F : 1.0F / sqrtf(D));
    put_float(&node, "softcap", lies("a soft cap") ? 30.0F : 0.0F);
    end_node(&node);
}

static void add_layer(int layer, const char *before, const char *branch)
{
    char name[6][64];
    char inputs[320];
    char norm[64];
    static const char *const parts[] = {"in_norm", "q", "k", "v", "o", "ff_norm"};
    for (int i = 0; i < 6; i++) {
        (void)snprintf(name[i], sizeof name[i], "%d.%s", layer, parts[i]);
    }
    (void)snprintf(inputs, sizeof inputs, *branch ? "%s %s" : "%s", before, branch);
    (void)snprintf(norm, sizeof norm, *branch ? "n1_%d - - s1_%d" : "n1_%d", layer, layer);
    add_norm(name[0], inputs, norm);
    (void)snprintf(norm, sizeof norm, "n1_%d", layer);
    if (now.spec.apart) {
        add_product(name[1], norm, name[1], H * D, E);
        add_product(name[2], lies("keys of something else") ? before : norm, name[2], HKV * D, E);
        add_product(name[3], norm, name[3], HKV * D, E);
        (void)snprintf(inputs, sizeof inputs, "%s %s %s", name[1], name[2], name[3]);
    } else {
        add_product(name[1], norm, lies("a bias") && layer == 0 ? "unbiased" : name[1],
                    (H + 2 * HKV) * D, E);
        if (lies("a bias") && layer == 0) {
            add_floats("bias", 0, (H + 2 * HKV) * D, false);
            add_node("Add", "biased", "unbiased bias.w", name[1]);
        }
        (void)snprintf(inputs, sizeof inputs, "%s - -", name[1]);
    }
    (void)snprintf(norm, sizeof norm, "a%d", layer);
    add_attention(norm, inputs, norm);
    add_product(name[4], norm, name[4], E, H * D);
    const char *residual = *branch ? NULL : before;
    (void)snprintf(norm, sizeof norm, "s1_%d", layer);
    (void)snprintf(inputs, sizeof inputs, "%s %s",
                   lies("another residual") && layer == 1 ? "x"
                   : residual                             ? residual
                                                          : norm,
                   name[4]);
    (void)snprintf(norm, sizeof norm, "n2_%d - - s2_%d", layer, layer);
    add_norm(name[5], inputs, norm);
}

static void add_feed_forward(int layer)
{
    char names[8][64];
    char inputs[512];
    static const char *const parts[] = {"n2_",  "gate",    "up",   "sigmoid",
                                        "silu", "product", "down", "both"};
    for (int i = 0; i < 8; i++) {
        if (i == 0) {
            (void)snprintf(names[i], sizeof names[i], "n2_%d", layer);
        } else {
            (void)snprintf(names[i], sizeof names[i], "%d.%s", layer, parts[i]);
        }
    }
    if (now.spec.fused_up) {
        add_product(names[7], names[0], names[7], 2 * F, E);
        bool swap = lies("halves the other way round");
        (void)snprintf(inputs, sizeof inputs, "%s %s", names[swap ? 2 : 1], names[swap ? 1 : 2]);
        phi_buf node = start_node("Split", names[7], names[7], inputs);
        put_int(&node, "axis", -1);
        put_int(&node, "num_outputs", 2);
        end_node(&node);
    } else {
        add_product(names[1], names[0], names[1], F, E);
        add_product(names[2], names[0], names[2], F, E);
    }
    add_node(lies("another activation") ? "Gelu" : "Sigmoid", names[3], names[1], names[3]);
    (void)snprintf(inputs, sizeof inputs, "%s %s", names[1], names[3]);
    add_node("Mul", names[4], inputs, names[4]);
    (void)snprintf(inputs, sizeof inputs, "%s %s", names[2], names[4]);
    add_node("Mul", names[5], inputs, names[5]);
    add_product(names[6], names[5], names[6], E, F);
}

static void add_positions(void)
{
    add_node("ReduceSum", "sum", "attention_mask", "sum");
    add_node("Cast", "seqlens", "sum", "seqlens");
    add_node("Shape", "shape", "attention_mask", "total64");
    add_node("Cast", "total", "total64", "total");
    if (lies("an operator among positions")) {
        add_node("MatMul", "odd", "attention_mask", "past_mask");
        add_node("Add", "odd_add", "past_mask past_mask", "odd_total");
    }
}

static void add_embedding(void)
{
    if (now.spec.integers && now.spec.one) {
        add_typed_codes("embed", V, E, false);
        add_node("Gather", "embed", "embed_Q4 input_ids", "picked");
        add_node("DequantizeLinear", "widened",
                 now.spec.zeros ? "picked embed_scales embed_zeros" : "picked embed_scales", "x");
        return;
    }
    if (!now.spec.tied) {
        add_floats("embed", V, E, false);
        add_node("Gather", "embed", "embed.w input_ids", "x");
        return;
    }
    if (now.spec.bits >= 16) {
        add_node("Transpose", "turn", "head.w", "table");
        add_node("Gather", "embed", "table input_ids", "x");
        return;
    }
    phi_buf node = start_node("GatherBlockQuantized", "embed", "table input_ids scales2d", "x");
    add_node("Reshape", "reshape", "head_Q4 shape_a", "table");
    add_node("Reshape", "reshape2", "head_scales shape_b", "scales2d");
    put_int(&node, "bits", now.spec.bits);
    put_int(&node, "block_size", GROUP);
    end_node(&node);
}

static void make_graph(void)
{
    now.graph = fresh();
    add_positions();
    add_rope();
    add_embedding();
    for (int layer = 0; layer < L; layer++) {
        char before[32] = "x";
        char branch[32] = "";
        if (layer > 0) {
            (void)snprintf(before, sizeof before, "s2_%d", layer - 1);
            (void)snprintf(branch, sizeof branch, "%d.down", layer - 1);
        }
        add_layer(layer, before, branch);
        add_feed_forward(layer);
    }
    add_norm("final", "s2_1 1.down", "final");
    if (lies("an operator at the end")) {
        add_product("head", "final", "raw", V, E);
        add_node("Tanh", "tanh", "raw", "logits");
    } else {
        add_product("head", "final", "logits", lies("a small head") ? V / 2 : V, E);
    }
    if (lies("a stray node")) {
        add_node("Softmax", "stray", "logits", "probabilities");
    }
    if (lies("a name twice")) {
        add_node("Relu", "again", "x", "final");
    }
    if (lies("a sparse tensor")) {
        put_bytes(&now.graph, 15, "", 0);
    }
}
phi_status open_spec(const onnx_spec *wanted, phi_err *err)
{
    phi_buf model = fresh();
    phi_buf_done(&now.graph);
    phi_buf_done(&now.values);
    now.values = fresh();
    now.spec = *wanted;
    make_graph();
    put_number(&model, 1, 10);
    put_message(&model, 7, &now.graph);
    if (lies("operators of its own")) {
        put_bytes(&model, 25, "", 0);
    }
    (void)fixture_write(&now.files, "model.onnx", model.data,
                        lies("half a file") ? model.length_bytes / 2 : model.length_bytes);
    (void)fixture_write(&now.files, "model.onnx.data", phi_buf_text(&now.values),
                        now.values.length_bytes);
    phi_buf_done(&model);
    phi_onnx_close(now.onnx);
    now.onnx = NULL;
    return phi_onnx_open(now.files.dir, &now.onnx, err);
}

static const phi_stored *find(const char *name)
{
    for (size_t i = 0; i < phi_onnx_count(now.onnx); i++) {
        if (strcmp(phi_onnx_at(now.onnx, i)->name, name) == 0) {
            return phi_onnx_at(now.onnx, i);
        }
    }
    fail_msg("%s is not listed", name);
    return NULL;
}

void check_matrix(const char *name, const char *source, uint32_t rows, uint32_t cols)
{
    const phi_stored *stored = find(name);
    size_t count = (size_t)rows * cols;
    float *read = phi_alloc(count * sizeof *read);
    phi_err err;
    assert_int_equal(stored->rows, rows);
    assert_int_equal(stored->cols, cols);
    if (stored->kind == PHI_STORED_CODED) {
        phi_coded_buffer buffer = {0};
        assert_int_equal(phi_coded_read_f32(&stored->coded, 0, rows, &buffer, read, &err), PHI_OK);
        phi_coded_buffer_done(&buffer);
    } else {
        void *bytes = phi_alloc((size_t)stored->data.bytes);
        assert_int_equal(phi_file_read_at(stored->data.file, stored->data.offset, bytes,
                                          (size_t)stored->data.bytes, &err),
                         PHI_OK);
        phi_dtype_widen(stored->dtype, bytes, count, read);
        phi_free(bytes);
    }
    for (size_t i = 0; i < count; i++) {
        bool coded = stored->kind == PHI_STORED_CODED;
        float right = coded ? coded_of(source, i, cols) : float_of(source, i);
        size_t at = stored->kind == PHI_STORED_COLUMNS ? i % cols * rows + i / cols : i;
        if (fabsf(read[at] - right) > 1e-4F) {
            fail_msg("%s: element %zu is %g, not %g", name, i, (double)read[at], (double)right);
        }
    }
    phi_free(read);
}

void open_and_check(const onnx_spec *wanted)
{
    phi_err err = {.message = ""};
    phi_status status = open_spec(wanted, &err);
    if (status) {
        fail_msg("%s", err.message);
    }
    for (int i = 0; i < L; i++) {
        static const char *const pieces[] = {"q", "k", "v"};
        char name[96];
        char source[32];
        (void)snprintf(source, sizeof source, "%d.q", i);
        (void)snprintf(name, sizeof name, "model.layers.%d.self_attn.qkv_proj.weight", i);
        if (!now.spec.apart) {
            check_matrix(name, source, (H + 2 * HKV) * D, E);
        }
        for (int j = 0; j < 3 && now.spec.apart; j++) {
            (void)snprintf(source, sizeof source, "%d.%s", i, pieces[j]);
            (void)snprintf(name, sizeof name, "model.layers.%d.self_attn.%s_proj.weight", i,
                           pieces[j]);
            check_matrix(name, source, j ? HKV * D : H * D, E);
        }
        (void)snprintf(source, sizeof source, now.spec.fused_up ? "%d.both" : "%d.gate", i);
        (void)snprintf(name, sizeof name, "model.layers.%d.mlp.%s_proj.weight", i,
                       now.spec.fused_up ? "gate_up" : "gate");
        check_matrix(name, source, now.spec.fused_up ? 2 * F : F, E);
        (void)snprintf(source, sizeof source, "%d.down", i);
        (void)snprintf(name, sizeof name, "model.layers.%d.mlp.down_proj.weight", i);
        check_matrix(name, source, E, F);
        (void)snprintf(source, sizeof source, "%d.ff_norm", i);
        (void)snprintf(name, sizeof name, "model.layers.%d.post_attention_layernorm.weight", i);
        assert_int_equal(find(name)->n_dims, 1);
        check_matrix(name, source, 1, E);
    }
    check_matrix("model.embed_tokens.weight", now.spec.tied ? "head" : "embed", V, E);
    check_matrix("model.norm.weight", "final", 1, E);
}

int onnx_setup(void **state)
{
    (void)state;
    fixture_init(&now.files);
    (void)fixture_write_text(&now.files, "genai_config.json", GENAI);
    return 0;
}

int onnx_teardown(void **state)
{
    (void)state;
    phi_onnx_close(now.onnx);
    phi_buf_done(&now.graph);
    phi_buf_done(&now.values);
    fixture_done(&now.files);
    return 0;
}
