/* Attention in plain C: each row by itself, key by key. */
#include "engine/kernels/ref/ref.h"

#include "base/assert.h"
#include "engine/tensor/half.h"

#include <math.h>
#include <string.h>

static float element(const char *from, size_t index, phi_kv_type type)
{
    switch (type) {
    case PHI_KV_F16:
        return phi_half_to_float(((const uint16_t *)(const void *)from)[index]);
    case PHI_KV_F32:
        return ((const float *)(const void *)from)[index];
    case PHI_KV_INT8:
        return (float)((const int8_t *)(const void *)from)[index];
    }
    return 0.0F;
}

/* The scores of the keys that row i sees, scaled; returns the largest. */
static float score_row(const phi_attend *attend, const phi_kv_head *head, uint32_t i,
                       phi_attend_span span, float *scores)
{
    size_t d = attend->head_dim;
    const float *q = attend->q + i / PHI_ATTEND_TILE * PHI_ATTEND_TILE * d + i % PHI_ATTEND_TILE;
    float best = -INFINITY;
    for (size_t j = span.begin; j < span.end; j++) {
        float sum = 0.0F;
        for (size_t c = 0; c < d; c++) {
            sum += q[c * PHI_ATTEND_TILE] *
                   element(head->keys, c * PHI_KV_PAGE_TOKENS + j, attend->type);
        }
        scores[j] = sum * (head->key_scales ? head->key_scales[j] : 1.0F) * attend->scale;
        best = scores[j] > best ? scores[j] : best;
    }
    return best;
}

static void add_page(const phi_attend *attend, const phi_kv_head *head, uint32_t i,
                     phi_attend_span span)
{
    size_t d = attend->head_dim;
    float *acc = attend->acc + i * PHI_ATTEND_PADDED(d);
    float scores[PHI_KV_PAGE_TOKENS];
    float best = score_row(attend, head, i, span, scores);
    if (best > attend->max[i]) {
        float shrink = expf(attend->max[i] - best);
        for (size_t c = 0; c < d; c++) {
            acc[c] *= shrink;
        }
        attend->sum[i] *= shrink;
        attend->max[i] = best;
    }
    for (size_t j = span.begin; j < span.end; j++) {
        float weight = expf(scores[j] - attend->max[i]);
        attend->sum[i] += weight;
        weight *= head->value_scales ? head->value_scales[j] : 1.0F;
        for (size_t c = 0; c < d; c++) {
            acc[c] += weight * element(head->values, j * d + c, attend->type);
        }
    }
}

void phi_ref_attend(const phi_attend *attend, uint32_t page_begin, uint32_t page_end)
{
    size_t d = PHI_ATTEND_PADDED(attend->head_dim);
    PHI_ASSERT(attend->n_rows > 0 && attend->n_rows <= PHI_ATTEND_ROWS);
    for (uint32_t i = 0; i < attend->n_rows; i++) {
        memset(attend->acc + i * d, 0, d * sizeof *attend->acc);
        attend->sum[i] = 0.0F;
        attend->max[i] = -INFINITY;
        for (uint32_t p = page_begin; p < page_end; p++) {
            phi_attend_span span = phi_attend_visible(attend, i, p);
            if (span.begin < span.end) {
                char *at = (char *)attend->pages[p] + attend->head_offset;
                phi_kv_head head = phi_kv_head_at(attend->type, attend->head_dim, at);
                add_page(attend, &head, i, span);
            }
        }
    }
}

/* One token's keys or values of one head as codes, `step` apart; returns the scale. NaN and
 * infinity make it NaN, so that they are not lost. */
static float encode_row(const float *x, size_t d, int8_t *codes, size_t step)
{
    float most = 0.0F;
    float bad = 0.0F;
    for (size_t i = 0; i < d; i++) {
        float size = fabsf(x[i]);
        most = size > most ? size : most;
        bad += x[i] * 0.0F;
    }
    /* Smaller than this counts as 0: the quotient would be infinite. */
    float inverse = most > 1e-30F ? 127.0F / most : 0.0F;
    for (size_t i = 0; i < d; i++) {
        float code = x[i] * inverse;
        code = code > -127.0F ? code : -127.0F;
        codes[i * step] = (int8_t)lrintf(code < 127.0F ? code : 127.0F);
    }
    return most / 127.0F + bad;
}

static void store_token(const phi_kv_rows *rows, const phi_kv_head *to, size_t token)
{
    size_t d = rows->head_dim;
    size_t slot = rows->slot + token;
    const float *keys = rows->keys + token * rows->stride;
    const float *values = rows->values + token * rows->stride;
    if (rows->type == PHI_KV_INT8) {
        int8_t *codes = (int8_t *)(void *)to->values + slot * d;
        to->key_scales[slot] =
            encode_row(keys, d, (int8_t *)(void *)to->keys + slot, PHI_KV_PAGE_TOKENS);
        to->value_scales[slot] = encode_row(values, d, codes, 1);
        return;
    }
    for (size_t i = 0; i < d; i++) {
        size_t key = i * PHI_KV_PAGE_TOKENS + slot;
        size_t value = slot * d + i;
        if (rows->type == PHI_KV_F16) {
            ((uint16_t *)(void *)to->keys)[key] = phi_half_of_float(keys[i]);
            ((uint16_t *)(void *)to->values)[value] = phi_half_of_float(values[i]);
        } else {
            ((float *)(void *)to->keys)[key] = keys[i];
            ((float *)(void *)to->values)[value] = values[i];
        }
    }
}

void phi_ref_kv_store(const phi_kv_rows *rows, void *head)
{
    phi_kv_head to = phi_kv_head_at(rows->type, rows->head_dim, head);
    PHI_ASSERT(rows->slot + rows->count <= PHI_KV_PAGE_TOKENS);
    for (size_t t = 0; t < rows->count; t++) {
        store_token(rows, &to, t);
    }
}
