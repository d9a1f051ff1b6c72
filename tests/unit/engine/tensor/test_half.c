/* fp16 and bf16 conversions: all 65536 halves, and floats around every rounding boundary, against
 * arithmetic that shares no code with the conversions. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/tensor/half.h"

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* The value of a half by the definition of binary16, in double. */
static double half_value(uint16_t half)
{
    int exponent = half >> 10 & 31;
    double fraction = half & 1023;
    double magnitude = exponent == 31  ? (fraction != 0 ? (double)NAN : (double)INFINITY)
                       : exponent == 0 ? ldexp(fraction, -24)
                                       : ldexp(1024 + fraction, exponent - 25);
    return half & 0x8000 ? -magnitude : magnitude;
}

static void test_every_half_widens(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 65536; i++) {
        double right = half_value((uint16_t)i);
        float got = phi_half_to_float((uint16_t)i);
        if (isnan(right)) {
            assert_true(isnan(got));
            continue;
        }
        assert_true((double)got == right);
        assert_int_equal(signbit(got) != 0, i >= 0x8000);
    }
}

static void test_every_half_comes_back(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 65536; i++) {
        uint16_t back = phi_half_of_float(phi_half_to_float((uint16_t)i));
        if (isnan(half_value((uint16_t)i))) {
            assert_true(isnan(half_value(back)));
        } else {
            assert_int_equal(back, i);
        }
    }
}

/* The nearest half by search among neighbours, ties to the even one. */
static uint16_t nearest_half(float value)
{
    double magnitude = fabs((double)value);
    uint16_t low = 0;
    uint16_t high = 0x7C00;
    while (high - low > 1) {
        uint16_t middle = (uint16_t)((low + high) / 2);
        if (half_value(middle) <= magnitude) {
            low = middle;
        } else {
            high = middle;
        }
    }
    /* Past the largest finite value, rounding goes as if the exponent went on: 2^16 comes next. */
    double above = high == 0x7C00 ? 65536.0 : half_value(high);
    double down = magnitude - half_value(low);
    double up = above - magnitude;
    bool take_high = isinf(magnitude) || up < down || (up == down && (high & 1) == 0);
    uint16_t sign = signbit(value) ? 0x8000 : 0;
    return (uint16_t)(sign | (take_high ? high : low));
}

static void check_half(float value)
{
    if (phi_half_of_float(value) != nearest_half(value)) {
        fail_msg("%.9g (%08x): got %04x, nearest is %04x", (double)value, bits_of(value),
                 phi_half_of_float(value), nearest_half(value));
    }
}

static void test_rounding_to_half(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 0x7C00; i++) {
        /* Each half, the middle to the next one, and the floats on both sides of these. */
        double here = half_value((uint16_t)i);
        double next = i + 1 == 0x7C00 ? 65536.0 : half_value((uint16_t)(i + 1));
        const float points[] = {(float)here, (float)((here + next) / 2)};
        for (int p = 0; p < 2; p++) {
            for (int step = -1; step <= 1; step++) {
                uint32_t bits = bits_of(points[p]);
                if (bits == 0 && step < 0) {
                    continue;
                }
                bits += (uint32_t)step;
                check_half(float_of(bits));
                check_half(-float_of(bits));
            }
        }
    }
    uint32_t random = 1;
    for (int i = 0; i < 2000000; i++) {
        random = random * 1664525U + 1013904223U;
        float value = float_of(random);
        if (!isnan(value)) {
            check_half(value);
        }
    }
    check_half(INFINITY);
    check_half(-INFINITY);
    assert_true(isnan(phi_half_to_float(phi_half_of_float(NAN))));
    /* A NaN whose payload lies only in the bits that are dropped stays a NaN. */
    assert_true(isnan(phi_half_to_float(phi_half_of_float(float_of(0x7F800001U)))));
}

#ifdef __FLT16_MAX__
__extension__ typedef _Float16 compiler_half;

/* Where the compiler knows the type, its conversions must agree on everything. */
static void test_against_compiler(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 65536; i++) {
        compiler_half half;
        uint16_t bits = (uint16_t)i;
        memcpy(&half, &bits, sizeof half);
        float right = (float)half;
        float got = phi_half_to_float(bits);
        assert_true(isnan(right) ? isnan(got) : bits_of(right) == bits_of(got));
    }
    for (uint64_t i = 0; i < 1ULL << 32; i += 1013) {
        float value = float_of((uint32_t)i);
        compiler_half half = (compiler_half)value;
        uint16_t right;
        memcpy(&right, &half, sizeof right);
        if (!isnan(value)) {
            assert_int_equal(phi_half_of_float(value), right);
        }
    }
}
#endif

static void test_bf16(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 65536; i++) {
        float value = phi_bf16_to_float((uint16_t)i);
        assert_int_equal(bits_of(value), i << 16);
        if (isnan(value)) {
            assert_true(isnan(phi_bf16_to_float(phi_bf16_of_float(value))));
        } else {
            assert_int_equal(phi_bf16_of_float(value), i);
        }
    }
    static const struct {
        uint32_t bits;
        uint16_t right;
    } rows[] = {
        {0x3F808000U, 0x3F80}, /* a tie goes to the even one below */
        {0x3F818000U, 0x3F82}, /* ... or above */
        {0x3F808001U, 0x3F81}, {0x3F807FFFU, 0x3F80}, {0x7F7FFFFFU, 0x7F80},
        {0x80000001U, 0x8000}, {0x00008001U, 0x0001},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(phi_bf16_of_float(float_of(rows[i].bits)), rows[i].right);
    }
    assert_true(isnan(phi_bf16_to_float(phi_bf16_of_float(float_of(0x7F800001U)))));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_half_widens),
        cmocka_unit_test(test_every_half_comes_back),
        cmocka_unit_test(test_rounding_to_half),
#ifdef __FLT16_MAX__
        cmocka_unit_test(test_against_compiler),
#endif
        cmocka_unit_test(test_bf16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
