/*
 * INT4 and INT8 products with VNNI: a vector holds four columns of a block's 16 rows, and one
 * instruction adds their products with four codes of a token, which memory broadcasts. Codes are
 * unpacked in registers, once for all tokens of a tile.
 */
#include "engine/kernels/avx512/avx512.h"

#include "base/assert.h"
#include "engine/kernels/int_kind.h"

#include <immintrin.h>
#include <string.h>

#define BLOCK PHI_WEIGHT_BLOCK
#define QUAD PHI_ACT_QUAD
/* Tokens, and blocks, of the largest tile. */
#define TOKENS_MAX 12
#define BLOCKS_MAX 2
#define CELLS_MAX (TOKENS_MAX * BLOCKS_MAX)
/* From so many tokens on, blocks go in pairs that share the loads of codes; below, one block is one
 * stream from memory. */
#define PAIR_TOKENS 5U
/* Columns of a unit: what INT4's low and high nibbles make up together. */
#define UNIT 32U
/* How far ahead of their use codes are fetched, in bytes: what one core needs in flight. They go
 * into the second-level cache, which can wait for three times as many lines as the first. */
#define AHEAD_INT4 4096U
#define AHEAD_INT8 2048U
/* Codes of blocks, and of tokens, that share the second-level cache while a slice is computed. */
#define BLOCKS_BYTES (512U << 10)
#define TOKENS_BYTES (768U << 10)

typedef struct int_call {
    const phi_weight *weight;
    const phi_act *act;
    float *y;
    size_t ldy;
} int_call;

/* What a tile is stamped out for; all of it constant once inlined. */
typedef struct tile_shape {
    phi_int_kind kind;
    int n_blocks;
    int width; /* of a quad: 4, unless it is the last, narrower one */
    int n_tok;
} tile_shape;

/* Where one tile reads: one pointer per quad would be as good, but they are equally far apart. */
typedef struct tile_view {
    const int8_t *codes;
    const float *scales;
    const int32_t *starts;
    const float *shifts;
    size_t quad_codes; /* from one quad to the next */
    size_t quad_runs;
} tile_view;

static tile_view view_of(const phi_act *act, uint32_t token)
{
    size_t n_runs = act->cols / act->run;
    size_t side = token * n_runs;
    return (tile_view){
        .codes = act->codes + (size_t)token * act->cols,
        .scales = act->scales + side,
        .starts = act->starts + side,
        .shifts = act->shifts + side,
        .quad_codes = (size_t)QUAD * act->cols,
        .quad_runs = QUAD * n_runs,
    };
}

PHI_STAMP __m512i load_codes(const uint8_t *from)
{
    return _mm512_loadu_si512((const void *)from);
}

/* A block's scales, or offsets. */
PHI_STAMP __m512 load_side(const uint8_t *from, phi_int_kind kind)
{
    return kind.is_wide ? _mm512_loadu_ps((const void *)from)
                        : _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)from));
}

/* Four codes of one token in all lanes. */
PHI_STAMP __m512i spread_codes(const int8_t *codes)
{
    int word;
    memcpy(&word, codes, sizeof word);
    return _mm512_set1_epi32(word);
}

/* Adds four columns' products: `word` counts the words of the unit. */
PHI_STAMP void add_word(const __m512i *w, const tile_view *view, size_t word, tile_shape s,
                        __m512i *acc)
{
    PHI_UNROLL
    for (int t = 0; t < s.n_tok; t++) {
        __m512i x = spread_codes(view->codes + (size_t)(t / s.width) * view->quad_codes +
                                 (word * (size_t)s.width + (size_t)(t % s.width)) * 4);
        PHI_UNROLL
        for (int b = 0; b < s.n_blocks; b++) {
            acc[t * s.n_blocks + b] = _mm512_dpbusd_epi32(acc[t * s.n_blocks + b], w[b], x);
        }
    }
}

/* The integer sums of unit `unit`; with runs of 16 the second run's go to `second`. */
PHI_STAMP void dot_unit(const uint8_t *codes, size_t block_bytes, const tile_view *view,
                        size_t unit, tile_shape s, __m512i *acc, __m512i *second)
{
    const __m512i low = _mm512_set1_epi8(15);
    size_t word = unit * 8;
    PHI_UNROLL
    for (size_t j = 0; j < 4; j++) {
        __m512i w[BLOCKS_MAX];
        __m512i high[BLOCKS_MAX];
        PHI_UNROLL
        for (int b = 0; b < s.n_blocks; b++) {
            const uint8_t *at = codes + (size_t)b * block_bytes + j * 64;
            w[b] = load_codes(at);
            high[b] = s.kind.is_int4 ? _mm512_and_si512(_mm512_srli_epi16(w[b], 4), low)
                                     : load_codes(at + 4 * 64);
            w[b] = s.kind.is_int4 ? _mm512_and_si512(w[b], low) : w[b];
        }
        add_word(w, view, word + j, s, acc);
        add_word(high, view, word + j + 4, s, second);
    }
}

/* Scales the integer sums of run `run` and adds them to the outputs. */
PHI_STAMP void add_run(const __m512i *dots, const tile_view *view, size_t run, const __m512 *scale,
                       const __m512 *offset, tile_shape s, __m512 *sums)
{
    PHI_UNROLL
    for (int t = 0; t < s.n_tok; t++) {
        size_t at =
            (size_t)(t / s.width) * view->quad_runs + run * (size_t)s.width + (size_t)(t % s.width);
        __m512 x = _mm512_set1_ps(view->scales[at]);
        PHI_UNROLL
        for (int b = 0; b < s.n_blocks; b++) {
            int i = t * s.n_blocks + b;
            sums[i] =
                _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[i]), _mm512_mul_ps(scale[b], x), sums[i]);
            if (s.kind.has_offsets) {
                sums[i] = _mm512_fmadd_ps(offset[b], _mm512_set1_ps(view->shifts[at]), sums[i]);
            }
        }
    }
}

PHI_STAMP void start_dots(const tile_view *view, size_t run, tile_shape s, __m512i *dots)
{
    PHI_UNROLL
    for (int t = 0; t < s.n_tok; t++) {
        __m512i start =
            _mm512_set1_epi32(view->starts[(size_t)(t / s.width) * view->quad_runs +
                                           run * (size_t)s.width + (size_t)(t % s.width)]);
        PHI_UNROLL
        for (int b = 0; b < s.n_blocks; b++) {
            dots[t * s.n_blocks + b] = start;
        }
    }
}

/* Those of a tile's blocks, `stride` bytes apart. */
PHI_STAMP void load_sides(phi_sides from, size_t stride, tile_shape s, __m512 *scale,
                          __m512 *offset)
{
    PHI_UNROLL
    for (int b = 0; b < s.n_blocks; b++) {
        scale[b] = load_side(from.scales + (size_t)b * stride, s.kind);
        if (s.kind.has_offsets) {
            offset[b] = load_side(from.offsets + (size_t)b * stride, s.kind);
        }
    }
}

PHI_STAMP void store_tile(const int_call *call, uint32_t block, uint32_t token, tile_shape s,
                          const __m512 *sums)
{
    PHI_UNROLL
    for (int b = 0; b < s.n_blocks; b++) {
        uint32_t row = (block + (uint32_t)b) * BLOCK;
        uint32_t left = call->weight->rows - row;
        __mmask16 mask = (__mmask16)(left >= BLOCK ? 0xFFFFU : (1U << left) - 1);
        float *y = call->y + token * call->ldy + row;
        PHI_UNROLL
        for (int t = 0; t < s.n_tok; t++) {
            _mm512_mask_storeu_ps(y + (size_t)t * call->ldy, mask, sums[t * s.n_blocks + b]);
        }
    }
}

/* What a tile will write is far apart, a line of each token: asked for before the work, it is there
 * after it. */
PHI_STAMP void fetch_tile(const int_call *call, uint32_t block, uint32_t token, tile_shape s)
{
    const float *y = call->y + token * call->ldy + (size_t)block * BLOCK;
    PHI_UNROLL
    for (int t = 0; t < s.n_tok; t++) {
        PHI_UNROLL
        for (int b = 0; b < s.n_blocks; b++) {
            __builtin_prefetch(y + (size_t)t * call->ldy + b * (int)BLOCK, 1);
        }
    }
}

/* `s.n_blocks` blocks times `n_quads` quads of `s.width` tokens (4, unless it is the last, narrower
 * one). */
PHI_STAMP void int_tile(const int_call *call, uint32_t block, uint32_t token, tile_shape s)
{
    const phi_weight *weight = call->weight;
    const tile_view view = view_of(call->act, token);
    const size_t unit_bytes = s.kind.is_int4 ? 256 : 512;
    const size_t group_bytes = phi_side_bytes(BLOCK, s.kind);
    const size_t stride = weight->cols / weight->group * group_bytes;
    const size_t units_per_group = s.kind.by_16 ? 1 : weight->group / UNIT;
    const uint8_t *codes = (const uint8_t *)weight->codes + block * weight->block_bytes;
    phi_sides sides = phi_sides_of(weight, block, s.kind);
    /* Blocks follow one another: what comes after these is fetched by the tiles together. */
    const uint8_t *ahead = codes + (size_t)s.n_blocks * weight->block_bytes +
                           (size_t)token / TOKENS_MAX * (weight->cols / UNIT / 2 * 64);
    const size_t ahead_bytes = s.kind.is_int4 ? AHEAD_INT4 : AHEAD_INT8;
    size_t left_in_group = units_per_group;
    fetch_tile(call, block, token, s);
    __m512 sums[CELLS_MAX];
    PHI_UNROLL
    for (int i = 0; i < s.n_tok * s.n_blocks; i++) {
        sums[i] = _mm512_setzero_ps();
    }
    for (size_t unit = 0; unit < weight->cols / UNIT; unit++, codes += unit_bytes) {
        const size_t run = s.kind.by_16 ? unit * 2 : unit;
        __m512i dots[CELLS_MAX];
        __m512i second[CELLS_MAX];
        __m512 scale[BLOCKS_MAX];
        __m512 offset[BLOCKS_MAX];
        if (s.n_tok < 12) {
            PHI_UNROLL
            for (size_t line = 0; line < unit_bytes; line += 64) {
                _mm_prefetch((const char *)codes + ahead_bytes + line, _MM_HINT_T1);
            }
        }
        if (s.n_tok == TOKENS_MAX && unit % 2 == 0) {
            _mm_prefetch((const char *)ahead + unit / 2 * 64, _MM_HINT_T1);
        }
        start_dots(&view, run, s, dots);
        if (s.kind.by_16) {
            start_dots(&view, run + 1, s, second);
        }
        dot_unit(codes, (size_t)weight->block_bytes, &view, unit, s, dots,
                 s.kind.by_16 ? second : dots);
        for (size_t half = 0; half < (s.kind.by_16 ? 2 : 1); half++) {
            load_sides(phi_sides_at(sides, half * group_bytes, s.kind), stride, s, scale, offset);
            add_run(half ? second : dots, &view, run + half, scale, offset, s, sums);
        }
        if (--left_in_group == 0) {
            left_in_group = units_per_group;
            sides = phi_sides_at(sides, (s.kind.by_16 ? 2 : 1) * group_bytes, s.kind);
        }
    }
    store_tile(call, block, token, s, sums);
}

#define TILE(n_blocks, width, n_tok)                                                               \
    int_tile(call, block, token, (tile_shape){kind, (n_blocks), (width), (n_tok)})

/* A block times the last, narrower quad of tokens. */
PHI_STAMP void last_quad(const int_call *call, uint32_t block, uint32_t token, uint32_t end,
                         phi_int_kind kind)
{
    if (end - token == 3) {
        TILE(1, 3, 3);
    } else if (end - token == 2) {
        TILE(1, 2, 2);
    } else if (end - token == 1) {
        TILE(1, 1, 1);
    }
}

/* A block times tokens [token, end), in tiles as large as there are; runs of 16, which few models
 * have, make do with small ones. */
PHI_STAMP void one_block(const int_call *call, uint32_t block, uint32_t token, uint32_t end,
                         phi_int_kind kind)
{
    for (; !kind.by_16 && token + 8 <= end; token += 8) {
        TILE(1, 4, 8);
    }
    for (; token + 4 <= end; token += 4) {
        TILE(1, 4, 4);
    }
    last_quad(call, block, token, end, kind);
}

/* Two blocks times tokens [token, end). */
PHI_STAMP void two_blocks(const int_call *call, uint32_t block, uint32_t token, uint32_t end,
                          phi_int_kind kind)
{
    for (; token + 12 <= end; token += 12) {
        TILE(2, 4, 12);
    }
    for (; token + 8 <= end; token += 8) {
        TILE(2, 4, 8);
    }
    for (; token + 4 <= end; token += 4) {
        TILE(2, 4, 4);
    }
    for (uint32_t i = 0; i < 2; i++) {
        last_quad(call, block + i, token, end, kind);
    }
}

typedef void (*blocks_fn)(const int_call *call, uint32_t block, uint32_t token, uint32_t end);

/* What multiplies a kind of weights. */
typedef struct kind_fns {
    blocks_fn one;
    blocks_fn two;
    blocks_fn by_16;
} kind_fns;

#define BLOCKS_FN(name, blocks, is_int4, has_offsets, is_wide, by_16)                              \
    static void name(const int_call *call, uint32_t block, uint32_t token, uint32_t end)           \
    {                                                                                              \
        blocks(call, block, token, end, (phi_int_kind){is_int4, has_offsets, is_wide, by_16});     \
    }
#define KIND_FNS(name, is_int4, has_offsets, is_wide)                                              \
    BLOCKS_FN(name##_one, one_block, is_int4, has_offsets, is_wide, 0)                             \
    BLOCKS_FN(name##_two, two_blocks, is_int4, has_offsets, is_wide, 0)                            \
    BLOCKS_FN(name##_by_16, one_block, is_int4, has_offsets, is_wide, 1)
#define KIND_PLACE(name, is_int4, has_offsets, is_wide)                                            \
    [is_int4][has_offsets][is_wide] = {name##_one, name##_two, name##_by_16},

PHI_INT_KINDS(KIND_FNS)
static const kind_fns kinds[2][2][2] = {PHI_INT_KINDS(KIND_PLACE)};

void phi_avx512_rows_int(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                         const phi_act *act, float *y, size_t ldy)
{
    PHI_ASSERT(weight->group && weight->cols == act->cols && weight->group % act->run == 0 &&
               act->centre == phi_weight_centre(weight));
    const int_call call = {weight, act, y, ldy};
    const kind_fns *fns = &PHI_INT_KIND_OF(kinds, weight);
    const blocks_fn one = act->run == UNIT ? fns->one : fns->by_16;
    const bool pairs = act->n_tok >= PAIR_TOKENS && act->run == UNIT;
    uint32_t blocks = (uint32_t)(BLOCKS_BYTES / weight->block_bytes) + 1;
    uint32_t tokens = (TOKENS_BYTES / act->cols / TOKENS_MAX + 1) * TOKENS_MAX;
    for (uint32_t first = block_begin; first < block_end; first += blocks) {
        uint32_t last = block_end - first < blocks ? block_end : first + blocks;
        for (uint32_t token = 0; token < act->n_tok; token += tokens) {
            uint32_t end = act->n_tok - token < tokens ? act->n_tok : token + tokens;
            uint32_t block = first;
            for (; pairs && block + 2 <= last; block += 2) {
                fns->two(&call, block, token, end);
            }
            for (; block < last; block++) {
                one(&call, block, token, end);
            }
        }
    }
}
