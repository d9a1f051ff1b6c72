/* A folder of phimoe that ONNX's own operators route: what is written is what is read, and a graph
 * that chooses, weighs or adds up experts in another way is refused by the node that does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/formats/onnx.h"
#include "onnx_exported.h"

static void test_round_trip(void **state)
{
    (void)state;
    static const exported_spec specs[] = {
        {.bits = 32, .arch = PHI_ARCH_PHIMOE},
        {.bits = 16, .arch = PHI_ARCH_PHIMOE, .window = 40},
        {.bits = 8, .group = 32, .arch = PHI_ARCH_PHIMOE, .long_rope = true},
        {.bits = 4, .group = 16, .arch = PHI_ARCH_PHIMOE, .rule = PHI_ZERO_INTEGER},
        {.bits = 32, .arch = PHI_ARCH_PHIMOE, .without_bias = true},
    };
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        write_and_check(&specs[i], true);
        write_and_check(&specs[i], false);
    }
}

/* An operator's name or an attribute's text, or the name of a constant (with a slash) where it is
 * used first; and what it becomes, of the same length. */
typedef struct damage {
    const char *from;
    const char *to;
    const char *named;
} damage;

static void replace(char *text, size_t bytes, const damage *d)
{
    enum { TEXT_FIELD = 4 << 3 | 2 }; /* of both kinds of text, then its length */
    size_t length = strlen(d->from);
    bool is_name = strchr(d->from, '/') != NULL;
    char pattern[64];
    assert_int_equal(length, strlen(d->to));
    (void)snprintf(pattern, sizeof pattern, "%c%c%s", TEXT_FIELD, (int)length, d->from);
    const char *wanted = is_name ? d->from : pattern;
    char *at = memmem(text, bytes, wanted, strlen(wanted));
    if (is_name && at) {
        at = memmem(at + 1, bytes - (size_t)(at + 1 - text), wanted, length); /* not its tensor */
    }
    if (!at) {
        fail_msg("the graph has no %s", d->from);
        return;
    }
    memcpy(is_name ? at : at + 2, d->to, length);
}

static void test_other_experts(void **state)
{
    (void)state;
    static const damage damages[] = {
        {"ArgMax", "ArgMin", "(ArgMin) stands where a Phi decoder has ArgMax"},
        {"ReduceMax", "ReduceMin", "has ReduceMax"},
        {"Equal", "Xqual", "has Equal"},
        {"Abs", "Neg", "(Neg) stands where a Phi decoder has Abs"},
        {"Max", "Min", "(Min) stands where a Phi decoder has Max"},
        {"Div", "Mul", "has Div"},
        {"Greater", "Lesserr", "has Greater"},
        {"Softmax", "Hardmax", "(Hardmax) stands where a Phi decoder has Softmax"},
        {"NonZero", "Nonzero", "has NonZero"},
        {"ScatterND", "GatherND3", "does not take the shares of expert 1"},
        {"GatherND", "GatherXX", "has GatherND"},
        {"ConstantOfShape", "ConstantOfXhape", "has ConstantOfShape"},
        {"add", "mul", "reduction \"add\" is right"},
        {"constants/expert_2", "constants/expert_1", "does not take the shares of expert 2"},
        {"constants/far", "constants/low", "compares with no number above 0"},
        {"constants/nothing", "constants/anythin", "does not give two experts their shares"},
        {"constants/last", "constants/most", "is not the best score"},
        {"constants/flat", "constants/rows", "does not put tokens one below the other"},
        {"constants/experts", "constants/numbers", "constants/numbers\" stands where"},
        {"constants/lowest", "constants/low_st", "those that are near the best"},
        {"constants/one", "constants/two", "does not weigh an expert by its tokens' shares"},
    };
    phi_err err = {.message = ""};
    char *text = NULL;
    size_t bytes = 0;
    phi_export export = make_export(&(exported_spec){.bits = 32, .arch = PHI_ARCH_PHIMOE});
    assert_int_equal(phi_onnx_write(&export, PHI_ONNX_CPU, made.files.dir, &err), PHI_OK);
    assert_int_equal(
        phi_file_read_text(fixture_path(&made.files, "model.onnx"), 1U << 24, &text, &bytes, &err),
        PHI_OK);
    char *damaged = phi_alloc(bytes);
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        phi_onnx *onnx = NULL;
        memcpy(damaged, text, bytes);
        replace(damaged, bytes, &damages[i]);
        (void)fixture_write(&made.files, "model.onnx", damaged, bytes);
        phi_status status = phi_onnx_open(made.files.dir, &onnx, &err);
        if (status != PHI_E_UNSUPPORTED || !strstr(err.message, damages[i].named)) {
            fail_msg("%s: %d, %s", damages[i].from, status, err.message);
        }
        assert_null(onnx);
    }
    phi_free(damaged);
    phi_free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_other_experts),
    };
    return cmocka_run_group_tests(tests, exported_setup, exported_teardown);
}
