/* Files of torch.save, in both containers: what is accepted, and that each kind of lie is named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/formats/torch_file.h"
#include "fixture.h"
#include "torch_fixture.h"

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

static const uint8_t bytes24[24] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11,
                                    12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23};

/* Tensors over two storages: "0" of 24 bytes, "1" of 8. */
static const torch_tensor good[] = {
    {"whole", "HalfStorage", "0", 12, 0, 2, {3, 4}, {4, 1}},
    {"tied", "HalfStorage", "0", 12, 0, 2, {3, 4}, {4, 1}},
    {"part", "HalfStorage", "0", 12, 8, 2, {1, 4}, {99, 1}},
    {"empty", "HalfStorage", "0", 12, 12, 2, {0, 4}, {7, 7}},
    {"scalar", "LongStorage", "1", 1, 0, 0, {0}, {0}},
};
#define N_GOOD (sizeof good / sizeof *good)

/* A zip archive with this pickle and the storages; `extra` is one more entry, or NULL. */
static void build_zip(zip_builder *zip, const phi_buf *pickle, bool zip64, const char *extra,
                      const char *content)
{
    zip_start(zip, zip64);
    zip_add(zip, "top/data.pkl", pickle->data, pickle->length_bytes);
    zip_add(zip, "top/data/0", bytes24, 24);
    zip_add(zip, "top/data/1", bytes24, 8);
    if (extra) {
        zip_add(zip, extra, content, strlen(content));
    }
    zip_finish(zip);
}

static void build_stream(phi_buf *buf, const phi_buf *pickle, bool little_endian)
{
    static const char *const keys[] = {"0", "1"};
    phi_buf_init(buf, 1U << 20);
    stream_start(buf, little_endian);
    put_bytes(buf, pickle->data, pickle->length_bytes);
    stream_keys(buf, keys, 2);
    stream_storage(buf, 12, bytes24, 24);
    stream_storage(buf, 1, bytes24, 8);
}

static void expect(const phi_buf *file, phi_status right, const char *says)
{
    const char *path = fixture_write(&f, "w.bin", file->data, file->length_bytes);
    phi_tensor_file out;
    phi_err err = {0};
    phi_status status = phi_torch_file_open(path, &out, &err);
    if (status == PHI_OK) {
        phi_tensor_file_close(&out);
    }
    if (status != right || !strstr(err.message, says) ||
        (status != PHI_OK && !strstr(err.message, "w.bin"))) {
        fail_msg("wanted %s \"%s\", got %s \"%s\"", phi_status_name(right), says,
                 phi_status_name(status), err.message);
    }
}

static void check_good(const phi_buf *whole)
{
    static const struct {
        uint32_t n_dims;
        uint64_t bytes;
        uint8_t first;
    } right[N_GOOD] = {{2, 24, 0}, {2, 24, 0}, {2, 8, 16}, {2, 0, 0}, {0, 8, 0}};
    const char *path = fixture_write(&f, "w.bin", whole->data, whole->length_bytes);
    phi_tensor_file file;
    phi_err err = {0};
    if (phi_torch_file_open(path, &file, &err) != PHI_OK) {
        fail_msg("%s", err.message);
    }
    assert_int_equal(file.count, N_GOOD);
    for (size_t i = 0; i < N_GOOD; i++) {
        const phi_tensor_entry *entry = &file.entries[i];
        uint8_t data[24];
        assert_string_equal(entry->name, good[i].name);
        assert_int_equal(entry->n_dims, right[i].n_dims);
        assert_int_equal(entry->bytes, right[i].bytes);
        assert_int_equal(phi_file_read_at(&file.file, entry->offset, data, entry->bytes, &err),
                         PHI_OK);
        assert_memory_equal(data, bytes24 + right[i].first, entry->bytes);
    }
    assert_int_equal(file.entries[0].dims[0], 3);
    assert_int_equal(file.entries[0].dims[1], 4);
    assert_true(file.entries[0].readable);
    assert_int_equal(file.entries[0].dtype, PHI_DTYPE_F16);
    assert_false(file.entries[4].readable);
    assert_string_equal(file.entries[4].dtype_name, "I64");
    phi_tensor_file_close(&file);
}

static void test_both_containers(void **state)
{
    (void)state;
    for (int variant = 0; variant < 3; variant++) {
        phi_buf pickle;
        phi_buf_init(&pickle, 1U << 16);
        pickle_dict(&pickle, good, N_GOOD, variant == 2);
        zip_builder zip;
        phi_buf stream;
        build_zip(&zip, &pickle, variant == 1, "top/byteorder", "little");
        build_stream(&stream, &pickle, true);
        check_good(variant == 2 ? &stream : &zip.file);
        phi_buf_done(&zip.file);
        phi_buf_done(&stream);
        phi_buf_done(&pickle);
    }
}

/* ---- tensors that lie ---- */

static const struct {
    torch_tensor tensor;
    phi_status status;
    const char *says;
} lies[] = {
    {{"t", "HalfStorage", "0", 12, 0, 2, {4, 3}, {1, 4}},
     PHI_E_UNSUPPORTED,
     "\"t\" is a view that is not contiguous (transposed, say); save it after .contiguous()"},
    {{"t", "HalfStorage", "0", 12, 0, 2, {3, 2}, {4, 1}}, PHI_E_UNSUPPORTED, "not contiguous"},
    {{"t", "HalfStorage", "0", 12, 0, 2, {1000, 4}, {0, 1}}, PHI_E_UNSUPPORTED, "not contiguous"},
    {{"t", "HalfStorage", "0", 12, 11, 1, {2}, {-1}}, PHI_E_UNSUPPORTED, "not contiguous"},
    {{"t", "HalfStorage", "0", 12, 1, 2, {3, 4}, {4, 1}},
     PHI_E_FORMAT,
     "\"t\" reaches beyond its storage \"0\" of 24 bytes"},
    {{"t", "HalfStorage", "0", 12, -1, 1, {2}, {1}}, PHI_E_FORMAT, "reaches beyond"},
    {{"t", "HalfStorage", "0", 12, INT64_MAX, 1, {2}, {1}}, PHI_E_FORMAT, "reaches beyond"},
    {{"t", "HalfStorage", "0", 12, 0, 1, {13}, {1}}, PHI_E_FORMAT, "reaches beyond"},
    {{"t", "HalfStorage", "0", 12, 0, 1, {INT64_MAX}, {1}}, PHI_E_FORMAT, "reaches beyond"},
    {{"t", "HalfStorage", "0", 12, 13, 1, {0}, {1}}, PHI_E_FORMAT, "reaches beyond"},
    {{"t", "HalfStorage", "0", 12, 0, 1, {-1}, {1}}, PHI_E_FORMAT, "dimension 0 is not a usable"},
    {{"t", "HalfStorage", "0", 12, 0, 2, {1LL << 40, 1LL << 40}, {1LL << 40, 1}},
     PHI_E_FORMAT,
     "dimension 1 is not a usable"},
    {{"t", "HalfStorage", "0", 12, 0, 2, {1LL << 32, 1LL << 31}, {1LL << 31, 1}},
     PHI_E_FORMAT,
     "dimension 1 is not a usable"},
    {{"t", "HalfStorage", "0", 12, 0, 5, {1, 1, 1, 1, 1}, {1, 1, 1, 1, 1}},
     PHI_E_LIMIT,
     "5 dimensions; at most 4"},
    {{"t", "HalfStorage", "0", 11, 0, 1, {2}, {1}}, PHI_E_FORMAT, "24 bytes"},
    {{"t", "HalfStorage", "0", 13, 0, 1, {2}, {1}}, PHI_E_FORMAT, "13 elements of 2 bytes"},
    {{"t", "FloatStorage", "0", 12, 0, 1, {2}, {1}}, PHI_E_FORMAT, "12 elements of 4 bytes"},
    {{"t", "FloatStorage", "0", INT64_MAX, 0, 1, {2}, {1}}, PHI_E_FORMAT, "a storage of"},
    {{"t", "HalfStorage", "9", 12, 0, 1, {2}, {1}},
     PHI_E_FORMAT,
     "storage \"9\", which is missing"},
    {{"t", "HalfStorage", "../0", 12, 0, 1, {2}, {1}}, PHI_E_FORMAT, "which is missing"},
    {{"", "HalfStorage", "0", 12, 0, 1, {2}, {1}}, PHI_E_FORMAT, "name is no text, is empty"},
    {{"a\nb", "HalfStorage", "0", 12, 0, 1, {2}, {1}}, PHI_E_FORMAT, "control characters"},
    {{"x", "HalfStorage", "0", 12, 0, 1, {2}, {1}}, PHI_E_FORMAT, "\"x\" is there twice"},
};

static void test_lying_tensors(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        const torch_tensor both[] = {{"x", "LongStorage", "1", 1, 0, 0, {0}, {0}}, lies[i].tensor};
        phi_buf pickle;
        phi_buf_init(&pickle, 1U << 16);
        pickle_dict(&pickle, both, 2, false);
        zip_builder zip;
        build_zip(&zip, &pickle, false, NULL, NULL);
        expect(&zip.file, lies[i].status, lies[i].says);
        phi_buf_done(&zip.file);
        phi_buf_done(&pickle);
    }
}

static void expect_pickle(const char *data, size_t bytes, phi_status right, const char *says)
{
    phi_buf pickle;
    phi_buf_init(&pickle, 1U << 16);
    put_bytes(&pickle, data, bytes);
    zip_builder zip;
    build_zip(&zip, &pickle, false, NULL, NULL);
    expect(&zip.file, right, says);
    phi_buf_done(&zip.file);
    phi_buf_done(&pickle);
}

#define P(text) text, sizeof text - 1

static void test_other_pickles(void **state)
{
    (void)state;
    expect_pickle(P("\x80\2]."), PHI_E_UNSUPPORTED, "does not hold a dict of tensors");
    expect_pickle(P("\x80\2}."), PHI_E_UNSUPPORTED, "a dict without tensors at its top level");
    expect_pickle(P("\x80\2}X\1\0\0\0a}s."), PHI_E_UNSUPPORTED, "torch.save(model.state_dict()");
    expect_pickle(P("\x80\2}.N"), PHI_E_FORMAT, "data.pkl has 1 bytes after its end");
    expect_pickle(P("\x80\2cos\nsystem\n."), PHI_E_UNSUPPORTED,
                  "w.bin: data.pkl: a pickle of tensors alone is read, and nothing of it is run: "
                  "refused global os.system at byte 2");
}

/* A parameter, a tensor of bytes with a dtype, values that are no tensors, and state. */
static void test_other_ways(void **state)
{
    (void)state;
    phi_buf pickle;
    phi_buf_init(&pickle, 1U << 16);
    put_bytes(&pickle, P("\x80\2ccollections\nOrderedDict\n)R("));
    pickle_text(&pickle, "p");
    put_bytes(&pickle, P("ctorch._utils\n_rebuild_parameter\n("));
    pickle_tensor(&pickle, &good[0], false);
    put_bytes(&pickle, P("\x88)tR"));
    pickle_text(&pickle, "step");
    put_bytes(&pickle, P("K\7"));
    pickle_text(&pickle, "u");
    put_bytes(&pickle, P("ctorch._utils\n_rebuild_tensor_v3\n(("));
    pickle_text(&pickle, "storage");
    put_bytes(&pickle, P("ctorch.storage\nUntypedStorage\n"));
    pickle_text(&pickle, "0");
    pickle_text(&pickle, "cpu");
    put_bytes(&pickle, P("K\x18tQK\1K\5\x85K\1\x85\x89}ctorch\nfloat32\ntR"));
    put_bytes(&pickle, P("u}X\11\0\0\0_metadata}sb."));
    zip_builder zip;
    build_zip(&zip, &pickle, false, NULL, NULL);
    const char *path = fixture_write(&f, "w.bin", zip.file.data, zip.file.length_bytes);
    phi_tensor_file file;
    phi_err err = {0};
    if (phi_torch_file_open(path, &file, &err) != PHI_OK) {
        fail_msg("%s", err.message);
    }
    assert_int_equal(file.count, 2);
    assert_string_equal(file.entries[0].name, "p");
    assert_int_equal(file.entries[0].dtype, PHI_DTYPE_F16);
    assert_string_equal(file.entries[1].name, "u");
    assert_int_equal(file.entries[1].dtype, PHI_DTYPE_F32);
    assert_int_equal(file.entries[1].bytes, 20);
    assert_int_equal(file.entries[1].offset, file.entries[0].offset + 4);
    phi_tensor_file_close(&file);
    phi_buf_done(&zip.file);
    phi_buf_done(&pickle);
}

/* ---- archives that lie ---- */

/* The n-th (from 0) place of a four-byte signature. */
static size_t place_of(const phi_buf *file, const char *signature, int n)
{
    for (size_t at = 0; at + 4 <= file->length_bytes; at++) {
        if (memcmp(file->data + at, signature, 4) == 0 && n-- == 0) {
            return at;
        }
    }
    fail_msg("there is no such signature");
    return 0;
}

#define LOCAL "PK\3\4"
#define CENTRAL "PK\1\2"
#define END64 "PK\6\6"
#define LOCATOR "PK\6\7"
#define END "PK\5\6"

/* Entries: 0 data.pkl, 1 data/0, 2 data/1. */
static const struct {
    bool zip64;
    const char *signature;
    int which;
    size_t offset;
    size_t bytes;
    uint64_t value;
    phi_status status;
    const char *says;
} patches[] = {
    {false, CENTRAL, 1, 8, 2, 0x809, PHI_E_UNSUPPORTED, "\"top/data/0\" is encrypted"},
    {false, CENTRAL, 1, 10, 2, 8, PHI_E_UNSUPPORTED, "\"top/data/0\" is compressed"},
    {false, CENTRAL, 1, 20, 4, 23, PHI_E_FORMAT, "sizes of its entry"},
    {false, CENTRAL, 1, 24, 4, 25, PHI_E_FORMAT, "sizes of its entry"},
    {false, CENTRAL, 1, 20, 8, (uint64_t)UINT32_MAX << 32 | UINT32_MAX, PHI_E_FORMAT, "sizes of"},
    {false, CENTRAL, 1, 20, 8, 4000ULL << 32 | 4000, PHI_E_FORMAT, "reaches beyond"},
    {false, CENTRAL, 1, 20, 8, 60ULL << 32 | 60, PHI_E_FORMAT, "overlap"},
    {false, CENTRAL, 2, 20, 8, 9ULL << 32 | 9, PHI_E_FORMAT, "storage \"1\""},
    {false, CENTRAL, 1, 34, 2, 1, PHI_E_FORMAT, "sizes of its entry"},
    {false, CENTRAL, 1, 42, 4, 0, PHI_E_FORMAT, "contradicts the directory"},
    {false, CENTRAL, 1, 42, 4, 100000, PHI_E_FORMAT, "lies outside"},
    {false, CENTRAL, 1, 46, 1, 'T', PHI_E_FORMAT, "contradicts the directory"},
    {false, CENTRAL, 1, 46, 1, 7, PHI_E_FORMAT, "not text"},
    {false, CENTRAL, 1, 28, 2, 60000, PHI_E_FORMAT, "longer than 512 bytes"},
    {false, CENTRAL, 1, 30, 2, 60000, PHI_E_FORMAT, "cut short"},
    {false, CENTRAL, 1, 0, 1, 'Q', PHI_E_FORMAT, "malformed"},
    {false, LOCAL, 1, 0, 1, 'Q', PHI_E_FORMAT, "contradicts"},
    {false, LOCAL, 1, 6, 2, 1, PHI_E_FORMAT, "contradicts"},
    {false, LOCAL, 1, 8, 2, 8, PHI_E_FORMAT, "contradicts"},
    {false, LOCAL, 1, 26, 2, 9, PHI_E_FORMAT, "contradicts"},
    {false, LOCAL, 1, 28, 2, 60000, PHI_E_FORMAT, "reaches beyond"},
    {false, LOCAL, 1, 30, 1, 'T', PHI_E_FORMAT, "contradicts"},
    {false, END, 0, 0, 1, 'Q', PHI_E_FORMAT, "no zip directory"},
    {false, END, 0, 4, 2, 1, PHI_E_UNSUPPORTED, "several files"},
    {false, END, 0, 10, 2, 4, PHI_E_UNSUPPORTED, "several files"},
    {false, END, 0, 8, 4, 4U << 16 | 4, PHI_E_FORMAT, "malformed"},
    {false, END, 0, 8, 4, 2U << 16 | 2, PHI_E_FORMAT, "too many"},
    {false, END, 0, 12, 4, 7, PHI_E_FORMAT, "it has to end at"},
    {false, END, 0, 12, 4, UINT32_MAX - 1, PHI_E_LIMIT, "are accepted"},
    {false, END, 0, 16, 4, 7, PHI_E_FORMAT, "it has to end at"},
    {false, END, 0, 20, 2, 7, PHI_E_FORMAT, "no zip directory"},
    {true, LOCATOR, 0, 8, 8, UINT64_MAX, PHI_E_FORMAT, "ZIP64 record lies outside"},
    {true, LOCATOR, 0, 8, 8, 3, PHI_E_FORMAT, "ZIP64 record is malformed"},
    {true, LOCATOR, 0, 16, 4, 2, PHI_E_FORMAT, "ZIP64 record is malformed"},
    {true, END64, 0, 4, 8, UINT64_MAX - 11, PHI_E_FORMAT, "ZIP64 record is malformed"},
    {true, END64, 0, 32, 8, UINT64_MAX, PHI_E_FORMAT, "ZIP64 record is malformed"},
    {true, END64, 0, 40, 8, UINT64_MAX - 3, PHI_E_LIMIT, "are accepted"},
    {true, END64, 0, 48, 8, UINT64_MAX - 3, PHI_E_FORMAT, "it has to end at"},
    {true, END, 0, 12, 4, 5, PHI_E_FORMAT, "contradicts"},
    {true, CENTRAL, 1, 46 + 10 + 9, 8, UINT64_MAX, PHI_E_FORMAT, "sizes of its entry"},
    {true, CENTRAL, 1, 46 + 10 + 25, 8, UINT64_MAX, PHI_E_FORMAT, "lies outside"},
    {true, CENTRAL, 1, 46 + 10 + 7, 2, 16, PHI_E_FORMAT, "sizes of its entry"},
    {true, CENTRAL, 1, 46 + 10 + 2, 2, 60000, PHI_E_FORMAT, "sizes of its entry"},
};

static void test_lying_archives(void **state)
{
    (void)state;
    phi_buf pickle;
    phi_buf_init(&pickle, 1U << 16);
    pickle_dict(&pickle, good, N_GOOD, false);
    for (size_t i = 0; i < sizeof patches / sizeof *patches; i++) {
        zip_builder zip;
        build_zip(&zip, &pickle, patches[i].zip64, NULL, NULL);
        size_t at = place_of(&zip.file, patches[i].signature, patches[i].which);
        memcpy(zip.file.data + at + patches[i].offset, &patches[i].value, patches[i].bytes);
        expect(&zip.file, patches[i].status, patches[i].says);
        phi_buf_done(&zip.file);
    }
    phi_buf_done(&pickle);
}

static void test_other_archives(void **state)
{
    (void)state;
    static const struct {
        const char *extra;
        const char *content;
        phi_status status;
        const char *says;
    } cases[] = {
        {"top/byteorder", "big", PHI_E_UNSUPPORTED, "byte order"},
        {"top/byteorder", "little endian, or so it says", PHI_E_UNSUPPORTED, "byte order"},
        {"top/constants.pkl", "", PHI_E_UNSUPPORTED, "TorchScript"},
        {"other/data/2", "", PHI_E_FORMAT, "not in the same folder"},
        {"topmost", "", PHI_E_FORMAT, "not in the same folder"},
        {"top/data/0", "", PHI_E_FORMAT, "twice"},
        {"top/data/2", "1234", PHI_OK, ""},
        {"top/.data/serialization_id", "1234", PHI_OK, ""},
    };
    phi_buf pickle;
    phi_buf_init(&pickle, 1U << 16);
    pickle_dict(&pickle, good, N_GOOD, false);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        zip_builder zip;
        build_zip(&zip, &pickle, i & 1, cases[i].extra, cases[i].content);
        expect(&zip.file, cases[i].status, cases[i].says);
        phi_buf_done(&zip.file);
    }
    zip_builder zip;
    zip_start(&zip, false);
    zip_add(&zip, "data.pkl", pickle.data, pickle.length_bytes);
    zip_finish(&zip);
    expect(&zip.file, PHI_E_FORMAT, "without data.pkl");
    phi_buf_done(&zip.file);
    /* Cut anywhere, and at every byte, it is no file of tensors. */
    build_zip(&zip, &pickle, true, NULL, NULL);
    size_t whole = zip.file.length_bytes;
    for (size_t bytes = 0; bytes < whole; bytes += 1 + bytes / 97) {
        zip.file.length_bytes = bytes;
        expect(&zip.file, PHI_E_FORMAT, "");
    }
    phi_buf_done(&zip.file);
    phi_buf_done(&pickle);
}

/* ---- streams that lie ---- */

static void test_lying_streams(void **state)
{
    (void)state;
    phi_buf pickle;
    phi_buf stream;
    phi_buf_init(&pickle, 1U << 16);
    pickle_dict(&pickle, good, N_GOOD, true);
    build_stream(&stream, &pickle, false);
    expect(&stream, PHI_E_UNSUPPORTED, "\"little_endian\" is not true");
    phi_buf_done(&stream);
    build_stream(&stream, &pickle, true);
    size_t whole = stream.length_bytes;
    for (size_t bytes = 0; bytes < whole; bytes++) {
        stream.length_bytes = bytes;
        expect(&stream, PHI_E_FORMAT, "");
    }
    stream.length_bytes = whole;
    put_bytes(&stream, "x", 1);
    expect(&stream, PHI_E_FORMAT, "1 bytes after its last storage");
    stream.length_bytes = whole;
    stream.data[whole - 16] = 2;
    expect(&stream, PHI_E_FORMAT, "storage \"1\" has 2 elements");
    stream.data[whole - 16] = 1;
    stream.data[1 + whole - 16] = 1;
    expect(&stream, PHI_E_FORMAT, "storage \"1\" has 257 elements");
    phi_buf_done(&stream);
    static const char *const keys[][2] = {{"0", "2"}, {"0", "0"}, {"0", NULL}};
    static const char *const says[] = {"storage 1 of its list", "storage \"0\" twice",
                                       "after its last storage"};
    for (int i = 0; i < 3; i++) {
        phi_buf_init(&stream, 1U << 20);
        stream_start(&stream, true);
        put_bytes(&stream, pickle.data, pickle.length_bytes);
        stream_keys(&stream, keys[i], keys[i][1] ? 2 : 1);
        stream_storage(&stream, 12, bytes24, 24);
        stream_storage(&stream, 12, bytes24, 24);
        expect(&stream, PHI_E_FORMAT, says[i]);
        phi_buf_done(&stream);
    }
    phi_buf_done(&pickle);
    phi_buf other;
    phi_buf_init(&other, 1U << 10);
    put_bytes(&other, "\x89HDF\r\n", 6);
    expect(&other, PHI_E_FORMAT, "not a file that torch.save wrote");
    phi_buf_done(&other);
}

/* Every allocation fails once: an error, and no leak, which the sanitizer build sees. */
static void test_out_of_memory(void **state)
{
    (void)state;
    fixture_model model;
    fixture_tiny_hf(&model, PHI_DTYPE_BF16, true);
    for (int stream = 0; stream < 2; stream++) {
        const char *path = fixture_write_torch(&f, "m.bin", &model, 0, model.count, stream);
        phi_tensor_file file;
        phi_err err;
        uint64_t before = phi_mem_allocations();
        assert_int_equal(phi_torch_file_open(path, &file, &err), PHI_OK);
        assert_int_equal(file.count, model.count);
        phi_tensor_file_close(&file);
        int total = (int)(phi_mem_allocations() - before);
        int failures = 0;
        for (int n = 0; n < total; n++) {
            phi_mem_fail_after(n);
            phi_status status = phi_torch_file_open(path, &file, &err);
            phi_mem_fail_after(-1);
            if (status == PHI_OK) {
                phi_tensor_file_close(&file);
            } else {
                assert_int_equal(status, PHI_E_NO_MEMORY);
            }
            failures += status != PHI_OK;
        }
        assert_true(failures >= 10);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_containers), cmocka_unit_test(test_lying_tensors),
        cmocka_unit_test(test_other_pickles),   cmocka_unit_test(test_other_ways),
        cmocka_unit_test(test_lying_archives),  cmocka_unit_test(test_other_archives),
        cmocka_unit_test(test_lying_streams),   cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
