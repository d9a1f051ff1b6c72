/* Bytes as model.onnx, in a folder whose other files stay the same. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "engine/formats/onnx.h"
#include "fuzz_input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

#define N_FILES 3U
#define GENAI                                                                                      \
    "{\"model\":{\"type\":\"decoder\",\"context_length\":64,\"eos_token_id\":2,\"decoder\":{}}}"

/* A directory of links to anonymous files: nothing is written to a disk. */
static char dir[] = "/tmp/phid-fuzz-XXXXXX";
static const char *const names[N_FILES] = {"genai_config.json", "model.onnx.data", "model.onnx"};
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

static void start(void)
{
    static const uint8_t zeros[1U << 16];
    if (!mkdtemp(dir)) {
        abort();
    }
    (void)atexit(clean);
    for (size_t i = 0; i < N_FILES; i++) {
        char path[80];
        path_of(i, path, sizeof path);
        const char *content = i == 0 ? fuzz_slot_set(&slots[i], GENAI, sizeof GENAI - 1)
                                     : fuzz_slot_set(&slots[i], zeros, sizeof zeros);
        if (symlink(content, path) != 0) {
            abort();
        }
    }
}

/* A matrix that was accepted has to be readable to its last row. */
static void read_matrix(const phi_stored *stored)
{
    phi_err err;
    if (stored->kind == PHI_STORED_CODED) {
        phi_coded_buffer buffer = {0};
        float *row = phi_alloc(stored->cols * sizeof *row);
        if (phi_coded_read_f32(&stored->coded, 0, 1, &buffer, row, &err) ||
            phi_coded_read_f32(&stored->coded, stored->rows - 1, 1, &buffer, row, &err)) {
            abort();
        }
        phi_coded_buffer_done(&buffer);
        phi_free(row);
        return;
    }
    uint64_t element = phi_dtype_get(stored->dtype)->block_bytes;
    uint8_t last[8];
    if (stored->data.bytes != (uint64_t)stored->rows * stored->cols * element ||
        phi_file_read_at(stored->data.file, stored->data.offset + stored->data.bytes - element,
                         last, (size_t)element, &err)) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static int started;
    if (!started) {
        start();
        started = 1;
    }
    phi_onnx *onnx;
    phi_err err;
    (void)fuzz_slot_set(&slots[2], data, bytes);
    if (phi_onnx_open(dir, &onnx, &err) != PHI_OK) {
        return 0;
    }
    if (phi_description_check(phi_onnx_description(onnx), "fuzz", &err) != PHI_OK) {
        abort();
    }
    for (size_t i = 0; i < phi_onnx_count(onnx); i++) {
        read_matrix(phi_onnx_at(onnx, i));
    }
    phi_onnx_close(onnx);
    return 0;
}
