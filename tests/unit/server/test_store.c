#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "server/store/store.h"

static char dir[64];
static phi_store *store;

static int setup(void **state)
{
    (void)state;
    phi_log_setup(PHI_LOG_OFF, false);
    (void)snprintf(dir, sizeof dir, "/tmp/phid-store-XXXXXX");
    assert_non_null(mkdtemp(dir));
    phi_err err = {0};
    if (phi_store_open(dir, &store, &err)) {
        fail_msg("%s", err.message);
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    phi_store_close(store);
    store = NULL;
    char command[128];
    (void)snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command);
}

static void reopen(void)
{
    phi_err err = {0};
    phi_store_close(store);
    store = NULL;
    if (phi_store_open(dir, &store, &err)) {
        fail_msg("%s", err.message);
    }
}

static void expect(phi_status got, phi_status want, const phi_err *err)
{
    if (got != want) {
        fail_msg("%s instead of %s: %s", phi_status_name(got), phi_status_name(want),
                 got ? err->message : "");
    }
}

/* Writes `text` to a fresh file in incoming/; `file` gets digest and length. */
static char *make_file(const char *text, phi_store_file *file)
{
    phi_sha256 hash;
    uint8_t digest[PHI_SHA256_BYTES];
    phi_sha256_init(&hash);
    phi_sha256_update(&hash, text, strlen(text));
    phi_sha256_finish(&hash, digest);
    *file = (phi_store_file){.created_s = 1000, .bytes = strlen(text)};
    phi_str_hex(digest, sizeof digest, file->sha256);
    phi_random_id("file-", file->id, sizeof file->id);
    (void)snprintf(file->filename, sizeof file->filename, "config.json");
    (void)snprintf(file->purpose, sizeof file->purpose, "model");
    char *path = phi_store_incoming_path(store, file->id);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    (void)close(fd);
    return path;
}

static phi_store_file add_file(const char *text)
{
    phi_err err = {0};
    phi_store_file file;
    char *path = make_file(text, &file);
    expect(phi_store_file_publish(store, path, NULL, &file, &err), PHI_OK, &err);
    assert_false(phi_file_exists(path));
    phi_free(path);
    return file;
}

static bool blob_exists(const char *sha256)
{
    char *path = phi_store_blob_path(store, sha256);
    bool there = phi_file_exists(path);
    phi_free(path);
    return there;
}

static void test_file_round_trip(void **state)
{
    (void)state;
    phi_err err = {0};
    phi_store_file file = add_file("hello");
    phi_store_file got;
    reopen();
    expect(phi_store_file_get(store, file.id, &got, &err), PHI_OK, &err);
    assert_string_equal(got.filename, "config.json");
    assert_string_equal(got.sha256, file.sha256);
    assert_int_equal(got.bytes, 5);
    assert_int_equal(got.created_s, 1000);
    expect(phi_store_file_get(store, "file-no", &got, &err), PHI_E_NOT_FOUND, &err);
    expect(phi_store_file_delete(store, "file-no", &err), PHI_E_NOT_FOUND, &err);
}

static void test_same_content_is_one_blob(void **state)
{
    (void)state;
    phi_err err = {0};
    phi_store_file one = add_file("same");
    phi_store_file two = add_file("same");
    assert_string_equal(one.sha256, two.sha256);
    expect(phi_store_file_delete(store, one.id, &err), PHI_OK, &err);
    assert_true(blob_exists(one.sha256));
    expect(phi_store_file_delete(store, two.id, &err), PHI_OK, &err);
    assert_false(blob_exists(one.sha256));
}

static void test_pages(void **state)
{
    (void)state;
    phi_err err = {0};
    phi_store_file files[5];
    for (int i = 0; i < 5; i++) {
        char text[8];
        (void)snprintf(text, sizeof text, "f%d", i);
        files[i] = add_file(text);
    }
    phi_store_file page[2];
    size_t count = 0;
    bool more = false;
    phi_store_page ask = {.limit = 2};
    expect(phi_store_file_list(store, NULL, &ask, page, &count, &more, &err), PHI_OK, &err);
    assert_int_equal(count, 2);
    assert_true(more);
    assert_string_equal(page[0].id, files[4].id);
    ask.after = files[1].id;
    expect(phi_store_file_list(store, "model", &ask, page, &count, &more, &err), PHI_OK, &err);
    assert_int_equal(count, 1);
    assert_false(more);
    assert_string_equal(page[0].id, files[0].id);
    ask = (phi_store_page){.limit = 2, .ascending = true, .after = files[2].id};
    expect(phi_store_file_list(store, NULL, &ask, page, &count, &more, &err), PHI_OK, &err);
    assert_int_equal(count, 2);
    assert_false(more);
    assert_string_equal(page[1].id, files[4].id);
    ask = (phi_store_page){.limit = 2};
    expect(phi_store_file_list(store, "batch", &ask, page, &count, &more, &err), PHI_OK, &err);
    assert_int_equal(count, 0);
    ask.after = "file-unknown";
    expect(phi_store_file_list(store, NULL, &ask, page, &count, &more, &err), PHI_E_INVALID, &err);
    assert_string_equal(err.param, "after");
}

static void test_leftovers_are_removed(void **state)
{
    (void)state;
    phi_err err = {0};
    phi_store_file kept = add_file("kept");
    phi_store_file lost = add_file("lost");
    phi_store_file stray;
    char *stray_path = make_file("stray", &stray);
    char *orphan = phi_store_blob_path(store, "0123");
    char *lost_path = phi_store_blob_path(store, lost.sha256);
    char *work = phi_store_work_path(store, "qjob-x");
    assert_int_equal(mkdir(work, 0700), 0);
    assert_int_equal(symlink("/etc/passwd", orphan), 0);
    assert_int_equal(unlink(lost_path), 0);
    reopen();
    phi_store_file got;
    expect(phi_store_file_get(store, kept.id, &got, &err), PHI_OK, &err);
    expect(phi_store_file_get(store, lost.id, &got, &err), PHI_E_NOT_FOUND, &err);
    assert_true(blob_exists(kept.sha256));
    assert_false(phi_file_exists(stray_path));
    assert_false(phi_file_exists(orphan));
    assert_false(phi_file_exists(work));
    assert_true(phi_file_exists("/etc/passwd"));
    phi_free(stray_path);
    phi_free(orphan);
    phi_free(lost_path);
    phi_free(work);
}

static void test_second_daemon_is_refused(void **state)
{
    (void)state;
    phi_err err = {0};
    phi_store *second = NULL;
    expect(phi_store_open(dir, &second, &err), PHI_E_STATE, &err);
    assert_null(second);
}

static void test_newer_database_is_refused(void **state)
{
    (void)state;
    phi_err err = {0};
    phi_store_close(store);
    store = NULL;
    char path[96];
    (void)snprintf(path, sizeof path, "%s/phid.db", dir);
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA user_version = 999", NULL, NULL, NULL), SQLITE_OK);
    (void)sqlite3_close(db);
    expect(phi_store_open(dir, &store, &err), PHI_E_UNSUPPORTED, &err);
    assert_non_null(strstr(err.message, "999"));
    store = NULL;
}

static void test_uploads(void **state)
{
    (void)state;
    phi_err err = {0};
    phi_store_upload key = {.client = UINT64_MAX, .total_bytes = 10, .id = "upload-1"};
    (void)snprintf(key.filename, sizeof key.filename, "m.gguf");
    (void)snprintf(key.purpose, sizeof key.purpose, "model");
    phi_store_upload got;
    expect(phi_store_upload_find(store, &key, &got, &err), PHI_E_NOT_FOUND, &err);
    assert_true(phi_store_upload_claim(store, &key));
    assert_false(phi_store_upload_claim(store, &key));
    char *path = phi_store_incoming_path(store, key.id);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_int_equal(write(fd, "abc", 3), 3);
    (void)close(fd);
    expect(phi_store_upload_add(store, &key, &err), PHI_OK, &err);
    phi_store_upload_unclaim(store, &key);
    reopen();
    expect(phi_store_upload_find(store, &key, &got, &err), PHI_OK, &err);
    assert_int_equal(got.received_bytes, 3);
    assert_int_equal(got.total_bytes, 10);
    assert_string_equal(got.id, "upload-1");
    phi_store_upload other = key;
    other.client = 7;
    expect(phi_store_upload_find(store, &other, &got, &err), PHI_E_NOT_FOUND, &err);
    /* A new upload of the same name takes the old one's place. */
    (void)snprintf(key.id, sizeof key.id, "upload-2");
    expect(phi_store_upload_add(store, &key, &err), PHI_OK, &err);
    assert_false(phi_file_exists(path));
    expect(phi_store_upload_drop(store, "upload-2", &err), PHI_OK, &err);
    expect(phi_store_upload_find(store, &key, &got, &err), PHI_E_NOT_FOUND, &err);
    phi_free(path);
}

static phi_store_job make_job(const char *id)
{
    phi_store_job job = {.status = PHI_JOB_QUEUED, .created_s = 5, .request = phi_strdup("{}")};
    (void)snprintf(job.id, sizeof job.id, "%s", id);
    (void)snprintf(job.model, sizeof job.model, "m");
    (void)snprintf(job.precision, sizeof job.precision, "int4");
    return job;
}

static phi_store_job add_job(const char *id, const phi_store_file *file)
{
    phi_err err = {0};
    phi_store_job job = make_job(id);
    phi_store_source source;
    expect(phi_store_source_of_file(store, file->id, "model", &source, &err), PHI_OK, &err);
    expect(phi_store_job_add(store, &job, &source, 1, &err), PHI_OK, &err);
    return job;
}

/* A database of the first version, whose jobs have no kind, is taken over. */
static void test_older_database(void **state)
{
    (void)state;
    phi_err err = {0};
    phi_store_file file = add_file("weights");
    phi_store_job job = add_job("qjob-1", &file);
    phi_store_job_done(&job);
    phi_store_close(store);
    store = NULL;
    char path[96];
    (void)snprintf(path, sizeof path, "%s/phid.db", dir);
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "ALTER TABLE jobs DROP COLUMN kind; PRAGMA user_version = 1",
                                  NULL, NULL, NULL),
                     SQLITE_OK);
    (void)sqlite3_close(db);
    expect(phi_store_open(dir, &store, &err), PHI_OK, &err);
    expect(phi_store_job_get(store, PHI_JOB_QUANTIZATION, "qjob-1", &job, &err), PHI_OK, &err);
    assert_string_equal(job.request, "{}");
    phi_store_job_done(&job);
}

static void test_job_keeps_its_source(void **state)
{
    (void)state;
    phi_err err = {0};
    phi_store_file file = add_file("weights");
    phi_store_job job = add_job("qjob-1", &file);
    expect(phi_store_file_delete(store, file.id, &err), PHI_OK, &err);
    assert_true(blob_exists(file.sha256));
    reopen();
    assert_true(blob_exists(file.sha256));
    phi_store_source *sources = NULL;
    size_t count = 0;
    expect(phi_store_job_sources(store, "qjob-1", &sources, &count, &err), PHI_OK, &err);
    assert_int_equal(count, 1);
    assert_string_equal(sources[0].filename, "config.json");
    phi_store_sources_free(sources, count);
    job.status = PHI_JOB_FAILED;
    job.finished_s = 9;
    job.result = phi_strdup("{\"error\":{}}");
    expect(phi_store_job_update(store, &job, &err), PHI_OK, &err);
    assert_false(blob_exists(file.sha256));
    phi_store_job got;
    expect(phi_store_job_get(store, PHI_JOB_QUANTIZATION, "qjob-1", &got, &err), PHI_OK, &err);
    assert_int_equal(got.status, PHI_JOB_FAILED);
    assert_string_equal(got.result, "{\"error\":{}}");
    phi_store_job_done(&got);
    phi_store_job_done(&job);
}

static void test_job_of_a_deleted_file(void **state)
{
    (void)state;
    phi_err err = {0};
    phi_store_file file = add_file("weights");
    phi_store_source source;
    expect(phi_store_source_of_file(store, file.id, "model", &source, &err), PHI_OK, &err);
    expect(phi_store_file_delete(store, file.id, &err), PHI_OK, &err);
    phi_store_job job = make_job("qjob-1");
    expect(phi_store_job_add(store, &job, &source, 1, &err), PHI_E_NOT_FOUND, &err);
    phi_store_job got;
    expect(phi_store_job_get(store, PHI_JOB_QUANTIZATION, "qjob-1", &got, &err), PHI_E_NOT_FOUND,
           &err);
    phi_store_job_done(&job);
}

static void test_running_job_is_queued_again(void **state)
{
    (void)state;
    phi_err err = {0};
    phi_store_file file = add_file("weights");
    phi_store_job job = add_job("qjob-1", &file);
    phi_store_job stopped = add_job("qjob-2", &file);
    job.status = PHI_JOB_RUNNING;
    job.started_s = 6;
    job.progress = 0.5;
    expect(phi_store_job_update(store, &job, &err), PHI_OK, &err);
    expect(phi_store_job_cancel(store, PHI_JOB_QUANTIZATION, "qjob-2", &err), PHI_OK, &err);
    reopen();
    phi_store_job list[4];
    size_t count = 0;
    bool more = false;
    phi_store_page page = {.limit = 4, .ascending = true};
    expect(phi_store_job_unfinished(store, &page, list, &count, &more, &err), PHI_OK, &err);
    assert_int_equal(count, 1);
    assert_string_equal(list[0].id, "qjob-1");
    assert_int_equal(list[0].status, PHI_JOB_QUEUED);
    assert_int_equal(list[0].started_s, 0);
    phi_store_job_done(&list[0]);
    expect(phi_store_job_cancel(store, PHI_JOB_QUANTIZATION, "qjob-2", &err), PHI_E_STATE, &err);
    expect(phi_store_job_cancel(store, PHI_JOB_QUANTIZATION, "qjob-3", &err), PHI_E_NOT_FOUND,
           &err);
    phi_store_job_done(&job);
    phi_store_job_done(&stopped);
}

static void complete(phi_store_job *job, const char *text, phi_store_file *file)
{
    phi_err err = {0};
    char *path = make_file(text, file);
    phi_store_model model = {.bytes = file->bytes, .created_s = 8, .context_length = 512};
    (void)snprintf(model.name, sizeof model.name, "%s", job->model);
    (void)snprintf(model.precision, sizeof model.precision, "%s", job->precision);
    (void)snprintf(model.sha256, sizeof model.sha256, "%s", file->sha256);
    (void)snprintf(model.architecture, sizeof model.architecture, "phi3");
    job->status = PHI_JOB_SUCCEEDED;
    phi_store_artifact artifact = {.path = path, .file = *file};
    expect(phi_store_job_complete(store, job, &artifact, 1, &model, &err), PHI_OK, &err);
    phi_free(path);
}

static void test_success_makes_file_and_model(void **state)
{
    (void)state;
    phi_err err = {0};
    phi_store_file source = add_file("weights");
    phi_store_job job = add_job("qjob-1", &source);
    phi_store_file artifact;
    complete(&job, "gguf", &artifact);
    phi_store_job_done(&job);
    expect(phi_store_file_delete(store, source.id, &err), PHI_OK, &err);
    reopen();
    phi_store_model *models = NULL;
    size_t count = 0;
    expect(phi_store_model_list(store, &models, &count, &err), PHI_OK, &err);
    assert_int_equal(count, 1);
    assert_string_equal(models[0].architecture, "phi3");
    assert_int_equal(models[0].context_length, 512);
    phi_store_models_free(models, count);
    /* The source stays for as long as the model, for quantizing again. */
    assert_true(blob_exists(source.sha256));
    phi_store_source *sources = NULL;
    expect(phi_store_model_sources(store, "m", &sources, &count, &err), PHI_OK, &err);
    assert_int_equal(count, 1);
    phi_store_sources_free(sources, count);
    expect(phi_store_model_delete(store, "m", "int4", &err), PHI_OK, &err);
    assert_false(blob_exists(source.sha256));
    assert_true(blob_exists(artifact.sha256)); /* the file is still there */
    expect(phi_store_file_delete(store, artifact.id, &err), PHI_OK, &err);
    assert_false(blob_exists(artifact.sha256));
    expect(phi_store_model_delete(store, "m", "int4", &err), PHI_E_NOT_FOUND, &err);
    expect(phi_store_model_sources(store, "m", &sources, &count, &err), PHI_E_NOT_FOUND, &err);
}

static void make_packed(const char *name)
{
    char *path = phi_store_packed_path(store, name);
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    (void)fclose(file);
    phi_free(path);
}

static bool packed_exists(const char *name)
{
    char *path = phi_store_packed_path(store, name);
    bool exists = phi_file_exists(path);
    phi_free(path);
    return exists;
}

/* An export reads a model's blob, which nothing else may name any more, and makes files of its own.
 */
static void test_export_of_a_model(void **state)
{
    (void)state;
    phi_err err = {0};
    phi_store_file source = add_file("weights");
    phi_store_job job = add_job("qjob-1", &source);
    phi_store_file gguf;
    complete(&job, "gguf", &gguf);
    phi_store_job_done(&job);
    expect(phi_store_file_delete(store, gguf.id, &err), PHI_OK, &err);

    phi_store_source read = {.role = "model", .filename = "m-int4.gguf", .bytes = gguf.bytes};
    (void)snprintf(read.sha256, sizeof read.sha256, "%s", gguf.sha256);
    phi_store_job export = make_job("export-1");
    export.kind = PHI_JOB_EXPORT;
    expect(phi_store_job_add(store, &export, &read, 1, &err), PHI_OK, &err);
    expect(phi_store_model_delete(store, "m", "int4", &err), PHI_OK, &err);
    reopen();
    assert_true(blob_exists(gguf.sha256));

    phi_store_job got;
    expect(phi_store_job_get(store, PHI_JOB_QUANTIZATION, "export-1", &got, &err), PHI_E_NOT_FOUND,
           &err);
    expect(phi_store_job_get(store, PHI_JOB_EXPORT, "export-1", &got, &err), PHI_OK, &err);
    assert_int_equal(got.kind, PHI_JOB_EXPORT);
    phi_store_job_done(&got);
    phi_store_page page = {.limit = 4};
    phi_store_job list[4];
    size_t count = 9;
    bool more = true;
    expect(phi_store_job_list(store, PHI_JOB_QUANTIZATION, &page, list, &count, &more, &err),
           PHI_OK, &err);
    assert_int_equal(count, 1);
    assert_string_equal(list[0].id, "qjob-1");
    phi_store_job_done(&list[0]);

    phi_store_artifact made[2] = {{0}, {0}};
    made[0].path = make_file("first", &made[0].file);
    made[1].path = make_file("second", &made[1].file);
    /* All or nothing: the second's bytes are not there. */
    assert_int_equal(unlink(made[1].path), 0);
    export.status = PHI_JOB_SUCCEEDED;
    assert_int_not_equal(phi_store_job_complete(store, &export, made, 2, NULL, &err), PHI_OK);
    assert_false(blob_exists(made[0].file.sha256));
    assert_true(phi_file_exists(made[0].path));
    expect(phi_store_job_complete(store, &export, made, 1, NULL, &err), PHI_OK, &err);
    assert_true(blob_exists(made[0].file.sha256));
    assert_false(blob_exists(gguf.sha256));
    phi_free(made[0].path);
    phi_free(made[1].path);
    phi_store_job_done(&export);
}

static void test_packed_weights_go_with_the_model(void **state)
{
    (void)state;
    phi_err err = {0};
    phi_store_file source = add_file("weights");
    phi_store_file artifact;
    phi_store_file again;
    phi_store_job job = add_job("qjob-1", &source);
    complete(&job, "gguf", &artifact);
    make_packed(artifact.sha256);
    phi_store_packed_settle(store, artifact.sha256);
    /* What no model has, and what a crash left, goes at the next start. */
    make_packed(source.sha256);
    char *half = phi_strfmt("%s.tmp-abcdef", artifact.sha256);
    make_packed(half);
    reopen();
    assert_true(packed_exists(artifact.sha256));
    assert_false(packed_exists(source.sha256));
    assert_false(packed_exists(half));
    phi_free(half);
    /* The file stays, the model goes, and with it what only a model needs. */
    expect(phi_store_model_delete(store, "m", "int4", &err), PHI_OK, &err);
    assert_true(blob_exists(artifact.sha256));
    assert_false(packed_exists(artifact.sha256));
    /* Made while the model was being deleted. */
    make_packed(artifact.sha256);
    phi_store_packed_settle(store, artifact.sha256);
    assert_false(packed_exists(artifact.sha256));
    phi_store_job_done(&job);
    /* A model in the place of another. */
    job = add_job("qjob-2", &source);
    complete(&job, "gguf", &again);
    make_packed(again.sha256);
    phi_store_job_done(&job);
    job = add_job("qjob-3", &source);
    complete(&job, "another", &artifact);
    assert_false(packed_exists(again.sha256));
    make_packed(artifact.sha256);
    phi_store_packed_clear(store);
    assert_false(packed_exists(artifact.sha256));
    phi_store_job_done(&job);
}

static void test_replaced_model(void **state)
{
    (void)state;
    phi_err err = {0};
    phi_store_file source = add_file("weights");
    phi_store_file first;
    phi_store_file second;
    phi_store_job one = add_job("qjob-1", &source);
    complete(&one, "gguf 1", &first);
    phi_store_job two = add_job("qjob-2", &source);
    complete(&two, "gguf 2", &second);
    phi_store_job_done(&one);
    phi_store_job_done(&two);
    phi_store_model *models = NULL;
    size_t count = 0;
    expect(phi_store_model_list(store, &models, &count, &err), PHI_OK, &err);
    assert_int_equal(count, 1);
    assert_string_equal(models[0].sha256, second.sha256);
    phi_store_models_free(models, count);
    expect(phi_store_file_delete(store, first.id, &err), PHI_OK, &err);
    assert_false(blob_exists(first.sha256));
}

static void test_model_without_bytes_is_dropped(void **state)
{
    (void)state;
    phi_err err = {0};
    phi_store_file source = add_file("weights");
    phi_store_file artifact;
    phi_store_job job = add_job("qjob-1", &source);
    complete(&job, "gguf", &artifact);
    phi_store_job_done(&job);
    char *path = phi_store_blob_path(store, artifact.sha256);
    assert_int_equal(unlink(path), 0);
    phi_free(path);
    reopen();
    phi_store_model *models = NULL;
    size_t count = 1;
    expect(phi_store_model_list(store, &models, &count, &err), PHI_OK, &err);
    assert_int_equal(count, 0);
    phi_store_models_free(models, count);
}

static void test_events(void **state)
{
    (void)state;
    phi_err err = {0};
    phi_store_event event = {.created_s = 1, .level = "info", .type = "message", .message = "hi"};
    for (unsigned i = 0; i < PHI_LIMIT_JOB_EVENTS + 5; i++) {
        expect(phi_store_event_add(store, "qjob-1", &event, &err), PHI_OK, &err);
    }
    phi_store_event list[3];
    size_t count = 0;
    bool more = false;
    expect(phi_store_event_list(store, "qjob-1", 0, 3, list, &count, &more, &err), PHI_OK, &err);
    assert_int_equal(count, 3);
    assert_true(more);
    assert_int_equal(list[2].number, 3);
    phi_store_events_done(list, count);
    expect(phi_store_event_list(store, "qjob-1", PHI_LIMIT_JOB_EVENTS - 1, 3, list, &count, &more,
                                &err),
           PHI_OK, &err);
    assert_int_equal(count, 1);
    assert_false(more);
    phi_store_events_done(list, count);
}

/* One thread deletes what another uploads: whatever is listed has its bytes. */
static void *upload_many(void *arg)
{
    (void)arg;
    for (int i = 0; i < 60; i++) {
        phi_store_file file;
        phi_err err = {0};
        char *path = make_file("contended", &file);
        expect(phi_store_file_publish(store, path, NULL, &file, &err), PHI_OK, &err);
        phi_free(path);
        assert_true(blob_exists(file.sha256));
        expect(phi_store_file_delete(store, file.id, &err), PHI_OK, &err);
    }
    return NULL;
}

static void test_same_content_from_two_threads(void **state)
{
    (void)state;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, upload_many, NULL), 0);
    (void)upload_many(NULL);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_file_round_trip),
        CASE(test_same_content_is_one_blob),
        CASE(test_pages),
        CASE(test_leftovers_are_removed),
        CASE(test_second_daemon_is_refused),
        CASE(test_newer_database_is_refused),
        CASE(test_uploads),
        CASE(test_older_database),
        CASE(test_job_keeps_its_source),
        CASE(test_job_of_a_deleted_file),
        CASE(test_running_job_is_queued_again),
        CASE(test_success_makes_file_and_model),
        CASE(test_export_of_a_model),
        CASE(test_packed_weights_go_with_the_model),
        CASE(test_replaced_model),
        CASE(test_model_without_bytes_is_dropped),
        CASE(test_events),
        CASE(test_same_content_from_two_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
