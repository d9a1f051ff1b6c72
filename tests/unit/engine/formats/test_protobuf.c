/* Protocol Buffers read by offsets: every field comes out as it was put in, and every lie about a
 * number or a length is refused where it stands. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "config/limits.h"
#include "engine/formats/protobuf.h"
#include "fixture.h"

static fixture f;
static phi_file file = {.fd = -1};
static phi_proto_window window;

static int setup(void **state)
{
    (void)state;
    fixture_init(&f);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    phi_file_close(&file);
    fixture_done(&f);
    return 0;
}

static phi_proto open_bytes(const void *data, size_t bytes)
{
    phi_err err;
    phi_file_close(&file);
    assert_int_equal(phi_file_open(fixture_write(&f, "x", data, bytes), &file, &err), PHI_OK);
    return phi_proto_of_file(&file, &window);
}

static void test_fields(void **state)
{
    (void)state;
    static const uint8_t data[] = {0x08, 0xAC, 0x02,           /* 1: 300 */
                                   0x12, 3,    'a',  'b', 'c', /* 2: "abc" */
                                   0x1D, 1,    2,    3,   4,   /* 3: fixed32 */
                                   0x21, 1,    0,    0,   0,   0, 0, 0, 0x80 /* 4: fixed64 */};
    phi_proto message = open_bytes(data, sizeof data);
    phi_proto_field field;
    phi_err err;
    char text[3];
    assert_int_equal(phi_proto_next(&message, &field, &err), PHI_OK);
    assert_int_equal(field.number, 1);
    assert_int_equal(field.value, 300);
    assert_int_equal(phi_proto_next(&message, &field, &err), PHI_OK);
    assert_int_equal(field.number, 2);
    assert_int_equal(field.at, 5);
    assert_int_equal(phi_proto_read(&message, &field, text, &err), PHI_OK);
    assert_memory_equal(text, "abc", 3);
    assert_int_equal(phi_proto_next(&message, &field, &err), PHI_OK);
    assert_int_equal(field.value, 0x04030201);
    assert_int_equal(phi_proto_next(&message, &field, &err), PHI_OK);
    assert_true(field.value == 0x8000000000000001U);
    assert_int_equal(phi_proto_next(&message, &field, &err), PHI_OK);
    assert_int_equal(field.number, 0);
}

/* Numbers, and texts larger than the window, wherever they lie. */
static void test_window(void **state)
{
    (void)state;
    static uint8_t data[3 * sizeof window.data];
    const size_t text = sizeof window.data + 1000;
    phi_err err;
    phi_proto_field field;
    for (size_t lead = 0; lead < 12; lead++) {
        static uint8_t read[sizeof window.data + 1000];
        size_t at = 0;
        memset(data, 0, sizeof data);
        /* field 1: enough bytes that the next number crosses the window's end */
        size_t first = sizeof window.data - 10 + lead;
        data[at++] = 0x0A;
        data[at++] = (uint8_t)(first & 0x7F) | 0x80;
        data[at++] = (uint8_t)(first >> 7) | 0x80;
        data[at++] = (uint8_t)(first >> 14);
        at += first;
        data[at++] = 0x10;
        memset(data + at, 0xFF, 9);
        data[at + 9] = 1;
        at += 10;
        data[at++] = 0x1A;
        data[at++] = (uint8_t)(text & 0x7F) | 0x80;
        data[at++] = (uint8_t)(text >> 7 & 0x7F) | 0x80;
        data[at++] = (uint8_t)(text >> 14);
        data[at + text - 1] = 77;
        phi_proto message = open_bytes(data, at + text);
        assert_int_equal(phi_proto_next(&message, &field, &err), PHI_OK);
        assert_int_equal(field.bytes, first);
        assert_int_equal(phi_proto_next(&message, &field, &err), PHI_OK);
        assert_true(field.value == UINT64_MAX);
        assert_int_equal(phi_proto_next(&message, &field, &err), PHI_OK);
        assert_int_equal(phi_proto_read(&message, &field, read, &err), PHI_OK);
        assert_int_equal(read[text - 1], 77);
    }
}

static void test_lies(void **state)
{
    (void)state;
    static const struct {
        size_t bytes;
        uint8_t data[16];
    } cases[] = {
        {1, {0x08}},       /* no number */
        {2, {0x08, 0x80}}, /* that does not end */
        {11, {0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 2}}, /* 65 bits */
        {12, {0x08, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1}},
        {2, {0x12, 1}}, /* a length past the end */
        {11, {0x12, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1}},
        {4, {0x1D, 1, 2, 3}}, /* half a number */
        {8, {0x21, 1, 2, 3, 4, 5, 6, 7}},
        {2, {0x00, 0}}, /* field 0 */
        {1, {0x0B}},    /* a group */
        {1, {0x0C}},
        {1, {0x0E}}, /* wire types that are none */
        {2, {0x07, 0}},
        {6, {0x80, 0x80, 0x80, 0x80, 0x10, 0}}, /* field 2^29 */
    };
    phi_proto_field field;
    phi_err err;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        phi_proto message = open_bytes(cases[i].data, cases[i].bytes);
        assert_int_equal(phi_proto_next(&message, &field, &err), PHI_E_FORMAT);
        assert_non_null(strstr(err.message, "x: byte "));
    }
}

/* A message inside another ends where its length says, whatever comes after it. */
static void test_nested_end(void **state)
{
    (void)state;
    static const uint8_t data[] = {0x0A, 2, 0x10, 0x80, 0x01};
    phi_proto message = open_bytes(data, sizeof data);
    phi_proto inner;
    phi_proto_field field;
    phi_err err;
    assert_int_equal(phi_proto_next(&message, &field, &err), PHI_OK);
    assert_int_equal(phi_proto_enter(&message, &field, &inner, &err), PHI_OK);
    assert_int_equal(phi_proto_next(&inner, &field, &err), PHI_E_FORMAT);
}

static void test_depth(void **state)
{
    (void)state;
    uint8_t data[2 * PHI_LIMIT_PROTOBUF_DEPTH + 2];
    phi_proto_field field;
    phi_err err;
    for (size_t i = 0; i < sizeof data; i += 2) {
        data[i] = 0x0A;
        data[i + 1] = (uint8_t)(sizeof data - 2 - i);
    }
    phi_proto message = open_bytes(data, sizeof data);
    phi_status status = PHI_OK;
    for (uint32_t i = 0; i < PHI_LIMIT_PROTOBUF_DEPTH; i++) {
        assert_int_equal(phi_proto_next(&message, &field, &err), PHI_OK);
        assert_int_equal(phi_proto_enter(&message, &field, &message, &err), PHI_OK);
    }
    assert_int_equal(phi_proto_next(&message, &field, &err), PHI_OK);
    status = phi_proto_enter(&message, &field, &message, &err);
    assert_int_equal(status, PHI_E_LIMIT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields), cmocka_unit_test(test_window),
        cmocka_unit_test(test_lies),   cmocka_unit_test(test_nested_end),
        cmocka_unit_test(test_depth),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
