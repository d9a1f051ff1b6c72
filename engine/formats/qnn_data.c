/*
 * Where weights lie, and their writing. Keys leave a graph in 8 bits with one scale for all heads,
 * so rows of the key matrix whose results stay small are made larger, and the query's smaller by
 * the same: a row's scale is multiplied, its codes stay as they are, and q k is what it was. Both
 * rows of a rotated pair get the same factor. 1/sqrt(d) goes into the query's scales too.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "engine/formats/qnn_graph.h"

#define ALIGN_BYTES 4096U
/* Weights that are read and written at a time. */
#define PIECE_CODES ((size_t)4 << 20)
/* Rows whose results were next to nothing on the measured text may become larger on another. */
#define FACTOR_MAX 16.0F
/* Matrices of a layer as they are written: query, key, value, output, gate, up, down. */
#define LAYER_MATRICES 7

/* ---- places ---- */

static uint64_t take_bytes(phi_qnn_writer *w, uint64_t bytes)
{
    uint64_t at = (w->data_bytes + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
    w->data_bytes = at + bytes;
    return at;
}

static phi_status place(phi_qnn_writer *w, const char *name, const phi_export_tensor *tensor,
                        uint32_t first_row, uint32_t rows)
{
    if (!tensor) {
        return phi_fail(w->err, PHI_E_INTERNAL, "\"%s\" is not among the tensors to be written",
                        name);
    }
    if (tensor->bits != 8 || tensor->group != tensor->cols ||
        tensor->zero_rule != PHI_ZERO_CENTRE) {
        return phi_fail(w->err, PHI_E_UNSUPPORTED,
                        "tensor \"%s\": QNN's graphs hold symmetric codes of 8 bits with one scale "
                        "a row",
                        tensor->name);
    }
    phi_qnn_placed *placed = &w->placed[w->n_placed++];
    *placed = (phi_qnn_placed){.tensor = tensor, .first_row = first_row, .rows = rows};
    (void)snprintf(placed->name, sizeof placed->name, "%s", name);
    placed->at = take_bytes(w, (uint64_t)rows * tensor->cols);
    placed->scales_at = take_bytes(w, (uint64_t)rows * sizeof(float));
    return PHI_OK;
}

const phi_qnn_placed *phi_qnn_placed_of(const phi_qnn_writer *w, const char *name)
{
    for (uint32_t i = 0; i < w->n_placed; i++) {
        if (strcmp(w->placed[i].name, name) == 0) {
            return &w->placed[i];
        }
    }
    return NULL;
}

static phi_status place_layer(phi_qnn_writer *w, uint32_t layer)
{
    const phi_description *d = w->export->description;
    const uint32_t q = d->n_head * d->head_dim;
    const uint32_t kv = d->n_head_kv * d->head_dim;
    const struct {
        const char *name;
        phi_part part;
        uint32_t first_row;
        uint32_t rows;
    } parts[LAYER_MATRICES] = {
        {"query", PHI_PART_ATTN_QKV, 0, q},
        {"key", PHI_PART_ATTN_QKV, q, kv},
        {"value", PHI_PART_ATTN_QKV, q + kv, kv},
        {"attn_out", PHI_PART_ATTN_OUTPUT, 0, d->n_embd},
        {"gate", PHI_PART_FFN_UP, 0, d->n_ffn},
        {"up", PHI_PART_FFN_UP, d->n_ffn, d->n_ffn},
        {"ffn_out", PHI_PART_FFN_DOWN, 0, d->n_embd},
    };
    phi_status status = PHI_OK;
    for (size_t i = 0; i < LAYER_MATRICES && !status; i++) {
        char name[64];
        (void)snprintf(name, sizeof name, "layers.%u.%s/matrix", layer, parts[i].name);
        status = place(w, name, phi_qnn_find(w, parts[i].part, layer), parts[i].first_row,
                       parts[i].rows);
    }
    return status;
}

/* ---- factors of queries and keys ---- */

static float key_factor(float radius, float most)
{
    float factor = radius > 0.0F ? most / radius : 1.0F;
    return fminf(factor, FACTOR_MAX);
}

/* `query` and `key` are the last layer's first two places. */
static phi_status even_out(phi_qnn_writer *w, uint32_t layer, phi_qnn_placed *query,
                           phi_qnn_placed *key)
{
    const phi_description *d = w->export->description;
    const float *q_radius = w->ranges->layers[layer].radius;
    const float *k_radius = q_radius + query->rows;
    const uint32_t group = d->n_head / d->n_head_kv;
    const float share = 1.0F / sqrtf((float)d->head_dim);
    phi_qnn_heads *heads = &w->heads[layer];
    query->factors = phi_try_alloc(query->rows * sizeof(float));
    key->factors = phi_try_alloc(key->rows * sizeof(float));
    if (!query->factors || !key->factors) {
        return phi_fail(w->err, PHI_E_NO_MEMORY, "not enough memory for scales");
    }
    float most = 0.0F;
    for (uint32_t i = 0; i < key->rows; i++) {
        most = fmaxf(most, k_radius[i]);
    }
    for (uint32_t i = 0; i < key->rows; i++) {
        key->factors[i] = key_factor(k_radius[i], most);
        heads->key = fmaxf(heads->key, k_radius[i] * key->factors[i]);
    }
    for (uint32_t i = 0; i < query->rows; i++) {
        uint32_t head = i / d->head_dim / group;
        query->factors[i] = share / key->factors[head * d->head_dim + i % d->head_dim];
        heads->query = fmaxf(heads->query, q_radius[i] * query->factors[i]);
    }
    return PHI_OK;
}

phi_status phi_qnn_place(phi_qnn_writer *w)
{
    const phi_description *d = w->export->description;
    w->placed = phi_try_alloc_zero((size_t)d->n_layer * LAYER_MATRICES + 2, sizeof *w->placed);
    w->heads = phi_try_alloc_zero(d->n_layer, sizeof *w->heads);
    if (!w->placed || !w->heads) {
        return phi_fail(w->err, PHI_E_NO_MEMORY, "not enough memory for %u layers", d->n_layer);
    }
    phi_status status =
        place(w, "embedding", phi_qnn_find(w, PHI_PART_TOKEN_EMBD, 0), 0, d->n_vocab);
    for (uint32_t i = 0; i < d->n_layer && !status; i++) {
        phi_qnn_placed *first = &w->placed[w->n_placed];
        status = place_layer(w, i);
        status = status ? status : even_out(w, i, &first[0], &first[1]);
    }
    if (!status && !d->tied_head) {
        status = place(w, "head", phi_qnn_find(w, PHI_PART_OUTPUT, 0), 0, d->n_vocab);
    }
    return status;
}

void phi_qnn_unplace(phi_qnn_writer *w)
{
    for (uint32_t i = 0; i < w->n_placed; i++) {
        phi_free(w->placed[i].factors);
    }
    phi_free(w->placed);
    phi_free(w->heads);
}

/* ---- values ---- */

typedef struct piece {
    uint8_t *codes;
    float *scales;
} piece;

static phi_status tell_progress(phi_qnn_writer *w, uint64_t bytes)
{
    w->done_bytes += bytes;
    if (w->export->progress &&
        !w->export->progress(w->export->user, w->done_bytes, w->data_bytes)) {
        return phi_fail(w->err, PHI_E_CANCELLED, "writing " PHI_QNN_DATA " was cancelled");
    }
    return PHI_OK;
}

static phi_status write_rows(phi_qnn_writer *w, const phi_qnn_placed *placed, const piece *p,
                             uint32_t row, uint32_t count)
{
    const size_t cols = placed->tensor->cols;
    const size_t bytes = count * cols;
    PHI_ASSERT(p->codes && p->scales);
    phi_status status =
        w->export->read_codes(w->export->user, placed->tensor, placed->first_row + row, count,
                              p->codes, p->scales, NULL, w->err);
    if (status) {
        return status;
    }
    for (size_t i = 0; i < bytes; i++) {
        p->codes[i] ^= 0x80; /* 0..255 around 128 to a signed byte */
    }
    for (uint32_t i = 0; i < count && placed->factors; i++) {
        p->scales[i] *= placed->factors[row + i];
    }
    for (uint32_t i = 0; i < count; i++) {
        /* Rows of zeros have no scale of their own. */
        p->scales[i] = p->scales[i] != 0.0F ? p->scales[i] : 1.0F;
    }
    status = phi_file_writer_patch(w->data, placed->at + row * cols, p->codes, bytes, w->err);
    if (!status) {
        status = phi_file_writer_patch(w->data, placed->scales_at + row * sizeof(float), p->scales,
                                       count * sizeof(float), w->err);
    }
    return status ? status : tell_progress(w, bytes + count * sizeof(float));
}

static phi_status write_placed(phi_qnn_writer *w, const phi_qnn_placed *placed)
{
    const size_t fitting = PIECE_CODES / placed->tensor->cols;
    const uint32_t most = fitting < 1              ? 1
                          : fitting < placed->rows ? (uint32_t)fitting
                                                   : placed->rows;
    piece p = {.codes = phi_try_alloc((size_t)most * placed->tensor->cols),
               .scales = phi_try_alloc(most * sizeof(float))};
    phi_status status = p.codes && p.scales
                            ? PHI_OK
                            : phi_fail(w->err, PHI_E_NO_MEMORY, "not enough memory for rows");
    for (uint32_t row = 0; row < placed->rows && !status;) {
        uint32_t left = placed->rows - row;
        uint32_t count = left < most ? left : most;
        status = write_rows(w, placed, &p, row, count);
        row += count;
    }
    phi_free(p.codes);
    phi_free(p.scales);
    return status ? phi_fail_context(w->err, status, "tensor \"%s\"", placed->tensor->name)
                  : PHI_OK;
}

phi_status phi_qnn_write_data(phi_qnn_writer *w)
{
    char *path = phi_strfmt("%s/" PHI_QNN_DATA, w->dir);
    phi_status status = phi_file_writer_create(path, &w->data, w->err);
    phi_free(path);
    if (status) {
        return status;
    }
    status = phi_file_writer_reserve(w->data, w->data_bytes, w->err);
    for (uint32_t i = 0; i < w->n_placed && !status; i++) {
        status = write_placed(w, &w->placed[i]);
    }
    if (status) {
        phi_file_writer_abort(w->data);
        return status;
    }
    return phi_file_writer_commit(w->data, w->err);
}
