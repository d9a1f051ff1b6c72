#include "engine/model/attention.h"

#include "base/assert.h"

#include <math.h>
#include <string.h>

typedef struct task {
    const phi_kernels *kernels;
    const phi_attention *at;
} task;

/* Element offset of one head's run of keys (part 0) or values (part 1) inside a page. */
static size_t head_offset(const phi_attention *at, uint32_t part, uint32_t head)
{
    const phi_description *desc = at->description;
    size_t plane = ((size_t)at->layer * 2 + part) * desc->n_head_kv + head;
    return plane * PHI_KV_PAGE_TOKENS * desc->head_dim;
}

static void store_slice(void *arg, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const task *self = arg;
    const phi_attention *at = self->at;
    const phi_description *desc = at->description;
    size_t d = desc->head_dim;
    size_t stride = ((size_t)desc->n_head + 2 * (size_t)desc->n_head_kv) * d;
    for (size_t i = begin; i < end; i++) {
        const phi_row *row = &at->rows[i];
        void *page = at->views[row->seq].pages[row->position / PHI_KV_PAGE_TOKENS];
        size_t slot = row->position % PHI_KV_PAGE_TOKENS;
        const float *first = at->qkv + i * stride + (size_t)desc->n_head * d;
        PHI_ASSERT(page != NULL);
        for (uint32_t part = 0; part < 2; part++) {
            for (uint32_t h = 0; h < desc->n_head_kv; h++) {
                const float *src = first + ((size_t)part * desc->n_head_kv + h) * d;
                size_t to = head_offset(at, part, h) + slot * d;
                if (at->kv_type == PHI_KV_F16) {
                    self->kernels->narrow_f16(src, (uint16_t *)page + to, d);
                } else {
                    memcpy((float *)page + to, src, d * sizeof(float));
                }
            }
        }
    }
}

void phi_attention_store(const phi_compute *compute, const phi_attention *attention)
{
    task self = {.kernels = compute->kernels, .at = attention};
    phi_team_run(compute->team, compute->priority, attention->n_rows, 16, store_slice, &self);
}

/* Running maximum and sum of one query head. */
typedef struct running {
    float max;
    float sum;
} running;

/* One page's share of one query head: scores, then the rescaled accumulator. */
static void visit_page(const task *self, const float *q, const void *page, uint32_t kv_head,
                       uint32_t first, uint32_t count, running *state, float *acc)
{
    const phi_attention *at = self->at;
    const phi_kernels *k = self->kernels;
    size_t d = at->description->head_dim;
    float scale = 1.0F / sqrtf((float)d);
    float scores[PHI_KV_PAGE_TOKENS];
    size_t keys = head_offset(at, 0, kv_head) + first * d;
    size_t values = head_offset(at, 1, kv_head) + first * d;
    bool half = at->kv_type == PHI_KV_F16;
    for (uint32_t j = 0; j < count; j++) {
        float dot = half ? k->dot_f16(q, (const uint16_t *)page + keys + j * d, d)
                         : k->dot_f32(q, (const float *)page + keys + j * d, d);
        scores[j] = dot * scale;
    }
    float largest = k->max(scores, count);
    if (largest > state->max) {
        float shrink = expf(state->max - largest);
        k->scale(shrink, acc, d);
        state->sum *= shrink;
        state->max = largest;
    }
    state->sum += k->exp_sum(scores, count, state->max);
    for (uint32_t j = 0; j < count; j++) {
        if (half) {
            k->axpy_f16(scores[j], (const uint16_t *)page + values + j * d, acc, d);
        } else {
            k->axpy_f32(scores[j], (const float *)page + values + j * d, acc, d);
        }
    }
}

static void attend(const task *self, uint32_t row_index, uint32_t kv_head)
{
    const phi_attention *at = self->at;
    const phi_description *desc = at->description;
    const phi_row *row = &at->rows[row_index];
    const phi_kv_view *view = &at->views[row->seq];
    size_t d = desc->head_dim;
    uint32_t group = desc->n_head / desc->n_head_kv;
    size_t stride = ((size_t)desc->n_head + 2 * (size_t)desc->n_head_kv) * d;
    const float *q = at->qkv + row_index * stride + (size_t)kv_head * group * d;
    float *out = at->out + ((size_t)row_index * desc->n_head + (size_t)kv_head * group) * d;
    running states[PHI_LIMIT_HEADS];
    memset(out, 0, group * d * sizeof *out);
    for (uint32_t g = 0; g < group; g++) {
        states[g] = (running){.max = -INFINITY};
    }
    /* Key j is visible iff j <= position and position - j < window. */
    uint32_t begin = 0;
    if (desc->window && row->position >= desc->window) {
        begin = row->position - desc->window + 1;
    }
    uint32_t end = row->position + 1;
    while (begin < end) {
        uint32_t page = begin / PHI_KV_PAGE_TOKENS;
        uint32_t first = begin % PHI_KV_PAGE_TOKENS;
        uint32_t room = PHI_KV_PAGE_TOKENS - first;
        uint32_t count = end - begin < room ? end - begin : room;
        PHI_ASSERT(view->pages[page] != NULL);
        for (uint32_t g = 0; g < group; g++) {
            visit_page(self, q + g * d, view->pages[page], kv_head, first, count, &states[g],
                       out + g * d);
        }
        begin += count;
    }
    for (uint32_t g = 0; g < group; g++) {
        self->kernels->scale(1.0F / states[g].sum, out + g * d, d);
    }
}

static void attend_slice(void *arg, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const task *self = arg;
    uint32_t n_head_kv = self->at->description->n_head_kv;
    for (size_t i = begin; i < end; i++) {
        attend(self, (uint32_t)(i / n_head_kv), (uint32_t)(i % n_head_kv));
    }
}

void phi_attention_run(const phi_compute *compute, const phi_attention *attention)
{
    task self = {.kernels = compute->kernels, .at = attention};
    size_t count = (size_t)attention->n_rows * attention->description->n_head_kv;
    phi_team_run(compute->team, compute->priority, count, 1, attend_slice, &self);
}
