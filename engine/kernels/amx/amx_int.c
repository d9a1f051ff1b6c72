/*
 * INT4 and INT8 products on AMX tiles: one instruction multiplies the codes of up to 16 tokens with
 * a run of a block's 16 rows into exact integer sums, which AVX-512 then scales and adds in the
 * order that kernels.h lays down: the results are bit for bit those of the other sets.
 *
 * Tiles of activations hold 16 tokens. A tile of at least PHI_AMX_TOKENS tokens lies as
 * [cols / 32][width][32], one tile register a run; a narrower one, and all with runs of 16, in
 * quads for the AVX-512 products.
 *
 * Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18 (tiles).
 */
#include "engine/kernels/amx/amx_int.h"
#include "engine/kernels/amx/amx_few.h"

#include "base/assert.h"
#include "engine/kernels/avx512/avx512.h"
#include "engine/kernels/int_kind.h"

#include <immintrin.h>
#include <string.h>

#define BLOCK PHI_WEIGHT_BLOCK
#define TILE PHI_AMX_ACT_TILE
/* Columns of a run, and runs of a block that are unpacked together: 16 KiB, a third of the
 * first-level cache. */
#define RUN PHI_AMX_RUN
#define PANEL_RUNS 32U
/* Codes of blocks, and of tokens, that share the second-level cache while a slice is computed. */
#define BLOCKS_BYTES (512U << 10)
#define TOKENS_BYTES (1U << 20)
/* Tokens that go through a block together at most: their sums wait in the first-level cache. */
#define GROUP_MAX 256U
/* A tile fetches a line of what will be unpacked next for so many of its runs: 16 tiles then fetch
 * all of it. */
#define AHEAD_RUNS 4U
/* Runs between a product and the scaling of its sums, and buffers that this takes: a product, the
 * store of the one before and the scaling of an older one are under way together. */
#define BEHIND 3U
#define KEPT 4U

static void configure(uint32_t last_width)
{
    phi_amx_tile_config config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        bool last = i == SUMS_LAST_0 || i == SUMS_LAST_1 || i == TOKENS_LAST;
        bool tokens = i == TOKENS_0 || i == TOKENS_LAST;
        bool rows = i == ROWS_0 || i == ROWS_1;
        config.rows[i] = (uint8_t)(rows ? RUN / 4 : last ? last_width : TILE);
        config.row_bytes[i] = tokens ? RUN : BLOCK * 4;
    }
    /* GCC 12 tells its optimiser of the first eight bytes only. */
    __asm__ volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
}

/* A stretch of a block, unpacked. */
typedef struct panel {
    int8_t codes[PANEL_RUNS][RUN / 4][BLOCK * 4];
    float scales[PANEL_RUNS][BLOCK];
    float offsets[PANEL_RUNS][BLOCK];
} panel;

typedef struct amx_call {
    const phi_weight *weight;
    const phi_act *act;
    float *y;
    size_t ldy;
    panel *panel;
    float (*waiting)[BLOCK]; /* [GROUP_MAX] sums over the stretches so far; y's rows lie far apart,
                                and often so that they fall into the same few lines of a cache */
    const uint8_t *ahead;    /* what will be unpacked next */
    size_t run;              /* the panel's first */
    size_t n_runs;
} amx_call;

/* A group's scales, or offsets, as floats. */
PHI_STAMP void unpack_side(const uint8_t *from, phi_int_kind kind, float out[BLOCK])
{
    _mm512_store_ps(out, phi_amx_load_side(from, kind.is_wide));
}

static void unpack(const amx_call *call, uint32_t block)
{
    const phi_weight *weight = call->weight;
    const phi_int_kind kind = {weight->kind == PHI_WEIGHT_INT4, weight->has_offsets, weight->wide,
                               0};
    const phi_sides first = phi_sides_of(weight, block, kind);
    size_t run_bytes = kind.is_int4 ? 256 : 512;
    size_t runs_per_group = weight->group / RUN;
    const uint8_t *codes = (const uint8_t *)weight->codes + block * weight->block_bytes;
    const __m512i centre = _mm512_set1_epi8((char)phi_weight_centre(weight));
    for (size_t i = 0; i < call->n_runs; i++) {
        size_t run = call->run + i;
        size_t side = phi_side_bytes(run / runs_per_group * BLOCK, kind);
        phi_sides sides = phi_sides_at(first, side, kind);
        phi_amx_unpack_run(codes + run * run_bytes, kind.is_int4, centre, call->panel->codes[i]);
        unpack_side(sides.scales, kind, call->panel->scales[i]);
        if (kind.has_offsets) {
            unpack_side(sides.offsets, kind, call->panel->offsets[i]);
        }
    }
}

/* The integer sums of run i of the panel, into one of two registers. */
PHI_STAMP void multiply_run(const panel *from, size_t i, const int8_t *codes, int is_last)
{
    if (is_last) {
        if (i % 2 == 0) {
            _tile_loadd(TOKENS_LAST, codes, RUN);
            _tile_loadd(ROWS_0, from->codes[i], BLOCK * 4);
            _tile_zero(SUMS_LAST_0);
            _tile_dpbssd(SUMS_LAST_0, TOKENS_LAST, ROWS_0);
        } else {
            _tile_loadd(TOKENS_LAST, codes, RUN);
            _tile_loadd(ROWS_0, from->codes[i], BLOCK * 4);
            _tile_zero(SUMS_LAST_1);
            _tile_dpbssd(SUMS_LAST_1, TOKENS_LAST, ROWS_0);
        }
    } else if (i % 2 == 0) {
        _tile_loadd(TOKENS_0, codes, RUN);
        _tile_loadd(ROWS_0, from->codes[i], BLOCK * 4);
        _tile_zero(SUMS_0);
        _tile_dpbssd(SUMS_0, TOKENS_0, ROWS_0);
    } else {
        _tile_loadd(TOKENS_0, codes, RUN);
        _tile_loadd(ROWS_0, from->codes[i], BLOCK * 4);
        _tile_zero(SUMS_1);
        _tile_dpbssd(SUMS_1, TOKENS_0, ROWS_0);
    }
}

/* Those of run i into memory, [n_tok][16 rows]. */
PHI_STAMP void store_run(size_t i, int is_last, int32_t *sums)
{
    if (is_last) {
        if (i % 2 == 0) {
            _tile_stored(SUMS_LAST_0, sums, BLOCK * 4);
        } else {
            _tile_stored(SUMS_LAST_1, sums, BLOCK * 4);
        }
    } else if (i % 2 == 0) {
        _tile_stored(SUMS_0, sums, BLOCK * 4);
    } else {
        _tile_stored(SUMS_1, sums, BLOCK * 4);
    }
}

PHI_STAMP void scale_run(const amx_call *call, size_t i, const int32_t *sums, const float *scales,
                         const float *shifts, int has_offsets, int n_tok, __m512 *acc)
{
    const __m512 scale = _mm512_loadu_ps(call->panel->scales[i]);
    const __m512 offset =
        has_offsets ? _mm512_loadu_ps(call->panel->offsets[i]) : _mm512_setzero_ps();
    PHI_UNROLL
    for (int t = 0; t < n_tok; t++) {
        __m512 sum =
            _mm512_cvtepi32_ps(_mm512_load_si512((const void *)(sums + (size_t)t * BLOCK)));
        acc[t] = _mm512_fmadd_ps(sum, _mm512_mul_ps(scale, _mm512_set1_ps(scales[t])), acc[t]);
        if (has_offsets) {
            acc[t] = _mm512_fmadd_ps(offset, _mm512_set1_ps(shifts[t]), acc[t]);
        }
    }
}

/* The panel times one tile of `n_tok` tokens, the first of them `token`. */
PHI_STAMP void amx_tile(const amx_call *call, uint32_t block, uint32_t token, float *waiting,
                        int has_offsets, int is_last, int n_tok)
{
    const phi_act *act = call->act;
    const size_t width = (size_t)n_tok;
    const int8_t *codes = act->codes + (size_t)token * act->cols + call->run * width * RUN;
    const size_t side = (size_t)token * (act->cols / RUN) + call->run * width;
    const float *scales = act->scales + side;
    const float *shifts = act->shifts + side;
    const uint8_t *ahead = call->ahead + (size_t)token / TILE * (call->n_runs / AHEAD_RUNS * 64);
    _Alignas(64) int32_t sums[KEPT][TILE * BLOCK];
    __m512 acc[TILE];
    PHI_UNROLL
    for (int t = 0; t < n_tok; t++) {
        acc[t] = call->run == 0 ? _mm512_setzero_ps() : _mm512_load_ps(waiting + t * (int)BLOCK);
    }
    for (size_t i = 0; i < call->n_runs + BEHIND; i++) {
        if (i < call->n_runs) {
            if (i % AHEAD_RUNS == 0) {
                _mm_prefetch((const char *)ahead + i / AHEAD_RUNS * 64, _MM_HINT_T1);
            }
            multiply_run(call->panel, i, codes + i * width * RUN, is_last);
        }
        if (i > 0 && i <= call->n_runs) {
            store_run(i - 1, is_last, sums[(i - 1) % KEPT]);
        }
        if (i >= BEHIND) {
            size_t at = (i - BEHIND) * width;
            scale_run(call, i - BEHIND, sums[(i - BEHIND) % KEPT], scales + at, shifts + at,
                      has_offsets, n_tok, acc);
        }
    }
    if (call->run + call->n_runs < act->cols / RUN) {
        PHI_UNROLL
        for (int t = 0; t < n_tok; t++) {
            _mm512_store_ps(waiting + t * (int)BLOCK, acc[t]);
        }
        return;
    }
    const uint32_t left = call->weight->rows - block * BLOCK;
    const __mmask16 mask = (__mmask16)(left >= BLOCK ? 0xFFFFU : (1U << left) - 1);
    float *y = call->y + token * call->ldy + (size_t)block * BLOCK;
    PHI_UNROLL
    for (int t = 0; t < n_tok; t++) {
        _mm512_mask_storeu_ps(y + (size_t)t * call->ldy, mask, acc[t]);
    }
}

typedef void (*tile_fn)(const amx_call *call, uint32_t block, uint32_t token, float *waiting);

/* A tile of N tokens, without and with offsets. */
#define TILE_FN(n, is_last)                                                                        \
    static void plain_##n(const amx_call *call, uint32_t block, uint32_t token, float *waiting)    \
    {                                                                                              \
        amx_tile(call, block, token, waiting, 0, is_last, n);                                      \
    }                                                                                              \
    static void offsets_##n(const amx_call *call, uint32_t block, uint32_t token, float *waiting)  \
    {                                                                                              \
        amx_tile(call, block, token, waiting, 1, is_last, n);                                      \
    }
TILE_FN(5, 1)
TILE_FN(6, 1)
TILE_FN(7, 1)
TILE_FN(8, 1)
TILE_FN(9, 1)
TILE_FN(10, 1)
TILE_FN(11, 1)
TILE_FN(12, 1)
TILE_FN(13, 1)
TILE_FN(14, 1)
TILE_FN(15, 1)
TILE_FN(16, 0)

/* [offsets?][tokens - PHI_AMX_TOKENS] */
static const tile_fn tiles[2][TILE - PHI_AMX_TOKENS + 1] = {
    {plain_5, plain_6, plain_7, plain_8, plain_9, plain_10, plain_11, plain_12, plain_13, plain_14,
     plain_15, plain_16},
    {offsets_5, offsets_6, offsets_7, offsets_8, offsets_9, offsets_10, offsets_11, offsets_12,
     offsets_13, offsets_14, offsets_15, offsets_16},
};

/* One block times tokens [begin, end), which fill tiles. */
static void multiply_block(amx_call *call, uint32_t block, uint32_t begin, uint32_t end)
{
    const tile_fn *fns = tiles[call->weight->has_offsets];
    size_t n_runs = call->weight->cols / RUN;
    bool is_int4 = call->weight->kind == PHI_WEIGHT_INT4;
    for (call->run = 0; call->run < n_runs; call->run += PANEL_RUNS) {
        call->n_runs = n_runs - call->run < PANEL_RUNS ? n_runs - call->run : PANEL_RUNS;
        unpack(call, block);
        call->ahead = (const uint8_t *)call->weight->codes + block * call->weight->block_bytes +
                      (call->run + call->n_runs) * (RUN / 4 * BLOCK * 4 / (is_int4 ? 2 : 1));
        for (uint32_t token = begin; token < end; token += TILE) {
            uint32_t n = end - token < TILE ? end - token : TILE;
            fns[n - PHI_AMX_TOKENS](call, block, token, call->waiting[token - begin]);
        }
    }
}

/* Blocks [begin, end) times the first n_tok tokens. */
static void multiply(amx_call *call, uint32_t begin, uint32_t end, uint32_t n_tok)
{
    uint32_t step = (uint32_t)(BLOCKS_BYTES / call->weight->block_bytes) + 1;
    uint32_t group = TOKENS_BYTES / call->act->cols / TILE * TILE;
    group = group < TILE ? TILE : group > GROUP_MAX ? GROUP_MAX : group;
    for (uint32_t first = begin; first < end; first += step) {
        uint32_t last = end - first < step ? end : first + step;
        for (uint32_t token = 0; token < n_tok; token += group) {
            uint32_t token_end = n_tok - token < group ? n_tok : token + group;
            for (uint32_t block = first; block < last; block++) {
                multiply_block(call, block, token, token_end);
            }
        }
    }
}

/* The tokens that do not make up a tile, in quads. */
static void multiply_rest(const amx_call *call, uint32_t begin, uint32_t end, uint32_t token)
{
    const phi_act *act = call->act;
    size_t side = (size_t)token * (act->cols / act->run);
    phi_act rest = *act;
    rest.n_tok = act->n_tok - token;
    rest.tile = PHI_ACT_QUAD;
    rest.codes += (size_t)token * act->cols;
    rest.scales += side;
    rest.starts += side;
    rest.shifts += side;
    phi_avx512_rows_int(call->weight, begin, end, &rest, call->y + token * call->ldy, call->ldy);
}

void phi_amx_rows_int(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                      const phi_act *act, float *y, size_t ldy)
{
    _Alignas(64) panel unpacked;
    _Alignas(64) float waiting[GROUP_MAX][BLOCK];
    amx_call call = {
        .weight = weight, .act = act, .y = y, .ldy = ldy, .panel = &unpacked, .waiting = waiting};
    uint32_t rest = act->n_tok % TILE;
    uint32_t n_tiled = rest < PHI_AMX_TOKENS ? act->n_tok - rest : act->n_tok;
    PHI_ASSERT(weight->group && weight->cols == act->cols && weight->group % act->run == 0);
    n_tiled = act->run == RUN ? n_tiled : 0;
    if (n_tiled) {
        configure(n_tiled % TILE ? n_tiled % TILE : TILE);
        if (n_tiled <= TILE) {
            phi_amx_few(weight, block_begin, block_end, act, n_tiled, y, ldy);
        } else {
            multiply(&call, block_begin, block_end, n_tiled);
        }
        /* Tiles in their initial state need not be saved at each switch of threads. */
        _tile_release();
    }
    if (n_tiled < act->n_tok) {
        multiply_rest(&call, block_begin, block_end, n_tiled);
    }
}

void phi_amx_quantize_tile(const float *x, uint32_t tile, const phi_act *act)
{
    uint32_t first = tile * TILE;
    uint32_t width = act->n_tok - first < TILE ? act->n_tok - first : TILE;
    size_t side = (size_t)first * (act->cols / act->run);
    phi_act part = *act;
    part.n_tok = width;
    part.tile = PHI_ACT_QUAD;
    part.codes += (size_t)first * act->cols;
    part.scales += side;
    part.starts += side;
    part.shifts += side;
    if (act->run == RUN && width >= PHI_AMX_TOKENS) {
        phi_avx512_quantize_rows(x, &part);
        return;
    }
    for (uint32_t i = 0; i * PHI_ACT_QUAD < width; i++) {
        phi_avx512_quantize_tile(x + (size_t)i * PHI_ACT_QUAD * act->cols, i, &part);
    }
}
