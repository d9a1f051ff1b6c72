/* Numbers are parsed whole or not at all; UTF-8 follows RFC 3629 to the letter. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/str.h"

static void test_u64(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t max;
        bool right;
        uint64_t value;
    } rows[] = {
        {"0", UINT64_MAX, true, 0},
        {"007", UINT64_MAX, true, 7},
        {"18446744073709551615", UINT64_MAX, true, UINT64_MAX},
        {"18446744073709551616", UINT64_MAX, false, 0},
        {"99999999999999999999999", UINT64_MAX, false, 0},
        {"10", 10, true, 10},
        {"11", 10, false, 0},
        {"9", 5, false, 0},
        {"", UINT64_MAX, false, 0},
        {"-1", UINT64_MAX, false, 0},
        {"+1", UINT64_MAX, false, 0},
        {" 1", UINT64_MAX, false, 0},
        {"1 ", UINT64_MAX, false, 0},
        {"0x1", UINT64_MAX, false, 0},
        {"1.0", UINT64_MAX, false, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint64_t value = 77;
        bool got = phi_str_parse_u64(rows[i].text, rows[i].max, &value);
        if (got != rows[i].right || value != (got ? rows[i].value : 77)) {
            fail_msg("\"%s\" up to %llu", rows[i].text, (unsigned long long)rows[i].max);
        }
    }
}

static void test_double(void **state)
{
    (void)state;
    static const char *const wrong[] = {"",   " 1",  "1 ",  "nan",   "inf", "0x10",
                                        "1e", "--1", "1,5", "1e999", "one", "1.5.2"};
    double value = 7.0;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        if (phi_str_parse_double(wrong[i], &value)) {
            fail_msg("\"%s\" was accepted", wrong[i]);
        }
    }
    assert_true(value == 7.0);
    assert_true(phi_str_parse_double("-1.5e2", &value));
    assert_true(value == -150.0);
    assert_true(phi_str_parse_double(".25", &value));
    assert_true(value == 0.25);
}

static void test_bytes(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool right;
        uint64_t value;
    } rows[] = {
        {"64", true, 64},
        {"64k", true, 65536},
        {"10M", true, 10485760},
        {"2G", true, 2147483648},
        {"1T", true, 1099511627776},
        {"16777215T", true, 16777215ULL << 40},
        {"16777216T", false, 0},
        {"1P", false, 0},
        {"1kB", false, 0},
        {"k", false, 0},
        {"", false, 0},
        {"-1", false, 0},
        {"1.5G", false, 0},
        {"111111111111111111111111111", false, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint64_t value = 77;
        bool got = phi_str_parse_bytes(rows[i].text, &value);
        if (got != rows[i].right || value != (got ? rows[i].value : 77)) {
            fail_msg("\"%s\"", rows[i].text);
        }
    }
}

static void test_starts_ends_hex(void **state)
{
    (void)state;
    assert_true(phi_str_starts("model.gguf", "model"));
    assert_true(phi_str_starts("a", ""));
    assert_false(phi_str_starts("mod", "model"));
    assert_true(phi_str_ends("model.gguf", ".gguf"));
    assert_false(phi_str_ends("gguf", ".gguf"));
    const uint8_t data[3] = {0x00, 0xAF, 0x5C};
    char hex[7];
    phi_str_hex(data, 3, hex);
    assert_string_equal(hex, "00af5c");
}

static void test_utf8_every_scalar(void **state)
{
    (void)state;
    for (uint32_t c = 0; c <= 0x10FFFF; c++) {
        char text[4];
        uint32_t back = 0;
        if (c >= 0xD800 && c <= 0xDFFF) {
            continue;
        }
        int length = phi_utf8_encode(c, text);
        int right = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
        assert_int_equal(length, right);
        assert_int_equal(phi_utf8_decode(text, (size_t)length, &back), length);
        assert_int_equal(back, c);
        for (int cut = 1; cut < length; cut++) {
            assert_int_equal(phi_utf8_decode(text, (size_t)cut, &back), -1);
            assert_int_equal(phi_utf8_complete_bytes(text, (size_t)cut), 0);
        }
    }
}

static void test_utf8_invalid(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "\x80",             /* continuation first */
        "\xC0\x80",         /* overlong NUL */
        "\xC1\xBF",         /* overlong */
        "\xE0\x9F\xBF",     /* overlong */
        "\xF0\x8F\xBF\xBF", /* overlong */
        "\xED\xA0\x80",     /* surrogate */
        "\xED\xBF\xBF",     /* surrogate */
        "\xF4\x90\x80\x80", /* past U+10FFFF */
        "\xF5\x80\x80\x80",
        "\xFF",
        "\xC3(",
        "\xE2\x82(",
        "\xF0\x9F\x98(",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        uint32_t c = 7;
        assert_int_equal(phi_utf8_decode(wrong[i], strlen(wrong[i]), &c), 0);
        assert_false(phi_utf8_valid(wrong[i], strlen(wrong[i])));
        assert_int_equal(c, 7);
    }
    assert_true(phi_utf8_valid("", 0));
    assert_true(phi_utf8_valid("a\0b", 3));
    assert_true(phi_utf8_valid("\xF0\x9F\x98\x80\xC3\xA4", 6));
    assert_false(phi_utf8_valid("a\xF0\x9F\x98", 4));
}

static void test_utf8_complete(void **state)
{
    (void)state;
    assert_int_equal(phi_utf8_complete_bytes("ab", 2), 2);
    assert_int_equal(phi_utf8_complete_bytes("", 0), 0);
    assert_int_equal(phi_utf8_complete_bytes("a\xC3", 2), 1);
    assert_int_equal(phi_utf8_complete_bytes("a\xC3\xA4", 3), 3);
    assert_int_equal(phi_utf8_complete_bytes("\xC3\xA4\xF0\x9F\x98", 5), 2);
    /* What can never become a character is not held back. */
    assert_int_equal(phi_utf8_complete_bytes("a\xFF", 2), 2);
    assert_int_equal(phi_utf8_complete_bytes("\x80\x80\x80\x80", 4), 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_u64),
        cmocka_unit_test(test_double),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_starts_ends_hex),
        cmocka_unit_test(test_utf8_every_scalar),
        cmocka_unit_test(test_utf8_invalid),
        cmocka_unit_test(test_utf8_complete),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
