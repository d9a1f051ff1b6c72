#include "server/store/store_internal.h"

#include "base/mem.h"

phi_status phi_store_event_add(phi_store *store, const char *job_id, const phi_store_event *event,
                               phi_err *err)
{
    phi_status status = phi_store_write_begin(store, err);
    /* Numbers without gaps, and the cap, in one statement. */
    status = status ? status
                    : phi_sql_run(store->writer,
                                  "INSERT INTO job_events SELECT ?1, n + 1, ?2, ?3, ?4, ?5, ?6 FROM"
                                  " (SELECT coalesce(max(number), 0) AS n FROM job_events"
                                  "  WHERE job_id = ?1) WHERE n < ?7",
                                  BINDS(BIND_TEXT(job_id), BIND_INT(event->created_s),
                                        BIND_TEXT(event->level), BIND_TEXT(event->type),
                                        BIND_TEXT(event->message), BIND_TEXT(event->data),
                                        BIND_INT(PHI_LIMIT_JOB_EVENTS)),
                                  err);
    status = phi_store_write_commit(store, status, err);
    phi_store_write_end(store);
    return status;
}

phi_status phi_store_event_list(phi_store *store, const char *job_id, uint32_t after, size_t limit,
                                phi_store_event *out_events, size_t *out_count, bool *out_more,
                                phi_err *err)
{
    sqlite3 *db = phi_store_read_begin(store);
    sqlite3_stmt *statement = NULL;
    size_t count = 0;
    bool more = false;
    phi_status status = phi_sql_query(
        db,
        "SELECT number, created_s, level, type, message, data FROM"
        " job_events WHERE job_id = ?1 AND number > ?2"
        " ORDER BY number LIMIT ?3",
        BINDS(BIND_TEXT(job_id), BIND_INT(after), BIND_INT(limit + 1)), &statement, err);
    for (bool row = true; !status && row && !more;) {
        status = phi_sql_next(statement, &row, err);
        if (status || !row) {
            break;
        }
        more = count == limit;
        if (more) {
            break;
        }
        phi_store_event *event = &out_events[count++];
        *event = (phi_store_event){.number = (uint32_t)sqlite3_column_int64(statement, 0),
                                   .created_s = sqlite3_column_int64(statement, 1)};
        phi_sql_text(statement, 2, event->level, sizeof event->level);
        phi_sql_text(statement, 3, event->type, sizeof event->type);
        phi_sql_text(statement, 4, event->message, sizeof event->message);
        event->data = phi_sql_text_take(statement, 5);
    }
    phi_sql_end(statement);
    phi_store_read_end(store);
    if (status) {
        phi_store_events_done(out_events, count);
        return status;
    }
    *out_count = count;
    *out_more = more;
    return PHI_OK;
}

void phi_store_events_done(phi_store_event *events, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        phi_free(events[i].data);
    }
}
