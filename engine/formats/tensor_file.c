#include "engine/formats/tensor_file.h"

#include "base/mem.h"

void phi_tensor_file_close(phi_tensor_file *file)
{
    if (file) {
        phi_file_close(&file->file);
        phi_free(file->entries);
        phi_free(file->names);
        file->count = 0;
        file->entries = NULL;
        file->names = NULL;
    }
}
