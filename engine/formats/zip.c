#include "engine/formats/zip.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "base/strmap.h"
#include "config/limits.h"
#include "engine/formats/text_check.h"

#define LOCAL_SIGNATURE 0x04034b50U
#define LOCAL_BYTES 30U
#define CENTRAL_SIGNATURE 0x02014b50U
#define CENTRAL_BYTES 46U
#define END_SIGNATURE 0x06054b50U
#define END_BYTES 22U
#define END64_SIGNATURE 0x06064b50U
#define END64_BYTES 56U
#define LOCATOR_SIGNATURE 0x07064b50U
#define LOCATOR_BYTES 20U
#define COMMENT_BYTES_MAX 65535U
#define NAME_BYTES_MAX 512U /* torch.save's names have under 300 */
#define EXTRA_ZIP64 1U
#define FLAGS_ENCRYPTED 0x2041U /* encrypted, strongly encrypted, directory masked */

/* The central directory, and what the records at the archive's end say of it. */
typedef struct directory {
    const phi_file *file;
    const char *label;
    uint64_t offset;
    uint64_t bytes;
    uint64_t count;
    uint8_t *data;
} directory;

static uint16_t u16_at(const uint8_t *data)
{
    return (uint16_t)(data[0] | data[1] << 8);
}

static uint32_t u32_at(const uint8_t *data)
{
    return (uint32_t)u16_at(data) | (uint32_t)u16_at(data + 2) << 16;
}

static uint64_t u64_at(const uint8_t *data)
{
    return (uint64_t)u32_at(data) | (uint64_t)u32_at(data + 4) << 32;
}

/* The last record stands at the very end, before a comment whose length it tells. */
static phi_status find_end(directory *d, uint64_t *out_offset, uint8_t out_end[END_BYTES],
                           phi_err *err)
{
    uint64_t most = END_BYTES + COMMENT_BYTES_MAX;
    size_t bytes = (size_t)(d->file->bytes < most ? d->file->bytes : most);
    uint64_t start = d->file->bytes - bytes;
    uint8_t *tail = phi_try_alloc(bytes ? bytes : 1);
    if (!tail) {
        return phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for the end of %s", d->label);
    }
    phi_status status = phi_file_read_at(d->file, start, tail, bytes, err);
    bool found = false;
    for (size_t at = bytes; !status && !found && at >= END_BYTES; at--) {
        const uint8_t *end = tail + at - END_BYTES;
        if (u32_at(end) == END_SIGNATURE && u16_at(end + 20) == bytes - at) {
            memcpy(out_end, end, END_BYTES);
            *out_offset = start + at - END_BYTES;
            found = true;
        }
    }
    phi_free(tail);
    if (!status && !found) {
        status = phi_fail(err, PHI_E_FORMAT,
                          "%s has no zip directory at its end: the file is cut short or damaged",
                          d->label);
    }
    return status;
}

/* A field of the last record holds all ones when only the ZIP64 record has the number. */
static bool agree(uint64_t small, uint64_t ones, uint64_t large)
{
    return small == ones || small == large;
}

/* Reads the ZIP64 record, if there is one before the last record. `*end_at` becomes the offset of
 * the first of the records. */
static phi_status read_end64(directory *d, const uint8_t *end, uint64_t *end_at, phi_err *err)
{
    uint8_t locator[LOCATOR_BYTES];
    uint8_t record[END64_BYTES];
    uint64_t at = *end_at;
    if (at < LOCATOR_BYTES) {
        return PHI_OK;
    }
    phi_status status = phi_file_read_at(d->file, at - LOCATOR_BYTES, locator, LOCATOR_BYTES, err);
    if (status || u32_at(locator) != LOCATOR_SIGNATURE) {
        return status;
    }
    uint64_t record_at = u64_at(locator + 8);
    if (at < LOCATOR_BYTES + END64_BYTES || record_at > at - LOCATOR_BYTES - END64_BYTES) {
        return phi_fail(err, PHI_E_FORMAT, "%s: its ZIP64 record lies outside the file", d->label);
    }
    status = phi_file_read_at(d->file, record_at, record, END64_BYTES, err);
    if (status) {
        return status;
    }
    uint64_t rest = at - LOCATOR_BYTES - record_at - 12; /* the record's length leaves these out */
    bool one_disk = u32_at(locator + 4) == 0 && u32_at(locator + 16) <= 1 &&
                    u32_at(record + 16) == 0 && u32_at(record + 20) == 0;
    d->count = u64_at(record + 32);
    d->bytes = u64_at(record + 40);
    d->offset = u64_at(record + 48);
    if (u32_at(record) != END64_SIGNATURE || u64_at(record + 4) != rest || !one_disk ||
        u64_at(record + 24) != d->count || !agree(u16_at(end + 10), UINT16_MAX, d->count) ||
        !agree(u32_at(end + 12), UINT32_MAX, d->bytes) ||
        !agree(u32_at(end + 16), UINT32_MAX, d->offset)) {
        return phi_fail(err, PHI_E_FORMAT,
                        "%s: its ZIP64 record is malformed or contradicts the record after it",
                        d->label);
    }
    *end_at = record_at;
    return PHI_OK;
}

static phi_status find_directory(directory *d, phi_err *err)
{
    uint8_t end[END_BYTES] = {0};
    uint64_t end_at = 0;
    phi_status status = find_end(d, &end_at, end, err);
    if (status) {
        return status;
    }
    if (u16_at(end + 4) != 0 || u16_at(end + 6) != 0 || u16_at(end + 8) != u16_at(end + 10)) {
        return phi_fail(err, PHI_E_UNSUPPORTED, "%s is one part of a zip archive in several files",
                        d->label);
    }
    d->count = u16_at(end + 10);
    d->bytes = u32_at(end + 12);
    d->offset = u32_at(end + 16);
    status = read_end64(d, end, &end_at, err);
    if (status) {
        return status;
    }
    if (d->count > PHI_LIMIT_ZIP_ENTRIES || d->bytes > PHI_LIMIT_ZIP_DIRECTORY_BYTES) {
        return phi_fail(err, PHI_E_LIMIT,
                        "%s: a zip directory of %llu entries in %llu bytes; at most %u in %u bytes "
                        "are accepted",
                        d->label, (unsigned long long)d->count, (unsigned long long)d->bytes,
                        PHI_LIMIT_ZIP_ENTRIES, PHI_LIMIT_ZIP_DIRECTORY_BYTES);
    }
    if (!phi_checked_range(d->offset, d->bytes, end_at) || d->offset + d->bytes != end_at) {
        return phi_fail(err, PHI_E_FORMAT,
                        "%s: its zip directory would be at byte %llu with %llu bytes; it has to "
                        "end at byte %llu",
                        d->label, (unsigned long long)d->offset, (unsigned long long)d->bytes,
                        (unsigned long long)end_at);
    }
    return PHI_OK;
}

/* Sizes and offset that do not fit 32 bits stand in an extra field, in this order. */
static bool read_zip64(const uint8_t *extra, size_t bytes, uint64_t *const values[3])
{
    bool wanted = *values[0] == UINT32_MAX || *values[1] == UINT32_MAX || *values[2] == UINT32_MAX;
    while (wanted && bytes >= 4) {
        size_t part = u16_at(extra + 2);
        if (part > bytes - 4) {
            return false;
        }
        if (u16_at(extra) == EXTRA_ZIP64) {
            const uint8_t *at = extra + 4;
            for (int i = 0; i < 3; i++) {
                if (*values[i] == UINT32_MAX) {
                    if (part < 8) {
                        return false;
                    }
                    *values[i] = u64_at(at);
                    at += 8;
                    part -= 8;
                }
            }
            return true;
        }
        extra += 4 + part;
        bytes -= 4 + part;
    }
    return !wanted;
}

/* Reads the directory's record at `*at`, and moves `*at` and `*names` behind it. */
static phi_status read_record(const directory *d, size_t *at, char **names, phi_zip_entry *entry,
                              phi_err *err)
{
    const uint8_t *record = d->data + *at;
    size_t rest = (size_t)d->bytes - *at;
    if (rest < CENTRAL_BYTES || u32_at(record) != CENTRAL_SIGNATURE) {
        return phi_fail(err, PHI_E_FORMAT, "%s: its zip directory is malformed at byte %llu",
                        d->label, (unsigned long long)(d->offset + *at));
    }
    size_t name_bytes = u16_at(record + 28);
    size_t extra_bytes = u16_at(record + 30);
    size_t bytes = CENTRAL_BYTES + name_bytes + extra_bytes + u16_at(record + 32);
    const char *name = (const char *)record + CENTRAL_BYTES;
    if (bytes > rest || name_bytes > NAME_BYTES_MAX || !phi_name_is_clean(name, name_bytes)) {
        return phi_fail(err, PHI_E_FORMAT,
                        "%s: a name in its zip directory is not text, is longer than %u bytes or "
                        "is cut short",
                        d->label, NAME_BYTES_MAX);
    }
    memcpy(*names, name, name_bytes);
    (*names)[name_bytes] = '\0';
    entry->name = *names;
    *names += name_bytes + 1;
    if (u16_at(record + 8) & FLAGS_ENCRYPTED || u16_at(record + 10) != 0) {
        return phi_fail(err, PHI_E_UNSUPPORTED,
                        "%s: its entry \"%.100s\" is %s; entries stored as they are, as torch.save "
                        "writes them, are right",
                        d->label, entry->name,
                        u16_at(record + 8) & FLAGS_ENCRYPTED ? "encrypted" : "compressed");
    }
    uint64_t packed = u32_at(record + 20);
    entry->bytes = u32_at(record + 24);
    entry->header_offset = u32_at(record + 42);
    uint64_t *const values[3] = {&entry->bytes, &packed, &entry->header_offset};
    if (!read_zip64((const uint8_t *)name + name_bytes, extra_bytes, values) ||
        packed != entry->bytes || u16_at(record + 34) != 0) {
        return phi_fail(err, PHI_E_FORMAT, "%s: the sizes of its entry \"%.100s\" are malformed",
                        d->label, entry->name);
    }
    *at += bytes;
    return PHI_OK;
}

/* What introduces the entry repeats its name, and its length says where the data begin. */
static phi_status read_local(const directory *d, phi_zip_entry *entry, phi_err *err)
{
    uint8_t header[LOCAL_BYTES + NAME_BYTES_MAX];
    size_t name_bytes = strlen(entry->name);
    uint64_t at = entry->header_offset;
    if (!phi_checked_range(at, LOCAL_BYTES + name_bytes, d->offset)) {
        return phi_fail(err, PHI_E_FORMAT, "%s: its entry \"%.100s\" lies outside the file",
                        d->label, entry->name);
    }
    phi_status status = phi_file_read_at(d->file, at, header, LOCAL_BYTES + name_bytes, err);
    if (status) {
        return status;
    }
    if (u32_at(header) != LOCAL_SIGNATURE || u16_at(header + 26) != name_bytes ||
        memcmp(header + LOCAL_BYTES, entry->name, name_bytes) != 0 ||
        u16_at(header + 6) & FLAGS_ENCRYPTED || u16_at(header + 8) != 0) {
        return phi_fail(err, PHI_E_FORMAT,
                        "%s: what introduces its entry \"%.100s\" contradicts the directory",
                        d->label, entry->name);
    }
    entry->offset = at + LOCAL_BYTES + name_bytes + u16_at(header + 28);
    if (!phi_checked_range(entry->offset, entry->bytes, d->offset)) {
        return phi_fail(err, PHI_E_FORMAT,
                        "%s: its entry \"%.100s\" of %llu bytes reaches beyond the archive's files",
                        d->label, entry->name, (unsigned long long)entry->bytes);
    }
    return PHI_OK;
}

static int by_place(const void *left, const void *right)
{
    const phi_zip_entry *a = left;
    const phi_zip_entry *b = right;
    return a->header_offset < b->header_offset ? -1 : a->header_offset > b->header_offset;
}

static phi_status check_places(const directory *d, const phi_zip *zip, phi_err *err)
{
    phi_strmap *names = phi_strmap_create(zip->count);
    phi_status status =
        names ? PHI_OK
              : phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for the names in %s", d->label);
    for (size_t i = 0; i < zip->count && !status; i++) {
        const phi_zip_entry *entry = &zip->entries[i];
        status = phi_strmap_insert(names, entry->name, strlen(entry->name), (uint32_t)i);
        if (status) {
            status = status == PHI_E_EXISTS
                         ? phi_fail(err, PHI_E_FORMAT, "%s holds its entry \"%.100s\" twice",
                                    d->label, entry->name)
                         : phi_fail(err, status, "not enough memory for the names in %s", d->label);
        } else if (i > 0 && entry[-1].offset + entry[-1].bytes > entry->header_offset) {
            status = phi_fail(err, PHI_E_FORMAT, "%s: its entries \"%.60s\" and \"%.60s\" overlap",
                              d->label, entry[-1].name, entry->name);
        }
    }
    phi_strmap_destroy(names);
    return status;
}

static phi_status read_directory(directory *d, phi_zip *zip, phi_err *err)
{
    size_t count = (size_t)d->count;
    size_t bytes = (size_t)d->bytes;
    d->data = phi_try_alloc(bytes + 1);
    zip->entries = phi_try_alloc_zero(count + 1, sizeof *zip->entries);
    zip->names = phi_try_alloc(bytes + count + 1);
    if (!d->data || !zip->entries || !zip->names) {
        return phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for the zip directory of %s",
                        d->label);
    }
    phi_status status = phi_file_read_at(d->file, d->offset, d->data, bytes, err);
    char *names = zip->names;
    size_t at = 0;
    while (zip->count < count && !status) {
        phi_zip_entry *entry = &zip->entries[zip->count];
        status = read_record(d, &at, &names, entry, err);
        if (!status) {
            status = read_local(d, entry, err);
        }
        zip->count += !status;
    }
    if (!status && at != bytes) {
        status = phi_fail(err, PHI_E_FORMAT, "%s: its zip directory has %zu bytes too many",
                          d->label, bytes - at);
    }
    return status;
}

phi_status phi_zip_open(const phi_file *file, phi_zip *out_zip, phi_err *err)
{
    directory d = {.file = file, .label = phi_path_label(file->path)};
    phi_zip zip = {.count = 0};
    phi_status status = find_directory(&d, err);
    if (!status) {
        status = read_directory(&d, &zip, err);
    }
    if (!status) {
        qsort(zip.entries, zip.count, sizeof *zip.entries, by_place);
        status = check_places(&d, &zip, err);
    }
    phi_free(d.data);
    if (status) {
        phi_zip_close(&zip);
        return status;
    }
    *out_zip = zip;
    return PHI_OK;
}

void phi_zip_close(phi_zip *zip)
{
    if (zip) {
        phi_free(zip->entries);
        phi_free(zip->names);
        *zip = (phi_zip){.count = 0};
    }
}

const phi_zip_entry *phi_zip_find(const phi_zip *zip, const char *name)
{
    for (size_t i = 0; i < zip->count; i++) {
        if (strcmp(zip->entries[i].name, name) == 0) {
            return &zip->entries[i];
        }
    }
    return NULL;
}
