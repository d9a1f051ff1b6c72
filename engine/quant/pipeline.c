#include "engine/quant/pipeline.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "engine/formats/tensor_rows.h"
#include "engine/quant/encode.h"

/* Elements of one chunk: 4 MiB of floats, a tenth of a second of 4-bit searching on one core. */
#define CHUNK_ELEMENTS (1U << 20)

/* Rows of one slice at least: a slice should be worth waking a thread for. */
#define SLICE_ELEMENTS 8192U

/* Squared error and squared weight of a tensor or of all of them. */
typedef struct error_sums {
    double error;
    double weight;
} error_sums;

typedef struct pipeline {
    const phi_compute *compute;
    const phi_checkpoint *checkpoint;
    const phi_recipe *recipe;
    phi_gguf_writer *writer;
    phi_meter *meter;
    phi_quality *quality;
    error_sums total;

    uint32_t cols_max;
    uint8_t *source;      /* one chunk as stored */
    uint8_t *encoded;     /* one chunk as it will be stored */
    float *rows;          /* [workers][2][cols_max]: a row before and after */
    uint8_t *codes;       /* one chunk as codes, where such are handed over */
    float *scales;        /* [2][chunk / 32]: theirs, and offsets */
    error_sums *row_sums; /* [rows of a chunk] */

    /* The chunk that the team is working on. */
    const phi_tensor *tensor;
    phi_encoding encoding;
    phi_row_run source_run; /* what the chunk's rows are */
    uint64_t encoded_row_bytes;
    _Atomic uint32_t bad_row; /* the first row with a value that does not fit, or UINT32_MAX */
} pipeline;

static uint32_t rows_per_chunk(const phi_tensor *tensor)
{
    PHI_ASSERT(tensor->cols > 0);
    uint32_t rows = CHUNK_ELEMENTS / tensor->cols;
    rows = rows > 0 ? rows : 1;
    return rows < tensor->rows ? rows : tensor->rows;
}

void phi_pipeline_declare(const phi_checkpoint *checkpoint, const phi_recipe *recipe,
                          phi_gguf_writer *writer)
{
    for (size_t i = 0; i < phi_checkpoint_count(checkpoint); i++) {
        const phi_tensor *tensor = phi_checkpoint_at(checkpoint, i);
        phi_encoding encoding = phi_recipe_choose(recipe, tensor);
        uint64_t dims[3] = {tensor->n_stacked, tensor->rows / tensor->n_stacked, tensor->cols};
        const uint64_t *first = dims + 3 - tensor->n_dims;
        phi_gguf_declare_tensor(writer, tensor->name, encoding.dtype, tensor->n_dims, first);
    }
}

static void note_bad_row(pipeline *p, uint32_t row)
{
    uint32_t seen = atomic_load(&p->bad_row);
    while (row < seen && !atomic_compare_exchange_weak(&p->bad_row, &seen, row)) {
    }
}

/* [team] Rows [begin, end) of the chunk. */
static void encode_rows(void *arg, size_t begin, size_t end, unsigned worker)
{
    pipeline *p = arg;
    uint32_t cols = p->tensor->cols;
    float *before = p->rows + (size_t)worker * 2 * p->cols_max;
    float *after = before + p->cols_max;
    for (size_t row = begin; row < end; row++) {
        uint8_t *out = p->encoded + row * p->encoded_row_bytes;
        phi_row_run_widen(&p->source_run, cols, 1, p->source + row * p->source_run.row_bytes,
                          before);
        if (!phi_encode_row(&p->encoding, before, cols, out)) {
            note_bad_row(p, (uint32_t)row);
            continue;
        }
        phi_dtype_widen(p->encoding.dtype, out, cols, after);
        error_sums sums = {0};
        for (uint32_t i = 0; i < cols; i++) {
            double difference = (double)before[i] - (double)after[i];
            sums.error += difference * difference;
            sums.weight += (double)before[i] * (double)before[i];
        }
        p->row_sums[row] = sums;
    }
}

/* Names the value: encodes piece by piece, the smallest that the type allows. */
static phi_status fail_bad_value(const pipeline *p, uint32_t first_row, phi_err *err)
{
    uint32_t row = atomic_load(&p->bad_row);
    float *values = p->rows;
    phi_row_run_widen(&p->source_run, p->tensor->cols, 1, p->source + row * p->source_run.row_bytes,
                      values);
    uint32_t worst = 0;
    for (uint32_t i = 0; i < p->tensor->cols; i++) {
        if (!isfinite(values[i])) {
            return phi_fail(err, PHI_E_FORMAT,
                            "tensor '%s', row %u, column %u: the weight is not a finite number",
                            p->tensor->name, first_row + row, i);
        }
        worst = fabsf(values[i]) > fabsf(values[worst]) ? i : worst;
    }
    return phi_fail(err, PHI_E_UNSUPPORTED,
                    "tensor '%s', row %u, column %u: %g is beyond what %s can hold; choose "
                    "another precision",
                    p->tensor->name, first_row + row, worst, (double)values[worst],
                    phi_dtype_get(p->encoding.dtype)->name);
}

static phi_status encode_chunk(pipeline *p, uint32_t row, uint32_t count, error_sums *sums,
                               phi_err *err)
{
    atomic_store(&p->bad_row, UINT32_MAX);
    size_t grain = SLICE_ELEMENTS / p->tensor->cols + 1;
    phi_team_run(p->compute->team, p->compute->priority, count, grain, encode_rows, p);
    if (atomic_load(&p->bad_row) != UINT32_MAX) {
        return fail_bad_value(p, row, err);
    }
    /* Summed by row and in order, so that the figure does not depend on the threads. */
    for (uint32_t i = 0; i < count; i++) {
        sums->error += p->row_sums[i].error;
        sums->weight += p->row_sums[i].weight;
    }
    return PHI_OK;
}

static phi_status report(pipeline *p, phi_err *err)
{
    double done = (double)p->meter->state.bytes_done / (double)p->meter->state.bytes_total;
    return phi_meter_report(p->meter, PHI_STAGE_QUANTIZING, done, p->tensor->name, err);
}

static phi_status write_chunk(pipeline *p, uint32_t row, uint32_t count, error_sums *sums,
                              phi_err *err)
{
    phi_status status =
        phi_checkpoint_read_rows(p->checkpoint, p->tensor, row, count, p->source, err);
    if (status != PHI_OK) {
        return status;
    }
    const uint8_t *data = p->source;
    if (p->source_run.coded || !phi_recipe_copies(&p->encoding, p->source_run.dtype)) {
        status = encode_chunk(p, row, count, sums, err);
        if (status != PHI_OK) {
            return status;
        }
        data = p->encoded;
    }
    status = phi_gguf_write_data(p->writer, data, count * p->encoded_row_bytes, err);
    if (status != PHI_OK) {
        return status;
    }
    p->meter->state.bytes_done += phi_tensor_share(p->tensor, row, count);
    return report(p, err);
}

/* True when the encoding gives back what the source has, value for value. */
static bool is_lossless(const pipeline *p)
{
    const phi_tensor *tensor = p->tensor;
    phi_dtype dtype = p->encoding.dtype;
    if (dtype == PHI_DTYPE_F32) {
        return true;
    }
    phi_form form = phi_tensor_form(tensor);
    bool is_float = phi_dtype_get(dtype)->block_elements == 1;
    return is_float ? form.kind == phi_form_of(dtype).kind
                    : !tensor->piece_coded[0] && !phi_tensor_is_mixed(tensor) &&
                          phi_recipe_copies(&p->encoding, tensor->dtype);
}

/* What became of a matrix. */
static phi_recode_fit count_matrix(pipeline *p, const phi_kept *kept)
{
    phi_quality *quality = p->quality;
    bool moves = kept && kept->moves;
    phi_recode_fit fit = moves ? kept->fit : is_lossless(p) ? PHI_FIT_EXACT : PHI_FIT_NONE;
    quality->matrices++;
    quality->exact += fit == PHI_FIT_EXACT;
    quality->rescaled += fit == PHI_FIT_ROUNDED;
    quality->coded += fit == PHI_FIT_NONE && phi_dtype_get(p->encoding.dtype)->block_elements > 1;
    return fit;
}

/* The tensor's part in the report. */
static void account(pipeline *p, const error_sums *sums, const phi_kept *kept)
{
    phi_quality *quality = p->quality;
    bool smaller = p->encoded_row_bytes * p->tensor->rows < p->tensor->bytes;
    quality->tensors++;
    quality->tensors_quantized += smaller;
    bool differs = p->tensor->n_dims >= 2 && count_matrix(p, kept) != PHI_FIT_EXACT;
    if (kept ? !differs : !smaller) {
        return;
    }
    p->total.error += sums->error;
    p->total.weight += sums->weight;
    double rmse = sums->weight > 0.0 ? sqrt(sums->error / sums->weight) : 0.0;
    if (rmse > quality->worst_rmse) {
        quality->worst_rmse = rmse;
        (void)snprintf(quality->worst_tensor, sizeof quality->worst_tensor, "%s", p->tensor->name);
    }
}

/* Codes as they are, in blocks. */
static phi_status move_tensor(pipeline *p, const phi_kept *kept, error_sums *sums, phi_err *err)
{
    const phi_tensor *tensor = p->tensor;
    uint32_t step = rows_per_chunk(tensor);
    size_t blocks = tensor->cols / PHI_BLOCK_ELEMENTS;
    float *offsets = p->scales + step * blocks;
    phi_recode recode = {.compute = p->compute,
                         .checkpoint = p->checkpoint,
                         .tensor = tensor,
                         .target = kept->target,
                         .fit = kept->fit};
    phi_status status = PHI_OK;
    for (uint32_t row = 0; status == PHI_OK && row < tensor->rows; row += step) {
        uint32_t count = tensor->rows - row < step ? tensor->rows - row : step;
        status = phi_recode_rows(&recode, row, count, p->codes, p->scales, offsets, err);
        for (uint32_t r = 0; status == PHI_OK && r < count; r++) {
            phi_encode_codes(p->encoding.dtype, p->codes + (size_t)r * tensor->cols,
                             p->scales + r * blocks, offsets + r * blocks, tensor->cols,
                             p->encoded + r * p->encoded_row_bytes);
        }
        if (status == PHI_OK) {
            status = phi_gguf_write_data(p->writer, p->encoded, count * p->encoded_row_bytes, err);
        }
        p->meter->state.bytes_done += phi_tensor_share(tensor, row, count);
        status = status ? status : report(p, err);
    }
    *sums = (error_sums){.error = recode.error, .weight = recode.weight};
    return status;
}

static phi_status encode_tensor(pipeline *p, error_sums *sums, phi_err *err)
{
    const phi_tensor *tensor = p->tensor;
    uint32_t step = rows_per_chunk(tensor);
    phi_status status = PHI_OK;
    for (uint32_t row = 0; status == PHI_OK && row < tensor->rows;) {
        phi_row_run run = phi_tensor_run(tensor, row);
        uint32_t count = run.rows < step ? run.rows : step;
        p->source_run = run;
        status = write_chunk(p, row, count, sums, err);
        row += count;
    }
    return status;
}

static phi_status write_tensor(pipeline *p, const phi_tensor *tensor, phi_err *err)
{
    const phi_kept *kept = phi_recipe_kept(p->recipe, tensor);
    p->tensor = tensor;
    p->encoding = phi_recipe_choose(p->recipe, tensor);
    bool sized = phi_dtype_row_bytes(p->encoding.dtype, tensor->cols, &p->encoded_row_bytes);
    PHI_ASSERT(sized);
    phi_status status = report(p, err);
    error_sums sums = {0};
    if (status == PHI_OK) {
        status =
            kept && kept->moves ? move_tensor(p, kept, &sums, err) : encode_tensor(p, &sums, err);
    }
    if (status == PHI_OK) {
        account(p, &sums, kept);
        phi_checkpoint_forget_rows(tensor, tensor->rows);
    }
    return status;
}

static phi_status allocate(pipeline *p, phi_err *err)
{
    size_t elements = CHUNK_ELEMENTS;
    uint32_t rows = 1;
    for (size_t i = 0; i < phi_checkpoint_count(p->checkpoint); i++) {
        const phi_tensor *tensor = phi_checkpoint_at(p->checkpoint, i);
        p->cols_max = tensor->cols > p->cols_max ? tensor->cols : p->cols_max;
        uint32_t chunk = rows_per_chunk(tensor);
        rows = chunk > rows ? chunk : rows;
    }
    elements = p->cols_max > elements ? p->cols_max : elements;
    size_t workers = phi_team_size(p->compute->team);
    p->source = phi_try_alloc(elements * sizeof(float));
    p->encoded = phi_try_alloc(elements * sizeof(float));
    p->rows = phi_try_alloc(workers * 2 * p->cols_max * sizeof(float));
    p->row_sums = phi_try_alloc_zero(rows, sizeof *p->row_sums);
    p->codes = p->recipe->kept ? phi_try_alloc(elements) : NULL;
    p->scales = p->recipe->kept ? phi_try_alloc(elements / 16 * sizeof *p->scales) : NULL;
    bool kept = !p->recipe->kept || (p->codes && p->scales);
    if (!p->source || !p->encoded || !p->rows || !p->row_sums || !kept) {
        return phi_fail(err, PHI_E_NO_MEMORY, "no memory for a chunk of %zu weights", elements);
    }
    return PHI_OK;
}

phi_status phi_pipeline_run(const phi_pipeline_input *input, phi_quality *quality, phi_err *err)
{
    pipeline p = {
        .compute = input->compute,
        .checkpoint = input->checkpoint,
        .recipe = input->recipe,
        .writer = input->writer,
        .meter = input->meter,
        .quality = quality,
    };
    phi_status status = allocate(&p, err);
    for (size_t i = 0; status == PHI_OK && i < phi_checkpoint_count(p.checkpoint); i++) {
        status = write_tensor(&p, phi_checkpoint_at(p.checkpoint, i), err);
    }
    if (status == PHI_OK && p.total.weight > 0.0) {
        quality->weight_rmse = sqrt(p.total.error / p.total.weight);
    }
    phi_free(p.scales);
    phi_free(p.codes);
    phi_free(p.row_sums);
    phi_free(p.rows);
    phi_free(p.encoded);
    phi_free(p.source);
    return status;
}
