#include "server/store/store_internal.h"

#include "base/log.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

phi_status phi_store_model_list(phi_store *store, phi_store_model **out_models, size_t *out_count,
                                phi_err *err)
{
    sqlite3 *db = phi_store_read_begin(store);
    sqlite3_stmt *statement = NULL;
    phi_store_model *models = NULL;
    size_t count = 0;
    phi_status status =
        phi_sql_query(db,
                      "SELECT name, precision, sha256, bytes, created_s, context_length,"
                      " architecture, quality FROM models ORDER BY seq",
                      NO_BINDS, &statement, err);
    for (bool row = true; !status && row;) {
        status = phi_sql_next(statement, &row, err);
        if (status || !row) {
            break;
        }
        models = phi_realloc(models, (count + 1) * sizeof *models);
        phi_store_model *model = &models[count++];
        *model = (phi_store_model){0};
        phi_sql_text(statement, 0, model->name, sizeof model->name);
        phi_sql_text(statement, 1, model->precision, sizeof model->precision);
        phi_sql_text(statement, 2, model->sha256, sizeof model->sha256);
        model->bytes = (uint64_t)sqlite3_column_int64(statement, 3);
        model->created_s = sqlite3_column_int64(statement, 4);
        model->context_length = (uint32_t)sqlite3_column_int64(statement, 5);
        phi_sql_text(statement, 6, model->architecture, sizeof model->architecture);
        model->quality = phi_sql_text_take(statement, 7);
    }
    phi_sql_end(statement);
    phi_store_read_end(store);
    if (status) {
        phi_store_models_free(models, count);
        return status;
    }
    *out_models = models;
    *out_count = count;
    return PHI_OK;
}

void phi_store_models_free(phi_store_model *models, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        phi_free(models[i].quality);
    }
    phi_free(models);
}

phi_status phi_store_model_delete(phi_store *store, const char *name, const char *precision,
                                  phi_err *err)
{
    phi_blob_list blobs = {0};
    sqlite3 *db = store->writer;
    phi_status status = phi_store_write_begin(store, err);
    status = status ? status
                    : phi_blob_list_collect(
                          db, "SELECT sha256 FROM models WHERE name = ?1 AND precision = ?2",
                          BINDS(BIND_TEXT(name), BIND_TEXT(precision)), &blobs, err);
    if (!status && blobs.count == 0) {
        status = phi_fail_param(err, PHI_E_NOT_FOUND, "model", "there is no model '%s:%s'", name,
                                precision);
    }
    status = status ? status
                    : phi_sql_run(db, "DELETE FROM models WHERE name = ?1 AND precision = ?2",
                                  BINDS(BIND_TEXT(name), BIND_TEXT(precision)), err);
    int64_t left = 0;
    status = status ? status
                    : phi_sql_integer(db, "SELECT count(*) FROM models WHERE name = ?1",
                                      BINDS(BIND_TEXT(name)), 0, &left, err);
    if (!status && left == 0) {
        status = phi_blob_list_collect(db, "SELECT sha256 FROM model_files WHERE name = ?1",
                                       BINDS(BIND_TEXT(name)), &blobs, err);
        status = status ? status
                        : phi_sql_run(db, "DELETE FROM model_files WHERE name = ?1",
                                      BINDS(BIND_TEXT(name)), err);
    }
    status = phi_store_write_commit(store, status, err);
    if (status) {
        phi_blob_list_done(&blobs);
    } else {
        phi_blob_list_release(store, &blobs);
    }
    phi_store_write_end(store);
    return status;
}

/* ---- packed weights ---- */

phi_status phi_packed_referenced(sqlite3 *db, const char *sha256, bool *out_referenced,
                                 phi_err *err)
{
    int64_t count = 0;
    phi_status status =
        phi_sql_integer(db, "SELECT EXISTS (SELECT 1 FROM models WHERE sha256 = ?1)",
                        BINDS(BIND_TEXT(sha256)), 0, &count, err);
    *out_referenced = count != 0;
    return status;
}

void phi_packed_release(phi_store *store, const char *sha256)
{
    phi_err err;
    bool kept = true;
    /* What cannot be decided now is found at the next start. */
    if (phi_packed_referenced(store->writer, sha256, &kept, &err) || kept) {
        return;
    }
    char *path = phi_store_packed_path(store, sha256);
    if (unlink(path) != 0 && errno != ENOENT) {
        phi_log(PHI_LOG_WARN, "store", "packed_not_removed", "sha256=%s reason=%s", sha256,
                strerror(errno));
    }
    phi_free(path);
}

void phi_store_packed_settle(phi_store *store, const char *sha256)
{
    phi_err err;
    if (phi_store_write_begin(store, &err) == PHI_OK) {
        phi_packed_release(store, sha256);
        /* Nothing was written: the outcome says nothing. */
        phi_status ended = phi_store_write_commit(store, PHI_OK, &err);
        (void)ended;
    }
    phi_store_write_end(store);
}

void phi_store_packed_clear(phi_store *store)
{
    char *path = phi_strfmt("%s/packed", store->dir);
    DIR *handle = opendir(path);
    for (struct dirent *entry = handle ? readdir(handle) : NULL; entry; entry = readdir(handle)) {
        if (entry->d_name[0] != '.') {
            (void)unlinkat(dirfd(handle), entry->d_name, 0);
        }
    }
    if (handle) {
        (void)closedir(handle);
    }
    phi_free(path);
}
