#include "engine/formats/hf_write_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "base/str.h"
#include "engine/formats/hf_names.h"
#include "engine/tensor/half.h"

/* Elements that are read at a time. */
#define CHUNK_ELEMENTS (1U << 20)
/* Of GPTQ, whose rows lie across: what is written in one piece is 4 bytes of each. */
#define GPTQ_CHUNK_ELEMENTS (1U << 22)

enum { CODES = 0, SCALES = 1, ZEROS = 2, ZERO_WORDS = 3 };

/* ---- names ---- */

/* The items of one tensor: itself, or the pieces that the class keeps apart. */
static void list_tensor(phi_hf_writing *w, const phi_export_tensor *tensor)
{
    const phi_description *d = w->export->description;
    phi_naming naming = phi_naming_of(d->arch);
    uint32_t rows[PHI_PART_PIECES_MAX];
    uint32_t cols;
    uint32_t layer;
    uint32_t row = 0;
    phi_part part = phi_part_of_name(tensor->name, d, &layer);
    uint32_t pieces = phi_part_shape(part, d, rows, &cols);
    bool is_stack = phi_part_is_stacked(part) && w->method == PHI_HF_MLX;
    if (phi_part_has_whole(part, naming) && (is_stack || !phi_part_is_stacked(part))) {
        phi_hf_item *item = &w->items[w->n_items++];
        item->tensor = tensor;
        item->stacked = is_stack ? pieces : 1;
        item->rows = tensor->n_dims == 1 ? tensor->cols : tensor->rows;
        phi_part_name(part, naming, layer, item->name, sizeof item->name);
        return;
    }
    for (uint32_t i = 0; i < pieces; i++) {
        phi_hf_item *item = &w->items[w->n_items++];
        *item = (phi_hf_item){.tensor = tensor, .row = row, .rows = rows[i], .stacked = 1};
        phi_part_piece_name(part, i, naming, layer, item->name, sizeof item->name);
        row += rows[i];
    }
}

phi_status phi_hf_list(phi_hf_writing *w)
{
    uint32_t pieces = w->export->description->n_expert;
    size_t most = (size_t)w->export->count * (pieces < 3 ? 3 : pieces) + 1;
    w->items = phi_try_alloc_zero(most, sizeof *w->items);
    if (!w->items) {
        return phi_fail(w->err, PHI_E_NO_MEMORY, "not enough memory for %zu tensors", most);
    }
    for (uint32_t i = 0; i < w->export->count; i++) {
        list_tensor(w, &w->export->tensors[i]);
    }
    return PHI_OK;
}

static void add(phi_hf_arrays *out, const char *stem, const char *suffix, const char *dtype,
                uint64_t rows, uint64_t cols, uint32_t size)
{
    phi_hf_array *array = &out->at[out->count++];
    int length = snprintf(array->name, sizeof array->name, "%s%s", stem, suffix);
    PHI_ASSERT(length > 0 && (size_t)length < sizeof array->name);
    array->dtype = dtype;
    array->n_dims = rows ? 2 : 1;
    array->dims[0] = rows ? rows : cols;
    array->dims[1] = cols;
    array->bytes = (rows ? rows : 1) * cols * size;
}

static const char *name_of(phi_dtype dtype)
{
    return phi_dtype_get(dtype)->name;
}

static uint32_t size_of(phi_dtype dtype)
{
    return phi_dtype_get(dtype)->block_bytes;
}

/* ---- planning ---- */

static phi_status refuse(const phi_hf_writing *w, const phi_export_tensor *t, const char *why)
{
    return phi_fail(w->err, PHI_E_UNSUPPORTED, "tensor '%s': %s cannot hold %s", t->name,
                    phi_hf_method_name(w->method), why);
}

static phi_status plan_mlx(const phi_hf_writing *w, const char *stem, phi_hf_item *item)
{
    const phi_export_tensor *t = item->tensor;
    phi_hf_arrays *out = &item->arrays;
    uint64_t groups = t->cols / t->group;
    if (t->group != 32 && t->group != 64 && t->group != 128) {
        return refuse(w, t, "groups other than 32, 64 and 128");
    }
    if (t->zero_rule != PHI_ZERO_REAL && !t->is_mx) {
        return refuse(w, t, "zero points, only offsets");
    }
    add(out, stem, "weight", "U32", item->rows, (uint64_t)t->cols * t->bits / 32, 4);
    if (t->is_mx) {
        PHI_ASSERT(t->bits == 4 && t->group == 32);
        add(out, stem, "scales", "U8", item->rows, groups, 1);
        return PHI_OK;
    }
    add(out, stem, "scales", name_of(t->scale_dtype), item->rows, groups, size_of(t->scale_dtype));
    add(out, stem, "biases", name_of(t->scale_dtype), item->rows, groups, size_of(t->scale_dtype));
    return PHI_OK;
}

static phi_status plan_gptq(const phi_hf_writing *w, const char *stem, phi_hf_item *item)
{
    const phi_export_tensor *t = item->tensor;
    phi_hf_arrays *out = &item->arrays;
    uint64_t groups = t->cols / t->group;
    uint64_t words = (uint64_t)item->rows * t->bits / 32;
    if (!phi_zero_rule_is_coded(t->zero_rule) || t->scale_dtype != PHI_DTYPE_F16 ||
        item->rows % (32 / t->bits) != 0 || t->cols % (32 / t->bits) != 0) {
        return refuse(w, t, "offsets, scales that are not fp16, or rows that do not fill words");
    }
    add(out, stem, "qweight", "I32", (uint64_t)t->cols * t->bits / 32, item->rows, 4);
    add(out, stem, "scales", "F16", groups, item->rows, 2);
    add(out, stem, "qzeros", "I32", groups, words, 4);
    add(out, stem, "g_idx", "I32", 0, t->cols, 4);
    return PHI_OK;
}

static phi_status plan_compressed(const phi_hf_writing *w, const char *stem, phi_hf_item *item)
{
    const phi_export_tensor *t = item->tensor;
    phi_hf_arrays *out = &item->arrays;
    if (!phi_zero_rule_is_coded(t->zero_rule) || t->cols % (32 / t->bits) != 0) {
        return refuse(w, t, "offsets, only zero points; nor rows that do not fill words");
    }
    add(out, stem, "weight_packed", "I32", item->rows, (uint64_t)t->cols * t->bits / 32, 4);
    add(out, stem, "weight_scale", name_of(t->scale_dtype), item->rows, t->cols / t->group,
        size_of(t->scale_dtype));
    add(out, stem, "weight_shape", "I64", 0, 2, 8);
    if (t->zero_rule == PHI_ZERO_INTEGER) {
        uint32_t per_word = 32 / t->bits;
        add(out, stem, "weight_zero_point", "I32", (item->rows + per_word - 1) / per_word,
            t->cols / t->group, 4);
    }
    return PHI_OK;
}

static phi_status plan_arrays(const phi_hf_writing *w, phi_hf_item *item)
{
    const phi_export_tensor *t = item->tensor;
    char stem[PHI_LIMIT_TENSOR_NAME_BYTES];
    memcpy(stem, item->name, sizeof stem);
    if (t->bits > 8) {
        phi_dtype dtype = t->n_dims == 1 || t->bits == 16 ? t->float_dtype : PHI_DTYPE_F32;
        bool vector = t->n_dims == 1;
        add(&item->arrays, stem, "", name_of(dtype), vector ? 0 : item->rows,
            vector ? item->rows : t->cols, size_of(dtype));
        return PHI_OK;
    }
    stem[strlen(stem) - strlen("weight")] = '\0';
    switch (w->method) {
    case PHI_HF_MLX:
        return plan_mlx(w, stem, item);
    case PHI_HF_GPTQ:
        return plan_gptq(w, stem, item);
    case PHI_HF_COMPRESSED:
        return plan_compressed(w, stem, item);
    case PHI_HF_PLAIN:
    case PHI_HF_AWQ:
        break;
    }
    return refuse(w, t, "codes");
}

phi_status phi_hf_plan(const phi_hf_writing *w, phi_hf_item *item)
{
    phi_status status = plan_arrays(w, item);
    for (uint32_t i = 0; i < item->arrays.count && item->stacked > 1; i++) {
        phi_hf_array *array = &item->arrays.at[i];
        array->n_dims = 3;
        array->dims[2] = array->dims[1];
        array->dims[1] = array->dims[0] / item->stacked;
        array->dims[0] = item->stacked;
    }
    return status;
}

/* ---- filling ---- */

static phi_status put(phi_hf_writing *w, const phi_hf_array *array, uint64_t at, const void *data,
                      uint64_t bytes)
{
    PHI_ASSERT(at + bytes <= array->bytes);
    phi_status status =
        phi_file_writer_patch(w->file, array->offset + at, data, (size_t)bytes, w->err);
    w->bytes_done += bytes;
    if (!status && w->export->progress &&
        !w->export->progress(w->export->user, w->bytes_done, w->bytes_total)) {
        return phi_fail(w->err, PHI_E_CANCELLED, "writing was cancelled");
    }
    return status;
}

/* `count` floats as they are stored, in place: narrower types take the front. Those that were not
 * chosen to fit are checked first. */
static void narrow(phi_dtype dtype, float *values, size_t count)
{
    uint8_t *to = (uint8_t *)values;
    for (size_t i = 0; i < count && dtype != PHI_DTYPE_F32; i++) {
        uint16_t half =
            dtype == PHI_DTYPE_F16 ? phi_half_of_float(values[i]) : phi_bf16_of_float(values[i]);
        memcpy(to + i * sizeof half, &half, sizeof half);
    }
}

/* fp16 was asked for, which has no numbers beyond 65504. */
static phi_status check_range(phi_hf_writing *w, const phi_hf_item *item, uint32_t row,
                              const float *values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(phi_half_to_float(phi_half_of_float(values[i])))) {
            uint32_t cols = item->tensor->cols;
            return phi_fail(w->err, PHI_E_UNSUPPORTED,
                            "tensor '%s', row %zu, column %zu: %g is beyond what fp16 can hold; "
                            "choose another precision",
                            item->tensor->name, item->row + row + i / cols, i % cols,
                            (double)values[i]);
        }
    }
    return PHI_OK;
}

/* Powers of two, given as half of what they are, as E8M0 bytes, in place. */
static void narrow_exponents(float *values, size_t count)
{
    uint8_t *to = (uint8_t *)values;
    for (size_t i = 0; i < count; i++) {
        const int exponent = ilogbf(values[i]) + 128;
        PHI_ASSERT(exponent >= 0 && exponent <= 255);
        to[i] = (uint8_t)exponent;
    }
}

static phi_dtype dtype_of(const phi_hf_array *array)
{
    return strcmp(array->dtype, "F16") == 0    ? PHI_DTYPE_F16
           : strcmp(array->dtype, "BF16") == 0 ? PHI_DTYPE_BF16
                                               : PHI_DTYPE_F32;
}

static uint32_t rows_at_once(const phi_hf_item *item, uint32_t elements)
{
    /* Whole words of zero points of several rows. */
    uint32_t rows = (elements / item->tensor->cols + 32) / 32 * 32;
    return rows < item->rows ? rows : item->rows;
}

static phi_status fill_vector(phi_hf_writing *w, const phi_hf_item *item)
{
    const phi_export_tensor *t = item->tensor;
    const phi_hf_array *array = &item->arrays.at[0];
    float *values = phi_try_alloc(t->cols * sizeof *values);
    if (!values) {
        return phi_fail(w->err, PHI_E_NO_MEMORY, "not enough memory for a vector");
    }
    phi_status status = w->export->read_f32(w->export->user, t, 0, 1, values, w->err);
    if (!status) {
        narrow(dtype_of(array), values + item->row, item->rows);
        status = put(w, array, 0, values + item->row, array->bytes);
    }
    phi_free(values);
    return status;
}

static phi_status fill_floats(phi_hf_writing *w, const phi_hf_item *item)
{
    const phi_export_tensor *t = item->tensor;
    const phi_hf_array *array = &item->arrays.at[0];
    uint32_t step = rows_at_once(item, CHUNK_ELEMENTS);
    phi_dtype dtype = dtype_of(array);
    uint64_t row_bytes = (uint64_t)t->cols * size_of(dtype);
    float *values = phi_try_alloc((size_t)step * t->cols * sizeof *values);
    phi_status status =
        values ? PHI_OK : phi_fail(w->err, PHI_E_NO_MEMORY, "not enough memory for rows");
    for (uint32_t row = 0; row < item->rows && !status; row += step) {
        uint32_t count = item->rows - row < step ? item->rows - row : step;
        status = w->export->read_f32(w->export->user, t, item->row + row, count, values, w->err);
        if (!status && dtype == PHI_DTYPE_F16) {
            status = check_range(w, item, row, values, (size_t)count * t->cols);
        }
        if (!status) {
            narrow(dtype, values, (size_t)count * t->cols);
            status = put(w, array, row * row_bytes, values, count * row_bytes);
        }
    }
    phi_free(values);
    return status;
}

/* Codes in words of 32 bits, the first in the lowest; `step` apart. */
static uint32_t word_of(const uint8_t *codes, size_t step, uint32_t bits)
{
    uint32_t word = 0;
    for (uint32_t i = 0; i < 32 / bits; i++) {
        word |= (uint32_t)codes[i * step] << i * bits;
    }
    return word;
}

/* A chunk of rows. */
typedef struct chunk {
    uint8_t *codes;
    float *scales;
    float *zeros;
    uint32_t *words;
} chunk;

static bool alloc_chunk(const phi_export_tensor *t, uint32_t rows, chunk *out)
{
    size_t elements = (size_t)rows * t->cols;
    size_t groups = elements / t->group;
    out->codes = phi_try_alloc(elements);
    out->scales = phi_try_alloc(groups * sizeof *out->scales);
    out->zeros = phi_try_alloc(groups * sizeof *out->zeros);
    out->words = phi_try_alloc(elements);
    return out->codes && out->scales && out->zeros && out->words;
}

static void free_chunk(chunk *it)
{
    phi_free(it->codes);
    phi_free(it->scales);
    phi_free(it->zeros);
    phi_free(it->words);
}

/* Zero points of compressed-tensors: a word holds those of one group and several rows. `row` is the
 * first of a word; the words' memory is free. */
static phi_status put_zero_words(phi_hf_writing *w, const phi_hf_item *item, chunk *it,
                                 uint32_t row, uint32_t count)
{
    const phi_export_tensor *t = item->tensor;
    size_t groups = t->cols / t->group;
    uint32_t per_word = 32 / t->bits;
    size_t lines = (count + per_word - 1) / per_word;
    PHI_ASSERT(row % per_word == 0);
    memset(it->words, 0, lines * groups * sizeof *it->words);
    for (uint32_t r = 0; r < count; r++) {
        for (size_t g = 0; g < groups; g++) {
            it->words[r / per_word * groups + g] |= (uint32_t)it->zeros[r * groups + g]
                                                    << r % per_word * t->bits;
        }
    }
    return put(w, &item->arrays.at[ZERO_WORDS], row / per_word * groups * 4, it->words,
               lines * groups * 4);
}

/* Arrays that lie row by row: MLX and compressed-tensors. */
static phi_status fill_rows(phi_hf_writing *w, const phi_hf_item *item, chunk *it, uint32_t step)
{
    const phi_export_tensor *t = item->tensor;
    const phi_hf_arrays *arrays = &item->arrays;
    uint64_t groups = t->cols / t->group;
    uint32_t per_word = 32 / t->bits;
    uint64_t row_words = t->cols / per_word;
    uint64_t scale_bytes = groups * (t->is_mx ? 1 : size_of(t->scale_dtype));
    phi_status status = PHI_OK;
    for (uint32_t row = 0; row < item->rows && !status; row += step) {
        uint32_t count = item->rows - row < step ? item->rows - row : step;
        status = w->export->read_codes(w->export->user, t, item->row + row, count, it->codes,
                                       it->scales, it->zeros, w->err);
        for (size_t i = 0; i < count * row_words && !status; i++) {
            it->words[i] = word_of(it->codes + i * per_word, 1, t->bits);
        }
        if (!status) {
            status =
                put(w, &arrays->at[CODES], row * row_words * 4, it->words, count * row_words * 4);
        }
        if (!status && t->is_mx) {
            narrow_exponents(it->scales, count * groups);
        } else if (!status) {
            narrow(t->scale_dtype, it->scales, count * groups);
        }
        if (!status) {
            status =
                put(w, &arrays->at[SCALES], row * scale_bytes, it->scales, count * scale_bytes);
        }
        if (!status && t->zero_rule == PHI_ZERO_REAL) {
            narrow(t->scale_dtype, it->zeros, count * groups);
            status = put(w, &arrays->at[ZEROS], row * scale_bytes, it->zeros, count * scale_bytes);
        } else if (!status && t->zero_rule == PHI_ZERO_INTEGER) {
            status = put_zero_words(w, item, it, row, count);
        }
    }
    return status;
}

static phi_status put_shape(phi_hf_writing *w, const phi_hf_item *item)
{
    const int64_t shape[2] = {item->rows, item->tensor->cols};
    return put(w, &item->arrays.at[2], 0, shape, sizeof shape);
}

/* A group's scales and zero points of rows [row, row + count), which follow one another; the codes'
 * memory is free. */
static phi_status put_gptq_group(phi_hf_writing *w, const phi_hf_item *item, chunk *it, uint64_t g,
                                 uint32_t row, uint32_t count)
{
    const phi_export_tensor *t = item->tensor;
    const uint32_t per_word = 32 / t->bits;
    const size_t groups = t->cols / t->group;
    /* "gptq" stores one less. */
    const float middle = (float)((1U << (t->bits - 1)) - 1);
    uint16_t *halves = (uint16_t *)(void *)it->words;
    for (uint32_t r = 0; r < count; r++) {
        float zero = t->zero_rule == PHI_ZERO_CENTRE ? middle : it->zeros[r * groups + g];
        halves[r] = phi_half_of_float(it->scales[r * groups + g]);
        it->codes[r] = (uint8_t)zero;
    }
    phi_status status = put(w, &item->arrays.at[SCALES], (g * item->rows + row) * sizeof *halves,
                            halves, count * sizeof *halves);
    for (uint32_t i = 0; i < count / per_word; i++) {
        it->words[i] = word_of(it->codes + (size_t)i * per_word, 1, t->bits);
    }
    return status ? status
                  : put(w, &item->arrays.at[ZEROS], (g * item->rows + row) / per_word * 4,
                        it->words, (uint64_t)count / per_word * 4);
}

/* GPTQ: words of the same columns of all rows lie side by side; so do scales of one group. Each is
 * written as many rows at a time as are read. */
static phi_status fill_gptq(phi_hf_writing *w, const phi_hf_item *item, chunk *it, uint32_t step)
{
    const phi_export_tensor *t = item->tensor;
    const uint32_t per_word = 32 / t->bits;
    phi_status status = PHI_OK;
    for (uint32_t row = 0; row < item->rows && !status; row += step) {
        uint32_t count = item->rows - row < step ? item->rows - row : step;
        PHI_ASSERT(row % per_word == 0 && count % per_word == 0);
        status = w->export->read_codes(w->export->user, t, item->row + row, count, it->codes,
                                       it->scales, it->zeros, w->err);
        for (uint32_t k = 0; k < t->cols && !status; k += per_word) {
            for (uint32_t r = 0; r < count; r++) {
                it->words[r] = word_of(it->codes + (size_t)r * t->cols + k, 1, t->bits);
            }
            status =
                put(w, &item->arrays.at[CODES], ((uint64_t)(k / per_word) * item->rows + row) * 4,
                    it->words, (uint64_t)count * 4);
        }
        for (uint32_t g = 0; g < t->cols / t->group && !status; g++) {
            status = put_gptq_group(w, item, it, g, row, count);
        }
    }
    for (uint32_t k = 0; k < t->cols; k++) {
        it->words[k] = k / t->group;
    }
    return status ? status : put(w, &item->arrays.at[3], 0, it->words, (uint64_t)t->cols * 4);
}

phi_status phi_hf_fill(phi_hf_writing *w, const phi_hf_item *item)
{
    if (item->tensor->bits > 8) {
        return item->tensor->n_dims == 1 ? fill_vector(w, item) : fill_floats(w, item);
    }
    bool gptq = w->method == PHI_HF_GPTQ;
    uint32_t step = rows_at_once(item, gptq ? GPTQ_CHUNK_ELEMENTS : CHUNK_ELEMENTS);
    chunk it = {0};
    phi_status status = PHI_OK;
    if (!alloc_chunk(item->tensor, step, &it)) {
        status = phi_fail(w->err, PHI_E_NO_MEMORY, "not enough memory for rows");
    } else if (gptq) {
        status = fill_gptq(w, item, &it, step);
    } else {
        status = fill_rows(w, item, &it, step);
    }
    free_chunk(&it);
    if (!status && w->method == PHI_HF_COMPRESSED) {
        status = put_shape(w, item);
    }
    return status;
}
