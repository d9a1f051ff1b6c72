#include "engine/formats/onnx_write.h"

#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "engine/formats/onnx_writer.h"
#include "engine/formats/protobuf_write.h"

/* The graph holds LongRoPE's tables: two of 25 MB for 131,072 positions. */
#define GRAPH_BYTES_MAX ((size_t)1 << 30)
/* Fields of ModelProto, and the versions that onnxruntime-genai's own builder writes. */
enum { IR_VERSION = 1, PRODUCER = 2, PRODUCER_VERSION = 3, GRAPH = 7, OPSET = 8 };
enum { DOMAIN = 1, VERSION = 2 };

static void put_opset(phi_buf *model, const char *domain, int64_t version)
{
    phi_buf opset;
    phi_buf_init(&opset, 256);
    phi_proto_put_text(&opset, DOMAIN, domain);
    phi_proto_put_number(&opset, VERSION, version);
    phi_proto_put_message(model, OPSET, &opset);
}

static phi_status write_model(phi_onnx_writer *w)
{
    phi_buf model;
    phi_buf_init(&model, GRAPH_BYTES_MAX + 1024);
    phi_proto_put_number(&model, IR_VERSION, 10);
    phi_proto_put_text(&model, PRODUCER, "phid");
    phi_proto_put_text(&model, PRODUCER_VERSION, PHID_VERSION);
    put_opset(&model, "", 21);
    put_opset(&model, "com.microsoft", 1);
    phi_proto_put_message(&model, GRAPH, &w->graph);
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

phi_status phi_onnx_write(const phi_export *export, phi_onnx_provider provider, const char *dir,
                          phi_err *err)
{
    phi_onnx_writer w = {.export = export,
                         .dir = dir,
                         .err = err,
                         .provider = provider,
                         .real = provider == PHI_ONNX_CUDA ? PHI_ONNX_FLOAT16 : PHI_ONNX_FLOAT};
    phi_status status = phi_export_check_graph(export, "onnx", err);
    if (status) {
        return status;
    }
    /* The feed-forward's first matrix is written as two. */
    w.placed = phi_try_alloc_zero((size_t) export->count * 2 + 1, sizeof *w.placed);
    phi_buf_init(&w.graph, GRAPH_BYTES_MAX);
    status =
        w.placed ? phi_onnx_write_graph(&w) : phi_fail(err, PHI_E_NO_MEMORY, "not enough memory");
    status = status ? status : phi_file_make_dirs(dir, err);
    status = status ? status : phi_onnx_write_data(&w);
    status = status ? status : write_model(&w);
    status = status ? status : phi_onnx_write_configs(&w);
    phi_buf_done(&w.graph);
    phi_free(w.placed);
    return status;
}
