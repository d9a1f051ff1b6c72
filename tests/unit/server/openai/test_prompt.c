/* The four forms of a prompt, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/openai/prompt.h"

static phi_status check(const char *text)
{
    json_t *prompt = json_loads(text, JSON_DECODE_ANY, NULL);
    assert_non_null(prompt);
    phi_err err;
    phi_status status = phi_prompt_check(prompt, "prompt", &err);
    if (status) {
        assert_string_equal(err.param, "prompt");
    }
    json_decref(prompt);
    return status;
}

static void test_all_four_forms(void **state)
{
    (void)state;
    assert_int_equal(check("\"text\""), PHI_OK);
    assert_int_equal(check("[\"a\", \"b\"]"), PHI_OK);
    assert_int_equal(check("[1, 2, 3]"), PHI_OK);
    assert_int_equal(check("[[1, 2], [3]]"), PHI_OK);
}

static void test_refusals(void **state)
{
    (void)state;
    assert_int_equal(check("[]"), PHI_E_INVALID);
    assert_int_equal(check("{}"), PHI_E_INVALID);
    assert_int_equal(check("7"), PHI_E_INVALID);
    assert_int_equal(check("[\"a\", 1]"), PHI_E_INVALID);
    assert_int_equal(check("[1, \"a\"]"), PHI_E_INVALID);
    assert_int_equal(check("[1, -1]"), PHI_E_INVALID);
    assert_int_equal(check("[[1], \"a\"]"), PHI_E_INVALID);
    assert_int_equal(check("[1.5]"), PHI_E_INVALID);
    phi_err err;
    assert_int_equal(phi_prompt_check(NULL, "prompt", &err), PHI_E_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_four_forms),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
