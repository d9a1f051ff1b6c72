#include "server/quantization/job_pack.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <archive.h>
#include <archive_entry.h>

#include "base/assert.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/str.h"
#include "config/limits.h"

#define BLOCK_BYTES (1U << 20)

typedef struct packing {
    const phi_job_pack_options *options;
    char **names; /* sorted */
    size_t count;
    struct archive *archive;
    phi_file_writer *out;
    phi_sha256 hash;
    uint64_t bytes_done;
    uint64_t bytes_total;
    char *block;
    phi_err write_err; /* why the last write failed */
} packing;

/* ---- what there is ---- */

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static phi_status list_files(packing *self, phi_err *err)
{
    DIR *handle = opendir(self->options->dir);
    if (!handle) {
        return phi_fail(err, phi_status_of_errno(errno), "cannot list what was written: %s",
                        strerror(errno));
    }
    phi_status status = PHI_OK;
    for (struct dirent *entry = readdir(handle); entry && !status; entry = readdir(handle)) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        if (self->count == PHI_LIMIT_ARCHIVE_ENTRIES) {
            status = phi_fail(err, PHI_E_LIMIT, "the folder has more than %u files",
                              PHI_LIMIT_ARCHIVE_ENTRIES);
            break;
        }
        self->names = phi_realloc(self->names, (self->count + 1) * sizeof *self->names);
        self->names[self->count++] = phi_strdup(entry->d_name);
    }
    (void)closedir(handle);
    if (self->count > 0) {
        qsort(self->names, self->count, sizeof *self->names, by_name);
    }
    return status;
}

static phi_status open_file(const packing *self, size_t i, phi_file *out_file, phi_err *err)
{
    char *path = phi_strfmt("%s/%s", self->options->dir, self->names[i]);
    phi_status status = phi_file_open(path, out_file, err);
    phi_free(path);
    return status;
}

static phi_status measure(packing *self, phi_err *err)
{
    phi_status status = PHI_OK;
    for (size_t i = 0; i < self->count && !status; i++) {
        phi_file file;
        status = open_file(self, i, &file, err);
        if (!status) {
            self->bytes_total += file.bytes;
            phi_file_close(&file);
        }
    }
    return status;
}

/* ---- writing ---- */

/* Called by libarchive with a block of the archive; all of it is taken, or it fails. */
static la_ssize_t take_block(struct archive *archive, void *user, const void *data, size_t bytes)
{
    packing *self = user;
    if (phi_file_writer_append(self->out, data, bytes, &self->write_err)) {
        archive_set_error(archive, EIO, "%s", self->write_err.message);
        return -1;
    }
    phi_sha256_update(&self->hash, data, bytes);
    return (la_ssize_t)bytes;
}

static phi_status fail_archive(const packing *self, phi_err *err)
{
    if (self->write_err.code) {
        if (err) {
            *err = self->write_err;
        }
        return self->write_err.code;
    }
    const char *reason = archive_error_string(self->archive);
    return phi_fail(err, PHI_E_IO, "cannot make the archive: %s", reason ? reason : "unknown");
}

static phi_status put_header(packing *self, const char *name, uint64_t bytes, phi_err *err)
{
    struct archive_entry *entry = archive_entry_new();
    if (!entry) {
        return phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for an archive");
    }
    char *path = phi_strfmt("%s/%s", self->options->folder, name);
    archive_entry_set_pathname(entry, path);
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_perm(entry, 0644);
    archive_entry_set_size(entry, (la_int64_t)bytes);
    archive_entry_set_mtime(entry, (time_t)self->options->time_s, 0);
    int code = archive_write_header(self->archive, entry);
    archive_entry_free(entry);
    phi_free(path);
    return code == ARCHIVE_OK ? PHI_OK : fail_archive(self, err);
}

static phi_status put_data(packing *self, const phi_file *file, phi_err *err)
{
    phi_status status = PHI_OK;
    for (uint64_t at = 0; at < file->bytes && !status;) {
        uint64_t left = file->bytes - at;
        size_t want = left < BLOCK_BYTES ? (size_t)left : BLOCK_BYTES;
        status = phi_file_read_at(file, at, self->block, want, err);
        if (!status && archive_write_data(self->archive, self->block, want) != (la_ssize_t)want) {
            status = fail_archive(self, err);
        }
        at += want;
        self->bytes_done += want;
        if (!status &&
            !self->options->progress(self->options->user, self->bytes_done, self->bytes_total)) {
            status = phi_fail(err, PHI_E_CANCELLED, "stopped while making the archive");
        }
    }
    return status;
}

/* So that the disk never holds the whole model twice. */
static void remove_file(const packing *self, size_t i)
{
    char *path = phi_strfmt("%s/%s", self->options->dir, self->names[i]);
    (void)unlink(path);
    phi_free(path);
}

static phi_status put_files(packing *self, phi_err *err)
{
    phi_status status = PHI_OK;
    for (size_t i = 0; i < self->count && !status; i++) {
        phi_file file;
        status = open_file(self, i, &file, err);
        if (status) {
            break;
        }
        status = put_header(self, self->names[i], file.bytes, err);
        status = status ? status : put_data(self, &file, err);
        phi_file_close(&file);
        if (!status) {
            remove_file(self, i);
        }
    }
    return status;
}

static phi_status write_archive(packing *self, phi_err *err)
{
    self->archive = archive_write_new();
    if (!self->archive || archive_write_set_format_pax_restricted(self->archive) != ARCHIVE_OK ||
        archive_write_add_filter_none(self->archive) != ARCHIVE_OK ||
        archive_write_set_bytes_per_block(self->archive, (int)BLOCK_BYTES) != ARCHIVE_OK ||
        archive_write_set_bytes_in_last_block(self->archive, 1) != ARCHIVE_OK) {
        return phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for an archive");
    }
    if (archive_write_open(self->archive, self, NULL, take_block, NULL) != ARCHIVE_OK) {
        return fail_archive(self, err);
    }
    phi_status status = put_files(self, err);
    if (!status && archive_write_close(self->archive) != ARCHIVE_OK) {
        status = fail_archive(self, err);
    }
    return status;
}

phi_status phi_job_pack(const phi_job_pack_options *options, phi_store_file *out_file, phi_err *err)
{
    packing self = {.options = options, .block = phi_alloc(BLOCK_BYTES)};
    phi_sha256_init(&self.hash);
    phi_status status = list_files(&self, err);
    status = status ? status : measure(&self, err);
    status = status ? status : phi_file_writer_create(options->out_path, &self.out, err);
    status = status ? status : write_archive(&self, err);
    /* Closing a failed archive writes its end: the file must still be there. */
    (void)archive_write_free(self.archive);
    uint64_t bytes = self.out ? phi_file_writer_bytes(self.out) : 0;
    if (status) {
        phi_file_writer_abort(self.out);
    } else {
        status = phi_file_writer_commit(self.out, err);
    }
    if (!status) {
        uint8_t digest[PHI_SHA256_BYTES];
        phi_sha256_finish(&self.hash, digest);
        phi_str_hex(digest, sizeof digest, out_file->sha256);
        out_file->bytes = bytes;
    }
    for (size_t i = 0; i < self.count; i++) {
        phi_free(self.names[i]);
    }
    phi_free(self.names);
    phi_free(self.block);
    return status;
}
