/*
 * Purpose: the forward pass of a batch: rows of several sequences, prompt chunks and single tokens
 *          mixed, through all layers to logits.
 * Owns:    phi_forward_ctx owns the scratch buffers (sized once; a step allocates nothing).
 * Threads: one caller at a time per context ([engine], or a [job] with its own).
 * Errors:  only creation can fail.
 * Limits:  the sizes given at creation.
 *
 * Formulas: shared facts of Phi-3 in "Phi-3 Technical Report", arXiv:2404.14219, and the reference
 * implementation transformers/models/phi3/modeling_phi3.py. Phi-2: "Textbooks Are All You Need II",
 * arXiv:2309.05463, and transformers/models/phi/modeling_phi.py: one norm a layer, which attention
 * and feed-forward both read, biases everywhere. Phi-3.5-MoE: experts.h.
 */
#ifndef PHI_ENGINE_MODEL_FORWARD_H
#define PHI_ENGINE_MODEL_FORWARD_H

#include "base/status.h"
#include "engine/kernels/matmul.h"
#include "engine/model/weights.h"

#include <stdbool.h>
#include <stdint.h>

/*
 * Keys and values of one sequence, as the runtime lays them out for one step: page p holds
 * positions [p * 32, p * 32 + 32). Each page is one block of memory:
 *   [n_layer][n_head_kv] shares of a head, laid out as engine/kernels/attend.h says.
 * Keys are stored rotated. The forward pass writes the new positions and reads all visible ones.
 */
typedef struct phi_kv_view {
    void *const *pages; /* [pages that cover the last position]; NULL entries where the window has
                           passed a whole page */
    bool rope_long;     /* LongRoPE: this sequence uses the long factors */
} phi_kv_view;

/* Bytes of one page for a description. */
uint64_t phi_kv_page_bytes(const phi_description *description, phi_kv_type type);

/*
 * One row of the batch: a token at a position of a sequence. Rows of one sequence are in order of
 * position, contiguous in the batch, and all of a prompt or none.
 * Tokens of a prompt come many at a time and are multiplied by phi_matmul_prompt, others, and the
 * head, by phi_matmul. So a sequence's answer depends on what its prompt is, and not on what it is
 * computed with, in how many steps, or how often.
 */
typedef struct phi_row {
    int32_t token;
    uint32_t position;
    uint32_t seq; /* index into views */
    bool is_prompt;
    bool want_logits; /* rows that do get logits, in order, packed */
} phi_row;

typedef struct phi_forward_ctx phi_forward_ctx;

typedef struct phi_forward_sizes {
    phi_kv_type kv_type;
    uint32_t n_tok_max;    /* rows of a step */
    uint32_t n_logits_max; /* those of them that get logits */
    uint32_t n_threads;    /* of the team */
} phi_forward_sizes;

phi_status phi_forward_ctx_create(const phi_description *description,
                                  const phi_forward_sizes *sizes, phi_forward_ctx **out_ctx,
                                  phi_err *err) PHI_MUST_CHECK;
void phi_forward_ctx_destroy(phi_forward_ctx *ctx);
uint64_t phi_forward_ctx_bytes(const phi_forward_ctx *ctx);

/* Where the time of passes goes. */
typedef enum phi_forward_part {
    PHI_FORWARD_MATRICES,  /* products, and what is done to their activations on the way into them:
                              norms, activation functions, quantizing */
    PHI_FORWARD_ATTENTION, /* storing keys and values, too */
    PHI_FORWARD_REST,      /* embedding, rotation, sums */
    PHI_FORWARD_PARTS,
} phi_forward_part;

typedef struct phi_forward_profile {
    uint64_t ns[PHI_FORWARD_PARTS];
    uint64_t experts; /* that had a token, in all layers; their work counts to the matrices */
} phi_forward_profile;

/* From now on the calls below add their times and experts to `profile`, until it is NULL, as it is
 * at first. */
void phi_forward_ctx_profile(phi_forward_ctx *ctx, phi_forward_profile *profile);

/* Values of a layer that somebody may want to see as they are made, [rows, cols]. Of experts those
 * from PHI_POINT_UP on are not shown. */
typedef enum phi_forward_point {
    PHI_POINT_ATTN_NORM, /* [E] */
    PHI_POINT_QKV,       /* [(H + 2 Hkv) d], queries and keys rotated */
    PHI_POINT_ATTN,      /* [H d] */
    PHI_POINT_ATTN_OUT,  /* [E] before a bias */
    PHI_POINT_ATTN_SUM,  /* [E] with what came into the layer */
    PHI_POINT_FFN_NORM,  /* [E]; not of a parallel layer */
    PHI_POINT_UP,        /* [2 F] gate, then up; not of PHI_FFN_GELU */
    PHI_POINT_FFN,       /* [F] */
    PHI_POINT_FFN_OUT,   /* [E] before a bias */
    PHI_POINT_SUM,       /* [E] what leaves the layer */
    PHI_FORWARD_POINTS,
} phi_forward_point;

typedef void (*phi_forward_tap)(void *user, phi_forward_point point, const float *values,
                                uint32_t rows, uint32_t cols);

/* From now on the calls below show these values to `tap`, on their own thread, until it is NULL, as
 * it is at first. Of phi_forward's last layer, from PHI_POINT_ATTN on, only the rows that get
 * logits are computed. */
void phi_forward_ctx_tap(phi_forward_ctx *ctx, phi_forward_tap tap, void *user);

/* logits: [rows that want them, n_vocab], valid until the next call. */
const float *phi_forward(phi_forward_ctx *ctx, const phi_compute *compute,
                         const phi_weights *weights, const phi_row *rows, uint32_t n_rows,
                         const phi_kv_view *views);

/*
 * The same pass of a prompt, cut into its stages, for passes that stream layer by layer over one
 * sequence whose hidden states x [n_tok, E] the caller keeps: embed, each layer, logits of chosen
 * rows. `kv` is a view whose pages hold one layer only.
 */
void phi_forward_embed(const phi_weights *ends, const int32_t *tokens, uint32_t n_tok, float *x);
void phi_forward_layer(phi_forward_ctx *ctx, const phi_compute *compute,
                       const phi_layer_weights *layer, float *x, uint32_t position, uint32_t n_tok,
                       const phi_kv_view *kv);
/* out [n_tok, n_vocab] */
void phi_forward_logits(phi_forward_ctx *ctx, const phi_compute *compute, const phi_weights *ends,
                        const float *x, uint32_t n_tok, float *out);

#endif
