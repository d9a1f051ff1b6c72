#include "engine/formats/openvino_names.h"

#include <stdio.h>

#include "base/assert.h"

static const char *const experts[PHI_PART_COUNT] = {
    [PHI_PART_FFN_ROUTER] = "mlp.router.weight",
    [PHI_PART_FFN_GATE_EXPS] = "mlp.experts.gate_proj",
    [PHI_PART_FFN_UP_EXPS] = "mlp.experts.up_proj",
    [PHI_PART_FFN_DOWN_EXPS] = "mlp.experts.down_proj",
};

void phi_ov_role_name(phi_arch arch, const phi_ov_role *role, char *out, size_t out_bytes)
{
    if (role->in_pieces) {
        phi_part_piece_name(role->part, role->piece, phi_naming_of(arch), role->layer, out,
                            out_bytes);
    } else {
        phi_part_name(role->part, phi_naming_of(arch), role->layer, out, out_bytes);
    }
}

void phi_ov_constant_name(phi_arch arch, const phi_ov_role *role, char *out, size_t out_bytes)
{
    if (!experts[role->part]) {
        phi_ov_role_name(arch, role, out, out_bytes);
        return;
    }
    int length = snprintf(out, out_bytes, "model.layers.%u.%s", role->layer, experts[role->part]);
    PHI_ASSERT(length > 0 && (size_t)length < out_bytes);
}

bool phi_ov_is_apart(phi_arch arch, phi_part part)
{
    return !phi_part_has_whole(part, phi_naming_of(arch));
}
