/*
 * Norms: root mean square, as plain operations, and layer norms, as OpenVINO's MVN.
 */
#include <math.h>
#include <string.h>

#include "engine/formats/openvino_internal.h"

#define EPS_ERROR_MAX 1e-3

static const phi_ov_value none = {.node = PHI_OV_NONE};

#define REFUSE(value, ...) phi_ov_fail(&o->graph, (value), PHI_E_UNSUPPORTED, err, __VA_ARGS__)

/* x^2, as a power or a product. */
static bool is_square(const phi_ov_graph *graph, phi_ov_value value, phi_ov_value of)
{
    phi_ov_value left = phi_ov_unconverted(graph, phi_ov_input(graph, value, 0));
    phi_ov_value right = phi_ov_input(graph, value, 1);
    if (!phi_ov_same(left, of)) {
        return false;
    }
    return phi_ov_is(graph, value, PHI_OV_POWER)
               ? phi_ov_is_number(graph, right, 2.0)
               : phi_ov_is(graph, value, PHI_OV_MULTIPLY) && phi_ov_same(right, of);
}

/* 1 / sqrt(mean(x^2) + eps) */
static bool is_inverse_root(const phi_openvino *o, phi_ov_value value, phi_ov_value x)
{
    const phi_ov_graph *graph = &o->graph;
    phi_ov_value sum = none;
    if (phi_ov_is(graph, value, PHI_OV_DIVIDE) &&
        phi_ov_is_number(graph, phi_ov_input(graph, value, 0), 1.0) &&
        phi_ov_is(graph, phi_ov_input(graph, value, 1), PHI_OV_SQRT)) {
        sum = phi_ov_input(graph, phi_ov_input(graph, value, 1), 0);
    } else if (phi_ov_is(graph, value, PHI_OV_POWER) &&
               phi_ov_is_number(graph, phi_ov_input(graph, value, 1), -0.5)) {
        sum = phi_ov_input(graph, value, 0);
    } else if (phi_ov_is(graph, value, PHI_OV_POWER) &&
               phi_ov_is_number(graph, phi_ov_input(graph, value, 1), -1.0) &&
               phi_ov_is(graph, phi_ov_input(graph, value, 0), PHI_OV_SQRT)) {
        sum = phi_ov_input(graph, phi_ov_input(graph, value, 0), 0);
    }
    if (!phi_ov_is(graph, sum, PHI_OV_ADD)) {
        return false;
    }
    for (uint32_t side = 0; side < 2; side++) {
        phi_ov_value mean = phi_ov_input(graph, sum, side);
        if (phi_ov_is(graph, mean, PHI_OV_REDUCE_MEAN)) {
            return phi_ov_node_of(graph, mean)->keep_dims &&
                   phi_ov_is_axis(graph, phi_ov_input(graph, mean, 1), 2) &&
                   is_square(graph, phi_ov_input(graph, mean, 0), x) &&
                   phi_ov_is_number(graph, phi_ov_input(graph, sum, 1 - side),
                                    (double)o->description.norm_eps);
        }
    }
    return false;
}

/* x times its inverse root: tells x. */
static bool match_normed(const phi_openvino *o, phi_ov_value value, phi_ov_value *out_x)
{
    const phi_ov_graph *graph = &o->graph;
    if (!phi_ov_is(graph, value, PHI_OV_MULTIPLY)) {
        return false;
    }
    for (uint32_t side = 0; side < 2; side++) {
        phi_ov_value x = phi_ov_unconverted(graph, phi_ov_input(graph, value, side));
        if (x.node != PHI_OV_NONE && is_inverse_root(o, phi_ov_input(graph, value, 1 - side), x)) {
            *out_x = x;
            return true;
        }
    }
    return false;
}

/* x * (1 / sqrt(mean(x^2) + eps)) * weights */
static phi_status match_rms(phi_openvino *o, phi_ov_value value, const phi_ov_role *role,
                            phi_ov_value *out_x, phi_err *err)
{
    const phi_ov_graph *graph = &o->graph;
    if (match_normed(o, value, out_x)) {
        /* optimum-intel leaves out a multiplication by ones. */
        return phi_ov_take_vector(o, none, role, o->description.n_embd, err);
    }
    for (uint32_t side = 0; side < 2 && phi_ov_is(graph, value, PHI_OV_MULTIPLY); side++) {
        phi_ov_value inner = phi_ov_unconverted(graph, phi_ov_input(graph, value, side));
        phi_ov_value weights = phi_ov_input(graph, value, 1 - side);
        if (weights.node != PHI_OV_NONE && match_normed(o, inner, out_x)) {
            return phi_ov_take_vector(o, weights, role, o->description.n_embd, err);
        }
    }
    return REFUSE(value, "is not the root-mean-square norm with epsilon %g that belongs there",
                  (double)o->description.norm_eps);
}

/* (x - mean(x)) / sqrt(var(x) + eps) * weights + bias; ones and zeros are left out. */
static phi_status match_layer_norm(phi_openvino *o, phi_ov_value value, const phi_ov_role *role,
                                   phi_ov_value *out_x, phi_err *err)
{
    const phi_ov_graph *graph = &o->graph;
    uint32_t n = o->description.n_embd;
    double eps = (double)o->description.norm_eps;
    phi_ov_role bias_role = *role;
    phi_ov_value bias = none;
    phi_ov_value weights = none;
    bias_role.part = phi_part_bias(role->part);
    (void)phi_ov_match_constant(graph, value, PHI_OV_ADD, &value, &bias);
    (void)phi_ov_match_constant(graph, value, PHI_OV_MULTIPLY, &value, &weights);
    const phi_ov_node *node =
        phi_ov_is(graph, value, PHI_OV_MVN) ? phi_ov_node_of(graph, value) : NULL;
    if (!node || !node->normalizes || !node->mode || strcmp(node->mode, "INSIDE_SQRT") != 0 ||
        fabs(node->eps - eps) > EPS_ERROR_MAX * eps ||
        !phi_ov_is_axis(graph, phi_ov_input(graph, value, 1), 2)) {
        return REFUSE(value, "is not the layer norm with epsilon %g that belongs there", eps);
    }
    *out_x = phi_ov_unconverted(graph, phi_ov_input(graph, value, 0));
    phi_status status = phi_ov_take_vector(o, weights, role, n, err);
    return status ? status : phi_ov_take_vector(o, bias, &bias_role, n, err);
}

phi_status phi_ov_match_norm(phi_openvino *o, phi_ov_value value, phi_part part, uint32_t layer,
                             phi_ov_value *out_x, phi_err *err)
{
    phi_ov_role role = {.part = part, .layer = layer};
    value = phi_ov_unconverted(&o->graph, value);
    return o->description.norm == PHI_NORM_RMS ? match_rms(o, value, &role, out_x, err)
                                               : match_layer_norm(o, value, &role, out_x, err);
}
