#include "base/file.h"

#include "base/assert.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static phi_status fail_errno(phi_err *err, const char *doing, const char *path)
{
    int errnum = errno;
    return phi_fail(err, phi_status_of_errno(errnum), "cannot %s %s: %s", doing, path,
                    strerror(errnum));
}

phi_status phi_file_open(const char *path, phi_file *out_file, phi_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return fail_errno(err, "open", path);
    }
    struct stat info;
    if (fstat(fd, &info) != 0) {
        phi_status status = fail_errno(err, "stat", path);
        (void)close(fd);
        return status;
    }
    if (!S_ISREG(info.st_mode)) {
        (void)close(fd);
        return phi_fail(err, PHI_E_INVALID, "%s is not a regular file", path);
    }
    *out_file = (phi_file){.fd = fd, .bytes = (uint64_t)info.st_size, .path = phi_strdup(path)};
    return PHI_OK;
}

phi_status phi_file_of_bytes(const char *name, const void *data, size_t bytes, phi_file *out_file,
                             phi_err *err)
{
    int fd = memfd_create(name, MFD_CLOEXEC);
    if (fd < 0) {
        return fail_errno(err, "make", name);
    }
    const char *at = data;
    for (size_t left = bytes; left > 0;) {
        ssize_t done = write(fd, at, left);
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            phi_status status = fail_errno(err, "write", name);
            (void)close(fd);
            return status;
        }
        at += done;
        left -= (size_t)done;
    }
    *out_file = (phi_file){.fd = fd, .bytes = bytes, .path = phi_strdup(name)};
    return PHI_OK;
}

void phi_file_close(phi_file *file)
{
    if (file && file->path) {
        (void)close(file->fd);
        phi_free(file->path);
        *file = (phi_file){.fd = -1};
    }
}

phi_status phi_file_read_at(const phi_file *file, uint64_t offset, void *data, size_t bytes,
                            phi_err *err)
{
    char *at = data;
    while (bytes > 0) {
        ssize_t got = pread(file->fd, at, bytes, (off_t)offset);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return fail_errno(err, "read", file->path);
        }
        if (got == 0) {
            return phi_fail(err, PHI_E_FORMAT, "%s ends early: %zu bytes missing at offset %llu",
                            file->path, bytes, (unsigned long long)offset);
        }
        at += got;
        offset += (uint64_t)got;
        bytes -= (size_t)got;
    }
    return PHI_OK;
}

void phi_file_forget(const phi_file *file, uint64_t offset, uint64_t bytes)
{
    (void)posix_fadvise(file->fd, (off_t)offset, (off_t)bytes, POSIX_FADV_DONTNEED);
}

phi_status phi_file_read_text(const char *path, size_t max_bytes, char **out_text,
                              size_t *out_bytes, phi_err *err)
{
    phi_file file = {.fd = -1};
    phi_status status = phi_file_open(path, &file, err);
    if (status) {
        return status;
    }
    char *text = NULL;
    if (file.bytes > max_bytes) {
        status = phi_fail(err, PHI_E_LIMIT, "%s has %llu bytes; at most %zu are accepted", path,
                          (unsigned long long)file.bytes, max_bytes);
        goto done;
    }
    text = phi_try_alloc((size_t)file.bytes + 1);
    if (!text) {
        status = phi_fail(err, PHI_E_NO_MEMORY, "not enough memory to read %s", path);
        goto done;
    }
    status = phi_file_read_at(&file, 0, text, (size_t)file.bytes, err);
    if (status) {
        goto done;
    }
    text[file.bytes] = '\0';
    *out_text = text;
    text = NULL;
    if (out_bytes) {
        *out_bytes = (size_t)file.bytes;
    }
done:
    phi_free(text);
    phi_file_close(&file);
    return status;
}

struct phi_file_writer {
    int fd;
    uint64_t bytes;
    char *path;
    char *temporary;
};

phi_status phi_file_writer_create(const char *path, phi_file_writer **out_writer, phi_err *err)
{
    char *temporary = phi_strfmt("%s.tmp-XXXXXX", path);
    int fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0) {
        phi_status status = fail_errno(err, "create", temporary);
        phi_free(temporary);
        return status;
    }
    (void)fchmod(fd, 0640);
    phi_file_writer *writer = phi_alloc_zero(1, sizeof *writer);
    *writer = (phi_file_writer){.fd = fd, .path = phi_strdup(path), .temporary = temporary};
    *out_writer = writer;
    return PHI_OK;
}

static phi_status write_at(phi_file_writer *writer, uint64_t offset, const void *data, size_t bytes,
                           phi_err *err)
{
    const char *at = data;
    while (bytes > 0) {
        ssize_t put = pwrite(writer->fd, at, bytes, (off_t)offset);
        if (put < 0 && errno == EINTR) {
            continue;
        }
        if (put < 0) {
            return fail_errno(err, "write", writer->path);
        }
        at += put;
        offset += (uint64_t)put;
        bytes -= (size_t)put;
    }
    return PHI_OK;
}

phi_status phi_file_writer_append(phi_file_writer *writer, const void *data, size_t bytes,
                                  phi_err *err)
{
    phi_status status = write_at(writer, writer->bytes, data, bytes, err);
    if (!status) {
        writer->bytes += bytes;
    }
    return status;
}

phi_status phi_file_writer_reserve(phi_file_writer *writer, uint64_t bytes, phi_err *err)
{
    PHI_ASSERT(writer->bytes == 0);
    int failed = bytes > INT64_MAX ? EFBIG : 0;
    if (!failed && bytes > 0 && fallocate(writer->fd, 0, 0, (off_t)bytes) != 0) {
        /* Not every file system can: there a full disk is told by the writes. */
        bool cannot = errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL;
        failed = cannot && ftruncate(writer->fd, (off_t)bytes) == 0 ? 0 : errno;
    }
    if (failed) {
        errno = failed;
        return fail_errno(err, "make room for", writer->path);
    }
    writer->bytes = bytes;
    return PHI_OK;
}

phi_status phi_file_writer_patch(phi_file_writer *writer, uint64_t offset, const void *data,
                                 size_t bytes, phi_err *err)
{
    PHI_ASSERT(offset + bytes <= writer->bytes);
    return write_at(writer, offset, data, bytes, err);
}

uint64_t phi_file_writer_bytes(const phi_file_writer *writer)
{
    return writer->bytes;
}

int phi_file_writer_fd(const phi_file_writer *writer)
{
    return writer->fd;
}

static void writer_free(phi_file_writer *writer)
{
    if (writer->fd >= 0) {
        (void)close(writer->fd);
    }
    phi_free(writer->path);
    phi_free(writer->temporary);
    phi_free(writer);
}

static phi_status sync_parent(const char *path, phi_err *err)
{
    const char *slash = strrchr(path, '/');
    char *dir = !slash          ? phi_strdup(".")
                : slash == path ? phi_strdup("/")
                                : phi_strndup(path, (size_t)(slash - path));
    phi_status status = phi_file_sync_dir(dir, err);
    phi_free(dir);
    return status;
}

static phi_status finish(phi_file_writer *writer, bool durable, phi_err *err)
{
    phi_status status = PHI_OK;
    int fd = writer->fd;
    if (durable && fsync(fd) != 0) {
        status = fail_errno(err, "sync", writer->path);
        goto fail;
    }
    writer->fd = -1;
    if (close(fd) != 0) {
        status = fail_errno(err, "close", writer->path);
        goto fail;
    }
    if (rename(writer->temporary, writer->path) != 0) {
        status = fail_errno(err, "rename into place", writer->path);
        goto fail;
    }
    status = durable ? sync_parent(writer->path, err) : PHI_OK;
    writer_free(writer);
    return status;
fail:
    phi_file_writer_abort(writer);
    return status;
}

phi_status phi_file_writer_commit(phi_file_writer *writer, phi_err *err)
{
    return finish(writer, true, err);
}

phi_status phi_file_writer_publish(phi_file_writer *writer, phi_err *err)
{
    return finish(writer, false, err);
}

void phi_file_writer_abort(phi_file_writer *writer)
{
    if (writer) {
        (void)unlink(writer->temporary);
        writer_free(writer);
    }
}

phi_status phi_file_make_dirs(const char *path, phi_err *err)
{
    char *copy = phi_strdup(path);
    phi_status status = PHI_OK;
    for (char *p = copy + 1; *copy && !status; p++) {
        bool last = *p == '\0';
        if (*p != '/' && !last) {
            continue;
        }
        *p = '\0';
        if (mkdir(copy, 0750) != 0 && errno != EEXIST) {
            status = fail_errno(err, "create directory", copy);
        }
        if (last) {
            break;
        }
        *p = '/';
    }
    phi_free(copy);
    if (!status && !phi_file_is_dir(path)) {
        return phi_fail(err, PHI_E_INVALID, "%s is not a directory", path);
    }
    return status;
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *walk)
{
    (void)info;
    (void)kind;
    (void)walk;
    return remove(path) == 0 || errno == ENOENT ? 0 : -1;
}

phi_status phi_file_remove_tree(const char *path, phi_err *err)
{
    /* Physical: a link is removed, never followed. */
    if (nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS) != 0 && errno != ENOENT) {
        return fail_errno(err, "remove", path);
    }
    return PHI_OK;
}

bool phi_file_is_dir(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

bool phi_file_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

phi_status phi_file_sync_dir(const char *path, phi_err *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return fail_errno(err, "open directory", path);
    }
    phi_status status = fsync(fd) == 0 ? PHI_OK : fail_errno(err, "sync directory", path);
    (void)close(fd);
    return status;
}

phi_status phi_file_sweep_temporaries(const char *dir, phi_err *err)
{
    DIR *handle = opendir(dir);
    if (!handle) {
        return fail_errno(err, "list directory", dir);
    }
    phi_status status = PHI_OK;
    for (struct dirent *entry = readdir(handle); entry && !status; entry = readdir(handle)) {
        if (strstr(entry->d_name, ".tmp-") && unlinkat(dirfd(handle), entry->d_name, 0) != 0 &&
            errno != ENOENT) {
            status = fail_errno(err, "remove leftover", entry->d_name);
        }
    }
    (void)closedir(handle);
    return status;
}
