/*
 * Purpose: packed weights as a file that is mapped instead of being packed again.
 * Owns:    phi_pack_header owns its entries; regions are the caller's.
 * Threads: one [job] thread; reading and summing run on the team, in the background. Processes may
 *          read, build and replace the same file at the same time.
 * Errors:  whatever is wrong with a file is an error with the reason, never trusted and never
 *          fatal: the caller builds it again. PHI_E_NOT_FOUND when there is none,
 *          PHI_E_CANCELLED when the progress callback says stop.
 * Limits:  PHI_LIMIT_TENSORS; 2^63 bytes.
 *
 * The file: a header, then from `data_offset` on (a multiple of 4096) the tensors as pack.h places
 * them. Numbers are little-endian, and so is the machine that a file is for.
 *
 *   header   8  magic "PHIPACK" and a NUL       tensor  64  name, filled up with NULs
 *            4  PHI_PACK_LAYOUT_VERSION                  4  kind (phi_weight_kind)
 *            4  bytes of header and table                4  group
 *           16  PHI_PACK_LAYOUT, with NULs               4  rows
 *           32  key: content of the source               4  cols
 *           32  key: its tensors                         4  flags: 1 offsets, 2 vector, 4 wide
 *            8  bytes of the file                        4  0
 *            8  data_offset                              8  offset from data_offset on
 *            4  tensors                                  8  bytes
 *            4  0                                        8  checksum of the bytes
 *            8  checksum of header and table
 *               with zeros here
 *
 * The key: what the weights are made from, and how. The content is the SHA-256 that the caller
 * knows it by; else of each file its length, time of change and inode with its first and last MiB,
 * so that a file that was replaced or written to is noticed without reading all of it. The other
 * half is the list of tensors with types and shapes. One layout serves all kernel sets, so the
 * machine's instruction set is not in it; a layout that depends on it must change the name.
 */
#ifndef PHI_ENGINE_MODEL_PACK_CACHE_H
#define PHI_ENGINE_MODEL_PACK_CACHE_H

#include "base/hash.h"
#include "base/status.h"
#include "engine/formats/checkpoint.h"
#include "engine/model/pack.h"
#include "engine/model/region.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct phi_pack_key {
    uint8_t content[PHI_SHA256_BYTES];
    uint8_t tensors[PHI_SHA256_BYTES];
} phi_pack_key;

/* `sha256` (hexadecimal) names the source's content; NULL when nobody knows it. */
phi_status phi_pack_key_make(const phi_checkpoint *checkpoint, const phi_pack *pack,
                             const char *sha256, phi_pack_key *out_key,
                             phi_err *err) PHI_MUST_CHECK;

/* A file made from `key` and `pack`, every byte of it verified, mapped from its beginning on. */
phi_status phi_pack_cache_open(const char *path, const phi_pack *pack, const phi_pack_key *key,
                               const phi_pack_run *run, phi_region *out_region,
                               uint64_t *out_data_offset, phi_err *err) PHI_MUST_CHECK;
/* Makes the file, in place of an older one, and maps it. A file system that would be left with
 * less than the file's own size free (or than 1 GiB) is as good as full: PHI_E_NO_SPACE. */
phi_status phi_pack_cache_build(const char *path, const phi_pack *pack, const phi_pack_key *key,
                                const phi_checkpoint *checkpoint, const phi_pack_run *run,
                                phi_region *out_region, uint64_t *out_data_offset,
                                phi_err *err) PHI_MUST_CHECK;

/* ---- the header by itself ---- */

#define PHI_PACK_HEADER_BYTES 128U
#define PHI_PACK_ENTRY_BYTES 112U
/* Where the header's own checksum is. */
#define PHI_PACK_HEADER_SUM_AT 120U

typedef struct phi_pack_entry {
    char name[64];
    bool is_vector;
    bool has_offsets;
    bool wide;
    phi_weight_kind kind;
    uint32_t group;
    uint32_t rows;
    uint32_t cols;
    uint64_t offset;
    uint64_t bytes;
    uint64_t checksum;
} phi_pack_entry;

typedef struct phi_pack_header {
    phi_pack_key key;
    uint64_t file_bytes;
    uint64_t data_offset;
    phi_pack_entry *entries; /* [count] */
    size_t count;
} phi_pack_header;

/* `data` is the beginning of a file of `file_bytes`. What it says is checked against itself and
 * against the file's length. */
phi_status phi_pack_header_parse(const void *data, size_t bytes, uint64_t file_bytes,
                                 phi_pack_header *out_header, phi_err *err) PHI_MUST_CHECK;
void phi_pack_header_done(phi_pack_header *header);
/* Puts the checksum into a header that is otherwise complete. */
void phi_pack_header_seal(uint8_t *data, size_t bytes);
/* Writes PHI_PACK_HEADER_BYTES + count * PHI_PACK_ENTRY_BYTES. */
void phi_pack_header_write(const phi_pack_header *header, uint8_t *out);

#endif
