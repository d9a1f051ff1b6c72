/*
 * Purpose: the files of a Hugging Face directory that hold tensors: one model.safetensors, or the
 *          shards that model.safetensors.index.json lists; where neither is there, one
 *          pytorch_model.bin, or the shards that pytorch_model.bin.index.json lists.
 * Owns:    the open files.
 * Threads: after open, any number of readers.
 * Errors:  files that only TensorFlow or Flax can read are refused by name; a shard whose name
 *          leaves the directory, a tensor that is in two shards or not where the index says, and a
 *          missing shard are named.
 * Limits:  PHI_LIMIT_SHARDS, PHI_LIMIT_TENSORS, PHI_LIMIT_CONFIG_JSON_BYTES.
 */
#ifndef PHI_ENGINE_FORMATS_HF_SHARDS_H
#define PHI_ENGINE_FORMATS_HF_SHARDS_H

#include "base/status.h"
#include "engine/formats/tensor_file.h"

#include <stdint.h>

typedef struct phi_hf_shards {
    phi_tensor_file *files; /* [count] */
    uint32_t count;
    const char *format; /* "safetensors", "pytorch" */
} phi_hf_shards;

phi_status phi_hf_shards_open(const char *dir, phi_hf_shards *out_shards,
                              phi_err *err) PHI_MUST_CHECK;
/* PHI_E_UNSUPPORTED when the directory holds files of TensorFlow's or Flax's, which are then named
 * with what to use instead; else PHI_OK. */
phi_status phi_hf_shards_check_others(const char *dir, phi_err *err) PHI_MUST_CHECK;
/* Accepts NULL and what was never opened. */
void phi_hf_shards_close(phi_hf_shards *shards);

#endif
