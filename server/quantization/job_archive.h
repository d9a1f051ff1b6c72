/*
 * Purpose: unpacks an uploaded .tar of a model folder into a directory of ours.
 * Owns:    nothing that outlives the call. Threads: [job].
 * Errors:  the member is named. What was unpacked before a failure is the caller's to remove.
 * Limits:  PHI_LIMIT_ARCHIVE_ENTRIES members, PHI_LIMIT_ARCHIVE_HEADER_BYTES before the data of
 *          each; no more bytes come out than the archive has.
 *
 * Taken are regular files at the top, or in one top-level folder. Anything that could reach outside
 * (links, devices, absolute names, "..") is refused; folders below are left out and counted.
 */
#ifndef PHI_SERVER_QUANTIZATION_JOB_ARCHIVE_H
#define PHI_SERVER_QUANTIZATION_JOB_ARCHIVE_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Told after each piece; false stops with PHI_E_CANCELLED. */
typedef bool (*phi_job_archive_progress)(void *user, uint64_t bytes_done, uint64_t bytes_total);

phi_status phi_job_unpack(const char *archive_path, const char *dir,
                          phi_job_archive_progress progress, void *user, size_t *out_left_out,
                          phi_err *err) PHI_MUST_CHECK;
/* The text of the folder's config.json, without unpacking anything (phi_free); NULL where there is
 * none, or nothing that would be unpacked as one. */
char *phi_job_archive_config(const char *archive_path, size_t *out_bytes);

#endif
