/* One safetensors file: what is accepted, and that each kind of lie is named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <jansson.h>

#include "base/mem.h"
#include "engine/formats/safetensors.h"
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

static void test_entries_in_file_order(void **state)
{
    (void)state;
    const char *path = fixture_safetensors(
        &f, "a.safetensors",
        "{\"__metadata__\":null,"
        "\"b\":{\"dtype\":\"F16\",\"shape\":[2,3],\"data_offsets\":[16,28]},"
        "\"empty\":{\"dtype\":\"I64\",\"shape\":[0,4],\"data_offsets\":[16,16]},"
        "\"s\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[28,30]},"
        "\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}    ",
        30);
    phi_tensor_file file;
    phi_err err;
    assert_int_equal(phi_safetensors_open(path, &file, &err), PHI_OK);
    assert_int_equal(file.count, 4);
    assert_string_equal(file.entries[0].name, "a");
    assert_string_equal(file.entries[1].name, "empty");
    assert_false(file.entries[1].readable);
    assert_string_equal(file.entries[1].dtype_name, "I64");
    assert_string_equal(file.entries[2].name, "b");
    assert_int_equal(file.entries[2].dtype, PHI_DTYPE_F16);
    assert_int_equal(phi_tensor_entry_rows(&file.entries[2]), 2);
    assert_int_equal(phi_tensor_entry_cols(&file.entries[2]), 3);
    assert_int_equal(file.entries[3].n_dims, 0);
    uint8_t byte;
    assert_int_equal(phi_file_read_at(&file.file, file.entries[2].offset, &byte, 1, &err), PHI_OK);
    assert_int_equal(byte, 16);
    phi_tensor_file_close(&file);
}

typedef struct wrong {
    const char *header;
    size_t data_bytes;
    phi_status status;
    const char *says;
} wrong;

#define ONE(body) "{\"t\":{" body "}}"
#define SHAPE2 "\"dtype\":\"F32\",\"shape\":[2],"

static const wrong wrongs[] = {
    {"[1]", 0, PHI_E_FORMAT, "does not start with"},
    {"{\"t\":", 0, PHI_E_FORMAT, "not valid JSON"},
    {"{} x", 0, PHI_E_FORMAT, "not valid JSON"},
    {"{\"t\":3}", 0, PHI_E_FORMAT, "\"t\" is not an object"},
    {"{\"\":{}}", 0, PHI_E_FORMAT, "name is empty"},
    {"{\"a\\nb\":{}}", 0, PHI_E_FORMAT, "control characters"},
    {"{\"__metadata__\":{\"a\":1}}", 0, PHI_E_FORMAT, "__metadata__"},
    {"{\"__metadata__\":3}", 0, PHI_E_FORMAT, "__metadata__"},
    {"{\"t\":{" SHAPE2 "\"data_offsets\":[0,8]},\"t\":{" SHAPE2 "\"data_offsets\":[8,16]}}", 16,
     PHI_E_FORMAT, "duplicate"},
    {ONE("\"shape\":[2],\"data_offsets\":[0,8]"), 8, PHI_E_FORMAT, "no \"dtype\""},
    {ONE("\"dtype\":\"F31\",\"shape\":[2],\"data_offsets\":[0,8]"), 8, PHI_E_FORMAT, "\"F31\""},
    {ONE("\"dtype\":\"F32\",\"data_offsets\":[0,8]"), 8, PHI_E_FORMAT, "\"shape\""},
    {ONE("\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]"), 8, PHI_E_FORMAT,
     "dimension 0"},
    {ONE("\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]"), 8, PHI_E_FORMAT,
     "dimension 0"},
    {ONE("\"dtype\":\"F32\",\"shape\":[4611686018427387904,16],\"data_offsets\":[0,8]"), 8,
     PHI_E_FORMAT, "not a usable size"},
    {ONE("\"dtype\":\"F32\",\"shape\":[1,1,1,1,2],\"data_offsets\":[0,8]"), 8, PHI_E_LIMIT,
     "5 dimensions"},
    {ONE("\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]"), 2, PHI_E_FORMAT, "whole number"},
    {ONE("\"dtype\":\"F32\",\"shape\":[2]"), 8, PHI_E_FORMAT, "data_offsets"},
    {ONE(SHAPE2 "\"data_offsets\":[8,0]"), 8, PHI_E_FORMAT, "data_offsets"},
    {ONE(SHAPE2 "\"data_offsets\":[0,8,9]"), 8, PHI_E_FORMAT, "data_offsets"},
    {ONE(SHAPE2 "\"data_offsets\":[0,12]"), 12, PHI_E_FORMAT, "spans 12 bytes"},
    {ONE(SHAPE2 "\"data_offsets\":[4,12]"), 12, PHI_E_FORMAT, "hole"},
    {ONE(SHAPE2 "\"data_offsets\":[0,8]"), 7, PHI_E_FORMAT, "beyond the end"},
    {ONE(SHAPE2 "\"data_offsets\":[0,8]"), 9, PHI_E_FORMAT, "1 bytes after"},
    {"{}", 1, PHI_E_FORMAT, "1 bytes after"},
    {"{\"a\":{" SHAPE2 "\"data_offsets\":[0,8]},\"b\":{" SHAPE2 "\"data_offsets\":[4,12]}}", 12,
     PHI_E_FORMAT, "overlaps"},
};

static void test_lies_are_named(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof wrongs / sizeof *wrongs; i++) {
        const wrong *w = &wrongs[i];
        const char *path = fixture_safetensors(&f, "bad.safetensors", w->header, w->data_bytes);
        phi_tensor_file file;
        phi_err err = {0};
        phi_status status = phi_safetensors_open(path, &file, &err);
        if (status != w->status || !strstr(err.message, w->says)) {
            fail_msg("%s: %s: \"%s\"", w->header, phi_status_name(status), err.message);
        }
        assert_non_null(strstr(err.message, "bad.safetensors"));
    }
}

static void test_deep_and_long_names(void **state)
{
    (void)state;
    char header[800] = "{\"t\":";
    memset(header + 5, '[', 200);
    phi_tensor_file file;
    phi_err err;
    const char *path = fixture_safetensors(&f, "a.safetensors", header, 0);
    assert_int_equal(phi_safetensors_open(path, &file, &err), PHI_E_LIMIT);
    assert_non_null(strstr(err.message, "nested deeper"));
    memset(header, 0, sizeof header);
    memcpy(header, "{\"", 2);
    memset(header + 2, 'n', 300);
    memcpy(header + 302, "\":{}}", 5);
    path = fixture_safetensors(&f, "a.safetensors", header, 0);
    assert_int_equal(phi_safetensors_open(path, &file, &err), PHI_E_FORMAT);
    assert_non_null(strstr(err.message, "longer than"));
}

static void test_lengths_that_lie(void **state)
{
    (void)state;
    static const uint64_t lengths[] = {0, 1, 3, 100000001, UINT64_MAX, INT64_MAX};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        char bytes[10] = {0};
        memcpy(bytes, &lengths[i], 8);
        memcpy(bytes + 8, "{}", 2);
        phi_tensor_file file;
        phi_err err;
        const char *path = fixture_write(&f, "a.safetensors", bytes, sizeof bytes);
        assert_int_equal(phi_safetensors_open(path, &file, &err), PHI_E_FORMAT);
    }
    phi_tensor_file file;
    phi_err err;
    const char *path = fixture_write(&f, "a.safetensors", "1234567", 7);
    assert_int_equal(phi_safetensors_open(path, &file, &err), PHI_E_FORMAT);
    assert_non_null(strstr(err.message, "too short"));
    assert_int_equal(phi_safetensors_open(fixture_path(&f, "absent"), &file, &err),
                     PHI_E_NOT_FOUND);
    assert_int_equal(phi_safetensors_open(f.dir, &file, &err), PHI_E_INVALID);
}

/* Every allocation fails once, those of the JSON parser too: an error or, where the parser can do
 * without, the whole file, but never part of it; and no leak, which the sanitizer build sees.
 * jansson reports some of its failed allocations as an invalid token, so any code will do. */
static void test_out_of_memory(void **state)
{
    (void)state;
    fixture_model model;
    fixture_tiny_hf(&model, PHI_DTYPE_F16, false);
    const char *path = fixture_write_model(&f, "m.safetensors", &model, 0, model.count);
    json_set_alloc_funcs(phi_try_alloc, phi_free);
    phi_tensor_file file;
    phi_err err;
    uint64_t before = phi_mem_allocations();
    assert_int_equal(phi_safetensors_open(path, &file, &err), PHI_OK);
    phi_tensor_file_close(&file);
    int total = (int)(phi_mem_allocations() - before);
    int failures = 0;
    for (int n = 0; n < total; n++) {
        phi_mem_fail_after(n);
        phi_status status = phi_safetensors_open(path, &file, &err);
        phi_mem_fail_after(-1);
        if (status == PHI_OK) {
            assert_int_equal(file.count, model.count);
            phi_tensor_file_close(&file);
        }
        failures += status != PHI_OK;
    }
    assert_true(total > 100);
    assert_true(failures > total / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_entries_in_file_order), cmocka_unit_test(test_lies_are_named),
        cmocka_unit_test(test_deep_and_long_names),   cmocka_unit_test(test_lengths_that_lie),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
