/*
 * Purpose: the fields of a Protocol Buffers message one after another, read from a file by offsets,
 *          so that no message need be in memory: what ONNX files are made of.
 * Owns:    nothing; the window is the caller's.
 * Threads: one a window.
 * Errors:  a number that runs past its message or its ten bytes, a length past the message, a field
 *          number or wire type that does not exist: PHI_E_FORMAT with the byte's offset.
 * Limits:  PHI_LIMIT_PROTOBUF_DEPTH. Groups, which the format has given up, are not read.
 *
 * Layout: Protocol Buffers' "Encoding" page. A field is a key (number << 3 | wire type), a varint,
 * and its value.
 */
#ifndef PHI_ENGINE_FORMATS_PROTOBUF_H
#define PHI_ENGINE_FORMATS_PROTOBUF_H

#include "base/file.h"
#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

typedef enum phi_proto_wire {
    PHI_PROTO_VARINT = 0,
    PHI_PROTO_FIXED64 = 1,
    PHI_PROTO_BYTES = 2,
    PHI_PROTO_FIXED32 = 5,
} phi_proto_wire;

/* Bytes of the file that were read last, so that small fields cost no system call each. */
typedef struct phi_proto_window {
    uint64_t at;
    size_t bytes;
    uint8_t data[16384];
} phi_proto_window;

/* What is left of a message (or of a packed list): bytes [at, end) of the file. */
typedef struct phi_proto {
    const phi_file *file;
    phi_proto_window *window;
    uint64_t at;
    uint64_t end;
    uint32_t depth;
} phi_proto;

typedef struct phi_proto_field {
    uint32_t number; /* 0: the message is over */
    phi_proto_wire wire;
    uint64_t value; /* VARINT, FIXED64 and FIXED32: its bits */
    uint64_t at;    /* BYTES: where in the file */
    uint64_t bytes;
} phi_proto_field;

/* The whole file as a message. */
phi_proto phi_proto_of_file(const phi_file *file, phi_proto_window *window);
/* The next field, passing over its content. */
phi_status phi_proto_next(phi_proto *message, phi_proto_field *out_field,
                          phi_err *err) PHI_MUST_CHECK;
/* The message (or packed list) that a BYTES field holds; another wire type is an error. */
phi_status phi_proto_enter(const phi_proto *parent, const phi_proto_field *field,
                           phi_proto *out_message, phi_err *err) PHI_MUST_CHECK;
/* The next number of a packed list of varints. */
phi_status phi_proto_varint(phi_proto *list, uint64_t *out_value, phi_err *err) PHI_MUST_CHECK;
/* A BYTES field's content; `out` has room for field->bytes. */
phi_status phi_proto_read(const phi_proto *message, const phi_proto_field *field, void *out,
                          phi_err *err) PHI_MUST_CHECK;

#endif
