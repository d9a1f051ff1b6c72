#include "engine/kernels/blas.h"

#include "base/clock.h"
#include "base/mem.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include <cblas.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void set_up(void)
{
    openblas_set_num_threads(1);
}

/* Columns of a block that are widened at a time, so that a piece is read and written in the
 * first-level cache. */
#define PIECE 64U

/* A block's columns as floats, `ld` apart: the layout has them as rows of [cols, 16] already, so
 * nothing is transposed. */
static void widen_block(const phi_weight *weight, uint32_t block, float *out, size_t ld)
{
    static const phi_dtype dtypes[PHI_WEIGHT_KIND_COUNT] = {
        [PHI_WEIGHT_FP16] = PHI_DTYPE_F16,
        [PHI_WEIGHT_BF16] = PHI_DTYPE_BF16,
        [PHI_WEIGHT_FP32] = PHI_DTYPE_F32,
    };
    size_t column_bytes = (size_t)weight->block_bytes / weight->cols;
    const uint8_t *from = (const uint8_t *)weight->codes + block * weight->block_bytes;
    float piece[PIECE * PHI_WEIGHT_BLOCK];
    for (size_t k = 0; k < weight->cols; k += PIECE) {
        size_t n = weight->cols - k < PIECE ? weight->cols - k : PIECE;
        phi_dtype_widen(dtypes[weight->kind], from + k * column_bytes, n * PHI_WEIGHT_BLOCK, piece);
        for (size_t i = 0; i < n; i++) {
            memcpy(out + (k + i) * ld, piece + i * PHI_WEIGHT_BLOCK,
                   PHI_WEIGHT_BLOCK * sizeof *out);
        }
    }
}

bool phi_blas_rows(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                   const float *x, uint32_t n_tok, float *y, size_t ldy)
{
    (void)pthread_once(&once, set_up);
    size_t cols = weight->cols;
    uint32_t row_begin = block_begin * PHI_WEIGHT_BLOCK;
    block_end = block_end < weight->n_blocks ? block_end : weight->n_blocks;
    uint32_t row_end = block_end * PHI_WEIGHT_BLOCK;
    row_end = row_end < weight->rows ? row_end : weight->rows;
    size_t ld = (size_t)(block_end - block_begin) * PHI_WEIGHT_BLOCK;
    float *panel = phi_try_alloc_aligned(ld * cols * sizeof *panel);
    if (!panel) {
        return false;
    }
    for (uint32_t block = block_begin; block < block_end; block++) {
        widen_block(weight, block, panel + (block - block_begin) * PHI_WEIGHT_BLOCK, ld);
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)n_tok,
                (blasint)(row_end - row_begin), (blasint)cols, 1.0F, x, (blasint)cols, panel,
                (blasint)ld, 0.0F, y + row_begin, (blasint)ldy);
    phi_free(panel);
    return true;
}

/* ---- which is faster ---- */

#define TRIAL_COLS 1024U
#define TRIAL_TOKENS 64U
#define TRIAL_ROUNDS 5

typedef struct trial {
    phi_weight weight;
    float *x; /* [TRIAL_TOKENS, TRIAL_COLS], the same number everywhere: no order matters */
    float *y; /* [TRIAL_TOKENS, rows] */
} trial;

static uint64_t best_ns(const trial *t, const phi_kernels *kernels)
{
    const phi_act act = {
        .n_tok = TRIAL_TOKENS, .cols = TRIAL_COLS, .tile = PHI_ACT_QUAD, .x = t->x};
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < TRIAL_ROUNDS; i++) {
        uint64_t start = phi_clock_ns();
        if (kernels) {
            kernels->rows_float(&t->weight, 0, t->weight.n_blocks, &act, t->y, t->weight.rows);
        } else if (!phi_blas_rows(&t->weight, 0, t->weight.n_blocks, t->x, TRIAL_TOKENS, t->y,
                                  t->weight.rows)) {
            return UINT64_MAX;
        }
        uint64_t took = phi_clock_ns() - start;
        best = took < best ? took : best;
    }
    return best;
}

static bool measure(const phi_kernels *kernels)
{
    trial t = {0};
    uint32_t rows = PHI_BLAS_BLOCKS * PHI_WEIGHT_BLOCK;
    bool faster = false;
    if (phi_weight_init(&t.weight, PHI_DTYPE_F32, rows, TRIAL_COLS, NULL)) {
        return false;
    }
    memset(t.weight.codes, 0, (size_t)phi_weight_bytes(&t.weight));
    t.x = phi_try_alloc_zero((size_t)TRIAL_TOKENS * TRIAL_COLS, sizeof *t.x);
    t.y = phi_try_alloc_zero((size_t)TRIAL_TOKENS * rows, sizeof *t.y);
    if (t.x && t.y) {
        faster = best_ns(&t, NULL) < best_ns(&t, kernels);
    }
    phi_free(t.x);
    phi_free(t.y);
    phi_weight_done(&t.weight);
    return faster;
}

bool phi_blas_is_faster(const phi_kernels *kernels)
{
    /* One set serves a process; tests and benchmarks that use several measure anew at each change.
     * The two are written apart, but a mix of two measurements is only ever a slower choice. */
    static _Atomic(const phi_kernels *) measured;
    static atomic_bool faster;
    if (atomic_load_explicit(&measured, memory_order_acquire) != kernels) {
        atomic_store_explicit(&faster, measure(kernels), memory_order_relaxed);
        /* Pairs with the acquire above: who sees the set sees its measurement. */
        atomic_store_explicit(&measured, kernels, memory_order_release);
    }
    return atomic_load_explicit(&faster, memory_order_relaxed);
}
