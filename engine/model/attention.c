/*
 * 1. An item is some query rows of one sequence, the same for every KV head, and the runs of keys
 *    that one thread takes for them. Items share nothing that is written.
 * 2. A sequence with one row is stored by the item that reads that row, the others beforehand.
 * 3. Runs of keys are merged in their order, by whoever computed them.
 */
#include "engine/model/attention.h"

#include "base/assert.h"
#include "base/mem.h"
#include "engine/kernels/unroll.h"
#include "engine/model/forward.h"

#include <math.h>
#include <string.h>

#define NO_SLOT UINT32_MAX
/* Rows of an item of a sequence that has more, at least. */
#define FEWEST_ROWS PHI_BULK_TOKENS

struct phi_attention_item {
    uint32_t row;       /* the first of the sequence in the batch */
    uint32_t first_row; /* query rows of the sequence: (token, query head of the group) */
    uint32_t n_rows;
    uint32_t run_begin;
    uint32_t run_end;
    uint32_t slot;     /* where the result waits to be merged; NO_SLOT: it is whole */
    uint32_t n_tokens; /* to store: from `row` on, inside one page */
};

/* A row whose runs lie in slots [slot, slot + n). */
struct phi_attention_merge {
    uint32_t row;
    uint32_t slot;
    uint32_t n;
};

typedef struct task {
    const phi_kernels *kernels;
    const phi_attention *at;
    phi_attention_scratch *scratch;
    uint32_t group;
    uint32_t n_items;
    uint32_t n_merges;
    uint32_t n_slots;
    bool share; /* items read the same keys */
} task;

/* Running results of rows: of the runs so far, or of one. */
typedef struct partial {
    float *acc; /* [rows, d_padded] */
    float *max; /* [rows] */
    float *sum;
} partial;

/* ---- scratch ---- */

/* Results and queries of bulk rows take what two partial results and their queries do, or more. */
_Static_assert(PHI_BULK_ATTEND_ROWS == 2 * PHI_ATTEND_ROWS,
               "a bulk result lies where two others do");

static size_t thread_floats(size_t d)
{
    return PHI_ATTEND_ROWS * (2 * PHI_ATTEND_PADDED(d) + 4) + PHI_BULK_QUERIES(d) +
           PHI_BULK_ATTEND_WORK(d);
}

/* A result: values, maximum, sum. */
static size_t slot_floats(const phi_description *desc)
{
    return (size_t)desc->n_head * (desc->head_dim + 2);
}

/* One sequence's worth. */
static uint32_t slots_of(const phi_description *desc)
{
    uint32_t seen = desc->window && desc->window < desc->n_ctx ? desc->window : desc->n_ctx;
    return seen / PHI_ATTEND_RUN_TOKENS + 2;
}

static size_t memory_floats(const phi_description *desc, uint32_t n_threads)
{
    return n_threads * thread_floats(desc->head_dim) + slots_of(desc) * slot_floats(desc);
}

/* Each sequence's last item may be part of a tile; and items that are split have slots. */
static size_t items_max(const phi_description *desc, uint32_t n_tok_max)
{
    size_t group = desc->n_head / desc->n_head_kv;
    return n_tok_max * (group / FEWEST_ROWS + 2) + slots_of(desc);
}

uint64_t phi_attention_scratch_bytes(const phi_description *description, uint32_t n_tok_max,
                                     uint32_t n_threads)
{
    return memory_floats(description, n_threads) * sizeof(float) +
           items_max(description, n_tok_max) * sizeof(phi_attention_item) +
           n_tok_max * sizeof(phi_attention_merge);
}

phi_status phi_attention_scratch_init(phi_attention_scratch *scratch,
                                      const phi_description *description, uint32_t n_tok_max,
                                      uint32_t n_threads, phi_err *err)
{
    *scratch = (phi_attention_scratch){
        .n_tok_max = n_tok_max, .n_threads = n_threads, .n_slots = slots_of(description)};
    scratch->items = phi_try_alloc_zero(items_max(description, n_tok_max), sizeof *scratch->items);
    scratch->merges = phi_try_alloc_zero(n_tok_max, sizeof *scratch->merges);
    scratch->memory = phi_try_alloc_aligned(memory_floats(description, n_threads) * sizeof(float));
    if (!scratch->items || !scratch->merges || !scratch->memory) {
        phi_attention_scratch_done(scratch);
        return phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for attention's work space");
    }
    return PHI_OK;
}

void phi_attention_scratch_done(phi_attention_scratch *scratch)
{
    phi_free(scratch->items);
    phi_free(scratch->merges);
    phi_free(scratch->memory);
    *scratch = (phi_attention_scratch){0};
}

/* ---- storing ---- */

static size_t row_stride(const phi_description *desc)
{
    return ((size_t)desc->n_head + 2 * (size_t)desc->n_head_kv) * desc->head_dim;
}

static size_t head_offset(const phi_attention *at, uint32_t kv_head)
{
    size_t index = (size_t)at->layer * at->description->n_head_kv + kv_head;
    return index * phi_kv_head_bytes(at->kv_type, at->description->head_dim);
}

/* Keys and values of `n` rows of one page. */
static void store(const task *self, uint32_t row, uint32_t n, uint32_t kv_head)
{
    const phi_attention *at = self->at;
    const phi_description *desc = at->description;
    size_t d = desc->head_dim;
    size_t stride = row_stride(desc);
    uint32_t position = at->rows[row].position;
    void *page = at->views[at->rows[row].seq].pages[position / PHI_KV_PAGE_TOKENS];
    const float *keys = at->qkv + row * stride + ((size_t)desc->n_head + kv_head) * d;
    PHI_ASSERT(page != NULL);
    self->kernels->kv_store(&(phi_kv_rows){.type = at->kv_type,
                                           .head_dim = desc->head_dim,
                                           .slot = position % PHI_KV_PAGE_TOKENS,
                                           .count = n,
                                           .keys = keys,
                                           .values = keys + desc->n_head_kv * d,
                                           .stride = stride},
                            (char *)page + head_offset(at, kv_head));
}

static void store_slice(void *arg, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const task *self = arg;
    uint32_t n_head_kv = self->at->description->n_head_kv;
    for (size_t i = begin; i < end; i++) {
        const phi_attention_item *item = &self->scratch->items[i / n_head_kv];
        store(self, item->row, item->n_tokens, (uint32_t)(i % n_head_kv));
    }
}

/* ---- attending ---- */

static void merge_row(const phi_kernels *k, partial *into, const partial *from, size_t row,
                      size_t d)
{
    size_t at = row * PHI_ATTEND_PADDED(d);
    if (from->sum[row] == 0.0F) {
        return;
    }
    if (into->sum[row] == 0.0F) {
        memcpy(into->acc + at, from->acc + at, d * sizeof(float));
        into->max[row] = from->max[row];
        into->sum[row] = from->sum[row];
        return;
    }
    float max = from->max[row] > into->max[row] ? from->max[row] : into->max[row];
    float old = expf(into->max[row] - max);
    float fresh = expf(from->max[row] - max);
    k->mix(old, into->acc + at, fresh, from->acc + at, d);
    into->sum[row] = old * into->sum[row] + fresh * from->sum[row];
    into->max[row] = max;
}

/* What attends for a row of the batch; NULL: phi_kernels.attend. */
static const phi_bulk *bulk_of(const task *self, uint32_t row)
{
    const phi_attention *at = self->at;
    return at->rows[row].is_prompt && at->kv_type != PHI_KV_F32 ? self->kernels->bulk : NULL;
}

/* Where the query row lies: tokens apart by rows of the batch, heads of the group side by side. */
static size_t head_row(const task *self, const phi_attention_item *item, uint32_t i,
                       uint32_t kv_head, uint32_t *out_row)
{
    uint32_t index = item->first_row + i;
    *out_row = item->row + index / self->group;
    return (size_t)kv_head * self->group + index % self->group;
}

/* Rows of a batch that are fetched ahead of the one that is read. */
#define AHEAD 4

/* Inlined always: calls of a function that does nothing else may be dropped. */
PHI_STAMP void fetch_row(const float *from, size_t d)
{
    for (size_t i = 0; i < d; i += 16) {
        __builtin_prefetch(from + i);
    }
}

/* The thread's memory, laid out. */
typedef struct bench {
    phi_attend attend;
    const phi_bulk *bulk; /* NULL: the rows are not a prompt's, or this set has none */
    float *q;
    partial total;
    partial run;
} bench;

static void pack_queries(const task *self, const phi_attention_item *item, uint32_t kv_head,
                         const bench *b)
{
    const phi_description *desc = self->at->description;
    size_t d = desc->head_dim;
    size_t stride = row_stride(desc);
    float *q = b->q;
    if (!b->bulk && item->n_rows % PHI_ATTEND_TILE != 0) {
        size_t last = item->n_rows / PHI_ATTEND_TILE * PHI_ATTEND_TILE;
        memset(q + last * d, 0, PHI_ATTEND_TILE * d * sizeof *q);
    }
    for (uint32_t i = 0; i < item->n_rows; i++) {
        uint32_t row;
        size_t head = head_row(self, item, i, kv_head, &row);
        const float *from = self->at->qkv + row * stride + head * d;
        /* Rows are pages of memory apart: nothing but this fetches them ahead. */
        if (i + AHEAD * self->group < item->n_rows) {
            fetch_row(from + AHEAD * stride, d);
        }
        if (b->bulk) {
            b->bulk->pack_query(from, i, &b->attend);
            continue;
        }
        float *to = q + i / PHI_ATTEND_TILE * PHI_ATTEND_TILE * d + i % PHI_ATTEND_TILE;
        for (size_t c = 0; c < d; c++) {
            to[c * PHI_ATTEND_TILE] = from[c];
        }
    }
}

/* Divides by the sums. */
static void write_rows(const task *self, const phi_attention_item *item, uint32_t kv_head,
                       const partial *total)
{
    const phi_description *desc = self->at->description;
    size_t d = desc->head_dim;
    for (uint32_t i = 0; i < item->n_rows; i++) {
        uint32_t row;
        size_t head = head_row(self, item, i, kv_head, &row);
        self->kernels->scale(1.0F / total->sum[i], total->acc + i * PHI_ATTEND_PADDED(d),
                             self->at->out + ((size_t)row * desc->n_head + head) * d, d);
    }
}

static float *slot_at(const task *self, uint32_t slot, uint32_t kv_head)
{
    const phi_description *desc = self->at->description;
    size_t threads = self->scratch->n_threads * thread_floats(desc->head_dim);
    size_t head = (size_t)kv_head * self->group * (desc->head_dim + 2);
    return self->scratch->memory + threads + slot * slot_floats(desc) + head;
}

/* Rows [n_rows, d], their maxima, their sums. */
static void keep_partial(const task *self, const phi_attention_item *item, uint32_t kv_head,
                         const partial *result)
{
    size_t d = self->at->description->head_dim;
    float *slot = slot_at(self, item->slot, kv_head);
    for (uint32_t i = 0; i < item->n_rows; i++) {
        memcpy(slot + i * d, result->acc + i * PHI_ATTEND_PADDED(d), d * sizeof *slot);
    }
    memcpy(slot + item->n_rows * d, result->max, item->n_rows * sizeof *slot);
    memcpy(slot + item->n_rows * (d + 1), result->sum, item->n_rows * sizeof *slot);
}

/* First position that the rows see, and the end of those that they see. */
static void visible(const phi_attention *at, const phi_attention_item *item, uint32_t group,
                    uint32_t *out_first, uint32_t *out_end)
{
    uint32_t window = at->description->window;
    uint32_t position = at->rows[item->row].position + item->first_row / group;
    *out_first = window && position >= window ? position - window + 1 : 0;
    *out_end = at->rows[item->row].position + (item->first_row + item->n_rows - 1) / group + 1;
}

/* Pages [begin, end) that the item's rows see. */
static void pages_of(const task *self, const phi_attention_item *item, uint32_t *out_begin,
                     uint32_t *out_end)
{
    uint32_t first;
    uint32_t end;
    visible(self->at, item, self->group, &first, &end);
    uint32_t begin = item->run_begin * PHI_ATTEND_RUN_PAGES;
    *out_begin = first / PHI_KV_PAGE_TOKENS;
    *out_begin = *out_begin > begin ? *out_begin : begin;
    *out_end = (end - 1) / PHI_KV_PAGE_TOKENS + 1;
    end = item->run_end * PHI_ATTEND_RUN_PAGES;
    *out_end = *out_end < end ? *out_end : end;
}

static void lay_out(const task *self, const phi_attention_item *item, uint32_t kv_head,
                    unsigned worker, bench *b)
{
    const phi_attention *at = self->at;
    size_t d = at->description->head_dim;
    size_t plane = PHI_ATTEND_ROWS * PHI_ATTEND_PADDED(d);
    PHI_ASSERT(worker < self->scratch->n_threads);
    float *memory = self->scratch->memory + worker * thread_floats(d);
    b->total = (partial){.acc = memory, .max = memory + 2 * plane};
    b->total.sum = b->total.max + PHI_ATTEND_ROWS;
    b->run = (partial){.acc = memory + plane, .max = b->total.sum + PHI_ATTEND_ROWS};
    b->run.sum = b->run.max + PHI_ATTEND_ROWS;
    b->q = b->run.sum + PHI_ATTEND_ROWS;
    b->bulk = bulk_of(self, item->row);
    if (b->bulk) {
        b->total.sum = b->total.max + PHI_BULK_ATTEND_ROWS;
    }
    b->attend = (phi_attend){
        .type = at->kv_type,
        .head_dim = at->description->head_dim,
        .group = self->group,
        .position = at->rows[item->row].position,
        .first_row = item->first_row,
        .n_rows = item->n_rows,
        .window = at->description->window,
        .scale = 1.0F / sqrtf((float)d),
        .pages = at->views[at->rows[item->row].seq].pages,
        .head_offset = head_offset(at, kv_head),
        .acc = b->total.acc,
        .max = b->total.max,
        .sum = b->total.sum,
        .q = b->q,
        .q_tiles = (uint16_t *)(void *)b->q,
        .work = b->q + PHI_BULK_QUERIES(d),
    };
}

/* Run by run, as threads would that share the runs. */
static void attend_runs(const task *self, const phi_attention_item *item, bench *b,
                        uint32_t page_first, uint32_t page_end)
{
    size_t d = self->at->description->head_dim;
    for (uint32_t run = item->run_begin; run < item->run_end; run++) {
        partial *result = run == item->run_begin ? &b->total : &b->run;
        uint32_t begin = run * PHI_ATTEND_RUN_PAGES;
        uint32_t end = begin + PHI_ATTEND_RUN_PAGES;
        b->attend.acc = result->acc;
        b->attend.max = result->max;
        b->attend.sum = result->sum;
        self->kernels->attend(&b->attend, begin > page_first ? begin : page_first,
                              end < page_end ? end : page_end);
        for (uint32_t i = 0; result == &b->run && i < item->n_rows; i++) {
            merge_row(self->kernels, &b->total, &b->run, i, d);
        }
    }
}

/* One head of an item. */
typedef struct piece {
    const phi_attention_item *item; /* NULL: none */
    uint32_t kv_head;
} piece;

static piece piece_at(const task *self, size_t i)
{
    const uint32_t n_heads = self->at->description->n_head_kv;
    if (self->share) {
        return (piece){&self->scratch->items[i % self->n_items], (uint32_t)(i / self->n_items)};
    }
    /* A page's heads lie one behind the other. */
    return (piece){&self->scratch->items[i / n_heads], (uint32_t)(i % n_heads)};
}

/* `later` is what the thread does next. */
static void attend_piece(const task *self, piece now, piece later, unsigned worker)
{
    const phi_attention_item *item = now.item;
    uint32_t kv_head = now.kv_head;
    uint32_t begin;
    bench b;
    lay_out(self, item, kv_head, worker, &b);
    if (later.item) {
        pages_of(self, later.item, &begin, &b.attend.n_later);
        b.attend.later_pages = self->at->views[self->at->rows[later.item->row].seq].pages + begin;
        b.attend.n_later -= begin;
        b.attend.later_offset = head_offset(self->at, later.kv_head);
    }
    pages_of(self, item, &begin, &b.attend.pages_end);
    if (item->n_tokens) {
        store(self, item->row, item->n_tokens, kv_head);
    }
    pack_queries(self, item, kv_head, &b);
    if (b.bulk) {
        b.bulk->attend(&b.attend, begin, b.attend.pages_end);
    } else {
        attend_runs(self, item, &b, begin, b.attend.pages_end);
    }
    if (item->slot == NO_SLOT) {
        write_rows(self, item, kv_head, &b.total);
    } else {
        keep_partial(self, item, kv_head, &b.total);
    }
}

static void attend_slice(void *arg, size_t begin, size_t end, unsigned worker)
{
    const task *self = arg;
    for (size_t i = begin; i < end; i++) {
        attend_piece(self, piece_at(self, i), i + 1 < end ? piece_at(self, i + 1) : (piece){0},
                     worker);
    }
}

/* One query head of one split row, as attend_item would have merged it. */
static void merge_slice(void *arg, size_t begin, size_t end, unsigned worker)
{
    const task *self = arg;
    const phi_description *desc = self->at->description;
    size_t d = desc->head_dim;
    for (size_t i = begin; i < end; i++) {
        const phi_attention_merge *merge = &self->scratch->merges[i / desc->n_head];
        uint32_t head = (uint32_t)(i % desc->n_head);
        uint32_t row = head % self->group;
        partial total = {.acc = self->scratch->memory + worker * thread_floats(d)};
        float max = -INFINITY;
        float sum = 0.0F;
        total.max = &max;
        total.sum = &sum;
        for (uint32_t s = 0; s < merge->n; s++) {
            float *slot = slot_at(self, merge->slot + s, head / self->group);
            const partial from = {.acc = slot + row * d,
                                  .max = slot + self->group * d + row,
                                  .sum = slot + self->group * (d + 1) + row};
            merge_row(self->kernels, &total, &from, 0, d);
        }
        self->kernels->scale(1.0F / sum, total.acc,
                             self->at->out + ((size_t)merge->row * desc->n_head + head) * d, d);
    }
}

/* ---- planning ---- */

/* Rows of the sequence whose first row in the batch is `row`. */
static uint32_t count_rows(const phi_attention *at, uint32_t row)
{
    uint32_t n = 1;
    while (row + n < at->n_rows && at->rows[row + n].seq == at->rows[row].seq) {
        n++;
    }
    return n;
}

/* A sequence of one row that is one item. */
static bool is_stored_by_item(const task *self, uint32_t n_tokens)
{
    return n_tokens == 1 && self->group <= PHI_ATTEND_ROWS;
}

/* Pieces of pages, of sequences with several rows; returns how many. */
static uint32_t plan_stores(const task *self)
{
    const phi_attention *at = self->at;
    uint32_t n_items = 0;
    for (uint32_t row = 0; row < at->n_rows;) {
        uint32_t left = count_rows(at, row);
        if (is_stored_by_item(self, left)) {
            row++;
            continue;
        }
        while (left > 0) {
            uint32_t room = PHI_KV_PAGE_TOKENS - at->rows[row].position % PHI_KV_PAGE_TOKENS;
            uint32_t n = left < room ? left : room;
            self->scratch->items[n_items++] = (phi_attention_item){.row = row, .n_tokens = n};
            row += n;
            left -= n;
        }
    }
    return n_items;
}

/* Rows of an item: fewer of a bulk's where the threads would not all have some. */
static uint32_t item_rows(const task *self, uint32_t row, uint32_t n_rows)
{
    uint32_t rows = PHI_BULK_ATTEND_ROWS;
    if (!bulk_of(self, row)) {
        return PHI_ATTEND_ROWS;
    }
    while (rows > FEWEST_ROWS && rows / 2 >= self->group &&
           (size_t)(n_rows / rows + 1) * self->at->description->n_head_kv <
               2 * (size_t)self->scratch->n_threads) {
        rows /= 2;
    }
    return rows;
}

/* False for rows whose results nobody reads. */
static bool is_needed(const task *self, const phi_attention_item *item)
{
    const phi_attention *at = self->at;
    uint32_t last = item->row + (item->first_row + item->n_rows - 1) / self->group;
    bool needed = !at->only_wanted || item->n_tokens > 0;
    for (uint32_t row = item->row + item->first_row / self->group; row <= last && !needed; row++) {
        needed = at->rows[row].want_logits;
    }
    return needed;
}

static void plan_rows(task *self, uint32_t row, uint32_t n_tokens)
{
    uint32_t n_rows = n_tokens * self->group;
    uint32_t rows = item_rows(self, row, n_rows);
    for (uint32_t first = 0; first < n_rows; first += rows) {
        uint32_t left = n_rows - first;
        uint32_t from;
        uint32_t end;
        phi_attention_item *item = &self->scratch->items[self->n_items++];
        *item = (phi_attention_item){.row = row,
                                     .first_row = first,
                                     .n_rows = left < rows ? left : rows,
                                     .slot = NO_SLOT,
                                     .n_tokens = is_stored_by_item(self, n_tokens)};
        if (!is_needed(self, item)) {
            self->n_items--;
            continue;
        }
        visible(self->at, item, self->group, &from, &end);
        item->run_begin = from / PHI_ATTEND_RUN_TOKENS;
        item->run_end = (end - 1) / PHI_ATTEND_RUN_TOKENS + 1;
    }
}

/* Single rows over many keys: an item for each run, while there are slots. A bulk takes no runs. */
static void split(task *self)
{
    uint32_t n_items = self->n_items;
    for (uint32_t i = 0; i < n_items; i++) {
        phi_attention_item whole = self->scratch->items[i];
        uint32_t n_runs = whole.run_end - whole.run_begin;
        if (whole.n_tokens != 1 || bulk_of(self, whole.row) || n_runs < 2 ||
            self->n_slots + n_runs > self->scratch->n_slots) {
            continue;
        }
        self->scratch->merges[self->n_merges++] =
            (phi_attention_merge){.row = whole.row, .slot = self->n_slots, .n = n_runs};
        for (uint32_t run = whole.run_begin; run < whole.run_end; run++) {
            /* The first takes the place of the whole. */
            uint32_t at = run == whole.run_begin ? i : self->n_items++;
            phi_attention_item part = whole;
            part.run_begin = run;
            part.run_end = run + 1;
            part.slot = self->n_slots++;
            /* Only the last run holds the row itself. */
            part.n_tokens = run + 1 == whole.run_end;
            self->scratch->items[at] = part;
        }
    }
}

void phi_attention_run(const phi_compute *compute, const phi_attention *attention,
                       phi_attention_scratch *scratch)
{
    const phi_description *desc = attention->description;
    unsigned n_threads = phi_team_size(compute->team);
    task self = {.kernels = compute->kernels,
                 .at = attention,
                 .scratch = scratch,
                 .group = desc->n_head / desc->n_head_kv};
    PHI_ASSERT(attention->n_rows <= scratch->n_tok_max && n_threads <= scratch->n_threads);
    size_t n_stores = plan_stores(&self);
    phi_team_run(compute->team, compute->priority, n_stores * desc->n_head_kv, 4, store_slice,
                 &self);
    for (uint32_t row = 0; row < attention->n_rows;) {
        uint32_t n = count_rows(attention, row);
        uint32_t n_items = self.n_items;
        plan_rows(&self, row, n);
        self.share |= self.n_items > n_items + 1;
        row += n;
    }
    if ((size_t)self.n_items * desc->n_head_kv < 2 * (size_t)n_threads) {
        split(&self);
    }
    phi_team_run(compute->team, compute->priority, (size_t)self.n_items * desc->n_head_kv, 1,
                 attend_slice, &self);
    phi_team_run(compute->team, compute->priority, (size_t)self.n_merges * desc->n_head, 4,
                 merge_slice, &self);
}
