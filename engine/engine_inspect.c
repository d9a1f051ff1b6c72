/* Looking into files without loading them. */
#include "base/assert.h"
#include "base/mem.h"
#include "engine/engine.h"
#include "engine/formats/checkpoint.h"
#include "engine/formats/source_name.h"
#include "engine/formats/tensor_rows.h"

#include <stdio.h>

struct phi_inspection {
    phi_checkpoint *checkpoint;
};

bool phi_source_file_is_weights(const char *name)
{
    return phi_source_name_is_weights(name);
}

const char *phi_source_file_refusal(const char *name)
{
    return phi_source_name_refusal(name);
}

phi_status phi_inspect_open(const char *path, phi_inspection **out_inspection, phi_err *err)
{
    phi_checkpoint *checkpoint;
    phi_status status = phi_checkpoint_open(path, &checkpoint, err);
    if (status) {
        return status;
    }
    *out_inspection = phi_alloc_zero(1, sizeof **out_inspection);
    (*out_inspection)->checkpoint = checkpoint;
    return PHI_OK;
}

void phi_inspect_close(phi_inspection *inspection)
{
    if (inspection) {
        phi_checkpoint_close(inspection->checkpoint);
        phi_free(inspection);
    }
}

const phi_description *phi_inspect_description(const phi_inspection *inspection)
{
    return phi_checkpoint_description(inspection->checkpoint);
}

const char *phi_inspect_format(const phi_inspection *inspection)
{
    return phi_checkpoint_format(inspection->checkpoint);
}

uint64_t phi_inspect_bytes(const phi_inspection *inspection)
{
    return phi_checkpoint_bytes(inspection->checkpoint);
}

size_t phi_inspect_tensor_count(const phi_inspection *inspection)
{
    return phi_checkpoint_count(inspection->checkpoint);
}

void phi_inspect_tensor(const phi_inspection *inspection, size_t index, phi_tensor_info *out_info)
{
    PHI_ASSERT(index < phi_inspect_tensor_count(inspection));
    const phi_tensor *tensor = phi_checkpoint_at(inspection->checkpoint, index);
    *out_info = (phi_tensor_info){
        .name = tensor->name,
        .rows = tensor->rows,
        .cols = tensor->cols,
        .bytes = tensor->bytes,
    };
    _Static_assert(sizeof out_info->type >= PHI_TENSOR_TYPE_BYTES, "what names a type fits");
    phi_tensor_type(tensor, out_info->type);
}
