/*
 * All matrices are filled from one pool of file blocks that stays in the cache: what is random is
 * where a run of rows begins in it. Values are of the size that keeps activations finite and near 1
 * through all layers: a standard deviation of about 1 / sqrt(3072).
 *
 * Dimensions: config.json of microsoft/Phi-3-mini-4k-instruct, Phi-3.5-mini-instruct,
 * Phi-3-medium-4k-instruct, Phi-4-mini-instruct, phi-4, phi-2 and Phi-3.5-MoE-instruct.
 */
#include "engine/bench/synthetic.h"

#include "base/mem.h"
#include "engine/formats/hf_names.h"
#include "engine/tensor/half.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* Small enough for a second-level cache; whole blocks of every type. */
#define POOL_ROWS_BYTES (1U << 20)
/* Rows that are filled at once: a multiple of what any layout interleaves. */
#define FILL_ROWS 16U
/* Where rows may begin in the pool. */
#define POOL_STARTS 61U
/* Of every bias: as small as a weight. */
#define BIAS 0.01F

typedef struct known_model {
    const char *name;
    phi_arch arch;
    uint32_t n_embd;
    uint32_t n_layer;
    uint32_t n_head;
    uint32_t n_head_kv;
    uint32_t head_dim;
    uint32_t n_ffn;
    uint32_t n_vocab;
    uint32_t n_ctx;
    uint32_t n_ctx_original; /* LongRoPE if it is less */
    uint32_t n_rot;
    uint32_t window;
    float rope_theta;
    bool tied_head;
} known_model;

static const known_model models[] = {
    {"phi-3-mini", PHI_ARCH_PHI3, 3072, 32, 32, 32, 96, 8192, 32064, 4096, 4096, 96, 2047, 10000.0F,
     false},
    {"phi-3.5-mini", PHI_ARCH_PHI3, 3072, 32, 32, 32, 96, 8192, 32064, 131072, 4096, 96, 0,
     10000.0F, false},
    {"phi-3-medium", PHI_ARCH_PHI3, 5120, 40, 40, 10, 128, 17920, 32064, 4096, 4096, 128, 2047,
     10000.0F, false},
    {"phi-4-mini", PHI_ARCH_PHI3, 3072, 32, 24, 8, 128, 8192, 200064, 131072, 4096, 96, 0, 10000.0F,
     true},
    {"phi-4", PHI_ARCH_PHI3, 5120, 40, 40, 10, 128, 17920, 100352, 16384, 16384, 128, 0, 250000.0F,
     false},
    {"phi-2", PHI_ARCH_PHI2, 2560, 32, 32, 32, 80, 10240, 51200, 2048, 2048, 32, 0, 10000.0F,
     false},
    {"phi-3.5-moe", PHI_ARCH_PHIMOE, 4096, 32, 32, 8, 128, 6400, 32064, 131072, 4096, 128, 0,
     10000.0F, false},
};
#define N_MODELS (sizeof models / sizeof models[0])

/* ---- what there is ---- */

static void fill_description(const known_model *model, phi_description *d)
{
    phi_description_init(d, model->arch);
    d->n_layer = model->n_layer;
    d->n_embd = model->n_embd;
    d->n_head = model->n_head;
    d->n_head_kv = model->n_head_kv;
    d->head_dim = model->head_dim;
    d->n_ffn = model->n_ffn;
    d->n_vocab = model->n_vocab;
    d->n_ctx = model->n_ctx;
    d->tied_head = model->tied_head;
    d->n_rot = model->n_rot;
    d->rope_theta = model->rope_theta;
    d->n_ctx_original = model->n_ctx_original;
    d->window = model->window;
    if (d->ffn == PHI_FFN_EXPERTS) {
        d->attn_bias = true;
        d->head_bias = true;
    }
    (void)snprintf(d->name, sizeof d->name, "%s", model->name);
    if (model->n_ctx_original < model->n_ctx) {
        d->rope = PHI_ROPE_LONG;
        for (uint32_t i = 0; i < d->n_rot / 2; i++) {
            d->rope_short[i] = 1.0F;
            d->rope_long[i] = 1.0F;
        }
    }
}

phi_status phi_synthetic_describe(const char *name, uint32_t n_layer,
                                  phi_description *out_description, phi_err *err)
{
    for (size_t i = 0; i < N_MODELS; i++) {
        if (strcmp(models[i].name, name) != 0) {
            continue;
        }
        if (n_layer > models[i].n_layer) {
            return phi_fail_param(err, PHI_E_INVALID, "layers", "%s has %u layers, not %u", name,
                                  models[i].n_layer, n_layer);
        }
        fill_description(&models[i], out_description);
        out_description->n_layer = n_layer > 0 ? n_layer : models[i].n_layer;
        return PHI_OK;
    }
    return phi_fail_param(
        err, PHI_E_INVALID, "synthetic",
        "there is no synthetic model '%.60s'; there are phi-3-mini, phi-3.5-mini, "
        "phi-3-medium, phi-4-mini, phi-4, phi-2 and phi-3.5-moe",
        name);
}

phi_status phi_synthetic_types_of(const char *precision, phi_synthetic_types *out_types,
                                  phi_err *err)
{
    static const struct {
        const char *name;
        phi_synthetic_types types;
    } known[] = {
        {"int4", {PHI_DTYPE_Q4_0, PHI_DTYPE_Q8_0}}, {"int8", {PHI_DTYPE_Q8_0, PHI_DTYPE_Q8_0}},
        {"fp16", {PHI_DTYPE_F16, PHI_DTYPE_F16}},   {"bf16", {PHI_DTYPE_BF16, PHI_DTYPE_BF16}},
        {"fp32", {PHI_DTYPE_F32, PHI_DTYPE_F32}},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(known[i].name, precision) == 0) {
            *out_types = known[i].types;
            return PHI_OK;
        }
    }
    return phi_fail_param(
        err, PHI_E_INVALID, "precision",
        "there is no precision '%.60s'; there are int4, int8, fp16, bf16 and fp32", precision);
}

/* ---- shapes ---- */

typedef struct shape {
    uint32_t rows;
    uint32_t cols;
} shape;

/* Of a layer; which of them it has is the description's to say. Routers, which are never quantized,
 * are made apart. */
static const struct {
    phi_part part;
    size_t offset; /* of the matrix in phi_layer_weights */
} layer_matrices[] = {
    {PHI_PART_ATTN_QKV, offsetof(phi_layer_weights, qkv)},
    {PHI_PART_ATTN_OUTPUT, offsetof(phi_layer_weights, out)},
    {PHI_PART_FFN_GATE_EXPS, offsetof(phi_layer_weights, gate)},
    {PHI_PART_FFN_UP_EXPS, offsetof(phi_layer_weights, up)},
    {PHI_PART_FFN_DOWN_EXPS, offsetof(phi_layer_weights, down)},
    {PHI_PART_FFN_UP, offsetof(phi_layer_weights, up)},
    {PHI_PART_FFN_FC1, offsetof(phi_layer_weights, up)},
    {PHI_PART_FFN_DOWN, offsetof(phi_layer_weights, down)},
};
#define LAYER_MATRICES (sizeof layer_matrices / sizeof layer_matrices[0])

/* All of a part's pieces; nothing where the model has no such part. */
static shape part_shape(const phi_description *d, phi_part part)
{
    uint32_t rows[PHI_PART_PIECES_MAX];
    shape s = {0};
    if (phi_part_is_of(part, d)) {
        uint32_t pieces = phi_part_shape(part, d, rows, &s.cols);
        for (uint32_t i = 0; i < pieces; i++) {
            s.rows += rows[i];
        }
    }
    return s;
}

/* Of all norms and biases. */
static uint64_t vector_bytes(const phi_description *d)
{
    uint64_t elements = 0;
    for (int part = 0; part < PHI_PART_COUNT; part++) {
        if (phi_part_is_vector((phi_part)part)) {
            uint64_t times = phi_part_in_layer((phi_part)part) ? d->n_layer : 1;
            elements += times * part_shape(d, (phi_part)part).rows;
        }
    }
    return elements * sizeof(float);
}

/* Every matrix of the table is whole blocks in every type. */
static uint64_t matrix_bytes(phi_dtype dtype, shape s)
{
    uint64_t row_bytes = 0;
    (void)phi_dtype_row_bytes(dtype, s.cols, &row_bytes);
    return row_bytes * s.rows;
}

uint64_t phi_synthetic_bytes(const phi_description *d, const phi_synthetic_types *types)
{
    uint64_t layer = matrix_bytes(PHI_DTYPE_F32, part_shape(d, PHI_PART_FFN_ROUTER));
    for (size_t i = 0; i < LAYER_MATRICES; i++) {
        layer += matrix_bytes(types->layers, part_shape(d, layer_matrices[i].part));
    }
    uint64_t ends = matrix_bytes(types->ends, (shape){d->n_vocab, d->n_embd});
    return layer * d->n_layer + ends * (d->tied_head ? 1 : 2) + vector_bytes(d);
}

/* ---- the pool ---- */

static uint64_t next_random(uint64_t *state)
{
    /* Marsaglia, "Xorshift RNGs", Journal of Statistical Software 8(14), 2003. */
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Even in (-0.03, 0.03): a standard deviation of 0.017. */
static float random_value(uint64_t *state)
{
    return ((float)(next_random(state) >> 40) * 0x1p-24F - 0.5F) * 0.06F;
}

static void fill_codes(uint64_t *state, uint8_t *codes, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        codes[i] = (uint8_t)(next_random(state) >> 56);
    }
}

/* One block of the type: 32 elements, or one. */
static void fill_block(phi_dtype dtype, uint64_t *state, uint8_t *at)
{
    /* Even codes have a standard deviation of 4.6 and 74. */
    const uint16_t scale_int4 = phi_half_of_float(0.0038F);
    const uint16_t scale_int8 = phi_half_of_float(0.00024F);
    float value;
    uint16_t half;
    switch (dtype) {
    case PHI_DTYPE_Q4_0:
        memcpy(at, &scale_int4, sizeof scale_int4);
        fill_codes(state, at + sizeof scale_int4, 16);
        return;
    case PHI_DTYPE_Q8_0:
        memcpy(at, &scale_int8, sizeof scale_int8);
        fill_codes(state, at + sizeof scale_int8, 32);
        return;
    case PHI_DTYPE_F16:
        half = phi_half_of_float(random_value(state));
        memcpy(at, &half, sizeof half);
        return;
    case PHI_DTYPE_BF16:
        half = phi_bf16_of_float(random_value(state));
        memcpy(at, &half, sizeof half);
        return;
    default:
        value = random_value(state);
        memcpy(at, &value, sizeof value);
        return;
    }
}

typedef struct maker {
    const phi_compute *compute;
    const phi_description *description;
    phi_load_progress progress;
    void *user;
    uint64_t bytes_done;
    uint64_t bytes_total;
    uint8_t *memory; /* of the weights' region; NULL while their bytes are only counted */
    uint64_t used;
} maker;

/* With blocks of the type. */
static void fill_pool(phi_dtype dtype, uint64_t bytes, uint8_t *pool)
{
    uint64_t state = 0x9e3779b97f4a7c15U;
    size_t block_bytes = phi_dtype_get(dtype)->block_bytes;
    for (uint64_t at = 0; at + block_bytes <= bytes; at += block_bytes) {
        fill_block(dtype, &state, pool + at);
    }
}

/* ---- matrices ---- */

typedef struct fill {
    phi_weight *weight;
    phi_dtype dtype;
    const uint8_t *pool;
    size_t start_bytes; /* between two starts: whole blocks */
} fill;

/* [team] Runs of FILL_ROWS rows. */
static void fill_rows(void *arg, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const fill *self = arg;
    uint32_t rows = self->weight->rows;
    for (size_t i = begin; i < end; i++) {
        uint32_t first = (uint32_t)i * FILL_ROWS;
        uint32_t count = rows - first < FILL_ROWS ? rows - first : FILL_ROWS;
        /* Neighbours begin far from one another. */
        size_t start = i * 37 % POOL_STARTS;
        phi_weight_set_rows(self->weight, self->dtype, first, count,
                            self->pool + start * self->start_bytes);
    }
}

/* The next bytes of the region, on a cache line; NULL while the maker only counts. */
static void *take(maker *self, uint64_t bytes)
{
    uint64_t offset = self->used;
    self->used += (bytes + 63) / 64 * 64;
    return self->memory ? self->memory + offset : NULL;
}

static phi_status make_matrix(maker *self, phi_dtype dtype, shape s, const uint8_t *pool,
                              phi_weight *out_weight, phi_err *err)
{
    phi_weight weight = {0};
    phi_status status = phi_weight_shape_of(&weight, dtype, s.rows, s.cols, err);
    if (status) {
        return status;
    }
    void *memory = take(self, phi_weight_bytes(&weight));
    if (!memory) {
        return PHI_OK;
    }
    phi_weight_bind(&weight, memory);
    size_t block_bytes = phi_dtype_get(dtype)->block_bytes;
    fill job = {.weight = &weight,
                .dtype = dtype,
                .pool = pool,
                .start_bytes = POOL_ROWS_BYTES / POOL_STARTS / block_bytes * block_bytes};
    size_t runs = ((size_t)s.rows + FILL_ROWS - 1) / FILL_ROWS;
    phi_team_run(self->compute->team, self->compute->priority, runs, 1, fill_rows, &job);
    *out_weight = weight;
    self->bytes_done += matrix_bytes(dtype, s);
    if (self->progress && !self->progress(self->user, self->bytes_done, self->bytes_total)) {
        return phi_fail(err, PHI_E_CANCELLED, "making weights was cancelled");
    }
    return PHI_OK;
}

static float *make_vector(maker *self, uint64_t n, float value)
{
    float *vector = take(self, n * sizeof *vector);
    for (uint64_t i = 0; vector && i < n; i++) {
        vector[i] = value;
    }
    return vector;
}

/* Weights of norms are 1, biases small, so that what runs is what would run. */
static void make_layer_vectors(maker *self, phi_layer_weights *layer)
{
    const phi_description *d = self->description;
    bool is_layer_norm = d->norm == PHI_NORM_LAYER;
    bool has_ffn_bias = d->ffn == PHI_FFN_GELU;
    uint64_t qkv = (d->n_head + 2 * (uint64_t)d->n_head_kv) * d->head_dim;
    layer->attn_norm = make_vector(self, d->n_embd, 1.0F);
    layer->attn_norm_bias = is_layer_norm ? make_vector(self, d->n_embd, BIAS) : NULL;
    layer->ffn_norm = d->is_parallel ? NULL : make_vector(self, d->n_embd, 1.0F);
    layer->ffn_norm_bias =
        is_layer_norm && !d->is_parallel ? make_vector(self, d->n_embd, BIAS) : NULL;
    layer->qkv_bias = d->attn_bias ? make_vector(self, qkv, BIAS) : NULL;
    layer->out_bias = d->attn_bias ? make_vector(self, d->n_embd, BIAS) : NULL;
    layer->up_bias = has_ffn_bias ? make_vector(self, d->n_ffn, BIAS) : NULL;
    layer->down_bias = has_ffn_bias ? make_vector(self, d->n_embd, BIAS) : NULL;
}

/* Bytes of a pool from which every run of rows of that type can be taken. */
static uint64_t pool_bytes(const phi_description *d, phi_dtype dtype)
{
    uint64_t longest = matrix_bytes(dtype, (shape){FILL_ROWS, d->n_embd});
    for (size_t i = 0; i < LAYER_MATRICES; i++) {
        uint32_t cols = part_shape(d, layer_matrices[i].part).cols;
        uint64_t bytes = matrix_bytes(dtype, (shape){FILL_ROWS, cols});
        longest = bytes > longest ? bytes : longest;
    }
    return POOL_ROWS_BYTES + longest;
}

static phi_status make_ends(maker *self, phi_dtype dtype, const uint8_t *pool, phi_weights *weights,
                            phi_err *err)
{
    const phi_description *d = self->description;
    shape s = {d->n_vocab, d->n_embd};
    phi_status status = make_matrix(self, dtype, s, pool, &weights->embedding, err);
    if (!status && !d->tied_head) {
        status = make_matrix(self, dtype, s, pool, &weights->head, err);
    }
    weights->final_norm = make_vector(self, d->n_embd, 1.0F);
    weights->final_norm_bias =
        d->norm == PHI_NORM_LAYER ? make_vector(self, d->n_embd, BIAS) : NULL;
    weights->head_bias = d->head_bias ? make_vector(self, d->n_vocab, BIAS) : NULL;
    return status;
}

static phi_status make_layers(maker *self, phi_dtype dtype, const uint8_t *pool,
                              phi_weights *weights, phi_err *err)
{
    const phi_description *d = self->description;
    phi_status status = PHI_OK;
    for (uint32_t i = 0; !status && i < d->n_layer; i++) {
        phi_layer_weights *layer = &weights->layers[i];
        for (size_t m = 0; !status && m < LAYER_MATRICES; m++) {
            shape s = part_shape(d, layer_matrices[m].part);
            void *at = (uint8_t *)layer + layer_matrices[m].offset;
            status = s.rows ? make_matrix(self, dtype, s, pool, at, err) : PHI_OK;
        }
        make_layer_vectors(self, layer);
    }
    return status;
}

static phi_status make_routers(maker *self, const uint8_t *pool, phi_weights *weights, phi_err *err)
{
    const phi_description *d = self->description;
    shape s = part_shape(d, PHI_PART_FFN_ROUTER);
    phi_status status = PHI_OK;
    for (uint32_t i = 0; !status && s.rows && i < d->n_layer; i++) {
        status = make_matrix(self, PHI_DTYPE_F32, s, pool, &weights->layers[i].router, err);
    }
    return status;
}

phi_status phi_synthetic_weights(const phi_compute *compute, const phi_description *description,
                                 const phi_synthetic_types *types, phi_load_progress progress,
                                 void *user, phi_weights **out_weights, phi_err *err)
{
    maker self = {.compute = compute,
                  .description = description,
                  .progress = progress,
                  .user = user,
                  .bytes_total = phi_synthetic_bytes(description, types)};
    uint64_t bytes[] = {pool_bytes(description, types->ends),
                        pool_bytes(description, types->layers),
                        pool_bytes(description, PHI_DTYPE_F32)};
    /* Nothing is longer than rows of floats. */
    uint8_t *pool = phi_alloc((size_t)bytes[2]);
    phi_weights *weights = phi_alloc_zero(1, sizeof *weights);
    weights->description = *description;
    weights->layers = phi_alloc_zero(description->n_layer, sizeof *weights->layers);
    /* Once to count, once to fill. */
    phi_status status = make_ends(&self, types->ends, pool, weights, err);
    status = status ? status : make_layers(&self, types->layers, pool, weights, err);
    status = status ? status : make_routers(&self, pool, weights, err);
    weights->bytes = self.used;
    status = status ? status : phi_region_alloc(weights->bytes, &weights->region, err);
    self.memory = weights->region.memory;
    self.used = 0;
    if (!status) {
        fill_pool(types->ends, bytes[0], pool);
        status = make_ends(&self, types->ends, pool, weights, err);
    }
    if (!status) {
        fill_pool(types->layers, bytes[1], pool);
        status = make_layers(&self, types->layers, pool, weights, err);
    }
    if (!status) {
        fill_pool(PHI_DTYPE_F32, bytes[2], pool);
        status = make_routers(&self, pool, weights, err);
    }
    phi_free(pool);
    if (status) {
        phi_weights_destroy(weights);
        return status;
    }
    *out_weights = weights;
    return PHI_OK;
}
