/* Weights and activations become bf16 tiles. */
#include "engine/kernels/amx/amx_panel.h"
#include "engine/kernels/amx/amx_tiles.h"

#include "base/assert.h"
#include "engine/kernels/int_kind.h"

#include <immintrin.h>
#include <string.h>

#define BLOCK PHI_WEIGHT_BLOCK
#define STEP PHI_BULK_STEP
#define CELLS PHI_AMX_TILE_CELLS
/* How far ahead in a block memory is asked for codes. */
#define AHEAD 1024

uint32_t phi_amx_act_parts(phi_weight_kind kind)
{
    return kind == PHI_WEIGHT_INT4 || kind == PHI_WEIGHT_INT8 ? 1 : 3;
}

uint32_t phi_amx_weight_parts(phi_weight_kind kind)
{
    return kind == PHI_WEIGHT_FP32 ? 3 : kind == PHI_WEIGHT_FP16 ? 2 : 1;
}

/* ---- weights ---- */

/* Scales, and what is added, of a group. */
typedef struct sides {
    __m512 scale;
    __m512 offset;
} sides;

PHI_STAMP __m512 load_side(const uint8_t *from, int is_wide)
{
    return is_wide ? _mm512_loadu_ps((const void *)from)
                   : _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)from));
}

PHI_STAMP sides sides_at(const phi_weight *weight, phi_sides first, uint32_t col, phi_int_kind kind)
{
    phi_sides at =
        phi_sides_at(first, phi_side_bytes((size_t)(col / weight->group) * BLOCK, kind), kind);
    sides out = {.scale = load_side(at.scales, kind.is_wide), .offset = _mm512_setzero_ps()};
    if (kind.has_offsets) {
        out.offset = load_side(at.offsets, kind.is_wide);
    }
    return out;
}

/* A code of four bits stands in the lowest of the upper half of a float whose unit there is 1. */
#define CODE4_MAGIC 0x43000000
#define CODE4_BASE 128.0F
#define CODE4_MASK 0x000f0000
/* One of eight bits in the second byte of a float whose unit there is 1. */
#define CODE8_MAGIC 0x47000000
#define CODE8_BASE 32768.0F
#define CODE8_MASK 0x0000ff00

/* (word & mask) | magic */
PHI_STAMP __m512 code_of(__m512i word, int mask, int magic)
{
    return _mm512_castsi512_ps(
        _mm512_ternarylogic_epi32(word, _mm512_set1_epi32(mask), _mm512_set1_epi32(magic), 0xea));
}

PHI_STAMP void step_int4(const uint8_t *codes, sides low, sides high, uint16_t *out)
{
    PHI_UNROLL
    for (int j = 0; j < 4; j++) {
        _mm_prefetch((const char *)codes + AHEAD + j * 64, _MM_HINT_T0);
        __m512i w = _mm512_loadu_si512((const void *)(codes + j * 64));
        __m512 c[8] = {
            code_of(_mm512_slli_epi32(w, 16), CODE4_MASK, CODE4_MAGIC),
            code_of(_mm512_slli_epi32(w, 8), CODE4_MASK, CODE4_MAGIC),
            code_of(w, CODE4_MASK, CODE4_MAGIC),
            code_of(_mm512_srli_epi32(w, 8), CODE4_MASK, CODE4_MAGIC),
            code_of(_mm512_slli_epi32(w, 12), CODE4_MASK, CODE4_MAGIC),
            code_of(_mm512_slli_epi32(w, 4), CODE4_MASK, CODE4_MAGIC),
            code_of(_mm512_srli_epi32(w, 4), CODE4_MASK, CODE4_MAGIC),
            code_of(_mm512_srli_epi32(w, 12), CODE4_MASK, CODE4_MAGIC),
        };
        PHI_UNROLL
        for (int i = 0; i < 8; i++) {
            const sides *s = i < 4 ? &low : &high;
            c[i] = _mm512_fmadd_ps(c[i], s->scale, s->offset);
        }
        PHI_UNROLL
        for (int i = 0; i < 2; i++) {
            int pair = 2 * j + i;
            phi_amx_store_pair(c[2 * i], c[2 * i + 1], 1, out + pair * 32, 0);
            phi_amx_store_pair(c[2 * i + 4], c[2 * i + 5], 1, out + (pair + 8) * 32, 0);
        }
    }
}

PHI_STAMP void step_int8(const uint8_t *codes, sides low, sides high, uint16_t *out)
{
    const __m512 base = _mm512_set1_ps(CODE8_BASE + 128.0F);
    PHI_UNROLL
    for (int j = 0; j < 8; j++) {
        _mm_prefetch((const char *)codes + AHEAD + j * 64, _MM_HINT_T0);
        const sides *s = j < 4 ? &low : &high;
        __m512i w = _mm512_loadu_si512((const void *)(codes + j * 64));
        __m512 c[4] = {
            code_of(_mm512_slli_epi32(w, 8), CODE8_MASK, CODE8_MAGIC),
            code_of(w, CODE8_MASK, CODE8_MAGIC),
            code_of(_mm512_srli_epi32(w, 8), CODE8_MASK, CODE8_MAGIC),
            code_of(_mm512_srli_epi32(w, 16), CODE8_MASK, CODE8_MAGIC),
        };
        PHI_UNROLL
        for (int i = 0; i < 4; i++) {
            c[i] = _mm512_fmadd_ps(_mm512_sub_ps(c[i], base), s->scale, s->offset);
        }
        phi_amx_store_pair(c[0], c[1], 1, out + (2 * j) * 32, 0);
        phi_amx_store_pair(c[2], c[3], 1, out + (2 * j + 1) * 32, 0);
    }
}

PHI_STAMP void unpack_int(const phi_weight *weight, uint32_t block, uint32_t step, uint32_t n_steps,
                          uint16_t *out, size_t stride, phi_int_kind kind)
{
    const phi_sides first = phi_sides_of(weight, block, kind);
    const size_t step_bytes = kind.is_int4 ? 256 : 512;
    const uint8_t *codes = (const uint8_t *)weight->codes + block * weight->block_bytes;
    /* What stands for 0 in the codes, and the base that they stand on, are taken off with the
     * offset. */
    const __m512 base = _mm512_set1_ps(CODE4_BASE + (kind.has_offsets ? 0.0F : 8.0F));
    for (uint32_t s = step; s < step + n_steps; s++, out += stride) {
        sides low = sides_at(weight, first, s * STEP, kind);
        sides high = sides_at(weight, first, s * STEP + STEP / 2, kind);
        if (kind.is_int4) {
            low.offset = _mm512_fnmadd_ps(base, low.scale, low.offset);
            high.offset = _mm512_fnmadd_ps(base, high.scale, high.offset);
            step_int4(codes + s * step_bytes, low, high, out);
        } else {
            step_int8(codes + s * step_bytes, low, high, out);
        }
    }
}

typedef void (*unpack_fn)(const phi_weight *weight, uint32_t block, uint32_t step, uint32_t n_steps,
                          uint16_t *out, size_t stride);

#define UNPACK_FN(name, int4, offsets, wide)                                                       \
    static void unpack_##name(const phi_weight *weight, uint32_t block, uint32_t step,             \
                              uint32_t n_steps, uint16_t *out, size_t stride)                      \
    {                                                                                              \
        unpack_int(weight, block, step, n_steps, out, stride,                                      \
                   (phi_int_kind){int4, offsets, wide, 0});                                        \
    }
PHI_INT_KINDS(UNPACK_FN)

static const unpack_fn unpacks[2][2][2] = {
    {{unpack_int8, unpack_int8_wide}, {unpack_int8_offsets, unpack_int8_wide_offsets}},
    {{unpack_int4, unpack_int4_wide}, {unpack_int4_offsets, unpack_int4_wide_offsets}},
};

PHI_STAMP __m512 load_column(const uint8_t *codes, size_t col, phi_weight_kind kind)
{
    if (kind == PHI_WEIGHT_FP32) {
        return _mm512_loadu_ps((const void *)(codes + col * BLOCK * 4));
    }
    __m256i half = _mm256_loadu_si256((const __m256i *)(const void *)(codes + col * BLOCK * 2));
    return kind == PHI_WEIGHT_FP16
               ? _mm512_cvtph_ps(half)
               : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

PHI_STAMP void unpack_float(const phi_weight *weight, uint32_t block, uint32_t step,
                            uint32_t n_steps, uint16_t *out, size_t stride, phi_weight_kind kind)
{
    const uint8_t *codes = (const uint8_t *)weight->codes + block * weight->block_bytes;
    const size_t column = BLOCK * (kind == PHI_WEIGHT_FP32 ? 4 : 2);
    const int parts = kind == PHI_WEIGHT_FP32 ? 3 : kind == PHI_WEIGHT_FP16 ? 2 : 1;
    for (uint32_t s = step; s < step + n_steps; s++, out += (size_t)parts * stride) {
        for (uint32_t i = 0; i < STEP; i += 2) {
            uint32_t col = s * STEP + i;
            __m512 even = _mm512_setzero_ps();
            __m512 odd = even;
            _mm_prefetch((const char *)codes + col * column + 2 * AHEAD, _MM_HINT_T0);
            if (kind == PHI_WEIGHT_FP32) {
                _mm_prefetch((const char *)codes + col * column + 2 * AHEAD + 64, _MM_HINT_T0);
            }
            if (col < weight->cols) {
                even = load_column(codes, col, kind);
            }
            if (col + 1 < weight->cols) {
                odd = load_column(codes, (size_t)col + 1, kind);
            }
            phi_amx_store_pair(even, odd, parts, out + (size_t)i / 2 * 32, stride);
        }
    }
}

void phi_amx_unpack(const phi_weight *weight, uint32_t block, uint32_t step, uint32_t n_steps,
                    uint16_t *out, size_t stride)
{
    switch (weight->kind) {
    case PHI_WEIGHT_FP16:
        unpack_float(weight, block, step, n_steps, out, stride, PHI_WEIGHT_FP16);
        break;
    case PHI_WEIGHT_BF16:
        unpack_float(weight, block, step, n_steps, out, stride, PHI_WEIGHT_BF16);
        break;
    case PHI_WEIGHT_FP32:
        unpack_float(weight, block, step, n_steps, out, stride, PHI_WEIGHT_FP32);
        break;
    default:
        PHI_INT_KIND_OF(unpacks, weight)(weight, block, step, n_steps, out, stride);
    }
}

/* ---- activations ---- */

PHI_STAMP void pack_row(const float *x, uint32_t cols, int parts, uint16_t *out)
{
    for (uint32_t col = 0; col < cols; col += STEP, out += (size_t)parts * CELLS) {
        uint32_t left = cols - col;
        __m512 low = phi_amx_load_some(x + col, left);
        __m512 high = left > 16 ? phi_amx_load_some(x + col + 16, left - 16) : _mm512_setzero_ps();
        phi_amx_store_row(low, high, parts, out, CELLS);
    }
}

void phi_amx_bulk_pack(const float *x, uint32_t tile, const phi_bulk_act *act)
{
    size_t steps = (act->cols + STEP - 1) / STEP;
    uint16_t *out = act->values + tile * steps * act->parts * CELLS;
    for (uint32_t t = 0; t < PHI_BULK_TILE; t++) {
        size_t token = (size_t)tile * PHI_BULK_TILE + t;
        uint16_t *row = out + (size_t)t * STEP;
        if (token >= act->n_tok) {
            for (size_t i = 0; i < steps * act->parts; i++) {
                memset(row + i * CELLS, 0, STEP * sizeof *row);
            }
        } else if (act->parts == 1) {
            pack_row(x + token * act->cols, act->cols, 1, row);
        } else {
            PHI_ASSERT(act->parts == 3);
            pack_row(x + token * act->cols, act->cols, 3, row);
        }
    }
}
