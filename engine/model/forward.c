#include "engine/model/forward.h"

#include "base/assert.h"
#include "base/checked.h"
#include "base/clock.h"
#include "base/mem.h"
#include "engine/model/attention.h"
#include "engine/model/experts.h"
#include "engine/model/rope.h"
#include "engine/model/rows.h"

#include <string.h>

struct phi_forward_ctx {
    phi_description description;
    phi_forward_sizes sizes;
    phi_rope rope;
    phi_matmul_scratch scratch;
    phi_attention_scratch attention;
    phi_experts_scratch experts;
    float *memory; /* all of the following, one allocation */
    uint64_t memory_bytes;
    float *x;                     /* [n_tok, E] the residual stream */
    float *normed;                /* [n_tok, E] */
    float *qkv;                   /* [n_tok, (H + 2 Hkv) d] */
    float *attn;                  /* [n_tok, H d] */
    float *delta;                 /* [n_tok, E] what a half-layer adds */
    float *gate;                  /* [n_tok, 2 F]; not with PHI_FFN_GELU */
    float *ffn;                   /* [n_tok, F] */
    float *cosine;                /* [n_tok, r / 2] */
    float *sine;                  /* [n_tok, r / 2] */
    float *logits;                /* [n_logits, V] */
    phi_row *rows;                /* [n_tok] as they are computed: those of prompts last */
    phi_forward_profile *profile; /* NULL: times are not taken */
    uint64_t lap_ns;              /* when the present part of the pass began */
    phi_forward_tap tap;          /* NULL: nobody looks */
    void *tap_user;
};

uint64_t phi_kv_page_bytes(const phi_description *description, phi_kv_type type)
{
    return (uint64_t)description->n_layer * description->n_head_kv *
           phi_kv_head_bytes(type, description->head_dim);
}

/* Hands out the parts of ctx->memory; with memory NULL it only counts. */
static uint64_t lay_out(phi_forward_ctx *ctx)
{
    const phi_description *desc = &ctx->description;
    uint64_t t = ctx->sizes.n_tok_max;
    uint64_t d = desc->head_dim;
    uint64_t qkv_cols = (desc->n_head + 2 * (uint64_t)desc->n_head_kv) * d;
    struct {
        float **part;
        uint64_t count;
    } parts[] = {
        {&ctx->x, t * desc->n_embd},
        {&ctx->normed, t * desc->n_embd},
        {&ctx->qkv, t * qkv_cols},
        {&ctx->attn, t * desc->n_head * d},
        {&ctx->delta, t * desc->n_embd},
        {&ctx->gate, desc->ffn == PHI_FFN_GELU ? 0 : t * 2 * desc->n_ffn},
        {&ctx->ffn, t * desc->n_ffn},
        {&ctx->cosine, t * (desc->n_rot / 2)},
        {&ctx->sine, t * (desc->n_rot / 2)},
        {&ctx->logits, (uint64_t)ctx->sizes.n_logits_max * desc->n_vocab},
    };
    uint64_t used = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (ctx->memory) {
            *parts[i].part = ctx->memory + used;
        }
        /* Each part begins on a cache line. */
        used += (parts[i].count + 15) / 16 * 16;
    }
    return used * sizeof(float);
}

phi_status phi_forward_ctx_create(const phi_description *description,
                                  const phi_forward_sizes *sizes, phi_forward_ctx **out_ctx,
                                  phi_err *err)
{
    uint32_t n_tok_max = sizes->n_tok_max;
    PHI_ASSERT(n_tok_max > 0 && sizes->n_threads > 0);
    phi_forward_ctx *ctx = phi_alloc_zero(1, sizeof *ctx);
    ctx->description = *description;
    ctx->sizes = *sizes;
    uint32_t cols = description->n_embd;
    uint32_t attn_cols = description->n_head * description->head_dim;
    cols = attn_cols > cols ? attn_cols : cols;
    cols = description->n_ffn > cols ? description->n_ffn : cols;
    phi_status status = phi_rope_init(&ctx->rope, description, err);
    const phi_matmul_sizes products = {n_tok_max, cols, sizes->n_threads};
    status = status ? status : phi_matmul_scratch_init(&ctx->scratch, &products, err);
    status = status ? status
                    : phi_attention_scratch_init(&ctx->attention, description, n_tok_max,
                                                 sizes->n_threads, err);
    status = status ? status : phi_experts_scratch_init(&ctx->experts, description, n_tok_max, err);
    ctx->memory_bytes = lay_out(ctx);
    ctx->memory = phi_try_alloc_aligned((size_t)ctx->memory_bytes);
    ctx->rows = phi_try_alloc_zero(n_tok_max, sizeof *ctx->rows);
    if (!status && (!ctx->memory || !ctx->rows)) {
        status =
            phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for %u tokens a step (%llu bytes)",
                     n_tok_max, (unsigned long long)ctx->memory_bytes);
    }
    if (status) {
        phi_forward_ctx_destroy(ctx);
        return status;
    }
    (void)lay_out(ctx);
    *out_ctx = ctx;
    return PHI_OK;
}

void phi_forward_ctx_destroy(phi_forward_ctx *ctx)
{
    if (ctx) {
        phi_rope_done(&ctx->rope);
        phi_matmul_scratch_done(&ctx->scratch);
        phi_attention_scratch_done(&ctx->attention);
        phi_experts_scratch_done(&ctx->experts);
        phi_free(ctx->memory);
        phi_free(ctx->rows);
        phi_free(ctx);
    }
}

uint64_t phi_forward_ctx_bytes(const phi_forward_ctx *ctx)
{
    return ctx->memory_bytes + phi_matmul_scratch_bytes(&ctx->scratch.sizes) +
           phi_attention_scratch_bytes(&ctx->description, ctx->sizes.n_tok_max,
                                       ctx->sizes.n_threads) +
           phi_experts_scratch_bytes(&ctx->description, ctx->sizes.n_tok_max);
}

/* ---- times ---- */

void phi_forward_ctx_profile(phi_forward_ctx *ctx, phi_forward_profile *profile)
{
    ctx->profile = profile;
}

static void begin_laps(phi_forward_ctx *ctx)
{
    if (ctx->profile) {
        ctx->lap_ns = phi_clock_ns();
    }
}

/* What has run since the last lap was of that part. */
static void lap(phi_forward_ctx *ctx, phi_forward_part part)
{
    if (ctx->profile) {
        uint64_t now_ns = phi_clock_ns();
        ctx->profile->ns[part] += now_ns - ctx->lap_ns;
        ctx->lap_ns = now_ns;
    }
}

/* ---- what is looked at ---- */

void phi_forward_ctx_tap(phi_forward_ctx *ctx, phi_forward_tap tap, void *user)
{
    ctx->tap = tap;
    ctx->tap_user = user;
}

static void show(const phi_forward_ctx *ctx, phi_forward_point point, const float *values,
                 uint32_t rows, uint32_t cols)
{
    if (ctx->tap) {
        ctx->tap(ctx->tap_user, point, values, rows, cols);
    }
}

/* ---- element-wise stages, over rows ---- */

typedef struct stage {
    const phi_forward_ctx *ctx;
    const phi_kernels *kernels;
    const float *in;
    const float *weight;
    const float *bias; /* NULL: none */
    float *out;
    size_t width; /* of bias_slice's rows */
} stage;

static void norm_slice(void *arg, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const stage *self = arg;
    const phi_description *desc = &self->ctx->description;
    size_t n = desc->n_embd;
    for (size_t t = begin; t < end; t++) {
        const float *x = self->in + t * n;
        float *out = self->out + t * n;
        if (desc->norm == PHI_NORM_RMS) {
            self->kernels->rms_norm(x, self->weight, n, desc->norm_eps, out);
        } else {
            self->kernels->layer_norm(x, self->weight, self->bias, n, desc->norm_eps, out);
        }
    }
}

static void rope_slice(void *arg, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const stage *self = arg;
    const phi_description *desc = &self->ctx->description;
    size_t half = desc->n_rot / 2;
    size_t d = desc->head_dim;
    size_t stride = (desc->n_head + 2 * (size_t)desc->n_head_kv) * d;
    for (size_t t = begin; t < end; t++) {
        if (self->bias) {
            self->kernels->add(self->out + t * stride, self->bias, stride);
        }
        /* Queries, then keys, lie one after the other; values are not rotated. */
        for (size_t h = 0; h < (size_t)desc->n_head + desc->n_head_kv; h++) {
            self->kernels->rope(self->out + t * stride + h * d, self->ctx->cosine + t * half,
                                self->ctx->sine + t * half, desc->n_rot);
        }
    }
}

static void swiglu_slice(void *arg, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const stage *self = arg;
    size_t f = self->ctx->description.n_ffn;
    for (size_t t = begin; t < end; t++) {
        const float *gate = self->in + t * 2 * f;
        self->kernels->swiglu(gate, gate + f, f, self->out + t * f);
    }
}

static void gelu_slice(void *arg, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const stage *self = arg;
    size_t f = self->ctx->description.n_ffn;
    for (size_t t = begin; t < end; t++) {
        float *out = self->out + t * f;
        self->kernels->add(out, self->bias, f);
        self->kernels->gelu(out, f, out);
    }
}

static void add_slice(void *arg, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const stage *self = arg;
    size_t n = self->ctx->description.n_embd;
    self->kernels->add(self->out + begin * n, self->in + begin * n, (end - begin) * n);
    for (size_t t = begin; self->bias && t < end; t++) {
        self->kernels->add(self->out + t * n, self->bias, n);
    }
}

static void bias_slice(void *arg, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const stage *self = arg;
    for (size_t t = begin; t < end; t++) {
        self->kernels->add(self->out + t * self->width, self->bias, self->width);
    }
}

/* ---- one layer ---- */

typedef struct layer_call {
    const phi_layer_weights *layer;
    uint32_t page_layer; /* index of the layer inside a page */
    const phi_row *rows; /* those of prompts last */
    uint32_t n_rows;
    uint32_t n_prompt;
    const phi_kv_view *views;
    float *x;
    bool is_last; /* only what the logits need goes on, once keys and values are stored */
} layer_call;

/* x is written by `fill` first, unless that is NULL. */
static void multiply(phi_forward_ctx *ctx, const phi_compute *compute, const layer_call *call,
                     const phi_weight *weight, const float *x, const phi_fill *fill, float *y)
{
    phi_matmul_rows(compute, weight, x, fill, call->n_rows, call->n_prompt, y, &ctx->scratch);
    lap(ctx, PHI_FORWARD_MATRICES);
}

/* What norm_slice makes ctx->normed with. */
static stage norm_of(phi_forward_ctx *ctx, const phi_compute *compute, const float *x,
                     const float *weight, const float *bias)
{
    return (stage){.ctx = ctx,
                   .kernels = compute->kernels,
                   .in = x,
                   .weight = weight,
                   .bias = bias,
                   .out = ctx->normed};
}

/* Adds what a half-layer made, and its bias. */
static void add_delta(phi_forward_ctx *ctx, const phi_compute *compute, const layer_call *call,
                      const float *bias)
{
    stage self = {
        .ctx = ctx, .kernels = compute->kernels, .in = ctx->delta, .bias = bias, .out = call->x};
    phi_over_rows(compute, call->n_rows, add_slice, &self);
    lap(ctx, PHI_FORWARD_REST);
}

static void move_row(float *values, size_t cols, uint32_t from, uint32_t to)
{
    if (from != to) {
        memcpy(values + to * cols, values + from * cols, cols * sizeof *values);
    }
}

/* Leaves the rows that get logits, in their order: of a prompt that is served its last one, and the
 * others are spared three quarters of a layer, and the attention before that. */
static void keep_wanted(phi_forward_ctx *ctx, layer_call *call)
{
    const phi_description *desc = &ctx->description;
    uint32_t n_generated = call->n_rows - call->n_prompt;
    uint32_t n = 0;
    uint32_t n_prompt = 0;
    for (uint32_t i = 0; i < call->n_rows; i++) {
        if (ctx->rows[i].want_logits) {
            move_row(call->x, desc->n_embd, i, n);
            move_row(ctx->normed, desc->n_embd, i, n);
            move_row(ctx->attn, (size_t)desc->n_head * desc->head_dim, i, n);
            n_prompt += i >= n_generated;
            n++;
        }
    }
    call->n_rows = n;
    call->n_prompt = n_prompt;
}

/* Of what is left of the call's rows. */
static void run_attention(phi_forward_ctx *ctx, const phi_compute *compute, layer_call *call)
{
    const phi_layer_weights *w = call->layer;
    uint32_t n = call->n_rows;
    stage norm = norm_of(ctx, compute, call->x, w->attn_norm, w->attn_norm_bias);
    multiply(ctx, compute, call, &w->qkv, ctx->normed,
             &(phi_fill){.rows = norm_slice, .arg = &norm}, ctx->qkv);
    show(ctx, PHI_POINT_ATTN_NORM, ctx->normed, n, w->qkv.cols);
    stage self = {.ctx = ctx, .kernels = compute->kernels, .bias = w->qkv_bias, .out = ctx->qkv};
    phi_over_rows(compute, n, rope_slice, &self);
    show(ctx, PHI_POINT_QKV, ctx->qkv, n, w->qkv.rows);
    lap(ctx, PHI_FORWARD_REST);
    phi_attention attention = {.description = &ctx->description,
                               .kv_type = ctx->sizes.kv_type,
                               .layer = call->page_layer,
                               .rows = call->rows,
                               .n_rows = n,
                               .views = call->views,
                               .qkv = ctx->qkv,
                               .out = ctx->attn,
                               .only_wanted = call->is_last};
    phi_attention_run(compute, &attention, &ctx->attention);
    if (call->is_last) {
        keep_wanted(ctx, call);
        n = call->n_rows;
    }
    lap(ctx, PHI_FORWARD_ATTENTION);
    show(ctx, PHI_POINT_ATTN, ctx->attn, n, w->out.cols);
    multiply(ctx, compute, call, &w->out, ctx->attn, NULL, ctx->delta);
    show(ctx, PHI_POINT_ATTN_OUT, ctx->delta, n, w->out.rows);
    add_delta(ctx, compute, call, w->out_bias);
    show(ctx, PHI_POINT_ATTN_SUM, call->x, n, w->out.rows);
}

static void run_ffn(phi_forward_ctx *ctx, const phi_compute *compute, const layer_call *call)
{
    const phi_layer_weights *w = call->layer;
    uint32_t n = call->n_rows;
    bool is_gated = ctx->description.ffn == PHI_FFN_SWIGLU;
    stage norm = norm_of(ctx, compute, call->x, w->ffn_norm, w->ffn_norm_bias);
    stage self = {.ctx = ctx,
                  .kernels = compute->kernels,
                  .in = ctx->gate,
                  .bias = w->up_bias,
                  .out = ctx->ffn};
    const phi_fill fill_norm = {.rows = norm_slice, .arg = &norm};
    const phi_fill fill_ffn = {.rows = is_gated ? swiglu_slice : gelu_slice, .arg = &self};
    /* A parallel layer has one norm, and attention has had it written. */
    bool has_norm = ctx->description.is_parallel;
    multiply(ctx, compute, call, &w->up, ctx->normed, has_norm ? NULL : &fill_norm,
             is_gated ? ctx->gate : ctx->ffn);
    if (!has_norm) {
        show(ctx, PHI_POINT_FFN_NORM, ctx->normed, n, w->up.cols);
    }
    if (is_gated) {
        show(ctx, PHI_POINT_UP, ctx->gate, n, w->up.rows);
    }
    multiply(ctx, compute, call, &w->down, ctx->ffn, &fill_ffn, ctx->delta);
    show(ctx, PHI_POINT_FFN, ctx->ffn, n, w->down.cols);
    show(ctx, PHI_POINT_FFN_OUT, ctx->delta, n, w->down.rows);
    add_delta(ctx, compute, call, w->down_bias);
    show(ctx, PHI_POINT_SUM, call->x, n, w->down.rows);
}

static void run_experts(phi_forward_ctx *ctx, const phi_compute *compute, const layer_call *call)
{
    const phi_layer_weights *w = call->layer;
    stage norm = norm_of(ctx, compute, call->x, w->ffn_norm, w->ffn_norm_bias);
    const phi_fill fill_norm = {.rows = norm_slice, .arg = &norm};
    const phi_experts experts = {.description = &ctx->description,
                                 .router = &w->router,
                                 .gate = &w->gate,
                                 .up = &w->up,
                                 .down = &w->down,
                                 .n_tok = call->n_rows,
                                 .n_prompt = call->n_prompt,
                                 .x = ctx->normed,
                                 .fill = &fill_norm,
                                 .gate_rows = ctx->gate,
                                 .up_rows = ctx->gate +
                                            (size_t)ctx->sizes.n_tok_max * ctx->description.n_ffn,
                                 .ffn_rows = ctx->ffn,
                                 .out = ctx->delta};
    uint32_t used = phi_experts_run(compute, &experts, &ctx->experts, &ctx->scratch);
    if (ctx->profile) {
        ctx->profile->experts += used;
    }
    lap(ctx, PHI_FORWARD_MATRICES);
    show(ctx, PHI_POINT_FFN_NORM, ctx->normed, call->n_rows, ctx->description.n_embd);
    add_delta(ctx, compute, call, NULL);
}

static void run_layer(phi_forward_ctx *ctx, const phi_compute *compute, layer_call *call)
{
    run_attention(ctx, compute, call);
    if (call->n_rows == 0) {
        return;
    }
    if (ctx->description.ffn == PHI_FFN_EXPERTS) {
        run_experts(ctx, compute, call);
    } else {
        run_ffn(ctx, compute, call);
    }
}

/* Into ctx->rows, those of prompts last; returns how many these are. */
static uint32_t sort_rows(phi_forward_ctx *ctx, const phi_row *rows, uint32_t n_rows)
{
    uint32_t n = 0;
    uint32_t n_generated = 0;
    for (int is_prompt = 0; is_prompt < 2; is_prompt++) {
        for (uint32_t i = 0; i < n_rows; i++) {
            if (rows[i].is_prompt == is_prompt) {
                ctx->rows[n++] = rows[i];
            }
        }
        n_generated = is_prompt ? n_generated : n;
    }
    return n_rows - n_generated;
}

static void prepare_angles(phi_forward_ctx *ctx, uint32_t n_rows, const phi_kv_view *views)
{
    size_t half = ctx->rope.half;
    for (uint32_t i = 0; i < n_rows; i++) {
        const phi_row *row = &ctx->rows[i];
        phi_rope_angles(&ctx->rope, views[row->seq].rope_long, row->position,
                        ctx->cosine + i * half, ctx->sine + i * half);
    }
}

static void head(phi_forward_ctx *ctx, const phi_compute *compute, const phi_weights *ends,
                 const float *x, uint32_t n_tok, float *out)
{
    stage norm = norm_of(ctx, compute, x, ends->final_norm, ends->final_norm_bias);
    phi_matmul(compute, phi_weights_head(ends), ctx->normed,
               &(phi_fill){.rows = norm_slice, .arg = &norm}, n_tok, out, &ctx->scratch);
    lap(ctx, PHI_FORWARD_MATRICES);
    if (ends->head_bias) {
        stage self = {.kernels = compute->kernels,
                      .bias = ends->head_bias,
                      .out = out,
                      .width = ctx->description.n_vocab};
        phi_over_rows(compute, n_tok, bias_slice, &self);
        lap(ctx, PHI_FORWARD_REST);
    }
}

const float *phi_forward(phi_forward_ctx *ctx, const phi_compute *compute,
                         const phi_weights *weights, const phi_row *rows, uint32_t n_rows,
                         const phi_kv_view *views)
{
    PHI_ASSERT(n_rows > 0 && n_rows <= ctx->sizes.n_tok_max);
    size_t n = ctx->description.n_embd;
    begin_laps(ctx);
    uint32_t n_prompt = sort_rows(ctx, rows, n_rows);
    for (uint32_t i = 0; i < n_rows; i++) {
        phi_weight_row(&weights->embedding, (uint32_t)ctx->rows[i].token, ctx->x + i * n);
    }
    prepare_angles(ctx, n_rows, views);
    layer_call call = {
        .rows = ctx->rows, .n_rows = n_rows, .n_prompt = n_prompt, .views = views, .x = ctx->x};
    for (uint32_t l = 0; l < ctx->description.n_layer; l++) {
        call.layer = &weights->layers[l];
        call.page_layer = l;
        call.is_last = l + 1 == ctx->description.n_layer;
        run_layer(ctx, compute, &call);
    }
    /* In the caller's order. */
    uint32_t next[2] = {0, call.n_rows - call.n_prompt};
    uint32_t wanted = 0;
    for (uint32_t i = 0; i < n_rows; i++) {
        if (rows[i].want_logits) {
            uint32_t from = next[rows[i].is_prompt]++;
            memcpy(ctx->delta + wanted * n, ctx->x + from * n, n * sizeof *ctx->x);
            wanted++;
        }
    }
    PHI_ASSERT(wanted <= ctx->sizes.n_logits_max);
    if (wanted) {
        head(ctx, compute, weights, ctx->delta, wanted, ctx->logits);
    }
    return ctx->logits;
}

void phi_forward_embed(const phi_weights *ends, const int32_t *tokens, uint32_t n_tok, float *x)
{
    for (uint32_t i = 0; i < n_tok; i++) {
        phi_weight_row(&ends->embedding, (uint32_t)tokens[i],
                       x + (size_t)i * ends->description.n_embd);
    }
}

void phi_forward_layer(phi_forward_ctx *ctx, const phi_compute *compute,
                       const phi_layer_weights *layer, float *x, uint32_t position, uint32_t n_tok,
                       const phi_kv_view *kv)
{
    PHI_ASSERT(n_tok > 0 && n_tok <= ctx->sizes.n_tok_max);
    for (uint32_t i = 0; i < n_tok; i++) {
        ctx->rows[i] = (phi_row){.position = position + i, .is_prompt = true};
    }
    begin_laps(ctx);
    prepare_angles(ctx, n_tok, kv);
    layer_call call = {
        .layer = layer, .rows = ctx->rows, .n_rows = n_tok, .n_prompt = n_tok, .views = kv, .x = x};
    run_layer(ctx, compute, &call);
}

void phi_forward_logits(phi_forward_ctx *ctx, const phi_compute *compute, const phi_weights *ends,
                        const float *x, uint32_t n_tok, float *out)
{
    PHI_ASSERT(n_tok > 0 && n_tok <= ctx->sizes.n_tok_max);
    begin_laps(ctx);
    head(ctx, compute, ends, x, n_tok, out);
}
