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

/* A matrix of 4- or 8-bit codes, input `index` of a node: [rows, cols], or turned, [cols, rows] as
 * MatMul takes it. Scales and zero points are the caller's affair. */
static phi_status set_codes(const onnx_walk *w, const phi_onnx_node *node, uint32_t index,
                            bool turned, const phi_onnx_tensor **out_codes, phi_stored *out)
{
    const phi_onnx_tensor *codes = NULL;
    *out = (phi_stored){.kind = PHI_STORED_CODED, .n_dims = 2};
    phi_status status = get_tensor(w, node, index, &codes);
    if (status || !codes) {
        return status;
    }
    bool is_signed = codes->type == PHI_ONNX_INT4 || codes->type == PHI_ONNX_INT8;
    bool known = is_signed || codes->type == PHI_ONNX_UINT4 || codes->type == PHI_ONNX_UINT8;
    if (!known || codes->n_dims != 2) {
        return phi_onnx_refuse(w, node,
                               "has codes of type %u and %u dimensions; a matrix of 4 or 8 bits is "
                               "supported",
                               codes->type, codes->n_dims);
    }
    status = set_shape(w, node, codes->dims[turned ? 1 : 0], codes->dims[turned ? 0 : 1], out);
    out->coded = (phi_coded){.rows = out->rows,
                             .cols = out->cols,
                             .bits = phi_onnx_type_bits(codes->type),
                             .order = turned ? PHI_CODES_BY_LINE : PHI_CODES_BY_ROW,
                             .is_signed = is_signed,
                             .codes = codes->data};
    *out_codes = codes;
    return status;
}

static uint64_t count_elements(const phi_onnx_tensor *tensor)
{
    uint64_t count = 1;
    for (uint32_t i = 0; i < tensor->n_dims; i++) {
        count *= tensor->dims[i]; /* that they fit was checked when it was read */
    }
    return count;
}

/* One scale for the whole matrix, or one for each of its rows. */
static phi_status set_row_scales(const onnx_walk *w, const phi_onnx_node *node, uint32_t index,
                                 phi_coded *coded)
{
    const phi_onnx_tensor *tensor = NULL;
    coded->group = coded->cols;
    phi_status status = set_scales(w, node, index, coded);
    status = status ? status : get_tensor(w, node, index, &tensor);
    if (status || !tensor) {
        return status;
    }
    uint64_t count = count_elements(tensor);
    coded->one_scale = count == 1 && coded->rows != 1;
    if (count != 1 && count != coded->rows) {
        return phi_onnx_refuse(w, node, "has %llu scales for a matrix with %u outputs",
                               (unsigned long long)count, coded->rows);
    }
    return PHI_OK;
}

/* The same of zero points, which have the type of the codes. */
static phi_status set_row_zeros(const onnx_walk *w, const phi_onnx_node *node, uint32_t index,
                                uint32_t code_type, phi_coded *coded)
{
    const phi_onnx_tensor *tensor = NULL;
    uint8_t byte = 0;
    if (!*phi_onnx_input(node, index)) {
        return PHI_OK;
    }
    phi_status status = get_tensor(w, node, index, &tensor);
    if (status || !tensor) {
        return status;
    }
    uint64_t count = count_elements(tensor);
    if (tensor->type != code_type || (count != 1 && count != coded->rows)) {
        return phi_onnx_refuse(w, node,
                               "has %llu zero points of type %u for a matrix with %u outputs and "
                               "codes of type %u",
                               (unsigned long long)count, tensor->type, coded->rows, code_type);
    }
    if (count != 1) {
        coded->zeros = tensor->data;
        coded->zeros_order = PHI_ZEROS_DENSE;
        return PHI_OK;
    }
    status = phi_file_read_at(tensor->data.file, tensor->data.offset, &byte, 1, w->err);
    uint32_t half = 1U << (coded->bits - 1);
    uint32_t code = byte & (2 * half - 1);
    coded->zero = (int32_t)code - (coded->is_signed && code >= half ? (int32_t)(2 * half) : 0);
    return status;
}

/* DequantizeLinear of a matrix by blocks of columns, by rows, or whole: of [rows, cols] that is
 * transposed afterwards, or of [cols, rows] as MatMul takes it. */
static phi_status read_dequantized(const onnx_walk *w, const phi_onnx_node *node, bool transposed,
                                   phi_stored *out)
{
    const phi_onnx_tensor *codes = NULL;
    phi_coded *coded = &out->coded;
    int64_t axis = phi_onnx_attribute_int(node, "axis", 1);
    bool blocks = phi_onnx_attribute_int(node, "block_size", 0) != 0;
    phi_status status = set_codes(w, node, 0, !transposed, &codes, out);
    if (status || !codes) {
        return status;
    }
    axis = axis < 0 ? axis + 2 : axis;
    if (!blocks) {
        status = set_row_scales(w, node, 1, coded);
        if (!status && !coded->one_scale && axis == transposed) {
            return phi_onnx_refuse(w, node,
                                   "has a scale for each input; one for each output is "
                                   "supported");
        }
        return status ? status : set_row_zeros(w, node, 2, codes->type, coded);
    }
    if (axis != transposed) {
        return phi_onnx_refuse(
            w, node, "has blocks along axis %lld; blocks of inputs are supported", (long long)axis);
    }
    coded->scales_by_group = !transposed;
    status = set_group(w, node, coded);
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

/* ---- products of integers ---- */

/* What onnxruntime's quantize_dynamic makes of a MatMul: activations are rounded to 8 bits by
 * DynamicQuantizeLinear, multiplied as integers, and the product gets both scales. */
typedef struct onnx_dynamic {
    phi_onnx_node *integers; /* MatMulInteger */
    phi_onnx_node *rounding;
    phi_onnx_node *scales; /* Mul */
    uint32_t scale_input;  /* of the weights, among these */
} onnx_dynamic;

static bool comes_from(const onnx_walk *w, const phi_onnx_node *node, uint32_t input,
                       const phi_onnx_node *from, uint32_t output)
{
    onnx_source source = phi_onnx_source(w, phi_onnx_input(node, input));
    return source.node == from && source.output == output;
}

static bool find_dynamic(const onnx_walk *w, const phi_onnx_node *product, onnx_dynamic *out)
{
    if (!phi_onnx_is(product, "Mul")) {
        return false;
    }
    for (uint32_t i = 0; i < 2; i++) {
        phi_onnx_node *integers = phi_onnx_source(w, phi_onnx_input(product, i)).node;
        phi_onnx_node *scales = phi_onnx_source(w, phi_onnx_input(product, 1 - i)).node;
        if (!integers || !scales || !phi_onnx_is(integers, "MatMulInteger") ||
            !phi_onnx_is(scales, "Mul")) {
            continue;
        }
        phi_onnx_node *rounding = phi_onnx_source(w, phi_onnx_input(integers, 0)).node;
        uint32_t own = rounding && comes_from(w, scales, 0, rounding, 1) ? 0 : 1;
        if (rounding && phi_onnx_is(rounding, "DynamicQuantizeLinear") &&
            comes_from(w, integers, 0, rounding, 0) && comes_from(w, integers, 2, rounding, 2) &&
            comes_from(w, scales, own, rounding, 1)) {
            *out = (onnx_dynamic){.integers = integers,
                                  .rounding = rounding,
                                  .scales = scales,
                                  .scale_input = 1 - own};
            return true;
        }
    }
    return false;
}

static phi_status read_dynamic(const onnx_walk *w, const onnx_dynamic *d, phi_stored *out,
                               const char **out_input)
{
    const phi_onnx_tensor *codes = NULL;
    d->integers->used = true;
    d->rounding->used = true;
    d->scales->used = true;
    *out_input = phi_onnx_input(d->rounding, 0);
    phi_status status = set_codes(w, d->integers, 1, true, &codes, out);
    status = status ? status : set_row_scales(w, d->scales, d->scale_input, &out->coded);
    return status || !codes ? status : set_row_zeros(w, d->integers, 3, codes->type, &out->coded);
}

bool phi_onnx_is_product(const onnx_walk *w, const onnx_source *source)
{
    onnx_dynamic dynamic;
    return source->node &&
           (phi_onnx_is(source->node, "MatMul") || phi_onnx_is(source->node, "MatMulNBits") ||
            find_dynamic(w, source->node, &dynamic));
}

/* MatMulNBits' own bias is its input 5. */
static bool has_own_bias(const phi_onnx_node *node)
{
    return phi_onnx_is(node, "MatMulNBits") && *phi_onnx_input(node, 5);
}

/* A product, or one that something is added to; `adder` is the node that adds, or NULL, and `input`
 * the place of what it adds. */
typedef struct onnx_biased {
    onnx_source product; /* node NULL: none */
    phi_onnx_node *adder;
    uint32_t input;
} onnx_biased;

static onnx_biased find_biased(const onnx_walk *w, const char *value)
{
    onnx_source source = phi_onnx_source(w, value);
    if (phi_onnx_is_product(w, &source)) {
        bool own = has_own_bias(source.node);
        return (onnx_biased){.product = source, .adder = own ? source.node : NULL, .input = 5};
    }
    for (uint32_t i = 0; source.node && phi_onnx_is(source.node, "Add") && i < 2; i++) {
        onnx_source product = phi_onnx_source(w, phi_onnx_input(source.node, i));
        onnx_source bias = phi_onnx_source(w, phi_onnx_input(source.node, 1 - i));
        if (bias.tensor && phi_onnx_is_product(w, &product) && !has_own_bias(product.node)) {
            return (onnx_biased){.product = product, .adder = source.node, .input = 1 - i};
        }
    }
    return (onnx_biased){.input = 0};
}

const char *phi_onnx_product_input(const onnx_walk *w, const char *value)
{
    onnx_dynamic dynamic;
    onnx_biased biased = find_biased(w, value);
    const phi_onnx_node *node = biased.product.node;
    if (node && find_dynamic(w, node, &dynamic)) {
        node = dynamic.rounding;
    }
    return node ? phi_onnx_input(node, 0) : "";
}

bool phi_onnx_has_bias(const onnx_walk *w, const char *value)
{
    return find_biased(w, value).adder != NULL;
}

static phi_status read_source(const onnx_walk *w, const onnx_source *source, phi_stored *out,
                              const char **out_input)
{
    onnx_dynamic dynamic;
    source->node->used = true;
    if (find_dynamic(w, source->node, &dynamic)) {
        return read_dynamic(w, &dynamic, out, out_input);
    }
    *out_input = phi_onnx_input(source->node, 0);
    return phi_onnx_is(source->node, "MatMul") ? read_plain(w, source->node, out)
                                               : read_n_bits(w, source->node, out);
}

phi_status phi_onnx_read_product(const onnx_walk *w, const char *value, phi_stored *out,
                                 const char **out_input)
{
    onnx_source source = phi_onnx_source(w, value);
    if (!phi_onnx_is_product(w, &source) || has_own_bias(source.node)) {
        return phi_onnx_refuse_source(w, value,
                                      "a product with a matrix of weights (MatMul, "
                                      "MatMulNBits, MatMulInteger), without bias or adapter");
    }
    return read_source(w, &source, out, out_input);
}

phi_status phi_onnx_read_affine(const onnx_walk *w, const char *value, bool has_bias,
                                phi_onnx_affine *out, const char **out_input)
{
    if (!has_bias) {
        return phi_onnx_read_product(w, value, &out->weight, out_input);
    }
    onnx_biased biased = find_biased(w, value);
    if (!biased.adder) {
        return phi_onnx_refuse_source(w, value,
                                      "a product with a matrix of weights (MatMul, MatMulNBits, "
                                      "MatMulInteger) that a bias is added to (Add)");
    }
    biased.adder->used = true;
    phi_status status = phi_onnx_read_vector(w, biased.adder, biased.input, &out->bias);
    return status ? status : read_source(w, &biased.product, &out->weight, out_input);
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

/* Rows of 8-bit codes, of one scale, that become floats once they are picked. */
static phi_status read_picked(const onnx_walk *w, const phi_onnx_node *node,
                              const phi_onnx_node *gather, phi_stored *out)
{
    const phi_onnx_tensor *codes = NULL;
    phi_status status = set_codes(w, gather, 0, false, &codes, out);
    status = status ? status : set_row_scales(w, node, 1, &out->coded);
    if (!status && !out->coded.one_scale) {
        return phi_onnx_refuse(w, node,
                               "has scales of rows for what is picked of them; one scale is "
                               "supported");
    }
    return status || !codes ? status : set_row_zeros(w, node, 2, codes->type, &out->coded);
}

phi_status phi_onnx_read_embedding(const onnx_walk *w, const onnx_source *source, const char *value,
                                   phi_stored *out)
{
    const phi_onnx_tensor *tensor = NULL;
    const phi_onnx_node *widening = NULL;
    phi_onnx_node *node = source->node;
    if (node && phi_onnx_is(node, "DequantizeLinear")) {
        node->used = true;
        widening = node;
        node = phi_onnx_source(w, phi_onnx_input(node, 0)).node;
    }
    bool plain = node && phi_onnx_is(node, "Gather");
    if (!plain && (widening || !node || !phi_onnx_is(node, "GatherBlockQuantized"))) {
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
    if (widening) {
        return read_picked(w, widening, node, out);
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
