#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/mem.h"
#include "engine/formats/onnx_graph.h"
#include "engine/formats/onnx_node.h"
#include "engine/formats/onnx_writer.h"
#include "engine/tensor/half.h"

#define ALIGN_BYTES 4096U
/* Floats of a piece: rows are read and written this many at a time. */
#define PIECE_FLOATS ((size_t)2 << 20)

/* ---- placing ---- */

/* An initializer of `n_dims` dimensions whose values will lie in the file of values; where. */
static uint64_t put_tensor(phi_onnx_writer *w, const char *name, phi_onnx_type type,
                           uint32_t n_dims, const uint64_t *dims)
{
    uint64_t bits = phi_onnx_type_bits(type);
    uint64_t at = (w->data_bytes + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
    for (uint32_t i = 0; i < n_dims; i++) {
        bits *= dims[i]; /* rows and columns have 31 bits, and a code has 8 at most */
    }
    phi_onnx_put_external(&w->graph, name, type, n_dims, dims, PHI_ONNX_DATA, at, bits / 8);
    w->data_bytes = at + bits / 8;
    return at;
}

bool phi_onnx_has_zeros(const phi_export_tensor *tensor)
{
    return tensor->bits <= 8 && tensor->zero_rule == PHI_ZERO_INTEGER;
}

static phi_status check_codes(const phi_onnx_writer *w, const phi_export_tensor *tensor)
{
    uint32_t group = tensor->group;
    if (tensor->bits != 4 && tensor->bits != 8) {
        return phi_fail(w->err, PHI_E_UNSUPPORTED,
                        "tensor \"%s\": ONNX's MatMulNBits holds 4 or 8 bits, not %u", tensor->name,
                        tensor->bits);
    }
    /* The kernel for one token on CUDA says of more than 128 that it has no code for them. */
    bool cuda = w->provider == PHI_ONNX_CUDA;
    if (group < 16 || group > (cuda ? 128 : 256) || (group & (group - 1)) != 0 ||
        tensor->cols % group != 0) {
        return phi_fail(w->err, PHI_E_UNSUPPORTED,
                        "tensor \"%s\": groups of %u; in ONNX Runtime's MatMulNBits%s they are 16, "
                        "32, 64%s and divide the %u columns",
                        tensor->name, group, cuda ? " on CUDA" : "",
                        cuda ? " or 128" : ", 128 or 256", tensor->cols);
    }
    if (!phi_zero_rule_is_coded(tensor->zero_rule)) {
        return phi_fail(w->err, PHI_E_UNSUPPORTED,
                        "tensor \"%s\": zero points that are no codes cannot be written exactly as "
                        "ONNX",
                        tensor->name);
    }
    return PHI_OK;
}

static phi_status place_codes(phi_onnx_writer *w, const char *name, onnx_placed *placed)
{
    char full[PHI_LIMIT_TENSOR_NAME_BYTES];
    const phi_export_tensor *tensor = placed->tensor;
    phi_status status = check_codes(w, tensor);
    if (status) {
        return status;
    }
    uint64_t groups = tensor->cols / tensor->group;
    const uint64_t codes[3] = {placed->rows, groups, (uint64_t)tensor->group * tensor->bits / 8};
    const uint64_t scales[2] = {placed->rows, groups};
    const uint64_t zeros[2] = {placed->rows, (groups * tensor->bits + 7) / 8};
    (void)snprintf(full, sizeof full, "%s_Q%u", name, tensor->bits);
    placed->at = put_tensor(w, full, PHI_ONNX_UINT8, 3, codes);
    (void)snprintf(full, sizeof full, "%s_scales", name);
    placed->bits = phi_onnx_type_bits(w->real);
    placed->scales_at = put_tensor(w, full, w->real, 2, scales);
    if (phi_onnx_has_zeros(tensor)) {
        (void)snprintf(full, sizeof full, "%s_zero_points", name);
        placed->zeros_at = put_tensor(w, full, PHI_ONNX_UINT8, 2, zeros);
    }
    return PHI_OK;
}

phi_status phi_onnx_place(phi_onnx_writer *w, const phi_export_tensor *tensor, const char *name,
                          onnx_layout layout, uint32_t first_row, uint32_t rows)
{
    onnx_placed *placed = &w->placed[w->n_placed++];
    *placed =
        (onnx_placed){.tensor = tensor, .layout = layout, .first_row = first_row, .rows = rows};
    if (tensor->bits <= 8) {
        placed->layout = ONNX_CODES;
        return place_codes(w, name, placed);
    }
    bool turned = layout == ONNX_COLUMNS;
    const uint64_t dims[2] = {turned ? tensor->cols : rows, turned ? rows : tensor->cols};
    bool vector = tensor->n_dims == 1;
    phi_onnx_type type = tensor->bits == 16 ? PHI_ONNX_FLOAT16 : w->real;
    placed->bits = phi_onnx_type_bits(type);
    placed->at = put_tensor(w, name, type, vector ? 1 : 2, vector ? &dims[1] : dims);
    return PHI_OK;
}

/* ---- values ---- */

/* Memory of one piece. */
typedef struct piece {
    float *values; /* floats; or scales and zero points of codes */
    float *zeros;
    uint8_t *codes;
    uint8_t *packed;
} piece;

static phi_status tell_progress(phi_onnx_writer *w, uint64_t bytes)
{
    w->done_bytes += bytes;
    if (w->export->progress &&
        !w->export->progress(w->export->user, w->done_bytes, w->data_bytes)) {
        return phi_fail(w->err, PHI_E_CANCELLED, "writing " PHI_ONNX_DATA " was cancelled");
    }
    return PHI_OK;
}

/* Puts floats where the file has them, in 16 bits by way of `packed`. */
static phi_status write_reals(phi_onnx_writer *w, const onnx_placed *placed, const piece *p,
                              uint64_t at, const float *values, size_t count)
{
    if (placed->bits == 32) {
        return phi_file_writer_patch(w->data, at, values, count * sizeof *values, w->err);
    }
    for (size_t i = 0; i < count; i++) {
        uint16_t half = phi_half_of_float(values[i]);
        if (!isfinite(phi_half_to_float(half))) {
            return phi_fail(w->err, PHI_E_UNSUPPORTED, "it holds %g, which fp16 cannot",
                            (double)values[i]);
        }
        memcpy(p->packed + i * sizeof half, &half, sizeof half);
    }
    return phi_file_writer_patch(w->data, at, p->packed, count * sizeof(uint16_t), w->err);
}

/* Columns of a piece, each a run of `count` rows: what a transposed matrix has side by side. */
static phi_status write_columns(phi_onnx_writer *w, const onnx_placed *placed, const piece *p,
                                uint32_t row, uint32_t count)
{
    const uint32_t cols = placed->tensor->cols;
    phi_status status = PHI_OK;
    for (uint32_t col = 0; col < cols && !status; col++) {
        for (uint32_t r = 0; r < count; r++) {
            p->zeros[r] = p->values[(size_t)r * cols + col];
        }
        uint64_t at = placed->at + ((uint64_t)col * placed->rows + row) * (placed->bits / 8);
        status = write_reals(w, placed, p, at, p->zeros, count);
    }
    return status;
}

static phi_status write_floats(phi_onnx_writer *w, const onnx_placed *placed, const piece *p,
                               uint32_t row, uint32_t count)
{
    const phi_export_tensor *tensor = placed->tensor;
    const uint64_t element = placed->bits / 8;
    size_t values = (size_t)count * tensor->cols;
    phi_status status = w->export->read_f32(w->export->user, tensor, placed->first_row + row, count,
                                            p->values, w->err);
    if (status) {
        return status;
    }
    if (placed->layout == ONNX_COLUMNS) {
        status = write_columns(w, placed, p, row, count);
    } else {
        status = write_reals(w, placed, p, placed->at + (uint64_t)row * tensor->cols * element,
                             p->values, values);
    }
    return status ? status : tell_progress(w, values * element);
}

/* `count` codes, low bits first, in (count * bits + 7) / 8 bytes. */
static void pack(const uint8_t *codes, size_t count, uint32_t bits, uint8_t *out)
{
    if (bits == 8) {
        memcpy(out, codes, count);
        return;
    }
    for (size_t i = 0; i < count; i += 2) {
        uint8_t next = i + 1 < count ? codes[i + 1] : 0;
        out[i / 2] = (uint8_t)(codes[i] | next << 4);
    }
}

static phi_status write_zeros(phi_onnx_writer *w, const onnx_placed *placed, const piece *p,
                              uint32_t row, uint32_t count)
{
    const phi_export_tensor *tensor = placed->tensor;
    const float most = tensor->bits == 4 ? 15.0F : 255.0F;
    size_t groups = tensor->cols / tensor->group;
    size_t row_bytes = (groups * tensor->bits + 7) / 8;
    for (uint32_t r = 0; r < count; r++) {
        for (size_t g = 0; g < groups; g++) {
            float zero = p->zeros[r * groups + g];
            PHI_ASSERT(zero >= 0.0F && zero <= most && zero == floorf(zero));
            p->codes[g] = (uint8_t)zero;
        }
        pack(p->codes, groups, tensor->bits, p->packed + r * row_bytes);
    }
    return phi_file_writer_patch(w->data, placed->zeros_at + row * row_bytes, p->packed,
                                 count * row_bytes, w->err);
}

static phi_status write_codes(phi_onnx_writer *w, const onnx_placed *placed, const piece *p,
                              uint32_t row, uint32_t count)
{
    const phi_export_tensor *tensor = placed->tensor;
    bool has_zeros = phi_onnx_has_zeros(tensor);
    size_t groups = tensor->cols / tensor->group;
    size_t row_bytes = (size_t)tensor->cols * tensor->bits / 8;
    phi_status status =
        w->export->read_codes(w->export->user, tensor, placed->first_row + row, count, p->codes,
                              p->values, has_zeros ? p->zeros : NULL, w->err);
    if (status) {
        return status;
    }
    pack(p->codes, (size_t)count * tensor->cols, tensor->bits, p->packed);
    status = phi_file_writer_patch(w->data, placed->at + row * row_bytes, p->packed,
                                   count * row_bytes, w->err);
    if (!status) {
        status = write_reals(w, placed, p, placed->scales_at + row * groups * (placed->bits / 8),
                             p->values, count * groups);
    }
    if (!status && has_zeros) {
        status = write_zeros(w, placed, p, row, count);
    }
    return status ? status : tell_progress(w, count * (row_bytes + groups * (placed->bits / 8)));
}

/* Rows of a piece, at least one. */
static uint32_t piece_rows(uint32_t cols)
{
    size_t rows = PIECE_FLOATS / cols;
    return rows < 1 ? 1 : (uint32_t)rows;
}

static phi_status write_placed(phi_onnx_writer *w, const onnx_placed *placed, const piece *p)
{
    phi_status status = PHI_OK;
    uint32_t most = piece_rows(placed->tensor->cols);
    for (uint32_t row = 0; row < placed->rows && !status;) {
        uint32_t left = placed->rows - row;
        uint32_t count = left < most ? left : most;
        status = placed->layout == ONNX_CODES ? write_codes(w, placed, p, row, count)
                                              : write_floats(w, placed, p, row, count);
        row += count;
    }
    return status ? phi_fail_context(w->err, status, "tensor \"%s\"", placed->tensor->name)
                  : PHI_OK;
}

static phi_status write_all(phi_onnx_writer *w)
{
    size_t most = PIECE_FLOATS;
    for (uint32_t i = 0; i < w->n_placed; i++) {
        uint32_t cols = w->placed[i].tensor->cols;
        most = cols > most ? cols : most;
    }
    piece p = {.values = phi_try_alloc(most * sizeof *p.values),
               .zeros = phi_try_alloc(most * sizeof *p.zeros),
               .codes = phi_try_alloc(most),
               .packed = phi_try_alloc(most * sizeof(uint16_t))};
    phi_status status = p.values && p.zeros && p.codes && p.packed
                            ? phi_file_writer_reserve(w->data, w->data_bytes, w->err)
                            : phi_fail(w->err, PHI_E_NO_MEMORY, "not enough memory for rows");
    for (uint32_t i = 0; i < w->n_placed && !status; i++) {
        status = write_placed(w, &w->placed[i], &p);
    }
    phi_free(p.values);
    phi_free(p.zeros);
    phi_free(p.codes);
    phi_free(p.packed);
    return status;
}

phi_status phi_onnx_write_data(phi_onnx_writer *w)
{
    char *path = phi_strfmt("%s/" PHI_ONNX_DATA, w->dir);
    phi_status status = phi_file_writer_create(path, &w->data, w->err);
    phi_free(path);
    if (status) {
        return status;
    }
    status = write_all(w);
    if (status) {
        phi_file_writer_abort(w->data);
        return status;
    }
    return phi_file_writer_commit(w->data, w->err);
}
