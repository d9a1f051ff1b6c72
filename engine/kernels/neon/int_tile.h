/*
 * Purpose: INT4 and INT8 products of a block's 16 rows with one to four tokens by the dot product
 *          instructions, and the walk over blocks and tokens: what both NEON sets are made of.
 * Owns:    nothing. Threads: any. Errors: none.
 * Limits:  only for files that are compiled with the dot product extension.
 *
 * A vector holds four columns of four rows. One instruction adds their products with four codes of
 * one token, which it takes from a lane of a vector of four tokens. Codes are unpacked in
 * registers, once for all tokens of a tile.
 */
#ifndef PHI_ENGINE_KERNELS_NEON_INT_TILE_H
#define PHI_ENGINE_KERNELS_NEON_INT_TILE_H

#ifdef __ARM_FEATURE_DOTPROD

#include "base/assert.h"
#include "engine/kernels/int_kind.h"
#include "engine/kernels/neon/neon.h"

#include <arm_neon.h>
#include <string.h>

#define BLOCK PHI_WEIGHT_BLOCK
/* Vectors of rows in a block. */
#define ROW_VECTORS 4
/* Columns of a unit: what INT4's low and high nibbles make up together. */
#define UNIT 32U
/* How far ahead of their use codes are fetched, in bytes. */
#define AHEAD 2048
/* Codes of blocks, and of tokens, that share the second-level cache while a slice is computed. */
#define BLOCKS_BYTES (256U << 10)
#define TOKENS_BYTES (256U << 10)

typedef struct int_call {
    const phi_weight *weight;
    const phi_act *act;
    float *y;
    size_t ldy;
} int_call;

/* A block times all `width` tokens of the activation tile that begins at token `first`. */
typedef void (*int_tile_fn)(const int_call *call, uint32_t block, uint32_t first, uint32_t width);

/* Where the planes of one block stand; next_unit() walks them. */
typedef struct block_planes {
    const uint8_t *codes;
    phi_sides sides;
    size_t left_in_group; /* units */
} block_planes;

/* Some tokens of an activation tile: words and runs of each are `width` apart. */
typedef struct tile_view {
    const int8_t *codes;
    const float *scales;
    const int32_t *starts;
    const float *shifts;
    size_t width;
} tile_view;

PHI_STAMP block_planes planes_of(const phi_weight *weight, uint32_t block, phi_int_kind kind)
{
    return (block_planes){
        .codes = (const uint8_t *)weight->codes + block * weight->block_bytes,
        .sides = phi_sides_of(weight, block, kind),
        .left_in_group = kind.by_16 ? 1 : weight->group / UNIT,
    };
}

PHI_STAMP void next_unit(const phi_weight *weight, block_planes *planes, phi_int_kind kind)
{
    planes->codes += kind.is_int4 ? 256 : 512;
    if (--planes->left_in_group == 0) {
        size_t bytes = phi_side_bytes(kind.by_16 ? 2 * BLOCK : BLOCK, kind);
        planes->left_in_group = kind.by_16 ? 1 : weight->group / UNIT;
        planes->sides = phi_sides_at(planes->sides, bytes, kind);
    }
}

PHI_STAMP void fetch_unit(const uint8_t *codes, int is_int4)
{
    const size_t unit_bytes = is_int4 ? 256 : 512;
    PHI_UNROLL
    for (size_t line = 0; line < unit_bytes; line += 64) {
        __builtin_prefetch(codes + AHEAD + line);
    }
}

/* Scales, or offsets, of four rows, the first of them row `row` from those at `from`. */
PHI_STAMP float32x4_t load_side(const uint8_t *from, size_t row, phi_int_kind kind)
{
    from += phi_side_bytes(row, kind);
    return kind.is_wide
               ? vld1q_f32((const float *)(const void *)from)
               : vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *)(const void *)from)));
}

/* The lane has to be a constant in the source. */
PHI_STAMP int32x4_t dot_lane(int32x4_t acc, int8x16_t w, int8x16_t x, int lane)
{
    switch (lane) {
    case 0:
        return vdotq_laneq_s32(acc, w, x, 0);
    case 1:
        return vdotq_laneq_s32(acc, w, x, 1);
    case 2:
        return vdotq_laneq_s32(acc, w, x, 2);
    default:
        return vdotq_laneq_s32(acc, w, x, 3);
    }
}

/* Adds four columns' products of `vectors` times four rows. */
PHI_STAMP void add_word(const int8x16_t *w, const tile_view *view, size_t word, int vectors,
                        int n_tok, int32x4_t *acc)
{
    const int8_t *codes = view->codes + word * view->width * 4;
    int8x16_t x = vdupq_n_s8(0);
    if (n_tok == 4) {
        x = vld1q_s8(codes);
    }
    PHI_UNROLL
    for (int t = 0; t < n_tok; t++) {
        if (n_tok < 4) {
            int32_t four;
            memcpy(&four, codes + (size_t)t * 4, sizeof four);
            x = vreinterpretq_s8_s32(vdupq_n_s32(four));
        }
        PHI_UNROLL
        for (int v = 0; v < vectors; v++) {
            acc[t * vectors + v] = dot_lane(acc[t * vectors + v], w[v], x, n_tok == 4 ? t : 0);
        }
    }
}

/* The integer sums of a unit for rows [4 * first, 4 * (first + vectors)): the first 16 columns' go
 * to `acc`, the others' to `second`. */
PHI_STAMP void dot_unit(const uint8_t *codes, const tile_view *view, size_t unit, int first,
                        int vectors, int is_int4, int n_tok, int32x4_t *acc, int32x4_t *second)
{
    PHI_UNROLL
    for (size_t j = 0; j < 4; j++) {
        int8x16_t low[ROW_VECTORS];
        int8x16_t high[ROW_VECTORS];
        PHI_UNROLL
        for (int v = 0; v < vectors; v++) {
            const uint8_t *from = codes + j * 64 + (size_t)(first + v) * 16;
            uint8x16_t raw = vld1q_u8(from);
            if (is_int4) {
                low[v] = vreinterpretq_s8_u8(vandq_u8(raw, vdupq_n_u8(15)));
                high[v] = vreinterpretq_s8_u8(vshrq_n_u8(raw, 4));
            } else {
                /* q + 128 back to q. */
                low[v] = vreinterpretq_s8_u8(veorq_u8(raw, vdupq_n_u8(128)));
                high[v] =
                    vreinterpretq_s8_u8(veorq_u8(vld1q_u8(from + (size_t)4 * 64), vdupq_n_u8(128)));
            }
        }
        add_word(low, view, unit * 8 + j, vectors, n_tok, acc);
        add_word(high, view, unit * 8 + j + 4, vectors, n_tok, second);
    }
}

/* Scales the integer sums of run `run` and adds them to the outputs. `sides` are those of the first
 * of the rows. */
PHI_STAMP void add_run(const int32x4_t *dots, const tile_view *view, size_t run, phi_sides sides,
                       phi_int_kind kind, int vectors, int n_tok, float32x4_t *sums)
{
    float32x4_t scale[ROW_VECTORS];
    float32x4_t offset[ROW_VECTORS];
    PHI_UNROLL
    for (int v = 0; v < vectors; v++) {
        scale[v] = load_side(sides.scales, (size_t)v * 4, kind);
        offset[v] =
            kind.has_offsets ? load_side(sides.offsets, (size_t)v * 4, kind) : vdupq_n_f32(0.0F);
    }
    PHI_UNROLL
    for (int t = 0; t < n_tok; t++) {
        size_t at = run * view->width + (size_t)t;
        PHI_UNROLL
        for (int v = 0; v < vectors; v++) {
            float32x4_t *sum = &sums[t * ROW_VECTORS + v];
            float32x4_t s = vmulq_n_f32(scale[v], view->scales[at]);
            *sum = vfmaq_f32(*sum, vcvtq_f32_s32(dots[t * vectors + v]), s);
            if (kind.has_offsets) {
                *sum = vfmaq_n_f32(*sum, offset[v], view->shifts[at]);
            }
        }
    }
}

/* Where the sums of run `run` start: INT8 codes are centred before they are multiplied. */
PHI_STAMP void start_dots(const tile_view *view, size_t run, int vectors, int is_int4, int n_tok,
                          int32x4_t *dots)
{
    PHI_UNROLL
    for (int i = 0; i < vectors * n_tok; i++) {
        dots[i] =
            vdupq_n_s32(is_int4 ? view->starts[run * view->width + (size_t)(i / vectors)] : 0);
    }
}

/* One unit of `vectors` times four rows. */
PHI_STAMP void dot_rows(const block_planes *planes, const tile_view *view, size_t unit, int first,
                        int vectors, phi_int_kind kind, int n_tok, float32x4_t *sums)
{
    /* Room for two runs; one token's sums go two ways too, so that enough are under way. */
    int32x4_t dots[16];
    const int count = vectors * n_tok;
    const int split = kind.by_16 || n_tok == 1;
    const size_t run = kind.by_16 ? unit * 2 : unit;
    const phi_sides sides =
        phi_sides_at(planes->sides, phi_side_bytes((size_t)first * 4, kind), kind);
    start_dots(view, run, vectors, kind.is_int4, n_tok, dots);
    if (kind.by_16) {
        start_dots(view, run + 1, vectors, kind.is_int4, n_tok, dots + count);
    } else if (split) {
        start_dots(view, run, vectors, 0, n_tok, dots + count);
    }
    dot_unit(planes->codes, view, unit, first, vectors, kind.is_int4, n_tok, dots,
             split ? dots + count : dots);
    if (split && !kind.by_16) {
        PHI_UNROLL
        for (int i = 0; i < count; i++) {
            dots[i] = vaddq_s32(dots[i], dots[count + i]);
        }
    }
    add_run(dots, view, run, sides, kind, vectors, n_tok, sums + first);
    if (kind.by_16) {
        add_run(dots + count, view, run + 1, phi_sides_at(sides, phi_side_bytes(BLOCK, kind), kind),
                kind, vectors, n_tok, sums + first);
    }
}

/* Four vectors as 16 rows of y, or as many as there are. */
PHI_STAMP void store_rows(const phi_weight *weight, uint32_t block, const float32x4_t *sums,
                          float *y)
{
    uint32_t left = weight->rows - block * BLOCK;
    float *to = y + (size_t)block * BLOCK;
    float rows[BLOCK];
    PHI_UNROLL
    for (size_t v = 0; v < ROW_VECTORS; v++) {
        vst1q_f32((left >= BLOCK ? to : rows) + v * 4, sums[v]);
    }
    if (left < BLOCK) {
        memcpy(to, rows, left * sizeof *rows);
    }
}

/* One block times tokens [token, token + n_tok) of an activation tile. */
PHI_STAMP void dot_tile(const int_call *call, uint32_t block, const tile_view *view, uint32_t token,
                        phi_int_kind kind, int n_tok)
{
    const phi_weight *weight = call->weight;
    const size_t n_units = weight->cols / UNIT;
    /* Two tokens' sums of all rows fit the registers, four tokens' of half of them. */
    const int vectors = n_tok <= 2 ? 4 : 2;
    block_planes planes = planes_of(weight, block, kind);
    float32x4_t sums[4 * ROW_VECTORS];
    PHI_UNROLL
    for (int i = 0; i < n_tok * ROW_VECTORS; i++) {
        sums[i] = vdupq_n_f32(0.0F);
    }
    for (size_t unit = 0; unit < n_units; unit++) {
        fetch_unit(planes.codes, kind.is_int4);
        PHI_UNROLL
        for (int first = 0; first < ROW_VECTORS; first += vectors) {
            dot_rows(&planes, view, unit, first, vectors, kind, n_tok, sums);
        }
        next_unit(weight, &planes, kind);
    }
    PHI_UNROLL
    for (int t = 0; t < n_tok; t++) {
        store_rows(weight, block, sums + (size_t)t * ROW_VECTORS,
                   call->y + (token + (size_t)t) * call->ldy);
    }
}

/* Tokens [first + from, first + width) of the activation tile at `first`. */
PHI_STAMP tile_view view_of(const phi_act *act, uint32_t first, uint32_t width, uint32_t from)
{
    size_t side = first * (size_t)(act->cols / act->run) + from;
    return (tile_view){
        .codes = act->codes + (size_t)first * act->cols + (size_t)from * 4,
        .scales = act->scales + side,
        .starts = act->starts + side,
        .shifts = act->shifts + side,
        .width = width,
    };
}

/* An int_tile_fn for codes in words of four columns, stamped out for a kind. */
PHI_STAMP void dot_tokens(const int_call *call, uint32_t block, uint32_t first, uint32_t width,
                          phi_int_kind kind)
{
    for (uint32_t from = 0; from < width; from += 4) {
        const tile_view view = view_of(call->act, first, width, from);
        const uint32_t token = first + from;
        switch (width - from) {
        case 1:
            dot_tile(call, block, &view, token, kind, 1);
            break;
        case 2:
            dot_tile(call, block, &view, token, kind, 2);
            break;
        case 3:
            dot_tile(call, block, &view, token, kind, 3);
            break;
        default:
            dot_tile(call, block, &view, token, kind, 4);
            break;
        }
    }
}

/* The int_tile_fns of a kind of weights, by runs of 32 and of 16; TILE is what dot_tokens is. */
#define INT_TILE_FN(name, TILE, is_int4, has_offsets, is_wide, by_16)                              \
    static void name(const int_call *call, uint32_t block, uint32_t first, uint32_t width)         \
    {                                                                                              \
        TILE(call, block, first, width, (phi_int_kind){is_int4, has_offsets, is_wide, by_16});     \
    }
#define INT_TILE_FNS(TILE, name, is_int4, has_offsets, is_wide)                                    \
    INT_TILE_FN(name##_by_32, TILE, is_int4, has_offsets, is_wide, 0)                              \
    INT_TILE_FN(name##_by_16, TILE, is_int4, has_offsets, is_wide, 1)
#define INT_TILE_PLACE(name, is_int4, has_offsets, is_wide)                                        \
    [is_int4][has_offsets][is_wide] = {name##_by_32, name##_by_16},

/* rows_int of kernels.h. */
PHI_STAMP void walk_blocks(const int_call *call, uint32_t block_begin, uint32_t block_end,
                           const int_tile_fn fns[2][2][2][2])
{
    const phi_weight *weight = call->weight;
    const phi_act *act = call->act;
    PHI_ASSERT(weight->group && weight->cols == act->cols && weight->group % act->run == 0 &&
               act->centre == phi_weight_centre(weight));
    int_tile_fn fn = PHI_INT_KIND_OF(fns, weight)[act->run == 16];
    uint32_t blocks = (uint32_t)(BLOCKS_BYTES / weight->block_bytes) + 1;
    uint32_t tokens = (TOKENS_BYTES / act->cols / act->tile + 1) * act->tile;
    for (uint32_t begin = block_begin; begin < block_end; begin += blocks) {
        uint32_t end = block_end - begin < blocks ? block_end : begin + blocks;
        for (uint32_t token = 0; token < act->n_tok; token += tokens) {
            uint32_t last = act->n_tok - token < tokens ? act->n_tok : token + tokens;
            for (uint32_t block = begin; block < end; block++) {
                for (uint32_t first = token; first < last; first += act->tile) {
                    fn(call, block, first, last - first < act->tile ? last - first : act->tile);
                }
            }
        }
    }
}

#endif
#endif
