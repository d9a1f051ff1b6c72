#include "engine/model/weights.h"

#include "base/assert.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/formats/hf_names.h"
#include "engine/model/pack_cache.h"

#include <stdio.h>
#include <string.h>

/* ---- tensors in a region ---- */

/* Looks names up in a pack; tensors are asked for in nearly the order that they lie in. */
typedef struct binder {
    const phi_description *description;
    const phi_pack *pack;
    uint8_t *memory; /* where the pack begins */
    size_t next;
} binder;

static const phi_pack_tensor *find(binder *self, const char *name)
{
    const phi_pack *pack = self->pack;
    for (size_t i = 0; i < pack->count; i++) {
        size_t index = (self->next + i) % pack->count;
        if (strcmp(pack->tensors[index].source->name, name) == 0) {
            self->next = index + 1;
            return &pack->tensors[index];
        }
    }
    /* A checkpoint without it cannot be opened. */
    PHI_UNREACHABLE();
}

static void bind_matrix(binder *self, const char *name, phi_weight *out_weight)
{
    const phi_pack_tensor *tensor = find(self, name);
    *out_weight = tensor->shape;
    phi_weight_bind(out_weight, self->memory + tensor->offset);
}

static void bind_vector(binder *self, const char *name, float **out_vector)
{
    *out_vector = (float *)(void *)(self->memory + find(self, name)->offset);
}

/* One part, into whichever of the two is not NULL; nothing where the model has no such part. */
typedef struct binding {
    phi_part part;
    phi_weight *matrix;
    float **vector;
} binding;

static void bind_parts(binder *self, uint32_t layer, const binding *parts, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char name[PHI_LIMIT_TENSOR_NAME_BYTES];
        if (!phi_part_is_of(parts[i].part, self->description)) {
            continue;
        }
        phi_part_name(parts[i].part, PHI_NAMING_GGUF, layer, name, sizeof name);
        if (parts[i].matrix) {
            bind_matrix(self, name, parts[i].matrix);
        } else {
            bind_vector(self, name, parts[i].vector);
        }
    }
}

static void bind_layer(binder *self, uint32_t index, phi_layer_weights *layer)
{
    const binding parts[] = {
        {PHI_PART_ATTN_NORM, NULL, &layer->attn_norm},
        {PHI_PART_ATTN_NORM_BIAS, NULL, &layer->attn_norm_bias},
        {PHI_PART_ATTN_QKV, &layer->qkv, NULL},
        {PHI_PART_ATTN_QKV_BIAS, NULL, &layer->qkv_bias},
        {PHI_PART_ATTN_OUTPUT, &layer->out, NULL},
        {PHI_PART_ATTN_OUTPUT_BIAS, NULL, &layer->out_bias},
        {PHI_PART_FFN_NORM, NULL, &layer->ffn_norm},
        {PHI_PART_FFN_NORM_BIAS, NULL, &layer->ffn_norm_bias},
        {PHI_PART_FFN_ROUTER, &layer->router, NULL},
        {PHI_PART_FFN_GATE_EXPS, &layer->gate, NULL},
        {PHI_PART_FFN_UP_EXPS, &layer->up, NULL},
        {PHI_PART_FFN_DOWN_EXPS, &layer->down, NULL},
        {PHI_PART_FFN_UP, &layer->up, NULL},
        {PHI_PART_FFN_FC1, &layer->up, NULL},
        {PHI_PART_FFN_FC1_BIAS, NULL, &layer->up_bias},
        {PHI_PART_FFN_DOWN, &layer->down, NULL},
        {PHI_PART_FFN_DOWN_BIAS, NULL, &layer->down_bias},
    };
    bind_parts(self, index, parts, sizeof parts / sizeof *parts);
}

static void bind_ends(binder *self, phi_weights *weights)
{
    const binding parts[] = {
        {PHI_PART_TOKEN_EMBD, &weights->embedding, NULL},
        {PHI_PART_OUTPUT_NORM, NULL, &weights->final_norm},
        {PHI_PART_OUTPUT_NORM_BIAS, NULL, &weights->final_norm_bias},
        {PHI_PART_OUTPUT, &weights->head, NULL},
        {PHI_PART_OUTPUT_BIAS, NULL, &weights->head_bias},
    };
    bind_parts(self, 0, parts, sizeof parts / sizeof *parts);
}

/* ---- from the checkpoint into memory ---- */

static phi_status pack_into_memory(const phi_checkpoint *checkpoint, const phi_pack *pack,
                                   const phi_pack_run *run, phi_region *out_region, phi_err *err)
{
    phi_region region = {0};
    phi_status status = phi_region_alloc(pack->bytes, &region, err);
    status = status ? status : phi_pack_to_memory(pack, checkpoint, run, region.memory, err);
    if (status) {
        phi_region_release(&region);
        return status;
    }
    *out_region = region;
    return PHI_OK;
}

/* ---- by way of a cache file ---- */

/* Maps the cache file, or makes it: `out_data_offset` is where the tensors begin. A failure other
 * than PHI_E_CANCELLED leaves the region alone, and its reason in `weights`. */
static phi_status use_cache(phi_weights *weights, const phi_checkpoint *checkpoint,
                            const phi_pack *pack, const phi_weights_options *options,
                            uint64_t *out_data_offset, phi_err *err)
{
    phi_pack_key key;
    phi_err why = {0};
    const char *path = options->cache_path;
    phi_status status = phi_pack_key_make(checkpoint, pack, options->source_sha256, &key, &why);
    if (!status) {
        status = phi_pack_cache_open(path, pack, &key, &options->run, &weights->region,
                                     out_data_offset, &why);
        if (!status) {
            weights->cache = PHI_WEIGHTS_CACHE_MAPPED;
            return PHI_OK;
        }
        phi_log(PHI_LOG_DEBUG, "weights", "cache_not_used", "path=%s reason=%s", path, why.message);
        (void)snprintf(weights->cache_reason, sizeof weights->cache_reason, "%s",
                       status == PHI_E_NOT_FOUND ? "there was none" : why.message);
        if (status != PHI_E_CANCELLED) {
            weights->cache = PHI_WEIGHTS_CACHE_BUILT;
            status = phi_pack_cache_build(path, pack, &key, checkpoint, &options->run,
                                          &weights->region, out_data_offset, &why);
        }
    }
    if (status) {
        weights->cache = PHI_WEIGHTS_CACHE_FAILED;
        (void)snprintf(weights->cache_reason, sizeof weights->cache_reason, "%s", why.message);
        phi_log(PHI_LOG_DEBUG, "weights", "cache_not_made", "path=%s reason=%s", path, why.message);
        if (err) {
            *err = why;
        }
    }
    return status;
}

static phi_status fill(phi_weights *weights, const phi_checkpoint *checkpoint, const phi_pack *pack,
                       const phi_weights_options *options, uint64_t *out_data_offset, phi_err *err)
{
    *out_data_offset = 0;
    if (options->cache_path) {
        phi_status status = use_cache(weights, checkpoint, pack, options, out_data_offset, err);
        if (!status || status == PHI_E_CANCELLED) {
            return status;
        }
    }
    return pack_into_memory(checkpoint, pack, &options->run, &weights->region, err);
}

/* ---- whole models ---- */

phi_status phi_weights_open(const phi_checkpoint *checkpoint, const phi_weights_options *options,
                            phi_weights **out_weights, phi_err *err)
{
    phi_pack pack;
    uint64_t data_offset = 0;
    phi_status status = phi_pack_make(checkpoint, PHI_PACK_MODEL, 0, &pack, err);
    if (status) {
        return status;
    }
    phi_weights *weights = phi_alloc_zero(1, sizeof *weights);
    weights->description = *phi_checkpoint_description(checkpoint);
    weights->bytes = pack.bytes;
    status = fill(weights, checkpoint, &pack, options, &data_offset, err);
    if (!status) {
        uint32_t n_layer = weights->description.n_layer;
        binder all = {.description = &weights->description,
                      .pack = &pack,
                      .memory = (uint8_t *)weights->region.memory + data_offset};
        weights->layers = phi_alloc_zero(n_layer, sizeof *weights->layers);
        bind_ends(&all, weights);
        for (uint32_t i = 0; i < n_layer; i++) {
            bind_layer(&all, i, &weights->layers[i]);
        }
        *out_weights = weights;
    } else {
        phi_weights_destroy(weights);
    }
    phi_pack_done(&pack);
    return status;
}

phi_status phi_weights_load(const phi_checkpoint *checkpoint, phi_load_progress progress,
                            void *user, phi_weights **out_weights, phi_err *err)
{
    const phi_weights_options options = {.run = {.progress = progress, .user = user}};
    return phi_weights_open(checkpoint, &options, out_weights, err);
}

void phi_weights_destroy(phi_weights *weights)
{
    if (weights) {
        phi_region_release(&weights->region);
        phi_free(weights->layers);
        phi_free(weights);
    }
}

const phi_weight *phi_weights_head(const phi_weights *weights)
{
    return weights->description.tied_head ? &weights->embedding : &weights->head;
}

uint64_t phi_weights_bytes(const phi_weights *weights)
{
    return weights->bytes;
}

const char *phi_weights_cache_name(phi_weights_cache cache)
{
    switch (cache) {
    case PHI_WEIGHTS_UNCACHED:
        return "off";
    case PHI_WEIGHTS_CACHE_MAPPED:
        return "mapped";
    case PHI_WEIGHTS_CACHE_BUILT:
        return "built";
    case PHI_WEIGHTS_CACHE_FAILED:
        return "failed";
    }
    PHI_UNREACHABLE();
}

/* ---- parts of models ---- */

void phi_layer_weights_done(phi_layer_weights *layer)
{
    if (layer) {
        phi_region_release(&layer->region);
        *layer = (phi_layer_weights){0};
    }
}

phi_status phi_layer_weights_load(const phi_checkpoint *checkpoint, uint32_t layer,
                                  phi_layer_weights *out_layer, phi_err *err)
{
    const phi_pack_run alone = {0};
    phi_pack pack;
    phi_region region = {0};
    phi_status status = phi_pack_make(checkpoint, PHI_PACK_LAYER, layer, &pack, err);
    if (status) {
        return status;
    }
    status = pack_into_memory(checkpoint, &pack, &alone, &region, err);
    if (!status) {
        *out_layer = (phi_layer_weights){.region = region};
        binder self = {.description = phi_checkpoint_description(checkpoint),
                       .pack = &pack,
                       .memory = region.memory};
        bind_layer(&self, layer, out_layer);
    }
    phi_pack_done(&pack);
    return status;
}

phi_status phi_weights_load_ends(const phi_checkpoint *checkpoint, phi_weights **out_weights,
                                 phi_err *err)
{
    const phi_pack_run alone = {0};
    phi_pack pack;
    phi_region region = {0};
    phi_status status = phi_pack_make(checkpoint, PHI_PACK_ENDS, 0, &pack, err);
    if (status) {
        return status;
    }
    status = pack_into_memory(checkpoint, &pack, &alone, &region, err);
    if (!status) {
        phi_weights *weights = phi_alloc_zero(1, sizeof *weights);
        *weights = (phi_weights){.description = *phi_checkpoint_description(checkpoint),
                                 .region = region,
                                 .bytes = pack.bytes};
        binder self = {
            .description = &weights->description, .pack = &pack, .memory = region.memory};
        bind_ends(&self, weights);
        *out_weights = weights;
    }
    phi_pack_done(&pack);
    return status;
}
