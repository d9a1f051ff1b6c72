/* What a conversion may be asked for: the formats, and what each of them holds. */
#include "engine/quant/convert_internal.h"

#include <string.h>

#include "base/assert.h"
#include "engine/formats/onnx_write.h"
#include "engine/formats/qnn_write.h"

/* What MatMulNBits takes at least. */
#define GROUP_MIN 16U

static const char *const FORMAT_NAMES[PHI_CONVERT_FORMAT_COUNT] = {
    [PHI_CONVERT_ONNX] = "onnx",
    [PHI_CONVERT_OPENVINO] = "openvino",
    [PHI_CONVERT_QNN] = "qnn",
    [PHI_CONVERT_SAFETENSORS] = "safetensors",
    [PHI_CONVERT_MLX] = "mlx",
    [PHI_CONVERT_GPTQ] = "gptq",
    [PHI_CONVERT_COMPRESSED] = "compressed-tensors",
};

const char *phi_convert_format_name(phi_convert_format format)
{
    PHI_ASSERT(format < PHI_CONVERT_FORMAT_COUNT);
    return FORMAT_NAMES[format];
}

bool phi_convert_format_parse(const char *name, phi_convert_format *out_format)
{
    for (int i = 0; i < PHI_CONVERT_FORMAT_COUNT; i++) {
        if (strcmp(name, FORMAT_NAMES[i]) == 0) {
            *out_format = (phi_convert_format)i;
            return true;
        }
    }
    return false;
}

bool phi_convert_has_one_coding(phi_convert_format format)
{
    return format == PHI_CONVERT_GPTQ || format == PHI_CONVERT_COMPRESSED;
}

phi_status phi_convert_holds(phi_convert_format format, phi_precision precision, phi_err *err)
{
    bool is_float = precision == PHI_PRECISION_FP16 || precision == PHI_PRECISION_FP32;
    if (is_float && phi_convert_has_one_coding(format)) {
        return phi_fail_param(err, PHI_E_UNSUPPORTED, "precision",
                              "%s holds int4 and int8, not %s; safetensors does",
                              phi_convert_format_name(format), phi_precision_name(precision));
    }
    return PHI_OK;
}

/* QNN's graphs, and those of ONNX Runtime for one provider or the other, are not written for all.
 */
phi_status phi_convert_takes(phi_convert_format format, phi_onnx_provider provider, phi_arch arch,
                             phi_err *err)
{
    bool is_onnx = format == PHI_CONVERT_ONNX;
    if (is_onnx ? phi_onnx_has_graph(arch, provider)
                : format != PHI_CONVERT_QNN || arch == PHI_ARCH_PHI3) {
        return PHI_OK;
    }
    return phi_fail_param(err, PHI_E_UNSUPPORTED, "format",
                          "%s is written for %s models only, and this is %s; it can be converted "
                          "to gguf, safetensors, openvino, %s, mlx, gptq and compressed-tensors",
                          is_onnx ? "onnx for cuda" : "qnn", is_onnx ? "phi3 and phi2" : "phi3",
                          phi_arch_name(arch), is_onnx ? "onnx for cpu" : "onnx");
}

phi_status phi_convert_takes_context(phi_convert_format format, uint32_t context_length,
                                     uint32_t n_ctx, phi_err *err)
{
    return format == PHI_CONVERT_QNN ? phi_qnn_check_context(n_ctx, context_length, err) : PHI_OK;
}

/* Powers of two, and perhaps the row. */
typedef struct group_rule {
    uint32_t least;
    uint32_t most;
    bool has_row;
    const char *said;
} group_rule;

static group_rule rule_of(const phi_convert_options *options)
{
    switch (options->format) {
    case PHI_CONVERT_MLX:
        return (group_rule){PHI_MLX_GROUP_MIN, PHI_MLX_GROUP_MAX, false,
                            "for mlx it must be 32, 64 or 128"};
    case PHI_CONVERT_ONNX:
        return options->provider == PHI_ONNX_CUDA
                   ? (group_rule){GROUP_MIN, PHI_CUDA_GROUP_MAX, false,
                                  "for ONNX Runtime on CUDA it must be 16, 32, 64 or 128"}
                   : (group_rule){GROUP_MIN, PHI_ONNX_GROUP_MAX, false,
                                  "for onnx it must be 16, 32, 64, 128 or 256"};
    default:
        return (group_rule){GROUP_MIN, PHI_ONNX_GROUP_MAX, true,
                            "it must be 16, 32, 64, 128, 256, or -1 for the row"};
    }
}

static phi_status check_group(const phi_convert_options *options, phi_err *err)
{
    const uint32_t group = options->group_size;
    const group_rule rule = rule_of(options);
    if (group == PHI_GROUP_ROW) {
        return rule.has_row ? PHI_OK
                            : phi_fail_param(err, PHI_E_INVALID, "group_size",
                                             "the group size is -1, the row; %s", rule.said);
    }
    if (group < rule.least || group > rule.most || (group & (group - 1)) != 0) {
        return phi_fail_param(err, PHI_E_INVALID, "group_size", "the group size is %u; %s", group,
                              rule.said);
    }
    return PHI_OK;
}

static phi_status check_provider(const phi_convert_options *options, phi_err *err)
{
    if (options->provider != PHI_ONNX_CPU && options->format != PHI_CONVERT_ONNX) {
        return phi_fail_param(err, PHI_E_INVALID, "provider",
                              "a provider is ONNX Runtime's; %s has none",
                              phi_convert_format_name(options->format));
    }
    if (options->provider == PHI_ONNX_CUDA && !options->keep &&
        options->precision == PHI_PRECISION_FP32) {
        return phi_fail_param(err, PHI_E_INVALID, "precision",
                              "ONNX Runtime's attention on CUDA computes in fp16; the precision "
                              "must be int4, int8 or fp16");
    }
    return PHI_OK;
}

phi_status phi_convert_check_options(const phi_convert_options *options, phi_err *err)
{
    phi_status status = check_provider(options, err);
    if (!status && options->context_length > 0 && options->format != PHI_CONVERT_QNN) {
        status = phi_fail_param(err, PHI_E_INVALID, "context_length",
                                "a context length is for qnn, whose graphs are made for one; %s "
                                "takes any",
                                phi_convert_format_name(options->format));
    }
    status = status ? status
                    : phi_convert_takes_context(options->format, options->context_length, 0, err);
    if (status || options->keep) {
        return status;
    }
    bool is_int =
        options->precision == PHI_PRECISION_INT4 || options->precision == PHI_PRECISION_INT8;
    if (options->format == PHI_CONVERT_QNN && options->precision != PHI_PRECISION_INT8) {
        return phi_fail_param(err, PHI_E_UNSUPPORTED, "precision",
                              "qnn holds int8, one scale a row, not %s; without a precision it is "
                              "int8 too",
                              phi_precision_name(options->precision));
    }
    if (options->format == PHI_CONVERT_SAFETENSORS && is_int) {
        return phi_fail_param(err, PHI_E_UNSUPPORTED, "precision",
                              "safetensors holds floats: the precision must be fp16 or fp32, not "
                              "%s; mlx, gptq and compressed-tensors hold codes",
                              phi_precision_name(options->precision));
    }
    /* QNN's is the row, whatever is said. */
    status = is_int && options->format != PHI_CONVERT_QNN ? check_group(options, err) : PHI_OK;
    return status ? status : phi_convert_holds(options->format, options->precision, err);
}
