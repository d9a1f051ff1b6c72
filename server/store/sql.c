#include "server/store/sql.h"

#include <errno.h>
#include <stdio.h>

#include "base/mem.h"

phi_status phi_sql_fail(sqlite3 *db, const char *doing, phi_err *err)
{
    int code = sqlite3_errcode(db) & 0xff;
    int system = sqlite3_system_errno(db);
    phi_status status = PHI_E_IO;
    if (code == SQLITE_FULL || (code == SQLITE_IOERR && (system == ENOSPC || system == EDQUOT))) {
        status = PHI_E_NO_SPACE;
    } else if (code == SQLITE_NOMEM) {
        status = PHI_E_NO_MEMORY;
    }
    return phi_fail(err, status, "%s: %s", doing,
                    status == PHI_E_NO_SPACE ? "the disk of data_dir is full" : sqlite3_errmsg(db));
}

phi_status phi_sql_exec(sqlite3 *db, const char *sql, phi_err *err)
{
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK) {
        return phi_sql_fail(db, "the database", err);
    }
    return PHI_OK;
}

static int bind_one(sqlite3_stmt *statement, int index, const phi_bind *bind)
{
    switch (bind->kind) {
    case PHI_BIND_TEXT:
        return bind->text ? sqlite3_bind_text(statement, index, bind->text, -1, SQLITE_STATIC)
                          : sqlite3_bind_null(statement, index);
    case PHI_BIND_INT:
        return sqlite3_bind_int64(statement, index, bind->integer);
    case PHI_BIND_REAL:
        return sqlite3_bind_double(statement, index, bind->real);
    }
    return SQLITE_MISUSE;
}

phi_status phi_sql_query(sqlite3 *db, const char *sql, const phi_bind *binds, size_t n_binds,
                         sqlite3_stmt **out_statement, phi_err *err)
{
    sqlite3_stmt *statement = NULL;
    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK) {
        return phi_sql_fail(db, "the database", err);
    }
    for (size_t i = 0; i < n_binds; i++) {
        if (bind_one(statement, (int)i + 1, &binds[i]) != SQLITE_OK) {
            phi_status status = phi_sql_fail(db, "the database", err);
            (void)sqlite3_finalize(statement);
            return status;
        }
    }
    *out_statement = statement;
    return PHI_OK;
}

phi_status phi_sql_next(sqlite3_stmt *statement, bool *out_row, phi_err *err)
{
    int code = sqlite3_step(statement);
    if (code != SQLITE_ROW && code != SQLITE_DONE) {
        return phi_sql_fail(sqlite3_db_handle(statement), "the database", err);
    }
    *out_row = code == SQLITE_ROW;
    return PHI_OK;
}

void phi_sql_end(sqlite3_stmt *statement)
{
    (void)sqlite3_finalize(statement);
}

phi_status phi_sql_run(sqlite3 *db, const char *sql, const phi_bind *binds, size_t n_binds,
                       phi_err *err)
{
    sqlite3_stmt *statement = NULL;
    phi_status status = phi_sql_query(db, sql, binds, n_binds, &statement, err);
    bool row = true;
    while (!status && row) {
        status = phi_sql_next(statement, &row, err);
    }
    phi_sql_end(statement);
    return status;
}

phi_status phi_sql_integer(sqlite3 *db, const char *sql, const phi_bind *binds, size_t n_binds,
                           int64_t fallback, int64_t *out_value, phi_err *err)
{
    sqlite3_stmt *statement = NULL;
    bool row = false;
    phi_status status = phi_sql_query(db, sql, binds, n_binds, &statement, err);
    status = status ? status : phi_sql_next(statement, &row, err);
    if (!status) {
        *out_value = row ? sqlite3_column_int64(statement, 0) : fallback;
    }
    phi_sql_end(statement);
    return status;
}

void phi_sql_text(sqlite3_stmt *statement, int index, char *out, size_t out_bytes)
{
    const unsigned char *text = sqlite3_column_text(statement, index);
    (void)snprintf(out, out_bytes, "%s", text ? (const char *)text : "");
}

char *phi_sql_text_take(sqlite3_stmt *statement, int index)
{
    const unsigned char *text = sqlite3_column_text(statement, index);
    return text ? phi_strdup((const char *)text) : NULL;
}
