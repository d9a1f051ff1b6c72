#include "server/quantization/job_archive.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <archive.h>
#include <archive_entry.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "config/limits.h"

#define BLOCK_BYTES (64U << 10)

/* An archive, read member by member. */
typedef struct tar {
    struct archive *archive;
    int fd;
    uint64_t bytes;
    uint64_t left; /* bytes that may be read until the next member's data */
    size_t members;
    char *block; /* what libarchive reads from */
} tar;

typedef struct unpacking {
    tar tar;
    int dir_fd;
    uint64_t bytes_done;
    char folder[PHI_LIMIT_NAME_BYTES + 1]; /* "": files are at the top */
    bool folder_known;
    size_t files;
    size_t left_out;
    char *block;
    phi_job_archive_progress progress;
    void *user;
} unpacking;

/* One step of a member's path. */
typedef struct part {
    const char *text;
    size_t bytes;
} part;

static bool part_good(part name)
{
    bool good = name.bytes > 0 && name.bytes <= PHI_LIMIT_NAME_BYTES &&
                !(name.bytes == 2 && memcmp(name.text, "..", 2) == 0) &&
                phi_utf8_valid(name.text, name.bytes);
    for (size_t i = 0; i < name.bytes && good; i++) {
        unsigned char c = (unsigned char)name.text[i];
        good = c >= 0x20 && c != 0x7f && c != '\\';
    }
    return good;
}

/* Splits "./a/b/" into its steps; false for a path that could lead elsewhere. */
static bool split_path(const char *path, part parts[3], size_t *out_count)
{
    size_t count = 0;
    if (path[0] == '/') {
        return false;
    }
    while (*path) {
        size_t bytes = strcspn(path, "/");
        part step = {path, bytes};
        bool skip = bytes == 0 || (bytes == 1 && path[0] == '.');
        if (!skip && !part_good(step)) {
            return false;
        }
        if (!skip && count < 3) {
            parts[count++] = step;
        }
        path += bytes + (path[bytes] == '/');
    }
    *out_count = count;
    return true;
}

/* ---- reading ---- */

static phi_status fail_archive(const tar *self, phi_err *err)
{
    const char *reason = self->archive ? archive_error_string(self->archive) : NULL;
    return phi_fail(err, PHI_E_FORMAT, "the archive cannot be read as a plain .tar: %s",
                    reason ? reason : "it is malformed");
}

static la_ssize_t read_block(struct archive *archive, void *user, const void **out_block)
{
    tar *self = user;
    uint64_t most = self->left < BLOCK_BYTES ? self->left : BLOCK_BYTES;
    if (most == 0) {
        archive_set_error(archive, E2BIG, "the headers of member %zu take more than %u KiB",
                          self->members + 1, PHI_LIMIT_ARCHIVE_HEADER_BYTES >> 10);
        return -1;
    }
    ssize_t got = 0;
    do {
        got = read(self->fd, self->block, (size_t)most);
    } while (got < 0 && errno == EINTR);
    if (got < 0) {
        archive_set_error(archive, errno, "%s", strerror(errno));
        return -1;
    }
    self->left -= self->left == UINT64_MAX ? 0 : (uint64_t)got;
    *out_block = self->block;
    return got;
}

/* No further than the end, so that a member that is cut short is noticed. */
static la_int64_t skip_bytes(struct archive *archive, void *user, la_int64_t bytes)
{
    tar *self = user;
    (void)archive;
    off_t at = lseek(self->fd, 0, SEEK_CUR);
    if (at < 0 || bytes <= 0 || (uint64_t)at >= self->bytes) {
        return 0;
    }
    uint64_t rest = self->bytes - (uint64_t)at;
    la_int64_t step = (uint64_t)bytes < rest ? bytes : (la_int64_t)rest;
    return lseek(self->fd, step, SEEK_CUR) < 0 ? 0 : step;
}

static phi_status open_tar(const char *path, tar *self, phi_err *err)
{
    struct stat info;
    *self = (tar){.fd = open(path, O_RDONLY | O_CLOEXEC), .left = UINT64_MAX};
    if (self->fd < 0 || fstat(self->fd, &info) != 0) {
        return phi_fail(err, phi_status_of_errno(errno), "the archive's bytes are missing: %s",
                        strerror(errno));
    }
    self->bytes = (uint64_t)info.st_size;
    self->block = phi_alloc(BLOCK_BYTES);
    self->archive = archive_read_new();
    /* No compression: what comes out is bounded by what was uploaded. */
    if (!self->archive || archive_read_support_filter_none(self->archive) != ARCHIVE_OK ||
        archive_read_support_format_tar(self->archive) != ARCHIVE_OK) {
        return phi_fail(err, PHI_E_NO_MEMORY, "not enough memory to unpack");
    }
    (void)archive_read_set_read_callback(self->archive, read_block);
    (void)archive_read_set_skip_callback(self->archive, skip_bytes);
    (void)archive_read_set_callback_data(self->archive, self);
    return archive_read_open1(self->archive) == ARCHIVE_OK ? PHI_OK : fail_archive(self, err);
}

static void close_tar(tar *self)
{
    if (self->archive) {
        (void)archive_read_free(self->archive);
    }
    if (self->fd >= 0) {
        (void)close(self->fd);
    }
    phi_free(self->block);
}

/* The next member, or NULL at the end. */
static phi_status next_member(tar *self, struct archive_entry **out_entry, phi_err *err)
{
    /* What is left of the last one is none of the next one's headers. */
    if (self->members > 0 && archive_read_data_skip(self->archive) < ARCHIVE_WARN) {
        return fail_archive(self, err);
    }
    *out_entry = NULL;
    self->left = PHI_LIMIT_ARCHIVE_HEADER_BYTES;
    int code = archive_read_next_header(self->archive, out_entry);
    self->left = UINT64_MAX;
    if (code == ARCHIVE_EOF) {
        *out_entry = NULL;
        return PHI_OK;
    }
    /* A warning goes with every member that it can make something of. Where it gave up there is no
     * type, which a hard link has not either. */
    bool is_known = *out_entry &&
                    (archive_entry_filetype(*out_entry) != 0 || archive_entry_hardlink(*out_entry));
    if ((code != ARCHIVE_OK && code != ARCHIVE_WARN) || !is_known) {
        return fail_archive(self, err);
    }
    if (self->members++ == PHI_LIMIT_ARCHIVE_ENTRIES) {
        return phi_fail(err, PHI_E_LIMIT, "the archive holds more than %u members",
                        PHI_LIMIT_ARCHIVE_ENTRIES);
    }
    return PHI_OK;
}

static const char *path_of(struct archive_entry *entry)
{
    const char *path = archive_entry_pathname_utf8(entry);
    return path ? path : archive_entry_pathname(entry);
}

static bool is_file(struct archive_entry *entry)
{
    return archive_entry_filetype(entry) == AE_IFREG && !archive_entry_hardlink(entry) &&
           !archive_entry_symlink(entry);
}

/* ---- unpacking ---- */

/* Writes the current member to `name` in the directory. */
static phi_status write_member(unpacking *self, const char *name, phi_err *err)
{
    int fd = openat(self->dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (fd < 0) {
        return errno == EEXIST ? phi_fail(err, PHI_E_FORMAT, "the archive holds '%s' twice", name)
                               : phi_fail(err, phi_status_of_errno(errno), "cannot unpack '%s': %s",
                                          name, strerror(errno));
    }
    phi_status status = PHI_OK;
    while (!status) {
        la_ssize_t got = archive_read_data(self->tar.archive, self->block, BLOCK_BYTES);
        if (got <= 0) {
            status = got < 0 ? fail_archive(&self->tar, err) : PHI_OK;
            break;
        }
        self->bytes_done += (uint64_t)got;
        if (self->bytes_done > self->tar.bytes) {
            status = phi_fail(err, PHI_E_LIMIT,
                              "the archive unpacks to more bytes than it has; sparse members are "
                              "not accepted");
        } else if (!self->progress(self->user, self->bytes_done, self->tar.bytes)) {
            status = phi_fail(err, PHI_E_CANCELLED, "stopped while unpacking");
        }
        for (la_ssize_t at = 0; at < got && !status;) {
            ssize_t put = write(fd, self->block + at, (size_t)(got - at));
            if (put < 0 && errno != EINTR) {
                status = phi_fail(err, phi_status_of_errno(errno), "cannot unpack '%s': %s", name,
                                  strerror(errno));
            }
            at += put > 0 ? put : 0;
        }
    }
    if (close(fd) != 0 && !status) {
        status = phi_fail(err, phi_status_of_errno(errno), "cannot unpack '%s': %s", name,
                          strerror(errno));
    }
    return status;
}

/* Files stand either at the top or in one folder; decides with the first of them. */
static phi_status check_place(unpacking *self, const part *parts, size_t count, bool *out_take,
                              phi_err *err)
{
    char folder[PHI_LIMIT_NAME_BYTES + 1] = "";
    if (count > 1) {
        (void)snprintf(folder, sizeof folder, "%.*s", (int)parts[0].bytes, parts[0].text);
    }
    if (count <= 2 && !self->folder_known) {
        (void)snprintf(self->folder, sizeof self->folder, "%s", folder);
        self->folder_known = true;
    }
    bool below = count > 2 || (self->folder_known && !self->folder[0] && count == 2);
    *out_take = !below;
    if (below) {
        self->left_out++;
        return PHI_OK;
    }
    if (strcmp(folder, self->folder) != 0) {
        return phi_fail(
            err, PHI_E_FORMAT,
            "the archive must hold one folder or only files; it has '%.60s' and '%.60s'",
            self->folder[0] ? self->folder : ".", folder[0] ? folder : ".");
    }
    return PHI_OK;
}

static phi_status take_entry(unpacking *self, struct archive_entry *entry, phi_err *err)
{
    const char *path = path_of(entry);
    part parts[3];
    size_t count = 0;
    if (!path || !split_path(path, parts, &count)) {
        return phi_fail(err, PHI_E_FORMAT,
                        "the archive holds '%.100s'; names must be relative, without '..' and "
                        "control characters",
                        path && phi_utf8_valid(path, strlen(path)) ? path
                                                                   : "a name that is not "
                                                                     "UTF-8");
    }
    if (archive_entry_filetype(entry) == AE_IFDIR) {
        return PHI_OK;
    }
    if (!is_file(entry) || count == 0) {
        return phi_fail(err, PHI_E_FORMAT,
                        "the archive's member '%.100s' is not a regular file; links and devices "
                        "are not accepted",
                        path);
    }
    bool take = false;
    phi_status status = check_place(self, parts, count, &take, err);
    if (status || !take) {
        return status;
    }
    char name[PHI_LIMIT_NAME_BYTES + 1];
    (void)snprintf(name, sizeof name, "%.*s", (int)parts[count - 1].bytes, parts[count - 1].text);
    self->files++;
    uint64_t before = self->bytes_done;
    status = write_member(self, name, err);
    if (!status && self->bytes_done - before != (uint64_t)archive_entry_size(entry)) {
        status = phi_fail(err, PHI_E_FORMAT,
                          "the archive's member '%s' has fewer bytes than it says; sparse members "
                          "are not accepted",
                          name);
    }
    return status;
}

static phi_status take_entries(unpacking *self, phi_err *err)
{
    for (;;) {
        struct archive_entry *entry = NULL;
        phi_status status = next_member(&self->tar, &entry, err);
        if (status || !entry) {
            return status || self->files > 0
                       ? status
                       : phi_fail(err, PHI_E_FORMAT, "the archive holds no files");
        }
        status = take_entry(self, entry, err);
        if (status) {
            return status;
        }
    }
}

phi_status phi_job_unpack(const char *archive_path, const char *dir,
                          phi_job_archive_progress progress, void *user, size_t *out_left_out,
                          phi_err *err)
{
    unpacking self = {.dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC),
                      .progress = progress,
                      .user = user};
    if (self.dir_fd < 0) {
        return phi_fail(err, phi_status_of_errno(errno), "cannot unpack: %s", strerror(errno));
    }
    self.block = phi_alloc(BLOCK_BYTES);
    phi_status status = open_tar(archive_path, &self.tar, err);
    status = status ? status : take_entries(&self, err);
    close_tar(&self.tar);
    (void)close(self.dir_fd);
    phi_free(self.block);
    *out_left_out = self.left_out;
    return status;
}

/* ---- looking ---- */

static bool is_config(struct archive_entry *entry)
{
    static const char name[] = "config.json";
    const char *path = path_of(entry);
    part parts[3];
    size_t count = 0;
    if (!path || !is_file(entry) || !split_path(path, parts, &count) || count == 0 || count > 2) {
        return false;
    }
    const part *last = &parts[count - 1];
    return last->bytes == sizeof name - 1 && memcmp(last->text, name, last->bytes) == 0;
}

char *phi_job_archive_config(const char *archive_path, size_t *out_bytes)
{
    tar self;
    struct archive_entry *entry = NULL;
    char *text = NULL;
    phi_status status = open_tar(archive_path, &self, NULL);
    while (!status && !(status = next_member(&self, &entry, NULL)) && entry && !is_config(entry)) {
    }
    la_int64_t bytes = !status && entry ? archive_entry_size(entry) : 0;
    if (bytes > 0 && bytes <= PHI_LIMIT_CONFIG_JSON_BYTES) {
        text = phi_alloc((size_t)bytes);
        if (archive_read_data(self.archive, text, (size_t)bytes) != bytes) {
            phi_free(text);
            text = NULL;
        }
    }
    close_tar(&self);
    *out_bytes = text ? (size_t)bytes : 0;
    return text;
}
