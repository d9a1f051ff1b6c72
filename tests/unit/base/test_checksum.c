#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/checksum.h"

static uint8_t data[1000];

static void fill(void)
{
    for (size_t i = 0; i < sizeof data; i++) {
        data[i] = (uint8_t)(i * 37 + i / 256);
    }
}

static void test_every_bit_counts(void **state)
{
    (void)state;
    static const size_t lengths[] = {1, 7, 8, 63, 64, 65, 128, 1000};
    fill();
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        uint64_t whole = phi_checksum(data, lengths[i]);
        for (size_t bit = 0; bit < lengths[i] * 8; bit++) {
            data[bit / 8] ^= (uint8_t)(1U << bit % 8);
            assert_true(phi_checksum(data, lengths[i]) != whole);
            data[bit / 8] ^= (uint8_t)(1U << bit % 8);
        }
        assert_true(phi_checksum(data, lengths[i]) == whole);
    }
}

static void test_length_and_place_count(void **state)
{
    (void)state;
    memset(data, 0, sizeof data);
    for (size_t bytes = 0; bytes < 200; bytes++) {
        assert_true(phi_checksum(data, bytes) != phi_checksum(data, bytes + 1));
    }
    fill();
    uint64_t whole = phi_checksum(data, 128);
    /* Two words of one lane, and of two lanes, in each other's place. */
    for (size_t other = 8; other <= 64; other += 56) {
        uint8_t word[8];
        fill();
        memcpy(word, data, 8);
        memmove(data, data + other, 8);
        memcpy(data + other, word, 8);
        assert_true(phi_checksum(data, 128) != whole);
    }
}

static void test_stays_as_it_is(void **state)
{
    (void)state;
    /* Files hold these. */
    fill();
    assert_true(phi_checksum(data, 0) == 0xCFD91EB1C2BFD008ULL);
    assert_true(phi_checksum(data, 1000) == 0x865F2335DDCBCE05ULL);
    /* Whatever the alignment. */
    static uint8_t moved[1001];
    memcpy(moved + 1, data, 1000);
    assert_true(phi_checksum(moved + 1, 1000) == phi_checksum(data, 1000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_bit_counts),
        cmocka_unit_test(test_length_and_place_count),
        cmocka_unit_test(test_stays_as_it_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
