#include "onnx_model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static void add_norm(const char *name, const char *inputs, const char *outputs)
{
    char all[320];
    bool skips = strchr(inputs, ' ') != NULL;
    bool simple = !now.spec.phi2 || (lies("an RMS norm among others") && strstr(name, "in_norm"));
    (void)snprintf(all, sizeof all, "%s %s.w", inputs, name);
    add_floats(name, 0, E, false);
    if (!simple && !lies("a norm without bias")) {
        char bias[64];
        (void)snprintf(bias, sizeof bias, "%s.bias", name);
        (void)snprintf(all, sizeof all, "%s %s.w %s.w%s", inputs, name, bias,
                       skips && lies("a norm of a biased sum") ? " unknown" : "");
        add_floats(bias, 0, E, false);
    }
    phi_buf node = start_node(simple  ? skips ? "SkipSimplifiedLayerNormalization"
                                              : "SimplifiedLayerNormalization"
                              : skips ? "SkipLayerNormalization"
                                      : "LayerNormalization",
                              name, all, outputs);
    put_text(&node, 7, skips ? "com.microsoft" : "");
    put_float(&node, "epsilon", lies("another epsilon") && !skips ? 1e-6F : 1e-5F);
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

/* y = W x + b for phi2, by a node of its own or MatMulNBits' last input; W x for phi3. */
static void add_affine(const char *name, const char *input, const char *output, uint64_t rows,
                       uint64_t cols)
{
    char product[64];
    char bias[64];
    char inputs[192];
    if (!now.spec.phi2 || (lies("a product without bias") && strcmp(name, "1.fc1") == 0)) {
        add_product(name, input, output, rows, cols);
        return;
    }
    (void)snprintf(bias, sizeof bias, "%s.bias", name);
    add_floats(bias, 0, rows, false);
    if (now.spec.own_bias) {
        add_product(name, input, output, rows, cols);
        return;
    }
    (void)snprintf(product, sizeof product, "%s.m", name);
    if (now.spec.apart) {
        (void)snprintf(inputs, sizeof inputs, "%s.w %s", bias, product);
    } else {
        (void)snprintf(inputs, sizeof inputs, "%s %s.w", product, bias);
    }
    add_product(name, input, product, rows, cols);
    add_node("Add", bias, inputs, output);
}

static void add_queries(int layer, const char *normed, const char *before, char *out,
                        size_t out_bytes)
{
    static const char *const parts[] = {"q", "k", "v"};
    char name[3][32];
    for (int i = 0; i < 3; i++) {
        (void)snprintf(name[i], sizeof name[i], "%d.%s", layer, parts[i]);
    }
    if (!now.spec.apart) {
        add_affine(name[0], normed, name[0], (H + 2 * HKV) * D, E);
        (void)snprintf(out, out_bytes, "%s - -", name[0]);
        return;
    }
    add_affine(name[0], normed, name[0], H * D, E);
    add_affine(name[1], lies("keys of something else") ? before : normed, name[1], HKV * D, E);
    add_affine(name[2], normed, name[2], HKV * D, E);
    (void)snprintf(out, out_bytes, "%s %s %s", name[0], name[1], name[2]);
}

/* phi2: both halves of one norm. */
static void add_parallel(int layer)
{
    char name[7][32];
    char inputs[128];
    char normed[64];
    static const char *const parts[] = {"in_norm", "a", "o", "fc1", "gelu", "down", "sum"};
    for (int i = 0; i < 7; i++) {
        (void)snprintf(name[i], sizeof name[i], "%d.%s", layer, parts[i]);
    }
    (void)snprintf(inputs, sizeof inputs, layer ? "x %d.sum" : "x", layer - 1);
    (void)snprintf(normed, sizeof normed, layer ? "n1_%d - - s1_%d" : "n1_%d", layer, layer);
    add_norm(name[0], inputs, normed);
    (void)snprintf(normed, sizeof normed, "n1_%d", layer);
    add_queries(layer, normed, "x", inputs, sizeof inputs);
    add_attention(name[1], inputs, name[1]);
    add_affine(name[2], name[1], name[2], E, H * D);
    add_affine(name[3], lies("another norm's feed-forward") ? "x" : normed, name[3], F, E);
    bool fast = now.spec.apart;
    phi_buf node = start_node(lies("another activation") ? "Relu"
                              : fast                     ? "FastGelu"
                                                         : "Gelu",
                              name[4], name[3], name[4]);
    if (!fast && !lies("gelu without a form")) {
        put_word(&node, "approximate", lies("gelu of another form") ? "none" : "tanh");
    }
    end_node(&node);
    add_affine(name[5], name[4], name[5], E, F);
    (void)snprintf(inputs, sizeof inputs, "%s %s",
                   name[now.spec.own_bias || lies("two feed-forwards") ? 5 : 2],
                   name[now.spec.own_bias && !lies("two feed-forwards") ? 2 : 5]);
    if (lies("attention alone") && layer == 1) {
        add_node("Identity", name[6], name[2], name[6]);
    } else {
        add_node("Add", name[6], inputs, name[6]);
    }
}

void add_layers(void)
{
    for (int layer = 0; layer < L; layer++) {
        if (now.spec.phi2) {
            add_parallel(layer);
            continue;
        }
        char before[32] = "x";
        char branch[32] = "";
        if (layer > 0) {
            (void)snprintf(before, sizeof before, "s2_%d", layer - 1);
            (void)snprintf(branch, sizeof branch, "%d.down", layer - 1);
        }
        add_layer(layer, before, branch);
        add_feed_forward(layer);
    }
    add_norm("final", now.spec.phi2 ? "s1_1 1.sum" : "s2_1 1.down", "final");
    if (lies("an operator at the end")) {
        add_product("head", "final", "raw", V, E);
        add_node("Tanh", "tanh", "raw", "logits");
    } else {
        add_affine("head", "final", "logits", lies("a small head") ? V / 2 : V, E);
    }
}
