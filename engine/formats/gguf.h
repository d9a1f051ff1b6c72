/*
 * Purpose: reading and writing GGUF files, versions 2 and 3, little endian
 *          (layout: ggml docs/gguf.md).
 * Owns:    phi_gguf owns the open file, its metadata and tensor list; a writer owns its output.
 * Threads: after open, any number of readers; a writer belongs to one thread.
 * Errors:  the file, key or tensor is named; see PHI_E_FORMAT, PHI_E_LIMIT, PHI_E_UNSUPPORTED.
 * Limits:  config/limits.h, "model files". Every count and size is checked against the file's own
 *          length before anything is allocated for it.
 */
#ifndef PHI_ENGINE_FORMATS_GGUF_H
#define PHI_ENGINE_FORMATS_GGUF_H

#include "base/file.h"
#include "base/status.h"
#include "engine/formats/tensor_entry.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum phi_gguf_type {
    PHI_GGUF_U8 = 0,
    PHI_GGUF_I8 = 1,
    PHI_GGUF_U16 = 2,
    PHI_GGUF_I16 = 3,
    PHI_GGUF_U32 = 4,
    PHI_GGUF_I32 = 5,
    PHI_GGUF_F32 = 6,
    PHI_GGUF_BOOL = 7,
    PHI_GGUF_STRING = 8,
    PHI_GGUF_ARRAY = 9,
    PHI_GGUF_U64 = 10,
    PHI_GGUF_I64 = 11,
    PHI_GGUF_F64 = 12,
} phi_gguf_type;

/* A string of the metadata: not NUL-terminated by the format, but stored with a NUL here. */
typedef struct phi_gguf_string {
    const char *text;
    size_t bytes;
} phi_gguf_string;

typedef struct phi_gguf_value {
    const char *key;
    phi_gguf_type type;
    phi_gguf_type element_type; /* of arrays; nested arrays are refused */
    uint64_t count;             /* of arrays; 1 otherwise */
    union {
        uint64_t u64; /* all unsigned kinds and bool */
        int64_t i64;  /* all signed kinds */
        double f64;   /* F32 and F64 */
        phi_gguf_string string;
        const phi_gguf_string *strings; /* arrays of strings, [count] */
        const void *numbers;            /* arrays of numbers, packed, little endian, [count] */
    } as;
} phi_gguf_value;

typedef struct phi_gguf phi_gguf;

phi_status phi_gguf_open(const char *path, phi_gguf **out_gguf, phi_err *err) PHI_MUST_CHECK;
void phi_gguf_close(phi_gguf *gguf);
uint32_t phi_gguf_version(const phi_gguf *gguf);
const phi_file *phi_gguf_file(const phi_gguf *gguf);
size_t phi_gguf_value_count(const phi_gguf *gguf);
const phi_gguf_value *phi_gguf_value_at(const phi_gguf *gguf, size_t index);
/* NULL when absent. Views live as long as the phi_gguf. */
const phi_gguf_value *phi_gguf_find(const phi_gguf *gguf, const char *key);
/* Convenience getters: false when absent or of another kind (integers of any width convert). */
bool phi_gguf_get_u32(const phi_gguf *gguf, const char *key, uint32_t *out);
bool phi_gguf_get_f32(const phi_gguf *gguf, const char *key, float *out);
bool phi_gguf_get_bool(const phi_gguf *gguf, const char *key, bool *out);
bool phi_gguf_get_string(const phi_gguf *gguf, const char *key, phi_gguf_string *out);
/* Array of numbers widened to i32/f32 element by element; index must be < count. */
int64_t phi_gguf_array_i64(const phi_gguf_value *array, uint64_t index);
double phi_gguf_array_f64(const phi_gguf_value *array, uint64_t index);
size_t phi_gguf_tensor_count(const phi_gguf *gguf);
const phi_tensor_entry *phi_gguf_tensor_at(const phi_gguf *gguf, size_t index);

/*
 * Writing: create; add all metadata; declare all tensors in order; then append the data of each
 * tensor in that order (in pieces, as it is made); commit. Nothing is visible before commit.
 */
typedef struct phi_gguf_writer phi_gguf_writer;

phi_status phi_gguf_writer_create(const char *path, phi_gguf_writer **out_writer,
                                  phi_err *err) PHI_MUST_CHECK;
void phi_gguf_put_u32(phi_gguf_writer *writer, const char *key, uint32_t value);
void phi_gguf_put_f32(phi_gguf_writer *writer, const char *key, float value);
void phi_gguf_put_bool(phi_gguf_writer *writer, const char *key, bool value);
void phi_gguf_put_string(phi_gguf_writer *writer, const char *key, const char *text, size_t bytes);
void phi_gguf_put_strings(phi_gguf_writer *writer, const char *key, const phi_gguf_string *strings,
                          size_t count);
void phi_gguf_put_f32s(phi_gguf_writer *writer, const char *key, const float *values, size_t count);
void phi_gguf_put_i32s(phi_gguf_writer *writer, const char *key, const int32_t *values,
                       size_t count);
/* dims in PyTorch order (as phi_tensor_entry). */
void phi_gguf_declare_tensor(phi_gguf_writer *writer, const char *name, phi_dtype dtype,
                             uint32_t n_dims, const uint64_t *dims);
/* After the last declaration: lays out and writes the header. */
phi_status phi_gguf_write_header(phi_gguf_writer *writer, phi_err *err) PHI_MUST_CHECK;
/* The next `bytes` bytes of the tensor data; crossing from one tensor to the next pads. A call
 * never spans two tensors. */
phi_status phi_gguf_write_data(phi_gguf_writer *writer, const void *data, size_t bytes,
                               phi_err *err) PHI_MUST_CHECK;
/* Fails unless every declared tensor was written whole. Destroys the writer either way. */
phi_status phi_gguf_writer_commit(phi_gguf_writer *writer, phi_err *err) PHI_MUST_CHECK;
void phi_gguf_writer_abort(phi_gguf_writer *writer);

#endif
