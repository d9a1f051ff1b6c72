/* The parts of a model among the tensors of its files: all are indexed by the names that the files
 * use, then each part, in forward-pass order, is found whole or in pieces, and its dtype and shape
 * are checked. */
#include "engine/formats/checkpoint_internal.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/strmap.h"
#include "engine/formats/hf_names.h"
#include "engine/formats/tensor_rows.h"
#include "engine/formats/text_check.h"

/* A tensor of a file. */
typedef struct stored {
    const phi_tensor_entry *entry;
    const phi_stored *listed; /* in its place: of readers that know what a matrix is */
    const phi_file *file;
} stored;

/* All tensors of all files, while a checkpoint is being opened. */
typedef struct lookup {
    phi_checkpoint *checkpoint;
    phi_naming naming;
    stored *list;
    size_t count;
    phi_strmap *by_name; /* -> index in list */
    phi_err *err;
} lookup;

static const char *label_of(const stored *tensor)
{
    return phi_path_label(tensor->file->path);
}

static const stored *find(const lookup *l, const char *name)
{
    char other[PHI_LIMIT_TENSOR_NAME_BYTES + 64];
    uint32_t index;
    uint32_t at = 0;
    bool found = phi_strmap_find(l->by_name, name, strlen(name), &index);
    while (!found && l->naming == PHI_NAMING_HF_PHIMOE &&
           phi_name_respell(name, &at, other, sizeof other)) {
        found = phi_strmap_find(l->by_name, other, strlen(other), &index);
    }
    return found ? &l->list[index] : NULL;
}

static phi_status insert(lookup *l, const char *name, stored tensor)
{
    phi_status status = phi_strmap_insert(l->by_name, name, strlen(name), (uint32_t)l->count);
    if (status) {
        return phi_fail(l->err, status, "not enough memory for the tensor list");
    }
    l->list[l->count++] = tensor;
    return PHI_OK;
}

static phi_status add(lookup *l, const phi_tensor_entry *entry, const phi_file *file)
{
    return insert(l, entry->name, (stored){.entry = entry, .file = file});
}

/* Tensors of a reader that lists matrices, and how many. */
static size_t listed_count(const phi_checkpoint *checkpoint)
{
    return checkpoint->onnx       ? phi_onnx_count(checkpoint->onnx)
           : checkpoint->openvino ? phi_openvino_count(checkpoint->openvino)
                                  : 0;
}

static const phi_stored *listed_at(const phi_checkpoint *checkpoint, size_t index)
{
    return checkpoint->onnx ? phi_onnx_at(checkpoint->onnx, index)
                            : phi_openvino_at(checkpoint->openvino, index);
}

static phi_status add_listed(lookup *l, const phi_stored *listed)
{
    bool is_coded = listed->kind == PHI_STORED_CODED;
    return insert(l, listed->name,
                  (stored){.listed = listed,
                           .file = is_coded ? listed->coded.codes.file : listed->data.file});
}

static phi_status build_lookup(lookup *l)
{
    const phi_checkpoint *checkpoint = l->checkpoint;
    size_t n_listed = listed_count(checkpoint);
    size_t n_gguf = checkpoint->gguf ? phi_gguf_tensor_count(checkpoint->gguf) : 0;
    size_t total = n_listed + n_gguf;
    for (uint32_t i = 0; i < checkpoint->shards.count; i++) {
        total += checkpoint->shards.files[i].count;
    }
    l->list = phi_try_alloc_zero(total, sizeof *l->list);
    l->by_name = phi_strmap_create(total);
    if (!l->list || !l->by_name) {
        return phi_fail(l->err, PHI_E_NO_MEMORY, "not enough memory for %zu tensors", total);
    }
    phi_status status = PHI_OK;
    for (size_t i = 0; i < n_listed && !status; i++) {
        status = add_listed(l, listed_at(checkpoint, i));
    }
    for (size_t i = 0; i < n_gguf && !status; i++) {
        status = add(l, phi_gguf_tensor_at(checkpoint->gguf, i), phi_gguf_file(checkpoint->gguf));
    }
    for (uint32_t i = 0; i < checkpoint->shards.count; i++) {
        const phi_tensor_file *shard = &checkpoint->shards.files[i];
        for (size_t j = 0; j < shard->count && !status; j++) {
            status = add(l, &shard->entries[j], &shard->file);
        }
    }
    return status;
}

static void format_shape(const uint64_t *dims, uint32_t n_dims, char *out, size_t out_bytes)
{
    size_t used = 0;
    out[0] = '\0';
    for (uint32_t i = 0; i < n_dims && used < out_bytes; i++) {
        int length = snprintf(out + used, out_bytes - used, "%s%llu", i ? ", " : "",
                              (unsigned long long)dims[i]);
        used += (size_t)length;
    }
}

static phi_status check_dims(const lookup *l, const stored *tensor, const uint64_t *right,
                             uint32_t n_dims)
{
    const phi_tensor_entry *entry = tensor->entry;
    char has[96], wanted[96];
    if (entry->n_dims == n_dims && memcmp(entry->dims, right, n_dims * sizeof *right) == 0) {
        return PHI_OK;
    }
    format_shape(entry->dims, entry->n_dims, has, sizeof has);
    format_shape(right, n_dims, wanted, sizeof wanted);
    return phi_fail(l->err, PHI_E_FORMAT, "%s: tensor \"%s\" has shape [%s]; [%s] is right",
                    label_of(tensor), entry->name, has, wanted);
}

/* `rows` are a vector's elements. */
static phi_status check_shape(const lookup *l, const stored *tensor, phi_part part, uint32_t rows,
                              uint32_t cols)
{
    uint32_t stacked = phi_part_count_stacked(part, &l->checkpoint->description, rows);
    const uint64_t dims[] = {stacked, rows / stacked, cols};
    const uint64_t *right = stacked > 1 ? dims : dims + 1;
    return check_dims(l, tensor, right, phi_part_is_vector(part) ? 1 : stacked > 1 ? 3 : 2);
}

/* The plain dtypes, or all. */
static void name_dtypes(bool blocks, char *out, size_t out_bytes)
{
    size_t used = 0;
    for (int i = 0; i < PHI_DTYPE_COUNT && used < out_bytes; i++) {
        const phi_dtype_info *info = phi_dtype_get((phi_dtype)i);
        if (blocks || info->block_elements == 1) {
            int length =
                snprintf(out + used, out_bytes - used, "%s%s", used ? ", " : "", info->name);
            used += (size_t)length;
        }
    }
}

static phi_status check_dtype(const lookup *l, const stored *tensor, bool vector)
{
    const phi_tensor_entry *entry = tensor->entry;
    bool plain = entry->readable && phi_dtype_get(entry->dtype)->block_elements == 1;
    if (plain || (entry->readable && !vector)) {
        return PHI_OK;
    }
    char names[160];
    name_dtypes(l->naming == PHI_NAMING_GGUF && !vector, names, sizeof names);
    return phi_fail(l->err, PHI_E_UNSUPPORTED, "%s: tensor \"%s\" has dtype %s; supported here: %s",
                    label_of(tensor), entry->name, entry->dtype_name, names);
}

/* A bias beside a weight would change every answer, so it is not ignored like other extras. */
static phi_status check_no_bias(const lookup *l, const stored *tensor, phi_part part)
{
    const phi_description *d = &l->checkpoint->description;
    char name[PHI_LIMIT_TENSOR_NAME_BYTES];
    const char *weight = tensor->entry->name;
    phi_part bias_part = phi_part_bias(part);
    if (!phi_str_ends(weight, ".weight") ||
        (bias_part != PHI_PART_COUNT && phi_part_is_of(bias_part, d))) {
        return PHI_OK;
    }
    size_t stem = strlen(weight) - strlen("weight");
    PHI_ASSERT(stem + sizeof "bias" <= sizeof name);
    (void)snprintf(name, sizeof name, "%.*sbias", (int)stem, weight);
    const stored *bias = find(l, name);
    if (!bias) {
        return PHI_OK;
    }
    return phi_fail(l->err, PHI_E_UNSUPPORTED,
                    "%s: tensor \"%s\" is not supported: %s models have no such bias",
                    label_of(bias), name, phi_arch_name(d->arch));
}

/* Where a part's next piece is. */
static void place_piece(phi_tensor *out, const stored *tensor, uint32_t rows, phi_dtype dtype,
                        bool vector)
{
    uint32_t piece = out->n_pieces++;
    out->piece_dtype[piece] = dtype;
    out->dtype = out->piece_dtype[0];
    out->piece_rows[piece] = rows;
    out->piece_file[piece] = tensor ? tensor->file : NULL;
    out->rows = vector ? 1 : out->rows + rows;
}

/* A vector's pieces make one row, which has one dtype. */
static phi_status check_alike(const lookup *l, const stored *tensor, bool vector,
                              const phi_tensor *out)
{
    const phi_tensor_entry *entry = tensor->entry;
    phi_dtype dtype = entry ? entry->dtype : tensor->listed->dtype;
    if (!vector || out->n_pieces == 0 || dtype == out->dtype) {
        return PHI_OK;
    }
    return phi_fail(l->err, PHI_E_UNSUPPORTED,
                    "%s: tensor \"%s\" has dtype %s, the one before it %s; biases that belong "
                    "together must have one",
                    label_of(tensor), entry ? entry->name : tensor->listed->name,
                    phi_dtype_get(dtype)->name, phi_dtype_get(out->dtype)->name);
}

static phi_status add_piece(const lookup *l, const stored *tensor, phi_part part, uint32_t rows,
                            phi_tensor *out)
{
    bool vector = phi_part_is_vector(part);
    phi_status status = check_dtype(l, tensor, vector);
    status = status ? status : check_alike(l, tensor, vector, out);
    status = status ? status : check_shape(l, tensor, part, rows, out->cols);
    status = status ? status : check_no_bias(l, tensor, part);
    if (status) {
        return status;
    }
    const phi_tensor_entry *entry = tensor->entry;
    out->piece_offset[out->n_pieces] = entry->offset;
    out->bytes += entry->bytes;
    place_piece(out, tensor, rows, entry->dtype, vector);
    return PHI_OK;
}

/* A matrix or vector of a reader that lists them. */
static phi_status add_listed_piece(const lookup *l, const stored *tensor, phi_part part,
                                   uint32_t rows, phi_tensor *out)
{
    const phi_stored *listed = tensor->listed;
    bool vector = phi_part_is_vector(part);
    const uint32_t right[] = {vector ? 1 : rows, vector ? rows : out->cols};
    if (listed->n_dims != (vector ? 1U : 2U) || listed->rows != right[0] ||
        listed->cols != right[1]) {
        return phi_fail(l->err, PHI_E_FORMAT,
                        "%s: tensor \"%s\" has shape [%u, %u]; [%u, %u] is right", label_of(tensor),
                        listed->name, listed->rows, listed->cols, right[0], right[1]);
    }
    phi_status status = check_alike(l, tensor, vector, out);
    if (status) {
        return status;
    }
    bool is_coded = listed->kind == PHI_STORED_CODED;
    if (is_coded) {
        out->piece_coded[out->n_pieces] = &listed->coded;
        out->bytes += phi_coded_bytes(&listed->coded);
    } else {
        out->piece_offset[out->n_pieces] = listed->data.offset;
        out->piece_across[out->n_pieces] = listed->kind == PHI_STORED_COLUMNS;
        out->bytes += listed->data.bytes;
    }
    place_piece(out, tensor, rows, is_coded ? PHI_DTYPE_F32 : listed->dtype, vector);
    return PHI_OK;
}

static const phi_tensor_entry *find_entry(void *user, const char *name, const phi_file **out_file)
{
    const lookup *l = user;
    const stored *tensor = find(l, name);
    if (!tensor) {
        return NULL;
    }
    *out_file = tensor->file;
    return tensor->entry;
}

/* The arrays of a quantized matrix, if it is one. */
static phi_status add_coded(lookup *l, const char *name, phi_part part, uint32_t rows,
                            phi_tensor *out, bool *out_found)
{
    phi_checkpoint *checkpoint = l->checkpoint;
    const phi_hf_finder finder = {.user = l, .find = find_entry};
    phi_coded *coded = &checkpoint->coded[checkpoint->n_coded];
    const phi_hf_wanted wanted = {name, rows, out->cols,
                                  phi_part_count_stacked(part, &checkpoint->description, rows)};
    phi_status status =
        phi_hf_quant_find(&checkpoint->quant, &finder, &wanted, coded, out_found, l->err);
    if (status || !*out_found) {
        return status;
    }
    checkpoint->n_coded++;
    out->piece_coded[out->n_pieces] = coded;
    out->bytes += phi_coded_bytes(coded);
    place_piece(out, NULL, rows, PHI_DTYPE_F32, false);
    return PHI_OK;
}

/* One tensor of the files: arrays of codes, or rows; *out_found is false if it is neither. */
static phi_status add_named(lookup *l, const char *name, phi_part part, uint32_t rows,
                            phi_tensor *out, bool *out_found)
{
    phi_status status = PHI_OK;
    *out_found = false;
    if (!phi_part_is_vector(part) && l->checkpoint->quant.method != PHI_HF_PLAIN) {
        status = add_coded(l, name, part, rows, out, out_found);
    }
    const stored *tensor = status || *out_found ? NULL : find(l, name);
    if (!tensor) {
        return status;
    }
    *out_found = true;
    return tensor->listed ? add_listed_piece(l, tensor, part, rows, out)
                          : add_piece(l, tensor, part, rows, out);
}

static phi_status fail_missing(const lookup *l, const char *whole, const char *pieces)
{
    const phi_checkpoint *checkpoint = l->checkpoint;
    const char *where =
        phi_path_label(checkpoint->gguf ? checkpoint->files[0]->path : checkpoint->dir);
    bool is_former = false;
    for (size_t i = 0; l->naming == PHI_NAMING_HF_PHI && i < l->count && !l->list[i].listed; i++) {
        is_former = is_former || phi_name_is_former(l->list[i].entry->name);
    }
    return phi_fail(l->err, PHI_E_FORMAT, "%s: tensor \"%s\" is missing%s%s%s", where, whole,
                    *pieces ? ", and so is " : "", pieces,
                    is_former ? "; the files have " PHI_FORMER_ADVICE : "");
}

static phi_status find_pieces(lookup *l, phi_part part, uint32_t layer, const uint32_t *rows,
                              uint32_t n_pieces, phi_tensor *out, bool *out_found)
{
    char name[PHI_LIMIT_TENSOR_NAME_BYTES];
    for (uint32_t i = 0; i < n_pieces; i++) {
        bool found = false;
        phi_part_piece_name(part, i, l->naming, layer, name, sizeof name);
        phi_status status = add_named(l, name, part, rows[i], out, &found);
        if (status) {
            return status;
        }
        /* Without its first piece a part is not in pieces. */
        *out_found = i > 0 || found;
        if (!found) {
            return i > 0 ? fail_missing(l, name, "") : PHI_OK;
        }
    }
    return PHI_OK;
}

/* A part of experts that is one half of each matrix of a stack: [experts, 2 * rows, columns]. */
static phi_status find_halves(lookup *l, phi_part part, uint32_t layer, const uint32_t *rows,
                              uint32_t n_rows, phi_tensor *out, bool *out_found)
{
    char name[PHI_LIMIT_TENSOR_NAME_BYTES];
    uint32_t half = 0;
    bool is_half = phi_part_half_name(part, l->naming, layer, &half, name, sizeof name);
    const stored *tensor = is_half ? find(l, name) : NULL;
    const phi_tensor_entry *entry = tensor ? tensor->entry : NULL;
    if (!entry) {
        return PHI_OK;
    }
    PHI_ASSERT(n_rows > 0);
    const uint64_t right[] = {n_rows, 2 * (uint64_t)rows[0], out->cols};
    phi_status status = check_dtype(l, tensor, false);
    status = status ? status : check_dims(l, tensor, right, 3);
    if (status) {
        return status;
    }
    *out_found = true;
    uint64_t half_bytes = entry->bytes / (2 * (uint64_t)n_rows);
    for (uint32_t i = 0; i < n_rows; i++) {
        out->piece_offset[i] = entry->offset + (2 * (uint64_t)i + half) * half_bytes;
        place_piece(out, tensor, rows[i], entry->dtype, false);
    }
    out->bytes += n_rows * half_bytes;
    return PHI_OK;
}

/* Finds a part, whole or in pieces. GGUF calls both the fused matrix and the lower half of a split
 * one "ffn_up", so there pieces are looked for first: "ffn_gate" decides which it is. */
static phi_status find_part(lookup *l, phi_part part, uint32_t layer, phi_tensor *out)
{
    char whole_name[PHI_LIMIT_TENSOR_NAME_BYTES] = "";
    char first_name[PHI_LIMIT_TENSOR_NAME_BYTES] = "";
    uint32_t rows[PHI_PART_PIECES_MAX];
    bool vector = phi_part_is_vector(part);
    bool found = false;
    phi_status status = PHI_OK;
    *out = (phi_tensor){.n_dims = vector ? 1 : phi_part_is_stacked(part) ? 3 : 2};
    phi_part_name(part, PHI_NAMING_GGUF, layer, out->name, sizeof out->name);
    uint32_t n_rows = phi_part_shape(part, &l->checkpoint->description, rows, &out->cols);
    uint32_t all_rows = 0;
    for (uint32_t i = 0; i < n_rows; i++) {
        all_rows += rows[i];
    }
    out->cols = vector ? all_rows : out->cols;
    out->n_stacked = phi_part_is_stacked(part) ? n_rows : 1;
    bool pieces_first = l->naming == PHI_NAMING_GGUF && part == PHI_PART_FFN_UP;
    if (phi_part_has_whole(part, l->naming)) {
        phi_part_name(part, l->naming, layer, whole_name, sizeof whole_name);
    }
    if (phi_part_has_pieces(part, l->naming)) {
        phi_part_piece_name(part, 0, l->naming, layer, first_name, sizeof first_name);
    }
    if (pieces_first) {
        status = find_pieces(l, part, layer, rows, n_rows, out, &found);
    }
    if (!status && !found && *whole_name) {
        status = add_named(l, whole_name, part, all_rows, out, &found);
    }
    if (!status && !found && *first_name && !pieces_first) {
        status = find_pieces(l, part, layer, rows, n_rows, out, &found);
    }
    if (!status && !found) {
        status = find_halves(l, part, layer, rows, n_rows, out, &found);
    }
    if (status || found) {
        return status;
    }
    /* The name that files of the kind have most often comes first. */
    bool is_whole =
        *whole_name && (!phi_part_is_stacked(part) || !*first_name || l->naming == PHI_NAMING_GGUF);
    return is_whole ? fail_missing(l, whole_name, first_name)
                    : fail_missing(l, first_name, whole_name);
}

static phi_status append_part(lookup *l, phi_part part, uint32_t layer)
{
    phi_checkpoint *checkpoint = l->checkpoint;
    phi_tensor *tensor = &checkpoint->tensors[checkpoint->count];
    if (!phi_part_is_of(part, &checkpoint->description)) {
        return PHI_OK;
    }
    phi_status status = find_part(l, part, layer, tensor);
    if (!status) {
        checkpoint->count++;
        checkpoint->bytes += tensor->bytes;
    }
    return status;
}

static phi_status list_tensors(lookup *l)
{
    phi_checkpoint *checkpoint = l->checkpoint;
    const uint32_t layers = checkpoint->description.n_layer;
    size_t most = (size_t)layers * PHI_PART_COUNT + PHI_PART_COUNT;
    checkpoint->tensors = phi_try_alloc_zero(most, sizeof *checkpoint->tensors);
    checkpoint->coded = phi_try_alloc_zero(phi_part_count_pieces(&checkpoint->description),
                                           sizeof *checkpoint->coded);
    if (!checkpoint->tensors || !checkpoint->coded) {
        return phi_fail(l->err, PHI_E_NO_MEMORY, "not enough memory for %zu tensors", most);
    }
    phi_status status = append_part(l, PHI_PART_TOKEN_EMBD, 0);
    for (uint32_t layer = 0; layer < layers; layer++) {
        for (int part = PHI_PART_ATTN_NORM; part < PHI_PART_OUTPUT_NORM && !status; part++) {
            status = append_part(l, (phi_part)part, layer);
        }
    }
    for (int part = PHI_PART_OUTPUT_NORM; part < PHI_PART_COUNT && !status; part++) {
        status = append_part(l, (phi_part)part, 0);
    }
    return status;
}

phi_status phi_checkpoint_find_parts(phi_checkpoint *checkpoint, phi_err *err)
{
    lookup l = {.checkpoint = checkpoint,
                .naming = checkpoint->gguf || checkpoint->onnx
                              ? PHI_NAMING_GGUF
                              : phi_naming_of(checkpoint->description.arch),
                .err = err};
    phi_status status = build_lookup(&l);
    if (!status) {
        status = list_tensors(&l);
    }
    phi_free(l.list);
    phi_strmap_destroy(l.by_name);
    return status;
}
