/*
 * Purpose: a folder that was written for another runtime as one .tar, which is what can be
 *          downloaded, and what a quantization job takes as a source.
 * Owns:    nothing that outlives the call. Threads: [job].
 * Errors:  the file is named; PHI_E_CANCELLED when the progress callback says stop. There is no
 *          archive then.
 * Limits:  PHI_LIMIT_ARCHIVE_ENTRIES files; a block of memory, whatever their length.
 */
#ifndef PHI_SERVER_QUANTIZATION_JOB_PACK_H
#define PHI_SERVER_QUANTIZATION_JOB_PACK_H

#include "base/status.h"
#include "server/store/store.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct phi_job_pack_options {
    const char *dir;      /* regular files; each is removed once it is in the archive */
    const char *folder;   /* the name of their folder there */
    const char *out_path; /* appears whole, and is on the disk then */
    int64_t time_s;       /* of all files, so that the same bytes come of the same job */
    /* Told after each block; false stops. */
    bool (*progress)(void *user, uint64_t bytes_done, uint64_t bytes_total);
    void *user;
} phi_job_pack_options;

/* Fills the row's `bytes` and `sha256`. */
phi_status phi_job_pack(const phi_job_pack_options *options, phi_store_file *out_file,
                        phi_err *err) PHI_MUST_CHECK;

#endif
