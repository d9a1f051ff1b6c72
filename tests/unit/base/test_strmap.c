/* The map keeps every entry through its growth and refuses what is there already. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/strmap.h"

#define MANY 20000U

static void test_many(void **state)
{
    (void)state;
    char(*keys)[8] = phi_alloc_zero(MANY, sizeof *keys);
    phi_strmap *map = phi_strmap_create(0);
    for (uint32_t i = 0; i < MANY; i++) {
        (void)snprintf(keys[i], sizeof keys[i], "k%u", i);
        assert_int_equal(phi_strmap_insert(map, keys[i], strlen(keys[i]), i), PHI_OK);
    }
    assert_int_equal(phi_strmap_count(map), MANY);
    for (uint32_t i = 0; i < MANY; i++) {
        uint32_t value = 0;
        char copy[8];
        memcpy(copy, keys[i], sizeof copy);
        assert_true(phi_strmap_find(map, copy, strlen(copy), &value));
        assert_int_equal(value, i);
    }
    uint32_t value = 77;
    assert_false(phi_strmap_find(map, "k20000", 6, &value));
    assert_int_equal(value, 77);
    phi_strmap_destroy(map);
    phi_free(keys);
}

static void test_bytes_not_text(void **state)
{
    (void)state;
    phi_strmap *map = phi_strmap_create(4);
    uint32_t value = 0;
    assert_int_equal(phi_strmap_insert(map, "a\0b", 3, 1), PHI_OK);
    assert_int_equal(phi_strmap_insert(map, "a\0c", 3, 2), PHI_OK);
    assert_int_equal(phi_strmap_insert(map, "a", 1, 3), PHI_OK);
    assert_int_equal(phi_strmap_insert(map, "", 0, 4), PHI_OK);
    assert_int_equal(phi_strmap_insert(map, "a\0b", 3, 9), PHI_E_EXISTS);
    assert_true(phi_strmap_find(map, "a\0b", 3, &value) && value == 1);
    assert_true(phi_strmap_find(map, "a\0c", 3, &value) && value == 2);
    assert_true(phi_strmap_find(map, "a", 1, &value) && value == 3);
    assert_true(phi_strmap_find(map, "", 0, &value) && value == 4);
    assert_int_equal(phi_strmap_count(map), 4);
    phi_strmap_destroy(map);
}

static void test_out_of_memory(void **state)
{
    (void)state;
    for (int n = 0; n < 2; n++) {
        phi_mem_fail_after(n);
        assert_null(phi_strmap_create(10));
        phi_mem_fail_after(-1);
    }
    phi_strmap *map = phi_strmap_create(0);
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz";
    phi_mem_fail_after(0);
    phi_status status = PHI_OK;
    uint32_t inserted = 0;
    while (!status && inserted < 26) {
        status = phi_strmap_insert(map, letters + inserted, 1, inserted);
        inserted += !status;
    }
    phi_mem_fail_after(-1);
    assert_int_equal(status, PHI_E_NO_MEMORY);
    /* The refused insert changed nothing, and the next one goes through. */
    uint32_t value = 0;
    assert_true(phi_strmap_find(map, "a", 1, &value));
    assert_int_equal(phi_strmap_count(map), inserted);
    assert_int_equal(phi_strmap_insert(map, letters + inserted, 1, inserted), PHI_OK);
    phi_strmap_destroy(map);
    phi_strmap_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_bytes_not_text),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
