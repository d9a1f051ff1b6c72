#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "config/limits.h"
#include "engine/engine.h"
#include "server/cli.h"
#include "server/cmd_bench_report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* As many as there are precisions. */
#define MODELS_MAX 5U
#define PRECISION_BYTES 16U
#define CEILING_MB_MAX 65536U
#define PLAIN_LINE_NS 5000000000U

typedef struct arguments {
    phi_engine_options engine;
    phi_bench_options options;
    const char *json;
    size_t n_models;
    char precisions[MODELS_MAX][PRECISION_BYTES];
} arguments;

static void help(void)
{
    (void)printf("phid bench: how fast a model computes here, as a share of what the machine can.\n"
                 "\n"
                 "  phid bench model-int4.gguf\n"
                 "  phid bench --synthetic phi-3-mini --precision int4,int8 --batch 1,8\n"
                 "  phid bench model-int4.gguf --prompt 0 --context 0,8192 --json result.json\n"
                 "\n"
                 "  --synthetic NAME  no file, but the shape of phi-3-mini, phi-3.5-mini,\n"
                 "                    phi-3-medium, phi-4-mini, phi-4, phi-2 or phi-3.5-moe\n"
                 "                    with made-up weights\n"
                 "  --precision LIST  of a synthetic model: int4, int8, fp16, bf16, fp32;\n"
                 "                    default: int4\n"
                 "  --layers N        of a synthetic model: fewer than it has\n"
                 "  --prompt N        tokens of a prompt (prefill); 0: none; default: 512\n"
                 "  --generate N      steps of generation (decode); 0: none; default: 64\n"
                 "  --batch LIST      sequences that share a step of decode; default: 1,8\n"
                 "  --context LIST    tokens before the first step of decode; default: 0 and\n"
                 "                    4096, or what context and memory hold\n"
                 "  --batch-tokens N  tokens of a prompt in one step; default: 256, as served\n"
                 "  --repeat N        repetitions, of which the median counts; default: 3\n"
                 "  --kv-type TYPE    of keys and values: f16, f32, int8; default: as served\n"
                 "  --threads N       compute threads; default: one for each CPU\n"
                 "  --isa NAME        the kernel set; default: PHID_ISA, or the best\n"
                 "  --ceiling-mb N    memory whose reading is timed; default: twice the last\n"
                 "                    cache, at least 1024\n"
                 "  --json FILE       all of it as JSON too; -: to standard output, instead\n"
                 "\n"
                 "share is the time that the machine would need at its ceilings, divided by the\n"
                 "time taken; 'of' names the ceiling that binds. docs/performance.md says more.\n");
}

/* ---- arguments ---- */

/* Calls `add` for each part between commas. */
typedef phi_status (*list_fn)(arguments *out, const char *flag, const char *item, phi_err *err);

static phi_status parse_list(arguments *out, const char *flag, const char *text, list_fn add,
                             phi_err *err)
{
    while (text) {
        char item[PRECISION_BYTES];
        size_t bytes = strcspn(text, ",");
        (void)snprintf(item, sizeof item, "%.*s", (int)bytes, text);
        if (bytes >= sizeof item) {
            return phi_fail(err, PHI_E_INVALID, "%s has an item '%s...', which is too long", flag,
                            item);
        }
        phi_status status = add(out, flag, item, err);
        if (status) {
            return status;
        }
        text = text[bytes] == ',' ? text + bytes + 1 : NULL;
    }
    return PHI_OK;
}

static phi_status add_number(phi_bench_list *list, const char *flag, const char *item, uint64_t min,
                             uint64_t max, phi_err *err)
{
    uint64_t number = 0;
    phi_status status = phi_cli_number(flag, item, min, max, &number, err);
    if (status) {
        return status;
    }
    if (list->count == PHI_BENCH_LIST_MAX) {
        return phi_fail(err, PHI_E_INVALID, "%s has more than %u numbers", flag,
                        PHI_BENCH_LIST_MAX);
    }
    list->items[list->count++] = (uint32_t)number;
    return PHI_OK;
}

static phi_status add_batch(arguments *out, const char *flag, const char *item, phi_err *err)
{
    return add_number(&out->options.batches, flag, item, 1, PHI_LIMIT_BATCH_TOKENS, err);
}

static phi_status add_context(arguments *out, const char *flag, const char *item, phi_err *err)
{
    return add_number(&out->options.contexts, flag, item, 0, PHI_LIMIT_CONTEXT, err);
}

/* Whether there is such a one is the engine's to know. */
static phi_status add_precision(arguments *out, const char *flag, const char *item, phi_err *err)
{
    if (out->n_models == MODELS_MAX) {
        return phi_fail(err, PHI_E_INVALID, "%s has more than %u items", flag, MODELS_MAX);
    }
    memcpy(out->precisions[out->n_models++], item, PRECISION_BYTES);
    return PHI_OK;
}

/* For the engine 0 is the default; for a user it is none. */
static phi_status parse_length(const char *flag, const char *text, uint32_t *out_tokens,
                               phi_err *err)
{
    uint64_t number = 0;
    phi_status status = phi_cli_number(flag, text, 0, PHI_LIMIT_CONTEXT, &number, err);
    if (!status && text) {
        *out_tokens = number > 0 ? (uint32_t)number : PHI_BENCH_NONE;
    }
    return status;
}

typedef struct texts {
    const char *precision;
    const char *layers;
    const char *prompt;
    const char *generate;
    const char *batch;
    const char *context;
    const char *batch_tokens;
    const char *repeat;
    const char *threads;
    const char *ceiling_mb;
} texts;

static phi_status parse_numbers(const texts *t, arguments *out, phi_err *err)
{
    uint64_t layers = 0;
    uint64_t batch_tokens = 0;
    uint64_t repeat = 0;
    uint64_t threads = 0;
    uint64_t ceiling_mb = 0;
    const struct {
        const char *flag;
        const char *text;
        uint64_t max;
        uint64_t *number;
    } numbers[] = {
        {"--layers", t->layers, PHI_LIMIT_LAYERS, &layers},
        {"--batch-tokens", t->batch_tokens, PHI_LIMIT_BATCH_TOKENS, &batch_tokens},
        {"--repeat", t->repeat, PHI_BENCH_REPEAT_MAX, &repeat},
        {"--threads", t->threads, PHI_LIMIT_TEAM_THREADS, &threads},
        {"--ceiling-mb", t->ceiling_mb, CEILING_MB_MAX, &ceiling_mb},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        phi_status status = phi_cli_number(numbers[i].flag, numbers[i].text, 1, numbers[i].max,
                                           numbers[i].number, err);
        if (status) {
            return status;
        }
    }
    out->options.layers = (uint32_t)layers;
    out->options.batch_tokens = (uint32_t)batch_tokens;
    out->options.repeat = (uint32_t)repeat;
    out->options.ceiling_bytes = ceiling_mb * 1000000;
    out->engine.threads = (unsigned)threads;
    phi_status status = parse_length("--prompt", t->prompt, &out->options.prompt, err);
    status = status ? status : parse_length("--generate", t->generate, &out->options.generate, err);
    status = status ? status : parse_list(out, "--batch", t->batch, add_batch, err);
    status = status ? status : parse_list(out, "--context", t->context, add_context, err);
    return status ? status : parse_list(out, "--precision", t->precision, add_precision, err);
}

static phi_status parse(int argc, char *const *argv, arguments *out, phi_err *err)
{
    texts t = {0};
    const phi_cli_flag flags[] = {
        {"--synthetic", &out->options.synthetic, NULL},
        {"--precision", &t.precision, NULL},
        {"--layers", &t.layers, NULL},
        {"--prompt", &t.prompt, NULL},
        {"--generate", &t.generate, NULL},
        {"--batch", &t.batch, NULL},
        {"--context", &t.context, NULL},
        {"--batch-tokens", &t.batch_tokens, NULL},
        {"--repeat", &t.repeat, NULL},
        {"--kv-type", &out->options.kv_type, NULL},
        {"--threads", &t.threads, NULL},
        {"--isa", &out->engine.isa, NULL},
        {"--ceiling-mb", &t.ceiling_mb, NULL},
        {"--json", &out->json, NULL},
    };
    phi_cli_args args;
    phi_status status = phi_cli_parse(argc, argv, flags, sizeof flags / sizeof *flags, &args, err);
    status = status ? status : parse_numbers(&t, out, err);
    if (status) {
        return status;
    }
    if (args.count != (out->options.synthetic ? 0 : 1)) {
        return phi_fail(err, PHI_E_INVALID,
                        "name one model: phid bench FILE, or phid bench --synthetic phi-3-mini");
    }
    if (!out->options.synthetic && (t.precision || t.layers)) {
        return phi_fail(err, PHI_E_INVALID, "%s is for --synthetic; a file has its own",
                        t.precision ? "--precision" : "--layers");
    }
    out->options.path = out->options.synthetic ? NULL : args.items[0];
    out->engine.isa = out->engine.isa ? out->engine.isa : phi_cli_isa();
    if (out->n_models == 0) {
        out->n_models = 1;
        (void)snprintf(out->precisions[0], PRECISION_BYTES, "int4");
    }
    return PHI_OK;
}

/* ---- measuring ---- */

typedef struct shown {
    bool tty;
    uint64_t last_ns;
    char last[96];
} shown;

/* Where standard error is no terminal, a line now and then. */
static void show(shown *self, const char *what)
{
    uint64_t now_ns = phi_clock_ns();
    if (strcmp(self->last, what) == 0 || (!self->tty && now_ns - self->last_ns < PLAIN_LINE_NS)) {
        return;
    }
    self->last_ns = now_ns;
    (void)snprintf(self->last, sizeof self->last, "%s", what);
    if (self->tty) {
        (void)fprintf(stderr, "\r%.79s\033[K", what);
    } else {
        (void)fprintf(stderr, "%s\n", what);
    }
}

static bool on_progress(void *user, const char *what)
{
    show(user, what);
    return !phi_cli_interrupted();
}

static phi_status measure(const arguments *args, phi_bench *bench, json_t *models, phi_err *err)
{
    phi_bench_about about;
    phi_bench_report *report = phi_alloc_zero(1, sizeof *report);
    shown progress = {.tty = isatty(STDERR_FILENO) == 1, .last_ns = phi_clock_ns()};
    bool text = !args->json || strcmp(args->json, "-") != 0;
    phi_bench_about_get(bench, &about);
    if (text) {
        phi_bench_print_model(args->options.path, &about);
    }
    phi_status status = phi_bench_measure(bench, on_progress, &progress, report, err);
    if (progress.tty) {
        (void)fprintf(stderr, "\r\033[K");
    }
    if (!status) {
        if (text) {
            phi_bench_print_report(report);
        }
        (void)json_array_append_new(models, phi_bench_json(args->options.path, &about, report));
    }
    phi_free(report);
    return status;
}

/* `writer` NULL: standard output. */
static phi_status write_json(const phi_bench_about *about, json_t *models, phi_file_writer **writer,
                             phi_err *err)
{
    json_t *body =
        json_pack("{s:s, s:{s:s, s:s, s:i}, s:O}", "version", PHID_VERSION, "machine", "cpu",
                  about->cpu, "isa", about->isa, "threads", (int)about->threads, "models", models);
    char *text = body ? json_dumps(body, JSON_INDENT(2)) : NULL;
    phi_status status = PHI_OK;
    if (!text) {
        status = phi_fail(err, PHI_E_NO_MEMORY, "no memory for the JSON");
    } else if (!*writer) {
        (void)printf("%s\n", text);
    } else {
        status = phi_file_writer_append(*writer, text, strlen(text), err);
        status = status ? status : phi_file_writer_append(*writer, "\n", 1, err);
        if (!status) {
            status = phi_file_writer_commit(*writer, err);
            *writer = NULL;
        }
    }
    phi_free(text);
    json_decref(body);
    return status;
}

/* All are opened before the first is measured, so that what cannot be done is told at once. */
static phi_status open_all(arguments *args, phi_engine *engine, phi_bench *benches[MODELS_MAX],
                           phi_err *err)
{
    phi_status status = PHI_OK;
    for (size_t i = 0; !status && i < args->n_models; i++) {
        args->options.precision = args->options.synthetic ? args->precisions[i] : NULL;
        status = phi_engine_bench(engine, &args->options, &benches[i], err);
    }
    return status;
}

static phi_status bench(arguments *args, phi_err *err)
{
    phi_engine *engine = NULL;
    phi_bench *benches[MODELS_MAX] = {NULL};
    phi_bench_about about;
    phi_file_writer *writer = NULL;
    json_t *models = json_array();
    bool to_file = args->json && strcmp(args->json, "-") != 0;
    phi_status status = phi_engine_create(&args->engine, &engine, err);
    status = status ? status : open_all(args, engine, benches, err);
    if (!status && to_file) {
        status = phi_file_writer_create(args->json, &writer, err);
    }
    if (!status) {
        phi_bench_about_get(benches[0], &about);
        if (!args->json || to_file) {
            phi_bench_print_machine(&about);
        }
    }
    for (size_t i = 0; !status && i < args->n_models; i++) {
        if (i > 0 && (!args->json || to_file)) {
            (void)printf("\n");
        }
        status = measure(args, benches[i], models, err);
    }
    if (!status && args->json) {
        status = write_json(&about, models, &writer, err);
    }
    phi_file_writer_abort(writer);
    json_decref(models);
    for (size_t i = 0; i < args->n_models; i++) {
        phi_bench_close(benches[i]);
    }
    phi_engine_destroy(engine);
    return status;
}

static int run(int argc, char *const *argv)
{
    arguments args = {0};
    phi_err err = {0};
    if (parse(argc, argv, &args, &err)) {
        return phi_cli_fail("bench", &err, PHI_CLI_USAGE);
    }
    phi_status status = phi_cli_catch_signals(&err);
    status = status ? status : bench(&args, &err);
    if (status == PHI_E_CANCELLED && phi_cli_interrupted()) {
        return PHI_CLI_INTERRUPTED;
    }
    if (status) {
        return phi_cli_fail("bench", &err,
                            status == PHI_E_INVALID ? PHI_CLI_USAGE : PHI_CLI_FAILED);
    }
    return PHI_CLI_OK;
}

const phi_command phi_cmd_bench = {"bench", "measure a model's speed against the machine's", run,
                                   help};
