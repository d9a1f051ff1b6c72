#include "engine/formats/source_name.h"

#include <stddef.h>
#include <string.h>

#include "base/str.h"

bool phi_source_name_is_weights(const char *name)
{
    return phi_str_ends(name, ".safetensors") || phi_str_ends(name, ".onnx") ||
           strcmp(name, "openvino_model.bin") == 0 ||
           (phi_str_starts(name, "pytorch_model") && phi_str_ends(name, ".bin"));
}

const char *phi_source_name_refusal(const char *name)
{
    if (strcmp(name, "saved_model.pb") == 0 || phi_str_ends(name, ".h5") ||
        phi_str_ends(name, ".keras") || phi_str_ends(name, ".ckpt.index") ||
        phi_str_ends(name, ".ckpt.meta") || strstr(name, ".ckpt.data-")) {
        return "TensorFlow files are not read: Phi was never published for TensorFlow; use the "
               "safetensors files of the same repository";
    }
    if (phi_str_ends(name, ".msgpack")) {
        return "Flax files are not read; use the safetensors files of the same repository";
    }
    return NULL;
}
