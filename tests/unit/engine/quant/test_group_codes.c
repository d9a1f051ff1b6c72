/* Groups as codes with the zero points that a format can hold: what is told decodes to what is
 * near, and no worse than by plain rounding. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/quant/group_codes.h"
#include "engine/tensor/half.h"

enum { N_MAX = 512 };

static float x[N_MAX];
static uint8_t codes[N_MAX];

static float random_float(void)
{
    static uint64_t seed = 11;
    seed = seed * 6364136223846793005U + 1442695040888963407U;
    return (float)(seed >> 40) * 0x1p-23F - 1.0F;
}

static void fill(size_t n, float centre)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = centre + 0.02F * (random_float() + random_float() + random_float());
    }
}

static double decode_error(const phi_code_target *target, size_t n, float scale, float zero)
{
    double error = 0.0;
    float centre = target->bits == 4 ? 8.0F : 128.0F;
    for (size_t i = 0; i < n; i++) {
        assert_true(codes[i] < 1U << target->bits);
        double value = target->zero_rule == PHI_ZERO_REAL
                           ? (double)scale * codes[i] + (double)zero
                           : (double)scale * ((double)codes[i] - (double)zero);
        if (target->zero_rule == PHI_ZERO_CENTRE) {
            value = (double)scale * ((double)codes[i] - (double)centre);
        }
        error += (value - (double)x[i]) * (value - (double)x[i]);
    }
    return error;
}

/* Plain rounding between the extremes (with zero among them), or by the peak. */
static double plain_error(const phi_code_target *target, size_t n)
{
    double low = 0.0;
    double high = 0.0;
    double q_max = (double)((1U << target->bits) - 1);
    double error = 0.0;
    for (size_t i = 0; i < n; i++) {
        low = fmin(low, (double)x[i]);
        high = fmax(high, (double)x[i]);
    }
    if (target->zero_rule == PHI_ZERO_CENTRE) {
        double peak = fmax(-low, high);
        low = -peak;
        high = peak;
        q_max -= 1;
    }
    double scale = (high - low) / q_max;
    double zero = rint(-low / scale);
    for (size_t i = 0; i < n; i++) {
        double code = fmin(fmax(rint((double)x[i] / scale) + zero, 0.0), q_max);
        double difference = scale * (code - zero) - (double)x[i];
        error += difference * difference;
    }
    return error;
}

static void check(const phi_code_target *target, size_t n, double *got, double *plain)
{
    float scale = -1.0F;
    float zero = -1.0F;
    assert_true(phi_group_encode(target, x, n, codes, &scale, &zero));
    assert_true(phi_round_to(target->scale_dtype, scale) == scale);
    if (target->zero_rule == PHI_ZERO_INTEGER) {
        assert_true(zero >= 0 && zero < (float)(1U << target->bits) && zero == rintf(zero));
    } else if (target->zero_rule == PHI_ZERO_REAL) {
        assert_true(phi_round_to(target->scale_dtype, zero) == zero);
    } else {
        assert_true(zero == -1.0F);
    }
    *got += decode_error(target, n, scale, zero);
    *plain += plain_error(target, n);
}

static void test_errors(void **state)
{
    (void)state;
    static const uint32_t bits[] = {4, 8};
    static const size_t sizes[] = {16, 32, 64, 128, 512};
    static const phi_dtype types[] = {PHI_DTYPE_F16, PHI_DTYPE_BF16, PHI_DTYPE_F32};
    for (size_t i = 0; i < 2 * 5 * 3 * 3; i++) {
        size_t n = sizes[i / 2 % 5];
        phi_code_target target = {bits[i % 2], (uint32_t)n, (phi_zero_rule)(i / 10 % 3),
                                  .scale_dtype = types[i / 30]};
        /* A single group may be lucky with plain rounding. */
        double got = 0.0;
        double plain = 0.0;
        for (int round = 0; round < 64; round++) {
            fill(n, round < 32 ? 0.0F : 0.003F * (float)(round - 48));
            check(&target, n, &got, &plain);
        }
        /* Of 8-bit codes, a scale or an offset rounded to 16 bits moves the far end by a part of a
         * step. */
        bool coarse = target.bits == 8 && target.scale_dtype != PHI_DTYPE_F32;
        double room = coarse ? 4.0 : target.scale_dtype == PHI_DTYPE_BF16 ? 1.2 : 1.001;
        if (!(got <= plain * room)) {
            fail_msg("bits %u rule %d type %s n %zu: error %g, plain rounding %g", target.bits,
                     (int)target.zero_rule, phi_dtype_get(target.scale_dtype)->name, n, got, plain);
        }
    }
}

/* What one code in a group, or a row, costs goes down by cutting off a little, and by the right
 * zero point. */
static void search_pays(phi_zero_rule rule, size_t n, double share)
{
    phi_code_target target = {4, (uint32_t)n, rule, .scale_dtype = PHI_DTYPE_F16};
    double got = 0.0;
    double plain = 0.0;
    for (int round = 0; round < 200; round++) {
        float scale = 0;
        float zero = 0;
        fill(n, 0.01F);
        assert_true(phi_group_encode(&target, x, n, codes, &scale, &zero));
        got += decode_error(&target, n, scale, zero);
        plain += plain_error(&target, n);
    }
    if (!(got < share * plain)) {
        fail_msg("rule %d, n %zu: error %g, plain rounding %g", (int)rule, n, got, plain);
    }
}

static void test_search_pays(void **state)
{
    (void)state;
    search_pays(PHI_ZERO_INTEGER, 32, 0.9);
    search_pays(PHI_ZERO_INTEGER, 512, 0.9);
    search_pays(PHI_ZERO_CENTRE, 512, 0.9);
}

static void test_edges(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2 * 3; i++) {
        phi_code_target target = {i % 2 ? 4 : 8, 32, (phi_zero_rule)(i / 2),
                                  .scale_dtype = PHI_DTYPE_F16};
        float scale = 5;
        float zero = 5;
        for (size_t k = 0; k < 32; k++) {
            x[k] = 0.0F;
        }
        assert_true(phi_group_encode(&target, x, 32, codes, &scale, &zero));
        assert_true(decode_error(&target, 32, scale, zero) == 0.0);
        x[7] = 1e-9F;
        assert_true(phi_group_encode(&target, x, 32, codes, &scale, &zero));
        assert_true(decode_error(&target, 32, scale, zero) <= 1.1e-18);
        x[7] = NAN;
        assert_false(phi_group_encode(&target, x, 32, codes, &scale, &zero));
        x[7] = -INFINITY;
        assert_false(phi_group_encode(&target, x, 32, codes, &scale, &zero));
        /* Beyond fp16's largest scale. */
        x[7] = 1e20F;
        assert_false(phi_group_encode(&target, x, 32, codes, &scale, &zero));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_search_pays),
        cmocka_unit_test(test_edges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
