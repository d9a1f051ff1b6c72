/*
 * Attention over pages, of every set that can run here: against double precision at odd sizes, the
 * same row alone and among others, what lies in slots that no row sees, far ends of the numbers.
 */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/kernels/kernels.h"
#include "engine/tensor/half.h"
#include "random_weight.h"

#define PAGES 9U
#define TOKENS (PAGES * PHI_KV_PAGE_TOKENS)
#define D_MAX 256U
#define ROWS PHI_ATTEND_ROWS
/* What a block's results have room for. */
#define ROWS_MAX PHI_BULK_ATTEND_ROWS

static const phi_kernels *sets[8];
static size_t n_sets;
static float keys[TOKENS][D_MAX];
static float values[TOKENS][D_MAX];
static float queries[ROWS][D_MAX];
static void *pages[PAGES];

/* A block of rows and its results. */
typedef struct block {
    phi_attend attend;
    float *q;
    float *acc;
    float *max;
    float *sum;
    float *work;
    uint16_t *q_tiles;
} block;

/* What attends: a set's function for all rows, or that for prompts. */
typedef struct attender {
    const phi_kernels *set;
    void (*attend)(const phi_attend *attend, uint32_t page_begin, uint32_t page_end);
    void (*pack_query)(const float *x, uint32_t row, const phi_attend *attend); /* may be NULL */
    double bound; /* of a result, as a share of the values */
} attender;

static attender attenders[16];
static size_t n_attenders;

static bool takes(const attender *k, phi_kv_type type)
{
    return !k->pack_query || type != PHI_KV_F32;
}

static int begin(void **state)
{
    (void)state;
    n_sets = phi_kernels_available(sets, 8);
    for (size_t s = 0; s < n_sets; s++) {
        const phi_bulk *bulk = sets[s]->bulk;
        attenders[n_attenders++] = (attender){sets[s], sets[s]->attend, NULL, 2e-6};
        if (bulk) {
            attenders[n_attenders++] = (attender){sets[s], bulk->attend, bulk->pack_query, 4e-5};
        }
    }
    for (uint32_t p = 0; p < PAGES; p++) {
        /* The head's share is not at the page's beginning. */
        pages[p] = phi_try_alloc_aligned(64 + phi_kv_head_bytes(PHI_KV_F32, D_MAX));
    }
    return n_sets > 0 && pages[PAGES - 1] ? 0 : -1;
}

static int end(void **state)
{
    (void)state;
    for (uint32_t p = 0; p < PAGES; p++) {
        phi_free(pages[p]);
    }
    return 0;
}

static void open_block(block *b, uint32_t d)
{
    b->q = phi_alloc_zero(ROWS * d, sizeof(float));
    b->acc = phi_alloc_zero(ROWS_MAX * PHI_ATTEND_PADDED(d), sizeof(float));
    b->max = phi_alloc_zero(ROWS_MAX, sizeof(float));
    b->sum = phi_alloc_zero(ROWS_MAX, sizeof(float));
    b->work = phi_try_alloc_aligned(PHI_BULK_ATTEND_WORK(d) * sizeof(float));
    b->q_tiles = phi_try_alloc_aligned(PHI_BULK_QUERIES(d) * sizeof(float));
    assert_true(b->work && b->q_tiles && PHI_BULK_ATTEND_WORK(d) >= PHI_ATTEND_WORK(d));
    b->attend = (phi_attend){.head_dim = d,
                             .scale = 1.0F / sqrtf((float)d),
                             .pages = pages,
                             .pages_end = PAGES,
                             .head_offset = 64,
                             .later_pages = pages,
                             .n_later = PAGES,
                             .later_offset = 64,
                             .q = b->q,
                             .q_tiles = b->q_tiles,
                             .acc = b->acc,
                             .max = b->max,
                             .sum = b->sum,
                             .work = b->work};
}

static void close_block(block *b)
{
    phi_free(b->q);
    phi_free(b->acc);
    phi_free(b->max);
    phi_free(b->sum);
    phi_free(b->work);
    phi_free(b->q_tiles);
}

/* Rows [first, first + n) of the queries, packed. */
static void pack(const attender *k, block *b, uint32_t first, uint32_t n)
{
    uint32_t d = b->attend.head_dim;
    memset(b->q, 0, ROWS * d * sizeof *b->q);
    b->attend.first_row = first;
    b->attend.n_rows = n;
    for (uint32_t i = 0; i < n; i++) {
        if (k->pack_query) {
            k->pack_query(queries[first + i], i, &b->attend);
            continue;
        }
        for (uint32_t c = 0; c < d; c++) {
            b->q[(i / 8 * d + c) * 8 + i % 8] = queries[first + i][c];
        }
    }
}

/* Stores tokens [0, n) in pieces; all other slots hold what is not a number. */
static void store_tokens(const phi_kernels *k, phi_kv_type type, uint32_t d, uint32_t n)
{
    for (uint32_t p = 0; p < PAGES; p++) {
        memset(pages[p], 0xFF, 64 + phi_kv_head_bytes(PHI_KV_F32, D_MAX));
    }
    for (uint32_t t = 0; t < n;) {
        uint32_t slot = t % PHI_KV_PAGE_TOKENS;
        uint32_t count = 1 + random_u32() % 7;
        count = count < n - t ? count : n - t;
        count = count < PHI_KV_PAGE_TOKENS - slot ? count : PHI_KV_PAGE_TOKENS - slot;
        const phi_kv_rows rows = {type, d, slot, count, keys[t], values[t], D_MAX};
        k->kv_store(&rows, (char *)pages[t / PHI_KV_PAGE_TOKENS] + 64);
        t += count;
    }
}

static double element(const void *plane, size_t index, phi_kv_type type)
{
    return type == PHI_KV_F16   ? (double)phi_half_to_float(((const uint16_t *)plane)[index])
           : type == PHI_KV_F32 ? (double)((const float *)plane)[index]
                                : (double)((const int8_t *)plane)[index];
}

/* What a page holds of a token. */
static double stored(phi_kv_type type, uint32_t d, uint32_t token, uint32_t c, bool value)
{
    phi_kv_head head = phi_kv_head_at(type, d, (char *)pages[token / PHI_KV_PAGE_TOKENS] + 64);
    size_t slot = token % PHI_KV_PAGE_TOKENS;
    if (value) {
        double scale = head.value_scales ? (double)head.value_scales[slot] : 1.0;
        return element(head.values, slot * d + c, type) * scale;
    }
    double scale = head.key_scales ? (double)head.key_scales[slot] : 1.0;
    return element(head.keys, c * PHI_KV_PAGE_TOKENS + slot, type) * scale;
}

/* out [d] of one row by the definition, and the size of what was summed; false: it sees nothing. */
static bool attend_plainly(const phi_attend *at, const float *query, uint32_t position, double *out,
                           double *out_size)
{
    double scores[TOKENS];
    double sum = 0.0;
    double best = -DBL_MAX;
    uint32_t d = at->head_dim;
    uint32_t first = at->window && position >= at->window ? position - at->window + 1 : 0;
    for (uint32_t j = first; j <= position; j++) {
        scores[j] = 0.0;
        for (uint32_t c = 0; c < d; c++) {
            scores[j] += (double)query[c] * stored(at->type, d, j, c, false);
        }
        scores[j] *= (double)at->scale;
        best = fmax(best, scores[j]);
    }
    memset(out, 0, d * sizeof *out);
    *out_size = 0.0;
    for (uint32_t j = first; j <= position; j++) {
        double weight = exp(scores[j] - best);
        sum += weight;
        for (uint32_t c = 0; c < d; c++) {
            double value = stored(at->type, d, j, c, true);
            out[c] += weight * value;
            *out_size = fmax(*out_size, fabs(value));
        }
    }
    for (uint32_t c = 0; c < d; c++) {
        out[c] /= sum;
    }
    return true;
}

static void fill(uint32_t d, float size)
{
    for (uint32_t t = 0; t < TOKENS; t++) {
        random_floats(keys[t], d, size);
        random_floats(values[t], d, 2.0F);
    }
    for (uint32_t i = 0; i < ROWS; i++) {
        random_floats(queries[i], d, size);
    }
}

static void check_rows(const attender *k, block *b, uint32_t n_rows)
{
    const phi_attend *at = &b->attend;
    uint32_t d = at->head_dim;
    pack(k, b, 0, n_rows);
    k->attend(at, 0, PAGES);
    for (uint32_t i = 0; i < n_rows; i++) {
        double right[D_MAX] = {0};
        double size;
        uint32_t position = at->position + i / at->group;
        assert_true(attend_plainly(at, queries[i], position, right, &size));
        for (uint32_t c = 0; c < d; c++) {
            double got = (double)(b->acc[i * PHI_ATTEND_PADDED(d) + c] / b->sum[i]);
            if (!(fabs(got - right[c]) <= k->bound * size)) {
                fail_msg("%s, type %d, d %u, row %u of %u, window %u: %g, %g is right",
                         k->set->name, (int)at->type, d, i, n_rows, at->window, got, right[c]);
            }
        }
    }
}

/* Each row by itself: the same bits. */
static void check_alone(const attender *k, block *b, block *one, uint32_t n_rows)
{
    uint32_t d = b->attend.head_dim;
    one->attend.type = b->attend.type;
    one->attend.group = b->attend.group;
    one->attend.position = b->attend.position;
    one->attend.window = b->attend.window;
    for (uint32_t i = 0; i < n_rows; i += 1 + random_u32() % 5) {
        uint32_t left = n_rows - i;
        uint32_t n = 1 + random_u32() % 12;
        n = n < left ? n : left;
        pack(k, one, i, n);
        k->attend(&one->attend, 0, PAGES);
        for (uint32_t r = 0; r < n; r++) {
            assert_memory_equal(&b->acc[(i + r) * PHI_ATTEND_PADDED(d)],
                                &one->acc[r * PHI_ATTEND_PADDED(d)], d * sizeof(float));
            assert_memory_equal(&b->sum[i + r], &one->sum[r], sizeof(float));
            assert_memory_equal(&b->max[i + r], &one->max[r], sizeof(float));
        }
    }
}

static const uint32_t dims[] = {2, 6, 16, 24, 40, 64, 80, 96, 128, 256};
static const uint32_t windows[] = {0, 1, 5, 33, 170};
static const phi_kv_type types[] = {PHI_KV_F16, PHI_KV_F32, PHI_KV_INT8};

static void check_dim(const attender *k, uint32_t d)
{
    block b;
    block one;
    open_block(&b, d);
    open_block(&one, d);
    fill(d, d > 100 ? 0.7F : 1.0F);
    for (size_t t = 0; t < 3; t++) {
        if (!takes(k, types[t])) {
            continue;
        }
        for (uint32_t n_rows = 1; n_rows <= 33; n_rows += n_rows < 10 ? 1 : 7) {
            uint32_t group = n_rows % 3 == 0 ? 3 : n_rows % 4 == 0 ? 4 : 1;
            uint32_t n_tokens = (n_rows + group - 1) / group;
            b.attend.type = types[t];
            b.attend.group = group;
            b.attend.window = windows[random_u32() % 5];
            b.attend.position = random_u32() % (TOKENS - n_tokens + 1);
            store_tokens(k->set, types[t], d, b.attend.position + n_tokens);
            check_rows(k, &b, n_rows);
            check_alone(k, &b, &one, n_rows);
        }
        b.attend.group = 1;
        b.attend.window = 50;
        b.attend.position = TOKENS - ROWS;
        store_tokens(k->set, types[t], d, TOKENS);
        check_rows(k, &b, ROWS);
        check_alone(k, &b, &one, ROWS);
    }
    close_block(&one);
    close_block(&b);
}

static void test_sizes(void **state)
{
    (void)state;
    random_seed(21);
    for (size_t s = 0; s < n_attenders; s++) {
        for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++) {
            check_dim(&attenders[s], dims[i]);
        }
    }
}

/* What comes back of a stored token, and that its neighbours are left alone. */
static void test_store(void **state)
{
    (void)state;
    random_seed(22);
    for (size_t s = 0; s < n_sets; s++) {
        for (size_t i = 0; i < 3 * sizeof dims / sizeof dims[0]; i++) {
            phi_kv_type type = types[i % 3];
            uint32_t d = dims[i / 3];
            fill(d, 3.0F);
            memset(keys[2], 0, sizeof keys[2]);
            values[3][1] = 1e-40F;
            store_tokens(sets[s], type, d, 19);
            for (uint32_t t = 0; t < 19; t++) {
                double most = 0.0;
                for (uint32_t c = 0; c < d; c++) {
                    most = fmax(most, fabs((double)keys[t][c]));
                }
                for (uint32_t c = 0; c < d; c++) {
                    double got = stored(type, d, t, c, false);
                    double off = fabs(got - (double)keys[t][c]);
                    double allowed = type == PHI_KV_F16   ? 0x1p-11 * most + 0x1p-25
                                     : type == PHI_KV_F32 ? 0.0
                                                          : most / 254.0 * 1.00001;
                    assert_true(off <= allowed);
                }
            }
            assert_true(type == PHI_KV_INT8 || isnan(stored(type, d, 19, 0, false)) != 0);
            assert_true(isnan(stored(type, d, 19, 0, true)) != 0);
        }
    }
}

/* One sharp score, all equal, none far away; what is not a number is not lost. */
static void test_extremes(void **state)
{
    (void)state;
    const uint32_t d = 32;
    block b;
    open_block(&b, d);
    for (size_t s = 0; s < n_attenders; s++) {
        const attender *k = &attenders[s];
        for (size_t t = 0; t < 3; t++) {
            if (!takes(k, types[t])) {
                continue;
            }
            b.attend.type = types[t];
            b.attend.group = 1;
            b.attend.position = 99;
            b.attend.window = 0;
            random_seed(23);
            fill(d, 1.0F);
            for (uint32_t c = 0; c < d; c++) {
                queries[0][c] = 50.0F * keys[70][c];
                keys[70][c] *= 20.0F;
            }
            store_tokens(k->set, types[t], d, 100);
            check_rows(k, &b, 1);
            memset(queries[0], 0, sizeof queries[0]);
            check_rows(k, &b, 1);
            assert_true(b.sum[0] == 100.0F);
            values[50][3] = NAN;
            store_tokens(k->set, types[t], d, 100);
            pack(k, &b, 0, 1);
            k->attend(&b.attend, 0, PAGES);
            assert_true(isnan(b.acc[3]) != 0);
            values[50][3] = 0.0F;
            keys[50][3] = INFINITY;
            queries[0][3] = 1.0F;
            store_tokens(k->set, types[t], d, 100);
            pack(k, &b, 0, 1);
            k->attend(&b.attend, 0, PAGES);
            assert_true(isfinite(b.acc[3] / b.sum[0]) == 0);
        }
    }
    close_block(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_store),
        cmocka_unit_test(test_extremes),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
