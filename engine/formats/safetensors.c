#include "engine/formats/safetensors.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "engine/formats/json.h"
#include "engine/formats/text_check.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensors are read as stored");

#define LENGTH_BYTES 8 /* the header's length comes first */

/* Every dtype that the format defines, so that sizes can be checked of those not read as well. */
typedef struct st_dtype {
    const char *name;
    uint32_t bits;
    bool readable;
    phi_dtype dtype;
} st_dtype;

static const st_dtype dtypes[] = {
    {"F32", 32, true, PHI_DTYPE_F32},         {"F16", 16, true, PHI_DTYPE_F16},
    {"BF16", 16, true, PHI_DTYPE_BF16},       {"F64", 64, false, PHI_DTYPE_F32},
    {"C64", 64, false, PHI_DTYPE_F32},        {"I64", 64, false, PHI_DTYPE_F32},
    {"U64", 64, false, PHI_DTYPE_F32},        {"I32", 32, false, PHI_DTYPE_F32},
    {"U32", 32, false, PHI_DTYPE_F32},        {"I16", 16, false, PHI_DTYPE_F32},
    {"U16", 16, false, PHI_DTYPE_F32},        {"I8", 8, false, PHI_DTYPE_F32},
    {"U8", 8, false, PHI_DTYPE_F32},          {"BOOL", 8, false, PHI_DTYPE_F32},
    {"F8_E4M3", 8, false, PHI_DTYPE_F32},     {"F8_E5M2", 8, false, PHI_DTYPE_F32},
    {"F8_E8M0", 8, false, PHI_DTYPE_F32},     {"F8_E4M3FNUZ", 8, false, PHI_DTYPE_F32},
    {"F8_E5M2FNUZ", 8, false, PHI_DTYPE_F32}, {"F6_E2M3", 6, false, PHI_DTYPE_F32},
    {"F6_E3M2", 6, false, PHI_DTYPE_F32},     {"F4", 4, false, PHI_DTYPE_F32},
};

static const st_dtype *find_dtype(const char *name)
{
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        if (strcmp(dtypes[i].name, name) == 0) {
            return &dtypes[i];
        }
    }
    return NULL;
}

/* An element of shape or data_offsets: an integer that is not negative. */
static bool get_size(const json_t *value, uint64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0) {
        return false;
    }
    *out = (uint64_t)json_integer_value(value);
    return true;
}

static phi_status read_dtype(const json_t *info, const char *label, phi_tensor_entry *entry,
                             phi_err *err)
{
    const json_t *name = json_object_get(info, "dtype");
    if (!json_is_string(name)) {
        return phi_fail(err, PHI_E_FORMAT, "%s: tensor \"%s\" has no \"dtype\"", label,
                        entry->name);
    }
    const st_dtype *dtype = find_dtype(json_string_value(name));
    if (!dtype) {
        return phi_fail(err, PHI_E_FORMAT, "%s: tensor \"%s\" has dtype \"%.32s\", which %s", label,
                        entry->name, json_string_value(name), "safetensors does not define");
    }
    entry->readable = dtype->readable;
    entry->dtype = dtype->dtype;
    entry->dtype_name = dtype->name;
    return PHI_OK;
}

/* Multiplies the dims in the file's order, as the reference reader does, and says how many bytes
 * the tensor must have. */
static phi_status read_shape(const json_t *info, const char *label, phi_tensor_entry *entry,
                             phi_err *err)
{
    const json_t *shape = json_object_get(info, "shape");
    if (!json_is_array(shape)) {
        return phi_fail(err, PHI_E_FORMAT, "%s: tensor \"%s\" has no \"shape\" list", label,
                        entry->name);
    }
    size_t n_dims = json_array_size(shape);
    if (n_dims > PHI_LIMIT_TENSOR_DIMS) {
        return phi_fail(err, PHI_E_LIMIT, "%s: tensor \"%s\" has %zu dimensions; at most %u", label,
                        entry->name, n_dims, PHI_LIMIT_TENSOR_DIMS);
    }
    uint64_t bits = find_dtype(entry->dtype_name)->bits;
    for (size_t i = 0; i < n_dims; i++) {
        if (!get_size(json_array_get(shape, i), &entry->dims[i]) ||
            !phi_checked_mul(bits, entry->dims[i], &bits)) {
            return phi_fail(err, PHI_E_FORMAT,
                            "%s: tensor \"%s\": dimension %zu of \"shape\" is not a usable size",
                            label, entry->name, i);
        }
    }
    if (bits % 8 != 0) {
        return phi_fail(err, PHI_E_FORMAT, "%s: tensor \"%s\" is not a whole number of bytes",
                        label, entry->name);
    }
    entry->n_dims = (uint32_t)n_dims;
    entry->bytes = bits / 8;
    return PHI_OK;
}

static phi_status read_offsets(const json_t *info, const char *label, phi_tensor_entry *entry,
                               phi_err *err)
{
    const json_t *offsets = json_object_get(info, "data_offsets");
    uint64_t begin;
    uint64_t end;
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 ||
        !get_size(json_array_get(offsets, 0), &begin) ||
        !get_size(json_array_get(offsets, 1), &end) || end < begin) {
        return phi_fail(err, PHI_E_FORMAT,
                        "%s: tensor \"%s\": \"data_offsets\" is not [begin, end]", label,
                        entry->name);
    }
    if (end - begin != entry->bytes) {
        return phi_fail(err, PHI_E_FORMAT,
                        "%s: tensor \"%s\" spans %llu bytes; its shape and dtype ask for %llu",
                        label, entry->name, (unsigned long long)(end - begin),
                        (unsigned long long)entry->bytes);
    }
    entry->offset = begin;
    return PHI_OK;
}

static phi_status read_entry(const json_t *info, const char *label, phi_tensor_entry *entry,
                             phi_err *err)
{
    size_t name_bytes = strlen(entry->name);
    if (name_bytes >= PHI_LIMIT_TENSOR_NAME_BYTES || !phi_name_is_clean(entry->name, name_bytes)) {
        return phi_fail(err, PHI_E_FORMAT,
                        "%s: a tensor's name is empty, holds control characters or is longer than "
                        "%u bytes",
                        label, PHI_LIMIT_TENSOR_NAME_BYTES - 1);
    }
    if (!json_is_object(info)) {
        return phi_fail(err, PHI_E_FORMAT, "%s: the entry of tensor \"%s\" is not an object", label,
                        entry->name);
    }
    phi_status status = read_dtype(info, label, entry, err);
    if (!status) {
        status = read_shape(info, label, entry, err);
    }
    if (!status) {
        status = read_offsets(info, label, entry, err);
    }
    return status;
}

static phi_status check_metadata(json_t *metadata, const char *label, phi_err *err)
{
    const char *key;
    json_t *value;
    /* The reference reader takes null, and MLX writes it. */
    bool strings = json_is_object(metadata) || json_is_null(metadata);
    json_object_foreach(metadata, key, value)
    {
        strings = strings && json_is_string(value);
    }
    if (!strings) {
        return phi_fail(err, PHI_E_FORMAT, "%s: \"__metadata__\" does not map strings to strings",
                        label);
    }
    return PHI_OK;
}

static int by_place(const void *left, const void *right)
{
    const phi_tensor_entry *a = left;
    const phi_tensor_entry *b = right;
    if (a->offset != b->offset) {
        return a->offset < b->offset ? -1 : 1;
    }
    /* Empty tensors come before the one that starts where they lie. */
    return a->bytes < b->bytes ? -1 : a->bytes > b->bytes;
}

/* The ranges must tile the data from its first byte to the end of the file. */
static phi_status check_places(phi_tensor_file *file, uint64_t data_start, phi_err *err)
{
    const char *label = phi_path_label(file->file.path);
    qsort(file->entries, file->count, sizeof *file->entries, by_place);
    uint64_t expected = 0;
    for (size_t i = 0; i < file->count; i++) {
        phi_tensor_entry *entry = &file->entries[i];
        if (entry->offset != expected) {
            return phi_fail(err, PHI_E_FORMAT,
                            "%s: tensor \"%s\" starts at data byte %llu; %s, so %llu is right",
                            label, entry->name, (unsigned long long)entry->offset,
                            entry->offset < expected ? "this overlaps the tensor before it"
                                                     : "this leaves a hole before it",
                            (unsigned long long)expected);
        }
        expected += entry->bytes;
        if (expected > file->file.bytes - data_start) {
            return phi_fail(err, PHI_E_FORMAT,
                            "%s: tensor \"%s\" reaches beyond the end of the file (%llu bytes)",
                            label, entry->name, (unsigned long long)file->file.bytes);
        }
        entry->offset += data_start;
    }
    if (expected != file->file.bytes - data_start) {
        return phi_fail(err, PHI_E_FORMAT, "%s has %llu bytes after the last tensor's end", label,
                        (unsigned long long)(file->file.bytes - data_start - expected));
    }
    return PHI_OK;
}

static phi_status allocate_entries(json_t *header, phi_tensor_file *file, phi_err *err)
{
    const char *label = phi_path_label(file->file.path);
    size_t count = json_object_size(header);
    if (count > PHI_LIMIT_TENSORS + 1) {
        return phi_fail(err, PHI_E_LIMIT, "%s holds %zu tensors; at most %u are accepted", label,
                        count, PHI_LIMIT_TENSORS);
    }
    size_t names_bytes = 1;
    const char *key;
    json_t *value;
    json_object_foreach(header, key, value)
    {
        names_bytes += strlen(key) + 1;
    }
    file->entries = phi_try_alloc_zero(count, sizeof *file->entries);
    file->names = phi_try_alloc(names_bytes);
    if (!file->entries || !file->names) {
        return phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for the header of %s", label);
    }
    return PHI_OK;
}

static phi_status read_entries(json_t *header, phi_tensor_file *file, phi_err *err)
{
    const char *label = phi_path_label(file->file.path);
    phi_status status = allocate_entries(header, file, err);
    if (status) {
        return status;
    }
    char *names = file->names;
    const char *key;
    json_t *info;
    json_object_foreach(header, key, info)
    {
        if (strcmp(key, "__metadata__") == 0) {
            status = check_metadata(info, label, err);
        } else {
            size_t bytes = strlen(key) + 1;
            phi_tensor_entry *entry = &file->entries[file->count++];
            entry->name = memcpy(names, key, bytes);
            names += bytes;
            status = read_entry(info, label, entry, err);
        }
        if (status) {
            return status;
        }
    }
    return PHI_OK;
}

/* Reads the header's text and says where the data begin. */
static phi_status read_header_text(const phi_file *file, char **out_text, size_t *out_bytes,
                                   phi_err *err)
{
    const char *label = phi_path_label(file->path);
    uint64_t bytes = 0;
    if (file->bytes < LENGTH_BYTES + 2) {
        return phi_fail(err, PHI_E_FORMAT, "%s has %llu bytes: too short for a safetensors file",
                        label, (unsigned long long)file->bytes);
    }
    phi_status status = phi_file_read_at(file, 0, &bytes, LENGTH_BYTES, err);
    if (status) {
        return status;
    }
    if (bytes < 2 || bytes > PHI_LIMIT_SAFETENSORS_HEADER_BYTES) {
        return phi_fail(err, PHI_E_FORMAT,
                        "%s: its header would have %llu bytes; safetensors allows 2 to %u", label,
                        (unsigned long long)bytes, PHI_LIMIT_SAFETENSORS_HEADER_BYTES);
    }
    if (bytes > file->bytes - LENGTH_BYTES) {
        return phi_fail(err, PHI_E_FORMAT,
                        "%s ends early: a header of %llu bytes in a file of %llu bytes", label,
                        (unsigned long long)bytes, (unsigned long long)file->bytes);
    }
    char *text = phi_try_alloc((size_t)bytes);
    if (!text) {
        return phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for the header of %s", label);
    }
    status = phi_file_read_at(file, LENGTH_BYTES, text, (size_t)bytes, err);
    if (!status && text[0] != '{') {
        status = phi_fail(err, PHI_E_FORMAT, "%s: its header does not start with \"{\"", label);
    }
    if (status) {
        phi_free(text);
        return status;
    }
    *out_text = text;
    *out_bytes = (size_t)bytes;
    return PHI_OK;
}

phi_status phi_safetensors_open(const char *path, phi_tensor_file *out_file, phi_err *err)
{
    phi_tensor_file file = {.count = 0};
    phi_status status = phi_file_open(path, &file.file, err);
    if (status) {
        return status;
    }
    char *text = NULL;
    size_t bytes = 0;
    json_t *header = NULL;
    status = read_header_text(&file.file, &text, &bytes, err);
    if (!status) {
        status = phi_json_parse_object(text, bytes, phi_path_label(path), &header, err);
        phi_free(text);
    }
    if (!status) {
        status = read_entries(header, &file, err);
    }
    if (!status) {
        status = check_places(&file, LENGTH_BYTES + bytes, err);
    }
    json_decref(header);
    if (status) {
        phi_tensor_file_close(&file);
        return status;
    }
    *out_file = file;
    return PHI_OK;
}
