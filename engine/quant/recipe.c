#include "engine/quant/recipe.h"

#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "base/str.h"
#include "config/limits.h"
#include "engine/formats/tensor_rows.h"

static const char *const PRECISION_NAMES[PHI_PRECISION_COUNT] = {
    [PHI_PRECISION_INT4] = "int4",
    [PHI_PRECISION_INT8] = "int8",
    [PHI_PRECISION_FP16] = "fp16",
    [PHI_PRECISION_FP32] = "fp32",
};

const char *phi_precision_name(phi_precision precision)
{
    PHI_ASSERT((unsigned)precision < PHI_PRECISION_COUNT);
    return PRECISION_NAMES[precision];
}

bool phi_precision_parse(const char *name, phi_precision *out_precision)
{
    for (unsigned i = 0; i < PHI_PRECISION_COUNT; i++) {
        if (strcmp(name, PRECISION_NAMES[i]) == 0) {
            *out_precision = (phi_precision)i;
            return true;
        }
    }
    return false;
}

const char *phi_quantize_type_find(const char *name)
{
    const phi_mix *mix = phi_mix_find(name);
    return mix ? phi_mix_name(mix) : NULL;
}

const char *phi_quantize_type_names(void)
{
    return phi_mix_names();
}

const char *phi_quantize_stage_name(phi_quantize_stage stage)
{
    switch (stage) {
    case PHI_STAGE_READING:
        return "reading";
    case PHI_STAGE_QUANTIZING:
        return "quantizing";
    case PHI_STAGE_WRITING:
        return "writing";
    case PHI_STAGE_EVALUATING:
        return "evaluating";
    default:
        PHI_UNREACHABLE();
    }
}

static bool is_layer_matrix(const phi_tensor *tensor)
{
    return tensor->n_dims >= 2 && phi_str_starts(tensor->name, "blk.");
}

bool phi_recipe_copies(const phi_encoding *encoding, phi_dtype source)
{
    if (encoding->dtype != source || phi_dtype_get(source)->block_elements == 1) {
        return false;
    }
    return source == PHI_DTYPE_Q8_0 || encoding->group == PHI_BLOCK_ELEMENTS;
}

static phi_dtype half_of(const phi_tensor *source)
{
    bool is_bf16 = source->dtype == PHI_DTYPE_BF16 && !phi_tensor_is_mixed(source);
    return is_bf16 ? PHI_DTYPE_BF16 : PHI_DTYPE_F16;
}

const phi_kept *phi_recipe_kept(const phi_recipe *recipe, const phi_tensor *tensor)
{
    return recipe->kept ? &recipe->kept[tensor - recipe->first] : NULL;
}

phi_encoding phi_recipe_choose(const phi_recipe *recipe, const phi_tensor *tensor)
{
    if (recipe->kept) {
        return phi_recipe_kept(recipe, tensor)->encoding;
    }
    phi_encoding encoding = {.dtype = PHI_DTYPE_F32, .group = PHI_BLOCK_ELEMENTS, .search = true};
    /* A router decides by small differences, and is small itself. */
    if (tensor->n_dims < 2 || phi_str_ends(tensor->name, ".ffn_gate_inp.weight") ||
        (!recipe->mix && recipe->precision == PHI_PRECISION_FP32)) {
        return encoding;
    }
    bool blocks = tensor->cols % PHI_BLOCK_ELEMENTS == 0;
    if (recipe->mix && blocks) {
        encoding.dtype = phi_mix_choose(recipe->mix, recipe->description, tensor);
        return encoding;
    }
    if (!blocks || recipe->precision == PHI_PRECISION_FP16) {
        encoding.dtype = half_of(tensor);
    } else if (recipe->precision == PHI_PRECISION_INT8 || !is_layer_matrix(tensor)) {
        encoding.dtype = PHI_DTYPE_Q8_0;
    } else {
        encoding.dtype = recipe->symmetric ? PHI_DTYPE_Q4_0 : PHI_DTYPE_Q4_1;
        encoding.group = recipe->group;
    }
    return encoding;
}

phi_status phi_recipe_check_options(const phi_quantize_options *options, phi_err *err)
{
    if (!options->source || options->source[0] == '\0') {
        return phi_fail_param(err, PHI_E_INVALID, "source", "no source model is given");
    }
    if (!options->out_path || options->out_path[0] == '\0') {
        return phi_fail_param(err, PHI_E_INVALID, "out", "no output file is given");
    }
    if (!options->keep && options->type && !phi_mix_find(options->type)) {
        return phi_fail_param(err, PHI_E_INVALID, "type", "type is '%.40s'; it must be %s",
                              options->type, phi_mix_names());
    }
    if ((unsigned)options->precision >= PHI_PRECISION_COUNT) {
        return phi_fail_param(err, PHI_E_INVALID, "precision",
                              "precision must be int4, int8, fp16 or fp32");
    }
    if (!options->keep && !options->type && options->precision == PHI_PRECISION_INT4 &&
        !phi_encode_group_is_valid(options->group_size)) {
        return phi_fail_param(err, PHI_E_INVALID, "group_size",
                              "group_size is %u; int4 has groups of 32, 64 or 128",
                              options->group_size);
    }
    if (options->name && strlen(options->name) >= PHI_LIMIT_NAME_BYTES) {
        return phi_fail_param(err, PHI_E_INVALID, "name", "the name is longer than %u bytes",
                              PHI_LIMIT_NAME_BYTES - 1);
    }
    return PHI_OK;
}

/* The first layer matrix of whole blocks whose columns are not whole groups, or NULL. */
static const phi_tensor *find_undivided(const phi_checkpoint *checkpoint, uint32_t group)
{
    for (size_t i = 0; i < phi_checkpoint_count(checkpoint); i++) {
        const phi_tensor *tensor = phi_checkpoint_at(checkpoint, i);
        if (is_layer_matrix(tensor) && tensor->cols % PHI_BLOCK_ELEMENTS == 0 &&
            tensor->cols % group != 0) {
            return tensor;
        }
    }
    return NULL;
}

phi_status phi_recipe_make(const phi_quantize_options *options, const phi_checkpoint *checkpoint,
                           phi_recipe *out_recipe, phi_err *err)
{
    phi_status status = phi_recipe_check_options(options, err);
    if (status != PHI_OK) {
        return status;
    }
    phi_recipe recipe = {
        .precision = options->precision,
        .group = PHI_BLOCK_ELEMENTS,
        .symmetric = options->symmetric,
        .mix = options->type && !options->keep ? phi_mix_find(options->type) : NULL,
        .description = phi_checkpoint_description(checkpoint),
    };
    if (options->keep) {
        recipe.first = phi_checkpoint_at(checkpoint, 0);
        status = phi_kept_plan(checkpoint, &recipe.kept, err);
        if (!status) {
            *out_recipe = recipe;
        }
        return status;
    }
    if (!recipe.mix && options->precision == PHI_PRECISION_INT4) {
        recipe.group = options->group_size;
        const phi_tensor *undivided = find_undivided(checkpoint, recipe.group);
        if (undivided) {
            const char *works = find_undivided(checkpoint, 64) ? "32" : "32 or 64";
            return phi_fail_param(err, PHI_E_INVALID, "group_size",
                                  "tensor '%s' has %u columns, which groups of %u do not divide; "
                                  "this model takes a group_size of %s",
                                  undivided->name, undivided->cols, recipe.group, works);
        }
    }
    *out_recipe = recipe;
    return PHI_OK;
}

void phi_recipe_done(phi_recipe *recipe)
{
    phi_free(recipe->kept);
    recipe->kept = NULL;
}
