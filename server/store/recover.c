#include "server/store/store_internal.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"

/* An upload that nobody has gone on with for a week is given up. */
#define UPLOAD_KEPT_S (7 * 24 * 3600)

/* ---- files without rows ---- */

typedef phi_status (*keep_fn)(phi_store *store, const char *name, bool *out_keep, phi_err *err);

static phi_status keep_blob(phi_store *store, const char *name, bool *out_keep, phi_err *err)
{
    return phi_blob_referenced(store->writer, name, out_keep, err);
}

static phi_status keep_packed(phi_store *store, const char *name, bool *out_keep, phi_err *err)
{
    return phi_packed_referenced(store->writer, name, out_keep, err);
}

static phi_status keep_upload(phi_store *store, const char *name, bool *out_keep, phi_err *err)
{
    *out_keep = false;
    if (!phi_str_ends(name, ".part")) {
        return PHI_OK;
    }
    char *id = phi_strndup(name, strlen(name) - strlen(".part"));
    int64_t count = 0;
    phi_status status = phi_sql_integer(store->writer, "SELECT count(*) FROM uploads WHERE id = ?1",
                                        BINDS(BIND_TEXT(id)), 0, &count, err);
    *out_keep = count != 0;
    phi_free(id);
    return status;
}

/* Removes the files of a directory that no row names. */
static phi_status sweep(phi_store *store, const char *part, keep_fn keep, phi_err *err)
{
    char *path = phi_strfmt("%s/%s", store->dir, part);
    DIR *handle = opendir(path);
    phi_status status = handle ? PHI_OK
                               : phi_fail(err, phi_status_of_errno(errno), "cannot list %s: %s",
                                          path, strerror(errno));
    phi_free(path);
    if (!handle) {
        return status;
    }
    size_t removed = 0;
    for (struct dirent *entry = readdir(handle); entry && !status; entry = readdir(handle)) {
        bool kept = true;
        if (entry->d_name[0] == '.') {
            continue;
        }
        status = keep(store, entry->d_name, &kept, err);
        if (!status && !kept && unlinkat(dirfd(handle), entry->d_name, 0) == 0) {
            removed++;
        }
    }
    (void)closedir(handle);
    if (removed > 0) {
        phi_log(PHI_LOG_INFO, "store", "leftovers_removed", "directory=%s files=%zu", part,
                removed);
    }
    return status;
}

/* ---- rows without files ---- */

/* Reports and deletes the rows of `table` whose blob is missing; `label` names a row in the log. */
static phi_status drop_rows(phi_store *store, const char *table, const char *label, phi_err *err)
{
    char *select = phi_strfmt("SELECT sha256, %s FROM %s WHERE sha256 IS NOT NULL", label, table);
    char *delete = phi_strfmt("DELETE FROM %s WHERE sha256 = ?1", table);
    phi_blob_list missing = {0};
    sqlite3_stmt *statement = NULL;
    phi_status status = phi_sql_query(store->writer, select, NO_BINDS, &statement, err);
    for (bool row = true; !status && row;) {
        status = phi_sql_next(statement, &row, err);
        if (status || !row) {
            break;
        }
        char sha256[PHI_STORE_SHA_BYTES];
        phi_sql_text(statement, 0, sha256, sizeof sha256);
        char *path = phi_store_blob_path(store, sha256);
        if (!phi_file_exists(path)) {
            char name[PHI_LIMIT_NAME_BYTES * 2];
            char quoted[PHI_LIMIT_NAME_BYTES * 2];
            phi_sql_text(statement, 1, name, sizeof name);
            phi_log(PHI_LOG_WARN, "store", "bytes_missing", "table=%s name=%s sha256=%s", table,
                    phi_log_value(name, quoted, sizeof quoted), sha256);
            missing.sha256 =
                phi_realloc(missing.sha256, (missing.count + 1) * sizeof *missing.sha256);
            memcpy(missing.sha256[missing.count++], sha256, sizeof sha256);
        }
        phi_free(path);
    }
    phi_sql_end(statement);
    for (size_t i = 0; i < missing.count && !status; i++) {
        status = phi_sql_run(store->writer, delete, BINDS(BIND_TEXT(missing.sha256[i])), err);
    }
    phi_blob_list_done(&missing);
    phi_free(select);
    phi_free(delete);
    return status;
}

static phi_status drop_uploads(phi_store *store, phi_err *err)
{
    phi_blob_list gone = {0};
    sqlite3_stmt *statement = NULL;
    phi_status status = phi_sql_query(store->writer, "SELECT id, created_s FROM uploads", NO_BINDS,
                                      &statement, err);
    for (bool row = true; !status && row;) {
        status = phi_sql_next(statement, &row, err);
        if (status || !row) {
            break;
        }
        char id[PHI_STORE_SHA_BYTES];
        phi_sql_text(statement, 0, id, sizeof id);
        bool old = sqlite3_column_int64(statement, 1) < phi_clock_unix_s() - UPLOAD_KEPT_S;
        char *path = phi_store_incoming_path(store, id);
        if (old || !phi_file_exists(path)) {
            gone.sha256 = phi_realloc(gone.sha256, (gone.count + 1) * sizeof *gone.sha256);
            memcpy(gone.sha256[gone.count++], id, sizeof id);
        }
        phi_free(path);
    }
    phi_sql_end(statement);
    for (size_t i = 0; i < gone.count && !status; i++) {
        status = phi_sql_run(store->writer, "DELETE FROM uploads WHERE id = ?1",
                             BINDS(BIND_TEXT(gone.sha256[i])), err);
    }
    phi_blob_list_done(&gone);
    return status;
}

/* Models made from a set of files can be made again only from the whole set. */
static phi_status drop_model_files(phi_store *store, phi_err *err)
{
    phi_status status = phi_sql_exec(store->writer,
                                     "CREATE TEMP TABLE sets AS SELECT name, count(*) AS n"
                                     " FROM model_files GROUP BY name",
                                     err);
    status = status ? status : drop_rows(store, "model_files", "filename", err);
    status = status ? status
                    : phi_sql_exec(store->writer,
                                   "DELETE FROM model_files WHERE name IN (SELECT s.name FROM"
                                   " temp.sets s WHERE s.n <> (SELECT count(*) FROM model_files m"
                                   " WHERE m.name = s.name));"
                                   "DROP TABLE temp.sets",
                                   err);
    return status;
}

/* ---- jobs ---- */

static phi_status reset_jobs(phi_store *store, phi_err *err)
{
    phi_status status = phi_sql_run(
        store->writer,
        "UPDATE jobs SET status = ?1, finished_s = ?2 WHERE status IN (?3, ?4) AND cancel = 1",
        BINDS(BIND_INT(PHI_JOB_CANCELLED), BIND_INT(phi_clock_unix_s()), BIND_INT(PHI_JOB_QUEUED),
              BIND_INT(PHI_JOB_RUNNING)),
        err);
    status = status ? status
                    : phi_sql_run(store->writer,
                                  "UPDATE jobs SET status = ?1, started_s = 0, progress = 0,"
                                  " stage = '', bytes_done = 0, bytes_total = 0 WHERE status = ?2",
                                  BINDS(BIND_INT(PHI_JOB_QUEUED), BIND_INT(PHI_JOB_RUNNING)), err);
    /* Sources of ended jobs, should a crash have come between. */
    status = status ? status
                    : phi_sql_run(store->writer,
                                  "DELETE FROM job_files WHERE job_id NOT IN"
                                  " (SELECT id FROM jobs WHERE status IN (?1, ?2))",
                                  BINDS(BIND_INT(PHI_JOB_QUEUED), BIND_INT(PHI_JOB_RUNNING)), err);
    return status;
}

static void clear_work(phi_store *store)
{
    char *path = phi_strfmt("%s/work", store->dir);
    DIR *handle = opendir(path);
    for (struct dirent *entry = handle ? readdir(handle) : NULL; entry; entry = readdir(handle)) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            phi_store_work_remove(store, entry->d_name);
        }
    }
    if (handle) {
        (void)closedir(handle);
    }
    phi_free(path);
}

phi_status phi_store_recover(phi_store *store, phi_err *err)
{
    phi_status status = phi_store_write_begin(store, err);
    status = status ? status : reset_jobs(store, err);
    status = status ? status : drop_rows(store, "files", "filename", err);
    status = status ? status : drop_rows(store, "models", "name || ':' || precision", err);
    status = status ? status : drop_model_files(store, err);
    status = status ? status : drop_uploads(store, err);
    status = phi_store_write_commit(store, status, err);
    phi_store_write_end(store);
    /* Only now: a row that stays keeps its file. */
    status = status ? status : sweep(store, "blobs", keep_blob, err);
    status = status ? status : sweep(store, "packed", keep_packed, err);
    status = status ? status : sweep(store, "incoming", keep_upload, err);
    if (!status) {
        clear_work(store);
    }
    return status;
}
