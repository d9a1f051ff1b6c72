/* The registry over a pool and models that the test drives by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "server/app.h"
#include "server/registry.h"
#include "server/store/store.h"

/* ---- fakes: the pool ---- */

typedef struct task {
    void (*run)(void *arg);
    void (*done)(void *arg);
    void *arg;
} task;

static task tasks[32];
static size_t n_tasks;
static bool pool_full;

phi_status phi_work_submit(phi_work *work, phi_work_kind kind, void (*run)(void *arg),
                           void (*done)(void *arg), void *arg)
{
    (void)work;
    assert_int_equal(kind, PHI_WORK_LOAD);
    if (pool_full) {
        return PHI_E_BUSY;
    }
    assert_true(n_tasks < 32);
    tasks[n_tasks++] = (task){run, done, arg};
    return PHI_OK;
}

/* Runs what is queued, and what that queues. */
static size_t run_all(void)
{
    size_t ran = 0;
    while (n_tasks > 0) {
        task next = tasks[0];
        memmove(tasks, tasks + 1, --n_tasks * sizeof *tasks);
        next.run(next.arg);
        next.done(next.arg);
        ran++;
    }
    return ran;
}

/* ---- fakes: models ---- */

struct phi_model {
    int refs;
    char path[64];
};

static int loads;
static int models_alive;
static int models_fit = 100; /* more are refused for memory */
static bool loads_fail;
static char cache_path[64];             /* of the last load; "": none */
static const char *cache_found = "off"; /* what it says of the weights */

phi_status phi_model_load(phi_engine *engine, const char *path, const phi_model_options *options,
                          phi_model **out_model, phi_err *err)
{
    (void)engine;
    assert_int_equal(options->n_ctx, 64);
    assert_int_equal(options->kv_tokens, 128);
    loads++;
    (void)snprintf(cache_path, sizeof cache_path, "%s",
                   options->cache_path ? options->cache_path : "");
    if (loads_fail) {
        return phi_fail(err, PHI_E_FORMAT, "%s is broken", path);
    }
    if (models_alive >= models_fit) {
        return phi_fail(err, PHI_E_NO_MEMORY, "no room for %s", path);
    }
    phi_model *model = phi_alloc_zero(1, sizeof *model);
    model->refs = 1;
    (void)snprintf(model->path, sizeof model->path, "%s", path);
    models_alive++;
    *out_model = model;
    return PHI_OK;
}

phi_model *phi_model_ref(phi_model *model)
{
    model->refs++;
    return model;
}

void phi_model_unref(phi_model *model)
{
    if (model && --model->refs == 0) {
        models_alive--;
        phi_free(model);
    }
}

void phi_model_info_get(const phi_model *model, phi_model_info *out_info)
{
    (void)model;
    *out_info =
        (phi_model_info){.n_ctx = 64, .kv_type = "f16", .cache = cache_found, .cache_reason = ""};
}

/* ---- fakes: the store ---- */

phi_status phi_store_model_list(phi_store *store, phi_store_model **out_models, size_t *out_count,
                                phi_err *err)
{
    (void)store;
    (void)err;
    phi_store_model *models = phi_alloc_zero(1, sizeof *models);
    models[0] = (phi_store_model){.name = "stored",
                                  .precision = "int8",
                                  .sha256 = "abc",
                                  .context_length = 4096,
                                  .architecture = "phi3",
                                  .quality = phi_strdup("{\"tensors\": 3}")};
    *out_models = models;
    *out_count = 1;
    return PHI_OK;
}

void phi_store_models_free(phi_store_model *models, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        phi_free(models[i].quality);
    }
    phi_free(models);
}

char *phi_store_blob_path(const phi_store *store, const char *sha256)
{
    (void)store;
    return phi_strfmt("/blobs/%s", sha256);
}

char *phi_store_packed_path(const phi_store *store, const char *sha256)
{
    (void)store;
    return phi_strfmt("/packed/%s", sha256);
}

static int packed_settled;
static int packed_cleared;

void phi_store_packed_settle(phi_store *store, const char *sha256)
{
    (void)store;
    assert_string_equal(sha256, "abc");
    packed_settled++;
}

void phi_store_packed_clear(phi_store *store)
{
    (void)store;
    packed_cleared++;
}

/* ---- what the tests share ---- */

static char cache_on[] = "on";
static phi_settings settings = {.context = 64, .kv_tokens = 128, .weights_cache = cache_on};
static phi_app app = {.settings = &settings};
static phi_registry *registry;

typedef struct answer {
    int calls;
    phi_model *model;
    phi_err err;
} answer;

static void on_ready(void *user, phi_model *model, const char *id, const phi_err *err)
{
    answer *to = user;
    (void)id;
    to->calls++;
    to->model = model;
    to->err = err ? *err : (phi_err){0};
}

static void add(const char *name, const char *precision, const char *path)
{
    char copy[64];
    (void)snprintf(copy, sizeof copy, "%s", path);
    phi_registry_entry entry = {.path = copy, .context_length = 32};
    (void)snprintf(entry.id, sizeof entry.id, "%s:%s", name, precision);
    (void)snprintf(entry.name, sizeof entry.name, "%s", name);
    (void)snprintf(entry.precision, sizeof entry.precision, "%s", precision);
    phi_registry_add(registry, &entry);
}

static int setup(void **state)
{
    (void)state;
    phi_log_setup(PHI_LOG_OFF, false);
    n_tasks = 0;
    loads = 0;
    models_alive = 0;
    models_fit = 100;
    loads_fail = false;
    pool_full = false;
    assert_int_equal(phi_registry_create(&app, &registry, NULL), PHI_OK);
    add("a", "int4", "/a4");
    add("a", "fp32", "/a32");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    (void)run_all();
    phi_registry_destroy(registry);
    (void)run_all();
    assert_int_equal(models_alive, 0);
    return 0;
}

/* ---- tests ---- */

static void test_list(void **state)
{
    (void)state;
    assert_int_equal(phi_registry_count(registry), 3);
    const phi_registry_entry *entry = phi_registry_at(registry, 0);
    assert_string_equal(entry->id, "stored:int8");
    assert_string_equal(entry->path, "/blobs/abc");
    assert_int_equal(entry->context_length, 64); /* what the settings allow */
    assert_int_equal(json_integer_value(json_object_get(entry->quality, "tensors")), 3);
    assert_int_equal(phi_registry_at(registry, 1)->context_length, 32);
}

static void test_find(void **state)
{
    (void)state;
    phi_err err = {0};
    assert_string_equal(phi_registry_find(registry, "a", NULL, &err)->id, "a:int4");
    assert_string_equal(phi_registry_find(registry, "a:fp32", NULL, &err)->id, "a:fp32");
    assert_string_equal(phi_registry_find(registry, "a", "fp32", &err)->id, "a:fp32");
    assert_string_equal(phi_registry_find(registry, "a:fp32", "fp32", &err)->id, "a:fp32");
    assert_null(phi_registry_find(registry, "a:fp32", "int4", &err));
    assert_int_equal(err.code, PHI_E_INVALID);
    assert_string_equal(err.param, "precision");
    assert_null(phi_registry_find(registry, "a:int8", NULL, &err));
    assert_int_equal(err.code, PHI_E_NOT_FOUND);
    assert_non_null(strstr(err.message, "a:int4, a:fp32"));
    assert_null(phi_registry_find(registry, "aa", NULL, &err));
    assert_null(phi_registry_find(registry, "", NULL, &err));
}

static void test_one_load_for_all_who_wait(void **state)
{
    (void)state;
    answer one = {0};
    answer two = {0};
    phi_registry_acquire(registry, "a", NULL, on_ready, &one);
    phi_registry_acquire(registry, "a:int4", NULL, on_ready, &two);
    assert_int_equal(one.calls + two.calls, 0);
    assert_int_equal(run_all(), 1);
    assert_int_equal(loads, 1);
    assert_int_equal(one.calls, 1);
    assert_int_equal(two.calls, 1);
    assert_ptr_equal(one.model, two.model);
    assert_int_equal(one.model->refs, 3);
    answer three = {0};
    phi_registry_acquire(registry, "a", NULL, on_ready, &three);
    assert_int_equal(three.calls, 1); /* at once */
    phi_registry_release(registry, one.model);
    phi_registry_release(registry, two.model);
    phi_registry_release(registry, three.model);
    assert_int_equal(one.model->refs, 1);
}

static void load_stored(const char *found)
{
    answer one = {0};
    cache_found = found;
    phi_registry_acquire(registry, "stored", NULL, on_ready, &one);
    (void)run_all();
    assert_non_null(one.model);
    phi_registry_release(registry, one.model);
}

static void test_packed_weights(void **state)
{
    (void)state;
    phi_registry_loads counted;
    packed_settled = 0;
    load_stored("built");
    assert_string_equal(cache_path, "/packed/abc");
    assert_int_equal(packed_settled, 1);
    /* A model that is no blob of the store's has no place for them. */
    answer one = {0};
    cache_found = "off";
    phi_registry_acquire(registry, "a", NULL, on_ready, &one);
    (void)run_all();
    assert_string_equal(cache_path, "");
    assert_int_equal(packed_settled, 1);
    phi_registry_release(registry, one.model);
    phi_registry_loads_get(registry, &counted);
    assert_int_equal(counted.built, 1);
    assert_int_equal(counted.in_memory, 1);
    assert_int_equal(counted.mapped + counted.failed, 0);
    assert_int_equal(packed_cleared, 0);
}

static void test_packed_weights_are_off(void **state)
{
    (void)state;
    static char off[] = "off";
    (void)teardown(NULL);
    settings.weights_cache = off;
    packed_cleared = 0;
    packed_settled = 0;
    (void)setup(NULL);
    load_stored("off");
    settings.weights_cache = cache_on;
    assert_int_equal(packed_cleared, 1);
    assert_int_equal(packed_settled, 0);
    assert_string_equal(cache_path, "");
}

static void test_failed_load_answers_all(void **state)
{
    (void)state;
    answer one = {0};
    answer two = {0};
    loads_fail = true;
    phi_registry_acquire(registry, "a", NULL, on_ready, &one);
    phi_registry_acquire(registry, "a", NULL, on_ready, &two);
    (void)run_all();
    assert_int_equal(loads, 1);
    assert_int_equal(one.calls, 1);
    assert_null(one.model);
    assert_int_equal(one.err.code, PHI_E_FORMAT);
    assert_int_equal(two.err.code, PHI_E_FORMAT);
    /* The next one tries again. */
    loads_fail = false;
    phi_registry_acquire(registry, "a", NULL, on_ready, &one);
    (void)run_all();
    assert_non_null(one.model);
    phi_registry_release(registry, one.model);
}

static void test_unknown_model(void **state)
{
    (void)state;
    answer one = {0};
    phi_registry_acquire(registry, "b", NULL, on_ready, &one);
    assert_int_equal(one.calls, 1);
    assert_null(one.model);
    assert_int_equal(one.err.code, PHI_E_NOT_FOUND);
}

static void test_removed_while_in_use(void **state)
{
    (void)state;
    answer one = {0};
    phi_registry_acquire(registry, "a", NULL, on_ready, &one);
    (void)run_all();
    assert_true(phi_registry_remove(registry, "a:int4"));
    assert_false(phi_registry_remove(registry, "a:int4"));
    assert_int_equal(phi_registry_count(registry), 2);
    assert_string_equal(phi_registry_find(registry, "a", NULL, NULL)->id, "a:fp32");
    assert_int_equal(run_all(), 0);
    assert_int_equal(models_alive, 1);
    phi_registry_release(registry, one.model);
    assert_int_equal(run_all(), 1);
    assert_int_equal(models_alive, 0);
}

static void test_removed_while_loading(void **state)
{
    (void)state;
    answer one = {0};
    phi_registry_acquire(registry, "a", NULL, on_ready, &one);
    assert_true(phi_registry_remove(registry, "a:int4"));
    (void)run_all();
    assert_int_equal(one.calls, 1);
    assert_non_null(one.model); /* it was there when it was asked for */
    phi_registry_release(registry, one.model);
    (void)run_all();
    assert_int_equal(models_alive, 0);
}

static void test_replaced_keeps_its_place(void **state)
{
    (void)state;
    answer old = {0};
    answer fresh = {0};
    phi_registry_acquire(registry, "a", NULL, on_ready, &old);
    (void)run_all();
    add("a", "int4", "/new");
    assert_int_equal(phi_registry_count(registry), 3);
    assert_string_equal(phi_registry_find(registry, "a", NULL, NULL)->path, "/new");
    phi_registry_acquire(registry, "a", NULL, on_ready, &fresh);
    (void)run_all();
    assert_string_equal(fresh.model->path, "/new");
    assert_string_equal(old.model->path, "/a4");
    phi_registry_release(registry, old.model);
    phi_registry_release(registry, fresh.model);
    (void)run_all();
    assert_int_equal(models_alive, 1);
}

static void test_idle_model_makes_room(void **state)
{
    (void)state;
    answer one = {0};
    answer two = {0};
    answer three = {0};
    models_fit = 2;
    phi_registry_acquire(registry, "a:int4", NULL, on_ready, &one);
    (void)run_all();
    phi_registry_acquire(registry, "a:fp32", NULL, on_ready, &two);
    (void)run_all();
    phi_registry_release(registry, one.model);
    phi_registry_release(registry, two.model);
    /* int4 has been idle for longer. */
    phi_registry_acquire(registry, "stored", NULL, on_ready, &three);
    (void)run_all();
    assert_non_null(three.model);
    assert_int_equal(phi_registry_find(registry, "a:int4", NULL, NULL)->state, PHI_REGISTRY_COLD);
    assert_int_equal(phi_registry_find(registry, "a:fp32", NULL, NULL)->state, PHI_REGISTRY_READY);
    phi_registry_release(registry, three.model);
}

static void test_no_room_and_nothing_idle(void **state)
{
    (void)state;
    answer one = {0};
    answer two = {0};
    models_fit = 1;
    phi_registry_acquire(registry, "a:int4", NULL, on_ready, &one);
    (void)run_all();
    phi_registry_acquire(registry, "a:fp32", NULL, on_ready, &two);
    (void)run_all();
    assert_int_equal(two.calls, 1);
    assert_null(two.model);
    assert_int_equal(two.err.code, PHI_E_NO_MEMORY);
    assert_int_equal(models_alive, 1);
    phi_registry_release(registry, one.model);
}

static void test_destroyed_while_loading(void **state)
{
    (void)state;
    answer one = {0};
    phi_registry_acquire(registry, "a", NULL, on_ready, &one);
    phi_registry_destroy(registry);
    (void)run_all();
    assert_int_equal(one.calls, 1);
    phi_registry_release(registry, one.model);
    (void)run_all();
    assert_int_equal(models_alive, 0);
    (void)setup(state);
}

static void test_full_pool(void **state)
{
    (void)state;
    answer one = {0};
    pool_full = true;
    phi_registry_acquire(registry, "a", NULL, on_ready, &one);
    assert_int_equal(one.calls, 1);
    assert_int_equal(one.err.code, PHI_E_BUSY);
    pool_full = false;
    phi_registry_acquire(registry, "a", NULL, on_ready, &one);
    (void)run_all();
    assert_non_null(one.model);
    assert_true(phi_registry_remove(registry, "a:int4"));
    pool_full = true;
    phi_registry_release(registry, one.model); /* the reference waits for the pool */
    assert_int_equal(models_alive, 1);
    pool_full = false;
    phi_registry_acquire(registry, "a:fp32", NULL, on_ready, &one);
    (void)run_all();
    assert_int_equal(models_alive, 1);
    phi_registry_release(registry, one.model);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_list),
        CASE(test_find),
        CASE(test_one_load_for_all_who_wait),
        CASE(test_packed_weights),
        CASE(test_packed_weights_are_off),
        CASE(test_failed_load_answers_all),
        CASE(test_unknown_model),
        CASE(test_removed_while_in_use),
        CASE(test_removed_while_loading),
        CASE(test_replaced_keeps_its_place),
        CASE(test_idle_model_makes_room),
        CASE(test_no_room_and_nothing_idle),
        CASE(test_full_pool),
        CASE(test_destroyed_while_loading),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
