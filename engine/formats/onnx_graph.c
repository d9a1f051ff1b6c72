/*
 * A model file is read once from front to back: its messages are entered by offset, and only names,
 * attributes and shapes are kept. The order of fields inside a message is anybody's choice, so that
 * a tensor's values are looked for when the whole tensor has been read.
 */
#include "engine/formats/onnx_graph.h"

#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "base/str.h"
#include "engine/formats/onnx_parse.h"
#include "engine/formats/protobuf.h"
#include "engine/formats/text_check.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are read as held");

/* Field numbers of onnx.proto. */
enum { MODEL_GRAPH = 7, MODEL_FUNCTIONS = 25 };
enum { GRAPH_NODE = 1, GRAPH_INITIALIZER = 5, GRAPH_OUTPUT = 12, GRAPH_SPARSE = 15 };
enum { VALUE_NAME = 1 };
enum { NODE_INPUT = 1, NODE_OUTPUT, NODE_NAME, NODE_OP, NODE_ATTRIBUTE, NODE_DOMAIN = 7 };
enum { ATTR_NAME = 1, ATTR_F, ATTR_I, ATTR_S, ATTR_TENSOR, ATTR_GRAPH, ATTR_INTS = 8 };

/* ---- names and memory ---- */

void *phi_onnx_take(const onnx_parse *p, size_t bytes)
{
    void *taken = phi_arena_take(&p->model->arena, bytes);
    if (taken) {
        memset(taken, 0, bytes);
    }
    return taken;
}

phi_status phi_onnx_no_memory(const onnx_parse *p)
{
    if (p->model->arena.full) {
        return phi_fail(p->err, PHI_E_LIMIT, "%s: its graph takes more than %u MiB",
                        p->model->label, PHI_LIMIT_ONNX_METADATA_BYTES >> 20);
    }
    return phi_fail(p->err, PHI_E_NO_MEMORY, "%s: not enough memory for its graph",
                    p->model->label);
}

phi_status phi_onnx_name(const onnx_parse *p, const phi_proto *message,
                         const phi_proto_field *field, const char **out)
{
    if (field->wire != PHI_PROTO_BYTES || field->bytes >= PHI_LIMIT_TENSOR_NAME_BYTES) {
        return phi_fail(p->err, PHI_E_FORMAT, "%s: byte %llu: a name of at most %u bytes is right",
                        p->model->label, (unsigned long long)message->at,
                        PHI_LIMIT_TENSOR_NAME_BYTES - 1);
    }
    if (field->bytes == 0) {
        *out = "";
        return PHI_OK;
    }
    char *name = phi_onnx_take(p, (size_t)field->bytes + 1);
    if (!name) {
        return phi_onnx_no_memory(p);
    }
    phi_status status = phi_proto_read(message, field, name, p->err);
    if (!status && !phi_name_is_clean(name, (size_t)field->bytes)) {
        return phi_fail(p->err, PHI_E_FORMAT,
                        "%s: byte %llu: a name is not UTF-8 without control characters",
                        p->model->label, (unsigned long long)field->at);
    }
    *out = name;
    return status;
}

/* ---- nodes ---- */

static phi_status read_number(const onnx_parse *p, const phi_proto_field *field,
                              phi_onnx_attribute *attribute)
{
    if (field->number == ATTR_F && field->wire == PHI_PROTO_FIXED32) {
        uint32_t bits = (uint32_t)field->value;
        memcpy(&attribute->f, &bits, sizeof bits);
        return PHI_OK;
    }
    if (field->number == ATTR_I && field->wire == PHI_PROTO_VARINT) {
        attribute->i = (int64_t)field->value;
        return PHI_OK;
    }
    return phi_fail(p->err, PHI_E_FORMAT, "%s: attribute \"%s\" has a number of a wrong type",
                    p->model->label, attribute->name);
}

/* The first of a list of whole numbers, packed or one by one. */
static phi_status read_ints(const onnx_parse *p, const phi_proto *message,
                            const phi_proto_field *field, phi_onnx_attribute *attribute)
{
    const uint32_t most = sizeof attribute->ints / sizeof *attribute->ints;
    uint64_t number = field->value;
    phi_proto list = {.at = 0};
    phi_status status = PHI_OK;
    if (field->wire == PHI_PROTO_BYTES) {
        status = phi_proto_enter(message, field, &list, p->err);
    } else if (attribute->n_ints < most) {
        attribute->ints[attribute->n_ints++] = (int64_t)number;
    }
    while (!status && list.at < list.end && attribute->n_ints < most) {
        status = phi_proto_varint(&list, &number, p->err);
        attribute->ints[attribute->n_ints++] = (int64_t)number;
    }
    return status;
}

static phi_status read_graph(const onnx_parse *p, const phi_proto *parent,
                             const phi_proto_field *field, phi_onnx_graph **out);

static phi_status read_attribute_field(const onnx_parse *p, const phi_proto *message,
                                       const phi_proto_field *field, phi_onnx_attribute *attribute)
{
    switch (field->number) {
    case ATTR_NAME:
        return phi_onnx_name(p, message, field, &attribute->name);
    case ATTR_F:
    case ATTR_I:
        return read_number(p, field, attribute);
    case ATTR_S:
        /* Longer texts and bytes are no business of this program. */
        if (field->wire == PHI_PROTO_BYTES && field->bytes < 64) {
            char text[64] = "";
            phi_status status = phi_proto_read(message, field, text, p->err);
            bool clean = !status && phi_name_is_clean(text, (size_t)field->bytes);
            return clean ? phi_onnx_name(p, message, field, &attribute->s) : status;
        }
        return PHI_OK;
    case ATTR_TENSOR:
        return phi_onnx_read_tensor(p, message, field, &attribute->tensor);
    case ATTR_GRAPH:
        return read_graph(p, message, field, &attribute->graph);
    case ATTR_INTS:
        return read_ints(p, message, field, attribute);
    default:
        return PHI_OK;
    }
}

static phi_status read_attribute(const onnx_parse *p, const phi_proto *parent,
                                 const phi_proto_field *in, phi_onnx_node *node)
{
    phi_proto message;
    phi_proto_field field;
    phi_onnx_attribute *attribute = phi_onnx_take(p, sizeof *attribute);
    if (!attribute) {
        return phi_onnx_no_memory(p);
    }
    *attribute = (phi_onnx_attribute){.next = node->attributes, .name = "", .s = ""};
    node->attributes = attribute;
    phi_status status = phi_proto_enter(parent, in, &message, p->err);
    while (!status) {
        status = phi_proto_next(&message, &field, p->err);
        if (status || field.number == 0) {
            break;
        }
        status = read_attribute_field(p, &message, &field, attribute);
    }
    return status;
}

static phi_status add_name(const onnx_parse *p, const phi_proto *message,
                           const phi_proto_field *field, const char **list, uint32_t *count,
                           uint32_t most)
{
    if (*count == most) {
        return phi_fail(p->err, PHI_E_LIMIT,
                        "%s: byte %llu: a node has more than %u inputs or %u outputs",
                        p->model->label, (unsigned long long)message->at, PHI_ONNX_NODE_INPUTS_MAX,
                        PHI_ONNX_NODE_OUTPUTS_MAX);
    }
    phi_status status = phi_onnx_name(p, message, field, &list[*count]);
    *count += !status;
    return status;
}

static phi_status read_node_field(const onnx_parse *p, const phi_proto *message,
                                  const phi_proto_field *field, phi_onnx_node *node)
{
    switch (field->number) {
    case NODE_INPUT:
        return add_name(p, message, field, node->inputs, &node->n_inputs, PHI_ONNX_NODE_INPUTS_MAX);
    case NODE_OUTPUT:
        return add_name(p, message, field, node->outputs, &node->n_outputs,
                        PHI_ONNX_NODE_OUTPUTS_MAX);
    case NODE_NAME:
        return phi_onnx_name(p, message, field, &node->name);
    case NODE_OP:
        return phi_onnx_name(p, message, field, &node->op);
    case NODE_DOMAIN:
        return phi_onnx_name(p, message, field, &node->domain);
    case NODE_ATTRIBUTE:
        return read_attribute(p, message, field, node);
    default:
        return PHI_OK;
    }
}

static phi_status read_node(const onnx_parse *p, const phi_proto *parent, const phi_proto_field *in,
                            phi_onnx_graph *graph)
{
    phi_proto message;
    phi_proto_field field;
    if (++p->model->n_nodes > PHI_LIMIT_ONNX_NODES) {
        return phi_fail(p->err, PHI_E_LIMIT, "%s has more than %u nodes", p->model->label,
                        PHI_LIMIT_ONNX_NODES);
    }
    phi_onnx_node *node = phi_onnx_take(p, sizeof *node);
    if (!node) {
        return phi_onnx_no_memory(p);
    }
    *node = (phi_onnx_node){.name = "", .op = "", .domain = ""};
    phi_status status = phi_proto_enter(parent, in, &message, p->err);
    while (!status) {
        status = phi_proto_next(&message, &field, p->err);
        if (status || field.number == 0) {
            break;
        }
        status = read_node_field(p, &message, &field, node);
    }
    *(graph->last_node ? &graph->last_node->next : &graph->nodes) = node;
    graph->last_node = node;
    graph->n_values += node->n_outputs;
    return status;
}

/* ---- graphs ---- */

static phi_status read_output(const onnx_parse *p, const phi_proto *parent,
                              const phi_proto_field *in, phi_onnx_graph *graph)
{
    phi_proto message;
    phi_proto_field field;
    phi_status status = phi_proto_enter(parent, in, &message, p->err);
    while (!status && graph->n_outputs < PHI_ONNX_NODE_OUTPUTS_MAX) {
        status = phi_proto_next(&message, &field, p->err);
        if (status || field.number == 0) {
            break;
        }
        if (field.number == VALUE_NAME) {
            return add_name(p, &message, &field, graph->outputs, &graph->n_outputs,
                            PHI_ONNX_NODE_OUTPUTS_MAX);
        }
    }
    return status;
}

static phi_status read_initializer(const onnx_parse *p, const phi_proto *parent,
                                   const phi_proto_field *in, phi_onnx_graph *graph)
{
    phi_onnx_tensor *tensor = NULL;
    phi_status status = phi_onnx_read_tensor(p, parent, in, &tensor);
    if (!status) {
        *(graph->last_tensor ? &graph->last_tensor->next : &graph->tensors) = tensor;
        graph->last_tensor = tensor;
        graph->n_values++;
    }
    return status;
}

static phi_status read_graph_field(const onnx_parse *p, const phi_proto *message,
                                   const phi_proto_field *field, phi_onnx_graph *graph)
{
    switch (field->number) {
    case GRAPH_NODE:
        return read_node(p, message, field, graph);
    case GRAPH_INITIALIZER:
        return read_initializer(p, message, field, graph);
    case GRAPH_OUTPUT:
        return read_output(p, message, field, graph);
    case GRAPH_SPARSE:
        return phi_fail(p->err, PHI_E_UNSUPPORTED, "%s: sparse tensors are not supported",
                        p->model->label);
    default:
        return PHI_OK;
    }
}

/* Calls itself through nodes' attributes, no deeper than messages may be nested. */
static phi_status read_graph(const onnx_parse *p, const phi_proto *parent,
                             const phi_proto_field *in, phi_onnx_graph **out)
{
    phi_proto message;
    phi_proto_field field;
    phi_onnx_graph *graph = phi_onnx_take(p, sizeof *graph);
    if (!graph) {
        return phi_onnx_no_memory(p);
    }
    phi_status status = phi_proto_enter(parent, in, &message, p->err);
    while (!status) {
        status = phi_proto_next(&message, &field, p->err);
        if (status || field.number == 0) {
            break;
        }
        status = read_graph_field(p, &message, &field, graph);
    }
    *out = graph;
    return status;
}

static phi_status read_model(const onnx_parse *p, phi_proto *message)
{
    phi_proto_field field;
    phi_status status = PHI_OK;
    while (!status) {
        status = phi_proto_next(message, &field, p->err);
        if (status || field.number == 0) {
            break;
        }
        if (field.number == MODEL_FUNCTIONS) {
            return phi_fail(p->err, PHI_E_UNSUPPORTED,
                            "%s defines operators of its own, which is not supported",
                            p->model->label);
        }
        if (field.number == MODEL_GRAPH && p->model->graph) {
            return phi_fail(p->err, PHI_E_FORMAT, "%s has more than one graph", p->model->label);
        }
        if (field.number == MODEL_GRAPH) {
            status = read_graph(p, message, &field, &p->model->graph);
        }
    }
    if (!status && !p->model->graph) {
        status = phi_fail(p->err, PHI_E_FORMAT, "%s is not an ONNX model: it has no graph",
                          p->model->label);
    }
    return status;
}

/* ---- the index ---- */

static phi_status add_value(const onnx_parse *p, const char *name, phi_onnx_value value,
                            uint32_t *count)
{
    phi_onnx_model *model = p->model;
    if (!*name) {
        return PHI_OK;
    }
    model->values[*count] = value;
    phi_status status = phi_strmap_insert(model->by_name, name, strlen(name), *count);
    if (status == PHI_E_EXISTS) {
        return phi_fail(p->err, PHI_E_FORMAT, "%s: \"%s\" is given twice", model->label, name);
    }
    if (status) {
        return phi_fail(p->err, status, "%s: not enough memory for its names", model->label);
    }
    ++*count;
    return PHI_OK;
}

static phi_status build_index(const onnx_parse *p)
{
    phi_onnx_model *model = p->model;
    uint32_t count = 0;
    phi_status status = PHI_OK;
    model->values = phi_try_alloc_zero((size_t)model->graph->n_values + 1, sizeof *model->values);
    model->by_name = phi_strmap_create(model->graph->n_values);
    if (!model->values || !model->by_name) {
        return phi_fail(p->err, PHI_E_NO_MEMORY, "%s: not enough memory for its names",
                        model->label);
    }
    for (phi_onnx_tensor *t = model->graph->tensors; t && !status; t = t->next) {
        status = add_value(p, t->name, (phi_onnx_value){.tensor = t}, &count);
    }
    for (phi_onnx_node *node = model->graph->nodes; node && !status; node = node->next) {
        const phi_onnx_attribute *constant = phi_onnx_attribute_find(node, "value");
        bool is_constant = phi_onnx_is(node, "Constant");
        for (uint32_t i = 0; i < node->n_outputs && !status; i++) {
            phi_onnx_value value = {.node = node, .output = i};
            value.tensor = is_constant && constant ? constant->tensor : NULL;
            status = add_value(p, node->outputs[i], value, &count);
        }
    }
    return status;
}

phi_status phi_onnx_model_open(const char *dir, const char *filename, phi_onnx_model *model,
                               phi_err *err)
{
    *model = (phi_onnx_model){.dir = phi_strdup(dir)};
    phi_arena_init(&model->arena, PHI_LIMIT_ONNX_METADATA_BYTES);
    phi_buf_init(&model->numbers, PHI_LIMIT_ONNX_METADATA_BYTES);
    model->numbers_file = phi_alloc_zero(1, sizeof *model->numbers_file);
    model->numbers_file->fd = -1;
    char *path = phi_strfmt("%s/%s", dir, filename);
    phi_file *file = phi_alloc_zero(1, sizeof *file);
    phi_status status = phi_file_open(path, file, err);
    phi_free(path);
    if (status) {
        phi_free(file);
        return status;
    }
    model->files[model->n_files++] = file;
    model->label = phi_path_label(file->path);
    phi_proto_window *window = phi_alloc(sizeof *window);
    phi_proto message = phi_proto_of_file(file, window);
    const onnx_parse p = {.model = model, .err = err};
    status = read_model(&p, &message);
    phi_free(window);
    if (!status) {
        status = phi_file_of_bytes(model->label, model->numbers.data, model->numbers.length_bytes,
                                   model->numbers_file, err);
    }
    phi_buf_done(&model->numbers);
    return status ? status : build_index(&p);
}

void phi_onnx_model_done(phi_onnx_model *model)
{
    if (model) {
        for (uint32_t i = 0; i < model->n_files; i++) {
            phi_file_close(model->files[i]);
            phi_free(model->files[i]);
        }
        phi_buf_done(&model->numbers);
        if (model->numbers_file) {
            phi_file_close(model->numbers_file);
            phi_free(model->numbers_file);
        }
        phi_arena_done(&model->arena);
        phi_strmap_destroy(model->by_name);
        phi_free(model->values);
        phi_free(model->dir);
        *model = (phi_onnx_model){.n_files = 0};
    }
}

/* ---- looking things up ---- */

const phi_onnx_value *phi_onnx_value_find(const phi_onnx_model *model, const char *name)
{
    uint32_t index = 0;
    return *name && phi_strmap_find(model->by_name, name, strlen(name), &index)
               ? &model->values[index]
               : NULL;
}

const phi_onnx_attribute *phi_onnx_attribute_find(const phi_onnx_node *node, const char *name)
{
    const phi_onnx_attribute *attribute = node->attributes;
    while (attribute && strcmp(attribute->name, name) != 0) {
        attribute = attribute->next;
    }
    return attribute;
}

int64_t phi_onnx_attribute_int(const phi_onnx_node *node, const char *name, int64_t otherwise)
{
    const phi_onnx_attribute *attribute = phi_onnx_attribute_find(node, name);
    return attribute ? attribute->i : otherwise;
}

float phi_onnx_attribute_float(const phi_onnx_node *node, const char *name, float otherwise)
{
    const phi_onnx_attribute *attribute = phi_onnx_attribute_find(node, name);
    return attribute ? attribute->f : otherwise;
}

const char *phi_onnx_input(const phi_onnx_node *node, uint32_t index)
{
    return index < node->n_inputs ? node->inputs[index] : "";
}

bool phi_onnx_is(const phi_onnx_node *node, const char *op)
{
    bool known = !*node->domain || strcmp(node->domain, "ai.onnx") == 0 ||
                 strcmp(node->domain, "com.microsoft") == 0;
    return known && strcmp(node->op, op) == 0;
}
