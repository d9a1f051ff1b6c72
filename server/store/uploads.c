#include "server/store/store_internal.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/mem.h"

phi_status phi_store_upload_find(phi_store *store, const phi_store_upload *key,
                                 phi_store_upload *out_upload, phi_err *err)
{
    sqlite3 *db = phi_store_read_begin(store);
    sqlite3_stmt *statement = NULL;
    phi_store_upload upload = *key;
    bool row = false;
    phi_status status = phi_sql_query(
        db,
        "SELECT id, total_bytes FROM uploads WHERE client = ?1 AND filename = ?2 AND purpose = ?3",
        BINDS(BIND_INT(key->client), BIND_TEXT(key->filename), BIND_TEXT(key->purpose)), &statement,
        err);
    status = status ? status : phi_sql_next(statement, &row, err);
    if (!status && row) {
        phi_sql_text(statement, 0, upload.id, sizeof upload.id);
        upload.total_bytes = (uint64_t)sqlite3_column_int64(statement, 1);
    }
    phi_sql_end(statement);
    phi_store_read_end(store);
    if (status) {
        return status;
    }
    struct stat info;
    char *path = row ? phi_store_incoming_path(store, upload.id) : NULL;
    /* One that has all its bytes was cut off between its last byte and its answer: nothing can be
     * added to it, and the client does not know of a file, so that it begins anew. */
    bool found = row && stat(path, &info) == 0 && (uint64_t)info.st_size < upload.total_bytes;
    phi_free(path);
    if (!found) {
        return phi_fail(err, PHI_E_NOT_FOUND, "no upload of '%s' is under way", key->filename);
    }
    /* The file's own length is the truth; the row is written once. */
    upload.received_bytes = (uint64_t)info.st_size;
    *out_upload = upload;
    return PHI_OK;
}

static bool same_key(const phi_store_upload *a, const phi_store_upload *b)
{
    return a->client == b->client && strcmp(a->filename, b->filename) == 0 &&
           strcmp(a->purpose, b->purpose) == 0;
}

static void lock_claims(phi_store *store)
{
    int code = pthread_mutex_lock(&store->claim_lock);
    PHI_ASSERT(code == 0);
}

static void unlock_claims(phi_store *store)
{
    int code = pthread_mutex_unlock(&store->claim_lock);
    PHI_ASSERT(code == 0);
}

bool phi_store_upload_claim(phi_store *store, const phi_store_upload *key)
{
    lock_claims(store);
    phi_claim *claim = store->claims;
    while (claim && !same_key(&claim->key, key)) {
        claim = claim->next;
    }
    bool is_free = claim == NULL;
    if (is_free) {
        claim = phi_alloc_zero(1, sizeof *claim);
        *claim = (phi_claim){.next = store->claims, .key = *key};
        store->claims = claim;
    }
    unlock_claims(store);
    return is_free;
}

void phi_store_upload_unclaim(phi_store *store, const phi_store_upload *key)
{
    lock_claims(store);
    phi_claim **link = &store->claims;
    while (*link && !same_key(&(*link)->key, key)) {
        link = &(*link)->next;
    }
    PHI_ASSERT(*link);
    phi_claim *claim = *link;
    *link = claim->next;
    phi_free(claim);
    unlock_claims(store);
}

static void remove_part(phi_store *store, const char *id)
{
    char *path = phi_store_incoming_path(store, id);
    (void)unlink(path);
    phi_free(path);
}

phi_status phi_store_upload_add(phi_store *store, const phi_store_upload *upload, phi_err *err)
{
    phi_blob_list older = {0};
    int64_t count = 0;
    phi_status status = phi_store_write_begin(store, err);
    status =
        status ? status
               : phi_blob_list_collect(store->writer,
                                       "SELECT id FROM uploads WHERE client = ?1 AND"
                                       " filename = ?2 AND purpose = ?3",
                                       BINDS(BIND_INT(upload->client), BIND_TEXT(upload->filename),
                                             BIND_TEXT(upload->purpose)),
                                       &older, err);
    status = status ? status
                    : phi_sql_integer(store->writer, "SELECT count(*) FROM uploads", NO_BINDS, 0,
                                      &count, err);
    if (!status && older.count == 0 && count >= (int64_t)PHI_LIMIT_UPLOADS_OPEN) {
        status = phi_fail(err, PHI_E_BUSY,
                          "%u uploads are under way, which is the limit; end some first",
                          PHI_LIMIT_UPLOADS_OPEN);
    }
    status = status
                 ? status
                 : phi_sql_run(store->writer,
                               "INSERT OR REPLACE INTO uploads (id, client, filename, purpose,"
                               " total_bytes, created_s) VALUES (?1,?2,?3,?4,?5,?6)",
                               BINDS(BIND_TEXT(upload->id), BIND_INT(upload->client),
                                     BIND_TEXT(upload->filename), BIND_TEXT(upload->purpose),
                                     BIND_INT(upload->total_bytes), BIND_INT(phi_clock_unix_s())),
                               err);
    status = phi_store_write_commit(store, status, err);
    for (size_t i = 0; i < older.count && !status; i++) {
        remove_part(store, older.sha256[i]);
    }
    phi_blob_list_done(&older);
    phi_store_write_end(store);
    return status;
}

phi_status phi_store_upload_drop(phi_store *store, const char *id, phi_err *err)
{
    phi_status status = phi_store_write_begin(store, err);
    status = status ? status
                    : phi_sql_run(store->writer, "DELETE FROM uploads WHERE id = ?1",
                                  BINDS(BIND_TEXT(id)), err);
    status = phi_store_write_commit(store, status, err);
    remove_part(store, id);
    phi_store_write_end(store);
    return status;
}
