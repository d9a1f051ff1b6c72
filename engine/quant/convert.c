#include "engine/quant/convert_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "engine/formats/hf_write.h"
#include "engine/formats/onnx_write.h"
#include "engine/formats/openvino.h"
#include "engine/formats/qnn_write.h"
#include "engine/formats/tensor_rows.h"
#include "engine/quant/out_folder.h"
#include "engine/quant/qnn_ranges.h"
#include "engine/quant/recode.h"
#include "engine/tokenizer/tokenizer.h"

/* Of the embedding and the head beside layers in INT4. */
#define GROUP_BESIDE 32U

/* A call: tensors[i] is made from recodes[i], whose matrix is like scans[i]. */
typedef struct conversion {
    const phi_compute *compute;
    const phi_convert_options *options;
    phi_checkpoint *checkpoint;
    phi_export_tensor *tensors;
    phi_recode *recodes;
    phi_recode_scan *scans;
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

static bool is_cuda(const conversion *c)
{
    return c->options->format == PHI_CONVERT_ONNX && c->options->provider == PHI_ONNX_CUDA;
}

/* What scales, and real zero points, are stored in: fp16 where that is exact. */
static phi_dtype scale_dtype(const conversion *c, const phi_recode_scan *scan)
{
    switch (c->options->format) {
    case PHI_CONVERT_ONNX:
        /* The type that is computed in. */
        return is_cuda(c) ? PHI_DTYPE_F16 : PHI_DTYPE_F32;
    case PHI_CONVERT_MLX:
        return scan->halves && scan->half_offsets ? PHI_DTYPE_F16 : PHI_DTYPE_F32;
    case PHI_CONVERT_GPTQ:
        return PHI_DTYPE_F16;
    default:
        return scan->halves ? PHI_DTYPE_F16 : PHI_DTYPE_F32;
    }
}

static phi_zero_rule zero_rule(const conversion *c, bool centred)
{
    switch (c->options->format) {
    case PHI_CONVERT_MLX:
        return PHI_ZERO_REAL;
    default:
        return centred ? PHI_ZERO_CENTRE : PHI_ZERO_INTEGER;
    }
}

/* The format's own group nearest to one that is there: a power of two that divides it. */
static uint32_t fitting_group(const conversion *c, uint32_t group)
{
    switch (c->options->format) {
    case PHI_CONVERT_ONNX:
        return power_group(group, is_cuda(c) ? PHI_CUDA_GROUP_MAX : PHI_ONNX_GROUP_MAX);
    case PHI_CONVERT_MLX:
        group = power_group(group, PHI_MLX_GROUP_MAX);
        return group < PHI_MLX_GROUP_MIN ? PHI_MLX_GROUP_MIN : group;
    default:
        return group;
    }
}

static uint32_t bits_of(const phi_form *form)
{
    return form->kind == PHI_WEIGHT_INT4 ? 4 : 8;
}

/* Of a matrix of codes that keeps its precision. */
static phi_code_target kept_target(const conversion *c, const phi_form *form,
                                   const phi_recode_scan *scan)
{
    phi_code_target target = {
        .bits = bits_of(form),
        .group = fitting_group(c, scan->group),
        .zero_rule = zero_rule(c, scan->centred && scan->whole_zeros),
        .scale_dtype = scale_dtype(c, scan),
    };
    if (c->options->format == PHI_CONVERT_OPENVINO && !scan->whole_zeros) {
        target.zero_rule = PHI_ZERO_FLOAT;
        target.scale_dtype = PHI_DTYPE_F32;
    }
    return target;
}

static uint32_t asked_bits(const conversion *c, const phi_tensor *tensor)
{
    return c->options->precision == PHI_PRECISION_INT4 && is_layer_matrix(tensor) ? 4 : 8;
}

/* Scales in fp16, unless the source has the codes and fp16 comes nowhere near their scales. */
static phi_code_target asked_target(const conversion *c, const phi_tensor *tensor,
                                    const phi_form *form, const phi_recode_scan *scan)
{
    const phi_convert_options *options = c->options;
    const phi_recode_scan halves = {.halves = true, .half_offsets = true};
    uint32_t bits = asked_bits(c, tensor);
    bool is_beside = options->precision == PHI_PRECISION_INT4 && bits == 8;
    phi_code_target target = {
        .bits = bits,
        .group = options->group_size == PHI_GROUP_ROW ? tensor->cols
                 : is_beside                          ? GROUP_BESIDE
                                                      : options->group_size,
        .zero_rule = zero_rule(c, is_beside || options->symmetric),
        .scale_dtype = scale_dtype(c, &halves),
    };
    phi_code_target wide = target;
    wide.scale_dtype = scale_dtype(c, &(phi_recode_scan){.halves = false});
    bool is_far = form->group && phi_recode_fits(form, scan, &target) == PHI_FIT_NONE;
    return is_far && phi_recode_fits(form, scan, &wide) != PHI_FIT_NONE ? wide : target;
}

/* QNN's: one scale a row, whatever the source has. */
static phi_code_target row_target(const phi_tensor *tensor)
{
    return (phi_code_target){.bits = 8,
                             .group = tensor->cols,
                             .zero_rule = PHI_ZERO_CENTRE,
                             .scale_dtype = PHI_DTYPE_F32};
}

/* MLX has MXFP4 too: the same codes and scales. */
static bool keeps_mx(const conversion *c, const phi_tensor *tensor)
{
    return c->options->format == PHI_CONVERT_MLX && c->options->keep && phi_tensor_is_mx(tensor);
}

static phi_status plan_codes(conversion *c, size_t index, phi_err *err)
{
    phi_recode *recode = &c->recodes[index];
    const phi_tensor *tensor = recode->tensor;
    phi_form form = phi_tensor_form(tensor);
    if (keeps_mx(c, tensor)) {
        recode->target = (phi_code_target){.bits = 4,
                                           .group = form.group,
                                           .zero_rule = PHI_ZERO_CENTRE,
                                           .is_mx = true,
                                           .scale_dtype = PHI_DTYPE_F32};
        c->tensors[index].bits = 4;
        return PHI_OK;
    }
    phi_recode_scan *scan = &c->scans[index];
    bool is_real = zero_rule(c, true) == PHI_ZERO_REAL;
    uint32_t bits = c->options->keep ? bits_of(&form) : asked_bits(c, tensor);
    uint32_t real_bits = is_real ? bits : 0;
    phi_status status =
        form.group ? phi_recode_look(c->checkpoint, tensor, real_bits, scan, err) : PHI_OK;
    if (status) {
        return status;
    }
    recode->target = c->options->format == PHI_CONVERT_QNN ? row_target(tensor)
                     : c->options->keep                    ? kept_target(c, &form, scan)
                                                           : asked_target(c, tensor, &form, scan);
    c->tensors[index].bits = recode->target.bits;
    return PHI_OK;
}

static uint32_t common_divisor(uint32_t a, uint32_t b)
{
    while (b != 0) {
        uint32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* The width that most of the weights have. */
static uint32_t usual_bits(const conversion *c, size_t count)
{
    uint64_t four = 0;
    uint64_t eight = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t weights = (uint64_t)c->tensors[i].rows * c->tensors[i].cols;
        four += c->tensors[i].bits == 4 ? weights : 0;
        eight += c->tensors[i].bits == 8 ? weights : 0;
    }
    return four >= eight ? 4 : 8;
}

/*
 * GPTQ and compressed-tensors state one coding for all matrices. A file that mixes several gets the
 * width that most of its weights have, rows if all of these are by row, else the largest groups
 * that they are made of, and zero points where any has them; matrices that this cannot hold are
 * coded anew.
 */
static void unify(conversion *c, size_t count)
{
    uint32_t bits = usual_bits(c, count);
    uint32_t group = 0;
    bool by_row = true;
    phi_zero_rule zero_rule = PHI_ZERO_CENTRE;
    for (size_t i = 0; i < count; i++) {
        const phi_code_target *target = &c->recodes[i].target;
        if (c->tensors[i].bits <= 8) {
            bool kept = target->bits <= bits;
            by_row = by_row && (!kept || target->group == c->tensors[i].cols);
            group = common_divisor(kept ? target->group : c->tensors[i].cols, group);
            zero_rule = target->zero_rule == PHI_ZERO_CENTRE ? zero_rule : target->zero_rule;
        }
    }
    for (size_t i = 0; i < count; i++) {
        if (c->tensors[i].bits <= 8) {
            c->recodes[i].target.bits = bits;
            c->recodes[i].target.group = by_row ? c->tensors[i].cols : group;
            c->recodes[i].target.zero_rule = zero_rule;
        }
    }
}

/* Whether the target holds the matrix as it is; notes, or refuses, where it does not. */
static phi_status compare(conversion *c, size_t index, phi_err *err)
{
    phi_convert_report *report = c->report;
    phi_recode *recode = &c->recodes[index];
    const char *name = recode->tensor->name;
    phi_form form = phi_tensor_form(recode->tensor);
    recode->fit = phi_recode_fits(&form, &c->scans[index], &recode->target);
    if (recode->fit == PHI_FIT_EXACT) {
        report->exact++;
        return PHI_OK;
    }
    bool is_anew = recode->fit == PHI_FIT_NONE;
    const char *why = "its scales would be rounded to fp16";
    if (is_anew) {
        why = c->options->keep ? phi_recode_obstacle(&form, &c->scans[index], &recode->target)
                               : "it has not the codes that were asked for";
    }
    if (c->options->lossless) {
        return phi_fail_param(err, PHI_E_UNSUPPORTED, "lossless",
                              "tensor '%s' cannot go over as it is: %s", name, why);
    }
    report->rescaled += !is_anew;
    if (is_anew && report->requantized++ == 0) {
        (void)snprintf(report->first_requantized, sizeof report->first_requantized, "%s", name);
        report->requantized_why = why;
    }
    return PHI_OK;
}

/* The writer's side of the targets, and what is exact about them. */
static phi_status settle(conversion *c, size_t count, phi_err *err)
{
    if (c->options->keep && phi_convert_has_one_coding(c->options->format)) {
        unify(c, count);
    }
    for (size_t i = 0; i < count; i++) {
        phi_export_tensor *out = &c->tensors[i];
        phi_recode *recode = &c->recodes[i];
        const phi_code_target *target = &recode->target;
        if (out->bits > 8) {
            continue;
        }
        PHI_ASSERT(target->group > 0);
        if (out->cols % target->group != 0) {
            return phi_fail_param(err, PHI_E_INVALID, "group_size",
                                  "tensor '%s' has %u columns, which groups of %u do not divide",
                                  out->name, out->cols, target->group);
        }
        out->bits = target->bits;
        out->group = target->group;
        out->zero_rule = target->zero_rule;
        out->is_mx = target->is_mx;
        out->scale_dtype = target->scale_dtype;
        phi_status status = compare(c, i, err);
        if (status) {
            return status;
        }
    }
    return PHI_OK;
}

/* It decides by small differences, and is small itself: it keeps what it has. */
static bool is_router(const phi_tensor *tensor)
{
    return phi_str_ends(tensor->name, ".ffn_gate_inp.weight");
}

/* GPTQ and compressed-tensors have codes for the layers' matrices only, and plain files for none.
 */
static bool holds_codes(const conversion *c, const phi_tensor *tensor)
{
    switch (c->options->format) {
    case PHI_CONVERT_SAFETENSORS:
        return false;
    case PHI_CONVERT_GPTQ:
    case PHI_CONVERT_COMPRESSED:
        return is_layer_matrix(tensor);
    default:
        return true;
    }
}

static bool is_hugging_face(const conversion *c)
{
    return c->options->format != PHI_CONVERT_ONNX && c->options->format != PHI_CONVERT_OPENVINO;
}

/* 16 bits as the source has them, where the format has both kinds. */
static phi_status plan_floats(conversion *c, const phi_tensor *tensor, bool keep,
                              phi_export_tensor *out, phi_err *err)
{
    const phi_form own = phi_tensor_form(tensor);
    const phi_form *form = &own;
    bool asked_16 = !keep && c->options->precision != PHI_PRECISION_FP32;
    bool is_bf16 = form->kind == PHI_WEIGHT_BF16 && is_hugging_face(c);
    bool is_16 = form->kind == PHI_WEIGHT_FP16 || form->kind == PHI_WEIGHT_BF16;
    out->bits = asked_16 || (keep && is_16) || is_cuda(c) ? 16 : 32;
    if (is_router(tensor) && form->kind == PHI_WEIGHT_BF16 && !is_bf16) {
        out->bits = 32; /* there fp16 would be no longer what it has */
    }
    out->float_dtype = is_bf16 ? PHI_DTYPE_BF16 : PHI_DTYPE_F16;
    bool exact = out->bits == 32 || form->kind == PHI_WEIGHT_FP16 || is_bf16;
    c->report->exact += exact;
    if (!exact && c->options->lossless) {
        return phi_fail_param(err, PHI_E_UNSUPPORTED, "lossless",
                              "tensor '%s' cannot go over as it is: it would be rounded to fp16",
                              tensor->name);
    }
    return PHI_OK;
}

static phi_status plan_tensor(conversion *c, size_t index, phi_err *err)
{
    const phi_tensor *tensor = phi_checkpoint_at(c->checkpoint, index);
    phi_export_tensor *out = &c->tensors[index];
    phi_form form = phi_tensor_form(tensor);
    *out = (phi_export_tensor){.name = tensor->name,
                               .n_dims = tensor->n_dims == 1 ? 1 : 2,
                               .rows = tensor->rows,
                               .cols = tensor->cols,
                               .bits = 32,
                               .scale_dtype = PHI_DTYPE_F32,
                               .float_dtype = PHI_DTYPE_F32};
    c->recodes[index] =
        (phi_recode){.compute = c->compute, .checkpoint = c->checkpoint, .tensor = tensor};
    if (tensor->n_dims == 1) {
        bool is_16 = tensor->dtype == PHI_DTYPE_F16 || tensor->dtype == PHI_DTYPE_BF16;
        out->float_dtype = is_16 ? tensor->dtype : PHI_DTYPE_F32;
        return PHI_OK;
    }
    c->report->matrices++;
    bool is_int = c->options->format == PHI_CONVERT_QNN ? true
                  : c->options->keep                    ? form.group != 0
                                     : c->options->precision == PHI_PRECISION_INT4 ||
                                           c->options->precision == PHI_PRECISION_INT8;
    if (is_int && holds_codes(c, tensor) && !is_router(tensor)) {
        return plan_codes(c, index, err);
    }
    return plan_floats(c, tensor, c->options->keep || is_router(tensor), out, err);
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

/* ---- QNN ---- */

static bool go_on(void *user)
{
    return progress(user, 0, 1);
}

static phi_status write_qnn(conversion *c, const phi_export *export, const char *dir, phi_err *err)
{
    phi_qnn_ranges ranges = {0};
    const phi_qnn_measuring measuring = {
        .compute = c->compute,
        .checkpoint = c->checkpoint,
        .context = phi_qnn_context(export->description->n_ctx, c->options->context_length),
        .go_on = go_on,
        .user = c};
    phi_status status = phi_qnn_measure(&measuring, &ranges, err);
    const phi_qnn_options options = {.context = c->options->context_length};
    status = status ? status : phi_qnn_write(export, &ranges, &options, dir, err);
    phi_qnn_ranges_done(&ranges, export->description->n_layer);
    return status;
}

static phi_status write_format(conversion *c, const phi_export *export, const char *dir,
                               phi_err *err)
{
    const phi_convert_options *options = c->options;
    switch (options->format) {
    case PHI_CONVERT_ONNX:
        return phi_onnx_write(export, options->provider, dir, err);
    case PHI_CONVERT_OPENVINO:
        return phi_openvino_write(export, dir, err);
    case PHI_CONVERT_QNN:
        return write_qnn(c, export, dir, err);
    case PHI_CONVERT_SAFETENSORS:
        return phi_hf_write(export, PHI_HF_PLAIN, dir, err);
    case PHI_CONVERT_MLX:
        return phi_hf_write(export, PHI_HF_MLX, dir, err);
    case PHI_CONVERT_GPTQ:
        return phi_hf_write(export, PHI_HF_GPTQ, dir, err);
    case PHI_CONVERT_COMPRESSED:
        return phi_hf_write(export, PHI_HF_COMPRESSED, dir, err);
    case PHI_CONVERT_FORMAT_COUNT:
        break;
    }
    PHI_UNREACHABLE();
}

/* Plans all tensors and writes them into `dir`, with the files of `source_dir` beside them. */
static phi_status convert(conversion *c, const char *source_dir, const char *dir, phi_err *err)
{
    size_t count = phi_checkpoint_count(c->checkpoint);
    phi_status status = PHI_OK;
    c->tensors = phi_alloc_zero(count, sizeof *c->tensors);
    c->recodes = phi_alloc_zero(count, sizeof *c->recodes);
    c->scans = phi_alloc_zero(count, sizeof *c->scans);
    for (size_t i = 0; i < count && !status; i++) {
        status = plan_tensor(c, i, err);
    }
    status = status ? status : settle(c, count, err);
    const phi_export export = {.description = phi_checkpoint_description(c->checkpoint),
                               .tensors = c->tensors,
                               .count = (uint32_t)count,
                               .source_dir = source_dir,
                               .user = c,
                               .read_codes = read_codes,
                               .read_f32 = read_f32,
                               .progress = progress};
    if (!status) {
        status = write_format(c, &export, dir, err);
    }
    sum_errors(c, count);
    return status;
}

/* A GGUF holds its tokenizer in its metadata, every other source has a folder of files. */
static phi_status write_tokenizer(const phi_checkpoint *checkpoint, const char *dir, phi_err *err)
{
    phi_tokenizer *tokenizer = NULL;
    uint32_t n_ctx = phi_checkpoint_description(checkpoint)->n_ctx;
    phi_status status = phi_tokenizer_open(checkpoint, &tokenizer, err);
    status = status ? status : phi_tokenizer_write_folder(tokenizer, n_ctx, dir, err);
    phi_tokenizer_destroy(tokenizer);
    return status;
}

static phi_status convert_to_folder(conversion *c, phi_err *err)
{
    phi_out_folder folder;
    phi_status status = phi_out_folder_make(&folder, c->options->out_dir, err);
    const char *source_dir = phi_checkpoint_dir(c->checkpoint);
    if (!status && !source_dir) {
        source_dir = folder.scratch;
        status = write_tokenizer(c->checkpoint, source_dir, err);
    }
    status = status ? status : convert(c, source_dir, folder.made, err);
    status = status ? status : phi_out_folder_publish(&folder, err);
    phi_out_folder_done(&folder);
    return status;
}

phi_status phi_convert(const phi_compute *compute, const phi_convert_options *options,
                       phi_convert_report *out_report, phi_err *err)
{
    uint64_t started_ns = phi_clock_ns();
    phi_convert_report report = {0};
    conversion c = {.compute = compute, .options = options, .report = &report};
    phi_status status = phi_convert_check_options(options, err);
    status = status ? status : phi_checkpoint_open(options->source, &c.checkpoint, err);
    if (!status) {
        status = phi_convert_takes(options->format, options->provider,
                                   phi_checkpoint_description(c.checkpoint)->arch, err);
    }
    if (!status && options->format == PHI_CONVERT_QNN) {
        status =
            phi_qnn_check(phi_checkpoint_description(c.checkpoint), options->context_length, err);
    }
    status = status ? status : convert_to_folder(&c, err);
    phi_checkpoint_close(c.checkpoint);
    phi_free(c.tensors);
    phi_free(c.recodes);
    phi_free(c.scans);
    report.seconds = (double)(phi_clock_ns() - started_ns) / 1e9;
    if (!status) {
        *out_report = report;
    }
    return status;
}
