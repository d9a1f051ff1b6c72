/* The header of a cache file, field by field. */
#include "engine/model/pack_cache.h"

#include "base/assert.h"
#include "base/checked.h"
#include "base/checksum.h"
#include "base/mem.h"
#include "config/limits.h"

#include <string.h>

static const char magic[8] = "PHIPACK";
static const char layout[16] = PHI_PACK_LAYOUT;

#define FLAG_OFFSETS 1U
#define FLAG_VECTOR 2U
#define FLAG_WIDE 4U
#define DATA_ALIGN 4096U
#define TENSOR_ALIGN 64U

/* Where the fields are. */
enum {
    AT_VERSION = 8,
    AT_HEADER_BYTES = 12,
    AT_LAYOUT = 16,
    AT_CONTENT = 32,
    AT_TENSORS = 64,
    AT_FILE_BYTES = 96,
    AT_DATA_OFFSET = 104,
    AT_COUNT = 112,
    ENTRY_KIND = 64,
    ENTRY_GROUP = 68,
    ENTRY_ROWS = 72,
    ENTRY_COLS = 76,
    ENTRY_FLAGS = 80,
    ENTRY_OFFSET = 88,
    ENTRY_BYTES = 96,
    ENTRY_CHECKSUM = 104,
};

static uint64_t get(const uint8_t *at, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++) {
        value |= (uint64_t)at[i] << (8 * i);
    }
    return value;
}

static uint32_t get_u32(const uint8_t *at)
{
    return (uint32_t)get(at, 4);
}

static void put(uint8_t *at, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

/* The checksum of header and table, as if its own place were zeros. */
static uint64_t header_sum(const uint8_t *data, size_t bytes)
{
    uint64_t parts[2] = {
        phi_checksum(data, PHI_PACK_HEADER_SUM_AT),
        phi_checksum(data + PHI_PACK_HEADER_BYTES, bytes - PHI_PACK_HEADER_BYTES),
    };
    return phi_checksum(parts, sizeof parts);
}

/* ---- reading ---- */

static phi_status check_entry(const phi_pack_entry *entry, phi_err *err)
{
    uint64_t bytes = 0;
    phi_weight shape;
    if (entry->is_vector) {
        if (entry->rows != 1 || entry->has_offsets || entry->wide || entry->group != 0 ||
            entry->kind != PHI_WEIGHT_FP32) {
            return phi_fail(err, PHI_E_FORMAT, "a vector has a matrix's fields");
        }
        bytes = (uint64_t)entry->cols * sizeof(float);
    } else {
        phi_form form = {entry->kind, entry->group, entry->has_offsets, entry->wide};
        phi_status status = phi_weight_shape(&shape, &form, entry->rows, entry->cols, err);
        if (status) {
            return status;
        }
        if (shape.group != entry->group || shape.has_offsets != entry->has_offsets ||
            shape.wide != entry->wide) {
            return phi_fail(err, PHI_E_FORMAT, "a kind without groups has groups");
        }
        bytes = phi_weight_bytes(&shape);
    }
    bytes = (bytes + TENSOR_ALIGN - 1) / TENSOR_ALIGN * TENSOR_ALIGN;
    if (entry->rows == 0 || entry->cols == 0 || bytes != entry->bytes) {
        return phi_fail(err, PHI_E_FORMAT, "%llu bytes do not fit its shape",
                        (unsigned long long)entry->bytes);
    }
    return PHI_OK;
}

static phi_status parse_entry(const uint8_t *at, uint64_t data_bytes, uint64_t begins,
                              phi_pack_entry *out, phi_err *err)
{
    uint32_t kind = get_u32(at + ENTRY_KIND);
    uint32_t flags = get_u32(at + ENTRY_FLAGS);
    if (!memchr(at, '\0', sizeof out->name)) {
        return phi_fail(err, PHI_E_FORMAT, "a tensor's name has no end");
    }
    if (kind >= PHI_WEIGHT_KIND_COUNT || flags > (FLAG_OFFSETS | FLAG_VECTOR | FLAG_WIDE)) {
        return phi_fail(err, PHI_E_FORMAT, "a tensor's kind is unknown");
    }
    *out = (phi_pack_entry){
        .is_vector = flags & FLAG_VECTOR,
        .has_offsets = flags & FLAG_OFFSETS,
        .wide = flags & FLAG_WIDE,
        .kind = (phi_weight_kind)kind,
        .group = get_u32(at + ENTRY_GROUP),
        .rows = get_u32(at + ENTRY_ROWS),
        .cols = get_u32(at + ENTRY_COLS),
        .offset = get(at + ENTRY_OFFSET, 8),
        .bytes = get(at + ENTRY_BYTES, 8),
        .checksum = get(at + ENTRY_CHECKSUM, 8),
    };
    memcpy(out->name, at, sizeof out->name);
    if (out->offset % TENSOR_ALIGN != 0 || out->offset < begins ||
        !phi_checked_range(out->offset, out->bytes, data_bytes)) {
        return phi_fail(err, PHI_E_FORMAT, "a tensor lies outside the file or in another one");
    }
    return check_entry(out, err);
}

static phi_status parse_table(const uint8_t *data, phi_pack_header *header, phi_err *err)
{
    uint64_t begins = 0;
    phi_status status = PHI_OK;
    header->entries = phi_alloc_zero(header->count, sizeof *header->entries);
    for (size_t i = 0; i < header->count && !status; i++) {
        const uint8_t *at = data + PHI_PACK_HEADER_BYTES + i * PHI_PACK_ENTRY_BYTES;
        status = parse_entry(at, header->file_bytes - header->data_offset, begins,
                             &header->entries[i], err);
        begins = header->entries[i].offset + header->entries[i].bytes;
    }
    return status;
}

/* What has to be right before anything else can be looked at. */
static phi_status check_whole(const uint8_t *data, size_t bytes, phi_err *err)
{
    if (bytes < PHI_PACK_HEADER_BYTES || memcmp(data, magic, sizeof magic) != 0) {
        return phi_fail(err, PHI_E_FORMAT, "it is not a file of packed weights");
    }
    uint32_t version = get_u32(data + AT_VERSION);
    if (version != PHI_PACK_LAYOUT_VERSION ||
        memcmp(data + AT_LAYOUT, layout, sizeof layout) != 0) {
        return phi_fail(err, PHI_E_UNSUPPORTED, "it has another layout (version %u, not %u)",
                        version, PHI_PACK_LAYOUT_VERSION);
    }
    uint32_t count = get_u32(data + AT_COUNT);
    uint32_t header_bytes = get_u32(data + AT_HEADER_BYTES);
    if (count == 0 || count > PHI_LIMIT_TENSORS ||
        header_bytes != PHI_PACK_HEADER_BYTES + count * PHI_PACK_ENTRY_BYTES ||
        header_bytes > bytes) {
        return phi_fail(err, PHI_E_FORMAT, "its header ends early");
    }
    if (get(data + PHI_PACK_HEADER_SUM_AT, 8) != header_sum(data, header_bytes)) {
        return phi_fail(err, PHI_E_FORMAT, "its header is damaged");
    }
    return PHI_OK;
}

phi_status phi_pack_header_parse(const void *data_, size_t bytes, uint64_t file_bytes,
                                 phi_pack_header *out_header, phi_err *err)
{
    const uint8_t *data = data_;
    phi_status status = check_whole(data, bytes, err);
    if (status) {
        return status;
    }
    phi_pack_header header = {
        .file_bytes = get(data + AT_FILE_BYTES, 8),
        .data_offset = get(data + AT_DATA_OFFSET, 8),
        .count = get_u32(data + AT_COUNT),
    };
    memcpy(header.key.content, data + AT_CONTENT, sizeof header.key.content);
    memcpy(header.key.tensors, data + AT_TENSORS, sizeof header.key.tensors);
    if (header.file_bytes != file_bytes) {
        return phi_fail(err, PHI_E_FORMAT, "it has %llu bytes and should have %llu",
                        (unsigned long long)file_bytes, (unsigned long long)header.file_bytes);
    }
    if (header.data_offset % DATA_ALIGN != 0 || header.data_offset > file_bytes ||
        header.data_offset < get_u32(data + AT_HEADER_BYTES)) {
        return phi_fail(err, PHI_E_FORMAT, "its tensors begin in the wrong place");
    }
    status = parse_table(data, &header, err);
    if (status) {
        phi_pack_header_done(&header);
        return status;
    }
    *out_header = header;
    return PHI_OK;
}

void phi_pack_header_done(phi_pack_header *header)
{
    if (header) {
        phi_free(header->entries);
        *header = (phi_pack_header){0};
    }
}

/* ---- writing ---- */

void phi_pack_header_seal(uint8_t *data, size_t bytes)
{
    put(data + PHI_PACK_HEADER_SUM_AT, header_sum(data, bytes), 8);
}

static void write_entry(const phi_pack_entry *entry, uint8_t *out)
{
    memcpy(out, entry->name, sizeof entry->name);
    put(out + ENTRY_KIND, entry->kind, 4);
    put(out + ENTRY_GROUP, entry->group, 4);
    put(out + ENTRY_ROWS, entry->rows, 4);
    put(out + ENTRY_COLS, entry->cols, 4);
    put(out + ENTRY_FLAGS,
        (entry->has_offsets ? FLAG_OFFSETS : 0) | (entry->is_vector ? FLAG_VECTOR : 0) |
            (entry->wide ? FLAG_WIDE : 0),
        4);
    put(out + ENTRY_OFFSET, entry->offset, 8);
    put(out + ENTRY_BYTES, entry->bytes, 8);
    put(out + ENTRY_CHECKSUM, entry->checksum, 8);
}

void phi_pack_header_write(const phi_pack_header *header, uint8_t *out)
{
    size_t bytes = PHI_PACK_HEADER_BYTES + header->count * PHI_PACK_ENTRY_BYTES;
    PHI_ASSERT(header->count > 0 && header->count <= PHI_LIMIT_TENSORS);
    memset(out, 0, bytes);
    memcpy(out, magic, sizeof magic);
    put(out + AT_VERSION, PHI_PACK_LAYOUT_VERSION, 4);
    put(out + AT_HEADER_BYTES, bytes, 4);
    memcpy(out + AT_LAYOUT, layout, sizeof layout);
    memcpy(out + AT_CONTENT, header->key.content, sizeof header->key.content);
    memcpy(out + AT_TENSORS, header->key.tensors, sizeof header->key.tensors);
    put(out + AT_FILE_BYTES, header->file_bytes, 8);
    put(out + AT_DATA_OFFSET, header->data_offset, 8);
    put(out + AT_COUNT, header->count, 4);
    for (size_t i = 0; i < header->count; i++) {
        write_entry(&header->entries[i], out + PHI_PACK_HEADER_BYTES + i * PHI_PACK_ENTRY_BYTES);
    }
    phi_pack_header_seal(out, bytes);
}
