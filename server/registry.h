/*
 * Purpose: the models that can be served: names, files, and which are loaded.
 * Owns:    one reference to each loaded phi_model, dropped when it is removed or displaced.
 * Threads: [loop]; loading and unloading run on the worker pool.
 * Errors:  PHI_E_NOT_FOUND with the names that exist.
 * Limits:  memory: the least recently used idle model is unloaded when another needs the room.
 *
 * A model's id is "NAME:PRECISION" ("phi-sample:int4"); "NAME" alone stands for the precision that
 * was added first. Models are loaded on first use and stay.
 *
 *   cold -> loading -> ready -> cold (displaced);  any -> removed, dropped after the last release.
 * All who ask for a model while it is loading wait for the one load and get its outcome.
 */
#ifndef PHI_SERVER_REGISTRY_H
#define PHI_SERVER_REGISTRY_H

#include "base/status.h"
#include "engine/engine.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct phi_app;

typedef struct phi_registry phi_registry;

typedef enum phi_registry_state {
    PHI_REGISTRY_COLD,
    PHI_REGISTRY_LOADING,
    PHI_REGISTRY_READY,
} phi_registry_state;

/* How models that were loaded came by their weights (phi_model_info's `cache`). */
typedef struct phi_registry_loads {
    uint64_t mapped;
    uint64_t built;
    uint64_t in_memory; /* the cache is off, or could not be made */
    uint64_t failed;    /* no model came of it */
} phi_registry_loads;

typedef struct phi_registry_entry {
    char id[PHI_LIMIT_NAME_BYTES * 2]; /* NAME:PRECISION */
    char name[PHI_LIMIT_NAME_BYTES];
    char precision[8];
    char *path;      /* the GGUF */
    char sha256[65]; /* of it */
    uint64_t bytes;
    int64_t created_s;
    json_t *quality; /* as in the job object; may be NULL */
    uint32_t context_length;
    char architecture[32];
    phi_registry_state state;
    phi_model *model; /* READY only */
} phi_registry_entry;

phi_status phi_registry_create(struct phi_app *app, phi_registry **out_registry,
                               phi_err *err) PHI_MUST_CHECK;
/* Ends by itself: models are given back on the worker pool, so the loop has to run until that has
 * no PHI_WORK_LOAD left. Nothing may be acquired any more. */
void phi_registry_destroy(phi_registry *registry);

/* Entries in order of creation; views valid until the registry changes. */
size_t phi_registry_count(const phi_registry *registry);
void phi_registry_loads_get(const phi_registry *registry, phi_registry_loads *out_loads);
const phi_registry_entry *phi_registry_at(const phi_registry *registry, size_t index);
/* By id, or by name and precision (either form; precision may be NULL). NULL when there is none,
 * and `err` says which models exist. A contradiction ("x:int4" with precision "int8") fails too. */
const phi_registry_entry *phi_registry_find(const phi_registry *registry, const char *name,
                                            const char *precision, phi_err *err);

/* Shows a model that the store has got (phi_store_job_complete on the worker pool: the loop never
 * waits for the disk). Copies the path; takes quality's reference. One of the same id is replaced
 * in its place; what runs on the old one runs on. */
void phi_registry_add(phi_registry *registry, const phi_registry_entry *entry);
/* Takes a model that the store has forgotten off the list. What runs on it runs on. False when
 * there was none of that id. */
bool phi_registry_remove(phi_registry *registry, const char *id);

/* The model, loaded if need be. `ready` is called exactly once on the loop, possibly before this
 * returns: with a model on which the callee holds a reference, or with NULL and the error. */
typedef void (*phi_registry_ready)(void *user, phi_model *model, const char *id,
                                   const phi_err *err);
void phi_registry_acquire(phi_registry *registry, const char *name, const char *precision,
                          phi_registry_ready ready, void *user);
/* Gives back a reference on the loop; the last one is dropped on the worker pool. */
void phi_registry_release(phi_registry *registry, phi_model *model);

#endif
