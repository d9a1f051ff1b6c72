/* The buffer keeps its cap and its content when an append is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/mem.h"

static void test_cap_is_kept(void **state)
{
    (void)state;
    phi_buf buf;
    phi_buf_init(&buf, 8);
    assert_int_equal(phi_buf_append_str(&buf, "1234567"), PHI_OK);
    assert_int_equal(phi_buf_append_str(&buf, "89"), PHI_E_LIMIT);
    assert_string_equal(phi_buf_text(&buf), "1234567");
    assert_true(phi_buf_failed(&buf));
    phi_buf_done(&buf);
}

static void test_consume_and_take(void **state)
{
    (void)state;
    phi_buf buf;
    phi_buf_init(&buf, 1000);
    assert_int_equal(phi_buf_printf(&buf, "%s-%d", "abc", 42), PHI_OK);
    phi_buf_consume(&buf, 4);
    assert_string_equal(phi_buf_text(&buf), "42");
    char *taken = phi_buf_take(&buf);
    assert_string_equal(taken, "42");
    assert_string_equal(phi_buf_text(&buf), "");
    phi_free(taken);
}

static void test_out_of_memory_is_reported(void **state)
{
    (void)state;
    phi_buf buf;
    phi_buf_init(&buf, 1000);
    phi_mem_fail_after(0);
    assert_int_equal(phi_buf_append_str(&buf, "x"), PHI_E_NO_MEMORY);
    phi_mem_fail_after(-1);
    assert_string_equal(phi_buf_text(&buf), "");
    phi_buf_done(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cap_is_kept),
        cmocka_unit_test(test_consume_and_take),
        cmocka_unit_test(test_out_of_memory_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
