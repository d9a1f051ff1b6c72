#include "engine/formats/onnx_node.h"
#include "engine/formats/onnx_writer.h"
#include "engine/formats/protobuf_write.h"

void phi_onnx_end_node(phi_onnx_writer *w, phi_buf *node)
{
    phi_proto_put_message(&w->graph, PHI_ONNX_GRAPH_NODE, node);
}

void phi_onnx_add_node(phi_onnx_writer *w, const char *op, const char *name, const char *inputs,
                       const char *outputs)
{
    phi_buf node = phi_onnx_start_node(op, "", name, inputs, outputs);
    phi_onnx_end_node(w, &node);
}

void phi_onnx_add_cast(phi_onnx_writer *w, const char *name, const char *input, const char *output,
                       phi_onnx_type type)
{
    phi_buf node = phi_onnx_start_node("Cast", "", name, input, output);
    phi_onnx_put_int(&node, "to", (int64_t)type);
    phi_onnx_end_node(w, &node);
}

void phi_onnx_add_numbers(phi_onnx_writer *w, const char *name, uint64_t count,
                          const int64_t *numbers)
{
    phi_buf tensor = phi_onnx_make_tensor(name, PHI_ONNX_INT64, count ? 1 : 0, &count, numbers,
                                          (size_t)(count ? count : 1) * sizeof *numbers);
    phi_proto_put_message(&w->graph, PHI_ONNX_GRAPH_INITIALIZER, &tensor);
}
