#include <string.h>

#include "config/limits.h"
#include "engine/tokenizer/template_internal.h"

static phi_status eval(phi_render *render, const phi_scope *scope, const phi_node *node,
                       phi_value *out);

static phi_status count_step(phi_render *render, const phi_node *node)
{
    if (++render->steps > PHI_LIMIT_TEMPLATE_STEPS) {
        return phi_fail(render->err, PHI_E_LIMIT,
                        "chat template, line %u: rendering takes more than %u steps", node->line,
                        PHI_LIMIT_TEMPLATE_STEPS);
    }
    return PHI_OK;
}

/* ------------------------------------------------------------------------- names and parts ---- */

static phi_value find_name(const phi_scope *scope, const char *name, size_t bytes)
{
    for (; scope; scope = scope->outer) {
        const phi_value *value = phi_dict_get(scope->names, name, bytes);
        if (value) {
            return *value;
        }
    }
    return (phi_value){.kind = PHI_VALUE_UNDEFINED};
}

static phi_value boolean(bool value)
{
    return (phi_value){.kind = PHI_VALUE_BOOL, .as.boolean = value};
}

static phi_value integer(size_t value)
{
    return (phi_value){.kind = PHI_VALUE_INT, .as.integer = (int64_t)value};
}

static phi_value loop_attribute(const phi_loop *loop, const char *name)
{
    if (strcmp(name, "index") == 0) {
        return integer(loop->at + 1);
    }
    if (strcmp(name, "index0") == 0) {
        return integer(loop->at);
    }
    if (strcmp(name, "revindex") == 0) {
        return integer(loop->count - loop->at);
    }
    if (strcmp(name, "revindex0") == 0) {
        return integer(loop->count - loop->at - 1);
    }
    if (strcmp(name, "length") == 0) {
        return integer(loop->count);
    }
    if (strcmp(name, "first") == 0) {
        return boolean(loop->at == 0);
    }
    if (strcmp(name, "last") == 0) {
        return boolean(loop->at + 1 == loop->count);
    }
    if (strcmp(name, "previtem") == 0 && loop->at > 0) {
        return loop->items[loop->at - 1];
    }
    if (strcmp(name, "nextitem") == 0 && loop->at + 1 < loop->count) {
        return loop->items[loop->at + 1];
    }
    return (phi_value){.kind = PHI_VALUE_UNDEFINED};
}

static phi_status fail_part(phi_render *render, const phi_node *node, const phi_value *object)
{
    return phi_fail(render->err, PHI_E_INVALID, "chat template, line %u: %s has no parts",
                    node->line, phi_value_kind_name(object));
}

static phi_status eval_attribute(phi_render *render, const phi_node *node, const phi_value *object,
                                 phi_value *out)
{
    *out = (phi_value){.kind = PHI_VALUE_UNDEFINED};
    if (object->kind == PHI_VALUE_UNDEFINED || object->kind == PHI_VALUE_NONE) {
        return fail_part(render, node, object);
    }
    if (object->kind == PHI_VALUE_LOOP) {
        *out = loop_attribute(object->as.loop, node->text);
        if (out->kind == PHI_VALUE_UNDEFINED && !strstr("previtem nextitem", node->text)) {
            return phi_template_refuse(render, node, "loop.%.40s is not supported", node->text);
        }
    } else if (object->kind == PHI_VALUE_DICT) {
        const phi_value *value = phi_dict_get(object->as.dict, node->text, node->text_bytes);
        *out = value ? *value : *out;
    }
    return PHI_OK;
}

/* Byte offset of character number `index` (at most the end). */
static size_t char_offset(const phi_value *string, size_t index)
{
    size_t at = 0;
    while (at < string->as.string.bytes && index > 0) {
        at++;
        while (at < string->as.string.bytes &&
               ((unsigned char)string->as.string.text[at] & 0xc0) == 0x80) {
            at++;
        }
        index--;
    }
    return at;
}

static size_t char_count(const phi_value *string)
{
    size_t count = 0;
    for (size_t i = 0; i < string->as.string.bytes; i++) {
        count += ((unsigned char)string->as.string.text[i] & 0xc0) != 0x80;
    }
    return count;
}

static phi_value substring(const phi_value *string, size_t begin, size_t end)
{
    size_t from = char_offset(string, begin);
    size_t to = char_offset(string, end);
    phi_value part = *string;
    part.as.string.text += from;
    part.as.string.trust += from;
    part.as.string.bytes = to - from;
    return part;
}

static size_t length_of(const phi_value *value)
{
    return value->kind == PHI_VALUE_LIST ? value->as.list.count : char_count(value);
}

static phi_status eval_index(phi_render *render, const phi_node *node, const phi_value *object,
                             const phi_value *key, phi_value *out)
{
    *out = (phi_value){.kind = PHI_VALUE_UNDEFINED};
    if (object->kind == PHI_VALUE_UNDEFINED || object->kind == PHI_VALUE_NONE) {
        return fail_part(render, node, object);
    }
    if (object->kind == PHI_VALUE_DICT && key->kind == PHI_VALUE_STRING) {
        const phi_value *value =
            phi_dict_get(object->as.dict, key->as.string.text, key->as.string.bytes);
        *out = value ? *value : *out;
        return PHI_OK;
    }
    bool sequence = object->kind == PHI_VALUE_LIST || object->kind == PHI_VALUE_STRING;
    if (!sequence || key->kind != PHI_VALUE_INT) {
        return PHI_OK;
    }
    int64_t count = (int64_t)length_of(object);
    int64_t at = key->as.integer < 0 ? key->as.integer + count : key->as.integer;
    if (at >= 0 && at < count) {
        *out = object->kind == PHI_VALUE_LIST ? object->as.list.items[at]
                                              : substring(object, (size_t)at, (size_t)at + 1);
    }
    return PHI_OK;
}

static phi_status reversed(phi_render *render, const phi_node *node, const phi_value *object,
                           phi_value *out)
{
    if (object->kind != PHI_VALUE_LIST) {
        return phi_template_refuse(render, node, "reversing %s is not supported",
                                   phi_value_kind_name(object));
    }
    size_t count = object->as.list.count;
    phi_value *items = phi_arena_take(&render->heap->arena, (count + 1) * sizeof *items);
    if (!items) {
        return phi_template_no_memory(render);
    }
    for (size_t i = 0; i < count; i++) {
        items[i] = object->as.list.items[count - 1 - i];
    }
    *out = (phi_value){.kind = PHI_VALUE_LIST, .as.list = {.items = items, .count = count}};
    return PHI_OK;
}

/* A bound of a slice, or `fallback` when it is absent. */
static phi_status slice_bound(phi_render *render, const phi_scope *scope, const phi_node *node,
                              size_t count, size_t fallback, size_t *out)
{
    *out = fallback;
    if (!node) {
        return PHI_OK;
    }
    phi_value value = {.kind = PHI_VALUE_UNDEFINED};
    phi_status status = eval(render, scope, node, &value);
    if (status != PHI_OK || value.kind == PHI_VALUE_NONE) {
        return status;
    }
    if (value.kind != PHI_VALUE_INT) {
        return phi_template_refuse(render, node, "a slice by %s is not supported",
                                   phi_value_kind_name(&value));
    }
    int64_t total = (int64_t)count;
    int64_t at = value.as.integer < -total ? 0 : value.as.integer;
    at = at < 0 ? at + total : at;
    *out = (size_t)(at > total ? total : at);
    return PHI_OK;
}

static phi_status eval_slice(phi_render *render, const phi_scope *scope, const phi_node *node,
                             phi_value *out)
{
    phi_value object;
    phi_status status = eval(render, scope, node->a, &object);
    if (status != PHI_OK) {
        return status;
    }
    if (node->op == '-') {
        return reversed(render, node, &object, out);
    }
    if (object.kind != PHI_VALUE_LIST && object.kind != PHI_VALUE_STRING) {
        return phi_template_refuse(render, node, "a slice of %s is not supported",
                                   phi_value_kind_name(&object));
    }
    size_t count = length_of(&object);
    size_t begin = 0;
    size_t end = count;
    status = slice_bound(render, scope, node->b, count, 0, &begin);
    if (status == PHI_OK) {
        status = slice_bound(render, scope, node->c, count, count, &end);
    }
    end = end < begin ? begin : end;
    if (status == PHI_OK && object.kind == PHI_VALUE_STRING) {
        *out = substring(&object, begin, end);
    } else if (status == PHI_OK) {
        *out = object;
        out->as.list.items += begin;
        out->as.list.count = end - begin;
    }
    return status;
}

/* ------------------------------------------------------------------------------- operators ---- */

static phi_status eval_in(phi_render *render, const phi_node *node, const phi_value *item,
                          const phi_value *container, bool *out)
{
    *out = false;
    if (container->kind == PHI_VALUE_LIST) {
        for (size_t i = 0; i < container->as.list.count && !*out; i++) {
            *out = phi_value_equal(item, &container->as.list.items[i]);
        }
        return PHI_OK;
    }
    if (container->kind == PHI_VALUE_DICT && item->kind == PHI_VALUE_STRING) {
        *out = phi_dict_get(container->as.dict, item->as.string.text, item->as.string.bytes);
        return PHI_OK;
    }
    if (container->kind == PHI_VALUE_STRING && item->kind == PHI_VALUE_STRING) {
        *out = item->as.string.bytes == 0 ||
               memmem(container->as.string.text, container->as.string.bytes, item->as.string.text,
                      item->as.string.bytes) != NULL;
        return PHI_OK;
    }
    if (container->kind == PHI_VALUE_UNDEFINED) {
        return PHI_OK;
    }
    return phi_template_refuse(render, node, "\"in\" %s is not supported",
                               phi_value_kind_name(container));
}

static int compare_strings(const phi_value *a, const phi_value *b)
{
    size_t left = a->as.string.bytes;
    size_t right = b->as.string.bytes;
    int order = memcmp(a->as.string.text, b->as.string.text, left < right ? left : right);
    return order != 0 ? order : (left > right) - (left < right);
}

static phi_status eval_order(phi_render *render, const phi_node *node, const phi_value *a,
                             const phi_value *b, phi_value *out)
{
    int order = 0;
    if (a->kind == PHI_VALUE_INT && b->kind == PHI_VALUE_INT) {
        order = (a->as.integer > b->as.integer) - (a->as.integer < b->as.integer);
    } else if (a->kind == PHI_VALUE_STRING && b->kind == PHI_VALUE_STRING) {
        order = compare_strings(a, b);
    } else {
        return phi_template_refuse(render, node, "ordering %s and %s is not supported",
                                   phi_value_kind_name(a), phi_value_kind_name(b));
    }
    switch (node->op) {
    case '<':
        *out = boolean(order < 0);
        break;
    case '>':
        *out = boolean(order > 0);
        break;
    case PHI_OP_LE:
        *out = boolean(order <= 0);
        break;
    default:
        *out = boolean(order >= 0);
        break;
    }
    return PHI_OK;
}

static phi_status eval_arithmetic(phi_render *render, const phi_node *node, const phi_value *a,
                                  const phi_value *b, phi_value *out)
{
    if (a->kind != PHI_VALUE_INT || b->kind != PHI_VALUE_INT) {
        return phi_template_refuse(render, node, "\"%c\" of %s and %s is not supported", node->op,
                                   phi_value_kind_name(a), phi_value_kind_name(b));
    }
    int64_t x = a->as.integer;
    int64_t y = b->as.integer;
    int64_t result = 0;
    bool bad = false;
    switch (node->op) {
    case '+':
        bad = __builtin_add_overflow(x, y, &result);
        break;
    case '-':
        bad = __builtin_sub_overflow(x, y, &result);
        break;
    case '*':
        bad = __builtin_mul_overflow(x, y, &result);
        break;
    default:
        /* Python rounds down and gives the remainder the divisor's sign. */
        bad = y == 0 || (x == INT64_MIN && y == -1);
        if (!bad) {
            bool down = x % y != 0 && (x % y < 0) != (y < 0);
            result = node->op == '/' ? x / y - down : x % y + (down ? y : 0);
        }
        break;
    }
    *out = (phi_value){.kind = PHI_VALUE_INT, .as.integer = result};
    return bad ? phi_fail(render->err, PHI_E_INVALID, "chat template, line %u: the sum goes wrong",
                          node->line)
               : PHI_OK;
}

static phi_status eval_concat(phi_render *render, const phi_node *node, const phi_value *a,
                              const phi_value *b, phi_value *out)
{
    phi_value left;
    phi_value right;
    phi_status status = phi_template_to_string(render, node, a, &left);
    if (status == PHI_OK) {
        status = phi_template_to_string(render, node, b, &right);
    }
    return status == PHI_OK ? phi_template_concat(render, &left, &right, out) : status;
}

static phi_status eval_equal(phi_render *render, const phi_node *node, const phi_value *a,
                             const phi_value *b, phi_value *out)
{
    bool nested = a->kind == b->kind && (a->kind == PHI_VALUE_LIST || a->kind == PHI_VALUE_DICT);
    if (nested) {
        return phi_template_refuse(render, node, "comparing %s with %s is not supported",
                                   phi_value_kind_name(a), phi_value_kind_name(b));
    }
    *out = boolean(phi_value_equal(a, b) == (node->op == PHI_OP_EQ));
    return PHI_OK;
}

static phi_status eval_binary(phi_render *render, const phi_scope *scope, const phi_node *node,
                              phi_value *out)
{
    phi_value a;
    phi_value b;
    phi_status status = eval(render, scope, node->a, &a);
    if (status != PHI_OK) {
        return status;
    }
    if ((node->op == PHI_OP_AND && !phi_value_truth(&a)) ||
        (node->op == PHI_OP_OR && phi_value_truth(&a))) {
        *out = a;
        return PHI_OK;
    }
    status = eval(render, scope, node->b, &b);
    if (status != PHI_OK) {
        return status;
    }
    bool found = false;
    switch (node->op) {
    case PHI_OP_AND:
    case PHI_OP_OR:
        *out = b;
        return PHI_OK;
    case PHI_OP_EQ:
    case PHI_OP_NE:
        return eval_equal(render, node, &a, &b, out);
    case PHI_OP_IN:
    case PHI_OP_NOT_IN:
        status = eval_in(render, node, &a, &b, &found);
        *out = boolean(found == (node->op == PHI_OP_IN));
        return status;
    case '<':
    case '>':
    case PHI_OP_LE:
    case PHI_OP_GE:
        return eval_order(render, node, &a, &b, out);
    case '~':
        return eval_concat(render, node, &a, &b, out);
    default:
        break;
    }
    if (node->op == '+' && a.kind == PHI_VALUE_STRING && b.kind == PHI_VALUE_STRING) {
        return phi_template_concat(render, &a, &b, out);
    }
    return eval_arithmetic(render, node, &a, &b, out);
}

/* ------------------------------------------------------------------------------ expressions ----
 */

static phi_status eval_arguments(phi_render *render, const phi_scope *scope, const phi_node *first,
                                 phi_arguments *out)
{
    out->count = 0;
    for (const phi_node *node = first; node; node = node->next) {
        if (out->count == PHI_ARGUMENTS_MAX) {
            return phi_template_refuse(render, node, "more than %d arguments are not supported",
                                       PHI_ARGUMENTS_MAX);
        }
        phi_status status = eval(render, scope, node, &out->values[out->count]);
        if (status != PHI_OK) {
            return status;
        }
        out->keywords[out->count++] = node->name2;
    }
    return PHI_OK;
}

static phi_status eval_list(phi_render *render, const phi_scope *scope, const phi_node *node,
                            phi_value *out)
{
    size_t count = 0;
    for (const phi_node *item = node->a; item; item = item->next) {
        count++;
    }
    phi_value *items = phi_arena_take(&render->heap->arena, (count + 1) * sizeof *items);
    if (!items) {
        return phi_template_no_memory(render);
    }
    count = 0;
    for (const phi_node *item = node->a; item; item = item->next) {
        phi_status status = eval(render, scope, item, &items[count]);
        if (status != PHI_OK) {
            return status;
        }
        if (items[count++].kind == PHI_VALUE_LOOP) {
            return phi_template_refuse(render, node, "\"loop\" in a list is not supported");
        }
    }
    *out = (phi_value){.kind = PHI_VALUE_LIST, .as.list = {.items = items, .count = count}};
    return PHI_OK;
}

static phi_status eval_applied(phi_render *render, const phi_scope *scope, const phi_node *node,
                               phi_value *out)
{
    phi_value input = {.kind = PHI_VALUE_UNDEFINED};
    phi_arguments arguments;
    phi_status status = node->a ? eval(render, scope, node->a, &input) : PHI_OK;
    if (status == PHI_OK) {
        status = eval_arguments(render, scope, node->b, &arguments);
    }
    if (status != PHI_OK) {
        return status;
    }
    return node->kind == PHI_NODE_CALL
               ? phi_template_call(render, node, node->a ? &input : NULL, &arguments, out)
               : phi_template_filter(render, node, &input, &arguments, out);
}

static phi_status eval_choice(phi_render *render, const phi_scope *scope, const phi_node *node,
                              phi_value *out)
{
    phi_value condition;
    phi_status status = eval(render, scope, node->a, &condition);
    if (status != PHI_OK) {
        return status;
    }
    const phi_node *chosen = phi_value_truth(&condition) ? node->b : node->c;
    *out = (phi_value){.kind = PHI_VALUE_UNDEFINED};
    return chosen ? eval(render, scope, chosen, out) : PHI_OK;
}

/* Expressions of one part. */
static phi_status eval_unary(phi_render *render, const phi_scope *scope, const phi_node *node,
                             phi_value *out)
{
    phi_value value;
    phi_value key;
    bool truth = false;
    phi_status status = eval(render, scope, node->a, &value);
    if (status != PHI_OK) {
        return status;
    }
    switch (node->kind) {
    case PHI_NODE_ATTRIBUTE:
        return eval_attribute(render, node, &value, out);
    case PHI_NODE_INDEX:
        status = eval(render, scope, node->b, &key);
        return status == PHI_OK ? eval_index(render, node, &value, &key, out) : status;
    case PHI_NODE_TEST:
        status = phi_template_test(render, node, &value, &truth);
        *out = boolean(truth != (node->op == 'n'));
        return status;
    case PHI_NODE_NOT:
        *out = boolean(!phi_value_truth(&value));
        return PHI_OK;
    default:
        break;
    }
    if (value.kind != PHI_VALUE_INT || value.as.integer == INT64_MIN) {
        return phi_template_refuse(render, node, "minus %s is not supported",
                                   phi_value_kind_name(&value));
    }
    *out = (phi_value){.kind = PHI_VALUE_INT, .as.integer = -value.as.integer};
    return PHI_OK;
}

static phi_status eval(phi_render *render, const phi_scope *scope, const phi_node *node,
                       phi_value *out)
{
    phi_status status = count_step(render, node);
    if (status != PHI_OK) {
        return status;
    }
    switch (node->kind) {
    case PHI_NODE_LITERAL:
        *out = node->literal;
        return PHI_OK;
    case PHI_NODE_NAME:
        *out = find_name(scope, node->text, node->text_bytes);
        return PHI_OK;
    case PHI_NODE_LIST:
        return eval_list(render, scope, node, out);
    case PHI_NODE_SLICE:
        return eval_slice(render, scope, node, out);
    case PHI_NODE_CALL:
    case PHI_NODE_FILTER:
        return eval_applied(render, scope, node, out);
    case PHI_NODE_BINARY:
        return eval_binary(render, scope, node, out);
    case PHI_NODE_CHOICE:
        return eval_choice(render, scope, node, out);
    default:
        return eval_unary(render, scope, node, out);
    }
}

/* ------------------------------------------------------------------------------- statements ----
 */

static phi_status run(phi_render *render, const phi_scope *scope, const phi_node *body);

static phi_status run_output(phi_render *render, const phi_scope *scope, const phi_node *node)
{
    phi_value value;
    phi_value text;
    phi_status status = eval(render, scope, node->a, &value);
    if (status == PHI_OK) {
        status = phi_template_to_string(render, node, &value, &text);
    }
    if (status == PHI_OK) {
        phi_buf_append(&render->out->text, text.as.string.text, text.as.string.bytes);
        phi_buf_append(&render->out->trust, text.as.string.trust, text.as.string.bytes);
    }
    return status;
}

static phi_status run_if(phi_render *render, const phi_scope *scope, const phi_node *node)
{
    for (const phi_node *branch = node->a; branch; branch = branch->next) {
        phi_value condition = boolean(true);
        phi_status status = branch->a ? eval(render, scope, branch->a, &condition) : PHI_OK;
        if (status != PHI_OK) {
            return status;
        }
        if (phi_value_truth(&condition)) {
            return run(render, scope, branch->b);
        }
    }
    return PHI_OK;
}

static phi_status run_for(phi_render *render, const phi_scope *scope, const phi_node *node)
{
    phi_value list = {.kind = PHI_VALUE_UNDEFINED};
    phi_status status = eval(render, scope, node->a, &list);
    if (status != PHI_OK) {
        return status;
    }
    if (list.kind == PHI_VALUE_UNDEFINED) {
        list = (phi_value){.kind = PHI_VALUE_LIST};
    }
    if (list.kind != PHI_VALUE_LIST) {
        return phi_template_refuse(render, node, "\"for\" over %s is not supported",
                                   phi_value_kind_name(&list));
    }
    phi_loop loop = {.items = list.as.list.items, .count = list.as.list.count};
    for (; status == PHI_OK && loop.at < loop.count; loop.at++) {
        phi_dict names = {.entries = NULL};
        phi_scope inner = {.names = &names, .outer = scope};
        phi_value state = {.kind = PHI_VALUE_LOOP, .as.loop = &loop};
        if (!phi_dict_set(render->heap, &names, "loop", 4, &state) ||
            !phi_dict_set(render->heap, &names, node->text, node->text_bytes,
                          &loop.items[loop.at])) {
            return phi_template_no_memory(render);
        }
        status = run(render, &inner, node->b);
    }
    return status == PHI_OK && loop.count == 0 ? run(render, scope, node->c) : status;
}

/* A loop's state lives on the stack of its for statement and must not get out. */
static phi_status run_set(phi_render *render, const phi_scope *scope, const phi_node *node)
{
    phi_value value = {.kind = PHI_VALUE_UNDEFINED};
    phi_status status = eval(render, scope, node->a, &value);
    if (status != PHI_OK) {
        return status;
    }
    if (value.kind == PHI_VALUE_LOOP) {
        return phi_template_refuse(render, node, "keeping \"loop\" in a variable is not supported");
    }
    phi_dict *names = scope->names;
    const char *name = node->text;
    if (node->name2) {
        phi_value target = find_name(scope, node->text, node->text_bytes);
        if (target.kind != PHI_VALUE_DICT || !target.as.dict->is_namespace) {
            return phi_template_refuse(render, node, "\"%.40s\" is not a namespace", node->text);
        }
        names = target.as.dict;
        name = node->name2;
    }
    return phi_dict_set(render->heap, names, name, strlen(name), &value)
               ? PHI_OK
               : phi_template_no_memory(render);
}

static phi_status run_one(phi_render *render, const phi_scope *scope, const phi_node *node)
{
    switch (node->kind) {
    case PHI_NODE_TEXT:
        phi_marked_append(render->out, node->text, node->text_bytes, true);
        return PHI_OK;
    case PHI_NODE_OUTPUT:
        return run_output(render, scope, node);
    case PHI_NODE_IF:
        return run_if(render, scope, node);
    case PHI_NODE_FOR:
        return run_for(render, scope, node);
    default:
        return run_set(render, scope, node);
    }
}

static phi_status run(phi_render *render, const phi_scope *scope, const phi_node *body)
{
    phi_status status = PHI_OK;
    for (const phi_node *node = body; status == PHI_OK && node; node = node->next) {
        status = count_step(render, node);
        if (status == PHI_OK) {
            status = run_one(render, scope, node);
        }
        if (status == PHI_OK && phi_marked_failed(render->out)) {
            status =
                phi_fail(render->err, PHI_E_LIMIT, "chat template: the rendered text is too long");
        }
    }
    return status;
}

phi_status phi_template_render(const phi_template *parsed, phi_value_heap *heap,
                               const phi_dict *variables, phi_marked *out, phi_err *err)
{
    phi_render render = {.heap = heap, .out = out, .err = err};
    phi_dict given = *variables;
    phi_dict own = {.entries = NULL};
    phi_scope outer = {.names = &given, .outer = NULL};
    phi_scope scope = {.names = &own, .outer = &outer};
    return run(&render, &scope, parsed->body);
}
