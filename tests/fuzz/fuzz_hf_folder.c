/* A Hugging Face folder, quantized or not: bytes are config.json, a NUL, and model.safetensors. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fuzz_checkpoint.h"
#include "fuzz_input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* A directory of links to anonymous files: nothing is written to a disk. */
static char dir[] = "/tmp/phid-fuzz-XXXXXX";
static const char *const names[] = {"config.json", "model.safetensors"};
static fuzz_slot slots[2];

static void path_of(size_t i, char *out, size_t out_bytes)
{
    (void)snprintf(out, out_bytes, "%s/%s", dir, names[i]);
}

static void clean(void)
{
    char path[80];
    for (size_t i = 0; i < 2; i++) {
        path_of(i, path, sizeof path);
        (void)unlink(path);
    }
    (void)rmdir(dir);
}

static void start(void)
{
    if (!mkdtemp(dir)) {
        abort();
    }
    (void)atexit(clean);
    for (size_t i = 0; i < 2; i++) {
        char path[80];
        path_of(i, path, sizeof path);
        if (symlink(fuzz_slot_set(&slots[i], "", 0), path) != 0) {
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
    const uint8_t *end = bytes ? memchr(data, 0, bytes) : NULL;
    size_t config = end ? (size_t)(end - data) : bytes;
    size_t rest = end ? config + 1 : bytes;
    (void)fuzz_slot_set(&slots[0], data, config);
    (void)fuzz_slot_set(&slots[1], data + rest, bytes - rest);
    fuzz_checkpoint(dir);
    return 0;
}
