#include <string.h>

#include "engine/formats/onnx_walk.h"

/* GroupQueryAttention's inputs. */
enum { PAST_LENGTHS = 5, TOTAL_LENGTH, COS, SIN, POSITIONS, REFUSED_FROM };

/* Operators that count positions from the attention mask. */
static bool counts_positions(const phi_onnx_node *node)
{
    static const char *const ops[] = {"Add", "Cast",      "Gather",   "Greater",  "Identity",
                                      "Mul", "ReduceMax", "Reshape",  "Shape",    "Squeeze",
                                      "Sub", "ReduceSum", "Constant", "Unsqueeze"};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        if (phi_onnx_is(node, ops[i])) {
            return true;
        }
    }
    return false;
}

/* Gives a meaning to all nodes that `value` depends on. */
static phi_status use_positions(const onnx_walk *w, const char *value)
{
    size_t depth = 0;
    const phi_onnx_value *found = phi_onnx_value_find(w->model, value);
    if (found && found->node && !found->node->used) {
        found->node->used = true;
        w->stack[depth++] = found->node;
    }
    while (depth > 0) {
        const phi_onnx_node *node = w->stack[--depth];
        if (!counts_positions(node)) {
            return phi_onnx_refuse(w, node,
                                   "takes part in counting positions, which it is not "
                                   "known to do");
        }
        for (uint32_t i = 0; i < node->n_inputs; i++) {
            found = phi_onnx_value_find(w->model, node->inputs[i]);
            if (found && found->node && !found->node->used) {
                found->node->used = true;
                w->stack[depth++] = found->node;
            }
        }
    }
    return PHI_OK;
}

/* A tensor that a branch of an If gives as output `index`. */
static const phi_onnx_tensor *branch_tensor(const onnx_walk *w, const phi_onnx_node *node,
                                            const char *branch, uint32_t index)
{
    const phi_onnx_attribute *attribute = phi_onnx_attribute_find(node, branch);
    const phi_onnx_graph *graph = attribute ? attribute->graph : NULL;
    if (!graph || index >= graph->n_outputs) {
        return NULL;
    }
    const char *name = graph->outputs[index];
    for (const phi_onnx_node *inner = graph->nodes; inner; inner = inner->next) {
        const phi_onnx_attribute *value = phi_onnx_attribute_find(inner, "value");
        if (inner->n_outputs == 1 && strcmp(inner->outputs[0], name) == 0) {
            return phi_onnx_is(inner, "Constant") && value ? value->tensor : NULL;
        }
    }
    for (const phi_onnx_tensor *tensor = graph->tensors; tensor; tensor = tensor->next) {
        if (strcmp(tensor->name, name) == 0) {
            return tensor;
        }
    }
    const phi_onnx_value *outer = phi_onnx_value_find(w->model, name);
    return outer ? outer->tensor : NULL;
}

/* One cache, or the two of LongRoPE, which an If chooses from by the length of the sequence: the
 * second is for sequences longer than `*out_bound`. */
static phi_status read_cache(const onnx_walk *w, const phi_onnx_node *node, uint32_t input,
                             const phi_onnx_tensor **out, int64_t *out_bound)
{
    const char *name = phi_onnx_input(node, input);
    onnx_source source = phi_onnx_source(w, name);
    out[0] = source.tensor;
    if (source.tensor) {
        return PHI_OK;
    }
    if (!source.node || !phi_onnx_is(source.node, "If")) {
        return phi_onnx_refuse_source(w, name, "a stored table of cosines or sines");
    }
    phi_onnx_node *chooser = source.node;
    chooser->used = true;
    onnx_source test = phi_onnx_source(w, phi_onnx_input(chooser, 0));
    const phi_onnx_value *bound =
        test.node ? phi_onnx_value_find(w->model, phi_onnx_input(test.node, 1)) : NULL;
    if (!test.node || !phi_onnx_is(test.node, "Greater") || !bound || !bound->tensor ||
        !bound->tensor->has_number) {
        return phi_onnx_refuse(w, chooser, "does not choose by a length greater than a number");
    }
    out[0] = branch_tensor(w, chooser, "else_branch", source.output);
    out[1] = branch_tensor(w, chooser, "then_branch", source.output);
    if (!out[0] || !out[1]) {
        return phi_onnx_refuse(w, chooser, "does not choose between two stored tables");
    }
    *out_bound = bound->tensor->number;
    return use_positions(w, phi_onnx_input(chooser, 0));
}

static phi_status read_caches(const onnx_walk *w, const phi_onnx_node *node)
{
    const phi_onnx_tensor *cos[2] = {NULL, NULL};
    const phi_onnx_tensor *sin[2] = {NULL, NULL};
    int64_t bounds[2] = {0, 0};
    phi_onnx_decoder *d = w->decoder;
    phi_status status = read_cache(w, node, COS, cos, &bounds[0]);
    status = status ? status : read_cache(w, node, SIN, sin, &bounds[1]);
    if (status) {
        return status;
    }
    bool has_two = cos[1] != NULL;
    if (has_two != (sin[1] != NULL) || bounds[0] != bounds[1]) {
        return phi_onnx_refuse(w, node, "chooses its cosines in another way than its sines");
    }
    if (d->cos[0] && (d->cos[0] != cos[0] || d->cos[1] != cos[1] || d->sin[0] != sin[0] ||
                      d->sin[1] != sin[1] || d->n_ctx_original != bounds[0])) {
        return phi_onnx_refuse(w, node, "has other rotary angles than the layer after it");
    }
    memcpy(d->cos, cos, sizeof d->cos);
    memcpy(d->sin, sin, sizeof d->sin);
    d->has_two = has_two;
    d->n_ctx_original = bounds[0];
    return PHI_OK;
}

static phi_status check_attributes(const onnx_walk *w, const phi_onnx_node *node)
{
    static const struct {
        const char *name;
        int64_t right;
    } ints[] = {{"do_rotary", 1},
                {"rotary_interleaved", 0},
                {"smooth_softmax", 0},
                {"qk_output", 0},
                {"causal", 1}};
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
        bool stated = phi_onnx_attribute_find(node, ints[i].name) || i == 0;
        int64_t value = phi_onnx_attribute_int(node, ints[i].name, 0);
        /* -1 and 0 both mean a plain softmax; onnxruntime's builder writes either. */
        bool off = strcmp(ints[i].name, "smooth_softmax") == 0 && value < 0;
        if (stated && value != ints[i].right && !off) {
            return phi_onnx_refuse(w, node, "has %s %lld; %lld is supported", ints[i].name,
                                   (long long)value, (long long)ints[i].right);
        }
    }
    float cap = phi_onnx_attribute_float(node, "softcap", 0.0F);
    if (cap != 0.0F) {
        return phi_onnx_refuse(w, node, "has softcap %g; Phi models have none", (double)cap);
    }
    return PHI_OK;
}

phi_status phi_onnx_read_attention(const onnx_walk *w, phi_onnx_node *node)
{
    phi_status status = check_attributes(w, node);
    for (uint32_t i = REFUSED_FROM; i < node->n_inputs && !status; i++) {
        if (*node->inputs[i]) {
            status = phi_onnx_refuse(w, node,
                                     "has an input %u (\"%s\"): a mask, a sink, a "
                                     "quantized cache or norms, which Phi models do not "
                                     "have",
                                     i, node->inputs[i]);
        }
    }
    status = status ? status : read_caches(w, node);
    status = status ? status : use_positions(w, phi_onnx_input(node, PAST_LENGTHS));
    status = status ? status : use_positions(w, phi_onnx_input(node, TOTAL_LENGTH));
    return status ? status : use_positions(w, phi_onnx_input(node, POSITIONS));
}
