/* The routes that exist and the routes that openapi.json describes are the same. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "server/openapi.h"
#include "server/routes.h"

static json_t *load(void)
{
    size_t bytes = 0;
    const char *text = phi_openapi_text(&bytes);
    json_error_t error;
    json_t *doc = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    if (!doc) {
        fail_msg("openapi.json: %s (line %d)", error.text, error.line);
    }
    return doc;
}

static void lower(const char *method, char out[16])
{
    size_t i = 0;
    for (; method[i] && i < 15; i++) {
        out[i] = (char)tolower((unsigned char)method[i]);
    }
    out[i] = '\0';
}

static void test_every_route_is_described(void **state)
{
    (void)state;
    json_t *doc = load();
    size_t count = 0;
    phi_route *routes = phi_routes_create(&count);
    assert_true(count > 20);
    for (size_t i = 0; i < count; i++) {
        char method[16];
        lower(routes[i].method, method);
        json_t *path = json_object_get(json_object_get(doc, "paths"), routes[i].pattern);
        json_t *operation = json_object_get(path, method);
        if (!operation) {
            fail_msg("openapi.json does not describe %s %s", routes[i].method, routes[i].pattern);
        }
        /* Open routes say so, the others do not. */
        assert_int_equal(routes[i].open, json_object_get(operation, "security") != NULL);
    }
    phi_routes_destroy(routes);
    json_decref(doc);
}

static void test_nothing_else_is_described(void **state)
{
    (void)state;
    json_t *doc = load();
    size_t count = 0;
    phi_route *routes = phi_routes_create(&count);
    size_t described = 0;
    const char *path;
    json_t *operations;
    json_object_foreach(json_object_get(doc, "paths"), path, operations)
    {
        const char *method;
        json_t *operation;
        json_object_foreach(operations, method, operation)
        {
            described++;
            bool found = false;
            for (size_t i = 0; i < count && !found; i++) {
                char name[16];
                lower(routes[i].method, name);
                found = strcmp(routes[i].pattern, path) == 0 && strcmp(name, method) == 0;
            }
            if (!found) {
                fail_msg("openapi.json describes %s %s, which does not exist", method, path);
            }
        }
    }
    assert_int_equal(described, count);
    phi_routes_destroy(routes);
    json_decref(doc);
}

/* Every "$ref" leads somewhere. */
static void check_refs(json_t *schemas, json_t *at)
{
    const char *key;
    json_t *value;
    size_t i;
    if (json_is_array(at)) {
        json_array_foreach(at, i, value)
        {
            check_refs(schemas, value);
        }
    }
    json_object_foreach(at, key, value)
    {
        static const char prefix[] = "#/components/schemas/";
        const char *ref = strcmp(key, "$ref") == 0 ? json_string_value(value) : NULL;
        if (ref && strncmp(ref, prefix, sizeof prefix - 1) == 0) {
            assert_non_null(json_object_get(schemas, ref + sizeof prefix - 1));
        }
        check_refs(schemas, value);
    }
}

static void test_references(void **state)
{
    (void)state;
    json_t *doc = load();
    json_t *schemas = json_object_get(json_object_get(doc, "components"), "schemas");
    assert_non_null(schemas);
    check_refs(schemas, doc);
    json_decref(doc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_route_is_described),
        cmocka_unit_test(test_nothing_else_is_described),
        cmocka_unit_test(test_references),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
