/*
 * The decoder as an OpenVINO graph, of the same operations in the same order as optimum-intel's
 * exports of Phi3ForCausalLM, PhiForCausalLM and PhimoeForCausalLM, so that OpenVINO's own
 * optimizations find the patterns that they look for. [B, S] tokens, T positions with the past, all
 * in fp32 but the weights.
 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "engine/formats/openvino_write_internal.h"

#define NAME_BYTES 160
/* What a hidden position gets added before softmax: fp16's lowest, so that it stays finite. */
#define HIDDEN (-65504.0F)

/* Values that all layers use. */
typedef struct shared {
    phi_ov_ref tokens;
    phi_ov_ref positions;
    phi_ov_ref beams;
    phi_ov_ref batch; /* [1] */
    phi_ov_ref cos;   /* [B, 1, S, r] */
    phi_ov_ref sin;
    phi_ov_ref mask;    /* [B, 1, S, T] */
    phi_ov_ref is_long; /* LongRoPE: whether positions go beyond the original context */
} shared;

static const int64_t swapped[] = {0, 2, 1, 3};

/* "model.layers.3.self_attn/q": layers of decoder layer `layer`, or of none (< 0). */
static const char *name_of(char *out, int layer, const char *what)
{
    if (layer < 0) {
        (void)snprintf(out, NAME_BYTES, "model.%s", what);
    } else {
        (void)snprintf(out, NAME_BYTES, "model.layers.%d.%s", layer, what);
    }
    return out;
}

/* "model.layers.3.self_attn/key/past" */
static const char *part_of(char *out, int layer, const char *what, const char *part)
{
    (void)snprintf(out, NAME_BYTES, "model.layers.%d.self_attn/%s/%s", layer, what, part);
    return out;
}

static phi_ov_ref parameter(phi_ov_out *out, const char *name, const char *type, uint32_t n_dims)
{
    char data[64];
    phi_ov_ref made = phi_ov_shape(type, n_dims, -1, -1, 0, 0);
    (void)snprintf(data, sizeof data, "shape=\"%s\" element_type=\"%s\"", n_dims == 2 ? "?,?" : "?",
                   type);
    phi_ov_add(out,
               &(phi_ov_layer){
                   .op = "Parameter", .opset = "opset1", .name = name, .data = data, .names = name},
               NULL, 0, &made, 1);
    return made;
}

/* One element of a value's shape, as [1] or as a scalar. */
static phi_ov_ref size_of(phi_ov_out *out, const char *name, phi_ov_ref x, int64_t axis,
                          bool scalar)
{
    char part[NAME_BYTES + 8];
    (void)snprintf(part, sizeof part, "%s/shape", name);
    phi_ov_ref shape = phi_ov_shape_of(out, part, x);
    (void)snprintf(part, sizeof part, "%s/index", name);
    phi_ov_ref index =
        scalar ? phi_ov_i64_scalar(out, part, axis) : phi_ov_i64_one(out, part, axis);
    return phi_ov_gather(out, name, shape, index, 0);
}

/* ---- positions ---- */

/* 1 / (factors * theta^(2i / r)), of the factors that the longest position asks for. */
static phi_ov_ref long_frequencies(phi_ov_out *out, const phi_description *d, shared *s)
{
    float powers[PHI_LIMIT_HEAD_DIM / 2];
    uint32_t pairs = d->n_rot / 2;
    phi_ov_ref shape = phi_ov_shape("f32", 1, pairs, 0, 0, 0);
    static const int64_t axes[] = {0, 1};
    for (uint32_t i = 0; i < pairs; i++) {
        powers[i] = (float)pow((double)d->rope_theta, 2.0 * i / d->n_rot);
    }
    const phi_ov_ref all[] = {s->positions, phi_ov_i64(out, "model.rotary_emb/axes", 2, axes)};
    phi_ov_ref last = phi_ov_shape("i64", 0, 0, 0, 0, 0);
    phi_ov_add(out,
               &(phi_ov_layer){.op = "ReduceMax",
                               .opset = "opset1",
                               .name = "model.rotary_emb/last",
                               .data = "keep_dims=\"false\""},
               all, 2, &last, 1);
    phi_ov_ref length = phi_ov_binary(out, "Add", "model.rotary_emb/length", last,
                                      phi_ov_i64_scalar(out, "model.rotary_emb/one", 1));
    phi_ov_ref limit =
        phi_ov_i64_scalar(out, "model.rotary_emb/original_context", (int64_t)d->n_ctx_original);
    s->is_long = phi_ov_compare(out, "Greater", "model.rotary_emb/is_long", length, limit);
    phi_ov_ref far = phi_ov_constant(out, "model.rotary_emb/long_factor", shape, d->rope_long,
                                     pairs * sizeof(float));
    phi_ov_ref near = phi_ov_constant(out, "model.rotary_emb/short_factor", shape, d->rope_short,
                                      pairs * sizeof(float));
    phi_ov_ref factors = phi_ov_select(out, "model.rotary_emb/factors", s->is_long, far, near);
    phi_ov_ref scaled = phi_ov_binary(
        out, "Multiply", "model.rotary_emb/scaled", factors,
        phi_ov_constant(out, "model.rotary_emb/powers", shape, powers, pairs * sizeof(float)));
    phi_ov_ref inverse = phi_ov_binary(out, "Power", "model.rotary_emb/inv_freq", scaled,
                                       phi_ov_f32_one(out, "model.rotary_emb/minus_one", -1.0F));
    inverse = phi_ov_unsqueeze(out, "model.rotary_emb/inv_freq_row", inverse, 0);
    return phi_ov_unsqueeze(out, "model.rotary_emb/inv_freq_column", inverse, 2);
}

static phi_ov_ref plain_frequencies(phi_ov_out *out, const phi_description *d)
{
    float inverse[PHI_LIMIT_HEAD_DIM / 2];
    uint32_t pairs = d->n_rot / 2;
    for (uint32_t i = 0; i < pairs; i++) {
        inverse[i] = (float)pow((double)d->rope_theta, -2.0 * i / d->n_rot);
    }
    return phi_ov_constant(out, "model.rotary_emb/inv_freq", phi_ov_shape("f32", 3, 1, pairs, 1, 0),
                           inverse, pairs * sizeof(float));
}

static phi_ov_ref write_table(phi_ov_out *out, const char *op, const char *name,
                              const phi_description *d, phi_ov_ref angles, const shared *s)
{
    char part[NAME_BYTES];
    (void)snprintf(part, sizeof part, "model.rotary_emb/%s", name);
    phi_ov_ref table = phi_ov_unary(out, op, part, angles);
    if (d->rope == PHI_ROPE_LONG) {
        (void)snprintf(part, sizeof part, "model.rotary_emb/%s/attention_factor", name);
        phi_ov_ref factor = phi_ov_f32_one(out, part, d->rope_attn_factor);
        if (d->rope_attn_factor_long != 0.0F) {
            (void)snprintf(part, sizeof part, "model.rotary_emb/%s/attention_factor_long", name);
            phi_ov_ref far = phi_ov_f32_one(out, part, d->rope_attn_factor_long);
            (void)snprintf(part, sizeof part, "model.rotary_emb/%s/attention_factors", name);
            factor = phi_ov_select(out, part, s->is_long, far, factor);
        }
        (void)snprintf(part, sizeof part, "model.rotary_emb/%s/scaled", name);
        table = phi_ov_binary(out, "Multiply", part, table, factor);
    }
    (void)snprintf(part, sizeof part, "model.rotary_emb/%s/heads", name);
    return phi_ov_unsqueeze(out, part, table, 1);
}

static void write_positions(phi_ov_out *out, const phi_description *d, shared *s)
{
    static const int64_t turned[] = {0, 2, 1};
    phi_ov_ref frequencies =
        d->rope == PHI_ROPE_LONG ? long_frequencies(out, d, s) : plain_frequencies(out, d);
    phi_ov_ref row = phi_ov_unsqueeze(out, "model.rotary_emb/positions_row", s->positions, 1);
    row = phi_ov_convert(out, "model.rotary_emb/positions_f32", row, "f32");
    phi_ov_ref angles = phi_ov_matmul(out, "model.rotary_emb/angles", frequencies, row, false);
    angles.dims[0] = -1;
    angles = phi_ov_transpose(out, "model.rotary_emb/angles_by_token", angles, turned);
    const phi_ov_ref twice[] = {angles, angles};
    angles = phi_ov_concat(out, "model.rotary_emb/angles_twice", 2, twice, -1);
    s->cos = write_table(out, "Cos", "cos", d, angles, s);
    s->sin = write_table(out, "Sin", "sin", d, angles, s);
}

/* ---- mask ---- */

/* Key j is visible to query i when j <= i, i - j < window, and attention_mask says so. */
static phi_ov_ref write_mask(phi_ov_out *out, const phi_description *d, phi_ov_ref given,
                             phi_ov_ref tokens)
{
    phi_ov_ref zero = phi_ov_i64_scalar(out, "model.mask/zero", 0);
    phi_ov_ref total = size_of(out, "model.mask/total", given, 1, true);
    phi_ov_ref added = size_of(out, "model.mask/new", tokens, 1, true);
    phi_ov_ref past = phi_ov_binary(out, "Subtract", "model.mask/past", total, added);
    phi_ov_ref keys = phi_ov_range(out, "model.mask/keys", zero, total);
    phi_ov_ref queries = phi_ov_range(out, "model.mask/queries", past, total);
    queries = phi_ov_unsqueeze(out, "model.mask/queries_column", queries, 1);
    phi_ov_ref visible = phi_ov_compare(out, "LessEqual", "model.mask/causal", keys, queries);
    if (d->window) {
        phi_ov_ref width = phi_ov_i64_scalar(out, "model.mask/window", (int64_t)d->window);
        phi_ov_ref edge = phi_ov_binary(out, "Subtract", "model.mask/edge", queries, width);
        phi_ov_ref inside = phi_ov_compare(out, "Greater", "model.mask/inside", keys, edge);
        visible = phi_ov_compare(out, "LogicalAnd", "model.mask/in_window", visible, inside);
    }
    phi_ov_ref there = phi_ov_convert(out, "model.mask/given", given, "boolean");
    there = phi_ov_unsqueeze(out, "model.mask/given_row", there, 1);
    there = phi_ov_unsqueeze(out, "model.mask/given_heads", there, 1);
    visible = phi_ov_compare(out, "LogicalAnd", "model.mask/visible", there, visible);
    phi_ov_ref shown = phi_ov_f32_one(out, "model.mask/shown", 0.0F);
    phi_ov_ref hidden = phi_ov_f32_one(out, "model.mask/hidden", HIDDEN);
    return phi_ov_select(out, "model.mask", visible, shown, hidden);
}

/* ---- layers ---- */

static const char *norm_part(char *out, const char *norm, const char *part)
{
    (void)snprintf(out, NAME_BYTES, "%.*s/%s", NAME_BYTES - 32, norm, part);
    return out;
}

static phi_ov_ref write_rms(phi_ov_writer *w, phi_ov_ref x, const phi_ov_role *role,
                            const char *name)
{
    phi_ov_out *out = &w->out;
    char part_name[NAME_BYTES];
    static const int64_t last = -1;
    phi_ov_ref two = phi_ov_f32_one(out, norm_part(part_name, name, "two"), 2.0F);
    phi_ov_ref square = phi_ov_binary(out, "Power", norm_part(part_name, name, "square"), x, two);
    const phi_ov_ref inputs[] = {square,
                                 phi_ov_i64(out, norm_part(part_name, name, "axis"), 1, &last)};
    phi_ov_ref mean = square;
    mean.dims[mean.n_dims - 1] = 1;
    phi_ov_add(out,
               &(phi_ov_layer){.op = "ReduceMean",
                               .opset = "opset1",
                               .name = norm_part(part_name, name, "mean"),
                               .data = "keep_dims=\"true\""},
               inputs, 2, &mean, 1);
    phi_ov_ref eps =
        phi_ov_f32_one(out, norm_part(part_name, name, "eps"), w->export->description->norm_eps);
    mean = phi_ov_binary(out, "Add", norm_part(part_name, name, "with_eps"), mean, eps);
    phi_ov_ref root = phi_ov_unary(out, "Sqrt", norm_part(part_name, name, "root"), mean);
    phi_ov_ref one = phi_ov_f32_one(out, norm_part(part_name, name, "one"), 1.0F);
    phi_ov_ref inverse =
        phi_ov_binary(out, "Divide", norm_part(part_name, name, "inverse"), one, root);
    phi_ov_ref normed =
        phi_ov_binary(out, "Multiply", norm_part(part_name, name, "normed"), x, inverse);
    return phi_ov_binary(out, "Multiply", name, phi_ov_write_vector(w, role), normed);
}

static phi_ov_ref write_layer_norm(phi_ov_writer *w, phi_ov_ref x, const phi_ov_role *role,
                                   const char *name)
{
    phi_ov_out *out = &w->out;
    char part_name[NAME_BYTES];
    char data[128];
    phi_ov_role bias = *role;
    bias.part = phi_part_bias(role->part);
    (void)snprintf(data, sizeof data,
                   "eps=\"%.17g\" normalize_variance=\"true\" eps_mode=\"INSIDE_SQRT\"",
                   (double)w->export->description->norm_eps);
    const phi_ov_ref inputs[] = {x, phi_ov_i64_one(out, norm_part(part_name, name, "axis"), -1)};
    x = phi_ov_add_one(out,
                       &(phi_ov_layer){.op = "MVN",
                                       .opset = "opset6",
                                       .name = norm_part(part_name, name, "normed"),
                                       .data = data},
                       inputs, 2, x);
    x = phi_ov_binary(out, "Multiply", norm_part(part_name, name, "scaled"), x,
                      phi_ov_write_vector(w, role));
    return phi_ov_binary(out, "Add", name, x, phi_ov_write_vector(w, &bias));
}

static phi_ov_ref write_norm(phi_ov_writer *w, phi_ov_ref x, phi_part part, int layer,
                             const char *what)
{
    char name[NAME_BYTES];
    const phi_ov_role role = {.part = part, .layer = layer < 0 ? 0 : (uint32_t)layer};
    (void)name_of(name, layer, what);
    return w->export->description->norm == PHI_NORM_RMS ? write_rms(w, x, &role, name)
                                                        : write_layer_norm(w, x, &role, name);
}

/* A product and its bias. */
static phi_ov_ref write_product(phi_ov_writer *w, phi_ov_ref x, const phi_ov_role *role,
                                const char *what)
{
    char name[NAME_BYTES];
    char sum[NAME_BYTES];
    phi_ov_role bias = *role;
    int layer = (int)role->layer;
    bias.part = phi_part_bias(role->part);
    phi_ov_ref weight = phi_ov_write_matrix(w, role);
    x = phi_ov_matmul(&w->out, name_of(name, layer, what), x, weight, true);
    if (bias.part == PHI_PART_COUNT || !phi_part_is_of(bias.part, w->export->description)) {
        return x;
    }
    return phi_ov_binary(&w->out, "Add", norm_part(sum, name, "with_bias"), x,
                         phi_ov_write_vector(w, &bias));
}

static phi_ov_ref write_linear(phi_ov_writer *w, phi_ov_ref x, phi_part part, int layer,
                               const char *what)
{
    return write_product(w, x, &(phi_ov_role){.part = part, .layer = (uint32_t)layer}, what);
}

static phi_ov_ref write_heads(phi_ov_out *out, const phi_description *d, phi_ov_ref x, int layer,
                              const char *what, uint32_t heads)
{
    char name[NAME_BYTES];
    const int64_t shape[] = {0, 0, heads, d->head_dim};
    phi_ov_ref apart = phi_ov_reshape(out, part_of(name, layer, what, "heads"), x, 4, shape, true);
    return phi_ov_transpose(out, part_of(name, layer, what, "by_head"), apart, swapped);
}

static phi_ov_ref write_rotated(phi_ov_out *out, const phi_description *d, const shared *s,
                                phi_ov_ref x, int layer, const char *what)
{
    char name[NAME_BYTES];
    int64_t r = d->n_rot;
    phi_ov_ref all = x;
    if (d->n_rot != d->head_dim) {
        x = phi_ov_slice_last(out, part_of(name, layer, what, "rotary"), x, 0, r);
    }
    phi_ov_ref second = phi_ov_slice_last(out, part_of(name, layer, what, "second"), x, r / 2, r);
    phi_ov_ref one = phi_ov_f32_one(out, part_of(name, layer, what, "minus_one"), -1.0F);
    phi_ov_ref minus =
        phi_ov_binary(out, "Multiply", part_of(name, layer, what, "minus"), second, one);
    phi_ov_ref first = phi_ov_slice_last(out, part_of(name, layer, what, "first"), x, 0, r / 2);
    const phi_ov_ref halves[] = {minus, first};
    phi_ov_ref turned = phi_ov_concat(out, part_of(name, layer, what, "turned"), 2, halves, -1);
    phi_ov_ref by_cos =
        phi_ov_binary(out, "Multiply", part_of(name, layer, what, "by_cos"), x, s->cos);
    phi_ov_ref by_sin =
        phi_ov_binary(out, "Multiply", part_of(name, layer, what, "by_sin"), turned, s->sin);
    phi_ov_ref sum =
        phi_ov_binary(out, "Add", part_of(name, layer, what, "rotated"), by_cos, by_sin);
    if (d->n_rot == d->head_dim) {
        return sum;
    }
    const phi_ov_ref parts[] = {sum, phi_ov_slice_last(out, part_of(name, layer, what, "rest"), all,
                                                       r, (int64_t)d->head_dim)};
    return phi_ov_concat(out, part_of(name, layer, what, "with_rest"), 2, parts, -1);
}

/* What keys or values begin with: none, of as many sequences as there are tokens for. */
static phi_ov_ref write_empty(phi_ov_out *out, const phi_description *d, const shared *s, int layer,
                              const char *what)
{
    char name[NAME_BYTES];
    const int64_t rest[] = {d->n_head_kv, 0, d->head_dim};
    phi_ov_ref empty = phi_ov_shape("f32", 4, -1, d->n_head_kv, 0, d->head_dim);
    const phi_ov_ref sizes[] = {s->batch,
                                phi_ov_i64(out, part_of(name, layer, what, "sizes"), 3, rest)};
    phi_ov_ref shape = phi_ov_concat(out, part_of(name, layer, what, "empty_shape"), 2, sizes, 0);
    const phi_ov_ref inputs[] = {phi_ov_f32_one(out, part_of(name, layer, what, "zero"), 0.0F),
                                 shape};
    phi_ov_add(out,
               &(phi_ov_layer){.op = "Broadcast",
                               .opset = "opset3",
                               .name = part_of(name, layer, what, "empty"),
                               .data = "mode=\"numpy\""},
               inputs, 2, &empty, 1);
    return empty;
}

/* The past's keys or values, of the beams that go on, with the new ones behind them. */
static phi_ov_ref write_kept(phi_ov_out *out, const phi_description *d, const shared *s,
                             phi_ov_ref x, int layer, const char *what)
{
    char name[NAME_BYTES];
    char variable[96];
    char data[224];
    char names[64];
    phi_ov_ref state = phi_ov_shape("f32", 4, -1, d->n_head_kv, -1, d->head_dim);
    phi_ov_ref empty = write_empty(out, d, s, layer, what);
    (void)snprintf(variable, sizeof variable, "variable_id=\"past_key_values.%d.%spresent.%d.%s\"",
                   layer, what, layer, what);
    (void)snprintf(data, sizeof data, "%s variable_type=\"f32\" variable_shape=\"?,%u,?,%u\"",
                   variable, d->n_head_kv, d->head_dim);
    (void)snprintf(names, sizeof names, "past_key_values.%d.%s", layer, what);
    phi_ov_add(out,
               &(phi_ov_layer){.op = "ReadValue",
                               .opset = "opset6",
                               .name = part_of(name, layer, what, "read"),
                               .data = data,
                               .names = names},
               &empty, 1, &state, 1);
    phi_ov_ref past = phi_ov_gather(out, part_of(name, layer, what, "past"), state, s->beams, 0);
    const phi_ov_ref parts[] = {past, x};
    phi_ov_ref all = phi_ov_concat(out, part_of(name, layer, what, "all"), 2, parts, -2);
    phi_ov_ref kept = all;
    phi_ov_add(out,
               &(phi_ov_layer){.op = "Assign",
                               .opset = "opset6",
                               .name = part_of(name, layer, what, "keep"),
                               .data = variable},
               &all, 1, &kept, 1);
    return all;
}

/* The same, repeated so that every query head has its own. */
static phi_ov_ref write_cached(phi_ov_out *out, const phi_description *d, const shared *s,
                               phi_ov_ref x, int layer, const char *what)
{
    char name[NAME_BYTES];
    phi_ov_ref all = write_kept(out, d, s, x, layer, what);
    if (d->n_head == d->n_head_kv) {
        return all;
    }
    int64_t times = d->n_head / d->n_head_kv;
    phi_ov_ref apart = phi_ov_unsqueeze(out, part_of(name, layer, what, "groups"), all, 2);
    const int64_t widths[] = {1, 1, times, 1, 1};
    const phi_ov_ref repeat[] = {apart,
                                 phi_ov_i64(out, part_of(name, layer, what, "times"), 5, widths)};
    phi_ov_ref repeated = apart;
    repeated.dims[2] = times;
    phi_ov_add(out,
               &(phi_ov_layer){.op = "Broadcast",
                               .opset = "opset3",
                               .name = part_of(name, layer, what, "repeated"),
                               .data = "mode=\"bidirectional\""},
               repeat, 2, &repeated, 1);
    const int64_t joined[] = {0, d->n_head, -1, d->head_dim};
    return phi_ov_reshape(out, part_of(name, layer, what, "by_query_head"), repeated, 4, joined,
                          true);
}

/* Queries, keys and values: of one product, or of three, as the class has them. */
static void write_qkv(phi_ov_writer *w, phi_ov_ref x, int layer, phi_ov_ref parts[3])
{
    static const char *const names[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"};
    char name[NAME_BYTES];
    const phi_description *d = w->export->description;
    int64_t q_rows = (int64_t)d->n_head * d->head_dim;
    int64_t kv_rows = (int64_t)d->n_head_kv * d->head_dim;
    const int64_t lengths[] = {q_rows, kv_rows, kv_rows};
    if (!phi_ov_is_apart(d->arch, PHI_PART_ATTN_QKV)) {
        phi_ov_ref qkv = write_linear(w, x, PHI_PART_ATTN_QKV, layer, "self_attn.qkv_proj");
        phi_ov_split_last(&w->out, name_of(name, layer, "self_attn/split"), qkv, 3, lengths, parts);
        return;
    }
    for (uint32_t i = 0; i < 3; i++) {
        const phi_ov_role role = {
            .part = PHI_PART_ATTN_QKV, .layer = (uint32_t)layer, .piece = i, .in_pieces = true};
        parts[i] = write_product(w, x, &role, names[i]);
    }
}

static phi_ov_ref write_attention(phi_ov_writer *w, const shared *s, phi_ov_ref x, int layer)
{
    char name[NAME_BYTES];
    phi_ov_out *out = &w->out;
    const phi_description *d = w->export->description;
    const int64_t side_by_side[] = {0, 0, (int64_t)d->n_head * d->head_dim};
    phi_ov_ref parts[3];
    write_qkv(w, x, layer, parts);
    phi_ov_ref q = write_heads(out, d, parts[0], layer, "query", d->n_head);
    phi_ov_ref k = write_heads(out, d, parts[1], layer, "key", d->n_head_kv);
    phi_ov_ref v = write_heads(out, d, parts[2], layer, "value", d->n_head_kv);
    q = write_rotated(out, d, s, q, layer, "query");
    k = write_rotated(out, d, s, k, layer, "key");
    k = write_cached(out, d, s, k, layer, "key");
    v = write_cached(out, d, s, v, layer, "value");
    float scale = 1.0F / sqrtf((float)d->head_dim);
    phi_ov_ref by = phi_ov_constant(out, name_of(name, layer, "self_attn/scale"),
                                    phi_ov_shape("f32", 0, 0, 0, 0, 0), &scale, sizeof scale);
    const phi_ov_ref inputs[] = {q, k, v, s->mask, by};
    phi_ov_ref mixed = q;
    phi_ov_add(out,
               &(phi_ov_layer){.op = "ScaledDotProductAttention",
                               .opset = "opset13",
                               .name = name_of(name, layer, "self_attn/attention"),
                               .data = "causal=\"false\""},
               inputs, 5, &mixed, 1);
    mixed = phi_ov_transpose(out, name_of(name, layer, "self_attn/by_token"), mixed, swapped);
    mixed = phi_ov_reshape(out, name_of(name, layer, "self_attn/side_by_side"), mixed, 3,
                           side_by_side, true);
    return write_linear(w, mixed, PHI_PART_ATTN_OUTPUT, layer,
                        d->arch == PHI_ARCH_PHI2 ? "self_attn.dense" : "self_attn.o_proj");
}

static phi_ov_ref write_gelu(phi_ov_writer *w, phi_ov_ref x, int layer)
{
    char name[NAME_BYTES];
    x = write_linear(w, x, PHI_PART_FFN_FC1, layer, "mlp.fc1");
    x = phi_ov_add_one(&w->out,
                       &(phi_ov_layer){.op = "Gelu",
                                       .opset = "opset7",
                                       .name = name_of(name, layer, "mlp/gelu"),
                                       .data = "approximation_mode=\"TANH\""},
                       &x, 1, x);
    return write_linear(w, x, PHI_PART_FFN_DOWN, layer, "mlp.fc2");
}

static phi_ov_ref write_swiglu(phi_ov_writer *w, phi_ov_ref x, int layer)
{
    char name[NAME_BYTES];
    phi_ov_out *out = &w->out;
    int64_t n_ffn = w->export->description->n_ffn;
    const int64_t lengths[] = {n_ffn, n_ffn};
    phi_ov_ref halves[2];
    phi_ov_ref both = write_linear(w, x, PHI_PART_FFN_UP, layer, "mlp.gate_up_proj");
    phi_ov_split_last(out, name_of(name, layer, "mlp/split"), both, 2, lengths, halves);
    phi_ov_ref gate = phi_ov_unary(out, "Swish", name_of(name, layer, "mlp/silu"), halves[0]);
    phi_ov_ref gated =
        phi_ov_binary(out, "Multiply", name_of(name, layer, "mlp/gated"), halves[1], gate);
    return write_linear(w, gated, PHI_PART_FFN_DOWN, layer, "mlp.down_proj");
}

static phi_ov_ref write_ffn(phi_ov_writer *w, phi_ov_ref x, int layer)
{
    switch (w->export->description->ffn) {
    case PHI_FFN_SWIGLU:
        return write_swiglu(w, x, layer);
    case PHI_FFN_GELU:
        return write_gelu(w, x, layer);
    case PHI_FFN_EXPERTS:
        return phi_ov_write_experts(w, x, layer);
    }
    PHI_UNREACHABLE();
}

static phi_ov_ref write_layer(phi_ov_writer *w, const shared *s, phi_ov_ref h, int layer)
{
    char name[NAME_BYTES];
    phi_ov_out *out = &w->out;
    phi_ov_ref x = write_norm(w, h, PHI_PART_ATTN_NORM, layer, "input_layernorm");
    phi_ov_ref mixed = write_attention(w, s, x, layer);
    if (w->export->description->is_parallel) {
        x = write_ffn(w, x, layer);
        x = phi_ov_binary(out, "Add", name_of(name, layer, "both"), mixed, x);
        return phi_ov_binary(out, "Add", name_of(name, layer, "after_both"), x, h);
    }
    h = phi_ov_binary(out, "Add", name_of(name, layer, "after_attention"), h, mixed);
    x = write_norm(w, h, PHI_PART_FFN_NORM, layer, "post_attention_layernorm");
    x = write_ffn(w, x, layer);
    return phi_ov_binary(out, "Add", name_of(name, layer, "after_mlp"), h, x);
}

static void write_head(phi_ov_writer *w, phi_ov_ref h, phi_ov_ref table)
{
    phi_ov_out *out = &w->out;
    const phi_description *d = w->export->description;
    const phi_ov_role role = {.part = PHI_PART_OUTPUT};
    const phi_ov_ref inputs[] = {h, d->tied_head ? table : phi_ov_write_matrix(w, &role)};
    phi_ov_ref logits = phi_ov_shape("f32", 3, -1, -1, d->n_vocab, 0);
    phi_ov_layer layer = {.op = "MatMul",
                          .opset = "opset1",
                          .name = "lm_head",
                          .data = "transpose_a=\"false\" transpose_b=\"true\"",
                          .names = d->head_bias ? NULL : "logits"};
    logits = phi_ov_add_one(out, &layer, inputs, 2, logits);
    if (d->head_bias) {
        const phi_ov_role bias = {.part = PHI_PART_OUTPUT_BIAS};
        const phi_ov_ref sum[] = {logits, phi_ov_write_vector(w, &bias)};
        layer = (phi_ov_layer){.op = "Add",
                               .opset = "opset1",
                               .name = "lm_head/with_bias",
                               .data = "auto_broadcast=\"numpy\"",
                               .names = "logits"};
        logits = phi_ov_add_one(out, &layer, sum, 2, logits);
    }
    phi_ov_add(out, &(phi_ov_layer){.op = "Result", .opset = "opset1", .name = "logits"}, &logits,
               1, NULL, 0);
}

void phi_ov_write_decoder(phi_ov_writer *w)
{
    phi_ov_out *out = &w->out;
    const phi_description *d = w->export->description;
    const phi_ov_role embedding = {.part = PHI_PART_TOKEN_EMBD};
    shared s = {.tokens = parameter(out, "input_ids", "i64", 2)};
    phi_ov_ref given = parameter(out, "attention_mask", "i64", 2);
    s.positions = parameter(out, "position_ids", "i64", 2);
    s.beams = parameter(out, "beam_idx", "i32", 1);
    s.batch = size_of(out, "model.batch", s.tokens, 0, false);
    write_positions(out, d, &s);
    s.mask = write_mask(out, d, given, s.tokens);
    phi_ov_ref table = phi_ov_write_matrix(w, &embedding);
    phi_ov_ref ids = phi_ov_convert(out, "model.embed_tokens/ids", s.tokens, "i32");
    phi_ov_ref h = phi_ov_gather(out, "model.embed_tokens", table, ids, 0);
    for (int layer = 0; layer < (int)d->n_layer && !out->failed.code; layer++) {
        h = write_layer(w, &s, h, layer);
    }
    write_head(w, write_norm(w, h, PHI_PART_OUTPUT_NORM, -1, "norm"), table);
}
