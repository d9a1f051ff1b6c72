/*
 * Reading GGUF. One pass over the header through a window of the file; nothing is believed before
 * it is compared with what is left of the file:
 *   1. a count of n things, each at least k bytes long, needs n * k bytes to be left;
 *   2. what is kept of the metadata comes from one arena with a cap;
 *   3. tensors are placed only after all of the header is read: inside the file, aligned, apart.
 */
#include "engine/formats/gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "base/strmap.h"
#include "engine/formats/ggml_types.h"
#include "engine/formats/gguf_internal.h"
#include "engine/formats/text_check.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are read as stored");

#define WINDOW_BYTES ((size_t)64 << 10)
#define ALIGNMENT_DEFAULT 32U
#define ALIGNMENT_MAX (1U << 20)
#define KEY_BYTES_MAX 65535U      /* GGUF's own limit */
#define TENSOR_NAME_BYTES_MAX 64U /* GGUF's own limit */
/* Shortest forms: string length, one letter, type, one byte; and name, n_dims, type, offset. */
#define VALUE_BYTES_MIN (8U + 1U + 4U + 1U)
#define TENSOR_BYTES_MIN (8U + 1U + 4U + 4U + 8U)

/* The state of one pass. */
typedef struct reader {
    phi_gguf *gguf;
    const char *label;
    uint64_t at; /* next byte of the file */
    uint8_t *window;
    uint64_t window_start;
    size_t window_bytes;
    phi_err *err;
} reader;

static uint64_t left(const reader *r)
{
    return r->gguf->file.bytes - r->at;
}

static phi_status fail_early(const reader *r, const char *what, uint64_t bytes)
{
    return phi_fail(r->err, PHI_E_FORMAT,
                    "%s ends early: %s at byte %llu needs %llu bytes, %llu are left", r->label,
                    what, (unsigned long long)r->at, (unsigned long long)bytes,
                    (unsigned long long)left(r));
}

/* The next `bytes` bytes, which are known to be left. */
static phi_status take(reader *r, void *data, size_t bytes)
{
    uint8_t *out = data;
    while (bytes > 0) {
        if (r->at < r->window_start || r->at >= r->window_start + r->window_bytes) {
            size_t want = left(r) < WINDOW_BYTES ? (size_t)left(r) : WINDOW_BYTES;
            phi_status status = phi_file_read_at(&r->gguf->file, r->at, r->window, want, r->err);
            if (status) {
                return status;
            }
            r->window_start = r->at;
            r->window_bytes = want;
        }
        size_t from = (size_t)(r->at - r->window_start);
        size_t now = r->window_bytes - from < bytes ? r->window_bytes - from : bytes;
        memcpy(out, r->window + from, now);
        out += now;
        bytes -= now;
        r->at += now;
    }
    return PHI_OK;
}

/* A number of `bytes` bytes, zero-extended. */
static phi_status take_number(reader *r, const char *what, size_t bytes, uint64_t *out)
{
    if (left(r) < bytes) {
        return fail_early(r, what, bytes);
    }
    uint64_t value = 0;
    phi_status status = take(r, &value, bytes);
    if (!status) {
        *out = value;
    }
    return status;
}

static phi_status take_u32(reader *r, const char *what, uint32_t *out)
{
    uint64_t value = 0;
    phi_status status = take_number(r, what, sizeof *out, &value);
    if (!status) {
        *out = (uint32_t)value;
    }
    return status;
}

static void *keep(reader *r, uint64_t bytes, phi_status *status)
{
    phi_arena *arena = &r->gguf->arena;
    void *data = bytes <= SIZE_MAX ? phi_arena_take(arena, (size_t)bytes) : NULL;
    if (!data) {
        *status = arena->full ? phi_fail(r->err, PHI_E_LIMIT,
                                         "%s: its metadata need more than %u bytes of memory",
                                         r->label, PHI_LIMIT_GGUF_METADATA_BYTES)
                              : phi_fail(r->err, PHI_E_NO_MEMORY,
                                         "not enough memory for the metadata of %s", r->label);
    }
    return data;
}

static phi_status take_string(reader *r, const char *what, size_t max_bytes, phi_gguf_string *out)
{
    uint64_t bytes = 0;
    phi_status status = take_number(r, what, sizeof bytes, &bytes);
    if (status) {
        return status;
    }
    if (bytes > left(r)) {
        return fail_early(r, what, bytes);
    }
    if (bytes > max_bytes) {
        return phi_fail(r->err, PHI_E_LIMIT, "%s: %s has %llu bytes; at most %zu are accepted",
                        r->label, what, (unsigned long long)bytes, max_bytes);
    }
    char *text = keep(r, bytes + 1, &status);
    if (!text) {
        return status;
    }
    status = take(r, text, (size_t)bytes);
    text[status ? 0 : bytes] = '\0';
    *out = (phi_gguf_string){.text = text, .bytes = (size_t)bytes};
    return status;
}

static phi_status take_type(reader *r, const char *key, phi_gguf_type *out)
{
    uint32_t type = 0;
    phi_status status = take_u32(r, "a value's type", &type);
    if (status) {
        return status;
    }
    if (type > PHI_GGUF_F64) {
        return phi_fail(r->err, PHI_E_FORMAT, "%s: key \"%.80s\" has type %u; GGUF defines 0 to %d",
                        r->label, key, type, PHI_GGUF_F64);
    }
    *out = (phi_gguf_type)type;
    return PHI_OK;
}

static phi_status set_number(reader *r, phi_gguf_value *value, uint64_t bits)
{
    switch (value->type) {
    case PHI_GGUF_BOOL:
        if (bits > 1) {
            return phi_fail(r->err, PHI_E_FORMAT, "%s: key \"%.80s\" is a bool of value %u",
                            r->label, value->key, (unsigned)bits);
        }
        value->as.u64 = bits;
        return PHI_OK;
    case PHI_GGUF_I8:
    case PHI_GGUF_I16:
    case PHI_GGUF_I32:
    case PHI_GGUF_I64:
        value->as.i64 = phi_gguf_extend(bits, phi_gguf_number_bytes(value->type));
        return PHI_OK;
    case PHI_GGUF_F32:
        value->as.f64 = (double)phi_gguf_float_of_bits((uint32_t)bits);
        return PHI_OK;
    case PHI_GGUF_F64:
        value->as.f64 = phi_gguf_double_of_bits(bits);
        return PHI_OK;
    case PHI_GGUF_U8:
    case PHI_GGUF_U16:
    case PHI_GGUF_U32:
    case PHI_GGUF_U64:
    case PHI_GGUF_STRING:
    case PHI_GGUF_ARRAY:
        break;
    }
    value->as.u64 = bits;
    return PHI_OK;
}

static phi_status take_array(reader *r, phi_gguf_value *value)
{
    phi_status status = take_type(r, value->key, &value->element_type);
    if (!status) {
        status = take_number(r, "an array's length", sizeof value->count, &value->count);
    }
    if (status) {
        return status;
    }
    if (value->element_type == PHI_GGUF_ARRAY) {
        return phi_fail(r->err, PHI_E_UNSUPPORTED,
                        "%s: key \"%.80s\" is an array of arrays, which is not supported", r->label,
                        value->key);
    }
    if (value->count > PHI_LIMIT_GGUF_ARRAY_COUNT) {
        return phi_fail(r->err, PHI_E_LIMIT,
                        "%s: key \"%.80s\" has %llu elements; at most %u are accepted", r->label,
                        value->key, (unsigned long long)value->count, PHI_LIMIT_GGUF_ARRAY_COUNT);
    }
    bool strings = value->element_type == PHI_GGUF_STRING;
    uint64_t bytes =
        value->count * (strings ? sizeof(uint64_t) : phi_gguf_number_bytes(value->element_type));
    if (bytes > left(r)) {
        return fail_early(r, value->key, bytes);
    }
    if (!strings) {
        void *numbers = keep(r, bytes, &status);
        value->as.numbers = numbers;
        return numbers ? take(r, numbers, (size_t)bytes) : status;
    }
    phi_gguf_string *list = keep(r, value->count * sizeof *list, &status);
    for (uint64_t i = 0; list && i < value->count && !status; i++) {
        status = take_string(r, value->key, PHI_LIMIT_GGUF_STRING_BYTES, &list[i]);
    }
    value->as.strings = list;
    return status;
}

static phi_status take_value(reader *r, phi_gguf_value *value)
{
    phi_gguf_string key = {.text = ""};
    phi_status status = take_string(r, "a key", KEY_BYTES_MAX, &key);
    if (status) {
        return status;
    }
    if (!phi_name_is_clean(key.text, key.bytes)) {
        return phi_fail(r->err, PHI_E_FORMAT, "%s: a key before byte %llu is not readable text",
                        r->label, (unsigned long long)r->at);
    }
    value->key = key.text;
    value->count = 1;
    status = take_type(r, value->key, &value->type);
    if (status) {
        return status;
    }
    if (value->type == PHI_GGUF_ARRAY) {
        return take_array(r, value);
    }
    value->element_type = value->type;
    if (value->type == PHI_GGUF_STRING) {
        return take_string(r, value->key, PHI_LIMIT_GGUF_STRING_BYTES, &value->as.string);
    }
    uint64_t bits = 0;
    status = take_number(r, value->key, phi_gguf_number_bytes(value->type), &bits);
    return status ? status : set_number(r, value, bits);
}

/* Enters a name that must be new. */
static phi_status index_name(reader *r, phi_strmap *map, const char *name, const char *what,
                             size_t index)
{
    phi_status status = phi_strmap_insert(map, name, strlen(name), (uint32_t)index);
    if (status == PHI_E_EXISTS) {
        return phi_fail(r->err, PHI_E_FORMAT, "%s: %s \"%.80s\" occurs twice", r->label, what,
                        name);
    }
    if (status) {
        return phi_fail(r->err, status, "not enough memory for the metadata of %s", r->label);
    }
    return PHI_OK;
}

static phi_status take_values(reader *r, uint64_t count)
{
    phi_gguf *gguf = r->gguf;
    gguf->values = phi_try_alloc_zero((size_t)count, sizeof *gguf->values);
    gguf->value_index = phi_strmap_create((size_t)count);
    if (!gguf->values || !gguf->value_index) {
        return phi_fail(r->err, PHI_E_NO_MEMORY, "not enough memory for the metadata of %s",
                        r->label);
    }
    for (size_t i = 0; i < count; i++) {
        phi_gguf_value *value = &gguf->values[i];
        phi_status status = take_value(r, value);
        if (!status) {
            status = index_name(r, gguf->value_index, value->key, "key", i);
        }
        if (status) {
            return status;
        }
        gguf->value_count++;
    }
    return PHI_OK;
}

/* Fills dtype and bytes from the type's number; an unknown number has no size to check. */
static phi_status set_type(reader *r, phi_tensor_entry *entry, uint32_t number)
{
    const phi_ggml_type *type = phi_ggml_type_find(number);
    if (!type) {
        phi_status status = PHI_OK;
        char *name = keep(r, 16, &status);
        if (name) {
            (void)snprintf(name, 16, "type %u", number);
        }
        entry->dtype_name = name;
        return status;
    }
    entry->readable = phi_dtype_of_ggml(number, &entry->dtype);
    entry->dtype_name = type->name;
    uint64_t cols = phi_tensor_entry_cols(entry);
    uint64_t bytes = cols / type->block_elements;
    if (cols % type->block_elements != 0) {
        return phi_fail(r->err, PHI_E_FORMAT,
                        "%s: tensor \"%s\" has rows of %llu elements; %s needs a multiple of %u",
                        r->label, entry->name, (unsigned long long)cols, type->name,
                        type->block_elements);
    }
    bool fits = phi_checked_mul(bytes, type->block_bytes, &bytes);
    for (uint32_t i = 0; fits && i + 1 < entry->n_dims; i++) {
        fits = phi_checked_mul(bytes, entry->dims[i], &bytes);
    }
    if (!fits) {
        return phi_fail(r->err, PHI_E_FORMAT, "%s: the size of tensor \"%s\" overflows", r->label,
                        entry->name);
    }
    entry->bytes = bytes;
    return PHI_OK;
}

static phi_status take_dims(reader *r, phi_tensor_entry *entry)
{
    phi_status status = take_u32(r, entry->name, &entry->n_dims);
    if (status) {
        return status;
    }
    if (entry->n_dims > PHI_LIMIT_TENSOR_DIMS) {
        return phi_fail(r->err, PHI_E_FORMAT, "%s: tensor \"%s\" has %u dimensions; at most %u",
                        r->label, entry->name, entry->n_dims, PHI_LIMIT_TENSOR_DIMS);
    }
    for (uint32_t i = entry->n_dims; i-- > 0;) {
        /* The file lists the contiguous dimension first, PyTorch last. */
        status = take_number(r, entry->name, sizeof entry->dims[i], &entry->dims[i]);
        if (status) {
            return status;
        }
        if (entry->dims[i] == 0 || entry->dims[i] > INT64_MAX) {
            return phi_fail(r->err, PHI_E_FORMAT, "%s: tensor \"%s\" has a dimension of %llu",
                            r->label, entry->name, (unsigned long long)entry->dims[i]);
        }
    }
    return PHI_OK;
}

static phi_status take_tensor(reader *r, phi_tensor_entry *entry)
{
    phi_gguf_string name = {.text = ""};
    phi_status status = take_string(r, "a tensor's name", TENSOR_NAME_BYTES_MAX, &name);
    if (status) {
        return status;
    }
    if (!phi_name_is_clean(name.text, name.bytes)) {
        return phi_fail(r->err, PHI_E_FORMAT,
                        "%s: a tensor's name before byte %llu is not readable text", r->label,
                        (unsigned long long)r->at);
    }
    entry->name = name.text;
    status = take_dims(r, entry);
    uint32_t type = 0;
    if (!status) {
        status = take_u32(r, entry->name, &type);
    }
    if (!status) {
        status = set_type(r, entry, type);
    }
    if (!status) {
        status = take_number(r, entry->name, sizeof entry->offset, &entry->offset);
    }
    return status;
}

static phi_status take_tensors(reader *r, uint64_t count)
{
    phi_gguf *gguf = r->gguf;
    gguf->tensors = phi_try_alloc_zero((size_t)count, sizeof *gguf->tensors);
    phi_strmap *names = phi_strmap_create((size_t)count);
    if (!gguf->tensors || !names) {
        phi_strmap_destroy(names);
        return phi_fail(r->err, PHI_E_NO_MEMORY, "not enough memory for the tensor list of %s",
                        r->label);
    }
    phi_status status = PHI_OK;
    for (size_t i = 0; i < count && !status; i++) {
        status = take_tensor(r, &gguf->tensors[i]);
        if (!status) {
            status = index_name(r, names, gguf->tensors[i].name, "tensor", i);
        }
        gguf->tensor_count += !status;
    }
    phi_strmap_destroy(names);
    return status;
}

static phi_status get_alignment(reader *r, uint32_t *out)
{
    const phi_gguf_value *value = phi_gguf_find(r->gguf, "general.alignment");
    uint32_t alignment = ALIGNMENT_DEFAULT;
    if (value && (!phi_gguf_get_u32(r->gguf, "general.alignment", &alignment) || alignment == 0 ||
                  alignment % 8 != 0 || alignment > ALIGNMENT_MAX)) {
        return phi_fail(r->err, PHI_E_FORMAT,
                        "%s: general.alignment is not a multiple of 8 between 8 and %u", r->label,
                        ALIGNMENT_MAX);
    }
    *out = alignment;
    return PHI_OK;
}

static int by_offset(const void *left_entry, const void *right_entry)
{
    const phi_tensor_entry *a = *(const phi_tensor_entry *const *)left_entry;
    const phi_tensor_entry *b = *(const phi_tensor_entry *const *)right_entry;
    return a->offset < b->offset ? -1 : a->offset > b->offset;
}

static phi_status check_apart(reader *r)
{
    phi_gguf *gguf = r->gguf;
    const phi_tensor_entry **order = phi_try_alloc_zero(gguf->tensor_count, sizeof *order);
    if (!order) {
        return phi_fail(r->err, PHI_E_NO_MEMORY, "not enough memory for the tensor list of %s",
                        r->label);
    }
    for (size_t i = 0; i < gguf->tensor_count; i++) {
        order[i] = &gguf->tensors[i];
    }
    qsort(order, gguf->tensor_count, sizeof *order, by_offset);
    phi_status status = PHI_OK;
    for (size_t i = 1; i < gguf->tensor_count && !status; i++) {
        if (order[i]->offset - order[i - 1]->offset < order[i - 1]->bytes) {
            status = phi_fail(r->err, PHI_E_FORMAT, "%s: tensors \"%s\" and \"%s\" overlap",
                              r->label, order[i - 1]->name, order[i]->name);
        }
    }
    phi_free(order);
    return status;
}

/* Turns relative offsets into places in the file. */
static phi_status place_tensors(reader *r)
{
    phi_gguf *gguf = r->gguf;
    uint32_t alignment = ALIGNMENT_DEFAULT;
    phi_status status = get_alignment(r, &alignment);
    if (status || gguf->tensor_count == 0) {
        return status;
    }
    uint64_t start = (r->at + alignment - 1) / alignment * alignment;
    for (size_t i = 0; i < gguf->tensor_count; i++) {
        phi_tensor_entry *entry = &gguf->tensors[i];
        if (entry->offset % alignment != 0) {
            return phi_fail(r->err, PHI_E_FORMAT,
                            "%s: tensor \"%s\" is at data byte %llu, not a multiple of %u",
                            r->label, entry->name, (unsigned long long)entry->offset, alignment);
        }
        if (start > gguf->file.bytes ||
            !phi_checked_range(entry->offset, entry->bytes, gguf->file.bytes - start)) {
            return phi_fail(r->err, PHI_E_FORMAT,
                            "%s: tensor \"%s\" (%llu bytes at data byte %llu) reaches beyond the "
                            "end of the file (%llu bytes)",
                            r->label, entry->name, (unsigned long long)entry->bytes,
                            (unsigned long long)entry->offset,
                            (unsigned long long)gguf->file.bytes);
        }
        entry->offset += start;
    }
    return check_apart(r);
}

static phi_status take_version(reader *r)
{
    uint8_t magic[4];
    if (left(r) < sizeof magic + sizeof(uint32_t)) {
        return fail_early(r, "the magic and version", sizeof magic + sizeof(uint32_t));
    }
    uint32_t version = 0;
    phi_status status = take(r, magic, sizeof magic);
    if (!status) {
        status = take_u32(r, "the version", &version);
    }
    if (status) {
        return status;
    }
    if (memcmp(magic, "GGUF", sizeof magic) != 0) {
        return phi_fail(r->err, PHI_E_FORMAT, "%s is not a GGUF file: it does not start with GGUF",
                        r->label);
    }
    if (version != 0 && (version & 0xFFFFU) == 0) {
        return phi_fail(r->err, PHI_E_UNSUPPORTED,
                        "%s is a big-endian GGUF file; only little-endian ones are supported",
                        r->label);
    }
    if (version != 2 && version != 3) {
        return phi_fail(r->err, PHI_E_UNSUPPORTED,
                        "%s has GGUF version %u; versions 2 and 3 are supported", r->label,
                        version);
    }
    r->gguf->version = version;
    return PHI_OK;
}

/* A count that the rest of the file must be long enough for. */
static phi_status take_count(reader *r, const char *what, uint64_t bytes_min, uint64_t max,
                             uint64_t *out)
{
    uint64_t count = 0;
    phi_status status = take_number(r, what, sizeof count, &count);
    if (status) {
        return status;
    }
    if (count > left(r) / bytes_min) {
        return phi_fail(r->err, PHI_E_FORMAT,
                        "%s: %s of %llu does not fit in the file (%llu bytes)", r->label, what,
                        (unsigned long long)count, (unsigned long long)r->gguf->file.bytes);
    }
    if (count > max) {
        return phi_fail(r->err, PHI_E_LIMIT, "%s: %s of %llu; at most %llu are accepted", r->label,
                        what, (unsigned long long)count, (unsigned long long)max);
    }
    *out = count;
    return PHI_OK;
}

static phi_status read_all(reader *r)
{
    uint64_t tensors = 0;
    uint64_t values = 0;
    phi_status status = take_version(r);
    if (!status) {
        status = take_count(r, "a tensor count", TENSOR_BYTES_MIN, PHI_LIMIT_TENSORS, &tensors);
    }
    if (!status) {
        status = take_count(r, "a key count", VALUE_BYTES_MIN, PHI_LIMIT_GGUF_KEYS, &values);
    }
    if (!status) {
        status = take_values(r, values);
    }
    if (!status) {
        status = take_tensors(r, tensors);
    }
    if (!status) {
        status = place_tensors(r);
    }
    return status;
}

phi_status phi_gguf_open(const char *path, phi_gguf **out_gguf, phi_err *err)
{
    phi_gguf *gguf = phi_alloc_zero(1, sizeof *gguf);
    phi_arena_init(&gguf->arena, PHI_LIMIT_GGUF_METADATA_BYTES);
    phi_status status = phi_file_open(path, &gguf->file, err);
    if (status) {
        phi_free(gguf);
        return status;
    }
    reader r = {.gguf = gguf, .label = phi_path_label(gguf->file.path), .err = err};
    r.window = phi_alloc(WINDOW_BYTES);
    status = read_all(&r);
    phi_free(r.window);
    if (status) {
        phi_gguf_close(gguf);
        return status;
    }
    *out_gguf = gguf;
    return PHI_OK;
}

void phi_gguf_close(phi_gguf *gguf)
{
    if (gguf) {
        phi_file_close(&gguf->file);
        phi_arena_done(&gguf->arena);
        phi_strmap_destroy(gguf->value_index);
        phi_free(gguf->values);
        phi_free(gguf->tensors);
        phi_free(gguf);
    }
}
