/*
 * OpenVINO folders on the command line, for the comparison with OpenVINO itself.
 *
 *   openvino_folder write DIR OUT fp32|fp16|int8|int8-sym|int4|int4-sym [GROUP]
 *   openvino_folder values DIR FILE
 *
 * The first writes a checkpoint as an OpenVINO folder; a GROUP of 0, the default, is one a row. The
 * second prints name, rows and columns of each tensor of an OpenVINO folder and writes their values
 * as floats, one after another.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "engine/formats/checkpoint.h"
#include "engine/formats/openvino.h"
#include "engine/formats/tensor_rows.h"
#include "engine/quant/group_codes.h"

typedef struct kind {
    const char *name;
    uint32_t bits;
    phi_zero_rule zero_rule;
} kind;

static const kind kinds[] = {
    {"fp32", 32, PHI_ZERO_CENTRE}, {"fp16", 16, PHI_ZERO_CENTRE},
    {"int8", 8, PHI_ZERO_INTEGER}, {"int8-sym", 8, PHI_ZERO_CENTRE},
    {"int4", 4, PHI_ZERO_INTEGER}, {"int4-sym", 4, PHI_ZERO_CENTRE},
};

typedef struct source {
    phi_checkpoint *checkpoint;
    phi_export_tensor *tensors;
    uint32_t count;
} source;

static int fail(const phi_err *err)
{
    fprintf(stderr, "openvino_folder: %s\n", err->message);
    return 1;
}

static phi_status stored_rows(const phi_stored *stored, uint32_t row, uint32_t count, float *out,
                              phi_err *err)
{
    size_t n = (size_t)count * stored->cols;
    if (stored->kind == PHI_STORED_CODED) {
        phi_coded_buffer buffer = {0};
        phi_status status = phi_coded_read_f32(&stored->coded, row, count, &buffer, out, err);
        phi_coded_buffer_done(&buffer);
        return status;
    }
    size_t size = phi_dtype_get(stored->dtype)->block_bytes;
    void *raw = phi_alloc(n * size);
    phi_status status = phi_file_read_at(stored->data.file,
                                         stored->data.offset + (uint64_t)row * stored->cols * size,
                                         raw, n * size, err);
    if (!status) {
        phi_dtype_widen(stored->dtype, raw, n, out);
    }
    phi_free(raw);
    return status;
}

static phi_status read_f32(void *user, const phi_export_tensor *t, uint32_t row, uint32_t count,
                           float *out, phi_err *err)
{
    const source *s = user;
    const phi_tensor *tensor = phi_checkpoint_at(s->checkpoint, (size_t)(t - s->tensors));
    void *scratch = phi_alloc(phi_tensor_rows_bytes(tensor, row, count));
    phi_status status =
        phi_checkpoint_read_rows_f32(s->checkpoint, tensor, row, count, scratch, out, err);
    phi_free(scratch);
    return status;
}

static phi_status read_codes(void *user, const phi_export_tensor *t, uint32_t row, uint32_t count,
                             uint8_t *codes, float *scales, float *zeros, phi_err *err)
{
    phi_code_target target = {.bits = t->bits,
                              .group = t->group,
                              .zero_rule = t->zero_rule,
                              .scale_dtype = t->scale_dtype};
    size_t groups = (size_t)count * t->cols / t->group;
    float *values = phi_alloc((size_t)count * t->cols * sizeof *values);
    phi_status status = read_f32(user, t, row, count, values, err);
    for (size_t g = 0; g < groups && !status; g++) {
        float zero = 0;
        if (!phi_group_encode(&target, values + g * t->group, t->group, codes + g * t->group,
                              &scales[g], &zero)) {
            status = phi_fail(err, PHI_E_FORMAT, "tensor \"%s\" has values that are not finite",
                              t->name);
        }
        if (zeros) {
            zeros[g] = zero;
        }
    }
    phi_free(values);
    return status;
}

static void list_tensors(source *s, const kind *how, uint32_t group)
{
    s->count = (uint32_t)phi_checkpoint_count(s->checkpoint);
    s->tensors = phi_alloc_zero(s->count, sizeof *s->tensors);
    for (uint32_t i = 0; i < s->count; i++) {
        const phi_tensor *tensor = phi_checkpoint_at(s->checkpoint, i);
        bool is_vector = tensor->n_dims == 1;
        s->tensors[i] = (phi_export_tensor){.name = tensor->name,
                                            .n_dims = is_vector ? 1 : 2,
                                            .rows = tensor->rows,
                                            .cols = tensor->cols,
                                            .bits = is_vector ? 32 : how->bits,
                                            .group = group ? group : tensor->cols,
                                            .zero_rule = how->zero_rule,
                                            .scale_dtype = PHI_DTYPE_F16};
    }
}

static int write_folder(const char *dir, const char *out, const kind *how, uint32_t group)
{
    phi_err err;
    source s = {.count = 0};
    phi_status status = phi_checkpoint_open(dir, &s.checkpoint, &err);
    if (status) {
        return fail(&err);
    }
    list_tensors(&s, how, group);
    phi_export export = {.description = phi_checkpoint_description(s.checkpoint),
                         .tensors = s.tensors,
                         .count = s.count,
                         .source_dir = dir,
                         .user = &s,
                         .read_codes = read_codes,
                         .read_f32 = read_f32};
    status = phi_openvino_write(&export, out, &err);
    phi_free(s.tensors);
    phi_checkpoint_close(s.checkpoint);
    return status ? fail(&err) : 0;
}

static int write_values(const char *dir, const char *path)
{
    phi_err err;
    phi_openvino *o;
    if (phi_openvino_open(dir, &o, &err)) {
        return fail(&err);
    }
    phi_file_writer *file;
    phi_status status = phi_file_writer_create(path, &file, &err);
    for (size_t i = 0; i < phi_openvino_count(o) && !status; i++) {
        const phi_stored *stored = phi_openvino_at(o, i);
        size_t n = (size_t)stored->rows * stored->cols;
        float *values = phi_alloc(n * sizeof *values);
        printf("%s %u %u\n", stored->name, stored->rows, stored->cols);
        status = stored_rows(stored, 0, stored->rows, values, &err);
        status = status ? status : phi_file_writer_append(file, values, n * sizeof *values, &err);
        phi_free(values);
    }
    if (!status) {
        status = phi_file_writer_commit(file, &err);
    }
    phi_openvino_close(o);
    return status ? fail(&err) : 0;
}

int main(int argc, char **argv)
{
    uint64_t group = 0;
    if (argc == 4 && strcmp(argv[1], "values") == 0) {
        return write_values(argv[2], argv[3]);
    }
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds && (argc == 5 || argc == 6) &&
                       strcmp(argv[1], "write") == 0;
         i++) {
        if (strcmp(kinds[i].name, argv[4]) == 0 &&
            (argc == 5 || phi_str_parse_u64(argv[5], 65536, &group))) {
            return write_folder(argv[2], argv[3], &kinds[i], (uint32_t)group);
        }
    }
    fprintf(stderr, "usage: openvino_folder write DIR OUT KIND [GROUP] | values DIR FILE\n");
    return 2;
}
