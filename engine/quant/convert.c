#include "engine/quant/convert.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "engine/formats/onnx_write.h"
#include "engine/formats/openvino.h"
#include "engine/formats/tensor_rows.h"
#include "engine/quant/recode.h"

/* Of the embedding, the head and INT8. */
#define GROUP_INT8 32U
/* MatMulNBits takes powers of two up to this. */
#define ONNX_GROUP_MAX 256U

static const char *const FORMAT_NAMES[PHI_CONVERT_FORMAT_COUNT] = {
    [PHI_CONVERT_ONNX] = "onnx",
    [PHI_CONVERT_OPENVINO] = "openvino",
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

/* A call: tensors[i] is made from recodes[i]. */
typedef struct conversion {
    const phi_compute *compute;
    const phi_convert_options *options;
    phi_checkpoint *checkpoint;
    phi_export_tensor *tensors;
    phi_recode *recodes;
    phi_convert_report *report;
} conversion;

/* ---- what each matrix becomes ---- */

/* The largest power of two that divides the group, is no larger than `most`, and so repeats scales
 * rather than joining groups. */
static uint32_t power_group(uint32_t group, uint32_t most)
{
    uint32_t power = 1;
    while (power < most && group % (power * 2) == 0) {
        power *= 2;
    }
    return power;
}

static bool is_layer_matrix(const phi_tensor *tensor)
{
    return phi_str_starts(tensor->name, "blk.");
}

static phi_dtype scale_dtype(const conversion *c, const phi_recode_scan *scan)
{
    /* ONNX's scales have the type that is computed in. */
    return c->options->format == PHI_CONVERT_OPENVINO && scan->halves ? PHI_DTYPE_F16
                                                                      : PHI_DTYPE_F32;
}

/* Of a matrix of codes that keeps its precision. */
static phi_code_target kept_target(const conversion *c, const phi_form *form,
                                   const phi_recode_scan *scan)
{
    bool onnx = c->options->format == PHI_CONVERT_ONNX;
    return (phi_code_target){
        .bits = form->kind == PHI_WEIGHT_INT4 ? 4 : 8,
        .group = onnx ? power_group(form->group, ONNX_GROUP_MAX) : form->group,
        .zero_rule = scan->centred && scan->whole_zeros ? PHI_ZERO_CENTRE : PHI_ZERO_INTEGER,
        .scale_dtype = scale_dtype(c, scan),
    };
}

static phi_code_target asked_target(const conversion *c, const phi_tensor *tensor)
{
    const phi_convert_options *options = c->options;
    const phi_recode_scan halves = {.halves = true};
    bool is_int4 = options->precision == PHI_PRECISION_INT4 && is_layer_matrix(tensor);
    return (phi_code_target){
        .bits = is_int4 ? 4 : 8,
        .group = is_int4 ? options->group_size : GROUP_INT8,
        .zero_rule = is_int4 && !options->symmetric ? PHI_ZERO_INTEGER : PHI_ZERO_CENTRE,
        .scale_dtype = scale_dtype(c, &halves),
    };
}

static phi_status plan_codes(conversion *c, const phi_tensor *tensor, phi_export_tensor *out,
                             phi_recode *recode, phi_err *err)
{
    phi_form form = phi_tensor_form(tensor);
    phi_recode_scan scan = {0};
    phi_status status = form.group ? phi_recode_look(c->checkpoint, tensor, &scan, err) : PHI_OK;
    if (status) {
        return status;
    }
    phi_code_target target =
        c->options->keep ? kept_target(c, &form, &scan) : asked_target(c, tensor);
    PHI_ASSERT(target.group > 0);
    if (tensor->cols % target.group != 0) {
        return phi_fail_param(err, PHI_E_INVALID, "group_size",
                              "tensor '%s' has %u columns, which groups of %u do not divide",
                              tensor->name, tensor->cols, target.group);
    }
    recode->target = target;
    recode->exact = phi_recode_is_exact(&form, &scan, &target);
    out->bits = target.bits;
    out->group = target.group;
    out->zero_rule = target.zero_rule;
    out->scale_dtype = target.scale_dtype;
    c->report->exact += recode->exact;
    c->report->requantized += !recode->exact;
    return PHI_OK;
}

static uint32_t float_bits(const conversion *c, const phi_form *form)
{
    if (!c->options->keep) {
        return c->options->precision == PHI_PRECISION_FP16 ? 16 : 32;
    }
    return form->kind == PHI_WEIGHT_FP32 ? 32 : 16;
}

static phi_status plan_tensor(conversion *c, const phi_tensor *tensor, phi_export_tensor *out,
                              phi_recode *recode, phi_err *err)
{
    phi_form form = phi_tensor_form(tensor);
    *out = (phi_export_tensor){.name = tensor->name,
                               .n_dims = tensor->n_dims,
                               .rows = tensor->rows,
                               .cols = tensor->cols,
                               .bits = 32,
                               .scale_dtype = PHI_DTYPE_F32};
    *recode = (phi_recode){.compute = c->compute, .checkpoint = c->checkpoint, .tensor = tensor};
    if (tensor->n_dims == 1) {
        return PHI_OK;
    }
    c->report->matrices++;
    bool is_int = c->options->keep ? form.group != 0
                                   : c->options->precision == PHI_PRECISION_INT4 ||
                                         c->options->precision == PHI_PRECISION_INT8;
    if (is_int) {
        return plan_codes(c, tensor, out, recode, err);
    }
    out->bits = float_bits(c, &form);
    c->report->exact += out->bits == 32 || form.kind == PHI_WEIGHT_FP16;
    return PHI_OK;
}

/* ---- what the writer asks for ---- */

static phi_recode *recode_of(const conversion *c, const phi_export_tensor *tensor)
{
    return &c->recodes[tensor - c->tensors];
}

static phi_status read_codes(void *user, const phi_export_tensor *tensor, uint32_t row,
                             uint32_t count, uint8_t *codes, float *scales, float *zeros,
                             phi_err *err)
{
    return phi_recode_rows(recode_of(user, tensor), row, count, codes, scales, zeros, err);
}

static phi_status read_f32(void *user, const phi_export_tensor *tensor, uint32_t row,
                           uint32_t count, float *out, phi_err *err)
{
    const phi_recode *recode = recode_of(user, tensor);
    return phi_recode_floats(recode->checkpoint, recode->tensor, row, count, out, err);
}

static bool progress(void *user, uint64_t bytes_done, uint64_t bytes_total)
{
    const phi_convert_options *options = ((conversion *)user)->options;
    return !options->progress || options->progress(options->progress_user, bytes_done, bytes_total);
}

static void sum_errors(conversion *c, size_t count)
{
    phi_convert_report *report = c->report;
    double error = 0.0;
    double weight = 0.0;
    for (size_t i = 0; i < count; i++) {
        const phi_recode *recode = &c->recodes[i];
        if (recode->weight <= 0.0) {
            continue;
        }
        double rmse = sqrt(recode->error / recode->weight);
        error += recode->error;
        weight += recode->weight;
        if (rmse > report->worst_rmse) {
            report->worst_rmse = rmse;
            (void)snprintf(report->worst_tensor, sizeof report->worst_tensor, "%s",
                           recode->tensor->name);
        }
    }
    report->weight_rmse = weight > 0.0 ? sqrt(error / weight) : 0.0;
}

static phi_status check_options(const phi_convert_options *options, phi_err *err)
{
    uint32_t group = options->group_size;
    bool is_int4 = !options->keep && options->precision == PHI_PRECISION_INT4;
    if (is_int4 && (group < 16 || group > ONNX_GROUP_MAX || (group & (group - 1)) != 0)) {
        return phi_fail_param(err, PHI_E_INVALID, "group_size",
                              "the group size is %u; it must be 16, 32, 64, 128 or 256", group);
    }
    return PHI_OK;
}

static phi_status convert(conversion *c, phi_err *err)
{
    size_t count = phi_checkpoint_count(c->checkpoint);
    phi_status status = PHI_OK;
    c->tensors = phi_alloc_zero(count, sizeof *c->tensors);
    c->recodes = phi_alloc_zero(count, sizeof *c->recodes);
    for (size_t i = 0; i < count && !status; i++) {
        status = plan_tensor(c, phi_checkpoint_at(c->checkpoint, i), &c->tensors[i], &c->recodes[i],
                             err);
    }
    const phi_export export = {.description = phi_checkpoint_description(c->checkpoint),
                               .tensors = c->tensors,
                               .count = (uint32_t)count,
                               .source_dir = phi_checkpoint_dir(c->checkpoint),
                               .user = c,
                               .read_codes = read_codes,
                               .read_f32 = read_f32,
                               .progress = progress};
    if (!status) {
        status = c->options->format == PHI_CONVERT_ONNX
                     ? phi_onnx_write(&export, c->options->out_dir, err)
                     : phi_openvino_write(&export, c->options->out_dir, err);
    }
    sum_errors(c, count);
    return status;
}

phi_status phi_convert(const phi_compute *compute, const phi_convert_options *options,
                       phi_convert_report *out_report, phi_err *err)
{
    uint64_t started_ns = phi_clock_ns();
    phi_convert_report report = {0};
    conversion c = {.compute = compute, .options = options, .report = &report};
    phi_status status = check_options(options, err);
    status = status ? status : phi_checkpoint_open(options->source, &c.checkpoint, err);
    if (!status && !phi_checkpoint_dir(c.checkpoint)) {
        /* Both ecosystems read tokenizer.json. */
        status = phi_fail(err, PHI_E_UNSUPPORTED,
                          "a .gguf has no tokenizer.json, which %s needs; convert from the model's "
                          "folder",
                          phi_convert_format_name(options->format));
    }
    status = status ? status : convert(&c, err);
    phi_checkpoint_close(c.checkpoint);
    phi_free(c.tensors);
    phi_free(c.recodes);
    report.seconds = (double)(phi_clock_ns() - started_ns) / 1e9;
    if (!status) {
        *out_report = report;
    }
    return status;
}
