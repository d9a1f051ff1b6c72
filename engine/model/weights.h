/*
 * Purpose: a checkpoint's tensors as matrices ready to compute with.
 * Owns:    one region of memory, or of a mapped cache file, which all matrices and norm vectors lie
 *          in.
 * Threads: one [job] thread loads, with the team's help; read-only afterwards.
 * Errors:  the tensor is named; PHI_E_CANCELLED when the progress callback says stop. A cache that
 *          cannot be used or made is no error: see `cache_reason`.
 * Limits:  memory: see memplan.h, which says the bytes beforehand.
 */
#ifndef PHI_ENGINE_MODEL_WEIGHTS_H
#define PHI_ENGINE_MODEL_WEIGHTS_H

#include "base/status.h"
#include "engine/formats/checkpoint.h"
#include "engine/formats/description.h"
#include "engine/model/pack.h"
#include "engine/model/region.h"
#include "engine/tensor/weight.h"

#include <stdbool.h>
#include <stdint.h>

/* Biases and the second norm are NULL where the description has none. */
typedef struct phi_layer_weights {
    phi_weight qkv;  /* [(H + 2 Hkv) d, E]: Q rows, K rows, V rows */
    phi_weight out;  /* [E, H d] */
    phi_weight up;   /* [2 F, E]: gate rows, up rows; PHI_FFN_GELU: [F, E] */
    phi_weight down; /* [E, F] */
    /* PHI_FFN_EXPERTS: up is [n_expert F, E], down [n_expert E, F], and */
    phi_weight router;     /* [n_expert, E] */
    phi_weight gate;       /* [n_expert F, E] */
    float *attn_norm;      /* [E] */
    float *attn_norm_bias; /* [E] */
    float *ffn_norm;       /* [E] */
    float *ffn_norm_bias;  /* [E] */
    float *qkv_bias;       /* [(H + 2 Hkv) d] */
    float *out_bias;       /* [E] */
    float *up_bias;        /* [F] */
    float *down_bias;      /* [E] */
    phi_region region;     /* of a layer that was loaded alone */
} phi_layer_weights;

/* Where weights came from. */
typedef enum phi_weights_cache {
    PHI_WEIGHTS_UNCACHED,     /* packed into memory: no cache file was asked for */
    PHI_WEIGHTS_CACHE_MAPPED, /* the cache file as it was */
    PHI_WEIGHTS_CACHE_BUILT,  /* packed into a new cache file, which is mapped */
    PHI_WEIGHTS_CACHE_FAILED, /* packed into memory: the cache file could not be made */
} phi_weights_cache;

typedef struct phi_weights {
    phi_description description;
    phi_weight embedding;      /* [V, E] */
    phi_weight head;           /* [V, E]; unfilled when tied */
    float *head_bias;          /* [V], or NULL */
    float *final_norm;         /* [E] */
    float *final_norm_bias;    /* [E], or NULL */
    phi_layer_weights *layers; /* [n_layer] */
    phi_region region;
    uint64_t bytes; /* of the tensors, packed */
    phi_weights_cache cache;
    char cache_reason[PHI_ERR_BYTES_MAX]; /* BUILT: why; FAILED: why not */
} phi_weights;

typedef struct phi_weights_options {
    phi_pack_run run;
    const char *cache_path;    /* NULL: no cache file */
    const char *source_sha256; /* of the checkpoint's one file, hexadecimal; NULL: not known */
} phi_weights_options;

phi_status phi_weights_open(const phi_checkpoint *checkpoint, const phi_weights_options *options,
                            phi_weights **out_weights, phi_err *err) PHI_MUST_CHECK;
/* The same into memory, on the calling thread alone. */
phi_status phi_weights_load(const phi_checkpoint *checkpoint, phi_load_progress progress,
                            void *user, phi_weights **out_weights, phi_err *err) PHI_MUST_CHECK;
void phi_weights_destroy(phi_weights *weights);
/* The head's matrix: `head`, or `embedding` when tied. */
const phi_weight *phi_weights_head(const phi_weights *weights);
uint64_t phi_weights_bytes(const phi_weights *weights);
const char *phi_weights_cache_name(phi_weights_cache cache);

/* One layer alone, or embedding + final norm + head with layers NULL, for passes that stream
 * through a model that need not fit in memory. */
phi_status phi_layer_weights_load(const phi_checkpoint *checkpoint, uint32_t layer,
                                  phi_layer_weights *out_layer, phi_err *err) PHI_MUST_CHECK;
void phi_layer_weights_done(phi_layer_weights *layer);
phi_status phi_weights_load_ends(const phi_checkpoint *checkpoint, phi_weights **out_weights,
                                 phi_err *err) PHI_MUST_CHECK;

#endif
