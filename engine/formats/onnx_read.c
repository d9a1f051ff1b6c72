#include "engine/formats/onnx.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "engine/formats/hf_names.h"
#include "engine/formats/onnx_config.h"
#include "engine/formats/onnx_decoder.h"

/* Matrices and vectors of a layer at most, and those outside layers. */
enum { PER_LAYER = 14, PER_EXPERT = 3, OUTSIDE = 5 };

struct phi_onnx {
    phi_onnx_model model;
    phi_description description;
    phi_stored *list;
    char (*names)[PHI_LIMIT_NAME_BYTES]; /* [count] */
    size_t count;
};

typedef struct lister {
    phi_onnx *onnx;
    phi_err *err;
} lister;

static phi_status check_shape(const lister *l, const phi_stored *stored, uint32_t rows,
                              uint32_t cols)
{
    if (stored->rows == rows && stored->cols == cols) {
        return PHI_OK;
    }
    return phi_fail(l->err, PHI_E_FORMAT,
                    "%s: the matrix in the place of \"%s\" has shape [%u, %u]; [%u, %u] is right",
                    l->onnx->model.label, stored->name, stored->rows, stored->cols, rows, cols);
}

/* Adds a part, or piece `piece` of one that is stored apart (UINT32_MAX: the whole). Names are the
 * canonical ones: an exporter's say nothing. */
static phi_status add(const lister *l, const phi_stored *found, phi_part part, uint32_t piece,
                      uint32_t layer, uint64_t rows, uint64_t cols)
{
    phi_onnx *onnx = l->onnx;
    char *name = onnx->names[onnx->count];
    phi_stored *stored = &onnx->list[onnx->count];
    if (piece == UINT32_MAX) {
        phi_part_name(part, PHI_NAMING_GGUF, layer, name, PHI_LIMIT_NAME_BYTES);
    } else {
        phi_part_piece_name(part, piece, PHI_NAMING_GGUF, layer, name, PHI_LIMIT_NAME_BYTES);
    }
    *stored = *found;
    stored->name = name;
    phi_status status = check_shape(l, stored, (uint32_t)rows, (uint32_t)cols);
    if (!status && stored->kind == PHI_STORED_CODED) {
        status = phi_coded_settle(&stored->coded, l->err);
        if (status) {
            return phi_fail_context(l->err, status, "%s: the matrix in the place of \"%s\"",
                                    onnx->model.label, name);
        }
    }
    onnx->count += !status;
    return status;
}

/* A matrix, or a norm's weight (rows 0), with the bias that it has in models of the kind. */
static phi_status add_affine(const lister *l, const phi_onnx_affine *found, phi_part part,
                             uint32_t piece, uint32_t layer, uint64_t rows, uint64_t cols)
{
    phi_part bias = phi_part_bias(part);
    phi_status status = add(l, &found->weight, part, piece, layer, rows ? rows : 1, cols);
    if (!status && bias != PHI_PART_COUNT && phi_part_is_of(bias, &l->onnx->description)) {
        status = add(l, &found->bias, bias, piece, layer, 1, rows ? rows : cols);
    }
    return status;
}

static phi_status add_experts(const lister *l, const phi_onnx_layer *layer, uint32_t index)
{
    const phi_description *d = &l->onnx->description;
    phi_status status =
        add(l, &layer->router, PHI_PART_FFN_ROUTER, UINT32_MAX, index, d->n_expert, d->n_embd);
    for (uint32_t i = 0; i < d->n_expert && !status; i++) {
        const phi_onnx_ffn *ffn = &layer->experts[i];
        status = add(l, &ffn->up[0].weight, PHI_PART_FFN_GATE_EXPS, i, index, d->n_ffn, d->n_embd);
        status = status ? status
                        : add(l, &ffn->up[1].weight, PHI_PART_FFN_UP_EXPS, i, index, d->n_ffn,
                              d->n_embd);
        status = status ? status
                        : add(l, &ffn->down.weight, PHI_PART_FFN_DOWN_EXPS, i, index, d->n_embd,
                              d->n_ffn);
    }
    return status;
}

static phi_status add_feed_forward(const lister *l, const phi_onnx_layer *layer, uint32_t index)
{
    const phi_description *d = &l->onnx->description;
    const phi_onnx_ffn *ffn = &layer->ffn;
    const uint32_t whole = UINT32_MAX;
    phi_status status = PHI_OK;
    if (d->ffn == PHI_FFN_EXPERTS) {
        return add_experts(l, layer, index);
    }
    if (d->ffn == PHI_FFN_GELU) {
        status = add_affine(l, &ffn->up[0], PHI_PART_FFN_FC1, whole, index, d->n_ffn, d->n_embd);
    } else if (ffn->n_up == 1) {
        status = add_affine(l, &ffn->up[0], PHI_PART_FFN_UP, whole, index, (uint64_t)d->n_ffn * 2,
                            d->n_embd);
    }
    for (uint32_t i = 0; i < 2 && ffn->n_up == 2 && !status; i++) {
        status = add_affine(l, &ffn->up[i], PHI_PART_FFN_UP, i, index, d->n_ffn, d->n_embd);
    }
    return status ? status
                  : add_affine(l, &ffn->down, PHI_PART_FFN_DOWN, whole, index, d->n_embd, d->n_ffn);
}

static phi_status add_layer(const lister *l, const phi_onnx_layer *layer, uint32_t index)
{
    const phi_description *d = &l->onnx->description;
    const uint32_t whole = UINT32_MAX;
    uint64_t q = (uint64_t)d->n_head * d->head_dim;
    uint64_t kv = (uint64_t)d->n_head_kv * d->head_dim;
    phi_status status =
        add_affine(l, &layer->attn_norm, PHI_PART_ATTN_NORM, whole, index, 0, d->n_embd);
    if (!status && layer->n_qkv == 1) {
        status =
            add_affine(l, &layer->qkv[0], PHI_PART_ATTN_QKV, whole, index, q + 2 * kv, d->n_embd);
    }
    for (uint32_t i = 0; i < 3 && layer->n_qkv == 3 && !status; i++) {
        status = add_affine(l, &layer->qkv[i], PHI_PART_ATTN_QKV, i, index, i ? kv : q, d->n_embd);
    }
    status = status
                 ? status
                 : add_affine(l, &layer->output, PHI_PART_ATTN_OUTPUT, whole, index, d->n_embd, q);
    if (!status && !d->is_parallel) {
        status = add_affine(l, &layer->ffn_norm, PHI_PART_FFN_NORM, whole, index, 0, d->n_embd);
    }
    return status ? status : add_feed_forward(l, layer, index);
}

static phi_status list_all(const lister *l, const phi_onnx_decoder *decoder)
{
    phi_onnx *onnx = l->onnx;
    const phi_description *d = &onnx->description;
    size_t most =
        (size_t)decoder->n_layers * (PER_LAYER + PER_EXPERT * decoder->n_expert) + OUTSIDE;
    onnx->list = phi_try_alloc_zero(most, sizeof *onnx->list);
    onnx->names = phi_try_alloc_zero(most, sizeof *onnx->names);
    if (!onnx->list || !onnx->names) {
        return phi_fail(l->err, PHI_E_NO_MEMORY, "not enough memory for %zu tensors", most);
    }
    const uint32_t whole = UINT32_MAX;
    phi_status status =
        add(l, &decoder->embedding, PHI_PART_TOKEN_EMBD, whole, 0, d->n_vocab, d->n_embd);
    for (uint32_t i = 0; i < decoder->n_layers && !status; i++) {
        status = add_layer(l, &decoder->layers[decoder->n_layers - 1 - i], i);
    }
    status =
        status ? status
               : add_affine(l, &decoder->output_norm, PHI_PART_OUTPUT_NORM, whole, 0, 0, d->n_embd);
    if (!status && !d->tied_head) {
        return add_affine(l, &decoder->head, PHI_PART_OUTPUT, whole, 0, d->n_vocab, d->n_embd);
    }
    if (!status && d->head_bias) {
        status = add(l, &decoder->head.bias, PHI_PART_OUTPUT_BIAS, whole, 0, 1, d->n_vocab);
    }
    return status;
}

phi_status phi_onnx_open(const char *dir, phi_onnx **out_onnx, phi_err *err)
{
    phi_onnx_config config;
    phi_onnx_decoder decoder = {.n_layers = 0};
    phi_status status = phi_onnx_config_read(dir, &config, err);
    if (status) {
        return status;
    }
    phi_onnx *onnx = phi_alloc_zero(1, sizeof *onnx);
    const lister l = {.onnx = onnx, .err = err};
    status = phi_onnx_model_open(dir, config.filename, &onnx->model, err);
    status = status ? status : phi_onnx_decoder_read(&onnx->model, config.logits, &decoder, err);
    status = status ? status : phi_onnx_rope_split(&onnx->model, config.long_from, &decoder, err);
    if (!status) {
        status =
            phi_onnx_describe(dir, onnx->model.label, &config, &decoder, &onnx->description, err);
    }
    status = status ? status : list_all(&l, &decoder);
    phi_onnx_decoder_done(&decoder);
    if (status) {
        phi_onnx_close(onnx);
        return status;
    }
    *out_onnx = onnx;
    return PHI_OK;
}

void phi_onnx_close(phi_onnx *onnx)
{
    if (onnx) {
        for (size_t i = 0; i < onnx->count; i++) {
            phi_coded_done(&onnx->list[i].coded);
        }
        phi_free(onnx->list);
        phi_free(onnx->names);
        phi_onnx_model_done(&onnx->model);
        phi_free(onnx);
    }
}

const phi_description *phi_onnx_description(const phi_onnx *onnx)
{
    return &onnx->description;
}

size_t phi_onnx_count(const phi_onnx *onnx)
{
    return onnx->count;
}

const phi_stored *phi_onnx_at(const phi_onnx *onnx, size_t index)
{
    PHI_ASSERT(index < onnx->count);
    return &onnx->list[index];
}

size_t phi_onnx_file_count(const phi_onnx *onnx)
{
    return onnx->model.n_files;
}

const phi_file *phi_onnx_file_at(const phi_onnx *onnx, size_t index)
{
    PHI_ASSERT(index < onnx->model.n_files);
    return onnx->model.files[index];
}
