#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/tokenizer/template_internal.h"

void phi_value_heap_init(phi_value_heap *heap)
{
    *heap = (phi_value_heap){.marks_bytes = {0, 0}};
    phi_arena_init(&heap->arena, PHI_TEMPLATE_HEAP_BYTES);
}

void phi_value_heap_done(phi_value_heap *heap)
{
    phi_arena_done(&heap->arena);
}

bool phi_value_string(phi_value_heap *heap, const char *text, size_t bytes, bool trusted,
                      phi_value *out)
{
    if (bytes > heap->marks_bytes[trusted] || !heap->marks[trusted]) {
        size_t room = bytes < 256 ? 256 : bytes;
        char *marks = phi_arena_take(&heap->arena, room);
        if (!marks) {
            return false;
        }
        memset(marks, trusted, room);
        heap->marks[trusted] = marks;
        heap->marks_bytes[trusted] = room;
    }
    *out = (phi_value){.kind = PHI_VALUE_STRING,
                       .as.string = {.text = text, .trust = heap->marks[trusted], .bytes = bytes}};
    return true;
}

phi_dict *phi_dict_create(phi_value_heap *heap)
{
    phi_dict *dict = phi_arena_take(&heap->arena, sizeof *dict);
    if (dict) {
        *dict = (phi_dict){.entries = NULL};
    }
    return dict;
}

static phi_dict_entry *find_entry(const phi_dict *dict, const char *key, size_t key_bytes)
{
    for (size_t i = 0; i < dict->count; i++) {
        phi_dict_entry *entry = &dict->entries[i];
        if (entry->key_bytes == key_bytes && memcmp(entry->key, key, key_bytes) == 0) {
            return entry;
        }
    }
    return NULL;
}

bool phi_dict_set(phi_value_heap *heap, phi_dict *dict, const char *key, size_t key_bytes,
                  const phi_value *value)
{
    phi_dict_entry *entry = find_entry(dict, key, key_bytes);
    if (entry) {
        entry->value = *value;
        return true;
    }
    if (dict->count == dict->capacity) {
        size_t capacity = dict->capacity ? dict->capacity * 2 : 4;
        phi_dict_entry *entries = phi_arena_take(&heap->arena, capacity * sizeof *entries);
        if (!entries) {
            return false;
        }
        if (dict->count) {
            memcpy(entries, dict->entries, dict->count * sizeof *entries);
        }
        dict->entries = entries;
        dict->capacity = capacity;
    }
    dict->entries[dict->count++] =
        (phi_dict_entry){.key = key, .key_bytes = key_bytes, .value = *value};
    return true;
}

const phi_value *phi_dict_get(const phi_dict *dict, const char *key, size_t key_bytes)
{
    const phi_dict_entry *entry = find_entry(dict, key, key_bytes);
    return entry ? &entry->value : NULL;
}

bool phi_value_truth(const phi_value *value)
{
    switch (value->kind) {
    case PHI_VALUE_UNDEFINED:
    case PHI_VALUE_NONE:
        return false;
    case PHI_VALUE_BOOL:
        return value->as.boolean;
    case PHI_VALUE_INT:
        return value->as.integer != 0;
    case PHI_VALUE_STRING:
        return value->as.string.bytes != 0;
    case PHI_VALUE_LIST:
        return value->as.list.count != 0;
    case PHI_VALUE_DICT:
        return value->as.dict->is_namespace || value->as.dict->count != 0;
    case PHI_VALUE_LOOP:
        break;
    }
    return true;
}

static bool is_number(const phi_value *value, int64_t *out)
{
    if (value->kind == PHI_VALUE_INT) {
        *out = value->as.integer;
        return true;
    }
    *out = value->kind == PHI_VALUE_BOOL && value->as.boolean;
    return value->kind == PHI_VALUE_BOOL;
}

bool phi_value_equal(const phi_value *a, const phi_value *b)
{
    int64_t left;
    int64_t right;
    if (is_number(a, &left) && is_number(b, &right)) {
        return left == right;
    }
    if (a->kind != b->kind) {
        return false;
    }
    if (a->kind == PHI_VALUE_STRING) {
        return a->as.string.bytes == b->as.string.bytes &&
               memcmp(a->as.string.text, b->as.string.text, a->as.string.bytes) == 0;
    }
    if (a->kind == PHI_VALUE_DICT) {
        return a->as.dict == b->as.dict;
    }
    if (a->kind == PHI_VALUE_LIST) {
        return a->as.list.items == b->as.list.items && a->as.list.count == b->as.list.count;
    }
    return a->kind == PHI_VALUE_NONE || a->kind == PHI_VALUE_UNDEFINED;
}

const char *phi_value_kind_name(const phi_value *value)
{
    static const char *const names[] = {"undefined", "none",   "a boolean", "a number",
                                        "a string",  "a list", "a mapping", "a loop"};
    return names[value->kind];
}

phi_status phi_template_no_memory(const phi_render *render)
{
    return render->heap->arena.full
               ? phi_fail(render->err, PHI_E_LIMIT,
                          "chat template: its values take more than %zu bytes",
                          PHI_TEMPLATE_HEAP_BYTES)
               : phi_fail(render->err, PHI_E_NO_MEMORY, "chat template: not enough memory");
}

phi_status phi_template_refuse(const phi_render *render, const phi_node *node, const char *fmt, ...)
{
    char text[PHI_ERR_BYTES_MAX];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return phi_fail(render->err, PHI_E_UNSUPPORTED, "chat template, line %u: %s", node->line, text);
}
