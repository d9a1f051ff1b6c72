/*
 * Purpose: tensors by name over any format, with the description: what loading and quantizing read.
 * Owns:    the open files.
 * Threads: after open, any number of readers.
 * Errors:  the file and tensor are named; a missing, misshapen or unreadable tensor is found at
 *          open, so that nothing fails half-way through a load.
 * Limits:  those of the formats.
 *
 * What can be opened: a directory of Hugging Face files (config.json, optional
 * generation_config.json, the weights as hf_shards.h finds them, plain or quantized as MLX, GPTQ,
 * AWQ and compressed-tensors do it (hf_quant.h), tokenizer.json, tokenizer_config.json), or one
 * .gguf file (its first bytes decide, not its name), or a folder of ONNX Runtime GenAI (onnx.h) or
 * of OpenVINO (openvino.h).
 *
 * Names are GGUF's canonical ones: "token_embd.weight", "blk.3.attn_qkv.weight",
 * "blk.3.ffn_up.weight" (gate rows, then up rows), "output_norm.weight", "output.weight"; biases,
 * where the architecture has them, end in ".bias" and follow their weight. A part that the file
 * stores split (attn_q, attn_k, attn_v or ffn_gate, ffn_up) is presented fused: a tensor has one or
 * more pieces stacked by rows, each of a dtype of its own (tensor_rows.h).
 */
#ifndef PHI_ENGINE_FORMATS_CHECKPOINT_H
#define PHI_ENGINE_FORMATS_CHECKPOINT_H

#include "base/file.h"
#include "base/status.h"
#include "engine/formats/coded.h"
#include "engine/formats/description.h"
#include "engine/formats/gguf.h"
#include "engine/tensor/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PHI_CHECKPOINT_PIECES_MAX PHI_LIMIT_EXPERTS

/* One logical tensor: [rows, cols]; a vector has rows 1, and pieces of columns. */
typedef struct phi_tensor {
    char name[64];      /* canonical */
    phi_dtype dtype;    /* of its first piece; see tensor_rows.h where pieces may differ */
    uint32_t n_dims;    /* 1, 2, or 3: experts' matrices, one below the other */
    uint32_t n_stacked; /* how many of those; else 1 */
    uint32_t rows;
    uint32_t cols;
    uint64_t bytes; /* as stored in the source */
    uint32_t n_pieces;
    phi_dtype piece_dtype[PHI_CHECKPOINT_PIECES_MAX];
    uint32_t piece_rows[PHI_CHECKPOINT_PIECES_MAX];        /* of a vector: columns */
    const phi_file *piece_file[PHI_CHECKPOINT_PIECES_MAX]; /* one of the open files */
    uint64_t piece_offset[PHI_CHECKPOINT_PIECES_MAX];
    /* Arrays of codes, scales and zero points in place of rows of a dtype; NULL: rows. */
    const phi_coded *piece_coded[PHI_CHECKPOINT_PIECES_MAX];
    bool piece_across[PHI_CHECKPOINT_PIECES_MAX]; /* [cols][rows] in the file */
} phi_tensor;

typedef struct phi_checkpoint phi_checkpoint;

phi_status phi_checkpoint_open(const char *path, phi_checkpoint **out_checkpoint,
                               phi_err *err) PHI_MUST_CHECK;
void phi_checkpoint_close(phi_checkpoint *checkpoint);
const phi_description *phi_checkpoint_description(const phi_checkpoint *checkpoint);
/* In forward-pass order: embedding, layers from 0 on, final norm, head. */
size_t phi_checkpoint_count(const phi_checkpoint *checkpoint);
const phi_tensor *phi_checkpoint_at(const phi_checkpoint *checkpoint, size_t index);
/* NULL when absent (such as output.weight of a tied head). */
const phi_tensor *phi_checkpoint_find(const phi_checkpoint *checkpoint, const char *name);
uint64_t phi_checkpoint_bytes(const phi_checkpoint *checkpoint);
/* The files that tensors are read from. */
size_t phi_checkpoint_file_count(const phi_checkpoint *checkpoint);
const phi_file *phi_checkpoint_file_at(const phi_checkpoint *checkpoint, size_t index);
/* Rows [row, row + count) as they are stored, or as tensor_rows.h says where they are arrays of
 * codes, packed, into `data` (phi_tensor_rows_bytes). */
phi_status phi_checkpoint_read_rows(const phi_checkpoint *checkpoint, const phi_tensor *tensor,
                                    uint32_t row, uint32_t count, void *data,
                                    phi_err *err) PHI_MUST_CHECK;
/* The same, widened to float: out [count, cols]. `scratch` holds the rows as stored. */
phi_status phi_checkpoint_read_rows_f32(const phi_checkpoint *checkpoint, const phi_tensor *tensor,
                                        uint32_t row, uint32_t count, void *scratch, float *out,
                                        phi_err *err) PHI_MUST_CHECK;
/* The first `rows` rows will not be read again: their part of the file need not stay in the page
 * cache. Waits for all CPUs at times, so that a few large ranges are better than many small ones.
 * Advice only; arrays of codes stay. */
void phi_checkpoint_forget_rows(const phi_tensor *tensor, uint32_t rows);
/* Where the tokenizer is: the directory of a Hugging Face checkpoint, else NULL ... */
const char *phi_checkpoint_dir(const phi_checkpoint *checkpoint);
/* ... or the GGUF whose metadata hold it, else NULL. */
const phi_gguf *phi_checkpoint_gguf(const phi_checkpoint *checkpoint);
/* "safetensors", "pytorch", "gguf", "onnx", "openvino", or by what the weights are quantized:
 * "MLX", "GPTQ", "AWQ", "compressed-tensors". */
const char *phi_checkpoint_format(const phi_checkpoint *checkpoint);

/* Writes the architecture's GGUF keys (general.*, phi3.* and so on) and declares nothing. */
void phi_checkpoint_put_description(phi_gguf_writer *writer, const phi_description *description);

#endif
