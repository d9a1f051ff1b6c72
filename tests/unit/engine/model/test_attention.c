/*
 * Attention of a step, of generated rows and of prompts: one row over many keys gives the same bits
 * whether one thread computes it or several share it, alone or behind its neighbours; and nothing
 * is allocated.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/model/attention.h"
#include "engine/model/forward.h"
#include "random_weight.h"

#define TOKENS 2100U
#define STEP 70U
#define PAGES ((TOKENS + PHI_KV_PAGE_TOKENS - 1) / PHI_KV_PAGE_TOKENS)

typedef struct setting {
    phi_description description;
    phi_kv_type type;
    bool is_prompt;
    const phi_kernels *kernels;
    void *pages[PAGES];
    phi_row rows[STEP];
    float *qkv; /* [TOKENS, (H + 2 Hkv) d] */
    float *out; /* [STEP, H d] */
} setting;

static size_t cols_of(const phi_description *d)
{
    return ((size_t)d->n_head + 2 * (size_t)d->n_head_kv) * d->head_dim;
}

static void set_up(setting *s, const phi_kernels *kernels, phi_kv_type type, uint32_t window)
{
    *s = (setting){.kernels = kernels,
                   .type = type,
                   .description = {.n_layer = 2,
                                   .n_head = 6,
                                   .n_head_kv = 2,
                                   .head_dim = 48,
                                   .n_ctx = TOKENS,
                                   .window = window}};
    size_t bytes = (size_t)phi_kv_page_bytes(&s->description, type);
    for (uint32_t p = 0; p < PAGES; p++) {
        s->pages[p] = phi_try_alloc_aligned(bytes);
        memset(s->pages[p], 0xFF, bytes);
    }
    s->qkv = phi_alloc(TOKENS * cols_of(&s->description) * sizeof(float));
    s->out = phi_alloc(STEP * (size_t)6 * 48 * sizeof(float));
    random_seed(31);
    random_floats(s->qkv, TOKENS * cols_of(&s->description), 1.5F);
}

static void tear_down(setting *s)
{
    for (uint32_t p = 0; p < PAGES; p++) {
        phi_free(s->pages[p]);
    }
    phi_free(s->qkv);
    phi_free(s->out);
}

/* Positions [first, first + n) in one step; the last row's result goes to `out`. */
static void step(setting *s, phi_team *team, phi_attention_scratch *scratch, uint32_t first,
                 uint32_t n)
{
    const phi_compute compute = {s->kernels, team, PHI_TEAM_INFERENCE};
    const phi_kv_view view = {.pages = s->pages};
    for (uint32_t i = 0; i < n; i++) {
        s->rows[i] = (phi_row){.position = first + i, .is_prompt = s->is_prompt};
    }
    const phi_attention at = {.description = &s->description,
                              .kv_type = s->type,
                              .layer = 1,
                              .rows = s->rows,
                              .n_rows = n,
                              .views = &view,
                              .qkv = s->qkv + first * cols_of(&s->description),
                              .out = s->out};
    phi_attention_run(&compute, &at, scratch);
}

/* From `from` on in steps of `size`; leaves the last token's result in `last`. */
static void run(setting *s, unsigned threads, uint32_t from, uint32_t size, float *last)
{
    phi_team *team = NULL;
    phi_attention_scratch scratch;
    uint32_t n = 0;
    size_t cols = (size_t)s->description.n_head * s->description.head_dim;
    assert_int_equal(phi_team_create(threads, &team, NULL), PHI_OK);
    assert_int_equal(phi_attention_scratch_init(&scratch, &s->description, STEP, threads, NULL),
                     PHI_OK);
    uint64_t allocations = phi_mem_allocations();
    for (uint32_t t = from; t < TOKENS; t += n) {
        n = TOKENS - t < size ? TOKENS - t : size;
        step(s, team, &scratch, t, n);
    }
    assert_true(phi_mem_allocations() == allocations);
    memcpy(last, s->out + (n - 1) * cols, cols * sizeof *last);
    for (size_t i = 0; i < cols; i++) {
        assert_true(isfinite(last[i]) != 0);
    }
    phi_attention_scratch_done(&scratch);
    phi_team_destroy(team);
}

static void test_shared_as_alone(void **state)
{
    (void)state;
    static const uint32_t windows[] = {0, 600, 1999};
    const phi_kernels *sets[8];
    size_t n_sets = phi_kernels_available(sets, 8);
    for (size_t i = 0; i < n_sets * 6; i++) {
        const bool is_prompt = i / 3 % 2 == 1;
        if (is_prompt && !sets[i / 6]->bulk) {
            continue;
        }
        setting s;
        float right[6 * 48];
        float got[6 * 48];
        set_up(&s, sets[i / 6], (phi_kv_type)(i % 3), windows[i % 3]);
        s.is_prompt = is_prompt;
        run(&s, 1, 0, STEP, right);
        /* The last pages once more. */
        run(&s, 1, TOKENS - STEP, 1, got);
        assert_memory_equal(right, got, sizeof got);
        /* So many threads that the runs of keys are given to several. */
        run(&s, 7, TOKENS - STEP, 1, got);
        assert_memory_equal(right, got, sizeof got);
        run(&s, 3, TOKENS - STEP, 33, got);
        assert_memory_equal(right, got, sizeof got);
        tear_down(&s);
    }
}

static void test_no_memory(void **state)
{
    (void)state;
    const phi_description d = {.n_head = 2, .n_head_kv = 1, .head_dim = 8, .n_ctx = 100};
    for (int n = 0; n < 3; n++) {
        phi_attention_scratch scratch;
        phi_err err = {0};
        phi_mem_fail_after(n);
        phi_status status = phi_attention_scratch_init(&scratch, &d, 4, 2, &err);
        phi_mem_fail_after(-1);
        assert_int_equal(status, PHI_E_NO_MEMORY);
        assert_true(err.message[0] != '\0');
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shared_as_alone),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
