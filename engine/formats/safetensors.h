/*
 * Purpose: reading one safetensors file (layout: huggingface/safetensors README, "Format").
 * Owns:    the open file and its parsed header.
 * Threads: after open, any number of readers.
 * Errors:  the file and tensor are named; truncated, overlapping, holed, oversized or lying
 *          headers are PHI_E_FORMAT; a dtype that is not F32, F16 or BF16 is kept in the list as
 *          unsupported and refused when read.
 * Limits:  PHI_LIMIT_SAFETENSORS_HEADER_BYTES, PHI_LIMIT_TENSORS, PHI_LIMIT_TENSOR_*.
 */
#ifndef PHI_ENGINE_FORMATS_SAFETENSORS_H
#define PHI_ENGINE_FORMATS_SAFETENSORS_H

#include "base/status.h"
#include "engine/formats/tensor_file.h"

/* Entries come in file order; phi_tensor_file_close. */
phi_status phi_safetensors_open(const char *path, phi_tensor_file *out_file,
                                phi_err *err) PHI_MUST_CHECK;

#endif
