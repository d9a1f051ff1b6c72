/*
 * Purpose: the engine as its users see it: the only header of engine/ that server includes.
 * Owns:    phi_engine owns the compute team and the scheduler; phi_model (reference-counted) owns a
 *          loaded model: weights, tokenizer, chat template, KV cache.
 * Threads: stated per function. [any] means any thread, any number at a time.
 * Errors:  files, tensors, fields and parameters are named in phi_err.
 * Limits:  config/limits.h.
 *
 * The engine knows nothing of HTTP or JSON answers, nor of settings files.
 */
#ifndef PHI_ENGINE_ENGINE_H
#define PHI_ENGINE_ENGINE_H

#include "base/buf.h"
#include "base/status.h"
#include "engine/bench/bench.h"
#include "engine/kernels/team.h"
#include "engine/quant/convert.h"
#include "engine/quant/quantize.h"
#include "engine/runtime/generation.h"
#include "engine/runtime/scheduler.h"
#include "engine/tokenizer/chat.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct phi_engine phi_engine;
typedef struct phi_model phi_model;

typedef struct phi_engine_options {
    unsigned threads;         /* 0: one for each core that this process may use */
    phi_team_pinning pinning; /* 0: a thread for each core stays on it, fewer threads are free */
    const char *isa;          /* NULL or "": the best for this CPU; else a kernel set's name */
    uint32_t running_max;     /* 0: 32 */
    uint32_t waiting_max;     /* 0: 256 */
    uint32_t batch_tokens;    /* 0: 256 */
    void (*wake)(void *user); /* events are waiting; from [engine]; NULL: the caller polls */
    void *wake_user;
} phi_engine_options;

phi_status phi_engine_create(const phi_engine_options *options, phi_engine **out_engine,
                             phi_err *err) PHI_MUST_CHECK;
/* All generations released and models unreferenced before. */
void phi_engine_destroy(phi_engine *engine);
const char *phi_engine_isa(const phi_engine *engine);
/* What multiplies the FP kinds in the background (quality reports), whichever was measured to be
 * the faster on this machine: "kernels" or "openblas". Inference always uses the kernels. The first
 * call takes some milliseconds. */
const char *phi_engine_background_floats(const phi_engine *engine);
unsigned phi_engine_threads(const phi_engine *engine);
void phi_engine_stats(phi_engine *engine, phi_scheduler_stats *out_stats);

/* ---- models ---- */

/* What serving a model takes, in bytes. */
typedef struct phi_model_plan {
    uint64_t weights_bytes; /* packed */
    uint64_t kv_bytes;
    uint64_t scratch_bytes;
    uint64_t available_bytes; /* before anything is loaded */
} phi_model_plan;

typedef struct phi_model_options {
    uint32_t n_ctx;     /* 0: the model's own; clipped to the model's and to what kv_tokens holds */
    uint32_t kv_tokens; /* KV cache for all sequences together; 0: max(n_ctx as given, 8192) */
    /* How the KV cache is kept: "f16", "f32" or "int8"; NULL, "" or "auto": f16, but f32 where all
     * weights are. */
    const char *kv_type;
    bool (*progress)(void *user, uint64_t bytes_done, uint64_t bytes_total); /* may be NULL */
    void *progress_user;
    /* Called before anything large is read or allocated. May be NULL. */
    void (*planned)(void *user, const phi_model_plan *plan);
    void *planned_user;
    /* Where the packed weights are kept: mapped when it is there and right, else made. NULL: they
     * are packed into memory each time, as when the file cannot be made. */
    const char *cache_path;
    const char *source_sha256; /* of the one file at `path`, hexadecimal; NULL: not known */
} phi_model_options;

typedef struct phi_model_info {
    const char *name;         /* as the file says; may be "" */
    const char *architecture; /* "phi3" */
    const char *format;       /* phi_checkpoint_format */
    uint32_t n_ctx;
    uint32_t n_vocab;
    uint32_t n_layer;
    uint64_t weights_bytes;
    uint64_t kv_bytes;
    const char *kv_type; /* "f16", "f32", "int8" */
    bool has_chat_template;
    const char *cache; /* "off", "mapped", "built" or "failed": where the weights came from */
    const char *cache_reason; /* why it was built, or why it could not be; else "" */
} phi_model_info;

/* [job] Blocks while it reads. Refuses with numbers what cannot fit in memory. One reference is
 * the caller's. */
phi_status phi_model_load(phi_engine *engine, const char *path, const phi_model_options *options,
                          phi_model **out_model, phi_err *err) PHI_MUST_CHECK;
/* [any] */
phi_model *phi_model_ref(phi_model *model);
/* [job] when it may be the last: waits for the model's sequences to end, which a sequence whose
 * events nobody reads does not: cancel or release such before. */
void phi_model_unref(phi_model *model);
void phi_model_info_get(const phi_model *model, phi_model_info *out_info);

/* [any] Text to ids. `special`: control tokens in the text are recognised (trusted text only). */
phi_status phi_model_tokenize(const phi_model *model, const char *text, size_t bytes, bool special,
                              bool add_bos, phi_tokens *out_tokens, phi_err *err) PHI_MUST_CHECK;
/* [any] An id outside the vocabulary is PHI_E_INVALID. */
phi_status phi_model_detokenize(const phi_model *model, const int32_t *ids, size_t count,
                                phi_buf *out_text, phi_err *err) PHI_MUST_CHECK;
/* [any] Messages to a prompt that opens the assistant's turn. */
phi_status phi_model_encode_chat(const phi_model *model, const phi_chat_message *messages,
                                 size_t count, phi_tokens *out_tokens, phi_err *err) PHI_MUST_CHECK;
/* [any] One token as text for logprobs: `out_bytes` gets its raw bytes. */
phi_status phi_model_token_bytes(const phi_model *model, int32_t id,
                                 phi_buf *out_bytes) PHI_MUST_CHECK;

/* ---- generation: see runtime/generation.h ---- */

/* [any] The generation keeps a reference to the model until its terminal event. */
phi_status phi_engine_generate(phi_engine *engine, phi_model *model,
                               const phi_generation_options *options,
                               phi_generation **out_generation, phi_err *err) PHI_MUST_CHECK;

/* ---- quantization: see quant/quantize.h ---- */

/* [job] */
/* See quant/convert.h. */
phi_status phi_engine_convert(phi_engine *engine, const phi_convert_options *options,
                              phi_convert_report *out_report, phi_err *err) PHI_MUST_CHECK;
phi_status phi_engine_quantize(phi_engine *engine, const phi_quantize_options *options,
                               phi_quality *out_quality, phi_err *err) PHI_MUST_CHECK;

/* ---- measuring: see bench/bench.h ---- */

/* [job] With the engine's team and kernel set. No model of the engine may be in use meanwhile, or
 * both are slower. */
phi_status phi_engine_bench(phi_engine *engine, const phi_bench_options *options,
                            phi_bench **out_bench, phi_err *err) PHI_MUST_CHECK;

/* ---- looking into files ---- */

/* [any] By its name: true for a file that holds a model's tensors beside its config.json. */
bool phi_source_file_is_weights(const char *name);
/* [any] By its name: NULL, or why a model cannot be read from the file, and what to use instead. */
const char *phi_source_file_refusal(const char *name);

typedef struct phi_inspection phi_inspection;

typedef struct phi_tensor_info {
    const char *name; /* canonical */
    char type[32];    /* "Q4_0"; "Q4_K+Q6_K" where the file stores parts of it differently */
    uint32_t rows;
    uint32_t cols;
    uint64_t bytes;
} phi_tensor_info;

/* [job] Opens headers only. */
phi_status phi_inspect_open(const char *path, phi_inspection **out_inspection,
                            phi_err *err) PHI_MUST_CHECK;
void phi_inspect_close(phi_inspection *inspection);
const phi_description *phi_inspect_description(const phi_inspection *inspection);
const char *phi_inspect_format(const phi_inspection *inspection);
uint64_t phi_inspect_bytes(const phi_inspection *inspection);
size_t phi_inspect_tensor_count(const phi_inspection *inspection);
void phi_inspect_tensor(const phi_inspection *inspection, size_t index, phi_tensor_info *out_info);

#endif
