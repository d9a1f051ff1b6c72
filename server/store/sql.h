/*
 * Purpose: SQLite in this program's terms: statements with typed bindings, and statuses.
 * Owns:    a statement from phi_sql_query to phi_sql_end.
 * Threads: those of the connection: one at a time.
 * Errors:  a full disk is PHI_E_NO_SPACE, the rest PHI_E_IO with SQLite's words.
 * Limits:  none. Inside server/store only.
 */
#ifndef PHI_SERVER_STORE_SQL_H
#define PHI_SERVER_STORE_SQL_H

#include "base/status.h"

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct phi_bind {
    enum { PHI_BIND_TEXT, PHI_BIND_INT, PHI_BIND_REAL } kind;
    const char *text; /* NULL binds NULL; borrowed for the call */
    int64_t integer;
    double real;
} phi_bind;

#define BIND_TEXT(value) ((phi_bind){.kind = PHI_BIND_TEXT, .text = (value)})
#define BIND_INT(value) ((phi_bind){.kind = PHI_BIND_INT, .integer = (int64_t)(value)})
#define BIND_REAL(value) ((phi_bind){.kind = PHI_BIND_REAL, .real = (value)})
/* Array and length of a list of bindings, as the calls below take them. */
#define BINDS(...)                                                                                 \
    (const phi_bind[]){__VA_ARGS__}, sizeof((const phi_bind[]){__VA_ARGS__}) / sizeof(phi_bind)
#define NO_BINDS NULL, 0

/* The status for SQLite's last error on `db`; `doing` says what failed. */
phi_status phi_sql_fail(sqlite3 *db, const char *doing, phi_err *err);
/* One or more statements without parameters or rows. */
phi_status phi_sql_exec(sqlite3 *db, const char *sql, phi_err *err) PHI_MUST_CHECK;
/* One statement without rows. */
phi_status phi_sql_run(sqlite3 *db, const char *sql, const phi_bind *binds, size_t n_binds,
                       phi_err *err) PHI_MUST_CHECK;
/* One statement with rows; the bound texts must live until phi_sql_end. */
phi_status phi_sql_query(sqlite3 *db, const char *sql, const phi_bind *binds, size_t n_binds,
                         sqlite3_stmt **out_statement, phi_err *err) PHI_MUST_CHECK;
/* Steps: *out_row tells whether there is a row. */
phi_status phi_sql_next(sqlite3_stmt *statement, bool *out_row, phi_err *err) PHI_MUST_CHECK;
/* Accepts NULL. */
void phi_sql_end(sqlite3_stmt *statement);
/* The first column of the first row; `fallback` when there is no row. */
phi_status phi_sql_integer(sqlite3 *db, const char *sql, const phi_bind *binds, size_t n_binds,
                           int64_t fallback, int64_t *out_value, phi_err *err) PHI_MUST_CHECK;

/* Column `index` of the current row. The text is cut to fit; NULL reads as "". */
void phi_sql_text(sqlite3_stmt *statement, int index, char *out, size_t out_bytes);
/* A fresh copy (phi_free), NULL for NULL. */
char *phi_sql_text_take(sqlite3_stmt *statement, int index);

#endif
