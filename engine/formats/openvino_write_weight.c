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
    void *zero_bytes;  /* of the whole matrix: fp32, or codes, one a byte, then packed in place */
    void *scale_bytes; /* of the whole matrix */
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
                        "tensor \"%s\": OpenVINO has zero points, not offsets", t->name);
    }
    if (t->zero_rule == PHI_ZERO_FLOAT && t->scale_dtype != PHI_DTYPE_F32) {
        return phi_fail(err, PHI_E_UNSUPPORTED,
                        "tensor \"%s\": zero points of fp32 stand beside scales of fp32, not %s",
                        t->name, phi_dtype_get(t->scale_dtype)->name);
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
    for (int part = 0; part < PHI_PART_COUNT; part++) {
        uint32_t layers = phi_part_in_layer((phi_part)part) ? d->n_layer : 1;
        for (uint32_t layer = 0; layer < layers && phi_part_is_of((phi_part)part, d); layer++) {
            if (!find(w->export, (phi_part)part, layer)) {
                char name[PHI_LIMIT_TENSOR_NAME_BYTES];
                phi_part_name((phi_part)part, PHI_NAMING_GGUF, layer, name, sizeof name);
                return phi_fail(err, PHI_E_INVALID, "tensor \"%s\" is missing", name);
            }
        }
    }
    return PHI_OK;
}

/* ---- names and progress ---- */

/* As optimum-intel calls a parameter's constant. */
static void name_of(const phi_ov_writer *w, const phi_ov_role *role, char *out, size_t bytes)
{
    char name[PHI_LIMIT_TENSOR_NAME_BYTES];
    phi_ov_constant_name(w->export->description->arch, role, name, sizeof name);
    (void)snprintf(out, bytes, "self.%s", name);
}

/* The rows, or a vector's numbers, of a part's piece. */
typedef struct range {
    uint32_t first;
    uint32_t count;
} range;

static range range_of(const phi_ov_writer *w, const phi_export_tensor *t, const phi_ov_role *role)
{
    uint32_t rows[PHI_PART_PIECES_MAX];
    uint32_t cols;
    range r = {0, t->n_dims == 1 ? t->cols : t->rows};
    if (role->in_pieces) {
        (void)phi_part_shape(role->part, w->export->description, rows, &cols);
        r.count = rows[role->piece];
        for (uint32_t i = 0; i < role->piece; i++) {
            r.first += rows[i];
        }
    }
    return r;
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

static void write_floats(phi_ov_writer *w, const phi_export_tensor *t, range rows, piece *p,
                         uint32_t at_once)
{
    phi_err err;
    bool halve = t->bits == 16;
    uint16_t *halves = (uint16_t *)(void *)p->packed;
    for (uint32_t row = 0; row < rows.count; row += at_once) {
        uint32_t count = rows.count - row < at_once ? rows.count - row : at_once;
        size_t n = (size_t)count * t->cols;
        phi_status status =
            w->export->read_f32(w->export->user, t, rows.first + row, count, p->floats, &err);
        if (!keep_status(w, status, &err) || (halve && !narrow(w, t, p->floats, n, halves))) {
            return;
        }
        phi_ov_bin_append(&w->out, halve ? (const void *)halves : p->floats, n * t->bits / 8);
        if (!goes_on(w, n * t->bits / 8)) {
            return;
        }
    }
}

/* All numbers of a vector are read, also for a piece of them. */
static void write_numbers(phi_ov_writer *w, const phi_export_tensor *t, range numbers, piece *p)
{
    phi_err err;
    size_t bytes = (size_t)numbers.count * sizeof(float);
    phi_status status = w->export->read_f32(w->export->user, t, 0, 1, p->floats, &err);
    if (keep_status(w, status, &err)) {
        phi_ov_bin_append(&w->out, p->floats + numbers.first, bytes);
        (void)goes_on(w, bytes);
    }
}

/* ---- codes ---- */

/* Without zero points; and of 8 bits beside those that are any numbers, which are the smaller and
 * so the more exact for it. */
static bool is_signed(const phi_export_tensor *t)
{
    return t->zero_rule == PHI_ZERO_CENTRE || (t->zero_rule == PHI_ZERO_FLOAT && t->bits == 8);
}

/* Two nibbles a byte, the first in the low one; signed codes become two's complement. */
static void pack(const uint8_t *codes, size_t count, uint32_t bits, bool with_sign, uint8_t *out)
{
    uint8_t flip = (uint8_t)(with_sign ? 1U << (bits - 1) : 0);
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
        if (t->zero_rule == PHI_ZERO_FLOAT) {
            ((float *)p->zero_bytes)[first + i] = zero;
            continue;
        }
        if (!(zero >= 0.0F) || zero > (float)((1U << t->bits) - 1) || zero != floorf(zero)) {
            return keep_status(w,
                               phi_fail(&err, PHI_E_INTERNAL,
                                        "tensor \"%s\" has the zero point %g; a code of %u bits "
                                        "is right",
                                        t->name, (double)zero, t->bits),
                               &err);
        }
        ((uint8_t *)p->zero_bytes)[first + i] = (uint8_t)zero;
    }
    return true;
}

static void write_codes(phi_ov_writer *w, const phi_export_tensor *t, range rows, piece *p,
                        uint32_t at_once)
{
    phi_err err;
    size_t groups = t->cols / t->group;
    bool centre = t->zero_rule == PHI_ZERO_CENTRE;
    for (uint32_t row = 0; row < rows.count; row += at_once) {
        uint32_t count = rows.count - row < at_once ? rows.count - row : at_once;
        size_t n = (size_t)count * t->cols;
        phi_status status =
            w->export->read_codes(w->export->user, t, rows.first + row, count, p->codes, p->scales,
                                  centre ? NULL : p->zeros, &err);
        if (!keep_status(w, status, &err) || !take_params(w, t, p, row * groups, count * groups)) {
            return;
        }
        pack(p->codes, n, t->bits, is_signed(t), p->packed);
        phi_ov_bin_append(&w->out, p->packed, n * t->bits / 8);
        if (!goes_on(w, n * t->bits / 8)) {
            return;
        }
    }
}

/* ---- memory of a matrix ---- */

static size_t zero_size(const phi_export_tensor *t)
{
    return t->zero_rule == PHI_ZERO_FLOAT ? sizeof(float) : 1;
}

static void piece_done(piece *p)
{
    phi_free(p->codes);
    phi_free(p->floats);
    phi_free(p->scales);
    phi_free(p->zeros);
    phi_free(p->packed);
    phi_free(p->zero_bytes);
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
        p->zero_bytes = phi_try_alloc(t->rows * groups * zero_size(t));
        p->scale_bytes = phi_try_alloc(t->rows * groups * sizeof(float));
    } else {
        p->floats = phi_try_alloc(n * sizeof *p->floats);
    }
    if (!p->packed ||
        (coded ? !p->codes || !p->scales || !p->zeros || !p->zero_bytes || !p->scale_bytes
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

/* What is written of a tensor, and as what. */
typedef struct matrix {
    char name[NAME_BYTES];
    range rows;
    phi_ov_ref shape; /* f32 [rows, cols], or stacked */
} matrix;

/* The shape with these in place of its last dimension; `last` 0: only one of them. */
static phi_ov_ref with_dims(phi_ov_ref shape, const char *type, int64_t dim, int64_t last)
{
    shape.type = type;
    shape.dims[shape.n_dims - 1] = dim;
    if (last) {
        shape.dims[shape.n_dims++] = last;
    }
    return shape;
}

/* The zero points, which are held since the codes were written: `x` less them. */
static phi_ov_ref write_zeros(phi_ov_writer *w, const phi_export_tensor *t, const matrix *m,
                              piece *p, phi_ov_ref params, phi_ov_ref x)
{
    char part[NAME_BYTES];
    phi_ov_out *out = &w->out;
    const bool is_float = t->zero_rule == PHI_ZERO_FLOAT;
    const size_t count = (size_t)m->rows.count * (t->cols / t->group);
    const size_t bytes = is_float ? count * sizeof(float) : (count * t->bits + 7) / 8;
    if (!is_float) {
        pack(p->zero_bytes, count, t->bits, false, p->zero_bytes);
    }
    uint64_t offset = phi_ov_bin_begin(out);
    phi_ov_bin_append(out, p->zero_bytes, bytes);
    (void)snprintf(part, sizeof part, "%.256s/zero_point", m->name);
    phi_ov_ref zero = phi_ov_constant_at(out, part, params, offset, bytes);
    if (!is_float) {
        (void)snprintf(part, sizeof part, "%.256s/zero_point/convert", m->name);
        zero = phi_ov_convert(out, part, zero, x.type);
    }
    (void)snprintf(part, sizeof part, "%.256s/zero_point/subtract", m->name);
    return phi_ov_binary(out, "Subtract", part, x, zero);
}

/* Codes in their file order to floats: see the top of openvino_weight.c. */
static phi_ov_ref write_coded(phi_ov_writer *w, const phi_export_tensor *t, const matrix *m,
                              piece *p, uint32_t at_once)
{
    char part[NAME_BYTES];
    phi_ov_out *out = &w->out;
    const char *name = m->name;
    bool grouped = t->group != t->cols;
    size_t n_params = (size_t)m->rows.count * (t->cols / t->group);
    const char *type = t->bits == 4 ? (is_signed(t) ? "i4" : "u4") : (is_signed(t) ? "i8" : "u8");
    const char *wide = t->scale_dtype == PHI_DTYPE_F16 ? "f16" : "f32";
    phi_ov_ref shape = grouped ? with_dims(m->shape, type, t->cols / t->group, t->group)
                               : with_dims(m->shape, type, t->cols, 0);
    phi_ov_ref params = grouped ? with_dims(m->shape, wide, t->cols / t->group, 1)
                                : with_dims(m->shape, wide, 1, 0);
    uint64_t offset = phi_ov_bin_begin(out);
    write_codes(w, t, m->rows, p, at_once);
    phi_ov_ref x = phi_ov_constant_at(out, name, shape, offset,
                                      (uint64_t)m->rows.count * t->cols * t->bits / 8);
    (void)snprintf(part, sizeof part, "%.256s/convert", name);
    x = phi_ov_convert(out, part, x, wide);
    if (t->zero_rule != PHI_ZERO_CENTRE) {
        bool is_float = t->zero_rule == PHI_ZERO_FLOAT;
        x = write_zeros(w, t, m, p, is_float ? params : named(params, type), x);
    }
    size_t scale_size = t->scale_dtype == PHI_DTYPE_F16 ? sizeof(uint16_t) : sizeof(float);
    offset = phi_ov_bin_begin(out);
    phi_ov_bin_append(out, p->scale_bytes, n_params * scale_size);
    (void)snprintf(part, sizeof part, "%.256s/scale", name);
    phi_ov_ref scale = phi_ov_constant_at(out, part, params, offset, n_params * scale_size);
    (void)snprintf(part, sizeof part, "%.256s/fq_weights_1", name);
    x = phi_ov_binary(out, "Multiply", part, x, scale);
    if (grouped) {
        (void)snprintf(part, sizeof part, "%.256s/fq_weights_1/reshape", name);
        x = phi_ov_reshape(out, part, x, m->shape.n_dims, m->shape.dims, false);
    }
    (void)snprintf(part, sizeof part, "%.256s/fq_weights_1/convert", name);
    return strcmp(wide, "f16") == 0 ? phi_ov_convert(out, part, x, "f32") : x;
}

static phi_ov_ref write_plain(phi_ov_writer *w, const phi_export_tensor *t, const matrix *m,
                              piece *p, uint32_t at_once)
{
    char part[NAME_BYTES];
    const char *type = t->bits == 16 ? "f16" : "f32";
    uint64_t offset = phi_ov_bin_begin(&w->out);
    write_floats(w, t, m->rows, p, at_once);
    phi_ov_ref x = phi_ov_constant_at(&w->out, m->name, named(m->shape, type), offset,
                                      (uint64_t)m->rows.count * t->cols * t->bits / 8);
    if (t->bits == 32) {
        return x;
    }
    (void)snprintf(part, sizeof part, "%.256s/convert", m->name);
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

phi_ov_ref phi_ov_write_matrix(phi_ov_writer *w, const phi_ov_role *role)
{
    const phi_export_tensor *t = find(w->export, role->part, role->layer);
    bool coded = t->bits <= 8;
    uint32_t at_once = PIECE_NUMBERS / t->cols;
    matrix m = {.rows = range_of(w, t, role)};
    uint32_t stacked = phi_part_count_stacked(role->part, w->export->description, m.rows.count);
    m.shape = stacked > 1 ? phi_ov_shape("f32", 3, stacked, m.rows.count / stacked, t->cols, 0)
                          : phi_ov_shape("f32", 2, m.rows.count, t->cols, 0, 0);
    at_once = at_once == 0 ? 1 : at_once > t->rows ? t->rows : at_once;
    name_of(w, role, m.name, sizeof m.name);
    piece p = {0};
    phi_ov_ref made = m.shape;
    if (!w->out.failed.code && piece_init(w, t, coded, at_once, &p)) {
        made = coded ? write_coded(w, t, &m, &p, at_once) : write_plain(w, t, &m, &p, at_once);
    }
    piece_done(&p);
    return made;
}

phi_ov_ref phi_ov_write_vector(phi_ov_writer *w, const phi_ov_role *role)
{
    char name[NAME_BYTES];
    const phi_export_tensor *t = find(w->export, role->part, role->layer);
    range numbers = range_of(w, t, role);
    piece p = {0};
    name_of(w, role, name, sizeof name);
    uint64_t offset = phi_ov_bin_begin(&w->out);
    if (!w->out.failed.code && piece_init(w, t, false, 1, &p)) {
        write_numbers(w, t, numbers, &p);
    }
    piece_done(&p);
    return phi_ov_constant_at(&w->out, name, phi_ov_shape("f32", 3, 1, 1, numbers.count, 0), offset,
                              (uint64_t)numbers.count * sizeof(float));
}
