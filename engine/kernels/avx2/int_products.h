/*
 * Purpose: INT4 and INT8 products on 256-bit vectors, for the files that compile them: with AVX2's
 *          multiply-adds, or with AVX-VNNI's where that is switched on.
 * Owns:    nothing. Threads: any. Errors: none.
 * Limits:  only for files that are compiled with AVX2, FMA and F16C; kernels.h says what
 *          phi_int_products does.
 *
 * A block's 16 rows are two vectors, of four columns each. One multiply-add takes four codes of a
 * token, which memory broadcasts; codes are unpacked in registers, once for all tokens of a tile.
 * AVX2 adds the products of two columns in 16 bits: 2 * 15 * 127 of one word of INT4, so that the
 * eight words of a run, 30480, can be summed before anything is widened. INT8 is taken as two
 * nibbles for the same reason: q + 128 = 16 high + low.
 */
#ifndef PHI_ENGINE_KERNELS_AVX2_INT_PRODUCTS_H
#define PHI_ENGINE_KERNELS_AVX2_INT_PRODUCTS_H

#ifdef __AVX2__

#include "base/assert.h"
#include "engine/kernels/int_kind.h"
#include "engine/kernels/kernels.h"

#include <immintrin.h>
#include <string.h>

/* Vectors of a block, and their rows. */
#define PHI_INT_VECTORS 2
#define PHI_INT_LANES 8U
/* Tokens of the largest tile: 16 registers hold its integer sums, two vectors of codes and one of a
 * token's. */
#define PHI_INT_TOKENS 6
/* Bytes of a line: four columns of a block. */
#define PHI_INT_LINE 64U
/* Columns of a unit, what INT4's low and high nibbles make up together, and its words. */
#define PHI_INT_UNIT 32U
#define PHI_INT_WORDS 8U
/* How far ahead of their use codes are fetched, in bytes: what one core needs in flight. */
#define PHI_INT_AHEAD 2048
/* Codes of blocks, and of tokens, that share the second-level cache while a slice is computed. */
#define PHI_INT_BLOCKS_BYTES (512U << 10)
#define PHI_INT_TOKENS_BYTES (768U << 10)

typedef enum int_part {
    INT_PART_LOW,  /* the low nibbles */
    INT_PART_HIGH, /* the high nibbles */
    INT_PART_BYTE, /* whole bytes: AVX-VNNI only */
} int_part;

/* What a tile is stamped out for. */
typedef struct int_shape {
    phi_int_kind kind;
    int phase; /* tokens of the first quad before the tile's */
    int width; /* tokens of a quad: 4, unless it is the last, narrower one */
    int n_tok;
} int_shape;

typedef struct int_call {
    const phi_weight *weight;
    const phi_act *act;
    float *y;
    size_t ldy;
} int_call;

/* Where a tile reads, from the quad that it begins in. */
typedef struct int_view {
    const int8_t *codes;
    const float *scales;
    const int32_t *starts;
    const float *shifts;
    size_t quad_words; /* from one quad to the next */
    size_t quad_runs;
} int_view;

static inline int_view int_view_of(const phi_act *act, uint32_t token)
{
    size_t n_runs = act->cols / act->run;
    size_t side = token * n_runs;
    return (int_view){
        .codes = act->codes + (size_t)token * act->cols,
        .scales = act->scales + side,
        .starts = act->starts + side,
        .shifts = act->shifts + side,
        .quad_words = (size_t)PHI_ACT_QUAD * act->cols / 4,
        .quad_runs = PHI_ACT_QUAD * n_runs,
    };
}

/* Where token `t` of a tile has item `item`, quads being `quad` items apart. */
PHI_STAMP size_t int_place(int_shape shape, int t, size_t item, size_t quad)
{
    return (size_t)((shape.phase + t) / shape.width) * quad + item * (size_t)shape.width +
           (size_t)((shape.phase + t) % shape.width);
}

PHI_STAMP __m256i int_load(const uint8_t *from, int_part part)
{
    const __m256i low = _mm256_set1_epi8(15);
    __m256i bytes = _mm256_loadu_si256((const __m256i *)(const void *)from);
    if (part == INT_PART_LOW) {
        return _mm256_and_si256(bytes, low);
    }
    return part == INT_PART_HIGH ? _mm256_and_si256(_mm256_srli_epi16(bytes, 4), low) : bytes;
}

PHI_STAMP __m256i int_multiply_add(__m256i acc, __m256i w, __m256i a)
{
#ifdef __AVXVNNI__
    return _mm256_dpbusd_avx_epi32(acc, w, a);
#else
    acc = _mm256_add_epi16(acc, _mm256_maddubs_epi16(w, a));
    /* Keeps the compiler from making all products of a run first and adding them in a tree, for
     * which it has by far too few registers. */
    __asm__("" : "+x"(acc));
    return acc;
#endif
}

/* Adds the products of `n` lines with the words from `word` on to acc [n_tok][2]. */
PHI_STAMP void int_add_lines(const uint8_t *codes, int_part part, size_t n, const int_view *view,
                             size_t word, int_shape shape, __m256i *acc)
{
    PHI_UNROLL
    for (size_t j = 0; j < n; j++) {
        __m256i w0 = int_load(codes + j * PHI_INT_LINE, part);
        __m256i w1 = int_load(codes + j * PHI_INT_LINE + 32, part);
        PHI_UNROLL
        for (int t = 0; t < shape.n_tok; t++) {
            int four;
            memcpy(&four, view->codes + int_place(shape, t, word + j, view->quad_words) * 4, 4);
            __m256i a = _mm256_set1_epi32(four);
            acc[2 * t] = int_multiply_add(acc[2 * t], w0, a);
            acc[2 * t + 1] = int_multiply_add(acc[2 * t + 1], w1, a);
        }
    }
}

#ifdef __AVXVNNI__

/* The integer sums [n_tok][2] of run `in_unit` (0 or 1, with runs of 16) of unit `unit`. */
PHI_STAMP void int_dot_run(const uint8_t *codes, const int_view *view, size_t unit, size_t in_unit,
                           int_shape shape, __m256i *dots)
{
    const size_t word = unit * PHI_INT_WORDS;
    const size_t run = shape.kind.by_16 ? unit * 2 + in_unit : unit;
    const size_t first = in_unit * 4;
    PHI_UNROLL
    for (int t = 0; t < shape.n_tok; t++) {
        int start = view->starts[int_place(shape, t, run, view->quad_runs)];
        dots[2 * t] = dots[2 * t + 1] = _mm256_set1_epi32(start);
    }
    if (!shape.kind.is_int4) {
        int_add_lines(codes + first * PHI_INT_LINE, INT_PART_BYTE,
                      shape.kind.by_16 ? 4 : PHI_INT_WORDS, view, word + first, shape, dots);
        return;
    }
    if (in_unit == 0) {
        int_add_lines(codes, INT_PART_LOW, 4, view, word, shape, dots);
    }
    if (!shape.kind.by_16 || in_unit == 1) {
        int_add_lines(codes, INT_PART_HIGH, 4, view, word + 4, shape, dots);
    }
}

#else

PHI_STAMP void int_clear(int_shape shape, __m256i *acc)
{
    PHI_UNROLL
    for (int i = 0; i < 2 * shape.n_tok; i++) {
        acc[i] = _mm256_setzero_si256();
    }
}

/* dots = where the run's sums start + acc, widened. */
PHI_STAMP void int_widen(const __m256i *acc, const int_view *view, size_t run, int_shape shape,
                         __m256i *dots)
{
    PHI_UNROLL
    for (int t = 0; t < shape.n_tok; t++) {
        __m256i start = _mm256_set1_epi32(view->starts[int_place(shape, t, run, view->quad_runs)]);
        for (int i = 2 * t; i < 2 * t + 2; i++) {
            dots[i] = _mm256_add_epi32(start, _mm256_madd_epi16(acc[i], _mm256_set1_epi16(1)));
        }
    }
}

/* The integer sums [n_tok][2] of run `in_unit` (0 or 1, with runs of 16) of unit `unit`. */
PHI_STAMP void int_dot_run(const uint8_t *codes, const int_view *view, size_t unit, size_t in_unit,
                           int_shape shape, __m256i *dots)
{
    const size_t n = shape.kind.by_16 ? 4 : PHI_INT_WORDS;
    const size_t word = unit * PHI_INT_WORDS;
    const size_t run = shape.kind.by_16 ? unit * 2 + in_unit : unit;
    const size_t first = in_unit * 4;
    const uint8_t *lines = codes + first * PHI_INT_LINE;
    __m256i acc[2 * PHI_INT_TOKENS];
    int_clear(shape, acc);
    if (!shape.kind.is_int4) {
        int_add_lines(lines, INT_PART_LOW, n, view, word + first, shape, acc);
    } else if (in_unit == 0) {
        int_add_lines(codes, INT_PART_LOW, 4, view, word, shape, acc);
    }
    if (shape.kind.is_int4 && (!shape.kind.by_16 || in_unit == 1)) {
        int_add_lines(codes, INT_PART_HIGH, 4, view, word + 4, shape, acc);
    }
    int_widen(acc, view, run, shape, dots);
    if (shape.kind.is_int4) {
        return;
    }
    int_clear(shape, acc);
    int_add_lines(lines, INT_PART_HIGH, n, view, word + first, shape, acc);
    PHI_UNROLL
    for (int i = 0; i < 2 * shape.n_tok; i++) {
        dots[i] = _mm256_add_epi32(dots[i], _mm256_madd_epi16(acc[i], _mm256_set1_epi16(16)));
    }
}

#endif

/* Scales, or offsets, of vector `v` of a block. */
PHI_STAMP __m256 int_load_side(const uint8_t *from, int v, phi_int_kind kind)
{
    from += phi_side_bytes((size_t)v * PHI_INT_LANES, kind);
    return kind.is_wide ? _mm256_loadu_ps((const float *)(const void *)from)
                        : _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)from));
}

/* Scales the integer sums of run `run` and adds them to sums [n_tok][2]. */
PHI_STAMP void int_add_run(const __m256i *dots, const int_view *view, size_t run, phi_sides sides,
                           int_shape shape, __m256 *sums)
{
    PHI_UNROLL
    for (int v = 0; v < PHI_INT_VECTORS; v++) {
        __m256 scale = int_load_side(sides.scales, v, shape.kind);
        __m256 offset = shape.kind.has_offsets ? int_load_side(sides.offsets, v, shape.kind)
                                               : _mm256_setzero_ps();
        PHI_UNROLL
        for (int t = 0; t < shape.n_tok; t++) {
            size_t at = int_place(shape, t, run, view->quad_runs);
            int i = 2 * t + v;
            __m256 s = _mm256_mul_ps(scale, _mm256_broadcast_ss(&view->scales[at]));
            sums[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[i]), s, sums[i]);
            if (shape.kind.has_offsets) {
                sums[i] = _mm256_fmadd_ps(offset, _mm256_broadcast_ss(&view->shifts[at]), sums[i]);
            }
        }
    }
}

/* The first `left` of a block's rows, of one token. */
PHI_STAMP void int_store(float *y, __m256 low, __m256 high, uint32_t left)
{
    if (left >= PHI_WEIGHT_BLOCK) {
        _mm256_storeu_ps(y, low);
        _mm256_storeu_ps(y + PHI_INT_LANES, high);
        return;
    }
    float rows[PHI_WEIGHT_BLOCK];
    _mm256_storeu_ps(rows, low);
    _mm256_storeu_ps(rows + PHI_INT_LANES, high);
    memcpy(y, rows, left * sizeof *y);
}

/* One block times tokens [token, token + n_tok). */
PHI_STAMP void int_tile(const int_call *call, uint32_t block, uint32_t token, int_shape shape)
{
    const phi_weight *weight = call->weight;
    const int_view view = int_view_of(call->act, token - (uint32_t)shape.phase);
    const size_t unit_bytes = PHI_INT_LINE * (shape.kind.is_int4 ? 4 : 8);
    const size_t n_units = weight->cols / PHI_INT_UNIT;
    const size_t units_per_group = shape.kind.by_16 ? 1 : weight->group / PHI_INT_UNIT;
    const size_t group_bytes = phi_side_bytes(PHI_WEIGHT_BLOCK, shape.kind);
    const uint8_t *codes = (const uint8_t *)weight->codes + block * weight->block_bytes;
    phi_sides sides = phi_sides_of(weight, block, shape.kind);
    size_t left_in_group = units_per_group;
    __m256 sums[2 * PHI_INT_TOKENS];
    PHI_UNROLL
    for (int i = 0; i < 2 * shape.n_tok; i++) {
        sums[i] = _mm256_setzero_ps();
    }
    for (size_t unit = 0; unit < n_units; unit++, codes += unit_bytes) {
        __m256i dots[2 * PHI_INT_TOKENS];
        if (shape.n_tok <= 4) {
            PHI_UNROLL
            for (size_t line = 0; line < unit_bytes; line += PHI_INT_LINE) {
                _mm_prefetch((const char *)codes + PHI_INT_AHEAD + line, _MM_HINT_T0);
            }
        }
        int_dot_run(codes, &view, unit, 0, shape, dots);
        int_add_run(dots, &view, shape.kind.by_16 ? unit * 2 : unit, sides, shape, sums);
        if (shape.kind.by_16) {
            int_dot_run(codes, &view, unit, 1, shape, dots);
            int_add_run(dots, &view, unit * 2 + 1, phi_sides_at(sides, group_bytes, shape.kind),
                        shape, sums);
        }
        if (--left_in_group == 0) {
            left_in_group = units_per_group;
            sides = phi_sides_at(sides, (shape.kind.by_16 ? 2 : 1) * group_bytes, shape.kind);
        }
    }
    float *y = call->y + token * call->ldy + (size_t)block * PHI_WEIGHT_BLOCK;
    PHI_UNROLL
    for (int t = 0; t < shape.n_tok; t++) {
        int_store(y + (size_t)t * call->ldy, sums[2 * t], sums[2 * t + 1],
                  weight->rows - block * PHI_WEIGHT_BLOCK);
    }
}

/* A block times tokens [token, end), `token` being the first of a quad. Three quads are two tiles
 * of six tokens. */
PHI_STAMP void int_block(const int_call *call, uint32_t block, uint32_t token, uint32_t end,
                         phi_int_kind kind)
{
    for (; token + 12 <= end; token += 12) {
        int_tile(call, block, token, (int_shape){kind, 0, 4, 6});
        int_tile(call, block, token + 6, (int_shape){kind, 2, 4, 6});
    }
    for (; token + 4 <= end; token += 4) {
        int_tile(call, block, token, (int_shape){kind, 0, 4, 4});
    }
    if (end - token == 3) {
        int_tile(call, block, token, (int_shape){kind, 0, 3, 3});
    } else if (end - token == 2) {
        int_tile(call, block, token, (int_shape){kind, 0, 2, 2});
    } else if (end - token == 1) {
        int_tile(call, block, token, (int_shape){kind, 0, 1, 1});
    }
}

typedef void (*int_block_fn)(const int_call *call, uint32_t block, uint32_t token, uint32_t end);

/* By runs of 32 and of 16. */
#define PHI_INT_BLOCK_FN(name, is_int4, has_offsets, is_wide, by_16)                               \
    static void name(const int_call *call, uint32_t block, uint32_t token, uint32_t end)           \
    {                                                                                              \
        int_block(call, block, token, end, (phi_int_kind){is_int4, has_offsets, is_wide, by_16});  \
    }
#define PHI_INT_BLOCK_FNS(name, is_int4, has_offsets, is_wide)                                     \
    PHI_INT_BLOCK_FN(name##_by_32, is_int4, has_offsets, is_wide, 0)                               \
    PHI_INT_BLOCK_FN(name##_by_16, is_int4, has_offsets, is_wide, 1)
#define PHI_INT_BLOCK_PLACE(name, is_int4, has_offsets, is_wide)                                   \
    [is_int4][has_offsets][is_wide] = {name##_by_32, name##_by_16},

PHI_INT_KINDS(PHI_INT_BLOCK_FNS)

/* What a table's rows_int is. */
static inline void phi_int_products(const int_call *call, uint32_t block_begin, uint32_t block_end)
{
    static const int_block_fn fns[2][2][2][2] = {PHI_INT_KINDS(PHI_INT_BLOCK_PLACE)};
    const phi_weight *weight = call->weight;
    const phi_act *act = call->act;
    PHI_ASSERT(weight->group && weight->cols == act->cols && weight->group % act->run == 0 &&
               act->centre == phi_weight_centre(weight));
    int_block_fn fn = PHI_INT_KIND_OF(fns, weight)[act->run == 16];
    uint32_t blocks = (uint32_t)(PHI_INT_BLOCKS_BYTES / weight->block_bytes) + 1;
    uint32_t tokens = (PHI_INT_TOKENS_BYTES / act->cols / 12 + 1) * 12;
    for (uint32_t first = block_begin; first < block_end; first += blocks) {
        uint32_t last = block_end - first < blocks ? block_end : first + blocks;
        for (uint32_t token = 0; token < act->n_tok; token += tokens) {
            uint32_t end = act->n_tok - token < tokens ? act->n_tok : token + tokens;
            for (uint32_t block = first; block < last; block++) {
                fn(call, block, token, end);
            }
        }
    }
}

#endif
#endif
