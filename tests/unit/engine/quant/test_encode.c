/* Plain encoders make the reference's bytes; the search never does worse, and better on average. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/str.h"
#include "engine/quant/encode.h"
#include "engine/tensor/half.h"

#define GOLDEN_COLS 512

/* The input of the golden vectors: x[i] = (((37 i + 11) mod 101) - 50) / 64. */
static void golden_row(float x[GOLDEN_COLS])
{
    for (int i = 0; i < GOLDEN_COLS; i++) {
        x[i] = (float)((37 * i + 11) % 101 - 50) / 64.0F;
    }
}

typedef struct golden {
    phi_dtype dtype;
    size_t bytes;
    uint64_t fnv1a; /* of all bytes */
    double mse;
    const char *first_block;
} golden;

/* Made once with llama.cpp's reference quantizers (ggml-quants.c, February 2025). */
static const golden GOLDENS[] = {
    {PHI_DTYPE_Q4_0, 288, 0xe1b3ec870dba034bULL, 9.23752785e-4,
     "402ef258be1379df359bf147ac0268ce248a"},
    {PHI_DTYPE_Q4_1, 320, 0xd60a1f3e267e7d30ULL, 8.53258323e-4,
     "892e40baf257bd1379cf358ae146ac0268bd2479"},
    {PHI_DTYPE_Q8_0, 544, 0x19a645ee111f3128ULL, 2.93111515e-6,
     "4d1e9dfb59b61472d02e8be947a50361be1c7ad73593f14fac0a68c62481df3d9af8"},
    {PHI_DTYPE_Q5_0, 352, 0x86c7c7cabe368f75ULL, 2.12030485e-4,
     "402ab4b4a525f4bf7b27e3ae5a16d19d4904c08c38f4"},
    {PHI_DTYPE_Q5_1, 384, 0xe67880a7e3e29dd8ULL, 1.90725263e-4,
     "532a40bab4b4a525f3bf6b27e2ae5a16d19d4904c07c38f3"},
    {PHI_DTYPE_IQ4_NL, 288, 0x0064bcece6323347ULL, 1.00586809e-3,
     "981ef157ce137adf249be146bd0258ce137a"},
    {PHI_DTYPE_Q4_K, 288, 0xd8898d13862b0ffeULL, 7.39470994e-4,
     "de168022fffffffafff8fafaceafbfbcc2278dd3499e055ab1167cc2388de449af056bb1277cd3389ee45aa0166b"
     "c22748ad0469c0157bd1379cf358ae046ac0268be2379df359be157ad1268ce248ada0156bc1278cd3489e045ab0"
     "167bc2378de349ae056ab1267cd2389de459af15268ce248ad0459b0157bd1379ce348ae046ac0267bd2379df359"
     "be156ac1268c"},
    {PHI_DTYPE_Q5_K, 352, 0xe2f51efe288c0e1dULL, 1.73309691e-4, NULL},
    {PHI_DTYPE_Q6_K, 420, 0x0d0683c26c0897acULL, 4.02239732e-5, NULL},
};

static double squared_error(const float *x, const float *y, size_t count)
{
    double error = 0.0;
    for (size_t i = 0; i < count; i++) {
        double difference = (double)x[i] - (double)y[i];
        error += difference * difference;
    }
    return error;
}

static void test_plain_encoders_match_the_reference(void **state)
{
    (void)state;
    float x[GOLDEN_COLS];
    float y[GOLDEN_COLS];
    golden_row(x);
    for (size_t i = 0; i < sizeof GOLDENS / sizeof GOLDENS[0]; i++) {
        const golden *expected = &GOLDENS[i];
        phi_encoding encoding = {.dtype = expected->dtype, .group = 32};
        uint8_t out[1024];
        uint64_t bytes = 0;
        assert_true(phi_dtype_row_bytes(expected->dtype, GOLDEN_COLS, &bytes));
        assert_int_equal(bytes, expected->bytes);
        assert_true(phi_encode_row(&encoding, x, GOLDEN_COLS, out));
        char hex[512];
        phi_str_hex(out, phi_dtype_get(expected->dtype)->block_bytes, hex);
        if (expected->first_block) {
            assert_string_equal(hex, expected->first_block);
        }
        assert_true(phi_hash_fnv1a(out, bytes) == expected->fnv1a);
        phi_dtype_widen(expected->dtype, out, GOLDEN_COLS, y);
        double mse = squared_error(x, y, GOLDEN_COLS) / GOLDEN_COLS;
        assert_true(fabs(mse - expected->mse) < 1e-7 * expected->mse + 1e-13);
    }
}

/* xorshift64*, and a standard normal from twelve uniforms: no libm, the same everywhere. */
static uint64_t random_state = 88172645463325252ULL;

static float random_unit(void)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (float)((random_state * 2685821657736338717ULL) >> 40) * 0x1p-24F;
}

static float random_normal(void)
{
    float sum = -6.0F;
    for (int i = 0; i < 12; i++) {
        sum += random_unit();
    }
    return sum;
}

/* Rows of different characters: normal, heavy tails, off centre, tiny, few values, one outlier. */
static void random_group(int kind, float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float z = random_normal();
        switch (kind) {
        case 0:
            x[i] = 0.02F * z;
            break;
        case 1:
            x[i] = 0.02F * z * z * z;
            break;
        case 2:
            x[i] = 3.0F + 0.1F * z;
            break;
        case 3:
            x[i] = 1e-6F * z;
            break;
        case 4:
            x[i] = 0.25F * floorf(4.0F * random_unit());
            break;
        default:
            x[i] = i == n / 3 ? 40.0F : z;
            break;
        }
    }
}

#define KINDS 6

static double encoded_error(const phi_encoding *encoding, const float *x, size_t n)
{
    uint8_t out[256];
    float y[256];
    assert_true(phi_encode_row(encoding, x, n, out));
    phi_dtype_widen(encoding->dtype, out, n, y);
    return squared_error(x, y, n);
}

static void check_search(phi_dtype dtype, uint32_t group, double ratio_max)
{
    phi_encoding plain = {.dtype = dtype, .group = group};
    phi_encoding search = {.dtype = dtype, .group = group, .search = true};
    float x[256];
    size_t n = phi_dtype_get(dtype)->block_elements;
    n = n > group ? n : group;
    for (int kind = 0; kind < KINDS; kind++) {
        double plain_sum = 0.0;
        double search_sum = 0.0;
        for (int i = 0; i < 2000; i++) {
            random_group(kind, x, n);
            double plain_error = encoded_error(&plain, x, n);
            double search_error = encoded_error(&search, x, n);
            assert_true(search_error <= plain_error * (1.0 + 1e-12));
            plain_sum += plain_error;
            search_sum += search_error;
        }
        print_message("%s group %u kind %d: search / plain squared error %.4f\n",
                      phi_dtype_get(dtype)->name, group, kind,
                      plain_sum > 0.0 ? search_sum / plain_sum : 1.0);
        if (kind == 0) {
            assert_true(search_sum < ratio_max * plain_sum);
        }
    }
}

static void test_search_never_does_worse_and_better_on_average(void **state)
{
    (void)state;
    check_search(PHI_DTYPE_Q4_0, 32, 0.9);
    check_search(PHI_DTYPE_Q4_0, 64, 0.9);
    check_search(PHI_DTYPE_Q4_0, 128, 0.9);
    check_search(PHI_DTYPE_Q4_1, 32, 0.9);
    check_search(PHI_DTYPE_Q4_1, 64, 0.9);
    check_search(PHI_DTYPE_Q4_1, 128, 0.9);
    check_search(PHI_DTYPE_Q5_0, 32, 0.9);
    check_search(PHI_DTYPE_Q5_1, 32, 0.9);
    check_search(PHI_DTYPE_IQ4_NL, 32, 0.95);
    check_search(PHI_DTYPE_Q4_K, 32, 0.97);
    check_search(PHI_DTYPE_Q5_K, 32, 0.95);
    check_search(PHI_DTYPE_Q6_K, 16, 0.995);
}

/* The scale that a fine scan of all scales finds, for the symmetric kind. */
static double exhaustive_error(const float *x, size_t n)
{
    float peak = 0.0F;
    for (size_t i = 0; i < n; i++) {
        peak = fmaxf(peak, fabsf(x[i]));
    }
    double best = 1e30;
    for (int step = -4000; step <= 4000; step++) {
        float d = phi_half_to_float(phi_half_of_float(peak / 4.0F * (float)step / 4000.0F));
        if (d == 0.0F) {
            continue;
        }
        double error = 0.0;
        for (size_t i = 0; i < n; i++) {
            float code = fminf(fmaxf(rintf(x[i] / d), -8.0F), 7.0F);
            double difference = (double)x[i] - (double)(d * code);
            error += difference * difference;
        }
        best = fmin(best, error);
    }
    return best;
}

static void test_search_is_near_the_best_there_is(void **state)
{
    (void)state;
    phi_encoding search = {.dtype = PHI_DTYPE_Q4_0, .group = 32, .search = true};
    float x[32];
    double best_sum = 0.0;
    double search_sum = 0.0;
    for (int i = 0; i < 60; i++) {
        random_group(0, x, 32);
        best_sum += exhaustive_error(x, 32);
        search_sum += encoded_error(&search, x, 32);
    }
    print_message("search / exhaustive squared error %.4f\n", search_sum / best_sum);
    assert_true(search_sum < 1.03 * best_sum);
}

static void test_blocks_of_a_group_share_scale_and_offset(void **state)
{
    (void)state;
    float x[256];
    random_group(0, x, 256);
    for (uint32_t group = 64; group <= 128; group *= 2) {
        phi_encoding encoding = {.dtype = PHI_DTYPE_Q4_1, .group = group, .search = true};
        phi_block_q4_1 blocks[8];
        assert_true(phi_encode_row(&encoding, x, 256, blocks));
        for (uint32_t i = 0; i < 8; i++) {
            uint32_t first = i / (group / 32) * (group / 32);
            assert_int_equal(blocks[i].d, blocks[first].d);
            assert_int_equal(blocks[i].m, blocks[first].m);
        }
        assert_true(blocks[0].d != blocks[group / 32].d);
    }
}

static void test_values_on_the_grid_come_back_exactly(void **state)
{
    (void)state;
    float x[64];
    float y[64];
    uint8_t out[80];
    for (int i = 0; i < 64; i++) {
        x[i] = 0.125F * (float)(i % 16 - 8);
    }
    for (uint32_t group = 32; group <= 64; group *= 2) {
        phi_encoding symmetric = {.dtype = PHI_DTYPE_Q4_0, .group = group, .search = true};
        assert_true(phi_encode_row(&symmetric, x, 64, out));
        phi_dtype_widen(PHI_DTYPE_Q4_0, out, 64, y);
        assert_memory_equal(x, y, sizeof x);
        phi_encoding offset = {.dtype = PHI_DTYPE_Q4_1, .group = group, .search = true};
        assert_true(phi_encode_row(&offset, x, 64, out));
        phi_dtype_widen(PHI_DTYPE_Q4_1, out, 64, y);
        assert_memory_equal(x, y, sizeof x);
    }
}

static void test_zeros_and_near_zeros(void **state)
{
    (void)state;
    static const float FILLS[] = {0.0F, 1e-44F, 1e-38F, 1e-30F, -1e-9F};
    static const phi_dtype TYPES[] = {PHI_DTYPE_Q8_0, PHI_DTYPE_Q4_0, PHI_DTYPE_Q4_1,
                                      PHI_DTYPE_Q5_0, PHI_DTYPE_Q5_1, PHI_DTYPE_IQ4_NL,
                                      PHI_DTYPE_Q4_K, PHI_DTYPE_Q5_K, PHI_DTYPE_Q6_K};
    for (size_t f = 0; f < sizeof FILLS / sizeof FILLS[0]; f++) {
        for (size_t t = 0; t < 2 * sizeof TYPES / sizeof TYPES[0]; t++) {
            float x[256];
            float y[256];
            uint8_t out[512];
            for (int i = 0; i < 256; i++) {
                x[i] = i % 3 ? FILLS[f] : 0.0F;
            }
            phi_encoding encoding = {.dtype = TYPES[t / 2], .group = 32, .search = t % 2};
            assert_true(phi_encode_row(&encoding, x, 256, out));
            phi_dtype_widen(TYPES[t / 2], out, 256, y);
            for (int i = 0; i < 256; i++) {
                assert_true(fabsf(y[i] - x[i]) < 1.5e-7F);
            }
        }
    }
}

static void test_values_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    float x[256] = {0};
    uint8_t out[1024];
    static const phi_dtype ALL[] = {PHI_DTYPE_F32,  PHI_DTYPE_F16,  PHI_DTYPE_BF16,
                                    PHI_DTYPE_Q8_0, PHI_DTYPE_Q4_0, PHI_DTYPE_Q4_1,
                                    PHI_DTYPE_Q5_0, PHI_DTYPE_Q5_1, PHI_DTYPE_Q4_K,
                                    PHI_DTYPE_Q5_K, PHI_DTYPE_Q6_K, PHI_DTYPE_IQ4_NL};
    for (size_t t = 0; t < sizeof ALL / sizeof ALL[0]; t++) {
        phi_encoding encoding = {.dtype = ALL[t], .group = 32, .search = true};
        x[7] = NAN;
        assert_false(phi_encode_row(&encoding, x, 256, out));
        x[7] = -INFINITY;
        assert_false(phi_encode_row(&encoding, x, 256, out));
        x[7] = 3.4e38F;
        assert_int_equal(phi_encode_row(&encoding, x, 256, out), ALL[t] == PHI_DTYPE_F32);
        x[7] = 60000.0F;
        assert_true(phi_encode_row(&encoding, x, 256, out));
    }
    phi_encoding half = {.dtype = PHI_DTYPE_F16};
    x[7] = 65519.0F; /* rounds down to the largest fp16 */
    assert_true(phi_encode_row(&half, x, 32, out));
    x[7] = 65520.0F;
    assert_false(phi_encode_row(&half, x, 32, out));
}

static void test_group_sizes_and_columns(void **state)
{
    (void)state;
    assert_true(phi_encode_group_is_valid(128));
    assert_false(phi_encode_group_is_valid(0));
    assert_false(phi_encode_group_is_valid(96));
    phi_encoding encoding = {.dtype = PHI_DTYPE_Q4_0, .group = 128};
    assert_true(phi_encode_divides(&encoding, 384));
    assert_false(phi_encode_divides(&encoding, 320));
    encoding.dtype = PHI_DTYPE_Q6_K;
    assert_true(phi_encode_divides(&encoding, 512));
    assert_false(phi_encode_divides(&encoding, 320));
    encoding.dtype = PHI_DTYPE_Q8_0;
    assert_true(phi_encode_divides(&encoding, 320));
    assert_false(phi_encode_divides(&encoding, 100));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_encoders_match_the_reference),
        cmocka_unit_test(test_search_never_does_worse_and_better_on_average),
        cmocka_unit_test(test_search_is_near_the_best_there_is),
        cmocka_unit_test(test_blocks_of_a_group_share_scale_and_offset),
        cmocka_unit_test(test_values_on_the_grid_come_back_exactly),
        cmocka_unit_test(test_zeros_and_near_zeros),
        cmocka_unit_test(test_values_that_do_not_fit_are_refused),
        cmocka_unit_test(test_group_sizes_and_columns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
