#include "engine/kernels/blas.h"

#include "base/mem.h"

#include <pthread.h>
#include <string.h>

#include <cblas.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void set_up(void)
{
    openblas_set_num_threads(1);
}

/* Widens one row, exactly. */
static void widen_row(const phi_kernels *kernels, const phi_weight *weight, uint32_t row,
                      float *out)
{
    if (weight->kind != PHI_WEIGHT_FP16) {
        phi_weight_row(weight, row, out);
        return;
    }
    /* 0 + 1 * v is v, and the set's instructions convert fp16 many times faster than plain C. */
    memset(out, 0, weight->cols * sizeof *out);
    kernels->axpy_f16(1.0F, (const uint16_t *)weight->codes + (size_t)row * weight->cols, out,
                      weight->cols);
}

bool phi_blas_rows(const phi_kernels *kernels, const phi_weight *weight, uint32_t row_begin,
                   uint32_t row_end, const float *x, uint32_t n_tok, float *y, size_t ldy)
{
    (void)pthread_once(&once, set_up);
    size_t cols = weight->cols;
    uint32_t rows = row_end - row_begin;
    float *panel = NULL;
    const float *w = (const float *)weight->codes + row_begin * cols;
    if (weight->kind != PHI_WEIGHT_FP32) {
        panel = phi_try_alloc_aligned(rows * cols * sizeof *panel);
        if (!panel) {
            return false;
        }
        for (uint32_t r = 0; r < rows; r++) {
            widen_row(kernels, weight, row_begin + r, panel + r * cols);
        }
        w = panel;
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)n_tok, (blasint)rows,
                (blasint)cols, 1.0F, x, (blasint)cols, w, (blasint)cols, 0.0F, y + row_begin,
                (blasint)ldy);
    phi_free(panel);
    return true;
}
