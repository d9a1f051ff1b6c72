/* phid convert: a model in the format of another ecosystem, of each or of GGUF. */
#include "base/clock.h"
#include "base/file.h"
#include "engine/engine.h"
#include "server/cli.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Between two lines of progress: on a terminal, and elsewhere. */
#define TTY_LINE_NS 200000000U
#define PLAIN_LINE_NS 5000000000U

typedef struct shown {
    bool tty;
    uint64_t started_ns;
    uint64_t last_ns;
} shown;

typedef struct arguments {
    const char *format;
    const char *precision;
    const char *type;
    const char *group_size;
    const char *threads;
    const char *provider;
    const char *context_length;
    bool asymmetric;
    bool json;
    phi_cli_args args;
} arguments;

/* What is to be done: GGUF is written by the same code as phid quantize's. */
typedef struct request {
    bool is_gguf;
    phi_convert_options folder;
    phi_quantize_options gguf;
} request;

static void help(void)
{
    (void)printf(
        "phid convert: a model in the format of another ecosystem.\n"
        "\n"
        "  phid convert SRC OUT --format onnx\n"
        "  phid convert SRC OUT --format openvino --precision int4 --group-size 64\n"
        "  phid convert SRC OUT.gguf --format gguf\n"
        "\n"
        "SRC is any folder or .gguf that phid quantize reads; OUT is the folder to write,\n"
        "new or empty, or the .gguf. Without a precision each matrix keeps its own: codes\n"
        "go over as they are where the format can hold them, and the report says where it\n"
        "cannot.\n"
        "\n"
        "  --format F        onnx: for ONNX Runtime GenAI\n"
        "                    qnn: for ONNX Runtime GenAI on Qualcomm's NPUs: int8 weights,\n"
        "                    16-bit activations in measured ranges, static shapes\n"
        "                    openvino: for OpenVINO GenAI, tokenizer models included\n"
        "                    safetensors: for transformers, in fp16, bf16 or fp32\n"
        "                    mlx: for mlx-lm\n"
        "                    gptq, compressed-tensors: for transformers, and for vLLM,\n"
        "                    which takes groups of 32 or 128 and rows, and zero points in\n"
        "                    compressed-tensors only; codes in the layers, embedding and\n"
        "                    head as floats\n"
        "                    gguf: for llama.cpp, and for phid itself\n"
        "  --precision P     int4, int8, fp16 or fp32\n"
        "  --type T          gguf, in the place of a precision: as phid quantize has it\n"
        "  --provider P      onnx: who runs it: cpu (default), or cuda, where all that is\n"
        "                    computed is fp16\n"
        "  --context-length N  qnn: tokens that its graphs are made for, a multiple of 64;\n"
        "                    default: the model's, 4096 at most\n"
        "  --group-size N    INT4, INT8: weights that share a scale: 16, 32 (default), 64,\n"
        "                    128 or 256; mlx: 32 to 128; openvino, gptq and\n"
        "                    compressed-tensors: also -1, the row; gguf: INT4 only, 32 to 128\n"
        "  --asymmetric      INT4, INT8: groups have a zero point: larger, more exact;\n"
        "                    gguf: INT4 only; mlx always has them\n"
        "  --threads N       compute threads; default: one for each core\n"
        "  --json            the report as JSON\n"
        "\n"
        "Progress goes to standard error, the report to standard output.\n");
}

static bool show(shown *self, double fraction)
{
    uint64_t now_ns = phi_clock_ns();
    if (now_ns - self->last_ns >= (self->tty ? TTY_LINE_NS : PLAIN_LINE_NS)) {
        double share = 100.0 * fraction;
        self->last_ns = now_ns;
        (void)fprintf(stderr, self->tty ? "\r%3.0f%% written, %.0f s\033[K" : "%3.0f%% %6.1f s\n",
                      share, (double)(now_ns - self->started_ns) / 1e9);
    }
    return !phi_cli_interrupted();
}

static bool on_folder_progress(void *user, uint64_t bytes_done, uint64_t bytes_total)
{
    return show(user, bytes_total > 0 ? (double)bytes_done / (double)bytes_total : 0.0);
}

static bool on_gguf_progress(void *user, const phi_quantize_progress *progress)
{
    return show(user, progress->fraction);
}

static phi_status take_options(const arguments *args, uint32_t group, request *out, phi_err *err)
{
    phi_precision precision = PHI_PRECISION_INT4;
    if (args->args.count != 2) {
        return phi_fail(err, PHI_E_INVALID,
                        "name a source and a result: phid convert SRC OUT --format F");
    }
    out->is_gguf = args->format && strcmp(args->format, "gguf") == 0;
    if (!args->format ||
        (!out->is_gguf && !phi_convert_format_parse(args->format, &out->folder.format))) {
        return phi_fail(err, PHI_E_INVALID,
                        "--format is %s%.40s%s; it must be onnx, qnn, openvino, safetensors, mlx, "
                        "gptq, compressed-tensors or gguf",
                        args->format ? "'" : "missing", args->format ? args->format : "",
                        args->format ? "'" : "");
    }
    if (args->provider && (out->is_gguf || out->folder.format != PHI_CONVERT_ONNX)) {
        return phi_fail(err, PHI_E_INVALID, "--provider applies to --format onnx only");
    }
    if (args->provider && !phi_onnx_provider_parse(args->provider, &out->folder.provider)) {
        return phi_fail(err, PHI_E_INVALID, "--provider is '%.40s'; it must be cpu or cuda",
                        args->provider);
    }
    if (args->context_length && (out->is_gguf || out->folder.format != PHI_CONVERT_QNN)) {
        return phi_fail(err, PHI_E_INVALID, "--context-length applies to --format qnn only");
    }
    if (args->precision && !phi_precision_parse(args->precision, &precision)) {
        return phi_fail(err, PHI_E_INVALID,
                        "--precision is '%.40s'; it must be int4, int8, fp16 or fp32",
                        args->precision);
    }
    if (args->type && (!out->is_gguf || args->precision)) {
        return phi_fail(err, PHI_E_INVALID, "--type applies to --format gguf without --precision");
    }
    bool is_int4 = args->precision && precision == PHI_PRECISION_INT4;
    bool is_int8 = args->precision && precision == PHI_PRECISION_INT8;
    bool is_qnn = !out->is_gguf && out->folder.format == PHI_CONVERT_QNN;
    if (!(is_int4 || (is_int8 && !out->is_gguf && !is_qnn)) &&
        (args->group_size || args->asymmetric)) {
        const char *flag = args->group_size ? "--group-size" : "--asymmetric";
        return is_qnn ? phi_fail(err, PHI_E_INVALID,
                                 "%s does not apply to --format qnn, which has one scale a row "
                                 "and no zero points",
                                 flag)
                      : phi_fail(err, PHI_E_INVALID, "%s applies to --precision int4%s only", flag,
                                 out->is_gguf ? "" : " and int8");
    }
    if (out->is_gguf && group == PHI_GROUP_ROW) {
        return phi_fail(err, PHI_E_INVALID, "--group-size is -1; of gguf it must be 32, 64 or 128");
    }
    out->folder.source = args->args.items[0];
    out->folder.out_dir = args->args.items[1];
    out->folder.keep = !args->precision;
    out->folder.precision = precision;
    out->folder.group_size = group;
    out->folder.symmetric = !args->asymmetric;
    out->gguf = (phi_quantize_options){.source = args->args.items[0],
                                       .out_path = args->args.items[1],
                                       .keep = !args->precision && !args->type,
                                       .precision = precision,
                                       .type = args->type,
                                       .group_size = group,
                                       .symmetric = !args->asymmetric};
    return PHI_OK;
}

static phi_status parse(int argc, char *const *argv, arguments *out, uint64_t *threads,
                        request *wanted, phi_err *err)
{
    const phi_cli_flag flags[] = {
        {"--format", &out->format, NULL},
        {"--precision", &out->precision, NULL},
        {"--group-size", &out->group_size, NULL},
        {"--threads", &out->threads, NULL},
        {"--asymmetric", NULL, &out->asymmetric},
        {"--json", NULL, &out->json},
        {"--type", &out->type, NULL},
        {"--provider", &out->provider, NULL},
        {"--context-length", &out->context_length, NULL},
    };
    uint64_t group = 32;
    uint64_t context = 0;
    phi_status status =
        phi_cli_parse(argc, argv, flags, sizeof flags / sizeof *flags, &out->args, err);
    const bool is_row = out->group_size && strcmp(out->group_size, "-1") == 0;
    status = status || is_row
                 ? status
                 : phi_cli_number("--group-size", out->group_size, 16, 256, &group, err);
    status = status ? status
                    : phi_cli_number("--context-length", out->context_length, 1, UINT32_MAX,
                                     &context, err);
    wanted->folder.context_length = (uint32_t)context;
    status =
        status ? status
               : phi_cli_number("--threads", out->threads, 1, PHI_LIMIT_TEAM_THREADS, threads, err);
    return status ? status
                  : take_options(out, is_row ? PHI_GROUP_ROW : (uint32_t)group, wanted, err);
}

static const char *format_of(const request *wanted)
{
    return wanted->is_gguf ? "gguf" : phi_convert_format_name(wanted->folder.format);
}

static void report(const request *wanted, const phi_convert_report *r, bool json)
{
    const char *out = wanted->folder.out_dir;
    if (json) {
        json_t *body = json_pack(
            "{s:s, s:s, s:i, s:i, s:i, s:i, s:f, s:{s:s, s:f}, s:f}", "out", out, "format",
            format_of(wanted), "matrices", (int)r->matrices, "exact", (int)r->exact, "rescaled",
            (int)r->rescaled, "requantized", (int)r->requantized, "weight_rmse", r->weight_rmse,
            "worst_tensor", "name", r->worst_tensor, "rmse", r->worst_rmse, "seconds", r->seconds);
        (void)json_dumpf(body, stdout, JSON_INDENT(2));
        (void)printf("\n");
        json_decref(body);
        return;
    }
    (void)printf("%s: %s, %" PRIu32 " matrices, %" PRIu32 " exactly as they were, %" PRIu32
                 " with scales rounded to fp16, %" PRIu32 " coded anew, %" PRIu32
                 " rounded to fp16, %.1f s\n",
                 out, format_of(wanted), r->matrices, r->exact, r->rescaled, r->requantized,
                 r->matrices - r->exact - r->rescaled - r->requantized, r->seconds);
    if (r->requantized + r->rescaled > 0) {
        (void)printf("weights that are not exact: relative error %.4g; largest %.4g in %s\n",
                     r->weight_rmse, r->worst_rmse, r->worst_tensor);
    }
}

/* A file that is there stays, as a folder does. */
static phi_status write_gguf(phi_engine *engine, const phi_quantize_options *options,
                             phi_convert_report *out_report, phi_err *err)
{
    phi_quality quality = {0};
    if (phi_file_exists(options->out_path)) {
        return phi_fail(err, PHI_E_INVALID,
                        "%s is there already; name a file that does not exist yet",
                        options->out_path);
    }
    phi_status status = phi_engine_quantize(engine, options, &quality, err);
    if (!status) {
        *out_report = (phi_convert_report){.matrices = quality.matrices,
                                           .exact = quality.exact,
                                           .rescaled = quality.rescaled,
                                           .requantized = quality.coded,
                                           .weight_rmse = quality.weight_rmse,
                                           .worst_rmse = quality.worst_rmse,
                                           .seconds = quality.seconds};
        (void)snprintf(out_report->worst_tensor, sizeof out_report->worst_tensor, "%s",
                       quality.worst_tensor);
    }
    return status;
}

static phi_status convert(unsigned threads, const request *wanted, phi_convert_report *out_report,
                          phi_err *err)
{
    phi_engine *engine = NULL;
    phi_engine_options engine_options = {.threads = threads, .isa = phi_cli_isa()};
    phi_status status = phi_engine_create(&engine_options, &engine, err);
    if (!status) {
        status = wanted->is_gguf ? write_gguf(engine, &wanted->gguf, out_report, err)
                                 : phi_engine_convert(engine, &wanted->folder, out_report, err);
        phi_engine_destroy(engine);
    }
    return status;
}

static int run(int argc, char *const *argv)
{
    arguments args = {0};
    request wanted = {0};
    phi_convert_report result = {0};
    phi_err err = {0};
    uint64_t threads = 0;
    if (parse(argc, argv, &args, &threads, &wanted, &err)) {
        return phi_cli_fail("convert", &err, PHI_CLI_USAGE);
    }
    shown progress = {.tty = isatty(STDERR_FILENO) == 1, .started_ns = phi_clock_ns()};
    progress.last_ns = progress.started_ns;
    wanted.folder.progress = on_folder_progress;
    wanted.folder.progress_user = &progress;
    wanted.gguf.progress = on_gguf_progress;
    wanted.gguf.progress_user = &progress;
    phi_status status = phi_cli_catch_signals(&err);
    status = status ? status : convert((unsigned)threads, &wanted, &result, &err);
    if (progress.tty) {
        (void)fputs("\r\033[K", stderr);
    }
    if (status == PHI_E_CANCELLED && phi_cli_interrupted()) {
        (void)fputs("phid convert: interrupted; nothing was written\n", stderr);
        return PHI_CLI_INTERRUPTED;
    }
    if (status) {
        return phi_cli_fail("convert", &err, PHI_CLI_FAILED);
    }
    report(&wanted, &result, args.json);
    return PHI_CLI_OK;
}

const phi_command phi_cmd_convert = {"convert", "write another ecosystem's format", run, help};
