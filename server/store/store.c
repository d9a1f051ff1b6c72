#include "server/store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/store/store_internal.h"

/*
 * Invariants
 * 1. A file in blobs/ is complete and synced before it gets its name there.
 * 2. A row names a blob only after the blob has its name; a blob is unlinked only after the last
 *    row that names it has gone. A crash between leaves a blob without rows, never the reverse.
 * 3. 1 and 2 hold for two threads with the same content, since both happen under write_lock.
 * 4. What is in packed/ can be made again: no row names it, and it is worth keeping only as long as
 *    a model has its content. It is unlinked when the last one goes or, if it was being made just
 *    then, by whoever made it.
 * 5. Nothing in incoming/ or work/ is visible through the API.
 */

static phi_status fail_errno(phi_err *err, const char *doing, const char *path)
{
    int errnum = errno;
    return phi_fail(err, phi_status_of_errno(errnum), "cannot %s %s: %s", doing, path,
                    strerror(errnum));
}

/* ---- paths ---- */

/* Of a file or folder in one of the parts that phi_store_open makes. */
static char *path_in(const phi_store *store, const char *part, const char *name)
{
    return phi_strfmt("%s/%s/%s", store->dir, part, name);
}

char *phi_store_blob_path(const phi_store *store, const char *sha256)
{
    return path_in(store, "blobs", sha256);
}

char *phi_store_packed_path(const phi_store *store, const char *sha256)
{
    return path_in(store, "packed", sha256);
}

char *phi_store_incoming_path(const phi_store *store, const char *upload_id)
{
    return phi_strfmt("%s/incoming/%s.part", store->dir, upload_id);
}

char *phi_store_work_path(const phi_store *store, const char *job_id)
{
    return path_in(store, "work", job_id);
}

/* ---- locks and transactions ---- */

sqlite3 *phi_store_read_begin(phi_store *store)
{
    int code = pthread_mutex_lock(&store->read_lock);
    PHI_ASSERT(code == 0);
    return store->reader;
}

void phi_store_read_end(phi_store *store)
{
    int code = pthread_mutex_unlock(&store->read_lock);
    PHI_ASSERT(code == 0);
}

phi_status phi_store_write_begin(phi_store *store, phi_err *err)
{
    int code = pthread_mutex_lock(&store->write_lock);
    PHI_ASSERT(code == 0);
    return phi_sql_exec(store->writer, "BEGIN IMMEDIATE", err);
}

phi_status phi_store_write_commit(phi_store *store, phi_status status, phi_err *err)
{
    if (!status) {
        status = phi_sql_exec(store->writer, "COMMIT", err);
    }
    if (status && !sqlite3_get_autocommit(store->writer)) {
        (void)sqlite3_exec(store->writer, "ROLLBACK", NULL, NULL, NULL);
    }
    return status;
}

void phi_store_write_end(phi_store *store)
{
    int code = pthread_mutex_unlock(&store->write_lock);
    PHI_ASSERT(code == 0);
}

/* ---- blobs ---- */

phi_status phi_blob_referenced(sqlite3 *db, const char *sha256, bool *out_referenced, phi_err *err)
{
    int64_t count = 0;
    phi_status status = phi_sql_integer(db,
                                        "SELECT EXISTS (SELECT 1 FROM files WHERE sha256 = ?1)"
                                        " OR EXISTS (SELECT 1 FROM models WHERE sha256 = ?1)"
                                        " OR EXISTS (SELECT 1 FROM model_files WHERE sha256 = ?1)"
                                        " OR EXISTS (SELECT 1 FROM job_files WHERE sha256 = ?1)",
                                        BINDS(BIND_TEXT(sha256)), 0, &count, err);
    *out_referenced = count != 0;
    return status;
}

phi_status phi_blob_list_collect(sqlite3 *db, const char *sql, const phi_bind *binds,
                                 size_t n_binds, phi_blob_list *list, phi_err *err)
{
    sqlite3_stmt *statement = NULL;
    phi_status status = phi_sql_query(db, sql, binds, n_binds, &statement, err);
    for (bool row = true; !status && row;) {
        status = phi_sql_next(statement, &row, err);
        if (!status && row && sqlite3_column_type(statement, 0) == SQLITE_TEXT) {
            list->sha256 = phi_realloc(list->sha256, (list->count + 1) * sizeof *list->sha256);
            phi_sql_text(statement, 0, list->sha256[list->count++], PHI_STORE_SHA_BYTES);
        }
    }
    phi_sql_end(statement);
    return status;
}

void phi_blob_list_done(phi_blob_list *list)
{
    phi_free(list->sha256);
    *list = (phi_blob_list){0};
}

void phi_blob_list_release(phi_store *store, phi_blob_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        phi_err err;
        phi_packed_release(store, list->sha256[i]);
        bool kept = true;
        /* What cannot be decided now is found at the next start. */
        if (phi_blob_referenced(store->writer, list->sha256[i], &kept, &err) || kept) {
            continue;
        }
        char *path = phi_store_blob_path(store, list->sha256[i]);
        if (unlink(path) != 0 && errno != ENOENT) {
            phi_log(PHI_LOG_WARN, "store", "blob_not_removed", "sha256=%s reason=%s",
                    list->sha256[i], strerror(errno));
        }
        phi_free(path);
    }
    phi_blob_list_done(list);
}

phi_status phi_blob_put(phi_store *store, const char *path, const char *sha256, bool *out_moved,
                        phi_err *err)
{
    char *target = phi_store_blob_path(store, sha256);
    char *dir = phi_strfmt("%s/blobs", store->dir);
    phi_status status = PHI_OK;
    *out_moved = false;
    if (!phi_file_exists(target)) {
        if (rename(path, target) != 0) {
            status = fail_errno(err, "store", "the file");
        } else {
            *out_moved = true;
            status = phi_file_sync_dir(dir, err);
        }
    }
    phi_free(dir);
    phi_free(target);
    return status;
}

void phi_blob_settle(phi_store *store, const char *path, const char *sha256, bool moved,
                     phi_status status)
{
    if (!status && !moved) {
        (void)unlink(path);
    } else if (status && moved) {
        char *target = phi_store_blob_path(store, sha256);
        if (rename(target, path) != 0) {
            (void)unlink(target);
        }
        phi_free(target);
    }
}

/* ---- pages ---- */

phi_status phi_store_page_start(sqlite3 *db, const char *table, const phi_store_page *page,
                                int64_t *out_seq, phi_err *err)
{
    *out_seq = page->ascending ? 0 : INT64_MAX;
    if (!page->after) {
        return PHI_OK;
    }
    char *sql = phi_strfmt("SELECT seq FROM %s WHERE id = ?1", table);
    int64_t seq = -1;
    phi_status status = phi_sql_integer(db, sql, BINDS(BIND_TEXT(page->after)), -1, &seq, err);
    phi_free(sql);
    if (!status && seq < 0) {
        return phi_fail_param(err, PHI_E_INVALID, "after",
                              "'after' names '%.60s', which is not in the list", page->after);
    }
    if (!status) {
        *out_seq = seq;
    }
    return status;
}

/* ---- scratch directories ---- */

void phi_store_work_remove(phi_store *store, const char *job_id)
{
    char *path = phi_store_work_path(store, job_id);
    phi_err err = {0};
    if (phi_file_remove_tree(path, &err)) {
        phi_log(PHI_LOG_WARN, "store", "leftover_not_removed", "reason=%s", err.message);
    }
    phi_free(path);
}

/* ---- open and close ---- */

static phi_status open_connection(const char *path, bool writes, sqlite3 **out_db, phi_err *err)
{
    sqlite3 *db = NULL;
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | (writes ? SQLITE_OPEN_CREATE : 0);
    if (sqlite3_open_v2(path, &db, flags, NULL) != SQLITE_OK) {
        phi_status status = db ? phi_sql_fail(db, path, err)
                               : phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for SQLite");
        (void)sqlite3_close(db);
        return status;
    }
    (void)sqlite3_busy_timeout(db, 5000);
    phi_status status =
        phi_sql_exec(db,
                     writes ? "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
                            : "PRAGMA query_only = ON;",
                     err);
    if (status) {
        (void)phi_fail_context(err, status, "%s", path);
        (void)sqlite3_close(db);
        return status;
    }
    *out_db = db;
    return PHI_OK;
}

static phi_status open_database(phi_store *store, phi_err *err)
{
    char *path = phi_strfmt("%s/phid.db", store->dir);
    phi_status status = open_connection(path, true, &store->writer, err);
    status = status ? status : phi_store_schema(store->writer, err);
    status = status ? status : open_connection(path, false, &store->reader, err);
    phi_free(path);
    return status;
}

static phi_status make_layout(phi_store *store, const char *data_dir, phi_err *err)
{
    phi_status status = phi_file_make_dirs(data_dir, err);
    if (status) {
        return status;
    }
    char *absolute = realpath(data_dir, NULL);
    if (!absolute) {
        return fail_errno(err, "find", data_dir);
    }
    store->dir = phi_strdup(absolute);
    phi_free(absolute);
    static const char *const parts[] = {"blobs", "packed", "incoming", "work"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts && !status; i++) {
        char *path = phi_strfmt("%s/%s", store->dir, parts[i]);
        status = phi_file_make_dirs(path, err);
        phi_free(path);
    }
    return status;
}

static phi_status take_lock(phi_store *store, phi_err *err)
{
    char *path = phi_strfmt("%s/lock", store->dir);
    phi_status status = PHI_OK;
    store->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (store->lock_fd < 0) {
        status = fail_errno(err, "open", path);
    } else if (flock(store->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        status = phi_fail(err, PHI_E_STATE,
                          "data_dir %s is in use by another phid; give each its own", store->dir);
    }
    phi_free(path);
    return status;
}

phi_status phi_store_open(const char *data_dir, phi_store **out_store, phi_err *err)
{
    phi_store *store = phi_alloc_zero(1, sizeof *store);
    store->lock_fd = -1;
    (void)pthread_mutex_init(&store->write_lock, NULL);
    (void)pthread_mutex_init(&store->read_lock, NULL);
    (void)pthread_mutex_init(&store->claim_lock, NULL);
    phi_status status = make_layout(store, data_dir, err);
    status = status ? status : take_lock(store, err);
    status = status ? status : open_database(store, err);
    status = status ? status : phi_store_recover(store, err);
    if (status) {
        phi_store_close(store);
        return status;
    }
    *out_store = store;
    return PHI_OK;
}

void phi_store_close(phi_store *store)
{
    if (!store) {
        return;
    }
    PHI_ASSERT(!store->claims);
    (void)sqlite3_close(store->reader);
    (void)sqlite3_close(store->writer);
    if (store->lock_fd >= 0) {
        (void)close(store->lock_fd);
    }
    (void)pthread_mutex_destroy(&store->write_lock);
    (void)pthread_mutex_destroy(&store->read_lock);
    (void)pthread_mutex_destroy(&store->claim_lock);
    phi_free(store->dir);
    phi_free(store);
}
