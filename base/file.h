/*
 * Purpose: reading files at an offset and replacing files whole or not at all.
 * Owns:    phi_file owns its descriptor; phi_file_writer owns its descriptor and temporary name.
 * Threads: phi_file_read_at is safe from several threads; a writer belongs to one thread, but
 *          bytes that it has already may be patched by several, each its own.
 * Errors:  the path and the system's reason are in the message; a full disk is PHI_E_NO_SPACE.
 * Limits:  none.
 *
 * A writer creates PATH.tmp-XXXXXX, and commit makes it durable (fsync of file and directory) and
 * renames it to PATH, so that nobody ever sees half a file; publish renames it only. An abandoned
 * temporary file is removed by abort, or after a crash by whoever sweeps the directory for names
 * that contain ".tmp-".
 */
#ifndef PHI_BASE_FILE_H
#define PHI_BASE_FILE_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct phi_file {
    int fd;
    uint64_t bytes; /* length when opened */
    char *path;
} phi_file;

/* Regular files only; a directory, device or pipe is PHI_E_INVALID. */
phi_status phi_file_open(const char *path, phi_file *out_file, phi_err *err) PHI_MUST_CHECK;
/* A file in memory that holds these bytes, for what is read as a file and is none; `name` stands
 * for its path in messages. */
phi_status phi_file_of_bytes(const char *name, const void *data, size_t bytes, phi_file *out_file,
                             phi_err *err) PHI_MUST_CHECK;
void phi_file_close(phi_file *file);
/* Reads exactly `bytes` at `offset`; fewer is PHI_E_FORMAT ("ends early"). */
phi_status phi_file_read_at(const phi_file *file, uint64_t offset, void *data, size_t bytes,
                            phi_err *err) PHI_MUST_CHECK;
/* Tells the kernel that pages of this range will not be needed again. Advice only. */
void phi_file_forget(const phi_file *file, uint64_t offset, uint64_t bytes);
/* The whole file as NUL-terminated text (phi_free); longer than `max_bytes` is PHI_E_LIMIT. */
phi_status phi_file_read_text(const char *path, size_t max_bytes, char **out_text,
                              size_t *out_bytes, phi_err *err) PHI_MUST_CHECK;

typedef struct phi_file_writer phi_file_writer;

phi_status phi_file_writer_create(const char *path, phi_file_writer **out_writer,
                                  phi_err *err) PHI_MUST_CHECK;
phi_status phi_file_writer_append(phi_file_writer *writer, const void *data, size_t bytes,
                                  phi_err *err) PHI_MUST_CHECK;
/* Makes the file `bytes` long at once, zeros for now, to be patched: a disk that has no room for it
 * says so here where the file system can tell. Before anything is appended. */
phi_status phi_file_writer_reserve(phi_file_writer *writer, uint64_t bytes,
                                   phi_err *err) PHI_MUST_CHECK;
/* Overwrites bytes already written or reserved. */
phi_status phi_file_writer_patch(phi_file_writer *writer, uint64_t offset, const void *data,
                                 size_t bytes, phi_err *err) PHI_MUST_CHECK;
uint64_t phi_file_writer_bytes(const phi_file_writer *writer);
/* The descriptor, to map what is being written; the writer's own, until it is destroyed. */
int phi_file_writer_fd(const phi_file_writer *writer);
/* Makes the file visible and durable, and destroys the writer either way. */
phi_status phi_file_writer_commit(phi_file_writer *writer, phi_err *err) PHI_MUST_CHECK;
/* The same without waiting for the disk: after a crash of the machine the file may be there and
 * hold anything. For what can be made again, and is checked when it is read. */
phi_status phi_file_writer_publish(phi_file_writer *writer, phi_err *err) PHI_MUST_CHECK;
/* Removes the temporary file and destroys the writer; accepts NULL. */
void phi_file_writer_abort(phi_file_writer *writer);

/* mkdir -p with mode 0750. */
phi_status phi_file_make_dirs(const char *path, phi_err *err) PHI_MUST_CHECK;
/* Removes a directory with all that is in it; links are removed, never followed. One that is not
 * there is no failure. */
phi_status phi_file_remove_tree(const char *path, phi_err *err) PHI_MUST_CHECK;
bool phi_file_is_dir(const char *path);
bool phi_file_exists(const char *path);
/* fsync of a directory, so that names in it survive a power cut. */
phi_status phi_file_sync_dir(const char *path, phi_err *err) PHI_MUST_CHECK;
/* Removes leftovers of interrupted writers (names containing ".tmp-") right inside `dir`. */
phi_status phi_file_sweep_temporaries(const char *dir, phi_err *err) PHI_MUST_CHECK;

#endif
