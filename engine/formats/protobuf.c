#include "engine/formats/protobuf.h"

#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "config/limits.h"
#include "engine/formats/text_check.h"

/* Seven bits a byte: ten bytes hold 64 bits. */
#define VARINT_BYTES_MAX 10U

static phi_status fail_at(const phi_proto *message, uint64_t at, const char *what, phi_err *err)
{
    return phi_fail(err, PHI_E_FORMAT, "%s: byte %llu: %s", phi_path_label(message->file->path),
                    (unsigned long long)at, what);
}

phi_proto phi_proto_of_file(const phi_file *file, phi_proto_window *window)
{
    window->bytes = 0;
    return (phi_proto){.file = file, .window = window, .end = file->bytes};
}

/* Makes the window hold at least `bytes` bytes from `at` on, all inside the file. */
static phi_status load(const phi_proto *message, uint64_t at, size_t bytes, const uint8_t **out,
                       phi_err *err)
{
    phi_proto_window *window = message->window;
    PHI_ASSERT(bytes <= sizeof window->data);
    PHI_ASSERT(phi_checked_range(at, bytes, message->file->bytes));
    if (at < window->at || !phi_checked_range(at - window->at, bytes, window->bytes)) {
        uint64_t left = message->file->bytes - at;
        size_t now = left < sizeof window->data ? (size_t)left : sizeof window->data;
        window->bytes = 0;
        phi_status status = phi_file_read_at(message->file, at, window->data, now, err);
        if (status) {
            return status;
        }
        window->at = at;
        window->bytes = now;
    }
    *out = window->data + (at - window->at);
    return PHI_OK;
}

phi_status phi_proto_varint(phi_proto *list, uint64_t *out_value, phi_err *err)
{
    uint64_t left = list->end - list->at;
    size_t most = left < VARINT_BYTES_MAX ? (size_t)left : VARINT_BYTES_MAX;
    const uint8_t *data = NULL;
    uint64_t value = 0;
    phi_status status = most ? load(list, list->at, most, &data, err) : PHI_OK;
    if (status) {
        return status;
    }
    for (size_t i = 0; i < most; i++) {
        if (i + 1 == VARINT_BYTES_MAX && data[i] > 1) {
            return fail_at(list, list->at, "a number has more than 64 bits", err);
        }
        value |= (uint64_t)(data[i] & 0x7FU) << (7 * i);
        if (data[i] < 0x80) {
            list->at += i + 1;
            *out_value = value;
            return PHI_OK;
        }
    }
    return fail_at(list, list->at, "a number runs past the end of what it is in", err);
}

static phi_status read_fixed(phi_proto *message, size_t bytes, uint64_t *out, phi_err *err)
{
    const uint8_t *data = NULL;
    if (bytes > message->end - message->at) {
        return fail_at(message, message->at, "a number runs past the end of what it is in", err);
    }
    phi_status status = load(message, message->at, bytes, &data, err);
    if (status) {
        return status;
    }
    *out = 0;
    for (size_t i = 0; i < bytes; i++) {
        *out |= (uint64_t)data[i] << (8 * i);
    }
    message->at += bytes;
    return PHI_OK;
}

static phi_status read_bytes(phi_proto *message, phi_proto_field *field, phi_err *err)
{
    uint64_t at = message->at;
    phi_status status = phi_proto_varint(message, &field->bytes, err);
    if (status) {
        return status;
    }
    if (field->bytes > message->end - message->at) {
        return fail_at(message, at, "a length runs past the end of what it is in", err);
    }
    field->at = message->at;
    message->at += field->bytes;
    return PHI_OK;
}

phi_status phi_proto_next(phi_proto *message, phi_proto_field *out_field, phi_err *err)
{
    phi_proto_field field = {.number = 0};
    uint64_t key = 0;
    uint64_t at = message->at;
    if (at == message->end) {
        *out_field = field;
        return PHI_OK;
    }
    phi_status status = phi_proto_varint(message, &key, err);
    if (status) {
        return status;
    }
    if (key >> 3 == 0 || key >> 3 >= 1U << 29) {
        return fail_at(message, at, "there is no field of this number", err);
    }
    field.number = (uint32_t)(key >> 3);
    switch (key & 7U) {
    case PHI_PROTO_VARINT:
        field.wire = PHI_PROTO_VARINT;
        status = phi_proto_varint(message, &field.value, err);
        break;
    case PHI_PROTO_FIXED64:
        field.wire = PHI_PROTO_FIXED64;
        status = read_fixed(message, 8, &field.value, err);
        break;
    case PHI_PROTO_BYTES:
        field.wire = PHI_PROTO_BYTES;
        status = read_bytes(message, &field, err);
        break;
    case PHI_PROTO_FIXED32:
        field.wire = PHI_PROTO_FIXED32;
        status = read_fixed(message, 4, &field.value, err);
        break;
    default:
        return fail_at(message, at, "a field has a wire type that is not supported", err);
    }
    if (!status) {
        *out_field = field;
    }
    return status;
}

phi_status phi_proto_enter(const phi_proto *parent, const phi_proto_field *field,
                           phi_proto *out_message, phi_err *err)
{
    if (field->wire != PHI_PROTO_BYTES) {
        return fail_at(parent, parent->at, "a number stands where a message should be", err);
    }
    if (parent->depth + 1 > PHI_LIMIT_PROTOBUF_DEPTH) {
        return phi_fail(err, PHI_E_LIMIT,
                        "%s: byte %llu: messages are nested deeper than %u levels",
                        phi_path_label(parent->file->path), (unsigned long long)field->at,
                        PHI_LIMIT_PROTOBUF_DEPTH);
    }
    *out_message = (phi_proto){.file = parent->file,
                               .window = parent->window,
                               .at = field->at,
                               .end = field->at + field->bytes,
                               .depth = parent->depth + 1};
    return PHI_OK;
}

phi_status phi_proto_read(const phi_proto *message, const phi_proto_field *field, void *out,
                          phi_err *err)
{
    const uint8_t *data = NULL;
    PHI_ASSERT(field->wire == PHI_PROTO_BYTES);
    if (field->bytes > sizeof message->window->data) {
        return phi_file_read_at(message->file, field->at, out, (size_t)field->bytes, err);
    }
    phi_status status =
        field->bytes ? load(message, field->at, (size_t)field->bytes, &data, err) : PHI_OK;
    if (!status && field->bytes) {
        memcpy(out, data, (size_t)field->bytes);
    }
    return status;
}
