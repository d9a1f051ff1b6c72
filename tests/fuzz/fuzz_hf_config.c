/* Bytes as the JSON files of a Hugging Face directory, one after another with a NUL between:
 * config.json, generation_config.json, model.safetensors.index.json. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/formats/hf_config.h"
#include "engine/formats/hf_shards.h"
#include "fuzz_input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

#define N_FILES 4U

/* A directory of links to anonymous files: nothing is written to a disk. */
static char dir[] = "/tmp/phid-fuzz-XXXXXX";
static const char *const names[N_FILES] = {"config.json", "generation_config.json",
                                           "model.safetensors.index.json", "shard"};
static fuzz_slot slots[N_FILES];

static void path_of(size_t i, char *out, size_t out_bytes)
{
    (void)snprintf(out, out_bytes, "%s/%s", dir, names[i]);
}

static void clean(void)
{
    char path[80];
    for (size_t i = 0; i < N_FILES; i++) {
        path_of(i, path, sizeof path);
        (void)unlink(path);
    }
    (void)rmdir(dir);
}

/* The shard is one that index files can name: two tensors, "a" and "b", of one F32 each. */
static void start(void)
{
    static const char header[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                                 "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}";
    const uint64_t header_bytes = sizeof header - 1;
    uint8_t shard[sizeof header_bytes + sizeof header - 1 + 8] = {0};
    memcpy(shard, &header_bytes, sizeof header_bytes);
    memcpy(shard + sizeof header_bytes, header, sizeof header - 1);
    if (!mkdtemp(dir)) {
        abort();
    }
    (void)atexit(clean);
    for (size_t i = 0; i < N_FILES; i++) {
        char path[80];
        path_of(i, path, sizeof path);
        if (symlink(fuzz_slot_set(&slots[i], shard, sizeof shard), path) != 0) {
            abort();
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static int started;
    if (!started) {
        start();
        started = 1;
    }
    for (size_t i = 0; i < 3; i++) {
        const uint8_t *end = bytes ? memchr(data, 0, bytes) : NULL;
        size_t part = end && i < 2 ? (size_t)(end - data) : bytes;
        (void)fuzz_slot_set(&slots[i], data, part);
        data += part + (end && i < 2);
        bytes -= part + (end && i < 2);
    }
    phi_description description;
    phi_hf_shards shards;
    phi_err err;
    if (phi_hf_config_read(dir, &description, &err) == PHI_OK &&
        phi_description_check(&description, "fuzz", &err) != PHI_OK) {
        abort();
    }
    if (phi_hf_shards_open(dir, &shards, &err) == PHI_OK) {
        phi_hf_shards_close(&shards);
    }
    return 0;
}
