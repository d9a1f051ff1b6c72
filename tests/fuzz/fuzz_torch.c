/* Bytes as a file of torch.save. They are opened as they come, and once more behind the header of
 * the older stream, so that mutations of the pickle need not keep an archive's offsets true. */
#include <stdint.h>
#include <string.h>

#include "base/mem.h"
#include "engine/formats/torch_file.h"
#include "fuzz_input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* Magic number, version, and {"little_endian": True}. */
static const char header[] =
    "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9"
    "\x03.\x80\x02}X\x0d\0\0\0little_endian\x88s.";

static void open_and_read(const char *path)
{
    phi_tensor_file file;
    phi_err err;
    if (phi_torch_file_open(path, &file, &err) != PHI_OK) {
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
        uint64_t rows = phi_tensor_entry_rows(entry);
        uint64_t cols = phi_tensor_entry_cols(entry);
        uint64_t row_bytes = 0;
        if (entry->readable && (!phi_dtype_row_bytes(entry->dtype, cols, &row_bytes) ||
                                rows * row_bytes != entry->bytes)) {
            abort();
        }
    }
    phi_tensor_file_close(&file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    open_and_read(fuzz_file(data, bytes));
    uint8_t *whole = phi_alloc(sizeof header + bytes);
    memcpy(whole, header, sizeof header - 1);
    if (bytes > 0) {
        memcpy(whole + sizeof header - 1, data, bytes);
    }
    open_and_read(fuzz_file(whole, sizeof header - 1 + bytes));
    phi_free(whole);
    return 0;
}
