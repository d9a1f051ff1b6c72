/*
 * Purpose: a checkpoint's state, for the files that open it and find its parts.
 * Owns:    see checkpoint.h.
 * Threads: one, while opening.
 * Errors:  as checkpoint.h.
 * Limits:  as checkpoint.h.
 */
#ifndef PHI_ENGINE_FORMATS_CHECKPOINT_INTERNAL_H
#define PHI_ENGINE_FORMATS_CHECKPOINT_INTERNAL_H

#include "engine/formats/checkpoint.h"
#include "engine/formats/hf_quant.h"
#include "engine/formats/hf_shards.h"
#include "engine/formats/onnx.h"
#include "engine/formats/openvino.h"

struct phi_checkpoint {
    phi_description description;
    char *dir;            /* Hugging Face */
    phi_hf_shards shards; /* Hugging Face */
    phi_hf_quant quant;   /* Hugging Face */
    phi_coded *coded; /* [n_coded] matrices of codes, in reserved memory: tensors point to them */
    uint32_t n_coded;
    phi_gguf *gguf;         /* GGUF */
    phi_onnx *onnx;         /* ONNX Runtime GenAI */
    phi_openvino *openvino; /* OpenVINO */
    const phi_file **files;
    uint32_t n_files;
    phi_tensor *tensors;
    size_t count;
    uint64_t bytes;
};

/* Fills the list of tensors: each part of the description, whole or in pieces, found among the
 * tensors of the files that are open. */
phi_status phi_checkpoint_find_parts(phi_checkpoint *checkpoint, phi_err *err) PHI_MUST_CHECK;

#endif
