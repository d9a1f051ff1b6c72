#include "engine/model/weights.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>

/* Rows are read in pieces of about this size: large enough for the disk, small beside the model. */
#define CHUNK_BYTES (4U << 20)

typedef struct loader {
    const phi_checkpoint *checkpoint;
    phi_load_progress progress;
    void *user;
    uint64_t bytes_done;
    uint64_t bytes_total;
} loader;

/* NULL, with the error filled in, when it is missing. */
static const phi_tensor *find(const loader *self, const char *name, phi_err *err)
{
    const phi_tensor *tensor = phi_checkpoint_find(self->checkpoint, name);
    if (!tensor) {
        (void)phi_fail(err, PHI_E_FORMAT, "the tensor %s is missing", name);
    }
    return tensor;
}

static phi_status advance(loader *self, uint64_t bytes, phi_err *err)
{
    self->bytes_done += bytes;
    if (self->progress && !self->progress(self->user, self->bytes_done, self->bytes_total)) {
        return phi_fail(err, PHI_E_CANCELLED, "loading was cancelled");
    }
    return PHI_OK;
}

static phi_status load_matrix(loader *self, const char *name, phi_weight *out_weight, phi_err *err)
{
    const phi_tensor *tensor = find(self, name, err);
    if (!tensor) {
        return PHI_E_FORMAT;
    }
    phi_weight weight;
    phi_status status = phi_weight_init(&weight, tensor->dtype, tensor->rows, tensor->cols, err);
    if (status) {
        return phi_fail_context(err, status, "%s", name);
    }
    uint64_t row_bytes = 1;
    (void)phi_dtype_row_bytes(tensor->dtype, tensor->cols, &row_bytes);
    uint32_t step = row_bytes < CHUNK_BYTES ? (uint32_t)(CHUNK_BYTES / row_bytes) : 1;
    void *chunk = phi_try_alloc((size_t)(row_bytes * step));
    if (!chunk) {
        status = phi_fail(err, PHI_E_NO_MEMORY, "not enough memory to read %s", name);
    }
    for (uint32_t row = 0; !status && row < tensor->rows; row += step) {
        uint32_t count = tensor->rows - row < step ? tensor->rows - row : step;
        status = phi_checkpoint_read_rows(self->checkpoint, tensor, row, count, chunk, err);
        if (!status) {
            phi_weight_set_rows(&weight, tensor->dtype, row, count, chunk);
            status = advance(self, count * row_bytes, err);
        }
    }
    phi_free(chunk);
    if (status) {
        phi_weight_done(&weight);
        return status;
    }
    *out_weight = weight;
    return PHI_OK;
}

static phi_status load_vector(loader *self, const char *name, float **out_vector, phi_err *err)
{
    const phi_tensor *tensor = find(self, name, err);
    if (!tensor) {
        return PHI_E_FORMAT;
    }
    phi_status status = PHI_OK;
    float *vector = phi_try_alloc((size_t)tensor->cols * sizeof *vector);
    void *scratch = phi_try_alloc((size_t)tensor->cols * sizeof(float));
    if (!vector || !scratch) {
        status = phi_fail(err, PHI_E_NO_MEMORY, "not enough memory to read %s", name);
    } else {
        status = phi_checkpoint_read_rows_f32(self->checkpoint, tensor, 0, 1, scratch, vector, err);
    }
    status = status ? status : advance(self, tensor->bytes, err);
    phi_free(scratch);
    if (status) {
        phi_free(vector);
        return status;
    }
    *out_vector = vector;
    return PHI_OK;
}

void phi_layer_weights_done(phi_layer_weights *layer)
{
    if (layer) {
        phi_weight_done(&layer->qkv);
        phi_weight_done(&layer->out);
        phi_weight_done(&layer->gate_up);
        phi_weight_done(&layer->down);
        phi_free(layer->attn_norm);
        phi_free(layer->ffn_norm);
        *layer = (phi_layer_weights){0};
    }
}

static phi_status load_layer(loader *self, uint32_t index, phi_layer_weights *out_layer,
                             phi_err *err)
{
    phi_layer_weights layer = {0};
    struct {
        const char *part;
        phi_weight *matrix;
        float **vector;
    } parts[] = {
        {"attn_norm", NULL, &layer.attn_norm}, {"attn_qkv", &layer.qkv, NULL},
        {"attn_output", &layer.out, NULL},     {"ffn_norm", NULL, &layer.ffn_norm},
        {"ffn_up", &layer.gate_up, NULL},      {"ffn_down", &layer.down, NULL},
    };
    phi_status status = PHI_OK;
    for (size_t i = 0; !status && i < sizeof parts / sizeof *parts; i++) {
        char name[64];
        (void)snprintf(name, sizeof name, "blk.%u.%s.weight", index, parts[i].part);
        status = parts[i].matrix ? load_matrix(self, name, parts[i].matrix, err)
                                 : load_vector(self, name, parts[i].vector, err);
    }
    if (status) {
        phi_layer_weights_done(&layer);
        return status;
    }
    *out_layer = layer;
    return PHI_OK;
}

static phi_status load_ends(loader *self, phi_weights *weights, phi_err *err)
{
    weights->description = *phi_checkpoint_description(self->checkpoint);
    phi_status status = load_matrix(self, "token_embd.weight", &weights->embedding, err);
    status = status ? status : load_vector(self, "output_norm.weight", &weights->final_norm, err);
    if (!status && !weights->description.tied_head) {
        status = load_matrix(self, "output.weight", &weights->head, err);
    }
    return status;
}

phi_status phi_weights_load(const phi_checkpoint *checkpoint, phi_load_progress progress,
                            void *user, phi_weights **out_weights, phi_err *err)
{
    loader self = {.checkpoint = checkpoint,
                   .progress = progress,
                   .user = user,
                   .bytes_total = phi_checkpoint_bytes(checkpoint)};
    phi_weights *weights = phi_alloc_zero(1, sizeof *weights);
    phi_status status = load_ends(&self, weights, err);
    uint32_t n_layer = phi_checkpoint_description(checkpoint)->n_layer;
    weights->layers = phi_alloc_zero(n_layer, sizeof *weights->layers);
    for (uint32_t i = 0; !status && i < n_layer; i++) {
        status = load_layer(&self, i, &weights->layers[i], err);
    }
    if (status) {
        phi_weights_destroy(weights);
        return status;
    }
    *out_weights = weights;
    return PHI_OK;
}

void phi_weights_destroy(phi_weights *weights)
{
    if (!weights) {
        return;
    }
    for (uint32_t i = 0; weights->layers && i < weights->description.n_layer; i++) {
        phi_layer_weights_done(&weights->layers[i]);
    }
    phi_weight_done(&weights->embedding);
    phi_weight_done(&weights->head);
    phi_free(weights->final_norm);
    phi_free(weights->layers);
    phi_free(weights);
}

const phi_weight *phi_weights_head(const phi_weights *weights)
{
    return weights->description.tied_head ? &weights->embedding : &weights->head;
}

uint64_t phi_weights_bytes(const phi_weights *weights)
{
    uint64_t bytes = phi_weight_bytes(&weights->embedding) + phi_weight_bytes(&weights->head);
    for (uint32_t i = 0; weights->layers && i < weights->description.n_layer; i++) {
        const phi_layer_weights *layer = &weights->layers[i];
        bytes += phi_weight_bytes(&layer->qkv) + phi_weight_bytes(&layer->out) +
                 phi_weight_bytes(&layer->gate_up) + phi_weight_bytes(&layer->down);
    }
    return bytes;
}

phi_status phi_layer_weights_load(const phi_checkpoint *checkpoint, uint32_t layer,
                                  phi_layer_weights *out_layer, phi_err *err)
{
    loader self = {.checkpoint = checkpoint};
    return load_layer(&self, layer, out_layer, err);
}

phi_status phi_weights_load_ends(const phi_checkpoint *checkpoint, phi_weights **out_weights,
                                 phi_err *err)
{
    loader self = {.checkpoint = checkpoint};
    phi_weights *weights = phi_alloc_zero(1, sizeof *weights);
    phi_status status = load_ends(&self, weights, err);
    if (status) {
        phi_weights_destroy(weights);
        return status;
    }
    *out_weights = weights;
    return PHI_OK;
}
