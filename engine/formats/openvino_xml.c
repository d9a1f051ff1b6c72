/*
 * Reading openvino_model.xml in one pass. Where the parser is, by depth of elements:
 *   1 net   2 layers   3 layer   4 data | input | output   5 port   6 dim
 *           2 edges    3 edge
 * Everything else (rt_info, meta_data) is passed over. Ports of a layer are numbered over its
 * inputs, then its outputs; edges name layers and ports by these numbers and are resolved at the
 * end, when all layers are known.
 */
#include "engine/formats/openvino_graph.h"

#include <expat.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "base/str.h"
#include "engine/formats/text_check.h"

#define MODEL_XML "openvino_model.xml"
#define MODEL_BIN "openvino_model.bin"
/* Large pieces: a token that goes on over many is looked at anew with each. */
#define CHUNK_BYTES (1U << 20)
/* They are searched for every layer of the model. */
#define PARAMETER_NAMES_BYTES_MAX 4096U

typedef enum place {
    OUTSIDE,
    IN_LAYERS,
    IN_LAYER,
    IN_INPUT,
    IN_OUTPUT,
    IN_EDGES,
} place;

typedef struct edge {
    uint64_t from_layer;
    uint64_t from_port;
    uint64_t to_layer;
    uint64_t to_port;
} edge;

typedef struct reading {
    XML_Parser parser;
    phi_ov_graph *graph;
    uint32_t depth;
    place place;
    uint32_t node_capacity;
    uint32_t input_capacity;
    edge *edges;
    uint32_t edge_count;
    uint32_t edge_capacity;
    phi_status status;
    phi_err *err;
} reading;

/* ---- failing ---- */

static void stop(reading *r, phi_status status)
{
    if (!r->status) {
        r->status = status;
    }
    (void)XML_StopParser(r->parser, XML_FALSE);
}

#define STOP(r, code, ...)                                                                         \
    stop(r, (r)->status ? (r)->status : phi_fail((r)->err, code, MODEL_XML ": " __VA_ARGS__))

static unsigned long line_of(const reading *r)
{
    return (unsigned long)XML_GetCurrentLineNumber(r->parser);
}

/* ---- attributes ---- */

static const char *attribute(const XML_Char **attributes, const char *name)
{
    for (size_t i = 0; attributes[i]; i += 2) {
        if (strcmp(attributes[i], name) == 0) {
            return attributes[i + 1];
        }
    }
    return NULL;
}

static bool number(const XML_Char **attributes, const char *name, uint64_t *out)
{
    const char *text = attribute(attributes, name);
    return text && phi_str_parse_u64(text, UINT64_MAX, out);
}

static bool is_true(const XML_Char **attributes, const char *name)
{
    const char *text = attribute(attributes, name);
    return text && (strcmp(text, "true") == 0 || strcmp(text, "1") == 0);
}

/* A copy that lives as long as the graph. */
static const char *keep(reading *r, const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *copy = phi_arena_take(&r->graph->names, bytes);
    if (!copy) {
        STOP(r, r->graph->names.full ? PHI_E_LIMIT : PHI_E_NO_MEMORY,
             "its names take more memory than the %u bytes that are accepted",
             PHI_LIMIT_OPENVINO_NAMES_BYTES);
        return "";
    }
    return memcpy(copy, text, bytes);
}

/* Makes room for one more element; what is counted stays below 2^31. */
static bool grow(reading *r, void *array, uint32_t count, uint32_t *capacity, uint32_t max,
                 size_t size)
{
    if (count < *capacity) {
        return true;
    }
    if (count >= max) {
        STOP(r, PHI_E_LIMIT, "more than %u layers, inputs or edges", max);
        return false;
    }
    uint32_t wanted = *capacity ? *capacity * 2 : 256;
    void **place_of = array;
    void *grown = phi_try_realloc(*place_of, wanted * size);
    if (!grown) {
        STOP(r, PHI_E_NO_MEMORY, "not enough memory for its layers");
        return false;
    }
    *place_of = grown;
    *capacity = wanted;
    return true;
}

/* ---- layers ---- */

static phi_ov_node *current(reading *r)
{
    return &r->graph->nodes[r->graph->node_count - 1];
}

static void begin_layer(reading *r, const XML_Char **attributes)
{
    const char *name = attribute(attributes, "name");
    const char *type = attribute(attributes, "type");
    phi_ov_node node = {.first_input = r->graph->input_count};
    if (!name || !type || !number(attributes, "id", &node.id) ||
        !phi_name_is_clean(name, strlen(name))) {
        STOP(r, PHI_E_FORMAT, "line %lu: a layer needs an id, a name and a type", line_of(r));
        return;
    }
    if (!phi_ov_op_find(type, &node.op)) {
        STOP(r, PHI_E_UNSUPPORTED, "layer \"%.80s\" is of type %.40s, which no Phi model has", name,
             type);
        return;
    }
    void *nodes = r->graph->nodes;
    if (!grow(r, &nodes, r->graph->node_count, &r->node_capacity, PHI_LIMIT_OPENVINO_LAYERS,
              sizeof node)) {
        return;
    }
    r->graph->nodes = nodes;
    node.name = keep(r, name);
    r->graph->nodes[r->graph->node_count++] = node;
    r->place = IN_LAYER;
}

/* "32064, 24, 128": at most PHI_LIMIT_OPENVINO_DIMS whole numbers, or nothing. */
static bool parse_shape(const char *text, phi_ov_node *node)
{
    node->n_dims = 0;
    while (*text) {
        char digits[24];
        size_t length = strcspn(text, ",");
        if (length >= sizeof digits || node->n_dims >= PHI_LIMIT_OPENVINO_DIMS) {
            return false;
        }
        memcpy(digits, text, length);
        digits[length] = '\0';
        if (!phi_str_parse_u64(digits, UINT64_MAX, &node->dims[node->n_dims++])) {
            return false;
        }
        text += length;
        text += *text == ',';
        text += strspn(text, " ");
    }
    return true;
}

static bool find_type(const char *name, phi_ov_type *out)
{
    for (size_t i = 0; i < PHI_OV_TYPE_COUNT; i++) {
        if (strcmp(phi_ov_type_name((phi_ov_type)i), name) == 0) {
            *out = (phi_ov_type)i;
            return true;
        }
    }
    return false;
}

static void read_const(reading *r, phi_ov_node *node, const XML_Char **attributes)
{
    const char *type = attribute(attributes, "element_type");
    const char *shape = attribute(attributes, "shape");
    if (!type || !shape || !parse_shape(shape, node) ||
        !number(attributes, "offset", &node->offset) || !number(attributes, "size", &node->bytes)) {
        STOP(r, PHI_E_FORMAT,
             "layer \"%.80s\" (Const) needs element_type, offset, size and a shape of at most %u "
             "dimensions",
             node->name, PHI_LIMIT_OPENVINO_DIMS);
        return;
    }
    if (!find_type(type, &node->type)) {
        STOP(r, PHI_E_UNSUPPORTED,
             "layer \"%.80s\" (Const) has elements of type %.20s, which are not supported",
             node->name, type);
        return;
    }
    uint64_t bits = phi_ov_type_bits(node->type);
    bool fits = true;
    for (uint32_t i = 0; i < node->n_dims; i++) {
        fits = fits && phi_checked_mul(bits, node->dims[i], &bits);
    }
    if (!fits || (bits + 7) / 8 != node->bytes || bits > UINT64_MAX - 7) {
        STOP(r, PHI_E_FORMAT, "layer \"%.80s\" (Const) has %llu bytes; its shape asks for %llu",
             node->name, (unsigned long long)node->bytes,
             fits && bits <= UINT64_MAX - 7 ? (unsigned long long)(bits + 7) / 8 : 0ULL);
        return;
    }
    if (!phi_checked_range(node->offset, node->bytes, r->graph->bin.bytes)) {
        STOP(r, PHI_E_FORMAT,
             "layer \"%.80s\" (Const): %llu bytes at offset %llu lie outside " MODEL_BIN
             " (%llu bytes)",
             node->name, (unsigned long long)node->bytes, (unsigned long long)node->offset,
             (unsigned long long)r->graph->bin.bytes);
    }
}

/* Attributes that decide what some operations compute. */
static void read_mode(reading *r, phi_ov_node *node, const XML_Char **attributes)
{
    const char *name = node->op == PHI_OV_GELU      ? "approximation_mode"
                       : node->op == PHI_OV_MVN     ? "eps_mode"
                       : node->op == PHI_OV_TOP_K   ? "mode"
                       : node->op == PHI_OV_SCATTER ? "reduction"
                                                    : NULL;
    const char *mode = name ? attribute(attributes, name) : NULL;
    const char *eps = node->op == PHI_OV_MVN ? attribute(attributes, "eps") : NULL;
    node->mode = mode ? keep(r, mode) : NULL;
    node->normalizes = is_true(attributes, "normalize_variance");
    if (eps && !phi_str_parse_double(eps, &node->eps)) {
        STOP(r, PHI_E_FORMAT, "line %lu: an attribute is no number", line_of(r));
    }
}

static void read_data(reading *r, const XML_Char **attributes)
{
    phi_ov_node *node = current(r);
    if (node->op == PHI_OV_CONST) {
        read_const(r, node, attributes);
        return;
    }
    const char *axis = attribute(attributes, "axis");
    const char *variable = attribute(attributes, "variable_id");
    const char *batch_dims = attribute(attributes, "batch_dims");
    uint64_t value = 0;
    uint64_t splits = 0;
    bool negative = axis && axis[0] == '-';
    if ((axis && !phi_str_parse_u64(axis + negative, INT32_MAX, &value)) ||
        (attribute(attributes, "num_splits") &&
         (!number(attributes, "num_splits", &splits) || splits > UINT32_MAX))) {
        STOP(r, PHI_E_FORMAT, "line %lu: an attribute is no number", line_of(r));
        return;
    }
    node->axis = negative ? -(int64_t)value : (int64_t)value;
    node->n_splits = (uint32_t)splits;
    node->transpose_a = is_true(attributes, "transpose_a");
    node->transpose_b = is_true(attributes, "transpose_b");
    node->causal = is_true(attributes, "causal");
    node->keep_dims = is_true(attributes, "keep_dims");
    node->special_zero = is_true(attributes, "special_zero");
    node->batch_dims = batch_dims && strcmp(batch_dims, "0") != 0;
    node->text = variable ? keep(r, variable) : NULL;
    read_mode(r, node, attributes);
}

/* A constant of no dimensions has one element, so that its bytes are not none. */
static void end_layer(reading *r)
{
    const phi_ov_node *node = current(r);
    if (node->op == PHI_OV_CONST && node->n_dims == 0 && node->bytes == 0) {
        STOP(r, PHI_E_FORMAT, "layer \"%.80s\" (Const) has no data", node->name);
    }
}

static void begin_port(reading *r, const XML_Char **attributes)
{
    phi_ov_node *node = current(r);
    uint64_t id;
    const char *names = attribute(attributes, "names");
    if (!number(attributes, "id", &id) || id != (uint64_t)node->n_inputs + node->n_outputs ||
        (r->place == IN_INPUT && node->n_outputs)) {
        STOP(r, PHI_E_FORMAT, "line %lu: ports of layer \"%.80s\" are not numbered in order",
             line_of(r), node->name);
        return;
    }
    if (r->place == IN_OUTPUT) {
        node->n_outputs++;
        if (node->op == PHI_OV_PARAMETER && names && strlen(names) >= PARAMETER_NAMES_BYTES_MAX) {
            STOP(r, PHI_E_LIMIT, "layer \"%.80s\" has more than %u bytes of names", node->name,
                 PARAMETER_NAMES_BYTES_MAX);
        } else if (node->op == PHI_OV_PARAMETER && names) {
            node->text = keep(r, names);
        }
        return;
    }
    void *inputs = r->graph->inputs;
    if (grow(r, &inputs, r->graph->input_count, &r->input_capacity, PHI_LIMIT_OPENVINO_EDGES,
             sizeof(phi_ov_value))) {
        r->graph->inputs = inputs;
        r->graph->inputs[r->graph->input_count++] = (phi_ov_value){.node = PHI_OV_NONE};
        node->n_inputs++;
    }
}

static void read_edge(reading *r, const XML_Char **attributes)
{
    edge e;
    if (!number(attributes, "from-layer", &e.from_layer) ||
        !number(attributes, "from-port", &e.from_port) ||
        !number(attributes, "to-layer", &e.to_layer) ||
        !number(attributes, "to-port", &e.to_port)) {
        STOP(r, PHI_E_FORMAT, "line %lu: an edge needs from-layer, from-port, to-layer and to-port",
             line_of(r));
        return;
    }
    void *edges = r->edges;
    if (grow(r, &edges, r->edge_count, &r->edge_capacity, PHI_LIMIT_OPENVINO_EDGES, sizeof e)) {
        r->edges = edges;
        r->edges[r->edge_count++] = e;
    }
}

/* ---- elements ---- */

static void begin_root(reading *r, const char *name, const XML_Char **attributes)
{
    const char *version = attribute(attributes, "version");
    if (strcmp(name, "net") != 0) {
        STOP(r, PHI_E_FORMAT, "its outermost element is \"%.40s\"; an OpenVINO model's is \"net\"",
             name);
    } else if (!version || (strcmp(version, "11") != 0 && strcmp(version, "10") != 0)) {
        STOP(r, PHI_E_UNSUPPORTED,
             "version \"%.20s\" of the format is not supported; 10 and 11 are",
             version ? version : "");
    }
}

static void begin_in_layer(reading *r, const char *name, const XML_Char **attributes)
{
    if (strcmp(name, "data") == 0) {
        read_data(r, attributes);
    } else if (strcmp(name, "input") == 0) {
        r->place = IN_INPUT;
    } else if (strcmp(name, "output") == 0) {
        r->place = IN_OUTPUT;
    } else if (strcmp(name, "rt_info") != 0) {
        STOP(r, PHI_E_UNSUPPORTED, "layer \"%.80s\" holds \"%.40s\", which no Phi model has",
             current(r)->name, name);
    }
}

static void XMLCALL begin_element(void *user, const XML_Char *name, const XML_Char **attributes)
{
    reading *r = user;
    r->depth++;
    if (r->depth > PHI_LIMIT_OPENVINO_DEPTH) {
        STOP(r, PHI_E_LIMIT, "line %lu: elements are nested more than %u deep", line_of(r),
             PHI_LIMIT_OPENVINO_DEPTH);
    } else if (r->depth == 1) {
        begin_root(r, name, attributes);
    } else if (r->depth == 2) {
        r->place = strcmp(name, "layers") == 0  ? IN_LAYERS
                   : strcmp(name, "edges") == 0 ? IN_EDGES
                                                : OUTSIDE;
    } else if (r->depth == 3 && r->place == IN_LAYERS && strcmp(name, "layer") == 0) {
        begin_layer(r, attributes);
    } else if (r->depth == 3 && r->place == IN_EDGES && strcmp(name, "edge") == 0) {
        read_edge(r, attributes);
    } else if (r->depth == 4 && r->place == IN_LAYER) {
        begin_in_layer(r, name, attributes);
    } else if (r->depth == 5 && (r->place == IN_INPUT || r->place == IN_OUTPUT) &&
               strcmp(name, "port") == 0) {
        begin_port(r, attributes);
    }
}

static void XMLCALL end_element(void *user, const XML_Char *name)
{
    reading *r = user;
    (void)name;
    if (r->depth == 4 && (r->place == IN_INPUT || r->place == IN_OUTPUT)) {
        r->place = IN_LAYER;
    } else if (r->depth == 3 && r->place == IN_LAYER) {
        end_layer(r);
        r->place = IN_LAYERS;
    } else if (r->depth == 2) {
        r->place = OUTSIDE;
    }
    r->depth--;
}

/* No document type, hence no entities: neither files of others nor a billion laughs. */
static void XMLCALL begin_doctype(void *user, const XML_Char *name, const XML_Char *system_id,
                                  const XML_Char *public_id, int has_internal_subset)
{
    reading *r = user;
    (void)system_id;
    (void)public_id;
    (void)has_internal_subset;
    STOP(r, PHI_E_FORMAT, "line %lu: a document type (\"%.40s\") is not accepted", line_of(r),
         name);
}

/* ---- edges ---- */

typedef struct place_of_id {
    uint64_t id;
    uint32_t node;
} place_of_id;

static int by_id(const void *left, const void *right)
{
    const place_of_id *a = left;
    const place_of_id *b = right;
    return a->id < b->id ? -1 : a->id > b->id;
}

static const place_of_id *find_id(const place_of_id *places, uint32_t count, uint64_t id)
{
    place_of_id key = {.id = id};
    return count ? bsearch(&key, places, count, sizeof key, by_id) : NULL;
}

static phi_status join(reading *r, const place_of_id *places)
{
    phi_ov_graph *graph = r->graph;
    for (uint32_t i = 0; i < r->edge_count; i++) {
        const edge *e = &r->edges[i];
        const place_of_id *from = find_id(places, graph->node_count, e->from_layer);
        const place_of_id *to = find_id(places, graph->node_count, e->to_layer);
        const phi_ov_node *source = from ? &graph->nodes[from->node] : NULL;
        const phi_ov_node *sink = to ? &graph->nodes[to->node] : NULL;
        if (!source || !sink || e->from_port < source->n_inputs ||
            e->from_port - source->n_inputs >= source->n_outputs || e->to_port >= sink->n_inputs) {
            return phi_fail(r->err, PHI_E_FORMAT,
                            MODEL_XML ": the edge from layer %llu, port %llu, to layer %llu, port "
                                      "%llu joins what is not there",
                            (unsigned long long)e->from_layer, (unsigned long long)e->from_port,
                            (unsigned long long)e->to_layer, (unsigned long long)e->to_port);
        }
        phi_ov_value *input = &graph->inputs[sink->first_input + e->to_port];
        if (input->node != PHI_OV_NONE) {
            return phi_fail(r->err, PHI_E_FORMAT,
                            MODEL_XML ": two edges lead to port %llu of layer \"%.80s\"",
                            (unsigned long long)e->to_port, sink->name);
        }
        *input = (phi_ov_value){.node = from->node,
                                .output = (uint32_t)(e->from_port - source->n_inputs)};
    }
    return PHI_OK;
}

static phi_status join_edges(reading *r)
{
    phi_ov_graph *graph = r->graph;
    place_of_id *places = phi_try_alloc_zero(graph->node_count + 1U, sizeof *places);
    if (!places) {
        return phi_fail(r->err, PHI_E_NO_MEMORY, "not enough memory for " MODEL_XML);
    }
    for (uint32_t i = 0; i < graph->node_count; i++) {
        places[i] = (place_of_id){.id = graph->nodes[i].id, .node = i};
    }
    qsort(places, graph->node_count, sizeof *places, by_id);
    phi_status status = PHI_OK;
    for (uint32_t i = 1; i < graph->node_count && !status; i++) {
        if (places[i].id == places[i - 1].id) {
            status = phi_fail(r->err, PHI_E_FORMAT, MODEL_XML ": two layers have the id %llu",
                              (unsigned long long)places[i].id);
        }
    }
    status = status ? status : join(r, places);
    phi_free(places);
    return status;
}

/* ---- the file ---- */

static phi_status parse_file(reading *r, const phi_file *xml)
{
    for (uint64_t at = 0;; at += CHUNK_BYTES) {
        uint64_t left = xml->bytes - at;
        size_t bytes = left < CHUNK_BYTES ? (size_t)left : CHUNK_BYTES;
        void *chunk = XML_GetBuffer(r->parser, (int)CHUNK_BYTES);
        if (!chunk) {
            return phi_fail(r->err, PHI_E_NO_MEMORY, "not enough memory for " MODEL_XML);
        }
        phi_status status = phi_file_read_at(xml, at, chunk, bytes, r->err);
        if (status) {
            return status;
        }
        bool last = left <= CHUNK_BYTES;
        if (XML_ParseBuffer(r->parser, (int)bytes, last) != XML_STATUS_OK) {
            return r->status ? r->status
                             : phi_fail(r->err, PHI_E_FORMAT, MODEL_XML ": line %lu: %s",
                                        line_of(r), XML_ErrorString(XML_GetErrorCode(r->parser)));
        }
        if (last) {
            return r->status;
        }
    }
}

static phi_status read_xml(const char *path, phi_ov_graph *graph, phi_err *err)
{
    phi_file xml = {.fd = -1};
    phi_status status = phi_file_open(path, &xml, err);
    if (status) {
        return status;
    }
    if (xml.bytes > PHI_LIMIT_OPENVINO_XML_BYTES) {
        phi_file_close(&xml);
        return phi_fail(err, PHI_E_LIMIT, MODEL_XML " has more than the %u bytes that are accepted",
                        PHI_LIMIT_OPENVINO_XML_BYTES);
    }
    reading r = {.graph = graph, .err = err, .parser = XML_ParserCreate("UTF-8")};
    if (!r.parser) {
        phi_file_close(&xml);
        return phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for " MODEL_XML);
    }
    XML_SetUserData(r.parser, &r);
    XML_SetElementHandler(r.parser, begin_element, end_element);
    XML_SetStartDoctypeDeclHandler(r.parser, begin_doctype);
    status = parse_file(&r, &xml);
    status = status ? status : join_edges(&r);
    XML_ParserFree(r.parser);
    phi_free(r.edges);
    phi_file_close(&xml);
    return status;
}

phi_status phi_ov_graph_open(const char *dir, phi_ov_graph *out_graph, phi_err *err)
{
    phi_ov_graph graph = {.bin = {.fd = -1}, .label = phi_strdup(MODEL_XML)};
    phi_arena_init(&graph.names, PHI_LIMIT_OPENVINO_NAMES_BYTES);
    char *path = phi_strfmt("%s/" MODEL_BIN, dir);
    phi_status status = phi_file_open(path, &graph.bin, err);
    phi_free(path);
    if (!status) {
        path = phi_strfmt("%s/" MODEL_XML, dir);
        status = read_xml(path, &graph, err);
        phi_free(path);
    }
    if (status) {
        phi_ov_graph_close(&graph);
        return status;
    }
    *out_graph = graph;
    return PHI_OK;
}
