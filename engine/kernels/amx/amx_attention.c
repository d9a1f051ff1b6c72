/*
 * Attention of a prompt's rows on AMX tiles. A block of keys and values becomes bf16 tiles once for
 * all rows; then 32 rows at a time are scored, weighed and summed. The tiles' products of some rows
 * go on while AVX-512 weighs the ones before.
 *
 * A number is the sum of two bf16 ones, which have 16 of fp32's 24 bits, more than fp16 and the
 * INT8 codes have, of which one part is enough. Of their four products, that of the two small parts
 * is left out.
 *
 * Blocks begin at multiples of their length, and a row's largest score is looked at once a block:
 * so a row's bits depend on its position and on what it sees alone.
 */
#include "engine/kernels/amx/amx_attention.h"

#include "base/assert.h"
#include "engine/kernels/amx/amx_tiles.h"
#include "engine/kernels/avx512/avx512_exp2.h"

#include <math.h>
#include <string.h>

#define PAGE PHI_KV_PAGE_TOKENS
#define BLOCK_PAGES PHI_BULK_ATTEND_PAGES
#define KEYS ((size_t)BLOCK_PAGES * PAGE)
#define PAIR PHI_BULK_TOKENS
#define TILE PHI_BULK_TILE
#define STEP PHI_BULK_STEP
#define CELLS PHI_AMX_TILE_CELLS
#define Q_PARTS 2
#define WEIGHT_PARTS 2
#define LOG2_E 0x1.715476p+0F
#define LN_2 0x1.62e43p-1F
/* Registers of a row's scores. */
#define LANES 16
#define SCORES ((int)(KEYS / LANES))

/* What a pair of row tiles sees of the block: pages [page_begin, page_end), none if they meet. */
typedef struct pair_view {
    uint32_t pair;
    uint32_t page_begin;
    uint32_t page_end;
} pair_view;

typedef struct attend_call {
    const phi_attend *attend;
    size_t steps;     /* of 32 dims */
    size_t dim_tiles; /* of 16 */
    size_t padded;    /* a row of sums */
    int parts;        /* of keys and of values */
    uint32_t n_pairs;
    uint32_t last;       /* the last position that is seen */
    uint32_t first_page; /* of the block */
    uint16_t *keys;      /* [pages][steps][parts][2] tiles */
    uint16_t *values;    /* [pairs of dim tiles][pages][parts][2] tiles */
    float *key_scales;   /* [KEYS], and those of values; INT8 */
    float *value_scales;
    float *scores[2];     /* [32][KEYS], by odd and even pairs */
    uint16_t *weights[2]; /* [2 tiles][pages][parts] tiles */
    float *lane_sums;     /* [rows][16] */
    /* What is weighed beside the products: piece n_weighed is the next of n_to_weigh; so many are
     * due, and with each product `rate` more, in 2^-16. */
    uint32_t pair;
    phi_attend_span span; /* of the row */
    uint32_t n_weighed;
    uint32_t n_to_weigh;
    uint32_t due;
    uint32_t rate;
    /* What is fetched for the next block meanwhile: the heads' shares, side by side. */
    const char *ahead[PHI_BULK_ATTEND_PAGES];
    uint32_t n_ahead;
    size_t next_ahead; /* byte */
    size_t ahead_bytes;
} attend_call;

/* ---- keys and values ---- */

PHI_STAMP __m512 load_elements(const char *plane, size_t index, phi_kv_type type)
{
    const char *from = plane + index * (type == PHI_KV_F16 ? 2 : 1);
    if (type == PHI_KV_F16) {
        return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)from));
    }
    __m128i codes = _mm_loadu_si128((const __m128i *)(const void *)from);
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
}

/* The first n of them, and zeros. */
PHI_STAMP __m512 load_some(const char *plane, size_t index, size_t n, phi_kv_type type)
{
    const char *from = plane + index * (type == PHI_KV_F16 ? 2 : 1);
    const __mmask16 mask = (__mmask16)(n >= LANES ? 0xffffU : (1U << n) - 1);
    if (type == PHI_KV_F16) {
        return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, from));
    }
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, from)));
}

PHI_STAMP void unpack_keys(const attend_call *call, const char *plane, uint16_t *out,
                           phi_kv_type type)
{
    const int parts = type == PHI_KV_F16 ? 2 : 1;
    const size_t d = call->attend->head_dim;
    for (size_t c = 0; c < call->steps * STEP; c += 2) {
        uint16_t *to = out + c / STEP * (size_t)parts * 2 * CELLS + c % STEP / 2 * STEP;
        PHI_UNROLL
        for (size_t half = 0; half < 2; half++) {
            const size_t at = c * PAGE + half * LANES;
            __m512 even = _mm512_setzero_ps();
            __m512 odd = even;
            if (c + 1 < d) {
                even = load_elements(plane, at, type);
                odd = load_elements(plane, at + PAGE, type);
            } else if (c < d) {
                even = load_elements(plane, at, type);
            }
            phi_amx_store_pair(even, odd, parts, to + half * CELLS, (size_t)2 * CELLS);
        }
    }
}

/* Slots from n on may hold what is not a number, and count as zeros. */
PHI_STAMP void unpack_values(const attend_call *call, const char *plane, uint32_t n, uint16_t *out,
                             phi_kv_type type)
{
    const int parts = type == PHI_KV_F16 ? 2 : 1;
    const size_t d = call->attend->head_dim;
    for (size_t tile = 0; tile < call->dim_tiles; tile++) {
        const size_t left = d - tile * TILE;
        uint16_t *to = out + tile / 2 * BLOCK_PAGES * (size_t)parts * 2 * CELLS + tile % 2 * CELLS;
        for (uint32_t slot = 0; slot < PAGE; slot += 2) {
            const size_t at = slot * d + tile * TILE;
            __m512 even;
            __m512 odd;
            if (left >= TILE && slot + 1 < n) {
                even = load_elements(plane, at, type);
                odd = load_elements(plane, at + d, type);
            } else {
                even = load_some(plane, at, slot < n ? left : 0, type);
                odd = load_some(plane, at + d, slot + 1 < n ? left : 0, type);
            }
            phi_amx_store_pair(even, odd, parts, to + (size_t)slot * TILE, (size_t)2 * CELLS);
        }
    }
}

/* Page i of the block. */
static void unpack_page(const attend_call *call, uint32_t i)
{
    const phi_attend *at = call->attend;
    char *page = at->pages[call->first_page + i];
    const phi_kv_head head = phi_kv_head_at(at->type, at->head_dim, page + at->head_offset);
    const uint32_t left = call->last + 1 - (call->first_page + i) * PAGE;
    const size_t page_cells = (size_t)call->parts * 2 * CELLS;
    uint16_t *keys = call->keys + i * call->steps * page_cells;
    uint16_t *values = call->values + i * page_cells;
    if (at->type == PHI_KV_F16) {
        unpack_keys(call, head.keys, keys, PHI_KV_F16);
        unpack_values(call, head.values, left, values, PHI_KV_F16);
        return;
    }
    unpack_keys(call, head.keys, keys, PHI_KV_INT8);
    unpack_values(call, head.values, left, values, PHI_KV_INT8);
    PHI_ASSERT(head.key_scales && head.value_scales);
    memcpy(call->key_scales + (size_t)i * PAGE, head.key_scales, PAGE * sizeof(float));
    memcpy(call->value_scales + (size_t)i * PAGE, head.value_scales, PAGE * sizeof(float));
}

/* ---- weights ---- */

/* A larger score has come: what was summed so far counts for less. */
static void shrink(const attend_call *call, size_t row, float larger)
{
    float *acc = call->attend->acc + row * call->padded;
    float *sums = call->lane_sums + row * LANES;
    const __m512 factor = phi_avx512_exp2(_mm512_set1_ps(call->attend->max[row] - larger));
    call->attend->max[row] = larger;
    for (size_t i = 0; i < call->padded; i += LANES) {
        _mm512_storeu_ps(acc + i, _mm512_mul_ps(factor, _mm512_loadu_ps(acc + i)));
    }
    _mm512_storeu_ps(sums, _mm512_mul_ps(factor, _mm512_loadu_ps(sums)));
}

/* Keys of the block that a row sees. */
static phi_attend_span span_of(const attend_call *call, uint32_t row)
{
    const phi_attend *at = call->attend;
    const uint32_t first_key = call->first_page * PAGE;
    const uint32_t position = at->position + (at->first_row + row) / at->group;
    const uint32_t first = at->window && position >= at->window ? position - at->window + 1 : 0;
    if (row >= at->n_rows || position < first_key || first >= first_key + KEYS) {
        return (phi_attend_span){0, 0};
    }
    return (phi_attend_span){
        .begin = first > first_key ? first - first_key : 0,
        .end = position + 1 - first_key < KEYS ? position + 1 - first_key : (uint32_t)KEYS,
    };
}

/* Those of 16 keys from `slot` on that lie in the span. */
PHI_STAMP __mmask16 seen(phi_attend_span span, int slot)
{
    const __m512i slots =
        _mm512_add_epi32(_mm512_set1_epi32(slot),
                         _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    return _mm512_cmplt_epu32_mask(slots, _mm512_set1_epi32((int)span.end)) &
           _mm512_cmpge_epu32_mask(slots, _mm512_set1_epi32((int)span.begin));
}

/* The row's largest score is looked for. */
PHI_STAMP void find_max(const attend_call *call, size_t row, const float *scores, int is_partial,
                        int has_scales)
{
    __m512 best = _mm512_set1_ps(-INFINITY);
    PHI_UNROLL
    for (int v = 0; v < SCORES; v++) {
        __m512 s = _mm512_load_ps(scores + v * LANES);
        if (has_scales) {
            s = _mm512_mul_ps(s, _mm512_load_ps(call->key_scales + v * LANES));
        }
        /* max gives its second argument back when one is NaN. */
        best = is_partial ? _mm512_mask_max_ps(best, seen(call->span, v * LANES), s, best)
                          : _mm512_max_ps(s, best);
    }
    if (_mm512_cmp_ps_mask(best, _mm512_set1_ps(call->attend->max[row]), _CMP_GT_OQ)) {
        shrink(call, row, _mm512_reduce_max_ps(best));
    }
}

/* Scores of a page's keys become the row's parts of two tiles of weights. */
PHI_STAMP void weigh_page(const attend_call *call, size_t row, const float *scores, uint32_t page,
                          uint16_t *out, int is_partial, int has_scales)
{
    const __m512 high = _mm512_castsi512_ps(_mm512_set1_epi32((int)0xffff0000U));
    const __m512 max = _mm512_set1_ps(call->attend->max[row]);
    __m512 sum = _mm512_load_ps(call->lane_sums + row * LANES);
    __m512 w[2];
    __m512 cut[2];
    PHI_UNROLL
    for (int v = 0; v < 2; v++) {
        const size_t slot = (size_t)page * PAGE + (size_t)v * LANES;
        const __mmask16 mask = is_partial ? seen(call->span, (int)slot) : 0xffffU;
        w[v] = _mm512_load_ps(scores + slot);
        if (has_scales) {
            w[v] = _mm512_mul_ps(w[v], _mm512_load_ps(call->key_scales + slot));
        }
        w[v] = phi_avx512_exp2(_mm512_sub_ps(w[v], max));
        if (is_partial) {
            w[v] = _mm512_maskz_mov_ps(mask, w[v]);
        }
        sum = _mm512_add_ps(sum, w[v]);
        if (has_scales) {
            w[v] = _mm512_maskz_mul_ps(mask, w[v], _mm512_load_ps(call->value_scales + slot));
        }
        cut[v] = _mm512_and_ps(w[v], high);
        w[v] = _mm512_sub_ps(w[v], cut[v]);
    }
    _mm512_store_ps(call->lane_sums + row * LANES, sum);
    _mm512_store_si512((void *)out, (__m512i)_mm512_cvtne2ps_pbh(cut[1], cut[0]));
    _mm512_store_si512((void *)(out + CELLS), (__m512i)_mm512_cvtne2ps_pbh(w[1], w[0]));
}

/* Pieces of a row: its largest score, then a page each. */
#define ROW_PIECES (1U + BLOCK_PAGES)

PHI_STAMP void weigh_piece_of(attend_call *call, uint32_t row, uint32_t piece, const float *scores,
                              uint16_t *out, int has_scales)
{
    const bool is_whole = call->span.begin == 0 && call->span.end == KEYS;
    if (piece == 0) {
        if (is_whole) {
            find_max(call, row, scores, 0, has_scales);
        } else if (call->span.begin < call->span.end) {
            find_max(call, row, scores, 1, has_scales);
        }
        return;
    }
    const uint32_t page = piece - 1;
    out += (size_t)page * WEIGHT_PARTS * CELLS;
    if (is_whole) {
        weigh_page(call, row, scores, page, out, 0, has_scales);
    } else if (call->span.begin < (page + 1) * PAGE && call->span.end > page * PAGE) {
        weigh_page(call, row, scores, page, out, 1, has_scales);
    } else {
        _mm512_store_si512((void *)out, _mm512_setzero_si512());
        _mm512_store_si512((void *)(out + CELLS), _mm512_setzero_si512());
    }
}

static void weigh_piece(attend_call *call, uint32_t index)
{
    const uint32_t pair = call->pair;
    const uint32_t i = index / ROW_PIECES;
    const uint32_t piece = index % ROW_PIECES;
    const float *scores = call->scores[pair % 2] + i * KEYS;
    uint16_t *out = call->weights[pair % 2] + i / TILE * BLOCK_PAGES * WEIGHT_PARTS * CELLS +
                    (size_t)(i % TILE) * STEP;
    if (piece == 0) {
        call->span = span_of(call, pair * PAIR + i);
    }
    if (call->attend->type == PHI_KV_INT8) {
        weigh_piece_of(call, pair * PAIR + i, piece, scores, out, 1);
    } else {
        weigh_piece_of(call, pair * PAIR + i, piece, scores, out, 0);
    }
}

static void begin_weighing(attend_call *call, pair_view view, uint32_t n_products)
{
    call->pair = view.pair;
    call->n_weighed = 0;
    call->n_to_weigh = view.page_begin < view.page_end ? PAIR * ROW_PIECES : 0;
    call->due = 0;
    call->rate = n_products ? (call->n_to_weigh << 16) / n_products : 0;
}

PHI_STAMP void weigh_beside(attend_call *call)
{
    for (call->due += call->rate; call->n_weighed < call->due >> 16; call->n_weighed++) {
        weigh_piece(call, call->n_weighed);
    }
}

static void finish_weighing(attend_call *call)
{
    for (; call->n_weighed < call->n_to_weigh; call->n_weighed++) {
        weigh_piece(call, call->n_weighed);
    }
}

/* ---- the next block ---- */

static void begin_fetching(attend_call *call)
{
    const phi_attend *at = call->attend;
    const uint32_t next = call->first_page + BLOCK_PAGES;
    void *const *pages = at->later_pages;
    size_t offset = at->later_offset;
    uint32_t left = at->n_later;
    if (next < at->pages_end) {
        pages = at->pages + next;
        offset = at->head_offset;
        left = at->pages_end - next;
    }
    call->n_ahead = left < BLOCK_PAGES ? left : BLOCK_PAGES;
    for (uint32_t i = 0; i < call->n_ahead; i++) {
        call->ahead[i] = (const char *)pages[i] + offset;
    }
    call->next_ahead = 0;
    call->ahead_bytes = phi_kv_head_bytes(at->type, at->head_dim);
}

PHI_STAMP void fetch_beside(attend_call *call)
{
    if (call->next_ahead < call->ahead_bytes) {
        for (uint32_t i = 0; i < call->n_ahead; i++) {
            _mm_prefetch(call->ahead[i] + call->next_ahead, _MM_HINT_T1);
        }
        call->next_ahead += 64;
    }
}

/* ---- products ---- */

PHI_STAMP void work_beside(attend_call *call)
{
    fetch_beside(call);
    weigh_beside(call);
}

PHI_STAMP void load_left(const uint16_t *left, size_t apart)
{
    _tile_loadd(LEFT_0, left, PHI_AMX_ROW_BYTES);
    _tile_loadd(LEFT_1, left + apart, PHI_AMX_ROW_BYTES);
}

PHI_STAMP void load_right(const uint16_t *right)
{
    _tile_loadd(RIGHT_0, right, PHI_AMX_ROW_BYTES);
    _tile_loadd(RIGHT_1, right + CELLS, PHI_AMX_ROW_BYTES);
}

/* 32 rows of the left, in two tiles that lie apart, with 32 columns of the right. */
PHI_STAMP void multiply_parts(attend_call *call, const uint16_t *left, size_t apart,
                              const uint16_t *right, int parts)
{
    load_right(right);
    load_left(left + CELLS, apart);
    work_beside(call);
    phi_amx_multiply();
    load_left(left, apart);
    work_beside(call);
    phi_amx_multiply();
    if (parts == 2) {
        load_right(right + (size_t)2 * CELLS);
        work_beside(call);
        phi_amx_multiply();
    }
}

/* The scores of a pair for one page. */
PHI_STAMP void score_page(attend_call *call, uint32_t pair, uint32_t page, int parts)
{
    const size_t apart = call->steps * Q_PARTS * CELLS;
    const uint16_t *q = call->attend->q_tiles + pair * 2 * apart;
    const uint16_t *keys = call->keys + page * call->steps * (size_t)parts * 2 * CELLS;
    float *out = call->scores[pair % 2] + (size_t)page * PAGE;
    phi_amx_zero_sums();
    for (size_t s = 0; s < call->steps; s++) {
        multiply_parts(call, q + s * Q_PARTS * CELLS, apart, keys + s * (size_t)parts * 2 * CELLS,
                       parts);
    }
    _tile_stored(SUMS_00, out, KEYS * sizeof(float));
    _tile_stored(SUMS_01, out + TILE, KEYS * sizeof(float));
    _tile_stored(SUMS_10, out + TILE * KEYS, KEYS * sizeof(float));
    _tile_stored(SUMS_11, out + TILE * KEYS + TILE, KEYS * sizeof(float));
}

/* A pair's sums over the block of 32 dims, or 16. */
PHI_STAMP void sum_dims(attend_call *call, pair_view view, size_t dims, int parts)
{
    const bool both = 2 * dims + 1 < call->dim_tiles;
    const size_t apart = (size_t)BLOCK_PAGES * WEIGHT_PARTS * CELLS;
    const size_t padded = call->padded;
    const uint16_t *weights = call->weights[view.pair % 2];
    const uint16_t *values = call->values + dims * BLOCK_PAGES * (size_t)parts * 2 * CELLS;
    float *acc = call->attend->acc + (size_t)view.pair * PAIR * padded + dims * 2 * TILE;
    _tile_loadd(SUMS_00, acc, padded * sizeof(float));
    _tile_loadd(SUMS_10, acc + TILE * padded, padded * sizeof(float));
    if (both) {
        _tile_loadd(SUMS_01, acc + TILE, padded * sizeof(float));
        _tile_loadd(SUMS_11, acc + TILE * padded + TILE, padded * sizeof(float));
    }
    for (uint32_t page = view.page_begin; page < view.page_end; page++) {
        multiply_parts(call, weights + page * (size_t)WEIGHT_PARTS * CELLS, apart,
                       values + page * (size_t)parts * 2 * CELLS, parts);
    }
    _tile_stored(SUMS_00, acc, padded * sizeof(float));
    _tile_stored(SUMS_10, acc + TILE * padded, padded * sizeof(float));
    if (both) {
        _tile_stored(SUMS_01, acc + TILE, padded * sizeof(float));
        _tile_stored(SUMS_11, acc + TILE * padded + TILE, padded * sizeof(float));
    }
}

/* ---- a block ---- */

static pair_view view_of(const attend_call *call, uint32_t pair)
{
    pair_view view = {.pair = pair};
    const uint32_t first = pair * PAIR;
    const uint32_t n_rows = call->attend->n_rows;
    const uint32_t last = (first + PAIR < n_rows ? first + PAIR : n_rows) - 1;
    const phi_attend_span begin = span_of(call, first);
    const phi_attend_span end = span_of(call, last);
    /* The last row sees furthest, the first one furthest back; one that sees nothing has fallen out
     * of the window, or comes before the block. */
    if (end.begin < end.end) {
        view.page_begin = begin.begin < begin.end ? begin.begin / PAGE : 0;
        view.page_end = (end.end + PAGE - 1) / PAGE;
    } else if (begin.begin < begin.end) {
        view.page_begin = begin.begin / PAGE;
        view.page_end = BLOCK_PAGES;
    }
    return view;
}

static uint32_t products_of(const attend_call *call, pair_view scored, pair_view summed, int parts)
{
    const uint32_t pages =
        scored.page_end - scored.page_begin + summed.page_end - summed.page_begin;
    return pages * (uint32_t)call->steps * (parts == 2 ? 3 : 2);
}

/* One turn: the pairs before, now and after are summed, weighed and scored. */
PHI_STAMP void run_turn(attend_call *call, pair_view before, pair_view now, pair_view after,
                        int parts)
{
    begin_weighing(call, now, products_of(call, after, before, parts));
    for (uint32_t page = after.page_begin; page < after.page_end; page++) {
        score_page(call, after.pair, page, parts);
    }
    for (size_t dims = 0; dims < call->steps && before.page_begin < before.page_end; dims++) {
        sum_dims(call, before, dims, parts);
    }
    finish_weighing(call);
}

static void run_block(attend_call *call, uint32_t page_begin, uint32_t page_end)
{
    const pair_view none = {0};
    pair_view before = none;
    pair_view now = none;
    for (uint32_t page = page_begin; page < page_end; page++) {
        unpack_page(call, page - call->first_page);
    }
    begin_fetching(call);
    for (uint32_t turn = 0; turn < call->n_pairs + 2; turn++) {
        const pair_view after = turn < call->n_pairs ? view_of(call, turn) : none;
        if (call->parts == 2) {
            run_turn(call, before, now, after, 2);
        } else {
            run_turn(call, before, now, after, 1);
        }
        before = now;
        now = after;
    }
}

static void lay_out(attend_call *call, float *work)
{
    const size_t plane = KEYS * call->steps * STEP;
    call->keys = (uint16_t *)(void *)work;
    call->values = (uint16_t *)(void *)(work + plane);
    work += 2 * plane;
    call->key_scales = work;
    call->value_scales = work + KEYS;
    work += 2 * KEYS;
    for (int i = 0; i < 2; i++, work += 2 * PAIR * KEYS) {
        call->scores[i] = work;
        call->weights[i] = (uint16_t *)(void *)(work + PAIR * KEYS);
    }
    call->lane_sums = work;
}

static void clear(const attend_call *call)
{
    const size_t n_rows = (size_t)call->n_pairs * PAIR;
    memset(call->attend->acc, 0, n_rows * call->padded * sizeof(float));
    memset(call->lane_sums, 0, n_rows * LANES * sizeof(float));
    for (size_t i = 0; i < n_rows; i++) {
        call->attend->max[i] = -INFINITY;
    }
}

void phi_amx_attend(const phi_attend *attend, uint32_t page_begin, uint32_t page_end)
{
    const size_t d = attend->head_dim;
    attend_call call = {.attend = attend,
                        .steps = (d + STEP - 1) / STEP,
                        .dim_tiles = (d + TILE - 1) / TILE,
                        .padded = PHI_ATTEND_PADDED(d),
                        .parts = attend->type == PHI_KV_F16 ? 2 : 1,
                        .n_pairs = (attend->n_rows + PAIR - 1) / PAIR,
                        .last = attend->position +
                                (attend->first_row + attend->n_rows - 1) / attend->group};
    PHI_ASSERT(attend->type != PHI_KV_F32 && attend->n_rows > 0);
    PHI_ASSERT(attend->n_rows <= PHI_BULK_ATTEND_ROWS);
    lay_out(&call, attend->work);
    clear(&call);
    phi_amx_configure();
    const uint32_t seen_end = call.last / PAGE + 1;
    page_end = page_end < seen_end ? page_end : seen_end;
    for (uint32_t page = page_begin; page < page_end;) {
        const uint32_t end = (page / BLOCK_PAGES + 1) * BLOCK_PAGES;
        call.first_page = end - BLOCK_PAGES;
        run_block(&call, page, end < page_end ? end : page_end);
        page = end;
    }
    _tile_release();
    for (uint32_t i = 0; i < attend->n_rows; i++) {
        attend->max[i] *= LN_2;
        attend->sum[i] = _mm512_reduce_add_ps(_mm512_load_ps(call.lane_sums + (size_t)i * LANES));
    }
}

void phi_amx_pack_query(const float *x, uint32_t row, const phi_attend *attend)
{
    const size_t d = attend->head_dim;
    const size_t steps = (d + STEP - 1) / STEP;
    const __m512 scale = _mm512_set1_ps(attend->scale * LOG2_E);
    uint16_t *out =
        attend->q_tiles + row / TILE * steps * Q_PARTS * CELLS + (size_t)(row % TILE) * STEP;
    for (size_t c = 0; c < d; c += STEP, out += (size_t)Q_PARTS * CELLS) {
        const size_t left = d - c;
        __m512 low = phi_amx_load_some(x + c, left);
        __m512 high =
            left > LANES ? phi_amx_load_some(x + c + LANES, left - LANES) : _mm512_setzero_ps();
        phi_amx_store_row(_mm512_mul_ps(scale, low), _mm512_mul_ps(scale, high), Q_PARTS, out,
                          CELLS);
    }
}
