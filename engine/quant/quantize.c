#include "engine/quant/quantize.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "engine/formats/checkpoint.h"
#include "engine/formats/gguf_config.h"
#include "engine/quant/eval_text.h"
#include "engine/quant/meter.h"
#include "engine/quant/pipeline.h"
#include "engine/quant/quality.h"
#include "engine/quant/recipe.h"
#include "engine/tokenizer/tokenizer.h"

typedef struct quantize_call {
    phi_compute compute; /* at background priority */
    const phi_quantize_options *options;
    phi_checkpoint *source;
    phi_tokenizer *tokenizer;
    phi_recipe recipe;
    phi_meter meter;
    phi_quality quality;
    char *partial_path; /* the whole file before it is approved; swept up after a crash */
    bool partial_exists;
} quantize_call;

static const char *type_name(const quantize_call *call, const char *tensor_name)
{
    const phi_tensor *tensor = phi_checkpoint_find(call->source, tensor_name);
    if (!tensor) {
        return NULL;
    }
    return phi_dtype_get(phi_recipe_choose(&call->recipe, tensor).dtype)->name;
}

static void fill_types(quantize_call *call)
{
    const char *matrix = type_name(call, "blk.0.ffn_up.weight");
    call->quality.matrix_type = matrix ? matrix : type_name(call, "blk.0.ffn_up_exps.weight");
    call->quality.embedding_type = type_name(call, "token_embd.weight");
    const char *head = type_name(call, "output.weight");
    call->quality.head_type = head ? head : call->quality.embedding_type;
}

/* GGUF's general.file_type: llama.cpp's enum llama_ftype. */
static uint32_t file_type(const quantize_call *call)
{
    static const struct {
        const char *name;
        uint32_t number;
    } FILE_TYPES[] = {
        {"F32", 0}, {"F16", 1}, {"Q4_0", 2}, {"Q4_1", 3}, {"Q8_0", 7}, {"BF16", 32},
    };
    if (call->recipe.mix) {
        return phi_mix_file_type(call->recipe.mix);
    }
    const phi_gguf *gguf = phi_checkpoint_gguf(call->source);
    uint32_t stated = 0;
    if (call->recipe.kept && gguf && phi_gguf_get_u32(gguf, "general.file_type", &stated)) {
        return stated;
    }
    for (size_t i = 0; i < sizeof FILE_TYPES / sizeof FILE_TYPES[0]; i++) {
        if (strcmp(call->quality.matrix_type, FILE_TYPES[i].name) == 0) {
            return FILE_TYPES[i].number;
        }
    }
    return 1;
}

static phi_status open_source(quantize_call *call, phi_err *err)
{
    const phi_quantize_options *options = call->options;
    phi_status status = phi_recipe_check_options(options, err);
    if (status != PHI_OK) {
        return status;
    }
    status = phi_checkpoint_open(options->source, &call->source, err);
    if (status != PHI_OK) {
        return status;
    }
    uint32_t tokens = options->eval_tokens_max ? options->eval_tokens_max : PHI_QUALITY_TOKENS;
    phi_meter_init(&call->meter, options, phi_checkpoint_bytes(call->source),
                   options->measure ? 2.0 * (double)tokens : 0.0);
    status = phi_meter_report(&call->meter, PHI_STAGE_READING, 0.0, "", err);
    if (status == PHI_OK) {
        status = phi_recipe_make(options, call->source, &call->recipe, err);
    }
    if (status == PHI_OK) {
        /* A model without its tokenizer could not be served. */
        status = phi_tokenizer_open(call->source, &call->tokenizer, err);
    }
    return status;
}

/* The folder that a path lies in (phi_free). */
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash) {
        return phi_strdup(".");
    }
    return slash == path ? phi_strdup("/") : phi_strndup(path, (size_t)(slash - path));
}

static bool is_same_file(const char *a, const char *b)
{
    struct stat left;
    struct stat right;
    return stat(a, &left) == 0 && stat(b, &right) == 0 && left.st_dev == right.st_dev &&
           left.st_ino == right.st_ino;
}

/* Before the work, not after it. */
static phi_status check_out(const char *source, const char *out_path, phi_err *err)
{
    size_t bytes = strlen(out_path);
    if (bytes == 0 || out_path[bytes - 1] == '/' || phi_file_is_dir(out_path)) {
        return phi_fail(err, PHI_E_INVALID,
                        "the result cannot be written to '%s', a directory; name the .gguf file "
                        "to write",
                        out_path);
    }
    if (source && is_same_file(source, out_path)) {
        return phi_fail(err, PHI_E_INVALID, "'%s' is the source; name another file to write",
                        out_path);
    }
    /* What takes its place replaces it: a device, a pipe or a socket is not for that. */
    struct stat info;
    if (stat(out_path, &info) == 0 && !S_ISREG(info.st_mode)) {
        return phi_fail(err, PHI_E_INVALID,
                        "the result cannot be written to '%s', which is no regular file; name the "
                        ".gguf file to write",
                        out_path);
    }
    char *dir = folder_of(out_path);
    phi_status status = PHI_OK;
    if (!phi_file_is_dir(dir)) {
        status = phi_fail(err, PHI_E_NOT_FOUND,
                          "the result cannot be written to '%s': there is no directory '%s'",
                          out_path, dir);
    } else if (access(dir, W_OK) != 0) {
        int errnum = errno;
        status = phi_fail(err, phi_status_of_errno(errnum),
                          "the result cannot be written to '%s': directory '%s': %s", out_path, dir,
                          strerror(errnum));
    }
    phi_free(dir);
    return status;
}

static phi_status put_metadata(quantize_call *call, const phi_description *description,
                               phi_gguf_writer *writer, phi_err *err)
{
    static const char quantized_by[] = "phid " PHID_VERSION;
    phi_checkpoint_put_description(writer, description);
    phi_gguf_put_u32(writer, "general.file_type", file_type(call));
    phi_gguf_put_u32(writer, "general.quantization_version", 2);
    phi_gguf_put_string(writer, "general.quantized_by", quantized_by, sizeof quantized_by - 1);
    if (!call->recipe.mix && !call->recipe.kept && call->recipe.precision == PHI_PRECISION_INT4) {
        phi_gguf_put_u32(writer, "phid.quantization.group_size", call->recipe.group);
    }
    return phi_tokenizer_put_gguf(call->tokenizer, description->n_vocab, writer, err);
}

static phi_status fill_file(quantize_call *call, phi_gguf_writer *writer, phi_err *err)
{
    phi_description description = *phi_checkpoint_description(call->source);
    if (call->options->name) {
        (void)snprintf(description.name, sizeof description.name, "%s", call->options->name);
    }
    phi_status status = put_metadata(call, &description, writer, err);
    if (status != PHI_OK) {
        return status;
    }
    phi_gguf_declare_rope_factors(writer, &description);
    phi_pipeline_declare(call->source, &call->recipe, writer);
    status = phi_gguf_write_header(writer, err);
    if (status == PHI_OK) {
        status = phi_gguf_write_rope_factors(writer, &description, err);
    }
    if (status == PHI_OK) {
        phi_pipeline_input input = {&call->compute, call->source, &call->recipe, writer,
                                    &call->meter};
        status = phi_pipeline_run(&input, &call->quality, err);
    }
    if (status == PHI_OK) {
        status = phi_meter_report(&call->meter, PHI_STAGE_WRITING, 1.0, "", err);
    }
    return status;
}

typedef struct commit_task {
    quantize_call *call;
    phi_gguf_writer *writer;
} commit_task;

/* Waits for the disk, which may take its time over a large file. */
static phi_status commit(void *arg, phi_err *err)
{
    commit_task *task = arg;
    phi_status status = phi_gguf_writer_commit(task->writer, err);
    task->call->partial_exists = status == PHI_OK;
    return status;
}

static phi_status write_file(quantize_call *call, phi_err *err)
{
    char id[32];
    phi_random_id("", id, sizeof id);
    call->partial_path = phi_strfmt("%s.tmp-%s", call->options->out_path, id);
    phi_gguf_writer *writer = NULL;
    phi_status status = phi_gguf_writer_create(call->partial_path, &writer, err);
    if (status != PHI_OK) {
        return status;
    }
    status = fill_file(call, writer, err);
    if (status != PHI_OK) {
        phi_gguf_writer_abort(writer);
        return status;
    }
    commit_task task = {call, writer};
    return phi_meter_wait(&call->meter, PHI_STAGE_WRITING, 1.0, commit, &task, err);
}

static phi_status measure_file(quantize_call *call, phi_err *err)
{
    const phi_quantize_options *options = call->options;
    phi_checkpoint *result = NULL;
    phi_status status = phi_checkpoint_open(call->partial_path, &result, err);
    if (status != PHI_OK) {
        return status;
    }
    char *built_in = options->eval_text ? NULL : phi_eval_text_make();
    phi_quality_input input = {
        .compute = &call->compute,
        .source = call->source,
        .result = result,
        .tokenizer = call->tokenizer,
        .text = built_in ? built_in : options->eval_text,
        .text_bytes = built_in ? strlen(built_in) : options->eval_text_bytes,
        .tokens_max = options->eval_tokens_max ? options->eval_tokens_max : PHI_QUALITY_TOKENS,
        .meter = &call->meter,
    };
    status = phi_quality_measure(&input, &call->quality, err);
    phi_free(built_in);
    phi_checkpoint_close(result);
    return status;
}

static phi_status examine_file(quantize_call *call, phi_err *err)
{
    const phi_quantize_options *options = call->options;
    call->quality.source_bytes = phi_checkpoint_bytes(call->source);
    phi_file file;
    phi_status status = phi_file_open(call->partial_path, &file, err);
    if (status != PHI_OK) {
        return status;
    }
    call->quality.result_bytes = file.bytes;
    phi_file_close(&file);
    return options->measure ? measure_file(call, err) : PHI_OK;
}

/* Gives the file its name: from here on it is visible. */
static phi_status publish_file(quantize_call *call, phi_err *err)
{
    const char *out_path = call->options->out_path;
    if (rename(call->partial_path, out_path) != 0) {
        int errnum = errno;
        return phi_fail(err, phi_status_of_errno(errnum), "cannot rename to '%s': %s", out_path,
                        strerror(errnum));
    }
    call->partial_exists = false;
    char *dir = folder_of(out_path);
    phi_status status = phi_file_sync_dir(dir, err);
    phi_free(dir);
    return status;
}

phi_status phi_quantize(const phi_compute *compute, const phi_quantize_options *options,
                        phi_quality *out_quality, phi_err *err)
{
    uint64_t start_ns = phi_clock_ns();
    quantize_call call = {.compute = *compute, .options = options};
    call.compute.priority = PHI_TEAM_BACKGROUND;
    phi_status status = check_out(options->source, options->out_path, err);
    if (status == PHI_OK) {
        status = open_source(&call, err);
    }
    if (status == PHI_OK) {
        fill_types(&call);
        status = write_file(&call, err);
    }
    if (status == PHI_OK) {
        status = examine_file(&call, err);
    }
    if (status == PHI_OK) {
        phi_quantize_stage last = options->measure ? PHI_STAGE_EVALUATING : PHI_STAGE_WRITING;
        status = phi_meter_report(&call.meter, last, 1.0, "", err);
    }
    if (status == PHI_OK) {
        status = publish_file(&call, err);
    }
    if (status == PHI_OK) {
        call.quality.seconds = (double)(phi_clock_ns() - start_ns) * 1e-9;
        *out_quality = call.quality;
    }
    if (call.partial_exists) {
        (void)unlink(call.partial_path);
    }
    phi_free(call.partial_path);
    phi_recipe_done(&call.recipe);
    phi_tokenizer_destroy(call.tokenizer);
    phi_checkpoint_close(call.source);
    return status;
}
