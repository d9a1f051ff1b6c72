#include "engine/tensor/dtype.h"

#include "base/assert.h"
#include "base/checked.h"
#include "engine/tensor/half.h"

#include <string.h>

static const phi_dtype_info table[PHI_DTYPE_COUNT] = {
    [PHI_DTYPE_F32] = {"F32", 1, 4, 0},
    [PHI_DTYPE_F16] = {"F16", 1, 2, 1},
    [PHI_DTYPE_BF16] = {"BF16", 1, 2, 30},
    [PHI_DTYPE_Q8_0] = {"Q8_0", 32, sizeof(phi_block_q8_0), 8},
    [PHI_DTYPE_Q4_0] = {"Q4_0", 32, sizeof(phi_block_q4_0), 2},
    [PHI_DTYPE_Q4_1] = {"Q4_1", 32, sizeof(phi_block_q4_1), 3},
};

const phi_dtype_info *phi_dtype_get(phi_dtype dtype)
{
    PHI_ASSERT(dtype < PHI_DTYPE_COUNT);
    return &table[dtype];
}

bool phi_dtype_of_ggml(uint32_t ggml_type, phi_dtype *out_dtype)
{
    for (int i = 0; i < PHI_DTYPE_COUNT; i++) {
        if (table[i].ggml_type == ggml_type) {
            *out_dtype = (phi_dtype)i;
            return true;
        }
    }
    return false;
}

bool phi_dtype_row_bytes(phi_dtype dtype, uint64_t elements, uint64_t *out_bytes)
{
    const phi_dtype_info *info = phi_dtype_get(dtype);
    if (elements % info->block_elements != 0) {
        return false;
    }
    return phi_checked_mul(elements / info->block_elements, info->block_bytes, out_bytes);
}

static void widen_q8_0(const uint8_t *src, size_t blocks, float *out)
{
    for (size_t b = 0; b < blocks; b++, out += 32) {
        phi_block_q8_0 block;
        memcpy(&block, src + b * sizeof block, sizeof block);
        float d = phi_half_to_float(block.d);
        for (int j = 0; j < 32; j++) {
            out[j] = d * (float)block.codes[j];
        }
    }
}

static void widen_q4_0(const uint8_t *src, size_t blocks, float *out)
{
    for (size_t b = 0; b < blocks; b++, out += 32) {
        phi_block_q4_0 block;
        memcpy(&block, src + b * sizeof block, sizeof block);
        float d = phi_half_to_float(block.d);
        for (int j = 0; j < 16; j++) {
            out[j] = d * (float)((block.nibbles[j] & 15) - 8);
            out[j + 16] = d * (float)((block.nibbles[j] >> 4) - 8);
        }
    }
}

static void widen_q4_1(const uint8_t *src, size_t blocks, float *out)
{
    for (size_t b = 0; b < blocks; b++, out += 32) {
        phi_block_q4_1 block;
        memcpy(&block, src + b * sizeof block, sizeof block);
        float d = phi_half_to_float(block.d);
        float m = phi_half_to_float(block.m);
        for (int j = 0; j < 16; j++) {
            out[j] = d * (float)(block.nibbles[j] & 15) + m;
            out[j + 16] = d * (float)(block.nibbles[j] >> 4) + m;
        }
    }
}

static void widen_16(const uint8_t *src, size_t elements, bool brain, float *out)
{
    for (size_t i = 0; i < elements; i++) {
        uint16_t bits;
        memcpy(&bits, src + 2 * i, sizeof bits);
        out[i] = brain ? phi_bf16_to_float(bits) : phi_half_to_float(bits);
    }
}

void phi_dtype_widen(phi_dtype dtype, const void *src, size_t elements, float *out)
{
    PHI_ASSERT(elements % phi_dtype_get(dtype)->block_elements == 0);
    switch (dtype) {
    case PHI_DTYPE_F32:
        memcpy(out, src, elements * sizeof *out);
        return;
    case PHI_DTYPE_F16:
        widen_16(src, elements, false, out);
        return;
    case PHI_DTYPE_BF16:
        widen_16(src, elements, true, out);
        return;
    case PHI_DTYPE_Q8_0:
        widen_q8_0(src, elements / 32, out);
        return;
    case PHI_DTYPE_Q4_0:
        widen_q4_0(src, elements / 32, out);
        return;
    case PHI_DTYPE_Q4_1:
        widen_q4_1(src, elements / 32, out);
        return;
    case PHI_DTYPE_COUNT:
        break;
    }
    PHI_UNREACHABLE();
}
