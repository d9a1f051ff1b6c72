/*
 * Purpose: small model files for the tests of engine/formats, made on the spot.
 * Owns:    a temporary directory, from fixture_init to fixture_done.
 * Threads: one.
 * Errors:  a failed step fails the running test.
 * Limits:  fixed-size lists, enough for tiny models.
 */
#ifndef PHI_TESTS_FORMATS_FIXTURE_H
#define PHI_TESTS_FORMATS_FIXTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/status.h"
#include "engine/formats/description.h"
#include "engine/formats/gguf.h"

typedef struct fixture {
    char dir[64];
    char path[160]; /* of the last file written, or asked for */
} fixture;

void fixture_init(fixture *f);
/* Removes the directory and all in it. */
void fixture_done(fixture *f);
/* dir/name, valid until the next call. */
const char *fixture_path(fixture *f, const char *name);
/* Writes a file of `bytes` bytes and returns its path. */
const char *fixture_write(fixture *f, const char *name, const void *data, size_t bytes);
const char *fixture_write_text(fixture *f, const char *name, const char *text);
void fixture_remove(fixture *f, const char *name);

/* Little-endian bytes, one after another. */
void put_u32(phi_buf *buf, uint32_t value);
void put_u64(phi_buf *buf, uint64_t value);
void put_string(phi_buf *buf, const char *text); /* GGUF's: length, bytes */

/* A safetensors file: `header` as it is, then `data_bytes` bytes 0, 1, 2 ... */
const char *fixture_safetensors(fixture *f, const char *name, const char *header,
                                size_t data_bytes);

/* A tensor of a model directory; data are floats converted to `dtype`. */
typedef struct fixture_tensor {
    char name[96];
    phi_dtype dtype;
    uint32_t n_dims;
    uint64_t dims[2];
    uint32_t seed; /* element i is fixture_value(seed, i) */
} fixture_tensor;

#define FIXTURE_TENSORS_MAX 64

typedef struct fixture_model {
    fixture_tensor tensors[FIXTURE_TENSORS_MAX];
    size_t count;
} fixture_model;

/* Exact in fp16 and bf16. */
float fixture_value(uint32_t seed, uint64_t index);
fixture_tensor *fixture_find(fixture_model *model, const char *name);
void fixture_add(fixture_model *model, const char *name, phi_dtype dtype, uint64_t rows,
                 uint64_t cols);
void fixture_drop(fixture_model *model, const char *name);
/* Writes tensors [from, to) of the model as a safetensors file. */
const char *fixture_write_model(fixture *f, const char *name, const fixture_model *model,
                                size_t from, size_t to);

/* The tiny phi3 model of the tests: E 32, L 2, H 4, Hkv 2, d 8, F 64, V 96. */
#define TINY_CONFIG                                                                                \
    "\"architectures\":[\"Phi3ForCausalLM\"],\"model_type\":\"phi3\",\"hidden_size\":32,"          \
    "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,"                 \
    "\"intermediate_size\":64,\"vocab_size\":96,\"max_position_embeddings\":128,"                  \
    "\"eos_token_id\":2,\"bos_token_id\":1"
/* Its tensors under Hugging Face's names; `split` stores q, k, v, gate and up apart. */
void fixture_tiny_hf(fixture_model *model, phi_dtype dtype, bool split);
/* Its description, as the above config.json gives it. */
void fixture_tiny_description(phi_description *out);

#endif
