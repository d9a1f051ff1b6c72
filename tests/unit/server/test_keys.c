
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/access/keys.h"

static void test_no_keys(void **state)
{
    (void)state;
    phi_access *access = NULL;
    uint64_t client = 7;
    assert_int_equal(phi_access_create("", "", &access, NULL), PHI_OK);
    assert_true(phi_access_check(access, NULL, &client));
    assert_int_equal(client, 0);
    phi_access_destroy(access);
}

static void test_keys(void **state)
{
    (void)state;
    phi_access *access = NULL;
    uint64_t first = 0;
    uint64_t second = 0;
    assert_int_equal(phi_access_create("first-key,second-key", "", &access, NULL), PHI_OK);
    assert_int_equal(phi_access_key_count(access), 2);
    assert_true(phi_access_check(access, "Bearer first-key", &first));
    assert_true(phi_access_check(access, "bearer second-key", &second));
    assert_int_not_equal(first, 0);
    assert_int_not_equal(first, second);
    uint64_t client = 5;
    assert_false(phi_access_check(access, NULL, &client));
    assert_false(phi_access_check(access, "first-key", &client));
    assert_false(phi_access_check(access, "Bearer first-ke", &client));
    assert_false(phi_access_check(access, "Bearer first-key2", &client));
    assert_false(phi_access_check(access, "Bearer ", &client));
    assert_int_equal(client, 5);
    phi_access_destroy(access);
}

static void test_file(void **state)
{
    (void)state;
    char path[] = "/tmp/phid-keys-XXXXXX";
    int fd = mkstemp(path);
    static const char text[] = "# two\nalpha-key-1\n\n  beta-key-22  \n";
    assert_int_equal(write(fd, text, sizeof text - 1), (ssize_t)(sizeof text - 1));
    phi_access *access = NULL;
    uint64_t client = 0;
    phi_err err = {0};
    assert_int_equal(phi_access_create("", path, &access, &err), PHI_OK);
    assert_int_equal(phi_access_key_count(access), 2);
    assert_true(phi_access_check(access, "Bearer beta-key-22", &client));
    phi_access_destroy(access);

    static const char bad[] = "short\n";
    assert_int_equal(write(fd, bad, sizeof bad - 1), (ssize_t)(sizeof bad - 1));
    assert_int_equal(phi_access_create("", path, &access, &err), PHI_E_INVALID);
    assert_non_null(strstr(err.message, ":5:"));
    assert_null(strstr(err.message, "short"));
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(phi_access_create("", path, &access, &err), PHI_E_INVALID);
    assert_non_null(strstr(err.message, "holds no key"));
    close(fd);
    unlink(path);
    assert_int_not_equal(phi_access_create("", path, &access, &err), PHI_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_keys),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
