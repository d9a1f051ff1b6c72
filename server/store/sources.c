#include "server/store/store_internal.h"

#include <stdio.h>

#include "base/mem.h"

void phi_store_sources_free(phi_store_source *sources, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        phi_free(sources[i].path);
    }
    phi_free(sources);
}

phi_status phi_store_source_of_file(phi_store *store, const char *file_id, const char *role,
                                    phi_store_source *out_source, phi_err *err)
{
    phi_store_file file;
    phi_status status = phi_store_file_get(store, file_id, &file, err);
    if (status) {
        return status;
    }
    *out_source = (phi_store_source){.bytes = file.bytes};
    (void)snprintf(out_source->role, sizeof out_source->role, "%s", role);
    (void)snprintf(out_source->filename, sizeof out_source->filename, "%s", file.filename);
    (void)snprintf(out_source->sha256, sizeof out_source->sha256, "%s", file.sha256);
    return PHI_OK;
}

/* Rows of (role, filename, sha256, bytes, path). */
static phi_status read_sources(phi_store *store, const char *sql, const char *key,
                               phi_store_source **out_sources, size_t *out_count, phi_err *err)
{
    sqlite3 *db = phi_store_read_begin(store);
    sqlite3_stmt *statement = NULL;
    phi_store_source *sources = NULL;
    size_t count = 0;
    phi_status status = phi_sql_query(db, sql, BINDS(BIND_TEXT(key)), &statement, err);
    for (bool row = true; !status && row;) {
        status = phi_sql_next(statement, &row, err);
        if (status || !row) {
            break;
        }
        sources = phi_realloc(sources, (count + 1) * sizeof *sources);
        phi_store_source *source = &sources[count++];
        *source = (phi_store_source){.bytes = (uint64_t)sqlite3_column_int64(statement, 3)};
        phi_sql_text(statement, 0, source->role, sizeof source->role);
        phi_sql_text(statement, 1, source->filename, sizeof source->filename);
        phi_sql_text(statement, 2, source->sha256, sizeof source->sha256);
        source->path = phi_sql_text_take(statement, 4);
    }
    phi_sql_end(statement);
    phi_store_read_end(store);
    if (status) {
        phi_store_sources_free(sources, count);
        return status;
    }
    *out_sources = sources;
    *out_count = count;
    return PHI_OK;
}

phi_status phi_store_model_sources(phi_store *store, const char *name,
                                   phi_store_source **out_sources, size_t *out_count, phi_err *err)
{
    phi_store_source *sources = NULL;
    size_t count = 0;
    phi_status status = read_sources(store,
                                     "SELECT 'model', filename, sha256, bytes, path FROM"
                                     " model_files WHERE name = ?1 ORDER BY filename",
                                     name, &sources, &count, err);
    if (status) {
        return status;
    }
    if (count == 0) {
        return phi_fail_param(err, PHI_E_NOT_FOUND, "source.model",
                              "no source is stored for a model '%.80s'; give the bare name of a "
                              "model that a job made, or upload its files",
                              name);
    }
    *out_sources = sources;
    *out_count = count;
    return PHI_OK;
}

phi_status phi_store_job_sources(phi_store *store, const char *id, phi_store_source **out_sources,
                                 size_t *out_count, phi_err *err)
{
    return read_sources(store,
                        "SELECT role, filename, sha256, bytes, path FROM job_files"
                        " WHERE job_id = ?1 ORDER BY role, filename",
                        id, out_sources, out_count, err);
}
