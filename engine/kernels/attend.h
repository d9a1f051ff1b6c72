/*
 * Purpose: what attention kernels work on: the layout of keys and values in a page, and a block of
 *          query rows of one KV head.
 * Owns:    nothing: all buffers are the caller's.
 * Threads: [any]; functions are pure.
 * Errors:  none; arguments are asserted.
 * Limits:  PHI_ATTEND_ROWS query rows a call.
 *
 * Online softmax: Milakov and Gimelshein, arXiv:1805.02867. Tiles of queries over blocks of keys:
 * Dao et al., arXiv:2205.14135. A sequence split into runs of keys whose results are merged:
 * Dao et al., "Flash-Decoding for long-context inference", 2023.
 */
#ifndef PHI_ENGINE_KERNELS_ATTEND_H
#define PHI_ENGINE_KERNELS_ATTEND_H

#include <stddef.h>
#include <stdint.h>

typedef enum phi_kv_type {
    PHI_KV_F16,
    PHI_KV_F32,  /* for FP32 models: keeps the answer within 1e-4 of the reference */
    PHI_KV_INT8, /* codes of -127 to 127, and a scale per token and head */
} phi_kv_type;

/* By phi_kv_type. */
#define PHI_KV_TYPE_NAMES                                                                          \
    {                                                                                              \
        "f16", "f32", "int8"                                                                       \
    }

/* Tokens in one page of keys and values. */
#define PHI_KV_PAGE_TOKENS 32U
/* Queries are packed in tiles of this many rows. */
#define PHI_ATTEND_TILE 8U
/* Query rows of one call: enough that turning a page into floats once for all of them costs
 * little, and few enough that they stay in the second-level cache. */
#define PHI_ATTEND_ROWS 128U
/*
 * A row's keys are taken in runs that end at multiples of this position, each with a softmax of its
 * own; the runs' results are merged in order. Runs depend on positions alone: whether one thread
 * or several compute them changes no bit.
 */
#define PHI_ATTEND_RUN_TOKENS 512U
#define PHI_ATTEND_RUN_PAGES (PHI_ATTEND_RUN_TOKENS / PHI_KV_PAGE_TOKENS)

/*
 * One KV head's share of a page, of the KV type:
 *   keys [d][32], values [32][d], and for INT8 scales of keys float [32] and of values float [32].
 * Keys lie across, so that scores of many keys are summed side by side.
 */
static inline size_t phi_kv_element_bytes(phi_kv_type type)
{
    return type == PHI_KV_F16 ? 2 : type == PHI_KV_F32 ? 4 : 1;
}

static inline size_t phi_kv_head_bytes(phi_kv_type type, uint32_t head_dim)
{
    size_t elements = (size_t)2 * PHI_KV_PAGE_TOKENS * head_dim;
    size_t scales = type == PHI_KV_INT8 ? 2 * PHI_KV_PAGE_TOKENS * sizeof(float) : 0;
    return elements * phi_kv_element_bytes(type) + scales;
}

/* The parts of a head's share that begins at `head`. Scales are NULL unless INT8. */
typedef struct phi_kv_head {
    char *keys;
    char *values;
    float *key_scales;
    float *value_scales;
} phi_kv_head;

static inline phi_kv_head phi_kv_head_at(phi_kv_type type, uint32_t head_dim, void *head)
{
    size_t plane = phi_kv_element_bytes(type) * PHI_KV_PAGE_TOKENS * head_dim;
    phi_kv_head parts = {.keys = head, .values = (char *)head + plane};
    if (type == PHI_KV_INT8) {
        /* Planes are whole multiples of 32 bytes. */
        parts.key_scales = (float *)(void *)(parts.values + plane);
        parts.value_scales = parts.key_scales + PHI_KV_PAGE_TOKENS;
    }
    return parts;
}

/* Keys and values of neighbouring tokens of one KV head, in floats, on their way into a page. */
typedef struct phi_kv_rows {
    phi_kv_type type;
    uint32_t head_dim;
    uint32_t slot;  /* of the first token */
    uint32_t count; /* slot + count <= 32 */
    const float *keys;
    const float *values;
    size_t stride; /* floats from one token to the next */
} phi_kv_rows;

/*
 * Query rows of one KV head and one sequence: row i is query head (first_row + i) % group of the
 * token at position + (first_row + i) / group. It sees key j iff j <= its position and, with a
 * window, position - j < window. Buffers hold whole tiles; head_dim is rounded up to 16 in
 * `acc`'s stride.
 */
typedef struct phi_attend {
    phi_kv_type type;
    uint32_t head_dim;
    uint32_t group;
    uint32_t position;
    uint32_t first_row;
    uint32_t n_rows;
    uint32_t window; /* 0: none */
    float scale;     /* of scores: 1 / sqrt(d) */
    void *const *pages;
    uint32_t pages_end; /* those before it may be fetched ahead; 0: none */
    size_t head_offset; /* bytes from a page's beginning to the head's share */
    /* What may be fetched ahead behind them: pages that the thread attends to next, and where in
     * them it does. */
    void *const *later_pages;
    uint32_t n_later;
    size_t later_offset;
    const float *q;    /* [tiles][d][8]; zero where a tile has no row */
    uint16_t *q_tiles; /* instead, for phi_bulk.attend; 64-byte aligned */
    float *acc;        /* [tiles * 8, d_padded] values times exp(score - max) */
    float *max;        /* [tiles * 8] the largest score seen, scaled */
    float *sum;        /* [tiles * 8] of exp(score - max); 0: the row sees none of the pages */
    float *work;       /* [PHI_ATTEND_WORK(d)] */
} phi_attend;

#define PHI_ATTEND_PADDED(d) (((size_t)(d) + 15) / 16 * 16)
/* A page's keys and values in floats, and sums by lane. */
#define PHI_ATTEND_WORK(d) (PHI_KV_PAGE_TOKENS * 2 * PHI_ATTEND_PADDED(d) + PHI_ATTEND_ROWS * 16)

/* Slots [begin, end) of a page that row i sees. */
typedef struct phi_attend_span {
    uint32_t begin;
    uint32_t end;
} phi_attend_span;

static inline phi_attend_span phi_attend_visible(const phi_attend *attend, uint32_t i,
                                                 uint32_t page)
{
    uint32_t position = attend->position + (attend->first_row + i) / attend->group;
    uint32_t first = 0;
    if (attend->window && position >= attend->window) {
        first = position - attend->window + 1;
    }
    uint32_t page_first = page * PHI_KV_PAGE_TOKENS;
    uint32_t page_end = page_first + PHI_KV_PAGE_TOKENS;
    if (position < page_first || first >= page_end) {
        return (phi_attend_span){0, 0};
    }
    return (phi_attend_span){
        .begin = first > page_first ? first - page_first : 0,
        .end = position + 1 < page_end ? position + 1 - page_first : PHI_KV_PAGE_TOKENS,
    };
}

#endif
