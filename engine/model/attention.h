/*
 * Purpose: keys and values into their pages, and attention of queries over them.
 * Owns: nothing. Threads: [engine] or a [job]; the work runs on the team.
 * Errors: none. Limits: none.
 *
 * Online softmax: Milakov and Gimelshein, arXiv:1805.02867. Grouped queries: Ainslie et al.,
 * arXiv:2305.13245; the queries of a group share each load of a key or value.
 */
#ifndef PHI_ENGINE_MODEL_ATTENTION_H
#define PHI_ENGINE_MODEL_ATTENTION_H

#include "engine/formats/description.h"
#include "engine/kernels/matmul.h"
#include "engine/model/forward.h"

typedef struct phi_attention {
    const phi_description *description;
    phi_kv_type kv_type;
    uint32_t layer; /* index of the layer inside a page */
    const phi_row *rows;
    uint32_t n_rows;
    const phi_kv_view *views;
    const float *qkv; /* [n_rows, (H + 2 Hkv) d], rotated */
    float *out;       /* [n_rows, H d] */
} phi_attention;

/* Stores the rows' keys and values at their positions. */
void phi_attention_store(const phi_compute *compute, const phi_attention *attention);
/* After all rows are stored: out = softmax(q k / sqrt(d)) v over the visible positions. */
void phi_attention_run(const phi_compute *compute, const phi_attention *attention);

#endif
