#include "engine/formats/hf_quant.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "engine/formats/json.h"
#include "engine/formats/json_fields.h"

#define CONFIG "config.json"

const char *phi_hf_method_name(phi_hf_method method)
{
    switch (method) {
    case PHI_HF_PLAIN:
        return "plain";
    case PHI_HF_MLX:
        return "MLX";
    case PHI_HF_GPTQ:
        return "GPTQ";
    case PHI_HF_AWQ:
        return "AWQ";
    case PHI_HF_COMPRESSED:
        return "compressed-tensors";
    }
    PHI_UNREACHABLE();
}

/* ---- config.json ---- */

static phi_status read_gptq(const phi_fields *fields, phi_hf_quant *out, phi_err *err)
{
    const char *format = "gptq";
    phi_status status = phi_fields_require(fields, "bits", err);
    status = status ? status : phi_fields_u32(fields, "bits", 8, &out->bits, err);
    status = status ? status : phi_fields_string(fields, "checkpoint_format", &format, err);
    if (status) {
        return status;
    }
    out->method = PHI_HF_GPTQ;
    out->zero_point_add = strcmp(format, "gptq_v2") != 0;
    if (strcmp(format, "gptq") != 0 && out->zero_point_add) {
        return phi_fail(err, PHI_E_UNSUPPORTED,
                        CONFIG ": field \"quantization_config.checkpoint_format\" is \"%.40s\"; "
                               "supported: \"gptq\", \"gptq_v2\"",
                        format);
    }
    return PHI_OK;
}

static phi_status read_awq(const phi_fields *fields, phi_hf_quant *out, phi_err *err)
{
    const char *version = "gemm";
    phi_status status = phi_fields_string(fields, "version", &version, err);
    if (!status && strcmp(version, "gemm") != 0 && strcmp(version, "GEMM") != 0) {
        return phi_fail(err, PHI_E_UNSUPPORTED,
                        CONFIG ": field \"quantization_config.version\" is \"%.40s\"; supported: "
                               "\"gemm\"",
                        version);
    }
    out->method = PHI_HF_AWQ;
    out->bits = 4;
    return status;
}

/* auto-round's own: GPTQ's arrays or AWQ's, as "packing_format" says. */
static phi_status read_auto_round(const phi_fields *fields, phi_hf_quant *out, phi_err *err)
{
    static const struct {
        const char *name;
        phi_hf_method method;
        int32_t zero_point_add;
    } packings[] = {
        {"auto_round:auto_gptq", PHI_HF_GPTQ, 1},
        {"auto_round:gptqmodel", PHI_HF_GPTQ, 0},
        {"auto_round", PHI_HF_GPTQ, 0},
        {"auto_round:auto_awq", PHI_HF_AWQ, 0},
    };
    /* Of weights that are turned the activations would have to be turned as well. */
    static const char *const refused[] = {"rotation_config", "spinquant_config"};
    const char *packing = "";
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        if (phi_fields_get(fields, refused[i])) {
            return phi_fail(err, PHI_E_UNSUPPORTED,
                            CONFIG ": field \"quantization_config.%s\" is not supported",
                            refused[i]);
        }
    }
    phi_status status = phi_fields_require(fields, "packing_format", err);
    status = status ? status : phi_fields_string(fields, "packing_format", &packing, err);
    status = status ? status : phi_fields_require(fields, "bits", err);
    status = status ? status : phi_fields_u32(fields, "bits", 8, &out->bits, err);
    for (size_t i = 0; i < sizeof packings / sizeof *packings && !status; i++) {
        if (strcmp(packing, packings[i].name) == 0) {
            out->method = packings[i].method;
            out->zero_point_add = packings[i].zero_point_add;
            return PHI_OK;
        }
    }
    return status ? status
                  : phi_fail(err, PHI_E_UNSUPPORTED,
                             CONFIG ": field \"quantization_config.packing_format\" is \"%.40s\"; "
                                    "supported: \"auto_round\", \"auto_round:auto_gptq\", "
                                    "\"auto_round:gptqmodel\", \"auto_round:auto_awq\"",
                             packing);
}

/* One group of layers of compressed-tensors: how wide its codes are. */
static phi_status read_config_group(const char *name, const json_t *group, uint32_t *bits,
                                    bool *all_asymmetric, phi_err *err)
{
    char path[160];
    const char *type = "int";
    bool symmetric = true;
    (void)snprintf(path, sizeof path, "quantization_config.config_groups.%.40s.weights.", name);
    const phi_fields fields = {
        .object = json_object_get(group, "weights"), .label = CONFIG, .path = path};
    if (!json_is_object(fields.object)) {
        return phi_fail(err, PHI_E_FORMAT,
                        CONFIG ": \"quantization_config.config_groups.%.40s\" has no \"weights\"",
                        name);
    }
    uint32_t found = 0;
    phi_status status = phi_fields_require(&fields, "num_bits", err);
    status = status ? status : phi_fields_u32(&fields, "num_bits", 64, &found, err);
    status = status ? status : phi_fields_string(&fields, "type", &type, err);
    status = status ? status : phi_fields_bool(&fields, "symmetric", &symmetric, err);
    if (status) {
        return status;
    }
    if (strcmp(type, "int") != 0 || (found != 4 && found != 8)) {
        return phi_fail(err, PHI_E_UNSUPPORTED,
                        CONFIG ": \"%s\" asks for %.20s of %u bits; supported: int of 4 or 8", path,
                        type, found);
    }
    *all_asymmetric = *all_asymmetric && !symmetric;
    if (*bits && *bits != found) {
        return phi_fail(err, PHI_E_UNSUPPORTED,
                        CONFIG ": \"quantization_config.config_groups\" has codes of %u and of %u "
                               "bits; one width is supported",
                        *bits, found);
    }
    *bits = found;
    return PHI_OK;
}

static phi_status read_compressed(const phi_fields *fields, phi_hf_quant *out, phi_err *err)
{
    static const char *const formats[] = {"pack-quantized", "int-quantized", "naive-quantized"};
    const char *format = "";
    const char *name;
    json_t *group;
    bool all_asymmetric = true;
    bool known = false;
    phi_status status = phi_fields_require(fields, "config_groups", err);
    status = status ? status : phi_fields_string(fields, "format", &format, err);
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        known = known || strcmp(format, formats[i]) == 0;
    }
    if (!status && !known) {
        return phi_fail(err, PHI_E_UNSUPPORTED,
                        CONFIG ": field \"quantization_config.format\" is \"%.40s\"; supported: "
                               "\"pack-quantized\", \"int-quantized\", \"naive-quantized\"",
                        format);
    }
    out->method = PHI_HF_COMPRESSED;
    json_object_foreach(phi_fields_get(fields, "config_groups"), name, group)
    {
        status = status ? status : read_config_group(name, group, &out->bits, &all_asymmetric, err);
    }
    if (!status && out->bits == 0) {
        status = phi_fail(err, PHI_E_FORMAT,
                          CONFIG ": field \"quantization_config.config_groups\" must be an object "
                                 "with a group of layers in it");
    }
    out->asymmetric = out->bits && all_asymmetric;
    return status;
}

static phi_status read_method(const phi_fields *fields, phi_hf_quant *out, phi_err *err)
{
    const char *method = NULL;
    phi_status status = phi_fields_string(fields, "quant_method", &method, err);
    if (status) {
        return status;
    }
    if (!method) {
        /* mlx-lm names no method. */
        out->method = PHI_HF_MLX;
        return phi_fields_require(fields, "group_size", err);
    }
    if (strcmp(method, "gptq") == 0) {
        return read_gptq(fields, out, err);
    }
    if (strcmp(method, "awq") == 0) {
        return read_awq(fields, out, err);
    }
    if (strcmp(method, "compressed-tensors") == 0) {
        return read_compressed(fields, out, err);
    }
    if (strcmp(method, "auto-round") == 0) {
        return read_auto_round(fields, out, err);
    }
    return phi_fail(err, PHI_E_UNSUPPORTED,
                    CONFIG ": field \"quantization_config.quant_method\" is \"%.40s\"; supported: "
                           "\"gptq\", \"awq\", \"compressed-tensors\", \"auto-round\", and MLX's; "
                           "or use the original in F32, F16 or BF16",
                    method);
}

phi_status phi_hf_quant_read(const char *dir, phi_hf_quant *out_quant, phi_err *err)
{
    char *path = phi_strfmt("%s/" CONFIG, dir);
    json_t *config = NULL;
    phi_hf_quant quant = {0};
    phi_status status = phi_json_load_object(path, PHI_LIMIT_CONFIG_JSON_BYTES, &config, err);
    phi_free(path);
    if (!status) {
        const phi_fields top = {.object = config, .label = CONFIG, .path = ""};
        const json_t *found = phi_fields_get(&top, "quantization_config");
        found = found ? found : phi_fields_get(&top, "quantization");
        if (found && !json_is_object(found)) {
            status = phi_fail(err, PHI_E_FORMAT,
                              CONFIG ": field \"quantization_config\" must be an object");
        } else if (found) {
            const phi_fields fields = {
                .object = found, .label = CONFIG, .path = "quantization_config."};
            status = read_method(&fields, &quant, err);
        }
    }
    json_decref(config);
    if (!status) {
        *out_quant = quant;
    }
    return status;
}

/* ---- arrays ---- */

/* A matrix being put together. */
typedef struct making {
    const phi_hf_finder *finder;
    const char *name;
    size_t stem_bytes; /* of `name`, without "weight" */
    uint32_t stacked;  /* as phi_hf_wanted has it */
    phi_coded *coded;
    phi_err *err;
} making;

static const phi_tensor_entry *find(const making *m, const char *suffix, const phi_file **out_file)
{
    char name[PHI_LIMIT_TENSOR_NAME_BYTES + 32];
    const phi_file *file = NULL;
    (void)snprintf(name, sizeof name, "%.*s%s", (int)m->stem_bytes, m->name, suffix);
    const phi_tensor_entry *entry = m->finder->find(m->finder->user, name, &file);
    if (out_file) {
        *out_file = file;
    }
    return entry;
}

/* The array SUFFIX, which has to be there, of the dtype and of [rows, cols] (0: any; rows of 1 may
 * be left out). */
static phi_status take(const making *m, const char *suffix, const char *dtype, uint64_t rows,
                       uint64_t cols, phi_array *out, const phi_tensor_entry **out_entry)
{
    const phi_file *file = NULL;
    const phi_tensor_entry *entry = find(m, suffix, &file);
    if (!entry) {
        return phi_fail(m->err, PHI_E_FORMAT, "tensor \"%.*s%s\" is missing", (int)m->stem_bytes,
                        m->name, suffix);
    }
    if (dtype && strcmp(entry->dtype_name, dtype) != 0) {
        return phi_fail(m->err, PHI_E_UNSUPPORTED, "tensor \"%s\" has dtype %s; %s is right",
                        entry->name, entry->dtype_name, dtype);
    }
    uint64_t has_rows = phi_tensor_entry_rows(entry);
    uint64_t has_cols = phi_tensor_entry_cols(entry);
    bool is_stack = m->stacked > 1;
    if (is_stack && (entry->n_dims != 3 || entry->dims[0] != m->stacked)) {
        return phi_fail(m->err, PHI_E_FORMAT,
                        "tensor \"%s\" has %u dimensions, of which the first is %llu; 3, and %u, "
                        "the number of experts, are right",
                        entry->name, entry->n_dims,
                        (unsigned long long)(entry->n_dims ? entry->dims[0] : 0), m->stacked);
    }
    if (entry->n_dims > (is_stack ? 3U : 2U) || (rows && has_rows != rows) ||
        (cols && has_cols != cols)) {
        return phi_fail(m->err, PHI_E_FORMAT,
                        "tensor \"%s\" has shape [%llu, %llu]; [%llu, %llu] is right", entry->name,
                        (unsigned long long)has_rows, (unsigned long long)has_cols,
                        (unsigned long long)(rows ? rows : has_rows),
                        (unsigned long long)(cols ? cols : has_cols));
    }
    *out = (phi_array){.file = file, .offset = entry->offset, .bytes = entry->bytes};
    if (out_entry) {
        *out_entry = entry;
    }
    return PHI_OK;
}

/* Scales of [rows, cols], of a dtype that is read. */
static phi_status take_scales(const making *m, const char *suffix, uint64_t rows, uint64_t cols,
                              phi_array *out, const phi_tensor_entry **out_entry)
{
    const phi_tensor_entry *entry = NULL;
    phi_status status = take(m, suffix, NULL, rows, cols, out, &entry);
    PHI_ASSERT(status || entry);
    if (!status && (!entry->readable || phi_dtype_get(entry->dtype)->block_elements != 1)) {
        status = phi_fail(m->err, PHI_E_UNSUPPORTED,
                          "tensor \"%s\" has dtype %s; F16, BF16 or F32 is right", entry->name,
                          entry->dtype_name);
    }
    if (!status) {
        m->coded->scale_dtype = entry->dtype;
        *out_entry = entry;
    }
    return status;
}

static phi_status fail_groups(const making *m, uint64_t groups)
{
    return phi_fail(m->err, PHI_E_FORMAT,
                    "tensor \"%s\" has %llu groups, which do not divide %u columns", m->name,
                    (unsigned long long)groups, m->coded->cols);
}

static phi_status set_groups(const making *m, uint64_t groups)
{
    if (groups == 0 || groups > m->coded->cols || m->coded->cols % groups != 0) {
        return fail_groups(m, groups);
    }
    m->coded->group = m->coded->cols / (uint32_t)groups;
    return PHI_OK;
}

static phi_status make_mlx(const making *m, bool *out_found)
{
    phi_coded *coded = m->coded;
    const phi_tensor_entry *scales = find(m, "scales", NULL);
    const phi_tensor_entry *words = NULL;
    *out_found = scales != NULL;
    if (!scales) {
        return PHI_OK;
    }
    phi_status status = take(m, "weight", "U32", coded->rows, 0, &coded->codes, &words);
    if (status) {
        return status;
    }
    PHI_ASSERT(words);
    uint64_t bits = phi_tensor_entry_cols(words) * 32;
    if (bits % coded->cols != 0 || bits / coded->cols < 2 || bits / coded->cols > 8) {
        return phi_fail(m->err, PHI_E_FORMAT,
                        "tensor \"%s\" has rows of %llu bits for %u columns; 2 to 8 each are right",
                        m->name, (unsigned long long)bits, coded->cols);
    }
    coded->bits = (uint32_t)(bits / coded->cols);
    if (!find(m, "biases", NULL)) {
        coded->is_mx = true;
        status = take(m, "scales", "U8", coded->rows, 0, &coded->scales, &scales);
    } else {
        coded->zeros_order = PHI_ZEROS_OFFSET;
        status = take_scales(m, "scales", coded->rows, 0, &coded->scales, &scales);
        if (!status) {
            status = take(m, "biases", scales->dtype_name, coded->rows,
                          phi_tensor_entry_cols(scales), &coded->zeros, NULL);
        }
    }
    return status ? status : set_groups(m, phi_tensor_entry_cols(scales));
}

static phi_status make_gptq(const making *m, uint32_t bits, int32_t zero_point_add, bool awq,
                            bool *out_found)
{
    phi_coded *coded = m->coded;
    const phi_tensor_entry *scales = NULL;
    *out_found = find(m, "qweight", NULL) != NULL;
    if (!*out_found) {
        return PHI_OK;
    }
    coded->bits = bits;
    coded->order = awq ? PHI_CODES_AWQ : PHI_CODES_BY_COLUMN;
    coded->zeros_order = awq ? PHI_ZEROS_AWQ : PHI_ZEROS_BY_GROUP;
    coded->zero = zero_point_add;
    coded->scales_by_group = true;
    uint64_t in_words = awq ? coded->cols : (uint64_t)coded->cols * bits / 32;
    uint64_t across = awq ? coded->rows / 8 : coded->rows;
    phi_status status = take(m, "qweight", "I32", in_words, across, &coded->codes, NULL);
    status = status ? status : take_scales(m, "scales", 0, coded->rows, &coded->scales, &scales);
    if (status) {
        return status;
    }
    PHI_ASSERT(scales);
    uint64_t groups = phi_tensor_entry_rows(scales);
    status = set_groups(m, groups);
    if (!status) {
        status = take(m, "qzeros", "I32", groups, (uint64_t)coded->rows * bits / 32, &coded->zeros,
                      NULL);
    }
    if (!status && find(m, "g_idx", NULL)) {
        status = take(m, "g_idx", "I32", 1, coded->cols, &coded->group_index, NULL);
    }
    return status;
}

/* Zero points: in words over the rows beside packed codes, else bytes as the codes are. */
static phi_status take_compressed_zeros(const making *m, bool packed, bool wanted)
{
    phi_coded *coded = m->coded;
    if (!wanted && !find(m, "weight_zero_point", NULL)) {
        return PHI_OK;
    }
    PHI_ASSERT(coded->group > 0);
    uint64_t groups = coded->cols / coded->group;
    uint64_t lines = packed ? ((uint64_t)coded->rows * coded->bits + 31) / 32 : coded->rows;
    coded->zeros_order = packed ? PHI_ZEROS_BY_WORD : PHI_ZEROS_BY_ROW;
    coded->zero = 0;
    return take(m, "weight_zero_point", packed ? "I32" : "I8", lines, groups, &coded->zeros, NULL);
}

/* The group of each column. One that was never filled holds -1, and says nothing. */
static phi_status take_compressed_index(const making *m)
{
    phi_coded *coded = m->coded;
    if (!find(m, "weight_g_idx", NULL)) {
        return PHI_OK;
    }
    size_t bytes = (size_t)coded->cols * sizeof(int32_t);
    phi_status status = take(m, "weight_g_idx", "I32", 1, coded->cols, &coded->group_index, NULL);
    if (!status && coded->group_index.bytes != bytes) {
        status = phi_fail(m->err, PHI_E_FORMAT, "tensor \"%.*sweight_g_idx\" is not %u numbers",
                          (int)m->stem_bytes, m->name, coded->cols);
    }
    if (status) {
        return status;
    }
    int32_t *index = phi_try_alloc(bytes);
    if (!index) {
        return phi_fail(m->err, PHI_E_NO_MEMORY, "not enough memory for groups");
    }
    status =
        phi_file_read_at(coded->group_index.file, coded->group_index.offset, index, bytes, m->err);
    bool unset = false;
    for (uint32_t k = 0; k < coded->cols && !status; k++) {
        unset = unset || index[k] == -1;
    }
    phi_free(index);
    if (unset) {
        coded->group_index = (phi_array){.file = NULL};
    }
    return status;
}

static phi_status make_compressed(const making *m, const phi_hf_quant *quant, bool *out_found)
{
    phi_coded *coded = m->coded;
    uint32_t bits = quant->bits;
    const phi_tensor_entry *scales = find(m, "weight_scale", NULL);
    bool packed = find(m, "weight_packed", NULL) != NULL;
    phi_status status = PHI_OK;
    *out_found = scales != NULL;
    if (!scales) {
        return PHI_OK;
    }
    coded->bits = bits;
    coded->is_signed = !packed;
    coded->zero = packed ? 1 << (bits - 1) : 0;
    if (packed) {
        uint64_t words = ((uint64_t)coded->cols * bits + 31) / 32;
        status = take(m, "weight_packed", "I32", coded->rows, words, &coded->codes, NULL);
    } else if (bits != 8) {
        status = phi_fail(m->err, PHI_E_FORMAT, "tensor \"%.*sweight_packed\" is missing",
                          (int)m->stem_bytes, m->name);
    } else {
        status = take(m, "weight", "I8", coded->rows, coded->cols, &coded->codes, NULL);
    }
    status =
        status ? status : take_scales(m, "weight_scale", coded->rows, 0, &coded->scales, &scales);
    status = status ? status : set_groups(m, phi_tensor_entry_cols(scales));
    status = status ? status : take_compressed_zeros(m, packed, quant->asymmetric);
    return status ? status : take_compressed_index(m);
}

phi_status phi_hf_quant_find(const phi_hf_quant *quant, const phi_hf_finder *finder,
                             const phi_hf_wanted *wanted, phi_coded *out_coded, bool *out_found,
                             phi_err *err)
{
    phi_coded coded = {.rows = wanted->rows, .cols = wanted->cols};
    const making m = {.finder = finder,
                      .name = wanted->name,
                      .stem_bytes = strlen(wanted->name) - strlen("weight"),
                      .stacked = wanted->stacked,
                      .coded = &coded,
                      .err = err};
    phi_status status = PHI_OK;
    *out_found = false;
    if (wanted->stacked > 1 && quant->method != PHI_HF_MLX) {
        return PHI_OK;
    }
    switch (quant->method) {
    case PHI_HF_PLAIN:
        break;
    case PHI_HF_MLX:
        status = make_mlx(&m, out_found);
        break;
    case PHI_HF_GPTQ:
        status = make_gptq(&m, quant->bits, quant->zero_point_add, false, out_found);
        break;
    case PHI_HF_AWQ:
        status = make_gptq(&m, quant->bits, 0, true, out_found);
        break;
    case PHI_HF_COMPRESSED:
        status = make_compressed(&m, quant, out_found);
        break;
    }
    if (status || !*out_found) {
        return status;
    }
    status = phi_coded_settle(&coded, err);
    if (status) {
        phi_coded_done(&coded);
        return phi_fail_context(err, status, "tensor \"%s\"", wanted->name);
    }
    *out_coded = coded;
    return PHI_OK;
}
