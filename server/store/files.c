#include "server/store/store_internal.h"

#include "base/mem.h"

#define FILE_COLUMNS "id, created_s, filename, purpose, sha256, bytes"

static void read_file_row(sqlite3_stmt *statement, phi_store_file *file)
{
    *file = (phi_store_file){0};
    phi_sql_text(statement, 0, file->id, sizeof file->id);
    file->created_s = sqlite3_column_int64(statement, 1);
    phi_sql_text(statement, 2, file->filename, sizeof file->filename);
    phi_sql_text(statement, 3, file->purpose, sizeof file->purpose);
    phi_sql_text(statement, 4, file->sha256, sizeof file->sha256);
    file->bytes = (uint64_t)sqlite3_column_int64(statement, 5);
}

static phi_status no_such_file(const char *id, phi_err *err)
{
    return phi_fail_param(err, PHI_E_NOT_FOUND, "file_id", "there is no file '%.60s'", id);
}

phi_status phi_store_file_get(phi_store *store, const char *id, phi_store_file *out_file,
                              phi_err *err)
{
    sqlite3 *db = phi_store_read_begin(store);
    sqlite3_stmt *statement = NULL;
    bool row = false;
    phi_status status = phi_sql_query(db, "SELECT " FILE_COLUMNS " FROM files WHERE id = ?1",
                                      BINDS(BIND_TEXT(id)), &statement, err);
    status = status ? status : phi_sql_next(statement, &row, err);
    if (!status && !row) {
        status = no_such_file(id, err);
    } else if (!status) {
        read_file_row(statement, out_file);
    }
    phi_sql_end(statement);
    phi_store_read_end(store);
    return status;
}

phi_status phi_store_file_list(phi_store *store, const char *purpose, const phi_store_page *page,
                               phi_store_file *out_files, size_t *out_count, bool *out_more,
                               phi_err *err)
{
    sqlite3 *db = phi_store_read_begin(store);
    sqlite3_stmt *statement = NULL;
    int64_t start = 0;
    size_t count = 0;
    bool row = true;
    phi_status status = phi_store_page_start(db, "files", page, &start, err);
    /* One more than asked for tells whether there is more. */
    status = status
                 ? status
                 : phi_sql_query(
                       db,
                       page->ascending ? "SELECT " FILE_COLUMNS " FROM files WHERE seq > ?1"
                                         " AND (?2 IS NULL OR purpose = ?2) ORDER BY seq LIMIT ?3"
                                       : "SELECT " FILE_COLUMNS " FROM files WHERE seq < ?1"
                                         " AND (?2 IS NULL OR purpose = ?2)"
                                         " ORDER BY seq DESC LIMIT ?3",
                       BINDS(BIND_INT(start), BIND_TEXT(purpose), BIND_INT(page->limit + 1)),
                       &statement, err);
    while (!status && row && count <= page->limit) {
        status = phi_sql_next(statement, &row, err);
        if (!status && row) {
            if (count < page->limit) {
                read_file_row(statement, &out_files[count]);
            }
            count++;
        }
    }
    phi_sql_end(statement);
    phi_store_read_end(store);
    if (!status) {
        *out_more = count > page->limit;
        *out_count = *out_more ? page->limit : count;
    }
    return status;
}

phi_status phi_store_file_insert(phi_store *store, const phi_store_file *file, phi_err *err)
{
    int64_t count = 0;
    phi_status status =
        phi_sql_integer(store->writer, "SELECT count(*) FROM files", NO_BINDS, 0, &count, err);
    if (!status && count >= (int64_t)PHI_LIMIT_FILES) {
        return phi_fail(err, PHI_E_NO_SPACE,
                        "there are %u files already, which is the limit; delete "
                        "some first",
                        PHI_LIMIT_FILES);
    }
    return status ? status
                  : phi_sql_run(store->writer,
                                "INSERT INTO files (" FILE_COLUMNS ") VALUES (?1,?2,?3,?4,?5,?6)",
                                BINDS(BIND_TEXT(file->id), BIND_INT(file->created_s),
                                      BIND_TEXT(file->filename), BIND_TEXT(file->purpose),
                                      BIND_TEXT(file->sha256), BIND_INT(file->bytes)),
                                err);
}

phi_status phi_store_file_publish(phi_store *store, const char *path, const char *upload_id,
                                  const phi_store_file *file, phi_err *err)
{
    bool moved = false;
    phi_status status = phi_store_write_begin(store, err);
    status = status ? status : phi_store_file_insert(store, file, err);
    if (!status && upload_id) {
        status = phi_sql_run(store->writer, "DELETE FROM uploads WHERE id = ?1",
                             BINDS(BIND_TEXT(upload_id)), err);
    }
    /* The bytes before the rows: what is committed has its bytes. */
    status = status ? status : phi_blob_put(store, path, file->sha256, &moved, err);
    status = phi_store_write_commit(store, status, err);
    phi_blob_settle(store, path, file->sha256, moved, status);
    phi_store_write_end(store);
    return status;
}

phi_status phi_store_file_delete(phi_store *store, const char *id, phi_err *err)
{
    phi_blob_list blobs = {0};
    phi_status status = phi_store_write_begin(store, err);
    status = status ? status
                    : phi_blob_list_collect(store->writer, "SELECT sha256 FROM files WHERE id = ?1",
                                            BINDS(BIND_TEXT(id)), &blobs, err);
    if (!status && blobs.count == 0) {
        status = no_such_file(id, err);
    }
    status = status ? status
                    : phi_sql_run(store->writer, "DELETE FROM files WHERE id = ?1",
                                  BINDS(BIND_TEXT(id)), err);
    status = phi_store_write_commit(store, status, err);
    if (status) {
        phi_blob_list_done(&blobs);
    } else {
        phi_blob_list_release(store, &blobs);
    }
    phi_store_write_end(store);
    return status;
}
