/*
 * Rotary positions and the mask. Both are made once and used by every layer:
 *   q' = q * cos + [-q2, q1] * sin, on the first n_rot dimensions; the rest goes along unchanged
 *   cos, sin = Cos, Sin of [a, a] (times LongRoPE's factor), a = position * inverse frequencies
 *   inverse frequencies: a constant, or 1 / (factors * powers of theta) with the factors chosen by
 *   the greatest position: those are worked out here for both choices and compared with what
 *   config.json gives
 *   mask: whatever comparisons make it; its operations and its constants are held to what a causal
 *   mask with config.json's window needs
 */
#include "engine/formats/openvino_internal.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

/* Frequencies were worked out in fp32 by another program, and may have been rounded to bf16. */
#define FREQUENCY_ERROR_MAX 1e-2
#define FACTOR_ERROR_MAX 1e-3
/* Integers in a mask that are axes, signs and counts. */
#define MASK_SMALL_MAX 8
/* Floats in a mask are 0, 1, or so low that nothing is left after softmax. */
#define MASK_LOW_MIN (-1e4F)

#define PAIRS_MAX (PHI_LIMIT_HEAD_DIM / 2)
#define STEPS_MAX 64U

static const phi_ov_value none = {.node = PHI_OV_NONE};

#define REFUSE(value, ...) phi_ov_fail(&o->graph, (value), PHI_E_UNSUPPORTED, err, __VA_ARGS__)

/* ---- inverse frequencies ---- */

typedef struct frequencies {
    const phi_ov_graph *graph;
    bool is_long;        /* which side of a Select to take */
    phi_ov_value choice; /* the Select, if there is one */
    uint32_t steps;
} frequencies;

typedef struct vector {
    size_t count; /* 1: the same for all */
    float values[PAIRS_MAX];
} vector;

static bool work_out(frequencies *f, phi_ov_value value, vector *out);

static float combine(phi_ov_op op, float a, float b)
{
    return op == PHI_OV_MULTIPLY ? a * b : op == PHI_OV_DIVIDE ? a / b : powf(a, b);
}

static bool work_out_pair(frequencies *f, phi_ov_value value, vector *out)
{
    vector *b = phi_try_alloc(sizeof *b);
    bool done = b && work_out(f, phi_ov_input(f->graph, value, 0), out) &&
                work_out(f, phi_ov_input(f->graph, value, 1), b) &&
                (out->count == b->count || out->count == 1 || b->count == 1);
    if (done) {
        size_t count = out->count > b->count ? out->count : b->count;
        for (size_t i = count; i-- > 0;) {
            out->values[i] =
                combine(phi_ov_node_of(f->graph, value)->op, out->values[out->count == 1 ? 0 : i],
                        b->values[b->count == 1 ? 0 : i]);
        }
        out->count = count;
    }
    phi_free(b);
    return done;
}

/* Recursion is bounded by steps. */
static bool work_out(frequencies *f, phi_ov_value value, vector *out)
{
    if (value.node == PHI_OV_NONE || f->steps == 0) {
        return false;
    }
    f->steps--;
    switch ((int)phi_ov_node_of(f->graph, value)->op) {
    case PHI_OV_CONST:
        return phi_ov_floats(f->graph, value, PAIRS_MAX, out->values, &out->count);
    case PHI_OV_CONVERT:
    case PHI_OV_UNSQUEEZE:
    case PHI_OV_SQUEEZE:
    case PHI_OV_RESHAPE:
    case PHI_OV_BROADCAST:
        return work_out(f, phi_ov_input(f->graph, value, 0), out);
    case PHI_OV_SELECT:
        f->choice = value;
        return work_out(f, phi_ov_input(f->graph, value, f->is_long ? 1 : 2), out);
    case PHI_OV_MULTIPLY:
    case PHI_OV_DIVIDE:
    case PHI_OV_POWER:
        return work_out_pair(f, value, out);
    default:
        return false;
    }
}

/* config.json's own. */
static double frequency_of(const phi_description *d, uint32_t i, bool is_long)
{
    double factor = d->rope == PHI_ROPE_PLAIN ? 1.0
                    : is_long                 ? (double)d->rope_long[i]
                                              : (double)d->rope_short[i];
    return pow((double)d->rope_theta, -2.0 * i / d->n_rot) / factor;
}

static bool is_right(const phi_description *d, const vector *found, bool is_long)
{
    uint32_t pairs = d->n_rot / 2;
    for (uint32_t i = 0; i < pairs && found->count == pairs; i++) {
        double right = frequency_of(d, i, is_long);
        if (!(fabs((double)found->values[i] - right) <= FREQUENCY_ERROR_MAX * right)) {
            return false;
        }
    }
    return found->count == pairs;
}

/* max(positions) + 1 > the original context */
static bool is_choice(const phi_openvino *o, phi_ov_value condition)
{
    int64_t limit;
    return phi_ov_is(&o->graph, condition, PHI_OV_GREATER) &&
           phi_ov_integer(&o->graph, phi_ov_input(&o->graph, condition, 1), &limit) &&
           limit == (int64_t)o->description.n_ctx_original;
}

static phi_status check_frequencies(phi_openvino *o, phi_ov_value value, phi_err *err)
{
    bool right = true;
    bool chosen = false;
    vector *found = phi_try_alloc(sizeof *found);
    if (!found) {
        return phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for %s", o->graph.label);
    }
    for (int is_long = 0; is_long < 2 && right; is_long++) {
        frequencies f = {
            .graph = &o->graph, .is_long = is_long, .choice = none, .steps = STEPS_MAX};
        right = work_out(&f, value, found);
        chosen = f.choice.node != PHI_OV_NONE;
        right = right && (!chosen || is_choice(o, phi_ov_input(&o->graph, f.choice, 0)));
        /* Exporters that knew no choice took one side for good. */
        right = right && (is_right(&o->description, found, is_long) ||
                          (!chosen && is_right(&o->description, found, !is_long)));
    }
    phi_free(found);
    return right ? PHI_OK
                 : REFUSE(value, "does not give the rotary frequencies that config.json asks for");
}

/* ---- cos and sin ---- */

/* [batch, tokens, n_rot] of angles: twice the same half. */
static phi_status check_angles(phi_openvino *o, phi_ov_value value, phi_err *err)
{
    static const int64_t order[] = {0, 2, 1};
    const phi_ov_graph *graph = &o->graph;
    phi_ov_value half = phi_ov_input(graph, value, 0);
    phi_ov_value product = phi_ov_input(graph, half, 0);
    if (!phi_ov_is(graph, value, PHI_OV_CONCAT) || phi_ov_node_of(graph, value)->n_inputs != 2 ||
        (phi_ov_node_of(graph, value)->axis != -1 && phi_ov_node_of(graph, value)->axis != 2) ||
        !phi_ov_same(half, phi_ov_input(graph, value, 1)) ||
        !phi_ov_is(graph, half, PHI_OV_TRANSPOSE) ||
        !phi_ov_lists(graph, phi_ov_input(graph, half, 1), order, 3) ||
        !phi_ov_is(graph, product, PHI_OV_MATMUL) || phi_ov_node_of(graph, product)->transpose_a ||
        phi_ov_node_of(graph, product)->transpose_b) {
        return REFUSE(value, "does not give the angles of the positions, twice each");
    }
    phi_ov_value positions = phi_ov_input(graph, product, 1);
    for (uint32_t i = 0; i < STEPS_MAX && (phi_ov_is(graph, positions, PHI_OV_CONVERT) ||
                                           phi_ov_is(graph, positions, PHI_OV_UNSQUEEZE));
         i++) {
        positions = phi_ov_input(graph, positions, 0);
    }
    if (!phi_ov_is_parameter(graph, positions, "position_ids")) {
        return REFUSE(product, "does not multiply position_ids");
    }
    return check_frequencies(o, phi_ov_input(graph, product, 0), err);
}

static bool is_near(double factor, double right)
{
    return fabs(factor - right) <= FACTOR_ERROR_MAX * right;
}

/* optimum-intel's from_pretrained(export=True) writes the original context over the trained one, so
 * that LongRoPE's factor does not follow from config.json. It says what was trained: f in
 * sqrt(1 + ln f / ln orig) = factor, a whole number for every Phi model. */
static void take_factor(phi_description *d, double factor)
{
    double original = (double)d->n_ctx_original;
    if (d->rope != PHI_ROPE_LONG || d->n_ctx > d->n_ctx_original || d->n_ctx_original < 2 ||
        !(factor > 1.0) || is_near(factor, (double)d->rope_attn_factor)) {
        return;
    }
    double times = round(pow(original, factor * factor - 1.0));
    if (times * original <= (double)PHI_LIMIT_CONTEXT) {
        d->n_ctx = (uint32_t)(times * original);
        d->rope_attn_factor = (float)sqrt(1.0 + log(times) / log(original));
    }
}

/* LongRoPE's factors, near and far: one number, or two that are chosen as frequencies are. */
static bool read_factors(const phi_openvino *o, phi_ov_value value, double factors[2])
{
    const phi_ov_graph *graph = &o->graph;
    float near;
    float far;
    value = phi_ov_unconverted(graph, value);
    if (phi_ov_float(graph, value, &near)) {
        far = near;
    } else if (!phi_ov_is(graph, value, PHI_OV_SELECT) ||
               !is_choice(o, phi_ov_input(graph, value, 0)) ||
               !phi_ov_float(graph, phi_ov_input(graph, value, 1), &far) ||
               !phi_ov_float(graph, phi_ov_input(graph, value, 2), &near)) {
        return false;
    }
    factors[0] *= (double)near;
    factors[1] *= (double)far;
    return true;
}

static phi_status check_factors(phi_openvino *o, phi_ov_value value, const double factors[2],
                                phi_err *err)
{
    const phi_description *d = &o->description;
    take_factor(&o->description, factors[0]);
    for (int is_long = 0; is_long < 2; is_long++) {
        double right = d->rope != PHI_ROPE_LONG ? 1.0
                       : is_long && d->rope_attn_factor_long != 0.0F
                           ? (double)d->rope_attn_factor_long
                           : (double)d->rope_attn_factor;
        if (!is_near(factors[is_long], right)) {
            return REFUSE(value, "is multiplied by %g; config.json's attention factor is %g",
                          factors[is_long], right);
        }
    }
    return PHI_OK;
}

/* `value` is Cos or Sin of angles, times LongRoPE's factor, with an axis for the heads. */
static phi_status check_table(phi_openvino *o, phi_ov_value value, phi_ov_op op,
                              phi_ov_value *out_angles, phi_err *err)
{
    const phi_ov_graph *graph = &o->graph;
    double factors[2] = {1.0, 1.0};
    phi_ov_value at = value;
    for (uint32_t i = 0; i < STEPS_MAX && !phi_ov_is(graph, at, op); i++) {
        int64_t axis;
        bool is_axis = phi_ov_is(graph, at, PHI_OV_UNSQUEEZE) &&
                       phi_ov_integer(graph, phi_ov_input(graph, at, 1), &axis) && axis == 1;
        bool scales = phi_ov_is(graph, at, PHI_OV_MULTIPLY) &&
                      read_factors(o, phi_ov_input(graph, at, 1), factors);
        if (!scales && !is_axis && !phi_ov_is(graph, at, PHI_OV_CONVERT)) {
            break;
        }
        at = phi_ov_input(graph, at, 0);
    }
    if (!phi_ov_is(graph, at, op)) {
        return REFUSE(at, "stands where %s of the positions belongs", phi_ov_op_name(op));
    }
    *out_angles = phi_ov_input(graph, at, 0);
    return check_factors(o, at, factors, err);
}

static phi_status check_tables(phi_openvino *o, phi_ov_value cos, phi_ov_value sin, phi_err *err)
{
    if (phi_ov_same(cos, o->cos) && phi_ov_same(sin, o->sin)) {
        return PHI_OK;
    }
    phi_ov_value angles = none;
    phi_ov_value others = none;
    phi_status status = check_table(o, cos, PHI_OV_COS, &angles, err);
    status = status ? status : check_table(o, sin, PHI_OV_SIN, &others, err);
    if (!status && !phi_ov_same(angles, others)) {
        return REFUSE(sin, "is of other angles than the cosine beside it");
    }
    status = status ? status : check_angles(o, angles, err);
    if (!status) {
        o->cos = cos;
        o->sin = sin;
    }
    return status;
}

/* ---- rotation ---- */

/* -x, as an operation or a product. */
static bool match_negative(const phi_ov_graph *graph, phi_ov_value value, phi_ov_value *out)
{
    float number;
    *out = phi_ov_input(graph, value, 0);
    return phi_ov_is(graph, value, PHI_OV_NEGATIVE) ||
           (phi_ov_is(graph, value, PHI_OV_MULTIPLY) &&
            phi_ov_float(graph, phi_ov_input(graph, value, 1), &number) && number == -1.0F);
}

static bool is_part(const phi_ov_graph *graph, phi_ov_value value, phi_ov_value of, int64_t last,
                    int64_t start, int64_t stop)
{
    phi_ov_value source = none;
    int64_t begin;
    int64_t end;
    return phi_ov_match_part(graph, value, last, 3, &source, &begin, &end) &&
           phi_ov_same(source, of) && begin == start && end == stop;
}

/* [-x2, x1] of x = [x1, x2] */
static bool is_rotated(const phi_openvino *o, phi_ov_value value, phi_ov_value x)
{
    const phi_ov_graph *graph = &o->graph;
    int64_t n_rot = o->description.n_rot;
    phi_ov_value second = none;
    return phi_ov_is(graph, value, PHI_OV_CONCAT) && phi_ov_node_of(graph, value)->n_inputs == 2 &&
           (phi_ov_node_of(graph, value)->axis == -1 || phi_ov_node_of(graph, value)->axis == 3) &&
           match_negative(graph, phi_ov_input(graph, value, 0), &second) &&
           is_part(graph, second, x, n_rot, n_rot / 2, n_rot) &&
           is_part(graph, phi_ov_input(graph, value, 1), x, n_rot, 0, n_rot / 2);
}

/* x * cos + rotated x * sin, all in either order: tells x. */
static bool match_sum(const phi_openvino *o, phi_ov_value value, phi_ov_value *out_x,
                      phi_ov_value *out_cos, phi_ov_value *out_sin)
{
    const phi_ov_graph *graph = &o->graph;
    for (uint32_t orders = 0; orders < 8; orders++) {
        phi_ov_value plain = phi_ov_input(graph, value, orders & 1);
        phi_ov_value turned = phi_ov_input(graph, value, 1 - (orders & 1));
        if (!phi_ov_is(graph, value, PHI_OV_ADD) || !phi_ov_is(graph, plain, PHI_OV_MULTIPLY) ||
            !phi_ov_is(graph, turned, PHI_OV_MULTIPLY)) {
            return false;
        }
        uint32_t first = orders >> 1 & 1;
        uint32_t second = orders >> 2 & 1;
        *out_x = phi_ov_input(graph, plain, first);
        *out_cos = phi_ov_input(graph, plain, 1 - first);
        *out_sin = phi_ov_input(graph, turned, 1 - second);
        if (out_x->node != PHI_OV_NONE &&
            is_rotated(o, phi_ov_input(graph, turned, second), *out_x)) {
            return true;
        }
    }
    return false;
}

phi_status phi_ov_match_rope(phi_openvino *o, phi_ov_value value, phi_ov_value *out_source,
                             phi_err *err)
{
    const phi_ov_graph *graph = &o->graph;
    const phi_description *d = &o->description;
    phi_ov_value sum = value;
    phi_ov_value rest = none;
    phi_ov_value x = none;
    phi_ov_value cos = none;
    phi_ov_value sin = none;
    int64_t start;
    int64_t stop;
    if (phi_ov_is(graph, value, PHI_OV_CONCAT) && phi_ov_node_of(graph, value)->n_inputs == 2 &&
        (phi_ov_node_of(graph, value)->axis == -1 || phi_ov_node_of(graph, value)->axis == 3)) {
        sum = phi_ov_input(graph, value, 0);
        rest = phi_ov_input(graph, value, 1);
    }
    if (!match_sum(o, sum, &x, &cos, &sin) ||
        !phi_ov_match_part(graph, x, d->head_dim, 3, out_source, &start, &stop) || start != 0 ||
        stop != d->n_rot) {
        return REFUSE(value, "is not the rotation of %u dimensions that belongs there", d->n_rot);
    }
    bool whole = d->n_rot == d->head_dim;
    if (whole != (rest.node == PHI_OV_NONE) ||
        (!whole && !is_part(graph, rest, *out_source, d->head_dim, d->n_rot, d->head_dim))) {
        return REFUSE(value, "does not leave dimensions %u to %u as they are", d->n_rot,
                      d->head_dim);
    }
    return check_tables(o, cos, sin, err);
}

/* ---- mask ---- */

typedef struct mask_walk {
    phi_ov_value *stack; /* [node_count] */
    uint32_t depth;
    bool *seen; /* [node_count] */
    bool has_window;
    bool has_order;
} mask_walk;

static phi_status check_mask_constant(phi_openvino *o, phi_ov_value value, mask_walk *walk,
                                      phi_err *err)
{
    const phi_ov_node *node = phi_ov_node_of(&o->graph, value);
    int64_t window = o->description.window;
    float number;
    phi_ov_ints ints;
    if (phi_ov_elements(node) == 1 && phi_ov_float(&o->graph, value, &number) &&
        (node->type == PHI_OV_F16 || node->type == PHI_OV_F32 || node->type == PHI_OV_BF16)) {
        return number == 0.0F || number == 1.0F || number <= MASK_LOW_MIN
                   ? PHI_OK
                   : REFUSE(value, "is %g in the mask; 0 and numbers of no weight are right",
                            (double)number);
    }
    if (node->type == PHI_OV_BOOLEAN && phi_ov_elements(node) == 1) {
        return PHI_OK;
    }
    if (!phi_ov_integers(&o->graph, value, &ints)) {
        return REFUSE(value, "is a list in the mask; a causal mask has none");
    }
    for (size_t i = 0; i < ints.count; i++) {
        int64_t n = ints.values[i];
        bool is_window = window && (n == window || n == -window);
        bool is_small = n >= -MASK_SMALL_MAX && n <= MASK_SMALL_MAX;
        walk->has_window = walk->has_window || is_window;
        if (!is_window && !is_small && n < INT32_MAX) {
            return REFUSE(value, "limits the mask by %lld; config.json's sliding_window is %u",
                          (long long)n, o->description.window);
        }
    }
    return PHI_OK;
}

static phi_status walk_mask(phi_openvino *o, mask_walk *walk, phi_err *err)
{
    const phi_ov_graph *graph = &o->graph;
    while (walk->depth) {
        phi_ov_value value = walk->stack[--walk->depth];
        const phi_ov_node *node = phi_ov_node_of(graph, value);
        if (!phi_ov_op_in_mask(node->op)) {
            return REFUSE(value, "has no place in how a causal mask is made");
        }
        if (node->op == PHI_OV_CONST) {
            phi_status status = check_mask_constant(o, value, walk, err);
            if (status) {
                return status;
            }
        }
        walk->has_order = walk->has_order || node->op == PHI_OV_LESS_EQUAL ||
                          node->op == PHI_OV_LESS || node->op == PHI_OV_GREATER ||
                          node->op == PHI_OV_GREATER_EQUAL;
        /* Of a value whose shape is asked for, nothing else matters. */
        for (uint32_t i = 0; i < node->n_inputs && node->op != PHI_OV_SHAPE_OF; i++) {
            phi_ov_value input = phi_ov_input(graph, value, i);
            if (input.node == PHI_OV_NONE) {
                return REFUSE(value, "has an input that is not connected");
            }
            if (!walk->seen[input.node]) {
                walk->seen[input.node] = true;
                walk->stack[walk->depth++] = input;
            }
        }
    }
    return PHI_OK;
}

phi_status phi_ov_match_mask(phi_openvino *o, phi_ov_value value, phi_err *err)
{
    if (phi_ov_same(value, o->mask)) {
        return PHI_OK;
    }
    if (value.node == PHI_OV_NONE) {
        return REFUSE(value, "stands where the mask belongs");
    }
    size_t count = o->graph.node_count;
    mask_walk walk = {.stack = phi_try_alloc_zero(count, sizeof *walk.stack),
                      .seen = phi_try_alloc_zero(count, sizeof *walk.seen)};
    phi_status status = PHI_OK;
    if (!walk.stack || !walk.seen) {
        status = phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for %s", o->graph.label);
    } else {
        walk.stack[walk.depth++] = value;
        walk.seen[value.node] = true;
        status = walk_mask(o, &walk, err);
    }
    if (!status && !walk.has_order) {
        status = REFUSE(value, "is a mask that does not compare positions");
    }
    if (!status && o->description.window && !walk.has_window) {
        status = REFUSE(value, "is a mask without config.json's sliding_window of %u",
                        o->description.window);
    }
    phi_free(walk.stack);
    phi_free(walk.seen);
    if (!status) {
        o->mask = value;
    }
    return status;
}
