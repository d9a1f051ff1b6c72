/* The ranges that the sample model's values take on the text that quality is measured on. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/quant/qnn_ranges.h"

#define SAMPLE PHID_SOURCE_DIR "/models/phi-sample"

static phi_checkpoint *checkpoint;
static phi_compute compute = {.priority = PHI_TEAM_BACKGROUND};
static uint32_t calls_left; /* of go_on, until it says stop; 0: never */

static bool go_on(void *user)
{
    (void)user;
    return calls_left == 0 || --calls_left > 0;
}

static phi_status measure(uint32_t context, phi_qnn_ranges *out)
{
    const phi_qnn_measuring input = {
        .compute = &compute, .checkpoint = checkpoint, .context = context, .go_on = go_on};
    phi_err err;
    return phi_qnn_measure(&input, out, &err);
}

static void check(phi_qnn_range range)
{
    assert_true(isfinite(range.low) && isfinite(range.high));
    assert_true(range.low < 0.0F && range.high > 0.0F);
}

static void test_all_are_measured(void **state)
{
    (void)state;
    const phi_description *d = phi_checkpoint_description(checkpoint);
    phi_qnn_ranges ranges;
    assert_int_equal(measure(1024, &ranges), PHI_OK);
    check(ranges.embedding);
    check(ranges.final_norm);
    check(ranges.logit);
    for (uint32_t i = 0; i < d->n_layer; i++) {
        const phi_qnn_layer_ranges *layer = &ranges.layers[i];
        const phi_qnn_range all[] = {layer->attn_norm, layer->value,    layer->score,
                                     layer->attn,      layer->attn_out, layer->attn_sum,
                                     layer->ffn_norm,  layer->gate,     layer->up,
                                     layer->ffn,       layer->ffn_out,  layer->sum};
        for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
            check(all[k]);
        }
        /* Attention is a mean of values: it goes no further than they do (their margin is less). */
        assert_true(layer->attn.high / 1.25F <= layer->value.high / 1.1F * 1.001F);
        assert_true(layer->attn.low / 1.25F >= layer->value.low / 1.1F * 1.001F);
        /* No score is larger than the lengths of its vectors make it. */
        float product = 0.0F;
        for (uint32_t k = 0; k < d->head_dim; k++) {
            float most = 0.0F;
            for (uint32_t h = 0; h < d->n_head; h++) {
                most = fmaxf(most, layer->radius[h * d->head_dim + k]);
            }
            float key = 0.0F;
            for (uint32_t h = d->n_head; h < d->n_head + d->n_head_kv; h++) {
                key = fmaxf(key, layer->radius[h * d->head_dim + k]);
            }
            assert_true(most > 0.0F && key > 0.0F);
            product += most * key;
        }
        assert_true(layer->score.high <= 1.25F * product / sqrtf((float)d->head_dim));
    }
    phi_qnn_ranges_done(&ranges, d->n_layer);
}

/* What fewer tokens do is within what more of them do. */
static void test_shorter_is_within(void **state)
{
    (void)state;
    const uint32_t n_layer = phi_checkpoint_description(checkpoint)->n_layer;
    phi_qnn_ranges few;
    phi_qnn_ranges many;
    assert_int_equal(measure(128, &few), PHI_OK);
    assert_int_equal(measure(512, &many), PHI_OK);
    for (uint32_t i = 0; i < n_layer; i++) {
        assert_true(few.layers[i].sum.high <= many.layers[i].sum.high * 1.0001F);
        assert_true(few.layers[i].score.low >= many.layers[i].score.low * 1.0001F);
        assert_true(few.layers[i].radius[0] <= many.layers[i].radius[0] * 1.0001F);
    }
    phi_qnn_ranges_done(&few, n_layer);
    phi_qnn_ranges_done(&many, n_layer);
}

static void test_cancelled(void **state)
{
    (void)state;
    phi_qnn_ranges ranges = {0};
    calls_left = 3;
    assert_int_equal(measure(512, &ranges), PHI_E_CANCELLED);
    calls_left = 0;
    assert_null(ranges.layers);
}

static int setup(void **state)
{
    (void)state;
    phi_err err = {.message = ""};
    assert_int_equal(phi_kernels_select(NULL, &compute.kernels, &err), PHI_OK);
    assert_int_equal(phi_team_create(2, &compute.team, &err), PHI_OK);
    if (phi_checkpoint_open(SAMPLE, &checkpoint, &err)) {
        fail_msg("%s", err.message);
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    phi_checkpoint_close(checkpoint);
    phi_team_destroy(compute.team);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_are_measured),
        cmocka_unit_test(test_shorter_is_within),
        cmocka_unit_test(test_cancelled),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
