/*
 * Constants of an OpenVINO graph as matrices. A compressed weight is (nncf's layout)
 *   Const codes [N, K / g, g] -> Convert -> [Subtract(Convert(Const zeros [N, K / g, 1]))]
 *     -> Multiply(Const scales [N, K / g, 1]) -> Reshape [N, K]
 * or, with one group a row, the same with [N, K] and [N, 1] and without Reshape; Converts may stand
 * anywhere. Zero points are of the codes' type or, which OpenVINO's CPU plugin takes for the same
 * pattern, of the scales'. Experts' matrices are [E, N, K], and have a dimension more in all of
 * this.
 */
#include "engine/formats/openvino_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/str.h"

/* Layers of one chain, as they are found from the matrix product back. */
typedef struct chain {
    phi_ov_value codes;
    phi_ov_value scales;
    phi_ov_value zeros; /* NONE: without */
} chain;

static const phi_ov_value none = {.node = PHI_OV_NONE};

static bool is_float_type(phi_ov_type type, phi_dtype *out)
{
    *out = type == PHI_OV_F16    ? PHI_DTYPE_F16
           : type == PHI_OV_BF16 ? PHI_DTYPE_BF16
                                 : PHI_DTYPE_F32;
    return type == PHI_OV_F16 || type == PHI_OV_BF16 || type == PHI_OV_F32;
}

static bool is_code_type(phi_ov_type type)
{
    return type == PHI_OV_U4 || type == PHI_OV_I4 || type == PHI_OV_U8 || type == PHI_OV_I8 ||
           type == PHI_OV_F4E2M1;
}

static bool is_const_of(const phi_ov_graph *graph, phi_ov_value value, bool codes)
{
    phi_dtype dtype;
    if (!phi_ov_is(graph, value, PHI_OV_CONST)) {
        return false;
    }
    phi_ov_type type = phi_ov_node_of(graph, value)->type;
    return codes ? is_code_type(type) : is_float_type(type, &dtype) || type == PHI_OV_F8E8M0;
}

/* ---- the chain ---- */

/* Finds codes, scales and zero points behind a Multiply; its inputs come in either order. */
static bool match_chain(const phi_ov_graph *graph, phi_ov_value multiply, chain *out)
{
    for (uint32_t side = 0; side < 2; side++) {
        phi_ov_value left = phi_ov_unconverted(graph, phi_ov_input(graph, multiply, side));
        out->scales = phi_ov_unconverted(graph, phi_ov_input(graph, multiply, 1 - side));
        out->zeros = none;
        bool subtracts = phi_ov_is(graph, left, PHI_OV_SUBTRACT);
        if (subtracts) {
            out->zeros = phi_ov_unconverted(graph, phi_ov_input(graph, left, 1));
            left = phi_ov_unconverted(graph, phi_ov_input(graph, left, 0));
        }
        out->codes = left;
        if (is_const_of(graph, left, true) && is_const_of(graph, out->scales, false)) {
            return !subtracts || phi_ov_is(graph, out->zeros, PHI_OV_CONST);
        }
    }
    return false;
}

static phi_array array_of(const phi_ov_graph *graph, const phi_ov_node *node)
{
    return (phi_array){.file = &graph->bin, .offset = node->offset, .bytes = node->bytes};
}

/* The dims of scales and zero points: those of the codes with a last one of 1. */
static bool fits_groups(const phi_ov_node *codes, const phi_ov_node *params)
{
    if (params->n_dims != codes->n_dims || params->dims[params->n_dims - 1] != 1) {
        return false;
    }
    return memcmp(params->dims, codes->dims, (codes->n_dims - 1) * sizeof *codes->dims) == 0;
}

static phi_status read_zeros(const phi_ov_graph *graph, const chain *found, phi_coded *coded,
                             phi_err *err)
{
    const phi_ov_node *codes = phi_ov_node_of(graph, found->codes);
    const phi_ov_node *scales = phi_ov_node_of(graph, found->scales);
    const phi_ov_node *zeros = phi_ov_node_of(graph, found->zeros);
    const bool is_code = zeros->type == codes->type;
    uint8_t byte = 0;
    if (!is_code && zeros->type != scales->type) {
        return phi_ov_fail(graph, found->zeros, PHI_E_UNSUPPORTED, err,
                           "holds zero points of type %s; %s, the codes' own, or %s, the scales', "
                           "is right",
                           phi_ov_type_name(zeros->type), phi_ov_type_name(codes->type),
                           phi_ov_type_name(scales->type));
    }
    if (!is_code || phi_ov_elements(zeros) != 1) {
        coded->zeros_order = is_code ? PHI_ZEROS_DENSE : PHI_ZEROS_FLOAT;
        coded->zeros = array_of(graph, zeros);
        return fits_groups(codes, zeros)
                   ? PHI_OK
                   : phi_ov_fail(graph, found->zeros, PHI_E_FORMAT, err,
                                 "holds zero points in a shape that is not that of the groups");
    }
    phi_status status = phi_file_read_at(&graph->bin, zeros->offset, &byte, 1, err);
    byte = coded->bits == 4 ? byte & 15U : byte;
    coded->zero = byte;
    if (coded->is_signed && byte >> (coded->bits - 1)) {
        coded->zero -= 1 << coded->bits;
    }
    return status;
}

static phi_status read_scales(const phi_ov_graph *graph, const chain *found, phi_coded *coded,
                              phi_err *err)
{
    const phi_ov_node *codes = phi_ov_node_of(graph, found->codes);
    const phi_ov_node *scales = phi_ov_node_of(graph, found->scales);
    bool is_float = is_float_type(scales->type, &coded->scale_dtype);
    coded->is_mx = codes->type == PHI_OV_F4E2M1;
    coded->scales = array_of(graph, scales);
    if (is_float == coded->is_mx) {
        return phi_ov_fail(graph, found->scales, PHI_E_UNSUPPORTED, err,
                           "scales %s codes by %s numbers, which is not supported",
                           phi_ov_type_name(codes->type), phi_ov_type_name(scales->type));
    }
    if (!fits_groups(codes, scales)) {
        return phi_ov_fail(graph, found->scales, PHI_E_FORMAT, err,
                           "holds scales in a shape that is not that of the groups");
    }
    return PHI_OK;
}

/* [rows, cols], or [stacked, rows of each, cols] */
typedef struct shape {
    uint32_t n_dims;
    int64_t dims[3];
} shape;

static shape shape_of(const phi_description *d, phi_part part, uint32_t rows, uint32_t cols)
{
    uint32_t stacked = phi_part_count_stacked(part, d, rows);
    return stacked > 1 ? (shape){.n_dims = 3, .dims = {stacked, rows / stacked, cols}}
                       : (shape){.n_dims = 2, .dims = {rows, cols}};
}

/* Whether a constant has it; columns may be in groups. */
static bool fits_shape(const phi_ov_node *node, const shape *right, bool in_groups)
{
    uint32_t last = right->n_dims - 1;
    uint64_t cols = 1;
    if (node->n_dims != right->n_dims && (!in_groups || node->n_dims != right->n_dims + 1)) {
        return false;
    }
    for (uint32_t i = 0; i < last; i++) {
        if (node->dims[i] != (uint64_t)right->dims[i]) {
            return false;
        }
    }
    /* The size of all was checked: this cannot overflow unless a dimension is 0. */
    for (uint32_t i = last; i < node->n_dims; i++) {
        if (!phi_checked_mul(cols, node->dims[i], &cols)) {
            return false;
        }
    }
    return cols == (uint64_t)right->dims[last];
}

static phi_status fail_shape(const phi_openvino *o, phi_ov_value value, const char *what,
                             const shape *right, phi_err *err)
{
    char dims[80];
    const int64_t *d = right->dims;
    (void)snprintf(dims, sizeof dims,
                   right->n_dims == 3 ? "[%" PRId64 ", %" PRId64 ", %" PRId64 "]"
                                      : "[%" PRId64 ", %" PRId64 "]",
                   d[0], d[1], d[2]);
    return phi_ov_fail(&o->graph, value, PHI_E_FORMAT, err, "%s the %s that config.json asks for",
                       what, dims);
}

static phi_status read_coded(phi_openvino *o, const chain *found, const shape *right,
                             phi_stored *out, phi_err *err)
{
    const phi_ov_graph *graph = &o->graph;
    const phi_ov_node *codes = phi_ov_node_of(graph, found->codes);
    phi_coded *coded = &out->coded;
    if (!fits_shape(codes, right, true)) {
        return fail_shape(o, found->codes, "has another shape than", right, err);
    }
    out->kind = PHI_STORED_CODED;
    *coded = (phi_coded){.rows = out->rows,
                         .cols = out->cols,
                         .bits = phi_ov_type_bits(codes->type),
                         .group = (uint32_t)codes->dims[codes->n_dims - 1],
                         .order = PHI_CODES_BY_ROW,
                         .is_signed = codes->type == PHI_OV_I4 || codes->type == PHI_OV_I8,
                         .zeros_order = PHI_ZEROS_ONE,
                         .codes = array_of(graph, codes)};
    phi_status status = read_scales(graph, found, coded, err);
    if (!status && found->zeros.node != PHI_OV_NONE) {
        status = read_zeros(graph, found, coded, err);
    }
    if (!status && phi_coded_settle(coded, err)) {
        status = phi_fail_context(err, PHI_E_FORMAT, "%s: constant \"%.80s\"", graph->label,
                                  codes->name);
    }
    return status;
}

/* ---- names ---- */

/* Whether a name is the right one, or what OpenVINO calls it where it rounded fp32 to fp16. */
static bool is_same_name(const char *name, const char *right)
{
    return phi_str_starts(name, right) &&
           (name[strlen(right)] == '\0' || strcmp(name + strlen(right), "_compressed") == 0);
}

/* optimum-intel calls a constant after the parameter: "self.NAME.weight", or
 * "self.NAME._openvino_orig_weight" where the exporter replaced it; so it does with biases. Such a
 * name must be the right one; other names say nothing. */
static bool is_named(const char *name, const char *right)
{
    static const char replaced[] = "_openvino_orig_";
    const char *last = strrchr(right, '.');
    size_t stem = last ? (size_t)(last + 1 - right) : 0;
    return is_same_name(name, right) ||
           (stem && strncmp(name, right, stem) == 0 && phi_str_starts(name + stem, replaced) &&
            is_same_name(name + stem + strlen(replaced), right + stem));
}

static phi_status check_name(const phi_openvino *o, phi_ov_value constant, const phi_ov_role *role,
                             phi_err *err)
{
    const char *name = phi_ov_node_of(&o->graph, constant)->name;
    char right[PHI_LIMIT_TENSOR_NAME_BYTES];
    phi_ov_constant_name(o->description.arch, role, right, sizeof right);
    if (!phi_str_starts(name, "self.") || is_named(name + strlen("self."), right)) {
        return PHI_OK;
    }
    /* A tied head is the embedding's constant, under its name. */
    if (role->part == PHI_PART_OUTPUT &&
        is_named(name + strlen("self."), "model.embed_tokens.weight")) {
        return PHI_OK;
    }
    return phi_ov_fail(&o->graph, constant, PHI_E_UNSUPPORTED, err, "stands where %s belongs",
                       right);
}

/* ---- taking ---- */

phi_ov_found *phi_ov_found_at(phi_openvino *o, const phi_ov_role *role)
{
    uint32_t place = 0;
    for (int part = PHI_PART_ATTN_NORM; part < (int)role->part; part++) {
        bool is_qkv = part == PHI_PART_ATTN_QKV || part == PHI_PART_ATTN_QKV_BIAS;
        place += is_qkv ? 3 : part == PHI_PART_FFN_UP ? 2 : 1;
    }
    if (role->part == PHI_PART_TOKEN_EMBD) {
        return &o->found[0];
    }
    uint32_t layer = phi_part_in_layer(role->part) ? role->layer : o->description.n_layer - 1;
    size_t at = PHI_OV_PLACES_BEFORE + (size_t)layer * PHI_OV_PLACES_PER_LAYER + place;
    PHI_ASSERT(at + role->piece < o->found_count);
    return &o->found[at + role->piece];
}

static phi_ov_found *begin(phi_openvino *o, const phi_ov_role *role, uint32_t n_dims, uint32_t rows,
                           uint32_t cols)
{
    phi_ov_found *found = phi_ov_found_at(o, role);
    PHI_ASSERT(!found->present);
    phi_ov_role_name(o->description.arch, role, found->name, sizeof found->name);
    found->present = true;
    found->stored = (phi_stored){.name = found->name, .n_dims = n_dims, .rows = rows, .cols = cols};
    return found;
}

/* The inner size of every matrix of the model. */
static uint32_t cols_of(const phi_description *d, phi_part part)
{
    uint32_t rows[PHI_PART_PIECES_MAX];
    uint32_t cols;
    (void)phi_part_shape(part, d, rows, &cols);
    return cols;
}

static phi_status take_plain(phi_openvino *o, phi_ov_value constant, const shape *right,
                             phi_stored *stored, phi_err *err)
{
    const phi_ov_node *node = phi_ov_node_of(&o->graph, constant);
    if (!is_float_type(node->type, &stored->dtype)) {
        return phi_ov_fail(&o->graph, constant, PHI_E_UNSUPPORTED, err,
                           "holds a matrix of type %s without scales",
                           phi_ov_type_name(node->type));
    }
    if (!fits_shape(node, right, false)) {
        return fail_shape(o, constant, "has another shape than", right, err);
    }
    stored->kind = PHI_STORED_ROWS;
    stored->data = array_of(&o->graph, node);
    return PHI_OK;
}

phi_status phi_ov_take_matrix(phi_openvino *o, phi_ov_value value, const phi_ov_role *role,
                              uint32_t rows, phi_ov_value *out_constant, phi_err *err)
{
    const phi_ov_graph *graph = &o->graph;
    uint32_t cols = cols_of(&o->description, role->part);
    const shape right = shape_of(&o->description, role->part, rows, cols);
    phi_ov_found *found = begin(o, role, 2, rows, cols);
    phi_ov_value at = phi_ov_unconverted(graph, value);
    phi_status status;
    chain c = {.codes = at};
    if (phi_ov_is(graph, at, PHI_OV_CONST)) {
        status = take_plain(o, at, &right, &found->stored, err);
    } else {
        if (phi_ov_is(graph, at, PHI_OV_RESHAPE)) {
            if (!phi_ov_lists(graph, phi_ov_input(graph, at, 1), right.dims, right.n_dims)) {
                return fail_shape(o, at, "does not reshape to", &right, err);
            }
            at = phi_ov_unconverted(graph, phi_ov_input(graph, at, 0));
        }
        if (!phi_ov_is(graph, at, PHI_OV_MULTIPLY) || !match_chain(graph, at, &c)) {
            return phi_ov_fail(graph, at, PHI_E_UNSUPPORTED, err,
                               "stands where the constant of %s belongs, or its codes times "
                               "scales",
                               found->name);
        }
        status = read_coded(o, &c, &right, &found->stored, err);
    }
    if (out_constant) {
        *out_constant = c.codes;
    }
    return status ? status : check_name(o, c.codes, role, err);
}

phi_status phi_ov_take_vector(phi_openvino *o, phi_ov_value value, const phi_ov_role *role,
                              uint32_t count, phi_err *err)
{
    phi_ov_found *found = begin(o, role, 1, 1, count);
    phi_stored *stored = &found->stored;
    bool is_bias = phi_str_ends(found->name, ".bias");
    stored->kind = PHI_STORED_ROWS;
    stored->dtype = PHI_DTYPE_F32;
    stored->data = (phi_array){.file = is_bias ? &o->zeros : &o->ones,
                               .bytes = (uint64_t)count * sizeof(float)};
    if (value.node == PHI_OV_NONE) {
        return PHI_OK;
    }
    phi_ov_value constant = phi_ov_unconverted(&o->graph, value);
    const phi_ov_node *node =
        phi_ov_is(&o->graph, constant, PHI_OV_CONST) ? phi_ov_node_of(&o->graph, constant) : NULL;
    if (!node || !is_float_type(node->type, &stored->dtype) || node->n_dims == 0 ||
        node->dims[node->n_dims - 1] != count || phi_ov_elements(node) != count) {
        return phi_ov_fail(&o->graph, constant, PHI_E_FORMAT, err,
                           "stands where the %u numbers of %s belong", count, stored->name);
    }
    stored->data = array_of(&o->graph, node);
    return check_name(o, constant, role, err);
}
