#include "engine/formats/hf_shards.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/strmap.h"
#include "engine/formats/json.h"
#include "engine/formats/safetensors.h"
#include "engine/formats/source_name.h"
#include "engine/formats/text_check.h"
#include "engine/formats/torch_file.h"

/* How a directory keeps its tensors. */
typedef struct layout {
    const char *format;
    const char *single; /* all in one file */
    const char *index;  /* or in several, which this one lists */
    phi_status (*open)(const char *path, phi_tensor_file *out_file, phi_err *err);
} layout;

/* The first that is there is taken, as transformers does: one whole file before an index beside it,
 * and safetensors before pickles. */
static const layout layouts[] = {
    {"safetensors", "model.safetensors", "model.safetensors.index.json", phi_safetensors_open},
    {"pytorch", "pytorch_model.bin", "pytorch_model.bin.index.json", phi_torch_file_open},
};

/* A directory that is being opened. */
typedef struct opening {
    const char *dir;
    const layout *layout;
    phi_hf_shards shards;
    phi_err *err;
} opening;

static phi_status open_one(opening *o, const char *name)
{
    char *path = phi_strfmt("%s/%s", o->dir, name);
    phi_status status = o->layout->open(path, &o->shards.files[o->shards.count], o->err);
    phi_free(path);
    o->shards.count += !status;
    return status;
}

static phi_status allocate(opening *o, size_t count)
{
    o->shards.files = phi_try_alloc_zero(count, sizeof *o->shards.files);
    return o->shards.files
               ? PHI_OK
               : phi_fail(o->err, PHI_E_NO_MEMORY, "not enough memory for %zu shards", count);
}

static phi_status fail_memory(const opening *o)
{
    return phi_fail(o->err, PHI_E_NO_MEMORY, "not enough memory for %s", o->layout->index);
}

static phi_status check_entry(const opening *o, const char *tensor, const json_t *file)
{
    if (!json_is_string(file)) {
        return phi_fail(o->err, PHI_E_FORMAT, "%s: the file of tensor \"%.100s\" is not a string",
                        o->layout->index, tensor);
    }
    if (!phi_name_is_plain_file(json_string_value(file))) {
        return phi_fail(o->err, PHI_E_FORMAT,
                        "%s: tensor \"%.60s\" is said to be in \"%.60s\"; the name of a file in "
                        "the same directory is right",
                        o->layout->index, tensor, json_string_value(file));
    }
    return PHI_OK;
}

/* Opens each listed file once; `order` maps its name to its index. */
static phi_status open_listed(opening *o, json_t *map, phi_strmap *order)
{
    phi_status status = allocate(o, PHI_LIMIT_SHARDS);
    const char *tensor;
    json_t *file;
    json_object_foreach(map, tensor, file)
    {
        uint32_t known;
        if (!status) {
            status = check_entry(o, tensor, file);
        }
        if (status) {
            return status;
        }
        const char *name = json_string_value(file);
        if (phi_strmap_find(order, name, strlen(name), &known)) {
            continue;
        }
        if (o->shards.count == PHI_LIMIT_SHARDS) {
            return phi_fail(o->err, PHI_E_LIMIT, "%s lists more than %u files", o->layout->index,
                            PHI_LIMIT_SHARDS);
        }
        status = phi_strmap_insert(order, name, strlen(name), o->shards.count);
        status = status ? fail_memory(o) : open_one(o, name);
    }
    return status;
}

/* Notes where each tensor is, which must be in one file only. */
static phi_status note_places(const opening *o, phi_strmap *places)
{
    for (uint32_t i = 0; i < o->shards.count; i++) {
        const phi_tensor_file *shard = &o->shards.files[i];
        for (size_t j = 0; j < shard->count; j++) {
            const char *name = shard->entries[j].name;
            phi_status status = phi_strmap_insert(places, name, strlen(name), i);
            if (status == PHI_E_EXISTS) {
                return phi_fail(o->err, PHI_E_FORMAT,
                                "tensor \"%s\" is in more than one file, in %s too", name,
                                phi_path_label(shard->file.path));
            }
            if (status) {
                return fail_memory(o);
            }
        }
    }
    return PHI_OK;
}

/* Every tensor that the index names is in the file that it names. */
static phi_status compare(const opening *o, json_t *map, const phi_strmap *order,
                          const phi_strmap *places)
{
    const char *tensor;
    json_t *file;
    json_object_foreach(map, tensor, file)
    {
        uint32_t said = 0;
        uint32_t found = 0;
        const char *name = json_string_value(file);
        (void)phi_strmap_find(order, name, strlen(name), &said);
        if (!phi_strmap_find(places, tensor, strlen(tensor), &found) || found != said) {
            return phi_fail(o->err, PHI_E_FORMAT,
                            "%s: tensor \"%.100s\" is said to be in %.60s but is not there",
                            o->layout->index, tensor, name);
        }
    }
    return PHI_OK;
}

static phi_status open_sharded(opening *o, const json_t *index)
{
    json_t *map = json_object_get(index, "weight_map");
    if (!json_is_object(map) || json_object_size(map) == 0) {
        return phi_fail(o->err, PHI_E_FORMAT, "%s: field \"weight_map\" must map tensors to files",
                        o->layout->index);
    }
    if (json_object_size(map) > PHI_LIMIT_TENSORS) {
        return phi_fail(o->err, PHI_E_LIMIT, "%s lists %zu tensors; at most %u are accepted",
                        o->layout->index, json_object_size(map), PHI_LIMIT_TENSORS);
    }
    phi_strmap *order = phi_strmap_create(64);
    phi_strmap *places = phi_strmap_create(json_object_size(map));
    phi_status status = order && places ? open_listed(o, map, order) : fail_memory(o);
    if (!status) {
        status = note_places(o, places);
    }
    if (!status) {
        status = compare(o, map, order, places);
    }
    phi_strmap_destroy(order);
    phi_strmap_destroy(places);
    return status;
}

phi_status phi_hf_shards_check_others(const char *dir, phi_err *err)
{
    char name[PHI_LIMIT_TENSOR_NAME_BYTES] = "";
    DIR *entries = opendir(dir);
    for (struct dirent *entry = entries ? readdir(entries) : NULL; entry && !name[0];
         entry = readdir(entries)) {
        if (phi_source_name_refusal(entry->d_name)) {
            (void)snprintf(name, sizeof name, "%s", entry->d_name);
        }
    }
    if (entries) {
        (void)closedir(entries);
    }
    return name[0] ? phi_fail(err, PHI_E_UNSUPPORTED, "%s: %s: %s", phi_path_label(dir), name,
                              phi_source_name_refusal(name))
                   : PHI_OK;
}

static phi_status open_layout(opening *o, bool *found)
{
    char *single = phi_strfmt("%s/%s", o->dir, o->layout->single);
    char *listed = phi_strfmt("%s/%s", o->dir, o->layout->index);
    json_t *index = NULL;
    phi_status status = PHI_OK;
    *found = true;
    if (phi_file_exists(single)) {
        status = allocate(o, 1);
        if (!status) {
            status = open_one(o, o->layout->single);
        }
    } else if (phi_file_exists(listed)) {
        status = phi_json_load_object(listed, PHI_LIMIT_CONFIG_JSON_BYTES, &index, o->err);
        if (!status) {
            status = open_sharded(o, index);
        }
    } else {
        *found = false;
    }
    json_decref(index);
    phi_free(single);
    phi_free(listed);
    return status;
}

phi_status phi_hf_shards_open(const char *dir, phi_hf_shards *out_shards, phi_err *err)
{
    opening o = {.dir = dir, .err = err};
    phi_status status = PHI_OK;
    bool found = false;
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts && !found; i++) {
        o.layout = &layouts[i];
        o.shards.format = layouts[i].format;
        status = open_layout(&o, &found);
    }
    if (!found) {
        status = phi_hf_shards_check_others(dir, err);
        status = status ? status
                        : phi_fail(err, PHI_E_NOT_FOUND,
                                   "%s holds no weights: model.safetensors or pytorch_model.bin, "
                                   "or the .index.json of either and the files that it lists",
                                   phi_path_label(dir));
    }
    if (status) {
        phi_hf_shards_close(&o.shards);
        return status;
    }
    *out_shards = o.shards;
    return PHI_OK;
}

void phi_hf_shards_close(phi_hf_shards *shards)
{
    if (shards) {
        for (uint32_t i = 0; i < shards->count; i++) {
            phi_tensor_file_close(&shards->files[i]);
        }
        phi_free(shards->files);
        *shards = (phi_hf_shards){.count = 0};
    }
}
