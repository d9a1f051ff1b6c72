/*
 * Products of many tokens on AMX tiles in bf16: two blocks of rows times two tiles of tokens, four
 * tiles of sums, which stay in registers over a stretch of columns, a panel. A panel of weights is
 * unpacked once for a group of tokens, while the one before is multiplied: that work is AVX-512's,
 * whose units the tiles leave idle. Panels, tokens and sums of a slice come from the second-level
 * cache.
 *
 * Order of sums: columns 32 by 32; of these, the even and the odd ones are summed apart, from zero,
 * with fused multiply-adds, then together, then added to the sums so far (TDPBF16PS; it counts
 * denormals as zero). Numbers of several parts take the products of parts one after the other, the
 * small ones first; those too small for fp32's 24 bits are left out.
 *
 * Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, TDPBF16PS. Products of
 * fp32 as sums of bf16 products: Henry, Tang and Heinecke, arXiv:1904.06376.
 */
#include "engine/kernels/amx/amx_attention.h"
#include "engine/kernels/amx/amx_panel.h"
#include "engine/kernels/amx/amx_tiles.h"

#include "base/assert.h"

#include <immintrin.h>

#define BLOCK PHI_WEIGHT_BLOCK
#define STEP PHI_BULK_STEP
#define CELLS PHI_AMX_TILE_CELLS
#define TILE PHI_BULK_TILE
#define ROW_BYTES PHI_AMX_ROW_BYTES
/* Tiles of weights that are unpacked together, and tokens that they are multiplied with: with 64
 * KiB for each of two panels, half a megabyte of tokens and as much of sums fit into the cache. */
#define PANEL_TILES 32U
#define GROUP_TOKENS 512U

/* Where a panel lies: steps [step, step + n_steps) of a pair of blocks. */
typedef struct panel_place {
    uint32_t block;
    uint32_t step;
    uint32_t n_steps; /* 0: there is none */
} panel_place;

typedef struct bulk_call {
    const phi_weight *weight;
    const phi_bulk_act *act;
    float *work; /* [pairs of blocks][pairs of tokens][4 tiles], sums so far */
    float *y;
    size_t ldy;
    uint32_t n_steps; /* of a whole row */
    uint32_t block_begin;
    uint32_t block_end;
    uint32_t token; /* the group's first */
    uint32_t n_tok; /* of the group */
    uint32_t panel_steps;
    panel_place now;
    panel_place next;
    const uint16_t *panel; /* now: [steps][parts][2 blocks], tiles */
    uint16_t *unpacked;    /* next */
    uint32_t n_unpacked;   /* of its steps of blocks */
    uint32_t sum_lines;    /* what a step asks for */
    uint32_t token_lines;
    uint32_t first_line;
} bulk_call;

PHI_STAMP void load_tokens(const uint16_t *tokens, size_t apart, int part)
{
    _tile_stream_loadd(LEFT_0, tokens + (size_t)part * CELLS, ROW_BYTES);
    _tile_stream_loadd(LEFT_1, tokens + apart + (size_t)part * CELLS, ROW_BYTES);
}

PHI_STAMP void load_rows(const uint16_t *rows, int part)
{
    _tile_loadd(RIGHT_0, rows + (size_t)part * 2 * CELLS, ROW_BYTES);
    _tile_loadd(RIGHT_1, rows + (size_t)part * 2 * CELLS + CELLS, ROW_BYTES);
}

/* One step of several parts. From one product to the next only one side changes. */
PHI_STAMP void step_products(const uint16_t *tokens, size_t apart, const uint16_t *rows,
                             int weight_parts)
{
    if (weight_parts == 3) {
        load_rows(rows, 2);
        load_tokens(tokens, apart, 0);
        phi_amx_multiply();
        load_rows(rows, 1);
        phi_amx_multiply();
        load_tokens(tokens, apart, 1);
        phi_amx_multiply();
        load_rows(rows, 0);
        phi_amx_multiply();
        load_tokens(tokens, apart, 2);
        phi_amx_multiply();
        load_tokens(tokens, apart, 0);
        phi_amx_multiply();
        return;
    }
    if (weight_parts == 2) {
        load_rows(rows, 1);
        load_tokens(tokens, apart, 1);
        phi_amx_multiply();
        load_tokens(tokens, apart, 0);
        phi_amx_multiply();
        load_rows(rows, 0);
        load_tokens(tokens, apart, 2);
        phi_amx_multiply();
    } else {
        load_rows(rows, 0);
        load_tokens(tokens, apart, 2);
        phi_amx_multiply();
    }
    load_tokens(tokens, apart, 1);
    phi_amx_multiply();
    load_tokens(tokens, apart, 0);
    phi_amx_multiply();
}

static void load_sums(const float *sums, bool from_zero)
{
    if (from_zero) {
        phi_amx_zero_sums();
        return;
    }
    _tile_loadd(SUMS_00, sums, ROW_BYTES);
    _tile_loadd(SUMS_01, sums + 256, ROW_BYTES);
    _tile_loadd(SUMS_10, sums + 512, ROW_BYTES);
    _tile_loadd(SUMS_11, sums + 768, ROW_BYTES);
}

static void store_sums(float *sums)
{
    _tile_stored(SUMS_00, sums, ROW_BYTES);
    _tile_stored(SUMS_01, sums + 256, ROW_BYTES);
    _tile_stored(SUMS_10, sums + 512, ROW_BYTES);
    _tile_stored(SUMS_11, sums + 768, ROW_BYTES);
}

/* Rows of y that are fetched ahead of the one that is written: each lies in a page of its own. */
#define AHEAD 8U

/* The group's finished sums. */
static void store_results(const bulk_call *call, size_t pair_cells)
{
    const uint32_t begin = call->block_begin;
    for (uint32_t t = 0; t < call->n_tok; t++) {
        const float *from = call->work + (size_t)(t / TILE) * 512 + (size_t)(t % TILE) * BLOCK;
        float *y = call->y + (call->token + t) * call->ldy;
        for (uint32_t b = begin; b < call->block_end; b++) {
            const uint32_t left = call->weight->rows - b * BLOCK;
            const __mmask16 mask = (__mmask16)(left >= BLOCK ? 0xffffU : (1U << left) - 1);
            const size_t at = (size_t)(b - begin) / 2 * pair_cells + (size_t)(b % 2) * 256;
            if (t + AHEAD < call->n_tok) {
                __builtin_prefetch(y + AHEAD * call->ldy + (size_t)b * BLOCK, 1);
            }
            _mm512_mask_storeu_ps(y + (size_t)b * BLOCK, mask, _mm512_load_ps(from + at));
        }
    }
}

/* ---- panels ---- */

/* The panel after `at`: the slice's blocks before the next columns, all columns before the next
 * group of tokens. */
static panel_place place_after(const bulk_call *call, panel_place at)
{
    if (at.block + 2 < call->block_end) {
        at.block += 2;
        return at;
    }
    uint32_t step = at.step + at.n_steps;
    if (step == call->n_steps) {
        if (call->token + call->n_tok == call->act->n_tok) {
            return (panel_place){0};
        }
        step = 0;
    }
    const uint32_t left = call->n_steps - step;
    return (panel_place){.block = call->block_begin,
                         .step = step,
                         .n_steps = left < call->panel_steps ? left : call->panel_steps};
}

/* Steps of blocks [n_unpacked, until) of the next panel. */
PHI_STAMP void unpack_until(bulk_call *call, uint32_t until, int weight_parts)
{
    const size_t tile_pair = (size_t)2 * CELLS;
    for (; call->n_unpacked < until; call->n_unpacked++) {
        const uint32_t step = call->n_unpacked / 2;
        const uint32_t side = call->n_unpacked % 2;
        const uint32_t block = call->next.block + side;
        /* Beside an odd last block stands itself once more. */
        phi_amx_unpack(call->weight, block < call->weight->n_blocks ? block : block - 1,
                       call->next.step + step, 1,
                       call->unpacked + step * (size_t)weight_parts * tile_pair + side * CELLS,
                       tile_pair);
    }
}

/* Asks for what step s of a pair of tiles needs later: the next pair's sums in the first-level
 * cache, and its share, by the pair of blocks, of the tokens' next columns in the second. */
PHI_STAMP void fetch(const bulk_call *call, const float *sums, const uint16_t *later, size_t apart,
                     uint32_t s, int act_parts)
{
    const char *next_sums = (const char *)(sums + (size_t)4 * 256);
    for (uint32_t line = s * call->sum_lines; line < (s + 1) * call->sum_lines; line++) {
        __builtin_prefetch(next_sums + (size_t)line * ROW_BYTES, 1);
    }
    const uint32_t half = TILE * (uint32_t)act_parts;
    for (uint32_t line = call->first_line; line < call->first_line + call->token_lines; line++) {
        const uint16_t *tile = line < half ? later : later + apart;
        _mm_prefetch((const char *)tile + (size_t)(line % half) * ROW_BYTES, _MM_HINT_T1);
    }
}

/* The panel times the group's tokens; meanwhile the next one is unpacked. */
PHI_STAMP void multiply_panel(bulk_call *call, float *work, int act_parts, int weight_parts)
{
    const size_t step_cells = (size_t)act_parts * CELLS;
    const size_t tile_cells = call->n_steps * step_cells;
    const uint16_t *tokens =
        call->act->values + call->token / TILE * tile_cells + call->now.step * step_cells;
    const size_t later = call->now.n_steps * step_cells;
    const uint32_t n_pairs = (call->n_tok + 2 * TILE - 1) / (2 * TILE);
    const uint32_t to_unpack = call->next.n_steps * 2;
    const uint32_t turns = n_pairs * call->now.n_steps;
    uint32_t turn = 0;
    call->sum_lines = (4 * TILE + call->now.n_steps - 1) / call->now.n_steps;
    call->token_lines = 2 * TILE * (uint32_t)act_parts / (PHI_BULK_BLOCKS / 2);
    call->first_line = (call->now.block - call->block_begin) / 2 * call->token_lines;
    for (uint32_t pair = 0; pair < n_pairs; pair++) {
        load_sums(work, call->now.step == 0);
        const uint16_t *at = tokens;
        const uint16_t *rows = call->panel;
        for (uint32_t s = 0; s < call->now.n_steps; s++) {
            if (act_parts == 1) {
                /* Stores between here and the products: a load behind them might wait for them,
                 * and they for the products before. */
                load_rows(rows, 0);
                load_tokens(at, tile_cells, 0);
            } else {
                step_products(at, tile_cells, rows, weight_parts);
            }
            fetch(call, work, at + later, tile_cells, s, act_parts);
            at += step_cells;
            rows += (size_t)weight_parts * 2 * CELLS;
            turn++;
            unpack_until(call, to_unpack * turn / turns, weight_parts);
            if (act_parts == 1) {
                phi_amx_multiply();
            }
        }
        store_sums(work);
        tokens += 2 * tile_cells;
        work += (size_t)4 * 256;
    }
}

static void multiply_any(bulk_call *call, float *work)
{
    switch (call->weight->kind) {
    case PHI_WEIGHT_FP32:
        multiply_panel(call, work, 3, 3);
        break;
    case PHI_WEIGHT_FP16:
        multiply_panel(call, work, 3, 2);
        break;
    case PHI_WEIGHT_BF16:
        multiply_panel(call, work, 3, 1);
        break;
    default:
        multiply_panel(call, work, 1, 1);
    }
}

static void multiply_group(bulk_call *call, uint16_t *panels[2], size_t pair_cells)
{
    do {
        const size_t pair = (call->now.block - call->block_begin) / 2;
        call->n_unpacked = 0;
        call->next = place_after(call, call->now);
        call->unpacked = call->panel == panels[0] ? panels[1] : panels[0];
        multiply_any(call, call->work + pair * pair_cells);
        call->panel = call->unpacked;
        call->now = call->next;
    } while (call->now.n_steps && (call->now.step > 0 || call->now.block > call->block_begin));
    store_results(call, pair_cells);
}

static void rows(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                 const phi_bulk_act *act, float *work, float *y, size_t ldy)
{
    _Alignas(64) uint16_t memory[2][PANEL_TILES * CELLS];
    uint16_t *panels[2] = {memory[0], memory[1]};
    const uint32_t parts = phi_amx_weight_parts(weight->kind);
    const uint32_t group = act->n_tok < GROUP_TOKENS ? act->n_tok : GROUP_TOKENS;
    const size_t pair_cells =
        ((size_t)group + PHI_BULK_TOKENS - 1) / PHI_BULK_TOKENS * PHI_BULK_TOKENS * 2 * BLOCK;
    bulk_call call = {.weight = weight,
                      .act = act,
                      .work = work,
                      .y = y,
                      .ldy = ldy,
                      .n_steps = (weight->cols + STEP - 1) / STEP,
                      .block_begin = block_begin,
                      .block_end = block_end,
                      .panel_steps = PANEL_TILES / (2 * parts),
                      .panel = panels[0],
                      .unpacked = panels[0]};
    PHI_ASSERT(weight->cols == act->cols && act->parts == phi_amx_act_parts(weight->kind));
    PHI_ASSERT(block_begin % 2 == 0 && block_end - block_begin <= PHI_BULK_BLOCKS);
    phi_amx_configure();
    const uint32_t first = call.n_steps < call.panel_steps ? call.n_steps : call.panel_steps;
    call.next = (panel_place){.block = block_begin, .n_steps = first};
    unpack_until(&call, first * 2, (int)parts);
    call.now = call.next;
    for (; call.token < act->n_tok; call.token += GROUP_TOKENS) {
        const uint32_t left = act->n_tok - call.token;
        call.n_tok = left < GROUP_TOKENS ? left : GROUP_TOKENS;
        multiply_group(&call, panels, pair_cells);
    }
    /* Tiles in their initial state need not be saved at each switch of threads. */
    _tile_release();
}

const phi_bulk phi_amx_bulk = {
    .instruction = "tdpbf16ps",
    .act_parts = phi_amx_act_parts,
    .pack = phi_amx_bulk_pack,
    .rows = rows,
    .pack_query = phi_amx_pack_query,
    .attend = phi_amx_attend,
};
