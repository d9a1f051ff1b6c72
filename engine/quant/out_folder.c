#include "engine/quant/out_folder.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"

static phi_status fail_errno(phi_err *err, const char *doing, const char *path)
{
    int errnum = errno;
    return phi_fail(err, phi_status_of_errno(errnum), "cannot %s %s: %s", doing, path,
                    strerror(errnum));
}

static bool is_dot(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

static phi_status check_empty(const char *path, phi_err *err)
{
    DIR *handle = opendir(path);
    if (!handle) {
        return fail_errno(err, "list directory", path);
    }
    phi_status status = PHI_OK;
    for (struct dirent *entry = readdir(handle); entry && !status; entry = readdir(handle)) {
        if (!is_dot(entry->d_name)) {
            status = phi_fail(err, PHI_E_INVALID,
                              "%s is not empty (it has '%.60s'); name an empty folder or one that "
                              "does not exist yet",
                              path, entry->d_name);
        }
    }
    (void)closedir(handle);
    return status;
}

/* The folder that it will lie in, made where there is none. */
static phi_status make_parent(const char *path, phi_err *err)
{
    const char *slash = strrchr(path, '/');
    if (!slash || slash == path) {
        return PHI_OK;
    }
    char *parent = phi_strndup(path, (size_t)(slash - path));
    phi_status status = phi_file_make_dirs(parent, err);
    phi_free(parent);
    return status;
}

static phi_status make_folder(const char *path, phi_err *err)
{
    return mkdir(path, 0750) == 0 ? PHI_OK : fail_errno(err, "create directory", path);
}

phi_status phi_out_folder_make(phi_out_folder *folder, const char *path, phi_err *err)
{
    char id[32];
    size_t bytes = strlen(path);
    *folder = (phi_out_folder){.path = NULL};
    if (bytes == 0) {
        return phi_fail(err, PHI_E_INVALID, "the folder to write has no name");
    }
    while (bytes > 1 && path[bytes - 1] == '/') {
        bytes--;
    }
    char *name = phi_strndup(path, bytes);
    folder->path = name;
    folder->is_there = phi_file_is_dir(name);
    phi_status status = PHI_OK;
    if (folder->is_there) {
        status = check_empty(name, err);
    } else if (phi_file_exists(name)) {
        status = phi_fail(err, PHI_E_INVALID, "%s is a file; name the folder to write", name);
    } else {
        status = make_parent(name, err);
    }
    phi_random_id("", id, sizeof id);
    char *work = phi_strfmt(folder->is_there ? "%s/.tmp-%s" : "%s.tmp-%s", name, id);
    status = status ? status : make_folder(work, err);
    if (status) {
        phi_free(work);
    } else {
        folder->work = work;
        folder->made = phi_strfmt("%s/made", work);
        folder->scratch = phi_strfmt("%s/scratch", work);
        status = make_folder(folder->made, err);
        status = status ? status : make_folder(folder->scratch, err);
    }
    return status;
}

/* Moves each entry of `made` up into the folder that is there. */
static phi_status move_entries(const phi_out_folder *folder, phi_err *err)
{
    DIR *handle = opendir(folder->made);
    if (!handle) {
        return fail_errno(err, "list directory", folder->made);
    }
    phi_status status = PHI_OK;
    for (struct dirent *entry = readdir(handle); entry && !status; entry = readdir(handle)) {
        if (!is_dot(entry->d_name)) {
            char *from = phi_strfmt("%s/%s", folder->made, entry->d_name);
            char *to = phi_strfmt("%s/%s", folder->path, entry->d_name);
            status = rename(from, to) == 0 ? PHI_OK : fail_errno(err, "rename to", to);
            phi_free(from);
            phi_free(to);
        }
    }
    (void)closedir(handle);
    return status ? status : phi_file_sync_dir(folder->path, err);
}

phi_status phi_out_folder_publish(phi_out_folder *folder, phi_err *err)
{
    phi_status status = phi_file_sync_dir(folder->made, err);
    if (status || folder->is_there) {
        return status ? status : move_entries(folder, err);
    }
    return rename(folder->made, folder->path) == 0 ? PHI_OK
                                                   : fail_errno(err, "rename to", folder->path);
}

void phi_out_folder_done(phi_out_folder *folder)
{
    if (folder->work) {
        phi_err err = {0};
        if (phi_file_remove_tree(folder->work, &err)) {
            phi_log(PHI_LOG_DEBUG, "quant", "leftover_not_removed", "reason=%s", err.message);
        }
    }
    phi_free(folder->path);
    phi_free(folder->work);
    phi_free(folder->made);
    phi_free(folder->scratch);
    *folder = (phi_out_folder){0};
}
