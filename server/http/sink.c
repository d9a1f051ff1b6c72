/*
 * Invariant: while request->working is set, the worker pool alone touches the block, the state and
 * the result; the connection is suspended, so that nothing arrives meanwhile.
 */
#include "server/http/http_internal.h"

#include "base/assert.h"
#include "base/mem.h"
#include "base/str.h"
#include "server/work.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

/* Bytes that are collected before they are written. */
#define BLOCK_BYTES (1U << 20)
/* libmicrohttpd's buffer for a form: part headers must fit. */
#define FORM_BYTES 32768U
/* RFC 2046's own limit. */
#define BOUNDARY_BYTES_MAX 70U

struct phi_sink_run {
    phi_request *request;
    const phi_body_sink *sink;
    void *state; /* the sink's */
    bool begun;  /* the state is ours to abort */
    bool last;   /* finish follows the write */
    bool file_seen;
    struct MHD_PostProcessor *form;
    char *field_name;
    phi_buf field;
    phi_buf block;
    phi_status status;
    phi_err err;
};

static void fail(phi_request *request, const phi_err *err)
{
    request->http->options.fail(request->http->options.app, request, err);
}

static phi_status begin(phi_sink_run *run, const char *filename)
{
    phi_request *request = run->request;
    phi_err err = {0};
    phi_status status =
        run->sink->begin(request->http->options.app, request, filename, &run->state, &err);
    run->begun = status == PHI_OK;
    if (status) {
        fail(request, &err);
    }
    return status;
}

static void abort_state(phi_sink_run *run)
{
    if (run->begun) {
        run->begun = false;
        run->sink->abort(run->state);
    }
}

void phi_sink_destroy(phi_sink_run *run)
{
    if (!run) {
        return;
    }
    abort_state(run);
    if (run->form) {
        (void)MHD_destroy_post_processor(run->form);
    }
    phi_free(run->field_name);
    phi_buf_done(&run->field);
    phi_buf_done(&run->block);
    phi_free(run);
}

/* ---- writing ---- */

static void on_write(void *arg)
{
    phi_sink_run *run = arg;
    run->status = PHI_OK;
    if (run->block.length_bytes > 0) {
        run->status =
            run->sink->write(run->state, run->block.data, run->block.length_bytes, &run->err);
    }
    if (!run->status && run->last) {
        run->status = run->sink->finish(run->state, &run->err);
    }
}

static void on_written(void *arg)
{
    phi_sink_run *run = arg;
    phi_request *request = run->request;
    request->working = false;
    if (!request->http) {
        phi_request_destroy(request);
        return;
    }
    phi_buf_clear(&run->block);
    if (run->status) {
        abort_state(run);
        fail(request, &run->err);
        if (!run->last) {
            phi_respond_past(request);
        }
    } else if (run->last) {
        run->begun = false;
        phi_http_dispatch(request, run->state);
    } else {
        phi_http_resume(request);
    }
}

static void submit(phi_sink_run *run)
{
    phi_request *request = run->request;
    request->working = true;
    if (phi_work_submit(request->http->options.work, PHI_WORK_TRANSFER, on_write, on_written,
                        run)) {
        request->working = false;
        phi_err err;
        (void)phi_fail(&err, PHI_E_BUSY, "too many uploads are being written; try again later");
        abort_state(run);
        fail(request, &err);
    }
}

static void collect(phi_sink_run *run, const char *data, size_t bytes)
{
    if (phi_buf_append(&run->block, data, bytes)) {
        phi_err err;
        (void)phi_fail(&err, PHI_E_NO_MEMORY, "there is not enough memory for the upload");
        abort_state(run);
        fail(run->request, &err);
    }
}

/* ---- forms ---- */

/* A boundary that libmicrohttpd's parser is known to handle: 1 to 70 characters of RFC 2046's set,
 * in quotes or not. */
static bool boundary_is_sane(const char *type)
{
    const char *at = strcasestr(type, "boundary=");
    if (!at) {
        return false;
    }
    at += strlen("boundary=");
    bool quoted = *at == '"';
    at += quoted;
    size_t bytes = strspn(at, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                              "'()+_,-./:=?");
    return bytes > 0 && bytes <= BOUNDARY_BYTES_MAX &&
           (quoted ? strcmp(at + bytes, "\"") == 0 : at[bytes] == '\0');
}

static void flush_field(phi_sink_run *run)
{
    if (run->field_name) {
        char *name = run->field_name;
        run->field_name = NULL;
        if (!phi_pairs_add(&run->request->form, name, phi_buf_take(&run->field))) {
            phi_respond_error(run->request, 400, "invalid_request_error", NULL, NULL,
                              "the form has more than 32 fields");
        }
    }
}

static void add_to_field(phi_sink_run *run, const char *key, const char *data, size_t bytes,
                         bool starts)
{
    if (starts) {
        flush_field(run);
        run->field_name = phi_strdup(key);
    }
    if (run->field_name && phi_buf_append(&run->field, data, bytes) && !run->request->response) {
        char message[160];
        (void)snprintf(message, sizeof message, "the form's field '%.60s' is longer than %u bytes",
                       key, PHI_HTTP_FIELD_BYTES_MAX);
        phi_respond_error(run->request, 400, "invalid_request_error", NULL, key, message);
    }
}

static enum MHD_Result on_form(void *cls, enum MHD_ValueKind kind, const char *key,
                               const char *filename, const char *type, const char *encoding,
                               const char *data, uint64_t offset, size_t bytes)
{
    (void)kind;
    (void)type;
    (void)encoding;
    phi_sink_run *run = cls;
    phi_request *request = run->request;
    if (request->response) {
        return MHD_NO;
    }
    if (!key || strcmp(key, "file") != 0) {
        add_to_field(run, key ? key : "", data, bytes, offset == 0);
        return request->response ? MHD_NO : MHD_YES;
    }
    if (offset == 0) {
        flush_field(run);
        if (run->file_seen && !request->response) {
            phi_respond_error(request, 400, "invalid_request_error", NULL, "file",
                              "the form has more than one field 'file'");
        }
        run->file_seen = true;
        if (request->response || begin(run, filename)) {
            return MHD_NO;
        }
    }
    collect(run, data, bytes);
    return request->response ? MHD_NO : MHD_YES;
}

/* ---- from body.c ---- */

bool phi_sink_begin(phi_request *request)
{
    const char *type = phi_request_header(request, "Content-Type");
    phi_sink_run *run = phi_alloc_zero(1, sizeof *run);
    run->request = request;
    run->sink = request->route->sink;
    request->sink = run;
    phi_buf_init(&run->field, PHI_HTTP_FIELD_BYTES_MAX);
    /* Beside a full block, what one call brings. */
    phi_buf_init(&run->block, BLOCK_BYTES + 2 * PHI_HTTP_CONNECTION_BYTES);
    if (type && strncasecmp(type, "multipart/form-data", strlen("multipart/form-data")) == 0) {
        run->form = boundary_is_sane(type)
                        ? MHD_create_post_processor(request->connection, FORM_BYTES, on_form, run)
                        : NULL;
        if (!run->form) {
            phi_respond_error(request, 400, "invalid_request_error", NULL, "Content-Type",
                              "the multipart form needs a boundary of 1 to 70 characters in its "
                              "Content-Type header");
        }
        return run->form != NULL;
    }
    bool announced = phi_request_header(request, "Content-Length") ||
                     phi_request_header(request, "Transfer-Encoding");
    return !announced || begin(run, NULL) == PHI_OK;
}

void phi_sink_data(phi_request *request, const char *data, size_t bytes)
{
    phi_sink_run *run = request->sink;
    if (!run->form) {
        collect(run, data, bytes);
    } else if (MHD_post_process(run->form, data, bytes) != MHD_YES && !request->response) {
        phi_respond_error(request, 400, "invalid_request_error", NULL, NULL,
                          "the multipart form is malformed");
    }
    if (!request->response && run->block.length_bytes >= BLOCK_BYTES) {
        submit(run);
    }
}

void phi_sink_end(phi_request *request)
{
    phi_sink_run *run = request->sink;
    if (run->form) {
        enum MHD_Result whole = MHD_destroy_post_processor(run->form);
        run->form = NULL;
        flush_field(run);
        if (!request->response && (whole != MHD_YES || !run->begun)) {
            phi_respond_error(request, 400, "invalid_request_error", NULL, "file",
                              whole != MHD_YES
                                  ? "the multipart form ends before its closing boundary"
                                  : "the form has no field 'file'; it must hold the upload");
        }
        if (request->response) {
            abort_state(run);
            return;
        }
    }
    if (!run->begun) {
        phi_http_dispatch(request, NULL);
        return;
    }
    run->last = true;
    submit(run);
}
