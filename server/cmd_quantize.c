#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "config/limits.h"
#include "engine/engine.h"
#include "server/cli.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BAR_CELLS 30
#define COLUMNS_DEFAULT 80
#define PLAIN_LINE_NS 5000000000U
#define TTY_LINE_NS 100000000U

typedef struct shown {
    bool tty;
    bool quiet;
    uint64_t started_ns;
    uint64_t last_ns;
    phi_quantize_stage last_stage;
} shown;

static void help(void)
{
    (void)printf("phid quantize: makes a GGUF of another precision and measures what that costs.\n"
                 "\n"
                 "  phid quantize SRC --precision int4 --out model-int4.gguf\n"
                 "  phid quantize SRC --type q4_k_m --out model-q4_k_m.gguf\n"
                 "\n"
                 "SRC is a folder with a Hugging Face checkpoint (config.json, tokenizer.json and\n"
                 "safetensors files or pytorch_model.bin), with a model of ONNX Runtime GenAI or\n"
                 "of OpenVINO, or a .gguf file.\n"
                 "\n"
                 "  --precision P     int4, int8, fp16 or fp32\n"
                 "  --type T          instead: a GGUF type or llama.cpp's mix of that name:\n"
                 "                    q4_0, q4_1, q5_0, q5_1, q8_0, iq4_nl, q4_k_s, q4_k_m,\n"
                 "                    q5_k_s, q5_k_m or q6_k\n"
                 "  --out FILE        the GGUF to write; it appears whole or not at all\n"
                 "  --group-size N    INT4: weights that share a scale: 32 (default), 64 or 128\n"
                 "  --asymmetric      INT4: groups have an offset too: larger, more exact\n"
                 "  --eval-text FILE  what quality is measured on; default: a built-in text\n"
                 "  --no-quality      do not measure\n"
                 "  --threads N       compute threads; default: one for each core\n"
                 "  --json            the report as JSON\n"
                 "\n"
                 "Progress goes to standard error, the report to standard output.\n");
}

/* A line that reaches the terminal's last column would wrap, and the next one not replace it. */
static int line_columns_max(void)
{
    struct winsize size = {0};
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col < 2) {
        return COLUMNS_DEFAULT - 1;
    }
    return size.ws_col - 1;
}

static void show_line(const shown *self, const phi_quantize_progress *progress)
{
    double elapsed_s = (double)(phi_clock_ns() - self->started_ns) / 1e9;
    char left[40] = "";
    if (progress->fraction > 0.01) {
        (void)snprintf(left, sizeof left, ", about %.0f s left",
                       elapsed_s * (1 - progress->fraction) / progress->fraction);
    }
    const char *stage = phi_quantize_stage_name(progress->stage);
    if (!self->tty) {
        (void)fprintf(stderr, "%3.0f%% %-10s %6.1f s%s  %s\n", 100 * progress->fraction, stage,
                      elapsed_s, left, progress->tensor);
        return;
    }
    char bar[BAR_CELLS + 1];
    for (int i = 0; i < BAR_CELLS; i++) {
        bar[i] = (double)i < progress->fraction * BAR_CELLS ? '#' : '.';
    }
    bar[BAR_CELLS] = '\0';
    char line[160];
    (void)snprintf(line, sizeof line, "[%s] %3.0f%% %s%s  %.40s", bar, 100 * progress->fraction,
                   stage, left, progress->tensor);
    (void)fprintf(stderr, "\r%.*s\033[K", line_columns_max(), line);
}

static bool on_progress(void *user, const phi_quantize_progress *progress)
{
    shown *self = user;
    uint64_t now_ns = phi_clock_ns();
    uint64_t pause_ns = self->tty ? TTY_LINE_NS : PLAIN_LINE_NS;
    if (!self->quiet &&
        (now_ns - self->last_ns >= pause_ns || progress->stage != self->last_stage)) {
        self->last_ns = now_ns;
        self->last_stage = progress->stage;
        show_line(self, progress);
    }
    return !phi_cli_interrupted();
}

static json_t *quality_json(const phi_quality *quality)
{
    return json_pack("{s:{s:f, s:f}, s:{s:f, s:f}, s:f, s:i}", "perplexity", "source",
                     quality->perplexity_source, "result", quality->perplexity_result,
                     "kl_divergence", "mean", quality->kl_mean, "p99", quality->kl_p99,
                     "top1_agreement", quality->top1_agreement, "eval_tokens",
                     (int)quality->eval_tokens);
}

/* What was asked for. */
static const char *wanted_name(const phi_quantize_options *options)
{
    return options->type ? options->type : phi_precision_name(options->precision);
}

static void report_json(const phi_quantize_options *options, const phi_quality *quality)
{
    json_t *body = json_pack(
        "{s:s, s:s, s:I, s:I, s:i, s:i, s:f, s:{s:s, s:f}, s:{s:s, s:s, s:s}, s:f, s:o}", "out",
        options->out_path, options->type ? "type" : "precision", wanted_name(options),
        "source_bytes", (json_int_t)quality->source_bytes, "result_bytes",
        (json_int_t)quality->result_bytes, "tensors", (int)quality->tensors, "tensors_quantized",
        (int)quality->tensors_quantized, "weight_rmse", quality->weight_rmse, "worst_tensor",
        "name", quality->worst_tensor, "rmse", quality->worst_rmse, "types", "matrices",
        quality->matrix_type ? quality->matrix_type : "", "embedding",
        quality->embedding_type ? quality->embedding_type : "", "head",
        quality->head_type ? quality->head_type : "", "seconds", quality->seconds, "quality",
        quality->measured ? quality_json(quality) : json_null());
    char *text = body ? json_dumps(body, JSON_INDENT(2)) : NULL;
    (void)printf("%s\n", text ? text : "{}");
    phi_free(text);
    json_decref(body);
}

static void report_text(const phi_quantize_options *options, const phi_quality *quality)
{
    (void)printf("%s: %s, %.1f MiB (source %.1f MiB), %" PRIu32 " tensors, %" PRIu32
                 " quantized, %.1f s\n",
                 options->out_path, wanted_name(options), (double)quality->result_bytes / 1048576,
                 (double)quality->source_bytes / 1048576, quality->tensors,
                 quality->tensors_quantized, quality->seconds);
    (void)printf("types: matrices %s, embedding %s, head %s\n",
                 quality->matrix_type ? quality->matrix_type : "-",
                 quality->embedding_type ? quality->embedding_type : "-",
                 quality->head_type ? quality->head_type : "-");
    if (quality->tensors_quantized > 0) {
        (void)printf("weights: relative error %.4f; largest %.4f in %s\n", quality->weight_rmse,
                     quality->worst_rmse, quality->worst_tensor);
    }
    if (quality->measured) {
        (void)printf("quality over %" PRIu32 " tokens: perplexity %.4f (source %.4f, %+.2f%%), "
                     "KL divergence mean %.5f, 99th percentile %.5f, same top token %.2f%%\n",
                     quality->eval_tokens, quality->perplexity_result, quality->perplexity_source,
                     100 * (quality->perplexity_result / quality->perplexity_source - 1),
                     quality->kl_mean, quality->kl_p99, 100 * quality->top1_agreement);
    }
}

typedef struct arguments {
    const char *precision;
    const char *type;
    const char *out;
    const char *group_size;
    const char *eval_text;
    const char *threads;
    bool asymmetric;
    bool no_quality;
    bool json;
    phi_cli_args args;
} arguments;

static phi_status parse(int argc, char *const *argv, arguments *out, uint64_t *threads,
                        phi_quantize_options *options, phi_err *err)
{
    const phi_cli_flag flags[] = {
        {"--precision", &out->precision, NULL},
        {"--out", &out->out, NULL},
        {"--group-size", &out->group_size, NULL},
        {"--eval-text", &out->eval_text, NULL},
        {"--threads", &out->threads, NULL},
        {"--asymmetric", NULL, &out->asymmetric},
        {"--no-quality", NULL, &out->no_quality},
        {"--json", NULL, &out->json},
        {"--type", &out->type, NULL},
    };
    uint64_t group = 32;
    phi_status status =
        phi_cli_parse(argc, argv, flags, sizeof flags / sizeof *flags, &out->args, err);
    status =
        status ? status : phi_cli_number("--group-size", out->group_size, 32, 128, &group, err);
    status =
        status ? status
               : phi_cli_number("--threads", out->threads, 1, PHI_LIMIT_TEAM_THREADS, threads, err);
    if (status) {
        return status;
    }
    if (out->args.count != 1) {
        return phi_fail(err, PHI_E_INVALID,
                        "name one source: phid quantize SRC --precision P "
                        "--out FILE");
    }
    if (!out->out) {
        return phi_fail(err, PHI_E_INVALID, "--out is missing");
    }
    if (!out->precision == !out->type) {
        return phi_fail(err, PHI_E_INVALID, "%s",
                        out->type ? "--precision and --type exclude each other; give one"
                                  : "--precision is missing, or --type");
    }
    if (out->precision && !phi_precision_parse(out->precision, &options->precision)) {
        return phi_fail(err, PHI_E_INVALID,
                        "--precision is '%.40s'; it must be int4, int8, fp16 or fp32",
                        out->precision);
    }
    if (group != 32 && group != 64 && group != 128) {
        return phi_fail(err, PHI_E_INVALID, "--group-size is %" PRIu64 "; it must be 32, 64 or 128",
                        group);
    }
    bool int4 = out->precision && options->precision == PHI_PRECISION_INT4;
    if (!int4 && (out->group_size || out->asymmetric)) {
        return phi_fail(err, PHI_E_INVALID, "%s applies to int4 only; leave it out for %s",
                        out->group_size ? "--group-size" : "--asymmetric",
                        out->type ? out->type : out->precision);
    }
    options->type = out->type;
    options->source = out->args.items[0];
    options->out_path = out->out;
    options->group_size = (uint32_t)group;
    options->symmetric = !out->asymmetric;
    options->measure = !out->no_quality;
    return PHI_OK;
}

static phi_status quantize(unsigned threads, const phi_quantize_options *options,
                           phi_quality *out_quality, phi_err *err)
{
    phi_engine *engine = NULL;
    phi_engine_options engine_options = {.threads = threads, .isa = phi_cli_isa()};
    phi_status status = phi_engine_create(&engine_options, &engine, err);
    if (!status) {
        status = phi_engine_quantize(engine, options, out_quality, err);
        phi_engine_destroy(engine);
    }
    return status;
}

static int run(int argc, char *const *argv)
{
    arguments args = {0};
    phi_quantize_options options = {0};
    phi_err err = {0};
    uint64_t threads = 0;
    if (parse(argc, argv, &args, &threads, &options, &err)) {
        return phi_cli_fail("quantize", &err, PHI_CLI_USAGE);
    }
    char *text = NULL;
    phi_quality quality = {0};
    shown progress = {.tty = isatty(STDERR_FILENO) == 1, .started_ns = phi_clock_ns()};
    progress.last_ns = progress.started_ns;
    options.progress = on_progress;
    options.progress_user = &progress;
    phi_status status = phi_cli_catch_signals(&err);
    if (!status && args.eval_text) {
        status = phi_file_read_text(args.eval_text, PHI_LIMIT_TEXT_BYTES, &text,
                                    &options.eval_text_bytes, &err);
        options.eval_text = text;
    }
    status = status ? status : quantize((unsigned)threads, &options, &quality, &err);
    phi_free(text);
    if (progress.tty) {
        (void)fputs("\r\033[K", stderr);
    }
    if (status == PHI_E_CANCELLED && phi_cli_interrupted()) {
        (void)fputs("phid quantize: interrupted; nothing was written\n", stderr);
        return PHI_CLI_INTERRUPTED;
    }
    if (status) {
        return phi_cli_fail("quantize", &err, PHI_CLI_FAILED);
    }
    if (args.json) {
        report_json(&options, &quality);
    } else {
        report_text(&options, &quality);
    }
    return PHI_CLI_OK;
}

const phi_command phi_cmd_quantize = {"quantize", "make a GGUF of another precision", run, help};
