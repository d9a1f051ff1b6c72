/*
 * Purpose: one matrix or vector as a file holds it: what every format's reader lists, and all that
 *          checkpoint.c knows of a format.
 * Owns:    nothing: names and files belong to the reader that listed it, and phi_coded's memory is
 *          freed by that reader.
 * Threads: any number of readers.
 * Errors:  none.
 * Limits:  those of the reader.
 *
 * Names are Hugging Face's ("model.layers.0.self_attn.qkv_proj.weight"), whatever the file calls
 * them, except in GGUF files, whose own names are kept, and of ONNX's graphs, which name nothing
 * and fuse what Hugging Face's classes keep apart: there they are canonical, as GGUF's. A matrix is
 * [rows, cols] and multiplies as y = W x.
 */
#ifndef PHI_ENGINE_FORMATS_STORED_H
#define PHI_ENGINE_FORMATS_STORED_H

#include "base/file.h"
#include "engine/formats/coded.h"
#include "engine/tensor/dtype.h"

#include <stdint.h>

typedef enum phi_stored_kind {
    PHI_STORED_ROWS,    /* rows of a dtype, one after the other */
    PHI_STORED_COLUMNS, /* F32, F16 or BF16, [cols][rows] in the file: ONNX's MatMul */
    PHI_STORED_CODED,   /* arrays of codes, scales and zero points */
} phi_stored_kind;

typedef struct phi_stored {
    const char *name;
    phi_stored_kind kind;
    uint32_t n_dims; /* 1: a vector, of rows 1; 2 */
    uint32_t rows;
    uint32_t cols;
    phi_dtype dtype; /* ROWS and COLUMNS */
    phi_array data;  /* ROWS and COLUMNS: exactly the bytes of the shape, inside the file */
    phi_coded coded; /* CODED: settled */
} phi_stored;

#endif
