/*
 * Purpose: small folders of ONNX Runtime GenAI for tests, written byte by byte, and what their
 *          matrices have to be.
 * Owns:    `now`: a temporary directory, buffers and the folder that was opened last, from
 *          onnx_setup to onnx_teardown.
 * Threads: one.
 * Errors:  a failed step fails the running test.
 * Limits:  the tiny model of fixture.h.
 *
 * Values are made of names: a test that knows what a matrix is called knows every element of it.
 */
#ifndef PHI_TESTS_FORMATS_ONNX_MODEL_H
#define PHI_TESTS_FORMATS_ONNX_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "engine/formats/onnx.h"
#include "fixture.h"

enum { E = 32, L = 2, H = 4, HKV = 2, D = 8, F = 64, V = 96, CTX = 128, HALF = D / 2, GROUP = 16 };
enum { FLOAT = 1, UINT8 = 2, INT8 = 3, INT64 = 7, FLOAT16 = 10, UINT4 = 21, INT4 = 22 };

/* What kind of folder, and what is wrong with it (NULL: nothing). */
typedef struct onnx_spec {
    uint32_t bits; /* 32, 16: MatMul; 8, 4, 2: MatMulNBits */
    int qdq;       /* DequantizeLinear: 1 of [cols][rows], 2 of [rows][cols] and Transpose */
    bool integers; /* DynamicQuantizeLinear and MatMulInteger */
    bool by_row;   /* qdq, integers: a scale for each row of W */
    bool one;      /* qdq, integers: one scale for all */
    bool apart;    /* q, k, v */
    bool fused_up; /* gate and up in one, and Split */
    bool tied;
    bool long_rope;
    bool joint;    /* long_rope: both tables in one, without an If */
    bool zeros;    /* zero points */
    bool real;     /* that are no codes, of MatMulNBits */
    bool listed;   /* one by one, not kept as bytes */
    bool inside;   /* values in the model's own file */
    bool phi2;     /* not phi3; where `apart`: FastGelu, and biases first */
    bool own_bias; /* phi2: of MatMulNBits; and feed-forward before attention */
    int64_t window;
    const char *lie;
} onnx_spec;

typedef struct onnx_test {
    fixture files;
    onnx_spec spec;
    phi_buf graph;
    phi_buf values; /* the external file */
    phi_onnx *onnx;
} onnx_test;

extern onnx_test now;

/* A folder's genai_config.json, which is not open_spec's to write. */
#define GENAI_OF(type)                                                                             \
    "{\"model\":{\"type\":\"" type                                                                 \
    "\",\"context_length\":128,\"vocab_size\":96,\"bos_token_id\":1,"                              \
    "\"eos_token_id\":[2,3],\"pad_token_id\":0,\"decoder\":{\"filename\":\"model.onnx\","          \
    "\"head_size\":8,\"hidden_size\":32,\"num_attention_heads\":4,\"num_hidden_layers\":2,"        \
    "\"num_key_value_heads\":2,\"outputs\":{\"logits\":\"logits\"}}}}"

#define GENAI GENAI_OF("phi3")

int onnx_setup(void **state);
int onnx_teardown(void **state);

/* ---- onnx_model.c: folders ---- */

/* Writes the folder's model and opens it. */
phi_status open_spec(const onnx_spec *wanted, phi_err *err);
/* The same; it has to open, and every matrix has to have the values that were written. */
void open_and_check(const onnx_spec *wanted);
/* Every value of the matrix called `name` is what was written under `source`. */
void check_matrix(const char *name, const char *source, uint32_t rows, uint32_t cols);

/* ---- onnx_layers.c: from the embedding, "x", to "logits" ---- */

void add_layers(void);

/* ---- onnx_values.c: pieces of a graph ---- */

bool lies(const char *what);

/* Fields of Protocol Buffers; put_message empties `message`. */
void put_number(phi_buf *out, uint32_t field, uint64_t value);
void put_bytes(phi_buf *out, uint32_t field, const void *data, size_t bytes);
void put_text(phi_buf *out, uint32_t field, const char *text);
void put_message(phi_buf *out, uint32_t field, phi_buf *message);
phi_buf fresh(void);

/* Inputs and outputs are separated by spaces; "-" is one that is not given. */
phi_buf start_node(const char *op, const char *name, const char *inputs, const char *outputs);
void put_int(phi_buf *node, const char *name, int64_t value);
void put_word(phi_buf *node, const char *name, const char *value);
void put_float(phi_buf *node, const char *name, float value);
void end_node(phi_buf *node);
void add_node(const char *op, const char *name, const char *inputs, const char *outputs);

/* Rows 0: a vector. */
phi_buf make_tensor(const char *name, uint32_t type, uint64_t rows, uint64_t cols, const void *data,
                    size_t bytes);
void add_tensor(const char *name, uint32_t type, uint64_t rows, uint64_t cols, const void *data,
                size_t bytes);
/* NAME.w: floats [rows][cols], stored as they come or transposed. */
void add_floats(const char *name, uint64_t rows, uint64_t cols, bool transposed);
/* NAME_Q4, NAME_scales and NAME_zeros of a type of their own: signed where there are no zero
 * points. `lines`: as MatMul takes it, [cols][rows]. */
void add_typed_codes(const char *name, uint64_t rows, uint64_t cols, bool lines);
/* y = W x with the matrix `name`, as a node of the same name. */
void add_product(const char *name, const char *input, const char *output, uint64_t rows,
                 uint64_t cols);

/* The value of an element of a matrix, in floats and in codes. */
float float_of(const char *name, uint64_t index);
float coded_of(const char *name, uint64_t index, uint64_t cols);

#endif
