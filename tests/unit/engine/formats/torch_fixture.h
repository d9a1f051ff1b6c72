/*
 * Purpose: files as torch.save writes them, for the tests of engine/formats, made on the spot.
 * Owns:    nothing; buffers are the caller's.
 * Threads: one.
 * Errors:  a failed step fails the running test.
 * Limits:  none.
 */
#ifndef PHI_TESTS_TORCH_FIXTURE_H
#define PHI_TESTS_TORCH_FIXTURE_H

#include "base/buf.h"
#include "fixture.h"

/* A tensor, as a pickle describes it. */
typedef struct torch_tensor {
    const char *name;
    const char *type; /* "FloatStorage" */
    const char *key;  /* of its storage */
    int64_t elements; /* of its storage */
    int64_t offset;
    int n_dims;
    int64_t size[5];
    int64_t stride[5];
} torch_tensor;

/* Pieces of a pickle. */
void put_bytes(phi_buf *buf, const void *data, size_t bytes);
void pickle_text(phi_buf *buf, const char *text);
void pickle_int(phi_buf *buf, int64_t number);
void pickle_tensor(phi_buf *buf, const torch_tensor *tensor, bool stream);
/* A whole pickle: a dict of tensors. `stream`: as torch before 1.6 wrote it. */
void pickle_dict(phi_buf *buf, const torch_tensor *tensors, size_t count, bool stream);

/* A zip archive of entries stored as they are. */
typedef struct zip_builder {
    phi_buf file;
    phi_buf directory;
    uint32_t count;
    bool zip64; /* every size and offset in ZIP64's fields */
} zip_builder;

void zip_start(zip_builder *zip, bool zip64);
void zip_add(zip_builder *zip, const char *name, const void *data, size_t bytes);
/* The archive is then in zip->file, which phi_buf_done frees. */
void zip_finish(zip_builder *zip);

/* What a stream begins with, up to the dict. */
void stream_start(phi_buf *buf, bool little_endian);
/* The list of storages, after the dict. */
void stream_keys(phi_buf *buf, const char *const *keys, size_t count);
/* One storage. */
void stream_storage(phi_buf *buf, uint64_t elements, const void *data, size_t bytes);

/* Tensors [from, to) of the model as one file. */
const char *fixture_write_torch(fixture *f, const char *name, const fixture_model *model,
                                size_t from, size_t to, bool stream);

#endif
