/*
 * Purpose: a checkpoint's tensors as matrices ready to compute with.
 * Owns:    the matrices and norm vectors.
 * Threads: one [job] thread loads; read-only afterwards.
 * Errors:  the tensor is named; PHI_E_CANCELLED when the progress callback says stop.
 * Limits:  memory: see memplan.h, which says the bytes beforehand.
 */
#ifndef PHI_ENGINE_MODEL_WEIGHTS_H
#define PHI_ENGINE_MODEL_WEIGHTS_H

#include "base/status.h"
#include "engine/formats/checkpoint.h"
#include "engine/formats/description.h"
#include "engine/tensor/weight.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct phi_layer_weights {
    phi_weight qkv;     /* [(H + 2 Hkv) d, E]: Q rows, K rows, V rows */
    phi_weight out;     /* [E, H d] */
    phi_weight gate_up; /* [2 F, E]: gate rows, up rows */
    phi_weight down;    /* [E, F] */
    float *attn_norm;   /* [E] */
    float *ffn_norm;    /* [E] */
} phi_layer_weights;

typedef struct phi_weights {
    phi_description description;
    phi_weight embedding;      /* [V, E] */
    phi_weight head;           /* [V, E]; unfilled when tied */
    float *final_norm;         /* [E] */
    phi_layer_weights *layers; /* [n_layer] */
} phi_weights;

/* Called with bytes read so far and in all; returning false stops the load. May be NULL. */
typedef bool (*phi_load_progress)(void *user, uint64_t bytes_done, uint64_t bytes_total);

phi_status phi_weights_load(const phi_checkpoint *checkpoint, phi_load_progress progress,
                            void *user, phi_weights **out_weights, phi_err *err) PHI_MUST_CHECK;
void phi_weights_destroy(phi_weights *weights);
/* The head's matrix: `head`, or `embedding` when tied. */
const phi_weight *phi_weights_head(const phi_weights *weights);
uint64_t phi_weights_bytes(const phi_weights *weights);

/* One layer alone, or embedding + final norm + head with layers NULL, for passes that stream
 * through a model that need not fit in memory. */
phi_status phi_layer_weights_load(const phi_checkpoint *checkpoint, uint32_t layer,
                                  phi_layer_weights *out_layer, phi_err *err) PHI_MUST_CHECK;
void phi_layer_weights_done(phi_layer_weights *layer);
phi_status phi_weights_load_ends(const phi_checkpoint *checkpoint, phi_weights **out_weights,
                                 phi_err *err) PHI_MUST_CHECK;

#endif
