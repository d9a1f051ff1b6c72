#include "engine/tensor/dtype.h"

#include "base/assert.h"
#include "base/checked.h"
#include "engine/tensor/half.h"

#include <string.h>

typedef struct dtype_row {
    phi_dtype_info info;
    phi_unpack_fn unpack; /* NULL for plain types */
} dtype_row;

#define PLAIN(name, bytes, number)                                                                 \
    {                                                                                              \
        {name, 1, bytes, number, 0, 0, false, false}, NULL                                         \
    }
/* What follows the number: group, bits of a code, offsets, wide. */
#define BLOCKS(name, elements, type, number, ...)                                                  \
    {                                                                                              \
        {name, elements, sizeof(phi_block_##type), number, __VA_ARGS__}, phi_unpack_##type         \
    }

static const dtype_row table[PHI_DTYPE_COUNT] = {
    [PHI_DTYPE_F32] = PLAIN("F32", 4, 0),
    [PHI_DTYPE_F16] = PLAIN("F16", 2, 1),
    [PHI_DTYPE_BF16] = PLAIN("BF16", 2, 30),
    [PHI_DTYPE_Q8_0] = BLOCKS("Q8_0", 32, q8_0, 8, 32, 8, false, false),
    [PHI_DTYPE_Q4_0] = BLOCKS("Q4_0", 32, q4_0, 2, 32, 4, false, false),
    [PHI_DTYPE_Q4_1] = BLOCKS("Q4_1", 32, q4_1, 3, 32, 4, true, false),
    [PHI_DTYPE_Q5_0] = BLOCKS("Q5_0", 32, q5_0, 6, 32, 8, false, false),
    [PHI_DTYPE_Q5_1] = BLOCKS("Q5_1", 32, q5_1, 7, 32, 8, true, false),
    [PHI_DTYPE_Q2_K] = BLOCKS("Q2_K", 256, q2_k, 10, 16, 4, true, true),
    [PHI_DTYPE_Q3_K] = BLOCKS("Q3_K", 256, q3_k, 11, 16, 4, false, true),
    [PHI_DTYPE_Q4_K] = BLOCKS("Q4_K", 256, q4_k, 12, 32, 4, true, true),
    [PHI_DTYPE_Q5_K] = BLOCKS("Q5_K", 256, q5_k, 13, 32, 8, true, true),
    [PHI_DTYPE_Q6_K] = BLOCKS("Q6_K", 256, q6_k, 14, 16, 8, false, true),
    [PHI_DTYPE_Q8_K] = BLOCKS("Q8_K", 256, q8_k, 15, 256, 8, false, true),
    [PHI_DTYPE_IQ4_NL] = BLOCKS("IQ4_NL", 32, iq4_nl, 20, 32, 8, false, false),
    [PHI_DTYPE_IQ4_XS] = BLOCKS("IQ4_XS", 256, iq4_xs, 23, 32, 8, false, true),
    [PHI_DTYPE_MXFP4] = BLOCKS("MXFP4", 32, mxfp4, 39, 32, 8, false, true),
};

const phi_dtype_info *phi_dtype_get(phi_dtype dtype)
{
    PHI_ASSERT(dtype < PHI_DTYPE_COUNT);
    return &table[dtype].info;
}

bool phi_dtype_of_ggml(uint32_t ggml_type, phi_dtype *out_dtype)
{
    for (int i = 0; i < PHI_DTYPE_COUNT; i++) {
        if (table[i].info.ggml_type == ggml_type) {
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

void phi_dtype_codes(phi_dtype dtype, const void *src, size_t elements, uint8_t *codes,
                     float *scales, float *offsets)
{
    const phi_dtype_info *info = phi_dtype_get(dtype);
    const uint8_t *from = src;
    PHI_ASSERT(info->group && elements % info->block_elements == 0);
    PHI_ASSERT(offsets || !info->has_offsets);
    for (size_t e = 0; e < elements; e += info->block_elements) {
        size_t group = e / info->group;
        table[dtype].unpack(from, codes + e, scales + group,
                            info->has_offsets ? offsets + group : NULL);
        from += info->block_bytes;
    }
}

/* ---- widening ---- */

static void widen_group(const phi_dtype_info *info, const uint8_t *codes, float scale, float offset,
                        float *out)
{
    if (info->code_bits == 8 && !info->has_offsets) {
        for (size_t k = 0; k < info->group; k++) {
            out[k] = scale * (float)(int8_t)codes[k];
        }
    } else if (info->has_offsets) {
        /* The codes of every type with offsets are positive in either width. */
        for (size_t k = 0; k < info->group; k++) {
            out[k] = scale * (float)codes[k] + offset;
        }
    } else {
        for (size_t k = 0; k < info->group; k++) {
            out[k] = scale * (float)(codes[k] - 8);
        }
    }
}

static void widen_blocks(phi_dtype dtype, const uint8_t *src, size_t elements, float *out)
{
    const phi_dtype_info *info = &table[dtype].info;
    for (size_t e = 0; e < elements; e += info->block_elements) {
        uint8_t codes[PHI_SUPER_BLOCK_ELEMENTS];
        float scales[PHI_SUPER_BLOCK_GROUPS_MAX];
        float offsets[PHI_SUPER_BLOCK_GROUPS_MAX] = {0};
        table[dtype].unpack(src, codes, scales, offsets);
        for (size_t k = 0, g = 0; k < info->block_elements; k += info->group, g++) {
            widen_group(info, codes + k, scales[g], offsets[g], out + e + k);
        }
        src += info->block_bytes;
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
    if (table[dtype].unpack) {
        widen_blocks(dtype, src, elements, out);
    } else if (dtype == PHI_DTYPE_F32) {
        memcpy(out, src, elements * sizeof *out);
    } else {
        widen_16(src, elements, dtype == PHI_DTYPE_BF16, out);
    }
}
