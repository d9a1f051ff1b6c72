/*
 * Purpose: Protocol Buffers messages into a buffer: what writing ONNX files needs.
 * Owns:    nothing.
 * Threads: as phi_buf.
 * Errors:  those of phi_buf: the buffer remembers the first, and one that a message brings along
 *          is remembered by what it is put into.
 * Limits:  the buffer's.
 */
#ifndef PHI_ENGINE_FORMATS_PROTOBUF_WRITE_H
#define PHI_ENGINE_FORMATS_PROTOBUF_WRITE_H

#include "base/buf.h"

#include <stddef.h>
#include <stdint.h>

void phi_proto_put_number(phi_buf *out, uint32_t field, int64_t value);
void phi_proto_put_float(phi_buf *out, uint32_t field, float value);
void phi_proto_put_bytes(phi_buf *out, uint32_t field, const void *data, size_t bytes);
void phi_proto_put_text(phi_buf *out, uint32_t field, const char *text);
/* Key and length of a field of `bytes` bytes, which the caller writes after it. */
void phi_proto_put_head(phi_buf *out, uint32_t field, size_t bytes);
/* Puts a whole message and frees it. */
void phi_proto_put_message(phi_buf *out, uint32_t field, phi_buf *message);

#endif
