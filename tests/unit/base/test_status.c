/* Statuses and their texts: names, context, the cut, and no text without a place for it. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/checked.h"
#include "base/status.h"

static void test_fail(void **state)
{
    (void)state;
    phi_err err;
    assert_int_equal(phi_fail(&err, PHI_E_LIMIT, "%d of %s", 3, "x"), PHI_E_LIMIT);
    assert_int_equal(err.code, PHI_E_LIMIT);
    assert_string_equal(err.message, "3 of x");
    assert_string_equal(err.param, "");
    assert_int_equal(phi_fail_param(&err, PHI_E_INVALID, "top_p", "too %s", "large"),
                     PHI_E_INVALID);
    assert_string_equal(err.param, "top_p");
    assert_int_equal(phi_fail_context(&err, PHI_E_IO, "job %d", 7), PHI_E_INVALID);
    assert_string_equal(err.message, "job 7: too large");
    assert_string_equal(err.param, "top_p");
    assert_int_equal(phi_fail(NULL, PHI_E_IO, "x"), PHI_E_IO);
    assert_int_equal(phi_fail_context(NULL, PHI_E_IO, "x"), PHI_E_IO);
}

static void test_cut(void **state)
{
    (void)state;
    char text[400];
    phi_err err;
    memset(text, 'a', sizeof text);
    text[sizeof text - 1] = '\0';
    (void)phi_fail(&err, PHI_E_IO, "%s", text);
    assert_int_equal(strlen(err.message), PHI_ERR_BYTES_MAX - 1);
    (void)phi_fail_context(&err, PHI_E_IO, "front");
    assert_int_equal(strlen(err.message), PHI_ERR_BYTES_MAX - 1);
    assert_memory_equal(err.message, "front: aaa", 10);
    for (size_t used = PHI_ERR_BYTES_MAX - 6; used < PHI_ERR_BYTES_MAX + 2; used++) {
        (void)phi_fail(&err, PHI_E_IO, "inner");
        (void)phi_fail_context(&err, PHI_E_IO, "%.*s", (int)used, text);
        assert_true(strlen(err.message) < PHI_ERR_BYTES_MAX);
    }
}

/* Half a character at the cut would make the text impossible to send as JSON. */
static void test_cut_on_character(void **state)
{
    (void)state;
    char text[400] = "";
    phi_err err;
    for (size_t i = 0; i + 2 < sizeof text - 1; i += 2) {
        memcpy(text + i, "\xC3\xA4", 3);
    }
    (void)phi_fail(&err, PHI_E_IO, "%s", text);
    assert_int_equal(strlen(err.message), PHI_ERR_BYTES_MAX - 2);
    (void)phi_fail_context(&err, PHI_E_IO, "12");
    assert_int_equal(strlen(err.message), PHI_ERR_BYTES_MAX - 2);
    (void)phi_fail_context(&err, PHI_E_IO, "%s", text);
    assert_int_equal(strlen(err.message), PHI_ERR_BYTES_MAX - 2);
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(phi_status_name(PHI_OK), "OK");
    assert_string_equal(phi_status_name(PHI_E_FORMAT), "E_FORMAT");
    assert_string_equal(phi_status_name((phi_status)-99), "E_UNKNOWN");
    assert_int_equal(phi_status_of_errno(ENOSPC), PHI_E_NO_SPACE);
    assert_int_equal(phi_status_of_errno(ENOENT), PHI_E_NOT_FOUND);
    assert_int_equal(phi_status_of_errno(EIO), PHI_E_IO);
}

static void test_checked(void **state)
{
    (void)state;
    uint64_t out = 7;
    assert_false(phi_checked_add(UINT64_MAX, 1, &out));
    assert_false(phi_checked_mul(1ULL << 32, 1ULL << 32, &out));
    assert_int_equal(out, 7);
    assert_true(phi_checked_mul(UINT32_MAX, UINT32_MAX, &out));
    assert_true(phi_checked_range(4, 6, 10));
    assert_true(phi_checked_range(10, 0, 10));
    assert_false(phi_checked_range(4, 7, 10));
    assert_false(phi_checked_range(UINT64_MAX, 2, 10));
    assert_false(phi_checked_range(2, UINT64_MAX, 10));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fail),
        cmocka_unit_test(test_cut),
        cmocka_unit_test(test_cut_on_character),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
