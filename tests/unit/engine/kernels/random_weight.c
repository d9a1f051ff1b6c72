#include "random_weight.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/tensor/half.h"

const random_kind random_kinds[] = {
    {"INT4 by 32", PHI_WEIGHT_INT4, 32, false, false},
    {"INT4 by 32 with offsets", PHI_WEIGHT_INT4, 32, true, false},
    {"INT4 by 16", PHI_WEIGHT_INT4, 16, false, false},
    {"INT4 by 16 with offsets", PHI_WEIGHT_INT4, 16, true, false},
    {"INT4 by 64", PHI_WEIGHT_INT4, 64, false, false},
    {"INT4 by 64 with offsets", PHI_WEIGHT_INT4, 64, true, false},
    {"INT4 by 128", PHI_WEIGHT_INT4, 128, false, false},
    {"INT4 by 128 with offsets", PHI_WEIGHT_INT4, 128, true, false},
    {"INT4 by the row", PHI_WEIGHT_INT4, RANDOM_WHOLE_ROW, false, false},
    {"INT4 by the row with offsets", PHI_WEIGHT_INT4, RANDOM_WHOLE_ROW, true, false},
    {"INT8 by 32", PHI_WEIGHT_INT8, 32, false, false},
    {"INT8 by 32 with offsets", PHI_WEIGHT_INT8, 32, true, false},
    {"INT8 by 16", PHI_WEIGHT_INT8, 16, false, false},
    {"INT8 by 16 with offsets", PHI_WEIGHT_INT8, 16, true, false},
    {"INT8 by 64", PHI_WEIGHT_INT8, 64, false, false},
    {"INT8 by 64 with offsets", PHI_WEIGHT_INT8, 64, true, false},
    {"INT8 by 128", PHI_WEIGHT_INT8, 128, false, false},
    {"INT8 by 128 with offsets", PHI_WEIGHT_INT8, 128, true, false},
    {"INT8 by the row", PHI_WEIGHT_INT8, RANDOM_WHOLE_ROW, false, false},
    {"INT8 by the row with offsets", PHI_WEIGHT_INT8, RANDOM_WHOLE_ROW, true, false},
    {"INT4 by 16, wide", PHI_WEIGHT_INT4, 16, false, true},
    {"INT4 by 16 with offsets, wide", PHI_WEIGHT_INT4, 16, true, true},
    {"INT4 by 32 with offsets, wide", PHI_WEIGHT_INT4, 32, true, true},
    {"INT4 by 64, wide", PHI_WEIGHT_INT4, 64, false, true},
    {"INT4 by the row with offsets, wide", PHI_WEIGHT_INT4, RANDOM_WHOLE_ROW, true, true},
    {"INT8 by 16, wide", PHI_WEIGHT_INT8, 16, false, true},
    {"INT8 by 16 with offsets, wide", PHI_WEIGHT_INT8, 16, true, true},
    {"INT8 by 32, wide", PHI_WEIGHT_INT8, 32, false, true},
    {"INT8 by 32 with offsets, wide", PHI_WEIGHT_INT8, 32, true, true},
    {"INT8 by the row with offsets, wide", PHI_WEIGHT_INT8, RANDOM_WHOLE_ROW, true, true},
    {"FP16", PHI_WEIGHT_FP16, 0, false, false},
    {"BF16", PHI_WEIGHT_BF16, 0, false, false},
    {"FP32", PHI_WEIGHT_FP32, 0, false, false},
};
const size_t n_random_kinds = sizeof random_kinds / sizeof random_kinds[0];

static uint64_t state = 1;

void random_seed(uint64_t seed)
{
    state = seed * 2 + 1;
}

/* A multiplicative congruential generator; its high bits are good enough for test data. */
uint32_t random_u32(void)
{
    state = state * 6364136223846793005U + 1442695040888963407U;
    return (uint32_t)(state >> 32);
}

float random_float(float size)
{
    return size * ((float)(random_u32() >> 8) * 0x1p-23F - 1.0F);
}

void random_floats(float *out, size_t n, float size)
{
    for (size_t i = 0; i < n; i++) {
        out[i] = random_float(size);
    }
}

bool random_kind_fits(const random_kind *kind, uint32_t cols)
{
    if (!kind->group) {
        return true;
    }
    return cols % 32 == 0 && (kind->group == RANDOM_WHOLE_ROW || cols % kind->group == 0);
}

/* Row 0 is nothing but the lowest code, row 1 nothing but the highest. */
static void fill_codes(uint8_t *codes, size_t n, bool is_int4, uint32_t row)
{
    for (size_t i = 0; i < n; i++) {
        codes[i] = (uint8_t)(is_int4 ? random_u32() >> 28 : random_u32() >> 24);
    }
    if (row == 0) {
        memset(codes, is_int4 ? 0 : 0x80, n);
    } else if (row == 1) {
        memset(codes, is_int4 ? 15 : 0x7F, n);
    }
}

static void fill_grouped(phi_weight *weight, float size)
{
    bool is_int4 = weight->kind == PHI_WEIGHT_INT4;
    float steps = is_int4 ? 8.0F : 128.0F;
    size_t groups = weight->cols / weight->group;
    uint8_t *codes = phi_alloc(weight->cols);
    float *scales = phi_alloc(groups * sizeof *scales);
    float *offsets = phi_alloc(groups * sizeof *offsets);
    for (uint32_t row = 0; row < weight->rows; row++) {
        fill_codes(codes, weight->cols, is_int4, row);
        for (size_t g = 0; g < groups; g++) {
            scales[g] = (1.5F + random_float(1.0F)) * size / steps;
            offsets[g] = random_float(size);
        }
        phi_weight_set_codes(weight, row, codes, scales, weight->has_offsets ? offsets : NULL);
    }
    phi_free(codes);
    phi_free(scales);
    phi_free(offsets);
}

static void fill_floats(phi_weight *weight, float size)
{
    static const phi_dtype dtypes[PHI_WEIGHT_KIND_COUNT] = {
        [PHI_WEIGHT_FP16] = PHI_DTYPE_F16,
        [PHI_WEIGHT_BF16] = PHI_DTYPE_BF16,
        [PHI_WEIGHT_FP32] = PHI_DTYPE_F32,
    };
    float *wide = phi_alloc(weight->cols * sizeof *wide);
    uint16_t *halves = phi_alloc(weight->cols * sizeof *halves);
    for (uint32_t row = 0; row < weight->rows; row++) {
        random_floats(wide, weight->cols, size);
        for (size_t i = 0; i < weight->cols; i++) {
            halves[i] = weight->kind == PHI_WEIGHT_FP16 ? phi_half_of_float(wide[i])
                                                        : phi_bf16_of_float(wide[i]);
        }
        const void *src = weight->kind == PHI_WEIGHT_FP32 ? (void *)wide : (void *)halves;
        phi_weight_set_rows(weight, dtypes[weight->kind], row, 1, src);
    }
    phi_free(wide);
    phi_free(halves);
}

void random_weight(phi_weight *weight, const random_kind *kind, uint32_t rows, uint32_t cols,
                   float size)
{
    phi_form form = {kind->kind, kind->group == RANDOM_WHOLE_ROW ? cols : kind->group,
                     kind->offsets, kind->wide};
    assert_int_equal(PHI_OK, phi_weight_shape(weight, &form, rows, cols, NULL));
    assert_int_equal(PHI_OK, phi_weight_alloc(weight, NULL));
    if (kind->group) {
        fill_grouped(weight, size);
    } else {
        fill_floats(weight, size);
    }
}
