#include "engine/formats/onnx_write.h"

#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "engine/formats/onnx_node.h"
#include "engine/formats/onnx_writer.h"

/* The versions that onnxruntime-genai's own builder writes. */
enum { IR_VERSION = 10, OPSET_VERSION = 21 };

static phi_status write_model(phi_onnx_writer *w)
{
    phi_buf model = phi_onnx_make_model(&w->graph, IR_VERSION, OPSET_VERSION, true);
    phi_status status =
        phi_buf_failed(&model)
            ? phi_fail(w->err, model.failed, PHI_ONNX_MODEL ": its graph takes too much memory")
            : phi_onnx_write_file(w, PHI_ONNX_MODEL, model.data, model.length_bytes);
    phi_buf_done(&model);
    return status;
}

static const char *const PROVIDER_NAMES[PHI_ONNX_PROVIDER_COUNT] = {
    [PHI_ONNX_CPU] = "cpu",
    [PHI_ONNX_CUDA] = "cuda",
};

const char *phi_onnx_provider_name(phi_onnx_provider provider)
{
    PHI_ASSERT(provider < PHI_ONNX_PROVIDER_COUNT);
    return PROVIDER_NAMES[provider];
}

bool phi_onnx_provider_parse(const char *name, phi_onnx_provider *out_provider)
{
    for (int i = 0; i < PHI_ONNX_PROVIDER_COUNT; i++) {
        if (strcmp(name, PROVIDER_NAMES[i]) == 0) {
            *out_provider = (phi_onnx_provider)i;
            return true;
        }
    }
    return false;
}

bool phi_onnx_has_graph(phi_arch arch, phi_onnx_provider provider)
{
    return arch != PHI_ARCH_PHIMOE || provider == PHI_ONNX_CPU;
}

phi_status phi_onnx_write(const phi_export *export, phi_onnx_provider provider, const char *dir,
                          phi_err *err)
{
    phi_onnx_writer w = {.export = export,
                         .dir = dir,
                         .err = err,
                         .provider = provider,
                         .real = provider == PHI_ONNX_CUDA ? PHI_ONNX_FLOAT16 : PHI_ONNX_FLOAT};
    const phi_description *d = export->description;
    if (!phi_onnx_has_graph(d->arch, provider)) {
        return phi_fail(err, PHI_E_UNSUPPORTED,
                        "onnx for %s is written for phi3 and phi2 models only, and this is %s",
                        phi_onnx_provider_name(provider), phi_arch_name(d->arch));
    }
    /* The feed-forward's first matrix is written as two, those of experts one by one. */
    w.placed = phi_try_alloc_zero((size_t) export->count * (d->n_expert + 2) + 1, sizeof *w.placed);
    /* It holds LongRoPE's tables: two of 25 MB for 131,072 positions. */
    phi_buf_init(&w.graph, PHI_ONNX_NODE_BYTES_MAX);
    phi_status status =
        w.placed ? phi_onnx_write_graph(&w) : phi_fail(err, PHI_E_NO_MEMORY, "not enough memory");
    status = status ? status : phi_file_make_dirs(dir, err);
    status = status ? status : phi_onnx_write_data(&w);
    status = status ? status : write_model(&w);
    status = status ? status : phi_onnx_write_configs(&w);
    phi_buf_done(&w.graph);
    phi_free(w.placed);
    return status;
}
