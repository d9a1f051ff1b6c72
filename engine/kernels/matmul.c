/*
 * Products at inference priority go through the table's own row kernels, whatever the number of
 * tokens: a BLAS chooses its blocking, and with it the order of its sums, by the shape it is given,
 * and a sequence would then answer differently alone and in a batch. Products in the background
 * (quality reports) compare whole passes and continue nothing, so OpenBLAS may have those.
 */
#include "engine/kernels/matmul.h"

#include "base/assert.h"
#include "base/checked.h"
#include "base/mem.h"
#include "engine/kernels/blas.h"

/* Multiply-adds of one slice at least: some ten microseconds' worth, against the one or two that
 * handing out a slice costs. */
#define SLICE_MACS (256U << 10)
/* Rows of one slice at least: whole register blocks. */
#define SLICE_ROWS 8U
/* Tokens that a slice of activation quantizing has at least. */
#define QUANTIZE_TOKENS 4U
/* From here on OpenBLAS is the faster one; rows that it gets at once, so that a widened panel stays
 * in the cache. */
#define BLAS_TOKENS 32U
#define BLAS_ROWS 64U

phi_status phi_matmul_scratch_init(phi_matmul_scratch *scratch, uint32_t n_tok_max,
                                   uint32_t cols_max, phi_err *err)
{
    uint64_t codes;
    phi_matmul_scratch fresh = {.n_tok_max = n_tok_max, .cols_max = cols_max};
    uint64_t groups_per_row = (uint64_t)cols_max / 32 + 1;
    if (!phi_checked_mul(n_tok_max, groups_per_row * 32, &codes) || codes > SIZE_MAX / 2) {
        return phi_fail(err, PHI_E_LIMIT, "activations of %u x %u are too large", n_tok_max,
                        cols_max);
    }
    size_t groups = (size_t)(n_tok_max * groups_per_row);
    fresh.codes = phi_try_alloc_aligned((size_t)codes);
    fresh.scales = phi_try_alloc_aligned(groups * sizeof *fresh.scales);
    fresh.sums = phi_try_alloc_aligned(groups * sizeof *fresh.sums);
    if (!fresh.codes || !fresh.scales || !fresh.sums) {
        phi_matmul_scratch_done(&fresh);
        return phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for activations of %u x %u",
                        n_tok_max, cols_max);
    }
    *scratch = fresh;
    return PHI_OK;
}

void phi_matmul_scratch_done(phi_matmul_scratch *scratch)
{
    if (scratch) {
        phi_free(scratch->codes);
        phi_free(scratch->scales);
        phi_free(scratch->sums);
        *scratch = (phi_matmul_scratch){0};
    }
}

typedef struct matmul_job {
    const phi_kernels *kernels;
    const phi_weight *weight;
    const float *x;
    float *y;
    uint32_t n_tok;
    phi_matmul_scratch *scratch;
} matmul_job;

/* [team] Tokens [begin, end). */
static void quantize_tokens(void *arg, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const matmul_job *job = arg;
    size_t cols = job->weight->cols;
    for (size_t t = begin; t < end; t++) {
        job->kernels->quantize_row(job->x + t * cols, cols, job->scratch->codes + t * cols,
                                   job->scratch->scales + t * (cols / 32),
                                   job->scratch->sums + t * (cols / 32));
    }
}

/* [team] Rows [begin, end) of the weight. */
static void multiply_rows(void *arg, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const matmul_job *job = arg;
    const phi_weight *weight = job->weight;
    const phi_kernels *kernels = job->kernels;
    const phi_act act = {job->n_tok, weight->cols, job->scratch->codes, job->scratch->scales,
                         job->scratch->sums};
    uint32_t first = (uint32_t)begin;
    uint32_t last = (uint32_t)end;
    switch (weight->kind) {
    case PHI_WEIGHT_INT4:
        kernels->rows_int4(weight, first, last, &act, job->y, weight->rows);
        return;
    case PHI_WEIGHT_INT8:
        kernels->rows_int8(weight, first, last, &act, job->y, weight->rows);
        return;
    case PHI_WEIGHT_FP16:
        kernels->rows_fp16(weight, first, last, job->x, job->n_tok, job->y, weight->rows);
        return;
    case PHI_WEIGHT_BF16:
        kernels->rows_bf16(weight, first, last, job->x, job->n_tok, job->y, weight->rows);
        return;
    case PHI_WEIGHT_FP32:
        kernels->rows_fp32(weight, first, last, job->x, job->n_tok, job->y, weight->rows);
        return;
    case PHI_WEIGHT_KIND_COUNT:
        break;
    }
    PHI_UNREACHABLE();
}

/* [team] The same through OpenBLAS. */
static void multiply_rows_blas(void *arg, size_t begin, size_t end, unsigned worker)
{
    const matmul_job *job = arg;
    if (!phi_blas_rows(job->kernels, job->weight, (uint32_t)begin, (uint32_t)end, job->x,
                       job->n_tok, job->y, job->weight->rows)) {
        multiply_rows(arg, begin, end, worker);
    }
}

static size_t slice_rows(const phi_weight *weight, uint32_t n_tok)
{
    uint64_t row_macs = (uint64_t)weight->cols * n_tok;
    uint64_t rows = SLICE_MACS / (row_macs > 0 ? row_macs : 1);
    rows -= rows % SLICE_ROWS;
    return rows > SLICE_ROWS ? (size_t)rows : SLICE_ROWS;
}

void phi_matmul(const phi_compute *compute, const phi_weight *weight, const float *x,
                uint32_t n_tok, float *y, phi_matmul_scratch *scratch)
{
    matmul_job job = {compute->kernels, weight, x, y, n_tok, scratch};
    if (n_tok == 0) {
        return;
    }
    if (weight->group) {
        PHI_ASSERT(n_tok <= scratch->n_tok_max && weight->cols <= scratch->cols_max);
        phi_team_run(compute->team, compute->priority, n_tok, QUANTIZE_TOKENS, quantize_tokens,
                     &job);
    }
    if (!weight->group && n_tok >= BLAS_TOKENS && compute->priority == PHI_TEAM_BACKGROUND) {
        phi_team_run(compute->team, compute->priority, weight->rows, BLAS_ROWS, multiply_rows_blas,
                     &job);
        return;
    }
    phi_team_run(compute->team, compute->priority, weight->rows, slice_rows(weight, n_tok),
                 multiply_rows, &job);
}
