/*
 * Purpose: the safetensors files of a Hugging Face directory: one model.safetensors, or the shards
 *          that model.safetensors.index.json lists.
 * Owns:    the open files.
 * Threads: after open, any number of readers.
 * Errors:  a shard whose name leaves the directory, a tensor that is in two shards or not where
 *          the index says, and a missing shard are named.
 * Limits:  PHI_LIMIT_SHARDS, PHI_LIMIT_TENSORS, PHI_LIMIT_CONFIG_JSON_BYTES.
 */
#ifndef PHI_ENGINE_FORMATS_HF_SHARDS_H
#define PHI_ENGINE_FORMATS_HF_SHARDS_H

#include "base/status.h"
#include "engine/formats/safetensors.h"

#include <stdint.h>

typedef struct phi_hf_shards {
    phi_safetensors *files; /* [count] */
    uint32_t count;
} phi_hf_shards;

phi_status phi_hf_shards_open(const char *dir, phi_hf_shards *out_shards,
                              phi_err *err) PHI_MUST_CHECK;
/* Accepts NULL and what was never opened. */
void phi_hf_shards_close(phi_hf_shards *shards);

#endif
