/*
 * Purpose: what the pickle machine (pickle.c) and the objects that it can build (pickle_build.c)
 *          share.
 * Owns:    nothing.
 * Threads: one a machine.
 * Errors:  as pickle.h.
 * Limits:  as pickle.h.
 */
#ifndef PHI_ENGINE_FORMATS_PICKLE_INTERNAL_H
#define PHI_ENGINE_FORMATS_PICKLE_INTERNAL_H

#include "config/limits.h"
#include "engine/formats/pickle.h"

#define PHI_PICKLE_WINDOW_BYTES 65536U

typedef struct phi_pickle_vm {
    const phi_pickle_source *source;
    phi_pickle *pickle;
    uint64_t at;      /* of the next byte, in the file */
    uint64_t op_at;   /* of the instruction that runs */
    uint8_t *window;  /* bytes of the file before `at` and after */
    size_t window_at; /* of the next byte */
    size_t window_bytes;
    phi_pickle_value *stack; /* [PHI_LIMIT_PICKLE_STACK], grows */
    size_t depth;
    size_t capacity;
    size_t marks[PHI_LIMIT_PICKLE_DEPTH]; /* heights of the stack */
    size_t n_marks;
    phi_pickle_value *memo; /* grows */
    size_t memo_capacity;
    bool stopped;
    phi_err *err;
} phi_pickle_vm;

/* "LABEL: <text> at byte N", where N is the running instruction's place. */
phi_status phi_pickle_fail(const phi_pickle_vm *vm, phi_status status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Memory that lives as long as the pickle; NULL, with the error set, when there is none. */
void *phi_pickle_take(phi_pickle_vm *vm, size_t bytes, phi_status *status);

/* NULL when `module`.`name` is not among what may be named. */
const phi_pickle_global *phi_pickle_find_global(const char *module, const char *name);
/* What calling `callee` with `args` gives. */
phi_status phi_pickle_call(phi_pickle_vm *vm, const phi_pickle_value *callee,
                           const phi_pickle_value *args,
                           phi_pickle_value *out_value) PHI_MUST_CHECK;
/* The storage that a persistent id stands for. */
phi_status phi_pickle_resolve(phi_pickle_vm *vm, const phi_pickle_value *id,
                              phi_pickle_value *out_value) PHI_MUST_CHECK;

#endif
