#include "server/registry.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "server/app.h"
#include "server/store/store.h"

/*
 * Invariants
 * 1. The registry holds one reference on the model of each READY slot, and gives it up on the
 *    worker pool alone, since the last one waits for the model's sequences.
 * 2. `uses` counts models handed out and not released; a slot with uses is never unloaded, so that
 *    a release always finds its slot, listed or removed.
 * 3. A LOADING slot has one load under way, or waits for another model to be dropped first.
 */

typedef struct waiter {
    struct waiter *next;
    phi_registry_ready ready;
    void *user;
} waiter;

typedef struct slot {
    struct slot *next; /* in `removed` */
    phi_registry *registry;
    phi_registry_entry entry;
    bool removed;
    size_t uses;
    uint64_t used_ns; /* last acquire or release */
    waiter *waiters;
    waiter **waiters_end;
    /* The load under way. */
    uint64_t load_started_ns;
    phi_model *loaded;
    phi_status status;
    phi_err err;
} slot;

/* A reference on its way to the worker pool. */
typedef struct drop {
    struct drop *next;
    phi_registry *registry;
    phi_model *model;
    slot *then_load; /* NULL, or the slot that needs the room */
} drop;

struct phi_registry {
    phi_app *app;
    slot **slots;
    size_t n_slots;
    slot *removed;  /* off the list, still in use or loading */
    drop *drops;    /* the pool was full: submitted when something ends */
    size_t pending; /* loads and drops on the pool */
    phi_registry_loads loads;
    bool closing; /* freed when nothing of the above is left */
};

static void load_start(slot *self);

/* ---- slots ---- */

static void slot_free(slot *self)
{
    PHI_ASSERT(!self->waiters && self->uses == 0 && !self->entry.model);
    phi_free(self->entry.path);
    json_decref(self->entry.quality);
    phi_free(self);
}

static slot *slot_create(phi_registry *registry, const phi_registry_entry *entry)
{
    slot *self = phi_alloc_zero(1, sizeof *self);
    self->registry = registry;
    self->entry = *entry;
    self->entry.path = phi_strdup(entry->path);
    self->entry.state = PHI_REGISTRY_COLD;
    self->entry.model = NULL;
    self->waiters_end = &self->waiters;
    uint64_t context = registry->app->settings->context;
    if (context > 0 && context < self->entry.context_length) {
        self->entry.context_length = (uint32_t)context;
    }
    return self;
}

/* ---- dropping references ---- */

static void drop_run(void *arg)
{
    drop *self = arg;
    phi_model_unref(self->model);
}

static void drops_submit(phi_registry *registry);

/* Frees a registry that is closing once its last load or drop has ended. */
static void settle(phi_registry *registry)
{
    if (registry->closing && registry->pending == 0 && !registry->removed && !registry->drops) {
        phi_free(registry->slots);
        phi_free(registry);
    }
}

static void drop_done(void *arg)
{
    drop *self = arg;
    phi_registry *registry = self->registry;
    slot *then_load = self->then_load;
    phi_free(self);
    registry->pending--;
    drops_submit(registry);
    if (then_load) {
        load_start(then_load);
    }
    settle(registry);
}

static void drops_submit(phi_registry *registry)
{
    while (registry->drops) {
        drop *self = registry->drops;
        if (phi_work_submit(registry->app->work, PHI_WORK_LOAD, drop_run, drop_done, self)) {
            return;
        }
        registry->drops = self->next;
        registry->pending++;
    }
}

/* Takes the registry's reference off a slot. */
static void slot_unload(slot *self, slot *then_load)
{
    drop *task = phi_alloc_zero(1, sizeof *task);
    *task = (drop){.next = self->registry->drops,
                   .registry = self->registry,
                   .model = self->entry.model,
                   .then_load = then_load};
    self->entry.model = NULL;
    self->entry.state = PHI_REGISTRY_COLD;
    self->registry->drops = task;
    drops_submit(self->registry);
}

/* Ends a removed slot when nothing needs it any more. */
static void slot_settle(slot *self)
{
    if (!self->removed || self->uses > 0 || self->entry.state == PHI_REGISTRY_LOADING) {
        return;
    }
    slot **link = &self->registry->removed;
    while (*link != self) {
        link = &(*link)->next;
    }
    *link = self->next;
    if (self->entry.model) {
        slot_unload(self, NULL);
    }
    slot_free(self);
}

/* ---- loading ---- */

/* The idle model that has not been used for the longest time. */
static slot *find_idle(phi_registry *registry, const slot *except)
{
    slot *oldest = NULL;
    for (size_t i = 0; i < registry->n_slots; i++) {
        slot *it = registry->slots[i];
        if (it != except && it->entry.state == PHI_REGISTRY_READY && it->uses == 0 &&
            (!oldest || it->used_ns < oldest->used_ns)) {
            oldest = it;
        }
    }
    return oldest;
}

/* Gives the outcome of a load to all who waited for it. */
static void answer_waiters(slot *self)
{
    waiter *next = self->waiters;
    self->waiters = NULL;
    self->waiters_end = &self->waiters;
    self->uses++; /* A callback may release, remove or acquire: the slot stays until all are told.
                   */
    while (next) {
        waiter *it = next;
        next = it->next;
        if (self->entry.model) {
            self->uses++;
            it->ready(it->user, phi_model_ref(self->entry.model), self->entry.id, NULL);
        } else {
            it->ready(it->user, NULL, self->entry.id, &self->err);
        }
        phi_free(it);
    }
    self->uses--;
    slot_settle(self);
}

/* Clients are not told where files lie; and a model whose file is missing is still known. */
static void tell_clients(slot *self)
{
    const char *message = self->err.message;
    const char *path = strstr(message, self->entry.path);
    if (path) {
        char *text = phi_strfmt("%.*sthe file of model '%s'%s", (int)(path - message), message,
                                self->entry.id, path + strlen(self->entry.path));
        self->status = phi_fail(
            &self->err, self->status == PHI_E_NOT_FOUND ? PHI_E_IO : self->status, "%s", text);
        phi_free(text);
    }
}

/* [job] */
static void on_planned(void *user, const phi_model_plan *plan)
{
    const slot *self = user;
    phi_log(PHI_LOG_INFO, "registry", "model_loading",
            "model=%s weights_bytes=%" PRIu64 " kv_bytes=%" PRIu64 " scratch_bytes=%" PRIu64
            " available_bytes=%" PRIu64,
            self->entry.id, plan->weights_bytes, plan->kv_bytes, plan->scratch_bytes,
            plan->available_bytes);
}

static void load_run(void *arg)
{
    slot *self = arg;
    phi_app *app = self->registry->app;
    const phi_settings *settings = app->settings;
    const char *sha256 = self->entry.sha256;
    bool cached = strcmp(settings->weights_cache, "on") == 0 && sha256[0];
    char *cache_path = cached ? phi_store_packed_path(app->store, sha256) : NULL;
    const phi_model_options options = {.n_ctx = (uint32_t)settings->context,
                                       .kv_tokens = (uint32_t)settings->kv_tokens,
                                       .kv_type = settings->kv_type,
                                       .planned = on_planned,
                                       .planned_user = self,
                                       .cache_path = cache_path,
                                       .source_sha256 = cached ? sha256 : NULL};
    self->status =
        phi_model_load(app->engine, self->entry.path, &options, &self->loaded, &self->err);
    if (cached) {
        phi_store_packed_settle(app->store, sha256);
    }
    phi_free(cache_path);
    if (self->status) {
        tell_clients(self);
    }
}

static void load_failed(slot *self)
{
    if (self->status == PHI_E_NO_MEMORY && !self->removed) {
        slot *idle = find_idle(self->registry, self);
        if (idle) {
            phi_log(PHI_LOG_INFO, "registry", "model_displaced", "model=%s for=%s", idle->entry.id,
                    self->entry.id);
            slot_unload(idle, self);
            return;
        }
    }
    self->registry->loads.failed++;
    phi_log(PHI_LOG_ERROR, "registry", "model_not_loaded", "model=%s reason=%s", self->entry.id,
            self->err.message);
    self->entry.state = PHI_REGISTRY_COLD;
    answer_waiters(self);
}

/* One line when a cache file was made or should have been. */
static void tell_cache(const slot *self, const phi_model_info *info)
{
    phi_registry_loads *loads = &self->registry->loads;
    char reason[PHI_ERR_BYTES_MAX * 2];
    bool failed = strcmp(info->cache, "failed") == 0;
    if (strcmp(info->cache, "mapped") == 0) {
        loads->mapped++;
    } else if (strcmp(info->cache, "built") == 0) {
        loads->built++;
    } else {
        loads->in_memory++;
    }
    if (info->cache_reason[0]) {
        phi_log(failed ? PHI_LOG_WARN : PHI_LOG_INFO, "registry",
                failed ? "weights_not_cached" : "weights_cached", "model=%s reason=%s",
                self->entry.id, phi_log_value(info->cache_reason, reason, sizeof reason));
    }
}

static void load_succeeded(slot *self)
{
    phi_model_info info;
    phi_model_info_get(self->loaded, &info);
    self->entry.model = self->loaded;
    self->loaded = NULL;
    self->entry.state = PHI_REGISTRY_READY;
    self->entry.context_length = info.n_ctx;
    self->used_ns = phi_clock_ns();
    phi_log(PHI_LOG_INFO, "registry", "model_loaded",
            "model=%s ms=%" PRIu64 " weights_bytes=%" PRIu64 " kv_bytes=%" PRIu64
            " kv_type=%s context=%u cache=%s",
            self->entry.id, (self->used_ns - self->load_started_ns) / 1000000, info.weights_bytes,
            info.kv_bytes, info.kv_type, info.n_ctx, info.cache);
    tell_cache(self, &info);
    answer_waiters(self);
}

static void load_done(void *arg)
{
    slot *self = arg;
    phi_registry *registry = self->registry;
    registry->pending--;
    drops_submit(registry);
    if (self->status) {
        load_failed(self);
    } else {
        load_succeeded(self);
    }
    settle(registry);
}

static void load_start(slot *self)
{
    self->registry->pending++;
    self->entry.state = PHI_REGISTRY_LOADING;
    self->load_started_ns = phi_clock_ns();
    self->err = (phi_err){0};
    /* Not into the slot: the worker may be writing to it already. */
    phi_status refused =
        phi_work_submit(self->registry->app->work, PHI_WORK_LOAD, load_run, load_done, self);
    if (refused) {
        self->status = phi_fail(&self->err, refused,
                                "too many models are waiting to be loaded; try again in a moment");
        self->registry->pending--;
        self->entry.state = PHI_REGISTRY_COLD;
        answer_waiters(self);
    }
}

/* ---- finding ---- */

static phi_status not_found(const phi_registry *registry, const char *name, const char *precision,
                            phi_err *err)
{
    char names[PHI_ERR_BYTES_MAX] = "none yet";
    size_t used = 0;
    for (size_t i = 0; i < registry->n_slots && used + 1 < sizeof names; i++) {
        int put = snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "",
                           registry->slots[i]->entry.id);
        used += put > 0 ? (size_t)put : 0;
    }
    return phi_fail_param(err, PHI_E_NOT_FOUND, "model",
                          "there is no model '%.80s%s%.10s'; there are: %s", name,
                          precision ? ":" : "", precision ? precision : "", names);
}

static slot *find_slot(const phi_registry *registry, const char *name, const char *precision,
                       phi_err *err)
{
    const char *colon = strrchr(name, ':');
    size_t name_bytes = colon ? (size_t)(colon - name) : strlen(name);
    const char *wanted = precision;
    if (colon) {
        if (precision && strcmp(precision, colon + 1) != 0) {
            (void)phi_fail_param(err, PHI_E_INVALID, "precision",
                                 "'precision' is '%.20s', but the model's name asks for '%.20s'",
                                 precision, colon + 1);
            return NULL;
        }
        wanted = colon + 1;
    }
    for (size_t i = 0; i < registry->n_slots; i++) {
        const phi_registry_entry *entry = &registry->slots[i]->entry;
        if (strlen(entry->name) == name_bytes && memcmp(entry->name, name, name_bytes) == 0 &&
            (!wanted || strcmp(entry->precision, wanted) == 0)) {
            return registry->slots[i];
        }
    }
    (void)not_found(registry, name, colon ? NULL : precision, err);
    return NULL;
}

const phi_registry_entry *phi_registry_find(const phi_registry *registry, const char *name,
                                            const char *precision, phi_err *err)
{
    const slot *found = find_slot(registry, name, precision, err);
    return found ? &found->entry : NULL;
}

size_t phi_registry_count(const phi_registry *registry)
{
    return registry->n_slots;
}

void phi_registry_loads_get(const phi_registry *registry, phi_registry_loads *out_loads)
{
    *out_loads = registry->loads;
}

const phi_registry_entry *phi_registry_at(const phi_registry *registry, size_t index)
{
    PHI_ASSERT(index < registry->n_slots);
    return &registry->slots[index]->entry;
}

/* ---- changing the list ---- */

static size_t index_of(const phi_registry *registry, const char *id)
{
    size_t i = 0;
    while (i < registry->n_slots && strcmp(registry->slots[i]->entry.id, id) != 0) {
        i++;
    }
    return i;
}

static void slot_remove(slot *self)
{
    self->removed = true;
    self->next = self->registry->removed;
    self->registry->removed = self;
    slot_settle(self);
}

void phi_registry_add(phi_registry *registry, const phi_registry_entry *entry)
{
    PHI_ASSERT_ROLE(PHI_ROLE_LOOP);
    slot *self = slot_create(registry, entry);
    size_t index = index_of(registry, entry->id);
    if (index < registry->n_slots) {
        slot *old = registry->slots[index];
        registry->slots[index] = self;
        slot_remove(old);
        return;
    }
    registry->slots =
        phi_realloc(registry->slots, (registry->n_slots + 1) * sizeof *registry->slots);
    registry->slots[registry->n_slots++] = self;
}

bool phi_registry_remove(phi_registry *registry, const char *id)
{
    PHI_ASSERT_ROLE(PHI_ROLE_LOOP);
    size_t index = index_of(registry, id);
    if (index == registry->n_slots) {
        return false;
    }
    slot *self = registry->slots[index];
    memmove(&registry->slots[index], &registry->slots[index + 1],
            (registry->n_slots - index - 1) * sizeof *registry->slots);
    registry->n_slots--;
    slot_remove(self);
    return true;
}

/* ---- using models ---- */

void phi_registry_acquire(phi_registry *registry, const char *name, const char *precision,
                          phi_registry_ready ready, void *user)
{
    PHI_ASSERT_ROLE(PHI_ROLE_LOOP);
    phi_err err = {0};
    slot *self = find_slot(registry, name, precision, &err);
    if (!self) {
        ready(user, NULL, NULL, &err);
        return;
    }
    self->used_ns = phi_clock_ns();
    if (self->entry.state == PHI_REGISTRY_READY) {
        self->uses++;
        ready(user, phi_model_ref(self->entry.model), self->entry.id, NULL);
        return;
    }
    waiter *it = phi_alloc_zero(1, sizeof *it);
    *it = (waiter){.ready = ready, .user = user};
    *self->waiters_end = it;
    self->waiters_end = &it->next;
    if (self->entry.state == PHI_REGISTRY_COLD) {
        load_start(self);
    }
}

static slot *slot_of_model(const phi_registry *registry, const phi_model *model)
{
    for (size_t i = 0; i < registry->n_slots; i++) {
        if (registry->slots[i]->entry.model == model) {
            return registry->slots[i];
        }
    }
    slot *it = registry->removed;
    while (it && it->entry.model != model) {
        it = it->next;
    }
    return it;
}

void phi_registry_release(phi_registry *registry, phi_model *model)
{
    PHI_ASSERT_ROLE(PHI_ROLE_LOOP);
    slot *self = slot_of_model(registry, model);
    PHI_ASSERT(self && self->uses > 0);
    self->uses--;
    self->used_ns = phi_clock_ns();
    /* Never the last one: the slot still holds its own. */
    phi_model_unref(model);
    slot_settle(self);
    settle(registry);
}

/* ---- create and destroy ---- */

phi_status phi_registry_create(struct phi_app *app, phi_registry **out_registry, phi_err *err)
{
    phi_store_model *models = NULL;
    size_t count = 0;
    phi_status status = phi_store_model_list(app->store, &models, &count, err);
    if (status) {
        return status;
    }
    phi_registry *registry = phi_alloc_zero(1, sizeof *registry);
    registry->app = app;
    if (strcmp(app->settings->weights_cache, "on") != 0) {
        phi_store_packed_clear(app->store);
    }
    for (size_t i = 0; i < count; i++) {
        const phi_store_model *model = &models[i];
        char *path = phi_store_blob_path(app->store, model->sha256);
        phi_registry_entry entry = {.path = path,
                                    .bytes = model->bytes,
                                    .created_s = model->created_s,
                                    .context_length = model->context_length};
        (void)snprintf(entry.id, sizeof entry.id, "%s:%s", model->name, model->precision);
        (void)snprintf(entry.name, sizeof entry.name, "%s", model->name);
        (void)snprintf(entry.precision, sizeof entry.precision, "%s", model->precision);
        (void)snprintf(entry.sha256, sizeof entry.sha256, "%s", model->sha256);
        (void)snprintf(entry.architecture, sizeof entry.architecture, "%s", model->architecture);
        entry.quality = model->quality ? json_loads(model->quality, 0, NULL) : NULL;
        phi_registry_add(registry, &entry);
        phi_free(path);
    }
    phi_store_models_free(models, count);
    *out_registry = registry;
    return PHI_OK;
}

void phi_registry_destroy(phi_registry *registry)
{
    if (!registry) {
        return;
    }
    registry->closing = true;
    while (registry->n_slots > 0) {
        slot_remove(registry->slots[--registry->n_slots]);
    }
    settle(registry);
}
