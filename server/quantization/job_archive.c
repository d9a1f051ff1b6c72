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

#define BLOCK_BYTES (1U << 20)

typedef struct unpacking {
    struct archive *archive;
    int dir_fd;
    uint64_t archive_bytes;
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

static phi_status fail_archive(unpacking *self, phi_err *err)
{
    const char *reason = archive_error_string(self->archive);
    return phi_fail(err, PHI_E_FORMAT, "the archive cannot be read as a plain .tar: %s",
                    reason ? reason : "it is malformed");
}

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
        la_ssize_t got = archive_read_data(self->archive, self->block, BLOCK_BYTES);
        if (got <= 0) {
            status = got < 0 ? fail_archive(self, err) : PHI_OK;
            break;
        }
        self->bytes_done += (uint64_t)got;
        if (self->bytes_done > self->archive_bytes) {
            status = phi_fail(err, PHI_E_LIMIT,
                              "the archive unpacks to more bytes than it has; sparse members are "
                              "not accepted");
        } else if (!self->progress(self->user, self->bytes_done, self->archive_bytes)) {
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
    const char *path = archive_entry_pathname_utf8(entry);
    path = path ? path : archive_entry_pathname(entry);
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
    if (archive_entry_filetype(entry) != AE_IFREG || archive_entry_hardlink(entry) ||
        archive_entry_symlink(entry) || count == 0) {
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
    for (size_t i = 0;; i++) {
        struct archive_entry *entry = NULL;
        int code = archive_read_next_header(self->archive, &entry);
        if (code == ARCHIVE_EOF) {
            break;
        }
        if (code != ARCHIVE_OK && code != ARCHIVE_WARN) {
            return fail_archive(self, err);
        }
        if (i == PHI_LIMIT_ARCHIVE_ENTRIES) {
            return phi_fail(err, PHI_E_LIMIT, "the archive holds more than %u members",
                            PHI_LIMIT_ARCHIVE_ENTRIES);
        }
        phi_status status = take_entry(self, entry, err);
        if (status) {
            return status;
        }
    }
    return self->files > 0 ? PHI_OK : phi_fail(err, PHI_E_FORMAT, "the archive holds no files");
}

phi_status phi_job_unpack(const char *archive_path, const char *dir,
                          phi_job_archive_progress progress, void *user, size_t *out_left_out,
                          phi_err *err)
{
    struct stat info;
    if (stat(archive_path, &info) != 0) {
        return phi_fail(err, phi_status_of_errno(errno), "the archive's bytes are missing: %s",
                        strerror(errno));
    }
    unpacking self = {.dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC),
                      .archive_bytes = (uint64_t)info.st_size,
                      .progress = progress,
                      .user = user};
    if (self.dir_fd < 0) {
        return phi_fail(err, phi_status_of_errno(errno), "cannot unpack: %s", strerror(errno));
    }
    phi_status status = PHI_OK;
    self.block = phi_alloc(BLOCK_BYTES);
    self.archive = archive_read_new();
    /* No compression: what comes out is bounded by what was uploaded. */
    if (!self.archive || archive_read_support_filter_none(self.archive) != ARCHIVE_OK ||
        archive_read_support_format_tar(self.archive) != ARCHIVE_OK) {
        status = phi_fail(err, PHI_E_NO_MEMORY, "not enough memory to unpack");
    } else if (archive_read_open_filename(self.archive, archive_path, BLOCK_BYTES) != ARCHIVE_OK) {
        status = fail_archive(&self, err);
    } else {
        status = take_entries(&self, err);
    }
    (void)archive_read_free(self.archive);
    (void)close(self.dir_fd);
    phi_free(self.block);
    *out_left_out = self.left_out;
    return status;
}
