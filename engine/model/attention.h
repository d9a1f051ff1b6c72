/*
 * Purpose: keys and values into their pages, and attention of queries over them.
 * Owns:    phi_attention_scratch owns its work space.
 * Threads: [engine] or a [job], one call at a time per scratch; the work runs on the team.
 * Errors:  only phi_attention_scratch_init allocates.
 * Limits:  rows, threads and sizes given to phi_attention_scratch_init.
 *
 * Grouped queries: Ainslie et al., arXiv:2305.13245; the queries of a group, and of neighbouring
 * tokens, share each load of a key or value. See engine/kernels/attend.h for the rest.
 *
 * A row's result depends on its own query and on the keys and values that it sees, and on nothing
 * else: not on the batch, nor on the number of threads.
 */
#ifndef PHI_ENGINE_MODEL_ATTENTION_H
#define PHI_ENGINE_MODEL_ATTENTION_H

#include "base/status.h"
#include "engine/formats/description.h"
#include "engine/kernels/matmul.h"

#include <stdbool.h>
#include <stdint.h>

struct phi_row;
struct phi_kv_view;
typedef struct phi_attention_item phi_attention_item;
typedef struct phi_attention_merge phi_attention_merge;

typedef struct phi_attention_scratch {
    uint32_t n_tok_max;
    uint32_t n_threads;
    uint32_t n_slots;          /* results of runs that several threads compute */
    phi_attention_item *items; /* what one thread does for one KV head */
    phi_attention_merge *merges;
    float *memory; /* of the threads, then of the slots */
} phi_attention_scratch;

typedef struct phi_attention {
    const phi_description *description;
    phi_kv_type kv_type;
    uint32_t layer; /* index of the layer inside a page */
    const struct phi_row *rows;
    uint32_t n_rows;
    const struct phi_kv_view *views;
    const float *qkv; /* [n_rows, (H + 2 Hkv) d], rotated */
    float *out;       /* [n_rows, H d] */
    bool only_wanted; /* rows that get no logits may be left out: `out` of them is undefined */
} phi_attention;

phi_status phi_attention_scratch_init(phi_attention_scratch *scratch,
                                      const phi_description *description, uint32_t n_tok_max,
                                      uint32_t n_threads, phi_err *err) PHI_MUST_CHECK;
void phi_attention_scratch_done(phi_attention_scratch *scratch);
/* What a scratch takes, from the description alone. */
uint64_t phi_attention_scratch_bytes(const phi_description *description, uint32_t n_tok_max,
                                     uint32_t n_threads);

/* Stores the rows' keys and values at their positions; then out = softmax(q k / sqrt(d)) v over the
 * visible positions. */
void phi_attention_run(const phi_compute *compute, const phi_attention *attention,
                       phi_attention_scratch *scratch);

#endif
