/*
 * Purpose: what config.json says of quantized weights, and the arrays that one of them is made of:
 *          MLX, GPTQ, AWQ, auto-round and compressed-tensors.
 * Owns:    nothing; a found phi_coded is the caller's (phi_coded_done).
 * Threads: any.
 * Errors:  a method, format or width that is not supported is PHI_E_UNSUPPORTED and named with what
 *          is; arrays that do not fit are PHI_E_FORMAT with the tensor's name.
 * Limits:  PHI_LIMIT_CONFIG_JSON_BYTES.
 *
 * Layouts:
 *
 * MLX  X.weight uint32 [N, K b / 32], X.scales and X.biases [N, K / g] (mlx.core.quantize); mode
 * "mxfp4": scales uint8 and no biases. Width and group follow from the shapes, so that layers may
 * differ.
 *
 * GPTQ  X.qweight int32 [K b / 32, N], X.qzeros int32 [K / g, N b / 32] (one less than the zero
 * point, but in "gptq_v2"), X.scales [K / g, N], X.g_idx int32 [K] (AutoGPTQ).
 *
 * AWQ  X.qweight int32 [K, N / 8], X.qzeros int32 [K / g, N / 8], X.scales [K / g, N] (AutoAWQ,
 * version "gemm").
 *
 * auto-round  One of these two; its "packing_format" says which, and whether qzeros are one less
 * (auto_round/inference/backend.py).
 *
 * compressed-tensors  X.weight_packed int32 [N, ceil(K b / 32)] with 2^(b - 1) added,
 * X.weight_scale [N, K / g], X.weight_g_idx ("pack-quantized"); or X.weight int8 with
 * X.weight_scale [N, 1] or [1] ("int-quantized", "naive-quantized"). Asymmetric ones have
 * X.weight_zero_point: int32 [ceil(N b / 32), K / g], words over the rows with 2^(b - 1) added, or
 * int8 [N, K / g].
 */
#ifndef PHI_ENGINE_FORMATS_HF_QUANT_H
#define PHI_ENGINE_FORMATS_HF_QUANT_H

#include "base/file.h"
#include "base/status.h"
#include "engine/formats/coded.h"
#include "engine/formats/tensor_entry.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum phi_hf_method {
    PHI_HF_PLAIN,
    PHI_HF_MLX,
    PHI_HF_GPTQ,
    PHI_HF_AWQ,
    PHI_HF_COMPRESSED,
} phi_hf_method;

typedef struct phi_hf_quant {
    phi_hf_method method;
    uint32_t bits;          /* GPTQ and compressed-tensors */
    int32_t zero_point_add; /* GPTQ: 1, in "gptq_v2" 0 */
    bool asymmetric;        /* compressed-tensors: every matrix of codes has zero points */
} phi_hf_quant;

/* From config.json of `dir`. */
phi_status phi_hf_quant_read(const char *dir, phi_hf_quant *out_quant, phi_err *err) PHI_MUST_CHECK;
const char *phi_hf_method_name(phi_hf_method method); /* "MLX" */

/* How tensors are found by name. */
typedef struct phi_hf_finder {
    void *user;
    /* NULL when there is none. */
    const phi_tensor_entry *(*find)(void *user, const char *name, const phi_file **out_file);
} phi_hf_finder;

/* What is looked for: "model.layers.0.mlp.down_proj.weight". */
typedef struct phi_hf_wanted {
    const char *name;
    uint32_t rows;
    uint32_t cols;
    uint32_t stacked; /* MLX: so many matrices in a first dimension, of `rows` together; else 1 */
} phi_hf_wanted;

/* The matrix, if its arrays are there: *out_found is false where it is stored plainly or not at
 * all. */
phi_status phi_hf_quant_find(const phi_hf_quant *quant, const phi_hf_finder *finder,
                             const phi_hf_wanted *wanted, phi_coded *out_coded, bool *out_found,
                             phi_err *err) PHI_MUST_CHECK;

#endif
