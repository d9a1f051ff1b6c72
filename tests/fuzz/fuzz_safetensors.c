/* Bytes as a safetensors file. The file is opened as it comes, and once more with the length of
 * its header made right, because mutations seldom keep that number true. */
#include <stdint.h>
#include <string.h>

#include "base/mem.h"
#include "engine/formats/safetensors.h"
#include "fuzz_input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void open_and_read(const char *path)
{
    phi_tensor_file file;
    phi_err err;
    if (phi_safetensors_open(path, &file, &err) != PHI_OK) {
        return;
    }
    for (size_t i = 0; i < file.count; i++) {
        const phi_tensor_entry *entry = &file.entries[i];
        uint8_t first[64];
        uint64_t n = entry->bytes < sizeof first ? entry->bytes : sizeof first;
        /* An accepted tensor must be readable to its last byte. */
        if (phi_file_read_at(&file.file, entry->offset, first, (size_t)n, &err) ||
            phi_file_read_at(&file.file, entry->offset + entry->bytes - n, first, (size_t)n,
                             &err)) {
            abort();
        }
        if (entry->readable && n >= 4) {
            float wide[16];
            phi_dtype_widen(entry->dtype, first, 1, wide);
        }
    }
    phi_tensor_file_close(&file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    open_and_read(fuzz_file(data, bytes));
    const uint8_t *start = memchr(data, '{', bytes);
    if (!start) {
        return 0;
    }
    /* The header ends at a NUL byte, which JSON cannot hold, or with the input. */
    size_t rest = bytes - (size_t)(start - data);
    const uint8_t *end = memchr(start, 0, rest);
    uint64_t header = end ? (uint64_t)(end - start) : rest;
    uint8_t *whole = phi_alloc(sizeof header + rest);
    memcpy(whole, &header, sizeof header);
    memcpy(whole + sizeof header, start, rest);
    open_and_read(fuzz_file(whole, sizeof header + rest));
    phi_free(whole);
    return 0;
}
