/* Codes, scales and zero points as arrays: every order that is read gives the values that were
 * packed, and what does not fit its shape is named. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/formats/coded.h"
#include "engine/tensor/half.h"
#include "fixture.h"

enum { ROWS = 48, COLS = 128, GROUP = 32, GROUPS = COLS / GROUP };

static fixture f;
static phi_file file;
static uint8_t data[1 << 18];
static size_t used;
static uint8_t codes[ROWS][COLS]; /* as stored, unsigned */
static uint8_t zeros[ROWS][GROUPS];
static float scales[ROWS][GROUPS];
static float offsets[ROWS][GROUPS];
static uint8_t mx_scales[ROWS][GROUPS];

static int setup(void **state)
{
    (void)state;
    fixture_init(&f);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fixture_done(&f);
    return 0;
}

static uint32_t random_u32(void)
{
    static uint64_t seed = 7;
    seed = seed * 6364136223846793005U + 1442695040888963407U;
    return (uint32_t)(seed >> 33);
}

static void make_values(uint32_t bits)
{
    for (uint32_t r = 0; r < ROWS; r++) {
        for (uint32_t k = 0; k < COLS; k++) {
            codes[r][k] = (uint8_t)(random_u32() & ((1U << bits) - 1));
        }
        for (uint32_t g = 0; g < GROUPS; g++) {
            zeros[r][g] = (uint8_t)(random_u32() & ((1U << bits) - 1));
            scales[r][g] = (float)(random_u32() % 200 + 1) / 1024.0F * (g % 3 == 1 ? -1.0F : 1.0F);
            mx_scales[r][g] = (uint8_t)(random_u32() % 200 + 20);
            offsets[r][g] = (float)(random_u32() % 200) / 64.0F - 1.0F;
        }
    }
}

/* Puts `value` at bit `at` of the array that begins at byte `begin`. */
static void put_bits(size_t begin, size_t at, uint32_t bits, uint32_t value)
{
    for (uint32_t i = 0; i < bits; i++) {
        if (value >> i & 1) {
            data[begin + (at + i) / 8] |= (uint8_t)(1U << (at + i) % 8);
        }
    }
}

static phi_array take(size_t bytes)
{
    phi_array array = {.file = &file, .offset = used, .bytes = bytes};
    memset(data + used, 0, bytes);
    used += bytes;
    assert_true(used <= sizeof data);
    return array;
}

static const uint32_t awq[8] = {0, 2, 4, 6, 1, 3, 5, 7};

static uint32_t awq_nibble(uint32_t row)
{
    for (uint32_t i = 0; i < 8; i++) {
        if (awq[i] == row % 8) {
            return i;
        }
    }
    fail();
    return 0;
}

static phi_array put_codes(phi_code_order order, uint32_t bits)
{
    size_t row_bytes = (COLS * bits + 7) / 8;
    phi_array array = take(ROWS * row_bytes);
    for (uint32_t r = 0; r < ROWS; r++) {
        for (uint32_t k = 0; k < COLS; k++) {
            size_t per_word = 32 / bits;
            size_t at = r * row_bytes * 8 + k * bits;
            if (order == PHI_CODES_BY_COLUMN) {
                at = (k / per_word * ROWS + r) * 32 + k % per_word * bits;
            } else if (order == PHI_CODES_AWQ) {
                at = ((size_t)k * (ROWS / 8) + r / 8) * 32 + awq_nibble(r) * 4;
            }
            put_bits(array.offset, at, bits, codes[r][k]);
        }
    }
    return array;
}

static phi_array put_zeros(phi_zero_order order, uint32_t bits, int less)
{
    size_t row_bytes = (GROUPS * bits + 7) / 8;
    bool by_row = order == PHI_ZEROS_BY_ROW;
    phi_array array = take(by_row ? ROWS * row_bytes : GROUPS * ROWS * bits / 8);
    for (uint32_t r = 0; r < ROWS; r++) {
        for (uint32_t g = 0; g < GROUPS; g++) {
            size_t at = by_row ? r * row_bytes * 8 + g * bits : ((size_t)g * ROWS + r) * bits;
            if (order == PHI_ZEROS_AWQ) {
                at = ((size_t)g * (ROWS / 8) + r / 8) * 32 + awq_nibble(r) * 4;
            }
            put_bits(array.offset, at, bits, zeros[r][g] - (uint32_t)less);
        }
    }
    return array;
}

static phi_array put_numbers(float values[ROWS][GROUPS], phi_dtype dtype, bool by_group)
{
    size_t size = dtype == PHI_DTYPE_F32 ? 4 : 2;
    phi_array array = take(ROWS * GROUPS * size);
    for (uint32_t r = 0; r < ROWS; r++) {
        for (uint32_t g = 0; g < GROUPS; g++) {
            uint8_t *to = data + array.offset + (by_group ? g * ROWS + r : r * GROUPS + g) * size;
            uint16_t half = dtype == PHI_DTYPE_F16 ? phi_half_of_float(values[r][g])
                                                   : phi_bf16_of_float(values[r][g]);
            memcpy(to, dtype == PHI_DTYPE_F32 ? (void *)&values[r][g] : (void *)&half, size);
        }
    }
    return array;
}

static void open_data(void)
{
    phi_err err;
    const char *path = fixture_write(&f, "planes", data, used);
    assert_int_equal(phi_file_open(path, &file, &err), PHI_OK);
}

/* Both ways of reading rows [row, row + count) against `right`. */
static void check_rows(const phi_coded *coded, float right[ROWS][COLS], uint32_t row,
                       uint32_t count)
{
    static float out[ROWS][COLS];
    static uint8_t got[ROWS * COLS];
    float s[ROWS * GROUPS];
    float o[ROWS * GROUPS];
    phi_coded_buffer buffer = {0};
    phi_err err;
    assert_int_equal(phi_coded_read_f32(coded, row, count, &buffer, out[0], &err), PHI_OK);
    for (uint32_t r = 0; r < count; r++) {
        for (uint32_t k = 0; k < COLS; k++) {
            assert_true(out[r][k] == right[row + r][k]);
        }
    }
    if (coded->form.group) {
        phi_weight weight;
        assert_int_equal(phi_weight_shape(&weight, &coded->form, count, COLS, &err), PHI_OK);
        assert_int_equal(phi_weight_alloc(&weight, &err), PHI_OK);
        assert_int_equal(phi_coded_read_codes(coded, row, count, &buffer, got, s, o, &err), PHI_OK);
        for (uint32_t r = 0; r < count; r++) {
            phi_weight_set_codes(&weight, r, got + r * COLS, s + r * GROUPS,
                                 coded->form.has_offsets ? o + r * GROUPS : NULL);
            phi_weight_row(&weight, r, out[0]);
            for (uint32_t k = 0; k < COLS; k++) {
                assert_true(out[0][k] == right[row + r][k]);
            }
        }
        phi_weight_done(&weight);
    }
    phi_coded_buffer_done(&buffer);
}

typedef struct layout {
    const char *name;
    uint32_t bits;
    phi_code_order order;
    phi_zero_order zeros;
    phi_dtype scale_dtype;
    int zero; /* as in phi_coded */
    bool is_signed;
    bool by_group;
    phi_form form; /* expected */
    bool is_mx;
} layout;

static const layout layouts[] = {
    {"MLX 4 bit",
     4,
     PHI_CODES_BY_ROW,
     PHI_ZEROS_OFFSET,
     PHI_DTYPE_F16,
     0,
     false,
     false,
     {PHI_WEIGHT_INT4, GROUP, true, false},
     false},
    {"MLX 8 bit",
     8,
     PHI_CODES_BY_ROW,
     PHI_ZEROS_OFFSET,
     PHI_DTYPE_BF16,
     0,
     false,
     false,
     {PHI_WEIGHT_INT8, GROUP, true, true},
     false},
    {"MLX 3 bit",
     3,
     PHI_CODES_BY_ROW,
     PHI_ZEROS_OFFSET,
     PHI_DTYPE_F32,
     0,
     false,
     false,
     {PHI_WEIGHT_INT4, GROUP, true, true},
     false},
    {"MLX 6 bit",
     6,
     PHI_CODES_BY_ROW,
     PHI_ZEROS_OFFSET,
     PHI_DTYPE_F16,
     0,
     false,
     false,
     {PHI_WEIGHT_INT8, GROUP, true, true},
     false},
    {"GPTQ 4 bit",
     4,
     PHI_CODES_BY_COLUMN,
     PHI_ZEROS_BY_GROUP,
     PHI_DTYPE_F16,
     1,
     false,
     true,
     {PHI_WEIGHT_INT4, GROUP, true, true},
     false},
    {"GPTQ 8 bit",
     8,
     PHI_CODES_BY_COLUMN,
     PHI_ZEROS_BY_GROUP,
     PHI_DTYPE_F16,
     0,
     false,
     true,
     {PHI_WEIGHT_INT8, GROUP, true, true},
     false},
    {"AWQ",
     4,
     PHI_CODES_AWQ,
     PHI_ZEROS_AWQ,
     PHI_DTYPE_F16,
     0,
     false,
     true,
     {PHI_WEIGHT_INT4, GROUP, true, true},
     false},
    {"compressed-tensors 4 bit",
     4,
     PHI_CODES_BY_ROW,
     PHI_ZEROS_ONE,
     PHI_DTYPE_BF16,
     8,
     false,
     false,
     {PHI_WEIGHT_INT4, GROUP, false, true},
     false},
    {"compressed-tensors int8",
     8,
     PHI_CODES_BY_ROW,
     PHI_ZEROS_ONE,
     PHI_DTYPE_BF16,
     0,
     true,
     false,
     {PHI_WEIGHT_INT8, GROUP, false, true},
     false},
    {"MatMulNBits",
     4,
     PHI_CODES_BY_ROW,
     PHI_ZEROS_BY_ROW,
     PHI_DTYPE_F32,
     0,
     false,
     false,
     {PHI_WEIGHT_INT4, GROUP, true, true},
     false},
    {"MatMulNBits without zero points",
     4,
     PHI_CODES_BY_ROW,
     PHI_ZEROS_ONE,
     PHI_DTYPE_F16,
     8,
     false,
     false,
     {PHI_WEIGHT_INT4, GROUP, false, false},
     false},
    {"MatMulNBits 8 bit",
     8,
     PHI_CODES_BY_ROW,
     PHI_ZEROS_BY_ROW,
     PHI_DTYPE_F16,
     0,
     false,
     false,
     {PHI_WEIGHT_INT8, GROUP, true, true},
     false},
    {"MatMulNBits 2 bit",
     2,
     PHI_CODES_BY_ROW,
     PHI_ZEROS_ONE,
     PHI_DTYPE_F16,
     2,
     false,
     false,
     {PHI_WEIGHT_INT4, GROUP, false, false},
     false},
    {"OpenVINO i4",
     4,
     PHI_CODES_BY_ROW,
     PHI_ZEROS_ONE,
     PHI_DTYPE_F16,
     0,
     true,
     false,
     {PHI_WEIGHT_INT4, GROUP, false, false},
     false},
    {"a zero point beyond the centre",
     4,
     PHI_CODES_BY_ROW,
     PHI_ZEROS_ONE,
     PHI_DTYPE_F16,
     3,
     false,
     false,
     {PHI_WEIGHT_INT4, GROUP, true, true},
     false},
    {"MXFP4",
     4,
     PHI_CODES_BY_ROW,
     PHI_ZEROS_ONE,
     PHI_DTYPE_F16,
     0,
     false,
     false,
     {PHI_WEIGHT_INT8, GROUP, false, true},
     true},
};

/* The files' own arithmetic, in double: exact for these values. */
static void make_right(const layout *l, float right[ROWS][COLS])
{
    int flip = l->is_signed ? 1 << (l->bits - 1) : 0;
    for (uint32_t r = 0; r < ROWS; r++) {
        for (uint32_t k = 0; k < COLS; k++) {
            uint32_t g = k / GROUP;
            int q = (codes[r][k] ^ flip) - flip;
            static const double e2m1[] = {0, .5, 1, 1.5, 2, 3, 4, 6};
            double zero = l->zeros == PHI_ZEROS_ONE ? l->zero : zeros[r][g];
            double value = l->zeros == PHI_ZEROS_OFFSET
                               ? (double)scales[r][g] * q + (double)offsets[r][g]
                               : (q - zero) * (double)scales[r][g];
            if (l->is_mx) {
                value = e2m1[q & 7] * (q & 8 ? -1.0 : 1.0) * ldexp(1.0, mx_scales[r][g] - 127);
            }
            right[r][k] = (float)value;
        }
    }
}

static void make_coded(const layout *l, phi_coded *out)
{
    used = 0;
    make_values(l->bits);
    /* What a 16-bit scale holds: 8 bits of mantissa. */
    for (uint32_t r = 0; r < ROWS; r++) {
        for (uint32_t g = 0; g < GROUPS; g++) {
            scales[r][g] = phi_bf16_to_float(phi_bf16_of_float(scales[r][g]));
            /* The stored form is one less than the zero point: it has to have one. */
            zeros[r][g] = (uint8_t)(zeros[r][g] < l->zero ? l->zero : zeros[r][g]);
        }
    }
    *out = (phi_coded){
        .rows = ROWS,
        .cols = COLS,
        .bits = l->bits,
        .group = GROUP,
        .order = l->order,
        .is_signed = l->is_signed,
        .scales_by_group = l->by_group,
        .scale_dtype = l->scale_dtype,
        .zeros_order = l->zeros,
        .zero = l->zero,
        .is_mx = l->is_mx,
        .codes = put_codes(l->order, l->bits),
        .scales = put_numbers(scales, l->scale_dtype, l->by_group),
    };
    if (l->is_mx) {
        out->scales = take(sizeof mx_scales);
        memcpy(data + out->scales.offset, mx_scales, sizeof mx_scales);
    } else if (l->zeros == PHI_ZEROS_OFFSET) {
        out->zeros = put_numbers(offsets, l->scale_dtype, false);
    } else if (l->zeros != PHI_ZEROS_ONE) {
        out->zeros = put_zeros(l->zeros, l->bits, l->zero);
    }
}

static void test_layouts(void **state)
{
    (void)state;
    static float right[ROWS][COLS];
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
        const layout *l = &layouts[i];
        phi_coded coded;
        phi_err err;
        make_coded(l, &coded);
        make_right(l, right);
        open_data();
        if (phi_coded_settle(&coded, &err)) {
            fail_msg("%s: %s", l->name, err.message);
        }
        if (memcmp(&coded.form, &l->form, sizeof coded.form) != 0) {
            fail_msg("%s: its form is %s by %u%s%s", l->name, phi_weight_kind_name(coded.form.kind),
                     coded.form.group, coded.form.has_offsets ? ", offsets" : "",
                     coded.form.wide ? ", wide" : "");
        }
        check_rows(&coded, right, 0, ROWS);
        check_rows(&coded, right, 16, 16);
        check_rows(&coded, right, 5, 3);
        check_rows(&coded, right, 47, 1);
        phi_coded_done(&coded);
        phi_file_close(&file);
    }
}

/* GPTQ writes zero points even where all are the middle: then none are needed. */
static void test_equal_zeros(void **state)
{
    (void)state;
    static float right[ROWS][COLS];
    layout gptq = layouts[4];
    phi_coded coded;
    phi_err err;
    make_coded(&gptq, &coded);
    memset(zeros, 8, sizeof zeros);
    coded.zeros = put_zeros(gptq.zeros, 4, gptq.zero);
    make_right(&gptq, right);
    open_data();
    assert_int_equal(phi_coded_settle(&coded, &err), PHI_OK);
    assert_false(coded.form.has_offsets);
    assert_false(coded.form.wide);
    check_rows(&coded, right, 0, ROWS);
    phi_coded_done(&coded);
    phi_file_close(&file);
}

/* A number of fp16, of both signs and many sizes. */
static float random_half(void)
{
    float value;
    do {
        value = phi_half_to_float((uint16_t)random_u32());
    } while (!(fabsf(value) > 1e-4F && fabsf(value) < 100.0F));
    return value;
}

/* As Q4_1 and MLX have scales and offsets, and as the K-quants do: products of fp16 and 6 bits. */
static float random_param(bool is_product)
{
    return random_half() * (is_product ? (float)(random_u32() % 63 + 1) : 1.0F);
}

/* Offsets that a file has as zero points of fp32 are read back to the bit. */
static void test_offsets_as_zero_points(void **state)
{
    (void)state;
    static float numbers[ROWS][GROUPS];
    static uint8_t got[ROWS][COLS];
    static float s[ROWS][GROUPS];
    static float o[ROWS][GROUPS];
    for (uint32_t kind = 0; kind < 4; kind++) {
        const bool is_signed = kind / 2;
        const uint32_t bits = is_signed ? 8 : 4;
        phi_coded_buffer buffer = {0};
        phi_err err;
        used = 0;
        make_values(bits);
        for (uint32_t r = 0; r < ROWS; r++) {
            for (uint32_t g = 0; g < GROUPS; g++) {
                scales[r][g] = random_param(kind % 2);
                offsets[r][g] = (r + g) % 9 ? random_param(kind % 2) : 0.0F;
                numbers[r][g] = -offsets[r][g] / scales[r][g];
            }
        }
        phi_coded coded = {.rows = ROWS,
                           .cols = COLS,
                           .bits = bits,
                           .group = GROUP,
                           .is_signed = is_signed,
                           .scale_dtype = PHI_DTYPE_F32,
                           .zeros_order = PHI_ZEROS_FLOAT,
                           .codes = put_codes(PHI_CODES_BY_ROW, bits),
                           .scales = put_numbers(scales, PHI_DTYPE_F32, false),
                           .zeros = put_numbers(numbers, PHI_DTYPE_F32, false)};
        open_data();
        assert_int_equal(phi_coded_settle(&coded, &err), PHI_OK);
        assert_true(coded.form.has_offsets && coded.form.wide);
        assert_int_equal(phi_coded_read_codes(&coded, 0, ROWS, &buffer, got[0], s[0], o[0], &err),
                         PHI_OK);
        assert_memory_equal(got, codes, sizeof got);
        assert_memory_equal(s, scales, sizeof s);
        for (uint32_t r = 0; r < ROWS; r++) {
            for (uint32_t g = 0; g < GROUPS; g++) {
                assert_true(o[r][g] == offsets[r][g]);
            }
        }
        phi_coded_buffer_done(&buffer);
        phi_coded_done(&coded);
        phi_file_close(&file);
    }
}

/* Columns in the order of their importance: each says its group. */
static void test_group_index(void **state)
{
    (void)state;
    static float right[ROWS][COLS];
    for (int mixed = 0; mixed < 2; mixed++) {
        layout gptq = layouts[4];
        phi_coded coded;
        phi_err err;
        make_coded(&gptq, &coded);
        coded.group_index = take(COLS * 4);
        for (uint32_t k = 0; k < COLS; k++) {
            uint32_t g = mixed ? (k * 7 + 3) % GROUPS : k / GROUP;
            memcpy(data + coded.group_index.offset + k * 4, &g, 4);
            for (uint32_t r = 0; r < ROWS; r++) {
                right[r][k] = (float)(((double)codes[r][k] - zeros[r][g]) * (double)scales[r][g]);
            }
        }
        open_data();
        assert_int_equal(phi_coded_settle(&coded, &err), PHI_OK);
        assert_int_equal(coded.form.kind, mixed ? PHI_WEIGHT_FP32 : PHI_WEIGHT_INT4);
        check_rows(&coded, right, 0, ROWS);
        phi_coded_done(&coded);
        phi_file_close(&file);
    }
}

static void refuse(phi_coded coded, phi_status status, const char *says)
{
    phi_err err;
    assert_int_equal(phi_coded_settle(&coded, &err), status);
    if (!strstr(err.message, says)) {
        fail_msg("\"%s\" does not say \"%s\"", err.message, says);
    }
    phi_coded_done(&coded);
}

static void test_refusals(void **state)
{
    (void)state;
    phi_coded coded;
    make_coded(&layouts[4], &coded);
    coded.group_index = take(COLS * 4);
    data[coded.group_index.offset + 4 * 9] = GROUPS;
    open_data();
    refuse(coded, PHI_E_FORMAT, "group index of column 9 is 4; it has 4");
    phi_coded bad = coded;
    bad.bits = 9;
    refuse(bad, PHI_E_UNSUPPORTED, "9 bits");
    bad = coded;
    bad.bits = 3;
    refuse(bad, PHI_E_UNSUPPORTED, "3 bits in words of 32");
    bad = coded;
    bad.group = 48;
    refuse(bad, PHI_E_UNSUPPORTED, "groups of 48 do not divide 128");
    bad = coded;
    bad.group = 0;
    refuse(bad, PHI_E_UNSUPPORTED, "groups of 0");
    bad = coded;
    bad.codes.bytes--;
    refuse(bad, PHI_E_FORMAT, "its codes take 3071 bytes; 3072 are right");
    bad = coded;
    bad.scales.bytes *= 2;
    refuse(bad, PHI_E_FORMAT, "its scales take 768 bytes; 384 are right");
    bad = coded;
    bad.zeros.file = NULL;
    refuse(bad, PHI_E_FORMAT, "it has no zero points");
    bad = coded;
    bad.codes.offset = UINT64_MAX - 100;
    refuse(bad, PHI_E_FORMAT, "its codes lie outside the file");
    bad = coded;
    bad.order = PHI_CODES_AWQ;
    bad.rows = 44;
    refuse(bad, PHI_E_UNSUPPORTED, "whole words");
    phi_file_close(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_layouts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_equal_zeros, setup, teardown),
        cmocka_unit_test_setup_teardown(test_offsets_as_zero_points, setup, teardown),
        cmocka_unit_test_setup_teardown(test_group_index, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
