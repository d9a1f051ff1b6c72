/* Bytes as a GGUF file: its metadata, its tensor list, and the phi3 checkpoint in it if it is one.
 */
#include <stdint.h>
#include <string.h>

#include "engine/formats/gguf.h"
#include "fuzz_checkpoint.h"
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
    fuzz_checkpoint(path);
    return 0;
}
