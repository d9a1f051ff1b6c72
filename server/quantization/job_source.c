#include "server/quantization/job_source.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"

/* ---- paths that the configuration allows ---- */

static bool is_below(const char *path, const char *dir)
{
    size_t bytes = strlen(dir);
    while (bytes > 1 && dir[bytes - 1] == '/') {
        bytes--;
    }
    return strncmp(path, dir, bytes) == 0 &&
           (path[bytes] == '/' || path[bytes] == '\0' || bytes == 1);
}

static bool is_allowed(const phi_settings *settings, const char *real)
{
    const char *at = settings->source_dirs ? settings->source_dirs : "";
    bool allowed = false;
    while (*at && !allowed) {
        size_t bytes = strcspn(at, ":");
        char *dir = phi_strndup(at, bytes);
        char *real_dir = bytes > 0 ? realpath(dir, NULL) : NULL;
        allowed = real_dir && is_below(real, real_dir);
        phi_free(real_dir);
        phi_free(dir);
        at += bytes + (at[bytes] == ':');
    }
    return allowed;
}

/* Links are followed before the comparison, so that none leads out of the allowed directories. A
 * path outside gets one answer whether or not it exists. */
static phi_status check_path(const phi_settings *settings, const char *path, char **out_real,
                             phi_err *err)
{
    if (!settings->source_dirs || !settings->source_dirs[0]) {
        return phi_fail_param(err, PHI_E_INVALID, "source.path",
                              "this server reads no models by path (setting source_dirs is empty); "
                              "upload the files");
    }
    char *real = path[0] == '/' ? realpath(path, NULL) : NULL;
    if (!real || !is_allowed(settings, real)) {
        phi_free(real);
        return phi_fail_param(err, PHI_E_INVALID, "source.path",
                              "'source.path' must be an absolute path of an existing directory or "
                              "GGUF file below one of those that setting source_dirs allows");
    }
    *out_real = real;
    return PHI_OK;
}

/* ---- resolve ---- */

static phi_status check_files(const phi_store_source *sources, size_t count, phi_err *err)
{
    bool config = false;
    bool tokenizer = false;
    bool weights = false;
    const char *refused = NULL;
    for (size_t i = 0; i < count; i++) {
        const char *name = sources[i].filename;
        if (phi_str_ends(name, ".tar") || phi_str_ends(name, ".gguf")) {
            return count == 1 ? PHI_OK
                              : phi_fail_param(err, PHI_E_INVALID, "source.files",
                                               "'%.80s' must be the only file of the source", name);
        }
        if (phi_str_ends(name, ".gz") || phi_str_ends(name, ".tgz") || phi_str_ends(name, ".zip") ||
            phi_str_ends(name, ".xz") || phi_str_ends(name, ".zst")) {
            return phi_fail_param(
                err, PHI_E_UNSUPPORTED, "source.files",
                "'%.80s' is compressed; upload a plain .tar, a .gguf or the files "
                "one by one",
                name);
        }
        for (size_t k = 0; k < i; k++) {
            if (strcmp(sources[k].filename, name) == 0) {
                return phi_fail_param(err, PHI_E_INVALID, "source.files",
                                      "two of the source files are named '%.80s'", name);
            }
        }
        config =
            config || strcmp(name, "config.json") == 0 || strcmp(name, "genai_config.json") == 0;
        tokenizer = tokenizer || strcmp(name, "tokenizer.json") == 0;
        weights = weights || phi_source_file_is_weights(name);
        refused = refused ? refused : phi_source_file_refusal(name) ? name : NULL;
    }
    if (refused && !weights) {
        return phi_fail_param(err, PHI_E_UNSUPPORTED, "source.files", "'%.60s': %s", refused,
                              phi_source_file_refusal(refused));
    }
    if (!config || !tokenizer || !weights) {
        return phi_fail_param(err, PHI_E_INVALID, "source.files",
                              "the source has no %s; name all of the model's files (config.json, "
                              "*.safetensors or pytorch_model*.bin, tokenizer.json, ...), or of an "
                              "ONNX or OpenVINO folder, one .tar or one .gguf",
                              !config      ? "config.json"
                              : !tokenizer ? "tokenizer.json"
                                           : "*.safetensors or pytorch_model*.bin");
    }
    return PHI_OK;
}

static phi_status resolve_files(phi_app *app, const phi_job_request *request,
                                phi_store_source *sources, phi_err *err)
{
    for (size_t i = 0; i < request->n_file_ids; i++) {
        phi_store_file file;
        phi_status status = phi_store_file_get(app->store, request->file_ids[i], &file, err);
        if (!status && strcmp(file.purpose, "model") != 0) {
            status = phi_fail_param(err, PHI_E_INVALID, "source.files",
                                    "the file '%s' has the purpose '%s'; a source needs 'model'",
                                    file.id, file.purpose);
        }
        status = status ? status
                        : phi_store_source_of_file(app->store, request->file_ids[i], "model",
                                                   &sources[i], err);
        if (status) {
            if (err) {
                (void)snprintf(err->param, sizeof err->param, "source.files");
            }
            return status;
        }
    }
    return check_files(sources, request->n_file_ids, err);
}

static phi_status resolve_path(phi_app *app, const char *path, phi_store_source *source,
                               phi_err *err)
{
    char *real = NULL;
    phi_status status = check_path(app->settings, path, &real, err);
    if (status) {
        return status;
    }
    PHI_ASSERT(real != NULL);
    const char *slash = strrchr(real, '/');
    (void)snprintf(source->role, sizeof source->role, "model");
    (void)snprintf(source->filename, sizeof source->filename, "%s", slash ? slash + 1 : real);
    source->path = phi_strdup(real);
    phi_free(real);
    return PHI_OK;
}

static phi_status resolve_model(phi_app *app, const phi_job_request *request,
                                phi_store_source **out_sources, size_t *out_count, phi_err *err)
{
    switch (request->source) {
    case PHI_JOB_SOURCE_FILES:
        *out_count = request->n_file_ids;
        *out_sources = phi_alloc_zero(*out_count, sizeof **out_sources);
        return resolve_files(app, request, *out_sources, err);
    case PHI_JOB_SOURCE_PATH:
        *out_count = 1;
        *out_sources = phi_alloc_zero(1, sizeof **out_sources);
        return resolve_path(app, request->source_name, *out_sources, err);
    case PHI_JOB_SOURCE_MODEL:
        return phi_store_model_sources(app->store, request->source_name, out_sources, out_count,
                                       err);
    }
    return PHI_E_INTERNAL;
}

/* ---- what the request's formats make of it ---- */

/* What formats are chosen by. */
typedef struct model_facts {
    phi_arch arch;
    uint32_t n_ctx; /* 0: not known */
} model_facts;

/* What a config.json says; false where it says nothing that is known. */
static bool facts_of_config(const char *text, size_t bytes, model_facts *out)
{
    json_t *config = text ? json_loadb(text, bytes, 0, NULL) : NULL;
    const json_int_t n_ctx = json_integer_value(json_object_get(config, "max_position_embeddings"));
    const char *type = json_string_value(json_object_get(config, "model_type"));
    const char *name =
        json_string_value(json_array_get(json_object_get(config, "architectures"), 0));
    bool found = false;
    for (int arch = 0; arch < PHI_ARCH_COUNT && !found; arch++) {
        found = (name && phi_arch_is_class((phi_arch)arch, name)) ||
                (!name && type && strcmp(type, phi_arch_model_type((phi_arch)arch)) == 0);
        out->arch = found ? (phi_arch)arch : out->arch;
    }
    out->n_ctx = n_ctx > 0 && n_ctx <= PHI_LIMIT_CONTEXT ? (uint32_t)n_ctx : 0;
    json_decref(config);
    return found;
}

static bool facts_of_config_file(const char *path, model_facts *out)
{
    char *text = NULL;
    size_t bytes = 0;
    bool found = !phi_file_read_text(path, PHI_LIMIT_CONFIG_JSON_BYTES, &text, &bytes, NULL) &&
                 facts_of_config(text, bytes, out);
    phi_free(text);
    return found;
}

static bool facts_of_archive(const char *path, model_facts *out)
{
    size_t bytes = 0;
    char *text = phi_job_archive_config(path, &bytes);
    bool found = facts_of_config(text, bytes, out);
    phi_free(text);
    return found;
}

static bool facts_of_model(const char *path, model_facts *out)
{
    phi_inspection *inspection = NULL;
    if (phi_inspect_open(path, &inspection, NULL)) {
        return false;
    }
    const phi_description *description = phi_inspect_description(inspection);
    *out = (model_facts){.arch = description->arch, .n_ctx = description->n_ctx};
    phi_inspect_close(inspection);
    return true;
}

static bool facts_of_source(phi_app *app, const phi_store_source *source, model_facts *out)
{
    if (source->path) {
        return facts_of_model(source->path, out);
    }
    const char *name = source->filename;
    char *blob = phi_store_blob_path(app->store, source->sha256);
    bool found = strcmp(name, "config.json") == 0 ? facts_of_config_file(blob, out)
                 : phi_str_ends(name, ".gguf")    ? facts_of_model(blob, out)
                 : phi_str_ends(name, ".tar")     ? facts_of_archive(blob, out)
                                                  : false;
    phi_free(blob);
    return found;
}

/* What is not known yet or cannot be read, the job sees. */
static phi_status check_formats(phi_app *app, const phi_job_request *request,
                                const phi_store_source *sources, size_t count, phi_err *err)
{
    model_facts facts = {.arch = PHI_ARCH_PHI3};
    for (size_t i = 0; i < count && request->n_formats > 0; i++) {
        if (facts_of_source(app, &sources[i], &facts)) {
            return phi_job_request_check_model(request, facts.arch, facts.n_ctx, err);
        }
    }
    return PHI_OK;
}

phi_status phi_job_source_resolve(phi_app *app, const phi_job_request *request,
                                  phi_store_source **out_sources, size_t *out_count, phi_err *err)
{
    phi_store_source *sources = NULL;
    size_t count = 0;
    phi_status status = resolve_model(app, request, &sources, &count, err);
    status = status ? status : check_formats(app, request, sources, count, err);
    if (!status && request->eval_file_id[0]) {
        sources = phi_realloc(sources, (count + 1) * sizeof *sources);
        sources[count] = (phi_store_source){0};
        status = phi_store_source_of_file(app->store, request->eval_file_id, "eval",
                                          &sources[count], err);
        if (!status && sources[count].bytes > PHI_LIMIT_TEXT_BYTES) {
            status = phi_fail(err, PHI_E_INVALID,
                              "the text file has %llu bytes; at most %u are "
                              "accepted",
                              (unsigned long long)sources[count].bytes, PHI_LIMIT_TEXT_BYTES);
        }
        if (status && err) {
            (void)snprintf(err->param, sizeof err->param, "quality.file");
        }
        count++;
    }
    if (status) {
        phi_store_sources_free(sources, count);
        return status;
    }
    *out_sources = sources;
    *out_count = count;
    return PHI_OK;
}

/* ---- prepare ---- */

/* A hard link keeps the bytes whatever happens to the blob; not every file system has them. */
static phi_status link_blob(phi_app *app, const phi_store_source *source, const char *dir,
                            phi_err *err)
{
    char *blob = phi_store_blob_path(app->store, source->sha256);
    char *target = phi_strfmt("%s/%s", dir, source->filename);
    phi_status status = PHI_OK;
    if (!phi_file_exists(blob)) {
        status = phi_fail(err, PHI_E_NOT_FOUND, "the bytes of '%s' are missing", source->filename);
    } else if (link(blob, target) != 0 && symlink(blob, target) != 0) {
        status = phi_fail(err, phi_status_of_errno(errno), "cannot link '%s': %s", source->filename,
                          strerror(errno));
    }
    phi_free(blob);
    phi_free(target);
    return status;
}

static phi_status read_eval(phi_app *app, const phi_store_source *source,
                            phi_job_prepared *prepared, phi_err *err)
{
    char *blob = phi_store_blob_path(app->store, source->sha256);
    phi_status status = phi_file_read_text(blob, PHI_LIMIT_TEXT_BYTES, &prepared->eval_text,
                                           &prepared->eval_bytes, err);
    phi_free(blob);
    if (!status && !phi_utf8_valid(prepared->eval_text, prepared->eval_bytes)) {
        status = phi_fail_param(err, PHI_E_INVALID, "quality.file",
                                "the file '%s' is not UTF-8 "
                                "text",
                                source->filename);
    }
    return status;
}

typedef struct preparing {
    phi_app *app;
    char *dir; /* holds the source files */
    phi_job_archive_progress progress;
    void *user;
    phi_job_prepared result;
} preparing;

static phi_status prepare_one(preparing *self, const phi_store_source *source, phi_err *err)
{
    if (strcmp(source->role, "eval") == 0) {
        return read_eval(self->app, source, &self->result, err);
    }
    if (source->path) {
        /* Looked at again: the settings or a link may have changed since the request. */
        char *real = NULL;
        phi_status status = check_path(self->app->settings, source->path, &real, err);
        if (!status) {
            phi_free(self->result.path);
            self->result.path = phi_strdup(real);
            phi_free(real);
        }
        return status;
    }
    if (phi_str_ends(source->filename, ".tar")) {
        char *blob = phi_store_blob_path(self->app->store, source->sha256);
        phi_status status = phi_job_unpack(blob, self->dir, self->progress, self->user,
                                           &self->result.left_out, err);
        phi_free(blob);
        return status;
    }
    phi_status status = link_blob(self->app, source, self->dir, err);
    if (!status && phi_str_ends(source->filename, ".gguf")) {
        phi_free(self->result.path);
        self->result.path = phi_strfmt("%s/%s", self->dir, source->filename);
    }
    return status;
}

phi_status phi_job_source_prepare(phi_app *app, const char *work_dir,
                                  const phi_store_source *sources, size_t n_sources,
                                  phi_job_archive_progress progress, void *user,
                                  phi_job_prepared *out_prepared, phi_err *err)
{
    preparing self = {
        .app = app, .dir = phi_strfmt("%s/source", work_dir), .progress = progress, .user = user};
    phi_status status = phi_file_make_dirs(self.dir, err);
    self.result.path = phi_strdup(self.dir);
    for (size_t i = 0; i < n_sources && !status; i++) {
        status = prepare_one(&self, &sources[i], err);
    }
    phi_free(self.dir);
    if (status) {
        phi_job_prepared_done(&self.result);
        return status;
    }
    *out_prepared = self.result;
    return PHI_OK;
}

void phi_job_prepared_done(phi_job_prepared *prepared)
{
    phi_free(prepared->path);
    phi_free(prepared->eval_text);
    *prepared = (phi_job_prepared){0};
}
