/* GGUF's block types against a decoder of its own: one that knows where the bits of each element
 * are and nothing else, and computes in double what the format says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/tensor/dtype.h"
#include "engine/tensor/half.h"
#include "engine/tensor/weight.h"

/* What a block says of one element: w = scale * code + offset, with scale and offset as rounded to
 * float as ggml rounds them. */
typedef struct element {
    float scale;
    int code;
    float offset;
} element;

typedef element (*decode_fn)(const uint8_t *b, unsigned e);

/* `count` bits from bit `at` of a byte on. */
static unsigned bits(const uint8_t *byte, unsigned at, unsigned count)
{
    unsigned value = 0;
    for (unsigned i = 0; i < count; i++) {
        value += ((unsigned)*byte / (1U << (at + i)) % 2) * (1U << i);
    }
    return value;
}

/* fp16 by its definition. */
static double half_at(const uint8_t *b)
{
    unsigned raw = b[0] + 256U * b[1];
    unsigned exponent = raw / 1024 % 32;
    double fraction = raw % 1024;
    double value = exponent == 0 ? fraction / 1024 : 1 + fraction / 1024;
    for (unsigned i = exponent == 0 ? 1 : exponent; i < 15; i++) {
        value /= 2;
    }
    for (unsigned i = 15; i < exponent; i++) {
        value *= 2;
    }
    return raw >= 32768 ? -value : value;
}

/* Element e of 32 with split nibbles. */
static unsigned nibble(const uint8_t *b, unsigned e)
{
    return bits(b + e % 16, e < 16 ? 0 : 4, 4);
}

static element decode_q8_0(const uint8_t *b, unsigned e)
{
    return (element){(float)half_at(b), b[2 + e] < 128 ? b[2 + e] : b[2 + e] - 256, 0};
}

static element decode_q4_0(const uint8_t *b, unsigned e)
{
    return (element){(float)half_at(b), (int)nibble(b + 2, e) - 8, 0};
}

static element decode_q4_1(const uint8_t *b, unsigned e)
{
    return (element){(float)half_at(b), (int)nibble(b + 4, e), (float)half_at(b + 2)};
}

static element decode_q5_0(const uint8_t *b, unsigned e)
{
    unsigned code = nibble(b + 6, e) + 16 * bits(b + 2 + e / 8, e % 8, 1);
    return (element){(float)half_at(b), (int)code - 16, 0};
}

static element decode_q5_1(const uint8_t *b, unsigned e)
{
    unsigned code = nibble(b + 8, e) + 16 * bits(b + 4 + e / 8, e % 8, 1);
    return (element){(float)half_at(b), (int)code, (float)half_at(b + 2)};
}

static const int IQ4[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                            1,    13,   25,  38,  53,  69,  89,  113};

static element decode_iq4_nl(const uint8_t *b, unsigned e)
{
    return (element){(float)half_at(b), IQ4[nibble(b + 2, e)], 0};
}

static element decode_mxfp4(const uint8_t *b, unsigned e)
{
    static const int doubled[8] = {0, 1, 2, 3, 4, 6, 8, 12};
    double scale = 0.5;
    for (int i = 127; i < b[0]; i++) {
        scale *= 2;
    }
    for (int i = b[0]; i < 127; i++) {
        scale /= 2;
    }
    unsigned code = nibble(b + 1, e);
    return (element){(float)scale, code < 8 ? doubled[code] : -doubled[code - 8], 0};
}

/* Bits 2k and 2k + 1 of byte l: element 32 k + l of a half of 128. */
static unsigned pair(const uint8_t *b, unsigned e)
{
    return bits(b + e / 128 * 32 + e % 32, e % 128 / 32 * 2, 2);
}

static element decode_q2_k(const uint8_t *b, unsigned e)
{
    double d = half_at(b + 80);
    double dmin = half_at(b + 82);
    return (element){(float)(d * bits(b + e / 16, 0, 4)), (int)pair(b + 16, e),
                     -(float)(dmin * bits(b + e / 16, 4, 4))};
}

static element decode_q3_k(const uint8_t *b, unsigned e)
{
    unsigned g = e / 16;
    unsigned low = g < 8 ? bits(b + 96 + g, 0, 4) : bits(b + 96 + g - 8, 4, 4);
    unsigned high = bits(b + 104 + g % 4, g / 4 * 2, 2);
    int code = (int)pair(b + 32, e) - (bits(b + e % 32, e / 32, 1) ? 0 : 4);
    return (element){(float)(half_at(b + 108) * ((int)(low + 16 * high) - 32)), code, 0};
}

static void kscale(const uint8_t *b, unsigned g, unsigned *out_scale, unsigned *out_min)
{
    if (g < 4) {
        *out_scale = bits(b + g, 0, 6);
        *out_min = bits(b + g + 4, 0, 6);
    } else {
        *out_scale = bits(b + g + 4, 0, 4) + 16 * bits(b + g - 4, 6, 2);
        *out_min = bits(b + g + 4, 4, 4) + 16 * bits(b + g, 6, 2);
    }
}

static element decode_k45(const uint8_t *b, unsigned e, unsigned code)
{
    unsigned scale;
    unsigned min;
    kscale(b + 4, e / 32, &scale, &min);
    return (element){(float)(half_at(b) * scale), (int)code, -(float)(half_at(b + 2) * min)};
}

static element decode_q4_k(const uint8_t *b, unsigned e)
{
    return decode_k45(b, e, bits(b + 16 + e / 64 * 32 + e % 32, e % 64 < 32 ? 0 : 4, 4));
}

static element decode_q5_k(const uint8_t *b, unsigned e)
{
    unsigned low = bits(b + 48 + e / 64 * 32 + e % 32, e % 64 < 32 ? 0 : 4, 4);
    return decode_k45(b, e, low + 16 * bits(b + 16 + e % 32, e / 32, 1));
}

static element decode_q6_k(const uint8_t *b, unsigned e)
{
    unsigned low = bits(b + e / 128 * 64 + e % 64, e % 128 < 64 ? 0 : 4, 4);
    int code = (int)(low + 16 * pair(b + 128, e)) - 32;
    int scale = b[192 + e / 16] < 128 ? b[192 + e / 16] : b[192 + e / 16] - 256;
    return (element){(float)(half_at(b + 208) * scale), code, 0};
}

static element decode_q8_k(const uint8_t *b, unsigned e)
{
    float d;
    memcpy(&d, b, sizeof d);
    return (element){d, b[4 + e] < 128 ? b[4 + e] : b[4 + e] - 256, 0};
}

static element decode_iq4_xs(const uint8_t *b, unsigned e)
{
    unsigned g = e / 32;
    unsigned scale = bits(b + 4 + g / 2, g % 2 * 4, 4) + 16 * bits(b + 2 + g / 4, g % 4 * 2, 2);
    return (element){(float)(half_at(b) * ((int)scale - 32)), IQ4[nibble(b + 8 + g * 16, e % 32)],
                     0};
}

/* What the type promises, and where its blocks hold fp16 numbers. */
typedef struct type_case {
    phi_dtype dtype;
    decode_fn decode;
    phi_form form;
    int halves[2]; /* -1: none */
} type_case;

static const type_case TYPES[] = {
    {PHI_DTYPE_Q8_0, decode_q8_0, {PHI_WEIGHT_INT8, 32, false, false}, {0, -1}},
    {PHI_DTYPE_Q4_0, decode_q4_0, {PHI_WEIGHT_INT4, 32, false, false}, {0, -1}},
    {PHI_DTYPE_Q4_1, decode_q4_1, {PHI_WEIGHT_INT4, 32, true, false}, {0, 2}},
    {PHI_DTYPE_Q5_0, decode_q5_0, {PHI_WEIGHT_INT8, 32, false, false}, {0, -1}},
    {PHI_DTYPE_Q5_1, decode_q5_1, {PHI_WEIGHT_INT8, 32, true, false}, {0, 2}},
    {PHI_DTYPE_Q2_K, decode_q2_k, {PHI_WEIGHT_INT4, 16, true, true}, {80, 82}},
    {PHI_DTYPE_Q3_K, decode_q3_k, {PHI_WEIGHT_INT4, 16, false, true}, {108, -1}},
    {PHI_DTYPE_Q4_K, decode_q4_k, {PHI_WEIGHT_INT4, 32, true, true}, {0, 2}},
    {PHI_DTYPE_Q5_K, decode_q5_k, {PHI_WEIGHT_INT8, 32, true, true}, {0, 2}},
    {PHI_DTYPE_Q6_K, decode_q6_k, {PHI_WEIGHT_INT8, 16, false, true}, {208, -1}},
    {PHI_DTYPE_Q8_K, decode_q8_k, {PHI_WEIGHT_INT8, 256, false, true}, {2, -1}},
    {PHI_DTYPE_IQ4_NL, decode_iq4_nl, {PHI_WEIGHT_INT8, 32, false, false}, {0, -1}},
    {PHI_DTYPE_IQ4_XS, decode_iq4_xs, {PHI_WEIGHT_INT8, 32, false, true}, {0, -1}},
    {PHI_DTYPE_MXFP4, decode_mxfp4, {PHI_WEIGHT_INT8, 32, false, true}, {-1, -1}},
};
#define N_TYPES (sizeof TYPES / sizeof TYPES[0])
#define N_BLOCKS 64U
#define ELEMENTS (N_BLOCKS * 256U)

static uint32_t state = 1;

static uint8_t random_byte(void)
{
    state = state * 1664525U + 1013904223U;
    return (uint8_t)(state >> 24);
}

/* Any bytes are a block; those of its fp16 numbers stay finite (Q8_K's float by the same bit). */
static void random_block(const type_case *type, uint8_t *b)
{
    for (uint32_t i = 0; i < phi_dtype_get(type->dtype)->block_bytes; i++) {
        b[i] = random_byte();
    }
    for (int i = 0; i < 2; i++) {
        if (type->halves[i] >= 0) {
            b[type->halves[i] + 1] &= 0xBF;
        }
    }
    if (type->dtype == PHI_DTYPE_MXFP4 && b[0] > 250) {
        b[0] = 0;
    }
}

static float value_of(const element *it, bool has_offsets)
{
    float product = it->scale * (float)it->code;
    return has_offsets ? product + it->offset : product;
}

static void check_block(const type_case *type, const uint8_t *b)
{
    const phi_dtype_info *info = phi_dtype_get(type->dtype);
    uint8_t raw[1 + 300]; /* one byte off, so that no alignment is assumed */
    float out[256];
    uint8_t codes[256];
    float scales[16];
    float offsets[16] = {0};
    memcpy(raw + 1, b, info->block_bytes);
    phi_dtype_widen(type->dtype, raw + 1, info->block_elements, out);
    phi_dtype_codes(type->dtype, raw + 1, info->block_elements, codes, scales,
                    type->form.has_offsets ? offsets : NULL);
    bool centred = type->form.kind == PHI_WEIGHT_INT4 && !type->form.has_offsets;
    for (unsigned e = 0; e < info->block_elements; e++) {
        element right = type->decode(b, e);
        unsigned g = e / type->form.group;
        int code = type->form.kind == PHI_WEIGHT_INT4 ? codes[e] : (int8_t)codes[e];
        assert_true(type->form.kind != PHI_WEIGHT_INT4 || codes[e] < 16);
        if (code - (centred ? 8 : 0) != right.code || scales[g] != right.scale ||
            (type->form.has_offsets && offsets[g] != right.offset) ||
            out[e] != value_of(&right, type->form.has_offsets)) {
            fail_msg("%s, element %u: code %d, scale %g, offset %g, value %g; %d, %g, %g, %g is "
                     "right",
                     info->name, e, code, (double)scales[g], (double)offsets[g], (double)out[e],
                     right.code, (double)right.scale, (double)right.offset,
                     (double)value_of(&right, type->form.has_offsets));
        }
    }
}

static void test_every_bit(void **unused)
{
    (void)unused;
    /* F32, F16 and BF16 have no blocks. */
    assert_int_equal(N_TYPES, PHI_DTYPE_COUNT - 3);
    for (size_t t = 0; t < N_TYPES; t++) {
        phi_form form = phi_form_of(TYPES[t].dtype);
        assert_true(phi_form_equal(&form, &TYPES[t].form));
        for (unsigned i = 0; i < N_BLOCKS; i++) {
            uint8_t b[300] = {0};
            random_block(&TYPES[t], b);
            check_block(&TYPES[t], b);
        }
    }
}

/* Scales and offsets of forms that are not wide are numbers that fp16 has. */
static void test_narrow(void **unused)
{
    (void)unused;
    for (size_t t = 0; t < N_TYPES; t++) {
        for (unsigned i = 0; i < N_BLOCKS && !TYPES[t].form.wide; i++) {
            uint8_t b[300] = {0};
            uint8_t codes[256];
            float scales[16];
            float offsets[16] = {0};
            random_block(&TYPES[t], b);
            phi_dtype_codes(TYPES[t].dtype, b, phi_dtype_get(TYPES[t].dtype)->block_elements, codes,
                            scales, offsets);
            assert_true(phi_half_to_float(phi_half_of_float(scales[0])) == scales[0]);
            assert_true(phi_half_to_float(phi_half_of_float(offsets[0])) == offsets[0]);
        }
    }
}

/* Several blocks in a row are several blocks. */
static void test_rows(void **unused)
{
    (void)unused;
    static uint8_t codes[512];
    static float wide[512];
    for (size_t t = 0; t < N_TYPES; t++) {
        const phi_dtype_info *info = phi_dtype_get(TYPES[t].dtype);
        uint8_t row[16 * 300] = {0};
        float scales[32];
        float offsets[32];
        unsigned n = 512 / info->block_elements;
        for (unsigned i = 0; i < n; i++) {
            random_block(&TYPES[t], row + i * info->block_bytes);
        }
        phi_dtype_widen(TYPES[t].dtype, row, 512, wide);
        phi_dtype_codes(TYPES[t].dtype, row, 512, codes, scales, offsets);
        for (unsigned i = 0; i < n; i++) {
            float one[256];
            uint8_t one_codes[256];
            float one_scales[16];
            float one_offsets[16];
            const uint8_t *b = row + i * info->block_bytes;
            unsigned groups = info->block_elements / info->group;
            phi_dtype_widen(TYPES[t].dtype, b, info->block_elements, one);
            phi_dtype_codes(TYPES[t].dtype, b, info->block_elements, one_codes, one_scales,
                            one_offsets);
            assert_memory_equal(wide + i * info->block_elements, one, info->block_elements * 4);
            assert_memory_equal(codes + i * info->block_elements, one_codes, info->block_elements);
            assert_memory_equal(scales + i * groups, one_scales, groups * 4);
            if (info->has_offsets) {
                assert_memory_equal(offsets + i * groups, one_offsets, groups * 4);
            }
        }
    }
}

/* First blocks of what ggml's own quantizers make of a known row (llama.cpp, February 2025), and
 * the first value that its own decoders make of them. */
static const struct golden {
    phi_dtype dtype;
    float first;
    double error_max; /* of what the block stands for, from the row */
    const char *hex;
} GOLDEN[] = {
    {PHI_DTYPE_Q5_0, -0.5859375F, 0.05, "402ab4b4a525f4bf7b27e3ae5a16d19d4904c08c38f4"},
    {PHI_DTYPE_Q5_1, -0.633026123F, 0.05, "532a40bab4b4a525f3bf6b27e2ae5a16d19d4904c07c38f3"},
    {PHI_DTYPE_Q8_0, -0.609157562F, 0.01,
     "4d1e9dfb59b61472d02e8be947a50361be1c7ad73593f14fac0a68c62481df3d9af8"},
    {PHI_DTYPE_IQ4_NL, -0.669677734F, 0.1, "981ef157ce137adf249be146bd0258ce137a"},
    {PHI_DTYPE_Q3_K, -0.599555969F, 0.15,
     "66cdb366d9336c9936cc9b66cdb366d94d1ae74cb3e758b3ed18b74c9ae74cb3897833de9d7727ed886be2d97837"
     "de9ddb2f7589dc227688df2275c91f7285d84827e28d7823de897722dd8877e29d785df2b79c2db68b5de2f7485d"
     "22b7882d66a260aa50aa660900fc003fdf9f"},
    {PHI_DTYPE_Q4_K, -0.588558197F, 0.1,
     "de168022fffffffafff8fafaceafbfbcc2278dd3499e055ab1167cc2388de449af056bb1277cd3389ee45aa0166b"
     "c22748ad0469c0157bd1379cf358ae046ac0268be2379df359be157ad1268ce248ada0156bc1278cd3489e045ab0"
     "167bc2378de349ae056ab1267cd2389de459af15268ce248ad0459b0157bd1379ce348ae046ac0267bd2379df359"
     "be156ac1268c"},
    {PHI_DTYPE_Q6_K, -0.611849427F, 0.03,
     "45df28bc069f137cf08ad367f14ade285ed67df57c038b02aa22b931b85fd75e26ac058d037bf179d258d048ce27"
     "af2583fc741d960eb62fd840b961da53fb74d158bf37be25ad048b047bf37ad159d0c941ea63eb74fb741d951ea7"
     "2fc841c9bf35ad169b048df26be069d147cf38bd1a922c840d85ed77ff57d038b04aa22b6cb11b6cc61b71c61cb1"
     "cb6cb21b6cc6e74d3ad04d37904ae7913ae44d3a904d18b1c66cb11b6c861b71c61cb1c76cb22453f9248ef9138e"
     "f4538d2452f9248e8d81877c897a8677807f897a867a8487758a"},
};

static unsigned hex_digit(char digit)
{
    return (unsigned)(digit <= '9' ? digit - '0' : digit - 'a' + 10);
}

static void test_golden(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < sizeof GOLDEN / sizeof GOLDEN[0]; i++) {
        const phi_dtype_info *info = phi_dtype_get(GOLDEN[i].dtype);
        uint8_t b[300];
        float out[256];
        assert_int_equal(strlen(GOLDEN[i].hex), 2 * info->block_bytes);
        for (uint32_t j = 0; j < info->block_bytes; j++) {
            b[j] = (uint8_t)(hex_digit(GOLDEN[i].hex[2 * j]) * 16 +
                             hex_digit(GOLDEN[i].hex[2 * j + 1]));
        }
        phi_dtype_widen(GOLDEN[i].dtype, b, info->block_elements, out);
        assert_true(out[0] - GOLDEN[i].first < 1e-8F && GOLDEN[i].first - out[0] < 1e-8F);
        for (unsigned e = 0; e < info->block_elements; e++) {
            double x = ((int)((37 * e + 11) % 101) - 50) / 64.0;
            double error = (double)out[e] - x;
            if (error > GOLDEN[i].error_max || error < -GOLDEN[i].error_max) {
                fail_msg("%s, element %u: %g instead of %g", info->name, e, (double)out[e], x);
            }
        }
    }
}

static void test_kscales(void **unused)
{
    (void)unused;
    uint8_t packed[12] = {0};
    for (unsigned g = 0; g < 8; g++) {
        phi_kscale_set(packed, g, (uint8_t)(63 - 5 * g), (uint8_t)(7 + 8 * g));
    }
    for (unsigned g = 0; g < 8; g++) {
        unsigned scale;
        unsigned min;
        kscale(packed, g, &scale, &min);
        assert_int_equal(scale, 63 - 5 * g);
        assert_int_equal(min, 7 + 8 * g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_bit), cmocka_unit_test(test_narrow),
        cmocka_unit_test(test_rows),      cmocka_unit_test(test_golden),
        cmocka_unit_test(test_kscales),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
