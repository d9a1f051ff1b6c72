#include "runner.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"

void runner_init(runner *r, const phi_weights *weights, const phi_kernels *kernels, phi_team *team,
                 phi_kv_type kv_type)
{
    const phi_description *d = &weights->description;
    *r = (runner){
        .weights = weights, .compute = {kernels, team, PHI_TEAM_INFERENCE}, .n_prompt = UINT32_MAX};
    const phi_forward_sizes sizes = {kv_type, RUNNER_TOKENS, 1, phi_team_size(team)};
    assert_int_equal(PHI_OK, phi_forward_ctx_create(d, &sizes, &r->ctx, NULL));
    for (int i = 0; i < RUNNER_PAGES; i++) {
        r->pages[i] = phi_try_alloc_aligned((size_t)phi_kv_page_bytes(d, kv_type));
        assert_non_null(r->pages[i]);
        /* Not a number: what is read before it is written shows. */
        memset(r->pages[i], 0xFF, (size_t)phi_kv_page_bytes(d, kv_type));
    }
}

void runner_done(runner *r)
{
    phi_forward_ctx_destroy(r->ctx);
    for (int i = 0; i < RUNNER_PAGES; i++) {
        phi_free(r->pages[i]);
    }
}

static bool is_long(const runner *r, uint32_t n_tokens)
{
    const phi_description *d = &r->weights->description;
    return d->rope == PHI_ROPE_LONG && n_tokens > d->n_ctx_original;
}

void runner_restart(runner *r, uint32_t n_tokens)
{
    r->n_done = 0;
    r->rope_long = is_long(r, n_tokens);
}

const float *runner_feed(runner *r, const int32_t *tokens, uint32_t n, uint32_t step)
{
    const phi_kv_view view = {.pages = r->pages, .rope_long = r->rope_long};
    phi_row rows[RUNNER_TOKENS];
    const float *logits = NULL;
    assert_true(step <= RUNNER_TOKENS && r->n_done + n <= RUNNER_PAGES * PHI_KV_PAGE_TOKENS);
    for (uint32_t done = 0; done < n;) {
        uint32_t count = n - done < step ? n - done : step;
        bool is_prompt = r->n_done < r->n_prompt;
        if (is_prompt && count > r->n_prompt - r->n_done) {
            count = r->n_prompt - r->n_done;
        }
        for (uint32_t i = 0; i < count; i++) {
            rows[i] = (phi_row){.token = tokens[done + i],
                                .position = r->n_done + i,
                                .is_prompt = is_prompt,
                                .want_logits = done + i + 1 == n};
        }
        logits = phi_forward(r->ctx, &r->compute, r->weights, rows, count, &view);
        done += count;
        r->n_done += count;
    }
    return logits;
}

const float *runner_extend(runner *r, const int32_t *tokens, uint32_t n, uint32_t step)
{
    if (is_long(r, n) != r->rope_long) {
        runner_restart(r, n);
    }
    uint32_t done = r->n_done;
    return runner_feed(r, tokens + done, n - done, step);
}

int32_t runner_best(const runner *r, const float *logits)
{
    int32_t best = 0;
    for (uint32_t i = 1; i < r->weights->description.n_vocab; i++) {
        if (logits[i] > logits[best]) {
            best = (int32_t)i;
        }
    }
    return best;
}
