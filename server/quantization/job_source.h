/*
 * Purpose: what a job reads: from the request to references in the store, and from those to the
 *          file or directory that the engine opens.
 * Owns:    nothing that outlives the call; what prepare makes lies in the job's work directory.
 * Threads: [job].
 * Errors:  the file or parameter is named.
 * Limits:  PHI_LIMIT_JOB_FILES.
 */
#ifndef PHI_SERVER_QUANTIZATION_JOB_SOURCE_H
#define PHI_SERVER_QUANTIZATION_JOB_SOURCE_H

#include "base/status.h"
#include "server/app.h"
#include "server/quantization/job_archive.h"
#include "server/quantization/job_request.h"
#include "server/store/store.h"

/* Finds and checks what the request names; phi_store_sources_free. */
phi_status phi_job_source_resolve(phi_app *app, const phi_job_request *request,
                                  phi_store_source **out_sources, size_t *out_count,
                                  phi_err *err) PHI_MUST_CHECK;

typedef struct phi_job_prepared {
    char *path;      /* for phi_engine_quantize */
    char *eval_text; /* NULL: none given */
    size_t eval_bytes;
    size_t left_out; /* members of an archive that were not taken */
} phi_job_prepared;

/* Links or unpacks the sources below `work_dir`, which exists. phi_job_prepared_done. */
phi_status phi_job_source_prepare(phi_app *app, const char *work_dir,
                                  const phi_store_source *sources, size_t n_sources,
                                  phi_job_archive_progress progress, void *user,
                                  phi_job_prepared *out_prepared, phi_err *err) PHI_MUST_CHECK;
void phi_job_prepared_done(phi_job_prepared *prepared);

#endif
