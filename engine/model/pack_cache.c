#include "engine/model/pack_cache.h"

#include "base/assert.h"
#include "base/buf.h"
#include "base/checksum.h"
#include "base/mem.h"
#include "config/limits.h"
#include "engine/formats/tensor_rows.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#define DATA_ALIGN 4096U
/* What a thread sums at a time; a tensor's sum is that of its pieces' sums. */
#define PIECE_BYTES (1U << 20)
/* Pieces of a round for each thread: the progress is told, and a stop heard, once a round. */
#define ROUND_PIECES 64U
/* Of each end of a source file. */
#define SAMPLE_BYTES (1U << 20)
/* What a cache leaves free of a file system, if the cache is not smaller itself. */
#define DISK_RESERVE_BYTES (1ULL << 30)

/* ---- the key ---- */

static phi_status add_sample(phi_sha256 *hash, const phi_file *file, uint64_t offset,
                             uint64_t bytes, phi_err *err)
{
    uint8_t *sample = phi_alloc(SAMPLE_BYTES);
    phi_status status = phi_file_read_at(file, offset, sample, (size_t)bytes, err);
    if (!status) {
        phi_sha256_update(hash, sample, (size_t)bytes);
    }
    phi_free(sample);
    return status;
}

static phi_status add_file(phi_sha256 *hash, const phi_file *file, phi_err *err)
{
    struct stat info;
    if (fstat(file->fd, &info) != 0) {
        return phi_fail(err, PHI_E_IO, "cannot look at %s: %s", file->path, strerror(errno));
    }
    char *text =
        phi_strfmt("%" PRIu64 " %lld.%09ld %llu\n", file->bytes, (long long)info.st_mtim.tv_sec,
                   info.st_mtim.tv_nsec, (unsigned long long)info.st_ino);
    phi_sha256_update(hash, text, strlen(text));
    phi_free(text);
    uint64_t bytes = file->bytes < SAMPLE_BYTES ? file->bytes : SAMPLE_BYTES;
    phi_status status = add_sample(hash, file, 0, bytes, err);
    return status ? status : add_sample(hash, file, file->bytes - bytes, bytes, err);
}

static void hash_tensors(const phi_pack *pack, uint8_t *out)
{
    phi_sha256 hash;
    phi_sha256_init(&hash);
    for (size_t i = 0; i < pack->count; i++) {
        const phi_tensor *source = pack->tensors[i].source;
        char type[PHI_TENSOR_TYPE_BYTES];
        phi_tensor_type(source, type);
        char *text = phi_strfmt("%s %s %u %u %u\n", source->name, type, source->n_dims,
                                source->rows, source->cols);
        phi_sha256_update(&hash, text, strlen(text));
        phi_free(text);
    }
    phi_sha256_finish(&hash, out);
}

phi_status phi_pack_key_make(const phi_checkpoint *checkpoint, const phi_pack *pack,
                             const char *sha256, phi_pack_key *out_key, phi_err *err)
{
    phi_pack_key key;
    phi_sha256 hash;
    phi_status status = PHI_OK;
    phi_sha256_init(&hash);
    if (sha256) {
        phi_sha256_update(&hash, "sha256 ", 7);
        phi_sha256_update(&hash, sha256, strlen(sha256));
    }
    for (size_t i = 0; !sha256 && i < phi_checkpoint_file_count(checkpoint) && !status; i++) {
        status = add_file(&hash, phi_checkpoint_file_at(checkpoint, i), err);
    }
    phi_sha256_finish(&hash, key.content);
    hash_tensors(pack, key.tensors);
    if (!status) {
        *out_key = key;
    }
    return status;
}

/* ---- sums of all tensors ---- */

typedef struct piece {
    uint64_t offset; /* in the region */
    uint64_t bytes;
    uint64_t sum;
} piece;

typedef struct summing {
    const phi_region *region;
    int fd;
    piece *pieces;
    size_t n_pieces;
    size_t first; /* piece of this round */
    /* Relaxed: as in pack.c. */
    atomic_bool failed;
    phi_status status;
    phi_err err;
} summing;

static size_t pieces_of(const phi_pack_tensor *tensor)
{
    return (size_t)((tensor->bytes + PIECE_BYTES - 1) / PIECE_BYTES);
}

static void list_pieces(summing *self, const phi_pack *pack, uint64_t data_offset)
{
    size_t count = 0;
    for (size_t i = 0; i < pack->count; i++) {
        count += pieces_of(&pack->tensors[i]);
    }
    self->pieces = phi_alloc_zero(count, sizeof *self->pieces);
    for (size_t i = 0; i < pack->count; i++) {
        const phi_pack_tensor *tensor = &pack->tensors[i];
        for (uint64_t at = 0; at < tensor->bytes; at += PIECE_BYTES) {
            uint64_t left = tensor->bytes - at;
            self->pieces[self->n_pieces++] =
                (piece){.offset = data_offset + tensor->offset + at,
                        .bytes = left < PIECE_BYTES ? left : PIECE_BYTES};
        }
    }
}

static void sum_pieces(void *arg, size_t begin, size_t end, unsigned worker)
{
    summing *self = arg;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        piece *it = &self->pieces[self->first + i];
        phi_err err = {0};
        if (atomic_load_explicit(&self->failed, memory_order_relaxed)) {
            return;
        }
        phi_status status =
            phi_region_populate(self->region, self->fd, it->offset, it->bytes, &err);
        if (!status) {
            it->sum =
                phi_checksum((const uint8_t *)self->region->memory + it->offset, (size_t)it->bytes);
        } else if (!atomic_exchange_explicit(&self->failed, true, memory_order_relaxed)) {
            self->status = status;
            self->err = err;
        }
    }
}

static phi_status sum_rounds(summing *self, const phi_pack_run *run, uint64_t total, phi_err *err)
{
    uint64_t done = 0;
    size_t round = (size_t)ROUND_PIECES * (run->team ? phi_team_size(run->team) : 1);
    for (self->first = 0; self->first < self->n_pieces; self->first += round) {
        size_t left = self->n_pieces - self->first;
        size_t count = left < round ? left : round;
        if (run->team) {
            phi_team_run(run->team, PHI_TEAM_BACKGROUND, count, 1, sum_pieces, self);
        } else {
            sum_pieces(self, 0, count, 0);
        }
        if (self->status) {
            if (err) {
                *err = self->err;
            }
            return self->status;
        }
        for (size_t i = self->first; i < self->first + count; i++) {
            done += self->pieces[i].bytes;
        }
        if (run->progress && !run->progress(run->user, done, total)) {
            return phi_fail(err, PHI_E_CANCELLED, "loading was cancelled");
        }
    }
    return PHI_OK;
}

/* out_sums: [pack->count]. Brings the whole file into memory on the way. */
static phi_status sum_tensors(const phi_pack *pack, const phi_region *region, int fd,
                              uint64_t data_offset, const phi_pack_run *run, uint64_t *out_sums,
                              phi_err *err)
{
    summing self = {.region = region, .fd = fd};
    atomic_init(&self.failed, false);
    list_pieces(&self, pack, data_offset);
    phi_status status = sum_rounds(&self, run, pack->bytes, err);
    uint64_t *sums = phi_alloc_zero(self.n_pieces, sizeof *sums);
    size_t at = 0;
    for (size_t i = 0; i < pack->count; i++) {
        size_t n = pieces_of(&pack->tensors[i]);
        for (size_t k = 0; k < n; k++) {
            sums[k] = self.pieces[at + k].sum;
        }
        out_sums[i] = phi_checksum(sums, n * sizeof *sums);
        at += n;
    }
    phi_free(sums);
    phi_free(self.pieces);
    return status;
}

/* ---- opening ---- */

static phi_status read_header(const phi_file *file, phi_pack_header *out_header, phi_err *err)
{
    size_t most = PHI_PACK_HEADER_BYTES + (size_t)PHI_LIMIT_TENSORS * PHI_PACK_ENTRY_BYTES;
    size_t bytes = file->bytes < most ? (size_t)file->bytes : most;
    uint8_t *data = phi_try_alloc(bytes + 1);
    phi_status status = data ? phi_file_read_at(file, 0, data, bytes, err)
                             : phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for its header");
    status = status ? status : phi_pack_header_parse(data, bytes, file->bytes, out_header, err);
    phi_free(data);
    return status;
}

static void describe(const phi_pack_tensor *tensor, phi_pack_entry *out)
{
    const phi_weight *shape = &tensor->shape;
    *out = (phi_pack_entry){
        .is_vector = tensor->is_vector,
        .has_offsets = shape->has_offsets,
        .wide = shape->wide,
        .kind = tensor->is_vector ? PHI_WEIGHT_FP32 : shape->kind,
        .group = shape->group,
        .rows = tensor->is_vector ? 1 : shape->rows,
        .cols = tensor->source->cols,
        .offset = tensor->offset,
        .bytes = tensor->bytes,
    };
    _Static_assert(sizeof out->name == sizeof tensor->source->name, "names are of one length");
    memcpy(out->name, tensor->source->name, sizeof out->name);
}

static bool is_same(const phi_pack_entry *a, const phi_pack_entry *b)
{
    return strcmp(a->name, b->name) == 0 && a->is_vector == b->is_vector &&
           a->has_offsets == b->has_offsets && a->wide == b->wide && a->kind == b->kind &&
           a->group == b->group && a->rows == b->rows && a->cols == b->cols &&
           a->offset == b->offset && a->bytes == b->bytes;
}

static phi_status check_header(const phi_pack_header *header, const phi_pack *pack,
                               const phi_pack_key *key, phi_err *err)
{
    if (memcmp(header->key.content, key->content, sizeof key->content) != 0) {
        return phi_fail(err, PHI_E_STATE, "it was made from other content");
    }
    if (memcmp(header->key.tensors, key->tensors, sizeof key->tensors) != 0 ||
        header->count != pack->count) {
        return phi_fail(err, PHI_E_STATE, "it was made from other tensors");
    }
    for (size_t i = 0; i < pack->count; i++) {
        phi_pack_entry wanted;
        describe(&pack->tensors[i], &wanted);
        if (!is_same(&wanted, &header->entries[i])) {
            return phi_fail(err, PHI_E_STATE, "tensor %s is placed in another way", wanted.name);
        }
    }
    return PHI_OK;
}

static phi_status check_sums(const phi_pack_header *header, const uint64_t *sums, phi_err *err)
{
    for (size_t i = 0; i < header->count; i++) {
        if (sums[i] != header->entries[i].checksum) {
            return phi_fail(err, PHI_E_FORMAT, "tensor %s is damaged", header->entries[i].name);
        }
    }
    return PHI_OK;
}

phi_status phi_pack_cache_open(const char *path, const phi_pack *pack, const phi_pack_key *key,
                               const phi_pack_run *run, phi_region *out_region,
                               uint64_t *out_data_offset, phi_err *err)
{
    phi_file file;
    phi_pack_header header = {0};
    phi_region region = {0};
    phi_status status = phi_file_open(path, &file, err);
    if (status) {
        return status;
    }
    uint64_t *sums = phi_alloc_zero(pack->count, sizeof *sums);
    status = read_header(&file, &header, err);
    status = status ? status : check_header(&header, pack, key, err);
    status = status ? status : phi_region_map(file.fd, file.bytes, &region, err);
    status =
        status ? status : sum_tensors(pack, &region, file.fd, header.data_offset, run, sums, err);
    status = status ? status : check_sums(&header, sums, err);
    if (status) {
        phi_region_release(&region);
    } else {
        *out_region = region;
        *out_data_offset = header.data_offset;
    }
    phi_free(sums);
    phi_pack_header_done(&header);
    phi_file_close(&file);
    return status;
}

/* ---- building ---- */

static phi_status check_space(const phi_file_writer *writer, uint64_t bytes, phi_err *err)
{
    struct statvfs info;
    if (fstatvfs(phi_file_writer_fd(writer), &info) != 0) {
        return PHI_OK;
    }
    uint64_t reserve = bytes < DISK_RESERVE_BYTES ? bytes : DISK_RESERVE_BYTES;
    uint64_t room = (uint64_t)info.f_bavail * info.f_frsize;
    if (room < bytes + reserve) {
        return phi_fail(err, PHI_E_NO_SPACE,
                        "%" PRIu64 " MB of packed weights do not fit: %" PRIu64
                        " MB are free, and %" PRIu64 " MB are to stay so",
                        bytes >> 20, room >> 20, reserve >> 20);
    }
    return PHI_OK;
}

static phi_status put_header(const phi_pack *pack, const phi_pack_key *key, uint64_t data_offset,
                             const uint64_t *sums, phi_file_writer *writer, phi_err *err)
{
    phi_pack_header header = {.key = *key,
                              .file_bytes = data_offset + pack->bytes,
                              .data_offset = data_offset,
                              .count = pack->count};
    header.entries = phi_alloc_zero(header.count, sizeof *header.entries);
    for (size_t i = 0; i < pack->count; i++) {
        describe(&pack->tensors[i], &header.entries[i]);
        header.entries[i].checksum = sums[i];
    }
    size_t bytes = PHI_PACK_HEADER_BYTES + pack->count * PHI_PACK_ENTRY_BYTES;
    uint8_t *data = phi_alloc(bytes);
    phi_pack_header_write(&header, data);
    phi_status status = phi_file_writer_patch(writer, 0, data, bytes, err);
    phi_free(data);
    phi_pack_header_done(&header);
    return status;
}

/* Everything but the name. */
static phi_status write_file(const phi_pack *pack, const phi_pack_key *key,
                             const phi_checkpoint *checkpoint, const phi_pack_run *run,
                             phi_file_writer *writer, uint64_t data_offset, phi_region *region,
                             phi_err *err)
{
    uint64_t bytes = data_offset + pack->bytes;
    uint64_t *sums = phi_alloc_zero(pack->count, sizeof *sums);
    /* The work has been told already when this part comes. */
    const phi_pack_run quiet = {.team = run->team};
    phi_status status = check_space(writer, bytes, err);
    status = status ? status : phi_file_writer_reserve(writer, bytes, err);
    status = status ? status : phi_pack_to_file(pack, checkpoint, run, writer, data_offset, err);
    int fd = phi_file_writer_fd(writer);
    status = status ? status : phi_region_map(fd, bytes, region, err);
    status = status ? status : sum_tensors(pack, region, fd, data_offset, &quiet, sums, err);
    status = status ? status : put_header(pack, key, data_offset, sums, writer, err);
    phi_free(sums);
    return status;
}

phi_status phi_pack_cache_build(const char *path, const phi_pack *pack, const phi_pack_key *key,
                                const phi_checkpoint *checkpoint, const phi_pack_run *run,
                                phi_region *out_region, uint64_t *out_data_offset, phi_err *err)
{
    uint64_t header_bytes = PHI_PACK_HEADER_BYTES + (uint64_t)pack->count * PHI_PACK_ENTRY_BYTES;
    uint64_t data_offset = (header_bytes + DATA_ALIGN - 1) / DATA_ALIGN * DATA_ALIGN;
    phi_region region = {0};
    phi_file_writer *writer = NULL;
    phi_status status = phi_file_writer_create(path, &writer, err);
    if (status) {
        return status;
    }
    status = write_file(pack, key, checkpoint, run, writer, data_offset, &region, err);
    if (status) {
        phi_file_writer_abort(writer);
    } else {
        /* No start waits for the disk: what a crash leaves is found when its sums are checked. */
        status = phi_file_writer_publish(writer, err);
    }
    if (status) {
        phi_region_release(&region);
        return status;
    }
    *out_region = region;
    *out_data_offset = data_offset;
    return PHI_OK;
}
