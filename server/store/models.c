#include "server/store/store_internal.h"

#include "base/mem.h"

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
