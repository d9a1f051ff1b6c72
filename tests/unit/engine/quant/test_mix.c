/* GGUF's mixes: llama-quantize's choices for models of Phi's shapes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "engine/quant/mix.h"

static phi_dtype choose(const char *mix, uint32_t n_layer, bool tied, const char *name,
                        uint32_t cols)
{
    const phi_mix *found = phi_mix_find(mix);
    phi_description description = {.n_layer = n_layer, .tied_head = tied};
    phi_tensor tensor = {.n_dims = 2, .cols = cols};
    assert_non_null(found);
    (void)snprintf(tensor.name, sizeof tensor.name, "%s", name);
    return phi_mix_choose(found, &description, &tensor);
}

static void test_names(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        uint32_t file_type;
    } names[] = {{"q4_0", 2},    {"q4_1", 3},    {"q8_0", 7},    {"q5_0", 8},
                 {"q5_1", 9},    {"q4_k_s", 14}, {"q4_k_m", 15}, {"q5_k_s", 16},
                 {"q5_k_m", 17}, {"q6_k", 18},   {"iq4_nl", 25}, {"Q4_K_M", 15}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const phi_mix *mix = phi_mix_find(names[i].name);
        assert_non_null(mix);
        assert_int_equal(phi_mix_file_type(mix), names[i].file_type);
        assert_true(i == 11 || strstr(phi_mix_names(), names[i].name));
    }
    assert_null(phi_mix_find("q4_k"));
    assert_null(phi_mix_find(""));
}

/* Which of 32 layers have ffn_down in `dtype`, as bits. */
static uint32_t layers_with(const char *mix, phi_dtype dtype)
{
    uint32_t bits = 0;
    for (uint32_t layer = 0; layer < 32; layer++) {
        char name[64];
        (void)snprintf(name, sizeof name, "blk.%u.ffn_down.weight", layer);
        bits |= (uint32_t)(choose(mix, 32, false, name, 8192) == dtype) << layer;
    }
    return bits;
}

static void test_layers(void **state)
{
    (void)state;
    /* 0-3, 6, 9, 12, 15, 18, 21, 24, 27, 28-31. */
    assert_int_equal(layers_with("q4_k_m", PHI_DTYPE_Q6_K), 0xF924924FU);
    assert_int_equal(layers_with("q4_k_m", PHI_DTYPE_Q4_K), ~0xF924924FU);
    assert_int_equal(layers_with("q5_k_m", PHI_DTYPE_Q6_K), 0xF924924FU);
    assert_int_equal(layers_with("q5_k_m", PHI_DTYPE_Q5_K), ~0xF924924FU);
    assert_int_equal(layers_with("q4_k_s", PHI_DTYPE_Q5_K), 0xFU);
    assert_int_equal(layers_with("q5_k_s", PHI_DTYPE_Q5_K), UINT32_MAX);
    assert_int_equal(layers_with("q6_k", PHI_DTYPE_Q6_K), UINT32_MAX);
}

static void test_parts(void **state)
{
    (void)state;
    static const struct {
        const char *mix;
        phi_dtype embedding;
        phi_dtype qkv;
        phi_dtype up;
        phi_dtype head;
    } rows[] = {
        {"q4_k_s", PHI_DTYPE_Q4_K, PHI_DTYPE_Q4_K, PHI_DTYPE_Q4_K, PHI_DTYPE_Q6_K},
        {"q4_k_m", PHI_DTYPE_Q4_K, PHI_DTYPE_Q5_K, PHI_DTYPE_Q4_K, PHI_DTYPE_Q6_K},
        {"q5_k_s", PHI_DTYPE_Q5_K, PHI_DTYPE_Q5_K, PHI_DTYPE_Q5_K, PHI_DTYPE_Q6_K},
        {"q5_k_m", PHI_DTYPE_Q5_K, PHI_DTYPE_Q6_K, PHI_DTYPE_Q5_K, PHI_DTYPE_Q6_K},
        {"q8_0", PHI_DTYPE_Q8_0, PHI_DTYPE_Q8_0, PHI_DTYPE_Q8_0, PHI_DTYPE_Q8_0},
        {"iq4_nl", PHI_DTYPE_IQ4_NL, PHI_DTYPE_IQ4_NL, PHI_DTYPE_IQ4_NL, PHI_DTYPE_Q6_K},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const char *mix = rows[i].mix;
        assert_int_equal(choose(mix, 32, false, "token_embd.weight", 3072), rows[i].embedding);
        assert_int_equal(choose(mix, 32, true, "token_embd.weight", 3072), rows[i].head);
        assert_int_equal(choose(mix, 32, false, "blk.3.attn_qkv.weight", 3072), rows[i].qkv);
        assert_int_equal(choose(mix, 32, false, "blk.3.attn_output.weight", 3072), rows[i].up);
        assert_int_equal(choose(mix, 32, false, "blk.3.ffn_up.weight", 3072), rows[i].up);
        assert_int_equal(choose(mix, 32, false, "output.weight", 3072), rows[i].head);
    }
}

/* Rows that are not whole blocks of 256, or of 32. */
static void test_fallbacks(void **state)
{
    (void)state;
    assert_int_equal(choose("q4_k_s", 4, false, "blk.0.ffn_up.weight", 96), PHI_DTYPE_Q5_0);
    assert_int_equal(choose("q5_k_s", 4, false, "blk.0.ffn_up.weight", 96), PHI_DTYPE_Q5_1);
    assert_int_equal(choose("q6_k", 4, false, "blk.0.ffn_up.weight", 96), PHI_DTYPE_Q8_0);
    assert_int_equal(choose("iq4_nl", 4, false, "blk.0.ffn_up.weight", 96), PHI_DTYPE_IQ4_NL);
    assert_int_equal(choose("q4_k_m", 4, false, "blk.0.ffn_up.weight", 40), PHI_DTYPE_F16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_layers),
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_fallbacks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
