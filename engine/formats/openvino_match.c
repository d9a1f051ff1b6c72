/* What values of the graph are, whatever they are for: numbers, parts of others, products with
 * weights, fused or apart. */
#include "engine/formats/openvino_internal.h"

#include <math.h>

/* Constants are rounded to fp16 in some exports. */
#define CONSTANT_ERROR_MAX 1e-3

static const phi_ov_value none = {.node = PHI_OV_NONE};

#define REFUSE(value, ...) phi_ov_fail(&o->graph, (value), PHI_E_UNSUPPORTED, err, __VA_ARGS__)

/* ---- constants ---- */

bool phi_ov_is_number(const phi_ov_graph *graph, phi_ov_value value, double right)
{
    float found;
    return phi_ov_float(graph, value, &found) &&
           fabs((double)found - right) <= CONSTANT_ERROR_MAX * fabs(right);
}

bool phi_ov_lists(const phi_ov_graph *graph, phi_ov_value value, const int64_t *right, size_t count)
{
    phi_ov_ints ints;
    if (!phi_ov_integers(graph, value, &ints) || ints.count != count) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (right[i] != PHI_OV_UNKNOWN && ints.values[i] != right[i]) {
            return false;
        }
    }
    return true;
}

bool phi_ov_match_constant(const phi_ov_graph *graph, phi_ov_value value, phi_ov_op op,
                           phi_ov_value *out_other, phi_ov_value *out_constant)
{
    for (uint32_t side = 0; side < 2 && phi_ov_is(graph, value, op); side++) {
        phi_ov_value other = phi_ov_unconverted(graph, phi_ov_input(graph, value, side));
        phi_ov_value constant = phi_ov_unconverted(graph, phi_ov_input(graph, value, 1 - side));
        if (phi_ov_is(graph, constant, PHI_OV_CONST) && other.node != PHI_OV_NONE) {
            *out_other = other;
            *out_constant = constant;
            return true;
        }
    }
    return false;
}

/* ---- parts of a value ---- */

bool phi_ov_is_axis(const phi_ov_graph *graph, phi_ov_value value, int64_t axis)
{
    int64_t found;
    return phi_ov_integer(graph, value, &found) && (found == axis || found == -1);
}

static bool match_slice(const phi_ov_graph *graph, phi_ov_value value, int64_t last, int64_t axis,
                        int64_t *start, int64_t *stop)
{
    int64_t step;
    if (!phi_ov_integer(graph, phi_ov_input(graph, value, 1), start) ||
        !phi_ov_integer(graph, phi_ov_input(graph, value, 2), stop) ||
        !phi_ov_integer(graph, phi_ov_input(graph, value, 3), &step) || step != 1 ||
        !phi_ov_is_axis(graph, phi_ov_input(graph, value, 4), axis)) {
        return false;
    }
    *start = *start < 0 && *start >= -last ? *start + last : *start;
    *stop = *stop < 0 && *stop >= -last ? *stop + last : *stop;
    *stop = *stop > last ? last : *stop;
    return *start >= 0 && *start < *stop;
}

static bool match_split(const phi_ov_graph *graph, phi_ov_value value, int64_t last, int64_t axis,
                        int64_t *start, int64_t *stop)
{
    const phi_ov_node *node = phi_ov_node_of(graph, value);
    phi_ov_ints lengths;
    if (!phi_ov_is_axis(graph, phi_ov_input(graph, value, 1), axis)) {
        return false;
    }
    if (node->op == PHI_OV_SPLIT) {
        if (node->n_splits == 0 || last % node->n_splits != 0) {
            return false;
        }
        *start = last / node->n_splits * value.output;
        *stop = *start + last / node->n_splits;
        return true;
    }
    if (!phi_ov_integers(graph, phi_ov_input(graph, value, 2), &lengths) ||
        value.output >= lengths.count) {
        return false;
    }
    int64_t rest = last;
    for (size_t i = 0; i < lengths.count; i++) {
        int64_t length = lengths.values[i];
        if (length < -1 || length > last) {
            return false;
        }
        rest -= length == -1 ? 0 : length;
    }
    int64_t at = 0;
    for (size_t i = 0; i <= value.output; i++) {
        int64_t length = lengths.values[i] == -1 ? rest : lengths.values[i];
        *start = at;
        *stop = at += length;
    }
    return *start >= 0 && *start < *stop && *stop <= last;
}

bool phi_ov_match_part(const phi_ov_graph *graph, phi_ov_value value, int64_t last, int64_t axis,
                       phi_ov_value *out_source, int64_t *out_start, int64_t *out_stop)
{
    *out_source = phi_ov_input(graph, value, 0);
    if (phi_ov_is(graph, value, PHI_OV_SLICE)) {
        return match_slice(graph, value, last, axis, out_start, out_stop);
    }
    if (phi_ov_is(graph, value, PHI_OV_VARIADIC_SPLIT) || phi_ov_is(graph, value, PHI_OV_SPLIT)) {
        return match_split(graph, value, last, axis, out_start, out_stop);
    }
    *out_source = value;
    *out_start = 0;
    *out_stop = last;
    return true;
}

/* ---- products ---- */

phi_ov_value phi_ov_product_of(const phi_ov_graph *graph, phi_ov_value value,
                               phi_ov_value *out_added)
{
    phi_ov_value product = none;
    value = phi_ov_unconverted(graph, value);
    *out_added = none;
    if (phi_ov_match_constant(graph, value, PHI_OV_ADD, &product, out_added) &&
        phi_ov_is(graph, product, PHI_OV_MATMUL)) {
        return product;
    }
    *out_added = none;
    return value;
}

bool phi_ov_is_product(const phi_ov_graph *graph, phi_ov_value value)
{
    phi_ov_value added = none;
    return phi_ov_is(graph, phi_ov_product_of(graph, value, &added), PHI_OV_MATMUL);
}

phi_status phi_ov_match_linear(phi_openvino *o, phi_ov_value value, const phi_ov_role *role,
                               uint32_t rows, phi_ov_value *out_x, phi_err *err)
{
    const phi_ov_graph *graph = &o->graph;
    phi_ov_role bias = *role;
    bias.part = phi_part_bias(role->part);
    value = phi_ov_unconverted(graph, value);
    if (bias.part != PHI_PART_COUNT && phi_part_is_of(bias.part, &o->description)) {
        phi_ov_value added = none;
        value = phi_ov_product_of(graph, value, &added);
        phi_status status = phi_ov_take_vector(o, added, &bias, rows, err);
        if (status) {
            return status;
        }
    }
    if (!phi_ov_is(graph, value, PHI_OV_MATMUL)) {
        char name[PHI_LIMIT_TENSOR_NAME_BYTES];
        phi_ov_role_name(o->description.arch, role, name, sizeof name);
        return REFUSE(value, "stands where the product with %s belongs", name);
    }
    const phi_ov_node *node = phi_ov_node_of(graph, value);
    if (node->transpose_a || !node->transpose_b) {
        return REFUSE(value, "multiplies by a weight that is not [outputs, inputs]");
    }
    *out_x = phi_ov_unconverted(graph, phi_ov_input(graph, value, 0));
    return phi_ov_take_matrix(o, phi_ov_input(graph, value, 1), role, rows, NULL, err);
}

phi_status phi_ov_match_outputs(phi_openvino *o, const phi_ov_outputs *all, phi_ov_value *out_x,
                                phi_err *err)
{
    const phi_ov_graph *graph = &o->graph;
    phi_ov_role role = {.part = all->part, .layer = all->layer};
    uint32_t total = 0;
    uint32_t start = 0;
    phi_ov_value fused = none;
    for (uint32_t i = 0; i < all->count; i++) {
        total += all->rows[i];
    }
    for (uint32_t i = 0; i < all->count; i++, start += all->rows[i - 1]) {
        phi_ov_value value = phi_ov_unconverted(graph, all->values[i]);
        phi_ov_value source = none;
        phi_ov_value x = none;
        int64_t begin;
        int64_t end;
        if (phi_ov_is_product(graph, value) && fused.node == PHI_OV_NONE) {
            role.piece = i;
            role.in_pieces = true;
            phi_status status = phi_ov_match_linear(o, value, &role, all->rows[i], &x, err);
            if (status) {
                return status;
            }
            if (i > 0 && !phi_ov_same(x, *out_x)) {
                return REFUSE(value, "multiplies something else than its neighbours do");
            }
            *out_x = x;
            continue;
        }
        if (!phi_ov_match_part(graph, value, total, 2, &source, &begin, &end) || begin != start ||
            end != (int64_t)start + all->rows[i] || role.in_pieces ||
            (i > 0 && !phi_ov_same(source, fused))) {
            return REFUSE(value, "is not elements %u to %u of the product of fused weights", start,
                          start + all->rows[i]);
        }
        fused = source;
    }
    if (role.in_pieces) {
        return PHI_OK;
    }
    if (phi_ov_is_apart(o->description.arch, all->part)) {
        return REFUSE(fused, "is one product, where %s models have %u",
                      phi_arch_name(o->description.arch), all->count);
    }
    return phi_ov_match_linear(o, fused, &role, total, out_x, err);
}
