/*
 * Rotary settings out of tables of cosines and sines: cos[p][i] = factor * cos(p * f[i]), so that
 * row 0 tells the factor and row 1 the frequencies; rows further down tell them more exactly, since
 * an angle's error is divided by its position. Of frequencies the simplest base is looked for that
 * gives them as f[i] = theta^(-2 i / n_rot); where there is none they become LongRoPE's factors
 * over the base that all Phi-3 models with LongRoPE have.
 */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "engine/formats/hf_config.h"
#include "engine/formats/onnx.h"
#include "engine/formats/onnx_config.h"

#define HALF_MAX (PHI_LIMIT_HEAD_DIM / 2)
#define TURN 6.283185307179586
#define USUAL_THETA 10000.0
/* Positions that angles are compared at and refined with, doubling. */
#define POSITION_MAX 1024U

typedef struct tables {
    const char *label;
    const phi_onnx_tensor *cos;
    const phi_onnx_tensor *sin;
    phi_dtype dtype;
    double unit; /* what a number of the type near 1 may be off */
    uint32_t rows;
    uint32_t half;
    double factor;
    double frequency[HALF_MAX];
    double off[HALF_MAX]; /* what each may be off */
} tables;

static phi_status check_tables(const char *label, const phi_onnx_tensor *cos,
                               const phi_onnx_tensor *sin, tables *out, phi_err *err)
{
    *out = (tables){.label = label, .cos = cos, .sin = sin, .unit = 1e-6};
    bool known = true;
    switch (cos->type) {
    case PHI_ONNX_FLOAT:
        out->dtype = PHI_DTYPE_F32;
        break;
    case PHI_ONNX_FLOAT16:
        out->dtype = PHI_DTYPE_F16;
        out->unit = 1e-3;
        break;
    case PHI_ONNX_BFLOAT16:
        out->dtype = PHI_DTYPE_BF16;
        out->unit = 8e-3;
        break;
    default:
        known = false;
    }
    if (!known || sin->type != cos->type || cos->n_dims != 2 || sin->n_dims != 2 ||
        cos->dims[0] != sin->dims[0] || cos->dims[1] != sin->dims[1] || !cos->data.file ||
        !sin->data.file || cos->dims[0] < 2 || cos->dims[0] > PHI_LIMIT_CONTEXT ||
        cos->dims[1] < 1 || cos->dims[1] > HALF_MAX) {
        return phi_fail(err, PHI_E_UNSUPPORTED,
                        "%s: tensors \"%s\" and \"%s\" are no tables of cosines and sines", label,
                        cos->name, sin->name);
    }
    out->rows = (uint32_t)cos->dims[0];
    out->half = (uint32_t)cos->dims[1];
    return PHI_OK;
}

static phi_status read_row(const tables *t, const phi_onnx_tensor *tensor, uint32_t position,
                           float *out, phi_err *err)
{
    uint8_t stored[HALF_MAX * sizeof(float)];
    size_t bytes = (size_t)t->half * phi_dtype_get(t->dtype)->block_bytes;
    phi_status status = phi_file_read_at(tensor->data.file, tensor->data.offset + position * bytes,
                                         stored, bytes, err);
    if (!status) {
        phi_dtype_widen(t->dtype, stored, t->half, out);
    }
    return status;
}

static phi_status read_position(const tables *t, uint32_t position, float *cos, float *sin,
                                phi_err *err)
{
    phi_status status = read_row(t, t->cos, position, cos, err);
    status = status ? status : read_row(t, t->sin, position, sin, err);
    for (uint32_t i = 0; i < t->half && !status; i++) {
        if (!isfinite(cos[i]) || !isfinite(sin[i])) {
            status = phi_fail(err, PHI_E_FORMAT,
                              "%s: tensor \"%s\" or \"%s\" holds no finite "
                              "number at position %u",
                              t->label, t->cos->name, t->sin->name, position);
        }
    }
    return status;
}

/* A table that begins anew somewhere is two: that is how LongRoPE is laid out for processors that
 * choose by position. Its end tells. */
static phi_status check_end(const tables *t, phi_err *err)
{
    float cos_row[HALF_MAX];
    float sin_row[HALF_MAX];
    uint32_t last = t->rows - 1;
    phi_status status = read_position(t, last, cos_row, sin_row, err);
    for (uint32_t i = 0; i < t->half && !status; i++) {
        double angle = last * t->frequency[i];
        double off = 2.0 * t->unit + last * t->off[i] + angle * 4e-7;
        double off_cos = fabs(t->factor * cos(angle) - (double)cos_row[i]);
        double off_sin = fabs(t->factor * sin(angle) - (double)sin_row[i]);
        if (off < 0.5 && fmax(off_cos, off_sin) > off * t->factor) {
            status = phi_fail(err, PHI_E_UNSUPPORTED,
                              "%s: tensors \"%s\" and \"%s\" do not rise evenly to their end",
                              t->label, t->cos->name, t->sin->name);
        }
    }
    return status;
}

static phi_status measure(tables *t, phi_err *err)
{
    float cos[HALF_MAX];
    float sin[HALF_MAX];
    phi_status status = read_position(t, 0, cos, sin, err);
    t->factor = status ? 0.0 : (double)cos[0];
    for (uint32_t p = 1; p < t->rows && p <= POSITION_MAX && !status; p *= 2) {
        status = read_position(t, p, cos, sin, err);
        for (uint32_t i = 0; i < t->half && !status; i++) {
            double angle = atan2((double)sin[i], (double)cos[i]);
            double turns = p == 1 ? 0 : round((p * t->frequency[i] - angle) / TURN);
            t->frequency[i] = (angle + turns * TURN) / p;
            /* A small sine is as exact as its own size, down to where fp16 loses bits. */
            t->off[i] = t->unit * fmin(1.0 / p, t->frequency[i]) + 1e-4 * t->unit / p;
        }
    }
    for (uint32_t i = 0; i < t->half && !status; i++) {
        if (!(t->frequency[i] > 0.0) || !(t->factor > 0.0)) {
            status = phi_fail(err, PHI_E_UNSUPPORTED,
                              "%s: tensor \"%s\" holds no cosines of rising angles", t->label,
                              t->cos->name);
        }
    }
    return status ? status : check_end(t, err);
}

/* ---- with config.json ---- */

/* True when the description's settings give the tables, `is_long` those beyond n_ctx_original. */
static phi_status compare(const tables *t, const phi_description *d, bool is_long, phi_err *err)
{
    float cos_row[HALF_MAX];
    float sin_row[HALF_MAX];
    const float *factors = is_long ? d->rope_long : d->rope_short;
    bool same = d->n_rot == 2 * t->half;
    for (uint32_t p = 0; p < t->rows && p <= POSITION_MAX && same; p = p ? p * 2 : 1) {
        phi_status status = read_position(t, p, cos_row, sin_row, err);
        if (status) {
            return status;
        }
        for (uint32_t i = 0; i < t->half && same; i++) {
            double exponent = 2.0 * i / d->n_rot;
            double stretch = d->rope == PHI_ROPE_LONG ? (double)factors[i] : 1.0;
            double angle = p / (stretch * pow((double)d->rope_theta, exponent));
            double factor =
                (double)(is_long && d->rope_attn_factor_long != 0.0F ? d->rope_attn_factor_long
                                                                     : d->rope_attn_factor);
            double off = 2.0 * factor * (t->unit + angle * 1e-6);
            same = fabs(factor * cos(angle) - (double)cos_row[i]) <= off &&
                   fabs(factor * sin(angle) - (double)sin_row[i]) <= off;
        }
    }
    if (!same) {
        return phi_fail(err, PHI_E_FORMAT,
                        "config.json's rotary settings do not give the tables \"%s\" and \"%s\" of "
                        "%s; remove config.json if the tables are right",
                        t->cos->name, t->sin->name, t->label);
    }
    return PHI_OK;
}

static phi_status take_config(const char *dir, const tables t[2], const phi_onnx_decoder *decoder,
                              phi_description *d, phi_err *err)
{
    phi_description stated;
    phi_status status = phi_hf_config_read(dir, &stated, err);
    if (status) {
        return status;
    }
    if (stated.arch != d->arch) {
        return phi_fail(err, PHI_E_FORMAT,
                        "config.json is of a %s model, and %s has the graph of a %s model",
                        phi_arch_name(stated.arch), t[0].label, phi_arch_name(d->arch));
    }
    bool two = stated.rope == PHI_ROPE_LONG;
    if (two != decoder->has_two ||
        (two && (int64_t)stated.n_ctx_original != decoder->n_ctx_original)) {
        return phi_fail(err, PHI_E_FORMAT,
                        "config.json and %s do not agree on LongRoPE or on the length that its "
                        "long factors begin at; remove config.json if the model is right",
                        t[0].label);
    }
    d->n_rot = stated.n_rot;
    d->rope = stated.rope;
    d->rope_theta = stated.rope_theta;
    d->rope_attn_factor = stated.rope_attn_factor;
    d->rope_attn_factor_long = stated.rope_attn_factor_long;
    d->n_ctx_original = stated.n_ctx_original;
    memcpy(d->rope_short, stated.rope_short, sizeof d->rope_short);
    memcpy(d->rope_long, stated.rope_long, sizeof d->rope_long);
    memcpy(d->name, stated.name, sizeof d->name);
    status = compare(&t[0], d, false, err);
    return status || !two ? status : compare(&t[1], d, true, err);
}

/* ---- without ---- */

static bool fits(const tables *t, double theta)
{
    for (uint32_t i = 0; i < t->half; i++) {
        double right = pow(theta, -(double)i / t->half);
        if (!(fabs(t->frequency[i] - right) <= 2.0 * t->off[i] + 4e-6 * right)) {
            return false;
        }
    }
    return true;
}

/* The base with the fewest digits that gives the frequencies. */
static bool find_theta(const tables *t, double *out)
{
    uint32_t last = t->half - 1;
    double near = last == 0 ? USUAL_THETA : pow(t->frequency[last], -(double)t->half / last);
    if (!isfinite(near) || near < 1.0 || near > 1e12) {
        return false;
    }
    for (int digits = 1; digits <= 8; digits++) {
        double step = pow(10.0, floor(log10(near)) + 1 - digits);
        *out = round(near / step) * step;
        if (fits(t, *out)) {
            return true;
        }
    }
    return false;
}

/* Each with as few digits as the table allows: files state them as decimal numbers. */
static void set_factors(const tables *t, double theta, float *out)
{
    for (uint32_t i = 0; i < t->half; i++) {
        double base = pow(theta, -(double)i / t->half);
        double near = base / t->frequency[i];
        out[i] = (float)near;
        for (int digits = 1; digits <= 8; digits++) {
            double step = pow(10.0, floor(log10(near)) + 1 - digits);
            double simple = round(near / step) * step;
            if (fabs(base / simple - t->frequency[i]) <= 0.5 * t->off[i]) {
                out[i] = (float)simple;
                break;
            }
        }
    }
}

/* sqrt(1 + ln(context / original) / ln(original)), as transformers has it, where that is what the
 * table's rounded factor comes from. */
static double exact_factor(const tables *t, const phi_description *d)
{
    double usual = 1.0;
    if (d->n_ctx > d->n_ctx_original && d->n_ctx_original > 1) {
        double ratio = (double)d->n_ctx / d->n_ctx_original;
        usual = sqrt(1.0 + log(ratio) / log((double)d->n_ctx_original));
    }
    if (fabs(t->factor - usual) <= 2.0 * t->unit * usual) {
        return usual;
    }
    return fabs(t->factor - 1.0) <= 2.0 * t->unit ? 1.0 : t->factor;
}

/* phimoe has an attention factor on each side of the original context. */
static bool differ(const tables t[2])
{
    return fabs(t[0].factor - t[1].factor) > 2.0 * t[0].unit * t[0].factor;
}

static void work_out(const tables t[2], bool has_two, phi_description *d)
{
    double theta = USUAL_THETA;
    bool simple = find_theta(&t[0], &theta);
    theta = simple ? theta : USUAL_THETA;
    d->n_rot = 2 * t[0].half;
    d->rope_theta = (float)theta;
    d->rope_attn_factor = (float)exact_factor(&t[0], d);
    d->rope = PHI_ROPE_PLAIN;
    if (has_two || !simple || d->rope_attn_factor != 1.0F) {
        d->rope = PHI_ROPE_LONG;
        for (uint32_t i = 0; i < t[0].half; i++) {
            d->rope_short[i] = 1.0F;
        }
        if (!simple) {
            set_factors(&t[0], theta, d->rope_short);
        }
        memcpy(d->rope_long, d->rope_short, sizeof d->rope_long);
        if (has_two) {
            set_factors(&t[1], theta, d->rope_long);
            float far = (float)t[1].factor;
            d->rope_attn_factor_long = differ(t) ? far : 0.0F;
        }
    }
}

/* ---- two tables in one ---- */

static phi_status split_table(phi_onnx_model *model, uint32_t at, const phi_onnx_tensor **both,
                              phi_err *err)
{
    const phi_onnx_tensor *whole = both[0];
    if (whole->n_dims != 2 || whole->dims[0] <= at || !whole->data.file) {
        return phi_fail(err, PHI_E_FORMAT,
                        "%s: tensor \"%s\" has no row %u, which is where " PHI_ONNX_CONFIG
                        " says that the rotary table for long texts begins",
                        model->label, whole->name, at);
    }
    phi_onnx_tensor *parts = phi_arena_take(&model->arena, 2 * sizeof *parts);
    if (!parts) {
        return phi_fail(err, PHI_E_NO_MEMORY, "%s: not enough memory", model->label);
    }
    uint64_t bytes = whole->data.bytes / whole->dims[0] * at;
    parts[0] = *whole;
    parts[1] = *whole;
    parts[0].dims[0] = at;
    parts[0].data.bytes = bytes;
    parts[1].dims[0] -= at;
    parts[1].data.offset += bytes;
    parts[1].data.bytes -= bytes;
    both[0] = &parts[0];
    both[1] = &parts[1];
    return PHI_OK;
}

phi_status phi_onnx_rope_split(phi_onnx_model *model, uint32_t long_from, phi_onnx_decoder *decoder,
                               phi_err *err)
{
    if (long_from == 0 || decoder->has_two) {
        return PHI_OK;
    }
    phi_status status = split_table(model, long_from, decoder->cos, err);
    status = status ? status : split_table(model, long_from, decoder->sin, err);
    decoder->has_two = !status;
    decoder->n_ctx_original = long_from;
    return status;
}

phi_status phi_onnx_rope_read(const char *dir, const char *label, const phi_onnx_decoder *decoder,
                              phi_description *description, phi_err *err)
{
    tables *t = phi_alloc_zero(2, sizeof *t);
    uint32_t n_tables = decoder->has_two ? 2 : 1;
    phi_status status = PHI_OK;
    for (uint32_t i = 0; i < n_tables && !status; i++) {
        status = check_tables(label, decoder->cos[i], decoder->sin[i], &t[i], err);
        status = status ? status : measure(&t[i], err);
    }
    if (!status && decoder->has_two &&
        (t[0].half != t[1].half || decoder->n_ctx_original < 1 ||
         decoder->n_ctx_original > (int64_t)PHI_LIMIT_CONTEXT ||
         (description->arch != PHI_ARCH_PHIMOE && differ(t)))) {
        status =
            phi_fail(err, PHI_E_UNSUPPORTED,
                     "%s: the tables for short and for long texts differ in size or factor", label);
    }
    description->n_ctx_original =
        decoder->has_two && !status ? (uint32_t)decoder->n_ctx_original : description->n_ctx;
    char *config = phi_strfmt("%s/config.json", dir);
    if (!status && phi_file_exists(config)) {
        status = take_config(dir, t, decoder, description, err);
    } else if (!status) {
        work_out(t, decoder->has_two, description);
    }
    phi_free(config);
    phi_free(t);
    return status;
}
