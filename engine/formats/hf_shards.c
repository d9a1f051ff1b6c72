#include "engine/formats/hf_shards.h"

#include <string.h>

#include "base/mem.h"
#include "base/strmap.h"
#include "engine/formats/json.h"
#include "engine/formats/text_check.h"

#define SINGLE "model.safetensors"
#define INDEX "model.safetensors.index.json"

static phi_status open_one(const char *dir, const char *name, phi_hf_shards *shards, phi_err *err)
{
    char *path = phi_strfmt("%s/%s", dir, name);
    phi_status status = phi_safetensors_open(path, &shards->files[shards->count], err);
    phi_free(path);
    shards->count += !status;
    return status;
}

static phi_status allocate(phi_hf_shards *shards, size_t count, phi_err *err)
{
    shards->files = phi_try_alloc_zero(count, sizeof *shards->files);
    return shards->files
               ? PHI_OK
               : phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for %zu shards", count);
}

static phi_status check_entry(const char *tensor, const json_t *file, phi_err *err)
{
    if (!json_is_string(file)) {
        return phi_fail(err, PHI_E_FORMAT, INDEX ": the file of tensor \"%.100s\" is not a string",
                        tensor);
    }
    if (!phi_name_is_plain_file(json_string_value(file))) {
        return phi_fail(err, PHI_E_FORMAT,
                        INDEX ": tensor \"%.60s\" is said to be in \"%.60s\"; the name of a file "
                              "in the same directory is right",
                        tensor, json_string_value(file));
    }
    return PHI_OK;
}

/* Opens each listed file once; `order` maps its name to its index. */
static phi_status open_listed(const char *dir, json_t *map, phi_strmap *order,
                              phi_hf_shards *shards, phi_err *err)
{
    phi_status status = allocate(shards, PHI_LIMIT_SHARDS, err);
    const char *tensor;
    json_t *file;
    json_object_foreach(map, tensor, file)
    {
        uint32_t known;
        if (!status) {
            status = check_entry(tensor, file, err);
        }
        if (status) {
            return status;
        }
        const char *name = json_string_value(file);
        if (phi_strmap_find(order, name, strlen(name), &known)) {
            continue;
        }
        if (shards->count == PHI_LIMIT_SHARDS) {
            return phi_fail(err, PHI_E_LIMIT, INDEX " lists more than %u files", PHI_LIMIT_SHARDS);
        }
        status = phi_strmap_insert(order, name, strlen(name), shards->count);
        status = status ? phi_fail(err, status, "not enough memory for " INDEX)
                        : open_one(dir, name, shards, err);
    }
    return status;
}

/* Every tensor in one file only, and in the one that the index names. */
static phi_status compare(const phi_hf_shards *shards, json_t *map, const phi_strmap *order,
                          phi_strmap *places, phi_err *err)
{
    for (uint32_t i = 0; i < shards->count; i++) {
        const phi_safetensors *shard = &shards->files[i];
        for (size_t j = 0; j < shard->count; j++) {
            const char *name = shard->entries[j].name;
            phi_status status = phi_strmap_insert(places, name, strlen(name), i);
            if (status == PHI_E_EXISTS) {
                return phi_fail(err, PHI_E_FORMAT,
                                "tensor \"%s\" is in more than one file, in %s too", name,
                                phi_path_label(shard->file.path));
            }
            if (status) {
                return phi_fail(err, status, "not enough memory for " INDEX);
            }
        }
    }
    const char *tensor;
    json_t *file;
    json_object_foreach(map, tensor, file)
    {
        uint32_t said = 0;
        uint32_t found = 0;
        const char *name = json_string_value(file);
        (void)phi_strmap_find(order, name, strlen(name), &said);
        if (!phi_strmap_find(places, tensor, strlen(tensor), &found) || found != said) {
            return phi_fail(err, PHI_E_FORMAT,
                            INDEX ": tensor \"%.100s\" is said to be in %.60s but is not there",
                            tensor, name);
        }
    }
    return PHI_OK;
}

static phi_status open_sharded(const char *dir, const json_t *index, phi_hf_shards *shards,
                               phi_err *err)
{
    json_t *map = json_object_get(index, "weight_map");
    if (!json_is_object(map) || json_object_size(map) == 0) {
        return phi_fail(err, PHI_E_FORMAT,
                        INDEX ": field \"weight_map\" must map tensors to files");
    }
    if (json_object_size(map) > PHI_LIMIT_TENSORS) {
        return phi_fail(err, PHI_E_LIMIT, INDEX " lists %zu tensors; at most %u are accepted",
                        json_object_size(map), PHI_LIMIT_TENSORS);
    }
    phi_strmap *order = phi_strmap_create(64);
    phi_strmap *places = phi_strmap_create(json_object_size(map));
    phi_status status = PHI_OK;
    if (!order || !places) {
        status = phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for " INDEX);
    }
    if (!status) {
        status = open_listed(dir, map, order, shards, err);
    }
    if (!status) {
        status = compare(shards, map, order, places, err);
    }
    phi_strmap_destroy(order);
    phi_strmap_destroy(places);
    return status;
}

static phi_status fail_absent(const char *dir, phi_err *err)
{
    char *pickle = phi_strfmt("%s/pytorch_model.bin", dir);
    char *pickles = phi_strfmt("%s/pytorch_model.bin.index.json", dir);
    bool torch = phi_file_exists(pickle) || phi_file_exists(pickles);
    phi_free(pickle);
    phi_free(pickles);
    return phi_fail(err, torch ? PHI_E_UNSUPPORTED : PHI_E_NOT_FOUND,
                    "%s holds neither " SINGLE " nor " INDEX "%s", phi_path_label(dir),
                    torch ? "; pytorch_model.bin is not supported, save it as safetensors" : "");
}

/* As transformers does, one whole file is preferred to an index beside it. */
phi_status phi_hf_shards_open(const char *dir, phi_hf_shards *out_shards, phi_err *err)
{
    phi_hf_shards shards = {.count = 0};
    json_t *index = NULL;
    char *single = phi_strfmt("%s/" SINGLE, dir);
    char *listed = phi_strfmt("%s/" INDEX, dir);
    phi_status status;
    if (phi_file_exists(single)) {
        status = allocate(&shards, 1, err);
        if (!status) {
            status = open_one(dir, SINGLE, &shards, err);
        }
    } else if (phi_file_exists(listed)) {
        status = phi_json_load_object(listed, PHI_LIMIT_CONFIG_JSON_BYTES, &index, err);
        if (!status) {
            status = open_sharded(dir, index, &shards, err);
        }
    } else {
        status = fail_absent(dir, err);
    }
    json_decref(index);
    phi_free(single);
    phi_free(listed);
    if (status) {
        phi_hf_shards_close(&shards);
        return status;
    }
    *out_shards = shards;
    return PHI_OK;
}

void phi_hf_shards_close(phi_hf_shards *shards)
{
    if (shards) {
        for (uint32_t i = 0; i < shards->count; i++) {
            phi_safetensors_close(&shards->files[i]);
        }
        phi_free(shards->files);
        *shards = (phi_hf_shards){.count = 0};
    }
}
