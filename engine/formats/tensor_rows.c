#include "engine/formats/tensor_rows.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"

/* Rows of piece i; those of codes in a float form are as good as rows of floats. */
static phi_row_run run_of(const phi_tensor *tensor, uint32_t i)
{
    const phi_coded *coded = tensor->piece_coded[i];
    phi_row_run run = {.dtype = coded ? PHI_DTYPE_F32 : tensor->piece_dtype[i]};
    if (coded && coded->form.group) {
        uint64_t groups = tensor->cols / coded->form.group;
        run.coded = coded;
        run.row_bytes = tensor->cols + groups * sizeof(float) * (coded->form.has_offsets ? 2U : 1U);
        return run;
    }
    /* Checked when the checkpoint was opened. */
    bool fits = phi_dtype_row_bytes(run.dtype, tensor->cols, &run.row_bytes);
    PHI_ASSERT(fits);
    return run;
}

static phi_form form_of(const phi_row_run *run)
{
    return run->coded ? run->coded->form : phi_form_of(run->dtype);
}

static bool is_alike(const phi_row_run *a, const phi_row_run *b)
{
    return a->dtype == b->dtype && a->coded == b->coded;
}

phi_row_run phi_tensor_run(const phi_tensor *tensor, uint32_t row)
{
    phi_row_run run = {0};
    uint32_t first = 0;
    PHI_ASSERT(row < tensor->rows);
    if (tensor->n_dims == 1) {
        run = run_of(tensor, 0);
        run.rows = 1;
        return run;
    }
    for (uint32_t i = 0; i < tensor->n_pieces; i++) {
        uint32_t end = first + tensor->piece_rows[i];
        phi_row_run piece = run_of(tensor, i);
        if (run.rows > 0 && !is_alike(&piece, &run)) {
            break;
        }
        if (row < end) {
            run = piece;
            run.rows = end - row;
        }
        first = end;
    }
    return run;
}

bool phi_tensor_is_mixed(const phi_tensor *tensor)
{
    for (uint32_t i = 1; i < tensor->n_pieces; i++) {
        phi_row_run first = run_of(tensor, 0);
        phi_row_run piece = run_of(tensor, i);
        if (!is_alike(&first, &piece)) {
            return true;
        }
    }
    return false;
}

phi_form phi_tensor_form(const phi_tensor *tensor)
{
    phi_row_run run = run_of(tensor, 0);
    phi_form form = form_of(&run);
    for (uint32_t i = 1; i < tensor->n_pieces; i++) {
        run = run_of(tensor, i);
        phi_form piece = form_of(&run);
        form = phi_form_join(&form, &piece);
    }
    return form;
}

bool phi_tensor_is_mx(const phi_tensor *tensor)
{
    for (uint32_t i = 0; i < tensor->n_pieces; i++) {
        phi_row_run run = run_of(tensor, i);
        bool is_mx =
            run.coded ? run.coded->is_mx && run.coded->group == 32 : run.dtype == PHI_DTYPE_MXFP4;
        if (!is_mx) {
            return false;
        }
    }
    return tensor->n_dims > 1;
}

uint64_t phi_tensor_rows_bytes(const phi_tensor *tensor, uint32_t row, uint32_t count)
{
    uint64_t bytes = 0;
    while (count > 0) {
        phi_row_run run = phi_tensor_run(tensor, row);
        uint32_t now = run.rows < count ? run.rows : count;
        bytes += now * run.row_bytes;
        row += now;
        count -= now;
    }
    return bytes;
}

uint64_t phi_tensor_row_bytes_max(const phi_tensor *tensor)
{
    uint64_t most = 0;
    for (uint32_t i = 0; i < tensor->n_pieces; i++) {
        uint64_t bytes = run_of(tensor, i).row_bytes;
        most = bytes > most ? bytes : most;
    }
    return most;
}

/* Where the numbers of a row of codes begin; rows lie at any address. */
static void split_row(const phi_row_run *run, uint32_t cols, const uint8_t *row, float *scales,
                      float *offsets)
{
    size_t bytes = cols / run->coded->form.group * sizeof(float);
    memcpy(scales, row + cols, bytes);
    if (run->coded->form.has_offsets) {
        memcpy(offsets, row + cols + bytes, bytes);
    }
}

/* Scales and offsets of one row, on their way. */
static float *alloc_params(const phi_row_run *run, uint32_t cols)
{
    return phi_alloc_zero(2 * (size_t)(cols / run->coded->form.group), sizeof(float));
}

void phi_row_run_widen(const phi_row_run *run, uint32_t cols, uint32_t count, const void *src,
                       float *out)
{
    if (!run->coded) {
        phi_dtype_widen(run->dtype, src, (size_t)count * cols, out);
        return;
    }
    phi_form form = run->coded->form;
    bool is_int4 = form.kind == PHI_WEIGHT_INT4;
    float *scales = alloc_params(run, cols);
    float *offsets = scales + cols / form.group;
    for (uint32_t r = 0; r < count; r++, out += cols) {
        const uint8_t *row = (const uint8_t *)src + r * run->row_bytes;
        split_row(run, cols, row, scales, offsets);
        for (uint32_t k = 0; k < cols; k++) {
            int code = is_int4 ? (int)row[k] - (form.has_offsets ? 0 : 8) : (int8_t)row[k];
            out[k] = scales[k / form.group] * (float)code + offsets[k / form.group];
        }
    }
    phi_free(scales);
}

/* Which is short enough for all pieces to be named. */
static void run_type(const phi_row_run *run, const phi_coded *coded, char *out, size_t out_bytes)
{
    if (coded) {
        (void)snprintf(out, out_bytes, "%ub/%u", coded->bits, coded->group);
    } else {
        (void)snprintf(out, out_bytes, "%s", phi_dtype_get(run->dtype)->name);
    }
}

void phi_tensor_type(const phi_tensor *tensor, char out_type[PHI_TENSOR_TYPE_BYTES])
{
    char last[PHI_TENSOR_TYPE_BYTES] = "";
    size_t used = 0;
    out_type[0] = '\0';
    for (uint32_t i = 0; i < tensor->n_pieces && used < PHI_TENSOR_TYPE_BYTES; i++) {
        char type[PHI_TENSOR_TYPE_BYTES];
        phi_row_run run = run_of(tensor, i);
        run_type(&run, tensor->piece_coded[i], type, sizeof type);
        if (strcmp(type, last) != 0) {
            int length = snprintf(out_type + used, PHI_TENSOR_TYPE_BYTES - used, "%s%s",
                                  i > 0 ? "+" : "", type);
            used += (size_t)length;
        }
        memcpy(last, type, sizeof last);
    }
}

/* One row of codes whose form the matrix's holds. */
static void set_coded_row(const phi_row_run *run, const uint8_t *row, phi_weight *weight,
                          uint32_t to)
{
    uint32_t cols = weight->cols;
    phi_form has = phi_weight_form(weight);
    if (!has.group) {
        float *values = phi_alloc(cols * sizeof *values);
        phi_row_run_widen(run, cols, 1, row, values);
        phi_weight_set_rows(weight, PHI_DTYPE_F32, to, 1, values);
        phi_free(values);
        return;
    }
    float *scales = alloc_params(run, cols);
    float *offsets = scales + cols / run->coded->form.group;
    split_row(run, cols, row, scales, offsets);
    phi_weight_set_form_codes(weight, to, &run->coded->form, row, scales, offsets);
    phi_free(scales);
}

void phi_tensor_set_rows(const phi_tensor *tensor, uint32_t row, uint32_t count, const void *src,
                         phi_weight *weight, uint32_t to)
{
    const uint8_t *from = src;
    while (count > 0) {
        phi_row_run run = phi_tensor_run(tensor, row);
        uint32_t now = run.rows < count ? run.rows : count;
        for (uint32_t i = 0; i < now && run.coded; i++) {
            set_coded_row(&run, from + i * run.row_bytes, weight, to + i);
        }
        if (!run.coded) {
            phi_weight_set_rows(weight, run.dtype, to, now, from);
        }
        from += now * run.row_bytes;
        row += now;
        to += now;
        count -= now;
    }
}
