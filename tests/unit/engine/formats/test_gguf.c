/* GGUF: what the writer writes the reader reads, every type of value, and each kind of lie named.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/formats/gguf.h"
#include "fixture.h"

static fixture f;

static int setup(void **state)
{
    (void)state;
    fixture_init(&f);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fixture_done(&f);
    return 0;
}

static const phi_dtype dtypes[] = {PHI_DTYPE_F32,  PHI_DTYPE_F16,  PHI_DTYPE_BF16,
                                   PHI_DTYPE_Q8_0, PHI_DTYPE_Q4_0, PHI_DTYPE_Q4_1};
#define N_DTYPES (sizeof dtypes / sizeof *dtypes)

static void write_values(phi_gguf_writer *writer)
{
    static const char text[] = "with a \0 inside";
    const phi_gguf_string strings[] = {{"one", 3}, {"", 0}, {"\xC3\xA4", 2}};
    const float floats[] = {1.5F, -0.0F};
    const int32_t integers[] = {INT32_MIN, 7};
    phi_gguf_put_u32(writer, "a.u32", 4000000000U);
    phi_gguf_put_f32(writer, "a.f32", 0.1F);
    phi_gguf_put_bool(writer, "a.bool", true);
    phi_gguf_put_string(writer, "a.string", text, sizeof text - 1);
    phi_gguf_put_strings(writer, "a.strings", strings, 3);
    phi_gguf_put_f32s(writer, "a.f32s", floats, 2);
    phi_gguf_put_i32s(writer, "a.i32s", integers, 2);
    phi_gguf_put_i32s(writer, "a.none", integers, 0);
}

static const char *write_round_trip(void)
{
    phi_gguf_writer *writer;
    phi_err err = {0};
    fixture_remove(&f, "round.gguf");
    const char *path = fixture_path(&f, "round.gguf");
    assert_int_equal(phi_gguf_writer_create(path, &writer, &err), PHI_OK);
    write_values(writer);
    for (size_t i = 0; i < N_DTYPES; i++) {
        char name[16];
        const uint64_t dims[2] = {3, 64};
        (void)snprintf(name, sizeof name, "t%zu", i);
        phi_gguf_declare_tensor(writer, name, dtypes[i], 2, dims);
    }
    const uint64_t five = 5;
    phi_gguf_declare_tensor(writer, "vector", PHI_DTYPE_F32, 1, &five);
    assert_int_equal(phi_gguf_write_header(writer, &err), PHI_OK);
    for (size_t i = 0; i <= N_DTYPES; i++) {
        uint64_t row = 20;
        uint8_t data[3 * 256];
        memset(data, (int)(i + 1), sizeof data);
        if (i < N_DTYPES) {
            assert_true(phi_dtype_row_bytes(dtypes[i], 64, &row));
            /* In two unequal pieces. */
            assert_int_equal(phi_gguf_write_data(writer, data, row - 1, &err), PHI_OK);
            assert_int_equal(phi_gguf_write_data(writer, data, 2 * row + 1, &err), PHI_OK);
        } else {
            assert_int_equal(phi_gguf_write_data(writer, data, row, &err), PHI_OK);
        }
    }
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_equal(phi_gguf_writer_commit(writer, &err), PHI_OK);
    return path;
}

static void check_values(const phi_gguf *gguf)
{
    uint32_t u32 = 0;
    float f32 = 0;
    bool flag = false;
    phi_gguf_string text;
    assert_true(phi_gguf_get_u32(gguf, "a.u32", &u32));
    assert_true(u32 == 4000000000U);
    assert_true(phi_gguf_get_f32(gguf, "a.f32", &f32));
    assert_true(f32 == 0.1F);
    assert_true(phi_gguf_get_bool(gguf, "a.bool", &flag));
    assert_true(flag);
    assert_true(phi_gguf_get_string(gguf, "a.string", &text));
    assert_int_equal(text.bytes, 15);
    assert_memory_equal(text.text, "with a \0 inside", 16);
    assert_false(phi_gguf_get_u32(gguf, "a.f32", &u32));
    assert_false(phi_gguf_get_f32(gguf, "a.u32", &f32));
    assert_false(phi_gguf_get_bool(gguf, "a.u32", &flag));
    assert_false(phi_gguf_get_string(gguf, "absent", &text));
    const phi_gguf_value *strings = phi_gguf_find(gguf, "a.strings");
    assert_int_equal(strings->count, 3);
    assert_string_equal(strings->as.strings[0].text, "one");
    assert_int_equal(strings->as.strings[1].bytes, 0);
    assert_string_equal(strings->as.strings[2].text, "\xC3\xA4");
    const phi_gguf_value *floats = phi_gguf_find(gguf, "a.f32s");
    assert_true(phi_gguf_array_f64(floats, 0) == 1.5);
    assert_true(phi_gguf_array_i64(floats, 0) == 1);
    const phi_gguf_value *integers = phi_gguf_find(gguf, "a.i32s");
    assert_true(phi_gguf_array_i64(integers, 0) == INT32_MIN);
    assert_true(phi_gguf_array_f64(integers, 1) == 7.0);
    assert_int_equal(phi_gguf_find(gguf, "a.none")->count, 0);
    assert_int_equal(phi_gguf_value_count(gguf), 8);
    assert_string_equal(phi_gguf_value_at(gguf, 1)->key, "a.f32");
}

static void test_round_trip(void **state)
{
    (void)state;
    phi_gguf *gguf;
    phi_err err;
    assert_int_equal(phi_gguf_open(write_round_trip(), &gguf, &err), PHI_OK);
    assert_int_equal(phi_gguf_version(gguf), 3);
    check_values(gguf);
    assert_int_equal(phi_gguf_tensor_count(gguf), N_DTYPES + 1);
    for (size_t i = 0; i <= N_DTYPES; i++) {
        const phi_tensor_entry *entry = phi_gguf_tensor_at(gguf, i);
        uint8_t data[3 * 256];
        assert_true(entry->readable);
        assert_int_equal(entry->offset % 32, 0);
        assert_int_equal(entry->dims[0], i < N_DTYPES ? 3 : 5);
        assert_int_equal(phi_tensor_entry_cols(entry), i < N_DTYPES ? 64 : 5);
        if (i < N_DTYPES) {
            assert_int_equal(entry->dtype, dtypes[i]);
        }
        assert_int_equal(
            phi_file_read_at(phi_gguf_file(gguf), entry->offset, data, (size_t)entry->bytes, &err),
            PHI_OK);
        for (size_t j = 0; j < entry->bytes; j++) {
            assert_int_equal(data[j], i + 1);
        }
    }
    phi_gguf_close(gguf);
}

static void test_writer_refusals(void **state)
{
    (void)state;
    const uint64_t dims[2] = {2, 48};
    static const char *const says[] = {"\"k\" is written twice",      "\"t\" is declared twice",
                                       "shape that Q4_0 cannot hold", "does not have 1 to 63",
                                       "was not written whole",       "header was not written"};
    for (int i = 0; i < 6; i++) {
        phi_gguf_writer *writer;
        phi_err err = {0};
        const char *path = fixture_path(&f, "w.gguf");
        assert_int_equal(phi_gguf_writer_create(path, &writer, &err), PHI_OK);
        phi_gguf_put_u32(writer, "k", 1);
        phi_gguf_declare_tensor(writer, "t", PHI_DTYPE_F16, 2, dims);
        if (i == 0) {
            phi_gguf_put_bool(writer, "k", true);
        } else if (i == 1) {
            phi_gguf_declare_tensor(writer, "t", PHI_DTYPE_F16, 2, dims);
        } else if (i == 2) {
            phi_gguf_declare_tensor(writer, "u", PHI_DTYPE_Q4_0, 2, dims);
        } else if (i == 3) {
            phi_gguf_declare_tensor(
                writer, "a-name-of-more-than-sixty-three-bytes-which-ggml-cannot-keep-in-it",
                PHI_DTYPE_F16, 2, dims);
        }
        phi_status status = i == 5 ? PHI_OK : phi_gguf_write_header(writer, &err);
        if (i < 4) {
            phi_gguf_writer_abort(writer);
        } else {
            assert_int_equal(status, PHI_OK);
            status = phi_gguf_writer_commit(writer, &err);
        }
        assert_int_not_equal(status, PHI_OK);
        if (!strstr(err.message, says[i])) {
            fail_msg("%s: \"%s\"", says[i], err.message);
        }
        assert_int_not_equal(access(path, F_OK), 0);
    }
}

/* A file built byte by byte. */
static void put_front(phi_buf *buf, uint32_t version, uint64_t tensors, uint64_t values)
{
    phi_buf_init(buf, 1U << 20);
    (void)phi_buf_append(buf, "GGUF", 4);
    put_u32(buf, version);
    put_u64(buf, tensors);
    put_u64(buf, values);
}

static void put_tensor(phi_buf *buf, const char *name, uint64_t cols, uint32_t type,
                       uint64_t offset)
{
    put_string(buf, name);
    put_u32(buf, 1);
    put_u64(buf, cols);
    put_u32(buf, type);
    put_u64(buf, offset);
}

static void put_padding(phi_buf *buf, size_t alignment, size_t data_bytes)
{
    while (buf->length_bytes % alignment) {
        (void)phi_buf_append_char(buf, 0);
    }
    for (size_t i = 0; i < data_bytes; i++) {
        (void)phi_buf_append_char(buf, (char)i);
    }
}

static phi_status open_buf(phi_buf *buf, phi_gguf **out, phi_err *err)
{
    const char *path = fixture_write(&f, "raw.gguf", buf->data, buf->length_bytes);
    phi_buf_done(buf);
    *err = (phi_err){0};
    return phi_gguf_open(path, out, err);
}

static void expect(phi_buf *buf, phi_status right, const char *says)
{
    phi_gguf *gguf = NULL;
    phi_err err;
    phi_status status = open_buf(buf, &gguf, &err);
    if (status != right || !strstr(err.message, says) || !strstr(err.message, "raw.gguf")) {
        fail_msg("wanted %s \"%s\", got %s \"%s\"", phi_status_name(right), says,
                 phi_status_name(status), err.message);
    }
}

static void test_numbers_of_all_widths(void **state)
{
    (void)state;
    static const uint8_t bits[8] = {0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF};
    static const struct {
        uint32_t type;
        size_t bytes;
        int64_t as_signed;
    } rows[] = {
        {PHI_GGUF_U8, 1, 254}, {PHI_GGUF_I8, 1, -2},          {PHI_GGUF_U16, 2, 65534},
        {PHI_GGUF_I16, 2, -2}, {PHI_GGUF_U32, 4, 4294967294}, {PHI_GGUF_I32, 4, -2},
        {PHI_GGUF_U64, 8, -2}, {PHI_GGUF_I64, 8, -2},
    };
    const size_t n = sizeof rows / sizeof *rows;
    phi_buf buf;
    put_front(&buf, 2, 0, 2 * n + 1);
    for (size_t i = 0; i < n; i++) {
        char key[16];
        (void)snprintf(key, sizeof key, "k%zu", i);
        put_string(&buf, key);
        put_u32(&buf, rows[i].type);
        (void)phi_buf_append(&buf, bits, rows[i].bytes);
        (void)snprintf(key, sizeof key, "a%zu", i);
        put_string(&buf, key);
        put_u32(&buf, PHI_GGUF_ARRAY);
        put_u32(&buf, rows[i].type);
        put_u64(&buf, 1);
        (void)phi_buf_append(&buf, bits, rows[i].bytes);
    }
    const double pi = 3.25;
    put_string(&buf, "f64");
    put_u32(&buf, PHI_GGUF_F64);
    (void)phi_buf_append(&buf, &pi, sizeof pi);
    phi_gguf *gguf;
    phi_err err;
    assert_int_equal(open_buf(&buf, &gguf, &err), PHI_OK);
    assert_int_equal(phi_gguf_version(gguf), 2);
    for (size_t i = 0; i < n; i++) {
        char key[16];
        uint32_t u32 = 0;
        (void)snprintf(key, sizeof key, "a%zu", i);
        assert_true(phi_gguf_array_i64(phi_gguf_find(gguf, key), 0) == rows[i].as_signed);
        (void)snprintf(key, sizeof key, "k%zu", i);
        assert_true(phi_gguf_find(gguf, key)->as.i64 == rows[i].as_signed);
        assert_int_equal(phi_gguf_get_u32(gguf, key, &u32),
                         rows[i].as_signed >= 0 && rows[i].as_signed <= UINT32_MAX);
    }
    float narrow = 0;
    assert_true(phi_gguf_get_f32(gguf, "f64", &narrow));
    assert_true(narrow == 3.25F);
    phi_gguf_close(gguf);
}

static void test_front_lies(void **state)
{
    (void)state;
    phi_buf buf;
    put_front(&buf, 3, 0, 0);
    buf.data[0] = 'g';
    expect(&buf, PHI_E_FORMAT, "not a GGUF file");
    put_front(&buf, 1, 0, 0);
    expect(&buf, PHI_E_UNSUPPORTED, "version 1;");
    put_front(&buf, 4, 0, 0);
    expect(&buf, PHI_E_UNSUPPORTED, "version 4;");
    put_front(&buf, 3U << 24, 0, 0);
    expect(&buf, PHI_E_UNSUPPORTED, "big-endian");
    put_front(&buf, 3, UINT64_MAX, 0);
    expect(&buf, PHI_E_FORMAT, "tensor count");
    put_front(&buf, 3, 0, 1ULL << 60);
    expect(&buf, PHI_E_FORMAT, "key count");
    put_front(&buf, 3, 0, 0);
    buf.length_bytes = 6;
    expect(&buf, PHI_E_FORMAT, "ends early");
    put_front(&buf, 3, 0, PHI_LIMIT_GGUF_KEYS + 1);
    put_padding(&buf, 1, 14 * (PHI_LIMIT_GGUF_KEYS + 1));
    expect(&buf, PHI_E_LIMIT, "at most 4096");
}

/* Starts the value of key "k" and leaves the rest to the caller; room follows so that counts pass.
 */
static void put_value(phi_buf *buf, uint32_t type)
{
    put_front(buf, 3, 0, 1);
    put_string(buf, "k");
    put_u32(buf, type);
}

static void test_value_lies(void **state)
{
    (void)state;
    phi_buf buf;
    put_value(&buf, 13);
    put_u64(&buf, 0);
    expect(&buf, PHI_E_FORMAT, "type 13");
    put_value(&buf, PHI_GGUF_BOOL);
    put_u64(&buf, 2);
    expect(&buf, PHI_E_FORMAT, "bool of value 2");
    put_value(&buf, PHI_GGUF_STRING);
    put_u64(&buf, 1ULL << 63);
    expect(&buf, PHI_E_FORMAT, "ends early");
    put_value(&buf, PHI_GGUF_ARRAY);
    put_u32(&buf, PHI_GGUF_ARRAY);
    put_u64(&buf, 1);
    expect(&buf, PHI_E_UNSUPPORTED, "array of arrays");
    put_value(&buf, PHI_GGUF_ARRAY);
    put_u32(&buf, PHI_GGUF_U8);
    put_u64(&buf, UINT64_MAX);
    expect(&buf, PHI_E_LIMIT, "elements");
    put_value(&buf, PHI_GGUF_ARRAY);
    put_u32(&buf, PHI_GGUF_F64);
    put_u64(&buf, 1000);
    expect(&buf, PHI_E_FORMAT, "ends early");
    put_value(&buf, PHI_GGUF_ARRAY);
    put_u32(&buf, PHI_GGUF_STRING);
    put_u64(&buf, 2);
    put_u64(&buf, 3);
    put_u64(&buf, 3);
    expect(&buf, PHI_E_FORMAT, "ends early");
    put_front(&buf, 3, 0, 2);
    for (int i = 0; i < 2; i++) {
        put_string(&buf, "same.key");
        put_u32(&buf, PHI_GGUF_U32);
        put_u32(&buf, 1);
    }
    expect(&buf, PHI_E_FORMAT, "\"same.key\" occurs twice");
    put_front(&buf, 3, 0, 1);
    put_string(&buf, "bad\x01key");
    put_u64(&buf, 0);
    expect(&buf, PHI_E_FORMAT, "not readable text");
}

static void test_tensor_lies(void **state)
{
    (void)state;
    static const struct {
        const char *second;
        uint64_t cols;
        uint32_t type;
        uint64_t offset;
        phi_status status;
        const char *says;
    } rows[] = {
        {"a", 8, 0, 32, PHI_E_FORMAT, "\"a\" occurs twice"},
        {"b", 8, 0, 0, PHI_E_FORMAT, "overlap"},
        {"b", 8, 0, 36, PHI_E_FORMAT, "not a multiple of 32"},
        {"b", 9, 0, 32, PHI_E_FORMAT, "beyond the end"},
        {"b", 8, 0, UINT64_MAX - 31, PHI_E_FORMAT, "beyond the end"},
        {"b", 33, 2, 32, PHI_E_FORMAT, "Q4_0 needs a multiple of 32"},
        {"b", 0, 0, 32, PHI_E_FORMAT, "dimension of 0"},
        {"b", 1ULL << 63, 0, 32, PHI_E_FORMAT, "dimension of"},
        {"b", 1ULL << 62, 0, 32, PHI_E_FORMAT, "overflows"},
        {"b\n", 8, 0, 32, PHI_E_FORMAT, "not readable text"},
        {"a-name-of-more-than-sixty-four-bytes-which-the-format-does-not-allow", 8, 0, 32,
         PHI_E_LIMIT, "at most 64"},
    };
    phi_buf buf;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        put_front(&buf, 3, 2, 0);
        put_tensor(&buf, "a", 8, 0, 0);
        put_tensor(&buf, rows[i].second, rows[i].cols, rows[i].type, rows[i].offset);
        put_padding(&buf, 32, 64);
        expect(&buf, rows[i].status, rows[i].says);
    }
    put_front(&buf, 3, 1, 0);
    put_string(&buf, "a");
    put_u32(&buf, 5);
    put_padding(&buf, 1, 100);
    expect(&buf, PHI_E_FORMAT, "5 dimensions");
    put_front(&buf, 3, 1, 0);
    put_tensor(&buf, "a", 8, 0, 0);
    expect(&buf, PHI_E_FORMAT, "beyond the end");
}

static void test_alignment(void **state)
{
    (void)state;
    static const uint32_t alignments[] = {0, 12, 64};
    for (size_t i = 0; i < 3; i++) {
        phi_buf buf;
        put_front(&buf, 3, 1, 1);
        put_string(&buf, "general.alignment");
        put_u32(&buf, PHI_GGUF_U32);
        put_u32(&buf, alignments[i]);
        put_tensor(&buf, "a", 8, 0, 0);
        put_padding(&buf, 64, 32);
        if (alignments[i] != 64) {
            expect(&buf, PHI_E_FORMAT, "general.alignment");
            continue;
        }
        phi_gguf *gguf;
        phi_err err;
        assert_int_equal(open_buf(&buf, &gguf, &err), PHI_OK);
        assert_int_equal(phi_gguf_tensor_at(gguf, 0)->offset % 64, 0);
        phi_gguf_close(gguf);
    }
}

/* Types that the program does not compute with are listed, not refused. */
static void test_unreadable_types(void **state)
{
    (void)state;
    phi_buf buf;
    put_front(&buf, 3, 2, 0);
    put_tensor(&buf, "k", 256, 19, 0);
    put_tensor(&buf, "x", 256, 77, 64);
    put_padding(&buf, 32, 64);
    phi_gguf *gguf;
    phi_err err;
    assert_int_equal(open_buf(&buf, &gguf, &err), PHI_OK);
    assert_false(phi_gguf_tensor_at(gguf, 0)->readable);
    assert_string_equal(phi_gguf_tensor_at(gguf, 0)->dtype_name, "IQ1_S");
    assert_int_equal(phi_gguf_tensor_at(gguf, 0)->bytes, 50);
    assert_false(phi_gguf_tensor_at(gguf, 1)->readable);
    assert_string_equal(phi_gguf_tensor_at(gguf, 1)->dtype_name, "type 77");
    phi_gguf_close(gguf);
}

/* A file cut anywhere is refused or, in the padding after the last tensor, whole. */
static void test_cut_anywhere(void **state)
{
    (void)state;
    const char *path = write_round_trip();
    phi_gguf *gguf;
    phi_err err;
    assert_int_equal(phi_gguf_open(path, &gguf, &err), PHI_OK);
    uint64_t bytes = phi_gguf_file(gguf)->bytes;
    phi_gguf_close(gguf);
    /* The last tensor has 20 bytes and 12 of padding. */
    for (uint64_t cut = bytes; cut-- > 0;) {
        assert_int_equal(truncate(path, (off_t)cut), 0);
        phi_status status = phi_gguf_open(path, &gguf, &err);
        assert_int_equal(status, cut >= bytes - 12 ? PHI_OK : PHI_E_FORMAT);
        if (status == PHI_OK) {
            phi_gguf_close(gguf);
        }
    }
}

static void test_out_of_memory(void **state)
{
    (void)state;
    const char *path = write_round_trip();
    phi_status status = PHI_E_NO_MEMORY;
    int failures = 0;
    for (int n = 0; status == PHI_E_NO_MEMORY; n++) {
        phi_gguf *gguf;
        phi_err err;
        phi_mem_fail_after(n);
        status = phi_gguf_open(path, &gguf, &err);
        phi_mem_fail_after(-1);
        if (status == PHI_OK) {
            phi_gguf_close(gguf);
        }
        failures += status == PHI_E_NO_MEMORY;
    }
    assert_int_equal(status, PHI_OK);
    assert_true(failures >= 6);
}

/* The vocabulary file that llama.cpp tests with: metadata only. */
static void test_real_vocabulary(void **state)
{
    (void)state;
    const char *shared = getenv("PHID_SHARED_DIR");
    char *path = phi_strfmt("%s/data/tokenizers/ggml-vocab-phi-3.gguf",
                            shared ? shared : PHID_SOURCE_DIR "/../shared");
    if (access(path, R_OK) != 0) {
        phi_free(path);
        skip();
    }
    phi_gguf *gguf;
    phi_err err = {0};
    phi_status status = phi_gguf_open(path, &gguf, &err);
    phi_free(path);
    assert_string_equal(err.message, "");
    assert_int_equal(status, PHI_OK);
    phi_gguf_string arch;
    assert_true(phi_gguf_get_string(gguf, "general.architecture", &arch));
    assert_string_equal(arch.text, "phi3");
    const phi_gguf_value *tokens = phi_gguf_find(gguf, "tokenizer.ggml.tokens");
    assert_non_null(tokens);
    assert_int_equal(tokens->count, 32064);
    assert_string_equal(tokens->as.strings[1].text, "<s>");
    assert_string_equal(tokens->as.strings[32007].text, "<|end|>");
    assert_int_equal(phi_gguf_tensor_count(gguf), 0);
    phi_gguf_close(gguf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_writer_refusals),
        cmocka_unit_test(test_numbers_of_all_widths),
        cmocka_unit_test(test_front_lies),
        cmocka_unit_test(test_value_lies),
        cmocka_unit_test(test_tensor_lies),
        cmocka_unit_test(test_alignment),
        cmocka_unit_test(test_unreadable_types),
        cmocka_unit_test(test_cut_anywhere),
        cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_real_vocabulary),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
