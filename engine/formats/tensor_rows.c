#include "engine/formats/tensor_rows.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"

/* Bytes of a row of a piece: checked when the checkpoint was opened. */
static uint64_t row_bytes_of(const phi_tensor *tensor, phi_dtype dtype)
{
    uint64_t bytes = 0;
    bool fits = phi_dtype_row_bytes(dtype, tensor->cols, &bytes);
    PHI_ASSERT(fits);
    return bytes;
}

phi_row_run phi_tensor_run(const phi_tensor *tensor, uint32_t row)
{
    phi_row_run run = {.dtype = tensor->dtype};
    uint32_t first = 0;
    PHI_ASSERT(row < tensor->rows);
    for (uint32_t i = 0; i < tensor->n_pieces; i++) {
        uint32_t end = first + tensor->piece_rows[i];
        if (run.rows > 0 && tensor->piece_dtype[i] != run.dtype) {
            break;
        }
        if (row < end) {
            run.dtype = tensor->piece_dtype[i];
            run.rows = end - row;
        }
        first = end;
    }
    run.row_bytes = row_bytes_of(tensor, run.dtype);
    return run;
}

bool phi_tensor_is_mixed(const phi_tensor *tensor)
{
    for (uint32_t i = 1; i < tensor->n_pieces; i++) {
        if (tensor->piece_dtype[i] != tensor->piece_dtype[0]) {
            return true;
        }
    }
    return false;
}

phi_form phi_tensor_form(const phi_tensor *tensor)
{
    phi_form form = phi_form_of(tensor->piece_dtype[0]);
    for (uint32_t i = 1; i < tensor->n_pieces; i++) {
        phi_form piece = phi_form_of(tensor->piece_dtype[i]);
        form = phi_form_join(&form, &piece);
    }
    return form;
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
        uint64_t bytes = row_bytes_of(tensor, tensor->piece_dtype[i]);
        most = bytes > most ? bytes : most;
    }
    return most;
}

void phi_tensor_type(const phi_tensor *tensor, char out_type[PHI_TENSOR_TYPE_BYTES])
{
    size_t used = 0;
    out_type[0] = '\0';
    for (uint32_t row = 0; row < tensor->rows && used < PHI_TENSOR_TYPE_BYTES;) {
        phi_row_run run = phi_tensor_run(tensor, row);
        int length = snprintf(out_type + used, PHI_TENSOR_TYPE_BYTES - used, "%s%s",
                              row > 0 ? "+" : "", phi_dtype_get(run.dtype)->name);
        used += (size_t)length;
        row += run.rows;
    }
}

void phi_tensor_set_rows(const phi_tensor *tensor, uint32_t row, uint32_t count, const void *src,
                         phi_weight *weight, uint32_t to)
{
    const uint8_t *from = src;
    while (count > 0) {
        phi_row_run run = phi_tensor_run(tensor, row);
        uint32_t now = run.rows < count ? run.rows : count;
        phi_weight_set_rows(weight, run.dtype, to, now, from);
        from += now * run.row_bytes;
        row += now;
        to += now;
        count -= now;
    }
}
