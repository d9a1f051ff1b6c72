/*
 * Invariants
 * 1. A slice is whole blocks of 16 rows of one tensor (its last one: what is left), so that no two
 *    slices write the same bytes.
 * 2. Slices run in rounds on the team; between two rounds the caller alone runs, tells the progress
 *    and may stop.
 * 3. The first slice that fails sets `failed` and alone writes `err`; slices after it do nothing.
 */
#include "engine/model/pack.h"

#include "base/assert.h"
#include "base/mem.h"
#include "engine/formats/tensor_rows.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

/* Tensors begin on a cache line. */
#define TENSOR_ALIGN 64U
/* Slices of a round for each thread: few enough to stop soon, enough that a late one is no loss. */
#define ROUND_SLICES 32U

/* ---- where things go ---- */

static bool is_wanted(const phi_tensor *tensor, phi_pack_part part, uint32_t layer)
{
    unsigned number = 0;
    bool in_layer = sscanf(tensor->name, "blk.%u.", &number) == 1;
    switch (part) {
    case PHI_PACK_MODEL:
        return true;
    case PHI_PACK_LAYER:
        return in_layer && number == layer;
    case PHI_PACK_ENDS:
        return !in_layer;
    }
    PHI_UNREACHABLE();
}

static phi_status place(phi_pack *pack, const phi_tensor *source, phi_err *err)
{
    phi_pack_tensor *tensor = &pack->tensors[pack->count];
    *tensor = (phi_pack_tensor){
        .source = source, .is_vector = source->n_dims == 1, .offset = pack->bytes};
    if (tensor->is_vector) {
        tensor->bytes = (uint64_t)source->cols * sizeof(float);
    } else {
        phi_form form = phi_tensor_form(source);
        phi_status status =
            phi_weight_shape(&tensor->shape, &form, source->rows, source->cols, err);
        if (status) {
            return phi_fail_context(err, status, "%s", source->name);
        }
        tensor->bytes = phi_weight_bytes(&tensor->shape);
    }
    tensor->bytes = (tensor->bytes + TENSOR_ALIGN - 1) / TENSOR_ALIGN * TENSOR_ALIGN;
    pack->bytes += tensor->bytes;
    pack->source_bytes += source->bytes;
    pack->count++;
    return PHI_OK;
}

phi_status phi_pack_make(const phi_checkpoint *checkpoint, phi_pack_part part, uint32_t layer,
                         phi_pack *out_pack, phi_err *err)
{
    phi_pack pack = {0};
    size_t n_tensors = phi_checkpoint_count(checkpoint);
    phi_status status = PHI_OK;
    pack.tensors = phi_alloc_zero(n_tensors, sizeof *pack.tensors);
    for (size_t i = 0; i < n_tensors && !status; i++) {
        const phi_tensor *source = phi_checkpoint_at(checkpoint, i);
        if (is_wanted(source, part, layer)) {
            status = place(&pack, source, err);
        }
    }
    if (status) {
        phi_pack_done(&pack);
        return status;
    }
    *out_pack = pack;
    return PHI_OK;
}

void phi_pack_done(phi_pack *pack)
{
    if (pack) {
        phi_free(pack->tensors);
        *pack = (phi_pack){0};
    }
}

/* ---- slices ---- */

typedef struct slice {
    const phi_pack_tensor *tensor;
    uint32_t row;
    uint32_t count;
} slice;

/* One thread's buffers. */
typedef struct bench {
    uint8_t *source;
    uint8_t *packed;
} bench;

typedef struct filling {
    const phi_checkpoint *checkpoint;
    uint8_t *memory;         /* NULL: to a file */
    phi_file_writer *writer; /* and from this offset on */
    uint64_t offset;
    slice *slices;
    size_t n_slices;
    size_t first; /* slice of this round */
    bench *benches;
    unsigned n_benches;
    /* Relaxed: who sees it late packs a slice for nothing; `err` is read after the round. */
    atomic_bool failed;
    phi_status status;
    phi_err err;
} filling;

static uint32_t slice_rows(const phi_pack_tensor *tensor)
{
    uint64_t row_bytes = phi_tensor_row_bytes_max(tensor->source);
    uint64_t blocks = PHI_PACK_SLICE_BYTES / (row_bytes * PHI_WEIGHT_BLOCK);
    uint64_t rows = (blocks > 0 ? blocks : 1) * PHI_WEIGHT_BLOCK;
    return rows < tensor->source->rows ? (uint32_t)rows : tensor->source->rows;
}

static void list_slices(filling *self, const phi_pack *pack)
{
    size_t count = 0;
    for (size_t i = 0; i < pack->count; i++) {
        uint32_t step = slice_rows(&pack->tensors[i]);
        count += pack->tensors[i].source->rows / step + 1;
    }
    self->slices = phi_alloc_zero(count, sizeof *self->slices);
    for (size_t i = 0; i < pack->count; i++) {
        const phi_pack_tensor *tensor = &pack->tensors[i];
        uint32_t step = slice_rows(tensor);
        uint32_t rows = tensor->source->rows;
        for (uint32_t row = 0; row < rows; row += step) {
            self->slices[self->n_slices++] =
                (slice){tensor, row, rows - row < step ? rows - row : step};
        }
    }
}

/* `count` rows of a matrix by themselves. */
static void shape_rows(const phi_weight *whole, uint32_t count, phi_weight *out_rows)
{
    phi_form form = phi_weight_form(whole);
    phi_status status = phi_weight_shape(out_rows, &form, count, whole->cols, NULL);
    PHI_ASSERT(!status);
}

static uint64_t packed_bytes(const phi_pack_tensor *tensor)
{
    phi_weight rows;
    if (tensor->is_vector) {
        return tensor->bytes;
    }
    shape_rows(&tensor->shape, slice_rows(tensor), &rows);
    return phi_weight_bytes(&rows);
}

static phi_status make_benches(filling *self, const phi_pack *pack, unsigned count, phi_err *err)
{
    uint64_t source = 0;
    uint64_t packed = 0;
    for (size_t i = 0; i < pack->count; i++) {
        const phi_pack_tensor *tensor = &pack->tensors[i];
        uint64_t need = phi_tensor_row_bytes_max(tensor->source) * slice_rows(tensor);
        source = need > source ? need : source;
        need = packed_bytes(tensor);
        packed = need > packed ? need : packed;
    }
    self->benches = phi_alloc_zero(count, sizeof *self->benches);
    self->n_benches = count;
    for (unsigned i = 0; i < count; i++) {
        bench *it = &self->benches[i];
        it->source = phi_try_alloc_aligned((size_t)source);
        it->packed = self->memory ? NULL : phi_try_alloc_aligned((size_t)packed);
        if (!it->source || (!self->memory && !it->packed)) {
            return phi_fail(err, PHI_E_NO_MEMORY, "not enough memory to pack the weights");
        }
    }
    return PHI_OK;
}

static void filling_done(filling *self)
{
    for (unsigned i = 0; i < self->n_benches; i++) {
        phi_free(self->benches[i].source);
        phi_free(self->benches[i].packed);
    }
    phi_free(self->benches);
    phi_free(self->slices);
}

/* ---- packing ---- */

/* A slice's rows are one range of each plane: `first` blocks from the plane's beginning on. */
static phi_status write_planes(const filling *self, const phi_pack_tensor *tensor,
                               const phi_weight *rows, uint32_t first, phi_err *err)
{
    const phi_weight *whole = &tensor->shape;
    uint64_t at = self->offset + tensor->offset;
    phi_status status =
        phi_file_writer_patch(self->writer, at + first * whole->block_bytes, rows->codes,
                              (size_t)(rows->n_blocks * rows->block_bytes), err);
    if (status || !whole->group) {
        return status;
    }
    /* Codes of the INT kinds fill whole cache lines; planes of scales share what is left. */
    uint64_t codes_bytes = whole->n_blocks * whole->block_bytes;
    uint64_t plane_bytes = (phi_weight_bytes(whole) - codes_bytes) / (whole->has_offsets ? 2U : 1U);
    uint64_t scales_bytes =
        (uint64_t)(whole->cols / whole->group) * PHI_WEIGHT_BLOCK * (whole->wide ? 4U : 2U);
    at += codes_bytes + first * scales_bytes;
    const void *scales = rows->wide ? (const void *)rows->wide_scales : rows->scales;
    const void *offsets = rows->wide ? (const void *)rows->wide_offsets : rows->offsets;
    status = phi_file_writer_patch(self->writer, at, scales,
                                   (size_t)(rows->n_blocks * scales_bytes), err);
    if (!status && offsets) {
        status = phi_file_writer_patch(self->writer, at + plane_bytes, offsets,
                                       (size_t)(rows->n_blocks * scales_bytes), err);
    }
    return status;
}

static phi_status pack_rows(const filling *self, const slice *it, const bench *on, phi_err *err)
{
    const phi_tensor *source = it->tensor->source;
    phi_weight rows = it->tensor->shape;
    phi_status status =
        phi_checkpoint_read_rows(self->checkpoint, source, it->row, it->count, on->source, err);
    if (status) {
        return status;
    }
    if (self->memory) {
        phi_weight_bind(&rows, self->memory + it->tensor->offset);
        phi_tensor_set_rows(source, it->row, it->count, on->source, &rows, it->row);
        return PHI_OK;
    }
    shape_rows(&it->tensor->shape, it->count, &rows);
    if (it->count % PHI_WEIGHT_BLOCK != 0) {
        memset(on->packed, 0, (size_t)phi_weight_bytes(&rows));
    }
    phi_weight_bind(&rows, on->packed);
    phi_tensor_set_rows(source, it->row, it->count, on->source, &rows, 0);
    return write_planes(self, it->tensor, &rows, it->row / PHI_WEIGHT_BLOCK, err);
}

static phi_status pack_vector(const filling *self, const slice *it, const bench *on, phi_err *err)
{
    const phi_tensor *source = it->tensor->source;
    uint8_t *to = self->memory ? self->memory + it->tensor->offset : on->packed;
    phi_status status = phi_checkpoint_read_rows_f32(self->checkpoint, source, 0, 1, on->source,
                                                     (float *)(void *)to, err);
    if (!status && !self->memory) {
        status = phi_file_writer_patch(self->writer, self->offset + it->tensor->offset, to,
                                       source->cols * sizeof(float), err);
    }
    return status;
}

static void pack_slices(void *arg, size_t begin, size_t end, unsigned worker)
{
    filling *self = arg;
    const bench *on = &self->benches[worker];
    for (size_t i = begin; i < end; i++) {
        const slice *it = &self->slices[self->first + i];
        phi_err err = {0};
        if (atomic_load_explicit(&self->failed, memory_order_relaxed)) {
            return;
        }
        phi_status status =
            it->tensor->is_vector ? pack_vector(self, it, on, &err) : pack_rows(self, it, on, &err);
        if (status && !atomic_exchange_explicit(&self->failed, true, memory_order_relaxed)) {
            self->status = status;
            self->err = err;
        }
    }
}

/* What the round read. From each tensor's first row on: pages that are part of a larger piece of
 * the page cache are let go only with all of it. */
static void forget_round(const filling *self, size_t count)
{
    for (size_t i = self->first; i < self->first + count; i++) {
        const slice *it = &self->slices[i];
        bool is_last = i + 1 == self->first + count || it[1].tensor != it->tensor;
        if (is_last) {
            phi_checkpoint_forget_rows(it->tensor->source, it->row + it->count);
        }
    }
}

static phi_status fill_rounds(filling *self, const phi_pack *pack, const phi_pack_run *run,
                              phi_err *err)
{
    uint64_t done = 0;
    size_t round = (size_t)self->n_benches * ROUND_SLICES;
    for (self->first = 0; self->first < self->n_slices; self->first += round) {
        size_t left = self->n_slices - self->first;
        size_t count = left < round ? left : round;
        if (run->team) {
            phi_team_run(run->team, PHI_TEAM_BACKGROUND, count, 1, pack_slices, self);
        } else {
            pack_slices(self, 0, count, 0);
        }
        if (self->status) {
            if (err) {
                *err = self->err;
            }
            return self->status;
        }
        forget_round(self, count);
        for (size_t i = self->first; i < self->first + count; i++) {
            const slice *it = &self->slices[i];
            done += phi_tensor_share(it->tensor->source, it->row, it->count);
        }
        if (run->progress && !run->progress(run->user, done, pack->source_bytes)) {
            return phi_fail(err, PHI_E_CANCELLED, "loading was cancelled");
        }
    }
    return PHI_OK;
}

static phi_status fill(filling *self, const phi_pack *pack, const phi_pack_run *run, phi_err *err)
{
    atomic_init(&self->failed, false);
    list_slices(self, pack);
    phi_status status = make_benches(self, pack, run->team ? phi_team_size(run->team) : 1, err);
    status = status ? status : fill_rounds(self, pack, run, err);
    filling_done(self);
    return status;
}

phi_status phi_pack_to_memory(const phi_pack *pack, const phi_checkpoint *checkpoint,
                              const phi_pack_run *run, void *memory, phi_err *err)
{
    filling self = {.checkpoint = checkpoint, .memory = memory};
    return fill(&self, pack, run, err);
}

phi_status phi_pack_to_file(const phi_pack *pack, const phi_checkpoint *checkpoint,
                            const phi_pack_run *run, phi_file_writer *writer, uint64_t offset,
                            phi_err *err)
{
    filling self = {.checkpoint = checkpoint, .writer = writer, .offset = offset};
    return fill(&self, pack, run, err);
}
