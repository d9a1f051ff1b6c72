/*
 * A checkpoint is the list of a model's parts, each found among the files' tensors by name:
 *   1. open the files (safetensors, PyTorch's or GGUF) and read the description;
 *   2. find the parts among the files' tensors (checkpoint_parts.c).
 * After that nothing about a tensor can fail but the reading itself.
 */
#include "engine/formats/checkpoint_internal.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "base/str.h"
#include "engine/formats/gguf_config.h"
#include "engine/formats/hf_config.h"
#include "engine/formats/source_name.h"
#include "engine/formats/text_check.h"

static phi_status open_dir(phi_checkpoint *checkpoint, const char *path, phi_err *err)
{
    checkpoint->dir = phi_strdup(path);
    char *config = phi_strfmt("%s/config.json", path);
    bool has_config = phi_file_exists(config);
    phi_free(config);
    if (!has_config) {
        phi_status other = phi_hf_shards_check_others(path, err);
        return other ? other
                     : phi_fail(err, PHI_E_NOT_FOUND,
                                "%s has no config.json; a model's folder holds config.json, "
                                "tokenizer.json and its weights (safetensors or pytorch_model.bin)",
                                phi_path_label(path));
    }
    phi_status status = phi_hf_config_read(path, &checkpoint->description, err);
    status = status ? status : phi_hf_quant_read(path, &checkpoint->quant, err);
    status = status ? status : phi_hf_shards_open(path, &checkpoint->shards, err);
    if (status) {
        return status;
    }
    checkpoint->n_files = checkpoint->shards.count;
    checkpoint->files = phi_alloc_zero(checkpoint->n_files, sizeof *checkpoint->files);
    for (uint32_t i = 0; i < checkpoint->n_files; i++) {
        checkpoint->files[i] = &checkpoint->shards.files[i].file;
    }
    return PHI_OK;
}

static phi_status open_onnx(phi_checkpoint *checkpoint, const char *path, phi_err *err)
{
    phi_status status = phi_onnx_open(path, &checkpoint->onnx, err);
    if (status) {
        return status;
    }
    checkpoint->dir = phi_strdup(path);
    checkpoint->description = *phi_onnx_description(checkpoint->onnx);
    checkpoint->n_files = (uint32_t)phi_onnx_file_count(checkpoint->onnx);
    checkpoint->files = phi_alloc_zero(checkpoint->n_files, sizeof *checkpoint->files);
    for (uint32_t i = 0; i < checkpoint->n_files; i++) {
        checkpoint->files[i] = phi_onnx_file_at(checkpoint->onnx, i);
    }
    return PHI_OK;
}

static phi_status open_openvino(phi_checkpoint *checkpoint, const char *path, phi_err *err)
{
    phi_status status = phi_openvino_open(path, &checkpoint->openvino, err);
    if (status) {
        return status;
    }
    checkpoint->dir = phi_strdup(path);
    checkpoint->description = *phi_openvino_description(checkpoint->openvino);
    checkpoint->n_files = 1;
    checkpoint->files = phi_alloc_zero(1, sizeof *checkpoint->files);
    checkpoint->files[0] = phi_openvino_file(checkpoint->openvino);
    return PHI_OK;
}

static bool holds(const char *dir, const char *name)
{
    char *path = phi_strfmt("%s/%s", dir, name);
    bool found = phi_file_exists(path);
    phi_free(path);
    return found;
}

/* A folder that has Hugging Face's weights is theirs, whatever else lies in it. */
static phi_status open_folder(phi_checkpoint *checkpoint, const char *path, phi_err *err)
{
    static const char *const weights[] = {"model.safetensors", "model.safetensors.index.json",
                                          "pytorch_model.bin", "pytorch_model.bin.index.json"};
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++) {
        if (holds(path, weights[i])) {
            return open_dir(checkpoint, path, err);
        }
    }
    if (holds(path, PHI_ONNX_CONFIG)) {
        return open_onnx(checkpoint, path, err);
    }
    return holds(path, "openvino_model.xml") ? open_openvino(checkpoint, path, err)
                                             : open_dir(checkpoint, path, err);
}

/* The content decides what a file is; its name may be anything. */
static phi_status check_magic(const char *path, phi_err *err)
{
    phi_file file;
    char magic[4] = {0};
    phi_status status = phi_file_open(path, &file, err);
    if (status) {
        return status;
    }
    if (file.bytes >= sizeof magic) {
        status = phi_file_read_at(&file, 0, magic, sizeof magic, err);
    }
    phi_file_close(&file);
    if (!status && memcmp(magic, "GGUF", sizeof magic) != 0) {
        const char *name = phi_path_label(path);
        const char *refusal = phi_source_name_refusal(name);
        return refusal
                   ? phi_fail(err, PHI_E_UNSUPPORTED, "%s: %s", name, refusal)
                   : phi_fail(err, PHI_E_FORMAT,
                              "%s is neither a GGUF file nor a directory with config.json and "
                              "safetensors or pytorch_model.bin%s",
                              name,
                              phi_source_name_is_weights(name) ? "; name the folder that it lies in"
                                                               : "");
    }
    return status;
}

static phi_status open_gguf(phi_checkpoint *checkpoint, const char *path, phi_err *err)
{
    phi_status status = check_magic(path, err);
    if (!status) {
        status = phi_gguf_open(path, &checkpoint->gguf, err);
    }
    if (!status) {
        status = phi_gguf_config_read(checkpoint->gguf, &checkpoint->description, err);
    }
    if (!status) {
        checkpoint->n_files = 1;
        checkpoint->files = phi_alloc_zero(1, sizeof *checkpoint->files);
        checkpoint->files[0] = phi_gguf_file(checkpoint->gguf);
    }
    return status;
}

phi_status phi_checkpoint_open(const char *path, phi_checkpoint **out_checkpoint, phi_err *err)
{
    phi_checkpoint *checkpoint = phi_alloc_zero(1, sizeof *checkpoint);
    phi_status status = phi_file_is_dir(path) ? open_folder(checkpoint, path, err)
                                              : open_gguf(checkpoint, path, err);
    if (!status) {
        status = phi_checkpoint_find_parts(checkpoint, err);
    }
    if (status) {
        phi_checkpoint_close(checkpoint);
        return status;
    }
    *out_checkpoint = checkpoint;
    return PHI_OK;
}

void phi_checkpoint_close(phi_checkpoint *checkpoint)
{
    if (checkpoint) {
        for (uint32_t i = 0; i < checkpoint->n_coded; i++) {
            phi_coded_done(&checkpoint->coded[i]);
        }
        phi_free(checkpoint->coded);
        phi_free(checkpoint->tensors);
        phi_free(checkpoint->files);
        phi_hf_shards_close(&checkpoint->shards);
        phi_gguf_close(checkpoint->gguf);
        phi_onnx_close(checkpoint->onnx);
        phi_openvino_close(checkpoint->openvino);
        phi_free(checkpoint->dir);
        phi_free(checkpoint);
    }
}

const phi_description *phi_checkpoint_description(const phi_checkpoint *checkpoint)
{
    return &checkpoint->description;
}

size_t phi_checkpoint_count(const phi_checkpoint *checkpoint)
{
    return checkpoint->count;
}

const phi_tensor *phi_checkpoint_at(const phi_checkpoint *checkpoint, size_t index)
{
    PHI_ASSERT(index < checkpoint->count);
    return &checkpoint->tensors[index];
}

const phi_tensor *phi_checkpoint_find(const phi_checkpoint *checkpoint, const char *name)
{
    for (size_t i = 0; i < checkpoint->count; i++) {
        if (strcmp(checkpoint->tensors[i].name, name) == 0) {
            return &checkpoint->tensors[i];
        }
    }
    return NULL;
}

uint64_t phi_checkpoint_bytes(const phi_checkpoint *checkpoint)
{
    return checkpoint->bytes;
}

size_t phi_checkpoint_file_count(const phi_checkpoint *checkpoint)
{
    return checkpoint->n_files;
}

const phi_file *phi_checkpoint_file_at(const phi_checkpoint *checkpoint, size_t index)
{
    PHI_ASSERT(index < checkpoint->n_files);
    return checkpoint->files[index];
}

const char *phi_checkpoint_dir(const phi_checkpoint *checkpoint)
{
    return checkpoint->dir;
}

const phi_gguf *phi_checkpoint_gguf(const phi_checkpoint *checkpoint)
{
    return checkpoint->gguf;
}

const char *phi_checkpoint_format(const phi_checkpoint *checkpoint)
{
    if (checkpoint->quant.method != PHI_HF_PLAIN) {
        return phi_hf_method_name(checkpoint->quant.method);
    }
    return checkpoint->gguf       ? "gguf"
           : checkpoint->onnx     ? "onnx"
           : checkpoint->openvino ? "openvino"
                                  : checkpoint->shards.format;
}
