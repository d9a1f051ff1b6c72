#include "server/openai/file_upload.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/str.h"

/* Bytes read at a time when an earlier part is hashed again. */
#define REHASH_BYTES (1U << 20)

/* ---- checks ---- */

phi_status phi_file_check_name(const char *filename, const char *param, phi_err *err)
{
    if (!filename || !filename[0]) {
        return phi_fail_param(
            err, PHI_E_INVALID, param, "the file needs a name: %s",
            strcmp(param, "file") == 0
                ? "send multipart/form-data with 'purpose' and 'file', as curl -F purpose=model "
                  "-F file=@FILE does"
                : "add ?filename=NAME&purpose=model to the address");
    }
    size_t bytes = strlen(filename);
    if (bytes > PHI_LIMIT_NAME_BYTES) {
        return phi_fail_param(err, PHI_E_INVALID, param,
                              "the file name has %zu bytes; at most %u are accepted", bytes,
                              PHI_LIMIT_NAME_BYTES);
    }
    bool good = phi_utf8_valid(filename, bytes) && strcmp(filename, ".") != 0 &&
                strcmp(filename, "..") != 0;
    for (size_t i = 0; i < bytes && good; i++) {
        unsigned char c = (unsigned char)filename[i];
        good = c >= 0x20 && c != 0x7f && c != '/' && c != '\\';
    }
    if (!good) {
        return phi_fail_param(err, PHI_E_INVALID, param,
                              "the file name must be a plain name in UTF-8, without a path ('/', "
                              "'\\', '..') and without control characters");
    }
    return PHI_OK;
}

phi_status phi_file_check_purpose(const char *purpose, phi_err *err)
{
    static const char *const allowed[] = {"model", "calibration", "batch"};
    for (size_t i = 0; purpose && i < sizeof allowed / sizeof *allowed; i++) {
        if (strcmp(purpose, allowed[i]) == 0) {
            return PHI_OK;
        }
    }
    if (!purpose || !purpose[0]) {
        return phi_fail_param(err, PHI_E_INVALID, "purpose",
                              "'purpose' is missing; it must be 'model', 'calibration' or 'batch'");
    }
    return phi_fail_param(err, PHI_E_INVALID, "purpose",
                          "'purpose' is '%.40s'; it must be 'model', 'calibration' or 'batch'",
                          purpose);
}

/* "bytes START-END/TOTAL" */
static phi_status parse_content_range(const char *text, phi_file_upload *upload, phi_err *err)
{
    char copy[80];
    uint64_t start = 0;
    uint64_t last = 0;
    uint64_t total = 0;
    bool good = phi_str_starts(text, "bytes ") && strlen(text) < sizeof copy;
    (void)snprintf(copy, sizeof copy, "%s", good ? text + strlen("bytes ") : "");
    char *dash = strchr(copy, '-');
    char *slash = strchr(copy, '/');
    good = good && dash && slash && dash < slash;
    if (good) {
        *dash = '\0';
        *slash = '\0';
        good = phi_str_parse_u64(copy, PHI_LIMIT_UPLOAD_BYTES, &start) &&
               phi_str_parse_u64(dash + 1, PHI_LIMIT_UPLOAD_BYTES, &last) &&
               phi_str_parse_u64(slash + 1, PHI_LIMIT_UPLOAD_BYTES, &total) && start <= last &&
               last < total;
    }
    if (!good) {
        return phi_fail_param(err, PHI_E_INVALID, "Content-Range",
                              "the Content-Range header is '%.60s'; it must be 'bytes "
                              "START-END/TOTAL' with START <= END < TOTAL",
                              text);
    }
    upload->at_bytes = start;
    upload->end_bytes = last + 1;
    upload->key.total_bytes = total;
    return PHI_OK;
}

/* ---- begin ---- */

static phi_file_upload *upload_create(phi_app *app)
{
    phi_file_upload *upload = phi_alloc_zero(1, sizeof *upload);
    upload->app = app;
    upload->fd = -1;
    upload->fresh = true;
    upload->end_bytes = UINT64_MAX;
    upload->key.total_bytes = UINT64_MAX;
    phi_random_id("upload-", upload->key.id, sizeof upload->key.id);
    phi_sha256_init(&upload->hash);
    return upload;
}

static void upload_free(phi_file_upload *upload)
{
    if (upload->claimed) {
        phi_store_upload_unclaim(upload->app->store, &upload->key);
    }
    phi_free(upload->path);
    phi_free(upload);
}

static phi_status form_begin(void *app, phi_request *request, const char *filename,
                             void **out_state, phi_err *err)
{
    /* The purpose may follow the file in the form; the handler checks it in any case. */
    const char *purpose = phi_request_form(request, "purpose");
    phi_status status = purpose ? phi_file_check_purpose(purpose, err) : PHI_OK;
    status = status ? status : phi_file_check_name(filename, "file", err);
    if (status) {
        return status;
    }
    phi_file_upload *upload = upload_create(app);
    (void)snprintf(upload->key.filename, sizeof upload->key.filename, "%s", filename);
    upload->path = phi_store_incoming_path(upload->app->store, upload->key.id);
    *out_state = upload;
    return PHI_OK;
}

/* Lengths from the headers: Content-Range, else Content-Length. */
static phi_status read_lengths(phi_request *request, phi_file_upload *upload, phi_err *err)
{
    const char *range = phi_request_header(request, "Content-Range");
    const char *length = phi_request_header(request, "Content-Length");
    uint64_t body = 0;
    bool known = length && phi_str_parse_u64(length, PHI_LIMIT_UPLOAD_BYTES, &body);
    if (range) {
        phi_status status = parse_content_range(range, upload, err);
        if (status) {
            return status;
        }
        if (known && body != upload->end_bytes - upload->at_bytes) {
            return phi_fail_param(err, PHI_E_INVALID, "Content-Range",
                                  "Content-Range covers %" PRIu64 " bytes, but Content-Length "
                                  "says %" PRIu64,
                                  upload->end_bytes - upload->at_bytes, body);
        }
    } else if (known) {
        upload->key.total_bytes = body;
        upload->end_bytes = body;
    }
    upload->resumable = upload->key.total_bytes != UINT64_MAX;
    if (upload->resumable && upload->key.total_bytes > upload->app->settings->max_upload_bytes) {
        return phi_fail(err, PHI_E_LIMIT,
                        "the file has %" PRIu64 " bytes; at most %" PRIu64
                        " are accepted (setting max_upload)",
                        upload->key.total_bytes, upload->app->settings->max_upload_bytes);
    }
    return PHI_OK;
}

/* Finds what an earlier request left, and checks that this one goes on there. */
static phi_status find_earlier(phi_file_upload *upload, bool has_range, phi_err *err)
{
    phi_store_upload earlier;
    phi_err ignored;
    if (!has_range) {
        return PHI_OK;
    }
    phi_status status = phi_store_upload_find(upload->app->store, &upload->key, &earlier, &ignored);
    bool goes_on = !status && earlier.total_bytes == upload->key.total_bytes;
    uint64_t offset = goes_on ? earlier.received_bytes : 0;
    if (upload->at_bytes != offset) {
        return phi_fail_param(err, PHI_E_STATE, "Content-Range",
                              "%" PRIu64 " of %" PRIu64 " bytes of '%.80s' have been received: "
                              "the next part must start at %" PRIu64 ", not at %" PRIu64,
                              offset, upload->key.total_bytes, upload->key.filename, offset,
                              upload->at_bytes);
    }
    if (goes_on) {
        upload->key = earlier;
        upload->fresh = false;
    }
    return PHI_OK;
}

static phi_status fill_key(phi_request *request, phi_store_upload *key, phi_err *err)
{
    const char *filename = phi_request_query(request, "filename");
    const char *purpose = phi_request_query(request, "purpose");
    phi_status status = phi_file_check_name(filename, "filename", err);
    status = status ? status : phi_file_check_purpose(purpose, err);
    if (!status) {
        (void)snprintf(key->filename, sizeof key->filename, "%s", filename);
        (void)snprintf(key->purpose, sizeof key->purpose, "%s", purpose);
        key->client = phi_request_client(request);
    }
    return status;
}

static phi_status put_begin(void *app, phi_request *request, const char *filename, void **out_state,
                            phi_err *err)
{
    (void)filename;
    phi_file_upload *upload = upload_create(app);
    phi_status status = fill_key(request, &upload->key, err);
    status = status ? status : read_lengths(request, upload, err);
    if (!status && upload->resumable) {
        upload->claimed = phi_store_upload_claim(upload->app->store, &upload->key);
        if (!upload->claimed) {
            status =
                phi_fail_param(err, PHI_E_STATE, "filename",
                               "another request is uploading '%.80s' now", upload->key.filename);
        }
    }
    bool has_range = phi_request_header(request, "Content-Range") != NULL;
    status = status ? status : find_earlier(upload, has_range, err);
    if (status) {
        upload_free(upload);
        return status;
    }
    upload->path = phi_store_incoming_path(upload->app->store, upload->key.id);
    *out_state = upload;
    return PHI_OK;
}

/* ---- write ---- */

static phi_status fail_errno(phi_err *err, const char *doing)
{
    int errnum = errno;
    phi_status status = phi_status_of_errno(errnum);
    return phi_fail(err, status, "cannot %s the upload: %s", doing,
                    status == PHI_E_NO_SPACE ? "the disk of data_dir is full" : strerror(errnum));
}

/* The digest of a continued upload begins with what is on disk. */
static phi_status rehash(phi_file_upload *upload, phi_err *err)
{
    phi_status status = PHI_OK;
    char *data = phi_alloc(REHASH_BYTES);
    for (uint64_t at = 0; at < upload->at_bytes && !status;) {
        uint64_t left = upload->at_bytes - at;
        size_t want = left < REHASH_BYTES ? (size_t)left : REHASH_BYTES;
        ssize_t got = pread(upload->fd, data, want, (off_t)at);
        if (got <= 0) {
            status = got < 0 ? fail_errno(err, "read")
                             : phi_fail(err, PHI_E_IO, "the part received earlier has shrunk");
            break;
        }
        phi_sha256_update(&upload->hash, data, (size_t)got);
        at += (uint64_t)got;
    }
    phi_free(data);
    return status;
}

/* First write of a request: the row (for what can be resumed) and the file. */
static phi_status open_part(phi_file_upload *upload, phi_err *err)
{
    if (upload->fd >= 0) {
        return PHI_OK;
    }
    int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | (upload->fresh ? O_CREAT | O_EXCL : 0);
    upload->fd = open(upload->path, flags, 0640);
    if (upload->fd < 0) {
        return fail_errno(err, "open");
    }
    if (!upload->fresh) {
        return rehash(upload, err);
    }
    if (!upload->resumable) {
        return PHI_OK;
    }
    phi_status status = phi_store_upload_add(upload->app->store, &upload->key, err);
    upload->discard = status != PHI_OK;
    return status;
}

static phi_status upload_write(void *state, const void *data, size_t bytes, phi_err *err)
{
    phi_file_upload *upload = state;
    uint64_t max = upload->app->settings->max_upload_bytes;
    phi_status status = open_part(upload, err);
    if (status) {
        return status;
    }
    if (bytes > upload->end_bytes - upload->at_bytes) {
        upload->discard = true;
        return phi_fail_param(err, PHI_E_INVALID, "Content-Range",
                              "the body is longer than the headers said");
    }
    if (upload->at_bytes > max || bytes > max - upload->at_bytes) {
        upload->discard = true;
        return phi_fail(err, PHI_E_LIMIT,
                        "the file is larger than %" PRIu64 " bytes (setting max_upload)", max);
    }
    const char *at = data;
    while (bytes > 0) {
        ssize_t put = pwrite(upload->fd, at, bytes, (off_t)upload->at_bytes);
        if (put < 0 && errno == EINTR) {
            continue;
        }
        if (put < 0) {
            /* On a full disk the bytes are worth more to everybody else. */
            status = fail_errno(err, "write");
            upload->discard = true;
            return status;
        }
        phi_sha256_update(&upload->hash, at, (size_t)put);
        at += put;
        upload->at_bytes += (uint64_t)put;
        bytes -= (size_t)put;
    }
    return PHI_OK;
}

static phi_status upload_finish(void *state, phi_err *err)
{
    phi_file_upload *upload = state;
    phi_status status = open_part(upload, err);
    if (status) {
        return status;
    }
    if (fsync(upload->fd) != 0) {
        upload->discard = true;
        return fail_errno(err, "sync");
    }
    uint64_t end = upload->end_bytes;
    if (end != UINT64_MAX && upload->at_bytes != end) {
        return phi_fail_param(err, PHI_E_INVALID, "Content-Range",
                              "the body ended at byte %" PRIu64 " of %" PRIu64, upload->at_bytes,
                              end);
    }
    upload->complete = !upload->resumable || upload->at_bytes == upload->key.total_bytes;
    if (upload->complete) {
        uint8_t digest[PHI_SHA256_BYTES];
        phi_sha256_finish(&upload->hash, digest);
        phi_str_hex(digest, sizeof digest, upload->sha256);
    }
    return PHI_OK;
}

/* ---- end ---- */

/* [job] */
static void end_run(void *arg)
{
    phi_file_upload *upload = arg;
    if (upload->fd >= 0) {
        if (!upload->discard) {
            (void)fsync(upload->fd);
        }
        (void)close(upload->fd);
    }
    bool keep = upload->resumable && !upload->discard;
    if (!keep && upload->resumable) {
        phi_err err;
        if (phi_store_upload_drop(upload->app->store, upload->key.id, &err)) {
            (void)unlink(upload->path);
        }
    } else if (!keep) {
        (void)unlink(upload->path);
    }
}

/* [loop] */
static void end_done(void *arg)
{
    upload_free(arg);
}

void phi_file_upload_close(phi_file_upload *upload)
{
    if (upload->fd >= 0) {
        (void)close(upload->fd);
    }
    upload_free(upload);
}

void phi_file_upload_end(phi_file_upload *upload)
{
    if (upload->fd < 0 && upload->fresh) {
        upload_free(upload);
    } else if (phi_work_submit(upload->app->work, PHI_WORK_TRANSFER, end_run, end_done, upload)) {
        /* The pool is full: a short wait is better than a leak. */
        end_run(upload);
        end_done(upload);
    }
}

static void upload_abort(void *state)
{
    phi_file_upload_end(state);
}

const phi_body_sink phi_file_form_sink = {
    .begin = form_begin, .write = upload_write, .finish = upload_finish, .abort = upload_abort};
const phi_body_sink phi_file_put_sink = {
    .begin = put_begin, .write = upload_write, .finish = upload_finish, .abort = upload_abort};
