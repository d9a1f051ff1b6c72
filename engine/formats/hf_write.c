#include "engine/formats/hf_write.h"

#include <jansson.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "base/str.h"
#include "engine/formats/hf_folder.h"
#include "engine/formats/hf_write_internal.h"

/* ---- config.json ---- */

static json_t *coding(const phi_export_tensor *tensor)
{
    return json_pack("{s:i, s:i}", "group_size", (int)tensor->group, "bits", (int)tensor->bits);
}

/* The first matrix of codes inside a layer, or else the first at all. */
static const phi_export_tensor *typical(const phi_export *export)
{
    const phi_export_tensor *first = NULL;
    for (uint32_t i = 0; i < export->count; i++) {
        const phi_export_tensor *tensor = &export->tensors[i];
        if (tensor->bits <= 8 && strncmp(tensor->name, "blk.", 4) == 0) {
            return tensor;
        }
        first = !first && tensor->bits <= 8 ? tensor : first;
    }
    return first;
}

/* Of a matrix: its module's. */
static void path_of(const phi_hf_item *item, char out[PHI_LIMIT_TENSOR_NAME_BYTES])
{
    memcpy(out, item->name, sizeof item->name);
    out[strlen(out) - strlen(".weight")] = '\0';
}

static bool is_alike(const phi_export_tensor *a, const phi_export_tensor *b)
{
    return a->bits == b->bits && a->group == b->group && a->is_mx == b->is_mx;
}

/* Of a layer whose coding is another one. Where the section says no mode, MLX takes "affine", and
 * versions that know only that take none. */
static json_t *mlx_coding(const phi_export_tensor *tensor, bool has_mode)
{
    json_t *own = coding(tensor);
    if (has_mode) {
        (void)json_object_set_new(own, "mode", json_string(tensor->is_mx ? "mxfp4" : "affine"));
    }
    return own;
}

/* Layers whose coding is another one are named by their path. */
static json_t *mlx_section(const phi_hf_writing *w)
{
    const phi_export_tensor *usual = typical(w->export);
    PHI_ASSERT(usual);
    json_t *section = mlx_coding(usual, true);
    for (uint32_t i = 0; i < w->n_items; i++) {
        const phi_export_tensor *tensor = w->items[i].tensor;
        char path[PHI_LIMIT_TENSOR_NAME_BYTES];
        if (tensor->n_dims == 1) {
            continue;
        }
        path_of(&w->items[i], path);
        if (tensor->bits <= 8 && !is_alike(tensor, usual)) {
            (void)json_object_set_new(section, path,
                                      mlx_coding(tensor, tensor->is_mx || usual->is_mx));
        } else if (tensor->bits > 8) {
            (void)json_object_set_new(section, path, json_false());
        }
    }
    return section;
}

/* Calls for each matrix of a layer that has no codes: a router. */
static void each_float(const phi_hf_writing *w, void (*add)(json_t *to, const char *path),
                       json_t *to)
{
    for (uint32_t i = 0; i < w->n_items; i++) {
        const phi_export_tensor *tensor = w->items[i].tensor;
        char path[PHI_LIMIT_TENSOR_NAME_BYTES];
        if (tensor->n_dims == 2 && tensor->bits > 8 && phi_str_starts(tensor->name, "blk.")) {
            path_of(&w->items[i], path);
            add(to, path);
        }
    }
}

/* As GPTQModel spells what it leaves out: "-:" and a regular expression. */
static void add_dynamic(json_t *to, const char *path)
{
    char *rule = phi_strfmt("-:^%s$", path);
    (void)json_object_set_new(to, rule, json_object());
    phi_free(rule);
}

static void add_ignored(json_t *to, const char *path)
{
    (void)json_array_append_new(to, json_string(path));
}

/* Whether every matrix of codes has one scale a row, which is no number of columns that all share.
 */
static bool is_by_row(const phi_export *export)
{
    for (uint32_t i = 0; i < export->count; i++) {
        const phi_export_tensor *tensor = &export->tensors[i];
        if (tensor->n_dims == 2 && tensor->bits <= 8 && tensor->group != tensor->cols) {
            return false;
        }
    }
    return true;
}

/* "gptq" cannot hold a zero point of 0; "gptq_v2" holds each as it is. */
static json_t *gptq_section(const phi_hf_writing *w, const phi_export_tensor *usual)
{
    bool centred = usual->zero_rule == PHI_ZERO_CENTRE;
    int group = is_by_row(w->export) ? -1 : (int)usual->group;
    json_t *section =
        json_pack("{s:s, s:i, s:i, s:b, s:b, s:s, s:b}", "quant_method", "gptq", "bits",
                  (int)usual->bits, "group_size", group, "sym", centred ? 1 : 0, "desc_act", 0,
                  "checkpoint_format", centred ? "gptq" : "gptq_v2", "lm_head", 0);
    json_t *dynamic = json_object();
    each_float(w, add_dynamic, dynamic);
    if (json_object_size(dynamic) > 0) {
        (void)json_object_set(section, "dynamic", dynamic);
    }
    json_decref(dynamic);
    return section;
}

static json_t *compressed_section(const phi_hf_writing *w, const phi_export_tensor *usual)
{
    bool centred = usual->zero_rule == PHI_ZERO_CENTRE;
    json_t *ignored = json_pack("[s]", "lm_head");
    each_float(w, add_ignored, ignored);
    bool by_row = is_by_row(w->export);
    json_t *weights =
        json_pack("{s:i, s:s, s:b, s:s, s:o, s:b}", "num_bits", (int)usual->bits, "type", "int",
                  "symmetric", centred ? 1 : 0, "strategy", by_row ? "channel" : "group",
                  "group_size", by_row ? json_null() : json_integer(usual->group), "dynamic", 0);
    return json_pack("{s:s, s:s, s:s, s:{s:{s:[s], s:o}}, s:o}", "quant_method",
                     "compressed-tensors", "format", "pack-quantized", "quantization_status",
                     "compressed", "config_groups", "group_0", "targets", "Linear", "weights",
                     weights, "ignore", ignored);
}

static const char *torch_dtype(const phi_export *export)
{
    for (uint32_t i = 0; i < export->count; i++) {
        const phi_export_tensor *tensor = &export->tensors[i];
        if (tensor->n_dims == 2 && tensor->bits > 8) {
            return tensor->bits == 32                      ? "float32"
                   : tensor->float_dtype == PHI_DTYPE_BF16 ? "bfloat16"
                                                           : "float16";
        }
    }
    return "float16";
}

static json_t *changes_of(const phi_hf_writing *w)
{
    const phi_export_tensor *usual = typical(w->export);
    json_t *changes = json_pack("{s:s}", "torch_dtype", torch_dtype(w->export));
    if (!usual) {
        return changes;
    }
    if (w->method == PHI_HF_MLX) {
        json_t *section = mlx_section(w);
        (void)json_object_set(changes, "quantization", section);
        (void)json_object_set_new(changes, "quantization_config", section);
    } else {
        (void)json_object_set_new(changes, "quantization_config",
                                  w->method == PHI_HF_GPTQ ? gptq_section(w, usual)
                                                           : compressed_section(w, usual));
    }
    return changes;
}

/* ---- model.safetensors ---- */

/* GPTQ and compressed-tensors state one width, one group, or the row, and one kind of zero point
 * for all. */
static phi_status check_uniform(const phi_hf_writing *w)
{
    const phi_export_tensor *usual = typical(w->export);
    if (!usual || w->method == PHI_HF_MLX) {
        return PHI_OK;
    }
    const bool by_row = is_by_row(w->export);
    for (uint32_t i = 0; i < w->export->count; i++) {
        const phi_export_tensor *tensor = &w->export->tensors[i];
        if (tensor->bits <= 8 &&
            (tensor->bits != usual->bits || (tensor->group != usual->group && !by_row) ||
             tensor->zero_rule != usual->zero_rule)) {
            return phi_fail(
                w->err, PHI_E_UNSUPPORTED,
                "tensor '%s' has %u bits by %u and '%s' %u by %u; %s has one coding for "
                "all",
                tensor->name, tensor->bits, tensor->group, usual->name, usual->bits, usual->group,
                phi_hf_method_name(w->method));
        }
    }
    return PHI_OK;
}

static json_t *entry_of(const phi_hf_array *array, uint64_t begin)
{
    json_t *shape = json_array();
    for (uint32_t i = 0; i < array->n_dims; i++) {
        (void)json_array_append_new(shape, json_integer((json_int_t)array->dims[i]));
    }
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", array->dtype, "shape", shape, "data_offsets",
                     (json_int_t)begin, (json_int_t)(begin + array->bytes));
}

/* Lays the arrays out and writes the header; the data's place is reserved. */
static phi_status write_header(phi_hf_writing *w)
{
    json_t *header =
        json_pack("{s:{s:s}}", "__metadata__", "format", w->method == PHI_HF_MLX ? "mlx" : "pt");
    uint64_t at = 0;
    for (uint32_t i = 0; i < w->n_items; i++) {
        for (uint32_t k = 0; k < w->items[i].arrays.count; k++) {
            phi_hf_array *array = &w->items[i].arrays.at[k];
            (void)json_object_set_new(header, array->name, entry_of(array, at));
            array->offset = at;
            at += array->bytes;
        }
    }
    w->bytes_total = at;
    char *text = json_dumps(header, JSON_COMPACT);
    json_decref(header);
    if (!text) {
        return phi_fail(w->err, PHI_E_NO_MEMORY, "not enough memory for a header");
    }
    /* Data begin at a multiple of 8. */
    uint64_t text_bytes = strlen(text);
    uint64_t length = (text_bytes + 7) / 8 * 8;
    static const char spaces[] = "        ";
    phi_status status = phi_file_writer_reserve(w->file, 8 + length + at, w->err);
    status = status ? status : phi_file_writer_patch(w->file, 0, &length, sizeof length, w->err);
    status = status ? status : phi_file_writer_patch(w->file, 8, text, (size_t)text_bytes, w->err);
    status = status ? status
                    : phi_file_writer_patch(w->file, 8 + text_bytes, spaces,
                                            (size_t)(length - text_bytes), w->err);
    for (uint32_t i = 0; i < w->n_items; i++) {
        for (uint32_t k = 0; k < w->items[i].arrays.count; k++) {
            w->items[i].arrays.at[k].offset += 8 + length;
        }
    }
    json_free_t release;
    json_get_alloc_funcs(NULL, &release);
    release(text);
    return status;
}

static phi_status write_weights(phi_hf_writing *w, const char *dir)
{
    char *path = phi_strfmt("%s/model.safetensors", dir);
    phi_status status = phi_file_writer_create(path, &w->file, w->err);
    phi_free(path);
    if (status) {
        return status;
    }
    status = write_header(w);
    for (uint32_t i = 0; i < w->n_items && !status; i++) {
        status = phi_hf_fill(w, &w->items[i]);
    }
    if (status) {
        phi_file_writer_abort(w->file);
        return status;
    }
    return phi_file_writer_commit(w->file, w->err);
}

phi_status phi_hf_write(const phi_export *export, phi_hf_method method, const char *dir,
                        phi_err *err)
{
    phi_hf_writing w = {.export = export, .method = method, .err = err};
    phi_status status = check_uniform(&w);
    status = status ? status : phi_hf_list(&w);
    for (uint32_t i = 0; i < w.n_items && !status; i++) {
        status = phi_hf_plan(&w, &w.items[i]);
    }
    status = status ? status : phi_file_make_dirs(dir, err);
    status = status ? status : write_weights(&w, dir);
    if (!status) {
        json_t *changes = changes_of(&w);
        status = phi_hf_folder_write(export, dir, changes, err);
        json_decref(changes);
    }
    phi_free(w.items);
    return status;
}
