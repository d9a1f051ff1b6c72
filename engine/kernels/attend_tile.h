/*
 * Purpose: attention over pages for any width of register: the one algorithm that the SIMD sets
 *          share. A set's file defines its lanes and includes this once.
 * Owns:    nothing. Threads: any. Errors: none.
 * Limits:  kernels.h and attend.h say what the functions do. The including file must have defined
 *            LANES                floats in a register; divides 16
 *            lanes                the register
 *            QK_ROWS              query rows whose scores are made together: 8, 4 or 2
 *            PV_ROWS, PV_LANES    query rows and registers of dims whose sums are made together
 *            FEW_SUMS             registers of scores that a few rows have for several pages
 *          and, as static inline functions, lanes_zero, lanes_set, lanes_load, lanes_store,
 *          lanes_of_f16, lanes_of_i8, lanes_to_f16, lanes_add, lanes_mul, lanes_fma (a * b + c),
 *          lanes_max (the second where one is NaN), lanes_exp2, lanes_any_above, lanes_top and
 *          lanes_total; and as PHI_STAMP lanes_prefetch: calls of a function that does nothing else
 *          are dropped by compilers that see so before they inline it.
 *
 * Scores run with keys side by side and one query value spread over the register; sums of values
 * run with dims side by side and one weight spread. So nothing is summed across a register but the
 * softmax's sum, once a run. Each score takes its dims in order and each sum its keys in order,
 * whatever the tile: a row's result does not depend on its neighbours.
 */
#ifndef PHI_ENGINE_KERNELS_ATTEND_TILE_H
#define PHI_ENGINE_KERNELS_ATTEND_TILE_H

#ifdef LANES

#include "base/assert.h"
#include "config/limits.h"
#include "engine/kernels/attend.h"
#include "engine/kernels/unroll.h"
#include "engine/tensor/half.h"

#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

/* Registers that hold a score of each key of a page. */
#define KEYS ((int)(PHI_KV_PAGE_TOKENS / LANES))
#define TILE ((int)PHI_ATTEND_TILE)
/* With more rows than this a page is turned into floats once for all of them. */
#define WIDEN_ROWS 8U
#define LOG2_E 0x1.715476p+0F

/* Pages that a few rows take together, so that their scores, each a chain of additions that wait
 * for one another, are made side by side; and that memory has that much to fetch ahead. */
#define FEW_PAGES 4

/* A page as the tiles read it. */
typedef struct page_part {
    phi_kv_type type; /* as it lies, or F32 where it was widened */
    const char *keys;
    const char *values;
    size_t values_stride; /* elements from one key's values to the next's */
    const float *key_scales;
    const float *value_scales;
    size_t values_bytes;   /* of those that are seen */
    const char *next_page; /* to fetch ahead where this page was widened, keys and values */
} page_part;

/* Keys of several pages, to fetch ahead side by side: of one page at a time memory sends less. */
typedef struct fetch_list {
    const char *from[FEW_PAGES];
    int n;       /* pages */
    int page;    /* the next line's */
    size_t next; /* byte of its keys */
    size_t end;
    int lines; /* to ask for at a time */
} fetch_list;

/* One tile of one page. */
typedef struct tile_run {
    const phi_attend *attend;
    const page_part *page;
    fetch_list *ahead; /* of a few rows; or NULL */
    size_t row;        /* the tile's first */
    int n_rows;
    phi_attend_span spans[PHI_ATTEND_TILE];
    /* Scores, then weights of the values; a register may not lie across two cache lines. */
    _Alignas(64) float p[PHI_ATTEND_TILE][PHI_KV_PAGE_TOKENS];
} tile_run;

/* Asks for the lines of `bytes` at `from`. */
PHI_STAMP void fetch(const char *from, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64) {
        lanes_prefetch(from + i);
    }
}

PHI_STAMP void fetch_lines(fetch_list *list, int lines)
{
    for (int i = 0; i < lines && list->next < list->end; i++) {
        lanes_prefetch(list->from[list->page] + list->next);
        list->page++;
        if (list->page == list->n) {
            list->page = 0;
            list->next += 64;
        }
    }
}

PHI_STAMP lanes load_elements(const char *from, size_t index, phi_kv_type type)
{
    if (type == PHI_KV_F16) {
        return lanes_of_f16((const uint16_t *)(const void *)from + index);
    }
    if (type == PHI_KV_F32) {
        return lanes_load((const float *)(const void *)from + index);
    }
    return lanes_of_i8((const int8_t *)(const void *)from + index);
}

static float *lane_sums(const phi_attend *attend, size_t row)
{
    return attend->work + PHI_KV_PAGE_TOKENS * 2 * PHI_ATTEND_PADDED(attend->head_dim) + row * 16;
}

/* A larger score has come: what was summed so far counts for less. */
static void shrink(const phi_attend *attend, size_t row, float larger)
{
    size_t d = PHI_ATTEND_PADDED(attend->head_dim);
    float *acc = attend->acc + row * d;
    float *sums = lane_sums(attend, row);
    float c = attend->scale * LOG2_E;
    lanes factor = lanes_exp2(lanes_set((attend->max[row] - larger) * c));
    attend->max[row] = larger;
    for (size_t i = 0; i < d; i += LANES) {
        lanes_store(acc + i, lanes_mul(factor, lanes_load(acc + i)));
    }
    lanes_store(sums, lanes_mul(factor, lanes_load(sums)));
}

static bool is_whole(phi_attend_span span)
{
    return span.begin == 0 && span.end == PHI_KV_PAGE_TOKENS;
}

/* Scores outside of the span count as minus infinity: what lies there may be anything, the scales
 * too. */
static void hide(float *scores, phi_attend_span span, const float *key_scales)
{
    for (uint32_t j = 0; j < PHI_KV_PAGE_TOKENS; j++) {
        float scale = key_scales ? key_scales[j] : 1.0F;
        scores[j] = j >= span.begin && j < span.end ? scores[j] * scale : -INFINITY;
    }
}

/* Scores of one row become weights, in place. */
static void weigh(tile_run *run, int r)
{
    const phi_attend *attend = run->attend;
    size_t row = run->row + (size_t)r;
    float *p = run->p[r];
    lanes scores[KEYS];
    if (run->spans[r].begin == run->spans[r].end) {
        return;
    }
    const float *key_scales = run->page->key_scales;
    if (!is_whole(run->spans[r])) {
        hide(p, run->spans[r], key_scales);
        key_scales = NULL;
    }
    for (int v = 0; v < KEYS; v++) {
        scores[v] = lanes_load(p + v * LANES);
        if (key_scales) {
            scores[v] = lanes_mul(scores[v], lanes_load(key_scales + v * LANES));
        }
    }
    lanes best = scores[0];
    for (int v = 1; v < KEYS; v++) {
        best = lanes_max(scores[v], best);
    }
    if (lanes_any_above(best, lanes_set(attend->max[row]))) {
        shrink(attend, row, lanes_top(best));
    }
    float c = attend->scale * LOG2_E;
    lanes factor = lanes_set(c);
    lanes shift = lanes_set(-attend->max[row] * c);
    float *sums = lane_sums(attend, row);
    lanes sum = lanes_load(sums);
    for (int v = 0; v < KEYS; v++) {
        lanes weight = lanes_exp2(lanes_fma(scores[v], factor, shift));
        sum = lanes_add(sum, weight);
        if (run->page->value_scales) {
            weight = lanes_mul(weight, lanes_load(run->page->value_scales + v * LANES));
        }
        lanes_store(p + v * LANES, weight);
    }
    lanes_store(sums, sum);
}

/* Rows [first, first + n) of the tile against all keys of the page; n is a constant. */
PHI_STAMP void score_rows(tile_run *run, int first, int n, phi_kv_type type)
{
    const page_part *page = run->page;
    size_t d = run->attend->head_dim;
    const float *q = run->attend->q + run->row * d + (size_t)first;
    lanes acc[QK_ROWS][KEYS];
    for (int r = 0; r < n; r++) {
        for (int v = 0; v < KEYS; v++) {
            acc[r][v] = lanes_zero();
        }
    }
    for (size_t c = 0; c < d; c++) {
        lanes keys[KEYS];
        for (int v = 0; v < KEYS; v++) {
            keys[v] = load_elements(page->keys, c * PHI_KV_PAGE_TOKENS + (size_t)v * LANES, type);
        }
        for (int r = 0; r < n; r++) {
            lanes value = lanes_set(q[c * PHI_ATTEND_TILE + (size_t)r]);
            for (int v = 0; v < KEYS; v++) {
                acc[r][v] = lanes_fma(value, keys[v], acc[r][v]);
            }
        }
    }
    /* Through memory: code this long is not unrolled, and registers cannot be counted through. */
    for (int r = 0; r < n; r++) {
        for (int v = 0; v < KEYS; v++) {
            lanes_store(run->p[first + r] + v * LANES, acc[r][v]);
        }
    }
    for (int r = 0; r < n; r++) {
        weigh(run, first + r);
    }
}

PHI_STAMP void score_tile(tile_run *run, phi_kv_type type)
{
    int r = 0;
    for (; r + QK_ROWS <= run->n_rows; r += QK_ROWS) {
        score_rows(run, r, QK_ROWS, type);
    }
    if (QK_ROWS > 4 && r + 4 <= run->n_rows) {
        score_rows(run, r, 4, type);
        r += 4;
    }
    if (QK_ROWS > 2 && r + 2 <= run->n_rows) {
        score_rows(run, r, 2, type);
        r += 2;
    }
    if (r < run->n_rows) {
        score_rows(run, r, 1, type);
    }
}

/* acc[r, i..] += sum over the span of p[r, j] v[j, i..] for n rows and `width` registers of dims,
 * both constants. */
PHI_STAMP void sum_dims(const tile_run *run, int first, int n, size_t i, int width,
                        phi_kv_type type)
{
    const page_part *page = run->page;
    size_t d = PHI_ATTEND_PADDED(run->attend->head_dim);
    float *out = run->attend->acc + (run->row + (size_t)first) * d + i;
    phi_attend_span span = run->spans[first];
    fetch_list *ahead = first == 0 && i == 0 ? run->ahead : NULL;
    lanes acc[PV_ROWS][PV_LANES];
    for (int r = 0; r < n; r++) {
        for (int v = 0; v < width; v++) {
            acc[r][v] = lanes_load(out + (size_t)r * d + (size_t)v * LANES);
        }
    }
    for (size_t j = span.begin; j < span.end; j++) {
        size_t at = j * page->values_stride + i;
        if (ahead) {
            fetch_lines(ahead, ahead->lines);
        }
        for (int v = 0; v < width; v++) {
            lanes values = load_elements(page->values, at + (size_t)v * LANES, type);
            for (int r = 0; r < n; r++) {
                acc[r][v] = lanes_fma(lanes_set(run->p[first + r][j]), values, acc[r][v]);
            }
        }
    }
    for (int r = 0; r < n; r++) {
        for (int v = 0; v < width; v++) {
            lanes_store(out + (size_t)r * d + (size_t)v * LANES, acc[r][v]);
        }
    }
}

/* All dims of n rows with one span. */
PHI_STAMP void sum_rows(const tile_run *run, int first, int n, int width, phi_kv_type type)
{
    size_t d = run->attend->head_dim;
    size_t i = 0;
    for (; i + (size_t)width * LANES <= d; i += (size_t)width * LANES) {
        sum_dims(run, first, n, i, width, type);
    }
    for (; width > 4 && i + 4 * (size_t)LANES <= d; i += 4 * (size_t)LANES) {
        sum_dims(run, first, n, i, 4, type);
    }
    for (; i + 2 * (size_t)LANES <= d; i += 2 * (size_t)LANES) {
        sum_dims(run, first, n, i, 2, type);
    }
    for (; i < d; i += LANES) {
        sum_dims(run, first, n, i, 1, type);
    }
}

static bool same_spans(const tile_run *run, int first, int n)
{
    for (int r = 1; r < n; r++) {
        if (run->spans[first + r].begin != run->spans[first].begin ||
            run->spans[first + r].end != run->spans[first].end) {
            return false;
        }
    }
    return true;
}

PHI_STAMP void sum_tile(const tile_run *run, phi_kv_type type)
{
    int r = 0;
    while (r < run->n_rows) {
        if (r + PV_ROWS <= run->n_rows && same_spans(run, r, PV_ROWS)) {
            sum_rows(run, r, PV_ROWS, PV_LANES, type);
            r += PV_ROWS;
        } else if (PV_ROWS > 3 && r + 3 <= run->n_rows && same_spans(run, r, 3)) {
            sum_rows(run, r, 3, PV_LANES, type);
            r += 3;
        } else if (PV_ROWS > 2 && r + 2 <= run->n_rows && same_spans(run, r, 2)) {
            sum_rows(run, r, 2, PV_LANES, type);
            r += 2;
        } else {
            sum_rows(run, r, 1, PV_LANES, type);
            r++;
        }
    }
}

/* A tile of a page that was widened. */
static void run_tile(tile_run *run)
{
    score_tile(run, PHI_KV_F32);
    sum_tile(run, PHI_KV_F32);
}

/* ---- a few rows ---- */

/* Raw scores of rows [first, first + n) against `pages` pages, both constants. */
PHI_STAMP void score_block(tile_run *runs, int first, int n, int pages, phi_kv_type type)
{
    size_t d = runs->attend->head_dim;
    const float *q = runs->attend->q + first;
    size_t column = phi_kv_element_bytes(type) * PHI_KV_PAGE_TOKENS;
    lanes acc[FEW_PAGES][QK_ROWS][KEYS];
    for (int p = 0; p < pages; p++) {
        for (int r = 0; r < n; r++) {
            for (int v = 0; v < KEYS; v++) {
                acc[p][r][v] = lanes_zero();
            }
        }
    }
    for (size_t c = 0; c < d; c++) {
        for (int p = 0; p < pages; p++) {
            const page_part *page = runs[p].page;
            if (first == 0 && c * column < page->values_bytes) {
                fetch(page->values + c * column, column);
            }
            for (int v = 0; v < KEYS; v++) {
                size_t at = c * PHI_KV_PAGE_TOKENS + (size_t)v * LANES;
                lanes keys = load_elements(page->keys, at, type);
                for (int r = 0; r < n; r++) {
                    lanes value = lanes_set(q[c * PHI_ATTEND_TILE + (size_t)r]);
                    acc[p][r][v] = lanes_fma(value, keys, acc[p][r][v]);
                }
            }
        }
    }
    for (int p = 0; p < pages; p++) {
        for (int r = 0; r < n; r++) {
            for (int v = 0; v < KEYS; v++) {
                lanes_store(runs[p].p[first + r] + v * LANES, acc[p][r][v]);
            }
        }
    }
}

/* n rows against all pages, as many at once as there are registers for. */
PHI_STAMP void score_pages(tile_run *runs, int n_pages, int first, int n, phi_kv_type type)
{
    int at_once = FEW_SUMS / (n * KEYS);
    int p = 0;
    for (; at_once >= 4 && p + 4 <= n_pages; p += 4) {
        score_block(runs + p, first, n, 4, type);
    }
    for (; at_once >= 2 && p + 2 <= n_pages; p += 2) {
        score_block(runs + p, first, n, 2, type);
    }
    for (; p < n_pages; p++) {
        score_block(runs + p, first, n, 1, type);
    }
}

PHI_STAMP void run_few_of(tile_run *runs, int n_pages, phi_kv_type type)
{
    int n_rows = runs->n_rows;
    int r = 0;
    for (; QK_ROWS >= 4 && r + 4 <= n_rows; r += 4) {
        score_pages(runs, n_pages, r, 4, type);
    }
    if (QK_ROWS >= 4 && r + 3 <= n_rows) {
        score_pages(runs, n_pages, r, 3, type);
        r += 3;
    }
    for (; r + 2 <= n_rows; r += 2) {
        score_pages(runs, n_pages, r, 2, type);
    }
    if (r < n_rows) {
        score_pages(runs, n_pages, r, 1, type);
    }
    for (int p = 0; p < n_pages; p++) {
        for (r = 0; r < n_rows; r++) {
            weigh(&runs[p], r);
        }
        sum_tile(&runs[p], type);
    }
    /* Where few of a page's tokens are seen. */
    fetch_lines(runs->ahead, INT_MAX);
}

static void run_few(tile_run *runs, int n_pages)
{
    switch (runs->page->type) {
    case PHI_KV_F16:
        run_few_of(runs, n_pages, PHI_KV_F16);
        break;
    case PHI_KV_F32:
        run_few_of(runs, n_pages, PHI_KV_F32);
        break;
    case PHI_KV_INT8:
        run_few_of(runs, n_pages, PHI_KV_INT8);
        break;
    }
}

/* ---- a page in floats ---- */

PHI_STAMP void widen_run(const char *from, size_t first, size_t n, phi_kv_type type, float *to)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        lanes_store(to + i, load_elements(from, first + i, type));
    }
    for (; i < n; i++) {
        const void *at = from + (first + i) * phi_kv_element_bytes(type);
        to[i] = type == PHI_KV_F16   ? phi_half_to_float(*(const uint16_t *)at)
                : type == PHI_KV_F32 ? *(const float *)at
                                     : (float)*(const int8_t *)at;
    }
}

PHI_STAMP void widen_of(const phi_attend *attend, page_part *page, phi_kv_type type)
{
    size_t d = attend->head_dim;
    size_t padded = PHI_ATTEND_PADDED(d);
    float *keys = attend->work;
    float *values = keys + PHI_KV_PAGE_TOKENS * padded;
    widen_run(page->keys, 0, d * PHI_KV_PAGE_TOKENS, type, keys);
    for (size_t j = 0; j < PHI_KV_PAGE_TOKENS; j++) {
        widen_run(page->values, j * d, d, type, values + j * padded);
        memset(values + j * padded + d, 0, (padded - d) * sizeof *values);
    }
    page->keys = (const char *)keys;
    page->values = (const char *)values;
    page->values_stride = padded;
    page->type = PHI_KV_F32;
}

static void widen(const phi_attend *attend, page_part *page)
{
    switch (page->type) {
    case PHI_KV_F16:
        widen_of(attend, page, PHI_KV_F16);
        break;
    case PHI_KV_F32:
        widen_of(attend, page, PHI_KV_F32);
        break;
    case PHI_KV_INT8:
        widen_of(attend, page, PHI_KV_INT8);
        break;
    }
}

/* ---- the table's functions ---- */

static page_part part_of(const phi_attend *attend, uint32_t page)
{
    phi_kv_head head = phi_kv_head_at(attend->type, attend->head_dim,
                                      (char *)attend->pages[page] + attend->head_offset);
    page_part part = {.type = attend->type,
                      .keys = head.keys,
                      .values = head.values,
                      .values_stride = attend->head_dim,
                      .key_scales = head.key_scales,
                      .value_scales = head.value_scales};
    if (page + 1 < attend->pages_end) {
        part.next_page = (const char *)attend->pages[page + 1] + attend->head_offset;
    }
    return part;
}

static void attend_tiles(const phi_attend *attend, const page_part *page, uint32_t index)
{
    tile_run run;
    size_t n_tiles = (attend->n_rows + PHI_ATTEND_TILE - 1) / PHI_ATTEND_TILE;
    size_t share = phi_kv_head_bytes(attend->type, attend->head_dim) / n_tiles;
    run.attend = attend;
    run.page = page;
    run.ahead = NULL;
    for (size_t row = 0; row < attend->n_rows; row += PHI_ATTEND_TILE) {
        size_t left = attend->n_rows - row;
        if (page->next_page) {
            fetch(page->next_page + row / PHI_ATTEND_TILE * share, share);
        }
        bool any = false;
        run.row = row;
        run.n_rows = left < PHI_ATTEND_TILE ? (int)left : TILE;
        for (int r = 0; r < run.n_rows; r++) {
            run.spans[r] = phi_attend_visible(attend, (uint32_t)row + (uint32_t)r, index);
            any |= run.spans[r].begin < run.spans[r].end;
        }
        if (any) {
            run_tile(&run);
        }
    }
}

/* What comes after the `n` pages from `first` on: of the same head, or of what is next. */
static fetch_list after(const phi_attend *attend, uint32_t first, uint32_t n)
{
    size_t bytes =
        phi_kv_element_bytes(attend->type) * PHI_KV_PAGE_TOKENS * (size_t)attend->head_dim;
    void *const *pages = attend->later_pages;
    uint32_t left = attend->n_later;
    size_t offset = attend->later_offset;
    if (first + n < attend->pages_end) {
        pages = attend->pages + first + n;
        left = attend->pages_end - first - n;
        offset = attend->head_offset;
    }
    fetch_list list = {.n = (int)(left < FEW_PAGES ? left : FEW_PAGES)};
    for (int p = 0; p < list.n; p++) {
        list.from[p] = (const char *)pages[p] + offset;
    }
    list.end = list.n > 0 ? bytes : 0;
    size_t keys = (size_t)n * PHI_KV_PAGE_TOKENS;
    list.lines = (int)((list.end / 64 * (size_t)list.n + keys - 1) / keys);
    return list;
}

/* `n` pages of a tile's rows. */
static void attend_few(const phi_attend *attend, uint32_t first, uint32_t n)
{
    tile_run runs[FEW_PAGES];
    page_part parts[FEW_PAGES];
    fetch_list ahead = after(attend, first, n);
    PHI_ASSERT(n > 0 && n <= FEW_PAGES);
    for (uint32_t p = 0; p < n; p++) {
        parts[p] = part_of(attend, first + p);
        runs[p].attend = attend;
        runs[p].page = &parts[p];
        runs[p].ahead = &ahead;
        runs[p].row = 0;
        runs[p].n_rows = (int)attend->n_rows;
        for (uint32_t r = 0; r < attend->n_rows; r++) {
            runs[p].spans[r] = phi_attend_visible(attend, r, first + p);
        }
        parts[p].values_bytes = runs[p].spans[attend->n_rows - 1].end *
                                phi_kv_element_bytes(attend->type) * (size_t)attend->head_dim;
    }
    run_few(runs, (int)n);
}

static void attend_pages(const phi_attend *attend, uint32_t page_begin, uint32_t page_end)
{
    size_t d = PHI_ATTEND_PADDED(attend->head_dim);
    PHI_ASSERT(attend->n_rows > 0 && attend->n_rows <= PHI_ATTEND_ROWS);
    memset(attend->acc, 0, attend->n_rows * d * sizeof *attend->acc);
    memset(lane_sums(attend, 0), 0, (size_t)attend->n_rows * 16 * sizeof(float));
    for (uint32_t r = 0; r < attend->n_rows; r++) {
        attend->max[r] = -INFINITY;
    }
    if (attend->n_rows > WIDEN_ROWS || attend->head_dim % LANES != 0) {
        for (uint32_t p = page_begin; p < page_end; p++) {
            page_part page = part_of(attend, p);
            widen(attend, &page);
            attend_tiles(attend, &page, p);
        }
    } else {
        for (uint32_t p = page_begin; p < page_end; p += FEW_PAGES) {
            attend_few(attend, p, page_end - p < FEW_PAGES ? page_end - p : FEW_PAGES);
        }
    }
    for (uint32_t r = 0; r < attend->n_rows; r++) {
        attend->sum[r] = lanes_total(lanes_load(lane_sums(attend, r)));
        attend->max[r] *= attend->scale;
    }
}

/* One token's keys or values of one head as codes; returns the scale. NaN and infinity make it NaN,
 * so that they are not lost. */
static float encode_row(const float *x, size_t d, int8_t *codes)
{
    lanes sizes = lanes_zero();
    lanes bad = lanes_zero();
    size_t i = 0;
    for (; i + LANES <= d; i += LANES) {
        lanes v = lanes_load(x + i);
        sizes = lanes_max(lanes_max(v, lanes_mul(v, lanes_set(-1.0F))), sizes);
        bad = lanes_fma(v, lanes_zero(), bad);
    }
    float most = lanes_top(sizes);
    float damage = lanes_total(bad);
    for (; i < d; i++) {
        float size = fabsf(x[i]);
        most = size > most ? size : most;
        damage += x[i] * 0.0F;
    }
    /* Smaller than this counts as 0: the quotient would be infinite. */
    float inverse = most > 1e-30F ? 127.0F / most : 0.0F;
    for (i = 0; i < d; i++) {
        float code = x[i] * inverse;
        uint32_t bits;
        code = code > -127.0F ? code : -127.0F;
        code = code < 127.0F ? code : 127.0F;
        /* Rounds to nearest, ties to even, and leaves the integer in the lowest bits. */
        code += 0x1.8p23F;
        memcpy(&bits, &code, sizeof bits);
        codes[i] = (int8_t)(uint8_t)(bits & 0xFF);
    }
    return most / 127.0F + damage;
}

static void store_int8(const phi_kv_rows *rows, const phi_kv_head *to, size_t token)
{
    size_t d = rows->head_dim;
    size_t slot = rows->slot + token;
    int8_t codes[PHI_LIMIT_HEAD_DIM];
    int8_t *values = (int8_t *)(void *)to->values + slot * d;
    to->value_scales[slot] = encode_row(rows->values + token * rows->stride, d, values);
    to->key_scales[slot] = encode_row(rows->keys + token * rows->stride, d, codes);
    for (size_t i = 0; i < d; i++) {
        ((int8_t *)(void *)to->keys)[i * PHI_KV_PAGE_TOKENS + slot] = codes[i];
    }
}

static void narrow(const float *x, size_t d, uint16_t *out)
{
    size_t i = 0;
    for (; i + LANES <= d; i += LANES) {
        lanes_to_f16(out + i, lanes_load(x + i));
    }
    for (; i < d; i++) {
        out[i] = phi_half_of_float(x[i]);
    }
}

static void store_f16(const phi_kv_rows *rows, const phi_kv_head *to, size_t token)
{
    size_t d = rows->head_dim;
    size_t slot = rows->slot + token;
    uint16_t keys[PHI_LIMIT_HEAD_DIM];
    narrow(rows->values + token * rows->stride, d, (uint16_t *)(void *)to->values + slot * d);
    narrow(rows->keys + token * rows->stride, d, keys);
    for (size_t i = 0; i < d; i++) {
        ((uint16_t *)(void *)to->keys)[i * PHI_KV_PAGE_TOKENS + slot] = keys[i];
    }
}

static void store_f32(const phi_kv_rows *rows, const phi_kv_head *to, size_t token)
{
    size_t d = rows->head_dim;
    size_t slot = rows->slot + token;
    const float *keys = rows->keys + token * rows->stride;
    memcpy((float *)(void *)to->values + slot * d, rows->values + token * rows->stride,
           d * sizeof(float));
    for (size_t i = 0; i < d; i++) {
        ((float *)(void *)to->keys)[i * PHI_KV_PAGE_TOKENS + slot] = keys[i];
    }
}

static void store_rows(const phi_kv_rows *rows, void *head)
{
    phi_kv_head to = phi_kv_head_at(rows->type, rows->head_dim, head);
    PHI_ASSERT(rows->slot + rows->count <= PHI_KV_PAGE_TOKENS);
    PHI_ASSERT(rows->head_dim <= PHI_LIMIT_HEAD_DIM);
    for (size_t t = 0; t < rows->count; t++) {
        /* Tokens are pages of memory apart: nothing but this fetches them ahead. */
        if (t + 3 < rows->count) {
            size_t next = (t + 3) * rows->stride;
            fetch((const char *)(rows->keys + next), rows->head_dim * sizeof(float));
            fetch((const char *)(rows->values + next), rows->head_dim * sizeof(float));
        }
        switch (rows->type) {
        case PHI_KV_F16:
            store_f16(rows, &to, t);
            break;
        case PHI_KV_F32:
            store_f32(rows, &to, t);
            break;
        case PHI_KV_INT8:
            store_int8(rows, &to, t);
            break;
        }
    }
}

#endif
#endif
