/*
 * Purpose: where each tensor of a model goes in one region of memory or of a file, and getting it
 *          there from the checkpoint.
 * Owns:    phi_pack owns its list; `source` is a view into the checkpoint.
 * Threads: one [job] thread makes and fills; the filling runs on the team, in the background.
 * Errors:  the tensor is named; PHI_E_CANCELLED when the progress callback says stop.
 * Limits:  beside the region PHI_PACK_SLICE_BYTES or 16 rows, twice for each thread of the team.
 *
 * Matrices lie as phi_weight_bind lays them, vectors as floats; each begins on a cache line, in
 * the checkpoint's order. This order and the matrices' layout are what PHI_PACK_LAYOUT names: one
 * layout serves all kernel sets.
 */
#ifndef PHI_ENGINE_MODEL_PACK_H
#define PHI_ENGINE_MODEL_PACK_H

#include "base/file.h"
#include "base/status.h"
#include "engine/formats/checkpoint.h"
#include "engine/kernels/team.h"
#include "engine/tensor/weight.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PHI_PACK_LAYOUT "blocks16"
#define PHI_PACK_LAYOUT_VERSION 1U
/* Source bytes that are read and packed at a time: large enough for the disk, and small enough to
 * be in the second-level cache still when they are packed. */
#define PHI_PACK_SLICE_BYTES (512U << 10)

typedef struct phi_pack_tensor {
    const phi_tensor *source;
    bool is_vector;
    phi_weight shape; /* of a matrix */
    uint64_t offset;  /* from the beginning of the pack; a multiple of 64 */
    uint64_t bytes;   /* with padding */
} phi_pack_tensor;

typedef struct phi_pack {
    phi_pack_tensor *tensors; /* [count] */
    size_t count;
    uint64_t bytes;
    uint64_t source_bytes;
} phi_pack;

/* Which of a checkpoint's tensors. */
typedef enum phi_pack_part {
    PHI_PACK_MODEL,
    PHI_PACK_LAYER, /* those of one layer */
    PHI_PACK_ENDS,  /* those of no layer */
} phi_pack_part;

phi_status phi_pack_make(const phi_checkpoint *checkpoint, phi_pack_part part, uint32_t layer,
                         phi_pack *out_pack, phi_err *err) PHI_MUST_CHECK;
void phi_pack_done(phi_pack *pack);

/* Called with source bytes read so far and in all; returning false stops the load. */
typedef bool (*phi_load_progress)(void *user, uint64_t bytes_done, uint64_t bytes_total);

typedef struct phi_pack_run {
    phi_team *team;             /* NULL: the caller alone */
    phi_load_progress progress; /* on the caller's thread; may be NULL */
    void *user;
} phi_pack_run;

/* Fills pack->bytes of zeroed memory, aligned to 64. */
phi_status phi_pack_to_memory(const phi_pack *pack, const phi_checkpoint *checkpoint,
                              const phi_pack_run *run, void *memory, phi_err *err) PHI_MUST_CHECK;
/* Patches a writer that has reserved the pack's bytes from `offset` on, where it holds zeros. */
phi_status phi_pack_to_file(const phi_pack *pack, const phi_checkpoint *checkpoint,
                            const phi_pack_run *run, phi_file_writer *writer, uint64_t offset,
                            phi_err *err) PHI_MUST_CHECK;

#endif
