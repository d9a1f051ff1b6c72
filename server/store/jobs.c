#include "server/store/store_internal.h"

#include "base/assert.h"
#include "base/mem.h"

#define JOB_COLUMNS                                                                                \
    "id, status, cancel, created_s, started_s, finished_s, model, precision, stage, progress,"     \
    " bytes_done, bytes_total, request, result, kind"

const char *phi_job_status_name(phi_job_status status)
{
    switch (status) {
    case PHI_JOB_QUEUED:
        return "queued";
    case PHI_JOB_RUNNING:
        return "running";
    case PHI_JOB_SUCCEEDED:
        return "succeeded";
    case PHI_JOB_FAILED:
        return "failed";
    case PHI_JOB_CANCELLED:
        return "cancelled";
    }
    PHI_UNREACHABLE();
}

bool phi_job_status_ended(phi_job_status status)
{
    return status != PHI_JOB_QUEUED && status != PHI_JOB_RUNNING;
}

void phi_store_job_done(phi_store_job *job)
{
    phi_free(job->request);
    phi_free(job->result);
    job->request = NULL;
    job->result = NULL;
}

static void read_job_row(sqlite3_stmt *statement, phi_store_job *job)
{
    *job = (phi_store_job){0};
    phi_sql_text(statement, 0, job->id, sizeof job->id);
    job->status = (phi_job_status)sqlite3_column_int(statement, 1);
    job->cancel = sqlite3_column_int(statement, 2) != 0;
    job->created_s = sqlite3_column_int64(statement, 3);
    job->started_s = sqlite3_column_int64(statement, 4);
    job->finished_s = sqlite3_column_int64(statement, 5);
    phi_sql_text(statement, 6, job->model, sizeof job->model);
    phi_sql_text(statement, 7, job->precision, sizeof job->precision);
    phi_sql_text(statement, 8, job->stage, sizeof job->stage);
    job->progress = sqlite3_column_double(statement, 9);
    job->bytes_done = (uint64_t)sqlite3_column_int64(statement, 10);
    job->bytes_total = (uint64_t)sqlite3_column_int64(statement, 11);
    job->request = phi_sql_text_take(statement, 12);
    job->result = phi_sql_text_take(statement, 13);
    job->kind = (phi_job_kind)sqlite3_column_int(statement, 14);
}

static phi_status no_such_job(phi_job_kind kind, const char *id, phi_err *err)
{
    return phi_fail(err, PHI_E_NOT_FOUND, "there is no %s '%.60s'",
                    kind == PHI_JOB_EXPORT ? "export" : "quantization job", id);
}

phi_status phi_store_job_get(phi_store *store, phi_job_kind kind, const char *id,
                             phi_store_job *out_job, phi_err *err)
{
    sqlite3 *db = phi_store_read_begin(store);
    sqlite3_stmt *statement = NULL;
    bool row = false;
    phi_status status =
        phi_sql_query(db, "SELECT " JOB_COLUMNS " FROM jobs WHERE id = ?1 AND kind = ?2",
                      BINDS(BIND_TEXT(id), BIND_INT(kind)), &statement, err);
    status = status ? status : phi_sql_next(statement, &row, err);
    if (!status && !row) {
        status = no_such_job(kind, id, err);
    } else if (!status) {
        read_job_row(statement, out_job);
    }
    phi_sql_end(statement);
    phi_store_read_end(store);
    return status;
}

/* A page of the jobs for which the term `which` holds; it begins after one of `table`. */
static phi_status list_jobs(phi_store *store, const char *table, const char *which,
                            const phi_store_page *page, phi_store_job *out_jobs, size_t *out_count,
                            bool *out_more, phi_err *err)
{
    sqlite3 *db = phi_store_read_begin(store);
    sqlite3_stmt *statement = NULL;
    int64_t start = 0;
    size_t count = 0;
    bool more = false;
    char *sql = phi_strfmt("SELECT " JOB_COLUMNS
                           " FROM jobs WHERE seq %s ?1 AND %s ORDER BY seq%s LIMIT ?2",
                           page->ascending ? ">" : "<", which, page->ascending ? "" : " DESC");
    phi_status status = phi_store_page_start(db, table, page, &start, err);
    status = status ? status
                    : phi_sql_query(db, sql, BINDS(BIND_INT(start), BIND_INT(page->limit + 1)),
                                    &statement, err);
    for (bool row = true; !status && row && !more;) {
        status = phi_sql_next(statement, &row, err);
        if (!status && row) {
            more = count == page->limit;
            if (!more) {
                read_job_row(statement, &out_jobs[count++]);
            }
        }
    }
    phi_sql_end(statement);
    phi_store_read_end(store);
    phi_free(sql);
    if (status) {
        for (size_t i = 0; i < count; i++) {
            phi_store_job_done(&out_jobs[i]);
        }
        return status;
    }
    *out_count = count;
    *out_more = more;
    return PHI_OK;
}

phi_status phi_store_job_list(phi_store *store, phi_job_kind kind, const phi_store_page *page,
                              phi_store_job *out_jobs, size_t *out_count, bool *out_more,
                              phi_err *err)
{
    char *which = phi_strfmt("kind = %d", (int)kind);
    char *table = phi_strfmt("(SELECT id, seq FROM jobs WHERE %s)", which);
    phi_status status = list_jobs(store, table, which, page, out_jobs, out_count, out_more, err);
    phi_free(table);
    phi_free(which);
    return status;
}

phi_status phi_store_job_unfinished(phi_store *store, const phi_store_page *page,
                                    phi_store_job *out_jobs, size_t *out_count, bool *out_more,
                                    phi_err *err)
{
    /* The page may begin after one that has ended meanwhile. */
    char *which = phi_strfmt("status < %d", (int)PHI_JOB_SUCCEEDED);
    phi_status status = list_jobs(store, "jobs", which, page, out_jobs, out_count, out_more, err);
    phi_free(which);
    return status;
}

/* ---- writing ---- */

static phi_status insert_job(sqlite3 *db, const phi_store_job *job, phi_err *err)
{
    int64_t unfinished = 0;
    phi_status status = phi_sql_integer(db, "SELECT count(*) FROM jobs WHERE status < ?1",
                                        BINDS(BIND_INT(PHI_JOB_SUCCEEDED)), 0, &unfinished, err);
    if (!status && unfinished >= (int64_t)PHI_LIMIT_JOBS_UNFINISHED) {
        return phi_fail(err, PHI_E_BUSY,
                        "%u jobs are queued or running, which is the limit; try "
                        "again when some have ended",
                        PHI_LIMIT_JOBS_UNFINISHED);
    }
    status =
        status ? status
               : phi_sql_run(db,
                             "INSERT INTO jobs (" JOB_COLUMNS
                             ") VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15)",
                             BINDS(BIND_TEXT(job->id), BIND_INT(job->status), BIND_INT(job->cancel),
                                   BIND_INT(job->created_s), BIND_INT(job->started_s),
                                   BIND_INT(job->finished_s), BIND_TEXT(job->model),
                                   BIND_TEXT(job->precision), BIND_TEXT(job->stage),
                                   BIND_REAL(job->progress), BIND_INT(job->bytes_done),
                                   BIND_INT(job->bytes_total), BIND_TEXT(job->request),
                                   BIND_TEXT(job->result), BIND_INT(job->kind)),
                             err);
    /* Ended jobs are remembered up to a number. */
    const phi_bind old[] = {BIND_INT(PHI_LIMIT_JOBS_KEPT), BIND_INT(PHI_JOB_SUCCEEDED)};
    status = status
                 ? status
                 : phi_sql_run(db,
                               "DELETE FROM job_events WHERE job_id IN (SELECT id FROM jobs"
                               " WHERE seq <= (SELECT max(seq) FROM jobs) - ?1 AND status >= ?2)",
                               old, 2, err);
    return status ? status
                  : phi_sql_run(db,
                                "DELETE FROM jobs WHERE seq <= (SELECT max(seq) FROM jobs) - ?1"
                                " AND status >= ?2",
                                old, 2, err);
}

static phi_status insert_source(sqlite3 *db, const phi_store_job *job,
                                const phi_store_source *source, phi_err *err)
{
    const char *sha256 = source->sha256[0] ? source->sha256 : NULL;
    if (sha256) {
        /* Between the lookup and now the file may have been deleted, and its bytes with it. */
        int64_t there = 0;
        phi_status status =
            phi_sql_integer(db,
                            "SELECT EXISTS (SELECT 1 FROM files WHERE sha256 = ?1)"
                            " OR EXISTS (SELECT 1 FROM models WHERE sha256 = ?1)"
                            " OR EXISTS (SELECT 1 FROM model_files WHERE sha256 = ?1)",
                            BINDS(BIND_TEXT(sha256)), 0, &there, err);
        if (status) {
            return status;
        }
        if (!there) {
            return phi_fail_param(err, PHI_E_NOT_FOUND,
                                  job->kind == PHI_JOB_EXPORT ? "model" : "source",
                                  "the file '%s' has been deleted", source->filename);
        }
    }
    return phi_sql_run(db,
                       "INSERT INTO job_files (job_id, role, filename, sha256, bytes, path)"
                       " VALUES (?1,?2,?3,?4,?5,?6)",
                       BINDS(BIND_TEXT(job->id), BIND_TEXT(source->role),
                             BIND_TEXT(source->filename), BIND_TEXT(sha256),
                             BIND_INT(source->bytes), BIND_TEXT(source->path)),
                       err);
}

phi_status phi_store_job_add(phi_store *store, const phi_store_job *job,
                             const phi_store_source *sources, size_t n_sources, phi_err *err)
{
    phi_status status = phi_store_write_begin(store, err);
    status = status ? status : insert_job(store->writer, job, err);
    for (size_t i = 0; i < n_sources && !status; i++) {
        status = insert_source(store->writer, job, &sources[i], err);
    }
    status = phi_store_write_commit(store, status, err);
    phi_store_write_end(store);
    return status;
}

static phi_status update_job(sqlite3 *db, const phi_store_job *job, phi_blob_list *blobs,
                             phi_err *err)
{
    phi_status status = phi_sql_run(
        db,
        "UPDATE jobs SET status = ?2, started_s = ?3, finished_s = ?4, stage = ?5, progress = ?6,"
        " bytes_done = ?7, bytes_total = ?8, result = ?9 WHERE id = ?1",
        BINDS(BIND_TEXT(job->id), BIND_INT(job->status), BIND_INT(job->started_s),
              BIND_INT(job->finished_s), BIND_TEXT(job->stage), BIND_REAL(job->progress),
              BIND_INT(job->bytes_done), BIND_INT(job->bytes_total), BIND_TEXT(job->result)),
        err);
    if (status || !phi_job_status_ended(job->status)) {
        return status;
    }
    status = phi_blob_list_collect(db, "SELECT sha256 FROM job_files WHERE job_id = ?1",
                                   BINDS(BIND_TEXT(job->id)), blobs, err);
    return status ? status
                  : phi_sql_run(db, "DELETE FROM job_files WHERE job_id = ?1",
                                BINDS(BIND_TEXT(job->id)), err);
}

phi_status phi_store_job_update(phi_store *store, const phi_store_job *job, phi_err *err)
{
    phi_blob_list blobs = {0};
    phi_status status = phi_store_write_begin(store, err);
    status = status ? status : update_job(store->writer, job, &blobs, err);
    status = phi_store_write_commit(store, status, err);
    if (status) {
        phi_blob_list_done(&blobs);
    } else {
        phi_blob_list_release(store, &blobs);
    }
    phi_store_write_end(store);
    return status;
}

static phi_status put_model(sqlite3 *db, const phi_store_job *job, const phi_store_model *model,
                            phi_blob_list *blobs, phi_err *err)
{
    phi_status status = phi_blob_list_collect(
        db,
        "SELECT sha256 FROM models WHERE name = ?1 AND precision = ?2"
        " UNION SELECT sha256 FROM model_files WHERE name = ?1",
        BINDS(BIND_TEXT(model->name), BIND_TEXT(model->precision)), blobs, err);
    /* A replaced model keeps its place in the order, and with it the meaning of the bare name. */
    status = status ? status
                    : phi_sql_run(db,
                                  "INSERT INTO models (name, precision, sha256, bytes, created_s,"
                                  " context_length, architecture, quality)"
                                  " VALUES (?1,?2,?3,?4,?5,?6,?7,?8)"
                                  " ON CONFLICT (name, precision) DO UPDATE SET"
                                  " sha256 = excluded.sha256, bytes = excluded.bytes,"
                                  " created_s = excluded.created_s,"
                                  " context_length = excluded.context_length,"
                                  " architecture = excluded.architecture,"
                                  " quality = excluded.quality",
                                  BINDS(BIND_TEXT(model->name), BIND_TEXT(model->precision),
                                        BIND_TEXT(model->sha256), BIND_INT(model->bytes),
                                        BIND_INT(model->created_s), BIND_INT(model->context_length),
                                        BIND_TEXT(model->architecture), BIND_TEXT(model->quality)),
                                  err);
    status = status ? status
                    : phi_sql_run(db, "DELETE FROM model_files WHERE name = ?1",
                                  BINDS(BIND_TEXT(model->name)), err);
    return status ? status
                  : phi_sql_run(db,
                                "INSERT INTO model_files (name, filename, sha256, bytes, path)"
                                " SELECT ?1, filename, sha256, bytes, path FROM job_files"
                                " WHERE job_id = ?2 AND role = 'model'",
                                BINDS(BIND_TEXT(model->name), BIND_TEXT(job->id)), err);
}

phi_status phi_store_job_complete(phi_store *store, const phi_store_job *job,
                                  const phi_store_artifact *artifacts, size_t n_artifacts,
                                  const phi_store_model *model, phi_err *err)
{
    phi_blob_list blobs = {0};
    bool *moved = phi_alloc_zero(n_artifacts + 1, sizeof *moved);
    phi_status status = phi_store_write_begin(store, err);
    for (size_t i = 0; i < n_artifacts && !status; i++) {
        status = phi_store_file_insert(store, &artifacts[i].file, err);
    }
    if (!status && model) {
        status = put_model(store->writer, job, model, &blobs, err);
    }
    status = status ? status : update_job(store->writer, job, &blobs, err);
    /* The bytes before the commit: what is committed has its bytes. */
    for (size_t i = 0; i < n_artifacts && !status; i++) {
        const phi_store_artifact *it = &artifacts[i];
        status = phi_blob_put(store, it->path, it->file.sha256, &moved[i], err);
    }
    status = phi_store_write_commit(store, status, err);
    for (size_t i = 0; i < n_artifacts; i++) {
        phi_blob_settle(store, artifacts[i].path, artifacts[i].file.sha256, moved[i], status);
    }
    if (status) {
        phi_blob_list_done(&blobs);
    } else {
        phi_blob_list_release(store, &blobs);
    }
    phi_store_write_end(store);
    phi_free(moved);
    return status;
}

phi_status phi_store_job_cancel(phi_store *store, phi_job_kind kind, const char *id, phi_err *err)
{
    int64_t state = -1;
    phi_status status = phi_store_write_begin(store, err);
    status = status ? status
                    : phi_sql_integer(store->writer,
                                      "SELECT status FROM jobs WHERE id = ?1 AND kind = ?2",
                                      BINDS(BIND_TEXT(id), BIND_INT(kind)), -1, &state, err);
    if (!status && state < 0) {
        status = no_such_job(kind, id, err);
    } else if (!status && phi_job_status_ended((phi_job_status)state)) {
        status = phi_fail(err, PHI_E_STATE,
                          "the %s has %s already; only what is queued or running can be cancelled",
                          kind == PHI_JOB_EXPORT ? "export" : "job",
                          state == PHI_JOB_CANCELLED ? "been cancelled"
                                                     : phi_job_status_name((phi_job_status)state));
    }
    status = status ? status
                    : phi_sql_run(store->writer, "UPDATE jobs SET cancel = 1 WHERE id = ?1",
                                  BINDS(BIND_TEXT(id)), err);
    status = phi_store_write_commit(store, status, err);
    phi_store_write_end(store);
    return status;
}
