#include "server/openai/files.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/openai/errors.h"
#include "server/openai/file_upload.h"
#include "server/openai/pages.h"

/* OpenAI's default for files is 10,000; pages here end at PHI_LIMIT_PAGE. */
#define FILES_PAGE_DEFAULT 100

static json_t *file_json(const phi_store_file *file)
{
    return json_pack("{s:s, s:s, s:I, s:I, s:s, s:s, s:s, s:s}", "id", file->id, "object", "file",
                     "bytes", (json_int_t)file->bytes, "created_at", (json_int_t)file->created_s,
                     "filename", file->filename, "purpose", file->purpose, "status", "processed",
                     "sha256", file->sha256);
}

/* ---- work that waits for the disk: publish and delete ---- */

typedef struct file_task {
    phi_app *app;
    phi_request *request;    /* NULL when the client has gone */
    phi_file_upload *upload; /* publish only */
    phi_store_file file;
    phi_status status;
    phi_err err;
} file_task;

static void task_gone(void *user)
{
    ((file_task *)user)->request = NULL;
}

/* Defers the request and runs the task; answers overload when the pool is full. */
static void task_start(file_task *task, void (*run)(void *arg), void (*done)(void *arg))
{
    phi_request_defer(task->request, task_gone, task);
    /* Not into the task: the worker may be writing to it already. */
    phi_status refused = phi_work_submit(task->app->work, PHI_WORK_TRANSFER, run, done, task);
    if (refused) {
        task->status = phi_fail(&task->err, refused,
                                "too many file operations are waiting; try again in a moment");
        done(task);
    }
}

static void publish_run(void *arg)
{
    file_task *task = arg;
    const char *upload_id = task->upload->resumable ? task->upload->key.id : NULL;
    task->status = phi_store_file_publish(task->app->store, task->upload->path, upload_id,
                                          &task->file, &task->err);
}

static void publish_done(void *arg)
{
    file_task *task = arg;
    if (!task->status) {
        phi_log(PHI_LOG_INFO, "files", "file_stored", "id=%s bytes=%" PRIu64 " purpose=%s",
                task->file.id, task->file.bytes, task->file.purpose);
    }
    /* Ended before the answer: whoever gets it may upload the same name again at once. */
    if (task->status) {
        task->upload->discard = true;
        phi_file_upload_end(task->upload);
    } else {
        phi_file_upload_close(task->upload);
    }
    if (task->request && task->status) {
        phi_respond_err(task->request, &task->err, "not_found");
    } else if (task->request) {
        phi_respond_json(task->request, 200, file_json(&task->file));
    }
    phi_free(task);
}

static void publish(phi_app *app, phi_request *request, phi_file_upload *upload,
                    const char *purpose)
{
    file_task *task = phi_alloc_zero(1, sizeof *task);
    *task = (file_task){.app = app, .request = request, .upload = upload};
    task->file.created_s = phi_clock_unix_s();
    task->file.bytes = upload->at_bytes;
    phi_random_id("file-", task->file.id, sizeof task->file.id);
    (void)snprintf(task->file.filename, sizeof task->file.filename, "%s", upload->key.filename);
    (void)snprintf(task->file.purpose, sizeof task->file.purpose, "%s", purpose);
    (void)snprintf(task->file.sha256, sizeof task->file.sha256, "%s", upload->sha256);
    task_start(task, publish_run, publish_done);
}

/* ---- upload ---- */

static void post_file(void *app, phi_request *request, void *sink_state)
{
    phi_file_upload *upload = sink_state;
    const char *purpose = phi_request_form(request, "purpose");
    phi_err err = {0};
    if (!upload) {
        phi_respond_error(request, 400, "invalid_request_error", NULL, "file",
                          "the form has no file: send multipart/form-data with the fields "
                          "'purpose' and 'file'");
        return;
    }
    if (phi_file_check_purpose(purpose, &err)) {
        phi_respond_err(request, &err, "not_found");
        upload->discard = true;
        phi_file_upload_end(upload);
        return;
    }
    publish(app, request, upload, purpose);
}

static void offset_headers(phi_request *request, uint64_t received, uint64_t total)
{
    char text[80];
    (void)snprintf(text, sizeof text, "%" PRIu64, received);
    phi_respond_header(request, "Upload-Offset", text);
    (void)snprintf(text, sizeof text, "%" PRIu64, total);
    phi_respond_header(request, "Upload-Length", text);
    if (received > 0) {
        (void)snprintf(text, sizeof text, "bytes=0-%" PRIu64, received - 1);
        phi_respond_header(request, "Range", text);
    }
}

static void put_file(void *app, phi_request *request, void *sink_state)
{
    phi_file_upload *upload = sink_state;
    if (!upload) {
        phi_respond_error(request, 400, "invalid_request_error", NULL, NULL,
                          "the request has no body");
        return;
    }
    if (upload->complete) {
        publish(app, request, upload, upload->key.purpose);
        return;
    }
    offset_headers(request, upload->at_bytes, upload->key.total_bytes);
    json_t *answer =
        json_pack("{s:s, s:s, s:s, s:I, s:I}", "object", "file.part", "filename",
                  upload->key.filename, "purpose", upload->key.purpose, "bytes_received",
                  (json_int_t)upload->at_bytes, "bytes_total", (json_int_t)upload->key.total_bytes);
    phi_file_upload_close(upload);
    phi_respond_json(request, 202, answer);
}

static void head_file(void *app_, phi_request *request, void *sink_state)
{
    phi_app *app = app_;
    (void)sink_state;
    phi_store_upload key = {.client = phi_request_client(request)};
    const char *filename = phi_request_query(request, "filename");
    const char *purpose = phi_request_query(request, "purpose");
    phi_store_upload upload;
    phi_err err = {0};
    phi_status status = phi_file_check_name(filename, "filename", &err);
    status = status ? status : phi_file_check_purpose(purpose, &err);
    if (!status) {
        (void)snprintf(key.filename, sizeof key.filename, "%s", filename);
        (void)snprintf(key.purpose, sizeof key.purpose, "%s", purpose);
        status = phi_store_upload_find(app->store, &key, &upload, &err);
    }
    if (status) {
        phi_respond_err(request, &err, "not_found");
        return;
    }
    offset_headers(request, upload.received_bytes, upload.total_bytes);
    phi_respond_header(request, "Cache-Control", "no-store");
    phi_respond_empty(request, 200);
}

/* ---- read ---- */

static void list_files(void *app_, phi_request *request, void *sink_state)
{
    phi_app *app = app_;
    (void)sink_state;
    const char *purpose = phi_request_query(request, "purpose");
    phi_store_page page;
    phi_err err = {0};
    bool more = false;
    size_t count = 0;
    phi_store_file *files = NULL;
    phi_status status = purpose ? phi_file_check_purpose(purpose, &err) : PHI_OK;
    status = status ? status : phi_page_parse(request, FILES_PAGE_DEFAULT, &page, &err);
    if (!status) {
        files = phi_alloc_zero(page.limit, sizeof *files);
        status = phi_store_file_list(app->store, purpose, &page, files, &count, &more, &err);
    }
    if (status) {
        phi_respond_err(request, &err, "not_found");
        phi_free(files);
        return;
    }
    json_t *data = json_array();
    for (size_t i = 0; i < count; i++) {
        (void)json_array_append_new(data, file_json(&files[i]));
    }
    phi_free(files);
    phi_respond_json(request, 200, phi_page_json(data, more));
}

/* False: the request has been answered. */
static bool find_file(phi_app *app, phi_request *request, phi_store_file *out_file)
{
    phi_err err = {0};
    if (phi_store_file_get(app->store, phi_request_part(request, 0), out_file, &err)) {
        phi_respond_err(request, &err, "not_found");
        return false;
    }
    return true;
}

static void get_file(void *app_, phi_request *request, void *sink_state)
{
    phi_app *app = app_;
    (void)sink_state;
    phi_store_file file;
    if (!find_file(app, request, &file)) {
        return;
    }
    phi_respond_json(request, 200, file_json(&file));
}

static void get_content(void *app_, phi_request *request, void *sink_state)
{
    phi_app *app = app_;
    (void)sink_state;
    phi_store_file file;
    if (!find_file(app, request, &file)) {
        return;
    }
    char *path = phi_store_blob_path(app->store, file.sha256);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    phi_free(path);
    if (fd < 0) {
        phi_log(PHI_LOG_ERROR, "files", "bytes_missing", "id=%s sha256=%s", file.id, file.sha256);
        phi_err err = {0};
        (void)phi_fail(&err, PHI_E_IO, "the bytes of file '%s' cannot be read", file.id);
        phi_respond_err(request, &err, "not_found");
        return;
    }
    char etag[PHI_STORE_SHA_BYTES + 2];
    (void)snprintf(etag, sizeof etag, "\"%s\"", file.sha256);
    phi_respond_file(request, fd, file.bytes, etag, "application/octet-stream", file.filename);
}

/* ---- delete ---- */

static void delete_run(void *arg)
{
    file_task *task = arg;
    task->status = phi_store_file_delete(task->app->store, task->file.id, &task->err);
}

static void delete_done(void *arg)
{
    file_task *task = arg;
    if (task->request && task->status) {
        phi_respond_err(task->request, &task->err, "not_found");
    } else if (task->request) {
        phi_respond_json(
            task->request, 200,
            json_pack("{s:s, s:s, s:b}", "id", task->file.id, "object", "file", "deleted", 1));
    }
    phi_free(task);
}

static void delete_file(void *app, phi_request *request, void *sink_state)
{
    (void)sink_state;
    const char *id = phi_request_part(request, 0);
    file_task *task = phi_alloc_zero(1, sizeof *task);
    *task = (file_task){.app = app, .request = request};
    (void)snprintf(task->file.id, sizeof task->file.id, "%s", id);
    task_start(task, delete_run, delete_done);
}

const phi_route phi_files_routes[] = {
    {"POST", "/v1/files", PHI_BODY_SINK, &phi_file_form_sink, false, post_file},
    {"PUT", "/v1/files", PHI_BODY_SINK, &phi_file_put_sink, false, put_file},
    {"HEAD", "/v1/files", PHI_BODY_NONE, NULL, false, head_file},
    {"GET", "/v1/files", PHI_BODY_NONE, NULL, false, list_files},
    {"GET", "/v1/files/{id}", PHI_BODY_NONE, NULL, false, get_file},
    {"DELETE", "/v1/files/{id}", PHI_BODY_NONE, NULL, false, delete_file},
    {"GET", "/v1/files/{id}/content", PHI_BODY_NONE, NULL, false, get_content},
};
const size_t phi_files_routes_count = sizeof phi_files_routes / sizeof *phi_files_routes;
