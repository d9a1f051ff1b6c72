/*
 * Purpose: phi3 model directories with random weights, of any size, for the tests of engine/quant.
 * Owns:    nothing; the files lie in the fixture's directory.
 * Threads: one.
 * Errors:  a failed step fails the running test.
 * Limits:  written row by row, so that memory does not grow with the model.
 */
#ifndef PHI_TESTS_QUANT_RANDOM_MODEL_H
#define PHI_TESTS_QUANT_RANDOM_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/tensor/dtype.h"
#include "fixture.h"

typedef struct random_model {
    uint32_t n_layer;
    uint32_t n_embd;
    uint32_t n_head;
    uint32_t n_head_kv;
    uint32_t n_ffn;
    uint32_t n_vocab; /* 257 at least: bytes and one control token */
    phi_dtype dtype;  /* F32, F16 or BF16; norms too */
    bool tied;
    bool long_rope;
    bool without_tokenizer;
    const char *odd_tensor; /* its element 5 is odd_value; NULL: none */
    float odd_value;
} random_model;

/* 2 layers, E 128, H 4, Hkv 2, F 192, V 288. */
extern const random_model RANDOM_MODEL_SMALL;

/* xorshift64*, and a normal deviate from twelve uniforms: the same everywhere. */
float random_unit(uint64_t *state);
float random_normal(uint64_t *state);

/* config.json, model.safetensors, tokenizer.json and tokenizer_config.json into the fixture. */
void random_model_write(fixture *f, const random_model *model);

#endif
