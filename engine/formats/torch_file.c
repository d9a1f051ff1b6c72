/*
 * Both containers hold a pickle and storages:
 *   1. the container is opened: every storage that it has gets a place, named by its key;
 *   2. the pickle is read: a dict of tensors, each a view of a storage;
 *   3. each tensor is checked against its storage, and the storage against its place.
 */
#include "engine/formats/torch_file.h"

#include <stdbool.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "base/strmap.h"
#include "engine/formats/pickle.h"
#include "engine/formats/text_check.h"
#include "engine/formats/zip.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensors are read as stored");

#define ENDIAN_BYTES_MAX 16U

/* What a stream of torch before 1.6 begins with: pickles of 0x1950a86a20f9469cfc6c and of 1001. */
static const uint8_t legacy_magic[] = {0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c,
                                       0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19,
                                       0x2e, 0x80, 0x02, 0x4d, 0xe9, 0x03, 0x2e};

/* Where a storage's bytes lie. */
typedef struct place {
    uint64_t offset;
    uint64_t bytes;
} place;

typedef struct opening {
    phi_tensor_file file;
    const char *label;
    phi_zip zip;       /* of an archive */
    phi_pickle pickle; /* the dict */
    phi_pickle keys;   /* of a stream: its storages, in file order */
    place *places;
    uint32_t n_places;
    phi_strmap *by_key; /* -> index in places */
    phi_err *err;
} opening;

static phi_status fail_memory(const opening *o)
{
    (void)phi_fail(o->err, PHI_E_NO_MEMORY, "not enough memory for the tensor list of %s",
                   o->label);
    return PHI_E_NO_MEMORY;
}

static phi_status allocate_places(opening *o, size_t count)
{
    o->places = phi_try_alloc_zero(count + 1, sizeof *o->places);
    o->by_key = phi_strmap_create(count + 1);
    return o->places && o->by_key ? PHI_OK : fail_memory(o);
}

static phi_status add_place(opening *o, const char *key, uint64_t offset, uint64_t bytes)
{
    phi_status status = phi_strmap_insert(o->by_key, key, strlen(key), o->n_places);
    if (status) {
        return status == PHI_E_EXISTS
                   ? phi_fail(o->err, PHI_E_FORMAT, "%s holds storage \"%s\" twice", o->label, key)
                   : fail_memory(o);
    }
    o->places[o->n_places++] = (place){.offset = offset, .bytes = bytes};
    return PHI_OK;
}

/* ---- the zip archive ---- */

/* The entry FOLDER/NAME, where all of an archive lies in one folder whose name is free. */
static const phi_zip_entry *find_below_top(const opening *o, const char *name)
{
    for (size_t i = 0; i < o->zip.count; i++) {
        const char *slash = strchr(o->zip.entries[i].name, '/');
        if (slash && strcmp(slash + 1, name) == 0) {
            return &o->zip.entries[i];
        }
    }
    return NULL;
}

static phi_status check_byte_order(const opening *o)
{
    const phi_zip_entry *entry = find_below_top(o, "byteorder");
    char order[ENDIAN_BYTES_MAX + 1] = "";
    if (!entry) {
        return PHI_OK; /* torch before 2.1 wrote none, and only little-endian in practice */
    }
    size_t bytes = entry->bytes < ENDIAN_BYTES_MAX ? (size_t)entry->bytes : ENDIAN_BYTES_MAX;
    phi_status status = phi_file_read_at(&o->file.file, entry->offset, order, bytes, o->err);
    if (!status && strcmp(order, "little") != 0) {
        status = phi_fail(
            o->err, PHI_E_UNSUPPORTED,
            "%s: its byte order is not \"little\": save it on a little-endian machine", o->label);
    }
    return status;
}

/* Storages are the entries FOLDER/data/KEY. */
static phi_status place_entries(opening *o, const phi_zip_entry *pickle)
{
    size_t top = (size_t)(strchr(pickle->name, '/') - pickle->name) + 1;
    phi_status status = allocate_places(o, o->zip.count);
    for (size_t i = 0; i < o->zip.count && !status; i++) {
        const phi_zip_entry *entry = &o->zip.entries[i];
        if (strncmp(entry->name, pickle->name, top) != 0) {
            return phi_fail(o->err, PHI_E_FORMAT,
                            "%s: its entry \"%.60s\" is not in the same folder as \"%.60s\"",
                            o->label, entry->name, pickle->name);
        }
        if (strncmp(entry->name + top, "data/", 5) == 0 && entry->name[top + 5]) {
            status = add_place(o, entry->name + top + 5, entry->offset, entry->bytes);
        }
    }
    return status;
}

static phi_status open_archive(opening *o)
{
    phi_status status = phi_zip_open(&o->file.file, &o->zip, o->err);
    if (status) {
        return status;
    }
    if (find_below_top(o, "constants.pkl")) {
        return phi_fail(o->err, PHI_E_UNSUPPORTED,
                        "%s is a TorchScript program, which is not run; "
                        "torch.save(model.state_dict(), FILE) writes what can be read",
                        o->label);
    }
    const phi_zip_entry *pickle = find_below_top(o, "data.pkl");
    if (!pickle) {
        return phi_fail(o->err, PHI_E_FORMAT,
                        "%s is a zip archive without data.pkl: not a file of PyTorch's", o->label);
    }
    status = check_byte_order(o);
    if (!status) {
        status = place_entries(o, pickle);
    }
    if (status) {
        return status;
    }
    char *label = phi_strfmt("%s: data.pkl", o->label);
    const phi_pickle_source source = {.file = &o->file.file,
                                      .label = label,
                                      .origin = pickle->offset,
                                      .start = pickle->offset,
                                      .end = pickle->offset + pickle->bytes};
    status = phi_pickle_read(&source, &o->pickle, o->err);
    phi_free(label);
    if (!status && o->pickle.end != source.end) {
        status = phi_fail(o->err, PHI_E_FORMAT, "%s: data.pkl has %llu bytes after its end",
                          o->label, (unsigned long long)(source.end - o->pickle.end));
    }
    return status;
}

/* ---- the stream of torch before 1.6 ---- */

/* Reads the pickle at `start`, which is of a stream's own. */
static phi_status read_pickle(const opening *o, uint64_t start, phi_pickle *out_pickle)
{
    const phi_pickle_source source = {
        .file = &o->file.file, .label = o->label, .start = start, .end = o->file.file.bytes};
    return phi_pickle_read(&source, out_pickle, o->err);
}

/* What wrote the stream, of which only the byte order matters. */
static phi_status read_system(const opening *o, uint64_t *at)
{
    phi_pickle system = {.root = {.kind = PHI_PICKLE_UNSET}};
    phi_status status = read_pickle(o, *at, &system);
    if (status) {
        return status;
    }
    const phi_pickle_value *little = phi_pickle_get(&system.root, "little_endian");
    *at = system.end;
    if (!little || little->kind != PHI_PICKLE_BOOL || little->as.integer != 1) {
        status = phi_fail(o->err, little ? PHI_E_UNSUPPORTED : PHI_E_FORMAT,
                          "%s: \"little_endian\" is not true in its header: save it on a "
                          "little-endian machine",
                          o->label);
    }
    phi_pickle_done(&system);
    return status;
}

/* Maps each storage that the dict mentions to its description. */
static phi_status index_storages(const opening *o, phi_strmap *map,
                                 const phi_pickle_storage **storages)
{
    uint32_t count = 0;
    for (const phi_pickle_storage *s = o->pickle.storages; s; s = s->next) {
        uint32_t known;
        phi_status status = phi_strmap_insert(map, s->key->text, s->key->bytes, count);
        if (status == PHI_E_EXISTS) {
            (void)phi_strmap_find(map, s->key->text, s->key->bytes, &known);
            if (storages[known]->bytes != s->bytes || storages[known]->elements != s->elements) {
                return phi_fail(o->err, PHI_E_FORMAT, "%s: storage \"%s\" is described in two ways",
                                o->label, s->key->text);
            }
        } else if (status) {
            return fail_memory(o);
        } else {
            storages[count++] = s;
        }
    }
    return PHI_OK;
}

/* One storage after another: a number of elements in 8 bytes, and the elements. */
static phi_status walk(opening *o, const phi_strmap *map, const phi_pickle_storage *const *storages)
{
    const phi_file *file = &o->file.file;
    const phi_pickle_list *keys = o->keys.root.as.list;
    uint64_t at = o->keys.end;
    for (size_t i = 0; i < keys->count; i++) {
        const phi_pickle_value *key = &keys->items[i];
        uint32_t index = 0;
        uint64_t elements = 0;
        if (key->kind != PHI_PICKLE_STRING ||
            !phi_strmap_find(map, key->as.string->text, key->as.string->bytes, &index)) {
            return phi_fail(o->err, PHI_E_FORMAT,
                            "%s: storage %zu of its list is not one that a tensor uses", o->label,
                            i);
        }
        const phi_pickle_storage *storage = storages[index];
        if (!phi_checked_range(at, sizeof elements, file->bytes)) {
            return phi_fail(o->err, PHI_E_FORMAT, "%s ends before its storage \"%s\"", o->label,
                            storage->key->text);
        }
        phi_status status = phi_file_read_at(file, at, &elements, sizeof elements, o->err);
        at += sizeof elements;
        if (!status && (elements != storage->elements ||
                        !phi_checked_range(at, storage->bytes, file->bytes))) {
            status = phi_fail(o->err, PHI_E_FORMAT,
                              "%s: storage \"%s\" has %llu elements in %llu bytes of file; "
                              "%llu elements of %u bytes are right",
                              o->label, storage->key->text, (unsigned long long)elements,
                              (unsigned long long)(file->bytes - at),
                              (unsigned long long)storage->elements, storage->dtype->bytes);
        }
        status = status ? status : add_place(o, storage->key->text, at, storage->bytes);
        if (status) {
            return status;
        }
        at += storage->bytes;
    }
    return at == file->bytes
               ? PHI_OK
               : phi_fail(o->err, PHI_E_FORMAT, "%s has %llu bytes after its last storage",
                          o->label, (unsigned long long)(file->bytes - at));
}

static phi_status place_storages(opening *o)
{
    size_t count = o->pickle.n_storages;
    phi_strmap *map = phi_strmap_create(count + 1);
    const phi_pickle_storage **storages = phi_try_alloc_zero(count + 1, sizeof *storages);
    phi_status status = map && storages ? index_storages(o, map, storages) : fail_memory(o);
    if (!status) {
        status = allocate_places(o, phi_strmap_count(map));
    }
    if (!status) {
        status = walk(o, map, storages);
    }
    phi_strmap_destroy(map);
    phi_free(storages);
    return status;
}

static phi_status open_stream(opening *o)
{
    uint64_t at = sizeof legacy_magic;
    phi_status status = read_system(o, &at);
    if (!status) {
        status = read_pickle(o, at, &o->pickle);
    }
    if (!status) {
        status = read_pickle(o, o->pickle.end, &o->keys);
    }
    if (!status && o->keys.root.kind != PHI_PICKLE_LIST) {
        status =
            phi_fail(o->err, PHI_E_FORMAT, "%s: the list of its storages is not a list", o->label);
    }
    return status ? status : place_storages(o);
}

/* ---- tensors ---- */

static phi_status fail_tensor(const opening *o, const phi_tensor_entry *entry, phi_status status,
                              const char *what)
{
    return phi_fail(o->err, status, "%s: tensor \"%s\" %s", o->label, entry->name, what);
}

/* True when each stride is the product of the sizes behind it: row after row. */
static bool is_contiguous(const phi_pickle_tensor *tensor)
{
    int64_t expected = 1;
    for (size_t i = tensor->size->count; i-- > 0;) {
        int64_t size = tensor->size->items[i].as.integer;
        if (size != 1 && tensor->stride->items[i].as.integer != expected) {
            return false;
        }
        expected *= size; /* cannot overflow: the product of all sizes does not */
    }
    return true;
}

static phi_status read_shape(const opening *o, const phi_pickle_tensor *tensor,
                             phi_tensor_entry *entry, uint64_t *out_elements)
{
    size_t n_dims = tensor->size->count;
    if (n_dims > PHI_LIMIT_TENSOR_DIMS) {
        return phi_fail(o->err, PHI_E_LIMIT, "%s: tensor \"%s\" has %zu dimensions; at most %u",
                        o->label, entry->name, n_dims, PHI_LIMIT_TENSOR_DIMS);
    }
    uint64_t elements = 1;
    for (size_t i = 0; i < n_dims; i++) {
        int64_t size = tensor->size->items[i].as.integer;
        if (size < 0 || !phi_checked_mul(elements, (uint64_t)size, &elements) ||
            elements > INT64_MAX) {
            return phi_fail(o->err, PHI_E_FORMAT,
                            "%s: tensor \"%s\": dimension %zu is not a usable size", o->label,
                            entry->name, i);
        }
        entry->dims[i] = (uint64_t)size;
    }
    if (elements > 0 && !is_contiguous(tensor)) {
        return fail_tensor(o, entry, PHI_E_UNSUPPORTED,
                           "is a view that is not contiguous (transposed, say); save it after "
                           ".contiguous()");
    }
    entry->n_dims = (uint32_t)n_dims;
    *out_elements = elements;
    return PHI_OK;
}

/* The tensor inside its storage, and that inside the file. */
static phi_status read_place(const opening *o, const phi_pickle_tensor *tensor, uint64_t elements,
                             phi_tensor_entry *entry)
{
    const phi_pickle_storage *storage = tensor->storage;
    uint32_t index = 0;
    if (!phi_strmap_find(o->by_key, storage->key->text, storage->key->bytes, &index)) {
        return phi_fail(o->err, PHI_E_FORMAT,
                        "%s: tensor \"%s\" lies in storage \"%s\", which is missing", o->label,
                        entry->name, storage->key->text);
    }
    const place *at = &o->places[index];
    if (at->bytes != storage->bytes) {
        return phi_fail(o->err, PHI_E_FORMAT,
                        "%s: storage \"%s\" of tensor \"%s\" has %llu bytes; %llu elements of %u "
                        "bytes are right",
                        o->label, storage->key->text, entry->name, (unsigned long long)at->bytes,
                        (unsigned long long)storage->elements, storage->dtype->bytes);
    }
    uint64_t bytes = 0;
    uint64_t skipped = 0;
    if (tensor->offset < 0 || !phi_checked_mul(elements, tensor->dtype->bytes, &bytes) ||
        !phi_checked_mul((uint64_t)tensor->offset, tensor->dtype->bytes, &skipped) ||
        !phi_checked_range(skipped, bytes, at->bytes)) {
        return phi_fail(o->err, PHI_E_FORMAT,
                        "%s: tensor \"%s\" reaches beyond its storage \"%s\" of %llu bytes",
                        o->label, entry->name, storage->key->text, (unsigned long long)at->bytes);
    }
    entry->offset = at->offset + skipped;
    entry->bytes = bytes;
    return PHI_OK;
}

static phi_status read_tensor(const opening *o, const phi_pickle_string *name,
                              const phi_pickle_tensor *tensor, phi_strmap *names,
                              phi_tensor_entry *entry)
{
    uint64_t elements = 0;
    entry->readable = tensor->dtype->readable;
    entry->dtype = tensor->dtype->dtype;
    entry->dtype_name = tensor->dtype->name;
    phi_status status = phi_strmap_insert(names, name->text, name->bytes, 0);
    if (status) {
        return status == PHI_E_EXISTS ? fail_tensor(o, entry, PHI_E_FORMAT, "is there twice")
                                      : fail_memory(o);
    }
    status = read_shape(o, tensor, entry, &elements);
    return status ? status : read_place(o, tensor, elements, entry);
}

/* Counts the tensors and the bytes of their names, and checks those. */
static phi_status count_tensors(const opening *o, const phi_pickle_list *dict, size_t *out_count,
                                size_t *out_bytes)
{
    *out_count = 0;
    *out_bytes = 1;
    for (size_t i = 0; i + 1 < dict->count; i += 2) {
        const phi_pickle_value *key = &dict->items[i];
        if (key[1].kind != PHI_PICKLE_TENSOR) {
            continue;
        }
        const phi_pickle_string *name = key->kind == PHI_PICKLE_STRING ? key->as.string : NULL;
        if (!name || name->bytes >= PHI_LIMIT_TENSOR_NAME_BYTES ||
            !phi_name_is_clean(name->text, name->bytes)) {
            return phi_fail(o->err, PHI_E_FORMAT,
                            "%s: a tensor's name is no text, is empty, holds control characters or "
                            "is longer than %u bytes",
                            o->label, PHI_LIMIT_TENSOR_NAME_BYTES - 1);
        }
        *out_bytes += name->bytes + 1;
        if (++*out_count > PHI_LIMIT_TENSORS) {
            return phi_fail(o->err, PHI_E_LIMIT, "%s holds more than %u tensors", o->label,
                            PHI_LIMIT_TENSORS);
        }
    }
    return PHI_OK;
}

/* Two passes over the dict: how much memory the list takes, and the list. */
static phi_status list_tensors(opening *o)
{
    if (o->pickle.root.kind != PHI_PICKLE_DICT) {
        return phi_fail(o->err, PHI_E_UNSUPPORTED,
                        "%s does not hold a dict of tensors; torch.save(model.state_dict(), FILE) "
                        "writes one",
                        o->label);
    }
    const phi_pickle_list *dict = o->pickle.root.as.list;
    size_t count = 0;
    size_t bytes = 0;
    phi_status status = count_tensors(o, dict, &count, &bytes);
    if (!status && count == 0) {
        status = phi_fail(o->err, PHI_E_UNSUPPORTED,
                          "%s holds a dict without tensors at its top level; "
                          "torch.save(model.state_dict(), FILE) writes one with them",
                          o->label);
    }
    if (status) {
        return status;
    }
    o->file.entries = phi_try_alloc_zero(count, sizeof *o->file.entries);
    o->file.names = phi_try_alloc(bytes);
    phi_strmap *seen = phi_strmap_create(count);
    if (!o->file.entries || !o->file.names || !seen) {
        status = fail_memory(o);
    }
    char *names = o->file.names;
    for (size_t i = 0; i + 1 < dict->count && !status; i += 2) {
        const phi_pickle_value *key = &dict->items[i];
        if (key[1].kind == PHI_PICKLE_TENSOR) {
            phi_tensor_entry *entry = &o->file.entries[o->file.count++];
            entry->name = memcpy(names, key->as.string->text, key->as.string->bytes + 1);
            names += key->as.string->bytes + 1;
            status = read_tensor(o, key->as.string, key[1].as.tensor, seen, entry);
        }
    }
    phi_strmap_destroy(seen);
    return status;
}

/* ---- the file ---- */

static phi_status open_container(opening *o)
{
    uint8_t start[sizeof legacy_magic] = {0};
    const phi_file *file = &o->file.file;
    size_t bytes = file->bytes < sizeof start ? (size_t)file->bytes : sizeof start;
    phi_status status = phi_file_read_at(file, 0, start, bytes, o->err);
    if (status) {
        return status;
    }
    if (memcmp(start, "PK\x03\x04", 4) == 0) {
        return open_archive(o);
    }
    if (memcmp(start, legacy_magic, sizeof start) == 0) {
        return open_stream(o);
    }
    return phi_fail(o->err, PHI_E_FORMAT,
                    "%s is not a file that torch.save wrote: it begins neither as its zip archive "
                    "nor as its older stream",
                    o->label);
}

phi_status phi_torch_file_open(const char *path, phi_tensor_file *out_file, phi_err *err)
{
    opening o = {.label = phi_path_label(path), .err = err};
    phi_status status = phi_file_open(path, &o.file.file, err);
    if (status) {
        return status;
    }
    status = open_container(&o);
    if (!status) {
        status = list_tensors(&o);
    }
    phi_zip_close(&o.zip);
    phi_pickle_done(&o.pickle);
    phi_pickle_done(&o.keys);
    phi_free(o.places);
    phi_strmap_destroy(o.by_key);
    if (status) {
        phi_tensor_file_close(&o.file);
        return status;
    }
    *out_file = o.file;
    return PHI_OK;
}
