#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/model/memplan.h"
#include "engine/model/weights.h"

static phi_checkpoint *open_checkpoint(void)
{
    phi_checkpoint *checkpoint = NULL;
    assert_int_equal(
        PHI_OK, phi_checkpoint_open(PHID_SOURCE_DIR "/tests/golden/grouped", &checkpoint, NULL));
    return checkpoint;
}

static void test_fits(void **state)
{
    (void)state;
    phi_checkpoint *checkpoint = open_checkpoint();
    const phi_description *d = phi_checkpoint_description(checkpoint);
    phi_memplan plan = {0};
    const phi_memplan_sizes sizes = {.kv_type = PHI_KV_F16,
                                     .kv_tokens = 100,
                                     .n_tok_max = 64,
                                     .n_logits_max = 2,
                                     .n_threads = 3};
    assert_int_equal(PHI_OK, phi_memplan_make(checkpoint, &sizes, &plan, NULL));
    assert_true(plan.weights_bytes >= phi_checkpoint_bytes(checkpoint));
    assert_true(plan.kv_bytes == 4 * phi_kv_page_bytes(d, PHI_KV_F16));
    assert_true(plan.available_bytes > plan.kv_bytes);
    phi_forward_ctx *ctx = NULL;
    assert_int_equal(
        PHI_OK, phi_forward_ctx_create(d, &(phi_forward_sizes){PHI_KV_F16, 64, 2, 3}, &ctx, NULL));
    /* What the plan says is what is taken, up to the ends of cache lines. */
    assert_in_range(phi_forward_ctx_bytes(ctx), plan.scratch_bytes, plan.scratch_bytes + 4096);
    phi_forward_ctx_destroy(ctx);
    phi_checkpoint_close(checkpoint);
}

static void test_refused_with_numbers(void **state)
{
    (void)state;
    phi_checkpoint *checkpoint = open_checkpoint();
    phi_memplan plan = {.kv_bytes = 7};
    phi_err err = {0};
    const phi_memplan_sizes sizes = {.kv_type = PHI_KV_F32,
                                     .kv_tokens = UINT32_MAX,
                                     .n_tok_max = 16,
                                     .n_logits_max = 16,
                                     .n_threads = 1};
    assert_int_equal(PHI_E_NO_MEMORY, phi_memplan_make(checkpoint, &sizes, &plan, &err));
    assert_int_equal(7, plan.kv_bytes);
    assert_non_null(strstr(err.message, "4294967295 tokens"));
    phi_checkpoint_close(checkpoint);
}

static bool count_calls(void *user, uint64_t done, uint64_t total)
{
    uint64_t *last = user;
    assert_true(done > *last && done <= total);
    *last = done;
    return true;
}

static bool stop(void *user, uint64_t done, uint64_t total)
{
    (void)user;
    return done < total / 2;
}

static void test_load_tells_and_stops(void **state)
{
    (void)state;
    phi_checkpoint *checkpoint = open_checkpoint();
    phi_weights *weights = NULL;
    phi_err err = {0};
    uint64_t last = 0;
    assert_int_equal(PHI_OK, phi_weights_load(checkpoint, count_calls, &last, &weights, &err));
    assert_true(last == phi_checkpoint_bytes(checkpoint));
    phi_weights_destroy(weights);
    weights = NULL;
    assert_int_equal(PHI_E_CANCELLED, phi_weights_load(checkpoint, stop, NULL, &weights, &err));
    assert_null(weights);
    phi_checkpoint_close(checkpoint);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fits),
        cmocka_unit_test(test_refused_with_numbers),
        cmocka_unit_test(test_load_tells_and_stops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
