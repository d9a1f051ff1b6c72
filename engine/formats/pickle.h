/*
 * Purpose: reading a pickle that holds tensors, without running anything that it says: a machine
 *          whose only instructions are those that torch.save writes for a state dict, and whose
 *          only objects are tensors, storages, containers, numbers and text. Layout: CPython's
 *          Lib/pickletools.py; what torch puts in: PyTorch's torch/serialization.py, _utils.py.
 * Owns:    phi_pickle owns all values, from phi_pickle_read to phi_pickle_done.
 * Threads: after reading, any number of readers.
 * Errors:  every other opcode and global is refused by its name and the byte where it stands;
 *          nothing of what was read until then has had any effect.
 * Limits:  PHI_LIMIT_PICKLE_*.
 *
 * No step recurses, and a value is never walked into: containers may hold each other, or
 * themselves, as often as they like. Sizes and strides of tensors are as the file says them.
 */
#ifndef PHI_ENGINE_FORMATS_PICKLE_H
#define PHI_ENGINE_FORMATS_PICKLE_H

#include "base/file.h"
#include "base/status.h"
#include "engine/formats/arena.h"
#include "engine/tensor/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum phi_pickle_kind {
    PHI_PICKLE_UNSET, /* never on the stack */
    PHI_PICKLE_NONE,
    PHI_PICKLE_BOOL,
    PHI_PICKLE_INT,
    PHI_PICKLE_FLOAT, /* its value is not kept */
    PHI_PICKLE_STRING,
    PHI_PICKLE_BYTES, /* its value is not kept */
    PHI_PICKLE_TUPLE,
    PHI_PICKLE_LIST,
    PHI_PICKLE_SET,
    PHI_PICKLE_DICT, /* key, value, key, value ... as written, doubles too */
    PHI_PICKLE_GLOBAL,
    PHI_PICKLE_STORAGE,
    PHI_PICKLE_TENSOR,
} phi_pickle_kind;

typedef struct phi_pickle_list phi_pickle_list;
typedef struct phi_pickle_storage phi_pickle_storage;
typedef struct phi_pickle_tensor phi_pickle_tensor;
typedef struct phi_pickle_global phi_pickle_global; /* of pickle_build.c */

typedef struct phi_pickle_string {
    size_t bytes;
    char text[]; /* NUL-terminated; may hold NUL and anything else */
} phi_pickle_string;

typedef struct phi_pickle_value {
    phi_pickle_kind kind;
    union {
        int64_t integer; /* BOOL: 0 or 1 */
        const phi_pickle_string *string;
        phi_pickle_list *list; /* TUPLE, LIST, SET, DICT */
        const phi_pickle_global *global;
        const phi_pickle_storage *storage;
        const phi_pickle_tensor *tensor;
    } as;
} phi_pickle_value;

struct phi_pickle_list {
    phi_pickle_value *items;
    size_t count;
    size_t capacity;
};

typedef struct phi_pickle_dtype {
    const char *name; /* safetensors' name for it */
    uint32_t bytes;
    bool readable;
    phi_dtype dtype; /* of readable ones */
} phi_pickle_dtype;

struct phi_pickle_storage {
    const phi_pickle_storage *next; /* in the pickle, latest first */
    const phi_pickle_string *key;   /* clean text */
    const phi_pickle_dtype *dtype;
    uint64_t elements;
    uint64_t bytes; /* of all of them */
};

struct phi_pickle_tensor {
    const phi_pickle_storage *storage;
    const phi_pickle_dtype *dtype;
    int64_t offset;                /* elements into the storage */
    const phi_pickle_list *size;   /* integers, row-major: the last is contiguous */
    const phi_pickle_list *stride; /* as many integers, in elements */
};

typedef struct phi_pickle {
    phi_arena arena;
    phi_pickle_value root;
    const phi_pickle_storage *storages; /* every mention of one, latest first */
    size_t n_storages;
    uint64_t end; /* offset in the file of the byte after it */
} phi_pickle;

/* Where a pickle lies. */
typedef struct phi_pickle_source {
    const phi_file *file;
    const char *label; /* how messages call it */
    uint64_t origin;   /* from where they count bytes */
    uint64_t start;
    uint64_t end; /* the pickle may end before */
} phi_pickle_source;

phi_status phi_pickle_read(const phi_pickle_source *source, phi_pickle *out_pickle,
                           phi_err *err) PHI_MUST_CHECK;
/* Accepts NULL and what was never read. */
void phi_pickle_done(phi_pickle *pickle);
/* The value of a text key of a dict, the last one written; NULL when absent or no dict. */
const phi_pickle_value *phi_pickle_get(const phi_pickle_value *dict, const char *key);

#endif
