/* Bytes as a GGUF file: its metadata, its tensor list, and the phi3 checkpoint in it if it is one.
 */
#include <stdint.h>
#include <string.h>

#include "base/mem.h"
#include "engine/formats/checkpoint.h"
#include "engine/formats/gguf.h"
#include "engine/formats/tensor_rows.h"
#include "fuzz_input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void touch_values(const phi_gguf *gguf)
{
    double sum = 0.0;
    size_t length = 0;
    for (size_t i = 0; i < phi_gguf_value_count(gguf); i++) {
        const phi_gguf_value *value = phi_gguf_value_at(gguf, i);
        uint32_t u32 = 0;
        float f32 = 0.0F;
        (void)phi_gguf_get_u32(gguf, value->key, &u32);
        (void)phi_gguf_get_f32(gguf, value->key, &f32);
        if (phi_gguf_find(gguf, value->key) != value) {
            abort();
        }
        if (value->type == PHI_GGUF_STRING) {
            length += strlen(value->as.string.text);
        }
        for (uint64_t j = 0; value->type == PHI_GGUF_ARRAY && j < value->count; j++) {
            if (value->element_type == PHI_GGUF_STRING) {
                length += strlen(value->as.strings[j].text);
            } else {
                sum += phi_gguf_array_f64(value, j) + (double)phi_gguf_array_i64(value, j);
            }
        }
    }
    /* Keeps the reads from being optimised away. */
    volatile double sink = sum + (double)length;
    (void)sink;
}

static void touch_tensors(const phi_gguf *gguf)
{
    for (size_t i = 0; i < phi_gguf_tensor_count(gguf); i++) {
        const phi_tensor_entry *entry = phi_gguf_tensor_at(gguf, i);
        uint8_t byte;
        phi_err err;
        if (entry->bytes > 0 &&
            phi_file_read_at(phi_gguf_file(gguf), entry->offset + entry->bytes - 1, &byte, 1,
                             &err)) {
            abort();
        }
    }
}

/* The last row, which `raw` holds, as a matrix of its own is what it is as floats. */
static void touch_matrix(const phi_tensor *tensor, const void *raw, const float *wide)
{
    phi_form form = phi_tensor_form(tensor);
    phi_weight weight;
    float *row = phi_alloc(tensor->cols * sizeof *row);
    if (tensor->n_dims == 2 && phi_weight_shape(&weight, &form, 1, tensor->cols, NULL) == PHI_OK &&
        phi_weight_alloc(&weight, NULL) == PHI_OK) {
        phi_tensor_set_rows(tensor, tensor->rows - 1, 1, raw, &weight, 0);
        phi_weight_row(&weight, 0, row);
        for (uint32_t k = 0; k < tensor->cols; k++) {
            /* Also true for what is not a number in either. */
            if (row[k] != wide[k] && row[k] == row[k]) {
                abort();
            }
        }
        phi_weight_done(&weight);
    }
    phi_free(row);
}

static void touch_checkpoint(const char *path)
{
    phi_checkpoint *checkpoint;
    phi_err err;
    if (phi_checkpoint_open(path, &checkpoint, &err) != PHI_OK) {
        return;
    }
    if (phi_description_check(phi_checkpoint_description(checkpoint), "fuzz", &err) != PHI_OK) {
        abort();
    }
    for (size_t i = 0; i < phi_checkpoint_count(checkpoint); i++) {
        const phi_tensor *tensor = phi_checkpoint_at(checkpoint, i);
        void *raw = phi_alloc((size_t)phi_tensor_row_bytes_max(tensor));
        float *wide = phi_alloc(tensor->cols * sizeof *wide);
        if (phi_checkpoint_read_rows_f32(checkpoint, tensor, 0, 1, raw, wide, &err) ||
            phi_checkpoint_read_rows_f32(checkpoint, tensor, tensor->rows - 1, 1, raw, wide,
                                         &err)) {
            abort();
        }
        touch_matrix(tensor, raw, wide);
        phi_free(raw);
        phi_free(wide);
    }
    phi_checkpoint_close(checkpoint);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    const char *path = fuzz_file(data, bytes);
    phi_gguf *gguf;
    phi_err err;
    if (phi_gguf_open(path, &gguf, &err) != PHI_OK) {
        return 0;
    }
    touch_values(gguf);
    touch_tensors(gguf);
    phi_gguf_close(gguf);
    touch_checkpoint(path);
    return 0;
}
