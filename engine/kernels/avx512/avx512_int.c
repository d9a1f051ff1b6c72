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
/* Tokens of the largest tile: its integer sums and its outputs fill the registers. A second block
 * beside the first would share the loads of codes, which are not short, and keep outputs in memory,
 * where each run's stores cost as much as its multiply-adds. */
#define TOKENS_MAX 12
/* The same with runs of 16, whose units have two integer sums for each token. Both are whole quads,
 * so that only the last tile can end in a narrower one. */
#define TOKENS_BY_16 8
_Static_assert(TOKENS_MAX % QUAD == 0 && TOKENS_BY_16 % QUAD == 0, "tiles are of whole quads");
/* Columns of a unit: what INT4's low and high nibbles make up together. */
#define UNIT 32U
/* How far ahead of their use codes are fetched, in bytes: what one core needs in flight, and what
 * hides that it computes meanwhile. They go into the second-level cache, which can wait for three
 * times as many lines as the first. */
#define AHEAD 8192U
/* INT8 of so few tokens is nothing but reading, and further ahead than this no faster. */
#define AHEAD_READING 2048U
#define READING_TOKENS 3
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

/* Token t's item of those that a quad has side by side, `index` of each token before them. */
PHI_STAMP size_t at_in_quad(size_t index, int t, tile_shape s)
{
    const int first = t / (int)QUAD * (int)QUAD;
    const int width = s.n_tok - first < (int)QUAD ? s.n_tok - first : (int)QUAD;
    return index * (size_t)width + (size_t)(t - first);
}

/* Adds four columns' products: `word` counts the words of the unit. */
PHI_STAMP void add_word(__m512i w, const tile_view *view, size_t word, tile_shape s, __m512i *acc)
{
    PHI_UNROLL
    for (int t = 0; t < s.n_tok; t++) {
        const int8_t *quad = view->codes + (size_t)(t / (int)QUAD) * view->quad_codes;
        __m512i x = spread_codes(quad + at_in_quad(word, t, s) * 4);
        acc[t] = _mm512_dpbusd_epi32(acc[t], w, x);
    }
}

/* The integer sums of unit `unit`; with runs of 16 the second run's go to `second`. */
PHI_STAMP void dot_unit(const uint8_t *codes, const tile_view *view, size_t unit, tile_shape s,
                        __m512i *acc, __m512i *second)
{
    const __m512i low = _mm512_set1_epi8(15);
    size_t word = unit * 8;
    PHI_UNROLL
    for (size_t j = 0; j < 4; j++) {
        const __m512i both = load_codes(codes + j * 64);
        add_word(s.kind.is_int4 ? _mm512_and_si512(both, low) : both, view, word + j, s, acc);
        add_word(s.kind.is_int4 ? _mm512_and_si512(_mm512_srli_epi16(both, 4), low)
                                : load_codes(codes + (j + 4) * 64),
                 view, word + j + 4, s, second);
    }
}

/* Where a token's number of a run lies among scales, starts and shifts. */
PHI_STAMP size_t side_at(const tile_view *view, size_t run, int t, tile_shape s)
{
    return (size_t)(t / (int)QUAD) * view->quad_runs + at_in_quad(run, t, s);
}

/* Scales the integer sums of run `run` and adds them to the outputs. */
PHI_STAMP void add_run(const __m512i *dots, const tile_view *view, size_t run, phi_sides sides,
                       tile_shape s, __m512 *sums)
{
    const __m512 scale = load_side(sides.scales, s.kind);
    const __m512 offset =
        s.kind.has_offsets ? load_side(sides.offsets, s.kind) : _mm512_setzero_ps();
    PHI_UNROLL
    for (int t = 0; t < s.n_tok; t++) {
        size_t at = side_at(view, run, t, s);
        __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(view->scales[at]));
        sums[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[t]), both, sums[t]);
        if (s.kind.has_offsets) {
            sums[t] = _mm512_fmadd_ps(offset, _mm512_set1_ps(view->shifts[at]), sums[t]);
        }
    }
}

PHI_STAMP void start_dots(const tile_view *view, size_t run, tile_shape s, __m512i *dots)
{
    PHI_UNROLL
    for (int t = 0; t < s.n_tok; t++) {
        dots[t] = _mm512_set1_epi32(view->starts[side_at(view, run, t, s)]);
    }
}

PHI_STAMP void store_tile(const int_call *call, uint32_t block, uint32_t token, tile_shape s,
                          const __m512 *sums)
{
    uint32_t left = call->weight->rows - block * BLOCK;
    __mmask16 mask = (__mmask16)(left >= BLOCK ? 0xFFFFU : (1U << left) - 1);
    float *y = call->y + token * call->ldy + (size_t)block * BLOCK;
    PHI_UNROLL
    for (int t = 0; t < s.n_tok; t++) {
        _mm512_mask_storeu_ps(y + (size_t)t * call->ldy, mask, sums[t]);
    }
}

/* What a tile will write is far apart, a line of each token: asked for before the work, it is there
 * after it. */
PHI_STAMP void fetch_outputs(const int_call *call, uint32_t block, uint32_t token, tile_shape s)
{
    const float *y = call->y + token * call->ldy + (size_t)block * BLOCK;
    PHI_UNROLL
    for (int t = 0; t < s.n_tok; t++) {
        __builtin_prefetch(y + (size_t)t * call->ldy, 1);
    }
}

/* What a tile asks memory for, while it computes. */
typedef struct tile_fetch {
    const uint8_t *from;
    size_t lines; /* for each unit of its own */
} tile_fetch;

/* Of codes: 64 bytes each. */
PHI_STAMP size_t unit_lines(tile_shape s)
{
    return s.kind.is_int4 ? 4 : 8;
}

/* The only tile of a block reads its codes from memory, and fetches what it will read itself and
 * then the next block's beginning. Of several, the first ones fetch the whole next block together,
 * and the first block of all is waited for. */
PHI_STAMP tile_fetch fetch_of(const int_call *call, const uint8_t *codes, uint32_t tile,
                              uint32_t n_tiles, tile_shape s)
{
    if (n_tiles == 1) {
        bool reading = !s.kind.is_int4 && s.n_tok <= READING_TOKENS;
        return (tile_fetch){codes + (reading ? AHEAD_READING : AHEAD), unit_lines(s)};
    }
    size_t lines = (unit_lines(s) + n_tiles - 1) / n_tiles;
    size_t before = tile * lines;
    size_t units = call->weight->cols / UNIT;
    return (tile_fetch){codes + call->weight->block_bytes + before * units * 64,
                        before < unit_lines(s) ? lines : 0};
}

/* Asks for a unit's share. A unit's own lines are asked for one by one, for a loop over so few
 * takes time where reading binds. */
PHI_STAMP void fetch_unit(tile_fetch *fetch, tile_shape s)
{
    if (fetch->lines == unit_lines(s)) {
        PHI_UNROLL
        for (size_t i = 0; i < unit_lines(s); i++) {
            _mm_prefetch((const char *)fetch->from + i * 64, _MM_HINT_T1);
        }
        fetch->from += unit_lines(s) * 64;
        return;
    }
    for (size_t i = 0; i < fetch->lines; i++, fetch->from += 64) {
        _mm_prefetch((const char *)fetch->from, _MM_HINT_T1);
    }
}

/* Tile `tile` of a block's `n_tiles`: `s.n_tok` tokens from `token` on. */
PHI_STAMP void int_tile(const int_call *call, uint32_t block, uint32_t token, uint32_t tile,
                        uint32_t n_tiles, tile_shape s)
{
    const phi_weight *weight = call->weight;
    const tile_view view = view_of(call->act, token);
    const size_t unit_bytes = unit_lines(s) * 64;
    const size_t group_bytes = phi_side_bytes(BLOCK, s.kind);
    const size_t units_per_group = s.kind.by_16 ? 1 : weight->group / UNIT;
    const uint8_t *codes = (const uint8_t *)weight->codes + block * weight->block_bytes;
    phi_sides sides = phi_sides_of(weight, block, s.kind);
    tile_fetch fetch = fetch_of(call, codes, tile, n_tiles, s);
    size_t left_in_group = units_per_group;
    fetch_outputs(call, block, token, s);
    __m512 sums[TOKENS_MAX];
    PHI_UNROLL
    for (int i = 0; i < s.n_tok; i++) {
        sums[i] = _mm512_setzero_ps();
    }
    for (size_t unit = 0; unit < weight->cols / UNIT; unit++, codes += unit_bytes) {
        const size_t run = s.kind.by_16 ? unit * 2 : unit;
        __m512i dots[TOKENS_MAX];
        __m512i second[TOKENS_MAX];
        fetch_unit(&fetch, s);
        start_dots(&view, run, s, dots);
        if (s.kind.by_16) {
            start_dots(&view, run + 1, s, second);
        }
        dot_unit(codes, &view, unit, s, dots, s.kind.by_16 ? second : dots);
        add_run(dots, &view, run, sides, s, sums);
        if (s.kind.by_16) {
            add_run(second, &view, run + 1, phi_sides_at(sides, group_bytes, s.kind), s, sums);
        }
        if (--left_in_group == 0) {
            left_in_group = units_per_group;
            sides = phi_sides_at(sides, (s.kind.by_16 ? 2 : 1) * group_bytes, s.kind);
        }
    }
    store_tile(call, block, token, s, sums);
}

#define LAST_TILE(n)                                                                               \
    case n:                                                                                        \
        int_tile(call, block, end - (n), n_tiles - 1, n_tiles, (tile_shape){kind, (n)});           \
        break

/* A block times tokens [token, end), at least one: whole tiles, and one of the tokens left. */
PHI_STAMP void one_block(const int_call *call, uint32_t block, uint32_t token, uint32_t end,
                         phi_int_kind kind)
{
    const uint32_t whole = kind.by_16 ? TOKENS_BY_16 : TOKENS_MAX;
    const uint32_t n_tiles = (end - token + whole - 1) / whole;
    for (uint32_t tile = 0; tile + 1 < n_tiles; tile++, token += whole) {
        int_tile(call, block, token, tile, n_tiles, (tile_shape){kind, (int)whole});
    }
    switch (end - token) {
        LAST_TILE(1);
        LAST_TILE(2);
        LAST_TILE(3);
        LAST_TILE(4);
        LAST_TILE(5);
        LAST_TILE(6);
        LAST_TILE(7);
        LAST_TILE(8);
    default:
        break;
    }
    if (kind.by_16) {
        return;
    }
    switch (end - token) {
        LAST_TILE(9);
        LAST_TILE(10);
        LAST_TILE(11);
        LAST_TILE(12);
    default:
        break;
    }
}

typedef void (*block_fn)(const int_call *call, uint32_t block, uint32_t token, uint32_t end);

/* What multiplies a kind of weights, by runs of 32 and of 16 columns. */
typedef struct kind_fns {
    block_fn by_32;
    block_fn by_16;
} kind_fns;

#define BLOCK_FN(name, is_int4, has_offsets, is_wide, by_16)                                       \
    static void name(const int_call *call, uint32_t block, uint32_t token, uint32_t end)           \
    {                                                                                              \
        one_block(call, block, token, end, (phi_int_kind){is_int4, has_offsets, is_wide, by_16});  \
    }
#define KIND_FNS(name, is_int4, has_offsets, is_wide)                                              \
    BLOCK_FN(name##_by_32, is_int4, has_offsets, is_wide, 0)                                       \
    BLOCK_FN(name##_by_16, is_int4, has_offsets, is_wide, 1)
#define KIND_PLACE(name, is_int4, has_offsets, is_wide)                                            \
    [is_int4][has_offsets][is_wide] = {name##_by_32, name##_by_16},

PHI_INT_KINDS(KIND_FNS)
static const kind_fns kinds[2][2][2] = {PHI_INT_KINDS(KIND_PLACE)};

void phi_avx512_rows_int(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                         const phi_act *act, float *y, size_t ldy)
{
    PHI_ASSERT(weight->group && weight->cols == act->cols && weight->group % act->run == 0 &&
               act->centre == phi_weight_centre(weight));
    const int_call call = {weight, act, y, ldy};
    const kind_fns *fns = &PHI_INT_KIND_OF(kinds, weight);
    const block_fn multiply = act->run == UNIT ? fns->by_32 : fns->by_16;
    uint32_t blocks = (uint32_t)(BLOCKS_BYTES / weight->block_bytes) + 1;
    uint32_t tokens = (TOKENS_BYTES / act->cols / TOKENS_MAX + 1) * TOKENS_MAX;
    for (uint32_t first = block_begin; first < block_end; first += blocks) {
        uint32_t last = block_end - first < blocks ? block_end : first + blocks;
        for (uint32_t token = 0; token < act->n_tok; token += tokens) {
            uint32_t end = act->n_tok - token < tokens ? act->n_tok : token + tokens;
            for (uint32_t block = first; block < last; block++) {
                multiply(&call, block, token, end);
            }
        }
    }
}
