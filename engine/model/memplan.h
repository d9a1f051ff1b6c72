/*
 * Purpose: how many bytes serving a model takes, known before anything is allocated.
 * Owns: nothing. Threads: any.
 * Errors:  PHI_E_NO_MEMORY with the numbers when it cannot fit into what the system has free.
 * Limits:  memory of the machine or of the cgroup, whichever is less.
 */
#ifndef PHI_ENGINE_MODEL_MEMPLAN_H
#define PHI_ENGINE_MODEL_MEMPLAN_H

#include "base/status.h"
#include "engine/formats/checkpoint.h"
#include "engine/model/forward.h"

typedef struct phi_memplan {
    uint64_t weights_bytes; /* packed, as phi_weights_open holds them */
    uint64_t kv_bytes;
    uint64_t scratch_bytes;
    uint64_t available_bytes;
} phi_memplan;

typedef struct phi_memplan_sizes {
    phi_kv_type kv_type;
    uint32_t kv_tokens;
    uint32_t n_tok_max;    /* rows of a step, and those of them that get logits: as given to */
    uint32_t n_logits_max; /* phi_forward_ctx_create */
    uint32_t n_threads;
} phi_memplan_sizes;

phi_status phi_memplan_make(const phi_checkpoint *checkpoint, const phi_memplan_sizes *sizes,
                            phi_memplan *out_plan, phi_err *err) PHI_MUST_CHECK;
/* The same for weights that are in no file: a description, and the bytes of its tensors. */
phi_status phi_memplan_make_for(const phi_description *description, uint64_t weights_bytes,
                                const phi_memplan_sizes *sizes, phi_memplan *out_plan,
                                phi_err *err) PHI_MUST_CHECK;

#endif
