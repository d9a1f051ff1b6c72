#include "engine/formats/pickle_internal.h"

#include <string.h>

#include "base/checked.h"
#include "engine/formats/text_check.h"

#define STORAGE_KEY_BYTES_MAX 128U

typedef enum what {
    ORDERED_DICT,
    SIZE,
    ENCODE,
    PARAMETER,            /* the class: (tensor[, requires_grad]) */
    REBUILD_PARAMETER,    /* (tensor, requires_grad, hooks[, state]) */
    REBUILD_TENSOR,       /* (storage, offset, size, stride) */
    REBUILD_TENSOR_V2,    /* the same, requires_grad, hooks[, metadata] */
    REBUILD_TENSOR_DTYPE, /* the same, requires_grad, hooks, dtype[, metadata] */
    STORAGE,
    DTYPE,
} what;

struct phi_pickle_global {
    const char *module;
    const char *name;
    what is;
    phi_pickle_dtype dtype; /* STORAGE and DTYPE */
    uint32_t args_min;      /* of the others */
    uint32_t args_max;
};

#define STORED(name, ...)                                                                          \
    {                                                                                              \
        "torch", name "Storage", STORAGE, {__VA_ARGS__}, 0, 0                                      \
    }
#define TYPED(name, ...)                                                                           \
    {                                                                                              \
        "torch", name, DTYPE, {__VA_ARGS__}, 0, 0                                                  \
    }
#define NO_DTYPE                                                                                   \
    {                                                                                              \
        NULL, 0, false, PHI_DTYPE_F32                                                              \
    }
#define F32 "F32", 4, true, PHI_DTYPE_F32
#define F16 "F16", 2, true, PHI_DTYPE_F16
#define BF16 "BF16", 2, true, PHI_DTYPE_BF16
#define OTHER(name, bytes) name, bytes, false, PHI_DTYPE_F32

/* All that a pickle may name. */
static const phi_pickle_global globals[] = {
    {"collections", "OrderedDict", ORDERED_DICT, NO_DTYPE, 0, 0},
    {"_codecs", "encode", ENCODE, NO_DTYPE, 1, 2},
    {"torch", "Size", SIZE, NO_DTYPE, 1, 1},
    {"torch.nn.parameter", "Parameter", PARAMETER, NO_DTYPE, 1, 2},
    {"torch._utils", "_rebuild_parameter", REBUILD_PARAMETER, NO_DTYPE, 3, 3},
    {"torch._utils", "_rebuild_parameter_with_state", REBUILD_PARAMETER, NO_DTYPE, 4, 4},
    {"torch._utils", "_rebuild_tensor", REBUILD_TENSOR, NO_DTYPE, 4, 4},
    {"torch._utils", "_rebuild_tensor_v2", REBUILD_TENSOR_V2, NO_DTYPE, 6, 7},
    {"torch._utils", "_rebuild_tensor_v3", REBUILD_TENSOR_DTYPE, NO_DTYPE, 7, 8},
    STORED("Float", F32),
    STORED("Half", F16),
    STORED("BFloat16", BF16),
    STORED("Double", OTHER("F64", 8)),
    STORED("Long", OTHER("I64", 8)),
    STORED("Int", OTHER("I32", 4)),
    STORED("Short", OTHER("I16", 2)),
    STORED("Char", OTHER("I8", 1)),
    STORED("Byte", OTHER("U8", 1)),
    STORED("Bool", OTHER("BOOL", 1)),
    /* Bytes without a type: the tensor says its own. */
    {"torch.storage", "UntypedStorage", STORAGE, {OTHER("U8", 1)}, 0, 0},
    TYPED("float32", F32),
    TYPED("float16", F16),
    TYPED("bfloat16", BF16),
    TYPED("float64", OTHER("F64", 8)),
    TYPED("complex64", OTHER("C64", 8)),
    TYPED("int64", OTHER("I64", 8)),
    TYPED("uint64", OTHER("U64", 8)),
    TYPED("int32", OTHER("I32", 4)),
    TYPED("uint32", OTHER("U32", 4)),
    TYPED("int16", OTHER("I16", 2)),
    TYPED("uint16", OTHER("U16", 2)),
    TYPED("int8", OTHER("I8", 1)),
    TYPED("uint8", OTHER("U8", 1)),
    TYPED("bool", OTHER("BOOL", 1)),
    TYPED("float8_e4m3fn", OTHER("F8_E4M3", 1)),
    TYPED("float8_e5m2", OTHER("F8_E5M2", 1)),
};

const phi_pickle_global *phi_pickle_find_global(const char *module, const char *name)
{
    for (size_t i = 0; i < sizeof globals / sizeof *globals; i++) {
        if (strcmp(globals[i].module, module) == 0 && strcmp(globals[i].name, name) == 0) {
            return &globals[i];
        }
    }
    return NULL;
}

static bool all_integers(const phi_pickle_value *tuple)
{
    bool integers = tuple->kind == PHI_PICKLE_TUPLE;
    for (size_t i = 0; integers && i < tuple->as.list->count; i++) {
        integers = tuple->as.list->items[i].kind == PHI_PICKLE_INT;
    }
    return integers;
}

static phi_status build_tensor(phi_pickle_vm *vm, const phi_pickle_global *global,
                               const phi_pickle_value *args, phi_pickle_value *out)
{
    bool typed = global->is == REBUILD_TENSOR_DTYPE;
    bool right = args[0].kind == PHI_PICKLE_STORAGE && args[1].kind == PHI_PICKLE_INT &&
                 all_integers(&args[2]) && all_integers(&args[3]) &&
                 args[2].as.list->count == args[3].as.list->count;
    if (typed) {
        right = right && args[6].kind == PHI_PICKLE_GLOBAL && args[6].as.global->is == DTYPE;
    }
    if (!right) {
        return phi_pickle_fail(vm, PHI_E_FORMAT,
                               "a tensor whose storage, offset, size and stride are not of the "
                               "right kinds");
    }
    phi_status status = PHI_OK;
    phi_pickle_tensor *tensor = phi_pickle_take(vm, sizeof *tensor, &status);
    if (status) {
        return status;
    }
    *tensor = (phi_pickle_tensor){
        .storage = args[0].as.storage,
        .dtype = typed ? &args[6].as.global->dtype : args[0].as.storage->dtype,
        .offset = args[1].as.integer,
        .size = args[2].as.list,
        .stride = args[3].as.list,
    };
    *out = (phi_pickle_value){.kind = PHI_PICKLE_TENSOR, .as.tensor = tensor};
    return PHI_OK;
}

static phi_status build_parameter(phi_pickle_vm *vm, const phi_pickle_value *args,
                                  phi_pickle_value *out)
{
    if (args[0].kind != PHI_PICKLE_TENSOR) {
        return phi_pickle_fail(vm, PHI_E_FORMAT, "a parameter that is not a tensor");
    }
    *out = args[0];
    return PHI_OK;
}

static phi_status build_size(phi_pickle_vm *vm, const phi_pickle_value *args, phi_pickle_value *out)
{
    if (!all_integers(&args[0])) {
        return phi_pickle_fail(vm, PHI_E_FORMAT, "a torch.Size that is not a tuple of integers");
    }
    *out = args[0];
    return PHI_OK;
}

static phi_status build_dict(phi_pickle_vm *vm, phi_pickle_value *out)
{
    phi_status status = PHI_OK;
    phi_pickle_list *list = phi_pickle_take(vm, sizeof *list, &status);
    if (!status) {
        *list = (phi_pickle_list){.count = 0};
        *out = (phi_pickle_value){.kind = PHI_PICKLE_DICT, .as.list = list};
    }
    return status;
}

phi_status phi_pickle_call(phi_pickle_vm *vm, const phi_pickle_value *callee,
                           const phi_pickle_value *args, phi_pickle_value *out_value)
{
    if (callee->kind != PHI_PICKLE_GLOBAL || args->kind != PHI_PICKLE_TUPLE) {
        return phi_pickle_fail(vm, PHI_E_FORMAT, "a call of what is not a function");
    }
    const phi_pickle_global *global = callee->as.global;
    const phi_pickle_value *items = args->as.list->items;
    size_t count = args->as.list->count;
    if (global->is == STORAGE || global->is == DTYPE) {
        return phi_pickle_fail(vm, PHI_E_FORMAT, "a call of %s.%s, which is a type only,",
                               global->module, global->name);
    }
    if (count < global->args_min || count > global->args_max) {
        return phi_pickle_fail(vm, PHI_E_FORMAT, "a call of %s.%s with %zu arguments",
                               global->module, global->name, count);
    }
    switch (global->is) {
    case ORDERED_DICT:
        return build_dict(vm, out_value);
    case SIZE:
        return build_size(vm, items, out_value);
    case ENCODE:
        *out_value = (phi_pickle_value){.kind = PHI_PICKLE_BYTES};
        return PHI_OK;
    case PARAMETER:
    case REBUILD_PARAMETER:
        return build_parameter(vm, items, out_value);
    case REBUILD_TENSOR:
    case REBUILD_TENSOR_V2:
    case REBUILD_TENSOR_DTYPE:
        return build_tensor(vm, global, items, out_value);
    case STORAGE:
    case DTYPE:
        break;
    }
    return PHI_E_INTERNAL;
}

static bool is_text(const phi_pickle_value *value, const char *text)
{
    return value->kind == PHI_PICKLE_STRING && value->as.string->bytes == strlen(text) &&
           memcmp(value->as.string->text, text, strlen(text)) == 0;
}

/* ("storage", type, key, where it was, elements), and in files older than torch 1.6 what part of
 * another storage it is, or None. */
phi_status phi_pickle_resolve(phi_pickle_vm *vm, const phi_pickle_value *id,
                              phi_pickle_value *out_value)
{
    const phi_pickle_value *items = id->kind == PHI_PICKLE_TUPLE ? id->as.list->items : NULL;
    size_t count = items ? id->as.list->count : 0;
    bool right = (count == 5 || count == 6) && is_text(&items[0], "storage") &&
                 items[1].kind == PHI_PICKLE_GLOBAL && items[1].as.global->is == STORAGE &&
                 items[2].kind == PHI_PICKLE_STRING && items[4].kind == PHI_PICKLE_INT &&
                 items[4].as.integer >= 0;
    if (!right) {
        return phi_pickle_fail(vm, PHI_E_FORMAT,
                               "a persistent id that is not a storage's type, key and size");
    }
    const phi_pickle_string *key = items[2].as.string;
    if (key->bytes > STORAGE_KEY_BYTES_MAX || !phi_name_is_clean(key->text, key->bytes)) {
        return phi_pickle_fail(vm, PHI_E_FORMAT, "a storage whose key is not a short text");
    }
    if (count == 6 && items[5].kind != PHI_PICKLE_NONE) {
        return phi_pickle_fail(vm, PHI_E_UNSUPPORTED,
                               "a storage that is part of another one, as torch before 0.4 wrote "
                               "them,");
    }
    if (vm->pickle->n_storages == PHI_LIMIT_TENSORS) {
        return phi_pickle_fail(vm, PHI_E_LIMIT, "more than %u storages", PHI_LIMIT_TENSORS);
    }
    const phi_pickle_dtype *dtype = &items[1].as.global->dtype;
    uint64_t elements = (uint64_t)items[4].as.integer;
    uint64_t bytes = 0;
    if (!phi_checked_mul(elements, dtype->bytes, &bytes)) {
        return phi_pickle_fail(vm, PHI_E_FORMAT, "a storage of %llu elements",
                               (unsigned long long)elements);
    }
    phi_status status = PHI_OK;
    phi_pickle_storage *storage = phi_pickle_take(vm, sizeof *storage, &status);
    if (status) {
        return status;
    }
    *storage = (phi_pickle_storage){.next = vm->pickle->storages,
                                    .key = key,
                                    .dtype = dtype,
                                    .elements = elements,
                                    .bytes = bytes};
    vm->pickle->storages = storage;
    vm->pickle->n_storages++;
    *out_value = (phi_pickle_value){.kind = PHI_PICKLE_STORAGE, .as.storage = storage};
    return PHI_OK;
}
