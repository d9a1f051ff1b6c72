/*
 * Purpose: the feed-forward of experts: each token through two of a layer's, chosen by a router.
 * Owns:    phi_experts_scratch owns its work space.
 * Threads: [engine] or a [job], one call at a time per scratch; the work runs on the team.
 * Errors:  only phi_experts_scratch_init allocates.
 * Limits:  the rows given to phi_experts_scratch_init; PHI_LIMIT_EXPERTS.
 *
 * Routing is SparseMixer's at inference: Liu et al., "GRIN: GRadient-INformed MoE",
 * arXiv:2409.12136, as transformers/models/phimoe/modeling_phimoe.py (sparsemixer) computes it.
 *
 * A step's tokens are taken expert by expert, so that an expert's weights are read once for all of
 * its tokens. A token's two answers are added in the order of the experts' numbers: its result
 * depends on its own row alone, not on the batch nor on the number of threads.
 */
#ifndef PHI_ENGINE_MODEL_EXPERTS_H
#define PHI_ENGINE_MODEL_EXPERTS_H

#include "base/status.h"
#include "engine/formats/description.h"
#include "engine/kernels/matmul.h"

#include <stdint.h>

#define PHI_EXPERTS_USED 2U

typedef struct phi_route {
    uint32_t expert[PHI_EXPERTS_USED]; /* the best, and the best of the others */
    float weight[PHI_EXPERTS_USED];    /* do not add up to 1 */
} phi_route;

/* scores [n_expert], at least two. */
phi_route phi_experts_route(const float *scores, uint32_t n_expert, float jitter);

typedef struct phi_experts_scratch {
    void *memory;      /* all of the following, one allocation */
    float *scores;     /* [n_tok, n_expert] */
    float *gathered;   /* [n_tok, E] an expert's rows, then what it makes of them */
    phi_route *routes; /* [n_tok] */
    uint32_t *tokens;  /* [n_tok] an expert's */
    float *shares;     /* [n_tok] and how much of its answer they take */
} phi_experts_scratch;

phi_status phi_experts_scratch_init(phi_experts_scratch *scratch,
                                    const phi_description *description, uint32_t n_tok_max,
                                    phi_err *err) PHI_MUST_CHECK;
void phi_experts_scratch_done(phi_experts_scratch *scratch);
/* What a scratch takes; 0 for models without experts. */
uint64_t phi_experts_scratch_bytes(const phi_description *description, uint32_t n_tok_max);

typedef struct phi_experts {
    const phi_description *description;
    const phi_weight *router; /* [n_expert, E] */
    const phi_weight *gate;   /* [n_expert * F, E] */
    const phi_weight *up;     /* [n_expert * F, E] */
    const phi_weight *down;   /* [n_expert * E, F] */
    uint32_t n_tok;
    uint32_t n_prompt;    /* the last of them, which are multiplied as prompts are */
    const float *x;       /* [n_tok, E] */
    const phi_fill *fill; /* writes x; NULL: it is there */
    float *gate_rows;     /* [n_tok, F] work space, as are the next two */
    float *up_rows;       /* [n_tok, F] */
    float *ffn_rows;      /* [n_tok, F] */
    float *out;           /* [n_tok, E] */
} phi_experts;

/* Returns how many of the experts had a token. */
uint32_t phi_experts_run(const phi_compute *compute, const phi_experts *experts,
                         phi_experts_scratch *scratch, phi_matmul_scratch *products);

#endif
