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

static void fill_table(float *cos_table, float *sin_table, uint32_t rows, bool is_long)
{
    const uint32_t half = now.spec.phi2 ? HALF / 2 : HALF;
    double factor = now.spec.long_rope ? sqrt(1.0 + log(4.0) / log(32.0)) : 1.0;
    for (uint32_t p = 0; p < rows; p++) {
        for (uint32_t i = 0; i < half; i++) {
            double angle = p / ((is_long ? 1.0 + i : 1.0) * pow(10000.0, i / (double)half));
            cos_table[p * half + i] = (float)(cos(angle) * factor);
            sin_table[p * half + i] = (float)(sin(angle) * factor);
        }
    }
    if (lies("two tables in one")) {
        size_t at = (size_t)3 * CTX / 4 * half;
        memcpy(cos_table + at, cos_table, (size_t)CTX / 4 * half * sizeof *cos_table);
        memcpy(sin_table + at, sin_table, (size_t)CTX / 4 * half * sizeof *sin_table);
    }
    if (lies("a table of zeros")) {
        memset(sin_table, 0, rows * half * sizeof *sin_table);
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
        const size_t half = now.spec.phi2 ? HALF / 2 : HALF;
        add_tensor("cos", FLOAT, CTX, half, tables[0], CTX * half * sizeof(float));
        add_tensor("sin", FLOAT, CTX, half, tables[1], CTX * half * sizeof(float));
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
    add_layers();
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

/* A matrix of a layer, or a norm (rows 0), and the bias that belongs to it. */
static void check_part(int layer, const char *part, const char *source, uint32_t rows,
                       uint32_t cols, bool has_bias)
{
    char name[96];
    char own[64];
    (void)snprintf(name, sizeof name, "blk.%d.%s.weight", layer, part);
    (void)snprintf(own, sizeof own, "%d.%s", layer, source);
    check_matrix(name, own, rows ? rows : 1, cols);
    assert_int_equal(find(name)->n_dims, rows ? 2 : 1);
    if (has_bias) {
        (void)snprintf(name, sizeof name, "blk.%d.%s.bias", layer, part);
        (void)snprintf(own, sizeof own, "%d.%s.bias", layer, source);
        check_matrix(name, own, 1, rows ? rows : cols);
        assert_int_equal(find(name)->n_dims, 1);
    }
}

static void check_layer(int layer)
{
    const bool phi2 = now.spec.phi2;
    check_part(layer, "attn_norm", "in_norm", 0, E, phi2);
    if (now.spec.apart) {
        check_part(layer, "attn_q", "q", H * D, E, phi2);
        check_part(layer, "attn_k", "k", HKV * D, E, phi2);
        check_part(layer, "attn_v", "v", HKV * D, E, phi2);
    } else {
        check_part(layer, "attn_qkv", "q", (H + 2 * HKV) * D, E, phi2);
    }
    check_part(layer, "attn_output", "o", E, H * D, phi2);
    check_part(layer, "ffn_down", "down", E, F, phi2);
    if (phi2) {
        check_part(layer, "ffn_up", "fc1", F, E, true);
        return;
    }
    check_part(layer, "ffn_norm", "ff_norm", 0, E, false);
    if (now.spec.fused_up) {
        check_part(layer, "ffn_up", "both", 2 * F, E, false);
    } else {
        check_part(layer, "ffn_gate", "gate", F, E, false);
        check_part(layer, "ffn_up", "up", F, E, false);
    }
}

void open_and_check(const onnx_spec *wanted)
{
    phi_err err = {.message = ""};
    phi_status status = open_spec(wanted, &err);
    if (status) {
        fail_msg("%s", err.message);
    }
    for (int i = 0; i < L; i++) {
        check_layer(i);
    }
    check_matrix("token_embd.weight", now.spec.tied ? "head" : "embed", V, E);
    check_matrix("output_norm.weight", "final", 1, E);
    if (!now.spec.tied) {
        check_matrix("output.weight", "head", V, E);
    }
    if (now.spec.phi2) {
        check_matrix("output_norm.bias", "final.bias", 1, E);
        check_matrix("output.bias", "head.bias", 1, V);
    }
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
