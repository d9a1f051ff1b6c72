/*
 * Purpose: what the files of server/store share: the connections, their locks, and blobs.
 * Owns:    see store.h.
 * Threads: the writer's connection is used between phi_store_write_begin and _end only, the
 *          reader's between phi_store_read_begin and _end only.
 * Errors:  see store.h. Limits: see store.h.
 */
#ifndef PHI_SERVER_STORE_STORE_INTERNAL_H
#define PHI_SERVER_STORE_STORE_INTERNAL_H

#include "server/store/sql.h"
#include "server/store/store.h"

#include <pthread.h>

typedef struct phi_claim {
    struct phi_claim *next;
    phi_store_upload key;
} phi_claim;

struct phi_store {
    char *dir; /* absolute */
    int lock_fd;
    pthread_mutex_t write_lock; /* guards `writer` and what happens to blobs/ */
    sqlite3 *writer;
    pthread_mutex_t read_lock; /* guards `reader` */
    sqlite3 *reader;
    pthread_mutex_t claim_lock; /* guards `claims` */
    phi_claim *claims;          /* uploads that a request writes to now */
};

/* Creates and migrates the tables. */
phi_status phi_store_schema(sqlite3 *db, phi_err *err) PHI_MUST_CHECK;
/* Sets right what a crash left. Before any other thread sees the store. */
phi_status phi_store_recover(phi_store *store, phi_err *err) PHI_MUST_CHECK;

sqlite3 *phi_store_read_begin(phi_store *store);
void phi_store_read_end(phi_store *store);
/* Begins a transaction and holds the lock until phi_store_write_end, also when it fails. */
phi_status phi_store_write_begin(phi_store *store, phi_err *err) PHI_MUST_CHECK;
/* Commits when `status` is PHI_OK, else rolls back; returns what came of it. Keeps the lock. */
phi_status phi_store_write_commit(phi_store *store, phi_status status, phi_err *err) PHI_MUST_CHECK;
void phi_store_write_end(phi_store *store);

/* The digests that rows name, collected before the rows go, to be let go of after the commit. */
typedef struct phi_blob_list {
    char (*sha256)[PHI_STORE_SHA_BYTES];
    size_t count;
} phi_blob_list;

/* Whether any row names the blob. */
phi_status phi_blob_referenced(sqlite3 *db, const char *sha256, bool *out_referenced,
                               phi_err *err) PHI_MUST_CHECK;
/* Whether a model is made of the blob: then its packed weights are kept. */
phi_status phi_packed_referenced(sqlite3 *db, const char *sha256, bool *out_referenced,
                                 phi_err *err) PHI_MUST_CHECK;
/* Unlinks the packed weights unless a model has them. Lock held. */
void phi_packed_release(phi_store *store, const char *sha256);
/* Adds the first column of the statement's rows. Lock held. */
phi_status phi_blob_list_collect(sqlite3 *db, const char *sql, const phi_bind *binds,
                                 size_t n_binds, phi_blob_list *list, phi_err *err) PHI_MUST_CHECK;
/* Unlinks those that no row names any more, and frees the list. Lock held, transaction over. */
void phi_blob_list_release(phi_store *store, phi_blob_list *list);
void phi_blob_list_done(phi_blob_list *list);
/* Moves `path` into blobs/ unless that content is there; *out_moved tells. Lock held. */
phi_status phi_blob_put(phi_store *store, const char *path, const char *sha256, bool *out_moved,
                        phi_err *err) PHI_MUST_CHECK;
/* After the transaction: drops the file that was not needed, or (failure) moves it back. */
void phi_blob_settle(phi_store *store, const char *path, const char *sha256, bool moved,
                     phi_status status);
/* Inserts a row of files. Lock held. */
phi_status phi_store_file_insert(phi_store *store, const phi_store_file *file,
                                 phi_err *err) PHI_MUST_CHECK;

/* Where a page begins: the seq of `after` in `table`, or the open end. */
phi_status phi_store_page_start(sqlite3 *db, const char *table, const phi_store_page *page,
                                int64_t *out_seq, phi_err *err) PHI_MUST_CHECK;

#endif
