#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "engine/tokenizer/template_internal.h"

/* ------------------------------------------------------------------------- making strings ---- */

/* Room for a string of up to `bytes` bytes with marks of its own. */
typedef struct draft {
    char *text;
    char *trust;
    size_t bytes;
} draft;

static bool draft_init(phi_render *render, size_t bytes, draft *out)
{
    *out = (draft){.text = phi_arena_take(&render->heap->arena, bytes + 1),
                   .trust = phi_arena_take(&render->heap->arena, bytes + 1)};
    return out->text && out->trust;
}

static void draft_add(draft *to, const char *text, const char *trust, size_t bytes)
{
    memcpy(to->text + to->bytes, text, bytes);
    memcpy(to->trust + to->bytes, trust, bytes);
    to->bytes += bytes;
}

/* One kind of mark for all of `text`. */
static void draft_add_marked(draft *to, const char *text, size_t bytes, char mark)
{
    memcpy(to->text + to->bytes, text, bytes);
    memset(to->trust + to->bytes, mark, bytes);
    to->bytes += bytes;
}

static phi_value draft_value(draft *from)
{
    from->text[from->bytes] = '\0';
    return (phi_value){
        .kind = PHI_VALUE_STRING,
        .as.string = {.text = from->text, .trust = from->trust, .bytes = from->bytes}};
}

static phi_value cut(const phi_value *string, size_t begin, size_t end)
{
    phi_value part = *string;
    part.as.string.text += begin;
    part.as.string.trust += begin;
    part.as.string.bytes = end - begin;
    return part;
}

phi_status phi_template_concat(phi_render *render, const phi_value *a, const phi_value *b,
                               phi_value *out)
{
    draft text = {0};
    if (!draft_init(render, a->as.string.bytes + b->as.string.bytes, &text)) {
        return phi_template_no_memory(render);
    }
    draft_add(&text, a->as.string.text, a->as.string.trust, a->as.string.bytes);
    draft_add(&text, b->as.string.text, b->as.string.trust, b->as.string.bytes);
    *out = draft_value(&text);
    return PHI_OK;
}

static phi_status string_of(phi_render *render, const char *text, size_t bytes, phi_value *out)
{
    draft copy;
    if (!draft_init(render, bytes, &copy)) {
        return phi_template_no_memory(render);
    }
    draft_add_marked(&copy, text, bytes, 1);
    *out = draft_value(&copy);
    return PHI_OK;
}

phi_status phi_template_to_string(phi_render *render, const phi_node *node, const phi_value *value,
                                  phi_value *out)
{
    char number[32];
    switch (value->kind) {
    case PHI_VALUE_STRING:
        *out = *value;
        return PHI_OK;
    case PHI_VALUE_UNDEFINED:
        return string_of(render, "", 0, out);
    case PHI_VALUE_NONE:
        return string_of(render, "None", 4, out);
    case PHI_VALUE_BOOL:
        return string_of(render, value->as.boolean ? "True" : "False", value->as.boolean ? 4 : 5,
                         out);
    case PHI_VALUE_INT:
        snprintf(number, sizeof number, "%lld", (long long)value->as.integer);
        return string_of(render, number, strlen(number), out);
    default:
        return phi_template_refuse(render, node, "%s as text is not supported",
                                   phi_value_kind_name(value));
    }
}

/* ------------------------------------------------------------------------------- stripping ---- */

/* What Python's str.strip takes for white space. */
static bool is_python_space(uint32_t c)
{
    return (c >= 0x9 && c <= 0xd) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

/* Whether the character at `text` is one to strip: of `set`, or white space when that is NULL. */
static bool is_stripped(const char *text, size_t bytes, const phi_value *set, size_t *out_bytes)
{
    uint32_t codepoint = 0;
    int length = phi_utf8_decode(text, bytes, &codepoint);
    if (length <= 0) {
        return false;
    }
    *out_bytes = (size_t)length;
    return set ? memmem(set->as.string.text, set->as.string.bytes, text, (size_t)length) != NULL
               : is_python_space(codepoint);
}

static phi_value strip(const phi_value *string, const phi_value *set, bool left, bool right)
{
    const char *text = string->as.string.text;
    size_t begin = 0;
    size_t end = string->as.string.bytes;
    size_t length = 0;
    while (left && begin < end && is_stripped(text + begin, end - begin, set, &length)) {
        begin += length;
    }
    while (right && begin < end) {
        size_t at = end - 1;
        while (at > begin && ((unsigned char)text[at] & 0xc0) == 0x80) {
            at--;
        }
        if (!is_stripped(text + at, end - at, set, &length)) {
            break;
        }
        end = at;
    }
    return cut(string, begin, end);
}

/* -------------------------------------------------------------------------- string methods ---- */

static phi_status change_case(phi_render *render, const phi_node *node, const phi_value *string,
                              bool upper, phi_value *out)
{
    draft text = {0};
    if (!draft_init(render, string->as.string.bytes, &text)) {
        return phi_template_no_memory(render);
    }
    draft_add(&text, string->as.string.text, string->as.string.trust, string->as.string.bytes);
    for (size_t i = 0; i < text.bytes; i++) {
        char c = text.text[i];
        if ((unsigned char)c >= 0x80) {
            return phi_template_refuse(render, node,
                                       "changing the case of letters other than "
                                       "a to z is not supported");
        }
        if (upper ? c >= 'a' && c <= 'z' : c >= 'A' && c <= 'Z') {
            text.text[i] = (char)(c ^ 0x20);
        }
    }
    *out = draft_value(&text);
    return PHI_OK;
}

static size_t count_of(const phi_value *string, const phi_value *part)
{
    size_t count = 0;
    const char *at = string->as.string.text;
    const char *end = at + string->as.string.bytes;
    while ((at = memmem(at, (size_t)(end - at), part->as.string.text, part->as.string.bytes))) {
        at += part->as.string.bytes;
        count++;
    }
    return count;
}

static phi_status split(phi_render *render, const phi_node *node, const phi_value *string,
                        const phi_value *separator, phi_value *out)
{
    if (separator->as.string.bytes == 0) {
        return phi_template_refuse(render, node, "splitting by nothing is not supported");
    }
    size_t count = count_of(string, separator) + 1;
    phi_value *items = phi_arena_take(&render->heap->arena, count * sizeof *items);
    if (!items) {
        return phi_template_no_memory(render);
    }
    const char *text = string->as.string.text;
    size_t begin = 0;
    for (size_t i = 0; i < count; i++) {
        const char *hit = memmem(text + begin, string->as.string.bytes - begin,
                                 separator->as.string.text, separator->as.string.bytes);
        size_t end = hit ? (size_t)(hit - text) : string->as.string.bytes;
        items[i] = cut(string, begin, end);
        begin = hit ? end + separator->as.string.bytes : end;
    }
    *out = (phi_value){.kind = PHI_VALUE_LIST, .as.list = {.items = items, .count = count}};
    return PHI_OK;
}

static phi_status replace(phi_render *render, const phi_node *node, const phi_value *string,
                          const phi_arguments *arguments, phi_value *out)
{
    const phi_value *find = &arguments->values[0];
    const phi_value *put = &arguments->values[1];
    if (find->as.string.bytes == 0) {
        return phi_template_refuse(render, node, "replacing nothing is not supported");
    }
    size_t hits = count_of(string, find);
    draft text = {0};
    if (!draft_init(render, string->as.string.bytes + hits * put->as.string.bytes, &text)) {
        return phi_template_no_memory(render);
    }
    size_t at = 0;
    for (size_t i = 0; i < hits; i++) {
        const char *hit = memmem(string->as.string.text + at, string->as.string.bytes - at,
                                 find->as.string.text, find->as.string.bytes);
        size_t end = (size_t)(hit - string->as.string.text);
        draft_add(&text, string->as.string.text + at, string->as.string.trust + at, end - at);
        draft_add(&text, put->as.string.text, put->as.string.trust, put->as.string.bytes);
        at = end + find->as.string.bytes;
    }
    draft_add(&text, string->as.string.text + at, string->as.string.trust + at,
              string->as.string.bytes - at);
    *out = draft_value(&text);
    return PHI_OK;
}

static bool all_strings(const phi_arguments *arguments)
{
    for (size_t i = 0; i < arguments->count; i++) {
        if (arguments->values[i].kind != PHI_VALUE_STRING || arguments->keywords[i]) {
            return false;
        }
    }
    return true;
}

static phi_value boolean(bool value)
{
    return (phi_value){.kind = PHI_VALUE_BOOL, .as.boolean = value};
}

static phi_status call_string(phi_render *render, const phi_node *node, const phi_value *string,
                              const phi_arguments *arguments, phi_value *out)
{
    const char *name = node->text;
    const phi_value *first = &arguments->values[0];
    size_t count = all_strings(arguments) ? arguments->count : PHI_ARGUMENTS_MAX + 1;
    size_t bytes = string->as.string.bytes;
    if (count <= 1) {
        const phi_value *set = count ? first : NULL;
        bool left = strcmp(name, "lstrip") == 0 || strcmp(name, "strip") == 0;
        bool right = strcmp(name, "rstrip") == 0 || strcmp(name, "strip") == 0;
        if (left || right) {
            *out = strip(string, set, left, right);
            return PHI_OK;
        }
    }
    if (count == 0 && (strcmp(name, "upper") == 0 || strcmp(name, "lower") == 0)) {
        return change_case(render, node, string, name[0] == 'u', out);
    }
    if (count == 1 && strcmp(name, "split") == 0) {
        return split(render, node, string, first, out);
    }
    if (count == 1 && strcmp(name, "startswith") == 0) {
        size_t length = first->as.string.bytes;
        *out = boolean(length <= bytes &&
                       memcmp(string->as.string.text, first->as.string.text, length) == 0);
        return PHI_OK;
    }
    if (count == 1 && strcmp(name, "endswith") == 0) {
        size_t length = first->as.string.bytes;
        *out = boolean(length <= bytes && memcmp(string->as.string.text + bytes - length,
                                                 first->as.string.text, length) == 0);
        return PHI_OK;
    }
    if (count == 2 && strcmp(name, "replace") == 0) {
        return replace(render, node, string, arguments, out);
    }
    return phi_template_refuse(render, node,
                               "the string method %.40s with these arguments is not "
                               "supported",
                               name);
}

/* ------------------------------------------------------------------------------- functions ---- */

static phi_status make_namespace(phi_render *render, const phi_node *node,
                                 const phi_arguments *arguments, phi_value *out)
{
    phi_dict *dict = phi_dict_create(render->heap);
    if (!dict) {
        return phi_template_no_memory(render);
    }
    dict->is_namespace = true;
    for (size_t i = 0; i < arguments->count; i++) {
        const char *key = arguments->keywords[i];
        if (!key || arguments->values[i].kind == PHI_VALUE_LOOP) {
            return phi_template_refuse(render, node, "namespace takes name=value only");
        }
        if (!phi_dict_set(render->heap, dict, key, strlen(key), &arguments->values[i])) {
            return phi_template_no_memory(render);
        }
    }
    *out = (phi_value){.kind = PHI_VALUE_DICT, .as.dict = dict};
    return PHI_OK;
}

static phi_status call_function(phi_render *render, const phi_node *node,
                                const phi_arguments *arguments, phi_value *out)
{
    if (strcmp(node->text, "namespace") == 0) {
        return make_namespace(render, node, arguments, out);
    }
    if (strcmp(node->text, "raise_exception") == 0 && arguments->count == 1 &&
        arguments->values[0].kind == PHI_VALUE_STRING) {
        const phi_value *text = &arguments->values[0];
        size_t bytes = text->as.string.bytes < 160 ? text->as.string.bytes : 160;
        bytes = phi_utf8_complete_bytes(text->as.string.text, bytes);
        return phi_fail_param(render->err, PHI_E_INVALID, "messages",
                              "the chat template says: %.*s", (int)bytes, text->as.string.text);
    }
    return phi_template_refuse(render, node,
                               "the function %.40s with these arguments is not "
                               "supported",
                               node->text);
}

static phi_status call_get(const phi_value *dict, const phi_arguments *arguments, phi_value *out)
{
    const phi_value *key = &arguments->values[0];
    const phi_value *value = phi_dict_get(dict->as.dict, key->as.string.text, key->as.string.bytes);
    *out = (phi_value){.kind = PHI_VALUE_NONE};
    if (value) {
        *out = *value;
    } else if (arguments->count == 2) {
        *out = arguments->values[1];
    }
    return PHI_OK;
}

phi_status phi_template_call(phi_render *render, const phi_node *node, const phi_value *object,
                             const phi_arguments *arguments, phi_value *out)
{
    if (!object) {
        return call_function(render, node, arguments, out);
    }
    if (object->kind == PHI_VALUE_STRING) {
        return call_string(render, node, object, arguments, out);
    }
    if (object->kind == PHI_VALUE_DICT && strcmp(node->text, "get") == 0 && arguments->count >= 1 &&
        arguments->count <= 2 && arguments->values[0].kind == PHI_VALUE_STRING) {
        return call_get(object, arguments, out);
    }
    return phi_template_refuse(render, node, "the method %.40s of %s is not supported", node->text,
                               phi_value_kind_name(object));
}

/* --------------------------------------------------------------------------------- filters ---- */

/* JSON as json.dumps(ensure_ascii=False) writes it. An escape has its character's mark. */
static phi_status string_to_json(phi_render *render, const phi_value *string, phi_value *out)
{
    draft text = {0};
    if (!draft_init(render, 6 * string->as.string.bytes + 2, &text)) {
        return phi_template_no_memory(render);
    }
    draft_add_marked(&text, "\"", 1, 1);
    for (size_t i = 0; i < string->as.string.bytes; i++) {
        char c = string->as.string.text[i];
        char mark = string->as.string.trust[i];
        static const char plain[] = "\n\r\t\b\f\"\\";
        static const char named[] = "nrtbf\"\\";
        const char *known = c ? strchr(plain, c) : NULL;
        char escape[8];
        if (known) {
            snprintf(escape, sizeof escape, "\\%c", named[known - plain]);
            draft_add_marked(&text, escape, 2, mark);
        } else if ((unsigned char)c < 0x20) {
            snprintf(escape, sizeof escape, "\\u%04x", (unsigned)(unsigned char)c);
            draft_add_marked(&text, escape, 6, mark);
        } else {
            draft_add_marked(&text, &c, 1, mark);
        }
    }
    draft_add_marked(&text, "\"", 1, 1);
    *out = draft_value(&text);
    return PHI_OK;
}

static phi_status to_json(phi_render *render, const phi_node *node, const phi_value *value,
                          phi_value *out)
{
    switch (value->kind) {
    case PHI_VALUE_STRING:
        return string_to_json(render, value, out);
    case PHI_VALUE_NONE:
        return string_of(render, "null", 4, out);
    case PHI_VALUE_BOOL:
        return string_of(render, value->as.boolean ? "true" : "false", value->as.boolean ? 4 : 5,
                         out);
    case PHI_VALUE_INT:
        return phi_template_to_string(render, node, value, out);
    default:
        return phi_template_refuse(render, node, "tojson of %s is not supported",
                                   phi_value_kind_name(value));
    }
}

static phi_status length_of(phi_render *render, const phi_node *node, const phi_value *value,
                            phi_value *out)
{
    size_t count = 0;
    switch (value->kind) {
    case PHI_VALUE_LIST:
        count = value->as.list.count;
        break;
    case PHI_VALUE_DICT:
        count = value->as.dict->count;
        break;
    case PHI_VALUE_STRING:
        for (size_t i = 0; i < value->as.string.bytes; i++) {
            count += ((unsigned char)value->as.string.text[i] & 0xc0) != 0x80;
        }
        break;
    case PHI_VALUE_UNDEFINED:
        break;
    default:
        return phi_template_refuse(render, node, "length of %s is not supported",
                                   phi_value_kind_name(value));
    }
    *out = (phi_value){.kind = PHI_VALUE_INT, .as.integer = (int64_t)count};
    return PHI_OK;
}

static phi_status filter_default(const phi_value *input, const phi_arguments *arguments,
                                 phi_value *out)
{
    bool falsy = arguments->count == 2 && phi_value_truth(&arguments->values[1]);
    bool missing = input->kind == PHI_VALUE_UNDEFINED || (falsy && !phi_value_truth(input));
    *out = missing ? arguments->values[0] : *input;
    return PHI_OK;
}

/* Filters without arguments. */
static phi_status filter_plain(phi_render *render, const phi_node *node, const phi_value *input,
                               phi_value *out)
{
    const char *name = node->text;
    phi_value text = {.kind = PHI_VALUE_UNDEFINED};
    if (strcmp(name, "length") == 0 || strcmp(name, "count") == 0) {
        return length_of(render, node, input, out);
    }
    if (strcmp(name, "tojson") == 0) {
        return to_json(render, node, input, out);
    }
    if (strcmp(name, "first") == 0 || strcmp(name, "last") == 0) {
        if (input->kind != PHI_VALUE_LIST) {
            return phi_template_refuse(render, node, "%s of %s is not supported", name,
                                       phi_value_kind_name(input));
        }
        size_t count = input->as.list.count;
        *out = count == 0       ? (phi_value){.kind = PHI_VALUE_UNDEFINED}
               : name[0] == 'f' ? input->as.list.items[0]
                                : input->as.list.items[count - 1];
        return PHI_OK;
    }
    phi_status status = phi_template_to_string(render, node, input, &text);
    if (status != PHI_OK) {
        return status;
    }
    if (strcmp(name, "trim") == 0) {
        *out = strip(&text, NULL, true, true);
        return PHI_OK;
    }
    if (strcmp(name, "string") == 0 || strcmp(name, "safe") == 0) {
        *out = text;
        return PHI_OK;
    }
    if (strcmp(name, "upper") == 0 || strcmp(name, "lower") == 0) {
        return change_case(render, node, &text, name[0] == 'u', out);
    }
    return phi_template_refuse(render, node, "the filter %.40s is not supported", name);
}

phi_status phi_template_filter(phi_render *render, const phi_node *node, const phi_value *input,
                               const phi_arguments *arguments, phi_value *out)
{
    const char *name = node->text;
    if (arguments->count == 0) {
        return filter_plain(render, node, input, out);
    }
    bool fallback = strcmp(name, "default") == 0 || strcmp(name, "d") == 0;
    if (fallback && arguments->count <= 2 && !arguments->keywords[0]) {
        return filter_default(input, arguments, out);
    }
    return phi_template_refuse(render, node,
                               "the filter %.40s with these arguments is not "
                               "supported",
                               name);
}

/* ----------------------------------------------------------------------------------- tests ---- */

phi_status phi_template_test(phi_render *render, const phi_node *node, const phi_value *input,
                             bool *out)
{
    const char *name = node->text;
    phi_value_kind kind = input->kind;
    *out = false;
    if (strcmp(name, "defined") == 0) {
        *out = kind != PHI_VALUE_UNDEFINED;
    } else if (strcmp(name, "undefined") == 0) {
        *out = kind == PHI_VALUE_UNDEFINED;
    } else if (strcmp(name, "none") == 0) {
        *out = kind == PHI_VALUE_NONE;
    } else if (strcmp(name, "string") == 0) {
        *out = kind == PHI_VALUE_STRING;
    } else if (strcmp(name, "mapping") == 0) {
        *out = kind == PHI_VALUE_DICT && !input->as.dict->is_namespace;
    } else if (strcmp(name, "iterable") == 0 || strcmp(name, "sequence") == 0) {
        *out = kind == PHI_VALUE_LIST || kind == PHI_VALUE_STRING || kind == PHI_VALUE_DICT;
    } else if (strcmp(name, "number") == 0) {
        *out = kind == PHI_VALUE_INT || kind == PHI_VALUE_BOOL;
    } else if (strcmp(name, "boolean") == 0) {
        *out = kind == PHI_VALUE_BOOL;
    } else if (strcmp(name, "true") == 0 || strcmp(name, "false") == 0) {
        *out = kind == PHI_VALUE_BOOL && input->as.boolean == (name[0] == 't');
    } else {
        return phi_template_refuse(render, node, "the test \"is %.40s\" is not supported", name);
    }
    return PHI_OK;
}
