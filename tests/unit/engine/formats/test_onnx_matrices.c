/* A folder of ONNX Runtime GenAI, written here byte by byte: every matrix is what the nodes say, in
 * each way that a graph may store it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "onnx_model.h"

static void test_kinds(void **state)
{
    (void)state;
    static const onnx_spec specs[] = {
        {.bits = 32},
        {.bits = 32, .inside = true, .apart = true},
        {.bits = 16, .fused_up = true},
        {.bits = 4},
        {.bits = 4, .zeros = true, .apart = true},
        {.bits = 8, .zeros = true},
        {.bits = 2, .inside = true},
        {.bits = 4, .tied = true, .long_rope = true, .fused_up = true},
        {.bits = 8, .tied = true, .inside = true},
        {.bits = 32, .tied = true},
        {.bits = 4, .qdq = 1},
        {.bits = 4, .qdq = 2, .inside = true},
        {.bits = 4, .qdq = 1, .zeros = true, .apart = true},
        {.bits = 8, .qdq = 1, .zeros = true},
        {.bits = 8, .qdq = 2, .zeros = true},
        {.bits = 4, .real = true},
        {.bits = 8, .real = true, .apart = true},
        {.bits = 4, .qdq = 1, .by_row = true},
        {.bits = 4, .qdq = 2, .by_row = true, .zeros = true},
        {.bits = 8, .qdq = 1, .by_row = true, .zeros = true},
        {.bits = 8, .qdq = 2, .one = true, .zeros = true},
        {.bits = 8, .qdq = 1, .one = true},
        {.bits = 8, .integers = true, .one = true},
        {.bits = 8, .integers = true, .one = true, .zeros = true, .apart = true},
        {.bits = 8, .integers = true, .one = true, .zeros = true, .listed = true},
        {.bits = 8, .integers = true, .by_row = true},
        {.bits = 8, .integers = true, .by_row = true, .zeros = true, .inside = true},
        {.bits = 8, .integers = true, .by_row = true, .zeros = true, .listed = true},
    };
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        open_and_check(&specs[i]);
        assert_int_equal(phi_onnx_description(now.onnx)->tied_head, specs[i].tied);
    }
}

/* Every matrix has a bias, which an Add adds on either side, or MatMulNBits itself. */
static void test_kinds_of_phi2(void **state)
{
    (void)state;
    static const onnx_spec specs[] = {
        {.bits = 32, .phi2 = true},
        {.bits = 16, .phi2 = true, .apart = true},
        {.bits = 4, .phi2 = true, .zeros = true},
        {.bits = 8, .phi2 = true, .own_bias = true},
        {.bits = 4, .phi2 = true, .own_bias = true, .apart = true},
        {.bits = 4, .phi2 = true, .qdq = 2, .apart = true},
        {.bits = 8, .phi2 = true, .integers = true, .one = true, .zeros = true},
        {.bits = 32, .phi2 = true, .tied = true, .inside = true},
    };
    (void)fixture_write_text(&now.files, "genai_config.json", GENAI_OF("phi"));
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        open_and_check(&specs[i]);
    }
    (void)fixture_write_text(&now.files, "genai_config.json", GENAI);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_kinds_of_phi2),
    };
    return cmocka_run_group_tests(tests, onnx_setup, onnx_teardown);
}
