/* SHA-256 against FIPS 180-4's examples, FNV-1a against its authors' vectors, identifiers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "base/str.h"

static void check_sha256(const char *text, size_t times, size_t piece, const char *right)
{
    phi_sha256 hash;
    uint8_t digest[PHI_SHA256_BYTES];
    char hex[PHI_SHA256_HEX_BYTES];
    phi_sha256_init(&hash);
    size_t bytes = strlen(text);
    for (size_t t = 0; t < times; t++) {
        for (size_t at = 0; at < bytes; at += piece) {
            phi_sha256_update(&hash, text + at, bytes - at < piece ? bytes - at : piece);
        }
    }
    phi_sha256_finish(&hash, digest);
    phi_str_hex(digest, sizeof digest, hex);
    assert_string_equal(hex, right);
}

static void test_sha256(void **state)
{
    (void)state;
    check_sha256("", 1, 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    check_sha256("abc", 1, 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    const char *two_blocks = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    for (size_t piece = 1; piece <= 56; piece += 11) {
        check_sha256(two_blocks, 1, piece,
                     "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    }
    check_sha256("aaaaaaaaaa", 100000, 10,
                 "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

static void test_secret_equal(void **state)
{
    (void)state;
    assert_true(phi_secret_equal("", ""));
    assert_true(phi_secret_equal("key-1", "key-1"));
    assert_false(phi_secret_equal("key-1", "key-2"));
    assert_false(phi_secret_equal("key-1", "key-11"));
    assert_false(phi_secret_equal("key-1", ""));
}

static void test_random_id(void **state)
{
    (void)state;
    char first[40];
    char second[40];
    phi_random_id("file-", first, sizeof first);
    phi_random_id("file-", second, sizeof second);
    assert_int_equal(strlen(first), 29);
    assert_int_equal(strspn(first + 5, "0123456789abcdef"), 24);
    assert_true(phi_str_starts(first, "file-"));
    assert_string_not_equal(first, second);
}

static void test_fnv1a(void **state)
{
    (void)state;
    assert_true(phi_hash_fnv1a("", 0) == 0xCBF29CE484222325ULL);
    assert_true(phi_hash_fnv1a("a", 1) == 0xAF63DC4C8601EC8CULL);
    assert_true(phi_hash_fnv1a("foobar", 6) == 0x85944171F73967E8ULL);
}

/* CPython's hash of bytes with PYTHONHASHSEED=0, which is SipHash-1-3 of a key of zeros. */
static void test_keyed(void **state)
{
    (void)state;
    static const uint64_t zeros[2] = {0, 0};
    static const uint64_t others[2] = {1, 0};
    assert_true(phi_hash_keyed(zeros, "a", 1) == 0x407448D2B89B1813ULL);
    assert_true(phi_hash_keyed(zeros, "foobar", 6) == 0x7738AE0A5DF09B34ULL);
    assert_true(phi_hash_keyed(zeros, "0123456789abcdef!", 17) == 0x9463628F6C8882CAULL);
    assert_true(phi_hash_keyed(others, "foobar", 6) != 0x7738AE0A5DF09B34ULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sha256),    cmocka_unit_test(test_secret_equal),
        cmocka_unit_test(test_random_id), cmocka_unit_test(test_fnv1a),
        cmocka_unit_test(test_keyed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
