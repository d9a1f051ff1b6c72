#include "engine/quant/kept.h"

#include "base/mem.h"
#include "engine/formats/tensor_rows.h"

static bool is_coded(const phi_tensor *tensor)
{
    bool coded = false;
    for (uint32_t i = 0; i < tensor->n_pieces; i++) {
        coded = coded || tensor->piece_coded[i];
    }
    return coded;
}

static phi_dtype float_type(phi_weight_kind kind)
{
    return kind == PHI_WEIGHT_FP16   ? PHI_DTYPE_F16
           : kind == PHI_WEIGHT_BF16 ? PHI_DTYPE_BF16
                                     : PHI_DTYPE_F32;
}

static phi_status plan_codes(const phi_checkpoint *checkpoint, const phi_tensor *tensor,
                             const phi_form *form, phi_kept *out, phi_err *err)
{
    phi_recode_scan scan = {0};
    bool is_int4 = form->kind == PHI_WEIGHT_INT4;
    /* Q4_1, if it is the one. */
    uint32_t real_bits = is_int4 && form->has_offsets ? 4 : 0;
    phi_status status = phi_recode_look(checkpoint, tensor, real_bits, &scan, err);
    if (status) {
        return status;
    }
    bool offsets = is_int4 && !(scan.centred && scan.whole_zeros);
    out->encoding.dtype = !is_int4 ? PHI_DTYPE_Q8_0 : offsets ? PHI_DTYPE_Q4_1 : PHI_DTYPE_Q4_0;
    out->target = (phi_code_target){.bits = is_int4 ? 4 : 8,
                                    .group = PHI_BLOCK_ELEMENTS,
                                    .zero_rule = offsets ? PHI_ZERO_REAL : PHI_ZERO_CENTRE,
                                    .scale_dtype = PHI_DTYPE_F16};
    out->fit = phi_recode_fits(form, &scan, &out->target);
    out->moves = out->fit != PHI_FIT_NONE;
    return PHI_OK;
}

static phi_status plan_tensor(const phi_checkpoint *checkpoint, const phi_tensor *tensor,
                              phi_kept *out, phi_err *err)
{
    phi_form form = phi_tensor_form(tensor);
    out->encoding =
        (phi_encoding){.dtype = PHI_DTYPE_F32, .group = PHI_BLOCK_ELEMENTS, .search = true};
    if (tensor->n_dims < 2) {
        return PHI_OK;
    }
    if (!is_coded(tensor) && !phi_tensor_is_mixed(tensor)) {
        out->encoding.dtype = tensor->dtype;
        return PHI_OK;
    }
    if (!form.group) {
        out->encoding.dtype = float_type(form.kind);
        return PHI_OK;
    }
    /* Columns that are no whole blocks: their values as they are. */
    return tensor->cols % PHI_BLOCK_ELEMENTS == 0 ? plan_codes(checkpoint, tensor, &form, out, err)
                                                  : PHI_OK;
}

phi_status phi_kept_plan(const phi_checkpoint *checkpoint, phi_kept **out_kept, phi_err *err)
{
    size_t count = phi_checkpoint_count(checkpoint);
    phi_kept *kept = phi_try_alloc_zero(count + 1, sizeof *kept);
    if (!kept) {
        return phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for %zu tensors", count);
    }
    phi_status status = PHI_OK;
    for (size_t i = 0; i < count && !status; i++) {
        status = plan_tensor(checkpoint, phi_checkpoint_at(checkpoint, i), &kept[i], err);
    }
    if (status) {
        phi_free(kept);
        return status;
    }
    *out_kept = kept;
    return PHI_OK;
}
