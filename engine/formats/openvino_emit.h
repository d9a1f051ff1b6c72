/*
 * Purpose: writing an OpenVINO graph layer by layer: openvino_model.xml or another of that kind,
 * and the .bin file with its constants. Owns:    a phi_ov_out owns its buffers and the open .bin
 * file, from init to finish or done. Threads: one. Errors:  the first failure is kept, after which
 * nothing is written; finish reports it. Limits:  PHI_LIMIT_OPENVINO_XML_BYTES.
 *
 * Shapes and types of outputs go into the file too, as OpenVINO's own serializer writes them, so
 * what these functions return knows its shape. A dimension that only a run knows is -1.
 */
#ifndef PHI_ENGINE_FORMATS_OPENVINO_EMIT_H
#define PHI_ENGINE_FORMATS_OPENVINO_EMIT_H

#include "base/buf.h"
#include "base/file.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PHI_OV_OUT_DIMS_MAX 5U
#define PHI_OV_OUT_INPUTS_MAX 24U

typedef struct phi_ov_ref {
    uint32_t layer;
    uint32_t port;
    const char *type; /* "f32", "i64", "boolean" */
    uint32_t n_dims;
    int64_t dims[PHI_OV_OUT_DIMS_MAX];
} phi_ov_ref;

typedef struct phi_ov_out {
    char *xml_path;
    phi_buf layers;
    phi_buf edges;
    phi_buf info; /* what goes into the graph's rt_info */
    phi_file_writer *bin;
    uint32_t count;
    phi_err failed;
} phi_ov_out;

/* Begins NAME.xml and NAME.bin in `dir`. */
phi_status phi_ov_out_init(phi_ov_out *out, const char *dir, const char *name,
                           phi_err *err) PHI_MUST_CHECK;
/* Makes both files appear; the .bin file first. */
phi_status phi_ov_out_finish(phi_ov_out *out, phi_err *err) PHI_MUST_CHECK;
/* Removes what is not finished; accepts zeros and what was finished. */
void phi_ov_out_done(phi_ov_out *out);
/* Keeps the first failure. */
void phi_ov_out_fail(phi_ov_out *out, phi_status status, const phi_err *err);

/* What a layer is. `data` are attributes as XML, or NULL; `names` its first output's tensor names,
 * or NULL. */
typedef struct phi_ov_layer {
    const char *op;
    const char *opset;
    const char *name;
    const char *data;
    const char *names;
    const char *rt_info;
} phi_ov_layer;

/* Adds a layer with these inputs and one output for each of `outputs`, whose types and dims are
 * given and whose places are filled in. */
void phi_ov_add(phi_ov_out *out, const phi_ov_layer *layer, const phi_ov_ref *inputs,
                size_t n_inputs, phi_ov_ref *outputs, size_t n_outputs);
/* The same with one output, of this type and these dims. */
phi_ov_ref phi_ov_add_one(phi_ov_out *out, const phi_ov_layer *layer, const phi_ov_ref *inputs,
                          size_t n_inputs, phi_ov_ref shape);
/* A shape. */
phi_ov_ref phi_ov_shape(const char *type, uint32_t n_dims, int64_t a, int64_t b, int64_t c,
                        int64_t d);

/* Constants whose bytes are all here ... */
phi_ov_ref phi_ov_constant(phi_ov_out *out, const char *name, phi_ov_ref shape, const void *data,
                           size_t bytes);
phi_ov_ref phi_ov_i64(phi_ov_out *out, const char *name, size_t count, const int64_t *values);
phi_ov_ref phi_ov_i64_one(phi_ov_out *out, const char *name, int64_t value);
phi_ov_ref phi_ov_i64_scalar(phi_ov_out *out, const char *name, int64_t value);
phi_ov_ref phi_ov_f32_one(phi_ov_out *out, const char *name, float value);
/* ... and those that follow piece by piece: align, append all of it, then name it. */
uint64_t phi_ov_bin_begin(phi_ov_out *out);
void phi_ov_bin_append(phi_ov_out *out, const void *data, size_t bytes);
phi_ov_ref phi_ov_constant_at(phi_ov_out *out, const char *name, phi_ov_ref shape, uint64_t offset,
                              uint64_t bytes);

/* Operations. */
phi_ov_ref phi_ov_convert(phi_ov_out *out, const char *name, phi_ov_ref x, const char *type);
/* Add, Multiply and so on; the result's type is x's. */
phi_ov_ref phi_ov_binary(phi_ov_out *out, const char *op, const char *name, phi_ov_ref x,
                         phi_ov_ref y);
/* Greater and LessEqual. */
phi_ov_ref phi_ov_compare(phi_ov_out *out, const char *op, const char *name, phi_ov_ref x,
                          phi_ov_ref y);
/* Abs, Sqrt, Cos, Sin, Swish: one input, the same shape. */
phi_ov_ref phi_ov_unary(phi_ov_out *out, const char *op, const char *name, phi_ov_ref x);
phi_ov_ref phi_ov_select(phi_ov_out *out, const char *name, phi_ov_ref condition, phi_ov_ref yes,
                         phi_ov_ref no);
/* `target` as Reshape takes it, zeros keep; `dims` the shape that comes of it. */
phi_ov_ref phi_ov_reshape(phi_ov_out *out, const char *name, phi_ov_ref x, size_t n_target,
                          const int64_t *target, bool special_zero);
phi_ov_ref phi_ov_transpose(phi_ov_out *out, const char *name, phi_ov_ref x, const int64_t *order);
phi_ov_ref phi_ov_unsqueeze(phi_ov_out *out, const char *name, phi_ov_ref x, uint32_t axis);
phi_ov_ref phi_ov_concat(phi_ov_out *out, const char *name, size_t count, const phi_ov_ref *parts,
                         int axis);
/* x[..., start : stop] */
phi_ov_ref phi_ov_slice_last(phi_ov_out *out, const char *name, phi_ov_ref x, int64_t start,
                             int64_t stop);
/* x, cut along its last dimension. */
void phi_ov_split_last(phi_ov_out *out, const char *name, phi_ov_ref x, size_t count,
                       const int64_t *lengths, phi_ov_ref *parts);
phi_ov_ref phi_ov_matmul(phi_ov_out *out, const char *name, phi_ov_ref x, phi_ov_ref y,
                         bool transpose_y);
phi_ov_ref phi_ov_gather(phi_ov_out *out, const char *name, phi_ov_ref from, phi_ov_ref index,
                         int64_t axis);
phi_ov_ref phi_ov_shape_of(phi_ov_out *out, const char *name, phi_ov_ref x);
phi_ov_ref phi_ov_range(phi_ov_out *out, const char *name, phi_ov_ref from, phi_ov_ref to);

#endif
