/*
 * Feed-forward by experts: the graph at the top of openvino_experts.c, operation for operation as
 * optimum-intel has it, because it is that pattern which OpenVINO's CPU plugin turns into products
 * with the chosen experts only. Elsewhere every expert is computed for every token. [T, n] tokens
 * of all sequences, one below the other, E experts.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/formats/openvino_write_internal.h"

#define NAME_BYTES 160

/* Names of a layer's operations. */
typedef struct place {
    phi_ov_out *out;
    int layer;
    char name[NAME_BYTES];
} place;

/* "model.layers.3.mlp.router/best" */
static const char *name_of(place *p, const char *what)
{
    (void)snprintf(p->name, sizeof p->name, "model.layers.%d.mlp.%s", p->layer, what);
    return p->name;
}

/* "first/best": what the two choices have each. */
static const char *name_of_choice(place *p, const char *which, const char *what)
{
    (void)snprintf(p->name, sizeof p->name, "model.layers.%d.mlp.router/%s/%s", p->layer, which,
                   what);
    return p->name;
}

static phi_ov_ref lowest(place *p, const char *name)
{
    const float low = -INFINITY;
    return phi_ov_constant(p->out, name, phi_ov_shape("f32", 0, 0, 0, 0, 0), &low, sizeof low);
}

/* ---- the router ---- */

typedef struct choice {
    phi_ov_ref index;  /* [T, 1] */
    phi_ov_ref weight; /* [T, 1] */
} choice;

/* The greatest of each row. */
static phi_ov_ref write_best(place *p, const char *which, phi_ov_ref pool)
{
    const phi_ov_ref inputs[] = {
        pool, phi_ov_i64_scalar(p->out, name_of_choice(p, which, "best/axis"), -1)};
    pool.dims[1] = 1;
    return phi_ov_add_one(p->out,
                          &(phi_ov_layer){.op = "ReduceMax",
                                          .opset = "opset1",
                                          .name = name_of_choice(p, which, "best"),
                                          .data = "keep_dims=\"true\""},
                          inputs, 2, pool);
}

/* Its place. */
static phi_ov_ref write_index(place *p, const char *which, phi_ov_ref pool)
{
    const int32_t one = 1;
    const phi_ov_ref inputs[] = {pool, phi_ov_constant(p->out, name_of_choice(p, which, "count"),
                                                       phi_ov_shape("i32", 0, 0, 0, 0, 0), &one,
                                                       sizeof one)};
    phi_ov_ref found[] = {phi_ov_shape("f32", 2, -1, 1, 0, 0), phi_ov_shape("i64", 2, -1, 1, 0, 0)};
    phi_ov_add(p->out,
               &(phi_ov_layer){.op = "TopK",
                               .opset = "opset11",
                               .name = name_of_choice(p, which, "index"),
                               .data = "axis=\"-1\" mode=\"max\" sort=\"none\" "
                                       "index_element_type=\"i64\" stable=\"false\""},
               inputs, 2, found, 2);
    return found[1];
}

/* The pool without the experts that are far below its best. */
static phi_ov_ref write_near(place *p, const char *which, phi_ov_ref pool, phi_ov_ref scores,
                             float jitter)
{
    phi_ov_out *out = p->out;
    const float far = 2.0F * jitter;
    phi_ov_ref best = write_best(p, which, pool);
    phi_ov_ref below =
        phi_ov_binary(out, "Subtract", name_of_choice(p, which, "below"), best, scores);
    phi_ov_ref size = phi_ov_unary(out, "Abs", name_of_choice(p, which, "magnitude"), scores);
    size = phi_ov_binary(out, "Maximum", name_of_choice(p, which, "size"), size, best);
    phi_ov_ref ratio = phi_ov_binary(out, "Divide", name_of_choice(p, which, "ratio"), below, size);
    phi_ov_ref limit = phi_ov_constant(out, name_of_choice(p, which, "limit"),
                                       phi_ov_shape("f32", 2, 1, 1, 0, 0), &far, sizeof far);
    phi_ov_ref is_far =
        phi_ov_compare(out, "Greater", name_of_choice(p, which, "is_far"), ratio, limit);
    phi_ov_ref none = lowest(p, name_of_choice(p, which, "none"));
    return phi_ov_select(out, name_of_choice(p, which, "near"), is_far, none, pool);
}

static choice write_choice(place *p, const char *which, phi_ov_ref pool, phi_ov_ref scores,
                           float jitter)
{
    phi_ov_out *out = p->out;
    choice c = {.index = write_index(p, which, pool)};
    phi_ov_ref shares = write_near(p, which, pool, scores, jitter);
    shares = phi_ov_add_one(out,
                            &(phi_ov_layer){.op = "SoftMax",
                                            .opset = "opset8",
                                            .name = name_of_choice(p, which, "shares"),
                                            .data = "axis=\"-1\""},
                            &shares, 1, shares);
    phi_ov_ref index = phi_ov_convert(out, name_of_choice(p, which, "index_i32"), c.index, "i32");
    const phi_ov_ref inputs[] = {shares, index};
    c.weight = phi_ov_add_one(out,
                              &(phi_ov_layer){.op = "GatherElements",
                                              .opset = "opset6",
                                              .name = name_of_choice(p, which, "weight"),
                                              .data = "axis=\"-1\""},
                              inputs, 2, phi_ov_shape("f32", 2, -1, 1, 0, 0));
    c.index = index;
    return c;
}

/* `into` with the values at the places of its rows. */
static phi_ov_ref write_scattered(place *p, const char *name, phi_ov_ref into, phi_ov_ref index,
                                  phi_ov_ref values)
{
    char part[NAME_BYTES + 8];
    (void)snprintf(part, sizeof part, "%s/axis", name);
    const phi_ov_ref inputs[] = {into, index, values, phi_ov_i64_scalar(p->out, part, 1)};
    return phi_ov_add_one(p->out,
                          &(phi_ov_layer){.op = "ScatterElementsUpdate",
                                          .opset = "opset12",
                                          .name = name,
                                          .data = "reduction=\"none\" use_init_val=\"true\""},
                          inputs, 4, into);
}

/* `like`'s shape, [T, `cols`], full of a number. */
static phi_ov_ref write_filled(place *p, const char *name, phi_ov_ref like, int64_t cols,
                               phi_ov_ref number)
{
    char part[NAME_BYTES + 16];
    char base[NAME_BYTES];
    (void)snprintf(base, sizeof base, "%s", name);
    (void)snprintf(part, sizeof part, "%s/like", base);
    phi_ov_ref shape = phi_ov_shape_of(p->out, part, like);
    (void)snprintf(part, sizeof part, "%s/row", base);
    phi_ov_ref row = phi_ov_i64_one(p->out, part, 0);
    (void)snprintf(part, sizeof part, "%s/rows", base);
    phi_ov_ref rows = phi_ov_gather(p->out, part, shape, row, 0);
    (void)snprintf(part, sizeof part, "%s/cols", base);
    const phi_ov_ref sizes[] = {rows, phi_ov_i64_one(p->out, part, cols)};
    (void)snprintf(part, sizeof part, "%s/shape", base);
    const phi_ov_ref inputs[] = {number, phi_ov_concat(p->out, part, 2, sizes, 0)};
    return phi_ov_add_one(
        p->out,
        &(phi_ov_layer){
            .op = "Broadcast", .opset = "opset3", .name = base, .data = "mode=\"numpy\""},
        inputs, 2, phi_ov_shape("f32", 2, -1, cols, 0, 0));
}

/* [T, E]: each token's two weights, zeros elsewhere. */
static phi_ov_ref write_router(phi_ov_writer *w, place *p, phi_ov_ref tokens)
{
    phi_ov_out *out = p->out;
    const phi_description *d = w->export->description;
    const phi_ov_role role = {.part = PHI_PART_FFN_ROUTER, .layer = (uint32_t)p->layer};
    phi_ov_ref weight = phi_ov_write_matrix(w, &role);
    phi_ov_ref scores = phi_ov_matmul(out, name_of(p, "router"), tokens, weight, true);
    choice first = write_choice(p, "first", scores, scores, d->router_jitter);
    phi_ov_ref low = lowest(p, name_of(p, "router/lowest"));
    low = write_filled(p, name_of(p, "router/lowest/column"), first.index, 1, low);
    phi_ov_ref rest =
        write_scattered(p, name_of(p, "router/without_first"), scores, first.index, low);
    choice second = write_choice(p, "second", rest, scores, d->router_jitter);
    const phi_ov_ref indices[] = {first.index, second.index};
    const phi_ov_ref weights[] = {first.weight, second.weight};
    phi_ov_ref chosen = phi_ov_concat(out, name_of(p, "router/chosen"), 2, indices, -1);
    phi_ov_ref shares = phi_ov_concat(out, name_of(p, "router/weights"), 2, weights, -1);
    const float nothing = 0.0F;
    phi_ov_ref zero = phi_ov_constant(out, name_of(p, "router/zero"),
                                      phi_ov_shape("f32", 0, 0, 0, 0, 0), &nothing, sizeof nothing);
    phi_ov_ref zeros =
        write_filled(p, name_of(p, "router/zeros"), first.index, (int64_t)d->n_expert, zero);
    return write_scattered(p, name_of(p, "router/shares"), zeros, chosen, shares);
}

/* ---- experts ---- */

/* x [E, T, k] times each expert's own matrix. */
static phi_ov_ref write_stacked(phi_ov_writer *w, place *p, phi_ov_ref x, phi_part part,
                                const char *what)
{
    const phi_ov_role role = {.part = part, .layer = (uint32_t)p->layer};
    phi_ov_ref weight = phi_ov_write_matrix(w, &role);
    return phi_ov_matmul(p->out, name_of(p, what), x, weight, true);
}

/* Every token for every expert: [E, T, n]. */
static phi_ov_ref write_tiled(place *p, phi_ov_ref tokens, int64_t n_expert)
{
    const int64_t times[] = {n_expert, 1};
    const int64_t stacked[] = {n_expert, -1, tokens.dims[1]};
    const phi_ov_ref inputs[] = {tokens, phi_ov_i64(p->out, name_of(p, "experts/times"), 2, times)};
    phi_ov_ref tiled = phi_ov_add_one(
        p->out,
        &(phi_ov_layer){.op = "Tile", .opset = "opset1", .name = name_of(p, "experts/tiled")},
        inputs, 2, tokens);
    return phi_ov_reshape(p->out, name_of(p, "experts/tokens"), tiled, 3, stacked, false);
}

/* [E, T, 1] */
static phi_ov_ref write_shares(place *p, phi_ov_ref shares, int64_t n_expert)
{
    static const int64_t order[] = {1, 0};
    const int64_t rows[] = {n_expert, 0};
    shares = phi_ov_transpose(p->out, name_of(p, "experts/shares_by_expert"), shares, order);
    shares = phi_ov_reshape(p->out, name_of(p, "experts/share_rows"), shares, 2, rows, true);
    return phi_ov_unsqueeze(p->out, name_of(p, "experts/shares"), shares, 2);
}

phi_ov_ref phi_ov_write_experts(phi_ov_writer *w, phi_ov_ref x, int layer)
{
    place p = {.out = &w->out, .layer = layer};
    const phi_description *d = w->export->description;
    const int64_t flat[] = {-1, d->n_embd};
    const int64_t stacked[] = {d->n_expert, 0, d->n_embd};
    phi_ov_ref tokens = phi_ov_reshape(p.out, name_of(&p, "tokens"), x, 2, flat, false);
    phi_ov_ref tiled = write_tiled(&p, tokens, (int64_t)d->n_expert);
    phi_ov_ref gate = write_stacked(w, &p, tiled, PHI_PART_FFN_GATE_EXPS, "experts/gate");
    gate = phi_ov_unary(p.out, "Swish", name_of(&p, "experts/silu"), gate);
    phi_ov_ref up = write_stacked(w, &p, tiled, PHI_PART_FFN_UP_EXPS, "experts/up");
    phi_ov_ref made = phi_ov_binary(p.out, "Multiply", name_of(&p, "experts/gated"), gate, up);
    made = write_stacked(w, &p, made, PHI_PART_FFN_DOWN_EXPS, "experts/down");
    made = phi_ov_reshape(p.out, name_of(&p, "experts/made"), made, 3, stacked, true);
    phi_ov_ref shares = write_shares(&p, write_router(w, &p, tokens), (int64_t)d->n_expert);
    made = phi_ov_binary(p.out, "Multiply", name_of(&p, "experts/weighed"), made, shares);
    const phi_ov_ref inputs[] = {made, phi_ov_i64_one(p.out, name_of(&p, "experts/axis"), 0)};
    made = phi_ov_add_one(p.out,
                          &(phi_ov_layer){.op = "ReduceSum",
                                          .opset = "opset1",
                                          .name = name_of(&p, "experts/sum"),
                                          .data = "keep_dims=\"false\""},
                          inputs, 2, tokens);
    const phi_ov_ref back[] = {made, phi_ov_shape_of(p.out, name_of(&p, "shape"), x)};
    return phi_ov_add_one(p.out,
                          &(phi_ov_layer){.op = "Reshape",
                                          .opset = "opset1",
                                          .name = name_of(&p, "by_sequence"),
                                          .data = "special_zero=\"false\""},
                          back, 2, x);
}
