#include "engine/quant/qnn_ranges.h"

#include <math.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "engine/formats/tensor_rows.h"
#include "engine/model/forward.h"
#include "engine/model/weights.h"
#include "engine/quant/eval_text.h"
#include "engine/tokenizer/tokenizer.h"

/* Tokens of one step: a second's work at most on a slow machine with a large model's layer. */
#define STEP_TOKENS 32U
/* Tokens that logits are made of, the last ones. */
#define HEAD_TOKENS 64U
#define HEAD_ROWS 2048U
#define MARGIN_16 1.25F
#define MARGIN_8 1.1F

typedef struct pass {
    const phi_qnn_measuring *input;
    const phi_description *description;
    phi_qnn_ranges *ranges;
    phi_err *err;
    const int32_t *tokens; /* [n_tok] */
    uint32_t n_tok;
    float *hidden; /* [n_tok, E] */
    phi_forward_ctx *ctx;
    phi_kv_view kv; /* pages of one layer */
    void **pages;
    uint32_t n_pages;
    uint32_t layer;
    uint32_t position;     /* of the step's first token */
    float *keys;           /* [n_tok, Hkv d] of the layer, rotated */
    phi_qnn_range *scores; /* [H] */
} pass;

static phi_status no_memory(const pass *p)
{
    phi_status status = phi_fail(p->err, PHI_E_NO_MEMORY, "not enough memory to measure ranges");
    PHI_ASSERT(status == PHI_E_NO_MEMORY);
    return PHI_E_NO_MEMORY;
}

/* ---- ranges ---- */

/* A value that is no number makes the range infinite, which the end finds. */
static void take(phi_qnn_range *range, float value)
{
    if (!isfinite(value)) {
        range->high = HUGE_VALF;
    } else if (value < range->low) {
        range->low = value;
    } else if (value > range->high) {
        range->high = value;
    }
}

static void take_all(phi_qnn_range *range, const float *values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        take(range, values[i]);
    }
}

static void stretch(phi_qnn_range *range, float margin)
{
    range->low *= margin;
    range->high *= margin;
}

/* ---- queries and keys ---- */

/* The lengths of a row's pairs that are rotated together, which no position changes. */
static void take_radius(const phi_description *d, const float *head, float *radius)
{
    const uint32_t half = d->n_rot / 2;
    for (uint32_t i = 0; i < half; i++) {
        float length = hypotf(head[i], head[i + half]);
        radius[i] = fmaxf(radius[i], length);
        radius[i + half] = radius[i];
    }
    for (uint32_t i = d->n_rot; i < d->head_dim; i++) {
        radius[i] = fmaxf(radius[i], fabsf(head[i]));
    }
}

typedef struct score_call {
    pass *p;
    const float *qkv;
    uint32_t rows;
} score_call;

/* [team] Of heads [begin, end): scores of the step's queries with all keys that they see. */
static void take_scores(void *arg, size_t begin, size_t end, unsigned worker)
{
    const score_call *call = arg;
    pass *p = call->p;
    const phi_description *d = p->description;
    const size_t stride = (d->n_head + 2 * (size_t)d->n_head_kv) * d->head_dim;
    const size_t width = (size_t)d->n_head_kv * d->head_dim;
    const float share = 1.0F / sqrtf((float)d->head_dim);
    (void)worker;
    for (size_t h = begin; h < end; h++) {
        size_t at = h / (d->n_head / d->n_head_kv) * d->head_dim;
        for (uint32_t r = 0; r < call->rows; r++) {
            const float *query = call->qkv + r * stride + h * d->head_dim;
            uint32_t own = p->position + r;
            uint32_t first = d->window && own >= d->window ? own - d->window + 1 : 0;
            for (uint32_t j = first; j <= own; j++) {
                const float *key = p->keys + j * width + at;
                float sum = 0.0F;
                for (uint32_t k = 0; k < d->head_dim; k++) {
                    sum += query[k] * key[k];
                }
                take(&p->scores[h], sum * share);
            }
        }
    }
}

static void take_qkv(pass *p, const float *qkv, uint32_t rows, uint32_t cols)
{
    const phi_description *d = p->description;
    phi_qnn_layer_ranges *layer = &p->ranges->layers[p->layer];
    const size_t heads = (size_t)d->n_head + d->n_head_kv;
    const size_t width = (size_t)d->n_head_kv * d->head_dim;
    for (uint32_t r = 0; r < rows; r++) {
        const float *row = qkv + (size_t)r * cols;
        for (size_t h = 0; h < heads; h++) {
            take_radius(d, row + h * d->head_dim, layer->radius + h * d->head_dim);
        }
        memcpy(p->keys + (p->position + r) * width, row + (size_t)d->n_head * d->head_dim,
               width * sizeof *row);
        take_all(&layer->value, row + heads * d->head_dim, width);
    }
    score_call call = {.p = p, .qkv = qkv, .rows = rows};
    phi_team_run(p->input->compute->team, p->input->compute->priority, d->n_head, 1, take_scores,
                 &call);
}

/* ---- the forward pass's values ---- */

static void take_up(phi_qnn_layer_ranges *layer, const float *values, uint32_t rows, uint32_t cols)
{
    for (uint32_t r = 0; r < rows; r++) {
        take_all(&layer->gate, values + (size_t)r * cols, cols / 2);
        take_all(&layer->up, values + (size_t)r * cols + cols / 2, cols / 2);
    }
}

static void on_values(void *user, phi_forward_point point, const float *values, uint32_t rows,
                      uint32_t cols)
{
    pass *p = user;
    phi_qnn_layer_ranges *layer = &p->ranges->layers[p->layer];
    phi_qnn_range *const ranges[PHI_FORWARD_POINTS] = {
        [PHI_POINT_ATTN_NORM] = &layer->attn_norm, [PHI_POINT_ATTN] = &layer->attn,
        [PHI_POINT_ATTN_OUT] = &layer->attn_out,   [PHI_POINT_ATTN_SUM] = &layer->attn_sum,
        [PHI_POINT_FFN_NORM] = &layer->ffn_norm,   [PHI_POINT_FFN] = &layer->ffn,
        [PHI_POINT_FFN_OUT] = &layer->ffn_out,     [PHI_POINT_SUM] = &layer->sum,
    };
    if (point == PHI_POINT_QKV) {
        take_qkv(p, values, rows, cols);
    } else if (point == PHI_POINT_UP) {
        take_up(layer, values, rows, cols);
    } else {
        PHI_ASSERT(point < PHI_FORWARD_POINTS && ranges[point]);
        take_all(ranges[point], values, (size_t)rows * cols);
    }
}

/* ---- the pass ---- */

static phi_status open_pass(pass *p)
{
    const phi_description *d = p->description;
    phi_description one_layer = *d;
    one_layer.n_layer = 1;
    const uint64_t page_bytes = phi_kv_page_bytes(&one_layer, PHI_KV_F32);
    p->hidden = phi_try_alloc_aligned((size_t)p->n_tok * d->n_embd * sizeof(float));
    p->keys = phi_try_alloc((size_t)p->n_tok * d->n_head_kv * d->head_dim * sizeof(float));
    p->scores = phi_try_alloc(d->n_head * sizeof *p->scores);
    p->n_pages = (p->n_tok + PHI_KV_PAGE_TOKENS - 1) / PHI_KV_PAGE_TOKENS;
    p->pages = phi_alloc_zero(p->n_pages, sizeof *p->pages);
    if (!p->hidden || !p->keys || !p->scores) {
        return no_memory(p);
    }
    for (uint32_t i = 0; i < p->n_pages; i++) {
        p->pages[i] = phi_try_alloc_aligned(page_bytes);
        if (!p->pages[i]) {
            return no_memory(p);
        }
        memset(p->pages[i], 0, page_bytes);
    }
    p->kv.pages = p->pages;
    p->kv.rope_long = phi_qnn_rope_is_long(d, p->input->context);
    const phi_forward_sizes sizes = {.kv_type = PHI_KV_F32,
                                     .n_tok_max = STEP_TOKENS,
                                     .n_logits_max = 1,
                                     .n_threads = phi_team_size(p->input->compute->team)};
    phi_status status = phi_forward_ctx_create(d, &sizes, &p->ctx, p->err);
    if (!status) {
        phi_forward_ctx_tap(p->ctx, on_values, p);
    }
    return status;
}

static void close_pass(pass *p)
{
    phi_forward_ctx_destroy(p->ctx);
    for (uint32_t i = 0; p->pages && i < p->n_pages; i++) {
        phi_free(p->pages[i]);
    }
    phi_free(p->pages);
    phi_free(p->scores);
    phi_free(p->keys);
    phi_free(p->hidden);
}

static phi_status embed(pass *p)
{
    const uint32_t cols = p->description->n_embd;
    const phi_tensor *tensor = phi_checkpoint_find(p->input->checkpoint, "token_embd.weight");
    PHI_ASSERT(tensor);
    uint8_t *scratch = phi_alloc(cols * sizeof(float));
    phi_status status = PHI_OK;
    for (uint32_t t = 0; t < p->n_tok && !status; t++) {
        uint32_t id = (uint32_t)p->tokens[t];
        status = id < tensor->rows
                     ? phi_checkpoint_read_rows_f32(p->input->checkpoint, tensor, id, 1, scratch,
                                                    p->hidden + (size_t)t * cols, p->err)
                     : phi_fail(p->err, PHI_E_FORMAT,
                                "the tokenizer makes token %u, but tensor '%s' has %u rows", id,
                                tensor->name, tensor->rows);
    }
    phi_free(scratch);
    if (!status) {
        take_all(&p->ranges->embedding, p->hidden, (size_t)p->n_tok * cols);
    }
    return status;
}

static phi_status check_go_on(const pass *p)
{
    if (p->input->go_on && !p->input->go_on(p->input->user)) {
        return phi_fail(p->err, PHI_E_CANCELLED, "measuring ranges was cancelled");
    }
    return PHI_OK;
}

static phi_status run_layer(pass *p)
{
    const phi_description *d = p->description;
    phi_qnn_layer_ranges *ranges = &p->ranges->layers[p->layer];
    phi_layer_weights layer;
    ranges->radius = phi_try_alloc_zero((d->n_head + (size_t)d->n_head_kv) * d->head_dim,
                                        sizeof *ranges->radius);
    if (!ranges->radius) {
        return no_memory(p);
    }
    memset(p->scores, 0, d->n_head * sizeof *p->scores);
    phi_status status = phi_layer_weights_load(p->input->checkpoint, p->layer, &layer, p->err);
    if (status) {
        return status;
    }
    for (uint32_t t = 0; t < p->n_tok && !status; t += STEP_TOKENS) {
        uint32_t n = p->n_tok - t < STEP_TOKENS ? p->n_tok - t : STEP_TOKENS;
        p->position = t;
        phi_forward_layer(p->ctx, p->input->compute, &layer, p->hidden + (size_t)t * d->n_embd, t,
                          n, &p->kv);
        status = check_go_on(p);
    }
    phi_layer_weights_done(&layer);
    for (uint32_t h = 0; h < d->n_head; h++) {
        take(&ranges->score, p->scores[h].low);
        take(&ranges->score, p->scores[h].high);
    }
    return status;
}

/* ---- the head ---- */

static phi_status final_norm(pass *p)
{
    const phi_description *d = p->description;
    const phi_tensor *tensor = phi_checkpoint_find(p->input->checkpoint, "output_norm.weight");
    PHI_ASSERT(tensor && tensor->cols == d->n_embd);
    const size_t bytes = d->n_embd * sizeof(float);
    float *weight = phi_alloc(bytes);
    float *normed = phi_alloc(bytes);
    phi_status status =
        phi_checkpoint_read_rows_f32(p->input->checkpoint, tensor, 0, 1, normed, weight, p->err);
    for (uint32_t t = 0; t < p->n_tok && !status; t++) {
        float *x = p->hidden + (size_t)t * d->n_embd;
        p->input->compute->kernels->rms_norm(x, weight, d->n_embd, d->norm_eps, normed);
        memcpy(x, normed, bytes);
    }
    phi_free(normed);
    phi_free(weight);
    if (!status) {
        take_all(&p->ranges->final_norm, p->hidden, (size_t)p->n_tok * d->n_embd);
    }
    return status;
}

typedef struct head_pass {
    const phi_tensor *head;
    uint8_t *stored;
    float *logits;
    const float *x;
    uint32_t n_tok;
    phi_matmul_scratch scratch;
} head_pass;

static phi_status run_block(pass *p, head_pass *h, uint32_t first, uint32_t count)
{
    const phi_form form = phi_tensor_form(h->head);
    phi_weight weight = {0};
    phi_status status = phi_weight_shape(&weight, &form, count, h->head->cols, p->err);
    status = status ? status : phi_weight_alloc(&weight, p->err);
    if (status) {
        return status;
    }
    status =
        phi_checkpoint_read_rows(p->input->checkpoint, h->head, first, count, h->stored, p->err);
    if (!status) {
        phi_tensor_set_rows(h->head, first, count, h->stored, &weight, 0);
        phi_matmul(p->input->compute, &weight, h->x, NULL, h->n_tok, h->logits, &h->scratch);
        take_all(&p->ranges->logit, h->logits, (size_t)h->n_tok * count);
        status = check_go_on(p);
    }
    phi_weight_done(&weight);
    return status;
}

static phi_status run_head(pass *p)
{
    const phi_description *d = p->description;
    const phi_tensor *head = phi_checkpoint_find(p->input->checkpoint, "output.weight");
    head = head ? head : phi_checkpoint_find(p->input->checkpoint, "token_embd.weight");
    PHI_ASSERT(head && head->cols == d->n_embd);
    head_pass h = {.head = head, .n_tok = p->n_tok < HEAD_TOKENS ? p->n_tok : HEAD_TOKENS};
    h.x = p->hidden + (size_t)(p->n_tok - h.n_tok) * d->n_embd;
    h.stored = phi_try_alloc((size_t)phi_tensor_row_bytes_max(head) * HEAD_ROWS);
    h.logits = phi_try_alloc((size_t)h.n_tok * HEAD_ROWS * sizeof *h.logits);
    phi_status status = h.stored && h.logits
                            ? phi_matmul_scratch_init(
                                  &h.scratch, &(phi_matmul_sizes){h.n_tok, d->n_embd, 0}, p->err)
                            : no_memory(p);
    for (uint32_t first = 0; first < d->n_vocab && !status; first += HEAD_ROWS) {
        uint32_t left = d->n_vocab - first;
        status = run_block(p, &h, first, left < HEAD_ROWS ? left : HEAD_ROWS);
    }
    phi_matmul_scratch_done(&h.scratch);
    phi_free(h.logits);
    phi_free(h.stored);
    return status;
}

/* ---- all of it ---- */

static void widen_layer(const phi_description *d, phi_qnn_layer_ranges *layer)
{
    phi_qnn_range *const wide[] = {&layer->attn_norm, &layer->score,    &layer->attn,
                                   &layer->attn_out,  &layer->attn_sum, &layer->ffn_norm,
                                   &layer->gate,      &layer->up,       &layer->ffn,
                                   &layer->ffn_out,   &layer->sum};
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++) {
        stretch(wide[i], MARGIN_16);
    }
    stretch(&layer->value, MARGIN_8);
    for (size_t i = 0; i < (d->n_head + (size_t)d->n_head_kv) * d->head_dim; i++) {
        layer->radius[i] *= MARGIN_8;
    }
}

static phi_status finish(pass *p)
{
    phi_qnn_ranges *ranges = p->ranges;
    for (uint32_t i = 0; i < p->description->n_layer; i++) {
        widen_layer(p->description, &ranges->layers[i]);
    }
    stretch(&ranges->embedding, MARGIN_16);
    stretch(&ranges->final_norm, MARGIN_16);
    stretch(&ranges->logit, MARGIN_16);
    if (!isfinite(ranges->logit.high)) {
        return phi_fail(p->err, PHI_E_UNSUPPORTED,
                        "ranges cannot be measured: the model's answers are no finite numbers, "
                        "because its weights are damaged or out of range");
    }
    return PHI_OK;
}

static phi_status measure(pass *p)
{
    phi_status status = open_pass(p);
    status = status ? status : embed(p);
    for (; p->layer < p->description->n_layer && !status; p->layer++) {
        status = run_layer(p);
    }
    status = status ? status : final_norm(p);
    status = status ? status : run_head(p);
    status = status ? status : finish(p);
    close_pass(p);
    return status;
}

/* The text that quality is measured on, as the model's tokens. */
static phi_status tokenize(const phi_checkpoint *checkpoint, phi_tokens *out_tokens, phi_err *err)
{
    const phi_encode_options plain = {.mode = PHI_PARSE_PLAIN, .add_bos = true};
    phi_tokenizer *tokenizer = NULL;
    phi_status status = phi_tokenizer_open(checkpoint, &tokenizer, err);
    if (status) {
        return phi_fail_context(err, status, "ranges are measured on a text");
    }
    char *text = phi_eval_text_make();
    status = phi_tokenizer_encode(tokenizer, text, strlen(text), &plain, out_tokens, err);
    if (!status && out_tokens->count == 0) {
        status = phi_fail(err, PHI_E_FORMAT, "the tokenizer makes no tokens of a text");
    }
    phi_free(text);
    phi_tokenizer_destroy(tokenizer);
    return status;
}

phi_status phi_qnn_measure(const phi_qnn_measuring *input, phi_qnn_ranges *out_ranges, phi_err *err)
{
    const phi_description *d = phi_checkpoint_description(input->checkpoint);
    const size_t most = input->context < PHI_QNN_TOKENS ? input->context : PHI_QNN_TOKENS;
    phi_qnn_ranges ranges = {0};
    phi_tokens tokens;
    phi_tokens_init(&tokens);
    phi_status status = tokenize(input->checkpoint, &tokens, err);
    if (!status) {
        pass p = {.input = input,
                  .description = d,
                  .ranges = &ranges,
                  .err = err,
                  .tokens = tokens.ids,
                  .n_tok = (uint32_t)(tokens.count < most ? tokens.count : most)};
        ranges.layers = phi_alloc_zero(d->n_layer, sizeof *ranges.layers);
        status = measure(&p);
    }
    phi_tokens_done(&tokens);
    if (status) {
        phi_qnn_ranges_done(&ranges, d->n_layer);
        return status;
    }
    *out_ranges = ranges;
    return PHI_OK;
}

void phi_qnn_ranges_done(phi_qnn_ranges *ranges, uint32_t n_layer)
{
    for (uint32_t i = 0; ranges->layers && i < n_layer; i++) {
        phi_free(ranges->layers[i].radius);
    }
    phi_free(ranges->layers);
    *ranges = (phi_qnn_ranges){0};
}
