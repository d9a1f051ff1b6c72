/* A model in each type that GGUF files come in loads, and computes what the same values as floats
 * compute; so does one whose fused parts are stored in pieces of different types. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <math.h>
#include <unistd.h>

#include "base/mem.h"
#include "engine/formats/checkpoint.h"
#include "engine/formats/gguf_config.h"
#include "engine/model/weights.h"
#include "engine/tensor/half.h"
#include "runner.h"

#define EMBD 256U
#define HEAD_DIM 8U /* with one head for keys: pieces end inside a block of 16 rows */
#define HEADS 32U
#define HEADS_KV 1U
#define ATTN (HEADS * HEAD_DIM)
#define FFN 512U
#define VOCAB 48U
#define LAYERS 2U
#define COLS_MAX 512U
#define N_TOKENS 24U

static phi_team *team;
static const phi_kernels *sets[8];
static size_t n_sets;
static char dir[64];
static uint64_t state = 88172645463325252ULL;

static int setup(void **unused)
{
    (void)unused;
    (void)snprintf(dir, sizeof dir, "/tmp/phid-types-XXXXXX");
    n_sets = phi_kernels_available(sets, sizeof sets / sizeof sets[0]);
    return mkdtemp(dir) && phi_team_create(2, &team, NULL) == PHI_OK ? 0 : -1;
}

static int teardown(void **unused)
{
    (void)unused;
    phi_team_destroy(team);
    return rmdir(dir);
}

/* ---- blocks of ordinary weights ---- */

static uint32_t next_random(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32);
}

/* Random codes; and what makes the values of a block about as large as 1 / sqrt(EMBD). */
static const struct scaling {
    int at[2]; /* of the fp16 numbers in a block; -1: none */
    float value[2];
} SCALINGS[PHI_DTYPE_COUNT] = {
    [PHI_DTYPE_Q8_0] = {{0, -1}, {8e-4F, 0}},
    [PHI_DTYPE_Q4_0] = {{0, -1}, {0.013F, 0}},
    [PHI_DTYPE_Q4_1] = {{0, 2}, {0.013F, -0.1F}},
    [PHI_DTYPE_Q5_0] = {{0, -1}, {0.0065F, 0}},
    [PHI_DTYPE_Q5_1] = {{0, 2}, {0.0065F, -0.1F}},
    [PHI_DTYPE_Q2_K] = {{80, 82}, {0.007F, 0.0105F}},
    [PHI_DTYPE_Q3_K] = {{108, -1}, {0.0015F, 0}},
    [PHI_DTYPE_Q4_K] = {{0, 2}, {4.2e-4F, 0.0031F}},
    [PHI_DTYPE_Q5_K] = {{0, 2}, {2.1e-4F, 0.0031F}},
    [PHI_DTYPE_Q6_K] = {{208, -1}, {4.4e-5F, 0}},
    [PHI_DTYPE_Q8_K] = {{-1, -1}, {0, 0}},
    [PHI_DTYPE_IQ4_NL] = {{0, -1}, {9e-4F, 0}},
    [PHI_DTYPE_IQ4_XS] = {{0, -1}, {5e-5F, 0}},
    [PHI_DTYPE_MXFP4] = {{-1, -1}, {0, 0}},
};

static void random_block(phi_dtype dtype, uint8_t *block)
{
    const struct scaling *scaling = &SCALINGS[dtype];
    for (uint32_t i = 0; i < phi_dtype_get(dtype)->block_bytes; i++) {
        block[i] = (uint8_t)next_random();
    }
    float size = 1.0F + (float)(next_random() % 256) / 256;
    for (int i = 0; i < 2; i++) {
        if (scaling->at[i] >= 0) {
            uint16_t half = phi_half_of_float(scaling->value[i] * size);
            memcpy(block + scaling->at[i], &half, sizeof half);
        }
    }
    if (dtype == PHI_DTYPE_Q8_K) {
        size *= 8e-4F;
        memcpy(block, &size, sizeof size);
    } else if (dtype == PHI_DTYPE_MXFP4) {
        block[0] = (uint8_t)(120 + next_random() % 3);
    } else if (dtype == PHI_DTYPE_F16) {
        uint16_t half = phi_half_of_float((size - 1.5F) / 8);
        memcpy(block, &half, sizeof half);
    }
}

/* ---- a model in a GGUF ---- */

/* Which type the parts are in; if `split`, fused ones are stored apart. */
typedef struct types {
    phi_dtype all;
    phi_dtype v;
    phi_dtype up;
    bool split;
} types;

typedef struct part {
    char name[40];
    phi_dtype dtype;
    uint32_t rows; /* 0: a vector */
    uint32_t cols;
} part;

static size_t list_layer(const types *t, uint32_t layer, part *out)
{
    const struct {
        bool is_there;
        const char *name;
        phi_dtype dtype;
        uint32_t rows;
        uint32_t cols;
    } parts[] = {
        {true, "attn_norm", PHI_DTYPE_F32, 0, EMBD},
        {!t->split, "attn_qkv", t->all, ATTN + 2 * HEADS_KV * HEAD_DIM, EMBD},
        {t->split, "attn_q", t->all, ATTN, EMBD},
        {t->split, "attn_k", t->all, HEADS_KV * HEAD_DIM, EMBD},
        {t->split, "attn_v", t->v, HEADS_KV * HEAD_DIM, EMBD},
        {true, "attn_output", t->all, EMBD, ATTN},
        {true, "ffn_norm", PHI_DTYPE_F32, 0, EMBD},
        {t->split, "ffn_gate", t->all, FFN, EMBD},
        {t->split, "ffn_up", t->up, FFN, EMBD},
        {!t->split, "ffn_up", t->all, 2 * FFN, EMBD},
        {true, "ffn_down", t->all, EMBD, FFN},
    };
    size_t n = 0;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (parts[i].is_there) {
            out[n] = (part){.dtype = parts[i].dtype, .rows = parts[i].rows, .cols = parts[i].cols};
            (void)snprintf(out[n++].name, sizeof out->name, "blk.%u.%s.weight", layer,
                           parts[i].name);
        }
    }
    return n;
}

static size_t list_parts(const types *t, part *out)
{
    size_t n = 0;
    out[n++] = (part){"token_embd.weight", t->all, VOCAB, EMBD};
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        n += list_layer(t, layer, out + n);
    }
    out[n++] = (part){"output_norm.weight", PHI_DTYPE_F32, 0, EMBD};
    out[n++] = (part){"output.weight", t->all, VOCAB, EMBD};
    return n;
}

static const phi_description DESCRIPTION = {
    .arch = PHI_ARCH_PHI3,
    .n_layer = LAYERS,
    .n_embd = EMBD,
    .n_head = HEADS,
    .n_head_kv = HEADS_KV,
    .head_dim = HEAD_DIM,
    .n_ffn = FFN,
    .n_vocab = VOCAB,
    .n_ctx = 128,
    .norm_eps = 1e-5F,
    .n_rot = HEAD_DIM,
    .rope_theta = 10000.0F,
    .n_ctx_original = 128,
    .rope_attn_factor = 1.0F,
    .bos_id = -1,
    .pad_id = -1,
    .unk_id = -1,
    .n_eos = 1,
    .eos_ids = {2},
};

/* One row in the part's type, and the same values as floats, each to its file. */
static void write_row(const part *it, phi_gguf_writer *blocks, phi_gguf_writer *floats)
{
    uint8_t stored[COLS_MAX * 4];
    float wide[COLS_MAX];
    uint64_t bytes = 0;
    assert_true(phi_dtype_row_bytes(it->dtype, it->cols, &bytes));
    const phi_dtype_info *info = phi_dtype_get(it->dtype);
    for (uint32_t i = 0; i < it->cols / info->block_elements; i++) {
        if (it->rows > 0) {
            random_block(it->dtype, stored + i * info->block_bytes);
        } else {
            float one = 1.0F;
            memcpy(stored + i * sizeof one, &one, sizeof one);
        }
    }
    phi_dtype_widen(it->dtype, stored, it->cols, wide);
    assert_int_equal(phi_gguf_write_data(blocks, stored, bytes, NULL), PHI_OK);
    assert_int_equal(phi_gguf_write_data(floats, wide, it->cols * sizeof *wide, NULL), PHI_OK);
}

static void write_model(const types *t, const char *blocks_path, const char *floats_path)
{
    part parts[2 + LAYERS * 12 + 2];
    size_t count = list_parts(t, parts);
    const char *paths[2] = {blocks_path, floats_path};
    phi_gguf_writer *writers[2];
    phi_err err = {0};
    for (int w = 0; w < 2; w++) {
        assert_int_equal(phi_gguf_writer_create(paths[w], &writers[w], &err), PHI_OK);
        phi_checkpoint_put_description(writers[w], &DESCRIPTION);
        for (size_t i = 0; i < count; i++) {
            const uint64_t dims[2] = {parts[i].rows ? parts[i].rows : parts[i].cols, parts[i].cols};
            phi_gguf_declare_tensor(writers[w], parts[i].name,
                                    w == 0 ? parts[i].dtype : PHI_DTYPE_F32, parts[i].rows ? 2 : 1,
                                    dims);
        }
        if (phi_gguf_write_header(writers[w], &err) != PHI_OK) {
            fail_msg("%s", err.message);
        }
    }
    for (size_t i = 0; i < count; i++) {
        for (uint32_t row = 0; row < (parts[i].rows ? parts[i].rows : 1); row++) {
            write_row(&parts[i], writers[0], writers[1]);
        }
    }
    for (int w = 0; w < 2; w++) {
        assert_int_equal(phi_gguf_writer_commit(writers[w], &err), PHI_OK);
    }
}

/* ---- what it computes ---- */

static phi_weights *load(const char *path, const char *cache_path)
{
    phi_checkpoint *checkpoint = NULL;
    phi_weights *weights = NULL;
    phi_err err = {0};
    const phi_weights_options options = {.run = {.team = team}, .cache_path = cache_path};
    if (phi_checkpoint_open(path, &checkpoint, &err) != PHI_OK ||
        phi_weights_open(checkpoint, &options, &weights, &err) != PHI_OK) {
        fail_msg("%s", err.message);
    }
    phi_checkpoint_close(checkpoint);
    return weights;
}

/* Every value of every matrix: what the file says, to the last bit. */
static void check_values(const phi_weights *weights, const phi_weights *right)
{
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        const phi_layer_weights *x = &weights->layers[layer];
        const phi_layer_weights *y = &right->layers[layer];
        const phi_weight *pairs[][2] = {{&x->qkv, &y->qkv},
                                        {&x->out, &y->out},
                                        {&x->up, &y->up},
                                        {&x->down, &y->down},
                                        {&weights->embedding, &right->embedding},
                                        {&weights->head, &right->head}};
        for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
            for (uint32_t row = 0; row < pairs[i][0]->rows; row++) {
                float a[COLS_MAX];
                float b[COLS_MAX];
                phi_weight_row(pairs[i][0], row, a);
                phi_weight_row(pairs[i][1], row, b);
                for (uint32_t k = 0; k < pairs[i][0]->cols; k++) {
                    assert_true(a[k] == b[k]);
                }
            }
        }
    }
}

static void check_logits(const phi_weights *weights, const phi_weights *right,
                         const phi_kernels *kernels, const char *name)
{
    runner runs[2];
    int32_t tokens[N_TOKENS];
    for (uint32_t i = 0; i < N_TOKENS; i++) {
        tokens[i] = (int32_t)(next_random() % VOCAB);
    }
    runner_init(&runs[0], weights, kernels, team, PHI_KV_F32);
    runner_init(&runs[1], right, kernels, team, PHI_KV_F32);
    const float *a = runner_feed(&runs[0], tokens, N_TOKENS, 7);
    const float *b = runner_feed(&runs[1], tokens, N_TOKENS, 7);
    double error = 0;
    double size = 0;
    for (uint32_t i = 0; i < VOCAB; i++) {
        error += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        size += (double)b[i] * (double)b[i];
    }
    /* Activations are rounded to 8 bits on the way. */
    if (!(sqrt(error / size) < 0.1)) {
        fail_msg("%s, %s: logits differ by %g of their size", kernels->name, name,
                 sqrt(error / size));
    }
    runner_done(&runs[0]);
    runner_done(&runs[1]);
}

static void check_model(const types *t, const char *name)
{
    char paths[3][96];
    static const char *const names[3] = {"blocks.gguf", "floats.gguf", "blocks.packed"};
    for (int i = 0; i < 3; i++) {
        (void)snprintf(paths[i], sizeof paths[i], "%s/%s", dir, names[i]);
    }
    write_model(t, paths[0], paths[1]);
    phi_weights *right = load(paths[1], NULL);
    for (int i = 0; i < 3; i++) {
        /* Into memory, into a cache file, and mapped from it. */
        phi_weights *weights = load(paths[0], i > 0 ? paths[2] : NULL);
        assert_int_equal(weights->cache, i == 0   ? PHI_WEIGHTS_UNCACHED
                                         : i == 1 ? PHI_WEIGHTS_CACHE_BUILT
                                                  : PHI_WEIGHTS_CACHE_MAPPED);
        check_values(weights, right);
        for (size_t s = 0; s < (i == 0 ? n_sets : 1); s++) {
            check_logits(weights, right, sets[s], name);
        }
        phi_weights_destroy(weights);
    }
    phi_weights_destroy(right);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(unlink(paths[i]), 0);
    }
}

static void test_every_type(void **unused)
{
    (void)unused;
    for (int i = PHI_DTYPE_Q8_0; i < PHI_DTYPE_COUNT; i++) {
        types t = {.all = (phi_dtype)i};
        check_model(&t, phi_dtype_get(t.all)->name);
    }
}

static void test_mixed(void **unused)
{
    (void)unused;
    static const types MIXES[] = {
        {PHI_DTYPE_Q4_K, PHI_DTYPE_Q6_K, PHI_DTYPE_Q4_K, true},
        {PHI_DTYPE_Q4_K, PHI_DTYPE_Q5_K, PHI_DTYPE_Q5_K, true},
        {PHI_DTYPE_Q2_K, PHI_DTYPE_Q3_K, PHI_DTYPE_Q4_K, true},
        {PHI_DTYPE_IQ4_XS, PHI_DTYPE_Q5_K, PHI_DTYPE_IQ4_NL, true},
        {PHI_DTYPE_Q4_0, PHI_DTYPE_Q4_1, PHI_DTYPE_Q8_0, true},
        {PHI_DTYPE_Q8_0, PHI_DTYPE_F16, PHI_DTYPE_MXFP4, true},
    };
    for (size_t i = 0; i < sizeof MIXES / sizeof MIXES[0]; i++) {
        char name[64];
        (void)snprintf(name, sizeof name, "%s with %s and %s", phi_dtype_get(MIXES[i].all)->name,
                       phi_dtype_get(MIXES[i].v)->name, phi_dtype_get(MIXES[i].up)->name);
        check_model(&MIXES[i], name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_type),
        cmocka_unit_test(test_mixed),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
