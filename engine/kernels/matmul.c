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

/* Blocks of rows that a slice is whole numbers of: large tiles are two blocks wide. */
#define SLICE_BLOCKS 2U
/* Multiply-adds of one slice at least: some ten microseconds' worth, against the one or two that
 * handing out a slice costs. */
#define SLICE_MACS (512U << 10)
/* From here on OpenBLAS may be the faster one. */
#define BLAS_TOKENS 32U
/* Runs are at least this long: what the side arrays have room for. */
#define RUN_MIN 16U
#define PART_ALIGN 64U
/* Rows that a thread is woken for: fewer are done sooner than it is. */
#define FILL_ROWS 4U

/* ---- scratch ---- */

typedef struct scratch_part {
    void **part;
    uint64_t bytes;
} scratch_part;

/* Hands out parts of scratch->memory, from its beginning; with memory NULL it only counts. */
static uint64_t hand_out(const phi_matmul_scratch *scratch, const scratch_part *parts, size_t n)
{
    uint64_t used = 0;
    for (size_t i = 0; i < n; i++) {
        if (scratch->memory) {
            *parts[i].part = (uint8_t *)scratch->memory + used;
        }
        used += (parts[i].bytes + PART_ALIGN - 1) / PART_ALIGN * PART_ALIGN;
    }
    return used;
}

static uint64_t lay_out(phi_matmul_scratch *scratch)
{
    const phi_matmul_sizes *sizes = &scratch->sizes;
    uint64_t cells = (uint64_t)sizes->n_tok_max * sizes->cols_max;
    uint64_t runs = (uint64_t)sizes->n_tok_max * (sizes->cols_max / RUN_MIN + 1);
    uint64_t tokens = ((uint64_t)sizes->n_tok_max + PHI_BULK_TOKENS - 1) / PHI_BULK_TOKENS;
    uint64_t steps = ((uint64_t)sizes->cols_max + PHI_BULK_STEP - 1) / PHI_BULK_STEP;
    uint64_t bulk_cells = tokens * PHI_BULK_TOKENS * steps * PHI_BULK_STEP * PHI_BULK_PARTS_MAX;
    const scratch_part parts[] = {
        {(void **)&scratch->codes, cells},
        {(void **)&scratch->scales, runs * sizeof(float)},
        {(void **)&scratch->starts, runs * sizeof(int32_t)},
        {(void **)&scratch->shifts, runs * sizeof(float)},
        {(void **)&scratch->x, cells * sizeof(float)},
    };
    const scratch_part bulk_parts[] = {
        {(void **)&scratch->bulk, bulk_cells * sizeof(uint16_t)},
        {(void **)&scratch->work,
         sizes->n_threads * (uint64_t)PHI_BULK_WORK(sizes->n_tok_max) * sizeof(float)},
    };
    uint64_t bytes = hand_out(scratch, parts, sizeof parts / sizeof *parts);
    if (sizes->n_threads) {
        uint64_t bulk = hand_out(scratch, bulk_parts, sizeof bulk_parts / sizeof *bulk_parts);
        bytes = bulk > bytes ? bulk : bytes;
    }
    return bytes;
}

uint64_t phi_matmul_scratch_bytes(const phi_matmul_sizes *sizes)
{
    phi_matmul_scratch scratch = {.sizes = *sizes};
    uint64_t cells;
    if (!phi_checked_mul((uint64_t)sizes->n_tok_max + PHI_BULK_TOKENS,
                         (uint64_t)sizes->cols_max + PHI_BULK_STEP, &cells) ||
        cells > UINT64_MAX / 16) {
        return 0;
    }
    return lay_out(&scratch);
}

phi_status phi_matmul_scratch_init(phi_matmul_scratch *scratch, const phi_matmul_sizes *sizes,
                                   phi_err *err)
{
    phi_matmul_scratch fresh = {.sizes = *sizes};
    uint64_t bytes = phi_matmul_scratch_bytes(sizes);
    if (bytes == 0 || bytes > SIZE_MAX / 2) {
        return phi_fail(err, PHI_E_LIMIT, "activations of %u x %u are too large", sizes->n_tok_max,
                        sizes->cols_max);
    }
    fresh.memory = phi_try_alloc_aligned((size_t)bytes);
    if (!fresh.memory) {
        return phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for activations of %u x %u",
                        sizes->n_tok_max, sizes->cols_max);
    }
    (void)lay_out(&fresh);
    *scratch = fresh;
    return PHI_OK;
}

void phi_matmul_scratch_done(phi_matmul_scratch *scratch)
{
    if (scratch) {
        phi_free(scratch->memory);
        *scratch = (phi_matmul_scratch){0};
    }
}

/* ---- the product ---- */

typedef struct matmul_job {
    const phi_kernels *kernels;
    const phi_weight *weight;
    const float *x; /* [n_tok, cols] */
    const phi_fill *fill;
    float *y;
    float *packed; /* where the quads of x go */
    phi_act act;
} matmul_job;

/* [team] Writes the tokens of tile `tile` into x, if they are not there. */
static void fill_tile(const phi_fill *fill, size_t tile, size_t tile_tokens, size_t n_tok,
                      unsigned worker)
{
    size_t begin = tile * tile_tokens;
    if (fill && begin < n_tok) {
        size_t end = n_tok - begin < tile_tokens ? n_tok : begin + tile_tokens;
        fill->rows(fill->arg, fill->first + begin, fill->first + end, worker);
    }
}

/* [team] Rows [begin, end) of x. */
static void fill_slice(void *arg, size_t begin, size_t end, unsigned worker)
{
    const phi_fill *fill = arg;
    fill->rows(fill->arg, fill->first + begin, fill->first + end, worker);
}

/* Where tiles would leave threads idle x is written by rows, now; else with the tiles. Returns what
 * the tiles are to write. */
static const phi_fill *fill_few(const phi_compute *compute, const phi_fill *fill, size_t n_tok,
                                size_t tile_tokens)
{
    if (!fill || n_tok > tile_tokens * (phi_team_size(compute->team) - 1)) {
        return fill;
    }
    phi_fill copy = *fill;
    phi_team_run(compute->team, compute->priority, n_tok, FILL_ROWS, fill_slice, &copy);
    return NULL;
}

/* [team] Tiles [begin, end) of tokens as codes. */
static void quantize_tiles(void *arg, size_t begin, size_t end, unsigned worker)
{
    const matmul_job *job = arg;
    size_t tile_cells = (size_t)job->act.tile * job->act.cols;
    for (size_t i = begin; i < end; i++) {
        fill_tile(job->fill, i, job->act.tile, job->act.n_tok, worker);
        job->kernels->quantize_tile(job->x + i * tile_cells, (uint32_t)i, &job->act);
    }
}

/* [team] Tiles [begin, end) of tokens as floats, four tokens column by column. */
static void pack_tiles(void *arg, size_t begin, size_t end, unsigned worker)
{
    const matmul_job *job = arg;
    size_t cols = job->act.cols;
    for (size_t i = begin; i < end; i++) {
        size_t first = i * PHI_ACT_QUAD;
        fill_tile(job->fill, i, PHI_ACT_QUAD, job->act.n_tok, worker);
        size_t left = first < job->act.n_tok ? job->act.n_tok - first : 0;
        size_t width = left < PHI_ACT_QUAD ? left : PHI_ACT_QUAD;
        const float *from = job->x + first * cols;
        float *to = job->packed + first * cols;
        for (size_t k = 0; k < cols; k++) {
            for (size_t t = 0; t < width; t++) {
                to[k * width + t] = from[t * cols + k];
            }
        }
    }
}

/* [team] Pairs of blocks [begin, end) of the weight. */
static void multiply_blocks(void *arg, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const matmul_job *job = arg;
    const phi_weight *weight = job->weight;
    uint32_t first = (uint32_t)begin * SLICE_BLOCKS;
    uint32_t last = (uint32_t)end * SLICE_BLOCKS;
    last = last < weight->n_blocks ? last : weight->n_blocks;
    if (weight->group) {
        job->kernels->rows_int(weight, first, last, &job->act, job->y, weight->rows);
    } else {
        job->kernels->rows_float(weight, first, last, &job->act, job->y, weight->rows);
    }
}

/* [team] The same through OpenBLAS. */
static void multiply_blocks_blas(void *arg, size_t begin, size_t end, unsigned worker)
{
    const matmul_job *job = arg;
    if (!phi_blas_rows(job->weight, (uint32_t)begin * PHI_BLAS_BLOCKS,
                       (uint32_t)end * PHI_BLAS_BLOCKS, job->x, job->act.n_tok, job->y,
                       job->weight->rows)) {
        multiply_blocks(arg, begin * (PHI_BLAS_BLOCKS / SLICE_BLOCKS),
                        end * (PHI_BLAS_BLOCKS / SLICE_BLOCKS), worker);
    }
}

static size_t slice_grain(const phi_weight *weight, uint32_t n_tok)
{
    uint64_t macs = (uint64_t)weight->cols * n_tok * PHI_WEIGHT_BLOCK * SLICE_BLOCKS;
    return (size_t)(SLICE_MACS / (macs > 0 ? macs : 1)) + 1;
}

/* Turns x into what the kernels read. */
static void prepare(const phi_compute *compute, matmul_job *job, phi_matmul_scratch *scratch)
{
    phi_act *act = &job->act;
    const phi_weight *weight = job->weight;
    act->tile = weight->group ? (uint32_t)compute->kernels->act_tile : PHI_ACT_QUAD;
    job->fill = fill_few(compute, job->fill, act->n_tok, act->tile);
    if (weight->group) {
        act->run = weight->group < 32 ? 16 : 32;
        act->centre = phi_weight_centre(weight);
        act->codes = scratch->codes;
        act->scales = scratch->scales;
        act->starts = scratch->starts;
        act->shifts = scratch->shifts;
        phi_team_run(compute->team, compute->priority,
                     act->n_tok / act->tile + (act->n_tok % act->tile != 0), 1, quantize_tiles,
                     job);
        return;
    }
    act->x = job->x;
    if (act->n_tok > 1) {
        job->packed = scratch->x;
        act->x = scratch->x;
        phi_team_run(compute->team, compute->priority,
                     act->n_tok / PHI_ACT_QUAD + (act->n_tok % PHI_ACT_QUAD != 0), 1, pack_tiles,
                     job);
    } else {
        fill_tile(job->fill, 0, PHI_ACT_QUAD, act->n_tok, 0);
    }
}

void phi_matmul(const phi_compute *compute, const phi_weight *weight, const float *x,
                const phi_fill *fill, uint32_t n_tok, float *y, phi_matmul_scratch *scratch)
{
    matmul_job job = {.kernels = compute->kernels, .weight = weight, .x = x, .fill = fill, .y = y};
    if (n_tok == 0) {
        return;
    }
    PHI_ASSERT(n_tok <= scratch->sizes.n_tok_max && weight->cols <= scratch->sizes.cols_max);
    job.act.n_tok = n_tok;
    job.act.cols = weight->cols;
    prepare(compute, &job, scratch);
    if (!weight->group && n_tok >= BLAS_TOKENS && compute->priority == PHI_TEAM_BACKGROUND &&
        phi_blas_is_faster(compute->kernels)) {
        phi_team_run(compute->team, compute->priority,
                     (weight->n_blocks + PHI_BLAS_BLOCKS - 1) / PHI_BLAS_BLOCKS, 1,
                     multiply_blocks_blas, &job);
        return;
    }
    phi_team_run(compute->team, compute->priority,
                 (weight->n_blocks + SLICE_BLOCKS - 1) / SLICE_BLOCKS, slice_grain(weight, n_tok),
                 multiply_blocks, &job);
}

/* ---- prompts ---- */

typedef struct bulk_job {
    const phi_bulk *bulk;
    const phi_weight *weight;
    const float *x;
    const phi_fill *fill;
    float *y;
    float *work;
    size_t work_floats; /* of a thread */
    uint32_t n_blocks;  /* of a slice */
    phi_bulk_act act;
} bulk_job;

/* [team] Tiles [begin, end) of tokens. */
static void bulk_tiles(void *arg, size_t begin, size_t end, unsigned worker)
{
    const bulk_job *job = arg;
    for (size_t i = begin; i < end; i++) {
        fill_tile(job->fill, i, PHI_BULK_TILE, job->act.n_tok, worker);
        job->bulk->pack(job->x, (uint32_t)i, &job->act);
    }
}

/* Blocks of a slice: many share what is fetched of the tokens, but each thread shall have two
 * slices at least. */
static uint32_t bulk_blocks(uint32_t n_blocks, unsigned n_threads)
{
    uint32_t n = n_blocks / (2 * n_threads) / 2 * 2;
    return n < 2 ? 2 : n > PHI_BULK_BLOCKS ? PHI_BULK_BLOCKS : n;
}

/* [team] Slices [begin, end) of the weight. */
static void bulk_slices(void *arg, size_t begin, size_t end, unsigned worker)
{
    const bulk_job *job = arg;
    const phi_weight *weight = job->weight;
    for (size_t i = begin; i < end; i++) {
        uint32_t first = (uint32_t)i * job->n_blocks;
        uint32_t left = weight->n_blocks - first;
        job->bulk->rows(weight, first, first + (left < job->n_blocks ? left : job->n_blocks),
                        &job->act, job->work + worker * job->work_floats, job->y, weight->rows);
    }
}

void phi_matmul_prompt(const phi_compute *compute, const phi_weight *weight, const float *x,
                       const phi_fill *fill, uint32_t n_tok, float *y, phi_matmul_scratch *scratch)
{
    const phi_bulk *bulk = compute->kernels->bulk;
    if (!bulk || n_tok == 0) {
        phi_matmul(compute, weight, x, fill, n_tok, y, scratch);
        return;
    }
    PHI_ASSERT(n_tok <= scratch->sizes.n_tok_max && weight->cols <= scratch->sizes.cols_max);
    PHI_ASSERT(phi_team_size(compute->team) <= scratch->sizes.n_threads);
    bulk_job job = {.bulk = bulk,
                    .weight = weight,
                    .x = x,
                    .fill = fill_few(compute, fill, n_tok, PHI_BULK_TILE),
                    .y = y,
                    .work = scratch->work,
                    .work_floats = PHI_BULK_WORK(scratch->sizes.n_tok_max),
                    .n_blocks = bulk_blocks(weight->n_blocks, phi_team_size(compute->team)),
                    .act = {.n_tok = n_tok,
                            .cols = weight->cols,
                            .parts = bulk->act_parts(weight->kind),
                            .values = scratch->bulk}};
    const size_t n_tiles =
        ((size_t)n_tok + PHI_BULK_TOKENS - 1) / PHI_BULK_TOKENS * (PHI_BULK_TOKENS / PHI_BULK_TILE);
    phi_team_run(compute->team, compute->priority, n_tiles, 1, bulk_tiles, &job);
    phi_team_run(compute->team, compute->priority,
                 (weight->n_blocks + job.n_blocks - 1) / job.n_blocks, 1, bulk_slices, &job);
}

void phi_matmul_rows(const phi_compute *compute, const phi_weight *weight, const float *x,
                     const phi_fill *fill, uint32_t n_tok, uint32_t n_prompt, float *y,
                     phi_matmul_scratch *scratch)
{
    PHI_ASSERT(n_prompt <= n_tok);
    uint32_t n = n_tok - n_prompt;
    phi_fill of_prompts = fill ? *fill : (phi_fill){0};
    of_prompts.first += n;
    phi_matmul(compute, weight, x, fill, n, y, scratch);
    phi_matmul_prompt(compute, weight, x + (size_t)n * weight->cols, fill ? &of_prompts : NULL,
                      n_prompt, y + (size_t)n * weight->rows, scratch);
}
