/* Made-up models: the published sizes, and weights that compute to finite numbers. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/bench/synthetic.h"
#include "engine/kernels/kernels.h"
#include "engine/model/forward.h"

static const char *const precisions[] = {"int4", "int8", "fp16", "bf16", "fp32"};

static void test_published_sizes(void **state)
{
    (void)state;
    /* Parameters of the checkpoints, in millions. */
    static const struct {
        const char *name;
        double parameters;
    } known[] = {
        {"phi-3-mini", 3821}, {"phi-3.5-mini", 3821}, {"phi-3-medium", 13960}, {"phi-4-mini", 3836},
        {"phi-4", 14660},     {"phi-2", 2780},        {"phi-3.5-moe", 41873},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        phi_description d;
        phi_synthetic_types types;
        assert_int_equal(PHI_OK, phi_synthetic_describe(known[i].name, 0, &d, NULL));
        assert_int_equal(PHI_OK, phi_description_check(&d, known[i].name, NULL));
        assert_string_equal(known[i].name, d.name);
        assert_int_equal(PHI_OK, phi_synthetic_types_of("fp32", &types, NULL));
        double parameters = (double)phi_synthetic_bytes(&d, &types) / 4e6;
        assert_true(fabs(parameters - known[i].parameters) < 1.0);
    }
}

static void test_layers(void **state)
{
    (void)state;
    phi_description d;
    phi_err err = {0};
    assert_int_equal(PHI_OK, phi_synthetic_describe("phi-4-mini", 3, &d, &err));
    assert_int_equal(3, d.n_layer);
    assert_int_equal(PHI_E_INVALID, phi_synthetic_describe("phi-4-mini", 33, &d, &err));
    assert_non_null(strstr(err.message, "32"));
}

static void test_unknown_names(void **state)
{
    (void)state;
    phi_description d;
    phi_synthetic_types types;
    phi_err err = {0};
    assert_int_equal(PHI_E_INVALID, phi_synthetic_describe("phi-5", 0, &d, &err));
    assert_non_null(strstr(err.message, "phi-3.5-mini"));
    assert_int_equal(PHI_E_INVALID, phi_synthetic_types_of("int3", &types, &err));
    assert_non_null(strstr(err.message, "bf16"));
}

/* A small model of every type: as many bytes as were foretold, and logits that are finite, not
 * all alike, and the same for a model made once more. */
static void run_model(const phi_compute *compute, const char *precision, float *out_logits,
                      const phi_description *d)
{
    phi_synthetic_types types;
    phi_weights *weights = NULL;
    phi_forward_ctx *forward = NULL;
    assert_int_equal(PHI_OK, phi_synthetic_types_of(precision, &types, NULL));
    assert_int_equal(PHI_OK, phi_synthetic_weights(compute, d, &types, NULL, NULL, &weights, NULL));
    /* Vectors are not counted by phi_weights_bytes, and layouts may pad. */
    double foretold = (double)phi_synthetic_bytes(d, &types);
    assert_true(fabs((double)phi_weights_bytes(weights) - foretold) < foretold * 0.05);
    assert_int_equal(PHI_OK,
                     phi_forward_ctx_create(
                         d, &(phi_forward_sizes){PHI_KV_F32, 2, 1, phi_team_size(compute->team)},
                         &forward, NULL));
    void *page = phi_try_alloc_aligned((size_t)phi_kv_page_bytes(d, PHI_KV_F32));
    assert_non_null(page);
    const phi_row rows[2] = {{.token = 5}, {.token = 7, .position = 1, .want_logits = true}};
    const phi_kv_view view = {.pages = &page};
    const float *logits = phi_forward(forward, compute, weights, rows, 2, &view);
    memcpy(out_logits, logits, d->n_vocab * sizeof *logits);
    phi_free(page);
    phi_forward_ctx_destroy(forward);
    phi_weights_destroy(weights);
}

static void check_model(const phi_compute *compute, const char *name)
{
    phi_description d;
    assert_int_equal(PHI_OK, phi_synthetic_describe(name, 2, &d, NULL));
    /* The same kinds of shape, smaller. */
    d.n_vocab = 1000;
    d.n_embd = 384;
    d.n_head = 6;
    d.n_head_kv = 2;
    d.n_ffn = 544;
    float *first = phi_alloc(d.n_vocab * sizeof *first);
    float *second = phi_alloc(d.n_vocab * sizeof *second);
    for (size_t p = 0; p < sizeof precisions / sizeof precisions[0]; p++) {
        run_model(compute, precisions[p], first, &d);
        run_model(compute, precisions[p], second, &d);
        assert_memory_equal(first, second, d.n_vocab * sizeof *first);
        float least = first[0];
        float most = first[0];
        for (uint32_t i = 0; i < d.n_vocab; i++) {
            assert_true(isfinite(first[i]));
            least = first[i] < least ? first[i] : least;
            most = first[i] > most ? first[i] : most;
        }
        assert_true(most > least + 0.1F);
        assert_true(most < 1000.0F && least > -1000.0F);
    }
    phi_free(first);
    phi_free(second);
}

static void test_weights_compute(void **state)
{
    (void)state;
    phi_compute compute = {.priority = PHI_TEAM_INFERENCE};
    assert_int_equal(PHI_OK, phi_kernels_select(NULL, &compute.kernels, NULL));
    assert_int_equal(PHI_OK, phi_team_create(2, &compute.team, NULL));
    check_model(&compute, "phi-4-mini");
    check_model(&compute, "phi-2");
    check_model(&compute, "phi-3.5-moe");
    phi_team_destroy(compute.team);
}

static bool stop(void *user, uint64_t bytes_done, uint64_t bytes_total)
{
    unsigned *calls = user;
    (*calls)++;
    return bytes_done < bytes_total / 2;
}

static void test_making_stops_and_lacks_memory(void **state)
{
    (void)state;
    phi_compute compute = {.priority = PHI_TEAM_INFERENCE};
    phi_description d;
    phi_synthetic_types types;
    phi_weights *weights = NULL;
    phi_err err = {0};
    unsigned calls = 0;
    assert_int_equal(PHI_OK, phi_kernels_select(NULL, &compute.kernels, NULL));
    assert_int_equal(PHI_OK, phi_team_create(1, &compute.team, NULL));
    assert_int_equal(PHI_OK, phi_synthetic_describe("phi-3-mini", 1, &d, NULL));
    assert_int_equal(PHI_OK, phi_synthetic_types_of("int4", &types, NULL));
    d.n_vocab = 512;
    assert_int_equal(PHI_E_CANCELLED,
                     phi_synthetic_weights(&compute, &d, &types, stop, &calls, &weights, &err));
    assert_true(calls > 0);
    /* Terabytes: no system gives as much. */
    d.n_vocab = UINT32_MAX / 16;
    d.n_embd = 1U << 16;
    assert_int_equal(PHI_E_NO_MEMORY,
                     phi_synthetic_weights(&compute, &d, &types, NULL, NULL, &weights, &err));
    phi_team_destroy(compute.team);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_sizes),
        cmocka_unit_test(test_layers),
        cmocka_unit_test(test_unknown_names),
        cmocka_unit_test(test_weights_compute),
        cmocka_unit_test(test_making_stops_and_lacks_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
