/* Rows of a checkpoint's tensors, whatever their pieces are. */
#include "engine/formats/checkpoint.h"

#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "engine/formats/tensor_rows.h"

/* Says its status plainly, so that a reader (and an analyser) sees that nothing goes on. */
static phi_status no_memory(phi_err *err, const char *what)
{
    phi_status status = phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for %s", what);
    PHI_ASSERT(status == PHI_E_NO_MEMORY);
    return PHI_E_NO_MEMORY;
}

/* Rows of a piece whose arrays are of codes, as tensor_rows.h lays them out. */
static phi_status read_coded(const phi_coded *coded, uint32_t row, uint32_t count, uint8_t *out,
                             phi_err *err)
{
    phi_coded_buffer buffer = {0};
    phi_status status = PHI_OK;
    size_t cols = coded->cols;
    if (!coded->form.group) {
        float *values = phi_try_alloc(count * cols * sizeof *values);
        status = values ? phi_coded_read_f32(coded, row, count, &buffer, values, err)
                        : no_memory(err, "rows");
        if (!status) {
            memcpy(out, values, count * cols * sizeof *values);
        }
        phi_free(values);
        phi_coded_buffer_done(&buffer);
        return status;
    }
    size_t groups = cols / coded->form.group;
    size_t planes = coded->form.has_offsets ? 2 : 1;
    uint8_t *codes = phi_try_alloc(count * cols);
    float *scales = phi_try_alloc(2 * count * groups * sizeof *scales);
    float *offsets = scales ? scales + count * groups : NULL;
    status = codes && scales
                 ? phi_coded_read_codes(coded, row, count, &buffer, codes, scales, offsets, err)
                 : no_memory(err, "rows");
    for (size_t r = 0; r < count && !status; r++) {
        memcpy(out, codes + r * cols, cols);
        memcpy(out + cols, scales + r * groups, groups * sizeof *scales);
        if (planes == 2) {
            memcpy(out + cols + groups * sizeof *scales, offsets + r * groups,
                   groups * sizeof *scales);
        }
        out += cols + planes * groups * sizeof *scales;
    }
    phi_free(codes);
    phi_free(scales);
    phi_coded_buffer_done(&buffer);
    return status;
}

/* Rows of a piece that lies [cols][rows] in its file. */
static phi_status read_across(const phi_tensor *tensor, uint32_t i, uint32_t row, uint32_t count,
                              uint8_t *out, phi_err *err)
{
    const phi_file *file = tensor->piece_file[i];
    size_t size = phi_dtype_get(tensor->piece_dtype[i])->block_bytes;
    uint8_t *line = phi_try_alloc(count * size);
    phi_status status = line ? PHI_OK : no_memory(err, "rows");
    for (size_t k = 0; k < tensor->cols && !status; k++) {
        uint64_t at = (k * tensor->piece_rows[i] + row) * size;
        status = phi_file_read_at(file, tensor->piece_offset[i] + at, line, count * size, err);
        for (size_t r = 0; r < count && !status; r++) {
            memcpy(out + (r * tensor->cols + k) * size, line + r * size, size);
        }
    }
    phi_free(line);
    return status;
}

/* Rows [row, row + count) of piece i. */
static phi_status read_piece(const phi_tensor *tensor, uint32_t i, uint32_t row, uint32_t count,
                             uint64_t row_bytes, uint8_t *out, phi_err *err)
{
    if (tensor->piece_coded[i]) {
        return read_coded(tensor->piece_coded[i], row, count, out, err);
    }
    if (tensor->piece_across[i]) {
        return read_across(tensor, i, row, count, out, err);
    }
    uint64_t offset = tensor->piece_offset[i] + row * row_bytes;
    return phi_file_read_at(tensor->piece_file[i], offset, out, (size_t)(count * row_bytes), err);
}

void phi_checkpoint_forget_rows(const phi_tensor *tensor, uint32_t rows)
{
    uint32_t first = 0; /* row at which the piece starts */
    for (uint32_t i = 0; i < tensor->n_pieces && first < rows && tensor->n_dims > 1; i++) {
        uint32_t left = rows - first;
        uint32_t count = left < tensor->piece_rows[i] ? left : tensor->piece_rows[i];
        if (!tensor->piece_coded[i] && !tensor->piece_across[i]) {
            phi_file_forget(tensor->piece_file[i], tensor->piece_offset[i],
                            count * phi_tensor_run(tensor, first).row_bytes);
        }
        first += tensor->piece_rows[i];
    }
}

/* A vector: its pieces, one after the other. */
static phi_status read_vector(const phi_tensor *tensor, uint8_t *out, phi_err *err)
{
    size_t size = phi_dtype_get(tensor->dtype)->block_bytes;
    phi_status status = PHI_OK;
    for (uint32_t i = 0; i < tensor->n_pieces && !status; i++) {
        size_t bytes = tensor->piece_rows[i] * size;
        status = phi_file_read_at(tensor->piece_file[i], tensor->piece_offset[i], out, bytes, err);
        out += bytes;
    }
    return status;
}

phi_status phi_checkpoint_read_rows(const phi_checkpoint *checkpoint, const phi_tensor *tensor,
                                    uint32_t row, uint32_t count, void *data, phi_err *err)
{
    (void)checkpoint;
    PHI_ASSERT(row <= tensor->rows && count <= tensor->rows - row);
    uint8_t *out = data;
    if (tensor->n_dims == 1 && count > 0) {
        phi_status status = read_vector(tensor, out, err);
        return status ? phi_fail_context(err, status, "tensor \"%s\"", tensor->name) : PHI_OK;
    }
    uint32_t first = 0; /* row at which the piece starts */
    for (uint32_t i = 0; i < tensor->n_pieces && count > 0; i++) {
        uint32_t end = first + tensor->piece_rows[i];
        if (row < end) {
            uint32_t now = count < end - row ? count : end - row;
            uint64_t row_bytes = phi_tensor_run(tensor, row).row_bytes;
            phi_status status = read_piece(tensor, i, row - first, now, row_bytes, out, err);
            if (status) {
                return phi_fail_context(err, status, "tensor \"%s\"", tensor->name);
            }
            out += now * row_bytes;
            row += now;
            count -= now;
        }
        first = end;
    }
    return PHI_OK;
}

phi_status phi_checkpoint_read_rows_f32(const phi_checkpoint *checkpoint, const phi_tensor *tensor,
                                        uint32_t row, uint32_t count, void *scratch, float *out,
                                        phi_err *err)
{
    phi_status status = phi_checkpoint_read_rows(checkpoint, tensor, row, count, scratch, err);
    const uint8_t *from = scratch;
    while (!status && count > 0) {
        phi_row_run run = phi_tensor_run(tensor, row);
        uint32_t now = run.rows < count ? run.rows : count;
        phi_row_run_widen(&run, tensor->cols, now, from, out);
        from += now * run.row_bytes;
        out += (size_t)now * tensor->cols;
        row += now;
        count -= now;
    }
    return status;
}
