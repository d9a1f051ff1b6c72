/*
 * Writing GGUF. States, in order, and what each allows:
 *   open      put_* and declare_tensor collect the header in memory;
 *   data      after write_header: write_data, in the order of the declarations;
 *   destroyed after commit or abort.
 * put_* and declare_tensor return nothing: the first failure is kept and write_header reports it.
 */
#include "engine/formats/gguf.h"

#include <string.h>

#include "base/assert.h"
#include "base/buf.h"
#include "base/checked.h"
#include "base/file.h"
#include "base/mem.h"
#include "engine/formats/text_check.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are written as held");

#define VERSION 3U
#define ALIGNMENT 32U             /* GGUF's default, so that no key needs to say it */
#define TENSOR_NAME_BYTES_MAX 63U /* ggml keeps names in 64 bytes with the NUL */

typedef struct declared {
    char name[TENSOR_NAME_BYTES_MAX + 1];
    phi_dtype dtype;
    uint32_t n_dims;
    uint64_t dims[PHI_LIMIT_TENSOR_DIMS]; /* PyTorch order */
    uint64_t offset;                      /* from the start of the data */
    uint64_t bytes;
} declared;

struct phi_gguf_writer {
    phi_file_writer *file;
    char *label;
    phi_err failed; /* the first failure before the header is written */
    phi_buf values;
    char **keys; /* [value_count], to find duplicates */
    size_t value_count;
    declared *tensors;
    size_t tensor_count;
    size_t tensor_capacity;
    uint64_t data_bytes; /* of all declared tensors, padding included */
    bool header_written;
    size_t current;         /* tensor being written */
    uint64_t current_bytes; /* of it, already written */
};

phi_status phi_gguf_writer_create(const char *path, phi_gguf_writer **out_writer, phi_err *err)
{
    phi_file_writer *file;
    phi_status status = phi_file_writer_create(path, &file, err);
    if (status) {
        return status;
    }
    phi_gguf_writer *writer = phi_alloc_zero(1, sizeof *writer);
    writer->file = file;
    writer->label = phi_strdup(phi_path_label(path));
    phi_buf_init(&writer->values, PHI_LIMIT_GGUF_METADATA_BYTES);
    *out_writer = writer;
    return PHI_OK;
}

static void writer_free(phi_gguf_writer *writer)
{
    for (size_t i = 0; i < writer->value_count; i++) {
        phi_free(writer->keys[i]);
    }
    phi_free(writer->keys);
    phi_free(writer->tensors);
    phi_buf_done(&writer->values);
    phi_free(writer->label);
    phi_free(writer);
}

void phi_gguf_writer_abort(phi_gguf_writer *writer)
{
    if (writer) {
        phi_file_writer_abort(writer->file);
        writer_free(writer);
    }
}

static uint64_t padded(uint64_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static void put_bytes(phi_gguf_writer *writer, const void *data, size_t bytes)
{
    /* The buffer remembers a failed append; write_header asks it. */
    (void)phi_buf_append(&writer->values, data, bytes);
}

static void put_length_and_text(phi_gguf_writer *writer, const char *text, size_t bytes)
{
    uint64_t length = bytes;
    put_bytes(writer, &length, sizeof length);
    put_bytes(writer, text, bytes);
}

/* Starts an entry; false when the key cannot be taken, and then nothing may follow. */
static bool put_key(phi_gguf_writer *writer, const char *key, phi_gguf_type type)
{
    PHI_ASSERT(!writer->header_written);
    if (writer->failed.code) {
        return false;
    }
    for (size_t i = 0; i < writer->value_count; i++) {
        if (strcmp(writer->keys[i], key) == 0) {
            (void)phi_fail(&writer->failed, PHI_E_EXISTS, "%s: key \"%s\" is written twice",
                           writer->label, key);
            return false;
        }
    }
    if (writer->value_count >= PHI_LIMIT_GGUF_KEYS) {
        (void)phi_fail(&writer->failed, PHI_E_LIMIT, "%s: more than %u metadata keys",
                       writer->label, PHI_LIMIT_GGUF_KEYS);
        return false;
    }
    writer->keys = phi_realloc(writer->keys, (writer->value_count + 1) * sizeof *writer->keys);
    writer->keys[writer->value_count++] = phi_strdup(key);
    put_length_and_text(writer, key, strlen(key));
    uint32_t number = (uint32_t)type;
    put_bytes(writer, &number, sizeof number);
    return true;
}

void phi_gguf_put_u32(phi_gguf_writer *writer, const char *key, uint32_t value)
{
    if (put_key(writer, key, PHI_GGUF_U32)) {
        put_bytes(writer, &value, sizeof value);
    }
}

void phi_gguf_put_f32(phi_gguf_writer *writer, const char *key, float value)
{
    if (put_key(writer, key, PHI_GGUF_F32)) {
        put_bytes(writer, &value, sizeof value);
    }
}

void phi_gguf_put_bool(phi_gguf_writer *writer, const char *key, bool value)
{
    uint8_t byte = value ? 1 : 0;
    if (put_key(writer, key, PHI_GGUF_BOOL)) {
        put_bytes(writer, &byte, sizeof byte);
    }
}

void phi_gguf_put_string(phi_gguf_writer *writer, const char *key, const char *text, size_t bytes)
{
    if (put_key(writer, key, PHI_GGUF_STRING)) {
        put_length_and_text(writer, text, bytes);
    }
}

static bool put_array(phi_gguf_writer *writer, const char *key, phi_gguf_type element, size_t count)
{
    if (!put_key(writer, key, PHI_GGUF_ARRAY)) {
        return false;
    }
    uint32_t type = (uint32_t)element;
    uint64_t length = count;
    put_bytes(writer, &type, sizeof type);
    put_bytes(writer, &length, sizeof length);
    return true;
}

void phi_gguf_put_strings(phi_gguf_writer *writer, const char *key, const phi_gguf_string *strings,
                          size_t count)
{
    if (put_array(writer, key, PHI_GGUF_STRING, count)) {
        for (size_t i = 0; i < count; i++) {
            put_length_and_text(writer, strings[i].text, strings[i].bytes);
        }
    }
}

void phi_gguf_put_f32s(phi_gguf_writer *writer, const char *key, const float *values, size_t count)
{
    if (put_array(writer, key, PHI_GGUF_F32, count)) {
        put_bytes(writer, values, count * sizeof *values);
    }
}

void phi_gguf_put_i32s(phi_gguf_writer *writer, const char *key, const int32_t *values,
                       size_t count)
{
    if (put_array(writer, key, PHI_GGUF_I32, count)) {
        put_bytes(writer, values, count * sizeof *values);
    }
}

/* Room for one more; failing that, the failure is kept. */
static declared *next_declared(phi_gguf_writer *writer)
{
    if (writer->tensor_count >= PHI_LIMIT_TENSORS) {
        (void)phi_fail(&writer->failed, PHI_E_LIMIT, "%s: more than %u tensors", writer->label,
                       PHI_LIMIT_TENSORS);
        return NULL;
    }
    if (writer->tensor_count == writer->tensor_capacity) {
        size_t capacity = writer->tensor_capacity ? writer->tensor_capacity * 2 : 64;
        declared *grown = phi_try_realloc(writer->tensors, capacity * sizeof *grown);
        if (!grown) {
            (void)phi_fail(&writer->failed, PHI_E_NO_MEMORY,
                           "not enough memory for the tensor list of %s", writer->label);
            return NULL;
        }
        writer->tensors = grown;
        writer->tensor_capacity = capacity;
    }
    return &writer->tensors[writer->tensor_count];
}

static bool is_declared(const phi_gguf_writer *writer, const char *name)
{
    for (size_t i = 0; i < writer->tensor_count; i++) {
        if (strcmp(writer->tensors[i].name, name) == 0) {
            return true;
        }
    }
    return false;
}

/* Bytes of a tensor, padding not included; false when they cannot be counted. */
static bool tensor_bytes(phi_dtype dtype, uint32_t n_dims, const uint64_t *dims, uint64_t *out)
{
    uint64_t bytes;
    if (!phi_dtype_row_bytes(dtype, n_dims ? dims[n_dims - 1] : 1, &bytes)) {
        return false;
    }
    for (uint32_t i = 0; i + 1 < n_dims; i++) {
        if (!phi_checked_mul(bytes, dims[i], &bytes)) {
            return false;
        }
    }
    *out = bytes;
    return bytes > 0 && bytes <= INT64_MAX / 2;
}

void phi_gguf_declare_tensor(phi_gguf_writer *writer, const char *name, phi_dtype dtype,
                             uint32_t n_dims, const uint64_t *dims)
{
    PHI_ASSERT(!writer->header_written && n_dims <= PHI_LIMIT_TENSOR_DIMS);
    declared *tensor = writer->failed.code ? NULL : next_declared(writer);
    if (!tensor) {
        return;
    }
    *tensor = (declared){.dtype = dtype, .n_dims = n_dims, .offset = writer->data_bytes};
    size_t name_bytes = strlen(name);
    if (name_bytes == 0 || name_bytes > TENSOR_NAME_BYTES_MAX) {
        (void)phi_fail(&writer->failed, PHI_E_UNSUPPORTED,
                       "%s: tensor name \"%.80s\" does not have 1 to %u bytes", writer->label, name,
                       TENSOR_NAME_BYTES_MAX);
        return;
    }
    if (is_declared(writer, name)) {
        (void)phi_fail(&writer->failed, PHI_E_EXISTS, "%s: tensor \"%s\" is declared twice",
                       writer->label, name);
        return;
    }
    if (!tensor_bytes(dtype, n_dims, dims, &tensor->bytes) ||
        !phi_checked_add(writer->data_bytes, padded(tensor->bytes), &writer->data_bytes)) {
        (void)phi_fail(&writer->failed, PHI_E_UNSUPPORTED,
                       "%s: tensor \"%s\" has a shape that %s cannot hold", writer->label, name,
                       phi_dtype_get(dtype)->name);
        return;
    }
    memcpy(tensor->name, name, name_bytes + 1);
    for (uint32_t i = 0; i < n_dims; i++) {
        tensor->dims[i] = dims[i];
    }
    writer->tensor_count++;
}

static void put_tensor_info(phi_buf *header, const declared *tensor)
{
    uint64_t name_bytes = strlen(tensor->name);
    uint32_t type = phi_dtype_get(tensor->dtype)->ggml_type;
    (void)phi_buf_append(header, &name_bytes, sizeof name_bytes);
    (void)phi_buf_append(header, tensor->name, (size_t)name_bytes);
    (void)phi_buf_append(header, &tensor->n_dims, sizeof tensor->n_dims);
    for (uint32_t i = tensor->n_dims; i-- > 0;) {
        (void)phi_buf_append(header, &tensor->dims[i], sizeof tensor->dims[i]);
    }
    (void)phi_buf_append(header, &type, sizeof type);
    (void)phi_buf_append(header, &tensor->offset, sizeof tensor->offset);
}

static phi_status write_zeros(phi_gguf_writer *writer, uint64_t bytes, phi_err *err)
{
    static const uint8_t zeros[ALIGNMENT];
    PHI_ASSERT(bytes < ALIGNMENT);
    return phi_file_writer_append(writer->file, zeros, (size_t)bytes, err);
}

phi_status phi_gguf_write_header(phi_gguf_writer *writer, phi_err *err)
{
    PHI_ASSERT(!writer->header_written);
    if (writer->failed.code) {
        return phi_fail(err, writer->failed.code, "%s", writer->failed.message);
    }
    if (phi_buf_failed(&writer->values)) {
        return phi_fail(err, writer->values.failed, "%s: its metadata are too large to write",
                        writer->label);
    }
    const uint32_t version = VERSION;
    const uint64_t counts[2] = {writer->tensor_count, writer->value_count};
    phi_buf front;
    phi_buf infos;
    phi_buf_init(&front, 64);
    phi_buf_init(&infos, PHI_LIMIT_GGUF_METADATA_BYTES);
    (void)phi_buf_append(&front, "GGUF", 4);
    (void)phi_buf_append(&front, &version, sizeof version);
    (void)phi_buf_append(&front, counts, sizeof counts);
    for (size_t i = 0; i < writer->tensor_count; i++) {
        put_tensor_info(&infos, &writer->tensors[i]);
    }
    const phi_buf *parts[] = {&front, &writer->values, &infos};
    phi_status status = PHI_OK;
    if (phi_buf_failed(&front) || phi_buf_failed(&infos)) {
        status =
            phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for the header of %s", writer->label);
    }
    for (size_t i = 0; i < 3 && !status; i++) {
        status = phi_file_writer_append(writer->file, phi_buf_text(parts[i]),
                                        parts[i]->length_bytes, err);
    }
    uint64_t bytes = phi_file_writer_bytes(writer->file);
    if (!status) {
        status = write_zeros(writer, padded(bytes) - bytes, err);
    }
    phi_buf_done(&front);
    phi_buf_done(&infos);
    writer->header_written = !status;
    return status;
}

phi_status phi_gguf_write_data(phi_gguf_writer *writer, const void *data, size_t bytes,
                               phi_err *err)
{
    PHI_ASSERT(writer->header_written);
    if (bytes == 0) {
        return PHI_OK;
    }
    PHI_ASSERT(writer->current < writer->tensor_count);
    const declared *tensor = &writer->tensors[writer->current];
    PHI_ASSERT(bytes <= tensor->bytes - writer->current_bytes);
    phi_status status = phi_file_writer_append(writer->file, data, bytes, err);
    if (status) {
        return status;
    }
    writer->current_bytes += bytes;
    if (writer->current_bytes < tensor->bytes) {
        return PHI_OK;
    }
    writer->current++;
    writer->current_bytes = 0;
    return write_zeros(writer, padded(tensor->bytes) - tensor->bytes, err);
}

phi_status phi_gguf_writer_commit(phi_gguf_writer *writer, phi_err *err)
{
    phi_status status = PHI_OK;
    if (!writer->header_written) {
        status = phi_fail(err, PHI_E_STATE, "%s: its header was not written", writer->label);
    } else if (writer->current < writer->tensor_count) {
        status = phi_fail(err, PHI_E_STATE, "%s: tensor \"%s\" was not written whole",
                          writer->label, writer->tensors[writer->current].name);
    }
    if (status) {
        phi_gguf_writer_abort(writer);
        return status;
    }
    status = phi_file_writer_commit(writer->file, err);
    writer_free(writer);
    return status;
}
