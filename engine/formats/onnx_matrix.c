#include <string.h>

#include "engine/formats/onnx_walk.h"

static bool float_dtype(uint32_t type, phi_dtype *out)
{
    switch (type) {
    case PHI_ONNX_FLOAT:
        *out = PHI_DTYPE_F32;
        return true;
    case PHI_ONNX_FLOAT16:
        *out = PHI_DTYPE_F16;
        return true;
    case PHI_ONNX_BFLOAT16:
        *out = PHI_DTYPE_BF16;
        return true;
    default:
        return false;
    }
}

/* The tensor that input `index` of a node is, whatever shape it has been given on the way. */
static phi_status get_tensor(const onnx_walk *w, const phi_onnx_node *node, uint32_t index,
                             const phi_onnx_tensor **out)
{
    onnx_source source = phi_onnx_source(w, phi_onnx_input(node, index));
    if (source.node && phi_onnx_is(source.node, "Reshape")) {
        source.node->used = true;
        source = phi_onnx_source(w, phi_onnx_input(source.node, 0));
    }
    if (!source.tensor) {
        return phi_onnx_refuse(w, node, "has an input %u that is no stored tensor", index);
    }
    if (!source.tensor->data.file) {
        return phi_onnx_refuse(w, node,
                               "uses tensor \"%s\", whose values are not stored as bytes (type %u)",
                               source.tensor->name, source.tensor->type);
    }
    *out = source.tensor;
    return PHI_OK;
}

static phi_status set_shape(const onnx_walk *w, const phi_onnx_node *node, uint64_t rows,
                            uint64_t cols, phi_stored *out)
{
    if (rows == 0 || cols == 0 || rows > INT32_MAX || cols > INT32_MAX) {
        return phi_onnx_refuse(w, node, "has a matrix of %llu rows and %llu columns",
                               (unsigned long long)rows, (unsigned long long)cols);
    }
    out->rows = (uint32_t)rows;
    out->cols = (uint32_t)cols;
    return PHI_OK;
}

/* A tensor of floats as a matrix, or as a vector. */
static phi_status set_floats(const onnx_walk *w, const phi_onnx_node *node,
                             const phi_onnx_tensor *tensor, phi_stored_kind kind, uint32_t n_dims,
                             phi_stored *out)
{
    *out = (phi_stored){.kind = kind, .n_dims = n_dims, .data = tensor->data};
    if (!float_dtype(tensor->type, &out->dtype) || tensor->n_dims != n_dims) {
        return phi_onnx_refuse(w, node,
                               "uses tensor \"%s\" of type %u and %u dimensions; FLOAT, FLOAT16 or "
                               "BFLOAT16 and %u are supported",
                               tensor->name, tensor->type, tensor->n_dims, n_dims);
    }
    uint64_t first = n_dims == 1 ? 1 : tensor->dims[0];
    uint64_t last = tensor->dims[n_dims - 1];
    bool columns = kind == PHI_STORED_COLUMNS;
    return set_shape(w, node, columns ? last : first, columns ? first : last, out);
}

phi_status phi_onnx_read_vector(const onnx_walk *w, const phi_onnx_node *node, uint32_t index,
                                phi_stored *out)
{
    const phi_onnx_tensor *tensor = NULL;
    phi_status status = get_tensor(w, node, index, &tensor);
    return status || !tensor ? status : set_floats(w, node, tensor, PHI_STORED_ROWS, 1, out);
}

static phi_status set_scales(const onnx_walk *w, const phi_onnx_node *node, uint32_t index,
                             phi_coded *coded)
{
    const phi_onnx_tensor *tensor = NULL;
    phi_status status = get_tensor(w, node, index, &tensor);
    if (status || !tensor) {
        return status;
    }
    if (!float_dtype(tensor->type, &coded->scale_dtype)) {
        return phi_onnx_refuse(w, node,
                               "has scales of type %u; FLOAT, FLOAT16 or BFLOAT16 are "
                               "supported",
                               tensor->type);
    }
    coded->scales = tensor->data;
    return PHI_OK;
}

/* Zero points: none, codes beside one another, or floats. */
static phi_status set_zeros(const onnx_walk *w, const phi_onnx_node *node, uint32_t index,
                            uint32_t code_type, phi_coded *coded)
{
    const phi_onnx_tensor *tensor = NULL;
    phi_dtype dtype = PHI_DTYPE_F32;
    if (!*phi_onnx_input(node, index)) {
        return PHI_OK;
    }
    phi_status status = get_tensor(w, node, index, &tensor);
    if (status || !tensor) {
        return status;
    }
    coded->zero = 0;
    coded->zeros = tensor->data;
    if (tensor->type == code_type) {
        coded->zeros_order = PHI_ZEROS_BY_ROW;
        return PHI_OK;
    }
    if (!float_dtype(tensor->type, &dtype) || dtype != coded->scale_dtype) {
        return phi_onnx_refuse(w, node,
                               "has zero points of type %u; the type of its codes or of "
                               "its scales is supported",
                               tensor->type);
    }
    coded->zeros_order = PHI_ZEROS_FLOAT;
    return PHI_OK;
}

static phi_status set_group(const onnx_walk *w, const phi_onnx_node *node, phi_coded *coded)
{
    int64_t group = phi_onnx_attribute_int(node, "block_size", 0);
    if (group < 1 || group > coded->cols) {
        return phi_onnx_refuse(w, node, "has a block_size of %lld for %u columns", (long long)group,
                               coded->cols);
    }
    coded->group = (uint32_t)group;
    return PHI_OK;
}

/* MatMulNBits: A, B, scales, zero_points, g_idx, bias. */
static phi_status read_n_bits(const onnx_walk *w, const phi_onnx_node *node, phi_stored *out)
{
    const phi_onnx_tensor *codes = NULL;
    const phi_onnx_tensor *index = NULL;
    int64_t bits = phi_onnx_attribute_int(node, "bits", 4);
    phi_coded *coded = &out->coded;
    *out = (phi_stored){.kind = PHI_STORED_CODED, .n_dims = 2};
    if (bits != 2 && bits != 4 && bits != 8) {
        return phi_onnx_refuse(w, node, "has codes of %lld bits; 2, 4 and 8 are supported",
                               (long long)bits);
    }
    if (phi_onnx_attribute_int(node, "weight_prepacked", 0) != 0) {
        return phi_onnx_refuse(w, node,
                               "is packed for one kind of processor; weight_prepacked 0 "
                               "is supported");
    }
    if (*phi_onnx_input(node, 5)) {
        return phi_onnx_refuse(w, node, "has a bias; phi3 models have none");
    }
    phi_status status = set_shape(w, node, (uint64_t)phi_onnx_attribute_int(node, "N", 0),
                                  (uint64_t)phi_onnx_attribute_int(node, "K", 0), out);
    *coded = (phi_coded){.rows = out->rows,
                         .cols = out->cols,
                         .bits = (uint32_t)bits,
                         .order = PHI_CODES_BY_ROW,
                         .zero = 1 << (bits - 1)};
    status = status ? status : set_group(w, node, coded);
    status = status ? status : get_tensor(w, node, 1, &codes);
    if (!status && codes && codes->type != PHI_ONNX_UINT8) {
        status = phi_onnx_refuse(w, node, "has codes of type %u; UINT8 is right", codes->type);
    }
    status = status ? status : set_scales(w, node, 2, coded);
    status = status ? status : set_zeros(w, node, 3, PHI_ONNX_UINT8, coded);
    if (!status && *phi_onnx_input(node, 4)) {
        status = get_tensor(w, node, 4, &index);
        if (!status && index && index->type != PHI_ONNX_INT32) {
            status =
                phi_onnx_refuse(w, node, "has a g_idx of type %u; INT32 is right", index->type);
        }
        coded->group_index = status || !index ? (phi_array){0} : index->data;
    }
    if (!status && codes) {
        coded->codes = codes->data;
    }
    return status;
}

/* True for a node that swaps the two dimensions of a matrix. */
static bool is_transpose(const phi_onnx_node *node)
{
    const phi_onnx_attribute *order = phi_onnx_attribute_find(node, "perm");
    return phi_onnx_is(node, "Transpose") &&
           (!order || (order->n_ints == 2 && order->ints[0] == 1 && order->ints[1] == 0));
}

/* DequantizeLinear of a matrix of 4- or 8-bit codes by blocks of columns: of [rows, cols] that is
 * transposed afterwards, or of [cols, rows] as MatMul takes it. */
static phi_status read_dequantized(const onnx_walk *w, const phi_onnx_node *node, bool transposed,
                                   phi_stored *out)
{
    const phi_onnx_tensor *codes = NULL;
    phi_coded *coded = &out->coded;
    int64_t axis = phi_onnx_attribute_int(node, "axis", 1);
    *out = (phi_stored){.kind = PHI_STORED_CODED, .n_dims = 2};
    phi_status status = get_tensor(w, node, 0, &codes);
    if (status || !codes) {
        return status;
    }
    bool is_signed = codes->type == PHI_ONNX_INT4 || codes->type == PHI_ONNX_INT8;
    bool known = is_signed || codes->type == PHI_ONNX_UINT4 || codes->type == PHI_ONNX_UINT8;
    axis = axis < 0 ? axis + 2 : axis;
    if (!known || codes->n_dims != 2 || axis != transposed) {
        return phi_onnx_refuse(w, node,
                               "has codes of type %u and %u dimensions, axis %lld; a matrix of 4 "
                               "or 8 bits by blocks of its inputs is supported",
                               codes->type, codes->n_dims, (long long)axis);
    }
    status =
        set_shape(w, node, codes->dims[transposed ? 0 : 1], codes->dims[transposed ? 1 : 0], out);
    *coded = (phi_coded){.rows = out->rows,
                         .cols = out->cols,
                         .bits = phi_onnx_type_bits(codes->type),
                         .order = transposed ? PHI_CODES_BY_ROW : PHI_CODES_BY_LINE,
                         .is_signed = is_signed,
                         .scales_by_group = !transposed,
                         .codes = codes->data};
    status = status ? status : set_group(w, node, coded);
    status = status ? status : set_scales(w, node, 1, coded);
    status = status ? status : set_zeros(w, node, 2, codes->type, coded);
    if (!status && coded->zeros_order == PHI_ZEROS_FLOAT) {
        return phi_onnx_refuse(w, node, "has zero points that are no codes; those of type %u are",
                               codes->type);
    }
    if (!status && !transposed && coded->zeros_order == PHI_ZEROS_BY_ROW) {
        coded->zeros_order = PHI_ZEROS_BY_GROUP;
    }
    return status;
}

static bool is_dequantized(const onnx_source *source)
{
    return source->node && phi_onnx_is(source->node, "DequantizeLinear");
}

static phi_status read_plain(const onnx_walk *w, phi_onnx_node *node, phi_stored *out)
{
    const char *name = phi_onnx_input(node, 1);
    onnx_source source = phi_onnx_source(w, name);
    const phi_onnx_tensor *tensor = NULL;
    if (!source.node || source.tensor) {
        phi_status status = get_tensor(w, node, 1, &tensor);
        return status || !tensor ? status : set_floats(w, node, tensor, PHI_STORED_COLUMNS, 2, out);
    }
    if (is_dequantized(&source)) {
        source.node->used = true;
        return read_dequantized(w, source.node, false, out);
    }
    if (!is_transpose(source.node)) {
        return phi_onnx_refuse_source(w, name, "a matrix of weights, or one transposed");
    }
    phi_onnx_node *transpose = source.node;
    transpose->used = true;
    source = phi_onnx_source(w, phi_onnx_input(transpose, 0));
    if (is_dequantized(&source)) {
        source.node->used = true;
        return read_dequantized(w, source.node, true, out);
    }
    phi_status status = get_tensor(w, transpose, 0, &tensor);
    return status || !tensor ? status : set_floats(w, node, tensor, PHI_STORED_ROWS, 2, out);
}

bool phi_onnx_is_product(const onnx_source *source)
{
    return source->node &&
           (phi_onnx_is(source->node, "MatMul") || phi_onnx_is(source->node, "MatMulNBits"));
}

phi_status phi_onnx_read_product(const onnx_walk *w, const char *value, phi_stored *out,
                                 const char **out_input)
{
    onnx_source source = phi_onnx_source(w, value);
    if (!phi_onnx_is_product(&source)) {
        return phi_onnx_refuse_source(w, value,
                                      "a product with a matrix of weights (MatMul, "
                                      "MatMulNBits), without bias or adapter");
    }
    source.node->used = true;
    *out_input = phi_onnx_input(source.node, 0);
    return phi_onnx_is(source.node, "MatMul") ? read_plain(w, source.node, out)
                                              : read_n_bits(w, source.node, out);
}

/* GatherBlockQuantized: data, indices, scales, zero_points. */
static phi_status read_gathered(const onnx_walk *w, const phi_onnx_node *node, phi_stored *out)
{
    const phi_onnx_tensor *codes = NULL;
    phi_coded *coded = &out->coded;
    int64_t bits = phi_onnx_attribute_int(node, "bits", 4);
    int64_t axis = phi_onnx_attribute_int(node, "quantize_axis", 1);
    *out = (phi_stored){.kind = PHI_STORED_CODED, .n_dims = 2};
    phi_status status = get_tensor(w, node, 0, &codes);
    if (status || !codes) {
        return status;
    }
    bool is_bytes = codes->type == PHI_ONNX_UINT8;
    bool known = is_bytes || codes->type == PHI_ONNX_UINT4 || codes->type == PHI_ONNX_INT4;
    if (!known || (bits != 4 && bits != 8) || (!is_bytes && bits != 4) || codes->n_dims < 2 ||
        codes->dims[0] == 0 || (axis != 1 && axis != -1) ||
        phi_onnx_attribute_int(node, "gather_axis", 0) != 0) {
        return phi_onnx_refuse(w, node,
                               "has codes of type %u and %lld bits; a table of 4 or 8 "
                               "bits with blocks along its rows is supported",
                               codes->type, (long long)bits);
    }
    uint64_t rows = codes->dims[0];
    status = set_shape(w, node, rows, codes->data.bytes / rows * 8 / (uint64_t)bits, out);
    *coded = (phi_coded){.rows = out->rows,
                         .cols = out->cols,
                         .bits = (uint32_t)bits,
                         .order = PHI_CODES_BY_ROW,
                         .is_signed = codes->type == PHI_ONNX_INT4,
                         .zero = is_bytes ? 1 << (bits - 1) : 0,
                         .codes = codes->data};
    status = status ? status : set_group(w, node, coded);
    status = status ? status : set_scales(w, node, 2, coded);
    return status ? status : set_zeros(w, node, 3, codes->type, coded);
}

phi_status phi_onnx_read_embedding(const onnx_walk *w, const onnx_source *source, const char *value,
                                   phi_stored *out)
{
    const phi_onnx_tensor *tensor = NULL;
    phi_onnx_node *node = source->node;
    bool plain = node && phi_onnx_is(node, "Gather");
    if (!plain && !(node && phi_onnx_is(node, "GatherBlockQuantized"))) {
        return phi_onnx_refuse_source(w, value,
                                      "the embedding (Gather, GatherBlockQuantized) or a "
                                      "layer's output");
    }
    node->used = true;
    onnx_source ids = phi_onnx_source(w, phi_onnx_input(node, 1));
    if (ids.node || ids.tensor) {
        return phi_onnx_refuse(w, node, "takes its rows from something else than the token ids");
    }
    if (!plain) {
        return read_gathered(w, node, out);
    }
    if (phi_onnx_attribute_int(node, "axis", 0) != 0) {
        return phi_onnx_refuse(w, node, "picks columns; rows (axis 0) are right");
    }
    /* A table that is a tied head's matrix lies as that one does. */
    onnx_source table = phi_onnx_source(w, phi_onnx_input(node, 0));
    bool turned = table.node && !table.tensor && is_transpose(table.node);
    if (turned) {
        table.node->used = true;
    }
    phi_status status = get_tensor(w, turned ? table.node : node, 0, &tensor);
    phi_stored_kind kind = turned ? PHI_STORED_COLUMNS : PHI_STORED_ROWS;
    return status || !tensor ? status : set_floats(w, node, tensor, kind, 2, out);
}
