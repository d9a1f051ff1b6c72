#include <jansson.h>
#include <stdio.h>

#include "engine/formats/onnx.h"
#include "engine/formats/qnn_graph.h"

#define NAME_BYTES 64

void phi_qnn_part_layers(const phi_qnn_writer *w, uint32_t part, uint32_t *out_first,
                         uint32_t *out_end)
{
    const uint64_t layers = w->export->description->n_layer;
    *out_first = (uint32_t)(layers * part / w->n_parts);
    *out_end = (uint32_t)(layers * (part + 1) / w->n_parts);
}

void phi_qnn_model_name(const phi_qnn_writer *w, const char *stage, uint32_t part, char *out,
                        size_t out_bytes)
{
    if (w->n_parts == 1) {
        (void)snprintf(out, out_bytes, "%s.onnx", stage);
    } else {
        (void)snprintf(out, out_bytes, "%s_%u.onnx", stage, part);
    }
}

void phi_qnn_hidden_name(const phi_qnn_writer *w, uint32_t part, char *out, size_t out_bytes)
{
    if (part == 0) {
        (void)snprintf(out, out_bytes, "input_hidden_states");
    } else if (part == w->n_parts) {
        (void)snprintf(out, out_bytes, "output_hidden_states");
    } else {
        (void)snprintf(out, out_bytes, "hidden_states_%u", part);
    }
}

/* ---- the pipeline ---- */

/* What a graph that is compiled for the NPU is loaded with. */
static json_t *npu_session(void)
{
    return json_pack("{s:s, s:[{s:{s:s, s:s, s:s}}]}", "log_id", "onnxruntime-genai",
                     "provider_options", "qnn", "backend_type", "htp", "htp_performance_mode",
                     "burst", "htp_graph_finalization_optimization_mode", "3");
}

static void add_caches(const phi_qnn_writer *w, uint32_t part, const char *when, json_t *names)
{
    static const char *const kinds[] = {"keys", "values"};
    uint32_t first = 0;
    uint32_t end = 0;
    phi_qnn_part_layers(w, part, &first, &end);
    for (size_t kind = 0; kind < 2; kind++) {
        for (uint32_t i = first; i < end; i++) {
            char name[NAME_BYTES];
            (void)snprintf(name, sizeof name, "%s_%s_%u", when, kinds[kind], i);
            (void)json_array_append_new(names, json_string(name));
        }
    }
}

/* {"context_2": {...}}: each stage is an object of its own, so that their order is stated. */
static json_t *layers_stage(const phi_qnn_writer *w, const char *stage, uint32_t part,
                            const char *not_on)
{
    char file[NAME_BYTES];
    char input[NAME_BYTES];
    char output[NAME_BYTES];
    char id[NAME_BYTES];
    phi_qnn_model_name(w, stage, part, file, sizeof file);
    phi_qnn_hidden_name(w, part, input, sizeof input);
    phi_qnn_hidden_name(w, part + 1, output, sizeof output);
    (void)snprintf(id, sizeof id, "%s_%u", stage, part);
    json_t *inputs =
        json_pack("[s, s, s, s, s]", input, PHI_QNN_COS, PHI_QNN_SIN, PHI_QNN_MASK, PHI_QNN_INDEX);
    json_t *outputs = json_pack("[s]", output);
    add_caches(w, part, "past", inputs);
    add_caches(w, part, "present", outputs);
    return json_pack("{s:{s:s, s:o, s:o, s:o, s:b}}", id, "filename", file, "session_options",
                     npu_session(), "inputs", inputs, "outputs", outputs, not_on, 0);
}

static json_t *head_stage(const phi_qnn_writer *w, const char *id, const char *file,
                          const char *not_on)
{
    char input[NAME_BYTES];
    phi_qnn_hidden_name(w, w->n_parts, input, sizeof input);
    return json_pack("{s:{s:s, s:o, s:[s], s:[s], s:b, s:b}}", id, "filename", file,
                     "session_options", npu_session(), "inputs", input, "outputs", "logits",
                     "is_lm_head", 1, not_on, 0);
}

static json_t *pipeline_of(const phi_qnn_writer *w)
{
    json_t *stages = json_pack("[{s:{s:s, s:[s, s, s], s:[s, s, s, s, s]}}]", "embeddings",
                               "filename", PHI_QNN_EMBEDDINGS, "inputs", "input_ids",
                               "past_seq_len", "total_seq_len", "outputs", "input_hidden_states",
                               PHI_QNN_COS, PHI_QNN_SIN, PHI_QNN_MASK, PHI_QNN_INDEX);
    for (uint32_t part = 0; part < w->n_parts; part++) {
        (void)json_array_append_new(stages, layers_stage(w, "context", part, "run_on_token_gen"));
    }
    for (uint32_t part = 0; part < w->n_parts; part++) {
        (void)json_array_append_new(stages, layers_stage(w, "iterator", part, "run_on_prompt"));
    }
    (void)json_array_append_new(
        stages, head_stage(w, "lm_head_context", PHI_QNN_CONTEXT_HEAD, "run_on_token_gen"));
    (void)json_array_append_new(
        stages, head_stage(w, "lm_head_iterator", PHI_QNN_ITERATOR_HEAD, "run_on_prompt"));
    return stages;
}

static json_t *decoder_of(const phi_qnn_writer *w)
{
    const phi_description *d = w->export->description;
    json_t *names =
        json_pack("{s:{s:s, s:s, s:s, s:s, s:s}, s:{s:s, s:s, s:s}}", "inputs", "input_ids",
                  "input_ids", "past_sequence_length", "past_seq_len", "total_sequence_length",
                  "total_seq_len", "past_key_names", "past_keys_%d", "past_value_names",
                  "past_values_%d", "outputs", "logits", "logits", "present_key_names",
                  "present_keys_%d", "present_value_names", "present_values_%d");
    /* 128 is the code of 0 in the caches. */
    json_t *window = json_pack("{s:I, s:i, s:s, s:b, s:b}", "window_size",
                               (json_int_t)PHI_QNN_WINDOW, "pad_value", 128, "alignment", "left",
                               "slide_key_value_cache", 0, "slide_inputs", 1);
    json_t *decoder = json_pack(
        "{s:{s:s, s:[]}, s:I, s:I, s:I, s:I, s:I, s:o, s:o}", "session_options", "log_id",
        "onnxruntime-genai", "provider_options", "head_size", (json_int_t)d->head_dim,
        "hidden_size", (json_int_t)d->n_embd, "num_attention_heads", (json_int_t)d->n_head,
        "num_hidden_layers", (json_int_t)d->n_layer, "num_key_value_heads",
        (json_int_t)d->n_head_kv, "sliding_window", window, "pipeline", pipeline_of(w));
    (void)json_object_update(decoder, names);
    json_decref(names);
    return decoder;
}

phi_status phi_qnn_write_config(phi_qnn_writer *w)
{
    const phi_description *d = w->export->description;
    const phi_onnx_writer files = {.export = w->export, .dir = w->dir, .err = w->err};
    phi_status status = phi_onnx_write_beside(&files);
    if (status) {
        return status;
    }
    json_t *root = json_pack(
        "{s:{s:s, s:I, s:I, s:o, s:o, s:o, s:o}, "
        "s:{s:b, s:b, s:I, s:I, s:I, s:I, s:b, s:f, s:f, s:I, s:f}}",
        "model", "type", "decoder-pipeline", "context_length", (json_int_t)w->context, "vocab_size",
        (json_int_t)d->n_vocab, "bos_token_id", phi_onnx_id_or_eos(d, d->bos_id), "eos_token_id",
        d->n_eos ? phi_onnx_eos_of(d) : json_array(), "pad_token_id",
        phi_onnx_id_or_eos(d, d->pad_id), "decoder", decoder_of(w), "search", "do_sample", 0,
        "early_stopping", 1, "max_length", (json_int_t)w->context, "min_length", (json_int_t)0,
        "num_beams", (json_int_t)1, "num_return_sequences", (json_int_t)1,
        "past_present_share_buffer", 1, "repetition_penalty", 1.0, "temperature", 1.0, "top_k",
        (json_int_t)50, "top_p", 1.0);
    return phi_onnx_write_json(&files, PHI_ONNX_CONFIG, root);
}
