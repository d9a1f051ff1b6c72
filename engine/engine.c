/*
 * 1. A model's sequences never outlive it: the last phi_model_unref drains them before anything is
 *    freed, which is how a generation keeps its model.
 * 2. Everything of a model but its reference count is constant once phi_model_load has returned.
 */
#include "engine/engine.h"

#include "base/assert.h"
#include "base/mem.h"
#include "engine/formats/checkpoint.h"
#include "engine/formats/tensor_rows.h"
#include "engine/kernels/blas.h"
#include "engine/kernels/kernels.h"
#include "engine/kernels/team.h"
#include "engine/model/memplan.h"
#include "engine/model/weights.h"
#include "engine/tokenizer/tokenizer.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

enum {
    RUNNING_MAX_DEFAULT = 32,
    WAITING_MAX_DEFAULT = 256,
    BATCH_TOKENS_DEFAULT = 256,
    KV_TOKENS_DEFAULT = 8192,
};

struct phi_engine {
    const phi_kernels *kernels;
    phi_team *team;
    phi_scheduler *scheduler;
    uint32_t batch_tokens; /* rows of a step, and those of them that get logits */
    uint32_t logits_rows;
};

struct phi_model {
    atomic_uint refs;
    phi_engine *engine;
    phi_description description;
    const char *format; /* a constant of the formats library */
    phi_weights *weights;
    phi_tokenizer *tokenizer;
    phi_chat_template *chat; /* NULL: `chat_error` says why */
    phi_err chat_error;
    phi_served *served;
    uint64_t kv_bytes;
    phi_kv_type kv_type;
};

static const char *const kv_type_names[] = PHI_KV_TYPE_NAMES;
#define N_KV_TYPES (sizeof kv_type_names / sizeof kv_type_names[0])

/* ---- engine ---- */

phi_status phi_engine_create(const phi_engine_options *options, phi_engine **out_engine,
                             phi_err *err)
{
    phi_engine *engine = phi_alloc_zero(1, sizeof *engine);
    engine->batch_tokens = options->batch_tokens ? options->batch_tokens : BATCH_TOKENS_DEFAULT;
    const char *isa = options->isa && options->isa[0] ? options->isa : NULL;
    phi_scheduler_options scheduling = {
        .running_max = options->running_max ? options->running_max : RUNNING_MAX_DEFAULT,
        .waiting_max = options->waiting_max ? options->waiting_max : WAITING_MAX_DEFAULT,
        .batch_tokens = engine->batch_tokens,
        .wake = options->wake,
        .wake_user = options->wake_user,
    };
    engine->logits_rows = phi_served_logits_rows(scheduling.running_max, engine->batch_tokens);
    phi_status status = phi_kernels_select(isa, &engine->kernels, err);
    if (status) {
        goto fail;
    }
    status = phi_team_create(options->threads, &engine->team, err);
    if (status) {
        goto fail;
    }
    (void)phi_team_pin(engine->team, options->pinning);
    scheduling.compute = (phi_compute){engine->kernels, engine->team, PHI_TEAM_INFERENCE};
    status = phi_scheduler_create(&scheduling, &engine->scheduler, err);
    if (status) {
        goto fail;
    }
    *out_engine = engine;
    return PHI_OK;
fail:
    phi_engine_destroy(engine);
    return status;
}

void phi_engine_destroy(phi_engine *engine)
{
    if (engine) {
        phi_scheduler_destroy(engine->scheduler);
        phi_team_destroy(engine->team);
        phi_free(engine);
    }
}

const char *phi_engine_isa(const phi_engine *engine)
{
    return engine->kernels->name;
}

const char *phi_engine_background_floats(const phi_engine *engine)
{
    return phi_blas_is_faster(engine->kernels) ? "openblas" : "kernels";
}

unsigned phi_engine_threads(const phi_engine *engine)
{
    return phi_team_size(engine->team);
}

void phi_engine_stats(phi_engine *engine, phi_scheduler_stats *out_stats)
{
    phi_scheduler_stats_get(engine->scheduler, out_stats);
}

/* ---- loading a model ---- */

/* Keys and values in fp16 would cost more than the weights' own rounding only when nothing else
 * is rounded. */
static phi_kv_type kv_type_of(const phi_checkpoint *checkpoint)
{
    for (size_t i = 0; i < phi_checkpoint_count(checkpoint); i++) {
        const phi_tensor *tensor = phi_checkpoint_at(checkpoint, i);
        /* Codes have the dtype of what they stand for. */
        bool is_f32 = tensor->dtype == PHI_DTYPE_F32 && !tensor->piece_coded[0] &&
                      !phi_tensor_is_mixed(tensor);
        if (tensor->n_dims >= 2 && !is_f32) {
            return PHI_KV_F16;
        }
    }
    return PHI_KV_F32;
}

typedef struct stop_tokens {
    int32_t ids[PHI_LIMIT_STOP_TOKENS];
    size_t count;
} stop_tokens;

static void add_stop(stop_tokens *stops, const phi_model *model, int32_t id)
{
    if (id < 0 || (uint32_t)id >= model->description.n_vocab ||
        stops->count == PHI_LIMIT_STOP_TOKENS) {
        return;
    }
    for (size_t i = 0; i < stops->count; i++) {
        if (stops->ids[i] == id) {
            return;
        }
    }
    stops->ids[stops->count++] = id;
}

/* Files disagree about what ends an answer: the union of all that they say, and of what the chat
 * template ends an assistant's turn with. */
static void collect_stops(const phi_model *model, stop_tokens *out_stops)
{
    *out_stops = (stop_tokens){.count = 0};
    for (uint32_t i = 0; i < model->description.n_eos; i++) {
        add_stop(out_stops, model, model->description.eos_ids[i]);
    }
    add_stop(out_stops, model, phi_tokenizer_eos(model->tokenizer));
    if (model->chat) {
        add_stop(out_stops, model, phi_chat_end_of_turn(model->chat));
    }
    add_stop(out_stops, model, phi_tokenizer_find(model->tokenizer, "<|endoftext|>"));
}

static phi_status load_tokenizer(phi_model *model, const phi_checkpoint *checkpoint, phi_err *err)
{
    phi_status status = phi_tokenizer_open(checkpoint, &model->tokenizer, err);
    if (status) {
        return status;
    }
    uint32_t n_tokens = phi_tokenizer_vocab_size(model->tokenizer);
    if (n_tokens > model->description.n_vocab) {
        return phi_fail(err, PHI_E_FORMAT,
                        "the tokenizer has %" PRIu32 " tokens, the model's embedding only %" PRIu32,
                        n_tokens, model->description.n_vocab);
    }
    /* Without a template that works, completions still do: chat answers with the reason. */
    if (phi_chat_template_create(model->tokenizer, &model->chat, &model->chat_error)) {
        model->chat = NULL;
    }
    return PHI_OK;
}

typedef struct kv_size {
    uint32_t n_ctx;
    uint32_t tokens;
    phi_kv_type type;
} kv_size;

static phi_status choose_kv_type(const phi_checkpoint *checkpoint, const char *name,
                                 phi_kv_type *out_type, phi_err *err)
{
    if (!name || !name[0] || strcmp(name, "auto") == 0) {
        *out_type = kv_type_of(checkpoint);
        return PHI_OK;
    }
    for (size_t i = 0; i < N_KV_TYPES; i++) {
        if (strcmp(name, kv_type_names[i]) == 0) {
            *out_type = (phi_kv_type)i;
            return PHI_OK;
        }
    }
    return phi_fail_param(err, PHI_E_INVALID, "kv_type",
                          "kv_type must be auto, f16, f32 or int8, not '%s'", name);
}

static kv_size size_kv(const phi_checkpoint *checkpoint, const phi_model_options *options,
                       phi_kv_type type)
{
    const phi_description *d = phi_checkpoint_description(checkpoint);
    kv_size size = {.type = type, .tokens = options->kv_tokens};
    size.n_ctx = options->n_ctx && options->n_ctx < d->n_ctx ? options->n_ctx : d->n_ctx;
    if (size.tokens == 0) {
        uint32_t least = options->n_ctx ? size.n_ctx : 0;
        size.tokens = least > KV_TOKENS_DEFAULT ? least : KV_TOKENS_DEFAULT;
    }
    size.n_ctx = size.n_ctx < size.tokens ? size.n_ctx : size.tokens;
    return size;
}

static phi_status plan(const phi_engine *engine, const phi_checkpoint *checkpoint,
                       const kv_size *kv, const phi_model_options *options, phi_err *err)
{
    const phi_memplan_sizes sizes = {.kv_type = kv->type,
                                     .kv_tokens = kv->tokens,
                                     .n_tok_max = engine->batch_tokens,
                                     .n_logits_max = engine->logits_rows,
                                     .n_threads = phi_team_size(engine->team)};
    phi_memplan memory;
    phi_status status = phi_memplan_make(checkpoint, &sizes, &memory, err);
    if (!status && options->planned) {
        const phi_model_plan told = {.weights_bytes = memory.weights_bytes,
                                     .kv_bytes = memory.kv_bytes,
                                     .scratch_bytes = memory.scratch_bytes,
                                     .available_bytes = memory.available_bytes};
        options->planned(options->planned_user, &told);
    }
    return status;
}

static phi_status load_weights(phi_model *model, const phi_checkpoint *checkpoint,
                               const phi_model_options *options, phi_err *err)
{
    const phi_weights_options loading = {
        .run = {.team = model->engine->team,
                .progress = options->progress,
                .user = options->progress_user},
        .cache_path = options->cache_path,
        .source_sha256 = options->source_sha256,
    };
    return phi_weights_open(checkpoint, &loading, &model->weights, err);
}

static phi_status serve(phi_model *model, const kv_size *kv, phi_err *err)
{
    stop_tokens stops;
    collect_stops(model, &stops);
    const phi_served_options serving = {
        .weights = model->weights,
        .tokenizer = model->tokenizer,
        .stop_tokens = stops.ids,
        .n_stop_tokens = stops.count,
        .kv_type = kv->type,
        .kv_tokens = kv->tokens,
        .n_ctx = kv->n_ctx,
    };
    uint64_t pages = ((uint64_t)kv->tokens + PHI_KV_PAGE_TOKENS - 1) / PHI_KV_PAGE_TOKENS;
    model->kv_bytes = pages * phi_kv_page_bytes(&model->description, kv->type);
    return phi_served_add(model->engine->scheduler, &serving, &model->served, err);
}

static void destroy_model(phi_model *model)
{
    phi_served_remove(model->served);
    phi_chat_template_destroy(model->chat);
    phi_tokenizer_destroy(model->tokenizer);
    phi_weights_destroy(model->weights);
    phi_free(model);
}

phi_status phi_model_load(phi_engine *engine, const char *path, const phi_model_options *options,
                          phi_model **out_model, phi_err *err)
{
    static const phi_model_options defaults = {0};
    options = options ? options : &defaults;
    phi_checkpoint *checkpoint = NULL;
    kv_size kv;
    phi_model *model = phi_alloc_zero(1, sizeof *model);
    atomic_init(&model->refs, 1);
    model->engine = engine;
    phi_status status = phi_checkpoint_open(path, &checkpoint, err);
    if (status) {
        goto done;
    }
    model->description = *phi_checkpoint_description(checkpoint);
    model->format = phi_checkpoint_format(checkpoint);
    status = choose_kv_type(checkpoint, options->kv_type, &model->kv_type, err);
    if (status) {
        goto done;
    }
    kv = size_kv(checkpoint, options, model->kv_type);
    /* What is cheap and may fail comes before what takes time. */
    status = plan(engine, checkpoint, &kv, options, err);
    if (status) {
        goto done;
    }
    status = load_tokenizer(model, checkpoint, err);
    if (status) {
        goto done;
    }
    status = load_weights(model, checkpoint, options, err);
    if (status) {
        goto done;
    }
    status = serve(model, &kv, err);
done:
    phi_checkpoint_close(checkpoint);
    if (status) {
        destroy_model(model);
        return status;
    }
    *out_model = model;
    return PHI_OK;
}

phi_model *phi_model_ref(phi_model *model)
{
    /* Relaxed: who calls holds a reference already. */
    atomic_fetch_add_explicit(&model->refs, 1, memory_order_relaxed);
    return model;
}

void phi_model_unref(phi_model *model)
{
    /* acq_rel: the last one sees all that the others did before they let go. */
    if (model && atomic_fetch_sub_explicit(&model->refs, 1, memory_order_acq_rel) == 1) {
        phi_served_drain(model->served);
        destroy_model(model);
    }
}

void phi_model_info_get(const phi_model *model, phi_model_info *out_info)
{
    const phi_description *d = &model->description;
    *out_info = (phi_model_info){
        .name = d->name,
        .architecture = phi_arch_name(d->arch),
        .format = model->format,
        .n_ctx = phi_served_n_ctx(model->served),
        .n_vocab = d->n_vocab,
        .n_layer = d->n_layer,
        .weights_bytes = phi_weights_bytes(model->weights),
        .kv_bytes = model->kv_bytes,
        .kv_type = kv_type_names[model->kv_type],
        .has_chat_template = model->chat != NULL,
        .cache = phi_weights_cache_name(model->weights->cache),
        .cache_reason = model->weights->cache_reason,
    };
}

/* ---- text ---- */

phi_status phi_model_tokenize(const phi_model *model, const char *text, size_t bytes, bool special,
                              bool add_bos, phi_tokens *out_tokens, phi_err *err)
{
    const phi_encode_options options = {
        .mode = special ? PHI_PARSE_SPECIAL : PHI_PARSE_PLAIN,
        .add_bos = add_bos,
    };
    return phi_tokenizer_encode(model->tokenizer, text, bytes, &options, out_tokens, err);
}

static phi_status check_token(const phi_model *model, int32_t id, phi_err *err)
{
    if (id >= 0 && (uint32_t)id < model->description.n_vocab) {
        return PHI_OK;
    }
    return phi_fail_param(err, PHI_E_INVALID, "tokens",
                          "token %" PRId32 " is outside the vocabulary: ids are 0 to %" PRIu32, id,
                          model->description.n_vocab - 1);
}

phi_status phi_model_detokenize(const phi_model *model, const int32_t *ids, size_t count,
                                phi_buf *out_text, phi_err *err)
{
    for (size_t i = 0; i < count; i++) {
        phi_status status = check_token(model, ids[i], err);
        if (status) {
            return status;
        }
    }
    phi_status status = phi_tokenizer_decode(model->tokenizer, ids, count, false, out_text);
    if (status) {
        return phi_fail(err, status,
                        "the text of %zu tokens is longer than %zu bytes or than "
                        "memory allows",
                        count, out_text->max_bytes);
    }
    return PHI_OK;
}

phi_status phi_model_encode_chat(const phi_model *model, const phi_chat_message *messages,
                                 size_t count, phi_tokens *out_tokens, phi_err *err)
{
    if (!model->chat) {
        return phi_fail(err, PHI_E_UNSUPPORTED, "this model cannot chat: %s",
                        model->chat_error.message);
    }
    return phi_chat_encode(model->chat, messages, count, true, out_tokens, err);
}

phi_status phi_model_token_bytes(const phi_model *model, int32_t id, phi_buf *out_bytes)
{
    phi_status status = check_token(model, id, NULL);
    return status ? status : phi_tokenizer_token_bytes(model->tokenizer, id, out_bytes);
}

/* ---- work ---- */

phi_status phi_engine_generate(phi_engine *engine, phi_model *model,
                               const phi_generation_options *options,
                               phi_generation **out_generation, phi_err *err)
{
    PHI_ASSERT(model->engine == engine);
    return phi_scheduler_submit(engine->scheduler, model->served, options, out_generation, err);
}

phi_status phi_engine_quantize(phi_engine *engine, const phi_quantize_options *options,
                               phi_quality *out_quality, phi_err *err)
{
    const phi_compute compute = {engine->kernels, engine->team, PHI_TEAM_BACKGROUND};
    return phi_quantize(&compute, options, out_quality, err);
}

phi_status phi_engine_convert(phi_engine *engine, const phi_convert_options *options,
                              phi_convert_report *out_report, phi_err *err)
{
    const phi_compute compute = {engine->kernels, engine->team, PHI_TEAM_BACKGROUND};
    return phi_convert(&compute, options, out_report, err);
}

phi_status phi_engine_bench(phi_engine *engine, const phi_bench_options *options,
                            phi_bench **out_bench, phi_err *err)
{
    const phi_compute compute = {engine->kernels, engine->team, PHI_TEAM_INFERENCE};
    return phi_bench_open(&compute, options, out_bench, err);
}
