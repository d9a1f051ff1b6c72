/*
 * Purpose: what survives a restart: uploaded files, models, jobs (quantization and export) and
 *          their events.
 * Owns:    data_dir: the database, blobs/ (one file per content, named by its SHA-256), packed/
 *          (weights as the engine maps them, named by the SHA-256 of their model), incoming/
 *          (uploads going on) and work/ (scratch of running jobs). Nobody else writes there.
 * Threads: [any] for what only reads; [job] for what writes, as a write waits for the disk. Readers
 *          have a connection of their own and never wait for a writer (SQLite's WAL).
 * Errors:  PHI_E_NOT_FOUND, PHI_E_NO_SPACE for a full disk, else PHI_E_IO with SQLite's words.
 * Limits:  PHI_LIMIT_NAME_BYTES, PHI_LIMIT_UPLOADS_OPEN, PHI_LIMIT_JOBS_KEPT,
 *          PHI_LIMIT_JOB_EVENTS.
 *
 * A blob lives as long as a row of files, models, job_files or model_files names it: references
 * are counted by looking, so that there is no counter that could be wrong. Publishing a blob and
 * letting go of the last reference both happen under the writer's lock, file and rows together, so
 * that the same content can be deleted and uploaded at the same time.
 */
#ifndef PHI_SERVER_STORE_STORE_H
#define PHI_SERVER_STORE_STORE_H

#include "base/status.h"
#include "config/limits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PHI_STORE_ID_BYTES 40 /* "qjob-" and 24 digits, with room */
#define PHI_STORE_SHA_BYTES 65

typedef struct phi_store phi_store;

/* Opens or creates; removes what a crash left half-done, and logs what it found. Takes an
 * exclusive lock on data_dir: a second daemon is refused with PHI_E_STATE. */
phi_status phi_store_open(const char *data_dir, phi_store **out_store, phi_err *err) PHI_MUST_CHECK;
void phi_store_close(phi_store *store);

/* Fresh strings (phi_free). */
char *phi_store_blob_path(const phi_store *store, const char *sha256);
char *phi_store_packed_path(const phi_store *store, const char *sha256);
char *phi_store_incoming_path(const phi_store *store, const char *upload_id);
char *phi_store_work_path(const phi_store *store, const char *job_id);

/* A page of a list: entries after the one with id `after` (NULL: from the start). */
typedef struct phi_store_page {
    const char *after;
    size_t limit;   /* 1..PHI_LIMIT_PAGE */
    bool ascending; /* oldest first; lists of OpenAI are newest first */
} phi_store_page;

/* ---- files ---- */

typedef struct phi_store_file {
    char id[PHI_STORE_ID_BYTES];
    int64_t created_s;
    char filename[PHI_LIMIT_NAME_BYTES + 1];
    char purpose[16];
    char sha256[PHI_STORE_SHA_BYTES];
    uint64_t bytes;
} phi_store_file;

/* [any] */
phi_status phi_store_file_get(phi_store *store, const char *id, phi_store_file *out_file,
                              phi_err *err) PHI_MUST_CHECK;
/* [any] `purpose` may be NULL; `out_files` holds page->limit. */
phi_status phi_store_file_list(phi_store *store, const char *purpose, const phi_store_page *page,
                               phi_store_file *out_files, size_t *out_count, bool *out_more,
                               phi_err *err) PHI_MUST_CHECK;
/* [job] Moves a finished, synced file into blobs/ and adds the row; `upload_id` (or NULL) names
 * the upload that this ends. On failure the file is where it was. */
phi_status phi_store_file_publish(phi_store *store, const char *path, const char *upload_id,
                                  const phi_store_file *file, phi_err *err) PHI_MUST_CHECK;
/* [job] */
phi_status phi_store_file_delete(phi_store *store, const char *id, phi_err *err) PHI_MUST_CHECK;

/* ---- uploads that can be resumed ---- */

typedef struct phi_store_upload {
    char id[PHI_STORE_ID_BYTES];
    uint64_t client; /* who: phi_request_client */
    char filename[PHI_LIMIT_NAME_BYTES + 1];
    char purpose[16];
    uint64_t total_bytes;
    uint64_t received_bytes; /* filled by find */
} phi_store_upload;

/* [any] The upload that `key`'s client, filename and purpose name. */
phi_status phi_store_upload_find(phi_store *store, const phi_store_upload *key,
                                 phi_store_upload *out_upload, phi_err *err) PHI_MUST_CHECK;
/* [any] One request at a time may write to an upload: false when another does. */
bool phi_store_upload_claim(phi_store *store, const phi_store_upload *key);
void phi_store_upload_unclaim(phi_store *store, const phi_store_upload *key);
/* [job] Adds the upload, in place of an older one of the same name. */
phi_status phi_store_upload_add(phi_store *store, const phi_store_upload *upload,
                                phi_err *err) PHI_MUST_CHECK;
/* [job] Forgets it and its bytes. */
phi_status phi_store_upload_drop(phi_store *store, const char *id, phi_err *err) PHI_MUST_CHECK;

/* ---- models ---- */

typedef struct phi_store_model {
    char name[PHI_LIMIT_NAME_BYTES];
    char precision[8];
    char sha256[PHI_STORE_SHA_BYTES];
    uint64_t bytes;
    int64_t created_s;
    uint32_t context_length;
    char architecture[32];
    char *quality; /* JSON text or NULL; owned */
} phi_store_model;

/* [any] All, in the order in which they were first added; phi_store_models_free. */
phi_status phi_store_model_list(phi_store *store, phi_store_model **out_models, size_t *out_count,
                                phi_err *err) PHI_MUST_CHECK;
void phi_store_models_free(phi_store_model *models, size_t count);
/* [job] Also the source files, with the last precision of a name. */
phi_status phi_store_model_delete(phi_store *store, const char *name, const char *precision,
                                  phi_err *err) PHI_MUST_CHECK;

/* [job] Whoever has made packed/SHA256 says so here: when the model has been deleted meanwhile, it
 * goes. Otherwise it goes with the last model of that content. */
void phi_store_packed_settle(phi_store *store, const char *sha256);
/* [job] Removes all of packed/. Nothing is being loaded. */
void phi_store_packed_clear(phi_store *store);

/* ---- jobs ---- */

/* Numbers are stored. */
typedef enum phi_job_kind {
    PHI_JOB_QUANTIZATION, /* from a source to a model */
    PHI_JOB_EXPORT,       /* from a model to a file of another ecosystem */
} phi_job_kind;

typedef enum phi_job_status {
    PHI_JOB_QUEUED,
    PHI_JOB_RUNNING,
    PHI_JOB_SUCCEEDED,
    PHI_JOB_FAILED,
    PHI_JOB_CANCELLED,
} phi_job_status;

const char *phi_job_status_name(phi_job_status status);
bool phi_job_status_ended(phi_job_status status);

typedef struct phi_store_job {
    char id[PHI_STORE_ID_BYTES];
    phi_job_kind kind;
    phi_job_status status;
    bool cancel; /* somebody asked for it to stop */
    int64_t created_s;
    int64_t started_s;                /* 0: not yet */
    int64_t finished_s;               /* 0: not yet */
    char model[PHI_LIMIT_NAME_BYTES]; /* that it makes; an export: that it reads */
    char precision[8];
    char stage[16];
    double progress;
    uint64_t bytes_done;
    uint64_t bytes_total;
    char *request; /* JSON text: the options; owned */
    char *result;  /* JSON text: what is shown beside that once it has ended; or NULL; owned */
} phi_store_job;

/* What a job reads: a stored file, or a path on this machine. */
typedef struct phi_store_source {
    char role[8]; /* "model" or "eval" */
    char filename[PHI_LIMIT_NAME_BYTES + 1];
    char sha256[PHI_STORE_SHA_BYTES]; /* "": see path */
    uint64_t bytes;
    char *path; /* owned; NULL for a stored file */
} phi_store_source;

void phi_store_job_done(phi_store_job *job);
void phi_store_sources_free(phi_store_source *sources, size_t count);
/* [any] Files by id; the first unknown id is named. */
phi_status phi_store_source_of_file(phi_store *store, const char *file_id, const char *role,
                                    phi_store_source *out_source, phi_err *err) PHI_MUST_CHECK;
/* [any] What model `name` was made from; PHI_E_NOT_FOUND when that is not stored. */
phi_status phi_store_model_sources(phi_store *store, const char *name,
                                   phi_store_source **out_sources, size_t *out_count,
                                   phi_err *err) PHI_MUST_CHECK;
/* [job] Adds the job and its references; a blob that has gone since is PHI_E_NOT_FOUND, and too
 * many unfinished jobs are PHI_E_BUSY. */
phi_status phi_store_job_add(phi_store *store, const phi_store_job *job,
                             const phi_store_source *sources, size_t n_sources,
                             phi_err *err) PHI_MUST_CHECK;
/* [any] phi_store_job_done. */
phi_status phi_store_job_get(phi_store *store, phi_job_kind kind, const char *id,
                             phi_store_job *out_job, phi_err *err) PHI_MUST_CHECK;
/* [any] Those of a kind; `out_jobs` holds page->limit. */
phi_status phi_store_job_list(phi_store *store, phi_job_kind kind, const phi_store_page *page,
                              phi_store_job *out_jobs, size_t *out_count, bool *out_more,
                              phi_err *err) PHI_MUST_CHECK;
/* [any] Those of all kinds that are queued or running. */
phi_status phi_store_job_unfinished(phi_store *store, const phi_store_page *page,
                                    phi_store_job *out_jobs, size_t *out_count, bool *out_more,
                                    phi_err *err) PHI_MUST_CHECK;
/* [any] phi_store_sources_free. */
phi_status phi_store_job_sources(phi_store *store, const char *id, phi_store_source **out_sources,
                                 size_t *out_count, phi_err *err) PHI_MUST_CHECK;
/* [job] Status, times, progress and result; an ended job lets go of its sources. */
phi_status phi_store_job_update(phi_store *store, const phi_store_job *job,
                                phi_err *err) PHI_MUST_CHECK;
/* What a job made: a finished, synced file at `path`, and the row that it gets. */
typedef struct phi_store_artifact {
    char *path; /* owned */
    phi_store_file file;
} phi_store_artifact;

/* [job] Success, all or nothing: the artifacts become files, and the job is updated. `model` (or
 * NULL) is shown as well, and gets the job's sources. */
phi_status phi_store_job_complete(phi_store *store, const phi_store_job *job,
                                  const phi_store_artifact *artifacts, size_t n_artifacts,
                                  const phi_store_model *model, phi_err *err) PHI_MUST_CHECK;
/* [job] Remembers the wish. PHI_E_STATE when the job has ended. */
phi_status phi_store_job_cancel(phi_store *store, phi_job_kind kind, const char *id,
                                phi_err *err) PHI_MUST_CHECK;
/* [job] Removes a job's scratch directory. */
void phi_store_work_remove(phi_store *store, const char *job_id);

/* ---- events of jobs ---- */

typedef struct phi_store_event {
    uint32_t number; /* 1, 2, ... within the job */
    int64_t created_s;
    char level[8]; /* "info", "warn", "error" */
    char type[16]; /* "message", "progress" */
    char message[PHI_ERR_BYTES_MAX];
    char *data; /* JSON text or NULL; owned */
} phi_store_event;

/* [job] Beyond PHI_LIMIT_JOB_EVENTS nothing is added, and that is not an error. */
phi_status phi_store_event_add(phi_store *store, const char *job_id, const phi_store_event *event,
                               phi_err *err) PHI_MUST_CHECK;
/* [any] Events with a number above `after`, oldest first; `out_events` holds `limit`. */
phi_status phi_store_event_list(phi_store *store, const char *job_id, uint32_t after, size_t limit,
                                phi_store_event *out_events, size_t *out_count, bool *out_more,
                                phi_err *err) PHI_MUST_CHECK;
void phi_store_events_done(phi_store_event *events, size_t count);

#endif
