/* Bytes as the header of a file of packed weights: as they are, and with the checksum put right. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/model/pack_cache.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* What is believed has to hold: shapes fit their bytes, and these lie in order inside the file. */
static void touch(const phi_pack_header *header, uint64_t file_bytes)
{
    uint64_t end = header->data_offset;
    for (size_t i = 0; i < header->count; i++) {
        const phi_pack_entry *entry = &header->entries[i];
        uint64_t begin = header->data_offset + entry->offset;
        if (begin < end || begin + entry->bytes > file_bytes || entry->bytes == 0 ||
            strlen(entry->name) >= sizeof entry->name) {
            abort();
        }
        end = begin + entry->bytes;
    }
    uint8_t *again = phi_alloc(PHI_PACK_HEADER_BYTES + header->count * PHI_PACK_ENTRY_BYTES);
    phi_pack_header_write(header, again);
    phi_free(again);
}

static void parse(const uint8_t *data, size_t bytes, uint64_t file_bytes)
{
    phi_pack_header header;
    phi_err err;
    if (phi_pack_header_parse(data, bytes, file_bytes, &header, &err) == PHI_OK) {
        touch(&header, file_bytes);
        phi_pack_header_done(&header);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    parse(data, bytes, bytes);
    if (bytes < PHI_PACK_HEADER_BYTES) {
        return 0;
    }
    /* The file is as long as it says, and its header whole: on to what comes after. */
    uint8_t *sealed = phi_alloc(bytes);
    uint64_t file_bytes = 0;
    memcpy(sealed, data, bytes);
    memcpy(&file_bytes, sealed + 96, sizeof file_bytes);
    phi_pack_header_seal(sealed, bytes);
    parse(sealed, bytes, file_bytes);
    phi_free(sealed);
    return 0;
}
