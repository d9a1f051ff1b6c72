#include "torch_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "engine/tensor/dtype.h"
#include "engine/tensor/half.h"

void put_bytes(phi_buf *buf, const void *data, size_t bytes)
{
    assert_int_equal(phi_buf_append(buf, data, bytes), PHI_OK);
}

void pickle_text(phi_buf *buf, const char *text)
{
    put_bytes(buf, "X", 1);
    put_u32(buf, (uint32_t)strlen(text));
    put_bytes(buf, text, strlen(text));
}

void pickle_int(phi_buf *buf, int64_t number)
{
    put_bytes(buf, "\x8a\x08", 2);
    put_bytes(buf, &number, sizeof number);
}

static void pickle_sizes(phi_buf *buf, const int64_t *sizes, int count)
{
    put_bytes(buf, "(", 1);
    for (int i = 0; i < count; i++) {
        pickle_int(buf, sizes[i]);
    }
    put_bytes(buf, "t", 1);
}

void pickle_tensor(phi_buf *buf, const torch_tensor *tensor, bool stream)
{
    (void)phi_buf_append_str(buf, "ctorch._utils\n_rebuild_tensor_v2\n((");
    pickle_text(buf, "storage");
    (void)phi_buf_printf(buf, "ctorch\n%s\n", tensor->type);
    pickle_text(buf, tensor->key);
    pickle_text(buf, "cpu");
    pickle_int(buf, tensor->elements);
    (void)phi_buf_append_str(buf, stream ? "NtQ" : "tQ");
    pickle_int(buf, tensor->offset);
    pickle_sizes(buf, tensor->size, tensor->n_dims);
    pickle_sizes(buf, tensor->stride, tensor->n_dims);
    (void)phi_buf_append_str(buf, "\x89"
                                  "ccollections\nOrderedDict\n)RtR");
}

void pickle_dict(phi_buf *buf, const torch_tensor *tensors, size_t count, bool stream)
{
    put_bytes(buf, "\x80\x02}(", 4);
    for (size_t i = 0; i < count; i++) {
        pickle_text(buf, tensors[i].name);
        pickle_tensor(buf, &tensors[i], stream);
    }
    put_bytes(buf, "u.", 2);
}

/* ---- zip ---- */

static void put_u16(phi_buf *buf, uint16_t value)
{
    put_bytes(buf, &value, sizeof value);
}

void zip_start(zip_builder *zip, bool zip64)
{
    *zip = (zip_builder){.zip64 = zip64};
    phi_buf_init(&zip->file, 1U << 25);
    phi_buf_init(&zip->directory, 1U << 24);
}

void zip_add(zip_builder *zip, const char *name, const void *data, size_t bytes)
{
    uint64_t offset = zip->file.length_bytes;
    uint32_t size = zip->zip64 ? UINT32_MAX : (uint32_t)bytes;
    uint16_t name_bytes = (uint16_t)strlen(name);
    phi_buf *file = &zip->file;
    put_bytes(file, "PK\x03\x04\0\0\x08\x08\0\0\0\0\0\0", 14);
    put_bytes(file, "\0\0\0\0\0\0\0\0\0\0\0\0", 12);
    put_u16(file, name_bytes);
    put_u16(file, 5); /* padding, as torch.save has it, though of no fixed length here */
    put_bytes(file, name, name_bytes);
    put_bytes(file, "FB\1\0Z", 5);
    put_bytes(file, data, bytes);
    put_bytes(file, "PK\x07\x08", 4); /* sizes again, which nobody reads */
    put_bytes(file, "\0\0\0\0\0\0\0\0\0\0\0\0", 12);
    phi_buf *directory = &zip->directory;
    put_bytes(directory, "PK\x01\x02\0\0\0\0\x08\x08\0\0\0\0\0\0\0\0\0\0", 20);
    put_u32(directory, size);
    put_u32(directory, size);
    put_u16(directory, name_bytes);
    put_u16(directory, zip->zip64 ? 33 : 0);
    put_bytes(directory, "\0\0\0\0\0\0\0\0\0\0", 10);
    put_u32(directory, zip->zip64 ? UINT32_MAX : (uint32_t)offset);
    put_bytes(directory, name, name_bytes);
    if (zip->zip64) {
        put_bytes(directory, "ZZ\1\0Z\1\0\x18\0", 9); /* another field first */
        put_u64(directory, bytes);
        put_u64(directory, bytes);
        put_u64(directory, offset);
    }
    zip->count++;
}

void zip_finish(zip_builder *zip)
{
    phi_buf *file = &zip->file;
    uint64_t offset = file->length_bytes;
    uint64_t bytes = zip->directory.length_bytes;
    put_bytes(file, zip->directory.data, bytes);
    phi_buf_done(&zip->directory);
    if (zip->zip64) {
        uint64_t record = file->length_bytes;
        put_bytes(file, "PK\x06\x06", 4);
        put_u64(file, 44);
        put_bytes(file, "\x1e\x03\x2d\0\0\0\0\0\0\0\0\0", 12);
        put_u64(file, zip->count);
        put_u64(file, zip->count);
        put_u64(file, bytes);
        put_u64(file, offset);
        put_bytes(file, "PK\x06\x07\0\0\0\0", 8);
        put_u64(file, record);
        put_u32(file, 1);
    }
    put_bytes(file, "PK\x05\x06\0\0\0\0", 8);
    put_u16(file, (uint16_t)zip->count);
    put_u16(file, (uint16_t)zip->count);
    put_u32(file, zip->zip64 ? UINT32_MAX : (uint32_t)bytes);
    put_u32(file, zip->zip64 ? UINT32_MAX : (uint32_t)offset);
    put_u16(file, 0);
}

/* ---- the older stream ---- */

void stream_start(phi_buf *buf, bool little_endian)
{
    put_bytes(buf, "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.",
              21);
    put_bytes(buf, "\x80\x02}q\0(", 6);
    pickle_text(buf, "protocol_version");
    put_bytes(buf, "M\xe9\x03", 3);
    pickle_text(buf, "little_endian");
    put_bytes(buf, little_endian ? "\x88" : "\x89", 1);
    pickle_text(buf, "type_sizes");
    put_bytes(buf, "}q\1(", 4);
    pickle_text(buf, "short");
    put_bytes(buf, "K\2uu.", 5);
}

void stream_keys(phi_buf *buf, const char *const *keys, size_t count)
{
    put_bytes(buf, "\x80\x02](", 4);
    for (size_t i = 0; i < count; i++) {
        pickle_text(buf, keys[i]);
    }
    put_bytes(buf, "e.", 2);
}

void stream_storage(phi_buf *buf, uint64_t elements, const void *data, size_t bytes)
{
    put_u64(buf, elements);
    put_bytes(buf, data, bytes);
}

/* ---- a whole model ---- */

static int64_t elements_of(const fixture_tensor *tensor)
{
    return (int64_t)(tensor->n_dims == 2 ? tensor->dims[0] * tensor->dims[1] : tensor->dims[0]);
}

static void append_elements(phi_buf *buf, const fixture_tensor *tensor)
{
    for (int64_t i = 0; i < elements_of(tensor); i++) {
        float value = fixture_value(tensor->seed, (uint64_t)i);
        uint16_t small =
            tensor->dtype == PHI_DTYPE_F16 ? phi_half_of_float(value) : phi_bf16_of_float(value);
        bool whole = tensor->dtype == PHI_DTYPE_F32;
        put_bytes(buf, whole ? (const void *)&value : &small, whole ? sizeof value : sizeof small);
    }
}

const char *fixture_write_torch(fixture *f, const char *name, const fixture_model *model,
                                size_t from, size_t to, bool stream)
{
    static char keys[FIXTURE_TENSORS_MAX][16];
    const char *key_list[FIXTURE_TENSORS_MAX];
    torch_tensor tensors[FIXTURE_TENSORS_MAX];
    phi_buf pickle;
    phi_buf data[FIXTURE_TENSORS_MAX];
    for (size_t i = from; i < to; i++) {
        const fixture_tensor *t = &model->tensors[i];
        bool two = t->n_dims == 2;
        (void)snprintf(keys[i], sizeof keys[i], "%s%u", stream ? "94" : "", t->seed);
        key_list[i] = keys[i];
        tensors[i] = (torch_tensor){t->name,
                                    t->dtype == PHI_DTYPE_F32   ? "FloatStorage"
                                    : t->dtype == PHI_DTYPE_F16 ? "HalfStorage"
                                                                : "BFloat16Storage",
                                    keys[i],
                                    elements_of(t),
                                    0,
                                    two ? 2 : 1,
                                    {(int64_t)t->dims[0], (int64_t)t->dims[1]},
                                    {two ? (int64_t)t->dims[1] : 1, 1}};
        phi_buf_init(&data[i], 1U << 24);
        append_elements(&data[i], t);
    }
    phi_buf_init(&pickle, 1U << 20);
    pickle_dict(&pickle, tensors + from, to - from, stream);
    phi_buf whole;
    if (stream) {
        phi_buf_init(&whole, 1U << 25);
        stream_start(&whole, true);
        put_bytes(&whole, pickle.data, pickle.length_bytes);
        stream_keys(&whole, key_list + from, to - from);
    }
    zip_builder zip;
    zip_start(&zip, from % 2 == 1);
    zip_add(&zip, "archive/data.pkl", pickle.data, pickle.length_bytes);
    for (size_t i = from; i < to; i++) {
        if (stream) {
            stream_storage(&whole, (uint64_t)tensors[i].elements, data[i].data,
                           data[i].length_bytes);
        } else {
            char entry[64];
            (void)snprintf(entry, sizeof entry, "archive/data/%s", keys[i]);
            zip_add(&zip, entry, data[i].data, data[i].length_bytes);
        }
        phi_buf_done(&data[i]);
    }
    zip_add(&zip, "archive/version", "3\n", 2);
    zip_finish(&zip);
    const phi_buf *file = stream ? &whole : &zip.file;
    const char *path = fixture_write(f, name, file->data, file->length_bytes);
    phi_buf_done(&zip.file);
    phi_buf_done(&pickle);
    if (stream) {
        phi_buf_done(&whole);
    }
    return path;
}
