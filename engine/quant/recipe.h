/*
 * Purpose: which type each tensor of the result gets, and whether the options can be met at all.
 * Owns:    the plan of what is kept, until phi_recipe_done; description and tensors are the
 *          checkpoint's.
 * Threads: any; functions are pure, but for phi_recipe_make, which reads.
 * Errors:  PHI_E_INVALID with the option as `param`; a tensor that the group does not divide is
 *          named, with the sizes that work.
 * Limits:  none.
 *
 * INT4: the layers' matrices in Q4_0 or Q4_1, embedding and head in Q8_0, because an error there
 * reaches every token. INT8: all matrices in Q8_0. FP16: all matrices in F16, or BF16 where the
 * source has BF16, so that nothing is lost. FP32: all in F32. Vectors are F32 always. A matrix
 * whose columns are not whole blocks of 32 stays at 16 bits. A named type or mix: mix.h. Each
 * matrix kept as it is: kept.h.
 */
#ifndef PHI_ENGINE_QUANT_RECIPE_H
#define PHI_ENGINE_QUANT_RECIPE_H

#include "base/status.h"
#include "engine/formats/checkpoint.h"
#include "engine/quant/encode.h"
#include "engine/quant/kept.h"
#include "engine/quant/mix.h"
#include "engine/quant/quantize.h"

typedef struct phi_recipe {
    phi_precision precision;
    uint32_t group;
    bool symmetric;
    const phi_mix *mix; /* in the place of a precision; or NULL */
    const phi_description *description;
    phi_kept *kept;          /* in the place of a precision; or NULL */
    const phi_tensor *first; /* the checkpoint's, kept[0]'s */
} phi_recipe;

/* From the options, and checks them against every tensor of the checkpoint. */
phi_status phi_recipe_make(const phi_quantize_options *options, const phi_checkpoint *checkpoint,
                           phi_recipe *out_recipe, phi_err *err) PHI_MUST_CHECK;
void phi_recipe_done(phi_recipe *recipe);
/* Checks the options alone: before any file is opened. */
phi_status phi_recipe_check_options(const phi_quantize_options *options,
                                    phi_err *err) PHI_MUST_CHECK;
phi_encoding phi_recipe_choose(const phi_recipe *recipe, const phi_tensor *tensor);
/* What becomes of a matrix that is kept as it is; NULL in any other recipe. */
const phi_kept *phi_recipe_kept(const phi_recipe *recipe, const phi_tensor *tensor);
/* True when the source's blocks are what the encoding asks for and are copied as they are. */
bool phi_recipe_copies(const phi_encoding *encoding, phi_dtype source);

#endif
