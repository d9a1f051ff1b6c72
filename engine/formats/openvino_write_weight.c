/*
 * Matrices as nncf lays them out (see openvino_weight.c): codes of a whole matrix first, then its
 * zero points, then its scales. Codes are streamed; scales and zero points of one matrix are held
 * until its codes are written.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "engine/formats/openvino_write_internal.h"
#include "engine/tensor/half.h"

/* Numbers that are asked for at a time. */
#define PIECE_NUMBERS (256U << 10)
#define DECOMPRESSION "<attribute name=\"decompression\" version=\"0\" />"
#define NAME_BYTES (PHI_LIMIT_TENSOR_NAME_BYTES + 64)

typedef struct piece {
    uint8_t *codes;
    float *floats;
    float *scales;
    float *zeros;
    uint8_t *packed;
    uint8_t *zero_codes; /* of the whole matrix, one a byte, then packed in place */
    void *scale_bytes;   /* of the whole matrix */
} piece;

static const phi_export_tensor *find(const phi_export *export, phi_part part, uint32_t layer)
{
    char name[PHI_LIMIT_TENSOR_NAME_BYTES];
    phi_part_name(part, PHI_NAMING_GGUF, layer, name, sizeof name);
    for (uint32_t i = 0; i < export->count; i++) {
        if (strcmp(export->tensors[i].name, name) == 0) {
            return &export->tensors[i];
        }
    }
    return NULL;
}

/* ---- checking ---- */

static phi_status check_tensor(const phi_export_tensor *t, uint64_t *bytes, phi_err *err)
{
    uint64_t numbers;
    if (!phi_checked_mul(t->rows, t->cols, &numbers) || numbers == 0 ||
        !phi_checked_mul(numbers, 4, bytes)) {
        return phi_fail(err, PHI_E_INVALID, "tensor \"%s\" has no usable size", t->name);
    }
    if (t->n_dims == 1 || t->bits == 16 || t->bits == 32) {
        *bytes = numbers * (t->n_dims == 1 ? 4 : t->bits / 8);
        return PHI_OK;
    }
    if (t->bits != 4 && t->bits != 8) {
        return phi_fail(err, PHI_E_UNSUPPORTED,
                        "tensor \"%s\": OpenVINO has codes of 4 and 8 bits, not %u", t->name,
                        t->bits);
    }
    if (t->zero_rule == PHI_ZERO_REAL) {
        return phi_fail(err, PHI_E_UNSUPPORTED,
                        "tensor \"%s\": OpenVINO's zero points are codes, not any numbers",
                        t->name);
    }
    if (t->group == 0 || t->cols % t->group != 0 || t->cols % 2 != 0) {
        return phi_fail(err, PHI_E_UNSUPPORTED,
                        "tensor \"%s\": groups of %u do not divide its %u columns", t->name,
                        t->group, t->cols);
    }
    *bytes = numbers * t->bits / 8;
    return PHI_OK;
}

phi_status phi_ov_check_export(phi_ov_writer *w, phi_err *err)
{
    const phi_description *d = w->export->description;
    for (uint32_t i = 0; i < w->export->count; i++) {
        uint64_t bytes = 0;
        phi_status status = check_tensor(&w->export->tensors[i], &bytes, err);
        if (status) {
            return status;
        }
        w->bytes_total += bytes;
    }
    for (uint32_t layer = 0; layer < d->n_layer; layer++) {
        for (int part = PHI_PART_ATTN_NORM; part < PHI_PART_OUTPUT_NORM; part++) {
            if (phi_part_is_of((phi_part)part, d) && !find(w->export, (phi_part)part, layer)) {
                return phi_fail(err, PHI_E_INVALID, "layer %u lacks a tensor", layer);
            }
        }
    }
    if (!find(w->export, PHI_PART_TOKEN_EMBD, 0) || !find(w->export, PHI_PART_OUTPUT_NORM, 0) ||
        (!d->tied_head && !find(w->export, PHI_PART_OUTPUT, 0))) {
        return phi_fail(err, PHI_E_INVALID, "the embedding, the last norm or the head is missing");
    }
    return PHI_OK;
}

/* ---- names and progress ---- */

/* As optimum-intel calls a parameter's constant. */
static void name_of(phi_part part, uint32_t layer, char *out, size_t bytes)
{
    char name[PHI_LIMIT_TENSOR_NAME_BYTES];
    phi_part_name(part, PHI_NAMING_HF, layer, name, sizeof name);
    (void)snprintf(out, bytes, "self.%s", name);
}

static bool goes_on(phi_ov_writer *w, uint64_t bytes)
{
    phi_err err;
    w->bytes_done += bytes;
    if (!w->out.failed.code && w->export->progress &&
        !w->export->progress(w->export->user, w->bytes_done, w->bytes_total)) {
        phi_ov_out_fail(&w->out, phi_fail(&err, PHI_E_CANCELLED, "writing was stopped"), &err);
    }
    return !w->out.failed.code;
}

static bool keep_status(phi_ov_writer *w, phi_status status, const phi_err *err)
{
    phi_ov_out_fail(&w->out, status, err);
    return !w->out.failed.code;
}

/* ---- floats ---- */

static bool narrow(phi_ov_writer *w, const phi_export_tensor *t, const float *floats, size_t count,
                   uint16_t *halves)
{
    phi_err err;
    for (size_t i = 0; i < count; i++) {
        halves[i] = phi_half_of_float(floats[i]);
        if (!isfinite(phi_half_to_float(halves[i]))) {
            return keep_status(w,
                               phi_fail(&err, PHI_E_UNSUPPORTED,
                                        "tensor \"%s\": it holds %g, which fp16 cannot", t->name,
                                        (double)floats[i]),
                               &err);
        }
    }
    return true;
}

static void write_floats(phi_ov_writer *w, const phi_export_tensor *t, uint32_t bits, piece *p,
                         uint32_t at_once)
{
    phi_err err;
    uint16_t *halves = (uint16_t *)(void *)p->packed;
    for (uint32_t row = 0; row < t->rows; row += at_once) {
        uint32_t count = t->rows - row < at_once ? t->rows - row : at_once;
        size_t n = (size_t)count * t->cols;
        phi_status status = w->export->read_f32(w->export->user, t, row, count, p->floats, &err);
        if (!keep_status(w, status, &err) || (bits == 16 && !narrow(w, t, p->floats, n, halves))) {
            return;
        }
        phi_ov_bin_append(&w->out, bits == 16 ? (const void *)halves : p->floats, n * bits / 8);
        if (!goes_on(w, n * bits / 8)) {
            return;
        }
    }
}

/* ---- codes ---- */

/* Two nibbles a byte, the first in the low one; symmetric codes become two's complement. */
static void pack(const uint8_t *codes, size_t count, uint32_t bits, bool is_signed, uint8_t *out)
{
    uint8_t flip = (uint8_t)(is_signed ? 1U << (bits - 1) : 0);
    if (bits == 8) {
        for (size_t i = 0; i < count; i++) {
            out[i] = codes[i] ^ flip;
        }
        return;
    }
    for (size_t i = 0; i < count; i += 2) {
        uint8_t high = i + 1 < count ? codes[i + 1] ^ flip : 0;
        out[i / 2] = (uint8_t)((codes[i] ^ flip) | high << 4);
    }
}

static bool take_params(phi_ov_writer *w, const phi_export_tensor *t, const piece *p, size_t first,
                        size_t count)
{
    phi_err err;
    bool halves = t->scale_dtype == PHI_DTYPE_F16;
    for (size_t i = 0; i < count; i++) {
        if (halves) {
            ((uint16_t *)p->scale_bytes)[first + i] = phi_half_of_float(p->scales[i]);
        } else {
            ((float *)p->scale_bytes)[first + i] = p->scales[i];
        }
        if (t->zero_rule == PHI_ZERO_CENTRE) {
            continue;
        }
        float zero = p->zeros[i];
        if (!(zero >= 0.0F) || zero > (float)((1U << t->bits) - 1) || zero != floorf(zero)) {
            return keep_status(w,
                               phi_fail(&err, PHI_E_INTERNAL,
                                        "tensor \"%s\" has the zero point %g; a code of %u bits "
                                        "is right",
                                        t->name, (double)zero, t->bits),
                               &err);
        }
        p->zero_codes[first + i] = (uint8_t)zero;
    }
    return true;
}

static void write_codes(phi_ov_writer *w, const phi_export_tensor *t, piece *p, uint32_t at_once)
{
    phi_err err;
    size_t groups = t->cols / t->group;
    bool centre = t->zero_rule == PHI_ZERO_CENTRE;
    for (uint32_t row = 0; row < t->rows; row += at_once) {
        uint32_t count = t->rows - row < at_once ? t->rows - row : at_once;
        size_t n = (size_t)count * t->cols;
        phi_status status = w->export->read_codes(w->export->user, t, row, count, p->codes,
                                                  p->scales, centre ? NULL : p->zeros, &err);
        if (!keep_status(w, status, &err) || !take_params(w, t, p, row * groups, count * groups)) {
            return;
        }
        pack(p->codes, n, t->bits, centre, p->packed);
        phi_ov_bin_append(&w->out, p->packed, n * t->bits / 8);
        if (!goes_on(w, n * t->bits / 8)) {
            return;
        }
    }
}

/* ---- memory of a matrix ---- */

static void piece_done(piece *p)
{
    phi_free(p->codes);
    phi_free(p->floats);
    phi_free(p->scales);
    phi_free(p->zeros);
    phi_free(p->packed);
    phi_free(p->zero_codes);
    phi_free(p->scale_bytes);
}

static bool piece_init(phi_ov_writer *w, const phi_export_tensor *t, bool coded, uint32_t at_once,
                       piece *p)
{
    phi_err err;
    size_t n = (size_t)at_once * t->cols;
    size_t groups = coded ? t->cols / t->group : 1;
    *p = (piece){.packed = phi_try_alloc(n * 2)};
    if (coded) {
        p->codes = phi_try_alloc(n);
        p->scales = phi_try_alloc(at_once * groups * sizeof *p->scales);
        p->zeros = phi_try_alloc(at_once * groups * sizeof *p->zeros);
        p->zero_codes = phi_try_alloc(t->rows * groups);
        p->scale_bytes = phi_try_alloc(t->rows * groups * sizeof(float));
    } else {
        p->floats = phi_try_alloc(n * sizeof *p->floats);
    }
    if (!p->packed ||
        (coded ? !p->codes || !p->scales || !p->zeros || !p->zero_codes || !p->scale_bytes
               : !p->floats)) {
        return keep_status(
            w, phi_fail(&err, PHI_E_NO_MEMORY, "not enough memory to write tensor \"%s\"", t->name),
            &err);
    }
    return true;
}

/* ---- graphs of a matrix ---- */

static phi_ov_ref named(phi_ov_ref ref, const char *type)
{
    ref.type = type;
    return ref;
}

/* Codes in their file order to floats: see the top of openvino_weight.c. */
static phi_ov_ref write_coded(phi_ov_writer *w, const phi_export_tensor *t, const char *name,
                              piece *p, uint32_t at_once)
{
    char part[NAME_BYTES];
    phi_ov_out *out = &w->out;
    bool centre = t->zero_rule == PHI_ZERO_CENTRE;
    bool grouped = t->group != t->cols;
    int64_t groups = t->cols / t->group;
    size_t n_params = (size_t)t->rows * (size_t)groups;
    const char *type = t->bits == 4 ? (centre ? "i4" : "u4") : (centre ? "i8" : "u8");
    const char *wide = t->scale_dtype == PHI_DTYPE_F16 ? "f16" : "f32";
    phi_ov_ref shape = grouped ? phi_ov_shape(type, 3, t->rows, groups, t->group, 0)
                               : phi_ov_shape(type, 2, t->rows, t->cols, 0, 0);
    phi_ov_ref params = grouped ? phi_ov_shape(type, 3, t->rows, groups, 1, 0)
                                : phi_ov_shape(type, 2, t->rows, 1, 0, 0);
    uint64_t offset = phi_ov_bin_begin(out);
    write_codes(w, t, p, at_once);
    phi_ov_ref x =
        phi_ov_constant_at(out, name, shape, offset, (uint64_t)t->rows * t->cols * t->bits / 8);
    (void)snprintf(part, sizeof part, "%.256s/convert", name);
    x = phi_ov_convert(out, part, x, wide);
    if (!centre) {
        size_t bytes = (n_params * t->bits + 7) / 8;
        pack(p->zero_codes, n_params, t->bits, false, p->zero_codes);
        offset = phi_ov_bin_begin(out);
        phi_ov_bin_append(out, p->zero_codes, bytes);
        (void)snprintf(part, sizeof part, "%.256s/zero_point", name);
        phi_ov_ref zero = phi_ov_constant_at(out, part, params, offset, bytes);
        (void)snprintf(part, sizeof part, "%.256s/zero_point/convert", name);
        zero = phi_ov_convert(out, part, zero, wide);
        (void)snprintf(part, sizeof part, "%.256s/zero_point/subtract", name);
        x = phi_ov_binary(out, "Subtract", part, x, zero);
    }
    size_t scale_size = t->scale_dtype == PHI_DTYPE_F16 ? sizeof(uint16_t) : sizeof(float);
    offset = phi_ov_bin_begin(out);
    phi_ov_bin_append(out, p->scale_bytes, n_params * scale_size);
    (void)snprintf(part, sizeof part, "%.256s/scale", name);
    phi_ov_ref scale =
        phi_ov_constant_at(out, part, named(params, wide), offset, n_params * scale_size);
    (void)snprintf(part, sizeof part, "%.256s/fq_weights_1", name);
    x = phi_ov_binary(out, "Multiply", part, x, scale);
    if (grouped) {
        const int64_t whole[] = {t->rows, t->cols};
        (void)snprintf(part, sizeof part, "%.256s/fq_weights_1/reshape", name);
        x = phi_ov_reshape(out, part, x, 2, whole, false);
    }
    (void)snprintf(part, sizeof part, "%.256s/fq_weights_1/convert", name);
    return strcmp(wide, "f16") == 0 ? phi_ov_convert(out, part, x, "f32") : x;
}

static phi_ov_ref write_plain(phi_ov_writer *w, const phi_export_tensor *t, const char *name,
                              piece *p, uint32_t at_once)
{
    char part[NAME_BYTES];
    const char *type = t->bits == 16 ? "f16" : "f32";
    uint64_t offset = phi_ov_bin_begin(&w->out);
    write_floats(w, t, t->bits, p, at_once);
    phi_ov_ref x = phi_ov_constant_at(&w->out, name, phi_ov_shape(type, 2, t->rows, t->cols, 0, 0),
                                      offset, (uint64_t)t->rows * t->cols * t->bits / 8);
    if (t->bits == 32) {
        return x;
    }
    (void)snprintf(part, sizeof part, "%.256s/convert", name);
    phi_ov_ref wide = named(x, "f32");
    /* The mark keeps OpenVINO from widening the constant when it loads the model. */
    phi_ov_add(&w->out,
               &(phi_ov_layer){.op = "Convert",
                               .opset = "opset1",
                               .name = part,
                               .data = "destination_type=\"f32\"",
                               .rt_info = DECOMPRESSION},
               &x, 1, &wide, 1);
    return wide;
}

phi_ov_ref phi_ov_write_matrix(phi_ov_writer *w, phi_part part, uint32_t layer)
{
    char name[NAME_BYTES];
    const phi_export_tensor *t = find(w->export, part, layer);
    bool coded = t->bits <= 8;
    uint32_t at_once = PIECE_NUMBERS / t->cols;
    at_once = at_once == 0 ? 1 : at_once > t->rows ? t->rows : at_once;
    name_of(part, layer, name, sizeof name);
    piece p = {0};
    phi_ov_ref made = phi_ov_shape("f32", 2, t->rows, t->cols, 0, 0);
    if (!w->out.failed.code && piece_init(w, t, coded, at_once, &p)) {
        made = coded ? write_coded(w, t, name, &p, at_once) : write_plain(w, t, name, &p, at_once);
    }
    piece_done(&p);
    return made;
}

phi_ov_ref phi_ov_write_vector(phi_ov_writer *w, phi_part part, uint32_t layer)
{
    char name[NAME_BYTES];
    const phi_export_tensor *t = find(w->export, part, layer);
    piece p = {0};
    name_of(part, layer, name, sizeof name);
    uint64_t offset = phi_ov_bin_begin(&w->out);
    if (!w->out.failed.code && piece_init(w, t, false, 1, &p)) {
        write_floats(w, t, 32, &p, 1);
    }
    piece_done(&p);
    return phi_ov_constant_at(&w->out, name, phi_ov_shape("f32", 3, 1, 1, t->cols, 0), offset,
                              (uint64_t)t->cols * 4);
}
