/*
 * Feed-forward by experts, with ONNX's own operators: MoE and QMoE of onnxruntime route in another
 * way, and on CPUs take no third matrix. [T, n]: tokens of all sequences, one below the other; E
 * experts.
 *
 * The router makes [T, E] shares of a token's two experts, zeros elsewhere. Each expert multiplies
 * the tokens that have a share of it, and what it makes, times the share, is added to their rows.
 *   choice of a pool of scores: the best, and its share in the softmax of the pool without those
 *   that are far below it: (best - score) / max(|score|, best) > 2 * jitter
 *   first: of the scores; second: of the scores with the first at minus infinity
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/formats/onnx_node.h"
#include "engine/formats/onnx_writer.h"
#include "engine/formats/protobuf_write.h"

#define CONSTANT "/model/moe/constants/"

typedef struct place {
    phi_onnx_writer *w;
    uint32_t layer;
} place;

/* ---- constants, of all layers ---- */

static void add_float(phi_onnx_writer *w, const char *name, float number)
{
    phi_buf tensor = phi_onnx_make_tensor(name, PHI_ONNX_FLOAT, 0, NULL, &number, sizeof number);
    phi_proto_put_message(&w->graph, PHI_ONNX_GRAPH_INITIALIZER, &tensor);
}

static void add_constants(phi_onnx_writer *w)
{
    const phi_description *d = w->export->description;
    const int64_t flat[] = {-1, d->n_embd};
    const int64_t last = -1;
    const int64_t one = 1;
    int64_t numbers[PHI_LIMIT_EXPERTS];
    for (uint32_t i = 0; i < d->n_expert; i++) {
        char name[PHI_ONNX_NAME_BYTES];
        numbers[i] = i;
        (void)snprintf(name, sizeof name, CONSTANT "expert_%u", i);
        phi_onnx_add_numbers(w, name, 0, &numbers[i]);
    }
    phi_onnx_add_numbers(w, CONSTANT "experts", d->n_expert, numbers);
    phi_onnx_add_numbers(w, CONSTANT "flat", 2, flat);
    phi_onnx_add_numbers(w, CONSTANT "last", 1, &last);
    phi_onnx_add_numbers(w, CONSTANT "one", 1, &one);
    add_float(w, CONSTANT "lowest", -INFINITY);
    add_float(w, CONSTANT "nothing", 0.0F);
    add_float(w, CONSTANT "far", 2.0F * d->router_jitter);
}

/* ---- nodes ---- */

/* Starts the node "/model/layers.N/moe/WHAT". Of its inputs, "@WHAT" is what that node gives, and
 * "#NAME" a constant. */
static phi_buf start_step(const place *p, const char *op, const char *what, const char *inputs)
{
    char name[PHI_ONNX_NAME_BYTES];
    char output[PHI_ONNX_NAME_BYTES];
    char all[4 * PHI_ONNX_NAME_BYTES] = "";
    size_t used = 0;
    while (*inputs) {
        size_t bytes = strcspn(inputs, " ");
        int length = (int)bytes - 1;
        const char *gap = used ? " " : "";
        char *to = all + used;
        size_t room = sizeof all - used;
        if (*inputs == '@') {
            (void)snprintf(to, room, "%s/model/layers.%u/moe/%.*s/output_0", gap, p->layer, length,
                           inputs + 1);
        } else if (*inputs == '#') {
            (void)snprintf(to, room, "%s" CONSTANT "%.*s", gap, length, inputs + 1);
        } else {
            (void)snprintf(to, room, "%s%.*s", gap, (int)bytes, inputs);
        }
        used += strlen(to);
        inputs += bytes + (inputs[bytes] == ' ');
    }
    (void)snprintf(name, sizeof name, "/model/layers.%u/moe/%s", p->layer, what);
    (void)snprintf(output, sizeof output, "/model/layers.%u/moe/%s/output_0", p->layer, what);
    return phi_onnx_start_node(op, "", name, all, output);
}

static void add_step(const place *p, const char *op, const char *what, const char *inputs)
{
    phi_buf node = start_step(p, op, what, inputs);
    phi_onnx_end_node(p->w, &node);
}

/* With an attribute that is a number. */
static void add_step_with(const place *p, const char *op, const char *what, const char *inputs,
                          const char *attribute, int64_t value)
{
    phi_buf node = start_step(p, op, what, inputs);
    phi_onnx_put_int(&node, attribute, value);
    phi_onnx_end_node(p->w, &node);
}

/* ---- the router ---- */

/* "router/first/best": of `which` choice, of the values in `pool`. */
static void add_choice(const place *p, const char *which, const char *pool)
{
    enum { BEST, INDEX, CHOSEN, BELOW, SIZE, RATIO, IS_FAR, NEAR, SHARES, COUNT };
    static const char *const names[COUNT] = {"best",  "index",  "is_chosen", "below", "size",
                                             "ratio", "is_far", "near",      "shares"};
    char own[COUNT][64];
    char inputs[256];
    for (int i = 0; i < COUNT; i++) {
        (void)snprintf(own[i], sizeof own[i], "router/%s/%s", which, names[i]);
    }
    (void)snprintf(inputs, sizeof inputs, "%s #last", pool);
    add_step_with(p, "ReduceMax", own[BEST], inputs, "keepdims", 1);
    add_step_with(p, "ArgMax", own[INDEX], pool, "axis", -1);
    (void)snprintf(inputs, sizeof inputs, "#experts @%s", own[INDEX]);
    add_step(p, "Equal", own[CHOSEN], inputs);
    (void)snprintf(inputs, sizeof inputs, "@%s @router/MatMul", own[BEST]);
    add_step(p, "Sub", own[BELOW], inputs);
    (void)snprintf(inputs, sizeof inputs, "@router/magnitude @%s", own[BEST]);
    add_step(p, "Max", own[SIZE], inputs);
    (void)snprintf(inputs, sizeof inputs, "@%s @%s", own[BELOW], own[SIZE]);
    add_step(p, "Div", own[RATIO], inputs);
    (void)snprintf(inputs, sizeof inputs, "@%s #far", own[RATIO]);
    add_step(p, "Greater", own[IS_FAR], inputs);
    (void)snprintf(inputs, sizeof inputs, "@%s #lowest %s", own[IS_FAR], pool);
    add_step(p, "Where", own[NEAR], inputs);
    (void)snprintf(inputs, sizeof inputs, "@%s", own[NEAR]);
    add_step_with(p, "Softmax", own[SHARES], inputs, "axis", -1);
}

/* Adds "router/shares". */
static phi_status add_router(const place *p, const char *tokens)
{
    const phi_export_tensor *router = phi_onnx_find(p->w, PHI_PART_FFN_ROUTER, p->layer);
    char scores[PHI_ONNX_NAME_BYTES];
    if (!router) {
        return phi_onnx_fail_missing(p->w, PHI_PART_FFN_ROUTER, p->layer);
    }
    phi_status status =
        phi_onnx_add_product(p->w, router, p->layer, "moe/router", 0, router->rows, tokens, scores);
    if (status) {
        return status;
    }
    add_step(p, "Abs", "router/magnitude", "@router/MatMul");
    add_choice(p, "first", "@router/MatMul");
    add_step(p, "Where", "router/rest", "@router/first/is_chosen #lowest @router/MatMul");
    add_choice(p, "second", "@router/rest");
    add_step(p, "Where", "router/of_second",
             "@router/second/is_chosen @router/second/shares #nothing");
    add_step(p, "Where", "router/shares",
             "@router/first/is_chosen @router/first/shares @router/of_second");
    return PHI_OK;
}

/* ---- experts ---- */

/* Adds what one expert makes of its tokens to `sum`, which becomes the new sum. */
static phi_status add_expert(const place *p, uint32_t expert, const onnx_rows parts[3], char *sum)
{
    enum { SHARE, FOUND, ROWS, TOKENS, TAKEN, COLUMN, WEIGHED, SUM, COUNT };
    static const char *const names[COUNT] = {"share", "found",  "rows",    "tokens",
                                             "taken", "column", "weighed", "sum"};
    char own[COUNT][64];
    char what[64];
    char inputs[3 * 64];
    char tokens[PHI_ONNX_NAME_BYTES];
    char made[PHI_ONNX_NAME_BYTES];
    for (int i = 0; i < COUNT; i++) {
        (void)snprintf(own[i], sizeof own[i], "experts.%u/%s", expert, names[i]);
    }
    (void)snprintf(inputs, sizeof inputs, "@router/shares #expert_%u", expert);
    add_step_with(p, "Gather", own[SHARE], inputs, "axis", 1);
    (void)snprintf(inputs, sizeof inputs, "@%s", own[SHARE]);
    add_step(p, "NonZero", own[FOUND], inputs);
    (void)snprintf(inputs, sizeof inputs, "@%s", own[FOUND]);
    phi_buf node = start_step(p, "Transpose", own[ROWS], inputs);
    static const int64_t turned[] = {1, 0};
    phi_onnx_put_ints(&node, "perm", 2, turned);
    phi_onnx_end_node(p->w, &node);
    (void)snprintf(inputs, sizeof inputs, "@tokens @%s", own[ROWS]);
    add_step(p, "GatherND", own[TOKENS], inputs);
    (void)snprintf(what, sizeof what, "moe/experts.%u", expert);
    (void)snprintf(tokens, sizeof tokens, "/model/layers.%u/moe/%s/output_0", p->layer,
                   own[TOKENS]);
    phi_status status = phi_onnx_add_swiglu(p->w, p->layer, what, parts, tokens, made);
    if (status) {
        return status;
    }
    (void)snprintf(inputs, sizeof inputs, "@%s @%s", own[SHARE], own[ROWS]);
    add_step(p, "GatherND", own[TAKEN], inputs);
    (void)snprintf(inputs, sizeof inputs, "@%s #one", own[TAKEN]);
    add_step(p, "Unsqueeze", own[COLUMN], inputs);
    (void)snprintf(inputs, sizeof inputs, "@experts.%u/down_proj/MatMul @%s", expert, own[COLUMN]);
    add_step(p, "Mul", own[WEIGHED], inputs);
    (void)snprintf(inputs, sizeof inputs, "@%s @%s @%s", sum, own[ROWS], own[WEIGHED]);
    node = start_step(p, "ScatterND", own[SUM], inputs);
    phi_onnx_put_string(&node, "reduction", "add");
    phi_onnx_end_node(p->w, &node);
    (void)snprintf(sum, sizeof own[SUM], "%s", own[SUM]);
    return PHI_OK;
}

phi_status phi_onnx_add_experts(phi_onnx_writer *w, uint32_t layer, const char *input, char *output)
{
    static const phi_part parts[] = {PHI_PART_FFN_GATE_EXPS, PHI_PART_FFN_UP_EXPS,
                                     PHI_PART_FFN_DOWN_EXPS};
    const phi_description *d = w->export->description;
    const place p = {.w = w, .layer = layer};
    onnx_rows rows[3];
    char inputs[2 * PHI_ONNX_NAME_BYTES];
    char tokens[PHI_ONNX_NAME_BYTES];
    char sum[64] = "nothing";
    for (size_t i = 0; i < 3; i++) {
        rows[i].tensor = phi_onnx_find(w, parts[i], layer);
        if (!rows[i].tensor) {
            return phi_onnx_fail_missing(w, parts[i], layer);
        }
        rows[i].count = rows[i].tensor->rows / d->n_expert;
    }
    if (layer == 0) {
        add_constants(w);
    }
    (void)snprintf(inputs, sizeof inputs, "%s #flat", input);
    add_step(&p, "Reshape", "tokens", inputs);
    (void)snprintf(tokens, sizeof tokens, "/model/layers.%u/moe/tokens/output_0", layer);
    phi_status status = add_router(&p, tokens);
    add_step(&p, "Shape", "tokens/shape", "@tokens");
    add_step(&p, "ConstantOfShape", sum, "@tokens/shape");
    for (uint32_t i = 0; i < d->n_expert && !status; i++) {
        for (size_t j = 0; j < 3; j++) {
            rows[j].first = i * rows[j].count;
        }
        status = add_expert(&p, i, rows, sum);
    }
    add_step(&p, "Shape", "shape", input);
    (void)snprintf(inputs, sizeof inputs, "@%s @shape", sum);
    add_step(&p, "Reshape", "by_sequence", inputs);
    (void)snprintf(output, PHI_ONNX_NAME_BYTES, "/model/layers.%u/moe/by_sequence/output_0", layer);
    return status;
}
