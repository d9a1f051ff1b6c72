#include "random_weight.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/tensor/half.h"

const random_kind random_kinds[] = {
    {"INT4", PHI_WEIGHT_INT4, 32, false},
    {"INT4 with offsets", PHI_WEIGHT_INT4, 32, true},
    {"INT4 by 64", PHI_WEIGHT_INT4, 64, false},
    {"INT4 by 128 with offsets", PHI_WEIGHT_INT4, 128, true},
    {"INT8", PHI_WEIGHT_INT8, 32, false},
    {"INT8 with offsets", PHI_WEIGHT_INT8, 32, true},
    {"INT8 by 64", PHI_WEIGHT_INT8, 64, false},
    {"INT8 by 128", PHI_WEIGHT_INT8, 128, false},
    {"FP16", PHI_WEIGHT_FP16, 0, false},
    {"BF16", PHI_WEIGHT_BF16, 0, false},
    {"FP32", PHI_WEIGHT_FP32, 0, false},
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

static void fill_grouped(phi_weight *weight, bool offsets, float size)
{
    size_t groups = (size_t)weight->rows * (weight->cols / weight->group);
    float steps = weight->kind == PHI_WEIGHT_INT4 ? 8.0F : 128.0F;
    uint8_t *codes = weight->codes;
    for (size_t i = 0; i < weight->rows * weight->row_bytes; i++) {
        codes[i] = (uint8_t)random_u32();
    }
    /* One row of nothing but the lowest code (INT8: -128; INT4: 0) and one of the highest. */
    memset(codes, weight->kind == PHI_WEIGHT_INT4 ? 0 : 0x80, weight->row_bytes);
    if (weight->rows > 1) {
        memset(codes + weight->row_bytes, weight->kind == PHI_WEIGHT_INT4 ? 0xFF : 0x7F,
               weight->row_bytes);
    }
    for (size_t g = 0; g < groups; g++) {
        weight->scales[g] = phi_half_of_float((1.5F + random_float(1.0F)) * size / steps);
        if (offsets) {
            weight->offsets[g] = phi_half_of_float(random_float(size));
        }
    }
}

void random_weight(phi_weight *weight, const random_kind *kind, uint32_t rows, uint32_t cols,
                   float size)
{
    static const phi_dtype dtypes[PHI_WEIGHT_KIND_COUNT] = {
        [PHI_WEIGHT_INT4] = PHI_DTYPE_Q4_0, [PHI_WEIGHT_INT8] = PHI_DTYPE_Q8_0,
        [PHI_WEIGHT_FP16] = PHI_DTYPE_F16,  [PHI_WEIGHT_BF16] = PHI_DTYPE_BF16,
        [PHI_WEIGHT_FP32] = PHI_DTYPE_F32,
    };
    assert_int_equal(PHI_OK, phi_weight_init(weight, dtypes[kind->kind], rows, cols, NULL));
    if (kind->group) {
        weight->group = kind->group;
        if (kind->offsets) {
            size_t groups = (size_t)rows * (cols / kind->group);
            weight->offsets = phi_try_alloc_aligned(groups * sizeof *weight->offsets);
            assert_non_null(weight->offsets);
        }
        fill_grouped(weight, kind->offsets, size);
        return;
    }
    for (size_t i = 0; i < (size_t)rows * cols; i++) {
        float value = random_float(size);
        if (kind->kind == PHI_WEIGHT_FP32) {
            ((float *)weight->codes)[i] = value;
        } else {
            ((uint16_t *)weight->codes)[i] =
                kind->kind == PHI_WEIGHT_FP16 ? phi_half_of_float(value) : phi_bf16_of_float(value);
        }
    }
}
