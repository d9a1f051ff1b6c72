#include <string.h>

#include "base/checked.h"
#include "base/str.h"
#include "engine/formats/onnx_parse.h"
#include "engine/formats/text_check.h"

/* Field numbers of TensorProto and of StringStringEntryProto. */
enum { DIMS = 1, TYPE = 2, FLOATS = 4, INT32S = 5, INT64S = 7, NAME = 8, RAW = 9 };
enum { EXTERNAL = 13, LOCATION = 14 };
enum { ENTRY_KEY = 1, ENTRY_VALUE = 2 };

/* A tensor of which all fields have not been seen yet. */
typedef struct partial {
    phi_onnx_tensor *tensor;
    bool is_external;
    bool has_raw;
    phi_proto_field raw;
    bool has_floats;
    phi_proto_field floats;
    uint64_t n_listed; /* numbers in int32_data or int64_data, up to the second */
    int64_t listed;    /* the last of them */
    bool has_ints;
    phi_proto_field ints; /* int32_data, packed */
    const char *location;
    const char *offset;
    const char *length;
} partial;

uint32_t phi_onnx_type_bits(uint32_t type)
{
    static const uint8_t bits[] = {
        [1] = 32,  [2] = 8,   [3] = 8,   [4] = 16,  [5] = 16,  [6] = 32, [7] = 64, [9] = 8,
        [10] = 16, [11] = 64, [12] = 32, [13] = 64, [16] = 16, [17] = 8, [18] = 8, [19] = 8,
        [20] = 8,  [21] = 4,  [22] = 4,  [23] = 4,  [24] = 8,  [25] = 2, [26] = 2,
    };
    return type < sizeof bits ? bits[type] : 0;
}

static phi_status fail(const onnx_parse *p, const partial *t, phi_status code, const char *what)
{
    return phi_fail(p->err, code, "%s: tensor \"%s\" %s", p->model->label, t->tensor->name, what);
}

static phi_status add_dim(const onnx_parse *p, partial *t, uint64_t dim)
{
    if (t->tensor->n_dims == PHI_LIMIT_TENSOR_DIMS) {
        return phi_fail(p->err, PHI_E_LIMIT, "%s: tensor \"%s\" has more than %u dimensions",
                        p->model->label, t->tensor->name, PHI_LIMIT_TENSOR_DIMS);
    }
    if (dim > INT64_MAX) {
        return fail(p, t, PHI_E_FORMAT, "has a negative dimension");
    }
    t->tensor->dims[t->tensor->n_dims++] = dim;
    return PHI_OK;
}

static void add_listed(partial *t, uint64_t number)
{
    t->listed = (int64_t)number;
    t->n_listed++;
}

/* Dimensions or whole numbers, packed or one by one. */
static phi_status read_numbers(const onnx_parse *p, const phi_proto *message,
                               const phi_proto_field *field, partial *t)
{
    phi_proto list;
    uint64_t number = field->value;
    bool are_dims = field->number == DIMS;
    if (field->wire == PHI_PROTO_VARINT) {
        if (are_dims) {
            return add_dim(p, t, number);
        }
        add_listed(t, number);
        return PHI_OK;
    }
    phi_status status = phi_proto_enter(message, field, &list, p->err);
    if (field->number == INT32S) {
        t->has_ints = true;
        t->ints = *field;
    }
    /* Of a list of values no more is wanted here than one and whether there are others. */
    while (!status && list.at < list.end && (are_dims || t->n_listed < 2)) {
        status = phi_proto_varint(&list, &number, p->err);
        if (!status && are_dims) {
            status = add_dim(p, t, number);
        } else if (!status) {
            add_listed(t, number);
        }
    }
    return status;
}

static phi_status read_entry(const onnx_parse *p, const phi_proto *parent,
                             const phi_proto_field *in, partial *t)
{
    phi_proto message;
    phi_proto_field field;
    const char *key = "";
    const char *value = "";
    phi_status status = phi_proto_enter(parent, in, &message, p->err);
    while (!status) {
        status = phi_proto_next(&message, &field, p->err);
        if (status || field.number == 0) {
            break;
        }
        if (field.number == ENTRY_KEY) {
            status = phi_onnx_name(p, &message, &field, &key);
        } else if (field.number == ENTRY_VALUE) {
            status = phi_onnx_name(p, &message, &field, &value);
        }
    }
    if (strcmp(key, "location") == 0) {
        t->location = value;
    } else if (strcmp(key, "offset") == 0) {
        t->offset = value;
    } else if (strcmp(key, "length") == 0) {
        t->length = value;
    }
    return status;
}

static phi_status read_field(const onnx_parse *p, const phi_proto *message,
                             const phi_proto_field *field, partial *t)
{
    switch (field->number) {
    case NAME:
        return phi_onnx_name(p, message, field, &t->tensor->name);
    case DIMS:
    case INT32S:
    case INT64S:
        return read_numbers(p, message, field, t);
    case EXTERNAL:
        return read_entry(p, message, field, t);
    case TYPE:
        t->tensor->type = field->value <= UINT32_MAX ? (uint32_t)field->value : 0;
        break;
    case LOCATION:
        t->is_external = field->value == 1;
        break;
    case RAW:
        t->has_raw = field->wire == PHI_PROTO_BYTES;
        t->raw = *field;
        break;
    case FLOATS:
        /* Packed, they are the values as they are in memory. */
        t->has_floats = field->wire == PHI_PROTO_BYTES;
        t->floats = *field;
        break;
    default:
        break;
    }
    return PHI_OK;
}

static phi_status count_bytes(const onnx_parse *p, const partial *t, uint64_t *out_elements,
                              uint64_t *out_bytes)
{
    uint64_t bits = phi_onnx_type_bits(t->tensor->type);
    uint64_t elements = 1;
    for (uint32_t i = 0; i < t->tensor->n_dims; i++) {
        if (!phi_checked_mul(elements, t->tensor->dims[i], &elements)) {
            return fail(p, t, PHI_E_FORMAT, "is larger than any file");
        }
    }
    *out_elements = elements;
    if (!phi_checked_mul(elements, bits, &bits) || !phi_checked_add(bits, 7, &bits)) {
        return fail(p, t, PHI_E_FORMAT, "is larger than any file");
    }
    *out_bytes = bits / 8;
    return PHI_OK;
}

static phi_status find_external(const onnx_parse *p, const partial *t, uint64_t bytes)
{
    uint64_t offset = 0;
    uint64_t length = bytes;
    if ((*t->offset && !phi_str_parse_u64(t->offset, INT64_MAX, &offset)) ||
        (*t->length && !phi_str_parse_u64(t->length, INT64_MAX, &length))) {
        return fail(p, t, PHI_E_FORMAT, "has an offset or a length that is no whole number");
    }
    if (length != bytes) {
        return phi_fail(p->err, PHI_E_FORMAT,
                        "%s: tensor \"%s\" is said to take %llu bytes; %llu are right for its "
                        "shape",
                        p->model->label, t->tensor->name, (unsigned long long)length,
                        (unsigned long long)bytes);
    }
    return phi_onnx_external(p->model, t->tensor->name, t->location, offset, bytes,
                             &t->tensor->data, p->err);
}

static phi_status find_values(const onnx_parse *p, const partial *t, const phi_file *file,
                              uint64_t bytes)
{
    const phi_proto_field *field = t->has_raw ? &t->raw : &t->floats;
    bool plain = t->has_raw || (t->has_floats && t->tensor->type == PHI_ONNX_FLOAT);
    if (t->is_external) {
        return find_external(p, t, bytes);
    }
    if (!plain) {
        return PHI_OK;
    }
    if (field->bytes != bytes) {
        return phi_fail(p->err, PHI_E_FORMAT,
                        "%s: tensor \"%s\" holds %llu bytes; %llu are right for its shape",
                        p->model->label, t->tensor->name, (unsigned long long)field->bytes,
                        (unsigned long long)bytes);
    }
    t->tensor->data = (phi_array){.file = file, .offset = field->at, .bytes = bytes};
    return PHI_OK;
}

/* Numbers of 8 bits that are listed as int32_data: zero points, as onnx.helper writes them. They
 * become bytes of the model's own file of such. */
static phi_status keep_listed(const onnx_parse *p, const partial *t, const phi_proto *message,
                              uint64_t elements)
{
    phi_buf *numbers = &p->model->numbers;
    const int64_t least = t->tensor->type == PHI_ONNX_INT8 ? -128 : 0;
    const uint64_t begin = numbers->length_bytes;
    phi_proto list;
    phi_status status = phi_proto_enter(message, &t->ints, &list, p->err);
    while (!status && list.at < list.end) {
        uint64_t number = 0;
        status = phi_proto_varint(&list, &number, p->err);
        int64_t value = (int64_t)number;
        if (!status && (value < least || value > least + 255)) {
            return fail(p, t, PHI_E_FORMAT, "lists a number that 8 bits do not hold");
        }
        if (!status && phi_buf_append_char(numbers, (char)value)) {
            return fail(p, t, numbers->failed, "lists more numbers than are kept in memory");
        }
    }
    if (!status && numbers->length_bytes - begin != elements) {
        return fail(p, t, PHI_E_FORMAT, "does not list as many numbers as its shape has");
    }
    t->tensor->data =
        (phi_array){.file = p->model->numbers_file, .offset = begin, .bytes = elements};
    return status;
}

/* A whole number that stands alone: a threshold, an axis. */
static phi_status find_number(const onnx_parse *p, const partial *t, const phi_proto *message)
{
    phi_onnx_tensor *tensor = t->tensor;
    bool is_long = tensor->type == PHI_ONNX_INT64;
    if (!is_long && tensor->type != PHI_ONNX_INT32) {
        return PHI_OK;
    }
    if (t->has_raw && !t->is_external) {
        int64_t number = 0;
        int32_t narrow = 0;
        phi_status status =
            phi_proto_read(message, &t->raw, is_long ? (void *)&number : &narrow, p->err);
        tensor->number = is_long ? number : narrow;
        tensor->has_number = !status;
        return status;
    }
    tensor->has_number = !t->is_external && t->n_listed == 1;
    tensor->number = t->listed;
    return PHI_OK;
}

phi_status phi_onnx_read_tensor(const onnx_parse *p, const phi_proto *parent,
                                const phi_proto_field *in, phi_onnx_tensor **out_tensor)
{
    phi_proto message;
    phi_proto_field field;
    uint64_t elements = 0;
    uint64_t bytes = 0;
    partial t = {.location = "", .offset = "", .length = ""};
    if (++p->model->n_tensors > PHI_LIMIT_TENSORS) {
        return phi_fail(p->err, PHI_E_LIMIT, "%s has more than %u tensors", p->model->label,
                        PHI_LIMIT_TENSORS);
    }
    t.tensor = phi_onnx_take(p, sizeof *t.tensor);
    if (!t.tensor) {
        return phi_onnx_no_memory(p);
    }
    *t.tensor = (phi_onnx_tensor){.name = ""};
    phi_status status = phi_proto_enter(parent, in, &message, p->err);
    while (!status) {
        status = phi_proto_next(&message, &field, p->err);
        if (status || field.number == 0) {
            break;
        }
        status = read_field(p, &message, &field, &t);
    }
    status = status ? status : count_bytes(p, &t, &elements, &bytes);
    if (!status && phi_onnx_type_bits(t.tensor->type)) {
        status = find_values(p, &t, parent->file, bytes);
    }
    if (!status && elements == 1) {
        status = find_number(p, &t, &message);
    }
    bool is_byte = t.tensor->type == PHI_ONNX_INT8 || t.tensor->type == PHI_ONNX_UINT8;
    if (!status && is_byte && t.has_ints && !t.tensor->data.file) {
        status = keep_listed(p, &t, &message, elements);
    }
    *out_tensor = t.tensor;
    return status;
}
