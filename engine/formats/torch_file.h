/*
 * Purpose: reading one file that torch.save wrote of a model's state dict (pytorch_model.bin, .pt),
 *          in both of its containers: the zip archive, and the stream of torch before 1.6. Layout:
 *          PyTorch's torch/serialization.py and caffe2/serialize/inline_container.h.
 * Owns:    nothing beyond what it gives.
 * Threads: as phi_tensor_file.
 * Errors:  the file and the tensor are named. Nothing in the file is run (pickle.h). PHI_E_FORMAT:
 *          truncated, overlapping or lying files; a tensor outside its storage, a storage that is
 *          not as long as the file says. PHI_E_UNSUPPORTED: big-endian files, TorchScript, whole
 *          modules, tensors that are not contiguous. A dtype that is not F32, F16 or BF16 is kept
 *          in the list as not readable.
 * Limits:  PHI_LIMIT_PICKLE_*, PHI_LIMIT_ZIP_*, PHI_LIMIT_TENSORS, PHI_LIMIT_TENSOR_*.
 */
#ifndef PHI_ENGINE_FORMATS_TORCH_FILE_H
#define PHI_ENGINE_FORMATS_TORCH_FILE_H

#include "base/status.h"
#include "engine/formats/tensor_file.h"

/* The tensors at the top level of the dict, in its order; those that share their storage lie in the
 * same bytes. Values that are no tensors are left out. phi_tensor_file_close. */
phi_status phi_torch_file_open(const char *path, phi_tensor_file *out_file,
                               phi_err *err) PHI_MUST_CHECK;

#endif
