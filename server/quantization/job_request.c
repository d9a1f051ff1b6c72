#include "server/quantization/job_request.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "server/openai/fields.h"

#define MODEL_NAME_BYTES_MAX 64

static phi_status need_string(const json_t *body, const char *name, const char **out, phi_err *err)
{
    *out = NULL;
    phi_status status = phi_field_string(body, name, out, err);
    if (!status && !*out) {
        return phi_fail_param(err, PHI_E_INVALID, name, "'%s' is missing", name);
    }
    return status;
}

static phi_status parse_model(const json_t *body, phi_job_request *request, phi_err *err)
{
    const char *name = NULL;
    phi_status status = need_string(body, "model", &name, err);
    if (status) {
        return status;
    }
    size_t good = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");
    if (name[0] == '\0' || name[good] != '\0' || good > MODEL_NAME_BYTES_MAX) {
        return phi_fail_param(
            err, PHI_E_INVALID, "model",
            "'model' is '%.80s'; it must be a name of 1 to %d letters, digits, '.', '_' and '-'; "
            "the precision is added to it",
            name, MODEL_NAME_BYTES_MAX);
    }
    (void)snprintf(request->model, sizeof request->model, "%s", name);
    return PHI_OK;
}

static phi_status parse_type(const char *type, const char *precision, phi_job_request *request,
                             phi_err *err)
{
    request->type = phi_quantize_type_find(type);
    if (!request->type) {
        return phi_fail_param(err, PHI_E_INVALID, "type", "'type' is '%.40s'; it must be %s", type,
                              phi_quantize_type_names());
    }
    if (precision && strcmp(precision, request->type) != 0) {
        return phi_fail_param(err, PHI_E_INVALID, "type",
                              "'precision' and 'type' exclude each other; give one");
    }
    return PHI_OK;
}

static phi_status parse_precision(const json_t *body, phi_job_request *request, phi_err *err)
{
    const char *name = NULL;
    const char *type = NULL;
    phi_status status = phi_field_string(body, "precision", &name, err);
    status = status ? status : phi_field_string(body, "type", &type, err);
    if (status) {
        return status;
    }
    if (type) {
        return parse_type(type, name, request, err);
    }
    if (!name) {
        return phi_fail_param(err, PHI_E_INVALID, "precision",
                              "'precision' is missing: 'int4', 'int8', 'fp16' or 'fp32'; or give a "
                              "'type' of GGUF");
    }
    if (!phi_precision_parse(name, &request->precision)) {
        return phi_fail_param(err, PHI_E_INVALID, "precision",
                              "'precision' is '%.40s'; it must be 'int4', 'int8', 'fp16' or 'fp32'"
                              "%s",
                              name, phi_quantize_type_find(name) ? "; this one is a 'type'" : "");
    }
    return PHI_OK;
}

const char *phi_job_request_label(const phi_job_request *request)
{
    return request->type ? request->type : phi_precision_name(request->precision);
}

static bool is_int4(const phi_job_request *request)
{
    return !request->type && request->precision == PHI_PRECISION_INT4;
}

/* ---- source ---- */

static phi_status parse_file_ids(const json_t *ids, phi_job_request *request, phi_err *err)
{
    size_t count = json_array_size(ids);
    if (!json_is_array(ids) || count == 0 || count > PHI_LIMIT_JOB_FILES) {
        return phi_fail_param(err, PHI_E_INVALID, "source.files",
                              "'source.files' must be a list of 1 to %u file ids",
                              PHI_LIMIT_JOB_FILES);
    }
    request->file_ids = phi_alloc_zero(count, sizeof *request->file_ids);
    for (size_t i = 0; i < count; i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_string(id) || json_string_length(id) == 0) {
            return phi_fail_param(err, PHI_E_INVALID, "source.files",
                                  "'source.files' must hold file ids, but entry %zu is %s", i,
                                  json_is_string(id) ? "an empty string" : phi_json_kind(id));
        }
        if (json_string_length(id) >= PHI_STORE_ID_BYTES) {
            return phi_fail_param(err, PHI_E_NOT_FOUND, "source.files", "there is no file '%.60s'",
                                  json_string_value(id));
        }
        (void)snprintf(request->file_ids[request->n_file_ids++], PHI_STORE_ID_BYTES, "%s",
                       json_string_value(id));
    }
    return PHI_OK;
}

static phi_status parse_source_name(const json_t *source, const char *name,
                                    phi_job_request *request, phi_err *err)
{
    const char *text = NULL;
    char param[32];
    (void)snprintf(param, sizeof param, "source.%s", name);
    phi_err inner = {0};
    phi_status status = phi_field_string(source, name, &text, &inner);
    if (status || !text || !text[0]) {
        return phi_fail_param(err, PHI_E_INVALID, param, "'%s' must be a non-empty string", param);
    }
    request->source_name = phi_strdup(text);
    return PHI_OK;
}

static phi_status parse_source(const json_t *body, phi_job_request *request, phi_err *err)
{
    static const char wanted[] = "'source' must be {\"files\": [ids]}, {\"model\": \"NAME\"} or "
                                 "{\"path\": \"DIR\"}";
    const json_t *source = phi_field(body, "source");
    if (!json_is_object(source) || json_object_size(source) != 1) {
        return phi_fail_param(err, PHI_E_INVALID, "source", "%s", wanted);
    }
    const json_t *files = phi_field(source, "files");
    if (files) {
        request->source = PHI_JOB_SOURCE_FILES;
        return parse_file_ids(files, request, err);
    }
    if (phi_field(source, "model")) {
        request->source = PHI_JOB_SOURCE_MODEL;
        return parse_source_name(source, "model", request, err);
    }
    if (phi_field(source, "path")) {
        request->source = PHI_JOB_SOURCE_PATH;
        return parse_source_name(source, "path", request, err);
    }
    return phi_fail_param(err, PHI_E_INVALID, "source", "%s", wanted);
}

/* ---- how ---- */

static phi_status parse_method(const json_t *body, const phi_job_request *request,
                               const char **out_method, phi_err *err)
{
    *out_method = "auto";
    phi_status status = phi_field_string(body, "method", out_method, err);
    if (status) {
        return status;
    }
    bool int4 = is_int4(request);
    if (strcmp(*out_method, "auto") != 0 && !(int4 && strcmp(*out_method, "search") == 0)) {
        return phi_fail_param(err, PHI_E_INVALID, "method",
                              "'method' is '%.40s'; for %s it must "
                              "be 'auto'%s",
                              *out_method, phi_job_request_label(request),
                              int4 ? " or 'search' (scales by error search, which is what 'auto' "
                                     "does)"
                                   : "");
    }
    return PHI_OK;
}

static phi_status parse_grouping(const json_t *body, phi_job_request *request, phi_err *err)
{
    bool int4 = is_int4(request);
    bool present = false;
    int64_t size = 32;
    phi_status status =
        phi_field_integer(body, "group_size", INT32_MIN, INT32_MAX, &present, &size, err);
    if (status) {
        return status;
    }
    if (present && !int4) {
        return phi_fail_param(err, PHI_E_INVALID, "group_size",
                              "'group_size' applies to 'int4' only; leave it out for '%s'",
                              phi_job_request_label(request));
    }
    if (present && size != 32 && size != 64 && size != 128) {
        return phi_fail_param(err, PHI_E_INVALID, "group_size",
                              "'group_size' is %lld; it must be 32, 64 or 128", (long long)size);
    }
    request->group_size = present ? (uint32_t)size : 32;
    request->symmetric = true;
    status = phi_field_bool(body, "symmetric", &request->symmetric, err);
    if (!status && !request->symmetric && !int4) {
        return phi_fail_param(err, PHI_E_INVALID, "symmetric",
                              "'symmetric' can be false for 'int4' only");
    }
    return status;
}

/* ---- formats ---- */

/* Whether the format has a place for what the model will be; a type's mix is seen by the job. */
static phi_status check_format(const phi_job_request *request, phi_convert_format format,
                               const char *param, phi_err *err)
{
    if (request->type) {
        return PHI_OK;
    }
    phi_err inner = {0};
    phi_status status = phi_convert_holds(format, request->precision, &inner);
    if (status) {
        return phi_fail_param(err, status, param, "'%s': %s", param, inner.message);
    }
    return PHI_OK;
}

static phi_status parse_format(const json_t *entry, size_t index, phi_job_request *request,
                               phi_err *err)
{
    const char *name = json_string_value(entry);
    char param[32];
    (void)snprintf(param, sizeof param, "formats[%zu]", index);
    phi_convert_format format = PHI_CONVERT_FORMAT_COUNT;
    if (name && strcmp(name, "gguf") == 0) {
        return PHI_OK;
    }
    if (!name || !phi_convert_format_parse(name, &format)) {
        return phi_fail_param(err, PHI_E_INVALID, param,
                              "'%s' is %s%.40s%s; it must be 'gguf', 'onnx', 'qnn', 'openvino', "
                              "'safetensors', 'mlx', 'gptq' or 'compressed-tensors'",
                              param, name ? "'" : "", name ? name : phi_json_kind(entry),
                              name ? "'" : "");
    }
    for (size_t i = 0; i < request->n_formats; i++) {
        if (request->formats[i] == format) {
            return PHI_OK;
        }
    }
    request->format_at[request->n_formats] = index;
    request->formats[request->n_formats++] = format;
    return check_format(request, format, param, err);
}

static phi_status parse_formats(const json_t *body, phi_job_request *request, phi_err *err)
{
    const json_t *formats = phi_field(body, "formats");
    if (formats && (!json_is_array(formats) || json_array_size(formats) == 0)) {
        return phi_fail_param(err, PHI_E_INVALID, "formats",
                              "'formats' must be a list of formats, such as [\"gguf\", "
                              "\"onnx\"]");
    }
    phi_status status = PHI_OK;
    for (size_t i = 0; i < json_array_size(formats) && !status; i++) {
        status = parse_format(json_array_get(formats, i), i, request, err);
    }
    return status;
}

void phi_job_request_blame(const phi_job_request *request, size_t index, phi_err *err)
{
    if (err) {
        (void)snprintf(err->param, sizeof err->param, "formats[%zu]", request->format_at[index]);
    }
}

phi_status phi_job_request_check_model(const phi_job_request *request, phi_arch arch,
                                       uint32_t n_ctx, phi_err *err)
{
    for (size_t i = 0; i < request->n_formats; i++) {
        phi_convert_format format = request->formats[i];
        phi_status status = phi_convert_takes(format, request->provider, arch, err);
        bool is_asked = !status && request->context_length > 0;
        if (!status) {
            status = phi_convert_takes_context(format, request->context_length, n_ctx, err);
        }
        if (status && !is_asked) {
            phi_job_request_blame(request, i, err);
        }
        if (status) {
            return status;
        }
    }
    return PHI_OK;
}

phi_status phi_provider_parse(const json_t *body, bool has_onnx, phi_onnx_provider *out_provider,
                              phi_err *err)
{
    const char *name = NULL;
    phi_onnx_provider provider = PHI_ONNX_CPU;
    phi_status status = phi_field_string(body, "provider", &name, err);
    if (status) {
        return status;
    }
    if (name && !has_onnx) {
        return phi_fail_param(err, PHI_E_INVALID, "provider",
                              "'provider' says who runs an 'onnx' folder, and none is asked for; "
                              "leave it out");
    }
    if (name && !phi_onnx_provider_parse(name, &provider)) {
        return phi_fail_param(err, PHI_E_INVALID, "provider",
                              "'provider' is '%.40s'; it must be 'cpu' or 'cuda'", name);
    }
    *out_provider = provider;
    return PHI_OK;
}

phi_status phi_context_length_parse(const json_t *body, bool has_qnn, uint32_t *out_length,
                                    phi_err *err)
{
    bool present = false;
    int64_t length = 0;
    phi_status status =
        phi_field_integer(body, "context_length", 1, UINT32_MAX, &present, &length, err);
    if (status) {
        return status;
    }
    if (present && !has_qnn) {
        return phi_fail_param(err, PHI_E_INVALID, "context_length",
                              "'context_length' says what a 'qnn' folder is made for, and none is "
                              "asked for; leave it out");
    }
    *out_length = (uint32_t)length;
    return phi_convert_takes_context(PHI_CONVERT_QNN, *out_length, 0, err);
}

static bool writes(const phi_job_request *request, phi_convert_format format)
{
    for (size_t i = 0; i < request->n_formats; i++) {
        if (request->formats[i] == format) {
            return true;
        }
    }
    return false;
}

static phi_status refuse_unsupported(const json_t *body, phi_err *err)
{
    if (phi_field(body, "calibration_file")) {
        return phi_fail_param(err, PHI_E_UNSUPPORTED, "calibration_file",
                              "'calibration_file' is not supported: no method uses one; leave it "
                              "out");
    }
    return PHI_OK;
}

/* ---- quality and metadata ---- */

static phi_status parse_limit(const json_t *quality, const char *name, double low, double *out,
                              phi_err *err)
{
    bool present = false;
    *out = -1.0;
    phi_status status = phi_field_number(quality, name, low, 1e9, &present, out, err);
    if (status && err) {
        char param[48];
        (void)snprintf(param, sizeof param, "quality.%s", name);
        (void)snprintf(err->param, sizeof err->param, "%s", param);
    }
    return status;
}

static phi_status parse_quality(const json_t *body, phi_job_request *request, phi_err *err)
{
    const json_t *quality = phi_field(body, "quality");
    request->kl_divergence_max = -1.0;
    request->perplexity_ratio_max = -1.0;
    if (!quality) {
        return PHI_OK;
    }
    if (!json_is_object(quality)) {
        return phi_fail_param(err, PHI_E_INVALID, "quality",
                              "'quality' must be an object, but is "
                              "%s",
                              phi_json_kind(quality));
    }
    const char *key = NULL;
    json_t *value = NULL;
    json_t *object = json_object_get(body, "quality");
    json_object_foreach(object, key, value)
    {
        if (strcmp(key, "max_kl_divergence") != 0 && strcmp(key, "max_perplexity_ratio") != 0 &&
            strcmp(key, "file") != 0) {
            return phi_fail_param(err, PHI_E_INVALID, "quality",
                                  "'quality' has the unknown field '%.40s'; it may hold "
                                  "max_kl_divergence, max_perplexity_ratio and file",
                                  key);
        }
    }
    phi_status status =
        parse_limit(quality, "max_kl_divergence", 0.0, &request->kl_divergence_max, err);
    status = status ? status
                    : parse_limit(quality, "max_perplexity_ratio", 0.0,
                                  &request->perplexity_ratio_max, err);
    const json_t *file = phi_field(quality, "file");
    if (status || !file) {
        return status;
    }
    if (!json_is_string(file) || json_string_length(file) == 0 ||
        json_string_length(file) >= PHI_STORE_ID_BYTES) {
        return phi_fail_param(err, PHI_E_INVALID, "quality.file",
                              "'quality.file' must be the id "
                              "of an uploaded text file");
    }
    (void)snprintf(request->eval_file_id, sizeof request->eval_file_id, "%s",
                   json_string_value(file));
    return PHI_OK;
}

phi_status phi_metadata_check(const json_t *body, phi_err *err)
{
    json_t *metadata = phi_field(body, "metadata");
    if (!metadata) {
        return PHI_OK;
    }
    if (!json_is_object(metadata) || json_object_size(metadata) > PHI_LIMIT_METADATA_PAIRS) {
        return phi_fail_param(err, PHI_E_INVALID, "metadata",
                              "'metadata' must be an object of at most %u pairs",
                              PHI_LIMIT_METADATA_PAIRS);
    }
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach(metadata, key, value)
    {
        if (strlen(key) > PHI_LIMIT_METADATA_KEY_BYTES || !json_is_string(value) ||
            json_string_length(value) > PHI_LIMIT_METADATA_VALUE_BYTES) {
            return phi_fail_param(err, PHI_E_INVALID, "metadata",
                                  "'metadata' maps keys of at most %u bytes to strings of at most "
                                  "%u; '%.40s' does not",
                                  PHI_LIMIT_METADATA_KEY_BYTES, PHI_LIMIT_METADATA_VALUE_BYTES,
                                  key);
        }
    }
    return PHI_OK;
}

/* ---- the whole ---- */

/* GGUF first: it is what serves. */
static json_t *format_names(const phi_job_request *request)
{
    json_t *names = json_pack("[s]", "gguf");
    for (size_t i = 0; i < request->n_formats; i++) {
        (void)json_array_append_new(names,
                                    json_string(phi_convert_format_name(request->formats[i])));
    }
    return names;
}

static json_t *normalize(const json_t *body, const phi_job_request *request, const char *method)
{
    json_t *normal =
        json_pack("{s:s, s:O, s:s, s:s, s:o}", "model", request->model, "source",
                  json_object_get(body, "source"), "precision", phi_job_request_label(request),
                  "method", method, "formats", format_names(request));
    if (request->type) {
        (void)json_object_set_new(normal, "type", json_string(request->type));
    }
    if (is_int4(request)) {
        (void)json_object_set_new(normal, "group_size", json_integer(request->group_size));
    }
    (void)json_object_set_new(normal, "symmetric", json_boolean(request->symmetric));
    if (writes(request, PHI_CONVERT_ONNX)) {
        (void)json_object_set_new(normal, "provider",
                                  json_string(phi_onnx_provider_name(request->provider)));
    }
    if (request->context_length > 0) {
        (void)json_object_set_new(normal, "context_length", json_integer(request->context_length));
    }
    json_t *quality = phi_field(body, "quality");
    if (quality) {
        (void)json_object_set(normal, "quality", quality);
    }
    json_t *metadata = phi_field(body, "metadata");
    (void)json_object_set_new(normal, "metadata", metadata ? json_incref(metadata) : json_object());
    return normal;
}

phi_status phi_job_request_parse(const json_t *body, phi_job_request *out_request, phi_err *err)
{
    phi_job_request request = {0};
    const char *method = NULL;
    phi_status status = parse_model(body, &request, err);
    status = status ? status : parse_precision(body, &request, err);
    status = status ? status : parse_source(body, &request, err);
    status = status ? status : parse_method(body, &request, &method, err);
    status = status ? status : parse_grouping(body, &request, err);
    status = status ? status : parse_formats(body, &request, err);
    status = status ? status
                    : phi_provider_parse(body, writes(&request, PHI_CONVERT_ONNX),
                                         &request.provider, err);
    status = status ? status
                    : phi_context_length_parse(body, writes(&request, PHI_CONVERT_QNN),
                                               &request.context_length, err);
    status = status ? status : refuse_unsupported(body, err);
    status = status ? status : parse_quality(body, &request, err);
    status = status ? status : phi_metadata_check(body, err);
    if (status) {
        phi_job_request_done(&request);
        return status;
    }
    request.normal = normalize(body, &request, method);
    *out_request = request;
    return PHI_OK;
}

void phi_job_request_done(phi_job_request *request)
{
    phi_free(request->file_ids);
    phi_free(request->source_name);
    json_decref(request->normal);
    *request = (phi_job_request){0};
}
