#include "engine/formats/protobuf_write.h"

#include <string.h>

#include "engine/formats/protobuf.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are written as held");

static void put_varint(phi_buf *out, uint64_t value)
{
    for (; value >= 0x80; value >>= 7) {
        (void)phi_buf_append_char(out, (char)(value | 0x80));
    }
    (void)phi_buf_append_char(out, (char)value);
}

static void put_key(phi_buf *out, uint32_t field, phi_proto_wire wire)
{
    put_varint(out, (uint64_t)field << 3 | (uint64_t)wire);
}

void phi_proto_put_number(phi_buf *out, uint32_t field, int64_t value)
{
    put_key(out, field, PHI_PROTO_VARINT);
    put_varint(out, (uint64_t)value);
}

void phi_proto_put_float(phi_buf *out, uint32_t field, float value)
{
    put_key(out, field, PHI_PROTO_FIXED32);
    (void)phi_buf_append(out, &value, sizeof value);
}

void phi_proto_put_head(phi_buf *out, uint32_t field, size_t bytes)
{
    put_key(out, field, PHI_PROTO_BYTES);
    put_varint(out, bytes);
}

void phi_proto_put_bytes(phi_buf *out, uint32_t field, const void *data, size_t bytes)
{
    phi_proto_put_head(out, field, bytes);
    (void)phi_buf_append(out, data, bytes);
}

void phi_proto_put_text(phi_buf *out, uint32_t field, const char *text)
{
    phi_proto_put_bytes(out, field, text, strlen(text));
}

void phi_proto_put_message(phi_buf *out, uint32_t field, phi_buf *message)
{
    if (phi_buf_failed(message) && !phi_buf_failed(out)) {
        out->failed = message->failed;
    }
    phi_proto_put_bytes(out, field, phi_buf_text(message), message->length_bytes);
    phi_buf_done(message);
}
