/*
 * INT4 and INT8 products with the int8 matrix multiplication: an instruction multiplies eight
 * columns of two rows with those of two tokens. Zipping two words of a block gives the rows'
 * operand, tiles of eight tokens hold theirs ready. Codes are multiplied as they are stored,
 * unsigned. Fewer tokens than a tile take the dot product instructions.
 */
#include "engine/kernels/neon/int_tile.h"

#define TOKEN_PAIRS 4
/* Pairs of rows that are summed at a time, half a block. */
#define ROW_PAIRS 4

/* Eight columns of 2 * ROW_PAIRS rows, as they are stored: two words from `from` on. */
PHI_STAMP void zip_rows(const uint8_t *from, uint8x16_t *pairs)
{
    PHI_UNROLL
    for (int v = 0; v < ROW_PAIRS / 2; v++) {
        uint32x4_t a = vreinterpretq_u32_u8(vld1q_u8(from + (size_t)v * 16));
        uint32x4_t b = vreinterpretq_u32_u8(vld1q_u8(from + 64 + (size_t)v * 16));
        pairs[2 * v] = vreinterpretq_u8_u32(vzip1q_u32(a, b));
        pairs[2 * v + 1] = vreinterpretq_u8_u32(vzip2q_u32(a, b));
    }
}

/* Adds eight columns' products; x is the tokens' operand for them. */
PHI_STAMP void add_columns(const uint8x16_t *pairs, const int8_t *x, int32x4_t *acc)
{
    PHI_UNROLL
    for (int t = 0; t < TOKEN_PAIRS; t++) {
        int8x16_t tokens = vld1q_s8(x + (size_t)t * 16);
        PHI_UNROLL
        for (int r = 0; r < ROW_PAIRS; r++) {
            acc[t * ROW_PAIRS + r] = vusmmlaq_s32(acc[t * ROW_PAIRS + r], pairs[r], tokens);
        }
    }
}

/* The integer sums of halves [begin, end) of a unit, of 16 columns each. `codes` and `x` are the
 * unit's, from the first row on. */
PHI_STAMP void matrix_halves(const uint8_t *codes, const int8_t *x, int begin, int end, int is_int4,
                             int32x4_t *acc)
{
    PHI_UNROLL
    for (int step = 0; step < 2; step++) {
        uint8x16_t stored[ROW_PAIRS];
        PHI_UNROLL
        for (int half = begin; half < end; half++) {
            const int8_t *tokens = x + (size_t)(half * 2 + step) * TOKEN_PAIRS * 16;
            uint8x16_t pairs[ROW_PAIRS];
            if (!is_int4 || half == begin) {
                zip_rows(codes + (size_t)((is_int4 ? 0 : half * 4) + step * 2) * 64, stored);
            }
            PHI_UNROLL
            for (int r = 0; r < ROW_PAIRS; r++) {
                pairs[r] = !is_int4 ? stored[r]
                           : half   ? vshrq_n_u8(stored[r], 4)
                                    : vandq_u8(stored[r], vdupq_n_u8(15));
            }
            add_columns(pairs, tokens, acc);
        }
    }
}

/* Two tokens' numbers in the order of a result: row 0, then row 1, both tokens each. */
PHI_STAMP float32x4_t pair_floats(const float *from)
{
    float32x2_t two = vld1_f32(from);
    return vcombine_f32(two, two);
}

PHI_STAMP int32x4_t pair_ints(const int32_t *from)
{
    int32x2_t two = vld1_s32(from);
    return vcombine_s32(two, two);
}

/* Scales, or offsets, of eight rows, each twice, as pairs of rows. */
PHI_STAMP void pair_rows(const uint8_t *from, phi_int_kind kind, float32x4_t *pairs)
{
    PHI_UNROLL
    for (int v = 0; v < ROW_PAIRS / 2; v++) {
        float32x4_t rows = load_side(from, (size_t)v * 4, kind);
        pairs[2 * v] = vzip1q_f32(rows, rows);
        pairs[2 * v + 1] = vzip2q_f32(rows, rows);
    }
}

/* One unit, or its half `part` if that is a run of its own, for half `side` of the rows: the
 * integer sums, scaled and added to the outputs. */
PHI_STAMP void matrix_run(const block_planes *planes, const tile_view *view, size_t unit,
                          size_t side, int part, phi_int_kind kind, float32x4_t *sums)
{
    int32x4_t dots[TOKEN_PAIRS * ROW_PAIRS];
    float32x4_t scale[ROW_PAIRS];
    float32x4_t offset[ROW_PAIRS];
    const size_t first = side * ROW_PAIRS * 2 + (size_t)part * BLOCK;
    const phi_sides sides = phi_sides_at(planes->sides, phi_side_bytes(first, kind), kind);
    const size_t run =
        (kind.by_16 ? unit * 2 + (size_t)part : unit) * (size_t)PHI_NEON_MATRIX_TOKENS;
    PHI_UNROLL
    for (int i = 0; i < TOKEN_PAIRS * ROW_PAIRS; i++) {
        dots[i] = pair_ints(view->starts + run + (size_t)(i / ROW_PAIRS) * 2);
    }
    matrix_halves(planes->codes + side * ROW_PAIRS * 8,
                  view->codes + unit * UNIT * PHI_NEON_MATRIX_TOKENS, part,
                  kind.by_16 ? part + 1 : 2, kind.is_int4, dots);
    pair_rows(sides.scales, kind, scale);
    if (kind.has_offsets) {
        pair_rows(sides.offsets, kind, offset);
    }
    PHI_UNROLL
    for (int i = 0; i < TOKEN_PAIRS * ROW_PAIRS; i++) {
        const size_t at = run + (size_t)(i / ROW_PAIRS) * 2;
        float32x4_t s = vmulq_f32(scale[i % ROW_PAIRS], pair_floats(view->scales + at));
        sums[i] = vfmaq_f32(sums[i], vcvtq_f32_s32(dots[i]), s);
        if (kind.has_offsets) {
            sums[i] = vfmaq_f32(sums[i], offset[i % ROW_PAIRS], pair_floats(view->shifts + at));
        }
    }
}

/* A block times a full tile: half of the rows at a time, so that their integer sums stay in
 * registers; the outputs' sums are in memory between one unit and the next. */
PHI_STAMP void matrix_tile(const int_call *call, uint32_t block, uint32_t first, phi_int_kind kind)
{
    const phi_weight *weight = call->weight;
    const tile_view view = view_of(call->act, first, PHI_NEON_MATRIX_TOKENS, 0);
    const size_t n_units = weight->cols / UNIT;
    block_planes planes = planes_of(weight, block, kind);
    float32x4_t sums[2][TOKEN_PAIRS * ROW_PAIRS];
    memset(sums, 0, sizeof sums);
    for (size_t unit = 0; unit < n_units; unit++) {
        fetch_unit(planes.codes, kind.is_int4);
        for (size_t side = 0; side < 2; side++) {
            matrix_run(&planes, &view, unit, side, 0, kind, sums[side]);
            if (kind.by_16) {
                matrix_run(&planes, &view, unit, side, 1, kind, sums[side]);
            }
        }
        next_unit(weight, &planes, kind);
    }
    for (size_t t = 0; t < PHI_NEON_MATRIX_TOKENS; t++) {
        float32x4_t rows[ROW_VECTORS];
        for (size_t v = 0; v < ROW_VECTORS; v++) {
            const float32x4_t *pairs = &sums[v / 2][t / 2 * ROW_PAIRS + v % 2 * 2];
            rows[v] = t % 2 ? vuzp2q_f32(pairs[0], pairs[1]) : vuzp1q_f32(pairs[0], pairs[1]);
        }
        store_rows(weight, block, rows, call->y + (first + t) * call->ldy);
    }
}

PHI_STAMP void matrix_tokens(const int_call *call, uint32_t block, uint32_t first, uint32_t width,
                             phi_int_kind kind)
{
    if (width == PHI_NEON_MATRIX_TOKENS) {
        matrix_tile(call, block, first, kind);
    } else {
        dot_tokens(call, block, first, width, kind);
    }
}

#define TILE_FNS(name, is_int4, has_offsets, is_wide)                                              \
    INT_TILE_FNS(matrix_tokens, name, is_int4, has_offsets, is_wide)

PHI_INT_KINDS(TILE_FNS)
static const int_tile_fn tile_fns[2][2][2][2] = {PHI_INT_KINDS(INT_TILE_PLACE)};

void phi_neon_i8mm_rows_int(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                            const phi_act *act, float *y, size_t ldy)
{
    const int_call call = {weight, act, y, ldy};
    walk_blocks(&call, block_begin, block_end, tile_fns);
}
