#include "server/store/store_internal.h"

#include <stdio.h>

/*
 * One entry per version; an entry, once released, is never edited: later changes are appended.
 *
 * `seq` orders lists; ids are random. `sha256` names a blob, and these columns are all that keeps
 * one alive: files, models, model_files, job_files (store.c, "referenced").
 */
static const char *const migrations[] = {
    /* 1 */
    "CREATE TABLE files ("
    " seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,"
    " created_s INTEGER NOT NULL, filename TEXT NOT NULL, purpose TEXT NOT NULL,"
    " sha256 TEXT NOT NULL, bytes INTEGER NOT NULL) STRICT;"
    "CREATE INDEX files_sha256 ON files (sha256);"
    "CREATE TABLE uploads ("
    " id TEXT PRIMARY KEY, client INTEGER NOT NULL, filename TEXT NOT NULL,"
    " purpose TEXT NOT NULL, total_bytes INTEGER NOT NULL, created_s INTEGER NOT NULL,"
    " UNIQUE (client, filename, purpose)) STRICT;"
    "CREATE TABLE models ("
    " seq INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, precision TEXT NOT NULL,"
    " sha256 TEXT NOT NULL, bytes INTEGER NOT NULL, created_s INTEGER NOT NULL,"
    " context_length INTEGER NOT NULL, architecture TEXT NOT NULL, quality TEXT,"
    " UNIQUE (name, precision)) STRICT;"
    "CREATE INDEX models_sha256 ON models (sha256);"
    "CREATE TABLE model_files ("
    " name TEXT NOT NULL, filename TEXT NOT NULL, sha256 TEXT, bytes INTEGER NOT NULL, path TEXT,"
    " PRIMARY KEY (name, filename)) STRICT;"
    "CREATE INDEX model_files_sha256 ON model_files (sha256);"
    "CREATE TABLE jobs ("
    " seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, status INTEGER NOT NULL,"
    " cancel INTEGER NOT NULL DEFAULT 0, created_s INTEGER NOT NULL, started_s INTEGER NOT NULL,"
    " finished_s INTEGER NOT NULL, model TEXT NOT NULL, precision TEXT NOT NULL,"
    " stage TEXT NOT NULL, progress REAL NOT NULL, bytes_done INTEGER NOT NULL,"
    " bytes_total INTEGER NOT NULL, request TEXT NOT NULL, result TEXT) STRICT;"
    "CREATE INDEX jobs_status ON jobs (status);"
    "CREATE TABLE job_files ("
    " job_id TEXT NOT NULL, role TEXT NOT NULL, filename TEXT NOT NULL, sha256 TEXT,"
    " bytes INTEGER NOT NULL, path TEXT, PRIMARY KEY (job_id, role, filename)) STRICT;"
    "CREATE INDEX job_files_sha256 ON job_files (sha256);"
    "CREATE TABLE job_events ("
    " job_id TEXT NOT NULL, number INTEGER NOT NULL, created_s INTEGER NOT NULL,"
    " level TEXT NOT NULL, type TEXT NOT NULL, message TEXT NOT NULL, data TEXT,"
    " PRIMARY KEY (job_id, number)) STRICT, WITHOUT ROWID;",
    /* 2: phi_job_kind; those that were there are quantizations */
    "ALTER TABLE jobs ADD COLUMN kind INTEGER NOT NULL DEFAULT 0;",
};

static phi_status migrate_one(sqlite3 *db, size_t version, phi_err *err)
{
    char set_version[64];
    (void)snprintf(set_version, sizeof set_version, "PRAGMA user_version = %zu", version + 1);
    phi_status status = phi_sql_exec(db, "BEGIN IMMEDIATE", err);
    if (status) {
        return status;
    }
    status = phi_sql_exec(db, migrations[version], err);
    status = status ? status : phi_sql_exec(db, set_version, err);
    status = status ? status : phi_sql_exec(db, "COMMIT", err);
    if (status) {
        (void)sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    }
    return status;
}

phi_status phi_store_schema(sqlite3 *db, phi_err *err)
{
    const int64_t newest = sizeof migrations / sizeof *migrations;
    int64_t version = 0;
    phi_status status = phi_sql_integer(db, "PRAGMA user_version", NO_BINDS, 0, &version, err);
    if (status) {
        return status;
    }
    if (version > newest) {
        return phi_fail(err, PHI_E_UNSUPPORTED,
                        "the database has version %lld, written by a newer phid; this one knows "
                        "versions up to %lld",
                        (long long)version, (long long)newest);
    }
    for (int64_t i = version; i < newest && !status; i++) {
        status = migrate_one(db, (size_t)i, err);
    }
    return status;
}
