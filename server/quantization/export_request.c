#include "server/quantization/export_request.h"

#include <string.h>

#include "base/mem.h"
#include "server/openai/fields.h"
#include "server/quantization/job_request.h"

#define GROUP_DEFAULT 32

static phi_status need_string(const json_t *body, const char *name, const char *what,
                              const char **out, phi_err *err)
{
    *out = NULL;
    phi_status status = phi_field_string(body, name, out, err);
    if (!status && (!*out || !**out)) {
        return phi_fail_param(err, PHI_E_INVALID, name, "'%s' is missing: %s", name, what);
    }
    return status;
}

static phi_status parse_format(const json_t *body, phi_export_request *request, phi_err *err)
{
    static const char wanted[] =
        "'gguf', 'onnx', 'qnn', 'openvino', 'safetensors', 'mlx', 'gptq' or "
        "'compressed-tensors'";
    const char *name = NULL;
    phi_status status = need_string(body, "format", wanted, &name, err);
    if (status) {
        return status;
    }
    request->gguf = strcmp(name, "gguf") == 0;
    if (!request->gguf && !phi_convert_format_parse(name, &request->format)) {
        return phi_fail_param(err, PHI_E_INVALID, "format", "'format' is '%.40s'; it must be %s",
                              name, wanted);
    }
    return PHI_OK;
}

static phi_status parse_precision(const json_t *body, phi_export_request *request, phi_err *err)
{
    const char *name = NULL;
    phi_status status = phi_field_string(body, "precision", &name, err);
    request->keep = !name;
    if (status || !name) {
        return status;
    }
    if (request->gguf) {
        return phi_fail_param(err, PHI_E_UNSUPPORTED, "precision",
                              "'precision' cannot be given with 'gguf', which is the model's own "
                              "file; POST /v1/quantization/jobs makes another");
    }
    if (!phi_precision_parse(name, &request->precision)) {
        return phi_fail_param(err, PHI_E_INVALID, "precision",
                              "'precision' is '%.40s'; it must be 'int4', 'int8', 'fp16' or "
                              "'fp32', or left out to keep the model's own",
                              name);
    }
    return PHI_OK;
}

static bool writes(const phi_export_request *request, phi_convert_format format)
{
    return !request->gguf && request->format == format;
}

/* Whether it asks for codes, whose groups may be chosen. */
static bool has_groups(const phi_export_request *request)
{
    return !request->keep && !writes(request, PHI_CONVERT_QNN) &&
           (request->precision == PHI_PRECISION_INT4 || request->precision == PHI_PRECISION_INT8);
}

static phi_status parse_grouping(const json_t *body, phi_export_request *request, phi_err *err)
{
    bool present = false;
    int64_t size = GROUP_DEFAULT;
    phi_status status = phi_field_integer(body, "group_size", -1, 4096, &present, &size, err);
    if (status) {
        return status;
    }
    request->symmetric = true;
    status = phi_field_bool(body, "symmetric", &request->symmetric, err);
    if (status) {
        return status;
    }
    if (!has_groups(request) && (present || phi_field(body, "symmetric"))) {
        const char *name = present ? "group_size" : "symmetric";
        return writes(request, PHI_CONVERT_QNN)
                   ? phi_fail_param(err, PHI_E_INVALID, name,
                                    "'%s' does not go with 'qnn', which has one scale a row and "
                                    "no zero points",
                                    name)
                   : phi_fail_param(err, PHI_E_INVALID, name,
                                    "'%s' goes with \"precision\": \"int4\" and \"int8\" only; "
                                    "without them the model's own codes are taken",
                                    name);
    }
    request->group_size = size < 0 ? PHI_GROUP_ROW : (uint32_t)size;
    return PHI_OK;
}

static phi_status check_together(const phi_export_request *request, phi_err *err)
{
    if (request->gguf) {
        return PHI_OK;
    }
    const phi_convert_options options = {.format = request->format,
                                         .provider = request->provider,
                                         .keep = request->keep,
                                         .precision = request->precision,
                                         .group_size = request->group_size,
                                         .symmetric = request->symmetric,
                                         .context_length = request->context_length};
    return phi_convert_check_options(&options, err);
}

phi_status phi_export_check_model(const phi_export_request *request, const char *architecture,
                                  const char *label, uint32_t n_ctx, phi_err *err)
{
    phi_precision precision = PHI_PRECISION_COUNT;
    phi_arch arch = PHI_ARCH_PHI3;
    phi_status status = PHI_OK;
    if (!request->gguf && phi_arch_parse(architecture, &arch)) {
        status = phi_convert_takes(request->format, request->provider, arch, err);
    }
    if (!status && !request->gguf) {
        status = phi_convert_takes_context(request->format, request->context_length, n_ctx, err);
    }
    if (status || request->gguf || !request->keep || !phi_precision_parse(label, &precision)) {
        return status;
    }
    phi_err inner = {0};
    status = phi_convert_holds(request->format, precision, &inner);
    if (status) {
        return phi_fail_param(err, status, "format",
                              "'format': %s; or give a 'precision' to quantize to", inner.message);
    }
    return PHI_OK;
}

const char *phi_export_format_name(const phi_export_request *request)
{
    return request->gguf ? "gguf" : phi_convert_format_name(request->format);
}

static json_t *normalize(const json_t *body, const phi_export_request *request, const char *model)
{
    const bool grouped = has_groups(request);
    const json_int_t group =
        request->group_size == PHI_GROUP_ROW ? -1 : (json_int_t)request->group_size;
    const char *precision = request->keep ? NULL : phi_precision_name(request->precision);
    const char *provider =
        writes(request, PHI_CONVERT_ONNX) ? phi_onnx_provider_name(request->provider) : NULL;
    const uint32_t length = request->context_length;
    json_t *metadata = phi_field(body, "metadata");
    return json_pack("{s:s, s:s, s:s?, s:s?, s:o, s:o, s:o, s:b, s:o}", "model", model, "format",
                     phi_export_format_name(request), "precision", precision, "provider", provider,
                     "context_length", length > 0 ? json_integer(length) : json_null(),
                     "group_size", grouped ? json_integer(group) : json_null(), "symmetric",
                     grouped ? json_boolean(request->symmetric) : json_null(), "lossless",
                     request->lossless ? 1 : 0, "metadata",
                     metadata ? json_incref(metadata) : json_object());
}

phi_status phi_export_request_parse(const json_t *body, phi_export_request *out_request,
                                    phi_err *err)
{
    phi_export_request request = {0};
    const char *model = NULL;
    phi_status status =
        need_string(body, "model", "the id of a model, as GET /v1/models lists them", &model, err);
    status = status ? status : parse_format(body, &request, err);
    status = status ? status : parse_precision(body, &request, err);
    status = status ? status : parse_grouping(body, &request, err);
    status = status ? status
                    : phi_provider_parse(body, writes(&request, PHI_CONVERT_ONNX),
                                         &request.provider, err);
    status = status ? status
                    : phi_context_length_parse(body, writes(&request, PHI_CONVERT_QNN),
                                               &request.context_length, err);
    status = status ? status : phi_field_bool(body, "lossless", &request.lossless, err);
    status = status ? status : check_together(&request, err);
    status = status ? status : phi_metadata_check(body, err);
    if (status) {
        return status;
    }
    request.normal = normalize(body, &request, model);
    if (!request.normal) {
        return phi_fail_param(err, PHI_E_INVALID, "model", "'model' is not text");
    }
    request.model = json_string_value(json_object_get(request.normal, "model"));
    *out_request = request;
    return PHI_OK;
}

void phi_export_request_done(phi_export_request *request)
{
    json_decref(request->normal);
    *request = (phi_export_request){0};
}
