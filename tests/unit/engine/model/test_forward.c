/*
 * The forward pass on weights made here: batches of several sequences, prompt chunks, streaming by
 * layers, sliding windows that have passed whole pages, memory.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "random_weight.h"
#include "runner.h"

#define VOCAB 96
#define N_TOKENS 75

static phi_team *team;
static const phi_kernels *sets[8];
static size_t n_sets;
static int32_t tokens[2][N_TOKENS];

static int begin(void **state)
{
    (void)state;
    n_sets = phi_kernels_available(sets, 8);
    random_seed(11);
    for (int s = 0; s < 2; s++) {
        for (int i = 0; i < N_TOKENS; i++) {
            tokens[s][i] = (int32_t)(random_u32() % VOCAB);
        }
    }
    return phi_team_create(2, &team, NULL) == PHI_OK ? 0 : -1;
}

static int end(void **state)
{
    (void)state;
    phi_team_destroy(team);
    return 0;
}

static float *random_norm(uint32_t n)
{
    float *norm = phi_alloc(n * sizeof *norm);
    for (uint32_t i = 0; i < n; i++) {
        norm[i] = 1.0F + random_float(0.3F);
    }
    return norm;
}

/* What make_weights made: each matrix and vector for itself, unlike a loaded model's. */
static void free_weights(phi_weights *w)
{
    for (uint32_t i = 0; i < w->description.n_layer; i++) {
        phi_layer_weights *layer = &w->layers[i];
        phi_weight_done(&layer->qkv);
        phi_weight_done(&layer->out);
        phi_weight_done(&layer->up);
        phi_weight_done(&layer->down);
        phi_free(layer->attn_norm);
        phi_free(layer->ffn_norm);
    }
    phi_weight_done(&w->embedding);
    phi_weight_done(&w->head);
    phi_free(w->final_norm);
    phi_weights_destroy(w);
}

/* E 128, two layers, H 4, Hkv 2, d 32, F 256. */
static phi_weights *make_weights(const random_kind *kind, uint32_t window)
{
    phi_weights *w = phi_alloc_zero(1, sizeof *w);
    w->description = (phi_description){.n_layer = 2,
                                       .n_embd = 128,
                                       .n_head = 4,
                                       .n_head_kv = 2,
                                       .head_dim = 32,
                                       .n_ffn = 256,
                                       .n_vocab = VOCAB,
                                       .n_ctx = 1024,
                                       .norm_eps = 1e-5F,
                                       .n_rot = 32,
                                       .rope_theta = 10000.0F,
                                       .window = window};
    random_seed(12);
    random_weight(&w->embedding, kind, VOCAB, 128, 0.5F);
    random_weight(&w->head, kind, VOCAB, 128, 0.5F);
    w->final_norm = random_norm(128);
    w->layers = phi_alloc_zero(2, sizeof *w->layers);
    for (int i = 0; i < 2; i++) {
        phi_layer_weights *layer = &w->layers[i];
        random_weight(&layer->qkv, kind, 256, 128, 0.2F);
        random_weight(&layer->out, kind, 128, 128, 0.2F);
        random_weight(&layer->up, kind, 512, 128, 0.2F);
        random_weight(&layer->down, kind, 128, 256, 0.1F);
        layer->attn_norm = random_norm(128);
        layer->ffn_norm = random_norm(128);
    }
    return w;
}

static phi_kv_type kv_type_of(const random_kind *kind)
{
    return kind->kind == PHI_WEIGHT_FP32 ? PHI_KV_F32 : PHI_KV_F16;
}

/* Two sequences in one batch, in uneven steps, against each alone: the same bits. The first is a
 * prompt, the second one from its 31st token on was generated. */
static void check_batch(const phi_weights *weights, const phi_kernels *kernels, phi_kv_type kv_type)
{
    runner alone[2];
    runner both[2];
    float right[2][VOCAB];
    static const uint32_t n_prompt[2] = {N_TOKENS, 30};
    for (int s = 0; s < 2; s++) {
        runner_init(&alone[s], weights, kernels, team, kv_type);
        runner_init(&both[s], weights, kernels, team, kv_type);
        alone[s].n_prompt = n_prompt[s];
        const float *logits =
            runner_feed(&alone[s], tokens[s], N_TOKENS - 10 * (uint32_t)s, s == 0 ? 75 : 1);
        memcpy(right[s], logits, sizeof right[s]);
    }
    const phi_kv_view views[2] = {{.pages = both[0].pages}, {.pages = both[1].pages}};
    uint32_t done[2] = {0, 0};
    phi_forward_ctx *ctx = NULL;
    assert_int_equal(PHI_OK,
                     phi_forward_ctx_create(&weights->description,
                                            &(phi_forward_sizes){kv_type, 64, 2, 2}, &ctx, NULL));
    uint64_t allocations = phi_mem_allocations();
    while (done[0] < N_TOKENS || done[1] < N_TOKENS - 10) {
        static const uint32_t steps[2] = {13, 8};
        phi_row rows[64];
        uint32_t n = 0;
        int wanted[2] = {-1, -1};
        int n_wanted = 0;
        for (uint32_t s = 0; s < 2; s++) {
            uint32_t last = N_TOKENS - 10 * s;
            bool is_prompt = done[s] < n_prompt[s];
            last = is_prompt && n_prompt[s] < last ? n_prompt[s] : last;
            for (uint32_t i = 0; i < steps[s] && done[s] < last; i++, done[s]++) {
                rows[n] = (phi_row){.token = tokens[s][done[s]],
                                    .position = done[s],
                                    .seq = s,
                                    .is_prompt = is_prompt};
                if (done[s] + 1 == N_TOKENS - 10 * s) {
                    rows[n].want_logits = true;
                    wanted[s] = n_wanted++;
                }
                n++;
            }
        }
        const phi_compute compute = {kernels, team, PHI_TEAM_INFERENCE};
        const float *logits = phi_forward(ctx, &compute, weights, rows, n, views);
        for (int s = 0; s < 2; s++) {
            if (wanted[s] >= 0) {
                assert_memory_equal(right[s], logits + wanted[s] * VOCAB, sizeof right[s]);
                assert_true(isfinite(logits[wanted[s] * VOCAB]));
            }
        }
    }
    assert_true(phi_mem_allocations() == allocations);
    phi_forward_ctx_destroy(ctx);
    for (int s = 0; s < 2; s++) {
        runner_done(&alone[s]);
        runner_done(&both[s]);
    }
}

static void test_batch_equals_alone(void **state)
{
    (void)state;
    for (size_t i = 0; i < n_random_kinds; i++) {
        phi_weights *weights = make_weights(&random_kinds[i], 0);
        for (size_t s = 0; s < n_sets; s++) {
            check_batch(weights, sets[s], kv_type_of(&random_kinds[i]));
            check_batch(weights, sets[s], PHI_KV_F16);
            check_batch(weights, sets[s], PHI_KV_INT8);
        }
        free_weights(weights);
    }
}

/* The logits of the rows that `wanted` has a bit for, of a prompt of 20 tokens and one generated
 * token of another sequence, in one step. */
static void step_of_two(phi_weights *weights, const phi_kernels *kernels, uint32_t wanted,
                        float (*out)[VOCAB])
{
    runner both[2];
    phi_row rows[21];
    phi_forward_ctx *ctx = NULL;
    for (int s = 0; s < 2; s++) {
        runner_init(&both[s], weights, kernels, team, PHI_KV_F16);
    }
    (void)runner_feed(&both[1], tokens[1], 30, 30);
    for (uint32_t i = 0; i < 20; i++) {
        rows[i] = (phi_row){.token = tokens[0][i], .position = i, .is_prompt = true};
    }
    rows[20] = (phi_row){.token = tokens[1][30], .position = 30, .seq = 1};
    for (uint32_t i = 0; i < 21; i++) {
        rows[i].want_logits = wanted >> i & 1;
    }
    const phi_kv_view views[2] = {{.pages = both[0].pages}, {.pages = both[1].pages}};
    const phi_compute compute = {kernels, team, PHI_TEAM_INFERENCE};
    const phi_forward_sizes sizes = {PHI_KV_F16, 21, 21, 2};
    assert_int_equal(PHI_OK, phi_forward_ctx_create(&weights->description, &sizes, &ctx, NULL));
    const float *logits = phi_forward(ctx, &compute, weights, rows, 21, views);
    for (uint32_t i = 0; i < 21; i++) {
        if (rows[i].want_logits) {
            memcpy(out[i], logits, sizeof out[i]);
            logits += VOCAB;
        }
    }
    phi_forward_ctx_destroy(ctx);
    /* Keys and values are there, whoever got logits. */
    both[0].n_done = 20;
    memcpy(out[21], runner_feed(&both[0], tokens[0] + 20, 1, 1), sizeof out[21]);
    for (int s = 0; s < 2; s++) {
        runner_done(&both[s]);
    }
}

static void test_logits_of_some_rows(void **state)
{
    (void)state;
    static const uint32_t some[] = {0, 1U << 20, 1U << 19, 1U << 3 | 1U << 7 | 1U << 20, 1};
    for (size_t i = 0; i < n_random_kinds; i++) {
        phi_weights *weights = make_weights(&random_kinds[i], 0);
        for (size_t s = 0; s < n_sets; s++) {
            static float all[22][VOCAB];
            static float found[22][VOCAB];
            step_of_two(weights, sets[s], (1U << 21) - 1, all);
            for (size_t k = 0; k < sizeof some / sizeof *some; k++) {
                memcpy(found, all, sizeof found);
                step_of_two(weights, sets[s], some[k], found);
                assert_memory_equal(all, found, sizeof all);
            }
        }
        free_weights(weights);
    }
}

static const random_kind fp32 = {"FP32", PHI_WEIGHT_FP32, 0, false, false};

/* Pages that the window has passed may go: what they hold is not read. */
static void test_window(void **state)
{
    (void)state;
    phi_weights *weights = make_weights(&fp32, 20);
    runner kept;
    runner passed;
    runner_init(&kept, weights, sets[0], team, PHI_KV_F32);
    runner_init(&passed, weights, sets[0], team, PHI_KV_F32);
    for (uint32_t i = 0; i < N_TOKENS; i++) {
        float right[VOCAB];
        memcpy(right, runner_feed(&kept, &tokens[0][i], 1, 1), sizeof right);
        for (uint32_t p = 0; i >= 19 && (p + 1) * PHI_KV_PAGE_TOKENS <= i - 19; p++) {
            phi_free(passed.pages[p]);
            passed.pages[p] = NULL;
        }
        assert_memory_equal(right, runner_feed(&passed, &tokens[0][i], 1, 1), sizeof right);
    }
    assert_null(passed.pages[0]);
    /* A key outside of the window changes nothing, one inside does: position 40 sees 21..40. */
    int32_t other[41];
    float right[VOCAB];
    memcpy(other, tokens[0], sizeof other);
    weights->description.n_layer = 1;
    runner one;
    runner_init(&one, weights, sets[0], team, PHI_KV_F32);
    memcpy(right, runner_feed(&one, other, 41, 41), sizeof right);
    other[20] = (other[20] + 1) % VOCAB;
    runner_restart(&one, 41);
    assert_memory_equal(right, runner_feed(&one, other, 41, 41), sizeof right);
    other[21] = (other[21] + 1) % VOCAB;
    runner_restart(&one, 41);
    assert_memory_not_equal(right, runner_feed(&one, other, 41, 41), sizeof right);
    weights->description.n_layer = 2;
    runner_done(&one);
    runner_done(&kept);
    runner_done(&passed);
    free_weights(weights);
}

/* The pass cut into its stages gives the whole pass's bits. */
static void test_stages(void **state)
{
    (void)state;
    phi_weights *weights = make_weights(&random_kinds[0], 0);
    const phi_compute compute = {sets[0], team, PHI_TEAM_BACKGROUND};
    phi_description one_layer = weights->description;
    runner whole;
    runner pages;
    float x[N_TOKENS * 128];
    float logits[VOCAB];
    one_layer.n_layer = 1;
    runner_init(&whole, weights, sets[0], team, PHI_KV_F16);
    runner_init(&pages, weights, sets[0], team, PHI_KV_F16);
    assert_true(phi_kv_page_bytes(&one_layer, PHI_KV_F16) * 2 ==
                phi_kv_page_bytes(&weights->description, PHI_KV_F16));
    const float *right = runner_feed(&whole, tokens[0], N_TOKENS, N_TOKENS);
    const phi_kv_view view = {.pages = pages.pages};
    phi_forward_embed(weights, tokens[0], N_TOKENS, x);
    for (uint32_t i = 0; i < 2; i++) {
        phi_forward_layer(pages.ctx, &compute, &weights->layers[i], x, 0, 50, &view);
        phi_forward_layer(pages.ctx, &compute, &weights->layers[i], x + 50 * 128, 50, N_TOKENS - 50,
                          &view);
    }
    phi_forward_logits(pages.ctx, &compute, weights, x + (N_TOKENS - 1) * 128, 1, logits);
    assert_memory_equal(right, logits, sizeof logits);
    runner_done(&whole);
    runner_done(&pages);
    free_weights(weights);
}

/* All sets say the same to within rounding, on every kind. */
static void test_sets_agree(void **state)
{
    (void)state;
    for (size_t i = 0; i < n_random_kinds; i++) {
        phi_weights *weights = make_weights(&random_kinds[i], 0);
        float right[VOCAB];
        for (size_t s = n_sets; s-- > 0;) {
            runner r;
            double error = 0.0;
            double largest = 0.0;
            runner_init(&r, weights, sets[s], team, PHI_KV_F32);
            const float *logits = runner_feed(&r, tokens[1], 40, 16);
            if (s == n_sets - 1) {
                memcpy(right, logits, sizeof right);
            }
            for (int v = 0; v < VOCAB; v++) {
                error = fmax(error, fabs((double)logits[v] - (double)right[v]));
                largest = fmax(largest, fabs((double)right[v]));
            }
            /* Quantizing activations turns a rounding's difference into a whole step now and then,
             * and bulk products do not quantize them at all. */
            double bound = !random_kinds[i].group ? 1e-5 : sets[s]->bulk ? 8e-2 : 2e-2;
            assert_true(error <= bound * largest);
            runner_done(&r);
        }
        free_weights(weights);
    }
}

static void test_no_memory(void **state)
{
    (void)state;
    phi_weights *weights = make_weights(&fp32, 0);
    int n = 0;
    for (;; n++) {
        phi_forward_ctx *ctx = NULL;
        phi_err err = {0};
        phi_mem_fail_after(n);
        phi_status status = phi_forward_ctx_create(
            &weights->description, &(phi_forward_sizes){PHI_KV_F16, 8, 1, 1}, &ctx, &err);
        phi_mem_fail_after(-1);
        if (status == PHI_OK) {
            assert_true(phi_forward_ctx_bytes(ctx) > 8 * 128 * sizeof(float));
            phi_forward_ctx_destroy(ctx);
            break;
        }
        assert_int_equal(PHI_E_NO_MEMORY, status);
        assert_null(ctx);
        assert_true(err.message[0] != '\0');
    }
    assert_true(n > 0);
    free_weights(weights);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_batch_equals_alone),
        cmocka_unit_test(test_logits_of_some_rows),
        cmocka_unit_test(test_window),
        cmocka_unit_test(test_stages),
        cmocka_unit_test(test_sets_agree),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
