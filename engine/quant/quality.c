#include "engine/quant/quality.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/mem.h"
#include "engine/formats/tensor_rows.h"
#include "engine/model/forward.h"
#include "engine/model/weights.h"

/* Multiply-adds of one step at most: what a slow machine does in well under a second, so that
 * progress and cancelling stay prompt. */
#define STEP_MACS 1.5e9
#define STEP_TOKENS_MIN 8U
#define STEP_TOKENS_MAX 128U

/* Bytes of one block of head rows as stored. */
#define HEAD_BLOCK_BYTES (8U << 20)

/* The text in windows: `tokens` rows in all, window w at rows [starts[w], starts[w + 1]). */
typedef struct eval_windows {
    phi_tokens tokens;
    uint32_t *starts;
    uint32_t count;
} eval_windows;

/* What one row's next-token distributions add up to while the vocabulary streams by; a is the
 * source's logit, b the result's. */
typedef struct row_sums {
    double max_a;
    double sum_a;  /* of exp(a - max_a) */
    double sum_ab; /* of exp(a - max_a) * (a - b) */
    double max_b;
    double sum_b;
    double target_a;
    double target_b;
    int32_t best_a;
    int32_t best_b;
    int32_t target; /* the token that follows, or -1 at a window's end */
} row_sums;

typedef struct evaluation {
    const phi_compute *compute;
    const phi_description *description;
    phi_meter *meter;
    eval_windows windows;
    float *hidden[2]; /* of source and result: [tokens, E] */
    row_sums *rows;   /* [tokens] */
    double macs_done;
    double macs_total;
} evaluation;

static double layer_macs(const phi_description *d)
{
    double heads = (double)(d->n_head + 2 * d->n_head_kv) * d->head_dim;
    double attention = heads * d->n_embd + (double)d->n_head * d->head_dim * d->n_embd;
    return attention + 3.0 * (double)d->n_embd * d->n_ffn;
}

static double head_macs(const phi_description *d)
{
    return (double)d->n_vocab * d->n_embd;
}

static phi_status advance(evaluation *e, double macs, const char *tensor, phi_err *err)
{
    e->macs_done += macs;
    return phi_meter_report(e->meter, PHI_STAGE_EVALUATING, e->macs_done / e->macs_total, tensor,
                            err);
}

static uint32_t step_tokens(double macs_per_token)
{
    double tokens = STEP_MACS / macs_per_token;
    if (tokens < STEP_TOKENS_MIN) {
        return STEP_TOKENS_MIN;
    }
    return tokens > STEP_TOKENS_MAX ? STEP_TOKENS_MAX : (uint32_t)tokens;
}

/* ---- the text ---- */

/* Lays `ids` out in windows; each opens with the tokenizer's bos, where it has one. */
static phi_status lay_out(eval_windows *windows, const phi_tokens *ids, int32_t bos,
                          uint32_t window_tokens, phi_err *err)
{
    uint32_t lead = bos >= 0 ? 1 : 0;
    uint32_t step = window_tokens - lead;
    windows->count = (uint32_t)((ids->count + step - 1) / step);
    windows->starts = phi_try_alloc((windows->count + 1) * sizeof *windows->starts);
    if (!windows->starts) {
        return phi_fail(err, PHI_E_NO_MEMORY, "no memory for %zu tokens of text", ids->count);
    }
    size_t next = 0;
    for (uint32_t w = 0; w < windows->count; w++) {
        windows->starts[w] = (uint32_t)windows->tokens.count;
        size_t left = ids->count - next;
        size_t take = left < step ? left : step;
        phi_status status = phi_tokens_append(&windows->tokens, &bos, lead);
        if (status == PHI_OK) {
            status = phi_tokens_append(&windows->tokens, ids->ids + next, take);
        }
        if (status != PHI_OK) {
            return phi_fail(err, status, "no memory for %zu tokens of text", ids->count);
        }
        next += take;
    }
    windows->starts[windows->count] = (uint32_t)windows->tokens.count;
    return PHI_OK;
}

static phi_status make_windows(evaluation *e, const phi_quality_input *input, phi_err *err)
{
    phi_tokens ids;
    phi_tokens_init(&ids);
    phi_encode_options options = {.mode = PHI_PARSE_PLAIN};
    phi_status status =
        phi_tokenizer_encode(input->tokenizer, input->text, input->text_bytes, &options, &ids, err);
    if (status == PHI_OK && ids.count > input->tokens_max) {
        ids.count = input->tokens_max;
    }
    if (status == PHI_OK && ids.count < 2) {
        status = phi_fail_param(err, PHI_E_INVALID, "eval_text",
                                "the evaluation text is %zu tokens long; it takes 2 at least to "
                                "predict one",
                                ids.count);
    }
    if (status == PHI_OK) {
        uint32_t window = PHI_QUALITY_WINDOW;
        window = e->description->n_ctx < window ? e->description->n_ctx : window;
        window = window < 2 ? 2 : window;
        int32_t bos =
            phi_tokenizer_adds_bos(input->tokenizer) ? phi_tokenizer_bos(input->tokenizer) : -1;
        status = lay_out(&e->windows, &ids, bos, window, err);
    }
    phi_tokens_done(&ids);
    return status;
}

static phi_status make_rows(evaluation *e, phi_err *err)
{
    const phi_tokens *tokens = &e->windows.tokens;
    uint64_t bytes = 0;
    bool sized = phi_checked_mul(tokens->count, e->description->n_embd * sizeof(float), &bytes);
    e->rows = phi_try_alloc_zero(tokens->count, sizeof *e->rows);
    for (int i = 0; i < 2; i++) {
        e->hidden[i] = sized ? phi_try_alloc_aligned(bytes) : NULL;
    }
    if (!e->rows || !e->hidden[0] || !e->hidden[1]) {
        return phi_fail(err, PHI_E_NO_MEMORY, "no memory to evaluate %zu tokens", tokens->count);
    }
    for (uint32_t w = 0; w < e->windows.count; w++) {
        for (uint32_t t = e->windows.starts[w]; t < e->windows.starts[w + 1]; t++) {
            bool last = t + 1 == e->windows.starts[w + 1];
            e->rows[t].target = last ? -1 : tokens->ids[t + 1];
            e->rows[t].max_a = -HUGE_VAL;
            e->rows[t].max_b = -HUGE_VAL;
        }
    }
    return PHI_OK;
}

/* ---- one model, layer by layer ---- */

typedef struct model_pass {
    evaluation *e;
    const phi_checkpoint *checkpoint;
    float *hidden;
    phi_forward_ctx *ctx;
    phi_kv_view kv; /* pages of one layer, used for one window after the other */
    void **pages;
    uint32_t n_pages;
    uint32_t chunk; /* tokens of one step */
} model_pass;

static phi_kv_type kv_type_of(const phi_checkpoint *checkpoint)
{
    for (size_t i = 0; i < phi_checkpoint_count(checkpoint); i++) {
        const phi_tensor *tensor = phi_checkpoint_at(checkpoint, i);
        if (tensor->dtype != PHI_DTYPE_F32 || phi_tensor_is_mixed(tensor)) {
            return PHI_KV_F16;
        }
    }
    return PHI_KV_F32;
}

static phi_status embed(model_pass *pass, phi_err *err)
{
    const phi_tensor *tensor = phi_checkpoint_find(pass->checkpoint, "token_embd.weight");
    PHI_ASSERT(tensor);
    const phi_tokens *tokens = &pass->e->windows.tokens;
    uint8_t *scratch = phi_alloc(tensor->cols * sizeof(float));
    phi_status status = PHI_OK;
    for (size_t t = 0; status == PHI_OK && t < tokens->count; t++) {
        uint32_t id = (uint32_t)tokens->ids[t];
        if (id >= tensor->rows) {
            status = phi_fail(err, PHI_E_FORMAT,
                              "the tokenizer makes token %u, but tensor '%s' has %u rows", id,
                              tensor->name, tensor->rows);
            break;
        }
        status = phi_checkpoint_read_rows_f32(pass->checkpoint, tensor, id, 1, scratch,
                                              pass->hidden + t * tensor->cols, err);
    }
    phi_free(scratch);
    return status;
}

typedef struct layer_task {
    const phi_checkpoint *checkpoint;
    uint32_t index;
    bool loaded;
    phi_layer_weights layer;
} layer_task;

static phi_status load_layer(void *arg, phi_err *err)
{
    layer_task *task = arg;
    phi_status status = phi_layer_weights_load(task->checkpoint, task->index, &task->layer, err);
    task->loaded = status == PHI_OK;
    return status;
}

static phi_status run_layer(model_pass *pass, uint32_t index, phi_err *err)
{
    evaluation *e = pass->e;
    layer_task task = {.checkpoint = pass->checkpoint, .index = index};
    phi_status status = phi_meter_wait(e->meter, PHI_STAGE_EVALUATING, e->macs_done / e->macs_total,
                                       load_layer, &task, err);
    for (uint32_t w = 0; status == PHI_OK && w < e->windows.count; w++) {
        uint32_t first = e->windows.starts[w];
        uint32_t end = e->windows.starts[w + 1];
        for (uint32_t t = first; status == PHI_OK && t < end; t += pass->chunk) {
            uint32_t n = end - t < pass->chunk ? end - t : pass->chunk;
            phi_forward_layer(pass->ctx, e->compute, &task.layer,
                              pass->hidden + (size_t)t * e->description->n_embd, t - first, n,
                              &pass->kv);
            status = advance(e, n * layer_macs(e->description), "", err);
        }
    }
    if (task.loaded) {
        phi_layer_weights_done(&task.layer);
    }
    return status;
}

static phi_status final_norm(model_pass *pass, phi_err *err)
{
    const phi_description *d = pass->e->description;
    const phi_tensor *tensor = phi_checkpoint_find(pass->checkpoint, "output_norm.weight");
    PHI_ASSERT(tensor && tensor->cols == d->n_embd);
    size_t bytes = d->n_embd * sizeof(float);
    float *weight = phi_alloc(bytes);
    float *normed = phi_alloc(bytes);
    phi_status status =
        phi_checkpoint_read_rows_f32(pass->checkpoint, tensor, 0, 1, normed, weight, err);
    for (size_t t = 0; status == PHI_OK && t < pass->e->windows.tokens.count; t++) {
        float *x = pass->hidden + t * d->n_embd;
        pass->e->compute->kernels->rms_norm(x, weight, d->n_embd, d->norm_eps, normed);
        memcpy(x, normed, bytes);
    }
    phi_free(normed);
    phi_free(weight);
    return status;
}

static phi_status open_pass(model_pass *pass, phi_err *err)
{
    const phi_description *d = pass->e->description;
    phi_kv_type kv_type = kv_type_of(pass->checkpoint);
    phi_description one_layer = *d;
    one_layer.n_layer = 1;
    uint64_t page_bytes = phi_kv_page_bytes(&one_layer, kv_type);
    uint32_t window = PHI_QUALITY_WINDOW;
    pass->n_pages = (window + PHI_KV_PAGE_TOKENS - 1) / PHI_KV_PAGE_TOKENS;
    pass->pages = phi_alloc_zero(pass->n_pages, sizeof *pass->pages);
    for (uint32_t i = 0; i < pass->n_pages; i++) {
        pass->pages[i] = phi_try_alloc_aligned(page_bytes);
        if (!pass->pages[i]) {
            return phi_fail(err, PHI_E_NO_MEMORY, "no memory for keys and values");
        }
        memset(pass->pages[i], 0, page_bytes);
    }
    pass->kv.pages = pass->pages;
    pass->kv.rope_long = d->rope == PHI_ROPE_LONG && window > d->n_ctx_original;
    pass->chunk = step_tokens(layer_macs(d));
    const phi_forward_sizes sizes = {.kv_type = kv_type,
                                     .n_tok_max = pass->chunk,
                                     .n_logits_max = 1,
                                     .n_threads = phi_team_size(pass->e->compute->team)};
    return phi_forward_ctx_create(d, &sizes, &pass->ctx, err);
}

static void close_pass(model_pass *pass)
{
    phi_forward_ctx_destroy(pass->ctx);
    for (uint32_t i = 0; i < pass->n_pages; i++) {
        phi_free(pass->pages[i]);
    }
    phi_free(pass->pages);
}

/* The text's hidden states after the last layer and norm. */
static phi_status run_model(evaluation *e, const phi_checkpoint *checkpoint, float *hidden,
                            phi_err *err)
{
    model_pass pass = {.e = e, .checkpoint = checkpoint, .hidden = hidden};
    phi_status status = open_pass(&pass, err);
    if (status == PHI_OK) {
        status = embed(&pass, err);
    }
    for (uint32_t i = 0; status == PHI_OK && i < e->description->n_layer; i++) {
        status = run_layer(&pass, i, err);
    }
    if (status == PHI_OK) {
        status = final_norm(&pass, err);
    }
    close_pass(&pass);
    return status;
}

/* ---- both heads, block by block ---- */

typedef struct head_block {
    evaluation *e;
    uint32_t first; /* vocabulary id of the block's first row */
    uint32_t count;
    uint32_t token;         /* first token of the step */
    const float *logits[2]; /* [tokens of the step, count] */
} head_block;

static void add_source(row_sums *row, const float *a, const float *b, const head_block *block)
{
    double max = row->max_a;
    for (uint32_t i = 0; i < block->count; i++) {
        if ((double)a[i] > max) {
            max = (double)a[i];
            row->best_a = (int32_t)(block->first + i);
        }
    }
    double scale = exp(row->max_a - max);
    double sum = row->sum_a * scale;
    double sum_ab = row->sum_ab * scale;
    for (uint32_t i = 0; i < block->count; i++) {
        double p = exp((double)a[i] - max);
        sum += p;
        sum_ab += p * ((double)a[i] - (double)b[i]);
    }
    row->max_a = max;
    row->sum_a = sum;
    row->sum_ab = sum_ab;
}

static void add_result(row_sums *row, const float *b, const head_block *block)
{
    double max = row->max_b;
    for (uint32_t i = 0; i < block->count; i++) {
        if ((double)b[i] > max) {
            max = (double)b[i];
            row->best_b = (int32_t)(block->first + i);
        }
    }
    double sum = row->sum_b * exp(row->max_b - max);
    for (uint32_t i = 0; i < block->count; i++) {
        sum += exp((double)b[i] - max);
    }
    row->max_b = max;
    row->sum_b = sum;
}

/* [team] Rows [begin, end) of the step. */
static void add_logits(void *arg, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const head_block *block = arg;
    for (size_t t = begin; t < end; t++) {
        row_sums *row = &block->e->rows[block->token + t];
        const float *a = block->logits[0] + t * block->count;
        const float *b = block->logits[1] + t * block->count;
        add_source(row, a, b, block);
        add_result(row, b, block);
        int64_t target = (int64_t)row->target - block->first;
        if (row->target >= 0 && target >= 0 && target < block->count) {
            row->target_a = (double)a[target];
            row->target_b = (double)b[target];
        }
    }
}

typedef struct head_pass {
    evaluation *e;
    const phi_checkpoint *checkpoints[2];
    const phi_tensor *heads[2];
    phi_matmul_scratch scratch;
    uint8_t *stored; /* a block of rows as read */
    float *logits[2];
    uint32_t block_rows;
    uint32_t chunk;
} head_pass;

static phi_status open_heads(head_pass *pass, phi_err *err)
{
    const phi_description *d = pass->e->description;
    uint64_t row_bytes = 0;
    for (int i = 0; i < 2; i++) {
        const phi_tensor *head = phi_checkpoint_find(pass->checkpoints[i], "output.weight");
        pass->heads[i] =
            head ? head : phi_checkpoint_find(pass->checkpoints[i], "token_embd.weight");
        PHI_ASSERT(pass->heads[i] && pass->heads[i]->cols == d->n_embd);
        uint64_t bytes = phi_tensor_row_bytes_max(pass->heads[i]);
        row_bytes = bytes > row_bytes ? bytes : row_bytes;
    }
    PHI_ASSERT(row_bytes > 0);
    uint64_t rows = HEAD_BLOCK_BYTES / row_bytes;
    rows = rows > 0 ? rows : 1;
    pass->block_rows = rows < d->n_vocab ? (uint32_t)rows : d->n_vocab;
    pass->chunk = step_tokens((double)pass->block_rows * d->n_embd);
    size_t logits_bytes = (size_t)pass->chunk * pass->block_rows * sizeof(float);
    pass->stored = phi_try_alloc(pass->block_rows * row_bytes);
    pass->logits[0] = phi_try_alloc(logits_bytes);
    pass->logits[1] = phi_try_alloc(logits_bytes);
    if (!pass->stored || !pass->logits[0] || !pass->logits[1]) {
        return phi_fail(err, PHI_E_NO_MEMORY, "no memory for a block of the head");
    }
    return phi_matmul_scratch_init(&pass->scratch, &(phi_matmul_sizes){pass->chunk, d->n_embd, 0},
                                   err);
}

static phi_status load_rows(head_pass *pass, int which, uint32_t first, uint32_t count,
                            phi_weight *out_weight, phi_err *err)
{
    const phi_tensor *head = pass->heads[which];
    phi_form form = phi_tensor_form(head);
    *out_weight = (phi_weight){0};
    phi_status status = phi_weight_shape(out_weight, &form, count, head->cols, err);
    status = status ? status : phi_weight_alloc(out_weight, err);
    if (status != PHI_OK) {
        return status;
    }
    status =
        phi_checkpoint_read_rows(pass->checkpoints[which], head, first, count, pass->stored, err);
    if (status != PHI_OK) {
        phi_weight_done(out_weight);
        return status;
    }
    phi_tensor_set_rows(head, first, count, pass->stored, out_weight, 0);
    return PHI_OK;
}

static phi_status run_block(head_pass *pass, uint32_t first, phi_err *err)
{
    evaluation *e = pass->e;
    const phi_description *d = e->description;
    uint32_t count = d->n_vocab - first;
    count = count < pass->block_rows ? count : pass->block_rows;
    phi_weight weights[2];
    phi_status status = load_rows(pass, 0, first, count, &weights[0], err);
    if (status != PHI_OK) {
        return status;
    }
    status = load_rows(pass, 1, first, count, &weights[1], err);
    if (status != PHI_OK) {
        phi_weight_done(&weights[0]);
        return status;
    }
    uint32_t tokens = (uint32_t)e->windows.tokens.count;
    for (uint32_t t = 0; status == PHI_OK && t < tokens; t += pass->chunk) {
        uint32_t n = tokens - t < pass->chunk ? tokens - t : pass->chunk;
        for (int i = 0; i < 2; i++) {
            phi_matmul(e->compute, &weights[i], e->hidden[i] + (size_t)t * d->n_embd, NULL, n,
                       pass->logits[i], &pass->scratch);
        }
        head_block block = {
            .e = e,
            .first = first,
            .count = count,
            .token = t,
            .logits = {pass->logits[0], pass->logits[1]},
        };
        phi_team_run(e->compute->team, e->compute->priority, n, 1, add_logits, &block);
        status = advance(e, 2.0 * n * (double)count * d->n_embd, pass->heads[1]->name, err);
    }
    phi_weight_done(&weights[1]);
    phi_weight_done(&weights[0]);
    return status;
}

static phi_status run_heads(evaluation *e, const phi_checkpoint *source,
                            const phi_checkpoint *result, phi_err *err)
{
    head_pass pass = {.e = e, .checkpoints = {source, result}};
    phi_status status = open_heads(&pass, err);
    for (uint32_t first = 0; status == PHI_OK && first < e->description->n_vocab;
         first += pass.block_rows) {
        status = run_block(&pass, first, err);
    }
    phi_matmul_scratch_done(&pass.scratch);
    phi_free(pass.logits[1]);
    phi_free(pass.logits[0]);
    phi_free(pass.stored);
    return status;
}

/* ---- figures ---- */

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Reports have no infinity. */
static double perplexity_of(double nll)
{
    return exp(fmin(nll, log(DBL_MAX)));
}

static phi_status fail_infinite(const char *which, phi_err *err)
{
    return phi_fail(err, PHI_E_UNSUPPORTED,
                    "quality cannot be measured: the %s's answers are no finite numbers, because "
                    "its weights are damaged or out of range",
                    which);
}

static phi_status summarise(const evaluation *e, phi_quality *quality, phi_err *err)
{
    size_t rows = e->windows.tokens.count;
    double *divergences = phi_alloc_zero(rows, sizeof *divergences);
    double nll_source = 0.0;
    double nll_result = 0.0;
    double divergence_sum = 0.0;
    size_t agreed = 0;
    size_t count = 0;
    for (size_t t = 0; t < rows; t++) {
        const row_sums *row = &e->rows[t];
        if (row->target < 0) {
            continue;
        }
        double log_a = row->max_a + log(row->sum_a);
        double log_b = row->max_b + log(row->sum_b);
        /* sum of p * ((a - log_a) - (b - log_b)); rounding may leave it just below 0 */
        double divergence = row->sum_ab / row->sum_a - log_a + log_b;
        divergence = divergence > 0.0 ? divergence : 0.0;
        nll_source += log_a - row->target_a;
        nll_result += log_b - row->target_b;
        divergence_sum += divergence;
        divergences[count] = divergence;
        agreed += row->best_a == row->best_b;
        count++;
    }
    if (!isfinite(nll_source) || !isfinite(nll_result)) {
        phi_free(divergences);
        return fail_infinite(isfinite(nll_source) ? "result" : "source", err);
    }
    qsort(divergences, count, sizeof *divergences, compare_doubles);
    quality->measured = true;
    quality->eval_tokens = (uint32_t)count;
    quality->perplexity_source = perplexity_of(nll_source / (double)count);
    quality->perplexity_result = perplexity_of(nll_result / (double)count);
    quality->kl_mean = divergence_sum / (double)count;
    quality->kl_p99 = divergences[(size_t)ceil(0.99 * (double)count) - 1];
    quality->top1_agreement = (double)agreed / (double)count;
    phi_free(divergences);
    return PHI_OK;
}

phi_status phi_quality_measure(const phi_quality_input *input, phi_quality *out_quality,
                               phi_err *err)
{
    evaluation e = {
        .compute = input->compute,
        .description = phi_checkpoint_description(input->source),
        .meter = input->meter,
    };
    phi_tokens_init(&e.windows.tokens);
    phi_status status = make_windows(&e, input, err);
    if (status == PHI_OK) {
        status = make_rows(&e, err);
    }
    if (status == PHI_OK) {
        double per_token =
            e.description->n_layer * layer_macs(e.description) + head_macs(e.description);
        e.macs_total = 2.0 * per_token * (double)e.windows.tokens.count;
        status = run_model(&e, input->source, e.hidden[0], err);
    }
    if (status == PHI_OK) {
        status = run_model(&e, input->result, e.hidden[1], err);
    }
    if (status == PHI_OK) {
        status = run_heads(&e, input->source, input->result, err);
    }
    if (status == PHI_OK) {
        status = summarise(&e, out_quality, err);
    }
    phi_free(e.rows);
    phi_free(e.hidden[1]);
    phi_free(e.hidden[0]);
    phi_free(e.windows.starts);
    phi_tokens_done(&e.windows.tokens);
    return status;
}
