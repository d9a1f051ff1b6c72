/* Writes a checkpoint as a folder of ONNX Runtime GenAI, weights rounded to the nearest code, so
 * that tests can run it: onnx_export CHECKPOINT FOLDER BITS [GROUP [zeros]]. Bits are 32, 16, 8 or
 * 4; with "zeros" each group has a zero point of its own. A router stays in 32 bits. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "engine/formats/checkpoint.h"
#include "engine/formats/onnx_write.h"
#include "engine/tensor/half.h"

static phi_status read_f32(void *user, const phi_export_tensor *tensor, uint32_t row,
                           uint32_t count, float *out, phi_err *err)
{
    const phi_checkpoint *checkpoint = user;
    const phi_tensor *source = phi_checkpoint_find(checkpoint, tensor->name);
    size_t values = (size_t)count * tensor->cols;
    void *scratch = phi_alloc(values * sizeof(float));
    phi_status status =
        phi_checkpoint_read_rows_f32(checkpoint, source, row, count, scratch, out, err);
    for (size_t i = 0; i < values && tensor->bits == 16; i++) {
        out[i] = phi_half_to_float(phi_half_of_float(out[i]));
    }
    phi_free(scratch);
    return status;
}

/* A group's scale and zero point: of the range from its least to its greatest value with zero, or
 * of its greatest magnitude. */
static void choose(const float *values, uint32_t group, float most, bool has_zeros, float *scale,
                   float *zero)
{
    float low = 0.0F;
    float high = 0.0F;
    for (uint32_t i = 0; i < group; i++) {
        low = fminf(low, values[i]);
        high = fmaxf(high, values[i]);
    }
    float centre = (most + 1.0F) / 2.0F;
    *scale = has_zeros ? (high - low) / most : fmaxf(high, -low) / (centre - 1.0F);
    *scale = *scale > 0.0F ? *scale : 1.0F;
    *zero = has_zeros ? roundf(-low / *scale) : centre;
}

static phi_status read_codes(void *user, const phi_export_tensor *tensor, uint32_t row,
                             uint32_t count, uint8_t *codes, float *scales, float *zeros,
                             phi_err *err)
{
    const float most = tensor->bits == 4 ? 15.0F : 255.0F;
    size_t groups = (size_t)count * tensor->cols / tensor->group;
    float *values = phi_alloc((size_t)count * tensor->cols * sizeof *values);
    phi_status status = read_f32(user, tensor, row, count, values, err);
    for (size_t g = 0; g < groups && !status; g++) {
        float zero = 0.0F;
        const float *from = values + g * tensor->group;
        choose(from, tensor->group, most, zeros != NULL, &scales[g], &zero);
        for (uint32_t i = 0; i < tensor->group; i++) {
            float code = roundf(from[i] / scales[g]) + zero;
            codes[g * tensor->group + i] = (uint8_t)fminf(fmaxf(code, 0.0F), most);
        }
        if (zeros) {
            zeros[g] = zero;
        }
    }
    phi_free(values);
    return status;
}

static phi_status export_all(const phi_checkpoint *checkpoint, const char *folder, uint32_t bits,
                             uint32_t group, bool has_zeros, phi_err *err)
{
    size_t count = phi_checkpoint_count(checkpoint);
    phi_export_tensor *tensors = phi_alloc_zero(count, sizeof *tensors);
    for (size_t i = 0; i < count; i++) {
        const phi_tensor *source = phi_checkpoint_at(checkpoint, i);
        bool is_router = phi_str_ends(source->name, ".ffn_gate_inp.weight");
        tensors[i] =
            (phi_export_tensor){.name = source->name,
                                .n_dims = source->n_dims,
                                .rows = source->rows,
                                .cols = source->cols,
                                .bits = source->n_dims == 1 || is_router ? 32 : bits,
                                .group = group,
                                .zero_rule = has_zeros ? PHI_ZERO_INTEGER : PHI_ZERO_CENTRE,
                                .scale_dtype = PHI_DTYPE_F32};
    }
    const phi_export export = {.description = phi_checkpoint_description(checkpoint),
                               .tensors = tensors,
                               .count = (uint32_t)count,
                               .source_dir = phi_checkpoint_dir(checkpoint),
                               .user = (void *)(uintptr_t)checkpoint,
                               .read_codes = read_codes,
                               .read_f32 = read_f32};
    phi_status status = phi_onnx_write(&export, PHI_ONNX_CPU, folder, err);
    phi_free(tensors);
    return status;
}

int main(int argc, char **argv)
{
    phi_checkpoint *checkpoint = NULL;
    phi_err err = {.message = ""};
    uint64_t bits = 0;
    uint64_t group = 32;
    if (argc < 4 || !phi_str_parse_u64(argv[3], 32, &bits) ||
        (argc > 4 && !phi_str_parse_u64(argv[4], 4096, &group))) {
        (void)fprintf(stderr, "usage: %s CHECKPOINT FOLDER BITS [GROUP [zeros]]\n", argv[0]);
        return 2;
    }
    phi_status status = phi_checkpoint_open(argv[1], &checkpoint, &err);
    if (!status) {
        status = export_all(checkpoint, argv[2], (uint32_t)bits, (uint32_t)group, argc > 5, &err);
    }
    phi_checkpoint_close(checkpoint);
    if (status) {
        (void)fprintf(stderr, "%s\n", err.message);
    }
    return status ? 1 : 0;
}
