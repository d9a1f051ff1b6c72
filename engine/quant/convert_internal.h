/*
 * Purpose: what the options of a conversion and the conversion itself have in common.
 * Owns:    nothing. Threads: any. Errors: none.
 * Limits:  private to engine/quant/convert*.c.
 */
#ifndef PHI_ENGINE_QUANT_CONVERT_INTERNAL_H
#define PHI_ENGINE_QUANT_CONVERT_INTERNAL_H

#include "engine/quant/convert.h"

/* MatMulNBits takes powers of two up to this, ... */
#define PHI_ONNX_GROUP_MAX 256U
/* ... and its kernel for one token on CUDA up to that. */
#define PHI_CUDA_GROUP_MAX 128U
/* What mlx.core.quantize takes. */
#define PHI_MLX_GROUP_MIN 32U
#define PHI_MLX_GROUP_MAX 128U

/* Whether it states one width, one group and one kind of zero points for all matrices. */
bool phi_convert_has_one_coding(phi_convert_format format);

#endif
