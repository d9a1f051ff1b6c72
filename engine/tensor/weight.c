#include "engine/tensor/weight.h"

#include "base/assert.h"
#include "base/checked.h"
#include "base/mem.h"
#include "engine/tensor/half.h"

#include <string.h>

phi_weight_kind phi_weight_kind_of(phi_dtype dtype)
{
    switch (dtype) {
    case PHI_DTYPE_F32:
        return PHI_WEIGHT_FP32;
    case PHI_DTYPE_F16:
        return PHI_WEIGHT_FP16;
    case PHI_DTYPE_BF16:
        return PHI_WEIGHT_BF16;
    case PHI_DTYPE_Q8_0:
        return PHI_WEIGHT_INT8;
    case PHI_DTYPE_Q4_0:
    case PHI_DTYPE_Q4_1:
        return PHI_WEIGHT_INT4;
    case PHI_DTYPE_COUNT:
        break;
    }
    PHI_UNREACHABLE();
}

const char *phi_weight_kind_name(phi_weight_kind kind)
{
    static const char *const names[PHI_WEIGHT_KIND_COUNT] = {"INT4", "INT8", "FP16", "BF16",
                                                             "FP32"};
    PHI_ASSERT(kind < PHI_WEIGHT_KIND_COUNT);
    return names[kind];
}

static uint64_t code_row_bytes(phi_weight_kind kind, uint32_t cols)
{
    switch (kind) {
    case PHI_WEIGHT_INT4:
        return cols / 2;
    case PHI_WEIGHT_INT8:
        return cols;
    case PHI_WEIGHT_FP16:
    case PHI_WEIGHT_BF16:
        return (uint64_t)cols * 2;
    case PHI_WEIGHT_FP32:
        return (uint64_t)cols * 4;
    case PHI_WEIGHT_KIND_COUNT:
        break;
    }
    PHI_UNREACHABLE();
}

phi_status phi_weight_init(phi_weight *weight, phi_dtype dtype, uint32_t rows, uint32_t cols,
                           phi_err *err)
{
    phi_weight fresh = {.kind = phi_weight_kind_of(dtype), .rows = rows, .cols = cols};
    bool grouped = fresh.kind == PHI_WEIGHT_INT4 || fresh.kind == PHI_WEIGHT_INT8;
    if (grouped) {
        fresh.group = PHI_BLOCK_ELEMENTS;
        if (cols % fresh.group != 0) {
            return phi_fail(err, PHI_E_UNSUPPORTED, "%u columns are not a multiple of %u", cols,
                            fresh.group);
        }
    }
    fresh.row_bytes = code_row_bytes(fresh.kind, cols);
    uint64_t bytes;
    if (!phi_checked_mul(fresh.row_bytes, rows, &bytes) || bytes > SIZE_MAX / 2) {
        return phi_fail(err, PHI_E_LIMIT, "a matrix of %u x %u is too large", rows, cols);
    }
    fresh.codes = phi_try_alloc_aligned((size_t)bytes);
    if (grouped) {
        size_t groups = (size_t)rows * (cols / fresh.group);
        fresh.scales = phi_try_alloc_aligned(groups * sizeof(uint16_t));
        if (dtype == PHI_DTYPE_Q4_1) {
            fresh.offsets = phi_try_alloc_aligned(groups * sizeof(uint16_t));
        }
    }
    if (!fresh.codes || (grouped && !fresh.scales) || (dtype == PHI_DTYPE_Q4_1 && !fresh.offsets)) {
        phi_weight_done(&fresh);
        return phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for a matrix of %u x %u", rows,
                        cols);
    }
    *weight = fresh;
    return PHI_OK;
}

void phi_weight_done(phi_weight *weight)
{
    if (weight) {
        phi_free(weight->codes);
        phi_free(weight->scales);
        phi_free(weight->offsets);
        *weight = (phi_weight){0};
    }
}

/* Splits file blocks [d (m) codes] into the three planes. */
static void split_blocks(phi_weight *weight, phi_dtype dtype, uint64_t first_group, size_t groups,
                         const uint8_t *src)
{
    size_t block_bytes = phi_dtype_get(dtype)->block_bytes;
    size_t head_bytes = dtype == PHI_DTYPE_Q4_1 ? 4 : 2;
    size_t code_bytes = block_bytes - head_bytes;
    uint8_t *codes = (uint8_t *)weight->codes + first_group * code_bytes;
    for (size_t g = 0; g < groups; g++, src += block_bytes) {
        memcpy(&weight->scales[first_group + g], src, 2);
        if (weight->offsets) {
            memcpy(&weight->offsets[first_group + g], src + 2, 2);
        }
        memcpy(codes + g * code_bytes, src + head_bytes, code_bytes);
    }
}

void phi_weight_set_rows(phi_weight *weight, phi_dtype dtype, uint32_t row, uint32_t count,
                         const void *src)
{
    PHI_ASSERT(row <= weight->rows && count <= weight->rows - row);
    PHI_ASSERT(phi_weight_kind_of(dtype) == weight->kind);
    if (weight->group) {
        size_t per_row = weight->cols / weight->group;
        PHI_ASSERT((dtype == PHI_DTYPE_Q4_1) == (weight->offsets != NULL));
        split_blocks(weight, dtype, (uint64_t)row * per_row, count * per_row, src);
        return;
    }
    memcpy((uint8_t *)weight->codes + row * weight->row_bytes, src,
           (size_t)(count * weight->row_bytes));
}

static void widen_int4(const phi_weight *weight, uint32_t row, float *out)
{
    const uint8_t *codes = (const uint8_t *)weight->codes + row * weight->row_bytes;
    size_t groups = weight->cols / weight->group;
    for (size_t run = 0; run < weight->cols / 32; run++) {
        size_t g = row * groups + run * 32 / weight->group;
        float scale = phi_half_to_float(weight->scales[g]);
        for (size_t j = 0; j < 16; j++) {
            int low = codes[run * 16 + j] & 15;
            int high = codes[run * 16 + j] >> 4;
            float *at = out + run * 32 + j;
            if (weight->offsets) {
                float offset = phi_half_to_float(weight->offsets[g]);
                at[0] = scale * (float)low + offset;
                at[16] = scale * (float)high + offset;
            } else {
                at[0] = scale * (float)(low - 8);
                at[16] = scale * (float)(high - 8);
            }
        }
    }
}

static void widen_int8(const phi_weight *weight, uint32_t row, float *out)
{
    const int8_t *codes = (const int8_t *)weight->codes + row * weight->row_bytes;
    size_t groups = weight->cols / weight->group;
    for (size_t i = 0; i < weight->cols; i++) {
        size_t g = row * groups + i / weight->group;
        float offset = weight->offsets ? phi_half_to_float(weight->offsets[g]) : 0.0F;
        out[i] = phi_half_to_float(weight->scales[g]) * (float)codes[i] + offset;
    }
}

void phi_weight_row(const phi_weight *weight, uint32_t row, float *out)
{
    PHI_ASSERT(row < weight->rows);
    const uint8_t *codes = (const uint8_t *)weight->codes + row * weight->row_bytes;
    switch (weight->kind) {
    case PHI_WEIGHT_INT4:
        widen_int4(weight, row, out);
        return;
    case PHI_WEIGHT_INT8:
        widen_int8(weight, row, out);
        return;
    case PHI_WEIGHT_FP16:
        phi_dtype_widen(PHI_DTYPE_F16, codes, weight->cols, out);
        return;
    case PHI_WEIGHT_BF16:
        phi_dtype_widen(PHI_DTYPE_BF16, codes, weight->cols, out);
        return;
    case PHI_WEIGHT_FP32:
        phi_dtype_widen(PHI_DTYPE_F32, codes, weight->cols, out);
        return;
    case PHI_WEIGHT_KIND_COUNT:
        break;
    }
    PHI_UNREACHABLE();
}

uint64_t phi_weight_bytes(const phi_weight *weight)
{
    uint64_t bytes = weight->row_bytes * weight->rows;
    if (weight->group) {
        uint64_t groups = (uint64_t)weight->rows * (weight->cols / weight->group);
        bytes += groups * sizeof(uint16_t) * (weight->offsets ? 2 : 1);
    }
    return bytes;
}
