#include "engine/formats/openvino_emit.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "config/limits.h"

#define ALIGNMENT 64U
#define DATA_BYTES 256

/* ---- files ---- */

phi_status phi_ov_out_init(phi_ov_out *out, const char *dir, const char *name, phi_err *err)
{
    *out = (phi_ov_out){.xml_path = phi_strfmt("%s/%s.xml", dir, name)};
    phi_buf_init(&out->layers, PHI_LIMIT_OPENVINO_XML_BYTES);
    phi_buf_init(&out->edges, PHI_LIMIT_OPENVINO_XML_BYTES);
    phi_buf_init(&out->info, PHI_LIMIT_OPENVINO_XML_BYTES);
    char *path = phi_strfmt("%s/%s.bin", dir, name);
    phi_status status = phi_file_writer_create(path, &out->bin, err);
    phi_free(path);
    return status;
}

void phi_ov_out_done(phi_ov_out *out)
{
    phi_file_writer_abort(out->bin);
    out->bin = NULL;
    phi_buf_done(&out->layers);
    phi_buf_done(&out->edges);
    phi_buf_done(&out->info);
    phi_free(out->xml_path);
    out->xml_path = NULL;
}

void phi_ov_out_fail(phi_ov_out *out, phi_status status, const phi_err *err)
{
    if (status && !out->failed.code) {
        out->failed = *err;
        out->failed.code = status;
    }
}

static phi_status write_xml(phi_ov_out *out, phi_err *err)
{
    static const char head[] =
        "<?xml version=\"1.0\"?>\n<net name=\"Model\" version=\"11\">\n\t<layers>\n";
    static const char middle[] = "\t</layers>\n\t<edges>\n";
    static const char end[] = "\t</edges>\n\t<rt_info>\n";
    static const char tail[] = "\t</rt_info>\n</net>\n";
    const char *parts[] = {head, phi_buf_text(&out->layers), middle, phi_buf_text(&out->edges),
                           end,  phi_buf_text(&out->info),   tail};
    phi_file_writer *xml;
    phi_status status = phi_file_writer_create(out->xml_path, &xml, err);
    if (status) {
        return status;
    }
    for (size_t i = 0; i < sizeof parts / sizeof *parts && !status; i++) {
        status = phi_file_writer_append(xml, parts[i], strlen(parts[i]), err);
    }
    if (status) {
        phi_file_writer_abort(xml);
        return status;
    }
    return phi_file_writer_commit(xml, err);
}

phi_status phi_ov_out_finish(phi_ov_out *out, phi_err *err)
{
    if (out->failed.code) {
        phi_status code = out->failed.code;
        if (err) {
            *err = out->failed;
        }
        return code;
    }
    if (phi_buf_failed(&out->layers) || phi_buf_failed(&out->edges) || phi_buf_failed(&out->info)) {
        return phi_fail(err, PHI_E_LIMIT, "%s would have more than %u bytes", out->xml_path,
                        PHI_LIMIT_OPENVINO_XML_BYTES);
    }
    phi_file_writer *bin = out->bin;
    out->bin = NULL;
    phi_status status = phi_file_writer_commit(bin, err);
    return status ? status : write_xml(out, err);
}

uint64_t phi_ov_bin_begin(phi_ov_out *out)
{
    static const uint8_t zeros[ALIGNMENT];
    uint64_t rest = phi_file_writer_bytes(out->bin) % ALIGNMENT;
    if (rest) {
        phi_ov_bin_append(out, zeros, (size_t)(ALIGNMENT - rest));
    }
    return phi_file_writer_bytes(out->bin);
}

void phi_ov_bin_append(phi_ov_out *out, const void *data, size_t bytes)
{
    phi_err err;
    if (!out->failed.code) {
        phi_ov_out_fail(out, phi_file_writer_append(out->bin, data, bytes, &err), &err);
    }
}

/* ---- layers ---- */

/* The file's word for a type in a port. */
static const char *precision_of(const char *type)
{
    static const char *const words[][2] = {
        {"f32", "FP32"}, {"f16", "FP16"}, {"i64", "I64"}, {"i32", "I32"}, {"boolean", "BOOL"},
        {"u4", "U4"},    {"i4", "I4"},    {"u8", "U8"},   {"i8", "I8"},   {"string", "STRING"},
    };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcmp(words[i][0], type) == 0) {
            return words[i][1];
        }
    }
    PHI_UNREACHABLE();
}

static void put_port(phi_buf *to, uint32_t id, const phi_ov_ref *ref, const char *names)
{
    (void)phi_buf_printf(to, "\t\t\t\t<port id=\"%u\" precision=\"%s\"", id,
                         precision_of(ref->type));
    if (names) {
        (void)phi_buf_printf(to, " names=\"%s\"", names);
    }
    (void)phi_buf_append_str(to, ref->n_dims ? ">\n" : " />\n");
    for (uint32_t i = 0; i < ref->n_dims; i++) {
        (void)phi_buf_printf(to, "\t\t\t\t\t<dim>%" PRId64 "</dim>\n", ref->dims[i]);
    }
    if (ref->n_dims) {
        (void)phi_buf_append_str(to, "\t\t\t\t</port>\n");
    }
}

void phi_ov_add(phi_ov_out *out, const phi_ov_layer *layer, const phi_ov_ref *inputs,
                size_t n_inputs, phi_ov_ref *outputs, size_t n_outputs)
{
    uint32_t id = out->count++;
    phi_buf *to = &out->layers;
    (void)phi_buf_printf(to, "\t\t<layer id=\"%u\" name=\"%s\" type=\"%s\" version=\"%s\">\n", id,
                         layer->name, layer->op, layer->opset);
    if (layer->data) {
        (void)phi_buf_printf(to, "\t\t\t<data %s />\n", layer->data);
    }
    if (layer->rt_info) {
        (void)phi_buf_printf(to, "\t\t\t<rt_info>\n\t\t\t\t%s\n\t\t\t</rt_info>\n", layer->rt_info);
    }
    if (n_inputs) {
        (void)phi_buf_append_str(to, "\t\t\t<input>\n");
        for (size_t i = 0; i < n_inputs; i++) {
            put_port(to, (uint32_t)i, &inputs[i], NULL);
            (void)phi_buf_printf(&out->edges,
                                 "\t\t<edge from-layer=\"%u\" from-port=\"%u\" to-layer=\"%u\" "
                                 "to-port=\"%zu\" />\n",
                                 inputs[i].layer, inputs[i].port, id, i);
        }
        (void)phi_buf_append_str(to, "\t\t\t</input>\n");
    }
    if (n_outputs) {
        (void)phi_buf_append_str(to, "\t\t\t<output>\n");
        for (size_t i = 0; i < n_outputs; i++) {
            outputs[i].layer = id;
            outputs[i].port = (uint32_t)(n_inputs + i);
            put_port(to, outputs[i].port, &outputs[i], i == 0 ? layer->names : NULL);
        }
        (void)phi_buf_append_str(to, "\t\t\t</output>\n");
    }
    (void)phi_buf_append_str(to, "\t\t</layer>\n");
}

phi_ov_ref phi_ov_shape(const char *type, uint32_t n_dims, int64_t a, int64_t b, int64_t c,
                        int64_t d)
{
    return (phi_ov_ref){.type = type, .n_dims = n_dims, .dims = {a, b, c, d}};
}

phi_ov_ref phi_ov_add_one(phi_ov_out *out, const phi_ov_layer *layer, const phi_ov_ref *inputs,
                          size_t n_inputs, phi_ov_ref shape)
{
    phi_ov_add(out, layer, inputs, n_inputs, &shape, 1);
    return shape;
}

static phi_ov_ref add_one(phi_ov_out *out, const char *op, const char *opset, const char *name,
                          const char *data, const phi_ov_ref *inputs, size_t n_inputs,
                          phi_ov_ref shape)
{
    return phi_ov_add_one(out,
                          &(phi_ov_layer){.op = op, .opset = opset, .name = name, .data = data},
                          inputs, n_inputs, shape);
}

/* ---- constants ---- */

phi_ov_ref phi_ov_constant_at(phi_ov_out *out, const char *name, phi_ov_ref shape, uint64_t offset,
                              uint64_t bytes)
{
    char data[DATA_BYTES];
    char dims[PHI_OV_OUT_DIMS_MAX * 22] = "";
    for (uint32_t i = 0; i < shape.n_dims; i++) {
        size_t at = strlen(dims);
        (void)snprintf(dims + at, sizeof dims - at, "%s%" PRId64, i ? ", " : "", shape.dims[i]);
    }
    (void)snprintf(data, sizeof data,
                   "element_type=\"%s\" shape=\"%s\" offset=\"%" PRIu64 "\" size=\"%" PRIu64 "\"",
                   shape.type, dims, offset, bytes);
    return add_one(out, "Const", "opset1", name, data, NULL, 0, shape);
}

phi_ov_ref phi_ov_constant(phi_ov_out *out, const char *name, phi_ov_ref shape, const void *data,
                           size_t bytes)
{
    uint64_t offset = phi_file_writer_bytes(out->bin);
    phi_ov_bin_append(out, data, bytes);
    return phi_ov_constant_at(out, name, shape, offset, bytes);
}

phi_ov_ref phi_ov_i64(phi_ov_out *out, const char *name, size_t count, const int64_t *values)
{
    return phi_ov_constant(out, name, phi_ov_shape("i64", 1, (int64_t)count, 0, 0, 0), values,
                           count * sizeof *values);
}

phi_ov_ref phi_ov_i64_one(phi_ov_out *out, const char *name, int64_t value)
{
    return phi_ov_i64(out, name, 1, &value);
}

phi_ov_ref phi_ov_i64_scalar(phi_ov_out *out, const char *name, int64_t value)
{
    return phi_ov_constant(out, name, phi_ov_shape("i64", 0, 0, 0, 0, 0), &value, sizeof value);
}

phi_ov_ref phi_ov_f32_one(phi_ov_out *out, const char *name, float value)
{
    return phi_ov_constant(out, name, phi_ov_shape("f32", 1, 1, 0, 0, 0), &value, sizeof value);
}

/* ---- operations ---- */

phi_ov_ref phi_ov_convert(phi_ov_out *out, const char *name, phi_ov_ref x, const char *type)
{
    char data[DATA_BYTES];
    phi_ov_ref shape = x;
    shape.type = type;
    (void)snprintf(data, sizeof data, "destination_type=\"%s\"", type);
    return add_one(out, "Convert", "opset1", name, data, &x, 1, shape);
}

/* The shape of two that are broadcast against each other, aligned at their ends. */
static phi_ov_ref broadcast(phi_ov_ref x, phi_ov_ref y)
{
    phi_ov_ref shape = x.n_dims >= y.n_dims ? x : y;
    phi_ov_ref other = x.n_dims >= y.n_dims ? y : x;
    uint32_t lead = shape.n_dims - other.n_dims;
    for (uint32_t i = 0; i < other.n_dims; i++) {
        int64_t *dim = &shape.dims[lead + i];
        *dim = *dim == 1 || (*dim == -1 && other.dims[i] > 1) ? other.dims[i] : *dim;
    }
    shape.type = x.type;
    return shape;
}

phi_ov_ref phi_ov_binary(phi_ov_out *out, const char *op, const char *name, phi_ov_ref x,
                         phi_ov_ref y)
{
    bool divides = strcmp(op, "Divide") == 0;
    const phi_ov_ref inputs[] = {x, y};
    return add_one(out, op, "opset1", name,
                   divides ? "auto_broadcast=\"numpy\" m_pythondiv=\"true\""
                           : "auto_broadcast=\"numpy\"",
                   inputs, 2, broadcast(x, y));
}

phi_ov_ref phi_ov_compare(phi_ov_out *out, const char *op, const char *name, phi_ov_ref x,
                          phi_ov_ref y)
{
    const phi_ov_ref inputs[] = {x, y};
    phi_ov_ref shape = broadcast(x, y);
    shape.type = "boolean";
    return add_one(out, op, "opset1", name, "auto_broadcast=\"numpy\"", inputs, 2, shape);
}

phi_ov_ref phi_ov_unary(phi_ov_out *out, const char *op, const char *name, phi_ov_ref x)
{
    bool is_swish = strcmp(op, "Swish") == 0;
    return add_one(out, op, is_swish ? "opset4" : "opset1", name, NULL, &x, 1, x);
}

phi_ov_ref phi_ov_select(phi_ov_out *out, const char *name, phi_ov_ref condition, phi_ov_ref yes,
                         phi_ov_ref no)
{
    const phi_ov_ref inputs[] = {condition, yes, no};
    phi_ov_ref shape = broadcast(broadcast(yes, no), condition);
    return add_one(out, "Select", "opset1", name, "auto_broadcast=\"numpy\"", inputs, 3, shape);
}

/* A name for a layer that another one needs beside it. */
static void name_part(char *out, size_t bytes, const char *name, const char *part)
{
    (void)snprintf(out, bytes, "%s/%s", name, part);
}

#define NAME_BYTES 320

phi_ov_ref phi_ov_reshape(phi_ov_out *out, const char *name, phi_ov_ref x, size_t n_target,
                          const int64_t *target, bool special_zero)
{
    char part[NAME_BYTES];
    phi_ov_ref shape = {.type = x.type, .n_dims = (uint32_t)n_target};
    PHI_ASSERT(n_target <= PHI_OV_OUT_DIMS_MAX);
    for (size_t i = 0; i < n_target; i++) {
        shape.dims[i] = special_zero && target[i] == 0 ? x.dims[i] : target[i];
    }
    name_part(part, sizeof part, name, "shape");
    const phi_ov_ref inputs[] = {x, phi_ov_i64(out, part, n_target, target)};
    return add_one(out, "Reshape", "opset1", name,
                   special_zero ? "special_zero=\"true\"" : "special_zero=\"false\"", inputs, 2,
                   shape);
}

phi_ov_ref phi_ov_transpose(phi_ov_out *out, const char *name, phi_ov_ref x, const int64_t *order)
{
    char part[NAME_BYTES];
    phi_ov_ref shape = x;
    for (uint32_t i = 0; i < x.n_dims; i++) {
        shape.dims[i] = x.dims[order[i]];
    }
    name_part(part, sizeof part, name, "order");
    const phi_ov_ref inputs[] = {x, phi_ov_i64(out, part, x.n_dims, order)};
    return add_one(out, "Transpose", "opset1", name, NULL, inputs, 2, shape);
}

phi_ov_ref phi_ov_unsqueeze(phi_ov_out *out, const char *name, phi_ov_ref x, uint32_t axis)
{
    char part[NAME_BYTES];
    phi_ov_ref shape = x;
    PHI_ASSERT(x.n_dims < PHI_OV_OUT_DIMS_MAX);
    for (uint32_t i = x.n_dims; i > axis; i--) {
        shape.dims[i] = shape.dims[i - 1];
    }
    shape.dims[axis] = 1;
    shape.n_dims++;
    name_part(part, sizeof part, name, "axis");
    const phi_ov_ref inputs[] = {x, phi_ov_i64_scalar(out, part, axis)};
    return add_one(out, "Unsqueeze", "opset1", name, NULL, inputs, 2, shape);
}

phi_ov_ref phi_ov_concat(phi_ov_out *out, const char *name, size_t count, const phi_ov_ref *parts,
                         int axis)
{
    char data[DATA_BYTES];
    phi_ov_ref shape = parts[0];
    int64_t *dim = &shape.dims[axis < 0 ? (int)shape.n_dims + axis : axis];
    for (size_t i = 1; i < count; i++) {
        int64_t more = parts[i].dims[dim - shape.dims];
        *dim = *dim < 0 || more < 0 ? -1 : *dim + more;
    }
    (void)snprintf(data, sizeof data, "axis=\"%d\"", axis);
    return add_one(out, "Concat", "opset1", name, data, parts, count, shape);
}

phi_ov_ref phi_ov_slice_last(phi_ov_out *out, const char *name, phi_ov_ref x, int64_t start,
                             int64_t stop)
{
    char part[NAME_BYTES];
    phi_ov_ref shape = x;
    phi_ov_ref inputs[5] = {x};
    const int64_t values[] = {start, stop, 1, (int64_t)x.n_dims - 1};
    static const char *const names[] = {"start", "stop", "step", "axis"};
    shape.dims[x.n_dims - 1] = stop - start;
    for (size_t i = 0; i < 4; i++) {
        name_part(part, sizeof part, name, names[i]);
        inputs[1 + i] = phi_ov_i64_one(out, part, values[i]);
    }
    return add_one(out, "Slice", "opset8", name, NULL, inputs, 5, shape);
}

void phi_ov_split_last(phi_ov_out *out, const char *name, phi_ov_ref x, size_t count,
                       const int64_t *lengths, phi_ov_ref *parts)
{
    char part[NAME_BYTES];
    name_part(part, sizeof part, name, "axis");
    phi_ov_ref axis = phi_ov_i64_scalar(out, part, -1);
    name_part(part, sizeof part, name, "lengths");
    const phi_ov_ref inputs[] = {x, axis, phi_ov_i64(out, part, count, lengths)};
    for (size_t i = 0; i < count; i++) {
        parts[i] = x;
        parts[i].dims[x.n_dims - 1] = lengths[i];
    }
    phi_ov_add(out, &(phi_ov_layer){.op = "VariadicSplit", .opset = "opset1", .name = name}, inputs,
               3, parts, count);
}

phi_ov_ref phi_ov_matmul(phi_ov_out *out, const char *name, phi_ov_ref x, phi_ov_ref y,
                         bool transpose_y)
{
    const phi_ov_ref inputs[] = {x, y};
    phi_ov_ref shape = x.n_dims >= y.n_dims ? x : y;
    shape.type = x.type;
    shape.dims[shape.n_dims - 2] = x.dims[x.n_dims - 2];
    shape.dims[shape.n_dims - 1] = y.dims[y.n_dims - (transpose_y ? 2 : 1)];
    return add_one(out, "MatMul", "opset1", name,
                   transpose_y ? "transpose_a=\"false\" transpose_b=\"true\""
                               : "transpose_a=\"false\" transpose_b=\"false\"",
                   inputs, 2, shape);
}

phi_ov_ref phi_ov_gather(phi_ov_out *out, const char *name, phi_ov_ref from, phi_ov_ref index,
                         int64_t axis)
{
    char part[NAME_BYTES];
    phi_ov_ref shape = {.type = from.type};
    for (uint32_t i = 0; i < from.n_dims; i++) {
        for (uint32_t k = 0; i == axis && k < index.n_dims; k++) {
            shape.dims[shape.n_dims++] = index.dims[k];
        }
        if (i != axis) {
            shape.dims[shape.n_dims++] = from.dims[i];
        }
    }
    name_part(part, sizeof part, name, "axis");
    const phi_ov_ref inputs[] = {from, index, phi_ov_i64_scalar(out, part, axis)};
    return add_one(out, "Gather", "opset8", name, "batch_dims=\"0\"", inputs, 3, shape);
}

phi_ov_ref phi_ov_shape_of(phi_ov_out *out, const char *name, phi_ov_ref x)
{
    return add_one(out, "ShapeOf", "opset3", name, "output_type=\"i64\"", &x, 1,
                   phi_ov_shape("i64", 1, x.n_dims, 0, 0, 0));
}

phi_ov_ref phi_ov_range(phi_ov_out *out, const char *name, phi_ov_ref from, phi_ov_ref to)
{
    char part[NAME_BYTES];
    name_part(part, sizeof part, name, "step");
    const phi_ov_ref inputs[] = {from, to, phi_ov_i64_scalar(out, part, 1)};
    return add_one(out, "Range", "opset4", name, "output_type=\"i64\"", inputs, 3,
                   phi_ov_shape("i64", 1, -1, 0, 0, 0));
}
