#include "engine/model/experts.h"

#include "base/assert.h"
#include "base/mem.h"
#include "engine/model/rows.h"

#include <math.h>
#include <string.h>

/* ---- work space ---- */

/* Hands out the parts of scratch->memory; with memory NULL it only counts. */
static uint64_t lay_out(phi_experts_scratch *scratch, const phi_description *d, uint64_t n_tok)
{
    struct {
        void **part;
        uint64_t bytes;
    } parts[] = {
        {(void **)(void *)&scratch->scores, n_tok * d->n_expert * sizeof(float)},
        {(void **)(void *)&scratch->gathered, n_tok * d->n_embd * sizeof(float)},
        {(void **)(void *)&scratch->routes, n_tok * sizeof(phi_route)},
        {(void **)(void *)&scratch->tokens, n_tok * sizeof(uint32_t)},
        {(void **)(void *)&scratch->shares, n_tok * sizeof(float)},
    };
    uint64_t used = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (scratch->memory) {
            *parts[i].part = (uint8_t *)scratch->memory + used;
        }
        used += (parts[i].bytes + 63) / 64 * 64;
    }
    return used;
}

uint64_t phi_experts_scratch_bytes(const phi_description *description, uint32_t n_tok_max)
{
    phi_experts_scratch none = {0};
    return description->ffn == PHI_FFN_EXPERTS ? lay_out(&none, description, n_tok_max) : 0;
}

phi_status phi_experts_scratch_init(phi_experts_scratch *scratch,
                                    const phi_description *description, uint32_t n_tok_max,
                                    phi_err *err)
{
    uint64_t bytes = phi_experts_scratch_bytes(description, n_tok_max);
    phi_experts_scratch fresh = {0};
    if (bytes > 0) {
        fresh.memory = phi_try_alloc_aligned((size_t)bytes);
        if (!fresh.memory) {
            return phi_fail(err, PHI_E_NO_MEMORY,
                            "not enough memory for the experts of %u tokens a step", n_tok_max);
        }
        (void)lay_out(&fresh, description, n_tok_max);
    }
    *scratch = fresh;
    return PHI_OK;
}

void phi_experts_scratch_done(phi_experts_scratch *scratch)
{
    phi_free(scratch->memory);
    *scratch = (phi_experts_scratch){0};
}

/* ---- routing ---- */

/* The best of the experts but `but`, and its share among those that come close to it: an expert
 * drops out when it is further below the best than twice the jitter, measured by the larger of
 * its own magnitude and the best. */
static void choose(const float *scores, uint32_t n_expert, float jitter, uint32_t but,
                   uint32_t *out_expert, float *out_weight)
{
    uint32_t best = but == 0 ? 1 : 0;
    for (uint32_t i = best + 1; i < n_expert; i++) {
        best = i != but && scores[i] > scores[best] ? i : best;
    }
    float top = scores[best];
    float sum = 0.0F;
    for (uint32_t i = 0; i < n_expert; i++) {
        float size = fabsf(scores[i]) > top ? fabsf(scores[i]) : top;
        bool is_far = (top - scores[i]) / size > 2.0F * jitter;
        sum += i == but || is_far ? 0.0F : expf(scores[i] - top);
    }
    *out_expert = best;
    *out_weight = 1.0F / sum;
}

phi_route phi_experts_route(const float *scores, uint32_t n_expert, float jitter)
{
    phi_route route;
    PHI_ASSERT(n_expert >= PHI_EXPERTS_USED);
    choose(scores, n_expert, jitter, UINT32_MAX, &route.expert[0], &route.weight[0]);
    choose(scores, n_expert, jitter, route.expert[0], &route.expert[1], &route.weight[1]);
    return route;
}

/* ---- a layer ---- */

typedef struct expert_job {
    const phi_experts *experts;
    const phi_kernels *kernels;
    phi_experts_scratch *scratch;
} expert_job;

static void route_slice(void *arg, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const expert_job *job = arg;
    const phi_description *d = job->experts->description;
    for (size_t t = begin; t < end; t++) {
        job->scratch->routes[t] = phi_experts_route(job->scratch->scores + t * d->n_expert,
                                                    d->n_expert, d->router_jitter);
    }
}

static void gather_slice(void *arg, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const expert_job *job = arg;
    size_t n = job->experts->description->n_embd;
    for (size_t i = begin; i < end; i++) {
        memcpy(job->scratch->gathered + i * n, job->experts->x + job->scratch->tokens[i] * n,
               n * sizeof(float));
    }
}

static void swiglu_slice(void *arg, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const expert_job *job = arg;
    const phi_experts *e = job->experts;
    size_t f = e->description->n_ffn;
    for (size_t i = begin; i < end; i++) {
        job->kernels->swiglu(e->gate_rows + i * f, e->up_rows + i * f, f, e->ffn_rows + i * f);
    }
}

/* No two of an expert's rows are of one token. */
static void scatter_slice(void *arg, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const expert_job *job = arg;
    size_t n = job->experts->description->n_embd;
    for (size_t i = begin; i < end; i++) {
        job->kernels->mix(1.0F, job->experts->out + job->scratch->tokens[i] * n,
                          job->scratch->shares[i], job->scratch->gathered + i * n, n);
    }
}

/* The tokens that go to the expert, in order. */
static uint32_t list_tokens(const expert_job *job, uint32_t expert)
{
    phi_experts_scratch *scratch = job->scratch;
    uint32_t count = 0;
    for (uint32_t t = 0; t < job->experts->n_tok; t++) {
        const phi_route *route = &scratch->routes[t];
        for (uint32_t k = 0; k < PHI_EXPERTS_USED; k++) {
            if (route->expert[k] == expert) {
                scratch->tokens[count] = t;
                scratch->shares[count] = route->weight[k];
                count++;
            }
        }
    }
    return count;
}

static void run_expert(const phi_compute *compute, expert_job *job, uint32_t expert, uint32_t count,
                       phi_matmul_scratch *products)
{
    const phi_experts *e = job->experts;
    phi_experts_scratch *scratch = job->scratch;
    uint32_t n_ffn = e->description->n_ffn;
    uint32_t n_embd = e->description->n_embd;
    phi_weight gate = phi_weight_rows_of(e->gate, expert * n_ffn, n_ffn);
    phi_weight up = phi_weight_rows_of(e->up, expert * n_ffn, n_ffn);
    phi_weight down = phi_weight_rows_of(e->down, expert * n_embd, n_embd);
    uint32_t n_prompt = 0;
    while (n_prompt < count && scratch->tokens[count - 1 - n_prompt] >= e->n_tok - e->n_prompt) {
        n_prompt++;
    }
    const phi_fill gather = {.rows = gather_slice, .arg = job};
    const phi_fill swiglu = {.rows = swiglu_slice, .arg = job};
    phi_matmul_rows(compute, &gate, scratch->gathered, &gather, count, n_prompt, e->gate_rows,
                    products);
    phi_matmul_rows(compute, &up, scratch->gathered, NULL, count, n_prompt, e->up_rows, products);
    phi_matmul_rows(compute, &down, e->ffn_rows, &swiglu, count, n_prompt, scratch->gathered,
                    products);
    phi_over_rows(compute, count, scatter_slice, job);
}

uint32_t phi_experts_run(const phi_compute *compute, const phi_experts *experts,
                         phi_experts_scratch *scratch, phi_matmul_scratch *products)
{
    const phi_description *d = experts->description;
    expert_job job = {experts, compute->kernels, scratch};
    /* What decides is computed one way for all. */
    phi_matmul(compute, experts->router, experts->x, experts->fill, experts->n_tok, scratch->scores,
               products);
    phi_over_rows(compute, experts->n_tok, route_slice, &job);
    memset(experts->out, 0, (size_t)experts->n_tok * d->n_embd * sizeof(float));
    uint32_t used = 0;
    for (uint32_t expert = 0; expert < d->n_expert; expert++) {
        uint32_t count = list_tokens(&job, expert);
        if (count > 0) {
            run_expert(compute, &job, expert, count, products);
            used++;
        }
    }
    return used;
}
