/*
 * Purpose: the arithmetic, in one table of functions per instruction set, chosen once at start.
 * Owns:    nothing: all buffers are the caller's.
 * Threads: [any]; functions are pure.
 * Errors:  none; arguments are asserted.
 * Limits:  shapes are stated per argument. Vectors need no alignment.
 *
 * ref/ is plain C and the truth. Every other set is held to a stated bound of it by
 * tests/unit/engine/kernels.
 *
 * Order of sums. A lane of a vector is one output, and its columns are taken in order: batch size,
 * tiles and thread count change no result. Scales and offsets of weights count as floats, be they
 * kept in fp16 or in fp32. With s = weight scale * activation scale,
 *   INT kinds: acc = fma(float(dot), s, acc) run by run, dot being the exact integer sum over a run
 *              of 16 or 32 columns; then, with offsets, acc = fma(offset, shift, acc).
 *   FP kinds:  acc = fma(w, x, acc) over pieces of PHI_FLOAT_PIECE columns, each from zero; the
 *              pieces are added in order.
 * So all sets that have a fused multiply-add give the same bits.
 */
#ifndef PHI_ENGINE_KERNELS_KERNELS_H
#define PHI_ENGINE_KERNELS_KERNELS_H

#include "base/status.h"
#include "engine/kernels/attend.h"
#include "engine/tensor/weight.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* gelu's 2 sqrt(2 / pi), and that times 0.044715. */
#define PHI_GELU_LINEAR 1.5957691216F
#define PHI_GELU_CUBIC 0.0713548162726F
/* Columns of the FP kinds that are summed before they are added to the rest. */
#define PHI_FLOAT_PIECE 256U
/* Tokens that lie together in an activation tile, except in AMX's and those of NEON's i8mm. */
#define PHI_ACT_QUAD 4U
/* Tokens of a tile of a bulk product, what their number is rounded up to, and that of columns. */
#define PHI_BULK_TILE 16U
#define PHI_BULK_TOKENS 32U
#define PHI_BULK_STEP 32U
#define PHI_BULK_PARTS_MAX 3U
/* Blocks of a bulk product's slice, at most. */
#define PHI_BULK_BLOCKS 32U

/*
 * The right-hand side of a product, in tiles of tokens: tile i holds tokens [i * tile, ...), `tile`
 * of them but in the last one. For the FP kinds `x` is set, for the INT kinds the rest: int8 codes,
 * |q| <= 127, in runs of columns that share a scale, x ~ scale * q.
 * A tile of `width` tokens lies at element i * tile * cols (codes, x) or i * tile * (cols / run):
 *   codes  [cols / 4][width][4]     scales, starts, shifts  [cols / run][width]     x [cols][width]
 * so that a kernel reads each tile as one stream.
 */
typedef struct phi_act {
    uint32_t n_tok;
    uint32_t cols;
    uint32_t run;  /* 16 or 32 */
    uint32_t tile; /* the set's act_tile; PHI_ACT_QUAD for x */
    int centre;    /* phi_weight_centre of the weight */
    int8_t *codes;
    float *scales;
    int32_t *starts; /* -centre * (sum of the run's codes): where its integer sum starts */
    float *shifts;   /* scale * (sum of the run's codes) */
    const float *x;
} phi_act;

/* The right-hand side of a bulk product, for the set's eyes: numbers as sums of `parts` shorter
 * ones, in tiles up to a multiple of PHI_BULK_TOKENS, and columns up to one of PHI_BULK_STEP. */
typedef struct phi_bulk_act {
    uint32_t n_tok;
    uint32_t cols;
    uint32_t parts;
    uint16_t *values; /* 64-byte aligned */
} phi_bulk_act;

/*
 * Products for many tokens, for a set that has faster ones than its dot products. They round
 * otherwise, and so are for the tokens of prompts alone; but a token's result is still the same
 * bits whatever their number.
 */
typedef struct phi_bulk {
    const char *instruction; /* "tdpbf16ps" */
    /* phi_bulk_act.parts beside weights of a kind. */
    uint32_t (*act_parts)(phi_weight_kind kind);
    /* x [n_tok, cols] -> tile `tile` of act->values. */
    void (*pack)(const float *x, uint32_t tile, const phi_bulk_act *act);
    /* As phi_kernels.rows_int, for any kind and at most PHI_BULK_BLOCKS blocks that begin at an
     * even one. work: PHI_BULK_WORK(n_tok) floats, 64-byte aligned. */
    void (*rows)(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                 const phi_bulk_act *act, float *work, float *y, size_t ldy);
    /* x [d] -> row `row` of attend->q_tiles, times attend->scale. */
    void (*pack_query)(const float *x, uint32_t row, const phi_attend *attend);
    /* As phi_kernels.attend, of keys and values in fp16 and INT8. Reads q_tiles and not q; work:
     * PHI_BULK_ATTEND_WORK(d) floats, 64-byte aligned; up to PHI_BULK_ATTEND_ROWS rows, which
     * acc and max hold whatever their number. */
    void (*attend)(const phi_attend *attend, uint32_t page_begin, uint32_t page_end);
} phi_bulk;
/* A sum for each token and row of a slice. */
#define PHI_BULK_WORK(n_tok)                                                                       \
    (((size_t)(n_tok) + PHI_BULK_TOKENS - 1) / PHI_BULK_TOKENS * PHI_BULK_TOKENS *                 \
     PHI_BULK_BLOCKS * PHI_WEIGHT_BLOCK)
/* Query rows of one call, and pages that are weighed together. */
#define PHI_BULK_ATTEND_ROWS 256U
#define PHI_BULK_ATTEND_PAGES 4U
/* Floats of phi_attend.q_tiles: two bf16 parts of a query each. */
#define PHI_BULK_QUERIES(d) (PHI_BULK_ATTEND_ROWS * (((size_t)(d) + 31) / 32 * 32))
/* Keys and values of pages and their scales; scores and weights of two lots of rows; a
 * sum for each row and lane. */
#define PHI_BULK_ATTEND_WORK(d)                                                                    \
    ((size_t)PHI_BULK_ATTEND_PAGES * PHI_KV_PAGE_TOKENS *                                          \
         (2 * (((size_t)(d) + 31) / 32 * 32) + 2 + 4 * (size_t)PHI_BULK_TOKENS) +                  \
     (size_t)PHI_BULK_ATTEND_ROWS * 16)

typedef struct phi_kernels {
    const char *name; /* "portable", "avx2" */
    /* Tokens of a tile of codes; a set whose tiles are not PHI_ACT_QUAD wide may order the codes
     * inside a full tile as it likes. */
    size_t act_tile;

    /* x [cols] rows of tile `tile` -> its codes, scales, starts and shifts. */
    void (*quantize_tile)(const float *x, uint32_t tile, const phi_act *act);

    /* y[t * ldy + r] = sum_k W[r, k] x[t, k] for the rows r of blocks [block_begin, block_end) and
     * every token t. INT4 and INT8. */
    void (*rows_int)(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                     const phi_act *act, float *y, size_t ldy);
    /* The same for FP16, BF16 and FP32. */
    void (*rows_float)(const phi_weight *weight, uint32_t block_begin, uint32_t block_end,
                       const phi_act *act, float *y, size_t ldy);
    const phi_bulk *bulk; /* NULL: prompts are multiplied by the two above, too */

    /* out[i] = weight[i] * x[i] / sqrt(mean(x^2) + eps); Zhang and Sennrich, arXiv:1910.07467 */
    void (*rms_norm)(const float *x, const float *weight, size_t n, float eps, float *out);
    /* out[i] = weight[i] * (x[i] - mean(x)) / sqrt(variance(x) + eps) + bias[i], the variance being
     * the mean square of what is left; Ba, Kiros and Hinton, arXiv:1607.06450 */
    void (*layer_norm)(const float *x, const float *weight, const float *bias, size_t n, float eps,
                       float *out);
    /* out[i] = x[i] * sigmoid(2 u), u = sqrt(2 / pi) (x[i] + 0.044715 x[i]^3), which is GELU in
     * tanh's form; out may be x. Hendrycks and Gimpel, arXiv:1606.08415 */
    void (*gelu)(const float *x, size_t n, float *out);
    /* out[i] = up[i] * gate[i] * sigmoid(gate[i]); Shazeer, arXiv:2002.05202 */
    void (*swiglu)(const float *gate, const float *up, size_t n, float *out);
    /* Rotates pairs (x[i], x[i + n_rot / 2]) by (cos[i], sin[i]), i < n_rot / 2 ("NeoX" halves). */
    void (*rope)(float *x, const float *cos_row, const float *sin_row, size_t n_rot);
    /* x[i] += y[i] */
    void (*add)(float *x, const float *y, size_t n);
    /* acc[i] = a * acc[i] + b * v[i] */
    void (*mix)(float a, float *acc, float b, const float *v, size_t n);
    /* out[i] = a * x[i]; out may be x */
    void (*scale)(float a, const float *x, float *out, size_t n);
    /* Keys and values into the slots of one KV head of a page. */
    void (*kv_store)(const phi_kv_rows *rows, void *head);
    /* acc, max and sum of the rows over pages [page_begin, page_end), from nothing. */
    void (*attend)(const phi_attend *attend, uint32_t page_begin, uint32_t page_end);
    /* max over x */
    float (*max)(const float *x, size_t n);
    /* x[i] = exp(x[i] - shift); returns the sum */
    float (*exp_sum)(float *x, size_t n, float shift);
} phi_kernels;

/* The best set for this CPU and operating system, or the one that PHID_ISA names
 * ("portable", "avx2", "avx512-vnni"): phi_kernels_select fails if that one cannot run here. */
phi_status phi_kernels_select(const char *isa, const phi_kernels **out_kernels,
                              phi_err *err) PHI_MUST_CHECK;
/* All sets that can run on this machine, best first; for tests. */
size_t phi_kernels_available(const phi_kernels **out_list, size_t max);

#endif
