/*
 * A stack machine, one instruction after another:
 *   1. an instruction takes its operands from the file through a window of fixed size, and its
 *      values from the stack, never below the last mark;
 *   2. it costs at most what it takes off the stack, so the whole costs at most the pickle's bytes;
 *   3. lists, the stack and the memo grow by doubling, up to their limits.
 */
#include "engine/formats/pickle.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "engine/formats/pickle_internal.h"
#include "engine/formats/text_check.h"

#define LINE_BYTES_MAX 128U
#define CAPACITY_MIN 256U
#define LIST_CAPACITY_MIN 4U

phi_status phi_pickle_fail(const phi_pickle_vm *vm, phi_status status, const char *fmt, ...)
{
    char text[PHI_ERR_BYTES_MAX];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return phi_fail(vm->err, status, "%s: %s at byte %llu", vm->source->label, text,
                    (unsigned long long)(vm->op_at - vm->source->origin));
}

static phi_status fail_memory(const phi_pickle_vm *vm)
{
    return phi_fail(vm->err, PHI_E_NO_MEMORY, "not enough memory for what %s describes",
                    vm->source->label);
}

void *phi_pickle_take(phi_pickle_vm *vm, size_t bytes, phi_status *status)
{
    void *taken = phi_arena_take(&vm->pickle->arena, bytes);
    if (!taken) {
        *status = vm->pickle->arena.full
                      ? phi_pickle_fail(vm, PHI_E_LIMIT, "more than %u bytes of values",
                                        PHI_LIMIT_PICKLE_MEMORY_BYTES)
                      : fail_memory(vm);
    }
    return taken;
}

/* ---- the file ---- */

static phi_status refill(phi_pickle_vm *vm)
{
    uint64_t rest = vm->source->end - vm->at;
    if (rest == 0) {
        return phi_fail(vm->err, PHI_E_FORMAT, "%s ends early: its pickle goes on after byte %llu",
                        vm->source->label, (unsigned long long)(vm->at - vm->source->origin));
    }
    size_t bytes = rest < PHI_PICKLE_WINDOW_BYTES ? (size_t)rest : PHI_PICKLE_WINDOW_BYTES;
    phi_status status = phi_file_read_at(vm->source->file, vm->at, vm->window, bytes, vm->err);
    vm->window_at = 0;
    vm->window_bytes = status ? 0 : bytes;
    return status;
}

static phi_status read_bytes(phi_pickle_vm *vm, void *data, size_t bytes)
{
    uint8_t *out = data;
    while (bytes > 0) {
        if (vm->window_at == vm->window_bytes) {
            phi_status status = refill(vm);
            if (status) {
                return status;
            }
        }
        size_t ready = vm->window_bytes - vm->window_at;
        size_t now = bytes < ready ? bytes : ready;
        memcpy(out, vm->window + vm->window_at, now);
        vm->window_at += now;
        vm->at += now;
        out += now;
        bytes -= now;
    }
    return PHI_OK;
}

/* A little-endian number of up to 8 bytes, not negative. */
static phi_status read_number(phi_pickle_vm *vm, size_t bytes, uint64_t *out)
{
    uint64_t number = 0; /* the machine is little-endian, as safetensors.c asserts */
    phi_status status = read_bytes(vm, &number, bytes);
    *out = number;
    return status;
}

/* Text up to the end of the line. */
static phi_status read_line(phi_pickle_vm *vm, char line[LINE_BYTES_MAX])
{
    for (size_t i = 0; i < LINE_BYTES_MAX; i++) {
        phi_status status = read_bytes(vm, &line[i], 1);
        if (status) {
            return status;
        }
        if (line[i] == '\n') {
            line[i] = '\0';
            return i > 0 && phi_name_is_clean(line, i)
                       ? PHI_OK
                       : phi_pickle_fail(vm, PHI_E_FORMAT, "a global whose name is not text");
        }
    }
    return phi_pickle_fail(vm, PHI_E_FORMAT, "a global whose name is longer than %u bytes",
                           LINE_BYTES_MAX - 1);
}

/* ---- the stack ---- */

/* Room for `wanted` values; twice as much as before, at least. */
static phi_status grow(phi_pickle_vm *vm, phi_pickle_value **values, size_t *capacity,
                       size_t wanted)
{
    size_t now = *capacity > CAPACITY_MIN ? *capacity : CAPACITY_MIN;
    while (now < wanted) {
        now *= 2;
    }
    phi_pickle_value *grown = phi_try_realloc(*values, now * sizeof *grown);
    if (!grown) {
        return fail_memory(vm);
    }
    memset(grown + *capacity, 0, (now - *capacity) * sizeof *grown);
    *values = grown;
    *capacity = now;
    return PHI_OK;
}

static phi_status push(phi_pickle_vm *vm, phi_pickle_value value)
{
    if (vm->depth == PHI_LIMIT_PICKLE_STACK) {
        return phi_pickle_fail(vm, PHI_E_LIMIT, "more than %u values on the pickle's stack",
                               PHI_LIMIT_PICKLE_STACK);
    }
    if (vm->depth == vm->capacity) {
        phi_status status = grow(vm, &vm->stack, &vm->capacity, vm->depth + 1);
        if (status) {
            return status;
        }
    }
    vm->stack[vm->depth++] = value;
    return PHI_OK;
}

static phi_status fail_empty(const phi_pickle_vm *vm)
{
    return phi_pickle_fail(vm, PHI_E_FORMAT, "an instruction without the values that it needs");
}

/* The topmost `count` values, which stay; NULL when there are fewer above the last mark. */
static phi_pickle_value *top(const phi_pickle_vm *vm, size_t count)
{
    size_t floor = vm->n_marks ? vm->marks[vm->n_marks - 1] : 0;
    return vm->depth - floor < count ? NULL : vm->stack + vm->depth - count;
}

/* Removes the last mark; the values above it, which are off the stack then but still there. */
static phi_status pop_mark(phi_pickle_vm *vm, phi_pickle_value **out_values, size_t *out_count)
{
    if (vm->n_marks == 0) {
        return fail_empty(vm);
    }
    size_t height = vm->marks[--vm->n_marks];
    *out_values = vm->stack + height;
    *out_count = vm->depth - height;
    vm->depth = height;
    return PHI_OK;
}

static phi_status push_list(phi_pickle_vm *vm, phi_pickle_kind kind, const phi_pickle_value *values,
                            size_t count)
{
    phi_status status = PHI_OK;
    phi_pickle_list *list = phi_pickle_take(vm, sizeof *list + count * sizeof *values, &status);
    if (status) {
        return status;
    }
    phi_pickle_value *items = (phi_pickle_value *)(void *)(list + 1);
    *list = (phi_pickle_list){.items = items, .count = count, .capacity = count};
    if (count > 0) {
        memcpy(items, values, count * sizeof *values);
    }
    return push(vm, (phi_pickle_value){.kind = kind, .as.list = list});
}

static phi_status append(phi_pickle_vm *vm, phi_pickle_list *list, const phi_pickle_value *values,
                         size_t count)
{
    if (count > list->capacity - list->count) {
        size_t capacity = list->capacity > LIST_CAPACITY_MIN ? list->capacity : LIST_CAPACITY_MIN;
        while (capacity < list->count + count) {
            capacity *= 2;
        }
        phi_status status = PHI_OK;
        phi_pickle_value *items = phi_pickle_take(vm, capacity * sizeof *items, &status);
        if (status) {
            return status;
        }
        if (list->count > 0) {
            memcpy(items, list->items, list->count * sizeof *items);
        }
        list->items = items;
        list->capacity = capacity;
    }
    if (count > 0) {
        memcpy(list->items + list->count, values, count * sizeof *values);
    }
    list->count += count;
    return PHI_OK;
}

/* ---- instructions ---- */

static phi_status op_proto(phi_pickle_vm *vm, unsigned operand)
{
    (void)operand;
    uint64_t version = 0;
    phi_status status = read_number(vm, 1, &version);
    if (!status && version != 2) {
        status = phi_pickle_fail(vm, PHI_E_UNSUPPORTED,
                                 "pickle protocol %llu, where torch.save's own 2 is right,",
                                 (unsigned long long)version);
    }
    return status;
}

static phi_status op_stop(phi_pickle_vm *vm, unsigned operand)
{
    (void)operand;
    if (vm->depth != 1 || vm->n_marks != 0) {
        return phi_pickle_fail(vm, PHI_E_FORMAT,
                               "the end of the pickle with %zu values on its "
                               "stack, where one is right,",
                               vm->depth);
    }
    vm->pickle->root = vm->stack[0];
    vm->stopped = true;
    return PHI_OK;
}

static phi_status op_mark(phi_pickle_vm *vm, unsigned operand)
{
    (void)operand;
    if (vm->n_marks == PHI_LIMIT_PICKLE_DEPTH) {
        return phi_pickle_fail(vm, PHI_E_LIMIT, "more than %u containers inside each other",
                               PHI_LIMIT_PICKLE_DEPTH);
    }
    vm->marks[vm->n_marks++] = vm->depth;
    return PHI_OK;
}

static phi_status op_none(phi_pickle_vm *vm, unsigned operand)
{
    (void)operand;
    return push(vm, (phi_pickle_value){.kind = PHI_PICKLE_NONE});
}

static phi_status op_bool(phi_pickle_vm *vm, unsigned value)
{
    return push(vm, (phi_pickle_value){.kind = PHI_PICKLE_BOOL, .as.integer = value});
}

static phi_status push_integer(phi_pickle_vm *vm, phi_status status, int64_t integer)
{
    return status ? status
                  : push(vm, (phi_pickle_value){.kind = PHI_PICKLE_INT, .as.integer = integer});
}

static phi_status op_unsigned(phi_pickle_vm *vm, unsigned bytes)
{
    uint64_t number = 0;
    phi_status status = read_number(vm, bytes, &number);
    return push_integer(vm, status, (int64_t)number);
}

static phi_status op_int32(phi_pickle_vm *vm, unsigned operand)
{
    (void)operand;
    int32_t number = 0;
    phi_status status = read_bytes(vm, &number, sizeof number);
    return push_integer(vm, status, number);
}

/* Two's complement of as many bytes as it says. */
static phi_status op_long(phi_pickle_vm *vm, unsigned operand)
{
    (void)operand;
    uint64_t bytes = 0;
    phi_status status = read_number(vm, 1, &bytes);
    if (!status && bytes > 8) {
        status = phi_pickle_fail(vm, PHI_E_LIMIT, "an integer of %llu bytes, where 8 are enough,",
                                 (unsigned long long)bytes);
    }
    uint64_t number = 0;
    if (!status) {
        status = read_number(vm, (size_t)bytes, &number);
    }
    if (!status && bytes > 0 && bytes < 8 && number >> (8 * bytes - 1)) {
        number |= UINT64_MAX << (8 * bytes);
    }
    return push_integer(vm, status, (int64_t)number);
}

static phi_status op_float(phi_pickle_vm *vm, unsigned operand)
{
    (void)operand;
    uint64_t ignored = 0;
    phi_status status = read_number(vm, 8, &ignored);
    return status ? status : push(vm, (phi_pickle_value){.kind = PHI_PICKLE_FLOAT});
}

static phi_status op_string(phi_pickle_vm *vm, unsigned length_bytes)
{
    uint64_t bytes = 0;
    phi_status status = read_number(vm, length_bytes, &bytes);
    if (!status && bytes > PHI_LIMIT_PICKLE_STRING_BYTES) {
        status = phi_pickle_fail(vm, PHI_E_LIMIT, "a text of %llu bytes, where %u are accepted,",
                                 (unsigned long long)bytes, PHI_LIMIT_PICKLE_STRING_BYTES);
    }
    if (status) {
        return status;
    }
    phi_pickle_string *string = phi_pickle_take(vm, sizeof *string + (size_t)bytes + 1, &status);
    if (status) {
        return status;
    }
    string->bytes = (size_t)bytes;
    string->text[bytes] = '\0';
    status = read_bytes(vm, string->text, (size_t)bytes);
    return status ? status
                  : push(vm, (phi_pickle_value){.kind = PHI_PICKLE_STRING, .as.string = string});
}

static phi_status op_empty(phi_pickle_vm *vm, unsigned kind)
{
    return push_list(vm, (phi_pickle_kind)kind, NULL, 0);
}

static phi_status op_tuple_of(phi_pickle_vm *vm, unsigned count)
{
    const phi_pickle_value *values = top(vm, count);
    if (!values) {
        return fail_empty(vm);
    }
    vm->depth -= count;
    return push_list(vm, PHI_PICKLE_TUPLE, values, count);
}

static phi_status op_tuple(phi_pickle_vm *vm, unsigned operand)
{
    (void)operand;
    phi_pickle_value *values = NULL;
    size_t count = 0;
    phi_status status = pop_mark(vm, &values, &count);
    return status ? status : push_list(vm, PHI_PICKLE_TUPLE, values, count);
}

/* Puts `count` values, which are off the stack already, into the container that is on top. */
static phi_status fill(phi_pickle_vm *vm, phi_pickle_kind kind, const phi_pickle_value *values,
                       size_t count)
{
    const phi_pickle_value *container = top(vm, 1);
    if (!container || container->kind != kind) {
        return phi_pickle_fail(vm, PHI_E_FORMAT, "values for a container that is not there");
    }
    if (kind == PHI_PICKLE_DICT && count % 2 != 0) {
        return phi_pickle_fail(vm, PHI_E_FORMAT, "a key without a value");
    }
    return append(vm, container->as.list, values, count);
}

/* One item: a value, or a key and its value. */
static phi_status op_add_one(phi_pickle_vm *vm, unsigned kind)
{
    size_t count = kind == PHI_PICKLE_DICT ? 2 : 1;
    const phi_pickle_value *values = top(vm, count);
    if (!values) {
        return fail_empty(vm);
    }
    vm->depth -= count;
    return fill(vm, (phi_pickle_kind)kind, values, count);
}

static phi_status op_add_marked(phi_pickle_vm *vm, unsigned kind)
{
    phi_pickle_value *values = NULL;
    size_t count = 0;
    phi_status status = pop_mark(vm, &values, &count);
    return status ? status : fill(vm, (phi_pickle_kind)kind, values, count);
}

static phi_status op_global(phi_pickle_vm *vm, unsigned operand)
{
    (void)operand;
    char module[LINE_BYTES_MAX];
    char name[LINE_BYTES_MAX];
    phi_status status = read_line(vm, module);
    if (!status) {
        status = read_line(vm, name);
    }
    if (status) {
        return status;
    }
    const phi_pickle_global *global = phi_pickle_find_global(module, name);
    if (!global) {
        return phi_pickle_fail(vm, PHI_E_UNSUPPORTED,
                               "a pickle of tensors alone is read, and nothing of it is run: "
                               "refused global %.60s.%.60s",
                               module, name);
    }
    return push(vm, (phi_pickle_value){.kind = PHI_PICKLE_GLOBAL, .as.global = global});
}

/* NEWOBJ makes an object of a class as REDUCE calls it. */
static phi_status op_reduce(phi_pickle_vm *vm, unsigned operand)
{
    (void)operand;
    phi_pickle_value *values = top(vm, 2);
    if (!values) {
        return fail_empty(vm);
    }
    phi_pickle_value made = {.kind = PHI_PICKLE_UNSET};
    phi_status status = phi_pickle_call(vm, &values[0], &values[1], &made);
    if (!status) {
        vm->depth -= 2;
        status = push(vm, made);
    }
    return status;
}

/* State that a dict has beside its items, such as the versions of a model's parts: of no use. */
static phi_status op_build(phi_pickle_vm *vm, unsigned operand)
{
    (void)operand;
    const phi_pickle_value *values = top(vm, 2);
    if (!values) {
        return fail_empty(vm);
    }
    if (values[0].kind != PHI_PICKLE_DICT || values[1].kind != PHI_PICKLE_DICT) {
        return phi_pickle_fail(vm, PHI_E_UNSUPPORTED, "state for an object that is not a dict");
    }
    vm->depth--;
    return PHI_OK;
}

static phi_status op_persistent(phi_pickle_vm *vm, unsigned operand)
{
    (void)operand;
    phi_pickle_value *values = top(vm, 1);
    return values ? phi_pickle_resolve(vm, values, values) : fail_empty(vm);
}

static phi_status op_put(phi_pickle_vm *vm, unsigned index_bytes)
{
    uint64_t index = 0;
    phi_status status = read_number(vm, index_bytes, &index);
    if (status) {
        return status;
    }
    if (index >= PHI_LIMIT_PICKLE_MEMO) {
        return phi_pickle_fail(vm, PHI_E_LIMIT,
                               "entry %llu of the memo, where fewer than %u are accepted,",
                               (unsigned long long)index, PHI_LIMIT_PICKLE_MEMO);
    }
    const phi_pickle_value *value = top(vm, 1);
    if (!value) {
        return fail_empty(vm);
    }
    if (index >= vm->memo_capacity) {
        status = grow(vm, &vm->memo, &vm->memo_capacity, (size_t)index + 1);
    }
    if (!status) {
        vm->memo[index] = *value;
    }
    return status;
}

static phi_status op_get(phi_pickle_vm *vm, unsigned index_bytes)
{
    uint64_t index = 0;
    phi_status status = read_number(vm, index_bytes, &index);
    if (status) {
        return status;
    }
    if (index >= vm->memo_capacity || vm->memo[index].kind == PHI_PICKLE_UNSET) {
        return phi_pickle_fail(vm, PHI_E_FORMAT, "entry %llu of the memo, which is empty,",
                               (unsigned long long)index);
    }
    return push(vm, vm->memo[index]);
}

/* Instructions that are run have a function; the others only a name to be refused by. */
static const struct {
    const char *name;
    phi_status (*run)(phi_pickle_vm *vm, unsigned operand);
    unsigned operand;
} ops[256] = {
    ['('] = {"MARK", op_mark, 0},
    [')'] = {"EMPTY_TUPLE", op_empty, PHI_PICKLE_TUPLE},
    ['.'] = {"STOP", op_stop, 0},
    ['G'] = {"BINFLOAT", op_float, 0},
    ['J'] = {"BININT", op_int32, 0},
    ['K'] = {"BININT1", op_unsigned, 1},
    ['M'] = {"BININT2", op_unsigned, 2},
    ['N'] = {"NONE", op_none, 0},
    ['Q'] = {"BINPERSID", op_persistent, 0},
    ['R'] = {"REDUCE", op_reduce, 0},
    ['U'] = {"SHORT_BINSTRING", op_string, 1},
    ['X'] = {"BINUNICODE", op_string, 4},
    [']'] = {"EMPTY_LIST", op_empty, PHI_PICKLE_LIST},
    ['a'] = {"APPEND", op_add_one, PHI_PICKLE_LIST},
    ['b'] = {"BUILD", op_build, 0},
    ['c'] = {"GLOBAL", op_global, 0},
    ['e'] = {"APPENDS", op_add_marked, PHI_PICKLE_LIST},
    ['h'] = {"BINGET", op_get, 1},
    ['j'] = {"LONG_BINGET", op_get, 4},
    ['q'] = {"BINPUT", op_put, 1},
    ['r'] = {"LONG_BINPUT", op_put, 4},
    ['s'] = {"SETITEM", op_add_one, PHI_PICKLE_DICT},
    ['t'] = {"TUPLE", op_tuple, 0},
    ['u'] = {"SETITEMS", op_add_marked, PHI_PICKLE_DICT},
    ['}'] = {"EMPTY_DICT", op_empty, PHI_PICKLE_DICT},
    [0x80] = {"PROTO", op_proto, 0},
    [0x81] = {"NEWOBJ", op_reduce, 0},
    [0x85] = {"TUPLE1", op_tuple_of, 1},
    [0x86] = {"TUPLE2", op_tuple_of, 2},
    [0x87] = {"TUPLE3", op_tuple_of, 3},
    [0x88] = {"NEWTRUE", op_bool, 1},
    [0x89] = {"NEWFALSE", op_bool, 0},
    [0x8a] = {"LONG1", op_long, 0},
    [0x8f] = {"EMPTY_SET", op_empty, PHI_PICKLE_SET},
    [0x90] = {"ADDITEMS", op_add_marked, PHI_PICKLE_SET},
    ['0'] = {"POP", NULL, 0},
    ['1'] = {"POP_MARK", NULL, 0},
    ['2'] = {"DUP", NULL, 0},
    ['I'] = {"INT", NULL, 0},
    ['P'] = {"PERSID", NULL, 0},
    ['i'] = {"INST", NULL, 0},
    ['o'] = {"OBJ", NULL, 0},
    [0x82] = {"EXT1", NULL, 0},
    [0x83] = {"EXT2", NULL, 0},
    [0x84] = {"EXT4", NULL, 0},
    [0x8c] = {"SHORT_BINUNICODE", NULL, 0},
    [0x92] = {"NEWOBJ_EX", NULL, 0},
    [0x93] = {"STACK_GLOBAL", NULL, 0},
    [0x94] = {"MEMOIZE", NULL, 0},
    [0x95] = {"FRAME", NULL, 0},
};

static phi_status run(phi_pickle_vm *vm)
{
    const uint64_t most = vm->source->start + PHI_LIMIT_PICKLE_BYTES;
    phi_status status = PHI_OK;
    while (!status && !vm->stopped) {
        uint8_t op = 0;
        vm->op_at = vm->at;
        status = read_bytes(vm, &op, 1);
        if (status) {
            break;
        }
        if (vm->op_at == vm->source->start && op != 0x80) {
            status = phi_pickle_fail(vm, PHI_E_FORMAT, "no pickle as torch.save writes it begins");
        } else if (!ops[op].run) {
            status = phi_pickle_fail(vm, PHI_E_UNSUPPORTED,
                                     "a pickle of tensors alone is read, and nothing of it is run: "
                                     "refused opcode 0x%02x%s%s",
                                     op, ops[op].name ? " " : "", ops[op].name ? ops[op].name : "");
        } else {
            status = ops[op].run(vm, ops[op].operand);
        }
        if (!status && vm->at > most) {
            status = phi_pickle_fail(vm, PHI_E_LIMIT, "more than %u bytes of pickle",
                                     PHI_LIMIT_PICKLE_BYTES);
        }
    }
    return status;
}

phi_status phi_pickle_read(const phi_pickle_source *source, phi_pickle *out_pickle, phi_err *err)
{
    phi_pickle pickle = {.root = {.kind = PHI_PICKLE_UNSET}};
    phi_arena_init(&pickle.arena, PHI_LIMIT_PICKLE_MEMORY_BYTES);
    phi_pickle_vm vm = {.source = source,
                        .pickle = &pickle,
                        .at = source->start,
                        .op_at = source->start,
                        .window = phi_try_alloc(PHI_PICKLE_WINDOW_BYTES),
                        .stack = phi_try_alloc_zero(CAPACITY_MIN, sizeof *vm.stack),
                        .capacity = CAPACITY_MIN,
                        .err = err};
    phi_status status = vm.window && vm.stack ? run(&vm) : fail_memory(&vm);
    phi_free(vm.window);
    phi_free(vm.stack);
    phi_free(vm.memo);
    if (status) {
        phi_pickle_done(&pickle);
        return status;
    }
    pickle.end = vm.at;
    *out_pickle = pickle;
    return PHI_OK;
}

void phi_pickle_done(phi_pickle *pickle)
{
    if (pickle) {
        phi_arena_done(&pickle->arena);
        *pickle = (phi_pickle){.root = {.kind = PHI_PICKLE_UNSET}};
    }
}

const phi_pickle_value *phi_pickle_get(const phi_pickle_value *dict, const char *key)
{
    const phi_pickle_value *found = NULL;
    size_t bytes = strlen(key);
    for (size_t i = 0; dict->kind == PHI_PICKLE_DICT && i + 1 < dict->as.list->count; i += 2) {
        const phi_pickle_value *name = &dict->as.list->items[i];
        if (name->kind == PHI_PICKLE_STRING && name->as.string->bytes == bytes &&
            memcmp(name->as.string->text, key, bytes) == 0) {
            found = name + 1;
        }
    }
    return found;
}
